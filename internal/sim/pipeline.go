// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"fmt"
	"net/http"
)

// newPipeline is the live pipeline's own exposition as its continuous runner
// serves it: five families, and a content type without the format's version.
func newPipeline(w *world) *service {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /metrics", func(rw http.ResponseWriter, _ *http.Request) {
		p := w.look().pipeline
		answer(rw, http.StatusOK, typeText, exposition([]family{
			gauge("niodoo_entropy_bits", "Current consciousness entropy", p.entropy),
			counter("niodoo_healing_cycles_total", "Healing detections", p.healing),
			histogramFamily("niodoo_latency_ms", "Pipeline latency in milliseconds", p.latency, rustNumber),
			gauge("niodoo_rouge_l", "ROUGE-L similarity between baseline and hybrid responses", p.rouge),
			counter("niodoo_threat_cycles_total", "Threat detections", p.threat),
		}, rustNumber))
	})
	mux.HandleFunc("/", func(rw http.ResponseWriter, _ *http.Request) { rw.WriteHeader(http.StatusNotFound) })
	return &service{name: "pipeline", handler: mux, reject: rejectText, section: func(address string) map[string]any {
		return map[string]any{"urls": []string{"http://" + address + "/metrics"}}
	}}
}

// vllmModel is what the pipeline generates with.
const vllmModel = "Qwen/Qwen2.5-7B-Instruct-AWQ"

func newVLLM(w *world) *service {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /health", func(rw http.ResponseWriter, _ *http.Request) { rw.WriteHeader(http.StatusOK) })
	mux.HandleFunc("GET /version", func(rw http.ResponseWriter, _ *http.Request) {
		answer(rw, http.StatusOK, typeJSON, []byte(`{"version":"0.11.0"}`))
	})
	mux.HandleFunc("GET /v1/models", func(rw http.ResponseWriter, _ *http.Request) {
		s := w.look()
		answer(rw, http.StatusOK, typeJSON, fmt.Appendf(nil, `{"object":"list","data":[{"id":%q,"object":"model","created":%d,"owned_by":"vllm","root":%q,"parent":null,"max_model_len":32768,"permission":[]}]}`,
			vllmModel, s.at.Unix(), vllmModel))
	})
	mux.HandleFunc("GET /metrics", func(rw http.ResponseWriter, _ *http.Request) {
		s := w.look()
		o := s.ollama
		waiting, cache := 0.0, to(0.06+0.14*s.load, 4)
		if s.knobs.vllmWaiting {
			waiting, cache = 37, 1
		}
		l := []string{"engine", "0", "model_name", vllmModel}
		finished := counter("vllm:request_success_total", "Count of successfully processed requests.", o.finishedStop, append([]string{"engine", "0", "finished_reason", "stop"}, l[2:]...)...)
		finished = finished.with(o.failed, append([]string{"engine", "0", "finished_reason", "error"}, l[2:]...)...)
		finished = finished.with(o.finished, append([]string{"engine", "0", "finished_reason", "length"}, l[2:]...)...)
		answer(rw, http.StatusOK, typeMetrics+"; charset=utf-8", exposition([]family{
			gauge("vllm:num_requests_running", "Number of requests in model execution batches.", o.running, l...),
			gauge("vllm:num_requests_waiting", "Number of requests waiting to be processed.", waiting, l...),
			gauge("vllm:kv_cache_usage_perc", "KV-cache usage. 1 means 100 percent usage.", cache, l...),
			counter("vllm:num_preemptions_total", "Cumulative number of preemption from the engine.", 0, l...),
			counter("vllm:prompt_tokens_total", "Number of prefill tokens processed.", o.prompt, l...),
			counter("vllm:generation_tokens_total", "Number of generation tokens processed.", o.generated, l...),
			counter("vllm:prefix_cache_queries_total", "Prefix cache queries, in terms of number of queried tokens.", o.prefixQueries, l...),
			counter("vllm:prefix_cache_hits_total", "Prefix cache hits, in terms of number of cached tokens.", o.hits, l...),
			finished,
		}, goNumber))
	})
	mux.HandleFunc("/", func(rw http.ResponseWriter, _ *http.Request) {
		answer(rw, http.StatusNotFound, typeJSON, []byte(`{"detail":"Not Found"}`))
	})
	return &service{name: "vllm", handler: mux, reject: rejectText, section: urlSection}
}
