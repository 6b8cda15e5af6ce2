// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package opstate

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"time"
)

// Limits of what capacity runs leave behind.
const (
	maxSeries     = 200
	maxSeriesName = 512
	keptRecent    = 2 * 24 * time.Hour
	keptDays      = 400
	maxMeasures   = 1000
)

// Capacity is what niodooctl capacity has measured, by series.
type Capacity struct {
	Series map[string][]Measure `json:"series"`
}

// Measure is one measurement. With Of, which is a counter like Value, the use
// in between two measurements is the growth of one divided by that of the other.
type Measure struct {
	At    time.Time `json:"at"`
	Value float64   `json:"value"`
	Of    float64   `json:"of,omitempty"`
}

// Record adds a measurement and thins out what is old: of a day that is over
// the median stays, or the last value of a counter, and of days too long ago
// nothing. It reports whether there was room for the series.
func (c *Capacity) Record(series string, m Measure) bool {
	if c.Series == nil {
		c.Series = map[string][]Measure{}
	}
	kept, known := c.Series[series]
	if !known && len(c.Series) >= maxSeries {
		return false
	}
	// The clock may have been set back, or be wrong now: what is there stays.
	place, found := slices.BinarySearchFunc(kept, m, func(a, b Measure) int { return a.At.Compare(b.At) })
	if found {
		kept[place] = m
	} else {
		kept = slices.Insert(kept, place, m)
	}
	newest := kept[len(kept)-1].At
	recent := newest.Add(-keptRecent).UTC().Truncate(24 * time.Hour)
	var out, day []Measure
	flush := func() {
		if len(day) > 0 {
			out = append(out, ofDay(day))
		}
		day = nil
	}
	for _, o := range kept {
		switch {
		case newest.Sub(o.At) > keptDays*24*time.Hour:
			continue
		case !o.At.Before(recent):
			flush()
			out = append(out, o)
			continue
		}
		if len(day) > 0 && !sameDay(day[0].At, o.At) {
			flush()
		}
		day = append(day, o)
	}
	flush()
	// Even a run every minute must not fill the file: the oldest recent ones go.
	if over := len(out) - maxMeasures; over > 0 {
		first := slices.IndexFunc(out, func(o Measure) bool { return !o.At.Before(recent) })
		out = slices.Delete(out, first, first+over)
	}
	c.Series[series] = out
	return true
}

func sameDay(a, b time.Time) bool {
	return a.UTC().Truncate(24 * time.Hour).Equal(b.UTC().Truncate(24 * time.Hour))
}

// ofDay returns the one measurement that stands for a day.
func ofDay(day []Measure) Measure {
	if day[0].Of != 0 {
		return day[len(day)-1]
	}
	sorted := slices.SortedFunc(slices.Values(day), func(a, b Measure) int { return cmp.Compare(a.Value, b.Value) })
	return sorted[(len(sorted)-1)/2]
}

func (Capacity) file() string { return "capacity.json" }

func (c Capacity) validate() error {
	if len(c.Series) > maxSeries {
		return fmt.Errorf("more than %d series", maxSeries)
	}
	for _, name := range slices.Sorted(maps.Keys(c.Series)) {
		all := c.Series[name]
		if name == "" || len(name) > maxSeriesName {
			return fmt.Errorf("%.100q is not the name of a series", name)
		}
		if len(all) > maxMeasures {
			return fmt.Errorf("%.100q has more than %d measurements", name, maxMeasures)
		}
		if !slices.IsSortedFunc(all, func(a, b Measure) int { return a.At.Compare(b.At) }) {
			return fmt.Errorf("the measurements of %.100q are not in order", name)
		}
		for _, m := range all {
			if math.IsNaN(m.Value) || math.IsInf(m.Value, 0) || math.IsNaN(m.Of) || math.IsInf(m.Of, 0) {
				return fmt.Errorf("a measurement of %.100q is no number", name)
			}
		}
	}
	return nil
}
