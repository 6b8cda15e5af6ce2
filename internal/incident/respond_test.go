// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package incident

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/niodoo/niodoo_exporter/internal/config"
	"github.com/niodoo/niodoo_exporter/internal/notify"
	"github.com/niodoo/niodoo_exporter/internal/notify/notifytest"
	"github.com/niodoo/niodoo_exporter/internal/opstate"
	"github.com/niodoo/niodoo_exporter/internal/sim"
	"github.com/niodoo/niodoo_exporter/internal/thresholds"
)

// daemon is a container engine that can do nothing but restart.
type daemon struct {
	mu       sync.Mutex
	restarts []string
	restart  func(container string) int // status
}

func (d *daemon) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	name, ok := strings.CutSuffix(strings.TrimPrefix(r.URL.Path, "/containers/"), "/restart")
	if r.Method != http.MethodPost || !ok || r.URL.Query().Get("t") != "30" {
		http.Error(w, `{"message":"page not found"}`, http.StatusNotFound)
		return
	}
	d.mu.Lock()
	d.restarts = append(d.restarts, name)
	d.mu.Unlock()
	w.WriteHeader(d.restart(name))
}

// posted keeps the alerts that are posted to it.
type posted struct {
	mu     sync.Mutex
	alerts []notify.Alert
	status int
}

func (p *posted) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodGet {
		fmt.Fprint(w, "[]")
		return
	}
	raw, _ := io.ReadAll(r.Body)
	var alerts []notify.Alert
	_ = json.Unmarshal(raw, &alerts)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.alerts = append(p.alerts, alerts...)
	w.WriteHeader(p.status)
}

func TestRespond(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		priority  opstate.Priority
		lift      bool // the restart helps
		status    int  // Docker's answer
		posts     int  // Alertmanager's
		earlier   bool // the container was restarted for another incident
		verdict   opstate.Verdict
		restarts  int
		mails     int
		kinds     string
		escalated string
	}{
		"a restart cures": {"P1", true, 204, 200, false, opstate.Well, 1, 0, "opened evidence action health", ""},
		"a restart does not help": {"P1", false, 204, 200, false, opstate.Failing, 1, 2,
			"opened evidence action health escalated", "Alertmanager, ann@example.com, bob@example.com"},
		"the restart fails": {"P1", false, 404, 200, false, opstate.Failing, 1, 2,
			"opened evidence action action health escalated", "Alertmanager, ann@example.com, bob@example.com"},
		"Alertmanager is gone":      {"P1", false, 204, 500, false, opstate.Failing, 1, 2, "opened evidence action health escalated", "ann@example.com, bob@example.com"},
		"restarted within the hour": {"P1", true, 204, 200, true, opstate.Failing, 0, 2, "opened evidence note escalated", "Alertmanager, ann@example.com, bob@example.com"},
		"P2 is escalated later":     {"P2", false, 204, 200, false, opstate.Failing, 1, 0, "opened evidence action health", ""},
		"P3 restarts nothing":       {"P3", true, 204, 200, false, opstate.Well, 0, 0, "opened evidence", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			st, err := sim.New(sim.Options{Seed: 1, Age: time.Hour, Only: []string{"engine"}})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(st.Close)
			if err := st.Inject("engine-unhealthy"); err != nil {
				t.Fatal(err)
			}
			box := notifytest.Start(t, notifytest.RelayOptions{})
			am := &posted{status: c.posts}
			alertmanager := httptest.NewServer(am)
			t.Cleanup(alertmanager.Close)
			d := &daemon{}
			docker := httptest.NewServer(d)
			t.Cleanup(docker.Close)
			dir := t.TempDir()
			cfg := parse(t, st.Config()+machine(dir)+fmt.Sprintf(`postgresql: {enabled: false}
ollama: {enabled: false}
qdrant: {enabled: false}
prometheus: {enabled: false}
grafana: {enabled: false}
docker: {enabled: false, host: "tcp://%s"}
notify: {alertmanager: "%s", smtp: {smarthost: "%s", from: niodoo@example.com, to: [boss@example.com], require_tls: false}}
incident:
  recovery: 2s
  restart: {engine: {container: niodoo-engine-1}}
  escalation: {P1: [ann@example.com, bob@example.com]}
`, docker.Listener.Addr(), alertmanager.URL, box.Addr))
			s := Store{cfg.Operations.StateDir}
			if err := s.Prepare(); err != nil {
				t.Fatal(err)
			}
			now := time.Now()
			id := open(t, s, New{Priority: c.priority, Title: "the engine is unwell", At: now})
			if c.earlier {
				other := open(t, s, New{At: now})
				if err := s.claim(t.Context(), other, cfg.Incident.Restart["engine"], "", now.Add(-actionPause+time.Minute)); err != nil {
					t.Fatal(err)
				}
			}
			d.restart = func(name string) int {
				// Evidence and journal come before the action.
				if got := kinds(t, s, id); got != "opened evidence action" {
					t.Errorf("the timeline before the restart: %s", got)
				}
				if j := read(t, filepath.Join(s.Dir, "incidents", actionsFile)); !strings.Contains(j, id) {
					t.Errorf("the journal before the restart: %s", j)
				}
				if c.lift {
					if err := st.Lift("engine-unhealthy"); err != nil {
						t.Error(err)
					}
				}
				return c.status
			}
			r := Responder{Config: cfg, Thresholds: thresholds.Default(), Store: s, By: "ann", Now: time.Now}
			in := index(t, s).Open[0]
			o, err := r.Respond(t.Context(), in, nil)
			if err != nil {
				t.Fatal(err)
			}
			if o.Verdict() != c.verdict || o.Escalated != c.escalated || len(d.restarts) != c.restarts || len(mails(t, box)) != c.mails {
				t.Errorf("%s, escalated to %q, %d restarts, %d mails; %+v", o.Verdict(), o.Escalated, len(d.restarts), len(mails(t, box)), o)
			}
			if got := kinds(t, s, id); got != c.kinds {
				t.Errorf("the timeline is %s, want %s", got, c.kinds)
			}
			for _, m := range mails(t, box) {
				has(t, m.Subject, `^\[niodoo\] P1 `+id+`: the engine is unwell$`)
				has(t, m.Text, `niodooctl incident ack `+id, `Response time 15m`)
			}
			// A second response restarts nothing.
			if _, err := r.Respond(t.Context(), in, nil); err != nil {
				t.Fatal(err)
			}
			if len(d.restarts) != c.restarts {
				t.Errorf("restarted %d times for one incident", len(d.restarts))
			}
			if c.escalated == "" {
				return
			}
			if err := r.Resolve(t.Context(), in); (err == nil) != (c.posts == 200) {
				t.Errorf("taking the escalation back: %v", err)
			}
			if first, last := am.alerts[0], am.alerts[len(am.alerts)-1]; first.Labels["alertname"] != EscalatedAlert || first.Labels["priority"] != "P1" ||
				!first.EndsAt.After(now.Add(time.Hour)) || last.EndsAt.After(time.Now()) || fmt.Sprint(first.Labels) != fmt.Sprint(last.Labels) {
				t.Errorf("posted %+v and %+v", first, last)
			}
		})
	}
}

// What cannot be written down does not keep an incident from people, and what
// cannot be journaled is not done.
func TestRespondWithoutADisk(t *testing.T) {
	t.Parallel()
	st, err := sim.New(sim.Options{Seed: 1, Age: time.Hour, Only: []string{"engine"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(st.Close)
	if err := st.Inject("engine-unhealthy"); err != nil {
		t.Fatal(err)
	}
	box := notifytest.Start(t, notifytest.RelayOptions{})
	d := &daemon{restart: func(string) int { return 204 }}
	docker := httptest.NewServer(d)
	t.Cleanup(docker.Close)
	cfg := parse(t, st.Config()+machine(t.TempDir())+fmt.Sprintf(`postgresql: {enabled: false}
docker: {enabled: false, host: "tcp://%s"}
notify: {smtp: {smarthost: "%s", from: niodoo@example.com, to: [boss@example.com], require_tls: false}}
incident: {restart: {engine: {container: niodoo-engine-1}}}
`, docker.Listener.Addr(), box.Addr))
	s := Store{cfg.Operations.StateDir}
	if err := s.Prepare(); err != nil {
		t.Fatal(err)
	}
	id := open(t, s, New{})
	write(t, s.actionsPath(), "damaged")
	r := Responder{Config: cfg, Thresholds: thresholds.Default(), Store: s, Now: time.Now}
	for n, broken := range []string{"actions.jsonl", "evidence"} {
		if broken == "evidence" {
			id = open(t, s, New{})
			write(t, s.Evidence(id), "where a directory should be")
		}
		in := index(t, s).Open
		o, err := r.Respond(t.Context(), in[len(in)-1], nil)
		if err == nil || !strings.Contains(err.Error(), broken) || len(d.restarts) != 0 || o.Escalated != "boss@example.com" || len(mails(t, box)) != n+1 {
			t.Errorf("%s: %v; %d restarts, escalated to %q", broken, err, len(d.restarts), o.Escalated)
		}
		if got := kinds(t, s, id); got != "opened evidence escalated" {
			t.Errorf("%s: %s", broken, got)
		}
	}
}

// Nobody to tell is a warning, tried once, and no escalation.
func TestNobodyToTell(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	cfg := parse(t, machine(dir))
	s := newStore(t)
	id := open(t, s, New{})
	r := Responder{Config: cfg, Thresholds: thresholds.Default(), Store: s, Now: time.Now}
	if to, err := r.Escalate(t.Context(), index(t, s).Open[0]); to != "" || err == nil || !strings.Contains(err.Error(), "incident.escalation") {
		t.Errorf("%q, %v", to, err)
	}
	rep, err := s.Report(id, thresholds.Default(), at)
	if err != nil || !rep.Escalated.IsZero() {
		t.Errorf("escalated %s, %v", rep.Escalated, err)
	}
	entries, _ := s.Timeline(id)
	if !play(entries).escalated {
		t.Error("it would be tried for ever")
	}
}

// The target that others lean on is restarted last.
func TestRestartable(t *testing.T) {
	t.Parallel()
	cfg := parse(t, "incident: {restart: {engine: {unit: engine.service}, redis: {container: redis-1}}}")
	down := func(names ...string) *Health { return &Health{Down: names} }
	for _, c := range []struct {
		h    *Health
		want string
	}{
		{nil, ""}, {down(), ""}, {down("postgresql"), ""}, {down("engine"), "engine"}, {down("engine", "redis"), "redis"},
		{&Health{Unsure: []string{"engine"}}, ""},
	} {
		if got, _ := Restartable(cfg, c.h); got != c.want {
			t.Errorf("%+v: %q, want %q", c.h, got, c.want)
		}
	}
}

func TestExposed(t *testing.T) {
	t.Parallel()
	for address, want := range map[string]bool{"localhost:1": false, "127.0.0.1:1": false, "[::1]:1": false, ":1": true, "0.0.0.0:1": true, "[::]:1": true, "stack:1": true} {
		l := parse(t, "").Incident.Listen
		l.Address = address
		if Exposed(l) != want {
			t.Errorf("%s: %t", address, !want)
		}
		l.TokenFile = "token"
		if Exposed(l) {
			t.Errorf("%s with a token", address)
		}
	}
}

// A unit is restarted by systemctl, with its name as an argument and no shell.
func TestRestartUnit(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	write(t, dir+"/systemctl", "#!/bin/sh\nprintf '%s\\n' \"$@\" > '"+dir+"/arguments'\n[ \"$4\" != broken.service ] || { echo 'Job failed.' >&2; exit 1; }\n")
	if err := os.Chmod(dir+"/systemctl", 0o700); err != nil {
		t.Fatal(err)
	}
	cfg := parse(t, "")
	if err := restart(t.Context(), cfg, config.RestartTarget{Unit: "postgresql@15-main.service"}); err != nil {
		t.Error(err)
	}
	if got := read(t, dir+"/arguments"); got != "--no-ask-password\nrestart\n--\npostgresql@15-main.service\n" {
		t.Errorf("systemctl got %q", got)
	}
	if err := restart(t.Context(), cfg, config.RestartTarget{Unit: "broken.service"}); err == nil || !strings.Contains(err.Error(), "systemctl: exit status 1: Job failed.") {
		t.Error(err)
	}
}
