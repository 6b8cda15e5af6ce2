// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package incident

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"

	"github.com/niodoo/niodoo_exporter/internal/config"
	"github.com/niodoo/niodoo_exporter/internal/observe"
)

// Health is what the collectors found.
type Health struct {
	// Well says that every required component is up.
	Well       bool              `json:"well"`
	Components []ComponentHealth `json:"components"`
}

// ComponentHealth is what one collector found.
type ComponentHealth struct {
	Name     string `json:"name"`
	Local    bool   `json:"local"`
	Required bool   `json:"required"`
	Up       bool   `json:"up"`
	Reason   string `json:"reason,omitempty"`
	Detail   string `json:"detail,omitempty"`
}

// Down are the required components that are not up.
func (h Health) Down() []string {
	var names []string
	for _, c := range h.Components {
		if c.Required && !c.Local && !c.Up {
			names = append(names, c.Name)
		}
	}
	return names
}

// Summary is one line for people.
func (h Health) Summary() string {
	if down := h.Down(); len(down) > 0 {
		return "down: " + strings.Join(down, ", ")
	}
	return "every required component is up"
}

// observation runs the collectors of a configuration, some or, with nil, all of
// them, and has a little time left of ctx when it is done.
func observation(ctx context.Context, cfg *config.Config, names []string) observe.Snapshot {
	if d, ok := ctx.Deadline(); ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Until(d)*9/10)
		defer cancel()
	}
	stack := observe.Open(cfg, slog.New(slog.DiscardHandler))
	defer func() { go stack.Close() }() // a collector that hangs may take its time
	return stack.Look(ctx, names)
}

// healthOf returns what was found, of the named collectors or, with nil, of all.
func healthOf(s observe.Snapshot, names []string) Health {
	h := Health{Well: true}
	for _, name := range s.Collectors {
		if names != nil && !slices.Contains(names, name) {
			continue
		}
		up, component := s.Sum("niodoo_component_up", "component", name)
		required, _ := s.Sum("niodoo_component_required", "component", name)
		c := ComponentHealth{Name: name, Local: !component, Up: up == 1, Required: required == 1}
		if f := s.Failed(name); f != nil {
			c.Reason, c.Detail = string(f.Reason), f.Err.Error()
		}
		h.Well = h.Well && (c.Up || !c.Required)
		h.Components = append(h.Components, c)
	}
	return h
}

// CheckHealth runs the collectors of the named components, nil for all.
func CheckHealth(ctx context.Context, cfg *config.Config, names []string) Health {
	return healthOf(observation(ctx, cfg, names), names)
}

func (l *look) observe(ctx context.Context) observe.Snapshot {
	l.once.Do(func() {
		l.snapshot = observation(ctx, l.Config, nil)
		h := healthOf(l.snapshot, nil)
		l.mu.Lock()
		defer l.mu.Unlock()
		l.health = &h
	})
	return l.snapshot
}

// found returns the health, nil if it was not found out in time.
func (l *look) found() *Health {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.health
}

func (l *look) healthPiece(ctx context.Context) ([]byte, error) {
	h := healthOf(l.observe(ctx), nil)
	var b bytes.Buffer
	fmt.Fprintln(&b, h.Summary())
	t := tabwriter.NewWriter(&b, 0, 8, 2, ' ', 0)
	for _, c := range h.Components {
		state := "down"
		switch {
		case c.Up, c.Local && c.Reason == "":
			state = "up"
		case c.Local:
			state = "failed"
		case !c.Required:
			state = "down (not required)"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", c.Name, state, c.Reason, oneLine(c.Detail))
	}
	_ = t.Flush()
	return b.Bytes(), nil
}

// kpiFamilies are the beginnings of the names of the manual's KPIs.
var kpiFamilies = []string{"niodoo_consciousness_", "niodoo_memory_", "niodoo_engine_", "niodoo_component_response_seconds",
	"niodoo_postgresql_connection", "niodoo_postgresql_max_connections", "niodoo_host_memory_", "niodoo_host_filesystem_avail_bytes", "niodoo_gpu_"}

func (l *look) kpis(ctx context.Context) ([]byte, error) {
	var b bytes.Buffer
	for _, f := range l.observe(ctx).Families() {
		if slices.ContainsFunc(kpiFamilies, func(p string) bool { return strings.HasPrefix(f.GetName(), p) }) {
			if err := writeFamily(&b, f); err != nil {
				return b.Bytes(), err
			}
		}
	}
	if b.Len() == 0 {
		return nil, errors.New("no KPI is known")
	}
	return b.Bytes(), nil
}

// writeFamily writes a family without its comments, for people.
func writeFamily(b *bytes.Buffer, f *dto.MetricFamily) error {
	var text bytes.Buffer
	if _, err := expfmt.MetricFamilyToText(&text, f); err != nil {
		return err
	}
	for line := range bytes.Lines(text.Bytes()) {
		if line[0] != '#' {
			b.Write(line)
		}
	}
	return nil
}

func (l *look) metrics(ctx context.Context) ([]byte, error) {
	var b bytes.Buffer
	for _, f := range l.observe(ctx).Families() {
		if _, err := expfmt.MetricFamilyToText(&b, f); err != nil {
			return b.Bytes(), err
		}
	}
	return b.Bytes(), nil
}

// oneLine puts a text into one line, without what would move a terminal's cursor.
func oneLine(s string) string {
	return strings.Join(strings.FieldsFunc(s, func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) }), " ")
}
