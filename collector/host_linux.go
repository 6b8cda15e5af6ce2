// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"errors"
	"io/fs"
	"syscall"

	"golang.org/x/sys/unix"
)

// readHostUsage asks the kernel about the file system that holds path. The
// unit is the fragment size, as df and glibc have it, not the block size that
// is best for reading. It may hang: see [hanging].
func readHostUsage(path string) (hostUsage, error) {
	var u hostUsage
	var fsys unix.Statfs_t
	if err := hostRetry(func() error { return unix.Statfs(path, &fsys) }); err != nil {
		return u, &fs.PathError{Op: "statfs", Path: path, Err: err}
	}
	var file unix.Stat_t
	if err := hostRetry(func() error { return unix.Stat(path, &file) }); err != nil {
		return u, &fs.PathError{Op: "stat", Path: path, Err: err}
	}
	unit := float64(fsys.Frsize)
	if unit <= 0 {
		unit = float64(fsys.Bsize)
	}
	u = hostUsage{
		size: float64(fsys.Blocks) * unit, free: float64(fsys.Bfree) * unit, avail: float64(fsys.Bavail) * unit,
		files: float64(fsys.Files), filesFree: float64(fsys.Ffree),
		device: hostDevice{unix.Major(uint64(file.Dev)), unix.Minor(uint64(file.Dev))}, //nolint:unconvert // 32 bits wide on MIPS
	}
	if fsys.Bavail > fsys.Blocks { // "negative": the reserve has been dipped into
		u.avail = 0
	}
	return u, nil
}

// readHostClock reads the state of the kernel's clock; that needs no privilege.
// It reports false where the kernel or a sandbox does not let us.
func readHostClock() (hostClock, bool) {
	var t unix.Timex
	if _, err := unix.Adjtimex(&t); err != nil {
		return hostClock{}, false
	}
	return hostClock{synchronised: t.Status&unix.STA_UNSYNC == 0, maxError: float64(t.Maxerror) / 1e6}, true
}

// readSmallFile reads a file of procfs or sysfs into buf, which grows as needed,
// without what os.File costs. A file over the cap is an error.
func readSmallFile(path string, buf []byte) ([]byte, error) {
	var fd int
	err := hostRetry(func() (err error) {
		fd, err = unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
		return err
	})
	if err != nil {
		return buf[:0], &fs.PathError{Op: "open", Path: path, Err: err}
	}
	defer func() { _ = unix.Close(fd) }()
	buf = buf[:0]
	for {
		if len(buf) == cap(buf) {
			buf = append(buf, 0)[:len(buf)]
		}
		n, err := unix.Read(fd, buf[len(buf):cap(buf)])
		switch {
		case errors.Is(err, syscall.EINTR):
		case err != nil:
			return buf[:0], &fs.PathError{Op: "read", Path: path, Err: err}
		case n <= 0:
			return buf, nil
		default:
			if buf = buf[:len(buf)+n]; len(buf) > maxProcFile {
				return buf[:0], failf(ReasonTooLarge, "%s is larger than %d bytes", path, maxProcFile)
			}
		}
	}
}

// hostRetry calls f again while a signal interrupts it.
func hostRetry(f func() error) error {
	for {
		if err := f(); !errors.Is(err, syscall.EINTR) {
			return err
		}
	}
}
