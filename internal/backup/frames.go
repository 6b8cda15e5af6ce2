// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package backup

import (
	"errors"
	"io"
	"runtime"
	"sync/atomic"

	"github.com/klauspost/compress/zstd"
)

// frameSize is how much is compressed at a time, into a frame of its own:
// frames are made side by side and read side by side, and larger ones gain less
// than 0.5 %.
const frameSize = 1 << 20

// maxWorkers bounds the memory: each holds two frames and its tables.
const maxWorkers = 8

// probeEvery is how many frames there are from one that is compressed both ways
// to the next, and minGain the share of its content that the stronger way must
// save to be used until then: it takes three times as long. Logs and other text
// of few words gain 2 %, a dump of varied rows nothing.
const (
	probeEvery = 32
	minGain    = 0.01
)

// encoders compress frames.
type encoders struct {
	fast, strong *zstd.Encoder
	workers      int
}

func newEncoders() (*encoders, error) {
	e := &encoders{workers: min(runtime.GOMAXPROCS(0), maxWorkers)}
	var err error
	if e.fast, err = e.encoder(zstd.SpeedFastest); err != nil {
		return nil, err
	}
	e.strong, err = e.encoder(zstd.SpeedBetterCompression)
	return e, err
}

func (e *encoders) encoder(level zstd.EncoderLevel) (*zstd.Encoder, error) {
	return zstd.NewWriter(nil, zstd.WithEncoderLevel(level), zstd.WithEncoderConcurrency(e.workers), zstd.WithEncoderCRC(true),
		zstd.WithWindowSize(frameSize), zstd.WithLowerEncoderMem(true),
		// Vectors repeat nothing, and yet their bytes are not equally frequent.
		zstd.WithAllLitEntropyCompression(true))
}

func (e *encoders) close() error { return errors.Join(e.fast.Close(), e.strong.Close()) }

// frames compresses what is written to it on several cores. Its output is a
// series of whole zstd frames in the order of the input.
type frames struct {
	out     io.Writer
	enc     *encoders
	cuts    int         // frames so far
	weak    atomic.Bool // the fast way does for the content that comes
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
	other   []byte // for the other way
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

func newFrames(out io.Writer, enc *encoders, pool chan *frame) *frames {
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
	probe := f.cuts%probeEvery == 0
	f.cuts++
	go func() {
		f.compress(fr, probe)
		close(fr.done)
	}()
	return nil
}

// compress fills a frame's output, and for a probe chooses the way for those
// that come. Before it has chosen, frames are compressed the strong way.
func (f *frames) compress(fr *frame, probe bool) {
	switch {
	case probe:
		fr.out, fr.other = f.enc.strong.EncodeAll(fr.in, fr.out[:0]), f.enc.fast.EncodeAll(fr.in, fr.other[:0])
		saved := len(fr.other) - len(fr.out)
		f.weak.Store(float64(saved) < minGain*float64(len(fr.in)))
	case f.weak.Load():
		fr.out = f.enc.fast.EncodeAll(fr.in, fr.out[:0])
	default:
		fr.out = f.enc.strong.EncodeAll(fr.in, fr.out[:0])
	}
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
