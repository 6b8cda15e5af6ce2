// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/niodoo/niodoo_exporter/internal/config"
)

func init() { register("pipeline", newPipeline) }

// Limits of what is read.
const (
	// maxPipelineText bounds a source's text, in bytes. Of a longer file the
	// end is read, some 3,000 runs of the pipeline.
	maxPipelineText = 4 << 20
	// maxPipelineFiles bounds the files that patterns name; the newest are read.
	maxPipelineFiles = 16
)

var (
	pipelineSourceUp = gauge("pipeline", "pipeline_source_up",
		"Whether the source of the pipeline's metrics could be read", "pipeline.urls, pipeline.files", "source").
		absent("while the patterns of pipeline.files match nothing")
	pipelineModified = gauge("pipeline", "pipeline_source_modified_timestamp_seconds",
		"Time at which the file was last written: the pipeline may be long done with it", "pipeline.files", "source").
		absent("of sources that are no files")
	pipelineLines = gauge("pipeline", "pipeline_lines_rejected",
		"Number of lines in the source's present text that are no samples", "the source's text", "source").
		absent("while the source cannot be read")
	pipelineSamples = gauge("pipeline", "pipeline_samples_rejected",
		"Number of samples and histograms in the source's present text that cannot be: out of range, not adding up, or too many",
		"the source's text", "source").absent("while the source cannot be read")
	pipelineUnknown = gauge("pipeline", "pipeline_families_unknown",
		"Number of metric families in the source's present text that the exporter does not know", "the source's text", "source").
		absent("while the source cannot be read")
	pipelineSkipped = gauge("pipeline", "pipeline_files_skipped",
		"Number of files that match pipeline.files and are not read because there are newer ones", "pipeline.files").
		absent("when pipeline.files is empty")
)

// pipeline reads the metrics of the live pipeline from where its variants
// leave them: endpoints and files. It is up when all of them can be read.
type pipeline struct {
	index pipelineIndex
	urls  []pipelineURL
	files []string
	// read has the files read before, by path. Most never change again.
	read map[string]pipelineFile
}

// pipelineURL is one endpoint.
type pipelineURL struct {
	source string
	*httpClient
}

// pipelineFile is a file and what it said.
type pipelineFile struct {
	info    os.FileInfo
	reading pipelineReading
}

func newPipeline(cfg *config.Config, deps Deps) (Collector, error) {
	c := cfg.Pipeline
	p := &pipeline{index: newPipelineIndex(pipelineFamilies), files: c.Files, read: map[string]pipelineFile{}}
	names := pipelineURLNames(c.URLs)
	for i, u := range c.URLs {
		client, err := newHTTPClient(config.HTTP{URL: u, Authorization: c.Authorization, BasicAuth: c.BasicAuth, TLSConfig: c.TLSConfig}, deps)
		if err != nil {
			return nil, err
		}
		if !slices.ContainsFunc(p.urls, func(o pipelineURL) bool { return o.source == names[i] }) { // named twice
			p.urls = append(p.urls, pipelineURL{names[i], client})
		}
	}
	return p, nil
}

// pipelineURLNames returns a label for each URL: host and port, with the path
// where several share them.
func pipelineURLNames(urls []string) []string {
	short, long := make([]string, len(urls)), make([]string, len(urls))
	for i, raw := range urls {
		u, err := url.Parse(raw)
		if err != nil {
			u = &url.URL{} // the configuration has been validated
		}
		port := u.Port()
		if port == "" {
			port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
		}
		short[i] = net.JoinHostPort(u.Hostname(), port)
		long[i] = short[i] + "/" + strings.Trim(u.Path, "/")
	}
	return uniqueNames(short, long)
}

// uniqueNames returns the short names, and the long ones of those whose short
// name is not theirs alone.
func uniqueNames(short, long []string) []string {
	count := map[string]int{}
	for _, s := range short {
		count[s]++
	}
	names := slices.Clone(short)
	for i, s := range short {
		if count[s] > 1 {
			names[i] = long[i]
		}
	}
	return names
}

// Close closes the connections.
func (p *pipeline) Close() error {
	for _, u := range p.urls {
		_ = u.Close() // never fails
	}
	return nil
}

// Update implements [Collector].
func (p *pipeline) Update(ctx context.Context, ch chan<- prometheus.Metric) error {
	replies := make([]*reply, len(p.urls))
	filesUp := false
	parts := make([]func() error, 0, len(p.urls)+1)
	for i, u := range p.urls {
		parts = append(parts, func() (err error) {
			replies[i], err = p.scrapeURL(ctx, ch, u)
			return err
		})
	}
	parts = append(parts, func() (err error) {
		filesUp, err = p.readFiles(ctx, ch)
		return err
	})
	err := parallel(parts...)
	s := status{up: filesUp && !slices.Contains(replies, nil)}
	for _, r := range replies {
		if r == nil {
			continue
		}
		s.response = max(s.response, r.elapsed)
		if !r.tlsNotAfter.IsZero() && (s.tlsNotAfter.IsZero() || r.tlsNotAfter.Before(s.tlsNotAfter)) {
			s.tlsNotAfter = r.tlsNotAfter
		}
	}
	s.send(ch, "pipeline")
	return err
}

// scrapeURL reads an endpoint. The reply is nil unless the endpoint is up: one
// that turns us away for the sake of a password is.
func (p *pipeline) scrapeURL(ctx context.Context, ch chan<- prometheus.Metric, u pipelineURL) (*reply, error) {
	r, reading, err := p.fetch(ctx, u)
	up := err == nil || r != nil && classify(err).MeansUp()
	ch <- pipelineSourceUp.boolean(up, u.source)
	if err != nil {
		err = fmt.Errorf("source %s: %w", u.source, err)
		if !up {
			r = nil
		}
		return r, err
	}
	reading.send(ch, u.source)
	return r, nil
}

func (p *pipeline) fetch(ctx context.Context, u pipelineURL) (*reply, pipelineReading, error) {
	r, err := u.get(ctx, "", maxPipelineText)
	if err != nil {
		return nil, pipelineReading{}, err
	}
	if err := r.ok(); err != nil {
		return r, pipelineReading{}, err
	}
	if r.isHTML() {
		return r, pipelineReading{}, failf(ReasonParse, "the answer is HTML, not metrics")
	}
	reading := p.index.readPipeline(r.body, false)
	if reading.samples == 0 && reading.lines > 0 {
		return r, reading, failf(ReasonParse, "none of the answer's %d lines is a sample", reading.lines)
	}
	return r, reading, nil
}

// send sends what a source said.
func (r pipelineReading) send(ch chan<- prometheus.Metric, source string) {
	ch <- pipelineLines.metric(float64(r.lines), source)
	ch <- pipelineSamples.metric(float64(r.rejected), source)
	ch <- pipelineUnknown.metric(float64(r.unknown), source)
	for _, s := range r.series {
		labels := append([]string{source}, s.labels...)
		if s.hist != nil {
			ch <- s.desc.histogramMetric(*s.hist, labels...)
		} else {
			ch <- s.desc.metric(s.value, labels...)
		}
	}
}

// pipelinePath is a file to read; literal ones are named in the configuration
// as they are and must be there.
type pipelinePath struct {
	path    string
	literal bool
	written time.Time
}

// readFiles reads the files and reports whether all that must be there could be read.
func (p *pipeline) readFiles(ctx context.Context, ch chan<- prometheus.Metric) (bool, error) {
	if len(p.files) == 0 {
		return true, nil
	}
	paths, skipped, first := p.find()
	ch <- pipelineSkipped.metric(float64(skipped))
	up := first == nil
	short, long := make([]string, len(paths)), make([]string, len(paths))
	for i, f := range paths {
		short[i], long[i] = filepath.Base(f.path), f.path
	}
	kept := make(map[string]pipelineFile, len(paths))
	for i, source := range uniqueNames(short, long) {
		if err := ctx.Err(); err != nil {
			return false, err
		}
		f, err := p.readFile(paths[i].path)
		if errors.Is(err, fs.ErrNotExist) && !paths[i].literal {
			continue // deleted since the pattern was matched
		}
		ch <- pipelineSourceUp.boolean(err == nil, source)
		if err != nil {
			up = false
			if first == nil {
				first = fmt.Errorf("source %s: %w", source, err)
			}
			continue
		}
		kept[paths[i].path] = f
		ch <- pipelineModified.metric(float64(f.info.ModTime().UnixMilli())/1000, source)
		f.reading.send(ch, source)
	}
	p.read = kept
	return up, first
}

// find returns the files to read, those named as they are first, and how many
// there are too many.
func (p *pipeline) find() (paths []pipelinePath, skipped int, first error) {
	var matched []pipelinePath
	seen := map[string]bool{}
	for _, path := range p.files {
		if !isPattern(path) && !seen[path] {
			seen[path] = true
			paths = append(paths, pipelinePath{path: path, literal: true})
		}
	}
	for _, pattern := range p.files {
		if !isPattern(pattern) {
			continue
		}
		found, err := pipelineGlob(pattern)
		if err != nil && first == nil {
			first = err
		}
		for _, path := range found {
			if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() && !seen[path] {
				seen[path] = true
				matched = append(matched, pipelinePath{path: path, written: info.ModTime()})
			}
		}
	}
	slices.SortFunc(matched, func(a, b pipelinePath) int {
		return cmp.Or(b.written.Compare(a.written), cmp.Compare(a.path, b.path))
	})
	if n := len(matched) - maxPipelineFiles; n > 0 {
		matched, skipped = matched[:maxPipelineFiles], n
	}
	return append(paths, matched...), skipped, first
}

func isPattern(path string) bool { return strings.ContainsAny(path, `*?[\`) }

// pipelineGlob matches a pattern. A directory that may not be read is not the
// same as an empty one, for which filepath.Glob takes it.
func pipelineGlob(pattern string) ([]string, error) {
	dir := filepath.Dir(pattern)
	for isPattern(dir) {
		dir = filepath.Dir(dir)
	}
	d, err := os.Open(dir)
	switch {
	case err == nil:
		d.Close()
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil // idle
	default:
		return nil, err
	}
	return filepath.Glob(pattern)
}

// readFile reads a file, or remembers what it said if it has not changed.
func (p *pipeline) readFile(path string) (pipelineFile, error) {
	// A pipe that somebody left in the place of a file must not hold us up.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return pipelineFile{}, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return pipelineFile{}, err
	}
	if !info.Mode().IsRegular() {
		return pipelineFile{}, failf(ReasonConfig, "%s is not a regular file", path)
	}
	if before, ok := p.read[path]; ok && os.SameFile(before.info, info) &&
		before.info.Size() == info.Size() && before.info.ModTime().Equal(info.ModTime()) {
		return before, nil
	}
	raw, tail, err := readTail(f, info.Size(), maxPipelineText)
	if err != nil {
		return pipelineFile{}, fmt.Errorf("reading %s: %w", path, err)
	}
	return pipelineFile{info, p.index.readPipeline(raw, tail)}, nil
}

// readTail returns the last whole lines of a file, at most limit bytes, and
// whether there are others before them. A line without an end is still being
// written.
func readTail(f io.ReadSeeker, size, limit int64) (raw []byte, tail bool, err error) {
	if tail = size > limit; tail {
		// From one byte earlier, to see whether a line begins there.
		if _, err := f.Seek(size-limit-1, io.SeekStart); err != nil {
			return nil, false, err
		}
		limit++
	}
	raw, err = io.ReadAll(io.LimitReader(f, min(size, limit)))
	if err != nil {
		return nil, false, err
	}
	if tail {
		raw = raw[bytes.IndexByte(raw, '\n')+1:]
	}
	return raw[:bytes.LastIndexByte(raw, '\n')+1], tail, nil
}
