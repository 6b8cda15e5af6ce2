// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package loganalysis

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/niodoo/niodoo_exporter/internal/logcorpus"
)

// BenchmarkAnalyze is the whole analysis on one core; `make bench-logs` compares it with grep.
func BenchmarkAnalyze(b *testing.B) {
	const size = 64 << 20
	for name, data := range map[string][]byte{"json": logcorpus.JSON(size, logcorpus.Dense), "text": logcorpus.Text(size, logcorpus.Dense)} {
		path := filepath.Join(b.TempDir(), name)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			b.Fatal(err)
		}
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(data)))
			for b.Loop() {
				if _, err := Analyze(b.Context(), Options{Sources: Named([]string{path}), Last: 20, Top: 10, Workers: 1}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
