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
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/niodoo/niodoo_exporter/internal/localserver"
)

// demo runs the stack and the exporter that watches it until ctx ends.
func (o *options) demo(ctx context.Context, stdout, stderr io.Writer) error {
	var err error
	if o.exporterPath, err = findExporter(o.exporter); err != nil {
		return err
	}
	if o.exporterAddress, err = settle(o.exporterAddress); err != nil {
		return err
	}
	fmt.Fprintln(stdout, "Starting a stack of simulated services, PostgreSQL and Redis …")
	o.exporterOutput = stderr
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
	waiting, cancel := context.WithTimeout(ctx, o.timeout)
	defer cancel()
	scrape, err := l.exporter.firstGood(waiting)
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
	case err := <-l.exporter.ended:
		return fmt.Errorf("the exporter ended: %w", err)
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

// exporter is the exporter's program, which runs but for faults.
type exporter struct {
	path, config, address string
	output                io.Writer
	clock                 func() time.Duration // how far off the machine's clock may be; nil: it has the true one
	url                   string
	client                *http.Client
	ended                 chan error // how it ended, if nobody meant it to

	mu  sync.Mutex
	run *exporterRun // nil while it is stopped
}

// exporterRun is the program from its start to its end.
type exporterRun struct {
	cmd    *exec.Cmd
	meant  atomic.Bool // to end
	exited chan struct{}
}

// startExporter starts the exporter of the lab.
func (l *lab) startExporter(o *options) error {
	e := &exporter{path: o.exporterPath, config: l.path("niodoo.yml"), address: o.exporterAddress, output: o.exporterOutput, ended: make(chan error, 1),
		client: &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}} // and no proxy
	host, port, err := net.SplitHostPort(e.address)
	if err != nil {
		return err
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	e.url = "http://" + net.JoinHostPort(host, port)
	if err := os.WriteFile(e.config, []byte(l.config), 0o600); err != nil {
		return err
	}
	if l.machine != nil {
		if clockCanBeHeld() {
			e.clock = l.machine.clockOff
		} else {
			l.missing = append(l.missing, "The clock cannot be lost: this system lets nobody answer for its kernel.")
		}
	}
	l.exporter = e
	return e.start()
}

// start runs the program, with further arguments.
func (e *exporter) start(args ...string) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.run != nil {
		return nil
	}
	r := &exporterRun{exited: make(chan struct{})}
	r.cmd = exec.Command(e.path, append([]string{"--config.file=" + e.config, "--web.listen-address=" + e.address, "--log.level=warn"}, args...)...)
	r.cmd.Stdout, r.cmd.Stderr = e.output, e.output
	r.cmd.WaitDelay = 5 * time.Second
	// It dies with us, be it by SIGKILL; Ctrl-C is for us, who then stop it in order.
	r.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	serveClock := func(<-chan struct{}) {}
	if e.clock != nil {
		var err error
		if serveClock, err = clocked(r.cmd, e.clock); err != nil {
			return fmt.Errorf("holding the clock: %w", err)
		}
	}
	ended, err := localserver.StartBound(r.cmd)
	if err != nil {
		serveClock(r.exited)
		return fmt.Errorf("starting the exporter: %w", err)
	}
	e.run = r
	go serveClock(r.exited)
	go func() {
		<-ended
		err := errors.New(r.cmd.ProcessState.String())
		close(r.exited)
		if !r.meant.Load() {
			select {
			case e.ended <- err:
			default: // one end is enough
			}
		}
	}()
	e.awaitListening(r)
	return nil
}

// awaitListening waits until the program listens, has ended, or 10 s are over:
// one that is told to reload before that would end.
func (e *exporter) awaitListening(r *exporterRun) {
	address := strings.TrimPrefix(e.url, "http://")
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); {
		if c, err := net.DialTimeout("tcp", address, time.Second); err == nil {
			c.Close()
			return
		}
		select {
		case <-r.exited:
			return
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// stop ends the program in order, and by force if that takes over 10 s.
func (e *exporter) stop() { e.end(syscall.SIGTERM) }

// kill ends it as a crash would.
func (e *exporter) kill() { e.end(syscall.SIGKILL) }

func (e *exporter) end(s syscall.Signal) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.run == nil {
		return
	}
	e.run.meant.Store(true)
	_ = e.run.cmd.Process.Signal(s)
	select {
	case <-e.run.exited:
	case <-time.After(10 * time.Second):
		_ = e.run.cmd.Process.Kill()
		<-e.run.exited
	}
	e.run = nil
}

// again returns what ends the program and starts it with further arguments.
func (e *exporter) again(args ...string) func() error {
	return func() error {
		e.stop()
		return e.start(args...)
	}
}

func (e *exporter) signal(s syscall.Signal) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.run == nil {
		return nil
	}
	return e.run.cmd.Process.Signal(s)
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
		case err := <-e.ended:
			return nil, fmt.Errorf("the exporter ended: %w", err)
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
  try          niodooctl --config.file=%[3]s/niodoo.yml health

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
