// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package notify

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"os"
	"strconv"
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
// unless require_tls is false, as in Alertmanager. Without a relay the error is
// [ErrNotConfigured].
func SendMail(ctx context.Context, cfg config.SMTP, m Mail) error {
	if cfg.Smarthost == "" {
		return fmt.Errorf("notify.smtp.smarthost: %w", ErrNotConfigured)
	}
	to := m.To
	if to == nil {
		to = cfg.To
	}
	msg := mail.NewMsg()
	if err := msg.From(cfg.From); err != nil {
		return fmt.Errorf("notify.smtp.from %q: %w", cfg.From, err)
	}
	if err := msg.To(to...); err != nil {
		return fmt.Errorf("notify.smtp.to %q: %w", to, err)
	}
	msg.Subject(m.Subject)
	msg.SetDate()
	msg.SetMessageID()
	msg.SetBodyString(mail.TypeTextPlain, m.Text)
	if m.HTML != "" {
		msg.AddAlternativeString(mail.TypeTextHTML, m.HTML)
	}
	c, err := relay(cfg)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, mailTimeout)
	defer cancel()
	if err := c.DialAndSendWithContext(ctx, msg); err != nil {
		return fmt.Errorf("sending mail through %s: %w", cfg.Smarthost, err)
	}
	return nil
}

func relay(cfg config.SMTP) (*mail.Client, error) {
	host, portText, err := net.SplitHostPort(cfg.Smarthost)
	if err != nil {
		return nil, fmt.Errorf("notify.smtp.smarthost: %w", err)
	}
	port, err := strconv.Atoi(portText)
	if err != nil {
		return nil, fmt.Errorf("notify.smtp.smarthost: %w", err)
	}
	policy := mail.TLSMandatory
	if cfg.RequireTLS != nil && !*cfg.RequireTLS {
		policy = mail.TLSOpportunistic
	}
	name, err := os.Hostname()
	if err != nil {
		name = "localhost"
	}
	options := []mail.Option{mail.WithPort(port), mail.WithTLSPolicy(policy), mail.WithHELO(name), mail.WithTimeout(mailTimeout),
		mail.WithTLSConfig(&tls.Config{ServerName: host, MinVersion: tls.VersionTLS12})}
	if port == mail.DefaultPortSSL {
		options = append(options, mail.WithSSL())
	}
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
