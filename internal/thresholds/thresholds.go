// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

// Package thresholds holds the one source of every threshold and target: the
// alerts, the dashboards and niodooctl read the same file, each with its reason.
package thresholds

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"time"

	"github.com/prometheus/common/model"
)

//go:embed thresholds.json
var embedded []byte

// maxFileSize bounds an edited copy, in bytes.
const maxFileSize = 1 << 20

// Threshold says from which value on something is worth a word, and why.
type Threshold struct {
	// Unit is what the values are in.
	Unit string `json:"unit"`
	// Direction is "above" or "below": the side of a limit that is bad.
	Direction string `json:"direction"`
	// Target is what is aimed at; Warning and Critical are limits; Capacity is
	// where planning should begin. Each may be missing.
	Target   *float64 `json:"target,omitempty"`
	Warning  *float64 `json:"warning,omitempty"`
	Critical *float64 `json:"critical,omitempty"`
	Capacity *float64 `json:"capacity,omitempty"`
	// For is how long a limit must be crossed, "" where nothing alerts.
	For string `json:"for,omitempty"`
	// Enabled is false for what a healthy stack would trip.
	Enabled *bool `json:"enabled,omitempty"`
	// Reason says where the numbers come from.
	Reason string `json:"reason"`
}

// Set is a whole file, by name.
type Set map[string]Threshold

// Default returns the set that is built in.
func Default() Set {
	s, err := parse(embedded)
	if err != nil { // a test parses it
		panic(err)
	}
	return s
}

// Load reads an edited copy. It must have every threshold of the built-in set
// and no other.
func Load(path string) (Set, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("reading the thresholds: %w", err)
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, maxFileSize+1))
	if err != nil {
		return nil, fmt.Errorf("reading the thresholds from %s: %w", path, err)
	}
	if len(raw) > maxFileSize {
		return nil, fmt.Errorf("%s is larger than %d bytes", path, maxFileSize)
	}
	s, err := parse(raw)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	var errs []error
	known := Default()
	for _, name := range slices.Sorted(maps.Keys(known)) {
		if _, ok := s[name]; !ok {
			errs = append(errs, fmt.Errorf("%s: %s is missing; copy it from the built-in file", path, name))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(s)) {
		if _, ok := known[name]; !ok {
			errs = append(errs, fmt.Errorf("%s: %s is unknown; remove it", path, name))
		}
	}
	return s, errors.Join(errs...)
}

func parse(raw []byte) (Set, error) {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	var s Set
	if err := d.Decode(&s); err != nil {
		return nil, fmt.Errorf("the thresholds cannot be read: %w", err)
	}
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(s)) {
		if err := s[name].validate(); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", name, err))
		}
	}
	return s, errors.Join(errs...)
}

func (t Threshold) validate() error {
	switch {
	case t.Reason == "":
		return errors.New("the reason is missing")
	case t.Unit == "":
		return errors.New("the unit is missing")
	case t.Direction != "above" && t.Direction != "below":
		return fmt.Errorf("direction is %q; write above or below", t.Direction)
	case t.Target == nil && t.Warning == nil:
		return errors.New("write a target or a warning")
	case t.Warning != nil && t.For == "":
		return errors.New("a warning needs a for")
	}
	if t.For != "" {
		if _, err := model.ParseDuration(t.For); err != nil {
			return fmt.Errorf("for: %w", err)
		}
	}
	// From the target over the warning to the critical limit things get worse.
	limits := []*float64{t.Target, t.Warning, t.Critical}
	for i, a := range limits {
		for _, b := range limits[i+1:] {
			if a != nil && b != nil && t.worse(*a, *b) {
				return fmt.Errorf("the limits %g and %g are the wrong way round for direction %s", *a, *b, t.Direction)
			}
		}
	}
	return nil
}

// worse reports whether a is on the bad side of b.
func (t Threshold) worse(a, b float64) bool {
	if t.Direction == "above" {
		return a > b
	}
	return a < b
}

// Duration returns For as a duration, 0 where it is missing.
func (t Threshold) Duration() time.Duration {
	d, err := model.ParseDuration(t.For)
	if err != nil {
		return 0
	}
	return time.Duration(d)
}

// On reports whether alerts use the threshold.
func (t Threshold) On() bool { return t.Enabled == nil || *t.Enabled }
