// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package logscan

import (
	"bytes"
	"math"
	"strconv"
	"time"
)

// Level is a line's severity.
type Level uint8

// The levels, those of the stack's own logging library.
const (
	Other Level = iota // the line does not say
	Trace
	Debug
	Info
	Warn
	Error

	// NumLevels is their number.
	NumLevels = 6
)

// LevelNames are the label values of the levels.
var LevelNames = [NumLevels]string{"other", "trace", "debug", "info", "warn", "error"}

// levelWords are the spellings, in capitals. What is worse than an error is one.
var levelWords = []struct {
	word  string
	level Level
}{
	{"INFO", Info}, {"WARN", Warn}, {"ERROR", Error}, {"DEBUG", Debug}, {"TRACE", Trace},
	{"WARNING", Warn}, {"ERR", Error}, {"FATAL", Error}, {"CRITICAL", Error}, {"PANIC", Error},
}

// wordWindow bounds the search for a level in text: it stands near the beginning.
const (
	wordWindow = 160
	wordLimit  = 8
)

// LevelOf returns the level of a line: the field "level" of a JSON object; the
// word in capitals among the first words of text, which may be coloured, padded
// or in brackets; or logfmt's level=. It needs only the beginning of the line.
func LevelOf(line []byte) Level {
	if isObject(line) {
		v, _ := field(line, "level")
		return ParseLevel(v)
	}
	l, _ := TextLevel(line)
	return l
}

// TextLevel returns the level of a line of text, and where what follows the
// level begins in it: 0 if the line has no level.
func TextLevel(line []byte) (l Level, after int) {
	head := line[:min(len(line), wordWindow)]
	rest := head
	for range wordLimit {
		var w []byte
		if w, rest = nextWord(rest); len(w) == 0 {
			break
		}
		after := len(head) - len(rest)
		if v, ok := bytes.CutPrefix(w, []byte("level=")); ok {
			return ParseLevel(bytes.Trim(v, `"`)), after
		}
		if l := levelOf(bytes.TrimRight(w, ":,"), false); l != Other {
			return l, after
		}
	}
	return Other, 0
}

// ParseLevel returns the level that a word names, in any case.
func ParseLevel(word []byte) Level { return levelOf(word, true) }

func levelOf(w []byte, anyCase bool) Level {
	if len(w) < 3 || len(w) > len("CRITICAL") {
		return Other
	}
	for i := range levelWords {
		l := &levelWords[i]
		if len(l.word) == len(w) && (string(w) == l.word || anyCase && bytes.EqualFold(w, []byte(l.word))) {
			return l.level
		}
	}
	return Other
}

// nextWord cuts the first word off text. Spaces, brackets and terminal colours
// stand between words.
func nextWord(text []byte) (word, rest []byte) {
	i := 0
	for i < len(text) {
		if n := Escape(text[i:]); n > 0 {
			i += n
		} else if between(text[i]) {
			i++
		} else {
			break
		}
	}
	start := i
	for i < len(text) && !between(text[i]) && text[i] != '\x1b' {
		i++
	}
	return text[start:i], text[i:]
}

func between(c byte) bool {
	switch c {
	case ' ', '\t', '\r', '[', ']', '(', ')', '<', '>', '|', 0, '\x1b':
		return true
	}
	return false
}

// Escape returns the length of the terminal control sequence that text begins
// with: ESC [ parameters letter. It is 0 if there is none.
func Escape(text []byte) int {
	if len(text) < 2 || text[0] != '\x1b' || text[1] != '[' {
		return 0
	}
	for i := 2; i < len(text); i++ {
		switch c := text[i]; {
		case c >= 0x40 && c <= 0x7e:
			return i + 1
		case c < 0x20 || c > 0x3f:
			return 0
		}
	}
	return 0
}

// timeFields are the fields that may hold a JSON line's time.
var timeFields = []string{"timestamp", "time", "ts"}

// TimeOf returns the time a line carries: RFC 3339 or Unix seconds in the field
// timestamp, time or ts of a JSON object or as the first word of text, or
// "2006-01-02 15:04:05", which is in the local zone.
func TimeOf(line []byte) (time.Time, bool) {
	if isObject(line) {
		for _, name := range timeFields {
			if v, ok := field(line, name); ok {
				return ParseTime(v)
			}
		}
		return time.Time{}, false
	}
	first, rest := nextWord(line[:min(len(line), wordWindow)])
	for _, p := range []string{"ts=", "time=", "timestamp="} {
		first = bytes.Trim(bytes.TrimPrefix(first, []byte(p)), `"`)
	}
	second, _ := nextWord(rest)
	return parseTime(first, second)
}

// ParseTime reads RFC 3339, Unix seconds or "2006-01-02 15:04:05" in the local zone.
func ParseTime(v []byte) (time.Time, bool) { return parseTime(v, nil) }

// parseTime reads a date and time, or a date whose time is the next word, or
// seconds since 1970.
func parseTime(v, next []byte) (time.Time, bool) {
	if len(v) < len("2006-01-02") {
		return time.Time{}, false
	}
	if v[4] != '-' {
		s, err := strconv.ParseFloat(string(v), 64)
		if err != nil || s < 1e8 || s > 1e11 { // 1973 to 5138: anything else is no time of a log
			return time.Time{}, false
		}
		whole, frac := math.Modf(s)
		return time.Unix(int64(whole), int64(frac*1e9)), true
	}
	if len(v) > len("2006-01-02") {
		if t, err := time.Parse(time.RFC3339, string(v)); err == nil {
			return t, true
		}
		t, err := time.ParseInLocation("2006-01-02 15:04:05", string(v), time.Local)
		return t, err == nil
	}
	t, err := time.ParseInLocation("2006-01-02 15:04:05", string(v)+" "+string(bytes.TrimRight(next, ":,")), time.Local)
	return t, err == nil
}

func isObject(line []byte) bool { return len(line) > 0 && line[0] == '{' }

// field returns the value of a field of the object that line begins with: the
// text of a string, as it is written, or of a number. Fields of objects inside
// it do not count. It reads until it finds the field, or line ends.
func field(line []byte, name string) ([]byte, bool) {
	depth, key := 0, false // key: the next string is a field's name
	for i := 0; i < len(line); i++ {
		switch line[i] {
		case '{', '[':
			depth++
			key = line[i] == '{'
		case '}', ']':
			depth--
			key = false
		case ',':
			key = true
		case '"':
			end := stringEnd(line, i+1)
			if end < 0 {
				return nil, false
			}
			if depth == 1 && key && string(line[i+1:end]) == name {
				return fieldValue(line[end+1:])
			}
			i, key = end, false
		}
	}
	return nil, false
}

// stringEnd returns the index of the quote that ends the string at i, or -1.
func stringEnd(line []byte, i int) int {
	for i < len(line) {
		n := bytes.IndexByte(line[i:], '"')
		if n < 0 {
			return -1
		}
		i += n
		slashes := 0
		for line[i-1-slashes] == '\\' { // stops at the opening quote
			slashes++
		}
		if slashes%2 == 0 {
			return i
		}
		i++
	}
	return -1
}

// fieldValue reads what follows a field's name.
func fieldValue(rest []byte) ([]byte, bool) {
	rest = bytes.TrimLeft(rest, " \t")
	if len(rest) == 0 || rest[0] != ':' {
		return nil, false
	}
	rest = bytes.TrimLeft(rest[1:], " \t")
	if len(rest) == 0 {
		return nil, false
	}
	if rest[0] == '"' {
		end := stringEnd(rest, 1)
		if end < 0 {
			return nil, false
		}
		return rest[1:end], true
	}
	end := bytes.IndexAny(rest, ",} \t\r")
	if end < 0 {
		return nil, false
	}
	return rest[:end], true
}
