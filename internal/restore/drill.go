// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package restore

import (
	"archive/tar"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"filippo.io/age"
	"github.com/redis/go-redis/v9"

	"github.com/niodoo/niodoo_exporter/internal/backup"
	"github.com/niodoo/niodoo_exporter/internal/backup/source"
	"github.com/niodoo/niodoo_exporter/internal/config"
	"github.com/niodoo/niodoo_exporter/internal/localserver"
)

// RecoveryTarget is how long a recovery may take: the operations manual's
// criterion of a recovery test.
const RecoveryTarget = 30 * time.Minute

const (
	drillPrefix = "niodoo-drill-"
	// maxDifferences bounds what is listed.
	maxDifferences = 50
	// maxSocketPath is the most that the system allows for a socket's path.
	maxSocketPath = 107
)

// serverRoom is how much room a server takes per byte of what it restores: a
// database with its indexes and the write-ahead log; a snapshot that is received,
// unpacked and put in place, where there is the program for it.
func serverRoom(b config.Backup) map[string]int64 {
	room := map[string]int64{backup.PostgreSQLDir: 3}
	if _, err := exec.LookPath(b.QdrantProgram); err == nil {
		room[backup.QdrantDir] = 3
	}
	return room
}

// ErrNoProgram says that a program of a server is not on this machine.
var ErrNoProgram = errors.New("not on this machine")

// DrillOptions say how a drill is made.
type DrillOptions struct {
	// Scratch is an existing directory for all that is restored.
	Scratch    string
	Identities []age.Identity
	// Progress, if set, is told of the bytes of the archive as they are read.
	Progress func(int64)
}

// Report is what a drill found out.
type Report struct {
	Backup string `json:"backup"`
	// Recovery is the time from the start to compared rows.
	Recovery float64 `json:"recovery_seconds"`
	Target   float64 `json:"target_seconds"`
	Phases   []Phase `json:"phases"`
	// What was compared and is the same.
	Tables int   `json:"tables"`
	Rows   int64 `json:"rows"`
	Keys   int64 `json:"keys"`
	// Snapshots of Qdrant were read; Points are those of the collections that a
	// Qdrant recovered from them.
	Snapshots int   `json:"snapshots"`
	Points    int64 `json:"points"`
	Files     int64 `json:"files"`
	Bytes     int64 `json:"file_bytes"`
	// Differences are where what was restored is not what was backed up.
	Differences []string `json:"differences"`
	// NotDrilled is what is in the backup and was not restored, and why.
	NotDrilled []string `json:"not_drilled"`
	Notes      []string `json:"notes,omitempty"`
}

// Phase is a part of a drill.
type Phase struct {
	Name    string  `json:"name"`
	Seconds float64 `json:"seconds"`
}

// Proven reports whether all that was restored is what was backed up.
func (r *Report) Proven() bool { return len(r.Differences) == 0 }

func (r *Report) differ(format string, args ...any) {
	switch n := len(r.Differences); {
	case n < maxDifferences:
		r.Differences = append(r.Differences, fmt.Sprintf(format, args...))
	case n == maxDifferences:
		r.Differences = append(r.Differences, "and more")
	}
}

func (r *Report) note(format string, args ...any) {
	if len(r.Notes) < maxNotes {
		r.Notes = append(r.Notes, fmt.Sprintf(format, args...))
	}
}

// drill is a drill in progress.
type drill struct {
	cfg      *config.Config
	opts     DrillOptions
	dir      string // below Scratch; its lock is held
	summary  backup.Summary
	report   *Report
	tree     *tree
	pg       staged
	rdb      staged
	hasFiles bool
	// snapshots are Qdrant's.
	snapshots staged
	// links are the hard links: their content stands under another name.
	links map[string]bool
}

// Drill restores a backup of ours to a scratch directory and servers of its own,
// and compares what came out with what the manifest says went in. Nothing of
// production is touched or asked. Whatever happens, what it made is removed; of
// a drill that was killed, the next one removes it.
//
// The report's differences, and errors that are [backup.ErrDamaged] or
// [ErrRestore], say that the backup is bad. Any other error says that it could
// not be found out.
func Drill(ctx context.Context, cfg *config.Config, b backup.Backup, o DrillOptions) (report *Report, err error) {
	if b.Layout != backup.Native {
		return nil, fmt.Errorf("%s is of the manual's script: it has neither checksums nor numbers of rows that could be compared", b.Name)
	}
	d := &drill{cfg: cfg, opts: o, links: map[string]bool{}, report: &Report{Backup: b.Name, Target: RecoveryTarget.Seconds(), Differences: []string{}, NotDrilled: []string{}}}
	if d.summary, err = backup.ReadManifest(cfg.Backup.Directory, b.Name, nil); err != nil {
		return nil, err
	}
	unlock, err := d.begin()
	if err != nil {
		return nil, err
	}
	defer func() {
		err = errors.Join(err, removeTree(d.dir))
		unlock()
	}()
	started := time.Now()
	for _, p := range []struct {
		name string
		in   func() bool // the backup
		do   func(context.Context) error
	}{
		{"verify and unpack", func() bool { return true }, d.unpack},
		{PostgreSQL, func() bool { return len(d.pg.names)+len(d.summary.Rows[PostgreSQL]) > 0 }, d.postgresql},
		{Redis, func() bool { return len(d.rdb.names) > 0 }, d.redis},
		{Qdrant, func() bool { return len(d.snapshots.names) > 0 }, d.qdrant},
		{Files, func() bool { return d.hasFiles }, d.files},
	} {
		if !p.in() {
			continue
		}
		at := time.Now()
		if err := p.do(ctx); err != nil {
			return d.report, fmt.Errorf("%s: %w", p.name, err)
		}
		d.report.Phases = append(d.report.Phases, Phase{p.name, time.Since(at).Seconds()})
	}
	for _, s := range d.summary.Skipped {
		d.report.note("it is not in the backup: %s: %s", s.What, s.Why)
	}
	d.report.Recovery = time.Since(started).Seconds()
	return d.report, nil
}

// begin makes the directory of the drill, if there is room for it.
func (d *drill) begin() (unlock func(), err error) {
	need, room := d.summary.ContentBytes, serverRoom(d.cfg.Backup)
	_, err = backup.ReadManifest(d.cfg.Backup.Directory, d.summary.Name, func(e backup.Entry) error {
		need += room[path.Dir(e.Name)+"/"] * e.Bytes
		return nil
	})
	if err != nil {
		return nil, err
	}
	if d.dir, unlock, err = workDir(d.opts.Scratch, drillPrefix); err != nil {
		return nil, err
	}
	// The server's user passes through, and sees nothing of the rest. Only now is
	// there all the room that there can be.
	err = errors.Join(Room(d.opts.Scratch, need), os.Chmod(d.dir, 0o711), os.Mkdir(filepath.Join(d.dir, "files"), 0o700))
	if err != nil {
		err = errors.Join(err, removeTree(d.dir))
		unlock()
		return nil, err
	}
	d.pg.dir, d.rdb.dir, d.snapshots.dir = filepath.Join(d.dir, "dumps"), filepath.Join(d.dir, "redis"), filepath.Join(d.dir, "qdrant")
	return unlock, nil
}

// unpack reads the archive once, which proves every byte of it.
func (d *drill) unpack(ctx context.Context) error {
	var err error
	if d.tree, err = newTree(filepath.Join(d.dir, "files")); err != nil {
		return err
	}
	defer d.tree.close()
	from := native{d.cfg.Backup.Directory, d.summary.Name, d.opts.Identities, d.opts.Progress}
	err = from.walk(ctx, func(h *tar.Header, r io.Reader) error {
		switch {
		case strings.HasPrefix(h.Name, backup.FilesDir):
			d.hasFiles = true
			if h.Typeflag == tar.TypeLink {
				d.links[h.Name] = true
			}
			return d.tree.add(h, r)
		case strings.HasPrefix(h.Name, backup.PostgreSQLDir):
			d.pg.expect(h.Name, h.Size)
			return d.pg.stage(h, r)
		case h.Name == backup.RedisMember:
			d.rdb.expect(h.Name, h.Size)
			return d.rdb.stage(h, r)
		case strings.HasPrefix(h.Name, backup.QdrantDir):
			d.snapshots.expect(h.Name, h.Size)
			return d.snapshots.stage(h, r)
		}
		return nil
	})
	if err != nil {
		return err
	}
	d.report.Notes = append(d.report.Notes, d.tree.notes...)
	return d.tree.finish()
}

// postgresql restores every database and compares the rows.
func (d *drill) postgresql(ctx context.Context) error {
	var dumps []string
	for _, n := range d.pg.names {
		if _, ok := databaseOf(n); ok {
			dumps = append(dumps, n)
		}
	}
	major := majorOf(d.summary.Versions["postgresql"])
	bin, err := serverPrograms(d.cfg.Backup.PGDump, major)
	if err != nil {
		return err
	}
	if longest := len(d.dir) + len("/pg1234567890/.s.PGSQL.5432.lock"); longest > maxSocketPath {
		return fmt.Errorf("the path %s is too long for a socket: give a shorter --scratch", d.opts.Scratch)
	}
	running, err := localserver.StartPostgres(ctx, localserver.PostgresOptions{Scratch: d.dir, Programs: bin, Settings: map[string]string{
		"wal_level": "minimal", "max_wal_senders": "0", "max_wal_size": "'8GB'", "maintenance_work_mem": "'256MB'", "shared_buffers": "'128MB'",
		"autovacuum": "off", "archive_mode": "off",
	}})
	if err != nil {
		return err
	}
	defer running.Stop()
	scratch := &config.Config{
		Services: config.Services{PostgreSQL: config.PostgreSQL{Host: running.SocketDir, Port: running.Port, User: localserver.PostgresSuperuser, SSLMode: "disable"}},
		Local:    config.Local{Backup: config.Backup{PGDump: filepath.Join(bin, "pg_dump")}}}
	p, err := source.OpenPostgres(ctx, scratch)
	if err != nil {
		return err
	}
	pg := &server{Postgres: p, id: "drill", scratch: true}
	globals, err := os.ReadFile(d.pg.path(backup.GlobalsMember))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	want := maps.Clone(d.summary.Rows[PostgreSQL])
	for _, member := range dumps {
		name, _ := databaseOf(member)
		fresh, _, err := pg.load(ctx, dump{path: d.pg.path(member), globals: string(globals)}, name)
		if err != nil {
			return err
		}
		prefix := ""
		if len(dumps) > 1 {
			prefix = name + ":"
		}
		if err := d.compareRows(ctx, pg, fresh, prefix, want); err != nil {
			return err
		}
	}
	for _, table := range slices.Sorted(maps.Keys(want)) {
		d.report.differ("the table %s with %d rows is missing", table, want[table].Count)
	}
	return nil
}

// compareRows compares a database's rows with those of the manifest, and takes
// out of want what it found.
func (d *drill) compareRows(ctx context.Context, pg *server, database, prefix string, want map[string]backup.Rows) error {
	conn, err := pg.Connect(ctx, database)
	if err != nil {
		return err
	}
	defer closeSession(conn)
	got, err := source.CountRows(ctx, conn)
	if err != nil {
		return err
	}
	for _, table := range slices.Sorted(maps.Keys(got)) {
		w, ok := want[prefix+table]
		g := got[table]
		switch {
		case !ok:
			if g.Count > 0 { // else it is the table of large objects, which our role could not see
				d.report.note("%s was not counted when it was backed up", prefix+table)
			}
			continue
		case g.Count != w.Count:
			d.report.differ("%s has %d rows and had %d", prefix+table, g.Count, w.Count)
		case !source.Comparable(g.Sum, w.Sum):
			d.report.note("of %s only the number of rows is compared: this PostgreSQL is of another version", prefix+table)
		case g.Sum != w.Sum:
			d.report.differ("%s has as many rows as it had, %d, but others", prefix+table, g.Count)
		}
		delete(want, prefix+table)
		d.report.Tables++
		d.report.Rows += g.Count
	}
	return nil
}

var majorRE = regexp.MustCompile(`^\d+`)

func majorOf(version string) int {
	n, _ := strconv.Atoi(majorRE.FindString(version))
	return n
}

// serverPrograms returns the directory with the programs of a server that can
// restore a dump of this version: beside the configured pg_dump, or where Debian
// has them.
func serverPrograms(pgDump string, major int) (string, error) {
	var dirs []string
	if path, err := exec.LookPath(pgDump); err == nil {
		if real, err := filepath.EvalSymlinks(path); err == nil {
			dirs = append(dirs, filepath.Dir(real))
		}
	}
	debian, _ := filepath.Glob("/usr/lib/postgresql/*/bin")
	slices.SortFunc(debian, func(a, b string) int { return debianMajor(a) - debianMajor(b) })
	for _, dir := range debian {
		if debianMajor(dir) >= major {
			dirs = append(dirs, dir)
		}
	}
	for _, dir := range dirs {
		missing := false
		for _, program := range []string{"initdb", "postgres", "pg_restore"} {
			_, err := exec.LookPath(filepath.Join(dir, program))
			missing = missing || err != nil
		}
		if missing {
			continue
		}
		out, err := exec.Command(filepath.Join(dir, "postgres"), "--version").Output()
		if version := strings.Fields(string(out)); err == nil && len(version) > 2 && majorOf(version[2]) >= major {
			return dir, nil
		}
	}
	return "", fmt.Errorf("the programs of a PostgreSQL server of version %d or newer are %w: install postgresql-%d, "+
		"or let backup.pg_dump name the pg_dump beside them", major, ErrNoProgram, major)
}

func debianMajor(bin string) int { return majorOf(filepath.Base(filepath.Dir(bin))) }

// redis starts a server on the dump and counts the keys.
func (d *drill) redis(ctx context.Context) error {
	server, err := localserver.StartRedis(ctx, localserver.RedisOptions{Scratch: d.rdb.dir})
	switch {
	case errors.Is(err, localserver.ErrNotInstalled):
		d.report.NotDrilled = append(d.report.NotDrilled, "Redis: its dump is whole, but redis-server is not on this machine")
		return nil
	case err != nil && strings.Contains(err.Error(), "RDB format version"):
		d.report.NotDrilled = append(d.report.NotDrilled, "Redis: its dump is whole, but the redis-server on this machine is too old for it")
		return nil
	case err != nil:
		return err
	}
	defer server.Stop()
	client := redisServer{redis.NewClient(&redis.Options{Network: "unix", Addr: server.Socket, MaxRetries: -1, ContextTimeoutEnabled: true}), redisIdle}
	defer func() { _ = client.Close() }()
	if err := client.loaded(ctx); err != nil {
		return err
	}
	got, err := client.keysByDatabase(ctx)
	if err != nil {
		return err
	}
	expired, known, err := client.expired(ctx)
	if err != nil {
		return err
	}
	for _, db := range slices.Sorted(maps.Keys(d.summary.Rows[Redis])) {
		want := d.summary.Rows[Redis][db].Count
		switch {
		case got[db] < want && !known:
			d.report.note("Redis' %s has %d keys and had %d; this Redis does not tell how many have expired", db, got[db], want)
		case got[db] > want, got[db]+expired < want:
			d.report.differ("Redis' %s has %d keys and had %d; %d have expired", db, got[db], want, expired)
		}
	}
	for _, n := range got {
		d.report.Keys += n
	}
	return nil
}

// files compares what lies on the disk now with the manifest.
func (d *drill) files(ctx context.Context) error {
	root, err := os.OpenRoot(filepath.Join(d.dir, "files"))
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }()
	_, err = backup.ReadManifest(d.cfg.Backup.Directory, d.summary.Name, func(e backup.Entry) error {
		name, err := e.Member()
		if err != nil || !strings.HasPrefix(name, backup.FilesDir) {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		return d.file(root, name, e)
	})
	return err
}

func (d *drill) file(root *os.Root, name string, e backup.Entry) error {
	info, err := root.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) {
		d.report.differ("%q is missing", name)
		return nil
	}
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return nil
	}
	d.report.Files++
	if d.links[name] { // its content was compared under its first name
		return nil
	}
	f, err := root.Open(name)
	if errors.Is(err, fs.ErrPermission) { // its mode is restored, and only root reads it all the same
		d.report.note("%q cannot be read again", name)
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	sum := sha256.New()
	n, err := io.Copy(sum, f)
	if err != nil {
		return err
	}
	if n != e.Bytes || hex.EncodeToString(sum.Sum(nil)) != e.SHA256 {
		d.report.differ("%q has another content than it had", name)
	}
	d.report.Bytes += n
	return nil
}

// loaded waits until a server has loaded its data.
func (r redisServer) loaded(ctx context.Context) error {
	for {
		fields, err := r.info(ctx, "persistence")
		if err == nil && fields["loading"] == "0" {
			return nil
		}
		if err != nil && !strings.Contains(err.Error(), "LOADING") {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(redisPoll):
		}
	}
}

// expired returns how many keys have expired since they were backed up; known
// is false where the server, older than 7.0, does not tell.
func (r redisServer) expired(ctx context.Context) (n int64, known bool, err error) {
	persistence, err := r.info(ctx, "persistence")
	if err != nil {
		return 0, false, err
	}
	stats, err := r.info(ctx, "stats")
	if err != nil {
		return 0, false, err
	}
	while, ok := persistence["rdb_last_load_keys_expired"]
	for _, field := range []string{cmp.Or(while, "0"), cmp.Or(stats["expired_keys"], "0")} {
		v, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return 0, false, fmt.Errorf("redis: INFO says %.100q", field)
		}
		n += v
	}
	return n, ok, nil
}
