// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/niodoo/niodoo_exporter/internal/backup"
	"github.com/niodoo/niodoo_exporter/internal/opstate"
	"github.com/niodoo/niodoo_exporter/internal/sim"
)

// The faults of logs, backups and operations: files that are not as they should be.

const day = 24 * time.Hour

var logFaults = []labFault{
	{"logs-error-storm", "logs", "The engine's log takes 200 error lines a second more.", func(ctx context.Context, l *lab) (func() error, error) {
		l.work.Go(func() {
			every(ctx, 100*time.Millisecond, func(context.Context) {
				line := fmt.Sprintf(`{"timestamp":%q,"level":"ERROR","fields":{"message":"database pool timed out"},"target":"niodoo::memory"}`+"\n", time.Now().UTC().Format(time.RFC3339Nano))
				for range 20 {
					_ = appendText(l.path("logs/niodoo.log"), line)
				}
			})
		})
		return nil, nil
	}},
	{"logs-silent", "logs", "Nothing is written to the logs any more.", func(_ context.Context, l *lab) (func() error, error) {
		l.stopLogs()
		return func() error { l.startLogs(); return nil }, nil
	}},
	{"logs-not-rotated", "logs", "A log has grown to 1.1 GiB, of which the disk holds nothing.", func(_ context.Context, l *lab) (func() error, error) {
		path := l.path("logs/unrotated.log")
		return func() error { return os.Remove(path) }, sparse(path, 1100<<20)
	}},
}

var backupFaults = []labFault{
	{"backup-missing", "backup", "Every backup is gone.", instead(func(*lab, string) error { return nil })},
	{"backup-old", "backup", "The newest backup is of 36 hours ago.", instead(func(l *lab, dir string) error { return sim.WriteBackup(dir, time.Now().Add(-36*time.Hour)) })},
	{"backup-overdue", "backup", "The newest backup is of four days ago.", instead(func(l *lab, dir string) error { return sim.WriteBackup(dir, time.Now().Add(-4*day)) })},
	{"backup-shrunk", "backup", "The newest backup is a tenth of the one before it.", besides(func(l *lab, dir string) error {
		at := time.Now().Add(-5 * time.Minute)
		path := filepath.Join(dir, "niodoo_backup_"+at.Format("20060102_150405")+".tar.gz")
		return errors.Join(os.WriteFile(path, append([]byte{0x1f, 0x8b, 8}, make([]byte, 400)...), 0o600), os.Chtimes(path, at, at))
	})},
	{"backup-incomplete", "backup", "A backup was never finished: its directory holds no database.", besides(func(l *lab, dir string) error {
		at := time.Now().Add(-3 * time.Hour)
		path := filepath.Join(dir, at.Format("20060102_150405"))
		return errors.Join(os.MkdirAll(filepath.Join(path, "config"), 0o700), os.Chtimes(filepath.Join(path, "config"), at, at), os.Chtimes(path, at, at))
	})},
	{"backup-bit-flipped", "backup", "A bit of a backup has flipped; its verification has found it.", besides(func(l *lab, dir string) error {
		return nativeBackup(dir, time.Hour, nil, &backup.Check{OK: false, Detail: "data/memory_layers.bin differs from its manifest"})
	})},
	{"backup-content-skipped", "backup", "The newest backup lacks the database.", besides(func(l *lab, dir string) error {
		return nativeBackup(dir, time.Hour, []backup.Skipped{{What: "postgresql", Why: "connection refused"}}, &backup.Check{OK: true})
	})},
	{"backup-not-verified", "backup", "The backups are verified no more, for ten days.", besides(func(l *lab, dir string) error {
		return errors.Join(nativeBackup(dir, 10*day, nil, nil), nativeBackup(dir, time.Hour, nil, nil))
	})},
	{"backup-not-drilled", "backup", "No backup has been restored for forty days, as a drill or otherwise.", besides(func(l *lab, dir string) error {
		return errors.Join(nativeBackup(dir, 40*day, nil, nil), nativeBackup(dir, time.Hour, nil, &backup.Check{OK: true}))
	})},
	{"backup-same-device", "backup", "The backups lie on the device of what they are to save.", func(_ context.Context, l *lab) (func() error, error) {
		lift := func() error {
			if err := os.Remove(l.path("source")); err != nil || l.source == "" {
				return err
			}
			return os.Symlink(l.source, l.path("source"))
		}
		if err := os.Remove(l.path("source")); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		return lift, os.Symlink(l.dir, l.path("source"))
	}},
	{"backup-does-not-fit", "backup", "The newest backup is larger than the room for the next.", besides(func(l *lab, dir string) error {
		at := time.Now().Add(-5 * time.Minute)
		path := filepath.Join(dir, "niodoo_backup_"+at.Format("20060102_150405")+".tar.gz")
		return errors.Join(os.WriteFile(path, []byte{0x1f, 0x8b, 8}, 0o600), os.Truncate(path, 8<<40), os.Chtimes(path, at, at))
	})},
}

// besides makes a fault of files that are written to the directory of backups,
// and removed from it at the end.
func besides(write func(l *lab, dir string) error) func(context.Context, *lab) (func() error, error) {
	return func(_ context.Context, l *lab) (func() error, error) {
		dir := l.path("backups")
		before, err := names(dir)
		if err == nil {
			err = write(l, dir)
		}
		after, listErr := names(dir)
		return func() error {
			var errs []error
			for _, name := range after {
				if !slices.Contains(before, name) {
					errs = append(errs, os.RemoveAll(filepath.Join(dir, name)))
				}
			}
			return errors.Join(errs...)
		}, errors.Join(err, listErr)
	}
}

// instead makes a fault of other backups in the place of those that are there.
func instead(write func(l *lab, dir string) error) func(context.Context, *lab) (func() error, error) {
	return func(_ context.Context, l *lab) (func() error, error) {
		dir, away := l.path("backups"), l.path("backups-instead")
		err := errors.Join(os.Rename(dir, away), os.Mkdir(dir, 0o700))
		if err == nil {
			err = write(l, dir)
		}
		return func() error { return errors.Join(os.RemoveAll(dir), os.Rename(away, dir)) }, err
	}
}

func names(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	var all []string
	for _, e := range entries {
		all = append(all, e.Name())
	}
	return all, err
}

// nativeBackup writes a backup of niodooctl's that was made so long ago, and
// what its verification found; nil is that it was not verified.
func nativeBackup(dir string, age time.Duration, skipped []backup.Skipped, verified *backup.Check) error {
	started := time.Now().Add(-age).UTC().Truncate(time.Second)
	content := fmt.Appendf(nil, "the data of %s", started)
	sum := sha256.Sum256(content)
	s := backup.Summary{Name: backup.Name(started), Class: backup.Daily, Host: "niodoo", Started: started, Seconds: 30, ContentBytes: int64(len(content)), Skipped: skipped}
	archive := backup.ArchivePath(dir, s.Name, false)
	s.Archive = &backup.ArchiveFile{File: filepath.Base(archive), Bytes: int64(len(content)), SHA256: hex.EncodeToString(sum[:])}
	entries := []backup.Entry{{Name: "data/memory_layers.bin", Bytes: int64(len(content)), SHA256: s.Archive.SHA256}}
	err := errors.Join(os.WriteFile(archive, content, 0o600), backup.WriteManifest(dir, s, slices.Values(entries)))
	if verified != nil {
		verified.Finished, verified.Seconds = started.Add(time.Minute), 12
		err = errors.Join(err, backup.WriteChecks(dir, s.Name, backup.Checks{SHA256: s.Archive.SHA256, Verified: verified}))
	}
	return err
}

var operationsFaults = []labFault{
	{"maintenance-overdue", "operations", "The daily maintenance last ended well three days ago.", document(func(m *opstate.Maintenance) error {
		m.Record("vacuum", opstate.Step{Started: time.Now().Add(-3 * day), Seconds: 60, Result: opstate.StepOK, Interval: day.Seconds()})
		return nil
	})},
	{"maintenance-failed", "operations", "The last run of a maintenance step failed.", document(func(m *opstate.Maintenance) error {
		m.Record("vacuum", opstate.Step{Started: time.Now().Add(-2 * time.Hour), Seconds: 60, Result: opstate.StepOK, Interval: day.Seconds()})
		m.Record("vacuum", opstate.Step{Started: time.Now().Add(-time.Hour), Seconds: 60, Result: opstate.StepFailed, Detail: "connection refused", Interval: day.Seconds()})
		return nil
	})},
	{"maintenance-running", "operations", "Maintenance is in progress for an hour.", document(func(m *opstate.Maintenance) error {
		m.Running = &opstate.Running{Plan: "daily", Started: time.Now().Add(-time.Second), Until: time.Now().Add(time.Hour)}
		return nil
	})},
	{"drill-failed", "operations", "The last restore drill failed.", document(func(d *opstate.Drills) error {
		d.Record(opstate.Drills{Finished: time.Now().Add(-time.Hour), Recovery: 100, Backup: "niodoo_backup_20261124_020000", Detail: "the rows of one table differ"})
		return nil
	})},
	{"health-run-overdue", "operations", "The last daily health run was three days ago.", document(func(h *opstate.Health) error {
		*h = opstate.Health{Finished: time.Now().Add(-3 * day), Seconds: 2, Verdict: opstate.Well, Components: map[string]opstate.Verdict{"engine": opstate.Well}}
		return nil
	})},
	{"incident-p1-unacknowledged", "operations", "An incident of priority P1 has been waiting for 20 minutes.", incident("P1", 20*time.Minute)},
	{"incident-p2-unacknowledged", "operations", "An incident of priority P2 has been waiting for two hours.", incident("P2", 2*time.Hour)},
	{"incident-p3-unacknowledged", "operations", "An incident of priority P3 has been waiting for six hours.", incident("P3", 6*time.Hour)},
	{"incident-p4-unacknowledged", "operations", "An incident of priority P4 has been waiting for eight days.", incident("P4", 8*day)},
}

// heartFaults are those of the listener for the heartbeat.
var heartFaults = []labFault{
	{"heartbeat-lost", "operations", "The listener hears no heartbeat of Prometheus and Alertmanager any more.", beat(func(h *heart) { h.deaf = true }, func(h *heart) { h.deaf = false })},
	{"heartbeat-listener-stopped", "operations", "The listener for the heartbeat gives no sign of life.", beat(func(h *heart) { h.dead = true }, func(h *heart) { h.dead = false })},
}

// document makes a fault of a document of the state directory, which is put
// back at the end.
func document[D opstate.Document](change func(*D) error) func(context.Context, *lab) (func() error, error) {
	return func(ctx context.Context, l *lab) (func() error, error) {
		dir := l.path("state")
		before, err := opstate.Read[D](dir)
		missing := errors.Is(err, os.ErrNotExist)
		if err = unless(err, os.ErrNotExist); err == nil {
			err = opstate.Update(ctx, dir, change)
		}
		return func() error {
			if missing {
				return os.Remove(opstate.Path[D](dir))
			}
			return opstate.Update(l.ctx, dir, func(d *D) error { *d = before; return nil })
		}, err
	}
}

func incident(p opstate.Priority, age time.Duration) func(context.Context, *lab) (func() error, error) {
	return func(ctx context.Context, l *lab) (func() error, error) {
		opened := time.Now().Add(-age).UTC()
		id := "INC-" + opened.Format("20060102-150405")
		end := func() error {
			return opstate.Update(l.ctx, l.path("state"), func(i *opstate.Incidents) error { return i.Close(id, time.Now()) })
		}
		return end, opstate.Update(ctx, l.path("state"), func(i *opstate.Incidents) error {
			in := opstate.Incident{ID: id, Priority: p, Title: "High processing latency", Opened: opened}
			err := i.Add(in)
			for n := 2; err != nil && n < 1000; n++ { // injected again within a second
				id = fmt.Sprintf("%s-%d", in.ID[:len("INC-20060102-150405")], n)
				in.ID = id
				err = i.Add(in)
			}
			return err
		})
	}
}

// heart is what the listener for the heartbeat would write.
type heart struct {
	deaf, dead bool
	received   time.Time
}

// heartInterval is how often the heartbeat comes.
const heartInterval = time.Second

// beatOn writes the heartbeat's document until ctx ends.
func (l *lab) beatOn(ctx context.Context) {
	every(ctx, heartInterval, func(ctx context.Context) {
		l.heartMu.Lock()
		h := l.heart
		if !h.deaf {
			l.heart.received = time.Now()
		}
		l.heartMu.Unlock()
		if !h.dead {
			_ = opstate.Update(ctx, l.path("state"), func(d *opstate.Heartbeat) error { // a full disk ends nothing
				d.Listening, d.Received = time.Now(), l.heart.received
				return nil
			})
		}
	})
}

func beat(begin, end func(*heart)) func(context.Context, *lab) (func() error, error) {
	return func(_ context.Context, l *lab) (func() error, error) {
		change := func(f func(*heart)) error {
			l.heartMu.Lock()
			defer l.heartMu.Unlock()
			f(&l.heart)
			return nil
		}
		return func() error { return change(end) }, change(begin)
	}
}

func appendText(path, text string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}

// sparse makes a file of a size of which the disk holds nothing.
func sparse(path string, size int64) error {
	return errors.Join(os.WriteFile(path, nil, 0o600), os.Truncate(path, size))
}
