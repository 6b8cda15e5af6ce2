// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"context"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/niodoo/niodoo_exporter/internal/config"
)

func init() { register("grafana", newGrafana) }

var grafanaDatabaseOK = gauge("grafana", "grafana_database_ok",
	"Whether Grafana reaches its own database", "/api/health database")

// grafana asks /api/health, which needs no login.
type grafana struct{ *httpClient }

func newGrafana(cfg *config.Config, deps Deps) (Collector, error) {
	c, err := newHTTPClient(cfg.Grafana.HTTP, deps)
	return grafana{c}, err
}

// Update implements [Collector]. Grafana is up when it answers 200 with a
// database that works; 503 with "database": "failing" is not ready.
func (g grafana) Update(ctx context.Context, ch chan<- prometheus.Metric) error {
	r, err := g.get(ctx, "/api/health", maxHealthBody)
	if err != nil {
		return err
	}
	var health struct {
		Database string `json:"database"`
		Version  string `json:"version"`
	}
	httpErr, jsonErr := r.ok(), r.json(&health)
	if httpErr != nil {
		if jsonErr == nil && health.Database != "" {
			ch <- grafanaDatabaseOK.boolean(false)
		}
		return httpErr
	}
	if jsonErr != nil {
		return jsonErr
	}
	if health.Database == "" {
		return failf(ReasonParse, "%s: the answer has no field database", r.what)
	}
	ok := health.Database == "ok"
	status{up: ok, response: r.elapsed, version: health.Version, tlsNotAfter: r.tlsNotAfter}.send(ch, "grafana")
	ch <- grafanaDatabaseOK.boolean(ok)
	if !ok {
		return failf(ReasonUnhealthy, "%s: database is %q", r.what, health.Database)
	}
	return nil
}
