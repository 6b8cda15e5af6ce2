// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package scrapecost

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"
)

// Subject is an exporter, and what has to be asked of it to see its part of
// the stack once.
type Subject struct {
	*Program
	URLs []string
	// What it has cost so far.
	Scrapes int
	CPU     time.Duration
	Walls   []time.Duration
	// Series of one scrape.
	Series int
}

// Client scrapes as Prometheus does, over connections it keeps.
type Client struct{ http http.Client }

// NewClient returns a client; close it.
func NewClient() *Client {
	return &Client{http.Client{Transport: &http.Transport{DisableCompression: true}, Timeout: 20 * time.Second}}
}

// Close closes the client's connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Get returns an exposition, compressed if the exporter does so.
func (c *Client) Get(ctx context.Context, url string) (body []byte, encoding string, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, "", err
	}
	for name, v := range map[string]string{ // those of Prometheus 3.x
		"Accept": "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,application/openmetrics-text;version=0.0.1;q=0.5," +
			"text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
		"Accept-Encoding":                     "gzip",
		"User-Agent":                          "Prometheus/3.5.0",
		"X-Prometheus-Scrape-Timeout-Seconds": "10",
	} {
		req.Header.Set(name, v)
	}
	res, err := c.http.Do(req)
	if err != nil {
		return nil, "", err
	}
	defer res.Body.Close()
	body, err = io.ReadAll(res.Body)
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s answered %s: %.200s", url, res.Status, body)
	}
	return body, res.Header.Get("Content-Encoding"), err
}

// Text is Get, decompressed.
func (c *Client) Text(ctx context.Context, url string) (string, error) {
	body, encoding, err := c.Get(ctx, url)
	if err != nil || encoding != "gzip" {
		return string(body), err
	}
	z, err := gzip.NewReader(bytes.NewReader(body))
	if err != nil {
		return "", err
	}
	text, err := io.ReadAll(z)
	return string(text), err
}

// CountSeries asks for everything once and counts the series.
func (s *Subject) CountSeries(ctx context.Context, c *Client) error {
	s.Series = 0
	for _, u := range s.URLs {
		text, err := c.Text(ctx, u)
		if err != nil {
			return err
		}
		for line := range strings.Lines(text) {
			if !strings.HasPrefix(line, "#") {
				s.Series++
			}
		}
	}
	return nil
}

// Scrape scrapes n times and adds what that cost.
func (s *Subject) Scrape(ctx context.Context, c *Client, n int) error {
	before, err := s.Program.CPU()
	if err != nil {
		return err
	}
	for range n {
		started := time.Now()
		for _, u := range s.URLs {
			if _, _, err := c.Get(ctx, u); err != nil {
				return err
			}
		}
		s.Walls = append(s.Walls, time.Since(started))
	}
	after, err := s.Program.CPU()
	if err != nil {
		return err
	}
	s.CPU += after - before
	s.Scrapes += n
	return nil
}

// Forget drops the cost so far: that of warming up.
func (s *Subject) Forget() { s.Scrapes, s.CPU, s.Walls = 0, 0, nil }

// PerScrape is the processor time of one scrape.
func (s *Subject) PerScrape() time.Duration { return s.CPU / time.Duration(max(s.Scrapes, 1)) }

// Wall is a quantile of the time that one scrape took.
func (s *Subject) Wall(q float64) time.Duration {
	if len(s.Walls) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(s.Walls))
	return sorted[int(q*float64(len(sorted)-1))]
}
