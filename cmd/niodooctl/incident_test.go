// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

// What machines read of the incident commands keeps its fields.
func TestIncidentShapes(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	config := file(t, dir, "niodoo.yml", fmt.Sprintf("%soperations: {enabled: false, state_dir: '%s/state'}\n", nothing, dir))
	ask := func(args ...string) []byte {
		t.Helper()
		var stdout, stderr bytes.Buffer
		code := run(t.Context(), append([]string{"--config.file=" + config, "-o", "json", "incident"}, args...), strings.NewReader(""), &stdout, &stderr)
		if code != exitWell || stderr.Len() > 0 {
			t.Fatalf("%v exits %d: %s", args, code, &stderr)
		}
		return stdout.Bytes()
	}
	opened := ask("open", "P2", "it is slow")
	checkShape(t, "incident-open", opened)
	var o struct{ ID string }
	if err := json.Unmarshal(opened, &o); err != nil {
		t.Fatal(err)
	}
	checkShape(t, "incident-list", ask("list"))
	checkShape(t, "incident-ack", ask("ack", "--by=ann", o.ID))
	ask("close", "--by=ann", o.ID, "a cold cache")
	checkShape(t, "incident-report", ask("report", o.ID))
	checkShape(t, "incident-totals", ask("report"))
	checkShape(t, "incident-dry-run", ask("open", "--dry-run", "P1", "it is down"))
}
