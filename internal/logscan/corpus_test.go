// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package logscan

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"strings"
)

// What the tests read: logs as the stack writes them, and dirt.

var (
	plainMessages = []string{
		"stored ERAG entry", "processing prompts through NIODOO pipeline", "normalized embedding to hypersphere",
		"generated hybrid response", "learning loop updated", "request completed", "session opened", "snapshot written",
	}
	classMessages = [NumClasses][]string{
		{"request failed", "Exception in handler", "ERROR while reading", "0 failed"},
		{"high latency seen", "upstream timeout", "slow: processing_time=812"},
		{"consolidation finished", "retrieval done", "memory layer compacted"},
		{"emotional state updated", "toroidal manifold stable", "consciousness cycle done"},
		{"cpu pinned", "disk almost full", "gpu idle", "memory pressure"},
	}
	corpusLevels = []string{"INFO", "INFO", "INFO", "INFO", "DEBUG", "WARN", "ERROR", "TRACE"}
)

// jsonCorpus returns about size bytes of the documented JSON log. Each line is
// in each of the given classes with a probability of 11 %.
func jsonCorpus(size int, classes ...int) []byte {
	r := rand.New(rand.NewPCG(1, uint64(size)))
	var b bytes.Buffer
	b.Grow(size + 512)
	for n := 0; b.Len() < size; n++ {
		words := []string{plainMessages[r.IntN(len(plainMessages))]}
		for _, c := range classes {
			if r.IntN(100) < 11 {
				words = append(words, classMessages[c][r.IntN(len(classMessages[c]))])
			}
		}
		fmt.Fprintf(&b, `{"timestamp":"2026-01-27T10:%02d:%02d.%06dZ","level":"%s","fields":{"message":"%s","request_id":"%016x","count":%d,"entropy":%.6f,"duration_ms":%.3f},"target":"niodoo_real_integrated::pipeline"}`+"\n",
			n/60%60, n%60, r.IntN(1e6), strings.Replace(corpusLevels[r.IntN(len(corpusLevels))], "ERROR", "WARN", 1),
			strings.Join(words, ", "), r.Uint64(), r.IntN(1000), r.Float64()*4, r.Float64()*900)
	}
	return b.Bytes()
}

// textCorpus returns about size bytes of coloured tracing text.
func textCorpus(size int) []byte {
	r := rand.New(rand.NewPCG(2, uint64(size)))
	var b bytes.Buffer
	for n := 0; b.Len() < size; n++ {
		msg := plainMessages[r.IntN(len(plainMessages))]
		if c := r.IntN(2 * NumClasses); c < NumClasses {
			msg = classMessages[c][r.IntN(len(classMessages[c]))]
		}
		fmt.Fprintf(&b, "\x1b[2m2025-10-21T05:%02d:%02d.%06dZ\x1b[0m \x1b[32m%5s\x1b[0m \x1b[1membed\x1b[0m\x1b[1m{\x1b[0m\x1b[3mtokens\x1b[0m\x1b[2m=\x1b[0m102\x1b[1m}\x1b[0m\x1b[2m:\x1b[0m %s \x1b[3mdim\x1b[0m\x1b[2m=\x1b[0m%d\n",
			n/60%60, n%60, r.IntN(1e6), corpusLevels[r.IntN(len(corpusLevels))], msg, r.IntN(1000))
	}
	return b.Bytes()
}

// dirtCorpus returns pieces of the words, of other bytes and of line breaks,
// thrown together: near misses, overlaps, words at every alignment.
func dirtCorpus(r *rand.Rand, pieces int) []byte {
	var b []byte
	for range pieces {
		w := words[r.IntN(len(words))].text
		switch r.IntN(12) {
		case 0, 1, 2:
			b = append(b, w...)
		case 3:
			b = append(b, strings.ToUpper(w)...)
		case 4: // any case
			for i := range len(w) {
				b = append(b, w[i]-byte(r.IntN(2))*('a'-'A'))
			}
		case 5:
			b = append(b, w[:r.IntN(len(w))]...)
		case 6:
			b = append(b, w[r.IntN(len(w)):]...)
		case 7: // a near miss
			at := len(b) + r.IntN(len(w))
			b = append(b, w...)
			b[at] ^= 1 << r.IntN(8)
		case 8:
			for range r.IntN(20) {
				b = append(b, byte(r.IntN(256)))
			}
		case 9:
			b = append(b, [...]string{"\x00", "\r\n", "\n\n", "\xff\xfe", "\x1b[31m", "di\u017fk", " ", "\u00e9"}[r.IntN(8)]...)
		default:
			b = append(b, '\n')
		}
	}
	return b
}
