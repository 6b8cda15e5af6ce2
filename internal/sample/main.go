// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

// Command sample prints one real scrape of the exporter on a simulated stack
// with a real PostgreSQL and Redis: what the mixin's tests replay to prove
// that every panel shows something. The scrape's time is its first line.
//
//	go run ./internal/sample bin/niodoo_exporter > mixin/testdata/scrape.prom
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/niodoo/niodoo_exporter/internal/localserver"
	"github.com/niodoo/niodoo_exporter/internal/opstate"
	"github.com/niodoo/niodoo_exporter/internal/sim"
)

// settle is how long the stack is watched before the scrape that counts:
// rates, logs and a login need more than one look.
const settle = 20 * time.Second

// events gives PostgreSQL a table; a part of it is deleted again, which leaves dead rows.
const events = `CREATE TABLE consciousness_events (event_id bigint PRIMARY KEY, content text);
INSERT INTO consciousness_events SELECT i, 'event ' || i FROM generate_series(1, 10000) i`

func main() {
	err := errors.New("usage: sample PATH_OF_NIODOO_EXPORTER")
	if len(os.Args) == 2 {
		err = run(context.Background(), os.Args[1], os.Stdout)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context, exporter string, out io.Writer) (err error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	dir, err := os.MkdirTemp("", "niodoo-sample-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()

	stack, err := sim.New(sim.Options{Seed: 1, Age: 26 * time.Hour, DockerSocket: filepath.Join(dir, "docker.sock"),
		Engine: sim.EngineOptions{Metrics: "text", Processing: "histogram", Memory: "flat"}})
	if err != nil {
		return err
	}
	defer stack.Close()
	redis, err := localserver.StartRedis(ctx, localserver.RedisOptions{Config: []string{"maxmemory 64mb", "appendonly yes"}})
	if err != nil {
		return err
	}
	defer redis.Stop()
	postgres, err := localserver.StartPostgres(ctx, localserver.PostgresOptions{})
	if err != nil {
		return err
	}
	defer postgres.Stop()
	const password = "sample"
	if err := errors.Join(postgres.Exec(ctx, "CREATE DATABASE niodoo"), postgres.CreateMonitor(ctx, password),
		postgres.ExecIn(ctx, "niodoo", events), postgres.ExecIn(ctx, "niodoo", "VACUUM ANALYZE consciousness_events"),
		postgres.ExecIn(ctx, "niodoo", "DELETE FROM consciousness_events WHERE event_id % 10 = 0")); err != nil {
		return err
	}

	config, err := files(ctx, dir, stack, password)
	if err != nil {
		return err
	}
	config += stack.Config() +
		sim.Section("redis", map[string]any{"address": redis.Addr}) +
		sim.Section("postgresql", map[string]any{"host": "127.0.0.1", "port": postgres.Port, "password_file": filepath.Join(dir, "password"),
			"sslmode": "disable", "login_interval": "5s"})
	path := filepath.Join(dir, "niodoo.yml")
	if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
		return err
	}
	address, err := freeAddress()
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, exporter, "--config.file="+path, "--web.listen-address="+address)
	cmd.Stderr = os.Stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	if err := cmd.Start(); err != nil {
		return err
	}
	defer func() {
		cancel()
		_ = cmd.Wait() // ends by the signal
	}()
	return watch(ctx, "http://"+address, out)
}

// files writes what the local collectors read and returns their sections of the configuration.
func files(ctx context.Context, dir string, stack *sim.Stack, password string) (string, error) {
	logs, backups, state := filepath.Join(dir, "logs"), filepath.Join(dir, "backups"), filepath.Join(dir, "state")
	for _, d := range []string{logs, backups, state} {
		if err := os.Mkdir(d, 0o755); err != nil {
			return "", err
		}
	}
	if err := errors.Join(os.WriteFile(filepath.Join(dir, "password"), []byte(password), 0o600), stack.WriteBackups(backups), operations(ctx, state)); err != nil {
		return "", err
	}
	go func() { // until the process ends
		if err := stack.WriteLogs(ctx, logs); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
	}()
	return sim.Section("logs", map[string]any{"paths": []string{filepath.Join(logs, "*.log")}}) +
		sim.Section("backup", map[string]any{"directory": backups, "sources": map[string]string{"data": logs}}) +
		sim.Section("operations", map[string]any{"state_dir": state}), nil
}

// operations leaves what niodooctl leaves after an ordinary week.
func operations(ctx context.Context, dir string) error {
	now := time.Now()
	ago := func(d time.Duration) time.Time { return now.Add(-d) }
	const day = 24 * time.Hour
	return errors.Join(
		opstate.Update(ctx, dir, func(d *opstate.Health) error {
			*d = opstate.Health{Finished: ago(5 * time.Minute), Seconds: 0.4, Verdict: opstate.Well,
				Components: map[string]opstate.Verdict{"engine": opstate.Well, "postgresql": opstate.Well, "redis": opstate.Well, "ollama": opstate.Well}}
			return nil
		}),
		opstate.Update(ctx, dir, func(d *opstate.Maintenance) error {
			d.Record("vacuum", opstate.Step{Started: ago(5 * time.Hour), Seconds: 12, Result: opstate.StepOK, Interval: day.Seconds()})
			d.Record("reindex", opstate.Step{Started: ago(3 * day), Seconds: 140, Result: opstate.StepOK, Interval: 7 * day.Seconds()})
			return nil
		}),
		opstate.Update(ctx, dir, func(d *opstate.Drills) error {
			d.Record(opstate.Drills{Finished: ago(10 * day), OK: true, Recovery: 310, Backup: "niodoo_backup_20261101_020000"})
			return nil
		}),
		opstate.Update(ctx, dir, func(d *opstate.Incidents) error {
			id := "INC-20261120-100000"
			return errors.Join(d.Add(opstate.Incident{ID: id, Priority: "P2", Title: "Slow retrieval", Opened: ago(3 * day)}),
				d.Acknowledge(id, ago(3*day-10*time.Minute)), d.Close(id, ago(3*day-time.Hour)))
		}),
		opstate.Update(ctx, dir, func(d *opstate.Heartbeat) error {
			*d = opstate.Heartbeat{Listening: now, Received: ago(30 * time.Second), Peers: map[string]time.Time{"niodoo-2": ago(20 * time.Second)}}
			return nil
		}),
	)
}

// watch scrapes for a while and prints the last scrape.
func watch(ctx context.Context, base string, out io.Writer) error {
	t := time.NewTicker(2 * time.Second)
	defer t.Stop()
	var text string
	for end := time.Now().Add(settle); time.Now().Before(end); {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-t.C:
		}
		got, err := scrape(ctx, base+"/metrics")
		if err != nil {
			fmt.Fprintln(os.Stderr, err) // it may yet start
			continue
		}
		text = got
	}
	if text == "" {
		return errors.New("the exporter never answered")
	}
	_, err := fmt.Fprintf(out, "# Scraped at %d.\n%s", time.Now().Unix(), text)
	return err
}

func scrape(ctx context.Context, url string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return "", err
	}
	if res.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%s answered %s", url, res.Status)
	}
	return string(body), nil
}

func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}
