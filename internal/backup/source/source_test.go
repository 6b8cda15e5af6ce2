// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package source

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	goredis "github.com/redis/go-redis/v9"
	"golang.org/x/sys/unix"

	"github.com/niodoo/niodoo_exporter/internal/backup"
	"github.com/niodoo/niodoo_exporter/internal/config"
	"github.com/niodoo/niodoo_exporter/internal/localserver"
	"github.com/niodoo/niodoo_exporter/internal/sim"
)

// parse makes a configuration with only the services that it names.
func parse(t testing.TB, text string) *config.Config {
	t.Helper()
	for _, name := range []string{"postgresql", "redis", "qdrant", "ollama"} {
		if !strings.Contains(text, name+":") {
			text += name + ": {enabled: false}\n"
		}
	}
	cfg, err := config.Parse("niodoo.yml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

func create(t testing.TB, cfg *config.Config) backup.Summary {
	t.Helper()
	s, err := Create(t.Context(), cfg, Options{Class: backup.Daily, Now: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	if detail, err := backup.Verify(t.Context(), cfg.Backup.Directory, s.Name, nil, nil); err != nil || detail != "" {
		t.Fatalf("%q, %v", detail, err)
	}
	return s
}

// unpack unpacks an archive with tar, as someone without us would.
func unpack(t testing.TB, cfg *config.Config, s backup.Summary) string {
	t.Helper()
	dir := t.TempDir()
	out, err := exec.Command("tar", "--zstd", "--xattrs", "--xattrs-include=*", "-xpf", filepath.Join(cfg.Backup.Directory, s.Archive.File), "-C", dir).CombinedOutput()
	if err != nil {
		t.Fatalf("tar: %v: %s", err, out)
	}
	return dir
}

func write(t testing.TB, path string, content []byte) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, content, 0o640)); err != nil {
		t.Fatal(err)
	}
}

func noise(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{byte(n)}).Read(b)
	return b
}

// describe tells all of a tree that a backup must bring back.
func describe(t testing.TB, root string) map[string]string {
	t.Helper()
	all := map[string]string{}
	first := map[uint64]string{}
	err := filepath.Walk(root, func(path string, info os.FileInfo, err error) error {
		if err != nil {
			return err
		}
		st := info.Sys().(*syscall.Stat_t)
		if info.Mode()&os.ModeSocket != 0 {
			return nil
		}
		text := fmt.Sprintf("%v %d:%d", info.Mode(), st.Uid, st.Gid)
		if info.Mode()&os.ModeSymlink == 0 && !info.IsDir() {
			text += " " + info.ModTime().UTC().String()
		}
		buf := make([]byte, 4096)
		if n, err := unix.Lgetxattr(path, "user.note", buf); err == nil {
			text += fmt.Sprintf(" note %q", buf[:n])
		}
		switch {
		case info.Mode()&os.ModeSymlink != 0:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			text += " -> " + target
		case info.Mode().IsRegular():
			content, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			text += fmt.Sprintf(" %d bytes %x", len(content), sum(content))
			if st.Nlink > 1 {
				if first[st.Ino] == "" {
					first[st.Ino] = path
				}
				text += " same as " + strings.TrimPrefix(first[st.Ino], root)
			}
		}
		all[strings.TrimPrefix(path, root)] = text
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func sum(b []byte) uint64 {
	h := uint64(14695981039346656037)
	for _, c := range b {
		h = (h ^ uint64(c)) * 1099511628211
	}
	return h
}

// TestFiles backs up a tree with all that files can be, and unpacks it with tar.
func TestFiles(t *testing.T) {
	t.Parallel()
	dir, data := t.TempDir(), filepath.Join(t.TempDir(), "data")
	write(t, data+"/plain", []byte("hello\n"))
	write(t, data+"/empty", nil)
	write(t, data+"/big", noise(3<<20+5))
	write(t, data+"/sub/"+strings.Repeat("n", 250), noise(600))
	write(t, data+"/\xff\xfe not\nUTF-8", []byte("odd"))
	write(t, data+"/-rf", []byte("dash"))
	write(t, data+"/.hidden/*?[x]", []byte("glob"))
	write(t, data+"/script", []byte("#!/bin/sh\n"))
	write(t, dir+"/in it", []byte("the backups' own directory"))
	stamp := time.Unix(1_700_000_000, 987_654_321)
	if err := errors.Join(
		os.Chmod(data+"/script", 0o755|os.ModeSetuid), os.Chmod(data+"/sub", 0o710|os.ModeSticky),
		os.Symlink("../no where", data+"/dangling"), os.Symlink("/etc", data+"/absolute"),
		os.Link(data+"/big", data+"/sub/hard"), os.Link(data+"/plain", data+"/also plain"),
		syscall.Mkfifo(data+"/fifo", 0o600), os.Mkdir(data+"/nothing", 0o700), os.Symlink(dir, data+"/backups"),
		os.Chtimes(data+"/empty", stamp, stamp),
	); err != nil {
		t.Fatal(err)
	}
	if os.Geteuid() == 0 {
		if err := errors.Join(os.Chown(data+"/big", 1234, 4321), os.Lchown(data+"/dangling", 77, 78)); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Setxattr(data+"/plain", "user.note", []byte("a\x00b"), 0); err != nil && !errors.Is(err, unix.ENOTSUP) {
		t.Fatal(err)
	}
	f, err := os.Create(data + "/sparse")
	if err != nil {
		t.Fatal(err)
	}
	_, err1 := f.WriteAt(noise(10_000), 5<<20)
	if err := errors.Join(err1, f.Truncate(20<<20), f.Close()); err != nil {
		t.Fatal(err)
	}

	cfg := parse(t, fmt.Sprintf("backup: {directory: %q, sources: {data: %q, inside: %q}}\n", dir, data, filepath.Dir(dir)))
	s := create(t, cfg)
	if len(s.Skipped)+len(s.Warnings) > 0 {
		t.Errorf("skipped %v, warnings %v", s.Skipped, s.Warnings)
	}
	out := unpack(t, cfg, s)
	if d := cmp.Diff(describe(t, data), describe(t, out+"/files/data")); d != "" {
		t.Errorf("- source, + restored:\n%s", d)
	}
	if _, err := os.Lstat(filepath.Join(out, "files/inside", filepath.Base(dir))); err == nil {
		t.Error("the backups' own directory is in the backup")
	}
	raw, err := os.ReadFile(out + "/" + backup.ReadmeMember)
	if err != nil || string(raw) != readme {
		t.Errorf("the README is %d bytes, %v", len(raw), err)
	}
	if _, err := os.Stat(out + "/" + backup.ManifestMember); err != nil {
		t.Error(err)
	}
}

// TestChangingFiles has files that change while they are read: data fails the
// backup, logs are cut where they were.
func TestChangingFiles(t *testing.T) {
	t.Parallel()
	appendTo := func(path string) {
		f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
		if err == nil {
			_, err = f.WriteString("more\n")
			err = errors.Join(err, f.Close())
		}
		if err != nil {
			t.Error(err)
		}
	}
	for _, c := range []struct {
		name, file string
		change     func(path string)
		err, note  string
		warnings   int
	}{
		{"log grows", "logs/a.log", appendTo, "", "grew while it was read: what came later is not in it", 0},
		{"log is truncated", "logs/a.log", func(p string) { _ = os.Truncate(p, 100) }, "", "was cut off while it was read: its last bytes are zeros", 1},
		{"data grows", "data/a", appendTo, "changed while it was read", "", 0},
		{"data is truncated", "data/a", func(p string) { _ = os.Truncate(p, 100) }, "changed while it was read", "", 0},
		{"data in logs.paths grows", "data/x.jsonl", appendTo, "", "grew while it was read: what came later is not in it", 0},
		{"data vanishes while it is read", "data/a", func(p string) { _ = os.Remove(p) }, "changed while it was read", "", 0},
		{"data is replaced by another", "data/a", func(p string) { _ = os.WriteFile(p+"~", nil, 0o600); _ = os.Rename(p+"~", p) }, "changed while it was read", "", 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			dir, root := t.TempDir(), t.TempDir()
			if err := errors.Join(os.Mkdir(root+"/data", 0o700), os.Mkdir(root+"/logs", 0o700)); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(root, c.file)
			write(t, path, noise(4<<20))
			cfg := parse(t, fmt.Sprintf("backup: {directory: %q, sources: {data: %q, logs: %q}}\nlogs: {paths: [%q]}\n", dir, root+"/data", root+"/logs", root+"/data/*.jsonl"))
			var seen int64
			s, err := Create(t.Context(), cfg, Options{Class: backup.Daily, Now: time.Now(), Progress: func(n int64) {
				if seen += n; seen > 1<<20 && seen-n <= 1<<20 {
					c.change(path)
				}
			}})
			if c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) || !strings.Contains(err.Error(), path) {
					t.Errorf("got %v, want %s", err, c.err)
				}
				nothingLeft(t, dir)
				return
			}
			if err != nil || len(s.Warnings) != c.warnings {
				t.Fatalf("%v, warnings %v", err, s.Warnings)
			}
			note := ""
			if _, err := backup.ReadManifest(dir, s.Name, func(e backup.Entry) error {
				if strings.HasSuffix(e.Name, c.file) {
					note = e.Note
				}
				return nil
			}); err != nil || note != c.note {
				t.Errorf("note %q, %v", note, err)
			}
			if _, err := backup.Verify(t.Context(), dir, s.Name, nil, nil); err != nil {
				t.Error(err)
			}
		})
	}
}

// nothingLeft wants an empty directory.
func nothingLeft(t testing.TB, dir string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) > 0 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
}

func TestUnreadableFiles(t *testing.T) {
	t.Parallel()
	dir, data := t.TempDir(), t.TempDir()
	write(t, data+"/a", []byte("a"))
	write(t, data+"/z", []byte("z"))
	if err := os.Mkdir(data+"/b", 0o755); err != nil {
		t.Fatal(err)
	}
	cfg := parse(t, fmt.Sprintf("backup: {directory: %q, sources: {data: %q}}\n", dir, data))
	// What vanishes between the listing and the reading is noted.
	s, err := Create(t.Context(), cfg, Options{Class: backup.Full, Now: time.Now(), Progress: func(n int64) {
		if n == 1 {
			_ = os.Remove(data + "/z")
		}
	}})
	want := []backup.Skipped{{What: data + "/z", Why: "it vanished before it was read"}}
	if err != nil || !slices.Equal(s.Skipped, want) {
		t.Errorf("skipped %v, %v", s.Skipped, err)
	}
	for text, want := range map[string]string{
		"backup: {directory: " + dir + ", sources: {data: /nonexistent}}\n": "backup.sources.data: stat /nonexistent",
		"backup: {directory: " + dir + ", sources: {data: /etc/passwd}}\n":  "is not a directory",
		"backup: {directory: /nonexistent}\n":                               "backup.directory: stat /nonexistent",
		"backup: {directory: " + dir + ", recipients: [age1x]}\n":           "backup.recipients[0]",
		"backup: {directory: " + dir + ", recipients_file: /nonexistent}\n": "backup.recipients_file",
	} {
		if _, err := Create(t.Context(), parse(t, text), Options{Class: backup.Daily, Now: time.Now()}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s gives %v, want %s", text, err, want)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Create(ctx, cfg, Options{Class: backup.Daily, Now: time.Now()}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// startPostgres starts a server with a database that has a bit of everything.
func startPostgres(t testing.TB, rows int) (*localserver.Postgres, string) {
	t.Helper()
	p, err := localserver.StartPostgres(t.Context(), localserver.PostgresOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Stop)
	for _, sql := range []string{
		"CREATE ROLE owner", "CREATE ROLE reader LOGIN PASSWORD 's3cret:\\x'", "GRANT pg_read_all_data TO reader", "CREATE DATABASE niodoo",
	} {
		if err := p.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	for _, sql := range []string{
		fmt.Sprintf("CREATE TABLE events AS SELECT i AS id, md5(i::text) AS body, now() AS at, random() AS level, NULL::json AS j FROM generate_series(1, %d) i", rows),
		`CREATE SCHEMA "Odd ""schema"; CREATE TABLE "Odd ""schema"."r" (r text, p point, j json, b bytea)`,
		`INSERT INTO "Odd ""schema"."r" VALUES ('same', '(1,2)', '{"a":1}', '\x00ff'), ('same', '(1,2)', '{"a":1}', '\x00ff')`,
		"CREATE TABLE empty (); CREATE TABLE parent (id int, k int) PARTITION BY LIST (k); CREATE TABLE part1 PARTITION OF parent FOR VALUES IN (1); INSERT INTO parent VALUES (1, 1)",
		"CREATE UNLOGGED TABLE unlogged AS SELECT 1 AS a; CREATE MATERIALIZED VIEW m AS SELECT count(*) FROM events; ALTER TABLE events OWNER TO owner",
		"SELECT lo_from_bytea(0, decode(repeat('ab', 5000), 'hex')); SELECT lo_create(0)",
	} {
		if err := p.ExecIn(t.Context(), "niodoo", sql); err != nil {
			t.Fatal(err)
		}
	}
	return p, fmt.Sprintf("postgresql: {host: %q, port: %d, user: postgres, sslmode: disable}\n", p.SocketDir, p.Port)
}

func rowsOf(t testing.TB, p *localserver.Postgres, database string) map[string]backup.Rows {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), fmt.Sprintf("host=%s port=%d user=postgres dbname=%s", p.SocketDir, p.Port, database))
	if err != nil {
		t.Fatal(err)
	}
	defer closeConn(conn)
	rows, err := CountRows(t.Context(), conn)
	if err != nil {
		t.Fatal(err)
	}
	return rows
}

// TestStack backs up real servers and simulated ones, and restores all by hand
// as the README in the archive says.
func TestStack(t *testing.T) {
	t.Parallel()
	pg, section := startPostgres(t, 20_000)
	rd, err := localserver.StartRedis(t.Context(), localserver.RedisOptions{Password: "p w"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(rd.Stop)
	client := goredis.NewClient(&goredis.Options{Addr: rd.Addr, Password: "p w", Protocol: 2})
	defer client.Close()
	for i := range 1000 {
		if err := client.Set(t.Context(), fmt.Sprintf("key:%d", i), noise(50), 0).Err(); err != nil {
			t.Fatal(err)
		}
	}
	stack, err := sim.New(sim.Options{Only: []string{"qdrant", "ollama"}})
	if err != nil {
		t.Fatal(err)
	}
	defer stack.Close()
	dir, data := t.TempDir(), t.TempDir()
	write(t, data+"/x", []byte("x"))
	secret := filepath.Join(t.TempDir(), "password")
	write(t, secret, []byte("p w\n"))
	repository := t.TempDir()
	write(t, repository+"/.git/HEAD", []byte("ref: refs/heads/main\n"))
	write(t, repository+"/.git/packed-refs", []byte("# pack-refs\n"+strings.Repeat("0123456789", 4)+" refs/heads/main\n"))
	if err := os.Mkdir(repository+"/config", 0o755); err != nil {
		t.Fatal(err)
	}

	cfg := parse(t, section+fmt.Sprintf("redis: {address: %q, password_file: %q}\nbackup: {directory: %q, sources: {data: %q, config: %q}}\n", rd.Addr, secret, dir, data, repository+"/config")+stack.Config())
	est, err := NewEstimate(t.Context(), cfg, nil)
	if err != nil || est.Err(dir) != nil || est.ContentBytes < 1<<20 || est.Parts[0].Problem != "" {
		t.Errorf("%+v, %v", est, err)
	}
	nothingLeft(t, dir)
	s := create(t, cfg)
	if len(s.Skipped)+len(s.Warnings) > 0 {
		t.Errorf("skipped %v, warnings %v", s.Skipped, s.Warnings)
	}
	if d := cmp.Diff(rowsOf(t, pg, "niodoo"), s.Rows["postgresql"]); d != "" {
		t.Errorf("- live, + backup:\n%s", d)
	}
	if n := s.Rows["postgresql"]["public.events"].Count; n != 20_000 || s.Rows["postgresql"][LargeObjects].Count != 2 {
		t.Errorf("rows: %v", s.Rows["postgresql"])
	}
	if got := s.Rows["redis"]["db0"].Count; got != 1000 {
		t.Errorf("%d keys", got)
	}
	if len(s.Rows["qdrant"]) == 0 || s.Models["mistral:latest"] == "" || s.Commit != strings.Repeat("0123456789", 4) {
		t.Errorf("rows %v, models %v, commit %q", s.Rows["qdrant"], s.Models, s.Commit)
	}
	for _, v := range []string{"niodooctl", "postgresql", "pg_dump", "redis", "qdrant", "ollama"} {
		if s.Versions[v] == "" && v != "niodooctl" {
			t.Errorf("the version of %s is missing: %v", v, s.Versions)
		}
	}
	for _, c := range []string{"experiences", "failures"} {
		res, err := http.Get(stack.URL("qdrant") + "/collections/" + c + "/snapshots")
		if err != nil {
			t.Fatal(err)
		}
		raw, err := io.ReadAll(res.Body)
		res.Body.Close()
		if err != nil || !strings.Contains(string(raw), `"result":[]`) {
			t.Errorf("left at Qdrant: %s, %v", raw, err)
		}
	}

	out := unpack(t, cfg, s)
	if err := pg.Exec(t.Context(), "CREATE DATABASE restored TEMPLATE template0"); err != nil {
		t.Fatal(err)
	}
	restore := exec.Command(filepath.Join(findProgram("pg_dump", 15).dir, "pg_restore"), "--exit-on-error", "-h", pg.SocketDir, "-p", fmt.Sprint(pg.Port),
		"-U", "postgres", "-d", "restored", out+"/postgresql/niodoo.dump")
	if said, err := restore.CombinedOutput(); err != nil {
		t.Fatalf("pg_restore: %v: %s", err, said)
	}
	if d := cmp.Diff(s.Rows["postgresql"], rowsOf(t, pg, "restored")); d != "" {
		t.Errorf("- backup, + restored:\n%s", d)
	}
	globals, err := os.ReadFile(out + "/postgresql/globals.sql")
	if err != nil || !bytes.Contains(globals, []byte("CREATE ROLE reader")) || !bytes.Contains(globals, []byte("SCRAM-SHA-256")) {
		t.Errorf("globals: %v\n%s", err, globals)
	}
	rd.Kill()
	dump, err := os.ReadFile(out + "/redis/dump.rdb")
	if err != nil {
		t.Fatal(err)
	}
	write(t, rd.Dir+"/dump.rdb", dump)
	if err := rd.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n, err := client.DBSize(t.Context()).Result(); err != nil || n != 1000 {
		t.Errorf("%d keys restored, %v", n, err)
	}
}

// TestPostgresRoles backs up as a role that may only read, with a password.
func TestPostgresRoles(t *testing.T) {
	t.Parallel()
	pg, _ := startPostgres(t, 10)
	dir := t.TempDir()
	secret := filepath.Join(t.TempDir(), "password")
	write(t, secret, []byte("s3cret:\\x\n"))
	section := func() string {
		return fmt.Sprintf("postgresql: {host: 127.0.0.1, port: %d, user: nobody, sslmode: disable}\nbackup: {directory: %q, user: reader, password_file: %q, sources: {none: %q}}\n", pg.Port, dir, secret, t.TempDir())
	}
	// Large objects are for their owner and superusers, whatever else one may read.
	if _, err := Create(t.Context(), parse(t, section()), Options{Class: backup.Daily, Now: time.Now().Add(time.Minute)}); err == nil || !strings.Contains(err.Error(), "permission denied for large object") {
		t.Errorf("large objects of others: %v", err)
	}
	if err := pg.ExecIn(t.Context(), "niodoo", "SELECT lo_unlink(oid) FROM pg_largeobject_metadata"); err != nil {
		t.Fatal(err)
	}
	s := create(t, parse(t, section()))
	if len(s.Skipped) > 0 { // pg_read_all_data may read the passwords, too
		t.Errorf("skipped %v", s.Skipped)
	}
	if err := pg.Exec(t.Context(), "REVOKE pg_read_all_data FROM reader"); err != nil {
		t.Fatal(err)
	}
	if _, err := Create(t.Context(), parse(t, section()), Options{Class: backup.Daily, Now: time.Now().Add(time.Minute)}); err == nil || !strings.Contains(err.Error(), "permission denied") ||
		!strings.Contains(err.Error(), "backup.user") {
		t.Errorf("without the right to read: %v", err)
	}
	for _, sql := range []string{"GRANT USAGE ON SCHEMA public, \"Odd \"\"schema\" TO reader", "GRANT SELECT ON ALL TABLES IN SCHEMA public, \"Odd \"\"schema\" TO reader"} {
		if err := pg.ExecIn(t.Context(), "niodoo", sql); err != nil {
			t.Fatal(err)
		}
	}
	s = create(t, parse(t, section()))
	if len(s.Skipped) != 1 || s.Skipped[0].What != "passwords of PostgreSQL's roles" {
		t.Errorf("skipped %v", s.Skipped)
	}
	if strings.Contains(fmt.Sprint(s), "s3cret") {
		t.Error("the password is in the manifest")
	}
	// Rows that are hidden from the role fail the backup.
	if err := pg.ExecIn(t.Context(), "niodoo", "ALTER TABLE events ENABLE ROW LEVEL SECURITY"); err != nil {
		t.Fatal(err)
	}
	if _, err := Create(t.Context(), parse(t, section()), Options{Class: backup.Daily, Now: time.Now().Add(2 * time.Minute)}); err == nil || !strings.Contains(err.Error(), "row-level security") {
		t.Errorf("with row-level security: %v", err)
	}
}

// TestPostgresDies ends the dump's session, and the whole server, in mid-dump.
func TestPostgresDies(t *testing.T) {
	t.Parallel()
	pg, section := startPostgres(t, 300_000)
	dir := t.TempDir()
	cfg := parse(t, section+fmt.Sprintf("backup: {directory: %q, sources: {none: %q}}\n", dir, t.TempDir()))
	for name, strike := range map[string]func(){
		"session": func() {
			if err := pg.Exec(t.Context(), "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'pg_dump' OR query LIKE 'COPY%'"); err != nil {
				t.Error(err)
			}
		},
		"server": pg.Kill,
	} {
		var struck sync.Once
		var seen atomic.Int64
		_, err := Create(t.Context(), cfg, Options{Class: backup.Daily, Now: time.Now(), Progress: func(n int64) {
			if seen.Add(n) > 1<<20 {
				struck.Do(strike)
			}
		}})
		if seen.Load() <= 1<<20 || err == nil || !strings.Contains(err.Error(), "pg_dump") {
			t.Errorf("%s: after %d bytes: %v", name, seen.Load(), err)
		}
		nothingLeft(t, dir)
		if err := pg.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

// TestPostgresFails does not wait for the end of a file that takes hours before
// it says that there is no dump.
func TestPostgresFails(t *testing.T) {
	t.Parallel()
	dir, data := t.TempDir(), t.TempDir()
	write(t, data+"/huge", nil)
	if err := os.Truncate(data+"/huge", 1<<42); err != nil {
		t.Fatal(err)
	}
	cfg := parse(t, fmt.Sprintf("postgresql: {host: %q}\nbackup: {directory: %q, sources: {data: %q}}\n", t.TempDir(), dir, data))
	if _, err := Create(t.Context(), cfg, Options{Class: backup.Daily, Now: time.Now()}); err == nil || !strings.Contains(err.Error(), "backing up PostgreSQL: ") {
		t.Errorf("with no server: %v", err)
	}
	nothingLeft(t, dir)
	// The user's interrupt is not taken for the server's failure.
	ctx, cancel := context.WithCancel(t.Context())
	cfg = parse(t, fmt.Sprintf("postgresql: {enabled: false}\nbackup: {directory: %q, sources: {data: %q}}\n", dir, data))
	if _, err := Create(ctx, cfg, Options{Class: backup.Daily, Now: time.Now(), Progress: func(int64) { cancel() }}); !errors.Is(err, context.Canceled) {
		t.Errorf("interrupted: %v", err)
	}
	nothingLeft(t, dir)
}

// TestPrograms looks at the choice of pg_dump: its version must fit, and it may
// be in a container.
func TestPrograms(t *testing.T) {
	pg, section := startPostgres(t, 10)
	dir, bin := t.TempDir(), t.TempDir()
	script := func(name, text string) {
		write(t, bin+"/"+name, []byte("#!/bin/sh\n"+text+"\n"))
		if err := os.Chmod(bin+"/"+name, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	with := func(dump string) *config.Config {
		return parse(t, section+fmt.Sprintf("backup: {directory: %q, sources: {none: %q}, pg_dump: %q}\n", dir, t.TempDir(), dump))
	}
	try := func(dump string) error {
		_, err := Create(t.Context(), with(dump), Options{Class: backup.Daily, Now: time.Now()})
		return err
	}
	script("pg_dump", "echo 'pg_dump (PostgreSQL) 9.6.1'")
	for dump, want := range map[string]string{
		bin + "/pg_dump":       "is of version 9.6.1 and cannot dump a server of version 15",
		"/nonexistent/pg_dump": "no such file",
		"container:postgres":   "docker",
	} {
		if dump == "container:postgres" {
			script("docker", "echo 'Error: No such container: postgres' >&2; exit 1")
			t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
			want = "No such container"
		}
		if err := try(dump); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", dump, err, want)
		}
	}
	script("pg_dump", `case $1 in --version) echo 'pg_dump (PostgreSQL) 99.1';; *) echo nonsense;; esac`)
	script("pg_dumpall", "echo")
	if err := try(bin + "/pg_dump"); err == nil || !strings.Contains(err.Error(), "is no dump") {
		t.Errorf("nonsense: %v", err)
	}
	script("pg_dump", `case $1 in --version) echo 'pg_dump (PostgreSQL) 99.1';; *) echo PGDMP half a dump; echo oh no >&2; exit 1;; esac`)
	if err := try(bin + "/pg_dump"); err == nil || !strings.Contains(err.Error(), "oh no") {
		t.Errorf("exit code: %v", err)
	}
	nothingLeft(t, dir)
	// A container in which the programs find the server by its socket.
	script("docker", fmt.Sprintf(`[ "$1 $2" = "exec -i" ] || exit 9
shift 2
while [ "$1" = -e ]; do shift 2; done
[ "$1" = postgres ] || exit 9
shift
export PATH=%q:$PATH PGHOST=%q PGPORT=%d
exec "$@"`, findProgram("pg_dump", 15).dir, pg.SocketDir, pg.Port))
	s := create(t, with("container:postgres"))
	if s.Rows["postgresql"]["public.events"].Count != 10 {
		t.Errorf("%v", s.Rows)
	}
}

// TestServicesThatFail has services that are not there or lie: the backup says
// what is missing in it.
func TestServicesThatFail(t *testing.T) {
	t.Parallel()
	stack, err := sim.New(sim.Options{Only: []string{"qdrant", "ollama"}})
	if err != nil {
		t.Fatal(err)
	}
	cfg := parse(t, fmt.Sprintf("redis: {address: %q}\nbackup: {directory: %q, sources: {none: %q}}\n", "127.0.0.1:1", t.TempDir(), t.TempDir())+stack.Config())
	stack.Close()
	s := create(t, cfg)
	var what []string
	for _, k := range s.Skipped {
		what = append(what, k.What)
		if !strings.Contains(k.Why, "refused") {
			t.Errorf("%s: %s", k.What, k.Why)
		}
	}
	if want := []string{"Redis", "Qdrant", "Ollama's models"}; !slices.Equal(what, want) {
		t.Errorf("skipped %v", s.Skipped)
	}
}

func TestRDBCheck(t *testing.T) {
	t.Parallel()
	// As redis-cli --rdb wrote it of an empty server, but for its checksum of zero.
	whole := append([]byte("REDIS0010\xfa\tredis-ver\x067.0.15\xff"), make([]byte, 8)...)
	for name, c := range map[string]struct {
		dump []byte
		size int
		ok   bool
	}{
		"no checksum":    {whole, len(whole), true},
		"truncated":      {whole[:len(whole)-3], len(whole), false},
		"wrong checksum": {append(bytes.Clone(whole[:len(whole)-1]), 1), len(whole), false},
		"another file":   {bytes.Repeat([]byte("x"), 30), 30, false},
		"empty":          {nil, 0, false},
	} {
		check := newRDBCheck()
		for b := range slices.Values(c.dump) {
			_, _ = check.Write([]byte{b})
		}
		if err := check.verdict(int64(c.size)); (err == nil) != c.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestCopy(t *testing.T) {
	t.Parallel()
	dir, to := t.TempDir(), t.TempDir()
	s := create(t, parse(t, fmt.Sprintf("backup: {directory: %q, sources: {none: %q}}\n", dir, t.TempDir())))
	command := func(argv ...string) config.Backup { return config.Backup{Directory: dir, Copy: argv} }
	if c, err := Copy(t.Context(), command("cp", "-t", to), s); err == nil && c.OK {
		names, err := os.ReadDir(to)
		if err != nil || len(names) != 2 {
			t.Errorf("copied %v, %v", names, err)
		}
	} else {
		t.Errorf("%+v, %v", c, err)
	}
	if c, err := Copy(t.Context(), command("cp", "{archive}", to+"/{name} $(x)"), s); err != nil || !c.OK {
		t.Errorf("%+v, %v", c, err)
	}
	if _, err := os.Stat(to + "/" + s.Name + " $(x)"); err != nil {
		t.Error(err)
	}
	for _, argv := range [][]string{{"false"}, {"/nonexistent/program"}, {"sh", "-c", "echo no route >&2; exit 3"}} {
		if c, err := Copy(t.Context(), command(argv...), s); err != nil || c.OK || c.Detail == "" {
			t.Errorf("%v: %+v, %v", argv, c, err)
		}
	}
	if _, err := Copy(t.Context(), command(), s); !errors.Is(err, ErrNoCopy) {
		t.Error(err)
	}
}

// TestComparable wants sums of one kind only.
func TestComparable(t *testing.T) {
	t.Parallel()
	for pair, want := range maps.All(map[[2]string]bool{
		{"pg15-hash_record_extended:1", "pg15-hash_record_extended:2"}: true,
		{"pg15-hash_record_extended:1", "pg16-hash_record_extended:1"}: false,
		{"", ""}: false, {"x:1", ""}: false,
	}) {
		if Comparable(pair[0], pair[1]) != want {
			t.Errorf("%v", pair)
		}
	}
}
