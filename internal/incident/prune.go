// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package incident

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/niodoo/niodoo_exporter/internal/opstate"
)

// prunedPrefix marks what is being removed: it is no incident any more.
const prunedPrefix = ".pruned-"

// Past is an incident whose time is over.
type Past struct {
	ID     string
	Closed time.Time
	Bytes  int64
}

// Prune removes the timelines and evidence of incidents that were closed before
// a moment, or only names them. Open ones and those whose timeline cannot be
// read stay, whatever their age. What is known of the latest closed ones stays
// in the index.
func (s Store) Prune(ctx context.Context, before time.Time, dryRun bool) ([]Past, error) {
	root := filepath.Join(s.Dir, "incidents")
	entries, err := os.ReadDir(root)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var past []Past
	var errs []error
	for _, e := range entries {
		if err := ctx.Err(); err != nil {
			return past, err
		}
		if strings.HasPrefix(e.Name(), prunedPrefix) && !dryRun { // a killed one's
			errs = append(errs, os.RemoveAll(filepath.Join(root, e.Name())))
		}
		if !idRE.MatchString(e.Name()) {
			continue
		}
		closed, ok := s.closedAt(e.Name())
		if !ok || !closed.Before(before) {
			continue
		}
		p := Past{ID: e.Name(), Closed: closed, Bytes: sizeOf(s.Path(e.Name()))}
		if !dryRun {
			if err := s.remove(ctx, p.ID); err != nil {
				errs = append(errs, err)
				continue
			}
		}
		past = append(past, p)
	}
	return past, errors.Join(errs...)
}

// closedAt returns when an incident was closed, false for one that is not.
func (s Store) closedAt(id string) (at time.Time, ok bool) {
	entries, err := s.Timeline(id)
	if err != nil {
		return at, false
	}
	for _, e := range entries {
		if e.Kind == KindClosed {
			at, ok = e.At, true
		}
	}
	return at, ok
}

// remove takes an incident's directory away at once, and then removes it.
func (s Store) remove(ctx context.Context, id string) error {
	away := filepath.Join(s.Dir, "incidents", prunedPrefix+id)
	err := s.update(ctx, func(*opstate.Incidents) error {
		if err := os.Rename(s.Path(id), away); err != nil {
			return err
		}
		return errUnchanged
	})
	if err != nil {
		return err
	}
	return os.RemoveAll(away)
}

func sizeOf(dir string) (n int64) {
	_ = filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() {
			if info, err := e.Info(); err == nil {
				n += info.Size()
			}
		}
		return nil
	})
	return n
}
