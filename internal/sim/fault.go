// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Fault is something that can go wrong in the stack, by name. Any number can
// be in effect at once.
type Fault struct {
	Name string
	// Component is the one it happens to.
	Component string
	// Does says what it does, in one line.
	Does string

	// What it does, any of these: the service's port is closed; the port opens
	// and closes in turn; it is a new process in turn; requests are answered by someone else; the world goes
	// another way; the functions are called (for services outside the simulation).
	stop    bool
	flap    bool
	renew   bool // the service is restarted in turn
	respond func(*injection) responder
	alter   func(*knobs)
	// Inject and Lift are for faults of services that are not simulated.
	Inject, Lift func() error
}

// ErrNoFault says that there is no fault of that name.
var ErrNoFault = errors.New("no such fault")

// knobs are what faults can turn in the world. Factors are 1 and what is
// added is 0 while nothing is wrong.
type knobs struct {
	// The engine.
	status                                 string   // health word
	sick                                   []string // parts that are not healthy
	events, processing, retrieval          float64  // factors
	consolidation                          float64
	errors, retrievalFailing               float64 // added to or taken from a ratio
	coherenceLost, cacheLost               float64
	breaker, timeouts                      float64 // added per second
	decaying, layerFull                    bool
	frozen, silent, invalid, generateFails bool
	stuck                                  bool // every gauge
	frozenAt                               float64
	// Other services.
	pipelineStalled                bool
	modelRemoved, modelOnCPU       bool
	collectionStatus               string
	optimizerError                 string
	vectorSize                     int
	collectionGone, qdrantNotReady bool
	prometheusNotReady, targetDown bool
	prometheusReload, alertReload  bool // the last reload failed
	notificationsFail              bool
	grafanaDatabase, lokiNotReady  bool
	restarting, oomKilled, unwell  bool // a container
	containerFull                  bool
	vllmWaiting, vllmFails         bool
	noAlertmanager                 bool
	rulesFail, storageFails        bool // Prometheus
	peerGone                       bool // of Alertmanager's cluster
}

// vectorSize is the dimension the engine's code insists on.
const vectorSize = 896

func normal() knobs {
	return knobs{status: "healthy", events: 1, processing: 1, retrieval: 1, consolidation: 1, collectionStatus: "green", vectorSize: vectorSize}
}

// everyService are the faults that any simulated service can have; %s is its name.
var everyService = []Fault{
	{Name: "%s-stopped", Does: "The port of %s is closed: connections are refused. Lifted, it is a new process on the same port.", stop: true},
	{Name: "%s-hanging", Does: "%s accepts requests and never answers them.", respond: hang},
	{Name: "%s-slow", Does: "%s takes seconds longer for each answer.", respond: slow},
	{Name: "%s-503", Does: "%s answers every request 503.", respond: reject(http.StatusServiceUnavailable)},
	{Name: "%s-500", Does: "%s answers every request 500.", respond: reject(http.StatusInternalServerError)},
	{Name: "%s-401", Does: "%s answers every request 401.", respond: reject(http.StatusUnauthorized)},
	{Name: "%s-429", Does: "%s answers every request 429.", respond: reject(http.StatusTooManyRequests)},
	{Name: "%s-login-page", Does: "Someone answers for %s with a login page in HTML and 200.", respond: loginPage},
	{Name: "%s-truncated", Does: "%s answers 200 with the first half of each body, complete as far as HTTP can tell.", respond: truncate},
	{Name: "%s-reset", Does: "%s closes the connection in the middle of each answer.", respond: reset},
	{Name: "%s-huge", Does: "%s answers 200 with a body of up to 1 GiB.", respond: huge},
}

// particular are the faults of one service.
var particular = []Fault{
	{Name: "engine-crash-loop", Component: "engine", Does: "The engine runs for 45 s and is gone for 45 s, again and again.", flap: true},
	{Name: "engine-restarting", Component: "engine", Does: "The engine's process is replaced by a new one every 45 s.", renew: true},
	{Name: "engine-unhealthy", Component: "engine", Does: "The engine's health says unhealthy, with status 200.", alter: func(k *knobs) { k.status = "unhealthy" }},
	{Name: "engine-part-unhealthy", Component: "engine", Does: "The engine is degraded: its memory_manager is unhealthy.", alter: func(k *knobs) {
		if k.status == "healthy" {
			k.status = "degraded"
		}
		k.sick = append(k.sick, "memory_manager")
	}},
	{Name: "engine-brain-unhealthy", Component: "engine", Does: "The brain lcars says error.", alter: func(k *knobs) { k.sick = append(k.sick, "lcars") }},
	{Name: "engine-erring", Component: "engine", Does: "30 % of the engine's requests fail.", alter: func(k *knobs) { k.errors = 0.3 }},
	{Name: "engine-processing-slow", Component: "engine", Does: "An event takes ten times as long.", alter: func(k *knobs) { k.processing = 10 }},
	{Name: "engine-events-stopped", Component: "engine", Does: "The engine processes no more events.", alter: func(k *knobs) { k.events = 0 }},
	{Name: "engine-stability-decaying", Component: "engine", Does: "Memory stability falls by 0.0005 a second, down to 0.955; lifted, it heals at that pace.", alter: func(k *knobs) { k.decaying = true }},
	{Name: "engine-coherence-lost", Component: "engine", Does: "Every coherence falls by 0.3.", alter: func(k *knobs) { k.coherenceLost = 0.3 }},
	{Name: "engine-breaker-tripping", Component: "engine", Does: "The circuit breaker opens once in two seconds.", alter: func(k *knobs) { k.breaker = 0.5 }},
	{Name: "engine-timeouts", Component: "engine", Does: "Two events a second time out.", alter: func(k *knobs) { k.timeouts = 2 }},
	{Name: "engine-retrieval-slow", Component: "engine", Does: "Retrieving a memory takes eight times as long.", alter: func(k *knobs) { k.retrieval = 8 }},
	{Name: "engine-retrieval-failing", Component: "engine", Does: "15 % of the retrievals fail.", alter: func(k *knobs) { k.retrievalFailing = 0.15 }},
	{Name: "engine-cache-cold", Component: "engine", Does: "The engine's caches miss 60 points more often.", alter: func(k *knobs) { k.cacheLost = 0.6 }},
	{Name: "engine-consolidation-stopped", Component: "engine", Does: "No memory is consolidated any more.", alter: func(k *knobs) { k.consolidation = 0 }},
	{Name: "engine-layer-full", Component: "engine", Does: "The layer episodic has reached the capacity that the engine's documentation gives it.", alter: func(k *knobs) { k.layerFull = true }},
	{Name: "engine-kpi-frozen", Component: "engine", Does: "Memory stability stays where it is, to the last digit.", alter: func(k *knobs) { k.frozen = true }},
	{Name: "engine-telemetry-frozen", Component: "engine", Does: "Every gauge of the engine stays where it is, to the last digit, while its counters go on.", alter: func(k *knobs) { k.stuck = true }},
	{Name: "engine-statistics-hanging", Component: "engine", Does: "The engine answers its health requests; all others hang.", respond: hangBehindHealth},
	{Name: "engine-kpi-gone", Component: "engine", Does: "Memory stability is no longer reported.", alter: func(k *knobs) { k.silent = true }},
	{Name: "engine-kpi-invalid", Component: "engine", Does: "Memory stability is reported in percent, the cache hit ratio as NaN in the text.", alter: func(k *knobs) { k.invalid = true }},

	{Name: "pipeline-stalled", Component: "pipeline", Does: "The pipeline finishes no more cycles.", alter: func(k *knobs) { k.pipelineStalled = true }},

	{Name: "ollama-model-removed", Component: "ollama", Does: "mistral is gone; mistral-nemo:12b stays.", alter: func(k *knobs) { k.modelRemoved = true }},
	{Name: "ollama-model-on-cpu", Component: "ollama", Does: "The loaded models are in main memory: size_vram is 0.", alter: func(k *knobs) { k.modelOnCPU = true }},
	{Name: "ollama-runner-dead", Component: "ollama", Does: "Generating answers 500 while every list looks well.", alter: func(k *knobs) { k.generateFails = true }},

	{Name: "vllm-overloaded", Component: "vllm", Does: "Requests wait and the cache is full.", alter: func(k *knobs) { k.vllmWaiting = true }},

	{Name: "vllm-failing", Component: "vllm", Does: "One request a second ends with an error.", alter: func(k *knobs) { k.vllmFails = true }},

	{Name: "qdrant-red", Component: "qdrant", Does: "The collection experiences is red: no space left on device.", alter: func(k *knobs) {
		k.collectionStatus, k.optimizerError = "red", "Service internal error: IO Error: No space left on device (os error 28)"
	}},
	{Name: "qdrant-yellow", Component: "qdrant", Does: "The collection experiences is yellow: it is being optimized.", alter: func(k *knobs) {
		if k.collectionStatus == "green" {
			k.collectionStatus = "yellow"
		}
	}},
	{Name: "qdrant-vector-size", Component: "qdrant", Does: "The collection experiences has vectors of 768 dimensions, not 896.", alter: func(k *knobs) { k.vectorSize = 768 }},
	{Name: "qdrant-collection-gone", Component: "qdrant", Does: "The collection experiences does not exist.", alter: func(k *knobs) { k.collectionGone = true }},
	{Name: "qdrant-not-ready", Component: "qdrant", Does: "/readyz answers 503: some shards are not ready.", alter: func(k *knobs) { k.qdrantNotReady = true }},

	{Name: "prometheus-not-ready", Component: "prometheus", Does: "Prometheus replays its log: /-/ready and the API answer 503, /metrics 200.", alter: func(k *knobs) { k.prometheusNotReady = true }},
	{Name: "prometheus-reload-failed", Component: "prometheus", Does: "Prometheus could not load its last configuration.", alter: func(k *knobs) { k.prometheusReload = true }},
	{Name: "prometheus-target-down", Component: "prometheus", Does: "Prometheus cannot scrape the target of job node.", alter: func(k *knobs) { k.targetDown = true }},
	{Name: "prometheus-no-alertmanager", Component: "prometheus", Does: "Prometheus knows no Alertmanager and drops notifications.", alter: func(k *knobs) { k.noAlertmanager = true }},

	{Name: "prometheus-rules-failing", Component: "prometheus", Does: "One rule evaluation a second fails.", alter: func(k *knobs) { k.rulesFail = true }},
	{Name: "prometheus-storage-failing", Component: "prometheus", Does: "Every compaction fails, one in two seconds.", alter: func(k *knobs) { k.storageFails = true }},

	{Name: "grafana-database-failing", Component: "grafana", Does: "Grafana's database does not answer: /api/health is 503.", alter: func(k *knobs) { k.grafanaDatabase = true }},

	{Name: "alertmanager-reload-failed", Component: "alertmanager", Does: "Alertmanager could not load its last configuration.", alter: func(k *knobs) { k.alertReload = true }},
	{Name: "alertmanager-notifications-failing", Component: "alertmanager", Does: "Every e-mail notification fails.", alter: func(k *knobs) { k.notificationsFail = true }},

	{Name: "alertmanager-peer-gone", Component: "alertmanager", Does: "Alertmanager has lost one peer of its cluster.", alter: func(k *knobs) { k.peerGone = true }},

	{Name: "loki-not-ready", Component: "loki", Does: "Loki's ingester is not ready: /ready answers 503.", alter: func(k *knobs) { k.lokiNotReady = true }},

	{Name: "docker-container-restarting", Component: "docker", Does: "The engine's container is restarted again and again.", alter: func(k *knobs) { k.restarting = true }},
	{Name: "docker-container-oom-killed", Component: "docker", Does: "The engine's container was killed for want of memory.", alter: func(k *knobs) { k.oomKilled = true }},
	{Name: "docker-container-memory-full", Component: "docker", Does: "The engine's container uses 98 % of the memory it may have.", alter: func(k *knobs) { k.containerFull = true }},
	{Name: "docker-container-unhealthy", Component: "docker", Does: "The health check of the engine's container fails.", alter: func(k *knobs) { k.unwell = true }},
}

// catalogue returns the faults of a stack with these services, in order.
func catalogue(services []*service) []Fault {
	var all []Fault
	for _, s := range services {
		for _, f := range everyService {
			f.Name, f.Does, f.Component = fmt.Sprintf(f.Name, s.name), fmt.Sprintf(f.Does, s.name), s.name
			all = append(all, f)
		}
		for _, f := range particular {
			if f.Component == s.name {
				all = append(all, f)
			}
		}
	}
	return all
}

// hang waits until the fault is lifted; the request is then answered after all.
func hang(in *injection) responder {
	return func(_ *service, w http.ResponseWriter, r *http.Request, next http.Handler) {
		select {
		case <-in.lifted:
			next.ServeHTTP(w, r)
		case <-r.Context().Done():
			panic(http.ErrAbortHandler)
		case <-runOf(r).stopped:
			panic(http.ErrAbortHandler)
		}
	}
}

// hangBehindHealth hangs like a service whose health check knows nothing of the rest.
func hangBehindHealth(in *injection) responder {
	hangs := hang(in)
	return func(s *service, w http.ResponseWriter, r *http.Request, next http.Handler) {
		if strings.HasSuffix(r.URL.Path, "/health") {
			next.ServeHTTP(w, r)
			return
		}
		hangs(s, w, r, next)
	}
}

func slow(in *injection) responder {
	return func(_ *service, w http.ResponseWriter, r *http.Request, next http.Handler) {
		if pause(r, in.opts.Slow) {
			next.ServeHTTP(w, r)
		}
	}
}

func reject(status int) func(*injection) responder {
	return func(*injection) responder {
		return func(s *service, w http.ResponseWriter, r *http.Request, _ http.Handler) {
			if status == http.StatusTooManyRequests {
				w.Header().Set("Retry-After", "30")
			}
			s.reject(w, r, status)
		}
	}
}

func loginPage(*injection) responder {
	const page = `<!DOCTYPE html>
<html lang="en"><head><title>Sign in</title></head>
<body><form method="post" action="/login"><input name="user"><input name="password" type="password"><button>Sign in</button></form></body></html>
`
	return func(_ *service, w http.ResponseWriter, _ *http.Request, _ http.Handler) {
		answer(w, http.StatusOK, "text/html; charset=utf-8", []byte(page))
	}
}

func truncate(*injection) responder {
	return func(_ *service, w http.ResponseWriter, r *http.Request, next http.Handler) {
		a := record(r, next)
		a.send(w, a.body.Bytes()[:a.body.Len()/2], a.body.Len()/2)
	}
}

func reset(*injection) responder {
	return func(_ *service, w http.ResponseWriter, r *http.Request, next http.Handler) {
		a := record(r, next)
		a.send(w, a.body.Bytes()[:a.body.Len()/2], a.body.Len())
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}
}

// hugeBody is where a gigantic answer ends after all.
const hugeBody = 1 << 30

func huge(*injection) responder {
	chunk := []byte(strings.Repeat("0123456789abcdef", 4096))
	return func(_ *service, w http.ResponseWriter, r *http.Request, _ http.Handler) {
		w.Header().Set("Content-Type", typeJSON)
		_, err := w.Write([]byte(`{"status":"ok","padding":"`))
		for sent := 0; err == nil && sent < hugeBody; sent += len(chunk) {
			select {
			case <-runOf(r).stopped:
				return
			default:
			}
			_, err = w.Write(chunk)
		}
		if err == nil {
			_, _ = w.Write([]byte(`"}`))
		}
	}
}

// recorded is an answer that was caught before it was sent.
type recorded struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func record(r *http.Request, h http.Handler) *recorded {
	a := &recorded{header: http.Header{}, status: http.StatusOK}
	h.ServeHTTP(a, r)
	return a
}

func (a *recorded) Header() http.Header         { return a.header }
func (a *recorded) WriteHeader(status int)      { a.status = status }
func (a *recorded) Write(p []byte) (int, error) { return a.body.Write(p) }

// send sends the caught answer's head with another body and announced length.
func (a *recorded) send(w http.ResponseWriter, body []byte, length int) {
	maps.Copy(w.Header(), a.header)
	w.Header().Set("Content-Length", strconv.Itoa(length))
	w.WriteHeader(a.status)
	_, _ = w.Write(body)
}

// injection is a fault in effect.
type injection struct {
	opts    *Options
	respond responder
	lifted  chan struct{} // closed when the fault is
	down    bool          // of one that comes and goes: its turn to be gone
	renews  string        // the service that is restarted in turn
}

// FaultState is a fault and whether it is in effect.
type FaultState struct {
	Name      string `json:"name"`
	Component string `json:"component"`
	Does      string `json:"does"`
	Active    bool   `json:"active"`
}

// Faults lists what can go wrong and what does.
func (st *Stack) Faults() []FaultState {
	st.mu.Lock()
	defer st.mu.Unlock()
	states := make([]FaultState, len(st.faults))
	for i, f := range st.faults {
		states[i] = FaultState{f.Name, f.Component, f.Does, st.active[f.Name] != nil}
	}
	return states
}

// AddFault makes a fault of something outside the simulation known.
func (st *Stack) AddFault(f Fault) {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.faults = append(st.faults, f)
}

// Inject brings a fault into effect; one that is in effect already stays so.
func (st *Stack) Inject(name string) error { return st.set(name, true) }

// Lift ends a fault; it is no error if it was not in effect.
func (st *Stack) Lift(name string) error { return st.set(name, false) }

func (st *Stack) set(name string, on bool) error {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.closed {
		return errClosed
	}
	i := slices.IndexFunc(st.faults, func(f Fault) bool { return f.Name == name })
	if i < 0 {
		return fmt.Errorf("%w: %q", ErrNoFault, name)
	}
	f, in := &st.faults[i], st.active[name]
	switch {
	case on == (in != nil):
		return nil
	case on:
		if err := call(f.Inject); err != nil {
			return fmt.Errorf("fault %s: %w", name, err)
		}
		in = &injection{opts: &st.opts, lifted: make(chan struct{}), down: f.flap}
		if f.renew {
			in.renews = f.Component
		}
		if f.respond != nil {
			in.respond = f.respond(in)
		}
		if f.flap || f.renew {
			st.flapping.Go(func() { st.flap(in) })
		}
		st.active[name] = in
	default:
		if err := call(f.Lift); err != nil {
			return fmt.Errorf("lifting the fault %s: %w", name, err)
		}
		close(in.lifted)
		delete(st.active, name)
	}
	return st.apply()
}

var errClosed = errors.New("the stack is closed")

func call(f func() error) error {
	if f == nil {
		return nil
	}
	return f()
}

// apply makes the stack be what the active faults say. It starts from nothing
// each time, so that faults cannot get out of step. The caller holds the lock.
func (st *Stack) apply() error {
	k := normal()
	responders := map[string][]responder{}
	down := map[string]bool{}
	for i := range st.faults {
		f := &st.faults[i]
		in := st.active[f.Name]
		if in == nil {
			continue
		}
		if f.alter != nil {
			f.alter(&k)
		}
		if in.respond != nil {
			responders[f.Component] = append(responders[f.Component], in.respond)
		}
		if f.stop || in.down {
			down[f.Component] = true
		}
	}
	st.world.turn(k)
	var errs []error
	for _, s := range st.services {
		r := responders[s.name]
		s.faults.Store(&r)
		if down[s.name] {
			s.stop()
		} else {
			errs = append(errs, s.restart())
		}
	}
	return errors.Join(errs...)
}

// stop stops a service. The caller holds the lock.
func (st *Stack) stop(name string) {
	for _, s := range st.services {
		if s.name == name {
			s.stop()
		}
	}
}

// flap lets a service come and go, or begin anew, until the fault is lifted.
func (st *Stack) flap(in *injection) {
	t := time.NewTicker(st.opts.FlapPeriod)
	defer t.Stop()
	for {
		select {
		case <-in.lifted:
			return
		case <-t.C:
		}
		st.mu.Lock()
		select {
		case <-in.lifted: // while we waited for the lock
		default:
			if in.renews != "" {
				st.stop(in.renews) // apply starts it again
			} else {
				in.down = !in.down
			}
			_ = st.apply() // a port that is taken is tried again at the next turn
		}
		st.mu.Unlock()
	}
}

// invalidPercent is a ratio as a percentage, which no consumer may take for a ratio.
func invalidPercent(ratio float64) float64 { return math.Round(ratio*10000) / 100 }

// Catalogue lists the faults of a whole simulated stack.
func Catalogue() []Fault {
	var all []*service
	for _, name := range []string{"engine", "pipeline", "ollama", "vllm", "qdrant", "prometheus", "grafana", "alertmanager", "loki", "docker"} {
		all = append(all, &service{name: name})
	}
	return catalogue(all)
}
