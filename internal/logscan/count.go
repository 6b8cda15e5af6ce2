// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package logscan

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
)

// Counts are the numbers of lines, in all and by class: what `grep -c` says. A
// last line without a newline is a line.
type Counts struct {
	Lines   uint64
	Matches Matches
}

// Add adds another stream's counts.
func (c *Counts) Add(o Counts) {
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
		c.counts.Matches.Add(h.classes)
	}
	c.counts.Lines += uint64(bytes.Count(p, newline))
	c.keepTail(p, bytes.LastIndexByte(p, '\n')+1)
	return len(p), nil
}

var newline = []byte{'\n'}

// Counts ends the stream and returns what was counted.
func (c *Counter) Counts() Counts {
	c.endLine()
	return c.counts
}

func (c *Counter) endLine() {
	if c.size > 0 {
		c.counts.Lines++
		c.counts.Matches.Add(c.seen)
		c.carry = carry{}
	}
}

// Count counts the lines of the first size bytes of r with a number of workers
// side by side. Each of them holds one chunk, whatever the lines are.
func Count(ctx context.Context, r io.ReaderAt, size int64, workers int) (Counts, error) {
	return count(ctx, size, workers, func() (View, func()) { return ReadView(r, make([]byte, ChunkSize)), func() {} })
}

// CountFile counts the lines of a regular file with a number of workers side by
// side, through a [Window] each; if that cannot be, or the file becomes shorter
// meanwhile, by [Count].
func CountFile(ctx context.Context, f *os.File, workers int) (Counts, error) {
	info, err := f.Stat()
	if err != nil {
		return Counts{}, err
	}
	if !info.Mode().IsRegular() {
		return Counts{}, fmt.Errorf("%s: %w", f.Name(), errNotRegular)
	}
	total, err := countMapped(ctx, f, info.Size(), workers)
	if errors.Is(err, ErrNotMapped) {
		return Count(ctx, f, info.Size(), workers)
	}
	return total, err
}

func countMapped(ctx context.Context, f *os.File, size int64, workers int) (Counts, error) {
	return count(ctx, size, workers, func() (View, func()) {
		w := &Window{File: f, Size: size}
		return w.View, w.Close
	})
}

// count has every worker take one share after the other. newView returns a
// worker's way to the bytes, and what ends it.
func count(ctx context.Context, size int64, workers int, newView func() (View, func())) (Counts, error) {
	var (
		next  atomic.Int64
		wg    sync.WaitGroup
		mu    sync.Mutex
		total Counts
		errs  []error
	)
	for range max(1, min(workers, int((size+ShareSize-1)/ShareSize))) {
		wg.Go(func() {
			view, end := newView()
			defer end()
			c := &Counter{}
			err := Guard(func() error {
				for {
					from := next.Add(ShareSize) - ShareSize
					if from >= size {
						return nil
					}
					if _, err := ReadShare(ctx, view, from, size, c); err != nil {
						return err
					}
					c.endLine()
				}
			})
			if err != nil {
				next.Store(size)
			}
			mu.Lock()
			defer mu.Unlock()
			if total.Add(c.Counts()); err != nil {
				errs = append(errs, err)
			}
		})
	}
	wg.Wait()
	return total, errors.Join(errs...)
}
