// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

// family is a family of the Prometheus text format.
type family struct {
	name, help, kind string
	samples          []sample
}

// sample is one line: name and suffix, pairs of label and value, the value.
type sample struct {
	suffix string
	labels []string
	value  float64
}

func gauge(name, help string, value float64, labels ...string) family {
	return family{name, help, "gauge", []sample{{labels: labels, value: value}}}
}

func counter(name, help string, value float64, labels ...string) family {
	return family{name, help, "counter", []sample{{labels: labels, value: math.Floor(value)}}}
}

// with adds a series to a family.
func (f family) with(value float64, labels ...string) family {
	if f.kind == "counter" {
		value = math.Floor(value)
	}
	f.samples = append(f.samples, sample{labels: labels, value: value})
	return f
}

// histogramFamily shows a histogram; the number format decides how le looks.
func histogramFamily(name, help string, h histogram, format func(float64) string) family {
	f := family{name: name, help: help, kind: "histogram"}
	for i, b := range h.bounds {
		f.samples = append(f.samples, sample{"_bucket", []string{"le", format(b)}, math.Floor(h.buckets[i])})
	}
	f.samples = append(f.samples,
		sample{"_bucket", []string{"le", "+Inf"}, math.Floor(h.count)},
		sample{"_sum", nil, h.sum},
		sample{"_count", nil, math.Floor(h.count)})
	return f
}

// rustNumber writes numbers as the encoder of the Rust client does.
func rustNumber(v float64) string {
	switch {
	case math.IsNaN(v):
		return "NaN"
	case math.IsInf(v, 1):
		return "inf"
	case math.IsInf(v, -1):
		return "-inf"
	}
	return strconv.FormatFloat(v, 'f', -1, 64)
}

// goNumber writes numbers as the Go and Python clients do.
func goNumber(v float64) string {
	switch {
	case math.IsInf(v, 1):
		return "+Inf"
	case math.IsInf(v, -1):
		return "-Inf"
	}
	return strconv.FormatFloat(v, 'g', -1, 64)
}

// exposition is the text of families, sorted by name as every client does.
func exposition(families []family, format func(float64) string) []byte {
	slices.SortStableFunc(families, func(a, b family) int { return strings.Compare(a.name, b.name) })
	var b strings.Builder
	for _, f := range families {
		b.WriteString("# HELP " + f.name + " " + f.help + "\n# TYPE " + f.name + " " + f.kind + "\n")
		for _, s := range f.samples {
			b.WriteString(f.name + s.suffix)
			for i := 0; i+1 < len(s.labels); i += 2 {
				b.WriteByte("{,"[min(i, 1)])
				b.WriteString(s.labels[i] + `="` + s.labels[i+1] + `"`)
			}
			if len(s.labels) > 0 {
				b.WriteByte('}')
			}
			b.WriteString(" " + format(s.value) + "\n")
		}
	}
	return []byte(b.String())
}

// The content types of Prometheus text, with and without its version.
const (
	typeText      = "text/plain; charset=utf-8"
	typeMetrics   = "text/plain; version=0.0.4"
	typeGoMetrics = "text/plain; version=0.0.4; charset=utf-8; escaping=underscores"
	typeJSON      = "application/json"
)

// answer sends a body with its type.
func answer(w http.ResponseWriter, status int, contentType string, body []byte) {
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	_, _ = w.Write(body)
}

func answerText(w http.ResponseWriter, status int, body string) {
	answer(w, status, typeText, []byte(body))
}

// allows reports whether a list of methods such as "GET, HEAD" has one.
func allows(methods, method string) bool {
	for m := range strings.SplitSeq(methods, ", ") {
		if m == method {
			return true
		}
	}
	return false
}
