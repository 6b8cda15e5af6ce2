// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/niodoo/niodoo_exporter/internal/config"
	"github.com/niodoo/niodoo_exporter/internal/sim"
)

// asProgram makes the test's binary be niodoo_sim: its guardian and its end by
// a signal can only be seen from outside.
const asProgram = "NIODOO_SIM_TEST_AS_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		main()
		return
	}
	goleak.VerifyTestMain(m)
}

// program is a running niodoo_sim.
type program struct {
	t      *testing.T
	cmd    *exec.Cmd
	dir    string // its temporary directory
	lines  chan string
	output strings.Builder // what was taken from lines
	stderr bytes.Buffer
}

// launch starts niodoo_sim with a temporary directory of its own.
func launch(t *testing.T, args ...string) *program {
	t.Helper()
	// A short path, for sockets, that the database's user may pass.
	dir, err := os.MkdirTemp("/tmp", "sim")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	p := &program{t: t, dir: dir, lines: make(chan string, 10_000)}
	p.cmd = exec.Command(os.Args[0], args...)
	p.cmd.Env = append(os.Environ(), asProgram+"=1", "TMPDIR="+dir)
	p.cmd.Stderr = &p.stderr
	p.cmd.WaitDelay = 10 * time.Second
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.lines)
		for s := bufio.NewScanner(out); s.Scan(); {
			p.lines <- s.Text()
		}
	}()
	t.Cleanup(func() {
		if p.cmd.ProcessState == nil {
			p.end(syscall.SIGTERM)
		}
	})
	return p
}

// until reads the output up to a line that matches and returns its submatches.
func (p *program) until(pattern string) []string {
	p.t.Helper()
	re := regexp.MustCompile(pattern)
	timeout := time.After(2 * time.Minute)
	for {
		select {
		case line, ok := <-p.lines:
			if !ok {
				err := p.cmd.Wait()
				p.t.Fatalf("it ended (%v) without a line like %s:\n%s%s", err, pattern, p.output.String(), p.stderr.String())
			}
			p.output.WriteString(line + "\n")
			if m := re.FindStringSubmatch(line); m != nil {
				return m
			}
		case <-timeout:
			p.t.Fatalf("no line like %s in time:\n%s%s", pattern, p.output.String(), p.stderr.String())
		}
	}
}

// end sends a signal and waits for the end of the program and of its output.
func (p *program) end(s syscall.Signal) error {
	_ = p.cmd.Process.Signal(s)
	for line := range p.lines {
		p.output.WriteString(line + "\n")
	}
	return p.cmd.Wait()
}

// await waits for a condition.
func await(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !condition(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

// leftBehind is what is still in the program's temporary directory.
func (p *program) leftBehind() []string {
	entries, err := os.ReadDir(p.dir)
	if err != nil {
		p.t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// processes are the processes whose command line has a text.
func processes(t *testing.T, text string) []string {
	t.Helper()
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, d := range dirs {
		raw, err := os.ReadFile(filepath.Join(d, "cmdline"))
		if err == nil && bytes.Contains(raw, []byte(text)) {
			found = append(found, string(bytes.ReplaceAll(raw, []byte{0}, []byte{' '})))
		}
	}
	return found
}

func TestUsage(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		args           []string
		code           int
		stdout, stderr string
	}{
		{[]string{"faults"}, exitOK, "engine-hanging", ""},
		{[]string{"faults"}, exitOK, "postgresql-stopped", ""},
		{[]string{"--help"}, exitOK, "usage: niodoo_sim", ""},
		{[]string{"--version"}, exitOK, "niodoo_sim, version", ""},
		{[]string{"no-such"}, exitUsage, "", "no-such"},
		{nil, exitOK, "usage: niodoo_sim", ""},
		{[]string{"run", "--engine.health=telegram"}, exitUsage, "", "telegram"},
		{[]string{"run", "--port-offset=70000"}, exitUsage, "", "--port-offset 70000 gives"},
		{[]string{"run", "--port-offset=1", "--free-ports"}, exitUsage, "", "exclude each other"},
		{[]string{"demo", "--exporter=/no/such"}, exitFailed, "", "name it with --exporter"},
		{[]string{"demo", "--exporter=" + os.Args[0], "--exporter-address=nonsense"}, exitFailed, "", "--exporter-address"},
	} {
		var stdout, stderr bytes.Buffer
		code := run(context.Background(), test.args, strings.NewReader(""), &stdout, &stderr)
		if code != test.code || !strings.Contains(stdout.String(), test.stdout) || !strings.Contains(stderr.String(), test.stderr) {
			t.Errorf("%q: exit code %d, want %d; wrote\n%s%s", test.args, code, test.code, stdout.String(), stderr.String())
		}
	}
}

// TestRun: the stack runs with a configuration that the exporter takes, and
// leaves nothing behind.
func TestRun(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "niodoo.yml")
	p := launch(t, "run", "--free-ports", "--control-address=127.0.0.1:0", "--config.out="+file, "--fault=grafana-503", "--services=engine,grafana")
	url := p.until(`^faults +(http://\S+)$`)[1]
	cfg, err := config.Load(file)
	if err != nil {
		t.Fatal(err)
	}
	if !cfg.Enabled("engine") || cfg.Enabled("postgresql") || cfg.Enabled("redis") {
		t.Error("the configuration should have the engine and no databases")
	}
	if status, _ := fetch(t, "GET", cfg.Grafana.URL+"/api/health"); status != 503 {
		t.Errorf("Grafana with a fault from the beginning: %d", status)
	}
	if status, _ := fetch(t, "DELETE", url+"/grafana-503"); status != 200 {
		t.Errorf("lifting it: %d", status)
	}
	if status, _ := fetch(t, "GET", cfg.Grafana.URL+"/api/health"); status != 200 {
		t.Errorf("Grafana without it: %d", status)
	}
	for _, glob := range append(cfg.Logs.Paths, cfg.Backup.Directory+"/*.tar.gz") {
		await(t, "a file like "+glob, func() bool { m, _ := filepath.Glob(glob); return len(m) > 0 })
	}
	if err := p.end(syscall.SIGTERM); err != nil {
		t.Errorf("it ended with %v: %s", err, p.stderr.String())
	}
	if left := p.leftBehind(); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

// TestRunFails: a start that fails half way leaves nothing behind either.
func TestRunFails(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for _, arg := range []string{"--fault=no-such", "--control-address=" + taken.Addr().String(), "--services=no-such", "--engine.token-file=/no/such", "--config.out=/no/such/file"} {
		control := "--control-address=127.0.0.1:0"
		if strings.HasPrefix(arg, "--control") {
			control = "--seed=1"
		}
		p := launch(t, "run", "--free-ports", control, arg)
		for range p.lines {
		}
		var exit *exec.ExitError
		if err := p.cmd.Wait(); !errors.As(err, &exit) || exit.ExitCode() != exitFailed || !strings.HasPrefix(p.stderr.String(), "niodoo_sim: ") {
			t.Errorf("%s: %v, %s", arg, err, p.stderr.String())
		}
		if left := p.leftBehind(); len(left) > 0 {
			t.Errorf("%s: left behind: %q", arg, left)
		}
	}
}

// TestKilled: killed with all its servers running, it leaves no process and no
// directory behind.
func TestKilled(t *testing.T) {
	t.Parallel()
	p := launch(t, "run", "--free-ports", "--databases", "--control-address=127.0.0.1:0")
	p.until(`^faults `)
	if len(processes(t, p.dir)) == 0 && !strings.Contains(p.output.String(), "not installed") {
		t.Error("no server runs in its directory")
	}
	var exit *exec.ExitError
	if err := p.end(syscall.SIGKILL); !errors.As(err, &exit) {
		t.Errorf("it ended with %v", err)
	}
	await(t, "its processes end", func() bool { return len(processes(t, p.dir)) == 0 })
	await(t, "its directories are removed", func() bool { return len(p.leftBehind()) == 0 })
}

// fetch returns an answer's status and body.
func fetch(t *testing.T, method, url string, header ...string) (int, string) {
	t.Helper()
	transport := &http.Transport{DisableKeepAlives: true}
	req, err := http.NewRequest(method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err := (&http.Client{Transport: transport, Timeout: 30 * time.Second}).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	raw, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(raw)
}

// buildExporter builds the real exporter.
func buildExporter(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "niodoo_exporter")
	if out, err := exec.Command("go", "build", "-o", path, "../niodoo_exporter").CombinedOutput(); err != nil {
		t.Fatalf("building the exporter: %v\n%s", err, out)
	}
	return path
}

// TestDemoOnce: the demo shows a good scrape and is gone without a trace.
func TestDemoOnce(t *testing.T) {
	t.Parallel()
	p := launch(t, "demo", "--once", "--exporter="+buildExporter(t), "--exporter-address=127.0.0.1:0")
	p.until(`niodoo_component_up\{component="engine"\} 1`)
	p.until(`niodoo_memory_stability_ratio 0\.99`)
	if err := p.end(0); err != nil {
		t.Errorf("it ended with %v:\n%s%s", err, p.output.String(), p.stderr.String())
	}
	if left := p.leftBehind(); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

// TestDemoFaults holds the exporter, in the demo, to what its contract says of
// each condition: a fault of one component changes that component alone.
func TestDemoFaults(t *testing.T) {
	t.Parallel()
	p := launch(t, "demo", "--exporter="+buildExporter(t), "--exporter-address=127.0.0.1:0")
	metrics := p.until(`^  metrics +(\S+)$`)[1]
	faults := p.until(`^  faults +curl (\S+)$`)[1]
	p.until(`^Ctrl-C`)

	scrape := func() string {
		status, body := fetch(t, "GET", metrics, "X-Prometheus-Scrape-Timeout-Seconds", "2")
		if status != 200 {
			t.Fatalf("a scrape was answered %d", status)
		}
		return body
	}
	has := func(scrape, format string, args ...any) bool {
		return strings.Contains(scrape, fmt.Sprintf(format, args...)+"\n")
	}
	var components []string
	for _, m := range regexp.MustCompile(`(?m)^niodoo_component_up\{component="(\w+)"\}`).FindAllStringSubmatch(scrape(), -1) {
		components = append(components, m[1])
	}
	if len(components) < 10 {
		t.Fatalf("only %q", components)
	}
	// try injects a fault and holds each component to up or down.
	try := func(component, fault string, up int, reason string) {
		t.Helper()
		if status, body := fetch(t, "PUT", faults+"/"+component+"-"+fault); status != 200 {
			t.Errorf("injecting %s: %d %s", fault, status, body)
			return
		}
		await(t, fmt.Sprintf("%s-%s shows as up %d, reason %s", component, fault, up, reason), func() bool {
			s := scrape()
			return has(s, `niodoo_component_up{component=%q} %d`, component, up) &&
				has(s, `niodoo_scrape_collector_failure_info{collector=%q,reason=%q} 1`, component, reason)
		})
		// On a busy machine one scrape may be late; all of them are not.
		var s string
		fastest := time.Hour
		for range 3 {
			begin := time.Now()
			s = scrape()
			if fastest = min(fastest, time.Since(begin)); fastest < 2*time.Second {
				break
			}
		}
		if fastest >= 2*time.Second {
			t.Errorf("%s-%s: a scrape takes %s", component, fault, fastest)
		}
		for _, other := range components {
			if other != component && !has(s, `niodoo_component_up{component=%q} 1`, other) {
				t.Errorf("%s-%s: %s is not up", component, fault, other)
			}
		}
		if status, body := fetch(t, "DELETE", faults+"/"+component+"-"+fault); status != 200 {
			t.Errorf("lifting %s: %d %s", fault, status, body)
		}
		await(t, fmt.Sprintf("%s is well after %s", component, fault), func() bool {
			s := scrape()
			return has(s, `niodoo_component_up{component=%q} 1`, component) && has(s, `niodoo_scrape_collector_success{collector=%q} 1`, component)
		})
	}
	for _, c := range components {
		if c == "redis" && strings.Contains(p.output.String(), "embedded") {
			continue
		}
		try(c, "stopped", 0, "refused")
	}
	for _, test := range []struct {
		fault  string
		up     int
		reason string
	}{
		{"hanging", 0, "timeout"}, {"503", 0, "not_ready"}, {"500", 0, "http_status"}, {"401", 1, "auth"}, {"429", 1, "rate_limited"},
		{"login-page", 0, "parse"}, {"truncated", 0, "parse"}, {"reset", 0, "protocol"}, {"huge", 0, "too_large"}, {"unhealthy", 0, "unhealthy"},
	} {
		try("engine", test.fault, test.up, test.reason)
	}
	if slices.Contains(components, "postgresql") {
		try("postgresql", "hanging", 0, "timeout")
	}

	if err := p.end(os.Interrupt.(syscall.Signal)); err != nil {
		t.Errorf("it ended with %v:\n%s%s", err, p.output.String(), p.stderr.String())
	}
	if left := p.leftBehind(); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

// TestLaboratory injects every fault of what is not simulated, one after the
// other and then all that can be together, and lifts them: all is well again.
func TestLaboratory(t *testing.T) {
	t.Parallel()
	p := launch(t, "demo", "--machine", "--exporter="+buildExporter(t), "--exporter-address=127.0.0.1:0")
	metrics := p.until(`^  metrics +(\S+)$`)[1]
	control := p.until(`^  faults +curl (\S+)$`)[1]
	p.until(`^Ctrl-C`)
	var known []struct{ Name string }
	if status, body := fetch(t, "GET", control); status != 200 || json.Unmarshal([]byte(body), &known) != nil {
		t.Fatalf("%d %s", status, body)
	}
	set := func(method, name string) {
		t.Helper()
		if status, body := fetch(t, method, control+"/"+name); status != 200 {
			t.Errorf("%s %s: %d %s", method, name, status, body)
		}
	}
	well := func() {
		t.Helper()
		await(t, "all is well", func() bool {
			res, err := http.Get(metrics)
			if err != nil {
				return false // the exporter has just been started again
			}
			defer res.Body.Close()
			body, err := io.ReadAll(res.Body)
			wrong := regexp.MustCompile(`(?m)^(niodoo_component_up.* 0|niodoo_scrape_collector_failure_info.*)$`).FindAllString(string(body), -1)
			return err == nil && res.StatusCode == http.StatusOK && len(wrong) == 0
		})
	}
	real := labFaults(nil)
	real = slices.DeleteFunc(real, func(f sim.Fault) bool {
		return !slices.ContainsFunc(known, func(k struct{ Name string }) bool { return k.Name == f.Name })
	})
	if len(real) < 40 {
		t.Fatalf("only %d faults", len(real))
	}
	for _, f := range real {
		set("PUT", f.Name)
		set("DELETE", f.Name)
	}
	well()
	// A server that is gone or hangs, or a directory, cannot be changed as well.
	together := slices.DeleteFunc(real, func(f sim.Fault) bool {
		return slices.Contains([]string{"postgresql", "redis", "backup", "exporter"}, f.Component) || f.Name == "host-disk-failing" || f.Name == "host-read-only"
	})
	for _, f := range together {
		set("PUT", f.Name)
	}
	for _, f := range together {
		set("DELETE", f.Name)
	}
	well()
	if err := p.end(os.Interrupt.(syscall.Signal)); err != nil {
		t.Errorf("it ended with %v:\n%s%s", err, p.output.String(), p.stderr.String())
	}
	if left := p.leftBehind(); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

// TestLostClock: the exporter reads the clock of the simulated machine, also when
// it was started again.
func TestLostClock(t *testing.T) {
	t.Parallel()
	if !clockCanBeHeld() {
		t.Skip("this system lets nobody answer for its kernel")
	}
	p := launch(t, "demo", "--machine", "--no-databases", "--exporter="+buildExporter(t), "--exporter-address=127.0.0.1:0")
	metrics := p.until(`^  metrics +(\S+)$`)[1]
	faults := p.until(`^  faults +curl (\S+)$`)[1]
	p.until(`^Ctrl-C`)
	set := func(method, fault string) {
		t.Helper()
		if status, body := fetch(t, method, faults+"/"+fault); status != 200 {
			t.Fatalf("%s %s: %d %s", method, fault, status, body)
		}
	}
	expect := func(synchronised int, off string) {
		t.Helper()
		_, body := fetch(t, "GET", metrics)
		for _, want := range []string{fmt.Sprintf("\nniodoo_host_clock_synchronised %d\n", synchronised), "\nniodoo_host_clock_max_error_seconds " + off + "\n"} {
			if !strings.Contains(body, want) {
				t.Errorf("the scrape has no line%s", want)
			}
		}
	}
	expect(1, "0.03")
	set("PUT", "host-clock-off")
	expect(0, "16")
	set("PUT", "exporter-stopped")
	set("DELETE", "exporter-stopped")
	expect(0, "16")
	set("DELETE", "host-clock-off")
	expect(1, "0.03")
	if err := p.end(syscall.SIGTERM); err != nil {
		t.Errorf("it ended with %v:\n%s%s", err, p.output.String(), p.stderr.String())
	}
	if left := p.leftBehind(); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

// TestDemoWithoutExporter: an exporter that ends at once is reported.
func TestDemoWithoutExporter(t *testing.T) {
	t.Parallel()
	broken := filepath.Join(t.TempDir(), "niodoo_exporter")
	if err := os.WriteFile(broken, []byte("#!/bin/sh\necho 'no good' >&2\nexit 3\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	p := launch(t, "demo", "--once", "--exporter="+broken, "--exporter-address=127.0.0.1:0")
	for range p.lines {
	}
	var exit *exec.ExitError
	if err := p.cmd.Wait(); !errors.As(err, &exit) || exit.ExitCode() != exitFailed {
		t.Errorf("it ended with %v", err)
	}
	if s := p.stderr.String(); !strings.Contains(s, "no good") || !strings.Contains(s, "the exporter ended: exit status 3") {
		t.Errorf("it wrote %s", s)
	}
	if left := p.leftBehind(); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

func TestDown(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		lines string
		want  []string
	}{
		{"", []string{"none is reported"}},
		{`niodoo_component_required{component="qdrant"} 0|niodoo_component_up{component="qdrant"} 0`, []string{"none is reported"}},
		{`niodoo_component_required{component="engine"} 1|niodoo_component_up{component="engine"} 1|niodoo_component_required{component="loki"} 0|niodoo_component_up{component="loki"} 0`, nil},
		{`niodoo_component_required{component="redis"} 1|niodoo_component_required{component="engine"} 1|niodoo_component_up{component="engine"} 0`, []string{"engine", "redis"}},
	} {
		if diff := cmp.Diff(test.want, down(strings.Split(test.lines, "|"))); diff != "" {
			t.Errorf("%s:\n%s", test.lines, diff)
		}
	}
}

// TestFirstGood: it waits for a good scrape, and when there is none it returns
// the last one and says what was wrong.
func TestFirstGood(t *testing.T) {
	t.Parallel()
	asked := make(chan int, 100)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked <- 1
		switch n := len(asked); n {
		case 1:
			http.Error(w, "not yet", http.StatusServiceUnavailable)
		default:
			fmt.Fprintf(w, "# HELP x y\nniodoo_component_required{component=\"engine\"} 1\nniodoo_component_up{component=\"engine\"} %s\n", strconv.Itoa(min(1, n/4)))
		}
	}))
	defer server.Close()
	e := &exporter{url: server.URL, client: &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}, ended: make(chan error, 1)}
	lines, err := e.firstGood(context.Background())
	if err != nil || len(lines) != 2 || len(asked) != 4 {
		t.Errorf("%q, %v after %d scrapes", lines, err, len(asked))
	}
	server.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, "niodoo_component_required{component=\"engine\"} 1\n")
	})
	ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
	defer cancel()
	if lines, err := e.firstGood(ctx); len(lines) != 1 || err == nil || !strings.Contains(err.Error(), "not every required component is up: engine") {
		t.Errorf("%q, %v", lines, err)
	}
}

// TestWithoutDatabases: the configuration switches off what is not there.
func TestWithoutDatabases(t *testing.T) {
	t.Parallel()
	l := &lab{dir: t.TempDir()}
	sections, err := l.databaseSections()
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := config.Parse("x.yml", []byte(strings.Join(append(sections, l.localSections()...), "")))
	if err != nil || cfg.Enabled("redis") || cfg.Enabled("postgresql") {
		t.Errorf("without databases: %v", err)
	}
	for _, f := range labFaults(l) {
		if slices.Contains([]string{"postgresql", "redis", "host", "exporter"}, f.Component) {
			t.Errorf("a fault of something that is not there: %s", f.Name)
		}
	}
	seen := map[string]bool{}
	for _, f := range slices.Concat(sim.Catalogue(), labFaults(nil)) {
		if seen[f.Name] || f.Does == "" || f.Component == "" {
			t.Errorf("listed twice, or without saying what it does: %s", f.Name)
		}
		seen[f.Name] = true
	}
}

// TestDemoEmbeddedRedis: where redis-server is not installed, the demo has an
// embedded Redis and says so in one line.
func TestDemoEmbeddedRedis(t *testing.T) {
	for _, dir := range []string{"/usr/local/bin", "/opt/redis/bin"} { // where it is found without PATH
		if isProgram(dir + "/redis-server") {
			t.Skip("redis-server is in " + dir)
		}
	}
	exporter := buildExporter(t)
	t.Setenv("PATH", t.TempDir())
	p := launch(t, "demo", "--once", "--exporter="+exporter, "--exporter-address=127.0.0.1:0")
	p.until(`^Redis is an embedded one that knows little of itself: redis-server is not installed`)
	p.until(`niodoo_component_up\{component="redis"\} 1`)
	if err := p.end(0); err != nil {
		t.Errorf("it ended with %v:\n%s%s", err, p.output.String(), p.stderr.String())
	}
	if left := p.leftBehind(); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}
