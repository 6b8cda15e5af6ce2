// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package health

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/niodoo/niodoo_exporter/internal/notify"
	"github.com/niodoo/niodoo_exporter/internal/opstate"
)

// RunbookURL is where the rules' runbooks are.
const RunbookURL = "https://github.com/niodoo/niodoo_exporter/blob/main/docs/runbooks/"

// rule is what the rules say of an alert.
type rule struct{ priority, severity string }

// rules are the rules' alerts that a look can tell. A test holds them against
// rules/alerts.yml.
var rules = map[string]rule{
	"ConsciousnessEngineDown":        {"P1", "critical"},
	"EngineDependencyDown":           {"P1", "critical"},
	"PostgreSQLDown":                 {"P1", "critical"},
	"ServiceDown":                    {"P2", "warning"},
	"NiodooCollectorFailing":         {"P3", "warning"},
	"HighProcessingLatency":          {"P2", "warning"},
	"SlowMemoryRetrieval":            {"P3", "warning"},
	"MemorySystemInstability":        {"P2", "warning"},
	"MemoryStabilityCritical":        {"P1", "critical"},
	"LowRetrievalSuccess":            {"P2", "warning"},
	"LowMemoryCoherence":             {"P3", "warning"},
	"EngineErrors":                   {"P2", "warning"},
	"EngineDegraded":                 {"P2", "warning"},
	"LowCacheHitRatio":               {"P4", "info"},
	"ComponentNotReady":              {"P3", "warning"},
	"DatabaseConnectionFailed":       {"P1", "critical"},
	"HighDatabaseResponseTime":       {"P3", "warning"},
	"PostgreSQLConnectionsHigh":      {"P3", "warning"},
	"PostgreSQLConnectionsExhausted": {"P2", "warning"},
	"PostgreSQLLongTransaction":      {"P3", "warning"},
	"PostgreSQLIdleInTransaction":    {"P3", "warning"},
	"PostgreSQLLockQueue":            {"P2", "warning"},
	"PostgreSQLReplicationLag":       {"P3", "warning"},
	"PostgreSQLSlotRetainsWAL":       {"P2", "warning"},
	"PostgreSQLSlotLostWAL":          {"P2", "warning"},
	"PostgreSQLTransactionIDsAging":  {"P3", "warning"},
	"PostgreSQLTransactionIDWraparound": {
		"P1", "critical"},
	"RedisMemoryNearlyFull":          {"P2", "warning"},
	"RedisPersistenceFailing":        {"P2", "warning"},
	"RedisReplicaLinkDown":           {"P3", "warning"},
	"RequiredModelMissing":           {"P2", "warning"},
	"VLLMRequestsWaiting":            {"P3", "warning"},
	"QdrantCollectionFailed":         {"P2", "warning"},
	"QdrantVectorSizeMismatch":       {"P2", "warning"},
	"QdrantCollectionMissing":        {"P2", "warning"},
	"QdrantOptimizerFailing":         {"P3", "warning"},
	"PrometheusConfigReloadFailed":   {"P3", "warning"},
	"AlertmanagerConfigReloadFailed": {"P3", "warning"},
	"AlertmanagerPeersFailed":        {"P3", "warning"},
	"ContainerUnhealthy":             {"P3", "warning"},
	"HighCPUUsage":                   {"P3", "warning"},
	"HighMemoryUsage":                {"P3", "warning"},
	"HighMemoryPressure":             {"P3", "warning"},
	"HighDiskUsage":                  {"P3", "warning"},
	"DiskAlmostFull":                 {"P2", "warning"},
	"InodesRunningOut":               {"P3", "warning"},
	"FilesystemStuck":                {"P2", "warning"},
	"GPUTemperatureHigh":             {"P3", "warning"},
	"GPUMemoryNearlyFull":            {"P4", "info"},
	"GPULost":                        {"P2", "warning"},
	"LogNotRotated":                  {"P3", "warning"},
	"BackupMissing":                  {"P2", "warning"},
	"BackupTooOld":                   {"P3", "warning"},
	"BackupOverdue":                  {"P2", "warning"},
	"BackupFailed":                   {"P3", "warning"},
	"BackupCheckFailed":              {"P2", "warning"},
	"BackupShrunk":                   {"P3", "warning"},
	"BackupIncompleteContent":        {"P3", "warning"},
	"BackupNotVerified":              {"P3", "warning"},
	"BackupNotDrilled":               {"P3", "warning"},
	"MaintenanceFailed":              {"P3", "warning"},
	"RestoreDrillFailed":             {"P3", "warning"},
	"NiodooSeriesDropped":            {"P3", "warning"},
}

// downAlerts are the rules' alerts for components that have one of their own.
var downAlerts = map[string]string{"engine": "ConsciousnessEngineDown", "postgresql": "PostgreSQLDown"}

// withEngine are the components that the engine needs and that are told of as
// EngineDependencyDown where it is down, too.
var withEngine = []string{"redis", "ollama"}

// downAlert returns the rules' alert for a component that is down.
func (r *Report) downAlert(component string) string {
	if name := downAlerts[component]; name != "" {
		return name
	}
	if engine := r.Component("engine"); engine != nil && engine.State == Down && slices.Contains(withEngine, component) {
		return "EngineDependencyDown"
	}
	return "ServiceDown"
}

// Alerts are what the rules would raise for what is not well, with their
// labels, those of the target given, and source="niodooctl".
func (r *Report) Alerts(target map[string]string, ends time.Time) []notify.Alert {
	alerts, _ := r.alerts(target, ends)
	return alerts
}

// alerts is Alerts, and for how long the rules want to see each before they
// raise it.
func (r *Report) alerts(target map[string]string, ends time.Time) (out []notify.Alert, waits []time.Duration) {
	for _, c := range r.Components {
		name, summary := "", ""
		switch {
		case c.State == Down && c.Required:
			name, summary = r.downAlert(c.Name), fmt.Sprintf("%s (%s) is down.", c.Name, c.Role)
		case c.State == Unread, c.State == Broken:
			name, summary = "NiodooCollectorFailing", fmt.Sprintf("%s (%s) could not be looked at.", c.Name, c.Role)
		default:
			continue
		}
		a := alert(name, c.Name, summary, c.Reason+": "+c.Error, target, r.Started, ends)
		if name == "NiodooCollectorFailing" {
			a.Labels["collector"] = c.Name
		}
		out = append(out, a)
		waits = append(waits, 0)
	}
	for _, k := range r.Checks {
		if k.Alert == "" || k.Verdict == opstate.Well {
			continue
		}
		a := alert(k.Alert, k.Component, k.Component+": "+k.Text+".", k.Text, target, r.Started, ends)
		for name, value := range k.Labels {
			if _, ours := a.Labels[name]; !ours {
				a.Labels[name] = value
			}
		}
		out, waits = append(out, a), append(waits, k.wait)
	}
	return out, waits
}

func alert(name, component, summary, description string, target map[string]string, starts, ends time.Time) notify.Alert {
	labels := maps.Clone(target)
	if labels == nil {
		labels = map[string]string{}
	}
	labels["alertname"], labels["component"], labels["source"] = name, component, "niodooctl"
	labels["priority"], labels["severity"] = rules[name].priority, rules[name].severity
	return notify.Alert{Labels: labels, StartsAt: starts, EndsAt: ends, Annotations: map[string]string{
		"summary": summary, "description": description, "runbook_url": RunbookURL + name + ".md"}}
}
