// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/niodoo/niodoo_exporter/internal/config"
)

func init() { register("prometheus", newPrometheus) }

// maxTargetsBody bounds the list of targets, in bytes.
const maxTargetsBody = 32 << 20

// targetHealths are the words of Prometheus for a target's last scrape; a
// target that has not been scraped yet is unknown.
var targetHealths = []string{"up", "down", "unknown"}

var (
	prometheusTargets = gauge("prometheus", "prometheus_targets",
		"Number of active scrape targets by the health of their last scrape", "/api/v1/targets activeTargets.health", "health").
		absent("while Prometheus is not ready, and with more than some 30,000 targets")
	prometheusReplay = gauge("prometheus", "prometheus_wal_replay_ratio",
		"Share of the write-ahead log's segments that have been replayed", "/api/v1/status/walreplay").
		absent("when Prometheus is ready")
)

var prometheusMirrors = []mirror{
	{from: []string{"process_start_time_seconds"}, desc: gauge("prometheus", "prometheus_start_time_seconds",
		"Time at which Prometheus started", "/metrics process_start_time_seconds").
		absent("on systems where Prometheus cannot tell")},
	{from: []string{"prometheus_config_last_reload_successful"}, desc: gauge("prometheus", "prometheus_config_last_reload_successful",
		"Whether the last load of the configuration succeeded; if not, the one before it is in force",
		"/metrics prometheus_config_last_reload_successful")},
	{from: []string{"prometheus_config_last_reload_success_timestamp_seconds"}, desc: gauge("prometheus", "prometheus_config_last_reload_success_timestamp_seconds",
		"Time at which the configuration in force was loaded",
		"/metrics prometheus_config_last_reload_success_timestamp_seconds")},
	{from: []string{"prometheus_tsdb_head_series"}, desc: gauge("prometheus", "prometheus_head_series",
		"Number of series in memory", "/metrics prometheus_tsdb_head_series").absent("in agent mode")},
	{from: []string{"prometheus_tsdb_storage_blocks_bytes"}, desc: gauge("prometheus", "prometheus_storage_blocks_bytes",
		"Size of the blocks on disk", "/metrics prometheus_tsdb_storage_blocks_bytes").absent("in agent mode")},
	{from: []string{"prometheus_tsdb_wal_storage_size_bytes"}, desc: gauge("prometheus", "prometheus_wal_bytes",
		"Size of the write-ahead log on disk", "/metrics prometheus_tsdb_wal_storage_size_bytes").absent("in agent mode")},
	{from: []string{"prometheus_tsdb_wal_corruptions_total"}, desc: counter("prometheus", "prometheus_wal_corruptions_total",
		"Corruptions found in the write-ahead log", "/metrics prometheus_tsdb_wal_corruptions_total").absent("in agent mode")},
	{from: []string{"prometheus_tsdb_compactions_failed_total"}, desc: counter("prometheus", "prometheus_compactions_failed_total",
		"Compactions that failed, as they do when the disk is full", "/metrics prometheus_tsdb_compactions_failed_total").absent("in agent mode")},
	{from: []string{"prometheus_rule_evaluation_failures_total"}, desc: counter("prometheus", "prometheus_rule_evaluation_failures_total",
		"Rule evaluations that failed: an alert whose rule fails cannot fire", "/metrics prometheus_rule_evaluation_failures_total, all groups").
		absent("with no rules loaded")},
	{from: []string{"prometheus_rule_group_iterations_missed_total"}, desc: counter("prometheus", "prometheus_rule_group_iterations_missed_total",
		"Evaluations of rule groups that were left out because the one before took too long",
		"/metrics prometheus_rule_group_iterations_missed_total, all groups").absent("with no rules loaded")},
	{from: []string{"prometheus_notifications_dropped_total"}, desc: counter("prometheus", "prometheus_notifications_dropped_total",
		"Notifications that never reached an Alertmanager", "/metrics prometheus_notifications_dropped_total, all Alertmanagers").
		absent("with no Alertmanager configured, from Prometheus 3 on")},
	{from: []string{"prometheus_notifications_alertmanagers_discovered"}, desc: gauge("prometheus", "prometheus_alertmanagers_discovered",
		"Number of Alertmanagers that Prometheus sends its alerts to; with 0 nobody is notified",
		"/metrics prometheus_notifications_alertmanagers_discovered").absent("in agent mode")},
	{from: []string{"prometheus_target_scrapes_exceeded_sample_limit_total"}, desc: counter("prometheus", "prometheus_scrapes_over_sample_limit_total",
		"Scrapes thrown away whole because they had more samples than sample_limit allows",
		"/metrics prometheus_target_scrapes_exceeded_sample_limit_total")},
}

// prometheusServer asks /metrics, as the operations manual does, then
// /-/ready, then for the targets. /metrics answers while the write-ahead log
// is replayed; the rest of the API does not.
type prometheusServer struct{ *httpClient }

func newPrometheus(cfg *config.Config, deps Deps) (Collector, error) {
	c, err := newHTTPClient(cfg.Prometheus.HTTP, deps)
	return prometheusServer{c}, err
}

// Update implements [Collector].
func (p prometheusServer) Update(ctx context.Context, ch chan<- prometheus.Metric) error {
	r, metrics, err := p.getMetrics(ctx, "/metrics", append(mirrorNames(prometheusMirrors), "prometheus_build_info")...)
	if err != nil {
		return err
	}
	build, _ := metrics.first("prometheus_build_info")
	status{up: true, response: r.elapsed, version: build.Label("version"), tlsNotAfter: r.tlsNotAfter}.send(ch, "prometheus")
	metrics.send(ch, prometheusMirrors)

	ready, err := p.sendReady(ctx, ch, "prometheus", "/-/ready")
	if err != nil {
		return err
	}
	if ready.ok() != nil {
		return p.replay(ctx, ch)
	}
	return p.targets(ctx, ch)
}

// replay says how far Prometheus has come with reading its write-ahead log,
// the longest part of a start.
func (p prometheusServer) replay(ctx context.Context, ch chan<- prometheus.Metric) error {
	var answer struct {
		Data struct {
			Min     float64 `json:"min"`
			Max     float64 `json:"max"`
			Current float64 `json:"current"`
		} `json:"data"`
	}
	r, err := p.getJSON(ctx, "/api/v1/status/walreplay", maxHealthBody, &answer)
	if r != nil && (r.status == http.StatusNotFound || r.status == http.StatusServiceUnavailable) {
		return nil // not that far yet, or older than 2.29
	}
	if err != nil {
		return err
	}
	if d := answer.Data; d.Max > d.Min && d.Current >= d.Min && d.Current <= d.Max {
		ch <- prometheusReplay.metric((d.Current - d.Min) / (d.Max - d.Min))
	}
	return nil
}

// targets counts the targets by health.
func (p prometheusServer) targets(ctx context.Context, ch chan<- prometheus.Metric) error {
	var counts map[string]int
	r, err := p.exchange(ctx, http.MethodGet, "/api/v1/targets?state=active", nil, func(res *http.Response) (_ []byte, err error) {
		if mt := res.Header.Get("Content-Type"); res.StatusCode != http.StatusOK || !strings.HasPrefix(mt, "application/json") {
			return readAll(res.Body, maxHealthBody)
		}
		counts, err = countTargets(res.Body, maxTargetsBody)
		return nil, err
	})
	if err != nil {
		return err
	}
	if err := r.ok(); err != nil {
		return err
	}
	if r.body != nil {
		return failf(ReasonParse, "%s: the answer is not JSON", r.what)
	}
	if counts == nil {
		return nil
	}
	for _, h := range targetHealths {
		ch <- prometheusTargets.metric(float64(counts[h]), h)
	}
	return nil
}

// countTargets counts the targets in an answer by health. There may be many,
// at about 1 KiB each, so they are looked at one by one as they arrive. It
// returns nil if there is more than limit bytes of them.
func countTargets(body io.Reader, limit int64) (map[string]int, error) {
	rest := &io.LimitedReader{R: body, N: limit + 1}
	ended := &endReader{r: rest}
	counts := map[string]int{}
	err := eachTarget(json.NewDecoder(ended), func(health string) {
		if !slices.Contains(targetHealths, health) {
			health = "unknown"
		}
		counts[health]++
	})
	if err == nil {
		_, err = io.Copy(io.Discard, ended) // a whole answer keeps the connection
	}
	switch {
	case rest.N == 0:
		return nil, nil
	case err == nil:
		return counts, nil
	case ended.err != nil && !errors.Is(ended.err, io.EOF):
		return nil, ended.err // the connection's, not the JSON's
	}
	return nil, fail(ReasonParse, fmt.Errorf("the answer is not the JSON expected: %w", err))
}

// eachTarget calls f with the health of every element of activeTargets.
func eachTarget(d *json.Decoder, f func(health string)) error {
	for {
		t, err := d.Token()
		if err != nil {
			return err
		}
		if t == "activeTargets" {
			break
		}
	}
	if t, err := d.Token(); err != nil {
		return err
	} else if t == nil {
		return nil // null: none
	} else if t != json.Delim('[') {
		return errors.New("activeTargets is no list")
	}
	for d.More() {
		var target struct {
			Health string `json:"health"`
		}
		if err := d.Decode(&target); err != nil {
			return err
		}
		f(target.Health)
	}
	_, err := d.Token()
	return err
}

// endReader remembers how its reader ended: a decoder reports a broken
// connection and broken JSON alike.
type endReader struct {
	r   io.Reader
	err error
}

func (e *endReader) Read(p []byte) (int, error) {
	n, err := e.r.Read(p)
	if err != nil {
		e.err = err
	}
	return n, err
}
