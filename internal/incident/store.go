// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package incident

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"syscall"
	"time"
	"unicode/utf8"

	"github.com/niodoo/niodoo_exporter/internal/atomicfile"
	"github.com/niodoo/niodoo_exporter/internal/opstate"
)

const (
	// maxTitle bounds a title, in bytes.
	maxTitle = 300
	// maxSameSecond is how many incidents can be opened in one second.
	maxSameSecond  = 1000
	buildingSuffix = ".new"
)

var idRE = regexp.MustCompile(`^INC-\d{8}-\d{6}(-\d{1,3})?$`)

var (
	// ErrUnknown says that there is no incident of an id.
	ErrUnknown = errors.New("there is no such incident")
	// ErrNotAnID says that a text is no incident's id.
	ErrNotAnID = errors.New("is not the id of an incident, such as INC-20261124-020000")
	// ErrClosed says that an incident is closed already.
	ErrClosed = errors.New("closed already")
)

// errUnchanged says that the index stays as it is.
var errUnchanged = errors.New("unchanged")

// Store is the incidents of a state directory.
type Store struct {
	// Dir is operations.state_dir.
	Dir string
}

// Path returns an incident's directory.
func (s Store) Path(id string) string { return filepath.Join(s.Dir, "incidents", id) }

// Evidence returns the directory of an incident's evidence.
func (s Store) Evidence(id string) string { return filepath.Join(s.Path(id), "evidence") }

// Prepare makes the directories.
func (s Store) Prepare() error {
	if err := os.MkdirAll(s.Dir, 0o755); err != nil {
		return fmt.Errorf("operations.state_dir: %w", err)
	}
	if err := os.Mkdir(filepath.Join(s.Dir, "incidents"), 0o750); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("operations.state_dir: %w", err)
	}
	return nil
}

// Index returns all open and the latest closed incidents.
func (s Store) Index() (opstate.Incidents, error) {
	i, err := opstate.Read[opstate.Incidents](s.Dir)
	if errors.Is(err, fs.ErrNotExist) {
		return opstate.Incidents{}, nil
	}
	return i, err
}

// update changes timelines and the index under the lock. Timelines come first:
// whatever is killed in between, Reconcile brings the index into line.
func (s Store) update(ctx context.Context, change func(*opstate.Incidents) error) error {
	err := opstate.Update(ctx, s.Dir, change)
	if errors.Is(err, errUnchanged) {
		return nil
	}
	return err
}

// New is an incident to be opened.
type New struct {
	Priority          opstate.Priority
	Title, By         string
	GroupKey, Follows string
	At                time.Time
	// Entries follow the one that opens the timeline.
	Entries []Entry
}

// Open opens an incident and returns its id. It is durable then.
func (s Store) Open(ctx context.Context, n New) (id string, err error) {
	err = s.update(ctx, func(i *opstate.Incidents) error {
		id, err = s.open(i, n)
		return err
	})
	return id, err
}

// open opens an incident under the lock.
func (s Store) open(i *opstate.Incidents, n New) (string, error) {
	n.Title = cut(oneLine(n.Title), maxTitle)
	if n.Title == "" {
		return "", errors.New("an incident needs a title")
	}
	n.At = n.At.UTC().Truncate(time.Millisecond)
	first := Entry{At: n.At, Kind: KindOpened, By: n.By, Text: n.Title, Opening: &Opening{n.Priority, n.GroupKey, n.Follows}}
	raw, err := encodeEntries(append([]Entry{first}, n.Entries...))
	if err != nil {
		return "", err
	}
	root := filepath.Join(s.Dir, "incidents")
	building := filepath.Join(root, buildingSuffix)
	if err := os.RemoveAll(building); err != nil { // a killed opener's
		return "", err
	}
	if err := os.Mkdir(building, 0o750); err != nil {
		return "", err
	}
	path := filepath.Join(building, timelineFile)
	if err := atomicfile.Create(path, 0o640, func(w io.Writer) error { _, err := w.Write(raw); return err }); err != nil {
		return "", err
	}
	id, err := s.place(i, building, n.At)
	if err != nil {
		return "", err
	}
	if err := atomicfile.SyncDir(root); err != nil {
		return "", err
	}
	return id, i.Add(incidentOf(id, first))
}

// place gives a new incident's directory its name: the first free id of the
// second, or of the next ones.
func (s Store) place(i *opstate.Incidents, building string, at time.Time) (string, error) {
	taken := map[string]bool{}
	for _, in := range slices.Concat(i.Open, i.Closed) {
		taken[in.ID] = true
	}
	for second := at; ; second = second.Add(time.Second) {
		base := "INC-" + second.Format("20060102-150405")
		for n := range maxSameSecond {
			id := base
			if n > 0 {
				id = fmt.Sprintf("%s-%d", base, n)
			}
			if taken[id] {
				continue
			}
			// A directory that is not empty is never replaced.
			err := os.Rename(building, s.Path(id))
			if err == nil {
				return id, nil
			}
			if !errors.Is(err, syscall.ENOTEMPTY) && !errors.Is(err, syscall.EEXIST) && !errors.Is(err, syscall.ENOTDIR) {
				return "", err
			}
		}
	}
}

func incidentOf(id string, opened Entry) opstate.Incident {
	return opstate.Incident{ID: id, Priority: opened.Opening.Priority, Title: opened.Text, Opened: opened.At, GroupKey: opened.Opening.GroupKey}
}

// Timeline returns an incident's entries, open or closed.
func (s Store) Timeline(id string) ([]Entry, error) {
	if !idRE.MatchString(id) {
		return nil, fmt.Errorf("%.100q %w", id, ErrNotAnID)
	}
	entries, err := readTimeline(s.Path(id))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w", id, ErrUnknown)
	}
	if err == nil && (len(entries) == 0 || entries[0].Opening == nil) {
		return nil, fmt.Errorf("%s: the timeline does not begin with an opening", id)
	}
	return entries, err
}

// Append adds entries to an incident's timeline, open or closed.
func (s Store) Append(ctx context.Context, id string, entries ...Entry) error {
	if _, err := s.Timeline(id); err != nil {
		return err
	}
	return s.update(ctx, func(*opstate.Incidents) error {
		if err := appendTimeline(s.Path(id), entries); err != nil {
			return err
		}
		return errUnchanged
	})
}

// Acknowledge notes that someone has taken an incident on.
func (s Store) Acknowledge(ctx context.Context, id, by string, at time.Time) error {
	return s.change(ctx, id, Entry{At: at, Kind: KindAcknowledged, By: by, Text: "taken on"},
		func(i *opstate.Incidents) error { return i.Acknowledge(id, at) })
}

// Close closes an incident. ended is when the trouble was over.
func (s Store) Close(ctx context.Context, id, by, text string, at, ended time.Time) error {
	return s.change(ctx, id, Entry{At: at, Kind: KindClosed, By: by, Text: text, Ended: ended},
		func(i *opstate.Incidents) error { return i.Close(id, ended) })
}

// change notes in an open incident's timeline what then changes the index.
func (s Store) change(ctx context.Context, id string, e Entry, change func(*opstate.Incidents) error) error {
	entries, err := s.Timeline(id)
	if err != nil {
		return err
	}
	if e.Kind == KindAcknowledged && slices.ContainsFunc(entries, func(o Entry) bool { return o.Kind == KindAcknowledged }) {
		return s.Append(ctx, id, e) // another one joins; only the first counts
	}
	return s.update(ctx, func(i *opstate.Incidents) error {
		if !slices.ContainsFunc(i.Open, func(in opstate.Incident) bool { return in.ID == id }) {
			return fmt.Errorf("%s is %w", id, ErrClosed)
		}
		if err := appendTimeline(s.Path(id), []Entry{e}); err != nil {
			return err
		}
		return change(i)
	})
}

// Reconcile brings the index into line with the timelines: what was killed
// between the two is made up for.
func (s Store) Reconcile(ctx context.Context) error {
	names, err := os.ReadDir(filepath.Join(s.Dir, "incidents"))
	if err != nil {
		return err
	}
	return s.update(ctx, func(i *opstate.Incidents) error {
		known := map[string]bool{}
		for _, in := range i.Closed {
			known[in.ID] = true
		}
		open, changed := slices.Clone(i.Open), false
		for _, in := range open {
			known[in.ID] = true
		}
		for _, n := range names {
			if idRE.MatchString(n.Name()) && !known[n.Name()] {
				if in, ok := s.lost(n.Name()); ok {
					if err := i.Add(in); err != nil {
						return err
					}
					open, changed = append(open, in), true
				}
			}
		}
		for _, in := range open {
			c, err := s.catchUp(i, in)
			if err != nil {
				return err
			}
			changed = changed || c
		}
		if !changed {
			return errUnchanged
		}
		return nil
	})
}

// lost returns an incident that is not in the index, unless it is one of the
// many closed ones, or cannot be read.
func (s Store) lost(id string) (opstate.Incident, bool) {
	entries, err := s.Timeline(id)
	if err != nil || slices.ContainsFunc(entries, func(e Entry) bool { return e.Kind == KindClosed }) {
		return opstate.Incident{}, false
	}
	return incidentOf(id, entries[0]), true
}

// catchUp does in the index what an open incident's timeline says was done.
func (s Store) catchUp(i *opstate.Incidents, in opstate.Incident) (changed bool, err error) {
	entries, err := s.Timeline(in.ID)
	if err != nil {
		return false, nil // whoever asks for it is told
	}
	for _, e := range entries {
		switch {
		case e.Kind == KindAcknowledged && in.Acknowledged.IsZero():
			in.Acknowledged, changed = e.At, true
			err = i.Acknowledge(in.ID, e.At)
		case e.Kind == KindClosed:
			return true, i.Close(in.ID, e.Ended)
		}
		if err != nil {
			return changed, err
		}
	}
	return changed, nil
}

// cut shortens a text to at most n bytes, at the end of a character.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}
