// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package incident

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/niodoo/niodoo_exporter/internal/humanize"
	"github.com/niodoo/niodoo_exporter/internal/opstate"
	"github.com/niodoo/niodoo_exporter/internal/thresholds"
)

// Report is an incident with its durations against the targets.
type Report struct {
	ID       string           `json:"id"`
	Priority opstate.Priority `json:"priority"`
	Means    string           `json:"means"`
	Title    string           `json:"title"`
	Follows  string           `json:"follows,omitempty"`
	Opened   time.Time        `json:"opened"`
	// Acknowledged is zero while nobody has taken it on.
	Acknowledged time.Time `json:"acknowledged,omitzero"`
	// Ended is zero while it is open.
	Ended time.Time `json:"closed,omitzero"`
	// Response is the time until someone took it on, or until now.
	Response       float64 `json:"response_seconds"`
	ResponseTarget float64 `json:"response_target_seconds"`
	// ResponseMissed says that the target is, or can only be, missed.
	ResponseMissed bool `json:"response_missed"`
	// Resolution is the time until it was over, or until now.
	Resolution float64   `json:"resolution_seconds"`
	Escalation string    `json:"escalation"`
	EscalateBy time.Time `json:"escalate_by"`
	Escalated  time.Time `json:"escalated,omitzero"`
	// Alerts are the alerts of the incident as they were last known.
	Alerts   []Event   `json:"alerts,omitempty"`
	Evidence *Evidence `json:"evidence,omitempty"`
	// Directory is where the evidence is.
	Directory string  `json:"directory,omitempty"`
	Timeline  []Entry `json:"timeline,omitempty"`
}

// Brief returns what the index tells of an incident.
func Brief(in opstate.Incident, set thresholds.Set, now time.Time) Report {
	plan := PlanOf(in.Priority, set)
	r := Report{ID: in.ID, Priority: in.Priority, Means: plan.Means, Title: in.Title, Opened: in.Opened, Acknowledged: in.Acknowledged, Ended: in.Ended,
		ResponseTarget: plan.Response.Seconds(), Escalation: plan.Escalation, EscalateBy: plan.EscalateAt(in.Opened).UTC()}
	r.Response = since(in.Opened, in.Acknowledged, in.Ended, now)
	r.Resolution = since(in.Opened, in.Ended, now)
	r.ResponseMissed = r.Response > r.ResponseTarget
	return r
}

// Report returns what a timeline and the evidence tell of an incident.
func (s Store) Report(id string, set thresholds.Set, now time.Time) (Report, error) {
	entries, err := s.Timeline(id)
	if err != nil {
		return Report{}, err
	}
	in := incidentOf(id, entries[0])
	var escalated time.Time
	alerts := map[string]Event{}
	for _, e := range entries {
		switch {
		case e.Kind == KindAcknowledged && in.Acknowledged.IsZero():
			in.Acknowledged = e.At
		case e.Kind == KindEscalated && escalated.IsZero() && (e.Well == nil || *e.Well):
			escalated = e.At
		case e.Kind == KindClosed:
			in.Ended = e.Ended
		case e.Kind == KindAlert && e.Alert != nil:
			alerts[e.Alert.Fingerprint] = *e.Alert
		}
	}
	r := Brief(in, set, now)
	r.Follows, r.Escalated, r.Directory, r.Timeline = entries[0].Opening.Follows, escalated, s.Path(id), entries
	r.Alerts = slices.SortedFunc(maps.Values(alerts), func(a, b Event) int {
		return cmp.Or(a.StartsAt.Compare(b.StartsAt), cmp.Compare(a.Fingerprint, b.Fingerprint))
	})
	if raw, err := os.ReadFile(filepath.Join(s.Evidence(id), "evidence.json")); err == nil {
		var e Evidence
		if json.Unmarshal(raw, &e) == nil {
			r.Evidence = &e
		}
	}
	return r, nil
}

// since returns the seconds from a time to the first of the others that is known.
func since(from time.Time, until ...time.Time) float64 {
	for _, u := range until {
		if !u.IsZero() {
			return max(0, u.Sub(from).Seconds())
		}
	}
	return 0
}

// Duration writes seconds for people, such as 1h5m.
func Duration(seconds float64) string {
	return humanize.Duration(time.Duration(seconds * float64(time.Second)))
}

// Markdown returns the skeleton of a post-mortem: what is known is filled in,
// and what only people know is asked.
func (r Report) Markdown() string {
	var b bytes.Buffer
	p := func(format string, args ...any) { fmt.Fprintf(&b, format, args...) }
	p("# %s: %s\n\n", r.ID, plain(r.Title))
	p("| | | target |\n|---|---|---|\n")
	p("| Priority | %s, %s | |\n", r.Priority, r.Means)
	if r.Follows != "" {
		p("| Follows | %s | |\n", r.Follows)
	}
	p("| Opened | %s | |\n", r.Opened.UTC().Format(timeFormat))
	p("| Taken on | %s | within %s |\n", r.response(), Duration(r.ResponseTarget))
	p("| Escalation | %s | %s |\n", orNot(r.Escalated), strings.ToLower(r.Escalation))
	ended := "still open after " + Duration(r.Resolution)
	if !r.Ended.IsZero() {
		ended = r.Ended.UTC().Format(timeFormat) + ", after " + Duration(r.Resolution)
	}
	p("| Over | %s | |\n\n", ended)

	p("## Summary\n\n_What happened, in two sentences that a person who was not there understands._\n\n")
	p("## Impact\n\n_Who noticed what, for how long? How many events failed? What does it cost of the error budget?_\n\n")
	p("## Timeline\n\nTimes are UTC.\n\n| time | what | who |\n|---|---|---|\n")
	day := ""
	for _, e := range r.Timeline {
		at := e.At.UTC()
		format := time.TimeOnly
		if d := at.Format(time.DateOnly); d != day {
			day, format = d, time.DateTime
		}
		p("| %s | %s: %s | %s |\n", at.Format(format), e.Kind, plain(e.Text), plain(e.By))
	}
	if len(r.Alerts) > 0 {
		p("\n## Alerts\n\n| alert | where | from | until |\n|---|---|---|---|\n")
		for _, a := range r.Alerts {
			until := "still firing"
			if a.Status != firing {
				until = a.EndsAt.UTC().Format(time.DateTime)
			}
			p("| %s | %s | %s | %s |\n", plain(a.Labels["alertname"]), plain(a.Labels["instance"]), a.StartsAt.UTC().Format(time.DateTime), until)
		}
	}
	p("\n## Evidence\n\n`%s`\n\n", filepath.Join(r.Directory, "evidence"))
	if r.Evidence == nil {
		p("None was taken for this incident alone; the timeline says why.\n")
	} else {
		p("| piece | result | |\n|---|---|---|\n")
		for _, e := range r.Evidence.Pieces {
			detail := plain(e.Detail)
			if e.File != "" {
				detail = strings.TrimSuffix("`"+e.File+"` "+detail, " ")
			}
			p("| %s | %s | %s |\n", e.Name, e.Result, detail)
		}
	}
	p("\n## Root cause\n\n_What made it possible, and what set it off? See `changes.txt` of the evidence first._\n\n")
	p("## What went well, what went badly, where we were lucky\n\n- \n\n")
	p("## Actions\n\n| action | owner | due |\n|---|---|---|\n| | | |\n")
	return b.String()
}

func (r Report) response() string {
	verdict := "in time"
	if r.ResponseMissed {
		verdict = "late"
	}
	switch {
	case !r.Acknowledged.IsZero():
		return fmt.Sprintf("%s, after %s: %s", r.Acknowledged.UTC().Format(timeFormat), Duration(r.Response), verdict)
	case !r.Ended.IsZero():
		return "by nobody; it was over after " + Duration(r.Response)
	default:
		return "by nobody so far, for " + Duration(r.Response)
	}
}

func orNot(t time.Time) string {
	if t.IsZero() {
		return "not escalated"
	}
	return t.UTC().Format(timeFormat)
}

// plain makes a text safe for a cell of a Markdown table.
func plain(s string) string {
	return strings.NewReplacer("|", `\|`, "<", "&lt;", "`", "'").Replace(oneLine(s))
}
