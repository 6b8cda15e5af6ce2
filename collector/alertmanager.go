// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"context"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/niodoo/niodoo_exporter/internal/config"
)

func init() { register("alertmanager", newAlertmanager) }

// The closed sets of Alertmanager's words; alertSeverities are those of our rules.
var (
	alertStates     = []string{"active", "suppressed", "unprocessed"}
	alertSeverities = []string{"critical", "warning", "info", "none", "other"}
	clusterStates   = []string{"ready", "settling", "disabled"}
	silenceStates   = []string{"active", "pending", "expired"}
)

var (
	alertmanagerAlerts = gauge("alertmanager", "alertmanager_alerts",
		"Number of alerts by state and severity; suppressed ones are silenced, inhibited or muted, "+
			"and other is any other severity or none given", "/api/v2/alerts", "state", "severity")
	alertmanagerOldest = gauge("alertmanager", "alertmanager_oldest_active_alert_start_time_seconds",
		"Time at which the oldest active alert began, alerts of severity none left out",
		"/api/v2/alerts startsAt").absent("while there is no such alert")
	alertmanagerStart = gauge("alertmanager", "alertmanager_start_time_seconds",
		"Time at which Alertmanager started", "/api/v2/status uptime")
	alertmanagerCluster = gauge("alertmanager", "alertmanager_cluster_status",
		"Which state the cluster of Alertmanagers is in: 1 for that one, 0 for the others", "/api/v2/status cluster.status", "status")
	alertmanagerPeers = gauge("alertmanager", "alertmanager_cluster_peers",
		"Number of Alertmanagers in the cluster, this one included", "/api/v2/status cluster.peers").
		absent("with clustering disabled")
)

var alertmanagerMirrors = []mirror{
	{from: []string{"alertmanager_cluster_failed_peers"}, desc: gauge("alertmanager", "alertmanager_cluster_failed_peers",
		"Number of Alertmanagers in the cluster that cannot be reached", "/metrics alertmanager_cluster_failed_peers").
		absent("with clustering disabled")},
	{from: []string{"alertmanager_config_last_reload_successful"}, desc: gauge("alertmanager", "alertmanager_config_last_reload_successful",
		"Whether the last load of the configuration succeeded; if not, the one before it is in force",
		"/metrics alertmanager_config_last_reload_successful")},
	{from: []string{"alertmanager_config_last_reload_success_timestamp_seconds"}, desc: gauge("alertmanager", "alertmanager_config_last_reload_success_timestamp_seconds",
		"Time at which the configuration in force was loaded",
		"/metrics alertmanager_config_last_reload_success_timestamp_seconds")},
	{from: []string{"alertmanager_silences"}, labels: []string{"state"}, known: silenceStates, desc: gauge("alertmanager", "alertmanager_silences",
		"Number of silences by state; expired ones are kept for a while", "/metrics alertmanager_silences", "state")},
	{from: []string{"alertmanager_notifications_total"}, labels: []string{"integration"}, desc: counter("alertmanager", "alertmanager_notifications_total",
		"Notifications tried, by the kind of receiver", "/metrics alertmanager_notifications_total", "integration")},
	{from: []string{"alertmanager_notifications_failed_total"}, labels: []string{"integration"}, desc: counter("alertmanager", "alertmanager_notification_failures_total",
		"Notifications that failed for good, by the kind of receiver", "/metrics alertmanager_notifications_failed_total, all reasons", "integration")},
}

// alertmanager asks /-/healthy, then side by side for readiness, status,
// alerts and its own metrics. The configuration that the status repeats is
// not looked at.
type alertmanager struct{ *httpClient }

func newAlertmanager(cfg *config.Config, deps Deps) (Collector, error) {
	c, err := newHTTPClient(cfg.Alertmanager.HTTP, deps)
	return alertmanager{c}, err
}

// Update implements [Collector].
func (a alertmanager) Update(ctx context.Context, ch chan<- prometheus.Metric) error {
	r, err := a.healthy(ctx, "/-/healthy")
	if err != nil {
		return err
	}
	status{up: true, response: r.elapsed, tlsNotAfter: r.tlsNotAfter}.send(ch, "alertmanager")
	return parallel(
		func() error { _, err := a.sendReady(ctx, ch, "alertmanager", "/-/ready"); return err },
		func() error { return a.status(ctx, ch) },
		func() error { return a.alerts(ctx, ch) },
		func() error {
			_, metrics, err := a.getMetrics(ctx, "/metrics", mirrorNames(alertmanagerMirrors)...)
			metrics.send(ch, alertmanagerMirrors)
			return err
		},
	)
}

// status asks for the version, the start time and the cluster.
func (a alertmanager) status(ctx context.Context, ch chan<- prometheus.Metric) error {
	var s struct {
		Cluster struct {
			Status string     `json:"status"`
			Peers  []struct{} `json:"peers"`
		} `json:"cluster"`
		Uptime      time.Time `json:"uptime"` // the time it came up
		VersionInfo struct {
			Version string `json:"version"`
		} `json:"versionInfo"`
	}
	if _, err := a.getJSON(ctx, "/api/v2/status", maxListBody, &s); err != nil {
		return err
	}
	if s.VersionInfo.Version != "" {
		ch <- componentInfo.metric(1, "alertmanager", s.VersionInfo.Version)
	}
	if !s.Uptime.IsZero() {
		ch <- alertmanagerStart.metric(float64(s.Uptime.UnixMilli()) / 1000)
	}
	if !slices.Contains(clusterStates, s.Cluster.Status) {
		return failf(ReasonParse, "GET /api/v2/status: cluster.status %q is none of %v", s.Cluster.Status, clusterStates)
	}
	for _, state := range clusterStates {
		ch <- alertmanagerCluster.boolean(state == s.Cluster.Status, state)
	}
	if s.Cluster.Status != "disabled" {
		ch <- alertmanagerPeers.metric(float64(len(s.Cluster.Peers)))
	}
	return nil
}

// alerts counts the alerts.
func (a alertmanager) alerts(ctx context.Context, ch chan<- prometheus.Metric) error {
	var alerts []struct {
		Labels struct {
			Severity string `json:"severity"`
		} `json:"labels"`
		StartsAt time.Time `json:"startsAt"`
		Status   struct {
			State string `json:"state"`
		} `json:"status"`
	}
	if _, err := a.getJSON(ctx, "/api/v2/alerts", maxListBody, &alerts); err != nil {
		return err
	}
	counts := map[[2]string]int{}
	var oldest time.Time
	for _, alert := range alerts {
		severity := alert.Labels.Severity
		if !slices.Contains(alertSeverities, severity) {
			severity = "other"
		}
		counts[[2]string{alert.Status.State, severity}]++
		if alert.Status.State == "active" && severity != "none" && (oldest.IsZero() || alert.StartsAt.Before(oldest)) {
			oldest = alert.StartsAt
		}
	}
	for _, state := range alertStates {
		for _, severity := range alertSeverities {
			ch <- alertmanagerAlerts.metric(float64(counts[[2]string{state, severity}]), state, severity)
		}
	}
	if !oldest.IsZero() {
		ch <- alertmanagerOldest.metric(float64(oldest.UnixMilli()) / 1000)
	}
	return nil
}
