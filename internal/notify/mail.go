// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package notify

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/wneessen/go-mail"

	"github.com/niodoo/niodoo_exporter/internal/config"
)

// mailTimeout bounds a whole conversation with the relay.
const mailTimeout = 30 * time.Second

// Mail is a message.
type Mail struct {
	Subject, Text string
	// HTML is the same for programs that show it; "" is none.
	HTML string
	// To are the recipients; nil are those of the configuration.
	To []string
}

// SendMail hands a message to the relay of the configuration. TLS is required
// unless require_tls is false, and a password never goes over a connection
// without it. Every recipient gets a message of their own: an address that the
// relay refuses keeps it from nobody else, and the error names it. Without a
// relay the error is [ErrNotConfigured].
func SendMail(ctx context.Context, cfg config.SMTP, m Mail) error {
	return send(ctx, cfg, m, implicitTLS(cfg.Smarthost))
}

func send(ctx context.Context, cfg config.SMTP, m Mail, implicitTLS bool) error {
	if cfg.Smarthost == "" {
		return fmt.Errorf("notify.smtp.smarthost: %w", ErrNotConfigured)
	}
	if m.To == nil {
		m.To = cfg.To
	}
	if len(m.To) == 0 {
		return fmt.Errorf("notify.smtp.to: %w", ErrNotConfigured)
	}
	messages := make([]*mail.Msg, len(m.To))
	for i, to := range m.To {
		var err error
		if messages[i], err = compose(cfg.From, to, m); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, mailTimeout)
	defer cancel()
	dial := &dialer{implicitTLS: implicitTLS, addr: cfg.Smarthost}
	defer context.AfterFunc(ctx, dial.close)()
	defer dial.close()
	c, err := relay(cfg, dial)
	if err != nil {
		return err
	}
	err = c.DialAndSendWithContext(ctx, messages...)
	var failed []error
	for i, msg := range messages {
		// What a relay says once it has taken a message takes nothing back.
		if !msg.IsDelivered() {
			failed = append(failed, fmt.Errorf("mail to %s through %s: %w", m.To[i], cfg.Smarthost, cause(ctx, msg, err)))
		}
	}
	return errors.Join(failed...)
}

// cause is why a message was not delivered.
func cause(ctx context.Context, msg *mail.Msg, err error) error {
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case msg.HasSendError():
		return msg.SendError()
	}
	return err
}

func compose(from, to string, m Mail) (*mail.Msg, error) {
	msg := mail.NewMsg()
	if err := msg.From(from); err != nil {
		return nil, fmt.Errorf("notify.smtp.from %q: %w", from, err)
	}
	if err := msg.To(to); err != nil {
		return nil, fmt.Errorf("recipient %q: %w", to, err)
	}
	msg.Subject(m.Subject)
	msg.SetDate()
	msg.SetMessageID()
	msg.SetUserAgent("niodooctl")
	// RFC 3834: no vacation notice comes back.
	msg.SetGenHeader("Auto-Submitted", "auto-generated")
	msg.SetBodyString(mail.TypeTextPlain, m.Text)
	if m.HTML != "" {
		msg.AddAlternativeString(mail.TypeTextHTML, m.HTML)
	}
	return msg, nil
}

// implicitTLS reports whether the port is the one where TLS comes first, as
// Alertmanager decides it.
func implicitTLS(smarthost string) bool {
	_, port, err := net.SplitHostPort(smarthost)
	return err == nil && port == strconv.Itoa(mail.DefaultPortSSL)
}

func relay(cfg config.SMTP, dial *dialer) (*mail.Client, error) {
	host, _, err := net.SplitHostPort(cfg.Smarthost)
	if err != nil {
		return nil, fmt.Errorf("notify.smtp.smarthost: %w", err)
	}
	t := cfg.TLSConfig
	if t.ServerName == "" {
		t.ServerName = host
	}
	if dial.tls, err = t.Client(); err != nil {
		return nil, fmt.Errorf("notify.smtp.%w", err)
	}
	policy := mail.TLSMandatory
	switch {
	case dial.implicitTLS:
		policy = mail.TLSOpportunistic // it is there already
	case cfg.RequireTLS != nil && !*cfg.RequireTLS:
		policy = mail.NoTLS // as in Alertmanager: a relay on localhost offers it with a certificate for nobody
	}
	name, err := os.Hostname()
	if err != nil {
		name = "localhost"
	}
	options := []mail.Option{mail.WithTLSPolicy(policy), mail.WithHELO(name), mail.WithTimeout(mailTimeout),
		mail.WithTLSConfig(dial.tls), mail.WithDialContextFunc(dial.dial)}
	if cfg.AuthUsername != "" {
		password, err := cfg.AuthPassword.Read()
		if err != nil {
			return nil, fmt.Errorf("notify.smtp.auth_password_file: %w", err)
		}
		options = append(options, mail.WithSMTPAuth(mail.SMTPAuthAutoDiscover), mail.WithUsername(cfg.AuthUsername), mail.WithPassword(password.Reveal()))
	}
	c, err := mail.NewClient(host, options...)
	if err != nil {
		return nil, fmt.Errorf("notify.smtp: %w", err)
	}
	return c, nil
}

// dialer opens the one connection of a conversation and closes it. The library
// leaves it open where the conversation fails early, its own bound starts anew
// with each message, and it does not heed the context.
type dialer struct {
	addr        string
	implicitTLS bool
	tls         *tls.Config

	mu     sync.Mutex
	conn   net.Conn
	closed bool
}

func (d *dialer) dial(ctx context.Context, network, _ string) (net.Conn, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, network, d.addr)
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	d.conn = conn
	if d.closed {
		conn.Close()
	}
	d.mu.Unlock()
	if !d.implicitTLS {
		return conn, nil
	}
	secure := tls.Client(conn, d.tls)
	if err := secure.HandshakeContext(ctx); err != nil {
		return nil, err
	}
	return secure, nil
}

func (d *dialer) close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed = true
	if d.conn != nil {
		d.conn.Close()
	}
}
