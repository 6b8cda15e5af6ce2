// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package health

import (
	"cmp"
	"fmt"
	"math"
	"regexp"
	"slices"

	"github.com/niodoo/niodoo_exporter/internal/humanize"
	"github.com/niodoo/niodoo_exporter/internal/observe"
	"github.com/niodoo/niodoo_exporter/internal/opstate"
	"github.com/niodoo/niodoo_exporter/internal/thresholds"
)

// measure is a value of a KPI and the labels that the rules' alert would have.
type measure struct {
	labels map[string]string
	value  float64
}

// kpi is a value that is compared with a threshold, as the rules compare it.
type kpi struct {
	threshold, component, what string
	// alert and critical are the rules' alerts for the two limits, "" for none.
	alert, critical string
	// shown says that limits are not for a value of one moment.
	shown   bool
	measure func(*snapshot) []measure
	// limits are other limits than the threshold's, nil for none.
	limits func(*snapshot, thresholds.Threshold) thresholds.Threshold
}

var kpis = []kpi{
	{threshold: "events_per_second", component: "engine", what: "events processed", measure: only((*snapshot).events)},
	{threshold: "processing_time_seconds", component: "engine", what: "processing time", alert: "HighProcessingLatency", measure: (*snapshot).processingTime},
	{threshold: "memory_retrieval_time_seconds", component: "engine", what: "memory retrieval time", alert: "SlowMemoryRetrieval",
		measure: working(gauge("consciousness_memory_retrieval_time_seconds"))},
	{threshold: "emotional_processing_time_seconds", component: "engine", what: "emotional processing time", measure: gauge("consciousness_emotional_processing_time_seconds")},
	{threshold: "memory_stability_ratio", component: "engine", what: "memory stability", alert: "MemorySystemInstability", critical: "MemoryStabilityCritical",
		measure: gauge("memory_stability_ratio")},
	{threshold: "retrieval_success_ratio", component: "engine", what: "memory retrievals that succeed", alert: "LowRetrievalSuccess",
		measure: working(gauge("memory_retrieval_success_ratio"))},
	{threshold: "toroidal_coherence_score", component: "engine", what: "toroidal coherence", alert: "LowMemoryCoherence",
		measure: (*snapshot).coherence},
	{threshold: "gaussian_novelty_level", component: "engine", what: "Gaussian novelty", measure: gauge("consciousness_gaussian_novelty_level")},
	// The alert waits for an hour of events; at one moment none may be due.
	{threshold: "consolidations_per_hour", component: "engine", what: "consolidations", shown: true, measure: gauge("memory_consolidations_per_hour")},
	{threshold: "engine_error_ratio", component: "engine", what: "requests that fail", alert: "EngineErrors", measure: (*snapshot).errorRatio},
	{threshold: "cache_hit_ratio", component: "engine", what: "cache hits", alert: "LowCacheHitRatio", measure: working(gauge("engine_cache_hit_ratio"))},
	{threshold: "database_response_seconds", component: "postgresql", what: "response time", alert: "HighDatabaseResponseTime",
		measure: gauge("component_response_seconds", "component", "postgresql")},
	{threshold: "postgresql_connection_ratio", component: "postgresql", what: "connections used", alert: "PostgreSQLConnectionsHigh",
		critical: "PostgreSQLConnectionsExhausted", measure: (*snapshot).connections},
	{threshold: "postgresql_transaction_seconds", component: "postgresql", what: "oldest transaction", alert: "PostgreSQLLongTransaction",
		measure: gauge("postgresql_oldest_transaction_seconds")},
	{threshold: "postgresql_idle_transaction_seconds", component: "postgresql", what: "oldest idle transaction", alert: "PostgreSQLIdleInTransaction",
		measure: gauge("postgresql_oldest_idle_in_transaction_seconds")},
	{threshold: "postgresql_lock_waiters", component: "postgresql", what: "sessions that wait for a lock", alert: "PostgreSQLLockQueue",
		measure: gauge("postgresql_lock_waiters")},
	{threshold: "postgresql_replication_lag_seconds", component: "postgresql", what: "replication lag", alert: "PostgreSQLReplicationLag",
		measure: either(gauge("postgresql_replication_lag_seconds"), gauge("postgresql_standby_lag_seconds"))},
	{threshold: "postgresql_slot_retained_bytes", component: "postgresql", what: "WAL kept for a slot", alert: "PostgreSQLSlotRetainsWAL",
		measure: gauge("postgresql_replication_slot_retained_bytes")},
	{threshold: "postgresql_xid_age", component: "postgresql", what: "transactions that are not frozen", alert: "PostgreSQLTransactionIDsAging",
		critical: "PostgreSQLTransactionIDWraparound", measure: gauge("postgresql_frozen_xid_age")},
	{threshold: "redis_memory_ratio", component: "redis", what: "memory used", alert: "RedisMemoryNearlyFull", measure: (*snapshot).redisMemory},
	{threshold: "vllm_requests_waiting", component: "vllm", what: "requests waiting", alert: "VLLMRequestsWaiting", measure: gauge("vllm_requests_waiting")},
	{threshold: "cpu_usage_ratio", component: "host", what: "CPU usage", alert: "HighCPUUsage", measure: (*snapshot).cpuUse},
	{threshold: "memory_usage_ratio", component: "host", what: "memory usage", alert: "HighMemoryUsage", measure: (*snapshot).memoryUse},
	{threshold: "memory_pressure_ratio", component: "host", what: "time tasks wait for memory", alert: "HighMemoryPressure", measure: (*snapshot).memoryPressure},
	{threshold: "disk_usage_ratio", component: "host", what: "disk usage", alert: "HighDiskUsage", critical: "DiskAlmostFull", measure: (*snapshot).diskUse},
	{threshold: "inode_usage_ratio", component: "host", what: "inode usage", alert: "InodesRunningOut", measure: (*snapshot).inodeUse},
	// The alert wants to have seen a clock that was right: machines without one are many.
	{threshold: "clock_error_seconds", component: "host", what: "clock error", shown: true, measure: gauge("host_clock_max_error_seconds")},
	{threshold: "gpu_temperature_celsius", component: "gpu", what: "temperature", alert: "GPUTemperatureHigh", measure: gauge("gpu_temperature_celsius")},
	{threshold: "gpu_memory_ratio", component: "gpu", what: "memory used", alert: "GPUMemoryNearlyFull", measure: (*snapshot).gpuMemory},
	{threshold: "log_size_bytes", component: "logs", what: "size", alert: "LogNotRotated", measure: gauge("logs_file_size_bytes")},
	{threshold: "log_lag_bytes", component: "logs", what: "not read yet", shown: true, measure: gauge("logs_lag_bytes")},
	{threshold: "backup_age_seconds", component: "backup", what: "age of the newest", alert: "BackupTooOld", critical: "BackupOverdue",
		measure: since("backup_newest_timestamp_seconds"), limits: (*snapshot).backupLimits},
	{threshold: "backup_shrink_ratio", component: "backup", what: "size by that of the one before", alert: "BackupShrunk", measure: (*snapshot).backupShrink},
	{threshold: "backup_verify_seconds", component: "backup", what: "time since a verification", alert: "BackupNotVerified",
		measure: ours(since("backup_last_verification_timestamp_seconds", "backup_oldest_timestamp_seconds"))},
	{threshold: "backup_drill_seconds", component: "backup", what: "time since a restore drill", alert: "BackupNotDrilled",
		measure: ours(since("backup_last_drill_timestamp_seconds", "backup_oldest_timestamp_seconds"))},
}

// condition is a check of a metric that is well or is not. The rules compare
// it with a number.
type condition struct {
	alert, component, metric string
	labels                   []string
	// bad reports whether a value is not well.
	bad func(float64) bool
	// what says what is wrong; the series' labels are put before it.
	what    string
	verdict opstate.Verdict
	// unless leaves a series out.
	unless func(*snapshot, observe.Series) bool
}

func is(want float64) func(float64) bool { return func(v float64) bool { return v == want } }

func positive(v float64) bool { return v > 0 }

var conditions = []condition{
	{alert: "EngineDegraded", component: "engine", metric: "engine_component_healthy", bad: is(0), what: "the engine says that it is not healthy", verdict: opstate.Warning},
	{alert: "ComponentNotReady", metric: "component_ready", bad: is(0), what: "up, and not ready for work", verdict: opstate.Warning, unless: (*snapshot).isDown},
	{alert: "DatabaseConnectionFailed", component: "postgresql", metric: "postgresql_login_success", bad: is(0), what: "a fresh login fails", verdict: opstate.Failing,
		unless: (*snapshot).loginOurFault},
	{alert: "PostgreSQLSlotLostWAL", component: "postgresql", metric: "postgresql_replication_slot_wal_kept", bad: is(0), what: "a slot has lost WAL", verdict: opstate.Warning},
	{alert: "RedisPersistenceFailing", component: "redis", metric: "redis_rdb_last_bgsave_success", bad: is(0), what: "the last snapshot failed", verdict: opstate.Warning},
	{alert: "RedisPersistenceFailing", component: "redis", metric: "redis_aof_last_write_success", bad: is(0), what: "the last write to the AOF failed", verdict: opstate.Warning},
	{alert: "RedisReplicaLinkDown", component: "redis", metric: "redis_master_link_up", bad: is(0), what: "the link to the master is down", verdict: opstate.Warning},
	{alert: "RequiredModelMissing", component: "ollama", metric: "ollama_required_model_available", bad: is(0), what: "the required model is missing", verdict: opstate.Warning},
	{alert: "QdrantCollectionFailed", component: "qdrant", metric: "qdrant_collection_status", labels: []string{"status", "red"}, bad: is(1), what: "the collection has failed",
		verdict: opstate.Warning},
	{alert: "QdrantVectorSizeMismatch", component: "qdrant", metric: "qdrant_collection_vector_size_mismatch", bad: is(1), what: "the vectors have another size than wanted",
		verdict: opstate.Warning},
	{alert: "QdrantCollectionMissing", component: "qdrant", metric: "qdrant_collection_exists", bad: is(0), what: "the collection is missing", verdict: opstate.Warning},
	{alert: "QdrantOptimizerFailing", component: "qdrant", metric: "qdrant_collection_optimizer_ok", bad: is(0), what: "the optimizer fails", verdict: opstate.Warning},
	{alert: "PrometheusConfigReloadFailed", component: "prometheus", metric: "prometheus_config_last_reload_successful", bad: is(0),
		what: "it runs on an old configuration: the last one is refused", verdict: opstate.Warning},
	{alert: "AlertmanagerConfigReloadFailed", component: "alertmanager", metric: "alertmanager_config_last_reload_successful", bad: is(0),
		what: "it runs on an old configuration: the last one is refused", verdict: opstate.Warning},
	{alert: "AlertmanagerPeersFailed", component: "alertmanager", metric: "alertmanager_cluster_failed_peers", bad: positive, what: "peers have failed", verdict: opstate.Warning},
	{alert: "ContainerUnhealthy", component: "docker", metric: "docker_container_healthy", bad: is(0), what: "the container is not healthy", verdict: opstate.Warning,
		unless: (*snapshot).isStarting},
	{alert: "FilesystemStuck", component: "host", metric: "host_filesystem_stuck", bad: is(1), what: "the file system does not answer", verdict: opstate.Warning},
	{alert: "GPULost", component: "gpu", metric: "gpu_lost", bad: positive, what: "a card is lost", verdict: opstate.Warning},
	{alert: "BackupMissing", component: "backup", metric: "backup_backups", bad: is(0), what: "there is no good backup", verdict: opstate.Warning},
	{alert: "BackupFailed", component: "backup", metric: "backup_incomplete", bad: positive, what: "backups were not finished or are damaged", verdict: opstate.Warning},
	{alert: "BackupCheckFailed", component: "backup", metric: "backup_failed_checks", bad: positive, what: "backups failed their verification or drill", verdict: opstate.Warning},
	{alert: "BackupIncompleteContent", component: "backup", metric: "backup_newest_skipped", bad: positive, what: "things were left out of the newest backup", verdict: opstate.Warning},
	{alert: "MaintenanceFailed", component: "operations", metric: "operations_maintenance_step_last_result", labels: []string{"result", "failed"}, bad: is(1),
		what: "the maintenance step failed", verdict: opstate.Warning},
	{alert: "RestoreDrillFailed", component: "operations", metric: "operations_drill_last_ok", bad: is(0), what: "the last restore drill failed", verdict: opstate.Warning},
	{alert: "NiodooSeriesDropped", metric: "scrape_collector_series_dropped", bad: positive, what: "series were left out", verdict: opstate.Warning},
}

// only makes a KPI of a value that may be missing.
func only(value func(*snapshot) (float64, bool)) func(*snapshot) []measure {
	return func(s *snapshot) []measure {
		v, ok := value(s)
		if !ok {
			return nil
		}
		return []measure{{value: v}}
	}
}

// gauge is a metric as it is.
func gauge(metric string, labels ...string) func(*snapshot) []measure {
	return func(s *snapshot) []measure {
		var out []measure
		for _, p := range s.all(metric, labels...) {
			out = append(out, measure{p.Labels, p.Value})
		}
		return out
	}
}

// either is the first of two that has a value.
func either(a, b func(*snapshot) []measure) func(*snapshot) []measure {
	return func(s *snapshot) []measure {
		if m := a(s); len(m) > 0 {
			return m
		}
		return b(s)
	}
}

// working is a KPI that says nothing while no events are processed.
func working(m func(*snapshot) []measure) func(*snapshot) []measure {
	return func(s *snapshot) []measure {
		if v, ok := s.one("consciousness_events_total"); ok && v == 0 {
			return nil
		}
		return m(s)
	}
}

// since is the time since the first of two moments that is known.
func since(metrics ...string) func(*snapshot) []measure {
	return func(s *snapshot) []measure {
		for _, m := range metrics {
			if at, ok := s.one(m); ok {
				return []measure{{value: s.age(at)}}
			}
		}
		return nil
	}
}

// ours is a KPI of backups that niodooctl made: the manual's know no checks.
func ours(m func(*snapshot) []measure) func(*snapshot) []measure {
	return func(s *snapshot) []measure {
		if n, _ := s.one("backup_layout_backups", "layout", "niodooctl"); n == 0 {
			return nil
		}
		return m(s)
	}
}

// processingTime is what events took between the samples, or else what the
// engine reports.
func (s *snapshot) processingTime() []measure {
	sum, ok1 := s.rate("consciousness_processing_duration_seconds_sum")
	count, ok2 := s.rate("consciousness_processing_duration_seconds_count")
	if ok1 && ok2 && count > 0 {
		return []measure{{value: sum / count}}
	}
	return working(gauge("consciousness_processing_time_seconds"))(s)
}

// coherence is that of the memory and of consciousness; an empty memory has none.
func (s *snapshot) coherence() []measure {
	if n, ok := s.one("memory_entries"); ok && n == 0 {
		return nil
	}
	m := append(gauge("memory_toroidal_coherence_score")(s), gauge("consciousness_toroidal_coherence_score")(s)...)
	if len(m) > 1 {
		m = []measure{slices.MinFunc(m, func(a, b measure) int { return cmp.Compare(a.value, b.value) })}
	}
	return m
}

// errorRatio is what the engine reports; from the counters only a moment could
// be seen, in which one failure may be half of all.
func (s *snapshot) errorRatio() []measure {
	if v, ok := s.one("engine_requests_per_second"); ok && v == 0 {
		return nil
	}
	return gauge("engine_error_ratio")(s)
}

func (s *snapshot) connections() []measure {
	used, ok1 := s.sum("postgresql_connections")
	limit, ok2 := s.connectionLimit()
	if !ok1 || !ok2 {
		return nil
	}
	return []measure{{value: used / limit}}
}

// redisMemory is how full a Redis is that refuses writes when it is full.
func (s *snapshot) redisMemory() []measure {
	used, ok1 := s.one("redis_memory_used_bytes")
	limit, ok2 := s.one("redis_memory_max_bytes")
	if !ok1 || !ok2 || limit <= 0 || len(s.all("redis_info", "maxmemory_policy", "noeviction")) == 0 {
		return nil
	}
	return []measure{{value: used / limit}}
}

func (s *snapshot) cpuUse() []measure {
	for _, l := range s.looks {
		if v, ok := l.last.CPUUsage(l.first); ok {
			return []measure{{value: v}}
		}
	}
	return nil
}

func (s *snapshot) memoryUse() []measure {
	total, ok1 := s.one("host_memory_total_bytes")
	available, ok2 := s.one("host_memory_available_bytes")
	if !ok1 || !ok2 || total <= 0 {
		return nil
	}
	return []measure{{value: 1 - available/total}}
}

func (s *snapshot) memoryPressure() []measure {
	v, ok := s.rate("host_pressure_waiting_seconds_total", "resource", "memory")
	if !ok {
		return nil
	}
	return []measure{{value: v}}
}

// ignoredPaths are the mounts that the rules do not judge either.
var ignoredPaths = regexp.MustCompile(`^/boot(/.*)?$`)

// filesystems applies f to the writable file systems.
func (s *snapshot) filesystems(f func(path string) (float64, bool)) []measure {
	var out []measure
	for _, p := range s.all("host_filesystem_readonly") {
		path := p.Labels["path"]
		if p.Value != 0 || ignoredPaths.MatchString(path) {
			continue
		}
		if v, ok := f(path); ok && !math.IsNaN(v) && !math.IsInf(v, 0) {
			out = append(out, measure{map[string]string{"path": path}, v})
		}
	}
	return out
}

// diskUse is the used share of what ordinary users may use, as df shows it.
func (s *snapshot) diskUse() []measure {
	return s.filesystems(func(path string) (float64, bool) {
		size, ok1 := s.one("host_filesystem_size_bytes", "path", path)
		free, ok2 := s.one("host_filesystem_free_bytes", "path", path)
		avail, ok3 := s.one("host_filesystem_avail_bytes", "path", path)
		used := size - free
		return used / (used + avail), ok1 && ok2 && ok3
	})
}

func (s *snapshot) inodeUse() []measure {
	return s.filesystems(func(path string) (float64, bool) {
		files, ok1 := s.one("host_filesystem_files", "path", path)
		free, ok2 := s.one("host_filesystem_files_free", "path", path)
		return 1 - free/files, ok1 && ok2
	})
}

func (s *snapshot) gpuMemory() []measure {
	var out []measure
	for _, p := range s.all("gpu_memory_used_bytes") {
		if all, ok := s.one("gpu_memory_total_bytes", "gpu", p.Labels["gpu"]); ok && all > 0 {
			out = append(out, measure{p.Labels, p.Value / all})
		}
	}
	return out
}

func (s *snapshot) backupShrink() []measure {
	newest, ok1 := s.one("backup_newest_size_bytes")
	previous, ok2 := s.one("backup_previous_size_bytes")
	if !ok1 || !ok2 || previous <= 0 {
		return nil
	}
	return []measure{{value: newest / previous}}
}

// backupLimits puts the configuration's backup.max_age in the place of the
// threshold, as the rules do.
func (s *snapshot) backupLimits(t thresholds.Threshold) thresholds.Threshold {
	most, ok := s.one("backup_max_age_seconds")
	if !ok || t.Warning == nil || t.Critical == nil {
		return t
	}
	t.Warning, t.Critical = new(most), new(most**t.Critical / *t.Warning)
	return t
}

// isDown leaves out what is down, and is said to be so.
func (s *snapshot) isDown(p observe.Series) bool {
	up, _ := s.one("component_up", "component", p.Labels["component"])
	return up == 0 || !s.cfg.Required(p.Labels["component"])
}

// isStarting leaves out a container that does not run, or whose checks have not
// failed yet.
func (s *snapshot) isStarting(p observe.Series) bool {
	name := p.Labels["container"]
	running, _ := s.one("docker_container_running", "container", name)
	failures, _ := s.one("docker_container_health_consecutive_failures", "container", name)
	return running != 1 || failures == 0
}

// loginOurFault leaves out a login that was refused to us alone, and a server
// that is down anyway.
func (s *snapshot) loginOurFault(observe.Series) bool {
	up, _ := s.one("component_up", "component", "postgresql")
	for _, reason := range []string{"auth", "config", "permission"} {
		if len(s.all("scrape_collector_failure_info", "collector", "postgresql", "reason", reason)) > 0 {
			return true
		}
	}
	return up == 0
}

// compare adds the checks of a KPI, or notes that a component which is looked
// at does not report it.
func (s *snapshot) compare(r *Report, k kpi, t thresholds.Threshold) {
	c := r.Component(k.component)
	if c == nil {
		return
	}
	measures := k.measure(s)
	if len(measures) == 0 && (c.State == Up || c.State == NotReady || c.State == Read) {
		r.NotReported = append(r.NotReported, k.threshold)
	}
	if k.limits != nil {
		t = k.limits(s, t)
	}
	for _, m := range measures {
		r.Checks = append(r.Checks, k.check(m, t))
	}
}

func (k kpi) check(m measure, t thresholds.Threshold) Check {
	c := Check{Component: k.component, Name: k.threshold, What: k.what, Labels: m.labels, Value: m.value, Unit: t.Unit,
		Direction: t.Direction, Target: t.Target, Warning: t.Warning, Critical: t.Critical, Judged: t.On() && !k.shown, Verdict: opstate.Well, wait: t.Duration()}
	if t.Target != nil {
		c.OnTarget = new(!beyond(m.value, *t.Target, t.Direction))
	}
	what := k.what
	if s := subject(m.labels); s != "" {
		what += " of " + s
	}
	c.Text = what + " is " + humanize.Value(t.Unit, m.value)
	switch {
	case !c.Judged:
	case k.critical != "" && t.Critical != nil && beyond(m.value, *t.Critical, t.Direction):
		c.Verdict, c.Alert = opstate.Failing, k.critical
		c.Text += limit(t.Direction, *t.Critical, t.Unit)
	case t.Warning != nil && k.alert != "" && beyond(m.value, *t.Warning, t.Direction):
		c.Verdict, c.Alert = opstate.Warning, k.alert
		c.Text += limit(t.Direction, *t.Warning, t.Unit)
	}
	return c
}

func limit(direction string, v float64, unit string) string {
	return fmt.Sprintf(", %s the limit of %s", direction, humanize.Value(unit, v))
}

// beyond reports whether a value is on the bad side of a limit.
func beyond(v, limit float64, direction string) bool {
	if direction == "above" {
		return v > limit
	}
	return v < limit
}

// examine adds the checks of a condition.
func (s *snapshot) examine(r *Report, d condition) {
	for _, p := range s.all(d.metric, d.labels...) {
		if d.unless != nil && d.unless(s, p) {
			continue
		}
		name := cmp.Or(d.component, p.Labels["component"], p.Labels["collector"])
		c := r.Component(name)
		if c == nil || c.State == Absent {
			continue
		}
		for i := 0; i < len(d.labels); i += 2 { // the same for all
			delete(p.Labels, d.labels[i])
		}
		k := Check{Component: name, Name: d.alert, What: d.what, Labels: p.Labels, Value: p.Value, Judged: true, Verdict: opstate.Well}
		k.Text = "well"
		if d.bad(p.Value) {
			k.Verdict, k.Alert, k.Text = d.verdict, d.alert, d.what
			if d.alert == "ComponentNotReady" && c.State == Up {
				c.State = NotReady
			}
		}
		if s := subject(p.Labels); s != "" && d.component != "" {
			k.Text = s + ": " + k.Text
		}
		r.Checks = append(r.Checks, k)
	}
}
