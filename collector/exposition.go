// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"math"
	"net/http"
	"slices"
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/niodoo/niodoo_exporter/internal/promtext"
)

// Components that have a /metrics of their own are scraped by Prometheus
// directly. What stands here takes over the few families that an operator
// looks at when that very scrape is what fails.

// maxKept bounds what is kept of an exposition, in bytes.
const maxKept = 1 << 20

// mirror says how families of a component's own /metrics become one of ours.
type mirror struct {
	desc *Desc
	// from are the names the family has had; the first one that is there counts.
	from []string
	// labels are the source's labels that become desc's, in their order. Series
	// that differ in other labels are added up.
	labels []string
	// max takes the largest of them instead.
	max bool
	// ratio leaves out values above 1; no family has any below 0.
	ratio bool
	// known is the closed set of the last label's values; any other is "other".
	known []string
}

// exposition has the samples of an answer by name.
type exposition map[string][]promtext.Sample

// getMetrics asks for a component's own metrics and keeps the samples of the
// named families. It reads the answer to its end, so that a cut-off one is
// found out, and never holds it as a whole.
func (c *httpClient) getMetrics(ctx context.Context, path string, names ...string) (*reply, exposition, error) {
	wanted := make(map[string]bool, len(names))
	for _, n := range names {
		wanted[n] = true
	}
	r, err := c.exchange(ctx, http.MethodGet, path, nil, func(res *http.Response) ([]byte, error) {
		return keepSamples(res.Body, wanted, maxMetricsBody)
	})
	if err != nil {
		return nil, nil, err
	}
	if err := r.ok(); err != nil {
		return r, nil, err
	}
	if r.isHTML() {
		return r, nil, failf(ReasonParse, "%s: the answer is HTML, not metrics", r.what)
	}
	e := exposition{}
	promtext.Parse(r.body, func(s *promtext.Sample) {
		kept := *s
		kept.Labels = slices.Clone(s.Labels)
		e[s.Name] = append(e[s.Name], kept)
	})
	return r, e, nil
}

// keepSamples reads at most limit bytes of an exposition and returns the lines
// of the wanted samples. The first line that is not blank stays in any case:
// it shows whether the answer is an exposition at all.
func keepSamples(body io.Reader, wanted map[string]bool, limit int64) ([]byte, error) {
	rest := &io.LimitedReader{R: body, N: limit + 1}
	lines := bufio.NewReaderSize(rest, 32<<10)
	var kept []byte
	for {
		line, err := lines.ReadSlice('\n')
		cut := errors.Is(err, bufio.ErrBufferFull) // a line of 32 KiB is none of ours
		first := len(kept) == 0 && len(bytes.TrimSpace(line)) > 0
		if first || !cut && wanted[string(sampleName(line))] {
			kept = append(kept, line...)
		}
		for errors.Is(err, bufio.ErrBufferFull) {
			_, err = lines.ReadSlice('\n')
		}
		if cut && first {
			kept = append(kept, '\n')
		}
		switch {
		case rest.N == 0:
			return nil, failf(ReasonTooLarge, "the answer is larger than %d bytes", limit)
		case len(kept) > maxKept:
			return nil, failf(ReasonTooLarge, "the families wanted are larger than %d bytes", maxKept)
		case errors.Is(err, io.EOF):
			return kept, nil
		case err != nil:
			return nil, err
		}
	}
}

// sampleName returns the name at the beginning of a line.
func sampleName(line []byte) []byte {
	if i := bytes.IndexAny(line, "{ \t\r\n"); i >= 0 {
		return line[:i]
	}
	return line
}

// mirrorNames returns the names of all families that mirrors read.
func mirrorNames(mirrors []mirror) []string {
	var names []string
	for _, m := range mirrors {
		names = append(names, m.from...)
	}
	return names
}

// first returns the value of the first sample of a family.
func (e exposition) first(name string) (promtext.Sample, bool) {
	if len(e[name]) == 0 {
		return promtext.Sample{}, false
	}
	return e[name][0], true
}

// send sends what mirrors find in the exposition.
func (e exposition) send(ch chan<- prometheus.Metric, mirrors []mirror) {
	for i := range mirrors {
		m := &mirrors[i]
		for _, name := range m.from {
			if samples := e[name]; len(samples) > 0 {
				m.send(ch, samples)
				break
			}
		}
	}
}

func (m *mirror) send(ch chan<- prometheus.Metric, samples []promtext.Sample) {
	values := map[string]float64{}
	labels := map[string][]string{}
	for i := range samples {
		s := &samples[i]
		v := s.Value
		if math.IsNaN(v) || math.IsInf(v, 0) || v < 0 || m.ratio && v > 1 {
			continue
		}
		own := make([]string, len(m.labels))
		for i, l := range m.labels {
			own[i] = s.Label(l)
		}
		if n := len(own) - 1; m.known != nil && !slices.Contains(m.known, own[n]) {
			own[n] = "other"
		}
		key := strings.Join(own, "\xff")
		if _, ok := labels[key]; !ok {
			labels[key], values[key] = own, v
		} else if m.max {
			values[key] = max(values[key], v)
		} else {
			values[key] += v
		}
	}
	for key, own := range labels {
		ch <- m.desc.metric(values[key], own...)
	}
}

// healthy asks a health endpoint whose answer is its status: the body is a
// sentence for people, unless it is a login page.
func (c *httpClient) healthy(ctx context.Context, path string) (*reply, error) {
	r, err := c.get(ctx, path, maxHealthBody)
	if err != nil {
		return nil, err
	}
	if err := r.ok(); err != nil {
		return r, err
	}
	if r.isHTML() {
		return r, failf(ReasonParse, "%s: the answer is HTML, not a health check's", r.what)
	}
	return r, nil
}

// sendReady asks a readiness endpoint and sends what it says: 2xx is ready and
// 503 is not; anything else is a failure. Not being ready is no failure of ours.
func (c *httpClient) sendReady(ctx context.Context, ch chan<- prometheus.Metric, component, path string) (*reply, error) {
	r, err := c.get(ctx, path, maxHealthBody)
	if err != nil {
		return nil, err
	}
	if r.status != http.StatusServiceUnavailable {
		if err := r.ok(); err != nil {
			return r, err
		}
	}
	ch <- componentReady.boolean(r.status != http.StatusServiceUnavailable, component)
	return r, nil
}
