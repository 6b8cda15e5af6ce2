// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package promapi

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/niodoo/niodoo_exporter/internal/config"
)

// The credentials are read at every request: a rotated token needs no restart.
func TestCredentials(t *testing.T) {
	t.Parallel()
	token := filepath.Join(t.TempDir(), "token")
	var got string
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got = r.Header.Get("Authorization")
		fmt.Fprint(w, `{"status":"success","data":{"storageRetention":"15d"}}`)
	}))
	defer s.Close()
	c, err := New(config.HTTP{URL: s.URL, Authorization: &config.Authorization{CredentialsFile: config.SecretFile(token)}})
	if err != nil {
		t.Fatal(err)
	}
	for _, secret := range []string{"first", "second"} {
		if err := os.WriteFile(token, []byte(secret+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Retention(context.Background()); err != nil || got != "Bearer "+secret {
			t.Errorf("%q %v", got, err)
		}
	}
}

func TestRetention(t *testing.T) {
	t.Parallel()
	var text string
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, `{"status":"success","data":{"storageRetention":%q}}`, text)
	}))
	defer s.Close()
	c, err := New(config.HTTP{URL: s.URL})
	if err != nil {
		t.Fatal(err)
	}
	for says, want := range map[string]time.Duration{"15d": 15 * 24 * time.Hour, "30d or 512MiB": 30 * 24 * time.Hour, "512MiB": 0, "": 0} {
		text = says
		if got, err := c.Retention(context.Background()); err != nil || got != want {
			t.Errorf("%q is %s, want %s: %v", says, got, want, err)
		}
	}
}

func TestFailures(t *testing.T) {
	t.Parallel()
	mux := http.NewServeMux()
	mux.HandleFunc("/html", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<html>") })
	mux.HandleFunc("/denied", func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusForbidden) })
	mux.HandleFunc("/elsewhere", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/html", http.StatusFound) })
	mux.HandleFunc("/api/v1/query", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, `{"status":"success","data":{"resultType":"matrix","result":[]}}`)
	})
	s := httptest.NewServer(mux)
	c, err := New(config.HTTP{URL: s.URL})
	if err != nil {
		t.Fatal(err)
	}
	get := func(path string) error {
		var v any
		return c.Get(context.Background(), path, nil, &v)
	}
	if err := get("/nowhere"); !errors.Is(err, ErrNotFound) {
		t.Error(err)
	}
	for path, want := range map[string]string{"/html": "cannot be read", "/denied": "403 Forbidden: no", "/elsewhere": "302 Found"} {
		if err := get(path); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", path, err)
		}
	}
	if _, err := c.Vector(context.Background(), `"x"`, time.Now()); err == nil || !strings.Contains(err.Error(), "the answer is a matrix") {
		t.Error(err)
	}
	s.Close()
	for _, err := range []error{get("/html"), func() error { _, err := c.Vector(context.Background(), "up", time.Now()); return err }()} {
		if err == nil || strings.Contains(err.Error(), s.URL) {
			t.Errorf("an address, which may hold credentials, in an error: %v", err)
		}
	}
}
