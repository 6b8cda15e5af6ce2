// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package observe

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"

	"github.com/niodoo/niodoo_exporter/internal/config"
	"github.com/niodoo/niodoo_exporter/internal/sim"
)

// Looking changes nothing: the exporter's position in the logs stays its own,
// and no canary is sent.
func TestLookChangesNothing(t *testing.T) {
	t.Parallel()
	st, err := sim.New(sim.Options{Only: []string{"engine"}})
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	dir := t.TempDir()
	log, state := filepath.Join(dir, "niodoo.log"), filepath.Join(dir, "state.json")
	if err := os.WriteFile(log, []byte("a line\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg := config.Default()
	cfg.Engine.URL = st.URL("engine")
	cfg.Engine.Canary.Enabled = true
	cfg.Logs.Paths, cfg.Logs.StateFile = []string{log}, state
	s := Open(cfg, slog.New(slog.DiscardHandler))
	look := s.Look(context.Background(), []string{"engine", "logs"})
	s.Close()
	if v, ok := look.Sum("niodoo_logs_file_size_bytes"); !ok || v != 7 {
		t.Errorf("%v %v: %v", v, ok, look.Failures)
	}
	if _, ok := look.Sum("niodoo_component_up", "component", "engine"); !ok || look.Failed("engine") != nil {
		t.Errorf("%v", look.Failures)
	}
	if _, err := os.Stat(state); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the exporter's state was written: %v", err)
	}
	if !cfg.Engine.Canary.Enabled || cfg.Logs.StateFile != state {
		t.Error("the configuration was changed")
	}
}

func TestSnapshot(t *testing.T) {
	t.Parallel()
	counter := func(v float64, mode string) *dto.Metric {
		return &dto.Metric{Label: []*dto.LabelPair{{Name: new("mode"), Value: &mode}}, Counter: &dto.Counter{Value: &v}}
	}
	at := time.Date(2026, 11, 25, 0, 0, 0, 0, time.UTC)
	snapshot := func(after time.Duration, user, idle float64, sum float64, count uint64) Snapshot {
		return Snapshot{At: at.Add(after), families: map[string]*dto.MetricFamily{
			"niodoo_host_cpu_seconds_total": {Type: dto.MetricType_COUNTER.Enum(), Metric: []*dto.Metric{counter(user, "user"), counter(idle, "idle")}},
			"seconds":                       {Type: dto.MetricType_HISTOGRAM.Enum(), Metric: []*dto.Metric{{Histogram: &dto.Histogram{SampleSum: &sum, SampleCount: &count}}}},
		}}
	}
	before, now := snapshot(0, 10, 30, 1, 2), snapshot(10*time.Second, 13, 37, 4, 8)
	for name, c := range map[string]struct {
		got  func() (float64, bool)
		want float64
	}{
		"a rate":        {func() (float64, bool) { return now.Rate(before, "niodoo_host_cpu_seconds_total") }, 1},
		"of one series": {func() (float64, bool) { return now.Rate(before, "niodoo_host_cpu_seconds_total", "mode", "user") }, 0.3},
		"the usage":     {func() (float64, bool) { return now.CPUUsage(before) }, 0.3},
		"a sum":         {func() (float64, bool) { return now.Sum("seconds_sum") }, 4},
		"a count":       {func() (float64, bool) { return now.Rate(before, "seconds_count") }, 0.6},
	} {
		if got, ok := c.got(); !ok || got < c.want-1e-9 || got > c.want+1e-9 {
			t.Errorf("%s is %v %v, want %v", name, got, ok, c.want)
		}
	}
	for name, f := range map[string]func() (float64, bool){
		"what is not there": func() (float64, bool) { return now.Sum("nothing") },
		"a counter begun anew": func() (float64, bool) {
			return before.Rate(Snapshot{At: at.Add(-time.Second), families: now.families}, "seconds_sum")
		},
		"processors begun anew":   func() (float64, bool) { return before.CPUUsage(now) },
		"one look":                func() (float64, bool) { return now.Rate(Snapshot{}, "seconds_sum") },
		"the same moment":         func() (float64, bool) { return now.Rate(now, "seconds_sum") },
		"a label that is another": func() (float64, bool) { return now.Sum("niodoo_host_cpu_seconds_total", "mode", "steal") },
	} {
		if v, ok := f(); ok {
			t.Errorf("%s: %v", name, v)
		}
	}
}
