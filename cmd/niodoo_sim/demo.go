// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// demo runs the stack and the exporter that watches it until ctx ends.
func (o *options) demo(ctx context.Context, stdout, stderr io.Writer) error {
	path, err := findExporter(o.exporter)
	if err != nil {
		return err
	}
	if o.exporterAddress, err = settle(o.exporterAddress); err != nil {
		return err
	}
	fmt.Fprintln(stdout, "Starting a stack of simulated services, PostgreSQL and Redis …")
	l, err := o.start(ctx)
	if err != nil {
		if ctx.Err() != nil {
			return nil // interrupted
		}
		return err
	}
	defer l.stop()
	for _, line := range l.missing {
		fmt.Fprintln(stdout, line)
	}
	config := l.path("niodoo.yml")
	if err := os.WriteFile(config, []byte(l.config), 0o600); err != nil {
		return err
	}
	exporter, err := startExporter(path, config, o.exporterAddress, stderr)
	if err != nil {
		return err
	}
	defer exporter.stop()

	waiting, cancel := context.WithTimeout(ctx, o.timeout)
	defer cancel()
	scrape, err := exporter.firstGood(waiting)
	switch {
	case ctx.Err() != nil:
		return nil
	case err != nil && scrape == nil:
		return err
	}
	l.report(stdout, o.exporterAddress, scrape)
	if o.once || err != nil {
		return err
	}
	fmt.Fprintln(stdout, "\nCtrl-C stops everything.")
	select {
	case <-ctx.Done():
		fmt.Fprintln(stdout, "Stopping …")
		return nil
	case <-exporter.exited:
		return fmt.Errorf("the exporter ended: %w", exporter.err)
	}
}

// findExporter finds the exporter where the user says, next to us, or in PATH.
func findExporter(path string) (string, error) {
	const name = "niodoo_exporter"
	if path == "" {
		if self, err := os.Executable(); err == nil {
			if beside := filepath.Join(filepath.Dir(self), name); isProgram(beside) {
				return beside, nil
			}
		}
		path = name
	}
	found, err := exec.LookPath(path)
	if err != nil {
		return "", fmt.Errorf("the exporter was not found (%w): build it, or name it with --exporter", err)
	}
	return filepath.Abs(found)
}

func isProgram(path string) bool {
	st, err := os.Stat(path)
	return err == nil && st.Mode().IsRegular() && st.Mode()&0o111 != 0
}

// settle turns a port of 0 into one that was free a moment ago.
func settle(address string) (string, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return "", fmt.Errorf("--exporter-address: %w", err)
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return "", fmt.Errorf("the exporter cannot listen there (choose another with --exporter-address): %w", err)
	}
	defer l.Close()
	if port != "0" {
		return address, nil
	}
	_, port, err = net.SplitHostPort(l.Addr().String())
	return net.JoinHostPort(host, port), err
}

// exporter is the running exporter.
type exporter struct {
	cmd    *exec.Cmd
	url    string
	client *http.Client
	exited chan struct{}
	err    error // how it ended
}

func startExporter(path, config, address string, stderr io.Writer) (*exporter, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	e := &exporter{url: "http://" + net.JoinHostPort(host, port), exited: make(chan struct{}),
		client: &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}} // and no proxy
	e.cmd = exec.Command(path, "--config.file="+config, "--web.listen-address="+address, "--log.level=warn")
	e.cmd.Stdout, e.cmd.Stderr = stderr, stderr
	e.cmd.WaitDelay = 5 * time.Second
	// It dies with us, be it by SIGKILL; Ctrl-C is for us, who then stop it in order.
	e.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	if err := e.cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting the exporter: %w", err)
	}
	go func() {
		e.err = e.cmd.Wait()
		if e.err == nil {
			e.err = errors.New("exit status 0")
		}
		close(e.exited)
	}()
	return e, nil
}

// stop ends the exporter in order, and by force if that takes over 10 s.
func (e *exporter) stop() {
	_ = e.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-e.exited:
	case <-time.After(10 * time.Second):
		_ = e.cmd.Process.Kill()
		<-e.exited
	}
}

// firstGood scrapes until every required component is up. When time runs out
// it returns the last scrape, if there was one, and what was wrong with it.
func (e *exporter) firstGood(ctx context.Context) ([]string, error) {
	var last []string
	err := errors.New("the exporter did not answer")
	for wait := 20 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		lines, scrapeErr := e.scrape(ctx)
		switch {
		case scrapeErr == nil:
			last = lines
			bad := down(lines)
			if len(bad) == 0 {
				return lines, nil
			}
			err = fmt.Errorf("not every required component is up: %s", strings.Join(bad, ", "))
		case ctx.Err() == nil:
			err = scrapeErr
		}
		select {
		case <-ctx.Done():
			return last, fmt.Errorf("no good scrape in time: %w", err)
		case <-e.exited:
			return nil, fmt.Errorf("the exporter ended: %w", e.err)
		case <-time.After(wait):
		}
	}
}

// maxScrape bounds what is read of a scrape, in bytes.
const maxScrape = 32 << 20

func (e *exporter) scrape(ctx context.Context) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, e.url+"/metrics", nil)
	if err != nil {
		return nil, err
	}
	res, err := e.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the exporter answered HTTP status %d", res.StatusCode)
	}
	var lines []string
	s := bufio.NewScanner(io.LimitReader(res.Body, maxScrape))
	s.Buffer(nil, 1<<20)
	for s.Scan() {
		if !strings.HasPrefix(s.Text(), "#") {
			lines = append(lines, s.Text())
		}
	}
	return lines, s.Err()
}

// down returns the required components that are not up. A scrape that says
// nothing of any component is no good scrape.
func down(lines []string) []string {
	var bad []string
	up := map[string]bool{}
	for _, l := range lines {
		if series, ok := strings.CutSuffix(l, " 1"); ok {
			up[series] = true
		}
	}
	required := 0
	for series := range up {
		component, ok := strings.CutPrefix(series, "niodoo_component_required{")
		if !ok {
			continue
		}
		required++
		if !up["niodoo_component_up{"+component] {
			bad = append(bad, strings.Trim(strings.TrimPrefix(component, "component="), `"}`))
		}
	}
	if required == 0 {
		return []string{"none is reported"}
	}
	slices.Sort(bad)
	return bad
}

// excerpt are the series worth showing, by the beginning of their lines.
var excerpt = []string{
	"niodoo_component_up{", "niodoo_scrape_collector_failure_info{",
	"niodoo_consciousness_events_total", "niodoo_consciousness_processing_time_seconds", "niodoo_consciousness_toroidal_coherence_score", "niodoo_consciousness_level_ratio",
	"niodoo_memory_stability_ratio", "niodoo_memory_layer_entries{", "niodoo_memory_consolidations_per_hour",
	"niodoo_engine_requests_per_second", "niodoo_engine_component_healthy{", "niodoo_engine_cache_hit_ratio",
	"niodoo_postgresql_login_success", "niodoo_ollama_required_model_available{", "niodoo_qdrant_collection_vector_size_mismatch{",
}

// report says where to look and what the scrape has.
func (l *lab) report(w io.Writer, address string, lines []string) {
	fmt.Fprintf(w, `
The exporter watches the stack.

  metrics      http://%[1]s/metrics
  status       http://%[1]s/
  faults       curl http://%[2]s/faults
               curl -X PUT http://%[2]s/faults/engine-hanging
               curl -X DELETE http://%[2]s/faults/engine-hanging
  directory    %[3]s (niodoo.yml, logs, backups)

From its %[4]d series:

`, address, l.control.Address, l.dir, len(lines))
	for _, prefix := range excerpt {
		for _, line := range lines {
			if strings.HasPrefix(line, prefix) {
				fmt.Fprintln(w, "  "+line)
			}
		}
	}
}
