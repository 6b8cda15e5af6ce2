// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package capacity

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/niodoo/niodoo_exporter/internal/humanize"
	"github.com/niodoo/niodoo_exporter/internal/observe"
	"github.com/niodoo/niodoo_exporter/internal/opstate"
	"github.com/niodoo/niodoo_exporter/internal/promapi"
	"github.com/niodoo/niodoo_exporter/internal/thresholds"
)

// soon is how near a limit must be to be a failure and not a matter of planning.
const soon = 7 * day

// Options say what is wanted.
type Options struct {
	// Prometheus is asked for the history; nil takes niodooctl's own.
	Prometheus *promapi.Client
	// Selector chooses the series in Prometheus, as in job="niodoo".
	Selector string
	// StateDir holds niodooctl's own history.
	StateDir string
	// Enabled reports whether a collector is.
	Enabled func(collector string) bool
	// History is how far to look back, Horizon how far ahead.
	History, Horizon time.Duration
	// Growth is a what-if: 0.2 is a fifth more than today's load, and what is
	// stored growing a fifth faster.
	Growth float64
	// Limits are limits by the name of a resource, instead of those found out.
	Limits     map[string]float64
	Thresholds thresholds.Set
	Now        time.Time
}

// Report is what there is to say.
type Report struct {
	Generated time.Time `json:"generated"`
	// Source is "prometheus" or "own history".
	Source string `json:"source"`
	// Detail says which, and how much history it has.
	Detail      string          `json:"source_detail"`
	HistoryDays int             `json:"history_days"`
	Until       time.Time       `json:"horizon"`
	HorizonDays float64         `json:"horizon_days"`
	Growth      float64         `json:"growth"`
	Verdict     opstate.Verdict `json:"verdict"`
	Resources   []Resource      `json:"resources"`
	NotLookedAt []NotLookedAt   `json:"not_looked_at"`
}

// NotLookedAt is what nothing could be said about.
type NotLookedAt struct {
	What string `json:"what"`
	Why  string `json:"why"`
	// Expected says that it should have been possible.
	Expected bool `json:"expected"`
}

// Resource is one series of one resource.
type Resource struct {
	Name   string            `json:"name"`
	Series string            `json:"series,omitempty"`
	Labels map[string]string `json:"labels,omitempty"`
	Unit   string            `json:"unit"`
	// Use is what is in use now. It is missing of a counter that was seen once.
	Use *float64 `json:"use"`
	// WhatIf is what would be in use now with Growth, of what follows the load.
	WhatIf *float64 `json:"what_if,omitempty"`
	Peak   *float64 `json:"peak_7d,omitempty"`
	Limit  *float64 `json:"limit,omitempty"`
	Trend  Trend    `json:"trend"`
	// Forecast is the use at the horizon, where there is a trend.
	Forecast *Range          `json:"forecast,omitempty"`
	Marks    []Mark          `json:"marks"`
	Verdict  opstate.Verdict `json:"verdict"`
	Advice   string          `json:"advice,omitempty"`
}

// Mark is a use that matters, and when it is reached.
type Mark struct {
	// Name is "advice", where planning should begin, or "full".
	Name string `json:"name"`
	// At is the use, Share of the limit.
	At    float64 `json:"at"`
	Share float64 `json:"share"`
	// Reached says that it is reached now.
	Reached bool `json:"reached"`
	// Expected is when; with 90 % certainty not before Earliest and not after
	// Latest. Each is missing where it is beyond the horizon.
	Earliest time.Time `json:"earliest,omitzero"`
	Expected time.Time `json:"expected,omitzero"`
	Latest   time.Time `json:"latest,omitzero"`
}

// Analyse looks at every resource. before and now are what two looks at the
// stack say, shortly after each other.
func Analyse(ctx context.Context, o Options, before, now observe.Snapshot) (*Report, error) {
	rep := &Report{Generated: o.Now, Until: o.Now.Add(o.Horizon), HorizonDays: o.Horizon.Hours() / 24, Growth: o.Growth,
		Resources: []Resource{}, NotLookedAt: []NotLookedAt{}}
	err := o.describe(ctx, rep)
	if err != nil {
		return nil, err
	}
	var own opstate.Capacity
	if o.Prometheus == nil {
		if own, err = ownHistory(o.StateDir); err != nil {
			return nil, err
		}
	}
	for _, r := range resources {
		var tracks []track
		leftOut := 0
		if o.Prometheus != nil {
			if tracks, leftOut, err = fromPrometheus(ctx, o.Prometheus, r, o.Selector, o.Now, o.History); err != nil {
				return nil, err
			}
		} else {
			tracks = fromOwn(own, r, before, now)
		}
		for _, t := range tracks {
			rep.Resources = append(rep.Resources, o.assess(r, t))
		}
		if len(tracks) == 0 {
			rep.NotLookedAt = append(rep.NotLookedAt, o.missing(r, now))
		}
		if leftOut > 0 {
			rep.NotLookedAt = append(rep.NotLookedAt, NotLookedAt{fmt.Sprintf("%d more series of %s", leftOut, r.name),
				fmt.Sprintf("at most %d are looked at; narrow --selector", maxTracks), true})
		}
	}
	for _, r := range rep.Resources {
		rep.HistoryDays = max(rep.HistoryDays, r.Trend.Days)
	}
	rep.Verdict = verdict(rep)
	return rep, nil
}

// describe says where the history came from.
func (o Options) describe(ctx context.Context, rep *Report) error {
	if o.Prometheus == nil {
		rep.Source, rep.Detail = "own history", opstate.Path[opstate.Capacity](o.StateDir)
		return nil
	}
	rep.Source, rep.Detail = "prometheus", o.Prometheus.URL()
	kept, err := o.Prometheus.Retention(ctx)
	if err != nil {
		return err
	}
	if kept > 0 {
		rep.Detail += ", which keeps " + humanize.Duration(kept)
	}
	return nil
}

// missing says why there is nothing about a resource.
func (o Options) missing(r resource, now observe.Snapshot) NotLookedAt {
	n := NotLookedAt{What: r.name}
	f := now.Failed(r.collector)
	switch {
	case !o.Enabled(r.collector):
		n.Why = "the collector " + r.collector + " is not enabled"
	case f != nil:
		n.Why, n.Expected = fmt.Sprintf("the collector %s failed (%s): %v", r.collector, f.Reason, f.Err), true
	case r.collector == "host":
		n.Why, n.Expected = "nothing reports it", true
	case o.Prometheus != nil:
		n.Why = "Prometheus has no data for it with {" + o.Selector + "}"
	case r.read == nil:
		n.Why = "only Prometheus can tell: niodooctl does not watch all the time"
	default:
		n.Why = "nothing reports it"
	}
	if o.Prometheus != nil && r.collector == "host" {
		n.Why = "Prometheus has no data for it with {" + o.Selector + "}"
	}
	return n
}

// assess says all about one series.
func (o Options) assess(r resource, t track) Resource {
	out := Resource{Name: r.name, Series: name(r.label, t.labels), Labels: t.labels, Unit: r.unit, Trend: Fit(t.points),
		Marks: []Mark{}, Verdict: opstate.Well}
	if !math.IsNaN(t.now) {
		out.Use = &t.now
		if r.load && o.Growth != 0 {
			out.WhatIf = new(t.now * (1 + o.Growth))
		}
	}
	if !math.IsNaN(t.peak) {
		out.Peak = &t.peak
	}
	limit := cmp.Or(t.limit, r.ceiling)
	if l, ok := o.Limits[r.name]; ok {
		limit = l
	}
	if out.Trend.line() {
		out.Forecast = new(o.at(r, out.Trend, o.Now.Add(o.Horizon)))
	}
	if limit > 0 {
		out.Limit = &limit
		out.Marks = o.marks(r, &out, limit)
	}
	out.judge(r, o)
	return out
}

// at forecasts the use at a time with the what-if.
func (o Options) at(r resource, t Trend, at time.Time) Range {
	f := t.At(at, o.Growth)
	if r.load {
		more := t.level * o.Growth
		f.Value, f.Low, f.High = f.Value+more, f.Low+more, f.High+more
	}
	return f
}

// marks returns the uses that matter.
func (o Options) marks(r resource, out *Resource, limit float64) []Mark {
	var marks []Mark
	if t, ok := o.Thresholds[r.threshold]; ok {
		if share := t.Capacity; share != nil {
			marks = append(marks, Mark{Name: "advice", Share: *share})
		} else if t.Warning != nil {
			marks = append(marks, Mark{Name: "advice", Share: *t.Warning})
		}
	}
	marks = append(marks, Mark{Name: "full", Share: 1})
	for i := range marks {
		m := &marks[i]
		m.At = m.Share * limit
		use := out.typical(r)
		if r.load {
			use *= 1 + o.Growth
		}
		m.Reached = use >= m.At
		if m.Reached || out.Trend.Answer != Growing {
			continue // without growth there is no date
		}
		for d := time.Duration(0); d <= o.Horizon; d += day {
			at := o.Now.Add(d)
			f := o.at(r, out.Trend, at)
			note(&m.Earliest, at, f.High >= m.At)
			note(&m.Expected, at, f.Value >= m.At)
			note(&m.Latest, at, f.Low >= m.At)
		}
	}
	return marks
}

// typical is the use that is held against the limits: of load that of the last
// day, since every processor is busy for a moment now and then.
func (r *Resource) typical(of resource) float64 {
	switch {
	case of.load && r.Trend.Days > 0:
		return r.Trend.level
	case r.Use != nil:
		return *r.Use
	}
	return math.Inf(-1)
}

// note keeps the first time that something holds.
func note(first *time.Time, at time.Time, holds bool) {
	if holds && first.IsZero() {
		*first = at
	}
}

// line reports whether there is a line to forecast with.
func (t Trend) line() bool {
	return t.Answer == Growing || t.Answer == Shrinking || t.Answer == NoGrowth
}

// judge turns the marks into a verdict and an advice.
func (r *Resource) judge(of resource, o Options) {
	title := r.Title()
	var says []string
	for _, m := range r.Marks {
		near := m.Reached || !m.Expected.IsZero() && m.Expected.Sub(o.Now) <= soon
		momentary := of.load && r.Trend.Days == 0
		switch {
		case m.Name == "full" && near && !momentary:
			r.Verdict = opstate.Failing
		case m.Reached || !m.Expected.IsZero():
			r.Verdict = worse(r.Verdict, opstate.Warning)
		default:
			continue
		}
		what := "the " + humanize.Value(humanize.Ratio, m.Share) + " at which planning should begin"
		if m.Name == "full" {
			what = "its limit of " + humanize.Value(r.Unit, m.At)
		}
		if m.Reached {
			says = append(says, "is beyond "+what)
		} else {
			says = append(says, "reaches "+what+" about "+m.When())
		}
	}
	if len(says) > 0 {
		r.Advice = title + " " + strings.Join(says, " and ") + ": " + of.mend + "."
	}
}

// Title is the resource's name with the series'.
func (r Resource) Title() string { return strings.TrimSpace(r.Name + " " + r.Series) }

// When says when a mark is reached: the date and between which dates.
func (m Mark) When() string {
	const layout = "2006-01-02"
	if m.Reached {
		return "now"
	}
	if m.Expected.IsZero() {
		if m.Earliest.IsZero() {
			return ""
		}
		return "not before " + m.Earliest.Format(layout)
	}
	latest := "beyond"
	if !m.Latest.IsZero() {
		latest = m.Latest.Format(layout)
	}
	return m.Expected.Format(layout) + " (" + m.Earliest.Format(layout) + " .. " + latest + ")"
}

// severity orders the verdicts: what is known to fail outweighs what is not
// known, and that what is well.
var severity = map[opstate.Verdict]int{opstate.Well: 0, opstate.Unknown: 1, opstate.Warning: 2, opstate.Failing: 3}

func worse(a, b opstate.Verdict) opstate.Verdict {
	if severity[b] > severity[a] {
		return b
	}
	return a
}

func verdict(rep *Report) opstate.Verdict {
	v := opstate.Well
	if len(rep.Resources) == 0 {
		v = opstate.Unknown
	}
	for _, n := range rep.NotLookedAt {
		if n.Expected {
			v = worse(v, opstate.Unknown)
		}
	}
	for _, r := range rep.Resources {
		v = worse(v, r.Verdict)
	}
	return v
}
