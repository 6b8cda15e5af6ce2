// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package capacity

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"
)

var epoch = time.Date(2026, 8, 24, 0, 0, 0, 0, time.UTC)

// history makes a history of n days from a function of the day.
func history(n int, f func(i int) float64) []Point {
	points := make([]Point, n)
	for i := range points {
		points[i] = Point{epoch.Add(time.Duration(i) * day), f(i)}
	}
	return points
}

func TestFitKnownAnswers(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(1, 3))
	weekend := func(i int) float64 {
		if w := epoch.Add(time.Duration(i) * day).Weekday(); w == time.Saturday || w == time.Sunday {
			return -30
		}
		return 0
	}
	noise := func() float64 { return rng.NormFloat64() }
	for _, c := range []struct {
		name   string
		points []Point
		answer Answer
		slope  float64
		within float64
		step   int // the day of the step, 0 for none
	}{
		{"a straight line", history(30, func(i int) float64 { return 100 + 2*float64(i) }), Growing, 2, 1e-9, 0},
		{"noise on a line", history(60, func(i int) float64 { return 100 + 0.5*float64(i) + noise() }), Growing, 0.5, 0.05, 0},
		{"shrinking", history(30, func(i int) float64 { return 100 - float64(i) + noise() }), Shrinking, -1, 0.1, 0},
		{"constant", history(30, func(int) float64 { return 42 }), NoGrowth, 0, 0, 0},
		{"noise alone", history(60, func(int) float64 { return 100 + noise() }), NoGrowth, 0, 0.05, 0},
		{"weekends", history(56, func(i int) float64 { return 200 + weekend(i) + noise() }), NoGrowth, 0, 0.05, 0},
		{"growth with weekends", history(56, func(i int) float64 { return 200 + 0.5*float64(i) + weekend(i) + noise() }), Growing, 0.5, 0.05, 0},
		{"one in ten an outlier", history(60, func(i int) float64 {
			v := 100 + 0.5*float64(i) + noise()
			if i%10 == 3 {
				v += 500
			}
			return v
		}), Growing, 0.5, 0.1, 0},
		{"a clean-up", history(60, func(i int) float64 {
			v := 100 + 2*float64(i) + noise()
			if i >= 35 {
				v -= 80
			}
			return v
		}), Growing, 2, 0.1, 35},
		{"a step without growth", history(60, func(i int) float64 {
			if i >= 20 {
				return 300 + noise()
			}
			return 100 + noise()
		}), NoGrowth, 0, 0.1, 20},
		{"two steps", history(90, func(i int) float64 { return 100 + float64(i) + noise() + 200*float64(i/30) }), Growing, 1, 0.1, 60},
		{"too short", history(6, func(i int) float64 { return float64(i) }), TooShort, 0, 0, 0},
		{"one day", history(1, func(int) float64 { return 1 }), TooShort, 0, 0, 0},
		{"none", nil, NoHistory, 0, 0, 0},
	} {
		got := Fit(c.points)
		if got.Answer != c.answer {
			t.Errorf("%s: %q, want %q: %+v", c.name, got.Answer, c.answer, got)
		}
		if c.answer != NoGrowth && math.Abs(got.PerDay-c.slope) > c.within {
			t.Errorf("%s: %v a day, want %v: %+v", c.name, got.PerDay, c.slope, got)
		}
		if got.Low > got.PerDay || got.High < got.PerDay {
			t.Errorf("%s: %v is not between %v and %v", c.name, got.PerDay, got.Low, got.High)
		}
		var step time.Time
		if c.step > 0 {
			step = epoch.Add(time.Duration(c.step) * day)
		}
		if !got.Step.Equal(step) {
			t.Errorf("%s: a step at %s, want %s", c.name, got.Step, step)
		}
	}
}

// How often the truth lies within what is said to hold it with 90 % certainty.
// The figures are logged; the test fails where far too few do.
func TestCoverage(t *testing.T) {
	t.Parallel()
	const runs, days, ahead = 100, 60, 30
	type world struct {
		name string
		// make returns days of history and then those ahead, which are to be
		// forecast as days of the mean week, and the true slope.
		make  func(r *rand.Rand) ([]float64, float64)
		slope float64 // least share of slopes covered
		value float64 // least share of values ahead covered
		quiet float64 // least share of histories without growth in which none is found
	}
	ar := func(r *rand.Rand, phi, slope float64) []float64 {
		v, e := make([]float64, days+ahead), 0.0
		for i := range v {
			e = phi*e + r.NormFloat64()
			v[i] = 100 + slope*float64(i) + e
		}
		return v
	}
	worlds := []world{
		{"linear", func(r *rand.Rand) ([]float64, float64) { return ar(r, 0, 0.5), 0.5 }, 0.85, 0.9, 0},
		{"noise", func(r *rand.Rand) ([]float64, float64) { return ar(r, 0, 0), 0 }, 0.85, 0.9, 0.85},
		{"seasonal", func(r *rand.Rand) ([]float64, float64) {
			v := ar(r, 0, 0.5)
			for i := range days {
				v[i] += 20 * ([]float64{0, 0, 0, 0, 0, -1, -1}[i%7] + 2.0/7)
			}
			return v, 0.5
		}, 0.85, 0.9, 0},
		{"correlated days", func(r *rand.Rand) ([]float64, float64) { return ar(r, 0.6, 0.5), 0.5 }, 0.85, 0.9, 0},
		{"outliers", func(r *rand.Rand) ([]float64, float64) {
			v := ar(r, 0, 0.5)
			for i := range days {
				if r.Float64() < 0.1 {
					v[i] += 100 * r.Float64()
				}
			}
			return v, 0.5
		}, 0.85, 0.9, 0},
		{"step", func(r *rand.Rand) ([]float64, float64) {
			v := ar(r, 0, 0.5)
			for i := days / 2; i < len(v); i++ {
				v[i] -= 40
			}
			return v, 0.5
		}, 0.85, 0.9, 0},
		{"random walk", func(r *rand.Rand) ([]float64, float64) { return ar(r, 1, 0), 0 }, 0.6, 0.7, 0.5},
	}
	for n, w := range worlds {
		r := rand.New(rand.NewPCG(7, uint64(n)))
		slopes, values, quiet := 0, 0, 0
		for range runs {
			v, slope := w.make(r)
			f := Fit(history(days, func(i int) float64 { return v[i] }))
			if f.Low <= slope && slope <= f.High {
				slopes++
			}
			end := days - 1 + ahead
			if at := f.At(epoch.Add(time.Duration(end)*day), 0); at.Low <= v[end] && v[end] <= at.High {
				values++
			}
			if f.Answer == NoGrowth {
				quiet++
			}
		}
		share := func(n int) float64 { return float64(n) / runs }
		t.Logf("%-16s slope within its 90 %% interval: %3.0f %%; value %d days ahead: %3.0f %%; no growth detected: %3.0f %%",
			w.name, 100*share(slopes), ahead, 100*share(values), 100*share(quiet))
		if share(slopes) < w.slope || share(values) < w.value || share(quiet) < w.quiet {
			t.Errorf("%s: too few", w.name)
		}
	}
}
