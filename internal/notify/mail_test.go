// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package notify

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/niodoo/niodoo_exporter/internal/config"
	"github.com/niodoo/niodoo_exporter/internal/notify/notifytest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func secretFile(t *testing.T, content string) config.SecretFile {
	t.Helper()
	path := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(path, []byte(content+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return config.SecretFile(path)
}

func TestSendMail(t *testing.T) {
	t.Parallel()
	r := notifytest.Start(t, notifytest.RelayOptions{TLS: true, Username: "niodoo", Password: "s3cret"})
	cfg := r.Config()
	cfg.AuthUsername, cfg.AuthPassword = "niodoo", secretFile(t, "s3cret")
	m := Mail{Subject: "Engine down\r\nBcc: x@example.com", Text: "first\n.\nlast \u2014 end", HTML: "<p>first</p>"}
	if err := SendMail(t.Context(), cfg, m); err != nil {
		t.Fatal(err)
	}
	got := r.Messages()
	if len(got) != 1 || !got[0].TLS || got[0].From != "niodoo@example.com" || strings.Join(got[0].To, " ") != "oncall@example.com" {
		t.Fatalf("%+v", got)
	}
	for _, want := range []string{"Auto-Submitted: auto-generated", "Message-ID: <", "text/plain", "<p>first</p>", "last =E2=80=94 end"} {
		if !strings.Contains(got[0].Raw, want) {
			t.Errorf("%q is missing in\n%s", want, got[0].Raw)
		}
	}
	if strings.Contains(got[0].Raw, "\nBcc:") {
		t.Errorf("a subject makes a header:\n%s", got[0].Raw)
	}
}

// A recipient that the relay refuses keeps the mail from nobody else.
func TestSendMailRefusedRecipient(t *testing.T) {
	t.Parallel()
	r := notifytest.Start(t, notifytest.RelayOptions{TLS: true, Refuse: []string{"gone@example.com"}})
	cfg := r.Config()
	cfg.To = []string{"gone@example.com", "oncall@example.com"}
	err := SendMail(t.Context(), cfg, Mail{Subject: "s", Text: "t"})
	if err == nil || !strings.Contains(err.Error(), "gone@example.com") || strings.Contains(err.Error(), "oncall@example.com") {
		t.Errorf("got %v", err)
	}
	if got := r.Messages(); len(got) != 1 || strings.Join(got[0].To, " ") != "oncall@example.com" {
		t.Errorf("%+v", got)
	}
	if err := SendMail(t.Context(), cfg, Mail{Subject: "s", Text: "t", To: []string{"other@example.com"}}); err != nil {
		t.Errorf("recipients of the message's own: %v", err)
	}
}

func TestSendMailWithoutTLS(t *testing.T) {
	t.Parallel()
	r := notifytest.Start(t, notifytest.RelayOptions{})
	cfg := r.Config()
	if err := SendMail(t.Context(), cfg, Mail{Text: "t"}); err == nil || !strings.Contains(err.Error(), "STARTTLS") {
		t.Errorf("TLS is required, and without it: %v", err)
	}
	no := false
	cfg.RequireTLS = &no
	if err := SendMail(t.Context(), cfg, Mail{Text: "t"}); err != nil {
		t.Error(err)
	}
	if got := r.Messages(); len(got) != 1 || got[0].TLS {
		t.Errorf("%+v", got)
	}
}

// What a relay refuses, or is not, is an error that names it and tells no secret.
func TestSendMailFailures(t *testing.T) {
	t.Parallel()
	no := false
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	secure := notifytest.RelayOptions{TLS: true, Username: "niodoo", Password: "right"}
	for name, c := range map[string]struct {
		relay notifytest.RelayOptions
		edit  func(*config.SMTP)
		want  string
	}{
		"unknown certificate": {secure, func(c *config.SMTP) { c.TLSConfig.CAFile = "" }, "certificate signed by unknown authority"},
		"another host's":      {secure, func(c *config.SMTP) { c.TLSConfig.ServerName = "relay.example.org" }, "not relay.example.org"},
		"wrong password":      {secure, func(c *config.SMTP) { c.AuthUsername, c.AuthPassword = "niodoo", secretFile(t, "s3cret") }, "Authentication failed"},
		"no password":         {secure, func(*config.SMTP) {}, "authenticate first"},
		"missing secret":      {secure, func(c *config.SMTP) { c.AuthUsername, c.AuthPassword = "niodoo", "/nonexistent" }, "notify.smtp.auth_password_file: reading a secret"},
		"missing CA":          {secure, func(c *config.SMTP) { c.TLSConfig.CAFile = "/nonexistent" }, "notify.smtp.tls_config: "},
		"password without TLS": {notifytest.RelayOptions{Username: "niodoo", Password: "s3cret"}, func(c *config.SMTP) {
			c.RequireTLS, c.AuthUsername, c.AuthPassword = &no, "niodoo", secretFile(t, "s3cret")
		}, "authentication mechanism"},
		"nobody there":      {secure, func(c *config.SMTP) { c.Smarthost = closed.Addr().String() }, "connection refused"},
		"all refused":       {notifytest.RelayOptions{TLS: true, Refuse: []string{"oncall@example.com"}}, func(*config.SMTP) {}, "No such user here"},
		"no relay":          {secure, func(c *config.SMTP) { c.Smarthost = "" }, "notify.smtp.smarthost: not configured"},
		"nobody to send to": {secure, func(c *config.SMTP) { c.To = nil }, "notify.smtp.to: not configured"},
		"bad sender":        {secure, func(c *config.SMTP) { c.From = "x" }, "notify.smtp.from"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := notifytest.Start(t, c.relay)
			cfg := r.Config()
			c.edit(&cfg)
			err := SendMail(t.Context(), cfg, Mail{Subject: "s", Text: "t"})
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
			if err != nil && strings.Contains(err.Error(), "s3cret") {
				t.Errorf("a secret is told: %v", err)
			}
			if got := r.Messages(); len(got) != 0 {
				t.Errorf("taken all the same: %+v", got)
			}
		})
	}
}

// Port 465 speaks TLS from the first byte; here its kind is tried on another.
func TestImplicitTLS(t *testing.T) {
	t.Parallel()
	if !implicitTLS("relay:465") || implicitTLS("relay:587") {
		t.Error("the wrong port")
	}
	r := notifytest.Start(t, notifytest.RelayOptions{ImplicitTLS: true, Username: "niodoo", Password: "s3cret"})
	cfg := r.Config()
	cfg.AuthUsername, cfg.AuthPassword = "niodoo", secretFile(t, "s3cret")
	if err := send(t.Context(), cfg, Mail{Text: "t"}, true); err != nil {
		t.Error(err)
	}
	if got := r.Messages(); len(got) != 1 {
		t.Errorf("%+v", got)
	}
}

// A relay that says nothing is given up when the command is.
func TestSendMailHangingRelay(t *testing.T) {
	t.Parallel()
	r := notifytest.Start(t, notifytest.RelayOptions{Silent: true})
	ctx, cancel := context.WithCancelCause(t.Context())
	done := make(chan error, 1)
	go func() { done <- SendMail(ctx, r.Config(), Mail{Text: "t"}) }()
	cancel(nil)
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}
