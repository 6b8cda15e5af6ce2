// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package maintenance

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/common/model"

	"github.com/niodoo/niodoo_exporter/internal/config"
	"github.com/niodoo/niodoo_exporter/internal/observe"
	"github.com/niodoo/niodoo_exporter/internal/opstate"
	"github.com/niodoo/niodoo_exporter/internal/thresholds"
)

// dieIn is set for the process that is killed in the middle of a run: the state directory.
const dieIn = "NIODOO_TEST_DIE_IN"

func TestMain(m *testing.M) {
	if dir := os.Getenv(dieIn); dir != "" {
		r := quiet(stateIn(dir))
		r.steps = []Step{{Name: "endless", Plan: Daily, Limit: time.Hour, own: func(ctx context.Context, _ *job) (outcome, error) {
			fmt.Println("in the middle")
			<-ctx.Done()
			return outcome{}, ctx.Err()
		}}}
		_, err := r.Run(context.Background(), Daily, nil)
		fmt.Println(err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func stateIn(dir string) *config.Config {
	cfg := config.Default()
	cfg.Operations.StateDir = dir
	return cfg
}

// healthy answers the health command with a code and counts how often it is asked.
func healthy(asked *atomic.Int32, code int) func(context.Context, io.Writer, io.Writer, ...string) int {
	return func(_ context.Context, stdout, stderr io.Writer, args ...string) int {
		if !slices.Equal(args, []string{"health"}) {
			fmt.Fprintln(stderr, "niodooctl: unexpected")
			return 64
		}
		asked.Add(1)
		return code
	}
}

func well(context.Context, *job) (outcome, error) { return done(false, "as it should"), nil }
func ill(context.Context, *job) (outcome, error)  { return outcome{}, errors.New("out of\npaper") }

func state(t *testing.T, dir string) opstate.Maintenance {
	t.Helper()
	m, err := opstate.Read[opstate.Maintenance](dir)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// The plan is what the contract with the alerts and the configuration says.
func TestPlan(t *testing.T) {
	t.Parallel()
	if got := Names(Steps); !slices.Equal(got, config.MaintenanceSteps) {
		t.Errorf("the plan has %v, the configuration knows %v", got, config.MaintenanceSteps)
	}
	limits := map[Plan]string{Daily: "maintenance_daily_seconds", Weekly: "maintenance_weekly_seconds", Monthly: "maintenance_monthly_seconds"}
	below := 0.0
	for _, p := range Plans { // an alert judges a step by the first limit above its interval
		limit := thresholds.Default()[limits[p.Plan]].Warning
		if s := p.Interval.Seconds(); limit == nil || s <= below || s >= *limit {
			t.Errorf("%s is due every %v s; its limit is %v, the one before %v", p.Plan, s, limit, below)
		} else {
			below = *limit
		}
		total := time.Duration(0)
		for _, s := range Of(p.Plan) {
			if (s.own == nil) == (s.command == nil) {
				t.Errorf("%s must have either a command or a function", s.Name)
			}
			if s.Limit <= 0 || s.Does == "" {
				t.Errorf("%s has no limit, or nothing to say for itself", s.Name)
			}
			total += s.Limit
		}
		if total > maxRun {
			t.Errorf("%s may take %s", p.Plan, total)
		}
	}
}

// A failing step hides no other; each leaves its result, for the exporter too.
func TestRun(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "new", "state")
	r := quiet(stateIn(dir))
	var asked atomic.Int32
	r.Command = healthy(&asked, 0)
	r.steps = []Step{
		{Name: "first", Plan: Daily, Limit: time.Minute, own: well},
		{Name: "second", Plan: Daily, Limit: time.Minute, own: ill},
		{Name: "third", Plan: Daily, Limit: time.Minute, Loads: true, own: func(_ context.Context, j *job) (outcome, error) {
			m := state(t, dir)
			if now := j.Now(); !m.Running.At(now) || m.Running.At(now.Add(time.Minute+margin+time.Second)) || m.Running.Plan != "daily" {
				t.Errorf("in the middle of a step of a minute the state says %+v", m.Running)
			}
			return well(context.Background(), j)
		}},
		{Name: "weekly", Plan: Weekly, Limit: time.Minute, own: well},
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := opstate.Update(t.Context(), dir, func(m *opstate.Maintenance) error {
		m.Record("forgotten", opstate.Step{Started: time.Now(), Result: opstate.StepOK})
		m.Record("weekly", opstate.Step{Started: time.Now(), Result: opstate.StepOK, Interval: 604800})
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	rep, err := r.Run(t.Context(), Daily, nil)
	if err != nil || len(rep.Problems) > 0 {
		t.Fatal(err, rep.Problems)
	}
	if got := rep.Verdict(); got != opstate.Failing {
		t.Errorf("the verdict is %s", got)
	}
	m := state(t, dir)
	if m.Running != nil || len(m.Steps) != 4 {
		t.Errorf("left behind: %+v", m)
	}
	if s := m.Steps["second"]; s.Result != opstate.StepFailed || s.Detail != "out of paper" || !s.Succeeded.IsZero() {
		t.Errorf("the failed step is noted as %+v", s)
	}
	for _, n := range []string{"first", "third"} {
		if s := m.Steps[n]; s.Result != opstate.StepOK || s.Succeeded.IsZero() || s.Interval != 86400 {
			t.Errorf("%s is noted as %+v", n, s)
		}
	}

	stack := observe.Open(stateIn(dir), r.Logger)
	defer stack.Close()
	seen := stack.Look(t.Context(), []string{"operations"})
	for metric, want := range map[string]float64{"niodoo_operations_maintenance_in_progress": 0,
		"niodoo_operations_maintenance_step_last_success_timestamp_seconds": 3, "niodoo_operations_maintenance_step_interval_seconds": 2*86400 + 604800 + 86400} {
		got, ok := seen.Sum(metric)
		if strings.Contains(metric, "timestamp") {
			got = float64(len(seen.Series(metric)))
		}
		if !ok || got != want {
			t.Errorf("the exporter has %s %v, want %v", metric, got, want)
		}
	}
	if n := len(seen.Series("niodoo_operations_maintenance_step_last_result", "step", "second", "result", "failed")); n != 1 {
		t.Error("the exporter does not tell of the failure")
	}

	// One step alone.
	rep, err = r.Run(t.Context(), Daily, []string{"first"})
	if err != nil || len(rep.Steps) != 1 || rep.Verdict() != opstate.Well {
		t.Errorf("--only ran %+v, %v", rep.Steps, err)
	}
	// A place that cannot be written to stops it all.
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	r.Config = stateIn(file)
	if rep, err := r.Run(t.Context(), Daily, nil); err == nil || len(rep.Steps) > 0 {
		t.Errorf("without a state directory: %+v, %v", rep, err)
	}
}

// What loads the stack waits until that is well. What could not be checked is
// not well.
func TestTrouble(t *testing.T) {
	t.Parallel()
	for code, want := range map[int]opstate.StepResult{0: opstate.StepOK, 1: opstate.StepOK, 2: opstate.StepSkipped, 3: opstate.StepSkipped, 64: opstate.StepSkipped} {
		for _, plan := range []Plan{Daily, Weekly} {
			r := quiet(stateIn(t.TempDir()))
			var asked atomic.Int32
			r.Command = healthy(&asked, code)
			r.steps = []Step{
				{Name: "health", Plan: Daily, Limit: time.Minute, command: healthCommand, finds: true},
				{Name: "look", Plan: plan, Limit: time.Minute, own: well},
				{Name: "load", Plan: plan, Limit: time.Minute, Loads: true, own: well},
				{Name: "load_more", Plan: plan, Limit: time.Minute, Loads: true, own: well},
			}
			if _, err := r.Run(t.Context(), plan, nil); err != nil {
				t.Fatal(err)
			}
			m := state(t, r.Config.Operations.StateDir)
			if got := m.Steps["load"].Result; got != want || m.Steps["load_more"].Result != want || m.Steps["look"].Result != opstate.StepOK {
				t.Errorf("health %d: the loading step is %s, want %s: %+v", code, got, want, m.Steps)
			}
			if asked.Load() != 1 {
				t.Errorf("health was asked %d times", asked.Load())
			}
			r.Force = true
			if rep, err := r.Run(t.Context(), plan, []string{"load"}); err != nil || rep.Steps[0].Result != opstate.StepOK || asked.Load() != 1 {
				t.Errorf("forced: %+v %v, health asked %d times", rep.Steps, err, asked.Load())
			}
		}
	}
}

func TestWindow(t *testing.T) {
	t.Parallel()
	cfg, err := config.Parse("f", []byte("maintenance: {window: '22:00-02:00'}"))
	if err != nil {
		t.Fatal(err)
	}
	cfg.Operations.StateDir = t.TempDir()
	r := quiet(cfg)
	var asked atomic.Int32
	r.Command = healthy(&asked, 0)
	var left time.Duration
	r.steps = []Step{{Name: "load", Plan: Daily, Limit: 3 * time.Hour, Loads: true, own: func(ctx context.Context, j *job) (outcome, error) {
		d, _ := ctx.Deadline()
		left = time.Until(d).Round(time.Minute)
		return well(ctx, j)
	}}}
	for clock, want := range map[string]time.Duration{"21:59": 0, "22:00": 3 * time.Hour, "23:30": 150 * time.Minute, "01:00": time.Hour, "02:00": 0, "12:00": 0} {
		at, err := time.ParseInLocation("2006-01-02 15:04", "2026-11-25 "+clock, time.Local)
		if err != nil {
			t.Fatal(err)
		}
		left = 0
		r.Now = func() time.Time { return at }
		rep, err := r.Run(t.Context(), Daily, nil)
		if err != nil {
			t.Fatal(err)
		}
		if left != want || (rep.Steps[0].Result == opstate.StepSkipped) != (want == 0) {
			t.Errorf("at %s: %s with %s left, want %s", clock, rep.Steps[0].Result, left, want)
		}
	}
}

func TestJudge(t *testing.T) {
	t.Parallel()
	looks, acts := Step{command: []string{"health"}, finds: true}, Step{command: []string{"backup", "create"}}
	for _, c := range []struct {
		step   Step
		code   int
		result opstate.StepResult
		find   bool
	}{
		{looks, 0, opstate.StepOK, false}, {looks, 1, opstate.StepOK, true}, {looks, 2, opstate.StepOK, true},
		{looks, 3, opstate.StepFailed, false}, {looks, 64, opstate.StepFailed, false}, {looks, 130, opstate.StepFailed, false},
		{acts, 0, opstate.StepOK, false}, {acts, 1, opstate.StepOK, true}, {acts, 2, opstate.StepFailed, false},
		{acts, 3, opstate.StepFailed, false}, {acts, 75, opstate.StepSkipped, false},
	} {
		o := c.step.judge(c.code, "niodooctl: why")
		if o.result != c.result || o.finding != c.find || c.code != 0 && !strings.HasSuffix(o.detail, ": why") {
			t.Errorf("%v with exit code %d is %+v", c.step.command, c.code, o)
		}
	}
}

// What a command prints is kept, as the run's own lines or as a report.
func TestCommand(t *testing.T) {
	t.Parallel()
	r := quiet(stateIn(t.TempDir()))
	r.Now = func() time.Time { return time.Date(2026, 11, 25, 2, 0, 0, 0, time.UTC) }
	r.Command = func(_ context.Context, stdout, stderr io.Writer, args ...string) int {
		fmt.Fprintf(stdout, "%s\nsecond\nno line break", strings.Join(args, " "))
		fmt.Fprintln(stderr, "niodooctl: half of it")
		return 1
	}
	s := r.run(t.Context(), Step{Name: "x", command: []string{"logs", "analyze", "--output=" + reportsWord}}, deadline, "")
	reports := Reports(r.Config)
	want := []string{"logs analyze --output=" + reports, "second", "niodooctl: half of it", "no line break"}
	if !slices.Equal(s.Lines, want) || !s.Finding || s.Detail != "niodooctl logs: a warning: half of it" {
		t.Errorf("got %q %+v", s.Lines, s)
	}
	s = r.run(t.Context(), Step{Name: "x", command: []string{"report"}, report: "performance_report_20060102.txt"}, deadline, "")
	raw, err := os.ReadFile(filepath.Join(reports, "performance_report_20261125.txt"))
	if err != nil || string(raw) != "report\nsecond\nno line break" {
		t.Errorf("the report is %q, %v; %q", raw, err, s.Lines)
	}
}

func TestTimeLimit(t *testing.T) {
	t.Parallel()
	cfg := stateIn(t.TempDir())
	cfg.Maintenance.TimeLimits = map[string]model.Duration{"slow": model.Duration(50 * time.Millisecond)}
	r := quiet(cfg)
	r.steps = []Step{
		{Name: "slow", Plan: Daily, Limit: time.Hour, own: func(ctx context.Context, _ *job) (outcome, error) {
			<-ctx.Done()
			return outcome{}, errors.New("half done")
		}},
		{Name: "next", Plan: Daily, Limit: time.Hour, own: well},
	}
	rep, err := r.Run(t.Context(), Daily, nil)
	if err != nil || len(rep.Steps) != 2 || rep.Steps[1].Result != opstate.StepOK {
		t.Fatal(rep, err)
	}
	wants(t, rep.Steps[0], opstate.StepFailed, "broken off after its time limit of", "half done")
}

func TestInterrupted(t *testing.T) {
	t.Parallel()
	r := quiet(stateIn(t.TempDir()))
	ctx, interrupt := context.WithCancel(t.Context())
	r.steps = []Step{
		{Name: "first", Plan: Daily, Limit: time.Hour, own: func(ctx context.Context, _ *job) (outcome, error) {
			interrupt()
			<-ctx.Done()
			return outcome{}, ctx.Err()
		}},
		{Name: "next", Plan: Daily, Limit: time.Hour, own: well},
	}
	rep, err := r.Run(ctx, Daily, nil)
	if !errors.Is(err, context.Canceled) || len(rep.Steps) != 1 {
		t.Fatalf("got %+v, %v", rep, err)
	}
	m := state(t, r.Config.Operations.StateDir)
	if m.Running != nil || m.Steps["first"].Detail != "interrupted" || len(m.Steps) != 1 {
		t.Errorf("left behind: %+v", m)
	}
}

// Two runs never overlap. One that waits does not do again what has been done meanwhile.
func TestTwoAtOnce(t *testing.T) {
	t.Parallel()
	cfg := stateIn(t.TempDir())
	inside, leave := make(chan bool), make(chan bool)
	var busy, ran atomic.Int32
	steps := []Step{}
	for _, plan := range []Plan{Daily, Weekly} {
		steps = append(steps, Step{Name: string(plan) + "_work", Plan: plan, Limit: time.Hour, own: func(ctx context.Context, j *job) (outcome, error) {
			if busy.Add(1) != 1 {
				t.Error("two runs at once")
			}
			defer busy.Add(-1)
			if ran.Add(1) == 1 {
				inside <- true
				<-leave
			}
			return well(ctx, j)
		}})
	}
	first := quiet(cfg)
	first.steps = steps
	type result struct {
		rep Report
		err error
	}
	firstDone := make(chan result, 1)
	go func() {
		rep, err := first.Run(context.Background(), Daily, nil)
		firstDone <- result{rep, err}
	}()
	<-inside

	impatient := quiet(cfg)
	impatient.steps = steps
	if _, err := impatient.Run(t.Context(), Weekly, nil); !errors.Is(err, opstate.ErrLocked) || !strings.Contains(err.Error(), "maintenance daily since") {
		t.Errorf("the lock is not kept: %v", err)
	}
	waiting := make(chan string, 2)
	patient := map[Plan]chan result{}
	for _, plan := range []Plan{Daily, Weekly} { // the same minute
		r := quiet(cfg)
		r.steps, r.Wait = steps, deadline
		r.Say = func(line string) { waiting <- line }
		ch := make(chan result, 1)
		patient[plan] = ch
		go func() {
			rep, err := r.Run(context.Background(), plan, nil)
			ch <- result{rep, err}
		}()
	}
	for range 2 {
		if line := <-waiting; !strings.Contains(line, "waiting for another run, maintenance daily") {
			t.Errorf("said %q", line)
		}
	}
	close(leave)
	if r := <-firstDone; r.err != nil || r.rep.Verdict() != opstate.Well {
		t.Errorf("the first run: %+v", r)
	}
	if r := <-patient[Weekly]; r.err != nil || r.rep.Verdict() != opstate.Well {
		t.Errorf("the weekly run that waited: %+v", r)
	}
	again := <-patient[Daily]
	if again.err != nil {
		t.Fatal(again.err)
	}
	wants(t, again.rep.Steps[0], opstate.StepSkipped, "another run has done it meanwhile")
	if m := state(t, cfg.Operations.StateDir); m.Steps["daily_work"].Result != opstate.StepOK || ran.Load() != 2 {
		t.Errorf("after %d runs the state is %+v", ran.Load(), m.Steps)
	}
	// An interrupted wait ends.
	unlock, _, err := first.lock(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	impatient.Wait = time.Hour
	if _, err := impatient.Run(ctx, Daily, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the wait ended with %v", err)
	}
}

// A run that is killed leaves no lock, and is in progress only until its limit.
func TestKilled(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), dieIn+"="+dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	word := make([]byte, len("in the middle"))
	if _, err := io.ReadFull(out, word); err != nil || string(word) != "in the middle" {
		t.Fatalf("%q %v", word, err)
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()

	m := state(t, dir)
	if now := time.Now(); !m.Running.At(now) || m.Running.At(now.Add(time.Hour+margin)) {
		t.Errorf("left behind: %+v", m.Running)
	}
	stack := observe.Open(stateIn(dir), quiet(nil).Logger)
	defer stack.Close()
	if v, ok := stack.Look(t.Context(), []string{"operations"}).Sum("niodoo_operations_maintenance_in_progress"); !ok || v != 1 {
		t.Errorf("the exporter says %v", v)
	}
	r := quiet(stateIn(dir))
	r.steps = []Step{{Name: "next", Plan: Weekly, Limit: time.Hour, own: well}}
	if rep, err := r.Run(t.Context(), Weekly, nil); err != nil || rep.Verdict() != opstate.Well {
		t.Errorf("the next run: %+v, %v", rep, err)
	}
	if m := state(t, dir); m.Running != nil {
		t.Errorf("still in progress: %+v", m.Running)
	}
}

// A dry run takes no lock and leaves nothing behind.
func TestDryRun(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "state")
	r := quiet(stateIn(dir))
	r.DryRun = true
	r.Command = func(context.Context, io.Writer, io.Writer, ...string) int {
		t.Error("a command was run")
		return 0
	}
	r.Config.Host.RootFS = t.TempDir()
	r.Config.Logs.Paths = []string{filepath.Join(t.TempDir(), "*.log")}
	for _, p := range Plans {
		names := slices.DeleteFunc(Names(Of(p.Plan)), func(n string) bool { return n == "security_updates" }) // asks the real apt-get
		rep, err := r.Run(t.Context(), p.Plan, names)
		if err != nil || len(rep.Steps) != len(names) {
			t.Errorf("%s: %+v, %v", p.Plan, rep, err)
		}
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the state directory was made: %v", err)
	}
}
