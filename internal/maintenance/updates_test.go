// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package maintenance

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/niodoo/niodoo_exporter/internal/config"
	"github.com/niodoo/niodoo_exporter/internal/opstate"
)

// What apt-get -s upgrade of Debian 12 and of Ubuntu 24.04 prints.
const simulated = `NOTE: This is only a simulation!
Reading package lists...
The following packages will be upgraded:
  libssl3 openssl tzdata
Inst libssl3 [3.0.20-1~deb12u1] (3.0.22-1~deb12u2 Debian-Security:12/oldstable-security [amd64])
Inst openssl [3.0.20-1~deb12u1] (3.0.22-1~deb12u2 Debian:12.15/oldstable, Debian-Security:12/oldstable-security [amd64]) []
Inst linux-image-6.1.0-50-amd64 (6.1.192-2 Ubuntu:24.04/noble-security [amd64])
Inst vim [2:9.0] (2:9.1 Debian:12.15/oldstable [amd64])
Conf libssl3 (3.0.22-1~deb12u2 Debian-Security:12/oldstable-security [amd64])
`

func TestSecurityUpdates(t *testing.T) {
	t.Parallel()
	const hour, day = time.Hour, 24 * time.Hour
	for _, c := range []struct {
		name   string
		out    string
		err    error
		age    time.Duration // of the lists; 0 for none
		files  []string
		result opstate.StepResult
		texts  []string
	}{
		{"updates", simulated, nil, hour, nil, opstate.StepOK, []string{"3 security updates", "are 1h old", "sudo apt-get install --only-upgrade libssl3 linux-image-6.1.0-50-amd64 openssl", "openssl 3.0.22-1~deb12u2"}},
		{"unattended", simulated, nil, hour, []string{"usr/bin/unattended-upgrade", "run/reboot-required"}, opstate.StepOK, []string{"sudo unattended-upgrade -v", "a reboot is due"}},
		{"none", "Reading package lists...\n", nil, hour, nil, opstate.StepOK, []string{"no security updates; the package lists are 1h old"}},
		{"stale", "", nil, 3 * day, nil, opstate.StepFailed, []string{"0 security updates known, but the package lists are 3d old: run sudo apt-get update"}},
		{"stale with updates", simulated, nil, 3 * day, nil, opstate.StepFailed, []string{"3 security updates known"}},
		{"no lists", "", nil, 0, nil, opstate.StepFailed, []string{"were never fetched"}},
		{"broken", "", errors.New("apt-get: exit status 100: E: broken"), hour, nil, opstate.StepFailed, []string{"could not be checked", "E: broken"}},
		{"elsewhere", "", errNoAPT, 0, nil, opstate.StepSkipped, []string{"could not be checked"}},
	} {
		root := t.TempDir()
		lists := filepath.Join(root, "var/lib/apt/lists")
		if err := os.MkdirAll(lists, 0o755); err != nil {
			t.Fatal(err)
		}
		if c.age > 0 {
			path := filepath.Join(lists, "mirror.example.com_debian_dists_bookworm_InRelease")
			if err := os.WriteFile(path, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			at := time.Now().Add(-c.age - time.Second)
			if err := os.Chtimes(path, at, at); err != nil {
				t.Fatal(err)
			}
		}
		for _, f := range c.files {
			if err := os.MkdirAll(filepath.Dir(filepath.Join(root, f)), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(root, f), nil, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		a := apt{root, func(context.Context) ([]byte, error) { return []byte(c.out), c.err }}
		s := step(t, config.Default(), a.report)
		t.Run(c.name, func(t *testing.T) { wants(t, s, c.result, c.texts...) })
		if strings.Contains(s.Detail, "no security updates") && c.result != opstate.StepOK {
			t.Errorf("%s: it is called up to date: %s", c.name, s.Detail)
		}
	}
}

// The real program takes our arguments. Reading real lists takes it long: it has none here.
func TestAPTGet(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("apt-get"); err != nil {
		if _, err := aptGet(t.Context()); !errors.Is(err, errNoAPT) {
			t.Errorf("without apt-get: %v", err)
		}
		return
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	if out, err := runAPTGet(ctx, "-o", "Dir::State::lists="+t.TempDir(), "-o", "Dir::Cache="+t.TempDir(), "upgrade"); err != nil || !strings.Contains(string(out), "Reading package lists") {
		t.Errorf("%v\n%s", err, out)
	}
}
