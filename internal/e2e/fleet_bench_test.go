// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/niodoo/niodoo_exporter/internal/sim"
)

// BenchmarkFleet probes a thousand stacks of five HTTP services every fifteen
// seconds through one exporter, as a Prometheus would, and reports what that
// costs the exporter: processors, memory, open files, the slowest probe. Run it
// with -benchtime=1x: one iteration is three rounds.
func BenchmarkFleet(b *testing.B) {
	const (
		stacks   = 1000
		interval = 15 * time.Second
		rounds   = 3
	)
	services := []string{"engine", "ollama", "qdrant", "grafana", "prometheus"}
	stack, err := sim.New(sim.Options{Only: services})
	if err != nil {
		b.Fatal(err)
	}
	defer stack.Close()
	var hosts []string
	for i := range stacks {
		hosts = append(hosts, fmt.Sprintf("127.1.%d.%d", i/250, i%250+1))
	}
	var module strings.Builder
	for _, s := range services {
		port := echo(b, stack.URL(s), hosts)
		fmt.Fprintf(&module, "      %s: {url: \"http://module:%d\"}\n", s, port)
	}
	dir := b.TempDir()
	cfg := filepath.Join(dir, "niodoo.yml")
	text := "grafana: {url: \"" + stack.URL("grafana") + "\"}\nmodules:\n  stack:\n    services:\n" + module.String() + "    allow: ['127\\.1\\.\\d+\\.\\d+']\n"
	if err := os.WriteFile(cfg, []byte(text), 0o600); err != nil {
		b.Fatal(err)
	}
	address := fmt.Sprintf("127.0.0.1:%d", freePort(b))
	pid := Start(b, Build(b, "niodoo_exporter"), "--config.file="+cfg, "--web.listen-address="+address, "--runtime.gomaxprocs=2", "--log.level=error")
	Await(b, "the exporter answers", func() error { _, err := Get("http://" + address + "/-/ready"); return err })

	for b.Loop() {
		began, cpu := time.Now(), cpuSeconds(b, pid)
		var wg sync.WaitGroup
		took := make([]time.Duration, stacks*rounds)
		var files int
		for i := range took {
			// Spread over the interval, as Prometheus spreads its targets.
			time.Sleep(time.Until(began.Add(time.Duration(i) * interval / stacks)))
			if i == len(took)-1 {
				files = openFiles(b, pid)
			}
			wg.Go(func() {
				started := time.Now()
				body, err := Get("http://" + address + "/probe?module=stack&target=" + hosts[i%stacks])
				if err != nil || !strings.Contains(body, "probe_success 1") {
					b.Errorf("%s: %v\n%s", hosts[i%stacks], err, body)
				}
				took[i] = time.Since(started)
			})
		}
		wg.Wait()
		slices.Sort(took)
		b.ReportMetric((cpuSeconds(b, pid)-cpu)/time.Since(began).Seconds(), "cores")
		b.ReportMetric(residentMiB(b, pid), "MiB")
		b.ReportMetric(float64(files), "files")
		b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "p50-ms")
		b.ReportMetric(float64(took[len(took)-1].Microseconds())/1000, "max-ms")
	}
}

// echo answers on one port of every host what the service at base answers, from
// memory: the simulated stack must not be what is measured.
func echo(b *testing.B, base string, hosts []string) int {
	b.Helper()
	type answer struct {
		status int
		header http.Header
		body   []byte
	}
	var answers sync.Map
	srv := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a, ok := answers.Load(r.URL.RequestURI())
		if !ok {
			res, err := http.Get(base + r.URL.RequestURI())
			if err != nil {
				w.WriteHeader(http.StatusBadGateway)
				return
			}
			defer res.Body.Close()
			body, _ := io.ReadAll(res.Body)
			a = answer{res.StatusCode, res.Header, body}
			answers.Store(r.URL.RequestURI(), a)
		}
		known := a.(answer)
		w.Header().Set("Content-Type", known.header.Get("Content-Type"))
		w.WriteHeader(known.status)
		_, _ = w.Write(known.body)
	})}
	b.Cleanup(func() { srv.Close() })
	port := freePort(b)
	for _, h := range hosts {
		l, err := net.Listen("tcp", net.JoinHostPort(h, strconv.Itoa(port)))
		if err != nil {
			b.Fatal(err)
		}
		go func() { _ = srv.Serve(l) }()
	}
	return port
}

// cpuSeconds returns the processor time a process has used.
func cpuSeconds(t testing.TB, pid int) float64 {
	t.Helper()
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	fields := strings.Fields(string(raw[strings.LastIndexByte(string(raw), ')')+2:]))
	ticks := 0.0
	for _, f := range fields[11:13] { // utime, stime
		n, err := strconv.ParseFloat(f, 64)
		if err != nil {
			t.Fatal(err)
		}
		ticks += n
	}
	return ticks / 100 // USER_HZ, which Linux fixes at 100 for user space
}

// residentMiB returns a process's resident memory.
func residentMiB(t testing.TB, pid int) float64 {
	t.Helper()
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(raw)) {
		var kib float64
		if n, _ := fmt.Sscanf(line, "VmRSS: %f kB", &kib); n == 1 {
			return kib / 1024
		}
	}
	t.Fatal("no VmRSS")
	return 0
}

// openFiles returns the number of a process's open files.
func openFiles(t testing.TB, pid int) int {
	t.Helper()
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}
