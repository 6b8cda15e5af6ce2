// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package restore

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/niodoo/niodoo_exporter/internal/config"
	"github.com/niodoo/niodoo_exporter/internal/promapi"
)

// errNoCollection says that Qdrant has no such collection.
var errNoCollection = errors.New("qdrant: no such collection")

// maxAnswer bounds an answer of Qdrant, in bytes.
const maxAnswer = 1 << 20

// qdrant is a server that runs.
type qdrant struct {
	base   *url.URL
	client *http.Client
	key    config.SecretFile
}

func newQdrant(cfg config.Qdrant) (*qdrant, error) {
	base, err := url.Parse(strings.TrimRight(cfg.URL, "/"))
	if err != nil {
		return nil, errors.New("qdrant: the url cannot be parsed") // its text may hold credentials
	}
	rt, err := promapi.Transport(cfg.HTTP)
	if err != nil {
		return nil, err
	}
	return &qdrant{base: base, client: &http.Client{Transport: rt}, key: cfg.APIKeyFile}, nil
}

func (q *qdrant) url() string { return q.base.Redacted() }

// ask sends a request and decodes the result of the answer.
func (q *qdrant) ask(ctx context.Context, method string, query url.Values, body io.Reader, length int64, contentType string, result any, elements ...string) error {
	u := q.base.JoinPath(elements...)
	u.RawQuery = query.Encode()
	what := "qdrant: " + method + " " + u.Path
	r, err := http.NewRequestWithContext(ctx, method, u.String(), body)
	if err != nil {
		return fmt.Errorf("%s: the request cannot be made", what)
	}
	r.ContentLength = length
	if contentType != "" {
		r.Header.Set("Content-Type", contentType)
	}
	key, err := q.key.Read()
	if err != nil {
		return err
	}
	if key.Reveal() != "" {
		r.Header.Set("api-key", key.Reveal())
	}
	res, err := q.client.Do(r)
	if err != nil {
		if ue, ok := errors.AsType[*url.Error](err); ok {
			err = ue.Err
		}
		return fmt.Errorf("%s: %w", what, err)
	}
	defer res.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	switch {
	case res.StatusCode == http.StatusNotFound:
		return fmt.Errorf("%s: %w", what, errNoCollection)
	case res.StatusCode != http.StatusOK:
		return fmt.Errorf("%s: %s: %.300s", what, res.Status, strings.TrimSpace(string(raw)))
	}
	answer := struct {
		Result any `json:"result"`
	}{result}
	if err := json.Unmarshal(raw, &answer); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

// points returns how many points a collection has.
func (q *qdrant) points(ctx context.Context, collection string) (int64, error) {
	var info struct {
		Points int64 `json:"points_count"`
	}
	err := q.ask(ctx, http.MethodGet, nil, nil, 0, "", &info, "collections", url.PathEscape(collection))
	return info.Points, err
}

// snapshot makes a snapshot of a collection on the server and returns its name.
func (q *qdrant) snapshot(ctx context.Context, collection string) (string, error) {
	var made struct {
		Name string `json:"name"`
	}
	err := q.ask(ctx, http.MethodPost, url.Values{"wait": {"true"}}, nil, 0, "", &made, "collections", url.PathEscape(collection), "snapshots")
	if err == nil && made.Name == "" {
		err = fmt.Errorf("qdrant: it does not say what the snapshot of %s is called", collection)
	}
	return made.Name, err
}

// upload makes a collection what it was in a snapshot. What it has is replaced.
func (q *qdrant) upload(ctx context.Context, collection, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	sum := sha256.New()
	size, err := io.Copy(sum, f)
	if err != nil {
		return err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	var head, tail bytes.Buffer
	form := multipart.NewWriter(&head)
	if _, err := form.CreateFormFile("snapshot", filepath.Base(path)); err != nil {
		return err
	}
	n := head.Len()
	if err := form.Close(); err != nil {
		return err
	}
	tail.Write(head.Bytes()[n:])
	head.Truncate(n)
	length := int64(head.Len()) + size + int64(tail.Len())
	var done bool
	query := url.Values{"priority": {"snapshot"}, "wait": {"true"}, "checksum": {hex.EncodeToString(sum.Sum(nil))}}
	err = q.ask(ctx, http.MethodPost, query, io.MultiReader(&head, f, &tail), length, form.FormDataContentType(), &done,
		"collections", url.PathEscape(collection), "snapshots", "upload")
	if err == nil && !done {
		err = fmt.Errorf("qdrant: it has not taken the snapshot of %s", collection)
	}
	return err
}
