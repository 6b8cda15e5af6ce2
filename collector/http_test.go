// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"
)

const grafanaBody = `{"database": "ok", "version": "12.1.0"}`

func secretFile(t testing.TB, secret string) string {
	t.Helper()
	f := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(f, []byte(secret+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return f
}

// An endpoint that speaks TLS: its certificate is verified and its expiry told.
func TestHTTPSCertificate(t *testing.T) {
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, grafanaBody) }))
	srv.Config.ErrorLog = log.New(io.Discard, "", 0) // failed handshakes are the point
	srv.StartTLS()
	t.Cleanup(srv.Close)
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	expectFailure(t, only(t, "grafana", fmt.Sprintf("{url: %q}", srv.URL)), "grafana", false, ReasonTLS)
	expectFailure(t, only(t, "grafana", fmt.Sprintf("{url: %q, tls_config: {ca_file: /no/such}}", srv.URL)), "grafana", false, ReasonConfig)
	expectFailure(t, only(t, "grafana", fmt.Sprintf("{url: %q, tls_config: {ca_file: %q, server_name: other.example.net}}", srv.URL, ca)), "grafana", false, ReasonTLS)
	for _, section := range []string{
		fmt.Sprintf("{url: %q, tls_config: {ca_file: %q, server_name: example.com}}", srv.URL, ca),
		fmt.Sprintf("{url: %q, tls_config: {insecure_skip_verify: true}}", srv.URL),
	} {
		res := scrape(t, scraper(t, only(t, "grafana", section)))
		got := value(t, res.Families, `niodoo_component_tls_not_after_timestamp_seconds{component="grafana"}`)
		if want := float64(srv.Certificate().NotAfter.Unix()); got != want {
			t.Errorf("%s: expires %v, want %v", section, got, want)
		}
	}
}

// A server that wants a client certificate gets the configured one.
func TestHTTPSClientCertificate(t *testing.T) {
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if len(r.TLS.PeerCertificates) == 0 {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		fmt.Fprint(w, grafanaBody)
	}))
	srv.TLS = &tls.Config{ClientAuth: tls.RequestClientCert}
	srv.StartTLS()
	t.Cleanup(srv.Close)
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	writeKeyPair(t, cert, key)
	expectFailure(t, only(t, "grafana", fmt.Sprintf("{url: %q, tls_config: {insecure_skip_verify: true}}", srv.URL)), "grafana", true, ReasonAuth)
	s := scraper(t, only(t, "grafana", fmt.Sprintf("{url: %q, tls_config: {insecure_skip_verify: true, cert_file: %q, key_file: %q}}", srv.URL, cert, key)))
	if res := scrape(t, s); len(res.Failures) > 0 {
		t.Errorf("failures: %v", res.Failures)
	}
}

// Credentials are read when they are sent: a rotated token needs no reload.
func TestHTTPCredentials(t *testing.T) {
	want := "Bearer first"
	srv := serveFunc(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != want {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		fmt.Fprint(w, grafanaBody)
	})
	token := secretFile(t, "first")
	s := scraper(t, only(t, "grafana", fmt.Sprintf("{url: %q, authorization: {credentials_file: %q}}", srv.URL, token)))
	if res := scrape(t, s); len(res.Failures) > 0 {
		t.Fatalf("failures: %v", res.Failures)
	}
	want = "Bearer second"
	expectFailureOf(t, s, "grafana", true, ReasonAuth, time.Second)
	if err := os.WriteFile(token, []byte("second"), 0o600); err != nil {
		t.Fatal(err)
	}
	if res := scrape(t, s); len(res.Failures) > 0 {
		t.Errorf("after the rotation: %v", res.Failures)
	}
	if err := os.Remove(token); err != nil {
		t.Fatal(err)
	}
	expectFailureOf(t, s, "grafana", false, ReasonConfig, time.Second)

	want = "Basic dTpwQHNz"
	s = scraper(t, only(t, "grafana", fmt.Sprintf("{url: %q, basic_auth: {username: u, password_file: %q}}", srv.URL, secretFile(t, "p@ss"))))
	if res := scrape(t, s); len(res.Failures) > 0 {
		t.Errorf("basic auth: %v", res.Failures)
	}
}

// The limit is on what a compressed answer becomes, not on what is sent.
func TestHTTPCompressedBomb(t *testing.T) {
	var bomb bytes.Buffer
	z := gzip.NewWriter(&bomb)
	if _, err := z.Write(make([]byte, 4*maxHealthBody)); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	srv := serveFunc(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Encoding", "gzip")
		_, _ = w.Write(bomb.Bytes())
	})
	expectFailure(t, only(t, "grafana", fmt.Sprintf("{url: %q}", srv.URL)), "grafana", false, ReasonTooLarge)
}

// Scrapes share one kept connection.
func TestHTTPKeepsItsConnection(t *testing.T) {
	var connections []net.Conn
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, grafanaBody) }))
	srv.Config.ConnState = func(c net.Conn, s http.ConnState) {
		if s == http.StateNew {
			connections = append(connections, c)
		}
	}
	srv.Start()
	t.Cleanup(srv.Close)
	s := scraper(t, only(t, "grafana", fmt.Sprintf("{url: %q}", srv.URL)))
	for range 5 {
		scrape(t, s)
	}
	if n := len(connections); n != 1 {
		t.Errorf("%d connections for 5 scrapes", n)
	}
}

func TestClassify(t *testing.T) {
	dial := func(err error) error { return &net.OpError{Op: "dial", Net: "unix", Err: err} }
	for _, c := range []struct {
		err  error
		want Reason
	}{
		{dial(os.NewSyscallError("connect", syscall.ECONNREFUSED)), ReasonRefused},
		{dial(os.NewSyscallError("connect", syscall.EHOSTUNREACH)), ReasonRefused},
		{dial(os.NewSyscallError("connect", syscall.ENETUNREACH)), ReasonRefused},
		{dial(os.NewSyscallError("connect", syscall.ENOENT)), ReasonRefused},
		{dial(os.NewSyscallError("connect", syscall.EACCES)), ReasonPermission},
		{dial(os.NewSyscallError("connect", syscall.ETIMEDOUT)), ReasonTimeout},
		{&net.DNSError{IsNotFound: true}, ReasonDNS},
		{&net.DNSError{IsTimeout: true}, ReasonTimeout},
		{context.DeadlineExceeded, ReasonTimeout},
		{fs.ErrNotExist, ReasonNotFound},
		{fs.ErrPermission, ReasonPermission},
		{syscall.ECONNRESET, ReasonProtocol},
		{errors.New("?"), ReasonOther},
		{errors.Join(errors.New("?"), fail(ReasonAuth, errors.New("x"))), ReasonAuth},
		{fmt.Errorf("wrapped: %w", fail(ReasonParse, context.DeadlineExceeded)), ReasonParse},
		{fmt.Errorf("wrapped: %w", panicError("x")), ReasonPanic},
	} {
		if got := classify(c.err); got != c.want {
			t.Errorf("%v is %s, want %s", c.err, got, c.want)
		}
	}
	for status, want := range map[int]Reason{401: ReasonAuth, 403: ReasonAuth, 404: ReasonNotFound, 429: ReasonRateLimited,
		503: ReasonNotReady, 500: ReasonHTTPStatus, 302: ReasonHTTPStatus, 418: ReasonHTTPStatus} {
		if got := classify(statusFailure("x", status)); got != want {
			t.Errorf("status %s is %s, want %s", strconv.Itoa(status), got, want)
		}
	}
	if len(Reasons) != 18 {
		t.Errorf("%d reasons: the set is closed", len(Reasons))
	}
	for _, r := range Reasons {
		if r.Explain() == "" {
			t.Errorf("%s is not explained", r)
		}
	}
}
