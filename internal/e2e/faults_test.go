// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// proof is a case of the matrix: faults, injected together into a stack that is
// well, and what must come of it.
type proof struct {
	// faults and the names of alerts are separated by spaces.
	faults string
	// fires are the alerts that must be delivered, and no other ones but may be.
	fires string
	// may are alerts that can be delivered as well, depending on the moment.
	may string
	// inhibited are alerts that must fire and must not be delivered as long as the
	// fault lasts. One that outlasts what inhibits it may be, after it.
	inhibited string

	// subject is what a mail's subject must begin with, after the priority.
	subject string
	// once says that one notification tells of all that fires.
	once bool

	// onset is how long the fault takes until there is something to see.
	onset time.Duration
	// quiet is for how long the stack must have been well before it; 0 is usually.
	quiet time.Duration
	flags string // further ones of niodoo_sim demo
	short bool   // part of the version for every build
}

// usually is how long a stack is well before its fault, for windows to fill.
const usually = 12 * time.Second

// gpuPace is how often nvidia-smi is asked.
const gpuPace = 15 * time.Second

var matrix = []proof{
	// Engine.
	{faults: "engine-stopped", fires: "ConsciousnessEngineDown", short: true},
	{faults: "engine-hanging", fires: "ConsciousnessEngineDown"},
	{faults: "engine-slow", fires: "ConsciousnessEngineDown"},
	{faults: "engine-503", fires: "ConsciousnessEngineDown"},
	{faults: "engine-500", fires: "ConsciousnessEngineDown"},
	{faults: "engine-login-page", fires: "ConsciousnessEngineDown"},
	{faults: "engine-truncated", fires: "ConsciousnessEngineDown"},
	{faults: "engine-reset", fires: "ConsciousnessEngineDown"},
	{faults: "engine-huge", fires: "ConsciousnessEngineDown"},
	{faults: "engine-unhealthy", fires: "ConsciousnessEngineDown"},
	{faults: "engine-401", fires: "NiodooCollectorFailing"},
	{faults: "engine-429", fires: "NiodooCollectorFailing"},
	{faults: "engine-statistics-hanging", fires: "NiodooCollectorFailing NiodooScrapeSlow"},
	{faults: "engine-crash-loop", fires: "ComponentFlapping", may: "EngineRestarting", flags: "--flap-period=1500ms"},
	{faults: "engine-restarting", fires: "EngineRestarting", may: "ComponentFlapping", flags: "--flap-period=4s"},
	{faults: "engine-part-unhealthy", fires: "EngineDegraded", short: true},
	{faults: "engine-brain-unhealthy", fires: "EngineDegraded"},
	{faults: "engine-erring", fires: "EngineErrors"},
	{faults: "engine-processing-slow", fires: "HighProcessingLatency", short: true},
	{faults: "engine-events-stopped", fires: "EventsStalled"},
	{faults: "engine-breaker-tripping", fires: "CircuitBreakerOpening"},
	{faults: "engine-timeouts", fires: "ProcessingTimeouts", short: true},
	{faults: "engine-retrieval-slow", fires: "SlowMemoryRetrieval"},
	{faults: "engine-retrieval-failing", fires: "LowRetrievalSuccess"},
	{faults: "engine-cache-cold", fires: "LowCacheHitRatio"},
	{faults: "engine-consolidation-stopped", fires: "MemoryConsolidationStopped", quiet: 40 * time.Second},
	{faults: "engine-layer-full", fires: "MemoryLayerNearlyFull"},
	{faults: "engine-telemetry-frozen", fires: "TelemetryFrozen", quiet: 70 * time.Second},
	{faults: "engine-kpi-gone", fires: "KPIAbsent"},
	{faults: "engine-kpi-invalid", fires: "EngineFieldsRejected KPIAbsent"},
	{faults: "engine-stability-decaying", fires: "MemorySystemInstability MemoryStabilityCritical", onset: 40 * time.Second},
	{faults: "engine-coherence-lost", fires: "LowMemoryCoherence"},

	// Services.
	{faults: "ollama-stopped", fires: "ServiceDown", short: true},
	{faults: "ollama-hanging", fires: "ServiceDown"},
	{faults: "ollama-model-removed", fires: "RequiredModelMissing", short: true},
	{faults: "ollama-model-on-cpu", fires: "ModelOnCPUOnly"},
	{faults: "ollama-runner-dead", fires: "InferenceCanaryFailing"},
	{faults: "vllm-stopped", fires: "ServiceDown"},
	{faults: "vllm-overloaded", fires: "VLLMRequestsWaiting"},
	{faults: "vllm-failing", fires: "VLLMRequestsFailing"},
	{faults: "qdrant-stopped", fires: "ServiceDown"},
	{faults: "qdrant-503", fires: "ServiceDown"},
	{faults: "qdrant-red", fires: "QdrantCollectionFailed QdrantOptimizerFailing", short: true},
	{faults: "qdrant-yellow", fires: "QdrantCollectionNotGreen"},
	{faults: "qdrant-vector-size", fires: "QdrantVectorSizeMismatch"},
	{faults: "qdrant-collection-gone", fires: "QdrantCollectionMissing"},
	{faults: "qdrant-not-ready", fires: "ComponentNotReady"},
	{faults: "pipeline-stopped", fires: "ServiceDown"},
	{faults: "grafana-stopped", fires: "ServiceDown"},
	{faults: "grafana-login-page", fires: "ServiceDown"},
	{faults: "grafana-database-failing", fires: "ServiceDown"},
	{faults: "grafana-certificate-expiring", fires: "CertificateExpiring"},
	{faults: "grafana-certificate-about-to-expire", fires: "CertificateExpiring CertificateAboutToExpire"},
	{faults: "grafana-certificate-expired", fires: "ServiceDown"},
	{faults: "loki-stopped", fires: "ServiceDown"},
	{faults: "loki-not-ready", fires: "ComponentNotReady"},

	// PostgreSQL, the real server.
	{faults: "postgresql-stopped", fires: "PostgreSQLDown", may: "DatabaseConnectionFailed", short: true},
	{faults: "postgresql-hanging", fires: "PostgreSQLDown", may: "DatabaseConnectionFailed"},
	{faults: "postgresql-slots-exhausted", fires: "DatabaseConnectionFailed", may: "NiodooCollectorFailing PostgreSQLConnectionsExhausted PostgreSQLConnectionsHigh", short: true},
	{faults: "postgresql-connections-high", fires: "PostgreSQLConnectionsHigh"},
	{faults: "postgresql-connections-exhausted", fires: "PostgreSQLConnectionsExhausted PostgreSQLConnectionsHigh"},
	{faults: "postgresql-password-changed", fires: "NiodooCollectorFailing", short: true},
	{faults: "postgresql-lock-queue", fires: "PostgreSQLLockQueue"},
	{faults: "postgresql-idle-transaction", fires: "PostgreSQLIdleInTransaction"},
	{faults: "postgresql-long-transaction", fires: "PostgreSQLLongTransaction"},
	{faults: "postgresql-prepared-transaction", fires: "PostgreSQLPreparedTransactionForgotten"},
	{faults: "postgresql-deadlocks", fires: "PostgreSQLDeadlocks"},
	{faults: "postgresql-slow", fires: "HighDatabaseResponseTime"},
	{faults: "postgresql-slot-keeps-wal", fires: "PostgreSQLSlotRetainsWAL", onset: 8 * time.Second},
	{faults: "postgresql-slot-lost-wal", fires: "PostgreSQLSlotLostWAL"},
	{faults: "postgresql-archiver-failing", fires: "PostgreSQLArchiverFailing", onset: 5 * time.Second},

	// Redis, the real server.
	{faults: "redis-stopped", fires: "ServiceDown"},
	{faults: "redis-hanging", fires: "ServiceDown"},
	{faults: "redis-loading", fires: "ServiceDown"},
	{faults: "redis-full", fires: "RedisMemoryNearlyFull"},
	{faults: "redis-evicting", fires: "RedisEvictions", onset: 5 * time.Second},
	{faults: "redis-save-failing", fires: "RedisPersistenceFailing"},
	{faults: "redis-clients-refused", fires: "RedisConnectionsRejected", short: true},
	{faults: "redis-replica-link-down", fires: "RedisReplicaLinkDown"},

	// The machine.
	{faults: "host-cpu-busy", fires: "HighCPUUsage"},
	{faults: "host-memory-full", fires: "HighMemoryUsage"},
	{faults: "host-memory-pressure", fires: "HighMemoryUsage HighMemoryPressure"},
	{faults: "host-oom-kill", fires: "OutOfMemoryKill"},
	{faults: "host-network-errors", fires: "NetworkErrors"},
	{faults: "host-disk-high", fires: "HighDiskUsage"},
	{faults: "host-disk-almost-full", fires: "HighDiskUsage DiskAlmostFull", short: true},
	{faults: "host-disk-filling", fires: "DiskFullWithinHours"},
	{faults: "host-inodes-gone", fires: "InodesRunningOut"},
	{faults: "host-read-only", fires: "FilesystemReadOnly"},
	{faults: "host-disk-failing", fires: "FilesystemFailing"},
	{faults: "gpu-hot", fires: "GPUTemperatureHigh", onset: gpuPace},
	{faults: "gpu-throttled", fires: "GPUThrottled", onset: gpuPace},
	{faults: "gpu-lost", fires: "GPULost", may: "NiodooCollectorFailing", onset: gpuPace},
	{faults: "gpu-memory-full", fires: "GPUMemoryNearlyFull", onset: gpuPace},
	{faults: "gpu-memory-errors", fires: "GPUMemoryErrors", onset: gpuPace},
	{faults: "docker-container-restarting", fires: "ContainerRestarting"},
	{faults: "docker-container-oom-killed", fires: "ContainerOutOfMemory"},
	{faults: "docker-container-unhealthy", fires: "ContainerUnhealthy"},
	{faults: "docker-container-memory-full", fires: "ContainerMemoryNearLimit"},
	{faults: "docker-stopped", fires: "ServiceDown"},

	// Logs, backups, operations.
	{faults: "logs-silent", fires: "LogSilent", quiet: 35 * time.Second},
	{faults: "logs-not-rotated", fires: "LogNotRotated"},
	{faults: "backup-missing", fires: "BackupMissing"},
	{faults: "backup-old", fires: "BackupTooOld"},
	{faults: "backup-overdue", fires: "BackupTooOld BackupOverdue"},
	{faults: "backup-shrunk", fires: "BackupShrunk"},
	{faults: "backup-incomplete", fires: "BackupFailed"},
	{faults: "backup-bit-flipped", fires: "BackupCheckFailed", short: true},
	{faults: "backup-content-skipped", fires: "BackupIncompleteContent"},
	{faults: "backup-not-verified", fires: "BackupNotVerified"},
	{faults: "backup-not-drilled", fires: "BackupNotDrilled"},
	{faults: "backup-same-device", fires: "BackupOnSameDevice"},
	{faults: "backup-does-not-fit", fires: "BackupDoesNotFit"},
	{faults: "maintenance-overdue", fires: "MaintenanceOverdue"},
	{faults: "maintenance-failed", fires: "MaintenanceFailed"},
	{faults: "drill-failed", fires: "RestoreDrillFailed"},
	{faults: "health-run-overdue", fires: "HealthRunOverdue"},
	{faults: "incident-p1-unacknowledged", fires: "IncidentUnacknowledged", short: true},
	{faults: "incident-p2-unacknowledged", fires: "IncidentUnacknowledged"},
	{faults: "incident-p3-unacknowledged", fires: "IncidentUnacknowledged"},
	{faults: "incident-p4-unacknowledged", fires: "IncidentUnacknowledged"},
	{faults: "heartbeat-lost", fires: "HeartbeatLost", quiet: 25 * time.Second},
	{faults: "heartbeat-listener-stopped", fires: "HeartbeatListenerDown", quiet: 25 * time.Second},

	// Monitoring.
	{faults: "prometheus-stopped", fires: "ServiceDown"},
	{faults: "prometheus-not-ready", fires: "ComponentNotReady"},
	{faults: "prometheus-reload-failed", fires: "PrometheusConfigReloadFailed"},
	{faults: "prometheus-no-alertmanager", fires: "PrometheusNotificationsDropped"},
	{faults: "prometheus-rules-failing", fires: "PrometheusRuleFailures"},
	{faults: "prometheus-storage-failing", fires: "PrometheusStorageFailing"},
	{faults: "alertmanager-stopped", fires: "ServiceDown"},
	{faults: "alertmanager-reload-failed", fires: "AlertmanagerConfigReloadFailed"},
	{faults: "alertmanager-notifications-failing", fires: "AlertmanagerNotificationsFailing"},
	{faults: "alertmanager-peer-gone", fires: "AlertmanagerPeersFailed"},
	{faults: "exporter-stopped", fires: "NiodooExporterDown", short: true},
	{faults: "exporter-config-broken", fires: "NiodooConfigReloadFailed"},
	{faults: "exporter-series-limited", fires: "NiodooSeriesDropped", may: "KPIAbsent"},
	{faults: "exporter-flooded", fires: "NiodooRequestsRejected", may: "NiodooExporterDown ComponentFlapping"},

	// Together.
	{faults: "postgresql-stopped engine-processing-slow", fires: "PostgreSQLDown", may: "DatabaseConnectionFailed HighProcessingLatency", inhibited: "HighProcessingLatency", short: true},
	{faults: "engine-stopped redis-stopped ollama-stopped", fires: "ConsciousnessEngineDown ServiceDown"},
	{faults: "engine-stopped postgresql-stopped", fires: "ConsciousnessEngineDown PostgreSQLDown", may: "DatabaseConnectionFailed", subject: "PostgreSQLDown, ConsciousnessEngineDown", short: true},
	{faults: "redis-stopped ollama-stopped qdrant-stopped", fires: "ServiceDown", subject: "A required service is down", once: true},
	{faults: "maintenance-running host-cpu-busy", inhibited: "HighCPUUsage"},
	{faults: "exporter-stopped engine-stopped", fires: "NiodooExporterDown"},
}

// notLiveAlerts are the alerts that no fault can bring about in minutes, on one
// machine or without harm to it, and the replayed scrapes that prove them
// through Prometheus' own rule manager, with the rules as they are shipped.
var notLiveAlerts = map[string]struct{ fault, proof string }{
	"EngineAvailabilityBurn":            {"the engine is down for a part of hours and days", "slo_test.yml"},
	"ProcessingLatencyBurn":             {"events take too long for a part of hours and days", "slo_test.yml"},
	"MemoryStabilityBurn":               {"memory is unstable for a part of days", "slo_test.yml"},
	"EngineCanaryFailing":               {"the engine's test event fails (the simulated engine takes none)", "engine_test.yml"},
	"LogErrorSpike":                     {"logs-error-storm: many more errors than at this time yesterday", "logs_test.yml"},
	"LogReadingBehind":                  {"a log grows faster than it is read", "logs_files_test.yml"},
	"DiskFullWithinADay":                {"a disk fills for hours", "host_test.yml"},
	"FilesystemStuck":                   {"a file system does not answer, as NFS without its server", "host_test.yml"},
	"ClockNotSynchronised":              {"nothing keeps the kernel's clock right", "host_test.yml"},
	"PostgreSQLReplicationLag":          {"a standby falls behind", "postgresql_test.yml"},
	"PostgreSQLStandbyDisconnected":     {"a standby loses its primary, with a day of history", "postgresql_test.yml"},
	"PostgreSQLTransactionIDsAging":     {"half a billion transactions without a freeze", "postgresql_test.yml"},
	"PostgreSQLTransactionIDWraparound": {"over a billion transactions without a freeze", "postgresql_test.yml"},
	"PostgreSQLChecksumFailures":        {"a page of the database is damaged", "postgresql_test.yml"},
	"BackupCopyFailed":                  {"copies off the host fail after days in which they did not", "backup_test.yml"},
	"NiodooExporterAbsent":              {"Prometheus has lost its scrape job", "meta_test.yml"},
}

// faultsWithoutAlert are the faults that are meant to bring about nothing, and why.
var faultsWithoutAlert = map[string]string{
	"engine-kpi-frozen":      "one value that stays is a quiet day; engine-telemetry-frozen is the fault",
	"pipeline-stalled":       "nobody says how often the pipeline has to work",
	"prometheus-target-down": "the targets of other jobs are for their own rules",
	"logs-error-storm":       "LogErrorSpike compares with yesterday: proven by replay",
	"maintenance-running":    "it mutes what can wait: proven together with host-cpu-busy",
}

// plumbing are alerts that no fault brings about: they work for others.
var plumbing = []string{"Watchdog", "MaintenanceInProgress", "NiodooEngineOutage"}

// Every alert has a fault, every fault an alert, and the tables name nothing
// that does not exist.
func TestMatrixIsComplete(t *testing.T) {
	t.Parallel()
	alerts, proven := map[string]bool{}, map[string]bool{}
	for _, g := range shippedRules(t, "alerts.yml").Groups {
		for _, r := range g.Rules {
			if r.Alert != "" {
				alerts[r.Alert] = true
			}
		}
	}
	used := map[string]bool{}
	for _, p := range matrix {
		for name := range strings.FieldsSeq(p.fires + " " + p.may + " " + p.inhibited) {
			if !alerts[name] {
				t.Errorf("%s: there is no alert %s", p.faults, name)
			}
		}
		for name := range strings.FieldsSeq(p.fires) {
			proven[name] = true
		}
		for f := range strings.FieldsSeq(p.faults) {
			used[f] = true
		}
	}
	for name, r := range notLiveAlerts {
		raw, err := os.ReadFile(filepath.Join(Root(t), "mixin", "tests", r.proof))
		if err != nil {
			t.Error(err)
		}
		if !strings.Contains(string(raw), "alertname: "+name+"\n") {
			t.Errorf("%s does not prove %s", r.proof, name)
		}
		if proven[name] {
			t.Errorf("%s is proven by a fault and need not be by replay", name)
		}
		proven[name] = true
	}
	for name := range alerts {
		if !proven[name] && !slices.Contains(plumbing, name) {
			t.Errorf("no fault proves %s", name)
		}
	}
	known := map[string]bool{}
	for _, f := range simFaults(t) {
		known[f] = true
		if !used[f] && faultsWithoutAlert[f] == "" && !alike(f) {
			t.Errorf("no alert is expected of the fault %s", f)
		}
	}
	for f := range used {
		if !known[f] {
			t.Errorf("there is no fault %s", f)
		}
	}
	for f := range faultsWithoutAlert {
		if !known[f] {
			t.Errorf("there is no fault %s", f)
		}
	}
}

// alike reports whether a fault is one that every simulated service can have and
// that the engine, or another service, stands for.
func alike(fault string) bool {
	for _, how := range []string{"stopped", "hanging", "slow", "503", "500", "401", "429", "login-page", "truncated", "reset", "huge"} {
		if strings.HasSuffix(fault, "-"+how) {
			return true
		}
	}
	return false
}

// What no fault can show in minutes is proven by replay, with the shipped rules.
func TestReplays(t *testing.T) {
	t.Parallel()
	files := map[string]bool{}
	for _, r := range notLiveAlerts {
		files[r.proof] = true
	}
	for file := range files {
		t.Run(file, func(t *testing.T) {
			t.Parallel()
			cmd := exec.Command(Tool(t, "promtool"), "test", "rules", file)
			cmd.Dir = filepath.Join(Root(t), "mixin", "tests")
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}
