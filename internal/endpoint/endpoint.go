// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

// Package endpoint asks a configured service over HTTP, once in a while: it
// keeps no connection, follows no redirect and uses no proxy.
package endpoint

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"unicode"

	promconfig "github.com/prometheus/common/config"

	"github.com/niodoo/niodoo_exporter/internal/config"
)

const (
	// maxAnswer bounds an answer, in bytes.
	maxAnswer = 8 << 20
	// maxSaid bounds what an error repeats of an answer, in bytes.
	maxSaid = 300
)

// Endpoint is a service. The zero value is none.
type Endpoint struct {
	config.HTTP
	// socket is the path of a Unix socket, "" for TCP.
	socket string
}

// Docker returns the container engine's endpoint.
func Docker(d config.Docker) (Endpoint, error) {
	u, err := url.Parse(d.Host)
	if err != nil {
		return Endpoint{}, errors.New("docker.host cannot be parsed") // its text may hold credentials
	}
	switch {
	case u.Scheme == "unix":
		return Endpoint{HTTP: config.HTTP{URL: "http://docker"}, socket: u.Path}, nil
	case d.TLSConfig != config.TLS{}:
		u.Scheme = "https"
	case u.Scheme == "tcp":
		u.Scheme = "http"
	}
	return Endpoint{HTTP: config.HTTP{URL: u.String(), TLSConfig: d.TLSConfig}}, nil
}

// StatusError is an answer other than 200 or 204.
type StatusError struct {
	Request string // such as "GET /path"
	Status  string // such as "404 Not Found"
	Code    int
	// Said is the beginning of the answer, on one line.
	Said string
}

func (e *StatusError) Error() string {
	if e.Said == "" {
		return e.Request + ": " + e.Status
	}
	return e.Request + ": " + e.Status + ": " + e.Said
}

// Do asks for a path below the URL and returns the answer. Any status but 200
// and 204 is a [StatusError].
func (e Endpoint) Do(ctx context.Context, method, path string) ([]byte, error) {
	what := method + " " + path
	req, err := http.NewRequestWithContext(ctx, method, strings.TrimRight(e.URL, "/")+path, nil)
	if err != nil {
		return nil, fmt.Errorf("%s: the URL cannot be used", what) // its text may hold credentials
	}
	rt, err := Transport(e.HTTP, e.dialer()...)
	if err != nil {
		return nil, err
	}
	client := &http.Client{Transport: rt, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("%s: %w", what, err)
	case len(body) > maxAnswer:
		return nil, fmt.Errorf("%s: the answer is larger than %d bytes", what, maxAnswer)
	case resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusNoContent:
		return nil, &StatusError{Request: what, Status: resp.Status, Code: resp.StatusCode, Said: said(body)}
	}
	return body, nil
}

// said returns the beginning of an answer on one line.
func said(body []byte) string {
	text := strings.ToValidUTF8(string(body[:min(len(body), maxSaid)]), "")
	return strings.Join(strings.FieldsFunc(text, func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) }), " ")
}

func (e Endpoint) dialer() []promconfig.HTTPClientOption {
	if e.socket == "" {
		return nil
	}
	return []promconfig.HTTPClientOption{promconfig.WithDialContextFunc(func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", e.socket)
	})}
}

// Transport returns what speaks to the server of an HTTP section with its
// credentials. It keeps no connections.
func Transport(cfg config.HTTP, options ...promconfig.HTTPClientOption) (http.RoundTripper, error) {
	c := promconfig.HTTPClientConfig{TLSConfig: cfg.TLSConfig.Prometheus()}
	if a := cfg.Authorization; a != nil {
		c.Authorization = &promconfig.Authorization{Type: a.Type, CredentialsFile: string(a.CredentialsFile)}
	}
	if b := cfg.BasicAuth; b != nil {
		c.BasicAuth = &promconfig.BasicAuth{Username: b.Username, PasswordFile: string(b.PasswordFile)}
	}
	if err := c.Validate(); err != nil {
		return nil, err
	}
	return promconfig.NewRoundTripperFromConfig(c, "niodooctl", append(options, promconfig.WithKeepAlivesDisabled())...)
}
