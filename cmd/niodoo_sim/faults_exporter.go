// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"os"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
)

var exporterFaults = []labFault{
	{"exporter-stopped", "exporter", "The exporter is killed.", func(_ context.Context, l *lab) (func() error, error) {
		l.exporter.kill()
		return func() error { return l.exporter.start() }, nil
	}},
	{"exporter-config-broken", "exporter", "The exporter is told to read a configuration that it cannot.", func(_ context.Context, l *lab) (func() error, error) {
		path := l.path("niodoo.yml")
		set := func(text string) error {
			return errors.Join(os.WriteFile(path, []byte(text), 0o600), l.exporter.signal(syscall.SIGHUP))
		}
		return func() error { return set(l.config) }, set(l.config + "engine: [\n")
	}},
	{"exporter-series-limited", "exporter", "The exporter runs with a limit of 20 series a collector.", func(_ context.Context, l *lab) (func() error, error) {
		return l.exporter.again(), l.exporter.again("--collector.max-series=20")()
	}},
	{"exporter-flooded", "exporter", "The exporter may answer one request at a time, and others keep it busy.", func(ctx context.Context, l *lab) (func() error, error) {
		err := l.exporter.again("--web.max-requests=1")()
		l.work.Go(func() {
			every(ctx, 200*time.Millisecond, func(ctx context.Context) {
				g, ctx := errgroup.WithContext(ctx)
				for range 4 {
					g.Go(func() error { _, _ = l.exporter.scrape(ctx); return nil }) // refused, as intended
				}
				_ = g.Wait()
			})
		})
		return l.exporter.again(), err
	}},
}
