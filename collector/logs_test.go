// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/niodoo/niodoo_exporter/internal/config"
)

// logsAppend writes to a log as the engine does.
func logsAppend(t testing.TB, path, text string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString(text); err != nil {
		t.Fatal(err)
	}
}

// What the engine writes: coloured text, the documented JSON, env_logger's, a
// block without levels and dirt.
const logsSample = "\x1b[2m2025-10-21T05:28:09.320323Z\x1b[0m \x1b[32m INFO\x1b[0m processing prompts through NIODOO pipeline \x1b[3mcount\x1b[0m\x1b[2m=\x1b[0m5\n" +
	"2025-10-21T05:28:09.497045Z  WARN collapse{dim=896}: qdrant search returned error status status=400 Bad Request\n" +
	"2025-10-21T05:28:11.262391Z  INFO generate: generated hybrid response latency_ms=1765.23801 rouge=0.7620720713276454\n" +
	"2025-10-21T05:28:11.263545Z  INFO stored ERAG memory collection=experiences\n" +
	`{"timestamp":"2026-01-27T10:00:00.250000Z","level":"ERROR","fields":{"message":"toroidal memory consolidation Failed: timeout on gpu"},"target":"niodoo::memory"}` + "\n" +
	"[2025-11-01T10:00:00Z DEBUG detector::core] emotional state\n" +
	"  🧠 Memories: 532\n" +
	"\x00\xff not text at all\r\n"

func TestLogs(t *testing.T) {
	dir := t.TempDir()
	niodoo := filepath.Join(dir, "niodoo.log")
	logsAppend(t, niodoo, "2025-10-21T05:00:00Z ERROR this is history\n")
	s := scraper(t, only(t, "logs", fmt.Sprintf("{paths: [%q]}", filepath.Join(dir, "*.log"))))

	first := scrape(t, s)
	for _, series := range []string{
		`niodoo_logs_lines_total{file="niodoo.log",level="error"}`, `niodoo_logs_matches_total{class="errors",file="niodoo.log"}`,
		`niodoo_logs_bytes_total{file="niodoo.log"}`, `niodoo_logs_rotations_total{file="niodoo.log"}`, `niodoo_logs_lag_bytes{file="niodoo.log"}`,
	} {
		if v := value(t, first.Families, series); v != 0 {
			t.Errorf("%s is %v at first sight", series, v)
		}
	}
	if v, ok := lookup(first.Families, `niodoo_logs_last_error_timestamp_seconds{file="niodoo.log"}`); ok {
		t.Errorf("an error before our time, at %v", v)
	}

	logsAppend(t, niodoo, logsSample)
	logsAppend(t, filepath.Join(dir, "vllm.log"), "ERROR without a time\n")
	for _, own := range []string{"health_monitor.log", "incident_INC-1.log", "log_analysis_20260127.txt"} {
		logsAppend(t, filepath.Join(dir, own), "error\n")
	}
	written := time.Date(2026, 1, 27, 10, 0, 1, 0, time.UTC)
	if err := os.Chtimes(niodoo, written, written); err != nil {
		t.Fatal(err)
	}
	before := float64(time.Now().Unix())
	res := scrape(t, s)
	if v := value(t, res.Families, `niodoo_logs_last_error_timestamp_seconds{file="vllm.log"}`); v < before || v > before+10 {
		t.Errorf("an error without a time was read at %v", v)
	}
	if err := os.Remove(filepath.Join(dir, "vllm.log")); err != nil {
		t.Fatal(err)
	}
	for _, f := range res.Families { // what depends on the clock is compared above
		for _, m := range f.Metric {
			if strings.HasSuffix(f.GetName(), "_timestamp_seconds") && m.Label[0].GetValue() == "vllm.log" {
				m.Gauge.Value = new(float64)
			}
		}
	}
	golden(t, "logs", res.Families)
}

// The default directory need not exist; one that the file names must.
func TestLogsIdle(t *testing.T) {
	t.Parallel()
	cfg := only(t, "logs", "{}")
	if _, err := os.Stat(filepath.Dir(cfg.Logs.Paths[0])); err == nil {
		t.Skip("there is a Niodoo stack on this machine")
	}
	res := scrape(t, scraper(t, cfg))
	if v := value(t, res.Families, `niodoo_scrape_collector_success{collector="logs"}`); v != 1 {
		t.Errorf("success is %v: %v", v, res.Failures)
	}
	if v := value(t, res.Families, `niodoo_scrape_collector_series{collector="logs"}`); v != 0 {
		t.Errorf("%v series", v)
	}
}

// logsAsNobody runs a collector without root's privilege to read everything.
type logsAsNobody struct{ Collector }

func (n logsAsNobody) Update(ctx context.Context, ch chan<- prometheus.Metric) (err error) {
	if os.Getuid() != 0 {
		return n.Collector.Update(ctx, ch)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		_, _, _ = syscall.RawSyscall(syscall.SYS_SETFSUID, 65534, 0, 0)
		err = n.Collector.Update(ctx, ch)
	}()
	<-done
	return err
}

// logsOpenWay lets everybody reach a directory.
func logsOpenWay(t testing.TB, dir string) {
	t.Helper()
	for ; dir != "/"; dir = filepath.Dir(dir) {
		if info, err := os.Stat(dir); err == nil && info.Mode()&0o005 != 0o005 {
			if err := os.Chmod(dir, info.Mode()|0o055); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// However the collector fails, it reads what can be read.
func TestLogsFailures(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name    string
		section string // %[1]s is the directory
		prepare func(t *testing.T, dir string)
		reason  Reason
	}{
		{"a file is missing", `{paths: ["%[1]s/niodoo.log", "%[1]s/other.log"]}`, nil, ReasonNotFound},
		{"a directory is missing", `{paths: ["%[1]s/niodoo.log", "%[1]s/no-such-directory/*.log"]}`, nil, ReasonNotFound},
		{"a directory is named", `{paths: ["%[1]s/niodoo.log", "%[1]s"]}`, nil, ReasonConfig},
		{"a file is secret", `{paths: ["%[1]s/*.log"]}`, func(t *testing.T, dir string) {
			logsAppend(t, filepath.Join(dir, "secret.log"), "x\n")
			if err := os.Chmod(filepath.Join(dir, "secret.log"), 0); err != nil {
				t.Fatal(err)
			}
		}, ReasonPermission},
		{"a directory is secret", `{paths: ["%[1]s/*.log", "%[1]s/secret/*.log"]}`, func(t *testing.T, dir string) {
			if err := os.Mkdir(filepath.Join(dir, "secret"), 0); err != nil {
				t.Fatal(err)
			}
		}, ReasonPermission},
		{"links in a circle", `{paths: ["%[1]s/*.log"]}`, func(t *testing.T, dir string) {
			if err := os.Symlink(filepath.Join(dir, "x.log"), filepath.Join(dir, "x.log")); err != nil {
				t.Fatal(err)
			}
		}, ReasonOther},
		{"the state is corrupt", `{paths: ["%[1]s/*.log"], state_file: "%[1]s/state"}`, func(t *testing.T, dir string) {
			logsAppend(t, filepath.Join(dir, "state"), "{")
			if err := os.Chmod(dir, 0o777); err != nil {
				t.Fatal(err)
			}
		}, ReasonParse},
		{"the state cannot be written", `{paths: ["%[1]s/*.log"], state_file: "%[1]s/no-such-directory/state"}`, nil, ReasonNotFound},
		{"the state must not be written", `{paths: ["%[1]s/*.log"], state_file: "%[1]s/closed/state"}`, func(t *testing.T, dir string) {
			if err := os.Mkdir(filepath.Join(dir, "closed"), 0o555); err != nil {
				t.Fatal(err)
			}
		}, ReasonPermission},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			logsOpenWay(t, dir)
			logsAppend(t, filepath.Join(dir, "niodoo.log"), "x\n")
			if c.prepare != nil {
				c.prepare(t, dir)
			}
			s := scraper(t, only(t, "logs", fmt.Sprintf(c.section, dir)))
			for _, u := range s.units {
				u.collector = logsAsNobody{u.collector}
			}
			expectFailureOf(t, s, "logs", false, c.reason, 2*time.Second)
			logsAppend(t, filepath.Join(dir, "niodoo.log"), "y\n")
			res := scrape(t, s)
			if v := value(t, res.Families, `niodoo_logs_lines_total{file="niodoo.log",level="other"}`); v != 1 {
				t.Errorf("%v lines of the other file were read", v)
			}
			// A corrupt state is put aside: that happens once.
			if v := value(t, res.Families, `niodoo_scrape_collector_success{collector="logs"}`); v != boolValue(c.reason == ReasonParse) {
				t.Errorf("success is %v in the second scrape", v)
			}
		})
	}
}

// What a missing file does ends when it is there.
func TestLogsAppears(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "niodoo.log")
	cfg := only(t, "logs", fmt.Sprintf("{paths: [%q]}", path))
	s := scraper(t, cfg)
	expectFailureOf(t, s, "logs", false, ReasonNotFound, 2*time.Second)
	logsAppend(t, path, "2026-01-27T10:00:00Z ERROR gpu lost\n")
	res := scrape(t, s)
	for series, want := range map[string]float64{
		`niodoo_scrape_collector_success{collector="logs"}`:                1,
		`niodoo_logs_lines_total{file="niodoo.log",level="error"}`:         1,
		`niodoo_logs_last_error_timestamp_seconds{file="niodoo.log"}`:      1769508000,
		`niodoo_logs_matches_total{class="resources",file="niodoo.log"}`:   1,
		`niodoo_logs_matches_total{class="performance",file="niodoo.log"}`: 0,
	} {
		if v := value(t, res.Families, series); v != want {
			t.Errorf("%s is %v, want %v", series, v, want)
		}
	}
}

// Positions live on with the state file when the exporter is restarted, and in
// the collector when its connections are closed.
func TestLogsRestart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "niodoo.log")
	cfg := only(t, "logs", fmt.Sprintf("{paths: [%q], state_file: %q}", path, filepath.Join(dir, "state")))
	logsAppend(t, path, "INFO history\n")
	series := `niodoo_logs_lines_total{file="niodoo.log",level="info"}`
	old := scraperWith(t, cfg, Deps{}, Options{})
	scrape(t, old)
	logsAppend(t, path, "INFO 1\n")
	old.CloseConnections()
	if v := value(t, scrape(t, old).Families, series); v != 1 {
		t.Errorf("after closing: %v lines", v)
	}
	old.CloseConnections()
	logsAppend(t, path, "INFO 2\nINFO 3\n")
	if v := value(t, scrape(t, scraperWith(t, cfg, Deps{}, Options{})).Families, series); v != 2 {
		t.Errorf("after a restart: %v lines", v)
	}
}

func TestLogsNames(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ paths, want []string }{
		{nil, []string{}},
		{[]string{"/a/x.log", "/a/y.log"}, []string{"x.log", "y.log"}},
		{[]string{"/a/x.log", "/b/x.log", "/b/y.log"}, []string{"a/x.log", "b/x.log", "y.log"}},
		{[]string{"/1/a/x.log", "/2/a/x.log", "/2/b/x.log"}, []string{"1/a/x.log", "2/a/x.log", "b/x.log"}},
		{[]string{"/x.log", "/a/x.log"}, []string{"/x.log", "a/x.log"}},
	} {
		if got := logsNames(c.paths); !slices.Equal(got, c.want) {
			t.Errorf("%q: %q, want %q", c.paths, got, c.want)
		}
	}
}

// BenchmarkLogs is a scrape of ten logs of which one has grown by 200 lines.
func BenchmarkLogs(b *testing.B) {
	dir := b.TempDir()
	for i := range 10 {
		logsAppend(b, filepath.Join(dir, fmt.Sprint(i, ".log")), logsSample)
	}
	cfg := config.Default()
	cfg.Logs.Paths = []string{filepath.Join(dir, "*.log")}
	c, err := newLogs(cfg, Deps{}.withDefaults())
	if err != nil {
		b.Fatal(err)
	}
	defer c.(*logs).Close()
	ch := make(chan prometheus.Metric, 1000)
	grown := strings.Repeat(logsSample, 25)
	for b.Loop() {
		logsAppend(b, filepath.Join(dir, "3.log"), grown)
		if err := c.Update(context.Background(), ch); err != nil {
			b.Fatal(err)
		}
		for len(ch) > 0 {
			<-ch
		}
	}
}
