// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

// Package promapi asks Prometheus and Alertmanager over their HTTP APIs, with
// the credentials of the configuration's section.
package promapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/prometheus/client_golang/api"
	v1 "github.com/prometheus/client_golang/api/prometheus/v1"
	"github.com/prometheus/common/model"

	"github.com/niodoo/niodoo_exporter/internal/config"
	"github.com/niodoo/niodoo_exporter/internal/endpoint"
)

const (
	// maxBody bounds an answer, in bytes.
	maxBody = 64 << 20
	// MaxPoints is how many points of a series Prometheus returns at most.
	MaxPoints = 11_000
)

// Client asks one server.
type Client struct {
	// API is Prometheus' own client.
	v1.API
	base *url.URL
	http *http.Client
}

// New makes a client of an HTTP section. It does not connect.
func New(cfg config.HTTP) (*Client, error) {
	base, err := url.Parse(strings.TrimRight(cfg.URL, "/"))
	if err != nil {
		return nil, errors.New("the url cannot be parsed") // its text may hold credentials
	}
	rt, err := endpoint.Transport(cfg)
	if err != nil {
		return nil, err
	}
	rt = bounded{rt}
	client, err := api.NewClient(api.Config{Address: base.String(), RoundTripper: rt})
	if err != nil {
		return nil, err
	}
	return &Client{API: v1.NewAPI(client), base: base, http: &http.Client{Transport: rt,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}}, nil
}

// URL returns the server's address without credentials.
func (c *Client) URL() string { return c.base.Redacted() }

// ErrNotFound says that the server does not know the path.
var ErrNotFound = errors.New("the server does not know this path")

// Get asks for a path with query parameters and decodes the JSON answer.
func (c *Client) Get(ctx context.Context, path string, query url.Values, into any) error {
	u := c.base.JoinPath(path)
	u.RawQuery = query.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return fmt.Errorf("GET %s: the URL cannot be used", path)
	}
	res, err := c.http.Do(req)
	if err != nil {
		return fmt.Errorf("GET %s: %w", path, WithoutURL(err))
	}
	defer res.Body.Close()
	switch {
	case res.StatusCode == http.StatusNotFound:
		return fmt.Errorf("GET %s: %w", path, ErrNotFound)
	case res.StatusCode != http.StatusOK:
		text, _ := io.ReadAll(io.LimitReader(res.Body, 512))
		return fmt.Errorf("GET %s: %s: %s", path, res.Status, strings.TrimSpace(string(text)))
	}
	if err := json.NewDecoder(res.Body).Decode(into); err != nil {
		return fmt.Errorf("GET %s: the answer cannot be read: %w", path, err)
	}
	return nil
}

// Vector evaluates an expression at a time.
func (c *Client) Vector(ctx context.Context, expr string, at time.Time) (model.Vector, error) {
	v, _, _, err := c.Query(ctx, expr, at)
	if err != nil {
		return nil, fmt.Errorf("asking Prometheus for %s: %w", expr, WithoutURL(err))
	}
	switch x := v.(type) {
	case model.Vector:
		return x, nil
	case *model.Scalar:
		return model.Vector{{Value: x.Value, Timestamp: x.Timestamp}}, nil
	}
	return nil, fmt.Errorf("asking Prometheus for %s: the answer is a %s", expr, v.Type())
}

// Matrix evaluates an expression from start to end. The step must not ask for
// more than [MaxPoints].
func (c *Client) Matrix(ctx context.Context, expr string, r v1.Range) (model.Matrix, error) {
	v, _, _, err := c.QueryRange(ctx, expr, r)
	if err != nil {
		return nil, fmt.Errorf("asking Prometheus for %s: %w", expr, WithoutURL(err))
	}
	m, ok := v.(model.Matrix)
	if !ok {
		return nil, fmt.Errorf("asking Prometheus for %s: the answer is a %s", expr, v.Type())
	}
	return m, nil
}

// Retention returns for how long Prometheus keeps its samples; 0 is for as long
// as there is room.
func (c *Client) Retention(ctx context.Context) (time.Duration, error) {
	info, err := c.Runtimeinfo(ctx)
	if err != nil {
		return 0, fmt.Errorf("asking Prometheus for its retention: %w", WithoutURL(err))
	}
	// "15d", "15d or 512MiB", or the size alone.
	text, _, _ := strings.Cut(info.StorageRetention, " or ")
	d, err := model.ParseDuration(text)
	if err != nil {
		return 0, nil //nolint:nilerr // a size: the time is not bounded
	}
	return time.Duration(d), nil
}

// WithoutURL takes the address, which may hold credentials, out of an error.
func WithoutURL(err error) error {
	if e, ok := errors.AsType[*url.Error](err); ok {
		return e.Err
	}
	return err
}

// bounded cuts answers that are too large.
type bounded struct{ next http.RoundTripper }

func (b bounded) RoundTrip(r *http.Request) (*http.Response, error) {
	res, err := b.next.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	res.Body = struct {
		io.Reader
		io.Closer
	}{io.LimitReader(res.Body, maxBody), res.Body}
	return res, nil
}
