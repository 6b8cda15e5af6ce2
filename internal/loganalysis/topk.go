// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package loganalysis

import (
	"container/heap"
	"slices"

	"github.com/niodoo/niodoo_exporter/internal/logscan"
)

// counter is what is known of one of many things: a message, a target.
type counter struct {
	key         string
	count, over uint64 // the true count is at least count-over
	levels      [logscan.NumLevels]uint64
	first, last int64 // Unix nanoseconds, [noTime] if none was seen
	example     []byte
	place       place // of the example

	ranked uint64 // the count that the heap knows, at most count
}

// place is where a line stands, among all inputs.
type place struct {
	input int
	order int64
}

func (p place) before(o place) bool {
	return p.input < o.input || p.input == o.input && p.order < o.order
}

func (c *counter) seen(at int64) {
	if at == noTime {
		return
	}
	if c.first == noTime || at < c.first {
		c.first = at
	}
	if c.last == noTime || at > c.last {
		c.last = at
	}
}

// topK counts the most frequent of any number of things in bounded memory, by
// the space-saving method (Metwally, Agrawal, El Abbadi 2005): it has a fixed
// number of counters, and a thing that is new takes over the counter with the
// lowest count. What happens more than one in so many times is never lost.
type topK struct {
	size   int
	index  map[string]*counter
	ranked ranking
}

func newTopK(size int) *topK { return &topK{size: size, index: make(map[string]*counter)} }

// count counts key once. isNew reports whether its counter was just taken.
func (t *topK) count(key []byte) (c *counter, isNew bool) {
	if c := t.index[string(key)]; c != nil {
		c.count++
		return c, false
	}
	if len(t.ranked) < t.size {
		c = &counter{key: string(key), count: 1, ranked: 1, first: noTime, last: noTime}
		heap.Push(&t.ranked, c)
	} else {
		c = t.lowest()
		delete(t.index, c.key)
		*c = counter{key: string(key), count: c.count + 1, over: c.count, ranked: c.count + 1, first: noTime, last: noTime, example: c.example[:0]}
		heap.Fix(&t.ranked, 0)
	}
	t.index[c.key] = c
	return c, true
}

// lowest returns the counter with the lowest count. The heap learns of counts
// that have risen only when it matters.
func (t *topK) lowest() *counter {
	for {
		c := t.ranked[0]
		if c.ranked == c.count {
			return c
		}
		c.ranked = c.count
		heap.Fix(&t.ranked, 0)
	}
}

// floor is how often something that has no counter may have been seen.
func (t *topK) floor() uint64 {
	if len(t.ranked) < t.size {
		return 0
	}
	return t.lowest().count
}

// mergeTop returns the counters of all, the most frequent first, and how often
// something that is not among them may have been seen.
func mergeTop(all []*topK) (merged []*counter, bound uint64) {
	floors := make([]uint64, len(all))
	sums := map[string]*counter{}
	for i, t := range all {
		floors[i] = t.floor()
		bound += floors[i]
		for _, c := range t.ranked {
			sums[c.key] = nil
		}
	}
	for key := range sums {
		sum := &counter{key: key, first: noTime, last: noTime}
		for i, t := range all {
			c := t.index[key]
			if c == nil {
				sum.count += floors[i]
				sum.over += floors[i]
				continue
			}
			sum.count += c.count
			sum.over += c.over
			for l, n := range c.levels {
				sum.levels[l] += n
			}
			sum.seen(c.first)
			sum.seen(c.last)
			if sum.example == nil || c.place.before(sum.place) {
				sum.example, sum.place = c.example, c.place
			}
		}
		merged = append(merged, sum)
	}
	slices.SortFunc(merged, func(a, b *counter) int {
		switch {
		case a.count != b.count && a.count > b.count:
			return -1
		case a.count != b.count:
			return 1
		case a.key < b.key:
			return -1
		}
		return 1
	})
	return merged, bound
}

// ranking is a heap of counters, the lowest first.
type ranking []*counter

func (r ranking) Len() int           { return len(r) }
func (r ranking) Less(i, j int) bool { return r[i].ranked < r[j].ranked }
func (r ranking) Swap(i, j int)      { r[i], r[j] = r[j], r[i] }
func (r *ranking) Push(x any)        { *r = append(*r, x.(*counter)) }
func (r *ranking) Pop() any          { panic("a counter is never given up") }
