// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"runtime/debug"
	"syscall"
)

// Reason says in one word why a collector failed. The set is closed, so it can
// be a label; the error's text is in the log.
type Reason string

// The reasons. README.md says what each means and what to do.
const (
	ReasonRefused            Reason = "refused"
	ReasonTimeout            Reason = "timeout"
	ReasonDNS                Reason = "dns"
	ReasonTLS                Reason = "tls"
	ReasonAuth               Reason = "auth"
	ReasonHTTPStatus         Reason = "http_status"
	ReasonProtocol           Reason = "protocol"
	ReasonParse              Reason = "parse"
	ReasonTooLarge           Reason = "too_large"
	ReasonNotReady           Reason = "not_ready"
	ReasonUnhealthy          Reason = "unhealthy"
	ReasonRateLimited        Reason = "rate_limited"
	ReasonTooManyConnections Reason = "too_many_connections"
	ReasonPermission         Reason = "permission"
	ReasonNotFound           Reason = "not_found"
	ReasonPanic              Reason = "panic"
	ReasonConfig             Reason = "config"
	ReasonOther              Reason = "other"
)

// reasons is the closed set with what each tells someone on call, and whether
// a component that turned us away for it showed by doing so that it is up.
var reasons = []struct {
	reason  Reason
	up      bool
	explain string
}{
	{ReasonRefused, false, "Nobody listens there: the service is stopped, or host or port are wrong"},
	{ReasonTimeout, false, "No complete answer in time: the service hangs, is overloaded, or packets are dropped"},
	{ReasonDNS, false, "The host name does not resolve"},
	{ReasonTLS, false, "The TLS handshake failed or the certificate is not trusted; see tls_config"},
	{ReasonAuth, true, "The service refused our credentials: a fault of our configuration, not of the service"},
	{ReasonHTTPStatus, false, "The service answered with an HTTP status that means failure, or with a redirect"},
	{ReasonProtocol, false, "The connection broke in mid-answer, or something else listens on that port"},
	{ReasonParse, false, "The answer could not be read: a login page, another program, or a truncated document"},
	{ReasonTooLarge, false, "The answer was larger than the limit"},
	{ReasonNotReady, false, "The service is starting, stopping, loading or recovering"},
	{ReasonUnhealthy, false, "The service says itself that it is not well"},
	{ReasonRateLimited, true, "The service limits our requests"},
	{ReasonTooManyConnections, true, "The service has no connection left for us, and probably none for others"},
	{ReasonPermission, true, "We may not look: rights of the monitoring role (see the README), or of a socket or file of this machine"},
	{ReasonNotFound, false, "The path, file or program is not there"},
	{ReasonPanic, false, "A bug in the collector: its stack is in the log"},
	{ReasonConfig, false, "Our own configuration is wrong, such as an unreadable secret or an unknown database"},
	{ReasonOther, false, "Anything else: the text is in the log"},
}

// Reasons lists the closed set.
var Reasons = func() []Reason {
	var all []Reason
	for _, r := range reasons {
		all = append(all, r.reason)
	}
	return all
}()

// MeansUp reports whether a component that turned us away for this reason
// showed by doing so that it is up.
func (r Reason) MeansUp() bool {
	for _, e := range reasons {
		if e.reason == r {
			return e.up
		}
	}
	return false
}

// meansUp is [Reason.MeansUp] for a failure. Permission that our own system
// denies, for a socket's file or by a packet filter, comes from no component.
func meansUp(err error) bool {
	return classify(err).MeansUp() && !errors.Is(err, fs.ErrPermission)
}

// Explain returns what the reason tells someone on call.
func (r Reason) Explain() string {
	for _, e := range reasons {
		if e.reason == r {
			return e.explain
		}
	}
	return ""
}

// Failure is an error with its reason.
type Failure struct {
	Reason Reason
	Err    error
}

func (f *Failure) Error() string { return f.Err.Error() }
func (f *Failure) Unwrap() error { return f.Err }

// fail gives an error its reason.
func fail(r Reason, err error) error { return &Failure{Reason: r, Err: err} }

// failf is fail with a format.
func failf(r Reason, format string, args ...any) error {
	return &Failure{Reason: r, Err: fmt.Errorf(format, args...)}
}

// statusFailure is the failure of an HTTP answer that is not 2xx.
func statusFailure(what string, status int) error {
	r := ReasonHTTPStatus
	switch status {
	case http.StatusUnauthorized, http.StatusForbidden:
		r = ReasonAuth
	case http.StatusNotFound:
		r = ReasonNotFound
	case http.StatusTooManyRequests:
		r = ReasonRateLimited
	case http.StatusServiceUnavailable:
		r = ReasonNotReady
	}
	return failf(r, "%s answered HTTP status %d", what, status)
}

// panicError is what a recovered panic becomes.
func panicError(p any) error {
	return &panicked{value: p, stack: debug.Stack()}
}

type panicked struct {
	value any
	stack []byte
}

func (p *panicked) Error() string { return fmt.Sprintf("panic: %v", p.value) }

// classify returns the reason for an error. What a collector knows better it
// says with [fail]; this is the table for what the system reports.
func classify(err error) Reason {
	var (
		f          *Failure
		pan        *panicked
		dns        *net.DNSError
		netErr     net.Error
		record     tls.RecordHeaderError
		alert      tls.AlertError
		certVerify *tls.CertificateVerificationError
		unknownCA  x509.UnknownAuthorityError
		hostname   x509.HostnameError
		invalid    x509.CertificateInvalidError
	)
	switch {
	case errors.As(err, &pan):
		return ReasonPanic
	case errors.As(err, &f):
		return f.Reason
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled), errors.Is(err, os.ErrDeadlineExceeded):
		return ReasonTimeout
	case errors.As(err, &dns):
		if dns.IsTimeout {
			return ReasonTimeout
		}
		return ReasonDNS
	case errors.As(err, &record), errors.As(err, &alert), errors.As(err, &certVerify),
		errors.As(err, &unknownCA), errors.As(err, &hostname), errors.As(err, &invalid):
		return ReasonTLS
	case errors.As(err, &netErr) && netErr.Timeout():
		return ReasonTimeout
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH),
		errors.Is(err, syscall.EHOSTDOWN), errors.Is(err, syscall.ENETDOWN):
		return ReasonRefused
	case errors.Is(err, fs.ErrPermission):
		return ReasonPermission
	case errors.Is(err, fs.ErrNotExist):
		if isDial(err) { // a unix socket's file is missing: nobody listens
			return ReasonRefused
		}
		return ReasonNotFound
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET),
		errors.Is(err, syscall.EPIPE), errors.Is(err, net.ErrClosed):
		return ReasonProtocol
	}
	return ReasonOther
}

func isDial(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial"
}
