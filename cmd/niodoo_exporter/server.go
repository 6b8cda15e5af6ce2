// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/pprof"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/niodoo/niodoo_exporter/collector"
	"github.com/niodoo/niodoo_exporter/internal/config"
)

// server holds what the HTTP handlers share. The generation is swapped whole
// by a reload; requests in flight keep the one they began with.
type server struct {
	opts    *options
	logger  *slog.Logger
	self    *collector.Self
	process *prometheus.Registry
	started time.Time

	reloading sync.Mutex // one reload at a time

	mu  sync.Mutex
	now generation
}

// generation is one configuration and what was made from it.
type generation struct {
	cfg     *config.Config
	scraper *collector.Scraper
	fleet   *collector.Fleet
}

func newServer(o *options, cfg *config.Config, logger *slog.Logger) *server {
	s := &server{opts: o, logger: logger, self: collector.NewSelf("metrics", "probe"), process: prometheus.NewRegistry(), started: time.Now()}
	s.self.TLSNotAfter = (&ownCertificate{webConfig: *o.web.WebConfigFile}).notAfter
	s.process.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	s.now = s.generation(cfg, nil)
	s.self.Reloaded(time.Now(), cfg.Checksum())
	return s
}

func (s *server) generation(cfg *config.Config, old *collector.Scraper) generation {
	deps := collector.Deps{Logger: s.logger}
	opts := collector.Options{Timeout: s.opts.scrapeTimeout, MaxSeries: s.opts.maxSeries}
	return generation{cfg: cfg, scraper: collector.NewScraper(cfg, deps, opts, old), fleet: collector.NewFleet(cfg, deps, opts)}
}

// current returns the generation in force with its scraper held; release it.
func (s *server) current() generation {
	for {
		s.mu.Lock()
		g := s.now
		s.mu.Unlock()
		if g.scraper.Hold() {
			return g
		}
	}
}

// reload reads the configuration and swaps it in whole. If that fails the old
// one stays, and the error says why.
func (s *server) reload() error {
	s.reloading.Lock()
	defer s.reloading.Unlock()
	cfg, err := s.opts.load()
	if err != nil {
		s.self.ReloadFailed()
		refuse(s.logger, "Reloading failed; the old configuration stays", err)
		return err
	}
	s.mu.Lock()
	old := s.now
	s.mu.Unlock()
	next := s.generation(cfg, old.scraper)
	s.mu.Lock()
	s.now = next
	s.mu.Unlock()
	s.self.Reloaded(time.Now(), cfg.Checksum())
	s.logger.Info("Reloaded the configuration", "file", s.opts.configFile, "collectors", strings.Join(next.scraper.Names(), ","))
	old.fleet.Close()
	go old.scraper.Retire(next.scraper) // it waits for the scrapes of the old one
	return nil
}

// close ends the collectors, for as long as ctx lets it wait.
func (s *server) close(ctx context.Context) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.mu.Lock()
		now := s.now
		s.mu.Unlock()
		now.fleet.Close()
		now.scraper.Retire(nil)
	}()
	select {
	case <-done:
	case <-ctx.Done():
	}
}

// routes are all paths the exporter answers. The health endpoints stay outside
// the limits: a busy exporter is not a dead one.
func (s *server) routes() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", s.limit("metrics", s.metrics))
	mux.Handle("GET /probe", s.limit("probe", s.probe))
	mux.HandleFunc("GET /sd", s.serviceDiscovery)
	mux.HandleFunc("POST /-/reload", s.handleReload)
	mux.HandleFunc("GET /-/healthy", func(w http.ResponseWriter, _ *http.Request) { writeText(w, "niodoo_exporter is healthy.\n") })
	mux.HandleFunc("GET /-/ready", func(w http.ResponseWriter, _ *http.Request) { writeText(w, "niodoo_exporter is ready.\n") })
	mux.HandleFunc("GET /{$}", s.landing)
	if s.opts.enablePprof {
		mux.HandleFunc("GET /debug/pprof/", pprof.Index)
		mux.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
		mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
		mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
		mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	}
	return mux
}

// sendPatience is how long an answer may take to send.
const sendPatience = 30 * time.Second

// limit answers 503 when --web.max-requests are in flight on the route. It
// holds whatever the request's parameters are.
func (s *server) limit(name string, h http.HandlerFunc) http.Handler {
	if s.opts.maxRequests == 0 {
		return h
	}
	slots := make(chan struct{}, s.opts.maxRequests)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case slots <- struct{}{}:
			defer func() { <-slots }()
			// A client that does not read what it asked for must not hold its slot for
			// ever. A server without deadlines, in tests, has no such clients.
			_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(s.opts.scrapeTimeout + sendPatience))
			h(w, r)
		default:
			s.self.Rejected(name)
			http.Error(w, "too many requests in flight; the limit is --web.max-requests", http.StatusServiceUnavailable)
		}
	})
}

func (s *server) handleReload(w http.ResponseWriter, _ *http.Request) {
	if !s.opts.enableLifecycle {
		http.Error(w, "reloading over HTTP is off; start with --web.enable-lifecycle or send SIGHUP", http.StatusForbidden)
		return
	}
	if err := s.reload(); err != nil {
		http.Error(w, "the configuration was not reloaded; the old one stays:\n"+err.Error(), http.StatusInternalServerError)
		return
	}
	writeText(w, "reloaded\n")
}

func writeText(w http.ResponseWriter, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = w.Write([]byte(text)) // a client that has gone needs no answer
}
