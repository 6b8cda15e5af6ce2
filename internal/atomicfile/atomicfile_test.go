// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package atomicfile

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

func content(s string) func(io.Writer) error {
	return func(w io.Writer) error { _, err := fmt.Fprint(w, s); return err }
}

func read(t *testing.T, path string) string {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

// names returns what is in the directory: nothing but final names may stay.
func names(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, e := range entries {
		all = append(all, e.Name())
	}
	return all
}

func TestReplaceAndCreate(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "a")
	if err := Create(path, 0o640, content("one")); err != nil {
		t.Fatal(err)
	}
	if err := Create(path, 0o640, content("two")); !errors.Is(err, os.ErrExist) || read(t, path) != "one" {
		t.Errorf("creating an existing file: %v, content %q", err, read(t, path))
	}
	if err := Replace(path, 0o600, content("three")); err != nil || read(t, path) != "three" {
		t.Errorf("%v, content %q", err, read(t, path))
	}
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	boom := errors.New("boom")
	if err := Replace(path, 0o600, func(w io.Writer) error { fmt.Fprint(w, "half"); return boom }); !errors.Is(err, boom) || read(t, path) != "three" {
		t.Errorf("%v, content %q", err, read(t, path))
	}
	if got := names(t, dir); len(got) != 1 {
		t.Errorf("left behind: %q", got)
	}
}

func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file, link, fifo := filepath.Join(dir, "file"), filepath.Join(dir, "link"), filepath.Join(dir, "fifo")
	if err := os.WriteFile(file, []byte("abc"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(file, link); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{link, fifo, dir, filepath.Join(dir, "missing")} {
		if f, _, err := Open(path); err == nil {
			f.Close()
			t.Errorf("%s was opened", path)
		}
	}
	f, size, err := Open(file)
	if err != nil || size != 3 {
		t.Fatalf("size %d, %v", size, err)
	}
	f.Close()
}

func TestRemoveLeftovers(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, n := range []string{"a", ".a" + Suffix + "1", ".b" + Suffix + "1"} {
		if err := os.WriteFile(filepath.Join(dir, n), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := RemoveLeftovers(filepath.Join(dir, "a")); err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(names(t, dir)); got != "[.b.tmp-1 a]" {
		t.Errorf("left: %s", got)
	}
}
