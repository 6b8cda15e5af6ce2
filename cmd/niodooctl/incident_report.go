// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"

	"github.com/alecthomas/kingpin/v2"

	"github.com/niodoo/niodoo_exporter/internal/incident"
	"github.com/niodoo/niodoo_exporter/internal/opstate"
)

func init() {
	register(spec{name: "incident report", markdown: true, setup: setupIncidentReport,
		help: "Print the skeleton of an incident's post-mortem in Markdown, or the durations of all incidents against the targets."})
}

func setupIncidentReport(c *kingpin.CmdClause) action {
	id := c.Arg("incident", "The incident's id; without one all incidents are summed up.").String()
	return func(_ context.Context, e *env) error {
		s := incident.Store{Dir: e.cfg.Operations.StateDir}
		if *id == "" {
			return e.sumUpIncidents(s)
		}
		r, err := s.Report(*id, e.thresholds, e.incidentNow())
		if err != nil {
			return incidentError(err)
		}
		if e.format == formatJSON {
			return e.json(r)
		}
		e.printf("%s", r.Markdown())
		return nil
	}
}

// incidentTotals is a priority's incidents against the targets.
type incidentTotals struct {
	Priority           opstate.Priority `json:"priority"`
	Means              string           `json:"means"`
	Open               int              `json:"open"`
	Opened             int64            `json:"opened"`
	Acknowledged       int64            `json:"acknowledged"`
	Closed             int64            `json:"closed"`
	MeanResponse       *float64         `json:"mean_response_seconds"`
	ResponseTarget     float64          `json:"response_target_seconds"`
	MeanResolution     *float64         `json:"mean_resolution_seconds"`
	Escalation         string           `json:"escalation"`
	LatestMissedTarget int              `json:"latest_missed_target"`
}

// sumUpIncidents prints totals by priority, and how many of those that are
// still known, the open and the latest closed ones, missed their target.
func (e *env) sumUpIncidents(s incident.Store) error {
	index, err := s.Index()
	if err != nil {
		return err
	}
	all := make([]incidentTotals, 0, len(opstate.Priorities))
	for _, p := range opstate.Priorities {
		plan, t := incident.PlanOf(p, e.thresholds), index.Totals[p]
		sum := incidentTotals{Priority: p, Means: plan.Means, Opened: t.Opened, Acknowledged: t.Acknowledged, Closed: t.Closed,
			MeanResponse: mean(t.ResponseSeconds, t.Acknowledged), ResponseTarget: plan.Response.Seconds(),
			MeanResolution: mean(t.ResolutionSeconds, t.Closed), Escalation: plan.Escalation}
		for _, in := range append(index.Open, index.Closed...) {
			if in.Priority != p {
				continue
			}
			if in.Ended.IsZero() {
				sum.Open++
			}
			if incident.Brief(in, e.thresholds, e.incidentNow()).ResponseMissed {
				sum.LatestMissedTarget++
			}
		}
		all = append(all, sum)
	}
	if e.format == formatJSON {
		return e.json(map[string]any{"priorities": all})
	}
	var rows [][]string
	for _, t := range all {
		rows = append(rows, []string{string(t.Priority), t.Means, fmt.Sprint(t.Open), fmt.Sprint(t.Opened), orDash(t.MeanResponse),
			incident.Duration(t.ResponseTarget), fmt.Sprint(t.LatestMissedTarget), orDash(t.MeanResolution), t.Escalation})
	}
	e.table([]string{"PRIORITY", "MEANS", "OPEN", "EVER", "MEAN RESPONSE", "TARGET", "LATELY MISSED", "MEAN RESOLUTION", "ESCALATION"}, rows, 3, 4, 7)
	return nil
}

func mean(sum float64, n int64) *float64 {
	if n == 0 {
		return nil
	}
	return new(sum / float64(n))
}

func orDash(seconds *float64) string {
	if seconds == nil {
		return "-"
	}
	return incident.Duration(*seconds)
}
