// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package loganalysis

import (
	"bytes"
	"encoding/json"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/niodoo/niodoo_exporter/internal/logscan"
)

// noTime says that a line has no time of its own.
const noTime = math.MinInt64

// facts are what one line says about itself. The texts are valid until the next.
type facts struct {
	at      int64 // Unix nanoseconds, or noTime
	level   logscan.Level
	target  []byte // the module, or else the span, that wrote it
	message []byte
	detail  []byte // a JSON line's field "error"
	escaped bool   // message and detail are written as in JSON
}

// role is what a field's name says that its value is.
type role uint8

const (
	noRole role = iota
	roleTimestamp
	roleTime
	roleTS
	roleLevel
	roleTarget
	roleMessage
	roleFields
	roleDetail
	roleDuration
)

// roles are the names that matter. [durationUnit] finds durations by their name's parts.
var roles = map[string]role{
	"timestamp": roleTimestamp, "time": roleTime, "ts": roleTS, "level": roleLevel,
	"target": roleTarget, "logger": roleTarget, "module": roleTarget,
	"message": roleMessage, "msg": roleMessage, "fields": roleFields, "error": roleDetail, "err": roleDetail,
}

// key is a field's name and what it means.
type key struct {
	name     string
	role     role
	unit     float64 // of a duration, in seconds; 0 if the name does not say
	duration *duration
}

const maxKeyLength = 64

// unnamed is the key of what is not looked at.
var unnamed key

// parser reads lines. It remembers what it has seen last, since lines resemble
// each other.
type parser struct {
	keys      [256]key // the names last met, by a hash
	durations durations
	minute    [len("2006-01-02T15:04")]byte
	minuteAt  int64 // Unix nanoseconds of that minute
	plain     []byte
	root      slot      // of what JSON lines are built like
	slots     int       // in the tree
	unknown   int       // lines that were not built as one before
	times     [3][]byte // a JSON line's fields timestamp, time and ts
	pending   []pendingValue
}

// parse fills f with what the line says, and counts the durations in it.
func (p *parser) parse(line []byte, f *facts) {
	*f = facts{at: noTime}
	if len(line) > 0 && line[0] == '{' {
		p.object(line, f)
	} else {
		p.text(line, f)
	}
}

// key returns what a field's name means.
func (p *parser) key(name []byte) *key {
	n := len(name)
	if n == 0 || n > maxKeyLength {
		return &unnamed
	}
	k := &p.keys[uint8(n*31)^name[0]*7^name[n-1]*13^name[n/2]]
	if k.name != string(name) {
		*k = key{name: string(name), role: roles[string(name)]}
		if k.role == noRole {
			if unit, ok := durationUnit(k.name); ok {
				k.role, k.unit, k.duration = roleDuration, unit, p.durations.named(k.name)
			}
		}
	}
	return k
}

// object reads a JSON object. As in [logscan.LevelOf], a name's first value in
// the outermost object counts.
func (p *parser) object(b []byte, f *facts) {
	if !p.follow(b, f) {
		p.learn(b, f)
	}
	f.escaped = true
	for i := range p.pending {
		p.pending[i].duration.observe(p.pending[i].value, p.pending[i].unit)
	}
	for i := range p.times {
		if p.times[i] != nil {
			f.at = p.time(p.times[i])
			break
		}
	}
}

// slot is a value's place in a JSON line, known by the values before it and the
// bytes between. The lines of a program are built in few ways, which make a
// tree: to follow it costs a third of reading a line as if nothing were known.
type slot struct {
	before   []byte // what stands between the last value and this one
	quoted   bool
	role     role // noRole where the value does not matter
	unit     float64
	duration *duration

	next  []*slot  // the values that may follow
	tails [][]byte // what may follow if this is the last one
}

// Limits of the tree. Beyond them nothing more is learnt, until so many lines
// were not known that another tree may serve better.
const (
	maxSlots   = 512
	maxNext    = 16
	maxBefore  = 256 // bytes
	maxUnknown = 10_000
)

// follow fills f from a line that is built as one before. It reports whether
// the line is.
func (p *parser) follow(b []byte, f *facts) bool {
	p.times = [3][]byte{}
	p.pending = p.pending[:0]
	s, at := &p.root, 0
	for {
		next := s.after(b[at:])
		if next == nil {
			for _, t := range s.tails {
				if string(t) == string(b[at:]) {
					return true
				}
			}
			return false
		}
		s = next
		at += len(s.before)
		end := at
		if s.quoted {
			n := bytes.IndexByte(b[at:], '"')
			if n > 0 && b[at+n-1] == '\\' {
				n = quoteEnd(b, at) - at
			}
			if n < 0 {
				return false
			}
			end += n
		} else if end = wordEnd(b, at); end < 0 {
			return false
		}
		if s.role != noRole {
			p.take(s, b[at:end], f)
		}
		at = end
	}
}

// after returns the slot of the next value in b, or nil if it is not known.
func (s *slot) after(b []byte) *slot {
	for i, c := range s.next {
		n := len(c.before)
		if len(b) <= n || string(b[:n]) != string(c.before) {
			continue
		}
		if first := b[n]; !c.quoted && (first == '"' || first == '{' || first == '[') {
			continue
		}
		if i > 0 { // frequent ones come to the front
			s.next[i-1], s.next[i] = c, s.next[i-1]
		}
		return c
	}
	return nil
}

// grow returns the slot after s that is as c, which is added if it is new, or
// nil if there is no room.
func (p *parser) grow(s, c *slot, before []byte) *slot {
	if s == nil {
		return nil
	}
	for _, n := range s.next {
		if n.quoted == c.quoted && string(n.before) == string(before) {
			return n
		}
	}
	if p.slots >= maxSlots || len(s.next) >= maxNext || len(before) > maxBefore {
		return nil
	}
	p.slots++
	added := *c
	added.before = bytes.Clone(before)
	s.next = append(s.next, &added)
	return &added
}

// learn reads a JSON object that is built in a new way, and remembers that way.
func (p *parser) learn(b []byte, f *facts) {
	*f = facts{at: noTime}
	p.times = [3][]byte{}
	p.pending = p.pending[:0]
	if p.unknown++; p.unknown > maxUnknown {
		p.root, p.slots, p.unknown = slot{}, 0, 0
	}
	p.read(b, f)
}

// pendingValue is a duration that counts once the line is known to be read.
type pendingValue struct {
	duration *duration
	value    []byte
	unit     float64
}

// take notes the value of a slot.
func (p *parser) take(s *slot, v []byte, f *facts) {
	switch s.role {
	case roleDuration:
		p.pending = append(p.pending, pendingValue{s.duration, v, s.unit})
	case roleTimestamp, roleTime, roleTS:
		p.times[s.role-roleTimestamp] = v
	case roleLevel:
		f.level = logscan.ParseLevel(v)
	case roleTarget:
		f.target = v
	case roleMessage:
		f.message = v
	case roleDetail:
		f.detail = v
	}
}

// read reads a JSON object in one pass, as far as it is whole, and adds what it
// meets to the tree.
func (p *parser) read(b []byte, f *facts) {
	at := &p.root
	behind := 0   // the last value
	var seen uint // roles, by bit
	depth, wantKey, fields := 0, false, false
	for i := 0; i < len(b); {
		switch b[i] {
		case '{', '[':
			depth++
			wantKey = b[i] == '{'
		case '}', ']':
			depth--
			wantKey = false
			fields = fields && depth > 1
		case ',':
			wantKey = true
		case '"':
			end := quoteEnd(b, i+1)
			if end < 0 {
				return
			}
			name := b[i+1 : end]
			i = end + 1
			if !wantKey {
				continue
			}
			wantKey = false
			v := skipSpace(b, i)
			if v == len(b) || b[v] != ':' {
				continue
			}
			v = skipSpace(b, v+1)
			if v == len(b) {
				return
			}
			k := p.key(name)
			if b[v] == '{' || b[v] == '[' {
				fields = fields || depth == 1 && k.role == roleFields && b[v] == '{'
				i = v
				continue
			}
			s := slot{role: k.role, unit: k.unit, duration: k.duration, quoted: b[v] == '"'}
			switch k.role {
			case roleFields:
				s.role = noRole
			case roleTimestamp, roleTime, roleTS, roleLevel, roleTarget:
				if depth != 1 {
					s.role = noRole
				}
			case roleMessage, roleDetail:
				if depth != 1 && (depth != 2 || !fields) {
					s.role = noRole
				}
			}
			if s.role != noRole && s.role != roleDuration {
				if seen&(1<<s.role) != 0 {
					s.role = noRole
				}
				seen |= 1 << s.role
			}
			if s.quoted {
				v++
				end = quoteEnd(b, v)
			} else {
				end = wordEnd(b, v)
			}
			if end < 0 {
				if s.role == roleMessage && s.quoted { // of a line longer than what is looked at
					f.message = b[v:]
				}
				return
			}
			p.take(&s, b[v:end], f)
			at = p.grow(at, &s, b[behind:v])
			behind = end
			if i = end; s.quoted {
				i++
			}
			continue
		}
		i++
	}
	if at != nil && depth == 0 && len(at.tails) < maxNext && len(b)-behind <= maxBefore {
		at.tails = append(at.tails, bytes.Clone(b[behind:]))
	}
}

// wordEnd returns the index behind the number or word at i, or -1 if nothing
// ends it.
func wordEnd(b []byte, i int) int {
	for ; i < len(b); i++ {
		switch b[i] {
		case ',', '}', ' ', '\t', '\r':
			return i
		}
	}
	return -1
}

// quoteEnd returns the index of the quote that ends the string at i, or -1.
func quoteEnd(b []byte, i int) int {
	for start := i; ; i++ {
		n := bytes.IndexByte(b[i:], '"')
		if n < 0 {
			return -1
		}
		i += n
		slashes := 0
		for i-1-slashes >= start && b[i-1-slashes] == '\\' {
			slashes++
		}
		if slashes%2 == 0 {
			return i
		}
	}
}

func skipSpace(b []byte, i int) int {
	for i < len(b) && (b[i] == ' ' || b[i] == '\t') {
		i++
	}
	return i
}

// text reads a line of text: time and level first, then, as tracing and
// env_logger write them, spans and target, then the message and fields.
func (p *parser) text(b []byte, f *facts) {
	f.at = p.leadingTime(b)
	level, after := logscan.TextLevel(b)
	f.level = level
	rest := b[after:]
	if bytes.IndexByte(rest, '\x1b') >= 0 {
		p.plain = appendPlain(p.plain[:0], rest)
		rest = p.plain
	}
	f.message = rest
	if after > 0 {
		f.target, f.message = cutTarget(rest)
	}
	p.textFields(rest, f)
}

// appendPlain appends text without terminal colours.
func appendPlain(dst, text []byte) []byte {
	for {
		i := bytes.IndexByte(text, '\x1b')
		if i < 0 {
			return append(dst, text...)
		}
		dst = append(dst, text[:i]...)
		n := max(1, logscan.Escape(text[i:]))
		text = text[i+n:]
	}
}

// maxPrefixes bounds how many spans are looked at before a message.
const maxPrefixes = 16

// cutTarget cuts `span{field=value}:span: module::path: ` and `module::path] `
// off a message. The target is the last of these that is a path, or else the
// innermost span.
func cutTarget(text []byte) (target, message []byte) {
	text = bytes.TrimLeft(text, " \t:-")
	isPath := false
	for range maxPrefixes {
		end := 0
		for end < len(text) && isTargetByte(text[end]) {
			end++
		}
		name := bytes.TrimRight(text[:end], ":")
		if len(name) == 0 || end == len(text) {
			break
		}
		path := bytes.Contains(name, []byte("::"))
		switch {
		case text[end] == '{':
			n := bytes.Index(text[end:], []byte("}:"))
			if n < 0 {
				return target, text
			}
			end += n + 2
		case text[end] == ']':
			end++
		case end > len(name) && (text[end] == ' ' || text[end] == '\t') && (path || isSnake(name)):
		default:
			return target, text
		}
		if path || !isPath {
			target, isPath = name, path
		}
		text = bytes.TrimLeft(text[end:], " \t")
	}
	return target, text
}

func isTargetByte(c byte) bool {
	return isAlnum(c) || c == '_' || c == ':' || c == '.' || c == '-' || c == '/' || c == '$'
}

// isSnake reports whether a name is written as modules and spans are.
func isSnake(name []byte) bool {
	for _, c := range name {
		if c >= 'A' && c <= 'Z' || c == '.' || c == '/' || c == '$' {
			return false
		}
	}
	return name[0] < '0' || name[0] > '9'
}

// textFields looks at every `name=value` and `name: number`.
func (p *parser) textFields(text []byte, f *facts) {
	for i := 0; ; i++ {
		n := bytes.IndexByte(text[i:], '=')
		if n < 0 {
			break
		}
		i += n
		switch k := p.key(nameBefore(text, i)); k.role {
		case roleDuration:
			k.duration.observe(valueAt(text, i+1), k.unit)
		case roleTarget:
			if f.target == nil {
				f.target = valueAt(text, i+1)
			}
		case roleMessage:
			f.message = valueAt(text, i+1)
		}
	}
	for i := 0; ; i++ {
		n := bytes.Index(text[i:], []byte(": "))
		if n < 0 {
			break
		}
		i += n
		if i+2 < len(text) && text[i+2] >= '0' && text[i+2] <= '9' {
			if k := p.key(nameBefore(text, i)); k.role == roleDuration {
				k.duration.observe(valueAt(text, i+2), k.unit)
			}
		}
	}
}

// nameBefore returns the name that ends at i.
func nameBefore(text []byte, i int) []byte {
	start := i
	for start > 0 && (isAlnum(text[start-1]) || text[start-1] == '_' || text[start-1] == '.') {
		start--
	}
	return text[start:i]
}

// valueAt returns the value at i: to its closing quote, or to the next space.
func valueAt(text []byte, i int) []byte {
	if i < len(text) && text[i] == '"' {
		if end := quoteEnd(text, i+1); end >= 0 {
			return text[i+1 : end]
		}
	}
	end := i
	for end < len(text) {
		switch text[end] {
		case ' ', '\t', '\r', ',', ';', ')', '}', ']':
			return text[i:end]
		}
		end++
	}
	return text[i:]
}

// leadingTime returns the time at the beginning of a line of text.
func (p *parser) leadingTime(b []byte) int64 {
	start := 0
	if len(b) > 0 && b[0] == '\x1b' {
		start = logscan.Escape(b)
	} else if len(b) > 0 && b[0] == '[' {
		start = 1
	}
	if at, n := p.zulu(b[start:]); n > 0 && (start+n == len(b) || isSeparator(b[start+n])) {
		return at
	}
	t, ok := logscan.TimeOf(b)
	return nanoseconds(t, ok)
}

func isSeparator(c byte) bool { return c == ' ' || c == '\t' || c == ']' || c == '\x1b' || c == '\r' }

// time returns the time that is written in v.
func (p *parser) time(v []byte) int64 {
	if at, n := p.zulu(v); n > 0 && n == len(v) {
		return at
	}
	t, ok := logscan.ParseTime(v)
	return nanoseconds(t, ok)
}

// zulu reads 2006-01-02T15:04:05.999999999Z and returns its length, 0 if b does
// not begin with it. Only the first line of a minute costs much.
func (p *parser) zulu(b []byte) (at int64, n int) {
	const minute, second = len("2006-01-02T15:04"), len("2006-01-02T15:04:05")
	if len(b) <= second || b[minute] != ':' || b[10] != 'T' {
		return 0, 0
	}
	if [minute]byte(b) != p.minute {
		t, err := time.Parse("2006-01-02T15:04", string(b[:minute]))
		if err != nil || nanoseconds(t, true) == noTime {
			return 0, 0
		}
		p.minute, p.minuteAt = [minute]byte(b), t.UnixNano()
	}
	tens, ones := b[minute+1]-'0', b[minute+2]-'0'
	if tens > 5 || ones > 9 {
		return 0, 0
	}
	at = p.minuteAt + int64(tens*10+ones)*1e9
	n = second
	if b[n] == '.' {
		unit := int64(1e8)
		for n++; n < len(b) && b[n]-'0' <= 9; n++ {
			at += int64(b[n]-'0') * unit
			unit /= 10
		}
		if n == second+1 {
			return 0, 0
		}
	}
	if n == len(b) || b[n] != 'Z' {
		return 0, 0
	}
	return at, n + 1
}

// nanoseconds returns a time in Unix nanoseconds. What is before 1970 or after
// 2262, which nanoseconds cannot say, is no time of a log.
func nanoseconds(t time.Time, ok bool) int64 {
	if s := t.Unix(); !ok || s < 0 || s >= math.MaxInt64/int64(time.Second) {
		return noTime
	}
	return t.UnixNano()
}

// unescape returns the text of a JSON string that is written without its quotes.
func unescape(v []byte) []byte {
	if bytes.IndexByte(v, '\\') < 0 {
		return v
	}
	var s string
	if json.Unmarshal([]byte(`"`+string(v)+`"`), &s) != nil {
		return v // cut off, or not JSON
	}
	return []byte(s)
}

// durationWords are what a duration's name contains, durationEnds what it may
// end with instead, before the unit.
var (
	durationWords = []string{"latency", "duration", "elapsed"}
	durationEnds  = []string{"took", "processing_time", "response_time", "retrieval_time"}
)

// unitNames are the endings of names that say a unit, in seconds.
var unitNames = []struct {
	ending  string
	seconds float64
}{
	{"_ms", 1e-3}, {"_millis", 1e-3}, {"_msec", 1e-3}, {"_milliseconds", 1e-3},
	{"_us", 1e-6}, {"_micros", 1e-6}, {"_usec", 1e-6}, {"_microseconds", 1e-6},
	{"_ns", 1e-9}, {"_nanos", 1e-9}, {"_nanoseconds", 1e-9},
	{"_s", 1}, {"_sec", 1}, {"_secs", 1}, {"_seconds", 1},
}

// durationUnit reports whether a field's name is that of a duration, and in
// which unit: 0 if it does not say.
func durationUnit(name string) (unit float64, ok bool) {
	stem := strings.ToLower(name)
	for _, u := range unitNames {
		if s, found := strings.CutSuffix(stem, u.ending); found {
			stem, unit = s, u.seconds
			break
		}
	}
	for _, w := range durationWords {
		if strings.Contains(stem, w) {
			return unit, true
		}
	}
	for _, e := range durationEnds {
		if strings.HasSuffix(stem, e) {
			return unit, true
		}
	}
	return unit, unit > 0 && strings.HasSuffix(stem, "_time")
}

// maxDurations bounds how many names of durations have figures of their own.
const maxDurations = 32

// durations are the durations found, by the name of their field.
type durations struct {
	byName map[string]*duration
	others uint64 // values of names beyond the limit
}

// duration is one field's values.
type duration struct {
	seconds, bare *histogram // with a unit, and without
	rejected      uint64     // no number, negative, or longer than any duration
	others        *uint64    // of the field that stands for all those beyond the limit
}

func (d *durations) named(name string) *duration {
	name = strings.ToLower(name)
	if f := d.byName[name]; f != nil {
		return f
	}
	if len(d.byName) >= maxDurations {
		return &duration{others: &d.others}
	}
	if d.byName == nil {
		d.byName = map[string]*duration{}
	}
	f := &duration{}
	d.byName[name] = f
	return f
}

// longest is the longest duration that is believed, in seconds: what is longer
// is a point in time.
const longest = 365 * 86400

// observe counts a value that is written as in Go, Rust or JSON, with or without
// a unit; unit is the name's.
func (f *duration) observe(v []byte, unit float64) {
	if f.others != nil {
		*f.others++
		return
	}
	if string(v) == "null" || len(v) == 0 {
		return
	}
	n, rest := number(v)
	if len(rest) > 0 {
		if unit = unitOf(rest); unit == 0 {
			d, err := time.ParseDuration(string(v))
			if err != nil {
				f.rejected++
				return
			}
			n, unit = d.Seconds(), 1
		}
	}
	h := &f.bare
	if unit > 0 {
		n *= unit
		h = &f.seconds
	}
	if !(n >= 0 && n < longest) {
		f.rejected++
		return
	}
	if *h == nil {
		*h = &histogram{}
	}
	(*h).add(n)
}

func unitOf(text []byte) float64 {
	switch string(text) {
	case "ms":
		return 1e-3
	case "s":
		return 1
	case "us", "µs", "μs":
		return 1e-6
	case "ns":
		return 1e-9
	}
	return 0
}

var powers = [...]float64{1, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8, 1e-9, 1e-10, 1e-11, 1e-12, 1e-13, 1e-14, 1e-15}

// number reads the decimal number that v begins with, to about 15 digits, and
// returns what follows it. It is NaN if there is none.
func number(v []byte) (n float64, rest []byte) {
	var mantissa int64
	digits, point, i := 0, -1, 0
	for ; i < len(v); i++ {
		c := v[i]
		if c == '.' && point < 0 {
			point = i
			continue
		}
		if c < '0' || c > '9' {
			break
		}
		mantissa = mantissa*10 + int64(c-'0')
		digits++
		if digits == 18 {
			return slowNumber(v)
		}
	}
	if i < len(v) && (v[i] == 'e' || v[i] == 'E' || v[i] == '-' || v[i] == '+') {
		return slowNumber(v)
	}
	if digits == 0 {
		return math.NaN(), v
	}
	decimals := 0
	if point >= 0 {
		decimals = i - 1 - point
	}
	if decimals >= len(powers) {
		return slowNumber(v)
	}
	return float64(mantissa) * powers[decimals], v[i:]
}

func slowNumber(v []byte) (float64, []byte) {
	end := 0
	for end < len(v) && (v[end] >= '0' && v[end] <= '9' || bytes.IndexByte([]byte(".eE+-"), v[end]) >= 0) {
		end++
	}
	n, err := strconv.ParseFloat(string(v[:end]), 64)
	if err != nil {
		return math.NaN(), v
	}
	return n, v[end:]
}
