// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package loganalysis

import (
	"bytes"
	"cmp"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/niodoo/niodoo_exporter/internal/logscan"
)

// Name names the report in its first line.
const Name = "logs analyze"

// jsonMarker begins a report in JSON, so that it is known as one: see [logscan.ReportMarker].
const jsonMarker = "{\n  \"niodooctl_report\": "

// Report is what was found. Durations are in seconds.
type Report struct {
	Name      string    `json:"niodooctl_report"`
	Generated time.Time `json:"generated"`
	// Since and Until are the bounds that were asked for.
	Since *time.Time `json:"since,omitempty"`
	Until *time.Time `json:"until,omitempty"`

	Inputs []Input `json:"inputs"`
	// NotRead is how many inputs could not be read, or not to their end.
	NotRead int `json:"not_read"`

	Lines uint64 `json:"lines"`
	Bytes uint64 `json:"bytes"`
	// Outside is how many lines the bounds leave out, Undated how many of the
	// others have no time of their own.
	Outside uint64 `json:"lines_outside"`
	Undated uint64 `json:"lines_undated"`
	// First and Last are the earliest and the latest time of a line.
	First *time.Time `json:"first,omitempty"`
	Last  *time.Time `json:"last,omitempty"`

	Classes []Class      `json:"classes"`
	Levels  []LevelCount `json:"levels,omitempty"`
	Rate    *Rate        `json:"rate,omitempty"`
	// Hours are the last hours that have lines. Where the log reaches over more
	// than some months, they are days or longer.
	Hours        []Hour `json:"hours,omitempty"`
	HoursSeconds int64  `json:"hours_width_seconds,omitempty"`
	// Targets are the most frequent ones. A target that is not among all that were
	// counted has at most TargetsMissed lines.
	Targets       []Target `json:"targets,omitempty"`
	TargetsMissed uint64   `json:"targets_missed_at_most"`
	// Messages are the most frequent warnings and errors, folded. A message that
	// is not among all that were counted came at most MessagesMissed times.
	Messages       []Message `json:"messages,omitempty"`
	MessagesMissed uint64    `json:"messages_missed_at_most"`
	// Durations are the fields that hold one.
	Durations []Duration `json:"durations,omitempty"`
	// DurationsOthers counts values of more fields than have figures of their own.
	DurationsOthers uint64 `json:"durations_of_other_fields"`
}

// Input is one log.
type Input struct {
	Path  string `json:"path"`
	Lines uint64 `json:"lines"`
	Bytes uint64 `json:"bytes"`
	// Problem is why it was not read, or not to its end; LeftOut why not on purpose.
	Problem string `json:"problem,omitempty"`
	LeftOut string `json:"left_out,omitempty"`
}

// Class is one of the manual's classes.
type Class struct {
	Name  string     `json:"name"`
	Lines uint64     `json:"lines"`
	Last  []LastLine `json:"last,omitempty"`
}

// LastLine is one of the last lines of a class, in the order of their time.
type LastLine struct {
	Path string `json:"path"`
	Text string `json:"text"`
	Cut  bool   `json:"cut,omitempty"`
}

// LevelCount is how many lines have a level.
type LevelCount struct {
	Level string `json:"level"`
	Lines uint64 `json:"lines"`
}

// Rate is how many lines came over time.
type Rate struct {
	Start        time.Time `json:"start"`
	WidthSeconds int64     `json:"width_seconds"`
	Lines        []uint64  `json:"lines"`
	Warnings     []uint64  `json:"warnings"`
	Errors       []uint64  `json:"errors"`
}

// Hour is what came in an hour.
type Hour struct {
	Start    time.Time `json:"start"`
	Lines    uint64    `json:"lines"`
	Warnings uint64    `json:"warnings"`
	Errors   uint64    `json:"errors"`
}

// Counted is how often something came. Count may be too high by Over, never too low.
type Counted struct {
	Count uint64 `json:"count"`
	Over  uint64 `json:"count_over_by_at_most,omitempty"`
}

// Target is a module, or a span, that wrote lines.
type Target struct {
	Name string `json:"name"`
	Counted
	Warnings uint64 `json:"warnings"`
	Errors   uint64 `json:"errors"`
}

// Message is a warning or an error with numbers, identifiers and quotes folded.
type Message struct {
	Text string `json:"text"`
	Counted
	Level   string     `json:"level"` // the worst it came with
	First   *time.Time `json:"first,omitempty"`
	Last    *time.Time `json:"last,omitempty"`
	Example string     `json:"example"`
}

// Duration are the figures of a field. Quantiles are right to 1 %.
type Duration struct {
	Field string `json:"field"`
	// Unit is "seconds", or empty where neither name nor value says the unit:
	// the figures are as written then.
	Unit     string  `json:"unit"`
	Count    uint64  `json:"count"`
	P50      float64 `json:"p50"`
	P95      float64 `json:"p95"`
	P99      float64 `json:"p99"`
	Max      float64 `json:"max"`
	Rejected uint64  `json:"rejected"` // values that are no duration
}

// maxColumns is how many columns the rate over time has at most.
const maxColumns = 60

func (a *analysis) report(workers ...*worker) *Report {
	r := &Report{Name: Name, Generated: a.o.Now}
	if !a.o.Since.IsZero() {
		r.Since = &a.o.Since
	}
	if !a.o.Until.IsZero() {
		r.Until = &a.o.Until
	}
	for _, in := range a.inputs {
		i := Input{Path: clean([]byte(in.path)), Bytes: in.bytes.Load(), Lines: in.lines.Load(), LeftOut: in.left}
		if in.err != nil {
			i.Problem = clean([]byte(in.err.Error()))
			r.NotRead++
		}
		r.Bytes += i.Bytes
		r.Inputs = append(r.Inputs, i)
	}
	var counts logscan.Counts
	for _, w := range workers {
		counts.Add(w.counts)
	}
	r.Lines = counts.Lines
	for i, name := range logscan.ClassNames {
		r.Classes = append(r.Classes, Class{Name: name, Lines: counts.Matches[i]})
	}
	if a.o.ClassesOnly {
		for _, w := range workers {
			r.Outside += w.outside
			r.Undated += w.undated
		}
		return r
	}
	a.details(r, workers)
	return r
}

func (a *analysis) details(r *Report, workers []*worker) {
	times := newTimeline()
	first, last := int64(noTime), int64(noTime)
	var levels [logscan.NumLevels]uint64
	var targets, messages []*topK
	for _, w := range workers {
		r.Outside += w.outside
		r.Undated += w.undated
		r.DurationsOthers += w.parser.durations.others
		times.merge(w.times)
		if w.first != noTime && (first == noTime || w.first < first) {
			first = w.first
		}
		last = max(last, w.final)
		for l, n := range w.levels {
			levels[l] += n
		}
		targets, messages = append(targets, w.targets), append(messages, w.messages)
	}
	r.First, r.Last = instant(first), instant(last)
	for l := logscan.Level(logscan.NumLevels); l > 0; l-- { // the worst first
		r.Levels = append(r.Levels, LevelCount{logscan.LevelNames[l-1], levels[l-1]})
	}
	for c := range r.Classes {
		var kept []keptLine
		for _, w := range workers {
			kept = append(kept, w.kept[c]...)
		}
		for _, k := range lastLines(kept, a.o.Last) {
			r.Classes[c].Last = append(r.Classes[c].Last, LastLine{clean([]byte(k.in.path)), clean(k.text), k.cut})
		}
	}
	r.Rate = rate(times)
	r.Hours, r.HoursSeconds = hours(times, a.o.Top)
	counters, missed := mergeTop(targets)
	r.TargetsMissed = missed
	for _, c := range counters[:min(len(counters), a.o.Top)] {
		r.Targets = append(r.Targets, Target{clean([]byte(c.key)), Counted{c.count, c.over}, c.levels[logscan.Warn], c.levels[logscan.Error]})
	}
	counters, missed = mergeTop(messages)
	r.MessagesMissed = missed
	for _, c := range counters[:min(len(counters), a.o.Top)] {
		level := logscan.Other
		for l, n := range c.levels {
			if n > 0 {
				level = logscan.Level(l)
			}
		}
		r.Messages = append(r.Messages, Message{
			clean([]byte(c.key)), Counted{c.count, c.over}, logscan.LevelNames[level], instant(c.first), instant(c.last), clean(c.example),
		})
	}
	r.Durations = allDurations(workers)
	r.Durations = r.Durations[:min(len(r.Durations), a.o.Top)]
}

func instant(at int64) *time.Time {
	if at == noTime {
		return nil
	}
	t := time.Unix(0, at)
	return &t
}

func rate(t *timeline) *Rate {
	width, start, columns := t.chart(maxColumns)
	if len(columns) == 0 {
		return nil
	}
	r := &Rate{Start: time.Unix(start, 0), WidthSeconds: width}
	for _, c := range columns {
		r.Lines, r.Warnings, r.Errors = append(r.Lines, c.lines), append(r.Warnings, c.warnings), append(r.Errors, c.errors)
	}
	return r
}

// hours returns the last hours that have lines. The timeline has hours afterwards.
func hours(t *timeline, most int) (hours []Hour, width int64) {
	width, starts, buckets := t.hours()
	for i := max(0, len(starts)-most); i < len(starts); i++ {
		b := buckets[i]
		hours = append(hours, Hour{time.Unix(starts[i], 0), b.lines, b.warnings, b.errors})
	}
	return hours, width
}

func allDurations(workers []*worker) []Duration {
	all := map[string]*duration{}
	for _, w := range workers {
		for name, d := range w.parser.durations.byName {
			sum := all[name]
			if sum == nil {
				sum = &duration{}
				all[name] = sum
			}
			sum.rejected += d.rejected
			mergeHistogram(&sum.seconds, d.seconds)
			mergeHistogram(&sum.bare, d.bare)
		}
	}
	var rows []Duration
	for _, name := range slices.Sorted(maps.Keys(all)) {
		d := all[name]
		for _, h := range []struct {
			*histogram
			unit string
		}{{d.seconds, "seconds"}, {d.bare, ""}} {
			if h.histogram != nil {
				rows = append(rows, Duration{clean([]byte(name)), h.unit, h.count, h.quantile(0.5), h.quantile(0.95), h.quantile(0.99), h.max, d.rejected})
				d.rejected = 0
			}
		}
	}
	slices.SortStableFunc(rows, func(a, b Duration) int { return cmp.Compare(b.Count, a.Count) })
	return rows
}

func mergeHistogram(sum **histogram, h *histogram) {
	if h == nil {
		return
	}
	if *sum == nil {
		*sum = &histogram{}
	}
	(*sum).merge(h)
}

// clean returns text that a terminal and JSON can show: without colours, what is
// not printable replaced.
func clean(text []byte) string {
	if bytes.IndexByte(text, '\x1b') >= 0 {
		text = appendPlain(nil, text)
	}
	text = bytes.TrimRight(text, "\r\n")
	if isPrintableASCII(text) {
		return string(text)
	}
	for n := 1; n < utf8.UTFMax && n <= len(text); n++ { // a last letter that is cut off
		if tail := text[len(text)-n:]; utf8.RuneStart(tail[0]) {
			if !utf8.FullRune(tail) {
				text = text[:len(text)-n]
			}
			break
		}
	}
	return strings.Map(func(c rune) rune {
		switch {
		case c == '\t':
			return ' '
		case unicode.IsPrint(c) || unicode.Is(unicode.Cf, c) && !isDirection(c):
			return c
		}
		return utf8.RuneError
	}, string(text))
}

// isDirection reports whether c turns the direction of what follows, which can
// make a line look like another.
func isDirection(c rune) bool { return c >= 0x202a && c <= 0x202e || c >= 0x2066 && c <= 0x2069 }

func isPrintableASCII(text []byte) bool {
	for _, c := range text {
		if c < ' ' || c > '~' {
			return false
		}
	}
	return true
}
