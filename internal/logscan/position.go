// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package logscan

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"
)

// fileID identifies a file for as long as it exists; afterwards its inode may be
// given to another file.
type fileID struct {
	Device uint64 `json:"device"`
	Inode  uint64 `json:"inode"`
}

func idOf(info fs.FileInfo) fileID {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return fileID{}
	}
	return fileID{uint64(st.Dev), uint64(st.Ino)} //nolint:unconvert // the types differ between systems
}

const (
	headPrint = 256 // bytes at a file's beginning that are recognized
	tailPrint = 64  // bytes just before a position that are recognized
)

// fingerprint is a hash over some bytes of a file, so that no text of the logs
// ends up in the state file.
type fingerprint struct {
	Size int    `json:"size"`
	Hash string `json:"sha256"`
}

func takeFingerprint(r io.ReaderAt, from int64, size int) (fingerprint, error) {
	var buf [headPrint]byte
	if n, err := r.ReadAt(buf[:size], from); n < size {
		return fingerprint{}, err
	}
	sum := sha256.Sum256(buf[:size])
	return fingerprint{size, hex.EncodeToString(sum[:])}, nil
}

// position is how far a file has been read, and how to know it again.
type position struct {
	fileID
	Offset int64       `json:"offset"`
	Head   fingerprint `json:"head"` // of the file's first bytes
	Tail   fingerprint `json:"tail"` // of the bytes before Offset
}

// positionAt describes a position in a file. It fails if the file is shorter.
func positionAt(r io.ReaderAt, id fileID, offset int64) (position, error) {
	p := position{fileID: id, Offset: offset}
	var err error
	if p.Head, err = takeFingerprint(r, 0, int(min(offset, headPrint))); err != nil {
		return p, err
	}
	size := min(offset, tailPrint)
	p.Tail, err = takeFingerprint(r, offset-size, int(size))
	return p, err
}

// holds reports whether a file is still, up to the position, the one that the
// position was taken of: it has not become shorter, and its first bytes and
// those before the position are the same.
func (p *position) holds(r io.ReaderAt, size int64) bool {
	if size < p.Offset || p.Head.Size < 0 || p.Head.Size > headPrint || p.Tail.Size < 0 || p.Tail.Size > tailPrint ||
		int64(p.Tail.Size) > p.Offset {
		return false
	}
	head, err := takeFingerprint(r, 0, p.Head.Size)
	if err != nil || head != p.Head {
		return false
	}
	tail, err := takeFingerprint(r, p.Offset-int64(p.Tail.Size), p.Tail.Size)
	return err == nil && tail == p.Tail
}

// errNotRegular is what a path is that is not a file: a directory, a pipe.
var errNotRegular = errors.New("not a regular file")

// ErrNotRegular reports whether err says that a path is no regular file.
func ErrNotRegular(err error) bool { return errors.Is(err, errNotRegular) }

// openRegular opens a file for reading if it is a regular one. It does not wait
// for the other end of a pipe that has taken the file's place.
func openRegular(path string) (*os.File, fs.FileInfo, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s: %w", path, errNotRegular)
	}
	if err != nil {
		f.Close()
		return nil, nil, err
	}
	return f, info, nil
}
