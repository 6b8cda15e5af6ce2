// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package opstate

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"
)

// Priority is an incident's priority, P1 the most urgent.
type Priority string

// Priorities lists the closed set.
var Priorities = []Priority{"P1", "P2", "P3", "P4"}

// Incidents is the index of incidents: those that are open, the latest that
// are closed, and totals over all there ever were.
type Incidents struct {
	Open   []Incident          `json:"open"`
	Closed []Incident          `json:"closed"`
	Totals map[Priority]Totals `json:"totals"`
}

// Incident is one incident.
type Incident struct {
	ID       string    `json:"id"`
	Priority Priority  `json:"priority"`
	Title    string    `json:"title"`
	Opened   time.Time `json:"opened"`
	// Acknowledged and Ended are zero until someone has done so.
	Acknowledged time.Time `json:"acknowledged,omitzero"`
	Ended        time.Time `json:"closed,omitzero"`
	// GroupKey is Alertmanager's, "" for an incident opened by hand.
	GroupKey string `json:"group_key,omitempty"`
}

// Totals are sums over all incidents of a priority. An incident that was closed
// without having been acknowledged counts as acknowledged when it was closed.
type Totals struct {
	Opened            int64   `json:"opened"`
	Acknowledged      int64   `json:"acknowledged"`
	Closed            int64   `json:"closed"`
	ResponseSeconds   float64 `json:"response_seconds"`
	ResolutionSeconds float64 `json:"resolution_seconds"`
}

// ErrNoIncident says that no open incident has the id.
var ErrNoIncident = errors.New("no open incident has this id")

// Add opens an incident.
func (i *Incidents) Add(in Incident) error {
	same := func(o Incident) bool { return o.ID == in.ID }
	if slices.ContainsFunc(i.Open, same) || slices.ContainsFunc(i.Closed, same) {
		return fmt.Errorf("the incident %s exists already", in.ID)
	}
	if !in.Acknowledged.IsZero() || !in.Ended.IsZero() {
		return fmt.Errorf("the incident %s is not a new one", in.ID)
	}
	i.Open = append(i.Open, in)
	i.total(in.Priority, func(t *Totals) { t.Opened++ })
	return nil
}

// Acknowledge notes that someone has taken on an incident. Only the first time counts.
func (i *Incidents) Acknowledge(id string, at time.Time) error {
	in := i.find(id)
	if in == nil {
		return fmt.Errorf("%s: %w", id, ErrNoIncident)
	}
	i.acknowledge(in, at)
	return nil
}

func (i *Incidents) acknowledge(in *Incident, at time.Time) {
	if !in.Acknowledged.IsZero() {
		return
	}
	in.Acknowledged = latest(at, in.Opened)
	i.total(in.Priority, func(t *Totals) {
		t.Acknowledged++
		t.ResponseSeconds += in.Acknowledged.Sub(in.Opened).Seconds()
	})
}

// Close closes an incident.
func (i *Incidents) Close(id string, at time.Time) error {
	in := i.find(id)
	if in == nil {
		return fmt.Errorf("%s: %w", id, ErrNoIncident)
	}
	i.acknowledge(in, at)
	in.Ended = latest(at, in.Opened)
	i.total(in.Priority, func(t *Totals) {
		t.Closed++
		t.ResolutionSeconds += in.Ended.Sub(in.Opened).Seconds()
	})
	i.Closed = append(i.Closed, *in)
	i.Closed = i.Closed[max(0, len(i.Closed)-maxClosed):]
	i.Open = slices.DeleteFunc(i.Open, func(o Incident) bool { return o.ID == id })
	return nil
}

// latest guards the totals, which never go down, against a clock that does.
func latest(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}

func (i *Incidents) find(id string) *Incident {
	at := slices.IndexFunc(i.Open, func(in Incident) bool { return in.ID == id })
	if at < 0 {
		return nil
	}
	return &i.Open[at]
}

func (i *Incidents) total(p Priority, change func(*Totals)) {
	if i.Totals == nil {
		i.Totals = map[Priority]Totals{}
	}
	t := i.Totals[p]
	change(&t)
	i.Totals[p] = t
}

func (Incidents) file() string { return "incidents.json" }

func (i Incidents) validate() error {
	if len(i.Open) > maxOpen {
		return fmt.Errorf("more than %d incidents are open", maxOpen)
	}
	if len(i.Closed) > maxClosed {
		return fmt.Errorf("more than %d closed incidents are kept", maxClosed)
	}
	for _, in := range slices.Concat(i.Open, i.Closed) {
		switch {
		case !incidentRE.MatchString(in.ID):
			return fmt.Errorf("%.100q is not the id of an incident", in.ID)
		case !slices.Contains(Priorities, in.Priority):
			return fmt.Errorf("the priority %.100q of %s is unknown", in.Priority, in.ID)
		}
		if err := errors.Join(validTime("opened", in.Opened), validText(in.Title), validText(in.GroupKey)); err != nil {
			return fmt.Errorf("%s: %w", in.ID, err)
		}
	}
	ids := map[string]bool{}
	for _, in := range i.Open {
		if ids[in.ID] {
			return fmt.Errorf("%s is open twice", in.ID)
		}
		ids[in.ID] = true
	}
	for _, p := range slices.Sorted(maps.Keys(i.Totals)) {
		t := i.Totals[p]
		if !slices.Contains(Priorities, p) {
			return fmt.Errorf("the priority %.100q is unknown", p)
		}
		if min(t.Opened, t.Acknowledged, t.Closed) < 0 || validSeconds(t.ResponseSeconds) != nil || validSeconds(t.ResolutionSeconds) != nil {
			return fmt.Errorf("the totals of %s are negative", p)
		}
	}
	return nil
}

// Oldest returns the open incident of a priority that has waited longest for
// someone to acknowledge it.
func (i Incidents) Oldest(p Priority) (oldest Incident, ok bool) {
	waiting := slices.DeleteFunc(slices.Clone(i.Open), func(in Incident) bool { return in.Priority != p || !in.Acknowledged.IsZero() })
	if len(waiting) == 0 {
		return Incident{}, false
	}
	return slices.MinFunc(waiting, func(a, b Incident) int { return cmp.Or(a.Opened.Compare(b.Opened), cmp.Compare(a.ID, b.ID)) }), true
}
