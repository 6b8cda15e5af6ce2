// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/niodoo/niodoo_exporter/internal/opstate"
)

var opsNow = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

func opsScraper(t testing.TB, section string) *Scraper {
	t.Helper()
	return scraperWith(t, only(t, "operations", section), Deps{Now: func() time.Time { return opsNow }}, Options{})
}

func opsWrite[D opstate.Document](t testing.TB, dir string, change func(*D) error) {
	t.Helper()
	if err := opstate.Update(context.Background(), dir, change); err != nil {
		t.Fatal(err)
	}
}

// opsState is the state of a stack that niodooctl has worked on.
func opsState(t testing.TB) string {
	t.Helper()
	const h = time.Hour
	dir := t.TempDir()
	ago := func(d time.Duration) time.Time { return opsNow.Add(-d) }
	opsWrite(t, dir, func(d *opstate.Health) error {
		*d = opstate.Health{Finished: ago(5 * time.Minute), Seconds: 0.42, Verdict: opstate.Failing,
			Components: map[string]opstate.Verdict{"engine": opstate.Failing, "redis": opstate.Well, "qdrant": opstate.Unknown, "host": opstate.Warning}}
		return nil
	})
	opsWrite(t, dir, func(d *opstate.Maintenance) error {
		d.Record("vacuum", opstate.Step{Started: ago(30 * h), Seconds: 60, Result: opstate.StepOK, Interval: 86400})
		d.Record("vacuum", opstate.Step{Started: ago(6 * h), Seconds: 5, Result: opstate.StepFailed, Detail: "events: locked", Interval: 86400})
		d.Record("reindex", opstate.Step{Started: ago(6 * h), Result: opstate.StepSkipped, Detail: "the engine is down"})
		d.Running = &opstate.Running{Plan: "weekly", Started: ago(h), Until: opsNow.Add(h)}
		return nil
	})
	opsWrite(t, dir, func(d *opstate.Drills) error {
		d.Record(opstate.Drills{Finished: ago(720 * h), OK: true, Recovery: 310, Backup: "niodoo_backup_20261025_120000"})
		d.Record(opstate.Drills{Finished: ago(10 * h), Recovery: 20, Backup: "niodoo_backup_20261124_020000", Detail: "rows differ"})
		return nil
	})
	opsWrite(t, dir, func(d *opstate.Incidents) error {
		return errors.Join(
			d.Add(opstate.Incident{ID: "INC-20261123-120000", Priority: "P1", Title: "System down", Opened: ago(24 * h)}),
			d.Acknowledge("INC-20261123-120000", ago(24*h-10*time.Minute)),
			d.Close("INC-20261123-120000", ago(23*h)),
			d.Add(opstate.Incident{ID: "INC-20261124-110000", Priority: "P1", Title: "System down again", Opened: ago(h)}),
			d.Add(opstate.Incident{ID: "INC-20261124-113000", Priority: "P1", Title: "and again", Opened: ago(h / 2)}),
			d.Add(opstate.Incident{ID: "INC-20261124-100000", Priority: "P3", Title: "disk", Opened: ago(2 * h)}),
			d.Acknowledge("INC-20261124-100000", ago(h)),
		)
	})
	opsWrite(t, dir, func(d *opstate.Heartbeat) error {
		*d = opstate.Heartbeat{Listening: ago(time.Second), Received: ago(30 * time.Second), Peers: map[string]time.Time{"niodoo-2": ago(time.Minute)}}
		return nil
	})
	return dir
}

func TestOperations(t *testing.T) {
	t.Parallel()
	res := scrape(t, opsScraper(t, fmt.Sprintf("{state_dir: %q}", opsState(t))))
	golden(t, "operations", res.Families)
	for _, secret := range []string{"INC-", "locked", "again"} {
		if strings.Contains(text(res.Families), secret) {
			t.Errorf("%q is exported", secret)
		}
	}
}

// Maintenance that was killed does not silence alerts for ever.
func TestOperationsMaintenanceLimit(t *testing.T) {
	t.Parallel()
	dir := opsState(t)
	now := opsNow
	s := scraperWith(t, only(t, "operations", fmt.Sprintf("{state_dir: %q}", dir)), Deps{Now: func() time.Time { return now }}, Options{})
	for _, want := range []float64{1, 0} {
		if v := value(t, scrape(t, s).Families, "niodoo_operations_maintenance_in_progress"); v != want {
			t.Errorf("at %s in progress is %v, want %v", now, v, want)
		}
		now = opsNow.Add(time.Hour)
	}
}

// Where niodooctl has done nothing yet, only what is certain is reported.
func TestOperationsFresh(t *testing.T) {
	t.Parallel()
	golden(t, "operations_fresh", scrape(t, opsScraper(t, fmt.Sprintf("{state_dir: %q}", t.TempDir()))).Families)
}

func TestOperationsIdle(t *testing.T) {
	t.Parallel()
	if _, err := os.Stat("/var/lib/niodoo"); !errors.Is(err, fs.ErrNotExist) {
		t.Skip("this machine has /var/lib/niodoo")
	}
	res := scrape(t, opsScraper(t, "{}"))
	if v := value(t, res.Families, `niodoo_scrape_collector_success{collector="operations"}`); v != 1 {
		t.Errorf("success is %v: %v", v, res.Failures)
	}
	if strings.Contains(text(res.Families), "niodoo_operations_") {
		t.Error("an idle collector reports")
	}
}

func TestOperationsFailures(t *testing.T) {
	t.Parallel()
	path := opstate.Path[opstate.Incidents]
	for _, c := range []struct {
		name    string
		spoil   func(dir string) (section string, err error)
		reason  Reason
		reports bool // the other documents
	}{
		{"missing", func(dir string) (string, error) { return dir + "/missing", nil }, ReasonNotFound, false},
		{"a file", func(dir string) (string, error) { return path(dir), nil }, ReasonNotFound, false},
		{"cut off", func(dir string) (string, error) { return dir, os.Truncate(path(dir), 40) }, ReasonParse, true},
		{"empty", func(dir string) (string, error) { return dir, os.Truncate(path(dir), 0) }, ReasonParse, true},
		{"newer", func(dir string) (string, error) {
			return dir, os.WriteFile(path(dir), []byte(`{"version":2,"state":{}}`), 0o644)
		}, ReasonParse, true},
		{"huge", func(dir string) (string, error) { return dir, os.Truncate(path(dir), 1<<40) }, ReasonTooLarge, true},
		{"a link", func(dir string) (string, error) {
			return dir, errors.Join(os.Remove(path(dir)), os.Symlink("/etc/passwd", path(dir)))
		}, ReasonOther, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			dir, err := c.spoil(opsState(t))
			if err != nil {
				t.Fatal(err)
			}
			res := expectFailureOf(t, opsScraper(t, fmt.Sprintf("{state_dir: %q}", dir)), "operations", false, c.reason, 5*time.Second)
			if _, ok := lookup(res.Families, "niodoo_operations_incidents_open{priority=\"P1\"}"); ok {
				t.Error("incidents are reported that could not be read")
			}
			if _, ok := lookup(res.Families, "niodoo_operations_heartbeat_last_received_timestamp_seconds"); ok != c.reports {
				t.Errorf("the other documents are reported: %v, want %v", ok, c.reports)
			}
		})
	}
}

func TestOperationsPermission(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("", "operations") // t.TempDir is for its owner alone
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	opsWrite(t, dir, func(d *opstate.Health) error {
		*d = opstate.Health{Finished: opsNow, Verdict: opstate.Well}
		return nil
	})
	if err := errors.Join(os.Chmod(dir, 0o755), os.Chmod(opstate.Path[opstate.Health](dir), 0)); err != nil {
		t.Fatal(err)
	}
	o, err := newOperations(only(t, "operations", fmt.Sprintf("{state_dir: %q}", dir)), Deps{Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	ch := make(chan prometheus.Metric, 100)
	backupUnprivileged(t, func() { err = o.Update(context.Background(), ch) })
	if classify(err) != ReasonPermission {
		t.Errorf("reason %s of %v", classify(err), err)
	}
	if len(ch) == 0 {
		t.Error("one unreadable document hides the others")
	}
}
