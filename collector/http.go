// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strings"
	"time"

	"github.com/prometheus/common/version"

	"github.com/niodoo/niodoo_exporter/internal/config"
)

// Limits of an answer's body, in bytes after decompression.
const (
	maxHealthBody  = 64 << 10
	maxAPIBody     = 1 << 20
	maxListBody    = 8 << 20
	maxMetricsBody = 16 << 20
)

// httpClient speaks to one HTTP service. It keeps few connections, follows no
// redirect, uses no proxy and reads secrets when it sends them.
type httpClient struct {
	base      *url.URL
	client    *http.Client
	transport *http.Transport
	// authorize adds credentials to a request; nil for none.
	authorize func(*http.Request) error
}

// newHTTPClient makes the client of an HTTP section.
func newHTTPClient(cfg config.HTTP, deps Deps) (*httpClient, error) {
	base, err := url.Parse(strings.TrimRight(cfg.URL, "/"))
	if err != nil {
		return nil, errors.New("the url cannot be parsed") // its text may hold credentials
	}
	c := &httpClient{base: base, authorize: authorizer(cfg.Authorization, cfg.BasicAuth)}
	c.transport = &http.Transport{
		DialContext:         deps.DialContext,
		MaxIdleConnsPerHost: 2,
		MaxConnsPerHost:     4,
		// Longer than any sensible scrape interval, or each scrape connects anew.
		IdleConnTimeout:        5 * time.Minute,
		MaxResponseHeaderBytes: 64 << 10,
	}
	if base.Scheme == "https" {
		c.transport.DialTLSContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
			return dialTLS(ctx, deps.DialContext, network, addr, cfg.TLSConfig)
		}
	}
	c.client = &http.Client{
		Transport:     c.transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return c, nil
}

// dialTLS connects and shakes hands. It reads the certificates' files each
// time, so that rotated ones need no reload.
func dialTLS(ctx context.Context, dial func(context.Context, string, string) (net.Conn, error), network, addr string, cfg config.TLS) (net.Conn, error) {
	tlsCfg, err := tlsConfig(cfg)
	if err != nil {
		return nil, err
	}
	if tlsCfg.ServerName == "" {
		host, _, err := net.SplitHostPort(addr)
		if err != nil {
			return nil, fmt.Errorf("splitting %q: %w", addr, err)
		}
		tlsCfg.ServerName = host
	}
	raw, err := dial(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	conn := tls.Client(raw, tlsCfg)
	if err := conn.HandshakeContext(ctx); err != nil {
		raw.Close()
		return nil, handshakeFailure(ctx, err)
	}
	return conn, nil
}

// handshakeFailure gives a failed handshake its reason: whatever the other
// side said instead of TLS, the handshake is what failed, unless time ran out.
func handshakeFailure(ctx context.Context, err error) error {
	switch r := classify(err); {
	case ctx.Err() != nil, r == ReasonTimeout:
		return fail(ReasonTimeout, fmt.Errorf("TLS handshake: %w", err))
	default:
		return fail(ReasonTLS, fmt.Errorf("TLS handshake: %w", err))
	}
}

// tlsConfig reads a tls_config section's files.
func tlsConfig(cfg config.TLS) (*tls.Config, error) {
	c, err := cfg.Client()
	if err != nil {
		return nil, fail(ReasonConfig, err)
	}
	return c, nil
}

// authorizer returns what adds credentials to a request, nil for none.
func authorizer(a *config.Authorization, b *config.BasicAuth) func(*http.Request) error {
	switch {
	case a != nil:
		return func(r *http.Request) error {
			s, err := a.CredentialsFile.Read()
			if err != nil {
				return fail(ReasonConfig, err)
			}
			typ := strings.TrimSpace(a.Type)
			if typ == "" {
				typ = "Bearer"
			}
			r.Header.Set("Authorization", typ+" "+s.Reveal())
			return nil
		}
	case b != nil:
		return func(r *http.Request) error {
			s, err := b.PasswordFile.Read()
			if err != nil {
				return fail(ReasonConfig, err)
			}
			r.SetBasicAuth(b.Username, s.Reveal())
			return nil
		}
	}
	return nil
}

// reply is a complete HTTP answer.
type reply struct {
	what        string // method and path, for errors
	status      int
	header      http.Header
	body        []byte
	elapsed     time.Duration // from the moment a connection was there
	tlsNotAfter time.Time     // zero without TLS
}

// get asks for a path below the base URL, query included, and reads at most
// limit bytes. An answer of any status is no error; see [reply.ok].
func (c *httpClient) get(ctx context.Context, path string, limit int64) (*reply, error) {
	return c.do(ctx, http.MethodGet, path, nil, limit)
}

// do sends a request with an optional JSON body; see [httpClient.get].
func (c *httpClient) do(ctx context.Context, method, path string, body []byte, limit int64) (*reply, error) {
	return c.exchange(ctx, method, path, body, func(res *http.Response) ([]byte, error) { return readAll(res.Body, limit) })
}

// readAll reads an answer of at most limit bytes.
func readAll(r io.Reader, limit int64) ([]byte, error) {
	raw, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err == nil && int64(len(raw)) > limit {
		return nil, failf(ReasonTooLarge, "the answer is larger than %d bytes", limit)
	}
	return raw, err
}

// exchange sends a request and has read take what it needs of the answer's
// body, which becomes the reply's.
func (c *httpClient) exchange(ctx context.Context, method, path string, body []byte, read func(*http.Response) ([]byte, error)) (*reply, error) {
	what := method + " " + cmp.Or(strings.SplitN(path, "?", 2)[0], c.base.Path, "/")
	started := time.Now()
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn: func(httptrace.GotConnInfo) { started = time.Now() },
	})
	req, err := http.NewRequestWithContext(ctx, method, c.base.String()+path, bytes.NewReader(body))
	if err != nil {
		return nil, fail(ReasonConfig, fmt.Errorf("%s: the URL cannot be used", what))
	}
	req.Header.Set("User-Agent", "niodoo_exporter/"+version.Version)
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if c.authorize != nil {
		if err := c.authorize(req); err != nil {
			return nil, err
		}
	}
	res, err := c.client.Do(req)
	if err != nil {
		return nil, transportFailure(ctx, what, err)
	}
	defer res.Body.Close()
	raw, err := read(res)
	if err != nil {
		return nil, transportFailure(ctx, what, err)
	}
	r := &reply{what: what, status: res.StatusCode, header: res.Header, body: raw, elapsed: time.Since(started)}
	if res.TLS != nil {
		r.tlsNotAfter = notAfter(res.TLS)
	}
	return r, nil
}

// transportFailure is the failure of a request that brought no whole answer.
// The error of net/http repeats the URL; ours does not.
func transportFailure(ctx context.Context, what string, err error) error {
	if ue, ok := errors.AsType[*url.Error](err); ok {
		err = ue.Err
	}
	r := classify(err)
	var f *Failure
	switch {
	case errors.As(err, &f):
	case ctx.Err() != nil:
		r = ReasonTimeout
	case r == ReasonOther: // net/http's own words for an answer that is not HTTP
		r = ReasonProtocol
	}
	return fail(r, fmt.Errorf("%s: %w", what, err))
}

// notAfter returns when the first certificate of the chain expires.
func notAfter(s *tls.ConnectionState) time.Time {
	var first time.Time
	for _, c := range s.PeerCertificates {
		if first.IsZero() || c.NotAfter.Before(first) {
			first = c.NotAfter
		}
	}
	return first
}

// ok returns the failure of an answer that is not 2xx.
func (r *reply) ok() error {
	if r.status >= 200 && r.status < 300 {
		return nil
	}
	return statusFailure(r.what, r.status)
}

// isHTML reports whether a login page or a proxy answered instead.
func (r *reply) isHTML() bool {
	mt, _, _ := mime.ParseMediaType(r.header.Get("Content-Type"))
	return mt == "text/html" || bytes.HasPrefix(bytes.TrimSpace(r.body), []byte("<"))
}

// json decodes the body leniently: unknown fields are ignored.
func (r *reply) json(v any) error {
	if r.isHTML() {
		return failf(ReasonParse, "%s: the answer is HTML, not JSON", r.what)
	}
	if err := json.Unmarshal(r.body, v); err != nil {
		return fail(ReasonParse, fmt.Errorf("%s: the answer is not the JSON expected: %w", r.what, err))
	}
	return nil
}

// getJSON is get, ok and json in one.
func (c *httpClient) getJSON(ctx context.Context, path string, limit int64, v any) (*reply, error) {
	r, err := c.get(ctx, path, limit)
	if err != nil {
		return nil, err
	}
	if err := r.ok(); err != nil {
		return r, err
	}
	return r, r.json(v)
}

// Close closes the connections; the next request connects anew.
func (c *httpClient) Close() error {
	c.transport.CloseIdleConnections()
	// The old transport keeps maps of what was connected; with the targets of a fleet they add up.
	c.transport = c.transport.Clone()
	c.client.Transport = c.transport
	return nil
}
