// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

// Package maintenance runs the operations manual's maintenance as a declared
// plan: every step has a time limit and a result of its own, one failing step
// does not hide the others, and what loads the stack waits until it is well.
package maintenance

import (
	"context"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/niodoo/niodoo_exporter/internal/config"
)

// Plan is one of the manual's three.
type Plan string

// The plans.
const (
	Daily   Plan = "daily"
	Weekly  Plan = "weekly"
	Monthly Plan = "monthly"
)

// Plans lists them with how often each is due.
var Plans = []struct {
	Plan     Plan
	Interval time.Duration
}{{Daily, 24 * time.Hour}, {Weekly, 7 * 24 * time.Hour}, {Monthly, 31 * 24 * time.Hour}}

// Interval is how often a plan is due.
func (p Plan) Interval() time.Duration {
	for _, o := range Plans {
		if o.Plan == p {
			return o.Interval
		}
	}
	return 0
}

// Step is one step of a plan.
type Step struct {
	Name string
	Plan Plan
	// Does says for people what it does.
	Does string
	// Limit is how long it may take; maintenance.time_limits overrides it.
	Limit time.Duration
	// Loads says that it loads or changes the stack: it is skipped while that
	// is in trouble, and outside maintenance.window.
	Loads bool

	// command is the niodooctl command that does the work, with reportsWord in
	// it for the directory of the reports; without a command, own does it.
	command []string
	// finds says that the command looks at something: what it finds, be it bad,
	// is no failure of the step.
	finds bool
	// rotated adds the logs and those that were rotated within a day to the
	// command, where there are any: at night today's log has just begun.
	rotated bool
	// report is the name that the command's output is kept under, in Go's way
	// of writing dates; "" keeps it in the run's own output.
	report string
	// silent keeps the command's output nowhere.
	silent bool
	own    func(context.Context, *job) (outcome, error)
}

// reportsWord stands for the directory of the reports in a command.
const reportsWord = "{reports}"

// Steps is the whole plan, each plan's steps in their order.
var Steps = []Step{
	{Name: "health", Plan: Daily, Does: "check the health of the stack", Limit: 2 * time.Minute,
		command: healthCommand, finds: true},
	{Name: "log_analysis", Plan: Daily, Does: "analyse the last day's logs into a report file", Limit: 15 * time.Minute,
		command: []string{"logs", "analyze", "--since=24h", "--output=" + reportsWord}, finds: true, rotated: true},
	{Name: "report", Plan: Daily, Does: "write the performance report", Limit: 10 * time.Minute,
		command: []string{"report"}, finds: true, report: "performance_report_20060102.txt"},
	{Name: "capacity_sample", Plan: Daily, Does: "remember today's use for the capacity plan", Limit: 5 * time.Minute,
		command: []string{"capacity"}, finds: true, silent: true},
	{Name: "vacuum", Plan: Daily, Does: "VACUUM (ANALYZE) every table", Limit: time.Hour, Loads: true, own: vacuum},
	{Name: "log_retention", Plan: Daily, Does: "remove rotated logs, reports and closed incidents past their time", Limit: 10 * time.Minute, own: retention},

	{Name: "full_backup", Plan: Weekly, Does: "make a full backup and read it back", Limit: 3 * time.Hour,
		command: []string{"backup", "create", "--full", "--verify"}},
	{Name: "index_leftovers", Plan: Weekly, Does: "drop what broken-off index rebuilds left behind", Limit: 15 * time.Minute, Loads: true, own: leftovers},
	{Name: "analyze", Plan: Weekly, Does: "ANALYZE every table", Limit: time.Hour, Loads: true, own: analyze},
	{Name: "reindex", Plan: Weekly, Does: "rebuild the listed and the clearly bloated indexes", Limit: 2 * time.Hour, Loads: true, own: reindex},
	{Name: "drift", Plan: Weekly, Does: "report images and models that are others than last week", Limit: 5 * time.Minute, own: drift},

	{Name: "security_updates", Plan: Monthly, Does: "report the security updates there are", Limit: 5 * time.Minute, own: securityUpdates},
	{Name: "capacity", Plan: Monthly, Does: "plan the capacity", Limit: 10 * time.Minute,
		command: []string{"capacity"}, finds: true, report: "capacity_report_20060102.txt"},
	{Name: "drill", Plan: Monthly, Does: "restore the latest backup beside the stack and compare", Limit: 3 * time.Hour, Loads: true,
		command: []string{"backup", "drill"}},
	{Name: "doctor", Plan: Monthly, Does: "look for blind spots of the monitoring", Limit: 10 * time.Minute,
		command: []string{"doctor"}, finds: true, report: "doctor_report_20060102.txt"},
	{Name: "as_built", Plan: Monthly, Does: "write down how the stack is built, and what is new since last month", Limit: 10 * time.Minute, own: asBuilt},
}

// healthCommand tells whether the stack is in trouble.
var healthCommand = []string{"health"}

// Of returns a plan's steps.
func Of(p Plan) []Step {
	return slices.DeleteFunc(slices.Clone(Steps), func(s Step) bool { return s.Plan != p })
}

// Names returns the names of steps.
func Names(steps []Step) []string {
	names := make([]string, len(steps))
	for i, s := range steps {
		names[i] = s.Name
	}
	return names
}

// Command returns the words of the niodooctl command that the step runs, but for
// names of logs, and nil for a step that is no command.
func (s Step) Command(cfg *config.Config) []string {
	argv := slices.Clone(s.command)
	for i := range argv {
		argv[i] = strings.ReplaceAll(argv[i], reportsWord, Reports(cfg))
	}
	return argv
}

// limit is how long the step may take.
func (s Step) limit(cfg *config.Config) time.Duration {
	if l, ok := cfg.Maintenance.TimeLimits[s.Name]; ok {
		return time.Duration(l)
	}
	return s.Limit
}

// Reports is the directory that reports are written to.
func Reports(cfg *config.Config) string {
	if d := cfg.Maintenance.ReportDirectory; d != "" {
		return d
	}
	return filepath.Join(cfg.Operations.StateDir, "reports")
}
