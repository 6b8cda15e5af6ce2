// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package incident

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/niodoo/niodoo_exporter/internal/opstate"
	"github.com/niodoo/niodoo_exporter/internal/thresholds"
)

var at = time.Date(2026, 11, 24, 2, 0, 0, 0, time.UTC)

func newStore(t *testing.T) Store {
	t.Helper()
	s := Store{filepath.Join(t.TempDir(), "state")}
	if err := s.Prepare(); err != nil {
		t.Fatal(err)
	}
	return s
}

func open(t *testing.T, s Store, n New) string {
	t.Helper()
	if n.Priority == "" {
		n.Priority, n.Title = "P1", "the engine is down"
	}
	if n.At.IsZero() {
		n.At = at
	}
	id, err := s.Open(t.Context(), n)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func index(t *testing.T, s Store) opstate.Incidents {
	t.Helper()
	i, err := s.Index()
	if err != nil {
		t.Fatal(err)
	}
	return i
}

func kinds(t *testing.T, s Store, id string) string {
	t.Helper()
	entries, err := s.Timeline(id)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, e := range entries {
		all = append(all, string(e.Kind))
	}
	return strings.Join(all, " ")
}

func TestLife(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	id := open(t, s, New{Priority: "P2", Title: "  it is\x1b[2J\nslow ", By: "ann"})
	if id != "INC-20261124-020000" {
		t.Errorf("the id is %s", id)
	}
	if again := open(t, s, New{}); again != id+"-1" {
		t.Errorf("the second of the second is %s", again)
	}
	for _, err := range []error{
		s.Acknowledge(t.Context(), id, "ann", at.Add(time.Minute)),
		s.Acknowledge(t.Context(), id, "bob", at.Add(2*time.Minute)), // joins
		s.Append(t.Context(), id, Entry{At: at.Add(3 * time.Minute), Kind: KindNote, By: "bob", Text: "the cache is cold"}),
		s.Close(t.Context(), id, "ann", "a cold cache", at.Add(time.Hour), at.Add(time.Hour)),
		s.Append(t.Context(), id, Entry{At: at.Add(2 * time.Hour), Kind: KindNote, By: "ann", Text: "afterwards"}),
	} {
		if err != nil {
			t.Error(err)
		}
	}
	if err := s.Close(t.Context(), id, "ann", "again", at, at); !errors.Is(err, ErrClosed) {
		t.Errorf("closing twice: %v", err)
	}
	for _, unknown := range []string{"INC-20200101-000000", "INC-20261124-020000-9"} {
		if err := s.Acknowledge(t.Context(), unknown, "ann", at); !errors.Is(err, ErrUnknown) {
			t.Errorf("%s: %v", unknown, err)
		}
	}
	if err := s.Append(t.Context(), "../../etc", Entry{}); !errors.Is(err, ErrNotAnID) {
		t.Errorf("a path as an id: %v", err)
	}
	if _, err := s.Open(t.Context(), New{Priority: "P1", Title: " \n"}); err == nil {
		t.Error("an incident without a title")
	}
	if got := kinds(t, s, id); got != "opened acknowledged acknowledged note closed note" {
		t.Error(got)
	}
	i := index(t, s)
	if len(i.Open) != 1 || len(i.Closed) != 1 || i.Closed[0].Title != "it is [2J slow" {
		t.Errorf("%+v", i)
	}
	want := opstate.Totals{Opened: 1, Acknowledged: 1, Closed: 1, ResponseSeconds: 60, ResolutionSeconds: 3600}
	if d := cmp.Diff(want, i.Totals["P2"]); d != "" {
		t.Error(d)
	}
	r, err := s.Report(id, thresholds.Default(), at.Add(3*time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	if r.Response != 60 || r.ResponseTarget != 3600 || r.ResponseMissed || r.Resolution != 3600 || r.Escalation != "Within 4 hours" || !r.EscalateBy.Equal(at.Add(4*time.Hour)) {
		t.Errorf("%+v", r)
	}
}

// Whatever is killed between the timeline and the index is made up for.
func TestReconcile(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	lost, closed, acked, well := open(t, s, New{GroupKey: "g"}), open(t, s, New{}), open(t, s, New{}), open(t, s, New{})
	longAgo := open(t, s, New{})
	if err := s.Close(t.Context(), longAgo, "", "", at, at); err != nil {
		t.Fatal(err)
	}
	for id, e := range map[string]Entry{
		closed: {At: at.Add(time.Hour), Kind: KindClosed, Ended: at.Add(time.Minute)},
		acked:  {At: at.Add(time.Minute), Kind: KindAcknowledged},
	} {
		if err := s.Append(t.Context(), id, e); err != nil {
			t.Fatal(err)
		}
	}
	err := opstate.Update(t.Context(), s.Dir, func(i *opstate.Incidents) error {
		is := func(in opstate.Incident) bool { return in.ID == lost }
		i.Open, i.Closed = slices.DeleteFunc(i.Open, is), nil
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	// Neither half a directory nor one of another name is an incident.
	for _, dir := range []string{buildingSuffix, "INC-20261124-030000", "other"} {
		if err := os.MkdirAll(s.Path(dir), 0o750); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		if err := s.Reconcile(t.Context()); err != nil {
			t.Fatal(err)
		}
		i := index(t, s)
		var ids []string
		for _, in := range i.Open {
			ids = append(ids, in.ID)
			if in.ID == lost && in.GroupKey != "g" {
				t.Error("the group is lost")
			}
			if (in.ID == acked) == in.Acknowledged.IsZero() {
				t.Errorf("%s acknowledged %s", in.ID, in.Acknowledged)
			}
		}
		slices.Sort(ids)
		if d := cmp.Diff([]string{lost, acked, well}, ids); d != "" {
			t.Error(d)
		}
		if len(i.Closed) != 1 || i.Closed[0].ID != closed || !i.Closed[0].Ended.Equal(at.Add(time.Minute)) {
			t.Errorf("closed: %+v", i.Closed)
		}
	}
	if id := open(t, s, New{}); id == lost || id == longAgo {
		t.Errorf("the id %s is used again", id)
	}
}

// What a killed writer left at the end of a timeline was promised to nobody.
func TestTornTimeline(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	id := open(t, s, New{})
	path := filepath.Join(s.Path(id), timelineFile)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, torn := range []string{`{"at":"2026`, strings.Repeat("x", 200<<10)} {
		if err := os.WriteFile(path, append(slices.Clone(whole), torn...), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := kinds(t, s, id); got != "opened" {
			t.Errorf("%.20q: %s", torn, got)
		}
		if err := s.Append(t.Context(), id, Entry{At: at, Kind: KindNote, Text: "after"}); err != nil {
			t.Fatal(err)
		}
		if got := kinds(t, s, id); got != "opened note" {
			t.Errorf("%.20q: %s", torn, got)
		}
	}
	if err := os.WriteFile(path, []byte("no JSON\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Timeline(id); err == nil || !strings.Contains(err.Error(), "timeline.jsonl:1:") {
		t.Errorf("a damaged line: %v", err)
	}
}

func TestPlans(t *testing.T) {
	t.Parallel()
	friday := time.Date(2026, 11, 27, 15, 0, 0, 0, time.Local)
	for _, c := range []struct {
		priority opstate.Priority
		response time.Duration
		escalate time.Time
		restarts bool
	}{
		{"P1", 15 * time.Minute, friday, true},
		{"P2", time.Hour, friday.Add(4 * time.Hour), true},
		{"P3", 4 * time.Hour, time.Date(2026, 11, 30, 9, 0, 0, 0, time.Local), false},
		{"P4", 7 * 24 * time.Hour, friday.Add(14 * 24 * time.Hour), false},
	} {
		p := PlanOf(c.priority, thresholds.Default())
		if p.Response != c.response || !p.EscalateAt(friday).Equal(c.escalate) || p.Restarts != c.restarts || p.Means == "" || p.Escalation == "" {
			t.Errorf("%s: %+v, escalated %s", c.priority, p, p.EscalateAt(friday))
		}
	}
	if len(plans) != len(opstate.Priorities) {
		t.Error("a priority has no plan")
	}
}
