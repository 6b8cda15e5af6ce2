// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package report

import (
	"context"
	"math"
	"strings"
	"time"

	"github.com/niodoo/niodoo_exporter/internal/humanize"
	"github.com/niodoo/niodoo_exporter/internal/observe"
	"github.com/niodoo/niodoo_exporter/internal/opstate"
	"github.com/niodoo/niodoo_exporter/internal/thresholds"
)

// KPI is a figure with what is wanted of it.
type KPI struct {
	Name  string  `json:"name"`
	Group string  `json:"group"`
	Unit  string  `json:"unit"`
	Value float64 `json:"value"`
	// Target, Warning and Critical are thresholds.json's; each may be missing.
	Target   *float64        `json:"target,omitempty"`
	Warning  *float64        `json:"warning,omitempty"`
	Critical *float64        `json:"critical,omitempty"`
	Verdict  opstate.Verdict `json:"verdict"`
	// Meets says whether the target is met, where there is one.
	Meets *bool `json:"meets_target,omitempty"`
	// Hour, Day and Week are the means of the last one, where Prometheus knows.
	Hour *float64 `json:"hour,omitempty"`
	Day  *float64 `json:"day,omitempty"`
	Week *float64 `json:"week,omitempty"`

	expr string
}

// kpi is a row of the table.
type kpi struct {
	group, name, unit string
	// threshold is the entry of thresholds.json, "" for a figure without one.
	threshold string
	read      func(before, now observe.Snapshot) (float64, bool)
	// expr is the same for Prometheus; @ stands for the selector.
	expr string
}

const perSecond = "per second"

// kpis are the operations manual's, and what the stack's alerts look at.
var kpis = []kpi{
	{"consciousness", "events processed", perSecond, "events_per_second", rateOr("niodoo_consciousness_events_total", "niodoo_consciousness_events_per_second"),
		`rate(niodoo_consciousness_events_total{@}[5m]) or niodoo_consciousness_events_per_second{@}`},
	{"consciousness", "processing time", humanize.Seconds, "processing_time_seconds", processingTime,
		`rate(niodoo_consciousness_processing_duration_seconds_sum{@}[5m]) / (rate(niodoo_consciousness_processing_duration_seconds_count{@}[5m]) > 0) or niodoo_consciousness_processing_time_seconds{@}`},
	gaugeKPI("consciousness", "memory retrieval time", humanize.Seconds, "memory_retrieval_time_seconds", "niodoo_consciousness_memory_retrieval_time_seconds"),
	gaugeKPI("consciousness", "emotional processing time", humanize.Seconds, "emotional_processing_time_seconds", "niodoo_consciousness_emotional_processing_time_seconds"),
	gaugeKPI("consciousness", "toroidal coherence", "", "toroidal_coherence_score", "niodoo_consciousness_toroidal_coherence_score"),
	gaugeKPI("consciousness", "Gaussian novelty", "", "gaussian_novelty_level", "niodoo_consciousness_gaussian_novelty_level"),
	counterKPI("consciousness", "circuit breaker openings", "niodoo_consciousness_circuit_breaker_activations_total"),
	counterKPI("consciousness", "time-outs", "niodoo_consciousness_timeouts_total"),
	gaugeKPI("memory", "stability", humanize.Ratio, "memory_stability_ratio", "niodoo_memory_stability_ratio"),
	gaugeKPI("memory", "consolidations", "per hour", "", "niodoo_memory_consolidations_per_hour"),
	gaugeKPI("memory", "retrievals that succeed", humanize.Ratio, "retrieval_success_ratio", "niodoo_memory_retrieval_success_ratio"),
	gaugeKPI("memory", "toroidal coherence", "", "toroidal_coherence_score", "niodoo_memory_toroidal_coherence_score"),
	gaugeKPI("memory", "memories", "", "", "niodoo_memory_entries"),
	gaugeKPI("memory", "Gaussian spheres", "", "", "niodoo_memory_gaussian_spheres"),
	gaugeKPI("memory", "compression", humanize.Ratio, "", "niodoo_memory_compression_ratio"),
	{"memory", "operations", perSecond, "", rateOr("niodoo_memory_operations_total", ""), `rate(niodoo_memory_operations_total{@}[5m])`},
	{"engine", "requests", perSecond, "", rateOr("niodoo_engine_requests_total", "niodoo_engine_requests_per_second"),
		`rate(niodoo_engine_requests_total{@}[5m]) or niodoo_engine_requests_per_second{@}`},
	{"engine", "requests that fail", humanize.Ratio, "engine_error_ratio", errorRatio,
		`rate(niodoo_engine_errors_total{@}[5m]) / (rate(niodoo_engine_requests_total{@}[5m]) > 0) or niodoo_engine_error_ratio{@}`},
	gaugeKPI("engine", "response time", humanize.Seconds, "", "niodoo_engine_response_time_seconds"),
	gaugeKPI("engine", "cache hits", humanize.Ratio, "cache_hit_ratio", "niodoo_engine_cache_hit_ratio"),
	gaugeKPI("engine", "thread pool in use", humanize.Ratio, "", "niodoo_engine_thread_pool_utilization_ratio"),
	gaugeKPI("engine", "memory", humanize.Bytes, "", "niodoo_engine_memory_usage_bytes"),
	{"system", "database response", humanize.Seconds, "database_response_seconds", first("niodoo_component_response_seconds", "component", "postgresql"),
		`niodoo_component_response_seconds{@,component="postgresql"}`},
	{"system", "CPU usage", humanize.Ratio, "cpu_usage_ratio", func(before, now observe.Snapshot) (float64, bool) { return now.CPUUsage(before) },
		`1 - sum without (mode) (rate(niodoo_host_cpu_seconds_total{@,mode=~"idle|iowait"}[5m])) / sum without (mode) (rate(niodoo_host_cpu_seconds_total{@}[5m]))`},
	{"system", "memory usage", humanize.Ratio, "memory_usage_ratio", memoryUsage,
		`1 - niodoo_host_memory_available_bytes{@} / niodoo_host_memory_total_bytes{@}`},
	{"system", "fullest disk", humanize.Ratio, "disk_usage_ratio", fullestDisk,
		`max without (path) ((niodoo_host_filesystem_size_bytes{@} - niodoo_host_filesystem_free_bytes{@}) / (niodoo_host_filesystem_size_bytes{@} - niodoo_host_filesystem_free_bytes{@} + niodoo_host_filesystem_avail_bytes{@}))`},
	{"system", "hottest GPU", "celsius", "gpu_temperature_celsius", largest("niodoo_gpu_temperature_celsius"), `max without (gpu) (niodoo_gpu_temperature_celsius{@})`},
}

func gaugeKPI(group, name, unit, threshold, metric string) kpi {
	return kpi{group, name, unit, threshold, first(metric), metric + "{@}"}
}

// counterKPI is how often something has happened since the engine started. What
// happened within an hour is an alert's affair.
func counterKPI(group, name, metric string) kpi {
	return kpi{group, name, "since the start", "", first(metric), ""}
}

// first reads the first series of a metric.
func first(metric string, labels ...string) func(before, now observe.Snapshot) (float64, bool) {
	return func(_, now observe.Snapshot) (float64, bool) {
		all := now.Series(metric, labels...)
		if len(all) == 0 {
			return 0, false
		}
		return all[0].Value, true
	}
}

// largest reads the largest series of a metric.
func largest(metric string) func(before, now observe.Snapshot) (float64, bool) {
	return func(_, now observe.Snapshot) (float64, bool) {
		v, all := math.Inf(-1), now.Series(metric)
		for _, s := range all {
			v = max(v, s.Value)
		}
		return v, len(all) > 0
	}
}

// rateOr reads a counter's growth per second, or else the gauge that tells it.
func rateOr(counter, gauge string) func(before, now observe.Snapshot) (float64, bool) {
	return func(before, now observe.Snapshot) (float64, bool) {
		if v, ok := now.Rate(before, counter); ok {
			return v, true
		}
		return first(gauge)(before, now)
	}
}

// processingTime is the mean of the events between the looks, or what the
// engine tells; of no events there is no mean.
func processingTime(before, now observe.Snapshot) (float64, bool) {
	const metric = "niodoo_consciousness_processing_duration_seconds"
	sum, ok1 := now.Rate(before, metric+"_sum")
	count, ok2 := now.Rate(before, metric+"_count")
	if ok1 && ok2 {
		return sum / count, count > 0
	}
	return first("niodoo_consciousness_processing_time_seconds")(before, now)
}

func errorRatio(before, now observe.Snapshot) (float64, bool) {
	errors, ok1 := now.Rate(before, "niodoo_engine_errors_total")
	requests, ok2 := now.Rate(before, "niodoo_engine_requests_total")
	if ok1 && ok2 {
		return errors / requests, requests > 0
	}
	return first("niodoo_engine_error_ratio")(before, now)
}

func memoryUsage(_, now observe.Snapshot) (float64, bool) {
	total, ok1 := now.Sum("niodoo_host_memory_total_bytes")
	available, ok2 := now.Sum("niodoo_host_memory_available_bytes")
	return 1 - available/total, ok1 && ok2 && total > 0
}

func fullestDisk(_, now observe.Snapshot) (float64, bool) {
	fullest, any := 0.0, false
	for _, f := range filesystems(now) {
		fullest, any = max(fullest, f.Used), true
	}
	return fullest, any
}

// kpis returns the KPIs that something reports. What nothing reports is not
// there, and no fault.
func (o Options) kpis() []KPI {
	all := []KPI{}
	for _, k := range kpis {
		v, ok := k.read(o.Before, o.Now)
		if !ok {
			continue
		}
		out := KPI{Name: k.name, Group: k.group, Unit: k.unit, Value: v, Verdict: opstate.Well, expr: k.expr}
		if t, ok := o.Thresholds[k.threshold]; ok {
			out.judge(t)
		}
		all = append(all, out)
	}
	return all
}

// judge compares with a threshold. Limits that are switched off are no limits.
func (k *KPI) judge(t thresholds.Threshold) {
	worse := func(limit *float64) bool {
		return limit != nil && (t.Direction == "above" && k.Value > *limit || t.Direction == "below" && k.Value < *limit)
	}
	k.Target = t.Target
	if t.Target != nil {
		k.Meets = new(!worse(t.Target))
	}
	if !t.On() {
		return
	}
	k.Warning, k.Critical = t.Warning, t.Critical
	switch {
	case worse(t.Critical):
		k.Verdict = opstate.Failing
	case worse(t.Warning):
		k.Verdict = opstate.Warning
	}
}

// trends asks Prometheus for the means of the last hour, day and week. Of
// several instances it is the mean. It reports whether there are any.
func (o Options) trends(ctx context.Context, all []KPI) (known bool, err error) {
	if _, err := o.Prometheus.Retention(ctx); err != nil {
		return false, err // in fewer words than the questions below
	}
	for i := range all {
		k := &all[i]
		if k.expr == "" {
			continue
		}
		for _, of := range []struct {
			window string
			into   **float64
		}{{"1h:1m", &k.Hour}, {"1d:5m", &k.Day}, {"7d:30m", &k.Week}} {
			expr := "avg(avg_over_time((" + strings.ReplaceAll(k.expr, "@", o.Selector) + ")[" + of.window + "]))"
			v, err := o.Prometheus.Vector(ctx, expr, o.At.Truncate(time.Second))
			if err != nil {
				return known, err
			}
			if len(v) > 0 && !math.IsNaN(float64(v[0].Value)) && !math.IsInf(float64(v[0].Value), 0) {
				*of.into = new(float64(v[0].Value))
				known = true
			}
		}
	}
	return known, nil
}
