// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"fmt"
	"strings"
	"testing"
)

// vllmFake is a vLLM server of the 0.9 series, which has both names of what
// was renamed, with a model and an adapter.
func vllmFake(t testing.TB) expositionFake {
	return expositionFake{
		"/health": {200, ""},
		"/v1/models": {200, `{"object":"list","data":[` +
			`{"id":"Qwen/Qwen2.5-7B-Instruct-AWQ","object":"model","created":1761283845,"owned_by":"vllm","root":"Qwen/Qwen2.5-7B-Instruct-AWQ","parent":null,"max_model_len":32768,"permission":[]},` +
			`{"id":"niodoo-lora","object":"model","created":1761283845,"owned_by":"vllm","root":"/adapters/niodoo","parent":"Qwen/Qwen2.5-7B-Instruct-AWQ","max_model_len":null,"permission":[]}]}`},
		"/metrics": {200, expositionFile(t, "vllm_metrics.txt")},
		"/version": {200, `{"version":"0.9.2"}`},
	}
}

func TestVLLM(t *testing.T) {
	t.Parallel()
	golden(t, "vllm", scrape(t, scraper(t, only(t, "vllm", vllmFake(t).section(t)))).Families)
}

func TestVLLMFailures(t *testing.T) {
	testHTTPFailures(t, "vllm")
	fake := vllmFake(t)
	for _, c := range []struct {
		name   string
		fake   expositionFake
		reason Reason
	}{
		{"models need a key", fake.with("/v1/models", 401, `{"error":"Unauthorized"}`), ReasonAuth},
		{"models truncated", fake.with("/v1/models", 200, `{"object":"list","data":[{"id":"Qw`), ReasonParse},
		{"no metrics", fake.with("/metrics", 404, `{"detail":"Not Found"}`), ReasonNotFound},
		{"metrics are HTML", fake.with("/metrics", 200, "<html>Sign in</html>"), ReasonParse},
		{"version is broken", fake.with("/version", 500, "Internal Server Error"), ReasonHTTPStatus},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			expectFailure(t, only(t, "vllm", c.fake.section(t)), "vllm", true, c.reason)
		})
	}
	t.Run("engine dead", func(t *testing.T) { // its own word for an engine that has died
		expectFailure(t, only(t, "vllm", fake.with("/health", 503, "").section(t)), "vllm", false, ReasonNotReady)
	})
}

// An old server has no /version and no max_model_len, and one without traffic
// none of the series that appear with it.
func TestVLLMOld(t *testing.T) {
	t.Parallel()
	fake := vllmFake(t).with("/version", 404, `{"detail":"Not Found"}`).
		with("/v1/models", 200, `{"object":"list","data":[{"id":"m"},{"object":"model"}]}`).
		with("/metrics", 200, "vllm:num_requests_running{model_name=\"m\"} 0.0\n")
	res := scrape(t, scraper(t, only(t, "vllm", fake.section(t))))
	if v := value(t, res.Families, `niodoo_scrape_collector_success{collector="vllm"}`); v != 1 {
		t.Errorf("success is %v (%v)", v, res.Failures)
	}
	var got []string
	for line := range strings.Lines(text(res.Families)) {
		if strings.HasPrefix(line, "niodoo_vllm_") || strings.HasPrefix(line, "niodoo_component_info") {
			got = append(got, strings.TrimSpace(line))
		}
	}
	if want := []string{`niodoo_vllm_model_info{model="m"} 1`, `niodoo_vllm_requests_running{model="m"} 0`}; fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestVLLMManyModels(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	for i := range 3 * maxVLLMModels {
		fmt.Fprintf(&b, `,{"id":"adapter-%d"}`, i)
	}
	res := scrape(t, scraper(t, only(t, "vllm", vllmFake(t).with("/v1/models", 200, `{"data":[`+b.String()[1:]+`]}`).section(t))))
	n := strings.Count(text(res.Families), "\nniodoo_vllm_model_info{")
	if n != maxVLLMModels {
		t.Errorf("%d models are reported, want %d", n, maxVLLMModels)
	}
}
