// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package health

import (
	"bytes"
	"encoding/json"
	"os"
	"time"

	"github.com/niodoo/niodoo_exporter/internal/opstate"
)

// logLine is one check in the log file, spelled as the engine spells its own.
type logLine struct {
	Timestamp time.Time         `json:"timestamp"`
	Level     string            `json:"level"`
	Target    string            `json:"target"`
	Message   string            `json:"message"`
	Component string            `json:"component"`
	Check     string            `json:"check"`
	Labels    map[string]string `json:"labels,omitempty"`
	Verdict   opstate.Verdict   `json:"verdict"`
	Value     *float64          `json:"value,omitempty"`
	Unit      string            `json:"unit,omitempty"`
	Seconds   *float64          `json:"response_seconds,omitempty"`
	Reason    string            `json:"reason,omitempty"`
}

var levels = map[opstate.Verdict]string{opstate.Well: "INFO", opstate.Warning: "WARN", opstate.Failing: "ERROR", opstate.Unknown: "WARN"}

// AppendLog appends one line of JSON per check to a file: for each component
// its health, and each value that was compared. The lines of runs at the same
// time do not mix.
func (r *Report) AppendLog(path string) error {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	line := func(l logLine) error {
		l.Timestamp, l.Level, l.Target = r.Started, levels[l.Verdict], "niodooctl::health"
		return enc.Encode(l)
	}
	for _, c := range r.Components {
		message := c.Role + " is " + string(c.State)
		if c.Error != "" {
			message += ": " + c.Error
		}
		if err := line(logLine{Message: message, Component: c.Name, Check: "health", Verdict: c.Verdict, Seconds: c.Response, Reason: c.Reason}); err != nil {
			return err
		}
	}
	for _, k := range r.Checks {
		if err := line(logLine{Message: k.Text, Component: k.Component, Check: k.Name, Labels: k.Labels, Verdict: k.Verdict, Value: &k.Value, Unit: k.Unit}); err != nil {
			return err
		}
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(b.Bytes())
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	return err
}
