// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package restore

import (
	"regexp"
	"strings"
)

// statement is one SQL statement without its semicolon, taken apart.
type statement []token

// token is a word, a symbol or something quoted, as it stands in the text.
type token struct {
	// space is what stands before it.
	space, text string
}

func (s statement) String() string {
	var b strings.Builder
	for i, t := range s {
		if i > 0 {
			b.WriteString(t.space)
		}
		b.WriteString(t.text)
	}
	return b.String()
}

// is reports whether the statement begins with these words.
func (s statement) is(words ...string) bool {
	if len(s) < len(words) {
		return false
	}
	for i, w := range words {
		if !strings.EqualFold(s[i].text, w) {
			return false
		}
	}
	return true
}

// after returns the name that follows a keyword, and its place; -1 for none.
func (s statement) after(keyword string) (name string, at int) {
	for i := range len(s) - 1 {
		if strings.EqualFold(s[i].text, keyword) {
			return unquote(s[i+1].text), i + 1
		}
	}
	return "", -1
}

// onDatabase returns the statement with another database in the place of the
// one that it is about.
func (s statement) onDatabase(name string) statement {
	_, at := s.after("DATABASE")
	if at < 0 {
		return s
	}
	out := append(statement(nil), s...)
	out[at].text = quote(name)
	return out
}

// quote returns a name as an SQL identifier.
func quote(name string) string { return `"` + strings.ReplaceAll(name, `"`, `""`) + `"` }

func unquote(text string) string {
	if len(text) < 2 || text[0] != '"' {
		return text
	}
	return strings.ReplaceAll(text[1:len(text)-1], `""`, `"`)
}

// sqlToken matches the next token with the space and the comments before it:
// what pg_dump and pg_dumpall write, which is not all that SQL can be.
var sqlToken = regexp.MustCompile(`(?s)^((?:\s+|--[^\n]*(?:\n|$))*)` +
	`((?:[eE]'(?:[^'\\]|''|\\.)*')|(?:'(?:[^']|'')*')|(?:"(?:[^"]|"")*")|[\pL_][\pL\pN_$]*|.)`)

// dollarQuote matches the beginning of a text such as a function's body.
var dollarQuote = regexp.MustCompile(`(?s)^(\s*)(\$(?:[\pL_][\pL\pN_]*)?\$)`)

// metaCommand is a line for psql, such as \connect.
var metaCommand = regexp.MustCompile(`(?m)^\\.*$`)

// parseStatements takes a script of pg_dump or pg_dumpall apart that has no data in it.
func parseStatements(script string) []statement {
	script = metaCommand.ReplaceAllString(script, "")
	var (
		all     []statement
		current statement
	)
	for script != "" {
		if m := dollarQuote.FindStringSubmatch(script); m != nil {
			rest := script[len(m[0]):]
			end := strings.Index(rest, m[2])
			if end < 0 {
				break
			}
			current = append(current, token{m[1], m[2] + rest[:end] + m[2]})
			script = rest[end+len(m[2]):]
			continue
		}
		m := sqlToken.FindStringSubmatch(script)
		if m == nil {
			break // only space is left
		}
		script = script[len(m[0]):]
		if m[2] != ";" {
			current = append(current, token{m[1], m[2]})
			continue
		}
		if len(current) > 0 {
			all = append(all, current)
		}
		current = nil
	}
	return all
}
