// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/niodoo/niodoo_exporter/internal/config"
)

func init() { register("qdrant", newQdrant) }

const (
	// qdrantMaxCollections bounds the collections that are asked for, besides
	// those of the configuration; qdrantMaxVectors the vectors of each.
	qdrantMaxCollections = 50
	qdrantMaxVectors     = 20
	// qdrantWorkers is how many collections are asked for at a time: each
	// question takes locks on all segments of its collection.
	qdrantWorkers = 2
)

// qdrantStatuses are a collection's, from good to bad.
var qdrantStatuses = []string{"green", "yellow", "grey", "red"}

const (
	qdrantEmpty       = "without collections"
	qdrantUnexpecting = "without collections in the configuration"
)

var (
	qdrantCollections = gauge("qdrant", "qdrant_collections",
		"Number of collections", "/collections")
	qdrantSkipped = gauge("qdrant", "qdrant_collections_skipped",
		"Number of collections that are not looked at: beyond the first 50 by name, and not in the configuration", "/collections")
	qdrantExists = gauge("qdrant", "qdrant_collection_exists",
		"Whether a collection of the configuration exists, be it as an alias", "/collections/NAME", "collection").absent(qdrantUnexpecting)
	qdrantMismatch = gauge("qdrant", "qdrant_collection_vector_size_mismatch",
		"Whether no vector of the collection has the size that the configuration expects: every search then fails",
		"/collections/NAME config.params.vectors and vector_size", "collection").absent("unless a vector_size is configured for a collection that exists")
	qdrantStatus = gauge("qdrant", "qdrant_collection_status",
		"Whether the collection has the status: green, yellow (optimizing), grey (optimizations wait for a write) or red (an operation failed)",
		"/collections/NAME status", "collection", "status").absent(qdrantEmpty)
	qdrantPoints = gauge("qdrant", "qdrant_collection_points",
		"Approximate number of points", "/collections/NAME points_count", "collection").absent(qdrantEmpty)
	qdrantIndexed = gauge("qdrant", "qdrant_collection_indexed_vectors",
		"Approximate number of indexed vectors; none below the indexing threshold is normal", "/collections/NAME indexed_vectors_count", "collection").absent(qdrantEmpty)
	qdrantThreshold = gauge("qdrant", "qdrant_collection_indexing_threshold_bytes",
		"Size of the vectors of a segment from which on they are indexed; 0 is never", "/collections/NAME config.optimizer_config.indexing_threshold", "collection").absent(qdrantEmpty)
	qdrantSegments = gauge("qdrant", "qdrant_collection_segments",
		"Number of segments", "/collections/NAME segments_count", "collection").absent(qdrantEmpty)
	qdrantOptimizerOK = gauge("qdrant", "qdrant_collection_optimizer_ok",
		"Whether the optimizer has not failed", "/collections/NAME optimizer_status", "collection").absent(qdrantEmpty)
	qdrantQueue = gauge("qdrant", "qdrant_collection_update_queue_length",
		"Number of updates that wait to be applied", "/collections/NAME update_queue.length", "collection").absent(qdrantEmpty + ", and before Qdrant 1.17")
	qdrantWarnings = gauge("qdrant", "qdrant_collection_warnings",
		"Number of warnings about the collection", "/collections/NAME warnings", "collection").absent("where Qdrant reports none, and before Qdrant 1.16")
	qdrantVectorSize = gauge("qdrant", "qdrant_collection_vector_size",
		"Number of dimensions of the vector; the default vector has no name", "/collections/NAME config.params.vectors size", "collection", "vector").
		absent("without collections of dense vectors")
	qdrantVectorInfo = gauge("qdrant", "qdrant_collection_vector_info",
		"How distances of the vector are measured; the value is 1", "/collections/NAME config.params.vectors distance", "collection", "vector", "distance").
		absent("without collections of dense vectors")
)

// qdrant asks /healthz, /readyz and / without the API key, which they do not
// need, and the collections with it.
type qdrant struct {
	*httpClient
	expected map[string]config.QdrantCollection
}

func newQdrant(cfg *config.Config, deps Deps) (Collector, error) {
	c, err := newHTTPClient(cfg.Qdrant.HTTP, deps)
	if err != nil {
		return nil, err
	}
	if key := cfg.Qdrant.APIKeyFile; key != "" {
		c.authorize = qdrantAuthorizer(c, key)
	}
	return &qdrant{httpClient: c, expected: cfg.Qdrant.Collections}, nil
}

// qdrantAuthorizer adds the API key to what needs one, on top of what the
// section's other credentials add.
func qdrantAuthorizer(c *httpClient, key config.SecretFile) func(*http.Request) error {
	others := c.authorize
	return func(r *http.Request) error {
		if others != nil {
			if err := others(r); err != nil {
				return err
			}
		}
		switch strings.TrimPrefix(r.URL.Path, c.base.Path) {
		case "/", "/healthz", "/readyz":
			return nil
		}
		s, err := key.Read()
		if err != nil {
			return fail(ReasonConfig, err)
		}
		r.Header.Set("api-key", s.Reveal())
		return nil
	}
}

// Update implements [Collector]. Qdrant is up when /healthz says so; versions
// that do not have it are asked for their collections.
func (q *qdrant) Update(ctx context.Context, ch chan<- prometheus.Metric) error {
	r, err := q.health(ctx)
	if err != nil {
		return err
	}
	status{up: true, response: r.elapsed, tlsNotAfter: r.tlsNotAfter}.send(ch, "qdrant")
	var names []string
	err = parallel( // never more than two at a time: that many connections are kept
		func() (err error) {
			names, err = q.collections(ctx, ch)
			return err
		},
		func() error { return cmp.Or(q.ready(ctx, ch), q.version(ctx, ch)) },
	)
	return cmp.Or(q.each(ctx, ch, names), err)
}

func (q *qdrant) health(ctx context.Context) (*reply, error) {
	r, err := q.get(ctx, "/healthz", maxHealthBody)
	if err == nil && r.status == http.StatusNotFound {
		r, err = q.get(ctx, "/collections", maxListBody)
	}
	if err != nil {
		return nil, err
	}
	if err := r.ok(); err != nil {
		return nil, err
	}
	if r.isHTML() {
		return nil, failf(ReasonParse, "%s: the answer is HTML", r.what)
	}
	return r, nil
}

func (q *qdrant) ready(ctx context.Context, ch chan<- prometheus.Metric) error {
	r, err := q.get(ctx, "/readyz", maxHealthBody)
	if err != nil {
		return err
	}
	switch {
	case r.status == http.StatusNotFound: // an old version
		return nil
	case r.status != http.StatusServiceUnavailable && r.ok() != nil:
		return r.ok()
	}
	ch <- componentReady.boolean(r.status != http.StatusServiceUnavailable, "qdrant")
	return nil
}

func (q *qdrant) version(ctx context.Context, ch chan<- prometheus.Metric) error {
	var v struct {
		Version string `json:"version"`
	}
	if _, err := q.getJSON(ctx, "/", maxHealthBody, &v); err != nil {
		return err
	}
	if v.Version != "" {
		ch <- componentInfo.metric(1, "qdrant", v.Version)
	}
	return nil
}

// result asks for a path and decodes the field result of the answer.
func (q *qdrant) result(ctx context.Context, path string, limit int64, v any) (*reply, error) {
	var envelope struct {
		Result json.RawMessage `json:"result"`
	}
	r, err := q.getJSON(ctx, path, limit, &envelope)
	if err != nil {
		return r, err
	}
	if len(envelope.Result) == 0 || string(envelope.Result) == "null" {
		return r, failf(ReasonParse, "%s: the answer has no result", r.what)
	}
	if err := json.Unmarshal(envelope.Result, v); err != nil {
		return r, fail(ReasonParse, fmt.Errorf("%s: the result is not what was expected: %w", r.what, err))
	}
	return r, nil
}

// collections returns the collections to look at: those of the configuration
// and the first of the others by name.
func (q *qdrant) collections(ctx context.Context, ch chan<- prometheus.Metric) ([]string, error) {
	var list struct {
		Collections []struct {
			Name string `json:"name"`
		} `json:"collections"`
	}
	if _, err := q.result(ctx, "/collections", maxListBody, &list); err != nil {
		return nil, err
	}
	var names []string
	for _, c := range list.Collections {
		if c.Name != "" {
			names = append(names, c.Name)
		}
	}
	slices.Sort(names)
	names = slices.Compact(names)
	ch <- qdrantCollections.metric(float64(len(names)))
	others := slices.DeleteFunc(names, func(n string) bool { _, ok := q.expected[n]; return ok })
	ch <- qdrantSkipped.metric(float64(max(len(others)-qdrantMaxCollections, 0)))
	return append(slices.Sorted(maps.Keys(q.expected)), others[:min(len(others), qdrantMaxCollections)]...), nil
}

// each looks at the named collections, a few at a time, and returns the first
// failure in their order. It stops asking when the time is over.
func (q *qdrant) each(ctx context.Context, ch chan<- prometheus.Metric, names []string) error {
	var (
		mu   sync.Mutex
		next int
		errs = make([]error, len(names))
	)
	worker := func() error {
		for {
			mu.Lock()
			i := next
			next++
			mu.Unlock()
			if i >= len(names) {
				return nil
			}
			if ctx.Err() != nil {
				return fail(ReasonTimeout, ctx.Err())
			}
			errs[i] = q.collection(ctx, ch, names[i])
		}
	}
	workers := make([]func() error, min(qdrantWorkers, len(names)))
	for i := range workers {
		workers[i] = worker
	}
	stopped := parallel(workers...)
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return stopped
}

// qdrantInfo is what Qdrant tells of a collection. What a version does not
// have, or does not know at the moment, is nil.
type qdrantInfo struct {
	Status          string          `json:"status"`
	OptimizerStatus json.RawMessage `json:"optimizer_status"` // "ok" or an object with the error
	Points          *float64        `json:"points_count"`
	Indexed         *float64        `json:"indexed_vectors_count"`
	Segments        *float64        `json:"segments_count"`
	Warnings        []any           `json:"warnings"`
	UpdateQueue     struct {
		Length *float64 `json:"length"`
	} `json:"update_queue"`
	Config struct {
		Params struct {
			Vectors json.RawMessage `json:"vectors"`
		} `json:"params"`
		Optimizer struct {
			IndexingThreshold *float64 `json:"indexing_threshold"` // KiB
		} `json:"optimizer_config"`
	} `json:"config"`
}

func (q *qdrant) collection(ctx context.Context, ch chan<- prometheus.Metric, name string) error {
	var info qdrantInfo
	expected, isExpected := q.expected[name]
	r, err := q.result(ctx, "/collections/"+url.PathEscape(name), maxAPIBody, &info)
	gone := r != nil && r.status == http.StatusNotFound
	if isExpected && (err == nil || gone) {
		ch <- qdrantExists.boolean(!gone, name)
	}
	if gone { // deleted since it was listed, or never there
		return nil
	}
	if err != nil {
		return err
	}
	for _, s := range qdrantStatuses {
		ch <- qdrantStatus.boolean(s == info.Status, name, s)
	}
	for _, f := range []struct {
		desc  *Desc
		value *float64
		scale float64
	}{
		{qdrantPoints, info.Points, 1},
		{qdrantIndexed, info.Indexed, 1},
		{qdrantSegments, info.Segments, 1},
		{qdrantQueue, info.UpdateQueue.Length, 1},
		{qdrantThreshold, info.Config.Optimizer.IndexingThreshold, 1024},
	} {
		if f.value != nil && *f.value >= 0 {
			ch <- f.desc.metric(*f.value*f.scale, name)
		}
	}
	if info.Warnings != nil {
		ch <- qdrantWarnings.metric(float64(len(info.Warnings)), name)
	}
	if o := string(info.OptimizerStatus); o != "" && o != "null" {
		ch <- qdrantOptimizerOK.boolean(o == `"ok"`, name)
	}
	vectors, err := qdrantVectors(info.Config.Params.Vectors)
	if err != nil {
		return fail(ReasonParse, fmt.Errorf("%s: vectors: %w", r.what, err))
	}
	fits := false
	for i, v := range vectors {
		fits = fits || v.Size == float64(expected.VectorSize)
		if i < qdrantMaxVectors {
			ch <- qdrantVectorSize.metric(v.Size, name, v.name)
			ch <- qdrantVectorInfo.metric(1, name, v.name, v.Distance)
		}
	}
	if expected.VectorSize > 0 && len(info.Config.Params.Vectors) > 0 {
		ch <- qdrantMismatch.boolean(!fits, name)
	}
	if !slices.Contains(qdrantStatuses, info.Status) {
		return failf(ReasonParse, "%s: status is %.32q", r.what, info.Status)
	}
	return nil
}

// qdrantVector is a dense vector of a collection.
type qdrantVector struct {
	name     string
	Size     float64 `json:"size"`
	Distance string  `json:"distance"`
}

// qdrantVectors reads the vectors of a collection by name: one without a name,
// several with names, or {} where all are sparse.
func qdrantVectors(raw json.RawMessage) ([]qdrantVector, error) {
	if len(raw) == 0 {
		return nil, nil
	}
	var one qdrantVector
	// A vector may be named "size": then that is an object and no number.
	if err := json.Unmarshal(raw, &one); err == nil && one.Size > 0 {
		return []qdrantVector{one}, nil
	}
	var named map[string]qdrantVector
	if err := json.Unmarshal(raw, &named); err != nil {
		return nil, err
	}
	vectors := make([]qdrantVector, 0, len(named))
	for _, name := range slices.Sorted(maps.Keys(named)) {
		v := named[name]
		v.name = name
		vectors = append(vectors, v)
	}
	return vectors, nil
}
