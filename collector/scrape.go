// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"cmp"
	"context"
	"errors"
	"io"
	"log/slog"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/niodoo/niodoo_exporter/internal/config"
)

// Defaults of [Options].
const (
	DefaultTimeout   = 10 * time.Second
	DefaultMaxSeries = 2000
)

// Options are the limits of a scrape.
type Options struct {
	// Timeout bounds a collector's run where its section does not.
	Timeout time.Duration
	// MaxSeries bounds the series of one collector in one scrape.
	MaxSeries int
}

// Scraper runs the collectors of one configuration.
type Scraper struct {
	units []*unit
	cfg   *config.Config

	mu      sync.Mutex
	holders int           // scrapes in flight, and one until it is retired
	idle    chan struct{} // closed when the last holder has let go
}

// NewScraper makes the collectors that cfg enables. Where old has one whose
// section has not changed, it lives on, with its connections and its memory.
func NewScraper(cfg *config.Config, deps Deps, opts Options, old *Scraper) *Scraper {
	deps = deps.withDefaults()
	if opts.Timeout <= 0 {
		opts.Timeout = DefaultTimeout
	}
	if opts.MaxSeries <= 0 {
		opts.MaxSeries = DefaultMaxSeries
	}
	s := &Scraper{cfg: cfg, holders: 1, idle: make(chan struct{})}
	for _, name := range Names() {
		if !cfg.Enabled(name) {
			continue
		}
		if u := old.unit(name); u != nil && old.cfg.SameSection(cfg, name) {
			s.units = append(s.units, u)
			continue
		}
		d := deps
		d.Logger = deps.Logger.With("collector", name)
		u := &unit{
			name: name, local: isLocal(name), required: cfg.Required(name),
			timeout: opts.Timeout, maxSeries: opts.MaxSeries, closeAfter: deps.Fleet, logger: d.Logger,
			collector: newCollector(factories[name], cfg, d), busy: make(chan struct{}, 1),
		}
		if t := time.Duration(cfg.Section(name).Timeout); t > 0 {
			u.timeout = t
		}
		s.units = append(s.units, u)
	}
	return s
}

func isLocal(name string) bool {
	return slices.ContainsFunc(config.Sections, func(i config.Info) bool { return i.Name == name && i.Local })
}

func (s *Scraper) unit(name string) *unit {
	if s == nil {
		return nil
	}
	for _, u := range s.units {
		if u.name == name {
			return u
		}
	}
	return nil
}

// Names returns the names of the enabled collectors.
func (s *Scraper) Names() []string {
	names := make([]string, len(s.units))
	for i, u := range s.units {
		names[i] = u.name
	}
	return names
}

// Hold keeps the scraper's collectors open until Release. It reports false if
// the scraper has been retired in the meantime: ask for the new one.
func (s *Scraper) Hold() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.holders == 0 {
		return false
	}
	s.holders++
	return true
}

// Release ends a Hold.
func (s *Scraper) Release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.holders--; s.holders == 0 {
		close(s.idle)
	}
}

// Retire waits until the scrapes in flight are over and closes the collectors
// that next, which may be nil, has not taken over; one that hangs does not keep
// the others open.
func (s *Scraper) Retire(next *Scraper) {
	s.Release()
	<-s.idle
	var closing sync.WaitGroup
	for _, u := range s.units {
		if next.unit(u.name) != u {
			closing.Go(u.close)
		}
	}
	closing.Wait()
}

// Last is what the last scrape found out about a collector.
type Last struct {
	Collector           string
	Local, Required, Up bool
	At                  time.Time // zero before the first scrape
	Took                time.Duration
	Series              int
	Reason              Reason // "" for success
	Err                 error
}

// Last returns what the last scrape found out about each collector.
func (s *Scraper) Last() []Last {
	all := make([]Last, len(s.units))
	for i, u := range s.units {
		u.mu.Lock()
		all[i] = u.last
		u.mu.Unlock()
		all[i].Collector, all[i].Local, all[i].Required = u.name, u.local, u.required
	}
	return all
}

// Failed is one collector's failure in a scrape.
type Failed struct {
	Collector string
	Reason    Reason
	Err       error
}

// Result is one scrape.
type Result struct {
	// Families are sorted by name, their metrics by label values.
	Families []*dto.MetricFamily
	// RequiredUp says that every required component is up.
	RequiredUp bool
	// Failures are those of the collectors, in their order.
	Failures []Failed
}

// Scrape runs the named collectors, nil for all, at once and returns what has
// arrived when the last one is done, the timeout has passed or ctx has ended.
func (s *Scraper) Scrape(ctx context.Context, timeout time.Duration, names []string) Result {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	type waiting struct {
		u *unit
		r *run
	}
	var waits []waiting
	for _, u := range s.units {
		if names == nil || slices.Contains(names, u.name) {
			waits = append(waits, waiting{u, u.join()})
		}
	}
	res := Result{RequiredUp: true}
	families := make(map[*Desc][]*sample, 128)
	for _, w := range waits {
		o := w.u.wait(ctx, w.r)
		for _, s := range o.samples {
			families[s.desc] = append(families[s.desc], s)
		}
		if w.u.required && !w.u.local && !o.up {
			res.RequiredUp = false
		}
		if o.err != nil {
			res.Failures = append(res.Failures, Failed{w.u.name, o.reason, o.err})
		}
	}
	add := scrapeTimeout.metric(timeout.Seconds()).(*sample)
	families[add.desc] = append(families[add.desc], add)
	res.Families = encode(families)
	return res
}

// unit is a collector with what the runner knows about it.
type unit struct {
	name            string
	local, required bool
	timeout         time.Duration
	maxSeries       int
	logger          *slog.Logger
	collector       Collector
	// busy is full while the collector is being called: Update and Close never
	// run at once.
	busy chan struct{}

	mu         sync.Mutex
	closeAfter bool // each run: in a fleet (see Deps.Fleet), and once retired
	current    *run // the one to join
	calling    *run // the one that Update is called for
	version    changes
	last       Last
	leftOut    bool // series were left out of the last scrape
}

// run is one call of a collector's Update. Scrapes that come while it is in
// flight share it.
type run struct {
	started time.Time
	ctx     context.Context
	cancel  context.CancelFunc
	waiters int  // guarded by unit.mu
	expired bool // guarded by unit.mu: the last scrape's time was up
	done    chan struct{}

	mu      sync.Mutex
	samples []*sample
	over    int // left out: over the limit
	invalid int
	bad     error // the first reason for invalid
	err     error
	elapsed time.Duration
}

// join returns the run in flight, or starts one. It returns nil while a run
// that has used up its time has still not come back: another would pile up. A
// run whose clients have hung up is not joined either, but the next one begins
// as soon as it has come back: their leaving says nothing about the component.
func (u *unit) join() *run {
	u.mu.Lock()
	defer u.mu.Unlock()
	if r := u.calling; r != nil && (r.expired || time.Since(r.started) >= u.timeout) {
		return nil
	}
	if r := u.current; r != nil && r.ctx.Err() == nil {
		r.waiters++
		return r
	}
	r := &run{started: time.Now(), waiters: 1, done: make(chan struct{})}
	r.ctx, r.cancel = context.WithTimeout(context.Background(), u.timeout)
	u.current = r
	go u.execute(r)
	return r
}

// leave ends a scrape's interest in a run. The last one to leave ends the run.
func (u *unit) leave(r *run, hungUp bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if r.waiters--; r.waiters == 0 {
		r.expired = !hungUp
		r.cancel()
	}
}

// execute calls Update when the collector is free for it.
func (u *unit) execute(r *run) {
	defer r.cancel()
	defer close(r.done)
	select {
	case u.busy <- struct{}{}:
	case <-r.ctx.Done():
		r.finish(fail(ReasonTimeout, errStillRunning))
		u.settle(r)
		return
	}
	u.mu.Lock()
	u.calling = r
	u.mu.Unlock()
	r.finish(u.call(r))
	u.mu.Lock()
	closeAfter := u.closeAfter
	u.mu.Unlock()
	if closeAfter { // before the next run can begin
		u.closeCollector()
	}
	u.settle(r)
	<-u.busy
}

// finish notes what Update returned.
func (r *run) finish(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.err, r.elapsed = err, time.Since(r.started)
}

// settle makes way for the next run.
func (u *unit) settle(r *run) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.current == r {
		u.current = nil
	}
	if u.calling == r {
		u.calling = nil
	}
}

// call calls Update and takes what it sends, for as long as it sends: a
// straggler can neither block for ever nor reach a scrape that has answered.
func (u *unit) call(r *run) error {
	ch := make(chan prometheus.Metric, 64)
	returned := make(chan error, 1)
	go func() {
		defer func() {
			if p := recover(); p != nil {
				returned <- panicError(p)
			}
		}()
		returned <- u.collector.Update(r.ctx, ch)
	}()
	for {
		select {
		case m := <-ch:
			u.add(r, m)
		case err := <-returned:
			for len(ch) > 0 {
				u.add(r, <-ch)
			}
			return err
		}
	}
}

func (u *unit) add(r *run, m prometheus.Metric) {
	s, err := adopt(m)
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case err != nil:
		r.invalid++
		if r.bad == nil {
			r.bad = err
		}
	case len(r.samples) >= u.maxSeries && s.desc.Collector != "": // the status is always let through
		r.over++
	default:
		r.samples = append(r.samples, s)
	}
}

// outcome is what one scrape got from one collector.
type outcome struct {
	samples []*sample
	up      bool
	err     error
	reason  Reason
}

// grace is how long a run past its timeout has to come back with what it knows.
const grace = 20 * time.Millisecond

var errStillRunning = errors.New("the previous run has used up its time and has not come back")

// wait waits for the run, its timeout or ctx, whichever is first, and returns
// what has arrived by then, with the series that are always there.
func (u *unit) wait(ctx context.Context, r *run) outcome {
	var o outcome
	var elapsed time.Duration
	var over, invalid int
	var bad error
	hungUp := false
	if r == nil {
		o.err = fail(ReasonTimeout, errStillRunning)
	} else {
		finished := waitFor(ctx, r)
		hungUp = !finished && errors.Is(ctx.Err(), context.Canceled)
		u.leave(r, hungUp)
		r.mu.Lock()
		o.samples, o.err, elapsed = slices.Clone(r.samples), r.err, r.elapsed
		over, invalid, bad = r.over, r.invalid, r.bad
		r.mu.Unlock()
		if !finished {
			elapsed = time.Since(r.started)
			o.err = failf(ReasonTimeout, "no complete answer within %s", elapsed.Round(time.Millisecond))
		}
	}
	known, version := false, ""
	for _, s := range o.samples {
		switch s.desc {
		case componentUp:
			known, o.up = true, s.value == 1
		case componentInfo:
			version = s.values[1]
		}
	}
	if known && !o.up && o.err == nil {
		o.err = failf(ReasonOther, "the component is down and the collector gave no reason")
	}
	if o.err != nil {
		o.reason = classify(o.err)
	}
	if !known {
		o.up = o.err == nil || meansUp(o.err)
	}
	var twice int
	o.samples, twice = dedupe(o.samples)
	series := len(o.samples)
	if version != "" {
		u.mu.Lock()
		changed := u.version.observe("", version, time.Now())
		u.mu.Unlock()
		if !changed.IsZero() {
			o.samples = append(o.samples, componentVersionChange.metric(float64(changed.Unix()), u.name).(*sample))
			series++
		}
	}
	send := func(d *Desc, v float64, labels ...string) {
		o.samples = append(o.samples, d.metric(v, labels...).(*sample))
	}
	if !u.local {
		if !known {
			send(componentUp, boolValue(o.up), u.name)
			series++
		}
		send(componentRequired, boolValue(u.required), u.name)
		series++
	}
	send(scrapeSuccess, boolValue(o.err == nil), u.name)
	send(scrapeDuration, elapsed.Seconds(), u.name)
	send(scrapeSeries, float64(series), u.name)
	if o.err != nil {
		send(scrapeFailure, 1, u.name, string(o.reason))
	}
	for _, d := range []struct {
		n      int
		reason string
	}{{over, "limit"}, {twice, "duplicate"}, {invalid, "invalid"}} {
		if d.n > 0 {
			send(scrapeDropped, float64(d.n), u.name, d.reason)
		}
	}
	if !hungUp { // nobody waited for an answer, so there is none to remember
		u.conclude(o, elapsed, series, over, twice, invalid, bad)
	}
	return o
}

// conclude remembers the outcome and logs when a collector begins to fail,
// fails differently, or is well again. A failure that lasts is not repeated:
// the series show it.
func (u *unit) conclude(o outcome, elapsed time.Duration, series, over, twice, invalid int, bad error) {
	u.mu.Lock()
	before := u.last.Reason
	u.last = Last{Collector: u.name, Local: u.local, Required: u.required, Up: o.up, At: time.Now(),
		Took: elapsed.Round(10 * time.Microsecond), Series: series, Reason: o.reason, Err: o.err}
	leftOut := over+twice+invalid > 0
	newlyLeftOut := leftOut && !u.leftOut
	u.leftOut = leftOut
	u.mu.Unlock()
	switch {
	case o.reason != before && o.err != nil:
		args := []any{"reason", o.reason, "err", o.err, "duration", elapsed}
		if p, ok := errors.AsType[*panicked](o.err); ok {
			args = append(args, "stack", string(p.stack))
		}
		u.logger.Warn("Collector fails", args...)
	case o.reason != before:
		u.logger.Info("Collector is well again", "after", before)
	case o.err != nil:
		u.logger.Debug("Collector still fails", "reason", o.reason, "err", o.err, "duration", elapsed)
	}
	if newlyLeftOut {
		u.logger.Warn("Series are left out", "over_limit", over, "limit", u.maxSeries, "duplicate", twice, "invalid", invalid, "err", bad)
	}
}

// close releases the collector's connections once no run is in flight. A scrape
// that comes later all the same finds them anew, for that once.
func (u *unit) close() {
	u.mu.Lock()
	u.closeAfter = true
	u.mu.Unlock()
	u.busy <- struct{}{}
	u.closeCollector()
	<-u.busy
}

func (u *unit) closeCollector() {
	c, ok := u.collector.(io.Closer)
	if !ok {
		return
	}
	defer func() { // nobody above would stop it from ending the process
		if p := recover(); p != nil {
			u.logger.Error("Closing panicked", "panic", p, "stack", string(debug.Stack()))
		}
	}()
	if err := c.Close(); err != nil {
		u.logger.Debug("Closing failed", "err", err)
	}
}

// dedupe sorts samples by family and label values and drops those sent twice.
// The first one sent stays.
func dedupe(samples []*sample) (kept []*sample, dropped int) {
	slices.SortStableFunc(samples, compareSamples)
	n := len(samples)
	kept = slices.CompactFunc(samples, func(a, b *sample) bool { return compareSamples(a, b) == 0 })
	return kept, n - len(kept)
}

func compareSamples(a, b *sample) int {
	if a.desc != b.desc {
		return cmp.Compare(a.desc.Name, b.desc.Name)
	}
	for _, i := range a.desc.sorted {
		if c := cmp.Compare(a.values[i], b.values[i]); c != 0 {
			return c
		}
	}
	return 0
}

// encode turns samples into metric families in the order of their names. It
// takes the memory for a family at once: this is the hot path of a scrape.
func encode(families map[*Desc][]*sample) []*dto.MetricFamily {
	out := make([]*dto.MetricFamily, 0, len(families))
	for d, samples := range families {
		slices.SortFunc(samples, compareSamples)
		n := len(samples)
		metrics := make([]dto.Metric, n)
		pairs := make([]dto.LabelPair, n*len(d.Labels))
		labels := make([]*dto.LabelPair, n*len(d.Labels))
		var gauges []dto.Gauge
		var counters []dto.Counter
		switch d.Type {
		case dto.MetricType_GAUGE:
			gauges = make([]dto.Gauge, n)
		case dto.MetricType_COUNTER:
			counters = make([]dto.Counter, n)
		}
		f := &dto.MetricFamily{Name: &d.Name, Help: &d.helpText, Type: d.Type.Enum(), Metric: make([]*dto.Metric, n)}
		for i, s := range samples {
			m := &metrics[i]
			at := i * len(d.Labels)
			for j, k := range d.sorted {
				p := &pairs[at+j]
				p.Name, p.Value = d.names[k], &s.values[k]
				labels[at+j] = p
			}
			m.Label = labels[at : at+len(d.Labels) : at+len(d.Labels)]
			switch d.Type {
			case dto.MetricType_GAUGE:
				gauges[i].Value = &s.value
				m.Gauge = &gauges[i]
			case dto.MetricType_COUNTER:
				counters[i].Value = &s.value
				m.Counter = &counters[i]
			default:
				_ = s.Write(m) // adopt has tried it
			}
			f.Metric[i] = m
		}
		out = append(out, f)
	}
	slices.SortFunc(out, func(a, b *dto.MetricFamily) int { return cmp.Compare(a.GetName(), b.GetName()) })
	return out
}

// MergeFamilies merges two sorted lists of families whose names are disjoint.
func MergeFamilies(a, b []*dto.MetricFamily) []*dto.MetricFamily {
	out := append(slices.Clone(a), b...)
	slices.SortFunc(out, func(x, y *dto.MetricFamily) int { return cmp.Compare(x.GetName(), y.GetName()) })
	return out
}

// plainGauge is a family of one gauge without labels, for names outside our prefix.
func plainGauge(name, help string, v float64) *dto.MetricFamily {
	return &dto.MetricFamily{Name: new(name), Help: new(help), Type: dto.MetricType_GAUGE.Enum(),
		Metric: []*dto.Metric{{Gauge: &dto.Gauge{Value: new(v)}}}}
}

// waitFor reports whether the run came back in time.
func waitFor(ctx context.Context, r *run) bool {
	select {
	case <-r.done:
		return true
	case <-ctx.Done():
	case <-r.ctx.Done():
		select {
		case <-r.done:
			return true
		case <-ctx.Done():
		case <-time.After(grace):
		}
	}
	select { // both may have been ready
	case <-r.done:
		return true
	default:
		return false
	}
}
