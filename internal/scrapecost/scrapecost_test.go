// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package scrapecost

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/niodoo/niodoo_exporter/internal/localserver"
)

// launched starts a stack and the exporter that watches it, until the test ends.
func launched(t testing.TB, more string, args ...string) (*Stack, *Program, *Client) {
	t.Helper()
	ctx := context.Background()
	path, err := Build(ctx, "../..", "niodoo_exporter", t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	stack, err := StartStack(ctx)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stack.Close)
	config, err := stack.Config(more)
	if err != nil {
		t.Fatal(err)
	}
	p, err := StartProgram(ctx, path, nil, append(args, "--web.listen-address={address}", "--config.file="+config)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Stop)
	c := NewClient()
	t.Cleanup(c.Close)
	return stack, p, c
}

// values returns the values of an exposition by series.
func values(t testing.TB, c *Client, p *Program) map[string]float64 {
	t.Helper()
	text, err := c.Text(context.Background(), p.URL("/metrics"))
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]float64{}
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "#") {
			continue
		}
		at := strings.LastIndexByte(line, ' ')
		var v float64
		if _, err := fmt.Sscan(line[at+1:], &v); err == nil {
			all[line[:at]] = v
		}
	}
	return all
}

// BenchmarkScrape is one scrape of a whole stack by the exporter's own program.
// All figures but the time are the program's, not this process's: its
// processor time, its allocations and its memory.
func BenchmarkScrape(b *testing.B) {
	_, p, c := launched(b, "")
	s := &Subject{Program: p, URLs: []string{p.URL("/metrics")}}
	ctx := context.Background()
	if err := s.Scrape(ctx, c, 20); err != nil {
		b.Fatal(err)
	}
	s.Forget()
	before := values(b, c, p)
	b.ResetTimer()
	if err := s.Scrape(ctx, c, b.N); err != nil {
		b.Fatal(err)
	}
	b.StopTimer()
	after := values(b, c, p)
	if err := s.CountSeries(ctx, c); err != nil {
		b.Fatal(err)
	}
	m, err := p.Memory()
	if err != nil {
		b.Fatal(err)
	}
	per := func(name string) float64 { return (after[name] - before[name]) / float64(b.N+1) } // the one for after as well
	b.ReportMetric(per("go_memstats_mallocs_total"), "allocs/op")
	b.ReportMetric(per("go_memstats_alloc_bytes_total"), "B/op")
	b.ReportMetric(float64(s.PerScrape())/float64(time.Millisecond), "cpu-ms/op")
	b.ReportMetric(float64(m.Resident)/(1<<20), "rss-MiB")
	b.ReportMetric(float64(s.Series), "series")
}

// BenchmarkScrapeOfASlowService is one scrape while one service takes much
// longer than all the others. over-slowest-ms is by how much a scrape then
// takes longer than asking that service alone does, each time right after it.
func BenchmarkScrapeOfASlowService(b *testing.B) {
	stack, p, c := launched(b, "")
	if err := stack.HTTP.Inject("grafana-slow"); err != nil {
		b.Fatal(err)
	}
	timed := func(url string) time.Duration {
		started := time.Now()
		if _, _, err := c.Get(context.Background(), url); err != nil {
			b.Fatal(err)
		}
		return time.Since(started)
	}
	var over []time.Duration
	timed(p.URL("/metrics")) // connects
	for b.Loop() {
		alone := timed(stack.HTTP.URL("grafana") + "/api/health")
		over = append(over, timed(p.URL("/metrics"))-alone)
	}
	slices.Sort(over)
	b.ReportMetric(float64(over[len(over)/2])/float64(time.Millisecond), "over-slowest-ms")
}

// What a healthy stack is asked over stays open: no scrape connects anew. (A
// login to PostgreSQL does, once in login_interval, and is gone at its end.)
func TestScrapesKeepTheirConnections(t *testing.T) {
	t.Parallel()
	_, p, c := launched(t, "")
	s := &Subject{Program: p, URLs: []string{p.URL("/metrics")}}
	scrape(t, s, c, 20)
	before := sockets(t, p)
	scrape(t, s, c, 100)
	for inode := range sockets(t, p) {
		if !before[inode] {
			t.Errorf("%s is new", inode)
		}
	}
	if len(before) < len(Services) {
		t.Errorf("only %d sockets were open", len(before))
	}
}

// However often a stack is scraped, and whatever happens to it, nothing stays
// behind: no goroutine, no file, no connection, no memory.
func TestScrapesLeaveNothingBehind(t *testing.T) {
	t.Parallel()
	refused, err := freeAddress()
	if err != nil {
		t.Fatal(err)
	}
	stack, p, c := launched(t, fmt.Sprintf("loki: {url: 'http://%s'}\n", refused), "--scrape.timeout=250ms")
	s := &Subject{Program: p, URLs: []string{p.URL("/metrics")}}
	faults := []struct{ inject, lift func() error }{
		{fault(stack, "engine-hanging"), lift(stack, "engine-hanging")},
		{fault(stack, "engine-stopped"), lift(stack, "engine-stopped")},
		{fault(stack, "ollama-reset"), lift(stack, "ollama-reset")},
		{fault(stack, "qdrant-truncated"), lift(stack, "qdrant-truncated")},
		{fault(stack, "prometheus-login-page"), lift(stack, "prometheus-login-page")},
		{fault(stack, "grafana-huge"), lift(stack, "grafana-huge")},
		{signal(stack.Redis.Signal, syscall.SIGSTOP), signal(stack.Redis.Signal, syscall.SIGCONT)},
		{hang(stack.Postgres), wake(stack.Postgres)},
	}
	const healthy, failing = 34, 2 // 50 scrapes a cycle
	cycles := func(n int) {
		for range n {
			for _, f := range faults {
				if err := f.inject(); err != nil {
					t.Fatal(err)
				}
				scrape(t, s, c, failing)
				if err := f.lift(); err != nil {
					t.Fatal(err)
				}
			}
			scrape(t, s, c, healthy)
		}
	}
	cycles(2)
	before := values(t, c, p)
	cycles(8)
	// What each scrape with one of the faults had kept would be 16 by now; a few
	// connections more or less are a pool that breathes.
	var after map[string]float64
	for _, m := range []struct {
		name  string
		slack float64
	}{{"go_goroutines", 12}, {"process_open_fds", 6}, {"go_memstats_heap_objects", 10_000}} {
		kept := func() float64 { return after[m.name] - before[m.name] }
		for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(100 * time.Millisecond) {
			if after = values(t, c, p); kept() <= m.slack {
				break
			}
			if time.Now().After(deadline) {
				t.Errorf("%s went from %g to %g", m.name, before[m.name], after[m.name])
				break
			}
		}
		t.Logf("%s: %g, then %g", m.name, before[m.name], after[m.name])
	}
}

func scrape(t *testing.T, s *Subject, c *Client, n int) {
	t.Helper()
	if err := s.Scrape(context.Background(), c, n); err != nil {
		t.Fatal(err)
	}
}

func fault(s *Stack, name string) func() error { return func() error { return s.HTTP.Inject(name) } }
func lift(s *Stack, name string) func() error  { return func() error { return s.HTTP.Lift(name) } }

func signal(send func(syscall.Signal) error, s syscall.Signal) func() error {
	return func() error { return send(s) }
}

func hang(p *localserver.Postgres) func() error { return func() error { p.Hang(); return nil } }
func wake(p *localserver.Postgres) func() error { return func() error { p.Continue(); return nil } }

// sockets returns the inodes of a program's sockets: no two ever share one.
func sockets(t *testing.T, p *Program) map[string]bool {
	t.Helper()
	dir := fmt.Sprintf("/proc/%d/fd", p.cmd.Process.Pid)
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]bool{}
	for _, f := range files {
		if target, err := os.Readlink(filepath.Join(dir, f.Name())); err == nil && strings.HasPrefix(target, "socket:") {
			all[target] = true
		}
	}
	return all
}
