// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package localserver

import (
	"bytes"
	"fmt"
	"io"
	"mime"
	"mime/quotedprintable"
	"net"
	"net/mail"
	"sync"

	"github.com/emersion/go-smtp"
)

// maxMail bounds a mail, in bytes.
const maxMail = 1 << 20

// Mail is a mail that a [Mailbox] has taken.
type Mail struct {
	From    string
	To      []string
	Subject string
	Text    string
}

// Mailbox is a mail relay that keeps what it is given.
type Mailbox struct {
	// Address is its HOST:PORT.
	Address string

	server   *smtp.Server
	listener net.Listener
	ended    chan struct{}
	mu       sync.Mutex
	mails    []Mail
}

// StartMailbox starts a relay on a free loopback port, without TLS or passwords.
func StartMailbox() (*Mailbox, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	b := &Mailbox{Address: l.Addr().String(), listener: l, ended: make(chan struct{})}
	b.server = smtp.NewServer(smtp.BackendFunc(func(*smtp.Conn) (smtp.Session, error) { return &mailSession{box: b}, nil }))
	b.server.MaxMessageBytes = maxMail
	go func() {
		defer close(b.ended)
		_ = b.server.Serve(l) // until it is stopped
	}()
	return b, nil
}

// Stop stops the relay.
func (b *Mailbox) Stop() {
	b.listener.Close() // the server may not know it yet
	_ = b.server.Close()
	<-b.ended
}

// Mails returns what has come so far.
func (b *Mailbox) Mails() []Mail {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]Mail(nil), b.mails...)
}

type mailSession struct {
	box  *Mailbox
	mail Mail
}

func (s *mailSession) Mail(from string, _ *smtp.MailOptions) error {
	s.mail = Mail{From: from}
	return nil
}

func (s *mailSession) Rcpt(to string, _ *smtp.RcptOptions) error {
	s.mail.To = append(s.mail.To, to)
	return nil
}

func (s *mailSession) Data(r io.Reader) error {
	raw, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	msg, err := mail.ReadMessage(bytes.NewReader(raw))
	if err != nil {
		return fmt.Errorf("not a mail: %w", err)
	}
	if s.mail.Subject, err = new(mime.WordDecoder).DecodeHeader(msg.Header.Get("Subject")); err != nil {
		return fmt.Errorf("the subject: %w", err)
	}
	body, err := io.ReadAll(quotedprintable.NewReader(msg.Body))
	if err != nil {
		return err
	}
	s.mail.Text = string(body)
	s.box.mu.Lock()
	defer s.box.mu.Unlock()
	s.box.mails = append(s.box.mails, s.mail)
	return nil
}

func (s *mailSession) Reset()        { s.mail = Mail{} }
func (s *mailSession) Logout() error { return nil }
