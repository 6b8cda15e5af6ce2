// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/niodoo/niodoo_exporter/internal/localserver"
)

// postgresSettings make the faults possible that a server must be prepared for.
var postgresSettings = map[string]string{
	"max_connections":           "60",
	"max_prepared_transactions": "4",
	"archive_mode":              "on",
	"archive_command":           "'true'",
}

var postgresFaults = []labFault{
	{"postgresql-stopped", "postgresql", "The PostgreSQL server is shut down.", func(_ context.Context, l *lab) (func() error, error) {
		l.postgres.Shutdown()
		return func() error { return l.postgres.Restart(l.ctx) }, nil
	}},
	{"postgresql-hanging", "postgresql", "Every process of the PostgreSQL server is stopped where it is: connections are taken and nobody answers.",
		func(_ context.Context, l *lab) (func() error, error) {
			l.postgres.Hang()
			return func() error { l.postgres.Continue(); return nil }, nil
		}},
	{"postgresql-connections-high", "postgresql", "The application holds all but five of the connections that PostgreSQL leaves to it.", func(ctx context.Context, l *lab) (func() error, error) {
		return nil, l.holdConnections(ctx, 5)
	}},
	{"postgresql-connections-exhausted", "postgresql", "The application holds all but one of the connections that PostgreSQL leaves to it.", func(ctx context.Context, l *lab) (func() error, error) {
		return nil, l.holdConnections(ctx, 1)
	}},
	{"postgresql-slots-exhausted", "postgresql", "The application takes every connection that PostgreSQL allows, and each that becomes free.", func(ctx context.Context, l *lab) (func() error, error) {
		err := l.holdConnections(ctx, 0)
		// A paced login is due when the session ends; from then on there is no place for one.
		return nil, errors.Join(err, l.endMonitor(ctx))
	}},
	{"postgresql-password-changed", "postgresql", "The exporter's role has another password, and its session is ended.", func(ctx context.Context, l *lab) (func() error, error) {
		err := l.postgres.Exec(ctx, "ALTER ROLE niodoo_monitor PASSWORD '"+rand.Text()+"'")
		end := func() error { return l.postgres.CreateMonitor(l.ctx, l.postgresPassword) }
		return end, errors.Join(err, l.endMonitor(ctx))
	}},
	{"postgresql-lock-queue", "postgresql", "A session holds a lock and eight wait for it.", func(ctx context.Context, l *lab) (func() error, error) {
		if err := l.session(ctx, "BEGIN; LOCK TABLE toroidal_memories"); err != nil {
			return nil, err
		}
		for range 8 {
			l.work.Go(func() { _ = l.session(ctx, "BEGIN; LOCK TABLE toroidal_memories") }) // waits until its session ends
		}
		return nil, nil
	}},
	{"postgresql-idle-transaction", "postgresql", "A session has begun a transaction and does nothing in it.", func(ctx context.Context, l *lab) (func() error, error) {
		return nil, l.session(ctx, "BEGIN; SELECT count(*) FROM memory_entries")
	}},
	{"postgresql-long-transaction", "postgresql", "A statement goes on and on.", func(ctx context.Context, l *lab) (func() error, error) {
		l.work.Go(func() { _ = l.session(ctx, "SELECT pg_sleep(86400)") }) // until its session ends
		return nil, nil
	}},
	{"postgresql-prepared-transaction", "postgresql", "A transaction is prepared, and nobody commits it.", func(ctx context.Context, l *lab) (func() error, error) {
		err := l.postgres.ExecIn(ctx, "niodoo", "BEGIN; INSERT INTO toroidal_memories (major_radius, minor_radius) VALUES (3, 1); PREPARE TRANSACTION 'forgotten'")
		return func() error { return l.postgres.ExecIn(l.ctx, "niodoo", "ROLLBACK PREPARED 'forgotten'") }, err
	}},
	{"postgresql-deadlocks", "postgresql", "Two sessions lock each other out, about once a second.", func(ctx context.Context, l *lab) (func() error, error) {
		l.work.Go(func() { every(ctx, time.Second, l.deadlock) })
		return nil, nil
	}},
	{"postgresql-slot-keeps-wal", "postgresql", "A replication slot that nobody reads keeps the write-ahead log, 16 MiB more every 2 s, up to 96 MiB.", func(ctx context.Context, l *lab) (func() error, error) {
		if err := l.postgres.Exec(ctx, "SELECT pg_create_physical_replication_slot('forgotten', true)"); err != nil {
			return nil, err
		}
		l.work.Go(func() { l.switchWAL(ctx, 6) })
		return l.dropSlot, nil
	}},
	{"postgresql-slot-lost-wal", "postgresql", "A replication slot has lost the write-ahead log that its reader needs.", func(ctx context.Context, l *lab) (func() error, error) {
		err := l.postgres.Exec(ctx, "SELECT pg_create_physical_replication_slot('forgotten', true)")
		for _, sql := range []string{"ALTER SYSTEM SET max_slot_wal_keep_size = '1MB'", "SELECT pg_reload_conf()"} {
			err = errors.Join(err, l.postgres.Exec(ctx, sql))
		}
		for range 4 {
			err = errors.Join(err, l.postgres.Exec(ctx, switchSegment), l.postgres.Exec(ctx, "CHECKPOINT"))
		}
		return func() error {
			return errors.Join(l.dropSlot(), l.postgres.Exec(l.ctx, "ALTER SYSTEM RESET max_slot_wal_keep_size"), l.postgres.Exec(l.ctx, "SELECT pg_reload_conf()"))
		}, err
	}},
	{"postgresql-standby-lagging", "postgresql", "A streaming standby receives what PostgreSQL writes and does not replay it. Lifted, it replays all of it and stays.",
		func(ctx context.Context, l *lab) (func() error, error) {
			if err := l.startStandby(ctx); err != nil {
				return nil, err
			}
			return func() error { return l.standby.Exec(l.ctx, "SELECT pg_wal_replay_resume()") }, l.standby.Exec(ctx, "SELECT pg_wal_replay_pause()")
		}},
	{"postgresql-archiver-failing", "postgresql", "Every attempt to archive a segment of the write-ahead log fails.", func(ctx context.Context, l *lab) (func() error, error) {
		err := errors.Join(l.postgres.Exec(ctx, "ALTER SYSTEM SET archive_command = 'false'"), l.postgres.Exec(ctx, "SELECT pg_reload_conf()"))
		l.work.Go(func() { l.switchWAL(ctx, 1000) })
		return func() error {
			return errors.Join(l.postgres.Exec(l.ctx, "ALTER SYSTEM RESET archive_command"), l.postgres.Exec(l.ctx, "SELECT pg_reload_conf()"), l.postgres.Exec(l.ctx, switchSegment))
		}, err
	}},
}

// wireFaults are those of the way to PostgreSQL.
var wireFaults = []labFault{
	{"postgresql-slow", "postgresql", "Every answer of PostgreSQL takes 0.11 s longer on its way.", func(_ context.Context, l *lab) (func() error, error) {
		l.wire.delay.Store(int64(110 * time.Millisecond))
		return func() error { l.wire.delay.Store(0); return nil }, nil
	}},
}

// startStandby starts a streaming standby of the server, if there is none yet.
func (l *lab) startStandby(ctx context.Context) (err error) {
	if l.standby != nil {
		return nil
	}
	// A standby may not allow fewer connections than its primary.
	l.standby, err = localserver.StartPostgres(ctx, localserver.PostgresOptions{Dir: l.dir, StandbyOf: l.postgres, Settings: postgresSettings})
	if err == nil {
		l.guard.add(l.standby.SocketDir)
	}
	return err
}

// switchSegment ends the current segment of the write-ahead log.
const switchSegment = "SELECT txid_current(), pg_switch_wal()"

// switchWAL ends a segment every 2 s, so many times.
func (l *lab) switchWAL(ctx context.Context, times int) {
	every(ctx, 2*time.Second, func(ctx context.Context) {
		if times--; times >= 0 {
			_ = l.postgres.Exec(ctx, switchSegment) // the server may be stopped as well
		}
	})
}

func (l *lab) dropSlot() error {
	return l.postgres.Exec(l.ctx, "SELECT pg_drop_replication_slot('forgotten')")
}

// endMonitor ends the exporter's session.
func (l *lab) endMonitor(ctx context.Context) error {
	return l.postgres.Exec(ctx, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'niodoo_monitor'")
}

// session opens a session of the superuser in the application's database, runs
// statements in it and keeps it until ctx ends.
func (l *lab) session(ctx context.Context, sql string) error {
	conn, err := l.postgres.Connect(ctx, "niodoo")
	if err != nil {
		return err
	}
	if _, err = conn.Exec(ctx, sql).ReadAll(); err != nil {
		closeSession(conn)
		return err
	}
	l.work.Go(func() {
		<-ctx.Done()
		closeSession(conn)
	})
	return nil
}

func closeSession(conn *pgconn.PgConn) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = conn.Close(ctx)
}

// holdConnections opens sessions of the application until so many of those that
// PostgreSQL leaves to it are free, and keeps it so until ctx ends.
func (l *lab) holdConnections(ctx context.Context, free int) error {
	limit, err := strconv.Atoi(postgresSettings["max_connections"])
	if err != nil {
		return err
	}
	const reserved, others = 3, 2 // superuser_reserved_connections; the load and the exporter
	wanted := limit - reserved - free
	if free > 0 {
		wanted -= others
	}
	var held []*pgx.Conn
	fill := func(ctx context.Context) {
		for len(held) < wanted {
			conn, err := pgx.Connect(ctx, l.postgresDSN())
			if err != nil {
				return // another has the last one
			}
			held = append(held, conn)
		}
	}
	fill(ctx)
	l.work.Go(func() {
		every(ctx, 50*time.Millisecond, fill)
		for _, conn := range held {
			closePostgres(conn)
		}
	})
	return nil
}

// deadlock lets two sessions wait for each other until the server ends one of them.
func (l *lab) deadlock(ctx context.Context) {
	var a, b *pgconn.PgConn
	for _, c := range []**pgconn.PgConn{&a, &b} {
		conn, err := l.postgres.Connect(ctx, "niodoo")
		if err != nil {
			return // the server may be stopped as well
		}
		defer closeSession(conn)
		*c = conn
	}
	run := func(c *pgconn.PgConn, sql string) { _, _ = c.Exec(ctx, sql).ReadAll() } // one of them fails, as intended
	const lock = "SELECT pg_advisory_xact_lock(%d)"
	for i, c := range []*pgconn.PgConn{a, b} {
		run(c, "SET deadlock_timeout = '10ms'; BEGIN")
		run(c, fmt.Sprintf(lock, i))
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		run(a, fmt.Sprintf(lock, 1))
	}()
	run(b, fmt.Sprintf(lock, 0))
	<-done
}
