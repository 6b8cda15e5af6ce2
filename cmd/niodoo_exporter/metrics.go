// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	// Registers the zstd encoding that promhttp then offers to scrapers.
	_ "github.com/prometheus/client_golang/prometheus/promhttp/zstd"
	dto "github.com/prometheus/client_model/go"

	"github.com/niodoo/niodoo_exporter/collector"
)

// metrics serves one scrape of the stack and the exporter itself.
func (s *server) metrics(w http.ResponseWriter, r *http.Request) {
	g := s.current()
	defer g.scraper.Release()
	names, err := filter(g.scraper.Names(), r.URL.Query())
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	s.exposition(w, r, func() ([]*dto.MetricFamily, error) {
		families := g.scraper.Scrape(r.Context(), s.timeout(r), names).Families
		own, err := s.process.Gather()
		return collector.MergeFamilies(families, append(own, s.self.Families()...)), err
	})
}

// exposition encodes families as the client likes them.
func (s *server) exposition(w http.ResponseWriter, r *http.Request, gather prometheus.GathererFunc) {
	promhttp.HandlerFor(gather, promhttp.HandlerOpts{
		ErrorLog:          slog.NewLogLogger(s.logger.Handler(), slog.LevelWarn),
		ErrorHandling:     promhttp.ContinueOnError,
		EnableOpenMetrics: true,
	}).ServeHTTP(w, r)
}

// timeoutHeader is how Prometheus tells its scrape timeout, in seconds.
const timeoutHeader = "X-Prometheus-Scrape-Timeout-Seconds"

// timeout returns how long the request's scrape may take: what Prometheus
// grants less the offset, at most --scrape.timeout. Where the offset would take
// half of it or more, half is granted: never nothing, never a negative time.
func (s *server) timeout(r *http.Request) time.Duration {
	seconds, err := strconv.ParseFloat(r.Header.Get(timeoutHeader), 64)
	if err != nil || !(seconds > 0) || seconds > 1e6 {
		return s.opts.scrapeTimeout
	}
	granted := time.Duration(seconds * float64(time.Second))
	return min(s.opts.scrapeTimeout, max(granted-s.opts.timeoutOffset, granted/2))
}

// filter returns the collectors that collect[] and exclude[] leave of the
// enabled ones, nil for all. Names that are not enabled, parameters without the
// brackets, both at once, and filters that leave nothing are errors: a typo must
// not go unseen.
func filter(enabled []string, query url.Values) ([]string, error) {
	collect, exclude := query["collect[]"], query["exclude[]"]
	for _, typo := range []string{"collect", "exclude"} {
		if query.Has(typo) {
			return nil, fmt.Errorf("there is no parameter %s; write %s[]", typo, typo)
		}
	}
	if len(collect) > 0 && len(exclude) > 0 {
		return nil, fmt.Errorf("collect[] and exclude[] exclude each other")
	}
	for _, name := range slices.Concat(collect, exclude) {
		if !slices.Contains(enabled, name) {
			state := "is unknown"
			if slices.Contains(collector.Names(), name) {
				state = "is not enabled"
			}
			return nil, fmt.Errorf("collector %q %s; enabled: %s", name, state, strings.Join(enabled, ", "))
		}
	}
	switch {
	case len(collect) > 0:
		return collect, nil
	case len(exclude) > 0:
		left := slices.DeleteFunc(slices.Clone(enabled), func(n string) bool { return slices.Contains(exclude, n) })
		if len(left) == 0 {
			return nil, fmt.Errorf("exclude[] leaves no collector")
		}
		return left, nil
	}
	return nil, nil
}
