// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package loganalysis

import "math"

const (
	// Each power of two has 2^subBits buckets, so that a bucket's middle is at
	// most 0.8 % from any value in it.
	subBits = 6
	// Values from a nanosecond to twelve days, in seconds, have buckets; what is
	// beyond falls into the first or the last one.
	minExponent, maxExponent = -30, 20
	numBuckets               = (maxExponent - minExponent) << subBits
)

// histogram counts values for their quantiles in fixed memory: its buckets grow
// with the values, as HDR histograms' do. It is made for seconds.
type histogram struct {
	count    uint64
	zeros    uint64
	min, max float64
	buckets  [numBuckets]uint64
}

// add counts a value, which is not negative.
func (h *histogram) add(v float64) {
	if h.count == 0 || v < h.min {
		h.min = v
	}
	if v > h.max {
		h.max = v
	}
	h.count++
	if v == 0 {
		h.zeros++
		return
	}
	// The exponent and the first bits of the fraction, read as a number, are the bucket's.
	const first = (1023 + minExponent) << subBits
	h.buckets[max(0, min(numBuckets-1, int(math.Float64bits(v)>>(52-subBits))-first))]++
}

func (h *histogram) merge(o *histogram) {
	if o.count == 0 {
		return
	}
	if h.count == 0 || o.min < h.min {
		h.min = o.min
	}
	h.max = max(h.max, o.max)
	h.count += o.count
	h.zeros += o.zeros
	for i, n := range o.buckets {
		h.buckets[i] += n
	}
}

// quantile returns the value below or at which the share q of all values is.
func (h *histogram) quantile(q float64) float64 {
	rank := uint64(math.Ceil(q * float64(h.count)))
	if rank <= h.zeros {
		return 0
	}
	sum := h.zeros
	for i, n := range h.buckets {
		if sum += n; sum >= rank {
			low := math.Ldexp(1+float64(i&(1<<subBits-1))/(1<<subBits), i>>subBits+minExponent)
			high := math.Ldexp(1+float64(i&(1<<subBits-1)+1)/(1<<subBits), i>>subBits+minExponent)
			return min(max((low+high)/2, h.min), h.max)
		}
	}
	return h.max
}
