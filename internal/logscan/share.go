// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package logscan

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"syscall"
)

const (
	// ChunkSize is what is read at once, in bytes: it stays in the second-level cache.
	ChunkSize = 256 << 10
	// ShareSize is what a worker takes at once, in bytes.
	ShareSize = 4 << 20

	restSize = 4 << 10 // what is read at first to find the end of a share's last line
)

// View returns bytes of a file from an offset, n at most. They are valid until
// the next call. It returns fewer only with an error, [io.EOF] at the end.
type View func(at int64, n int) ([]byte, error)

// ReadView returns a view that reads into a buffer of [ChunkSize].
func ReadView(r io.ReaderAt, buf []byte) View {
	return func(at int64, n int) ([]byte, error) {
		n, err := r.ReadAt(buf[:min(n, len(buf))], at)
		return buf[:n], err
	}
}

// Sink takes the bytes of lines.
type Sink interface {
	io.Writer
	// Unfinished returns how many bytes of an unfinished line it was given.
	Unfinished() int64
}

// ReadShare gives sink the lines that begin in the share of a file at from, up
// to the end of the last of them, of the file's first size bytes. It returns the
// offset behind them. A file that ends sooner has become shorter; that is no error.
func ReadShare(ctx context.Context, view View, from, size int64, sink Sink) (int64, error) {
	end := min(from+ShareSize, size)
	at, inside := from, true
	if from > 0 {
		at, inside = from-1, false // a newline just before makes the first byte a beginning
	}
	rest := int64(restSize)
	for at < size {
		if err := ctx.Err(); err != nil {
			return at, err
		}
		want := int64(ChunkSize)
		past := at >= end // all that is wanted of it is the rest of a line
		if past {
			want, rest = rest, ChunkSize
		} else {
			want = min(want, end-at)
		}
		chunk, err := view(at, int(min(want, size-at)))
		start := at
		at += int64(len(chunk))
		if !inside {
			i := bytes.IndexByte(chunk, '\n')
			if i < 0 && at >= end { // no line begins in the share
				return at, endOf(err)
			}
			if i >= 0 {
				chunk, inside, start = chunk[i+1:], true, start+int64(i+1)
			} else {
				chunk = nil
			}
		}
		if past {
			if i := bytes.IndexByte(chunk, '\n'); i >= 0 {
				_, err := sink.Write(chunk[:i+1])
				return start + int64(i+1), err
			}
		}
		if _, err := sink.Write(chunk); err != nil {
			return at, err
		}
		if err != nil {
			return at, endOf(err)
		}
		if at >= end && sink.Unfinished() == 0 {
			return at, nil
		}
	}
	return at, nil
}

// endOf is the error of a read but for the end of the file, which may have
// become shorter since it was measured.
func endOf(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// ErrNotMapped says that a file cannot be looked at in memory, or no longer.
var ErrNotMapped = errors.New("the file cannot be mapped")

// Window looks at a file where the system has it in memory, which spares a copy.
// It maps a little of it at a time, since what is mapped counts as the process'
// own memory. Use it inside [Guard] only.
type Window struct {
	File *os.File
	Size int64

	at   int64
	data []byte
}

// windowSize is what is mapped at once: a chunk that begins anywhere fits.
const windowSize = 4 * ChunkSize

// View is a [View].
func (w *Window) View(at int64, n int) ([]byte, error) {
	if at < w.at || at+int64(n) > w.at+int64(len(w.data)) {
		w.Close()
		from := at &^ int64(os.Getpagesize()-1)
		data, err := syscall.Mmap(int(w.File.Fd()), from, int(min(w.Size-from, windowSize)), syscall.PROT_READ, syscall.MAP_SHARED)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrNotMapped, err)
		}
		w.at, w.data = from, data
	}
	return w.data[at-w.at:][:n], nil
}

// Close ends the looking.
func (w *Window) Close() {
	if w.data != nil {
		_ = syscall.Munmap(w.data)
		w.data = nil
	}
}

// Guard runs f. Touching a page that is no longer in its file is
// [ErrNotMapped] there, not the end of the process.
func Guard(f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			if _, fault := p.(interface{ Addr() uintptr }); !fault {
				panic(p)
			}
			err = fmt.Errorf("%w: it became shorter while it was read", ErrNotMapped)
		}
	}()
	return f()
}
