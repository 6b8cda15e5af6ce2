// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package maintenance

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/niodoo/niodoo_exporter/internal/config"
	"github.com/niodoo/niodoo_exporter/internal/incident"
	"github.com/niodoo/niodoo_exporter/internal/opstate"
)

func TestSeries(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{
		"niodoo.log.1": "niodoo.log", "niodoo.log.12.gz": "niodoo.log", "niodoo.log-20261124": "niodoo.log", "niodoo.log-20261124.zst": "niodoo.log",
		"niodoo.log-20261124-1795521600.gz": "niodoo.log", "niodoo.log-20261124-02": "niodoo.log", "niodoo-20261124.log": "niodoo*.log",
		"niodoo.2026-11-24": "niodoo", "niodoo.log.2026-11-24-02": "niodoo.log", "niodoo.2026-11-24.log": "niodoo*.log", "niodoo.log.2026-11-24.gz": "niodoo.log",
		"events.json.3": "events.json",
		// What is written to, or is none of a log's.
		"niodoo.log": "", "niodoo.log.bak": "", "libfoo.so.1": "", "niodoo.log.gz": "", "v1.2": "", "dump-2026": "", "niodoo.log.1.tmp": "", ".1": "", "20261124": "",
	} {
		if got := series(rotated, name); got != want {
			t.Errorf("%s is of the series %q, want %q", name, got, want)
		}
	}
	for name, want := range map[string]string{"log_analysis_20261124.txt": "log_analysis", "capacity_report_20261124.txt": "capacity_report", "notes_20261124.txt": ""} {
		if got := series(reports, name); got != want {
			t.Errorf("the report %s is of the series %q, want %q", name, got, want)
		}
	}
	at := time.Date(2026, 11, 24, 0, 0, 0, 0, time.UTC)
	for _, s := range Steps {
		if name := at.Format(s.report); s.report != "" && series(reports, name) == "" {
			t.Errorf("the report %s of the step %s is kept for ever", name, s.Name)
		}
	}
}

// made makes a file that was last changed some days ago.
func made(t *testing.T, path string, days int) string {
	t.Helper()
	if err := os.WriteFile(path, []byte("line\n"), 0o640); err != nil {
		t.Fatal(err)
	}
	at := time.Now().Add(-time.Duration(days) * 24 * time.Hour)
	if err := os.Chtimes(path, at, at); err != nil {
		t.Fatal(err)
	}
	return path
}

func names(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, e := range entries {
		all = append(all, e.Name())
	}
	return all
}

func TestRetention(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	cfg := config.Default()
	cfg.Operations.StateDir = t.TempDir()
	cfg.Logs.Paths = []string{filepath.Join(dir, "*.log"), filepath.Join(t.TempDir(), "nothing", "*.log")}
	for name, days := range map[string]int{
		"a.log": 90, "a.log.1": 1, "a.log.2.gz": 29, "a.log.3.gz": 31, "a.log.4.gz": 90, // the current one is idle, and none of ours
		"b.log-20260101": 300, "b.log-20260102": 299, // nothing newer: the newest stays
		"c.2026-01-01": 300, "c.2026-01-02": 299, "c.2026-11-01": 2,
		"open.log.1": 1, "open.log.2": 40, "d.log.2": 1, "d.log.3": 40, "notes.txt": 400, "key.pem": 400,
	} {
		made(t, filepath.Join(dir, name), days)
	}
	if err := os.Mkdir(filepath.Join(dir, "d.log.1"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(dir, "key.pem"), filepath.Join(dir, "a.log.9")); err != nil {
		t.Fatal(err)
	}
	// Another process reads an old file: its owner's tail -f.
	tail := exec.Command("tail", "-f", filepath.Join(dir, "open.log.2"))
	out, err := tail.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := tail.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tail.Process.Kill(); _ = tail.Wait() })
	if _, err := out.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	reports := Reports(cfg)
	if err := os.Mkdir(reports, 0o755); err != nil {
		t.Fatal(err)
	}
	made(t, filepath.Join(reports, "log_analysis_20260101.txt"), 300)
	made(t, filepath.Join(reports, "log_analysis_20261124.txt"), 1)
	before := names(t, dir)
	incidents := incident.Store{Dir: cfg.Operations.StateDir}
	if err := incidents.Prepare(); err != nil {
		t.Fatal(err)
	}
	for _, days := range []int{364, 366} {
		at := time.Now().Add(-time.Duration(days) * 24 * time.Hour)
		id, err := incidents.Open(t.Context(), incident.New{Priority: "P1", Title: "it is down", By: "me", At: at})
		if err == nil {
			err = incidents.Close(t.Context(), id, "me", "over", at, at)
		}
		if err != nil {
			t.Fatal(err)
		}
	}

	s := step(t, cfg, retention, dry)
	wants(t, s, opstate.StepOK, "would remove "+filepath.Join(dir, "a.log.3.gz"), "open.log.2 is open in process", "(tail)", "would remove INC-")
	if got := names(t, dir); !slices.Equal(got, before) {
		t.Fatalf("the dry run left %q", got)
	}

	s = step(t, cfg, retention)
	wants(t, s, opstate.StepOK, "1 incidents", "7 files", "older than 30d", "open.log.2 is open in process")
	if !s.Finding {
		t.Error("an old file that is open is nothing to look at")
	}
	want := []string{"a.log", "a.log.1", "a.log.2.gz", "a.log.9", "b.log-20260102", "c.2026-11-01", "d.log.1", "d.log.2", "key.pem", "notes.txt", "open.log.1", "open.log.2"}
	if got := names(t, dir); !slices.Equal(got, want) {
		t.Errorf("left are\n%q, want\n%q", got, want)
	}
	if got := names(t, reports); !slices.Equal(got, []string{"log_analysis_20261124.txt"}) {
		t.Errorf("left are the reports %q", got)
	}
}

// A process whose files cannot be seen: the kernel is asked.
func TestHiddenProcess(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	cfg := config.Default()
	cfg.Operations.StateDir = t.TempDir()
	cfg.Host.ProcFS = t.TempDir() // shows nothing
	cfg.Maintenance.LogDirectories = []string{dir}
	for name, days := range map[string]int{"a.log.1": 1, "a.log.2": 40, "a.log.3": 40} {
		made(t, filepath.Join(dir, name), days)
	}
	f, err := os.Open(filepath.Join(dir, "a.log.2"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	wants(t, step(t, cfg, retention, dry), opstate.StepFailed, "a.log.2 is open in a process whose files are hidden", "would remove")
	wants(t, step(t, cfg, retention), opstate.StepFailed, "a.log.2 is open in a process whose files are hidden", "1 files")
	if got, want := names(t, dir), []string{"a.log.1", "a.log.2"}; !slices.Equal(got, want) {
		t.Errorf("left are %q, want %q", got, want)
	}
	// A file that is not what it was stays.
	if err := removeUnopened(pastFile{path: made(t, filepath.Join(dir, "a.log.4"), 40), changed: time.Now()}, true, false); err == nil {
		t.Error("a file that has changed was removed")
	}
	cfg.Host.ProcFS = filepath.Join(dir, "none")
	made(t, filepath.Join(dir, "a.log.5"), 50)
	wants(t, step(t, cfg, retention), opstate.StepFailed, "it could not be told which files are open")
}

// The night's analysis takes in what was rotated at midnight.
func TestRotatedToday(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	cfg := config.Default()
	cfg.Logs.Paths = []string{filepath.Join(dir, "*.log"), filepath.Join(dir, "a.*"), filepath.Join(dir, "none", "*.log")}
	made(t, filepath.Join(dir, "a.log"), 0)
	made(t, filepath.Join(dir, "health_monitor.log"), 0)
	made(t, filepath.Join(dir, "a.log-20261101.gz"), 20)
	if got, err := rotatedToday(cfg, time.Now()); got != nil || err != nil {
		t.Errorf("without a rotation: %q, %v", got, err)
	}
	made(t, filepath.Join(dir, "b.log-20261125"), 0)
	made(t, filepath.Join(dir, "health_monitor.log.1"), 0)
	got, err := rotatedToday(cfg, time.Now())
	want := []string{filepath.Join(dir, "a.log"), filepath.Join(dir, "a.log-20261101.gz"), filepath.Join(dir, "b.log-20261125")}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("got %q, %v, want %q", got, err, want)
	}
}
