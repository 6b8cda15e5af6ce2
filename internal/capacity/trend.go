// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

// Package capacity tells how much is used, how fast that grows and when a limit
// will be reached, with how sure that is.
package capacity

import (
	"math"
	"slices"
	"time"
)

const (
	// minDays is how many days a trend needs.
	minDays = 7
	// maxDays is how many of the latest days a trend is fitted to.
	maxDays = 180
	// z90 is the quantile of the normal distribution for a two-sided 90 %.
	z90 = 1.645
	// stepSigma is by how many times its usual spread a shift must stand out to be a step.
	stepSigma = 6
	// maxSteps bounds how often a series is cut.
	maxSteps = 5
	day      = 24 * time.Hour
)

// Point is one day's use.
type Point struct {
	Time  time.Time `json:"time"`
	Value float64   `json:"value"`
}

// Answer says what a series' history tells.
type Answer string

// The answers. That nothing can be said is one of them.
const (
	Growing   Answer = "growing"
	Shrinking Answer = "shrinking"
	NoGrowth  Answer = "no growth detectable"
	TooShort  Answer = "too little history"
	NoHistory Answer = "no history"
)

// Trend is a straight line through a history of days, with how sure its slope is.
type Trend struct {
	Answer Answer `json:"answer"`
	// Days is how many days the line goes through, from Since on.
	Days  int       `json:"days"`
	Since time.Time `json:"since,omitzero"`
	// Step is when the use last jumped; the line goes through what came after.
	Step time.Time `json:"step_at,omitzero"`
	// PerDay is the growth per day; with 90 % certainty it lies between Low and High.
	PerDay float64 `json:"per_day"`
	Low    float64 `json:"per_day_low"`
	High   float64 `json:"per_day_high"`

	level float64 // of the line at the last day
	last  time.Time
	// spread is what nine of ten forecasts from earlier days on were wrong by,
	// divided by the root of how many days ahead they were.
	spread float64
}

// Fit draws the line. The points are one a day, oldest first; days may be missing.
func Fit(points []Point) Trend {
	points = points[max(0, len(points)-maxDays):]
	if len(points) == 0 {
		return Trend{Answer: NoHistory}
	}
	var t Trend
	s := newSeries(points)
	s.subtractWeekdays(points)
	from := 0
	for range maxSteps {
		k := s.from(from).step()
		if k == 0 {
			break
		}
		from += k
		t.Step = points[from].Time
	}
	s, points = s.from(from), points[from:]
	t.Days, t.Since, t.last = len(points), points[0].Time, points[len(points)-1].Time
	t.level = points[len(points)-1].Value
	if t.Days < minDays {
		t.Answer = TooShort
		return t
	}
	slopes := s.slopes()
	l := s.theilSen(slopes)
	z, low, high := s.kendall(l, slopes)
	t.PerDay, t.Low, t.High, t.level, t.spread = l.slope, low, high, l.at(s.x[len(s.x)-1]), s.rollingOrigin()
	switch {
	case math.Abs(z) < z90 || l.slope == 0:
		t.Answer = NoGrowth
	case l.slope > 0:
		t.Answer = Growing
	default:
		t.Answer = Shrinking
	}
	return t
}

// Range is a forecast: the line's value, and between what the value will be
// with 90 % certainty.
type Range struct {
	Value float64 `json:"value"`
	Low   float64 `json:"low"`
	High  float64 `json:"high"`
}

// At forecasts the use at a time. Of a trend without a line it is today's use.
// growth changes the pace: 0.2 is 20 % faster.
func (t Trend) At(at time.Time, growth float64) Range {
	h := max(0, at.Sub(t.last).Hours()/24)
	middle, low, high := t.PerDay*(1+growth)*h, t.Low*(1+growth)*h, t.High*(1+growth)*h
	if t.Answer == NoGrowth {
		middle = 0
	}
	wander := t.spread * math.Sqrt(h)
	return Range{t.level + middle, t.level + min(low, middle-wander), t.level + max(high, middle+wander)}
}

// series are the days of a history as numbers.
type series struct{ x, v []float64 }

func newSeries(points []Point) series {
	s := series{make([]float64, len(points)), make([]float64, len(points))}
	for i, p := range points {
		s.x[i], s.v[i] = p.Time.Sub(points[0].Time).Hours()/24, p.Value
	}
	return s
}

func (s series) from(i int) series { return series{s.x[i:], s.v[i:]} }
func (s series) to(i int) series   { return series{s.x[:i], s.v[:i]} }

// subtractWeekdays takes out what the days of the week differ by, from three
// weeks on: of each day the difference to its week's mean, and of the same
// weekday's differences the median. What is left is a day of the mean week.
func (s series) subtractWeekdays(points []Point) {
	if len(s.x) == 0 || s.x[len(s.x)-1] < 20 {
		return
	}
	var differences [7][]float64
	for i := range s.x {
		sum, n := 0.0, 0
		for j := max(0, i-3); j < min(len(s.x), i+4); j++ {
			if math.Abs(s.x[j]-s.x[i]) < 3.5 {
				sum, n = sum+s.v[j], n+1
			}
		}
		if n == 7 { // a whole week
			w := points[i].Time.UTC().Weekday()
			differences[w] = append(differences[w], s.v[i]-sum/7)
		}
	}
	var effects [7]float64
	var rest []float64
	weeks := len(s.v)
	for w, d := range differences {
		effects[w] = median(d)
		weeks = min(weeks, len(d))
		for _, v := range d {
			rest = append(rest, v-effects[w])
		}
	}
	// Without a pattern there would be seven numbers of noise to subtract.
	chance := 3 * 1.2533 * 1.4826 * absoluteDeviation(rest) / math.Sqrt(float64(max(1, weeks)))
	if weeks < 2 || slices.Max(absolute(effects[:])) <= chance {
		return
	}
	for i := range s.v {
		s.v[i] -= effects[points[i].Time.UTC().Weekday()]
	}
}

// step returns the index of the first day after a jump, 0 if there is none. A
// jump is where the medians of the days before and after differ by more than
// growth explains, and by far more than they do elsewhere.
func (s series) step() int {
	n := len(s.v)
	width := 3
	if n >= 21 {
		width = minDays
	}
	if n < 2*width+minDays {
		return 0
	}
	slopes := make([]float64, 0, n)
	for i := width; i < n; i++ {
		slopes = append(slopes, (s.v[i]-s.v[i-width])/(s.x[i]-s.x[i-width]))
	}
	pace := median(slopes)
	shifts := make([]float64, n) // 0 where there are too few days
	var all []float64
	for k := width; k <= n-width; k++ {
		before, after := s.v[k-width:k], s.v[k:k+width]
		distance := s.x[k+width/2] - s.x[k-width+width/2]
		shifts[k] = median(after) - median(before) - pace*distance
		all = append(all, shifts[k])
	}
	// Shifts of neighbours hold the same days: their spread is that of the whole.
	// A series without any noise has one of nothing.
	spread := max(1.4826*absoluteDeviation(all), 1e-6*slices.Max(absolute(s.v)))
	best := 0
	for k, d := range shifts {
		if math.Abs(d) > math.Abs(shifts[best]) {
			best = k
		}
	}
	if math.Abs(shifts[best]) < stepSigma*spread {
		return 0
	}
	// The jump is where two days near there differ most.
	jump := best
	for k := max(1, best-width/2); k <= min(n-1, best+width/2); k++ {
		if math.Abs(s.v[k]-s.v[k-1]) > math.Abs(s.v[jump]-s.v[jump-1]) {
			jump = k
		}
	}
	return jump
}

// line is a straight line.
type line struct{ slope, intercept float64 }

func (l line) at(x float64) float64 { return l.intercept + l.slope*x }

// slopes returns the slopes between all pairs of days, sorted.
func (s series) slopes() []float64 {
	n := len(s.x)
	out := make([]float64, 0, n*(n-1)/2)
	for i := range n {
		for j := i + 1; j < n; j++ {
			out = append(out, (s.v[j]-s.v[i])/(s.x[j]-s.x[i]))
		}
	}
	slices.Sort(out)
	return out
}

// theilSen returns the line of the median slope: a third of the days may be
// outliers.
func (s series) theilSen(slopes []float64) line {
	slope := sortedMedian(slopes)
	rest := make([]float64, len(s.x))
	for i := range rest {
		rest[i] = s.v[i] - slope*s.x[i]
	}
	return line{slope, median(rest)}
}

// kendall returns how far the series' order is from chance, in standard
// deviations, and the 90 % interval of the slope. Days that follow from those
// before tell less than as many independent ones: the variance is larger by what
// the residuals' correlation from day to day says.
func (s series) kendall(l line, slopes []float64) (z, low, high float64) {
	n := float64(len(s.v))
	sum := 0.0
	for i := range s.v {
		for j := i + 1; j < len(s.v); j++ {
			switch {
			case s.v[j] > s.v[i]:
				sum++
			case s.v[j] < s.v[i]:
				sum--
			}
		}
	}
	variance := n * (n - 1) * (2*n + 5)
	sorted := slices.Sorted(slices.Values(s.v))
	for i := 0; i < len(sorted); {
		j := i
		for j < len(sorted) && sorted[j] == sorted[i] {
			j++
		}
		t := float64(j - i)
		variance -= t * (t - 1) * (2*t + 5)
		i = j
	}
	variance = variance / 18 * s.inflation(l)
	if variance > 0 {
		z = (sum - math.Copysign(math.Min(1, math.Abs(sum)), sum)) / math.Sqrt(variance)
	}
	half := z90 * math.Sqrt(max(0, variance))
	count := float64(len(slopes))
	at := func(rank float64) float64 {
		return slopes[min(max(int(rank), 0), len(slopes)-1)]
	}
	return z, at(math.Floor((count - half) / 2)), at(math.Ceil((count + half) / 2))
}

// inflation returns by what the variance of independent days is to be
// multiplied (Yue and Wang, 2004), 1 where no correlation shows.
func (s series) inflation(l line) float64 {
	n := float64(len(s.v))
	var product, square float64
	for i := range s.v {
		r := s.v[i] - l.at(s.x[i])
		square += r * r
		if i > 0 {
			product += r * (s.v[i-1] - l.at(s.x[i-1]))
		}
	}
	if square == 0 {
		return 1
	}
	rho := product / square
	if rho < z90/math.Sqrt(n) {
		return 1
	}
	// The line takes some of the correlation with it.
	rho = min((n*rho+2)/(n-4), 0.95)
	return (1 + rho) / (1 - rho)
}

// origins is from how many earlier days forecasts are tried.
const origins = 16

// rollingOrigin returns what nine of ten forecasts that were made on earlier
// days were wrong by, over the root of how many days ahead they were.
func (s series) rollingOrigin() float64 {
	n := len(s.v)
	first := max(minDays, n/2)
	var errs []float64
	for i := range origins {
		o := first + i*(n-first)/origins
		if o >= n || i > 0 && o == first+(i-1)*(n-first)/origins {
			continue
		}
		known := s.to(o)
		l := known.theilSen(known.slopes())
		for j := o; j < n; j++ {
			errs = append(errs, math.Abs(s.v[j]-l.at(s.x[j]))/math.Sqrt(s.x[j]-s.x[o-1]))
		}
	}
	if len(errs) == 0 {
		return 0
	}
	slices.Sort(errs)
	return errs[min(len(errs)-1, len(errs)*9/10)]
}

func median(v []float64) float64 { return sortedMedian(slices.Sorted(slices.Values(v))) }

func sortedMedian(v []float64) float64 {
	n := len(v)
	if n == 0 {
		return 0
	}
	return (v[(n-1)/2] + v[n/2]) / 2
}

func absolute(v []float64) []float64 {
	out := make([]float64, len(v))
	for i := range v {
		out[i] = math.Abs(v[i])
	}
	return out
}

// absoluteDeviation is the median of the distances from the median.
func absoluteDeviation(v []float64) float64 {
	m := median(v)
	out := make([]float64, len(v))
	for i := range v {
		out[i] = math.Abs(v[i] - m)
	}
	return median(out)
}
