// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package health

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/common/model"

	"github.com/niodoo/niodoo_exporter/internal/config"
	"github.com/niodoo/niodoo_exporter/internal/humanize"
	"github.com/niodoo/niodoo_exporter/internal/notify"
	"github.com/niodoo/niodoo_exporter/internal/opstate"
)

// reminder is how often a mail is repeated while nothing changes.
const reminder = 4 * time.Hour

// runsUntilResolved is how many intervals an alert outlives the run that posted
// it: one run may be late, or fail.
const runsUntilResolved = 2.5

// Teller says whom to tell and how.
type Teller struct {
	Config              config.Notify
	Alertmanager, Email bool
	// Interval is the time to the next run.
	Interval time.Duration
	// Target are the labels that the rules' series have of their scrape.
	Target map[string]string
	// Host is this machine's name, for the mail.
	Host string
}

// Told is what became of telling.
type Told struct {
	// Posted and Resolved are numbers of alerts that Alertmanager has taken.
	Posted, Resolved int
	// Mailed says that a mail was taken by the relay.
	Mailed bool
	// AlertmanagerErr and MailErr are why not.
	AlertmanagerErr, MailErr error

	notes []func(*opstate.HealthHistory)
}

// Tell posts to Alertmanager what is not well, resolves what was and is well
// now, and mails what has changed since the last mail. Where Alertmanager does
// not answer, mail alone is left: it goes out whether it was asked for or not.
func (t Teller) Tell(ctx context.Context, r *Report, before opstate.HealthHistory) Told {
	var told Told
	now := r.Document().Finished
	alerts, pending := t.due(r, before, now)
	told.notes = append(told.notes, func(h *opstate.HealthHistory) { h.Pending = pending })
	if t.Alertmanager {
		resolved := ended(before.Posted, alerts, now)
		told.AlertmanagerErr = notify.PostAlerts(ctx, t.Config, append(slices.Clone(alerts), resolved...))
		if told.AlertmanagerErr == nil {
			told.Posted, told.Resolved = len(alerts), len(resolved)
			labels := make([]map[string]string, 0, len(alerts))
			for _, a := range alerts {
				labels = append(labels, a.Labels)
			}
			told.notes = append(told.notes, func(h *opstate.HealthHistory) { h.Posted = labels })
		}
	}
	if t.Email || told.AlertmanagerErr != nil && t.Config.SMTP.Smarthost != "" {
		t.mail(ctx, r, alerts, before, now, &told)
	} else { // Alertmanager has taken over from mail
		told.notes = append(told.notes, func(h *opstate.HealthHistory) { h.Mailed, h.MailedAt = nil, time.Time{} })
	}
	return told
}

// due are the alerts that are to be told now: what is down at once, a value that
// is beyond its limit once it has been for as long as the rules want. Where
// nothing is remembered it cannot be waited for.
func (t Teller) due(r *Report, before opstate.HealthHistory, now time.Time) ([]notify.Alert, map[string]time.Time) {
	all, waits := r.alerts(t.Target, now.Add(time.Duration(runsUntilResolved*float64(t.Interval))))
	var alerts []notify.Alert
	pending := map[string]time.Time{}
	late := t.Interval / 10 // runs are not on the dot
	for i, a := range all {
		key := labelSet(a.Labels).String()
		since, known := before.Pending[key]
		if !known {
			since = now
		}
		pending[key] = since
		if now.Sub(since)+late >= waits[i] || before.Last.Finished.IsZero() {
			alerts = append(alerts, a)
		}
	}
	return alerts, pending
}

// ended are the alerts that were posted and are over.
func ended(posted []map[string]string, alerts []notify.Alert, now time.Time) []notify.Alert {
	var out []notify.Alert
	for _, labels := range posted {
		if !slices.ContainsFunc(alerts, func(a notify.Alert) bool { return maps.Equal(a.Labels, labels) }) {
			out = append(out, notify.Alert{Labels: labels, EndsAt: now})
		}
	}
	return out
}

// mail sends one if what is to be told has changed, or a reminder is due.
func (t Teller) mail(ctx context.Context, r *Report, alerts []notify.Alert, before opstate.HealthHistory, now time.Time, told *Told) {
	keys := make([]string, 0, len(alerts)+1)
	if told.AlertmanagerErr != nil {
		keys = append(keys, "alertmanager does not answer")
	}
	for _, a := range alerts {
		keys = append(keys, labelSet(a.Labels).String())
	}
	due := len(keys) > 0 && now.Sub(before.MailedAt) >= reminder
	if slices.Equal(keys, before.Mailed) && !due {
		return
	}
	told.MailErr = notify.SendMail(ctx, t.Config.SMTP, t.compose(r, alerts, told.AlertmanagerErr))
	if told.MailErr == nil {
		told.Mailed = true
		told.notes = append(told.notes, func(h *opstate.HealthHistory) { h.Mailed, h.MailedAt = keys, now })
	}
}

func labelSet(labels map[string]string) model.LabelSet {
	set := model.LabelSet{}
	for name, value := range labels {
		set[model.LabelName(name)] = model.LabelValue(value)
	}
	return set
}

func (t Teller) compose(r *Report, alerts []notify.Alert, alertmanagerErr error) notify.Mail {
	var b strings.Builder
	fmt.Fprintf(&b, "niodooctl health on %s at %s: %s\n", t.Host, r.Started.Format(time.RFC3339), r.Verdict)
	if alertmanagerErr != nil {
		fmt.Fprintf(&b, "\nAlertmanager does not answer, so nobody else may tell you: %v\n", alertmanagerErr)
	}
	b.WriteString("\n")
	r.writeComponents(&b)
	for _, a := range alerts {
		fmt.Fprintf(&b, "\n%s %s: %s\n  %s\n", a.Labels["priority"], a.Labels["alertname"], a.Annotations["summary"], a.Annotations["runbook_url"])
	}
	return notify.Mail{Subject: t.subject(r, alertmanagerErr), Text: b.String()}
}

func (t Teller) subject(r *Report, alertmanagerErr error) string {
	var bad []string
	for _, c := range r.Components {
		if c.Verdict != opstate.Well {
			bad = append(bad, c.Name+" "+string(c.Verdict))
		}
	}
	if alertmanagerErr != nil {
		bad = append(bad, "Alertmanager does not answer")
	}
	if len(bad) == 0 {
		return "[niodoo] " + t.Host + ": well again"
	}
	return "[niodoo] " + t.Host + ": " + strings.Join(bad, ", ")
}

// writeComponents writes a line for each component.
func (r *Report) writeComponents(b *strings.Builder) {
	for _, c := range r.Components {
		fmt.Fprintf(b, "%-13s %-8s %-10s", c.Name, c.VerdictText(), c.State)
		if c.Figure != nil {
			b.WriteString(" " + c.Figure.Text)
		}
		b.WriteString("\n")
		for _, why := range c.Why {
			fmt.Fprintf(b, "              %s\n", why)
		}
	}
}

// VerdictText is the verdict in words; what nobody looked at has none.
func (c Component) VerdictText() string {
	if c.State == Absent || c.State == Idle {
		return "-"
	}
	return string(c.Verdict)
}

// Summary is the daily mail: how all is, what has changed since the last one,
// and how often all was well meanwhile.
func (r *Report) Summary(host string, h opstate.HealthHistory) notify.Mail {
	changes := slices.DeleteFunc(append(slices.Clone(h.Changes), r.changes(h.Last)...), func(c opstate.HealthChange) bool { return !c.At.After(h.Since) })
	var b strings.Builder
	fmt.Fprintf(&b, "niodooctl health on %s at %s: %s\n\n", host, r.Started.Format(time.RFC3339), r.Verdict)
	r.writeComponents(&b)
	b.WriteString("\n")
	switch {
	case h.Since.IsZero():
		b.WriteString("This is the first run that is remembered.\n")
	default:
		runs := int64(0)
		for _, n := range h.Runs {
			runs += n
		}
		fmt.Fprintf(&b, "Since %s: %d runs, %d of them well.\n", h.Since.Format(time.RFC3339), runs, h.Runs[opstate.Well])
		if len(changes) == 0 {
			b.WriteString("Nothing has changed.\n")
		}
	}
	for _, c := range changes {
		fmt.Fprintf(&b, "  %s  %s: %s -> %s", c.At.Format(time.RFC3339), c.Component, said(c.From), said(c.To))
		if c.Why != "" && c.To != opstate.Well {
			b.WriteString(" (" + c.Why + ")")
		}
		b.WriteString("\n")
	}
	b.WriteString("\nOff target:\n")
	off := 0
	for _, k := range r.Checks {
		if k.OnTarget != nil && !*k.OnTarget {
			off++
			fmt.Fprintf(&b, "  %s: %s; the target is %s\n", k.Component, k.Text, humanize.Value(k.Unit, *k.Target))
		}
	}
	if off == 0 {
		b.WriteString("  nothing\n")
	}
	if len(r.Findings) > 0 {
		b.WriteString("\nFindings:\n")
	}
	for _, f := range r.Findings {
		fmt.Fprintf(&b, "  %s\n    %s\n", f.Text, f.Mend)
	}
	changed := "no change"
	if n := len(changes); n > 0 {
		changed = fmt.Sprintf("%d changes", n)
	}
	return notify.Mail{Subject: fmt.Sprintf("[niodoo] %s: %s, %s", host, r.Verdict, changed), Text: b.String()}
}

func said(v opstate.Verdict) string {
	if v == "" {
		return "not looked at"
	}
	return string(v)
}
