// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package loganalysis

import (
	"maps"
	"slices"

	"github.com/niodoo/niodoo_exporter/internal/logscan"
)

// widths are the lengths of a timeline's buckets, in seconds, each a multiple of
// the one before.
var widths = []int64{10, 60, 600, 3600, 86400, 30 * 86400, 360 * 86400}

const maxTimeline = 4096 // buckets

// bucket is what was seen in a span of time.
type bucket struct {
	lines, warnings, errors uint64
}

func (b *bucket) add(o *bucket) {
	b.lines += o.lines
	b.warnings += o.warnings
	b.errors += o.errors
}

// timeline counts lines over time. Its buckets become longer, not more, when the
// lines reach over a longer time; times without lines cost nothing.
type timeline struct {
	width   int // index of widths
	buckets map[int64]*bucket

	key  int64 // of the last one used
	last *bucket
}

func newTimeline() *timeline { return &timeline{buckets: map[int64]*bucket{}} }

// at returns the bucket of a time in Unix seconds. It is valid until the next call.
func (t *timeline) at(seconds int64) *bucket {
	key := seconds / widths[t.width]
	if t.last != nil && key == t.key {
		return t.last
	}
	b := t.buckets[key]
	if b == nil {
		for len(t.buckets) >= maxTimeline && t.width < len(widths)-1 {
			t.widen()
			key = seconds / widths[t.width]
		}
		if b = t.buckets[key]; b == nil {
			b = &bucket{}
			t.buckets[key] = b
		}
	}
	t.key, t.last = key, b
	return b
}

func (t *timeline) add(seconds int64, level logscan.Level) {
	b := t.at(seconds)
	b.lines++
	switch level {
	case logscan.Warn:
		b.warnings++
	case logscan.Error:
		b.errors++
	}
}

func (t *timeline) widen() {
	factor := widths[t.width+1] / widths[t.width]
	wider := make(map[int64]*bucket, len(t.buckets)/4)
	for key, b := range t.buckets {
		if sum := wider[key/factor]; sum != nil {
			sum.add(b)
		} else {
			wider[key/factor] = b
		}
	}
	t.width++
	t.buckets, t.last = wider, nil
}

func (t *timeline) merge(o *timeline) {
	for t.width < o.width {
		t.widen()
	}
	for key, b := range o.buckets {
		t.at(key * widths[o.width]).add(b)
	}
}

// columns returns the timeline in spans of a number of seconds, a multiple of
// the buckets' width, without gaps, and when the first begins.
func (t *timeline) columns(width int64) (start int64, columns []bucket) {
	if len(t.buckets) == 0 {
		return 0, nil
	}
	keys := slices.Collect(maps.Keys(t.buckets))
	per := width / widths[t.width]
	first, last := slices.Min(keys)/per, slices.Max(keys)/per
	columns = make([]bucket, last-first+1)
	for key, b := range t.buckets {
		columns[key/per-first].add(b)
	}
	return first * width, columns
}

// spans are lengths of a chart's columns that people can read off, in seconds.
var spans = []int64{10, 30, 60, 300, 600, 1800, 3600, 3 * 3600, 6 * 3600, 12 * 3600, 86400, 7 * 86400, 30 * 86400, 360 * 86400}

// chart returns the timeline in at most so many columns.
func (t *timeline) chart(most int) (width, start int64, columns []bucket) {
	if len(t.buckets) == 0 {
		return 0, 0, nil
	}
	keys := slices.Collect(maps.Keys(t.buckets))
	w := widths[t.width]
	first, last := slices.Min(keys)*w, slices.Max(keys)*w
	width = spans[len(spans)-1]
	for _, s := range spans {
		if s >= w && s%w == 0 && last/s-first/s < int64(most) {
			width = s
			break
		}
	}
	for last/width-first/width >= int64(most) {
		width *= 2
	}
	start, columns = t.columns(width)
	return width, start, columns
}

// hours returns the hours, or longer spans if the buckets are, that have lines.
func (t *timeline) hours() (width int64, starts []int64, hours []*bucket) {
	for t.width < len(widths)-1 && widths[t.width] < 3600 {
		t.widen()
	}
	width = widths[t.width]
	for _, key := range slices.Sorted(maps.Keys(t.buckets)) {
		starts, hours = append(starts, key*width), append(hours, t.buckets[key])
	}
	return width, starts, hours
}
