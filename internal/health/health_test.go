// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package health

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/niodoo/niodoo_exporter/internal/config"
	"github.com/niodoo/niodoo_exporter/internal/e2e"
	"github.com/niodoo/niodoo_exporter/internal/opstate"
	"github.com/niodoo/niodoo_exporter/internal/sim"
	"github.com/niodoo/niodoo_exporter/internal/thresholds"
)

func parse(t *testing.T, yaml string) *config.Config {
	t.Helper()
	cfg, err := config.Parse(filepath.Join(t.TempDir(), "niodoo.yml"), []byte(yaml))
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

func run(t *testing.T, yaml string) *Report {
	t.Helper()
	r, err := Run(t.Context(), parse(t, yaml), e2e.Thresholds(), Options{Budget: 20 * time.Second, Pause: 200 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// describe is a component in one line.
func describe(c *Component) string {
	return fmt.Sprintf("%s %s %s %s", c.Name, c.State, c.Verdict, c.Reason)
}

// With each service stopped in turn it is that one's line which says so, and
// the whole is as bad as it.
func TestEachServiceStopped(t *testing.T) {
	t.Parallel()
	s := e2e.StartStack(t)
	well := run(t, s.Config)
	if well.Verdict != opstate.Well {
		out, _ := json.MarshalIndent(well, "", " ")
		t.Fatalf("a stack that is well is %s:\n%s", well.Verdict, out)
	}
	for _, name := range []string{"engine", "postgresql", "redis", "ollama", "qdrant", "prometheus", "grafana"} {
		c := well.Component(name)
		if c == nil || c.State != Up || c.Response == nil || c.Figure == nil || !c.Required || c.Role == "" {
			t.Errorf("%s: %+v", name, c)
		}
	}
	fault := func(name string) (break_, mend func() error) {
		return func() error { return s.Inject(name + "-stopped") }, func() error { return s.Lift(name + "-stopped") }
	}
	for _, c := range []struct {
		name, alert string
		stop, start func() error
	}{
		{name: "engine", alert: "ConsciousnessEngineDown"}, {name: "ollama", alert: "ServiceDown"}, {name: "qdrant", alert: "ServiceDown"},
		{name: "prometheus", alert: "ServiceDown"}, {name: "grafana", alert: "ServiceDown"},
		{"postgresql", "PostgreSQLDown", func() error { s.Postgres.Kill(); return nil }, func() error { return s.Postgres.Restart(t.Context()) }},
		{"redis", "ServiceDown", func() error { s.Redis.Kill(); return nil }, func() error { return s.Redis.Start(t.Context()) }},
	} {
		if c.stop == nil {
			c.stop, c.start = fault(c.name)
		}
		if err := c.stop(); err != nil {
			t.Fatal(err)
		}
		r := run(t, s.Config)
		if got, want := describe(r.Component(c.name)), c.name+" down failing refused"; got != want || r.Verdict != opstate.Failing {
			t.Errorf("got %q, verdict %s, want %q", got, r.Verdict, want)
		}
		for _, other := range r.Components {
			if other.Name != c.name && other.Verdict != opstate.Well {
				t.Errorf("with %s stopped: %s", c.name, describe(&other))
			}
		}
		alerts := r.Alerts(map[string]string{"instance": "here"}, r.Started.Add(time.Hour))
		if len(alerts) != 1 || alerts[0].Labels["alertname"] != c.alert || alerts[0].Labels["component"] != c.name ||
			alerts[0].Labels["source"] != "niodooctl" || alerts[0].Labels["instance"] != "here" {
			t.Errorf("with %s stopped: alerts %+v", c.name, alerts)
		}
		if err := c.start(); err != nil {
			t.Fatal(err)
		}
	}
	if r := run(t, s.Config); r.Verdict != opstate.Well {
		t.Errorf("all started again: %s", r.Verdict)
	}
}

// Faults that leave a service up are told apart.
func TestFaults(t *testing.T) {
	t.Parallel()
	s, err := sim.New(sim.Options{Seed: 1, Age: 26 * time.Hour, Only: []string{"engine", "ollama", "qdrant", "prometheus"},
		Engine: sim.EngineOptions{Metrics: "text", Processing: "histogram", Memory: "flat"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	cfg := s.Config()
	for _, name := range []string{"postgresql", "redis", "grafana", "host", "logs", "backup", "operations"} {
		cfg += sim.Section(name, map[string]any{"enabled": false})
	}
	for _, c := range []struct{ fault, want, why, alert string }{
		{"engine-401", "engine unread unknown auth", "auth: ", "NiodooCollectorFailing"},
		{"engine-429", "engine unread unknown rate_limited", "rate_limited: ", "NiodooCollectorFailing"},
		{"engine-503", "engine down failing not_ready", "503", "ConsciousnessEngineDown"},
		{"engine-login-page", "engine down failing parse", "parse: ", "ConsciousnessEngineDown"},
		{"engine-unhealthy", "engine down failing unhealthy", "unhealthy: ", "ConsciousnessEngineDown"},
		{"engine-part-unhealthy", "engine up warning ", "memory_manager: the engine says that it is not healthy", "EngineDegraded"},
		{"engine-retrieval-failing", "engine up warning ", "memory retrievals that succeed is 8", "LowRetrievalSuccess"},
		{"engine-cache-cold", "engine up warning ", "below the limit of 50 %", "LowCacheHitRatio"},
		{"ollama-model-removed", "ollama up warning ", "mistral: the required model is missing", "RequiredModelMissing"},
		{"qdrant-red", "qdrant up warning ", "the collection has failed", "QdrantCollectionFailed"},
		{"qdrant-not-ready", "qdrant not_ready warning ", "up, and not ready for work", "ComponentNotReady"},
		{"prometheus-reload-failed", "prometheus up warning ", "the last one is refused", "PrometheusConfigReloadFailed"},
	} {
		if err := s.Inject(c.fault); err != nil {
			t.Fatal(err)
		}
		name, _, _ := strings.Cut(c.want, " ")
		e2e.Await(t, c.fault+" shows", func() error { // values change once a second
			r := run(t, cfg)
			got := r.Component(name)
			if describe(got) != c.want || !strings.Contains(strings.Join(got.Why, "\n"), c.why) {
				return fmt.Errorf("got %q because %q, want %q because %q", describe(got), got.Why, c.want, c.why)
			}
			if r.Verdict != got.Verdict {
				return fmt.Errorf("the whole is %s", r.Verdict)
			}
			for _, a := range r.Alerts(nil, r.Started) {
				if a.Labels["alertname"] == c.alert {
					return nil
				}
			}
			return fmt.Errorf("no alert %s", c.alert)
		})
		if err := s.Lift(c.fault); err != nil {
			t.Fatal(err)
		}
	}
}

// A container is not well once its checks have failed.
func TestContainers(t *testing.T) {
	t.Parallel()
	s, err := sim.New(sim.Options{Seed: 1, Age: 26 * time.Hour, Only: []string{"docker"}, DockerSocket: filepath.Join(t.TempDir(), "docker.sock")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	cfg := s.Config()
	for _, name := range []string{"engine", "postgresql", "redis", "ollama", "qdrant", "prometheus", "grafana", "host", "logs", "backup", "operations"} {
		cfg += sim.Section(name, map[string]any{"enabled": false})
	}
	if err := s.Inject("docker-container-unhealthy"); err != nil {
		t.Fatal(err)
	}
	e2e.Await(t, "the container is not healthy", func() error {
		c := run(t, cfg).Component("docker")
		if got := describe(c); got != "docker up warning " || len(c.Why) != 1 || !strings.HasSuffix(c.Why[0], "engine-1: the container is not healthy") {
			return fmt.Errorf("%s %q", got, c.Why)
		}
		return nil
	})
}

// Something that hangs is a timeout within the budget, and costs the others nothing.
func TestHanging(t *testing.T) {
	t.Parallel()
	s, err := sim.New(sim.Options{Seed: 1, Age: 26 * time.Hour, Only: []string{"engine", "ollama"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	cfg := s.Config()
	for _, name := range []string{"postgresql", "redis", "qdrant", "prometheus", "grafana", "host", "logs", "backup", "operations"} {
		cfg += sim.Section(name, map[string]any{"enabled": false})
	}
	if err := s.Inject("ollama-hanging"); err != nil {
		t.Fatal(err)
	}
	r, err := Run(t.Context(), parse(t, cfg), thresholds.Default(), Options{Budget: 2 * time.Second, Pause: 100 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	if got := describe(r.Component("ollama")); got != "ollama down failing timeout" {
		t.Error(got)
	}
	if c := r.Component("engine"); c.Verdict != opstate.Well || c.Figure == nil || c.Figure.What != "events per second" {
		t.Errorf("%+v", c)
	}
}

// Nothing runs: every required component is down, the others are just said.
func TestNothingRunning(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	cfg := ""
	for name, keys := range map[string]map[string]any{
		"engine": {"url": "http://127.0.0.1:1"}, "ollama": {"url": "http://127.0.0.1:1"}, "prometheus": {"url": "http://127.0.0.1:1"},
		"grafana": {"url": "http://127.0.0.1:1"}, "redis": {"address": "127.0.0.1:1"}, "postgresql": {"host": "127.0.0.1", "port": 1},
		"host": {"enabled": false}, "operations": {"state_dir": filepath.Join(dir, "missing")},
		"vllm": {"url": "http://127.0.0.1:1", "required": false},
	} {
		cfg += sim.Section(name, keys)
	}
	parsed := parse(t, cfg)
	parsed.Qdrant.URL = "http://127.0.0.1:1" // not named, and so not required
	r, err := Run(t.Context(), parsed, thresholds.Default(), Options{Budget: 20 * time.Second, Pause: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"engine", "postgresql", "redis", "ollama", "prometheus", "grafana"} {
		if got := describe(r.Component(name)); got != name+" down failing refused" {
			t.Error(got)
		}
	}
	for _, want := range []string{"vllm down warning refused", "qdrant absent well refused", "operations unchecked unknown not_found"} {
		name, _, _ := strings.Cut(want, " ")
		if got := describe(r.Component(name)); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	if r.Verdict != opstate.Failing {
		t.Error(r.Verdict)
	}
	named := map[string]string{}
	for _, a := range r.Alerts(nil, r.Started.Add(time.Hour)) {
		if a.Labels["component"] != "operations" {
			named[a.Labels["component"]] = a.Labels["alertname"] + " " + a.Labels["priority"]
		}
	}
	if d := cmp.Diff(map[string]string{"engine": "ConsciousnessEngineDown P1", "postgresql": "PostgreSQLDown P1", "redis": "EngineDependencyDown P1",
		"ollama": "EngineDependencyDown P1", "prometheus": "ServiceDown P2", "grafana": "ServiceDown P2"}, named); d != "" {
		t.Errorf("-want +got:\n%s", d)
	}
	if d := r.Document(); d.Verdict != opstate.Failing || d.Components["engine"] != opstate.Failing {
		t.Errorf("%+v", d)
	} else if _, ok := d.Components["qdrant"]; ok {
		t.Error("what is absent has a verdict")
	}
	var texts []string
	for _, f := range r.Findings {
		texts = append(texts, f.Text)
	}
	for _, want := range []string{"no heartbeat is received", "missing does not exist", "niodooctl can tell nobody"} {
		if !strings.Contains(strings.Join(texts, "\n"), want) {
			t.Errorf("no finding %q in %q", want, texts)
		}
	}
}

func TestInterrupted(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if r, err := Run(ctx, config.Default(), thresholds.Default(), Options{}); r != nil || !errors.Is(err, context.Canceled) {
		t.Errorf("%v, %v", r, err)
	}
}
