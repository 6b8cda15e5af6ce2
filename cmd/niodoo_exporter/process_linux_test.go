// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	dto "github.com/prometheus/client_model/go"
)

// Ours says the same as client_golang's, of which it is a part.
func TestProcessCollectorIsTheUsualOne(t *testing.T) {
	t.Parallel()
	gather := func(c prometheus.Collector) map[string]*dto.MetricFamily {
		r := prometheus.NewPedanticRegistry()
		r.MustRegister(c)
		families, err := r.Gather()
		if err != nil {
			t.Fatal(err)
		}
		all := map[string]*dto.MetricFamily{}
		for _, f := range families {
			all[f.GetName()] = f
		}
		return all
	}
	number := func(f *dto.MetricFamily) float64 {
		m := f.GetMetric()[0]
		return m.GetGauge().GetValue() + m.GetCounter().GetValue()
	}
	own, usual := gather(newProcessCollector()), gather(collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	// How far the process may have gone on between the two, as a ratio.
	for name, drift := range map[string]float64{"process_start_time_seconds": 0, "process_max_fds": 0, "process_open_fds": 0.9,
		"process_virtual_memory_bytes": 0.5, "process_resident_memory_bytes": 0.5, "process_cpu_seconds_total": 0.9} {
		a, b := own[name], usual[name]
		if a == nil || b == nil {
			t.Errorf("%s: ours is %v, the usual one %v", name, a, b)
			continue
		}
		if a.GetHelp() != b.GetHelp() || a.GetType() != b.GetType() {
			t.Errorf("ours is %v %q, the usual one %v %q", a.GetType(), a.GetHelp(), b.GetType(), b.GetHelp())
		}
		if x, y := number(a), number(b); x < y*(1-drift) || y < x*(1-drift) {
			t.Errorf("%s: ours is %g, the usual one %g", name, x, y)
		}
	}
	if len(own) != 6 {
		t.Errorf("%d families, not 6", len(own))
	}
}
