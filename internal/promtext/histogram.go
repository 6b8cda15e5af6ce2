// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package promtext

import (
	"cmp"
	"math"
	"slices"
	"strings"
)

const (
	// maxExact is the largest count that a float64 tells from its neighbours.
	maxExact = 1 << 53
	// maxBuckets bounds one histogram; one with more is left out.
	maxBuckets = 512
)

// Buckets is one histogram: bounds ascend, counts are cumulative, +Inf is left
// out because its count is Count.
type Buckets struct {
	Family string
	// Labels are those of the histogram, without le, in the order of its first line.
	Labels []Label
	Count  uint64
	Sum    float64
	Bounds []float64
	Counts []uint64
}

// Label returns the value of a label, "" if the histogram does not have it.
func (b *Buckets) Label(name string) string {
	return (&Sample{Labels: b.Labels}).Label(name)
}

// Histograms assembles histograms from samples. The zero value is ready.
type Histograms struct {
	byKey map[string]*building
	order []*building
	// families has the families that a _bucket line showed to be histograms.
	families map[string]bool
	key      []byte
	sorted   []Label
}

type building struct {
	family        string
	labels        []Label
	buckets       []bucket
	sum           float64
	count         float64
	hasSum, whole bool // whole: there is a _count
}

type bucket struct {
	bound, count float64
	bad          bool
}

// Add takes a sample and reports whether it is part of a histogram. A line
// that is there twice replaces the first: the text may be several expositions
// one after the other. Without a TYPE line a histogram is known by its buckets.
func (h *Histograms) Add(s *Sample) bool {
	family, part := h.part(s)
	if part == "" {
		return false
	}
	b := h.get(family, s.Labels, part == "_bucket")
	switch part {
	case "_sum":
		b.sum, b.hasSum = s.Value, true
	case "_count":
		b.count, b.whole = s.Value, true
	case "_bucket":
		le, ok := parseFloat(s.Label("le"))
		bu := bucket{bound: le, count: s.Value, bad: !ok || math.IsNaN(le)}
		switch i := slices.IndexFunc(b.buckets, func(o bucket) bool { return o.bound == le }); {
		case i >= 0:
			b.buckets[i] = bu
		case len(b.buckets) < maxBuckets:
			b.buckets = append(b.buckets, bu)
		default:
			b.buckets[0].bad = true
		}
	}
	return true
}

// part returns the histogram's name and which of its lines the sample is.
func (h *Histograms) part(s *Sample) (family, part string) {
	if s.Type != Histogram && s.Type != Untyped {
		return "", ""
	}
	for _, p := range [...]string{"_bucket", "_sum", "_count"} {
		base, ok := strings.CutSuffix(s.Name, p)
		if !ok {
			continue
		}
		typed := s.Type == Histogram && s.Family == base
		if p == "_bucket" && (typed || s.Type == Untyped) && s.Label("le") != "" {
			if h.families == nil {
				h.families = map[string]bool{}
			}
			h.families[base] = true
			return base, p
		}
		if p != "_bucket" && (typed || s.Type == Untyped && h.families[base]) {
			return base, p
		}
	}
	return "", ""
}

// get returns the histogram of a family with these labels.
func (h *Histograms) get(family string, labels []Label, le bool) *building {
	h.sorted = h.sorted[:0]
	for _, l := range labels {
		if !le || l.Name != "le" {
			h.sorted = append(h.sorted, l)
		}
	}
	own := h.sorted
	if !slices.IsSortedFunc(own, byName) {
		own = slices.Clone(own)
		slices.SortFunc(own, byName)
	}
	h.key = append(h.key[:0], family...)
	for _, l := range own {
		h.key = append(append(h.key, 0xff), l.Name...)
		h.key = append(append(h.key, 0xff), l.Value...) // never in valid UTF-8
	}
	if b := h.byKey[string(h.key)]; b != nil {
		return b
	}
	b := &building{family: family, labels: slices.Clone(h.sorted)}
	if h.byKey == nil {
		h.byKey = map[string]*building{}
	}
	h.byKey[string(h.key)] = b
	h.order = append(h.order, b)
	return b
}

func byName(a, b Label) int { return cmp.Compare(a.Name, b.Name) }

// All returns the histograms in the order of their first lines, and how many
// were left out because they do not add up: without a sum, a count and a
// bucket, counts that are not whole numbers or fall with growing bounds, or a
// +Inf bucket that is not the count.
func (h *Histograms) All() (all []Buckets, rejected int) {
	for _, b := range h.order {
		if out, ok := b.assemble(); ok {
			all = append(all, out)
		} else {
			rejected++
		}
	}
	return all, rejected
}

func (b *building) assemble() (Buckets, bool) {
	out := Buckets{Family: b.family, Labels: b.labels, Sum: b.sum}
	if len(b.buckets) == 0 || !b.hasSum || math.IsNaN(b.sum) || math.IsInf(b.sum, 0) {
		return out, false
	}
	slices.SortFunc(b.buckets, func(x, y bucket) int { return cmp.Compare(x.bound, y.bound) })
	last := b.buckets[len(b.buckets)-1]
	total := b.count
	if isInf := math.IsInf(last.bound, 1); isInf {
		if b.whole && b.count != last.count {
			return out, false
		}
		total = last.count
	} else if !b.whole {
		return out, false
	}
	before := 0.0
	for _, u := range b.buckets {
		if u.bad || !(u.count >= before && u.count <= total) || math.IsInf(u.bound, -1) || !isCount(u.count) {
			return out, false
		}
		before = u.count
		if !math.IsInf(u.bound, 1) {
			out.Bounds = append(out.Bounds, u.bound)
			out.Counts = append(out.Counts, uint64(u.count))
		}
	}
	if !isCount(total) {
		return out, false
	}
	out.Count = uint64(total)
	return out, true
}

func isCount(v float64) bool { return v >= 0 && v <= maxExact && v == math.Trunc(v) }
