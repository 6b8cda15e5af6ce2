// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/alecthomas/kingpin/v2"
	"github.com/prometheus/common/model"

	"github.com/niodoo/niodoo_exporter/internal/atomicfile"
	"github.com/niodoo/niodoo_exporter/internal/humanize"
	"github.com/niodoo/niodoo_exporter/internal/loganalysis"
	"github.com/niodoo/niodoo_exporter/internal/logscan"
	"github.com/niodoo/niodoo_exporter/internal/opstate"
)

func init() {
	register(spec{
		name: "logs analyze",
		help: "Say what is in the logs: the manual's five classes and their last lines, levels, targets, hours, the most frequent " +
			"warnings and errors, durations. It exits 1 when some logs could not be read, or not to their end, and 3 when none could.",
		setup: func(c *kingpin.CmdClause) action {
			l := &logsAnalyze{}
			c.Arg("files", "Files, also compressed with gzip or zstd; - is the standard input. Without any, the configuration's logs.paths.").StringsVar(&l.files)
			c.Flag("last", "How many of the last lines of each class to show.").Default("20").IntVar(&l.last)
			c.Flag("top", "How many messages, targets, durations and hours to show.").Default("10").IntVar(&l.top)
			c.Flag("since", "Only lines from then on: a time, or how long ago, such as 2h. A line without a time belongs to the one before it.").StringVar(&l.since)
			c.Flag("until", "Only lines before that: a time, or how long ago.").StringVar(&l.until)
			c.Flag("classes-only", "Count the classes and nothing else, which is fastest.").BoolVar(&l.classesOnly)
			c.Flag("output", "File to write the report to, whole or not at all. In a folder it is named as the manual's: log_analysis_YYYYmmdd.txt.").StringVar(&l.output)
			return l.run
		},
	})
}

type logsAnalyze struct {
	files                []string
	last, top            int
	since, until, output string
	classesOnly          bool
}

// Limits of what is kept in memory.
const (
	maxLast = 250
	maxTop  = 250
)

func (l *logsAnalyze) run(ctx context.Context, e *env) error {
	now := e.now()
	o := loganalysis.Options{
		Sources: loganalysis.Named(l.files), Exclude: slices.Concat(e.cfg.Logs.Exclude, logscan.OwnReports), Stdin: e.stdin,
		Last: l.last, Top: l.top, ClassesOnly: l.classesOnly, Now: now,
	}
	var err error
	if o.Since, err = moment("since", l.since, now); err != nil {
		return err
	}
	if o.Until, err = moment("until", l.until, now); err != nil {
		return err
	}
	switch {
	case l.last < 0 || l.last > maxLast:
		return usageError("--last %d: must be from 0 to %d", l.last, maxLast)
	case l.top < 0 || l.top > maxTop:
		return usageError("--top %d: must be from 0 to %d", l.top, maxTop)
	case !o.Since.IsZero() && !o.Until.IsZero() && !o.Since.Before(o.Until):
		return usageError("--since %s is not before --until %s", l.since, l.until)
	}
	if len(l.files) == 0 {
		if o.Sources = loganalysis.Find(e.cfg.Logs.Paths); len(o.Sources) == 0 {
			return fmt.Errorf("no file matches logs.paths, %s; name files, or mend the configuration", strings.Join(e.cfg.Logs.Paths, " "))
		}
	}
	// What is kept is bounded; so is, then, what is not yet collected.
	defer debug.SetGCPercent(debug.SetGCPercent(20))
	p := e.progress("reading logs", loganalysis.Size(o.Sources), true)
	o.Read = p.add
	r, err := loganalysis.Analyze(ctx, o)
	p.done()
	if err != nil {
		return err
	}
	if err := l.write(e, r); err != nil {
		return err
	}
	return readVerdict(r)
}

// readVerdict is a warning when some logs could not be read, and unknown when none could.
func readVerdict(r *loganalysis.Report) error {
	read := slices.ContainsFunc(r.Inputs, func(i loganalysis.Input) bool { return i.Problem == "" && i.LeftOut == "" || i.Bytes > 0 })
	switch {
	case !read:
		return verdict(opstate.Unknown)
	case r.NotRead > 0:
		return verdict(opstate.Warning)
	}
	return nil
}

// write prints the report, or writes it to a file. What could not be read is
// said on the standard error where no report for people says it.
func (l *logsAnalyze) write(e *env, r *loganalysis.Report) error {
	if l.output != "" || e.quiet || e.format == formatJSON {
		for _, i := range r.Inputs {
			if i.Problem != "" {
				fmt.Fprintf(e.stderr, "niodooctl: not read: %s\n", i.Problem)
			}
		}
	}
	if l.output == "" {
		if e.quiet && e.format == formatText {
			return nil
		}
		return e.logReport(r)
	}
	path := l.output
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		path = filepath.Join(path, r.Generated.Format("log_analysis_20060102.txt"))
	}
	err := atomicfile.Replace(path, 0o640, func(w io.Writer) error {
		file := *e
		file.stdout = w
		return file.logReport(r)
	})
	if err != nil {
		return failingError(err)
	}
	if !e.quiet {
		if e.format == formatJSON {
			return e.json(map[string]string{"report": path})
		}
		e.printf("Wrote %s\n", path)
	}
	return nil
}

// moment reads a time, or how long before now.
func moment(flag, s string, now time.Time) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	if d, err := model.ParseDuration(s); err == nil {
		return now.Add(-time.Duration(d)), nil
	}
	for _, layout := range []string{time.RFC3339, time.DateTime, "2006-01-02 15:04", "2006-01-02T15:04:05", "2006-01-02T15:04", time.DateOnly} {
		if t, err := time.ParseInLocation(layout, s, time.Local); err == nil {
			return t, nil
		}
	}
	return time.Time{}, usageError("--%s %q: write how long ago, such as 90m, 2h or 7d, or a time, such as 2026-01-27, \"2026-01-27 10:00\" or 2026-01-27T10:00:00Z", flag, s)
}

const logTime = "2006-01-02 15:04:05"

// logReport prints the report in the format that was asked for.
func (e *env) logReport(r *loganalysis.Report) error {
	if e.format == formatJSON {
		return e.json(r)
	}
	e.printf("%s%s, %s\n\n", logscan.ReportMarker, r.Name, r.Generated.Format(logTime+" MST"))
	e.logInputs(r)
	e.logClasses(r)
	if r.Levels == nil {
		return nil
	}
	e.logLevels(r)
	e.logRate(r)
	e.logMessages(r)
	e.logTargets(r)
	e.logDurations(r)
	for _, c := range r.Classes {
		if len(c.Last) == 0 {
			continue
		}
		e.printf("\nLast %s of %s in %s\n", plural(uint64(len(c.Last)), "line"), grouped(c.Lines), c.Name)
		for _, k := range c.Last {
			cut := ""
			if k.Cut {
				cut = " …"
			}
			e.printf("%s: %s%s\n", k.Path, k.Text, cut)
		}
	}
	return nil
}

func (e *env) logInputs(r *loganalysis.Report) {
	left := 0
	for _, i := range r.Inputs {
		if i.LeftOut != "" {
			left++
		}
	}
	e.printf("%s in %s, %s", plural(r.Lines, "line"), plural(uint64(len(r.Inputs)-left), "log"), humanize.Value(humanize.Bytes, float64(r.Bytes)))
	if r.First != nil {
		e.printf(", from %s to %s", r.First.Local().Format(logTime), r.Last.Local().Format(logTime))
	}
	e.printf("\n")
	if r.Undated > 0 {
		e.printf("%s\n", plural(r.Undated, "line has no time of its own", "lines have no time of their own"))
	}
	if bounds := logBounds(r); bounds != "" {
		e.printf("%s: %s left out\n", bounds, plural(r.Outside, "line is", "lines are"))
	}
	for _, i := range r.Inputs {
		if i.Problem != "" {
			e.printf("%s %s\n", e.coloured(opstate.Unknown, "Not read:"), i.Problem)
		}
	}
	shown := 0
	for _, i := range r.Inputs {
		if i.LeftOut == "" {
			continue
		}
		if shown++; shown > maxLeftShown {
			e.printf("Left out: %d more; -o json names them\n", left-maxLeftShown)
			return
		}
		e.printf("Left out: %s: %s\n", i.Path, i.LeftOut)
	}
}

// maxLeftShown is how many logs that were left out are named.
const maxLeftShown = 10

func logBounds(r *loganalysis.Report) string {
	var parts []string
	if r.Since != nil {
		parts = append(parts, "since "+r.Since.Local().Format(logTime))
	}
	if r.Until != nil {
		parts = append(parts, "until "+r.Until.Local().Format(logTime))
	}
	s := strings.Join(parts, " ")
	if s != "" {
		s = strings.ToUpper(s[:1]) + s[1:]
	}
	return s
}

func (e *env) logClasses(r *loganalysis.Report) {
	e.printf("\n")
	var rows [][]string
	for _, c := range r.Classes {
		rows = append(rows, []string{c.Name, grouped(c.Lines), share(c.Lines, r.Lines)})
	}
	e.table([]string{"class", "lines", "share"}, rows, 2, 3)
}

func (e *env) logLevels(r *loganalysis.Report) {
	e.printf("\n")
	var rows [][]string
	for _, l := range r.Levels {
		if l.Lines > 0 {
			rows = append(rows, []string{l.Level, grouped(l.Lines), share(l.Lines, r.Lines)})
		}
	}
	e.table([]string{"level", "lines", "share"}, rows, 2, 3)
}

func (e *env) logRate(r *loganalysis.Report) {
	if r.Rate == nil {
		return
	}
	width := time.Duration(r.Rate.WidthSeconds) * time.Second
	e.printf("\nLines per %s from %s\n", model.Duration(width), r.Rate.Start.Local().Format(logTime))
	for _, row := range []struct {
		name   string
		counts []uint64
	}{{"lines", r.Rate.Lines}, {"warnings", r.Rate.Warnings}, {"errors", r.Rate.Errors}} {
		if most := slices.Max(row.counts); most > 0 {
			e.printf("%-9s %s  at most %s\n", row.name, sparkline(row.counts), grouped(most))
		}
	}
	if len(r.Hours) == 0 {
		return
	}
	var rows [][]string
	for _, h := range r.Hours {
		rows = append(rows, []string{h.Start.Local().Format("2006-01-02 15:04"), grouped(h.Lines), grouped(h.Warnings), grouped(h.Errors)})
	}
	e.printf("\n")
	e.table([]string{model.Duration(time.Duration(r.HoursSeconds)*time.Second).String() + " from", "lines", "warnings", "errors"}, rows, 2, 3, 4)
}

func (e *env) logMessages(r *loganalysis.Report) {
	if len(r.Messages) == 0 {
		return
	}
	e.printf("\nWarnings and errors, numbers, identifiers and quotes folded%s\n", missed(r.MessagesMissed))
	var rows [][]string
	for _, m := range r.Messages {
		rows = append(rows, []string{counted(m.Counted), m.Level, optionalTime(m.First), optionalTime(m.Last), m.Text})
	}
	e.table([]string{"times", "level", "first", "last", "message"}, rows, 1)
}

func (e *env) logTargets(r *loganalysis.Report) {
	if len(r.Targets) == 0 {
		return
	}
	e.printf("\nTargets%s\n", missed(r.TargetsMissed))
	var rows [][]string
	for _, t := range r.Targets {
		rows = append(rows, []string{t.Name, counted(t.Counted), grouped(t.Warnings), grouped(t.Errors)})
	}
	e.table([]string{"target", "lines", "warnings", "errors"}, rows, 2, 3, 4)
}

func (e *env) logDurations(r *loganalysis.Report) {
	if len(r.Durations) == 0 {
		return
	}
	e.printf("\n")
	var rows [][]string
	for _, d := range r.Durations {
		show := func(v float64) string { return humanize.Value(d.Unit, v) }
		rows = append(rows, []string{d.Field, grouped(d.Count), show(d.P50), show(d.P95), show(d.P99), show(d.Max)})
	}
	e.table([]string{"duration", "values", "p50", "p95", "p99", "most"}, rows, 2, 3, 4, 5, 6)
}

// missed says how often something may have come that a table does not have.
func missed(n uint64) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprintf(" (what is not counted came at most %s times)", grouped(n))
}

// counted is a count, with what it may be too high by.
func counted(c loganalysis.Counted) string {
	if c.Over == 0 {
		return grouped(c.Count)
	}
	return grouped(c.Count-c.Over) + " to " + grouped(c.Count)
}

func optionalTime(t *time.Time) string {
	if t == nil {
		return ""
	}
	return t.Local().Format(logTime)
}

// sparkline draws counts as columns; a count above zero is never empty.
func sparkline(counts []uint64) string {
	const bars = "▁▂▃▄▅▆▇█"
	most := float64(slices.Max(counts))
	var b strings.Builder
	for _, n := range counts {
		if n == 0 {
			b.WriteByte(' ')
			continue
		}
		i := int(math.Ceil(float64(n)/most*8)) - 1
		b.WriteString(string([]rune(bars)[min(max(i, 0), 7)]))
	}
	return b.String()
}

// share is a part of a whole in percent.
func share(part, whole uint64) string {
	if whole == 0 {
		return ""
	}
	return fmt.Sprintf("%.1f %%", 100*float64(part)/float64(whole))
}

// grouped is a number with its thousands apart.
func grouped(n uint64) string {
	s := strconv.FormatUint(n, 10)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// plural is a number with its noun; the plural form has an s unless it is given.
func plural(n uint64, one string, many ...string) string {
	switch {
	case n == 1:
		return "1 " + one
	case len(many) > 0:
		return grouped(n) + " " + many[0]
	}
	return grouped(n) + " " + one + "s"
}
