// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package incident

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestPrune(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	day := 24 * time.Hour
	closeAt := func(id string, when time.Time) {
		t.Helper()
		if err := s.Close(t.Context(), id, "me", "over", when, when); err != nil {
			t.Fatal(err)
		}
	}
	old, kept, open1, broken := open(t, s, New{}), open(t, s, New{}), open(t, s, New{}), open(t, s, New{})
	closeAt(old, at.Add(day))
	closeAt(kept, at.Add(3*day))
	closeAt(broken, at.Add(day))
	root := filepath.Join(s.Dir, "incidents")
	evidence := filepath.Join(s.Evidence(old), "docker")
	if err := errors.Join(os.MkdirAll(evidence, 0o750), os.WriteFile(filepath.Join(evidence, "log"), make([]byte, 5000), 0o640),
		os.WriteFile(filepath.Join(s.Path(broken), timelineFile), []byte("{\n"), 0o640),
		os.Mkdir(filepath.Join(root, prunedPrefix+"INC-20250101-000000"), 0o750)); err != nil {
		t.Fatal(err)
	}
	for _, dryRun := range []bool{true, false} {
		past, err := s.Prune(t.Context(), at.Add(2*day), dryRun)
		if err != nil || len(past) != 1 || past[0].ID != old || past[0].Bytes <= 5000 || !past[0].Closed.Equal(at.Add(day)) {
			t.Errorf("dry run %v: %+v, %v", dryRun, past, err)
		}
		if _, err := os.Stat(s.Path(old)); (err == nil) != dryRun {
			t.Errorf("dry run %v: %v", dryRun, err)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(root, prunedPrefix+"*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	for _, id := range []string{kept, open1, broken} {
		if _, err := os.Stat(s.Path(id)); err != nil {
			t.Errorf("%s: %v", id, err)
		}
	}
	if err := s.Reconcile(t.Context()); err != nil {
		t.Fatal(err)
	}
	if i := index(t, s); len(i.Open) != 1 || i.Open[0].ID != open1 || len(i.Closed) != 3 {
		t.Errorf("%+v", i)
	}
	if past, err := (Store{filepath.Join(t.TempDir(), "none")}).Prune(t.Context(), at, false); err != nil || len(past) > 0 {
		t.Errorf("%v, %v", past, err)
	}
}
