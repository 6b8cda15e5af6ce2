// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package logscan

import "bytes"

// HeadSize is how much of a line's beginning a [Stream] keeps, in bytes: its
// level and time stand there. Classes are found in all of a line, however long.
const HeadSize = 1024

// Line is one line of a log.
type Line struct {
	// Head is the line without its newline, at most [HeadSize] bytes of it. It
	// is valid until the next line.
	Head []byte
	// Classes are the classes that the whole line is in.
	Classes Classes
}

// Stream puts the lines of a log together from chunks of any size. It holds at
// most [HeadSize] bytes of an unfinished line. The zero Stream is ready for use.
type Stream struct {
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
	hits := s.hits
	start := 0
	for {
		n := bytes.IndexByte(chunk[start:], '\n')
		if n < 0 {
			break
		}
		end := start + n
		l := Line{Head: chunk[start:min(end, start+HeadSize)]}
		if len(hits) > 0 && hits[0].end == end {
			l.Classes, hits = hits[0].classes, hits[1:]
		}
		if start == 0 && len(s.head) > 0 {
			s.keepHead(chunk[:end])
			l.Head, s.head = s.head, s.head[:0]
		}
		each(l)
		start = end + 1
	}
	s.keepHead(chunk[start:])
	s.keepTail(chunk, start)
}

// Finish ends the unfinished line, if there is one: nothing follows it.
func (s *Stream) Finish(each func(Line)) {
	if s.size > 0 {
		each(Line{Head: s.head, Classes: s.seen})
	}
	s.carry, s.head = carry{}, s.head[:0]
}

// Unfinished returns how many bytes of an unfinished line the stream was given.
func (s *Stream) Unfinished() int64 { return s.size }

func (s *Stream) keepHead(b []byte) {
	s.head = append(s.head, b[:min(len(b), HeadSize-len(s.head))]...)
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
