// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package loganalysis

import (
	"context"
	"os"
	"testing"
)

func BenchmarkFile(b *testing.B) {
	name := os.Getenv("NIODOO_CORPUS")
	if name == "" {
		b.Skip("NIODOO_CORPUS names no file")
	}
	info, err := os.Stat(name)
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(info.Size())
	for b.Loop() {
		if _, err := Analyze(context.Background(), Options{Sources: Named([]string{name}), Last: 20, Top: 10, Workers: 1}); err != nil {
			b.Fatal(err)
		}
	}
}
