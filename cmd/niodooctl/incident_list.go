// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"slices"

	"github.com/alecthomas/kingpin/v2"

	"github.com/niodoo/niodoo_exporter/internal/incident"
	"github.com/niodoo/niodoo_exporter/internal/opstate"
)

func init() {
	register(spec{name: "incident list", help: "List the open incidents, the most urgent first.", setup: setupIncidentList})
}

func setupIncidentList(c *kingpin.CmdClause) action {
	all := c.Flag("all", "List the latest closed ones too.").Bool()
	return func(_ context.Context, e *env) error {
		s := incident.Store{Dir: e.cfg.Operations.StateDir}
		index, err := s.Index()
		if err != nil {
			return err
		}
		list := index.Open
		slices.SortStableFunc(list, func(a, b opstate.Incident) int {
			return cmp.Or(cmp.Compare(a.Priority, b.Priority), a.Opened.Compare(b.Opened))
		})
		if *all {
			slices.Reverse(index.Closed)
			list = append(list, index.Closed...)
		}
		reports := make([]incident.Report, 0, len(list))
		for _, in := range list {
			reports = append(reports, incident.Brief(in, e.thresholds, e.incidentNow()))
		}
		if e.format == formatJSON {
			return e.json(map[string]any{"incidents": reports})
		}
		return e.listIncidents(reports)
	}
}

func (e *env) listIncidents(reports []incident.Report) error {
	if len(reports) == 0 {
		if !e.quiet {
			e.printf("No incident is open.\n")
		}
		return nil
	}
	var rows [][]string
	for _, r := range reports {
		verdict := opstate.Well
		if r.ResponseMissed {
			verdict = opstate.Failing
		}
		response := incident.Duration(r.Response) + " of " + incident.Duration(r.ResponseTarget)
		rows = append(rows, []string{r.ID, string(r.Priority), incidentState(r), e.coloured(verdict, response), r.Title})
	}
	e.table([]string{"INCIDENT", "PRIORITY", "STATE", "RESPONSE", "TITLE"}, rows)
	return nil
}

// incidentState says in a few words how far an incident is.
func incidentState(r incident.Report) string {
	open := incident.Duration(r.Resolution)
	switch {
	case !r.Ended.IsZero():
		return "closed after " + open
	case !r.Acknowledged.IsZero():
		return "taken on, open for " + open
	default:
		return "taken on by nobody, open for " + open
	}
}
