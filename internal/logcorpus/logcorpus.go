// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

// Package logcorpus makes up logs as the stack writes them, for tests and
// benchmarks. The same seed and size make the same log.
package logcorpus

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"time"
)

// event is a kind of line: where it comes from, what it says, and its fields.
type event struct {
	target, message string
	fields          []field
	span            string
}

type field struct {
	name  string
	value func(*rand.Rand) string
}

func integer(below int) func(*rand.Rand) string {
	return func(r *rand.Rand) string { return fmt.Sprint(r.IntN(below)) }
}

func decimal(below float64) func(*rand.Rand) string {
	return func(r *rand.Rand) string { return fmt.Sprintf("%.3f", r.Float64()*below) }
}

func hex(r *rand.Rand) string { return fmt.Sprintf(`"%016x"`, r.Uint64()) }

func oneOf(words ...string) func(*rand.Rand) string {
	return func(r *rand.Rand) string { return `"` + words[r.IntN(len(words))] + `"` }
}

// events have none of the words that the classes are about.
var events = []event{
	{"niodoo_real_integrated::pipeline", "processing prompts through NIODOO pipeline", []field{{"count", integer(9)}}, ""},
	{"niodoo_real_integrated::embedding", "normalized embedding to hypersphere", []field{{"dim", integer(897)}, {"norm", decimal(1)}}, "embed"},
	{"niodoo_real_integrated::generation", "generated hybrid response", []field{{"duration_ms", decimal(2000)}, {"rouge", decimal(1)}, {"request_id", hex}}, "generate"},
	{"niodoo_real_integrated::learning", "learning loop updated", []field{{"entropy", decimal(4)}, {"entropy_delta", decimal(1)}, {"rouge", decimal(1)}, {"quadrant", oneOf("Panic", "Persist", "Discover", "Master")}}, ""},
	{"niodoo_real_integrated::erag", "stored ERAG entry", []field{{"collection", oneOf("experiences", "episodes")}}, "collapse"},
	{"niodoo_api::http", "request completed", []field{{"request_id", hex}, {"status", integer(600)}, {"duration_ms", decimal(900)}, {"bytes", integer(1 << 20)}}, ""},
	{"niodoo_api::session", "session opened", []field{{"session", hex}, {"peer", oneOf("10.0.0.7:50122", "10.0.0.9:41822")}}, ""},
	{"niodoo_core::snapshot", "snapshot written", []field{{"bytes", integer(1 << 30)}, {"elapsed", oneOf("1.2s", "350ms", "2.84s")}}, "snapshot"},
}

// words bring a line into a class, in the order of the operations manual's.
var words = [...][]string{
	{"request failed", "Exception in handler", "ERROR while reading", "0 failed"},
	{"high latency seen", "upstream timeout", "slow: processing_time=812"},
	{"consolidation finished", "retrieval done", "memory layer compacted"},
	{"emotional state updated", "toroidal manifold stable", "consciousness cycle done"},
	{"cpu pinned", "disk almost full", "gpu idle", "memory pressure"},
}

// Sparse and Dense are the classes, by number, that lines of a log are in.
var (
	Sparse = []int{0, 1, 2}
	Dense  = []int{0, 1, 2, 3, 4}
)

// Chance is the percentage of lines that one of a log's classes is given to.
const Chance = 11

// line is one line before it is written down.
type line struct {
	at      time.Time
	level   string
	message string
	event   *event
}

// maker makes lines that follow each other by some tens of milliseconds.
type maker struct {
	r       *rand.Rand
	at      time.Time
	classes []int
}

func newMaker(seed uint64, classes []int) *maker {
	return &maker{rand.New(rand.NewPCG(seed, 1)), time.Date(2026, 1, 27, 10, 0, 0, 0, time.UTC), classes}
}

func (m *maker) next() line {
	m.at = m.at.Add(time.Duration(m.r.IntN(80_000)) * time.Microsecond)
	l := line{at: m.at, event: &events[m.r.IntN(len(events))], level: "INFO"}
	switch n := m.r.IntN(100); {
	case n < 20:
		l.level = "DEBUG"
	case n < 25:
		l.level = "WARN"
	case n < 27:
		l.level = "TRACE"
	}
	parts := []string{l.event.message}
	for _, c := range m.classes {
		if m.r.IntN(100) < Chance {
			parts = append(parts, words[c][m.r.IntN(len(words[c]))])
			if c == 0 && m.r.IntN(2) == 0 {
				l.level = "ERROR"
			}
		}
	}
	l.message = strings.Join(parts, ", ")
	return l
}

const stamp = "2006-01-02T15:04:05.000000Z"

// appendJSON writes a line as tracing's JSON format does.
func (m *maker) appendJSON(b []byte, l line) []byte {
	b = fmt.Appendf(b, `{"timestamp":%q,"level":%q,"fields":{"message":%q`, l.at.Format(stamp), l.level, l.message)
	for _, f := range l.event.fields {
		b = append(append(append(append(b, `,"`...), f.name...), `":`...), f.value(m.r)...)
	}
	b = fmt.Appendf(b, `},"target":%q`, l.event.target)
	if l.event.span != "" {
		n := m.r.IntN(200)
		b = fmt.Appendf(b, `,"span":{"tokens":%d,"name":%q},"spans":[{"tokens":%d,"name":%q}]`, n, l.event.span, n, l.event.span)
	}
	return append(b, "}\n"...)
}

// appendText writes a line as tracing's coloured text format does.
func (m *maker) appendText(b []byte, l line) []byte {
	const dim, bold, italic, reset = "\x1b[2m", "\x1b[1m", "\x1b[3m", "\x1b[0m"
	b = fmt.Appendf(b, dim+"%s"+reset+" \x1b[32m%5s"+reset+" ", l.at.Format(stamp), l.level)
	if l.event.span != "" {
		b = fmt.Appendf(b, bold+"%s"+reset+bold+"{"+reset+italic+"tokens"+reset+dim+"="+reset+"%d"+bold+"}"+reset+dim+":"+reset+" ", l.event.span, m.r.IntN(200))
	}
	b = fmt.Appendf(b, dim+"%s"+reset+dim+":"+reset+" %s", l.event.target, l.message)
	for _, f := range l.event.fields {
		b = fmt.Appendf(b, " "+italic+"%s"+reset+dim+"="+reset+"%s", f.name, f.value(m.r))
	}
	return append(b, '\n')
}

// WriteJSON writes at least size bytes of the documented JSON log to w. Each of
// the classes is given to [Chance] percent of the lines.
func WriteJSON(w io.Writer, size int64, classes []int) error {
	m := newMaker(1, classes)
	return m.write(w, size, m.appendJSON)
}

// WriteText writes at least size bytes of coloured tracing text to w.
func WriteText(w io.Writer, size int64, classes []int) error {
	m := newMaker(2, classes)
	return m.write(w, size, m.appendText)
}

func (m *maker) write(w io.Writer, size int64, appendLine func([]byte, line) []byte) error {
	var b []byte
	for done := int64(0); done < size; {
		b = appendLine(b[:0], m.next())
		n, err := w.Write(b)
		if done += int64(n); err != nil {
			return err
		}
	}
	return nil
}

// JSON returns what [WriteJSON] writes.
func JSON(size int, classes []int) []byte {
	var b bytes.Buffer
	_ = WriteJSON(&b, int64(size), classes) // a buffer takes everything
	return b.Bytes()
}

// Text returns what [WriteText] writes.
func Text(size int, classes []int) []byte {
	var b bytes.Buffer
	_ = WriteText(&b, int64(size), classes)
	return b.Bytes()
}

// Words are the manual's search words.
var Words = []string{
	"error", "failed", "exception", "processing_time", "latency", "timeout", "memory", "consolidation", "retrieval",
	"consciousness", "emotional", "toroidal", "cpu", "disk", "gpu",
}

// Dirt returns pieces of the words, of other bytes and of line breaks,
// thrown together: near misses, overlaps, words at every alignment.
func Dirt(r *rand.Rand, pieces int) []byte {
	var b []byte
	for range pieces {
		w := Words[r.IntN(len(Words))]
		switch r.IntN(12) {
		case 0, 1, 2:
			b = append(b, w...)
		case 3:
			b = append(b, strings.ToUpper(w)...)
		case 4: // any case
			for i := range len(w) {
				b = append(b, w[i]-byte(r.IntN(2))*('a'-'A'))
			}
		case 5:
			b = append(b, w[:r.IntN(len(w))]...)
		case 6:
			b = append(b, w[r.IntN(len(w)):]...)
		case 7: // a near miss
			at := len(b) + r.IntN(len(w))
			b = append(b, w...)
			b[at] ^= 1 << r.IntN(8)
		case 8:
			for range r.IntN(20) {
				b = append(b, byte(r.IntN(256)))
			}
		case 9:
			b = append(b, [...]string{"\x00", "\r\n", "\n\n", "\xff\xfe", "\x1b[31m", "di\u017fk", " ", "\u00e9"}[r.IntN(8)]...)
		default:
			b = append(b, '\n')
		}
	}
	return b
}
