// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package incident

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/niodoo/niodoo_exporter/internal/atomicfile"
	"github.com/niodoo/niodoo_exporter/internal/opstate"
)

// Kind is what an entry of a timeline tells of.
type Kind string

// The kinds of entries.
const (
	KindOpened       Kind = "opened"
	KindAlert        Kind = "alert"    // an alert began, or ended
	KindResolved     Kind = "resolved" // the last of its alerts has ended
	KindEvidence     Kind = "evidence"
	KindAction       Kind = "action"
	KindHealth       Kind = "health"
	KindEscalated    Kind = "escalated"
	KindNote         Kind = "note"
	KindAcknowledged Kind = "acknowledged"
	KindClosed       Kind = "closed"
)

// Entry is one line of a timeline.
type Entry struct {
	At   time.Time `json:"at"`
	Kind Kind      `json:"kind"`
	By   string    `json:"by,omitempty"`
	Text string    `json:"text"`
	// Well tells of an action, health or an escalation whether it ended well.
	Well *bool `json:"well,omitempty"`
	// Opening is with the kind opened.
	Opening *Opening `json:"opening,omitempty"`
	// Alert is with the kind alert.
	Alert *Event `json:"alert,omitempty"`
	// Ended is with the kind closed: when the trouble was over.
	Ended time.Time `json:"ended,omitzero"`
}

// Opening is what an incident is opened with.
type Opening struct {
	Priority opstate.Priority `json:"priority"`
	GroupKey string           `json:"group_key,omitempty"`
	// Follows is the last incident of the same group.
	Follows string `json:"follows,omitempty"`
}

// Event is an alert that began or ended.
type Event struct {
	Fingerprint  string            `json:"fingerprint"`
	Status       string            `json:"status"`
	StartsAt     time.Time         `json:"starts_at"`
	EndsAt       time.Time         `json:"ends_at,omitzero"`
	Labels       map[string]string `json:"labels,omitempty"`
	GeneratorURL string            `json:"generator_url,omitempty"`
}

const (
	timelineFile = "timeline.jsonl"
	// maxTimeline bounds a timeline, in bytes.
	maxTimeline = 64 << 20
)

func encodeEntries(entries []Entry) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	for _, e := range entries {
		e.At = e.At.UTC().Truncate(time.Millisecond)
		if err := enc.Encode(e); err != nil {
			return nil, err
		}
	}
	return b.Bytes(), nil
}

// readTimeline returns an incident's entries. A last line without an end is
// what a killed writer left, and was never promised to anyone.
func readTimeline(dir string) ([]Entry, error) {
	path := filepath.Join(dir, timelineFile)
	f, size, err := atomicfile.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if size > maxTimeline {
		return nil, fmt.Errorf("%s is larger than %d bytes", path, maxTimeline)
	}
	raw, err := io.ReadAll(io.LimitReader(f, maxTimeline))
	if err != nil {
		return nil, err
	}
	var entries []Entry
	for n := 1; ; n++ {
		line, rest, whole := bytes.Cut(raw, []byte("\n"))
		if !whole {
			return entries, nil
		}
		var e Entry
		if err := json.Unmarshal(line, &e); err != nil {
			return nil, fmt.Errorf("%s:%d: %w", path, n, err)
		}
		entries, raw = append(entries, e), rest
	}
}

// appendTimeline adds entries at the end of an incident's timeline and makes
// them durable. The caller holds the lock.
func appendTimeline(dir string, entries []Entry) (err error) {
	raw, err := encodeEntries(entries)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(filepath.Join(dir, timelineFile), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	end, err := wholeLines(f)
	if err != nil {
		return err
	}
	if end+int64(len(raw)) > maxTimeline {
		return fmt.Errorf("%s would be larger than %d bytes", f.Name(), maxTimeline)
	}
	if _, err := f.WriteAt(raw, end); err != nil {
		_ = f.Truncate(end) // half a line is nothing
		return err
	}
	return f.Sync()
}

// wholeLines returns where the last whole line ends, and cuts off what a killed
// writer left behind it.
func wholeLines(f *os.File) (int64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	const step = 64 << 10
	for end := info.Size(); ; {
		from := max(0, end-step)
		buf := make([]byte, end-from)
		if _, err := f.ReadAt(buf, from); err != nil && !errors.Is(err, io.EOF) {
			return 0, err
		}
		if n := bytes.LastIndexByte(buf, '\n'); n >= 0 || from == 0 {
			whole := from + int64(n) + 1
			if whole == info.Size() {
				return whole, nil
			}
			return whole, f.Truncate(whole)
		}
		end = from
	}
}
