// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

// Package incident handles incidents as the operations manual has them:
// evidence before action, one action at a time, every result checked.
//
// Each incident is a directory below operations.state_dir/incidents:
//
//	INC-20261124-020000/timeline.jsonl   what happened, one line each, appended and synced
//	INC-20261124-020000/evidence/        what was found when it was opened
//
// The timeline is the truth. The index (see [opstate.Incidents]) is brought
// into line with it by [Store.Reconcile], whatever was killed in between.
package incident

import (
	"time"

	"github.com/niodoo/niodoo_exporter/internal/opstate"
	"github.com/niodoo/niodoo_exporter/internal/thresholds"
)

// Plan is what the manual has for a priority.
type Plan struct {
	Priority opstate.Priority
	// Means and Escalation are the manual's words.
	Means, Escalation string
	// Response is the time in which someone takes the incident on.
	Response time.Duration
	// Restarts says that what is configured may be restarted.
	Restarts bool
	// EscalateAt is when an incident that is still open is handed on.
	EscalateAt func(opened time.Time) time.Time
}

const (
	// businessDayStart is the hour at which a business day begins, in local time.
	businessDayStart = 9
	// sprint is how long a sprint is taken to be.
	sprint = 14 * 24 * time.Hour
)

// plans is the manual's table of severity levels.
var plans = []struct {
	Plan
	threshold string
}{
	{Plan{Priority: "P1", Means: "System Down", Escalation: "Immediate", Restarts: true,
		EscalateAt: func(t time.Time) time.Time { return t }}, "incident_p1_ack_seconds"},
	{Plan{Priority: "P2", Means: "Performance Degradation", Escalation: "Within 4 hours", Restarts: true,
		EscalateAt: func(t time.Time) time.Time { return t.Add(4 * time.Hour) }}, "incident_p2_ack_seconds"},
	{Plan{Priority: "P3", Means: "Minor Issues", Escalation: "Next business day",
		EscalateAt: nextBusinessDay}, "incident_p3_ack_seconds"},
	{Plan{Priority: "P4", Means: "Enhancement Requests", Escalation: "Next sprint",
		EscalateAt: func(t time.Time) time.Time { return t.Add(sprint) }}, "incident_p4_ack_seconds"},
}

// PlanOf returns the plan of a priority. It panics for one that is not in the
// closed set.
func PlanOf(p opstate.Priority, set thresholds.Set) Plan {
	for _, e := range plans {
		if e.Priority == p {
			plan := e.Plan
			if w := set[e.threshold].Warning; w != nil {
				plan.Response = time.Duration(*w * float64(time.Second))
			}
			return plan
		}
	}
	panic("incident: no plan for " + string(p))
}

// nextBusinessDay returns the beginning of the next day from Monday to Friday,
// in local time.
func nextBusinessDay(t time.Time) time.Time {
	t = t.Local()
	for day := 1; ; day++ {
		d := time.Date(t.Year(), t.Month(), t.Day()+day, businessDayStart, 0, 0, 0, t.Location())
		if w := d.Weekday(); w != time.Saturday && w != time.Sunday {
			return d
		}
	}
}
