// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package logging

import (
	"bytes"
	"encoding/json"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"
)

func TestLogfmt(t *testing.T) {
	var b bytes.Buffer
	l, err := New(&b, "info", "logfmt")
	if err != nil {
		t.Fatal(err)
	}
	l.Debug("hidden")
	l.With("collector", "redis").WithGroup("a").Warn("it broke", "err", errors.New(`say "no"`), slog.Group("b", "took", 3*time.Second), "list", []int{1, 2})
	line := b.String()
	for _, want := range []string{"level=warn", "ts=", "caller=logging_test.go:", `msg="it broke"`, "collector=redis",
		`a.err="say \"no\""`, "a.b.took=3s", `a.list="[1 2]"`} {
		if !strings.Contains(line, want) {
			t.Errorf("no %s in %s", want, line)
		}
	}
	if strings.Count(line, "\n") != 1 || strings.Contains(line, "hidden") {
		t.Errorf("want one line: %q", line)
	}
}

func TestJSON(t *testing.T) {
	var b bytes.Buffer
	l, err := New(&b, "debug", "json")
	if err != nil {
		t.Fatal(err)
	}
	l.Debug("seen", "n", 1, "err", errors.New("bad"))
	var got map[string]any
	if err := json.Unmarshal(b.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	if got["level"] != "debug" || got["msg"] != "seen" || got["n"] != 1.0 || got["err"] != "bad" {
		t.Errorf("got %v", got)
	}
}

// Two loggers derived from one must not write into each other's attributes.
func TestSiblings(t *testing.T) {
	var b bytes.Buffer
	l, err := New(&b, "info", "logfmt")
	if err != nil {
		t.Fatal(err)
	}
	parent := l.With("p", 1)
	x, y := parent.With("x", 1), parent.With("y", 2)
	x.Info("x")
	y.Info("y")
	lines := strings.Split(strings.TrimSpace(b.String()), "\n")
	if strings.Contains(lines[0], "y=2") || strings.Contains(lines[1], "x=1") {
		t.Errorf("attributes leak: %q", lines)
	}
}

func TestUnknown(t *testing.T) {
	if _, err := New(nil, "loud", "json"); err == nil || !strings.Contains(err.Error(), "debug, info, warn, error") {
		t.Errorf("level: %v", err)
	}
	if _, err := New(nil, "info", "xml"); err == nil || !strings.Contains(err.Error(), "logfmt, json") {
		t.Errorf("format: %v", err)
	}
}
