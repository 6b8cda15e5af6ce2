// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package maintenance

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/prometheus/common/model"

	"github.com/niodoo/niodoo_exporter/internal/config"
	"github.com/niodoo/niodoo_exporter/internal/localserver"
	"github.com/niodoo/niodoo_exporter/internal/opstate"
)

// deadline is how long a test waits for something to come true.
const deadline = 60 * time.Second

// server starts a PostgreSQL server with the role niodoo, which owns nothing yet.
func server(t *testing.T) *localserver.Postgres {
	t.Helper()
	p, err := localserver.StartPostgres(t.Context(), localserver.PostgresOptions{Dir: t.TempDir(), Settings: map[string]string{"autovacuum": "off"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Stop)
	execute(t, p, "postgres", "CREATE ROLE niodoo LOGIN PASSWORD 'pw'; GRANT pg_monitor TO niodoo")
	return p
}

func execute(t *testing.T, p *localserver.Postgres, database, sql string) {
	t.Helper()
	for s := range strings.SplitSeq(sql, ";") { // each by itself: CONCURRENTLY is in no transaction
		if err := p.ExecIn(t.Context(), database, s); err != nil {
			t.Fatalf("%s: %v", s, err)
		}
	}
}

// database makes a database whose role niodoo makes tables of its own, by the statements.
func database(t *testing.T, p *localserver.Postgres, name, sql string) *config.Config {
	t.Helper()
	execute(t, p, "postgres", "CREATE DATABASE "+name)
	execute(t, p, name, "GRANT CREATE ON SCHEMA public TO niodoo")
	for s := range strings.SplitSeq(sql, ";") {
		if err := p.ExecIn(t.Context(), name, "SET ROLE niodoo; "+s); err != nil {
			t.Fatalf("%s: %v", s, err)
		}
	}
	password := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(password, []byte("pw\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg := config.Default()
	cfg.Operations.StateDir = t.TempDir()
	cfg.PostgreSQL.Host, cfg.PostgreSQL.Port, cfg.PostgreSQL.Database = "127.0.0.1", p.Port, name
	cfg.Maintenance.User, cfg.Maintenance.PasswordFile = "niodoo", config.SecretFile(password)
	cfg.Maintenance.LockTimeout = model.Duration(200 * time.Millisecond)
	cfg.Maintenance.BloatMinBytes = 64 << 10
	return cfg
}

// open opens another session.
func open(t *testing.T, p *localserver.Postgres, database, sql string) *pgconn.PgConn {
	t.Helper()
	c, err := p.Connect(t.Context(), database)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close(context.Background()) })
	if _, err := c.Exec(t.Context(), sql).ReadAll(); err != nil {
		t.Fatal(err)
	}
	return c
}

// query returns the first column of the first row, "" for none.
func query(t *testing.T, p *localserver.Postgres, database, sql string) string {
	t.Helper()
	c, err := p.Connect(t.Context(), database)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(t.Context())
	res, err := c.Exec(t.Context(), sql).ReadAll()
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	if rows := res[len(res)-1].Rows; len(rows) > 0 {
		return string(rows[0][0])
	}
	return ""
}

// until waits for a query's answer.
func until(t *testing.T, p *localserver.Postgres, database, sql, want string) {
	t.Helper()
	end := time.Now().Add(deadline)
	for got := ""; ; time.Sleep(20 * time.Millisecond) {
		if got = query(t, p, database, sql); got == want {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%s: still %q, want %q", sql, got, want)
		}
	}
}

// quiet returns a runner that keeps what is said to itself.
func quiet(cfg *config.Config) *Runner {
	return &Runner{Config: cfg, Logger: slog.New(slog.DiscardHandler), Now: time.Now,
		Begin: func(Step) {}, Say: func(string) {}, End: func(StepReport) {}}
}

// step runs one step by itself.
func step(t *testing.T, cfg *config.Config, own func(context.Context, *job) (outcome, error), change ...func(*Runner)) StepReport {
	t.Helper()
	r := quiet(cfg)
	for _, c := range change {
		c(r)
	}
	return r.run(t.Context(), Step{Name: "x", own: own}, deadline, "")
}

func dry(r *Runner) { r.DryRun = true }

// wants checks how a step ended, and that all the texts are in what it says.
func wants(t *testing.T, s StepReport, result opstate.StepResult, texts ...string) {
	t.Helper()
	all := s.Detail + "\n" + strings.Join(s.Lines, "\n")
	if s.Result != result {
		t.Errorf("the result is %s, want %s\n%s", s.Result, result, all)
	}
	for _, text := range texts {
		if !strings.Contains(all, text) {
			t.Errorf("%q is not in\n%s", text, all)
		}
	}
}

const vacuumed = "SELECT count(*) FROM pg_stat_user_tables WHERE last_vacuum IS NOT NULL AND last_analyze IS NOT NULL"

// A table that is not ours is skipped by the server with a warning only, and one
// that is locked is not waited for; both are failures, and cost the others nothing.
func TestVacuum(t *testing.T) {
	t.Parallel()
	p := server(t)
	cfg := database(t, p, "v", `CREATE TABLE "Odd ""name" (n int); CREATE TABLE events (n int); CREATE TABLE locked (n int);
		INSERT INTO events SELECT generate_series(1, 1000); DELETE FROM events WHERE n % 2 = 0`)
	execute(t, p, "v", "CREATE TABLE others (n int)")
	holder := open(t, p, "v", "BEGIN; LOCK TABLE locked")

	s := step(t, cfg, vacuum, dry)
	wants(t, s, opstate.StepOK, "would vacuum public.events", `would vacuum public."Odd ""name"`)
	if n := query(t, p, "v", vacuumed); n != "0" {
		t.Errorf("the dry run vacuumed %s tables", n)
	}

	s = step(t, cfg, vacuum)
	wants(t, s, opstate.StepFailed, "2 of 4 tables", `public.others: `, `"others"`, "public.locked: ", "lock timeout")
	if n := query(t, p, "v", vacuumed); n != "2" {
		t.Errorf("%s tables are vacuumed, want 2", n)
	}

	// With nothing in the way all is well, and a weekly ANALYZE too, which takes
	// partitioned tables along.
	if err := holder.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	execute(t, p, "v", "DROP TABLE others")
	execute(t, p, "v", `CREATE TABLE parts (n int) PARTITION BY RANGE (n); CREATE TABLE part PARTITION OF parts DEFAULT;
		ALTER TABLE parts OWNER TO niodoo; ALTER TABLE part OWNER TO niodoo; INSERT INTO parts SELECT generate_series(1, 100)`)
	until(t, p, "v", "SELECT count(*) FROM pg_locks l JOIN pg_class c ON c.oid = l.relation WHERE c.relname = 'locked'", "0")
	wants(t, step(t, cfg, vacuum), opstate.StepOK, "4 of 4 tables")
	wants(t, step(t, cfg, analyze), opstate.StepOK, "4 of 4 tables")
	if n := query(t, p, "v", "SELECT count(*) FROM pg_stats WHERE tablename = 'parts' AND inherited"); n != "1" {
		t.Errorf("the partitioned table has statistics of %s columns", n)
	}

	// A vacuum that is at work is left alone.
	execute(t, p, "v", "INSERT INTO events SELECT generate_series(1, 100000); DELETE FROM events WHERE n % 2 = 0")
	other := open(t, p, "v", "SET vacuum_cost_delay = 100; SET vacuum_cost_limit = 1")
	ended := make(chan error, 1)
	go func() {
		_, err := other.Exec(context.Background(), "VACUUM events").ReadAll()
		ended <- err
	}()
	until(t, p, "v", "SELECT count(*) FROM pg_stat_progress_vacuum", "1")
	wants(t, step(t, cfg, vacuum), opstate.StepOK, "3 of 4 tables, 1 being vacuumed")
	if err := other.CancelRequest(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err == nil {
		t.Error("the other vacuum ended before ours had looked")
	}

	// A step that runs out of time says what it did not reach, and the server
	// works on nothing for us afterwards.
	execute(t, p, "v", "ALTER ROLE niodoo SET vacuum_cost_delay = 100; ALTER ROLE niodoo SET vacuum_cost_limit = 1")
	r := quiet(cfg)
	s = r.run(t.Context(), Step{Name: "x", own: vacuum}, 3*time.Second, "")
	wants(t, s, opstate.StepFailed, "public.events and 3 more: not reached in time")
	until(t, p, "v", "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'niodooctl maintenance'", "0")
}

// bloated has an index of whose entries four in five are gone, and a fresh one.
const bloated = `CREATE TABLE events (n int NOT NULL, m int NOT NULL); INSERT INTO events SELECT i, i FROM generate_series(1, 50000) i;
	CREATE INDEX bloated ON events (n); DELETE FROM events WHERE n % 5 <> 0; CREATE INDEX fresh ON events (m)`

func TestReindex(t *testing.T) {
	t.Parallel()
	p := server(t)
	cfg := database(t, p, "r", bloated)
	execute(t, p, "r", "VACUUM ANALYZE events")
	const size = "SELECT pg_relation_size('bloated') > 500000"

	// Without the extension, from the statistics.
	s := step(t, cfg, reindex, dry)
	wants(t, s, opstate.StepOK, "would rebuild public.bloated", "(estimated)")
	if strings.Contains(strings.Join(s.Lines, " "), "fresh") {
		t.Errorf("a fresh index is called bloated: %q", s.Lines)
	}
	if query(t, p, "r", size) != "t" {
		t.Error("the dry run rebuilt an index, or it was never large")
	}
	// With the extension, but without the right to use it: the same.
	execute(t, p, "r", "CREATE EXTENSION pgstattuple; REVOKE EXECUTE ON FUNCTION pgstatindex(regclass) FROM pg_stat_scan_tables")
	wants(t, step(t, cfg, reindex, dry), opstate.StepOK, "(estimated)")
	execute(t, p, "r", "GRANT EXECUTE ON FUNCTION pgstatindex(regclass) TO niodoo")
	s = step(t, cfg, reindex, dry)
	wants(t, s, opstate.StepOK, "would rebuild public.bloated")
	if strings.Contains(strings.Join(s.Lines, " "), "estimated") {
		t.Errorf("pgstatindex was not asked: %q", s.Lines)
	}

	// What speaks against a rebuild.
	cfg.Maintenance.LongTransaction = model.Duration(time.Millisecond)
	old := open(t, p, "r", "BEGIN; SELECT")
	until(t, p, "r", "SELECT count(*) FROM pg_stat_activity WHERE state = 'idle in transaction' AND now() - xact_start > '10ms'", "1")
	wants(t, step(t, cfg, reindex), opstate.StepSkipped, "has been in a transaction")
	_ = old.Close(t.Context())
	until(t, p, "r", "SELECT count(*) FROM pg_stat_activity WHERE state = 'idle in transaction'", "0")
	cfg.Maintenance.LongTransaction = model.Duration(5 * time.Minute)
	execute(t, p, "r", "REVOKE pg_monitor FROM niodoo")
	wants(t, step(t, cfg, reindex), opstate.StepFailed, "GRANT pg_monitor TO \"niodoo\"")
	execute(t, p, "r", "GRANT pg_monitor TO niodoo")
	cfg.Maintenance.DataDirectory = "/does/not/exist"
	wants(t, step(t, cfg, reindex), opstate.StepFailed, "free space", "maintenance.data_directory")
	cfg.Maintenance.DataDirectory = ""
	if query(t, p, "r", size) != "t" {
		t.Fatal("the index was rebuilt all the same")
	}

	cfg.Maintenance.Indexes = []string{"public.fresh", "public.nobodys"}
	s = step(t, cfg, reindex)
	wants(t, s, opstate.StepFailed, "2 of 2 indexes rebuilt", "rebuilt public.bloated: ", "rebuilt public.fresh: ", "public.nobodys is no index")
	if query(t, p, "r", size) != "f" {
		t.Error("the index is as large as before")
	}
	cfg.Maintenance.Indexes = nil
	wants(t, step(t, cfg, reindex), opstate.StepOK, "0 of 0 indexes rebuilt")

	// An index of somebody else's.
	execute(t, p, "r", "CREATE TABLE others (n int); CREATE INDEX others_n ON others (n)")
	cfg.Maintenance.Indexes = []string{"public.others_n"}
	wants(t, step(t, cfg, reindex), opstate.StepFailed, "0 of 1 indexes rebuilt", "must be owner of index others_n")
}

func TestNoRoom(t *testing.T) {
	t.Parallel()
	cfg := config.Default()
	cfg.Maintenance.DataDirectory = t.TempDir()
	r := &rebuild{job: &job{Runner: quiet(cfg)}}
	if why, err := r.noRoom(t.Context(), index{size: 1 << 10}); why != "" || err != nil {
		t.Errorf("no room for 1 KiB: %s %v", why, err)
	}
	if why, err := r.noRoom(t.Context(), index{size: 1 << 60}); !strings.Contains(why, "its rebuild may need") || err != nil {
		t.Errorf("room for an exabyte: %q %v", why, err)
	}
}

// A rebuild that is broken off leaves an invalid index behind, which every write
// maintains and nobody uses. It goes with the next run, but not while an index is
// being built, and what has another name stays.
func TestLeftovers(t *testing.T) {
	t.Parallel()
	p := server(t)
	cfg := database(t, p, "l", `CREATE TABLE events (n int, m int); INSERT INTO events VALUES (1, 1), (1, 2); CREATE INDEX events_n ON events (n)`)
	if err := p.ExecIn(t.Context(), "l", "CREATE UNIQUE INDEX CONCURRENTLY mine ON events (n)"); err == nil {
		t.Fatal("a unique index on what is not unique")
	}
	cfg.Maintenance.Indexes = []string{"public.events_n"}
	const invalid = "SELECT string_agg(indexrelid::regclass::text, ' ' ORDER BY 1) FROM pg_index WHERE NOT indisvalid"
	writer := open(t, p, "l", "BEGIN; INSERT INTO events VALUES (3, 3)")
	wants(t, step(t, cfg, reindex), opstate.StepFailed, "lock timeout", "events_n_ccnew is left behind")
	const both = "events_n_ccnew mine"
	if got := query(t, p, "l", "SELECT string_agg(x, ' ' ORDER BY x) FROM (SELECT indexrelid::regclass::text x FROM pg_index WHERE NOT indisvalid) i"); got != both {
		t.Fatalf("invalid are %q, want %q", got, both)
	}
	wants(t, step(t, cfg, leftovers, dry), opstate.StepOK, "would drop public.events_n_ccnew", "1 left behind")

	builder := open(t, p, "l", "SELECT")
	ended := make(chan error, 1)
	go func() {
		_, err := builder.Exec(context.Background(), "CREATE INDEX CONCURRENTLY slow ON events (m)").ReadAll()
		ended <- err
	}()
	until(t, p, "l", "SELECT count(*) FROM pg_stat_progress_create_index", "1")
	wants(t, step(t, cfg, leftovers), opstate.StepSkipped, "an index is being built")
	wants(t, step(t, cfg, reindex), opstate.StepSkipped, "another index is being built")
	if _, err := writer.Exec(t.Context(), "COMMIT").ReadAll(); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	wants(t, step(t, cfg, leftovers), opstate.StepOK, "1 dropped")
	if got := query(t, p, "l", invalid); got != "mine" {
		t.Errorf("invalid are %q, want mine alone", got)
	}
	wants(t, step(t, cfg, reindex), opstate.StepOK, "1 of 1 indexes rebuilt")
}

func TestNoServer(t *testing.T) {
	t.Parallel()
	p := server(t)
	standby, err := localserver.StartPostgres(t.Context(), localserver.PostgresOptions{Dir: t.TempDir(), StandbyOf: p})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(standby.Stop)
	cfg := database(t, p, "s", "SELECT")
	until(t, standby, "postgres", "SELECT count(*) FROM pg_database WHERE datname = 's'", "1")
	for name, own := range map[string]func(context.Context, *job) (outcome, error){"vacuum": vacuum, "analyze": analyze, "reindex": reindex, "leftovers": leftovers} {
		cfg.PostgreSQL.Port = standby.Port
		wants(t, step(t, cfg, own), opstate.StepSkipped, "is a standby")
		cfg.PostgreSQL.Port = 1
		if s := step(t, cfg, own); s.Result != opstate.StepFailed || strings.Contains(s.Detail, "\n") {
			t.Errorf("%s without a server: %+v", name, s)
		}
	}
	cfg.PostgreSQL.Port = p.Port
	cfg.Maintenance.PasswordFile = config.SecretFile(filepath.Join(t.TempDir(), "none"))
	wants(t, step(t, cfg, vacuum), opstate.StepFailed, fmt.Sprint(cfg.Maintenance.PasswordFile))
}
