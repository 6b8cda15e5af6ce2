// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package endpoint

import (
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/niodoo/niodoo_exporter/internal/config"
)

// handler answers as the paths say.
func handler(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/base/well":
		user, password, _ := r.BasicAuth()
		_, _ = w.Write([]byte(r.Method + " " + user + ":" + password))
	case "/base/elsewhere":
		http.Redirect(w, r, "/base/well", http.StatusFound)
	case "/base/large":
		_, _ = w.Write(make([]byte, maxAnswer+1))
	case "/base/nothing":
		w.WriteHeader(http.StatusNoContent)
	default:
		http.Error(w, "no\nsuch\x00thing "+strings.Repeat("x", 2*maxSaid), http.StatusNotFound)
	}
}

func TestDo(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(handler))
	t.Cleanup(server.Close)
	secret := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(secret, []byte("s3cret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	e := Endpoint{HTTP: config.HTTP{URL: server.URL + "/base/", BasicAuth: &config.BasicAuth{Username: "me", PasswordFile: config.SecretFile(secret)}}}
	for path, want := range map[string]string{"/well": "POST me:s3cret", "/nothing": ""} {
		if got, err := e.Do(t.Context(), "POST", path); err != nil || string(got) != want {
			t.Errorf("%s: %q, %v", path, got, err)
		}
	}
	for path, want := range map[string]string{
		"/elsewhere": "GET /elsewhere: 302 Found",
		"/large":     "GET /large: the answer is larger than 8388608 bytes",
		"/other":     "GET /other: 404 Not Found: no such thing xxx",
	} {
		if _, err := e.Do(t.Context(), "GET", path); err == nil || !strings.HasPrefix(err.Error(), want) || len(err.Error()) > 2*maxSaid {
			t.Errorf("%s: %v", path, err)
		}
	}
	_, err := e.Do(t.Context(), "GET", "/other")
	if s, ok := errors.AsType[*StatusError](err); !ok || s.Code != http.StatusNotFound {
		t.Errorf("%#v", err)
	}
	if _, err := (Endpoint{HTTP: config.HTTP{URL: "http://me:s3cret@[bad"}}).Do(t.Context(), "GET", "/x"); err == nil || strings.Contains(err.Error(), "s3cret") {
		t.Errorf("a bad URL: %v", err)
	}
}

func TestDocker(t *testing.T) {
	t.Parallel()
	socket := filepath.Join(t.TempDir(), "docker.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = w.Write([]byte(r.Host + r.URL.Path)) })} //nolint:gosec // the test's own
	go func() { _ = server.Serve(l) }()
	t.Cleanup(func() { _ = server.Close() })
	e, err := Docker(config.Docker{Host: "unix://" + socket})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := e.Do(t.Context(), "GET", "/info"); err != nil || string(got) != "docker/info" {
		t.Errorf("%q, %v", got, err)
	}
	for _, c := range []struct {
		host string
		tls  config.TLS
		want string
	}{
		{"tcp://proxy:2375", config.TLS{}, "http://proxy:2375"},
		{"tcp://proxy:2376", config.TLS{CAFile: "ca.pem"}, "https://proxy:2376"},
		{"http://proxy:2375", config.TLS{}, "http://proxy:2375"},
	} {
		if e, err := Docker(config.Docker{Host: c.host, TLSConfig: c.tls}); err != nil || e.URL != c.want {
			t.Errorf("%s: %s, %v", c.host, e.URL, err)
		}
	}
}
