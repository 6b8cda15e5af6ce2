// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package loganalysis

import "bytes"

const (
	maxMessage = 512 // bytes of a message that are looked at
	maxFolded  = 240 // bytes of a folded one
)

// What stands for the parts of a message that change from time to time.
const (
	foldedNumber = "<n>"
	foldedID     = "<id>"
	foldedQuote  = `"…"`
)

// fold appends a message to dst with what differs each time taken out: numbers,
// identifiers and what is in quotes. Equal messages become equal.
func fold(dst, msg []byte) []byte {
	msg = msg[:min(len(msg), maxMessage)]
	start := len(dst)
	for i := 0; i < len(msg) && len(dst)-start < maxFolded; {
		c := msg[i]
		switch {
		case isAlnum(c):
			end := i + 1
			for end < len(msg) && (isAlnum(msg[end]) || msg[end] == '_') {
				end++
			}
			if n := uuidLength(msg[i:]); n > 0 {
				end = i + n
				dst = append(dst, foldedID...)
			} else {
				dst = foldWord(dst, msg[i:end])
			}
			i = end
		case c == '"' || c == '`' || c == '\'' && (i == 0 || !isAlnum(msg[i-1])):
			n := bytes.IndexByte(msg[i+1:], c)
			if n < 0 {
				dst = append(dst, c)
				i++
				continue
			}
			dst = append(dst, foldedQuote...)
			i += n + 2
		case c < ' ' || c == 0x7f:
			dst = append(dst, ' ')
			i++
		default:
			dst = append(dst, c)
			i++
		}
	}
	if over := len(dst) - start - maxFolded; over > 0 {
		dst = dst[:len(dst)-over]
	}
	return bytes.TrimRight(dst, " ")
}

// foldWord appends a word of letters, digits and underscores.
func foldWord(dst, w []byte) []byte {
	var digits, hex, runs int
	inside := false
	for _, c := range w {
		d := c >= '0' && c <= '9'
		if d {
			digits++
			if !inside {
				runs++
			}
		}
		inside = d
		if d || c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F' {
			hex++
		}
	}
	switch {
	case digits == 0 && (hex < len(w) || len(w) < 16):
		return append(dst, w...)
	case digits == len(w):
		return appendNumber(dst)
	case len(w) >= 8 && hex == len(w), len(w) > 2 && w[0] == '0' && w[1]|0x20 == 'x', runs > 1 && len(w) >= 6:
		return append(dst, foldedID...)
	}
	inside = false
	for _, c := range w {
		if c < '0' || c > '9' {
			dst = append(dst, c)
			inside = false
		} else if !inside {
			dst = appendNumber(dst)
			inside = true
		}
	}
	return dst
}

// appendNumber appends a number, of which dst may have the part before the point.
func appendNumber(dst []byte) []byte {
	if bytes.HasSuffix(dst, []byte(foldedNumber+".")) {
		return dst[:len(dst)-1]
	}
	return append(dst, foldedNumber...)
}

// uuidLength returns the length of the UUID that b begins with, or 0.
func uuidLength(b []byte) int {
	const length = 36
	if len(b) < length || b[8] != '-' || len(b) > length && isAlnum(b[length]) {
		return 0
	}
	for i, c := range b[:length] {
		if dash := i == 8 || i == 13 || i == 18 || i == 23; dash != (c == '-') || !dash && !isHex(c) {
			return 0
		}
	}
	return length
}

func isAlnum(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
}

func isHex(c byte) bool {
	return c >= '0' && c <= '9' || c|0x20 >= 'a' && c|0x20 <= 'f'
}
