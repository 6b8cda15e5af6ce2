// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

// Package doctor finds the blind spots of the monitoring: what nobody watches,
// what cannot alert, what alerts nobody, and what the configuration files of
// the stack say that cannot be meant. It changes nothing.
package doctor

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"github.com/niodoo/niodoo_exporter/internal/config"
	"github.com/niodoo/niodoo_exporter/internal/observe"
	"github.com/niodoo/niodoo_exporter/internal/opstate"
	"github.com/niodoo/niodoo_exporter/internal/promapi"
	"github.com/niodoo/niodoo_exporter/internal/thresholds"
)

// Level says how bad a finding is.
type Level string

// The levels. A note may well be wanted as it is.
const (
	Note    Level = "note"
	Warning Level = "warning"
	Failing Level = "failing"
)

var levels = []Level{Note, Warning, Failing}

// Finding is one blind spot.
type Finding struct {
	Check string `json:"check"`
	Level Level  `json:"level"`
	// Where names the file and line, the server or the series.
	Where string `json:"where"`
	What  string `json:"what"`
	Why   string `json:"why"`
	Mend  string `json:"mend"`
}

// Skipped is what could not be looked at.
type Skipped struct {
	Check string `json:"check"`
	Why   string `json:"why"`
	// Expected says that it should have been possible.
	Expected bool `json:"expected"`
}

// Report is all that was found.
type Report struct {
	Generated time.Time       `json:"generated"`
	Verdict   opstate.Verdict `json:"verdict"`
	// Checks are the names of those that ran to their end.
	Checks      []string  `json:"checks"`
	Findings    []Finding `json:"findings"`
	NotLookedAt []Skipped `json:"not_looked_at"`
}

// Options say what to look at.
type Options struct {
	Config     *config.Config
	Thresholds thresholds.Set
	Snapshot   observe.Snapshot
	// Files are read beside what the servers say; "" are none. Engine and Compose
	// are globs whose defaults need not match anything.
	AlertmanagerFile, PrometheusFile string
	EngineFiles, ComposeFiles        []string
	// Listening returns the TCP ports that something listens on; nil reads /proc.
	Listening func() ([]int, error)
	Now       time.Time
}

// patient is what the checks look at. What several of them need is fetched once.
type patient struct {
	Options
	prom  *promapi.Client
	rules func(context.Context) ([]rule, error)
	parse func(context.Context, string) (*node, error)
	am    func(context.Context) (routing, error)
	pc    func(context.Context) (prometheusConfig, error)
}

// check is one thing to look at. What it returns with an error is found all the same.
type check struct {
	name, title string
	run         func(context.Context, *patient) ([]Finding, error)
}

// checks are all of them, in the order of the report.
var checks = []check{
	{"collectors", "Collectors that see nothing", collectorsCheck},
	{"endpoints", "Services that listen here and nobody watches", endpointsCheck},
	{"mounts", "Filesystems that nobody watches", mountsCheck},
	{"containers", "Containers that nobody watches", containersCheck},
	{"databases", "Databases that nobody watches", databasesCheck},
	{"collections", "Collections that nobody watches", collectionsCheck},
	{"state", "What niodooctl leaves behind", stateCheck},
	{"targets", "Whether Prometheus scrapes the exporter", targetsCheck},
	{"prometheus", "Prometheus' configuration", prometheusCheck},
	{"rules", "Whether the rules are loaded and work", rulesCheck},
	{"no-data", "Alert rules that have no data now", noDataCheck},
	{"retention", "Retention shorter than a rule's window", retentionCheck},
	{"thresholds", "Thresholds of the loaded rules", thresholdsCheck},
	{"alertmanager", "Alertmanager's configuration", alertmanagerCheck},
	{"routing", "Alerts that no receiver gets", routingCheck},
	{"engine", "The engine's configuration", engineCheck},
	{"compose", "The compose files", composeCheck},
}

// Titles returns what each check looks at, by its name.
func Titles() map[string]string {
	t := map[string]string{}
	for _, c := range checks {
		t[c.name] = c.title
	}
	return t
}

// notExpected marks why a check had nothing to look at, where that is how the
// stack is set up.
type notExpected struct{ error }

// Examine runs every check. progress is told before each.
func Examine(ctx context.Context, o Options, progress func()) (*Report, error) {
	p := &patient{Options: o}
	p.fetchers()
	r := &Report{Generated: o.Now, Checks: []string{}, Findings: []Finding{}, NotLookedAt: []Skipped{}}
	for _, c := range checks {
		progress()
		found, err := c.run(ctx, p)
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		for i := range found {
			found[i].Check = c.name
		}
		r.Findings = append(r.Findings, found...)
		if err == nil {
			r.Checks = append(r.Checks, c.name)
		}
		for _, err := range flatten(err) {
			_, setUp := errors.AsType[notExpected](err)
			r.NotLookedAt = append(r.NotLookedAt, Skipped{c.name, err.Error(), !setUp})
		}
	}
	slices.SortStableFunc(r.Findings, func(a, b Finding) int {
		return cmp.Compare(slices.Index(levels, b.Level), slices.Index(levels, a.Level))
	})
	r.Verdict = r.verdict()
	return r, nil
}

// flatten returns the errors that were joined.
func flatten(err error) []error {
	if err == nil {
		return nil
	}
	if all, ok := err.(interface{ Unwrap() []error }); ok {
		return all.Unwrap()
	}
	return []error{err}
}

// verdict is the worst of the findings; what could not be looked at is not well.
func (r *Report) verdict() opstate.Verdict {
	worst := opstate.Well
	if slices.ContainsFunc(r.NotLookedAt, func(s Skipped) bool { return s.Expected }) || len(r.Checks) == 0 {
		worst = opstate.Unknown
	}
	for _, f := range r.Findings {
		switch f.Level {
		case Failing:
			return opstate.Failing
		case Warning:
			worst = opstate.Warning
		}
	}
	return worst
}

// once remembers what f returns.
func once[T any](f func(context.Context) (T, error)) func(context.Context) (T, error) {
	var done bool
	var v T
	var err error
	return func(ctx context.Context) (T, error) {
		if !done {
			v, err = f(ctx)
			done = true
		}
		return v, err
	}
}
