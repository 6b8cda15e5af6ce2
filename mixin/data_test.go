// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package mixin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/textparse"
	engine "github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/util/teststorage"
)

// A history is replayed scrapes in a database that can be asked.
type history struct {
	end     time.Time
	storage storage.Storage
	engine  *engine.Engine
}

// How scrapes are replayed: every minute, in the last hours and at this time
// yesterday, which some expressions look back to.
const (
	replayStep = time.Minute
	replayed   = 7 * time.Hour
	yesterday  = 20 * time.Minute
	// shown is the range that panels are asked for.
	shown = time.Hour
)

// A scrape is a text of metrics and the labels that its target adds. Text of
// the collectors' own tests has words where a value changes from run to run.
type scrape struct {
	text   []byte
	target map[string]string
}

var (
	scrapedAt = regexp.MustCompile(`^# Scraped at (\d+)\.\n`)
	volatile  = regexp.MustCompile(`(?m) VOLATILE$`)
)

// demo is the scrape of the simulated stack, as of two stacks: one whose series
// have a label cluster, and one whose series have none.
func demo(t *testing.T) ([]scrape, time.Time) {
	t.Helper()
	raw, err := os.ReadFile("testdata/scrape.prom")
	if err != nil {
		t.Fatal(err)
	}
	m := scrapedAt.FindSubmatch(raw)
	if m == nil {
		t.Fatal("testdata/scrape.prom does not begin with its time")
	}
	var unix int64
	if _, err := fmt.Sscan(string(m[1]), &unix); err != nil {
		t.Fatal(err)
	}
	return []scrape{
		{raw, map[string]string{"job": "niodoo", "instance": "stack-1:10646", "cluster": "east"}},
		{raw, map[string]string{"job": "niodoo", "instance": "stack-2:10646"}},
	}, time.Unix(unix, 0)
}

// rareCluster is where there is what the demo does not have.
const rareCluster = "west"

// everything are the expositions that the collectors' own tests expect, which
// hold what a demo does not have, and what no collector can show by itself.
func everything(t *testing.T) []scrape {
	t.Helper()
	paths, err := filepath.Glob("../collector/testdata/*.prom")
	if err != nil || len(paths) == 0 {
		t.Fatal("no expositions of the collectors", err)
	}
	var list []scrape
	for _, path := range append(paths, "testdata/rare.prom") {
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, scrape{volatile.ReplaceAll(raw, []byte(" 0.125")), map[string]string{"job": "niodoo", "instance": filepath.Base(path), "cluster": rareCluster}})
	}
	return list
}

// sample is a series with its last value.
type sample struct {
	labels labels.Labels
	value  float64
	grows  bool
}

func (s scrape) samples() ([]sample, error) {
	p, err := textparse.New(s.text, "text/plain; version=0.0.4", labels.NewSymbolTable(), textparse.ParserOptions{})
	if err != nil {
		return nil, err
	}
	up := labels.NewBuilder(labels.FromStrings("__name__", "up"))
	duration := labels.NewBuilder(labels.FromStrings("__name__", "scrape_duration_seconds"))
	for name, value := range s.target {
		up.Set(name, value)
		duration.Set(name, value)
	}
	list := []sample{{up.Labels(), 1, false}, {duration.Labels(), 0.05, false}}
	grows := false
	for {
		entry, err := p.Next()
		if errors.Is(err, io.EOF) {
			return list, nil
		}
		if err != nil {
			return nil, err
		}
		switch entry {
		case textparse.EntryType:
			_, typ := p.Type()
			grows = typ == "counter" || typ == "histogram" || typ == "summary"
		case textparse.EntrySeries:
			var l labels.Labels
			p.Labels(&l)
			_, _, v := p.Series()
			b := labels.NewBuilder(l)
			for name, value := range s.target {
				b.Set(name, value)
			}
			list = append(list, sample{b.Labels(), v, grows && !math.IsNaN(v)})
		}
	}
}

// at is the sample's value when part of the whole time has gone by: counters
// grow to their value, an uptime starts anew every fifty minutes, and the disks
// fill up that are not the demo's.
func (s sample) at(now time.Time, part float64) float64 {
	name := s.labels.Get(model.MetricNameLabel)
	switch {
	case strings.HasSuffix(name, "_filesystem_avail_bytes") && s.labels.Get("cluster") == rareCluster:
		return s.value * (2 - part)
	case strings.HasSuffix(name, "_uptime_seconds"):
		return math.Mod(float64(now.Unix()), 3000)
	case s.grows:
		return s.value * (0.5 + part/2)
	}
	return s.value
}

func replay(t *testing.T, end time.Time, scrapes []scrape) *history {
	t.Helper()
	h := &history{
		end:     end,
		storage: teststorage.New(t),
		engine:  engine.NewEngine(engine.EngineOpts{MaxSamples: 50e6, Timeout: time.Minute, EnableAtModifier: true, EnableNegativeOffset: true, Parser: promql}),
	}
	var all []sample
	for _, s := range scrapes {
		list, err := s.samples()
		if err != nil {
			t.Fatalf("%v: %v", s.target, err)
		}
		all = append(all, list...)
	}
	begin := end.Add(-24*time.Hour - yesterday)
	app := h.storage.Appender(t.Context())
	refs := make([]storage.SeriesRef, len(all))
	for now := begin; !now.After(end); now = now.Add(replayStep) {
		if ago := end.Sub(now); ago > replayed && ago < 24*time.Hour-yesterday {
			continue
		}
		part := float64(now.Sub(begin)) / float64(end.Sub(begin))
		for i, s := range all {
			ref, err := app.Append(refs[i], s.labels, now.UnixMilli(), s.at(now, part))
			if err != nil {
				t.Fatalf("%s: %v", s.labels, err)
			}
			refs[i] = ref
		}
	}
	if err := app.Commit(); err != nil {
		t.Fatal(err)
	}
	h.record(t)
	return h
}

// record evaluates the recording rules in their order.
func (h *history) record(t *testing.T) {
	t.Helper()
	for _, g := range rules(t, "prometheusRules") {
		for _, r := range g.Rules {
			m, err := h.over(r.Expr, replayed/2)
			if err != nil {
				t.Fatalf("%s: %v", r.Record, err)
			}
			app := h.storage.Appender(t.Context())
			for _, series := range m {
				b := labels.NewBuilder(series.Metric).Set("__name__", r.Record)
				for name, value := range r.Labels {
					b.Set(name, value)
				}
				l := b.Labels()
				for _, p := range series.Floats {
					if _, err := app.Append(0, l, p.T, p.F); err != nil {
						t.Fatalf("%s: %v", l, err)
					}
				}
			}
			if err := app.Commit(); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func (h *history) over(expr string, d time.Duration) (engine.Matrix, error) {
	q, err := h.engine.NewRangeQuery(context.Background(), h.storage, nil, expr, h.end.Add(-d), h.end, replayStep)
	if err != nil {
		return nil, err
	}
	defer q.Close()
	res := q.Exec(context.Background())
	if res.Err != nil {
		return nil, res.Err
	}
	m, err := res.Matrix()
	if err != nil {
		return nil, err
	}
	kept := make(engine.Matrix, len(m)) // Close takes the points back
	for i, s := range m {
		kept[i] = engine.Series{Metric: s.Metric, Floats: slices.Clone(s.Floats)}
	}
	return kept, nil
}

func (h *history) instant(expr string) ([]labels.Labels, error) {
	q, err := h.engine.NewInstantQuery(context.Background(), h.storage, nil, expr, h.end)
	if err != nil {
		return nil, err
	}
	defer q.Close()
	res := q.Exec(context.Background())
	if res.Err != nil {
		return nil, res.Err
	}
	v, err := res.Vector()
	if err != nil {
		return nil, err
	}
	var found []labels.Labels
	for _, s := range v {
		if !math.IsNaN(s.F) && !math.IsInf(s.F, 0) {
			found = append(found, s.Metric)
		}
	}
	return found, nil
}

// Every variable stands at All.
var everyValue = map[string]string{"job": ".+", "cluster": ".*", "instance": ".+"}

// ask returns the labels of what a panel's query finds, numbers only.
func (h *history) ask(q target) ([]labels.Labels, error) {
	expr := replaced(q.Expr, everyValue)
	if q.Instant {
		return h.instant(expr)
	}
	m, err := h.over(expr, shown)
	if err != nil {
		return nil, err
	}
	var found []labels.Labels
	for _, s := range m {
		if slices.ContainsFunc(s.Floats, func(p engine.FPoint) bool { return !math.IsNaN(p.F) && !math.IsInf(p.F, 0) }) {
			found = append(found, s.Metric)
		}
	}
	return found, nil
}

// expectedEmpty are the panels that show nothing on a demo, and why, by the
// dashboard's uid and the panel's title; "title: legend" is one query of it, and
// in a table "title: column".
func expectedEmpty(t *testing.T) map[string]map[string]string {
	t.Helper()
	raw, err := os.ReadFile("dashboards/expected_empty.json")
	if err != nil {
		t.Fatal(err)
	}
	var list map[string]map[string]string
	if err := json.Unmarshal(raw, &list); err != nil {
		t.Fatal(err)
	}
	return list
}

var legendLabel = regexp.MustCompile(`\{\{\s*(\w+)\s*\}\}`)

// Every query of every dashboard finds something on the demo, or, if it is
// listed with a reason, where there is what the demo does not have.
func TestEveryQueryReturnsData(t *testing.T) {
	scrapes, end := demo(t)
	onDemo := replay(t, end, scrapes)
	rare := replay(t, end, append(scrapes, everything(t)...))
	empty := expectedEmpty(t)
	queries, withData, listed := 0, 0, 0
	for uid, d := range dashboards(t) {
		used := map[string]bool{}
		for _, p := range d.queries() {
			for _, q := range p.Targets {
				queries++
				name := p.Title
				if _, ok := empty[uid][name]; !ok {
					name = p.Title + ": " + q.LegendFormat
				}
				reason, expected := empty[uid][name]
				found, err := onDemo.ask(q)
				switch {
				case err != nil:
					t.Errorf("%s, %s: %v\n%s", uid, p.Title, err, q.Expr)
				case len(found) == 0 && !expected:
					t.Errorf("%s, %q (%s) shows nothing on the demo:\n%s", uid, p.Title, q.LegendFormat, q.Expr)
				case len(found) == 0:
					listed++
					used[name] = true
					if reason == "" {
						t.Errorf("%s, %s: expected to be empty for no reason", uid, name)
					}
					if found, err = rare.ask(q); err != nil || len(found) == 0 {
						t.Errorf("%s, %q (%s) shows nothing even where there is everything (%v):\n%s", uid, p.Title, q.LegendFormat, err, q.Expr)
					}
				default:
					withData++
				}
				checkLegend(t, uid+", "+p.Title, q, found)
			}
		}
		for name := range empty[uid] {
			if !used[name] {
				t.Errorf("%s: expected_empty.json lists %q, which there is not or which shows something", uid, name)
			}
		}
		for _, a := range d.Annotations.List {
			if a.Expr == "" {
				continue
			}
			if found, err := rare.ask(target{Expr: a.Expr, Range: true}); err != nil || len(found) == 0 {
				t.Errorf("%s, annotation %s: nothing: %v", uid, a.Name, err)
			}
		}
	}
	for uid := range empty {
		if dashboards(t)[uid] == nil {
			t.Errorf("expected_empty.json lists a dashboard %s", uid)
		}
	}
	t.Logf("%d queries: %d with data on the demo, %d expected to be empty there", queries, withData, listed)
}

// checkLegend complains about a legend of labels that the result does not have,
// and about lines that it does not tell apart.
func checkLegend(t *testing.T, where string, q target, found []labels.Labels) {
	t.Helper()
	if q.Format == "table" || q.Format == "heatmap" {
		return
	}
	lines := map[string]bool{}
	for _, l := range found {
		text := legendLabel.ReplaceAllStringFunc(q.LegendFormat, func(m string) string {
			value := l.Get(legendLabel.FindStringSubmatch(m)[1])
			if value == "" {
				t.Errorf("%s: the legend's %s is not in %s", where, m, l)
			}
			return value
		})
		if lines[text] {
			t.Errorf("%s: two lines are called %q", where, text)
			return
		}
		lines[text] = true
	}
}

// The columns of every table are labels and values that its queries return.
func TestTableColumns(t *testing.T) {
	scrapes, end := demo(t)
	h := replay(t, end, append(scrapes, everything(t)...))
	for uid, d := range dashboards(t) {
		for _, p := range d.queries() {
			if p.Type != "table" {
				continue
			}
			have := map[string]bool{"Value": len(p.Targets) == 1}
			for _, q := range p.Targets {
				have["Value #"+q.RefID] = len(p.Targets) > 1
				found, err := h.ask(q)
				if err != nil {
					t.Fatal(err)
				}
				for _, l := range found {
					l.Range(func(l labels.Label) { have[l.Name] = true })
				}
			}
			for _, c := range columns(t, p) {
				if !have[c] {
					t.Errorf("%s, %s: no query returns the column %s, but %v", uid, p.Title, c, slices.Sorted(maps.Keys(have)))
				}
			}
		}
	}
}

// columns returns the fields that a table keeps.
func columns(t *testing.T, p panel) []string {
	t.Helper()
	var table struct {
		Transformations []struct {
			ID      string
			Options struct{ Include struct{ Names []string } }
		}
	}
	if err := json.NewDecoder(bytes.NewReader(p.raw)).Decode(&table); err != nil {
		t.Fatal(err)
	}
	for _, tr := range table.Transformations {
		if tr.ID == "filterFieldsByName" {
			return tr.Options.Include.Names
		}
	}
	t.Fatalf("%s keeps no columns", p.Title)
	return nil
}

// What is written by hand in rare.prom is what the exporter would write.
func TestRareSeriesExist(t *testing.T) {
	k := know(t)
	raw, err := os.ReadFile("testdata/rare.prom")
	if err != nil {
		t.Fatal(err)
	}
	samples, err := scrape{text: raw}.samples()
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range samples {
		name := s.labels.Get(model.MetricNameLabel)
		if !k.exists(name) {
			t.Errorf("there is no metric %s", name)
		}
		s.labels.Range(func(l labels.Label) {
			if l.Name != model.MetricNameLabel && !slices.Contains(k.labels(name), l.Name) {
				t.Errorf("%s has no label %s", name, l.Name)
			}
		})
	}
}
