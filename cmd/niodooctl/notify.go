// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/alecthomas/kingpin/v2"

	"github.com/niodoo/niodoo_exporter/internal/health"
	"github.com/niodoo/niodoo_exporter/internal/notify"
	"github.com/niodoo/niodoo_exporter/internal/opstate"
)

func init() {
	register(spec{
		name: "notify test",
		help: "Send one alert of each priority through the whole chain and see whom it reaches.\n\n" +
			"The alerts go to Alertmanager, which routes them as it would those of the rules, and are resolved at the end; a mail goes to the relay directly. " +
			"Exits 0 when all was sent, 1 when something is silenced, 2 when something is sent to nobody or fails, and 3 when the sending could not be seen.",
		setup: notifyTestCommand,
	})
}

type notifyTestFlags struct {
	priorities []string
	wait       time.Duration
	labels     map[string]string
}

func notifyTestCommand(c *kingpin.CmdClause) action {
	f := &notifyTestFlags{labels: maps.Clone(targetLabels)}
	var all []string
	for _, p := range opstate.Priorities {
		all = append(all, string(p))
	}
	c.Flag("priority", "Try this priority; may be repeated.").HintOptions(all...).Default(all...).EnumsVar(&f.priorities, all...)
	c.Flag("wait", "How long to wait for the notifications. P3 and P4 wait five minutes by default, and for business hours.").
		Default("6m").DurationVar(&f.wait)
	c.Flag("label", "A label of the alerts, NAME=VALUE: cluster, instance and job as in examples/prometheus.yml unless given.").StringMapVar(&f.labels)
	return f.run
}

// notifyResult is the output of notify test -o json.
type notifyResult struct {
	Verdict      opstate.Verdict   `json:"verdict"`
	Alertmanager *alertmanagerTest `json:"alertmanager,omitempty"`
	Mail         *mailTest         `json:"mail,omitempty"`
}

type alertmanagerTest struct {
	URL        string            `json:"url"`
	Error      string            `json:"error,omitempty"`
	Priorities []notify.Delivery `json:"priorities"`
}

type mailTest struct {
	Relay    string   `json:"relay"`
	To       []string `json:"to"`
	Accepted bool     `json:"accepted"`
	Error    string   `json:"error,omitempty"`
}

func (f *notifyTestFlags) run(ctx context.Context, e *env) error {
	cfg := e.cfg.Notify
	if cfg.Alertmanager == "" && cfg.SMTP.Smarthost == "" {
		return usageError("there is nobody to notify: write notify: {alertmanager: http://HOST:9093, smtp: {…}} in the configuration")
	}
	if f.wait <= 0 {
		return usageError("--wait must be more than 0")
	}
	result := notifyResult{Verdict: opstate.Well}
	if cfg.SMTP.Smarthost != "" {
		result.mail(ctx, e)
	}
	if cfg.Alertmanager != "" {
		f.alertmanager(ctx, e, &result)
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if e.format == formatJSON {
		if err := e.json(result); err != nil {
			return err
		}
	} else {
		result.print(e)
	}
	if result.Verdict == opstate.Well {
		return nil
	}
	return verdict(result.Verdict)
}

// worsen makes the result at least as bad as a verdict.
func (r *notifyResult) worsen(v opstate.Verdict) {
	if health.Worse(v, r.Verdict) {
		r.Verdict = v
	}
}

func (r *notifyResult) mail(ctx context.Context, e *env) {
	host, err := os.Hostname()
	if err != nil {
		host = "localhost"
	}
	smtp := e.cfg.Notify.SMTP
	r.Mail = &mailTest{Relay: smtp.Smarthost, To: smtp.To}
	err = notify.SendMail(ctx, smtp, notify.Mail{Subject: "[niodoo] " + host + ": test",
		Text: "niodooctl notify test sent this to see that it arrives. Nothing is wrong, and nothing is to be done.\n"})
	r.Mail.Accepted = err == nil
	if err != nil {
		r.Mail.Error = err.Error()
		r.worsen(opstate.Failing)
	}
}

func (f *notifyTestFlags) alertmanager(ctx context.Context, e *env, r *notifyResult) {
	p := e.progress("waiting for the notifications", int64(len(f.priorities)), false)
	defer p.done()
	shown := 0
	chain := notify.Chain{Config: e.cfg.Notify, Target: f.labels, Wait: f.wait, ID: strconv.FormatInt(e.now().UnixNano(), 36),
		Progress: func(arrived int) {
			p.add(int64(arrived - shown))
			shown = arrived
		}}
	for _, priority := range slices.Compact(slices.Sorted(slices.Values(f.priorities))) {
		chain.Priorities = append(chain.Priorities, opstate.Priority(priority))
	}
	r.Alertmanager = &alertmanagerTest{URL: e.cfg.Notify.Alertmanager, Priorities: []notify.Delivery{}}
	deliveries, err := chain.Try(ctx)
	if err != nil {
		r.Alertmanager.Error = err.Error()
		r.worsen(opstate.Failing)
	}
	for _, d := range deliveries {
		r.Alertmanager.Priorities = append(r.Alertmanager.Priorities, d)
		r.worsen(d.Verdict)
	}
}

func (r *notifyResult) print(e *env) {
	var rows [][]string
	add := func(v opstate.Verdict, what, to, text string) {
		if !e.quiet || v != opstate.Well {
			rows = append(rows, []string{what, e.coloured(v, string(v)), to, text})
		}
	}
	if a := r.Alertmanager; a != nil {
		for _, d := range a.Priorities {
			var to []string
			for _, r := range d.Receivers {
				to = append(to, fmt.Sprintf("%s (%s)", r.Name, strings.Join(r.Integrations, ", ")))
			}
			text := d.Text
			if d.Sent {
				text += fmt.Sprintf(" after %.0f s", d.Seconds)
			}
			add(d.Verdict, string(d.Priority), strings.Join(to, ", "), text)
		}
		if a.Error != "" {
			add(opstate.Failing, "Alertmanager", a.URL, a.Error)
		}
	}
	if m := r.Mail; m != nil {
		if m.Accepted {
			add(opstate.Well, "mail", strings.Join(m.To, ", "), m.Relay+" took it")
		} else {
			add(opstate.Failing, "mail", strings.Join(m.To, ", "), m.Error)
		}
	}
	if len(rows) > 0 {
		e.table([]string{"WHAT", "VERDICT", "RECEIVER", "RESULT"}, rows)
	}
}
