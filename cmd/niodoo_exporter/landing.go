// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	_ "embed"
	"html/template"
	"net/http"
	"time"

	"github.com/prometheus/common/version"

	"github.com/niodoo/niodoo_exporter/collector"
)

//go:embed landing.html
var landingHTML string

var landingPage = template.Must(template.New("landing").Parse(landingHTML))

// landing serves the page that tells, even when Prometheus is down, what the
// last scrape found. Looking at it scrapes nothing.
func (s *server) landing(w http.ResponseWriter, _ *http.Request) {
	g := s.current()
	defer g.scraper.Release()
	var page bytes.Buffer
	err := landingPage.Execute(&page, struct {
		Version, Revision, Config string
		Started                   time.Time
		Collectors                []collector.Last
		Modules                   int
		Pprof                     bool
	}{version.Version, version.GetRevision(), s.opts.configFile, s.started, g.scraper.Last(), len(g.cfg.Modules), s.opts.enablePprof})
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'")
	_, _ = w.Write(page.Bytes()) // a client that has gone needs no answer
}
