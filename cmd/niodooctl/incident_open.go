// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/alecthomas/kingpin/v2"

	"github.com/niodoo/niodoo_exporter/internal/incident"
	"github.com/niodoo/niodoo_exporter/internal/opstate"
)

func init() {
	register(spec{name: "incident open", setup: setupIncidentOpen,
		help: "Open an incident: collect evidence, then restart what is configured and down, once, look again, and escalate."})
}

func setupIncidentOpen(c *kingpin.CmdClause) action {
	names := make([]string, len(opstate.Priorities))
	for i, p := range opstate.Priorities {
		names[i] = string(p)
	}
	priority := c.Arg("priority", "P1 system down, P2 performance degradation, P3 minor issues, P4 enhancement requests.").Required().HintOptions(names...).Enum(names...)
	what := c.Arg("what", "What is wrong, in a few words.").Required().Strings()
	by := byFlag(c)
	dryRun := c.Flag("dry-run", "Say what would be done, and do nothing.").Bool()
	return func(ctx context.Context, e *env) error {
		title := strings.TrimSpace(strings.Join(*what, " "))
		if title == "" {
			return usageError("say what is wrong")
		}
		p := opstate.Priority(*priority)
		if *dryRun {
			return e.wouldOpen(ctx, p, title)
		}
		return e.openIncident(ctx, p, title, who(*by))
	}
}

func (e *env) openIncident(ctx context.Context, p opstate.Priority, title, by string) error {
	s, err := e.incidents(ctx)
	if err != nil {
		return err
	}
	at := e.incidentNow()
	id, err := s.Open(ctx, incident.New{Priority: p, Title: title, By: by, At: at})
	if err != nil {
		return err
	}
	plan := incident.PlanOf(p, e.thresholds)
	if e.format == formatText {
		e.printf("%s %s (%s): response within %s, escalation: %s\n", id, p, plan.Means, incident.Duration(plan.Response.Seconds()), strings.ToLower(plan.Escalation))
	}
	r := e.responder(s, by)
	r.Progress = func(p incident.Piece) {
		if !e.quiet && isTerminal(e.stderr) {
			fmt.Fprintf(e.stderr, "%s: %s\n", p.Name, p.Result)
		}
	}
	o, err := r.Respond(ctx, opstate.Incident{ID: id, Priority: p, Title: title, Opened: at}, nil)
	if err != nil {
		return err
	}
	if e.format == formatJSON {
		if err := e.json(struct {
			ID        string `json:"id"`
			Directory string `json:"directory"`
			incident.Outcome
		}{id, s.Path(id), o}); err != nil {
			return err
		}
	} else {
		e.printOutcome(s, id, o)
	}
	if v := o.Verdict(); v != opstate.Well {
		return verdict(v)
	}
	return nil
}

// pieceVerdicts colour the results of evidence.
var pieceVerdicts = map[incident.Result]opstate.Verdict{incident.Taken: opstate.Well, incident.NotLookedAt: opstate.Unknown, incident.Failed: opstate.Warning}

func (e *env) printOutcome(s incident.Store, id string, o incident.Outcome) {
	var rows [][]string
	for _, p := range o.Evidence.Pieces {
		if e.quiet && p.Result == incident.Taken {
			continue
		}
		rows = append(rows, []string{p.Name, e.coloured(pieceVerdicts[p.Result], string(p.Result)), p.File, strings.Join(strings.Fields(p.Detail), " ")})
	}
	if len(rows) > 0 {
		e.table([]string{"EVIDENCE", "RESULT", "FILE", ""}, rows)
	}
	if h := o.Evidence.Health; h != nil {
		e.printf("Health: %s\n", h.Summary())
	}
	if o.Restarted != "" {
		e.printf("Restarted: %s\n", o.Restarted)
	}
	if o.ActionError != "" {
		e.printf("Restart: %s\n", o.ActionError)
	}
	if o.After != nil {
		e.printf("Health after the restart: %s\n", o.After.Summary())
	}
	if o.Escalated != "" {
		e.printf("Escalated to: %s\n", o.Escalated)
	}
	if o.EscalationError != "" {
		e.printf("Not escalated: %s\n", strings.Join(strings.Fields(o.EscalationError), " "))
	}
	e.printf("Evidence is in %s; begin with changes.txt and statements.txt.\n", s.Evidence(id))
	e.printf("Next: niodooctl incident ack %s\n", id)
}

// wouldOpen says what opening an incident would do now.
func (e *env) wouldOpen(ctx context.Context, p opstate.Priority, title string) error {
	plan := incident.PlanOf(p, e.thresholds)
	h, err := incident.CheckHealth(ctx, e.cfg, e.thresholds, e.now)
	if err != nil {
		return err
	}
	would := []string{
		fmt.Sprintf("open an incident of %s (%s): %s", p, plan.Means, title),
		"collect evidence for at most " + e.cfg.Incident.Timeout.String(),
	}
	switch component, target := incident.Restartable(e.cfg, &h); {
	case !plan.Restarts:
		would = append(would, "restart nothing: "+string(p)+" is no outage")
	case component == "":
		would = append(would, "restart nothing: "+h.Summary()+", and incident.restart has "+listOr(slices.Sorted(maps.Keys(e.cfg.Incident.Restart)), "nothing"))
	default:
		would = append(would, fmt.Sprintf("restart the %s once, for %s, unless it was within the last hour", target, component))
	}
	would = append(would, "escalate: "+strings.ToLower(plan.Escalation))
	if e.format == formatJSON {
		return e.json(map[string]any{"would": would})
	}
	for _, w := range would {
		e.printf("would %s\n", w)
	}
	return nil
}

func listOr(names []string, none string) string {
	if len(names) == 0 {
		return none
	}
	return strings.Join(names, ", ")
}
