// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"context"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/niodoo/niodoo_exporter/internal/config"
)

func init() { register("vllm", newVLLM) }

// maxVLLMModels bounds the models that are reported; adapters count as models.
const maxVLLMModels = 100

var (
	vllmModelInfo = gauge("vllm", "vllm_model_info",
		"Models that vLLM serves, adapters included; the value is 1", "/v1/models data[].id", "model").
		absent("while no model is served")
	vllmModelContext = gauge("vllm", "vllm_model_context_tokens",
		"Number of tokens that fit into a request to the model and its answer", "/v1/models data[].max_model_len", "model").
		absent("for adapters, and in versions that do not tell")
)

// vllmModel is the label of vLLM's own metrics that has the model's name. Each
// engine of a data-parallel server reports for itself, with a label engine.
var vllmModel = []string{"model_name"}

var vllmMirrors = []mirror{
	{from: []string{"vllm:num_requests_running"}, labels: vllmModel, desc: gauge("vllm", "vllm_requests_running",
		"Number of requests that are being worked on", "/metrics vllm:num_requests_running, all engines", "model")},
	{from: []string{"vllm:num_requests_waiting"}, labels: vllmModel, desc: gauge("vllm", "vllm_requests_waiting",
		"Number of requests that wait for a free place", "/metrics vllm:num_requests_waiting, all engines", "model")},
	{from: []string{"vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"}, labels: vllmModel, max: true, ratio: true, desc: gauge("vllm", "vllm_kv_cache_usage_ratio",
		"Share of the key-value cache in use, of the fullest engine; at 1 requests are preempted",
		"/metrics vllm:kv_cache_usage_perc, before 0.9 vllm:gpu_cache_usage_perc", "model").
		absent("on servers that have had no request yet, in some versions")},
	{from: []string{"vllm:num_preemptions_total"}, labels: vllmModel, desc: counter("vllm", "vllm_preemptions_total",
		"Requests that were interrupted for want of cache", "/metrics vllm:num_preemptions_total, all engines", "model").
		absent("before vLLM 0.5")},
	{from: []string{"vllm:request_success_total"}, labels: []string{"model_name", "finished_reason"},
		known: []string{"stop", "length", "abort", "error"}, desc: counter("vllm", "vllm_requests_finished_total",
			"Requests that came to an end, by its reason: a stop word, the length limit, the client, an error, or other",
			"/metrics vllm:request_success_total, all engines", "model", "finished_reason").
			absent("until a request has finished, in some versions")},
	{from: []string{"vllm:prompt_tokens_total"}, labels: vllmModel, desc: counter("vllm", "vllm_prompt_tokens_total",
		"Tokens read", "/metrics vllm:prompt_tokens_total, all engines", "model")},
	{from: []string{"vllm:generation_tokens_total"}, labels: vllmModel, desc: counter("vllm", "vllm_generation_tokens_total",
		"Tokens written", "/metrics vllm:generation_tokens_total, all engines", "model")},
	{from: []string{"vllm:prefix_cache_queries_total", "vllm:gpu_prefix_cache_queries_total"}, labels: vllmModel, desc: counter("vllm", "vllm_prefix_cache_queries_total",
		"Tokens looked up in the prefix cache", "/metrics vllm:prefix_cache_queries_total, before 0.9 vllm:gpu_prefix_cache_queries_total", "model").
		absent("in versions without these counters")},
	{from: []string{"vllm:prefix_cache_hits_total", "vllm:gpu_prefix_cache_hits_total"}, labels: vllmModel, desc: counter("vllm", "vllm_prefix_cache_hits_total",
		"Tokens found in the prefix cache", "/metrics vllm:prefix_cache_hits_total, before 0.9 vllm:gpu_prefix_cache_hits_total", "model").
		absent("in versions without these counters")},
}

// vllm asks /health, which is empty and needs no key, then for the models and
// its own metrics.
type vllm struct{ *httpClient }

func newVLLM(cfg *config.Config, deps Deps) (Collector, error) {
	c, err := newHTTPClient(cfg.VLLM.HTTP, deps)
	return vllm{c}, err
}

// Update implements [Collector].
func (v vllm) Update(ctx context.Context, ch chan<- prometheus.Metric) error {
	r, err := v.healthy(ctx, "/health")
	if err != nil {
		return err
	}
	status{up: true, response: r.elapsed, tlsNotAfter: r.tlsNotAfter}.send(ch, "vllm")
	return parallel(
		func() error { return v.models(ctx, ch) },
		func() error {
			_, metrics, err := v.getMetrics(ctx, "/metrics", mirrorNames(vllmMirrors)...)
			metrics.send(ch, vllmMirrors)
			return err
		},
		func() error { return v.version(ctx, ch) },
	)
}

// models asks which models are served.
func (v vllm) models(ctx context.Context, ch chan<- prometheus.Metric) error {
	var list struct {
		Data []struct {
			ID          string   `json:"id"`
			MaxModelLen *float64 `json:"max_model_len"`
		} `json:"data"`
	}
	if _, err := v.getJSON(ctx, "/v1/models", maxAPIBody, &list); err != nil {
		return err
	}
	for _, m := range list.Data[:min(len(list.Data), maxVLLMModels)] {
		if m.ID == "" {
			continue
		}
		ch <- vllmModelInfo.metric(1, m.ID)
		if m.MaxModelLen != nil {
			ch <- vllmModelContext.metric(*m.MaxModelLen, m.ID)
		}
	}
	return nil
}

// version asks for the version, for which old servers have no endpoint.
func (v vllm) version(ctx context.Context, ch chan<- prometheus.Metric) error {
	var answer struct {
		Version string `json:"version"`
	}
	r, err := v.getJSON(ctx, "/version", maxHealthBody, &answer)
	if r != nil && r.status == 404 {
		return nil
	}
	if err == nil && answer.Version != "" {
		ch <- componentInfo.metric(1, "vllm", answer.Version)
	}
	return err
}
