// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

// Package logscan reads log files: it sorts lines into the classes of the
// operations manual's log analyzer in one pass over the bytes, finds a line's
// level and time, and follows files across rotations and restarts.
package logscan

import (
	"bytes"
	"encoding/binary"
	"math/bits"
)

// Classes is a set of classes of the manual's log analyzer.
type Classes uint8

// The classes. A line may be in several, and is in each at most once.
const (
	Errors        Classes = 1 << iota // error, failed, exception in any case (ASCII)
	Performance                       // processing_time, latency, timeout
	Memory                            // memory, consolidation, retrieval
	Consciousness                     // consciousness, emotional, toroidal
	Resources                         // cpu, memory, disk, gpu

	// NumClasses is their number.
	NumClasses = 5

	everyClass Classes = 1<<NumClasses - 1
)

// ClassNames are the label values of the classes, by bit.
var ClassNames = [NumClasses]string{"errors", "performance", "memory", "consciousness", "resources"}

// word is one of the manual's search words. Two of its byte pairs, one at an
// even and one at an odd offset, lead to it: whichever way the scan, which
// looks at every other byte, is aligned with the word, it sees one of them. The
// pairs are those that are rarest in the stack's logs.
type word struct {
	text      string
	classes   Classes
	fold      bool // in any case
	even, odd int  // offsets of the pairs
}

var words = []word{
	{"error", Errors, true, 0, 1},
	{"failed", Errors, true, 0, 1},
	{"exception", Errors, true, 4, 1},
	{"processing_time", Performance, false, 10, 9},
	{"latency", Performance, false, 4, 5},
	{"timeout", Performance, false, 4, 3},
	{"memory", Memory | Resources, false, 4, 1},
	{"consolidation", Memory, false, 4, 3},
	{"retrieval", Memory, false, 6, 3},
	{"consciousness", Consciousness, false, 8, 3},
	{"emotional", Consciousness, false, 2, 1},
	{"toroidal", Consciousness, false, 0, 3},
	{"cpu", Resources, false, 0, 1},
	{"disk", Resources, false, 2, 1},
	{"gpu", Resources, false, 0, 1},
}

// longestWord is the length of the longest word.
const longestWord = len("processing_time")

// candidate is a word that a pair may belong to. Its text is compared eight
// bytes at a time: (bytes | fold) & mask == want.
type candidate struct {
	classes Classes
	offset  int // of the pair in the word
	size    int
	steps   []step
}

type step struct {
	at               int // offset in the word
	fold, mask, want uint64
}

// pairClasses maps two adjacent bytes, little endian, to the classes of the
// words they may belong to; pairCandidates to an index into candidates. They
// are built once and never change.
var pairClasses, pairCandidates, candidates = buildPairs()

func buildPairs() (classes *[1 << 16]Classes, index *[1 << 16]uint8, lists [][]candidate) {
	classes, index = new([1 << 16]Classes), new([1 << 16]uint8)
	lists = make([][]candidate, 1) // 0 is none
	for _, w := range words {
		for _, off := range []int{w.even, w.odd} {
			c := candidate{classes: w.classes, offset: off, size: len(w.text), steps: w.steps()}
			for _, p := range pairsOf(w.text[off:off+2], w.fold) {
				if index[p] == 0 {
					lists = append(lists, nil)
					index[p] = uint8(len(lists) - 1)
				}
				classes[p] |= w.classes
				lists[index[p]] = append(lists[index[p]], c)
			}
		}
	}
	return classes, index, lists
}

// pairsOf returns the two bytes as a number, in all cases if fold.
func pairsOf(text string, fold bool) []uint16 {
	a, b := uint16(text[0]), uint16(text[1])<<8
	if !fold {
		return []uint16{a | b}
	}
	const upper0, upper1 = uint16('a' - 'A'), uint16('a'-'A') << 8
	return []uint16{a | b, a&^upper0 | b, a | b&^upper1, a&^upper0 | b&^upper1}
}

// steps cuts the word into comparisons of eight bytes. The last one of a longer
// word overlaps the one before, so that none reaches past the word unless the
// word is shorter than eight bytes.
func (w word) steps() []step {
	var s []step
	for at := 0; ; at += 8 {
		if at > 0 && at+8 > len(w.text) {
			at = len(w.text) - 8
		}
		part := w.text[at:min(at+8, len(w.text))]
		var one step
		one.at = at
		for i := range len(part) {
			one.want |= uint64(part[i]) << (8 * i)
			one.mask |= 0xff << (8 * i)
			if w.fold {
				one.fold |= ('a' - 'A') << (8 * i)
			}
		}
		s = append(s, one)
		if at+8 >= len(w.text) {
			return s
		}
	}
}

// matches reports whether the word stands in buf with its pair at i.
func (c *candidate) matches(buf []byte, i int) bool {
	start := i - c.offset
	if start < 0 || start+c.size > len(buf) {
		return false
	}
	for j := range c.steps {
		s := &c.steps[j]
		at := start + s.at
		var v uint64
		if at+8 <= len(buf) {
			v = binary.LittleEndian.Uint64(buf[at:])
		} else {
			for k := len(buf) - 1; k >= at; k-- {
				v = v<<8 | uint64(buf[k])
			}
		}
		if (v|s.fold)&s.mask != s.want {
			return false
		}
	}
	return true
}

// hit is a line that ends in a buffer and is in some class.
type hit struct {
	end     int // of the line: the index of its newline
	classes Classes
}

// match appends to hits the lines of buf that end in it and are in some class,
// in their order. seen is what is known of the first line from earlier buffers;
// what is known of the unfinished last one is returned. A word that straddles
// two buffers is not seen here.
//
// The scan looks at every other byte pair; most of them belong to no word, and
// eight bytes cost four look-ups. Once a line is in a class, only the words of
// other classes are looked for until its end.
func match(hits []hit, buf []byte, seen Classes) ([]hit, Classes) {
	table := pairClasses
	i := 0
	limit := len(buf) // of the line, while it is in some class; else of the buffer
	if seen != 0 {
		limit = lineEnd(buf, 0)
	}
	need := everyClass &^ seen
	for {
		i += skip(buf[i:limit], need)
		for stop := min(i+16, limit); i+2 <= stop && need != 0; i += 2 {
			p := binary.LittleEndian.Uint16(buf[i:])
			if table[p]&need == 0 {
				continue
			}
			var found Classes
			for j := range candidates[pairCandidates[p]] {
				c := &candidates[pairCandidates[p]][j]
				if c.classes&need != 0 && c.matches(buf, i) {
					found |= c.classes
				}
			}
			if found == 0 {
				continue
			}
			if seen == 0 {
				limit = lineEnd(buf, i)
				stop = min(stop, limit)
			}
			seen |= found
			need &^= found
		}
		if need != 0 && i+2 <= limit {
			continue
		}
		if limit == len(buf) {
			return hits, seen
		}
		hits = append(hits, hit{limit, seen})
		i, limit, seen, need = limit+1, len(buf), 0, everyClass
	}
}

// skip returns how much of buf, in steps of 16 bytes, has no pair of the wanted
// classes. It is apart from match so that the loop stays in registers.
//
//go:noinline
func skip(buf []byte, need Classes) int {
	table, rest := pairClasses, buf
	for len(rest) >= 16 {
		v, w := binary.LittleEndian.Uint64(rest), binary.LittleEndian.Uint64(rest[8:])
		c := table[uint16(v)] | table[uint16(v>>16)] | table[uint16(v>>32)] | table[v>>48] |
			table[uint16(w)] | table[uint16(w>>16)] | table[uint16(w>>32)] | table[w>>48]
		if c&need != 0 {
			break
		}
		rest = rest[16:]
	}
	return len(buf) - len(rest)
}

// lineEnd returns the index of the first newline at or after i, or len(buf).
func lineEnd(buf []byte, i int) int {
	if n := bytes.IndexByte(buf[i:], '\n'); n >= 0 {
		return i + n
	}
	return len(buf)
}

// ClassesOf returns the classes of one line.
func ClassesOf(line []byte) Classes {
	_, c := match(nil, line, 0)
	return c
}

// Matches counts lines by class, in the order of [ClassNames].
type Matches [NumClasses]uint64

// Add counts a line.
func (m *Matches) Add(c Classes) {
	for ; c != 0; c &= c - 1 {
		m[bits.TrailingZeros8(uint8(c))]++
	}
}
