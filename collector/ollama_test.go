// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// What Ollama 0.33 answers.
const (
	ollamaTagsBody = `{"models":[` +
		`{"name":"mistral:7b","model":"mistral:7b","modified_at":"2026-11-23T08:46:49.641979289Z","size":4113301824,"digest":"1d32fe2ac4555e2f66007cfb3b462a689cba402940c524b7e10ecd6d0dd0b590","details":{"parent_model":"","format":"gguf","family":"llama","families":["llama"],"parameter_size":"7.2B","quantization_level":"Q4_K_M","context_length":32768,"embedding_length":4096},"capabilities":["completion"]},` +
		`{"name":"hf.co/bartowski/Llama-3.2-1B-Instruct-GGUF:Q4_K_M","model":"hf.co/bartowski/Llama-3.2-1B-Instruct-GGUF:Q4_K_M","modified_at":"2026-10-01T10:00:00+02:00","size":807694464,"digest":"8f3f0dc63b1f7f1f0e6fd3a1a2d7b0a9c2e4d6f8a0b1c3d5e7f90a2b4c6d8e0f","details":{"parent_model":"","format":"gguf","family":"llama","families":null,"parameter_size":"1.24B","quantization_level":"unknown"},"capabilities":["completion"]},` +
		`{"name":"nomic-embed-text:latest","model":"nomic-embed-text:latest","modified_at":"2026-09-01T10:00:00Z","size":274302450,"digest":"0a109f422b47e3a30ba2b10eca18548e944e8a23073ee3f3e947efcf3c45e59f","details":{"parent_model":"","format":"gguf","family":"nomic-bert","families":["nomic-bert"],"parameter_size":"137M","quantization_level":"F16"},"capabilities":["embedding"]}]}`
	ollamaPSBody = `{"models":[` +
		`{"name":"mistral:7b","model":"mistral:7b","size":5137025024,"digest":"1d32fe2ac4555e2f66007cfb3b462a689cba402940c524b7e10ecd6d0dd0b590","details":{"parent_model":"","format":"gguf","family":"llama","families":["llama"],"parameter_size":"7.2B","quantization_level":"Q4_K_M"},"expires_at":"2026-11-23T14:38:31.83753-07:00","size_vram":3852768768,"context_length":4096},` +
		`{"name":"nomic-embed-text:latest","model":"nomic-embed-text:latest","size":848953344,"digest":"0a109f422b47e3a30ba2b10eca18548e944e8a23073ee3f3e947efcf3c45e59f","details":{"family":"nomic-bert"},"expires_at":"2318-03-04T12:00:00.0Z","size_vram":0,"context_length":2048}]}`
)

// ollamaFake answers paths with bodies; what it does not know is 404, as Ollama says it.
func ollamaFake(t testing.TB, bodies map[string]string) string {
	t.Helper()
	return serveFunc(t, func(w http.ResponseWriter, r *http.Request) {
		body, ok := bodies[r.URL.Path]
		if !ok {
			http.Error(w, "404 page not found", http.StatusNotFound)
			return
		}
		w.Header().Set("Content-Type", "application/json; charset=utf-8")
		if status, rest, ok := strings.Cut(body, "|"); ok {
			var n int
			if _, err := fmt.Sscan(status, &n); err == nil {
				w.WriteHeader(n)
				body = rest
			}
		}
		fmt.Fprint(w, body)
	}).URL
}

func ollamaBodies() map[string]string {
	return map[string]string{"/api/tags": ollamaTagsBody, "/api/ps": ollamaPSBody, "/api/version": `{"version":"0.33.0"}`}
}

func ollamaSection(url, more string) string { return fmt.Sprintf("{url: %q%s}", url, more) }

func TestOllama(t *testing.T) {
	t.Parallel()
	section := ollamaSection(ollamaFake(t, ollamaBodies()),
		`, required_models: [mistral, "mistral:latest", qwen2, hf.co/bartowski/llama-3.2-1b-instruct-gguf, mistral]`)
	golden(t, "ollama", scrape(t, scraper(t, only(t, "ollama", section))).Families)
}

// Ollama before 0.1.38 has no /api/ps, one without models says null.
func TestOllamaOldAndEmpty(t *testing.T) {
	t.Parallel()
	for _, body := range []string{`{"models":[]}`, `{"models":null}`} {
		url := ollamaFake(t, map[string]string{"/api/tags": body, "/api/version": `{"version":"0.1.20"}`})
		golden(t, "ollama_empty", scrape(t, scraper(t, only(t, "ollama", ollamaSection(url, "")))).Families)
	}
}

func TestOllamaFailures(t *testing.T) {
	t.Parallel()
	testHTTPFailures(t, "ollama")

	with := func(path, body string) map[string]string {
		b := ollamaBodies()
		b[path] = body
		return b
	}
	for _, c := range []struct {
		name   string
		bodies map[string]string
		up     bool
		reason Reason
	}{
		{"truncated", with("/api/tags", ollamaTagsBody[:300]), false, ReasonParse},
		{"another service", with("/api/tags", `{"status":"ok"}`), false, ReasonParse},
		{"a list", with("/api/tags", `[]`), false, ReasonParse},
		{"models no list", with("/api/tags", `{"models":{"a":1}}`), false, ReasonParse},
		{"cache unavailable", with("/api/tags", `500|{"error":"model list cache unavailable"}`), false, ReasonHTTPStatus},
		{"foreign host", with("/api/tags", `403|`), true, ReasonAuth},
		{"ps fails", with("/api/ps", `500|{"error":"oops"}`), true, ReasonHTTPStatus},
		{"ps truncated", with("/api/ps", ollamaPSBody[:100]), true, ReasonParse},
		{"version fails", with("/api/version", `500|{"error":"oops"}`), true, ReasonHTTPStatus},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			res := expectFailure(t, only(t, "ollama", ollamaSection(ollamaFake(t, c.bodies), "")), "ollama", c.up, c.reason)
			if _, ok := lookup(res.Families, "niodoo_ollama_models"); ok != (c.up && c.reason != ReasonAuth) {
				t.Errorf("models are counted: %v", ok)
			}
		})
	}
}

func TestOllamaDirt(t *testing.T) {
	t.Parallel()
	url := ollamaFake(t, map[string]string{
		"/api/tags": `{"models":[{"name":"","model":""},{"model":"only-model:1","digest":"sha256:abcdefabcdefabcdef"},` +
			`{"name":"twice:1","digest":"a","size":1},{"name":"twice:1","digest":"b","size":2},{"name":"odd:1","size":-5,"modified_at":"yesterday","digest":""}]}`,
		"/api/ps": `{"models":[{"name":"odd:1","size":0,"size_vram":7,"expires_at":"0001-01-01T00:00:00Z","context_length":0},` +
			`{"name":"big:1","size":10,"size_vram":11,"expires_at":12}]}`,
		"/api/version": `{"version":""}`,
	})
	res := scrape(t, scraper(t, only(t, "ollama", ollamaSection(url, ", required_models: []"))))
	lint(t, res.Families)
	if len(res.Failures) > 0 {
		t.Fatal(res.Failures)
	}
	for series, want := range map[string]float64{
		"niodoo_ollama_models": 3,
		`niodoo_ollama_model_info{digest="abcdefabcdef",model="only-model:1"}`: 1,
		`niodoo_ollama_model_info{digest="a",model="twice:1"}`:                 1,
		`niodoo_ollama_model_loaded_gpu_ratio{model="big:1"}`:                  1,
	} {
		if v := value(t, res.Families, series); v != want {
			t.Errorf("%s is %v, want %v", series, v, want)
		}
	}
	for _, series := range []string{
		`niodoo_ollama_model_size_bytes{model="odd:1"}`, `niodoo_ollama_model_modified_timestamp_seconds{model="odd:1"}`,
		`niodoo_ollama_model_loaded_gpu_ratio{model="odd:1"}`, `niodoo_ollama_model_loaded_expires_timestamp_seconds{model="odd:1"}`,
		`niodoo_ollama_model_loaded_expires_timestamp_seconds{model="big:1"}`, `niodoo_ollama_model_loaded_context_length{model="odd:1"}`,
		`niodoo_component_info{component="ollama",version=""}`, `niodoo_scrape_collector_series_dropped{collector="ollama",reason="duplicate"}`,
	} {
		if _, ok := lookup(res.Families, series); ok {
			t.Errorf("%s is there", series)
		}
	}
}

func TestOllamaManyModels(t *testing.T) {
	t.Parallel()
	var models []string
	for i := range 150 {
		models = append(models, fmt.Sprintf(`{"name":"m%03d:1","digest":"d","size":1}`, i))
	}
	body := `{"models":[` + strings.Join(models, ",") + `]}`
	url := ollamaFake(t, map[string]string{"/api/tags": body, "/api/ps": body, "/api/version": `{"version":"1"}`})
	res := scrape(t, scraper(t, only(t, "ollama", ollamaSection(url, ", required_models: [m149]"))))
	if n := strings.Count(text(res.Families), "\nniodoo_ollama_model_info{"); n != ollamaMaxModels {
		t.Errorf("%d models are told apart", n)
	}
	if n := strings.Count(text(res.Families), "\nniodoo_ollama_model_loaded_size_bytes{"); n != ollamaMaxLoaded {
		t.Errorf("%d loaded models are told apart", n)
	}
	for series, want := range map[string]float64{
		"niodoo_ollama_models": 150, "niodoo_ollama_loaded_models": 150, `niodoo_ollama_required_model_available{model="m149"}`: 1,
	} {
		if v := value(t, res.Families, series); v != want {
			t.Errorf("%s is %v, want %v", series, v, want)
		}
	}
}

func TestOllamaMatches(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		want, listed string
		matches      bool
	}{
		{"mistral", "mistral:7b", true},
		{"mistral", "mistral:latest", true},
		{"mistral", "mistral", true},
		{"Mistral", "mistral:7b", true},
		{" mistral ", "mistral:7b", true},
		{"mistral", "mistral-nemo:12b", false},
		{"mistral", "dolphin-mistral:7b", false},
		{"mistral", "someone/mistral:7b", false},
		{"mistral", "hf.co/ns/mistral:7b", false},
		{"mistral:7b", "mistral:7b", true},
		{"mistral:7b", "mistral:7b-instruct", false},
		{"mistral:7b", "mistral:latest", false},
		{"mistral:latest", "mistral", true},
		{"library/mistral", "mistral:7b", true},
		{"registry.ollama.ai/library/mistral:7b", "mistral:7b", true},
		{"hf.co/ns/x", "hf.co/ns/x:Q4_K_M", true},
		{"hf.co/ns/x", "hf.co/other/x:Q4_K_M", false},
		{"hf.co/ns/x:Q4_K_M", "hf.co/ns/x:Q8_0", false},
		{"localhost:5000/ns/x", "localhost:5000/ns/x:1", true},
		{"localhost:5000/ns/x:2", "localhost:5000/ns/x:1", false},
	} {
		if got := ollamaMatches(c.want, c.listed); got != c.matches {
			t.Errorf("ollamaMatches(%q, %q) is %v", c.want, c.listed, got)
		}
	}
}

// A model that is pulled anew under the same name is another model.
func TestOllamaDigestChange(t *testing.T) {
	t.Parallel()
	var tags atomic.Value
	tags.Store(ollamaTagsBody)
	srv := serveFunc(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		switch r.URL.Path {
		case "/api/tags":
			fmt.Fprint(w, tags.Load())
		default:
			fmt.Fprint(w, `{"models":[],"version":"1"}`)
		}
	})
	now := time.Unix(1795000000, 0)
	s := scraperWith(t, only(t, "ollama", ollamaSection(srv.URL, "")), Deps{Now: func() time.Time { return now }}, Options{})
	const series = `niodoo_ollama_required_model_changed_timestamp_seconds{model="mistral"}`
	expect := func(what string, want float64) {
		t.Helper()
		if v, _ := lookup(scrape(t, s).Families, series); v != want {
			t.Errorf("%s: changed at %v, want %v", what, v, want)
		}
	}
	expect("first sight", 0)
	tags.Store(`{"models":[]}`)
	expect("missing", 0)
	tags.Store(ollamaTagsBody)
	expect("back, the same", 0)
	tags.Store(strings.Replace(ollamaTagsBody, "1d32fe2a", "ffffffff", 1))
	expect("pulled anew", 1795000000)
}

// ollamaRunner is a fake Ollama that generates.
type ollamaRunner struct {
	url       string
	asked     chan map[string]any
	mu        sync.Mutex
	expires   time.Time
	context   string
	generates func(w http.ResponseWriter, r *http.Request)
}

const ollamaGenerated = `{"model":"mistral:7b","created_at":"2026-11-23T14:00:00.1Z","response":"","done":false}
{"model":"mistral:7b","created_at":"2026-11-23T14:00:00.2Z","response":" OK","done":false}
{"model":"mistral:7b","created_at":"2026-11-23T14:00:00.3Z","response":"","done":true,"done_reason":"length","total_duration":400000000,"load_duration":1000000,"prompt_eval_count":8,"prompt_eval_duration":100000000,"eval_count":8,"eval_duration":200000000}
`

func newOllamaRunner(t testing.TB) *ollamaRunner {
	o := &ollamaRunner{asked: make(chan map[string]any, 10), expires: time.Now().Add(5 * time.Minute), context: `,"context_length":8192`}
	o.generates = func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, ollamaGenerated) }
	o.url = serveFunc(t, func(w http.ResponseWriter, r *http.Request) {
		o.mu.Lock()
		expires, context, generates := o.expires, o.context, o.generates
		o.mu.Unlock()
		switch r.URL.Path {
		case "/api/tags":
			fmt.Fprint(w, ollamaTagsBody)
		case "/api/version":
			fmt.Fprint(w, `{"version":"0.33.0"}`)
		case "/api/ps":
			if expires.IsZero() {
				fmt.Fprint(w, `{"models":[]}`)
				return
			}
			fmt.Fprintf(w, `{"models":[{"name":"mistral:7b","size":2,"size_vram":2,"expires_at":%q%s},`+
				`{"name":"nomic-embed-text:latest","size":2,"size_vram":2,"expires_at":"2318-01-01T00:00:00Z","context_length":2048}]}`,
				expires.Format(time.RFC3339Nano), context)
		case "/api/generate":
			var body map[string]any
			if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
				body = map[string]any{"error": err.Error()}
			}
			o.asked <- body
			generates(w, r)
		}
	}).URL
	return o
}

func (o *ollamaRunner) set(f func()) {
	o.mu.Lock()
	defer o.mu.Unlock()
	f()
}

// ollamaCanarySettled scrapes until the canary's success is as wanted.
func ollamaCanarySettled(t testing.TB, s *Scraper, want float64) Result {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		res := scrape(t, s)
		if v, ok := lookup(res.Families, "niodoo_ollama_canary_success"); ok && v == want {
			return res
		}
		if time.Now().After(deadline) {
			t.Fatalf("the canary never became %v:\n%s", want, text(res.Families))
		}
	}
}

func TestOllamaCanary(t *testing.T) {
	t.Parallel()
	o := newOllamaRunner(t)
	var now atomic.Int64
	began := time.Now()
	deps := Deps{Now: func() time.Time { return began.Add(time.Duration(now.Load())) }}
	o.generates = func(w http.ResponseWriter, _ *http.Request) { // which puts off the unloading
		o.set(func() { o.expires = deps.Now().Add(30 * time.Minute) })
		fmt.Fprint(w, ollamaGenerated)
	}
	s := scraperWith(t, only(t, "ollama", ollamaSection(o.url, ", canary: {enabled: true, interval: 5m}")), deps, Options{})

	if _, ok := lookup(scrape(t, s).Families, "niodoo_ollama_canary_success"); ok {
		t.Error("a result before the first one")
	}
	res := ollamaCanarySettled(t, s, 1)
	lint(t, res.Families)
	if v := value(t, res.Families, "niodoo_ollama_canary_tokens_per_second"); v != 40 {
		t.Errorf("%v tokens per second", v)
	}
	if v := value(t, res.Families, "niodoo_ollama_canary_time_to_first_token_seconds"); v <= 0 || v > 5 {
		t.Errorf("%v seconds to the first token", v)
	}
	if v := value(t, res.Families, "niodoo_ollama_canary_timestamp_seconds"); v < float64(began.Unix()) {
		t.Errorf("it ended at %v", v)
	}
	body := <-o.asked
	options, _ := body["options"].(map[string]any)
	if body["model"] != "mistral:7b" || options["num_ctx"] != 8192.0 || options["num_predict"] != 8.0 || body["keep_alive"] != nil {
		t.Errorf("asked %v", body)
	}

	// Due again, but nobody else has used the model: it may be unloaded.
	time.Sleep(2 * ollamaCanarySettling)
	scrape(t, s)
	now.Store(int64(5 * time.Minute))
	for range 5 {
		scrape(t, s)
	}
	closeConnections(s) // waits for one in flight
	if len(o.asked) > 0 {
		t.Error("asked again although nobody else has used the model")
	}
	// Somebody has.
	o.set(func() {
		o.expires = began.Add(35 * time.Minute)
		o.generates = func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) }
	})
	res = ollamaCanarySettled(t, s, 0)
	if _, ok := lookup(res.Families, "niodoo_ollama_canary_tokens_per_second"); ok {
		t.Error("a rate of a generation that failed")
	}
}

func TestOllamaCanaryOutcomes(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name      string
		generates http.HandlerFunc
	}{
		{"hanging", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }},
		{"runner missing", func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, `{"error":"fork/exec: no such file"}`, http.StatusInternalServerError)
		}},
		{"busy", func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, `{"error":"server busy"}`, http.StatusServiceUnavailable)
		}},
		{"error in the stream", func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprintln(w, `{"response":"O","done":false}`)
			fmt.Fprintln(w, `{"error":"an error was encountered while running the model: CUDA error"}`)
		}},
		{"cut off", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, `{"response":"O","done":false}`) }},
		{"no token", func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprintln(w, `{"response":"","done":true,"eval_count":0}`)
		}},
		{"not JSON", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, `<html>`) }},
		{"endless", func(w http.ResponseWriter, _ *http.Request) {
			for range 2 * maxAPIBody / 32 {
				fmt.Fprintln(w, `{"response":"again","done":false}`)
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			o := newOllamaRunner(t)
			o.generates = c.generates
			s := scraper(t, only(t, "ollama", ollamaSection(o.url, ", canary: {enabled: true, timeout: 1s}")))
			res := ollamaCanarySettled(t, s, 0)
			if v := value(t, res.Families, `niodoo_scrape_collector_success{collector="ollama"}`); v != 1 {
				t.Error("the canary's failure is the collector's")
			}
			if _, ok := lookup(res.Families, "niodoo_ollama_canary_time_to_first_token_seconds"); ok {
				t.Error("a time to the first token of a generation that failed")
			}
		})
	}
}

// The canary never loads a model: it keeps still where none is fit.
func TestOllamaCanaryKeepsStill(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, canary string
		fleet        bool
		change       func(o *ollamaRunner)
	}{
		{"off", "{}", false, nil},
		{"fleet", "{enabled: true}", true, nil},
		{"nothing loaded", "{enabled: true}", false, func(o *ollamaRunner) { o.expires = time.Time{} }},
		{"about to be unloaded", "{enabled: true}", false, func(o *ollamaRunner) { o.expires = time.Now().Add(5 * time.Second) }},
		{"context length unknown", "{enabled: true}", false, func(o *ollamaRunner) { o.context = "" }},
		{"another model wanted", "{enabled: true, model: llama3}", false, nil},
		{"for embeddings", "{enabled: true, model: nomic-embed-text}", false, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			o := newOllamaRunner(t)
			if c.change != nil {
				c.change(o)
			}
			s := scraperWith(t, only(t, "ollama", ollamaSection(o.url, ", canary: "+c.canary)), Deps{Fleet: c.fleet}, Options{})
			for range 3 {
				scrape(t, s)
			}
			closeConnections(s) // would wait for one in flight
			if len(o.asked) > 0 {
				t.Errorf("asked %v", <-o.asked)
			}
		})
	}
	t.Run("does not generate", func(t *testing.T) {
		t.Parallel()
		o := newOllamaRunner(t)
		o.generates = func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, `{"error":"\"mistral:7b\" does not support generate"}`, http.StatusBadRequest)
		}
		s := scraper(t, only(t, "ollama", ollamaSection(o.url, ", canary: {enabled: true}")))
		scrape(t, s)
		<-o.asked
		for range 20 {
			if _, ok := lookup(scrape(t, s).Families, "niodoo_ollama_canary_success"); ok {
				t.Fatal("a model that cannot generate has a result")
			}
		}
		if len(o.asked) > 0 {
			t.Error("asked again")
		}
	})
}

// Closing ends a generation in flight, and Update may be called again.
func TestOllamaCanaryClose(t *testing.T) {
	t.Parallel()
	o := newOllamaRunner(t)
	ended := make(chan struct{})
	o.generates = func(_ http.ResponseWriter, r *http.Request) {
		<-r.Context().Done()
		close(ended)
	}
	s := scraper(t, only(t, "ollama", ollamaSection(o.url, ", canary: {enabled: true, timeout: 1h}")))
	for range 3 { // one at a time
		scrape(t, s)
	}
	<-o.asked
	closeConnections(s)
	select {
	case <-ended:
	case <-time.After(5 * time.Second):
		t.Fatal("the generation goes on")
	}
	res := s.Scrape(context.Background(), 5*time.Second, nil)
	if len(res.Failures) > 0 {
		t.Error(res.Failures)
	}
	if _, ok := lookup(res.Families, "niodoo_ollama_canary_success"); ok {
		t.Error("a generation that was stopped has a result")
	}
	if len(o.asked) > 0 {
		t.Error("more than one at a time")
	}
}
