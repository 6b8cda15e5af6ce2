// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package restore

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/niodoo/niodoo_exporter/internal/backup"
	"github.com/niodoo/niodoo_exporter/internal/config"
	"github.com/niodoo/niodoo_exporter/internal/localserver"
)

var now = time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)

// bench is a stack to restore into: empty directories, and no server unless one is started.
type bench struct {
	testing.TB
	cfg *config.Config
	// data is the only source of files.
	data string
}

func newBench(t testing.TB) *bench {
	t.Helper()
	root := t.TempDir()
	b := &bench{TB: t, cfg: config.Default(), data: filepath.Join(root, "opt", "data")}
	b.cfg.Backup.Directory = filepath.Join(root, "backups")
	b.cfg.Backup.Sources = map[string]string{"data": b.data, "config": filepath.Join(root, "opt", "config"), "logs": filepath.Join(root, "opt", "logs")}
	for _, dir := range []string{b.cfg.Backup.Directory, filepath.Dir(b.data)} {
		b.try(os.MkdirAll(dir, 0o755))
	}
	return b
}

func (b *bench) try(err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}

// native makes a backup of ours an hour ago.
func (b *bench) native(rows map[string]map[string]backup.Rows, members ...packed) backup.Summary {
	b.Helper()
	return b.nativeOf(backup.Summary{Rows: rows}, members...)
}

// nativeOf makes a backup that says of itself what s does.
func (b *bench) nativeOf(s backup.Summary, members ...packed) backup.Summary {
	b.Helper()
	s.Class, s.Started, s.Seconds = backup.Daily, now.Add(-time.Hour), 1
	s.Name = backup.Name(s.Started)
	path := backup.ArchivePath(b.cfg.Backup.Directory, s.Name, false)
	f, err := os.Create(path)
	b.try(err)
	defer f.Close()
	w, err := backup.NewArchiveWriter(f)
	b.try(err)
	defer w.Close()
	for _, m := range members {
		h := *m.h
		_, err := w.Add(&h, bytes.NewReader(m.content), "")
		b.try(err)
	}
	s, err = w.Finish(s)
	b.try(err)
	b.try(w.WriteManifest(b.cfg.Backup.Directory, s))
	return s
}

func memberOf(name string, content []byte) packed {
	return packed{&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: int64(len(content)), Mode: 0o600, ModTime: now}, content}
}

// restore plans and runs a restore of the newest backup.
func (b *bench) restore(o Options) ([]Done, error) {
	b.Helper()
	all, err := backup.List(b.Context(), b.cfg.Backup.Directory, now)
	b.try(err)
	found := all[0]
	o.Scratch, o.Now = b.TempDir(), now
	r, err := New(b.Context(), b.cfg, found, o)
	if err != nil {
		return nil, err
	}
	done, err := r.Run(b.Context())
	r.Close()
	left, globErr := filepath.Glob(filepath.Join(o.Scratch, "*"))
	b.try(globErr)
	for _, dir := range []string{b.data, b.cfg.Backup.Directory} {
		for _, pattern := range []string{".niodoo*", "*/.niodoo*"} {
			more, _ := filepath.Glob(filepath.Join(filepath.Dir(dir), pattern))
			left = append(left, more...)
		}
	}
	if len(left) > 0 {
		b.Errorf("left behind: %q", left)
	}
	return done, err
}

func TestRestoreFiles(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	from := t.TempDir()
	oddTree(t, from)
	want := describe(t, from)
	b.native(nil, membersOf(t, from, backup.FilesDir+"data")...)

	compare := func(what, dir string) {
		t.Helper()
		if d := cmp.Diff(want, describe(t, dir)); d != "" {
			t.Errorf("%s (-was +is):\n%s", what, d)
		}
	}
	if _, err := b.restore(Options{}); err != nil {
		t.Fatal(err)
	}
	compare("where nothing was", b.data)

	// Now it is live: nothing may happen to it.
	mark := filepath.Join(b.data, "new")
	b.try(os.WriteFile(mark, []byte("since then"), 0o600))
	live := describe(t, b.data)
	if _, err := b.restore(Options{}); !errors.Is(err, ErrLive) {
		t.Fatalf("over live data: %v", err)
	}
	if d := cmp.Diff(live, describe(t, b.data)); d != "" {
		t.Errorf("live data has changed:\n%s", d)
	}
	done, err := b.restore(Options{Force: true})
	if err != nil {
		t.Fatal(err)
	}
	compare("with --force", b.data)
	before := b.data + ".before-20261125_120000"
	if d := cmp.Diff(live, describe(t, before)); d != "" {
		t.Errorf("what was there is not kept:\n%s", d)
	}
	if notes := strings.Join(done[0].Notes, "\n"); !strings.Contains(notes, before) {
		t.Errorf("nobody is told where it is kept: %s", notes)
	}
	if _, err := b.restore(Options{Force: true}); err == nil {
		t.Error("a copy that was kept is overwritten")
	}

	to := filepath.Join(t.TempDir(), "to")
	if _, err := b.restore(Options{To: to}); err != nil {
		t.Fatal(err)
	}
	compare("elsewhere", filepath.Join(to, "files/data"))
	if _, err := b.restore(Options{To: to}); !errors.Is(err, ErrLive) {
		t.Errorf("elsewhere, twice: %v", err)
	}
	empty := t.TempDir()
	if _, err := b.restore(Options{To: empty}); err != nil {
		t.Fatal(err)
	}
	compare("into an empty directory", filepath.Join(empty, "files/data"))

	b.try(os.RemoveAll(b.data))
	b.try(os.Mkdir(b.data, 0o700))
	if _, err := b.restore(Options{}); err != nil {
		t.Fatal(err)
	}
	compare("into an empty source", b.data)
}

// A flipped byte anywhere: nothing is put in place, and what is live stays.
func TestRestoreDamaged(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	from := t.TempDir()
	oddTree(t, from)
	s := b.native(nil, membersOf(t, from, backup.FilesDir+"data")...)
	b.try(os.MkdirAll(b.data, 0o755))
	b.try(os.WriteFile(filepath.Join(b.data, "live"), nil, 0o600))
	live := describe(t, b.data)
	path := filepath.Join(b.cfg.Backup.Directory, s.Archive.File)
	good, err := os.ReadFile(path)
	b.try(err)
	for i := range 40 {
		bad := slices.Clone(good)
		bad[i*len(bad)/40] ^= 0x10
		b.try(os.WriteFile(path, bad, 0o600))
		if _, err := b.restore(Options{Force: true}); !errors.Is(err, backup.ErrDamaged) {
			t.Errorf("byte %d: %v", i*len(bad)/40, err)
		}
	}
	b.try(os.WriteFile(path, good, 0o600))
	if d := cmp.Diff(live, describe(t, b.data)); d != "" {
		t.Errorf("live data has changed:\n%s", d)
	}
}

func TestRestoreRefused(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.native(nil, memberOf(backup.FilesDir+"data/a", []byte("x")), memberOf(backup.FilesDir+"strange/a", []byte("x")))
	for name, c := range map[string]struct {
		o   Options
		say string
	}{
		"no place":         {Options{}, `the files of "strange" have no place`},
		"nothing":          {Options{Only: []string{PostgreSQL}}, "nothing to restore"},
		"to and database":  {Options{To: t.TempDir(), Database: "x"}, "two restores"},
		"nothing in there": {Options{To: t.TempDir(), Only: []string{Redis}}, "nothing to restore"},
	} {
		if _, err := b.restore(c.o); err == nil || !strings.Contains(err.Error(), c.say) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := Room(filepath.Join(t.TempDir(), "not", "there"), 1<<60); !errors.Is(err, ErrSpace) {
		t.Errorf("a disk of an exbibyte: %v", err)
	}
}

// legacyParts are what the manual's script leaves, of this tree.
func legacyParts(t testing.TB, data, sql string) map[string][]byte {
	t.Helper()
	return map[string][]byte{
		"database.sql":              []byte(sql),
		"consciousness_data.tar.gz": tarGz(t, membersOf(t, data, "opt/niodoo/data")...),
		"config/production.toml":    []byte("[core]\n"),
		"logs.tar.gz":               tarGz(t, memberOf("opt/niodoo/logs/engine.log", []byte("a line\n"))),
		"manifest.txt":              []byte("Niodoo Consciousness System Backup\n"),
	}
}

func tarGz(t testing.TB, members ...packed) []byte {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	w := tar.NewWriter(z)
	for _, m := range members {
		h := *m.h
		h.Format = tar.FormatPAX
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(m.content); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(w.Close(), z.Close()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

const legacyStamp = "20261124_020000"

// legacyArchive leaves the manual's archive of these parts.
func (b *bench) legacyArchive(parts map[string][]byte) {
	b.Helper()
	var members []packed
	for name, content := range parts {
		members = append(members, memberOf(legacyStamp+"/"+name, content))
	}
	slices.SortFunc(members, func(a, b packed) int { return strings.Compare(a.h.Name, b.h.Name) })
	path := filepath.Join(b.cfg.Backup.Directory, "niodoo_backup_"+legacyStamp+".tar.gz")
	b.try(os.WriteFile(path, tarGz(b, members...), 0o600))
	b.try(os.Chtimes(path, now, now.Add(-2*time.Hour)))
}

// legacyDirectory leaves the same unpacked.
func (b *bench) legacyDirectory(parts map[string][]byte) {
	b.Helper()
	dir := filepath.Join(b.cfg.Backup.Directory, legacyStamp)
	for name, content := range parts {
		path := filepath.Join(dir, name)
		b.try(os.MkdirAll(filepath.Dir(path), 0o755))
		b.try(os.WriteFile(path, content, 0o644))
		b.try(os.Chtimes(path, now, now.Add(-2*time.Hour)))
	}
	b.try(os.Chtimes(filepath.Join(dir, "config"), now, now.Add(-2*time.Hour)))
	b.try(os.Chtimes(dir, now, now.Add(-2*time.Hour)))
}

const script = "--\n-- PostgreSQL database dump\n--\n\nCREATE TABLE public.events (id int, note text);\nCOPY public.events (id, note) FROM stdin;\n1\tone\\r\n2\ttwo\n\\.\n\n" +
	"--\n-- PostgreSQL database dump complete\n--\n\n"

func TestRestoreLegacyFiles(t *testing.T) {
	t.Parallel()
	data := t.TempDir()
	oddTree(t, data)
	want := describe(t, data)
	for name, put := range map[string]func(*bench, map[string][]byte){"archive": (*bench).legacyArchive, "directory": (*bench).legacyDirectory} {
		b := newBench(t)
		put(b, legacyParts(t, data, script))
		if _, err := b.restore(Options{Only: []string{Files}}); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if d := cmp.Diff(want, describe(t, b.data)); d != "" {
			t.Errorf("%s (-was +is):\n%s", name, d)
		}
		for path, content := range map[string]string{"config/production.toml": "[core]\n", "logs/engine.log": "a line\n"} {
			raw, err := os.ReadFile(filepath.Join(filepath.Dir(b.data), path))
			if err != nil || string(raw) != content {
				t.Errorf("%s: %s is %q, %v", name, path, raw, err)
			}
		}
		to := filepath.Join(t.TempDir(), "to")
		if _, err := b.restore(Options{To: to}); err != nil {
			t.Fatal(err)
		}
		if raw, err := os.ReadFile(filepath.Join(to, "postgresql/niodoo.sql")); err != nil || string(raw) != script {
			t.Errorf("%s: the script is %q, %v", name, raw, err)
		}
	}
}

// What the manual's script leaves of a failure is no backup.
func TestRestoreLegacyDamaged(t *testing.T) {
	t.Parallel()
	data := t.TempDir()
	b0 := os.WriteFile(filepath.Join(data, "a"), []byte(strings.Repeat("content ", 10000)), 0o600)
	if b0 != nil {
		t.Fatal(b0)
	}
	for name, spoil := range map[string]func(map[string][]byte){
		"script cut off": func(p map[string][]byte) { p["database.sql"] = p["database.sql"][:len(script)-60] },
		"script empty":   func(p map[string][]byte) { p["database.sql"] = nil },
		"script missing": func(p map[string][]byte) { delete(p, "database.sql") },
		"data missing":   func(p map[string][]byte) { delete(p, "consciousness_data.tar.gz") },
		"data empty":     func(p map[string][]byte) { p["consciousness_data.tar.gz"] = nil },
		"data cut off": func(p map[string][]byte) {
			d := p["consciousness_data.tar.gz"]
			p["consciousness_data.tar.gz"] = d[:len(d)/2]
		},
		"data's end cut off": func(p map[string][]byte) {
			d := p["consciousness_data.tar.gz"]
			p["consciousness_data.tar.gz"] = d[:len(d)-1]
		},
		"data flipped":     func(p map[string][]byte) { d := p["consciousness_data.tar.gz"]; d[len(d)-6] ^= 1 },
		"logs are no gzip": func(p map[string][]byte) { p["logs.tar.gz"] = []byte("tar: Removing leading") },
	} {
		b := newBench(t)
		parts := legacyParts(t, data, script)
		spoil(parts)
		b.legacyArchive(parts)
		if _, err := b.restore(Options{Only: []string{Files}}); !errors.Is(err, backup.ErrDamaged) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := os.Stat(b.data); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: restored all the same", name)
		}
	}
	b := newBench(t)
	b.legacyArchive(legacyParts(t, data, script))
	path := filepath.Join(b.cfg.Backup.Directory, "niodoo_backup_"+legacyStamp+".tar.gz")
	raw, err := os.ReadFile(path)
	b.try(err)
	b.try(os.WriteFile(path, raw[:len(raw)*9/10], 0o600))
	b.try(os.Chtimes(path, now, now.Add(-2*time.Hour)))
	if _, err := b.restore(Options{Only: []string{Files}}); !errors.Is(err, backup.ErrDamaged) {
		t.Errorf("the archive cut off: %v", err)
	}
}

func TestWithoutCR(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"a\r\nb\r\n": "a\nb\n", "a\rb": "a\rb", "a\r": "a\r", "\r\r\n": "\r\n", "a\n": "a\n", "": "", "1\tone\\r\r\n": "1\tone\\r\n",
	} {
		for _, chunk := range []int{1, 2, 3, 100} {
			got, err := io.ReadAll(&withoutCR{r: &chunked{[]byte(in), chunk}})
			if string(got) != want || err != nil {
				t.Errorf("%q in pieces of %d: %q, %v", in, chunk, got, err)
			}
		}
	}
}

type chunked struct {
	rest []byte
	size int
}

func (c *chunked) Read(p []byte) (int, error) {
	if len(c.rest) == 0 {
		return 0, io.EOF
	}
	n := copy(p[:min(len(p), c.size)], c.rest)
	c.rest = c.rest[n:]
	return n, nil
}

// pgBin is where PostgreSQL's programs are.
func pgBin(t testing.TB) string {
	t.Helper()
	dirs, _ := filepath.Glob("/usr/lib/postgresql/*/bin")
	if len(dirs) > 0 {
		return dirs[len(dirs)-1]
	}
	path, err := exec.LookPath("pg_restore")
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Dir(path)
}

// startPostgres starts a server and lets the configuration name it.
func (b *bench) startPostgres() *localserver.Postgres {
	b.Helper()
	p, err := localserver.StartPostgres(b.Context(), localserver.PostgresOptions{Dir: b.TempDir()})
	b.try(err)
	b.Cleanup(p.Stop)
	b.usePostgres(p)
	return p
}

func (b *bench) usePostgres(p *localserver.Postgres) {
	c := &b.cfg.PostgreSQL
	c.Host, c.Port, c.User, c.SSLMode = p.SocketDir, p.Port, localserver.PostgresSuperuser, "disable"
	b.cfg.Backup.PGDump = filepath.Join(pgBin(b), "pg_dump")
}

// content is a database with what dumps tend to lose.
const content = `
CREATE TABLE public.events (id bigserial PRIMARY KEY, at timestamptz DEFAULT now(), body jsonb, place point, raw bytea);
INSERT INTO public.events (at, body, place, raw) SELECT '2026-01-01'::timestamptz + i * interval '1 s', jsonb_build_object('i', i, 'x', E'\u00fc"\n'), point(i, 1.0/i), decode(md5(i::text), 'hex') FROM generate_series(1, 2000) i;
CREATE SCHEMA "Odd Schema";
CREATE TABLE "Odd Schema"."a;b""c" (r text, "select" int);
INSERT INTO "Odd Schema"."a;b""c" VALUES (NULL, 1), ('', 2), (E'tab\tnew\nline\\.', 3), ('same', 4), ('same', 4);
CREATE TABLE public.empty ();
CREATE TABLE public.parted (k int, v text) PARTITION BY RANGE (k);
CREATE TABLE public.parted_1 PARTITION OF public.parted FOR VALUES FROM (0) TO (10);
INSERT INTO public.parted VALUES (1, 'one');
CREATE VIEW public.v AS SELECT count(*) FROM public.events;
CREATE FUNCTION public.f() RETURNS text LANGUAGE plpgsql AS $f$ BEGIN RETURN '; ALTER DATABASE postgres RENAME TO gone;'; END $f$;
SELECT lo_from_bytea(4711, '\x00ff'::bytea);
SELECT lo_from_bytea(4712, decode(repeat('ab', 5000), 'hex'));
GRANT SELECT ON public.events TO reader;
GRANT SELECT ON LARGE OBJECT 4711 TO reader;
ALTER TABLE public.empty OWNER TO "We""ird";
COMMENT ON TABLE public.events IS 'what happened';
`

// databaseProperties are what belongs to a database and not to what is in it.
const databaseProperties = `SELECT coalesce(string_agg(x, E'\n' ORDER BY x), '') FROM (
SELECT 'owner ' || pg_get_userbyid(datdba) || ' encoding ' || pg_encoding_to_char(encoding) || ' ' || datcollate || ' limit ' || datconnlimit || ' connections ' || datallowconn AS x FROM pg_database WHERE datname = $1
UNION ALL SELECT 'acl ' || a FROM pg_database, unnest(datacl::text[]) a WHERE datname = $1
UNION ALL SELECT 'set ' || coalesce(r.rolname, '') || ' ' || c FROM pg_db_role_setting s JOIN pg_database d ON d.oid = setdatabase LEFT JOIN pg_roles r ON r.oid = setrole, unnest(setconfig) c WHERE datname = $1
UNION ALL SELECT 'comment ' || shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = $1) y`

const databaseSettings = `
CREATE DATABASE niodoo WITH TEMPLATE template0 ENCODING 'UTF8' LOCALE 'C.UTF-8' OWNER "We""ird";
ALTER DATABASE niodoo SET search_path TO "Odd Schema", public;
ALTER DATABASE niodoo SET work_mem TO '5MB';
ALTER ROLE reader IN DATABASE niodoo SET statement_timeout TO '7s';
ALTER DATABASE niodoo CONNECTION LIMIT 17;
REVOKE ALL ON DATABASE niodoo FROM PUBLIC;
GRANT CONNECT ON DATABASE niodoo TO reader;
COMMENT ON DATABASE niodoo IS E'the memory\'s own; DATABASE postgres'`

const databaseRoles = `
CREATE ROLE reader LOGIN PASSWORD 'it''s \ secret';
CREATE ROLE "We""ird";
CREATE ROLE member;
GRANT reader TO member`

// makeDatabase creates the database niodoo with all that.
func (b *bench) makeDatabase(p *localserver.Postgres) {
	b.Helper()
	for _, sql := range slices.Concat(strings.Split(databaseRoles, ";\n"), strings.Split(databaseSettings, ";\n")) {
		b.try(p.Exec(b.Context(), sql))
	}
	b.try(p.ExecIn(b.Context(), "niodoo", content))
}

// pg runs one of PostgreSQL's programs.
func (b *bench) pg(p *localserver.Postgres, program string, args ...string) []byte {
	b.Helper()
	c := exec.CommandContext(b.Context(), filepath.Join(pgBin(b), program), slices.Concat(
		[]string{"-h", p.SocketDir, "-p", strconv.Itoa(p.Port), "-U", localserver.PostgresSuperuser}, args)...)
	var said bytes.Buffer
	c.Stderr = &said
	out, err := c.Output()
	if err != nil {
		b.Fatalf("%s: %v: %s", program, err, &said)
	}
	return out
}

// query returns the single value of a query.
func (b *bench) query(p *localserver.Postgres, database, sql string, args ...string) string {
	b.Helper()
	c, err := p.Connect(b.Context(), database)
	b.try(err)
	defer func() { _ = c.Close(context.WithoutCancel(b.Context())) }()
	values := make([][]byte, len(args))
	for i, a := range args {
		values[i] = []byte(a)
	}
	res := c.ExecParams(b.Context(), sql, values, nil, nil, nil).Read()
	b.try(res.Err)
	if len(res.Rows) == 0 {
		return ""
	}
	return string(res.Rows[0][0])
}

// dumpOf is the database's whole content as SQL, for comparing.
func (b *bench) dumpOf(p *localserver.Postgres, database string) string {
	b.Helper()
	out := string(b.pg(p, "pg_dump", "-d", database))
	lines := slices.DeleteFunc(strings.Split(out, "\n"), func(l string) bool { return strings.HasPrefix(l, `\restrict`) || strings.HasPrefix(l, `\unrestrict`) })
	return strings.Join(lines, "\n")
}

// nativeDatabase backs the server's database up.
func (b *bench) nativeDatabase(p *localserver.Postgres, rows map[string]map[string]backup.Rows) backup.Summary {
	b.Helper()
	return b.native(rows, memberOf(backup.GlobalsMember, b.pg(p, "pg_dumpall", "--globals-only")),
		memberOf(backup.PostgreSQLDir+"niodoo.dump", b.pg(p, "pg_dump", "-Fc", "-Z0", "-d", "niodoo")))
}

func TestRestoreDatabase(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	p := b.startPostgres()
	b.makeDatabase(p)
	b.nativeDatabase(p, nil)
	wantDump, wantProperties := b.dumpOf(p, "niodoo"), b.query(p, "postgres", databaseProperties, "niodoo")
	if !strings.Contains(wantProperties, "statement_timeout") || !strings.Contains(wantProperties, "reader=c/") {
		t.Fatalf("the test's database has no properties:\n%s", wantProperties)
	}
	compare := func(what string, p *localserver.Postgres, database string) {
		t.Helper()
		if d := cmp.Diff(wantDump, b.dumpOf(p, database)); d != "" {
			t.Errorf("%s: the content (-was +is):\n%s", what, d)
		}
		if d := cmp.Diff(wantProperties, b.query(p, "postgres", databaseProperties, database)); d != "" {
			t.Errorf("%s: the properties (-was +is):\n%s", what, d)
		}
	}

	if _, err := b.restore(Options{}); !errors.Is(err, ErrLive) {
		t.Fatalf("over a live database: %v", err)
	}
	if _, err := b.restore(Options{Database: `o"d d`}); err != nil {
		t.Fatal(err)
	}
	compare("beside it", p, `o"d d`)

	// The live one changes, and somebody is connected.
	b.try(p.ExecIn(t.Context(), "niodoo", "INSERT INTO public.parted VALUES (2, 'two'); ALTER DATABASE niodoo SET work_mem TO '9MB'"))
	session, err := p.Connect(t.Context(), "niodoo")
	b.try(err)
	defer session.Close(context.WithoutCancel(t.Context()))
	liveDump, liveProperties := b.dumpOf(p, "niodoo"), b.query(p, "postgres", databaseProperties, "niodoo")
	done, err := b.restore(Options{Force: true})
	if err != nil {
		t.Fatal(err)
	}
	compare("with --force", p, "niodoo")
	const before = "niodoo_before_20261125_120000"
	if d := cmp.Diff(liveDump, b.dumpOf(p, before)); d != "" {
		t.Errorf("what was there is not kept:\n%s", d)
	}
	if d := cmp.Diff(liveProperties, b.query(p, "postgres", databaseProperties, before)); d != "" {
		t.Errorf("the properties of what was there are not kept:\n%s", d)
	}
	if notes := strings.Join(done[0].Notes, "\n"); !strings.Contains(notes, `DROP DATABASE "`+before+`"`) {
		t.Errorf("nobody is told: %s", notes)
	}
	if _, err := session.Exec(t.Context(), "SELECT 1").ReadAll(); err == nil {
		t.Error("the old session still goes on")
	}

	// On a server that has nothing: the roles come back with their passwords.
	other := b.startPostgres()
	if _, err := b.restore(Options{}); err != nil {
		t.Fatal(err)
	}
	compare("on another server", other, "niodoo")
	const roles = `SELECT string_agg(rolname || ' ' || coalesce(rolpassword, '') || ' ' || rolcanlogin, E'\n' ORDER BY rolname) FROM pg_authid WHERE rolname IN ('reader', 'We"ird', 'member')`
	if d := cmp.Diff(b.query(p, "postgres", roles), b.query(other, "postgres", roles)); d != "" {
		t.Errorf("the roles (-was +is):\n%s", d)
	}
	if b.query(other, "postgres", "SELECT pg_has_role('member', 'reader', 'MEMBER')::text") != "true" {
		t.Error("the membership is lost")
	}
}

// A dump that cannot be restored leaves the server as it was.
func TestRestoreDatabaseFails(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	p := b.startPostgres()
	b.makeDatabase(p)
	dump := b.pg(p, "pg_dump", "-Fc", "-Z0", "-d", "niodoo")
	b.native(nil, memberOf(backup.PostgreSQLDir+"niodoo.dump", dump[:len(dump)/2]))
	databases := func() string {
		return b.query(p, "postgres", "SELECT string_agg(datname || datallowconn, ' ' ORDER BY datname) FROM pg_database")
	}
	was := databases()
	if _, err := b.restore(Options{Force: true}); err == nil || !strings.Contains(err.Error(), "pg_restore") {
		t.Errorf("half a dump: %v", err)
	}
	if is := databases(); is != was {
		t.Errorf("the databases are %s and were %s", is, was)
	}
	b.cfg.PostgreSQL.User = "nobody"
	if _, err := b.restore(Options{Force: true}); err == nil || !strings.Contains(err.Error(), "nobody") {
		t.Errorf("an unknown role: %v", err)
	}
}

// The manual's script, as a terminal in between has left it.
func TestRestoreLegacyDatabase(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	p := b.startPostgres()
	b.makeDatabase(p)
	data := t.TempDir()
	b.legacyArchive(legacyParts(t, data, strings.ReplaceAll(script, "\n", "\r\n")))
	properties := b.query(p, "postgres", databaseProperties, "niodoo")
	if _, err := b.restore(Options{Only: []string{PostgreSQL}}); !errors.Is(err, ErrLive) {
		t.Fatalf("over a live database: %v", err)
	}
	for _, name := range []string{"fresh", "niodoo"} {
		if _, err := b.restore(Options{Only: []string{PostgreSQL}, Database: name, Force: true}); err != nil {
			t.Fatal(err)
		}
		if rows := b.query(p, name, `SELECT string_agg(id || note, ',' ORDER BY id) FROM public.events`); rows != "1one\r,2two" {
			t.Errorf("%s: the rows are %q", name, rows)
		}
	}
	// The script says nothing about the database; the one that is replaced does.
	if d := cmp.Diff(properties, b.query(p, "postgres", databaseProperties, "niodoo")); d != "" {
		t.Errorf("the properties (-was +is):\n%s", d)
	}
}

// startRedis starts a server and lets the configuration name it.
func (b *bench) startRedis(config ...string) (*localserver.Redis, redisServer) {
	b.Helper()
	r, err := localserver.StartRedis(b.Context(), localserver.RedisOptions{Config: config})
	b.try(err)
	b.Cleanup(r.Stop)
	return r, b.useRedis(r)
}

func (b *bench) useRedis(r *localserver.Redis) redisServer {
	b.cfg.Redis.Address = r.Addr
	s, err := newDataset(b.cfg, b.TempDir(), "x")
	b.try(err)
	b.Cleanup(func() { _ = s.server.Close() })
	return s.server
}

// rdbOf returns a dump with n keys.
func (b *bench) rdbOf(n int) []byte {
	b.Helper()
	r, c := b.startRedis()
	for i := range n {
		b.try(c.Set(b.Context(), fmt.Sprintf("key:%d", i), strings.Repeat("v", i), 0).Err())
	}
	b.try(c.Do(b.Context(), "SAVE").Err())
	raw, err := os.ReadFile(filepath.Join(r.Dir, "dump.rdb"))
	b.try(err)
	return raw
}

func TestRestoreRedis(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.native(nil, memberOf(backup.RedisMember, b.rdbOf(100)))
	for _, mode := range []string{"appendonly yes", "appendonly no"} {
		r, c := b.startRedis(mode)
		if _, err := b.restore(Options{}); err != nil {
			t.Fatalf("%s: %v", mode, err)
		}
		check := func(when string) {
			t.Helper()
			if n, err := c.DBSize(t.Context()).Result(); n != 100 || err != nil {
				t.Errorf("%s, %s: %d keys, %v", mode, when, n, err)
			}
			if v, err := c.Get(t.Context(), "key:99").Result(); len(v) != 99 || err != nil {
				t.Errorf("%s, %s: the value is %q, %v", mode, when, v, err)
			}
		}
		check("restored")
		if role, err := c.info(t.Context(), "replication"); err != nil || role["role"] != "master" {
			t.Errorf("%s: its role is %s, %v", mode, role["role"], err)
		}
		r.Kill()
		b.try(r.Start(t.Context()))
		check("after a crash")

		b.try(c.Set(t.Context(), "since", "then", 0).Err())
		if _, err := b.restore(Options{}); !errors.Is(err, ErrLive) {
			t.Errorf("%s: over live data: %v", mode, err)
		}
		if v := c.Get(t.Context(), "since").Val(); v != "then" {
			t.Errorf("%s: live data was touched", mode)
		}
		done, err := b.restore(Options{Force: true})
		if err != nil {
			t.Fatal(err)
		}
		check("with --force")
		kept := filepath.Join(b.cfg.Backup.Directory, "redis_before_20261125_120000.rdb")
		if raw, err := os.ReadFile(kept); err != nil || !bytes.HasPrefix(raw, []byte("REDIS")) || !bytes.Contains(raw, []byte("since")) {
			t.Errorf("%s: what it had is not kept: %v", mode, err)
		}
		if notes := strings.Join(done[0].Notes, "\n"); !strings.Contains(notes, kept) {
			t.Errorf("nobody is told: %s", notes)
		}
		b.try(os.Remove(kept))
	}
}

// A server that is started on the directory has the keys, in both modes.
func TestRestoreRedisDirectory(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.native(nil, memberOf(backup.RedisMember, b.rdbOf(10)))
	for _, mode := range []string{"appendonly yes", "appendonly no"} {
		to := filepath.Join(t.TempDir(), "to")
		if _, err := b.restore(Options{To: to}); err != nil {
			t.Fatal(err)
		}
		_, c := b.startRedis(mode, "dir "+filepath.Join(to, "redis"))
		if n, err := c.DBSize(t.Context()).Result(); n != 10 || err != nil {
			t.Errorf("%s: %d keys, %v", mode, n, err)
		}
	}
}

// The rights that the README names are enough.
func TestRestoreRedisRights(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.native(nil, memberOf(backup.RedisMember, b.rdbOf(3)))
	r, err := localserver.StartRedis(t.Context(), localserver.RedisOptions{Password: "admin's", ACL: []string{"user restorer on >s3cret +@admin +@dangerous +@connection"}})
	b.try(err)
	t.Cleanup(r.Stop)
	secret := filepath.Join(t.TempDir(), "secret")
	b.try(os.WriteFile(secret, []byte("s3cret"), 0o600))
	b.cfg.Redis = config.Redis{Address: r.Addr, Username: "restorer", PasswordFile: config.SecretFile(secret)}
	for _, force := range []bool{false, true} {
		if _, err := b.restore(Options{Force: force}); err != nil {
			t.Errorf("with --force %v: %v", force, err)
		}
	}
}

// A dump that a server cannot load: it says so, and goes on as a master.
func TestRestoreRedisFails(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	rdb := bytes.Replace(b.rdbOf(1), []byte("REDIS00"), []byte("REDIS99"), 1)
	b.native(nil, memberOf(backup.RedisMember, rdb))
	_, c := b.startRedis()
	b.try(c.Set(t.Context(), "live", "data", 0).Err())
	if _, err := b.restore(Options{Force: true}); err == nil || !strings.Contains(err.Error(), "too old to load it") {
		t.Errorf("a dump of the future: %v", err)
	}
	if v := c.Get(t.Context(), "live").Val(); v != "data" {
		t.Errorf("live data is lost: %q", v)
	}
	c.idle = time.Second
	path := filepath.Join(t.TempDir(), "x.rdb")
	b.try(os.WriteFile(path, rdb, 0o600))
	if err := c.load(t.Context(), path); err == nil || !strings.Contains(err.Error(), "not taken it") {
		t.Errorf("it was loaded all the same: %v", err)
	}
	if fields, err := c.info(t.Context(), "replication"); err != nil || fields["role"] != "master" {
		t.Errorf("its role is %s, %v", fields["role"], err)
	}
}

func TestRestoreRedisRefused(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.native(nil, memberOf(backup.RedisMember, b.rdbOf(1)))
	master, _ := b.startRedis()
	host, port, _ := strings.Cut(master.Addr, ":")
	b.startRedis("replicaof " + host + " " + port)
	if _, err := b.restore(Options{Force: true}); err == nil || !strings.Contains(err.Error(), "restore into its master") {
		t.Errorf("a replica: %v", err)
	}
	b.startRedis("cluster-enabled yes")
	if _, err := b.restore(Options{Force: true}); err == nil || !strings.Contains(err.Error(), "cluster") {
		t.Errorf("a cluster: %v", err)
	}
}

// fakeQdrant keeps collections' points as the content of their snapshots.
type fakeQdrant struct {
	testing.TB
	mu        sync.Mutex
	points    map[string]string // content: one point a byte
	snapshots map[string]string
}

func (q *fakeQdrant) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	q.mu.Lock()
	defer q.mu.Unlock()
	answer := func(result any) {
		_ = json.NewEncoder(w).Encode(map[string]any{"result": result, "status": "ok", "time": 0.001})
	}
	parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	switch {
	case r.Header.Get("api-key") != "k":
		http.Error(w, "Invalid API key or JWT", http.StatusUnauthorized)
	case r.Method == http.MethodGet && len(parts) == 1:
		list := []map[string]string{}
		for name := range q.points {
			list = append(list, map[string]string{"name": name})
		}
		answer(map[string]any{"collections": list})
	case r.Method == http.MethodPost && len(parts) == 4 && parts[3] == "count":
		answer(map[string]any{"count": len(q.points[parts[1]])})
	case r.Method == http.MethodPost && len(parts) == 3:
		name := parts[1] + "-1-2026-11-25.snapshot"
		q.snapshots[name] = q.points[parts[1]]
		answer(map[string]any{"name": name, "size": len(q.points[parts[1]])})
	case r.Method == http.MethodPost && len(parts) == 4 && parts[3] == "upload":
		f, _, err := r.FormFile("snapshot")
		if err != nil || r.ContentLength < 0 || r.URL.Query().Get("priority") != "snapshot" || r.URL.Query().Get("wait") != "true" {
			http.Error(w, "Format error in Form", http.StatusBadRequest)
			return
		}
		raw, _ := io.ReadAll(f)
		if fmt.Sprintf("%x", sha256.Sum256(raw)) != r.URL.Query().Get("checksum") {
			http.Error(w, "Snapshot checksum mismatch", http.StatusBadRequest)
			return
		}
		q.points[parts[1]] = string(raw)
		answer(true)
	default:
		http.NotFound(w, r)
	}
}

func TestRestoreQdrant(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	q := &fakeQdrant{TB: t, points: map[string]string{"ex periences": "live", "other": "o"}, snapshots: map[string]string{}}
	server := httptest.NewServer(q)
	defer server.Close()
	key := filepath.Join(t.TempDir(), "key")
	b.try(os.WriteFile(key, []byte("k\n"), 0o600))
	b.cfg.Qdrant.URL, b.cfg.Qdrant.APIKeyFile = server.URL, config.SecretFile(key)
	b.native(nil, memberOf(backup.QdrantDir+"ex periences.snapshot", []byte("six \x00s")), memberOf(backup.QdrantDir+"failures.snapshot", []byte("abc")))
	if _, err := b.restore(Options{}); !errors.Is(err, ErrLive) || !strings.Contains(err.Error(), "ex periences with 4 points") {
		t.Errorf("over live points: %v", err)
	}
	if q.points["ex periences"] != "live" || len(q.snapshots) > 0 {
		t.Errorf("live points were touched: %v", q.points)
	}
	done, err := b.restore(Options{Force: true})
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(map[string]string{"ex periences": "six \x00s", "failures": "abc", "other": "o"}, q.points); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff(map[string]string{"ex periences-1-2026-11-25.snapshot": "live"}, q.snapshots); d != "" {
		t.Errorf("what was there is not kept: %s", d)
	}
	if notes := strings.Join(done[0].Notes, "\n"); !strings.Contains(notes, "ex periences-1-2026-11-25.snapshot") || !strings.Contains(notes, "failures has 3 points now") {
		t.Errorf("the notes are %s", notes)
	}
	b.cfg.Qdrant.APIKeyFile = ""
	if _, err := b.restore(Options{Force: true}); err == nil || !strings.Contains(err.Error(), "Invalid API key") {
		t.Errorf("without the key: %v", err)
	}
}
