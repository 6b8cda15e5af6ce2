// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package backup

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

var update = flag.Bool("update", false, "rewrite the golden files in testdata")

var started = time.Date(2026, 11, 24, 2, 0, 0, 0, time.UTC)

const zeros = "0000000000000000000000000000000000000000000000000000000000000000"

func summary() Summary {
	return Summary{
		Version: Version, Name: Name(started), Class: Daily, Host: "niodoo-1", Started: started, Seconds: 12.5, ContentBytes: 40,
		Archive:  &ArchiveFile{File: Name(started) + archiveSuffix, Bytes: 7, SHA256: zeros},
		Rows:     map[string]map[string]Rows{"postgresql": {"public.events": {Count: 490000, Sum: "1234"}}, "redis": {"db0": {Count: 3}}},
		Versions: map[string]string{"pg_dump": "15.18", "niodooctl": "1.0.0"},
		Skipped:  []Skipped{{What: "/opt/niodoo/data/engine.sock", Why: "a socket"}},
		Warnings: []string{"pg_dump: warning: there are circular foreign-key constraints\n  ],"},
	}
}

func entries() []Entry {
	return []Entry{
		{Name: "database/niodoo.dump.000000", Bytes: 30, SHA256: zeros},
		{Name: "data/odd\n  ],\n\x7f <&>", Bytes: 10, SHA256: strings.Repeat("f", 64), Note: "grew while it was read"},
		{Name: "data/bad\ufffd", NameBase64: "ZGF0YS9iYWT/", SHA256: zeros},
	}
}

func encode(t testing.TB, s Summary, all []Entry) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := Encode(&b, s, slices.Values(all)); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func decode(raw []byte) (Summary, []Entry, error) {
	var all []Entry
	s, err := Decode(bytes.NewReader(raw), func(e Entry) error { all = append(all, e); return nil })
	return s, all, err
}

func TestManifest(t *testing.T) {
	t.Parallel()
	for _, want := range [][]Entry{nil, entries()[:1], entries()} {
		raw := encode(t, summary(), want)
		if !json.Valid(raw) {
			t.Errorf("not JSON:\n%s", raw)
		}
		s, all, err := decode(raw)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(summary(), s); d != "" {
			t.Errorf("summary (-want +got):\n%s", d)
		}
		if d := cmp.Diff(want, all); d != "" {
			t.Errorf("entries (-want +got):\n%s", d)
		}
		if s, err := Decode(bytes.NewReader(raw), nil); err != nil || s.Name != Name(started) {
			t.Errorf("without entries: %v", err)
		}
	}
}

// The format is read by programs of other versions and by people with jq.
func TestManifestGolden(t *testing.T) {
	t.Parallel()
	if *update {
		if err := os.WriteFile("testdata/manifest.json", encode(t, summary(), entries()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile("testdata/manifest.json")
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), string(encode(t, summary(), entries()))); d != "" {
		t.Errorf("the format has changed (-want +got):\n%s", d)
	}
}

// Every flipped byte, every cut and everything appended is found, with and
// without looking at the entries.
func TestManifestDamage(t *testing.T) {
	t.Parallel()
	good := encode(t, summary(), entries())
	check := func(what string, raw []byte) {
		if _, _, err := decode(raw); err == nil {
			t.Errorf("%s is not noticed", what)
		}
		if s, err := Decode(bytes.NewReader(raw), nil); err == nil {
			t.Errorf("%s is not noticed without the entries", what)
		} else if !errors.Is(err, ErrVersion) && s.Archive != nil && s.Version != 0 {
			t.Errorf("%s: the summary is returned all the same", what)
		}
	}
	for i := range good {
		for _, mask := range []byte{1, 0x20} {
			raw := slices.Clone(good)
			raw[i] ^= mask
			check(fmt.Sprintf("byte %d flipped by %#x", i, mask), raw)
		}
		check(fmt.Sprintf("cut at %d", i), good[:i])
	}
	check("a byte appended", append(slices.Clone(good), '\n'))
	check("a second manifest appended", append(slices.Clone(good), good...))
}

func TestManifestRefused(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*Summary){
		"name":             func(s *Summary) { s.Name = "../../etc/passwd" },
		"impossible date":  func(s *Summary) { s.Name = "niodoo_backup_20261324_020000" },
		"class":            func(s *Summary) { s.Class = "hourly" },
		"start":            func(s *Summary) { s.Started = time.Time{} },
		"duration":         func(s *Summary) { s.Seconds = -1 },
		"foreign archive":  func(s *Summary) { s.Archive.File = "other.tar.zst" },
		"empty archive":    func(s *Summary) { s.Archive.Bytes = 0 },
		"sum":              func(s *Summary) { s.Archive.SHA256 = "abc" },
		"encryption":       func(s *Summary) { s.Encryption = &Encryption{Method: "age"} },
		"negative rows":    func(s *Summary) { s.Rows["redis"]["db0"] = Rows{Count: -1} },
		"endless warnings": func(s *Summary) { s.Warnings = make([]string, maxListed+1) },
		"huge summary":     func(s *Summary) { s.Host = strings.Repeat("x", maxSummarySize) },
	} {
		s := summary()
		change(&s)
		if err := Encode(&bytes.Buffer{}, s, slices.Values(entries())); err == nil {
			t.Errorf("%s: written", name)
		}
	}
	for name, e := range map[string]Entry{
		"nameless": {SHA256: zeros}, "no sum": {Name: "a"}, "negative": {Name: "a", SHA256: zeros, Bytes: -1},
		"huge name": {Name: strings.Repeat("x", maxLineSize), SHA256: zeros},
	} {
		if err := Encode(&bytes.Buffer{}, summary(), slices.Values([]Entry{e})); err == nil {
			t.Errorf("%s: written", name)
		}
	}
}

func TestManifestErrors(t *testing.T) {
	t.Parallel()
	good := string(encode(t, summary(), entries()))
	for _, c := range []struct {
		name, raw string
		want      error
	}{
		{"newer version", strings.Replace(good, `"version": 1`, `"version": 2`, 1), ErrVersion},
		{"no version", strings.Replace(good, `"version": 1`, `"version": 0`, 1), ErrDamaged},
		{"edited", strings.Replace(good, `"daily"`, `"full"`, 1), ErrDamaged},
		{"re-formatted", strings.ReplaceAll(good, "\n", "\r\n"), ErrDamaged},
		{"empty", "", ErrDamaged},
		{"another file", "<html>\n</html>\n", ErrDamaged},
		{"endless line", strings.Repeat("x", 1<<20), ErrTooLarge},
		{"endless summary", strings.Repeat(strings.Repeat("x", 1000)+"\n", 2000), ErrTooLarge},
	} {
		if _, _, err := decode([]byte(c.raw)); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
	}
}

// A manifest of many entries needs no memory to speak of: the exporter reads it too.
func TestManifestMemory(t *testing.T) {
	many := func() iter.Seq[Entry] {
		return func(yield func(Entry) bool) {
			for i := range 200000 {
				if !yield(Entry{Name: fmt.Sprintf("data/memories/%06d.json", i), Bytes: 1, SHA256: zeros}) {
					return
				}
			}
		}
	}
	path := filepath.Join(t.TempDir(), "m")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := Encode(f, summary(), many()); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Seek(0, 0); err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if _, err := Decode(f, nil); err != nil {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&after)
	if used := after.TotalAlloc - before.TotalAlloc; used > 1<<20 {
		t.Errorf("reading it took %d bytes of memory", used)
	}
}

func TestChecks(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := summary()
	if _, err := ReadChecks(dir, s); !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	want := Checks{Version: Version, SHA256: zeros,
		Verified: &Check{Finished: started.Add(time.Hour), Seconds: 1.1, OK: true},
		Copied:   &Check{Finished: started.Add(time.Hour), OK: false, Detail: "rsync: connection refused"}}
	if err := WriteChecks(dir, s.Name, want); err != nil {
		t.Fatal(err)
	}
	got, err := ReadChecks(dir, s)
	if d := cmp.Diff(want, got); d != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, d)
	}
	s.Archive.SHA256 = strings.Repeat("a", 64)
	if _, err := ReadChecks(dir, s); !errors.Is(err, ErrDamaged) {
		t.Errorf("the checks of another archive: %v", err)
	}
	for name, c := range map[string]Checks{
		"no sum":   {},
		"no time":  {SHA256: zeros, Drilled: &Check{OK: true}},
		"negative": {SHA256: zeros, Drilled: &Check{Finished: started, Seconds: -1}},
		"huge":     {SHA256: zeros, Drilled: &Check{Finished: started, Detail: strings.Repeat("x", maxChecksSize)}},
	} {
		if err := WriteChecks(dir, s.Name, c); err == nil {
			t.Errorf("%s: written", name)
		}
	}
	for raw, want := range map[string]error{
		`{"version":2}`: ErrVersion, `{}`: ErrDamaged, `{"version":1`: ErrDamaged, `{"version":1}`: ErrDamaged, `[]`: ErrDamaged,
		strings.Repeat(" ", maxChecksSize+1): ErrTooLarge,
	} {
		if _, err := DecodeChecks(strings.NewReader(raw)); !errors.Is(err, want) {
			t.Errorf("%.40s: %v, want %v", raw, err, want)
		}
	}
}

// room is a backup directory in which files have chosen ages.
type room struct {
	testing.TB
	dir string
	now time.Time
}

func newRoom(t testing.TB) room {
	return room{t, t.TempDir(), time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)}
}

func (r room) write(name, content string, age time.Duration) string {
	r.Helper()
	path := filepath.Join(r.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		r.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		r.Fatal(err)
	}
	r.age(name, age)
	return path
}

func (r room) age(name string, age time.Duration) {
	r.Helper()
	if err := os.Chtimes(filepath.Join(r.dir, name), r.now, r.now.Add(-age)); err != nil {
		r.Fatal(err)
	}
}

// native writes a backup of ours that was made so long ago, and returns its summary.
func (r room) native(ago time.Duration, change func(*Summary)) Summary {
	r.Helper()
	s := summary()
	s.Started = r.now.Add(-ago)
	s.Name = Name(s.Started)
	s.Archive.File = s.Name + archiveSuffix
	if change != nil {
		change(&s)
	}
	r.write(s.Archive.File, "archive", ago)
	if err := WriteManifest(r.dir, s, slices.Values(entries())); err != nil {
		r.Fatal(err)
	}
	r.age(s.Name+manifestSuffix, ago)
	return s
}

const (
	plainDump = "--\n-- PostgreSQL database dump\n--\nCOPY public.events (id) FROM stdin;\n1\n\\.\n\n--\n-- PostgreSQL database dump complete\n--\n\n"
	gzipped   = "\x1f\x8b\x08\x00rest of the stream"
)

// directory writes what the manual's scripts write, up to the named part.
func (r room) directory(stamp string, age time.Duration, parts ...string) {
	r.Helper()
	for _, p := range parts {
		switch p {
		case "database.sql":
			r.write(stamp+"/"+p, plainDump, age)
		case "config":
			r.write(stamp+"/config/production.toml", "a", age)
			r.age(stamp+"/config", age)
		default:
			r.write(stamp+"/"+p, gzipped, age)
		}
	}
	r.age(stamp, age)
}

func (r room) scan() []Backup {
	r.Helper()
	all, err := List(context.Background(), r.dir, r.now)
	if err != nil {
		r.Fatal(err)
	}
	return all
}

// show is what a scan found, in short.
func show(all []Backup) string {
	var lines []string
	for _, b := range all {
		lines = append(lines, fmt.Sprintf("%s %s %s %q", b.Name, b.Layout, b.State, b.Problem))
	}
	return strings.Join(lines, "\n")
}

func TestScan(t *testing.T) {
	t.Parallel()
	const h = time.Hour
	stamp := func(r room, ago time.Duration) string { return r.now.Add(-ago).Local().Format(stampLayout) }
	for _, c := range []struct {
		name  string
		make  func(r room) string // returns the expected name
		state State
		say   string
	}{
		{"native", func(r room) string { return r.native(10*h, nil).Name }, Good, ""},
		{"native just now", func(r room) string { return r.native(0, nil).Name }, Good, ""},
		{"from the future", func(r room) string { return r.native(-1000*h, nil).Name }, Unknown, "from the future"},
		{"a clock slightly off", func(r room) string { return r.native(-h/2, nil).Name }, Good, ""},
		{"encrypted", func(r room) string {
			return r.native(10*h, func(s *Summary) {
				s.Encryption, s.Archive.File = &Encryption{Method: "age", Recipients: []string{"age1x"}}, s.Name+encryptedSuffix
			}).Name
		}, Good, ""},
		{"wrong length", func(r room) string { return r.native(10*h, func(s *Summary) { s.Archive.Bytes = 8 }).Name }, Incomplete, "7 bytes and should have 8"},
		{"archive lost", func(r room) string {
			s := r.native(10*h, nil)
			if err := os.Remove(filepath.Join(r.dir, s.Archive.File)); err != nil {
				r.Fatal(err)
			}
			return s.Name
		}, Incomplete, "is missing"},
		{"archive is a link", func(r room) string {
			s := r.native(10*h, nil)
			path := filepath.Join(r.dir, s.Archive.File)
			if err := errors.Join(os.Rename(path, path+"x"), os.Symlink(path+"x", path)); err != nil {
				r.Fatal(err)
			}
			return s.Name
		}, Incomplete, "is missing"},
		{"no manifest yet", func(r room) string {
			n := Name(r.now.Add(-h / 2))
			r.write(n+archiveSuffix, "archive", h/2)
			return n
		}, InProgress, ""},
		{"no manifest", func(r room) string {
			n := Name(r.now.Add(-3 * h))
			r.write(n+archiveSuffix, "archive", 2*h)
			return n
		}, Incomplete, "manifest is missing"},
		{"under construction", func(r room) string {
			n := Name(r.now.Add(-3 * h))
			r.write("."+n+archiveSuffix+".partial-4711", "arch", time.Minute)
			return n
		}, InProgress, ""},
		{"left under construction", func(r room) string {
			n := Name(r.now.Add(-3 * h))
			r.write("."+n+archiveSuffix+".partial-4711", "arch", 2*h)
			return n
		}, Incomplete, "under construction"},
		{"manifest flipped", func(r room) string {
			s := r.native(10*h, nil)
			raw, err := os.ReadFile(ManifestPath(r.dir, s.Name))
			if err != nil {
				r.Fatal(err)
			}
			raw[len(raw)/2] ^= 1
			r.write(s.Name+manifestSuffix, string(raw), h)
			return s.Name
		}, Incomplete, "damaged"},
		{"manifest of another backup", func(r room) string {
			s := r.native(10*h, nil)
			other := Name(r.now.Add(-9 * h))
			raw, err := os.ReadFile(ManifestPath(r.dir, s.Name))
			if err != nil {
				r.Fatal(err)
			}
			r.write(other+manifestSuffix, string(raw), h)
			r.write(other+archiveSuffix, "archive", h)
			if err := errors.Join(os.Remove(ManifestPath(r.dir, s.Name)), os.Remove(filepath.Join(r.dir, s.Archive.File))); err != nil {
				r.Fatal(err)
			}
			return other
		}, Incomplete, "it is the manifest of"},
		{"verification failed", func(r room) string {
			s := r.native(10*h, nil)
			if err := WriteChecks(r.dir, s.Name, Checks{SHA256: zeros, Verified: &Check{Finished: r.now, Detail: "entry 3"}}); err != nil {
				r.Fatal(err)
			}
			return s.Name
		}, Failed, "verification failed: entry 3"},
		{"drill failed", func(r room) string {
			s := r.native(10*h, nil)
			if err := WriteChecks(r.dir, s.Name, Checks{SHA256: zeros, Drilled: &Check{Finished: r.now, Detail: "rows differ"}}); err != nil {
				r.Fatal(err)
			}
			return s.Name
		}, Failed, "restoring it failed: rows differ"},

		{"the manual's archive", func(r room) string {
			n := "niodoo_backup_" + stamp(r, 10*h) + ".tar.gz"
			r.write(n, gzipped, 10*h)
			return n
		}, Good, ""},
		{"the manual's archive being written", func(r room) string {
			n := "niodoo_backup_" + stamp(r, 10*h) + ".tar.gz"
			r.write(n, gzipped, 10*time.Second)
			return n
		}, InProgress, ""},
		{"an empty archive", func(r room) string {
			n := "niodoo_backup_" + stamp(r, 10*h) + ".tar.gz"
			r.write(n, "", 10*h)
			return n
		}, Incomplete, "not a gzip"},

		{"the guide's directory", func(r room) string {
			r.directory(stamp(r, 10*h), 10*h, "database.sql", "consciousness_data.tar.gz", "config")
			return stamp(r, 10*h)
		}, Good, ""},
		{"the guide's directory being written", func(r room) string {
			r.directory(stamp(r, h), time.Second, "database.sql", "consciousness_data.tar.gz", "config")
			return stamp(r, h)
		}, InProgress, ""},
		{"a whole directory that was not packed", func(r room) string {
			r.directory(stamp(r, 10*h), 10*h, "database.sql", "consciousness_data.tar.gz", "config", "logs.tar.gz", "manifest.txt")
			return stamp(r, 10*h)
		}, Good, ""},
		{"a whole directory being packed", func(r room) string {
			r.directory(stamp(r, h), 5*time.Minute, "database.sql", "consciousness_data.tar.gz", "config", "logs.tar.gz", "manifest.txt")
			return stamp(r, h)
		}, InProgress, ""},
		{"stopped at the logs", func(r room) string {
			r.directory(stamp(r, 10*h), 10*h, "database.sql", "consciousness_data.tar.gz", "config", "logs.tar.gz")
			return stamp(r, 10*h)
		}, Incomplete, "stopped at the logs"},
		{"at the logs", func(r room) string {
			r.directory(stamp(r, h), h/2, "database.sql", "consciousness_data.tar.gz", "config", "logs.tar.gz")
			return stamp(r, h)
		}, InProgress, ""},
		{"stopped at the configuration", func(r room) string {
			r.directory(stamp(r, 10*h), 10*h, "database.sql", "consciousness_data.tar.gz")
			return stamp(r, 10*h)
		}, Incomplete, "config is missing"},
		{"no terminal under cron", func(r room) string {
			r.directory(stamp(r, 10*h), 10*h, "database.sql")
			r.write(stamp(r, 10*h)+"/database.sql", "the input device is not a TTY\n", 10*h)
			r.age(stamp(r, 10*h), 10*h)
			return stamp(r, 10*h)
		}, Incomplete, "ends too early"},
		{"dump cut off", func(r room) string {
			r.directory(stamp(r, 10*h), 10*h, "database.sql", "consciousness_data.tar.gz", "config", "logs.tar.gz", "manifest.txt")
			r.write(stamp(r, 10*h)+"/database.sql", plainDump[:len(plainDump)-30], 10*h)
			return stamp(r, 10*h)
		}, Incomplete, "ends too early"},
		{"dump with the restriction key of 2025", func(r room) string {
			r.directory(stamp(r, 10*h), 10*h, "database.sql", "consciousness_data.tar.gz", "config")
			r.write(stamp(r, 10*h)+"/database.sql", strings.ReplaceAll(plainDump, "\n", "\r\n")+"\\unrestrict "+zeros+"\n", 10*h)
			return stamp(r, 10*h)
		}, Good, ""},
		{"an empty directory", func(r room) string {
			if err := os.Mkdir(filepath.Join(r.dir, stamp(r, 10*h)), 0o755); err != nil {
				r.Fatal(err)
			}
			r.age(stamp(r, 10*h), 10*h)
			return stamp(r, 10*h)
		}, Incomplete, "database.sql is missing"},
		{"a link in place of the dump", func(r room) string {
			r.directory(stamp(r, 10*h), 10*h, "database.sql", "consciousness_data.tar.gz", "config")
			path := filepath.Join(r.dir, stamp(r, 10*h), "database.sql")
			if err := errors.Join(os.Remove(path), os.Symlink("/etc/passwd", path)); err != nil {
				r.Fatal(err)
			}
			r.age(stamp(r, 10*h), 10*h)
			return stamp(r, 10*h)
		}, Unknown, "too many levels of symbolic links"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := newRoom(t)
			name := c.make(r)
			all, err := List(context.Background(), r.dir, r.now)
			if (err != nil) != (c.state == Unknown) {
				t.Errorf("error %v", err)
			}
			if len(all) != 1 || all[0].Name != name || all[0].State != c.state || !strings.Contains(all[0].Problem, c.say) || (c.say == "") != (all[0].Problem == "") {
				t.Errorf("found\n%s\nwant %s, %s, %q", show(all), name, c.state, c.say)
			}
		})
	}
}

// The manual's script stopped in the middle of tar: both what it made and what
// it made it from are there, and only the latter is whole.
func TestScanHalfPacked(t *testing.T) {
	t.Parallel()
	r := newRoom(t)
	stamp := r.now.Add(-10 * time.Hour).Local().Format(stampLayout)
	r.directory(stamp, 10*time.Hour, "database.sql", "consciousness_data.tar.gz", "config", "logs.tar.gz", "manifest.txt")
	r.write("niodoo_backup_"+stamp+".tar.gz", gzipped, 9*time.Hour)
	states := map[Layout]State{}
	for _, b := range r.scan() {
		states[b.Layout] = b.State
	}
	if d := cmp.Diff(map[Layout]State{LegacyArchive: Incomplete, LegacyDirectory: Good}, states); d != "" {
		t.Error(d)
	}
}

func TestScanOrderTimesAndSizes(t *testing.T) {
	t.Parallel()
	r := newRoom(t)
	r.native(50*time.Hour, nil)
	r.native(26*time.Hour, nil)
	yesterday := r.now.Add(-30 * time.Hour).Local().Format(stampLayout)
	r.write("niodoo_backup_"+yesterday+".tar.gz", gzipped, 29*time.Hour)
	// Copied back from elsewhere without its times: not as fresh as it looks.
	old := r.now.Add(-900 * time.Hour).Local().Format(stampLayout)
	r.write("niodoo_backup_"+old+".tar.gz", gzipped, 2*time.Hour)
	all := r.scan()
	var ages []time.Duration
	for _, b := range all {
		ages = append(ages, r.now.Sub(b.Time))
	}
	if want := []time.Duration{26 * time.Hour, 29 * time.Hour, 50 * time.Hour, 900 * time.Hour}; !slices.Equal(ages, want) {
		t.Errorf("ages %v, want %v", ages, want)
	}
	if b := all[0]; b.ArchiveBytes != 7 || b.Bytes <= 7 || b.Manifest == nil || b.Manifest.Rows != nil {
		t.Errorf("%+v", b)
	}
}

func TestScanIgnores(t *testing.T) {
	t.Parallel()
	r := newRoom(t)
	for _, n := range []string{"README", "niodoo_backup_.tar.zst", "niodoo_backup_20261324_000000.tar.gz", "20261124_020000", "20261124_020000.bak/database.sql",
		"niodoo_backup_20261124_020000.tar.gz.old", "niodoo_backup_20261124_020000.checks.json", "niodoo_snapshot_20251022_073224.tar.gz", ".20261124_020000"} {
		r.write(n, gzipped, 5*time.Hour)
	}
	if err := errors.Join(os.Symlink("/", filepath.Join(r.dir, "20261123_020000")),
		os.Symlink("README", filepath.Join(r.dir, "niodoo_backup_20261123_020000.tar.gz")),
		syscall.Mkfifo(filepath.Join(r.dir, "niodoo_backup_20261122_020000.manifest.json"), 0o644)); err != nil {
		t.Fatal(err)
	}
	if all := r.scan(); len(all) != 0 {
		t.Errorf("found\n%s", show(all))
	}
}

// A second look at the same files opens none of them, and sees what has changed.
func TestScannerRemembers(t *testing.T) {
	t.Parallel()
	r := newRoom(t)
	s := r.native(10*time.Hour, nil)
	stamp := r.now.Add(-20 * time.Hour).Local().Format(stampLayout)
	r.directory(stamp, 20*time.Hour, "database.sql", "consciousness_data.tar.gz", "config")
	sc := NewScanner(r.dir)
	look := func() []Backup {
		t.Helper()
		all, err := sc.Scan(context.Background(), r.now)
		if err != nil {
			t.Fatal(err)
		}
		return all
	}
	first := look()
	// The content changes behind the scanner's back, size and time do not.
	for _, n := range []string{s.Name + manifestSuffix, stamp + "/database.sql"} {
		info, err := os.Stat(filepath.Join(r.dir, n))
		if err != nil {
			t.Fatal(err)
		}
		r.write(n, strings.Repeat("x", int(info.Size())), r.now.Sub(info.ModTime()))
	}
	r.age(stamp, 20*time.Hour)
	if d := cmp.Diff(first, look()); d != "" {
		t.Errorf("files were read again (-first +second):\n%s", d)
	}
	r.age(s.Name+manifestSuffix, 9*time.Hour)
	r.age(stamp+"/database.sql", 19*time.Hour)
	for _, b := range look() {
		if b.State != Incomplete {
			t.Errorf("the change is not seen: %s", show([]Backup{b}))
		}
	}
	if err := os.RemoveAll(filepath.Join(r.dir, stamp)); err != nil {
		t.Fatal(err)
	}
	look()
	if len(sc.facts) != 1 {
		t.Errorf("%d facts are remembered, want 1", len(sc.facts))
	}
}

func TestScanErrors(t *testing.T) {
	t.Parallel()
	r := newRoom(t)
	if _, err := List(context.Background(), filepath.Join(r.dir, "missing"), r.now); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing: %v", err)
	}
	good := r.native(30*time.Hour, nil)
	s := r.native(10*time.Hour, nil)
	raw := strings.Replace(string(encode(t, s, nil)), `"version": 1`, `"version": 7`, 1)
	r.write(s.Name+manifestSuffix, raw, time.Hour)
	all, err := List(context.Background(), r.dir, r.now)
	if !errors.Is(err, ErrVersion) || len(all) != 2 || all[0].State != Unknown || all[1].Name != good.Name || all[1].State != Good {
		t.Errorf("%v\n%s", err, show(all))
	}
	r.write(good.Name+checksSuffix, "{", time.Hour)
	if all, err := List(context.Background(), r.dir, r.now); !errors.Is(err, ErrDamaged) || all[1].State != Good || all[1].Checks.Verified != nil {
		t.Errorf("%v\n%s", err, show(all))
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := List(ctx, r.dir, r.now); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	for i := range maxEntries {
		if err := os.WriteFile(filepath.Join(r.dir, fmt.Sprint(i)), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := List(context.Background(), r.dir, r.now); !errors.Is(err, ErrTooLarge) {
		t.Errorf("too many entries: %v", err)
	}
}

func TestPaths(t *testing.T) {
	t.Parallel()
	s := summary()
	for _, encrypted := range []bool{false, true} {
		s.Archive.File = filepath.Base(ArchivePath("/b", s.Name, encrypted))
		if s.Encryption = nil; encrypted {
			s.Encryption = &Encryption{Method: "age"}
		}
		if err := s.validate(); err != nil {
			t.Error(err)
		}
	}
	if !(&Check{OK: true}).Passed() || (&Check{}).Passed() || (*Check)(nil).Passed() || (*Check)(nil).Failed() {
		t.Error("a check that was not made has neither passed nor failed")
	}
}

func TestWriteManifestCommitsOnce(t *testing.T) {
	t.Parallel()
	r := newRoom(t)
	s := r.native(10*time.Hour, nil)
	if err := WriteManifest(r.dir, s, slices.Values(entries())); !errors.Is(err, fs.ErrExist) {
		t.Errorf("a second commit: %v", err)
	}
	s.Archive = nil
	if err := WriteManifest(r.dir, s, slices.Values(entries())); err == nil {
		t.Error("committed without an archive")
	}
}

func FuzzManifest(f *testing.F) {
	f.Add(encode(f, summary(), entries()))
	f.Add(encode(f, summary(), nil))
	f.Add([]byte("{\n  \"version\": 1,\n  \"entries\": [\n  ],\n"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if at := bytes.LastIndex(raw, []byte(checksumStart)); at >= 0 {
			raw = raw[:at] // a checksum is never guessed: the right one lets the rest be tried
		}
		var sealed bytes.Buffer
		sealer := newSealer(&sealed)
		if _, err := sealer.Write(raw); err != nil {
			t.Fatal(err)
		}
		if err := sealer.close(); err != nil {
			t.Fatal(err)
		}
		s, all, err := decode(sealed.Bytes())
		if err != nil {
			return
		}
		// What is accepted could have been written.
		again, allAgain, err := decode(encode(t, s, all))
		if err != nil || !cmp.Equal(s, again, cmpopts.EquateEmpty()) || !cmp.Equal(all, allAgain) {
			t.Errorf("%v\n%s", err, cmp.Diff(s, again))
		}
	})
}

func FuzzChecks(f *testing.F) {
	f.Add([]byte(`{"version":1,"archive_sha256":"` + zeros + `","verified":{"finished":"2026-11-24T03:00:00Z","duration_seconds":1,"ok":true}}`))
	f.Add([]byte(`{"version":1,"drilled":null}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		c, err := DecodeChecks(bytes.NewReader(raw))
		if err == nil && c.validate() != nil {
			t.Errorf("accepted: %v", c.validate())
		}
	})
}
