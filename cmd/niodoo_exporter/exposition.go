// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"

	"github.com/klauspost/compress/gzip"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
)

// exposition answers with what gather returns, in the format and the encoding
// that the client likes. promhttp would too, but compress at a level that
// takes a third of all the time of a scrape for a sixth off its size.
func (s *server) exposition(w http.ResponseWriter, r *http.Request, gather prometheus.GathererFunc) {
	families, err := gather()
	if err != nil {
		s.logger.Warn("Gathering failed", "err", err)
		if len(families) == 0 {
			http.Error(w, "gathering failed: "+err.Error(), http.StatusInternalServerError)
			return
		}
	}
	p := pages.Get().(*page)
	defer pages.Put(p)
	p.body.Reset()
	format := expfmt.NegotiateAccept(r.Header, expfmt.DefaultOpenMetricsAcceptedFormats()...)
	w.Header().Set("Content-Type", string(format))
	if acceptsGzip(r.Header.Values("Accept-Encoding")) {
		w.Header().Set("Content-Encoding", "gzip")
		p.gzip.Reset(&p.body)
		s.encode(p.gzip, format, families)
		_ = p.gzip.Close() // a buffer takes everything
	} else {
		s.encode(&p.body, format, families)
	}
	w.Header().Set("Content-Length", strconv.Itoa(p.body.Len()))
	_, _ = w.Write(p.body.Bytes()) // a client that has gone needs no answer
}

// encode writes families. One that cannot be written is logged and left out.
func (s *server) encode(w io.Writer, format expfmt.Format, families []*dto.MetricFamily) {
	enc := expfmt.NewEncoder(w, format)
	for _, f := range families {
		if err := enc.Encode(f); err != nil {
			s.logger.Warn("A metric family cannot be encoded", "family", f.GetName(), "err", err)
		}
	}
	if c, ok := enc.(expfmt.Closer); ok {
		_ = c.Close() // as above, a buffer takes it
	}
}

// page is an answer in the making. Whole, it leaves in one piece.
type page struct {
	body bytes.Buffer
	gzip *gzip.Writer
}

var pages = sync.Pool{New: func() any {
	z, _ := gzip.NewWriterLevel(nil, gzip.BestSpeed) // fails for an unknown level only
	return &page{gzip: z}
}}

// acceptsGzip reads Accept-Encoding. "*" is gzip as well, and a quality of 0 is a no.
func acceptsGzip(header []string) bool {
	accepts := map[string]bool{}
	for item := range strings.SplitSeq(strings.Join(header, ","), ",") {
		name, params, _ := strings.Cut(item, ";")
		accept := true
		if q, ok := strings.CutPrefix(strings.TrimSpace(params), "q="); ok {
			v, err := strconv.ParseFloat(q, 64)
			accept = err == nil && v > 0
		}
		accepts[strings.ToLower(strings.TrimSpace(name))] = accept
	}
	if yes, named := accepts["gzip"]; named {
		return yes
	}
	return accepts["*"]
}
