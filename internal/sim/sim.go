// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

// Package sim simulates a Niodoo stack: every service that is spoken to over
// HTTP, each on a port of its own, answering with the bytes that its
// documentation shows and with values that live through a plausible day.
// Faults are injected and lifted by name while it runs. PostgreSQL and Redis
// are not simulated; internal/localserver starts the real ones.
package sim

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"go.yaml.in/yaml/v3"
)

// Options say what stack to simulate. The zero value is one on free loopback
// ports whose engine speaks Prometheus text.
type Options struct {
	// Seed makes the values: the same seed, times and faults give the same values.
	Seed uint64
	// Now is the stack's clock; nil is the real one.
	Now func() time.Time
	// Age is for how long the stack has been running at the start.
	Age time.Duration
	// Host is the address to listen on; "" is 127.0.0.1.
	Host string
	// Ports are the ports to listen on by service; 0 and services that are
	// missing take a free port below the ephemeral range.
	Ports map[string]int
	// Only are the services to simulate; nil is all but docker.
	Only []string
	// DockerSocket is the path of the Docker Engine's socket; "" is no Docker Engine.
	DockerSocket string
	Engine       EngineOptions
	// OllamaCanary is how often the exporter is to have Ollama generate; 0 is never.
	OllamaCanary time.Duration
	// QdrantKeyFile holds the key that Qdrant asks for; "" is none.
	QdrantKeyFile string
	// QdrantEmpty is a Qdrant that has no collections but those that it recovers
	// from snapshots.
	QdrantEmpty bool
	// Slow is how much longer a slow service takes; 0 is 3 s.
	Slow time.Duration
	// FlapPeriod is how long a service that comes and goes stays and is gone; 0 is 45 s.
	FlapPeriod time.Duration
}

// ManualPorts are the ports of the operations manual.
func ManualPorts() map[string]int {
	return map[string]int{"engine": 8080, "pipeline": 9095, "ollama": 11434, "vllm": 8000, "qdrant": 6333, "prometheus": 9090,
		"grafana": 3000, "alertmanager": 9093, "loki": 3100}
}

// Stack is a simulated stack.
type Stack struct {
	opts  Options
	world *world

	mu       sync.Mutex // held while faults change
	services []*service
	faults   []Fault
	active   map[string]*injection
	flapping sync.WaitGroup
	closed   bool
}

// New starts a simulated stack.
func New(opts Options) (*Stack, error) {
	if opts.Now == nil {
		opts.Now = time.Now
	}
	if opts.Host == "" {
		opts.Host = "127.0.0.1"
	}
	if opts.Slow == 0 {
		opts.Slow = 3 * time.Second
	}
	if opts.FlapPeriod == 0 {
		opts.FlapPeriod = 45 * time.Second
	}
	if err := opts.Engine.validate(); err != nil {
		return nil, err
	}
	st := &Stack{opts: opts, world: newWorld(opts.Seed, opts.Now, opts.Age), active: map[string]*injection{}}
	all, err := st.known()
	if err != nil {
		return nil, err
	}
	for _, name := range opts.Only {
		if !slices.ContainsFunc(all, func(s *service) bool { return s.name == name }) {
			return nil, fmt.Errorf("no simulated service %q", name)
		}
	}
	for _, s := range all {
		if opts.Only != nil && !slices.Contains(opts.Only, s.name) {
			continue
		}
		if s.network == "" {
			s.network, s.address = "tcp", fmt.Sprintf("%s:%d", hostPart(opts.Host), opts.Ports[s.name])
		}
		if err := s.start(); err != nil {
			st.Close()
			return nil, err
		}
		st.services = append(st.services, s)
	}
	st.faults = catalogue(st.services)
	return st, nil
}

// known returns every service that can be simulated, in the order of the
// configuration's sections.
func (st *Stack) known() ([]*service, error) {
	engine, err := newEngine(st.world, st.opts.Engine, st.opts.Now)
	if err != nil {
		return nil, err
	}
	qdrant, err := newQdrant(st.world, st.opts.QdrantKeyFile, st.opts.QdrantEmpty)
	if err != nil {
		return nil, err
	}
	all := []*service{engine, newPipeline(st.world), newOllama(st.world, st.opts.OllamaCanary), newVLLM(st.world), qdrant,
		newPrometheus(st.world), newGrafana(st.world), newAlertmanager(st.world), newLoki(st.world)}
	if st.opts.DockerSocket != "" {
		all = append(all, newDocker(st.world, st.opts.DockerSocket))
	}
	return all, nil
}

// Close stops every service. It waits until nothing of the stack runs any more.
func (st *Stack) Close() {
	st.mu.Lock()
	st.closed = true
	for name, in := range st.active {
		close(in.lifted)
		delete(st.active, name)
	}
	for _, s := range st.services {
		s.stop()
	}
	st.mu.Unlock()
	st.flapping.Wait()
}

// Address returns where a service listens, "" if it is not simulated.
func (st *Stack) Address(name string) string {
	for _, s := range st.services {
		if s.name == name {
			return s.address
		}
	}
	return ""
}

// URL returns the base URL of a service that listens on a port.
func (st *Stack) URL(name string) string { return "http://" + st.Address(name) }

// runs reports whether a service is simulated and not stopped.
func (st *Stack) runs(name string) bool {
	i := slices.IndexFunc(st.services, func(s *service) bool { return s.name == name })
	return i >= 0 && st.services[i].runs()
}

// Services are the names of the simulated services.
func (st *Stack) Services() []string {
	names := make([]string, len(st.services))
	for i, s := range st.services {
		names[i] = s.name
	}
	return names
}

// Config is the part of the exporter's configuration, in YAML, that finds the
// simulated services.
func (st *Stack) Config() string {
	var b strings.Builder
	for _, s := range st.services {
		b.WriteString(Section(s.name, s.section(s.address)))
	}
	return b.String()
}

// Section is a section of the exporter's configuration in YAML.
func Section(name string, keys map[string]any) string {
	out, err := yaml.Marshal(map[string]any{name: keys})
	if err != nil {
		panic(err) // strings, numbers and lists of them
	}
	return string(out)
}

// urlSection is the section of a service that has just a URL.
func urlSection(address string) map[string]any { return map[string]any{"url": "http://" + address} }

// rejectText answers an error as net/http itself does.
func rejectText(w http.ResponseWriter, _ *http.Request, status int) {
	http.Error(w, http.StatusText(status), status)
}

// readKey reads a secret from a file; no file is no secret.
func readKey(file string) (string, error) {
	if file == "" {
		return "", nil
	}
	raw, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	key := strings.TrimSpace(string(raw))
	if key == "" {
		return "", errors.New(file + " is empty")
	}
	return key, nil
}

// hostPart writes a host for use before a port.
func hostPart(host string) string {
	if strings.Contains(host, ":") {
		return "[" + host + "]"
	}
	return url.PathEscape(host)
}
