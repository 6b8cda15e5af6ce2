// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package maintenance

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"

	promconfig "github.com/prometheus/common/config"

	"github.com/niodoo/niodoo_exporter/internal/config"
)

// maxDockerAnswer bounds an answer of the daemon, in bytes.
const maxDockerAnswer = 8 << 20

const composeProject = "com.docker.compose.project"

// docker asks the Docker Engine API in the daemon's own version.
type docker struct {
	base   string
	client *http.Client
}

func newDocker(cfg config.Docker) (docker, error) {
	u, err := url.Parse(cfg.Host)
	if err != nil {
		return docker{}, errors.New("docker.host cannot be parsed")
	}
	t := &http.Transport{DisableKeepAlives: true}
	d := docker{base: "http://docker", client: &http.Client{Transport: t,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}}
	if u.Scheme == "unix" {
		t.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", u.Path)
		}
		return d, nil
	}
	if u.Scheme == "tcp" {
		u.Scheme = "http"
	}
	if c := cfg.TLSConfig; c != (config.TLS{}) {
		u.Scheme = "https"
		t.TLSClientConfig, err = promconfig.NewTLSConfig(&promconfig.TLSConfig{CAFile: c.CAFile, CertFile: c.CertFile, KeyFile: c.KeyFile,
			ServerName: c.ServerName, InsecureSkipVerify: c.InsecureSkipVerify, MinVersion: promconfig.TLSVersion(tls.VersionTLS12)})
		if err != nil {
			return docker{}, fmt.Errorf("docker.tls_config: %w", err)
		}
	}
	d.base = strings.TrimRight(u.String(), "/")
	return d, nil
}

var (
	// errNoImage says that the daemon has no image of that name.
	errNoImage = errors.New("there is no such image any more")
	// errHidden says that a proxy before the daemon does not let us see it.
	errHidden = errors.New("not allowed (403)")
)

func (d docker) get(ctx context.Context, path string, into any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, d.base+path, nil)
	if err != nil {
		return err
	}
	resp, err := d.client.Do(req)
	if err != nil {
		return fmt.Errorf("docker: %w", err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxDockerAnswer))
	switch {
	case err != nil:
		return fmt.Errorf("docker: GET %s: %w", path, err)
	case resp.StatusCode == http.StatusForbidden:
		return fmt.Errorf("docker: GET %s: %w", path, errHidden)
	case resp.StatusCode == http.StatusNotFound && bytes.Contains(bytes.ToLower(raw), []byte("no such image")):
		return fmt.Errorf("docker: GET %s: %w", path, errNoImage)
	case resp.StatusCode != http.StatusOK:
		return fmt.Errorf("docker: GET %s: %s", path, resp.Status)
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
	d, err := newDocker(cfg.Docker)
	if err != nil {
		return nil, err
	}
	var containers []struct {
		Names   []string          `json:"Names"`
		Image   string            `json:"Image"`
		ImageID string            `json:"ImageID"`
		Labels  map[string]string `json:"Labels"`
	}
	if err := d.get(ctx, "/containers/json", &containers); err != nil {
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
		err := d.get(ctx, "/images/"+strings.ReplaceAll(url.PathEscape(c.Image), "%2F", "/")+"/json", &image)
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
