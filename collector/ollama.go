// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/version"

	"github.com/niodoo/niodoo_exporter/internal/config"
)

func init() { register("ollama", newOllama) }

const (
	// ollamaMaxModels bounds the label model of the models on disk,
	// ollamaMaxLoaded that of those in memory.
	ollamaMaxModels = 100
	ollamaMaxLoaded = 50
	// ollamaDigest is how much of a digest is shown, as `ollama list` does.
	ollamaDigest = 12
)

// ollamaNever stands for models that are never unloaded: Ollama says so with a
// time some three hundred years from now.
var ollamaNever = time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC)

const (
	ollamaNoModels = "without models"
	ollamaIdle     = "while no model is loaded"
	ollamaNoCanary = "unless the canary is enabled and has run"
)

var (
	ollamaModels = gauge("ollama", "ollama_models",
		"Number of models on disk", "/api/tags models")
	ollamaModelInfo = gauge("ollama", "ollama_model_info",
		"A model on disk and the beginning of its digest; the value is 1; the first 100 by name", "/api/tags name, digest", "model", "digest").absent(ollamaNoModels)
	ollamaModelSize = gauge("ollama", "ollama_model_size_bytes",
		"Size of the model on disk; models may share parts of it", "/api/tags size", "model").absent(ollamaNoModels)
	ollamaModelModified = gauge("ollama", "ollama_model_modified_timestamp_seconds",
		"Time at which the model was last pulled or created", "/api/tags modified_at", "model").absent(ollamaNoModels)

	ollamaRequired = gauge("ollama", "ollama_required_model_available",
		"Whether a required model is on disk: of that repository in any tag, or in the tag that is named", "/api/tags name and required_models", "model").
		absent("without required models")
	ollamaRequiredChanged = gauge("ollama", "ollama_required_model_changed_timestamp_seconds",
		"Time at which the exporter saw the digest of a required model change", "/api/tags digest", "model").
		absent("until a digest changes while the exporter runs")

	ollamaLoaded = gauge("ollama", "ollama_loaded_models",
		"Number of models in memory", "/api/ps models").absent("before Ollama 0.1.38")
	ollamaLoadedSize = gauge("ollama", "ollama_model_loaded_size_bytes",
		"Memory that the loaded model takes, main and graphics", "/api/ps size", "model").absent(ollamaIdle)
	ollamaLoadedVRAM = gauge("ollama", "ollama_model_loaded_vram_bytes",
		"Graphics memory that the loaded model takes", "/api/ps size_vram", "model").absent(ollamaIdle)
	ollamaLoadedGPU = gauge("ollama", "ollama_model_loaded_gpu_ratio",
		"Share of the loaded model that is in graphics memory: 1 runs on the GPU, 0 on the CPU, between is slow", "/api/ps size_vram and size", "model").absent(ollamaIdle)
	ollamaLoadedContext = gauge("ollama", "ollama_model_loaded_context_length",
		"Number of tokens of context the loaded model has", "/api/ps context_length", "model").absent(ollamaIdle + ", and before Ollama 0.9.7")
	ollamaLoadedExpires = gauge("ollama", "ollama_model_loaded_expires_timestamp_seconds",
		"Time at which the loaded model is unloaded unless it is used; the year 2100 for never", "/api/ps expires_at", "model").absent(ollamaIdle)

	ollamaCanarySuccess = gauge("ollama", "ollama_canary_success",
		"Whether the last test generation brought a token and came to an end", "POST /api/generate").absent(ollamaNoCanary)
	ollamaCanaryFirst = gauge("ollama", "ollama_canary_time_to_first_token_seconds",
		"Time from the last test generation's request to its first token", "POST /api/generate").absent(ollamaNoCanary + " well")
	ollamaCanaryRate = gauge("ollama", "ollama_canary_tokens_per_second",
		"Tokens per second of the last test generation", "POST /api/generate eval_count, eval_duration").absent(ollamaNoCanary + " well")
	ollamaCanaryTime = gauge("ollama", "ollama_canary_timestamp_seconds",
		"Time at which the last test generation ended; it pauses while no model is loaded or nobody else uses it", "POST /api/generate").absent(ollamaNoCanary)
)

// ollama asks /api/tags, which needs no login, /api/version and /api/ps. The
// tags are asked for on every scrape: that is the manual's health check, and
// an answer that is kept could say that a model is there which has gone.
type ollama struct {
	*httpClient
	required []string
	now      func() time.Time
	changes  changes
	canary   *ollamaCanary // nil unless enabled
}

func newOllama(cfg *config.Config, deps Deps) (Collector, error) {
	c, err := newHTTPClient(cfg.Ollama.HTTP, deps)
	if err != nil {
		return nil, err
	}
	o := &ollama{httpClient: c, now: deps.Now}
	for _, m := range cfg.Ollama.RequiredModels {
		if !slices.Contains(o.required, m) {
			o.required = append(o.required, m)
		}
	}
	// A fleet's exporter is not near the machines: it does not use their GPUs.
	if cfg.Ollama.Canary.Enabled && !deps.Fleet {
		o.canary = &ollamaCanary{http: c, cfg: cfg.Ollama.Canary, now: deps.Now, logger: deps.Logger}
	}
	return o, nil
}

// Close ends a canary in flight and closes the connections.
func (o *ollama) Close() error {
	if o.canary != nil {
		o.canary.stop()
	}
	return o.httpClient.Close()
}

// ollamaModel is a model of /api/tags or /api/ps.
type ollamaModel struct {
	Name          string     `json:"name"`
	Model         string     `json:"model"`
	ModifiedAt    ollamaTime `json:"modified_at"`
	ExpiresAt     ollamaTime `json:"expires_at"`
	Size          *float64   `json:"size"`
	SizeVRAM      *float64   `json:"size_vram"`
	ContextLength *float64   `json:"context_length"`
	Digest        string     `json:"digest"`
	Capabilities  []string   `json:"capabilities"`
}

func (m ollamaModel) name() string { return cmp.Or(m.Name, m.Model) }

// ollamaTime is a time that may be missing or odd, which is the zero time.
type ollamaTime struct{ time.Time }

// UnmarshalJSON implements json.Unmarshaler. It never fails.
func (t *ollamaTime) UnmarshalJSON(raw []byte) error {
	if v, err := time.Parse(time.RFC3339Nano, strings.Trim(string(raw), `"`)); err == nil && v.Unix() > 0 {
		t.Time = v
	}
	return nil
}

// models asks for a list of models and returns it sorted by name. A server
// without models may say null, but one that has no such field is no Ollama.
func (o *ollama) models(ctx context.Context, path string) ([]ollamaModel, *reply, error) {
	var list struct {
		Models json.RawMessage `json:"models"`
	}
	r, err := o.getJSON(ctx, path, maxAPIBody, &list)
	if err != nil {
		return nil, r, err
	}
	if list.Models == nil {
		return nil, r, failf(ReasonParse, "%s: the answer has no field models", r.what)
	}
	var models []ollamaModel
	if err := json.Unmarshal(list.Models, &models); err != nil {
		return nil, r, fail(ReasonParse, fmt.Errorf("%s: the models are not what was expected: %w", r.what, err))
	}
	models = slices.DeleteFunc(models, func(m ollamaModel) bool { return m.name() == "" })
	slices.SortStableFunc(models, func(a, b ollamaModel) int { return cmp.Compare(a.name(), b.name()) })
	return slices.CompactFunc(models, func(a, b ollamaModel) bool { return a.name() == b.name() }), r, nil
}

// Update implements [Collector]. Ollama is up when it lists its models. That a
// required one is missing is another fact, not a failure.
func (o *ollama) Update(ctx context.Context, ch chan<- prometheus.Metric) error {
	if o.canary != nil {
		defer o.canary.send(ch)
	}
	began := time.Now()
	var onDisk, loaded []ollamaModel
	// Two at a time: that many connections are kept.
	err := parallel(
		func() (err error) {
			onDisk, err = o.tags(ctx, ch)
			return err
		},
		func() (err error) {
			versionErr := o.version(ctx, ch)
			loaded, err = o.loaded(ctx, ch)
			return cmp.Or(versionErr, err)
		},
	)
	if err == nil && o.canary != nil {
		o.canary.consider(began, onDisk, loaded)
	}
	return err
}

func (o *ollama) tags(ctx context.Context, ch chan<- prometheus.Metric) ([]ollamaModel, error) {
	models, r, err := o.models(ctx, "/api/tags")
	if err != nil {
		return nil, err
	}
	status{up: true, response: r.elapsed, tlsNotAfter: r.tlsNotAfter}.send(ch, "ollama")
	ch <- ollamaModels.metric(float64(len(models)))
	for _, m := range models[:min(len(models), ollamaMaxModels)] {
		ch <- ollamaModelInfo.metric(1, m.name(), ollamaShort(m.Digest))
		if m.Size != nil && *m.Size >= 0 {
			ch <- ollamaModelSize.metric(*m.Size, m.name())
		}
		if !m.ModifiedAt.IsZero() {
			ch <- ollamaModelModified.metric(float64(m.ModifiedAt.Unix()), m.name())
		}
	}
	for _, want := range o.required {
		var digests []string
		found := false
		for _, m := range models {
			if ollamaMatches(want, m.name()) {
				found = true
				digests = append(digests, m.Digest)
			}
		}
		ch <- ollamaRequired.boolean(found, want)
		if !found {
			continue
		}
		if at := o.changes.observe(want, strings.Join(digests, " "), o.now()); !at.IsZero() {
			ch <- ollamaRequiredChanged.metric(float64(at.Unix()), want)
		}
	}
	return models, nil
}

func ollamaShort(digest string) string {
	digest = strings.TrimPrefix(digest, "sha256:")
	return digest[:min(len(digest), ollamaDigest)]
}

func (o *ollama) version(ctx context.Context, ch chan<- prometheus.Metric) error {
	var v struct {
		Version string `json:"version"`
	}
	if r, err := o.getJSON(ctx, "/api/version", maxHealthBody, &v); err != nil {
		return ollamaOptional(r, err)
	}
	if v.Version != "" {
		ch <- componentInfo.metric(1, "ollama", v.Version)
	}
	return nil
}

// ollamaOptional lets an old server do without an endpoint.
func ollamaOptional(r *reply, err error) error {
	if r != nil && r.status == http.StatusNotFound {
		return nil
	}
	return err
}

func (o *ollama) loaded(ctx context.Context, ch chan<- prometheus.Metric) ([]ollamaModel, error) {
	models, r, err := o.models(ctx, "/api/ps")
	if err != nil {
		return nil, ollamaOptional(r, err)
	}
	ch <- ollamaLoaded.metric(float64(len(models)))
	for _, m := range models[:min(len(models), ollamaMaxLoaded)] {
		if m.Size != nil && *m.Size >= 0 {
			ch <- ollamaLoadedSize.metric(*m.Size, m.name())
		}
		if m.SizeVRAM != nil && *m.SizeVRAM >= 0 {
			ch <- ollamaLoadedVRAM.metric(*m.SizeVRAM, m.name())
			if m.Size != nil && *m.Size > 0 {
				ch <- ollamaLoadedGPU.metric(min(*m.SizeVRAM / *m.Size, 1), m.name())
			}
		}
		if m.ContextLength != nil && *m.ContextLength > 0 {
			ch <- ollamaLoadedContext.metric(*m.ContextLength, m.name())
		}
		if !m.ExpiresAt.IsZero() {
			ch <- ollamaLoadedExpires.metric(float64(min(m.ExpiresAt.Unix(), ollamaNever.Unix())), m.name())
		}
	}
	return models, nil
}

// ollamaMatches reports whether a model that Ollama lists is the one that is
// wanted: "mistral" is mistral:7b, but not mistral-nemo:12b or
// dolphin-mistral:7b; "mistral:7b" is that tag only.
func ollamaMatches(want, listed string) bool {
	wantRepo, wantTag := ollamaSplit(want)
	repo, tag := ollamaSplit(listed)
	return strings.EqualFold(wantRepo, repo) && (wantTag == "" || strings.EqualFold(wantTag, cmp.Or(tag, "latest")))
}

// ollamaSplit splits a model's name into repository and tag, "" if it has none.
// The default registry and namespace are left out, as Ollama does.
func ollamaSplit(name string) (repo, tag string) {
	repo = strings.TrimSpace(name)
	if at := strings.LastIndexByte(repo, ':'); at > strings.LastIndexByte(repo, '/') { // else it is the registry's port
		repo, tag = repo[:at], repo[at+1:]
	}
	repo = strings.TrimPrefix(repo, "registry.ollama.ai/")
	return strings.TrimPrefix(repo, "library/"), tag
}

// ollamaCanary makes a test generation now and then, since an Ollama whose
// runner hangs lists its models as ever. It runs in the background, at most
// one at a time, begun by a scrape that finds it due.
//
// It must not change what it watches. It asks only a model that is in memory,
// with the context length that it has there, because Ollama would load it anew
// for another. Each use puts off the unloading, so it waits until somebody
// else has used the model since: an idle model stays at most one keep_alive
// longer. (A keep_alive of our own would become that of the next user.)
type ollamaCanary struct {
	http   *httpClient
	cfg    config.Canary
	now    func() time.Time
	logger *slog.Logger

	mu       sync.Mutex
	cancel   context.CancelFunc // of the one in flight
	done     chan struct{}      // closed when it has ended; nil if none is in flight
	started  time.Time          // of the last one
	ended    time.Time          // of the last one, by the wall
	asked    string             // model of the last one
	expires  time.Time          // when asked is unloaded since then; zero until seen
	unsuited map[string]bool    // models that do not generate, such as those for embeddings
	last     *ollamaCanaryResult
}

// ollamaCanaryMargin is how long a model must stay in memory yet to be asked.
const ollamaCanaryMargin = 15 * time.Second

// ollamaCanarySettling is how long Ollama may take to put off the unloading.
const ollamaCanarySettling = 100 * time.Millisecond

type ollamaCanaryResult struct {
	at         time.Time
	ok         bool
	firstToken time.Duration
	rate       float64 // tokens per second, 0 if not known
}

// send exports the last result.
func (c *ollamaCanary) send(ch chan<- prometheus.Metric) {
	c.mu.Lock()
	r := c.last
	c.mu.Unlock()
	if r == nil {
		return
	}
	ch <- ollamaCanarySuccess.boolean(r.ok)
	ch <- ollamaCanaryTime.metric(float64(r.at.UnixMilli()) / 1000)
	if r.ok {
		ch <- ollamaCanaryFirst.metric(r.firstToken.Seconds())
		if r.rate > 0 {
			ch <- ollamaCanaryRate.metric(r.rate)
		}
	}
}

// consider begins a test generation if one is due and a model is fit for it.
// asked is when the lists were asked for.
func (c *ollamaCanary) consider(asked time.Time, onDisk, loaded []ollamaModel) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.done != nil {
		return
	}
	now := c.now()
	maps.DeleteFunc(c.unsuited, func(name string, _ bool) bool {
		return !slices.ContainsFunc(loaded, func(m ollamaModel) bool { return m.name() == name })
	})
	for _, m := range loaded { // the first sight after the last one is our own doing
		if m.name() == c.asked && c.expires.IsZero() && asked.Sub(c.ended) > ollamaCanarySettling {
			c.expires = m.ExpiresAt.Time
		}
	}
	if !c.started.IsZero() && now.Sub(c.started) < time.Duration(c.cfg.Interval) {
		return
	}
	var best ollamaModel
	for _, m := range loaded {
		if c.fits(m, onDisk, now) && m.ExpiresAt.After(best.ExpiresAt.Time) {
			best = m
		}
	}
	if best.name() == "" {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(c.cfg.Timeout))
	c.started, c.asked, c.expires = now, best.name(), time.Time{}
	done := make(chan struct{})
	c.cancel, c.done = cancel, done
	go c.run(ctx, cancel, done, best)
}

// fits reports whether a loaded model may be asked.
func (c *ollamaCanary) fits(m ollamaModel, onDisk []ollamaModel, now time.Time) bool {
	name := m.name()
	switch {
	case c.cfg.Model != "" && !ollamaMatches(c.cfg.Model, name),
		m.ContextLength == nil, // before Ollama 0.9.7
		m.ExpiresAt.Sub(now) < ollamaCanaryMargin,
		c.unsuited[name]:
		return false
	case name == c.asked && m.ExpiresAt.Equal(c.expires) && m.ExpiresAt.Before(ollamaNever):
		return false // nobody has used it since
	}
	for _, d := range onDisk {
		if d.name() == name && d.Capabilities != nil && !slices.Contains(d.Capabilities, "completion") {
			return false
		}
	}
	return true
}

// run makes one test generation and notes its result.
func (c *ollamaCanary) run(ctx context.Context, cancel context.CancelFunc, done chan struct{}, m ollamaModel) {
	defer close(done)
	defer cancel()
	r, err := c.generate(ctx, m)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cancel, c.done, c.ended = nil, nil, time.Now()
	switch {
	case errors.Is(ctx.Err(), context.Canceled): // we stopped it: it says nothing
	case errors.Is(err, errOllamaUnsuited):
		if c.unsuited == nil {
			c.unsuited = map[string]bool{}
		}
		c.unsuited[m.name()] = true
		c.started = time.Time{} // another model may be asked at once
	default:
		r.ok, r.at = err == nil, c.now()
		if c.last == nil || c.last.ok != r.ok {
			c.logger.Info("The outcome of the test generation has changed", "model", m.name(), "ok", r.ok, "err", err)
		}
		c.last = &r
	}
}

// stop ends a test generation in flight and waits for its end.
func (c *ollamaCanary) stop() {
	c.mu.Lock()
	cancel, done := c.cancel, c.done
	c.mu.Unlock()
	if done != nil {
		cancel()
		<-done
	}
}

var errOllamaUnsuited = errors.New("the model does not generate text")

// generate asks for a few tokens and times them.
func (c *ollamaCanary) generate(ctx context.Context, m ollamaModel) (r ollamaCanaryResult, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = panicError(p)
		}
	}()
	const what = "POST /api/generate"
	body, err := json.Marshal(map[string]any{
		"model": m.name(), "prompt": "Say OK.", "stream": true,
		"options": map[string]any{"num_predict": 8, "num_ctx": int64(*m.ContextLength)},
	})
	if err != nil {
		return r, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.http.base.String()+"/api/generate", bytes.NewReader(body))
	if err != nil {
		return r, err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", "niodoo_exporter/"+version.Version)
	if c.http.authorize != nil {
		if err := c.http.authorize(req); err != nil {
			return r, err
		}
	}
	began := time.Now()
	res, err := c.http.client.Do(req)
	if err != nil {
		return r, transportFailure(ctx, what, err)
	}
	defer res.Body.Close()
	switch {
	case res.StatusCode == http.StatusBadRequest, res.StatusCode == http.StatusNotFound:
		return r, errOllamaUnsuited // made for embeddings, or gone in the meantime
	case res.StatusCode != http.StatusOK:
		return r, statusFailure(what, res.StatusCode)
	}
	tokens := json.NewDecoder(io.LimitReader(res.Body, maxAPIBody))
	for {
		var t struct {
			Response     string  `json:"response"`
			Thinking     string  `json:"thinking"`
			Error        string  `json:"error"`
			Done         bool    `json:"done"`
			EvalCount    float64 `json:"eval_count"`
			EvalDuration float64 `json:"eval_duration"` // nanoseconds
		}
		if err := tokens.Decode(&t); err != nil {
			return r, transportFailure(ctx, what, err)
		}
		if t.Error != "" {
			return r, errors.New("the generation failed")
		}
		if r.firstToken == 0 && t.Response+t.Thinking != "" {
			r.firstToken = time.Since(began)
		}
		if !t.Done {
			continue
		}
		if r.firstToken == 0 {
			return r, errors.New("the generation brought no token")
		}
		if t.EvalCount > 0 && t.EvalDuration > 0 {
			r.rate = t.EvalCount / (t.EvalDuration / 1e9)
		}
		return r, nil
	}
}
