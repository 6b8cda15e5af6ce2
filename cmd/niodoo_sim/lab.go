// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/alicebob/miniredis/v2"
	"golang.org/x/sync/errgroup"

	"github.com/niodoo/niodoo_exporter/internal/localserver"
	"github.com/niodoo/niodoo_exporter/internal/sim"
)

// lab is everything that run and demo start, in a directory of its own.
type lab struct {
	dir     string
	guard   *guardian
	source  string // what is backed up, "" for nothing
	stack   *sim.Stack
	control *sim.Server

	postgres *localserver.Postgres
	standby  *localserver.Postgres // of postgres; nil until a fault needs it
	redis    *localserver.Redis
	embedded *miniredis.Miniredis // where redis-server is not installed
	machine  *machine             // nil: the lab is on the machine as it is
	wire     *wire                // to PostgreSQL; nil: there is none
	front    *front               // speaks TLS for Grafana; nil: there is none
	exporter *exporter            // nil: nobody watches
	missing  []string             // what is not there, one sentence each

	postgresPassword, redisPassword string // of the application

	// config is the exporter's configuration for all of it.
	config string

	ctx    context.Context // ends when the lab stops
	cancel context.CancelFunc
	work   sync.WaitGroup

	logs    context.CancelFunc // ends the writing of logs
	heartMu sync.Mutex
	heart   heart
}

// start starts what the options ask for. A lab that could not be started
// whole leaves nothing running.
func (o *options) start(ctx context.Context) (_ *lab, err error) {
	l := &lab{postgresPassword: rand.Text(), redisPassword: rand.Text()}
	l.ctx, l.cancel = context.WithCancel(ctx)
	defer func() {
		if err != nil {
			l.stop()
		}
	}()
	if l.dir, err = os.MkdirTemp("", "niodoo-sim-"); err != nil {
		return nil, err
	}
	if l.guard, err = newGuardian(l.dir); err != nil {
		return nil, err
	}
	if err := l.makeDirs(); err != nil {
		return nil, err
	}
	if o.dockerSocket {
		o.sim.DockerSocket = l.path("docker.sock")
	}
	if o.machine {
		o.sim.OllamaCanary = 2 * time.Second
	}
	if l.stack, err = sim.New(o.sim); err != nil {
		return nil, err
	}
	if o.machine {
		if err := l.startMachine(); err != nil {
			return nil, err
		}
	}
	sections := []string{"# The configuration of niodoo_exporter for a simulated stack.\n", l.stackSections()}
	if o.databases {
		if err := l.startDatabases(); err != nil {
			return nil, err
		}
	}
	databases, err := l.databaseSections()
	if err != nil {
		return nil, err
	}
	l.config = strings.Join(append(append(sections, databases...), l.localSections()...), "")
	if l.control, err = sim.Listen(l.stack.Control(), o.control); err != nil {
		return nil, err
	}
	if err := l.stack.WriteBackups(l.path("backups")); err != nil {
		return nil, err
	}
	l.startLogs()
	if o.exporterPath != "" {
		if err := l.startExporter(o); err != nil {
			return nil, err
		}
	}
	for _, f := range labFaults(l) {
		l.stack.AddFault(f)
	}
	for _, name := range o.faults {
		if err := l.stack.Inject(name); err != nil {
			return nil, err
		}
	}
	return l, nil
}

func (l *lab) path(name string) string { return filepath.Join(l.dir, name) }

// makeDirs makes the directories of the local collectors. The lab's own lets
// the database's user pass.
func (l *lab) makeDirs() error {
	errs := []error{os.Chmod(l.dir, 0o711)}
	for _, name := range []string{"logs", "backups", "state", "secrets"} {
		errs = append(errs, os.Mkdir(l.path(name), 0o700))
	}
	return errors.Join(append(errs, l.makeSource())...)
}

// shm is where Linux has a device other than that of temporary files.
const shm = "/dev/shm"

// makeSource makes the directory that is backed up. It must be on another
// device than the backups, or the stack would not be well; where there is none,
// there is no such directory.
func (l *lab) makeSource() error {
	dir, err := os.MkdirTemp(shm, "niodoo-source-")
	if err != nil {
		return nil
	}
	l.guard.add(dir)
	l.source = dir
	return errors.Join(os.WriteFile(filepath.Join(dir, "memories.json"), []byte(`{"layers": 6}`+"\n"), 0o600), os.Symlink(dir, l.path("source")))
}

// startDatabases starts the real servers, side by side. A program that is not
// installed is no failure.
func (l *lab) startDatabases() error {
	var postgresErr, redisErr error
	g, ctx := errgroup.WithContext(l.ctx)
	g.Go(func() error {
		l.postgres, postgresErr = localserver.StartPostgres(ctx, localserver.PostgresOptions{Dir: l.dir, Settings: postgresSettings})
		if postgresErr != nil {
			return unless(postgresErr, localserver.ErrNotInstalled)
		}
		l.guard.add(l.postgres.SocketDir)
		if err := l.furnishPostgres(ctx); err != nil {
			return fmt.Errorf("preparing PostgreSQL: %w", err)
		}
		l.work.Go(func() { l.loadPostgres(l.ctx) })
		return nil
	})
	g.Go(func() error {
		l.redis, redisErr = localserver.StartRedis(ctx, localserver.RedisOptions{
			Password: l.redisPassword,
			ACL:      []string{"user niodoo_monitor on >" + l.redisPassword + " -@all +ping +info +slowlog|len +cluster|info +sync +replconf"},
			Config:   []string{"maxmemory " + redisMemory, "maxmemory-policy " + redisPolicy},
		})
		address := ""
		switch {
		case redisErr == nil:
			l.guard.add(l.redis.Dir)
			address = l.redis.Addr
		case errors.Is(redisErr, localserver.ErrNotInstalled):
			l.embedded = miniredis.NewMiniRedis()
			l.embedded.RequireAuth(l.redisPassword)
			if err := l.embedded.StartAddr("127.0.0.1:0"); err != nil {
				return fmt.Errorf("starting the embedded Redis: %w", err)
			}
			address = l.embedded.Addr()
		default:
			return redisErr
		}
		l.work.Go(func() { l.loadRedis(l.ctx, address) })
		return nil
	})
	if err := g.Wait(); err != nil {
		return err
	}
	if postgresErr != nil {
		l.missing = append(l.missing, fmt.Sprintf("There is no PostgreSQL: %v.", postgresErr))
	}
	if redisErr != nil {
		l.missing = append(l.missing, fmt.Sprintf("Redis is an embedded one that knows little of itself: %v.", redisErr))
	}
	return nil
}

// unless is err, or nil if it is the expected one.
func unless(err, expected error) error {
	if errors.Is(err, expected) {
		return nil
	}
	return err
}

// databaseSections are the configuration's sections of PostgreSQL and Redis.
func (l *lab) databaseSections() ([]string, error) {
	off := map[string]any{"enabled": false}
	postgres, redis := off, off
	if l.postgres != nil {
		file, err := l.secret("postgresql", l.postgresPassword)
		if err != nil {
			return nil, err
		}
		postgres = map[string]any{"host": "127.0.0.1", "port": l.postgres.Port, "sslmode": "disable", "password_file": file}
		if l.machine != nil {
			if l.wire, err = newWire(fmt.Sprintf("127.0.0.1:%d", l.postgres.Port), nil); err != nil {
				return nil, err
			}
			postgres["port"], postgres["login_interval"] = l.wire.port(), "2s"
		}
	}
	switch {
	case l.redis != nil:
		file, err := l.secret("redis", l.redisPassword)
		if err != nil {
			return nil, err
		}
		redis = map[string]any{"address": l.redis.Addr, "username": "niodoo_monitor", "password_file": file}
	case l.embedded != nil:
		file, err := l.secret("redis", l.redisPassword)
		if err != nil {
			return nil, err
		}
		redis = map[string]any{"address": l.embedded.Addr(), "password_file": file}
	}
	return []string{sim.Section("postgresql", postgres), sim.Section("redis", redis)}, nil
}

func (l *lab) secret(name, value string) (string, error) {
	path := filepath.Join(l.path("secrets"), name)
	return path, os.WriteFile(path, []byte(value+"\n"), 0o600)
}

// localSections are the configuration's sections about this machine.
func (l *lab) localSections() []string {
	host := []string{sim.Section("host", map[string]any{"paths": []string{l.dir}})}
	if l.machine != nil {
		host = l.machine.sections()
	}
	backup := map[string]any{"directory": l.path("backups"), "sources": map[string]string{"data": l.path("source")},
		"retention": map[string]int{"daily": 7, "weekly": 4}}
	sections := slices.Concat(host, []string{
		sim.Section("logs", map[string]any{"paths": []string{l.path("logs") + "/*.log"}}),
		sim.Section("operations", map[string]any{"state_dir": l.path("state")}),
	})
	if l.postgres != nil { // niodooctl's own roles: the exporter's may not read the tables
		file := filepath.Join(l.path("secrets"), "postgresql")
		backup["user"], backup["password_file"] = "niodoo_backup", file
		sections = append(sections, sim.Section("maintenance", map[string]any{"user": "niodoo", "password_file": file}))
	}
	return append(sections, sim.Section("backup", backup))
}

// startMachine starts the machine below the stack, and what stands between the
// exporter and the services.
func (l *lab) startMachine() (err error) {
	if l.machine, err = newMachine(l.path("machine")); err != nil {
		return err
	}
	if l.machine.disk == "" {
		l.missing = append(l.missing, "There is no disk to fill: this user may not mount one.")
	} else {
		l.guard.unmount(l.machine.disk)
	}
	l.work.Go(func() { l.machine.run(l.ctx) })
	l.work.Go(func() { l.beatOn(l.ctx) })
	if grafana := l.stack.Address("grafana"); grafana != "" {
		l.front, err = newFront(grafana, l.path("secrets/ca.pem"))
	}
	return err
}

// stackSections are the configuration's sections of the simulated services.
// Where Grafana has a front, it is asked there.
func (l *lab) stackSections() string {
	config := l.stack.Config()
	if l.front == nil {
		return config
	}
	plain := sim.Section("grafana", map[string]any{"url": l.stack.URL("grafana")})
	return strings.Replace(config, plain, sim.Section("grafana", map[string]any{"url": fmt.Sprintf("https://127.0.0.1:%d", l.front.port()),
		"tls_config": map[string]any{"ca_file": l.front.caFile}}), 1)
}

// startLogs lets the stack write its logs, until the lab stops or stopLogs.
func (l *lab) startLogs() {
	ctx, cancel := context.WithCancel(l.ctx)
	l.logs = cancel
	l.work.Go(func() { _ = l.stack.WriteLogs(ctx, l.path("logs")) }) // a full disk ends the logs, not the lab
}

func (l *lab) stopLogs() { l.logs() }

func (l *lab) databaseAddresses() []string {
	var lines []string
	if l.postgres != nil {
		lines = append(lines, fmt.Sprintf("postgresql\t127.0.0.1:%d", l.postgres.Port))
	}
	if l.redis != nil {
		lines = append(lines, "redis\t"+l.redis.Addr)
	}
	if l.embedded != nil {
		lines = append(lines, "redis\t"+l.embedded.Addr()+" (embedded)")
	}
	return lines
}

// stop stops everything and removes the lab's directory. It undoes what start
// did, as far as that came.
func (l *lab) stop() {
	l.cancel()
	if l.control != nil {
		l.control.Close()
	}
	if l.stack != nil {
		l.stack.Close() // no fault is injected or lifted from here on
	}
	if l.exporter != nil {
		l.exporter.stop()
	}
	if l.redis != nil {
		l.redis.Stop()
	}
	if l.standby != nil {
		l.standby.Stop()
	}
	if l.postgres != nil {
		l.postgres.Stop()
	}
	l.work.Wait()
	if l.wire != nil {
		l.wire.close()
	}
	if l.front != nil {
		l.front.close()
	}
	if l.embedded != nil {
		l.embedded.Close()
	}
	if l.machine != nil && l.machine.disk != "" {
		_ = l.machine.unmount()
	}
	if l.dir != "" {
		_ = os.RemoveAll(l.dir)
	}
	if l.guard != nil {
		l.guard.dismiss()
	}
}
