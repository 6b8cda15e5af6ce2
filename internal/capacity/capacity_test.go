// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package capacity

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/niodoo/niodoo_exporter/internal/config"
	"github.com/niodoo/niodoo_exporter/internal/e2e"
	"github.com/niodoo/niodoo_exporter/internal/observe"
	"github.com/niodoo/niodoo_exporter/internal/opstate"
	"github.com/niodoo/niodoo_exporter/internal/promapi"
	"github.com/niodoo/niodoo_exporter/internal/sim"
	"github.com/niodoo/niodoo_exporter/internal/thresholds"
)

const gib = 1 << 30

// backfilled is a real Prometheus with days of history up to now of a stack of
// which everything is known.
func backfilled(t *testing.T, days int, end time.Time) *promapi.Client {
	t.Helper()
	dir := t.TempDir()
	var b strings.Builder
	r := rand.New(rand.NewPCG(3, 4))
	const step = 30 * time.Minute
	start := end.Add(-time.Duration(days) * day)
	noise := make([]float64, days*48+1)
	for i := range noise {
		noise[i] = r.NormFloat64()
	}
	// Type lines are left out: with them a family's samples would have to stand
	// together, and promtool be slow.
	var series []func(at time.Time, i int)
	family := func(name, labels string, f func(hours float64, i int) float64) {
		series = append(series, func(at time.Time, i int) {
			fmt.Fprintf(&b, "%s{job=\"niodoo\",instance=\"a:10646\"%s} %.6f %d\n", name, labels, f(at.Sub(start).Hours(), i), at.Unix())
		})
	}
	days24 := func(h float64) float64 { return h / 24 }
	busy := func(h float64) float64 { return h * 3600 * 0.4 } // 40 % of one processor
	family("niodoo_host_cpu_seconds_total", `,mode="idle"`, func(h float64, _ int) float64 { return h*3600 - busy(h) })
	family("niodoo_host_cpu_seconds_total", `,mode="user"`, func(h float64, _ int) float64 { return busy(h) })
	family("niodoo_host_memory_total_bytes", "", func(float64, int) float64 { return 16 * gib })
	family("niodoo_host_memory_available_bytes", "", func(_ float64, i int) float64 { return 2*gib + 0.1*gib*noise[i] })
	// A GiB a day of a hundred, two of which are root's: 41 at the beginning.
	used := func(h float64, i int) float64 { return 41*gib + days24(h)*gib + 0.05*gib*noise[i] }
	family("niodoo_host_filesystem_size_bytes", `,path="/opt/niodoo"`, func(float64, int) float64 { return 102 * gib })
	family("niodoo_host_filesystem_free_bytes", `,path="/opt/niodoo"`, func(h float64, i int) float64 { return 102*gib - used(h, i) })
	family("niodoo_host_filesystem_avail_bytes", `,path="/opt/niodoo"`, func(h float64, i int) float64 { return 100*gib - used(h, i) })
	// The engine is restarted on the tenth day.
	family("niodoo_consciousness_events_total", "", func(h float64, _ int) float64 {
		if h > 240 {
			h -= 240
		}
		return 1000 * h
	})
	// Cleaned up five days before the end: too short a time to say more.
	family("niodoo_postgresql_database_size_bytes", `,datname="niodoo"`, func(h float64, i int) float64 {
		if days24(h) > float64(days)-5 {
			return 2*gib + 0.01*gib*noise[i]
		}
		return 8*gib + 0.01*gib*noise[i]
	})
	// Gone for two weeks.
	family("niodoo_qdrant_collection_points", `,collection="old"`, func(h float64, _ int) float64 {
		if days24(h) > float64(days)-14 {
			return math.NaN()
		}
		return 7
	})
	for i, at := 0, start; !at.After(end); i, at = i+1, at.Add(step) {
		for _, write := range series {
			write(at, i)
		}
	}
	b.WriteString("# EOF\n")
	text := filepath.Join(dir, "history.om")
	if err := os.WriteFile(text, []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	data := filepath.Join(dir, "data")
	if out, err := exec.Command(e2e.Tool(t, "promtool"), "tsdb", "create-blocks-from", "--max-block-duration=162h", "openmetrics", text, data).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	cfg := filepath.Join(dir, "prometheus.yml")
	if err := os.WriteFile(cfg, []byte("global: {}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	address := freeAddress(t)
	e2e.Start(t, e2e.Tool(t, "prometheus"), "--config.file="+cfg, "--storage.tsdb.path="+data, "--storage.tsdb.retention.time=60d",
		"--web.listen-address="+address, "--log.level=warn")
	e2e.Await(t, "Prometheus is ready", func() error { _, err := e2e.Get("http://" + address + "/-/ready"); return err })
	c, err := promapi.New(config.HTTP{URL: "http://" + address})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func options(now time.Time) Options {
	return Options{Selector: `job="niodoo"`, History: 90 * day, Horizon: 90 * day, Thresholds: thresholds.Default(), Now: now,
		Enabled: func(string) bool { return true }, Limits: map[string]float64{}}
}

func find(t *testing.T, rep *Report, title string) Resource {
	t.Helper()
	for _, r := range rep.Resources {
		if r.Name == title || r.Title() == title {
			return r
		}
	}
	t.Fatalf("%s is not in the report: %+v", title, rep.Resources)
	return Resource{}
}

func near(t *testing.T, what string, got, want, within float64) {
	t.Helper()
	if math.Abs(got-want) > within {
		t.Errorf("%s is %v, want %v", what, got, want)
	}
}

// A real Prometheus with a month of history whose answers are known.
func TestFromPrometheus(t *testing.T) {
	t.Parallel()
	now := time.Now().UTC().Truncate(time.Hour) // where there is a sample: they are half an hour apart
	c := backfilled(t, 30, now)
	o := options(now)
	o.Prometheus = c
	rep, err := Analyse(context.Background(), o, observe.Snapshot{}, observe.Snapshot{})
	if err != nil {
		t.Fatal(err)
	}
	if rep.Source != "prometheus" || !strings.Contains(rep.Detail, "keeps 60d") || rep.Verdict != opstate.Warning {
		t.Errorf("%s, %s, %s", rep.Source, rep.Detail, rep.Verdict)
	}

	disk := find(t, rep, "disk /opt/niodoo a:10646")
	near(t, "the disk's use", *disk.Use/gib, 71, 0.2)
	near(t, "the disk's limit", *disk.Limit/gib, 100, 0.01)
	near(t, "the disk's growth", disk.Trend.PerDay/gib, 1, 0.02)
	near(t, "the disk at the horizon", disk.Forecast.Value/gib, 161, 2)
	if disk.Forecast.Low/gib > 161 || disk.Forecast.High/gib < 161 {
		t.Errorf("161 GiB is not within %+v", disk.Forecast)
	}
	for name, days := range map[string]float64{"advice": 9, "full": 29} {
		for _, m := range disk.Marks {
			if m.Name == name {
				near(t, name+" in days", m.Expected.Sub(now).Hours()/24, days, 1.1)
				if m.Earliest.IsZero() || m.Earliest.After(m.Expected) || m.Latest.Before(m.Expected) {
					t.Errorf("%+v", m)
				}
			}
		}
	}
	if disk.Verdict != opstate.Warning || !strings.Contains(disk.Advice, "reaches the 80 %") {
		t.Errorf("%s: %s", disk.Verdict, disk.Advice)
	}

	cpu := find(t, rep, "cpu")
	near(t, "the processors' use", *cpu.Use, 0.4, 0.001)
	if cpu.Trend.Answer != NoGrowth || cpu.Verdict != opstate.Well {
		t.Errorf("%+v", cpu)
	}
	memory := find(t, rep, "memory")
	near(t, "the memory's use", *memory.Use / *memory.Limit, 0.875, 0.03)
	if memory.Trend.Answer != NoGrowth || memory.Verdict != opstate.Warning || !memory.Marks[0].Reached {
		t.Errorf("%+v", memory)
	}
	events := find(t, rep, "events")
	near(t, "events a day", *events.Use, 24000, 50)
	if db := find(t, rep, "database"); db.Trend.Answer != TooShort || db.Trend.Step.IsZero() || db.Forecast != nil {
		t.Errorf("%+v", db)
	}
	for _, n := range rep.NotLookedAt {
		if n.What == "vectors" && strings.Contains(n.Why, "no data") {
			return
		}
	}
	t.Errorf("a series that is gone has a forecast: %+v", rep.NotLookedAt)
}

func TestPrometheusFails(t *testing.T) {
	t.Parallel()
	now := time.Now().UTC().Truncate(time.Minute)
	o := options(now)
	var err error
	if o.Prometheus, err = promapi.New(config.HTTP{URL: "http://" + freeAddress(t)}); err != nil {
		t.Fatal(err)
	}
	if _, err := Analyse(context.Background(), o, observe.Snapshot{}, observe.Snapshot{}); err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("%v", err)
	}
}

// niodooctl's own history: a run a day, of the simulated stack and of this machine.
func TestOwnHistory(t *testing.T) {
	t.Parallel()
	st, err := sim.New(sim.Options{Only: []string{"engine", "qdrant", "prometheus"}})
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	cfg, err := config.Parse("niodoo.yml", []byte(st.Config()))
	if err != nil {
		t.Fatal(err)
	}
	stack := observe.Open(cfg, slog.New(slog.DiscardHandler))
	defer stack.Close()
	look := stack.Look(context.Background(), Collectors())
	dir := t.TempDir()
	o := options(look.At)
	o.StateDir = dir

	// The first run ever.
	rep, err := Analyse(context.Background(), o, observe.Snapshot{}, look)
	if err != nil {
		t.Fatal(err)
	}
	if rep.Source != "own history" || !strings.HasPrefix(rep.Detail, dir) {
		t.Errorf("%s %s", rep.Source, rep.Detail)
	}
	if cpu := find(t, rep, "cpu"); cpu.Use != nil || cpu.Trend.Answer != NoHistory {
		t.Errorf("the use of the processors in one look: %+v", cpu)
	}
	if m := find(t, rep, "memories"); m.Use == nil || m.Trend.Answer != TooShort {
		t.Errorf("%+v", m)
	}
	// Two looks tell it, and no trend.
	busy, all, _ := look.CPUSeconds()
	for again := look; ; again = stack.Look(context.Background(), []string{"host"}) {
		if b, a, _ := again.CPUSeconds(); b > busy && a > all {
			if rep, err = Analyse(context.Background(), o, look, again); err != nil {
				t.Fatal(err)
			}
			break
		}
	}
	if cpu := find(t, rep, "cpu"); cpu.Use == nil || *cpu.Use <= 0 || *cpu.Use > 1 || cpu.Trend.Answer != NoHistory {
		t.Errorf("%+v", cpu)
	}

	// Two weeks in which the memories grew by 100 a day, to what they are now.
	err = opstate.Update(context.Background(), dir, func(c *opstate.Capacity) error {
		memories, _ := look.Sum("niodoo_memory_entries")
		busy, all, _ := look.CPUSeconds()
		events, _ := look.Sum("niodoo_consciousness_events_total")
		for i := 14; i > 0; i-- {
			at, ago := look.At.Add(-time.Duration(i)*day), float64(i)
			c.Record("memories", opstate.Measure{At: at, Value: memories - 100*ago})
			c.Record("cpu", opstate.Measure{At: at, Value: busy - 0.75*86400*ago, Of: all - 86400*ago})
			// The engine was restarted a week ago.
			v := events - 5000*ago
			if i > 7 {
				v += 1e9
			}
			c.Record("events", opstate.Measure{At: at, Value: v, Of: float64(at.UnixMilli()) / 86400e3})
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := Record(context.Background(), dir, look); err != nil {
		t.Fatal(err)
	}
	memories, _ := look.Sum("niodoo_memory_entries")
	o.Limits["memories"] = memories + 450
	o.Growth = 1
	if rep, err = Analyse(context.Background(), o, observe.Snapshot{}, look); err != nil {
		t.Fatal(err)
	}
	m := find(t, rep, "memories")
	near(t, "memories a day", m.Trend.PerDay, 100, 1e-6)
	full := m.Marks[len(m.Marks)-1]
	near(t, "days until the memories are full at twice the pace", full.Expected.Sub(o.Now).Hours()/24, 3, 0.01)
	if m.Verdict != opstate.Failing || !strings.Contains(m.Advice, "max_persistent_memories") {
		t.Errorf("%s %s", m.Verdict, m.Advice)
	}
	cpu := find(t, rep, "cpu")
	near(t, "cpu", *cpu.Use, 0.75, 1e-6)
	near(t, "cpu with twice the load", *cpu.WhatIf, 1.5, 1e-6)
	events := find(t, rep, "events")
	near(t, "events a day", *events.Use, 5000, 1)
	if events.Trend.Days != 13 {
		t.Errorf("events over a restart: %+v", events.Trend)
	}
	if rep.Verdict != opstate.Failing {
		t.Error(rep.Verdict)
	}
	if got, err := opstate.Read[opstate.Capacity](dir); err != nil || len(got.Series["memories"]) != 15 || len(got.Series["disk /"]) != 1 {
		t.Errorf("%v: %+v", err, got.Series["memories"])
	}

	// A history that is damaged is said to be, not replaced.
	if err := os.WriteFile(opstate.Path[opstate.Capacity](dir), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Analyse(context.Background(), o, observe.Snapshot{}, look); err == nil || !strings.Contains(err.Error(), "damaged") {
		t.Errorf("%v", err)
	}
}

// What is missing is said, and counts where it should have been there.
func TestMissing(t *testing.T) {
	t.Parallel()
	o := options(epoch)
	o.StateDir = t.TempDir()
	o.Enabled = func(c string) bool { return c != "gpu" }
	rep, err := Analyse(context.Background(), o, observe.Snapshot{}, observe.Snapshot{})
	if err != nil {
		t.Fatal(err)
	}
	if rep.Verdict != opstate.Unknown || len(rep.NotLookedAt) != len(resources) {
		t.Errorf("%s: %+v", rep.Verdict, rep.NotLookedAt)
	}
	for _, n := range rep.NotLookedAt {
		if n.What == "gpu memory" && (n.Expected || !strings.Contains(n.Why, "not enabled")) || n.What == "cpu" && !n.Expected {
			t.Errorf("%+v", n)
		}
	}
}

// A machine that is busy for a moment needs no planning within a week.
func TestMomentaryLoad(t *testing.T) {
	t.Parallel()
	o, cpu := options(epoch), resources[0]
	busy := track{now: 1, limit: 1, peak: math.NaN()}
	if r := o.assess(cpu, busy); r.Verdict != opstate.Warning {
		t.Errorf("of a moment: %+v", r)
	}
	busy.points = []Point{{epoch, 0.3}}
	if r := o.assess(cpu, busy); r.Verdict != opstate.Well || *r.Use != 1 {
		t.Errorf("on a quiet day: %+v", r)
	}
	busy.points = history(3, func(int) float64 { return 1 })
	if r := o.assess(cpu, busy); r.Verdict != opstate.Failing {
		t.Errorf("of days: %+v", r)
	}
	o.Growth = 1
	busy.points = []Point{{epoch, 0.4}}
	if r := o.assess(cpu, busy); r.Verdict != opstate.Warning || *r.WhatIf != 2 {
		t.Errorf("with twice the load: %+v", r)
	}
}
