// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

// Package logging is the seam between log/slog, which the code and the
// libraries speak, and go-kit/log, which writes the lines.
package logging

import (
	"context"
	"encoding"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/go-kit/log"
	"github.com/go-kit/log/level"
)

// Levels and Formats are the valid values of --log.level and --log.format.
var (
	Levels  = []string{"debug", "info", "warn", "error"}
	Formats = []string{"logfmt", "json"}
)

// New returns a logger that writes lines of a format at or above a level to w.
func New(w io.Writer, minLevel, format string) (*slog.Logger, error) {
	var l slog.Level
	if !slices.Contains(Levels, minLevel) {
		return nil, fmt.Errorf("unknown log level %q; valid: %s", minLevel, strings.Join(Levels, ", "))
	}
	if err := l.UnmarshalText([]byte(minLevel)); err != nil {
		return nil, err
	}
	var next log.Logger
	switch format {
	case "logfmt":
		next = log.NewLogfmtLogger(log.NewSyncWriter(w))
	case "json":
		next = log.NewJSONLogger(log.NewSyncWriter(w))
	default:
		return nil, fmt.Errorf("unknown log format %q; valid: %s", format, strings.Join(Formats, ", "))
	}
	return slog.New(&handler{next: next, min: l}), nil
}

// handler is a slog.Handler that writes through a go-kit logger.
type handler struct {
	next  log.Logger
	min   slog.Level
	attrs []any  // flattened key-value pairs
	group string // "", or "a.b."
}

func (h *handler) Enabled(_ context.Context, l slog.Level) bool { return l >= h.min }

func (h *handler) Handle(_ context.Context, r slog.Record) error {
	kv := make([]any, 0, 8+len(h.attrs)+2*r.NumAttrs())
	if !r.Time.IsZero() {
		kv = append(kv, "ts", r.Time.UTC().Format("2006-01-02T15:04:05.000Z07:00"))
	}
	if r.PC != 0 { // slog knows the true call site; log.Caller would count frames
		f, _ := runtime.CallersFrames([]uintptr{r.PC}).Next()
		kv = append(kv, "caller", filepath.Base(f.File)+":"+strconv.Itoa(f.Line))
	}
	kv = append(kv, "msg", r.Message)
	kv = append(kv, h.attrs...)
	r.Attrs(func(a slog.Attr) bool {
		kv = flatten(kv, h.group, a)
		return true
	})
	leveled := level.Debug
	switch {
	case r.Level >= slog.LevelError:
		leveled = level.Error
	case r.Level >= slog.LevelWarn:
		leveled = level.Warn
	case r.Level >= slog.LevelInfo:
		leveled = level.Info
	}
	return leveled(h.next).Log(kv...)
}

func (h *handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	c := *h
	c.attrs = slices.Clone(h.attrs) // siblings must not share the tail
	for _, a := range attrs {
		c.attrs = flatten(c.attrs, h.group, a)
	}
	return &c
}

func (h *handler) WithGroup(name string) slog.Handler {
	if name == "" {
		return h
	}
	c := *h
	c.group += name + "."
	return &c
}

// flatten appends an attribute as key and value; groups become dotted keys.
func flatten(kv []any, prefix string, a slog.Attr) []any {
	a.Value = a.Value.Resolve()
	if a.Equal(slog.Attr{}) {
		return kv
	}
	if a.Value.Kind() == slog.KindGroup {
		if a.Key != "" {
			prefix += a.Key + "."
		}
		for _, g := range a.Value.Group() {
			kv = flatten(kv, prefix, g)
		}
		return kv
	}
	return append(kv, prefix+a.Key, printable(a.Value))
}

// printable returns the value in a type that both of go-kit's formats can
// write; logfmt turns down slices, maps and structs.
func printable(v slog.Value) any {
	if v.Kind() != slog.KindAny {
		return v.Any()
	}
	switch x := v.Any().(type) {
	case nil, error, fmt.Stringer, encoding.TextMarshaler:
		return x
	default:
		return fmt.Sprintf("%+v", x)
	}
}
