// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package restore

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/niodoo/niodoo_exporter/internal/backup"
)

// What the manual's scripts write, and the name of the same in our archives.
// They have no checksums: gzip's own, the end of each tar and the last line of
// the database's script are all that can be checked.
const (
	legacySQL     = "database.sql"
	legacyConfig  = "config"
	scriptSuffix  = ".sql"
	trailerWindow = 4 << 10
)

// legacyTars are the archives in the archive: where their members belong, and
// whether a backup is not whole without them.
var legacyTars = map[string]struct {
	source   string
	required bool
}{
	"consciousness_data.tar.gz": {"data", true},
	"logs.tar.gz":               {"logs", false},
}

// visitor is called with each member of a backup, in order. What it does not
// read is skipped, but checked all the same.
type visitor func(h *tar.Header, r io.Reader) error

// legacy is a backup of the manual's scripts, as an archive or as a directory.
type legacy struct {
	path, database string
	seen           map[string]bool
}

// walk visits the members under the names that our own backups give them. An
// error that is [backup.ErrDamaged] says that the backup is not whole.
func (l *legacy) walk(ctx context.Context, visit visitor) error {
	l.seen = map[string]bool{}
	info, err := os.Stat(l.path)
	if err != nil {
		return err
	}
	if info.IsDir() {
		err = l.walkDir(ctx, visit)
	} else {
		err = l.walkFile(ctx, visit)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", l.path, err)
	}
	missing := []string{legacySQL}
	for name, t := range legacyTars {
		if t.required {
			missing = append(missing, name)
		}
	}
	for _, name := range missing {
		if !l.seen[name] {
			return fmt.Errorf("%s: %w: %s is missing", l.path, backup.ErrDamaged, name)
		}
	}
	return nil
}

func (l *legacy) walkFile(ctx context.Context, visit visitor) error {
	f, err := os.Open(l.path)
	if err != nil {
		return err
	}
	defer f.Close()
	return walkTarGz(ctx, f, func(h *tar.Header, r io.Reader) error {
		_, name, ok := strings.Cut(path.Clean(h.Name), "/") // below the directory named after the time
		if !ok {
			return nil
		}
		return l.member(ctx, name, h, r, visit)
	})
}

func (l *legacy) walkDir(ctx context.Context, visit visitor) error {
	return filepath.WalkDir(l.path, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(l.path, p)
		if err != nil || name == "." {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		target := ""
		if info.Mode()&fs.ModeSymlink != 0 {
			if target, err = os.Readlink(p); err != nil {
				return err
			}
		}
		h, err := tar.FileInfoHeader(info, target)
		if err != nil {
			return nil // a socket
		}
		var r io.Reader = bytes.NewReader(nil)
		if info.Mode().IsRegular() {
			f, err := os.Open(p)
			if err != nil {
				return err
			}
			defer f.Close()
			r = f
		}
		return l.member(ctx, name, h, r, visit)
	})
}

// member visits one member by its place in the backup's directory.
func (l *legacy) member(ctx context.Context, name string, h *tar.Header, r io.Reader, visit visitor) error {
	l.seen[name] = true
	if t, ok := legacyTars[name]; ok {
		err := walkTarGz(ctx, r, func(h *tar.Header, r io.Reader) error {
			return visitRenamed(h, belowSource(h.Name, t.source), belowSource(h.Linkname, t.source), r, visit)
		})
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		return nil
	}
	switch {
	case name == legacySQL:
		return l.script(h, r, visit)
	case name == legacyConfig || strings.HasPrefix(name, legacyConfig+"/"):
		link := h.Linkname
		if h.Typeflag == tar.TypeLink {
			_, link, _ = strings.Cut(link, "/")
			link = backup.FilesDir + link
		}
		return visitRenamed(h, backup.FilesDir+name, link, r, visit)
	}
	return nil // manifest.txt
}

// belowSource turns opt/niodoo/data/x, which tar has made of /opt/niodoo/data/x,
// into files/data/x: the script keeps no more than the last part of the directory.
func belowSource(name, source string) string {
	parts := strings.Split(path.Clean(name), "/")
	for i, p := range parts {
		if p == source {
			return backup.FilesDir + path.Join(parts[i:]...)
		}
	}
	return path.Join(backup.FilesDir+source, path.Clean("/"+name))
}

func visitRenamed(h *tar.Header, name, link string, r io.Reader, visit visitor) error {
	renamed := *h
	renamed.Name = name
	if h.Typeflag == tar.TypeLink {
		renamed.Linkname = link
	}
	return visit(&renamed, r)
}

// script visits the database's script, and checks that it ends as pg_dump ends
// it: psql restores one that was cut off without an error.
func (l *legacy) script(h *tar.Header, r io.Reader, visit visitor) error {
	tail := &tailReader{r: r}
	renamed := *h
	renamed.Name = backup.PostgreSQLDir + l.database + scriptSuffix
	if err := visit(&renamed, tail); err != nil {
		return err
	}
	if _, err := io.Copy(io.Discard, tail); err != nil {
		return err
	}
	if !backup.DumpComplete(tail.last) {
		return fmt.Errorf("%w: %s ends too early: the dump was cut off", backup.ErrDamaged, legacySQL)
	}
	return nil
}

// tailReader keeps the last bytes that went through it.
type tailReader struct {
	r    io.Reader
	last []byte
}

func (t *tailReader) Read(p []byte) (int, error) {
	n, err := t.r.Read(p)
	t.last = append(t.last, p[:n]...)
	if over := len(t.last) - trailerWindow; over > 0 {
		t.last = append(t.last[:0], t.last[over:]...)
	}
	return n, err
}

// walkTarGz visits the members of a gzipped tar and reads it to its very end,
// where gzip's checksum is.
func walkTarGz(ctx context.Context, r io.Reader, visit visitor) error {
	broken := func(err error) error { return fmt.Errorf("%w: %w", backup.ErrDamaged, err) }
	z, err := gzip.NewReader(r)
	if err != nil {
		return broken(err)
	}
	t := tar.NewReader(z)
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return broken(err)
		}
		content := &judgedReader{r: t}
		if err := visit(h, content); err != nil {
			return errors.Join(err, content.err)
		}
		if _, err := io.Copy(io.Discard, content); err != nil {
			return err
		}
	}
	if _, err := io.Copy(io.Discard, z); err != nil {
		return broken(err)
	}
	return nil
}

// judgedReader says of every failure to read that the archive is damaged.
type judgedReader struct {
	r   io.Reader
	err error
}

func (j *judgedReader) Read(p []byte) (int, error) {
	n, err := j.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = fmt.Errorf("%w: %w", backup.ErrDamaged, err)
		j.err = err
	}
	return n, err
}

// withoutCR takes the carriage returns at the ends of lines away that a terminal
// has put in: docker-compose exec without -T. pg_dump itself writes none there
// but inside of data that has them, which COPY writes as \r.
type withoutCR struct {
	r    io.Reader
	held bool // a CR whose next byte is not known yet
}

func (w *withoutCR) Read(p []byte) (int, error) {
	if len(p) < 2 {
		return 0, io.ErrShortBuffer
	}
	n, err := w.r.Read(p[:len(p)-1])
	if n == 0 && (err == nil || !w.held) {
		return 0, err
	}
	in := append([]byte(nil), p[:n]...)
	out := p[:0]
	for _, b := range in {
		if w.held && b != '\n' {
			out = append(out, '\r')
		}
		w.held = b == '\r'
		if !w.held {
			out = append(out, b)
		}
	}
	if w.held && err != nil {
		out, w.held = append(out, '\r'), false
	}
	return len(out), err
}
