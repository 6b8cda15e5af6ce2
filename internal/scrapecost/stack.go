// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

// Package scrapecost measures what a scrape of a whole stack costs the process
// that answers it. The stack, the scraper and the exporter are processes of
// their own, so that nobody's work is counted as another's.
package scrapecost

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/niodoo/niodoo_exporter/internal/localserver"
	"github.com/niodoo/niodoo_exporter/internal/sim"
)

// Services are the components of the stack that are spoken to over HTTP, and
// the path of the health check that the operations manual makes of each.
var Services = []struct{ Name, Health string }{
	{"engine", "/health"},
	{"ollama", "/api/version"},
	{"qdrant", "/healthz"},
	{"prometheus", "/-/healthy"},
	{"grafana", "/api/health"},
}

// Slow is how much longer a simulated service takes that a fault makes slow.
const Slow = 200 * time.Millisecond

// password is that of the monitoring role on the stack's PostgreSQL server.
const password = "scrapecost"

// Stack is a whole stack: real PostgreSQL and Redis servers, the rest simulated
// in this process.
type Stack struct {
	Postgres *localserver.Postgres
	Redis    *localserver.Redis
	HTTP     *sim.Stack
	dir      string
}

// StartStack starts a stack with some data in it.
func StartStack(ctx context.Context) (*Stack, error) {
	s := &Stack{}
	if err := s.start(ctx); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

func (s *Stack) start(ctx context.Context) error {
	var err error
	if s.dir, err = os.MkdirTemp("", "scrapecost"); err != nil {
		return err
	}
	var names []string
	for _, svc := range Services {
		names = append(names, svc.Name)
	}
	if s.HTTP, err = sim.New(sim.Options{Seed: 1, Only: names, Slow: Slow}); err != nil {
		return err
	}
	if s.Redis, err = localserver.StartRedis(ctx, localserver.RedisOptions{}); err != nil {
		return err
	}
	if s.Postgres, err = localserver.StartPostgres(ctx, localserver.PostgresOptions{}); err != nil {
		return err
	}
	if err := s.Postgres.Exec(ctx, "CREATE DATABASE niodoo"); err != nil {
		return err
	}
	if err := s.Postgres.CreateMonitor(ctx, password); err != nil {
		return err
	}
	if err := s.Postgres.ExecIn(ctx, "niodoo", "CREATE TABLE memories (id int PRIMARY KEY, body text);"+
		"INSERT INTO memories SELECT i, md5(i::text) FROM generate_series(1, 10000) i; ANALYZE"); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(s.dir, "password"), []byte(password), 0o600)
}

// Config writes the exporter's configuration, with further sections in YAML,
// and returns its path. Logs, backups and operations are not watched: the
// exporters that ours is compared with cannot.
func (s *Stack) Config(more string) (string, error) {
	var b strings.Builder
	b.WriteString(s.HTTP.Config())
	for _, section := range []struct {
		name string
		keys map[string]any
	}{
		{"postgresql", map[string]any{"host": "127.0.0.1", "port": s.Postgres.Port, "sslmode": "disable",
			"password_file": filepath.Join(s.dir, "password")}},
		{"redis", map[string]any{"address": s.Redis.Addr}},
		{"logs", map[string]any{"enabled": false}},
		{"backup", map[string]any{"enabled": false}},
		{"operations", map[string]any{"enabled": false}},
	} {
		b.WriteString(sim.Section(section.name, section.keys))
	}
	b.WriteString(more)
	path := filepath.Join(s.dir, "niodoo.yml")
	return path, os.WriteFile(path, []byte(b.String()), 0o600)
}

// DataSource is how postgres_exporter is told to log in.
func (s *Stack) DataSource() string {
	return fmt.Sprintf("postgresql://niodoo_monitor:%s@%s/niodoo?sslmode=disable", password,
		net.JoinHostPort("127.0.0.1", strconv.Itoa(s.Postgres.Port)))
}

// Close ends the stack and removes its files.
func (s *Stack) Close() {
	if s.HTTP != nil {
		s.HTTP.Close()
	}
	if s.Redis != nil {
		s.Redis.Stop()
	}
	if s.Postgres != nil {
		s.Postgres.Stop()
	}
	if s.dir != "" {
		_ = os.RemoveAll(s.dir) // what is left is in the temporary directory
	}
}
