// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package notify

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/niodoo/niodoo_exporter/internal/config"
	"github.com/niodoo/niodoo_exporter/internal/localserver"
	"github.com/niodoo/niodoo_exporter/internal/opstate"
)

// routed is a configuration that tells P1 by webhook, whose receiver answers
// well, P2 by one that refuses, and P3 to nobody; P4 is held back for ever.
const routed = `
route:
  receiver: nowhere
  group_by: [priority]
  group_wait: 0s
  routes:
  - {receiver: good, matchers: ['priority="P1"']}
  - {receiver: bad, matchers: ['priority="P2"']}
  - {receiver: late, matchers: ['priority="P4"'], active_time_intervals: [never]}
time_intervals:
- {name: never, time_intervals: [{years: ['1999']}]}
receivers:
- {name: nowhere}
- {name: good, webhook_configs: [{url: '%[1]s/good'}]}
- {name: bad, pagerduty_configs: [{routing_key: k, url: '%[1]s/bad'}]}
- {name: late, webhook_configs: [{url: '%[1]s/late'}]}
inhibit_rules:
- {source_matchers: ['alertname="Cause"'], target_matchers: ['priority="P1"']}
`

// hooks takes webhooks and keeps what they said.
type hooks struct {
	url string
	mu  sync.Mutex
	got []string
}

func startHooks(t *testing.T) *hooks {
	t.Helper()
	h := &hooks{}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		h.mu.Lock()
		h.got = append(h.got, r.URL.Path+" "+string(body))
		h.mu.Unlock()
		if r.URL.Path == "/bad" {
			w.WriteHeader(http.StatusBadRequest)
		}
	}))
	t.Cleanup(srv.Close)
	h.url = srv.URL
	return h
}

func chain(t *testing.T, priorities ...opstate.Priority) (Chain, *hooks) {
	t.Helper()
	h := startHooks(t)
	a, err := localserver.StartAlertmanager(t.Context(), fmt.Sprintf(routed, h.url))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.Stop)
	return Chain{Config: config.Notify{Alertmanager: a.URL}, Priorities: priorities, Target: map[string]string{"instance": "here"},
		ID: "trial", Wait: time.Minute}, h
}

func TestChain(t *testing.T) {
	t.Parallel()
	c, h := chain(t, "P1", "P2", "P3")
	got, err := c.Try(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []Delivery{
		{Verdict: opstate.Well, Sent: true, Text: "sent", Receivers: []Receiver{{"good", []string{"webhook"}}}},
		{Verdict: opstate.Failing, Text: "Alertmanager cannot send by pagerduty", Receivers: []Receiver{{"bad", []string{"pagerduty"}}}},
		{Verdict: opstate.Failing, Text: "nobody is told", Receivers: []Receiver{{"nowhere", []string{}}}},
	} {
		d := got[i]
		if d.Verdict != want.Verdict || d.Sent != want.Sent || !strings.HasPrefix(d.Text, want.Text) || fmt.Sprint(d.Receivers) != fmt.Sprint(want.Receivers) {
			t.Errorf("%s: got %+v, want %+v", d.Priority, d, want)
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, want := range []string{`"instance":"here"`, `"priority":"P1"`, `"severity":"critical"`, `"source":"niodooctl"`, "nothing is wrong"} {
		if !strings.Contains(strings.Join(h.got, "\n"), want) {
			t.Errorf("%s did not arrive in %q", want, h.got)
		}
	}
	if left := active(t, c.Config); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

// What is held back, silenced or inhibited was not sent, and is said to be so.
func TestChainHeldBack(t *testing.T) {
	t.Parallel()
	c, _ := chain(t, "P1", "P4")
	cause := Alert{Labels: map[string]string{"alertname": "Cause"}, EndsAt: time.Now().Add(time.Hour)}
	if err := PostAlerts(t.Context(), c.Config, []Alert{cause}); err != nil {
		t.Fatal(err)
	}
	got, err := c.Try(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if d := got[0]; d.Verdict != opstate.Warning || !strings.HasPrefix(d.Text, "another alert inhibits it") {
		t.Errorf("%+v", d)
	}
	if d := got[1]; d.Verdict != opstate.Unknown || d.Sent || d.Text != "held back until never" {
		t.Errorf("%+v", d)
	}
}

// Whoever is interrupted leaves no alert behind.
func TestChainInterrupted(t *testing.T) {
	t.Parallel()
	c, _ := chain(t, "P4")
	ctx, cancel := context.WithCancel(t.Context())
	c.Progress = func(int) { cancel() }
	if _, err := c.Try(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if left := active(t, c.Config); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestChainFailures(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ body, want string }{
		"not Alertmanager": {"<html>", "reading Alertmanager's status"},
		"not its YAML":     {`{"config":{"original":"[: "}}`, "reading Alertmanager's configuration"},
	} {
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, c.body) }))
		defer srv.Close()
		_, err := Chain{Config: config.Notify{Alertmanager: srv.URL}, Priorities: opstate.Priorities}.Try(t.Context())
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := (Chain{}).Try(t.Context()); !errors.Is(err, ErrNotConfigured) {
		t.Errorf("without an address: %v", err)
	}
}
