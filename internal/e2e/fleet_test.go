// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/niodoo/niodoo_exporter/internal/sim"
)

// fleetSize is the number of simulated stacks behind one exporter.
const fleetSize = 20

// A real Prometheus, with the scrape configuration of the examples, scrapes the
// exporter, and through it twenty simulated stacks, listed by hand and by /sd.
func TestPrometheusScrapesAFleet(t *testing.T) {
	services := []string{"engine", "ollama", "qdrant", "grafana", "loki"}
	ports := map[string]int{}
	for _, s := range services {
		ports[s] = freePort(t)
	}
	// One loopback address a stack: the ports are the module's, as in a fleet.
	var hosts []string
	var first *sim.Stack
	for i := range fleetSize {
		host := fmt.Sprintf("127.0.1.%d", i+1)
		st, err := sim.New(sim.Options{Seed: uint64(i), Host: host, Ports: ports, Only: services})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(st.Close)
		if first == nil {
			first = st
		}
		hosts = append(hosts, host)
	}

	dir := t.TempDir()
	cfg := filepath.Join(dir, "niodoo.yml")
	address := fmt.Sprintf("127.0.0.1:%d", freePort(t))
	write(t, cfg, exporterConfig(first, services, ports, hosts))
	Start(t, Build(t, "niodoo_exporter"), "--config.file="+cfg, "--web.listen-address="+address, "--runtime.gomaxprocs=2")
	Await(t, "the exporter answers", func() error { _, err := Get("http://" + address + "/-/ready"); return err })

	example, err := os.ReadFile(filepath.Join(Root(t), "examples", "prometheus.yml"))
	if err != nil {
		t.Fatal(err)
	}
	promConfig := filepath.Join(dir, "prometheus.yml")
	write(t, promConfig, Replaced(t, string(example), "interval: 15s", "interval: 2s",
		"localhost:10646", address, "localhost:8080", first.Address("engine"),
		`"stack-1.example.com", "stack-2.example.com"`, fmt.Sprintf("%q, %q", hosts[0], hosts[1])))
	prom := fmt.Sprintf("127.0.0.1:%d", freePort(t))
	Start(t, Tool(t, "prometheus"), "--config.file="+promConfig, "--storage.tsdb.path="+filepath.Join(dir, "data"),
		"--web.listen-address="+prom, "--log.level=warn")
	base := "http://" + prom

	// The exporter, two stacks listed, twenty discovered, and the engine's own text.
	const targets = 1 + 2 + fleetSize + 1
	Await(t, "every target is up", func() error {
		body, err := Get(base + "/api/v1/targets?state=active")
		if err != nil {
			return err
		}
		var res struct {
			Data struct {
				ActiveTargets []struct{ ScrapeURL, Health, LastError string }
			}
		}
		if err := json.Unmarshal([]byte(body), &res); err != nil {
			return err
		}
		if n := len(res.Data.ActiveTargets); n != targets {
			return fmt.Errorf("%d targets, want %d", n, targets)
		}
		for _, a := range res.Data.ActiveTargets {
			if a.Health != "up" || a.LastError != "" {
				return fmt.Errorf("%s is %s: %s", a.ScrapeURL, a.Health, a.LastError)
			}
		}
		return nil
	})

	// The two stacks that are listed as well have no cluster label: they are series of their own.
	const listed = 2
	for expr, want := range map[string]string{
		`count(probe_success{job="niodoo",cluster="east"} == 1)`:                                       fmt.Sprint(fleetSize),
		`count(probe_success{job="niodoo",cluster!="east"} == 1)`:                                      fmt.Sprint(listed),
		`count(count by (instance) (niodoo_component_up{job="niodoo"}))`:                               fmt.Sprint(fleetSize + 1),
		`sum(niodoo_component_up{cluster="east"})`:                                                     fmt.Sprint(fleetSize * len(services)),
		`count(niodoo_memory_stability_ratio{cluster="east"})`:                                         fmt.Sprint(fleetSize),
		`sum(niodoo_scrape_collector_success{cluster="east"})`:                                         fmt.Sprint(fleetSize * len(services)),
		`count({__name__=~"go_.+|process_.+|niodoo_exporter_.+",instance=~"127.0.1.+"}) or vector(0)`:  "0",
		`count({job="niodoo-engine-text",__name__=~"consciousness_.+|memory_.+|gpu_.+"}) or vector(0)`: "0",
		`count(up{job="consciousness-engine"}) or vector(0)`:                                           "0",
		// Every stack gives the same samples.
		`max(scrape_samples_scraped{cluster="east"}) - min(scrape_samples_scraped{cluster="east"})`: "0",
	} {
		Await(t, expr+" is "+want, func() error {
			got, err := Query(base, expr)
			if err != nil {
				return err
			}
			if len(got) != 1 || got[0].Number() != want {
				return fmt.Errorf("%v", got)
			}
			return nil
		})
	}
}

// exporterConfig is a fleet's configuration: the first stack is watched
// directly as well.
func exporterConfig(first *sim.Stack, services []string, ports map[string]int, hosts []string) string {
	var b strings.Builder
	b.WriteString(first.Config())
	for _, s := range []string{"postgresql", "redis", "prometheus", "host", "logs", "backup", "operations"} {
		fmt.Fprintf(&b, "%s: {enabled: false}\n", s)
	}
	b.WriteString("modules:\n  stack:\n    services:\n")
	for _, s := range services {
		fmt.Fprintf(&b, "      %s: {url: \"http://module:%d\"}\n", s, ports[s])
	}
	b.WriteString("    allow: ['127\\.0\\.1\\.\\d+']\nfleet:\n  - module: stack\n    labels: {cluster: east}\n    targets: [" + strings.Join(hosts, ", ") + "]\n")
	return b.String()
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}
