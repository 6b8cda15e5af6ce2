// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// maxLabelValue bounds a label's value, in bytes.
const maxLabelValue = 256

// Desc describes one metric family. Every family the exporter can export is
// declared with one, in the file of its collector; the reference, the mixin's
// catalogue and the linters read them.
type Desc struct {
	// Collector is the collector that exports it, "" for the exporter itself.
	Collector string
	// Name is the full metric name.
	Name string
	// Type is the metric type.
	Type dto.MetricType
	// Help says what it is; Source says where the value comes from. HELP is both.
	Help, Source string
	// Labels are the label names in the order of the values.
	Labels []string
	// Absent says when a healthy component does not report it; "" is never.
	Absent string

	desc     *prometheus.Desc
	helpText string
	sorted   []int // indexes of Labels in the order of their names
	names    []*string
}

// catalogue holds every declared family, by name and by client_golang's own description.
var (
	catalogue = map[string]*Desc{}
	byDesc    = map[*prometheus.Desc]*Desc{}
)

// Catalogue returns every declared metric family, sorted by name.
func Catalogue() []*Desc {
	all := make([]*Desc, 0, len(catalogue))
	for _, d := range catalogue {
		all = append(all, d)
	}
	slices.SortFunc(all, func(a, b *Desc) int { return cmp.Compare(a.Name, b.Name) })
	return all
}

// gauge declares a gauge niodoo_<name>. help has no full stop; source names the
// endpoint, field, file or statement that the value comes from.
func gauge(collector, name, help, source string, labels ...string) *Desc {
	return newDesc(collector, name, dto.MetricType_GAUGE, help, source, labels)
}

// counter declares a counter niodoo_<name>, which must end in _total.
func counter(collector, name, help, source string, labels ...string) *Desc {
	return newDesc(collector, name, dto.MetricType_COUNTER, help, source, labels)
}

// histogram declares a histogram niodoo_<name>.
func histogram(collector, name, help, source string, labels ...string) *Desc {
	return newDesc(collector, name, dto.MetricType_HISTOGRAM, help, source, labels)
}

// absent notes when a healthy component does not report the metric.
func (d *Desc) absent(when string) *Desc {
	d.Absent = when
	return d
}

func newDesc(collector, name string, t dto.MetricType, help, source string, labels []string) *Desc {
	name = "niodoo_" + name
	if catalogue[name] != nil {
		panic("collector: metric " + name + " declared twice")
	}
	d := &Desc{Collector: collector, Name: name, Type: t, Help: help, Source: source, Labels: labels}
	d.helpText = d.HelpText()
	d.desc = prometheus.NewDesc(name, d.helpText, labels, nil)
	d.sorted = make([]int, len(labels))
	for i := range labels {
		d.sorted[i] = i
		d.names = append(d.names, new(labels[i]))
	}
	slices.SortFunc(d.sorted, func(a, b int) int { return cmp.Compare(labels[a], labels[b]) })
	catalogue[name], byDesc[d.desc] = d, d
	return d
}

// HelpText is the HELP line's text.
func (d *Desc) HelpText() string {
	if d.Source == "" {
		return d.Help + "."
	}
	return d.Help + " (" + d.Source + ")."
}

// TypeName is the TYPE line's word.
func (d *Desc) TypeName() string { return strings.ToLower(d.Type.String()) }

// Unit returns the base unit in the metric's name, "" for a plain number.
func (d *Desc) Unit() string {
	words := strings.Split(strings.TrimSuffix(d.Name, "_total"), "_")
	switch last := words[len(words)-1]; last {
	case "seconds", "bytes", "ratio", "celsius", "watts", "hertz":
		return last
	}
	return ""
}

// sample is a metric with a fixed value: what all collectors send.
type sample struct {
	desc   *Desc
	values []string // label values, in the order of desc.Labels
	value  float64
	hist   *buckets
}

// buckets is the value of a histogram.
type buckets struct {
	count uint64
	sum   float64
	// upper bounds and cumulative counts, ascending; +Inf may be left out.
	bounds []float64
	counts []uint64
}

// metric returns a sample of the family. Label values that are not UTF-8 or too
// long are mended; anything else that is wrong is found by the runner.
func (d *Desc) metric(v float64, labelValues ...string) prometheus.Metric {
	for i, s := range labelValues {
		labelValues[i] = cleanLabel(s)
	}
	return &sample{desc: d, values: labelValues, value: v}
}

// histogramMetric returns a sample of a histogram family.
func (d *Desc) histogramMetric(b buckets, labelValues ...string) prometheus.Metric {
	m := d.metric(0, labelValues...).(*sample)
	m.hist = &b
	return m
}

// boolean is metric for a yes or no.
func (d *Desc) boolean(v bool, labelValues ...string) prometheus.Metric {
	return d.metric(boolValue(v), labelValues...)
}

func boolValue(v bool) float64 {
	if v {
		return 1
	}
	return 0
}

func cleanLabel(s string) string {
	if len(s) > maxLabelValue {
		cut := maxLabelValue
		for cut > 0 && !utf8.RuneStart(s[cut]) {
			cut--
		}
		s = s[:cut]
	}
	if !utf8.ValidString(s) {
		s = strings.ToValidUTF8(s, "\uFFFD")
	}
	return s
}

// Desc implements prometheus.Metric.
func (s *sample) Desc() *prometheus.Desc { return s.desc.desc }

// Write implements prometheus.Metric.
func (s *sample) Write(m *dto.Metric) error {
	if len(s.values) != len(s.desc.Labels) {
		return fmt.Errorf("metric %s has %d label values for the labels %v", s.desc.Name, len(s.values), s.desc.Labels)
	}
	m.Label = make([]*dto.LabelPair, 0, len(s.values))
	for _, i := range s.desc.sorted {
		m.Label = append(m.Label, &dto.LabelPair{Name: s.desc.names[i], Value: &s.values[i]})
	}
	switch s.desc.Type {
	case dto.MetricType_COUNTER:
		m.Counter = &dto.Counter{Value: &s.value}
	case dto.MetricType_HISTOGRAM:
		if s.hist == nil {
			return fmt.Errorf("metric %s is a histogram and was sent a plain value", s.desc.Name)
		}
		h := &dto.Histogram{SampleCount: &s.hist.count, SampleSum: &s.hist.sum}
		for i := range s.hist.bounds {
			h.Bucket = append(h.Bucket, &dto.Bucket{UpperBound: &s.hist.bounds[i], CumulativeCount: &s.hist.counts[i]})
		}
		m.Histogram = h
	default:
		m.Gauge = &dto.Gauge{Value: &s.value}
	}
	return nil
}

// adopt makes a sample of any metric a collector may send. It fails on one
// whose family is not declared or whose labels do not fit it.
func adopt(m prometheus.Metric) (*sample, error) {
	if s, ok := m.(*sample); ok {
		if len(s.values) != len(s.desc.Labels) || (s.desc.Type == dto.MetricType_HISTOGRAM) != (s.hist != nil) {
			return nil, s.Write(&dto.Metric{})
		}
		return s, nil
	}
	if m == nil {
		return nil, errors.New("no metric was sent")
	}
	d := byDesc[m.Desc()]
	if d == nil {
		return nil, fmt.Errorf("metric %s is not declared", m.Desc())
	}
	var raw dto.Metric
	if err := m.Write(&raw); err != nil {
		return nil, err
	}
	s := &sample{desc: d, values: make([]string, len(d.Labels))}
	for i, l := range d.Labels {
		at := slices.IndexFunc(raw.Label, func(p *dto.LabelPair) bool { return p.GetName() == l })
		if at < 0 || len(raw.Label) != len(d.Labels) {
			return nil, fmt.Errorf("metric %s does not have the labels %v", d.Name, d.Labels)
		}
		s.values[i] = cleanLabel(raw.Label[at].GetValue())
	}
	switch {
	case d.Type == dto.MetricType_GAUGE && raw.Gauge != nil:
		s.value = raw.Gauge.GetValue()
	case d.Type == dto.MetricType_COUNTER && raw.Counter != nil:
		s.value = raw.Counter.GetValue()
	default:
		return nil, fmt.Errorf("metric %s is not a %s", d.Name, d.TypeName())
	}
	return s, nil
}
