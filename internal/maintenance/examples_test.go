// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package maintenance

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/niodoo/niodoo_exporter/internal/config"
)

const examples = "../../examples"

func example(t *testing.T, name string) string {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(examples, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

// program finds a program that may be in a directory for administrators only.
func program(t *testing.T, name string) string {
	t.Helper()
	for _, p := range []string{name, "/usr/sbin/" + name} {
		if path, err := exec.LookPath(p); err == nil {
			return path
		}
	}
	t.Fatalf("%s is not installed: run scripts/test-deps", name)
	return ""
}

// The real logrotate rotates under a program that has its log open, and never
// touches the program. What it leaves behind are past files to retention, which
// keeps as many days.
func TestLogrotate(t *testing.T) {
	t.Parallel()
	logrotate := program(t, "logrotate")
	conf := example(t, "logrotate/niodoo")
	for _, word := range []string{"postrotate", "prerotate", "firstaction", "lastaction", "systemctl", "restart", "\n    create"} {
		if strings.Contains(strings.SplitN(conf, "{", 2)[1], word) {
			t.Errorf("the rotation has %q: it touches the engine", word)
		}
	}
	dir := t.TempDir()
	conf = strings.NewReplacer("/opt/niodoo/logs", dir, "    su niodoo niodoo\n", "").Replace(conf)
	file, state := filepath.Join(t.TempDir(), "niodoo"), filepath.Join(t.TempDir(), "state")
	if err := os.WriteFile(file, []byte(conf), 0o644); err != nil {
		t.Fatal(err)
	}
	rotate := func() {
		t.Helper()
		out, err := exec.Command(logrotate, "--force", "--state", state, file).CombinedOutput()
		if err != nil {
			t.Fatalf("logrotate: %v\n%s", err, out)
		}
	}
	// The engine's log, open for appending, and more past ones than are kept.
	path := filepath.Join(dir, "engine.log")
	engine, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer engine.Close()
	for i := 1; i < 36; i++ {
		day := time.Now().AddDate(0, 0, -i)
		made(t, filepath.Join(dir, "engine.log-"+day.Format("20060102")+".gz"), i)
	}
	fmt.Fprintln(engine, "before")
	rotate()
	fmt.Fprintln(engine, "after")
	if raw, err := os.ReadFile(path); err != nil || string(raw) != "after\n" {
		t.Errorf("the engine goes on with %q, %v", raw, err)
	}
	today := "engine.log-" + time.Now().Format("20060102")
	if raw, err := os.ReadFile(filepath.Join(dir, today)); err != nil || string(raw) != "before\n" {
		t.Errorf("the rotated log is %q, %v; there are %q", raw, err, names(t, dir))
	}
	left := names(t, dir)
	if len(left) != 31 {
		t.Errorf("%d files are left of engine.log and 30 past ones: %q", len(left), left)
	}
	for _, n := range left {
		if s := series(rotated, n); n != "engine.log" && s != "engine.log" {
			t.Errorf("to retention %s is of the series %q", n, s)
		}
	}
	rep := step(t, cfgFor(t, dir), retention)
	if got := names(t, dir); !slices.Equal(got, left) {
		t.Errorf("retention removes what logrotate keeps: %+v", rep)
	}
}

func cfgFor(t *testing.T, dir string) *config.Config {
	t.Helper()
	cfg := stateIn(t.TempDir())
	cfg.Maintenance.LogDirectories = []string{dir}
	return cfg
}

// Each plan has a timer that starts it, at a time of its own, and the unit waits
// as long as any other run may take.
func TestTimers(t *testing.T) {
	t.Parallel()
	service := example(t, "systemd/niodooctl-maintenance@.service")
	_, waits, ok := strings.Cut(service, "--wait=")
	waits, _, _ = strings.Cut(waits, "\n")
	wait, err := time.ParseDuration(waits)
	if err != nil || !ok {
		t.Fatal(err)
	}
	all := time.Duration(0)
	begins := map[string]Plan{}
	for _, p := range Plans {
		for _, s := range Of(p.Plan) {
			all += s.Limit
		}
		timer := example(t, "systemd/niodooctl-"+string(p.Plan)+".timer")
		if !strings.Contains(timer, "\nUnit=niodooctl-maintenance@"+string(p.Plan)+".service\n") || !strings.Contains(timer, "\nPersistent=true\n") {
			t.Errorf("the timer of %s:\n%s", p.Plan, timer)
		}
		_, at, _ := strings.Cut(timer, "\nOnCalendar=")
		at, _, _ = strings.Cut(at, "\n")
		clock := at[strings.LastIndex(at, " ")+1:]
		if other, taken := begins[clock]; taken {
			t.Errorf("%s and %s begin at %s", p.Plan, other, clock)
		}
		begins[clock] = p.Plan
		if path, err := exec.LookPath("systemd-analyze"); err == nil {
			if out, err := exec.Command(path, "calendar", at).CombinedOutput(); err != nil {
				t.Errorf("%s: %v\n%s", at, err, out)
			}
		}
	}
	// A machine that was off makes up for all three at once.
	if longest := all - total(Monthly); wait < longest {
		t.Errorf("the unit waits %s; the two other plans may take %s", wait, longest)
	}
	path, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Log("systemd-analyze is not installed: the units are not verified")
		return
	}
	dir := t.TempDir()
	copied := []string{"verify", "--man=no"}
	for _, n := range []string{"niodooctl-maintenance@.service", "niodooctl-daily.timer", "niodooctl-weekly.timer", "niodooctl-monthly.timer"} {
		text := strings.ReplaceAll(example(t, "systemd/"+n), "/usr/local/bin/niodooctl", "/bin/true")
		if err := os.WriteFile(filepath.Join(dir, n), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		copied = append(copied, filepath.Join(dir, strings.Replace(n, "@", "@daily", 1)))
	}
	cmd := exec.Command(path, copied...)
	out, err := cmd.CombinedOutput()
	for line := range strings.Lines(string(out)) { // others' units are none of ours
		if strings.Contains(line, "niodooctl") {
			t.Errorf("systemd-analyze verify: %s", line)
		}
	}
	t.Logf("systemd-analyze verify: %v", err)
}

func total(p Plan) time.Duration {
	var sum time.Duration
	for _, s := range Of(p) {
		sum += s.Limit
	}
	return sum
}
