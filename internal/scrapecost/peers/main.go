// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

// Command peers compares what a scrape of one and the same stack costs
// niodoo_exporter, and the exporters of node, PostgreSQL, Redis and blackbox
// probes together, whose programs it takes from a folder.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/niodoo/niodoo_exporter/internal/scrapecost"
)

func main() {
	programs := flag.String("programs", "/usr/bin", "folder with the other exporters' programs, named as Debian names them")
	scrapes := flag.Int("scrapes", 300, "scrapes of each exporter")
	rounds := flag.Int("rounds", 6, "rounds to take turns in; a busy machine then burdens all alike")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := compare(ctx, os.Stdout, *programs, max(*scrapes/max(*rounds, 1), 1), max(*rounds, 1))
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "peers:", err)
		os.Exit(1)
	}
}

// launch is how an exporter is started and asked.
type launch struct {
	path string
	env  []string
	args []string
	urls []string // paths
}

// launches are niodoo_exporter and then its peers.
func launches(s *scrapecost.Stack, own, config, programs string) []launch {
	const listen = "--web.listen-address={address}"
	var probes []string
	for _, svc := range scrapecost.Services {
		probes = append(probes, "/probe?"+url.Values{"module": {"http_2xx"}, "target": {s.HTTP.URL(svc.Name) + svc.Health}}.Encode())
	}
	debian := func(name string) string { return filepath.Join(programs, "prometheus-"+name) }
	metrics := []string{"/metrics"}
	return []launch{
		{own, nil, []string{listen, "--config.file=" + config}, metrics},
		{debian("node-exporter"), nil, []string{listen}, metrics},
		{debian("postgres-exporter"), []string{"DATA_SOURCE_NAME=" + s.DataSource()}, []string{listen}, metrics},
		{debian("redis-exporter"), nil, []string{listen, "--redis.addr=redis://" + s.Redis.Addr}, metrics},
		{debian("blackbox-exporter"), nil, []string{listen, "--config.file=" + config + ".blackbox"}, probes},
	}
}

// blackbox is the module that Debian configures, on loopback.
const blackbox = "modules: {http_2xx: {prober: http, http: {preferred_ip_protocol: ip4}}}\n"

func compare(ctx context.Context, w io.Writer, programs string, each, rounds int) (err error) {
	dir, err := os.MkdirTemp("", "peers")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	own, err := scrapecost.Build(ctx, ".", "niodoo_exporter", dir)
	if err != nil {
		return err
	}
	stack, err := scrapecost.StartStack(ctx)
	if err != nil {
		return err
	}
	defer stack.Close()
	config, err := stack.Config("")
	if err != nil {
		return err
	}
	if err := os.WriteFile(config+".blackbox", []byte(blackbox), 0o600); err != nil {
		return err
	}
	client := scrapecost.NewClient()
	defer client.Close()
	var all []*scrapecost.Subject
	for _, l := range launches(stack, own, config, programs) {
		p, err := scrapecost.StartProgram(ctx, l.path, l.env, l.args...)
		if err != nil {
			return err
		}
		defer p.Stop()
		s := &scrapecost.Subject{Program: p}
		for _, path := range l.urls {
			s.URLs = append(s.URLs, p.URL(path))
		}
		all = append(all, s)
	}
	for round := range rounds + 1 {
		for _, s := range all {
			if err := s.Scrape(ctx, client, each); err != nil {
				return err
			}
			if round == 0 { // warm by now
				s.Forget()
			}
		}
	}
	for _, s := range all {
		if err := s.CountSeries(ctx, client); err != nil {
			return err
		}
	}
	return report(w, all)
}

// row is a line of the table.
type row struct {
	name     string
	cpu      time.Duration
	memory   scrapecost.Memory
	p50, p99 time.Duration
	series   int
}

func report(w io.Writer, all []*scrapecost.Subject) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "exporter\tCPU ms/scrape\tRSS MiB\tof it anonymous\twall p50 ms\tp99 ms\tseries\t")
	line := func(r row) {
		ms := func(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
		mib := func(b int64) float64 { return float64(b) / (1 << 20) }
		fmt.Fprintf(t, "%s\t%.2f\t%.1f\t%.1f\t%.2f\t%.2f\t%d\t\n", r.name, ms(r.cpu), mib(r.memory.Resident), mib(r.memory.Anonymous),
			ms(r.p50), ms(r.p99), r.series)
	}
	var ours row
	peers := row{name: "the four together"}
	for i, s := range all {
		m, err := s.Memory()
		if err != nil {
			return err
		}
		r := row{s.Name, s.PerScrape(), m, s.Wall(0.5), s.Wall(0.99), s.Series}
		line(r)
		if i == 0 {
			ours = r
			continue
		}
		peers.cpu += r.cpu
		peers.memory.Resident += m.Resident
		peers.memory.Anonymous += m.Anonymous
		peers.p50 = max(peers.p50, r.p50) // Prometheus asks them at the same time
		peers.p99 = max(peers.p99, r.p99)
		peers.series += r.series
	}
	line(peers)
	if err := t.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(w, "\n%d scrapes each. %s takes %.3f of the CPU time and %.3f of the memory of the four.\n", all[0].Scrapes, ours.name,
		float64(ours.cpu)/float64(peers.cpu), float64(ours.memory.Resident)/float64(peers.memory.Resident))
	return err
}
