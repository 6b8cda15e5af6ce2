// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"crypto/subtle"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
)

// The documented answers of Qdrant 1.19.

const qdrantVersion = "1.19.0"

// qdrantCollections are the ones that the pipeline keeps: its memories and its failures.
func qdrantCollections(s state) []qdrantCollection {
	all := []qdrantCollection{
		{"experiences", s.knobs.collectionStatus, s.knobs.optimizerError, int(s.pipeline.memories), s.knobs.vectorSize},
		{"failures", "green", "", int(s.pipeline.threat / 3), vectorSize},
	}
	if s.knobs.collectionGone {
		return all[1:]
	}
	return all
}

type qdrantCollection struct {
	name, status, err string
	points, size      int
}

// indexed is how many vectors are in an index: none while they fit below the
// threshold of 10000 KB, later all but the newest.
func (c qdrantCollection) indexed() int {
	if c.points*c.size*4/1024 <= 10000 {
		return 0
	}
	return c.points - c.points%500
}

func newQdrant(w *world, keyFile string, empty bool) (*service, error) {
	key, err := readKey(keyFile)
	if err != nil {
		return nil, fmt.Errorf("qdrant's key: %w", err)
	}
	mux := http.NewServeMux()
	text := func(path string, body string) {
		mux.HandleFunc("GET "+path, func(rw http.ResponseWriter, _ *http.Request) { answerText(rw, http.StatusOK, body) })
	}
	text("/healthz", "healthz check passed")
	text("/livez", "healthz check passed")
	mux.HandleFunc("GET /readyz", func(rw http.ResponseWriter, _ *http.Request) {
		if w.look().knobs.qdrantNotReady {
			answerText(rw, http.StatusServiceUnavailable, "some shards are not ready")
			return
		}
		answerText(rw, http.StatusOK, "all shards are ready")
	})
	mux.HandleFunc("GET /{$}", func(rw http.ResponseWriter, _ *http.Request) {
		qdrantRaw(rw, http.StatusOK, `{"title":"qdrant - vector search engine","version":"`+qdrantVersion+`","commit":"74f3e85b1d7fe7a1a4b6cbe0ab4ee9d3a47bd4f2"}`)
	})
	store := newQdrantStore(w, empty)
	store.handle(mux)
	mux.HandleFunc("GET /metrics", func(rw http.ResponseWriter, _ *http.Request) {
		answer(rw, http.StatusOK, "text/plain", qdrantMetrics(store.all()))
	})
	mux.HandleFunc("/", func(rw http.ResponseWriter, _ *http.Request) { rw.WriteHeader(http.StatusNotFound) })
	open := []string{"/", "/healthz", "/readyz", "/livez"}
	h := http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		given := r.Header.Get("api-key")
		if given == "" {
			given = strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
		}
		switch {
		case key == "" || slices.Contains(open, r.URL.Path) || subtle.ConstantTimeCompare([]byte(given), []byte(key)) == 1:
			mux.ServeHTTP(rw, r)
		case given == "":
			answerText(rw, http.StatusUnauthorized, "Must provide an API key or an Authorization bearer token")
		default:
			answerText(rw, http.StatusUnauthorized, "Invalid API key or JWT")
		}
	})
	reject := func(rw http.ResponseWriter, r *http.Request, status int) {
		if status == http.StatusUnauthorized {
			answerText(rw, status, "Invalid API key or JWT")
			return
		}
		qdrantRaw(rw, status, `{"status":{"error":"Service internal error: `+http.StatusText(status)+`"},"time":0.000012}`)
	}
	return &service{name: "qdrant", handler: h, reject: reject, section: func(address string) map[string]any {
		s := map[string]any{"url": "http://" + address, "collections": map[string]any{"experiences": map[string]any{"vector_size": vectorSize}}}
		if keyFile != "" {
			s["api_key_file"] = keyFile
		}
		return s
	}}, nil
}

// info is the answer about a collection. Its optimizer status is a word, or an
// object that holds an error.
func (c qdrantCollection) info() string {
	optimizer := `"ok"`
	if c.err != "" {
		why, _ := json.Marshal(c.err)
		optimizer = `{"error":` + string(why) + `}`
	}
	return fmt.Sprintf(`{"result":{"status":%q,"optimizer_status":%s,"indexed_vectors_count":%d,"points_count":%d,"segments_count":2,`+
		`"config":%s,"payload_schema":{},"update_queue":{"length":0}},"status":"ok","time":0.000334}`, c.status, optimizer, c.indexed(), c.points, c.config())
}

func (c qdrantCollection) config() string {
	return fmt.Sprintf(`{"params":{"vectors":{"size":%d,"distance":"Cosine"},"shard_number":1,"replication_factor":1,"write_consistency_factor":1,"on_disk_payload":true},`+
		`"hnsw_config":{"m":16,"ef_construct":100,"full_scan_threshold":10000,"max_indexing_threads":0,"on_disk":false},`+
		`"optimizer_config":{"deleted_threshold":0.2,"vacuum_min_vector_number":1000,"default_segment_number":0,"max_segment_size":null,"memmap_threshold":null,`+
		`"indexing_threshold":10000,"flush_interval_sec":5,"max_optimization_threads":null,"prevent_unoptimized":null},`+
		`"wal_config":{"wal_capacity_mb":32,"wal_segments_ahead":0,"wal_retain_closed":1},"quantization_config":null}`, c.size)
}

func qdrantMetrics(all []qdrantCollection) []byte {
	points := family{name: "collection_points", help: "approximate amount of points per collection", kind: "gauge"}
	vectors := family{name: "collection_vectors", help: "amount of vectors grouped by vector name", kind: "gauge"}
	total := 0
	for _, c := range all {
		points = points.with(float64(c.points), "id", c.name)
		vectors = vectors.with(float64(c.points), "collection", c.name, "vector", "")
		total += c.points
	}
	return exposition([]family{
		gauge("app_info", "information about qdrant server", 1, "name", "qdrant", "version", qdrantVersion),
		gauge("app_status_recovery_mode", "is server in recovery mode", 0),
		gauge("collections_total", "number of collections", float64(len(all))),
		gauge("collections_vector_total", "total number of vectors in all collections", float64(total)),
		gauge("memory_resident_bytes", "Total number of bytes in physically resident data pages mapped by the application", 148_000_000+float64(total)*4096),
		points, vectors,
	}, rustNumber)
}

func qdrantRaw(w http.ResponseWriter, status int, body string) {
	answer(w, status, typeJSON, []byte(body))
}
