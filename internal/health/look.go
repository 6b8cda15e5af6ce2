// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package health

import (
	"context"
	"maps"
	"math"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/niodoo/niodoo_exporter/collector"
	"github.com/niodoo/niodoo_exporter/internal/config"
	"github.com/niodoo/niodoo_exporter/internal/observe"
)

// look is what one collector found, twice where there was time.
type look struct {
	name        string
	first, last observe.Snapshot
	twice       bool
}

// leastTime is how much must be left for a second look to be worth it.
const leastTime = 100 * time.Millisecond

// lookAt runs every enabled collector on its own, so that each has the whole
// time and a slow one takes nothing from the others' rates.
func lookAt(ctx context.Context, cfg *config.Config, o Options) []look {
	ctx, cancel := context.WithTimeout(ctx, o.Budget)
	defer cancel()
	stack := observe.Open(cfg, o.Logger)
	var looks []look
	for _, name := range collector.Names() {
		if cfg.Enabled(name) {
			looks = append(looks, look{name: name})
		}
	}
	var all sync.WaitGroup
	for i := range looks {
		all.Go(func() { looks[i].take(ctx, stack, o.Pause) })
	}
	all.Wait()
	closed := make(chan struct{})
	go func() {
		stack.Close()
		close(closed)
	}()
	select { // a collector that hangs keeps nobody waiting
	case <-closed:
	case <-time.After(leastTime):
	}
	return looks
}

func (l *look) take(ctx context.Context, stack *observe.Stack, pause time.Duration) {
	names := []string{l.name}
	l.first = stack.Look(ctx, names)
	l.last = l.first
	if len(l.first.Failures) > 0 { // no rates come of it
		return
	}
	select {
	case <-ctx.Done():
		return
	case <-time.After(time.Until(l.first.At.Add(pause))):
	}
	if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) < leastTime {
		return
	}
	// The second has less time: that it does not make it says nothing.
	if second := stack.Look(ctx, names); !timedOut(second) {
		l.last, l.twice = second, true
	}
}

func timedOut(s observe.Snapshot) bool {
	return slices.ContainsFunc(s.Failures, func(f collector.Failed) bool { return f.Reason == collector.ReasonTimeout })
}

// snapshot is what all collectors found. Metrics are named without the prefix
// niodoo_, and labels given as name and value in turn.
type snapshot struct {
	cfg   *config.Config
	now   time.Time
	looks []look
}

// all returns the series of a metric that have these labels and a number.
func (s *snapshot) all(metric string, labels ...string) []observe.Series {
	var out []observe.Series
	for _, l := range s.looks {
		out = append(out, l.last.Series("niodoo_"+metric, labels...)...)
	}
	return slices.DeleteFunc(out, func(o observe.Series) bool { return math.IsNaN(o.Value) || math.IsInf(o.Value, 0) })
}

// one returns the value of a metric's first series.
func (s *snapshot) one(metric string, labels ...string) (float64, bool) {
	if p := s.all(metric, labels...); len(p) > 0 {
		return p[0].Value, true
	}
	return 0, false
}

// sum returns the sum over a metric's series.
func (s *snapshot) sum(metric string, labels ...string) (total float64, ok bool) {
	for _, p := range s.all(metric, labels...) {
		total += p.Value
		ok = true
	}
	return total, ok
}

// rate returns how much a counter grew per second between the two looks of the
// collector that has it.
func (s *snapshot) rate(metric string, labels ...string) (float64, bool) {
	for _, l := range s.looks {
		if v, ok := l.last.Rate(l.first, "niodoo_"+metric, labels...); ok && l.twice {
			return v, true
		}
	}
	return 0, false
}

// subject is what tells a series apart, in words.
func subject(labels map[string]string) string {
	var values []string
	for _, k := range slices.Sorted(maps.Keys(labels)) {
		if k != "component" {
			values = append(values, labels[k])
		}
	}
	return oneLine(strings.Join(values, ", "))
}

// oneLine makes a text that came from elsewhere fit for a line of a terminal.
func oneLine(s string) string {
	return strings.Join(strings.FieldsFunc(s, func(r rune) bool { return unicode.IsControl(r) || r == ' ' }), " ")
}

// Subject is what a check is of, where there are several: a path, a model.
func Subject(k Check) string { return subject(k.Labels) }
