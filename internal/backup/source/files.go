// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package source

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/niodoo/niodoo_exporter/internal/backup"
)

// smallFile is read whole before it is added, so that one that is being
// rewritten is read once more instead of failing the backup.
const (
	smallFile = 1 << 20
	readings  = 3
)

// trees adds the directories of the configuration.
type trees struct {
	*run
	// links are the names of files that have several, by device and inode.
	links map[fileID]string
}

type fileID struct{ dev, ino uint64 }

func backUpFiles(ctx context.Context, b *run) error {
	t := &trees{run: b, links: map[fileID]string{}}
	all, named := b.cfg.Backup.Trees()
	for _, name := range slices.Sorted(maps.Keys(all)) {
		root := filepath.Clean(all[name])
		info, err := os.Stat(root) // the root itself may be a link
		if errors.Is(err, fs.ErrNotExist) && !named {
			continue
		}
		if err == nil && !info.IsDir() {
			err = errors.New("is not a directory")
		}
		if err != nil {
			return fmt.Errorf("backup.sources.%s: %w", name, err)
		}
		if err := t.directory(ctx, name, root, backup.FilesDir+name+"/", info); err != nil {
			return err
		}
	}
	return nil
}

// isLog reports whether a file is one that is written to all the time, and
// whose end may be missing: all of the source "logs" and what logs.paths names.
func (t *trees) isLog(source, path string) bool {
	if source == "logs" {
		return true
	}
	return slices.ContainsFunc(t.cfg.Logs.Paths, func(glob string) bool {
		ok, err := filepath.Match(glob, path)
		return err == nil && ok
	})
}

// directory adds a directory and all that is in it.
func (t *trees) directory(ctx context.Context, source, path, member string, info fs.FileInfo) error {
	if err := t.special(path, member, info, ""); err != nil {
		return err
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		t.leaveOut(path, err)
		return nil
	}
	for _, e := range entries {
		if err := ctx.Err(); err != nil {
			return err
		}
		p, m := path+"/"+e.Name(), member+e.Name()
		info, err := os.Lstat(p)
		switch {
		case err != nil:
			t.leaveOut(p, err)
			continue
		case info.IsDir() && os.SameFile(info, t.dirInfo):
			continue // the backups themselves
		case info.IsDir():
			err = t.directory(ctx, source, p, m+"/", info)
		case info.Mode().IsRegular():
			err = t.file(ctx, source, p, m)
		case info.Mode()&fs.ModeSymlink != 0:
			err = t.symlink(p, m, info)
		case info.Mode()&fs.ModeSocket == 0: // its server makes a socket anew
			err = t.special(p, m, info, "")
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// leaveOut notes what could not be read. It is no reason to have no backup of the rest.
func (t *trees) leaveOut(path string, err error) {
	why := err.Error()
	if errors.Is(err, fs.ErrNotExist) {
		why = "it vanished before it was read"
	}
	t.skip(path, why)
}

func (t *trees) symlink(path, member string, info fs.FileInfo) error {
	target, err := os.Readlink(path)
	if err != nil {
		t.leaveOut(path, err)
		return nil
	}
	return t.special(path, member, info, target)
}

// special adds what has no content.
func (t *trees) special(path, member string, info fs.FileInfo, target string) error {
	h, err := tar.FileInfoHeader(info, target)
	if err != nil {
		return fmt.Errorf("%q: %w", path, err)
	}
	h.Name = member
	if h.PAXRecords, err = attributes(func(list []byte) (int, error) { return unix.Llistxattr(path, list) },
		func(name string, value []byte) (int, error) { return unix.Lgetxattr(path, name, value) }); err != nil {
		t.warn(fmt.Sprintf("the extended attributes of %q are missing: %v", path, err))
	}
	_, err = t.archive.Add(h, bytes.NewReader(nil), "")
	return err
}

// file adds a regular file.
func (t *trees) file(ctx context.Context, source, path, member string) error {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		t.leaveOut(path, err)
		return nil
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		t.leaveOut(path, err)
		return nil
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%q was replaced while it was read", path)
	}
	st := info.Sys().(*syscall.Stat_t)
	id := fileID{uint64(st.Dev), st.Ino} //nolint:unconvert // 32 bits wide on other systems
	if first, ok := t.links[id]; ok {
		h, err := tar.FileInfoHeader(info, "")
		if err != nil {
			return fmt.Errorf("%q: %w", path, err)
		}
		h.Name, h.Typeflag, h.Linkname, h.Size = member, tar.TypeLink, first, 0
		_, err = t.archive.Add(h, bytes.NewReader(nil), "")
		return err
	}
	if st.Nlink > 1 {
		t.links[id] = member
	}
	o := &open{File: f, path: path, info: info, log: t.isLog(source, path)}
	if info.Size() <= smallFile && !o.log {
		return t.smallFile(ctx, o, member)
	}
	return t.largeFile(ctx, o, member)
}

// open is a regular file that is being read.
type open struct {
	*os.File
	path string
	info fs.FileInfo
	log  bool
}

// changed reports whether the file is another than when it was opened.
func (o *open) changed() (fs.FileInfo, bool, error) {
	after, err := o.Stat()
	if err != nil {
		return nil, false, err
	}
	x, y := o.info.Sys().(*syscall.Stat_t), after.Sys().(*syscall.Stat_t)
	return after, x.Size != y.Size || x.Mtim != y.Mtim || x.Ctim != y.Ctim, nil
}

// header returns the file's header with its extended attributes.
func (t *trees) header(o *open, member string) (*tar.Header, error) {
	h, err := tar.FileInfoHeader(o.info, "")
	if err != nil {
		return nil, fmt.Errorf("%q: %w", o.path, err)
	}
	h.Name = member
	fd := int(o.Fd())
	if h.PAXRecords, err = attributes(func(list []byte) (int, error) { return unix.Flistxattr(fd, list) },
		func(name string, value []byte) (int, error) { return unix.Fgetxattr(fd, name, value) }); err != nil {
		t.warn(fmt.Sprintf("the extended attributes of %q are missing: %v", o.path, err))
	}
	return h, nil
}

// interruptible is a reader that ends with its context: a file can be long.
type interruptible struct {
	ctx context.Context
	io.Reader
}

func (r interruptible) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.Reader.Read(p)
}

var errChanged = errors.New("changed while it was read, so that a backup of it would be of no moment: " +
	"let its writer rest meanwhile, or name it in logs.paths if only its end may be missing")

func (t *trees) smallFile(ctx context.Context, o *open, member string) error {
	for range readings {
		content, err := io.ReadAll(io.LimitReader(io.NewSectionReader(o, 0, o.info.Size()+1), smallFile+1))
		if err != nil {
			t.leaveOut(o.path, err)
			return nil
		}
		after, changed, err := o.changed()
		if err != nil {
			return err
		}
		if !changed && int64(len(content)) == o.info.Size() {
			h, err := t.header(o, member)
			if err != nil {
				return err
			}
			_, err = t.archive.Add(h, bytes.NewReader(content), "")
			return err
		}
		o.info = after
		if after.Size() > smallFile {
			return t.largeFile(ctx, o, member)
		}
	}
	return fmt.Errorf("%q %w", o.path, errChanged)
}

// largeFile streams a file. A log that grows is cut where it was when it was opened.
func (t *trees) largeFile(ctx context.Context, o *open, member string) error {
	h, err := t.header(o, member)
	if err != nil {
		return err
	}
	content, note := holes(o.File, o.info)
	short, err := t.archive.Add(h, interruptible{ctx, content}, note)
	if err != nil {
		return err
	}
	after, changed, err := o.changed()
	switch {
	case err != nil:
		return err
	case !changed && short == 0:
		return nil
	case !o.log:
		return fmt.Errorf("%q %w", o.path, errChanged)
	case short > 0:
		t.archive.Annotate("was cut off while it was read: its last bytes are zeros")
		t.warn(fmt.Sprintf("%q was cut off while it was read", o.path))
	case after.Size() > o.info.Size():
		t.archive.Annotate("grew while it was read: what came later is not in it")
	default:
		t.archive.Annotate("changed while it was read")
		t.warn(fmt.Sprintf("%q changed while it was read, and not at its end", o.path))
	}
	return nil
}

// attributes returns the extended attributes as tar keeps them.
func attributes(list func([]byte) (int, error), get func(string, []byte) (int, error)) (map[string]string, error) {
	n, err := list(nil) // asks for the length
	if errors.Is(err, unix.ENOTSUP) || err == nil && n == 0 {
		return nil, nil
	}
	buf := make([]byte, 1<<16) // as long as it can be
	if err == nil {
		n, err = list(buf)
	}
	if err != nil {
		return nil, err
	}
	records := map[string]string{}
	value := make([]byte, 1<<16)
	for name := range strings.SplitSeq(strings.TrimSuffix(string(buf[:n]), "\x00"), "\x00") {
		n, err := get(name, value)
		if errors.Is(err, unix.ENODATA) { // removed meanwhile
			continue
		}
		if err == nil && strings.Contains(name, "=") {
			err = fmt.Errorf("tar cannot hold the name %q", name)
		}
		if err != nil {
			return nil, err
		}
		records["SCHILY.xattr."+name] = string(value[:n])
	}
	return records, nil
}

// holes returns a reader of a file that makes the zeros of holes without
// reading them, and a note if there are any.
func holes(f *os.File, info fs.FileInfo) (io.Reader, string) {
	st := info.Sys().(*syscall.Stat_t)
	if st.Blocks*512 >= st.Size {
		return f, ""
	}
	return &sparse{f: f, size: st.Size}, "sparse"
}

// sparse reads a file extent by extent.
type sparse struct {
	f         *os.File
	size      int64
	at        int64
	dataStart int64 // of the extent that comes next
	dataEnd   int64
}

func (s *sparse) Read(p []byte) (int, error) {
	if s.at >= s.size {
		return 0, io.EOF
	}
	if s.at >= s.dataEnd {
		if err := s.seek(); err != nil {
			return 0, err
		}
	}
	if s.at < s.dataStart {
		n := min(int64(len(p)), s.dataStart-s.at)
		clear(p[:n])
		s.at += n
		return int(n), nil
	}
	n, err := s.f.ReadAt(p[:min(int64(len(p)), s.dataEnd-s.at)], s.at)
	s.at += int64(n)
	if n > 0 {
		return n, nil
	}
	return 0, err
}

// seek finds the next extent with data.
func (s *sparse) seek() error {
	start, err := unix.Seek(int(s.f.Fd()), s.at, unix.SEEK_DATA)
	switch {
	case errors.Is(err, unix.ENXIO): // a hole up to the end, or cut off
		info, err := s.f.Stat()
		if err != nil {
			return err
		}
		if s.size = min(s.size, info.Size()); s.at >= s.size {
			return io.EOF
		}
		s.dataStart, s.dataEnd = s.size, s.size
		return nil
	case err != nil: // the filesystem knows no holes
		s.dataStart, s.dataEnd = s.at, s.size
		return nil //nolint:nilerr // reading tells what is wrong
	}
	end, err := unix.Seek(int(s.f.Fd()), start, unix.SEEK_HOLE)
	if err != nil {
		end = s.size
	}
	s.dataStart, s.dataEnd = min(start, s.size), min(end, s.size)
	return nil
}
