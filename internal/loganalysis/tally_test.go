// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package loganalysis

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/niodoo/niodoo_exporter/internal/logscan"
)

func TestFold(t *testing.T) {
	t.Parallel()
	for _, c := range [][2]string{
		{"request 17 failed after 350ms", "request <n> failed after <n>ms"},
		{"took 1.25s, was 3s", "took <n>s, was <n>s"},
		{"peer 10.0.0.7:50122 closed", "peer <n>:<n> closed"},
		{"session 550e8400-e29b-41d4-a716-446655440000 lost", "session <id> lost"},
		{"request 9a164e12fe66b99a", "request <id>"}, {"at 0x7ffe12 in req_8fK2x9", "at <id> in <id>"},
		{"layer3 of gpt4 sha256 ok", "layer<n> of gpt<n> sha<n> ok"},
		{`cannot open "/data/x 17.bin": denied`, `cannot open "…": denied`}, {"model 'mistral' isn't there", `model "…" isn't there`},
		{`an open "quote`, `an open "quote`}, {"decade facade deadbeefdeadbeef", "decade facade <id>"},
		{"a\tb\x00c", "a b c"}, {"Größe 5 µs", "Größe <n> µs"}, {"", ""}, {"-5 and 1e5", "-<n> and <n>e<n>"},
	} {
		if got := string(fold(nil, []byte(c[0]))); got != c[1] {
			t.Errorf("%q is folded to %q, want %q", c[0], got, c[1])
		}
	}
	long := make([]byte, 10_000)
	for i := range long {
		long[i] = "7 "[i%2]
	}
	if got := fold([]byte("kept"), long); len(got) > 4+maxFolded || string(got[:4]) != "kept" {
		t.Errorf("folded to %d bytes", len(got))
	}
}

// TestTopK holds the counts to the truth and to the bounds they state, in one
// part and merged of several.
func TestTopK(t *testing.T) {
	t.Parallel()
	const size, n = 64, 200_000
	r := rand.New(rand.NewPCG(1, 2))
	zipf := rand.NewZipf(r, 1.1, 1, 1<<20)
	for name, key := range map[string]func(int) string{
		"zipf":     func(int) string { return fmt.Sprint(zipf.Uint64()) },
		"distinct": func(i int) string { return fmt.Sprint(i) },
		"few":      func(i int) string { return fmt.Sprint(i % 10) },
		"turns":    func(i int) string { return fmt.Sprint(i % (size + 1)) },
		"late":     func(i int) string { return map[bool]string{true: "late", false: fmt.Sprint(i)}[i > n/2 && i%4 == 0] },
	} {
		truth := map[string]uint64{}
		parts := []*topK{newTopK(size), newTopK(size), newTopK(size)}
		for i := range n {
			k := key(i)
			truth[k]++
			c, _ := parts[i%3].count([]byte(k))
			c.seen(int64(i))
		}
		merged, bound := mergeTop(parts)
		if bound > n/size {
			t.Errorf("%s: the bound is %d, more than %d", name, bound, n/size)
		}
		found := map[string]bool{}
		for i, c := range merged {
			found[c.key] = true
			if c.count < truth[c.key] || c.count-c.over > truth[c.key] {
				t.Errorf("%s: %q counted %d, too high by %d at most; it came %d times", name, c.key, c.count, c.over, truth[c.key])
			}
			if i > 0 && c.count > merged[i-1].count {
				t.Errorf("%s: not in order", name)
			}
		}
		for k, times := range truth {
			if !found[k] && times > bound {
				t.Errorf("%s: %q came %d times and was lost; the bound is %d", name, k, times, bound)
			}
		}
		for _, p := range parts {
			if len(p.index) > size || len(p.ranked) > size {
				t.Errorf("%s: %d counters", name, len(p.index))
			}
		}
	}
}

func TestHistogram(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(1, 2))
	for name, next := range map[string]func() float64{
		"exponential": r.ExpFloat64,
		"wide":        func() float64 { return math.Exp(r.Float64()*30 - 18) },
		"constant":    func() float64 { return 0.35 },
		"zeros":       func() float64 { return max(0, r.Float64()-0.6) },
	} {
		var parts [2]histogram
		var all []float64
		for i := range 20_000 {
			v := next()
			all = append(all, v)
			parts[i%2].add(v)
		}
		slices.Sort(all)
		h := &histogram{}
		h.merge(&parts[0])
		h.merge(&parts[1])
		h.merge(&histogram{})
		if h.max != all[len(all)-1] || h.min != all[0] || h.count != uint64(len(all)) {
			t.Errorf("%s: %d values from %g to %g", name, h.count, h.min, h.max)
		}
		for _, q := range []float64{0.01, 0.5, 0.95, 0.99, 1} {
			want := all[int(math.Ceil(q*float64(len(all))))-1]
			if got := h.quantile(q); math.Abs(got-want) > 0.01*want {
				t.Errorf("%s: quantile %g is %g, want %g", name, q, got, want)
			}
		}
	}
	var h histogram // out of range: the extremes stay true
	for _, v := range []float64{1e-300, 1e300, math.SmallestNonzeroFloat64} {
		h.add(v)
	}
	if h.quantile(1) != 1e300 && h.max != 1e300 {
		t.Errorf("%g", h.max)
	}
}

func TestTimeline(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(1, 2))
	for name, next := range map[string]func(i int) int64{
		"an hour":     func(i int) int64 { return 1_769_508_000 + int64(i)/10 },
		"a year":      func(int) int64 { return 1_769_508_000 + r.Int64N(365*86400) },
		"all of time": func(int) int64 { return r.Int64N(math.MaxInt64 / 1_000_000_000) },
		"two lines":   func(i int) int64 { return int64(i%2) * 9_000_000_000 },
		"one moment":  func(int) int64 { return 1_769_508_000 },
	} {
		parts := []*timeline{newTimeline(), newTimeline()}
		const n = 42_000
		for i := range n {
			parts[i%2].add(next(i), logscan.Level(i%logscan.NumLevels))
		}
		sum := newTimeline()
		sum.merge(parts[0])
		sum.merge(parts[1])
		if len(sum.buckets) > maxTimeline {
			t.Errorf("%s: %d buckets", name, len(sum.buckets))
		}
		width, _, columns := sum.chart(maxColumns)
		if len(columns) == 0 || len(columns) > maxColumns || width%widths[sum.width] != 0 {
			t.Errorf("%s: %d columns of %d seconds, buckets of %d", name, len(columns), width, widths[sum.width])
		}
		var lines, warnings, errors uint64
		for _, c := range columns {
			lines, warnings, errors = lines+c.lines, warnings+c.warnings, errors+c.errors
		}
		hourWidth, starts, hours := sum.hours()
		for i, h := range hours {
			lines += h.lines
			if starts[i]%hourWidth != 0 || hourWidth < 3600 {
				t.Errorf("%s: an hour of %d seconds begins at %d", name, hourWidth, starts[i])
			}
		}
		if lines != 2*n || warnings+errors != n/3 {
			t.Errorf("%s: %d lines, %d warnings, %d errors", name, lines, warnings, errors)
		}
	}
	if _, _, columns := newTimeline().chart(maxColumns); columns != nil {
		t.Errorf("nothing has columns: %v", columns)
	}
	for i := range len(widths) - 1 {
		if widths[i+1]%widths[i] != 0 {
			t.Errorf("%d is no multiple of %d", widths[i+1], widths[i])
		}
	}
	if !slices.IsSorted(spans) {
		t.Error("spans are not sorted")
	}
}
