// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package report

import (
	"context"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/niodoo/niodoo_exporter/internal/pglogin"
)

const (
	// databaseTimeout bounds all statements together, statementTimeout each.
	databaseTimeout  = 20 * time.Second
	statementTimeout = "5s"
	lockTimeout      = "500ms"
	maxRows          = 10
	maxStatement     = 300
)

// Database is PostgreSQL.
type Database struct {
	Version string  `json:"version"`
	Name    string  `json:"database"`
	Uptime  float64 `json:"uptime_seconds"`
	Size    float64 `json:"size_bytes"`
	// Connections are of all databases, by state.
	Connections    map[string]float64 `json:"connections"`
	MaxConnections float64            `json:"max_connections"`
	// CacheHits is the share of blocks that were in shared buffers, since the
	// statistics began; missing where nothing was read.
	CacheHits *float64 `json:"cache_hit_ratio,omitempty"`
	// Commits and Rollbacks are per second between the looks.
	Commits   *float64 `json:"commits_per_second,omitempty"`
	Rollbacks *float64 `json:"rollbacks_per_second,omitempty"`
	Deadlocks *float64 `json:"deadlocks_total,omitempty"`
	TempBytes *float64 `json:"temp_bytes_total,omitempty"`
	// Statements are those that took the most time in all, where
	// pg_stat_statements is there.
	Statements []Statement `json:"statements"`
	Tables     []Table     `json:"tables"`
}

// Statement is a normalised statement.
type Statement struct {
	Text  string  `json:"statement"`
	Calls float64 `json:"calls"`
	Total float64 `json:"total_seconds"`
	Mean  float64 `json:"mean_seconds"`
	Max   float64 `json:"max_seconds"`
	Rows  float64 `json:"rows"`
}

// Table is a table with its indexes and what is out of line.
type Table struct {
	Name     string  `json:"table"`
	Bytes    float64 `json:"size_bytes"`
	Live     float64 `json:"live_rows"`
	Dead     float64 `json:"dead_rows"`
	SeqScans float64 `json:"sequential_scans"`
	IdxScans float64 `json:"index_scans"`
}

const databaseQuery = `
SELECT current_setting('server_version'), current_database(), extract(epoch FROM now() - pg_postmaster_start_time())::float8,
  pg_database_size(current_database())::float8, current_setting('max_connections')::float8,
  (SELECT blks_hit::float8 / nullif(blks_hit + blks_read, 0) FROM pg_stat_database WHERE datname = current_database()),
  (SELECT n.nspname FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace WHERE extname = 'pg_stat_statements'),
  current_setting('server_version_num')::int`

// tablesQuery takes the sizes by relpages first: pg_total_relation_size waits
// for locks, and is asked of the largest alone.
const tablesQuery = `
SELECT s.schemaname || '.' || s.relname, pg_total_relation_size(s.relid)::float8, n_live_tup::float8, n_dead_tup::float8,
  coalesce(seq_scan, 0)::float8, coalesce(idx_scan, 0)::float8
FROM (SELECT t.* FROM pg_stat_user_tables t JOIN pg_class c ON c.oid = t.relid LEFT JOIN pg_class o ON o.oid = c.reltoastrelid
  ORDER BY greatest(c.relpages, 0)::bigint + coalesce(o.relpages, 0) DESC, n_live_tup DESC LIMIT 50) s
ORDER BY 2 DESC NULLS LAST LIMIT $1`

// statementsQuery leaves out what may hold a password: of statements that are not
// queries pg_stat_statements keeps the constants.
const statementsQuery = `
SELECT left(regexp_replace(query, '\s+', ' ', 'g'), $2), calls::float8, total_exec_time / 1000, mean_exec_time / 1000, max_exec_time / 1000, rows::float8
FROM %s.pg_stat_statements
WHERE dbid = (SELECT oid FROM pg_database WHERE datname = current_database()) AND query <> '<insufficient privilege>'
  AND (query !~* 'password|secret|token|key' OR query ~* '^\s*(select|insert|update|delete|merge|with|values)\M')
ORDER BY total_exec_time DESC LIMIT $1`

// database asks PostgreSQL itself; what the collector knows anyway comes from it.
func database(ctx context.Context, o Options, r *Report) error {
	ctx, cancel := context.WithTimeout(ctx, databaseTimeout)
	defer cancel()
	conn, err := pglogin.ReadOnly(ctx, o.Config.PostgreSQL, "niodooctl report", statementTimeout, lockTimeout)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	d := &Database{Connections: map[string]float64{}, Statements: []Statement{}, Tables: []Table{}}
	var schema *string
	var version int
	if err := conn.QueryRow(ctx, databaseQuery).Scan(&d.Version, &d.Name, &d.Uptime, &d.Size, &d.MaxConnections, &d.CacheHits, &schema, &version); err != nil {
		return err
	}
	r.Database = d
	for _, s := range o.Now.Series("niodoo_postgresql_connections") {
		if s.Value > 0 {
			d.Connections[s.Labels["state"]] += s.Value
		}
	}
	d.Commits = speed(o.Before, o.Now, "niodoo_postgresql_transactions_total", "outcome", "commit")
	d.Rollbacks = speed(o.Before, o.Now, "niodoo_postgresql_transactions_total", "outcome", "rollback")
	d.Deadlocks = figure(o.Now, "niodoo_postgresql_deadlocks_total", "datname", d.Name)
	d.TempBytes = figure(o.Now, "niodoo_postgresql_temp_bytes_total", "datname", d.Name)
	if err := tables(ctx, conn, d); err != nil {
		r.missing("the largest tables", err.Error(), true)
	}
	const slowest = "the slowest statements"
	switch {
	case schema == nil:
		r.missing(slowest, "pg_stat_statements is not there: shared_preload_libraries = 'pg_stat_statements', restart, CREATE EXTENSION pg_stat_statements", false)
	case version < 130000:
		r.missing(slowest, "PostgreSQL before 13 has other columns", false)
	default:
		if err := statements(ctx, conn, *schema, maxRows, d); err != nil {
			r.missing(slowest, err.Error(), true)
		}
	}
	s, err := readSettings(ctx, conn)
	if err != nil {
		r.missing("PostgreSQL's settings", err.Error(), true)
		return nil
	}
	r.Tuning = append(r.Tuning, tunePostgreSQL(s, machineOf(o, o.Config.PostgreSQL.Host), o)...)
	return nil
}

func tables(ctx context.Context, conn *pgx.Conn, d *Database) error {
	rows, err := conn.Query(ctx, tablesQuery, maxRows)
	if err != nil {
		return err
	}
	found, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (Table, error) {
		var t Table
		var size *float64 // of a table that was dropped meanwhile
		err := row.Scan(&t.Name, &size, &t.Live, &t.Dead, &t.SeqScans, &t.IdxScans)
		if size != nil {
			t.Bytes = *size
		}
		return t, err
	})
	d.Tables = append(d.Tables, found...)
	return err
}

func statements(ctx context.Context, conn *pgx.Conn, schema string, limit int, d *Database) error {
	rows, err := conn.Query(ctx, fmt.Sprintf(statementsQuery, pgx.Identifier{schema}.Sanitize()), limit, maxStatement)
	if err != nil {
		return err
	}
	found, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (Statement, error) {
		var s Statement
		err := row.Scan(&s.Text, &s.Calls, &s.Total, &s.Mean, &s.Max, &s.Rows)
		return s, err
	})
	d.Statements = append(d.Statements, found...)
	return err
}

// machine is what is known of the machine that a service runs on.
type machine struct {
	// memory is in bytes; 0 where it is another machine, or not known.
	memory float64
}

// machineOf returns this machine if the service runs on it.
func machineOf(o Options, host string) machine {
	ip := net.ParseIP(host)
	if host != "localhost" && !strings.HasPrefix(host, "/") && (ip == nil || !ip.IsLoopback()) {
		return machine{}
	}
	var m machine
	m.memory, _ = o.Now.Sum("niodoo_host_memory_total_bytes")
	return m
}
