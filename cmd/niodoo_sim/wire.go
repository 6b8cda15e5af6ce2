// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// wire is a listener that passes connections on to a server, as slowly as it is told.
type wire struct {
	listener net.Listener
	target   string
	delay    atomic.Int64 // of each piece of an answer, in nanoseconds

	mu     sync.Mutex
	conns  map[net.Conn]bool // both ends of each connection
	closed bool
	work   sync.WaitGroup
}

// newWire listens on a free port; with a TLS configuration it speaks TLS there.
func newWire(target string, cfg *tls.Config) (*wire, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	w := &wire{listener: l, target: target, conns: map[net.Conn]bool{}}
	if cfg != nil {
		w.listener = tls.NewListener(l, cfg)
	}
	w.work.Go(w.accept)
	return w, nil
}

func (w *wire) port() int { return w.listener.Addr().(*net.TCPAddr).Port }

func (w *wire) accept() {
	for {
		in, err := w.listener.Accept()
		if err != nil {
			return
		}
		w.work.Go(func() { w.pass(in) })
	}
}

func (w *wire) pass(in net.Conn) {
	defer w.drop(in)
	if !w.keep(in) {
		return
	}
	out, err := net.DialTimeout("tcp", w.target, 5*time.Second)
	if err != nil {
		return
	}
	defer w.drop(out)
	if !w.keep(out) {
		return
	}
	w.work.Go(func() {
		_, _ = io.Copy(out, in)
		w.drop(out)
	})
	_, _ = io.Copy(late{in, &w.delay}, out)
}

// keep notes a connection and reports false if there are to be no more.
func (w *wire) keep(c net.Conn) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.closed {
		w.conns[c] = true
	}
	return !w.closed
}

func (w *wire) drop(c net.Conn) {
	_ = c.Close()
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.conns, c)
}

// cut ends every connection; new ones are taken.
func (w *wire) cut() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for c := range w.conns {
		_ = c.Close()
	}
}

func (w *wire) close() {
	_ = w.listener.Close()
	w.mu.Lock()
	w.closed = true
	w.mu.Unlock()
	w.cut()
	w.work.Wait()
}

// late writes after a delay.
type late struct {
	io.Writer
	delay *atomic.Int64
}

func (l late) Write(p []byte) (int, error) {
	time.Sleep(time.Duration(l.delay.Load()))
	return l.Writer.Write(p)
}

// front speaks TLS for Grafana, with a certificate that is valid for as long as
// it is told.
type front struct {
	*wire
	caFile string
	cert   atomic.Pointer[tls.Certificate]
	ca     *tls.Certificate
}

// certificateLife is for how long a certificate is valid on an ordinary day.
const certificateLife = 90 * 24 * time.Hour

func newFront(target, caFile string) (*front, error) {
	f := &front{caFile: caFile}
	var err error
	if f.ca, err = issue(nil, certificateLife); err != nil {
		return nil, err
	}
	raw := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: f.ca.Certificate[0]})
	if err := os.WriteFile(caFile, raw, 0o600); err != nil {
		return nil, err
	}
	if err := f.expireIn(certificateLife); err != nil {
		return nil, err
	}
	f.wire, err = newWire(target, &tls.Config{MinVersion: tls.VersionTLS12,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return f.cert.Load(), nil }})
	return f, err
}

// expireIn replaces the certificate, and ends the connections that have seen the old one.
func (f *front) expireIn(d time.Duration) error {
	c, err := issue(f.ca, d)
	if err != nil {
		return err
	}
	f.cert.Store(c)
	if f.wire != nil {
		f.cut()
	}
	return nil
}

// issue makes a certificate for 127.0.0.1; without an issuer it is one itself.
func issue(by *tls.Certificate, life time.Duration) (*tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	template := &x509.Certificate{SerialNumber: big.NewInt(now.UnixNano()), Subject: pkix.Name{CommonName: "niodoo_sim"},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(life), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, BasicConstraintsValid: true, IsCA: by == nil}
	parent, signer := template, any(key)
	if by != nil {
		parent, signer = by.Leaf, by.PrivateKey
	} else {
		template.KeyUsage = x509.KeyUsageCertSign
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		return nil, fmt.Errorf("making a certificate: %w", err)
	}
	leaf, err := x509.ParseCertificate(der)
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, err
}

var certificateFaults = []labFault{
	{"grafana-certificate-expiring", "grafana", "Grafana's certificate is valid for ten days more.", certificateFor(10 * 24 * time.Hour)},
	{"grafana-certificate-about-to-expire", "grafana", "Grafana's certificate is valid for two days more.", certificateFor(2 * 24 * time.Hour)},
	{"grafana-certificate-expired", "grafana", "Grafana's certificate has expired.", certificateFor(-time.Minute)},
}

func certificateFor(life time.Duration) func(context.Context, *lab) (func() error, error) {
	return func(_ context.Context, l *lab) (func() error, error) {
		return func() error { return l.front.expireIn(certificateLife) }, l.front.expireIn(life)
	}
}
