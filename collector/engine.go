// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/niodoo/niodoo_exporter/internal/config"
)

func init() { register("engine", newEngine) }

const (
	// maxEngineRequests is how often the engine is asked in one scrape. It
	// allows 100 requests a minute to all its clients together.
	maxEngineRequests = 5
	// enginePatience is how long the values of quick endpoints wait for those
	// of slow ones, which may win over them.
	enginePatience = time.Second
	// engineAskAgain is how long an endpoint that the engine does not have is left alone.
	engineAskAgain = 10 * time.Minute
	// engineTryOther is after how many failures of an endpoint in a row its other
	// path is tried, as long as none has answered.
	engineTryOther = 4
)

// engineHealthPaths are the health endpoint's documented paths.
var engineHealthPaths = []string{"/health", "/api/v1/health"}

// engineHealthyWords are the status words that mean up.
var engineHealthyWords = []string{"healthy", "ok", "ready", "running", "up", "pass", "degraded", "warning"}

// enginePartWords are those that mean a healthy part; brains say active.
var enginePartWords = append([]string{"active"}, engineHealthyWords...)

// engineWord reports whether a word is in the list, in any case.
func engineWord(word string, list []string) bool {
	for _, w := range list {
		if strings.EqualFold(w, word) {
			return true
		}
	}
	return false
}

// engine asks the consciousness engine for its health and then for its
// statistics, whichever of the documented dialects it speaks: Prometheus text
// or JSON, flat or in an envelope, under the manual's or the REST reference's
// paths, with or without a token. engineFields says what becomes of a field.
type engine struct {
	*httpClient
	now       func() time.Time
	health    engineEndpoint
	endpoints []*engineEndpoint // in the order in which their values win
	rejected  [len(engineRejects)]atomic.Uint64
	canary    *engineCanary // nil if it is not wanted
}

func newEngine(cfg *config.Config, deps Deps) (Collector, error) {
	c, err := newHTTPClient(cfg.Engine.HTTP, deps)
	if err != nil {
		return nil, err
	}
	// All statistics at once, and the canary beside them, on connections that stay.
	c.transport.MaxConnsPerHost, c.transport.MaxIdleConnsPerHost = maxEngineRequests, maxEngineRequests-1
	p := cfg.Engine.Paths
	e := &engine{httpClient: c, now: deps.Now,
		health: newEngineEndpoint("health", maxHealthBody, p.Health, engineHealthPaths...),
	}
	for _, ep := range []engineEndpoint{
		newEngineEndpoint("metrics", maxMetricsBody, p.Metrics, "/metrics", "/api/v1/metrics"),
		newEngineEndpoint("memory", maxAPIBody, p.Memory, "/api/memory/metrics", "/api/v1/memory/status"),
		newEngineEndpoint("state", maxAPIBody, p.State, "/api/v1/consciousness/state"),
		newEngineEndpoint("brain", maxAPIBody, p.Brain, "/api/v1/brain/status"),
	} {
		e.endpoints = append(e.endpoints, &ep)
	}
	if cfg.Engine.Canary.Enabled && !deps.Fleet {
		e.canary = newEngineCanary(c, cfg.Engine.Canary, deps.Now)
	}
	return e, nil
}

// Update implements [Collector]. A statistics endpoint that fails leaves the
// health and the values of the others as they are; one that the engine does
// not have is no failure.
func (e *engine) Update(ctx context.Context, ch chan<- prometheus.Metric) error {
	done := make(chan struct{})
	return parallel(
		func() error {
			defer close(done)
			return e.update(ctx, ch)
		},
		func() error { // with what this run has counted, unless it takes long
			patience := time.NewTimer(enginePatience)
			defer patience.Stop()
			select {
			case <-done:
			case <-patience.C:
			}
			e.sendRejected(ch)
			return nil
		})
}

// update asks for health, then for statistics, and sends what they say.
func (e *engine) update(ctx context.Context, ch chan<- prometheus.Metric) error {
	var budget atomic.Int32
	budget.Store(maxEngineRequests)
	if e.canary != nil {
		e.canary.update(ch)
	}
	answer, goOn, healthErr := e.askHealth(ctx, &budget, ch)
	m := &engineMerge{ch: ch, collector: e, answers: make([]*engineAnswer, len(e.endpoints)+1)}
	if answer != nil {
		m.done(len(e.endpoints), answer)
	}
	var statsErr error
	if goOn {
		statsErr = e.askStatistics(ctx, &budget, m)
	}
	m.flush()
	if healthErr != nil {
		return healthErr
	}
	return statsErr
}

// askHealth asks for health and sends the status if there is one. It returns
// what the answer told beside it, and whether statistics are worth asking for:
// an engine that says that it is unhealthy, or wants a token for this path,
// may still tell why.
func (e *engine) askHealth(ctx context.Context, budget *atomic.Int32, ch chan<- prometheus.Metric) (*engineAnswer, bool, error) {
	r, err := e.getHealth(ctx, budget)
	if err != nil {
		return nil, false, err
	}
	if httpErr := r.ok(); httpErr != nil {
		if classify(httpErr) == ReasonAuth {
			status{up: true, response: r.elapsed, tlsNotAfter: r.tlsNotAfter}.send(ch, "engine")
			return nil, true, httpErr
		}
		// 503 often comes with the parts that are not ready.
		if answer := decodeHealthJSON(r); answer != nil {
			return answer, false, httpErr
		}
		return nil, false, httpErr
	}
	answer, err := decodeHealth(r)
	if answer == nil {
		return nil, false, err
	}
	status{up: err == nil, response: r.elapsed, version: answer.version, tlsNotAfter: r.tlsNotAfter}.send(ch, "engine")
	return answer, true, err
}

// getHealth gets the health endpoint, at its other path if it is not found at
// the one it was at last time. Where it is tells where to look for statistics.
func (e *engine) getHealth(ctx context.Context, budget *atomic.Int32) (*reply, error) {
	h := &e.health
	for tried := 1; ; tried++ {
		budget.Add(-1)
		r, err := e.get(ctx, h.paths[h.at], h.limit)
		if err != nil || r.status != http.StatusNotFound || tried == len(h.paths) {
			if err == nil && r.ok() == nil && strings.HasPrefix(h.paths[h.at], "/api/v1/") {
				for _, ep := range e.endpoints {
					ep.prefer("/api/v1/")
				}
			}
			return r, err
		}
		h.at = (h.at + 1) % len(h.paths)
	}
}

// decodeHealth reads a 2xx health answer: nothing, a bare word, or JSON with
// or without an envelope and a status. The answer is nil if it is unreadable.
func decodeHealth(r *reply) (*engineAnswer, error) {
	body := bytes.TrimSpace(r.body)
	switch {
	case len(body) == 0:
		return &engineAnswer{}, nil
	case r.isHTML():
		return nil, failf(ReasonParse, "%s: the answer is HTML", r.what)
	case body[0] == '{':
		answer := decodeHealthJSON(r)
		switch {
		case answer == nil:
			return nil, failf(ReasonParse, "%s: the answer is not valid JSON", r.what)
		case answer.failed:
			return answer, failf(ReasonUnhealthy, "%s: success is false, code %q", r.what, cleanLabel(answer.code))
		case answer.status != nil && !engineWord(string(answer.status), engineHealthyWords):
			return answer, failf(ReasonUnhealthy, "%s: status is %q", r.what, cleanLabel(string(answer.status)))
		}
		return answer, nil
	}
	word := string(body)
	if body[0] == '"' {
		if err := json.Unmarshal(body, &word); err != nil {
			return nil, failf(ReasonParse, "%s: the answer is not valid JSON", r.what)
		}
	}
	switch {
	case engineWord(word, engineHealthyWords):
		return &engineAnswer{}, nil
	case isWord(word):
		return &engineAnswer{}, failf(ReasonUnhealthy, "%s: status is %q", r.what, word)
	}
	return nil, failf(ReasonParse, "%s: the answer is neither JSON nor a word", r.what)
}

// isWord reports whether s could be a status that we do not know, not prose or noise.
func isWord(s string) bool {
	for _, c := range s {
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && c != '_' && c != '-' {
			return false
		}
	}
	return s != "" && len(s) <= 32
}

// decodeHealthJSON returns nil if the answer is not a JSON object.
func decodeHealthJSON(r *reply) *engineAnswer {
	d := &engineDecoder{endpoint: "health"}
	body := bytes.TrimSpace(r.body)
	if len(body) == 0 || body[0] != '{' || !d.json(body) {
		return nil
	}
	d.reduce()
	return &d.engineAnswer
}

// askStatistics asks the statistics endpoints side by side, as far as the
// budget goes, and returns the failure of the first that failed.
func (e *engine) askStatistics(ctx context.Context, budget *atomic.Int32, m *engineMerge) error {
	now := e.now()
	var due []int
	for i, ep := range e.endpoints {
		if ep.due(now) && budget.Add(-1) >= 0 {
			due = append(due, i)
		}
	}
	spare := func() bool { return budget.Add(-1) >= 0 }
	var pending atomic.Int32
	pending.Store(int32(len(due)))
	all := make(chan struct{})
	var parts []func() error
	for _, i := range due {
		parts = append(parts, func() error {
			defer func() {
				if pending.Add(-1) == 0 {
					close(all)
				}
			}()
			answer, err := e.endpoints[i].ask(ctx, e.httpClient, now, spare)
			if answer != nil {
				m.done(i, answer)
			}
			return err
		})
	}
	if len(due) == 0 {
		return nil
	}
	parts = append(parts, func() error {
		patience := time.NewTimer(enginePatience)
		defer patience.Stop()
		select {
		case <-all:
		case <-ctx.Done():
		case <-patience.C:
			m.hurry()
		}
		return nil
	})
	return parallel(parts...)
}

// sendRejected sends the counters of rejected fields.
func (e *engine) sendRejected(ch chan<- prometheus.Metric) {
	for i, why := range engineRejects {
		ch <- engineRejected.metric(float64(e.rejected[i].Load()), why)
	}
}

// Close ends the canary and closes the connections.
func (e *engine) Close() error {
	if e.canary != nil {
		e.canary.close()
	}
	return e.httpClient.Close()
}

// engineEndpoint is a statistics endpoint. Which of its paths the engine has
// is found out over the scrapes and remembered.
type engineEndpoint struct {
	name  string
	limit int64
	paths []string
	// configured says that the file names the path: it has to be there.
	configured bool

	at       int       // the path to ask
	found    bool      // it has answered 2xx
	missing  int       // paths that have answered 404 one after the other
	askAgain time.Time // not before, when all have
	failures int       // scrapes in a row that failed
	err      error     // the last of them
}

func newEngineEndpoint(name string, limit int64, configured string, documented ...string) engineEndpoint {
	if configured != "" {
		return engineEndpoint{name: name, limit: limit, paths: []string{configured}, configured: true}
	}
	return engineEndpoint{name: name, limit: limit, paths: documented}
}

// due reports whether the endpoint is to be asked now.
func (ep *engineEndpoint) due(now time.Time) bool {
	return ep.missing < len(ep.paths) || !now.Before(ep.askAgain)
}

// prefer makes the path with a prefix the next one to ask, if nothing is known yet.
func (ep *engineEndpoint) prefer(prefix string) {
	if ep.found || ep.missing > 0 || ep.failures > 0 {
		return
	}
	for i, p := range ep.paths {
		if strings.HasPrefix(p, prefix) {
			ep.at = i
		}
	}
}

// ask asks the endpoint once, and at its other path too when the first is not
// there and spare allows one more request. It returns nil and no error where
// the engine does not have the endpoint, or does not have it here.
func (ep *engineEndpoint) ask(ctx context.Context, c *httpClient, now time.Time, spare func() bool) (*engineAnswer, error) {
	if ep.missing >= len(ep.paths) {
		ep.missing = 0 // it is time to ask again
	}
	for {
		answer, err := ep.askPath(ctx, c)
		if _, ok := errors.AsType[*engineNotThere](err); !ok {
			ep.missing = 0
			if err == nil {
				ep.found, ep.failures, ep.err = true, 0, nil
				return answer, nil
			}
			ep.err = err
			// A path that has answered is the engine's own until it says that it is
			// not there: the other may know less, and would be kept after the outage.
			if ep.failures++; !ep.found && ep.failures%engineTryOther == 0 {
				ep.next()
			}
			return nil, err
		}
		ep.found = false
		ep.missing++
		ep.next()
		switch {
		case ep.configured:
			return nil, err
		case ep.missing == len(ep.paths):
			ep.askAgain, ep.failures, ep.err = now.Add(engineAskAgain), 0, nil
			return nil, nil
		case !spare():
			return nil, ep.err // the other path's, if that is the one that exists and fails
		}
	}
}

func (ep *engineEndpoint) next() { ep.at = (ep.at + 1) % len(ep.paths) }

// engineNotThere is the failure of a path that the engine does not have.
type engineNotThere struct{ error }

func (e *engineNotThere) Unwrap() error { return e.error }

func (ep *engineEndpoint) askPath(ctx context.Context, c *httpClient) (*engineAnswer, error) {
	r, err := c.get(ctx, ep.paths[ep.at], ep.limit)
	if err != nil {
		return nil, err
	}
	if r.status == http.StatusNotFound {
		return nil, &engineNotThere{r.ok()}
	}
	if err := r.ok(); err != nil {
		return nil, err
	}
	answer, err := decodeEngine(ep.name, r)
	if err != nil {
		return nil, err
	}
	if answer.failed {
		reason := cmp.Or(engineCodes[answer.code], ReasonUnhealthy)
		return nil, failf(reason, "%s: success is false, code %q", r.what, cleanLabel(answer.code))
	}
	return answer, nil
}

// engineCodes are the engine's error codes that have a reason of their own.
var engineCodes = map[string]Reason{
	"AUTHENTICATION_ERROR": ReasonAuth,
	"RATE_LIMIT_ERROR":     ReasonRateLimited,
	"TIMEOUT_ERROR":        ReasonTimeout,
}

// engineMerge puts the answers of the endpoints together. Each metric is sent
// once: by the best row of the table, then by the first endpoint. An endpoint
// that takes longer than enginePatience only adds what the others left open.
type engineMerge struct {
	ch        chan<- prometheus.Metric
	collector *engine

	mu      sync.Mutex
	answers []*engineAnswer // by endpoint, health last; nil once sent
	late    bool
	sent    map[*Desc]bool
	parts   map[string]bool
}

// done takes the answer of an endpoint.
func (m *engineMerge) done(i int, a *engineAnswer) {
	for why, n := range a.rejected {
		m.collector.rejected[why].Add(uint64(n))
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.answers[i] = a
	if m.late {
		m.sendLocked()
	}
}

// hurry sends what is there, and from now on each answer as it comes.
func (m *engineMerge) hurry() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.late = true
	m.sendLocked()
}

// flush sends what is there.
func (m *engineMerge) flush() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.sendLocked()
}

func (m *engineMerge) sendLocked() {
	if m.sent == nil {
		m.sent, m.parts = map[*Desc]bool{}, map[string]bool{}
	}
	best := make(map[*Desc]int, len(engineFields))
	rank := func(row, endpoint int) int { return row*len(m.answers) + endpoint }
	for i, a := range m.answers {
		if a == nil {
			continue
		}
		for j := range a.readings {
			r := &a.readings[j]
			if b, ok := best[r.desc()]; !ok || rank(r.row, i) < b {
				best[r.desc()] = rank(r.row, i)
			}
		}
	}
	for i, a := range m.answers {
		if a == nil {
			continue
		}
		for j := range a.readings {
			r := &a.readings[j]
			if d := r.desc(); !m.sent[d] && best[d] == rank(r.row, i) {
				m.send(r)
			}
		}
		for _, p := range a.parts {
			if !m.parts[p.name] {
				m.parts[p.name] = true
				m.ch <- enginePartHealthy.boolean(p.healthy, p.name)
			}
		}
		m.answers[i] = nil
	}
	for d := range best {
		m.sent[d] = true
	}
}

func (m *engineMerge) send(r *engineReading) {
	switch d := r.desc(); {
	case r.hist != nil:
		m.ch <- d.histogramMetric(*r.hist)
	case len(d.Labels) > 0:
		m.ch <- d.metric(r.value, r.label)
	default:
		m.ch <- d.metric(r.value)
	}
}
