// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

// Package observe looks at the stack with the exporter's own collectors, for
// commands that want what a scrape would say.
package observe

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	dto "github.com/prometheus/client_model/go"

	"github.com/niodoo/niodoo_exporter/collector"
	"github.com/niodoo/niodoo_exporter/internal/config"
)

// Stack is a stack to look at. Close it.
type Stack struct{ scraper *collector.Scraper }

// Open makes the collectors that cfg enables. They change nothing: no canary
// is sent, and the exporter's position in the logs stays as it is.
func Open(cfg *config.Config, logger *slog.Logger) *Stack {
	c := *cfg
	c.Logs.StateFile = ""
	c.Engine.Canary.Enabled, c.Ollama.Canary.Enabled = false, false
	return &Stack{collector.NewScraper(&c, collector.Deps{Logger: logger}, collector.Options{}, nil)}
}

// Close closes the connections.
func (s *Stack) Close() { s.scraper.Retire(nil) }

// Look runs the named collectors, nil for all, and returns what they say.
func (s *Stack) Look(ctx context.Context, names []string) Snapshot {
	at := time.Now()
	res := s.scraper.Scrape(ctx, collector.DefaultTimeout, names)
	v := Of(at, res.Families...)
	v.Took, v.Failures, v.Collectors = time.Since(at), res.Failures, s.scraper.Names()
	return v
}

// Of returns a look that has found these metrics.
func Of(at time.Time, families ...*dto.MetricFamily) Snapshot {
	v := Snapshot{At: at, families: make(map[string]*dto.MetricFamily, len(families))}
	for _, f := range families {
		v.families[f.GetName()] = f
	}
	return v
}

// Snapshot is one look.
type Snapshot struct {
	At   time.Time
	Took time.Duration
	// Collectors are those that are enabled.
	Collectors []string
	Failures   []collector.Failed

	families map[string]*dto.MetricFamily
}

// Families returns all metrics, sorted by name.
func (s Snapshot) Families() []*dto.MetricFamily {
	all := make([]*dto.MetricFamily, 0, len(s.families))
	for _, name := range slices.Sorted(maps.Keys(s.families)) {
		all = append(all, s.families[name])
	}
	return all
}

// Series is one series' value.
type Series struct {
	Labels map[string]string
	Value  float64
}

// Failed returns why a collector failed, nil if it did not.
func (s Snapshot) Failed(name string) *collector.Failed {
	for i := range s.Failures {
		if s.Failures[i].Collector == name {
			return &s.Failures[i]
		}
	}
	return nil
}

// Series returns the series of a gauge or counter, or of a histogram's _sum or
// _count, whose labels have the values given as name, value pairs.
func (s Snapshot) Series(name string, labels ...string) []Series {
	f, value := s.family(name)
	var out []Series
	for _, m := range f.GetMetric() {
		one := Series{Labels: make(map[string]string, len(m.GetLabel())), Value: value(m)}
		for _, l := range m.GetLabel() {
			one.Labels[l.GetName()] = l.GetValue()
		}
		if has(one.Labels, labels) {
			out = append(out, one)
		}
	}
	return out
}

// family returns the family that a name belongs to and how its values are read.
func (s Snapshot) family(name string) (*dto.MetricFamily, func(*dto.Metric) float64) {
	if f := s.families[name]; f != nil {
		if f.GetType() == dto.MetricType_COUNTER {
			return f, func(m *dto.Metric) float64 { return m.GetCounter().GetValue() }
		}
		return f, func(m *dto.Metric) float64 { return m.GetGauge().GetValue() }
	}
	if base, ok := strings.CutSuffix(name, "_sum"); ok {
		return s.families[base], func(m *dto.Metric) float64 { return m.GetHistogram().GetSampleSum() }
	}
	base := strings.TrimSuffix(name, "_count")
	return s.families[base], func(m *dto.Metric) float64 { return float64(m.GetHistogram().GetSampleCount()) }
}

func has(labels map[string]string, pairs []string) bool {
	for i := 0; i+1 < len(pairs); i += 2 {
		if labels[pairs[i]] != pairs[i+1] {
			return false
		}
	}
	return true
}

// Sum returns the sum of [Snapshot.Series], and whether there is any.
func (s Snapshot) Sum(name string, labels ...string) (float64, bool) {
	total, all := 0.0, s.Series(name, labels...)
	for _, one := range all {
		total += one.Value
	}
	return total, len(all) > 0
}

// Rate returns how much a counter grew per second from an earlier look to this
// one, and whether both have it and it did not begin anew in between.
func (s Snapshot) Rate(earlier Snapshot, name string, labels ...string) (float64, bool) {
	a, ok1 := earlier.Sum(name, labels...)
	b, ok2 := s.Sum(name, labels...)
	seconds := s.At.Sub(earlier.At).Seconds()
	if !ok1 || !ok2 || b < a || seconds <= 0 {
		return 0, false
	}
	return (b - a) / seconds, true
}

// CPUUsage returns the share of the time from an earlier look to this one that
// the processors were busy: neither idle nor waiting for a disk.
func (s Snapshot) CPUUsage(earlier Snapshot) (float64, bool) {
	busyA, allA, ok1 := earlier.CPUSeconds()
	busyB, allB, ok2 := s.CPUSeconds()
	if !ok1 || !ok2 || allB <= allA || busyB < busyA {
		return 0, false
	}
	return (busyB - busyA) / (allB - allA), true
}

// CPUSeconds returns the processors' busy time and their whole time since the start.
func (s Snapshot) CPUSeconds() (busy, all float64, ok bool) {
	for _, one := range s.Series("niodoo_host_cpu_seconds_total") {
		ok = true
		all += one.Value
		if m := one.Labels["mode"]; m != "idle" && m != "iowait" {
			busy += one.Value
		}
	}
	return busy, all, ok
}
