// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// BenchmarkPrometheus measures what stacks in which nothing is wrong cost a
// Prometheus that scrapes them every 15 s and evaluates the shipped rules over
// them: series, memory, processors, and the time that the rules take. It
// evaluates them every 15 s, too, or as often as they can be. Run it with
// -benchtime=1x: an iteration is two minutes, after some of warming up.
func BenchmarkPrometheus(b *testing.B) {
	web := httptest.NewServer(wellStack(b))
	defer web.Close()
	for _, stacks := range []int{1, 100, 1000} {
		b.Run(strconv.Itoa(stacks), func(b *testing.B) {
			s := startScaled(b, strings.TrimPrefix(web.URL, "http://"), stacks)
			s.fit(b)
			for b.Loop() {
				s.measure(b)
			}
		})
	}
}

// wellStack answers with the recorded scrape as if it had been made now, so that
// nothing is old, and without the one thing that is wrong with it.
func wellStack(b *testing.B) http.Handler {
	b.Helper()
	raw, err := os.ReadFile(filepath.Join(Root(b), "mixin", "testdata", "scrape.prom"))
	if err != nil {
		b.Fatal(err)
	}
	text := Replaced(b, string(raw), `niodoo_backup_same_device{source="data"} 1`, `niodoo_backup_same_device{source="data"} 0`)
	var recorded int64
	if _, err := fmt.Sscanf(text, "# Scraped at %d.", &recorded); err != nil {
		b.Fatalf("the scrape's first line does not say when it was made: %v", err)
	}
	moments := regexp.MustCompile(`(?m)^(\w+_timestamp_seconds(?:\{.*\})?) (\S+)$`)
	var mu sync.Mutex
	var made int64
	var page []byte
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		mu.Lock()
		if now := time.Now().Unix(); now != made {
			made = now
			page = moments.ReplaceAllFunc([]byte(text), func(line []byte) []byte {
				m := moments.FindSubmatch(line)
				v, err := strconv.ParseFloat(string(m[2]), 64)
				if err != nil {
					b.Errorf("%s: %v", line, err)
				}
				return fmt.Appendf(nil, "%s %.3f", m[1], v+float64(now-recorded))
			})
		}
		answer := page
		mu.Unlock()
		w.Header().Set("Content-Type", "text/plain; version=0.0.4")
		_, _ = w.Write(answer)
	})
}

// scaledServer is a Prometheus that watches many stacks.
type scaledServer struct {
	base, config string
	pid, stacks  int
	targets      string
	interval     time.Duration // at which it evaluates the rules
}

// warm bounds the wait for a Prometheus that has much to do.
const warm = 5 * time.Minute

// startScaled starts a Prometheus and waits until it has scraped every stack.
func startScaled(b *testing.B, address string, stacks int) *scaledServer {
	b.Helper()
	dir := b.TempDir()
	listen := fmt.Sprintf("127.0.0.1:%d", freePort(b))
	s := &scaledServer{base: "http://" + listen, config: filepath.Join(dir, "prometheus.yml"), stacks: stacks, interval: 15 * time.Second}
	var targets strings.Builder
	for i := range stacks {
		fmt.Fprintf(&targets, "      - {targets: [%q], labels: {instance: \"stack-%d\", cluster: \"east\"}}\n", address, i)
	}
	s.targets = targets.String()
	s.configure(b)
	s.pid = Start(b, Tool(b, "prometheus"), "--config.file="+s.config, "--storage.tsdb.path="+filepath.Join(dir, "data"), "--web.listen-address="+listen, "--log.level=error")
	awaitFor(b, warm, "every stack is scraped", func() error {
		got, err := Query(s.base, `count(up == 1)`)
		if err == nil && (len(got) == 0 || got[0].Number() != strconv.Itoa(stacks)) {
			err = fmt.Errorf("%v", got)
		}
		return err
	})
	return s
}

func (s *scaledServer) configure(b *testing.B) {
	b.Helper()
	writeFile(b, s.config, fmt.Sprintf("global: {scrape_interval: 15s, evaluation_interval: %s}\nrule_files: [%q]\nscrape_configs:\n  - job_name: niodoo\n    static_configs:\n%s",
		s.interval, filepath.Join(Root(b), "rules", "[ar]*.yml"), s.targets))
}

// fit waits until every rule has been evaluated over every stack, and gives the
// rules more time between evaluations if one group needs more than there is.
func (s *scaledServer) fit(b *testing.B) {
	b.Helper()
	s.evaluated(b)
	s.evaluated(b) // the first one made the series that the second reads
	shipped := s.interval
	for slowest := s.slowest(b); s.interval.Seconds() < 1.25*slowest; {
		s.interval *= 2
	}
	if s.interval == shipped {
		return
	}
	s.configure(b)
	if err := syscall.Kill(s.pid, syscall.SIGHUP); err != nil {
		b.Fatal(err)
	}
	awaitFor(b, warm, "the rules are evaluated less often", func() error {
		for group, seconds := range s.groups(b, "prometheus_rule_group_interval_seconds") {
			if seconds != s.interval.Seconds() {
				return fmt.Errorf("%s every %g s", group, seconds)
			}
		}
		return nil
	})
	s.evaluated(b)
}

// evaluated waits until every group has had an evaluation that began after now.
func (s *scaledServer) evaluated(b *testing.B) {
	b.Helper()
	began := float64(time.Now().UnixMilli()) / 1000
	awaitFor(b, warm+2*s.interval, "every group of rules is evaluated", func() error {
		groups := s.groups(b, "prometheus_rule_group_last_evaluation_timestamp_seconds")
		for group, at := range groups {
			if at < began {
				return fmt.Errorf("%s is not", group)
			}
		}
		if len(groups) == 0 {
			return errors.New("there are none")
		}
		return nil
	})
}

// measure reports what the server needs in two minutes or, where that is longer,
// until every group has been evaluated.
func (s *scaledServer) measure(b *testing.B) {
	b.Helper()
	began, cpu := time.Now(), cpuSeconds(b, s.pid)
	took, evaluations, missed := s.total(b, "prometheus_rule_group_duration_seconds_sum"), s.total(b, "prometheus_rule_group_duration_seconds_count"), s.total(b, "prometheus_rule_group_iterations_missed_total")
	time.Sleep(2*time.Minute - s.interval) // what is measured is a time
	s.evaluated(b)
	b.ReportMetric((cpuSeconds(b, s.pid)-cpu)/time.Since(began).Seconds(), "cores")
	b.ReportMetric(residentMiB(b, s.pid), "MiB")
	groups := float64(len(s.groups(b, "prometheus_rule_group_interval_seconds")))
	evaluations = s.total(b, "prometheus_rule_group_duration_seconds_count") - evaluations
	b.ReportMetric((s.total(b, "prometheus_rule_group_duration_seconds_sum")-took)/evaluations*groups, "rules-s")
	b.ReportMetric(s.slowest(b), "slowest-group-s")
	b.ReportMetric(s.interval.Seconds(), "interval-s")
	b.ReportMetric(s.total(b, "prometheus_rule_group_iterations_missed_total")-missed, "missed")
	b.ReportMetric(one(b, s.base, `count({job="niodoo"})`)/float64(s.stacks), "series/stack")
	b.ReportMetric(one(b, s.base, `sum(scrape_samples_scraped)`)/float64(s.stacks), "samples/stack")
	if failed := s.total(b, "prometheus_rule_evaluation_failures_total"); failed > 0 {
		b.Errorf("%g evaluations failed", failed)
	}
	if alerts, err := Query(s.base, `count by (alertname) (ALERTS{alertname!="Watchdog"})`); err != nil || len(alerts) > 0 {
		b.Errorf("the stacks are not well: %v %v", alerts, err)
	}
}

// slowest returns how long the slowest group's last evaluation took, in seconds.
func (s *scaledServer) slowest(b *testing.B) float64 {
	b.Helper()
	return slices.Max(slices.Collect(maps.Values(s.groups(b, "prometheus_rule_group_last_duration_seconds"))))
}

// total returns the sum of a metric of Prometheus' own.
func (s *scaledServer) total(b *testing.B, metric string) float64 {
	b.Helper()
	sum := 0.0
	for _, v := range s.groups(b, metric) {
		sum += v
	}
	return sum
}

// groups returns the values of a metric of Prometheus' own by their labels. It
// does not scrape itself here: its page is read.
func (s *scaledServer) groups(b *testing.B, metric string) map[string]float64 {
	b.Helper()
	page, err := Get(s.base + "/metrics")
	if err != nil {
		b.Fatal(err)
	}
	values := map[string]float64{}
	for _, m := range regexp.MustCompile(`(?m)^`+metric+`(\{.*\})? (\S+)$`).FindAllStringSubmatch(page, -1) {
		if values[m[1]], err = strconv.ParseFloat(m[2], 64); err != nil {
			b.Fatal(err)
		}
	}
	return values
}

// one returns the only value of a query.
func one(b *testing.B, base, expr string) float64 {
	b.Helper()
	got, err := Query(base, expr)
	if err == nil && len(got) != 1 {
		err = errors.New("not one value")
	}
	if err != nil {
		b.Fatalf("%s: %v %v", expr, got, err)
	}
	v, err := strconv.ParseFloat(got[0].Number(), 64)
	if err != nil {
		b.Fatal(err)
	}
	return v
}
