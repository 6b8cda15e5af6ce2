// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"context"
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/niodoo/niodoo_exporter/internal/config"
)

func init() { register("loki", newLoki) }

var lokiNotReady = gauge("loki", "loki_not_ready_info",
	"What Loki waits for before it is ready; the value is 1", "/ready", "cause").
	absent("when Loki is ready")

// lokiCauses are the beginnings of what /ready says, and the word for each.
var lokiCauses = []struct{ text, cause string }{
	{"Some services are not Running", "modules_starting"},
	{"Ingester not ready", "ingester"},
	{"Query Frontend not ready", "query_frontend"},
	{"Application is stopping", "stopping"},
}

// loki is up when it tells its build: /ready answers 503 for some 20 seconds
// after each start, which is not being down, so health and readiness are asked
// apart. Neither needs a tenant. Loki's own metrics, up to a megabyte, are
// left to Prometheus.
type loki struct{ *httpClient }

func newLoki(cfg *config.Config, deps Deps) (Collector, error) {
	c, err := newHTTPClient(cfg.Loki.HTTP, deps)
	return loki{c}, err
}

// Update implements [Collector].
func (l loki) Update(ctx context.Context, ch chan<- prometheus.Metric) error {
	var build struct {
		Version string `json:"version"`
	}
	r, err := l.getJSON(ctx, "/loki/api/v1/status/buildinfo", maxHealthBody, &build)
	if err != nil {
		return err
	}
	status{up: true, response: r.elapsed, version: build.Version, tlsNotAfter: r.tlsNotAfter}.send(ch, "loki")
	r, err = l.sendReady(ctx, ch, "loki", "/ready")
	if err != nil {
		return err
	}
	if r.ok() != nil {
		ch <- lokiNotReady.metric(1, lokiCause(string(r.body)))
	}
	return nil
}

func lokiCause(text string) string {
	for _, c := range lokiCauses {
		if strings.HasPrefix(text, c.text) {
			return c.cause
		}
	}
	return "other"
}
