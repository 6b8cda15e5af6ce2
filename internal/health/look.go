// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package health

import (
	"context"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	dto "github.com/prometheus/client_model/go"

	"github.com/niodoo/niodoo_exporter/collector"
	"github.com/niodoo/niodoo_exporter/internal/config"
)

// look is what one collector found, twice where there was time.
type look struct {
	name                    string
	first, last             collector.Result
	firstStarted, lastTaken time.Time
	twice                   bool
}

// leastTime is how much must be left for a second sample to be worth it.
const leastTime = 100 * time.Millisecond

// lookAt runs every enabled collector on its own, so that each has the whole
// time and a slow one takes nothing from the others' rates.
func lookAt(ctx context.Context, cfg *config.Config, o Options) []look {
	deadline := time.Now().Add(o.Budget)
	s := collector.NewScraper(quiet(cfg), collector.Deps{Logger: o.Logger, Now: o.Now}, collector.Options{Timeout: o.Budget}, nil)
	names := s.Names()
	looks := make([]look, len(names))
	var all sync.WaitGroup
	for i, name := range names {
		all.Go(func() { looks[i] = lookTwice(ctx, s, name, deadline, o.Pause) })
	}
	all.Wait()
	closed := make(chan struct{})
	go func() {
		s.Retire(nil)
		close(closed)
	}()
	select { // a collector that hangs keeps nobody waiting
	case <-closed:
	case <-time.After(leastTime):
	}
	return looks
}

// quiet is the configuration without what only the exporter itself may do: it
// owns the logs' state, and test generations have a pace.
func quiet(cfg *config.Config) *config.Config {
	c := *cfg
	c.Logs.StateFile = ""
	c.Engine.Canary.Enabled, c.Ollama.Canary.Enabled = false, false
	return &c
}

func lookTwice(ctx context.Context, s *collector.Scraper, name string, deadline time.Time, pause time.Duration) look {
	l := look{name: name, firstStarted: time.Now()}
	names := []string{name}
	l.first = s.Scrape(ctx, time.Until(deadline), names)
	l.last, l.lastTaken = l.first, l.firstStarted
	if timedOut(l.first) {
		return l
	}
	select {
	case <-ctx.Done():
		return l
	case <-time.After(time.Until(l.firstStarted.Add(pause))):
	}
	left := time.Until(deadline)
	if left < leastTime {
		return l
	}
	taken := time.Now()
	second := s.Scrape(ctx, left, names)
	// The second had less time: that it did not make it says nothing.
	if !timedOut(second) {
		l.last, l.lastTaken, l.twice = second, taken, true
	}
	return l
}

func timedOut(r collector.Result) bool {
	return slices.ContainsFunc(r.Failures, func(f collector.Failed) bool { return f.Reason == collector.ReasonTimeout })
}

// snapshot is what all collectors found, by metric.
type snapshot struct {
	cfg            *config.Config
	now            time.Time
	points, before map[string][]point
}

// point is a series. A histogram's value is its sum.
type point struct {
	labels map[string]string
	value  float64
	count  float64
	at     time.Time
}

func (s *snapshot) add(l look) {
	collect(s.points, l.last.Families, l.lastTaken)
	if l.twice {
		collect(s.before, l.first.Families, l.firstStarted)
	}
}

func collect(into map[string][]point, families []*dto.MetricFamily, at time.Time) {
	for _, f := range families {
		for _, m := range f.GetMetric() {
			p := point{labels: map[string]string{}, at: at}
			for _, l := range m.GetLabel() {
				p.labels[l.GetName()] = l.GetValue()
			}
			switch f.GetType() {
			case dto.MetricType_COUNTER:
				p.value = m.GetCounter().GetValue()
			case dto.MetricType_HISTOGRAM:
				p.value, p.count = m.GetHistogram().GetSampleSum(), float64(m.GetHistogram().GetSampleCount())
			default:
				p.value = m.GetGauge().GetValue()
			}
			into[f.GetName()] = append(into[f.GetName()], p)
		}
	}
}

// all returns the series of a metric that have these labels, given as name and
// value in turn. Names are without the prefix niodoo_.
func (s *snapshot) all(metric string, labels ...string) []point {
	return having(s.points["niodoo_"+metric], labels)
}

func having(points []point, labels []string) []point {
	return slices.DeleteFunc(slices.Clone(points), func(p point) bool {
		for i := 0; i+1 < len(labels); i += 2 {
			if p.labels[labels[i]] != labels[i+1] {
				return true
			}
		}
		return false
	})
}

// one returns the value of a metric's first series.
func (s *snapshot) one(metric string, labels ...string) (float64, bool) {
	if p := s.all(metric, labels...); len(p) > 0 {
		return p[0].value, true
	}
	return 0, false
}

// sum returns the sum over a metric's series.
func (s *snapshot) sum(metric string, labels ...string) (total float64, ok bool) {
	for _, p := range s.all(metric, labels...) {
		total += p.value
		ok = true
	}
	return total, ok
}

// growth is how much a series grew between the two samples.
type growth struct {
	labels       map[string]string
	value, count float64
	seconds      float64
}

// grown returns how much a counter's series grew. One that was reset meanwhile
// is left out.
func (s *snapshot) grown(metric string, labels ...string) []growth {
	var out []growth
	for _, p := range s.all(metric, labels...) {
		i := slices.IndexFunc(s.before["niodoo_"+metric], func(b point) bool { return maps.Equal(b.labels, p.labels) })
		if i < 0 {
			continue
		}
		b := s.before["niodoo_"+metric][i]
		g := growth{p.labels, p.value - b.value, p.count - b.count, p.at.Sub(b.at).Seconds()}
		if g.value >= 0 && g.count >= 0 && g.seconds > 0 {
			out = append(out, g)
		}
	}
	return out
}

// rate returns the growth per second of all of a counter's series together.
func (s *snapshot) rate(metric string, labels ...string) (total float64, ok bool) {
	for _, g := range s.grown(metric, labels...) {
		total += g.value / g.seconds
		ok = true
	}
	return total, ok
}

// subject is what tells a series apart, in words.
func subject(labels map[string]string) string {
	var values []string
	for _, k := range slices.Sorted(maps.Keys(labels)) {
		if k != "component" {
			values = append(values, labels[k])
		}
	}
	return strings.Join(values, ", ")
}

// Subject is what a check is of, where there are several: a path, a model.
func Subject(k Check) string { return subject(k.Labels) }
