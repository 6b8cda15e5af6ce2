// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/niodoo/niodoo_exporter/internal/localserver"
)

// A password that quoting, URLs and connection strings would spoil.
const postgresqlPassword = `p@ss w:o/r#d?=%41 'q"\{}`

// postgresqlServer starts a server with the database niodoo and the role that
// the README creates.
func postgresqlServer(t testing.TB, o localserver.PostgresOptions) *localserver.Postgres {
	t.Helper()
	p, err := localserver.StartPostgres(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Stop)
	if o.StandbyOf == nil {
		postgresqlExec(t, p, "CREATE DATABASE niodoo")
		if err := p.CreateMonitor(t.Context(), postgresqlPassword); err != nil {
			t.Fatal(err)
		}
	}
	return p
}

func postgresqlExec(t testing.TB, p *localserver.Postgres, statements ...string) {
	t.Helper()
	for _, sql := range statements {
		if err := p.Exec(t.Context(), sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
}

// postgresqlConnect opens a session of the superuser in the database niodoo.
func postgresqlConnect(t testing.TB, p *localserver.Postgres) *pgconn.PgConn {
	t.Helper()
	c, err := p.Connect(t.Context(), "niodoo")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(context.Background()) })
	return c
}

// postgresqlRun runs statements in a session.
func postgresqlRun(t testing.TB, c *pgconn.PgConn, sql string) {
	t.Helper()
	if _, err := c.Exec(t.Context(), sql).ReadAll(); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// postgresqlAwait waits until a condition, a SQL expression, holds.
func postgresqlAwait(t testing.TB, p *localserver.Postgres, condition string) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		err := p.ExecIn(t.Context(), "niodoo", "SELECT 1 / ("+condition+")::int")
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s does not come true: %v", condition, err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// postgresqlSection is the section for a server; more is more YAML.
func postgresqlSection(t testing.TB, port int, more string) string {
	t.Helper()
	return fmt.Sprintf("{host: 127.0.0.1, port: %d, password_file: %q, %s}", port, postgresqlPasswordFile(t, postgresqlPassword), more)
}

func postgresqlPasswordFile(t testing.TB, password string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(path, []byte(password+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// postgresqlWell scrapes and expects success.
func postgresqlWell(t testing.TB, s *Scraper) Result {
	t.Helper()
	res := scrape(t, s)
	lint(t, res.Families)
	for _, series := range []string{`niodoo_component_up{component="postgresql"}`, `niodoo_scrape_collector_success{collector="postgresql"}`, "niodoo_postgresql_login_success"} {
		if v := value(t, res.Families, series); v != 1 {
			t.Errorf("%s is %v: %v", series, v, res.Failures)
		}
	}
	return res
}

// postgresqlExpect compares series with their values.
func postgresqlExpect(t testing.TB, res Result, want map[string]float64) {
	t.Helper()
	for series, v := range want {
		if got := value(t, res.Families, "niodoo_postgresql_"+series); got != v {
			t.Errorf("niodoo_postgresql_%s is %v, want %v", series, got, v)
		}
	}
}

func postgresqlFailures(reason Reason) string {
	return fmt.Sprintf("connection_failures_total{reason=%q}", reason)
}

// postgresqlNetwork counts what goes over the wire.
type postgresqlNetwork struct {
	dials, open, turns atomic.Int64
	block              atomic.Bool // new connections find nobody
	lose               atomic.Bool // open connections lose what is sent, until a new one is made
}

func (n *postgresqlNetwork) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	n.dials.Add(1)
	if n.block.Load() {
		return nil, &net.OpError{Op: "dial", Net: network, Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}
	}
	c, err := (&net.Dialer{}).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	n.open.Add(1)
	n.lose.Store(false)
	return &postgresqlConn{Conn: c, n: n}, nil
}

// postgresqlConn counts how often the talk changes from us to the server.
type postgresqlConn struct {
	net.Conn
	n     *postgresqlNetwork
	wrote bool
	once  sync.Once
}

func (c *postgresqlConn) Write(p []byte) (int, error) {
	c.wrote = true
	if c.n.lose.Load() {
		return len(p), nil
	}
	return c.Conn.Write(p)
}

func (c *postgresqlConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if n > 0 && c.wrote {
		c.wrote = false
		c.n.turns.Add(1)
	}
	return n, err
}

func (c *postgresqlConn) Close() error {
	c.once.Do(func() { c.n.open.Add(-1) })
	return c.Conn.Close()
}

// postgresqlClock is a clock that tests set.
type postgresqlClock struct{ ahead atomic.Int64 }

func (c *postgresqlClock) Now() time.Time          { return time.Now().Add(time.Duration(c.ahead.Load())) }
func (c *postgresqlClock) advance(d time.Duration) { c.ahead.Add(int64(d)) }

func postgresqlDeps(t testing.TB) (Deps, *postgresqlNetwork, *postgresqlClock) {
	n, c := &postgresqlNetwork{}, &postgresqlClock{}
	return Deps{Logger: slog.New(slog.NewTextHandler(t.Output(), nil)), DialContext: n.DialContext, Now: c.Now}, n, c
}

// Everything a server in use says, as the role of the README sees it.
func TestPostgreSQL(t *testing.T) {
	t.Parallel()
	p := postgresqlServer(t, localserver.PostgresOptions{Settings: map[string]string{
		"deadlock_timeout": "10ms", "autovacuum": "off", "max_prepared_transactions": "2", "wal_level": "logical",
		"archive_mode": "on", "archive_command": "'/bin/true'",
	}})
	if err := p.ExecIn(t.Context(), "niodoo", `CREATE SCHEMA mind; CREATE TABLE mind.memory (id int PRIMARY KEY, v int);
		INSERT INTO mind.memory SELECT i, 0 FROM generate_series(1, 100) i; UPDATE mind.memory SET v = 1 WHERE id <= 40; SELECT pg_stat_force_next_flush()`); err != nil {
		t.Fatal(err)
	}
	postgresqlExec(t, p, "SELECT pg_create_physical_replication_slot('standby', true)", "SELECT pg_switch_wal()")

	idle, holder, waiter, prepared := postgresqlConnect(t, p), postgresqlConnect(t, p), postgresqlConnect(t, p), postgresqlConnect(t, p)
	postgresqlRun(t, idle, "SELECT 1")
	postgresqlRun(t, prepared, "BEGIN; UPDATE mind.memory SET v = 9 WHERE id = 99; PREPARE TRANSACTION 'gone'")
	prepared.Close(t.Context())
	t.Cleanup(func() { // before the servers' sessions are closed: they would wait for each other
		_ = p.ExecIn(context.Background(), "niodoo", "ROLLBACK PREPARED 'gone'")
	})

	// A deadlock first, between the two that then show a lock waiter.
	postgresqlRun(t, holder, "BEGIN; UPDATE mind.memory SET v = 2 WHERE id = 1")
	postgresqlRun(t, waiter, "BEGIN; UPDATE mind.memory SET v = 2 WHERE id = 2")
	blocked := make(chan error, 2)
	update := func(c *pgconn.PgConn, id int) {
		_, err := c.Exec(context.Background(), fmt.Sprintf("UPDATE mind.memory SET v = 3 WHERE id = %d", id)).ReadAll()
		blocked <- err
	}
	go update(holder, 2)
	go update(waiter, 1)
	if first, second := <-blocked, <-blocked; (first == nil) == (second == nil) {
		t.Fatalf("no deadlock: %v, %v", first, second)
	}
	for _, c := range []*pgconn.PgConn{holder, waiter} {
		postgresqlRun(t, c, "ROLLBACK")
		postgresqlRun(t, c, "SELECT pg_stat_force_next_flush()")
	}
	postgresqlRun(t, holder, "BEGIN; UPDATE mind.memory SET v = 4 WHERE id = 1")
	go update(waiter, 1)
	defer func() { <-blocked }()
	defer postgresqlRun(t, holder, "ROLLBACK")
	postgresqlAwait(t, p, "SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
	postgresqlAwait(t, p, "SELECT deadlocks = 1 FROM pg_stat_database WHERE datname = 'niodoo'")
	postgresqlAwait(t, p, "SELECT archived_count > 0 FROM pg_stat_archiver")
	postgresqlAwait(t, p, "SELECT n_dead_tup >= 40 FROM pg_stat_user_tables")
	postgresqlAwait(t, p, "SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name = 'localserver' AND datname = 'postgres'")
	if err := p.ExecIn(t.Context(), "niodoo", "ANALYZE mind.memory"); err != nil {
		t.Fatal(err)
	}
	postgresqlAwait(t, p, "SELECT count(*) = 4 FROM pg_stat_activity WHERE datname = 'niodoo'") // ours here included

	s := scraper(t, only(t, "postgresql", postgresqlSection(t, p.Port, "")))
	res := postgresqlWell(t, s)
	postgresqlExpect(t, res, map[string]float64{
		`connections{datname="niodoo",state="active"}`:              1, // the waiter
		`connections{datname="niodoo",state="idle"}`:                1,
		`connections{datname="niodoo",state="idle in transaction"}`: 1,
		"lock_waiters":                                  1,
		"prepared_transactions":                         1,
		`deadlocks_total{datname="niodoo"}`:             1,
		"max_connections":                               40,
		"reserved_connections":                          3,
		`table_live_rows{schema="mind",table="memory"}`: 100,
		`replication_slot_active{slot_name="standby",slot_type="physical"}`:   0,
		`replication_slot_wal_kept{slot_name="standby",slot_type="physical"}`: 1,
		"in_recovery": 0,
	})
	for _, positive := range []string{"oldest_transaction_seconds", "oldest_idle_in_transaction_seconds", "oldest_prepared_transaction_seconds",
		"login_duration_seconds", "start_time_seconds", "login_timestamp_seconds", "wal_size_bytes", "wal_written_bytes_total", "last_archived_timestamp_seconds",
		`database_size_bytes{datname="niodoo"}`, `blocks_total{datname="niodoo",source="hit"}`, `table_dead_rows{schema="mind",table="memory"}`,
		`table_last_analyze_timestamp_seconds{schema="mind",table="memory"}`, `replication_slot_retained_bytes{slot_name="standby",slot_type="physical"}`} {
		if v := value(t, res.Families, "niodoo_postgresql_"+positive); v <= 0 {
			t.Errorf("niodoo_postgresql_%s is %v", positive, v)
		}
	}
	if _, ok := lookup(res.Families, `niodoo_postgresql_table_last_vacuum_timestamp_seconds{schema="mind",table="memory"}`); ok {
		t.Error("a table that was never vacuumed has the time of its last vacuum")
	}
	golden(t, "postgresql", res.Families, postgresqlVolatile()...)
}

// postgresqlVolatile are the families whose values a server in use changes.
func postgresqlVolatile() []string {
	fixed := []string{"connections", "lock_waiters", "prepared_transactions", "deadlocks_total", "max_connections", "reserved_connections", "in_recovery",
		"table_live_rows", "autovacuum_freeze_max_age", "login_success", "connection_failures_total", "replication_slot_active", "replication_slot_wal_kept",
		"archive_failures_total", "conflicts_total", "replication_streaming", "standby_receiving", "sessions_ended_total"}
	var volatile []string
	for _, d := range Catalogue() {
		if d.Collector == "postgresql" && !slices.Contains(fixed, strings.TrimPrefix(d.Name, "niodoo_postgresql_")) {
			volatile = append(volatile, d.Name)
		}
	}
	return append(volatile, "niodoo_component_info")
}

// One session, one round trip a scrape; a login of its own at its pace; sizes at theirs.
func TestPostgreSQLRoundTrips(t *testing.T) {
	t.Parallel()
	p := postgresqlServer(t, localserver.PostgresOptions{})
	deps, network, clock := postgresqlDeps(t)
	s := scraperWith(t, only(t, "postgresql", postgresqlSection(t, p.Port, "sslmode: disable")), deps, Options{})

	first := postgresqlWell(t, s)
	if n := network.dials.Load(); n != 1 {
		t.Errorf("the first scrape made %d connections, want 1: the session's own connect is the login", n)
	}
	pids := func() string {
		c := postgresqlConnect(t, p)
		defer c.Close(t.Context())
		r, err := c.Exec(t.Context(), "SELECT string_agg(pid::text, ' ') FROM pg_stat_activity WHERE application_name = 'niodoo_exporter'").ReadAll()
		if err != nil {
			t.Fatal(err)
		}
		return string(r[0].Rows[0][0])
	}
	session := pids()
	for range 3 {
		clock.advance(5 * time.Second)
		turns := network.turns.Load()
		postgresqlWell(t, s)
		if n := network.turns.Load() - turns; n != 1 {
			t.Errorf("a scrape took %d round trips, want 1", n)
		}
	}
	if n := network.dials.Load(); n != 1 {
		t.Errorf("%d connections after four scrapes in 15 s, want 1", n)
	}
	at := value(t, first.Families, "niodoo_postgresql_login_timestamp_seconds")
	clock.advance(14 * time.Second) // 29 s: on time for 30 s
	res := postgresqlWell(t, s)
	if n, open := network.dials.Load(), network.open.Load(); n != 2 || open != 1 {
		t.Errorf("%d connections made and %d open after the login interval, want 2 and 1", n, open)
	}
	if v := value(t, res.Families, "niodoo_postgresql_login_timestamp_seconds"); v < at+25 {
		t.Errorf("the login's time is %v after %v", v, at)
	}
	if now := pids(); now != session {
		t.Errorf("the sessions are %s, want only %s: the login left one behind or took its place", now, session)
	}

	// A table made now is not seen before its pace is up; until then the old
	// values stand.
	if err := p.ExecIn(t.Context(), "niodoo", "CREATE TABLE late ()"); err != nil {
		t.Fatal(err)
	}
	const late = `niodoo_postgresql_table_live_rows{schema="public",table="late"}`
	res = postgresqlWell(t, s)
	if _, ok := lookup(res.Families, late); ok {
		t.Error("tables are looked at in every scrape")
	}
	value(t, res.Families, `niodoo_postgresql_database_size_bytes{datname="niodoo"}`)
	clock.advance(time.Minute)
	value(t, postgresqlWell(t, s).Families, late)
}

// A fleet keeps no connection: each run connects once, and that is its login.
func TestPostgreSQLFleet(t *testing.T) {
	t.Parallel()
	p := postgresqlServer(t, localserver.PostgresOptions{})
	deps, network, clock := postgresqlDeps(t)
	deps.Fleet = true
	s := scraperWith(t, only(t, "postgresql", postgresqlSection(t, p.Port, "")), deps, Options{})
	for i := range int64(3) {
		clock.advance(time.Minute)
		postgresqlWell(t, s)
		closeConnections(s)
		if n, open := network.dials.Load(), network.open.Load(); n != i+1 || open != 0 {
			t.Errorf("%d connections made and %d open after %d runs", n, open, i+1)
		}
	}
}

// A session that died between two scrapes is replaced in the very next one and
// is no failure.
func TestPostgreSQLReconnects(t *testing.T) {
	t.Parallel()
	p := postgresqlServer(t, localserver.PostgresOptions{})
	deps, network, _ := postgresqlDeps(t)
	s := scraperWith(t, only(t, "postgresql", postgresqlSection(t, p.Port, "timeout: 4s")), deps, Options{})
	postgresqlWell(t, s)
	for name, kill := range map[string]func(){
		"forgotten by a firewall": func() { network.lose.Store(true) },
		"restart": func() {
			if err := p.Restart(t.Context()); err != nil {
				t.Fatal(err)
			}
		},
		"crash": func() {
			p.Kill()
			if err := p.Restart(t.Context()); err != nil {
				t.Fatal(err)
			}
		},
		"terminated": func() {
			postgresqlExec(t, p, "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name = 'niodoo_exporter'")
		},
	} {
		kill()
		res := postgresqlWell(t, s)
		for _, reason := range pgLoginReasons {
			postgresqlExpect(t, res, map[string]float64{postgresqlFailures(reason): 0})
		}
		if n := network.open.Load(); n != 1 {
			t.Errorf("%s: %d connections are open", name, n)
		}
	}
}

// The ways in which a real server, or none, turns us away.
func TestPostgreSQLFailures(t *testing.T) {
	t.Parallel()
	p := postgresqlServer(t, localserver.PostgresOptions{HBA: []string{"host all rejected 127.0.0.1/32 reject", "host all trusted,limited,denied 127.0.0.1/32 trust"}})
	postgresqlExec(t, p, "CREATE ROLE rejected LOGIN", "CREATE ROLE trusted LOGIN", "CREATE ROLE limited LOGIN CONNECTION LIMIT 0", "CREATE ROLE denied LOGIN",
		"CREATE ROLE nologin", "CREATE DATABASE closed", "REVOKE CONNECT ON DATABASE closed FROM PUBLIC")
	password := postgresqlPasswordFile(t, postgresqlPassword)
	address := func(a string) string {
		host, port, err := net.SplitHostPort(a)
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprintf("host: %s, port: %s", host, port)
	}
	here := fmt.Sprintf("host: 127.0.0.1, port: %d", p.Port)
	talk := func(says string) string {
		return listen(t, func(c net.Conn) {
			_, _ = c.Read(make([]byte, 1024))
			_, _ = io.WriteString(c, says)
			_, _ = c.Read(make([]byte, 1024))
		})
	}
	unreadable := filepath.Join(t.TempDir(), "missing")
	for _, c := range []struct {
		name, section string
		up            bool
		reason        Reason
	}{
		{"wrong password", here + fmt.Sprintf(", password_file: %q", postgresqlPasswordFile(t, "wrong")), true, ReasonAuth},
		{"no password", here, true, ReasonAuth},
		{"rejected by pg_hba.conf", here + ", user: rejected", true, ReasonAuth},
		{"rejected by pg_hba.conf, then no TLS", here + ", user: rejected, sslmode: allow", true, ReasonAuth},
		{"no such role", here + ", user: nobody", true, ReasonAuth},
		{"unknown database", here + ", user: trusted, database: no_such_database", true, ReasonConfig},
		{"no right to connect", here + ", user: denied, database: closed", true, ReasonPermission},
		{"connection limit", here + ", user: limited", true, ReasonTooManyConnections},
		{"password file missing", here + fmt.Sprintf(", password_file: %q", unreadable), true, ReasonConfig},
		{"password file missing, server too", address(closedPort(t)) + fmt.Sprintf(", password_file: %q", unreadable), false, ReasonConfig},
		{"certificate file missing", here + fmt.Sprintf(", sslmode: verify-full, tls_config: {ca_file: %q}", unreadable), false, ReasonConfig},
		{"certificate file missing, not needed to see the server", here + fmt.Sprintf(", sslmode: allow, tls_config: {ca_file: %q}", unreadable), true, ReasonConfig},
		{"TLS demanded", here + ", sslmode: require", false, ReasonTLS},
		{"refused", address(closedPort(t)), false, ReasonRefused},
		{"socket missing", fmt.Sprintf("host: %q", t.TempDir()), false, ReasonRefused},
		{"unknown host", "host: no-such-host.invalid", false, ReasonDNS},
		{"hangs", address(hang(t)) + ", timeout: 600ms", false, ReasonTimeout},
		{"hangs, without TLS", address(hang(t)) + ", sslmode: disable, timeout: 600ms", false, ReasonTimeout},
		{"closed at once", address(listen(t, func(net.Conn) {})), false, ReasonProtocol},
		{"HTTP", address(talk("HTTP/1.1 400 Bad Request\r\n\r\n")), false, ReasonProtocol},
		{"HTTP, without TLS", address(talk("HTTP/1.1 400 Bad Request\r\n\r\n")) + ", sslmode: disable", false, ReasonProtocol},
		{"Redis", address(talk("-ERR unknown command\r\n")), false, ReasonProtocol},
		{"Redis, without TLS", address(talk("-ERR unknown command\r\n")) + ", sslmode: disable", false, ReasonProtocol},
		{"TLS that is none", address(talk("Snonsense")) + ", sslmode: require", false, ReasonTLS},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			res := expectFailure(t, only(t, "postgresql", "{"+c.section+"}"), "postgresql", c.up, c.reason)
			postgresqlExpect(t, res, map[string]float64{"login_success": 0, postgresqlFailures(c.reason): 1})
			var sum float64
			for _, reason := range pgLoginReasons {
				sum += value(t, res.Families, "niodoo_postgresql_"+postgresqlFailures(reason))
			}
			if sum != 1 {
				t.Errorf("one failed login is counted %v times", sum)
			}
		})
	}
	t.Run("socket", func(t *testing.T) {
		t.Parallel()
		postgresqlWell(t, scraper(t, only(t, "postgresql", fmt.Sprintf("{host: %q, port: %d, password_file: %q}", p.SocketDir, p.Port, password))))
	})
	// A changed password file is used at the next login.
	t.Run("rotated password", func(t *testing.T) {
		t.Parallel()
		file := postgresqlPasswordFile(t, "old")
		s := scraper(t, only(t, "postgresql", fmt.Sprintf("{%s, password_file: %q}", here, file)))
		expectFailureOf(t, s, "postgresql", true, ReasonAuth, 2*time.Second)
		if err := os.WriteFile(file, []byte(postgresqlPassword), 0o600); err != nil {
			t.Fatal(err)
		}
		postgresqlExpect(t, postgresqlWell(t, s), map[string]float64{postgresqlFailures(ReasonAuth): 1})
	})
	// A role without pg_monitor loses what it may not see and nothing else,
	// and this is no reason to log in again and again.
	t.Run("least privilege", func(t *testing.T) {
		t.Parallel()
		deps, network, _ := postgresqlDeps(t)
		s := scraperWith(t, only(t, "postgresql", fmt.Sprintf("{%s, user: trusted, sslmode: disable}", here)), deps, Options{})
		for range 2 {
			res := expectFailureOf(t, s, "postgresql", true, ReasonPermission, 2*time.Second)
			postgresqlExpect(t, res, map[string]float64{"login_success": 1, "max_connections": 40, `deadlocks_total{datname="niodoo"}`: 0})
			value(t, res.Families, `niodoo_postgresql_database_size_bytes{datname="niodoo"}`)
			for _, hidden := range []string{"wal_size_bytes", "oldest_transaction_seconds", "lock_waiters", `connections{datname="niodoo",state="active"}`} {
				if v, ok := lookup(res.Families, "niodoo_postgresql_"+hidden); ok {
					t.Errorf("%s is %v for a role that cannot see it", hidden, v)
				}
			}
		}
		if n := network.dials.Load(); n != 1 {
			t.Errorf("%d connections were made", n)
		}
	})
}

// The application finds no slot, and the session goes on to tell why.
func TestPostgreSQLSlotsExhausted(t *testing.T) {
	t.Parallel()
	p := postgresqlServer(t, localserver.PostgresOptions{Settings: map[string]string{"max_connections": "8", "superuser_reserved_connections": "0", "max_wal_senders": "0"}})
	deps, _, clock := postgresqlDeps(t)
	s := scraperWith(t, only(t, "postgresql", postgresqlSection(t, p.Port, "")), deps, Options{})
	postgresqlWell(t, s)
	var taken []*pgconn.PgConn
	for {
		c, err := p.Connect(t.Context(), "niodoo")
		if err != nil {
			break
		}
		defer c.Close(context.Background())
		taken = append(taken, c)
	}
	clock.advance(30 * time.Second)
	res := expectFailureOf(t, s, "postgresql", true, ReasonTooManyConnections, 2*time.Second)
	postgresqlExpect(t, res, map[string]float64{
		"login_success": 0, postgresqlFailures(ReasonTooManyConnections): 1, "max_connections": 8,
		`connections{datname="niodoo",state="idle"}`: float64(len(taken)),
	})
	// While logins fail, each scrape tries one; the next that works is good news at once.
	postgresqlExpect(t, expectFailureOf(t, s, "postgresql", true, ReasonTooManyConnections, 2*time.Second),
		map[string]float64{postgresqlFailures(ReasonTooManyConnections): 2})
	taken[0].Close(t.Context())
	postgresqlAwait(t, p, "SELECT true")
	deadline := time.Now().Add(10 * time.Second)
	for value(t, scrape(t, s).Families, "niodoo_postgresql_login_success") != 1 {
		if time.Now().After(deadline) {
			t.Fatal("the login does not work again")
		}
	}
}

// A server that shuts down takes no logins and still talks on the session.
func TestPostgreSQLShuttingDown(t *testing.T) {
	t.Parallel()
	p := postgresqlServer(t, localserver.PostgresOptions{})
	deps, _, clock := postgresqlDeps(t)
	s := scraperWith(t, only(t, "postgresql", postgresqlSection(t, p.Port, "")), deps, Options{})
	postgresqlWell(t, s)
	if err := p.Signal(syscall.SIGTERM); err != nil { // smart: waits for the sessions
		t.Fatal(err)
	}
	deadline := time.Now().Add(10 * time.Second)
	for {
		var pgErr *pgconn.PgError
		if err := p.Exec(t.Context(), "SELECT"); errors.As(err, &pgErr) && pgErr.Code == "57P03" {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the server does not shut down")
		}
	}
	clock.advance(30 * time.Second)
	res := expectFailureOf(t, s, "postgresql", false, ReasonNotReady, 2*time.Second)
	postgresqlExpect(t, res, map[string]float64{"login_success": 0, postgresqlFailures(ReasonNotReady): 1, "max_connections": 40})
	p.Shutdown()
	res = expectFailureOf(t, s, "postgresql", false, ReasonRefused, 2*time.Second)
	postgresqlExpect(t, res, map[string]float64{postgresqlFailures(ReasonRefused): 1})
}

// A server that hangs, with a session open, is down within the deadline and
// the logins tell so too; afterwards all is well at once.
func TestPostgreSQLHangs(t *testing.T) {
	t.Parallel()
	p := postgresqlServer(t, localserver.PostgresOptions{})
	deps, network, _ := postgresqlDeps(t)
	s := scraperWith(t, only(t, "postgresql", postgresqlSection(t, p.Port, "timeout: 2s")), deps, Options{})
	postgresqlWell(t, s)
	p.Hang()
	started := time.Now()
	res := expectFailureOf(t, s, "postgresql", false, ReasonTimeout, 4*time.Second)
	if took := time.Since(started); took > 2*time.Second {
		t.Errorf("the scrape took %s", took)
	}
	postgresqlExpect(t, res, map[string]float64{"login_success": 0, postgresqlFailures(ReasonTimeout): 1})
	p.Continue()
	postgresqlWell(t, s)
	if n := network.open.Load(); n != 1 {
		t.Errorf("%d connections are open", n)
	}
}

// The session looks well; only the login finds that nobody listens any more.
func TestPostgreSQLLoginsRefused(t *testing.T) {
	t.Parallel()
	p := postgresqlServer(t, localserver.PostgresOptions{})
	deps, network, clock := postgresqlDeps(t)
	s := scraperWith(t, only(t, "postgresql", postgresqlSection(t, p.Port, "")), deps, Options{})
	postgresqlWell(t, s)
	network.block.Store(true)
	postgresqlWell(t, s)
	clock.advance(30 * time.Second)
	res := expectFailureOf(t, s, "postgresql", false, ReasonRefused, 2*time.Second)
	postgresqlExpect(t, res, map[string]float64{"login_success": 0, postgresqlFailures(ReasonRefused): 1, "max_connections": 40})
	network.block.Store(false)
	postgresqlExpect(t, postgresqlWell(t, s), map[string]float64{postgresqlFailures(ReasonRefused): 1})
}

// After half an hour a paced login takes the session's place.
func TestPostgreSQLSessionLife(t *testing.T) {
	t.Parallel()
	p := postgresqlServer(t, localserver.PostgresOptions{})
	deps, network, clock := postgresqlDeps(t)
	cfg := only(t, "postgresql", postgresqlSection(t, p.Port, ""))
	s := scraperWith(t, cfg, deps, Options{})
	postgresqlWell(t, s)
	c := s.units[0].collector.(*postgresql)
	before := c.session
	before.opened = before.opened.Add(-pgSessionLife)
	clock.advance(time.Minute)
	postgresqlWell(t, s)
	if c.session == before {
		t.Error("an old session is kept")
	}
	if open := network.open.Load(); open != 1 {
		t.Errorf("%d connections are open", open)
	}
}

// When the name stands for another server, so does the session after the next login.
func TestPostgreSQLFailsOver(t *testing.T) {
	t.Parallel()
	deps, _, clock := postgresqlDeps(t)
	before, after := &postgresqlFake{version: "15.18"}, &postgresqlFake{version: "17.2"}
	cfg := only(t, "postgresql", before.start(t))
	var address atomic.Value
	address.Store(net.JoinHostPort(cfg.PostgreSQL.Host, fmt.Sprint(cfg.PostgreSQL.Port)))
	deps.DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, address.Load().(string))
	}
	s := scraperWith(t, cfg, deps, Options{})
	value(t, postgresqlWell(t, s).Families, `niodoo_component_info{component="postgresql",version="15.18"}`)
	address.Store(listen(t, after.serve))
	clock.advance(30 * time.Second)
	value(t, postgresqlWell(t, s).Families, `niodoo_component_info{component="postgresql",version="17.2"}`)
}

func TestPostgreSQLStandby(t *testing.T) {
	t.Parallel()
	primary := postgresqlServer(t, localserver.PostgresOptions{Settings: map[string]string{"wal_receiver_status_interval": "1"}})
	standby := postgresqlServer(t, localserver.PostgresOptions{StandbyOf: primary, Settings: map[string]string{"wal_receiver_status_interval": "1"}})
	postgresqlAwait(t, primary, "SELECT count(*) = 1 FROM pg_stat_replication WHERE state = 'streaming'")
	postgresqlAwait(t, standby, "SELECT count(*) = 1 FROM pg_stat_wal_receiver WHERE status = 'streaming'")
	onPrimary := scraper(t, only(t, "postgresql", postgresqlSection(t, primary.Port, "")))
	onStandby := scraper(t, only(t, "postgresql", postgresqlSection(t, standby.Port, "")))
	postgresqlExec(t, primary, "CREATE TABLE replayed ()")
	postgresqlAwait(t, primary, "SELECT replay_lsn = pg_current_wal_lsn() FROM pg_stat_replication")
	postgresqlAwait(t, standby, "SELECT pg_last_wal_receive_lsn() = pg_last_wal_replay_lsn() AND pg_last_xact_replay_timestamp() IS NOT NULL")
	const who = `{application_name="walreceiver",client_addr="local"}`
	postgresqlExpect(t, postgresqlWell(t, onPrimary), map[string]float64{"in_recovery": 0, "replication_streaming" + who: 1, "replication_lag_bytes" + who: 0})
	res := postgresqlWell(t, onStandby)
	postgresqlExpect(t, res, map[string]float64{"in_recovery": 1, "standby_receiving": 1, "standby_lag_bytes": 0, "standby_lag_seconds": 0})
	golden(t, "postgresql_standby", res.Families, append(postgresqlVolatile(), "niodoo_postgresql_standby_lag_seconds")...)

	// Replay is held up: the lag shows on both sides.
	postgresqlExec(t, standby, "SELECT pg_wal_replay_pause()")
	postgresqlAwait(t, standby, "SELECT pg_get_wal_replay_pause_state() = 'paused'")
	if err := primary.ExecIn(t.Context(), "niodoo", "CREATE TABLE t AS SELECT generate_series(1, 1000)"); err != nil {
		t.Fatal(err)
	}
	postgresqlAwait(t, primary, "SELECT flush_lsn = pg_current_wal_lsn() FROM pg_stat_replication")
	if v := value(t, postgresqlWell(t, onPrimary).Families, "niodoo_postgresql_replication_lag_bytes"+who); v <= 0 {
		t.Errorf("the lag is %v bytes on the primary", v)
	}
	res = postgresqlWell(t, onStandby)
	for _, series := range []string{"standby_lag_bytes", "standby_lag_seconds"} {
		if v := value(t, res.Families, "niodoo_postgresql_"+series); v <= 0 {
			t.Errorf("%s is %v", series, v)
		}
	}
	// A standby whose primary is gone has no lag that it knows of, but says so.
	primary.Shutdown()
	postgresqlExec(t, standby, "SELECT pg_wal_replay_resume()")
	postgresqlAwait(t, standby, "SELECT count(*) = 0 FROM pg_stat_wal_receiver WHERE status = 'streaming'")
	postgresqlExpect(t, postgresqlWell(t, onStandby), map[string]float64{"standby_receiving": 0})
}

func TestPostgreSQLTLS(t *testing.T) {
	t.Parallel()
	cert, key, expires := postgresqlCertificate(t)
	otherCA, _, _ := postgresqlCertificate(t)
	p := postgresqlServer(t, localserver.PostgresOptions{
		HBA: []string{"hostssl all encrypted 127.0.0.1/32 trust", "hostnossl all plain 127.0.0.1/32 trust", "host all encrypted,plain 127.0.0.1/32 reject",
			"host all either 127.0.0.1/32 trust"},
	})
	postgresqlExec(t, p, "CREATE ROLE encrypted LOGIN IN ROLE pg_monitor", "CREATE ROLE plain LOGIN IN ROLE pg_monitor", "CREATE ROLE either LOGIN IN ROLE pg_monitor")
	for name, content := range map[string]string{"server.crt": cert, "server.key": key} {
		path := filepath.Join(p.DataDir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if st, err := os.Stat(p.DataDir); err == nil {
			owner := st.Sys().(*syscall.Stat_t)
			if err := os.Chown(path, int(owner.Uid), int(owner.Gid)); err != nil {
				t.Fatal(err)
			}
		}
	}
	postgresqlExec(t, p, "ALTER SYSTEM SET ssl = on", "SELECT pg_reload_conf()")
	postgresqlAwait(t, p, "SELECT setting = 'on' FROM pg_settings WHERE name = 'ssl'")
	file := func(content string) string {
		path := filepath.Join(t.TempDir(), "ca.pem")
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	ca, wrong := fmt.Sprintf("ca_file: %q", file(cert)), fmt.Sprintf("ca_file: %q", file(otherCA))
	for _, c := range []struct {
		mode, user, tls string
		encrypted       bool
		up              bool
		reason          Reason // "" is success
	}{
		{"disable", "either", "", false, true, ""},
		{"allow", "either", "", false, true, ""},
		{"prefer", "either", "", true, true, ""},
		{"prefer", "either", wrong, true, true, ""},
		{"require", "either", "", true, true, ""},
		{"require", "either", ca, true, true, ""},
		{"require", "either", wrong, true, false, ReasonTLS},
		{"verify-ca", "either", ca, true, true, ""},
		{"verify-ca", "either", wrong, true, false, ReasonTLS},
		{"verify-ca", "either", wrong + ", insecure_skip_verify: true", true, true, ""},
		{"verify-full", "either", ca + ", server_name: db.niodoo.example", true, true, ""},
		{"verify-full", "either", ca, true, false, ReasonTLS}, // 127.0.0.1 is not in it
		{"disable", "encrypted", "", false, true, ReasonAuth},
		{"allow", "encrypted", "", true, true, ""},
		{"prefer", "encrypted", "", true, true, ""},
		{"allow", "plain", "", false, true, ""},
		{"prefer", "plain", "", false, true, ""},
		{"require", "plain", "", true, true, ReasonAuth},
		{"verify-full", "either", fmt.Sprintf("ca_file: %q", filepath.Join(t.TempDir(), "missing")), true, false, ReasonConfig},
	} {
		t.Run(strings.Join([]string{c.mode, c.user, string(c.reason)}, " "), func(t *testing.T) {
			t.Parallel()
			cfg := only(t, "postgresql", fmt.Sprintf("{host: 127.0.0.1, port: %d, user: %s, sslmode: %s, tls_config: {%s}}", p.Port, c.user, c.mode, c.tls))
			if c.reason != "" {
				postgresqlExpect(t, expectFailure(t, cfg, "postgresql", c.up, c.reason), map[string]float64{postgresqlFailures(c.reason): 1})
				return
			}
			res := postgresqlWell(t, scraper(t, cfg))
			v, ok := lookup(res.Families, `niodoo_component_tls_not_after_timestamp_seconds{component="postgresql"}`)
			if ok != c.encrypted || ok && v != float64(expires.Unix()) {
				t.Errorf("the certificate's end is %v, %v; want it there: %v", v, ok, c.encrypted)
			}
		})
	}
	// SCRAM binds itself to the TLS channel where both are there.
	t.Run("channel binding", func(t *testing.T) {
		t.Parallel()
		postgresqlWell(t, scraper(t, only(t, "postgresql", postgresqlSection(t, p.Port, "sslmode: require"))))
	})
}

// postgresqlCertificate makes a certificate that signs itself, for db.niodoo.example.
func postgresqlCertificate(t *testing.T) (cert, key string, expires time.Time) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	expires = time.Now().Add(48 * time.Hour).Truncate(time.Second)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "db.niodoo.example"}, DNSNames: []string{"db.niodoo.example"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: expires, IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &k.PublicKey, k)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw})), expires
}

// Nothing of the environment, of ~/.pgpass or of a service file is taken.
func TestPostgreSQLEnvironment(t *testing.T) {
	p := postgresqlServer(t, localserver.PostgresOptions{})
	home := t.TempDir()
	if err := os.WriteFile(filepath.Join(home, ".pgpass"), []byte("*:*:*:*:"+postgresqlPassword+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(home, ".postgresql"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"root.crt", "postgresql.crt", "postgresql.key"} {
		if err := os.WriteFile(filepath.Join(home, ".postgresql", name), []byte("no certificate"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("HOME", home)
	t.Setenv("PGPASSWORD", postgresqlPassword)
	for _, name := range []string{"PGHOST", "PGPORT", "PGDATABASE", "PGUSER", "PGSERVICE", "PGSERVICEFILE", "PGSSLMODE", "PGSSLCERT", "PGSSLKEY", "PGSSLCERTMODE",
		"PGSSLROOTCERT", "PGSSLNEGOTIATION", "PGTARGETSESSIONATTRS", "PGOPTIONS", "PGAPPNAME", "PGCONNECT_TIMEOUT", "PGMINPROTOCOLVERSION",
		"PGMAXPROTOCOLVERSION", "PGCHANNELBINDING", "PGREQUIREAUTH", "PGTZ"} {
		t.Setenv(name, "nonsense")
	}
	postgresqlWell(t, scraper(t, only(t, "postgresql", postgresqlSection(t, p.Port, ""))))
	expectFailure(t, only(t, "postgresql", fmt.Sprintf("{host: 127.0.0.1, port: %d}", p.Port)), "postgresql", true, ReasonAuth)
	if v := os.Getenv("PGSERVICE"); v != "nonsense" {
		t.Errorf("PGSERVICE was changed to %q", v)
	}
}

// postgresqlFake is a server that says what a real one of the installed
// version cannot be made to say.
type postgresqlFake struct {
	version string
	// refuse answers a startup with an error's SQLSTATE.
	refuse string
	// fail answers a statement with an error; die ends the session there with
	// its severity FATAL.
	fail func(sql string) (code string, die bool)
	// pooler forgets what was prepared at the end of each transaction.
	pooler bool

	mu     sync.Mutex
	logins int
	asked  []string
}

func (f *postgresqlFake) serve(c net.Conn) {
	b := pgproto3.NewBackend(c, c)
	startup, err := b.ReceiveStartupMessage()
	if _, ok := startup.(*pgproto3.SSLRequest); ok && err == nil {
		_, _ = c.Write([]byte("N"))
		startup, err = b.ReceiveStartupMessage()
	}
	if _, ok := startup.(*pgproto3.StartupMessage); !ok || err != nil {
		return
	}
	f.mu.Lock()
	f.logins++
	f.mu.Unlock()
	if f.refuse != "" {
		b.Send(&pgproto3.ErrorResponse{Severity: "FATAL", SeverityUnlocalized: "FATAL", Code: f.refuse, Message: "the database system is starting up"})
		_ = b.Flush()
		return
	}
	b.Send(&pgproto3.AuthenticationOk{})
	b.Send(&pgproto3.ParameterStatus{Name: "server_version", Value: f.version})
	b.Send(&pgproto3.ParameterStatus{Name: "client_encoding", Value: "UTF8"})
	b.Send(&pgproto3.BackendKeyData{ProcessID: 1, SecretKey: []byte{1, 2, 3, 4}})
	b.Send(&pgproto3.ReadyForQuery{TxStatus: 'I'})
	if b.Flush() != nil {
		return
	}
	known, skip, current := map[string]string{}, false, ""
	fail := func(code string, die bool) {
		severity := "ERROR"
		if die {
			severity = "FATAL"
		}
		b.Send(&pgproto3.ErrorResponse{Severity: "FEHLER", SeverityUnlocalized: severity, Code: code, Message: "made to fail"})
		skip = true
	}
	for {
		msg, err := b.Receive()
		if err != nil {
			return
		}
		switch msg := msg.(type) {
		case *pgproto3.Sync:
			skip = false
			if f.pooler {
				clear(known)
			}
			b.Send(&pgproto3.ReadyForQuery{TxStatus: 'I'})
			if b.Flush() != nil {
				return
			}
		case *pgproto3.Terminate:
			return
		case *pgproto3.Parse:
			if !skip {
				known[msg.Name] = msg.Query
				b.Send(&pgproto3.ParseComplete{})
			}
		case *pgproto3.Bind:
			if skip {
				continue
			}
			var ok bool
			if current, ok = known[msg.PreparedStatement]; !ok {
				fail("26000", false)
				continue
			}
			b.Send(&pgproto3.BindComplete{})
		case *pgproto3.Execute:
			if skip {
				continue
			}
			f.mu.Lock()
			f.asked = append(f.asked, current)
			code, die := "", false
			if f.fail != nil {
				code, die = f.fail(current)
			}
			f.mu.Unlock()
			if code != "" {
				if fail(code, die); die {
					_ = b.Flush()
					return
				}
				continue
			}
			if strings.Contains(current, "pg_postmaster_start_time") {
				b.Send(&pgproto3.DataRow{Values: [][]byte{[]byte("f"), []byte("1700000000.5")}})
			}
			b.Send(&pgproto3.CommandComplete{CommandTag: []byte("SELECT 1")})
		}
	}
}

// start returns the section for the fake.
func (f *postgresqlFake) start(t *testing.T) string {
	host, port, err := net.SplitHostPort(listen(t, f.serve))
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("{host: %s, port: %s}", host, port)
}

func TestPostgreSQLVersions(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		version, label    string
		has, hasNot, with string
	}{
		{"13.23", "13.23", "checkpoints_timed", "num_timed", ""},
		{"15.18 (Debian 15.18-0+deb12u1)", "15.18", "sessions_fatal", "pg_stat_checkpointer", "checkpoints_timed"},
		{"17.2", "17.2", "pg_stat_checkpointer", "checkpoints_timed", "sessions_fatal"},
		{"18devel", "18devel", "pg_stat_checkpointer", "checkpoints_timed", "sessions_fatal"},
	} {
		f := &postgresqlFake{version: c.version}
		res := postgresqlWell(t, scraper(t, only(t, "postgresql", f.start(t))))
		value(t, res.Families, fmt.Sprintf("niodoo_component_info{component=\"postgresql\",version=%q}", c.label))
		asked := strings.Join(f.asked, "\n")
		if !strings.Contains(asked, c.has) || strings.Contains(asked, c.hasNot) || !strings.Contains(asked, c.with) {
			t.Errorf("version %s was asked:\n%s", c.version, asked)
		}
		if strings.HasPrefix(c.version, "13") && strings.Contains(asked, "sessions") {
			t.Errorf("version 13 has no count of sessions and was asked for it")
		}
	}
}

func TestPostgreSQLStarting(t *testing.T) {
	t.Parallel()
	f := &postgresqlFake{refuse: "57P03"}
	res := expectFailure(t, only(t, "postgresql", f.start(t)), "postgresql", false, ReasonNotReady)
	postgresqlExpect(t, res, map[string]float64{"login_success": 0, postgresqlFailures(ReasonNotReady): 1})
	if f.logins != 1 {
		t.Errorf("%d logins were tried", f.logins)
	}
}

// A statement that fails costs its own result only; one that fails in a way
// that might concern everybody makes us log in at once.
func TestPostgreSQLStatementFails(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		code   string
		reason Reason
		logins int
	}{
		{"42501", ReasonPermission, 1},
		{"42P01", ReasonOther, 1},
		{"55P03", ReasonTimeout, 1},
		{"57014", ReasonTimeout, 2},
		{"53200", ReasonOther, 2},
	} {
		var failing atomic.Bool
		f := &postgresqlFake{version: "15.18"}
		f.fail = func(sql string) (string, bool) {
			if failing.Load() && strings.Contains(sql, "pg_stat_archiver") {
				return c.code, false
			}
			return "", false
		}
		s := scraper(t, only(t, "postgresql", f.start(t)))
		postgresqlWell(t, s)
		failing.Store(true)
		f.mu.Lock()
		f.asked = nil
		f.mu.Unlock()
		res := expectFailureOf(t, s, "postgresql", true, c.reason, 2*time.Second)
		postgresqlExpect(t, res, map[string]float64{"login_success": 1, "start_time_seconds": 1700000000.5})
		f.mu.Lock()
		if f.logins != c.logins {
			t.Errorf("SQLSTATE %s: %d logins, want %d", c.code, f.logins, c.logins)
		}
		if last := f.asked[len(f.asked)-1]; strings.Contains(last, "archiver") {
			t.Errorf("SQLSTATE %s: no statement was asked after the one that failed", c.code)
		}
		f.mu.Unlock()
	}
}

// A session that is ended in the middle goes on in a new one with what is left.
func TestPostgreSQLSessionEndsMidway(t *testing.T) {
	t.Parallel()
	deaths := 0 // guarded by the fake's lock
	f := &postgresqlFake{version: "15.18"}
	f.fail = func(sql string) (string, bool) {
		if strings.Contains(sql, "pg_stat_archiver") && deaths > 0 {
			deaths--
			return "57P01", true
		}
		return "", false
	}
	s := scraper(t, only(t, "postgresql", f.start(t)))
	postgresqlWell(t, s)
	f.mu.Lock()
	deaths, f.asked = 1, nil
	f.mu.Unlock()
	res := postgresqlWell(t, s)
	if v, ok := lookup(res.Families, `niodoo_scrape_collector_series_dropped{collector="postgresql",reason="duplicate"}`); ok {
		t.Errorf("%v series were sent twice", v)
	}
	f.mu.Lock()
	times := map[string]int{}
	for _, sql := range f.asked {
		times[sql]++
	}
	for sql, n := range times {
		want := 1
		if strings.Contains(sql, "pg_stat_archiver") {
			want = 2
		}
		if n != want {
			t.Errorf("asked %d times: %s", n, sql)
		}
	}
	f.asked = nil
	deaths = 1000 // it kills every session: not tried for ever
	logins := f.logins
	f.mu.Unlock()
	expectFailureOf(t, s, "postgresql", true, ReasonNotReady, 2*time.Second)
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.logins != logins+1 {
		t.Errorf("%d logins in one scrape", f.logins-logins)
	}
}

// Behind a pooler that gives each transaction another session, nothing that
// was prepared is there in the next scrape. That costs a round trip, once.
func TestPostgreSQLPooler(t *testing.T) {
	t.Parallel()
	f := &postgresqlFake{version: "15.18", pooler: true}
	deps, network, _ := postgresqlDeps(t)
	s := scraperWith(t, only(t, "postgresql", f.start(t)), deps, Options{})
	postgresqlWell(t, s)
	for _, want := range []int64{2, 1, 1} {
		turns := network.turns.Load()
		postgresqlWell(t, s)
		if n := network.turns.Load() - turns; n != want {
			t.Errorf("%d round trips, want %d", n, want)
		}
	}
}

// Messages and rows that no PostgreSQL server sends end the session and do no harm.
func TestPostgreSQLNonsense(t *testing.T) {
	t.Parallel()
	if _, err := pgHealth.samples(nil, [][]byte{[]byte("perhaps"), nil}); classify(err) != ReasonParse {
		t.Errorf("a value that is no number: %v", err)
	}
	got, err := pgHealth.samples(nil, [][]byte{nil, []byte("1")})
	if err != nil || len(got) != 1 {
		t.Errorf("NULL is exported: %v, %v", got, err)
	}
	f := &postgresqlFake{version: "nonsense"}
	postgresqlWell(t, scraper(t, only(t, "postgresql", f.start(t))))
}

func BenchmarkPostgreSQL(b *testing.B) {
	p := postgresqlServer(b, localserver.PostgresOptions{})
	s := scraperWith(b, only(b, "postgresql", postgresqlSection(b, p.Port, "login_interval: 1h")), Deps{}, Options{})
	postgresqlWell(b, s)
	b.ReportAllocs()
	var before, after syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &before)
	for b.Loop() {
		s.Scrape(b.Context(), 5*time.Second, nil)
	}
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &after)
	used := func(u syscall.Rusage) int64 { return u.Utime.Nano() + u.Stime.Nano() }
	b.ReportMetric(float64(used(after)-used(before))/float64(b.N)/1e3, "cpu-µs/op")
}
