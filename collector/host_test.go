// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"context"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/niodoo/niodoo_exporter/internal/config"
)

// BenchmarkHost measures one scrape of this machine, without the runner.
func BenchmarkHost(b *testing.B) {
	c, err := newHost(config.Default(), Deps{}.withDefaults())
	if err != nil {
		b.Fatal(err)
	}
	ch := make(chan prometheus.Metric, 4096)
	b.ReportAllocs()
	for b.Loop() {
		if err := c.Update(context.Background(), ch); err != nil {
			b.Fatal(err)
		}
		for len(ch) > 0 {
			<-ch
		}
	}
}
