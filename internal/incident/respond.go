// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package incident

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/niodoo/niodoo_exporter/internal/config"
	"github.com/niodoo/niodoo_exporter/internal/notify"
	"github.com/niodoo/niodoo_exporter/internal/opstate"
	"github.com/niodoo/niodoo_exporter/internal/thresholds"
)

// Responder does what the manual has for an incident that was opened.
type Responder struct {
	Config     *config.Config
	Thresholds thresholds.Set
	Store      Store
	// By is who acts, for the timeline.
	By  string
	Now func() time.Time
	// Progress, which may be nil, is told of each piece of evidence.
	Progress func(Piece)
}

// Outcome is what a response came to.
type Outcome struct {
	Evidence Evidence `json:"evidence"`
	// Restarted is what was restarted, "" for nothing.
	Restarted string `json:"restarted,omitempty"`
	// ActionError says why a restart was not done, or failed.
	ActionError string `json:"action_error,omitempty"`
	// After is the health after a restart, nil without one.
	After *Health `json:"health_after,omitempty"`
	// Escalated is to whom the incident was handed on.
	Escalated string `json:"escalated,omitempty"`
	// EscalationError says why that did not work.
	EscalationError string `json:"escalation_error,omitempty"`

	nobody bool // there is nobody configured to hand on to
}

// Verdict is failing when what was tried did not work, and a warning when
// evidence is missing or nobody could be told.
func (o Outcome) Verdict() opstate.Verdict {
	switch {
	case o.ActionError != "", o.EscalationError != "" && !o.nobody, o.After != nil && !o.After.Well:
		return opstate.Failing
	case o.nobody, !o.Evidence.Complete():
		return opstate.Warning
	}
	return opstate.Well
}

// Cured reports whether a restart was done and all is well since.
func (o Outcome) Cured() bool { return o.After != nil && o.After.Well }

// Respond collects evidence, restarts what is configured if it is down, looks
// again, and hands on what the manual has handed on at once. shared, which may
// be nil, is evidence that was just taken for another incident. The error is
// what could not be written down, or that of ctx.
func (r Responder) Respond(ctx context.Context, in opstate.Incident, shared *Shared) (Outcome, error) {
	var o Outcome
	plan := PlanOf(in.Priority, r.Thresholds)
	// Neither a full disk nor a damaged journal keeps an incident from people.
	errs := []error{r.evidence(ctx, in.ID, shared, &o)}
	if plan.Restarts && ctx.Err() == nil {
		errs = append(errs, r.act(ctx, in.ID, &o))
	}
	if ctx.Err() == nil && !r.Now().Before(plan.EscalateAt(in.Opened)) && !o.Cured() {
		to, err := r.Escalate(ctx, in)
		o.Escalated = to
		if err != nil {
			o.EscalationError, o.nobody = err.Error(), errors.Is(err, errNobody)
		}
	}
	if ctx.Err() != nil {
		return o, ctx.Err()
	}
	return o, errors.Join(errs...)
}

// Shared is evidence that several incidents have in common.
type Shared struct {
	Incident string
	Evidence Evidence
}

func (r Responder) evidence(ctx context.Context, id string, shared *Shared, o *Outcome) error {
	if shared != nil {
		o.Evidence = shared.Evidence
		return r.note(ctx, id, KindEvidence, "taken moments before: see "+shared.Incident)
	}
	g := Gatherer{Config: r.Config, Thresholds: r.Thresholds, StateDir: r.Store.Dir, Now: r.Now}
	e, err := g.Gather(ctx, r.Store.Evidence(id), r.Progress)
	o.Evidence = e
	if ctx.Err() != nil { // whoever comes next begins again
		return ctx.Err()
	}
	if err != nil {
		return errors.Join(err, r.note(ctx, id, KindEvidence, "could not be kept: "+err.Error()))
	}
	text := e.Summary()
	if e.Health != nil {
		text += "; " + e.Health.Summary()
	}
	return r.note(ctx, id, KindEvidence, text)
}

func (r Responder) note(ctx context.Context, id string, kind Kind, text string) error {
	return r.Store.Append(ctx, id, Entry{At: r.Now().UTC(), Kind: kind, By: r.By, Text: text})
}

// act restarts one target, once, and looks whether that has helped.
func (r Responder) act(ctx context.Context, id string, o *Outcome) error {
	component, target := Restartable(r.Config, o.Evidence.Health)
	if component == "" {
		return nil
	}
	err := r.mayRestart(ctx, id, component, target)
	if err == nil {
		err = r.Store.claim(ctx, id, target, r.By, r.Now())
	}
	switch {
	case errors.Is(err, errActed):
		o.ActionError = err.Error()
		return r.note(ctx, id, KindNote, err.Error())
	case errors.Is(err, errUpAgain):
		return r.note(ctx, id, KindNote, component+" "+err.Error())
	case err != nil:
		return err
	}
	o.Restarted = target.String()
	if err := restart(ctx, r.Config, target); err != nil {
		o.ActionError = err.Error()
		failed := false
		err = r.Store.Append(ctx, id, Entry{At: r.Now().UTC(), Kind: KindAction, By: r.By, Well: &failed,
			Text: "restarting the " + target.String() + " failed: " + o.ActionError})
		return errors.Join(err, r.lookAgain(ctx, id, "", o))
	}
	return r.lookAgain(ctx, id, component, o)
}

// errUpAgain says that a restart is not needed any more.
var errUpAgain = errors.New("is up again; it was not restarted")

// mayRestart says what speaks against a restart. The evidence may be some time
// old, and looking again takes time if a component hangs.
func (r Responder) mayRestart(ctx context.Context, id, component string, target config.RestartTarget) error {
	done, err := readActions(r.Store.actionsPath())
	if err == nil {
		err = acted(done, id, target, r.Now())
	}
	if err != nil {
		return err
	}
	h, err := CheckHealth(ctx, r.Config, r.Thresholds, r.Now)
	if err == nil && !slices.Contains(h.Down, component) {
		err = errUpAgain
	}
	return err
}

// betweenLooks leaves the engine the requests of others: it allows a hundred a minute.
const betweenLooks = 5 * time.Second

// lookAgain looks at all, and again until a component, if one is named, is up or
// has had its time. It keeps what it found beside the evidence.
func (r Responder) lookAgain(ctx context.Context, id, component string, o *Outcome) error {
	wait, cancel := context.WithTimeout(ctx, time.Duration(r.Config.Incident.Recovery))
	defer cancel()
	h, err := CheckHealth(ctx, r.Config, r.Thresholds, r.Now)
	for err == nil && wait.Err() == nil && slices.Contains(slices.Concat(h.Down, h.Unsure), component) {
		pause(wait, betweenLooks)
		h, err = CheckHealth(ctx, r.Config, r.Thresholds, r.Now)
	}
	if err != nil {
		return err
	}
	o.After = &h
	err = os.MkdirAll(r.Store.Evidence(id), 0o750) // with shared evidence it has none of its own
	if err == nil {
		err = writeJSON(filepath.Join(r.Store.Evidence(id), "health-after.json"), h)
	}
	return errors.Join(err, r.Store.Append(ctx, id, Entry{At: r.Now().UTC(), Kind: KindHealth, By: r.By, Well: &h.Well, Text: "after the restart: " + h.Summary()}))
}

// escalationLasts is how long an escalation stands in Alertmanager if nobody closes the incident.
const escalationLasts = 24 * time.Hour

// errNobody says that an incident cannot be handed on.
var errNobody = errors.New("there is nobody to hand on to: configure notify.alertmanager, or notify.smtp and incident.escalation")

// Escalate hands an incident on, by Alertmanager and by mail, as far as they
// are configured. It returns to whom, and notes it. When neither way works the
// error says so, and it may be tried again.
func (r Responder) Escalate(ctx context.Context, in opstate.Incident) (to string, err error) {
	var reached []string
	var errs []error
	now := r.Now().UTC()
	switch err := notify.PostAlerts(ctx, r.Config.Notify, []notify.Alert{escalation(in, now, now.Add(escalationLasts))}); {
	case err == nil:
		reached = append(reached, "Alertmanager")
	case !errors.Is(err, notify.ErrNotConfigured):
		errs = append(errs, err)
	}
	recipients := r.Config.Incident.Escalation[string(in.Priority)]
	if recipients == nil {
		recipients = r.Config.Notify.SMTP.To
	}
	if len(recipients) > 0 {
		mailed, err := mailEach(ctx, r.Config.Notify.SMTP, recipients, r.mail(in))
		reached, errs = append(reached, mailed...), append(errs, err)
	}
	to, err = strings.Join(reached, ", "), errors.Join(errs...)
	if ctx.Err() != nil {
		return to, ctx.Err()
	}
	if to == "" && err != nil {
		return "", errors.Join(err, r.note(ctx, in.ID, KindNote, "could not be handed on: "+oneLine(err.Error())))
	}
	done := to != ""
	e := Entry{At: now, Kind: KindEscalated, By: r.By, Well: &done, Text: "handed on to " + to}
	switch {
	case !done:
		err, e.Text = errNobody, errNobody.Error()
	case err != nil:
		e.Text += "; not otherwise: " + oneLine(err.Error())
	}
	return to, errors.Join(err, r.Store.Append(ctx, in.ID, e))
}

// Resolve takes an incident's escalation back, where there was one.
func (r Responder) Resolve(ctx context.Context, in opstate.Incident) error {
	entries, err := r.Store.Timeline(in.ID)
	if err != nil || !slices.ContainsFunc(entries, func(e Entry) bool { return e.Kind == KindEscalated }) {
		return err
	}
	now := r.Now().UTC()
	err = notify.PostAlerts(ctx, r.Config.Notify, []notify.Alert{escalation(in, in.Opened, now)})
	if errors.Is(err, notify.ErrNotConfigured) {
		return nil
	}
	return err
}

// escalationSeverities are the severities that go with the priorities in the alerts.
var escalationSeverities = map[opstate.Priority]string{"P1": "critical", "P2": "warning", "P3": "warning", "P4": "info"}

func escalation(in opstate.Incident, from, until time.Time) notify.Alert {
	return notify.Alert{
		Labels: map[string]string{"alertname": EscalatedAlert, "incident": in.ID, "priority": string(in.Priority),
			"severity": escalationSeverities[in.Priority], "component": "operations", "source": "niodooctl", "instance": hostName()},
		Annotations: map[string]string{"summary": in.ID + ": " + in.Title, "description": "The incident is still open. niodooctl incident report " + in.ID + " tells what is known."},
		StartsAt:    from, EndsAt: until,
	}
}

// mailEach mails each recipient by itself, so that one who is refused keeps it
// from nobody else, and returns who was reached.
func mailEach(ctx context.Context, cfg config.SMTP, to []string, m notify.Mail) (reached []string, err error) {
	var errs []error
	for _, address := range to {
		m.To = []string{address}
		if err := notify.SendMail(ctx, cfg, m); err != nil {
			errs = append(errs, err)
			continue
		}
		reached = append(reached, address)
	}
	return reached, errors.Join(errs...)
}

func (r Responder) mail(in opstate.Incident) notify.Mail {
	var b bytes.Buffer
	plan := PlanOf(in.Priority, r.Thresholds)
	fmt.Fprintf(&b, "%s %s (%s)\n%s\n\nOpened %s on %s. Response time %s, escalation: %s.\n", in.ID, in.Priority, plan.Means, in.Title,
		in.Opened.Format(timeFormat), hostName(), plan.Response, strings.ToLower(plan.Escalation))
	if in.Acknowledged.IsZero() {
		fmt.Fprintf(&b, "Nobody has taken it on. If you do: niodooctl incident ack %s\n", in.ID)
	}
	if entries, err := r.Store.Timeline(in.ID); err == nil {
		b.WriteString("\n")
		t := tabwriter.NewWriter(&b, 0, 8, 2, ' ', 0)
		for _, e := range entries[max(0, len(entries)-mailedEntries):] {
			fmt.Fprintf(t, "%s\t%s\t%s\n", e.At.UTC().Format(time.TimeOnly), e.Kind, cut(oneLine(e.Text), maxTitle))
		}
		_ = t.Flush()
	}
	fmt.Fprintf(&b, "\nEvidence: %s\n", r.Store.Evidence(in.ID))
	return notify.Mail{Subject: cut(fmt.Sprintf("[niodoo] %s %s: %s", in.Priority, in.ID, in.Title), 200), Text: b.String()}
}

// mailedEntries is how many of a timeline's latest entries are mailed.
const mailedEntries = 50

func hostName() string {
	name, err := os.Hostname()
	if err != nil {
		return "localhost"
	}
	return name
}
