// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package localserver

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/niodoo/niodoo_exporter/examples/postgresql"
)

// PostgresSuperuser is the superuser of a started server. It may log in
// without a password, and only through the socket, whose directory no other
// user of the machine can enter.
const PostgresSuperuser = "postgres"

// PostgresOptions say how a PostgreSQL server is to be.
type PostgresOptions struct {
	// Dir is an existing directory below which the server keeps its data;
	// "" is the system's temporary directory.
	Dir string
	// Settings go into postgresql.conf, as they are to stand there.
	Settings map[string]string
	// HBA are lines for the beginning of pg_hba.conf. After them, every role
	// logs in with its password.
	HBA []string
	// StandbyOf makes the server a streaming standby of another one.
	StandbyOf *Postgres
	// Scratch is an existing directory with a short path in which the server
	// keeps all that it has, the socket too; then it has no TCP port, and nothing
	// is left in or taken from a cache.
	Scratch string
	// Programs is the directory of PostgreSQL's programs; "" finds the newest.
	Programs string
}

// Postgres is a running PostgreSQL server. It listens on 127.0.0.1:Port and on
// the socket in SocketDir.
type Postgres struct {
	*Process
	// Port is the same after a restart.
	Port int
	// SocketDir is what libpq takes as a host.
	SocketDir string
	// DataDir belongs to the user that the server runs as.
	DataDir string

	bin   string
	base  string // holds DataDir
	owner *syscall.Credential
}

// StartPostgres starts a PostgreSQL server with an empty data directory and
// waits until it answers. Stop removes it.
func StartPostgres(ctx context.Context, o PostgresOptions) (*Postgres, error) {
	p := &Postgres{bin: o.Programs}
	if p.bin == "" {
		server, err := find("postgres", "postgresql", postgresDirs()...)
		if err != nil {
			return nil, err
		}
		p.bin = filepath.Dir(server)
	}
	var err error
	if p.owner, err = unprivileged("postgres"); err != nil {
		return nil, err
	}
	if err := p.create(ctx, o); err != nil {
		p.remove()
		return nil, err
	}
	for tries := 1; ; tries++ {
		if err = p.configure(o); err == nil {
			err = p.start(ctx)
		}
		if err == nil {
			return p, nil
		}
		// A port that was free may be another server's by the time ours asks for it.
		if tries == 3 || !strings.Contains(err.Error(), "Address already in use") {
			p.remove()
			return nil, err
		}
	}
}

// postgresDirs returns where Debian keeps the servers' programs, newest version first.
func postgresDirs() []string {
	dirs, _ := filepath.Glob("/usr/lib/postgresql/*/bin")
	slices.SortFunc(dirs, func(a, b string) int { return postgresVersionOf(b) - postgresVersionOf(a) })
	return dirs
}

func postgresVersionOf(bin string) int {
	v, _ := strconv.Atoi(filepath.Base(filepath.Dir(bin)))
	return v
}

// create makes the directories and the files in them.
func (p *Postgres) create(ctx context.Context, o PostgresOptions) error {
	var err error
	// A socket's path has at most 107 bytes; those of tests' directories are longer.
	sockets := "/tmp"
	if o.Scratch != "" {
		o.Dir, sockets = o.Scratch, o.Scratch
	}
	if p.base, err = os.MkdirTemp(o.Dir, "pg"); err != nil {
		return err
	}
	if err := p.reachable(p.base); err != nil {
		return err
	}
	if p.SocketDir, err = os.MkdirTemp(sockets, "pg"); err != nil {
		return err
	}
	p.DataDir = filepath.Join(p.base, "data")
	if err := errors.Join(p.chown(p.base), p.chown(p.SocketDir)); err != nil {
		return err
	}
	switch {
	case o.Scratch != "":
		err = p.initdb(ctx, p.DataDir)
	case o.StandbyOf != nil:
		err = p.run(ctx, "pg_basebackup", "-h", o.StandbyOf.SocketDir, "-p", strconv.Itoa(o.StandbyOf.Port),
			"-U", PostgresSuperuser, "-D", p.DataDir, "-R", "-X", "stream", "-c", "fast", "-N")
	default:
		err = p.initialize(ctx)
	}
	return err
}

// configure chooses a port and writes postgresql.conf and pg_hba.conf anew.
// Nothing that is written has to outlive a crash of the machine, but what is
// committed outlives the one that Kill makes.
func (p *Postgres) configure(o PostgresOptions) error {
	listen := "127.0.0.1"
	if o.Scratch != "" {
		listen, p.Port = "", 5432
	} else {
		var err error
		if p.Port, err = freePort(); err != nil {
			return err
		}
	}
	settings := map[string]string{
		"listen_addresses":        "'" + listen + "'",
		"port":                    strconv.Itoa(p.Port),
		"unix_socket_directories": "'" + p.SocketDir + "'",
		"unix_socket_permissions": "0777", // the directory keeps others out
		"fsync":                   "off",
		"full_page_writes":        "off",
		"shared_buffers":          "16MB",
		"max_connections":         "40",
		"log_min_messages":        "warning",
	}
	maps.Copy(settings, o.Settings)
	var conf strings.Builder
	for _, k := range slices.Sorted(maps.Keys(settings)) {
		fmt.Fprintf(&conf, "%s = %s\n", k, settings[k])
	}
	hba := slices.Concat([]string{"local all " + PostgresSuperuser + " trust", "local replication " + PostgresSuperuser + " trust"},
		o.HBA, []string{"local all all scram-sha-256", "host all all 127.0.0.1/32 scram-sha-256"})
	for name, content := range map[string]string{
		"postgresql.conf": conf.String(),
		"pg_hba.conf":     strings.Join(hba, "\n") + "\n",
	} {
		path := filepath.Join(p.DataDir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			return err
		}
		if err := p.chown(path); err != nil {
			return err
		}
	}
	return nil
}

// start starts the server on its data directory.
func (p *Postgres) start(ctx context.Context) error {
	process, err := start(ctx, launch{
		path: filepath.Join(p.bin, "postgres"), args: []string{"-D", p.DataDir}, dir: p.DataDir, owner: p.owner,
		ready: func(ctx context.Context) error { return p.Exec(ctx, "SELECT") },
	})
	if err == nil { // or the one that ended stays, for Stop
		p.Process = process
	}
	return err
}

// Stop ends the server at once, its sessions included, and removes its files.
func (p *Postgres) Stop() {
	p.Continue()
	p.stop(syscall.SIGQUIT)
	p.remove()
}

// Kill ends the server as a crash would. Its files stay, for Restart.
func (p *Postgres) Kill() {
	p.Continue()
	p.Process.Kill()
}

// Shutdown ends the server in order and keeps its files, for Restart.
func (p *Postgres) Shutdown() {
	p.Continue()
	p.stop(syscall.SIGINT)
}

// Restart starts the server again on the same port and data, after an orderly
// shutdown if it still runs.
func (p *Postgres) Restart(ctx context.Context) error {
	p.Shutdown()
	return p.start(ctx)
}

// Hang stops every process of the server where it is: connections are taken by
// the kernel and nobody answers. Continue lets them go on.
func (p *Postgres) Hang() { p.signalAll(syscall.SIGSTOP) }

// Continue ends a Hang.
func (p *Postgres) Continue() { p.signalAll(syscall.SIGCONT) }

// signalAll signals the postmaster and its children: each has a process group
// of its own.
func (p *Postgres) signalAll(s syscall.Signal) {
	select {
	case <-p.exited: // its process id may be another's by now
		return
	default:
	}
	_ = p.Signal(s)
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", p.Pid(), p.Pid()))
	if err != nil {
		return
	}
	for f := range strings.FieldsSeq(string(raw)) {
		if pid, err := strconv.Atoi(f); err == nil {
			_ = syscall.Kill(pid, s)
		}
	}
}

func (p *Postgres) remove() {
	for _, dir := range []string{p.base, p.SocketDir} {
		if dir != "" {
			_ = os.RemoveAll(dir)
		}
	}
}

// Exec runs statements, separated by semicolons, as the superuser in the
// database postgres.
func (p *Postgres) Exec(ctx context.Context, sql string) error {
	return p.ExecIn(ctx, "postgres", sql)
}

// ExecIn is Exec in another database.
func (p *Postgres) ExecIn(ctx context.Context, database, sql string) error {
	c, err := p.Connect(ctx, database)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close(context.WithoutCancel(ctx)) }()
	_, err = c.Exec(ctx, sql).ReadAll()
	return err
}

// Connect opens a session of the superuser.
func (p *Postgres) Connect(ctx context.Context, database string) (*pgconn.PgConn, error) {
	cfg, err := pgconn.ParseConfig("host=/ user=x password=x sslmode=disable")
	if err != nil {
		return nil, err
	}
	cfg.Host, cfg.Port = p.SocketDir, uint16(p.Port)
	cfg.User, cfg.Password, cfg.Database = PostgresSuperuser, "", database
	cfg.RuntimeParams = map[string]string{"application_name": "localserver"}
	cfg.ConnectTimeout = 5 * time.Second
	return pgconn.ConnectConfig(ctx, cfg)
}

// CreateMonitor creates the role that the exporter logs in with, by the
// statements that the README gives, and sets its password.
func (p *Postgres) CreateMonitor(ctx context.Context, password string) error {
	literal := "'" + strings.ReplaceAll(password, "'", "''") + "'"
	if strings.Contains(password, `\`) {
		literal = " E'" + strings.NewReplacer(`\`, `\\`, "'", "''").Replace(password) + "'"
	}
	return p.Exec(ctx, postgresql.MonitorRole+"ALTER ROLE niodoo_monitor PASSWORD "+literal)
}

// initialize makes an empty data directory. initdb takes half a second and
// always writes the same: its result is kept in the user's cache and copied.
func (p *Postgres) initialize(ctx context.Context) error {
	cached, err := p.template(ctx)
	if err != nil {
		return p.initdb(ctx, p.DataDir) // no cache to write to
	}
	return p.copyTree(cached, p.DataDir)
}

func (p *Postgres) initdb(ctx context.Context, dir string) error {
	return p.run(ctx, "initdb", "-D", dir, "-N", "-A", "trust", "-U", PostgresSuperuser, "-E", "UTF8", "--locale=C", "--no-instructions")
}

// template returns the cached data directory of the installed version. Any
// number of processes may make it at once: it appears under its name whole.
func (p *Postgres) template(ctx context.Context) (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	version, err := exec.CommandContext(ctx, filepath.Join(p.bin, "postgres"), "--version").Output()
	if err != nil {
		return "", err
	}
	name := regexp.MustCompile(`[^A-Za-z0-9.]+`).ReplaceAllString(strings.TrimSpace(string(version)), "-")
	final := filepath.Join(cache, "niodoo_exporter", "initdb-C-"+name)
	if _, err := os.Stat(final); err == nil {
		return final, nil
	}
	fresh := filepath.Join(p.base, "template") // where the server's user may write
	if err := p.initdb(ctx, fresh); err != nil {
		return "", err
	}
	if err := os.MkdirAll(filepath.Dir(final), 0o700); err != nil {
		return "", err
	}
	staged, err := os.MkdirTemp(filepath.Dir(final), ".initdb")
	if err != nil {
		return "", err
	}
	defer func() { _ = os.RemoveAll(staged) }()
	ours := &Postgres{}
	if err := ours.copyTree(fresh, filepath.Join(staged, "data")); err != nil {
		return "", err
	}
	if err := os.Rename(filepath.Join(staged, "data"), final); err != nil {
		if _, exists := os.Stat(final); exists != nil {
			return "", err
		}
	}
	return final, os.RemoveAll(fresh)
}

// copyTree copies a data directory, for the server's user to own.
func (p *Postgres) copyTree(from, to string) error {
	return filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		dst := filepath.Join(to, rel)
		if d.IsDir() {
			err = os.Mkdir(dst, 0o700)
		} else {
			var raw []byte
			if raw, err = os.ReadFile(path); err == nil {
				err = os.WriteFile(dst, raw, 0o600)
			}
		}
		if err != nil {
			return err
		}
		return p.chown(dst)
	})
}

// run runs one of PostgreSQL's programs as the server's user.
func (p *Postgres) run(ctx context.Context, program string, args ...string) error {
	cmd := exec.CommandContext(ctx, filepath.Join(p.bin, program), args...)
	cmd.WaitDelay = 10 * time.Second // as in start
	cmd.Dir = p.base
	cmd.Env = append(slices.DeleteFunc(os.Environ(), func(kv string) bool { return strings.HasPrefix(kv, "PG") }), "LC_ALL=C")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: p.owner}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", program, err, strings.TrimSpace(string(out)))
	}
	return nil
}

func (p *Postgres) chown(path string) error {
	if p.owner == nil {
		return nil
	}
	return os.Lchown(path, int(p.owner.Uid), int(p.owner.Gid))
}

// reachable lets the server's user pass the directories above dir that a test
// has made for itself: those are closed to all but their owner.
func (p *Postgres) reachable(dir string) error {
	if p.owner == nil {
		return nil
	}
	tmp := filepath.Clean(os.TempDir())
	for d := filepath.Dir(dir); strings.HasPrefix(d, tmp+string(filepath.Separator)); d = filepath.Dir(d) {
		st, err := os.Stat(d)
		if err != nil {
			return err
		}
		if st.Mode()&0o001 == 0 {
			if err := os.Chmod(d, st.Mode().Perm()|0o011); err != nil {
				return err
			}
		}
	}
	return nil
}
