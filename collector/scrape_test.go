// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/niodoo/niodoo_exporter/internal/config"
)

// The runner's promises, each of which another exporter has broken.

var (
	testGauge = gauge("test", "test_value", "A value", "the test", "key")
	testHist  = histogram("test", "test_seconds", "A histogram", "the test")
)

type updateFunc func(ctx context.Context, ch chan<- prometheus.Metric) error

func (f updateFunc) Update(ctx context.Context, ch chan<- prometheus.Metric) error { return f(ctx, ch) }

func testUnit(name string, f updateFunc) *unit {
	return &unit{name: name, required: true, timeout: 10 * time.Second, maxSeries: DefaultMaxSeries,
		logger: slog.New(slog.DiscardHandler), collector: f, busy: make(chan struct{}, 1)}
}

func testScraper(units ...*unit) *Scraper {
	return &Scraper{units: units, holders: 1, idle: make(chan struct{}), cfg: config.Default()}
}

func isUp(v float64, res Result, name string) bool {
	got, ok := lookup(res.Families, `niodoo_component_up{component="`+name+`"}`)
	return ok && got == v
}

func failedWith(res Result, name string, r Reason) bool {
	got, ok := lookup(res.Families, `niodoo_scrape_collector_failure_info{collector="`+name+`",reason="`+string(r)+`"}`)
	return ok && got == 1
}

// One collector that ignores its context loses neither the scrape nor what it
// and the others have sent; the next scrape does not start a second run.
func TestHangingCollector(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var runs atomic.Int32
		release := make(chan struct{})
		stuck := testUnit("stuck", func(_ context.Context, ch chan<- prometheus.Metric) error {
			runs.Add(1)
			ch <- componentUp.boolean(true, "stuck")
			ch <- testGauge.metric(1, "early")
			<-release
			ch <- testGauge.metric(1, "late")
			return nil
		})
		well := testUnit("well", func(_ context.Context, ch chan<- prometheus.Metric) error {
			ch <- componentUp.boolean(true, "well")
			return nil
		})
		s := testScraper(stuck, well)

		began := time.Now()
		res := s.Scrape(t.Context(), 2*time.Second, nil)
		if d := time.Since(began); d != 2*time.Second {
			t.Errorf("the scrape took %s", d)
		}
		if !isUp(1, res, "stuck") || !failedWith(res, "stuck", ReasonTimeout) {
			t.Error("health was known before the hang: want up 1 and reason timeout")
		}
		if _, ok := lookup(res.Families, `niodoo_test_value{key="early"}`); !ok {
			t.Error("what had arrived is lost")
		}
		if !isUp(1, res, "well") || value(t, res.Families, `niodoo_scrape_collector_success{collector="well"}`) != 1 {
			t.Error("the other collector suffers")
		}

		began = time.Now()
		res = s.Scrape(t.Context(), 2*time.Second, nil)
		if d := time.Since(began); d != 0 {
			t.Errorf("the second scrape waited %s for a run that is past its time", d)
		}
		if !failedWith(res, "stuck", ReasonTimeout) || !isUp(0, res, "stuck") {
			t.Error("want reason timeout at once, and down: nothing is known")
		}
		if n := runs.Load(); n != 1 {
			t.Errorf("%d runs pile up", n)
		}

		close(release)
		synctest.Wait()
		res = s.Scrape(t.Context(), 2*time.Second, nil)
		if value(t, res.Families, `niodoo_scrape_collector_success{collector="stuck"}`) != 1 {
			t.Error("it does not recover")
		}
	})
}

// The collector's own timeout is shorter than the scrape's: the scrape does not
// wait longer than that for it.
func TestCollectorTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := testUnit("slow", func(ctx context.Context, _ chan<- prometheus.Metric) error {
			<-ctx.Done()
			return ctx.Err()
		})
		u.timeout = time.Second
		began := time.Now()
		res := testScraper(u).Scrape(t.Context(), 10*time.Second, nil)
		if d := time.Since(began); d != time.Second {
			t.Errorf("took %s", d)
		}
		if !failedWith(res, "slow", ReasonTimeout) {
			t.Errorf("failures: %v", res.Failures)
		}
	})
}

// Scrapes that overlap share a run and both get its result.
func TestJoin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var runs atomic.Int32
		s := testScraper(testUnit("x", func(_ context.Context, ch chan<- prometheus.Metric) error {
			runs.Add(1)
			time.Sleep(time.Second)
			ch <- componentUp.boolean(true, "x")
			return nil
		}))
		var wg sync.WaitGroup
		for range 5 {
			wg.Go(func() {
				if res := s.Scrape(t.Context(), 5*time.Second, nil); !isUp(1, res, "x") {
					t.Errorf("failures: %v", res.Failures)
				}
			})
		}
		wg.Wait()
		if n := runs.Load(); n != 1 {
			t.Errorf("%d runs", n)
		}
	})
}

// A client that goes away ends a run that nobody else waits for, and only then.
func TestAbandonedRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ended := make(chan error, 1)
		s := testScraper(testUnit("x", func(ctx context.Context, ch chan<- prometheus.Metric) error {
			select {
			case <-ctx.Done():
				ended <- ctx.Err()
				return ctx.Err()
			case <-time.After(3 * time.Second):
				ch <- componentUp.boolean(true, "x")
				ended <- nil
				return nil
			}
		}))
		impatient, cancel := context.WithCancel(t.Context())
		go s.Scrape(impatient, 5*time.Second, nil)
		synctest.Wait()
		var wg sync.WaitGroup
		wg.Go(func() {
			if res := s.Scrape(t.Context(), 5*time.Second, nil); !isUp(1, res, "x") {
				t.Error("one client's leaving ended another's run")
			}
		})
		synctest.Wait()
		cancel()
		wg.Wait()
		if err := <-ended; err != nil {
			t.Errorf("the shared run ended with %v", err)
		}

		impatient, cancel = context.WithCancel(t.Context())
		go s.Scrape(impatient, 5*time.Second, nil)
		synctest.Wait()
		cancel()
		if err := <-ended; err == nil {
			t.Error("the abandoned run went on")
		}
		synctest.Wait()
	})
}

// Clients that hang up say nothing about a component: the next scrape is not
// told that it is down, and neither the log nor the page says so.
func TestHangingUpIsNoFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var runs atomic.Int32
		var log bytes.Buffer
		u := testUnit("x", func(ctx context.Context, ch chan<- prometheus.Metric) error {
			runs.Add(1)
			select {
			case <-ctx.Done():
				time.Sleep(100 * time.Millisecond) // it takes a moment to end
				return ctx.Err()
			case <-time.After(time.Second):
				ch <- componentUp.boolean(true, "x")
				return nil
			}
		})
		u.logger = slog.New(slog.NewTextHandler(&log, nil))
		s := testScraper(u)
		for range 3 {
			impatient, cancel := context.WithCancel(t.Context())
			go s.Scrape(impatient, 5*time.Second, nil)
			synctest.Wait()
			cancel()
			synctest.Wait()
		}
		if res := s.Scrape(t.Context(), 5*time.Second, nil); !isUp(1, res, "x") || len(res.Failures) > 0 {
			t.Errorf("failures: %v", res.Failures)
		}
		if log.Len() > 0 || s.Last()[0].Reason != "" {
			t.Errorf("%v\n%s", s.Last()[0], log.String())
		}
		if n := runs.Load(); n != 2 {
			t.Errorf("%d runs; what nobody waits for is not begun", n)
		}
	})
}

// A panic is the failure of its collector, also in a part that runs beside
// others, and its stack is in the log.
func TestPanic(t *testing.T) {
	for name, f := range map[string]updateFunc{
		"collector": func(context.Context, chan<- prometheus.Metric) error { panic("boom") },
		"part": func(context.Context, chan<- prometheus.Metric) error {
			return parallel(func() error { return nil }, func() error { panic("boom") })
		},
	} {
		t.Run(name, func(t *testing.T) {
			var log bytes.Buffer
			u := testUnit("bad", f)
			u.logger = slog.New(slog.NewTextHandler(&log, nil))
			res := testScraper(u, testUnit("well", func(_ context.Context, ch chan<- prometheus.Metric) error {
				ch <- componentUp.boolean(true, "well")
				return nil
			})).Scrape(t.Context(), time.Second, nil)
			if !failedWith(res, "bad", ReasonPanic) || !isUp(0, res, "bad") || !isUp(1, res, "well") {
				t.Errorf("got\n%s", text(res.Families))
			}
			if !strings.Contains(log.String(), "scrape_test.go") {
				t.Errorf("no stack in the log: %s", log.String())
			}
		})
	}
}

// After health is known, a panic or a failed statistics call leaves it alone.
func TestHealthKnown(t *testing.T) {
	for _, err := range []error{errors.New("odd"), failf(ReasonParse, "bad"), nil} {
		u := testUnit("x", func(_ context.Context, ch chan<- prometheus.Metric) error {
			ch <- componentUp.boolean(true, "x")
			if err == nil {
				panic("boom")
			}
			return err
		})
		if res := testScraper(u).Scrape(t.Context(), time.Second, nil); !isUp(1, res, "x") || len(res.Failures) != 1 {
			t.Errorf("%v: %v\n%s", err, res.Failures, text(res.Families))
		}
	}
}

// Duplicates, invalid metrics and those over the limit are left out and
// counted; the rest is whole, and the status is never cut.
func TestLeftOut(t *testing.T) {
	u := testUnit("x", func(_ context.Context, ch chan<- prometheus.Metric) error {
		ch <- testGauge.metric(1, "a")
		ch <- testGauge.metric(2, "a")
		ch <- testGauge.metric(1, "\xff bad \xfe")
		ch <- testGauge.metric(1, "too", "many")
		ch <- nil
		ch <- testHist.metric(1)
		ch <- prometheus.MustNewConstMetric(prometheus.NewDesc("undeclared", "", nil, nil), prometheus.GaugeValue, 1)
		ch <- prometheus.MustNewConstMetric(testGauge.desc, prometheus.GaugeValue, 4, "foreign")
		for range 10 {
			ch <- testGauge.metric(1, strings.Repeat("long", 1000))
		}
		ch <- componentUp.boolean(true, "x")
		return nil
	})
	u.maxSeries = 5
	res := testScraper(u).Scrape(t.Context(), time.Second, nil)
	lint(t, res.Families)
	for series, want := range map[string]float64{
		`niodoo_test_value{key="a"}`:                                               1,
		`niodoo_test_value{key="` + "\uFFFD bad \uFFFD" + `"}`:                     1,
		`niodoo_test_value{key="foreign"}`:                                         4,
		`niodoo_scrape_collector_series_dropped{collector="x",reason="limit"}`:     9,
		`niodoo_scrape_collector_series_dropped{collector="x",reason="invalid"}`:   4,
		`niodoo_scrape_collector_series_dropped{collector="x",reason="duplicate"}`: 1,
		`niodoo_component_up{component="x"}`:                                       1,
		`niodoo_scrape_collector_success{collector="x"}`:                           1,
	} {
		if got := value(t, res.Families, series); got != want {
			t.Errorf("%s is %v, want %v", series, got, want)
		}
	}
	if s := text(res.Families); strings.Contains(s, strings.Repeat("long", 100)) {
		t.Error("a label value is not cut")
	}
}

// Up 0 goes with success 0 and exactly one reason, whatever the collector says.
func TestDownWithoutReason(t *testing.T) {
	u := testUnit("x", func(_ context.Context, ch chan<- prometheus.Metric) error {
		ch <- componentUp.boolean(false, "x")
		return nil
	})
	if res := testScraper(u).Scrape(t.Context(), time.Second, nil); !failedWith(res, "x", ReasonOther) || res.RequiredUp {
		t.Errorf("got\n%s", text(res.Families))
	}
}

// A failure is logged when it begins, changes and ends, not on every scrape,
// and its text is never a label.
func TestFailureIsLoggedOnce(t *testing.T) {
	var log bytes.Buffer
	err := failf(ReasonAuth, "text of the error")
	u := testUnit("x", func(context.Context, chan<- prometheus.Metric) error { return err })
	u.logger = slog.New(slog.NewTextHandler(&log, nil))
	s := testScraper(u)
	for range 5 {
		if res := s.Scrape(t.Context(), time.Second, nil); strings.Contains(text(res.Families), "text of the error") {
			t.Fatal("error text in a label")
		}
	}
	if n := strings.Count(log.String(), "text of the error"); n != 1 {
		t.Errorf("logged %d times", n)
	}
	err = failf(ReasonTLS, "another")
	s.Scrape(t.Context(), time.Second, nil)
	err = nil
	s.Scrape(t.Context(), time.Second, nil)
	if n := strings.Count(log.String(), "\n"); n != 3 {
		t.Errorf("want 3 lines:\n%s", log.String())
	}
}

// A version that changes under our eyes leaves the time.
func TestVersionChange(t *testing.T) {
	version := "1"
	s := testScraper(testUnit("x", func(_ context.Context, ch chan<- prometheus.Metric) error {
		status{up: true, version: version}.send(ch, "x")
		return nil
	}))
	const series = `niodoo_component_version_change_timestamp_seconds{component="x"}`
	if _, ok := lookup(s.Scrape(t.Context(), time.Second, nil).Families, series); ok {
		t.Error("the first sight is no change")
	}
	version = "2"
	for range 2 {
		if at := value(t, s.Scrape(t.Context(), time.Second, nil).Families, series); time.Since(time.Unix(int64(at), 0)) > time.Minute {
			t.Errorf("changed at %v", at)
		}
	}
}

// closing counts what Close is called for.
type closing struct {
	updateFunc
	closed *atomic.Int32
}

func (c closing) Close() error {
	c.closed.Add(1)
	return nil
}

// A collector that panics while it is made or closed fails alone.
func TestPanicAround(t *testing.T) {
	c := newCollector(func(*config.Config, Deps) (Collector, error) { panic("boom") }, nil, Deps{})
	if res := testScraper(testUnit("x", c.Update)).Scrape(t.Context(), time.Second, nil); !failedWith(res, "x", ReasonPanic) {
		t.Errorf("got\n%s", text(res.Families))
	}
	var log bytes.Buffer
	u := testUnit("x", nil)
	u.collector, u.logger = closePanics{}, slog.New(slog.NewTextHandler(&log, nil))
	testScraper(u).Retire(nil)
	if !strings.Contains(log.String(), "boom") {
		t.Errorf("log: %s", log.String())
	}
}

type closePanics struct{ updateFunc }

func (closePanics) Close() error { panic("boom") }

// A collector that hangs keeps only itself open, and one that is scraped after
// all once it has been retired closes again.
func TestRetireBesideOneThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var closed atomic.Int32
		release := make(chan struct{})
		stuck := testUnit("stuck", func(context.Context, chan<- prometheus.Metric) error {
			<-release
			return nil
		})
		well := testUnit("well", nil)
		well.collector = closing{updateFunc: func(context.Context, chan<- prometheus.Metric) error { return nil }, closed: &closed}
		s := testScraper(stuck, well)
		s.Scrape(t.Context(), time.Second, nil)
		retired := make(chan struct{})
		go func() {
			s.Retire(nil)
			close(retired)
		}()
		synctest.Wait()
		if n := closed.Load(); n != 1 {
			t.Errorf("closed %d times beside one that hangs", n)
		}
		testScraper(well).Scrape(t.Context(), time.Second, nil)
		if n := closed.Load(); n != 2 {
			t.Errorf("closed %d times after a late scrape", n)
		}
		close(release)
		<-retired
	})
}

// Retiring waits for scrapes in flight and closes only what is not taken over.
func TestRetire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var closedA, closedB atomic.Int32
		slow := updateFunc(func(context.Context, chan<- prometheus.Metric) error {
			time.Sleep(time.Second)
			if closedA.Load() > 0 {
				t.Error("closed under a run")
			}
			return nil
		})
		a, b := testUnit("a", nil), testUnit("b", nil)
		a.collector, b.collector = closing{updateFunc: slow, closed: &closedA}, closing{updateFunc: slow, closed: &closedB}
		old, next := testScraper(a, b), testScraper(b)

		if !old.Hold() {
			t.Fatal("cannot hold")
		}
		go func() {
			old.Scrape(t.Context(), 5*time.Second, nil)
			old.Release()
		}()
		synctest.Wait()
		old.Retire(next)
		if closedA.Load() != 1 || closedB.Load() != 0 {
			t.Errorf("closed a %d times, b %d times", closedA.Load(), closedB.Load())
		}
		if old.Hold() {
			t.Error("a retired scraper can be held")
		}
	})
}

func TestBrokenConfiguration(t *testing.T) {
	c := newCollector(func(*config.Config, Deps) (Collector, error) { return nil, errors.New("no such thing") }, nil, Deps{})
	u := testUnit("x", c.Update)
	if res := testScraper(u).Scrape(t.Context(), time.Second, nil); !failedWith(res, "x", ReasonConfig) || !isUp(0, res, "x") {
		t.Errorf("got\n%s", text(res.Families))
	}
}

func BenchmarkScrapeRunner(b *testing.B) {
	values := make([]prometheus.Metric, 100)
	for i := range values {
		values[i] = testGauge.metric(float64(i), strings.Repeat("x", i))
	}
	var units []*unit
	for _, n := range []string{"a", "b", "c", "d", "e", "f", "g", "h"} {
		units = append(units, testUnit(n, func(_ context.Context, ch chan<- prometheus.Metric) error {
			for _, v := range values {
				ch <- v
			}
			return nil
		}))
	}
	s := testScraper(units[0])
	all := testScraper(units...)
	for name, s := range map[string]*Scraper{"one": s, "eight": all} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				s.Scrape(b.Context(), time.Second, nil)
			}
		})
	}
}
