// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package restore

import (
	"archive/tar"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/redis/go-redis/v9"

	"github.com/niodoo/niodoo_exporter/internal/atomicfile"
	"github.com/niodoo/niodoo_exporter/internal/backup"
	"github.com/niodoo/niodoo_exporter/internal/backup/source"
	"github.com/niodoo/niodoo_exporter/internal/config"
)

// staged is what a service is restored from: members as files in a directory.
type staged struct {
	dir   string
	bytes int64
	names []string
}

func (s *staged) expect(member string, bytes int64) {
	s.bytes += bytes
	if !strings.HasSuffix(member, "/") {
		s.names = append(s.names, member)
	}
}

func (s *staged) path(member string) string { return filepath.Join(s.dir, path.Base(member)) }

func (s *staged) stage(h *tar.Header, r io.Reader) error {
	if h.Typeflag == tar.TypeDir {
		return nil
	}
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(s.path(h.Name), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, r)
	return errors.Join(err, f.Close())
}

func (s *staged) discard() { _ = os.RemoveAll(s.dir) }

// databases is a target: a PostgreSQL server.
type databases struct {
	staged
	server *server
	// as is the name to restore into; "" is that of the dump.
	as    string
	dumps []*databaseDump
	notes []string
}

// databaseDump is a database on its way.
type databaseDump struct {
	member string
	name   string // of the database to be
	live   bool
	fresh  string // of the one that is restored and not swapped yet
}

func newDatabases(ctx context.Context, cfg *config.Config, o Options, scratch, id string) (*databases, error) {
	p, err := source.OpenPostgres(ctx, cfg)
	address := net.JoinHostPort(cfg.PostgreSQL.Host, strconv.Itoa(cfg.PostgreSQL.Port))
	return &databases{staged: staged{dir: filepath.Join(scratch, PostgreSQL)}, server: &server{Postgres: p, address: address, id: id}, as: o.Database}, err
}

func (d *databases) takes(member string) bool { return strings.HasPrefix(member, backup.PostgreSQLDir) }

// databaseOf returns the database that a member is the dump of, false for none.
func databaseOf(member string) (name string, ok bool) {
	base, ok := strings.CutPrefix(member, backup.PostgreSQLDir)
	if !ok || member == backup.GlobalsMember {
		return "", false
	}
	for _, suffix := range []string{backup.DumpSuffix, scriptSuffix} {
		if name, ok := strings.CutSuffix(base, suffix); ok {
			return name, true
		}
	}
	return "", false
}

func (d *databases) expect(member string, bytes int64) {
	d.staged.expect(member, bytes)
	if name, ok := databaseOf(member); ok {
		d.dumps = append(d.dumps, &databaseDump{member: member, name: cmp.Or(d.as, name)})
	}
}

func (d *databases) plan(ctx context.Context) (Step, error) {
	if d.as != "" && len(d.dumps) > 1 {
		return Step{}, fmt.Errorf("there are %d databases in it: they cannot all become %q; use --to, and pg_restore", len(d.dumps), d.as)
	}
	step := Step{Part: PostgreSQL, Bytes: d.bytes, Target: "PostgreSQL on " + d.server.address}
	var names, live, kept []string
	for _, one := range d.dumps {
		names = append(names, strconv.Quote(one.name))
		var err error
		if one.live, err = d.server.exists(ctx, one.name); err != nil {
			return step, err
		}
		if one.live {
			live = append(live, fmt.Sprintf("the database %q exists", one.name))
			kept = append(kept, strconv.Quote(d.server.derived(one.name, "before")))
		}
	}
	step.What = "the database " + strings.Join(names, ", ")
	if len(live) > 0 {
		step.Live = strings.Join(live, ", ")
		step.Kept = "kept as " + strings.Join(kept, ", ") + "; its sessions are ended"
	}
	return step, nil
}

func (d *databases) stage(h *tar.Header, r io.Reader) error {
	if strings.HasSuffix(h.Name, scriptSuffix) && h.Name != backup.GlobalsMember {
		return d.staged.stage(h, &withoutCR{r: r})
	}
	return d.staged.stage(h, r)
}

func (d *databases) prepare(ctx context.Context) error {
	globals, err := os.ReadFile(d.path(backup.GlobalsMember))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	for _, one := range d.dumps {
		in := dump{path: d.path(one.member), script: strings.HasSuffix(one.member, scriptSuffix), globals: string(globals)}
		var notes []string
		one.fresh, notes, err = d.server.load(ctx, in, one.name)
		d.notes = append(d.notes, notes...)
		if err != nil {
			return err
		}
	}
	return nil
}

func (d *databases) commit(ctx context.Context) ([]string, error) {
	for _, one := range d.dumps {
		before, err := d.server.swap(ctx, one.fresh, one.name)
		if err != nil {
			return d.notes, err
		}
		one.fresh = ""
		if before != "" {
			d.notes = append(d.notes, fmt.Sprintf("the database that was there is kept; once it is not needed: DROP DATABASE %s;", quote(before)))
		}
	}
	return d.notes, nil
}

func (d *databases) discard() {
	for _, one := range d.dumps {
		if one.fresh != "" {
			_ = d.server.drop(context.Background(), one.fresh)
		}
	}
	d.staged.discard()
}

// dataset is a target: a Redis server that runs.
type dataset struct {
	staged
	cfg    config.Redis
	server redisServer
	before string // where what it has now is kept
	live   bool
}

func newDataset(cfg *config.Config, scratch, id string) (*dataset, error) {
	opts, err := redisOptions(cfg.Redis)
	if err != nil {
		return nil, err
	}
	return &dataset{staged: staged{dir: filepath.Join(scratch, Redis)}, cfg: cfg.Redis, server: redisServer{redis.NewClient(opts), redisIdle},
		before: filepath.Join(cfg.Backup.Directory, "redis_before_"+id+".rdb")}, nil
}

func (d *dataset) takes(member string) bool { return member == backup.RedisMember }

func (d *dataset) plan(ctx context.Context) (Step, error) {
	step := Step{Part: Redis, What: "the keys of " + backup.RedisMember, Target: "Redis on " + d.cfg.Address, Bytes: d.bytes}
	if err := d.server.master(ctx); err != nil {
		return step, err
	}
	n, err := d.server.keys(ctx)
	if err != nil {
		return step, err
	}
	if d.live = n > 0; d.live {
		step.Live = fmt.Sprintf("%d keys", n)
		step.Kept = "kept as " + d.before
	}
	return step, nil
}

func (d *dataset) prepare(ctx context.Context) error {
	dump, err := rdbVersion(d.path(backup.RedisMember))
	if err != nil || !d.live {
		return err
	}
	if err := atomicfile.Create(d.before, 0o600, func(w io.Writer) error { return source.DumpRedis(ctx, d.cfg, w) }); err != nil {
		return err
	}
	// One that is too old would throw away what it has and then fail.
	own, err := rdbVersion(d.before)
	if err == nil && dump > own {
		err = fmt.Errorf("the dump's format is %d, and this Redis writes %d: it is too old to load it", dump, own)
	}
	return err
}

func (d *dataset) commit(ctx context.Context) ([]string, error) {
	if err := d.server.load(ctx, d.path(backup.RedisMember)); err != nil {
		return nil, err
	}
	n, err := d.server.keys(ctx)
	if err != nil {
		return nil, err
	}
	notes := []string{fmt.Sprintf("it has %d keys now, those that had expired left out", n)}
	if d.live {
		notes = append(notes, "what it had is kept as "+d.before)
	}
	return notes, nil
}

func (d *dataset) discard() {
	_ = d.server.Close()
	d.staged.discard()
}

// collections is a target: a Qdrant server.
type collections struct {
	staged
	server *source.Qdrant
	live   map[string]int64 // points, of those that exist
}

func newCollections(cfg *config.Config, scratch string) (*collections, error) {
	q, err := source.OpenQdrant(cfg.Qdrant)
	return &collections{staged: staged{dir: filepath.Join(scratch, Qdrant)}, server: q, live: map[string]int64{}}, err
}

func (c *collections) takes(member string) bool {
	return strings.HasPrefix(member, backup.QdrantDir) && strings.HasSuffix(member, backup.SnapshotSuffix)
}

func collectionOf(member string) string {
	return strings.TrimSuffix(path.Base(member), backup.SnapshotSuffix)
}

func (c *collections) plan(ctx context.Context) (Step, error) {
	step := Step{Part: Qdrant, What: fmt.Sprintf("%d collections", len(c.names)), Target: "Qdrant on " + c.server.URL(), Bytes: c.bytes}
	var live []string
	for _, n := range c.names {
		points, exists, err := c.server.Points(ctx, collectionOf(n))
		if err != nil {
			return step, fmt.Errorf("qdrant: %w", err)
		}
		if !exists {
			continue
		}
		c.live[collectionOf(n)] = points
		if points > 0 {
			live = append(live, fmt.Sprintf("%s with %d points", collectionOf(n), points))
		}
	}
	if len(live) > 0 {
		step.Live = strings.Join(live, ", ")
		step.Kept = "kept as snapshots on the server"
	}
	return step, nil
}

func (c *collections) prepare(context.Context) error { return nil }

func (c *collections) commit(ctx context.Context) (notes []string, err error) {
	for _, n := range c.names {
		name := collectionOf(n)
		if c.live[name] > 0 {
			snapshot, err := c.server.Snapshot(ctx, name)
			if err != nil {
				return notes, fmt.Errorf("qdrant: %w", err)
			}
			notes = append(notes, fmt.Sprintf("the points that %s had are kept in its snapshot %s", name, snapshot))
		}
		if err := c.server.Upload(ctx, name, c.path(n)); err != nil {
			return notes, fmt.Errorf("qdrant: %w", err)
		}
		points, _, err := c.server.Points(ctx, name)
		if err != nil {
			return notes, fmt.Errorf("qdrant: %w", err)
		}
		notes = append(notes, fmt.Sprintf("%s has %d points now", name, points))
	}
	return notes, nil
}
