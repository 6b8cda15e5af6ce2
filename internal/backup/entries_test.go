// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package backup

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// Entries come back as they were added and as often as they are asked for, and
// take no memory meanwhile.
func TestEntryList(t *testing.T) { // alone, for its memory
	const many = 50_000
	entry := func(i int) Entry {
		return NewEntry(fmt.Sprintf("files/data/%s/%d", strings.Repeat("x", 100), i), int64(i), sha256.New().Sum(nil))
	}
	dir := t.TempDir()
	var l entryList
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	for i := range many {
		if err := l.add(dir, entry(i)); err != nil {
			t.Fatal(err)
		}
		l.last.Note = fmt.Sprint("note ", i)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 4<<20 { // they are over 15 MB
		t.Errorf("%d entries take %d bytes", many, grown)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("in the directory: %v, %v", left, err)
	}
	s := summary()
	for range 2 {
		var manifest bytes.Buffer
		if err := encodeLines(&manifest, s, l.lines()); err != nil {
			t.Fatal(err)
		}
		i := 0
		if _, err := Decode(&manifest, func(e Entry) error {
			want := entry(i)
			want.Note = fmt.Sprint("note ", i)
			i++
			if e != want {
				return errors.New(cmp.Diff(want, e))
			}
			return nil
		}); err != nil || i != many {
			t.Fatalf("%d entries: %v", i, err)
		}
	}
	if err := errors.Join(l.close(), l.close()); err != nil {
		t.Error(err)
	}
}

// What cannot be kept fails the archive, not only its manifest.
func TestEntriesFail(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		dir   string
		names []string
		want  error
	}{
		"no directory": {filepath.Join(t.TempDir(), "none"), []string{"a", "b"}, fs.ErrNotExist},
		"a long name":  {t.TempDir(), []string{strings.Repeat("n", maxLineSize), "b"}, ErrTooLarge},
		"the last one": {t.TempDir(), []string{"a", strings.Repeat("n", maxLineSize)}, ErrTooLarge},
	} {
		var file bytes.Buffer
		w, err := NewArchiveWriter(&file)
		if err != nil {
			t.Fatal(err)
		}
		w.Dir = test.dir
		for _, n := range test.names {
			if err := w.AddBytes(n, []byte("x"), time.Unix(1, 0)); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			w.Annotate("odd")
		}
		s := summary()
		s.Archive, s.Encryption = nil, nil
		if _, err := w.Finish(s); !errors.Is(err, test.want) {
			t.Errorf("%s: %v", name, err)
		}
		_ = w.Close()
	}
}
