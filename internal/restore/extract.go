// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package restore

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/niodoo/niodoo_exporter/internal/opstate"
)

const (
	// xattrRecord is how a tar names an extended attribute, ACLs included.
	xattrRecord = "SCHILY.xattr."
	// holeBlock is the unit in which zeros become holes of a file again.
	holeBlock = 64 << 10
	// removeWithin bounds the attempts to remove a directory.
	removeWithin = 10 * time.Second
	// maxNotes bounds what is said about single files.
	maxNotes = 100
)

// tree writes members of an archive below a directory. Nothing in the archive
// can make it write anywhere else, and nothing that is there is replaced.
type tree struct {
	root *os.Root
	dirs []*tar.Header // their modes and times are set last: files are still written below
	// notes say what could not be restored as it was.
	notes []string
	// privileged says that owners can be set; without it they are ours.
	privileged bool
}

// newTree returns the tree below an existing directory.
func newTree(dir string) (*tree, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	return &tree{root: root, privileged: os.Geteuid() == 0}, nil
}

func (t *tree) note(format string, args ...any) {
	if len(t.notes) < maxNotes {
		t.notes = append(t.notes, fmt.Sprintf(format, args...))
	}
}

// add writes one member. The header's names, that of a hard link's target
// included, are relative to the tree.
func (t *tree) add(h *tar.Header, r io.Reader) error {
	name := path.Clean(h.Name)
	if !filepath.IsLocal(name) {
		return fmt.Errorf("the archive's member %q points outside", h.Name)
	}
	if parent := path.Dir(name); parent != "." {
		if err := t.root.MkdirAll(parent, 0o700); err != nil {
			return err
		}
	}
	var err error
	switch h.Typeflag {
	case tar.TypeDir:
		if err = t.root.MkdirAll(name, 0o700); err == nil {
			t.dirs = append(t.dirs, h)
		}
		return err
	case tar.TypeReg, tar.TypeGNUSparse:
		return t.file(name, h, r)
	case tar.TypeLink:
		return t.root.Link(path.Clean(h.Linkname), name)
	case tar.TypeSymlink:
		err = t.root.Symlink(h.Linkname, name)
	case tar.TypeFifo:
		err = t.inParent(name, func(dir int, base string) error { return unix.Mkfifoat(dir, base, 0o600) })
	default:
		t.note("%q is left out: files of the kind %q are not restored", name, h.Typeflag)
		return nil
	}
	if err != nil {
		return err
	}
	return t.attributes(name, h, nil)
}

// inParent calls f with the descriptor of the directory that name is in.
func (t *tree) inParent(name string, f func(dir int, base string) error) error {
	d, err := t.root.Open(path.Dir(name))
	if err != nil {
		return err
	}
	defer d.Close()
	if err := f(int(d.Fd()), path.Base(name)); err != nil {
		return &fs.PathError{Op: "restore", Path: name, Err: err}
	}
	return nil
}

func (t *tree) file(name string, h *tar.Header, r io.Reader) error {
	f, err := t.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := writeWithHoles(f, r, h.Size); err != nil {
		return err
	}
	if err := t.attributes(name, h, f); err != nil {
		return err
	}
	return f.Close()
}

var zeros [holeBlock]byte

// writeWithHoles copies size bytes; blocks of zeros become holes.
func writeWithHoles(f *os.File, r io.Reader, size int64) error {
	buf := make([]byte, holeBlock)
	for at := int64(0); at < size; {
		n, err := io.ReadFull(r, buf[:min(holeBlock, size-at)])
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return err
		}
		if !bytes.Equal(buf[:n], zeros[:n]) {
			if _, err := f.WriteAt(buf[:n], at); err != nil {
				return err
			}
		}
		at += int64(n)
	}
	return f.Truncate(size)
}

// attributes sets owner, extended attributes, mode and time, in this order: a
// change of the owner takes away set-user-id bits and capabilities. f is nil
// for what cannot be opened.
func (t *tree) attributes(name string, h *tar.Header, f *os.File) error {
	if t.privileged {
		if err := t.root.Lchown(name, h.Uid, h.Gid); err != nil {
			return err
		}
	}
	if f != nil {
		for _, key := range slices.Sorted(maps.Keys(h.PAXRecords)) {
			attr, ok := strings.CutPrefix(key, xattrRecord)
			if !ok {
				continue
			}
			if err := unix.Fsetxattr(int(f.Fd()), attr, []byte(h.PAXRecords[key]), 0); err != nil {
				t.note("%q: the extended attribute %q is not restored: %v", name, attr, err)
			}
		}
	}
	if h.Typeflag != tar.TypeSymlink {
		if err := t.root.Chmod(name, h.FileInfo().Mode()&(fs.ModePerm|fs.ModeSetuid|fs.ModeSetgid|fs.ModeSticky)); err != nil {
			return err
		}
	}
	if h.ModTime.IsZero() {
		return nil
	}
	times := []unix.Timespec{unix.NsecToTimespec(time.Now().UnixNano()), unix.NsecToTimespec(h.ModTime.UnixNano())}
	if name == "." {
		return t.root.Chtimes(".", time.Time{}, h.ModTime)
	}
	return t.inParent(name, func(dir int, base string) error {
		return unix.UtimesNanoAt(dir, base, times, unix.AT_SYMLINK_NOFOLLOW)
	})
}

// finish sets what directories get last and makes everything durable.
func (t *tree) finish() error {
	for _, h := range slices.Backward(t.dirs) {
		name := path.Clean(h.Name)
		d, err := t.root.Open(name)
		if err != nil {
			return err
		}
		err = t.attributes(name, h, d)
		d.Close()
		if err != nil {
			return err
		}
	}
	d, err := t.root.Open(".")
	if err != nil {
		return err
	}
	defer d.Close()
	return unix.Syncfs(int(d.Fd()))
}

func (t *tree) close() { _ = t.root.Close() }

// removeTree removes a directory with all that is in it, also what its owner
// may not change. The children of a server that was killed end a moment after it,
// and write until then: so it tries more than once.
func removeTree(dir string) error {
	for deadline := time.Now().Add(removeWithin); ; time.Sleep(50 * time.Millisecond) {
		err := os.RemoveAll(dir)
		switch {
		case err == nil || time.Now().After(deadline):
			return err
		case errors.Is(err, fs.ErrPermission):
			opened := false
			_ = filepath.WalkDir(dir, func(p string, e fs.DirEntry, _ error) error {
				if e != nil && e.IsDir() {
					opened = os.Chmod(p, 0o700) == nil || opened
				}
				return nil
			})
			if !opened {
				return err
			}
		case !errors.Is(err, unix.ENOTEMPTY):
			return err
		}
	}
}

// workDir makes a directory whose name begins with prefix, for this process
// alone until unlock, and removes those that others have left that were killed.
func workDir(parent, prefix string) (dir string, unlock func(), err error) {
	if err := sweep(parent, prefix); err != nil {
		return "", nil, err
	}
	if dir, err = os.MkdirTemp(parent, prefix); err != nil {
		return "", nil, err
	}
	if unlock, err = opstate.TryLock(dir); err != nil {
		return "", nil, errors.Join(err, os.Remove(dir))
	}
	return dir, unlock, nil
}

// sweep removes the directories of [workDir] that nobody works in any more.
func sweep(parent, prefix string) error {
	all, err := os.ReadDir(parent)
	if err != nil {
		return err
	}
	for _, e := range all {
		info, err := e.Info()
		if err != nil || !e.IsDir() || !strings.HasPrefix(e.Name(), prefix) || !owned(info) {
			continue
		}
		dir := filepath.Join(parent, e.Name())
		unlock, err := opstate.TryLock(dir)
		if errors.Is(err, opstate.ErrLocked) || errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			err = removeTree(dir)
			unlock()
		}
		if err != nil {
			return fmt.Errorf("removing what a run has left that was killed: %w", err)
		}
	}
	return nil
}

// owned reports whether a file is ours.
func owned(info fs.FileInfo) bool {
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && int(st.Uid) == os.Geteuid()
}
