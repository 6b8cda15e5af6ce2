// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package logscan

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
	"slices"
	"time"
)

// Limits of a [Follower].
const (
	DefaultMaxFiles = 100
	DefaultMaxBytes = 64 << 20
	DefaultMaxTime  = 500 * time.Millisecond

	readChunk    = 256 << 10       // what is read of a file before it is another's turn
	maxRotated   = 8               // rotated files of one log that are read at once
	maxPositions = 1000            // files that are remembered without being open
	linger       = 5 * time.Minute // how long a rotated or deleted file that does not grow stays open
)

// Options say what a [Follower] reads.
type Options struct {
	// Paths are the logs: absolute paths or globs.
	Paths []string
	// Exclude are globs of base names that are left out.
	Exclude []string
	// StateFile keeps the positions over a restart; "" keeps none.
	StateFile string
	// MaxFiles bounds the logs that are followed: those written last. 0 is DefaultMaxFiles.
	MaxFiles int
	// MaxBytes bounds what one Poll reads. 0 is DefaultMaxBytes.
	MaxBytes int64
	// MaxTime bounds how long one Poll reads; half of what its context has left
	// bounds it too. 0 is DefaultMaxTime.
	MaxTime time.Duration
	// Now is the clock; nil is time.Now.
	Now func() time.Time
}

// Tally is what was read of one log since the follower began with it.
type Tally struct {
	Bytes   uint64
	Levels  [NumLevels]uint64
	Matches Matches
	// LastError is the time of the latest line whose level is Error, by its own
	// word or, if it carries no time, by when it was read; zero for none.
	LastError time.Time
}

// Log is one log as of the last Poll.
type Log struct {
	Path string
	// Exists says that there is a file at the path, Size and ModTime are its.
	Exists  bool
	Size    int64
	ModTime time.Time
	Tally   Tally
	// Lag is how many bytes are there that have not been read, in files rotated
	// away too.
	Lag int64
	// Rotations are the times that the path's content was replaced: another file
	// took its place, or it was truncated.
	Rotations uint64
	// ReadErrors are the times that a file of the log could not be opened or read.
	ReadErrors uint64
}

// Follower reads what is appended to a set of logs. It works only inside Poll.
//
// A file that is there when the follower begins is read from its end (from the
// beginning of an unfinished last line); one that appears later from its
// beginning. Each line is counted when its newline has come, or when its file
// is done with.
//
// A log that is renamed is read to its end, and on for as long as something is
// written to it, before it is closed: a writer may keep it open. A log that is
// copied and truncated is recognized by its length, its first bytes and those
// before the position; what had not been read is read from the copy beside it,
// if it is not compressed. What is written between the copy and the truncation
// is lost to every reader.
//
// With a state file the same holds for what happens between two runs.
// A Follower is not safe for concurrent use.
type Follower struct {
	o    Options
	logs map[string]*log
	// positions are those of files that are not open.
	positions map[fileID]remembered
	// listed are the patterns whose directories have been seen: what they match
	// later is new.
	listed map[string]bool
	// unread are paths that existed at the last Poll and were not followed: they
	// are not new when they are.
	unread map[string]bool
	// pending are positions to go on from: of the state file, or of before Close.
	pending []entry
	closed  time.Time
	buf     []byte
	turn    int
	state   stateFile
}

type remembered struct {
	position
	at time.Time
}

// log is a path with the files that are or were behind it.
type log struct {
	Log
	current *handle
	rotated []*handle // the oldest first
}

// handle is an open file.
type handle struct {
	file    *os.File
	mark    position // of what has been read
	stream  Stream
	size    int64 // as of the last look
	modTime time.Time
	grown   time.Time // when it last was seen to grow
	whole   bool      // nothing is written to it any more: a copy
	bad     bool      // it could not be read in this Poll
}

// NewFollower returns a follower. It touches no file before the first Poll.
func NewFollower(o Options) *Follower {
	if o.MaxFiles <= 0 {
		o.MaxFiles = DefaultMaxFiles
	}
	if o.MaxBytes <= 0 {
		o.MaxBytes = DefaultMaxBytes
	}
	if o.MaxTime <= 0 {
		o.MaxTime = DefaultMaxTime
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Follower{
		o: o, logs: map[string]*log{}, positions: map[fileID]remembered{}, listed: map[string]bool{},
		unread: map[string]bool{}, state: stateFile{path: o.StateFile},
	}
}

// Poll reads what is new, within the limits and until ctx ends, and returns the
// logs in the order of their paths, and all that went wrong. What could be read
// was read all the same.
func (f *Follower) Poll(ctx context.Context) ([]Log, []error) {
	now := f.o.Now()
	errs := f.resume(now)
	found, problems := f.find()
	errs = append(errs, problems...)
	errs = append(errs, f.refresh(found, now)...)
	errs = append(errs, f.read(ctx, now)...)
	f.release(found, now)
	if err := f.save(now, false); err != nil {
		errs = append(errs, err)
	}
	logs := make([]Log, 0, len(f.logs))
	for _, path := range slices.Sorted(maps.Keys(f.logs)) {
		l := f.logs[path]
		l.Lag = 0
		for _, h := range l.handles() {
			l.Lag += max(0, h.size-h.mark.Offset)
		}
		logs = append(logs, l.Log)
	}
	return logs, errs
}

// Close closes all files and saves the state. A later Poll goes on where the
// last one stopped.
func (f *Follower) Close() error {
	err := f.save(f.o.Now(), true)
	f.pending, f.closed = f.entries(), f.o.Now()
	for _, l := range f.logs {
		for _, h := range l.handles() {
			h.file.Close()
		}
		l.current, l.rotated = nil, nil
	}
	f.buf = nil
	return err
}

// handles returns the open files of a log, the oldest first.
func (l *log) handles() []*handle {
	all := slices.Clip(l.rotated)
	if l.current != nil {
		all = append(all, l.current)
	}
	return all
}

// fileAt is a file that a pattern matches.
type fileAt struct {
	path string
	info fs.FileInfo
	err  error // of looking at it
	// old says that no pattern that matches it had been looked at before.
	old bool
}

// find returns the files that the patterns match, by path.
func (f *Follower) find() (map[string]fileAt, []error) {
	var errs []error
	found := map[string]fileAt{}
	for _, pattern := range f.o.Paths {
		paths, err := Expand(pattern)
		named := !hasMeta(pattern)
		if err != nil {
			errs = append(errs, &PathError{pattern, err})
		}
		first := !f.listed[pattern]
		if err == nil || !errors.Is(err, fs.ErrPermission) {
			f.listed[pattern] = true
		}
		if named && err != nil && errors.Is(err, fs.ErrNotExist) {
			continue
		}
		for _, path := range paths {
			path = filepath.Clean(path)
			if Excluded(path, f.o.Exclude) || slices.Contains(compressed, filepath.Ext(path)) {
				continue
			}
			c, known := found[path]
			if known {
				c.old = c.old && first
				found[path] = c
				continue
			}
			c = fileAt{path: path, old: first}
			c.info, c.err = os.Stat(path)
			switch {
			case errors.Is(c.err, fs.ErrNotExist): // a dangling link, or gone in the meantime
				continue
			case c.err != nil:
				if !named { // else it is reported already
					errs = append(errs, &PathError{path, c.err})
				}
			case !c.info.Mode().IsRegular():
				if named {
					errs = append(errs, &PathError{path, fmt.Errorf("%s: %w", path, errNotRegular)})
				}
				continue
			}
			found[path] = c
		}
	}
	return found, errs
}

// PathError is what went wrong with a path or a pattern of the options.
type PathError struct {
	// Path is the pattern, or one of the paths it matches.
	Path string
	// Err names the path itself.
	Err error
}

func (e *PathError) Error() string { return e.Err.Error() }
func (e *PathError) Unwrap() error { return e.Err }

// refresh brings the logs in line with the files there are now.
func (f *Follower) refresh(found map[string]fileAt, now time.Time) []error {
	var errs []error
	unread := map[string]bool{}
	chosen, left := f.choose(found)
	for _, c := range left {
		unread[c.path] = true
		delete(found, c.path)
	}
	maps.DeleteFunc(f.logs, func(path string, l *log) bool {
		_, ok := found[path]
		return !ok && len(l.handles()) == 0 // the last Poll told the last of it
	})
	// What is where: a file that has moved from one path to another is still the
	// first one's until it is read to its end.
	for _, path := range slices.Sorted(maps.Keys(f.logs)) {
		l := f.logs[path]
		c, ok := found[path]
		l.Exists = ok && c.err == nil
		if l.Exists && l.current != nil && l.current.mark.fileID != idOf(c.info) {
			l.Rotations++
			errs = append(errs, f.rotate(l)...)
		}
		for _, h := range l.handles() {
			h.bad = false
			if err := f.look(l, h, now); err != nil {
				h.bad = true
				l.ReadErrors++
				errs = append(errs, &PathError{path, err})
			}
		}
	}
	held := map[fileID]bool{}
	for _, l := range f.logs {
		for _, h := range l.handles() {
			held[h.mark.fileID] = true
		}
	}
	for _, c := range chosen {
		l := f.logs[c.path]
		if c.err != nil {
			if l == nil {
				l = &log{Log: Log{Path: c.path}}
				f.logs[c.path] = l
			}
			l.ReadErrors++
			if l.current == nil {
				unread[c.path] = true
			}
			continue
		}
		if l == nil || l.current == nil {
			if held[idOf(c.info)] { // another path leads to it
				if l != nil && len(l.rotated) == 0 {
					delete(f.logs, c.path)
				}
				continue
			}
			if l == nil {
				l = &log{Log: Log{Path: c.path}}
				f.logs[c.path] = l
			}
			h, err := f.open(c, now)
			switch {
			case errors.Is(err, fs.ErrNotExist), ErrNotRegular(err): // replaced since it was found
				continue
			case err != nil:
				l.ReadErrors++
				unread[c.path] = true
				errs = append(errs, &PathError{c.path, err})
				continue
			}
			if held[h.mark.fileID] {
				h.file.Close()
				continue
			}
			l.current = h
			held[h.mark.fileID] = true
		}
		l.Exists, l.Size, l.ModTime = true, c.info.Size(), c.info.ModTime()
	}
	f.unread = unread
	return errs
}

// choose returns the files to follow, in the order of their paths, and those
// that are too many: the ones that were written longest ago.
func (f *Follower) choose(found map[string]fileAt) (chosen, left []fileAt) {
	for _, c := range found {
		chosen = append(chosen, c)
	}
	byPath := func(a, b fileAt) int { return cmp.Compare(a.path, b.path) }
	if len(chosen) > f.o.MaxFiles {
		slices.SortFunc(chosen, func(a, b fileAt) int {
			switch {
			case a.err == nil && b.err == nil && !a.info.ModTime().Equal(b.info.ModTime()):
				return b.info.ModTime().Compare(a.info.ModTime())
			case (a.err == nil) != (b.err == nil):
				return cmp.Compare(boolInt(a.err != nil), boolInt(b.err != nil))
			}
			return byPath(a, b)
		})
		chosen, left = chosen[:f.o.MaxFiles], chosen[f.o.MaxFiles:]
	}
	slices.SortFunc(chosen, byPath)
	return chosen, left
}

func boolInt(b bool) int {
	if b {
		return 1
	}
	return 0
}

// rotate sets the current file of a log aside, to be read to its end, together
// with those that came and went after it, unseen.
func (f *Follower) rotate(l *log) []error {
	h := l.current
	l.rotated, l.current = append(l.rotated, h), nil
	rotations := rotationsOf(l.Path)
	own := slices.IndexFunc(rotations, func(r rotation) bool { return r.id == h.mark.fileID })
	if own < 0 { // deleted, compressed, or moved elsewhere
		return nil
	}
	return f.addRotated(l, rotations[own+1:], func(r rotation) bool { return newerRotation(r.suffix, rotations[own].suffix) })
}

// addRotated opens rotated files of a log that have not been read.
func (f *Follower) addRotated(l *log, rotations []rotation, wanted func(rotation) bool) []error {
	var errs []error
	for _, r := range rotations {
		if !wanted(r) || f.holds(r.id) {
			continue
		}
		file, info, err := openRegular(filepath.Join(filepath.Dir(l.Path), r.name))
		if err == nil && idOf(info) != r.id {
			file.Close()
			continue
		}
		switch {
		case errors.Is(err, fs.ErrNotExist), ErrNotRegular(err):
			continue
		case err != nil:
			l.ReadErrors++
			errs = append(errs, &PathError{l.Path, err})
			continue
		}
		h := &handle{file: file, grown: info.ModTime()}
		h.see(info)
		h.mark = f.recall(position{fileID: r.id}, file, h.size)
		l.rotated = append(l.rotated, h)
		l.Rotations++
	}
	return errs
}

// holds reports whether a file is open.
func (f *Follower) holds(id fileID) bool {
	for _, l := range f.logs {
		for _, h := range l.handles() {
			if h.mark.fileID == id {
				return true
			}
		}
	}
	return false
}

// recall returns what is remembered of a file, or else from.
func (f *Follower) recall(from position, r io.ReaderAt, size int64) position {
	p, ok := f.positions[from.fileID]
	delete(f.positions, from.fileID)
	if ok && p.holds(r, size) {
		return p.position
	}
	return from
}

func (h *handle) see(info fs.FileInfo) { h.size, h.modTime = info.Size(), info.ModTime() }

// look sees how long a file has become and whether it is still the same.
func (f *Follower) look(l *log, h *handle, now time.Time) error {
	info, err := h.file.Stat()
	if err != nil {
		return err
	}
	if info.Size() == h.size && info.ModTime().Equal(h.modTime) && h.size >= h.mark.Offset {
		return nil
	}
	if info.Size() > h.size {
		h.grown = now
	}
	h.see(info)
	if h.mark.holds(h.file, h.size) {
		return nil
	}
	// Truncated, or written anew. A copy takes over the unfinished line.
	l.Rotations++
	h.grown = now
	if c := f.copyOf(l, h); c != nil {
		l.rotated = slices.Insert(l.rotated, 0, c)
	} else {
		h.stream.Finish(l.count(now))
	}
	h.stream = Stream{}
	h.mark = position{fileID: h.mark.fileID}
	return nil
}

// copyOf finds the copy that was made of a log before it was truncated, and
// goes on in it.
func (f *Follower) copyOf(l *log, h *handle) *handle {
	if h.mark.Offset == 0 {
		return nil
	}
	dir := filepath.Dir(l.Path)
	rotations := rotationsOf(l.Path)
	for _, r := range slices.Backward(rotations) { // the copy is the newest
		file, info, err := openRegular(filepath.Join(dir, r.name))
		if err != nil {
			continue
		}
		id := idOf(info)
		if id != h.mark.fileID && h.mark.holds(file, info.Size()) {
			c := &handle{file: file, mark: h.mark, stream: h.stream, whole: true}
			c.mark.fileID = id
			c.see(info)
			return c
		}
		file.Close()
	}
	return nil
}

// open opens a file and finds out where to begin in it.
func (f *Follower) open(c fileAt, now time.Time) (*handle, error) {
	file, info, err := openRegular(c.path)
	if err != nil {
		return nil, err
	}
	h := &handle{file: file, grown: now}
	h.see(info)
	start := position{fileID: idOf(info)}
	_, known := f.positions[start.fileID]
	h.mark = f.recall(start, file, h.size)
	if known || !c.old && !f.unread[c.path] && !f.isCopy(c.path, file, h.size) {
		return h, nil
	}
	offset, err := lastLine(file, h.size)
	if err == nil {
		h.mark, err = positionAt(file, start.fileID, offset)
	}
	if err != nil {
		file.Close()
		return nil, err
	}
	return h, nil
}

// isCopy reports whether a file is a copy of one beside it that is followed:
// logrotate copies before it truncates.
func (f *Follower) isCopy(path string, r io.ReaderAt, size int64) bool {
	for other, l := range f.logs {
		if _, ok := rotationSuffix(filepath.Base(other), filepath.Base(path)); !ok || filepath.Dir(other) != filepath.Dir(path) {
			continue
		}
		for _, h := range l.handles() {
			if h.mark.Offset > 0 && h.mark.holds(r, size) {
				return true
			}
		}
	}
	return false
}

// lastLine returns where the unfinished line at the end of a file begins. One
// that is longer than readChunk is taken to begin at the end.
func lastLine(r io.ReaderAt, size int64) (int64, error) {
	buf := make([]byte, min(size, 4<<10))
	for end := size; end > 0 && size-end < readChunk; end -= int64(len(buf)) {
		part := buf[:min(end, int64(len(buf)))]
		if n, err := r.ReadAt(part, end-int64(len(part))); n < len(part) {
			return 0, err
		}
		if i := bytes.LastIndexByte(part, '\n'); i >= 0 {
			return end - int64(len(part)) + int64(i) + 1, nil
		}
	}
	if size <= readChunk {
		return 0, nil
	}
	return size, nil
}

// count returns what counts the lines of a log.
func (l *log) count(now time.Time) func(Line) {
	return func(line Line) {
		level := LevelOf(line.Head)
		l.Tally.Levels[level]++
		l.Tally.Matches.Add(line.Classes)
		if level != Error {
			return
		}
		at, ok := TimeOf(line.Head)
		if !ok || at.After(now) {
			at = now
		}
		if at.After(l.Tally.LastError) {
			l.Tally.LastError = at
		}
	}
}

// read reads what the files have, a chunk of each in turn.
func (f *Follower) read(ctx context.Context, now time.Time) []error {
	var errs []error
	paths := slices.Sorted(maps.Keys(f.logs))
	if len(paths) == 0 {
		return nil
	}
	if f.buf == nil {
		f.buf = make([]byte, readChunk)
	}
	f.turn++ // so that under a lasting lack of time it is not always the same logs that are left
	first := f.turn % len(paths)
	paths = append(slices.Clone(paths[first:]), paths[:first]...)
	left, until := f.o.MaxBytes, time.Now().Add(f.o.MaxTime)
	if d, ok := ctx.Deadline(); ok { // half of what is left, so that there is time to tell
		if half := time.Now().Add(time.Until(d) / 2); half.Before(until) {
			until = half
		}
	}
	spent := func() bool { return left <= 0 || ctx.Err() != nil || time.Now().After(until) }
	touched := map[*handle]struct{}{}
	for more := true; more; {
		more = false
		for _, path := range paths {
			l := f.logs[path]
			for _, h := range l.handles() {
				if h.bad || h.mark.Offset >= h.size {
					continue
				}
				if spent() {
					break
				}
				n, err := h.file.ReadAt(f.buf[:min(readChunk, left, h.size-h.mark.Offset)], h.mark.Offset)
				if n > 0 {
					h.stream.Write(f.buf[:n], l.count(now))
					h.mark.Offset += int64(n)
					l.Tally.Bytes += uint64(n)
					left -= int64(n)
					touched[h] = struct{}{}
					more = true
				}
				if err != nil {
					h.bad = true // the end came early: it is looked at again in the next Poll
					if !errors.Is(err, io.EOF) {
						l.ReadErrors++
						errs = append(errs, &PathError{path, err})
					}
				}
			}
		}
		more = more && !spent()
	}
	for h := range touched {
		p, err := positionAt(h.file, h.mark.fileID, h.mark.Offset)
		if err != nil { // it has just been truncated: the next look at it shall find that it has changed
			h.modTime = time.Time{}
		}
		h.mark = p
		f.state.dirty = true
	}
	return errs
}

// release closes the files that are done with.
func (f *Follower) release(found map[string]fileAt, now time.Time) {
	for path, l := range f.logs {
		done := func(h *handle) bool {
			return h.mark.Offset >= h.size && (h.whole || now.Sub(h.grown) >= linger)
		}
		over := len(l.rotated) - maxRotated
		l.rotated = slices.DeleteFunc(l.rotated, func(h *handle) bool {
			if over--; over < 0 && !done(h) {
				return false
			}
			f.close(l, h, now)
			return true
		})
		_, wanted := found[path]
		if wanted {
			continue
		}
		if f.unread[path] { // too many: it may be its turn again
			for _, h := range l.handles() {
				f.remember(h, now)
				h.file.Close()
			}
			delete(f.logs, path)
		} else if l.current != nil && done(l.current) {
			f.close(l, l.current, now)
			l.current = nil
		}
	}
}

// close ends the reading of a file and remembers how far it got.
func (f *Follower) close(l *log, h *handle, now time.Time) {
	if h.mark.Offset >= h.size {
		h.stream.Finish(l.count(now))
	}
	f.remember(h, now)
	h.file.Close()
}

// remember keeps the position of a file that is about to be closed.
func (f *Follower) remember(h *handle, now time.Time) {
	f.positions[h.mark.fileID] = remembered{h.lineStart(), now}
	f.state.dirty = true
	for len(f.positions) > maxPositions {
		var oldest fileID
		for id, p := range f.positions {
			if o, ok := f.positions[oldest]; !ok || p.at.Before(o.at) {
				oldest = id
			}
		}
		delete(f.positions, oldest)
	}
}

// lineStart is the position at which reading must begin again to have the
// unfinished line whole.
func (h *handle) lineStart() position {
	n := h.stream.Unfinished()
	if n == 0 {
		return h.mark
	}
	p, err := positionAt(h.file, h.mark.fileID, h.mark.Offset-n)
	if err != nil { // it has just been truncated
		return position{fileID: h.mark.fileID}
	}
	return p
}
