// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package backup

import (
	"io"
	"runtime"

	"github.com/klauspost/compress/zstd"
)

// frameSize is how much is compressed at a time, into a frame of its own:
// frames are made side by side and read side by side, and larger ones gain less
// than 0.5 %.
const frameSize = 1 << 20

// maxWorkers bounds the memory: each holds two frames and its tables.
const maxWorkers = 8

func newEncoder() (*zstd.Encoder, int, error) {
	workers := min(runtime.GOMAXPROCS(0), maxWorkers)
	// The better level is what makes an archive smaller than gzip's; the
	// default leaves vectors as they are.
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedBetterCompression), zstd.WithEncoderConcurrency(workers),
		zstd.WithEncoderCRC(true), zstd.WithWindowSize(frameSize), zstd.WithLowerEncoderMem(true))
	return enc, workers, err
}

// frames compresses what is written to it on several cores. Its output is a
// series of whole zstd frames in the order of the input.
type frames struct {
	out     io.Writer
	enc     *zstd.Encoder
	current *frame
	free    chan *frame // a pool that several may share
	queue   chan *frame
	flushed chan struct{} // answers a frame without content
	ended   chan struct{}
	err     error // the output's; read it after flushed or ended
	failed  chan struct{}
}

type frame struct {
	in, out []byte
	done    chan struct{}
}

// newPool returns the frames that keep a number of workers busy.
func newPool(workers int) chan *frame {
	n := workers + 2 // one is filled and one written meanwhile
	pool := make(chan *frame, n)
	for range n {
		pool <- &frame{}
	}
	return pool
}

func newFrames(out io.Writer, enc *zstd.Encoder, pool chan *frame) *frames {
	f := &frames{
		out: out, enc: enc, free: pool, queue: make(chan *frame, cap(pool)+1),
		flushed: make(chan struct{}), ended: make(chan struct{}), failed: make(chan struct{}),
	}
	go f.deliver()
	return f
}

// deliver writes the frames in order.
func (f *frames) deliver() {
	defer close(f.ended)
	for fr := range f.queue {
		if fr.done == nil {
			f.flushed <- struct{}{}
			continue
		}
		<-fr.done
		if f.err == nil {
			if _, f.err = f.out.Write(fr.out); f.err != nil {
				close(f.failed)
			}
		}
		f.free <- fr
	}
}

func (f *frames) Write(p []byte) (int, error) {
	for rest := p; len(rest) > 0; {
		if f.current == nil {
			f.current = <-f.free
			if f.current.in == nil {
				f.current.in = make([]byte, 0, frameSize)
			}
			f.current.in = f.current.in[:0]
		}
		n := min(len(rest), frameSize-len(f.current.in))
		f.current.in = append(f.current.in, rest[:n]...)
		rest = rest[n:]
		if len(f.current.in) == frameSize {
			if err := f.cut(); err != nil {
				return 0, err
			}
		}
	}
	return len(p), nil
}

// cut ends the current frame.
func (f *frames) cut() error {
	select {
	case <-f.failed:
		return f.err
	default:
	}
	if f.current == nil {
		return nil
	}
	fr := f.current
	f.current = nil
	fr.done = make(chan struct{})
	f.queue <- fr
	go func() {
		fr.out = f.enc.EncodeAll(fr.in, fr.out[:0])
		close(fr.done)
	}()
	return nil
}

// flush waits until all that was written has reached the output.
func (f *frames) flush() error {
	if err := f.cut(); err != nil {
		return err
	}
	f.queue <- &frame{}
	<-f.flushed
	return f.err
}

// close ends the last frame and waits for the output. It must be called once,
// also after an error.
func (f *frames) close() error {
	err := f.cut()
	close(f.queue)
	<-f.ended
	if f.err != nil {
		return f.err
	}
	return err
}
