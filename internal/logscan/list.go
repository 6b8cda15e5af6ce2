// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package logscan

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// maxEntries bounds how many names of a directory are looked at.
const maxEntries = 10_000

// OwnReports are the names of the files that the manual's scripts and niodooctl
// write beside the logs. They repeat words of the logs and are no input.
var OwnReports = []string{"health_monitor.log", "incident_*.log", "log_analysis_*.txt"}

// ReportMarker begins the first line of a report that is written for people and
// may lie beside the logs under any name. Such a file is no input either.
const ReportMarker = "# niodooctl report: "

// compressed are the endings of rotated files that cannot be read line by line.
var compressed = []string{".gz", ".bz2", ".xz", ".zst", ".lz4"}

// hasMeta reports whether a path is a glob pattern.
func hasMeta(path string) bool { return strings.ContainsAny(path, `*?[\`) }

// Expand returns the paths that match a pattern, in the order of their names.
// Unlike filepath.Glob it says what it could not look at. A pattern's part
// before the first wildcard must exist, and so must a path without wildcards.
func Expand(pattern string) ([]string, error) {
	if !hasMeta(pattern) {
		_, err := os.Stat(pattern)
		return []string{pattern}, err
	}
	dir, elem := filepath.Split(pattern)
	dir = filepath.Clean(dir)
	dirs := []string{dir}
	fixed := !hasMeta(dir)
	var errs []error
	if !fixed {
		var err error
		if dirs, err = Expand(dir); err != nil {
			errs = append(errs, err)
		}
	}
	var paths []string
	for _, d := range dirs {
		names, err := readNames(d)
		switch {
		case err == nil:
		case !fixed && (errors.Is(err, fs.ErrNotExist) || isNotDir(d)):
			continue // a file that a wildcard for directories matched
		default:
			errs = append(errs, err)
		}
		for _, n := range names {
			if ok, err := filepath.Match(elem, n); err != nil {
				return nil, err
			} else if ok {
				paths = append(paths, filepath.Join(d, n))
			}
		}
	}
	return paths, errors.Join(errs...)
}

func isNotDir(path string) bool {
	info, err := os.Stat(path)
	return err == nil && !info.IsDir()
}

// readNames returns the sorted names in a directory, at most maxEntries.
func readNames(dir string) ([]string, error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	names, err := d.Readdirnames(maxEntries + 1)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	slices.Sort(names)
	if len(names) > maxEntries {
		return names[:maxEntries], fmt.Errorf("%s has more than %d entries", dir, maxEntries)
	}
	return names, nil
}

// Excluded reports whether a path's base name matches one of the globs.
func Excluded(path string, globs []string) bool {
	base := filepath.Base(path)
	return slices.ContainsFunc(globs, func(g string) bool {
		ok, _ := filepath.Match(g, base)
		return ok
	})
}

// rotationSuffix returns what a rotation has added to the name of a log, ".1"
// or "-20260127", and whether name may be a rotated, uncompressed log of base.
func rotationSuffix(base, name string) (string, bool) {
	if rest, ok := strings.CutPrefix(name, base); ok {
		return rest, isRotation(rest)
	}
	// logrotate's `extension .log`: app-20260127.log
	ext := filepath.Ext(base)
	stem := strings.TrimSuffix(base, ext)
	if rest, ok := strings.CutPrefix(name, stem); ok && strings.HasSuffix(rest, ext) {
		rest = strings.TrimSuffix(rest, ext)
		return rest, isRotation(rest)
	}
	return "", false
}

func isRotation(suffix string) bool {
	digits := false
	for i, c := range []byte(suffix) {
		switch {
		case i == 0 && c != '.' && c != '-' && c != '_':
			return false
		case c >= '0' && c <= '9':
			digits = true
		case c != '.' && c != '-' && c != '_':
			return false
		}
	}
	return digits
}

// rotation is a file that a rotation may have made of a log.
type rotation struct {
	name, suffix string
	id           fileID
	modTime      time.Time
}

// rotationsOf returns the rotated, uncompressed files beside a log, the oldest
// first. What cannot be looked at is left out.
func rotationsOf(path string) []rotation {
	dir, base := filepath.Split(path)
	names, _ := readNames(filepath.Clean(dir))
	var found []rotation
	for _, n := range names {
		suffix, ok := rotationSuffix(base, n)
		if !ok || n == base {
			continue
		}
		if info, err := os.Lstat(filepath.Join(dir, n)); err == nil && info.Mode().IsRegular() {
			found = append(found, rotation{n, suffix, idOf(info), info.ModTime()})
		}
	}
	slices.SortStableFunc(found, func(a, b rotation) int {
		switch {
		case newerRotation(a.suffix, b.suffix):
			return 1
		case newerRotation(b.suffix, a.suffix):
			return -1
		}
		return 0
	})
	return found
}

// newerRotation reports whether a file with the suffix a was rotated after one
// with the suffix b: numbers fall with time, dates rise.
func newerRotation(a, b string) bool {
	const number = 5 // ".9999": longer suffixes are dates
	switch {
	case len(a) > number && len(b) > number:
		return a > b
	case len(a) > number || len(b) > number: // a change of habit: dates are taken to be the newer one
		return len(a) > number
	}
	return len(a) < len(b) || len(a) == len(b) && a < b
}
