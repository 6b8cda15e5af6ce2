// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package maintenance

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/niodoo/niodoo_exporter/internal/config"
	"github.com/niodoo/niodoo_exporter/internal/humanize"
	"github.com/niodoo/niodoo_exporter/internal/incident"
	"github.com/niodoo/niodoo_exporter/internal/logscan"
)

// rotated are the names of files that nobody writes to any more, each with the
// series it is one of. What a program writes to has none of these, but for the
// latest file of an appender that dates its files, which is the newest of its
// series and stays.
var rotated = []*regexp.Regexp{
	// logrotate's: niodoo.log.1, niodoo.log.2.gz, niodoo.log-20261124, niodoo.log-20261124-1795521600.zst.
	regexp.MustCompile(`^(.+\.(?:log|txt|json|jsonl|out|err))\.\d{1,4}(?:\.(?:gz|zst|xz|bz2))?$`),
	regexp.MustCompile(`^(.+)-\d{8}(?:-\d{2}|-\d{10})?(?:\.(?:gz|zst|xz|bz2))?$`),
	regexp.MustCompile(`^(.+)-\d{8}(?:-\d{2}|-\d{10})?(\.log)(?:\.(?:gz|zst|xz|bz2))?$`),
	// tracing-appender's: niodoo.2026-11-24, niodoo.log.2026-11-24-02, niodoo.2026-11-24.log.
	regexp.MustCompile(`^(.+)\.\d{4}-\d{2}-\d{2}(?:-\d{2}){0,2}(?:\.(?:gz|zst|xz|bz2))?$`),
	regexp.MustCompile(`^(.+)\.\d{4}-\d{2}-\d{2}(?:-\d{2}){0,2}(\.log)(?:\.(?:gz|zst|xz|bz2))?$`),
}

// reports are the names of the plan's own reports, which may lie beside the logs.
var reports = []*regexp.Regexp{regexp.MustCompile(`^(log_analysis|(?:performance|capacity|doctor)_report)_\d{8}\.txt$`)}

// series returns the series that a file is one of, "" for a file that is none
// of a series' past ones.
func series(names []*regexp.Regexp, file string) string {
	for _, re := range names {
		if m := re.FindStringSubmatch(file); m != nil {
			return strings.Join(m[1:], "*")
		}
	}
	return ""
}

// pastFile is a file that may be removed.
type pastFile struct {
	path    string
	dir     string
	series  string
	size    int64
	changed time.Time
	id      fileID
}

type fileID struct{ dev, ino uint64 }

func idOf(info fs.FileInfo) fileID {
	st, _ := info.Sys().(*syscall.Stat_t) // what os.Stat gives on Linux
	if st == nil {
		return fileID{}
	}
	return fileID{st.Dev, st.Ino}
}

// logDirectories are those of the logs, which retention is about.
func logDirectories(cfg *config.Config) ([]string, error) {
	if len(cfg.Maintenance.LogDirectories) > 0 {
		return cfg.Maintenance.LogDirectories, nil
	}
	var dirs []string
	for _, pattern := range cfg.Logs.Paths {
		found, err := logscan.Expand(filepath.Dir(pattern))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		if err == nil {
			dirs = append(dirs, found...)
		}
	}
	slices.Sort(dirs)
	return slices.Compact(dirs), nil
}

// rotatedToday returns the logs and those that were rotated within the last day,
// nothing if none was.
func rotatedToday(cfg *config.Config, now time.Time) ([]string, error) {
	var files []string
	none := true
	excluded := func(name string) bool {
		return logscan.Excluded(name, slices.Concat(cfg.Logs.Exclude, logscan.OwnReports))
	}
	for _, pattern := range cfg.Logs.Paths {
		found, err := logscan.Expand(pattern)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		files = append(files, found...)
		dirs, err := logscan.Expand(filepath.Dir(pattern))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		for _, dir := range dirs {
			entries, err := os.ReadDir(dir)
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return nil, err
			}
			for _, e := range entries {
				info, err := e.Info()
				log := series(rotated, e.Name())
				if log == "" || excluded(log) || err != nil || !info.Mode().IsRegular() || info.ModTime().Before(now.Add(-24*time.Hour)) {
					continue
				}
				files = append(files, filepath.Join(dir, e.Name()))
				none = false
			}
		}
	}
	if none {
		return nil, nil
	}
	files = slices.DeleteFunc(files, excluded)
	slices.Sort(files)
	return slices.Compact(files), nil
}

func retention(ctx context.Context, j *job) (outcome, error) {
	o, err := pastLogs(ctx, j)
	past, pruneErr := incident.Store{Dir: j.Config.Operations.StateDir}.Prune(ctx, j.Now().Add(-time.Duration(j.Config.Maintenance.IncidentRetention)), j.DryRun)
	var size int64
	for _, p := range past {
		j.would("removed", "remove", "%s, closed %s, %s", p.ID, p.Closed.Format(time.DateOnly), humanize.Value(humanize.Bytes, float64(p.Bytes)))
		size += p.Bytes
	}
	if len(past) > 0 {
		o.detail += fmt.Sprintf("; %d incidents, %s", len(past), humanize.Value(humanize.Bytes, float64(size)))
	}
	return o, errors.Join(err, pruneErr)
}

// pastLogs removes the logs and reports whose time is over.
func pastLogs(ctx context.Context, j *job) (outcome, error) {
	dirs, err := logDirectories(j.Config)
	if err != nil {
		return outcome{}, err
	}
	var old []pastFile
	for _, dir := range dirs {
		files, err := pastFiles(dir, rotated)
		if err != nil {
			return outcome{}, err
		}
		old = append(old, files...)
	}
	files, err := pastFiles(Reports(j.Config), reports)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return outcome{}, err
	}
	old = append(old, files...)
	keep := time.Duration(j.Config.Maintenance.LogRetention)
	old = slices.DeleteFunc(old, func(f pastFile) bool { return !f.changed.Before(j.Now().Add(-keep)) })
	if len(old) == 0 {
		return done(false, "nothing is older than %s", humanize.Duration(keep)), nil
	}
	opened, all, err := openFiles(j.Config.Host.ProcFS)
	if err != nil {
		return outcome{}, fmt.Errorf("it could not be told which files are open: %w", err)
	}
	var size int64
	var kept, problems []string
	removed := 0
	for _, f := range old {
		if ctx.Err() != nil {
			return failed("%d of %d files removed", removed, len(old)), ctx.Err()
		}
		if by := opened[f.id]; by != "" {
			kept = append(kept, fmt.Sprintf("%s is open in %s", f.path, by))
			continue
		}
		err := removeUnopened(f, all, j.DryRun)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			problems = append(problems, err.Error())
			continue
		}
		j.would("removed", "remove", "%s, %s, last changed %s", f.path, humanize.Value(humanize.Bytes, float64(f.size)), f.changed.Format(time.DateOnly))
		removed++
		size += f.size
	}
	for _, line := range slices.Concat(kept, problems) {
		j.say("kept: %s", line)
	}
	text := strings.Join(slices.Concat([]string{fmt.Sprintf("%d files, %s, older than %s", removed, humanize.Value(humanize.Bytes, float64(size)), humanize.Duration(keep))},
		kept, problems), "; ")
	if len(problems) > 0 {
		return failed("%s", text), nil
	}
	return done(len(kept) > 0, "%s", text), nil
}

// pastFiles lists the past files of a directory but for each series' newest. A
// link is no file of the directory's own.
func pastFiles(dir string, names []*regexp.Regexp) ([]pastFile, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	newest := map[string]pastFile{}
	var all []pastFile
	for _, e := range entries {
		s := series(names, e.Name())
		if s == "" || !e.Type().IsRegular() {
			continue
		}
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		f := pastFile{filepath.Join(dir, e.Name()), dir, s, info.Size(), info.ModTime(), idOf(info)}
		all = append(all, f)
		if n, ok := newest[s]; !ok || f.changed.After(n.changed) || f.changed.Equal(n.changed) && f.path > n.path {
			newest[s] = f
		}
	}
	return slices.DeleteFunc(all, func(f pastFile) bool { return newest[f.series].path == f.path }), nil
}

// openFiles returns the files that processes have open, each with the process.
// all says that no process kept its files from us.
func openFiles(procfs string) (opened map[fileID]string, all bool, err error) {
	entries, err := os.ReadDir(procfs)
	if err != nil {
		return nil, false, err
	}
	opened, all = map[fileID]string{}, true
	for _, e := range entries {
		if _, err := strconv.Atoi(e.Name()); err != nil {
			continue
		}
		dir := filepath.Join(procfs, e.Name(), "fd")
		fds, err := os.ReadDir(dir)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
			continue
		}
		if err != nil {
			all = false
			continue
		}
		name, _ := os.ReadFile(filepath.Join(procfs, e.Name(), "comm"))
		for _, fd := range fds {
			if info, err := os.Stat(filepath.Join(dir, fd.Name())); err == nil && info.Mode().IsRegular() {
				opened[idOf(info)] = fmt.Sprintf("process %s (%s)", e.Name(), strings.TrimSpace(string(name)))
			}
		}
	}
	return opened, all, nil
}

// removeUnopened removes a file unless a process has it open or it is not what
// it was. The kernel grants a write lease only on a file that nobody else has
// open, whosever the process is; it does so to the file's owner and to root.
// Without a lease, all processes must have shown their files.
func removeUnopened(f pastFile, all, dryRun bool) error {
	h, err := os.OpenFile(f.path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrPermission) && all {
		return remove(f, dryRun)
	}
	if err != nil {
		return err
	}
	defer h.Close() // with it goes the lease
	info, err := h.Stat()
	if err != nil {
		return err
	}
	if idOf(info) != f.id || !info.ModTime().Equal(f.changed) {
		return fmt.Errorf("%s has changed meanwhile", f.path)
	}
	_, err = unix.FcntlInt(h.Fd(), unix.F_SETLEASE, unix.F_WRLCK)
	switch {
	case errors.Is(err, unix.EAGAIN):
		return fmt.Errorf("%s is open in a process whose files are hidden from us", f.path)
	case err != nil && !all:
		return fmt.Errorf("%s: it could not be told whether it is open; run as its owner or as root", f.path)
	}
	return remove(f, dryRun)
}

func remove(f pastFile, dryRun bool) error {
	if dryRun {
		return nil
	}
	return os.Remove(f.path)
}
