// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"path"
	"slices"
	"strings"
	"sync"
)

// qdrantStore is what Qdrant has: the collections of the world, those that were
// recovered from snapshots, and the snapshots that were made and not deleted yet.
type qdrantStore struct {
	w     *world
	empty bool // without the world's

	mu        sync.Mutex
	recovered map[string]qdrantCollection
	made      map[string]map[string]qdrantSnapshot // by collection and name
}

type qdrantSnapshot struct {
	created string
	content []byte
}

func newQdrantStore(w *world, empty bool) *qdrantStore {
	return &qdrantStore{w: w, empty: empty, recovered: map[string]qdrantCollection{}, made: map[string]map[string]qdrantSnapshot{}}
}

// info is how the server describes a snapshot.
func (s qdrantSnapshot) info(name string) string {
	return fmt.Sprintf(`{"name":%q,"creation_time":%q,"size":%d,"checksum":"%x"}`, name, s.created, len(s.content), sha256.Sum256(s.content))
}

// all returns the collections.
func (q *qdrantStore) all() []qdrantCollection {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.list()
}

func (q *qdrantStore) list() []qdrantCollection {
	var all []qdrantCollection
	if !q.empty {
		all = qdrantCollections(q.w.look())
	}
	all = slices.DeleteFunc(all, func(c qdrantCollection) bool { _, ok := q.recovered[c.name]; return ok })
	for _, name := range slices.Sorted(maps.Keys(q.recovered)) {
		all = append(all, q.recovered[name])
	}
	return all
}

func (q *qdrantStore) handle(mux *http.ServeMux) {
	const collection = "/collections/{collection}"
	const snapshots = collection + "/snapshots"
	failed := func(rw http.ResponseWriter, status int, what string) {
		why, _ := json.Marshal(what)
		qdrantRaw(rw, status, `{"status":{"error":`+string(why)+`},"time":0.000012}`)
	}
	result := func(rw http.ResponseWriter, body string) {
		qdrantRaw(rw, http.StatusOK, `{"result":`+body+`,"status":"ok","time":0.003}`)
	}
	locked := func(pattern string, h http.HandlerFunc) {
		mux.HandleFunc(pattern, func(rw http.ResponseWriter, r *http.Request) {
			q.mu.Lock()
			defer q.mu.Unlock()
			h(rw, r)
		})
	}
	// of is for what is about a collection that there must be.
	of := func(pattern string, h func(http.ResponseWriter, *http.Request, qdrantCollection)) {
		locked(pattern, func(rw http.ResponseWriter, r *http.Request) {
			all := q.list()
			i := slices.IndexFunc(all, func(c qdrantCollection) bool { return c.name == r.PathValue("collection") })
			if i < 0 {
				failed(rw, http.StatusNotFound, "Not found: Collection `"+r.PathValue("collection")+"` doesn't exist!")
				return
			}
			h(rw, r, all[i])
		})
	}
	locked("GET /collections", func(rw http.ResponseWriter, _ *http.Request) {
		var names []string
		for _, c := range q.list() {
			names = append(names, fmt.Sprintf(`{"name":%q}`, c.name))
		}
		qdrantRaw(rw, http.StatusOK, `{"result":{"collections":[`+strings.Join(names, ",")+`]},"status":"ok","time":0.000012}`)
	})
	of("GET "+collection, func(rw http.ResponseWriter, _ *http.Request, c qdrantCollection) {
		qdrantRaw(rw, http.StatusOK, c.info())
	})
	of("POST "+collection+"/points/count", func(rw http.ResponseWriter, _ *http.Request, c qdrantCollection) {
		result(rw, fmt.Sprintf(`{"count":%d}`, c.points))
	})
	of("POST "+snapshots, func(rw http.ResponseWriter, _ *http.Request, c qdrantCollection) {
		at := q.w.look().at.UTC()
		name := fmt.Sprintf("%s-%d-%s.snapshot", c.name, 5157893462374562, at.Format("2006-01-02-15-04-05"))
		if q.made[c.name] == nil {
			q.made[c.name] = map[string]qdrantSnapshot{}
		}
		q.made[c.name][name] = qdrantSnapshot{at.Format("2006-01-02T15:04:05"), c.snapshot()}
		result(rw, q.made[c.name][name].info(name))
	})
	locked("POST "+snapshots+"/upload", func(rw http.ResponseWriter, r *http.Request) {
		content, err := uploaded(r)
		if err != nil {
			failed(rw, http.StatusBadRequest, "Bad request: "+err.Error())
			return
		}
		c, err := recoverCollection(r.PathValue("collection"), content)
		if err != nil {
			failed(rw, http.StatusInternalServerError, "Service internal error: "+err.Error())
			return
		}
		q.recovered[c.name] = c
		result(rw, "true")
	})
	locked("GET "+snapshots, func(rw http.ResponseWriter, r *http.Request) {
		var all []string
		made := q.made[r.PathValue("collection")]
		for _, name := range slices.Sorted(maps.Keys(made)) {
			all = append(all, made[name].info(name))
		}
		result(rw, "["+strings.Join(all, ",")+"]")
	})
	// one is for what is about a snapshot that there must be.
	one := func(pattern string, h func(rw http.ResponseWriter, collection, name string)) {
		locked(pattern, func(rw http.ResponseWriter, r *http.Request) {
			collection, name := r.PathValue("collection"), r.PathValue("name")
			if _, ok := q.made[collection][name]; !ok {
				failed(rw, http.StatusNotFound, "Not found: Snapshot "+name+" not found")
				return
			}
			h(rw, collection, name)
		})
	}
	one("GET "+snapshots+"/{name}", func(rw http.ResponseWriter, collection, name string) {
		answer(rw, http.StatusOK, "application/octet-stream", q.made[collection][name].content)
	})
	one("DELETE "+snapshots+"/{name}", func(rw http.ResponseWriter, collection, name string) {
		delete(q.made[collection], name)
		result(rw, "true")
	})
}

// uploaded returns the snapshot that a request brings.
func uploaded(r *http.Request) ([]byte, error) {
	f, _, err := r.FormFile("snapshot")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	content, err := io.ReadAll(f)
	if want := r.URL.Query().Get("checksum"); err == nil && want != "" && want != fmt.Sprintf("%x", sha256.Sum256(content)) {
		err = errors.New("snapshot checksum mismatch: expected " + want)
	}
	return content, err
}

const (
	qdrantShardConfig = "0/shard_config.json"
	qdrantSegment     = "0/segments/7f3d9f0e-6d1c-4b55-9c1a-2f0f6a0f5b11.tar"
	qdrantIDs         = "snapshot/files/id_tracker"
)

// snapshot is a tar as Qdrant makes it of a collection's directory. The segment
// in it is a tar again; what is in that one is not like Qdrant's: just the ids.
func (c qdrantCollection) snapshot() []byte {
	ids := make([]byte, 0, 8*c.points)
	for i := range c.points {
		ids = binary.LittleEndian.AppendUint64(ids, uint64(i))
	}
	segment := tarOf([][2]string{{"snapshot/files/segment.json", `{"version":1}`}, {qdrantIDs, string(ids)}})
	return tarOf([][2]string{
		{"version.info", qdrantVersion}, {"config.json", c.config()}, {"shard_key_mapping.json", "{}"}, {"payload_index.json", `{"schema":{}}`},
		{"0/replica_state.json", `{"is_local":true,"peers":{}}`}, {qdrantShardConfig, `{"type":{"ReplicaSet":{}}}`},
		{qdrantSegment, string(segment)}, {"0/wal/open-1", "\x00"},
	})
}

func tarOf(files [][2]string) []byte {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range files {
		h := &tar.Header{Typeflag: tar.TypeReg, Name: f[0], Size: int64(len(f[1])), Mode: 0o644}
		if err := w.WriteHeader(h); err != nil {
			panic(err) // the names are short
		}
		if _, err := io.WriteString(w, f[1]); err != nil {
			panic(err) // the buffer takes everything
		}
	}
	if err := w.Close(); err != nil {
		panic(err)
	}
	return b.Bytes()
}

func untar(content []byte) (map[string][]byte, error) {
	files := map[string][]byte{}
	for t := tar.NewReader(bytes.NewReader(content)); ; {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return files, nil
		}
		if err != nil {
			return nil, err
		}
		if files[path.Clean(h.Name)], err = io.ReadAll(t); err != nil {
			return nil, err
		}
	}
}

// recoverCollection makes a collection of a snapshot of this simulation.
func recoverCollection(name string, content []byte) (qdrantCollection, error) {
	c := qdrantCollection{name: name, status: "green"}
	files, err := untar(content)
	if err != nil {
		return c, err
	}
	var config struct {
		Params struct {
			Vectors struct {
				Size int `json:"size"`
			} `json:"vectors"`
		} `json:"params"`
	}
	if err := json.Unmarshal(files["config.json"], &config); err != nil {
		return c, fmt.Errorf("failed to read config.json: %w", err)
	}
	if _, ok := files[qdrantShardConfig]; !ok {
		return c, errors.New("shard config at 0 cannot be read")
	}
	segment, err := untar(files[qdrantSegment])
	if err != nil {
		return c, err
	}
	ids, ok := segment[qdrantIDs]
	if !ok {
		return c, errors.New("segment: the id tracker is missing")
	}
	c.size, c.points = config.Params.Vectors.Size, len(ids)/8
	return c, nil
}
