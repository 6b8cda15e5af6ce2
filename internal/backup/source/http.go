// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package source

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/niodoo/niodoo_exporter/internal/backup"
	"github.com/niodoo/niodoo_exporter/internal/config"
	"github.com/niodoo/niodoo_exporter/internal/endpoint"
)

const (
	// maxAnswer bounds an answer that is not a snapshot, in bytes.
	maxAnswer = 16 << 20
	// cleanUpTimeout bounds the deletion of a snapshot, also when interrupted.
	cleanUpTimeout = 30 * time.Second
)

// service is one that is spoken to over HTTP.
type service struct {
	base   *url.URL
	client *http.Client
	header http.Header
}

func newService(cfg config.HTTP) (*service, error) {
	base, err := url.Parse(strings.TrimRight(cfg.URL, "/"))
	if err != nil {
		return nil, errors.New("the url cannot be parsed") // its text may hold credentials
	}
	rt, err := endpoint.Transport(cfg)
	if err != nil {
		return nil, err
	}
	return &service{base: base, client: &http.Client{Transport: rt,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}, header: http.Header{}}, nil
}

// open asks for a path below the base, whose elements are escaped, and returns
// the answer's body. Close it.
func (s *service) open(ctx context.Context, method, query string, path ...string) (io.ReadCloser, error) {
	return s.send(ctx, method, query, nil, 0, "", path...)
}

// send is open with a body of a known length, which is of a type.
func (s *service) send(ctx context.Context, method, query string, body io.Reader, length int64, contentType string, path ...string) (io.ReadCloser, error) {
	u := *s.base
	for _, p := range path {
		u.RawPath = u.EscapedPath() + "/" + url.PathEscape(p)
		u.Path += "/" + p
	}
	u.RawQuery = query
	what := method + " /" + strings.Join(path, "/")
	req, err := http.NewRequestWithContext(ctx, method, u.String(), body)
	if err != nil {
		return nil, fmt.Errorf("%s: the URL cannot be used", what)
	}
	req.Header = s.header.Clone()
	if body != nil {
		req.ContentLength = length
		req.Header.Set("Content-Type", contentType)
	}
	res, err := s.client.Do(req)
	if err != nil {
		if e, ok := errors.AsType[*url.Error](err); ok {
			err = e.Err // without the address
		}
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	if res.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(res.Body, 300))
		res.Body.Close()
		return nil, &endpoint.StatusError{Request: what, Status: res.Status, Code: res.StatusCode, Said: strings.TrimSpace(string(text))}
	}
	return res.Body, nil
}

// json asks for a path and decodes the answer; it returns the raw one too.
func (s *service) json(ctx context.Context, into any, method, query string, path ...string) ([]byte, error) {
	body, err := s.open(ctx, method, query, path...)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	raw, err := io.ReadAll(io.LimitReader(body, maxAnswer))
	if err == nil {
		err = json.Unmarshal(raw, into)
	}
	if err != nil {
		return nil, fmt.Errorf("%s /%s: the answer cannot be read: %w", method, strings.Join(path, "/"), err)
	}
	return raw, nil
}

// backUpOllama adds the list of models: they are large, and pulled again by
// name and digest.
func backUpOllama(ctx context.Context, b *run) error {
	s, err := newService(b.cfg.Ollama.HTTP)
	if err != nil {
		return err
	}
	var tags struct {
		Models []struct {
			Name   string `json:"name"`
			Digest string `json:"digest"`
		} `json:"models"`
	}
	raw, err := s.json(ctx, &tags, http.MethodGet, "", "api", "tags")
	if err != nil {
		return err
	}
	var version struct {
		Version string `json:"version"`
	}
	if _, err := s.json(ctx, &version, http.MethodGet, "", "api", "version"); err != nil {
		return err
	}
	b.summary.Versions["ollama"] = version.Version
	b.summary.Models = map[string]string{}
	for _, m := range tags.Models {
		b.summary.Models[m.Name] = m.Digest
	}
	return b.archive.AddBytes(backup.ModelsMember, raw, b.summary.Started)
}

// qdrant answers with this around everything.
type qdrantAnswer[T any] struct {
	Result T `json:"result"`
}

// newQdrant returns the service with its key.
func newQdrant(cfg config.Qdrant) (*service, error) {
	s, err := newService(cfg.HTTP)
	if err != nil {
		return nil, err
	}
	key, err := cfg.APIKeyFile.Read()
	if err != nil {
		return nil, err
	}
	if key.Reveal() != "" {
		s.header.Set("api-key", key.Reveal())
	}
	return s, nil
}

// collections lists the collections.
func (s *service) collections(ctx context.Context) ([]string, error) {
	var list qdrantAnswer[struct {
		Collections []struct {
			Name string `json:"name"`
		} `json:"collections"`
	}]
	if _, err := s.json(ctx, &list, http.MethodGet, "", "collections"); err != nil {
		return nil, err
	}
	var names []string
	for _, c := range list.Result.Collections {
		names = append(names, c.Name)
	}
	return names, nil
}

// version asks Qdrant for its own.
func (s *service) version(ctx context.Context) (string, error) {
	var about struct {
		Version string `json:"version"`
	}
	_, err := s.json(ctx, &about, http.MethodGet, "", "")
	return about.Version, err
}

// backUpQdrant adds a snapshot of each collection.
func backUpQdrant(ctx context.Context, b *run) error {
	s, err := newQdrant(b.cfg.Qdrant)
	if err != nil {
		return err
	}
	if b.summary.Versions["qdrant"], err = s.version(ctx); err != nil {
		return err
	}
	names, err := s.collections(ctx)
	if err != nil {
		return err
	}
	b.summary.Collections = map[string]backup.Collection{}
	for _, name := range names {
		if err := snapshotCollection(ctx, b, s, name); err != nil {
			if ctx.Err() != nil || b.archive.Failed() != nil {
				return err
			}
			b.skip("Qdrant's collection "+name, err.Error())
		}
	}
	return nil
}

// points returns the exact number of points in a collection. The one in its
// description counts a point twice while it is moved between two segments.
func (s *service) points(ctx context.Context, collection string) (int64, error) {
	const exact = `{"exact":true}`
	body, err := s.send(ctx, http.MethodPost, "", strings.NewReader(exact), int64(len(exact)), "application/json", "collections", collection, "points", "count")
	if err != nil {
		return 0, err
	}
	defer body.Close()
	var n qdrantAnswer[struct {
		Count *int64 `json:"count"`
	}]
	if err := json.NewDecoder(io.LimitReader(body, maxAnswer)).Decode(&n); err != nil {
		return 0, fmt.Errorf("POST /collections/%s/points/count: the answer cannot be read: %w", collection, err)
	}
	if n.Result.Count == nil {
		return 0, fmt.Errorf("POST /collections/%s/points/count: the answer has no number", collection)
	}
	return *n.Result.Count, nil
}

// vectors returns the dimensions of a collection's vectors by name.
func (s *service) vectors(ctx context.Context, collection string) (map[string]int64, error) {
	var info qdrantAnswer[struct {
		Config CollectionConfig `json:"config"`
	}]
	if _, err := s.json(ctx, &info, http.MethodGet, "", "collections", collection); err != nil {
		return nil, err
	}
	return info.Result.Config.Params.Vectors, nil
}

// CollectionConfig is how Qdrant describes a collection, in its answers and in
// the config.json of a snapshot.
type CollectionConfig struct {
	Params struct {
		Vectors Vectors `json:"vectors"`
		Shards  int     `json:"shard_number"`
		// Sharding is "custom" where the shards have names of the user's.
		Sharding string `json:"sharding_method"`
	} `json:"params"`
}

// Vectors are the dimensions of a collection's vectors by name, "" for the one
// without. Qdrant writes an object for the latter, and one of objects for the others.
type Vectors map[string]int64

// UnmarshalJSON implements json.Unmarshaler.
func (v *Vectors) UnmarshalJSON(raw []byte) error {
	type params struct {
		Size int64 `json:"size"`
	}
	*v = Vectors{}
	var one params
	if err := json.Unmarshal(raw, &one); err == nil && one.Size > 0 {
		(*v)[""] = one.Size
		return nil
	}
	var named map[string]params
	if err := json.Unmarshal(raw, &named); err != nil {
		return err
	}
	for name, p := range named {
		(*v)[name] = p.Size
	}
	return nil
}

func snapshotCollection(ctx context.Context, b *run, s *service, collection string) (err error) {
	if strings.ContainsAny(collection, "/\x00") || collection == "." || collection == ".." {
		return errors.New("its name cannot be that of a file")
	}
	vectors, err := s.vectors(ctx, collection)
	if err != nil {
		return err
	}
	before, err := s.points(ctx, collection)
	if err != nil {
		return err
	}
	var made qdrantAnswer[struct {
		Name     string `json:"name"`
		Size     int64  `json:"size"`
		Checksum string `json:"checksum"`
	}]
	if _, err := s.json(ctx, &made, http.MethodPost, "wait=true", "collections", collection, "snapshots"); err != nil {
		return err
	}
	if made.Result.Name == "" {
		return errors.New("POST snapshots: the answer names no snapshot")
	}
	defer func() {
		// It takes as much room on the server as the collection, also if we failed.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanUpTimeout)
		defer cancel()
		body, derr := s.open(ctx, http.MethodDelete, "wait=true", "collections", collection, "snapshots", made.Result.Name)
		if derr != nil {
			b.warn("Qdrant's own snapshot " + made.Result.Name + " is left there: " + derr.Error())
			return
		}
		body.Close()
	}()
	body, err := s.open(ctx, http.MethodGet, "", "collections", collection, "snapshots", made.Result.Name)
	if err != nil {
		return err
	}
	defer body.Close()
	sum := sha256.New()
	var size counter
	err = b.archive.AddStream(b.member(backup.QdrantDir+collection+backup.SnapshotSuffix), io.TeeReader(body, io.MultiWriter(sum, &size)), b.dir, func() error {
		switch {
		case made.Result.Size != 0 && int64(size) != made.Result.Size:
			return fmt.Errorf("the snapshot has %d bytes and should have %d", size, made.Result.Size)
		case made.Result.Checksum != "" && made.Result.Checksum != hex.EncodeToString(sum.Sum(nil)):
			return errors.New("the snapshot's checksum is wrong")
		}
		return nil
	})
	if err != nil {
		return err
	}
	b.summary.Collections[collection] = backup.Collection{Vectors: vectors, SHA256: made.Result.Checksum}
	// Only a number that did not change is known to be the snapshot's.
	if after, err := s.points(ctx, collection); err == nil && after == before {
		b.rows("qdrant")[collection] = backup.Rows{Count: after}
	}
	return nil
}

type counter int64

func (c *counter) Write(p []byte) (int, error) { *c += counter(len(p)); return len(p), nil }
