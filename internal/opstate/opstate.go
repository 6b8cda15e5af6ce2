// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

// Package opstate is what niodooctl remembers between its runs, for itself and
// for the exporter's operations collector: one small JSON document per concern
// in operations.state_dir.
//
//	health.json          the last health run and its verdicts
//	health_history.json  what health runs found before, as far as it changed
//	maintenance.json     the last run of each maintenance step, and what runs now
//	drills.json          the last restore drill
//	incidents.json       open incidents, the latest closed ones, and totals
//	heartbeat.json       when the listener last heard from Watchdog and its peers
//	capacity.json        what capacity runs have measured, thinned out with age
//
// Each is replaced as a whole, so that a reader needs no lock and never sees
// half of one; writers take turns by a lock on the directory itself, which needs
// no file that belongs to whoever was first.
// A field may be added within a version; readers ignore those they do not know.
// The details of an incident - evidence, timeline - are not kept here.
package opstate

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/niodoo/niodoo_exporter/internal/atomicfile"
)

// Version is the version of the documents that this package reads and writes.
const Version = 1

// MaxSize bounds a document, in bytes.
const MaxSize = 8 << 20

var (
	// ErrDamaged says that a document is not what was written.
	ErrDamaged = errors.New("damaged")
	// ErrVersion says that a document was written by a newer program.
	ErrVersion = errors.New("unknown version")
	// ErrTooLarge says that a document is larger than [MaxSize].
	ErrTooLarge = errors.New("too large")
	// ErrLocked says that another writer held the lock for as long as we waited.
	ErrLocked = errors.New("locked by another run of niodooctl")
)

// Document is one concern's state.
type Document interface {
	Health | HealthHistory | Maintenance | Drills | Incidents | Heartbeat | Capacity
	file() string
	validate() error
}

// envelope is how a document is stored.
type envelope struct {
	Version int             `json:"version"`
	State   json.RawMessage `json:"state"`
}

// Path returns the path of a document's file.
func Path[D Document](dir string) string {
	var d D
	return filepath.Join(dir, d.file())
}

// Read returns a document. One that was never written is [fs.ErrNotExist].
func Read[D Document](dir string) (D, error) {
	var none D
	path := Path[D](dir)
	f, _, err := atomicfile.Open(path)
	if err != nil {
		return none, err
	}
	defer f.Close()
	d, err := Decode[D](f)
	if err != nil {
		return none, fmt.Errorf("%s: %w", path, err)
	}
	return d, nil
}

// Decode reads the content of a document's file.
func Decode[D Document](r io.Reader) (D, error) {
	var d, none D
	raw, err := io.ReadAll(io.LimitReader(r, MaxSize+1))
	if err != nil {
		return none, err
	}
	if len(raw) > MaxSize {
		return none, fmt.Errorf("%w: more than %d bytes", ErrTooLarge, MaxSize)
	}
	var e envelope
	if err := json.Unmarshal(raw, &e); err != nil {
		return none, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	switch {
	case e.Version > Version:
		return none, fmt.Errorf("%w %d, written by a newer niodooctl; this program knows %d", ErrVersion, e.Version, Version)
	case e.Version < 1:
		return none, fmt.Errorf("%w: it has no version", ErrDamaged)
	case len(e.State) == 0 || e.State[0] != '{':
		return none, fmt.Errorf("%w: it has no state", ErrDamaged)
	}
	if err := json.Unmarshal(e.State, &d); err != nil {
		return none, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	if err := d.validate(); err != nil {
		return none, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return d, nil
}

// Update changes a document under the directory's lock, which it waits for
// until ctx ends. A document that was never written is changed from its zero
// value; one that cannot be read is not overwritten. If change fails, or what
// it made is not valid, the old document stays.
func Update[D Document](ctx context.Context, dir string, change func(*D) error) error {
	unlock, err := Lock(ctx, dir)
	if err != nil {
		return err
	}
	defer unlock()
	d, err := Read[D](dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := change(&d); err != nil {
		return err
	}
	path := Path[D](dir)
	raw, err := encode(d)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if err := atomicfile.RemoveLeftovers(path); err != nil {
		return err
	}
	return atomicfile.Replace(path, 0o644, func(w io.Writer) error {
		_, err := w.Write(raw)
		return err
	})
}

func encode[D Document](d D) ([]byte, error) {
	if err := d.validate(); err != nil {
		return nil, err
	}
	state, err := json.Marshal(d)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetIndent("", "  ")
	if err := enc.Encode(envelope{Version, state}); err != nil {
		return nil, err
	}
	if b.Len() > MaxSize {
		return nil, fmt.Errorf("%w: %d bytes", ErrTooLarge, b.Len())
	}
	return b.Bytes(), nil
}

// lockRetry is how often a lock that is taken is tried again; documents are
// held for milliseconds.
const lockRetry = 5 * time.Millisecond

// TryLock is [Lock] that does not wait.
func TryLock(dir string) (unlock func(), err error) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return Lock(ctx, dir)
}

// Lock takes a directory's lock, which it waits for until ctx ends; the error is
// [ErrLocked] then. The system drops it when its holder dies.
func Lock(ctx context.Context, dir string) (unlock func(), err error) {
	f, err := os.OpenFile(dir, os.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		switch {
		case err == nil:
			return func() { f.Close() }, nil
		case !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR):
			f.Close()
			return nil, &os.PathError{Op: "flock", Path: f.Name(), Err: err}
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, fmt.Errorf("%s: %w: %w", dir, ErrLocked, ctx.Err())
		case <-time.After(lockRetry):
		}
	}
}
