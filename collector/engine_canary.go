// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"context"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/niodoo/niodoo_exporter/internal/config"
)

var (
	engineCanarySuccess = gauge("engine", "engine_canary_success",
		"Whether the engine processed the last canary event", "POST /api/v1/consciousness/process").
		absent("unless the canary is enabled and one has ended")
	engineCanaryDuration = gauge("engine", "engine_canary_duration_seconds",
		"Time the last canary event took, from the request to the whole answer or the failure", "POST /api/v1/consciousness/process").
		absent("unless the canary is enabled and one has ended")
	engineCanaryTimestamp = gauge("engine", "engine_canary_timestamp_seconds",
		"Time at which the last canary event ended", "POST /api/v1/consciousness/process").
		absent("unless the canary is enabled and one has ended")
)

// engineCanaryEvent is the event. The engine cannot be told not to remember it.
const engineCanaryEvent = `{"input":"niodoo_exporter canary","emotional_context":{"emotion":"neutral","intensity":0.5},` +
	`"options":{"include_reasoning_trace":false,"include_memory_references":false}}`

// engineCanary has the engine process an event every so often. A scrape starts
// it when it is due and shows the last result; nothing waits for it. At most
// one is under way.
type engineCanary struct {
	client            *httpClient
	interval, timeout time.Duration
	now               func() time.Time

	mu      sync.Mutex
	last    time.Time          // start of the last one
	cancel  context.CancelFunc // nil unless one is under way
	done    chan struct{}
	ended   time.Time // zero until one has
	success bool
	took    time.Duration
}

func newEngineCanary(c *httpClient, cfg config.Canary, now func() time.Time) *engineCanary {
	return &engineCanary{client: c, now: now, interval: time.Duration(cfg.Interval), timeout: time.Duration(cfg.Timeout)}
}

// update starts the canary if it is due and sends the last result.
func (c *engineCanary) update(ch chan<- prometheus.Metric) {
	c.mu.Lock()
	if now := c.now(); c.cancel == nil && (c.last.IsZero() || now.Sub(c.last) >= c.interval) {
		ctx, cancel := context.WithTimeout(context.Background(), c.timeout)
		c.last, c.cancel, c.done = now, cancel, make(chan struct{})
		go c.run(ctx, cancel, c.done)
	}
	ended, success, took := c.ended, c.success, c.took
	c.mu.Unlock()
	if ended.IsZero() {
		return
	}
	ch <- engineCanarySuccess.boolean(success)
	ch <- engineCanaryDuration.metric(took.Seconds())
	ch <- engineCanaryTimestamp.metric(float64(ended.UnixMilli()) / 1000)
}

func (c *engineCanary) run(ctx context.Context, cancel context.CancelFunc, done chan struct{}) {
	defer close(done)
	defer cancel()
	started := time.Now()
	err := parallel(func() error { return c.process(ctx) }) // which survives a panic
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cancel = nil
	if ctx.Err() == context.Canceled {
		return // closed in mid-flight: that says nothing about the engine
	}
	c.ended, c.success, c.took = c.now(), err == nil, time.Since(started)
}

// process has one event processed.
func (c *engineCanary) process(ctx context.Context) error {
	r, err := c.client.do(ctx, http.MethodPost, "/api/v1/consciousness/process", []byte(engineCanaryEvent), maxAPIBody)
	if err != nil {
		return err
	}
	if err := r.ok(); err != nil {
		return err
	}
	var answer struct {
		Success *bool `json:"success"`
	}
	if err := r.json(&answer); err != nil {
		return err
	}
	if answer.Success != nil && !*answer.Success {
		return failf(ReasonUnhealthy, "%s: success is false", r.what)
	}
	return nil
}

// close ends the canary that is under way and waits for it.
func (c *engineCanary) close() {
	c.mu.Lock()
	cancel, done := c.cancel, c.done
	c.mu.Unlock()
	if cancel != nil {
		cancel()
	}
	if done != nil {
		<-done
	}
}
