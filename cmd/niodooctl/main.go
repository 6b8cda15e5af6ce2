// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

// Command niodooctl is the operator's hand on a Niodoo consciousness stack:
// health checks, reports, log analysis, backups, incidents and maintenance. It
// shares the exporter's configuration file, collectors and thresholds, so that
// exporter, alerts and tool always agree.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"syscall"
	"time"

	"github.com/alecthomas/kingpin/v2"
	"github.com/prometheus/common/version"
	"github.com/redis/go-redis/v9"

	"github.com/niodoo/niodoo_exporter/internal/config"
	"github.com/niodoo/niodoo_exporter/internal/loganalysis"
	"github.com/niodoo/niodoo_exporter/internal/logging"
	"github.com/niodoo/niodoo_exporter/internal/opstate"
	"github.com/niodoo/niodoo_exporter/internal/thresholds"
)

// Exit codes, as monitoring plugins have them, and those of sysexits.h.
const (
	exitWell        = 0
	exitWarning     = 1
	exitFailing     = 2
	exitUnknown     = 3 // could not check
	exitUsage       = 64
	exitLocked      = 75
	exitInterrupted = 130
)

func main() {
	redis.SetLogger(silent{}) // what it would log, a command returns
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	go func() { <-ctx.Done(); stop() }() // a second signal ends us at once
	os.Exit(run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// An argument such as @oncall is text, no file of arguments.
func init() { kingpin.EnableFileExpansion = false }

// silent drops what the Redis client logs by itself.
type silent struct{}

func (silent) Printf(context.Context, string, ...any) {}

// run is the whole program. It returns the exit code.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	e := &env{stdin: stdin, stdout: stdout, stderr: stderr, now: time.Now}
	app := kingpin.New("niodooctl", "The operator's tool for a Niodoo consciousness stack.\n\n"+
		"It exits 0 when all is well, 1 with a warning, 2 when something fails, 3 when it could not be checked, "+
		"64 for a wrong command line, 75 when another run holds the lock and 130 when interrupted.")
	exited, code := false, exitWell
	app.Terminate(func(c int) { exited, code = true, c })
	app.UsageWriter(writerFunc(func(p []byte) (int, error) {
		if exited { // kingpin goes on after it has asked for the end, and would say all again
			return len(p), nil
		}
		return stdout.Write(p)
	}))
	app.ErrorWriter(stderr)
	app.HelpFlag.Short('h')
	app.Version(version.Print("niodooctl"))
	app.Flag("config.file", "Path of the configuration file, the exporter's own. Without one the manual's ports on localhost are looked at.").
		Envar("NIODOO_CONFIG").StringVar(&e.configFile)
	app.Flag("thresholds.file", "Path of an edited copy of thresholds.json.").StringVar(&e.thresholdsFile)
	app.Flag("format", "Format of the output.").Short('o').Default(formatText).EnumVar(&e.format, formatText, formatJSON, formatMarkdown)
	app.Flag("no-color", "Never colour the output. NO_COLOR and TERM=dumb say the same.").BoolVar(&e.noColor)
	app.Flag("quiet", "Print only what is not well, and no progress.").Short('q').BoolVar(&e.quiet)
	app.Flag("log.level", "Lowest level to log to the standard error.").Default("error").EnumVar(&e.logLevel, logging.Levels...)
	actions := install(app)

	name, err := app.Parse(namedStdin(args))
	if exited && len(args) == 0 {
		fmt.Fprintln(stderr, "niodooctl: name a command, one of those above")
		return exitUsage
	}
	if exited {
		return code
	}
	if err != nil {
		fmt.Fprintf(stderr, "niodooctl: %v; see --help\n", err)
		return exitUsage
	}
	return e.do(ctx, actions[name])
}

// namedStdin gives a lone dash, which kingpin would make an empty argument, the
// standard input's name.
func namedStdin(args []string) []string {
	args = slices.Clone(args)
	for i, a := range args {
		if a == "-" {
			args[i] = loganalysis.Stdin
		}
	}
	return args
}

type writerFunc func(p []byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// do loads what every command needs, runs one and returns the exit code.
func (e *env) do(ctx context.Context, c *installed) int {
	err := e.load(c.spec)
	if err == nil {
		err = c.action(ctx, e)
	}
	return e.exitCode(ctx, err)
}

func (e *env) load(s spec) error {
	var err error
	if !s.markdown && e.format == formatMarkdown {
		return usageError("-o markdown is not for this command; write -o text or -o json")
	}
	if e.logger, err = logging.New(e.stderr, e.logLevel, "logfmt"); err != nil {
		return usageError("%v", err)
	}
	if e.cfg, err = config.Load(e.configFile); err != nil {
		return usageError("%v", err)
	}
	e.thresholds = thresholds.Default()
	if e.thresholdsFile != "" {
		if e.thresholds, err = thresholds.Load(e.thresholdsFile); err != nil {
			return usageError("%v", err)
		}
	}
	return nil
}

// exitCode says on the standard error what went wrong, and turns it into the
// exit code. What a command found out is no error: it returns a [verdict].
func (e *env) exitCode(ctx context.Context, err error) int {
	if v, ok := errors.AsType[verdict](err); ok {
		return opstate.Verdict(v).ExitCode()
	}
	switch {
	case err == nil:
		return exitWell
	case ctx.Err() != nil:
		fmt.Fprintln(e.stderr, "niodooctl: interrupted")
		return exitInterrupted
	}
	fmt.Fprintf(e.stderr, "niodooctl: %v\n", err)
	if c, ok := errors.AsType[*codedError](err); ok {
		return c.code
	}
	if errors.Is(err, opstate.ErrLocked) {
		return exitLocked
	}
	return exitUnknown
}

// verdict is what a command found out, for the exit code. It is no failure of
// the command, and nothing is printed for it.
type verdict opstate.Verdict

func (v verdict) Error() string { return string(v) }

// codedError is a failure with an exit code of its own.
type codedError struct {
	code int
	err  error
}

func (c *codedError) Error() string { return c.err.Error() }
func (c *codedError) Unwrap() error { return c.err }

// usageError is a mistake in the command line or in a file it names.
func usageError(format string, args ...any) error {
	return &codedError{exitUsage, fmt.Errorf(format, args...)}
}

// failingError is an action that was tried and failed.
func failingError(err error) error {
	if err == nil {
		return nil
	}
	return &codedError{exitFailing, err}
}
