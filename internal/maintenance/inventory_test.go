// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package maintenance

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/niodoo/niodoo_exporter/internal/config"
	"github.com/niodoo/niodoo_exporter/internal/opstate"
)

// daemon is a Docker daemon and an Ollama server that answer about what they are told to have.
type daemon struct {
	mu     sync.Mutex
	runs   map[string][2]string // container: image, id
	tags   map[string]string    // image: id
	models map[string]string    // name: digest
	down   bool
	// proxied lets nobody see images.
	proxied bool
}

func (d *daemon) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	d.mu.Lock()
	defer d.mu.Unlock()
	path := r.URL.Path
	if rest, ok := strings.CutPrefix(path, "/v1."); ok {
		_, path, _ = strings.Cut(rest, "/")
		path = "/" + path
	}
	var answer any
	switch {
	case d.down:
		w.WriteHeader(http.StatusInternalServerError)
		return
	case path == "/_ping":
		w.Header().Set("Api-Version", "1.47")
		_, _ = w.Write([]byte("OK"))
		return
	case path == "/api/version":
		answer = map[string]string{"version": "0.33.0"}
	case path == "/api/ps":
		answer = map[string]any{"models": []any{}}
	case path == "/api/tags":
		models := []map[string]any{}
		for name, digest := range d.models {
			models = append(models, map[string]any{"name": name, "model": name, "digest": digest, "size": 1})
		}
		answer = map[string]any{"models": models}
	case path == "/containers/json":
		list := []map[string]any{}
		for name, c := range d.runs {
			list = append(list, map[string]any{"Id": name, "Names": []string{"/" + name}, "Image": c[0], "ImageID": c[1], "State": "running",
				"Labels": map[string]string{"com.docker.compose.project": "niodoo"}})
		}
		if r.URL.Query().Get("filters") == "" {
			list = append(list, map[string]any{"Id": "other", "Names": []string{"/other"}, "Image": "other:1", "ImageID": "sha256:9", "State": "running"})
		}
		answer = list
	case strings.HasPrefix(path, "/containers/"):
		name, kind, _ := strings.Cut(strings.TrimPrefix(path, "/containers/"), "/")
		if kind != "json" {
			answer = map[string]any{}
			break
		}
		c := d.runs[name]
		answer = map[string]any{"Id": name, "Name": "/" + name, "Image": c[1], "Config": map[string]any{"Image": c[0]},
			"State": map[string]any{"Status": "running", "Running": true, "StartedAt": "2026-11-24T02:00:00Z"}}
	case strings.HasPrefix(path, "/images/"):
		id, ok := d.tags[strings.TrimSuffix(strings.TrimPrefix(path, "/images/"), "/json")]
		switch {
		case d.proxied:
			w.WriteHeader(http.StatusForbidden)
			return
		case !ok:
			w.WriteHeader(http.StatusNotFound)
			_, _ = w.Write([]byte(`{"message":"No such image: x"}`))
			return
		}
		answer = map[string]any{"Id": id}
	default:
		w.WriteHeader(http.StatusNotFound)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(answer)
}

// simple is a configuration that watches the daemon alone.
func simple(t *testing.T, d *daemon) *config.Config {
	t.Helper()
	server := httptest.NewServer(d)
	t.Cleanup(server.Close)
	dir := t.TempDir()
	off := ""
	for _, n := range []string{"engine", "postgresql", "redis", "qdrant", "prometheus", "grafana", "logs", "backup", "operations"} {
		off += n + ": {enabled: false}\n"
	}
	text := off + "host: {enabled: false, config_files: ['" + dir + "/conf/*']}\noperations: {enabled: false, state_dir: '" + dir + "/state'}\n" +
		"ollama: {url: '" + server.URL + "', required_models: [mistral]}\ndocker: {host: '" + strings.Replace(server.URL, "http", "tcp", 1) + "', project: niodoo}\n"
	text = strings.Replace(text, "operations: {enabled: false}\n", "", 1)
	file := filepath.Join(dir, "niodoo.yml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, sub := range []string{"conf", "state"} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "conf", "engine.toml"), []byte("secret = 'hush'\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, err := config.Load(file)
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

func newDaemon() *daemon {
	return &daemon{runs: map[string][2]string{"niodoo-redis-1": {"redis:7-alpine", "sha256:1111111111111111"}, "niodoo-engine-1": {"registry.local:5000/niodoo/engine:latest", "sha256:2222222222222222"}},
		tags:   map[string]string{"redis:7-alpine": "sha256:1111111111111111", "registry.local:5000/niodoo/engine:latest": "sha256:2222222222222222"},
		models: map[string]string{"mistral:latest": "aaaaaaaaaaaaaaaaaaaa"}}
}

func (d *daemon) change(f func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f()
}

func TestDrift(t *testing.T) {
	t.Parallel()
	d := newDaemon()
	cfg := simple(t, d)
	wants(t, step(t, cfg, drift, dry), opstate.StepOK, "nothing to compare with yet")
	wants(t, step(t, cfg, drift), opstate.StepOK, "nothing to compare with yet; 2 images and 1 models noted")
	if s := step(t, cfg, drift); s.Result != opstate.StepOK || s.Finding || !strings.Contains(s.Detail, "nothing is another") {
		t.Errorf("without a change: %+v", s)
	}
	d.change(func() {
		d.tags["redis:7-alpine"] = "sha256:3333333333333333" // pulled, not yet running
		d.runs["niodoo-engine-1"] = [2]string{"registry.local:5000/niodoo/engine:latest", "sha256:4444444444444444"}
		d.tags["registry.local:5000/niodoo/engine:latest"] = "sha256:4444444444444444"
		d.models["mistral:latest"] = "bbbbbbbbbbbbbbbbbbbb"
		d.models["llama3:8b"] = "cccccccccccccccccccc"
	})
	said := []string{"niodoo-redis-1 runs an older image than redis:7-alpine now is", "Container images: changed: niodoo-engine-1", "Models: changed: mistral:latest aaaa", "Models: new: llama3:8b"}
	wants(t, step(t, cfg, drift, dry), opstate.StepOK, said...)
	if s := step(t, cfg, drift); !s.Finding {
		t.Errorf("a change is nothing to look at: %+v", s)
	} else {
		wants(t, s, opstate.StepOK, said...)
	}
	d.change(func() { delete(d.tags, "redis:7-alpine") })
	wants(t, step(t, cfg, drift), opstate.StepOK, "redis:7-alpine, which is not on this machine any more")

	d.change(func() { d.proxied = true })
	wants(t, step(t, cfg, drift), opstate.StepOK, "was not looked at: docker: GET /images/")

	// What does not answer is not "unchanged", and what was known stays known.
	d.change(func() { d.down = true })
	wants(t, step(t, cfg, drift), opstate.StepFailed, "it could not be told", "docker", "ollama does not tell (http_status)")
	d.change(func() { d.down, d.proxied = false, false; d.tags["redis:7-alpine"] = "sha256:1111111111111111" })
	d.change(func() { d.down, d.models["mistral:latest"] = false, "dddddddddddddddddddd" })
	wants(t, step(t, cfg, drift), opstate.StepOK, "Models: changed: mistral:latest bbbb")
}

func TestAsBuilt(t *testing.T) {
	t.Parallel()
	d := newDaemon()
	cfg := simple(t, d)
	month := func(m time.Month) func(*Runner) {
		return func(r *Runner) { r.Now = func() time.Time { return time.Date(2026, m, 1, 4, 0, 0, 0, time.UTC) } }
	}
	dir := filepath.Join(cfg.Operations.StateDir, "as-built")
	wants(t, step(t, cfg, asBuilt, month(10), dry), opstate.StepOK, "would write "+filepath.Join(dir, "2026-10.md"))
	if _, err := os.Stat(dir); err == nil {
		t.Fatal("the dry run made the directory")
	}
	wants(t, step(t, cfg, asBuilt, month(10)), opstate.StepOK, "no earlier month")
	d.change(func() { d.models["mistral:latest"] = "bbbbbbbbbbbbbbbbbbbb" })
	conf := filepath.Join(filepath.Dir(cfg.Operations.StateDir), "conf", "engine.toml")
	if err := os.WriteFile(conf, []byte("secret = 'hush hush'\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 { // a second run in the same month compares with last month too
		wants(t, step(t, cfg, asBuilt, month(11)), opstate.StepOK, "2 differences to 2026-10", "Models: changed: mistral:latest", "Configuration files: changed: "+conf)
	}
	raw, err := os.ReadFile(filepath.Join(dir, "2026-11.md"))
	if err != nil {
		t.Fatal(err)
	}
	page := string(raw)
	for _, want := range []string{"# As built: ", ", November 2026", "- Models: changed: mistral:latest", "| mistral:latest | bbbbbbbbbbbb |",
		"| niodoo-redis-1 | redis:7-alpine 111111111111 |", "| ollama | 0.33.0 |", "| kernel | ", cfg.Ollama.URL, conf, cfg.File()} {
		if !strings.Contains(page, want) {
			t.Errorf("%q is not in\n%s", want, page)
		}
	}
	if strings.Contains(page, "hush") {
		t.Error("the page tells what is in the configuration")
	}
	// Nothing new is said as such; what does not answer is no difference.
	d.change(func() { d.down = true })
	s := step(t, cfg, asBuilt, month(12))
	wants(t, s, opstate.StepOK, "0 differences to 2026-11")
	raw, err = os.ReadFile(filepath.Join(dir, "2026-12.md"))
	if err != nil || !strings.Contains(string(raw), "Not looked at: ollama does not tell (http_status)") {
		t.Errorf("%v\n%s", err, raw)
	}
}
