// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package configsum

import (
	"crypto/sha256"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/niodoo/niodoo_exporter/internal/config"
)

func TestTake(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for name, content := range map[string]string{"/niodoo.yml": "host: {config_files: ['" + dir + "/etc/*', '" + dir + "/none/*']}\n", "/etc/a.toml": "a = 1\n"} {
		if err := os.MkdirAll(dir+"/etc/directory", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(dir+name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cfg, err := config.Load(dir + "/niodoo.yml")
	if err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(dir + "/niodoo.yml")
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{dir + "/niodoo.yml": fmt.Sprintf("%x", sha256.Sum256(raw)), dir + "/etc/a.toml": fmt.Sprintf("%x", sha256.Sum256([]byte("a = 1\n")))}
	got, err := Take(t.Context(), cfg)
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("%v %s", err, diff)
	}

	// What cannot be read is told of, and the rest is there.
	if err := syscall.Mkfifo(dir+"/etc/pipe", 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir+"/etc/huge", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(dir+"/etc/huge", maxFile+1); err != nil {
		t.Fatal(err)
	}
	got, err = Take(t.Context(), cfg)
	if diff := cmp.Diff(want, got); diff != "" || err == nil || !strings.Contains(err.Error(), "pipe is not a regular file") || !strings.Contains(err.Error(), "huge is larger than") {
		t.Errorf("%v %s", err, diff)
	}
}
