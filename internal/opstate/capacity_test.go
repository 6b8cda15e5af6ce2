// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package opstate

import (
	"math"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestCapacityIsThinnedOut(t *testing.T) {
	t.Parallel()
	var c Capacity
	start := at.Truncate(24 * time.Hour)
	for run := range 4 * 430 { // one every six hours
		hour := 6 * run
		when := start.Add(time.Duration(hour) * time.Hour)
		if !c.Record("disk", Measure{At: when, Value: float64(hour)}) || !c.Record("events", Measure{At: when, Value: float64(hour), Of: float64(hour) / 24}) {
			t.Fatal("no room")
		}
	}
	for name, hourOfDay := range map[string]float64{"disk": 6, "events": 18} {
		all := c.Series[name]
		if len(all) < keptDays || len(all) > keptDays+75 {
			t.Errorf("%s: %d measurements", name, len(all))
		}
		if got := all[10]; math.Mod(got.Value, 24) != hourOfDay {
			t.Errorf("%s: a day became %+v", name, got)
		}
		if last := all[len(all)-1]; last.Value != 24*430-6 {
			t.Errorf("%s: the last is %+v", name, last)
		}
	}
	dir := t.TempDir()
	set(t, dir, c)
	if got, err := Read[Capacity](dir); err != nil || cmp.Diff(c, got) != "" {
		t.Error(err, cmp.Diff(c, got))
	}
}

func TestCapacityIsBounded(t *testing.T) {
	t.Parallel()
	var c Capacity
	for i := range 3 * maxMeasures {
		c.Record("often", Measure{At: at.Add(time.Duration(i) * time.Second), Value: 1})
	}
	if n := len(c.Series["often"]); n != maxMeasures {
		t.Errorf("%d measurements", n)
	}
	for i := range maxSeries {
		c.Record(strconv.Itoa(i), Measure{At: at, Value: 1})
	}
	if c.Record("one too many", Measure{At: at}) {
		t.Error("there is no limit of series")
	}
	// A clock that is wrong for once loses nothing.
	c = Capacity{}
	for _, d := range []time.Duration{0, 2 * time.Hour, time.Hour, time.Hour} {
		c.Record("clock", Measure{At: at.Add(d), Value: d.Hours()})
	}
	if got := c.Series["clock"]; len(got) != 3 || got[1].Value != 1 || got[2].Value != 2 {
		t.Errorf("%+v", got)
	}
	for name, bad := range map[string]Capacity{
		"order":  {Series: map[string][]Measure{"a": {{At: at.Add(1)}, {At: at}}}},
		"number": {Series: map[string][]Measure{"a": {{At: at, Value: math.NaN()}}}},
		"name":   {Series: map[string][]Measure{"": {{At: at}}}},
	} {
		if bad.validate() == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
