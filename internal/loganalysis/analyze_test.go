// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package loganalysis

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"go.uber.org/goleak"

	"github.com/niodoo/niodoo_exporter/internal/logcorpus"
	"github.com/niodoo/niodoo_exporter/internal/logscan"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func write(t testing.TB, name string, data []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func analyze(t testing.TB, o Options) *Report {
	t.Helper()
	r, err := Analyze(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// searches are the manual's five.
var searches = [logscan.NumClasses][]string{
	{"-i", `error\|failed\|exception`},
	{"-E", `(processing_time|latency|timeout)`},
	{"-E", `(memory|consolidation|retrieval)`},
	{"-E", `(consciousness|emotional|toroidal)`},
	{"-E", `(cpu|memory|disk|gpu)`},
}

// grep returns the lines that the real grep finds.
func grep(t testing.TB, path string, class int) [][]byte {
	t.Helper()
	cmd := exec.Command("grep", slices.Concat([]string{"-a"}, searches[class], []string{path})...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	out, err := cmd.Output()
	if exit, ok := errors.AsType[*exec.ExitError](err); err != nil && (!ok || exit.ExitCode() != 1) {
		t.Fatal(err)
	}
	return slices.Collect(bytes.Lines(out))
}

// mixed returns a log that changes its format again and again, with lines of no
// format between.
func mixed(size int, classes []int) []byte {
	j, x := logcorpus.JSON(size/2, classes), logcorpus.Text(size/2, classes)
	r := rand.New(rand.NewPCG(9, 9))
	var b []byte
	for len(j) > 0 || len(x) > 0 {
		for _, from := range []*[]byte{&j, &x} {
			for range r.IntN(20) {
				n := bytes.IndexByte(*from, '\n') + 1
				b, *from = append(b, (*from)[:n]...), (*from)[n:]
			}
		}
		for range r.IntN(4) {
			b = append(b, "    at memory::layer (src/memory.rs:17)\n"...)
		}
	}
	return b
}

// TestAgainstGrep compares the counts and the last lines of every class with the
// real grep's, whichever way the bytes come.
func TestAgainstGrep(t *testing.T) {
	t.Parallel()
	const last = 20
	r := rand.New(rand.NewPCG(3, 4))
	corpora := map[string][]byte{
		"empty": nil, "newline": []byte("\n"), "no newline at the end": []byte("x\nan Error"), "carriage returns": []byte("timeout\r\ncpu\r\n\r\nok\r\n"),
		"json": logcorpus.JSON(5<<20, logcorpus.Sparse), "text": logcorpus.Text(300<<10, logcorpus.Dense), "mixed": mixed(5<<20, []int{0}),
		"long lines": slices.Concat([]byte("gpu\n"), bytes.Repeat([]byte("x"), 5<<20), []byte("memory"), bytes.Repeat([]byte("y"), 5<<20), []byte("\nerror\n\nlatency")),
	}
	for i := range 12 {
		corpora[fmt.Sprint("dirt ", i)] = logcorpus.Dirt(r, 50+4000*(i%5))
	}
	for name, data := range corpora {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := write(t, "log", data)
			var want []Class
			for c, name := range logscan.ClassNames {
				found := grep(t, path, c)
				k := Class{Name: name, Lines: uint64(len(found))}
				for _, l := range found[max(0, len(found)-last):] {
					l = bytes.TrimSuffix(l, []byte("\n"))
					k.Last = append(k.Last, LastLine{path, clean(l[:min(len(l), maxKept)]), len(l) > maxKept})
				}
				want = append(want, k)
			}
			all, _ := exec.Command("grep", "-a", "-c", "", path).Output()
			lines, _ := strconv.ParseUint(strings.TrimSpace(string(all)), 10, 64)

			var first *Report
			for _, o := range []Options{
				{Sources: Named([]string{path}), Workers: 1}, {Sources: Named([]string{path}), Workers: 5},
				{Sources: Named([]string{Stdin}), Stdin: bytes.NewReader(data)},
			} {
				o.Last, o.Top = last, 50
				got := analyze(t, o)
				if len(got.Inputs) != 1 || got.Inputs[0].Problem != "" || got.Lines != lines || got.Inputs[0].Lines != lines || got.Bytes != uint64(len(data)) {
					t.Errorf("%d lines, %d bytes, %+v; want %d lines, %d bytes", got.Lines, got.Bytes, got.Inputs, lines, len(data))
				}
				for c := range got.Classes {
					for i := range got.Classes[c].Last {
						got.Classes[c].Last[i].Path = path
					}
				}
				if d := cmp.Diff(want, got.Classes); d != "" {
					t.Errorf("%d workers (-grep +niodooctl):\n%s", o.Workers, d)
				}
				if got.MessagesMissed > 0 || first != nil && first.Messages == nil { // what is missed depends on who reads what
					got.Messages, got.MessagesMissed = nil, 0
				}
				if got.Inputs = nil; first == nil {
					first = got
				} else if d := cmp.Diff(first, got); d != "" {
					t.Errorf("%d workers differ from one:\n%s", o.Workers, d)
				}
				o.ClassesOnly = true
				if o.Stdin != nil {
					o.Stdin = bytes.NewReader(data)
				}
				counted := analyze(t, o)
				for c := range counted.Classes {
					if counted.Classes[c].Lines != want[c].Lines || counted.Lines != lines {
						t.Errorf("classes only: %d of %d lines in %s, want %d of %d", counted.Classes[c].Lines, counted.Lines, want[c].Name, want[c].Lines, lines)
					}
				}
			}
		})
	}
}

// TestTruth compares everything that is counted with a plain reading of every line.
func TestTruth(t *testing.T) {
	t.Parallel()
	data := mixed(2<<20, []int{0})
	levels := map[string]uint64{}
	targets, hours := map[string]uint64{}, map[int64]uint64{}
	var messages, undated, durations uint64
	var times []time.Time
	for line := range bytes.Lines(data) {
		line = bytes.TrimSuffix(line, []byte("\n"))
		level := logscan.LevelOf(line)
		levels[logscan.LevelNames[level]]++
		if level == logscan.Warn || level == logscan.Error || level == logscan.Other && logscan.ClassesOf(line)&logscan.Errors != 0 {
			messages++
		}
		if tm, ok := logscan.TimeOf(line); ok {
			times = append(times, tm)
			hours[tm.Unix()/3600]++
		} else {
			undated++
		}
		for _, target := range []string{"pipeline", "embedding", "generation", "learning", "erag", "http", "session", "snapshot"} {
			if bytes.Contains(line, []byte("::"+target+`"`)) || bytes.Contains(line, []byte("::"+target+"\x1b")) {
				targets[target]++
			}
		}
		durations += uint64(bytes.Count(line, []byte("duration_ms")))
	}
	r := analyze(t, Options{Sources: Named([]string{write(t, "log", data)}), Last: 1, Top: 200})
	for _, l := range r.Levels {
		if l.Lines != levels[l.Level] {
			t.Errorf("%d lines of level %s, want %d", l.Lines, l.Level, levels[l.Level])
		}
	}
	if len(r.Targets) != len(targets) || r.TargetsMissed != 0 {
		t.Errorf("%d targets, want %d", len(r.Targets), len(targets))
	}
	for _, g := range r.Targets {
		if want := targets[g.Name[strings.LastIndex(g.Name, ":")+1:]]; g.Count != want || g.Over != 0 {
			t.Errorf("target %s: %+v, want %d", g.Name, g.Counted, want)
		}
	}
	var sum uint64
	for _, m := range r.Messages {
		sum += m.Count
	}
	if r.MessagesMissed != 0 || len(r.Messages) == 200 || sum != messages {
		t.Errorf("%d messages in %d kinds, missed %d; want %d", sum, len(r.Messages), r.MessagesMissed, messages)
	}
	first, last := slices.MinFunc(times, time.Time.Compare), slices.MaxFunc(times, time.Time.Compare)
	if r.Undated != undated || !r.First.Equal(first) || !r.Last.Equal(last) {
		t.Errorf("from %v to %v, %d undated; want %v, %v, %d", r.First, r.Last, r.Undated, first, last, undated)
	}
	if len(r.Hours) != len(hours) || r.HoursSeconds != 3600 {
		t.Errorf("%d hours of %d s, want %d", len(r.Hours), r.HoursSeconds, len(hours))
	}
	for _, h := range r.Hours {
		if h.Lines != hours[h.Start.Unix()/3600] {
			t.Errorf("%d lines from %v on, want %d", h.Lines, h.Start, hours[h.Start.Unix()/3600])
		}
	}
	sum = 0
	for _, n := range r.Rate.Lines {
		sum += n
	}
	if sum != uint64(len(times)) || len(r.Rate.Lines) > maxColumns {
		t.Errorf("the rate has %d lines in %d columns, want %d", sum, len(r.Rate.Lines), len(times))
	}
	i := slices.IndexFunc(r.Durations, func(d Duration) bool { return d.Field == "duration_ms" })
	if i < 0 || r.Durations[i].Count != durations || r.Durations[i].Unit != "seconds" || r.Durations[i].Max > 2 || r.Durations[i].P50 > r.Durations[i].P95 {
		t.Errorf("durations %+v, want %d", r.Durations, durations)
	}
}

// TestBounds compares what is between two times with a plain reading, line by
// line, where lines without a time belong to the one before.
func TestBounds(t *testing.T) {
	t.Parallel()
	data := mixed(9<<20, logcorpus.Dense) // three shares
	data = append([]byte("no time yet: error\n"), data...)
	// Lines without a time across the border of two shares, and all over one.
	long := bytes.Repeat(append(bytes.Repeat([]byte(" in memory of a stack"), 100), '\n'), 9<<20/2100)
	withLong := slices.Concat(data[:1<<20], data[1<<20:][:bytes.IndexByte(data[1<<20:], '\n')+1], long, logcorpus.Text(1<<20, logcorpus.Dense))
	at := func(s string) time.Time {
		tm, err := time.Parse(time.RFC3339, s)
		if err != nil {
			t.Fatal(err)
		}
		return tm
	}
	for name, data := range map[string][]byte{"mixed": data, "a long record": withLong, "no times": long} {
		path := write(t, "log", data)
		for _, b := range [][2]time.Time{
			{at("2026-01-27T10:01:00Z"), {}}, {at("2026-01-27T10:00:30Z"), at("2026-01-27T10:02:17Z")}, {{}, at("2027-01-27T10:00:00Z")},
		} {
			var want logscan.Counts
			var outside uint64
			inside := false
			for line := range bytes.Lines(data) {
				line = bytes.TrimSuffix(line, []byte("\n"))
				if tm, ok := logscan.TimeOf(line); ok {
					inside = !tm.Before(b[0]) && (b[1].IsZero() || tm.Before(b[1]))
				}
				if !inside {
					outside++
					continue
				}
				want.Lines++
				want.Matches.Add(logscan.ClassesOf(line))
			}
			for _, o := range []Options{
				{Sources: Named([]string{path}), Workers: 3},
				{Sources: Named([]string{path}), Workers: 1, ClassesOnly: true}, {Sources: Named([]string{Stdin}), Stdin: bytes.NewReader(data)},
			} {
				o.Since, o.Until, o.Last = b[0], b[1], 3
				r := analyze(t, o)
				var got logscan.Counts
				got.Lines = r.Lines
				for c := range r.Classes {
					got.Matches[c] = r.Classes[c].Lines
				}
				if got != want || r.Outside != outside {
					t.Errorf("%s, %v, %d workers: %+v, %d outside; want %+v, %d", name, b, o.Workers, got, r.Outside, want, outside)
				}
			}
		}
	}
}

func compressed(t testing.TB, format string, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	var w io.WriteCloser = gzip.NewWriter(&b)
	if format == zstdName {
		z, err := zstd.NewWriter(&b)
		if err != nil {
			t.Fatal(err)
		}
		w = z
	}
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// TestSources reads every kind of source, good and bad.
func TestSources(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	good := []byte("an error\nfine\n")
	gz, zst := compressed(t, gzipName, good), compressed(t, zstdName, good)
	for name, data := range map[string][]byte{
		"plain.log": good, "a.log.gz": gz, "twice.gz": slices.Concat(gz, gz), "a.zst": zst, "empty.log": nil, "gz-by-content": gz,
		"cut.gz": gz[:len(gz)-6], "bad.gz": slices.Concat(gz[:10], []byte("garbage")), "x.xz": []byte("\xfd7zXZ\x00..."), "b.bz2": []byte("BZh9..."),
		"health_monitor.log": good, "log_analysis_20260127.txt": good, "report.txt": []byte(logscan.ReportMarker + "x\nan error\n"),
		"report.json": []byte(jsonMarker + "\"logs analyze\"\n"), "secret.log": good,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, err := range []error{
		os.Symlink("plain.log", filepath.Join(dir, "link.log")), os.Link(filepath.Join(dir, "plain.log"), filepath.Join(dir, "hard.log")),
		os.Symlink("nowhere", filepath.Join(dir, "dangling.log")), syscall.Mkfifo(filepath.Join(dir, "pipe"), 0o600),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	var wg sync.WaitGroup
	for _, c := range []struct {
		name, problem, left string
		lines               uint64
	}{
		{"plain.log", "", "", 2}, {"a.log.gz", "", "", 2}, {"twice.gz", "", "", 4}, {"a.zst", "", "", 2}, {"empty.log", "", "", 0},
		{"gz-by-content", "", "", 2}, {"pipe", "", "", 2}, {"link.log", "", "", 2}, {"hard.log", "", "", 2},
		{"cut.gz", "unexpected EOF", "", 2}, {"bad.gz", "bad.gz", "", 0}, {"x.xz", "compressed with xz", "", 0}, {"b.bz2", "compressed with bzip2", "", 0},
		{"nowhere.log", "no such file", "", 0}, {"dangling.log", "no such file", "", 0}, {".", "is a folder", "", 0},
		{"health_monitor.log", "", leftExcluded, 0}, {"log_analysis_20260127.txt", "", leftExcluded, 0}, {"secret.log", "", leftExcluded, 0},
		{"report.txt", "", leftReport, 0}, {"report.json", "", leftReport, 0},
	} {
		for _, only := range []bool{false, true} {
			if c.name == "pipe" {
				wg.Go(func() { _ = os.WriteFile(filepath.Join(dir, "pipe"), good, 0) })
			}
			r := analyze(t, Options{Sources: Named([]string{filepath.Join(dir, c.name)}), Exclude: append([]string{"secret*"}, logscan.OwnReports...), Last: 20, ClassesOnly: only})
			in := r.Inputs[0]
			if (c.problem == "") != (in.Problem == "") || !strings.Contains(in.Problem, c.problem) || in.LeftOut != c.left || in.Lines != c.lines || r.Lines != c.lines {
				t.Errorf("%s, classes only %v: %+v, want %+v", c.name, only, in, c)
			}
			if c.problem != "" && (r.NotRead != 1 || !strings.Contains(in.Problem, filepath.Join(dir, c.name))) {
				t.Errorf("%s: %d not read, the problem is %q", c.name, r.NotRead, in.Problem)
			}
		}
	}
	wg.Wait()

	for _, only := range []bool{false, true} {
		r := analyze(t, Options{Sources: Named([]string{filepath.Join(dir, "plain.log"), filepath.Join(dir, "hard.log"), filepath.Join(dir, "link.log")}), ClassesOnly: only})
		if r.Lines != 2 || r.Inputs[1].LeftOut != leftTwice || r.Inputs[2].LeftOut != leftTwice {
			t.Errorf("one file by three names: %+v", r.Inputs)
		}
		r = analyze(t, Options{Sources: Named([]string{Stdin}), Stdin: bytes.NewReader(gz), ClassesOnly: only})
		if r.Lines != 2 {
			t.Errorf("compressed standard input: %+v", r.Inputs)
		}
	}

	found := Find([]string{filepath.Join(dir, "p*"), filepath.Join(dir, "nothing*"), filepath.Join(dir, "no", "*.log"), filepath.Join(dir, "no.log")})
	r := analyze(t, Options{Sources: found})
	var got []string
	for _, i := range r.Inputs {
		got = append(got, filepath.Base(i.Path)+": "+i.Problem)
	}
	want := []string{"pipe: " + dir + "/pipe is not a regular file", "plain.log: ", "*.log: open " + dir + "/no: no such file or directory", "no.log: stat " + dir + "/no.log: no such file or directory"}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if Size(Named([]string{filepath.Join(dir, "plain.log"), filepath.Join(dir, "nowhere.log")})) != int64(len(good)) || Size(Named([]string{Stdin})) != -1 || Size(Named([]string{filepath.Join(dir, "pipe")})) != -1 {
		t.Error("sizes")
	}
}

// The last lines of several logs are merged by time; a log without times has its
// file's.
func TestLastOfSeveral(t *testing.T) {
	t.Parallel()
	a := write(t, "a.log", []byte("2026-01-27T10:00:00Z ERROR a1\n  error in a1\n2026-01-27T10:00:09Z ERROR a2\n2026-01-27T10:00:05Z ERROR a3\n"))
	b := write(t, "b.log", []byte("error before all\n2026-01-27T10:00:01Z ERROR b1\n2026-01-27T10:00:10Z ERROR b2\n"))
	c := write(t, "c.log", []byte("error without a time\n"))
	if err := os.Chtimes(c, time.Time{}, time.Date(2026, 1, 27, 10, 0, 0, 5e8, time.UTC)); err != nil {
		t.Fatal(err)
	}
	for _, n := range []int{0, 1, 4, 7, 20} {
		r := analyze(t, Options{Sources: Named([]string{c, a, b}), Last: n})
		var got []string
		for _, l := range r.Classes[0].Last {
			got = append(got, l.Text[strings.LastIndexAny(l.Text, "Rr ")+1:])
		}
		want := []string{"all", "a1", "a1", "time", "b1", "a2", "a3", "b2"}
		if want = want[max(0, len(want)-n):]; !slices.Equal(got, want) {
			t.Errorf("the last %d are %q, want %q", n, got, want)
		}
	}
}

// A log that is cut off while it is read is read as far as it goes, and named.
func TestTruncated(t *testing.T) {
	t.Parallel()
	data := logcorpus.JSON(9<<20, logcorpus.Sparse)
	for _, only := range []bool{false, true} {
		path := write(t, "log", data)
		var once sync.Once
		var sum int64
		var mu sync.Mutex
		r := analyze(t, Options{Sources: Named([]string{path}), Workers: 2, Last: 5, ClassesOnly: only, Read: func(n int64) {
			once.Do(func() {
				if err := os.Truncate(path, 1<<20); err != nil {
					t.Error(err)
				}
			})
			mu.Lock()
			sum += n
			mu.Unlock()
		}})
		if only { // counted before it was cut off
			continue
		}
		want := grep(t, path, 0)
		if r.NotRead != 1 || !strings.Contains(r.Inputs[0].Problem, "became shorter") || r.Classes[0].Lines != uint64(len(want)) || sum != 1<<20 {
			t.Errorf("%+v, %d lines, %d bytes; want %d lines", r.Inputs, r.Classes[0].Lines, sum, len(want))
		}
	}
}

func TestCancelled(t *testing.T) {
	t.Parallel()
	path := write(t, "log", logcorpus.JSON(1<<20, nil))
	r, w := io.Pipe()
	defer w.Close()
	for _, o := range []Options{
		{Sources: Named([]string{path})}, {Sources: Named([]string{path}), ClassesOnly: true},
		{Sources: Named([]string{Stdin}), Stdin: r}, {Sources: Named([]string{Stdin}), Stdin: r, ClassesOnly: true},
	} {
		ctx, cancel := context.WithCancel(context.Background())
		if o.Stdin == nil {
			cancel()
		} else {
			time.AfterFunc(10*time.Millisecond, cancel) // while it waits for more
		}
		if _, err := Analyze(ctx, o); !errors.Is(err, context.Canceled) {
			t.Errorf("%+v: %v", o, err)
		}
		cancel()
	}
}

// hostile is a log that is as bad for the memory as can be: messages, targets,
// fields, hours and ways to build a line that never come twice, and long lines.
func hostile(w io.Writer, lines int) error {
	r := rand.New(rand.NewPCG(1, 1))
	letters := make([]byte, 1<<20)
	for i := range letters {
		letters[i] = byte('g' + r.IntN(20))
	}
	word := func(n int) []byte { return letters[r.IntN(len(letters)-n):][:n] }
	for range lines {
		at := time.Unix(r.Int64N(9e9), 0).UTC().Format(time.RFC3339)
		_, err := fmt.Fprintf(w, `{"timestamp":"%s","level":"ERROR","fields":{"message":"error memory latency gpu toroidal %s","%s_latency_ms":5,"%s":1},"target":"%s"}`+"\n",
			at, word(300), word(30), word(50), word(100))
		if err != nil {
			return err
		}
	}
	long := bytes.Repeat([]byte("x"), 1<<20)
	for range lines / 1000 {
		if _, err := w.Write(long); err != nil {
			return err
		}
	}
	return nil
}

// TestMemory holds the memory down on the worst input, with as many workers as
// there can be.
func TestMemory(t *testing.T) {
	// Not parallel: it looks at the memory of the whole process.
	path := filepath.Join(t.TempDir(), "log")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := hostile(f, 30_000); err != nil {
		t.Fatal(err)
	}
	f.Close()
	runtime.GC()
	var before runtime.MemStats
	runtime.ReadMemStats(&before)
	var mu sync.Mutex
	var most uint64
	r := analyze(t, Options{Sources: Named([]string{path}), Workers: maxWorkers, Last: 20, Top: 10, Read: func(n int64) {
		mu.Lock()
		defer mu.Unlock()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		most = max(most, m.HeapSys-m.HeapReleased)
	}})
	t.Logf("the heap is %d MiB at most, %d MiB before; %d messages missed at most", most>>20, (before.HeapSys-before.HeapReleased)>>20, r.MessagesMissed)
	if grown := int64(most) - int64(before.HeapSys-before.HeapReleased); grown > 32<<20 {
		t.Errorf("the heap grew by %d MiB", grown>>20)
	}
	if r.MessagesMissed == 0 || r.DurationsOthers == 0 {
		t.Errorf("not as hostile as it should be: %d, %d", r.MessagesMissed, r.DurationsOthers)
	}
}

// What is printed cannot change a terminal, and is JSON.
func TestClean(t *testing.T) {
	t.Parallel()
	for _, c := range [][2]string{
		{"\x1b[31mred\x1b[0m", "red"}, {"a\tb\r", "a b"}, {"a\x00b\x07\x1b]0;title\x07", "a\ufffdb\ufffd]0;title\ufffd"}, {"\xff\xfe", "\ufffd\ufffd"},
		{"Größe 🧠 \u202egnp", "Größe 🧠 \ufffdgnp"}, {"cut \xf0\x9f\xa7", "cut "}, {"cut \xc3", "cut "}, {"ok ä", "ok ä"}, {"", ""},
	} {
		if got := clean([]byte(c[0])); got != c[1] {
			t.Errorf("%q becomes %q, want %q", c[0], got, c[1])
		}
	}
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetIndent("", "  ")
	if err := enc.Encode(&Report{Name: Name}); err != nil || !strings.HasPrefix(out.String(), jsonMarker) {
		t.Errorf("%v: a report in JSON is not known as one: %.60s", err, out.String())
	}
}
