// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

// Package atomicfile writes small files that a reader sees whole or not at
// all, whatever kills the writer and whenever the power fails.
package atomicfile

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Suffix is how the name of a file under construction ends, before a random
// part; it begins with a dot and the final name.
const Suffix = ".tmp-"

// Replace writes the file, in the place of one that may be there already.
func Replace(path string, perm os.FileMode, write func(io.Writer) error) error {
	return commit(path, perm, write, os.Rename)
}

// Create writes a file that must not be there yet; else the error is
// [os.ErrExist] and the file that is there stays as it is.
func Create(path string, perm os.FileMode, write func(io.Writer) error) error {
	return commit(path, perm, write, placeNew)
}

// placeNew gives a file its name unless that is taken. Filesystems without
// hard links, such as network shares, can rename without replacing instead.
func placeNew(from, to string) error {
	err := os.Link(from, to)
	if errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.ENOTSUP) || errors.Is(err, syscall.ENOSYS) {
		return unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, unix.RENAME_NOREPLACE)
	}
	return err
}

func commit(path string, perm os.FileMode, write func(io.Writer) error, place func(from, to string) error) (err error) {
	dir, base := filepath.Split(path)
	f, err := os.CreateTemp(dir, "."+base+Suffix+"*")
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	defer func() {
		f.Close()
		_ = os.Remove(f.Name()) // gone already after a rename
		if err != nil {
			err = fmt.Errorf("writing %s: %w", path, err)
		}
	}()
	if err := write(f); err != nil {
		return err
	}
	if err := f.Chmod(perm); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	if err := place(f.Name(), path); err != nil {
		return err
	}
	return SyncDir(dir)
}

// SyncDir makes the names in a directory durable.
func SyncDir(dir string) error {
	d, err := os.Open(orDot(dir))
	if err != nil {
		return err
	}
	defer d.Close()
	// Some network filesystems cannot do it and have no need to.
	if err := d.Sync(); err != nil && !errors.Is(err, syscall.EINVAL) && !errors.Is(err, syscall.ENOTSUP) {
		return err
	}
	return nil
}

// Open opens a regular file for reading and returns its size. A symbolic link
// or a FIFO is refused, not followed or waited for.
func Open(path string) (*os.File, int64, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, 0, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = &os.PathError{Op: "open", Path: path, Err: errors.New("not a regular file")}
	}
	if err != nil {
		f.Close()
		return nil, 0, err
	}
	return f, info.Size(), nil
}

// RemoveLeftovers removes the files under construction for one path. The
// caller holds the lock under which that path is written.
func RemoveLeftovers(path string) error {
	dir, base := filepath.Split(path)
	entries, err := os.ReadDir(orDot(dir))
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "."+base+Suffix) {
			errs = append(errs, os.Remove(filepath.Join(dir, e.Name())))
		}
	}
	return errors.Join(errs...)
}

// orDot returns the directory of a path that names none.
func orDot(dir string) string {
	if dir == "" {
		return "."
	}
	return dir
}
