// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"net"

	"github.com/alecthomas/kingpin/v2"

	"github.com/niodoo/niodoo_exporter/internal/incident"
	"github.com/niodoo/niodoo_exporter/internal/logging"
)

func init() {
	register(spec{name: "incident listen", setup: setupIncidentListen,
		help: "Open and close incidents as Alertmanager's webhook asks, and mail when the alerts' heartbeat or another listener falls silent."})
}

func setupIncidentListen(*kingpin.CmdClause) action {
	return func(ctx context.Context, e *env) error {
		l := e.cfg.Incident.Listen
		if incident.Exposed(l) {
			return usageError("incident.listen.address %s is open to other machines: write token_file: FILE, or web_config_file: FILE with client certificates", l.Address)
		}
		logger := e.logger
		if e.logLevel == "error" { // a service's journal should tell what it does
			var err error
			if logger, err = logging.New(e.stderr, "info", "logfmt"); err != nil {
				return err
			}
		}
		return incident.NewListener(e.cfg, e.thresholds, logger, e.now).Listen(ctx, func(at net.Addr) {
			logger.Info("Listening", "address", at.String())
		})
	}
}
