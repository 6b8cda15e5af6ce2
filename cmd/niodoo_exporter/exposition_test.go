// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"compress/gzip"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// The client gets the format and the encoding it asks for, and the length.
func TestExpositionAnswersAsAsked(t *testing.T) {
	t.Parallel()
	const openMetrics = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
	for _, c := range []struct {
		name, accept, encoding string
		gzip                   bool
		contentType, last      string
	}{
		{"Prometheus", openMetrics, "gzip", true, "application/openmetrics-text; version=1.0.0", "# EOF"},
		{"curl", "*/*", "", false, "text/plain; version=0.0.4", "x_total 1"},
		{"identity", openMetrics, "identity", false, "application/openmetrics-text; version=1.0.0", "# EOF"},
		{"refused", "", "gzip;q=0, *", false, "text/plain; version=0.0.4", "x_total 1"},
		{"refused with spaces", "", "gzip; q=0.0", false, "text/plain; version=0.0.4", "x_total 1"},
		{"unreadable quality", "", "gzip;q=much", false, "text/plain; version=0.0.4", "x_total 1"},
		{"among others", "", "zstd;q=1.0, br , GZIP;q=0.5", true, "text/plain; version=0.0.4", "x_total 1"},
		{"anything", "", "*", true, "text/plain; version=0.0.4", "x_total 1"},
		{"anything but", "", "*;q=0", false, "text/plain; version=0.0.4", "x_total 1"},
		{"something else", "", "zstd", false, "text/plain; version=0.0.4", "x_total 1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			for range 2 { // the second time with what the first one used
				res := exposed(t, c.accept, c.encoding, gathered("x_total"))
				if got := res.Header().Get("Content-Length"); got != strconv.Itoa(res.Body.Len()) {
					t.Errorf("Content-Length is %s of %d", got, res.Body.Len())
				}
				if got := res.Header().Get("Content-Type"); !strings.HasPrefix(got, c.contentType) {
					t.Errorf("Content-Type is %q", got)
				}
				var body io.Reader = res.Body
				if encoding := res.Header().Get("Content-Encoding"); (encoding == "gzip") != c.gzip {
					t.Fatalf("Content-Encoding is %q", encoding)
				}
				if c.gzip {
					var err error
					if body, err = gzip.NewReader(body); err != nil { // another implementation than that which wrote it
						t.Fatal(err)
					}
				}
				text, err := io.ReadAll(body)
				if err != nil {
					t.Fatal(err)
				}
				if got := strings.TrimSpace(string(text)); !strings.HasPrefix(got, "# HELP x") || !strings.HasSuffix(strings.TrimSuffix(got, ".0"), c.last) {
					t.Errorf("the body is %q", text)
				}
			}
		})
	}
}

// What could be gathered is served; an answer without anything is an error, in plain text.
func TestExpositionOfFailures(t *testing.T) {
	t.Parallel()
	partial := func() ([]*dto.MetricFamily, error) {
		f, _ := gathered("x_total")()
		return f, errors.New("half of it")
	}
	if res := exposed(t, "", "", partial); res.Code != http.StatusOK || !strings.Contains(res.Body.String(), "x_total 1") {
		t.Errorf("%d %s", res.Code, res.Body)
	}
	nothing := func() ([]*dto.MetricFamily, error) { return nil, errors.New("all of it") }
	res := exposed(t, "", "gzip", nothing)
	if res.Code != http.StatusInternalServerError || res.Header().Get("Content-Encoding") != "" || res.Body.String() != "gathering failed: all of it\n" {
		t.Errorf("%d %v %q", res.Code, res.Header(), res.Body)
	}
	// A family that no text can hold does not take the others with it.
	bad := func() ([]*dto.MetricFamily, error) {
		f, _ := gathered("x_total")()
		return append([]*dto.MetricFamily{{Name: new("y_total"), Type: dto.MetricType_COUNTER.Enum(), Metric: []*dto.Metric{{}}}}, f...), nil
	}
	if res := exposed(t, "", "", bad); res.Code != http.StatusOK || !strings.Contains(res.Body.String(), "\nx_total 1\n") {
		t.Errorf("%d %s", res.Code, res.Body)
	}
}

func exposed(t *testing.T, accept, encoding string, gather prometheus.GathererFunc) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequest(http.MethodGet, "/metrics", nil)
	r.Header.Set("Accept", accept)
	if encoding != "" {
		r.Header.Set("Accept-Encoding", encoding)
	}
	s := &server{logger: slog.New(slog.NewTextHandler(t.Output(), nil))}
	res := httptest.NewRecorder()
	s.exposition(res, r, gather)
	return res
}

// gathered gathers a counter that is 1.
func gathered(name string) prometheus.GathererFunc {
	return func() ([]*dto.MetricFamily, error) {
		return []*dto.MetricFamily{{Name: new(name), Help: new("Help."), Type: dto.MetricType_COUNTER.Enum(),
			Metric: []*dto.Metric{{Counter: &dto.Counter{Value: new(1.0)}}}}}, nil
	}
}
