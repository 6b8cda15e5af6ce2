// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/redis/go-redis/v9"
)

// loadInterval is the time between two operations on each of the servers.
const loadInterval = 250 * time.Millisecond

// furnishPostgres creates the application's role and database, the tables that
// the documentation's indexes imply, the exporter's role and the backup's.
func (l *lab) furnishPostgres(ctx context.Context) error {
	if err := l.postgres.CreateMonitor(ctx, l.postgresPassword); err != nil {
		return err
	}
	for _, role := range []string{"niodoo", "niodoo_backup"} {
		if err := l.postgres.Exec(ctx, "CREATE ROLE "+role+" LOGIN PASSWORD '"+l.postgresPassword+"'"); err != nil {
			return err
		}
	}
	// Before PostgreSQL 14 there is no such role, and backups say what they lack.
	if err := l.postgres.Exec(ctx, "DO $$ BEGIN GRANT pg_read_all_data TO niodoo_backup; EXCEPTION WHEN undefined_object THEN NULL; END $$"); err != nil {
		return err
	}
	if err := l.postgres.Exec(ctx, "CREATE DATABASE niodoo OWNER niodoo"); err != nil {
		return err
	}
	return l.postgres.ExecIn(ctx, "niodoo", `
CREATE TABLE consciousness_events (event_id bigserial PRIMARY KEY, content text NOT NULL, emotional_state jsonb NOT NULL,
    processing_time_ms double precision NOT NULL, created_at timestamptz NOT NULL DEFAULT now());
CREATE INDEX idx_consciousness_events_created_at ON consciousness_events (created_at);
CREATE TABLE memory_entries (memory_id bigserial PRIMARY KEY, importance_score double precision NOT NULL, emotional_context jsonb NOT NULL);
CREATE INDEX idx_memory_entries_emotional_context ON memory_entries USING gin (emotional_context);
CREATE TABLE toroidal_memories (memory_id bigserial PRIMARY KEY, major_radius double precision NOT NULL, minor_radius double precision NOT NULL);
ALTER TABLE consciousness_events OWNER TO niodoo;
ALTER TABLE memory_entries OWNER TO niodoo;
ALTER TABLE toroidal_memories OWNER TO niodoo;
GRANT pg_monitor TO niodoo; -- whose maintenance looks for what is in its way
INSERT INTO consciousness_events (content, emotional_state, processing_time_ms, created_at)
    SELECT 'event ' || i, '{"joy": 0.6, "curiosity": 0.8}', 150 + i % 200, now() - i * interval '1 second' FROM generate_series(1, 5000) AS i;
INSERT INTO memory_entries (importance_score, emotional_context) SELECT (i % 100) / 100.0, '{"emotion": "curiosity"}' FROM generate_series(1, 1250) AS i;
INSERT INTO toroidal_memories (major_radius, minor_radius) SELECT 3, 1 FROM generate_series(1, 500);
ANALYZE consciousness_events, memory_entries, toroidal_memories`)
}

// postgresDSN is how the application connects.
func (l *lab) postgresDSN() string {
	return fmt.Sprintf("host=127.0.0.1 port=%d user=niodoo password=%s dbname=niodoo sslmode=disable connect_timeout=2 application_name=consciousness-engine",
		l.postgres.Port, l.postgresPassword)
}

// loadPostgres writes and reads a little, as the engine would, until ctx ends.
// The table stays about as large as it is. A server that is gone is tried
// again at the same pace.
func (l *lab) loadPostgres(ctx context.Context) {
	var conn *pgx.Conn
	defer func() { closePostgres(conn) }()
	every(ctx, loadInterval, func(ctx context.Context) {
		if conn == nil || conn.IsClosed() {
			var err error
			if conn, err = pgx.Connect(ctx, l.postgresDSN()); err != nil {
				conn = nil
				return
			}
		}
		_, err := conn.Exec(ctx, `INSERT INTO consciousness_events (content, emotional_state, processing_time_ms) VALUES ('event', '{"joy": 0.6}', $1)`, 100+200*rand.Float64())
		if err == nil {
			_, err = conn.Exec(ctx, `SELECT count(*), avg(processing_time_ms) FROM consciousness_events WHERE created_at > now() - interval '1 minute'`)
		}
		if err == nil {
			_, err = conn.Exec(ctx, `DELETE FROM consciousness_events WHERE event_id = (SELECT min(event_id) FROM consciousness_events)`)
		}
		if err != nil {
			closePostgres(conn)
			conn = nil
		}
	})
}

func closePostgres(conn *pgx.Conn) {
	if conn == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = conn.Close(ctx)
}

// loadRedis keeps a few emotional states until ctx ends, with hits and misses.
func (l *lab) loadRedis(ctx context.Context, address string) {
	client := redis.NewClient(&redis.Options{Addr: address, Password: l.redisPassword, PoolSize: 2, ContextTimeoutEnabled: true, DisableIdentity: true})
	defer func() { _ = client.Close() }()
	every(ctx, loadInterval, func(ctx context.Context) {
		key := fmt.Sprintf("emotional_state:%d", rand.IntN(500))
		client.Set(ctx, key, `{"emotion":"joy","intensity":0.8}`, time.Hour)
		client.Get(ctx, key)
		client.Get(ctx, fmt.Sprintf("emotional_state:%d", rand.IntN(600))) // some of these were never set
	})
}

// every calls f at an interval until ctx ends; a call takes 5 s at most.
func every(ctx context.Context, interval time.Duration, f func(context.Context)) {
	t := time.NewTicker(interval)
	defer t.Stop()
	for {
		bounded, cancel := context.WithTimeout(ctx, 5*time.Second)
		f(bounded)
		cancel()
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
	}
}
