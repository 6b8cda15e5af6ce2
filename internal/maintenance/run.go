// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package maintenance

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"github.com/niodoo/niodoo_exporter/internal/atomicfile"
	"github.com/niodoo/niodoo_exporter/internal/config"
	"github.com/niodoo/niodoo_exporter/internal/humanize"
	"github.com/niodoo/niodoo_exporter/internal/opstate"
)

const (
	lockFile = "maintenance.lock"
	// lockRetry is how often a lock that is taken is tried again.
	lockRetry = 200 * time.Millisecond
	// margin is how much longer than its limit a step may be in progress: it
	// takes a moment to break it off.
	margin = time.Minute
	// maxRun is how long a run may be in progress; alerts are silent for it.
	maxRun = 24 * time.Hour
	// maxDetail bounds a step's detail, in bytes.
	maxDetail = 2000
	// recordTime bounds the writing of the state.
	recordTime = 30 * time.Second
)

// Exit codes of niodooctl's commands that are not verdicts.
const (
	exitLocked      = 75
	exitInterrupted = 130
)

// Runner runs plans.
type Runner struct {
	Config *config.Config
	Logger *slog.Logger
	Now    func() time.Time
	// Command runs a niodooctl command and returns its exit code.
	Command func(ctx context.Context, stdout, stderr io.Writer, args ...string) int
	// Begin is told of each step that is about to be run or skipped, Say each
	// line that a step has to say, and End how it ended.
	Begin func(Step)
	Say   func(line string)
	End   func(StepReport)
	// DryRun changes nothing: the steps say what they would do.
	DryRun bool
	// Force runs the steps that load the stack whatever its state and the time.
	Force bool
	// Wait is how long another run is waited for.
	Wait time.Duration

	steps  []Step // the tests' own plan; nil is Steps
	health *int   // exit code of this run's health command, once it has run
}

// StepReport is how a step went.
type StepReport struct {
	Step    string             `json:"step"`
	Started time.Time          `json:"started"`
	Seconds float64            `json:"duration_seconds"`
	Result  opstate.StepResult `json:"result"`
	// Finding says that the step went well and found something to look at.
	Finding bool     `json:"finding"`
	Detail  string   `json:"detail"`
	Lines   []string `json:"lines"`
}

// Report is how a run went.
type Report struct {
	Plan    Plan         `json:"plan"`
	DryRun  bool         `json:"dry_run"`
	Started time.Time    `json:"started"`
	Steps   []StepReport `json:"steps"`
	// Problems kept the run from remembering what it did.
	Problems []string `json:"problems"`
}

// Verdict is failing if a step failed, and a warning if one was skipped or
// found something to look at.
func (r Report) Verdict() opstate.Verdict {
	v := opstate.Well
	for _, s := range r.Steps {
		switch {
		case s.Result == opstate.StepFailed:
			return opstate.Failing
		case s.Result == opstate.StepSkipped || s.Finding:
			v = opstate.Warning
		}
	}
	if len(r.Problems) > 0 {
		return opstate.Failing
	}
	return v
}

// outcome is what a step did.
type outcome struct {
	result  opstate.StepResult
	finding bool
	detail  string
}

func done(finding bool, format string, args ...any) outcome {
	return outcome{opstate.StepOK, finding, fmt.Sprintf(format, args...)}
}

func skipped(format string, args ...any) outcome {
	return outcome{result: opstate.StepSkipped, detail: fmt.Sprintf(format, args...)}
}

func failed(format string, args ...any) outcome {
	return outcome{result: opstate.StepFailed, detail: fmt.Sprintf(format, args...)}
}

// job is what a step works with.
type job struct {
	*Runner
	step  Step
	lines []string
}

func (j *job) say(format string, args ...any) {
	line := fmt.Sprintf(format, args...)
	j.lines = append(j.lines, line)
	j.Say(line)
}

// would says what is being done, or would be.
func (j *job) would(does, would, format string, args ...any) {
	verb := does
	if j.DryRun {
		verb = "would " + would
	}
	j.say("%s "+format, append([]any{verb}, args...)...)
}

// Run runs the steps of a plan that only names, all for none. It returns
// [opstate.ErrLocked] where another run holds the lock, and ctx's error where
// it was interrupted; the report says how far it came.
func (r *Runner) Run(ctx context.Context, plan Plan, only []string) (Report, error) {
	rep := Report{Plan: plan, DryRun: r.DryRun, Started: r.Now(), Steps: []StepReport{}, Problems: []string{}}
	steps := r.chosen(plan, only)
	if r.DryRun {
		for _, s := range steps {
			if err := ctx.Err(); err != nil {
				return rep, err
			}
			r.Begin(s)
			why, limit := "", s.limit(r.Config)
			if s.Loads && !r.Force {
				why, limit = r.window(limit)
			}
			rep.Steps = append(rep.Steps, r.run(ctx, s, limit, why))
		}
		return rep, nil
	}
	if err := os.MkdirAll(r.Config.Operations.StateDir, 0o755); err != nil {
		return rep, fmt.Errorf("operations.state_dir: %w", err)
	}
	unlock, waited, err := r.lock(ctx)
	if err != nil {
		return rep, err
	}
	defer unlock()
	if err := r.runAll(ctx, &rep, steps, waited); err != nil {
		return rep, err
	}
	return rep, ctx.Err()
}

// plan returns all plans' steps.
func (r *Runner) plan() []Step {
	if r.steps != nil {
		return r.steps
	}
	return Steps
}

func (r *Runner) chosen(plan Plan, only []string) []Step {
	return slices.DeleteFunc(slices.Clone(r.plan()), func(s Step) bool {
		return s.Plan != plan || len(only) > 0 && !slices.Contains(only, s.Name)
	})
}

// runAll runs the steps while we hold the lock, which we may have waited for.
func (r *Runner) runAll(ctx context.Context, rep *Report, steps []Step, waited bool) error {
	begun := r.Now()
	r.health = nil
	// Nothing is begun that nobody would learn of.
	if err := r.inProgress(ctx, rep, begun, 0); err != nil {
		return fmt.Errorf("operations.state_dir: %w", err)
	}
	for _, s := range steps {
		if ctx.Err() != nil {
			break
		}
		r.Begin(s)
		if waited && r.doneSince(s, rep.Started) { // what it left is better than that we did nothing
			rep.Steps = append(rep.Steps, r.end(StepReport{Step: s.Name, Started: r.Now(), Result: opstate.StepSkipped,
				Detail: "another run has done it meanwhile"}))
			continue
		}
		limit := s.limit(r.Config)
		rep.problem(r.inProgress(ctx, rep, begun, limit))
		why := ""
		if s.Loads && !r.Force {
			if why = r.trouble(ctx); why == "" {
				why, limit = r.window(limit)
			}
		}
		one := r.run(ctx, s, limit, why)
		rep.Steps = append(rep.Steps, one)
		rep.problem(r.record(ctx, s, one))
	}
	rep.problem(r.finish(ctx))
	return nil
}

// problem notes what kept the run from remembering what it did.
func (r *Report) problem(err error) {
	if err != nil {
		r.Problems = append(r.Problems, err.Error())
	}
}

// run runs one step, or skips it for the reason why.
func (r *Runner) run(ctx context.Context, s Step, limit time.Duration, why string) StepReport {
	j := &job{Runner: r, step: s}
	started := r.Now()
	began := time.Now()
	limited, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	var o outcome
	var err error
	switch {
	case why != "":
		o = skipped("%s", why)
	case s.own != nil:
		o, err = s.own(limited, j)
	default:
		o, err = j.command(limited)
	}
	switch {
	case ctx.Err() != nil && (err != nil || o.result == opstate.StepFailed):
		o = failed("interrupted")
	case limited.Err() != nil && (err != nil || o.result == opstate.StepFailed):
		text := o.detail
		if err != nil {
			text = err.Error()
		}
		o = failed("broken off after its time limit of %s: %s", humanize.Duration(limit), text)
	case err != nil:
		o = failed("%v", err)
	}
	return r.end(StepReport{Step: s.Name, Started: started, Seconds: time.Since(began).Seconds(), Result: o.result,
		Finding: o.finding, Detail: cut(o.detail), Lines: j.lines})
}

func (r *Runner) end(s StepReport) StepReport {
	if s.Lines == nil {
		s.Lines = []string{}
	}
	r.End(s)
	return s
}

// cut makes one line of a text and bounds it, as the state's readers do.
func cut(s string) string {
	s = strings.Join(strings.Fields(strings.ToValidUTF8(s, "\uFFFD")), " ")
	if len(s) <= maxDetail {
		return s
	}
	s = s[:maxDetail]
	for !utf8.ValidString(s) {
		s = s[:len(s)-1]
	}
	return s + "…"
}

// command runs the step's niodooctl command.
func (j *job) command(ctx context.Context) (outcome, error) {
	argv := j.step.Command(j.Config)
	if j.step.rotated {
		files, err := rotatedToday(j.Config, j.Now())
		if err != nil {
			return outcome{}, err
		}
		argv = append(argv, files...)
	}
	if j.DryRun {
		j.say("would run niodooctl %s", strings.Join(argv, " "))
		return done(false, "not run"), nil
	}
	if err := os.MkdirAll(Reports(j.Config), 0o755); err != nil {
		return outcome{}, err
	}
	stderr := &lineWriter{say: func(l string) { j.say("%s", l) }}
	lines := &lineWriter{say: stderr.say}
	stdout := io.Writer(lines)
	var kept bytes.Buffer
	switch {
	case j.step.report != "":
		stdout = &kept
	case j.step.silent:
		stdout = io.Discard
	}
	code := j.Command(ctx, stdout, stderr, argv...)
	if slices.Equal(argv, healthCommand) {
		j.health = &code
	}
	lines.flush()
	stderr.flush()
	last := cmp.Or(stderr.last, lines.last)
	if kept.Len() > 0 {
		path := filepath.Join(Reports(j.Config), j.Now().Format(j.step.report))
		err := atomicfile.Replace(path, 0o640, func(w io.Writer) error { _, err := w.Write(kept.Bytes()); return err })
		if err != nil {
			return outcome{}, err
		}
		j.say("wrote %s", path)
		last = cmp.Or(last, "see "+path)
	}
	return j.step.judge(code, last), nil
}

// judge turns the exit code of a step's command, and the last that it said, into
// the step's outcome.
func (s Step) judge(code int, last string) outcome {
	words := map[int]string{1: "a warning", 2: "failing", 3: "it could not be checked", exitLocked: "another run holds the lock", exitInterrupted: "interrupted"}
	detail := "niodooctl " + s.command[0] + ": " + words[code]
	if words[code] == "" {
		detail = fmt.Sprintf("niodooctl %s: exit code %d", s.command[0], code)
	}
	if last != "" {
		detail += ": " + strings.TrimPrefix(last, "niodooctl: ")
	}
	switch {
	case code == 0:
		return done(false, "well")
	case code == opstate.Warning.ExitCode(), code == opstate.Failing.ExitCode() && s.finds:
		return done(true, "%s", detail)
	case code == exitLocked:
		return skipped("%s", detail)
	}
	return failed("%s", detail)
}

// trouble returns why the stack is in no state to be loaded, "" if it is. The
// daily plan's own health step has found it out already.
func (r *Runner) trouble(ctx context.Context) string {
	if r.health == nil {
		code := r.Command(ctx, io.Discard, io.Discard, healthCommand...)
		r.health = &code
	}
	const force = "; --force runs the step all the same"
	switch *r.health {
	case opstate.Well.ExitCode(), opstate.Warning.ExitCode():
		return ""
	case opstate.Failing.ExitCode():
		return "the stack is in trouble: niodooctl health says failing" + force
	}
	return "it could not be checked whether the stack is in trouble; see niodooctl health" + force
}

// window cuts a step's time limit to the end of maintenance.window, or says
// why the step may not run now.
func (r *Runner) window(limit time.Duration) (why string, _ time.Duration) {
	w := r.Config.Maintenance.Window
	if w.IsZero() {
		return "", limit
	}
	left := w.Left(r.Now())
	if left <= 0 {
		return fmt.Sprintf("it is outside maintenance.window, %s; --force runs the step all the same", w), limit
	}
	return "", min(limit, left)
}

// doneSince reports whether another run has done the step since a time.
func (r *Runner) doneSince(s Step, at time.Time) bool {
	m, err := opstate.Read[opstate.Maintenance](r.Config.Operations.StateDir)
	return err == nil && m.Steps[s.Name].Succeeded.After(at)
}

// lock takes the lock of all plans. The system drops it when its holder dies;
// the file itself says nothing. waited says that another run had it.
func (r *Runner) lock(ctx context.Context) (unlock func(), waited bool, err error) {
	path := filepath.Join(r.Config.Operations.StateDir, lockFile)
	f, err := os.OpenFile(path, os.O_RDONLY|os.O_CREATE|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return nil, false, fmt.Errorf("taking the lock: %w", err)
	}
	deadline := time.Now().Add(r.Wait)
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		switch {
		case err == nil:
			return func() { f.Close() }, waited, nil
		case !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR):
			f.Close()
			return nil, waited, &os.PathError{Op: "flock", Path: path, Err: err}
		case time.Now().After(deadline):
			f.Close()
			return nil, waited, fmt.Errorf("%s: %w%s; --wait waits for it", path, opstate.ErrLocked, r.holder())
		}
		if !waited {
			waited = true
			r.Say(fmt.Sprintf("waiting for another run%s", r.holder()))
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, waited, ctx.Err()
		case <-time.After(lockRetry):
		}
	}
}

// holder says which run has the lock, as far as it is known.
func (r *Runner) holder() string {
	m, err := opstate.Read[opstate.Maintenance](r.Config.Operations.StateDir)
	if err != nil || m.Running == nil {
		return ""
	}
	return fmt.Sprintf(", maintenance %s since %s", m.Running.Plan, m.Running.Started.Local().Format("15:04:05"))
}

// inProgress says in the state that a step is being run, and until when at most:
// whoever dies in it silences alerts no longer than that.
func (r *Runner) inProgress(ctx context.Context, rep *Report, begun time.Time, limit time.Duration) error {
	until := r.Now().Add(limit + margin)
	if last := begun.Add(maxRun); until.After(last) {
		until = last
	}
	return r.update(ctx, func(m *opstate.Maintenance) {
		m.Running = &opstate.Running{Plan: string(rep.Plan), Started: begun, Until: until}
	})
}

// record notes how a step ended.
func (r *Runner) record(ctx context.Context, s Step, one StepReport) error {
	return r.update(ctx, func(m *opstate.Maintenance) {
		m.Record(s.Name, opstate.Step{Started: one.Started, Seconds: one.Seconds, Result: one.Result, Detail: one.Detail,
			Interval: s.Plan.Interval().Seconds()})
	})
}

// update changes the state. It is done also where we have been interrupted.
func (r *Runner) update(ctx context.Context, change func(*opstate.Maintenance)) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), recordTime)
	defer cancel()
	return opstate.Update(ctx, r.Config.Operations.StateDir, func(m *opstate.Maintenance) error {
		change(m)
		return nil
	})
}

// finish ends the run in the state, and forgets steps that no plan has any more.
func (r *Runner) finish(ctx context.Context) error {
	return r.update(ctx, func(m *opstate.Maintenance) {
		m.Running = nil
		maps.DeleteFunc(m.Steps, func(name string, _ opstate.Step) bool { return !slices.Contains(Names(r.plan()), name) })
	})
}

// lineWriter says what is written to it line by line.
type lineWriter struct {
	say  func(string)
	part []byte
	last string
}

func (w *lineWriter) Write(p []byte) (int, error) {
	w.part = append(w.part, p...)
	for {
		line, rest, ok := bytes.Cut(w.part, []byte("\n"))
		if !ok {
			return len(p), nil
		}
		w.line(line)
		w.part = rest
	}
}

// flush says what has no line break at its end.
func (w *lineWriter) flush() {
	if len(w.part) > 0 {
		w.line(w.part)
	}
	w.part = nil
}

func (w *lineWriter) line(b []byte) {
	line := strings.TrimRight(string(b), "\r")
	if line != "" {
		w.last = line
	}
	w.say(line)
}
