// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package backup

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/niodoo/niodoo_exporter/internal/atomicfile"
	"github.com/niodoo/niodoo_exporter/internal/config"
)

// sameTime is how far apart backups are that one entry of a crontab starts, or
// several that mean the same.
const sameTime = time.Hour

// StepAside returns why a backup of a class is not needed now: one of a higher
// class, which serves as this one too, was just made or is due today. It is ""
// if it is needed.
func StepAside(class Class, all []Backup, s config.BackupSchedule, now time.Time) string {
	due := dueOn(s, now)
	for _, b := range all {
		if b.Layout != Native || b.State != Good || b.Manifest.Class.Rank() <= class.Rank() {
			continue
		}
		if now.Sub(b.Time).Abs() < sameTime {
			return fmt.Sprintf("%s, of class %s, was just made", b.Name, b.Manifest.Class)
		}
		if b.Manifest.Class.Rank() >= due.Rank() && sameDay(b.Time, now) {
			due = "" // done, and someone wants another
		}
	}
	if due.Rank() > class.Rank() {
		return fmt.Sprintf("a backup of class %s is due today", due)
	}
	return ""
}

// dueOn returns the highest class that the schedule has on a day, in local time.
func dueOn(s config.BackupSchedule, now time.Time) Class {
	now = now.Local()
	switch {
	case s.Archive == now.Day():
		return Archive
	case strings.EqualFold(s.Full, now.Weekday().String()):
		return Full
	}
	return ""
}

func sameDay(a, b time.Time) bool {
	x, y := a.Local(), b.Local()
	return x.YearDay() == y.YearDay() && x.Year() == y.Year()
}

// Running is the backup that is being made.
type Running struct {
	Class   Class     `json:"class"`
	PID     int       `json:"pid"`
	Started time.Time `json:"started"`
}

func runningPath(dir string) string { return filepath.Join(dir, ".running.json") }

// SetRunning tells others what is being made. The caller holds the lock of the
// directory; done takes it back.
func SetRunning(dir string, r Running) (done func(), err error) {
	path := runningPath(dir)
	if err := atomicfile.RemoveLeftovers(path); err != nil {
		return nil, err
	}
	err = atomicfile.Replace(path, 0o644, func(w io.Writer) error { return json.NewEncoder(w).Encode(r) })
	return func() { _ = os.Remove(path) }, err
}

// ReadRunning returns what the holder of the lock makes, the zero value where
// that is not known. Without the lock being held it means nothing.
func ReadRunning(dir string) Running {
	var r Running
	f, _, err := atomicfile.Open(runningPath(dir))
	if err != nil {
		return r
	}
	defer f.Close()
	if err := json.NewDecoder(io.LimitReader(f, 4<<10)).Decode(&r); err != nil || !slices.Contains(Classes, r.Class) {
		return Running{}
	}
	return r
}

// Find returns the backup that someone means: by its name or that of one of its
// files, or "newest" for the newest good one of ours.
func Find(all []Backup, name string) (Backup, error) {
	if name == Newest {
		i := slices.IndexFunc(all, func(b Backup) bool { return b.Layout == Native && b.State == Good })
		if i < 0 {
			return Backup{}, errors.New("there is no good backup")
		}
		return all[i], nil
	}
	stem := filepath.Base(name)
	for _, suffix := range []string{encryptedSuffix, archiveSuffix, manifestSuffix, checksSuffix} {
		stem = strings.TrimSuffix(stem, suffix)
	}
	i := slices.IndexFunc(all, func(b Backup) bool { return b.Name == stem })
	if i < 0 {
		return Backup{}, fmt.Errorf("there is no backup %q; see niodooctl backup list", name)
	}
	return all[i], nil
}

// Newest is the name that stands for the newest good backup.
const Newest = "newest"
