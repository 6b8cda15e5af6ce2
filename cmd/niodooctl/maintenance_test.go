// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"strings"
	"testing"

	"github.com/alecthomas/kingpin/v2"

	"github.com/niodoo/niodoo_exporter/internal/config"
	"github.com/niodoo/niodoo_exporter/internal/maintenance"
)

// The commands of the plan are ones that this program has, with those flags.
func TestMaintenanceCommands(t *testing.T) {
	t.Parallel()
	for _, s := range maintenance.Steps {
		argv := s.Command(config.Default())
		if argv == nil {
			continue
		}
		name := argv[0]
		if _, ok := groups[name]; ok {
			name += " " + argv[1]
		}
		if _, ok := specs[name]; !ok {
			t.Errorf("the step %s runs %s, which is no command", s.Name, name)
			continue
		}
		app := kingpin.New("niodooctl", "")
		app.Terminate(func(int) { t.Errorf("%s ends the program", strings.Join(argv, " ")) })
		actions := install(app)
		if got, err := app.Parse(argv); err != nil || actions[got].spec.name != name {
			t.Errorf("the step %s runs %s: %q, %v", s.Name, strings.Join(argv, " "), got, err)
		}
	}
}

// The fields of the JSON report.
func TestMaintenanceShape(t *testing.T) {
	t.Parallel()
	var stdout, stderr bytes.Buffer
	code := run(t.Context(), []string{"-o", "json", "maintenance", "monthly", "--dry-run", "--only=capacity"}, strings.NewReader(""), &stdout, &stderr)
	if code != exitWell {
		t.Fatalf("exit code %d: %s", code, stderr.String())
	}
	checkShape(t, "maintenance", stdout.Bytes())
}
