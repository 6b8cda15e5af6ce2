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
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/redis/go-redis/v9"

	"github.com/niodoo/niodoo_exporter/internal/backup"
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

// database is a target: a database of a PostgreSQL server.
type database struct {
	staged
	server *Postgres
	name   string // to restore into; "" is that of the dump
	dump   string // the member
	fresh  string
	notes  []string
}

func newDatabase(cfg *config.Config, o Options, scratch, id string) (*database, error) {
	server, err := newPostgres(cfg, id)
	return &database{staged: staged{dir: filepath.Join(scratch, PostgreSQL)}, server: server, name: o.Database}, err
}

func (d *database) takes(member string) bool { return strings.HasPrefix(member, backup.PostgreSQLDir) }

func (d *database) plan(ctx context.Context) (Step, error) {
	for _, n := range d.names {
		if n == backup.GlobalsMember {
			continue
		}
		if d.dump != "" {
			return Step{}, fmt.Errorf("%s and %s: more than one database is in it: restore with --to, and each with pg_restore", d.dump, n)
		}
		d.dump = n
	}
	base := path.Base(d.dump)
	d.name = cmp.Or(d.name, strings.TrimSuffix(base, path.Ext(base)))
	step := Step{Part: PostgreSQL, What: "the database of " + d.dump, Bytes: d.bytes,
		Target: fmt.Sprintf("the database %q on %s", d.name, d.server.address())}
	live, err := d.server.exists(ctx, d.name)
	if err != nil {
		return step, err
	}
	if live {
		step.Live = "it exists"
		step.Kept = fmt.Sprintf("kept as %q; its sessions are ended", d.server.derived(d.name, "before"))
	}
	return step, nil
}

func (d *database) stage(h *tar.Header, r io.Reader) error {
	if strings.HasSuffix(h.Name, scriptSuffix) && h.Name != backup.GlobalsMember {
		return d.staged.stage(h, &withoutCR{r: r})
	}
	return d.staged.stage(h, r)
}

func (d *database) prepare(ctx context.Context) error {
	in := dump{path: d.path(d.dump), script: strings.HasSuffix(d.dump, scriptSuffix)}
	globals, err := os.ReadFile(d.path(backup.GlobalsMember))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	in.globals = string(globals)
	d.fresh, d.notes, err = d.server.load(ctx, in, d.name)
	return err
}

func (d *database) commit(ctx context.Context) ([]string, error) {
	before, err := d.server.swap(ctx, d.fresh, d.name)
	if err != nil {
		return d.notes, err
	}
	d.fresh = ""
	if before != "" {
		d.notes = append(d.notes, fmt.Sprintf("the database that was there is kept; once it is not needed: DROP DATABASE %s;", quote(before)))
	}
	return d.notes, nil
}

func (d *database) discard() {
	if d.fresh != "" {
		_ = d.server.drop(context.Background(), d.fresh)
	}
	d.staged.discard()
}

// dataset is a target: a Redis server that runs.
type dataset struct {
	staged
	server   redisServer
	address  string
	before   string // where what it has now is kept
	live     bool
	progress func(int64)
}

func newDataset(cfg *config.Config, o Options, scratch, id string) (*dataset, error) {
	opts, err := redisOptions(cfg.Redis)
	if err != nil {
		return nil, err
	}
	return &dataset{staged: staged{dir: filepath.Join(scratch, Redis)}, server: redisServer{redis.NewClient(opts)}, address: cfg.Redis.Address,
		before: filepath.Join(cfg.Backup.Directory, "redis_before_"+id+".rdb"), progress: func(int64) {}}, nil
}

func (d *dataset) takes(member string) bool { return member == backup.RedisMember }

func (d *dataset) plan(ctx context.Context) (Step, error) {
	step := Step{Part: Redis, What: "the keys of " + backup.RedisMember, Target: "Redis on " + d.address, Bytes: d.bytes}
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
	if !d.live {
		return nil
	}
	return d.keep(ctx)
}

func (d *dataset) commit(ctx context.Context) ([]string, error) {
	if err := d.server.load(ctx, d.path(backup.RedisMember), d.progress); err != nil {
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
	server *qdrant
	live   map[string]int64 // points, of those that exist
}

func newCollections(cfg *config.Config, _ Options, scratch string) (*collections, error) {
	server, err := newQdrant(cfg.Qdrant)
	return &collections{staged: staged{dir: filepath.Join(scratch, Qdrant)}, server: server, live: map[string]int64{}}, err
}

func (c *collections) takes(member string) bool {
	return strings.HasPrefix(member, backup.QdrantDir) && strings.HasSuffix(member, backup.SnapshotSuffix)
}

func collectionOf(member string) string {
	return strings.TrimSuffix(path.Base(member), backup.SnapshotSuffix)
}

func (c *collections) plan(ctx context.Context) (Step, error) {
	step := Step{Part: Qdrant, What: fmt.Sprintf("%d collections", len(c.names)), Target: "Qdrant on " + c.server.url(), Bytes: c.bytes}
	var live []string
	for _, n := range c.names {
		points, err := c.server.points(ctx, collectionOf(n))
		if errors.Is(err, errNoCollection) {
			continue
		}
		if err != nil {
			return step, err
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
			snapshot, err := c.server.snapshot(ctx, name)
			if err != nil {
				return notes, err
			}
			notes = append(notes, fmt.Sprintf("the points that %s had are kept in its snapshot %s", name, snapshot))
		}
		if err := c.server.upload(ctx, name, c.path(n)); err != nil {
			return notes, err
		}
		points, err := c.server.points(ctx, name)
		if err != nil {
			return notes, err
		}
		notes = append(notes, fmt.Sprintf("%s has %d points now", name, points))
	}
	return notes, nil
}
