// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

// Package notifytest has a real mail relay on loopback, for tests.
package notifytest

import (
	"crypto/tls"
	"encoding/pem"
	"errors"
	"io"
	"net"
	"net/http/httptest"
	"net/mail"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"

	"github.com/niodoo/niodoo_exporter/internal/config"
)

// RelayOptions say what a relay is like. The zero value takes everything from
// everybody, without TLS.
type RelayOptions struct {
	// TLS offers STARTTLS with a certificate for 127.0.0.1; CAFile trusts it.
	TLS bool
	// ImplicitTLS speaks TLS from the first byte instead, as port 465 does.
	ImplicitTLS bool
	// Username and Password must be given before mail is taken.
	Username, Password string
	// Refuse are recipients that are not taken.
	Refuse []string
	// Silent takes connections and says nothing.
	Silent bool
}

// Message is one that a relay has taken.
type Message struct {
	From string
	To   []string
	// Raw is the message as it came.
	Raw string
	// TLS says that it came over an encrypted connection.
	TLS bool
}

// Relay is a running relay. Its messages come one after the other.
type Relay struct {
	Addr string
	// CAFile is the certificate's own, "" without TLS.
	CAFile string

	opts RelayOptions
	mu   sync.Mutex
	got  []Message
}

// Start runs a relay until the test ends.
func Start(t testing.TB, opts RelayOptions) *Relay {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &Relay{Addr: l.Addr().String(), opts: opts}
	if opts.Silent {
		r.hang(t, l)
		return r
	}
	s := smtp.NewServer(smtp.BackendFunc(func(c *smtp.Conn) (smtp.Session, error) { return &session{relay: r, conn: c}, nil }))
	s.Domain = "relay.example.com"
	s.AllowInsecureAuth = true
	s.ErrorLog = silent{}
	switch {
	case opts.ImplicitTLS:
		l = tls.NewListener(l, r.certificate(t))
	case opts.TLS:
		s.TLSConfig = r.certificate(t)
	}
	var served sync.WaitGroup
	served.Go(func() { _ = s.Serve(l) })
	t.Cleanup(func() {
		_ = s.Close()
		l.Close() // it does not know of one that it has not begun to serve
		served.Wait()
	})
	return r
}

// Config is how the configuration names the relay.
func (r *Relay) Config() config.SMTP {
	c := config.SMTP{Smarthost: r.Addr, From: "niodoo@example.com", To: []string{"oncall@example.com"}}
	c.TLSConfig.CAFile = r.CAFile
	return c
}

// Messages returns what the relay has taken so far.
func (r *Relay) Messages() []Message {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.got)
}

// hang takes connections without a word.
func (r *Relay) hang(t testing.TB, l net.Listener) {
	var conns []net.Conn
	var accepting sync.WaitGroup
	accepting.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			conns = append(conns, c)
		}
	})
	t.Cleanup(func() {
		l.Close()
		accepting.Wait()
		for _, c := range conns {
			c.Close()
		}
	})
}

// certificate returns one for 127.0.0.1 and keeps it in CAFile.
func (r *Relay) certificate(t testing.TB) *tls.Config {
	t.Helper()
	s := httptest.NewTLSServer(nil) // it has one
	s.Close()
	r.CAFile = filepath.Join(t.TempDir(), "ca.pem")
	block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
	if err := os.WriteFile(r.CAFile, block, 0o600); err != nil {
		t.Fatal(err)
	}
	return &tls.Config{Certificates: s.TLS.Certificates}
}

// silent drops what the server would log of clients that hang up.
type silent struct{}

func (silent) Printf(string, ...any) {}
func (silent) Println(...any)        {}

// session is one conversation.
type session struct {
	relay   *Relay
	conn    *smtp.Conn
	allowed bool
	message Message
}

func (s *session) AuthMechanisms() []string {
	if s.relay.opts.Username == "" {
		return nil
	}
	return []string{sasl.Plain}
}

func (s *session) Auth(string) (sasl.Server, error) {
	return sasl.NewPlainServer(func(_, username, password string) error {
		if username != s.relay.opts.Username || password != s.relay.opts.Password {
			return smtp.ErrAuthFailed
		}
		s.allowed = true
		return nil
	}), nil
}

func (s *session) Mail(from string, _ *smtp.MailOptions) error {
	if s.relay.opts.Username != "" && !s.allowed {
		return smtp.ErrAuthRequired
	}
	if _, err := mail.ParseAddress(from); err != nil {
		return errors.New("not a sender")
	}
	s.message.From = from
	return nil
}

func (s *session) Rcpt(to string, _ *smtp.RcptOptions) error {
	if slices.Contains(s.relay.opts.Refuse, to) {
		return &smtp.SMTPError{Code: 550, EnhancedCode: smtp.EnhancedCode{5, 1, 1}, Message: "No such user here"}
	}
	s.message.To = append(s.message.To, to)
	return nil
}

func (s *session) Data(r io.Reader) error {
	raw, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	s.message.Raw = string(raw)
	_, s.message.TLS = s.conn.TLSConnectionState()
	s.relay.mu.Lock()
	defer s.relay.mu.Unlock()
	s.relay.got = append(s.relay.got, s.message)
	return nil
}

func (s *session) Reset() { s.message = Message{} }

func (s *session) Logout() error { return nil }
