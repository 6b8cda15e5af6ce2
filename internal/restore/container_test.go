// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package restore

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/niodoo/niodoo_exporter/internal/backup"
	"github.com/niodoo/niodoo_exporter/internal/backup/source"
	"github.com/niodoo/niodoo_exporter/internal/config"
)

// fakeDocker runs what docker exec would run in a container: without a terminal,
// with nothing of the caller's environment but what -e NAME names, with its
// input, outputs and exit code. In the container the server is found by its socket.
const fakeDocker = `#!/bin/bash
printf '%%s\n' "$@" >> %[1]q
[ "$1" = exec ] || { echo "docker: '$1' is not a docker command." >&2; exit 1; }
shift
inside=(PATH=%[2]q PGHOST=%[3]q PGPORT=%[4]d)
stdin=no
while :; do
	case $1 in
	-i) stdin=yes; shift ;;
	-e)
		case $2 in
		*=*) inside+=("$2") ;;
		*) [ -z "${!2+x}" ] || inside+=("$2=${!2}") ;;
		esac
		shift 2 ;;
	-*) echo "unknown shorthand flag: '$1'" >&2; exit 125 ;;
	*) break ;;
	esac
done
[ "$1" = niodoo-postgres-1 ] || { echo "Error response from daemon: No such container: $1" >&2; exit 1; }
shift
cd / || exit 126
[ $stdin = yes ] || exec </dev/null
exec env -i "${inside[@]}" "$@"
`

// PostgreSQL in a container, whose programs are used there: they get the role
// and its password, the dump goes in and out, and no process list shows a secret.
func TestContainer(t *testing.T) {
	b := newBench(t)
	p := b.startPostgres()
	b.makeDatabase(p)
	const password = `p w'"\$x:{}`
	b.try(p.Exec(t.Context(), "CREATE ROLE saver SUPERUSER LOGIN PASSWORD '"+strings.ReplaceAll(password, "'", "''")+"'"))
	bin := t.TempDir()
	log, secret := filepath.Join(bin, "log"), filepath.Join(bin, "secret")
	b.try(os.WriteFile(secret, []byte(password+"\n"), 0o600))
	b.try(os.WriteFile(filepath.Join(bin, "docker"), fmt.Appendf(nil, fakeDocker, log, pgBin(t)+":/usr/bin:/bin", p.SocketDir, p.Port), 0o755))
	t.Setenv("PATH", bin+":/usr/bin:/bin")
	// What the caller has set is not what counts.
	t.Setenv("PGUSER", "nobody")
	t.Setenv("PGDATABASE", "nothing")
	b.cfg.Backup.PGDump = "container:niodoo-postgres-1"
	b.cfg.Backup.User, b.cfg.Backup.PasswordFile = "saver", config.SecretFile(secret)
	b.try(os.MkdirAll(b.data, 0o755))
	b.cfg.Backup.Sources = map[string]string{"data": b.data}
	for _, section := range []string{"redis", "qdrant", "ollama", "docker"} {
		no := false
		b.cfg.Section(section).Enabled = &no
	}

	want := b.dumpOf(p, "niodoo")
	s, err := source.Create(t.Context(), b.cfg, source.Options{Class: backup.Daily, Now: now.Add(-time.Hour)})
	b.try(err)
	if s.Rows[PostgreSQL]["public.events"].Count != 2000 || s.Versions["pg_dump"] == "" || len(s.Skipped)+len(s.Warnings) > 0 {
		t.Errorf("%+v", s)
	}
	b.try(p.ExecIn(t.Context(), "niodoo", "DROP TABLE public.events CASCADE"))
	if _, err := b.restore(Options{Force: true, Only: []string{PostgreSQL}}); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, b.dumpOf(p, "niodoo")); d != "" {
		t.Errorf("-was +is:\n%s", d)
	}
	// The manual's script goes through psql.
	data := t.TempDir()
	b.try(backup.Delete(b.cfg.Backup.Directory, s.Name))
	b.legacyArchive(legacyParts(t, data, script))
	if _, err := b.restore(Options{Only: []string{PostgreSQL}, Database: "then"}); err != nil {
		t.Fatal(err)
	}
	if rows := b.query(p, "then", `SELECT count(*)::text FROM public.events`); rows != "2" {
		t.Errorf("%s rows", rows)
	}

	said, err := os.ReadFile(log)
	b.try(err)
	for _, program := range []string{"pg_dump", "pg_dumpall", "pg_restore", "psql"} {
		if !bytes.Contains(said, []byte("\n"+program+"\n")) {
			t.Errorf("%s was not run in the container", program)
		}
	}
	if bytes.Contains(said, []byte(password[:3])) || !bytes.Contains(said, []byte("\n-e\nPGPASSWORD\n")) {
		t.Errorf("the arguments were\n%s", said)
	}

	// What goes wrong in there is said.
	b.try(os.WriteFile(secret, []byte("wrong\n"), 0o600))
	if _, err := source.Create(t.Context(), b.cfg, source.Options{Class: backup.Daily, Now: now}); err == nil || !strings.Contains(err.Error(), "password authentication failed") {
		t.Errorf("a wrong password: %v", err)
	}
	b.try(os.WriteFile(secret, []byte(password), 0o600))
	b.cfg.Backup.PGDump = "container:other"
	if _, err := source.Create(t.Context(), b.cfg, source.Options{Class: backup.Daily, Now: now}); err == nil || !strings.Contains(err.Error(), "No such container: other") {
		t.Errorf("another container: %v", err)
	}
	if left, _ := filepath.Glob(filepath.Join(b.cfg.Backup.Directory, "*.manifest.json")); len(left) > 0 {
		t.Errorf("there is a backup: %v", left)
	}
}
