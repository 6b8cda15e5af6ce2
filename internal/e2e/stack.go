// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/niodoo/niodoo_exporter/internal/localserver"
	"github.com/niodoo/niodoo_exporter/internal/sim"
)

// Stack is a whole stack: simulated services and a real PostgreSQL and Redis.
type Stack struct {
	*sim.Stack
	Postgres *localserver.Postgres
	Redis    *localserver.Redis
	// Dir is a directory of the test's; niodooctl's state is in its folder state.
	Dir string
	// Config is the configuration that finds all of it, in YAML. What is read
	// of the machine itself is off: it is as busy as it is.
	Config string
}

// stackServices are those that a plain configuration requires, and qdrant.
var stackServices = []string{"engine", "ollama", "qdrant", "prometheus", "grafana"}

// StartStack runs a stack until the test ends.
func StartStack(t testing.TB) *Stack {
	t.Helper()
	s := &Stack{Dir: t.TempDir()}
	var err error
	if s.Stack, err = sim.New(sim.Options{Seed: 1, Age: 26 * time.Hour, Only: stackServices,
		Engine: sim.EngineOptions{Metrics: "text", Processing: "histogram", Memory: "flat"}}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	if s.Redis, err = localserver.StartRedis(t.Context(), localserver.RedisOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Redis.Stop)
	if s.Postgres, err = localserver.StartPostgres(t.Context(), localserver.PostgresOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Postgres.Stop)
	password := filepath.Join(s.Dir, "password")
	if err := errors.Join(s.Postgres.Exec(t.Context(), "CREATE DATABASE niodoo"), s.Postgres.CreateMonitor(t.Context(), "s3cret"),
		os.WriteFile(password, []byte("s3cret"), 0o600), os.Mkdir(filepath.Join(s.Dir, "state"), 0o755)); err != nil {
		t.Fatal(err)
	}
	off := map[string]any{"enabled": false}
	s.Config = strings.Join([]string{
		s.Stack.Config(),
		sim.Section("redis", map[string]any{"address": s.Redis.Addr}),
		sim.Section("postgresql", map[string]any{"host": "127.0.0.1", "port": s.Postgres.Port, "password_file": password, "sslmode": "disable"}),
		sim.Section("operations", map[string]any{"state_dir": filepath.Join(s.Dir, "state")}),
		sim.Section("host", off), sim.Section("logs", off), sim.Section("backup", off),
	}, "")
	return s
}
