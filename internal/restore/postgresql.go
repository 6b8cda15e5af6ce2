// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package restore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/niodoo/niodoo_exporter/internal/backup/source"
)

// server is a PostgreSQL server into which databases are restored.
type server struct {
	*source.Postgres
	address string
	// id tells the databases of one restore from those of another.
	id string
	// scratch says that it is a drill's: without tablespaces.
	scratch bool
}

// ErrRestore says that a dump is whole, and PostgreSQL cannot restore it.
var ErrRestore = errors.New("the dump cannot be restored")

// surroundings are what PostgreSQL says when the machine is at fault and not
// the dump: a full disk, an extension that is not installed, programs too old.
var surroundings = regexp.MustCompile(`No space left on device|extension control file|extension ".*" is not available|could not (access|load library|open shared memory)|` +
	`unsupported version|out of memory|terminating connection|server closed the connection|could not connect|connection to server|Cannot allocate memory|[Tt]oo many open files`)

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
	// swapWithin bounds the wait for the sessions of a database to end. The server
	// itself gives up after 5 s.
	swapWithin = 20 * time.Second
	// endEvery is how often they are told to.
	endEvery      = 50 * time.Millisecond
	objectInUse   = "55006"
	maxIdentifier = 63
)

func closeSession(c *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	_ = c.Close(ctx)
}

// exists reports whether there is such a database.
func (s *server) exists(ctx context.Context, database string) (bool, error) {
	conn, err := s.Connect(ctx, source.MaintenanceDatabase)
	if err != nil {
		return false, err
	}
	defer closeSession(conn)
	var n int
	err = conn.QueryRow(ctx, "SELECT count(*) FROM pg_catalog.pg_database WHERE datname = $1", database).Scan(&n)
	return n > 0, err
}

// derived returns the name of a database of this restore.
func (s *server) derived(database, what string) string {
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
func (s *server) load(ctx context.Context, d dump, database string) (fresh string, notes []string, err error) {
	conn, err := s.Connect(ctx, source.MaintenanceDatabase)
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
	left, err := leftovers(ctx, conn, database)
	if err != nil {
		return "", notes, err
	}
	notes = append(notes, left...)
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
	if err = s.analyze(ctx, fresh); err != nil {
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
	return fresh, notes, nil
}

// leftovers names the databases of restores that were killed.
func leftovers(ctx context.Context, conn *pgx.Conn, database string) ([]string, error) {
	rows, err := conn.Query(ctx, "SELECT datname FROM pg_catalog.pg_database WHERE starts_with(datname, $1 || '_restore_')", database)
	if err != nil {
		return nil, err
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	for i, n := range names {
		names[i] = fmt.Sprintf("a restore that was killed, or goes on, has left a database; if it was killed: DROP DATABASE %s;", quote(n))
	}
	return names, err
}

// fill runs pg_restore or psql.
func (s *server) fill(ctx context.Context, d dump, database string) error {
	f, err := os.Open(d.path)
	if err != nil {
		return err
	}
	defer f.Close()
	program, args := "pg_restore", append(s.flags(), "--exit-on-error")
	if d.script {
		program, args = "psql", []string{"-X", "-q", "-v", "ON_ERROR_STOP=1", "--single-transaction", "-o", "/dev/null", "-f", "-"}
	}
	return cannot(ctx, s.Run(ctx, program, database, f, io.Discard, args...))
}

// flags are for every run of pg_restore.
func (s *server) flags() []string {
	if s.scratch {
		return []string{"--no-tablespaces"}
	}
	return nil
}

func (s *server) analyze(ctx context.Context, database string) error {
	conn, err := s.Connect(ctx, database)
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
func (s *server) about(ctx context.Context, d dump, database string) ([]statement, error) {
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
func (s *server) readDump(ctx context.Context, path string, args ...string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	var out strings.Builder
	err = s.Run(ctx, "pg_restore", "", f, &out, args...)
	return out.String(), cannot(ctx, err)
}

// schema dumps a live database's definitions, for what is to be kept of them.
func (s *server) schema(ctx context.Context, database, dir string) (string, error) {
	path := filepath.Join(dir, "live.dump")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return "", err
	}
	defer f.Close()
	if err := s.Run(ctx, "pg_dump", database, nil, f, "-Fc", "--schema-only", "--lock-wait-timeout=30s"); err != nil {
		return "", err
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
//
// A rename locks the database's name against new sessions before it waits for
// the old ones to end, which are ended meanwhile: so nothing has to be switched
// off before and on again afterwards. The server does both renames or none,
// whenever we are killed.
func (s *server) swap(ctx context.Context, fresh, database string) (before string, err error) {
	conn, err := s.Connect(ctx, source.MaintenanceDatabase)
	if err != nil {
		return "", err
	}
	defer closeSession(conn)
	rename := func(from, to string) string { return "ALTER DATABASE " + quote(from) + " RENAME TO " + quote(to) + ";" }
	there, err := s.exists(ctx, database)
	if err != nil {
		return "", err
	}
	if !there {
		_, err = conn.Exec(ctx, rename(fresh, database))
		return "", err
	}
	before = s.derived(database, "before")
	// Statements that are sent together are one transaction.
	renames := rename(database, before) + rename(fresh, database)
	for deadline := time.Now().Add(swapWithin); ; {
		err := s.renameWhileEnding(ctx, conn, renames, database, fresh)
		busy, ok := errors.AsType[*pgconn.PgError](err)
		if err == nil || !ok || busy.Code != objectInUse || time.Now().After(deadline) {
			return before, err
		}
	}
}

// renameWhileEnding renames databases and ends their sessions as long as that takes.
func (s *server) renameWhileEnding(ctx context.Context, conn *pgx.Conn, renames string, databases ...string) error {
	other, err := s.Connect(ctx, source.MaintenanceDatabase)
	if err != nil {
		return err
	}
	defer closeSession(other)
	renamed := make(chan error, 1)
	go func() {
		_, err := conn.PgConn().Exec(ctx, renames).ReadAll()
		renamed <- err
	}()
	var ending error
	for {
		if _, err := other.Exec(ctx, "SELECT pg_catalog.pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity "+
			"WHERE datname = ANY($1)", databases); err != nil {
			ending = fmt.Errorf("ending the sessions: %w", err)
		}
		select {
		case err := <-renamed:
			if err != nil {
				return errors.Join(err, ending)
			}
			return nil
		case <-time.After(endEvery):
		}
	}
}

// drop removes a database that was restored and is not wanted.
func (s *server) drop(ctx context.Context, database string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	conn, err := s.Connect(ctx, source.MaintenanceDatabase)
	if err != nil {
		return err
	}
	defer closeSession(conn)
	_, err = conn.Exec(ctx, "DROP DATABASE IF EXISTS "+quote(database)+" WITH (FORCE)")
	return err
}
