// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"math"
	"math/rand/v2"
	"sync"
	"time"
)

// world is what goes on in the simulated stack. It lives in steps of one
// second: what it holds at a time depends on the seed, the time it began and
// the faults in between, never on who looked or how often.
type world struct {
	now func() time.Time

	mu    sync.Mutex
	rng   *rand.Rand
	at    time.Time // lived up to here
	noise [noises]float64
	knobs knobs
	state state
	stuck engineState // its gauges are what the engine says while they are stuck
}

// state is everything that can be asked of the world at one moment.
type state struct {
	at    time.Time
	load  float64 // of the day, about 0.35 to 1
	knobs knobs   // what faults have turned

	engine   engineState
	pipeline pipelineState
	ollama   ollamaState

	// Notifications that Prometheus dropped and that Alertmanager could not deliver.
	dropped, undelivered float64
	// Rule evaluations and compactions of Prometheus that failed.
	rulesFailed, compactionsFailed float64
	logLines                       float64 // that Loki received
	prometheusStarted              time.Time
	began                          time.Time
}

// engineState is reset when the engine is started again, as a process is.
type engineState struct {
	started time.Time
	// Counters. They are kept as floats, for rates below one a second, and shown whole.
	events, memoryOps, requests, errors, breaker, timeouts float64
	processing                                             histogram

	eventRate, processingMs, retrievalMs, emotionalMs float64
	toroidalScore, novelty                            float64
	stability, consolidations, retrievalSuccess       float64
	topologyCoherence, spheres, compression           float64
	layers                                            [len(layers)]float64
	layerStability                                    [len(layers)]float64
	level, focus, stateCoherence, memoryCoherence     float64
	requestRate, responseMs, errorRate                float64
	threads, cacheHits, cpu, gpu, memoryMB            float64
	hostMemory, disk, networkMbps                     float64
	databaseMs, databaseConnections                   float64

	// stabilityLost is what a decaying memory has lost; it heals when the fault is lifted.
	stabilityLost float64
}

// memories are those of all layers.
func (e *engineState) memories() float64 {
	total := 0.0
	for _, n := range e.layers {
		total += n
	}
	return total
}

// pipelineState is that of the batch pipeline: few, long cycles.
type pipelineState struct {
	untilCycle              float64 // seconds to the end of the running cycle
	cycles, threat, healing float64
	latency                 histogram
	entropy, rouge          float64
	memories                float64
}

type ollamaState struct {
	lastUse                time.Time
	prompt, generated      float64
	running                float64
	prefixQueries, hits    float64
	finishedStop, finished float64
	failed                 float64
}

// layers are the memory layers in the order of their depth, with how many
// memories each holds on an ordinary day and how large it may grow.
var layers = [...]struct {
	name              string
	entries, capacity float64
	stability         float64
}{
	{"core_burned", 42, 5000, 0.9996},
	{"procedural", 310, 5000, 0.9987},
	{"episodic", 2900, 100000, 0.9958},
	{"semantic", 3400, 20000, 0.9969},
	{"somatic", 480, 10000, 0.9943},
	{"working", 210, 1000, 0.9921},
}

// episodic is the layer that a fault fills.
const episodic = 2

// The streams of noise. Each wanders around 0 with a standard deviation of 1
// and a memory of its own.
const (
	noiseLoad = iota
	noiseLatency
	noiseStability
	noiseCoherence
	noiseCache
	noiseConsciousness
	noises
)

var noiseMemory = [noises]float64{ // seconds
	noiseLoad: 300, noiseLatency: 60, noiseStability: 1800, noiseCoherence: 900, noiseCache: 600, noiseConsciousness: 240,
}

// newWorld returns a world that began age ago.
func newWorld(seed uint64, now func() time.Time, age time.Duration) *world {
	began := now().Add(-age).Truncate(time.Second)
	w := &world{now: now, rng: rand.New(rand.NewPCG(seed, 0x6e696f646f6f)), at: began, knobs: normal()}
	w.state.began, w.state.prometheusStarted = began, began
	w.state.pipeline = pipelineState{entropy: 1.84, rouge: 0.76, memories: 601, latency: newHistogram(50, 100, 150, 250, 500, 1000)}
	w.state.ollama.lastUse = began
	w.restartEngine(began)
	w.derive(began) // or a young world shows zeros
	return w
}

// look lives on until now and returns what there is. A clock that was set
// back stops the world until it has caught up.
func (w *world) look() state {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.live()
	s := w.state
	if w.knobs.stuck {
		s.engine = w.stuck.withCountersOf(&s.engine)
	}
	s.engine.processing = s.engine.processing.clone()
	s.pipeline.latency = s.pipeline.latency.clone()
	s.at, s.knobs = w.now(), w.knobs
	return s
}

// turn lives on until now and then changes what goes on.
func (w *world) turn(k knobs) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.live()
	if k.frozen && !w.knobs.frozen {
		k.frozenAt = w.state.engine.stability
	} else if k.frozen {
		k.frozenAt = w.knobs.frozenAt
	}
	if k.stuck && !w.knobs.stuck {
		w.stuck = w.state.engine
	}
	w.knobs = k
}

// withCountersOf returns e's gauges and the counters of another.
func (e *engineState) withCountersOf(o *engineState) engineState {
	s := *e
	s.started, s.processing = o.started, o.processing
	s.events, s.memoryOps, s.requests, s.errors, s.breaker, s.timeouts = o.events, o.memoryOps, o.requests, o.errors, o.breaker, o.timeouts
	return s
}

// engineStarted begins a new engine process: its counters start at zero.
func (w *world) engineStarted() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.live()
	w.restartEngine(w.now())
	w.derive(w.at)
}

func (w *world) restartEngine(at time.Time) {
	w.state.engine = engineState{started: at, processing: newHistogram(10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10000)}
}

// live advances to the present second by second.
func (w *world) live() {
	for now := w.now(); !w.at.Add(time.Second).After(now); {
		w.at = w.at.Add(time.Second)
		w.step(w.at)
	}
}

// dayLoad is the curve of an ordinary day: quiet before dawn, busy in the
// afternoon. Hours are UTC, so that a seed means the same everywhere.
func dayLoad(t time.Time) float64 {
	t = t.UTC()
	hour := float64(t.Hour()) + float64(t.Minute())/60 + float64(t.Second())/3600
	return 0.35 + 0.65*(1-math.Cos(2*math.Pi*(hour-3)/24))/2
}

// step lives one second.
func (w *world) step(t time.Time) {
	for i := range w.noise {
		a := math.Exp(-1 / noiseMemory[i])
		w.noise[i] = clamp(a*w.noise[i]+math.Sqrt(1-a*a)*w.rng.NormFloat64(), -3, 3)
	}
	w.derive(t)
	w.count(t)
	w.cycle()
}

// derive sets all that follows from the load of the moment.
func (w *world) derive(t time.Time) {
	n, k, e := &w.noise, &w.knobs, &w.state.engine
	w.state.load = clamp(dayLoad(t)*(1+0.06*n[noiseLoad]), 0.2, 1.2)
	load := w.state.load

	// Twice the load is more than twice the wait.
	e.processingMs = (120 + 130*load*load) * math.Exp(0.07*n[noiseLatency]) * k.processing
	e.retrievalMs = (26 + 14*load + 2*n[noiseLatency]) * k.retrieval
	e.emotionalMs = 52 + 34*load + 3*n[noiseLatency]
	e.eventRate = 105 * load * k.events
	e.toroidalScore = clamp(0.983+0.003*n[noiseCoherence]-k.coherenceLost, 0, 1)
	e.topologyCoherence = clamp(0.981+0.003*n[noiseCoherence]-k.coherenceLost, 0, 1)
	e.novelty = clamp(0.175+0.01*n[noiseConsciousness], 0, 1)

	e.stability = clamp(0.9953+0.0007*n[noiseStability]-e.stabilityLost, 0, 1)
	if k.frozen {
		e.stability = k.frozenAt
	}
	e.consolidations = (120.5 + 9*n[noiseConsciousness]) * k.consolidation
	e.retrievalSuccess = clamp(0.9978+0.0006*n[noiseCache]-k.retrievalFailing, 0, 1)
	hours := t.Sub(w.state.began).Hours()
	for i, l := range layers {
		grown := l.entries * (1 + 0.0004*hours + 0.04*n[noiseConsciousness]/float64(i+2))
		e.layers[i] = math.Round(min(grown, 0.7*l.capacity))
		e.layerStability[i] = clamp(l.stability+0.0004*n[noiseStability]-e.stabilityLost, 0, 1)
	}
	if k.layerFull {
		e.layers[episodic] = layers[episodic].capacity
	}
	e.spheres = math.Round(1180 + 3*hours)
	e.compression = 0.384 + 0.004*n[noiseCache]

	e.level = clamp(0.75+0.03*n[noiseConsciousness], 0, 1)
	e.focus = clamp(0.8+0.02*n[noiseConsciousness], 0, 1)
	e.stateCoherence = clamp(0.9+0.008*n[noiseCoherence]-k.coherenceLost, 0, 1)
	e.memoryCoherence = clamp(0.92+0.006*n[noiseCoherence]-k.coherenceLost, 0, 1)
	e.requestRate = 14 * load
	e.errorRate = clamp(0.003+0.0005*n[noiseCache]+k.errors, 0, 1)
	e.responseMs = e.processingMs*1.04 + 6
	e.threads = clamp(0.22+0.4*load+0.02*n[noiseLatency], 0, 1)
	e.cacheHits = clamp(0.934+0.008*n[noiseCache]-k.cacheLost, 0, 1)
	e.cpu = clamp(16+30*load+2*n[noiseLoad], 0, 100)
	e.gpu = clamp(11+42*load+2*n[noiseLoad], 0, 100)
	e.memoryMB = 512 + 190*load
	e.hostMemory = clamp(52+9*load+n[noiseLoad], 0, 100)
	e.disk = clamp(41+0.01*hours, 0, 100)
	e.networkMbps = 18 * load
	e.databaseMs = 11 + 9*load
	e.databaseConnections = math.Round(6 + 10*load)
}

// count adds what happened in this second.
func (w *world) count(t time.Time) {
	k, e, o := &w.knobs, &w.state.engine, &w.state.ollama
	load := w.state.load
	if k.decaying {
		e.stabilityLost = min(e.stabilityLost+0.0005, 0.04)
	} else {
		e.stabilityLost = max(e.stabilityLost-0.0005, 0)
	}
	e.events += e.eventRate
	e.processing.observe(e.eventRate, e.processingMs, 0.45)
	e.memoryOps += 2.6 * e.eventRate
	e.requests += e.requestRate
	e.errors += e.requestRate * e.errorRate
	e.breaker += k.breaker
	e.timeouts += 0.0001*load + k.timeouts

	w.state.logLines += 3.5 * load
	if k.noAlertmanager {
		w.state.dropped += 0.5
	}
	if k.notificationsFail {
		w.state.undelivered += 0.5
	}
	if k.rulesFail {
		w.state.rulesFailed++
	}
	if k.storageFails {
		w.state.compactionsFailed += 0.5
	}
	if k.vllmFails {
		o.failed++
	}
	if w.rng.Float64() < 0.2*load {
		o.lastUse = t
	}
	o.running = math.Round(1 + 3*load)
	o.prompt += 420 * load
	o.generated += 95 * load
	o.prefixQueries += 420 * load
	o.hits += 290 * load
	o.finished += 0.012 * load
	o.finishedStop += 0.4 * load
}

// cycle lets the pipeline work; its numbers are those of its published runs:
// a cycle takes about two seconds of generation and 4.4 s in all.
func (w *world) cycle() {
	p := &w.state.pipeline
	if w.knobs.pipelineStalled {
		return
	}
	for p.untilCycle--; p.untilCycle <= 0; p.untilCycle += 4.4 {
		ms := max(900, 2003+260*w.rng.NormFloat64())
		p.latency.one(ms)
		p.entropy = clamp(1.84+0.05*w.rng.NormFloat64(), 1.6, 2)
		p.rouge = clamp(0.76+0.05*w.rng.NormFloat64(), 0.4, 1)
		p.cycles++
		if w.rng.Float64() < 0.11 {
			p.threat++
		}
		if w.rng.Float64() < 0.17 {
			p.healing++
		}
		if w.rng.Float64() < 0.05 {
			p.memories++
		}
	}
}

// histogram is a cumulative histogram that can take fractions of observations.
type histogram struct {
	bounds     []float64
	buckets    []float64 // cumulative
	sum, count float64
}

func newHistogram(bounds ...float64) histogram {
	return histogram{bounds: bounds, buckets: make([]float64, len(bounds))}
}

func (h histogram) clone() histogram {
	h.buckets = append([]float64(nil), h.buckets...)
	return h
}

// one adds an observation.
func (h *histogram) one(v float64) {
	for i, b := range h.bounds {
		if v <= b {
			h.buckets[i]++
		}
	}
	h.sum += v
	h.count++
}

// observe adds n observations that are spread log-normally around a mean.
func (h *histogram) observe(n, mean, sigma float64) {
	mu := math.Log(mean) - sigma*sigma/2
	for i, b := range h.bounds {
		h.buckets[i] += n * 0.5 * (1 + math.Erf((math.Log(b)-mu)/(sigma*math.Sqrt2)))
	}
	h.sum += n * mean
	h.count += n
}

func clamp(v, lo, hi float64) float64 { return min(max(v, lo), hi) }
