// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/alecthomas/kingpin/v2"

	"github.com/niodoo/niodoo_exporter/internal/config"
	"github.com/niodoo/niodoo_exporter/internal/health"
	"github.com/niodoo/niodoo_exporter/internal/humanize"
	"github.com/niodoo/niodoo_exporter/internal/notify"
	"github.com/niodoo/niodoo_exporter/internal/opstate"
)

// healthLog is the operations manual's.
const healthLog = "/opt/niodoo/logs/health_monitor.log"

// targetLabels are those that examples/prometheus.yml gives the exporter's
// series; Alertmanager inhibits by them.
var targetLabels = map[string]string{"cluster": "niodoo", "instance": "localhost:10646", "job": "niodoo"}

func init() {
	register(spec{
		name: "health",
		help: "Look at every component once and say how it is.\n\n" +
			"Exits 0 when all is well, 1 with a warning, 2 when a required component or a critical limit fails, and 3 when something could not be checked.",
		setup: healthCommand,
	})
}

type healthFlags struct {
	detailed, summary bool
	notify, logFile   string
	interval          time.Duration
	timeout           time.Duration
	labels            map[string]string
}

func healthCommand(c *kingpin.CmdClause) action {
	f := &healthFlags{labels: maps.Clone(targetLabels)}
	c.Flag("detailed", "Show every check, every KPI against its target, and what about the set-up will hurt one day.").BoolVar(&f.detailed)
	c.Flag("summary", "Print the daily mail: how all is and what has changed since the last summary. With --notify=email it is sent.").BoolVar(&f.summary)
	c.Flag("notify", "Whom to tell, with commas: alertmanager, email. Mail tells what has changed, and takes over when Alertmanager does not answer.").
		PlaceHolder("alertmanager,email").StringVar(&f.notify)
	c.Flag("interval", "Time to the next run; an alert in Alertmanager lives two and a half times as long.").Default("5m").DurationVar(&f.interval)
	c.Flag("label", "A label of the alerts, NAME=VALUE, as the rules' alerts have it: cluster, instance and job as in examples/prometheus.yml unless given.").
		StringMapVar(&f.labels)
	c.Flag("log-file", "Append a line of JSON per check to this file. With --notify or --summary it is "+healthLog+" where its directory exists.").
		PlaceHolder("FILE").StringVar(&f.logFile)
	c.Flag("timeout", "Time for all of it; what has not answered by then is a timeout.").Default(health.DefaultBudget.String()).DurationVar(&f.timeout)
	return f.run
}

func (f *healthFlags) run(ctx context.Context, e *env) error {
	teller, err := f.teller(e.cfg)
	if err != nil {
		return err
	}
	if f.timeout <= 0 || f.interval <= 0 {
		return usageError("--timeout and --interval must be more than 0")
	}
	p := e.progress("looking", -1, false)
	r, err := health.Run(ctx, e.cfg, e.thresholds, health.Options{Budget: f.timeout, Logger: e.logger, Now: e.now})
	p.done()
	if err != nil {
		return err
	}
	before, historyErr := health.History(e.cfg.Operations.StateDir)
	if err := f.print(e, r, teller.Host, before); err != nil {
		return err
	}
	told := f.tell(ctx, teller, r, before)
	problems := []error{told.AlertmanagerErr, told.MailErr, f.log(r)}
	if historyErr == nil {
		historyErr = r.Remember(ctx, e.cfg.Operations.StateDir, told, f.summary)
	}
	switch {
	case historyErr == nil, noStateYet(e.cfg, historyErr):
	case f.scheduled():
		problems = append(problems, historyErr)
	case !e.quiet: // whoever just looks may not be one who may write there
		fmt.Fprintf(e.stderr, "niodooctl: this run is not remembered: %v\n", historyErr)
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return f.end(e, r, told, errors.Join(problems...))
}

// scheduled reports whether the run is one of those that come regularly.
func (f *healthFlags) scheduled() bool { return f.notify != "" || f.summary }

// noStateYet reports whether the default state directory is not there: nobody
// has asked for anything to be remembered.
func noStateYet(cfg *config.Config, err error) bool {
	return errors.Is(err, fs.ErrNotExist) && cfg.Operations.StateDir == config.Default().Operations.StateDir
}

// end says what went wrong besides the stack's own troubles. The verdict on the
// stack is worth more than that; only where it is well does the exit code tell.
func (f *healthFlags) end(e *env, r *health.Report, told health.Told, problems error) error {
	if e.format == formatText && !e.quiet && !f.summary {
		if told.Posted+told.Resolved > 0 {
			e.printf("Alertmanager was told: %d alerts, %d resolved.\n", told.Posted, told.Resolved)
		}
		if told.Mailed {
			e.printf("A mail was sent to %s.\n", strings.Join(e.cfg.Notify.SMTP.To, ", "))
		}
	}
	if r.Verdict == opstate.Well {
		return problems
	}
	if problems != nil {
		fmt.Fprintf(e.stderr, "niodooctl: %v\n", problems)
	}
	return verdict(r.Verdict)
}

// teller checks --notify against the configuration.
func (f *healthFlags) teller(cfg *config.Config) (health.Teller, error) {
	host, err := os.Hostname()
	if err != nil {
		host = "localhost"
	}
	t := health.Teller{Config: cfg.Notify, Interval: f.interval, Target: f.labels, Host: host}
	if f.notify == "" {
		return t, nil
	}
	for channel := range strings.SplitSeq(f.notify, ",") {
		switch strings.TrimSpace(channel) {
		case "alertmanager":
			t.Alertmanager = true
			if cfg.Notify.Alertmanager == "" {
				return t, usageError("--notify=alertmanager: write notify: {alertmanager: http://HOST:9093} in the configuration")
			}
		case "email":
			t.Email = true
			if cfg.Notify.SMTP.Smarthost == "" {
				return t, usageError("--notify=email: write notify: {smtp: {smarthost: HOST:PORT, from: …, to: […]}} in the configuration")
			}
		default:
			return t, usageError("--notify: %q is unknown; write alertmanager, email or both", channel)
		}
	}
	return t, nil
}

// tell sends what there is to tell. The summary takes the place of the mail.
func (f *healthFlags) tell(ctx context.Context, t health.Teller, r *health.Report, before opstate.HealthHistory) health.Told {
	summary := f.summary && t.Email
	if summary {
		t.Email = false
	}
	told := health.Told{}
	if t.Alertmanager || t.Email {
		told = t.Tell(ctx, r, before)
	}
	if summary {
		err := notify.SendMail(ctx, t.Config.SMTP, r.Summary(t.Host, before))
		told.Mailed, told.MailErr = told.Mailed || err == nil, errors.Join(told.MailErr, err)
	}
	return told
}

// log appends to the log file: the one named, or the manual's where a
// scheduled run finds its directory.
func (f *healthFlags) log(r *health.Report) error {
	path := f.logFile
	if path == "" {
		if !f.scheduled() {
			return nil
		}
		if _, err := os.Stat(filepath.Dir(healthLog)); err != nil {
			return nil
		}
		path = healthLog
	}
	if err := r.AppendLog(path); err != nil {
		return fmt.Errorf("--log-file: %w", err)
	}
	return nil
}

func (f *healthFlags) print(e *env, r *health.Report, host string, before opstate.HealthHistory) error {
	switch {
	case e.format == formatJSON:
		return e.json(r)
	case f.summary:
		m := r.Summary(host, before)
		e.printf("Subject: %s\n\n%s", m.Subject, m.Text)
	default:
		printComponents(e, r)
		if f.detailed {
			printChecks(e, r)
			printFindings(e, r)
		}
	}
	return nil
}

func printComponents(e *env, r *health.Report) {
	var rows [][]string
	for _, c := range r.Components {
		if e.quiet && c.Verdict == opstate.Well {
			continue
		}
		latency, figure := "-", "-"
		if c.Response != nil {
			latency = humanize.Value("seconds", *c.Response)
		}
		if c.Figure != nil {
			figure = c.Figure.Text
		}
		rows = append(rows, []string{c.Name, c.Role, e.coloured(c.Verdict, c.VerdictText()), string(c.State), latency, figure, strings.Join(c.Why, "; ")})
	}
	if len(rows) > 0 {
		e.table([]string{"COMPONENT", "ROLE", "VERDICT", "STATE", "LATENCY", "FIGURE", "WHY"}, rows, 5)
	}
	if e.quiet && r.Verdict == opstate.Well {
		return
	}
	e.printf("\n%s: %s\n", e.coloured(r.Verdict, string(r.Verdict)), sentence(r))
}

// sentence says the verdict on the whole in words.
func sentence(r *health.Report) string {
	n, bad := 0, map[opstate.Verdict][]string{}
	for _, c := range r.Components {
		if c.VerdictText() != "-" {
			n++
			bad[c.Verdict] = append(bad[c.Verdict], c.Name)
		}
	}
	if n == 0 {
		return "nothing was looked at: the configuration enables nothing that is there"
	}
	parts := []string{fmt.Sprintf("%d of %d well", len(bad[opstate.Well]), n)}
	for _, v := range []opstate.Verdict{opstate.Failing, opstate.Unknown, opstate.Warning} {
		if len(bad[v]) > 0 {
			parts = append(parts, string(v)+": "+strings.Join(bad[v], ", "))
		}
	}
	return strings.Join(parts, "; ")
}

func printChecks(e *env, r *health.Report) {
	var rows [][]string
	for _, k := range r.Checks {
		if e.quiet && k.Verdict == opstate.Well {
			continue
		}
		limit := func(v *float64) string {
			if v == nil {
				return "-"
			}
			return humanize.Value(k.Unit, *v)
		}
		value := "-"
		if k.Direction != "" {
			value = humanize.Value(k.Unit, k.Value)
		}
		result := e.coloured(k.Verdict, string(k.Verdict))
		switch {
		case k.Verdict == opstate.Well && k.OnTarget != nil && !*k.OnTarget:
			result += ", off target"
		case !k.Judged:
			result = "not judged"
		}
		rows = append(rows, []string{k.Component, k.Name, health.Subject(k), value, limit(k.Target), limit(k.Warning), limit(k.Critical), result})
	}
	e.printf("\n")
	if len(rows) > 0 {
		e.table([]string{"COMPONENT", "CHECK", "OF", "VALUE", "TARGET", "WARNING", "CRITICAL", "RESULT"}, rows, 4, 5, 6, 7)
	}
	if len(r.NotReported) > 0 && !e.quiet {
		e.printf("\nNot reported: %s\n", strings.Join(r.NotReported, ", "))
	}
}

func printFindings(e *env, r *health.Report) {
	for i, f := range r.Findings {
		if i == 0 {
			e.printf("\nFindings\n")
		}
		e.printf("  %s\n    %s\n", f.Text, f.Mend)
	}
}
