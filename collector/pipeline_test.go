// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/niodoo/niodoo_exporter/internal/config"
)

// pipelineConfig is the configuration of a pipeline with these sources.
func pipelineConfig(t testing.TB, urls, files []string, more ...string) *config.Config {
	t.Helper()
	quote := func(l []string) string {
		q := make([]string, len(l))
		for i, s := range l {
			q[i] = fmt.Sprintf("%q", s)
		}
		return "[" + strings.Join(q, ", ") + "]"
	}
	return only(t, "pipeline", fmt.Sprintf("{urls: %s, files: %s%s}", quote(urls), quote(files), strings.Join(append([]string{""}, more...), ", ")))
}

// pipelineSeriesOf returns the lines of a scrape that are about the pipeline's own families.
func pipelineSeriesOf(families []*dto.MetricFamily, prefixes ...string) []string {
	var lines []string
	for line := range strings.Lines(text(families)) {
		for _, p := range prefixes {
			if strings.HasPrefix(line, "niodoo_pipeline_"+p) {
				lines = append(lines, strings.TrimPrefix(strings.TrimSpace(line), "niodoo_pipeline_"))
			}
		}
	}
	return lines
}

func pipelineWrite(t testing.TB, path, content string) string {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// Every variant of the pipeline has a text in testdata/pipeline, modelled on
// what it prints or, where nothing runs, on its source or its documents.
func TestPipelineVariants(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/pipeline/*.prom")
	if err != nil || len(files) < 10 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	for _, f := range files {
		path, err := filepath.Abs(f)
		if err != nil {
			t.Fatal(err)
		}
		name := strings.TrimSuffix(filepath.Base(f), ".prom")
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			golden(t, "pipeline_"+name, scrape(t, scraper(t, pipelineConfig(t, nil, []string{path}))).Families,
				pipelineModified.Name)
		})
	}
}

// Every row of the table is exercised by a variant: a typing error in a name
// would otherwise never be seen.
func TestPipelineTableIsCovered(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/pipeline/*.prom")
	if err != nil {
		t.Fatal(err)
	}
	x := newPipelineIndex(pipelineFamilies)
	found := map[*Desc]bool{}
	for _, f := range files {
		raw, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range x.readPipeline(raw, false).series {
			found[s.desc] = true
		}
	}
	for _, f := range pipelineFamilies {
		if !found[f.desc] {
			t.Errorf("no variant has %s", f.desc.Name)
		}
		if len(f.labels)+1 != len(f.desc.Labels) {
			t.Errorf("%s: the labels %v become %v", f.desc.Name, f.labels, f.desc.Labels)
		}
		for _, n := range f.from {
			if strings.HasSuffix(n, "_total") {
				t.Errorf("%s: %s must stand without _total", f.desc.Name, n)
			}
		}
	}
}

func TestPipelineReading(t *testing.T) {
	t.Parallel()
	x := newPipelineIndex(pipelineFamilies)
	hist := func(labels string, le string, below, count int, sum string) string {
		join := labels
		if join != "" {
			join += ","
		}
		return fmt.Sprintf("niodoo_latency_ms_bucket{%sle=%q} %d\nniodoo_latency_ms_bucket{%sle=\"+Inf\"} %d\nniodoo_latency_ms_sum{%s} %s\nniodoo_latency_ms_count{%s} %d\n",
			join, le, below, join, count, labels, sum, labels, count)
	}
	for _, c := range []struct {
		name, text               string
		tail                     bool
		want                     string
		lines, rejected, unknown int
	}{
		{"counter without _total", "niodoo_threat_cycles 3\n", false, "threat_cycles_total{} 3", 0, 0, 0},
		{"counter with _total", "# TYPE niodoo_threat_cycles_total counter\nniodoo_threat_cycles_total 3\n", false, "threat_cycles_total{} 3", 0, 0, 0},
		{"counter as OpenMetrics", "# TYPE niodoo_threat_cycles counter\nniodoo_threat_cycles_total 3\nniodoo_threat_cycles_created 1761283845.1\n# EOF\n", false, "threat_cycles_total{} 3", 0, 0, 1},
		{"counter called a gauge", "# TYPE niodoo_threat_cycles gauge\nniodoo_threat_cycles 3\n", false, "threat_cycles_total{} 3", 0, 0, 0},
		{"counters that cannot be", "niodoo_threat_cycles -1\nniodoo_healing_cycles NaN\nniodoo_soft_retries_total inf\n", false, "", 0, 3, 0},
		{"gauge with _total is another family", "niodoo_entropy_bits_total 1\n", false, "", 0, 0, 1},
		{"gauges out of range", "niodoo_entropy_bits 64.5\nniodoo_rouge_l 1.01\nniodoo_tokenizer_oov_rate -0.1\ntcs_gpu_utilization_percent 101\n", false, "", 0, 4, 0},
		{"gauges at the ends", "niodoo_rouge_l 0\ntcs_gpu_utilization_percent 100\nniodoo_entropy_bits 64\n", false, "rouge_l_score{} 0, tcs_gpu_utilization_ratio{} 1, entropy{} 64", 0, 0, 0},
		{"a time in the place of a value", "niodoo_entropy_bits{iteration=\"1\"}  1761229281035\nniodoo_threat_cycles  1761229281035\nniodoo_latency_ms_sum  1761229281035\n", false, "", 0, 3, 0},
		{"bytes may be as many", "tcs_memory_usage_bytes 1761229281035\n", false, "tcs_memory_used_bytes{} 1.761229281035e+12", 0, 0, 0},
		{"the last of a gauge", "niodoo_rouge_l{iteration=\"1\"} 0.1\nniodoo_rouge_l{iteration=\"2\"} 0.2\n", false, "rouge_l_score{} 0.2", 0, 0, 0},
		{"counters over iterations", "niodoo_threat_cycles{iteration=\"1\"} 9\nniodoo_threat_cycles{iteration=\"2\"} 5\nniodoo_threat_cycles{iteration=\"2\"} 6\n", false, "threat_cycles_total{} 15", 0, 0, 0},
		{"counters of an end", "niodoo_threat_cycles{iteration=\"8\"} 9\nniodoo_rouge_l{iteration=\"8\"} 0.1\nniodoo_healing_cycles 7\n" + hist(`iteration="8"`, "50", 1, 1, "40"), true, "rouge_l_score{} 0.1, healing_cycles_total{} 7", 0, 0, 0},
		{"labels in another order", "niodoo_threat_cycles{a=\"1\",b=\"2\"} 9\nniodoo_threat_cycles{b=\"2\",a=\"1\"} 11\n", false, "threat_cycles_total{} 11", 0, 0, 0},
		{"the last of a counter", "niodoo_threat_cycles 9\nniodoo_threat_cycles 11\n", false, "threat_cycles_total{} 11", 0, 0, 0},
		{"histograms over iterations", hist(`iteration="1"`, "50.0", 1, 1, "40") + hist(`iteration="2"`, "50", 0, 1, "2000"), false, "latency_seconds{} 2 2.04 [0.05] [1]", 0, 0, 0},
		{"histograms with other bounds", hist(`iteration="1"`, "50", 1, 1, "40") + hist(`iteration="2"`, "60", 0, 1, "2000"), false, "latency_seconds{} 1 0.04 [0.05] [1]", 0, 1, 0},
		{"the last of a histogram", hist("", "50", 1, 1, "40") + hist("", "50", 2, 3, "90"), false, "latency_seconds{} 3 0.09 [0.05] [2]", 0, 0, 0},
		{"histogram that does not add up", hist("", "50", 3, 2, "40"), false, "", 0, 1, 0},
		{"histogram of negative times", hist("", "50", 2, 2, "-40"), false, "", 0, 1, 0},
		{"histogram cut off", "niodoo_latency_ms_bucket{le=\"50\"} 1\n", false, "", 0, 1, 0},
		{"sum of what is no histogram", "niodoo_latency_ms_sum 5\nniodoo_latency_ms 5\n", false, "", 0, 1, 1},
		{"seconds called milliseconds", strings.ReplaceAll(hist("", "10", 1, 1, "0.125"), "niodoo_latency_ms", "silicon_synapse_ttft_ms"), false, "silicon_time_to_first_token_seconds{} 1 0.125 [10] [1]", 0, 0, 0},
		{"milliseconds called milliseconds", strings.ReplaceAll(hist("", "11", 0, 1, "125"), "niodoo_latency_ms", "silicon_synapse_ttft_ms"), false, "silicon_time_to_first_token_seconds{} 1 0.125 [0.011] [0]", 0, 0, 0},
		{"milliseconds without bounds", "# TYPE silicon_synapse_ttft_ms histogram\nsilicon_synapse_ttft_ms_bucket{le=\"+Inf\"} 1\nsilicon_synapse_ttft_ms_sum 125\nsilicon_synapse_ttft_ms_count 1\n", false, "silicon_time_to_first_token_seconds{} 1 0.125 [] []", 0, 0, 0},
		{"our own names", "niodoo_component_up{component=\"engine\"} 1\nniodoo_pipeline_entropy 7\nniodoo_pipeline_latency_seconds_count 7\n", false, "", 0, 0, 3},
		{"not a line of it", "[2025-10-21T05:28:09Z INFO  pipeline] started\n0 1761283845112\n\n", false, "", 2, 0, 0},
	} {
		r := x.readPipeline([]byte(c.text), c.tail)
		var got []string
		for _, s := range r.series {
			v := fmt.Sprint(s.value)
			if s.hist != nil {
				v = fmt.Sprint(s.hist.count, s.hist.sum, s.hist.bounds, s.hist.counts)
			}
			got = append(got, fmt.Sprintf("%s{%s} %s", strings.TrimPrefix(s.desc.Name, "niodoo_pipeline_"), strings.Join(s.labels, ","), v))
		}
		slices.Sort(got)
		want := strings.Split(c.want, ", ")
		slices.Sort(want)
		if strings.Join(got, ", ") != strings.Join(want, ", ") {
			t.Errorf("%s: got %v, want %v", c.name, got, want)
		}
		if r.lines != c.lines || r.rejected != c.rejected || r.unknown != c.unknown {
			t.Errorf("%s: lines, rejected, unknown are %d, %d, %d, want %d, %d, %d", c.name, r.lines, r.rejected, r.unknown, c.lines, c.rejected, c.unknown)
		}
	}
}

func TestPipelineTooManySeries(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	for i := range maxPipelineSeries + 50 {
		fmt.Fprintf(&b, "tcs_prompts_total{type=\"%d\"} 1\n", i)
	}
	r := newPipelineIndex(pipelineFamilies).readPipeline(b.Bytes(), false)
	if len(r.series) != maxPipelineSeries || r.rejected != 50 {
		t.Errorf("%d series, %d rejected", len(r.series), r.rejected)
	}
}

// Endpoints and files side by side, each a source of its own.
func TestPipelineSources(t *testing.T) {
	t.Parallel()
	a := expositionFake{"/metrics": {200, "niodoo_entropy_bits 1.5\n"}, "/tcs": {200, "tcs_betti_0 3\n"}}.serve(t)
	empty := expositionFake{"/metrics": {200, ""}}.serve(t)
	mock := expositionFake{"/metrics": {200, "# Mock metrics\n"}}.serve(t)
	file := pipelineWrite(t, filepath.Join(t.TempDir(), "last.prom"), "niodoo_rouge_l 0.5\n")
	res := scrape(t, scraper(t, pipelineConfig(t, []string{a.URL + "/metrics", a.URL + "/tcs/", empty.URL + "/metrics", mock.URL + "/metrics", a.URL + "/metrics"}, []string{file, file})))
	if len(res.Failures) > 0 {
		t.Fatal(res.Failures)
	}
	lint(t, res.Families)
	host := func(url string) string { return strings.TrimPrefix(url, "http://") }
	got := pipelineSeriesOf(res.Families, "entropy", "tcs", "rouge", "source_up")
	want := []string{
		`entropy{source="` + host(a.URL) + `/metrics"} 1.5`,
		`rouge_l_score{source="last.prom"} 0.5`,
		`source_up{source="` + host(a.URL) + `/metrics"} 1`,
		`source_up{source="` + host(a.URL) + `/tcs"} 1`,
		`source_up{source="` + host(empty.URL) + `"} 1`,
		`source_up{source="` + host(mock.URL) + `"} 1`,
		`source_up{source="last.prom"} 1`,
		`tcs_betti_0{source="` + host(a.URL) + `/tcs"} 3`,
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if v := value(t, res.Families, `niodoo_component_up{component="pipeline"}`); v != 1 {
		t.Errorf("up is %v", v)
	}
	if v := value(t, res.Families, `niodoo_component_response_seconds{component="pipeline"}`); v <= 0 {
		t.Errorf("response time is %v", v)
	}
}

func TestPipelineURLNames(t *testing.T) {
	t.Parallel()
	got := pipelineURLNames([]string{"http://a", "https://a/x", "http://b:9095/metrics", "http://b:9096/metrics", "http://c:1/x/", "http://c:1/y", "http://[::1]:9/m"})
	want := []string{"a:80", "a:443", "b:9095", "b:9096", "c:1/x", "c:1/y", "[::1]:9"}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// The pipeline is down when one of its sources is; the others are still read.
func TestPipelineFailures(t *testing.T) {
	good := expositionFake{"/metrics": {200, "niodoo_entropy_bits 1.5\n"}}
	check := func(name string, url func(testing.TB) string, up bool, reason Reason) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			timeout := 10 * time.Second
			if reason == ReasonTimeout {
				timeout = 300 * time.Millisecond
			}
			other := good.serve(t).URL
			cfg := pipelineConfig(t, []string{other + "/metrics", url(t)}, nil, fmt.Sprintf("timeout: %s", timeout))
			res := expectFailureOf(t, scraper(t, cfg), "pipeline", up, reason, 2*timeout)
			if got := pipelineSeriesOf(res.Families, "entropy"); len(got) != 1 {
				t.Errorf("the other source gave %v", got)
			}
			ups := pipelineSeriesOf(res.Families, "source_up")
			slices.Sort(ups)
			want := 0
			if up {
				want = 1
			}
			n := 0
			for _, s := range ups {
				if strings.HasSuffix(s, " 1") {
					n++
				}
			}
			if len(ups) != 2 || n != 1+want {
				t.Errorf("sources are up: %v", ups)
			}
		})
	}
	for _, f := range httpFailures() {
		check(f.name, f.url, f.up, f.reason)
	}
	check("JSON", func(t testing.TB) string {
		return serve(t, 200, "application/json", `{"gpu_utilization_percent":0.0,"knot_detections":0}`).URL
	}, false, ReasonParse)
	check("prose", func(t testing.TB) string { return serve(t, 200, "text/plain", "all is well\n").URL }, false, ReasonParse)
}

func TestPipelineFileFailures(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	missing := filepath.Join(dir, "missing.prom")
	fifo := filepath.Join(dir, "fifo.prom")
	if err := syscall.Mkfifo(fifo, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, file string
		reason     Reason
	}{
		{"missing", missing, ReasonNotFound},
		{"directory", dir, ReasonConfig},
		{"pipe", fifo, ReasonConfig},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			good := pipelineWrite(t, filepath.Join(t.TempDir(), "good.prom"), "niodoo_entropy_bits 1.5\n")
			res := expectFailure(t, pipelineConfig(t, nil, []string{c.file, good}), "pipeline", false, c.reason)
			for series, want := range map[string]float64{
				`niodoo_pipeline_entropy{source="good.prom"}`:                              1.5,
				`niodoo_pipeline_source_up{source="good.prom"}`:                            1,
				fmt.Sprintf("niodoo_pipeline_source_up{source=%q}", filepath.Base(c.file)): 0,
			} {
				if v := value(t, res.Families, series); v != want {
					t.Errorf("%s is %v, want %v", series, v, want)
				}
			}
		})
	}
}

// What may not be read is down, unlike a service that refuses a password. The
// superuser may read all, so the errors are those of the system's.
func TestPipelineFilePermission(t *testing.T) {
	t.Parallel()
	err := fmt.Errorf("source a: %w", &os.PathError{Op: "open", Path: "/a", Err: syscall.EACCES})
	if r := classify(err); r != ReasonPermission {
		t.Errorf("reason is %s", r)
	}
	if os.Geteuid() == 0 {
		return
	}
	dir := t.TempDir()
	file := pipelineWrite(t, filepath.Join(dir, "secret.prom"), "niodoo_entropy_bits 1.5\n")
	if err := os.Chmod(file, 0); err != nil {
		t.Fatal(err)
	}
	expectFailure(t, pipelineConfig(t, nil, []string{file}), "pipeline", false, ReasonPermission)
	if err := os.Chmod(dir, 0o300); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Chmod(dir, 0o700) })
	expectFailure(t, pipelineConfig(t, nil, []string{dir + "/*.prom"}), "pipeline", false, ReasonPermission)
}

// A pattern that matches nothing is a pipeline that has not run.
func TestPipelineIdle(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	res := scrape(t, scraper(t, pipelineConfig(t, nil, []string{dir + "/*.prom", dir + "/no/such/*.prom", dir + "/*/x.prom"})))
	for series, want := range map[string]float64{
		`niodoo_component_up{component="pipeline"}`:             1,
		`niodoo_scrape_collector_success{collector="pipeline"}`: 1,
		`niodoo_pipeline_files_skipped`:                         0,
	} {
		if v := value(t, res.Families, series); v != want {
			t.Errorf("%s is %v, want %v", series, v, want)
		}
	}
	if got := pipelineSeriesOf(res.Families, "source"); len(got) > 0 {
		t.Errorf("sources: %v", got)
	}
}

// Of many files the newest are read, and those that are named as they are.
func TestPipelineManyFiles(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	begin := time.Date(2026, 11, 23, 0, 0, 0, 0, time.UTC)
	for i := range maxPipelineFiles + 4 {
		path := pipelineWrite(t, filepath.Join(dir, fmt.Sprintf("metrics-%02d.prom", i)), "niodoo_entropy_bits 1.5\n")
		if err := os.Chtimes(path, begin, begin.Add(time.Duration(i)*time.Hour)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(filepath.Join(dir, "metrics-directory.prom"), 0o755); err != nil {
		t.Fatal(err)
	}
	res := scrape(t, scraper(t, pipelineConfig(t, nil, []string{dir + "/*.prom", dir + "/metrics-*.prom", filepath.Join(dir, "metrics-01.prom")})))
	got := pipelineSeriesOf(res.Families, "entropy")
	if len(got) != maxPipelineFiles+1 || !strings.Contains(got[0], "metrics-01") || !strings.Contains(got[1], "metrics-04") {
		t.Errorf("%d files are read: %v (%v)", len(got), got, res.Failures)
	}
	if v := value(t, res.Families, "niodoo_pipeline_files_skipped"); v != 3 {
		t.Errorf("%v files are skipped", v)
	}
	if v := value(t, res.Families, `niodoo_pipeline_source_modified_timestamp_seconds{source="metrics-04.prom"}`); v != float64(begin.Add(4*time.Hour).Unix()) {
		t.Errorf("modified at %v", v)
	}
}

// Files of one name in two directories are told apart by their paths.
func TestPipelineSameName(t *testing.T) {
	t.Parallel()
	a := pipelineWrite(t, filepath.Join(t.TempDir(), "x.prom"), "niodoo_entropy_bits 1\n")
	b := pipelineWrite(t, filepath.Join(t.TempDir(), "x.prom"), "niodoo_entropy_bits 2\n")
	res := scrape(t, scraper(t, pipelineConfig(t, nil, []string{a, b})))
	for path, want := range map[string]float64{a: 1, b: 2} {
		if v := value(t, res.Families, fmt.Sprintf("niodoo_pipeline_entropy{source=%q}", path)); v != want {
			t.Errorf("%s: %v", path, v)
		}
	}
}

// A file that grows is read again, one that has been replaced too, and one
// that has not changed is not.
func TestPipelineFileChanges(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "a.prom")
	cfg := pipelineConfig(t, nil, []string{dir + "/*.prom"})
	c, err := newPipeline(cfg, Deps{}.withDefaults())
	if err != nil {
		t.Fatal(err)
	}
	p := c.(*pipeline)
	at := time.Date(2026, 11, 23, 0, 0, 0, 0, time.UTC)
	read := func() float64 {
		t.Helper()
		f, err := p.readFile(path)
		if err != nil {
			t.Fatal(err)
		}
		p.read[path] = f
		for _, s := range f.reading.series {
			if s.desc.Name == "niodoo_pipeline_threat_cycles_total" {
				return s.value
			}
		}
		return -1
	}
	write := func(content string, at time.Time) {
		t.Helper()
		pipelineWrite(t, path, content)
		if err := os.Chtimes(path, at, at); err != nil {
			t.Fatal(err)
		}
	}
	write("niodoo_threat_cycles 3\n", at)
	if v := read(); v != 3 {
		t.Errorf("at first %v", v)
	}
	write("niodoo_threat_cycles 4\n", at) // nothing that stat tells is different
	if v := read(); v != 3 {
		t.Errorf("unchanged %v", v)
	}
	write("niodoo_threat_cycles 5\n", at.Add(time.Second))
	if v := read(); v != 5 {
		t.Errorf("written again %v", v)
	}
	write("niodoo_threat_cycles 5\nniodoo_threat_cycles 6\nniodoo_threat_cycles 7", at.Add(time.Second))
	if v := read(); v != 6 {
		t.Errorf("with a line still being written %v", v)
	}
	next := pipelineWrite(t, filepath.Join(dir, "next"), "niodoo_threat_cycles 8\nniodoo_threat_cycles 8\nniodoo_threat_cycles 8")
	if err := os.Chtimes(next, at.Add(time.Second), at.Add(time.Second)); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(next, path); err != nil {
		t.Fatal(err)
	}
	if v := read(); v != 8 {
		t.Errorf("replaced %v", v)
	}

	// What is gone is forgotten, with its memory.
	s := scraper(t, cfg)
	if got := pipelineSeriesOf(scrape(t, s).Families, "threat"); len(got) != 1 {
		t.Errorf("got %v", got)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if res := scrape(t, s); len(pipelineSeriesOf(res.Families, "threat", "source")) != 0 || len(res.Failures) != 0 {
		t.Errorf("after removal: %v, %v", pipelineSeriesOf(res.Families, "threat", "source"), res.Failures)
	}
	if n := len(s.units[0].collector.(*pipeline).read); n != 0 {
		t.Errorf("%d files are remembered", n)
	}
}

func TestPipelineLargeFile(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	for i := 0; b.Len() < maxPipelineText+1000; i++ {
		fmt.Fprintf(&b, "niodoo_rouge_l{iteration=\"%d\"} 0.%05d\nniodoo_threat_cycles{iteration=\"%d\"} 1\n", i, i, i)
	}
	b.WriteString("niodoo_rouge_l{iteration=\"last\"} 0.75\nniodoo_healing_cycles 4\n")
	path := pipelineWrite(t, filepath.Join(t.TempDir(), "large.prom"), b.String())
	res := scrape(t, scraper(t, pipelineConfig(t, nil, []string{path})))
	got := strings.Join(pipelineSeriesOf(res.Families, "rouge", "threat", "healing", "lines", "samples"), " ")
	if want := `healing_cycles_total{source="large.prom"} 4 lines_rejected{source="large.prom"} 0 rouge_l_score{source="large.prom"} 0.75 samples_rejected{source="large.prom"} 0`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestReadTail(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		content string
		limit   int64
		want    string
		tail    bool
	}{
		{"a\nb\n", 10, "a\nb\n", false},
		{"a\nb\n", 4, "a\nb\n", false},
		{"a\nb\nc\n", 4, "b\nc\n", true},
		{"a\nb\nc\n", 3, "c\n", true},
		{"a\nb\nc", 4, "b\n", true},
		{"abcdef", 3, "", true},
		{"abc", 3, "", false},
		{"", 3, "", false},
	} {
		raw, tail, err := readTail(strings.NewReader(c.content), int64(len(c.content)), c.limit)
		if string(raw) != c.want || tail != c.tail || err != nil {
			t.Errorf("%q at %d: %q, %v, %v", c.content, c.limit, raw, tail, err)
		}
	}
}

// The search for files ends when the run's time is up.
func TestPipelineFilesTimeout(t *testing.T) {
	t.Parallel()
	path := pipelineWrite(t, filepath.Join(t.TempDir(), "a.prom"), "niodoo_entropy_bits 1\n")
	c, err := newPipeline(pipelineConfig(t, nil, []string{path}), Deps{}.withDefaults())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	ch := make(chan prometheus.Metric, 10)
	if err := c.Update(ctx, ch); !errors.Is(err, context.Canceled) {
		t.Errorf("error is %v", err)
	}
}

// Credentials go to every endpoint, from the file.
func TestPipelineAuthorization(t *testing.T) {
	t.Parallel()
	srv := serveFunc(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer s3cret" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		fmt.Fprint(w, "niodoo_entropy_bits 1\n")
	})
	token := pipelineWrite(t, filepath.Join(t.TempDir(), "token"), "s3cret\n")
	cfg := pipelineConfig(t, []string{srv.URL}, nil, fmt.Sprintf("authorization: {credentials_file: %q}", token))
	if res := scrape(t, scraper(t, cfg)); len(res.Failures) != 0 || len(pipelineSeriesOf(res.Families, "entropy")) != 1 {
		t.Error(res.Failures)
	}
}

// Whatever stands in a text, what is exported of it is sound.
func FuzzPipelineReading(f *testing.F) {
	files, err := filepath.Glob("testdata/pipeline/*.prom")
	if err != nil {
		f.Fatal(err)
	}
	for _, path := range files {
		raw, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw, false)
		f.Add(raw[len(raw)/2:], true)
	}
	x := newPipelineIndex(pipelineFamilies)
	f.Fuzz(func(t *testing.T, raw []byte, tail bool) {
		r := x.readPipeline(raw, tail)
		if len(r.series) > maxPipelineSeries {
			t.Fatalf("%d series", len(r.series))
		}
		seen := map[string]bool{}
		for _, s := range r.series {
			key := s.desc.Name + fmt.Sprintf("%q", s.labels)
			if seen[key] {
				t.Fatalf("%s is there twice", key)
			}
			seen[key] = true
			if len(s.labels)+1 != len(s.desc.Labels) || (s.hist != nil) != (s.desc.Type == dto.MetricType_HISTOGRAM) {
				t.Fatalf("%s does not fit its family", key)
			}
			if math.IsNaN(s.value) || s.value < 0 && s.desc.Type == dto.MetricType_COUNTER {
				t.Fatalf("%s is %v", key, s.value)
			}
			if s.hist == nil {
				continue
			}
			if math.IsNaN(s.hist.sum) || !slices.IsSorted(s.hist.bounds) || !slices.IsSorted(s.hist.counts) || len(s.hist.bounds) != len(s.hist.counts) ||
				len(s.hist.counts) > 0 && s.hist.counts[len(s.hist.counts)-1] > s.hist.count {
				t.Fatalf("%s is %+v", key, *s.hist)
			}
		}
	})
}
