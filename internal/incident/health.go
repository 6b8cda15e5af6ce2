// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package incident

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"

	"github.com/niodoo/niodoo_exporter/collector"
	"github.com/niodoo/niodoo_exporter/internal/config"
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

// scraped is one run of the collectors.
type scraped struct {
	families []*dto.MetricFamily
	last     []collector.Last
	well     bool
}

// scrape runs the collectors of a configuration, some or, with nil, all of
// them. It leaves nothing behind that the exporter would stumble over: the
// positions in the logs are the exporter's, and a canary would disturb.
func scrape(ctx context.Context, cfg *config.Config, now func() time.Time, names []string) scraped {
	own := *cfg
	own.Logs.StateFile = ""
	own.Engine.Canary.Enabled, own.Ollama.Canary.Enabled = false, false
	s := collector.NewScraper(&own, collector.Deps{Now: now}, collector.Options{}, nil)
	defer func() { go s.Retire(nil) }() // a collector that hangs may take its time
	timeout := collector.DefaultTimeout
	if d, ok := ctx.Deadline(); ok {
		timeout = min(timeout, time.Until(d)*9/10)
	}
	res := s.Scrape(ctx, timeout, names)
	return scraped{res.Families, s.Last(), res.RequiredUp}
}

// health returns what a run found, of the named components or of all.
func (s scraped) health() Health {
	h := Health{Well: s.well}
	for _, l := range s.last {
		if l.At.IsZero() {
			continue
		}
		c := ComponentHealth{Name: l.Collector, Local: l.Local, Required: l.Required && !l.Local, Up: l.Up, Reason: string(l.Reason)}
		if l.Err != nil {
			c.Detail = l.Err.Error()
		}
		h.Components = append(h.Components, c)
	}
	return h
}

// CheckHealth runs the collectors of the named components, nil for all.
func CheckHealth(ctx context.Context, cfg *config.Config, now func() time.Time, names []string) Health {
	return scrape(ctx, cfg, now, names).health()
}

func (l *look) scrape(ctx context.Context) scraped {
	l.scrapeOnce.Do(func() {
		l.scraped = scrape(ctx, l.Config, l.Now, nil)
		h := l.scraped.health()
		l.mu.Lock()
		defer l.mu.Unlock()
		l.health = &h
	})
	return l.scraped
}

// found returns the health, nil if it was not found out in time.
func (l *look) found() *Health {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.health
}

func (l *look) healthPiece(ctx context.Context) ([]byte, error) {
	h := l.scrape(ctx).health()
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
	for _, f := range l.scrape(ctx).families {
		if slices.ContainsFunc(kpiFamilies, func(p string) bool { return strings.HasPrefix(f.GetName(), p) }) {
			if err := writeFamily(&b, f); err != nil {
				return b.Bytes(), err
			}
		}
	}
	if b.Len() == 0 {
		return nil, fmt.Errorf("no KPI is known: the engine does not answer")
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
	for _, f := range l.scrape(ctx).families {
		if _, err := expfmt.MetricFamilyToText(&b, f); err != nil {
			return b.Bytes(), err
		}
	}
	return b.Bytes(), nil
}

// oneLine puts a text into one line.
func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }
