// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/alecthomas/kingpin/v2"

	"github.com/niodoo/niodoo_exporter/internal/incident"
	"github.com/niodoo/niodoo_exporter/internal/opstate"
)

func init() {
	register(spec{name: "incident close", help: "Close an incident and say what it was.", setup: setupIncidentClose})
}

func setupIncidentClose(c *kingpin.CmdClause) action {
	id, by := incidentArg(c), byFlag(c)
	text := c.Arg("text", "What it was and what mended it.").Required().Strings()
	return func(ctx context.Context, e *env) error {
		what := strings.TrimSpace(strings.Join(*text, " "))
		if what == "" {
			return usageError("say what it was")
		}
		s, err := e.incidents(ctx)
		if err != nil {
			return err
		}
		index, err := s.Index()
		if err != nil {
			return err
		}
		at := e.incidentNow()
		if err := s.Close(ctx, *id, who(*by), what, at, at); err != nil {
			return incidentError(err)
		}
		e.afterClosing(ctx, s, index.Open, *id)
		return e.incidentDone(s, *id, "closed")
	}
}

// afterClosing takes the escalation back and, if it was the last incident and
// all is well, keeps the state of things to compare with in the next one.
// Neither undoes that the incident is closed.
func (e *env) afterClosing(ctx context.Context, s incident.Store, open []opstate.Incident, id string) {
	if at := slices.IndexFunc(open, func(in opstate.Incident) bool { return in.ID == id }); at >= 0 {
		if err := e.responder(s, "").Resolve(ctx, open[at]); err != nil {
			fmt.Fprintf(e.stderr, "niodooctl: the escalation could not be taken back: %v\n", err)
		}
	}
	if len(open) > 1 {
		return
	}
	if h, err := incident.CheckHealth(ctx, e.cfg, e.thresholds, e.now); err != nil || !h.Well {
		return
	}
	if err := incident.RememberGood(ctx, e.cfg, e.now()); err != nil {
		fmt.Fprintf(e.stderr, "niodooctl: the good state could not be kept: %v\n", err)
	}
}

// responder is who responds to incidents with this command's configuration.
func (e *env) responder(s incident.Store, by string) incident.Responder {
	return incident.Responder{Config: e.cfg, Thresholds: e.thresholds, Store: s, By: by, Now: e.now}
}
