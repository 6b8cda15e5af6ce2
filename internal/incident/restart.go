// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package incident

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/niodoo/niodoo_exporter/internal/atomicfile"
	"github.com/niodoo/niodoo_exporter/internal/config"
	"github.com/niodoo/niodoo_exporter/internal/endpoint"
	"github.com/niodoo/niodoo_exporter/internal/opstate"
)

const (
	// actionPause is how long a target is left alone after an automatic action.
	actionPause = time.Hour
	// stopGrace is how long a container may take to stop by itself.
	stopGrace = 30 * time.Second
	// restartTimeout bounds a restart.
	restartTimeout = 2 * time.Minute

	actionsFile = "actions.jsonl"
)

// action is a line of the journal of automatic actions. It is written, and
// durable, before the action is begun.
type action struct {
	At       time.Time `json:"at"`
	Incident string    `json:"incident"`
	Target   string    `json:"target"`
}

// errActed says that a target was acted on already.
var errActed = errors.New("not restarted again")

// acted says whether a target may not be restarted: it was for the same
// incident, or for any within the last hour.
func acted(done []action, id string, target config.RestartTarget, now time.Time) error {
	for _, a := range slices.Backward(done) {
		if a.Target == target.String() && (a.Incident == id || now.Sub(a.At) < actionPause) {
			return fmt.Errorf("%w: the %s was, for %s at %s", errActed, a.Target, a.Incident, a.At.Format(timeFormat))
		}
	}
	return nil
}

func (s Store) actionsPath() string { return filepath.Join(s.Dir, "incidents", actionsFile) }

// claim notes in the journal and in the timeline that a target is about to be
// restarted, unless it may not be.
func (s Store) claim(ctx context.Context, id string, target config.RestartTarget, by string, now time.Time) error {
	path := s.actionsPath()
	return s.update(ctx, func(*opstate.Incidents) error {
		done, err := readActions(path)
		if err != nil {
			return err
		}
		if err := acted(done, id, target, now); err != nil {
			return err
		}
		done = slices.DeleteFunc(done, func(a action) bool { return a.Incident != id && now.Sub(a.At) >= 24*actionPause })
		done = append(done, action{now.UTC(), id, target.String()})
		err = atomicfile.Replace(path, 0o640, func(w io.Writer) error {
			enc := json.NewEncoder(w)
			for _, a := range done {
				if err := enc.Encode(a); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		e := Entry{At: now.UTC(), Kind: KindAction, By: by, Text: "restarting the " + target.String()}
		if err := appendTimeline(s.Path(id), []Entry{e}); err != nil {
			return err
		}
		return errUnchanged
	})
}

func readActions(path string) ([]action, error) {
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var all []action
	for dec := json.NewDecoder(bytes.NewReader(raw)); ; {
		var a action
		err := dec.Decode(&a)
		if errors.Is(err, io.EOF) {
			return all, nil
		}
		if err != nil { // without the journal nothing is done
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		all = append(all, a)
	}
}

// restart restarts a unit or a container. That it returns nil says that the
// restart was done, not that it helped.
func restart(ctx context.Context, cfg *config.Config, t config.RestartTarget) error {
	ctx, cancel := context.WithTimeout(ctx, restartTimeout)
	defer cancel()
	if t.Unit != "" {
		_, err := program(ctx, nil, "systemctl", "--no-ask-password", "restart", "--", t.Unit)
		return err
	}
	e, err := endpoint.Docker(cfg.Docker)
	if err != nil {
		return err
	}
	_, err = e.Do(ctx, "POST", fmt.Sprintf("/containers/%s/restart?t=%d", url.PathEscape(t.Container), int(stopGrace.Seconds())))
	return err
}

// leansOnOthers is the component that the others are restarted before: it
// cannot be well without them.
const leansOnOthers = "engine"

// Restartable returns the component that would be restarted for what was
// found, "" for none: one that is required, down, and configured with a target.
func Restartable(cfg *config.Config, h *Health) (component string, target config.RestartTarget) {
	if h == nil {
		return "", target
	}
	for _, name := range h.Down {
		if t, ok := cfg.Incident.Restart[name]; ok && (component == "" || component == leansOnOthers) {
			component, target = name, t
		}
	}
	return component, target
}
