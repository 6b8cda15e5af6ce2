// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"context"
	"errors"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/niodoo/niodoo_exporter/internal/config"
	"github.com/niodoo/niodoo_exporter/internal/logscan"
)

func init() { register("logs", newLogs) }

const (
	logsAbsent = "while there is no log file, which in the default directory is no fault"
	logsSince  = "since the exporter began with the file"
)

var (
	logsLines = counter("logs", "logs_lines_total",
		"Lines read "+logsSince+", by the level they carry", "log files, from where they ended then", "file", "level").absent(logsAbsent)
	logsMatches = counter("logs", "logs_matches_total",
		"Lines in a class of the operations manual's log analyzer "+logsSince+"; a line may be in several", "log files, its five grep patterns", "file", "class").absent(logsAbsent)
	logsBytes = counter("logs", "logs_bytes_total",
		"Bytes read "+logsSince, "log files", "file").absent(logsAbsent)
	logsLastError = gauge("logs", "logs_last_error_timestamp_seconds",
		"Time of the latest line of level error that was read: its own, or when it was read if it carries none", "log files", "file").
		absent("until a line of level error is read")
	logsLastWrite = gauge("logs", "logs_last_write_timestamp_seconds",
		"Time at which the file was last written", "the file's modification time", "file").absent("while the file does not exist or cannot be opened")
	logsSize = gauge("logs", "logs_file_size_bytes",
		"Size of the file", "stat", "file").absent("while the file does not exist or cannot be opened")
	logsLag = gauge("logs", "logs_lag_bytes",
		"Bytes of the log that are still to be read, those of rotated files included; a scrape reads 64 MiB or for 0.5 s at most", "stat, the position in the files", "file").absent(logsAbsent)
	logsRotations = counter("logs", "logs_rotations_total",
		"Times the file was seen to be rotated: replaced, or truncated", "its inode, length and first bytes", "file").absent(logsAbsent)
	logsReadErrors = counter("logs", "logs_read_errors_total",
		"Times the file could not be opened or read", "the operating system", "file").absent(logsAbsent)
)

// logs counts what is written to log files. It reads only while it is scraped;
// its counters are those of the process.
type logs struct {
	follower *logscan.Follower
	// mayMiss says that the paths are the default ones, which need not exist.
	mayMiss bool
}

func newLogs(cfg *config.Config, deps Deps) (Collector, error) {
	def := config.Default().Logs.Paths
	return &logs{
		follower: logscan.NewFollower(logscan.Options{
			Paths: cfg.Logs.Paths, Exclude: slices.Concat(cfg.Logs.Exclude, logscan.OwnReports),
			StateFile: cfg.Logs.StateFile, Now: deps.Now,
		}),
		mayMiss: !cfg.Section("logs").Named() || slices.Equal(cfg.Logs.Paths, def),
	}, nil
}

// Update implements [Collector]. A file or directory that cannot be read is a
// failure; the others are read all the same.
func (l *logs) Update(ctx context.Context, ch chan<- prometheus.Metric) error {
	files, errs := l.follower.Poll(ctx)
	paths := make([]string, len(files))
	for i := range files {
		paths[i] = files[i].Path
	}
	names := logsNames(paths)
	for i := range files {
		sendLog(ch, names[i], &files[i])
	}
	if l.mayMiss {
		errs = slices.DeleteFunc(errs, func(err error) bool {
			var path *logscan.PathError
			return errors.As(err, &path) && errors.Is(err, fs.ErrNotExist)
		})
	}
	if len(errs) == 0 {
		return nil
	}
	return fail(logsReason(errs[0]), errors.Join(errs...))
}

// Close saves the positions and closes the files.
func (l *logs) Close() error { return l.follower.Close() }

func logsReason(err error) Reason {
	switch {
	case errors.Is(err, logscan.ErrState):
		return ReasonParse
	case logscan.ErrNotRegular(err): // a directory where a file should be named
		return ReasonConfig
	}
	return classify(err)
}

func sendLog(ch chan<- prometheus.Metric, name string, f *logscan.Log) {
	for level, n := range f.Tally.Levels {
		ch <- logsLines.metric(float64(n), name, logscan.LevelNames[level])
	}
	for class, n := range f.Tally.Matches {
		ch <- logsMatches.metric(float64(n), name, logscan.ClassNames[class])
	}
	ch <- logsBytes.metric(float64(f.Tally.Bytes), name)
	ch <- logsLag.metric(float64(f.Lag), name)
	ch <- logsRotations.metric(float64(f.Rotations), name)
	ch <- logsReadErrors.metric(float64(f.ReadErrors), name)
	if !f.Tally.LastError.IsZero() {
		ch <- logsLastError.metric(logsSeconds(f.Tally.LastError), name)
	}
	if f.Exists {
		ch <- logsLastWrite.metric(logsSeconds(f.ModTime), name)
		ch <- logsSize.metric(float64(f.Size), name)
	}
}

// logsSeconds is a time in seconds since 1970, to the microsecond.
func logsSeconds(t time.Time) float64 { return float64(t.Unix()) + float64(t.Nanosecond())/1e9 }

// logsNames returns the base name of each path, and of those that share one the
// shortest end of the path that tells them apart. The names depend on nothing
// but the paths.
func logsNames(paths []string) []string {
	names := make([]string, len(paths))
	for depth, open := 1, len(paths) > 0; open; depth++ {
		count := map[string]int{}
		for _, p := range paths {
			count[pathEnd(p, depth)]++
		}
		open = false
		for i, p := range paths {
			if names[i] != "" {
				continue
			}
			if end := pathEnd(p, depth); count[end] == 1 || end == p {
				names[i] = end
			} else {
				open = true
			}
		}
	}
	return names
}

// pathEnd returns the last n elements of a path, or all of it.
func pathEnd(path string, n int) string {
	at := len(path)
	for range n {
		if at = strings.LastIndexByte(path[:at], filepath.Separator); at < 0 {
			return path
		}
	}
	return path[at+1:]
}
