// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"encoding/json"
	"net/http"
	"time"
)

// The documented answers of Ollama 0.33.

const ollamaVersion = "0.33.0"

type ollamaDetails struct {
	Parent        string   `json:"parent_model"`
	Format        string   `json:"format"`
	Family        string   `json:"family"`
	Families      []string `json:"families"`
	ParameterSize string   `json:"parameter_size"`
	Quantization  string   `json:"quantization_level"`
	Context       int      `json:"context_length,omitempty"`
	Embedding     int      `json:"embedding_length,omitempty"`
}

type ollamaModel struct {
	Name         string        `json:"name"`
	Model        string        `json:"model"`
	Modified     string        `json:"modified_at"`
	Size         int64         `json:"size"`
	Digest       string        `json:"digest"`
	Details      ollamaDetails `json:"details"`
	Capabilities []string      `json:"capabilities"`
}

type ollamaLoaded struct {
	Name    string        `json:"name"`
	Model   string        `json:"model"`
	Size    int64         `json:"size"`
	Digest  string        `json:"digest"`
	Details ollamaDetails `json:"details"`
	Expires string        `json:"expires_at"`
	VRAM    int64         `json:"size_vram"`
	Context int           `json:"context_length"`
}

// ollamaModels are what the deployment guide pulls, newest first as Ollama sorts them.
var ollamaModels = []ollamaModel{
	{Name: "mistral:latest", Modified: "2026-11-20T08:46:49.641979289Z", Size: 4372824384,
		Digest:       "6577803aa9a036369e481d648a2baebb381ebc6e897f2bb9a766a2aa7bfbc1cf",
		Details:      ollamaDetails{Format: "gguf", Family: "llama", Families: []string{"llama"}, ParameterSize: "7.2B", Quantization: "Q4_K_M", Context: 32768, Embedding: 4096},
		Capabilities: []string{"completion", "tools"}},
	{Name: "llama3.1:8b", Modified: "2026-11-19T17:02:11.108812001Z", Size: 4920753328,
		Digest:       "46e0c10c039e019119339687c3c1757cc81b9da49709a3b3924863ba87ca666e",
		Details:      ollamaDetails{Format: "gguf", Family: "llama", Families: []string{"llama"}, ParameterSize: "8.0B", Quantization: "Q4_K_M", Context: 131072, Embedding: 4096},
		Capabilities: []string{"completion", "tools"}},
	{Name: "nomic-embed-text:latest", Modified: "2026-11-19T16:58:40.530021774Z", Size: 274302450,
		Digest:       "0a109f422b47e3a30ba2b10eca18548e944e8a23073ee3f3e947efcf3c45e59f",
		Details:      ollamaDetails{Format: "gguf", Family: "nomic-bert", Families: []string{"nomic-bert"}, ParameterSize: "137M", Quantization: "F16", Context: 2048, Embedding: 768},
		Capabilities: []string{"embedding"}},
}

// mistralNemo is what a careless check takes for mistral.
var mistralNemo = ollamaModel{Name: "mistral-nemo:12b", Modified: "2026-11-18T09:30:02.991003114Z", Size: 7071713232,
	Digest:       "994f3b8b78011aa6d578b0c889cbb89a64b778f80d73b8d991a8db1f1e710ace",
	Details:      ollamaDetails{Format: "gguf", Family: "llama", Families: []string{"llama"}, ParameterSize: "12.2B", Quantization: "Q4_0", Context: 1024000, Embedding: 5120},
	Capabilities: []string{"completion", "tools"}}

func newOllama(w *world, canary time.Duration) *service {
	list := func() []ollamaModel {
		models := append([]ollamaModel(nil), ollamaModels...)
		if w.look().knobs.modelRemoved {
			models[0] = mistralNemo
			models[0], models[1], models[2] = models[1], models[2], models[0]
		}
		for i := range models {
			models[i].Model = models[i].Name
		}
		return models
	}
	routes := map[string]struct {
		methods string
		answer  http.HandlerFunc
	}{
		"/": {"GET, HEAD", func(w http.ResponseWriter, _ *http.Request) { answerText(w, http.StatusOK, "Ollama is running") }},
		"/api/version": {"GET, HEAD", func(rw http.ResponseWriter, _ *http.Request) {
			ollamaJSON(rw, http.StatusOK, map[string]string{"version": ollamaVersion})
		}},
		"/api/tags": {"GET, HEAD", func(rw http.ResponseWriter, _ *http.Request) {
			ollamaJSON(rw, http.StatusOK, map[string]any{"models": list()})
		}},
		"/api/status": {"GET", func(rw http.ResponseWriter, _ *http.Request) {
			answer(rw, http.StatusOK, "application/json; charset=utf-8", []byte(`{"cloud":{"disabled":true,"source":"env"}}`))
		}},
		"/api/ps": {"GET", func(rw http.ResponseWriter, _ *http.Request) {
			s := w.look()
			loaded := []ollamaLoaded{}
			for _, m := range list() {
				if m.Name != "mistral:latest" && m.Name != "nomic-embed-text:latest" {
					continue
				}
				l := ollamaLoaded{Name: m.Name, Model: m.Model, Size: m.Size + m.Size/4, Digest: m.Digest, Details: m.Details, Context: min(m.Details.Context, 4096),
					Expires: s.ollama.lastUse.Add(5 * time.Minute).UTC().Format(time.RFC3339Nano)}
				l.Details.Context, l.Details.Embedding = 0, 0 // only in the list of models
				if !s.knobs.modelOnCPU {
					l.VRAM = l.Size
				}
				loaded = append(loaded, l)
			}
			ollamaJSON(rw, http.StatusOK, map[string]any{"models": loaded})
		}},
		"/api/generate": {"POST", func(rw http.ResponseWriter, r *http.Request) { ollamaGenerate(rw, r, w.look(), list()) }},
	}
	h := http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		route, ok := routes[r.URL.Path]
		switch {
		case !ok:
			answer(rw, http.StatusNotFound, "text/plain", []byte("404 page not found"))
		case !allows(route.methods, r.Method):
			rw.Header().Set("Allow", route.methods)
			answer(rw, http.StatusMethodNotAllowed, "text/plain", []byte("405 method not allowed"))
		default:
			route.answer(rw, r)
		}
	})
	reject := func(rw http.ResponseWriter, _ *http.Request, status int) {
		text := map[int]string{http.StatusServiceUnavailable: "server busy, please try again.  maximum pending requests exceeded"}[status]
		if text == "" {
			text = http.StatusText(status)
		}
		ollamaJSON(rw, status, map[string]string{"error": text})
	}
	return &service{name: "ollama", handler: h, reject: reject, section: func(address string) map[string]any {
		s := map[string]any{"url": "http://" + address, "required_models": []string{"mistral"}}
		if canary > 0 {
			s["canary"] = map[string]any{"enabled": true, "interval": canary.String(), "timeout": canary.String()}
		}
		return s
	}}
}

// ollamaGenerate answers one short generation.
func ollamaGenerate(w http.ResponseWriter, r *http.Request, s state, models []ollamaModel) {
	var ask struct {
		Model string `json:"model"`
	}
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<20)).Decode(&ask); err != nil {
		ollamaJSON(w, http.StatusBadRequest, map[string]string{"error": err.Error()})
		return
	}
	known := false
	for _, m := range models {
		known = known || m.Name == ask.Model || m.Name == ask.Model+":latest"
	}
	switch {
	case !known:
		ollamaJSON(w, http.StatusNotFound, map[string]string{"error": "model '" + ask.Model + "' not found"})
	case s.knobs.generateFails:
		ollamaJSON(w, http.StatusInternalServerError, map[string]string{"error": "llama runner process has terminated: exit status 2"})
	default:
		ollamaJSON(w, http.StatusOK, struct {
			Model    string `json:"model"`
			Created  string `json:"created_at"`
			Response string `json:"response"`
			Done     bool   `json:"done"`
			Reason   string `json:"done_reason"`
			Total    int64  `json:"total_duration"`
			Load     int64  `json:"load_duration"`
			Prompts  int    `json:"prompt_eval_count"`
			PromptNs int64  `json:"prompt_eval_duration"`
			Evals    int    `json:"eval_count"`
			EvalNs   int64  `json:"eval_duration"`
		}{ask.Model, s.at.UTC().Format(time.RFC3339Nano), "I", true, "length", 182_000_000, 21_000_000, 5, 96_000_000, 1, 11_000_000})
	}
}

func ollamaJSON(w http.ResponseWriter, status int, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		panic(err) // our own plain structures
	}
	answer(w, status, "application/json; charset=utf-8", body)
}
