// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

// Package report tells how the stack performs: KPIs against their targets and
// how they have been, the database, Redis, models, containers, the machine, and
// what of their settings is worth another thought. It reads and changes nothing.
package report

import (
	"context"
	"fmt"
	"time"

	"github.com/niodoo/niodoo_exporter/internal/config"
	"github.com/niodoo/niodoo_exporter/internal/observe"
	"github.com/niodoo/niodoo_exporter/internal/opstate"
	"github.com/niodoo/niodoo_exporter/internal/promapi"
	"github.com/niodoo/niodoo_exporter/internal/thresholds"
)

// Options say what to report on.
type Options struct {
	Config     *config.Config
	Thresholds thresholds.Set
	// Before and Now are two looks at the stack: rates lie between them.
	Before, Now observe.Snapshot
	// Prometheus is asked how the KPIs have been; nil leaves that out.
	Prometheus *promapi.Client
	// Selector chooses the series in Prometheus.
	Selector string
	// At is the time of the report.
	At time.Time
}

// Report is the whole of it. A section that is missing could not be looked at,
// and NotLookedAt says why.
type Report struct {
	Generated time.Time       `json:"generated"`
	Verdict   opstate.Verdict `json:"verdict"`
	// Seconds is the time between the two looks that rates are from.
	Seconds float64 `json:"sample_seconds"`
	// Trend says where the KPIs' past comes from, "" for nowhere.
	Trend       string        `json:"trend_source,omitempty"`
	KPIs        []KPI         `json:"kpis"`
	Database    *Database     `json:"database,omitempty"`
	Redis       *Redis        `json:"redis,omitempty"`
	Models      []Model       `json:"models"`
	Containers  []Container   `json:"containers"`
	Host        *Host         `json:"host,omitempty"`
	Filesystems []Filesystem  `json:"filesystems"`
	Network     []Interface   `json:"network"`
	GPUs        []GPU         `json:"gpus"`
	Tuning      []Tuning      `json:"tuning"`
	NotLookedAt []NotLookedAt `json:"not_looked_at"`
}

// NotLookedAt is what nothing could be said about.
type NotLookedAt struct {
	What string `json:"what"`
	Why  string `json:"why"`
	// Expected says that it should have been possible.
	Expected bool `json:"expected"`
}

// Build makes the report.
func Build(ctx context.Context, o Options) (*Report, error) {
	r := &Report{Generated: o.At, Seconds: o.Now.At.Sub(o.Before.At).Seconds(), Models: []Model{}, Containers: []Container{},
		Filesystems: []Filesystem{}, Network: []Interface{}, GPUs: []GPU{}, Tuning: []Tuning{}, NotLookedAt: []NotLookedAt{}}
	r.KPIs = o.kpis()
	if o.Prometheus != nil {
		const what = "trends of the KPIs"
		switch known, err := o.trends(ctx, r.KPIs); {
		case err != nil:
			r.missing(what, err.Error(), true)
		case !known:
			r.missing(what, o.Prometheus.URL()+" has no data with {"+o.Selector+"}: is the exporter scraped, under that name?", false)
		default:
			r.Trend = o.Prometheus.URL()
		}
	}
	for _, section := range []struct {
		collector, what string
		fill            func(context.Context, Options, *Report) error
	}{
		{"engine", "consciousness and memory KPIs", nil},
		{"postgresql", "the database", database},
		{"redis", "Redis", redisSection},
		{"ollama", "Ollama's models", ollamaModels},
		{"vllm", "vLLM's models", vllmModels},
		{"docker", "containers", containers},
		{"host", "the machine", host},
		{"gpu", "graphics processors", gpus},
	} {
		if !o.Config.Enabled(section.collector) {
			r.missing(section.what, "the collector "+section.collector+" is not enabled", false)
			continue
		}
		if f := o.Now.Failed(section.collector); f != nil {
			r.missing(section.what, fmt.Sprintf("the collector %s failed (%s): %v", f.Collector, f.Reason, f.Err), true)
		}
		if section.fill == nil {
			continue
		}
		if err := section.fill(ctx, o, r); err != nil {
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			r.missing(section.what, err.Error(), true)
		}
	}
	kernel(o, r)
	r.Verdict = r.verdict()
	return r, nil
}

// missing notes what could not be looked at, once.
func (r *Report) missing(what, why string, expected bool) {
	for _, n := range r.NotLookedAt {
		if n.What == what {
			return
		}
	}
	r.NotLookedAt = append(r.NotLookedAt, NotLookedAt{what, why, expected})
}

// verdict is the KPIs' worst; what could not be looked at is not well. Tuning is
// advice and changes nothing.
func (r *Report) verdict() opstate.Verdict {
	worst := opstate.Well
	for _, n := range r.NotLookedAt {
		if n.Expected {
			worst = opstate.Unknown
		}
	}
	for _, k := range r.KPIs {
		switch k.Verdict {
		case opstate.Failing:
			return opstate.Failing
		case opstate.Warning:
			worst = opstate.Warning
		}
	}
	if len(r.KPIs) == 0 && worst == opstate.Well {
		return opstate.Unknown
	}
	return worst
}
