// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"sync"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"

	"github.com/niodoo/niodoo_exporter/collector"
	"github.com/niodoo/niodoo_exporter/internal/logging"
)

// probe serves one scrape of a stack of the fleet: /probe?module=M&target=T.
func (s *server) probe(w http.ResponseWriter, r *http.Request) {
	g := s.current()
	defer g.scraper.Release()
	module, target := r.URL.Query().Get("module"), r.URL.Query().Get("target")
	if err := g.fleet.Check(module, target); err != nil {
		http.Error(w, err.Error(), probeStatus(err))
		return
	}
	if r.URL.Query().Get("debug") == "true" {
		s.debugProbe(w, r, g, module, target)
		return
	}
	s.exposition(w, r, func() ([]*dto.MetricFamily, error) {
		res, err := g.fleet.Probe(r.Context(), module, target, s.timeout(r), nil)
		return res.Families, err
	})
}

func probeStatus(err error) int {
	switch {
	case errors.Is(err, collector.ErrBadProbe):
		return http.StatusBadRequest
	case errors.Is(err, collector.ErrNotAllowed):
		return http.StatusForbidden
	}
	return http.StatusInternalServerError
}

// debugProbe shows what a probe did: its log, its metrics, and the module,
// which holds no secret but the names of files.
func (s *server) debugProbe(w http.ResponseWriter, r *http.Request, g generation, module, target string) {
	var log probeLog
	logger, err := logging.New(&log, "debug", "logfmt")
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	started := time.Now()
	timeout := s.timeout(r)
	res, err := g.fleet.Probe(r.Context(), module, target, timeout, logger)
	if err != nil {
		http.Error(w, err.Error(), probeStatus(err))
		return
	}
	logger.Info("Probe finished", "success", res.RequiredUp, "duration", time.Since(started), "timeout", timeout)
	var page bytes.Buffer
	fmt.Fprintf(&page, "Log of the probe of %q with module %q:\n\n%s\nMetrics:\n\n", target, module, log.String())
	for _, f := range res.Families {
		if _, err := expfmt.MetricFamilyToText(&page, f); err != nil {
			fmt.Fprintf(&page, "# %v\n", err)
		}
	}
	fmt.Fprintf(&page, "\nModule:\n\n%s", g.cfg.DescribeModule(module))
	writeText(w, page.String())
}

// probeLog is the log of one probe. A collector that hangs may still write to
// it when it has been shown.
type probeLog struct {
	mu  sync.Mutex
	log bytes.Buffer
}

func (l *probeLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.log.Write(p)
}

func (l *probeLog) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.log.String()
}

// serviceDiscovery serves the fleet as Prometheus HTTP service discovery.
func (s *server) serviceDiscovery(w http.ResponseWriter, _ *http.Request) {
	g := s.current()
	defer g.scraper.Release()
	type group struct {
		Targets []string          `json:"targets"`
		Labels  map[string]string `json:"labels"`
	}
	groups := []group{}
	for _, f := range g.cfg.Fleet {
		labels := map[string]string{"__param_module": f.Module}
		maps.Copy(labels, f.Labels)
		targets := f.Targets
		if targets == nil {
			targets = []string{}
		}
		groups = append(groups, group{targets, labels})
	}
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	_ = json.NewEncoder(w).Encode(groups) // a client that has gone needs no answer
}
