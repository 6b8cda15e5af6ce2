// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

// Package promtext reads the Prometheus text format as it is found in the
// wild: concatenated, repeated, mixed with logs and cut off. Each line stands
// or falls alone, and what falls is counted. Where text is well formed it says
// what prometheus/common/expfmt says.
package promtext

import (
	"strconv"
	"strings"
	"unicode/utf8"
)

// Limits of one line. A line beyond them is rejected, the next one is read.
const (
	maxLine   = 64 << 10
	maxLabels = 64
)

// Type is the type a TYPE line gives to a family.
type Type uint8

// The types. Untyped is a family without a TYPE line and one of a type that
// the text format does not know.
const (
	Untyped Type = iota
	Counter
	Gauge
	Histogram
	Summary
)

// Label is a label's name and its value, unescaped and valid UTF-8.
type Label struct{ Name, Value string }

// Sample is one line.
type Sample struct {
	// Name is the name on the line.
	Name string
	// Family is the name on the TYPE line that the sample belongs to: Name, or
	// Name without _bucket, _sum, _count or _total. It is Name without one.
	Family string
	// Type is the last type that the text before this line gave to Family.
	Type Type
	// Labels are in the order of the line. The slice is reused after the call.
	Labels []Label
	// Value may be NaN or infinite.
	Value float64
	// Timestamp is in milliseconds, 0 for none.
	Timestamp int64
}

// Label returns the value of a label, "" if the sample does not have it.
func (s *Sample) Label(name string) string {
	for i := range s.Labels {
		if s.Labels[i].Name == name {
			return s.Labels[i].Value
		}
	}
	return ""
}

// Reason says why a line was rejected.
type Reason uint8

// The reasons.
const (
	// Syntax: the line is not a sample: prose, CSV, a log line, a cut-off sample.
	Syntax Reason = iota
	// Value: the value or the timestamp is not a number, or too large for one.
	Value
	// TooLong: the line is longer than 64 KiB or has more than 64 labels.
	TooLong

	numReasons
)

// String returns the reason as a label's value.
func (r Reason) String() string { return [...]string{"syntax", "value", "too_long"}[r] }

// Reasons lists the closed set.
func Reasons() []Reason { return []Reason{Syntax, Value, TooLong} }

// Stats counts what became of the lines.
type Stats struct {
	// Samples is the number of samples handed out.
	Samples int
	// Rejected is the number of lines that were neither samples nor comments nor blank, by reason.
	Rejected [numReasons]int
}

// Total returns the number of rejected lines.
func (s Stats) Total() int {
	n := 0
	for _, r := range s.Rejected {
		n += r
	}
	return n
}

// Parse calls f for every sample in raw, in order. The strings in a sample
// outlive the call, the sample itself does not. HELP and unknown comments, the
// end marker of OpenMetrics and exemplars are ignored; a repeated TYPE line
// holds from there on.
func Parse(raw []byte, f func(*Sample)) Stats {
	p := parser{types: map[string]Type{}}
	rest := string(raw) // once, so that no name or value is copied alone
	for rest != "" {
		var line string
		if i := strings.IndexByte(rest, '\n'); i >= 0 {
			line, rest = rest[:i], rest[i+1:]
		} else {
			line, rest = rest, ""
		}
		line = trimLine(line)
		switch {
		case line == "":
		case line[0] == '#':
			p.comment(line)
		default:
			if reason, ok := p.sample(line); ok {
				p.stats.Samples++
				f(&p.s)
			} else {
				p.stats.Rejected[reason]++
			}
		}
	}
	return p.stats
}

type parser struct {
	types map[string]Type
	// known says that s.Name, s.Family and s.Type of the last line still hold:
	// the samples of a family follow each other.
	known bool
	s     Sample
	stats Stats
}

// trimLine removes blanks around a line, the carriage return of CRLF and a
// byte order mark.
func trimLine(line string) string {
	line = strings.TrimPrefix(line, "\ufeff")
	start, end := 0, len(line)
	for start < end && isBlank(line[start]) {
		start++
	}
	for end > start && (isBlank(line[end-1]) || line[end-1] == '\r') {
		end--
	}
	return line[start:end]
}

var typeNames = map[string]Type{"counter": Counter, "gauge": Gauge, "histogram": Histogram, "summary": Summary}

// comment takes note of a TYPE line.
func (p *parser) comment(line string) {
	if len(line) > maxLine {
		return
	}
	rest, ok := strings.CutPrefix(skipBlanks(line[1:]), "TYPE")
	if !ok || rest == "" || !isBlank(rest[0]) {
		return
	}
	name, rest := cutName(skipBlanks(rest), true)
	if name == "" || rest == "" || !isBlank(rest[0]) {
		return
	}
	p.types[name] = typeNames[strings.ToLower(skipBlanks(rest))]
	p.known = false
}

// sample reads a line into p.s.
func (p *parser) sample(line string) (Reason, bool) {
	if len(line) > maxLine {
		return TooLong, false
	}
	name, rest := cutName(line, true)
	if name == "" {
		return Syntax, false
	}
	p.s.Labels = p.s.Labels[:0]
	after := skipBlanks(rest)
	switch {
	case after != "" && after[0] == '{':
		var reason Reason
		var ok bool
		if rest, reason, ok = p.labels(after[1:]); !ok {
			return reason, false
		}
		rest = skipBlanks(rest)
	case len(after) == len(rest): // nothing between the name and what follows
		return Syntax, false
	default:
		rest = after
	}
	word, rest := cutWord(rest)
	if word == "" {
		return Syntax, false
	}
	v, ok := parseFloat(word)
	if !ok {
		return Value, false
	}
	p.s.Value, p.s.Timestamp = v, 0
	if word, rest = cutWord(skipBlanks(rest)); word != "" && word[0] != '#' {
		if p.s.Timestamp, ok = parseTimestamp(word); !ok {
			return Value, false
		}
		word, _ = cutWord(skipBlanks(rest))
	}
	if word != "" && word[0] != '#' { // an exemplar may follow, nothing else
		return Syntax, false
	}
	if !p.known || p.s.Name != name {
		p.s.Name = name
		p.s.Family, p.s.Type = p.family(name)
		p.known = true
	}
	return 0, true
}

// suffixes are what a sample's name adds to its family's, by the family's type.
var suffixes = []struct {
	suffix string
	types  [2]Type
}{
	{"_bucket", [2]Type{Histogram, Histogram}},
	{"_sum", [2]Type{Histogram, Summary}},
	{"_count", [2]Type{Histogram, Summary}},
	{"_total", [2]Type{Counter, Counter}}, // OpenMetrics
}

func (p *parser) family(name string) (string, Type) {
	if t, ok := p.types[name]; ok {
		return name, t
	}
	for _, s := range suffixes {
		base, ok := strings.CutSuffix(name, s.suffix)
		if !ok {
			continue
		}
		if t, ok := p.types[base]; ok && (t == s.types[0] || t == s.types[1]) {
			return base, t
		}
	}
	return name, Untyped
}

// labels reads labels up to the closing brace and returns what follows it.
func (p *parser) labels(rest string) (string, Reason, bool) {
	for {
		rest = skipBlanks(rest)
		if rest == "" {
			return "", Syntax, false
		}
		if rest[0] == '}' {
			return rest[1:], 0, true
		}
		if len(p.s.Labels) == maxLabels {
			return "", TooLong, false
		}
		var l Label
		l.Name, rest = cutName(rest, false)
		rest = skipBlanks(rest)
		if l.Name == "" || rest == "" || rest[0] != '=' || p.has(l.Name) {
			return "", Syntax, false
		}
		rest = skipBlanks(rest[1:])
		if rest == "" || rest[0] != '"' {
			return "", Syntax, false
		}
		var ok bool
		if l.Value, rest, ok = cutValue(rest[1:]); !ok {
			return "", Syntax, false
		}
		p.s.Labels = append(p.s.Labels, l)
		rest = skipBlanks(rest)
		switch {
		case rest != "" && rest[0] == ',':
			rest = rest[1:]
		case rest == "" || rest[0] != '}':
			return "", Syntax, false
		}
	}
}

func (p *parser) has(label string) bool {
	for i := range p.s.Labels {
		if p.s.Labels[i].Name == label {
			return true
		}
	}
	return false
}

// cutValue cuts a label's value off at its closing quote.
func cutValue(s string) (value, rest string, ok bool) {
	escaped := false
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '\\':
			escaped = true
			i++
		case '"':
			value = s[:i]
			if escaped {
				value = unescape(value)
			}
			if !utf8.ValidString(value) {
				value = strings.ToValidUTF8(value, "\uFFFD")
			}
			return value, s[i+1:], true
		}
	}
	return "", "", false
}

// unescape undoes \\, \" and \n. Another backslash stays what it is: a Windows
// path that nobody escaped.
func unescape(s string) string {
	var b strings.Builder
	b.Grow(len(s))
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+1 < len(s) {
			switch s[i+1] {
			case '\\', '"':
				i++
				b.WriteByte(s[i])
				continue
			case 'n':
				i++
				b.WriteByte('\n')
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// cutName cuts the longest valid name off; colons are for metrics only.
func cutName(s string, colon bool) (name, rest string) {
	i := 0
	for i < len(s) {
		c := s[i]
		letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '_' || colon && c == ':'
		if !letter && (i == 0 || c < '0' || c > '9') {
			break
		}
		i++
	}
	return s[:i], s[i:]
}

func cutWord(s string) (word, rest string) {
	for i := 0; i < len(s); i++ {
		if isBlank(s[i]) {
			return s[:i], s[i:]
		}
	}
	return s, ""
}

func skipBlanks(s string) string {
	for s != "" && isBlank(s[0]) {
		s = s[1:]
	}
	return s
}

func isBlank(c byte) bool { return c == ' ' || c == '\t' }

// parseFloat takes what the text format takes: decimal numbers, and NaN and
// infinity in any case, with or without a sign.
func parseFloat(s string) (float64, bool) {
	if len(s) > 64 || strings.ContainsAny(s, "pP_xX") {
		return 0, false
	}
	v, err := strconv.ParseFloat(s, 64)
	return v, err == nil
}

// parseTimestamp takes milliseconds, and OpenMetrics' seconds with a fraction.
func parseTimestamp(s string) (int64, bool) {
	if ms, err := strconv.ParseInt(s, 10, 64); err == nil {
		return ms, true
	}
	v, ok := parseFloat(s)
	if !ok || !(v > -1e15 && v < 1e15) {
		return 0, false
	}
	return int64(v * 1000), true
}
