// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package incident

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/niodoo/niodoo_exporter/internal/atomicfile"
	"github.com/niodoo/niodoo_exporter/internal/config"
	"github.com/niodoo/niodoo_exporter/internal/health"
	"github.com/niodoo/niodoo_exporter/internal/thresholds"
)

// Result is what became of a piece of evidence.
type Result string

// The results. What was not looked at is not there, or not ours to see.
const (
	Taken       Result = "taken"
	NotLookedAt Result = "not looked at"
	Failed      Result = "failed"
)

// maxPiece bounds a piece of evidence, in bytes.
const maxPiece = 8 << 20

// wordsGrace is how long past the deadline a piece may take to write down what
// was found by then.
const wordsGrace = time.Second

// Piece is one piece of evidence.
type Piece struct {
	Name   string `json:"name"`
	Result Result `json:"result"`
	// Detail says why a piece was not taken.
	Detail  string  `json:"detail,omitempty"`
	File    string  `json:"file,omitempty"`
	Bytes   int     `json:"bytes,omitempty"`
	Seconds float64 `json:"duration_seconds"`
}

// Evidence is what was found when an incident was opened.
type Evidence struct {
	Started time.Time `json:"started"`
	Seconds float64   `json:"duration_seconds"`
	Pieces  []Piece   `json:"pieces"`
	// Health is nil if it was not found out in time.
	Health *Health `json:"health"`
}

// Complete reports whether all that was looked at was taken.
func (e Evidence) Complete() bool {
	return !slices.ContainsFunc(e.Pieces, func(p Piece) bool { return p.Result == Failed })
}

// Summary is one line for people.
func (e Evidence) Summary() string {
	by := map[Result][]string{}
	for _, p := range e.Pieces {
		by[p.Result] = append(by[p.Result], p.Name)
	}
	parts := []string{fmt.Sprintf("%d pieces of evidence taken in %.1f s", len(by[Taken]), e.Seconds)}
	for _, r := range []Result{Failed, NotLookedAt} {
		if len(by[r]) > 0 {
			parts = append(parts, string(r)+": "+strings.Join(by[r], ", "))
		}
	}
	return strings.Join(parts, "; ")
}

// notLookedAt is why something was not looked at on purpose.
type notLookedAt string

func (n notLookedAt) Error() string { return string(n) }

// piece is how a piece of evidence is taken. What it returns besides an error
// is kept all the same.
type piece struct {
	name, file string
	take       func(context.Context) ([]byte, error)
}

// Gatherer collects evidence.
type Gatherer struct {
	Config     *config.Config
	Thresholds thresholds.Set
	// StateDir holds what was last known to be good.
	StateDir string
	Now      func() time.Time
}

// Gather takes every piece at once and puts them into a directory that exists
// or can be made. What has not answered by the configured timeout is left out,
// and left behind. progress, which may be nil, is told of each piece.
func (g Gatherer) Gather(ctx context.Context, dir string, progress func(Piece)) (Evidence, error) {
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return Evidence{}, err
	}
	started := time.Now()
	timeout := time.Duration(g.Config.Incident.Timeout)
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	look := &look{Gatherer: g}
	pieces := look.pieces()
	e := Evidence{Started: g.Now().UTC(), Pieces: make([]Piece, len(pieces))}
	var waiting sync.WaitGroup
	var telling sync.Mutex
	for i, p := range pieces {
		waiting.Go(func() {
			e.Pieces[i] = p.gather(ctx, dir, timeout)
			if progress != nil {
				telling.Lock()
				defer telling.Unlock()
				progress(e.Pieces[i])
			}
		})
	}
	waiting.Wait()
	e.Health = look.found()
	e.Seconds = time.Since(started).Seconds()
	return e, writeJSON(filepath.Join(dir, "evidence.json"), e)
}

// gather takes one piece and writes it.
func (p piece) gather(ctx context.Context, dir string, timeout time.Duration) Piece {
	type answer struct {
		content []byte
		err     error
	}
	started := time.Now()
	done := make(chan answer, 1) // one that never comes back keeps nobody
	go func() {
		var a answer
		defer func() {
			if r := recover(); r != nil {
				a.err = fmt.Errorf("panic: %v", r)
			}
			done <- a
		}()
		a.content, a.err = p.take(ctx)
	}()
	var a answer
	select {
	case a = <-done:
	case <-ctx.Done():
		select { // it may have kept its time, and have to put it into words
		case a = <-done:
		case <-time.After(wordsGrace):
			a.err = ctx.Err()
		}
	}
	out := Piece{Name: p.name, Result: Taken, Seconds: time.Since(started).Seconds()}
	if none, ok := errors.AsType[notLookedAt](a.err); ok {
		out.Result, out.Detail = NotLookedAt, none.Error()
	} else if errors.Is(a.err, context.DeadlineExceeded) {
		out.Result, out.Detail = Failed, fmt.Sprintf("no answer within %s", timeout)
	} else if a.err != nil {
		out.Result, out.Detail = Failed, a.err.Error()
	}
	if len(a.content) == 0 {
		return out
	}
	if len(a.content) > maxPiece {
		a.content = append(a.content[:maxPiece:maxPiece], "\n[cut off here]\n"...)
	}
	path := filepath.Join(dir, p.file)
	if err := writeFile(path, a.content); err != nil {
		out.Result, out.Detail = Failed, err.Error()
		return out
	}
	out.File, out.Bytes = p.file, len(a.content)
	return out
}

func writeFile(path string, content []byte) error {
	return atomicfile.Replace(path, 0o640, func(w io.Writer) error {
		_, err := w.Write(content)
		return err
	})
}

func writeJSON(path string, v any) error {
	raw, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	return writeFile(path, append(raw, '\n'))
}

// look is one collection of evidence; several pieces share what it found.
type look struct {
	Gatherer
	once      sync.Once
	health    *health.Report
	healthErr error
	looked    atomic.Pointer[health.Report]
}

// pieces are all pieces in the order in which people read them.
func (l *look) pieces() []piece {
	return []piece{
		{"health", "health.txt", l.components},
		{"kpis", "kpis.txt", l.kpis},
		{"changes", "changes.txt", l.changes},
		{"alerts", "alerts.json", l.alerts},
		{"errors", "errors.txt", l.errors},
		{"statements", "statements.txt", l.statements},
		{"units", "units.txt", l.units},
		{"containers", "containers.json", l.containers},
		{"kernel", "kernel.txt", l.kernel},
		{"host", "host.txt", l.host},
		{"metrics", "metrics.prom", l.metrics},
	}
}
