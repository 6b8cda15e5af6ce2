// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package opstate

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var at = time.Date(2026, 11, 24, 2, 0, 0, 0, time.UTC)

func set[D Document](t testing.TB, dir string, want D) {
	t.Helper()
	if err := Update(context.Background(), dir, func(d *D) error { *d = want; return nil }); err != nil {
		t.Fatal(err)
	}
}

func roundTrip[D Document](t *testing.T, want D) {
	t.Helper()
	dir := t.TempDir()
	if _, err := Read[D](dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("before it is written: %v", err)
	}
	set(t, dir, want)
	got, err := Read[D](dir)
	if d := cmp.Diff(want, got); d != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, d)
	}
	if info, err := os.Stat(Path[D](dir)); err != nil || info.Mode() != 0o644 {
		t.Errorf("the exporter cannot read it: %v, %v", info, err)
	}
}

func maintenance() Maintenance {
	return Maintenance{
		Steps: map[string]Step{
			"vacuum": {Started: at, Seconds: 3, Result: StepOK, Succeeded: at.Add(3 * time.Second), Interval: 86400},
			"drill":  {Started: at, Seconds: 0, Result: StepSkipped, Detail: "the engine is down"},
		},
		Running: &Running{Plan: "daily", Started: at, Until: at.Add(time.Hour)},
	}
}

func TestRoundTrips(t *testing.T) {
	t.Parallel()
	roundTrip(t, Health{Finished: at, Seconds: 0.4, Verdict: Warning, Components: map[string]Verdict{"redis": Well, "engine": Failing}})
	roundTrip(t, HealthHistory{Last: Health{Finished: at, Verdict: Well, Components: map[string]Verdict{}}, Since: at, Runs: map[Verdict]int64{Well: 3},
		Changes: []HealthChange{{At: at, Component: "redis", From: Failing, To: Well}}, Posted: []map[string]string{{"alertname": "ServiceDown"}}, Pending: map[string]time.Time{"{}": at},
		Mailed: []string{"ServiceDown redis"}, MailedAt: at})
	roundTrip(t, maintenance())
	roundTrip(t, Drills{Finished: at, OK: true, Recovery: 310, Backup: "niodoo_backup_20261124_020000", Succeeded: at})
	roundTrip(t, Heartbeat{Listening: at, Received: at, Peers: map[string]time.Time{"niodoo-2": at}})
	roundTrip(t, Incidents{
		Open:   []Incident{{ID: "INC-20261124-020000", Priority: "P1", Title: "System down", Opened: at, GroupKey: `{}:{alertname="X"}`}},
		Totals: map[Priority]Totals{"P1": {Opened: 1}},
	})
}

func TestRefused(t *testing.T) {
	t.Parallel()
	names := map[string]Verdict{}
	for i := range maxNames + 1 {
		names[fmt.Sprint(i)] = Well
	}
	long := strings.Repeat("x", maxText+1)
	for name, err := range map[string]error{
		"health without time":      Health{Verdict: Well}.validate(),
		"health without verdict":   Health{Finished: at}.validate(),
		"unknown verdict":          Health{Finished: at, Verdict: Well, Components: map[string]Verdict{"a": "fine"}}.validate(),
		"negative duration":        Health{Finished: at, Verdict: Well, Seconds: -1}.validate(),
		"too many components":      Health{Finished: at, Verdict: Well, Components: names}.validate(),
		"component with newline":   Health{Finished: at, Verdict: Well, Components: map[string]Verdict{"a\nb": Well}}.validate(),
		"history without time":     HealthHistory{Last: Health{Finished: at, Verdict: Well}}.validate(),
		"history's last":           HealthHistory{Since: at}.validate(),
		"history's change":         HealthHistory{Since: at, Last: Health{Finished: at, Verdict: Well}, Changes: []HealthChange{{At: at, To: "fine"}}}.validate(),
		"history's runs":           HealthHistory{Since: at, Last: Health{Finished: at, Verdict: Well}, Runs: map[Verdict]int64{Well: -1}}.validate(),
		"too many changes":         HealthHistory{Since: at, Last: Health{Finished: at, Verdict: Well}, Changes: make([]HealthChange, maxChanges+1)}.validate(),
		"step without result":      Maintenance{Steps: map[string]Step{"a": {Started: at}}}.validate(),
		"step without time":        Maintenance{Steps: map[string]Step{"a": {Result: StepOK}}}.validate(),
		"step's interval":          Maintenance{Steps: map[string]Step{"a": {Started: at, Result: StepOK, Interval: -1}}}.validate(),
		"endless maintenance":      Maintenance{Running: &Running{Plan: "daily", Started: at, Until: at.AddDate(7000, 0, 0)}}.validate(),
		"maintenance backwards":    Maintenance{Running: &Running{Plan: "daily", Started: at, Until: at}}.validate(),
		"maintenance without plan": Maintenance{Running: &Running{Started: at, Until: at.Add(1)}}.validate(),
		"drill without time":       Drills{OK: true}.validate(),
		"drill's detail":           Drills{Finished: at, Detail: long}.validate(),
		"peer without time":        Heartbeat{Peers: map[string]time.Time{"a": {}}}.validate(),
		"incident's id":            Incidents{Open: []Incident{{ID: "../x", Priority: "P1", Opened: at}}}.validate(),
		"incident's priority":      Incidents{Open: []Incident{{ID: "INC-20261124-020000", Priority: "P5", Opened: at}}}.validate(),
		"incident without time":    Incidents{Open: []Incident{{ID: "INC-20261124-020000", Priority: "P1"}}}.validate(),
		"incident's title":         Incidents{Closed: []Incident{{ID: "INC-20261124-020000", Priority: "P1", Opened: at, Title: long}}}.validate(),
		"incident twice":           Incidents{Open: []Incident{{ID: "INC-20261124-020000", Priority: "P1", Opened: at}, {ID: "INC-20261124-020000", Priority: "P1", Opened: at}}}.validate(),
		"totals' priority":         Incidents{Totals: map[Priority]Totals{"P0": {}}}.validate(),
		"negative totals":          Incidents{Totals: map[Priority]Totals{"P1": {Closed: -1}}}.validate(),
		"too many open":            Incidents{Open: make([]Incident, maxOpen+1)}.validate(),
		"too many closed":          Incidents{Closed: make([]Incident, maxClosed+1)}.validate(),
	} {
		if err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestDecodeErrors(t *testing.T) {
	t.Parallel()
	for raw, want := range map[string]error{
		"":                                   ErrDamaged,
		"{":                                  ErrDamaged,
		`{"version":1,"state":{"steps":{`:    ErrDamaged,
		`{"version":1}`:                      ErrDamaged,
		`{"version":1,"state":null}`:         ErrDamaged,
		`{"version":1,"state":[]}`:           ErrDamaged,
		`{"version":1,"state":{"steps":[]}}`: ErrDamaged,
		`{"version":1,"state":{"steps":{"x":{}}}}`:                          ErrDamaged,
		`{"version":0,"state":{}}`:                                          ErrDamaged,
		`{"version":2,"state":"something else altogether"}`:                 ErrVersion,
		`{"version":1,"state":{}} trailing`:                                 ErrDamaged,
		`{"version":1,"state":{"x":"` + strings.Repeat("x", MaxSize) + `"}`: ErrTooLarge,
	} {
		if _, err := Decode[Maintenance](strings.NewReader(raw)); !errors.Is(err, want) {
			t.Errorf("%.60s: %v, want %v", raw, err, want)
		}
	}
	if _, err := Decode[Maintenance](strings.NewReader(`{"version":1,"written_by":"1.9","state":{"steps":null,"weather":"fine"}}`)); err != nil {
		t.Errorf("unknown fields are refused: %v", err)
	}
}

// What cannot be read is neither believed nor overwritten, and its name is told.
func TestUpdateKeepsWhatItCannotRead(t *testing.T) {
	t.Parallel()
	for _, raw := range []string{`{"version":2,"state":{}}`, "half"} {
		dir := t.TempDir()
		path := Path[Health](dir)
		if err := os.WriteFile(path, []byte(raw), 0o600); err != nil {
			t.Fatal(err)
		}
		called := false
		err := Update(context.Background(), dir, func(*Health) error { called = true; return nil })
		if err == nil || called || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v, called: %v", raw, err, called)
		}
		if got, err := os.ReadFile(path); err != nil || string(got) != raw {
			t.Errorf("%s: the file is now %q, %v", raw, got, err)
		}
	}
}

func TestUpdateFailures(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	set(t, dir, Health{Finished: at, Verdict: Well})
	boom := errors.New("boom")
	if err := Update(context.Background(), dir, func(h *Health) error { h.Verdict = Failing; return boom }); !errors.Is(err, boom) {
		t.Error(err)
	}
	if err := Update(context.Background(), dir, func(h *Health) error { h.Verdict = "fine"; return nil }); err == nil {
		t.Error("an invalid document is written")
	}
	if h, err := Read[Health](dir); err != nil || h.Verdict != Well {
		t.Errorf("%+v, %v", h, err)
	}
	if err := Update(context.Background(), filepath.Join(dir, "missing"), func(*Health) error { return nil }); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without the directory: %v", err)
	}
	if err := errors.Join(os.Remove(Path[Health](dir)), os.Symlink("/etc/passwd", Path[Health](dir))); err != nil {
		t.Fatal(err)
	}
	if _, err := Read[Health](dir); err == nil || errors.Is(err, ErrDamaged) {
		t.Errorf("a symbolic link is followed: %v", err)
	}
}

// A writer that was killed leaves its file under construction and no lock.
func TestUpdateSweeps(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, ".health.json.tmp-123"), []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	set(t, dir, Health{Finished: at, Verdict: Well})
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	if d := cmp.Diff([]string{"health.json"}, names); d != "" {
		t.Error(d)
	}
}

// Writers take turns: none of their changes is lost, and readers always see a
// whole document meanwhile.
func TestConcurrentUpdates(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	const writers, each = 8, 10
	done := make(chan struct{})
	var readers, all sync.WaitGroup
	readers.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
			}
			if _, err := Read[Incidents](dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("reading meanwhile: %v", err)
				return
			}
		}
	})
	for w := range writers {
		all.Go(func() {
			for n := range each {
				err := Update(t.Context(), dir, func(i *Incidents) error {
					return i.Add(Incident{ID: fmt.Sprintf("INC-20261124-02%02d%02d", w, n), Priority: "P3", Opened: at})
				})
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	close(done)
	readers.Wait()
	i, err := Read[Incidents](dir)
	if err != nil || len(i.Open) != writers*each || i.Totals["P3"].Opened != writers*each {
		t.Errorf("%d incidents, totals %v, %v", len(i.Open), i.Totals, err)
	}
}

func TestLocked(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	unlock, err := Lock(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	if err := Update(ctx, dir, func(*Health) error { return nil }); !errors.Is(err, ErrLocked) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v, want locked", err)
	}
	unlock()
	set(t, dir, Health{Finished: at, Verdict: Well})
}

// TestKilledWriters kills writers at random moments: what is read afterwards is
// whole, and no lock is left.
func TestKilledWriters(t *testing.T) {
	t.Parallel()
	if dir := os.Getenv("OPSTATE_KILLED_WRITER"); dir != "" {
		for end := time.Now().Add(30 * time.Second); time.Now().Before(end); {
			err := Update(context.Background(), dir, func(h *Health) error {
				*h = Health{Finished: time.Now(), Verdict: Well, Components: h.Components}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		return
	}
	dir := t.TempDir()
	set(t, dir, Health{Finished: at, Verdict: Well, Components: map[string]Verdict{"engine": Warning}})
	for i := range 10 {
		before, err := Read[Health](dir)
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(os.Args[0], "-test.run=^TestKilledWriters$")
		cmd.Env = append(os.Environ(), "OPSTATE_KILLED_WRITER="+dir)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		deadline := time.Now().Add(20 * time.Second)
		for { // until it has written at least once
			h, err := Read[Health](dir)
			if err != nil {
				t.Fatalf("reading meanwhile: %v", err)
			}
			if h.Finished.After(before.Finished) {
				break
			}
			if time.Now().After(deadline) {
				t.Fatal("the writer does not write")
			}
			time.Sleep(time.Duration(i) * 100 * time.Microsecond)
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait()
		h, err := Read[Health](dir)
		if err != nil || h.Components["engine"] != Warning {
			t.Fatalf("after a kill: %+v, %v", h, err)
		}
	}
}

func TestIncidents(t *testing.T) {
	t.Parallel()
	var i Incidents
	id := func(n int) string { return fmt.Sprintf("INC-20261124-%06d", n) }
	for n, p := range []Priority{"P1", "P1", "P2"} {
		if err := i.Add(Incident{ID: id(n), Priority: p, Opened: at.Add(time.Duration(n) * time.Minute)}); err != nil {
			t.Fatal(err)
		}
	}
	if i.Add(Incident{ID: id(0), Priority: "P1", Opened: at}) == nil {
		t.Error("an id is used twice")
	}
	if i.Add(Incident{ID: id(9), Priority: "P1", Opened: at, Ended: at}) == nil {
		t.Error("a closed incident is opened")
	}
	if o, ok := i.Oldest("P1"); !ok || o.ID != id(0) {
		t.Errorf("oldest: %v, %v", o, ok)
	}
	for _, err := range []error{
		i.Acknowledge(id(0), at.Add(10*time.Minute)),
		i.Acknowledge(id(0), at.Add(time.Hour)), // the second does not count
		i.Close(id(0), at.Add(time.Hour)),
		i.Close(id(2), at.Add(-time.Hour)), // the clock was set back
	} {
		if err != nil {
			t.Error(err)
		}
	}
	for _, err := range []error{i.Acknowledge(id(0), at), i.Close(id(0), at), i.Close(id(7), at)} {
		if !errors.Is(err, ErrNoIncident) {
			t.Errorf("%v, want %v", err, ErrNoIncident)
		}
	}
	if o, ok := i.Oldest("P1"); !ok || o.ID != id(1) {
		t.Errorf("oldest: %v, %v", o, ok)
	}
	if _, ok := i.Oldest("P2"); ok {
		t.Error("a closed incident waits")
	}
	if i.Add(Incident{ID: id(0), Priority: "P1", Opened: at}) == nil {
		t.Error("the id of a closed incident is used again")
	}
	want := map[Priority]Totals{
		"P1": {Opened: 2, Acknowledged: 1, Closed: 1, ResponseSeconds: 600, ResolutionSeconds: 3600},
		"P2": {Opened: 1, Acknowledged: 1, Closed: 1},
	}
	if d := cmp.Diff(want, i.Totals); d != "" {
		t.Error(d)
	}
	for n := range maxClosed + 10 {
		if err := errors.Join(i.Add(Incident{ID: id(100 + n), Priority: "P4", Opened: at}), i.Close(id(100+n), at)); err != nil {
			t.Fatal(err)
		}
	}
	if len(i.Closed) != maxClosed || i.Totals["P4"].Closed != maxClosed+10 || i.Closed[maxClosed-1].ID != id(100+maxClosed+9) {
		t.Errorf("%d closed incidents are kept, totals %+v", len(i.Closed), i.Totals["P4"])
	}
}

func TestRecord(t *testing.T) {
	t.Parallel()
	var m Maintenance
	m.Record("vacuum", Step{Started: at, Seconds: 2, Result: StepOK})
	m.Record("vacuum", Step{Started: at.Add(time.Hour), Seconds: 1, Result: StepFailed})
	if s := m.Steps["vacuum"]; s.Result != StepFailed || !s.Succeeded.Equal(at.Add(2*time.Second)) {
		t.Errorf("%+v", s)
	}
	var d Drills
	d.Record(Drills{Finished: at, OK: true})
	d.Record(Drills{Finished: at.Add(time.Hour)})
	if d.OK || !d.Succeeded.Equal(at) {
		t.Errorf("%+v", d)
	}
	r := maintenance().Running
	for when, want := range map[time.Time]bool{at.Add(-1): false, at: true, at.Add(time.Hour - 1): true, at.Add(time.Hour): false} {
		if r.At(when) != want {
			t.Errorf("in progress at %s: %v", when, !want)
		}
	}
	if (*Running)(nil).At(at) {
		t.Error("nothing is in progress")
	}
}

func fuzzDocument[D Document](t *testing.T, raw []byte) {
	d, err := Decode[D](bytes.NewReader(raw))
	if err != nil {
		return
	}
	out, err := encode(d)
	if err != nil {
		t.Fatalf("what was read cannot be written: %v", err)
	}
	again, err := Decode[D](bytes.NewReader(out))
	a, _ := json.Marshal(d)
	b, _ := json.Marshal(again)
	if err != nil || !bytes.Equal(a, b) {
		t.Fatalf("%v\n%s\n%s", err, a, b)
	}
}

func FuzzDocuments(f *testing.F) {
	for _, s := range []string{
		`{"version":1,"state":{"finished":"2026-11-24T02:00:00Z","verdict":"well","components":{"engine":"failing"}}}`,
		`{"version":1,"state":{"steps":{"vacuum":{"started":"2026-11-24T02:00:00Z","result":"ok"}},"running":{"plan":"daily","started":"2026-11-24T02:00:00Z","until":"2026-11-24T03:00:00Z"}}}`,
		`{"version":1,"state":{"finished":"2026-11-24T02:00:00Z","ok":true,"recovery_seconds":3}}`,
		`{"version":1,"state":{"open":[{"id":"INC-20261124-020000","priority":"P1","opened":"2026-11-24T02:00:00Z"}],"totals":{"P1":{"opened":1}}}}`,
		`{"version":1,"state":{"received":"2026-11-24T02:00:00Z","peers":{"b":"2026-11-24T02:00:00Z"}}}`,
		`{"version":2}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		fuzzDocument[Health](t, raw)
		fuzzDocument[HealthHistory](t, raw)
		fuzzDocument[Maintenance](t, raw)
		fuzzDocument[Drills](t, raw)
		fuzzDocument[Incidents](t, raw)
		fuzzDocument[Heartbeat](t, raw)
	})
}
