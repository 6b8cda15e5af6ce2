// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package logscan

import (
	"bytes"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/niodoo/niodoo_exporter/internal/logcorpus"
)

func TestLevelAndTime(t *testing.T) {
	t.Parallel()
	utc := func(s string) time.Time {
		v, err := time.Parse(time.RFC3339Nano, s)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	local := time.Date(2026, 1, 27, 10, 0, 5, 0, time.Local)
	for _, c := range []struct {
		line  string
		level Level
		time  time.Time
	}{
		// tracing, plain, coloured and as JSON
		{"2025-10-21T05:28:09.320323Z  INFO processing prompts through NIODOO pipeline count=5", Info, utc("2025-10-21T05:28:09.320323Z")},
		{"2025-10-21T05:28:09.497045Z  WARN collapse{dim=896}: qdrant search returned error status status=400 Bad Request", Warn, utc("2025-10-21T05:28:09.497045Z")},
		{"2025-10-21T05:28:09.4Z ERROR niodoo::memory: INFO is not the level", Error, utc("2025-10-21T05:28:09.4Z")},
		{"2025-10-21T05:28:09.4Z TRACE x", Trace, utc("2025-10-21T05:28:09.4Z")},
		{"\x1b[2m2025-10-21T05:28:11.262391Z\x1b[0m \x1b[32m INFO\x1b[0m \x1b[1mgenerate\x1b[0m: done \x1b[3mlatency_ms\x1b[0m\x1b[2m=\x1b[0m1765.2", Info, utc("2025-10-21T05:28:11.262391Z")},
		{"\x1b[2m2025-10-21T05:28:11.262391Z\x1b[0m \x1b[31mERROR\x1b[0m failed", Error, utc("2025-10-21T05:28:11.262391Z")},
		{`{"timestamp":"2026-01-27T10:00:00.123456Z","level":"ERROR","fields":{"message":"..."},"target":"niodoo::memory"}`, Error, utc("2026-01-27T10:00:00.123456Z")},
		{`{"timestamp":"2026-01-27T10:00:00.123456Z","fields":{"level":"ERROR","x":["level","ERROR"]},"level":"INFO"}`, Info, utc("2026-01-27T10:00:00.123456Z")},
		{`{"message":"\"level\":\"ERROR\" \\","level" : "warning" , "time" : "2026-01-27T10:00:00+02:00"}`, Warn, utc("2026-01-27T08:00:00Z")},
		{`{"level":"fatal","ts":1769508000.25,"msg":"bye"}`, Error, utc("2026-01-27T10:00:00.25Z")},
		{`{"timestamp":1769508000.5,"event_type":"AnomalyDetection"}`, Other, utc("2026-01-27T10:00:00.5Z")},
		{`{"event":"level","level":null,"time":"never"}`, Other, time.Time{}},
		{`{"a":"level","b":30,"level":30}`, Other, time.Time{}},
		{`{"fields":{"timestamp":"2026-01-27T10:00:00Z"}}`, Other, time.Time{}},
		{`{"timestamp":"2026-01-27T10:00:00.1`, Other, time.Time{}},
		{`{"level"`, Other, time.Time{}}, {`{"level":`, Other, time.Time{}}, {`{"level":"`, Other, time.Time{}}, {`{`, Other, time.Time{}}, {`{"`, Other, time.Time{}},
		// env_logger, shells, logfmt, other services
		{"[2025-11-01T10:00:00Z WARN  detector::core] low confidence", Warn, utc("2025-11-01T10:00:00Z")},
		{"[ERROR] out of memory", Error, time.Time{}},
		{"2026-01-27 10:00:05 - ERROR: disk full", Error, local},
		{"2026-01-27 10:00:05 - all is well", Other, local},
		{"ts=2026-01-27T10:00:00Z caller=main.go:1 level=info msg=\"an ERROR\"", Info, utc("2026-01-27T10:00:00Z")},
		{`time="2026-01-27T10:00:00Z" level="warning" msg=x`, Warn, utc("2026-01-27T10:00:00Z")},
		{"1769508000.5 DEBUG tick", Debug, utc("2026-01-27T10:00:00.5Z")},
		{"Jan 27 10:00:00 host niodoo[17]: WARNING: slow", Warn, time.Time{}},
		// neither
		{"", Other, time.Time{}}, {" ", Other, time.Time{}}, {"\x1b[", Other, time.Time{}}, {"\x1b", Other, time.Time{}},
		{"  📊 Entropy: 1.9459044923240498", Other, time.Time{}},
		{"Error: connection refused", Other, time.Time{}},
		{"a b c d e f g h ERROR", Other, time.Time{}},
		{"2025-99-99T05:28:09Z INFO x", Info, time.Time{}},
		{"123456 INFO not seconds", Info, time.Time{}},
		{"\x00\x00\x00\x002025-10-21T05:28:09Z INFO after a truncation", Info, utc("2025-10-21T05:28:09Z")},
	} {
		if got := LevelOf([]byte(c.line)); got != c.level {
			t.Errorf("%q: level %s, want %s", c.line, LevelNames[got], LevelNames[c.level])
		}
		got, ok := TimeOf([]byte(c.line))
		if ok == c.time.IsZero() || ok && got.Sub(c.time).Abs() > time.Microsecond {
			t.Errorf("%q: time %v %v, want %v", c.line, got, ok, c.time)
		}
	}
}

// FuzzLine holds that no line can stop the reading of its level and time, and
// that the stream gives the beginning of the line whole.
func FuzzLine(f *testing.F) {
	f.Add([]byte(`{"timestamp":"2026-01-27T10:00:00.123456Z","level":"ERROR","a":{"b":"\\\""}}`), 3)
	f.Add([]byte("\x1b[2m2025-10-21T05:28:11.262391Z\x1b[0m \x1b[32m INFO\x1b[0m x\n[y] level=warn\n"), 20)
	f.Add(logcorpus.Dirt(rand.New(rand.NewPCG(7, 8)), 30), 0)
	f.Fuzz(func(t *testing.T, data []byte, cut int) {
		var got []byte
		var s Stream
		each := func(l Line) {
			LevelOf(l.Head)
			TimeOf(l.Head)
			if bytes.IndexByte(l.Head, '\n') >= 0 || len(l.Head) > HeadSize {
				t.Fatalf("line %q", l.Head)
			}
			got = append(append(got, l.Head...), '\n')
		}
		if len(data) > HeadSize {
			return
		}
		at := max(0, min(cut, len(data)))
		s.Write(data[:at], each)
		s.Write(data[at:], each)
		s.Finish(each)
		if n := len(data); n > 0 && data[n-1] != '\n' {
			data = append(bytes.Clone(data), '\n')
		}
		if !bytes.Equal(got, data) {
			t.Fatalf("the lines are %q, want %q", got, data)
		}
	})
}

func BenchmarkStream(b *testing.B) {
	for name, data := range map[string][]byte{"json": logcorpus.JSON(16<<20, logcorpus.Sparse), "text": logcorpus.Text(16<<20, logcorpus.Dense)} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(data)))
			var s Stream
			var levels [NumLevels]uint64
			each := func(l Line) { levels[LevelOf(l.Head)]++ }
			for b.Loop() {
				for from := 0; from < len(data); from += ChunkSize {
					s.Write(data[from:min(len(data), from+ChunkSize)], each)
				}
			}
			if levels[Info] == 0 {
				b.Fatal("no levels found")
			}
		})
	}
}
