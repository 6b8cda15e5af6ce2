// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package capacity

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	v1 "github.com/prometheus/client_golang/api/prometheus/v1"
	"github.com/prometheus/common/model"

	"github.com/niodoo/niodoo_exporter/internal/observe"
	"github.com/niodoo/niodoo_exporter/internal/opstate"
	"github.com/niodoo/niodoo_exporter/internal/promapi"
)

const (
	// fullDay is how many hours of a day must have data for it to count.
	fullDay = 12
	// gone is for how long a series may be missing at the end: what no longer
	// exists needs no forecast.
	gone = day
	// maxTracks bounds the series of one resource.
	maxTracks = 100
	// peakDays is of how many days the peak is told.
	peakDays = 7
)

// track is the history of one series of a resource.
type track struct {
	labels map[string]string
	points []Point // one a day
	now    float64 // NaN where the last value tells no use yet
	limit  float64 // 0 for none
	peak   float64 // NaN where it is not known
}

// fromPrometheus returns the tracks of a resource. leftOut is how many series
// were too many.
func fromPrometheus(ctx context.Context, c *promapi.Client, r resource, selector string, now time.Time, history time.Duration) (tracks []track, leftOut int, err error) {
	step := time.Hour
	for history/step >= promapi.MaxPoints {
		step += time.Hour
	}
	end := now.Truncate(time.Second)
	// The last step is now: what began within the hour is there too.
	m, err := c.Matrix(ctx, expression(r.use, selector), v1.Range{Start: end.Add(-history.Truncate(step)), End: end, Step: step})
	if err != nil {
		return nil, 0, err
	}
	limits := map[string]float64{}
	if r.limit != "" {
		v, err := c.Vector(ctx, expression(r.limit, selector), end)
		if err != nil {
			return nil, 0, err
		}
		for _, s := range v {
			limits[key(s.Metric)] = float64(s.Value)
		}
	}
	for _, stream := range m {
		values := slices.DeleteFunc(stream.Values, func(p model.SamplePair) bool {
			return math.IsNaN(float64(p.Value)) || math.IsInf(float64(p.Value), 0)
		})
		if len(values) == 0 || end.Sub(values[len(values)-1].Timestamp.Time()) > gone {
			continue
		}
		if len(tracks) == maxTracks {
			leftOut++
			continue
		}
		t := track{labels: labels(stream.Metric), now: float64(values[len(values)-1].Value), limit: limits[key(stream.Metric)], peak: math.NaN()}
		for _, v := range values {
			if end.Sub(v.Timestamp.Time()) <= peakDays*day && !(t.peak >= float64(v.Value)) {
				t.peak = float64(v.Value)
			}
		}
		t.points = byDay(values, int(fullDay*time.Hour/step), r.mean)
		tracks = append(tracks, t)
	}
	slices.SortFunc(tracks, func(a, b track) int { return cmp.Compare(name(r.label, a.labels), name(r.label, b.labels)) })
	return tracks, leftOut, nil
}

// byDay returns the median, or the mean, of each day with enough values, at the
// middle of their times.
func byDay(values []model.SamplePair, enough int, mean bool) []Point {
	var points []Point
	for from := 0; from < len(values); {
		to, today := from, values[from].Timestamp.Time().UTC().Truncate(day)
		var of []float64
		for ; to < len(values) && values[to].Timestamp.Time().UTC().Truncate(day).Equal(today); to++ {
			of = append(of, float64(values[to].Value))
		}
		if len(of) >= max(1, enough) {
			first, last := values[from].Timestamp.Time(), values[to-1].Timestamp.Time()
			p := Point{first.Add(last.Sub(first) / 2).UTC(), median(of)}
			if mean {
				p.Value = 0
				for _, x := range of {
					p.Value += x / float64(len(of))
				}
			}
			points = append(points, p)
		}
		from = to
	}
	return points
}

func labels(m model.Metric) map[string]string {
	out := map[string]string{}
	for k, v := range m {
		if k != model.MetricNameLabel && k != "job" {
			out[string(k)] = string(v)
		}
	}
	return out
}

// key is a metric's labels without its name, for joining.
func key(m model.Metric) string {
	l := model.LabelSet(maps.Clone(m))
	delete(l, model.MetricNameLabel)
	return l.String()
}

// name is what a series is called beside its resource's name: its own label
// first, then what tells instances apart.
func name(own string, labels map[string]string) string {
	var parts []string
	if own != "" {
		parts = append(parts, labels[own])
	}
	for _, l := range slices.Sorted(maps.Keys(labels)) {
		if l != own {
			parts = append(parts, labels[l])
		}
	}
	return strings.Join(parts, " ")
}

// Record adds what a look tells to the history in the state directory.
func Record(ctx context.Context, dir string, s observe.Snapshot) error {
	return opstate.Update(ctx, dir, func(c *opstate.Capacity) error {
		for _, r := range resources {
			if r.read == nil {
				continue
			}
			for _, one := range r.read(s) {
				if !c.Record(seriesName(r, one.label), opstate.Measure{At: s.At, Value: one.value, Of: one.of}) {
					return fmt.Errorf("there is no room for %s %s: too many series", r.name, one.label)
				}
			}
		}
		return nil
	})
}

// seriesName is a series' name in the history.
func seriesName(r resource, label string) string {
	if label == "" {
		return r.name
	}
	return r.name + " " + label
}

// ownHistory reads the history in the state directory; none is an empty one.
func ownHistory(dir string) (opstate.Capacity, error) {
	c, err := opstate.Read[opstate.Capacity](dir)
	if errors.Is(err, fs.ErrNotExist) {
		return opstate.Capacity{}, nil
	}
	return c, err
}

// fromOwn returns the tracks of a resource: what a look tells now, with what
// earlier runs have measured. Of a counter that none has, the use now is that
// since the look before.
func fromOwn(c opstate.Capacity, r resource, before, s observe.Snapshot) []track {
	if r.read == nil {
		return nil
	}
	var tracks []track
	for _, one := range r.read(s) {
		t := track{now: one.value, limit: one.limit, peak: math.NaN()}
		if r.label != "" {
			t.labels = map[string]string{r.label: one.label}
		}
		measures := slices.DeleteFunc(slices.Clone(c.Series[seriesName(r, one.label)]),
			func(m opstate.Measure) bool { return !m.At.Before(s.At) })
		measures = append(measures, opstate.Measure{At: s.At, Value: one.value, Of: one.of})
		values := uses(measures)
		if one.of != 0 {
			t.now = math.NaN()
			recent := values
			if len(recent) == 0 {
				recent = uses(append(measured(r, one.label, before), measures[len(measures)-1]))
			}
			if len(recent) > 0 {
				t.now = float64(recent[len(recent)-1].Value)
			}
		}
		t.points = byDay(values, 1, r.mean)
		tracks = append(tracks, t)
	}
	return tracks
}

// measured returns what a look tells of one series.
func measured(r resource, label string, s observe.Snapshot) []opstate.Measure {
	for _, one := range r.read(s) {
		if one.label == label {
			return []opstate.Measure{{At: s.At, Value: one.value, Of: one.of}}
		}
	}
	return nil
}

// uses turns measurements into uses at times: those of counters lie between two
// of them, and nothing is told where a counter began anew.
func uses(all []opstate.Measure) []model.SamplePair {
	var out []model.SamplePair
	for i, m := range all {
		if m.Of == 0 {
			out = append(out, model.SamplePair{Timestamp: model.TimeFromUnixNano(m.At.UnixNano()), Value: model.SampleValue(m.Value)})
			continue
		}
		if i == 0 || all[i-1].Of == 0 || m.Value < all[i-1].Value || m.Of <= all[i-1].Of {
			continue
		}
		middle := all[i-1].At.Add(m.At.Sub(all[i-1].At) / 2)
		out = append(out, model.SamplePair{Timestamp: model.TimeFromUnixNano(middle.UnixNano()),
			Value: model.SampleValue((m.Value - all[i-1].Value) / (m.Of - all[i-1].Of))})
	}
	return out
}
