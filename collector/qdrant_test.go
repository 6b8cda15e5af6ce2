// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// qdrantCollectionBody is what Qdrant 1.19 answers for a collection of the
// given status, optimizer_status and vectors, all JSON.
func qdrantCollectionBody(status, optimizer, vectors string) string {
	return `{"result":{"status":` + status + `,"optimizer_status":` + optimizer + `,"indexed_vectors_count":0,"points_count":160,"segments_count":2,` +
		`"config":{"params":{"vectors":` + vectors + `,"shard_number":1,"replication_factor":1,"write_consistency_factor":1,"on_disk_payload":true},` +
		`"hnsw_config":{"m":16,"ef_construct":100,"full_scan_threshold":10000,"max_indexing_threads":0,"on_disk":false},` +
		`"optimizer_config":{"deleted_threshold":0.2,"vacuum_min_vector_number":1000,"default_segment_number":0,"max_segment_size":null,"memmap_threshold":null,"indexing_threshold":10000,"flush_interval_sec":5,"max_optimization_threads":null,"prevent_unoptimized":null},` +
		`"wal_config":{"wal_capacity_mb":32,"wal_segments_ahead":0,"wal_retain_closed":1},"quantization_config":null},"payload_schema":{},"update_queue":{"length":0}},"status":"ok","time":0.000334}`
}

func qdrantListBody(names ...string) string {
	var list []string
	for _, n := range names {
		list = append(list, fmt.Sprintf(`{"name":%q}`, n))
	}
	return `{"result":{"collections":[` + strings.Join(list, ",") + `]},"status":"ok","time":0.000012}`
}

// qdrantFake is a Qdrant with the given collections (their answers' bodies);
// over replaces the answer of a path by "status|body".
func qdrantFake(t testing.TB, collections, over map[string]string) *httptest.Server {
	t.Helper()
	return serveFunc(t, qdrantHandler(collections, over))
}

func qdrantHandler(collections, over map[string]string) http.HandlerFunc {
	var names []string
	for n := range collections {
		names = append(names, n)
	}
	return func(w http.ResponseWriter, r *http.Request) {
		if o, ok := over[r.URL.Path]; ok {
			status, body, _ := strings.Cut(o, "|")
			var n int
			fmt.Sscan(status, &n)
			w.WriteHeader(n)
			fmt.Fprint(w, body)
			return
		}
		name, isCollection := strings.CutPrefix(r.URL.Path, "/collections/")
		w.Header().Set("Content-Type", "application/json")
		switch {
		case r.URL.Path == "/":
			fmt.Fprint(w, `{"title":"qdrant - vector search engine","version":"1.19.0","commit":"74f3e85b"}`)
		case r.URL.Path == "/healthz":
			w.Header().Set("Content-Type", "text/plain")
			fmt.Fprint(w, "healthz check passed")
		case r.URL.Path == "/readyz":
			w.Header().Set("Content-Type", "text/plain")
			fmt.Fprint(w, "all shards are ready")
		case r.URL.Path == "/collections":
			fmt.Fprint(w, qdrantListBody(names...))
		case isCollection && collections[name] != "":
			fmt.Fprint(w, collections[name])
		case isCollection:
			w.WriteHeader(http.StatusNotFound)
			fmt.Fprintf(w, "{\"status\":{\"error\":\"Not found: Collection `%s` doesn't exist!\"},\"time\":1.2e-5}", name)
		default:
			w.WriteHeader(http.StatusNotFound)
		}
	}
}

const qdrantDense = `{"size":768,"distance":"Cosine"}`

func qdrantSection(url, more string) string { return fmt.Sprintf("{url: %q%s}", url, more) }

func TestQdrant(t *testing.T) {
	t.Parallel()
	srv := qdrantFake(t, map[string]string{
		"experiences": qdrantCollectionBody(`"green"`, `"ok"`, qdrantDense),
		"failures": qdrantCollectionBody(`"red"`,
			`{"error":"Service internal error: IO Error: No space left on device (os error 28)"}`, `{"text":{"size":768,"distance":"Cosine"},"size":{"size":4,"distance":"Dot"}}`),
		"sparse only":  qdrantCollectionBody(`"yellow"`, `"ok"`, `{}`),
		"with/slash ü": strings.Replace(qdrantCollectionBody(`"grey"`, `"ok"`, qdrantDense), `"points_count":160`, `"points_count":null,"warnings":[{"message":"slow"}]`, 1),
	}, nil)
	golden(t, "qdrant", scrape(t, scraper(t, only(t, "qdrant", qdrantSection(srv.URL,
		`, collections: {experiences: {vector_size: 896}, failures: {vector_size: 768}, "sparse only": {vector_size: 768}, gone: {vector_size: 768}, "with/slash ü": {}}`)))).Families)
}

// Versions from before 1.16 and a server that is not ready.
func TestQdrantOldAndNotReady(t *testing.T) {
	t.Parallel()
	srv := qdrantFake(t, map[string]string{
		"old": `{"result":{"status":"green","optimizer_status":"ok","vectors_count":null,"indexed_vectors_count":null,"points_count":3,"segments_count":1,` +
			`"config":{"params":{"vectors":{"size":4,"distance":"Euclid"}},"optimizer_config":{"indexing_threshold":null}}},"status":"ok","time":0.1}`,
	}, map[string]string{"/readyz": "503|some shards are not ready", "/healthz": "404|"})
	golden(t, "qdrant_old", scrape(t, scraper(t, only(t, "qdrant", qdrantSection(srv.URL, "")))).Families)
}

func TestQdrantFailures(t *testing.T) {
	t.Parallel()
	testHTTPFailures(t, "qdrant")

	green := map[string]string{"a": qdrantCollectionBody(`"green"`, `"ok"`, qdrantDense), "b": qdrantCollectionBody(`"green"`, `"ok"`, qdrantDense)}
	for _, c := range []struct {
		name   string
		over   map[string]string
		reason Reason
		b      bool // whether collection b is exported all the same
	}{
		{"no key", map[string]string{"/collections": "401|Must provide an API key or an Authorization bearer token"}, ReasonAuth, false},
		{"wrong key", map[string]string{"/collections": "401|Invalid API key or JWT"}, ReasonAuth, false},
		{"one forbidden", map[string]string{"/collections/a": "403|"}, ReasonAuth, true},
		{"one slow", map[string]string{"/collections/a": `408|{"status":{"error":"Timeout"},"time":60}`}, ReasonHTTPStatus, true},
		{"one limited", map[string]string{"/collections/a": "429|"}, ReasonRateLimited, true},
		{"one unavailable", map[string]string{"/collections/a": "503|"}, ReasonNotReady, true},
		{"one truncated", map[string]string{"/collections/a": `200|{"result":{"sta`}, ReasonParse, true},
		{"one without a result", map[string]string{"/collections/a": `200|{"status":"ok"}`}, ReasonParse, true},
		{"one with odd vectors", map[string]string{"/collections/a": "200|" + qdrantCollectionBody(`"green"`, `"ok"`, `[1]`)}, ReasonParse, true},
		{"unknown status", map[string]string{"/collections/a": "200|" + qdrantCollectionBody(`"blue"`, `"ok"`, qdrantDense)}, ReasonParse, true},
		{"list truncated", map[string]string{"/collections": `200|{"result":{"coll`}, ReasonParse, false},
		{"list of HTML", map[string]string{"/collections": `200|<html>Sign in</html>`}, ReasonParse, false},
		{"list empty", map[string]string{"/collections": `200|{"result":null,"status":"ok"}`}, ReasonParse, false},
		{"readyz fails", map[string]string{"/readyz": "500|"}, ReasonHTTPStatus, true},
		{"no version", map[string]string{"/": "500|"}, ReasonHTTPStatus, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			srv := qdrantFake(t, green, c.over)
			res := expectFailure(t, only(t, "qdrant", qdrantSection(srv.URL, "")), "qdrant", true, c.reason)
			if _, ok := lookup(res.Families, `niodoo_qdrant_collection_points{collection="b"}`); ok != c.b {
				t.Errorf("collection b is exported: %v", ok)
			}
		})
	}
	t.Run("a collection hangs", func(t *testing.T) {
		t.Parallel()
		handler := qdrantHandler(green, nil)
		srv := serveFunc(t, func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/collections/a" {
				<-r.Context().Done()
				return
			}
			handler(w, r)
		})
		res := expectFailure(t, only(t, "qdrant", qdrantSection(srv.URL, ", timeout: 500ms")), "qdrant", true, ReasonTimeout)
		value(t, res.Families, `niodoo_qdrant_collection_points{collection="b"}`)
	})
}

// A collection that is deleted while it is being looked at is no failure, and
// an alias is as good as a collection.
func TestQdrantVanishingAndAlias(t *testing.T) {
	t.Parallel()
	srv := qdrantFake(t, map[string]string{"real": qdrantCollectionBody(`"green"`, `"ok"`, qdrantDense), "alias": qdrantCollectionBody(`"green"`, `"ok"`, qdrantDense)},
		map[string]string{"/collections": "200|" + qdrantListBody("real", "vanished", "expected")})
	res := scrape(t, scraper(t, only(t, "qdrant", qdrantSection(srv.URL, ", collections: {alias: {vector_size: 768}, expected: {vector_size: 768}}"))))
	if len(res.Failures) > 0 {
		t.Error(res.Failures)
	}
	for series, want := range map[string]float64{
		`niodoo_qdrant_collection_exists{collection="alias"}`:               1,
		`niodoo_qdrant_collection_exists{collection="expected"}`:            0,
		`niodoo_qdrant_collection_vector_size_mismatch{collection="alias"}`: 0,
		"niodoo_qdrant_collections":                                         3,
	} {
		if v := value(t, res.Families, series); v != want {
			t.Errorf("%s is %v, want %v", series, v, want)
		}
	}
	for _, series := range []string{
		`niodoo_qdrant_collection_vector_size_mismatch{collection="expected"}`,
		`niodoo_qdrant_collection_status{collection="vanished",status="green"}`,
		`niodoo_qdrant_collection_exists{collection="real"}`,
	} {
		if _, ok := lookup(res.Families, series); ok {
			t.Errorf("%s is there", series)
		}
	}
}

func TestQdrantManyCollections(t *testing.T) {
	t.Parallel()
	var inFlight, most, conns atomic.Int32
	collections := map[string]string{}
	for i := range 80 {
		collections[fmt.Sprintf("c%02d", i)] = qdrantCollectionBody(`"green"`, `"ok"`, qdrantDense)
	}
	handler := qdrantHandler(collections, nil)
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n := inFlight.Add(1)
		for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
		}
		time.Sleep(time.Millisecond)
		handler(w, r)
		inFlight.Add(-1)
	}))
	srv.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			conns.Add(1)
		}
	}
	srv.Start()
	t.Cleanup(srv.Close)
	s := scraper(t, only(t, "qdrant", qdrantSection(srv.URL, ", collections: {c79: {vector_size: 768}}")))
	scrape(t, s)
	before := conns.Load()
	res := scrape(t, s)
	if n := conns.Load() - before; n > 0 {
		t.Errorf("%d new connections for the second scrape", n)
	}
	if n := most.Load(); n > qdrantWorkers {
		t.Errorf("%d requests at a time", n)
	}
	if n := strings.Count(text(res.Families), "\nniodoo_qdrant_collection_points{"); n != qdrantMaxCollections+1 {
		t.Errorf("%d collections are told apart", n)
	}
	for series, want := range map[string]float64{
		"niodoo_qdrant_collections": 80, "niodoo_qdrant_collections_skipped": 29,
		`niodoo_qdrant_collection_vector_size_mismatch{collection="c79"}`: 0,
	} {
		if v := value(t, res.Families, series); v != want {
			t.Errorf("%s is %v, want %v", series, v, want)
		}
	}
}

// The API key goes to what needs it, and to nobody else.
func TestQdrantAPIKey(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "key")
	write := func(key string) {
		if err := os.WriteFile(path, []byte(key+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("one")
	var leaked atomic.Int32
	elsewhere := serveFunc(t, func(_ http.ResponseWriter, r *http.Request) {
		if r.Header.Get("api-key") != "" {
			leaked.Add(1)
		}
	})
	var want atomic.Value
	want.Store("one")
	handler := qdrantHandler(map[string]string{"a": qdrantCollectionBody(`"green"`, `"ok"`, qdrantDense)}, nil)
	var redirect atomic.Bool
	srv := serveFunc(t, func(w http.ResponseWriter, r *http.Request) {
		open := r.URL.Path == "/" || r.URL.Path == "/healthz" || r.URL.Path == "/readyz"
		key := r.Header.Get("api-key")
		switch {
		case open && key != "":
			leaked.Add(1)
		case !open && redirect.Load():
			http.Redirect(w, r, elsewhere.URL, http.StatusTemporaryRedirect)
			return
		case !open && key != want.Load():
			http.Error(w, "Invalid API key or JWT", http.StatusUnauthorized)
			return
		}
		handler(w, r)
	})
	s := scraper(t, only(t, "qdrant", qdrantSection(srv.URL, fmt.Sprintf(", api_key_file: %q", path))))
	if res := scrape(t, s); len(res.Failures) > 0 {
		t.Fatal(res.Failures)
	}
	want.Store("two")
	expectFailureOf(t, s, "qdrant", true, ReasonAuth, 2*time.Second)
	write("two")
	if res := scrape(t, s); len(res.Failures) > 0 {
		t.Errorf("with the new key in the file: %v", res.Failures)
	}
	redirect.Store(true)
	expectFailureOf(t, s, "qdrant", true, ReasonHTTPStatus, 2*time.Second)
	if leaked.Load() > 0 {
		t.Error("the key was sent where it is not needed")
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	expectFailureOf(t, s, "qdrant", true, ReasonConfig, 2*time.Second) // health needs no key
}
