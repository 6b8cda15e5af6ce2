// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/niodoo/niodoo_exporter/internal/backup"
)

var backupNow = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

// backupScraper scrapes a directory as if it were noon of that day.
func backupScraper(t testing.TB, section string) *Scraper {
	t.Helper()
	return scraperWith(t, only(t, "backup", section), Deps{Now: func() time.Time { return backupNow }}, Options{})
}

func backupFile(t testing.TB, path, content string, ago time.Duration) {
	t.Helper()
	if err := errors.Join(
		os.MkdirAll(filepath.Dir(path), 0o755),
		os.WriteFile(path, []byte(content), 0o644),
		os.Chtimes(path, backupNow, backupNow.Add(-ago)),
	); err != nil {
		t.Fatal(err)
	}
}

// backupMake makes a backup of niodooctl's.
func backupMake(t testing.TB, dir string, ago time.Duration, size int, class backup.Class, checks *backup.Checks, change func(*backup.Summary)) backup.Summary {
	t.Helper()
	started := backupNow.Add(-ago)
	name := backup.Name(started)
	s := backup.Summary{
		Name: name, Class: class, Started: started, Seconds: 12.5, ContentBytes: 10 * int64(size),
		Archive: &backup.ArchiveFile{File: name + ".tar.zst", Bytes: int64(size), SHA256: strings.Repeat("a", 64)},
		Skipped: []backup.Skipped{{What: "/opt/niodoo/data/engine.sock", Why: "a socket"}},
	}
	if change != nil {
		change(&s)
	}
	backupFile(t, filepath.Join(dir, s.Archive.File), strings.Repeat("x", size), ago)
	entry := backup.Entry{Name: "data/a", Bytes: 1, SHA256: strings.Repeat("b", 64)}
	if err := backup.WriteManifest(dir, s, slices.Values([]backup.Entry{entry})); err != nil {
		t.Fatal(err)
	}
	if checks != nil {
		checks.SHA256 = s.Archive.SHA256
		if err := backup.WriteChecks(dir, name, *checks); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

func backupPassed(ago, took time.Duration) *backup.Check {
	return &backup.Check{Finished: backupNow.Add(-ago), Seconds: took.Seconds(), OK: true}
}

func TestBackup(t *testing.T) {
	t.Parallel()
	const h = time.Hour
	dir := t.TempDir()
	// A month ago in full and drilled, the day before yesterday verified, last
	// night copied only; one that failed its verification, one cut off.
	backupMake(t, dir, 700*h, 900, backup.Full, &backup.Checks{Verified: backupPassed(690*h, time.Second), Drilled: backupPassed(600*h, 310*time.Second)}, nil)
	backupMake(t, dir, 34*h, 1000, backup.Daily, &backup.Checks{Verified: backupPassed(33*h, time.Second)}, nil)
	backupMake(t, dir, 12*h, 1100, backup.Daily, nil, nil)
	backupMake(t, dir, 10*h, 1200, backup.Daily, &backup.Checks{Copied: backupPassed(9*h, time.Minute)}, nil)
	backupMake(t, dir, 9*h, 10, backup.Daily, &backup.Checks{Verified: &backup.Check{Finished: backupNow, Detail: "a byte differs"}}, nil)
	backupFile(t, filepath.Join(dir, backup.Name(backupNow.Add(-8*h))+".tar.zst"), "cut", 8*h)
	backupFile(t, filepath.Join(dir, "."+backup.Name(backupNow.Add(-h/60))+".tar.zst.partial-1"), "new", 0)
	old := backupNow.Add(-900 * h).Local().Format("20060102_150405")
	backupFile(t, filepath.Join(dir, "niodoo_backup_"+old+".tar.gz"), "\x1f\x8b\x08\x00...", 900*h)

	s := backupScraper(t, fmt.Sprintf("{directory: %q, sources: {config: %q, gone: /nonexistent, proc: /proc}, max_age: 30h}", dir, dir))
	golden(t, "backup", scrape(t, s).Families,
		"niodoo_backup_filesystem_size_bytes", "niodoo_backup_filesystem_avail_bytes", "niodoo_backup_size_bytes")
}

// Only what the manual's scripts leave: no manifests, so nothing is known but
// times and sizes.
func TestBackupLegacy(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for i, ago := range []time.Duration{10 * time.Hour, 34 * time.Hour} {
		stamp := backupNow.Add(-ago).Local().Format("20060102_150405")
		backupFile(t, filepath.Join(dir, "niodoo_backup_"+stamp+".tar.gz"), "\x1f\x8b\x08"+strings.Repeat("x", 97+i), ago)
	}
	left := backupNow.Add(-30 * time.Hour).Local().Format("20060102_150405")
	backupFile(t, filepath.Join(dir, left, "database.sql"), "the input device is not a TTY\n", 30*time.Hour)
	if err := os.Chtimes(filepath.Join(dir, left), backupNow, backupNow.Add(-30*time.Hour)); err != nil {
		t.Fatal(err)
	}
	res := scrape(t, backupScraper(t, fmt.Sprintf("{directory: %q}", dir)))
	for series, want := range map[string]float64{
		"niodoo_backup_backups":                               2,
		`niodoo_backup_layout_backups{layout="archive"}`:      2,
		`niodoo_backup_layout_backups{layout="niodooctl"}`:    0,
		"niodoo_backup_incomplete":                            1,
		"niodoo_backup_newest_timestamp_seconds":              float64(backupNow.Add(-10 * time.Hour).Unix()),
		"niodoo_backup_oldest_timestamp_seconds":              float64(backupNow.Add(-34 * time.Hour).Unix()),
		"niodoo_backup_newest_size_bytes":                     100,
		"niodoo_backup_previous_size_bytes":                   101,
		"niodoo_backup_size_bytes":                            231,
		"niodoo_backup_max_age_seconds":                       26 * 3600,
		`niodoo_scrape_collector_success{collector="backup"}`: 1,
	} {
		if v := value(t, res.Families, series); v != want {
			t.Errorf("%s is %v, want %v", series, v, want)
		}
	}
	for _, name := range []string{"duration_seconds", "verified", "copied", "encrypted", "skipped"} {
		if _, ok := lookup(res.Families, "niodoo_backup_newest_"+name); ok {
			t.Errorf("%s is exported although nobody knows it", name)
		}
	}
}

// No backup at all is a finding, not a failure.
func TestBackupEmpty(t *testing.T) {
	t.Parallel()
	res := scrape(t, backupScraper(t, fmt.Sprintf("{directory: %q}", t.TempDir())))
	for series, want := range map[string]float64{
		"niodoo_backup_backups": 0, "niodoo_backup_incomplete": 0, "niodoo_backup_size_bytes": 0,
		`niodoo_scrape_collector_success{collector="backup"}`: 1,
	} {
		if v := value(t, res.Families, series); v != want {
			t.Errorf("%s is %v, want %v", series, v, want)
		}
	}
	if _, ok := lookup(res.Families, "niodoo_backup_newest_timestamp_seconds"); ok {
		t.Error("a newest backup of none")
	}
}

// Without the default directory the collector is idle; this machine has none.
func TestBackupIdle(t *testing.T) {
	t.Parallel()
	if _, err := os.Stat("/opt/niodoo/backups"); !errors.Is(err, fs.ErrNotExist) {
		t.Skip("this machine has /opt/niodoo/backups")
	}
	res := scrape(t, backupScraper(t, "{}"))
	if v := value(t, res.Families, `niodoo_scrape_collector_success{collector="backup"}`); v != 1 {
		t.Errorf("success is %v: %v", v, res.Failures)
	}
	if _, ok := lookup(res.Families, "niodoo_backup_backups"); ok {
		t.Error("an idle collector counts backups")
	}
}

func TestBackupFailures(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		make   func(t *testing.T, dir string) string // returns the directory
		reason Reason
		good   float64 // that are reported all the same; -1 is no report
	}{
		{"missing", func(_ *testing.T, dir string) string { return dir + "/missing" }, ReasonNotFound, -1},
		{"a file", func(t *testing.T, dir string) string {
			backupFile(t, dir+"/file", "", 0)
			return dir + "/file"
		}, ReasonOther, -1},
		{"a newer niodooctl's", func(t *testing.T, dir string) string {
			s := backupMake(t, dir, 10*time.Hour, 10, backup.Daily, nil, nil)
			path := backup.ManifestPath(dir, s.Name)
			raw, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			backupFile(t, path, strings.Replace(string(raw), `"version": 1`, `"version": 2`, 1), 0)
			backupMake(t, dir, 20*time.Hour, 10, backup.Daily, nil, nil)
			return dir
		}, ReasonParse, 1},
		{"checks cut off", func(t *testing.T, dir string) string {
			s := backupMake(t, dir, 10*time.Hour, 10, backup.Daily, nil, nil)
			backupFile(t, backup.ChecksPath(dir, s.Name), `{"version":`, 0)
			return dir
		}, ReasonParse, 1},
		{"checks too large", func(t *testing.T, dir string) string {
			s := backupMake(t, dir, 10*time.Hour, 10, backup.Daily, nil, nil)
			backupFile(t, backup.ChecksPath(dir, s.Name), strings.Repeat(" ", 1<<20), 0)
			return dir
		}, ReasonTooLarge, 1},
		{"too many files", func(t *testing.T, dir string) string {
			for i := range 10001 {
				if err := os.WriteFile(fmt.Sprintf("%s/%d", dir, i), nil, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			return dir
		}, ReasonTooLarge, -1},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := backupScraper(t, fmt.Sprintf("{directory: %q}", c.make(t, t.TempDir())))
			res := expectFailureOf(t, s, "backup", false, c.reason, 5*time.Second)
			if v, ok := lookup(res.Families, "niodoo_backup_backups"); ok != (c.good >= 0) || ok && v != c.good {
				t.Errorf("%v good backups (%v), want %v", v, ok, c.good)
			}
		})
	}
}

// A damaged manifest is the backup's fault, not the collector's.
func TestBackupDamagedManifest(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := backupMake(t, dir, 10*time.Hour, 10, backup.Daily, nil, nil)
	backupFile(t, backup.ManifestPath(dir, s.Name), "{}", 0)
	res := scrape(t, backupScraper(t, fmt.Sprintf("{directory: %q}", dir)))
	for series, want := range map[string]float64{
		"niodoo_backup_backups": 0, "niodoo_backup_incomplete": 1, `niodoo_scrape_collector_success{collector="backup"}`: 1,
	} {
		if v := value(t, res.Families, series); v != want {
			t.Errorf("%s is %v, want %v", series, v, want)
		}
	}
}

// backupUnprivileged calls f on a thread whose file accesses are those of nobody,
// because root is refused nothing.
func backupUnprivileged(t *testing.T, f func()) {
	t.Helper()
	if os.Geteuid() != 0 {
		f()
		return
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := syscall.Setfsuid(65534); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := syscall.Setfsuid(0); err != nil {
			t.Fatal(err)
		}
	}()
	f()
}

// The exporter's user may not look: that is not the same as no backups.
func TestBackupPermission(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		hide func(dir string, s backup.Summary) string
		want map[*Desc]float64
	}{
		{"directory", func(dir string, _ backup.Summary) string { return dir }, map[*Desc]float64{}},
		{"manifest", func(dir string, s backup.Summary) string { return backup.ManifestPath(dir, s.Name) },
			map[*Desc]float64{backupCount: 1, backupUnreadable: 1, backupIncomplete: 0}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			dir, err := os.MkdirTemp("", "backup") // t.TempDir is for its owner alone
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { os.RemoveAll(dir) })
			if err := os.Chmod(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			backupMake(t, dir, 20*time.Hour, 10, backup.Daily, nil, nil)
			path := c.hide(dir, backupMake(t, dir, 10*time.Hour, 10, backup.Daily, nil, nil))
			if err := os.Chmod(path, 0); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = os.Chmod(path, 0o755) })
			b, err := newBackup(only(t, "backup", fmt.Sprintf("{directory: %q}", dir)), Deps{Now: func() time.Time { return backupNow }})
			if err != nil {
				t.Fatal(err)
			}
			ch := make(chan prometheus.Metric, 100)
			backupUnprivileged(t, func() { err = b.Update(context.Background(), ch) })
			close(ch)
			if classify(err) != ReasonPermission {
				t.Errorf("reason %s of %v", classify(err), err)
			}
			got := map[*Desc]float64{}
			for m := range ch {
				got[m.(*sample).desc] = m.(*sample).value
			}
			for d, want := range c.want {
				if v, ok := got[d]; !ok || v != want {
					t.Errorf("%s is %v (%v), want %v", d.Name, v, ok, want)
				}
			}
		})
	}
}
