// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package incident

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os/exec"
	"strings"
	"time"

	promconfig "github.com/prometheus/common/config"

	"github.com/niodoo/niodoo_exporter/internal/config"
)

// maxAnswer bounds an answer over HTTP, in bytes.
const maxAnswer = maxPiece

// endpoint is where something is asked over HTTP.
type endpoint struct {
	URL           string
	Authorization *config.Authorization
	BasicAuth     *config.BasicAuth
	TLS           config.TLS
	// socket is the path of a Unix socket, "" for TCP.
	socket string
}

func endpointOf(h config.HTTP) endpoint {
	return endpoint{URL: h.URL, Authorization: h.Authorization, BasicAuth: h.BasicAuth, TLS: h.TLSConfig}
}

// dockerEndpoint is the container engine's API.
func dockerEndpoint(d config.Docker) (endpoint, error) {
	u, err := url.Parse(d.Host)
	if err != nil {
		return endpoint{}, errors.New("docker.host cannot be parsed")
	}
	switch {
	case u.Scheme == "unix":
		return endpoint{URL: "http://docker", socket: u.Path}, nil
	case u.Scheme == "tcp" && d.TLSConfig == config.TLS{}:
		u.Scheme = "http"
	case u.Scheme == "tcp":
		u.Scheme = "https"
	}
	return endpoint{URL: u.String(), TLS: d.TLSConfig}, nil
}

// do sends a request without a body and returns the answer of status 200 or
// 204. Secrets and certificates are read each time; no connection is kept, no
// redirect followed and no proxy used.
func (e endpoint) do(ctx context.Context, method, path string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, strings.TrimRight(e.URL, "/")+path, nil)
	if err != nil {
		return nil, err
	}
	if err := e.authorize(req); err != nil {
		return nil, err
	}
	transport := &http.Transport{DisableKeepAlives: true}
	if e.socket != "" {
		transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", e.socket)
		}
	}
	if e.TLS != (config.TLS{}) {
		transport.TLSClientConfig, err = promconfig.NewTLSConfig(&promconfig.TLSConfig{
			CAFile: e.TLS.CAFile, CertFile: e.TLS.CertFile, KeyFile: e.TLS.KeyFile, ServerName: e.TLS.ServerName,
			InsecureSkipVerify: e.TLS.InsecureSkipVerify, MinVersion: promconfig.TLSVersion(tls.VersionTLS12),
		})
		if err != nil {
			return nil, fmt.Errorf("tls_config: %w", err)
		}
	}
	client := &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("%s %s: %w", method, path, err)
	case len(body) > maxAnswer:
		return nil, fmt.Errorf("%s %s: the answer is larger than %d bytes", method, path, maxAnswer)
	case resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusNoContent:
		return nil, fmt.Errorf("%s %s: %s: %s", method, path, resp.Status, cut(oneLine(string(body)), 300))
	}
	return body, nil
}

func (e endpoint) authorize(req *http.Request) error {
	switch {
	case e.Authorization != nil:
		s, err := e.Authorization.CredentialsFile.Read()
		if err != nil {
			return err
		}
		kind := strings.TrimSpace(e.Authorization.Type)
		if kind == "" {
			kind = "Bearer"
		}
		req.Header.Set("Authorization", kind+" "+s.Reveal())
	case e.BasicAuth != nil:
		s, err := e.BasicAuth.PasswordFile.Read()
		if err != nil {
			return err
		}
		req.SetBasicAuth(e.BasicAuth.Username, s.Reveal())
	}
	return nil
}

// maxProgram bounds what is kept of a program's output, in bytes.
const maxProgram = 4 << 20

// program runs a program without a shell and returns its output. It ends with
// ctx, and what it has started may not keep us waiting.
func program(ctx context.Context, env []string, name string, args ...string) ([]byte, error) {
	path, err := exec.LookPath(name)
	if err != nil {
		return nil, notLookedAt(name + " is not installed")
	}
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = append([]string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8", "HOME=/nonexistent"}, env...)
	cmd.WaitDelay = time.Second
	var stdout, stderr limited
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return stdout.b, ctx.Err()
		}
		return stdout.b, fmt.Errorf("%s: %w: %s", name, err, cut(oneLine(string(stderr.b)), 500))
	}
	return stdout.b, nil
}

// limited keeps the first bytes written to it.
type limited struct{ b []byte }

func (l *limited) Write(p []byte) (int, error) {
	l.b = append(l.b, p[:min(len(p), maxProgram-len(l.b))]...)
	return len(p), nil
}
