// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package backup

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"testing"
)

// TestFramesChooseTheWay compresses the strong way only what gains by it, and
// finds out anew where the content changes.
func TestFramesChooseTheWay(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(1, 2))
	words := []string{"memory", "layer", "consolidation", "emotion", "gaussian", "sphere", "toroidal", "coherence", "novelty", "attention", "retrieval", "engine"}
	var text, numbers bytes.Buffer
	for text.Len() < frameSize {
		fmt.Fprintf(&text, "%s %s=%d ", words[r.IntN(len(words))], words[r.IntN(len(words))], r.IntN(1000))
	}
	for numbers.Len() < frameSize {
		fmt.Fprintf(&numbers, "%d\n", r.Uint64())
	}
	enc, err := newEncoders()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = enc.close() })
	f := newFrames(io.Discard, enc, newPool(enc.workers))
	write := func(frame []byte, n int) {
		t.Helper()
		for range n {
			if _, err := f.Write(frame[:frameSize]); err != nil {
				t.Fatal(err)
			}
		}
		if err := f.flush(); err != nil {
			t.Fatal(err)
		}
	}
	for _, step := range []struct {
		frame  []byte
		frames int
		weak   bool
	}{
		{text.Bytes(), 1, false},
		{numbers.Bytes(), probeEvery, true},
		{text.Bytes(), probeEvery, false},
		{random(3, frameSize), probeEvery, true},
	} {
		write(step.frame, step.frames)
		if f.weak.Load() != step.weak {
			t.Errorf("after %q the weak way is chosen: %v", step.frame[:20], f.weak.Load())
		}
	}
	if err := f.close(); err != nil {
		t.Fatal(err)
	}
}
