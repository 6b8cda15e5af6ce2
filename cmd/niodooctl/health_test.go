// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/niodoo/niodoo_exporter/internal/e2e"
	"github.com/niodoo/niodoo_exporter/internal/health"
	"github.com/niodoo/niodoo_exporter/internal/localserver"
	"github.com/niodoo/niodoo_exporter/internal/notify/notifytest"
	"github.com/niodoo/niodoo_exporter/internal/opstate"
	"github.com/niodoo/niodoo_exporter/internal/sim"
)

// ran is what a run of the program left.
type ran struct {
	code        int
	out, errOut string
}

// ctlWith runs the program with a configuration.
func ctlWith(t *testing.T, config string, args ...string) ran {
	t.Helper()
	file := filepath.Join(t.TempDir(), "niodoo.yml")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	var out, errOut bytes.Buffer
	code := run(t.Context(), append([]string{"--config.file=" + file}, args...), strings.NewReader(""), &out, &errOut)
	return ran{code, out.String(), errOut.String()}
}

// line returns the line of the output that begins with a word.
func (r ran) line(word string) string {
	for l := range strings.Lines(r.out) {
		if strings.HasPrefix(l, word+" ") {
			return strings.TrimSpace(l)
		}
	}
	return ""
}

// patient gives a loaded machine time that a person would not wait.
const patient = "--timeout=30s"

func TestHealth(t *testing.T) {
	t.Parallel()
	s := e2e.StartStack(t)
	look := func(args ...string) ran {
		t.Helper()
		return ctlWith(t, s.Config, append([]string{"--thresholds.file=" + filepath.Join(s.Dir, "thresholds.json"), "health", patient}, args...)...)
	}
	r := look()
	if r.code != exitWell || r.errOut != "" || !strings.Contains(r.out, "\nwell: 8 of 8 well\n") {
		t.Fatalf("%d\n%s\n%s", r.code, r.out, r.errOut)
	}
	for component, want := range map[string]string{
		"engine": "consciousness engine", "postgresql": "memory system", "redis": "memory used", "ollama": "1 of 1 required models available",
		"qdrant": "points", "prometheus": "targets up", "grafana": "dashboards",
	} {
		if l := r.line(component); !strings.Contains(l, want) || !strings.Contains(l, " up ") || !strings.Contains(l, " ms ") && !strings.Contains(l, " us ") {
			t.Errorf("%s: %q", component, l)
		}
	}
	if strings.Contains(r.out, "\x1b") {
		t.Error("colours in a buffer")
	}
	if q := look("--quiet"); q != (ran{}) {
		t.Errorf("--quiet: %+v", q)
	}
	// The exporter's operations collector sees it.
	state := filepath.Join(s.Dir, "state")
	if h, err := opstate.Read[opstate.Health](state); err != nil || h.Verdict != opstate.Well || h.Components["redis"] != opstate.Well {
		t.Errorf("%+v, %v", h, err)
	}

	s.Redis.Kill()
	r = look("--detailed", "--log-file="+filepath.Join(s.Dir, "health.log"))
	if l := r.line("redis"); r.code != exitFailing || !strings.Contains(l, "failing  down") || !strings.Contains(l, "refused: ") {
		t.Errorf("%d, %q", r.code, l)
	}
	for _, want := range []string{"memory_stability_ratio", "99.51 %", "no heartbeat is received", "niodooctl incident listen", "; failing: redis\n"} {
		if !strings.Contains(r.out, want) {
			t.Errorf("--detailed does not say %q:\n%s", want, r.out)
		}
	}
	checkLog(t, filepath.Join(s.Dir, "health.log"))

	r = look("--summary")
	if r.code != exitFailing || !strings.Contains(r.out, "3 runs, 2 of them well.") || !strings.Contains(r.out, "redis: well -> failing (refused: ") ||
		!strings.Contains(r.out, ": failing, 1 changes\n") {
		t.Errorf("--summary: %d\n%s", r.code, r.out)
	}
	if err := s.Redis.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	r = look("--summary")
	if r.code != exitWell || !strings.Contains(r.out, "1 runs, 0 of them well.") || !strings.Contains(r.out, "redis: failing -> well\n") {
		t.Errorf("the next --summary: %d\n%s", r.code, r.out)
	}

	j := look("-o", "json")
	dec := json.NewDecoder(strings.NewReader(j.out))
	dec.DisallowUnknownFields()
	var report health.Report
	if err := dec.Decode(&report); err != nil || report.Verdict != opstate.Well || len(report.Components) != 8 || len(report.Checks) < 10 {
		t.Errorf("%v\n%s", err, j.out)
	}
	entries, err := os.ReadDir(state)
	if err != nil || len(entries) != 2 {
		t.Errorf("the state directory has %v, %v", entries, err)
	}
}

// checkLog wants a line of JSON per check.
func checkLog(t *testing.T, path string) {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]string{}
	for l := range strings.Lines(string(raw)) {
		var line struct{ Timestamp, Level, Component, Check, Verdict, Reason string }
		if err := json.Unmarshal([]byte(l), &line); err != nil || line.Timestamp == "" {
			t.Errorf("%q: %v", l, err)
		}
		found[line.Component+" "+line.Check] = line.Level + " " + line.Verdict + " " + line.Reason
	}
	for check, want := range map[string]string{"redis health": "ERROR failing refused", "engine health": "INFO well ", "engine memory_stability_ratio": "INFO well "} {
		if found[check] != want {
			t.Errorf("%s: %q, want %q", check, found[check], want)
		}
	}
}

// redisOnly is the configuration of a stack of which only Redis is looked at.
func redisOnly(address, state string) string {
	cfg := sim.Section("redis", map[string]any{"address": address}) + sim.Section("operations", map[string]any{"state_dir": state})
	for _, name := range []string{"engine", "postgresql", "ollama", "qdrant", "prometheus", "grafana", "host", "logs", "backup"} {
		cfg += sim.Section(name, map[string]any{"enabled": false})
	}
	return cfg
}

func smtpSection(r *notifytest.Relay) string {
	return "  smtp: {smarthost: '" + r.Addr + "', from: niodoo@example.com, to: [oncall@example.com], tls_config: {ca_file: " + r.CAFile + "}}\n"
}

// With a dead Alertmanager mail alone is left: once for each change.
func TestHealthFallbackMail(t *testing.T) {
	t.Parallel()
	redis, err := localserver.StartRedis(t.Context(), localserver.RedisOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(redis.Stop)
	am, err := localserver.StartAlertmanager(t.Context(), "route: {receiver: nowhere}\nreceivers: [{name: nowhere}]\n")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(am.Stop)
	relay := notifytest.Start(t, notifytest.RelayOptions{TLS: true})
	cfg := redisOnly(redis.Addr, t.TempDir()) + "notify:\n  alertmanager: " + am.URL + "\n" + smtpSection(relay)
	health := func(want int) ran {
		t.Helper()
		r := ctlWith(t, cfg, "health", patient, "--notify=alertmanager", "--label=cluster=lab")
		if r.code != want {
			t.Errorf("exit code %d, want %d: %s%s", r.code, want, r.out, r.errOut)
		}
		return r
	}
	health(exitWell)
	redis.Kill()
	health(exitFailing)
	if got := alertsOf(t, am.URL); len(got) != 1 || got[0]["alertname"] != "ServiceDown" || got[0]["component"] != "redis" || got[0]["priority"] != "P2" ||
		got[0]["severity"] != "warning" || got[0]["source"] != "niodooctl" || got[0]["cluster"] != "lab" || got[0]["instance"] != "localhost:10646" {
		t.Errorf("Alertmanager has %v", got)
	}
	if n := len(relay.Messages()); n != 0 {
		t.Errorf("%d mails while Alertmanager answers", n)
	}
	am.Kill()
	for range 2 {
		if r := health(exitFailing); !strings.Contains(r.errOut, "posting alerts") {
			t.Errorf("Alertmanager's death is not told: %q", r.errOut)
		}
	}
	mails := relay.Messages()
	if len(mails) != 1 || !strings.Contains(mails[0].Raw, "Alertmanager does not answer") || !strings.Contains(mails[0].Raw, "P2 ServiceDown: redis") {
		t.Fatalf("%d mails: %+v", len(mails), mails)
	}
	if err := redis.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	health(exitUnknown) // all is well, and Alertmanager could not be told
	if mails = relay.Messages(); len(mails) != 2 || strings.Contains(mails[1].Raw, "ServiceDown") {
		t.Errorf("%d mails, the last: %s", len(mails), mails[len(mails)-1].Raw)
	}
}

// What is over is resolved at the next run, not when its time is up.
func TestHealthResolves(t *testing.T) {
	t.Parallel()
	redis, err := localserver.StartRedis(t.Context(), localserver.RedisOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(redis.Stop)
	am, err := localserver.StartAlertmanager(t.Context(), "route: {receiver: nowhere}\nreceivers: [{name: nowhere}]\n")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(am.Stop)
	relay := notifytest.Start(t, notifytest.RelayOptions{TLS: true})
	cfg := redisOnly(redis.Addr, t.TempDir()) + "notify:\n  alertmanager: " + am.URL + "\n" + smtpSection(relay)
	redis.Kill()
	for range 2 {
		if r := ctlWith(t, cfg, "health", patient, "--notify=alertmanager,email"); r.code != exitFailing || !strings.Contains(r.out, "Alertmanager was told: 1 alerts") {
			t.Errorf("%+v", r)
		}
	}
	if err := redis.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if r := ctlWith(t, cfg, "health", patient, "--notify=alertmanager,email"); r.code != exitWell || !strings.Contains(r.out, "0 alerts, 1 resolved") {
		t.Errorf("%+v", r)
	}
	if got := alertsOf(t, am.URL); len(got) != 0 {
		t.Errorf("Alertmanager still has %v", got)
	}
	mails := relay.Messages()
	if len(mails) != 2 || !strings.Contains(mails[0].Raw, "redis failing") || !strings.Contains(mails[1].Raw, "well again") {
		t.Errorf("%d mails: %+v", len(mails), mails)
	}
	if r := ctlWith(t, cfg, "health", patient, "--summary", "--notify=email"); r.code != exitWell {
		t.Errorf("%+v", r)
	}
	if mails = relay.Messages(); len(mails) != 3 || !strings.Contains(mails[2].Raw, "redis: failing -> well") {
		t.Errorf("%d mails: %+v", len(mails), mails)
	}
}

// alertsOf returns the labels of Alertmanager's active alerts.
func alertsOf(t *testing.T, url string) []map[string]string {
	t.Helper()
	body, err := e2e.Get(url + "/api/v2/alerts")
	if err != nil {
		t.Fatal(err)
	}
	var alerts []struct{ Labels map[string]string }
	if err := json.Unmarshal([]byte(body), &alerts); err != nil {
		t.Fatal(err)
	}
	var out []map[string]string
	for _, a := range alerts {
		out = append(out, a.Labels)
	}
	return out
}

func TestNotifyTest(t *testing.T) {
	t.Parallel()
	relay := notifytest.Start(t, notifytest.RelayOptions{TLS: true})
	am, err := localserver.StartAlertmanager(t.Context(), `
global: {smtp_smarthost: '`+relay.Addr+`', smtp_from: am@example.com}
route: {receiver: oncall, group_wait: 0s, group_by: [priority]}
receivers:
- {name: oncall, email_configs: [{to: oncall@example.com, tls_config: {ca_file: `+relay.CAFile+`}}]}
`)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(am.Stop)
	cfg := "notify:\n  alertmanager: " + am.URL + "\n" + smtpSection(relay)
	r := ctlWith(t, cfg, "notify", "test", "--wait=60s")
	if r.code != exitWell || r.errOut != "" {
		t.Fatalf("%+v", r)
	}
	for _, p := range []string{"P1", "P2", "P3", "P4"} {
		if l := r.line(p); !strings.Contains(l, "well") || !strings.Contains(l, "oncall (email)") || !strings.Contains(l, "sent after ") {
			t.Errorf("%s: %q", p, l)
		}
	}
	if l := r.line("mail"); !strings.Contains(l, relay.Addr+" took it") {
		t.Errorf("%q in\n%s", l, r.out)
	}
	if n := len(relay.Messages()); n < 5 {
		t.Errorf("%d mails, want one of each priority and one directly", n)
	}
	if left := alertsOf(t, am.URL); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
	am.Kill()
	r = ctlWith(t, cfg, "notify", "test", "-o", "json", "--priority=P1")
	var result notifyResult
	if err := json.Unmarshal([]byte(r.out), &result); err != nil || r.code != exitFailing || result.Verdict != opstate.Failing ||
		!strings.Contains(result.Alertmanager.Error, "connection refused") || !result.Mail.Accepted {
		t.Errorf("%v, %+v", err, r)
	}
}

// Ctrl-C ends a run at once with 130 and leaves nothing behind.
func TestInterrupt(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	state := t.TempDir()
	file := filepath.Join(t.TempDir(), "niodoo.yml")
	if err := os.WriteFile(file, []byte(redisOnly(l.Addr().String(), state)), 0o600); err != nil {
		t.Fatal(err)
	}
	program, err := exec.LookPath("niodooctl") // TestMain puts it there
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "--config.file="+file, "health", "--timeout=10m")
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	conn, err := l.Accept() // it waits for an answer that does not come
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	select {
	case err = <-done:
	case <-time.After(time.Minute):
		_ = cmd.Process.Kill()
		t.Fatal("it goes on")
	}
	if e, ok := errors.AsType[*exec.ExitError](err); !ok || e.ExitCode() != exitInterrupted || out.String() != "" || errOut.String() != "niodooctl: interrupted\n" {
		t.Errorf("%v, %q, %q", err, out.String(), errOut.String())
	}
	if left, err := os.ReadDir(state); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}
