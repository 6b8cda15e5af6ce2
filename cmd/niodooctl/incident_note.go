// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"strings"

	"github.com/alecthomas/kingpin/v2"

	"github.com/niodoo/niodoo_exporter/internal/incident"
)

func init() {
	register(spec{name: "incident note", help: "Add a note to an incident's timeline, open or closed.", setup: setupIncidentNote})
}

func setupIncidentNote(c *kingpin.CmdClause) action {
	id, by := incidentArg(c), byFlag(c)
	text := c.Arg("text", "What was seen, thought or done.").Required().Strings()
	return func(ctx context.Context, e *env) error {
		note := strings.TrimSpace(strings.Join(*text, " "))
		if note == "" {
			return usageError("the note is empty")
		}
		s, err := e.incidents(ctx)
		if err != nil {
			return err
		}
		entry := incident.Entry{At: e.incidentNow(), Kind: incident.KindNote, By: who(*by), Text: note}
		if err := s.Append(ctx, *id, entry); err != nil {
			return incidentError(err)
		}
		return e.incidentDone(s, *id, "noted")
	}
}

// incidentDone prints what an incident has come to.
func (e *env) incidentDone(s incident.Store, id, what string) error {
	r, err := s.Report(id, e.thresholds, e.incidentNow())
	if err != nil {
		return err
	}
	if e.format == formatJSON {
		return e.json(r)
	}
	if !e.quiet {
		e.printf("%s %s: %s\n", id, what, incidentState(r))
	}
	return nil
}
