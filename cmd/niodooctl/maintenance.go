// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/alecthomas/kingpin/v2"

	"github.com/niodoo/niodoo_exporter/internal/humanize"
	"github.com/niodoo/niodoo_exporter/internal/maintenance"
	"github.com/niodoo/niodoo_exporter/internal/opstate"
)

func init() {
	for _, p := range maintenance.Plans {
		register(spec{name: "maintenance " + string(p.Plan), help: maintenanceHelp(p.Plan), setup: func(c *kingpin.CmdClause) action {
			return setupMaintenance(c, p.Plan)
		}})
	}
}

func maintenanceHelp(p maintenance.Plan) string {
	var does []string
	for _, s := range maintenance.Of(p) {
		does = append(does, s.Does)
	}
	return fmt.Sprintf("Run the %s maintenance: %s. It exits 1 when a step was skipped or found something to look at, and 2 when one failed.",
		p, strings.Join(does, ", "))
}

func setupMaintenance(c *kingpin.CmdClause, p maintenance.Plan) action {
	names := maintenance.Names(maintenance.Of(p))
	dryRun := c.Flag("dry-run", "Say what would be done, and do nothing.").Bool()
	only := c.Flag("only", "Run this step only; may be repeated.").PlaceHolder("STEP").HintOptions(names...).Enums(names...)
	force := c.Flag("force", "Run the steps that load the stack while it is in trouble, and outside maintenance.window, too.").Bool()
	wait := c.Flag("wait", "How long to wait for another run of maintenance to end.").Default("0s").Duration()
	return func(ctx context.Context, e *env) error {
		r := &maintenance.Runner{Config: e.cfg, Logger: e.logger, Now: e.now, DryRun: *dryRun, Force: *force, Wait: *wait,
			Command: func(ctx context.Context, stdout, stderr io.Writer, args ...string) int {
				sub := *e
				sub.stderr = stderr
				return sub.niodooctl(ctx, stdout, args...)
			}}
		return e.maintain(ctx, r, p, *only)
	}
}

// maintain runs a plan and prints how it goes.
func (e *env) maintain(ctx context.Context, r *maintenance.Runner, p maintenance.Plan, only []string) error {
	live := e.format == formatText && !e.quiet
	r.Begin = func(s maintenance.Step) {
		if live {
			e.printf("%s: %s\n", s.Name, s.Does)
		}
	}
	r.Say = func(line string) {
		if live {
			e.printf("  %s\n", line)
		}
	}
	r.End = func(s maintenance.StepReport) {
		if live || e.format == formatText && (s.Finding || s.Result != opstate.StepOK) {
			e.printf("%s\n", e.coloured(stepVerdict(s), fmt.Sprintf("%s: %s after %s: %s", s.Step, s.Result,
				humanize.Duration(time.Duration(s.Seconds*float64(time.Second))), s.Detail)))
		}
	}
	rep, err := r.Run(ctx, p, only)
	if e.format == formatJSON && len(rep.Steps) > 0 {
		if err := e.json(rep); err != nil {
			return err
		}
	}
	for _, problem := range rep.Problems {
		fmt.Fprintf(e.stderr, "niodooctl: not remembered: %s\n", problem)
	}
	if err != nil {
		return err
	}
	if v := rep.Verdict(); v != opstate.Well {
		return verdict(v)
	}
	return nil
}

// stepVerdict is what a step's result is worth.
func stepVerdict(s maintenance.StepReport) opstate.Verdict {
	switch {
	case s.Result == opstate.StepFailed:
		return opstate.Failing
	case s.Result == opstate.StepSkipped || s.Finding:
		return opstate.Warning
	}
	return opstate.Well
}
