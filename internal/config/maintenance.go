// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/common/model"
)

// MaintenanceSteps are the names of the plan's steps.
var MaintenanceSteps = []string{"health", "log_analysis", "report", "capacity_sample", "vacuum", "log_retention",
	"full_backup", "index_leftovers", "analyze", "reindex", "drift",
	"security_updates", "capacity", "drill", "doctor", "as_built"}

const (
	// maxStepTime is how long a maintenance step may take.
	maxStepTime = 12 * time.Hour
	// minRetention keeps a slip of the pen from removing yesterday's logs.
	minRetention = 24 * time.Hour
)

// Window is a time of the day, in local time. It may go over midnight.
type Window struct {
	from, to time.Duration // since midnight
	text     string
}

var windowRE = regexp.MustCompile(`^([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)$`)

// UnmarshalText reads HH:MM-HH:MM. What is none is kept as it is, for
// validation to tell its place.
func (w *Window) UnmarshalText(b []byte) error {
	*w = Window{text: string(b)}
	if windowRE.MatchString(w.text) {
		var h, m [2]time.Duration
		_, _ = fmt.Sscanf(w.text, "%d:%d-%d:%d", &h[0], &m[0], &h[1], &m[1])
		w.from, w.to = h[0]*time.Hour+m[0]*time.Minute, h[1]*time.Hour+m[1]*time.Minute
	}
	return nil
}

// MarshalText writes what was read.
func (w Window) MarshalText() ([]byte, error) { return []byte(w.text), nil }

func (w Window) String() string { return w.text }

// IsZero reports whether there is no window: any time is well.
func (w Window) IsZero() bool { return w.text == "" }

// Left returns how much is left of the window at a time, 0 outside of it. On a
// day when the clock changes it goes by the clock.
func (w Window) Left(at time.Time) time.Duration {
	h, m, s := at.Clock()
	now := time.Duration(h)*time.Hour + time.Duration(m)*time.Minute + time.Duration(s)*time.Second
	const day = 24 * time.Hour
	length, since := (w.to-w.from+day)%day, (now-w.from+day)%day
	return max(0, length-since)
}

// maintenance validates the section of that name.
func (d *decoder) maintenance() {
	c := d.cfg.Maintenance
	if c.PasswordFile != "" && c.User == "" {
		d.errorf("maintenance.password_file", "whose password is it? Write user too, or remove it: without user, postgresql.user logs in")
	}
	if w := c.Window; !w.IsZero() && (!windowRE.MatchString(w.text) || w.from == w.to) {
		d.errorf("maintenance.window", "%q: write HH:MM-HH:MM, such as 01:00-06:00", w.text)
	}
	for _, step := range slices.Sorted(maps.Keys(c.TimeLimits)) {
		key, limit := "maintenance.time_limits."+step, c.TimeLimits[step]
		switch {
		case !slices.Contains(MaintenanceSteps, step):
			d.errorf(key, "%q is no step; valid here: %s", step, strings.Join(MaintenanceSteps, ", "))
		case limit <= 0 || limit > duration(maxStepTime):
			d.errorf(key, "must be more than 0 and at most %s", duration(maxStepTime))
		}
	}
	d.positive("maintenance.lock_timeout", c.LockTimeout)
	d.positive("maintenance.long_transaction", c.LongTransaction)
	for i, name := range c.Indexes {
		if schema, index, ok := strings.Cut(name, "."); !ok || schema == "" || index == "" {
			d.errorf(fmt.Sprintf("maintenance.indexes[%d]", i), "%q: write SCHEMA.INDEX, such as public.events_time_idx", name)
		}
	}
	if c.BloatMinBytes < 1 {
		d.errorf("maintenance.bloat_min_bytes", "must be more than 0")
	}
	if !(c.BloatMaxDensity >= 0 && c.BloatMaxDensity <= 0.85) {
		d.errorf("maintenance.bloat_max_density", "is %v; write a ratio from 0, which is never, to 0.85: a fresh index has 0.9", c.BloatMaxDensity)
	}
	if c.DataDirectory != "" {
		d.paths("maintenance.data_directory", c.DataDirectory)
	}
	d.paths("maintenance.log_directories", c.LogDirectories...)
	for _, r := range []struct {
		key  string
		keep model.Duration
	}{{"log_retention", c.LogRetention}, {"incident_retention", c.IncidentRetention}} {
		if r.keep < duration(minRetention) {
			d.errorf("maintenance."+r.key, "is %s; at least %s are kept", r.keep, duration(minRetention))
		}
	}
	if c.ReportDirectory != "" {
		d.paths("maintenance.report_directory", c.ReportDirectory)
	}
}
