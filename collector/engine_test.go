// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"context"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// What the engine's documents show, byte for byte.
const (
	engineRESTHealth  = `{"success":true,"data":{"status":"healthy","version":"0.1.0","uptime_seconds":3600,"components":{"consciousness_engine":"healthy","memory_manager":"healthy","brain_coordinator":"healthy","mobius_topology":"healthy","gpu_acceleration":"healthy"},"performance":{"avg_response_time_ms":250,"memory_usage_mb":512,"cpu_usage_percent":25}},"timestamp":"2025-01-27T10:30:00Z"}`
	engineRESTMetrics = `{"success":true,"data":{"consciousness_metrics":{"consciousness_level":0.75,"attention_focus":0.8,"memory_coherence":0.9},"performance_metrics":{"requests_per_second":10.5,"avg_response_time_ms":250,"error_rate":0.01},"resource_metrics":{"cpu_usage_percent":25,"memory_usage_mb":512,"gpu_usage_percent":15},"memory_metrics":{"total_memories":1250,"memory_coherence":0.92,"consolidation_frequency":0.1}},"timestamp":"2025-01-27T10:30:00Z"}`
	engineRESTMemory  = `{"success":true,"data":{"stability_ratio":0.9951,"toroidal_coherence":0.94},"timestamp":"2025-01-27T10:30:00Z"}`
	engineRESTState   = `{"success":true,"data":{"consciousness_level":0.76,"attention_focus":0.8,"memory_coherence":0.9,"emotional_context":{"joy":0.6,"sadness":0.1},"active_personalities":[{"type":"analytical","weight":0.1}],"last_updated":"2025-01-27T10:30:00Z"},"timestamp":"2025-01-27T10:30:00Z"}`
	engineRESTBrain   = `{"success":true,"data":{"brains":[{"type":"motor","status":"active","performance":{"cpu_usage":0.15,"memory_usage":0.05,"response_time_ms":45}},{"type":"lcars","status":"active","performance":{"cpu_usage":0.12,"memory_usage":0.08,"response_time_ms":38}},{"type":"efficiency","status":"failed","performance":{"cpu_usage":0.18,"memory_usage":0.06,"response_time_ms":42}}],"overall_status":"healthy"},"timestamp":"2025-01-27T10:30:00Z"}`
	engineRESTError   = `{"success":false,"error":{"code":"%s","message":"Failed to process consciousness event","details":"Brain coordination timeout"},"timestamp":"2025-01-27T10:30:00Z"}`

	engineManualMemory = `{"stability_ratio":0.9951,"consolidation_rate":120.5,"retrieval_success_rate":0.998,"toroidal_coherence":0.87}`
	engineManualText   = `# HELP consciousness_events_total Events
# TYPE consciousness_events_total counter
consciousness_events_total 123456
# TYPE consciousness_processing_time_ms gauge
consciousness_processing_time_ms 245
# TYPE memory_operations_total counter
memory_operations_total{operation="read"} 1000
memory_operations_total{operation="write"} 200
# TYPE memory_stability_ratio gauge
memory_stability_ratio 0.9953
# TYPE memory_layer_distribution gauge
memory_layer_distribution{layer="working"} 25
memory_layer_distribution{layer="episodic"} 75
# TYPE cache_hit_ratio gauge
cache_hit_ratio 0.92
# TYPE memory_usage_percent gauge
memory_usage_percent 61.5
`
	engineStructs = `{"consciousness":{"events_processed_per_second":45.2,"average_processing_time_ms":245,"memory_retrieval_time_ms":120,"emotional_processing_time_ms":180,"toroidal_coherence_score":0.94,"gaussian_novelty_level":0.17,"circuit_breaker_activations":3,"timeout_occurrences":7},
"memory":{"memory_stability_ratio":0.9951,"consolidation_rate_per_hour":0.5,"retrieval_success_rate":0.98,"memory_layer_distribution":{"CoreBurned":10,"Working":25},"toroidal_topology_coherence":0.98,"gaussian_sphere_count":601,"memory_compression_ratio":0.42},
"system":{"cpu_usage_percent":32.5,"memory_usage_percent":61.5,"disk_usage_percent":40,"network_throughput_mbps":12,"gpu_utilization_percent":55,"thread_pool_utilization":0.6,"cache_hit_ratio":0.91}}`
	engineHistogramText = `# TYPE consciousness_processing_time_ms histogram
consciousness_processing_time_ms_bucket{le="50"} 1
consciousness_processing_time_ms_bucket{le="1000"} 90
consciousness_processing_time_ms_bucket{le="+Inf"} 100
consciousness_processing_time_ms_sum 200361
consciousness_processing_time_ms_count 100
`
)

const (
	engineJSON = "application/json"
	engineText = "text/plain; version=0.0.4"
)

// engineFake answers the paths it has and 404 to all else, and counts requests.
type engineFake struct {
	*httptest.Server
	mu       sync.Mutex
	answers  map[string]engineFakeAnswer
	requests []string
	token    string
}

type engineFakeAnswer struct {
	status   int
	ct, body string
}

func engineServe(t testing.TB, answers map[string]engineFakeAnswer) *engineFake {
	t.Helper()
	f := &engineFake{answers: maps.Clone(answers)}
	f.Server = serveFunc(t, func(w http.ResponseWriter, r *http.Request) {
		f.mu.Lock()
		f.requests = append(f.requests, r.URL.Path)
		a, ok := f.answers[r.URL.Path]
		token := f.token
		f.mu.Unlock()
		switch {
		case !ok:
			http.NotFound(w, r)
		case token != "" && r.Header.Get("Authorization") != "Bearer "+token:
			w.WriteHeader(http.StatusUnauthorized)
			fmt.Fprintf(w, engineRESTError, "AUTHENTICATION_ERROR")
		case a.status == 0: // hang
			<-r.Context().Done()
		default:
			w.Header().Set("Content-Type", a.ct)
			w.WriteHeader(a.status)
			fmt.Fprint(w, a.body)
		}
	})
	return f
}

// set changes the answer of a path.
func (f *engineFake) set(path string, a engineFakeAnswer) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.answers[path] = a
}

// asked returns the paths asked for since the last call.
func (f *engineFake) asked() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	r := f.requests
	f.requests = nil
	return r
}

// engineScraper scrapes the fake; extra is more YAML.
func engineScraper(t testing.TB, f *engineFake, extra string) *Scraper {
	t.Helper()
	return scraper(t, only(t, "engine", fmt.Sprintf("{url: %q, %s}", f.URL, extra)))
}

var engineDialects = map[string]map[string]engineFakeAnswer{
	"manual": {
		"/health":             {200, "text/plain", "OK"},
		"/metrics":            {200, "text/plain; charset=utf-8", engineManualText},
		"/api/memory/metrics": {200, engineJSON, engineManualMemory},
	},
	"rest": {
		"/api/v1/health":              {200, engineJSON, engineRESTHealth},
		"/api/v1/metrics":             {200, engineJSON, engineRESTMetrics},
		"/api/v1/memory/status":       {200, engineJSON, engineRESTMemory},
		"/api/v1/consciousness/state": {200, engineJSON, engineRESTState},
		"/api/v1/brain/status":        {200, engineJSON, engineRESTBrain},
	},
	"deployment": {
		"/health":  {200, engineJSON, `{"status":"healthy"}`},
		"/metrics": {200, engineJSON, `{"gpu_utilization_percent":15.0,"knot_detections":0,"memory_usage_bytes":536870912,"persistence_computations":0}`},
	},
	"structs": {
		"/health":  {200, engineJSON, `{"status":"running","version":"1.0.0"}`},
		"/metrics": {200, "text/plain", engineStructs}, // the content type is wrong, the first byte is right
	},
	"histogram": {
		"/health":  {200, "", ""},
		"/metrics": {200, engineText, engineHistogramText},
	},
}

// Each dialect, in its second scrape, when the paths are known.
func TestEngineDialects(t *testing.T) {
	for name, answers := range engineDialects {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := engineScraper(t, engineServe(t, answers), "")
			scrape(t, s)
			golden(t, "engine_"+name, scrape(t, s).Families)
		})
	}
}

// Every metric of the table is in a golden file, so that each row is proven.
func TestEngineGoldenCoverage(t *testing.T) {
	var all strings.Builder
	for name := range engineDialects {
		raw, err := os.ReadFile(filepath.Join("testdata", "engine_"+name+".prom"))
		if err != nil {
			t.Fatal(err)
		}
		all.Write(raw)
	}
	elsewhere := []string{
		"niodoo_engine_canary_success", "niodoo_engine_canary_duration_seconds", "niodoo_engine_canary_timestamp_seconds",
		"niodoo_memory_layer_stability_ratio", "niodoo_engine_requests_total", "niodoo_engine_errors_total",
	}
	for _, d := range Catalogue() {
		if d.Collector == "engine" && !slices.Contains(elsewhere, d.Name) && !strings.Contains(all.String(), "# TYPE "+d.Name+" ") {
			t.Errorf("%s is in no golden file", d.Name)
		}
	}
}

// engineDecode decodes one answer of the metrics endpoint and renders what it came to.
func engineDecode(t testing.TB, endpoint, ct, body string) (string, error) {
	t.Helper()
	a, err := decodeEngine(endpoint, &reply{what: "GET /metrics", status: 200, header: http.Header{"Content-Type": {ct}}, body: []byte(body)})
	if err != nil {
		return "", err
	}
	var out []string
	for _, r := range a.readings {
		s := strings.TrimPrefix(r.desc().Name, "niodoo_")
		if r.label != "" {
			s += "{" + r.label + "}"
		}
		if r.hist != nil {
			s += fmt.Sprintf("=%d %g %v %v", r.hist.count, r.hist.sum, r.hist.bounds, r.hist.counts)
		} else {
			s += fmt.Sprintf("=%g", r.value)
		}
		out = append(out, s)
	}
	for why, n := range a.rejected {
		if n > 0 {
			out = append(out, fmt.Sprintf("!%s=%d", engineRejects[why], n))
		}
	}
	return strings.Join(out, " "), nil
}

func TestEngineDecode(t *testing.T) {
	for _, c := range []struct{ name, endpoint, ct, body, want string }{
		{"nothing known", "metrics", engineJSON, `{"a":{"b":[1,{"stability_ratio":0.5}]}}`, ""},
		{"null is absent", "metrics", engineJSON, `{"stability_ratio":null}`, ""},
		{"percent as ratio", "memory", engineJSON, `{"stability_ratio":99.51}`, "!range=1"},
		{"percent over a hundred", "metrics", engineJSON, `{"cpu_usage_percent":250}`, "!range=1"},
		{"negative", "metrics", engineJSON, `{"total_memories":-1,"avg_response_time_ms":-0.1}`, "!range=2"},
		{"not a number", "metrics", engineJSON, `{"stability_ratio":"0.9951","error_rate":true}`, "!not_a_number=2"},
		{"too large for a number", "metrics", engineJSON, `{"total_memories":1e999}`, "!not_finite=1"},
		{"NaN and Inf in text", "metrics", engineText, "memory_stability_ratio NaN\ncache_hit_ratio inf\nconsciousness_events_total -inf\n", "!not_finite=3"},
		{"a consolidation fraction", "memory", engineJSON, `{"consolidation_rate":0.5}`, "!ambiguous=1"},
		{"a consolidation rate of 1", "memory", engineJSON, `{"consolidation_rate":1}`, "!ambiguous=1"},
		{"consolidations per hour", "memory", engineJSON, `{"consolidation_rate_per_hour":0.5}`, "memory_consolidations_per_hour=0.5"},
		{"coherence of the state endpoint", "state", engineJSON, `{"success":true,"data":{"memory_coherence":0.9}}`, "consciousness_memory_coherence_ratio=0.9"},
		{"coherence of the memory endpoint", "memory", engineJSON, `{"memory_coherence":0.9}`, "memory_coherence_ratio=0.9"},
		{"the innermost section decides", "memory", engineJSON, `{"consciousness_metrics":{"x":{"memory_coherence":0.9}}}`, "consciousness_memory_coherence_ratio=0.9"},
		{"coherence of what", "metrics", engineJSON, `{"memory_coherence":0.9}`, "!ambiguous=1"},
		{"coherence in text", "metrics", engineText, "memory_coherence 0.9\n", "!ambiguous=1"},
		{"the same value twice", "metrics", engineJSON, `{"a":{"consciousness_level":0.5},"b":{"consciousness_level":0.5}}`, "consciousness_level_ratio=0.5"},
		{"two values", "metrics", engineJSON, `{"a":{"consciousness_level":0.5},"b":{"consciousness_level":0.6}}`, "!ambiguous=1"},
		{"layers", "memory", engineJSON, `{"memory_layer_stability":{"working":0.99,"episodic":99}}`, "memory_layer_stability_ratio{working}=0.99 !range=1"},
		{"a layered metric without layers", "memory", engineJSON, `{"memory_layer_distribution":7}`, "!ambiguous=1"},
		{"escaped keys", "memory", engineJSON, `{"memory_layer_distribution":{"a\u0062\"":7},"stability\u005fratio":1}`, `memory_stability_ratio=1 memory_layer_entries{ab"}=7`},
		{"brain fields elsewhere", "metrics", engineJSON, `{"cpu_usage":0.2}`, "!ambiguous=1"},
		{"sums of a summary", "metrics", engineText, "# TYPE consciousness_processing_time_ms summary\nconsciousness_processing_time_ms{quantile=\"0.5\"} 200\nconsciousness_processing_time_ms_sum 500\nconsciousness_processing_time_ms_count 2\n",
			"consciousness_processing_time_seconds=0.25"},
		{"an idle summary", "metrics", engineText, "# TYPE consciousness_processing_time_ms summary\nconsciousness_processing_time_ms_sum 0\nconsciousness_processing_time_ms_count 0\n", ""},
		{"a histogram", "metrics", engineText, engineHistogramText, "consciousness_processing_duration_seconds=100 200.361 [0.05 1] [1 90]"},
		{"an untyped histogram", "metrics", engineText, strings.Replace(engineHistogramText, "# TYPE", "#", 1), "consciousness_processing_duration_seconds=100 200.361 [0.05 1] [1 90]"},
		{"a histogram by stage", "metrics", engineText, engineStages("1000", 1), "consciousness_processing_duration_seconds=5 3 [1] [3]"},
		{"stages with other buckets", "metrics", engineText, engineStages("2000", 1), "!ambiguous=1"},
		{"a histogram that does not add up", "metrics", engineText, engineStages("1000", 9), "!inconsistent=1"},
		{"a histogram where a gauge is wanted", "metrics", engineText, "# TYPE memory_retrieval_time_ms histogram\nmemory_retrieval_time_ms_bucket{le=\"+Inf\"} 2\nmemory_retrieval_time_ms_sum 100\nmemory_retrieval_time_ms_count 2\n",
			"consciousness_memory_retrieval_time_seconds=0.05"},
		{"half an untyped histogram", "metrics", engineText, "consciousness_processing_time_ms_sum 100\nconsciousness_processing_time_ms_count 2\n", ""},
		{"a counter without _total", "metrics", engineText, "# TYPE consciousness_events counter\nconsciousness_events 5\n", "consciousness_events_total=5"},
		{"a counter of OpenMetrics", "metrics", "application/openmetrics-text", "# TYPE consciousness_events counter\nconsciousness_events_total 5 # {} 1\n# EOF\n", "consciousness_events_total=5"},
		{"a counter by label, one series twice", "metrics", engineText, "errors_total{code=\"1\"} 5\nerrors_total{code=\"2\"} 1\nerrors_total{code=\"1\"} 6\n", "engine_errors_total=7"},
		{"a counter with one bad series", "metrics", engineText, "errors_total{code=\"1\"} 5\nerrors_total{code=\"2\"} NaN\n", "!not_finite=1"},
		{"requests", "metrics", engineText, "http_requests_total{path=\"/a\"} 5\nhttp_requests_total{path=\"/b\"} 6\n", "engine_requests_total=11"},
		{"a gauge by label", "metrics", engineText, "cache_hit_ratio{cache=\"a\"} 0.5\ncache_hit_ratio{cache=\"b\"} 0.6\n", "!ambiguous=1"},
		{"a gauge with one label", "metrics", engineText, "cache_hit_ratio{cache=\"a\"} 0.5\n", "engine_cache_hit_ratio=0.5"},
		{"dirt", "metrics", "text/plain", "\x1b[2m2025\x1b[0m INFO x\nprompt,baseline\n\"a\nb\",1\nmemory_stability_ratio 0\n0 176\ncache_hit_ratio{x=\"\xff\"} 0.5\r\n", "memory_stability_ratio=0 engine_cache_hit_ratio=0.5 !syntax=5"},
		{"empty text", "metrics", "text/plain", "", ""},
		{"text that claims to be JSON", "metrics", engineJSON, "memory_stability_ratio 1\n", "memory_stability_ratio=1"},
		{"JSON with a byte order mark", "metrics", engineJSON, "\ufeff{\"stability_ratio\":1}", "memory_stability_ratio=1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			got, err := engineDecode(t, c.endpoint, c.ct, c.body)
			if err != nil || got != c.want {
				t.Errorf("got %q, %v; want %q", got, err, c.want)
			}
		})
	}
}

// engineStages is a histogram with two label sets, the second with its own bound and first bucket.
func engineStages(bound string, first int) string {
	return fmt.Sprintf(`# TYPE consciousness_processing_time_ms histogram
consciousness_processing_time_ms_bucket{stage="a",le="1000"} 2
consciousness_processing_time_ms_bucket{stage="a",le="+Inf"} 3
consciousness_processing_time_ms_sum{stage="a"} 1000
consciousness_processing_time_ms_count{stage="a"} 3
consciousness_processing_time_ms_bucket{stage="b",le="%s"} %d
consciousness_processing_time_ms_bucket{stage="b",le="+Inf"} 2
consciousness_processing_time_ms_sum{stage="b"} 2000
consciousness_processing_time_ms_count{stage="b"} 2
`, bound, first)
}

func TestEngineDecodeUnreadable(t *testing.T) {
	for _, c := range []struct{ name, ct, body string }{
		{"login page", "text/html", "<html>"}, {"HTML in disguise", "text/plain", " <!DOCTYPE html>"}, {"truncated JSON", engineJSON, `{"stability_ratio":0.9`},
		{"empty JSON", engineJSON, ""}, {"prose", "text/plain", "all is well today\n"}, {"a bare JSON string", engineJSON, `"ok"`}, {"binary", "application/octet-stream", "\x00\xff\x01"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got, err := engineDecode(t, "metrics", c.ct, c.body); classify(err) != ReasonParse {
				t.Errorf("got %q, %v", got, err)
			}
		})
	}
}

func TestEngineDecodeLimits(t *testing.T) {
	var layers, series, parts strings.Builder
	for i := range maxEngineLabels + 3 {
		fmt.Fprintf(&layers, "memory_layer_distribution{layer=\"%03d\"} 1\n", i)
	}
	for i := range maxEngineValues + 5 {
		fmt.Fprintf(&series, "http_requests_total{path=\"/%d\"} 1\n", i)
	}
	parts.WriteString(`{"components":{"x":1`)
	for i := range maxEngineParts + 2 {
		fmt.Fprintf(&parts, `,"p%d":{"status":"ok"}`, i)
	}
	parts.WriteString("}}")
	if got, _ := engineDecode(t, "metrics", engineText, layers.String()); !strings.HasSuffix(got, "{063}=1 !limit=3") {
		t.Errorf("layers: %s", got)
	}
	if got, _ := engineDecode(t, "metrics", engineText, series.String()); got != "!limit=5" {
		t.Errorf("series: %s", got)
	}
	if got, _ := engineDecode(t, "health", engineJSON, parts.String()); got != "!limit=2" {
		t.Errorf("parts: %s", got)
	}
	deep := strings.Repeat(`{"a":`, 9000) + `{"stability_ratio":1}` + strings.Repeat("}", 9000)
	if got, err := engineDecode(t, "metrics", engineJSON, deep); err != nil || got != "memory_stability_ratio=1" {
		t.Errorf("deep: %s, %v", got, err)
	}
}

// The first row of the table wins, then the first endpoint.
func TestEngineOrder(t *testing.T) {
	f := engineServe(t, map[string]engineFakeAnswer{
		"/health":                     {200, engineJSON, `{"status":"ok","consciousness_level":0.1,"uptime_seconds":5,"memory_usage_mb":1}`},
		"/metrics":                    {200, engineJSON, `{"stability_ratio":0.2,"consciousness_level":0.2,"memory_layer_distribution":{"a":1}}`},
		"/api/memory/metrics":         {200, engineJSON, `{"memory_stability_ratio":0.3,"memory_usage_bytes":3,"memory_layer_distribution":{"b":1}}`},
		"/api/v1/consciousness/state": {200, engineJSON, `{"consciousness_level":0.4}`},
	})
	res := scrape(t, engineScraper(t, f, ""))
	for series, want := range map[string]float64{
		"niodoo_memory_stability_ratio":                       0.3,
		"niodoo_consciousness_level_ratio":                    0.2,
		"niodoo_engine_uptime_seconds":                        5,
		"niodoo_engine_memory_usage_bytes":                    1 << 20,
		`niodoo_memory_layer_entries{layer="a"}`:              1,
		`niodoo_component_up{component="engine"}`:             1,
		`niodoo_scrape_collector_success{collector="engine"}`: 1,
	} {
		if v := value(t, res.Families, series); v != want {
			t.Errorf("%s is %v, want %v", series, v, want)
		}
	}
	if _, ok := lookup(res.Families, `niodoo_memory_layer_entries{layer="b"}`); ok {
		t.Error("the layers of two endpoints are mixed")
	}
}

func TestEngineHealthWords(t *testing.T) {
	for _, c := range []struct {
		ct, body string
		reason   Reason // "" is up
	}{
		{"text/plain", "", ""}, {"text/plain", " \n", ""}, {engineJSON, "", ""},
		{"text/plain", "healthy", ""}, {"text/plain", "OK", ""}, {"text/plain", "ok\n", ""}, {"text/plain", "Ready", ""},
		{"text/plain", "running", ""}, {"text/plain", "up", ""}, {"text/plain", "pass", ""}, {"text/plain", "degraded", ""}, {"text/plain", "Warning", ""},
		{engineJSON, `"healthy"`, ""},
		{"text/plain", "unhealthy", ReasonUnhealthy}, {"text/plain", "down", ReasonUnhealthy}, {"text/plain", "starting", ReasonUnhealthy},
		{"text/plain", "active", ReasonUnhealthy}, {engineJSON, `"failing"`, ReasonUnhealthy},
		{"text/plain", "I am healthy", ReasonParse}, {"text/plain", "\xff\xfe", ReasonParse}, {engineJSON, `"hea`, ReasonParse},
		{engineJSON, `{"status":"HEALTHY"}`, ""}, {engineJSON, `{"status":"pass"}`, ""}, {engineJSON, `{"status":true}`, ""},
		{engineJSON, `{"service":"x"}`, ""}, {engineJSON, `{}`, ""}, {engineJSON, `{"status":null}`, ""},
		{engineJSON, `{"status":"success","data":{"status":"healthy"}}`, ""}, {engineJSON, `{"data":{"status":"healthy"},"status":"success"}`, ""},
		{engineJSON, `{"success":true,"data":{}}`, ""},
		{engineJSON, `{"status":"unhealthy"}`, ReasonUnhealthy}, {engineJSON, `{"status":""}`, ReasonUnhealthy}, {engineJSON, `{"status":false}`, ReasonUnhealthy},
		{engineJSON, `{"status":"ok","data":{"status":"critical"}}`, ReasonUnhealthy},
		{engineJSON, `{"success":false,"data":{"status":"healthy"}}`, ReasonUnhealthy}, {engineJSON, fmt.Sprintf(engineRESTError, "MOBIUS_ERROR"), ReasonUnhealthy},
		{engineJSON, `{"status":"healthy"`, ReasonParse}, {engineJSON, `[]`, ReasonParse}, {engineJSON, `1`, ReasonParse},
		{"text/html", "healthy", ReasonParse}, {"text/plain", "<html>healthy</html>", ReasonParse},
	} {
		t.Run(c.body, func(t *testing.T) {
			t.Parallel()
			f := engineServe(t, map[string]engineFakeAnswer{"/health": {200, c.ct, c.body}})
			s := engineScraper(t, f, "")
			if c.reason != "" {
				expectFailureOf(t, s, "engine", false, c.reason, 5*time.Second)
				return
			}
			res := scrape(t, s)
			if v := value(t, res.Families, `niodoo_component_up{component="engine"}`); v != 1 || len(res.Failures) != 0 {
				t.Errorf("up is %v, failures %v", v, res.Failures)
			}
		})
	}
}

func TestEngineFailures(t *testing.T) { testHTTPFailures(t, "engine") }

// An engine that is not well says why: its parts and its values are exported.
func TestEngineUnhealthyWithDetails(t *testing.T) {
	answers := map[string]engineFakeAnswer{
		"/health":  {503, engineJSON, `{"status":"unhealthy","components":{"memory_manager":"failed","gpu":{"status":"ok"},"db":false}}`},
		"/metrics": {200, engineText, engineManualText},
	}
	f := engineServe(t, answers)
	s := engineScraper(t, f, "")
	res := expectFailureOf(t, s, "engine", false, ReasonNotReady, 5*time.Second)
	for part, want := range map[string]float64{"memory_manager": 0, "gpu": 1, "db": 0} {
		if v := value(t, res.Families, `niodoo_engine_component_healthy{part="`+part+`"}`); v != want {
			t.Errorf("%s is %v", part, v)
		}
	}
	a := answers["/health"]
	a.status = 200
	f.set("/health", a)
	res = expectFailureOf(t, s, "engine", false, ReasonUnhealthy, 5*time.Second)
	if v := value(t, res.Families, "niodoo_memory_stability_ratio"); v != 0.9953 {
		t.Errorf("stability is %v", v)
	}
}

// A statistics endpoint that fails leaves health and the other endpoints' values.
func TestEngineStatisticsFail(t *testing.T) {
	for _, c := range []struct {
		name   string
		answer engineFakeAnswer
		reason Reason
	}{
		{"500", engineFakeAnswer{500, "text/plain", "Error gathering metrics"}, ReasonHTTPStatus},
		{"503", engineFakeAnswer{503, "text/plain", ""}, ReasonNotReady},
		{"401", engineFakeAnswer{401, engineJSON, "{}"}, ReasonAuth},
		{"429", engineFakeAnswer{429, "text/plain", ""}, ReasonRateLimited},
		{"302", engineFakeAnswer{302, "text/plain", ""}, ReasonHTTPStatus},
		{"hangs", engineFakeAnswer{}, ReasonTimeout},
		{"login page", engineFakeAnswer{200, "text/html", "<html>"}, ReasonParse},
		{"truncated", engineFakeAnswer{200, engineJSON, `{"a":`}, ReasonParse},
		{"too large", engineFakeAnswer{200, engineText, strings.Repeat("\n", maxMetricsBody+1)}, ReasonTooLarge},
		{"success false", engineFakeAnswer{200, engineJSON, fmt.Sprintf(engineRESTError, "MEMORY_ERROR")}, ReasonUnhealthy},
		{"wrong token with 200", engineFakeAnswer{200, engineJSON, fmt.Sprintf(engineRESTError, "AUTHENTICATION_ERROR")}, ReasonAuth},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			answers := maps.Clone(engineDialects["manual"])
			answers["/metrics"] = c.answer
			s := engineScraper(t, engineServe(t, answers), "timeout: 2s")
			res := expectFailureOf(t, s, "engine", true, c.reason, 10*time.Second)
			if v := value(t, res.Families, "niodoo_memory_stability_ratio"); v != 0.9951 {
				t.Errorf("stability is %v", v)
			}
			value(t, res.Families, `niodoo_engine_fields_rejected_total{reason="range"}`)
		})
	}
}

// The values of the quick endpoints do not wait for a slow one until the
// scrape's own deadline, which may be before the run's.
func TestEngineSlowEndpointDoesNotHoldTheOthers(t *testing.T) {
	answers := maps.Clone(engineDialects["manual"])
	answers["/metrics"] = engineFakeAnswer{}
	s := engineScraper(t, engineServe(t, answers), "timeout: 30s")
	res := s.Scrape(context.Background(), 2*enginePatience, nil)
	value(t, res.Families, `niodoo_engine_fields_rejected_total{reason="range"}`)
	if v := value(t, res.Families, "niodoo_memory_stability_ratio"); v != 0.9951 {
		t.Errorf("stability is %v", v)
	}
}

// An answer after the others' values have been sent only adds what is missing.
func TestEngineLateAnswer(t *testing.T) {
	ch := make(chan prometheus.Metric, 10)
	m := &engineMerge{ch: ch, collector: &engine{}, answers: make([]*engineAnswer, 2)}
	stability, cache := engineByName["stability_ratio"][0], engineByName["cache_hit_ratio"][0]
	m.done(1, &engineAnswer{readings: []engineReading{{row: stability, value: 0.5}}, parts: []enginePart{{"a", true}}})
	m.hurry()
	m.done(0, &engineAnswer{readings: []engineReading{{row: stability, value: 0.6}, {row: cache, value: 0.7}}, parts: []enginePart{{"a", false}}})
	m.flush()
	var got []string
	for len(ch) > 0 {
		s := (<-ch).(*sample)
		got = append(got, fmt.Sprint(s.desc.Name, " ", s.value))
	}
	want := []string{"niodoo_memory_stability_ratio 0.5", "niodoo_engine_component_healthy 1", "niodoo_engine_cache_hit_ratio 0.7"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
}

// Whatever the engine has, it is asked at most five times a scrape, and soon
// only for what it has.
func TestEngineRequests(t *testing.T) {
	for name, answers := range engineDialects {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := engineServe(t, answers)
			s := engineScraper(t, f, "")
			var last []string
			for range 6 {
				if res := scrape(t, s); len(res.Failures) > 0 {
					t.Fatal(res.Failures)
				}
				if last = f.asked(); len(last) > maxEngineRequests {
					t.Errorf("asked %v", last)
				}
			}
			slices.Sort(last)
			if want := slices.Sorted(maps.Keys(answers)); !slices.Equal(last, want) {
				t.Errorf("in the end asked %v, want %v", last, want)
			}
		})
	}
}

// A fleet's engine is asked by a new collector each time: the REST dialect is
// found within the first scrape.
func TestEngineFirstScrapeFindsREST(t *testing.T) {
	f := engineServe(t, engineDialects["rest"])
	res := scrape(t, engineScraper(t, f, ""))
	value(t, res.Families, "niodoo_engine_error_ratio")
	value(t, res.Families, "niodoo_memory_stability_ratio")
	if asked := f.asked(); len(asked) > maxEngineRequests {
		t.Errorf("asked %v", asked)
	}
}

func TestEngineConfiguredPaths(t *testing.T) {
	f := engineServe(t, map[string]engineFakeAnswer{
		"/healthz": {200, "text/plain", "ok"}, "/stats": {200, engineText, engineManualText}, "/mem": {200, engineJSON, engineManualMemory},
		"/s": {200, engineJSON, engineRESTState}, "/b": {200, engineJSON, engineRESTBrain},
	})
	s := engineScraper(t, f, "paths: {health: /healthz, metrics: /stats, memory: /mem, state: /s, brain: /b}")
	res := scrape(t, s)
	if len(res.Failures) > 0 {
		t.Error(res.Failures)
	}
	value(t, res.Families, "niodoo_consciousness_events_total")
	value(t, res.Families, "niodoo_consciousness_level_ratio")
	if asked := f.asked(); len(asked) != 5 {
		t.Errorf("asked %v", asked)
	}
	// A path that the file names has to be there.
	s = engineScraper(t, f, "paths: {health: /healthz, metrics: /gone}")
	expectFailureOf(t, s, "engine", true, ReasonNotFound, 5*time.Second)
}

// engineEndpointOn returns a metrics endpoint, and how it asks the fake.
func engineEndpointOn(t *testing.T, f *engineFake, spare bool) (*engineEndpoint, func(now time.Time) error) {
	ep := newEngineEndpoint("metrics", maxMetricsBody, "", "/metrics", "/api/v1/metrics")
	cfg := only(t, "engine", fmt.Sprintf("{url: %q}", f.URL))
	c, err := newHTTPClient(cfg.Engine.HTTP, Deps{}.withDefaults())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return &ep, func(now time.Time) error {
		if !ep.due(now) {
			return nil
		}
		_, err := ep.ask(t.Context(), c, now, func() bool { return spare })
		return err
	}
}

func TestEngineEndpointMissing(t *testing.T) {
	f := engineServe(t, map[string]engineFakeAnswer{})
	_, ask := engineEndpointOn(t, f, false)
	now := time.Now()
	for i, want := range [][]string{{"/metrics"}, {"/api/v1/metrics"}, nil, nil} {
		if err := ask(now); err != nil {
			t.Error(err)
		}
		if got := f.asked(); !slices.Equal(got, want) {
			t.Errorf("scrape %d asked %v, want %v", i, got, want)
		}
	}
	now = now.Add(engineAskAgain)
	f.set("/api/v1/metrics", engineFakeAnswer{200, engineJSON, engineRESTMetrics})
	for i, want := range [][]string{{"/metrics"}, {"/api/v1/metrics"}, {"/api/v1/metrics"}} {
		if err := ask(now); err != nil {
			t.Error(err)
		}
		if got := f.asked(); !slices.Equal(got, want) {
			t.Errorf("later scrape %d asked %v, want %v", i, got, want)
		}
	}
}

// While one path fails and the other is not there, the failure stays visible;
// when the other comes, it is found.
func TestEngineEndpointFailing(t *testing.T) {
	f := engineServe(t, map[string]engineFakeAnswer{"/metrics": {500, "text/plain", ""}})
	ep, ask := engineEndpointOn(t, f, false)
	now := time.Now()
	for range 3 * engineTryOther {
		if err := ask(now); classify(err) != ReasonHTTPStatus {
			t.Errorf("got %v", err)
		}
	}
	if got := f.asked(); !slices.Contains(got, "/api/v1/metrics") || len(got) != 3*engineTryOther {
		t.Errorf("asked %v", got)
	}
	f.set("/api/v1/metrics", engineFakeAnswer{200, engineJSON, engineRESTMetrics})
	for i := 0; ask(now) != nil; i++ {
		if i > engineTryOther {
			t.Fatal("the other path is not found")
		}
	}
	if ep.paths[ep.at] != "/api/v1/metrics" || ep.failures != 0 {
		t.Errorf("the endpoint is %+v", ep)
	}
}

// A path that has answered is asked again after any outage, however long: the
// other one may know less.
func TestEngineEndpointAfterAnOutage(t *testing.T) {
	f := engineServe(t, engineDialects["rest"])
	f.set("/metrics", engineFakeAnswer{200, "text/plain; version=0.0.4", "requests_total 1\n"})
	ep, ask := engineEndpointOn(t, f, false)
	now := time.Now()
	if err := ask(now); err != nil {
		t.Fatal(err)
	}
	f.set("/metrics", engineFakeAnswer{401, engineJSON, "{}"})
	f.set("/api/v1/metrics", engineFakeAnswer{401, engineJSON, "{}"})
	for outage := 1; outage <= engineTryOther+1; outage++ {
		if err := ask(now); classify(err) != ReasonAuth {
			t.Errorf("got %v", err)
		}
	}
	f.set("/metrics", engineFakeAnswer{200, "text/plain; version=0.0.4", "requests_total 2\n"})
	f.set("/api/v1/metrics", engineFakeAnswer{200, engineJSON, engineRESTMetrics})
	if err := ask(now); err != nil || ep.paths[ep.at] != "/metrics" {
		t.Errorf("%v; the endpoint is %+v", err, ep)
	}
}

func TestEngineToken(t *testing.T) {
	f := engineServe(t, engineDialects["rest"])
	f.token = "s3cret"
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte("s3cret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	with := engineScraper(t, f, fmt.Sprintf("authorization: {credentials_file: %q}", file))
	if res := scrape(t, with); len(res.Failures) > 0 {
		t.Error(res.Failures)
	}
	expectFailure(t, only(t, "engine", fmt.Sprintf("{url: %q}", f.URL)), "engine", true, ReasonAuth)
	// A file that goes away is our configuration's failure.
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	expectFailureOf(t, with, "engine", false, ReasonConfig, 5*time.Second)
}

// Where only health wants a token, the rest is still read.
func TestEngineTokenForHealthOnly(t *testing.T) {
	answers := maps.Clone(engineDialects["manual"])
	answers["/health"] = engineFakeAnswer{401, "text/plain", ""}
	res := expectFailureOf(t, engineScraper(t, engineServe(t, answers), ""), "engine", true, ReasonAuth, 5*time.Second)
	value(t, res.Families, "niodoo_consciousness_events_total")
}

func TestEngineRejectedIsCounted(t *testing.T) {
	f := engineServe(t, map[string]engineFakeAnswer{
		"/health": {200, "text/plain", "OK"}, "/metrics": {200, engineText, "memory_stability_ratio 99.51\n"},
	})
	s := engineScraper(t, f, "")
	for want := range 3 {
		if v := value(t, scrape(t, s).Families, `niodoo_engine_fields_rejected_total{reason="range"}`); v != float64(want+1) {
			t.Errorf("range is %v, want %v", v, want+1)
		}
	}
	down := engineScraper(t, &engineFake{Server: &httptest.Server{URL: "http://" + closedPort(t)}}, "")
	res := expectFailureOf(t, down, "engine", false, ReasonRefused, 5*time.Second)
	for _, why := range engineRejects {
		if v := value(t, res.Families, `niodoo_engine_fields_rejected_total{reason="`+why+`"}`); v != 0 {
			t.Errorf("%s is %v", why, v)
		}
	}
}

// Connections are kept: many scrapes dial no more often than the first.
func TestEngineKeepsConnections(t *testing.T) {
	f := engineServe(t, engineDialects["rest"])
	var mu sync.Mutex
	dials := 0
	deps := Deps{DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		mu.Lock()
		dials++
		mu.Unlock()
		return (&net.Dialer{}).DialContext(ctx, network, addr)
	}}
	s := scraperWith(t, only(t, "engine", fmt.Sprintf("{url: %q}", f.URL)), deps, Options{})
	for range 10 {
		scrape(t, s)
	}
	if dials > maxEngineRequests {
		t.Errorf("%d dials", dials)
	}
}

func TestEngineCanary(t *testing.T) {
	asked := make(chan string, 1)
	answer := make(chan string)
	srv := serveFunc(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/api/v1/consciousness/process" {
			return // health: an empty 200
		}
		asked <- r.Method
		select {
		case body := <-answer:
			fmt.Fprint(w, body)
		case <-r.Context().Done():
		}
	})
	s := scraper(t, only(t, "engine", fmt.Sprintf("{url: %q, paths: {metrics: /health, memory: /health, state: /health, brain: /health}, canary: {enabled: true, interval: 1ms, timeout: 30s}}", srv.URL)))
	for _, c := range []struct {
		body string
		want float64
	}{{`{"success":true,"data":{"processing_time_ms":245}}`, 1}, {`{"success":false}`, 0}, {"<html>", 0}} {
		// One is started; a scrape in the meantime starts no other and does not wait.
		for i := 0; ; i++ {
			scrape(t, s)
			select {
			case m := <-asked:
				if m != http.MethodPost {
					t.Errorf("asked with %s", m)
				}
			case <-time.After(10 * time.Millisecond):
				if i < 500 {
					continue
				}
				t.Fatal("no canary")
			}
			break
		}
		scrape(t, s)
		answer <- c.body
		for i := 0; ; i++ {
			v, ok := lookup(scrape(t, s).Families, "niodoo_engine_canary_success")
			if ok && v == c.want {
				break
			}
			if i > 500 {
				t.Fatalf("after %s success is %v, %v", c.body, v, ok)
			}
			time.Sleep(time.Millisecond)
		}
	}
	// One may be under way when the scraper is closed: goleak sees to it that it ends.
}

// The canary's pace and its end, with a clock that stands still.
func TestEngineCanaryPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		calls := 0
		c := newEngineCanary(&httpClient{}, only(t, "engine", "{canary: {enabled: true}}").Engine.Canary, time.Now)
		c.client.authorize = func(*http.Request) error { calls++; return failf(ReasonConfig, "no") }
		c.client.base = httptest.NewRequest(http.MethodGet, "http://x/", nil).URL
		ch := make(chan prometheus.Metric, 10)
		c.update(ch)
		synctest.Wait()
		time.Sleep(c.interval - time.Second)
		c.update(ch)
		synctest.Wait()
		if calls != 1 || len(ch) != 3 {
			t.Errorf("%d calls, %d metrics", calls, len(ch))
		}
		time.Sleep(time.Second)
		c.update(ch)
		synctest.Wait()
		c.close()
		if calls != 2 || len(ch) != 6 {
			t.Errorf("%d calls, %d metrics", calls, len(ch))
		}
	})
}

// FuzzEngineDecode: whatever comes, nothing panics, nothing unusable is
// exported, and all that is exported is a valid exposition.
func FuzzEngineDecode(f *testing.F) {
	for _, answers := range engineDialects {
		for path, a := range answers {
			f.Add(path, a.ct, []byte(a.body))
		}
	}
	f.Add("/metrics", engineText, []byte(engineStages("1000", 1)))
	f.Add("/x", engineJSON, []byte(`{"data":{"brains":[{"type":"a","brains":[1]},2,"x",{"type":"\u00e9"}],"memory_layer_distribution":{"":1}}}`))
	f.Fuzz(func(t *testing.T, path, ct string, body []byte) {
		endpoint := [...]string{"metrics", "memory", "state", "brain", "health"}[len(path)%5]
		r := &reply{what: path, status: 200, header: http.Header{"Content-Type": {ct}}, body: body}
		if a, err := decodeHealth(r); a == nil && classify(err) != ReasonParse {
			t.Errorf("health: %v", err)
		}
		a, err := decodeEngine(endpoint, r)
		if err != nil {
			if classify(err) != ReasonParse {
				t.Error(err)
			}
			return
		}
		seen := map[string]bool{}
		for _, r := range a.readings {
			key := r.desc().Name + "\xff" + r.label
			f := &engineFields[r.row]
			switch {
			case r.hist != nil:
				if !slices.IsSorted(r.hist.bounds) || !slices.IsSorted(r.hist.counts) || r.hist.sum < 0 {
					t.Errorf("histogram %+v", r.hist)
				}
			case !(r.value >= 0) || f.max > 0 && r.value > f.max || r.value > 1e308*1.79:
				t.Errorf("%s is %v", f.name, r.value)
			case (r.label == "") != (len(f.metric.Labels) == 0):
				t.Errorf("%s has the label %q", f.name, r.label)
			}
			if k := fmt.Sprint(r.row, key); seen[k] {
				t.Errorf("%s twice", key)
			} else {
				seen[k] = true
			}
		}
	})
}

func BenchmarkEngineDecode(b *testing.B) {
	for _, c := range []struct{ name, endpoint, ct, body string }{
		{"text", "metrics", engineText, engineManualText},
		{"histogram", "metrics", engineText, engineHistogramText},
		{"large text", "metrics", engineText, engineManualText + strings.Repeat("some_other_metric{a=\"b\",c=\"d\"} 1\n", 2000)},
		{"envelope", "metrics", engineJSON, engineRESTMetrics},
		{"structs", "metrics", engineJSON, engineStructs},
		{"brains", "brain", engineJSON, engineRESTBrain},
	} {
		b.Run(c.name, func(b *testing.B) {
			r := &reply{header: http.Header{"Content-Type": {c.ct}}, body: []byte(c.body)}
			b.SetBytes(int64(len(c.body)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := decodeEngine(c.endpoint, r); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
