// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"

	"github.com/alecthomas/kingpin/v2"
)

func init() {
	register(spec{name: "incident ack", help: "Take an incident on: the time until then is its response time.", setup: setupIncidentAck})
}

func setupIncidentAck(c *kingpin.CmdClause) action {
	id, by := incidentArg(c), byFlag(c)
	return func(ctx context.Context, e *env) error {
		s, err := e.incidents(ctx)
		if err != nil {
			return err
		}
		if err := s.Acknowledge(ctx, *id, who(*by), e.incidentNow()); err != nil {
			return incidentError(err)
		}
		return e.incidentDone(s, *id, "taken on")
	}
}
