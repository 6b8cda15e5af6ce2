// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"go.uber.org/goleak"

	"github.com/niodoo/niodoo_exporter/internal/config"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// clock is a clock that stands still until it is told to go on.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func newClock() *clock { return &clock{now: time.Date(2026, 11, 24, 14, 0, 0, 0, time.UTC)} }

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// stack starts a stack on a clock of its own and stops it when the test ends.
func stack(t testing.TB, opts Options) (*Stack, *clock) {
	t.Helper()
	c := newClock()
	opts.Now = c.Now
	st, err := New(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(st.Close)
	return st, c
}

// client does not keep connections, follow redirects or wait for ever.
func client(t testing.TB) *http.Client {
	transport := &http.Transport{DisableKeepAlives: true}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: 10 * time.Second,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// get returns the answer's status, header and body.
func get(t testing.TB, url string, header ...string) (int, http.Header, string) {
	t.Helper()
	return send(t, "GET", url, "", header...)
}

func send(t testing.TB, method, url, body string, header ...string) (int, http.Header, string) {
	t.Helper()
	req, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err := client(t).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	raw, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, res.Header, string(raw)
}

func families(t testing.TB, text string) map[string]*dto.MetricFamily {
	t.Helper()
	p := expfmt.NewTextParser(model.LegacyValidation)
	f, err := p.TextToMetricFamilies(strings.NewReader(text))
	if err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	return f
}

var number = regexp.MustCompile(`-?\b\d+(\.\d+)?\b`)

// shape is a body without its numbers and times.
func shape(body string) string {
	body = regexp.MustCompile(`\d{4}-\d\d-\d\dT[0-9:.]+Z`).ReplaceAllString(body, "TIME")
	return number.ReplaceAllString(body, "N")
}

// TestDocumentedBytes holds each answer against the documentation's: same
// fields, same order, same types.
func TestDocumentedBytes(t *testing.T) {
	t.Parallel()
	st, _ := stack(t, Options{Age: time.Hour})
	for _, test := range []struct {
		service, path string
		status        int
		contentType   string
		body          string // the documentation's; "=" in front: to the letter
	}{
		{"engine", "/health", 200, "application/json", `{"success":true,"data":{"status":"healthy","version":"0.1.0","uptime_seconds":3600,"components":{"consciousness_engine":"healthy","memory_manager":"healthy","brain_coordinator":"healthy","mobius_topology":"healthy","gpu_acceleration":"healthy"},"performance":{"avg_response_time_ms":250,"memory_usage_mb":512,"cpu_usage_percent":25}},"timestamp":"2025-01-27T10:30:00Z"}`},
		{"engine", "/api/v1/metrics", 200, "application/json", `{"success":true,"data":{"consciousness_metrics":{"consciousness_level":0.75,"attention_focus":0.8,"memory_coherence":0.9},"performance_metrics":{"requests_per_second":10.5,"avg_response_time_ms":250,"error_rate":0.01},"resource_metrics":{"cpu_usage_percent":25,"memory_usage_mb":512,"gpu_usage_percent":15},"memory_metrics":{"total_memories":1250,"memory_coherence":0.92,"consolidation_frequency":0.1}},"timestamp":"2025-01-27T10:30:00Z"}`},
		{"engine", "/api/memory/metrics", 200, "application/json", `{"stability_ratio":0.9951,"consolidation_rate":120.5,"retrieval_success_rate":0.998,"toroidal_coherence":0.87}`},
		{"engine", "/api/v1/memory/status", 200, "application/json", `{"success":true,"data":{"stability_ratio":0.9951,"toroidal_coherence":0.98},"timestamp":"2025-01-27T10:30:00Z"}`},
		{"engine", "/api/v1/consciousness/state", 200, "application/json", `{"success":true,"data":{"consciousness_level":0.75,"attention_focus":0.8,"memory_coherence":0.9,"emotional_context":{"joy":0.6,"sadness":0.1,"anger":0.0,"fear":0.0,"curiosity":0.8},"active_personalities":[{"type":"analytical","weight":0.1},{"type":"creative","weight":0.15}],"last_updated":"2025-01-27T10:30:00Z"},"timestamp":"2025-01-27T10:30:00Z"}`},
		{"engine", "/api/v1/brain/status", 200, "application/json", `{"success":true,"data":{"brains":[{"type":"motor","status":"active","performance":{"cpu_usage":0.15,"memory_usage":0.05,"response_time_ms":45}},{"type":"lcars","status":"active","performance":{"cpu_usage":0.12,"memory_usage":0.08,"response_time_ms":38}},{"type":"efficiency","status":"active","performance":{"cpu_usage":0.18,"memory_usage":0.06,"response_time_ms":42}}],"overall_status":"healthy"},"timestamp":"2025-01-27T10:30:00Z"}`},
		{"ollama", "/", 200, "text/plain; charset=utf-8", "=Ollama is running"},
		{"ollama", "/api/version", 200, "application/json; charset=utf-8", `={"version":"0.33.0"}`},
		{"ollama", "/metrics", 404, "text/plain", "=404 page not found"},
		{"qdrant", "/healthz", 200, "text/plain; charset=utf-8", "=healthz check passed"},
		{"qdrant", "/readyz", 200, "text/plain; charset=utf-8", "=all shards are ready"},
		{"qdrant", "/collections", 200, "application/json", `={"result":{"collections":[{"name":"experiences"},{"name":"failures"}]},"status":"ok","time":0.000012}`},
		{"qdrant", "/collections/experiences", 200, "application/json", `{"result":{"status":"green","optimizer_status":"ok","indexed_vectors_count":0,"points_count":160,"segments_count":2,"config":{"params":{"vectors":{"size":768,"distance":"Cosine"},"shard_number":1,"replication_factor":1,"write_consistency_factor":1,"on_disk_payload":true},"hnsw_config":{"m":16,"ef_construct":100,"full_scan_threshold":10000,"max_indexing_threads":0,"on_disk":false},"optimizer_config":{"deleted_threshold":0.2,"vacuum_min_vector_number":1000,"default_segment_number":0,"max_segment_size":null,"memmap_threshold":null,"indexing_threshold":10000,"flush_interval_sec":5,"max_optimization_threads":null,"prevent_unoptimized":null},"wal_config":{"wal_capacity_mb":32,"wal_segments_ahead":0,"wal_retain_closed":1},"quantization_config":null},"payload_schema":{},"update_queue":{"length":0}},"status":"ok","time":0.000334}`},
		{"qdrant", "/collections/x", 404, "application/json", "={\"status\":{\"error\":\"Not found: Collection `x` doesn't exist!\"},\"time\":0.000012}"},
		{"grafana", "/api/health", 200, "application/json; charset=UTF-8", "={\n  \"database\": \"ok\",\n  \"version\": \"12.1.0\",\n  \"commit\": \"4550cfb5b7\"\n}"},
		{"grafana", "/healthz", 200, "text/plain; charset=utf-8", "=Ok"},
		{"prometheus", "/-/healthy", 200, "text/plain; charset=utf-8", "=Prometheus Server is Healthy.\n"},
		{"prometheus", "/-/ready", 200, "text/plain; charset=utf-8", "=Prometheus Server is Ready.\n"},
		{"prometheus", "/api/v1/status/walreplay", 200, "application/json", `={"status":"success","data":{"min":0,"max":12,"current":12}}`},
		{"prometheus", "/api/v1/status/runtimeinfo", 200, "application/json", `{"status":"success","data":{"startTime":"2026-11-23T08:41:06.414549351Z","CWD":"/","hostname":"vm","serverTime":"2026-11-23T08:41:13.318562663Z","reloadConfigSuccess":true,"lastConfigTime":"2026-11-23T08:41:06Z","corruptionCount":0,"goroutineCount":29,"GOMAXPROCS":2,"GOMEMLIMIT":22748851814,"GOGC":"75","GODEBUG":"","storageRetention":"15d"}}`},
		{"alertmanager", "/-/ready", 200, "text/plain; charset=utf-8", "=OK"},
		{"alertmanager", "/api/v2/silences", 200, "application/json", "=[]\n"},
		{"alertmanager", "/api/v2/nope", 404, "application/json", `={"code":404,"message":"path /api/v2/nope was not found"}` + "\n"},
		{"loki", "/ready", 200, "text/plain; charset=utf-8", "=ready\n"},
		{"vllm", "/health", 200, "", "="},
	} {
		status, header, body := get(t, st.URL(test.service)+test.path)
		if status != test.status || header.Get("Content-Type") != test.contentType {
			t.Errorf("%s%s: %d %q, want %d %q", test.service, test.path, status, header.Get("Content-Type"), test.status, test.contentType)
		}
		want, exact := strings.CutPrefix(test.body, "=")
		if !exact {
			body, want = shape(body), shape(want)
		}
		if diff := cmp.Diff(want, body); diff != "" {
			t.Errorf("%s%s (-documented +simulated):\n%s", test.service, test.path, diff)
		}
	}
}

// TestRateLimitHeaders: they are told as documented, and kept when asked for.
func TestRateLimitHeaders(t *testing.T) {
	t.Parallel()
	st, c := stack(t, Options{Only: []string{"engine"}, Engine: EngineOptions{Limit: true}})
	url := st.URL("engine") + "/api/v1/consciousness/state"
	for asked := 1; asked <= 101; asked++ {
		status, h, body := get(t, url)
		if asked == 1 {
			c.advance(20 * time.Second)
			if h.Get("X-RateLimit-Limit") != "100" || h.Get("X-RateLimit-Remaining") != "99" || h.Get("X-RateLimit-Reset") != strconv.FormatInt(newClock().Now().Add(time.Minute).Unix(), 10) {
				t.Errorf("headers %v", h)
			}
		}
		if asked == 101 && (status != 429 || !strings.Contains(body, `"code":"RATE_LIMIT_ERROR"`)) {
			t.Errorf("request 101: %d %s", status, body)
		} else if asked <= 100 && status != 200 {
			t.Fatalf("request %d: %d", asked, status)
		}
	}
	c.advance(time.Minute)
	if status, _, _ := get(t, url); status != 200 {
		t.Errorf("in the next minute: %d", status)
	}
}

// manualNames are all the names that the manual's scripts and structures use
// for what the engine itself knows.
var manualNames = []string{
	"average_processing_time_ms", "cache_hit_ratio", "circuit_breaker_activations", "consciousness_events_total", "consciousness_processing_time_ms",
	"consolidation_rate_per_hour", "cpu_usage_percent", "disk_usage_percent", "emotional_processing_time_ms", "events_processed_per_second",
	"gaussian_novelty_level", "gaussian_sphere_count", "gpu_utilization_percent", "memory_compression_ratio", "memory_layer_distribution",
	"memory_operations_total", "memory_retrieval_time_ms", "memory_stability_ratio", "memory_usage_percent", "network_throughput_mbps",
	"retrieval_success_rate", "thread_pool_utilization", "timeout_occurrences", "toroidal_coherence_score", "toroidal_topology_coherence",
}

func TestEngineText(t *testing.T) {
	t.Parallel()
	for _, processing := range EngineDialects()["processing"] {
		st, _ := stack(t, Options{Only: []string{"engine"}, Age: 6 * time.Hour, Engine: EngineOptions{Processing: processing}})
		_, h, body := get(t, st.URL("engine")+"/metrics")
		if h.Get("Content-Type") != "text/plain; version=0.0.4" {
			t.Errorf("content type %q", h.Get("Content-Type"))
		}
		all := families(t, body)
		for _, name := range manualNames {
			if all[name] == nil {
				t.Errorf("%s: no %s", processing, name)
			}
		}
		if got := strings.ToLower(all["consciousness_processing_time_ms"].GetType().String()); got != processing {
			t.Errorf("consciousness_processing_time_ms is a %s, want %s", got, processing)
		}
		// The encoder sorts families and writes no exponents.
		var order []string
		for line := range strings.Lines(body) {
			if name, ok := strings.CutPrefix(line, "# TYPE "); ok {
				order = append(order, name)
			} else if strings.Contains(line[strings.LastIndex(line, " "):], "e+") {
				t.Errorf("an exponent: %s", line)
			}
		}
		if !slices.IsSorted(order) {
			t.Errorf("families are not sorted: %q", order)
		}
		if problems, err := promlint.New(strings.NewReader(body)).Lint(); err != nil {
			t.Errorf("%v, %v", problems, err)
		}
	}
}

// TestHistogram: buckets are cumulative, the last is the count, and the mean is
// that of the gauge.
func TestHistogram(t *testing.T) {
	t.Parallel()
	st, _ := stack(t, Options{Only: []string{"engine"}, Age: 24 * time.Hour})
	_, _, body := get(t, st.URL("engine")+"/metrics")
	all := families(t, body)
	h := all["consciousness_processing_time_ms"].Metric[0].Histogram
	last := uint64(0)
	for _, b := range h.Bucket {
		if b.GetCumulativeCount() < last {
			t.Errorf("bucket %g: %d after %d", b.GetUpperBound(), b.GetCumulativeCount(), last)
		}
		last = b.GetCumulativeCount()
	}
	if last != h.GetSampleCount() || h.GetSampleCount() != uint64(all["consciousness_events_total"].Metric[0].Counter.GetValue()) {
		t.Errorf("+Inf %d, count %d, events %v", last, h.GetSampleCount(), all["consciousness_events_total"].Metric[0].Counter)
	}
	if mean := h.GetSampleSum() / float64(h.GetSampleCount()); mean < 120 || mean > 400 {
		t.Errorf("mean %g ms", mean)
	}
}

func TestEngineDialects(t *testing.T) {
	t.Parallel()
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte("s3cret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	st, _ := stack(t, Options{Only: []string{"engine"}, Engine: EngineOptions{Metrics: "json", Memory: "enveloped", Health: "word", TokenFile: token}})
	url := st.URL("engine")
	for _, path := range []string{"/health", "/metrics", "/api/v1/brain/status"} {
		if status, _, body := get(t, url+path); status != 401 || !strings.HasPrefix(body, `{"success":false,"error":{"code":"AUTHENTICATION_ERROR","message":`) {
			t.Errorf("%s without a token: %d %s", path, status, body)
		}
		if status, _, _ := get(t, url+path, "Authorization", "Bearer wrong"); status != 401 {
			t.Errorf("%s with a wrong token: %d", path, status)
		}
	}
	auth := []string{"Authorization", "Bearer s3cret"}
	if _, _, body := get(t, url+"/health", auth...); body != "OK" {
		t.Errorf("health %q", body)
	}
	if _, h, body := get(t, url+"/metrics", auth...); h.Get("Content-Type") != "application/json" || !strings.HasPrefix(body, `{"success":true,"data":{"consciousness_metrics"`) {
		t.Errorf("metrics %q %s", h.Get("Content-Type"), body)
	}
	if status, _, _ := get(t, url+"/api/memory/metrics", auth...); status != 404 {
		t.Errorf("flat memory metrics: %d", status)
	}
	if _, _, body := get(t, url+"/api/v1/memory/status", auth...); !strings.Contains(body, `"retrieval_success_rate"`) {
		t.Errorf("memory status %s", body)
	}
	for health, want := range map[string]string{"status": `{"status":"healthy"}`, "empty": ""} {
		st, _ := stack(t, Options{Only: []string{"engine"}, Engine: EngineOptions{Health: health}})
		if status, _, body := get(t, st.URL("engine")+"/health"); status != 200 || body != want {
			t.Errorf("health %s: %d %q", health, status, body)
		}
	}
	if _, err := New(Options{Engine: EngineOptions{Health: "telegram"}}); err == nil || !strings.Contains(err.Error(), "envelope, status, word, empty") {
		t.Errorf("an unknown dialect: %v", err)
	}
}

// everything is what all services say at a moment.
func everything(t testing.TB, st *Stack) string {
	t.Helper()
	var b strings.Builder
	for _, path := range [][2]string{{"engine", "/metrics"}, {"engine", "/health"}, {"engine", "/api/v1/metrics"}, {"pipeline", "/metrics"}, {"ollama", "/api/ps"},
		{"vllm", "/metrics"}, {"qdrant", "/collections/experiences"}, {"prometheus", "/metrics"}, {"alertmanager", "/metrics"}, {"loki", "/metrics"}} {
		_, _, body := get(t, st.URL(path[0])+path[1])
		b.WriteString(body)
	}
	return b.String()
}

// TestDeterminism: what is seen follows from seed, time and faults, and not
// from how often somebody looked.
func TestDeterminism(t *testing.T) {
	t.Parallel()
	run := func(seed uint64, looks int) string {
		st, c := stack(t, Options{Seed: seed, Age: time.Hour})
		for range looks {
			c.advance(10 * time.Minute / time.Duration(looks))
			everything(t, st)
		}
		if err := st.Inject("engine-erring"); err != nil {
			t.Fatal(err)
		}
		c.advance(5 * time.Minute)
		return everything(t, st)
	}
	first := run(7, 1)
	if diff := cmp.Diff(first, run(7, 10)); diff != "" {
		t.Errorf("the same seed differs:\n%s", diff)
	}
	if first == run(8, 1) {
		t.Error("another seed gives the same")
	}
}

// counters returns every counter, histogram count and sum of an exposition.
func counters(t testing.TB, text string) map[string]float64 {
	out := map[string]float64{}
	for name, f := range families(t, text) {
		for _, m := range f.Metric {
			key := name + "{" + labelsOf(m) + "}"
			switch {
			case m.Counter != nil:
				out[key] = m.Counter.GetValue()
			case m.Histogram != nil:
				out[key+"_sum"] = m.Histogram.GetSampleSum()
				for _, b := range m.Histogram.Bucket {
					out[key+strconv.FormatFloat(b.GetUpperBound(), 'g', -1, 64)] = float64(b.GetCumulativeCount())
				}
			}
		}
	}
	return out
}

func labelsOf(m *dto.Metric) string {
	var b strings.Builder
	for _, l := range m.Label {
		b.WriteString(l.GetName() + "=" + l.GetValue() + ",")
	}
	return b.String()
}

// TestPlausibleDay walks through a day: counters never fall, and nothing of a
// healthy day crosses a threshold that would wake somebody.
func TestPlausibleDay(t *testing.T) {
	t.Parallel()
	st, c := stack(t, Options{Seed: 3})
	last := map[string]float64{}
	lowest, highest := 1e9, 0.0
	for range 48 {
		c.advance(30 * time.Minute)
		for _, service := range []string{"engine", "pipeline", "vllm", "prometheus", "alertmanager", "loki"} {
			_, _, body := get(t, st.URL(service)+"/metrics")
			for name, v := range counters(t, body) {
				if v < last[service+name] {
					t.Errorf("%s: %s fell from %g to %g", service, name, last[service+name], v)
				}
				last[service+name] = v
			}
		}
		_, _, body := get(t, st.URL("engine")+"/metrics")
		all := families(t, body)
		value := func(name string) float64 { return all[name].Metric[0].Gauge.GetValue() }
		lowest, highest = min(lowest, value("events_processed_per_second")), max(highest, value("events_processed_per_second"))
		for _, limit := range []struct {
			name   string
			lo, hi float64
		}{
			{"memory_stability_ratio", 0.9915, 1}, {"average_processing_time_ms", 100, 500}, {"memory_retrieval_time_ms", 10, 50}, {"emotional_processing_time_ms", 10, 100},
			{"cache_hit_ratio", 0.85, 1}, {"cpu_usage_percent", 5, 60}, {"memory_usage_percent", 20, 70}, {"thread_pool_utilization", 0.1, 0.8}, {"retrieval_success_rate", 0.99, 1},
			{"toroidal_coherence_score", 0.9, 1}, {"gaussian_novelty_level", 0.12, 0.23}, {"memory_compression_ratio", 0, 1},
		} {
			if v := value(limit.name); v < limit.lo || v > limit.hi {
				t.Errorf("%s: %s is %g, outside %g to %g", c.Now().Format(time.TimeOnly), limit.name, v, limit.lo, limit.hi)
			}
		}
	}
	if highest < 1.8*lowest {
		t.Errorf("the night (%g events a second) is as busy as the day (%g)", lowest, highest)
	}
}

// TestClockSetBack: the world waits, its counters do not fall.
func TestClockSetBack(t *testing.T) {
	t.Parallel()
	st, c := stack(t, Options{Only: []string{"engine"}, Age: time.Hour})
	before := st.world.look().engine.events
	c.advance(-30 * time.Minute)
	if after := st.world.look().engine.events; after != before {
		t.Errorf("events %g became %g", before, after)
	}
	c.advance(time.Hour)
	if after := st.world.look().engine.events; after <= before {
		t.Errorf("events stay at %g", after)
	}
}

// TestStopAndStart: a stopped service refuses connections and comes back on
// the same port, the engine as a new process.
func TestStopAndStart(t *testing.T) {
	t.Parallel()
	st, c := stack(t, Options{Age: time.Hour})
	for _, name := range st.Services() {
		address := st.Address(name)
		if _, port, _ := net.SplitHostPort(address); len(port) != 5 || port >= "32768" {
			t.Errorf("%s listens on %s, in the ephemeral range", name, address)
		}
		if err := st.Inject(name + "-stopped"); err != nil {
			t.Fatal(err)
		}
		if _, err := net.Dial("tcp", address); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("%s, stopped: %v", name, err)
		}
		c.advance(time.Minute)
		if err := st.Lift(name + "-stopped"); err != nil {
			t.Fatal(err)
		}
		if st.Address(name) != address {
			t.Errorf("%s moved from %s to %s", name, address, st.Address(name))
		}
		get(t, st.URL(name)+"/metrics")
	}
	_, _, body := get(t, st.URL("engine")+"/health")
	var health struct {
		Data struct {
			Uptime float64 `json:"uptime_seconds"`
		} `json:"data"`
	}
	if err := json.Unmarshal([]byte(body), &health); err != nil || health.Data.Uptime > 9*60 {
		t.Errorf("the engine's uptime is %v (%v) after a restart", health.Data.Uptime, err)
	}
	if e := st.world.look().engine; e.events == 0 || e.events > 10*60*130 {
		t.Errorf("%g events since the restart", e.events)
	}
}

// fault injects a fault for one test.
func fault(t testing.TB, st *Stack, names ...string) {
	t.Helper()
	for _, n := range names {
		if err := st.Inject(n); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		for _, n := range names {
			if err := st.Lift(n); err != nil {
				t.Error(err)
			}
		}
	})
}

// TestHang: nothing is answered until the fault is lifted, other faults or not.
func TestHang(t *testing.T) {
	t.Parallel()
	st, _ := stack(t, Options{Only: []string{"engine", "grafana"}})
	if err := st.Inject("engine-hanging"); err != nil {
		t.Fatal(err)
	}
	answered := make(chan int, 1)
	arrived := make(chan struct{})
	go func() {
		conn, err := net.Dial("tcp", st.Address("engine"))
		if err != nil {
			close(arrived)
			answered <- 0
			return
		}
		defer conn.Close()
		_, _ = io.WriteString(conn, "GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
		close(arrived)
		raw, _ := io.ReadAll(conn)
		answered <- len(raw)
	}()
	<-arrived
	fault(t, st, "grafana-503", "engine-503") // must not wake what hangs
	select {
	case n := <-answered:
		t.Fatalf("a hanging engine answered %d bytes", n)
	case <-time.After(100 * time.Millisecond):
	}
	if err := st.Lift("engine-hanging"); err != nil {
		t.Fatal(err)
	}
	if n := <-answered; n == 0 {
		t.Error("no answer after the fault was lifted")
	}
}

// TestCloseWhileHanging: the stack closes although requests hang and a body is being sent.
func TestCloseWhileHanging(t *testing.T) {
	t.Parallel()
	st, _ := stack(t, Options{Only: []string{"engine", "ollama"}})
	for _, name := range []string{"engine-hanging", "ollama-huge", "engine-crash-loop"} {
		if err := st.Inject(name); err != nil {
			t.Fatal(err)
		}
	}
	if err := st.Lift("engine-crash-loop"); err != nil {
		t.Fatal(err)
	}
	for _, name := range st.Services() {
		conn, err := net.Dial("tcp", st.Address(name))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_, _ = io.WriteString(conn, "POST /api/generate HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n1")
	}
	done := make(chan struct{})
	go func() { st.Close(); close(done) }()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		t.Fatal("Close does not return")
	}
	if err := st.Inject("engine-503"); err == nil {
		t.Error("a closed stack takes faults")
	}
}

// TestAnswerFaults holds the faults that every service can have to what they say.
func TestAnswerFaults(t *testing.T) {
	t.Parallel()
	st, _ := stack(t, Options{Slow: 50 * time.Millisecond, DockerSocket: filepath.Join(t.TempDir(), "docker.sock")})
	paths := map[string]string{"engine": "/health", "pipeline": "/metrics", "ollama": "/api/tags", "vllm": "/v1/models", "qdrant": "/collections",
		"prometheus": "/metrics", "grafana": "/api/health", "alertmanager": "/api/v2/status", "loki": "/loki/api/v1/status/buildinfo"}
	for name, path := range paths {
		t.Run(name, func(t *testing.T) {
			url := st.URL(name) + path
			_, _, whole := get(t, url)
			for suffix, want := range map[string]int{"503": 503, "500": 500, "401": 401, "429": 429} {
				t.Run(suffix, func(t *testing.T) {
					fault(t, st, name+"-"+suffix)
					status, h, _ := get(t, url)
					if status != want {
						t.Errorf("status %d", status)
					}
					if (h.Get("Retry-After") != "") != (want == 429) {
						t.Errorf("Retry-After %q", h.Get("Retry-After"))
					}
				})
			}
			t.Run("login-page", func(t *testing.T) {
				fault(t, st, name+"-login-page")
				if status, h, body := get(t, url); status != 200 || !strings.HasPrefix(h.Get("Content-Type"), "text/html") || !strings.Contains(body, "<form") {
					t.Errorf("%d %v %s", status, h, body)
				}
			})
			t.Run("truncated", func(t *testing.T) {
				fault(t, st, name+"-truncated")
				_, h, body := get(t, url)
				if h.Get("Content-Length") != strconv.Itoa(len(body)) || len(body) == 0 || len(body) > len(whole)/2+8 {
					t.Errorf("%v: %d of %d bytes", h, len(body), len(whole))
				}
			})
			t.Run("reset", func(t *testing.T) {
				fault(t, st, name+"-reset")
				res, err := client(t).Get(url)
				if err != nil {
					t.Fatal(err)
				}
				defer res.Body.Close()
				if body, err := io.ReadAll(res.Body); !errors.Is(err, io.ErrUnexpectedEOF) {
					t.Errorf("%d bytes, %v", len(body), err)
				}
			})
			t.Run("huge", func(t *testing.T) {
				fault(t, st, name+"-huge")
				res, err := client(t).Get(url)
				if err != nil {
					t.Fatal(err)
				}
				defer res.Body.Close()
				if n, err := io.CopyN(io.Discard, res.Body, 20<<20); err != nil {
					t.Errorf("%d bytes, %v", n, err)
				}
			})
			t.Run("slow", func(t *testing.T) {
				fault(t, st, name+"-slow")
				begin := time.Now()
				if status, _, _ := get(t, url); status != 200 || time.Since(begin) < 50*time.Millisecond {
					t.Errorf("%d after %s", status, time.Since(begin))
				}
			})
			if _, _, after := get(t, url); shape(after) != shape(whole) {
				t.Errorf("lifted, it answers %s, not %s", after, whole)
			}
		})
	}
}

// TestSlowAnd503 composes two faults of a service: both can be seen.
func TestSlowAnd503(t *testing.T) {
	t.Parallel()
	st, _ := stack(t, Options{Only: []string{"grafana"}, Slow: 50 * time.Millisecond})
	fault(t, st, "grafana-503", "grafana-slow")
	begin := time.Now()
	if status, _, _ := get(t, st.URL("grafana")+"/api/health"); status != 503 || time.Since(begin) < 50*time.Millisecond {
		t.Errorf("%d after %s", status, time.Since(begin))
	}
}

// TestCrashLoop: the engine goes and comes by itself.
func TestCrashLoop(t *testing.T) {
	t.Parallel()
	st, _ := stack(t, Options{Only: []string{"engine"}, FlapPeriod: 20 * time.Millisecond})
	fault(t, st, "engine-crash-loop")
	for _, want := range []bool{false, true, false, true} {
		for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
			conn, err := net.Dial("tcp", st.Address("engine"))
			if err == nil {
				conn.Close()
			}
			if (err == nil) == want {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("the engine is never %v", want)
			}
		}
	}
}

// TestParticularFaults: each changes what it says and is gone when lifted.
func TestParticularFaults(t *testing.T) {
	t.Parallel()
	st, c := stack(t, Options{Age: time.Hour, DockerSocket: filepath.Join(t.TempDir(), "docker.sock")})
	docker := dockerClient(t, st)
	engineText := [2]string{"engine", "/metrics"}
	tests := map[string]struct {
		at   [2]string
		want string // a regular expression that matches only while the fault is in effect
	}{
		"engine-unhealthy":                   {[2]string{"engine", "/health"}, `"status":"unhealthy"`},
		"engine-part-unhealthy":              {[2]string{"engine", "/health"}, `"status":"degraded".*"memory_manager":"unhealthy"`},
		"engine-brain-unhealthy":             {[2]string{"engine", "/api/v1/brain/status"}, `"lcars","status":"error".*"overall_status":"degraded"`},
		"engine-erring":                      {[2]string{"engine", "/api/v1/metrics"}, `"error_rate":0.3\d*`},
		"engine-processing-slow":             {engineText, `\naverage_processing_time_ms [12]\d{3}`},
		"engine-events-stopped":              {engineText, `\nevents_processed_per_second 0\n`},
		"engine-stability-decaying":          {engineText, `\nmemory_stability_ratio 0\.9[5-8]`},
		"engine-coherence-lost":              {engineText, `\ntoroidal_coherence_score 0\.6\d+\ntoro|\ntoroidal_coherence_score 0\.6`},
		"engine-breaker-tripping":            {engineText, `\ncircuit_breaker_activations [1-9]`},
		"engine-timeouts":                    {engineText, `\ntimeout_occurrences \d{3}`},
		"engine-retrieval-slow":              {engineText, `\nmemory_retrieval_time_ms \d{3}`},
		"engine-retrieval-failing":           {engineText, `\nretrieval_success_rate 0\.8`},
		"engine-cache-cold":                  {engineText, `\ncache_hit_ratio 0\.3`},
		"engine-consolidation-stopped":       {engineText, `\nconsolidation_rate_per_hour 0\n`},
		"engine-layer-full":                  {engineText, `\nmemory_layer_distribution{layer="episodic"} 100000\n`},
		"engine-kpi-invalid":                 {engineText, `\ncache_hit_ratio NaN\n(.|\n)*\nmemory_stability_ratio 99\.`},
		"ollama-model-removed":               {[2]string{"ollama", "/api/tags"}, `^\{"models":\[\{"name":"llama3\.1:8b".*"mistral-nemo:12b"`},
		"ollama-model-on-cpu":                {[2]string{"ollama", "/api/ps"}, `"size_vram":0`},
		"vllm-overloaded":                    {[2]string{"vllm", "/metrics"}, `vllm:num_requests_waiting\S+ 37`},
		"vllm-failing":                       {[2]string{"vllm", "/metrics"}, `finished_reason="error"\S+ \d{3}`},
		"qdrant-red":                         {[2]string{"qdrant", "/collections/experiences"}, `"status":"red","optimizer_status":\{"error":".*No space left`},
		"qdrant-yellow":                      {[2]string{"qdrant", "/collections/experiences"}, `"status":"yellow"`},
		"qdrant-vector-size":                 {[2]string{"qdrant", "/collections/experiences"}, `"size":768,`},
		"qdrant-collection-gone":             {[2]string{"qdrant", "/collections"}, `\[\{"name":"failures"\}\]`},
		"qdrant-not-ready":                   {[2]string{"qdrant", "/readyz"}, `some shards are not ready`},
		"prometheus-not-ready":               {[2]string{"prometheus", "/-/ready"}, `^Service Unavailable$`},
		"prometheus-reload-failed":           {[2]string{"prometheus", "/metrics"}, `prometheus_config_last_reload_successful 0`},
		"prometheus-target-down":             {[2]string{"prometheus", "/api/v1/targets"}, `"health":"down"`},
		"prometheus-no-alertmanager":         {[2]string{"prometheus", "/metrics"}, `prometheus_notifications_alertmanagers_discovered 0`},
		"prometheus-rules-failing":           {[2]string{"prometheus", "/metrics"}, `niodoo-alerts"} \d{3}`},
		"prometheus-storage-failing":         {[2]string{"prometheus", "/metrics"}, `prometheus_tsdb_compactions_failed_total \d{2}`},
		"grafana-database-failing":           {[2]string{"grafana", "/api/health"}, `"database": "failing"`},
		"alertmanager-reload-failed":         {[2]string{"alertmanager", "/metrics"}, `alertmanager_config_last_reload_successful 0`},
		"alertmanager-notifications-failing": {[2]string{"alertmanager", "/metrics"}, `notifications_failed_total{integration="email",reason="other"} [1-9]`},
		"alertmanager-peer-gone":             {[2]string{"alertmanager", "/metrics"}, `alertmanager_cluster_failed_peers 1`},
		"loki-not-ready":                     {[2]string{"loki", "/ready"}, `^Ingester not ready`},
		"docker-container-restarting":        {[2]string{"docker", "/v1.47/containers/json?all=1"}, `"State":"restarting","Status":"Restarting \(1\)`},
		"docker-container-oom-killed":        {[2]string{"docker", "/v1.47/containers/niodoo-consciousness-engine-1/json"}, `"OOMKilled":true.*"ExitCode":137`},
		"docker-container-memory-full":       {[2]string{"docker", "/v1.47/containers/niodoo-consciousness-engine-1/stats?stream=false&one-shot=true"}, `"usage":32883343360`},
		"docker-container-unhealthy":         {[2]string{"docker", "/v1.47/containers/json?all=1"}, `"Status":"Up \d+ \w+ \(unhealthy\)"`},
	}
	read := func(at [2]string) string {
		if at[0] == "docker" {
			return docker(at[1])
		}
		_, _, body := get(t, st.URL(at[0])+at[1])
		return body
	}
	stays := []string{"engine-breaker-tripping", "engine-timeouts", "alertmanager-notifications-failing", "vllm-failing", "prometheus-rules-failing", "prometheus-storage-failing"} // counters do not come back
	for name, test := range tests {
		re := regexp.MustCompile(test.want)
		if body := read(test.at); re.MatchString(body) {
			t.Errorf("%s: %s matches before it:\n%s", name, re, body)
		}
		if err := st.Inject(name); err != nil {
			t.Error(err)
			continue
		}
		c.advance(2 * time.Minute)
		if body := read(test.at); !re.MatchString(body) {
			t.Errorf("%s: no %s in\n%s", name, re, body)
		}
		if err := st.Lift(name); err != nil {
			t.Error(err)
		}
		c.advance(2 * time.Minute)
		if body := read(test.at); re.MatchString(body) && !slices.Contains(stays, name) {
			t.Errorf("%s: %s still matches after it:\n%s", name, re, body)
		}
	}
	elsewhere := []string{"engine-crash-loop", "engine-restarting", "engine-kpi-frozen", "engine-kpi-gone", "engine-telemetry-frozen", "engine-statistics-hanging", "pipeline-stalled", "ollama-runner-dead"}
	for _, f := range particular {
		if _, ok := tests[f.Name]; !ok && !slices.Contains(elsewhere, f.Name) {
			t.Errorf("%s has no test", f.Name)
		}
	}
}

// TestFaultsOfAbsence are those that show in what does not change or is not there.
func TestFaultsOfAbsence(t *testing.T) {
	t.Parallel()
	st, c := stack(t, Options{Age: time.Hour})
	text := func(service string) string { _, _, body := get(t, st.URL(service)+"/metrics"); return body }
	stability := func() string {
		return regexp.MustCompile(`\nmemory_stability_ratio .*`).FindString(text("engine"))
	}
	fault(t, st, "engine-kpi-frozen", "pipeline-stalled")
	was, pipeline := stability(), text("pipeline")
	for range 5 {
		c.advance(time.Hour)
		fault(t, st, "engine-erring") // another fault must not thaw it
		if now := stability(); now != was {
			t.Errorf("frozen%s became%s", was, now)
		}
	}
	if now := text("pipeline"); now != pipeline {
		t.Errorf("a stalled pipeline went on:\n%s", cmp.Diff(pipeline, now))
	}
	if err := st.Lift("engine-kpi-frozen"); err != nil {
		t.Fatal(err)
	}
	c.advance(time.Hour)
	if stability() == was {
		t.Error("stability stays frozen")
	}
	fault(t, st, "engine-kpi-gone")
	if s := stability(); s != "" {
		t.Errorf("still reported: %s", s)
	}
	if _, _, body := get(t, st.URL("engine")+"/api/memory/metrics"); strings.Contains(body, "stability") || !strings.Contains(body, "consolidation_rate") {
		t.Errorf("memory metrics %s", body)
	}

	ask := func() (int, string) {
		status, _, body := send(t, "POST", st.URL("ollama")+"/api/generate", `{"model":"mistral","prompt":"hi","stream":false}`)
		return status, body
	}
	if status, body := ask(); status != 200 || !strings.Contains(body, `"done":true`) {
		t.Errorf("generate: %d %s", status, body)
	}
	fault(t, st, "ollama-runner-dead")
	if status, body := ask(); status != 500 || !strings.Contains(body, "runner") {
		t.Errorf("generate with a dead runner: %d %s", status, body)
	}
	if status, h, _ := send(t, "POST", st.URL("ollama")+"/api/tags", ""); status != 405 || h.Get("Allow") == "" {
		t.Errorf("POST /api/tags: %d %v", status, h)
	}
}

// TestFaultsOfTheWhole: every gauge stays while counters go on; health answers
// while all else hangs; a process is replaced again and again.
func TestFaultsOfTheWhole(t *testing.T) {
	t.Parallel()
	st, c := stack(t, Options{Age: time.Hour, FlapPeriod: 20 * time.Millisecond})
	look := func(pattern string) string {
		_, _, body := get(t, st.URL("engine")+"/metrics")
		return regexp.MustCompile(`\n` + pattern + ` .*`).FindString(body)
	}
	fault(t, st, "engine-telemetry-frozen")
	stability, latency, events := look("memory_stability_ratio"), look("average_processing_time_ms"), look("consciousness_events_total")
	c.advance(time.Hour)
	if s, l := look("memory_stability_ratio"), look("average_processing_time_ms"); s != stability || l != latency {
		t.Errorf("%s and%s became%s and%s", stability, latency, s, l)
	}
	if look("consciousness_events_total") == events {
		t.Error("the counters are frozen as well")
	}
	if err := st.Lift("engine-telemetry-frozen"); err != nil {
		t.Fatal(err)
	}
	if look("memory_stability_ratio") == stability {
		t.Error("stability stays frozen")
	}

	fault(t, st, "engine-statistics-hanging")
	if status, _, _ := get(t, st.URL("engine")+"/health"); status != 200 {
		t.Errorf("health is answered %d", status)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, st.URL("engine")+"/metrics", nil)
	if err != nil {
		t.Fatal(err)
	}
	if res, err := http.DefaultClient.Do(req); err == nil {
		res.Body.Close()
		t.Error("the metrics are answered")
	}
	if err := st.Lift("engine-statistics-hanging"); err != nil {
		t.Fatal(err)
	}

	c.advance(time.Hour)
	fault(t, st, "engine-restarting")
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
		res, err := http.Get(st.URL("engine") + "/metrics")
		if err == nil {
			body, _ := io.ReadAll(res.Body)
			res.Body.Close()
			if strings.Contains(string(body), "\nuptime_seconds 0\n") {
				break
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("the process is not replaced: %v", err)
		}
	}
}

// dockerClient asks the Docker Engine over its socket.
func dockerClient(t testing.TB, st *Stack) func(path string) string {
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", st.Address("docker"))
	}}
	return func(path string) string {
		t.Helper()
		res, err := (&http.Client{Transport: transport, Timeout: 10 * time.Second}).Get("http://docker" + path)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		raw, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		if res.Header.Get("Server") != "Docker/29.7.2 (linux)" {
			t.Errorf("Server: %q", res.Header.Get("Server"))
		}
		return string(raw)
	}
}

func TestDocker(t *testing.T) {
	t.Parallel()
	st, c := stack(t, Options{Only: []string{"docker"}, Age: 50 * time.Hour, DockerSocket: filepath.Join(t.TempDir(), "docker.sock")})
	ask := dockerClient(t, st)
	if body := ask("/_ping"); body != "OK" {
		t.Errorf("ping %q", body)
	}
	var list []struct {
		ID     string `json:"Id"`
		Names  []string
		Status string
	}
	if err := json.Unmarshal([]byte(ask("/v1.47/containers/json?all=1")), &list); err != nil || len(list) != len(containers) {
		t.Fatalf("%v, %v", list, err)
	}
	ids := map[string]bool{}
	for _, l := range list {
		ids[l.ID] = len(l.ID) == 64
		var inspected struct{ State struct{ Running bool } }
		if err := json.Unmarshal([]byte(ask("/v1.47/containers/"+l.ID+"/json")), &inspected); err != nil || !inspected.State.Running {
			t.Errorf("%s: %+v, %v", l.Names, inspected, err)
		}
	}
	if len(ids) != len(containers) || list[0].Status != "Up 2 days (healthy)" {
		t.Errorf("%v", list)
	}
	usage := func() float64 {
		var s struct {
			CPU struct {
				Usage struct {
					Total float64 `json:"total_usage"`
				} `json:"cpu_usage"`
			} `json:"cpu_stats"`
		}
		if err := json.Unmarshal([]byte(ask("/v1.47/containers/"+list[0].ID+"/stats?stream=false&one-shot=true")), &s); err != nil {
			t.Fatal(err)
		}
		return s.CPU.Usage.Total
	}
	before := usage()
	c.advance(10 * time.Second)
	if used := (usage() - before) / 1e10; used < 0.69 || used > 0.71 {
		t.Errorf("the engine uses %g cores", used)
	}
	if body := ask("/v1.24/containers/json"); !strings.Contains(body, "too old") {
		t.Errorf("an old version: %s", body)
	}
	if body := ask("/v1.47/containers/x/json"); body != `{"message":"No such container: x"}`+"\n" {
		t.Errorf("an unknown container: %s", body)
	}
}

func TestQdrantKey(t *testing.T) {
	t.Parallel()
	key := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(key, []byte("k3y\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	st, _ := stack(t, Options{Only: []string{"qdrant"}, QdrantKeyFile: key})
	url := st.URL("qdrant")
	for _, test := range []struct {
		path, key string
		status    int
		body      string
	}{
		{"/healthz", "", 200, "healthz check passed"},
		{"/collections", "", 401, "Must provide an API key or an Authorization bearer token"},
		{"/collections", "wrong", 401, "Invalid API key or JWT"},
		{"/collections", "k3y", 200, ""},
	} {
		header := []string{"api-key", test.key}
		if test.key == "" {
			header = nil
		}
		status, _, body := get(t, url+test.path, header...)
		if status != test.status || (test.body != "" && body != test.body) {
			t.Errorf("%s with key %q: %d %s", test.path, test.key, status, body)
		}
	}
}

func TestControl(t *testing.T) {
	t.Parallel()
	st, _ := stack(t, Options{Only: []string{"grafana"}})
	var outside []string
	st.AddFault(Fault{Name: "redis-stopped", Component: "redis", Does: "Redis is stopped.",
		Inject: func() error { outside = append(outside, "in"); return nil },
		Lift:   func() error { outside = append(outside, "out"); return errors.New("will not start") }})
	control, err := Listen(st.Control(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(control.Close)
	url := "http://" + control.Address
	ask := func(method, path string, want int) string {
		t.Helper()
		status, _, body := send(t, method, url+path, "")
		if status != want {
			t.Errorf("%s %s: %d %s", method, path, status, body)
		}
		return body
	}
	var states []FaultState
	if err := json.Unmarshal([]byte(ask("GET", "/faults", 200)), &states); err != nil || len(states) != len(everyService)+2 {
		t.Fatalf("%v, %v", states, err)
	}
	for _, s := range states {
		if s.Active || s.Does == "" || s.Component == "" {
			t.Errorf("%+v", s)
		}
	}
	for range 2 { // twice is as good as once
		ask("PUT", "/faults/grafana-503", 200)
	}
	if status, _, _ := get(t, st.URL("grafana")+"/api/health"); status != 503 {
		t.Errorf("status %d with the fault", status)
	}
	if body := ask("GET", "/faults/grafana-503", 200); !strings.Contains(body, `"active":true`) {
		t.Errorf("state %s", body)
	}
	for range 2 {
		ask("DELETE", "/faults/grafana-503", 200)
	}
	if status, _, _ := get(t, st.URL("grafana")+"/api/health"); status != 200 {
		t.Errorf("status %d after the fault", status)
	}
	ask("PUT", "/faults/no-such", 404)
	ask("GET", "/faults/no-such", 404)
	ask("POST", "/faults", 405)
	ask("PUT", "/faults/redis-stopped", 200)
	if body := ask("DELETE", "/faults/redis-stopped", 500); !strings.Contains(body, "will not start") {
		t.Errorf("%s", body)
	}
	if body := ask("GET", "/faults/redis-stopped", 200); !strings.Contains(body, `"active":true`) {
		t.Errorf("a fault that could not be lifted: %s", body)
	}
	if diff := cmp.Diff([]string{"in", "out"}, outside); diff != "" {
		t.Error(diff)
	}
	if body := ask("GET", "/services", 200); !strings.Contains(body, st.Address("grafana")) {
		t.Errorf("services %s", body)
	}
	req, _ := http.NewRequest(http.MethodGet, url+"/faults", nil)
	req.Host = "rebound.example"
	res, err := client(t).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode != http.StatusForbidden {
		t.Errorf("a foreign name: %d", res.StatusCode)
	}
}

// TestConfig: what the stack says about itself is a valid configuration.
func TestConfig(t *testing.T) {
	t.Parallel()
	key := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(key, []byte("k3y\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	st, _ := stack(t, Options{QdrantKeyFile: key, Engine: EngineOptions{TokenFile: key}, DockerSocket: filepath.Join(t.TempDir(), "docker.sock")})
	cfg, err := config.Parse("niodoo.yml", []byte(st.Config()))
	if err != nil {
		t.Fatalf("%v in\n%s", err, st.Config())
	}
	for _, name := range st.Services() {
		if !cfg.Section(name).Named() {
			t.Errorf("no section %s", name)
		}
	}
	if cfg.Engine.URL != st.URL("engine") || cfg.Qdrant.Collections["experiences"].VectorSize != 896 || cfg.Qdrant.APIKeyFile == "" || cfg.Engine.Authorization == nil {
		t.Errorf("%s", st.Config())
	}
}

func TestNewFails(t *testing.T) {
	t.Parallel()
	st, _ := stack(t, Options{Only: []string{"grafana"}})
	_, port, _ := net.SplitHostPort(st.Address("grafana"))
	taken, _ := strconv.Atoi(port)
	for name, opts := range map[string]Options{
		"a port that is taken": {Ports: map[string]int{"loki": taken}},
		"an unknown service":   {Only: []string{"no-such"}},
		"a missing token":      {Engine: EngineOptions{TokenFile: "/no/such"}},
		"a missing key":        {QdrantKeyFile: "/no/such"},
	} {
		if st, err := New(opts); err == nil {
			st.Close()
			t.Errorf("%s is accepted", name)
		}
	}
}

func TestFiles(t *testing.T) {
	t.Parallel()
	st, _ := stack(t, Options{Only: []string{"engine"}, Age: time.Hour})
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- st.WriteLogs(ctx, dir) }()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		if raw, err := os.ReadFile(filepath.Join(dir, "pipeline.log")); err == nil && bytes.Contains(raw, []byte("generated hybrid response")) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("no log is written")
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(filepath.Join(dir, "niodoo.log"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range bytes.Lines(raw) {
		var l struct {
			Timestamp time.Time
			Level     string
			Fields    struct{ Message string }
		}
		if err := json.Unmarshal(line, &l); err != nil || l.Timestamp.IsZero() || l.Level == "" || l.Fields.Message == "" {
			t.Errorf("%s: %v", line, err)
		}
	}
	if err := st.WriteBackups(dir); err != nil {
		t.Fatal(err)
	}
	for name, at := range map[string]string{"niodoo_backup_20261124_020000.tar.gz": "2026-11-24T02:00:00Z", "niodoo_backup_20261123_020000.tar.gz": "2026-11-23T02:00:00Z"} {
		st, err := os.Stat(filepath.Join(dir, name))
		if err != nil || st.Size() < 10_000 || st.ModTime().UTC().Format(time.RFC3339) != at {
			t.Errorf("%s: %v %v", name, st, err)
		}
	}
}

// TestLogRotation: a full log is renamed and begun anew.
func TestLogRotation(t *testing.T) {
	t.Parallel()
	l := &logFile{path: filepath.Join(t.TempDir(), "a.log")}
	defer l.close()
	for range 2 {
		if err := l.write([]string{strings.Repeat("x", maxLogFile)}); err != nil {
			t.Fatal(err)
		}
	}
	for _, path := range []string{l.path, l.path + ".1"} {
		if st, err := os.Stat(path); err != nil || st.Size() != maxLogFile+1 {
			t.Errorf("%s: %v %v", path, st, err)
		}
	}
}

// BenchmarkDay is what a day of the world costs.
func BenchmarkDay(b *testing.B) {
	c := newClock()
	for b.Loop() {
		newWorld(1, c.Now, 24*time.Hour).look()
	}
}
