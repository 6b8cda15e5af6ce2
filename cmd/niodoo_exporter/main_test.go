// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// The whole program, run the way a user runs it.

// exporter is a running niodoo_exporter.
type exporter struct {
	t      *testing.T
	url    string
	config string
	log    *lockedBuffer
	hup    chan os.Signal
	stop   context.CancelFunc
	code   chan int
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

var listening = regexp.MustCompile(`msg="Listening on" address=(\S+)`)

// start runs the exporter with a configuration on a free port.
func start(t *testing.T, cfg string, args ...string) *exporter {
	t.Helper()
	e := &exporter{t: t, config: filepath.Join(t.TempDir(), "niodoo.yml"), log: &lockedBuffer{}, hup: make(chan os.Signal, 1), code: make(chan int, 1)}
	e.write(cfg)
	ctx, cancel := context.WithCancel(context.Background())
	e.stop = cancel
	args = append([]string{"--config.file=" + e.config, "--web.listen-address=127.0.0.1:0", "--runtime.gomaxprocs=2"}, args...)
	go func() { e.code <- run(ctx, args, io.Discard, e.log, e.hup) }()
	t.Cleanup(func() {
		cancel()
		select {
		case <-e.code:
		case <-time.After(20 * time.Second):
			t.Error("the exporter does not stop")
		}
	})
	await(t, "the exporter listens", func() bool {
		m := listening.FindStringSubmatch(e.log.String())
		if m != nil {
			e.url = "http://" + m[1]
		}
		return m != nil
	})
	return e
}

func (e *exporter) write(cfg string) {
	e.t.Helper()
	if err := os.WriteFile(e.config, []byte(cfg), 0o600); err != nil {
		e.t.Fatal(err)
	}
}

// end sends the exporter SIGTERM and returns its exit code.
func (e *exporter) end() int {
	e.stop()
	code := <-e.code
	e.code <- code
	return code
}

func await(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !cond(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain until %s", what)
		}
	}
}

// get returns the status and the body.
func (e *exporter) get(path string, header ...string) (int, string) {
	e.t.Helper()
	req, err := http.NewRequest(http.MethodGet, e.url+path, nil)
	if err != nil {
		e.t.Fatal(err)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		e.t.Error(err)
		return 0, ""
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		e.t.Error(err)
	}
	return res.StatusCode, string(b)
}

func (e *exporter) post(path string) (int, string) {
	e.t.Helper()
	res, err := http.Post(e.url+path, "", nil)
	if err != nil {
		e.t.Fatal(err)
	}
	defer res.Body.Close()
	b, _ := io.ReadAll(res.Body)
	return res.StatusCode, string(b)
}

// families parses an exposition and fails on one that is not whole.
func families(t *testing.T, body string) map[string]*dto.MetricFamily {
	t.Helper()
	p := expfmt.NewTextParser(model.UTF8Validation)
	f, err := p.TextToMetricFamilies(strings.NewReader(body))
	if err != nil {
		t.Fatalf("%v in\n%s", err, body)
	}
	return f
}

// series returns the values of a family by the value of a label.
func series(t *testing.T, body, name, label string) map[string]float64 {
	t.Helper()
	out := map[string]float64{}
	for _, m := range families(t, body)[name].GetMetric() {
		for _, l := range m.Label {
			if l.GetName() == label {
				out[l.GetValue()] = m.GetGauge().GetValue() + m.GetCounter().GetValue()
			}
		}
	}
	return out
}

const nothingElse = `
postgresql: {enabled: false}
redis: {enabled: false}
ollama: {enabled: false}
qdrant: {enabled: false}
prometheus: {enabled: false}
host: {enabled: false}
logs: {enabled: false}
backup: {enabled: false}
operations: {enabled: false}
engine: {enabled: false}
`

// grafanaAt is a configuration in which only Grafana is watched.
func grafanaAt(url string, more ...string) string {
	return nothingElse + fmt.Sprintf("grafana: {url: %q%s}\n", url, strings.Join(append([]string{""}, more...), ", "))
}

func healthy(t *testing.T) string {
	t.Helper()
	return server200(t, func(http.ResponseWriter, *http.Request) {})
}

// server200 runs before, then answers as a healthy Grafana does.
func server200(t *testing.T, before http.HandlerFunc) string {
	t.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		before(w, r)
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprint(w, `{"database": "ok", "version": "12.1.0"}`)
	}))
	t.Cleanup(srv.Close)
	return srv.URL
}

// deadURL is an address on which nobody listens.
func deadURL(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return "http://" + l.Addr().String()
}

// A scrape answers before Prometheus gives up, with what the others have found,
// while one component hangs.
func TestAnswersInTime(t *testing.T) {
	hung := make(chan struct{})
	defer close(hung)
	slow := server200(t, func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-hung:
		case <-r.Context().Done():
		}
	})
	e := start(t, grafanaAt(healthy(t))+fmt.Sprintf("alertmanager: {url: %q}\nloki: {url: %q}\n", slow, slow))
	began := time.Now()
	status, body := e.get("/metrics", timeoutHeader, "2")
	if d := time.Since(began); d >= 2*time.Second || d < 1500*time.Millisecond {
		t.Errorf("answered after %s", d)
	}
	if status != 200 {
		t.Fatalf("status %d", status)
	}
	if up := series(t, body, "niodoo_component_up", "component"); up["grafana"] != 1 || up["loki"] != 0 || up["alertmanager"] != 0 || len(up) != 3 {
		t.Errorf("up: %v", up)
	}
	if why := series(t, body, "niodoo_scrape_collector_failure_info", "reason"); len(why) != 1 || why["timeout"] != 1 {
		t.Errorf("reasons: %v", why)
	}
	if got := families(t, body)["niodoo_scrape_timeout_seconds"].Metric[0].GetGauge().GetValue(); got != 1.75 {
		t.Errorf("timeout is %v", got)
	}
}

func TestTimeout(t *testing.T) {
	s := &server{opts: &options{scrapeTimeout: 10 * time.Second, timeoutOffset: 250 * time.Millisecond}}
	for header, want := range map[string]time.Duration{
		"": 10 * time.Second, "30": 10 * time.Second, "2": 1750 * time.Millisecond, "0.4": 200 * time.Millisecond, "0.1": 50 * time.Millisecond,
		"0": 10 * time.Second, "-3": 10 * time.Second, "NaN": 10 * time.Second, "Inf": 10 * time.Second, "1e300": 10 * time.Second, "soon": 10 * time.Second,
	} {
		r := httptest.NewRequest(http.MethodGet, "/metrics", nil)
		r.Header.Set(timeoutHeader, header)
		if got := s.timeout(r); got != want {
			t.Errorf("%q grants %s, want %s", header, got, want)
		}
	}
}

func TestFilter(t *testing.T) {
	e := start(t, grafanaAt(healthy(t))+fmt.Sprintf("loki: {url: %q}\n", deadURL(t)))
	for query, want := range map[string]struct {
		status int
		body   string
	}{
		"?collect[]=grafana":                   {200, `niodoo_component_up{component="grafana"} 1`},
		"?exclude[]=loki":                      {200, `niodoo_component_up{component="grafana"} 1`},
		"?collect[]=grafna":                    {400, `collector "grafna" is unknown; enabled: grafana, loki`},
		"?exclude[]=grafna":                    {400, `"grafna" is unknown`},
		"?collect[]=redis":                     {400, `"redis" is not enabled`},
		"?exclude[]=grafana&exclude[]=loki":    {400, "leaves no collector"},
		"?collect[]=loki&exclude[]=grafana":    {400, "exclude each other"},
		"?collect[]=":                          {400, "is unknown"},
		"?collect=grafana":                     {400, "write collect[]"},
		"?exclude=loki":                        {400, "write exclude[]"},
		"?collect[]=grafana&collect[]=grafana": {200, `niodoo_component_up{component="grafana"} 1`},
	} {
		status, body := e.get("/metrics" + query)
		if status != want.status || !strings.Contains(body, want.body) {
			t.Errorf("%s: %d %s", query, status, body)
		}
		if status == 200 && strings.Contains(body, `component="loki"`) {
			t.Errorf("%s: the filter lets loki through", query)
		}
	}
}

// The limit holds for filtered scrapes too, and health stays outside it.
func TestLimit(t *testing.T) {
	entered, release := make(chan struct{}), make(chan struct{})
	slow := server200(t, func(http.ResponseWriter, *http.Request) {
		entered <- struct{}{}
		<-release
	})
	e := start(t, grafanaAt(slow)+fmt.Sprintf("loki: {url: %q}\n", deadURL(t)), "--web.max-requests=1")
	done := make(chan int)
	go func() {
		status, _ := e.get("/metrics")
		done <- status
	}()
	<-entered
	for _, q := range []string{"", "?collect[]=loki", "?exclude[]=grafana"} {
		if status, _ := e.get("/metrics" + q); status != 503 {
			t.Errorf("%q in flight with another: %d", q, status)
		}
	}
	for _, p := range []string{"/-/healthy", "/-/ready", "/"} {
		if status, _ := e.get(p); status != 200 {
			t.Errorf("%s: %d", p, status)
		}
	}
	close(release)
	if status := <-done; status != 200 {
		t.Errorf("the scrape in flight: %d", status)
	}
	_, body := e.get("/metrics?collect[]=loki")
	if got := series(t, body, "niodoo_exporter_requests_rejected_total", "handler"); got["metrics"] != 3 || got["probe"] != 0 {
		t.Errorf("rejected: %v", got)
	}
}

// SIGTERM with a scrape in flight: the scrape is answered whole, the exit code is 0.
func TestStopsGracefully(t *testing.T) {
	entered, release := make(chan struct{}), make(chan struct{})
	slow := server200(t, func(http.ResponseWriter, *http.Request) {
		close(entered)
		<-release
	})
	e := start(t, grafanaAt(slow))
	type answer struct {
		status int
		body   string
	}
	got := make(chan answer)
	go func() {
		status, body := e.get("/metrics")
		got <- answer{status, body}
	}()
	<-entered
	e.stop()
	await(t, "it says that it stops", func() bool { return strings.Contains(e.log.String(), "Stopping") })
	close(release)
	if a := <-got; a.status != 200 || !strings.Contains(a.body, `niodoo_component_up{component="grafana"} 1`) {
		t.Errorf("answered %d\n%s", a.status, a.body)
	}
	if code := e.end(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

// Nothing runs but the exporter: it is silent about nothing and exits well.
func TestNothingRuns(t *testing.T) {
	dead := deadURL(t)
	addr := strings.TrimPrefix(dead, "http://")
	host, port, _ := net.SplitHostPort(addr)
	cfg := fmt.Sprintf("postgresql: {host: %s, port: %s}\nredis: {address: %q}\nlogs: {enabled: false}\nbackup: {enabled: false}\n", host, port, addr)
	for _, s := range []string{"engine", "ollama", "qdrant", "prometheus", "grafana"} {
		cfg += fmt.Sprintf("%s: {url: %q}\n", s, dead)
	}
	e := start(t, cfg)
	status, body := e.get("/metrics")
	if status != 200 {
		t.Fatalf("status %d", status)
	}
	required := series(t, body, "niodoo_component_required", "component")
	up := series(t, body, "niodoo_component_up", "component")
	for _, c := range []string{"engine", "postgresql", "redis", "ollama", "qdrant", "prometheus", "grafana"} {
		if v, ok := up[c]; !ok || v != 0 || required[c] != 1 {
			t.Errorf("%s: up %v (there: %v), required %v", c, v, ok, required[c])
		}
		want := fmt.Sprintf(`niodoo_scrape_collector_failure_info{collector=%q,reason="refused"} 1`, c)
		if !strings.Contains(body, want) {
			t.Errorf("no %s", want)
		}
	}
	if code := e.end(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

// Whatever fails, at the most talkative level, no secret is written or served.
func TestSecretsStayInside(t *testing.T) {
	dir := t.TempDir()
	secret := "s3cr3t-p@ss"
	file := filepath.Join(dir, "secret")
	if err := os.WriteFile(file, []byte(secret+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	refusing := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Error(w, "you sent "+r.Header.Get("Authorization")+r.Header.Get("api-key"), http.StatusUnauthorized)
	}))
	defer refusing.Close()
	addr := strings.TrimPrefix(refusing.URL, "http://")
	host, port, _ := net.SplitHostPort(addr)
	e := start(t, fmt.Sprintf(`
engine: {url: %[1]q, authorization: {credentials_file: %[2]q}}
grafana: {url: %[1]q, basic_auth: {username: u, password_file: %[2]q}}
qdrant: {url: %[1]q, api_key_file: %[2]q}
redis: {address: %[3]q, password_file: %[2]q}
postgresql: {host: %[4]s, port: %[5]s, password_file: %[2]q}
modules: {m: {services: {engine: {url: %[1]q, authorization: {credentials_file: %[2]q}}}, allow: ['127\.0\.0\.1']}}
`, refusing.URL, file, addr, host, port), "--log.level=debug")
	for _, p := range []string{"/metrics", "/metrics", "/", "/sd", "/probe?module=m&target=127.0.0.1", "/probe?module=m&target=127.0.0.1&debug=true"} {
		_, body := e.get(p)
		if strings.Contains(body, "s3cr3t") || strings.Contains(body, "czNjcjN0") {
			t.Errorf("%s tells a secret:\n%s", p, body)
		}
	}
	e.end()
	if l := e.log.String(); strings.Contains(l, "s3cr3t") || strings.Contains(l, "czNjcjN0") {
		t.Errorf("the log tells a secret:\n%s", l)
	}
}

func TestReload(t *testing.T) {
	e := start(t, grafanaAt(deadURL(t)), "--web.enable-lifecycle")
	_, before := e.get("/metrics")
	if !strings.Contains(before, `niodoo_component_up{component="grafana"} 0`) {
		t.Fatal("grafana should be down at first")
	}
	e.write("grafana: {urll: x}\n")
	status, body := e.post("/-/reload")
	if status != 500 || !strings.Contains(body, `niodoo.yml:1: grafana.urll: unknown key; did you mean "url"?`) {
		t.Errorf("a bad configuration: %d %s", status, body)
	}
	_, body = e.get("/metrics")
	if got := families(t, body)["niodoo_exporter_config_last_reload_successful"].Metric[0].GetGauge().GetValue(); got != 0 {
		t.Errorf("reload_successful is %v", got)
	}
	if !strings.Contains(body, `niodoo_component_up{component="grafana"} 0`) || !strings.Contains(e.log.String(), "urll") {
		t.Error("the old configuration is lost, or the log does not say why")
	}
	if status, _ := e.get("/-/reload"); status != http.StatusMethodNotAllowed {
		t.Errorf("GET /-/reload: %d", status)
	}

	e.write(grafanaAt(healthy(t)))
	e.hup <- syscall.SIGHUP
	await(t, "SIGHUP has been obeyed", func() bool {
		_, body := e.get("/metrics")
		return strings.Contains(body, `niodoo_component_up{component="grafana"} 1`) &&
			strings.Contains(body, "niodoo_exporter_config_last_reload_successful 1")
	})
}

func TestReloadIsOffByDefault(t *testing.T) {
	e := start(t, grafanaAt(healthy(t)))
	if status, body := e.post("/-/reload"); status != 403 || !strings.Contains(body, "--web.enable-lifecycle") {
		t.Errorf("%d %s", status, body)
	}
}

// 1,000 scrapes while the configuration is swapped 50 times: each is answered
// 200 and whole.
func TestReloadUnderLoad(t *testing.T) {
	a, b := healthy(t), healthy(t)
	cfgs := [2]string{grafanaAt(a) + fmt.Sprintf("loki: {url: %q}\n", b), grafanaAt(b) + fmt.Sprintf("loki: {url: %q}\n", a)}
	e := start(t, cfgs[0], "--web.enable-lifecycle")
	var wg sync.WaitGroup
	var left atomic.Int32
	left.Store(1000)
	for range 8 {
		wg.Go(func() {
			for left.Add(-1) >= 0 {
				status, body := e.get("/metrics")
				if status != 200 {
					t.Errorf("status %d", status)
					return
				}
				up := series(t, body, "niodoo_component_up", "component")
				if up["grafana"] != 1 || len(up) != 2 || !strings.Contains(body, "go_goroutines") {
					t.Errorf("not whole: %v", up)
					return
				}
			}
		})
	}
	for i := range 50 {
		e.write(cfgs[(i+1)%2])
		if status, body := e.post("/-/reload"); status != 200 {
			t.Errorf("reload: %d %s", status, body)
		}
	}
	wg.Wait()
}

func fleetConfig(url, token string) string {
	return grafanaAt("http://127.0.0.1:1") + fmt.Sprintf(`
modules:
  stack:
    services: {grafana: {url: %q, authorization: {credentials_file: %q}}}
    allow: ['127\.0\.0\.1', 'localhost', 'no-such-host\.invalid']
fleet:
  - {module: stack, targets: [127.0.0.1, localhost], labels: {cluster: a}}
`, url, token)
}

func TestProbe(t *testing.T) {
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte("t0ken"), 0o600); err != nil {
		t.Fatal(err)
	}
	var connections, authorized atomic.Int32
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") == "Bearer t0ken" {
			authorized.Add(1)
		}
		fmt.Fprint(w, `{"database": "ok", "version": "12.1.0"}`)
	}))
	var open sync.Map
	srv.Config.ConnState = func(c net.Conn, s http.ConnState) {
		switch s {
		case http.StateNew:
			connections.Add(1)
			open.Store(c, true)
		case http.StateClosed:
			open.Delete(c)
		}
	}
	srv.Start()
	defer srv.Close()
	e := start(t, fleetConfig(srv.URL, token))
	for query, want := range map[string]struct {
		status int
		body   string
	}{
		"":                                           {400, "the parameter module is missing"},
		"?module=stack":                              {400, "the parameter target is missing"},
		"?module=other&target=a":                     {400, `there is no module "other"`},
		"?module=stack&target=a:80":                  {400, "bare host name"},
		"?module=stack&target=http://":               {400, "bare host name"},
		"?module=stack&target=127.0.0.1@evil":        {400, "bare host name"},
		"?module=stack&target=evil.example.com":      {403, "matches no expression of modules.stack.allow"},
		"?module=stack&target=127.0.0.1.example.com": {403, "matches no expression"},
		"?module=stack&target=127.0.0.1":             {200, "probe_success 1"},
		"?module=stack&target=localhost":             {200, "probe_success 1"},
		"?module=stack&target=no-such-host.invalid":  {200, `niodoo_scrape_collector_failure_info{collector="grafana",reason="dns"} 1`},
		"?module=stack&target=127.0.0.1&debug=true":  {200, "credentials_file: " + token},
	} {
		if status, body := e.get("/probe" + query); status != want.status || !strings.Contains(body, want.body) {
			t.Errorf("%s: %d\n%s", query, status, body)
		}
	}
	if n := authorized.Load(); n != 3 {
		t.Errorf("%d requests carried the token, want 3", n)
	}
	_, body := e.get("/probe?module=stack&target=127.0.0.1")
	f := families(t, body)
	if f["probe_duration_seconds"] == nil || f["niodoo_component_up"] == nil {
		t.Errorf("series are missing:\n%s", body)
	}
	for name := range f {
		if strings.HasPrefix(name, "go_") || strings.HasPrefix(name, "process_") || strings.HasPrefix(name, "niodoo_exporter_") {
			t.Errorf("%s is on /probe", name)
		}
	}
	await(t, "the connections are closed", func() bool {
		n := 0
		open.Range(func(any, any) bool { n++; return true })
		return n == 0
	})
	if connections.Load() < 4 {
		t.Errorf("%d connections: one was kept", connections.Load())
	}
}

// A target that redirects gets no second request, and the host it names none at all.
func TestProbeFollowsNoRedirect(t *testing.T) {
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte("t0ken"), 0o600); err != nil {
		t.Fatal(err)
	}
	var fished atomic.Int32
	fisher := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { fished.Add(1) }))
	defer fisher.Close()
	bait := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, fisher.URL, http.StatusTemporaryRedirect)
	}))
	defer bait.Close()
	e := start(t, fleetConfig(bait.URL, token))
	_, body := e.get("/probe?module=stack&target=127.0.0.1")
	if !strings.Contains(body, "probe_success 0") || !strings.Contains(body, `reason="http_status"`) {
		t.Errorf("got\n%s", body)
	}
	if fished.Load() > 0 {
		t.Error("the redirect was followed")
	}
}

func TestServiceDiscovery(t *testing.T) {
	e := start(t, fleetConfig("http://x:3000", "/none"))
	status, body := e.get("/sd")
	var got []struct {
		Targets []string
		Labels  map[string]string
	}
	if err := json.Unmarshal([]byte(body), &got); err != nil || status != 200 {
		t.Fatalf("%d %v %s", status, err, body)
	}
	if len(got) != 1 || !slices.Equal(got[0].Targets, []string{"127.0.0.1", "localhost"}) ||
		got[0].Labels["__param_module"] != "stack" || got[0].Labels["cluster"] != "a" {
		t.Errorf("got %+v", got)
	}
	if _, body := start(t, grafanaAt(healthy(t))).get("/sd"); strings.TrimSpace(body) != "[]" {
		t.Errorf("without a fleet: %s", body)
	}
}

// TLS with client certificates and a password: the toolkit does it, we pass
// the file on and tell when the certificate expires.
func TestTLS(t *testing.T) {
	dir := t.TempDir()
	until := time.Now().Add(48 * time.Hour).Truncate(time.Second)
	cert := certificate(t, dir, until)
	web := filepath.Join(dir, "web.yml")
	// bcrypt of "pw", cost 4.
	if err := os.WriteFile(web, []byte("tls_server_config: {cert_file: cert.pem, key_file: key.pem, client_auth_type: RequireAndVerifyClientCert, client_ca_file: cert.pem}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	e := start(t, grafanaAt(healthy(t)), "--web.config.file="+web)
	pool := x509.NewCertPool()
	pool.AddCert(cert.Leaf)
	ask := func(certs ...tls.Certificate) (string, error) {
		c := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, Certificates: certs}, DisableKeepAlives: true}}
		res, err := c.Get(strings.Replace(e.url, "http:", "https:", 1) + "/metrics")
		if err != nil {
			return "", err
		}
		defer res.Body.Close()
		b, err := io.ReadAll(res.Body)
		return string(b), err
	}
	if _, err := ask(); err == nil {
		t.Error("a client without a certificate is let in")
	}
	body, err := ask(cert)
	if err != nil {
		t.Fatal(err)
	}
	if got := families(t, body)["niodoo_exporter_tls_not_after_timestamp_seconds"].Metric[0].GetGauge().GetValue(); got != float64(until.Unix()) {
		t.Errorf("expires at %v, want %v", got, until.Unix())
	}
}

func certificate(t *testing.T, dir string, until time.Time) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: until,
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	rawKey, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: rawKey})
	for name, b := range map[string][]byte{"cert.pem": certPEM, "key.pem": keyPEM} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// The command line: what is wrong is said, and the exit code tells.
func TestCommandLine(t *testing.T) {
	dir := t.TempDir()
	good, bad, secretless := filepath.Join(dir, "good.yml"), filepath.Join(dir, "bad.yml"), filepath.Join(dir, "secretless.yml")
	for f, text := range map[string]string{good: grafanaAt("http://h"), bad: "x: {}\n", secretless: "redis: {password_file: none}\n"} {
		if err := os.WriteFile(f, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"--help"}, 0, "usage: niodoo_exporter"},
		{[]string{"--version"}, 0, "niodoo_exporter"},
		{[]string{"--bogus"}, 64, "unknown long flag '--bogus'"},
		{[]string{"--collector.bogus"}, 64, "unknown long flag"},
		{[]string{"extra"}, 64, "unexpected"},
		{[]string{"--log.level=loud"}, 64, "enum value must be one of debug,info,warn,error"},
		{[]string{"--scrape.timeout=0s"}, 64, "--scrape.timeout is 0s; it must be more than 0"},
		{[]string{"--config.check", "--config.file=" + good}, 0, "The configuration is valid. Collectors: grafana."},
		{[]string{"--config.check", "--config.file=" + good, "--collector.redis", "--no-collector.grafana"}, 0, "Collectors: redis."},
		{[]string{"--config.check", "--config.file=../../examples/niodoo.yml"}, 0, "The configuration is valid. Collectors: engine, postgresql, redis,"},
		{[]string{"--config.check", "--collector.disable-defaults", "--collector.host"}, 0, "Collectors: host."},
		{[]string{"--config.check", "--collector.disable-defaults"}, 1, "no collector is enabled"},
		{[]string{"--config.check", "--config.file=" + bad}, 1, "bad.yml:1: x: unknown key"},
		{[]string{"--config.file=" + bad}, 1, "bad.yml:1: x: unknown key"},
		{[]string{"--config.check", "--config.file=" + secretless}, 1, "none: no such file"},
		{[]string{"--config.check", "--web.config.file=" + filepath.Join(dir, "noweb.yml")}, 1, "noweb.yml"},
		{[]string{"--config.file=" + filepath.Join(dir, "missing.yml")}, 1, "missing.yml: no such file"},
		{[]string{"--web.listen-address=256.0.0.1:1"}, 1, "Cannot serve"},
	} {
		var out bytes.Buffer
		code := run(context.Background(), c.args, &out, &out, nil)
		if code != c.code || !strings.Contains(out.String(), c.want) {
			t.Errorf("%v: code %d, want %d, and %q in\n%s", c.args, code, c.code, c.want, out.String())
		}
	}
}

// The page a person sees tells what the last scrape found and why.
func TestLanding(t *testing.T) {
	e := start(t, grafanaAt(healthy(t))+fmt.Sprintf("loki: {url: %q}\n", deadURL(t)))
	if _, body := e.get("/"); !strings.Contains(body, "not looked at yet") {
		t.Errorf("before the first scrape:\n%s", body)
	}
	e.get("/metrics")
	_, body := e.get("/")
	for _, want := range []string{`<td class="good">up</td>`, `<td class="bad">down</td>`, "refused</span>", "connection refused"} {
		if !strings.Contains(body, want) {
			t.Errorf("no %s in\n%s", want, body)
		}
	}
	for path, want := range map[string]int{"/nope": 404, "/debug/pprof/": 404} {
		if status, _ := e.get(path); status != want {
			t.Errorf("%s: %d", path, status)
		}
	}
	if status, _ := start(t, grafanaAt(healthy(t)), "--web.enable-pprof").get("/debug/pprof/cmdline"); status != 200 {
		t.Errorf("asked for, pprof answers %d", status)
	}
}
