// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package loganalysis

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"github.com/niodoo/niodoo_exporter/internal/logscan"
)

// Stdin is the path that stands for the standard input.
const Stdin = "/dev/stdin"

// Source is a log that is to be read.
type Source struct {
	// Path is a file, compressed or not, a pipe, or [Stdin].
	Path  string
	found bool  // by a pattern: anything but a file is a mistake
	err   error // why a pattern found nothing
}

// Named returns the sources that people name.
func Named(paths []string) []Source {
	var s []Source
	for _, p := range paths {
		s = append(s, Source{Path: p})
	}
	return s
}

// Find returns the files that patterns match, as the configuration has them. A
// pattern whose folder cannot be looked at is a source that cannot be read.
func Find(patterns []string) []Source {
	var s []Source
	for _, pattern := range patterns {
		paths, err := logscan.Expand(pattern)
		if err != nil {
			s = append(s, Source{Path: pattern, err: err})
			if len(paths) == 1 && paths[0] == pattern {
				continue
			}
		}
		for _, p := range paths {
			s = append(s, Source{Path: p, found: true})
		}
	}
	return s
}

// Size returns the size of all sources together in bytes, or -1 if that cannot
// be known.
func Size(sources []Source) (sum int64) {
	for _, s := range sources {
		info, err := os.Stat(s.Path)
		if s.Path == Stdin || err == nil && !info.Mode().IsRegular() {
			return -1
		}
		if err == nil {
			sum += info.Size()
		}
	}
	return sum
}

// canReadAgain reports whether every source can be read a second time.
func canReadAgain(sources []Source) bool { return Size(sources) >= 0 }

// input is one log that is read.
type input struct {
	path     string
	index    int // its place among the inputs
	fileOnly bool

	file     *os.File // of a file that is read in shares
	size     int64
	before   int64 // its size when it was tried to be read before
	modified int64 // Unix nanoseconds
	next     int64 // where the next share begins
	pending  int   // shares that are being read
	closed   bool

	lines, bytes atomic.Uint64
	err          error  // why it was not read, or not to its end
	left         string // why it was left out
}

// isStream reports whether the input can only be read from its beginning to its end.
func (in *input) isStream() bool { return in.file == nil }

// why it was left out
const (
	leftExcluded = "its name is excluded"
	leftReport   = "it is a report of niodooctl"
	leftTwice    = "the same file was read already"
)

// magics are how compressed files begin.
var magics = []struct{ begin, name string }{
	{"\x1f\x8b", gzipName}, {"\x28\xb5\x2f\xfd", zstdName},
	{"BZh", "bzip2"}, {"\xfd7zXZ\x00", "xz"}, {"\x04\x22\x4d\x18", "lz4"},
}

const (
	gzipName = "gzip"
	zstdName = "zstd"
)

// compression returns the name of the format that begins so, or "".
func compression(head []byte) string {
	for _, m := range magics {
		if bytes.HasPrefix(head, []byte(m.begin)) {
			return m.name
		}
	}
	return ""
}

const headSize = 64 // bytes that tell what a file is

// reportBegins are how niodooctl's reports begin.
var reportBegins = []string{logscan.ReportMarker, jsonMarker}

func isReport(head []byte) bool {
	for _, b := range reportBegins {
		if bytes.HasPrefix(head, []byte(b)) {
			return true
		}
	}
	return false
}

// fileID is a file, whatever it is called.
type fileID struct{ device, inode uint64 }

func idOf(info os.FileInfo) fileID {
	if s, ok := info.Sys().(*syscall.Stat_t); ok {
		return fileID{s.Dev, s.Ino}
	}
	return fileID{}
}

// open opens a regular file. If it is compressed, or no regular file, the input
// stays a stream. seen are the files that were read already.
func (in *input) open(seen map[fileID]bool) {
	if in.path == Stdin || in.left != "" || in.err != nil {
		return
	}
	info, err := os.Stat(in.path)
	switch {
	case err != nil:
		in.err = err
		return
	case info.IsDir():
		in.err = fmt.Errorf("%s is a folder; name the files in it", in.path)
		return
	case !info.Mode().IsRegular():
		if in.fileOnly {
			in.err = fmt.Errorf("%s is not a regular file", in.path)
		}
		return
	case seen[idOf(info)]:
		in.left = leftTwice
		return
	}
	seen[idOf(info)] = true
	f, err := os.Open(in.path)
	if err != nil {
		in.err = err
		return
	}
	var head [headSize]byte
	n, err := f.ReadAt(head[:], 0)
	if err != nil && !errors.Is(err, io.EOF) {
		in.err = err
	} else if isReport(head[:n]) {
		in.left = leftReport
	} else if info, err = f.Stat(); err != nil {
		in.err = err
	} else {
		in.modified = info.ModTime().UnixNano()
		if compression(head[:n]) == "" {
			in.file, in.size = f, info.Size()
			return
		}
	}
	f.Close()
}

// close ends the reading of a file, and notes whether it has lost lines meanwhile.
func (in *input) close() {
	if in.file == nil || in.closed {
		return
	}
	in.closed = true
	if size := max(in.size, in.before); in.err == nil {
		if info, err := in.file.Stat(); err == nil && info.Size() < size {
			in.err = fmt.Errorf("%s became shorter while it was read: from %d to %d bytes", in.path, size, info.Size())
		}
	}
	in.file.Close()
}

// maxWindow is the largest window of a zstd file that is taken, in bytes: it is
// what `zstd -19` needs, and is held in memory.
const maxWindow = 8 << 20

// windows is how many such files are read at the same time.
var windows = make(chan struct{}, 2)

// errReport says that a stream is a report of niodooctl.
var errReport = errors.New(leftReport)

// stream reads the input as a stream and calls each for its pieces, which are
// valid until it returns. What keeps it from that is in the input afterwards.
func (in *input) stream(ctx context.Context, stdin io.Reader, each func([]byte)) {
	if in.path == Stdin {
		in.modified = time.Now().UnixNano()
	}
	err := readAhead(ctx, func() (io.Reader, func(), error) { return openStream(in.path, stdin) }, each)
	if errors.Is(err, zstd.ErrWindowSizeExceeded) || errors.Is(err, zstd.ErrDecoderSizeExceeded) {
		err = fmt.Errorf("it takes more than %d MiB of memory to uncompress; run zstd -dc and pipe it in, with - as its name", maxWindow>>20)
	}
	switch {
	case errors.Is(err, errReport):
		in.left = leftReport
	case err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, os.ErrPermission): // which name the path
		in.err = fmt.Errorf("%s: %w", in.path, err)
	default:
		in.err = err
	}
}

// openStream opens what is at a path and returns its bytes, uncompressed, and
// what ends the reading. It may have to wait for a pipe's other end.
func openStream(path string, stdin io.Reader) (plain io.Reader, end func(), err error) {
	r, closeFile := stdin, func() {}
	if path != Stdin {
		f, err := os.Open(path)
		if err != nil {
			return nil, closeFile, err
		}
		r, closeFile = f, func() { f.Close() }
	}
	b := bufio.NewReader(r)
	head, err := b.Peek(headSize)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, closeFile, err
	}
	if isReport(head) {
		return nil, closeFile, errReport
	}
	plain, closePlain, err := decompress(compression(head), b)
	return plain, func() { closePlain(); closeFile() }, err
}

func decompress(format string, r io.Reader) (plain io.Reader, end func(), err error) {
	end = func() {}
	switch format {
	case "":
		return r, end, nil
	case gzipName:
		plain, err = gzip.NewReader(r)
		return plain, end, err
	case zstdName:
		d, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(maxWindow))
		if err != nil {
			return nil, end, err
		}
		windows <- struct{}{}
		return d, func() { d.Close(); <-windows }, nil
	}
	return nil, end, fmt.Errorf("it is compressed with %s; uncompress it and pipe it in, with - as its name", format)
}

// readAhead calls each for pieces of what open opens while the next is being
// read. Where ctx ends it does not wait for what cannot be interrupted, such as
// a terminal or a pipe's other end.
func readAhead(ctx context.Context, open func() (r io.Reader, end func(), err error), each func([]byte)) error {
	type piece struct {
		data []byte
		err  error
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	const buffers = 3 // one is read into, one waits, one is worked on
	free, full := make(chan []byte, buffers), make(chan piece, buffers)
	for range buffers {
		free <- make([]byte, logscan.ChunkSize)
	}
	go func() {
		r, end, err := open()
		defer end()
		if err != nil {
			full <- piece{nil, err}
			return
		}
		for {
			select {
			case <-ctx.Done():
				return
			case buf := <-free:
				n, err := fill(r, buf)
				full <- piece{buf[:n], err}
				if err != nil {
					return
				}
			}
		}
	}()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case p := <-full:
			each(p.data)
			if errors.Is(p.err, io.EOF) {
				return nil
			}
			if p.err != nil {
				return p.err
			}
			free <- p.data[:cap(p.data)]
		}
	}
}

// fill reads until buf is full, and returns the reader's own error.
func fill(r io.Reader, buf []byte) (n int, err error) {
	for n < len(buf) && err == nil {
		var m int
		m, err = r.Read(buf[n:])
		n += m
	}
	return n, err
}
