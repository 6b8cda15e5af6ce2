// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package incident

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"github.com/prometheus/common/expfmt"

	"github.com/niodoo/niodoo_exporter/collector"
	"github.com/niodoo/niodoo_exporter/internal/config"
	"github.com/niodoo/niodoo_exporter/internal/health"
	"github.com/niodoo/niodoo_exporter/internal/observe"
	"github.com/niodoo/niodoo_exporter/internal/opstate"
	"github.com/niodoo/niodoo_exporter/internal/thresholds"
)

// Health is how the components are, as far as actions depend on it.
type Health struct {
	// Well says that every required component is up and ready.
	Well    bool            `json:"well"`
	Verdict opstate.Verdict `json:"verdict"`
	// Down are the required components that fail their health check.
	Down []string `json:"down"`
	// Unsure are the required ones that are not ready or could not be looked at.
	Unsure []string `json:"unsure,omitempty"`
}

// Summary is one line for people.
func (h Health) Summary() string {
	switch {
	case len(h.Down) > 0:
		return "down: " + strings.Join(h.Down, ", ")
	case len(h.Unsure) > 0:
		return "not ready, or could not be looked at: " + strings.Join(h.Unsure, ", ")
	}
	return "every required component is up"
}

func healthOf(r *health.Report) Health {
	h := Health{Verdict: r.Verdict, Down: []string{}}
	for _, c := range r.Components {
		if c.Local || !c.Required {
			continue
		}
		switch c.State {
		case health.Down:
			h.Down = append(h.Down, c.Name)
		case health.NotReady, health.Broken:
			h.Unsure = append(h.Unsure, c.Name)
		}
	}
	h.Well = len(h.Down)+len(h.Unsure) == 0
	return h
}

// budget is the time for a look: as much as the exporter's, since what is slow
// is not down, but a little less than is left of ctx.
func budget(ctx context.Context) time.Duration {
	if d, ok := ctx.Deadline(); ok {
		return min(collector.DefaultTimeout, time.Until(d)*9/10)
	}
	return collector.DefaultTimeout
}

func runHealth(ctx context.Context, cfg *config.Config, set thresholds.Set, now func() time.Time) (*health.Report, error) {
	return health.Run(ctx, cfg, set, health.Options{Budget: budget(ctx), Now: now})
}

// CheckHealth looks at every component. The error is that of ctx.
func CheckHealth(ctx context.Context, cfg *config.Config, set thresholds.Set, now func() time.Time) (Health, error) {
	r, err := runHealth(ctx, cfg, set, now)
	if err != nil {
		return Health{}, err
	}
	return healthOf(r), nil
}

// report returns the health report that several pieces share.
func (l *look) report(ctx context.Context) (*health.Report, error) {
	l.once.Do(func() {
		l.health, l.healthErr = runHealth(ctx, l.Config, l.Thresholds, l.Now)
		if l.healthErr == nil {
			l.looked.Store(l.health)
		}
	})
	return l.health, l.healthErr
}

// found returns the health, nil if it was not found out in time.
func (l *look) found() *Health {
	r := l.looked.Load()
	if r == nil {
		return nil
	}
	h := healthOf(r)
	return &h
}

func (l *look) components(ctx context.Context) ([]byte, error) {
	r, err := l.report(ctx)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s: %s\n", r.Verdict, healthOf(r).Summary())
	t := tabwriter.NewWriter(&b, 0, 8, 2, ' ', 0)
	for _, c := range r.Components {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\n", c.Name, c.VerdictText(), c.State, c.Reason, oneLine(cmp.Or(c.Error, strings.Join(c.Why, "; "))))
	}
	_ = t.Flush()
	return b.Bytes(), nil
}

func (l *look) kpis(ctx context.Context) ([]byte, error) {
	r, err := l.report(ctx)
	if err != nil {
		return nil, err
	}
	if len(r.Checks) == 0 {
		return nil, notLookedAt("nothing that is compared with a threshold is reported")
	}
	var b bytes.Buffer
	t := tabwriter.NewWriter(&b, 0, 8, 2, ' ', 0)
	for _, c := range r.Checks {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", c.Verdict, c.Component, c.Name, oneLine(c.Text))
	}
	_ = t.Flush()
	if len(r.NotReported) > 0 {
		fmt.Fprintf(&b, "not reported: %s\n", strings.Join(slices.Sorted(slices.Values(r.NotReported)), ", "))
	}
	return b.Bytes(), nil
}

// metrics is what the exporter would expose.
func (l *look) metrics(ctx context.Context) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, budget(ctx))
	defer cancel()
	stack := observe.Open(l.Config, slog.New(slog.DiscardHandler))
	defer func() { go stack.Close() }() // a collector that hangs may take its time
	var b bytes.Buffer
	var errs []error
	for _, f := range stack.Look(ctx, nil).Families() {
		_, err := expfmt.MetricFamilyToText(&b, f)
		errs = append(errs, err)
	}
	return b.Bytes(), errors.Join(errs...)
}

// oneLine puts a text into one line, without what would move a terminal's cursor.
func oneLine(s string) string {
	return strings.Join(strings.FieldsFunc(s, func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) }), " ")
}
