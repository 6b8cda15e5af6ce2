// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package logscan

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/niodoo/niodoo_exporter/internal/logcorpus"
)

// grepArguments are the manual's five searches.
var grepArguments = [NumClasses][]string{
	{"-i", `error\|failed\|exception`},
	{"-E", `(processing_time|latency|timeout)`},
	{"-E", `(memory|consolidation|retrieval)`},
	{"-E", `(consciousness|emotional|toroidal)`},
	{"-E", `(cpu|memory|disk|gpu)`},
}

// grepCounts asks the real grep.
func grepCounts(t testing.TB, file string) Counts {
	t.Helper()
	c := Counts{}
	run := func(args ...string) uint64 {
		cmd := exec.Command("grep", append(args, file)...)
		cmd.Env = append(os.Environ(), "LC_ALL=C")
		out, err := cmd.Output()
		var exit *exec.ExitError
		if err != nil && (!errors.As(err, &exit) || exit.ExitCode() != 1) {
			t.Fatalf("grep %v: %v", args, err)
		}
		n, err := strconv.ParseUint(strings.TrimSpace(string(out)), 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	for i, args := range grepArguments {
		c.Matches[i] = run(append([]string{"-a", "-c"}, args...)...)
	}
	c.Lines = run("-a", "-c", "")
	return c
}

// grepLines returns the classes of every line, as the real grep numbers them.
func grepLines(t testing.TB, file string) map[int]Classes {
	t.Helper()
	lines := map[int]Classes{}
	for i, args := range grepArguments {
		cmd := exec.Command("grep", append(append([]string{"-a", "-n"}, args...), file)...)
		cmd.Env = append(os.Environ(), "LC_ALL=C")
		out, _ := cmd.Output()
		for l := range bytes.Lines(out) {
			number, _, _ := bytes.Cut(l, []byte(":"))
			n, err := strconv.Atoi(string(number))
			if err != nil {
				t.Fatalf("grep printed %q", l)
			}
			lines[n] |= 1 << i
		}
	}
	return lines
}

func write(t testing.TB, data []byte) string {
	t.Helper()
	f := filepath.Join(t.TempDir(), "log")
	if err := os.WriteFile(f, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return f
}

// TestAgainstGrep compares every line's classes and all counts with the real
// grep, the data fed in pieces of several sizes.
func TestAgainstGrep(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(3, 4))
	corpora := map[string][]byte{
		"empty": nil, "newline": []byte("\n"), "no newline at the end": []byte("x\nan Error"), "one byte": []byte("x"),
		"carriage returns": []byte("timeout\r\ncpu\r\n\r\nok\r\n"), "NUL": []byte("\x00\x00error\x00\nmem\x00ory\ngp\x00u gpu\n"),
		"long s": []byte("di\u017fk\nExcept\u0131on\nFAILED\n"), "invalid UTF-8": []byte("\xff\xfeerror\n\xc3disk\xc3\n"),
		"split colours": []byte("\x1b[31mer\x1b[0mror\x1b[31merror\x1b[0m\n"),
		"json":          logcorpus.JSON(200<<10, logcorpus.Dense), "text": logcorpus.Text(100<<10, logcorpus.Dense),
		"long line": bytes.Join([][]byte{bytes.Repeat([]byte("x"), 3<<20), []byte("toroidal"), bytes.Repeat([]byte("y"), 1<<20), []byte("gpu\nlatency")}, nil),
	}
	for i := range 40 {
		corpora[fmt.Sprint("dirt ", i)] = logcorpus.Dirt(r, 50+400*(i%5))
	}
	for name, data := range corpora {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			file := write(t, data)
			want, lines := grepCounts(t, file), grepLines(t, file)
			for _, size := range []int{1, 2, 3, 7, 13, 14, 15, 16, 17, 64, 1000, 1 << 20, len(data) + 1} {
				if len(data) > 1<<20 && size < 1000 {
					continue
				}
				var c Counter
				var s Stream
				n := 0
				each := func(l Line) {
					if n++; l.Classes != lines[n] {
						t.Errorf("pieces of %d: line %d %q has the classes %05b, grep says %05b", size, n, l.Head, l.Classes, lines[n])
					}
				}
				for from := 0; from < len(data); from += size {
					piece := data[from:min(len(data), from+size)]
					_, _ = c.Write(piece)
					s.Write(piece, each)
				}
				s.Finish(each)
				if got := c.Counts(); got != want {
					t.Errorf("pieces of %d: %+v, grep says %+v", size, got, want)
				}
				if n != int(want.Lines) {
					t.Errorf("pieces of %d: %d lines, grep says %d", size, n, want.Lines)
				}
			}
		})
	}
}

// TestCount compares parallel counting with the real grep on files whose lines
// lie across the workers' shares.
func TestCount(t *testing.T) {
	t.Parallel()
	long := bytes.Repeat([]byte("cpu x "), 3<<20) // 18 MiB without a newline
	for kind, data := range map[string][]byte{
		"empty":             nil,
		"json":              logcorpus.JSON(10<<20, logcorpus.Sparse),
		"one long line":     long,
		"long lines":        append(append([]byte("gpu\n"), long...), "\nerror\n\nx"...),
		"newline at bound":  append(append(bytes.Repeat([]byte("x"), ShareSize-1), '\n'), "error\n"...),
		"begins at bound":   append(append(bytes.Repeat([]byte("x"), ShareSize), '\n'), "error\n"...),
		"ends at a bound":   append(bytes.Repeat([]byte("x"), ShareSize-1), '\n'),
		"newlines at bound": append(bytes.Repeat([]byte("x"), ShareSize-2), "\n\n\n\ndisk"...),
	} {
		name := write(t, data)
		want := grepCounts(t, name)
		f, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		for _, workers := range []int{1, 2, 5} {
			got, err := Count(context.Background(), bytes.NewReader(data), int64(len(data)), workers)
			if err != nil || got != want {
				t.Errorf("%s, %d workers: %+v, %v; grep says %+v", kind, workers, got, err, want)
			}
			got, err = CountFile(context.Background(), f, workers)
			if err != nil || got != want {
				t.Errorf("%s, mapped, %d workers: %+v, %v; grep says %+v", kind, workers, got, err, want)
			}
		}
	}
}

func TestCountFails(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := Count(ctx, strings.NewReader("x"), 1, 2); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	broken := errors.New("broken disk")
	if _, err := Count(context.Background(), failingReader{broken}, 100<<20, 3); !errors.Is(err, broken) {
		t.Errorf("reading: %v", err)
	}
	// A file that has become shorter since it was measured ends where it ends.
	c, err := Count(context.Background(), strings.NewReader("error\nx"), 100<<20, 3)
	if want := (Counts{2, Matches{1}}); err != nil || c != want {
		t.Errorf("shorter: %+v, %v", c, err)
	}
}

// A file that is truncated while it is mapped is an error, not a crash.
func TestCountShrinking(t *testing.T) {
	t.Parallel()
	f, err := os.OpenFile(write(t, logcorpus.JSON(9<<20, []int{0})), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(1 << 20); err != nil {
		t.Fatal(err)
	}
	if _, err := countMapped(context.Background(), f, 9<<20, 2); !errors.Is(err, ErrNotMapped) {
		t.Errorf("%v", err)
	}
	c, err := CountFile(context.Background(), f, 2)
	if want := grepCounts(t, f.Name()); err != nil || c != want {
		t.Errorf("afterwards: %+v, %v; grep says %+v", c, err, want)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := CountFile(ctx, f, 2); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	d, err := os.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if _, err := CountFile(context.Background(), d, 2); !ErrNotRegular(err) {
		t.Errorf("a directory: %v", err)
	}
}

type failingReader struct{ err error }

func (f failingReader) ReadAt([]byte, int64) (int, error) { return 0, f.err }

// TestWords holds the table of words to what the scan relies on.
func TestWords(t *testing.T) {
	t.Parallel()
	longest := 0
	for _, w := range words {
		longest = max(longest, len(w.text))
		if w.even%2 != 0 || w.odd%2 != 1 || max(w.even, w.odd)+2 > len(w.text) {
			t.Errorf("%s: the pairs at %d and %d do not cover both alignments", w.text, w.even, w.odd)
		}
		if strings.ToLower(w.text) != w.text || strings.Contains(w.text, "\n") || w.fold && strings.Contains(w.text, "_") {
			t.Errorf("%q cannot be searched for", w.text)
		}
	}
	var texts []string
	for _, w := range words {
		texts = append(texts, w.text)
	}
	if !slices.Equal(texts, logcorpus.Words) {
		t.Errorf("the words are %v, the corpora's %v", texts, logcorpus.Words)
	}
	if longest != longestWord {
		t.Errorf("longestWord is %d, the longest has %d", longestWord, longest)
	}
	if len(candidates) > 256 {
		t.Errorf("%d lists of candidates do not fit the index", len(candidates))
	}
}

var oracle = [NumClasses]*regexp.Regexp{
	// Go folds U+017F and U+212A too; ASCII alone counts, so cases are spelled out.
	regexp.MustCompile(`[eE][rR][rR][oO][rR]|[fF][aA][iI][lL][eE][dD]|[eE][xX][cC][eE][pP][tT][iI][oO][nN]`),
	regexp.MustCompile(`processing_time|latency|timeout`), regexp.MustCompile(`memory|consolidation|retrieval`),
	regexp.MustCompile(`consciousness|emotional|toroidal`), regexp.MustCompile(`cpu|memory|disk|gpu`),
}

// FuzzMatch compares with regular expressions, line by line, cut anywhere.
func FuzzMatch(f *testing.F) {
	r := rand.New(rand.NewPCG(5, 6))
	for range 20 {
		f.Add(logcorpus.Dirt(r, 40), uint16(r.IntN(100)))
	}
	f.Fuzz(func(t *testing.T, data []byte, cut uint16) {
		var got []Classes
		var s Stream
		each := func(l Line) { got = append(got, l.Classes) }
		at := min(int(cut), len(data))
		s.Write(data[:at], each)
		s.Write(data[at:], each)
		s.Finish(each)
		i := 0
		for line := range bytes.Lines(data) {
			var want Classes
			for c, re := range oracle {
				if re.Match(line) {
					want |= 1 << c
				}
			}
			if i >= len(got) || got[i] != want {
				t.Fatalf("line %d %q cut at %d: %v, want %05b", i, line, at, got, want)
			}
			i++
		}
		if i != len(got) {
			t.Fatalf("%d lines, want %d", len(got), i)
		}
	})
}

func BenchmarkMatch(b *testing.B) {
	for name, data := range map[string][]byte{
		"json/none": logcorpus.JSON(32<<20, nil), "json/sparse": logcorpus.JSON(32<<20, logcorpus.Sparse),
		"json/dense": logcorpus.JSON(32<<20, logcorpus.Dense), "text/dense": logcorpus.Text(32<<20, logcorpus.Dense),
	} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(data)))
			for b.Loop() {
				var c Counter
				for from := 0; from < len(data); from += ChunkSize {
					_, _ = c.Write(data[from:min(len(data), from+ChunkSize)])
				}
				if c.Counts().Lines == 0 {
					b.Fatal("nothing counted")
				}
			}
		})
	}
}
