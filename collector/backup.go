// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"context"
	"errors"
	"io/fs"
	"maps"
	"os"
	"slices"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"

	"github.com/niodoo/niodoo_exporter/internal/backup"
	"github.com/niodoo/niodoo_exporter/internal/config"
)

func init() { register("backup", newBackup) }

const (
	backupFiles    = "files of backup.directory"
	backupManifest = "the newest good backup's manifest"
	backupChecks   = "the backups' .checks.json"

	backupNoneGood   = "without a good backup"
	backupNoManifest = "without a good backup, and where the newest is one of the manual's scripts'"
)

// All are absent while the default directory does not exist; that is the whole
// collector's idleness and not noted with each.
var (
	backupCount = gauge("backup", "backup_backups",
		"Number of good backups: whole as far as can be told without reading every byte; 0 is worth an alert", backupFiles)
	backupByLayout = gauge("backup", "backup_layout_backups",
		"Number of good backups by layout: those of niodooctl, and the archives and directories of the manual's scripts", backupFiles, "layout")
	backupIncomplete = gauge("backup", "backup_incomplete",
		"Number of backups that were never finished or are damaged: left under construction for an hour, without a manifest, of the wrong length, with a truncated dump",
		backupFiles)
	backupInProgress = gauge("backup", "backup_in_progress",
		"Number of backups that were written to a short while ago and may yet be finished", backupFiles)
	backupFailed = gauge("backup", "backup_failed_checks",
		"Number of whole backups whose last verification or restore drill failed", backupChecks)
	backupUnreadable = gauge("backup", "backup_unreadable",
		"Number of backups that the exporter could not look at, or not believe because they are from the future; the collector fails too", backupFiles)
	backupTotalSize = gauge("backup", "backup_size_bytes",
		"Size of all backups together, incomplete ones included", backupFiles)

	backupNewest = gauge("backup", "backup_newest_timestamp_seconds",
		"Moment whose data the newest good backup holds", "its manifest's started; else the modification time, or the name's if they differ by more than a day").
		absent(backupNoneGood)
	backupOldest = gauge("backup", "backup_oldest_timestamp_seconds",
		"Moment whose data the oldest good backup holds", "as niodoo_backup_newest_timestamp_seconds").absent(backupNoneGood)
	backupNewestOfClass = gauge("backup", "backup_class_newest_timestamp_seconds",
		"Moment whose data the newest good backup of a retention class holds", "manifests: class, started", "class").
		absent("for classes without a good backup of niodooctl")
	backupSize = gauge("backup", "backup_newest_size_bytes",
		"Size of the newest good backup as it is stored", backupFiles).absent(backupNoneGood)
	backupPreviousSize = gauge("backup", "backup_previous_size_bytes",
		"Size of the good backup before the newest one in the same layout", backupFiles).absent("without two good backups in one layout")
	backupDuration = gauge("backup", "backup_newest_duration_seconds",
		"Time that making the newest good backup took", backupManifest+" duration_seconds").absent(backupNoManifest)
	backupSkipped = gauge("backup", "backup_newest_skipped",
		"Number of things left out of the newest good backup although they were to be in it", backupManifest+" skipped").absent(backupNoManifest)
	backupEncrypted = gauge("backup", "backup_newest_encrypted",
		"Whether the newest good backup is encrypted", backupManifest+" encryption").absent(backupNoManifest)
	backupVerified = gauge("backup", "backup_newest_verified",
		"Whether every byte of the newest good backup has been compared with its manifest", backupChecks+" verified").absent(backupNoManifest)
	backupCopied = gauge("backup", "backup_newest_copied",
		"Whether the newest good backup has been copied off the host", backupChecks+" copied").absent(backupNoManifest)
	backupVerifiedAt = gauge("backup", "backup_last_verification_timestamp_seconds",
		"Time at which a backup last passed its verification", backupChecks+" verified.finished").absent("until one has")
	backupVerifiedData = gauge("backup", "backup_verified_newest_timestamp_seconds",
		"Moment whose data the newest verified backup holds: what is certain to be there after a disaster", backupChecks+" verified").
		absent("until a backup has passed its verification")
	backupDrilledAt = gauge("backup", "backup_last_drill_timestamp_seconds",
		"Time at which a backup was last restored somewhere else and found to be right; niodoo_operations_drill_last_success_timestamp_seconds is from the drills' own record", backupChecks+" drilled.finished").absent("until one has")
	backupRecovery = gauge("backup", "backup_last_recovery_seconds",
		"Time that the last good restore drill took from the start to compared rows; niodoo_operations_drill_last_recovery_seconds is of the last one, good or not", backupChecks+" drilled.duration_seconds").
		absent("until a drill has succeeded")

	backupSameDevice = gauge("backup", "backup_same_device",
		"Whether the backups lie on the same device as what they are made of, and are lost with it",
		"stat of backup.directory and of backup.sources, or of /opt/niodoo/data", "source").absent("for sources that do not exist here")
	backupAvailable = gauge("backup", "backup_filesystem_avail_bytes",
		"Space that is left for backups", "statfs of backup.directory")
	backupFilesystem = gauge("backup", "backup_filesystem_size_bytes",
		"Size of the filesystem that holds the backups", "statfs of backup.directory")
	backupMaxAge = gauge("backup", "backup_max_age_seconds",
		"Age that the newest backup may have", "the configuration: backup.max_age")
)

// backups looks through the backup directory. The scanner reads a manifest
// again only when it has changed.
type backups struct {
	cfg     config.Backup
	scanner *backup.Scanner
	now     func() time.Time
}

func newBackup(cfg *config.Config, deps Deps) (Collector, error) {
	return &backups{cfg: cfg.Backup, scanner: backup.NewScanner(cfg.Backup.Directory), now: deps.Now}, nil
}

// Update implements [Collector].
func (b *backups) Update(ctx context.Context, ch chan<- prometheus.Metric) error {
	dir, err := backupDevice(b.cfg.Directory)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) && b.cfg.Directory == config.Default().Backup.Directory {
			return nil
		}
		return err
	}
	ch <- backupMaxAge.metric(time.Duration(b.cfg.MaxAge).Seconds())
	sizeErr := b.filesystem(ch)
	b.devices(ch, dir)
	all, err := b.scanner.Scan(ctx, b.now())
	if all == nil && err != nil {
		return backupFailure(err)
	}
	backupReport(ch, all)
	if err != nil {
		return backupFailure(err)
	}
	return sizeErr
}

// backupFailure gives what is wrong with a file of ours its reason.
func backupFailure(err error) error {
	switch {
	case errors.Is(err, fs.ErrPermission): // may be one among several
		return fail(ReasonPermission, err)
	case errors.Is(err, backup.ErrTooLarge):
		return fail(ReasonTooLarge, err)
	case errors.Is(err, backup.ErrVersion), errors.Is(err, backup.ErrDamaged), errors.Is(err, backup.ErrFuture):
		return fail(ReasonParse, err)
	}
	return err
}

func (b *backups) filesystem(ch chan<- prometheus.Metric) error {
	var st unix.Statfs_t
	if err := unix.Statfs(b.cfg.Directory, &st); err != nil {
		return &os.PathError{Op: "statfs", Path: b.cfg.Directory, Err: err}
	}
	ch <- backupFilesystem.metric(float64(st.Blocks) * float64(st.Frsize))
	ch <- backupAvailable.metric(float64(st.Bavail) * float64(st.Frsize))
	return nil
}

// devices compares the directory's device with that of each source.
func (b *backups) devices(ch chan<- prometheus.Metric, dev uint64) {
	sources := b.cfg.Sources
	if len(sources) == 0 {
		sources = map[string]string{"data": "/opt/niodoo/data"}
	}
	for _, name := range slices.Sorted(maps.Keys(sources)) {
		if of, err := backupDevice(sources[name]); err == nil {
			ch <- backupSameDevice.boolean(of == dev, name)
		}
	}
}

// backupDevice returns the device that a path lies on.
func backupDevice(path string) (uint64, error) {
	info, err := os.Stat(path)
	if err != nil {
		return 0, err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, errors.ErrUnsupported
	}
	return uint64(st.Dev), nil //nolint:unconvert // 32 bits wide on other systems
}

// backupReport sends what is known of the backups, which are newest first.
func backupReport(ch chan<- prometheus.Metric, all []backup.Backup) {
	states := map[backup.State]int{}
	layouts := map[backup.Layout]int{}
	classes := map[backup.Class]time.Time{}
	var total int64
	var good []backup.Backup
	var verified, drilled *backup.Check
	var verifiedData time.Time
	for _, a := range all {
		states[a.State]++
		total += a.Bytes
		if a.State != backup.Good {
			continue
		}
		good = append(good, a)
		layouts[a.Layout]++
		if a.Manifest == nil {
			continue
		}
		if _, ok := classes[a.Manifest.Class]; !ok {
			classes[a.Manifest.Class] = a.Time
		}
		if a.Checks.Verified.Passed() && verifiedData.IsZero() {
			verifiedData = a.Time
		}
		verified = backupLater(verified, a.Checks.Verified)
		drilled = backupLater(drilled, a.Checks.Drilled)
	}
	ch <- backupCount.metric(float64(len(good)))
	for _, l := range backup.Layouts {
		ch <- backupByLayout.metric(float64(layouts[l]), string(l))
	}
	for _, s := range []struct {
		desc  *Desc
		state backup.State
	}{{backupIncomplete, backup.Incomplete}, {backupInProgress, backup.InProgress}, {backupFailed, backup.Failed}, {backupUnreadable, backup.Unknown}} {
		ch <- s.desc.metric(float64(states[s.state]))
	}
	ch <- backupTotalSize.metric(float64(total))
	for class, at := range classes {
		ch <- backupNewestOfClass.metric(float64(at.Unix()), string(class))
	}
	if verified != nil {
		ch <- backupVerifiedAt.metric(float64(verified.Finished.Unix()))
		ch <- backupVerifiedData.metric(float64(verifiedData.Unix()))
	}
	if drilled != nil {
		ch <- backupDrilledAt.metric(float64(drilled.Finished.Unix()))
		ch <- backupRecovery.metric(drilled.Seconds)
	}
	if len(good) > 0 {
		backupReportNewest(ch, good)
	}
}

func backupReportNewest(ch chan<- prometheus.Metric, good []backup.Backup) {
	newest := good[0]
	ch <- backupNewest.metric(float64(newest.Time.Unix()))
	ch <- backupOldest.metric(float64(good[len(good)-1].Time.Unix()))
	ch <- backupSize.metric(float64(newest.ArchiveBytes))
	previous := slices.IndexFunc(good[1:], func(b backup.Backup) bool { return b.Layout == newest.Layout })
	if previous >= 0 {
		ch <- backupPreviousSize.metric(float64(good[1+previous].ArchiveBytes))
	}
	m := newest.Manifest
	if m == nil {
		return
	}
	ch <- backupDuration.metric(m.Seconds)
	ch <- backupSkipped.metric(float64(len(m.Skipped)))
	ch <- backupEncrypted.boolean(m.Encryption != nil)
	ch <- backupVerified.boolean(newest.Checks.Verified.Passed())
	ch <- backupCopied.boolean(newest.Checks.Copied.Passed())
}

// backupLater returns the later of two checks that passed, nil for none.
func backupLater(a, b *backup.Check) *backup.Check {
	if b.Passed() && (a == nil || b.Finished.After(a.Finished)) {
		return b
	}
	return a
}
