// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"strings"

	"github.com/alecthomas/kingpin/v2"

	"github.com/niodoo/niodoo_exporter/internal/doctor"
	"github.com/niodoo/niodoo_exporter/internal/observe"
	"github.com/niodoo/niodoo_exporter/internal/opstate"
)

func init() {
	register(spec{
		name: "doctor",
		help: "Find the blind spots: what nobody watches, what cannot alert, what alerts nobody, and what the configuration files cannot mean.\n\n" +
			"Prometheus and Alertmanager are asked for their rules and configurations; nothing is changed. Each finding says why it matters and the mend. " +
			"Notes, which may well be wanted as they are, do not change the exit code.",
		markdown: true,
		setup: func(c *kingpin.CmdClause) action {
			f := &doctorFlags{}
			c.Flag("alertmanager-file", "Look into this alertmanager.yml instead of the configuration in force.").StringVar(&f.alertmanager)
			c.Flag("prometheus-file", "Look into this prometheus.yml instead of the configuration in force.").StringVar(&f.prometheus)
			c.Flag("engine-file", "The engine's configuration, a path or a glob; may be repeated.").Default("/opt/niodoo/config/*.toml").StringsVar(&f.engine)
			c.Flag("compose-file", "A compose file, a path or a glob; may be repeated, and all make one stack.").
				Default("/opt/niodoo/docker-compose*.y*ml", "/opt/niodoo/compose*.y*ml").StringsVar(&f.compose)
			return f.run
		},
	})
}

type doctorFlags struct {
	alertmanager, prometheus string
	engine, compose          []string
}

func (f *doctorFlags) run(ctx context.Context, e *env) error {
	stack := observe.Open(e.cfg, e.logger)
	defer stack.Close()
	progress := e.progress("looking", -1, false)
	defer progress.done()
	look := stack.Look(ctx, nil)
	rep, err := doctor.Examine(ctx, doctor.Options{Config: e.cfg, Thresholds: e.thresholds, Snapshot: look,
		AlertmanagerFile: f.alertmanager, PrometheusFile: f.prometheus, EngineFiles: f.engine, ComposeFiles: f.compose, Now: e.now().UTC(),
	}, func() { progress.add(1) })
	if err != nil {
		return err
	}
	progress.done()
	if e.format == formatJSON {
		err = e.json(rep)
	} else {
		printDoctor(e, rep)
	}
	if err != nil {
		return err
	}
	if rep.Verdict != opstate.Well {
		return verdict(rep.Verdict)
	}
	return nil
}

// findingVerdicts give the levels their colours.
var findingVerdicts = map[doctor.Level]opstate.Verdict{doctor.Failing: opstate.Failing, doctor.Warning: opstate.Warning}

func printDoctor(e *env, rep *doctor.Report) {
	titles := doctor.Titles()
	counts := map[doctor.Level]int{}
	for _, f := range rep.Findings {
		counts[f.Level]++
	}
	if !e.quiet {
		e.heading(1, "Blind spots at "+rep.Generated.Format("2006-01-02 15:04 MST"))
		e.printf("%d checks: %d failing, %d warnings, %d notes; %d not looked at.\n", len(titles), counts[doctor.Failing], counts[doctor.Warning],
			counts[doctor.Note], len(rep.NotLookedAt))
	}
	for _, f := range rep.Findings {
		if e.quiet && f.Level == doctor.Note {
			continue
		}
		word := e.coloured(findingVerdicts[f.Level], string(f.Level))
		if e.format == formatMarkdown {
			e.printf("\n- **%s** %s: %s.\n  %s\n  *Mend:* %s\n", word, f.Where, f.What, f.Why, f.Mend)
			continue
		}
		e.printf("\n%s  %s: %s\n         %s\n         Mend: %s\n", pad(word, string(f.Level)), f.Where, f.What, f.Why, f.Mend)
	}
	if len(rep.NotLookedAt) > 0 && !e.quiet {
		e.heading(2, "Not looked at")
		for _, s := range rep.NotLookedAt {
			e.printf("- %s: %s\n", titles[s.Check], oneLine(s.Why))
		}
	}
}

// pad fills a word, which may be coloured, up to the width of the longest level.
func pad(word, plain string) string {
	return word + strings.Repeat(" ", len(doctor.Warning)-len(plain))
}
