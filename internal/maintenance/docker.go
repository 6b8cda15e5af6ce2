// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package maintenance

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/niodoo/niodoo_exporter/internal/config"
	"github.com/niodoo/niodoo_exporter/internal/endpoint"
)

const composeProject = "com.docker.compose.project"

var (
	// errNoImage says that the daemon has no image of that name.
	errNoImage = errors.New("there is no such image any more")
	// errHidden says that a proxy before the daemon does not let us see it.
	errHidden = errors.New("not allowed (403)")
)

// askDocker reads an answer of the daemon's into a value.
func askDocker(ctx context.Context, e endpoint.Endpoint, path string, into any) error {
	raw, err := e.Do(ctx, http.MethodGet, path)
	if s, ok := errors.AsType[*endpoint.StatusError](err); ok {
		switch {
		case s.Code == http.StatusForbidden:
			err = fmt.Errorf("%s: %w", s.Request, errHidden)
		case s.Code == http.StatusNotFound && strings.Contains(strings.ToLower(s.Said), "no such image"):
			err = fmt.Errorf("%s: %w", s.Request, errNoImage)
		}
	}
	if err != nil {
		return fmt.Errorf("docker: %w", err)
	}
	if err := json.Unmarshal(raw, into); err != nil {
		return fmt.Errorf("docker: GET %s: %w", path, err)
	}
	return nil
}

// outdatedImages lists the containers that run another image than the one their
// tag names on this machine: it was pulled or built, and they were not made anew.
func outdatedImages(ctx context.Context, cfg *config.Config) ([]string, error) {
	if !cfg.Enabled("docker") {
		return nil, nil
	}
	d, err := endpoint.Docker(cfg.Docker)
	if err != nil {
		return nil, err
	}
	var containers []struct {
		Names   []string          `json:"Names"`
		Image   string            `json:"Image"`
		ImageID string            `json:"ImageID"`
		Labels  map[string]string `json:"Labels"`
	}
	if err := askDocker(ctx, d, "/containers/json", &containers); err != nil {
		return nil, err
	}
	var found []string
	for _, c := range containers {
		if cfg.Docker.Project != "" && c.Labels[composeProject] != cfg.Docker.Project || len(c.Names) == 0 {
			continue
		}
		name := strings.TrimPrefix(c.Names[0], "/")
		if c.Image == c.ImageID || strings.HasPrefix(c.ImageID, "sha256:"+c.Image) { // the tag has gone to another image
			found = append(found, fmt.Sprintf("%s runs an image that no tag names any more", name))
			continue
		}
		var image struct {
			ID string `json:"Id"`
		}
		err := askDocker(ctx, d, "/images/"+strings.ReplaceAll(url.PathEscape(c.Image), "%2F", "/")+"/json", &image)
		switch {
		case errors.Is(err, errNoImage):
			found = append(found, fmt.Sprintf("%s runs %s, which is not on this machine any more", name, c.Image))
		case err != nil:
			return nil, err
		case image.ID != c.ImageID:
			found = append(found, fmt.Sprintf("%s runs an older image than %s now is; make the container anew", name, c.Image))
		}
	}
	slices.Sort(found)
	return found, nil
}
