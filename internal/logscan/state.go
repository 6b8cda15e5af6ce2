// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package logscan

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"
)

const (
	stateVersion  = 1
	maxState      = 8 << 20         // bytes of a state file
	stateInterval = 5 * time.Second // between two writes of it
)

// ErrState is what is wrong with the content of a state file. It was put aside
// under a name that ends in .corrupt, and reading has begun anew.
var ErrState = errors.New("the state file cannot be used")

// stateFile is the file that keeps positions over a restart, and what is known
// of it.
type stateFile struct {
	path    string
	loaded  bool
	refused error // it could not be read, so it is not overwritten
	dirty   bool
	saved   time.Time // when this follower last wrote it
	written fs.FileInfo
}

// savedState is the content of the file.
type savedState struct {
	Version int       `json:"version"`
	Saved   time.Time `json:"saved"`
	// Patterns are those whose directories had been looked at.
	Patterns []string `json:"patterns"`
	// Unread are files that were there and not followed.
	Unread []string `json:"unread,omitempty"`
	Files  []entry  `json:"files"`
}

// entry is the position in one file.
type entry struct {
	// Path is the log that the file belongs to.
	Path string `json:"path,omitempty"`
	// Rotated says that another file had taken its path; without a Path, that it
	// was done with.
	Rotated bool `json:"rotated,omitempty"`
	position
}

// entries returns the positions of all files.
func (f *Follower) entries() []entry {
	var all []entry
	for _, path := range slices.Sorted(maps.Keys(f.logs)) {
		l := f.logs[path]
		for _, h := range l.rotated {
			if !h.whole { // a copy cannot be found by its inode alone once it has been moved; it is short-lived
				all = append(all, entry{Path: path, Rotated: true, position: h.lineStart()})
			}
		}
		if l.current != nil {
			all = append(all, entry{Path: path, position: l.current.lineStart()})
		}
	}
	for _, p := range f.positions {
		all = append(all, entry{position: p.position})
	}
	return all
}

// save writes the state if it is time to, or, at the end, unless another
// follower has written the file in the meantime: it has taken over.
func (f *Follower) save(now time.Time, closing bool) error {
	s := &f.state
	if s.path == "" || s.refused != nil || !s.loaded || !s.dirty {
		return nil
	}
	if closing {
		if info, err := os.Stat(s.path); err == nil && s.written != nil && !os.SameFile(info, s.written) {
			return nil
		}
	} else if d := now.Sub(s.saved); d >= 0 && d < stateInterval { // a clock may be set back
		return nil
	}
	raw, err := json.Marshal(savedState{
		Version: stateVersion, Saved: now.UTC(), Patterns: slices.Sorted(maps.Keys(f.listed)),
		Unread: slices.Sorted(maps.Keys(f.unread)), Files: f.entries(),
	})
	if err != nil {
		return fmt.Errorf("writing the state: %w", err)
	}
	info, err := replaceFile(s.path, raw, closing)
	if err != nil {
		return fmt.Errorf("writing the state: %w", err)
	}
	s.dirty, s.saved, s.written = false, now, info
	return nil
}

// replaceFile puts a file in the place of another at once, readable by its
// owner alone. sync waits until it is on the disk.
func replaceFile(path string, content []byte, sync bool) (fs.FileInfo, error) {
	tmp, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return nil, err
	}
	_, err = tmp.Write(content)
	if err == nil && sync {
		err = tmp.Sync()
	}
	info, statErr := tmp.Stat()
	err = errors.Join(err, statErr, tmp.Close())
	if err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		_ = os.Remove(tmp.Name())
		return nil, err
	}
	return info, nil
}

// load reads the state file, once.
func (f *Follower) load() (savedState, error) {
	s := &f.state
	if s.path == "" || s.loaded {
		return savedState{}, nil
	}
	s.loaded, s.dirty = true, true
	file, _, err := openRegular(s.path)
	if errors.Is(err, fs.ErrNotExist) {
		return savedState{}, nil
	}
	var raw []byte
	if err == nil {
		raw, err = io.ReadAll(io.LimitReader(file, maxState+1))
		file.Close()
	}
	if err != nil {
		s.refused = fmt.Errorf("reading the state: %w", err)
		return savedState{}, nil // resume reports it, now and later
	}
	saved, err := parseState(raw)
	if err != nil {
		aside := s.path + ".corrupt"
		return savedState{}, errors.Join(fmt.Errorf("%w and is now %s: %w", ErrState, aside, err), os.Rename(s.path, aside))
	}
	return saved, nil
}

func parseState(raw []byte) (savedState, error) {
	var s savedState
	if len(raw) > maxState {
		return s, fmt.Errorf("larger than %d bytes", maxState)
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	if err := d.Decode(&s); err != nil {
		return s, err
	}
	if s.Version != stateVersion {
		return s, fmt.Errorf("its version is %d, this program writes %d", s.Version, stateVersion)
	}
	for _, e := range s.Files {
		if e.Offset < 0 || e.Path != "" && !filepath.IsAbs(e.Path) {
			return s, fmt.Errorf("the position %d in %q makes no sense", e.Offset, e.Path)
		}
	}
	return s, nil
}

// resume goes on where the state file, or this follower before it was closed,
// had stopped. Files are found by their inodes, so a log that was rotated in the
// meantime is finished first.
func (f *Follower) resume(now time.Time) []error {
	saved, err := f.load()
	var errs []error
	for _, err := range []error{err, f.state.refused} {
		if err != nil {
			errs = append(errs, err)
		}
	}
	for _, p := range saved.Patterns {
		f.listed[p] = true
	}
	for _, p := range saved.Unread {
		f.unread[p] = true
	}
	since, pending := f.closed, f.pending
	f.closed, f.pending = time.Time{}, nil
	if !saved.Saved.IsZero() {
		since, pending = saved.Saved, saved.Files
	}
	for _, e := range pending {
		if e.Path == "" || !f.wants(e.Path) {
			f.positions[e.fileID] = remembered{e.position, now}
		}
	}
	for _, e := range pending {
		if e.Path == "" || !f.wants(e.Path) {
			continue
		}
		l := f.logs[e.Path]
		if l == nil {
			l = &log{Log: Log{Path: e.Path}}
			f.logs[e.Path] = l
		}
		h := reopen(e)
		switch {
		case h == nil && !e.Rotated && !since.IsZero():
			// The file itself is gone; what came after it and is rotated too is new.
			errs = append(errs, f.addRotated(l, rotationsOf(e.Path), func(r rotation) bool { return r.modTime.After(since) })...)
		case h == nil:
		case f.holds(h.mark.fileID):
			h.file.Close()
		case e.Rotated:
			h.grown = now
			l.rotated = append(l.rotated, h)
		default:
			h.grown = now
			l.current = h
		}
	}
	return errs
}

// wants reports whether a path is one of those that are followed.
func (f *Follower) wants(path string) bool {
	return !Excluded(path, f.o.Exclude) && slices.ContainsFunc(f.o.Paths, func(p string) bool {
		ok, _ := filepath.Match(p, path)
		return ok || p == path
	})
}

// reopen opens the file that a position was taken of: at its path, or wherever
// in the same directory it has been moved to. A file at the path itself may have
// been truncated since; anywhere else it must be the one. It returns nil if
// there is none.
func reopen(e entry) *handle {
	file, info, err := openRegular(e.Path)
	if err == nil && idOf(info) == e.fileID {
		return &handle{file: file, mark: e.position}
	}
	if err == nil {
		file.Close()
	}
	dir := filepath.Dir(e.Path)
	names, _ := readNames(dir)
	for _, n := range names {
		path := filepath.Join(dir, n)
		if info, err := os.Lstat(path); err != nil || !info.Mode().IsRegular() || idOf(info) != e.fileID {
			continue
		}
		file, info, err := openRegular(path)
		if err != nil {
			continue
		}
		if idOf(info) == e.fileID && e.holds(file, info.Size()) {
			return &handle{file: file, mark: e.position}
		}
		file.Close()
	}
	return nil
}
