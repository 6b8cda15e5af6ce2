// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// BenchmarkPrometheus measures what stacks cost a Prometheus that scrapes them
// every 15 s and evaluates the shipped rules over them: series, memory,
// processors, and the time that one evaluation of every rule takes. Run it with
// -benchtime=1x: an iteration is two minutes.
func BenchmarkPrometheus(b *testing.B) {
	raw, err := os.ReadFile(filepath.Join(Root(b), "mixin", "testdata", "scrape.prom"))
	if err != nil {
		b.Fatal(err)
	}
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; version=0.0.4")
		_, _ = w.Write(raw)
	}))
	defer web.Close()
	for _, stacks := range []int{1, 100, 1000} {
		b.Run(strconv.Itoa(stacks), func(b *testing.B) {
			dir := b.TempDir()
			var targets strings.Builder
			for i := range stacks {
				fmt.Fprintf(&targets, "      - {targets: [%q], labels: {instance: \"stack-%d\", cluster: \"east\"}}\n", strings.TrimPrefix(web.URL, "http://"), i)
			}
			config := filepath.Join(dir, "prometheus.yml")
			writeFile(b, config, fmt.Sprintf("global: {scrape_interval: 15s, evaluation_interval: 15s}\nrule_files: [%q]\nscrape_configs:\n  - job_name: niodoo\n    static_configs:\n%s",
				filepath.Join(Root(b), "rules", "[ar]*.yml"), targets.String()))
			address := fmt.Sprintf("127.0.0.1:%d", freePort(b))
			base := "http://" + address
			pid := Start(b, Tool(b, "prometheus"), "--config.file="+config, "--storage.tsdb.path="+filepath.Join(dir, "data"), "--web.listen-address="+address, "--log.level=error")
			Await(b, "every stack is scraped", func() error {
				got, err := Query(base, `count(up == 1)`)
				if err == nil && (len(got) == 0 || got[0].Number() != strconv.Itoa(stacks)) {
					err = fmt.Errorf("%v", got)
				}
				return err
			})
			for b.Loop() {
				began, cpu := time.Now(), cpuSeconds(b, pid)
				time.Sleep(2 * time.Minute) // what is measured is a time
				b.ReportMetric((cpuSeconds(b, pid)-cpu)/time.Since(began).Seconds(), "cores")
				b.ReportMetric(residentMiB(b, pid), "MiB")
				b.ReportMetric(one(b, base, `count({job="niodoo"})`)/float64(stacks), "series/stack")
				b.ReportMetric(one(b, base, `sum(scrape_samples_scraped)`)/float64(stacks), "samples/stack")
				// Prometheus does not scrape itself here: its own page is read.
				b.ReportMetric(ruleSeconds(b, base)*1000, "rules-ms")
			}
		})
	}
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

// ruleSeconds returns how long the last evaluation of all groups took together.
func ruleSeconds(b *testing.B, base string) float64 {
	b.Helper()
	body, err := Get(base + "/metrics")
	if err != nil {
		b.Fatal(err)
	}
	total := 0.0
	for line := range strings.Lines(body) {
		if strings.HasPrefix(line, "prometheus_rule_group_last_duration_seconds{") {
			v, err := strconv.ParseFloat(strings.TrimSpace(line[strings.LastIndex(line, " ")+1:]), 64)
			if err != nil {
				b.Fatal(err)
			}
			total += v
		}
	}
	return total
}
