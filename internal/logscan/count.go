// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package logscan

import (
	"bytes"
	"context"
	"errors"
	"io"
	"sync"
	"sync/atomic"
)

// Counts are the numbers of lines, in all and by class: what `grep -c` says. A
// last line without a newline is a line.
type Counts struct {
	Lines   uint64
	Matches Matches
}

func (c *Counts) add(o Counts) {
	c.Lines += o.Lines
	for i := range c.Matches {
		c.Matches[i] += o.Matches[i]
	}
}

// Counter counts the lines of one stream. It is an [io.Writer]; its memory does
// not grow with the length of a line.
type Counter struct {
	carry
	counts Counts
	hits   []hit
}

// Write implements [io.Writer]. It does not fail.
func (c *Counter) Write(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	c.hits, c.seen = match(c.hits[:0], p, c.stitch(p))
	for _, h := range c.hits {
		c.counts.Matches.add(h.classes)
	}
	c.counts.Lines += uint64(bytes.Count(p, newline))
	c.keepTail(p, bytes.LastIndexByte(p, '\n')+1)
	return len(p), nil
}

var newline = []byte{'\n'}

// Counts ends the stream and returns what was counted.
func (c *Counter) Counts() Counts {
	if c.size > 0 {
		c.counts.Lines++
		c.counts.Matches.add(c.seen)
		c.carry = carry{}
	}
	return c.counts
}

const (
	countChunk = 256 << 10 // what is read at once: it stays in the second-level cache
	countShare = 4 << 20   // what a worker takes at once
)

// Count counts the lines of the first size bytes of r with a number of workers
// side by side. Each of them holds a chunk of 256 KiB, whatever the lines are.
func Count(ctx context.Context, r io.ReaderAt, size int64, workers int) (Counts, error) {
	var (
		next  atomic.Int64
		wg    sync.WaitGroup
		mu    sync.Mutex
		total Counts
		errs  []error
	)
	for range max(1, min(workers, int((size+countShare-1)/countShare))) {
		wg.Go(func() {
			buf := make([]byte, countChunk)
			c := &Counter{}
			for {
				from := next.Add(countShare) - countShare
				if from >= size {
					return
				}
				err := c.countShare(ctx, r, buf, from, size)
				mu.Lock()
				if total.add(c.Counts()); err != nil {
					errs = append(errs, err)
				}
				mu.Unlock()
				if c.counts = (Counts{}); err != nil {
					next.Store(size)
					return
				}
			}
		})
	}
	wg.Wait()
	return total, errors.Join(errs...)
}

// countShare counts the lines that begin in the share at from, to the end of
// the last of them.
func (c *Counter) countShare(ctx context.Context, r io.ReaderAt, buf []byte, from, size int64) error {
	end := min(from+countShare, size)
	at, inside := from, true
	if from > 0 {
		at, inside = from-1, false // a newline just before makes the first byte a beginning
	}
	for at < size {
		if err := ctx.Err(); err != nil {
			return err
		}
		want := int64(len(buf))
		if at < end {
			want = min(want, end-at)
		}
		n, err := r.ReadAt(buf[:min(want, size-at)], at)
		chunk := buf[:n]
		past := at >= end // all that is wanted of it is the rest of a line
		at += int64(n)
		if !inside {
			i := bytes.IndexByte(chunk, '\n')
			if i < 0 && at >= end { // no line begins in the share
				return endOf(err)
			}
			if i >= 0 {
				chunk, inside = chunk[i+1:], true
			} else {
				chunk = nil
			}
		}
		if past {
			if i := bytes.IndexByte(chunk, '\n'); i >= 0 {
				_, _ = c.Write(chunk[:i+1])
				return nil
			}
		}
		_, _ = c.Write(chunk)
		if err != nil {
			return endOf(err)
		}
		if at >= end && c.size == 0 {
			return nil
		}
	}
	return nil
}

// endOf is the error of a read but for the end of the file, which may have
// become shorter since it was measured.
func endOf(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}
