// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strings"
	"testing"
)

func TestDoctorJSON(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	cfg := simulated(t, []string{"engine", "qdrant", "prometheus"}, "operations: {state_dir: "+dir+"}\n")
	code, out, errs := ctl(t, "--config.file="+cfg, "-o", "json", "doctor", "--engine-file="+dir+"/none*.toml")
	// The simulated Prometheus tells nothing of rules: what cannot be looked at is not well.
	if code != exitUnknown || errs != "" {
		t.Fatalf("exit code %d: %s\n%s", code, errs, out)
	}
	checkShape(t, "doctor", []byte(out))
	if !strings.Contains(out, "asking Prometheus for its rules: client_error: client error: 404") {
		t.Errorf("why nothing is known of the rules: %s", out)
	}
}
