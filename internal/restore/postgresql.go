// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package restore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/niodoo/niodoo_exporter/internal/config"
)

// Postgres is a server into which databases are restored.
type Postgres struct {
	// Config says how it is reached, and as whom: a superuser, for the roles and
	// the owners to be what they were.
	Config config.PostgreSQL
	// Programs is where pg_restore and psql are.
	Programs Programs
	// id tells the databases of one restore from those of another.
	id string
	// scratch says that the server is a drill's: without tablespaces.
	scratch bool
}

// ErrRestore says that a dump is whole, and PostgreSQL cannot restore it.
var ErrRestore = errors.New("the dump cannot be restored")

// surroundings are what PostgreSQL says when the machine is at fault and not
// the dump: a full disk, an extension that is not installed, programs too old.
var surroundings = regexp.MustCompile(`No space left on device|extension control file|extension ".*" is not available|could not (access|load library|open shared memory)|` +
	`unsupported version|out of memory|terminating connection|server closed the connection|could not connect|connection to server|Cannot allocate memory`)

// cannot says of a failure of pg_restore or psql that the dump is at fault, if it is.
func cannot(ctx context.Context, err error) error {
	if err == nil || ctx.Err() != nil || surroundings.MatchString(err.Error()) {
		return err
	}
	if _, ok := errors.AsType[*exec.ExitError](err); !ok {
		return err
	}
	return fmt.Errorf("%w: %w", ErrRestore, err)
}

const (
	// maintenanceDB is where one connects to that renames databases.
	maintenanceDB = "postgres"
	// terminateWait bounds the wait for a session to end, in milliseconds.
	terminateWait = 10000
	maxIdentifier = 63
)

// containerPrefix marks a pg_dump that is run in a container.
const containerPrefix = "container:"

// Programs runs PostgreSQL's programs.
type Programs struct {
	dir, container string
}

// NewPrograms returns the programs that lie beside the configured pg_dump, which
// is a path, a name in PATH, or container:NAME.
func NewPrograms(pgDump string) (Programs, error) {
	if name, ok := strings.CutPrefix(pgDump, containerPrefix); ok {
		return Programs{container: name}, nil
	}
	path, err := exec.LookPath(pgDump)
	if err != nil {
		return Programs{}, fmt.Errorf("backup.pg_dump: %w: install the package postgresql-client, or name the program", err)
	}
	return Programs{dir: filepath.Dir(path)}, nil
}

// command returns a program to run. Nothing of the environment says where to:
// the arguments do.
func (p Programs) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	var c *exec.Cmd
	if p.container != "" {
		c = exec.CommandContext(ctx, "docker", slices.Concat([]string{"exec", "-i", p.container, name}, args)...)
	} else {
		c = exec.CommandContext(ctx, filepath.Join(p.dir, name), args...)
	}
	c.Env = slices.DeleteFunc(os.Environ(), func(kv string) bool { return strings.HasPrefix(kv, "PG") })
	c.Cancel = func() error { return c.Process.Signal(os.Interrupt) }
	c.WaitDelay = 10 * time.Second
	return c
}

// run runs a program to its end and returns what it wrote.
func (p Programs) run(c *exec.Cmd) (string, error) {
	var out, warnings bytes.Buffer
	c.Stdout, c.Stderr = &out, &warnings
	if err := c.Run(); err != nil {
		return "", programError(c, err, warnings.String())
	}
	return out.String(), nil
}

// programError says in one line what a program that failed said.
func programError(c *exec.Cmd, err error, said string) error {
	name := filepath.Base(c.Path)
	if name == "docker" && len(c.Args) > 4 {
		name = c.Args[4]
	}
	lines := strings.FieldsFunc(said, func(r rune) bool { return r == '\n' || r == '\r' })
	lines = slices.DeleteFunc(lines, func(l string) bool { return strings.TrimSpace(l) == "" })
	if len(lines) > 4 {
		lines = lines[:4]
	}
	return fmt.Errorf("%s: %w: %s", name, err, strings.Join(lines, "; "))
}

// client returns a program connected to a database, and what removes its password.
func (s *Postgres) client(ctx context.Context, program, database string, args ...string) (*exec.Cmd, func(), error) {
	c := s.Config
	done := func() {}
	connect := []string{"-U", c.User, "-d", connectionName(database), "-w"}
	if s.Programs.container == "" {
		connect = append(connect, "-h", c.Host, "-p", strconv.Itoa(c.Port))
	}
	cmd := s.Programs.command(ctx, program, slices.Concat(connect, args)...)
	cmd.Env = append(cmd.Env, "PGAPPNAME=niodooctl", "PGCONNECT_TIMEOUT=10", "PGSSLMODE="+c.SSLMode)
	for key, value := range map[string]string{"PGSSLROOTCERT": c.TLSConfig.CAFile, "PGSSLCERT": c.TLSConfig.CertFile, "PGSSLKEY": c.TLSConfig.KeyFile} {
		if value != "" {
			cmd.Env = append(cmd.Env, key+"="+value)
		}
	}
	if c.PasswordFile == "" || s.Programs.container != "" {
		return cmd, done, nil
	}
	password, err := c.PasswordFile.Read()
	if err != nil {
		return nil, nil, err
	}
	// A file, for an argument or a variable is seen by others on this machine.
	f, err := os.CreateTemp("", "niodoo-pgpass-")
	if err != nil {
		return nil, nil, err
	}
	done = func() { _ = os.Remove(f.Name()) }
	escaped := strings.NewReplacer(`\`, `\\`, `:`, `\:`).Replace(password.Reveal())
	_, err = fmt.Fprintf(f, "*:*:*:*:%s\n", escaped)
	if err = errors.Join(err, f.Close()); err != nil {
		done()
		return nil, nil, err
	}
	cmd.Env = append(cmd.Env, "PGPASSFILE="+f.Name())
	return cmd, done, nil
}

// connectionName returns a database's name so that libpq takes it for nothing
// else: a connection string or a URL.
func connectionName(database string) string {
	return "dbname='" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(database) + "'"
}

// connect opens a session.
func (s *Postgres) connect(ctx context.Context, database string) (*pgx.Conn, error) {
	c := s.Config
	value := func(v string) string { return "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(v) + "'" }
	dsn := fmt.Sprintf("host=%s port=%d user=%s dbname=%s password='' sslmode=%s connect_timeout=10 application_name=niodooctl",
		value(c.Host), c.Port, value(c.User), value(database), value(c.SSLMode))
	for key, file := range map[string]string{"sslrootcert": c.TLSConfig.CAFile, "sslcert": c.TLSConfig.CertFile, "sslkey": c.TLSConfig.KeyFile} {
		if file != "" {
			dsn += " " + key + "=" + value(file)
		}
	}
	cfg, err := pgx.ParseConfig(dsn)
	if err != nil {
		return nil, fmt.Errorf("postgresql: %w", err)
	}
	password, err := c.PasswordFile.Read()
	if err != nil {
		return nil, err
	}
	cfg.Password = password.Reveal()
	cfg.DefaultQueryExecMode = pgx.QueryExecModeSimpleProtocol // statements of all kinds, several in one
	conn, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("postgresql: %w", err)
	}
	return conn, nil
}

func closeSession(c *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	_ = c.Close(ctx)
}

// exists reports whether there is such a database.
func (s *Postgres) exists(ctx context.Context, database string) (bool, error) {
	conn, err := s.connect(ctx, maintenanceDB)
	if err != nil {
		return false, err
	}
	defer closeSession(conn)
	var n int
	err = conn.QueryRow(ctx, "SELECT count(*) FROM pg_catalog.pg_database WHERE datname = $1", database).Scan(&n)
	return n > 0, err
}

// derived returns the name of a database of this restore.
func (s *Postgres) derived(database, what string) string {
	suffix := "_" + what + "_" + s.id
	if len(database)+len(suffix) > maxIdentifier {
		database = strings.ToValidUTF8(database[:maxIdentifier-len(suffix)], "")
	}
	return database + suffix
}

// dump is a database as it was backed up.
type dump struct {
	// path is pg_dump's own format, or a script for psql.
	path   string
	script bool
	// globals is pg_dumpall's script of the roles; "" for none.
	globals string
}

// load restores a dump into a new database, and returns its name. Nothing
// else on the server is changed, but that roles that are missing are created.
func (s *Postgres) load(ctx context.Context, d dump, database string) (fresh string, notes []string, err error) {
	conn, err := s.connect(ctx, maintenanceDB)
	if err != nil {
		return "", nil, err
	}
	defer closeSession(conn)
	if notes, err = createRoles(ctx, conn, parseStatements(d.globals)); err != nil {
		return "", notes, err
	}
	about, err := s.about(ctx, d, database)
	if err != nil {
		return "", notes, err
	}
	fresh = s.derived(database, "restore")
	drop := func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		_, dropErr := conn.Exec(ctx, "DROP DATABASE IF EXISTS "+quote(fresh)+" WITH (FORCE)")
		err = errors.Join(err, dropErr)
	}
	if _, err := conn.Exec(ctx, about[0].onDatabase(fresh).String()); err != nil {
		return "", notes, fmt.Errorf("creating the database: %w", err)
	}
	if err = s.fill(ctx, d, fresh); err != nil {
		drop()
		return "", notes, err
	}
	for _, st := range about[1:] {
		if _, err = conn.Exec(ctx, st.onDatabase(fresh).String()); err != nil {
			err = fmt.Errorf("%.200s: %w", st.onDatabase(fresh), err)
			drop()
			return "", notes, err
		}
	}
	if err = s.analyze(ctx, fresh); err != nil {
		drop()
		return "", notes, err
	}
	return fresh, notes, nil
}

// fill runs pg_restore or psql.
func (s *Postgres) fill(ctx context.Context, d dump, database string) error {
	f, err := os.Open(d.path)
	if err != nil {
		return err
	}
	defer f.Close()
	program, args := "pg_restore", append(s.flags(), "--exit-on-error")
	if d.script {
		program, args = "psql", []string{"-X", "-q", "-v", "ON_ERROR_STOP=1", "--single-transaction", "-o", "/dev/null", "-f", "-"}
	}
	c, done, err := s.client(ctx, program, database, args...)
	if err != nil {
		return err
	}
	defer done()
	c.Stdin = f
	_, err = s.Programs.run(c)
	return cannot(ctx, err)
}

// flags are for every run of pg_restore.
func (s *Postgres) flags() []string {
	if s.scratch {
		return []string{"--no-tablespaces"}
	}
	return nil
}

func (s *Postgres) analyze(ctx context.Context, database string) error {
	conn, err := s.connect(ctx, database)
	if err != nil {
		return err
	}
	defer closeSession(conn)
	_, err = conn.Exec(ctx, "ANALYZE")
	return err
}

// aboutDatabase tells the statements that are about a database as a whole:
// pg_restore leaves them out when it restores under another name.
func aboutDatabase(st statement) bool {
	_, at := st.after("DATABASE")
	switch {
	case at < 0:
		return false
	case st.is("CREATE", "DATABASE"), st.is("ALTER", "DATABASE"), st.is("COMMENT", "ON", "DATABASE"):
		return true
	case st.is("GRANT"), st.is("REVOKE"), st.is("SECURITY", "LABEL"):
		return strings.EqualFold(st[at-2].text, "ON")
	case st.is("ALTER", "ROLE"):
		return strings.EqualFold(st[at-2].text, "IN")
	}
	return false
}

// about returns the statement that creates the database, and after it
// those that give it its owner, rights, settings and comment. A script of the
// manual has none of them: then they are those of the database that it is to
// replace, if there is one.
func (s *Postgres) about(ctx context.Context, d dump, database string) ([]statement, error) {
	path := d.path
	if d.script {
		there, err := s.exists(ctx, database)
		if err != nil {
			return nil, err
		}
		if !there {
			return parseStatements(`CREATE DATABASE x WITH TEMPLATE = template0 ENCODING = 'UTF8';`), nil
		}
		if path, err = s.schema(ctx, database, filepath.Dir(d.path)); err != nil {
			return nil, err
		}
	}
	script, err := s.readDump(ctx, path, append(s.flags(), "-C", "-s", "-f", "-")...)
	if err != nil {
		return nil, err
	}
	var about []statement
	for _, st := range parseStatements(script) {
		if aboutDatabase(st) {
			about = append(about, st)
		}
	}
	if len(about) == 0 || !about[0].is("CREATE", "DATABASE") {
		return nil, errors.New("the dump does not say how its database was created")
	}
	return about, nil
}

// readDump runs pg_restore on a dump without a database.
func (s *Postgres) readDump(ctx context.Context, path string, args ...string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	c := s.Programs.command(ctx, "pg_restore", args...)
	c.Stdin = f
	out, err := s.Programs.run(c)
	return out, cannot(ctx, err)
}

// schema dumps a live database's definitions, for what is to be kept of them.
func (s *Postgres) schema(ctx context.Context, database, dir string) (string, error) {
	path := filepath.Join(dir, "live.dump")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return "", err
	}
	defer f.Close()
	c, done, err := s.client(ctx, "pg_dump", database, "-Fc", "--schema-only", "--lock-wait-timeout=30s")
	if err != nil {
		return "", err
	}
	defer done()
	var said bytes.Buffer
	c.Stdout, c.Stderr = f, &said
	if err := c.Run(); err != nil {
		return "", programError(c, err, said.String())
	}
	return path, f.Close()
}

// createRoles creates the roles that are missing, as the script of the globals
// has them. Those that exist stay as they are.
func createRoles(ctx context.Context, conn *pgx.Conn, globals []statement) (notes []string, err error) {
	rows, err := conn.Query(ctx, "SELECT rolname FROM pg_catalog.pg_roles")
	if err != nil {
		return nil, err
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, err
	}
	missing := map[string]bool{}
	for _, st := range globals {
		if name, at := st.after("ROLE"); at == 2 && st.is("CREATE", "ROLE") && !slices.Contains(names, name) {
			missing[name] = true
		}
	}
	for _, st := range globals {
		var role string
		switch {
		case st.is("CREATE", "ROLE"), st.is("ALTER", "ROLE"):
			role = unquote(st[2].text)
		case st.is("GRANT"):
			role, _ = st.after("TO")
		}
		if !missing[role] {
			continue
		}
		if st.is("GRANT") {
			st = withoutGrantor(st)
		}
		if _, err := conn.Exec(ctx, st.String()); err != nil {
			return notes, fmt.Errorf("creating the role %q: %w", role, err)
		}
		if st.is("CREATE") {
			notes = append(notes, fmt.Sprintf("the role %q was missing and is created", role))
		}
	}
	return notes, nil
}

// withoutGrantor leaves out who granted a membership: that may be a role that
// another server does not have.
func withoutGrantor(st statement) statement {
	if _, at := st.after("GRANTED"); at > 0 {
		return st[:at-1]
	}
	return st
}

// swap gives a restored database its name. A database that has that name is
// kept under the one that is returned, "" if there was none.
func (s *Postgres) swap(ctx context.Context, fresh, database string) (before string, err error) {
	conn, err := s.connect(ctx, maintenanceDB)
	if err != nil {
		return "", err
	}
	defer closeSession(conn)
	rename := func(from, to string) string { return "ALTER DATABASE " + quote(from) + " RENAME TO " + quote(to) }
	var allowed bool
	err = conn.QueryRow(ctx, "SELECT datallowconn FROM pg_catalog.pg_database WHERE datname = $1", database).Scan(&allowed)
	if errors.Is(err, pgx.ErrNoRows) {
		_, err = conn.Exec(ctx, rename(fresh, database))
		return "", err
	}
	if err != nil {
		return "", err
	}
	before = s.derived(database, "before")
	now := database // the old database's name
	if _, err := conn.Exec(ctx, "ALTER DATABASE "+quote(now)+" WITH ALLOW_CONNECTIONS false"); err != nil {
		return "", err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		if allowed {
			_, again := conn.Exec(ctx, "ALTER DATABASE "+quote(now)+" WITH ALLOW_CONNECTIONS true")
			err = errors.Join(err, again)
		}
	}()
	if _, err := conn.Exec(ctx, "SELECT pg_catalog.pg_terminate_backend(pid, $1) FROM pg_catalog.pg_stat_activity "+
		"WHERE datname = $2 AND pid <> pg_catalog.pg_backend_pid()", terminateWait, database); err != nil {
		return "", fmt.Errorf("ending the sessions of %q: %w", database, err)
	}
	tx, err := conn.Begin(ctx)
	if err != nil {
		return "", err
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }()
	for _, st := range []string{rename(database, before), rename(fresh, database)} {
		if _, err := tx.Exec(ctx, st); err != nil {
			return "", err
		}
	}
	if err := tx.Commit(ctx); err != nil {
		return "", err
	}
	now = before
	return before, nil
}

// drop removes a database that was restored and is not wanted.
func (s *Postgres) drop(ctx context.Context, database string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	conn, err := s.connect(ctx, maintenanceDB)
	if err != nil {
		return err
	}
	defer closeSession(conn)
	_, err = conn.Exec(ctx, "DROP DATABASE IF EXISTS "+quote(database)+" WITH (FORCE)")
	return err
}
