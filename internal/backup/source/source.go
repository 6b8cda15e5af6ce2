// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

// Package source makes backups: it reads what the stack consists of -
// PostgreSQL, Redis, Qdrant, the models' list, directories - into an archive of
// package backup.
package source

import (
	"archive/tar"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"filippo.io/age"

	"github.com/prometheus/common/version"

	"github.com/niodoo/niodoo_exporter/internal/atomicfile"
	"github.com/niodoo/niodoo_exporter/internal/backup"
	"github.com/niodoo/niodoo_exporter/internal/config"
	"github.com/niodoo/niodoo_exporter/internal/observe"
)

// run is a backup in the making.
type run struct {
	cfg     *config.Config
	dir     string
	dirInfo fs.FileInfo
	archive *backup.ArchiveWriter
	summary backup.Summary
	// dumps come while the other parts are added; nil without PostgreSQL.
	dumps *dumps
}

func (b *run) skip(what, why string) {
	b.summary.Skipped = appendBounded(b.summary.Skipped, backup.Skipped{What: printable(what), Why: printable(why)},
		func(n int) backup.Skipped {
			return backup.Skipped{What: "more", Why: fmt.Sprintf("only the first %d are listed", n)}
		})
}

func (b *run) warn(text string) {
	b.summary.Warnings = appendBounded(b.summary.Warnings, printable(text),
		func(n int) string { return fmt.Sprintf("more than these %d", n) })
}

// maxNotes bounds the lists of a summary, whose whole size is bounded.
const (
	maxNotes    = 500
	maxNoteText = 600
)

func appendBounded[T any](list []T, v T, last func(int) T) []T {
	switch n := len(list); {
	case n < maxNotes:
		return append(list, v)
	case n == maxNotes:
		return append(list, last(n))
	}
	return list
}

// printable returns text that fits into a manifest.
func printable(s string) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	if len(s) > maxNoteText {
		s = strings.ToValidUTF8(s[:maxNoteText], "") + " ..."
	}
	return s
}

func (b *run) rows(of string) map[string]backup.Rows {
	if b.summary.Rows[of] == nil {
		b.summary.Rows[of] = map[string]backup.Rows{}
	}
	return b.summary.Rows[of]
}

// member is the header of a file that did not exist before.
func (b *run) member(name string) *tar.Header {
	return &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o600, ModTime: b.summary.Started}
}

// Options say what backup to make.
type Options struct {
	Class backup.Class
	// Now is the moment it starts.
	Now time.Time
	// Progress, if set, is told of every piece of content, also by several
	// goroutines at a time.
	Progress func(bytes int64)
}

// readme tells how a backup is restored without this program.
//
//go:embed readme.txt
var readme string

// parts are what a backup consists of, in the order of the archive. Without the
// essential ones it is none; what else fails is noted as skipped. PostgreSQL is
// dumped beside the others, since a dump comes no faster than one of the
// server's processes makes it.
var parts = []struct {
	name      string
	essential bool
	section   string // that must be enabled
	backUp    func(context.Context, *run) error
}{
	{"Redis", false, "redis", backUpRedis},
	{"Qdrant", false, "qdrant", backUpQdrant},
	{"Ollama's models", false, "ollama", backUpOllama},
	{"files", true, "", backUpFiles},
	{"PostgreSQL", true, "postgresql", func(_ context.Context, b *run) error { return b.dumps.add(b) }},
}

// Create makes a backup. The caller holds the lock of the directory. It returns
// the manifest's summary, whose lists say what is not in the backup; after an
// error there is no backup, and nothing of it is left.
func Create(ctx context.Context, cfg *config.Config, o Options) (backup.Summary, error) {
	dir := cfg.Backup.Directory
	info, err := os.Stat(dir)
	if err != nil {
		return backup.Summary{}, fmt.Errorf("backup.directory: %w", err)
	}
	recipients, keys, err := backup.Recipients(cfg.Backup)
	if err != nil {
		return backup.Summary{}, err
	}
	if err := removeLeftovers(dir); err != nil {
		return backup.Summary{}, err
	}
	host, err := os.Hostname()
	if err != nil {
		return backup.Summary{}, err
	}
	name, err := freeName(dir, o.Now)
	if err != nil {
		return backup.Summary{}, err
	}
	b := &run{cfg: cfg, dir: dir, dirInfo: info, summary: backup.Summary{
		Name: name, Class: o.Class, Host: host, Started: o.Now,
		Rows: map[string]map[string]backup.Rows{}, Versions: map[string]string{"niodooctl": version.Version},
	}}
	if len(recipients) > 0 {
		b.summary.Encryption = &backup.Encryption{Method: "age", Recipients: keys}
	}
	started := time.Now()
	path := backup.ArchivePath(dir, name, len(recipients) > 0)
	defer func() {
		if b.archive != nil {
			_ = b.archive.Close() // an error of Finish says more
		}
	}()
	err = atomicfile.Create(path, 0o600, func(f io.Writer) error { return b.write(ctx, f, o, recipients, started) })
	if err != nil {
		return b.summary, withMend(err)
	}
	b.summary.Seconds = time.Since(started).Seconds()
	if err := b.archive.WriteManifest(dir, b.summary); err != nil {
		return b.summary, errors.Join(withMend(err), backup.Delete(dir, name))
	}
	return b.summary, nil
}

// withMend says what can be done about a full disk.
func withMend(err error) error {
	if errors.Is(err, syscall.ENOSPC) {
		return fmt.Errorf("%w: make room, such as with niodooctl backup prune", err)
	}
	return err
}

func (b *run) write(ctx context.Context, f io.Writer, o Options, recipients []age.Recipient, started time.Time) error {
	var err error
	if b.archive, err = backup.NewArchiveWriter(f, recipients...); err != nil {
		return err
	}
	b.archive.Dir = b.dir
	if o.Progress != nil {
		b.archive.Progress = o.Progress
	}
	if err := b.archive.AddBytes(backup.ReadmeMember, []byte(readme), b.summary.Started); err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	if b.cfg.Enabled("postgresql") {
		b.dumps = startDumps(ctx, b, cancel)
		defer b.dumps.close()
	}
	defer cancel(nil) // before close, which waits
	for _, p := range parts {
		if p.section != "" && !b.cfg.Enabled(p.section) {
			continue
		}
		err := p.backUp(ctx, b)
		if err == nil {
			continue
		}
		if cause := context.Cause(ctx); !errors.Is(cause, ctx.Err()) {
			return cause // PostgreSQL's, which ended this part
		}
		if p.essential || ctx.Err() != nil || b.archive.Failed() != nil {
			return fmt.Errorf("backing up %s: %w", p.name, err)
		}
		b.skip(p.name, err.Error())
	}
	b.summary.Commit = deployedCommit(b.cfg.Backup)
	if b.cfg.Enabled("docker") {
		b.images(ctx)
	}
	b.summary.Seconds = time.Since(started).Seconds()
	b.summary, err = b.archive.Finish(b.summary)
	return err
}

// images notes which images the containers run.
func (b *run) images(ctx context.Context) {
	stack := observe.Open(b.cfg, slog.New(slog.DiscardHandler))
	defer stack.Close()
	seen := stack.Look(ctx, []string{"docker"})
	if failed := seen.Failed("docker"); failed != nil {
		b.skip("the images' digests", failed.Err.Error())
		return
	}
	b.summary.Images = map[string]string{}
	for _, s := range seen.Series("niodoo_docker_container_info") {
		b.summary.Images[s.Labels["image"]] = s.Labels["image_digest"]
	}
}

// freeName returns the name for a backup that starts now, or within the next
// seconds if one has that name already.
func freeName(dir string, now time.Time) (string, error) {
	for s := range 60 {
		name := backup.Name(now.Add(time.Duration(s) * time.Second))
		taken, err := filepath.Glob(filepath.Join(escapeGlob(dir), name+".*"))
		if err != nil {
			return "", err
		}
		if len(taken) == 0 {
			return name, nil
		}
	}
	return "", fmt.Errorf("%s: the names of the next minute are taken", dir)
}

func escapeGlob(s string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(s)
}

// removeLeftovers removes what runs that were killed left under construction.
func removeLeftovers(dir string) error {
	left, err := filepath.Glob(filepath.Join(escapeGlob(dir), ".niodoo_backup_*"))
	if err != nil {
		return err
	}
	for _, path := range left {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}
