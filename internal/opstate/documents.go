// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package opstate

import (
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"time"
)

// Limits of the documents: their content becomes labels and is read by people.
const (
	maxNames        = 100
	maxOpen         = 1000
	maxClosed       = 100
	maxPeers        = 16
	maxText         = 2048
	maxInProgress   = 24 * time.Hour
	maxChanges      = 500
	maxAlerts       = 500
	namePattern     = `^[a-z0-9][a-z0-9_.-]{0,63}$`
	incidentPattern = `^INC-\d{8}-\d{6}(-\d{1,3})?$`
)

var (
	nameRE     = regexp.MustCompile(namePattern)
	incidentRE = regexp.MustCompile(incidentPattern)
)

// Verdict is what a health run thinks of a component or of the whole.
type Verdict string

// The verdicts in the order of niodooctl's exit codes.
const (
	Well    Verdict = "well"
	Warning Verdict = "warning"
	Failing Verdict = "failing"
	Unknown Verdict = "unknown"
)

// Verdicts lists the closed set; a verdict's index is niodooctl's exit code for it.
var Verdicts = []Verdict{Well, Warning, Failing, Unknown}

// ExitCode is niodooctl's exit code for a verdict.
func (v Verdict) ExitCode() int { return slices.Index(Verdicts, v) }

// Health is the last health run.
type Health struct {
	Finished   time.Time          `json:"finished"`
	Seconds    float64            `json:"duration_seconds"`
	Verdict    Verdict            `json:"verdict"`
	Components map[string]Verdict `json:"components"`
}

func (Health) file() string { return "health.json" }

func (h Health) validate() error {
	if err := validTime("finished", h.Finished); err != nil {
		return err
	}
	if h.Verdict.ExitCode() < 0 {
		return fmt.Errorf("the verdict %.100q is unknown", h.Verdict)
	}
	for _, c := range slices.Sorted(maps.Keys(h.Components)) {
		if h.Components[c].ExitCode() < 0 {
			return fmt.Errorf("the verdict %.100q on %.100q is unknown", h.Components[c], c)
		}
	}
	return errors.Join(validSeconds(h.Seconds), validNames("component", maps.Keys(h.Components), maxNames))
}

// HealthHistory is what health runs found over time, as far as it changed, and
// what was told of it.
type HealthHistory struct {
	Last Health `json:"last"`
	// Since is when the counting began: at the last summary, or the first run.
	Since time.Time `json:"since"`
	// Runs counts the runs since then by their verdict.
	Runs map[Verdict]int64 `json:"runs"`
	// Changes are the latest, oldest first.
	Changes []HealthChange `json:"changes"`
	// Pending is since when each alert's condition holds, told or not yet.
	Pending map[string]time.Time `json:"pending,omitempty"`
	// Posted are the labels of the alerts that Alertmanager was last given.
	Posted []map[string]string `json:"posted,omitempty"`
	// Mailed names what the last mail told, and MailedAt is when it went out.
	Mailed   []string  `json:"mailed,omitempty"`
	MailedAt time.Time `json:"mailed_at,omitzero"`
}

// HealthChange is a component whose verdict became another one. "" is the
// verdict of a component that was not looked at.
type HealthChange struct {
	At        time.Time `json:"at"`
	Component string    `json:"component"`
	From      Verdict   `json:"from,omitempty"`
	To        Verdict   `json:"to,omitempty"`
	Why       string    `json:"why,omitempty"`
}

// Add notes changes and drops the oldest of those that are too many.
func (h *HealthHistory) Add(changes ...HealthChange) {
	for _, c := range changes {
		c.Why = c.Why[:min(len(c.Why), maxText)]
		h.Changes = append(h.Changes, c)
	}
	h.Changes = h.Changes[max(0, len(h.Changes)-maxChanges):]
}

func (HealthHistory) file() string { return "health_history.json" }

func (h HealthHistory) validate() error {
	if len(h.Changes) > maxChanges || len(h.Pending) > maxAlerts || len(h.Posted) > maxAlerts || len(h.Mailed) > maxAlerts {
		return errors.New("the history is longer than is kept")
	}
	for _, c := range h.Changes {
		for _, v := range []Verdict{c.From, c.To} {
			if v != "" && v.ExitCode() < 0 {
				return fmt.Errorf("the verdict %.100q on %.100q is unknown", v, c.Component)
			}
		}
		if err := errors.Join(validTime("at", c.At), validText(c.Why)); err != nil {
			return err
		}
	}
	for v, n := range h.Runs {
		if v.ExitCode() < 0 || n < 0 {
			return fmt.Errorf("%d runs were %.100q", n, v)
		}
	}
	return errors.Join(validTime("since", h.Since), h.Last.validate())
}

// StepResult is how a maintenance step ended.
type StepResult string

// The results. A step is skipped on purpose: the stack is in trouble, or
// something stronger has just run.
const (
	StepOK      StepResult = "ok"
	StepFailed  StepResult = "failed"
	StepSkipped StepResult = "skipped"
)

// StepResults lists the closed set.
var StepResults = []StepResult{StepOK, StepFailed, StepSkipped}

// Maintenance is the maintenance plan's state.
type Maintenance struct {
	Steps   map[string]Step `json:"steps"`
	Running *Running        `json:"running,omitempty"`
}

// Step is the last run of a step, and its last success.
type Step struct {
	Started   time.Time  `json:"started"`
	Seconds   float64    `json:"duration_seconds"`
	Result    StepResult `json:"result"`
	Detail    string     `json:"detail,omitempty"`
	Succeeded time.Time  `json:"succeeded,omitzero"`
	// Interval is how often the plan has it, in seconds; 0 is not regularly.
	Interval float64 `json:"interval_seconds,omitempty"`
}

// Running is a maintenance in progress. Whoever dies in it leaves it behind:
// it counts until its upper limit at most.
type Running struct {
	Plan    string    `json:"plan"`
	Started time.Time `json:"started"`
	Until   time.Time `json:"until"`
}

// At reports whether maintenance is in progress at a time.
func (r *Running) At(t time.Time) bool { return r != nil && !t.Before(r.Started) && t.Before(r.Until) }

// Record notes the end of a step's run.
func (m *Maintenance) Record(name string, s Step) {
	if s.Result == StepOK {
		s.Succeeded = s.Started.Add(time.Duration(s.Seconds * float64(time.Second)))
	} else {
		s.Succeeded = m.Steps[name].Succeeded
	}
	if m.Steps == nil {
		m.Steps = map[string]Step{}
	}
	m.Steps[name] = s
}

func (Maintenance) file() string { return "maintenance.json" }

func (m Maintenance) validate() error {
	for _, name := range slices.Sorted(maps.Keys(m.Steps)) {
		s := m.Steps[name]
		if !slices.Contains(StepResults, s.Result) {
			return fmt.Errorf("the result %.100q of the step %.100q is unknown", s.Result, name)
		}
		if err := errors.Join(validTime("started", s.Started), validSeconds(s.Seconds), validSeconds(s.Interval), validText(s.Detail)); err != nil {
			return fmt.Errorf("the step %.100q: %w", name, err)
		}
	}
	if r := m.Running; r != nil {
		d := r.Until.Sub(r.Started)
		if err := validTime("running.started", r.Started); err != nil {
			return err
		}
		if d <= 0 || d > maxInProgress { // it silences alerts
			return fmt.Errorf("a maintenance of %s is not believable; %s is the most", d, maxInProgress)
		}
		if !nameRE.MatchString(r.Plan) {
			return fmt.Errorf("the plan %.100q is not a name", r.Plan)
		}
	}
	return validNames("step", maps.Keys(m.Steps), maxNames)
}

// Drills is the last restore drill.
type Drills struct {
	Finished time.Time `json:"finished"`
	OK       bool      `json:"ok"`
	// Recovery is the time from the start to compared rows, in seconds.
	Recovery  float64   `json:"recovery_seconds"`
	Backup    string    `json:"backup"`
	Detail    string    `json:"detail,omitempty"`
	Succeeded time.Time `json:"succeeded,omitzero"`
}

// Record notes the end of a drill.
func (d *Drills) Record(last Drills) {
	last.Succeeded = d.Succeeded
	if last.OK {
		last.Succeeded = last.Finished
	}
	*d = last
}

func (Drills) file() string { return "drills.json" }

func (d Drills) validate() error {
	return errors.Join(validTime("finished", d.Finished), validSeconds(d.Recovery), validText(d.Backup), validText(d.Detail))
}

// Heartbeat is what the listener has heard as a dead man's switch.
type Heartbeat struct {
	// Listening is when the listener last showed a sign of life of its own.
	Listening time.Time `json:"listening,omitzero"`
	// Received is when Watchdog last came, Waiting since when the listener, be
	// it restarted in between, has waited for it.
	Received time.Time `json:"received,omitzero"`
	Waiting  time.Time `json:"waiting,omitzero"`
	// Peers is when each other listener last came.
	Peers map[string]time.Time `json:"peers,omitempty"`
	// Told is since when those are silent whose silence has been told, by the
	// peer's name or [Watchdog].
	Told map[string]time.Time `json:"told,omitempty"`
}

// Watchdog is the name of the alerts' own heartbeat among the listener's sources.
const Watchdog = "watchdog"

func (Heartbeat) file() string { return "heartbeat.json" }

func (h Heartbeat) validate() error {
	for _, t := range h.Peers {
		if err := validTime("a peer's time", t); err != nil {
			return err
		}
	}
	return errors.Join(validNames("peer", maps.Keys(h.Peers), maxPeers), validNames("source", maps.Keys(h.Told), maxPeers+1))
}

func validTime(what string, t time.Time) error {
	if t.Unix() <= 0 {
		return fmt.Errorf("%s is missing", what)
	}
	return nil
}

func validSeconds(s float64) error {
	if !(s >= 0) {
		return fmt.Errorf("%v seconds is no duration", s)
	}
	return nil
}

func validText(s string) error {
	if len(s) > maxText {
		return fmt.Errorf("a text is longer than %d bytes", maxText)
	}
	return nil
}

func validNames(what string, names func(func(string) bool), most int) error {
	all := slices.Sorted(names)
	if len(all) > most {
		return fmt.Errorf("more than %d times %s", most, what)
	}
	for _, n := range all {
		if !nameRE.MatchString(n) {
			return fmt.Errorf("%.100q is not the name of a %s", n, what)
		}
	}
	return nil
}
