// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// pgStatement is a statistic. Its result has label columns first and then one
// column for each of columns; NULL is not exported.
type pgStatement struct {
	name string
	// from and before bound the major versions it is for; 0 is no bound.
	from, before int
	// every is the pace of a statement that costs the server more than a look
	// into its memory; 0 is every scrape.
	every   time.Duration
	labels  int
	columns []pgColumn
	sql     string
}

// pgColumn says which metric a column is. extra is the value of the metric's
// last label where several columns make one metric.
type pgColumn struct {
	desc  *Desc
	extra string
}

func pg(name, help, source string, labels ...string) *Desc {
	return gauge("postgresql", "postgresql_"+name, help, source, labels...)
}

func pgCounter(name, help, source string, labels ...string) *Desc {
	return counter("postgresql", "postgresql_"+name, help, source, labels...)
}

// Pieces of SQL that several statements share.
const (
	// pgSeesAll is whether the role sees the other sessions' state at all.
	pgSeesAll = `pg_has_role('pg_read_all_stats', 'usage')`
	// pgPosition is the server's position in the write-ahead log, on a standby
	// what it has received: pg_current_wal_lsn() is an error there.
	pgPosition = `CASE WHEN pg_is_in_recovery() THEN coalesce(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn()) ELSE pg_current_wal_lsn() END`
	pgClients  = `FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()`
)

// pgHealth is the first statement of every scrape and its answer's time the
// component's response time: it touches no table.
var pgHealth = &pgStatement{
	name: "health",
	columns: []pgColumn{
		{desc: pg("in_recovery", "Whether the server is a standby or recovers from a backup", "pg_is_in_recovery()")},
		{desc: pg("start_time_seconds", "Time at which the server was started", "pg_postmaster_start_time()")},
	},
	sql: `SELECT pg_is_in_recovery(), extract(epoch FROM pg_postmaster_start_time())::float8`,
}

var (
	pgTransactions = pgCounter("transactions_total", "Transactions that ended", "pg_stat_database xact_commit, xact_rollback", "datname", "outcome")
	pgBlocks       = pgCounter("blocks_total",
		"Blocks read: hit is found in the server's buffers, read is asked of the operating system; the hit ratio is rate(hit) / (rate(hit) + rate(read))",
		"pg_stat_database blks_hit, blks_read", "datname", "source")
	pgSessionsEnded = pgCounter("sessions_ended_total",
		"Sessions that did not end in order: by loss of the connection, a fatal error, or an administrator", "pg_stat_database sessions_abandoned, _fatal, _killed",
		"datname", "cause").absent("before PostgreSQL 14")
	pgSessions = pgCounter("sessions_total", "Sessions established", "pg_stat_database sessions", "datname").absent("before PostgreSQL 14")

	pgDatabaseColumns = []pgColumn{
		{pgTransactions, "commit"}, {pgTransactions, "rollback"}, {pgBlocks, "hit"}, {pgBlocks, "read"},
		{desc: pgCounter("deadlocks_total", "Deadlocks found", "pg_stat_database deadlocks", "datname")},
		{desc: pgCounter("conflicts_total", "Statements cancelled on a standby because of recovery", "pg_stat_database conflicts", "datname")},
		{desc: pgCounter("temp_files_total", "Temporary files written by statements that had too little memory", "pg_stat_database temp_files", "datname")},
		{desc: pgCounter("temp_bytes_total", "Bytes of temporary files", "pg_stat_database temp_bytes", "datname")},
		{desc: pgCounter("checksum_failures_total", "Data pages whose checksum was wrong", "pg_stat_database checksum_failures", "datname").
			absent("where data checksums are off")},
	}
	pgSessionColumns = []pgColumn{{desc: pgSessions}, {pgSessionsEnded, "abandoned"}, {pgSessionsEnded, "fatal"}, {pgSessionsEnded, "killed"}}

	pgCheckpoints       = pgCounter("checkpoints_total", "Checkpoints, those that came by time and those that were requested", "pg_stat_checkpointer, before PostgreSQL 17 pg_stat_bgwriter", "cause")
	pgCheckpointColumns = []pgColumn{
		{pgCheckpoints, "timed"}, {pgCheckpoints, "requested"},
		{desc: pgCounter("checkpoint_write_seconds_total", "Time spent writing in checkpoints", "write_time")},
		{desc: pgCounter("checkpoint_sync_seconds_total", "Time spent synchronizing files in checkpoints", "sync_time")},
		{desc: pgCounter("checkpoint_buffers_written_total", "Buffers written by checkpoints", "buffers_written, before PostgreSQL 17 buffers_checkpoint")},
	}
)

const (
	pgDatabaseSelect = `SELECT s.datname, s.xact_commit, s.xact_rollback, s.blks_hit, s.blks_read, s.deadlocks, s.conflicts, s.temp_files, s.temp_bytes, s.checksum_failures`
	pgDatabaseFrom   = ` FROM pg_stat_database s JOIN pg_database d ON d.oid = s.datid WHERE NOT d.datistemplate ORDER BY s.datname <> current_database(), s.datname LIMIT 100`
)

// pgStatements are the statistics, in the order in which they are asked for. The
// one that a role without pg_monitor is denied is the last: what follows a
// statement that fails takes a second round trip.
var pgStatements = []*pgStatement{
	{
		name: "settings",
		columns: []pgColumn{
			{desc: pg("max_connections", "Connections the server takes at most", "setting max_connections")},
			{desc: pg("reserved_connections", "Connections of max_connections that are kept for superusers and for roles with pg_use_reserved_connections",
				"settings superuser_reserved_connections, reserved_connections")},
			{desc: pg("autovacuum_freeze_max_age", "Age of transaction ids at which autovacuum freezes a table come what may", "setting autovacuum_freeze_max_age")},
		},
		sql: `SELECT current_setting('max_connections'), current_setting('superuser_reserved_connections')::int + coalesce(current_setting('reserved_connections', true)::int, 0), current_setting('autovacuum_freeze_max_age')`,
	},
	{
		name: "connections", labels: 2,
		columns: []pgColumn{{desc: pg("connections",
			"Client connections by state, without the exporter's own; state is unknown where the role may not see it", "pg_stat_activity", "datname", "state")}},
		sql: `SELECT datname, state, sum(n)::float8 FROM (SELECT datname, coalesce(state, 'unknown') AS state, 1 AS n ` + pgClients +
			` UNION ALL SELECT current_database(), s, 0 FROM unnest(ARRAY['active', 'idle', 'idle in transaction']) s WHERE ` + pgSeesAll +
			`) a GROUP BY 1, 2 ORDER BY datname <> current_database(), 3 DESC, 1, 2 LIMIT 300`,
	},
	{
		name: "activity",
		columns: []pgColumn{
			{desc: pg("oldest_transaction_seconds", "Age of the oldest open transaction of a client, 0 for none", "pg_stat_activity xact_start").
				absent("to a role without pg_monitor")},
			{desc: pg("oldest_idle_in_transaction_seconds", "Time that a client has been idle in an open transaction, the longest, 0 for none",
				"pg_stat_activity state_change").absent("to a role without pg_monitor")},
			{desc: pg("lock_waiters", "Clients that wait for a lock", "pg_stat_activity wait_event_type").absent("to a role without pg_monitor")},
		},
		sql: `SELECT coalesce(max(extract(epoch FROM clock_timestamp() - xact_start)), 0)::float8, ` +
			`coalesce(max(extract(epoch FROM clock_timestamp() - state_change)) FILTER (WHERE state LIKE 'idle in transaction%'), 0)::float8, ` +
			`count(*) FILTER (WHERE wait_event_type = 'Lock') ` + pgClients + ` HAVING ` + pgSeesAll,
	},
	{
		name: "prepared transactions",
		columns: []pgColumn{
			{desc: pg("prepared_transactions", "Prepared transactions that wait for their second phase", "pg_prepared_xacts")},
			{desc: pg("oldest_prepared_transaction_seconds", "Age of the oldest prepared transaction, 0 for none", "pg_prepared_xacts prepared")},
		},
		sql: `SELECT count(*), coalesce(max(extract(epoch FROM clock_timestamp() - prepared)), 0)::float8 FROM pg_prepared_xacts`,
	},
	{name: "databases", before: 14, labels: 1, columns: pgDatabaseColumns, sql: pgDatabaseSelect + pgDatabaseFrom},
	{
		name: "databases", from: 14, labels: 1, columns: append(pgDatabaseColumns[:len(pgDatabaseColumns):len(pgDatabaseColumns)], pgSessionColumns...),
		sql: pgDatabaseSelect + `, s.sessions, s.sessions_abandoned, s.sessions_fatal, s.sessions_killed` + pgDatabaseFrom,
	},
	{
		name: "transaction ids", labels: 1,
		columns: []pgColumn{
			{desc: pg("frozen_xid_age", "Transactions since the oldest one that is not frozen; the server stops taking writes before 2^31", "age(pg_database.datfrozenxid)", "datname")},
			{desc: pg("frozen_multixact_age", "Multixacts since the oldest one that is not frozen", "mxid_age(pg_database.datminmxid)", "datname")},
		},
		sql: `SELECT datname, age(datfrozenxid), mxid_age(datminmxid) FROM pg_database ORDER BY 2 DESC, 1 LIMIT 100`,
	},
	{
		name: "replication", labels: 2,
		columns: []pgColumn{
			{desc: pg("replication_streaming", "Whether the standby has caught up and streams", "pg_stat_replication state", "application_name", "client_addr").
				absent("without a standby")},
			{desc: pg("replication_lag_bytes", "Write-ahead log that the standby has not replayed", "pg_stat_replication replay_lsn", "application_name", "client_addr").
				absent("without a standby")},
			{desc: pg("replication_lag_seconds", "Time until a recent transaction was replayed on the standby, 0 once it has replayed everything",
				"pg_stat_replication replay_lag", "application_name", "client_addr").absent("without a standby")},
		},
		sql: `SELECT application_name, coalesce(host(client_addr), 'local'), bool_and(state = 'streaming')::int, ` +
			`max(pg_wal_lsn_diff(lsn, replay_lsn))::float8, ` +
			`max(CASE WHEN replay_lag IS NOT NULL THEN extract(epoch FROM replay_lag) WHEN replay_lsn >= lsn THEN 0 END)::float8 ` +
			`FROM pg_stat_replication, (SELECT ` + pgPosition + ` AS lsn) p WHERE state <> 'backup' GROUP BY 1, 2 ORDER BY 4 DESC NULLS LAST, 1, 2 LIMIT 50`,
	},
	{
		name: "replication slots", labels: 2,
		columns: []pgColumn{
			{desc: pg("replication_slot_active", "Whether somebody streams from the slot", "pg_replication_slots active", "slot_name", "slot_type").
				absent("without a replication slot")},
			{desc: pg("replication_slot_retained_bytes", "Write-ahead log that the slot keeps from being removed", "pg_replication_slots restart_lsn", "slot_name", "slot_type").
				absent("without a replication slot that was ever used")},
			{desc: pg("replication_slot_wal_kept", "Whether the write-ahead log that the slot needs is there: 0 when it is, or is about to be, lost",
				"pg_replication_slots wal_status", "slot_name", "slot_type").absent("without a replication slot that was ever used")},
		},
		sql: `SELECT slot_name, slot_type, active::int, pg_wal_lsn_diff(` + pgPosition + `, restart_lsn)::float8, ` +
			`(wal_status IN ('reserved', 'extended'))::int FROM pg_replication_slots ORDER BY 4 DESC NULLS LAST, 1 LIMIT 100`,
	},
	{
		name: "standby",
		columns: []pgColumn{
			{desc: pg("standby_receiving", "Whether this standby streams from its primary", "pg_stat_wal_receiver status").absent("on a primary")},
			{desc: pg("standby_lag_bytes", "Write-ahead log that this standby has received and not replayed", "pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn()").
				absent("on a primary")},
			{desc: pg("standby_lag_seconds", "Age of the last transaction replayed on this standby, 0 when all that was received is replayed",
				"pg_last_xact_replay_timestamp()").absent("on a primary, and before the standby has replayed a transaction")},
		},
		sql: `SELECT (SELECT count(*) FROM pg_stat_wal_receiver WHERE status = 'streaming'), ` +
			`pg_wal_lsn_diff(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn())::float8, ` +
			`CASE WHEN pg_last_wal_receive_lsn() = pg_last_wal_replay_lsn() THEN 0 ` +
			`ELSE extract(epoch FROM clock_timestamp() - pg_last_xact_replay_timestamp()) END::float8 WHERE pg_is_in_recovery()`,
	},
	{
		name: "checkpoints", before: 17, columns: pgCheckpointColumns,
		sql: `SELECT checkpoints_timed, checkpoints_req, checkpoint_write_time / 1000, checkpoint_sync_time / 1000, buffers_checkpoint FROM pg_stat_bgwriter`,
	},
	{
		name: "checkpoints", from: 17, columns: pgCheckpointColumns,
		sql: `SELECT num_timed, num_requested, write_time / 1000, sync_time / 1000, buffers_written FROM pg_stat_checkpointer`,
	},
	{
		name: "archiver",
		columns: []pgColumn{
			{desc: pgCounter("archived_segments_total", "Segments of the write-ahead log that were archived", "pg_stat_archiver archived_count")},
			{desc: pgCounter("archive_failures_total", "Failed attempts to archive a segment", "pg_stat_archiver failed_count")},
			{desc: pg("last_archived_timestamp_seconds", "Time at which a segment was last archived", "pg_stat_archiver last_archived_time").
				absent("while nothing was archived")},
		},
		sql: `SELECT archived_count, failed_count, extract(epoch FROM last_archived_time)::float8 FROM pg_stat_archiver`,
	},
	{
		name: "write-ahead log",
		columns: []pgColumn{{desc: pgCounter("wal_written_bytes_total", "Position in the write-ahead log, on a standby what it has received",
			"pg_current_wal_lsn(), pg_last_wal_receive_lsn()")}},
		sql: `SELECT pg_wal_lsn_diff(` + pgPosition + `, '0/0')::float8`,
	},
	{
		// What pg_stat_user_tables shows, without its join with all indexes.
		name: "tables", every: time.Minute, labels: 2,
		columns: []pgColumn{
			{desc: pg("table_live_rows", "Estimated rows of the 20 tables of the configured database with the most dead rows, looked at once a minute",
				"pg_stat_get_live_tuples()", "schema", "table").absent("without a table")},
			{desc: pg("table_dead_rows", "Estimated dead rows of those tables, which vacuum has to remove", "pg_stat_get_dead_tuples()", "schema", "table").
				absent("without a table")},
			{desc: pg("table_last_vacuum_timestamp_seconds", "Time at which the table was last vacuumed, by autovacuum or by hand",
				"pg_stat_get_last_vacuum_time(), pg_stat_get_last_autovacuum_time()", "schema", "table").absent("for a table that never was")},
			{desc: pg("table_last_analyze_timestamp_seconds", "Time at which the table was last analyzed, by autovacuum or by hand",
				"pg_stat_get_last_analyze_time(), pg_stat_get_last_autoanalyze_time()", "schema", "table").absent("for a table that never was")},
		},
		sql: `SELECT n.nspname, c.relname, pg_stat_get_live_tuples(c.oid), pg_stat_get_dead_tuples(c.oid), ` +
			`extract(epoch FROM greatest(pg_stat_get_last_vacuum_time(c.oid), pg_stat_get_last_autovacuum_time(c.oid)))::float8, ` +
			`extract(epoch FROM greatest(pg_stat_get_last_analyze_time(c.oid), pg_stat_get_last_autoanalyze_time(c.oid)))::float8 ` +
			`FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind IN ('r', 'm') ` +
			`AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname !~ '^pg_t(oast|emp)' ORDER BY 4 DESC, 1, 2 LIMIT 20`,
	},
	{
		name: "database sizes", every: 5 * time.Minute, labels: 1,
		columns: []pgColumn{{desc: pg("database_size_bytes", "Size of the database on disk, looked at every 5 minutes", "pg_database_size()", "datname")}},
		sql: `SELECT datname, pg_database_size(oid)::float8 FROM pg_database WHERE NOT datistemplate AND ` +
			`(has_database_privilege(oid, 'connect') OR ` + pgSeesAll + `) ORDER BY datname <> current_database(), datname LIMIT 50`,
	},
	{
		name: "write-ahead log's files", every: time.Minute,
		columns: []pgColumn{{desc: pg("wal_size_bytes", "Size of the write-ahead log on disk, looked at once a minute", "pg_ls_waldir()").
			absent("to a role without pg_monitor")}},
		sql: `SELECT sum(size)::float8 FROM pg_ls_waldir()`,
	},
}

// pgStatementsFor returns the statements for a server of a major version. One
// that does not tell its version is taken for the newest we know.
func pgStatementsFor(major int) []*pgStatement {
	out := []*pgStatement{pgHealth}
	for _, st := range pgStatements {
		if major == 0 && st.before == 0 || major > 0 && major >= st.from && (st.before == 0 || major < st.before) {
			out = append(out, st)
		}
	}
	return out
}

// samples appends a row's samples.
func (st *pgStatement) samples(to []prometheus.Metric, values [][]byte) ([]prometheus.Metric, error) {
	for i, col := range st.columns {
		raw := values[st.labels+i]
		if raw == nil {
			continue
		}
		var v float64
		switch string(raw) {
		case "t":
			v = 1
		case "f":
		default:
			var err error
			if v, err = strconv.ParseFloat(string(raw), 64); err != nil {
				return to, failf(ReasonParse, "statement %s: column %d is %.40q", st.name, st.labels+i+1, raw)
			}
		}
		labels := make([]string, 0, 3)
		for _, l := range values[:st.labels] {
			labels = append(labels, string(l))
		}
		if col.extra != "" {
			labels = append(labels, col.extra)
		}
		// Nothing here can be negative; a difference between two clocks, or
		// between two moments, can.
		to = append(to, col.desc.metric(max(0, v), labels...))
	}
	return to, nil
}
