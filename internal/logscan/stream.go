// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package logscan

import "bytes"

// HeadSize is how much of a line's beginning a [Stream] keeps, in bytes, unless
// it says otherwise: a line's level and time stand there. Classes are found in
// all of a line, however long.
const HeadSize = 1024

// Line is one line of a log.
type Line struct {
	// Head is the line without its newline, at most [Stream.Head] bytes of it.
	// It is valid until the next line.
	Head []byte
	// Size is that of the whole line without its newline, in bytes.
	Size int64
	// Classes are the classes that the whole line is in.
	Classes Classes
}

// Stream puts the lines of a log together from chunks of any size. It holds at
// most the head of an unfinished line. The zero Stream is ready for use.
type Stream struct {
	// Head is how much of a line's beginning is kept, in bytes; 0 is [HeadSize].
	Head int

	carry
	head []byte
	hits []hit
}

// carry is what is known of an unfinished line.
type carry struct {
	seen Classes
	size int64 // bytes of the line so far
	tail [longestWord - 1]byte
	n    int // bytes in tail
}

// Write takes the next chunk and calls each for every line that ends in it.
func (s *Stream) Write(chunk []byte, each func(Line)) {
	if len(chunk) == 0 {
		return
	}
	s.seen = s.stitch(chunk)
	s.hits, s.seen = match(s.hits[:0], chunk, s.seen)
	hits, before, limit := s.hits, s.size, s.limit()
	start := 0
	for {
		n := bytes.IndexByte(chunk[start:], '\n')
		if n < 0 {
			break
		}
		end := start + n
		l := Line{Head: chunk[start:min(end, start+limit)], Size: before + int64(n)}
		if len(hits) > 0 && hits[0].end == end {
			l.Classes, hits = hits[0].classes, hits[1:]
		}
		if start == 0 && len(s.head) > 0 {
			s.keepHead(chunk[:end])
			l.Head, s.head = s.head, s.head[:0]
		}
		each(l)
		start, before = end+1, 0
	}
	s.keepHead(chunk[start:])
	s.keepTail(chunk, start)
}

// Finish ends the unfinished line, if there is one: nothing follows it.
func (s *Stream) Finish(each func(Line)) {
	if s.size > 0 {
		each(Line{Head: s.head, Size: s.size, Classes: s.seen})
	}
	s.Drop()
}

// Drop forgets the unfinished line.
func (s *Stream) Drop() { s.carry, s.head = carry{}, s.head[:0] }

// Unfinished returns how many bytes of an unfinished line were given.
func (c *carry) Unfinished() int64 { return c.size }

func (s *Stream) limit() int {
	if s.Head > 0 {
		return s.Head
	}
	return HeadSize
}

func (s *Stream) keepHead(b []byte) {
	s.head = append(s.head, b[:min(len(b), s.limit()-len(s.head))]...)
}

// stitch returns the classes of the unfinished line with those words that end
// in the first bytes of chunk.
func (c *carry) stitch(chunk []byte) Classes {
	if c.n == 0 {
		return c.seen
	}
	var joint [2 * (longestWord - 1)]byte
	n := copy(joint[:], c.tail[:c.n])
	first := chunk[:min(len(chunk), longestWord-1)]
	n += copy(joint[n:], first[:lineEnd(first, 0)])
	_, seen := match(nil, joint[:n], c.seen)
	return seen
}

// keepTail keeps the last bytes of the unfinished line, which begins at start
// of the chunk, or before it if start is 0.
func (c *carry) keepTail(chunk []byte, start int) {
	rest := chunk[start:]
	if start > 0 {
		c.n, c.size = 0, 0
	}
	c.size += int64(len(rest))
	if len(rest) >= len(c.tail) {
		c.n = copy(c.tail[:], rest[len(rest)-len(c.tail):])
		return
	}
	if over := c.n + len(rest) - len(c.tail); over > 0 {
		copy(c.tail[:], c.tail[over:c.n])
		c.n -= over
	}
	c.n += copy(c.tail[c.n:], rest)
}
