// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package loganalysis

import (
	"bytes"
	"encoding/json"
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/niodoo/niodoo_exporter/internal/logcorpus"
	"github.com/niodoo/niodoo_exporter/internal/logscan"
)

func TestParse(t *testing.T) {
	t.Parallel()
	at := time.Date(2025, 10, 21, 5, 28, 9, 497_045_000, time.UTC).UnixNano()
	for _, c := range []struct {
		line, target, message, detail string
		level                         logscan.Level
		at                            int64
	}{
		{"2025-10-21T05:28:09.497045Z  WARN collapse{dim=896}: qdrant search returned error status status=400 Bad Request",
			"collapse", "qdrant search returned error status status=400 Bad Request", "", logscan.Warn, at},
		{"2025-10-21T05:28:09.497045Z  INFO embed{tokens=102}:inner{a={b}}: niodoo::erag: stored", "niodoo::erag", "stored", "", logscan.Info, at},
		{"2025-10-21T05:28:09.497045Z  INFO generate: generated hybrid response", "generate", "generated hybrid response", "", logscan.Info, at},
		{"2025-10-21T05:28:09.497045Z ERROR niodoo_core::brain: Error: it broke: badly", "niodoo_core::brain", "Error: it broke: badly", "", logscan.Error, at},
		{"2025-10-21T05:28:09.497045Z ERROR Error: it broke", "", "Error: it broke", "", logscan.Error, at},
		{"\x1b[2m2025-10-21T05:28:09.497045Z\x1b[0m \x1b[31mERROR\x1b[0m \x1b[2mniodoo::x\x1b[0m\x1b[2m:\x1b[0m no \x1b[3mk\x1b[0m\x1b[2m=\x1b[0m1", "niodoo::x", "no k=1", "", logscan.Error, at},
		{"[2025-10-21T05:28:09.497045Z WARN  detector::core] low confidence", "detector::core", "low confidence", "", logscan.Warn, at},
		{`ts=2025-10-21T05:28:09.497045Z caller=main.go:1 level=error target=tsdb msg="compaction failed" err=x`, "tsdb", "compaction failed", "", logscan.Error, at},
		{"plain text", "", "plain text", "", logscan.Other, noTime},
		{"  📊 Entropy: 1.9459044923240498", "", "  📊 Entropy: 1.9459044923240498", "", logscan.Other, noTime},
		{`{"timestamp":"2025-10-21T05:28:09.497045Z","level":"WARN","fields":{"message":"m \"q\"","error":"e","status":"400"},"target":"a::b","span":{"message":"no","name":"collapse"}}`,
			"a::b", `m \"q\"`, "e", logscan.Warn, at},
		{`{"level":"ERROR","msg":"top","fields":{"message":"second"},"logger":"l","ts":1761024489.497045}`, "l", "top", "", logscan.Error, at},
		{`{"level":"ERROR","x":{"fields":{"message":"too deep"}},"time":"2025-10-21T05:28:09.497045Z"}`, "", "", "", logscan.Error, at},
		{`{"level":"ERROR","message":"cut off in the middl`, "", "cut off in the middl", "", logscan.Error, noTime},
		{"", "", "", "", logscan.Other, noTime}, {"{", "", "", "", logscan.Other, noTime}, {"\x1b", "", "", "", logscan.Other, noTime},
		{"9999-10-21T05:28:09.497045Z INFO far", "", "far", "", logscan.Info, noTime},
		{"1960-10-21T05:28:09Z INFO past", "", "past", "", logscan.Info, noTime},
	} {
		var p parser
		for range 2 { // the second time by what was learnt
			var f facts
			p.parse([]byte(c.line), &f)
			if string(f.target) != c.target || string(f.message) != c.message || string(f.detail) != c.detail || f.level != c.level || max(f.at-c.at, c.at-f.at) > 1000 && f.at != c.at {
				t.Errorf("%q: target %q message %q detail %q level %d at %d", c.line, f.target, f.message, f.detail, f.level, f.at)
			}
		}
	}
}

// TestTimes holds the fast reading of times to logscan's.
func TestTimes(t *testing.T) {
	t.Parallel()
	var p parser
	for _, s := range []string{
		"2025-10-21T05:28:09Z", "2025-10-21T05:28:10.1Z", "2025-10-21T05:28:10.123456789Z", "2025-10-21T05:28:10.12345678912Z",
		"2025-10-21T05:28:60Z", "2025-10-21T05:28:5Z", "2025-10-21T05:28:10.Z", "2025-10-21T05:28:10", "2025-10-21T05:28:10z", "2025-13-21T05:28:10Z",
		"2025-02-30T05:28:10Z", "2025-10-21T25:28:10Z", "2025-10-21T05:28:10+02:00", "2025-10-21 05:28:10", "2025-10-21", "1761024489", "1761024489.5", "x",
	} {
		line := s + " INFO x"
		tm, ok := logscan.TimeOf([]byte(line))
		if got, want := p.leadingTime([]byte(line)), nanoseconds(tm, ok); got != want {
			t.Errorf("%q: %d, want %d", line, got, want)
		}
		tm, ok = logscan.ParseTime([]byte(s))
		if got, want := p.time([]byte(s)), nanoseconds(tm, ok); got != want {
			t.Errorf("%q: %d, want %d", s, got, want)
		}
	}
}

func TestDurations(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		line, name  string
		value       float64
		bare, wrong bool
	}{
		{"INFO generate: done latency_ms=1765.23801 rouge=0.76", "latency_ms", 1.76523801, false, false},
		{"INFO x \x1b[3mlatency_ms\x1b[0m\x1b[2m=\x1b[0m12", "latency_ms", 0.012, false, false},
		{`{"fields":{"duration_us":1500}}`, "duration_us", 0.0015, false, false},
		{`{"performance_metrics":{"e2e_latency_ms":5e2,"x":1}}`, "e2e_latency_ms", 0.5, false, false},
		{`{"elapsed":"1.2s"}`, "elapsed", 1.2, false, false},
		{`{"elapsed":"1m30.5s"}`, "elapsed", 90.5, false, false},
		{`level=info elapsed=42µs msg="x"`, "elapsed", 42e-6, false, false},
		{"INFO took=350ms", "took", 0.35, false, false},
		{"  ⏱️  Latency: 42153.222695ms", "latency", 42.153222695, false, false},
		{"INFO x processing_time=812", "processing_time", 812, true, false},
		{"INFO x processing_time_ms=812", "processing_time_ms", 0.812, false, false},
		{"INFO x response_time_seconds=0", "response_time_seconds", 0, false, false},
		{"INFO x latency_ms=nan", "latency_ms", 0, false, true},
		{"INFO x latency_ms=-1", "latency_ms", 0, false, true},
		{"INFO x latency_ms=1e999", "latency_ms", 0, false, true},
		{"INFO x start_time_ms=1761024489497", "start_time_ms", 0, false, true}, // a point in time
	} {
		var p parser
		var f facts
		p.parse([]byte(c.line), &f)
		d := p.durations.byName[c.name]
		if d == nil {
			t.Errorf("%q: %s not found in %v", c.line, c.name, p.durations.byName)
			continue
		}
		h := d.seconds
		if c.bare {
			h = d.bare
		}
		if c.wrong != (d.rejected == 1) || c.wrong == (h != nil) || h != nil && (h.count != 1 || math.Abs(h.max-c.value) > 1e-9*c.value) {
			t.Errorf("%q: %+v, want %g", c.line, *d, c.value)
		}
	}
	var p parser
	for _, line := range []string{"uptime_seconds=5", "timeout_ms=5", "timestamp_ms=5", `{"latency_ms":null}`, "at 05:28: 10", "=1 ==", "time=5", "rouge=5"} {
		var f facts
		p.parse([]byte(line), &f)
		for name, d := range p.durations.byName {
			if d.seconds != nil || d.bare != nil || d.rejected > 0 {
				t.Errorf("%q: %s is no duration", line, name)
			}
		}
	}
	for i := range 3 * maxDurations {
		p.durations.named(string(rune('a'+i))+"_latency").observe([]byte("1"), 1)
	}
	if len(p.durations.byName) > maxDurations || p.durations.others == 0 {
		t.Errorf("%d names, %d values of others", len(p.durations.byName), p.durations.others)
	}
}

// check holds a parser that has read other lines before to a new one, and both
// to logscan, which the exporter uses.
func check(t *testing.T, warm *parser, line []byte) {
	t.Helper()
	var cold parser
	var got, want facts
	warm.parse(line, &got)
	cold.parse(line, &want)
	if got.at != want.at || got.level != want.level || !bytes.Equal(got.target, want.target) || !bytes.Equal(got.message, want.message) ||
		!bytes.Equal(got.detail, want.detail) || got.escaped != want.escaped {
		t.Fatalf("%q: %+v by what was learnt, else %+v", line, got, want)
	}
	if got.escaped && len(warm.pending) != len(cold.pending) {
		t.Fatalf("%q: %d durations by what was learnt, else %d", line, len(warm.pending), len(cold.pending))
	}
	if got.escaped && !json.Valid(line) {
		return // what is broken may be read further by one than by the other
	}
	if l := logscan.LevelOf(line); got.level != l {
		t.Fatalf("%q: level %d, want %d", line, got.level, l)
	}
	tm, ok := logscan.TimeOf(line)
	if at := nanoseconds(tm, ok); got.at != at {
		t.Fatalf("%q: time %d, want %d", line, got.at, at)
	}
}

func TestParseAgrees(t *testing.T) {
	t.Parallel()
	var p parser
	r := rand.New(rand.NewPCG(1, 2))
	for _, data := range [][]byte{logcorpus.JSON(1<<20, logcorpus.Dense), logcorpus.Text(1<<20, logcorpus.Dense)} {
		for line := range bytes.Lines(data) {
			line = bytes.TrimSuffix(line, []byte("\n"))
			if r.IntN(4) == 0 { // broken
				line = bytes.Clone(line[:r.IntN(len(line)+1)])
				for range r.IntN(3) {
					if len(line) > 0 {
						line[r.IntN(len(line))] = `{}[]",:\ 0`[r.IntN(10)]
					}
				}
			}
			check(t, &p, line)
		}
	}
	if p.slots == 0 {
		t.Error("nothing was learnt")
	}
}

// However lines are built, the tree stays small and is given up for a new one.
func TestParseUnknown(t *testing.T) {
	t.Parallel()
	var p parser
	r := rand.New(rand.NewPCG(3, 4))
	most := 0
	for range 3 * maxUnknown {
		line := []byte(`{"level":"INFO"`)
		for range r.IntN(5) {
			line = append(line, `,"`...)
			line = append(line, byte('a'+r.IntN(26)), byte('a'+r.IntN(26)))
			line = append(line, `":1`...)
		}
		check(t, &p, append(line, '}'))
		most = max(most, p.slots)
	}
	if most > maxSlots {
		t.Errorf("%d slots", most)
	}
}

func FuzzParse(f *testing.F) {
	for _, data := range [][]byte{logcorpus.JSON(4096, logcorpus.Dense), logcorpus.Text(4096, logcorpus.Dense)} {
		for line := range bytes.Lines(data) {
			f.Add(line[:len(line)-1], []byte(`{"level":"WARN","a":[1,{"time":"x"}]}`))
		}
	}
	f.Add(logcorpus.Dirt(rand.New(rand.NewPCG(7, 8)), 20), []byte("\x1b[1mERROR\x1b[0m a{b=c}: d=e: 5"))
	f.Fuzz(func(t *testing.T, a, b []byte) {
		var p parser
		for range 2 {
			check(t, &p, a)
			check(t, &p, b)
		}
		var folded []byte
		if folded = fold(folded, a); len(folded) > maxFolded {
			t.Fatalf("%q is folded to %d bytes", a, len(folded))
		}
		clean(a)
	})
}
