// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package maintenance

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgconn/ctxwatch"

	"github.com/niodoo/niodoo_exporter/internal/config"
	"github.com/niodoo/niodoo_exporter/internal/pglogin"
)

// SQLSTATEs.
const (
	pgLockNotAvailable = "55P03"
	pgUndefinedTable   = "42P01"
)

// pgOldest is the first version with SKIP_LOCKED and REINDEX CONCURRENTLY.
const pgOldest = 120000

// errStandby says that the server takes no maintenance.
var errStandby = errors.New("the server is a standby; maintain its primary")

// session is a session with PostgreSQL for statements that run by themselves,
// outside of any transaction.
type session struct {
	*pgx.Conn
	cfg config.Maintenance
	// warnings are those since the last statement was begun.
	warnings []*pgconn.Notice
	role     string
	version  int
}

// connect opens a session of the role that owns the tables.
func (j *job) connect(ctx context.Context) (*session, error) {
	cfg, m := j.Config.PostgreSQL, j.Config.Maintenance
	if m.User != "" {
		cfg.User, cfg.PasswordFile = m.User, m.PasswordFile
	}
	c, err := pglogin.Config(cfg, "", "niodooctl maintenance")
	if err != nil {
		return nil, err
	}
	s := &session{cfg: m, role: cfg.User}
	c.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) {
		if n.SeverityUnlocalized == "WARNING" {
			s.warnings = append(s.warnings, n)
		}
	}
	// A session that is just dropped leaves the server at work on its statement.
	c.BuildContextWatcherHandler = func(pg *pgconn.PgConn) ctxwatch.Handler {
		return &pgconn.CancelRequestContextWatcherHandler{Conn: pg, DeadlineDelay: 10 * time.Second}
	}
	if s.Conn, err = pgx.ConnectConfig(ctx, c); err != nil {
		return nil, fmt.Errorf("PostgreSQL: %w", err)
	}
	if err := s.prepare(ctx); err != nil {
		s.close(ctx)
		return nil, err
	}
	return s, nil
}

// prepare finds out whom we speak to, and bounds the waits for locks.
func (s *session) prepare(ctx context.Context) error {
	var standby bool
	err := s.QueryRow(ctx, "SELECT current_setting('server_version_num')::int, pg_is_in_recovery()").Scan(&s.version, &standby)
	switch {
	case err != nil:
		return err
	case s.version < pgOldest:
		return fmt.Errorf("PostgreSQL %d is too old; maintenance needs 12 or later", s.version/10000)
	case standby:
		return errStandby
	}
	return s.set(ctx, "lock_timeout", time.Duration(s.cfg.LockTimeout))
}

// set sets one of the session's timeouts.
func (s *session) set(ctx context.Context, name string, d time.Duration) error {
	_, err := s.Exec(ctx, "SELECT set_config($1, $2, false)", name, strconv.FormatInt(max(1, d.Milliseconds()), 10))
	return err
}

// run runs a statement within what is left of the step's time, on the server
// too, and returns the warnings it gave.
func (s *session) run(ctx context.Context, statement string) ([]*pgconn.Notice, error) {
	if deadline, ok := ctx.Deadline(); ok {
		if err := s.set(ctx, "statement_timeout", time.Until(deadline)); err != nil {
			return nil, err
		}
	}
	s.warnings = nil
	_, err := s.Exec(ctx, statement)
	return s.warnings, err
}

// outOfTime reports whether a statement's failure is the end of the step's
// time: the server is given a moment less than we have.
func outOfTime(ctx context.Context) bool {
	deadline, ok := ctx.Deadline()
	return ctx.Err() != nil || ok && time.Until(deadline) < time.Second
}

// close ends the session; a server that hangs does not keep us.
func (s *session) close(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	_ = s.Close(ctx)
}

// code returns the SQLSTATE of an error, "" if the server did not send it.
func code(err error) string {
	if e, ok := errors.AsType[*pgconn.PgError](err); ok {
		return e.Code
	}
	return ""
}

// message returns what the server says, without the prefixes of the driver.
func message(err error) string {
	if e, ok := errors.AsType[*pgconn.PgError](err); ok {
		return strings.TrimSpace(e.Message + " " + cmp.Or(e.Hint, ""))
	}
	return err.Error()
}

// indexBuild reports whether an index is being built in the database, by
// whomever: its name may be that of a leftover.
func (s *session) indexBuild(ctx context.Context) (bool, error) {
	var n int
	err := s.QueryRow(ctx, "SELECT count(*) FROM pg_stat_progress_create_index WHERE datname = current_database()").Scan(&n)
	return n > 0, err
}

// longTransaction describes the oldest transaction that a rebuild would have to
// wait for, "" if there is none that is long. Only members of pg_read_all_stats
// see others'.
func (s *session) longTransaction(ctx context.Context) (string, error) {
	var sees bool
	if err := s.QueryRow(ctx, "SELECT pg_has_role('pg_read_all_stats', 'USAGE')").Scan(&sees); err != nil {
		return "", err
	}
	if !sees {
		return "", fmt.Errorf("the role %s cannot see how long others' transactions are; GRANT pg_monitor TO %s",
			s.role, pgx.Identifier{s.role}.Sanitize())
	}
	var pid int
	var user string
	var seconds float64
	err := s.QueryRow(ctx, `SELECT pid, coalesce(usename, backend_type), extract(epoch FROM clock_timestamp() - xact_start)::float8
FROM pg_stat_activity
WHERE pid <> pg_backend_pid() AND xact_start < clock_timestamp() - make_interval(secs => $1)
  AND datname = current_database() AND query !~* '^\s*(autovacuum:|vacuum)'
ORDER BY xact_start LIMIT 1`, time.Duration(s.cfg.LongTransaction).Seconds()).Scan(&pid, &user, &seconds)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return "", nil
	case err != nil:
		return "", err
	}
	return fmt.Sprintf("process %d (%s) has been in a transaction for %.0f s", pid, user, seconds), nil
}
