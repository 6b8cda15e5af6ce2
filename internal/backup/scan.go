// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package backup

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"time"

	"github.com/niodoo/niodoo_exporter/internal/atomicfile"
)

// Layout is how a backup is laid out.
type Layout string

const (
	// Native are niodooctl's backups: an archive and a manifest.
	Native Layout = "niodooctl"
	// LegacyArchive is what the manual's backup_system.sh leaves:
	// niodoo_backup_YYYYmmdd_HHMMSS.tar.gz.
	LegacyArchive Layout = "archive"
	// LegacyDirectory is YYYYmmdd_HHMMSS/: what the production guide's
	// backup_recovery.sh leaves, and what backup_system.sh works in.
	LegacyDirectory Layout = "directory"
)

// Layouts lists the closed set.
var Layouts = []Layout{Native, LegacyArchive, LegacyDirectory}

// State says what a backup is worth.
type State string

const (
	// Good backups are whole as far as can be told without reading every byte.
	Good State = "good"
	// InProgress are those that may still be written.
	InProgress State = "in_progress"
	// Incomplete are those that were never finished, or are damaged.
	Incomplete State = "incomplete"
	// Failed are those whose verification or restore failed.
	Failed State = "failed"
	// Unknown are those that could not be looked at.
	Unknown State = "unknown"
)

const (
	// Grace is how long something unfinished counts as in progress after it was
	// last written to; no step of a backup is silent for that long.
	Grace = time.Hour
	// settled is how long a file without a commit mark must have been left alone.
	settled = time.Minute

	maxEntries = 10000
	// dumpTrailer is pg_dump's last line but for what PostgreSQL's security
	// releases of 2025 added after it.
	dumpTrailer  = "-- PostgreSQL database dump complete"
	trailerBytes = 4 << 10
	// A legacy name holds local time, and its modification time that of its end.
	// If they are further apart than this, someone has touched or copied it.
	maxStampError = 24 * time.Hour
)

// Backup is one backup in a directory.
type Backup struct {
	Name   string
	Layout Layout
	State  State
	// Problem says why it is not good, in words for people.
	Problem string
	// Time is the moment whose data it holds.
	Time time.Time
	// Bytes is the size of all its files, ArchiveBytes that of the archive or
	// directory alone.
	Bytes, ArchiveBytes int64
	// Manifest is nil but for whole native backups. It lacks the tables, the
	// versions and the digests: read them with [ReadManifest].
	Manifest *Summary
	// Checks are the zero value where nothing is noted.
	Checks Checks
}

// Scanner looks through a directory again and again. It remembers what it has
// read of files that have not changed, and is not safe for concurrent use.
type Scanner struct {
	dir   string
	facts map[string]fact
}

// fact is what was found out about a path, for as long as the file is the same.
type fact struct {
	key   fileKey
	value any
	err   error
}

type fileKey struct {
	modTime, size int64
}

func keyOf(i fs.FileInfo) fileKey { return fileKey{i.ModTime().UnixNano(), i.Size()} }

// NewScanner returns the scanner of a directory.
func NewScanner(dir string) *Scanner { return &Scanner{dir: dir, facts: map[string]fact{}} }

// List looks through a directory once; see [Scanner.Scan].
func List(ctx context.Context, dir string, now time.Time) ([]Backup, error) {
	return NewScanner(dir).Scan(ctx, now)
}

// Scan returns the backups in the directory, newest first. Symbolic links and
// names that are nobody's are ignored. An error that comes with backups says
// which files could not be read: their backups have the state [Unknown], or
// their checks are missing.
func (s *Scanner) Scan(ctx context.Context, now time.Time) ([]Backup, error) {
	found, err := s.read()
	if err != nil {
		return nil, err
	}
	var (
		all  []Backup
		errs []error
		used = map[string]bool{}
	)
	for _, stem := range slices.Sorted(maps.Keys(found)) {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		f := found[stem]
		for _, look := range []func(string, *files, time.Time) (Backup, bool, error){s.native, s.legacyArchive, s.legacyDirectory} {
			b, ok, err := look(stem, f, now)
			if err == nil && ok && b.Time.After(now.Add(Grace)) {
				// It would pass for the newest, and fresh, until that day.
				err = fmt.Errorf("%s: %w: it claims to be of %s", b.Name, ErrFuture, b.Time.Format(time.RFC3339))
				b.State, b.Problem = Unknown, err.Error()
			}
			if err != nil {
				errs = append(errs, err)
			}
			if ok {
				all = append(all, b)
			}
		}
		for _, p := range f.paths(s.dir) {
			used[p] = true
		}
	}
	maps.DeleteFunc(s.facts, func(path string, _ fact) bool { return !used[path] })
	slices.SortFunc(all, func(a, b Backup) int {
		return cmp.Or(b.Time.Compare(a.Time), cmp.Compare(b.Name, a.Name), cmp.Compare(a.Layout, b.Layout))
	})
	return all, errors.Join(errs...)
}

// files are the files that belong to one time stamp.
type files struct {
	archives         []fs.FileInfo // ours: more than one only by mistake
	manifest, checks fs.FileInfo
	partial          []fs.FileInfo
	gzip             fs.FileInfo // legacy archive
	directory        fs.FileInfo
}

func (f *files) paths(dir string) []string {
	var all []string
	for _, i := range append([]fs.FileInfo{f.manifest, f.checks, f.gzip, f.directory}, f.archives...) {
		if i != nil {
			all = append(all, filepath.Join(dir, i.Name()))
		}
	}
	return all
}

// entryRE takes a name apart: dot, prefix, time stamp, rest.
var entryRE = regexp.MustCompile(`^(\.?)(niodoo_backup_)?(\d{8}_\d{6})(.*)$`)

// read lists the directory by time stamp.
func (s *Scanner) read() (map[string]*files, error) {
	d, err := os.Open(s.dir)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	entries, err := d.ReadDir(maxEntries + 1)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if len(entries) > maxEntries {
		return nil, fmt.Errorf("%s: %w: more than %d entries", s.dir, ErrTooLarge, maxEntries)
	}
	found := map[string]*files{}
	for _, e := range entries {
		m := entryRE.FindStringSubmatch(e.Name())
		if m == nil || !e.Type().IsRegular() && !e.IsDir() {
			continue
		}
		if _, err := time.Parse(stampLayout, m[3]); err != nil {
			continue
		}
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) { // deleted meanwhile
			continue
		}
		if err != nil {
			return nil, err
		}
		f := found[m[3]]
		if f == nil {
			f = &files{}
		}
		if f.add(m[1] != "", m[2] != "", m[4], info) {
			found[m[3]] = f
		}
	}
	return found, nil
}

func (f *files) add(dot, prefix bool, suffix string, info fs.FileInfo) bool {
	switch {
	case info.IsDir():
		if dot || prefix || suffix != "" {
			return false
		}
		f.directory = info
	case !prefix:
		return false
	case dot:
		f.partial = append(f.partial, info)
	case suffix == archiveSuffix || suffix == encryptedSuffix:
		f.archives = append(f.archives, info)
	case suffix == manifestSuffix:
		f.manifest = info
	case suffix == checksSuffix:
		f.checks = info
	case suffix == ".tar.gz":
		f.gzip = info
	default:
		return false
	}
	return true
}

// remember returns what find says of a file, and asks again only when the file
// has changed. Failures to read it are not remembered, what is wrong with it is.
func remember[T any](s *Scanner, path string, key fileKey, find func() (T, error)) (T, error) {
	if f, ok := s.facts[path]; ok && f.key == key {
		if v, ok := f.value.(T); ok {
			return v, f.err
		}
	}
	v, err := find()
	if err == nil || errors.Is(err, ErrDamaged) || errors.Is(err, ErrVersion) || errors.Is(err, ErrTooLarge) {
		s.facts[path] = fact{key: key, value: v, err: err}
	} else {
		delete(s.facts, path)
	}
	return v, err
}

// unfinished tells a backup in the making from one that was given up.
func unfinished(b Backup, touched, now time.Time, problem string) Backup {
	b.State, b.Problem = Incomplete, problem
	if now.Sub(touched).Abs() < Grace {
		b.State, b.Problem = InProgress, ""
	}
	return b
}

func (s *Scanner) native(stamp string, f *files, now time.Time) (Backup, bool, error) {
	b := Backup{Name: "niodoo_backup_" + stamp, Layout: Native}
	b.Time, _ = time.Parse(stampLayout, stamp)
	var touched time.Time
	for _, i := range append(slices.Clone(f.archives), f.partial...) {
		b.Bytes += i.Size()
		if i.ModTime().After(touched) {
			touched = i.ModTime()
		}
	}
	for _, i := range f.archives {
		b.ArchiveBytes += i.Size()
	}
	if f.checks != nil {
		b.Bytes += f.checks.Size()
	}
	if f.manifest == nil {
		switch {
		case len(f.archives) > 0:
			return unfinished(b, touched, now, "its manifest is missing"), true, nil
		case len(f.partial) > 0:
			return unfinished(b, touched, now, "it was left under construction"), true, nil
		}
		return b, false, nil
	}
	b.Bytes += f.manifest.Size()

	m, err := remember(s, filepath.Join(s.dir, f.manifest.Name()), keyOf(f.manifest), func() (Summary, error) {
		m, err := ReadManifest(s.dir, b.Name, nil)
		m.Rows, m.Collections, m.Versions, m.Images, m.Models = nil, nil, nil, nil, nil
		return m, err
	})
	switch {
	case errors.Is(err, fs.ErrNotExist): // deleted meanwhile
		return b, false, nil
	case errors.Is(err, ErrDamaged), errors.Is(err, ErrTooLarge):
		b.State, b.Problem = Incomplete, err.Error()
		return b, true, nil
	case err != nil:
		b.State, b.Problem = Unknown, err.Error()
		return b, true, err
	}
	b.Time = m.Started
	at := slices.IndexFunc(f.archives, func(i fs.FileInfo) bool { return i.Name() == m.Archive.File })
	switch {
	case at < 0:
		b.State, b.Problem = Incomplete, "its archive "+m.Archive.File+" is missing"
		return b, true, nil
	case f.archives[at].Size() != m.Archive.Bytes:
		b.State, b.Problem = Incomplete, fmt.Sprintf("its archive has %d bytes and should have %d", f.archives[at].Size(), m.Archive.Bytes)
		return b, true, nil
	}
	b.State, b.Manifest, b.ArchiveBytes = Good, &m, m.Archive.Bytes
	if f.checks == nil {
		return b, true, nil
	}
	b.Checks, err = remember(s, filepath.Join(s.dir, f.checks.Name()), keyOf(f.checks), func() (Checks, error) { return ReadChecks(s.dir, m) })
	switch {
	case errors.Is(err, fs.ErrNotExist):
		err = nil
	case b.Checks.Verified.Failed():
		b.State, b.Problem = Failed, "its verification failed: "+b.Checks.Verified.Detail
	case b.Checks.Drilled.Failed():
		b.State, b.Problem = Failed, "restoring it failed: "+b.Checks.Drilled.Detail
	}
	return b, true, err
}

// legacyTime is the moment whose data a legacy backup holds: its modification
// time, unless that has been tampered with.
func legacyTime(stamp string, modified time.Time) time.Time {
	named, err := time.ParseInLocation(stampLayout, stamp, time.Local)
	if err == nil && modified.Sub(named).Abs() > maxStampError {
		return named
	}
	return modified
}

func (s *Scanner) legacyArchive(stamp string, f *files, now time.Time) (Backup, bool, error) {
	if f.gzip == nil {
		return Backup{}, false, nil
	}
	i := f.gzip
	b := Backup{Name: i.Name(), Layout: LegacyArchive, State: Good, Bytes: i.Size(), ArchiveBytes: i.Size(), Time: legacyTime(stamp, i.ModTime())}
	path := filepath.Join(s.dir, i.Name())
	isGzip, err := remember(s, path, keyOf(i), func() (bool, error) { return startsWith(path, gzipMagic) })
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return b, false, nil
	case err != nil:
		b.State, b.Problem = Unknown, err.Error()
		return b, true, err
	case f.directory != nil: // removed once tar has done its work
		return unfinished(b, i.ModTime(), now, "the directory it was made from is still there: tar did not finish"), true, nil
	case !isGzip:
		return unfinished(b, i.ModTime(), now, "it is not a gzip file"), true, nil
	case now.Sub(i.ModTime()).Abs() < settled:
		b.State = InProgress
	}
	return b, true, nil
}

var gzipMagic = []byte{0x1f, 0x8b, 0x08}

func startsWith(path string, magic []byte) (bool, error) {
	f, _, err := atomicfile.Open(path)
	if err != nil {
		return false, err
	}
	defer f.Close()
	got := make([]byte, len(magic))
	if _, err := io.ReadFull(f, got); err != nil {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return false, nil
		}
		return false, err
	}
	return bytes.Equal(got, magic), nil
}

// legacyDirectory judges a directory. backup_system.sh writes database.sql,
// consciousness_data.tar.gz, config/, logs.tar.gz and, when all went well,
// manifest.txt; backup_recovery.sh stops after config/.
func (s *Scanner) legacyDirectory(stamp string, f *files, now time.Time) (Backup, bool, error) {
	if f.directory == nil {
		return Backup{}, false, nil
	}
	dir := filepath.Join(s.dir, f.directory.Name())
	b := Backup{Name: f.directory.Name(), Layout: LegacyDirectory, State: Good, Time: legacyTime(stamp, f.directory.ModTime())}
	touched := f.directory.ModTime()
	parts := map[string]fs.FileInfo{}
	var key fileKey
	for _, name := range []string{"database.sql", "consciousness_data.tar.gz", "config", "logs.tar.gz", "manifest.txt"} {
		i, err := os.Lstat(filepath.Join(dir, name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			b.State, b.Problem = Unknown, err.Error()
			return b, true, err
		}
		parts[name] = i
		key.size += i.Size()
		if i.ModTime().After(touched) {
			touched = i.ModTime()
		}
	}
	key.modTime = touched.UnixNano()
	type content struct {
		bytes    int64
		complete bool
	}
	c, err := remember(s, dir, key, func() (content, error) {
		bytes, err := treeSize(dir)
		if err != nil || parts["database.sql"] == nil {
			return content{bytes: bytes}, err
		}
		complete, err := dumpComplete(filepath.Join(dir, "database.sql"))
		return content{bytes, complete}, err
	})
	b.Bytes, b.ArchiveBytes = c.bytes, c.bytes
	data := parts["consciousness_data.tar.gz"]
	switch {
	case errors.Is(err, fs.ErrNotExist): // its script is removing it
		return b, false, nil
	case err != nil:
		b.State, b.Problem = Unknown, err.Error()
		return b, true, err
	case parts["database.sql"] == nil:
		return unfinished(b, touched, now, "database.sql is missing"), true, nil
	}
	b.Time = legacyTime(stamp, parts["database.sql"].ModTime())
	switch {
	case !c.complete:
		return unfinished(b, touched, now, "database.sql ends too early"), true, nil
	case data == nil || data.Size() == 0:
		return unfinished(b, touched, now, "consciousness_data.tar.gz is missing"), true, nil
	case parts["config"] == nil:
		return unfinished(b, touched, now, "config is missing"), true, nil
	case parts["logs.tar.gz"] != nil && parts["manifest.txt"] == nil:
		return unfinished(b, touched, now, "manifest.txt is missing: the script stopped at the logs"), true, nil
	case parts["manifest.txt"] != nil && now.Sub(touched).Abs() < Grace: // tar is at work
		b.State = InProgress
	case now.Sub(touched).Abs() < settled:
		b.State = InProgress
	}
	return b, true, nil
}

// dumpComplete reports whether a plain dump ends as pg_dump ends it: one that
// was cut off restores without an error.
func dumpComplete(path string) (bool, error) {
	f, size, err := atomicfile.Open(path)
	if err != nil {
		return false, err
	}
	defer f.Close()
	tail := make([]byte, min(size, trailerBytes))
	if _, err := f.ReadAt(tail, size-int64(len(tail))); err != nil && !errors.Is(err, io.EOF) {
		return false, err
	}
	return DumpComplete(tail), nil
}

// DumpComplete reports whether the last 4 KiB of a plain dump are its end.
func DumpComplete(tail []byte) bool {
	return bytes.Contains(append([]byte("\n"), tail...), []byte("\n"+dumpTrailer))
}

// treeSize adds up the files below a directory, 10,000 at most, without
// following links.
func treeSize(dir string) (int64, error) {
	var total int64
	seen := 0
	err := filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		if seen++; seen > maxEntries {
			return fs.SkipAll
		}
		if e.Type().IsRegular() {
			if i, err := e.Info(); err == nil {
				total += i.Size()
			}
		}
		return nil
	})
	return total, err
}
