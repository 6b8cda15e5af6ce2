// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/niodoo/niodoo_exporter/internal/config"
)

// fleetOf returns the fleet of a configuration with one module, stack, and a
// clock that the test sets.
func fleetOf(t *testing.T, services, allow string) (*Fleet, *time.Time) {
	t.Helper()
	cfg, err := config.Parse("fleet.yml", fmt.Appendf(nil, "modules: {stack: {services: {%s}, allow: [%s]}}\n", services, allow))
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	f := NewFleet(cfg, Deps{Now: func() time.Time { return now }}, Options{})
	t.Cleanup(f.Close)
	return f, &now
}

func (f *Fleet) remembers(module, target string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.targets[fleetKey{module, target}] != nil
}

// A target that is not probed any more is forgotten, but not under a probe
// that is in flight; one that is probed is kept.
func TestFleetExpiry(t *testing.T) {
	entered, release := make(chan struct{}, 1), make(chan struct{})
	srv := serveFunc(t, func(w http.ResponseWriter, _ *http.Request) {
		entered <- struct{}{}
		<-release
		fmt.Fprint(w, grafanaBody)
	})
	f, now := fleetOf(t, fmt.Sprintf("grafana: {url: %q}", srv.URL), `'127\.0\.0\.1', localhost, no-such-host.invalid`)
	var wg sync.WaitGroup
	wg.Go(func() {
		res, err := f.Probe(t.Context(), "stack", "127.0.0.1", 10*time.Second, nil)
		if err != nil || !res.RequiredUp {
			t.Errorf("the probe in flight while its target was forgotten: %v %v", err, res.Failures)
		}
	})
	<-entered
	*now = now.Add(fleetExpiry + time.Minute)
	if _, err := f.Probe(t.Context(), "stack", "no-such-host.invalid", 10*time.Second, nil); err != nil {
		t.Error(err)
	}
	if f.remembers("stack", "127.0.0.1") || !f.remembers("stack", "no-such-host.invalid") {
		t.Error("want the old target forgotten and the new one remembered")
	}
	close(release)
	wg.Wait()
}

// However many targets are asked for, so many are remembered and no more.
func TestFleetBound(t *testing.T) {
	f, now := fleetOf(t, "grafana: {}", "'.*'")
	for i := range fleetMaxTargets + 5 {
		*now = now.Add(time.Millisecond)
		f.acquire("stack", fmt.Sprintf("host-%d", i), nil).Release()
	}
	if n := len(f.targets); n > fleetMaxTargets {
		t.Errorf("%d targets are remembered", n)
	}
	if f.remembers("stack", "host-0") || !f.remembers("stack", fmt.Sprintf("host-%d", fleetMaxTargets+4)) {
		t.Error("want the oldest forgotten, not the newest")
	}
}

// A probe that began before the configuration was replaced is answered, and
// leaves nothing behind in the old one.
func TestFleetClosed(t *testing.T) {
	srv := serve(t, http.StatusOK, "application/json", grafanaBody)
	f, _ := fleetOf(t, fmt.Sprintf("grafana: {url: %q}", srv.URL), `'127\.0\.0\.1'`)
	f.Close()
	res, err := f.Probe(t.Context(), "stack", "127.0.0.1", 5*time.Second, nil)
	if err != nil || !res.RequiredUp {
		t.Errorf("%v %v", err, res.Failures)
	}
	if f.remembers("stack", "127.0.0.1") {
		t.Error("a closed fleet remembers a target")
	}
}

// Whatever a service is told to connect to, only the target is connected to:
// each kind of service goes through the same check.
func TestFleetConnectsToItsTargetOnly(t *testing.T) {
	var mu sync.Mutex
	dialed := map[string]bool{}
	f, _ := fleetOf(t, `engine: {}, postgresql: {}, redis: {address: "elsewhere:6379"}, ollama: {}, qdrant: {}, grafana: {url: "http://elsewhere:3000"}, `+
		`pipeline: {urls: ["http://elsewhere:9095/metrics", "http://other:9096/metrics"]}, docker: {host: "tcp://elsewhere:2375"}`, `allowed`)
	f.deps.DialContext = func(_ context.Context, _, address string) (net.Conn, error) {
		host, _, err := net.SplitHostPort(address)
		mu.Lock()
		defer mu.Unlock()
		dialed[host] = true
		return nil, errors.Join(err, errors.New("no network here"))
	}
	if _, err := f.Probe(t.Context(), "stack", "allowed", 5*time.Second, nil); err != nil {
		t.Fatal(err)
	}
	if len(dialed) != 1 || !dialed["allowed"] {
		t.Errorf("connected to %v", dialed)
	}

	// A collector that has been led elsewhere gets no connection.
	s := f.scraper("stack", "allowed", f.deps.Logger)
	defer s.Retire(nil)
	g, ok := s.unit("grafana").collector.(grafana)
	if !ok {
		t.Fatal("no grafana")
	}
	elsewhere, err := url.Parse("http://elsewhere:3000")
	if err != nil {
		t.Fatal(err)
	}
	g.base = elsewhere
	res := s.Scrape(t.Context(), 5*time.Second, []string{"grafana"})
	if len(res.Failures) != 1 || res.Failures[0].Reason != ReasonConfig || !strings.Contains(res.Failures[0].Err.Error(), "not the target") || dialed["elsewhere"] {
		t.Errorf("failures: %v, connected to %v", res.Failures, dialed)
	}
}
