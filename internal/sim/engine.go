// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// EngineOptions are the dialects of the engine's API that are documented. The
// first value of each is the default.
type EngineOptions struct {
	// Metrics is what /metrics answers: "text" for Prometheus text, "json" for
	// the envelope. /api/v1/metrics is always the envelope.
	Metrics string
	// Processing is the type of consciousness_processing_time_ms in the text:
	// "histogram" or "gauge".
	Processing string
	// Memory is "flat" where /api/memory/metrics answers bare keys, "enveloped"
	// where only /api/v1/memory/status exists.
	Memory string
	// Health is the shape of /health: "envelope", "status" for
	// {"status":"healthy"}, "word" for OK, "empty" for no body.
	Health string
	// TokenFile holds the bearer token that every request needs; "" is none.
	TokenFile string
	// Limit lets the documented limits of requests a minute be kept; without it
	// they are only told.
	Limit bool
}

// EngineDialects are the values of the options that have a choice.
func EngineDialects() map[string][]string {
	return map[string][]string{"metrics": {"text", "json"}, "processing": {"histogram", "gauge"},
		"memory": {"flat", "enveloped"}, "health": {"envelope", "status", "word", "empty"}}
}

func (o *EngineOptions) validate() error {
	dialects := EngineDialects()
	for option, value := range map[string]*string{"metrics": &o.Metrics, "processing": &o.Processing, "memory": &o.Memory, "health": &o.Health} {
		if *value == "" {
			*value = dialects[option][0]
		}
		if !slices.Contains(dialects[option], *value) {
			return fmt.Errorf("the engine's %s cannot be %q; it is one of %s", option, *value, strings.Join(dialects[option], ", "))
		}
	}
	return nil
}

// engine is the consciousness engine.
type engine struct {
	world *world
	opts  EngineOptions
	token string
	now   func() time.Time

	mu      sync.Mutex
	minutes map[string]*minute // by class of request
}

// minute is what was asked in the running minute.
type minute struct {
	ends  time.Time
	asked int
}

// engineLimits are the documented limits of requests a minute.
var engineLimits = map[string]int{"processing": 100, "memory": 200, "brain": 150, "health": 1000}

// engineParts are the parts in the health answer, in its order.
var engineParts = []string{"consciousness_engine", "memory_manager", "brain_coordinator", "mobius_topology", "gpu_acceleration"}

func newEngine(w *world, opts EngineOptions, now func() time.Time) (*service, error) {
	token, err := readKey(opts.TokenFile)
	if err != nil {
		return nil, fmt.Errorf("the engine's token: %w", err)
	}
	e := &engine{world: w, opts: opts, token: token, now: now, minutes: map[string]*minute{}}
	mux := http.NewServeMux()
	for _, route := range []struct {
		path, class string
		answer      http.HandlerFunc
	}{
		{"/health", "health", e.health},
		{"/api/v1/health", "health", e.healthEnvelope},
		{"/metrics", "health", e.metrics},
		{"/api/v1/metrics", "health", e.metricsEnvelope},
		{"/api/memory/metrics", "memory", e.memoryFlat},
		{"/api/v1/memory/status", "memory", e.memoryStatus},
		{"/api/v1/consciousness/state", "processing", e.state},
		{"/api/v1/brain/status", "brain", e.brains},
	} {
		if route.path == "/api/memory/metrics" && opts.Memory != "flat" {
			continue
		}
		mux.Handle("GET "+route.path, e.guard(route.class, route.answer))
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { e.reject(w, r, http.StatusNotFound) })
	return &service{name: "engine", handler: mux, reject: e.reject, onStart: w.engineStarted, section: func(address string) map[string]any {
		s := urlSection(address)
		if opts.TokenFile != "" {
			s["authorization"] = map[string]any{"credentials_file": opts.TokenFile}
		}
		return s
	}}, nil
}

// guard asks for the token and counts the request.
func (e *engine) guard(class string, next http.HandlerFunc) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !e.admit(w, class) {
			e.reject(w, r, http.StatusTooManyRequests)
			return
		}
		if e.token != "" && r.Header.Get("Authorization") != "Bearer "+e.token {
			e.reject(w, r, http.StatusUnauthorized)
			return
		}
		next(w, r)
	})
}

// admit counts the request, tells the limit and reports whether it is kept.
func (e *engine) admit(w http.ResponseWriter, class string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	now := e.now()
	m := e.minutes[class]
	if m == nil || !now.Before(m.ends) {
		m = &minute{ends: now.Truncate(time.Minute).Add(time.Minute)}
		e.minutes[class] = m
	}
	m.asked++
	limit := engineLimits[class]
	left := max(limit-m.asked, 0)
	h := w.Header()
	// Written as documented; net/http would turn L into l.
	h["X-RateLimit-Limit"] = []string{strconv.Itoa(limit)}
	h["X-RateLimit-Remaining"] = []string{strconv.Itoa(left)}
	h["X-RateLimit-Reset"] = []string{strconv.FormatInt(m.ends.Unix(), 10)}
	return m.asked <= limit || !e.opts.Limit
}

// envelope is what every JSON answer is wrapped in.
type envelope struct {
	Success   bool         `json:"success"`
	Data      any          `json:"data,omitempty"`
	Error     *engineError `json:"error,omitempty"`
	Timestamp string       `json:"timestamp"`
}

type engineError struct {
	Code    string `json:"code"`
	Message string `json:"message"`
	Details string `json:"details"`
}

func (e *engine) timestamp() string { return e.now().UTC().Truncate(time.Second).Format(time.RFC3339) }

func (e *engine) send(w http.ResponseWriter, data any) {
	e.sendJSON(w, http.StatusOK, envelope{Success: true, Data: data, Timestamp: e.timestamp()})
}

// sendJSON sends JSON as axum does, without a line break at its end.
func (e *engine) sendJSON(w http.ResponseWriter, status int, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		panic(err) // our own plain structures
	}
	answer(w, status, typeJSON, body)
}

// engineErrors are the documented codes.
var engineErrors = map[int]engineError{
	http.StatusUnauthorized:        {"AUTHENTICATION_ERROR", "Authentication failure", "A valid bearer token is required"},
	http.StatusNotFound:            {"VALIDATION_ERROR", "Request validation error", "No such endpoint"},
	http.StatusTooManyRequests:     {"RATE_LIMIT_ERROR", "Rate limit exceeded", "Too many requests in this minute"},
	http.StatusServiceUnavailable:  {"BRAIN_COORDINATION_ERROR", "Brain coordination failure", "The engine is not ready"},
	http.StatusInternalServerError: {"PROCESSING_ERROR", "General processing error", "Brain coordination timeout"},
}

func (e *engine) reject(w http.ResponseWriter, _ *http.Request, status int) {
	err := engineErrors[status]
	e.sendJSON(w, status, envelope{Error: &err, Timestamp: e.timestamp()})
}

func (e *engine) health(w http.ResponseWriter, r *http.Request) {
	status := e.world.look().knobs.status
	switch e.opts.Health {
	case "status":
		e.sendJSON(w, http.StatusOK, map[string]string{"status": status})
	case "word":
		word := map[string]string{"healthy": "OK"}[status]
		if word == "" {
			word = status
		}
		answerText(w, http.StatusOK, word)
	case "empty":
		w.WriteHeader(http.StatusOK)
	default:
		e.healthEnvelope(w, r)
	}
}

func (e *engine) word(part string, k *knobs, well string) string {
	if slices.Contains(k.sick, part) {
		return map[string]string{"healthy": "unhealthy", "active": "error"}[well]
	}
	return well
}

// parts are the health words of the parts in the documented order.
type parts []string

func (p parts) MarshalJSON() ([]byte, error) {
	var b strings.Builder
	b.WriteByte('{')
	for i, name := range engineParts {
		fmt.Fprintf(&b, "%s%q:%q", strings.Repeat(",", min(i, 1)), name, p[i])
	}
	b.WriteByte('}')
	return []byte(b.String()), nil
}

func (e *engine) healthEnvelope(w http.ResponseWriter, _ *http.Request) {
	s := e.world.look()
	k := &s.knobs
	words := make(parts, len(engineParts))
	for i, p := range engineParts {
		words[i] = e.word(p, k, "healthy")
	}
	type performance struct {
		Response float64 `json:"avg_response_time_ms"`
		Memory   float64 `json:"memory_usage_mb"`
		CPU      float64 `json:"cpu_usage_percent"`
	}
	e.send(w, struct {
		Status      string      `json:"status"`
		Version     string      `json:"version"`
		Uptime      int64       `json:"uptime_seconds"`
		Components  parts       `json:"components"`
		Performance performance `json:"performance"`
	}{k.status, engineVersion, uptime(s), words, performance{to(s.engine.responseMs, 1), to(s.engine.memoryMB, 0), to(s.engine.cpu, 1)}})
}

const engineVersion = "0.1.0"

func uptime(s state) int64 { return int64(s.at.Sub(s.engine.started).Seconds()) }

// to rounds for show.
func to(v float64, digits int) float64 {
	p := math.Pow10(digits)
	return math.Round(v*p) / p
}

func (e *engine) metrics(w http.ResponseWriter, r *http.Request) {
	if e.opts.Metrics == "json" {
		e.metricsEnvelope(w, r)
		return
	}
	answer(w, http.StatusOK, typeMetrics, exposition(e.families(), rustNumber))
}

// families are the manual's names and the fields of its three structures.
func (e *engine) families() []family {
	s := e.world.look()
	g, k := s.engine, &s.knobs
	stability, hits := to(g.stability, 6), to(g.cacheHits, 4)
	if k.invalid {
		stability, hits = invalidPercent(g.stability), math.NaN()
	}
	all := []family{
		counter("consciousness_events_total", "Total consciousness events processed", g.events),
		gauge("events_processed_per_second", "Consciousness events processed per second", to(g.eventRate, 2)),
		gauge("average_processing_time_ms", "Average processing time of a consciousness event in milliseconds", to(g.processingMs, 2)),
		gauge("memory_retrieval_time_ms", "Memory retrieval time in milliseconds", to(g.retrievalMs, 2)),
		gauge("emotional_processing_time_ms", "Emotional processing time in milliseconds", to(g.emotionalMs, 2)),
		gauge("toroidal_coherence_score", "Toroidal coherence of the consciousness state", to(g.toroidalScore, 4)),
		gauge("gaussian_novelty_level", "Gaussian novelty level", to(g.novelty, 4)),
		counter("circuit_breaker_activations", "Circuit breaker activations", g.breaker),
		counter("timeout_occurrences", "Consciousness events that timed out", g.timeouts),

		gauge("consolidation_rate_per_hour", "Memory consolidations per hour", to(g.consolidations, 1)),
		gauge("retrieval_success_rate", "Share of successful memory retrievals", to(g.retrievalSuccess, 5)),
		layerFamily("memory_layer_distribution", "Memories in each layer", g.layers),
		layerFamily("memory_layer_stability", "Stability of each memory layer", g.layerStability),
		gauge("total_memories", "Memories in all layers", g.memories()),
		gauge("toroidal_topology_coherence", "Coherence of the toroidal memory topology", to(g.topologyCoherence, 4)),
		gauge("gaussian_sphere_count", "Gaussian memory spheres", g.spheres),
		gauge("memory_compression_ratio", "Compressed size of the memories by their size", to(g.compression, 4)),
		counter("memory_operations_total", "Total memory operations", g.memoryOps),

		gauge("cpu_usage_percent", "CPU usage in percent", to(g.cpu, 1)),
		gauge("memory_usage_percent", "Memory usage of the host in percent", to(g.hostMemory, 1)),
		gauge("disk_usage_percent", "Disk usage of the host in percent", to(g.disk, 1)),
		gauge("network_throughput_mbps", "Network throughput in megabits per second", to(g.networkMbps, 2)),
		gauge("gpu_utilization_percent", "GPU utilization in percent", to(g.gpu, 1)),
		gauge("thread_pool_utilization", "Share of busy threads", to(g.threads, 4)),
		gauge("cache_hit_ratio", "Share of lookups answered by the cache", hits),

		counter("requests_total", "Requests served", g.requests),
		counter("errors_total", "Requests that failed", g.errors),
		gauge("requests_per_second", "Requests served per second", to(g.requestRate, 2)),
		gauge("error_rate", "Share of requests that failed", to(g.errorRate, 4)),
		gauge("avg_response_time_ms", "Average response time in milliseconds", to(g.responseMs, 1)),
		gauge("uptime_seconds", "Seconds since the engine started", float64(uptime(s))),
		gauge("database_response_time_ms", "Response time of the database in milliseconds", to(g.databaseMs, 2)),
		gauge("database_connections_active", "Active database connections", g.databaseConnections),
	}
	if !k.silent {
		all = append(all, gauge("memory_stability_ratio", "Memory stability ratio", stability))
	}
	const help = "Consciousness processing time in milliseconds"
	if e.opts.Processing == "gauge" {
		return append(all, gauge("consciousness_processing_time_ms", help, to(g.processingMs, 2)))
	}
	return append(all, histogramFamily("consciousness_processing_time_ms", help, g.processing, rustNumber))
}

// layerFamily has a series for each layer, sorted by its name.
func layerFamily(name, help string, values [len(layers)]float64) family {
	f := family{name: name, help: help, kind: "gauge"}
	for i, l := range layers { // their names happen to be in another order
		f = f.with(to(values[i], 5), "layer", l.name)
	}
	slices.SortFunc(f.samples, func(a, b sample) int { return strings.Compare(a.labels[1], b.labels[1]) })
	return f
}

func (e *engine) metricsEnvelope(w http.ResponseWriter, _ *http.Request) {
	g := e.world.look().engine
	type consciousness struct {
		Level     float64 `json:"consciousness_level"`
		Focus     float64 `json:"attention_focus"`
		Coherence float64 `json:"memory_coherence"`
	}
	type performance struct {
		Requests float64 `json:"requests_per_second"`
		Response float64 `json:"avg_response_time_ms"`
		Errors   float64 `json:"error_rate"`
	}
	type resources struct {
		CPU    float64 `json:"cpu_usage_percent"`
		Memory float64 `json:"memory_usage_mb"`
		GPU    float64 `json:"gpu_usage_percent"`
	}
	type memory struct {
		Total         float64 `json:"total_memories"`
		Coherence     float64 `json:"memory_coherence"`
		Consolidation float64 `json:"consolidation_frequency"`
	}
	e.send(w, struct {
		Consciousness consciousness `json:"consciousness_metrics"`
		Performance   performance   `json:"performance_metrics"`
		Resources     resources     `json:"resource_metrics"`
		Memory        memory        `json:"memory_metrics"`
	}{
		consciousness{to(g.level, 3), to(g.focus, 3), to(g.stateCoherence, 3)},
		performance{to(g.requestRate, 2), to(g.responseMs, 1), to(g.errorRate, 4)},
		resources{to(g.cpu, 1), to(g.memoryMB, 0), to(g.gpu, 1)},
		memory{g.memories(), to(g.memoryCoherence, 3), 0.1},
	})
}

// memoryAnswer are the keys of the memory endpoints; nil is left out.
type memoryAnswer struct {
	Stability     any      `json:"stability_ratio,omitempty"`
	Consolidation *float64 `json:"consolidation_rate,omitempty"`
	Retrieval     *float64 `json:"retrieval_success_rate,omitempty"`
	Toroidal      float64  `json:"toroidal_coherence"`
}

func (e *engine) memory() memoryAnswer {
	s := e.world.look()
	g, k := s.engine, &s.knobs
	rate, success := to(g.consolidations, 1), to(g.retrievalSuccess, 5)
	m := memoryAnswer{to(g.stability, 6), &rate, &success, to(g.topologyCoherence, 4)}
	switch {
	case k.silent:
		m.Stability = nil
	case k.invalid:
		m.Stability = invalidPercent(g.stability)
	}
	return m
}

// memoryFlat has bare keys.
func (e *engine) memoryFlat(w http.ResponseWriter, _ *http.Request) {
	e.sendJSON(w, http.StatusOK, e.memory())
}

// memoryStatus is enveloped and says less.
func (e *engine) memoryStatus(w http.ResponseWriter, _ *http.Request) {
	m := e.memory()
	if e.opts.Memory == "flat" {
		m.Consolidation, m.Retrieval = nil, nil
	}
	e.send(w, m)
}

func (e *engine) state(w http.ResponseWriter, _ *http.Request) {
	s := e.world.look()
	type emotions struct {
		Joy       float64 `json:"joy"`
		Sadness   float64 `json:"sadness"`
		Anger     float64 `json:"anger"`
		Fear      float64 `json:"fear"`
		Curiosity float64 `json:"curiosity"`
	}
	type personality struct {
		Type   string  `json:"type"`
		Weight float64 `json:"weight"`
	}
	g := s.engine
	e.send(w, struct {
		Level         float64       `json:"consciousness_level"`
		Focus         float64       `json:"attention_focus"`
		Coherence     float64       `json:"memory_coherence"`
		Emotions      emotions      `json:"emotional_context"`
		Personalities []personality `json:"active_personalities"`
		Updated       string        `json:"last_updated"`
	}{to(g.level, 3), to(g.focus, 3), to(g.stateCoherence, 3),
		emotions{0.6, 0.1, 0, 0, to(clamp(4.6*g.novelty, 0, 1), 2)},
		[]personality{{"analytical", 0.1}, {"creative", 0.15}}, e.timestamp()})
}

func (e *engine) brains(w http.ResponseWriter, _ *http.Request) {
	s := e.world.look()
	type performance struct {
		CPU      float64 `json:"cpu_usage"`
		Memory   float64 `json:"memory_usage"`
		Response float64 `json:"response_time_ms"`
	}
	type brain struct {
		Type        string      `json:"type"`
		Status      string      `json:"status"`
		Performance performance `json:"performance"`
	}
	overall := "healthy"
	brains := []brain{
		{"motor", "active", performance{0.15, 0.05, 45}},
		{"lcars", "active", performance{0.12, 0.08, 38}},
		{"efficiency", "active", performance{0.18, 0.06, 42}},
	}
	for i := range brains { // the documented values are those of an ordinary load
		b := &brains[i]
		b.Status = e.word(b.Type, &s.knobs, "active")
		if b.Status != "active" {
			overall = "degraded"
		}
		b.Performance.CPU = to(b.Performance.CPU*s.load/0.7, 3)
		b.Performance.Response = to(b.Performance.Response*s.engine.processingMs/190, 0)
	}
	e.send(w, struct {
		Brains  []brain `json:"brains"`
		Overall string  `json:"overall_status"`
	}{brains, overall})
}
