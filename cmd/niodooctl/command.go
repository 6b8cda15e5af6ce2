// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"io"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/alecthomas/kingpin/v2"

	"github.com/niodoo/niodoo_exporter/internal/config"
	"github.com/niodoo/niodoo_exporter/internal/thresholds"
)

// env is what a command works with.
type env struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	now            func() time.Time

	configFile, thresholdsFile string
	format                     string
	noColor, quiet             bool
	logLevel                   string

	cfg        *config.Config
	thresholds thresholds.Set
	logger     *slog.Logger
}

// action runs a command. It prints what it found to e.stdout and returns a
// [verdict] for the exit code, nil for well, or what kept it from finding out.
type action func(ctx context.Context, e *env) error

// spec is a command, one per file: its words, such as "backup create", its help
// and what declares its flags.
type spec struct {
	name, help string
	// markdown says that the command has an output format for people's pages too.
	markdown bool
	setup    func(c *kingpin.CmdClause) action
}

var specs = map[string]spec{}

// register makes a command known.
func register(s spec) {
	if _, ok := specs[s.name]; ok {
		panic("niodooctl: " + s.name + " registered twice")
	}
	specs[s.name] = s
}

// groups are the first words that several commands share.
var groups = map[string]string{
	"backup":      "Make, prove and restore backups.",
	"incident":    "Handle incidents: evidence, timeline, escalation.",
	"logs":        "Look into the logs.",
	"maintenance": "Run the maintenance plan.",
	"notify":      "Try the way a notification takes.",
}

// installed is a command with its flags' values bound.
type installed struct {
	spec   spec
	action action
}

// install adds every command to app and returns them by full name.
func install(app *kingpin.Application) map[string]*installed {
	all := map[string]*installed{}
	parents := map[string]*kingpin.CmdClause{}
	for _, name := range slices.Sorted(maps.Keys(specs)) {
		s := specs[name]
		var c *kingpin.CmdClause
		if group, sub, ok := strings.Cut(name, " "); ok {
			if parents[group] == nil {
				parents[group] = app.Command(group, groups[group])
			}
			c = parents[group].Command(sub, s.help)
		} else {
			c = app.Command(name, s.help)
		}
		all[c.FullCommand()] = &installed{s, s.setup(c)}
	}
	return all
}

// niodooctl runs another command of this program with the same configuration,
// its text output going to stdout, and returns its exit code: a maintenance
// plan is made of the commands that people use.
func (e *env) niodooctl(ctx context.Context, stdout io.Writer, args ...string) int {
	global := []string{"--no-color", "--log.level=" + e.logLevel}
	if e.configFile != "" {
		global = append(global, "--config.file="+e.configFile)
	}
	if e.thresholdsFile != "" {
		global = append(global, "--thresholds.file="+e.thresholdsFile)
	}
	return run(ctx, append(global, args...), strings.NewReader(""), stdout, e.stderr)
}
