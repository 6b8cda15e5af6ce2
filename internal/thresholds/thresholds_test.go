// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package thresholds

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// The contract's numbers, where every part of the project reads them.
func TestDefault(t *testing.T) {
	s := Default()
	for name, want := range map[string]float64{
		"processing_time_seconds": 1, "memory_stability_ratio": 0.99, "cpu_usage_ratio": 0.8, "memory_usage_ratio": 0.85, "disk_usage_ratio": 0.8,
	} {
		if got := s[name].Warning; got == nil || *got != want {
			t.Errorf("%s warns at %v, want %v", name, got, want)
		}
	}
	if d := s["processing_time_seconds"].Duration(); d != 3*time.Minute {
		t.Errorf("processing time is watched for %s", d)
	}
	if s["events_per_second"].On() || !s["cpu_usage_ratio"].On() {
		t.Error("which thresholds are on")
	}
}

// The mixin's copy, which jsonnet-bundler unpacks, is the same file.
func TestMixinCopy(t *testing.T) {
	copied, err := os.ReadFile("../../mixin/thresholds.json")
	if err != nil {
		t.Fatal(err)
	}
	if string(copied) != string(embedded) {
		t.Error("mixin/thresholds.json differs from internal/thresholds/thresholds.json: run make generate")
	}
}

func TestLoad(t *testing.T) {
	dir := t.TempDir()
	write := func(text string) string {
		f := filepath.Join(dir, "t.json")
		if err := os.WriteFile(f, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return f
	}
	if _, err := Load(write(strings.Replace(string(embedded), `"warning": 0.85`, `"warning": 0.9`, 1))); err != nil {
		t.Errorf("an edited copy: %v", err)
	}
	for text, want := range map[string]string{
		"{":  "cannot be read",
		"{}": "cpu_usage_ratio is missing",
		strings.Replace(string(embedded), `"cpu_usage_ratio"`, `"cpu_use"`, 1):            "cpu_use is unknown",
		strings.Replace(string(embedded), `"warning": 0.85`, `"warning": 0.6`, 1):         "memory_usage_ratio: the limits 0.7 and 0.6 are the wrong way round",
		strings.Replace(string(embedded), `"for": "3m"`, `"for": "soon"`, 1):              "processing_time_seconds: for:",
		strings.Replace(string(embedded), `"for": "3m"`, `"fore": "3m"`, 1):               "unknown field",
		strings.Replace(string(embedded), `"direction": "above"`, `"direction": "up"`, 1): "write above or below",
	} {
		if _, err := Load(write(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q, got %v", want, err)
		}
	}
	if _, err := Load(filepath.Join(dir, "none")); err == nil {
		t.Error("a missing file is accepted")
	}
}
