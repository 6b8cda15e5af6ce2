// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// lenientThresholds returns the path of thresholds that no machine exceeds, however busy
// it is, but for those of the memory.
func lenientThresholds(t *testing.T, memory string) string {
	t.Helper()
	raw, err := os.ReadFile("../../internal/thresholds/thresholds.json")
	if err != nil {
		t.Fatal(err)
	}
	text := string(raw)
	for from, to := range map[string]string{
		`"target": 0.5, "warning": 0.8, "capacity": 0.7`:     `"target": 0.5, "warning": 2, "capacity": 0.7`,
		`"warning": 0.8, "critical": 0.9, "capacity": 0.8`:   `"warning": 2, "critical": 3, "capacity": 0.8`,
		`"target": 0.7, "warning": 0.85`:                     memory,
		`"target": 0.05, "warning": 0.1, "for": "5m", "reas`: `"target": 0.05, "warning": 100, "for": "5m", "reas`,
	} {
		if !strings.Contains(text, from) {
			t.Fatalf("%s: the thresholds have changed, and this test must follow", from)
		}
		text = strings.Replace(text, from, to, 1)
	}
	file := filepath.Join(t.TempDir(), "thresholds.json")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

const wellMemory = `"target": 0.7, "warning": 2`

func TestReport(t *testing.T) {
	t.Parallel()
	cfg := simulated(t, []string{"engine", "ollama", "vllm"}, "operations: {enabled: false}\n")
	global := []string{"--config.file=" + cfg, "--thresholds.file=" + lenientThresholds(t, wellMemory)}
	for _, c := range []struct {
		args []string
		want []string // lines
	}{
		{nil, []string{`^Performance at `, `^Rates over .*; no past: `, `^well +system +memory usage .* %`, `^load per core `, `^ollama +mistral:latest +.*required `,
			`^device +in +out +packets/s in`, `^- containers: the collector docker is not enabled$`}},
		{[]string{"-o", "markdown"}, []string{`^# Performance at `, `^## KPIs$`, `^\| well \| system \| memory usage `, `^## Machine$`, `^- containers: `}},
		{[]string{"-q"}, nil},
	} {
		code, out, errs := ctl(t, append(append(global, c.args...), "report", "--interval=200ms")...)
		if code != exitWell || errs != "" {
			t.Fatalf("%v: exit code %d: %s\n%s", c.args, code, errs, out)
		}
		for _, line := range c.want {
			if !regexp.MustCompile("(?m)" + line).MatchString(out) {
				t.Errorf("%v: no line is %s in\n%s", c.args, line, out)
			}
		}
		if c.want == nil && out != "" {
			t.Errorf("%v: %s", c.args, out)
		}
	}
	code, out, errs := ctl(t, append(global, "-o", "json", "report", "--interval=200ms")...)
	if code != exitWell || errs != "" {
		t.Fatalf("exit code %d: %s\n%s", code, errs, out)
	}
	checkShape(t, "report", []byte(out), ".host.pressure_waiting_ratio")
}

// A KPI beyond its limit decides, and is all that --quiet prints.
func TestReportWarns(t *testing.T) {
	t.Parallel()
	cfg := simulated(t, nil, "operations: {enabled: false}\n")
	code, out, errs := ctl(t, "--config.file="+cfg, "--thresholds.file="+lenientThresholds(t, `"target": 0.00001, "warning": 0.0001`), "report", "--interval=100ms", "-q")
	if code != exitWarning || errs != "" || !strings.Contains(out, "memory usage") || !strings.Contains(out, "misses") || strings.Contains(out, "CPU usage") {
		t.Errorf("exit code %d: %s%s", code, out, errs)
	}
}
