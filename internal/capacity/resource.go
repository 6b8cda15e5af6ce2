// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package capacity

import (
	"strings"

	"github.com/niodoo/niodoo_exporter/internal/humanize"
	"github.com/niodoo/niodoo_exporter/internal/observe"
)

// reading is what one look at the stack tells of one series. With of it is a
// counter: the use is how much it grew while of did, which is a counter too.
type reading struct {
	label     string
	value, of float64
	limit     float64 // 0 for none
}

// resource is one thing that can run out, or that tells how much is asked for.
type resource struct {
	name, unit string
	// load follows what is asked of the stack from moment to moment; what is not
	// load has been stored and stays.
	load bool
	// mean makes a day's use the mean of its hours and not the median: what is
	// counted has happened, in whichever hour.
	mean bool
	// threshold is the entry of thresholds.json that is about the share in use.
	threshold string
	// collector is what the readings come from.
	collector string
	// ceiling is the limit where it is the same everywhere, 0 where it is not.
	ceiling float64
	// label tells the series of one resource apart, "" where there is one.
	label string
	// use and limit are expressions for Prometheus; @ stands for the selector.
	use, limit string
	// read takes the same from a look at the stack.
	read func(observe.Snapshot) []reading
	// mend is what to do about it.
	mend string
}

const dayExpr = " * 86400"

// resources is everything whose use is followed, in the order of the report.
var resources = []resource{
	{
		name: "cpu", unit: humanize.Ratio, load: true, ceiling: 1, threshold: "cpu_usage_ratio", collector: "host",
		use: `1 - sum without (mode) (rate(niodoo_host_cpu_seconds_total{@,mode=~"idle|iowait"}[1h])) / sum without (mode) (rate(niodoo_host_cpu_seconds_total{@}[1h]))`,
		read: func(s observe.Snapshot) []reading {
			busy, all, ok := s.CPUSeconds()
			if !ok {
				return nil
			}
			return []reading{{value: busy, of: all}}
		},
		mend: "faster or more processors, or less work per event",
	},
	{
		name: "memory", unit: humanize.Bytes, load: true, threshold: "memory_usage_ratio", collector: "host",
		use:   `niodoo_host_memory_total_bytes{@} - niodoo_host_memory_available_bytes{@}`,
		limit: `niodoo_host_memory_total_bytes{@}`,
		read: func(s observe.Snapshot) []reading {
			total, ok1 := s.Sum("niodoo_host_memory_total_bytes")
			available, ok2 := s.Sum("niodoo_host_memory_available_bytes")
			return one(ok1 && ok2, total-available, total)
		},
		mend: "more memory, or smaller caches (cache_size_mb, shared_buffers, maxmemory)",
	},
	{
		name: "disk", unit: humanize.Bytes, threshold: "disk_usage_ratio", collector: "host", label: "path",
		use:   `niodoo_host_filesystem_size_bytes{@} - niodoo_host_filesystem_free_bytes{@}`,
		limit: `niodoo_host_filesystem_size_bytes{@} - niodoo_host_filesystem_free_bytes{@} + niodoo_host_filesystem_avail_bytes{@}`,
		read: func(s observe.Snapshot) []reading {
			return each(s, "path", "niodoo_host_filesystem_size_bytes", func(path string, size float64) (float64, float64) {
				free, _ := s.Sum("niodoo_host_filesystem_free_bytes", "path", path)
				avail, _ := s.Sum("niodoo_host_filesystem_avail_bytes", "path", path)
				return size - free, size - free + avail
			})
		},
		mend: "a larger disk, or keep less: logs, backups, old events",
	},
	{
		name: "inodes", unit: "files", threshold: "inode_usage_ratio", collector: "host", label: "path",
		use:   `(niodoo_host_filesystem_files{@} > 0) - niodoo_host_filesystem_files_free{@}`,
		limit: `niodoo_host_filesystem_files{@}`,
		read: func(s observe.Snapshot) []reading {
			return each(s, "path", "niodoo_host_filesystem_files", func(path string, files float64) (float64, float64) {
				free, _ := s.Sum("niodoo_host_filesystem_files_free", "path", path)
				return files - free, files
			})
		},
		mend: "remove small files, or a filesystem with more inodes",
	},
	{
		name: "events", unit: "per day", load: true, mean: true, collector: "engine",
		use: `(rate(niodoo_consciousness_events_total{@}[1h]) or niodoo_consciousness_events_per_second{@})` + dayExpr,
		read: func(s observe.Snapshot) []reading {
			if total, ok := s.Sum("niodoo_consciousness_events_total"); ok {
				return []reading{{value: total, of: days(s)}}
			}
			rate, ok := s.Sum("niodoo_consciousness_events_per_second")
			return one(ok, 86400*rate, 0)
		},
		mend: "another engine, or fewer events",
	},
	{
		name: "memories", unit: "", collector: "engine",
		use: `niodoo_memory_entries{@} or sum without (layer) (niodoo_memory_layer_entries{@})`,
		read: func(s observe.Snapshot) []reading {
			v, ok := s.Sum("niodoo_memory_entries")
			if !ok {
				v, ok = s.Sum("niodoo_memory_layer_entries")
			}
			return one(ok, v, 0)
		},
		mend: "raise max_persistent_memories, or consolidate more",
	},
	{
		name: "database", unit: humanize.Bytes, collector: "postgresql", label: "datname",
		use: `niodoo_postgresql_database_size_bytes{@}`,
		read: func(s observe.Snapshot) []reading {
			return each(s, "datname", "niodoo_postgresql_database_size_bytes", unlimited)
		},
		mend: "archive old events, or a larger disk",
	},
	{
		name: "connections", unit: "", load: true, threshold: "postgresql_connection_ratio", collector: "postgresql",
		use:   `sum without (datname, state) (niodoo_postgresql_connections{@})`,
		limit: `niodoo_postgresql_max_connections{@}`,
		read: func(s observe.Snapshot) []reading {
			v, ok := s.Sum("niodoo_postgresql_connections")
			limit, _ := s.Sum("niodoo_postgresql_max_connections")
			return one(ok, v, limit)
		},
		mend: "a pooler, or a larger max_connections",
	},
	{
		name: "redis", unit: humanize.Bytes, threshold: "redis_memory_ratio", collector: "redis",
		use:   `niodoo_redis_memory_used_bytes{@}`,
		limit: `(niodoo_redis_memory_max_bytes{@} > 0) or niodoo_redis_system_memory_bytes{@}`,
		read: func(s observe.Snapshot) []reading {
			v, ok := s.Sum("niodoo_redis_memory_used_bytes")
			limit, _ := s.Sum("niodoo_redis_memory_max_bytes")
			if limit == 0 {
				limit, _ = s.Sum("niodoo_redis_system_memory_bytes")
			}
			return one(ok, v, limit)
		},
		mend: "a larger maxmemory, or lifetimes for keys",
	},
	{
		name: "vectors", unit: "", collector: "qdrant", label: "collection",
		use: `niodoo_qdrant_collection_points{@}`,
		read: func(s observe.Snapshot) []reading {
			return each(s, "collection", "niodoo_qdrant_collection_points", unlimited)
		},
		mend: "more memory for Qdrant, or vectors on disk",
	},
	{
		name: "logs", unit: humanize.Bytes, collector: "logs",
		use: `sum without (file) (niodoo_logs_file_size_bytes{@})`,
		read: func(s observe.Snapshot) []reading {
			v, ok := s.Sum("niodoo_logs_file_size_bytes")
			return one(ok, v, 0)
		},
		mend: "rotate sooner, keep fewer",
	},
	{
		// The exporter counts what is written; one look cannot.
		name: "log volume", unit: humanize.BytesPerDay, load: true, mean: true, collector: "logs",
		use:  `sum without (file) (rate(niodoo_logs_bytes_total{@}[1h]))` + dayExpr,
		mend: "a higher log level, rotate sooner",
	},
	{
		name: "backups", unit: humanize.Bytes, collector: "backup",
		use:   `niodoo_backup_size_bytes{@}`,
		limit: `niodoo_backup_size_bytes{@} + niodoo_backup_filesystem_avail_bytes{@}`,
		read: func(s observe.Snapshot) []reading {
			v, ok := s.Sum("niodoo_backup_size_bytes")
			avail, room := s.Sum("niodoo_backup_filesystem_avail_bytes")
			if !room {
				return one(ok, v, 0)
			}
			return one(ok, v, v+avail)
		},
		mend: "keep fewer backups (backup.retention), or a larger disk for them",
	},
	{
		name: "metrics", unit: humanize.Bytes, collector: "prometheus",
		use: `niodoo_prometheus_storage_blocks_bytes{@} + niodoo_prometheus_wal_bytes{@}`,
		read: func(s observe.Snapshot) []reading {
			blocks, ok1 := s.Sum("niodoo_prometheus_storage_blocks_bytes")
			wal, ok2 := s.Sum("niodoo_prometheus_wal_bytes")
			return one(ok1 && ok2, blocks+wal, 0)
		},
		mend: "a shorter retention, or a larger disk for Prometheus",
	},
	{
		name: "gpu memory", unit: humanize.Bytes, load: true, threshold: "gpu_memory_ratio", collector: "gpu", label: "gpu",
		use:   `niodoo_gpu_memory_used_bytes{@}`,
		limit: `niodoo_gpu_memory_total_bytes{@}`,
		read: func(s observe.Snapshot) []reading {
			return each(s, "gpu", "niodoo_gpu_memory_used_bytes", func(gpu string, used float64) (float64, float64) {
				total, _ := s.Sum("niodoo_gpu_memory_total_bytes", "gpu", gpu)
				return used, total
			})
		},
		mend: "a smaller model or context, or a larger card",
	},
}

// Names returns the names of the resources.
func Names() []string {
	names := make([]string, len(resources))
	for i := range resources {
		names[i] = resources[i].name
	}
	return names
}

// Collectors returns the names of the collectors that a look needs.
func Collectors() []string {
	var names []string
	for _, r := range resources {
		if len(names) == 0 || names[len(names)-1] != r.collector {
			names = append(names, r.collector)
		}
	}
	return names
}

// expression puts the selector in.
func expression(expr, selector string) string { return strings.ReplaceAll(expr, "@", selector) }

func one(ok bool, value, limit float64) []reading {
	if !ok {
		return nil
	}
	return []reading{{value: value, limit: limit}}
}

func each(s observe.Snapshot, label, metric string, f func(label string, value float64) (use, limit float64)) []reading {
	var out []reading
	for _, one := range s.Series(metric) {
		use, limit := f(one.Labels[label], one.Value)
		out = append(out, reading{label: one.Labels[label], value: use, limit: limit})
	}
	return out
}

func unlimited(_ string, value float64) (use, limit float64) { return value, 0 }

// days is a look's time as a counter.
func days(s observe.Snapshot) float64 { return float64(s.At.UnixMilli()) / 86400e3 }
