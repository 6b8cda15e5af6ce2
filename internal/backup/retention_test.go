// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package backup

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/niodoo/niodoo_exporter/internal/config"
)

var retentionNow = time.Date(2026, 11, 24, 3, 0, 0, 0, time.UTC) // a Tuesday

// made is a good backup of some days ago, at 02:00 UTC.
func made(days int, class Class, verified bool) Backup {
	at := time.Date(2026, 11, 24-days, 2, 0, 0, 0, time.UTC)
	b := Backup{Name: Name(at), Layout: Native, State: Good, Time: at, Manifest: &Summary{Class: class}}
	if verified {
		b.Checks = Checks{Version: 1, Verified: &Check{Finished: at.Add(time.Hour), OK: true}}
	}
	return b
}

// keptDays returns how many days ago the backups that stay were made.
func keptDays(t *testing.T, all []Backup, policy map[string]int) string {
	t.Helper()
	decisions, err := Retain(t.TempDir(), all, policy, retentionNow)
	if err != nil {
		t.Fatal(err)
	}
	var kept []string
	for _, d := range decisions {
		if len(d.Reasons) == 0 {
			t.Errorf("%s: no reason", d.Backup.Name)
		}
		if d.Keep {
			kept = append(kept, fmt.Sprint(int(retentionNow.Sub(d.Backup.Time).Hours()/24)))
		}
	}
	return strings.Join(kept, " ")
}

func days(n int, change func(days int) Backup) []Backup {
	var all []Backup
	for d := range n {
		all = append(all, change(d))
	}
	return all
}

func TestRetain(t *testing.T) {
	t.Parallel()
	daily := func(d int) Backup { return made(d, Daily, true) }
	for _, c := range []struct {
		name   string
		all    []Backup
		policy map[string]int
		want   string
	}{
		{"last", days(10, daily), map[string]int{"last": 3}, "0 1 2"},
		{"daily", days(10, daily), map[string]int{"daily": 2, "weekly": 0}, "0 1"},
		// Monday is one day ago, so the Sundays are 2, 9 and 16 days ago.
		{"weekly", days(40, daily), map[string]int{"weekly": 3}, "0 2 9"},
		{"monthly", days(100, daily), map[string]int{"monthly": 3}, "0 24 55"},
		{"yearly", days(800, daily), map[string]int{"yearly": 2}, "0 328"},
		{"the oldest stays while periods are missing", days(40, daily), map[string]int{"monthly": 12}, "0 24 39"},
		{"all together", days(40, daily), map[string]int{"daily": 3, "weekly": 2}, "0 1 2"},
		{"gaps count for nothing", []Backup{daily(0), daily(20), daily(40), daily(60)}, map[string]int{"daily": 3}, "0 20 40"},
		// The full one of Friday and the archive of the 1st are preferred to later ones of their week and month.
		{"classes", days(30, func(d int) Backup {
			switch d {
			case 4:
				return made(d, Full, true)
			case 23:
				return made(d, Archive, true)
			}
			return daily(d)
		}), map[string]int{"weekly": 2, "monthly": 1}, "0 4 23"},
		{"nothing verified", days(5, func(d int) Backup { return made(d, Daily, false) }), map[string]int{"daily": 2}, "0 1"},
		// Unverified ones take no proven one's place.
		{"a week unverified", days(14, func(d int) Backup { return made(d, Daily, d >= 7) }), map[string]int{"daily": 3}, "0 1 2 7 8 9"},
		{"the newest verified stays", append(days(5, func(d int) Backup { return made(d, Daily, false) }), daily(90)), map[string]int{"yearly": 1}, "0 90"},
		{"the newest drilled stays", func() []Backup {
			all := days(10, daily)
			all[8].Checks.Drilled = &Check{Finished: retentionNow, OK: true}
			all[9].Checks.Drilled = &Check{Finished: retentionNow, OK: true}
			return all
		}(), map[string]int{"daily": 1}, "0 8"},
		{"others' stay", func() []Backup {
			all := days(6, daily)
			all[3].Layout, all[3].Manifest = LegacyArchive, nil
			all[4].State, all[4].Manifest = InProgress, nil
			all[5].State, all[5].Manifest = Unknown, nil
			return all
		}(), map[string]int{"daily": 1}, "0 3 4 5"},
	} {
		if got := keptDays(t, c.all, c.policy); got != c.want {
			t.Errorf("%s: kept %s, want %s", c.name, got, c.want)
		}
	}
	for _, policy := range []map[string]int{nil, {"daily": 0}} {
		if _, err := Retain(t.TempDir(), days(3, daily), policy, retentionNow); !errors.Is(err, ErrNoPolicy) {
			t.Errorf("%v: %v", policy, err)
		}
	}
}

// TestRetainBad has backups that are none: they go late, and never before there
// is a proven one.
func TestRetainBad(t *testing.T) {
	t.Parallel()
	bad := func(days int, state State) Backup {
		b := made(days, Daily, false)
		b.State, b.Manifest = state, nil
		return b
	}
	for _, c := range []struct {
		name     string
		b        Backup
		manifest bool
		proven   bool
		keep     bool
	}{
		{"never finished, today", bad(0, Incomplete), false, true, true},
		{"never finished", bad(2, Incomplete), false, false, false},
		{"damaged manifest", bad(5, Incomplete), true, true, true},
		{"damaged manifest, old", bad(9, Incomplete), true, true, false},
		{"damaged manifest, nothing better", bad(9, Incomplete), true, false, true},
		{"failed", bad(5, Failed), true, true, true},
		{"failed, old", bad(9, Failed), true, true, false},
		{"failed, nothing better", bad(9, Failed), true, false, true},
	} {
		dir := t.TempDir()
		if c.manifest {
			if err := os.WriteFile(ManifestPath(dir, c.b.Name), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		all := []Backup{c.b}
		if c.proven {
			all = append([]Backup{made(0, Daily, true)}, all...)
		} else {
			all = append(all, made(100, Daily, true)) // older: proves nothing
		}
		decisions, err := Retain(dir, all, map[string]int{"daily": 7}, retentionNow)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range decisions {
			if d.Backup.Name == c.b.Name && d.Backup.State == c.b.State && d.Keep != c.keep {
				t.Errorf("%s: keep is %v: %v", c.name, d.Keep, d.Reasons)
			}
		}
	}
}

// TestDelete removes the manifest first.
func TestDelete(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := archive(t, dir, testMembers()[:1])
	if err := errors.Join(WriteChecks(dir, s.Name, Checks{SHA256: s.Archive.SHA256}), os.WriteFile(filepath.Join(dir, "other"), nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	// What keeps the archive from being removed leaves no backup without one.
	path := ArchivePath(dir, s.Name, false)
	if err := errors.Join(os.Remove(path), os.MkdirAll(path+"/x", 0o700)); err != nil {
		t.Fatal(err)
	}
	if err := Delete(dir, s.Name); err == nil {
		t.Error("no error")
	}
	if _, err := os.Stat(ManifestPath(dir, s.Name)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the manifest is still there: %v", err)
	}
	if err := os.Remove(path + "/x"); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(Delete(dir, s.Name), Delete(dir, s.Name)); err != nil {
		t.Error(err)
	}
	if names, err := os.ReadDir(dir); err != nil || len(names) != 1 {
		t.Errorf("left %v, %v", names, err)
	}
}

func TestStepAside(t *testing.T) {
	t.Parallel()
	sunday := time.Date(2026, 11, 22, 2, 0, 0, 0, time.Local)
	first := time.Date(2026, 12, 1, 2, 0, 0, 0, time.Local)
	schedule := config.BackupSchedule{Full: "sunday", Archive: 1}
	at := func(t time.Time, class Class) Backup {
		return Backup{Name: Name(t), Layout: Native, State: Good, Time: t, Manifest: &Summary{Class: class}}
	}
	failed := at(sunday, Archive)
	failed.State = Failed
	for _, c := range []struct {
		name     string
		class    Class
		all      []Backup
		schedule config.BackupSchedule
		now      time.Time
		want     string
	}{
		{"an ordinary day", Daily, nil, schedule, sunday.AddDate(0, 0, 1), ""},
		{"Sunday", Daily, nil, schedule, sunday, "class full is due"},
		{"Sunday's own", Full, nil, schedule, sunday, ""},
		{"the 1st", Full, nil, schedule, first, "class archive is due"},
		{"the 1st's own", Archive, nil, schedule, first, ""},
		{"no schedule", Daily, nil, config.BackupSchedule{}, sunday, ""},
		{"just made", Daily, []Backup{at(sunday.Add(-5*time.Minute), Full)}, config.BackupSchedule{}, sunday, "was just made"},
		{"just made of the same class", Full, []Backup{at(sunday.Add(-5*time.Minute), Full)}, schedule, sunday, ""},
		{"just failed", Daily, []Backup{failed}, config.BackupSchedule{}, sunday, ""},
		{"done in the morning", Daily, []Backup{at(sunday, Full)}, schedule, sunday.Add(12 * time.Hour), ""},
		{"done the day before", Daily, []Backup{at(sunday.AddDate(0, 0, -1), Full)}, schedule, sunday, "class full is due"},
	} {
		got := StepAside(c.class, c.all, c.schedule, c.now)
		if (c.want == "") != (got == "") || !strings.Contains(got, c.want) {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

func TestRunning(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if r := ReadRunning(dir); r != (Running{}) {
		t.Errorf("%+v", r)
	}
	want := Running{Class: Full, PID: 1, Started: retentionNow}
	done, err := SetRunning(dir, want)
	if got := ReadRunning(dir); err != nil || got != want {
		t.Errorf("%+v, %v", got, err)
	}
	done()
	if err := os.WriteFile(filepath.Join(dir, ".running.json"), []byte(`{"class":"other"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if r := ReadRunning(dir); r != (Running{}) {
		t.Errorf("%+v", r)
	}
}

func TestFind(t *testing.T) {
	t.Parallel()
	all := []Backup{made(0, Daily, true), made(1, Daily, true), made(2, Full, true)}
	all[0].State = Failed
	name := all[2].Name
	for _, n := range []string{name, name + ".tar.zst", "/x/" + name + ".tar.zst.age", name + ".manifest.json", name + ".checks.json"} {
		if b, err := Find(all, n); err != nil || b.Name != name {
			t.Errorf("%s: %s, %v", n, b.Name, err)
		}
	}
	if b, err := Find(all, Newest); err != nil || b.Name != all[1].Name {
		t.Errorf("newest: %s, %v", b.Name, err)
	}
	if _, err := Find(all[:1], Newest); err == nil {
		t.Error("a failed one is the newest good one")
	}
	if _, err := Find(all, "x"); err == nil {
		t.Error("x is found")
	}
}

func TestUpdateChecks(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := archive(t, dir, testMembers()[:1])
	ok := &Check{Finished: retentionNow, OK: true}
	if err := errors.Join(
		UpdateChecks(dir, s, func(c *Checks) { c.Verified = ok }),
		UpdateChecks(dir, s, func(c *Checks) { c.Copied = ok }),
	); err != nil {
		t.Fatal(err)
	}
	if c, err := ReadChecks(dir, s); err != nil || !c.Verified.Passed() || !c.Copied.Passed() || c.Drilled != nil {
		t.Errorf("%+v, %v", c, err)
	}
	// Damaged notes are begun anew; another backup of the name is left alone.
	if err := errors.Join(os.WriteFile(ChecksPath(dir, s.Name), []byte("{"), 0o600), UpdateChecks(dir, s, func(c *Checks) { c.Drilled = ok })); err != nil {
		t.Fatal(err)
	}
	if c, err := ReadChecks(dir, s); err != nil || c.Verified != nil || !c.Drilled.Passed() {
		t.Errorf("%+v, %v", c, err)
	}
	other := s
	other.Archive = &ArchiveFile{File: s.Archive.File, Bytes: 1, SHA256: strings.Repeat("0", 64)}
	if err := UpdateChecks(dir, other, func(*Checks) {}); err == nil {
		t.Error("the notes of another backup were changed")
	}
	if err := Delete(dir, s.Name); err != nil {
		t.Fatal(err)
	}
	if err := UpdateChecks(dir, s, func(*Checks) {}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a backup that is gone: %v", err)
	}
	if names, err := filepath.Glob(dir + "/*"); err != nil || !slices.Equal(names, nil) {
		t.Errorf("left %v, %v", names, err)
	}
}
