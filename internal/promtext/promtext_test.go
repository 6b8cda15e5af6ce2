// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package promtext

import (
	"bytes"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"google.golang.org/protobuf/proto"
)

// collect renders each sample on a line: what a test compares.
func collect(raw []byte) ([]string, Stats) {
	var got []string
	stats := Parse(raw, func(s *Sample) { got = append(got, render(s)) })
	return got, stats
}

func render(s *Sample) string {
	var b strings.Builder
	b.WriteString(s.Name)
	for _, l := range s.Labels {
		fmt.Fprintf(&b, " %s=%q", l.Name, l.Value)
	}
	fmt.Fprintf(&b, " %v", s.Value)
	if s.Timestamp != 0 {
		fmt.Fprintf(&b, " @%d", s.Timestamp)
	}
	return b.String()
}

func TestParse(t *testing.T) {
	for _, c := range []struct {
		name, text string
		want       []string
		rejected   [numReasons]int
	}{
		{"empty", "", nil, [numReasons]int{}},
		{"plain", "up 1\n", []string{"up 1"}, [numReasons]int{}},
		{"no newline at the end", "up 1", []string{"up 1"}, [numReasons]int{}},
		{"CRLF and a byte order mark", "\ufeffup 1\r\n\r\ndown 0\r\n", []string{"up 1", "down 0"}, [numReasons]int{}},
		{"blanks everywhere", " \t a_b:c { x = \"1\" , y=\"2\" , }  3  4 \n", []string{`a_b:c x="1" y="2" 3 @4`}, [numReasons]int{}},
		{"special values", "a NaN\na nan\na inf\na -inf\na +Inf\n", []string{"a NaN", "a NaN", "a +Inf", "a -Inf", "a +Inf"}, [numReasons]int{}},
		{"escapes", `a{x="\\ \" \n C:\temp"} 1`, []string{`a x="\\ \" \n C:\\temp" 1`}, [numReasons]int{}},
		{"invalid UTF-8", "a{x=\"\xff\"} 1\n\xff\xfe\n", []string{`a x="` + "\uFFFD" + `" 1`}, [numReasons]int{1}},
		{"OpenMetrics", "# TYPE a counter\n# UNIT a seconds\na_total 1 1520879607.789 # {trace_id=\"x\"} 0.67 1\na_total 2 # {} 1\n# EOF\n",
			[]string{"a_total 1 @1520879607789", "a_total 2"}, [numReasons]int{}},
		{"a split sample", "niodoo_threat_cycles{iteration=\"3\"} 0\n0 1761100000000\nnext 1\n",
			[]string{`niodoo_threat_cycles iteration="3" 0`, "next 1"}, [numReasons]int{1}},
		{"a prompt pasted into the header", "# prompt: Explain\nhow a torus,\nif {cut}, is = \"a\" circle?\n\nup 1\n",
			[]string{"up 1"}, [numReasons]int{1, 1}},
		{"ANSI log lines and CSV", "\x1b[2m2025-10-21T05:28:09.320323Z\x1b[0m \x1b[32m INFO\x1b[0m processing count=5\n" +
			"prompt,baseline,hybrid\n\"a \"\"b\"\"\",1,2\nup 1\n", []string{"up 1"}, [numReasons]int{3}},
		{"cut off", "up 1\nup{a=\"b\nup{a=\"b\"\nup{a\nup{\nup\nup{a=\"b\"}\n", []string{"up 1"}, [numReasons]int{6}},
		{"not a number", "a 1,5\na 0x1p3\na 1_000\na 1e999\na 1 2x\na{}1\n", []string{"a 1"}, [numReasons]int{0, 5}},
		{"too many words", "a 1 2 3\n", nil, [numReasons]int{1}},
		{"a label twice", `a{x="1",x="2"} 1`, nil, [numReasons]int{1}},
		{"a huge line", "a{x=\"" + strings.Repeat("y", maxLine) + "\"} 1\nup 1\n", []string{"up 1"}, [numReasons]int{0, 0, 1}},
		{"too many labels", "a{" + manyLabels(maxLabels+1) + "} 1\n", nil, [numReasons]int{0, 0, 1}},
		{"repeated HELP and TYPE", "# HELP a x\n# TYPE a gauge\na 1\n# HELP a y\n# TYPE a gauge\na 2\n", []string{"a 1", "a 2"}, [numReasons]int{}},
		{"odd comments", "#\n# TYPE\n# TYPE a\n#TYPE b gauge\n# TYPE 1 gauge\n# nothing\n", nil, [numReasons]int{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, stats := collect([]byte(c.text))
			if !slices.Equal(got, c.want) {
				t.Errorf("samples are\n%q, want\n%q", got, c.want)
			}
			if stats.Samples != len(c.want) || stats.Rejected != c.rejected {
				t.Errorf("stats are %+v, want %d samples and %v rejected", stats, len(c.want), c.rejected)
			}
		})
	}
}

func manyLabels(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "l%d=\"\",", i)
	}
	return b.String()
}

func TestTypes(t *testing.T) {
	const text = `before 1
# TYPE before counter
before 1
# TYPE h histogram
h_bucket{le="+Inf"} 1
h_sum 1
h_count 1
h_total 1
# TYPE s Summary
s{quantile="0.5"} 1
s_count 1
s_bucket 1
# TYPE c counter
c_total 1
# TYPE c_total gauge
c_total 1
# TYPE c stateset
c 1
`
	want := []string{"before before 0", "before before 1", "h_bucket h 3", "h_sum h 3", "h_count h 3", "h_total h_total 0",
		"s s 4", "s_count s 4", "s_bucket s_bucket 0", "c_total c 1", "c_total c_total 2", "c c 0"}
	var got []string
	Parse([]byte(text), func(s *Sample) { got = append(got, fmt.Sprint(s.Name, " ", s.Family, " ", s.Type)) })
	if !slices.Equal(got, want) {
		t.Errorf("got\n%q, want\n%q", got, want)
	}
}

func histograms(text string) ([]Buckets, int) {
	var h Histograms
	Parse([]byte(text), func(s *Sample) { h.Add(s) })
	return h.All()
}

func TestHistograms(t *testing.T) {
	for _, c := range []struct {
		name, text string
		want       string
		rejected   int
	}{
		{"whole", "# TYPE a histogram\na_bucket{le=\"1\"} 2\na_bucket{le=\"+Inf\"} 3\na_sum 4.5\na_count 3\n", "[{a [] 3 4.5 [1] [2]}]", 0},
		{"no TYPE", "a_bucket{le=\"1\"} 2\na_bucket{le=\"+Inf\"} 3\na_sum 4.5\na_count 3\n", "[{a [] 3 4.5 [1] [2]}]", 0},
		{"no count", "a_bucket{le=\"1\"} 2\na_bucket{le=\"+Inf\"} 3\na_sum 4.5\n", "[{a [] 3 4.5 [1] [2]}]", 0},
		{"no +Inf, out of order", "a_bucket{le=\"2\"} 3\na_bucket{le=\"1.0\"} 2\na_sum 4.5\na_count 3\n", "[{a [] 3 4.5 [1 2] [2 3]}]", 0},
		{"labels in any order", "a_bucket{le=\"1\",x=\"1\",y=\"2\"} 2\na_bucket{y=\"2\",le=\"+Inf\",x=\"1\"} 3\na_sum{x=\"1\",y=\"2\"} 4.5\na_bucket{le=\"1\",x=\"3\"} 1\na_sum{x=\"3\"} 0\na_count{x=\"3\"} 1\n",
			"[{a [{x 1} {y 2}] 3 4.5 [1] [2]} {a [{x 3}] 1 0 [1] [1]}]", 0},
		{"the last exposition wins", "a_bucket{le=\"1\"} 9\na_sum 9\na_count 9\na_bucket{le=\"1\"} 2\na_sum 4.5\na_count 3\n", "[{a [] 3 4.5 [1] [2]}]", 0},
		{"no sum", "a_bucket{le=\"1\"} 2\na_count 3\n", "[]", 1},
		{"no total", "a_bucket{le=\"1\"} 2\na_sum 3\n", "[]", 1},
		{"no bucket", "# TYPE a histogram\na_sum 3\na_count 1\n", "[]", 1},
		{"falling", "a_bucket{le=\"1\"} 2\na_bucket{le=\"2\"} 1\na_sum 3\na_count 3\n", "[]", 1},
		{"+Inf is not the count", "a_bucket{le=\"1\"} 2\na_bucket{le=\"+Inf\"} 4\na_sum 3\na_count 3\n", "[]", 1},
		{"bucket over the count", "a_bucket{le=\"1\"} 4\na_sum 3\na_count 3\n", "[]", 1},
		{"fractions", "a_bucket{le=\"1\"} 2.5\na_sum 3\na_count 3\n", "[]", 1},
		{"NaN", "a_bucket{le=\"1\"} NaN\na_sum 3\na_count 3\n", "[]", 1},
		{"NaN sum", "a_bucket{le=\"1\"} 1\na_sum NaN\na_count 3\n", "[]", 1},
		{"negative", "a_bucket{le=\"1\"} -1\na_sum 3\na_count -1\n", "[]", 1},
		{"bad bound", "a_bucket{le=\"x\"} 1\na_sum 3\na_count 1\n", "[]", 1},
		{"no histogram", "# TYPE a_count gauge\na_count 1\nb_sum 1\nc_bucket 1\n# TYPE d summary\nd_sum 1\n", "[]", 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, rejected := histograms(c.text)
			if s := fmt.Sprint(got); s != c.want || rejected != c.rejected {
				t.Errorf("got %s and %d rejected, want %s and %d", s, rejected, c.want, c.rejected)
			}
		})
	}
}

func TestHistogramWithTooManyBuckets(t *testing.T) {
	var b strings.Builder
	for i := range maxBuckets + 1 {
		fmt.Fprintf(&b, "a_bucket{le=\"%d\"} 1\n", i)
	}
	b.WriteString("a_sum 1\na_count 1\n")
	if got, rejected := histograms(b.String()); len(got) != 0 || rejected != 1 {
		t.Errorf("got %d and %d rejected", len(got), rejected)
	}
}

// exposition is text as client_golang writes it, with every type.
func exposition(n int) []byte {
	var b bytes.Buffer
	label := func(v string) []*dto.LabelPair {
		return []*dto.LabelPair{{Name: new("part"), Value: new(v)}}
	}
	for i := range n {
		v := float64(i) * 1.25
		for _, f := range []*dto.MetricFamily{
			{Name: new(fmt.Sprintf("c%d_total", i)), Help: new("A \\ b\nc"), Type: dto.MetricType_COUNTER.Enum(),
				Metric: []*dto.Metric{{Label: label("a\"b\\c\nd"), Counter: &dto.Counter{Value: &v}}, {Label: label("ü"), Counter: &dto.Counter{Value: &v}, TimestampMs: proto.Int64(7)}}},
			{Name: new(fmt.Sprintf("g%d", i)), Type: dto.MetricType_GAUGE.Enum(),
				Metric: []*dto.Metric{{Gauge: &dto.Gauge{Value: new(math.Inf(-1))}}, {Label: label(""), Gauge: &dto.Gauge{Value: new(math.NaN())}}}},
			{Name: new(fmt.Sprintf("u%d", i)), Type: dto.MetricType_UNTYPED.Enum(), Metric: []*dto.Metric{{Untyped: &dto.Untyped{Value: new(1e-300)}}}},
			{Name: new(fmt.Sprintf("s%d", i)), Type: dto.MetricType_SUMMARY.Enum(), Metric: []*dto.Metric{{Summary: &dto.Summary{
				SampleCount: new(uint64(3)), SampleSum: &v, Quantile: []*dto.Quantile{{Quantile: new(0.5), Value: &v}}}}}},
			{Name: new(fmt.Sprintf("h%d", i)), Type: dto.MetricType_HISTOGRAM.Enum(), Metric: []*dto.Metric{{Label: label("x"), Histogram: &dto.Histogram{
				SampleCount: proto.Uint64(9), SampleSum: &v, Bucket: []*dto.Bucket{
					{UpperBound: new(0.5), CumulativeCount: new(uint64(2))}, {UpperBound: new(1.0), CumulativeCount: new(uint64(7))}}}}}},
		} {
			if _, err := expfmt.MetricFamilyToText(&b, f); err != nil {
				panic(err)
			}
		}
	}
	return b.Bytes()
}

// flatten renders what expfmt read the way collect does, without order.
func flatten(families map[string]*dto.MetricFamily) []string {
	var out []string
	for _, f := range families {
		for _, m := range f.Metric {
			s := Sample{Name: f.GetName(), Timestamp: m.GetTimestampMs()}
			for _, l := range m.Label {
				s.Labels = append(s.Labels, Label{l.GetName(), l.GetValue()})
			}
			add := func(suffix string, v float64, extra ...Label) {
				c := s
				c.Name, c.Value, c.Labels = s.Name+suffix, v, append(slices.Clone(s.Labels), extra...)
				out = append(out, render(&c))
			}
			switch {
			case m.Counter != nil:
				add("", m.Counter.GetValue())
			case m.Gauge != nil:
				add("", m.Gauge.GetValue())
			case m.Untyped != nil:
				add("", m.Untyped.GetValue())
			case m.Summary != nil:
				add("_sum", m.Summary.GetSampleSum())
				add("_count", float64(m.Summary.GetSampleCount()))
				for _, q := range m.Summary.Quantile {
					add("", q.GetValue(), Label{"quantile", fmt.Sprint(q.GetQuantile())})
				}
			case m.Histogram != nil:
				add("_sum", m.Histogram.GetSampleSum())
				add("_count", float64(m.Histogram.GetSampleCount()))
				for _, b := range m.Histogram.Bucket {
					add("_bucket", float64(b.GetCumulativeCount()), Label{"le", fmt.Sprint(b.GetUpperBound())})
				}
			}
		}
	}
	slices.Sort(out)
	return out
}

func TestAgreesWithExpfmt(t *testing.T) {
	raw := exposition(3)
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	got, stats := collect(raw)
	slices.Sort(got)
	if want := flatten(families); !slices.Equal(got, want) || stats.Total() != 0 {
		t.Errorf("got (%+v)\n%s\nwant\n%s", stats, strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	hs, rejected := histograms(string(raw))
	if len(hs) != 3 || rejected != 0 || fmt.Sprint(hs[2]) != "{h2 [{part x}] 9 2.5 [0.5 1] [2 7]}" {
		t.Errorf("histograms are %v, %d rejected", hs, rejected)
	}
}

// FuzzParse: whatever comes, nothing panics, every label is UTF-8, each line
// is counted once, what is fine alone is fine behind any other whole line, and
// what expfmt can read we read alike.
func FuzzParse(f *testing.F) {
	files, err := filepath.Glob("testdata/*.prom")
	if err != nil || len(files) == 0 {
		f.Fatal("no seeds", err)
	}
	for _, name := range files {
		raw, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
	}
	f.Add(exposition(1))
	f.Add([]byte("# TYPE a counter\na{b=\"c\\n\"} 1 2\nd 0x1p3\n e{} +Inf\n"))
	f.Add([]byte("a{b=\"c\",} 1e3\n# HELP a \\n\nx -0\n"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		var h Histograms
		lines := 0
		for line := range bytes.Lines(raw) {
			if l := trimLine(strings.TrimSuffix(string(line), "\n")); l != "" && l[0] != '#' {
				lines++
			}
		}
		var sanest []string
		stats := Parse(raw, func(s *Sample) {
			sanest = append(sanest, render(s))
			for _, l := range s.Labels {
				if l.Name == "" || strings.ToValidUTF8(l.Value, "") != l.Value {
					t.Errorf("label %q=%q", l.Name, l.Value)
				}
			}
			if s.Name == "" || !strings.HasPrefix(s.Name, s.Family) {
				t.Errorf("name %q, family %q", s.Name, s.Family)
			}
			h.Add(s)
		})
		if stats.Samples+stats.Total() != lines {
			t.Errorf("%+v of %d lines", stats, lines)
		}
		all, _ := h.All()
		for _, b := range all {
			if len(b.Bounds) != len(b.Counts) || !slices.IsSorted(b.Bounds) || !slices.IsSorted(b.Counts) ||
				len(b.Counts) > 0 && b.Counts[len(b.Counts)-1] > b.Count {
				t.Errorf("histogram %+v", b)
			}
		}
		again, _ := collect(append([]byte("in front 1 of all\n"), raw...))
		if !bytes.HasPrefix(raw, []byte("\ufeff")) && !slices.Equal(sanest, again) {
			t.Errorf("a bad line in front changes\n%q to\n%q", sanest, again)
		}
		parser := expfmt.NewTextParser(model.LegacyValidation)
		families, err := parser.TextToMetricFamilies(bytes.NewReader(raw))
		if err != nil || compound(families) {
			return
		}
		slices.Sort(sanest)
		if want := flatten(families); !slices.Equal(sanest, want) {
			t.Errorf("expfmt reads\n%q, we\n%q", want, sanest)
		}
	})
}

// compound reports whether there are histograms or summaries, which expfmt
// does not hand out line by line.
func compound(families map[string]*dto.MetricFamily) bool {
	for _, f := range families {
		if t := f.GetType(); t != dto.MetricType_COUNTER && t != dto.MetricType_GAUGE && t != dto.MetricType_UNTYPED {
			return true
		}
	}
	return false
}

func BenchmarkParse(b *testing.B) {
	raw := exposition(100)
	b.SetBytes(int64(len(raw)))
	b.ReportAllocs()
	for b.Loop() {
		Parse(raw, func(*Sample) {})
	}
}

func BenchmarkExpfmt(b *testing.B) {
	raw := exposition(100)
	b.SetBytes(int64(len(raw)))
	b.ReportAllocs()
	for b.Loop() {
		parser := expfmt.NewTextParser(model.LegacyValidation)
		if _, err := parser.TextToMetricFamilies(bytes.NewReader(raw)); err != nil {
			b.Fatal(err)
		}
	}
}
