// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/niodoo/niodoo_exporter/internal/localserver"
	"github.com/niodoo/niodoo_exporter/internal/sim"
	"github.com/niodoo/niodoo_exporter/internal/thresholds"
)

// Stack is a whole stack: simulated services and a real PostgreSQL and Redis.
type Stack struct {
	*sim.Stack
	Postgres *localserver.Postgres
	Redis    *localserver.Redis
	// Dir is a directory of the test's; niodooctl's state is in its folder state,
	// and Thresholds in its file thresholds.json.
	Dir string
	// Config is the configuration that finds all of it, in YAML. What is read
	// of the machine itself is off: it is as busy as it is.
	Config string
}

// Thresholds are those that are built in, but for one that a loaded machine
// crosses.
func Thresholds() thresholds.Set {
	s := thresholds.Default()
	slow := s["database_response_seconds"]
	slow.Warning = new(patience.Seconds())
	s["database_response_seconds"] = slow
	return s
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
	limits, err := json.Marshal(Thresholds())
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.WriteFile(filepath.Join(s.Dir, "thresholds.json"), limits, 0o600), s.Postgres.Exec(t.Context(), "CREATE DATABASE niodoo"), s.Postgres.CreateMonitor(t.Context(), "s3cret"),
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
