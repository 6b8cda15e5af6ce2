// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

// Package health looks at a whole stack once: it runs the exporter's own
// collectors, compares what they find with the thresholds, and says of each
// component and of the whole how it is. What could not be looked at is unknown,
// never well.
package health

import (
	"cmp"
	"context"
	"log/slog"
	"slices"
	"time"

	"github.com/niodoo/niodoo_exporter/collector"
	"github.com/niodoo/niodoo_exporter/internal/config"
	"github.com/niodoo/niodoo_exporter/internal/opstate"
	"github.com/niodoo/niodoo_exporter/internal/thresholds"
)

// Defaults of [Options].
const (
	DefaultBudget = 2600 * time.Millisecond
	DefaultPause  = time.Second
)

// Options are how long a look may take. The zero value is for a person who waits.
type Options struct {
	// Budget is for all of it: what has not answered by then is a timeout.
	Budget time.Duration
	// Pause is the least time between the two samples that rates come from.
	Pause time.Duration
	// Logger gets what collectors log; nil is nobody.
	Logger *slog.Logger
	// Now is the clock; nil is the real one.
	Now func() time.Time
}

// State says in a word what was found of a component.
type State string

// The states.
const (
	Up       State = "up"        // passes its health check
	NotReady State = "not_ready" // passes it and is not ready for work
	Down     State = "down"      // fails it
	Absent   State = "absent"    // fails it, and nobody requires it; counts for nothing
	Unread   State = "unread"    // it answers, and would not tell us all
	Broken   State = "unchecked" // we could not look, by a fault of our own
	Read     State = "read"      // of this machine: all that is to be read was
	Idle     State = "idle"      // of this machine: nothing is there to be read
)

// States lists the closed set.
var States = []State{Up, NotReady, Down, Absent, Unread, Broken, Read, Idle}

// Report is what was found. Its fields are the output of `niodooctl health -o
// json`, described in docs/health.schema.json; fields are only ever added.
type Report struct {
	Started time.Time `json:"started"`
	// Seconds is how long it took.
	Seconds    float64         `json:"duration_seconds"`
	Verdict    opstate.Verdict `json:"verdict"`
	Components []Component     `json:"components"`
	// Checks are all values that were compared with something.
	Checks []Check `json:"checks"`
	// NotReported are the KPIs that components which are up do not report.
	NotReported []string `json:"not_reported"`
	// Findings are about the set-up; they do not count for the verdict.
	Findings []Finding `json:"findings"`
}

// Component is one component of the stack, or one part of this machine.
type Component struct {
	// Name is the collector's and the section's in the configuration.
	Name string `json:"name"`
	// Role is its part in the operations manual's architecture.
	Role     string          `json:"role"`
	Local    bool            `json:"local"`
	Required bool            `json:"required"`
	State    State           `json:"state"`
	Verdict  opstate.Verdict `json:"verdict"`
	// Response is how long the health request took, in seconds.
	Response *float64 `json:"response_seconds,omitempty"`
	Version  string   `json:"version,omitempty"`
	// Figure is the one that matters most.
	Figure *Figure `json:"figure,omitempty"`
	// Reason is of the exporter's closed set, Error the text to it.
	Reason string `json:"reason,omitempty"`
	Error  string `json:"error,omitempty"`
	// Why says in words what is not well, worst first.
	Why []string `json:"why,omitempty"`
}

// Figure is a number and what it is.
type Figure struct {
	What  string  `json:"what"`
	Value float64 `json:"value"`
	Unit  string  `json:"unit"`
	Text  string  `json:"text"`
}

// Check is a value and what it was compared with.
type Check struct {
	Component string `json:"component"`
	// Name is the threshold's, or of a check without one the alert's.
	Name string `json:"name"`
	What string `json:"what"`
	// Labels tell apart what has several values: a path, a model.
	Labels map[string]string `json:"labels,omitempty"`
	Value  float64           `json:"value"`
	Unit   string            `json:"unit,omitempty"`
	// Direction is the side of a limit that is bad: above or below.
	Direction string   `json:"direction,omitempty"`
	Target    *float64 `json:"target,omitempty"`
	Warning   *float64 `json:"warning,omitempty"`
	Critical  *float64 `json:"critical,omitempty"`
	// OnTarget is missing where there is no target.
	OnTarget *bool `json:"on_target,omitempty"`
	// Judged is false for a value that is only shown.
	Judged  bool            `json:"judged"`
	Verdict opstate.Verdict `json:"verdict"`
	// Text is the value and its limit in words.
	Text string `json:"text"`
	// Alert is the rules' name for it, while it is not well.
	Alert string `json:"alert,omitempty"`

	wait time.Duration // for how long the rules want to see it
}

// Finding is something about the set-up that will hurt one day, and the mend.
type Finding struct {
	Component string `json:"component"`
	Text      string `json:"text"`
	Mend      string `json:"mend"`
}

// worst orders verdicts: what could not be checked may be failing.
var worst = []opstate.Verdict{opstate.Well, opstate.Warning, opstate.Unknown, opstate.Failing}

// Worse reports whether verdict a is worse than b.
func Worse(a, b opstate.Verdict) bool { return slices.Index(worst, a) > slices.Index(worst, b) }

func worseOf(a, b opstate.Verdict) opstate.Verdict {
	if Worse(a, b) {
		return a
	}
	return b
}

// Run looks at every component that the configuration enables. The error is
// that of ctx; whatever else goes wrong is in the report.
func Run(ctx context.Context, cfg *config.Config, limits thresholds.Set, o Options) (*Report, error) {
	o.Budget = cmp.Or(o.Budget, DefaultBudget)
	o.Pause = cmp.Or(o.Pause, DefaultPause)
	if o.Now == nil {
		o.Now = time.Now
	}
	started := time.Now()
	r := &Report{Started: o.Now(), Verdict: opstate.Well, Components: []Component{}, Checks: []Check{}, NotReported: []string{}}
	looks := lookAt(ctx, cfg, o)
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s := &snapshot{cfg: cfg, now: o.Now(), looks: looks}
	for _, l := range looks {
		r.Components = append(r.Components, s.component(l))
	}
	for _, k := range kpis {
		s.compare(r, k, limits[k.threshold])
	}
	for _, c := range conditions {
		s.examine(r, c)
	}
	slices.SortStableFunc(r.Checks, func(a, b Check) int {
		return cmp.Or(cmp.Compare(order(a.Component), order(b.Component)), cmp.Compare(a.Name, b.Name))
	})
	r.conclude()
	r.Findings = s.findings(r)
	r.Seconds = time.Since(started).Seconds()
	return r, nil
}

// order is a component's place in the configuration.
func order(name string) int { return slices.Index(collector.Names(), name) }

// conclude gives every component the worst of its checks, and the whole the
// worst of its components. Nothing to look at is not well.
func (r *Report) conclude() {
	if len(r.Document().Components) == 0 {
		r.Verdict = opstate.Unknown
	}
	for i := range r.Components {
		c := &r.Components[i]
		var bad []Check
		for _, k := range r.Checks {
			if k.Component == c.Name && k.Verdict != opstate.Well {
				bad = append(bad, k)
			}
		}
		slices.SortStableFunc(bad, func(a, b Check) int {
			return cmp.Compare(slices.Index(worst, b.Verdict), slices.Index(worst, a.Verdict))
		})
		for _, k := range bad {
			c.Verdict = worseOf(k.Verdict, c.Verdict)
			c.Why = append(c.Why, k.Text)
		}
		r.Verdict = worseOf(c.Verdict, r.Verdict)
	}
}

// Component returns the component of that name, nil if it is not enabled.
func (r *Report) Component(name string) *Component {
	for i := range r.Components {
		if r.Components[i].Name == name {
			return &r.Components[i]
		}
	}
	return nil
}

// Document is the report as it is kept for the exporter. What is absent or idle
// has no verdict there: nobody looked at anything.
func (r *Report) Document() opstate.Health {
	d := opstate.Health{Finished: r.Started.Add(time.Duration(r.Seconds * float64(time.Second))), Seconds: r.Seconds, Verdict: r.Verdict,
		Components: map[string]opstate.Verdict{}}
	for _, c := range r.Components {
		if c.State != Absent && c.State != Idle {
			d.Components[c.Name] = c.Verdict
		}
	}
	return d
}
