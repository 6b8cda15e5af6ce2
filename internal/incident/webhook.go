// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package incident

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/niodoo/niodoo_exporter/internal/notify"
	"github.com/niodoo/niodoo_exporter/internal/opstate"
)

// Message is the body of Alertmanager's webhook, version 4. Fields that it does
// not name are ignored: newer versions add some.
type Message struct {
	Version         string         `json:"version"`
	GroupKey        string         `json:"groupKey"`
	TruncatedAlerts int            `json:"truncatedAlerts"`
	Alerts          []MessageAlert `json:"alerts"`
}

// MessageAlert is one alert of a message.
type MessageAlert struct {
	Status       string            `json:"status"`
	Labels       map[string]string `json:"labels"`
	Annotations  map[string]string `json:"annotations"`
	StartsAt     time.Time         `json:"startsAt"`
	EndsAt       time.Time         `json:"endsAt"`
	GeneratorURL string            `json:"generatorURL"`
	Fingerprint  string            `json:"fingerprint"`
}

// The statuses of an alert.
const (
	firing   = "firing"
	resolved = "resolved"
)

const (
	watchdogAlert = "Watchdog"
	// EscalatedAlert is what an incident that is handed on is announced with.
	EscalatedAlert = "IncidentEscalated"
)

// aboutIncidents are alerts about incidents, which are none themselves.
var aboutIncidents = []string{EscalatedAlert, "IncidentUnacknowledged"}

// ParseMessage reads a webhook's body.
func ParseMessage(raw []byte) (Message, error) {
	var m Message
	if err := json.Unmarshal(raw, &m); err != nil {
		return m, fmt.Errorf("not Alertmanager's webhook: %w", err)
	}
	if m.Version != "4" {
		return m, fmt.Errorf("version %.20q of Alertmanager's webhook is unknown; this program knows 4", m.Version)
	}
	if m.GroupKey == "" {
		return m, errors.New("not Alertmanager's webhook: it has no groupKey")
	}
	for i, a := range m.Alerts {
		if a.Fingerprint == "" || a.StartsAt.IsZero() || a.Status != firing && a.Status != resolved {
			return m, fmt.Errorf("alerts[%d] has no fingerprint, start or known status", i)
		}
	}
	return m, nil
}

// heartbeat reports whether a message carries a firing Watchdog.
func (m Message) heartbeat() bool {
	return slices.ContainsFunc(m.Alerts, func(a MessageAlert) bool {
		return a.Labels["alertname"] == watchdogAlert && a.Status == firing
	})
}

// incidental returns the alerts that incidents are made of: no plumbing, and
// none that only tries the way.
func (m Message) incidental() []MessageAlert {
	return slices.DeleteFunc(slices.Clone(m.Alerts), func(a MessageAlert) bool {
		name := a.Labels["alertname"]
		return name == watchdogAlert || name == notify.TestAlert || a.Labels["severity"] == "none" || slices.Contains(aboutIncidents, name)
	})
}

// maxGroupKey is how much of a group's key stands in the index.
const maxGroupKey = 1024

// key identifies the group; a very long one by its digest.
func (m Message) key() string {
	if len(m.GroupKey) <= maxGroupKey {
		return m.GroupKey
	}
	sum := sha256.Sum256([]byte(m.GroupKey))
	return "sha256:" + hex.EncodeToString(sum[:])
}

// severities are the priorities of alerts that carry a severity only.
var severities = map[string]opstate.Priority{"critical": "P1", "warning": "P3", "info": "P4"}

func (a MessageAlert) priority() opstate.Priority {
	if p := opstate.Priority(a.Labels["priority"]); slices.Contains(opstate.Priorities, p) {
		return p
	}
	return cmp.Or(severities[a.Labels["severity"]], "P3")
}

func (a MessageAlert) event() *Event {
	return &Event{Fingerprint: a.Fingerprint, Status: a.Status, StartsAt: a.StartsAt, EndsAt: a.EndsAt, Labels: a.Labels, GeneratorURL: a.GeneratorURL}
}

// headline names an alert for people.
func (a MessageAlert) headline() string {
	name := a.Labels["alertname"]
	if at := a.Labels["instance"]; at != "" {
		name += " on " + at
	}
	if text := cmp.Or(a.Annotations["summary"], a.Annotations["description"]); text != "" {
		name += ": " + text
	}
	return cut(name, maxTitle)
}

// opening returns the title and priority of an incident about alerts: those of
// the most urgent.
func opening(alerts []MessageAlert) (string, opstate.Priority) {
	first := slices.MinFunc(alerts, func(a, b MessageAlert) int {
		return cmp.Or(cmp.Compare(a.priority(), b.priority()), a.StartsAt.Compare(b.StartsAt), cmp.Compare(a.Fingerprint, b.Fingerprint))
	})
	title := first.headline()
	if more := len(alerts) - 1; more > 0 {
		suffix := fmt.Sprintf(" (and %d more)", more)
		title = cut(title, maxTitle-len(suffix)) + suffix
	}
	return title, first.priority()
}

// episode is what an incident's timeline says about its alerts, by
// fingerprint, and about what was done.
type episode struct {
	alerts map[string]Event
	// quiet is since when all alerts have been resolved; zero while one fires.
	quiet                      time.Time
	evidence, escalated, cured bool
}

// play returns what a timeline adds up to.
func play(entries []Entry) *episode {
	e := &episode{alerts: map[string]Event{}}
	for _, x := range entries {
		e.add(x)
	}
	return e
}

func (e *episode) add(x Entry) {
	switch x.Kind {
	case KindAlert:
		if x.Alert == nil {
			return
		}
		e.alerts[x.Alert.Fingerprint] = Event{Fingerprint: x.Alert.Fingerprint, Status: x.Alert.Status, StartsAt: x.Alert.StartsAt, EndsAt: x.Alert.EndsAt}
		if x.Alert.Status == firing {
			e.quiet = time.Time{}
		}
	case KindResolved:
		e.quiet = x.At
	case KindEvidence:
		e.evidence = true
	case KindEscalated:
		e.escalated = true
	case KindHealth:
		e.cured = x.Well != nil && *x.Well
	}
}

// fires reports whether an alert is known to fire.
func (e *episode) fires() bool {
	for _, a := range e.alerts {
		if a.Status == firing {
			return true
		}
	}
	return false
}

// news reports whether an alert says what the episode does not know yet. What
// fires is believed, in whatever order messages come: an incident too many is
// better than one too few.
func (e *episode) news(a MessageAlert) bool {
	known, ok := e.alerts[a.Fingerprint]
	switch {
	case !ok:
		return a.Status == firing
	case a.Status == firing:
		return known.Status != firing || a.StartsAt.After(known.StartsAt)
	default: // it ends what began before its end
		return known.Status == firing && !a.EndsAt.Before(known.StartsAt)
	}
}

// entries returns what a message adds to an open incident.
func (e *episode) entries(m Message, now time.Time) []Entry {
	var out []Entry
	after := &episode{alerts: maps.Clone(e.alerts), quiet: e.quiet}
	for _, a := range m.incidental() {
		if after.news(a) {
			x := Entry{At: now, Kind: KindAlert, Text: a.Status + ": " + a.headline(), Alert: a.event()}
			after.add(x)
			out = append(out, x)
		}
	}
	// What was left out of a message may still fire.
	if m.TruncatedAlerts == 0 && after.quiet.IsZero() && !after.fires() && len(after.alerts) > 0 {
		out = append(out, Entry{At: now, Kind: KindResolved, Text: "all its alerts are resolved"})
	}
	if m.TruncatedAlerts > 0 && len(out) > 0 {
		out = append(out, Entry{At: now, Kind: KindNote, Text: fmt.Sprintf(
			"Alertmanager left %d more alerts of the group out; take max_alerts off its webhook", m.TruncatedAlerts)})
	}
	return out
}

// errFull says that so many incidents are open that another has to wait.
var errFull = errors.New("too many incidents are open")

// receiver turns messages into incidents. It is not for concurrent use.
type receiver struct {
	store   Store
	by      string
	maxOpen int
	now     func() time.Time
	// episodes of the incidents that messages came for.
	episodes map[string]*episode
	// behind says that the index may lag behind the timelines.
	behind bool
}

// episode returns what is known of an incident's alerts.
func (r *receiver) episode(id string) (*episode, error) {
	if e := r.episodes[id]; e != nil {
		return e, nil
	}
	entries, err := r.store.Timeline(id)
	if err != nil {
		return nil, err
	}
	e := play(entries)
	r.episodes[id] = e
	return e, nil
}

// receive does what a message asks for. When it returns nil, that is durable;
// otherwise the message has to come again. opened is the id of the incident
// that it opened, if any.
func (r *receiver) receive(ctx context.Context, m Message) (opened string, err error) {
	if r.behind {
		if err := r.store.Reconcile(ctx); err != nil {
			return "", err
		}
		r.behind = false
	}
	err = r.store.update(ctx, func(i *opstate.Incidents) error {
		var err error
		opened, err = r.apply(i, m)
		return err
	})
	if err != nil {
		r.behind = true
		clear(r.episodes)
		return "", err
	}
	return opened, nil
}

func (r *receiver) apply(i *opstate.Incidents, m Message) (opened string, err error) {
	now, ofGroup := r.now().UTC(), func(in opstate.Incident) bool { return in.GroupKey == m.key() }
	if at := slices.IndexFunc(i.Open, ofGroup); at >= 0 {
		id := i.Open[at].ID
		if err := r.follow(id, m, now); !errors.Is(err, ErrUnknown) {
			return "", err
		}
		if err := i.Close(id, now); err != nil { // someone has removed its directory
			return "", err
		}
	}
	before := &episode{alerts: map[string]Event{}}
	follows := ""
	for _, in := range slices.Backward(i.Closed) {
		if !ofGroup(in) {
			continue
		}
		// An alert that fires on after someone has closed the incident is no new one.
		if e, err := r.episode(in.ID); err == nil {
			before, follows = e, in.ID
		}
		break
	}
	var burning []MessageAlert
	fresh := false
	for _, a := range m.incidental() {
		if a.Status == firing {
			burning = append(burning, a)
			fresh = fresh || before.news(a)
		}
	}
	if !fresh {
		return "", errUnchanged
	}
	if len(i.Open) >= r.maxOpen {
		return "", fmt.Errorf("%w: %d; close some, or raise incident.listen.max_open", errFull, len(i.Open))
	}
	title, priority := opening(burning)
	entries := (&episode{alerts: map[string]Event{}}).entries(m, now)
	opened, err = r.store.open(i, New{Priority: priority, Title: title, By: r.by, GroupKey: m.key(), Follows: follows, At: now, Entries: entries})
	if err == nil {
		r.episodes[opened] = play(entries)
	}
	return opened, err
}

// follow adds what a message says to an open incident.
func (r *receiver) follow(id string, m Message, now time.Time) error {
	e, err := r.episode(id)
	if err != nil {
		return err
	}
	entries := e.entries(m, now)
	if len(entries) == 0 {
		return errUnchanged
	}
	if err := appendTimeline(r.store.Path(id), entries); err != nil {
		return err
	}
	for _, x := range entries {
		e.add(x)
	}
	return errUnchanged
}
