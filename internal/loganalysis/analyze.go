// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

// Package loganalysis says what is in the logs: how many lines are in the
// classes of the operations manual's log analyzer and which came last, levels,
// targets, times, the most frequent messages and the durations in fields. It
// reads everything once, side by side, in memory that does not grow with it.
package loganalysis

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"math/bits"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/niodoo/niodoo_exporter/internal/logscan"
)

// Options say what is read, and how.
type Options struct {
	// Sources are what is read.
	Sources []Source
	// Exclude are globs of base names that are left out.
	Exclude []string
	// Stdin is what [Stdin] stands for.
	Stdin io.Reader
	// Since and Until bound the times of the lines that count; zero is no bound.
	// A line without a time belongs to the one before it.
	Since, Until time.Time
	// Last is how many of the last lines of each class are kept, Top how many of
	// the most frequent messages, targets, durations and hours.
	Last, Top int
	// ClassesOnly counts the classes and nothing else.
	ClassesOnly bool
	// Workers is how many read side by side; 0 is one per core.
	Workers int
	// Read is called with every number of bytes that were read, if it is set,
	// from any goroutine.
	Read func(n int64)
	// Now is the time of the report.
	Now time.Time
}

// maxWorkers bounds how many read side by side, since each holds some memory:
// some 5 MiB at worst. They are as fast as disks are.
const maxWorkers = 6

// Analyze reads the logs. What could not be read is in the report; the error is
// that of ctx.
func Analyze(ctx context.Context, o Options) (*Report, error) {
	if o.Workers <= 0 {
		o.Workers = runtime.GOMAXPROCS(0)
	}
	o.Workers = min(o.Workers, maxWorkers)
	if o.Read == nil {
		o.Read = func(int64) {}
	}
	if o.ClassesOnly && o.Since.IsZero() && o.Until.IsZero() {
		return newAnalysis(o, false).count(ctx)
	}
	a := newAnalysis(o, canReadAgain(o.Sources))
	r, err := a.run(ctx)
	if errors.Is(err, logscan.ErrNotMapped) { // all of it again, by reading
		again := newAnalysis(o, false)
		for i, in := range a.inputs {
			again.inputs[i].before = in.size
			o.Read(-int64(in.bytes.Load()))
		}
		r, err = again.run(ctx)
	}
	return r, err
}

func newAnalysis(o Options, mapped bool) *analysis {
	a := &analysis{o: o, mapped: mapped, seen: map[fileID]bool{}, since: math.MinInt64, until: math.MaxInt64}
	if !o.Since.IsZero() {
		a.since = o.Since.UnixNano()
	}
	if !o.Until.IsZero() {
		a.until = o.Until.UnixNano()
	}
	a.filtered = !o.Since.IsZero() || !o.Until.IsZero()
	for i, s := range o.Sources {
		in := &input{path: s.Path, index: i, fileOnly: s.found, err: s.err}
		if s.Path != Stdin && s.err == nil && logscan.Excluded(s.Path, o.Exclude) {
			in.left = leftExcluded
		}
		a.inputs = append(a.inputs, in)
	}
	return a
}

// run reads everything. The error is that of ctx, or [logscan.ErrNotMapped].
func (a *analysis) run(ctx context.Context) (*Report, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	workers := make([]*worker, a.o.Workers)
	var wg sync.WaitGroup
	for i := range workers {
		w := newWorker(a)
		workers[i] = w
		wg.Go(func() {
			if err := logscan.Guard(func() error { return w.run(ctx) }); err != nil {
				cancel(err)
			}
		})
	}
	wg.Wait()
	for _, in := range a.inputs {
		in.close() // those that were given up
	}
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	return a.report(workers...), nil
}

// analysis is one run.
type analysis struct {
	o            Options
	mapped       bool // files are looked at in memory
	filtered     bool
	since, until int64

	mu      sync.Mutex
	inputs  []*input
	current int // index of the input whose shares are handed out
	opened  bool
	seen    map[fileID]bool
}

// take returns the next share of a file, or a stream. ok is false when nothing is left.
func (a *analysis) take() (in *input, from int64, ok bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for a.current < len(a.inputs) {
		in := a.inputs[a.current]
		if !a.opened {
			a.opened = true
			in.open(a.seen)
			if in.left == "" && in.err == nil && in.isStream() {
				a.current, a.opened = a.current+1, false
				return in, 0, true
			}
		}
		if in.file != nil && in.next < in.size && in.err == nil {
			from := in.next
			in.next += logscan.ShareSize
			in.pending++
			return in, from, true
		}
		if in.pending == 0 {
			in.close()
		}
		a.current, a.opened = a.current+1, false
	}
	return nil, 0, false
}

// done says that a share has been read.
func (a *analysis) done(in *input, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err != nil && in.err == nil {
		in.err = fmt.Errorf("%s: %w", in.path, err)
	}
	in.pending--
	if in.pending == 0 && (in.next >= in.size || in.err != nil) {
		in.close()
	}
}

// count counts the classes of one input after the other, each by all workers.
func (a *analysis) count(ctx context.Context) (*Report, error) {
	var total logscan.Counts
	add := func(in *input, c logscan.Counts) {
		in.lines.Add(c.Lines)
		total.Add(c)
	}
	for _, in := range a.inputs {
		in.open(a.seen)
		if in.left != "" || in.err != nil {
			continue
		}
		if in.isStream() {
			var c logscan.Counter
			in.stream(ctx, a.o.Stdin, func(b []byte) {
				_, _ = c.Write(b)
				in.bytes.Add(uint64(len(b)))
				a.o.Read(int64(len(b)))
			})
			add(in, c.Counts())
		} else {
			c, err := logscan.CountFile(ctx, in.file, a.o.Workers)
			if err != nil {
				in.err = fmt.Errorf("%s: %w", in.path, err)
			}
			add(in, c)
			in.bytes.Store(uint64(in.size))
			a.o.Read(in.size)
			in.close()
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
	}
	return a.report(&worker{counts: total}), nil
}

// worker reads shares and streams, and counts what it finds.
type worker struct {
	a      *analysis
	parser parser
	stream logscan.Stream
	facts  facts
	window logscan.Window
	buf    []byte

	in      *input
	from    int64 // of the share
	number  int64 // of the line in it
	last    int64 // the last time seen in the input
	past    bool  // reading on behind the share, to where a line has a time
	stopped bool  // such a line was met: it is another share's
	dated   bool  // a line with a time was met in the share
	inside  bool  // the last line with a time is within the bounds

	counts           logscan.Counts
	levels           [logscan.NumLevels]uint64
	outside, undated uint64
	first, final     int64
	times            *timeline
	targets          *topK
	target           *counter
	messages         *topK
	folded           []byte
	rings            [logscan.NumClasses]ring
	kept             [logscan.NumClasses][]keptLine
}

const (
	parseWindow = 64 << 10 // bytes of a line that are read for its fields
	maxTargets  = 256      // counters
	maxMessages = 512
	maxTarget   = 128  // bytes
	maxKept     = 1024 // bytes of a line that is shown
	maxExample  = 512  // bytes of a message's first line
)

func newWorker(a *analysis) *worker {
	w := &worker{a: a, times: newTimeline(), targets: newTopK(maxTargets), messages: newTopK(maxMessages), first: noTime, final: noTime}
	w.stream.Head = parseWindow
	return w
}

// run reads what there is until nothing is left. The error is [logscan.ErrNotMapped].
func (w *worker) run(ctx context.Context) error {
	defer w.window.Close()
	for ctx.Err() == nil {
		in, from, ok := w.a.take()
		if !ok {
			break
		}
		if in != w.in {
			w.flush()
			w.in, w.last = in, noTime
		}
		w.from, w.number = from, 0
		w.past, w.stopped, w.dated, w.inside = false, false, false, false
		before := w.counts.Lines
		if in.isStream() {
			in.stream(ctx, w.a.o.Stdin, func(b []byte) { _, _ = w.Write(b) })
			w.stream.Finish(w.line)
		} else {
			err := w.share(ctx, w.view(), from)
			if errors.Is(err, logscan.ErrNotMapped) {
				return err
			}
			w.a.done(in, err)
		}
		in.lines.Add(w.counts.Lines - before)
	}
	w.flush()
	return nil
}

// view returns the worker's way to its input's bytes.
func (w *worker) view() logscan.View {
	if w.a.mapped {
		if w.window.File != w.in.file {
			w.window.Close()
			w.window.File, w.window.Size = w.in.file, w.in.size
		}
		return w.window.View
	}
	if w.buf == nil {
		w.buf = make([]byte, logscan.ChunkSize)
	}
	return logscan.ReadView(w.in.file, w.buf)
}

// share reads the lines that begin in a share of a file. Where lines are chosen
// by their time, it reads the records: from the first line with a time up to
// the next one behind the share.
func (w *worker) share(ctx context.Context, view logscan.View, from int64) error {
	at, err := logscan.ReadShare(ctx, view, from, w.in.size, w)
	w.stream.Finish(w.line)
	w.past = true
	size := int64(behindShare)
	for w.a.filtered && (w.dated || from == 0) && err == nil && !w.stopped && at < w.in.size {
		var b []byte
		if b, err = view(at, int(min(size, w.in.size-at))); len(b) == 0 {
			break
		}
		at += int64(len(b))
		w.stream.Write(b, w.line)
		size = logscan.ChunkSize
		if err == nil {
			err = ctx.Err()
		}
	}
	if w.past && !w.stopped && err == nil {
		w.stream.Finish(w.line)
	}
	w.stream.Drop()
	if errors.Is(err, io.EOF) { // it became shorter, which close sees
		return nil
	}
	return err
}

// behindShare is what is read at first behind a share, in bytes: a few lines.
const behindShare = 4 << 10

// Write takes the next bytes of a share or a stream.
func (w *worker) Write(b []byte) (int, error) {
	w.stream.Write(b, w.line)
	w.in.bytes.Add(uint64(len(b)))
	w.a.o.Read(int64(len(b)))
	return len(b), nil
}

// Unfinished implements [logscan.Sink].
func (w *worker) Unfinished() int64 { return w.stream.Unfinished() }

// line counts a line.
func (w *worker) line(l logscan.Line) {
	f := &w.facts
	if w.stopped {
		return
	}
	w.number++
	w.parser.parse(l.Head, f)
	if w.a.filtered && !w.wanted(f.at) {
		return
	}
	w.counts.Lines++
	w.counts.Matches.Add(l.Classes)
	w.levels[f.level]++
	if f.at == noTime {
		w.undated++
	} else {
		w.last = f.at
		w.times.add(f.at/int64(time.Second), f.level)
		if w.first == noTime || f.at < w.first {
			w.first = f.at
		}
		w.final = max(w.final, f.at)
	}
	w.countTarget(f)
	if f.level == logscan.Warn || f.level == logscan.Error || f.level == logscan.Other && l.Classes&logscan.Errors != 0 {
		w.countMessage(l, f)
	}
	for c := l.Classes; c != 0; c &= c - 1 {
		w.rings[bits.TrailingZeros8(uint8(c))].put(w.a.o.Last, l, w.last, w.from+w.number)
	}
}

// wanted reports whether a line counts, by its own time or that of the line it
// belongs to.
func (w *worker) wanted(at int64) bool {
	switch {
	case at != noTime && w.past:
		w.stopped = true
		return false
	case at != noTime:
		w.dated = true
		w.inside = at >= w.a.since && at < w.a.until
	case !w.dated && w.from > 0:
		return false // it belongs to a line of another share
	}
	if !w.inside {
		w.outside++
	}
	return w.inside
}

func (w *worker) countTarget(f *facts) {
	if len(f.target) == 0 {
		return
	}
	name := f.target[:min(len(f.target), maxTarget)]
	// Lines of one module come in a row. The counter may have been taken over since.
	if w.target != nil && w.target.key == string(name) {
		w.target.count++
	} else {
		w.target, _ = w.targets.count(name)
	}
	w.target.levels[f.level]++
}

func (w *worker) countMessage(l logscan.Line, f *facts) {
	message, detail := f.message, f.detail
	if f.escaped {
		message, detail = unescape(message), unescape(detail)
	}
	if len(message) == 0 && len(detail) == 0 {
		message = l.Head
	}
	w.folded = fold(w.folded[:0], bytes.TrimSpace(message))
	if len(detail) > 0 {
		w.folded = fold(append(w.folded, ": "...), detail)
	}
	c, isNew := w.messages.count(w.folded)
	if isNew {
		c.example = append(c.example[:0], l.Head[:min(len(l.Head), maxExample)]...)
		c.place = place{w.in.index, w.from + w.number}
	}
	c.levels[f.level]++
	c.seen(f.at)
}

// keptLine is one of the last lines of a class.
type keptLine struct {
	in    *input
	at    int64 // when, or of the line before, or noTime
	order int64 // within the input
	text  []byte
	cut   bool // text is not all of it
}

// ring keeps the last lines of one class in one input.
type ring struct {
	lines []keptLine
	next  int
}

func (r *ring) put(size int, l logscan.Line, at, order int64) {
	if size == 0 {
		return
	}
	if len(r.lines) < size {
		r.lines = append(r.lines, keptLine{})
		r.next = len(r.lines) - 1
	} else if r.next++; r.next >= size {
		r.next = 0
	}
	k := &r.lines[r.next]
	k.at, k.order = at, order
	k.text = append(k.text[:0], l.Head[:min(len(l.Head), maxKept)]...)
	k.cut = l.Size > int64(len(k.text))
}

// flush moves the last lines of the input to those that are kept.
func (w *worker) flush() {
	if w.in == nil {
		return
	}
	unknown := int64(noTime)
	if w.last == noTime { // no line has a time: the file's own is the best there is
		unknown = w.in.modified
	}
	for c := range w.rings {
		r := &w.rings[c]
		for _, k := range r.lines {
			if k.in = w.in; k.at == noTime {
				k.at = unknown
			}
			w.kept[c] = append(w.kept[c], k)
		}
		w.kept[c] = lastLines(w.kept[c], w.a.o.Last)
		r.lines, r.next = nil, 0
	}
}

// lastLines returns the n last lines. Those of one input keep their order
// whatever their times say; inputs are merged by time.
func lastLines(lines []keptLine, n int) []keptLine {
	inPlace := func(a, b keptLine) int {
		return cmp.Or(cmp.Compare(a.in.index, b.in.index), cmp.Compare(a.order, b.order))
	}
	slices.SortFunc(lines, inPlace)
	for i := range lines {
		if i > 0 && lines[i].in == lines[i-1].in {
			lines[i].at = max(lines[i].at, lines[i-1].at)
		}
	}
	slices.SortFunc(lines, func(a, b keptLine) int { return cmp.Or(cmp.Compare(a.at, b.at), inPlace(a, b)) })
	over := max(0, len(lines)-n)
	copy(lines, lines[over:])
	clear(lines[len(lines)-over:])
	return lines[:len(lines)-over]
}
