// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"cmp"
	"math"
	"slices"
	"strings"

	dto "github.com/prometheus/client_model/go"

	"github.com/niodoo/niodoo_exporter/internal/promtext"
)

// maxPipelineSeries bounds the series of one source.
const maxPipelineSeries = 300

// pipelineIndex finds the row of a family: histograms by their own name,
// counters without _total, gauges. A name may be a histogram in one variant
// and a gauge in another.
type pipelineIndex struct{ plain, histograms map[string]*pipelineFamily }

func newPipelineIndex(families []pipelineFamily) pipelineIndex {
	x := pipelineIndex{map[string]*pipelineFamily{}, map[string]*pipelineFamily{}}
	for i := range families {
		f := &families[i]
		m := x.plain
		if f.desc.Type == dto.MetricType_HISTOGRAM {
			m = x.histograms
		}
		for _, name := range f.from {
			if m[name] != nil {
				panic("collector: pipeline family " + name + " is in the table twice")
			}
			m[name] = f
		}
	}
	return x
}

// find returns the row for a sample, nil for a family that is not in the table.
func (x pipelineIndex) find(name string) *pipelineFamily {
	if f := x.plain[name]; f != nil {
		return f
	}
	for _, suffix := range []string{"_total", "_bucket", "_sum", "_count"} {
		base, ok := strings.CutSuffix(name, suffix)
		switch {
		case !ok:
		case suffix != "_total":
			if f := x.histograms[base]; f != nil {
				return f
			}
		case x.plain[base] != nil && x.plain[base].desc.Type == dto.MetricType_COUNTER:
			return x.plain[base]
		}
	}
	return nil
}

// pipelineReading is what a text said.
type pipelineReading struct {
	series []pipelineSeries
	// lines are no samples, rejected are samples that cannot be, unknown are families.
	lines, rejected, unknown int
	samples                  int
}

// pipelineSeries is one series without its source.
type pipelineSeries struct {
	desc   *Desc
	labels []string
	value  float64
	hist   *buckets
}

// pipelineReader reads one text.
//
// A text may be several expositions one after the other. Of a series that is
// there again the last counts. run_with_metrics.sh gives each run of the
// pipeline a label iteration and what that run alone counted and observed, so
// over labels that are not ours counters and histograms add up; of gauges the
// last counts there, too.
type pipelineReader struct {
	index      pipelineIndex
	reading    pipelineReading
	histograms promtext.Histograms
	counters   map[string]pipelineCount // by the source's whole series
	unknown    map[string]bool
	at         map[string]int // where a series is in reading.series
	order      []string       // keys of counters
	key        []byte
}

// pipelineCount is a counter of the source.
type pipelineCount struct {
	family *pipelineFamily
	labels []string
	value  float64
	// only says that no label was left out.
	only bool
}

// readPipeline reads a text. tail says that it lacks its beginning: sums over
// iterations would go down as it moves on, and are left out.
func (x pipelineIndex) readPipeline(raw []byte, tail bool) pipelineReading {
	r := pipelineReader{index: x, counters: map[string]pipelineCount{}, unknown: map[string]bool{}, at: map[string]int{}}
	stats := promtext.Parse(raw, r.sample)
	r.reading.lines, r.reading.samples = stats.Total(), stats.Samples
	for _, k := range r.order {
		if c := r.counters[k]; c.only || !tail {
			r.add(c.family, c.labels, c.value)
		}
	}
	hists, rejected := r.histograms.All()
	r.reading.rejected += rejected
	for i := range hists {
		r.histogram(&hists[i], tail)
	}
	r.reading.unknown = len(r.unknown)
	return r.reading
}

// sample takes one line.
func (r *pipelineReader) sample(s *promtext.Sample) {
	f := r.index.find(s.Name)
	switch {
	case f == nil:
		r.unknown[s.Family] = true
	case !f.bytes && isTimestamp(s):
		r.reading.rejected++
	case f.desc.Type == dto.MetricType_HISTOGRAM:
		if !r.histograms.Add(s) {
			r.reading.rejected++
		}
	case !f.plausible(s.Value):
		r.reading.rejected++
	case f.desc.Type == dto.MetricType_COUNTER:
		r.count(f, s)
	default:
		r.add(f, f.own(s.Labels), f.base(s.Value))
	}
}

// isTimestamp finds the line whose value a shell variable left empty, so that
// the time behind it, in milliseconds, stands in its place.
func isTimestamp(s *promtext.Sample) bool {
	return s.Timestamp == 0 && s.Value >= 1e12 && s.Value < 5e12 && s.Value == math.Trunc(s.Value)
}

// base converts a value to the base unit. Dividing rounds right where
// multiplying by a thousandth does not.
func (f *pipelineFamily) base(v float64) float64 {
	if f.per == 0 {
		return v
	}
	return v / f.per
}

func (f *pipelineFamily) plausible(v float64) bool {
	return !math.IsNaN(v) && !math.IsInf(v, 0) && (v >= 0 || f.signed) && (f.atMost == 0 || f.base(v) <= f.atMost)
}

// own returns the values of the labels that are kept.
func (f *pipelineFamily) own(labels []promtext.Label) []string {
	values := make([]string, len(f.labels))
	for _, l := range labels {
		if i := slices.Index(f.labels, l.Name); i >= 0 {
			values[i] = strings.Clone(l.Value) // a reading that is kept must not keep the text
		}
	}
	return values
}

// only reports whether all labels are kept.
func (f *pipelineFamily) only(labels []promtext.Label) bool {
	return !slices.ContainsFunc(labels, func(l promtext.Label) bool { return !slices.Contains(f.labels, l.Name) })
}

// count takes note of a counter.
func (r *pipelineReader) count(f *pipelineFamily, s *promtext.Sample) {
	r.key = append(r.key[:0], f.desc.Name...)
	slices.SortFunc(s.Labels, func(a, b promtext.Label) int { return cmp.Compare(a.Name, b.Name) })
	for _, l := range s.Labels {
		r.key = append(append(append(append(r.key, 0xff), l.Name...), 0xff), l.Value...) // never in valid UTF-8
	}
	if c, ok := r.counters[string(r.key)]; ok {
		c.value = f.base(s.Value)
		r.counters[string(r.key)] = c
		return
	}
	k := string(r.key)
	r.order = append(r.order, k)
	r.counters[k] = pipelineCount{f, f.own(s.Labels), f.base(s.Value), f.only(s.Labels)}
}

// series returns the place of a series, nil if there are too many.
func (r *pipelineReader) series(f *pipelineFamily, labels []string) (s *pipelineSeries, fresh bool) {
	key := f.desc.Name + "\xff" + strings.Join(labels, "\xff")
	if i, ok := r.at[key]; ok {
		return &r.reading.series[i], false
	}
	if len(r.reading.series) >= maxPipelineSeries {
		r.reading.rejected++
		return nil, false
	}
	r.at[key] = len(r.reading.series)
	r.reading.series = append(r.reading.series, pipelineSeries{desc: f.desc, labels: labels})
	return &r.reading.series[r.at[key]], true
}

// add adds a value to a counter's series, or puts it in place of a gauge's.
func (r *pipelineReader) add(f *pipelineFamily, labels []string, v float64) {
	s, _ := r.series(f, labels)
	switch {
	case s == nil:
	case f.desc.Type == dto.MetricType_COUNTER:
		s.value += v
	default:
		s.value = v
	}
}

// histogram adds a histogram to its series.
func (r *pipelineReader) histogram(h *promtext.Buckets, tail bool) {
	f := r.index.histograms[h.Family]
	if tail && !f.only(h.Labels) {
		return
	}
	if h.Sum < 0 { // none of what is observed can be
		r.reading.rejected++
		return
	}
	b := buckets{count: h.Count, sum: h.Sum, bounds: slices.Clone(h.Bounds), counts: slices.Clone(h.Counts)}
	if n := len(b.bounds); !f.maybeSeconds || n == 0 || b.bounds[n-1] > libraryLastBound {
		b.sum = f.base(b.sum)
		for i := range b.bounds {
			b.bounds[i] = f.base(b.bounds[i])
		}
	}
	s, fresh := r.series(f, f.own(h.Labels))
	switch {
	case s == nil:
	case fresh:
		s.hist = &b
	case !slices.Equal(s.hist.bounds, b.bounds):
		r.reading.rejected++ // what has other buckets cannot be added
	default:
		s.hist.count += b.count
		s.hist.sum += b.sum
		for i, n := range b.counts {
			s.hist.counts[i] += n
		}
	}
}
