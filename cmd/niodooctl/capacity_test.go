// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/niodoo/niodoo_exporter/internal/capacity"
	"github.com/niodoo/niodoo_exporter/internal/opstate"
	"github.com/niodoo/niodoo_exporter/internal/sim"
)

// ctl runs niodooctl and returns its exit code and what it printed.
func ctl(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	code = run(ctx, args, strings.NewReader(""), &out, &errs)
	return code, out.String(), errs.String()
}

// simulated starts simulated services and returns the path of a configuration
// that watches them, with more sections, and nothing else.
func simulated(t *testing.T, services []string, more string) string {
	t.Helper()
	if services == nil {
		services = []string{} // and not all
	}
	st, err := sim.New(sim.Options{Only: services})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(st.Close)
	cfg := st.Config() + more
	for _, section := range []string{"engine", "postgresql", "redis", "ollama", "qdrant", "prometheus", "grafana", "logs", "backup", "operations"} {
		if !strings.Contains("\n"+cfg, "\n"+section+":") {
			cfg += section + ": {enabled: false}\n"
		}
	}
	path := filepath.Join(t.TempDir(), "niodoo.yml")
	if err := os.WriteFile(path, []byte(cfg), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// Two runs: the first begins the history, the second knows of it.
func TestCapacityKeepsAHistory(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	cfg := simulated(t, []string{"engine", "qdrant"}, "operations: {state_dir: "+dir+"}\n")
	var rep capacity.Report
	for range 2 {
		code, out, errs := ctl(t, "--config.file="+cfg, "-o", "json", "capacity", "--source=own", "--growth=20%", "--limit=memories=1")
		if code != exitFailing || errs != "" {
			t.Fatalf("exit code %d: %s\n%s", code, errs, out)
		}
		checkShape(t, "capacity", []byte(out), ".resources[].labels")
		rep = capacity.Report{}
		if err := json.Unmarshal([]byte(out), &rep); err != nil {
			t.Fatal(err)
		}
	}
	for _, r := range rep.Resources {
		switch r.Name {
		case "events": // a counter: only the second run can tell
			if r.Use == nil || r.WhatIf == nil {
				t.Errorf("%+v", r)
			}
		case "memories":
			if r.Verdict != opstate.Failing || r.WhatIf != nil {
				t.Errorf("%+v", r)
			}
		}
	}
	if c, err := opstate.Read[opstate.Capacity](dir); err != nil || len(c.Series["memory"]) != 2 {
		t.Errorf("%v: %+v", err, c.Series["memory"])
	}
}

// Who interrupts gets nothing half done.
func TestLooksInterrupted(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	for _, command := range []string{"capacity", "doctor", "report"} {
		var out, errs bytes.Buffer
		if code := run(ctx, []string{command}, strings.NewReader(""), &out, &errs); code != exitInterrupted || out.Len() > 0 {
			t.Errorf("%s: exit code %d: %s%s", command, code, &out, &errs)
		}
	}
}
