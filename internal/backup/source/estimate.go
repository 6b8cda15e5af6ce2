// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package source

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/niodoo/niodoo_exporter/internal/backup"
	"github.com/niodoo/niodoo_exporter/internal/config"
	"github.com/niodoo/niodoo_exporter/internal/humanize"
)

// Part is one thing that a backup would consist of.
type Part struct {
	Name string `json:"name"`
	// Bytes is its size where it is known without reading it.
	Bytes int64 `json:"bytes,omitempty"`
	// Problem says why it could not be looked at.
	Problem string `json:"problem,omitempty"`
}

// Estimate is what a backup would be.
type Estimate struct {
	Parts []Part `json:"parts"`
	// ContentBytes is the size of the parts together, as far as it is known.
	ContentBytes int64 `json:"content_bytes"`
	// NeededBytes is a guess at the room that it takes, AvailableBytes what there is.
	NeededBytes    int64 `json:"needed_bytes"`
	AvailableBytes int64 `json:"available_bytes"`
}

const (
	// unknownRatio is how much smaller an archive is than its content, where
	// there is none yet to tell.
	unknownRatio = 0.5
	reserve      = 1.1
)

// NewEstimate looks at what a backup would be, and changes nothing. last is the
// newest backup, nil for none.
func NewEstimate(ctx context.Context, cfg *config.Config, last *backup.Summary) (Estimate, error) {
	var e Estimate
	var st unix.Statfs_t
	if err := unix.Statfs(cfg.Backup.Directory, &st); err != nil {
		return e, fmt.Errorf("backup.directory: %w", &os.PathError{Op: "statfs", Path: cfg.Backup.Directory, Err: err})
	}
	e.AvailableBytes = int64(st.Bavail) * st.Frsize
	ratio := unknownRatio
	if last != nil && last.Archive != nil && last.ContentBytes > 0 {
		ratio = min(1, float64(last.Archive.Bytes)/float64(last.ContentBytes))
	}
	add := func(p Part, err error) {
		if err != nil {
			p.Problem = err.Error()
		}
		e.Parts = append(e.Parts, p)
		e.ContentBytes += p.Bytes
	}
	var spooled int64 // lies there twice for a moment
	if cfg.Enabled("postgresql") {
		for _, name := range databases(cfg) {
			size, err := newPostgres(cfg).size(ctx, name)
			spooled = max(spooled, size)
			add(Part{Name: backup.PostgreSQLDir + name + backup.DumpSuffix, Bytes: size}, err)
		}
	}
	if cfg.Enabled("redis") {
		add(Part{Name: backup.RedisMember}, nil)
	}
	if cfg.Enabled("qdrant") {
		add(Part{Name: backup.QdrantDir}, nil)
	}
	if cfg.Enabled("ollama") {
		add(Part{Name: backup.ModelsMember}, nil)
	}
	trees, named := cfg.Backup.Trees()
	for _, name := range slices.Sorted(maps.Keys(trees)) {
		if err := ctx.Err(); err != nil {
			return e, err
		}
		size, err := treeBytes(ctx, trees[name], cfg.Backup.Directory)
		if errors.Is(err, fs.ErrNotExist) && !named {
			continue
		}
		add(Part{Name: backup.FilesDir + name, Bytes: size}, err)
	}
	e.NeededBytes = int64(float64(e.ContentBytes+spooled) * ratio * reserve)
	return e, nil
}

// Err says that there is too little room.
func (e Estimate) Err(dir string) error {
	if e.NeededBytes <= e.AvailableBytes {
		return nil
	}
	return fmt.Errorf("%s: there is room for %s and the backup needs about %s: make room, such as with niodooctl backup prune",
		dir, humanize.Value(humanize.Bytes, float64(e.AvailableBytes)), humanize.Value(humanize.Bytes, float64(e.NeededBytes)))
}

func (p *postgres) size(ctx context.Context, database string) (int64, error) {
	conn, err := p.connect(ctx, database)
	if err != nil {
		return 0, err
	}
	defer closeConn(conn)
	// Indexes are made anew and not in a dump.
	var size int64
	err = conn.QueryRow(ctx, "SELECT coalesce(sum(pg_table_size(oid)), 0)::bigint FROM pg_class WHERE relkind = 'r'").Scan(&size)
	return size, err
}

// treeBytes adds up the files below a directory, without those of the backups.
func treeBytes(ctx context.Context, root, without string) (int64, error) {
	skip, err := os.Stat(without)
	if err != nil {
		return 0, err
	}
	if root, err = filepath.EvalSymlinks(root); err != nil {
		return 0, err
	}
	var total int64
	err = filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err != nil {
			if path == root {
				return err
			}
			return nil // the backup says what it could not read
		}
		info, err := e.Info()
		switch {
		case err != nil:
			return nil //nolint:nilerr // vanished
		case info.IsDir() && os.SameFile(info, skip):
			return fs.SkipDir
		case info.Mode().IsRegular():
			st := info.Sys().(*syscall.Stat_t)
			total += min(st.Size, st.Blocks*512)
		}
		return nil
	})
	return total, err
}

var commitRE = regexp.MustCompile(`^[0-9a-f]{40,64}$`)

// deployedCommit returns the commit that the sources' directories, or what they
// lie in, are checked out at; "" where there is no repository.
func deployedCommit(cfg config.Backup) string {
	trees, _ := cfg.Trees()
	for _, name := range slices.Sorted(maps.Keys(trees)) {
		for dir := filepath.Clean(trees[name]); ; dir = filepath.Dir(dir) {
			if c := headOf(filepath.Join(dir, ".git")); c != "" {
				return c
			}
			if dir == filepath.Dir(dir) {
				break
			}
		}
	}
	return ""
}

// headOf reads what `git rev-parse HEAD` prints: a commit, or the name of a
// branch that has a file of its own or a line among the packed ones.
func headOf(git string) string {
	raw, err := os.ReadFile(filepath.Join(git, "HEAD"))
	if err != nil {
		return ""
	}
	head := strings.TrimSpace(string(raw))
	if branch, ok := strings.CutPrefix(head, "ref: "); ok {
		head = ""
		if raw, err := os.ReadFile(filepath.Join(git, branch)); err == nil {
			head = strings.TrimSpace(string(raw))
		} else if f, err := os.Open(filepath.Join(git, "packed-refs")); err == nil {
			defer f.Close()
			for lines := bufio.NewScanner(f); lines.Scan(); {
				if commit, name, _ := strings.Cut(lines.Text(), " "); name == branch {
					head = commit
				}
			}
		}
	}
	if !commitRE.MatchString(head) {
		return ""
	}
	return head
}
