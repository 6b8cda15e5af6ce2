// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package source

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/niodoo/niodoo_exporter/internal/config"
)

// What a restore needs of the services that a backup is made of.

// MaintenanceDatabase is where one connects to that creates and renames databases.
const MaintenanceDatabase = "postgres"

// Postgres is a server with the programs for it.
type Postgres struct{ p *postgres }

// OpenPostgres finds the programs that fit the server of a configuration, which
// is reached as the role of the backups.
func OpenPostgres(ctx context.Context, cfg *config.Config) (*Postgres, error) {
	p := newPostgres(cfg)
	conn, err := p.connect(ctx, MaintenanceDatabase)
	if err != nil {
		return nil, err
	}
	defer closeConn(conn)
	if _, _, err := p.identify(ctx, conn, cfg.Backup.PGDump); err != nil {
		return nil, err
	}
	return &Postgres{p}, nil
}

// Connect opens a session to a database. Close it.
func (s *Postgres) Connect(ctx context.Context, database string) (*pgx.Conn, error) {
	return s.p.connect(ctx, database)
}

// Run runs one of PostgreSQL's programs, connected to a database unless that is
// "". What the program said is in the error.
func (s *Postgres) Run(ctx context.Context, program, database string, in io.Reader, out io.Writer, args ...string) error {
	env, cleanup, err := s.p.environment()
	if err != nil {
		return err
	}
	defer cleanup()
	if database != "" {
		args = append([]string{"-w", "-d", connString(database)}, args...)
	}
	c := s.p.dump.command(ctx, env, program, args...)
	c.Stdin, c.Stdout = in, out
	return c.failure(c.Run())
}

// DumpRedis writes a fresh dump of a server.
func DumpRedis(ctx context.Context, cfg config.Redis, w io.Writer) error {
	r, err := dialRedis(ctx, cfg)
	if err != nil {
		return err
	}
	defer r.conn.Close()
	stop := context.AfterFunc(ctx, func() { r.conn.Close() })
	defer stop()
	size, err := r.dump()
	if err != nil {
		return err
	}
	check := newRDBCheck()
	if _, err := io.Copy(io.MultiWriter(w, check), io.LimitReader(r.r, size)); err != nil {
		return err
	}
	return check.verdict(size)
}

// Qdrant is a server.
type Qdrant struct{ s *service }

// OpenQdrant makes the client of a server. It does not connect.
func OpenQdrant(cfg config.Qdrant) (*Qdrant, error) {
	s, err := newQdrant(cfg)
	return &Qdrant{s}, err
}

// URL returns the server's address without credentials.
func (q *Qdrant) URL() string { return q.s.base.Redacted() }

// Points returns how many points a collection has; exists is false where there
// is no such collection.
func (q *Qdrant) Points(ctx context.Context, collection string) (n int64, exists bool, err error) {
	names, err := q.s.collections(ctx)
	if err != nil || !slices.Contains(names, collection) {
		return 0, false, err
	}
	n, err = q.s.points(ctx, collection)
	return n, err == nil, err
}

// Vectors returns the dimensions of a collection's vectors by name.
func (q *Qdrant) Vectors(ctx context.Context, collection string) (map[string]int64, error) {
	return q.s.vectors(ctx, collection)
}

// Version returns the server's version.
func (q *Qdrant) Version(ctx context.Context) (string, error) { return q.s.version(ctx) }

// Snapshot makes a snapshot of a collection, leaves it on the server and returns
// its name.
func (q *Qdrant) Snapshot(ctx context.Context, collection string) (string, error) {
	var made qdrantAnswer[struct {
		Name string `json:"name"`
	}]
	_, err := q.s.json(ctx, &made, http.MethodPost, "wait=true", "collections", collection, "snapshots")
	if err == nil && made.Result.Name == "" {
		err = errors.New("POST snapshots: the answer names no snapshot")
	}
	return made.Result.Name, err
}

// Upload makes a collection what it was in the snapshot of a file. What the
// collection has is replaced; one that is not there is created.
func (q *Qdrant) Upload(ctx context.Context, collection, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	sum := sha256.New()
	size, err := io.Copy(sum, f)
	if err != nil {
		return err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	var form bytes.Buffer
	w := multipart.NewWriter(&form)
	if _, err := w.CreateFormFile("snapshot", filepath.Base(path)); err != nil {
		return err
	}
	head := slices.Clone(form.Bytes())
	if err := w.Close(); err != nil {
		return err
	}
	tail := form.Bytes()[len(head):]
	query := url.Values{"priority": {"snapshot"}, "wait": {"true"}, "checksum": {hex.EncodeToString(sum.Sum(nil))}}
	body, err := q.s.send(ctx, http.MethodPost, query.Encode(), io.MultiReader(bytes.NewReader(head), f, bytes.NewReader(tail)),
		int64(len(head))+size+int64(len(tail)), w.FormDataContentType(), "collections", collection, "snapshots", "upload")
	if err != nil {
		return err
	}
	defer body.Close()
	if _, err := io.Copy(io.Discard, io.LimitReader(body, maxAnswer)); err != nil {
		return fmt.Errorf("POST upload: %w", err)
	}
	return nil
}
