// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/niodoo/niodoo_exporter/internal/promtext"
)

// expositionFake answers paths from a table: a status and a body each. What is
// not in it is 404, as with the real servers.
type expositionFake map[string]expositionAnswer

type expositionAnswer struct {
	status int
	body   string
}

func (f expositionFake) serve(t testing.TB) *httptest.Server {
	return serveFunc(t, func(w http.ResponseWriter, r *http.Request) {
		a, ok := f[r.URL.Path]
		if !ok {
			http.NotFound(w, r)
			return
		}
		ct := "text/plain; version=0.0.4; charset=utf-8"
		if strings.HasPrefix(a.body, "{") || strings.HasPrefix(a.body, "[") {
			ct = "application/json"
		}
		w.Header().Set("Content-Type", ct)
		w.WriteHeader(a.status)
		fmt.Fprint(w, a.body)
	})
}

// with returns the fake with one answer changed.
func (f expositionFake) with(path string, status int, body string) expositionFake {
	g := expositionFake{path: {status, body}}
	for p, a := range f {
		if p != path {
			g[p] = a
		}
	}
	return g
}

// section returns a configuration's section for the fake.
func (f expositionFake) section(t testing.TB) string {
	return fmt.Sprintf("{url: %q}", f.serve(t).URL)
}

func expositionFile(t testing.TB, name string) string {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

func TestKeepSamples(t *testing.T) {
	t.Parallel()
	wanted := map[string]bool{"a": true, "b_total": true}
	for _, c := range []struct {
		name, text string
		limit      int64
		want       string
		reason     Reason
	}{
		{"the wanted ones", "# HELP a A.\na{x=\"b_total 1\"} 1\nab 2\nb_total\t3\r\nb_total_more 4", 100, "# HELP a A.\na{x=\"b_total 1\"} 1\nb_total\t3\r\n", ""},
		{"the first line for its looks", "\n \n<html>\n<body>\n", 100, "<html>\n", ""},
		{"a long line", "x " + strings.Repeat("y", 100_000) + "\na 1\n", 200_000, "x " + strings.Repeat("y", 32<<10-2) + "\na 1\n", ""},
		{"a long line in the middle", "z 1\na{x=\"" + strings.Repeat("y", 100_000) + "\"} 1\na 2", 200_000, "z 1\na 2", ""},
		{"nothing", "", 100, "", ""},
		{"too large", "z 1\n" + strings.Repeat("#\n", 100), 100, "", ReasonTooLarge},
		{"too much wanted", strings.Repeat("a 1\n", maxKept), maxMetricsBody, "", ReasonTooLarge},
	} {
		got, err := keepSamples(strings.NewReader(c.text), wanted, c.limit)
		if string(got) != c.want || (err != nil) != (c.reason != "") || err != nil && classify(err) != c.reason {
			t.Errorf("%s: %.200q, %v", c.name, got, err)
		}
	}
}

// The declarations under test are the mirrors of vLLM, which have it all:
// names that changed, series added up, a largest one, a closed set.
func TestMirror(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, text, want string }{
		{"added up", `vllm:num_requests_running{engine="0",model_name="m"} 2
vllm:num_requests_running{engine="1",model_name="m"} 3
vllm:num_requests_running{engine="0",model_name="n"} 0`, `requests_running{m} 5, requests_running{n} 0`},
		{"the largest", `vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.5
vllm:kv_cache_usage_perc{engine="1",model_name="m"} 0.75`, `kv_cache_usage_ratio{m} 0.75`},
		{"the newer name wins", `vllm:gpu_cache_usage_perc{model_name="m"} 0.1
vllm:kv_cache_usage_perc{model_name="m"} 0.2`, `kv_cache_usage_ratio{m} 0.2`},
		{"the older name", `vllm:gpu_cache_usage_perc{model_name="m"} 0.1`, `kv_cache_usage_ratio{m} 0.1`},
		{"per cent is no ratio", `vllm:gpu_cache_usage_perc{model_name="m"} 10`, ``},
		{"what is no number", `vllm:num_requests_running{model_name="m"} NaN
vllm:num_requests_waiting{model_name="m"} +Inf
vllm:prompt_tokens_total{model_name="m"} -1`, ``},
		{"a closed set", `vllm:request_success_total{finished_reason="stop",model_name="m"} 1
vllm:request_success_total{finished_reason="bored",model_name="m"} 2
vllm:request_success_total{finished_reason="",model_name="m"} 3`, `requests_finished_total{m,other} 5, requests_finished_total{m,stop} 1`},
		{"no labels at all", `vllm:num_requests_running 1`, `requests_running{} 1`},
	} {
		e := exposition{}
		promtext.Parse([]byte(c.text), func(s *promtext.Sample) {
			kept := *s
			kept.Labels = slices.Clone(s.Labels)
			e[s.Name] = append(e[s.Name], kept)
		})
		ch := make(chan prometheus.Metric, 100)
		e.send(ch, vllmMirrors)
		close(ch)
		var got []string
		for m := range ch {
			s := m.(*sample)
			got = append(got, fmt.Sprintf("%s{%s} %v", strings.TrimPrefix(s.desc.Name, "niodoo_vllm_"), strings.Join(s.values, ","), s.value))
		}
		slices.Sort(got)
		if strings.Join(got, ", ") != c.want {
			t.Errorf("%s: got %v, want %s", c.name, got, c.want)
		}
	}
}
