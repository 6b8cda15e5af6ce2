// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package incident

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/niodoo/niodoo_exporter/internal/notify"
	"github.com/niodoo/niodoo_exporter/internal/opstate"
)

func newReceiver(s Store, maxOpen int) *receiver {
	return &receiver{store: s, by: byListener, maxOpen: maxOpen, now: func() time.Time { return at }, episodes: map[string]*episode{}}
}

// message is a group's message: alerts are "fingerprint firing|resolved minutes",
// the minutes being those of its start after at; a resolved one ends five later.
func message(group string, alerts ...string) Message {
	m := Message{Version: "4", GroupKey: group}
	for _, a := range alerts {
		var fingerprint, status string
		var minute int
		if _, err := fmt.Sscan(a, &fingerprint, &status, &minute); err != nil {
			panic(err)
		}
		labels := map[string]string{"alertname": "PostgreSQLDown", "priority": "P2", "instance": "stack:10646"}
		if strings.HasPrefix(fingerprint, "Incident") || fingerprint == "Watchdog" {
			labels["alertname"] = fingerprint
		}
		x := MessageAlert{Fingerprint: fingerprint, Status: status, StartsAt: at.Add(time.Duration(minute) * time.Minute), Labels: labels,
			Annotations: map[string]string{"summary": "PostgreSQL does not answer."}}
		if status == resolved {
			x.EndsAt = x.StartsAt.Add(5 * time.Minute)
		}
		m.Alerts = append(m.Alerts, x)
	}
	return m
}

func truncated(m Message, n int) Message {
	m.TruncatedAlerts = n
	return m
}

// TestMessages tells for a sequence of messages of one group what its
// incidents' timelines hold in the end. "close" is a person who closes it.
func TestMessages(t *testing.T) {
	t.Parallel()
	g := func(alerts ...string) Message { return message("g", alerts...) }
	for name, c := range map[string]struct {
		messages []any
		want     []string
		quiet    bool // the last one is to be closed
	}{
		"opens, follows, resolves": {[]any{g("a firing 0"), g("a firing 0", "b firing 1"), g("a resolved 0", "b firing 1"), g("b resolved 1")},
			[]string{"opened alert alert alert alert resolved"}, true},
		"repeated":                      {[]any{g("a firing 0"), g("a firing 0"), g("a firing 0")}, []string{"opened alert"}, false},
		"resolved twice":                {[]any{g("a firing 0"), g("a resolved 0"), g("a resolved 0")}, []string{"opened alert alert resolved"}, true},
		"unknown and over":              {[]any{g("a resolved 0")}, nil, false},
		"fires again before it closes":  {[]any{g("a firing 0"), g("a resolved 0"), g("a firing 9")}, []string{"opened alert alert resolved alert"}, false},
		"the same start fires again":    {[]any{g("a firing 0"), g("a resolved 0"), g("a firing 0")}, []string{"opened alert alert resolved alert"}, false},
		"a new start without an end":    {[]any{g("a firing 0"), g("a firing 9"), g("a resolved 9")}, []string{"opened alert alert alert resolved"}, true},
		"an old start while it fires":   {[]any{g("a firing 9"), g("a firing 0")}, []string{"opened alert"}, false},
		"an old end does not end it":    {[]any{g("a firing 9"), g("a resolved 0")}, []string{"opened alert"}, false},
		"another's clock ends it":       {[]any{g("a firing 2"), g("a resolved 0")}, []string{"opened alert alert resolved"}, true},
		"not all listed ones":           {[]any{g("a firing 0", "b firing 0"), g("a resolved 0")}, []string{"opened alert alert alert"}, false},
		"truncated never closes":        {[]any{truncated(g("a firing 0"), 3), truncated(g("a resolved 0"), 3)}, []string{"opened alert note alert note"}, false},
		"truncated, then complete":      {[]any{truncated(g("a firing 0"), 3), truncated(g("a resolved 0"), 3), g("a resolved 0", "b resolved 0")}, []string{"opened alert note alert note resolved"}, true},
		"about itself only":             {[]any{g("IncidentUnacknowledged firing 0")}, nil, false},
		"about itself does not keep it": {[]any{g("a firing 0"), g("a resolved 0", "IncidentUnacknowledged firing 1", "IncidentEscalated firing 1")}, []string{"opened alert alert resolved"}, true},
		"plumbing":                      {[]any{g("Watchdog firing 0")}, nil, false},
		"closed by hand, fires on":      {[]any{g("a firing 0"), "close", g("a firing 0"), g("a resolved 0")}, []string{"opened alert closed"}, false},
		"closed by hand, another fires": {[]any{g("a firing 0"), "close", g("a firing 0", "b firing 1")}, []string{"opened alert closed", "opened alert alert"}, false},
		"closed by hand, fires anew":    {[]any{g("a firing 0"), "close", g("a firing 9")}, []string{"opened alert closed", "opened alert"}, false},
		"its directory is gone":         {[]any{g("a firing 0"), "remove", g("a firing 0")}, []string{"", "opened alert"}, false},
	} {
		for _, restarted := range []bool{false, true} { // between any two messages
			t.Run(fmt.Sprintf("%s, restarted %t", name, restarted), func(t *testing.T) {
				t.Parallel()
				s := newStore(t)
				r := newReceiver(s, 10)
				var ids []string
				for _, m := range c.messages {
					if restarted {
						r = newReceiver(s, 10)
					}
					switch m := m.(type) {
					case Message:
						opened, err := r.receive(t.Context(), m)
						if err != nil {
							t.Fatal(err)
						}
						if opened != "" {
							ids = append(ids, opened)
						}
					case string:
						var err error
						if m == "close" {
							err = s.Close(t.Context(), ids[len(ids)-1], "ann", "it was nothing", at, at)
						} else {
							delete(r.episodes, ids[len(ids)-1])
							err = os.RemoveAll(s.Path(ids[len(ids)-1]))
						}
						if err != nil {
							t.Fatal(err)
						}
					}
				}
				if len(ids) != len(c.want) {
					t.Fatalf("opened %v, want %d", ids, len(c.want))
				}
				for i, id := range ids {
					if c.want[i] == "" {
						continue
					}
					if got := kinds(t, s, id); got != c.want[i] {
						t.Errorf("%s: %s, want %s", id, got, c.want[i])
					}
					entries, _ := s.Timeline(id)
					if follows := entries[0].Opening.Follows; i > 0 && c.want[i-1] != "" && follows != ids[i-1] {
						t.Errorf("%s follows %q", id, follows)
					}
				}
				if len(ids) > 0 {
					e, err := r.episode(ids[len(ids)-1])
					if err != nil || e.quiet.IsZero() == c.quiet {
						t.Errorf("quiet since %v, %v", e.quiet, err)
					}
				}
			})
		}
	}
}

func TestReceiver(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	r := newReceiver(s, 2)
	for _, group := range []string{"a", "b"} {
		if _, err := r.receive(t.Context(), message(group, "x firing 0")); err != nil {
			t.Fatal(err)
		}
	}
	full := message("c", "x firing 0")
	if _, err := r.receive(t.Context(), full); !errors.Is(err, errFull) {
		t.Errorf("the third of two: %v", err)
	}
	if err := s.Close(t.Context(), index(t, s).Open[0].ID, "ann", "nothing", at, at); err != nil {
		t.Fatal(err)
	}
	if opened, err := r.receive(t.Context(), full); err != nil || opened == "" {
		t.Errorf("once there is room: %q, %v", opened, err)
	}

	// The index could not be written: what the timeline got is not opened twice.
	if err := opstate.Update(t.Context(), s.Dir, func(i *opstate.Incidents) error { i.Open = i.Open[:1]; return nil }); err != nil {
		t.Fatal(err)
	}
	r.behind = true
	if opened, err := r.receive(t.Context(), full); err != nil || opened != "" {
		t.Errorf("it came again: opened %q, %v", opened, err)
	}
	if n := len(index(t, s).Open); n != 2 {
		t.Errorf("%d are open", n)
	}

	long := message(strings.Repeat("g", 5000), "x firing 0")
	if err := s.Close(t.Context(), index(t, s).Open[0].ID, "ann", "nothing", at, at); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := r.receive(t.Context(), long); err != nil {
			t.Errorf("a long key: %v", err)
		}
	}
}

func TestOpening(t *testing.T) {
	t.Parallel()
	alert := func(name string, labels ...string) MessageAlert {
		a := MessageAlert{Labels: map[string]string{"alertname": name}, StartsAt: at, Fingerprint: name}
		for i := 0; i+1 < len(labels); i += 2 {
			a.Labels[labels[i]] = labels[i+1]
		}
		return a
	}
	for _, c := range []struct {
		alerts   []MessageAlert
		title    string
		priority opstate.Priority
	}{
		{[]MessageAlert{alert("A", "priority", "P3"), alert("B", "priority", "P1", "instance", "i")}, "B on i (and 1 more)", "P1"},
		{[]MessageAlert{alert("A", "severity", "critical")}, "A", "P1"},
		{[]MessageAlert{alert("A", "severity", "warning")}, "A", "P3"},
		{[]MessageAlert{alert("A", "severity", "info")}, "A", "P4"},
		{[]MessageAlert{alert("A", "priority", "urgent")}, "A", "P3"},
	} {
		if title, priority := opening(c.alerts); title != c.title || priority != c.priority {
			t.Errorf("%q %s, want %q %s", title, priority, c.title, c.priority)
		}
	}
}

func TestParseMessage(t *testing.T) {
	t.Parallel()
	// Alertmanager 0.31's own, with what 0.34 adds.
	const real = `{"receiver":"hook","status":"firing","alerts":[{"status":"firing","labels":{"alertname":"PostgreSQLDown","instance":"a","priority":"P1"},"annotations":{"summary":"s"},
 "startsAt":"2026-11-23T09:33:32.092032042Z","endsAt":"0001-01-01T00:00:00Z","generatorURL":"http://x/graph","fingerprint":"9ef47e5578e11d21"}],
 "groupLabels":{"alertname":"PostgreSQLDown","priority":"P1"},"commonLabels":{},"commonAnnotations":{},"externalURL":"http://vm:42911","version":"4",
 "groupKey":"{}:{alertname=\"PostgreSQLDown\", priority=\"P1\"}","truncatedAlerts":1,"notification_reason":"x","routeLabels":{}}`
	m, err := ParseMessage([]byte(real))
	if err != nil || m.TruncatedAlerts != 1 || len(m.Alerts) != 1 || m.Alerts[0].priority() != "P1" || m.heartbeat() {
		t.Errorf("%+v, %v", m, err)
	}
	if got := m.incidental(); len(got) != 1 {
		t.Errorf("incidents are made of %+v", got)
	}
	m.Alerts[0].Labels["alertname"] = notify.TestAlert
	if got := m.incidental(); len(got) != 0 {
		t.Errorf("an incident is made of a test: %+v", got)
	}
	for text, want := range map[string]string{
		`{`:               "not Alertmanager's webhook",
		`{"version":"3"}`: "version \"3\"",
		`{"version":"4"}`: "no groupKey",
		`{"version":"4","groupKey":"g","alerts":[{"status":"firing"}]}`: "alerts[0]",
	} {
		if _, err := ParseMessage([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", text, err)
		}
	}
}
