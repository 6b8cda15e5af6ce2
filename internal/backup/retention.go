// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package backup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"time"
)

// ErrNoPolicy says that a policy keeps nothing, which no one means.
var ErrNoPolicy = errors.New("backup.retention is empty: write how many to keep, such as {daily: 7, weekly: 4, monthly: 12}")

const (
	// neverFinishedAfter is when what has no manifest is removed.
	neverFinishedAfter = 24 * time.Hour
	// failedAfter is when one that failed its checks is removed, if a later one
	// has passed: until then someone may want to look at it.
	failedAfter = 7 * 24 * time.Hour
)

// Decision is what becomes of a backup, and why.
type Decision struct {
	Backup  Backup
	Keep    bool
	Reasons []string
}

// bucket keeps one backup for each of the last periods that have any: the
// newest of the highest class up to prefer.
type bucket struct {
	name   string
	prefer Class
	period func(time.Time) int
}

var buckets = []bucket{
	{"last", Daily, nil},
	{"daily", Daily, func(t time.Time) int { return t.Year()*1000 + t.YearDay() }},
	{"weekly", Full, func(t time.Time) int { y, w := t.ISOWeek(); return y*100 + w }},
	{"monthly", Archive, func(t time.Time) int { return t.Year()*100 + int(t.Month()) }},
	{"yearly", Archive, time.Time.Year},
}

// Rank orders the classes: a backup of a higher one serves as one of a lower, too.
func (c Class) Rank() int { return slices.Index(Classes, c) }

// Retain decides which of the backups in a directory, newest first, stay. Those
// that were verified fill the policy's buckets; those that were not fill buckets
// of their own, so that no unproven backup takes the place of a proven one. The
// newest verified and the newest drilled one always stay, and so do backups that
// other programs made, that are being made or could not be looked at.
func Retain(dir string, all []Backup, policy map[string]int, now time.Time) ([]Decision, error) {
	total := 0
	for _, n := range policy {
		total += n
	}
	if total <= 0 {
		return nil, ErrNoPolicy
	}
	reasons := map[string][]string{} // by name; Native ones only
	note := func(b Backup, format string, args ...any) {
		reasons[b.Name] = append(reasons[b.Name], fmt.Sprintf(format, args...))
	}
	var verified, unverified []Backup
	var newestVerified, newestDrilled *Backup
	for i, b := range all {
		if b.Layout != Native || b.State != Good {
			continue
		}
		if b.Checks.Drilled.Passed() && newestDrilled == nil {
			newestDrilled = &all[i]
		}
		if !b.Checks.Verified.Passed() {
			unverified = append(unverified, b)
			continue
		}
		if newestVerified == nil {
			newestVerified = &all[i]
		}
		verified = append(verified, b)
	}
	fill(verified, policy, "", note)
	fill(unverified, policy, "unverified, ", note)
	if newestVerified != nil {
		note(*newestVerified, "newest verified")
	}
	if newestDrilled != nil {
		note(*newestDrilled, "newest drilled")
	}

	var out []Decision
	for _, b := range all {
		d := Decision{Backup: b, Keep: true}
		switch {
		case b.Layout != Native:
			d.Reasons = []string{"another program's"}
		case b.State == Good:
			d.Reasons = reasons[b.Name]
			if d.Keep = len(d.Reasons) > 0; !d.Keep {
				d.Reasons = []string{"beyond the policy"}
			}
		case b.State == Incomplete || b.State == Failed:
			d.Keep, d.Reasons = keepBad(dir, b, newestVerified, now)
		default:
			d.Reasons = []string{string(b.State)}
		}
		out = append(out, d)
	}
	return out, nil
}

// fill notes which of the backups, newest first, the policy's buckets keep.
func fill(all []Backup, policy map[string]int, prefix string, note func(Backup, string, ...any)) {
	if len(all) == 0 {
		return
	}
	for _, b := range buckets {
		n := policy[b.name]
		if n <= 0 {
			continue
		}
		kept := b.choose(all)
		// While there are fewer periods than are wanted, the oldest is the start of what there will be.
		if oldest := all[len(all)-1]; len(kept) < n && kept[len(kept)-1].Name != oldest.Name {
			kept = append(kept, oldest)
		}
		for i, k := range kept[:min(n, len(kept))] {
			note(k, "%s%s %d of %d", prefix, b.name, i+1, n)
		}
	}
}

// choose returns the one of each period, newest first.
func (b bucket) choose(all []Backup) []Backup {
	var chosen []Backup
	last, rank := 0, 0
	for i, a := range all {
		r := min(a.Manifest.Class.Rank(), b.prefer.Rank())
		period := i
		if b.period != nil {
			period = b.period(a.Time.UTC())
		}
		switch {
		case len(chosen) == 0 || period != last:
			chosen, last, rank = append(chosen, a), period, r
		case r > rank:
			chosen[len(chosen)-1], rank = a, r
		}
	}
	return chosen
}

// keepBad decides about a backup that is none.
func keepBad(dir string, b Backup, verified *Backup, now time.Time) (bool, []string) {
	age := now.Sub(b.Time)
	why := string(b.State)
	if _, err := os.Lstat(ManifestPath(dir, b.Name)); errors.Is(err, fs.ErrNotExist) {
		return age < neverFinishedAfter, []string{why + ": never finished"}
	}
	// Its archive may be well, or mended: only a proven successor makes it needless.
	return age < failedAfter || verified == nil || !verified.Time.After(b.Time), []string{why}
}
