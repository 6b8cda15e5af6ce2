// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"go.uber.org/goleak"

	"github.com/niodoo/niodoo_exporter/internal/config"
)

// What every collector's test uses: parse a configuration, scrape it the way
// the exporter does, compare with a golden file, provoke a failure.

var update = flag.Bool("update", false, "rewrite the golden files in testdata")

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// only returns the configuration in which just the named collector runs, with
// its section as given in YAML: only(t, "redis", `{address: "127.0.0.1:1"}`).
func only(t testing.TB, name, section string) *config.Config {
	t.Helper()
	var b strings.Builder
	for _, n := range config.Names() {
		if n != name {
			fmt.Fprintf(&b, "%s: {enabled: false}\n", n)
		}
	}
	fmt.Fprintf(&b, "%s: %s\n", name, section)
	cfg, err := config.Parse("test.yml", []byte(b.String()))
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

// scraper returns the scraper of cfg; it is closed when the test ends.
func scraper(t testing.TB, cfg *config.Config) *Scraper {
	t.Helper()
	return scraperWith(t, cfg, Deps{Logger: slog.New(slog.NewTextHandler(t.Output(), nil))}, Options{})
}

func scraperWith(t testing.TB, cfg *config.Config, deps Deps, opts Options) *Scraper {
	t.Helper()
	s := NewScraper(cfg, deps, opts, nil)
	t.Cleanup(func() { s.Retire(nil) })
	return s
}

// scrape scrapes once with a deadline of 5 s.
func scrape(t testing.TB, s *Scraper) Result {
	t.Helper()
	return s.Scrape(context.Background(), 5*time.Second, nil)
}

// text is the exposition of families.
func text(families []*dto.MetricFamily) string {
	var b bytes.Buffer
	for _, f := range families {
		if _, err := expfmt.MetricFamilyToText(&b, f); err != nil {
			panic(err)
		}
	}
	return b.String()
}

// value returns the value of a series such as `niodoo_component_up{component="redis"}`.
func value(t testing.TB, families []*dto.MetricFamily, series string) float64 {
	t.Helper()
	v, ok := lookup(families, series)
	if !ok {
		t.Fatalf("no series %s in\n%s", series, text(families))
	}
	return v
}

func lookup(families []*dto.MetricFamily, series string) (float64, bool) {
	for line := range strings.Lines(text(families)) {
		if rest, ok := strings.CutPrefix(line, series+" "); ok {
			var v float64
			_, err := fmt.Sscanf(rest, "%g", &v)
			return v, err == nil
		}
	}
	return 0, false
}

// golden compares the scrape with testdata/<file>.prom. Values of families in
// volatile are not compared, only that they are there. It also lints.
func golden(t *testing.T, file string, families []*dto.MetricFamily, volatile ...string) {
	t.Helper()
	lint(t, families)
	volatile = append(volatile, "niodoo_scrape_collector_duration_seconds", "niodoo_component_response_seconds")
	var b strings.Builder
	for line := range strings.Lines(text(families)) {
		name, _, _ := strings.Cut(line, " ")
		name, _, _ = strings.Cut(name, "{")
		if slices.Contains(volatile, name) {
			line = line[:strings.LastIndex(line, " ")] + " VOLATILE\n"
		}
		b.WriteString(line)
	}
	path := filepath.Join("testdata", file+".prom")
	if *update {
		if err := os.WriteFile(path, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("%v; run go test ./collector -update", err)
	}
	if d := cmp.Diff(string(want), b.String()); d != "" {
		t.Errorf("%s differs (-want +got), see go test ./collector -update:\n%s", path, d)
	}
}

// described feeds families to client_golang's pedantic registry.
type described struct{ families []*dto.MetricFamily }

func (d described) Describe(ch chan<- *prometheus.Desc) {
	for _, f := range d.families {
		ch <- catalogue[f.GetName()].desc
	}
}

func (d described) Collect(ch chan<- prometheus.Metric) {
	for _, f := range d.families {
		for _, m := range f.Metric {
			ch <- rawMetric{catalogue[f.GetName()].desc, m}
		}
	}
}

type rawMetric struct {
	desc *prometheus.Desc
	m    *dto.Metric
}

func (r rawMetric) Desc() *prometheus.Desc { return r.desc }
func (r rawMetric) Write(m *dto.Metric) error {
	m.Label, m.Gauge, m.Counter, m.Histogram = r.m.Label, r.m.Gauge, r.m.Counter, r.m.Histogram
	return nil
}

// lint holds families against client_golang's pedantic registry and promlint.
func lint(t testing.TB, families []*dto.MetricFamily) {
	t.Helper()
	reg := prometheus.NewPedanticRegistry()
	if err := reg.Register(described{families}); err != nil {
		t.Errorf("pedantic registry: %v", err)
	}
	problems, err := testutil.GatherAndLint(reg)
	if err != nil {
		t.Errorf("pedantic registry: %v", err)
	}
	for _, p := range problems {
		t.Errorf("promlint: %s: %s", p.Metric, p.Text)
	}
}

// expectFailure scrapes cfg, in which only the named component runs, and
// expects it to be up or not and to fail for exactly the given reason.
func expectFailure(t *testing.T, cfg *config.Config, name string, up bool, reason Reason) Result {
	t.Helper()
	return expectFailureOf(t, scraper(t, cfg), name, up, reason, 2*time.Second)
}

func expectFailureOf(t *testing.T, s *Scraper, name string, up bool, reason Reason, timeout time.Duration) Result {
	t.Helper()
	res := s.Scrape(context.Background(), timeout, nil)
	lint(t, res.Families)
	if v, isService := lookup(res.Families, `niodoo_component_up{component="`+name+`"}`); isService && v != boolValue(up) {
		t.Errorf("component_up is %v, want %v", v, up)
	}
	if v := value(t, res.Families, `niodoo_scrape_collector_success{collector="`+name+`"}`); v != 0 {
		t.Errorf("success is %v, want 0", v)
	}
	var got []string
	for _, f := range res.Families {
		if f.GetName() == scrapeFailure.Name {
			for _, m := range f.Metric {
				got = append(got, m.Label[1].GetValue())
			}
		}
	}
	if want := []string{string(reason)}; !slices.Equal(got, want) {
		t.Errorf("reasons are %v, want %v (failures: %v)", got, want, res.Failures)
	}
	return res
}

// serve answers every request with status and body.
func serve(t testing.TB, status int, contentType, body string) *httptest.Server {
	t.Helper()
	return serveFunc(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", contentType)
		w.WriteHeader(status)
		fmt.Fprint(w, body)
	})
}

// serveFunc starts an HTTP server on a free loopback port.
func serveFunc(t testing.TB, f http.HandlerFunc) *httptest.Server {
	t.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// A server sees that its client has gone only once it has read the body:
		// else a handler that waits for that would wait for ever.
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		f(w, r)
	}))
	t.Cleanup(srv.Close)
	return srv
}

// closedPort returns an address on which nobody listens.
func closedPort(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// listen calls f for every connection to a free loopback port, for answers
// that no well-behaved server gives.
func listen(t testing.TB, f func(net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				f(c)
			}()
		}
	}()
	return l.Addr().String()
}

// hang holds every connection without a word until the peer goes away.
func hang(t testing.TB) string {
	t.Helper()
	return listen(t, func(c net.Conn) {
		buf := make([]byte, 4096)
		for {
			if _, err := c.Read(buf); err != nil {
				return
			}
		}
	})
}

// httpFailure is a way in which an HTTP service's health request can fail.
type httpFailure struct {
	name   string
	url    func(t testing.TB) string
	up     bool
	reason Reason
}

// httpFailures are the rows of the contract's table that every HTTP service
// shares: collectors add what is their own.
func httpFailures() []httpFailure {
	answer := func(status int, ct, body string) func(testing.TB) string {
		return func(t testing.TB) string { return serve(t, status, ct, body).URL }
	}
	return []httpFailure{
		{"refused", func(t testing.TB) string { return "http://" + closedPort(t) }, false, ReasonRefused},
		{"hanging", func(t testing.TB) string { return "http://" + hang(t) }, false, ReasonTimeout},
		{"dns", func(testing.TB) string { return "http://no-such-host.invalid:1" }, false, ReasonDNS},
		{"tls", func(t testing.TB) string {
			return strings.Replace(serve(t, 200, "text/plain", "ok").URL, "http:", "https:", 1)
		}, false, ReasonTLS},
		{"401", answer(401, "text/plain", "Unauthorized"), true, ReasonAuth},
		{"403", answer(403, "text/plain", ""), true, ReasonAuth},
		{"404", answer(404, "text/plain", "404 page not found"), false, ReasonNotFound},
		{"429", answer(429, "text/plain", ""), true, ReasonRateLimited},
		{"500", answer(500, "text/plain", "oops"), false, ReasonHTTPStatus},
		{"503", answer(503, "text/plain", "starting"), false, ReasonNotReady},
		{"redirect", func(t testing.TB) string {
			return serveFunc(t, func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/login", http.StatusFound) }).URL
		}, false, ReasonHTTPStatus},
		{"login page", answer(200, "text/html", "<!DOCTYPE html><html>Sign in</html>"), false, ReasonParse},
		{"too large", answer(200, "application/json", strings.Repeat(" ", maxMetricsBody+1)), false, ReasonTooLarge},
		{"not HTTP", func(t testing.TB) string {
			return "http://" + listen(t, func(c net.Conn) {
				_, _ = c.Read(make([]byte, 1024))
				fmt.Fprint(c, "-ERR unknown command\r\n")
			})
		}, false, ReasonProtocol},
		{"closed at once", func(t testing.TB) string { return "http://" + listen(t, func(net.Conn) {}) }, false, ReasonProtocol},
		{"closed in mid-answer", func(t testing.TB) string {
			return "http://" + listen(t, func(c net.Conn) {
				_, _ = c.Read(make([]byte, 1024))
				fmt.Fprint(c, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"sta")
			})
		}, false, ReasonProtocol},
	}
}

// testHTTPFailures provokes each of httpFailures against a collector whose
// section has a url, but for those named in skip.
func testHTTPFailures(t *testing.T, name string, skip ...string) {
	t.Helper()
	for _, f := range httpFailures() {
		if slices.Contains(skip, f.name) {
			continue
		}
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			timeout := 10 * time.Second
			if f.reason == ReasonTimeout {
				timeout = 300 * time.Millisecond
			}
			s := scraper(t, only(t, name, fmt.Sprintf("{url: %q, timeout: %s}", f.url(t), timeout)))
			expectFailureOf(t, s, name, f.up, f.reason, 2*timeout)
		})
	}
}

// writeKeyPair writes a self-signed certificate for 127.0.0.1 and its key.
func writeKeyPair(t testing.TB, certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	rawKey, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for file, block := range map[string]*pem.Block{certFile: {Type: "CERTIFICATE", Bytes: der}, keyFile: {Type: "PRIVATE KEY", Bytes: rawKey}} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// closeConnections closes what the collectors keep between scrapes; the next
// scrape opens it anew.
func closeConnections(s *Scraper) {
	for _, u := range s.units {
		u.closeCollector()
	}
}
