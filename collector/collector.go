// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

// Package collector tells, on every scrape, whether the components of a Niodoo
// stack are healthy and how well they do. There is one file per component; the
// runner in scrape.go isolates them from each other.
package collector

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/niodoo/niodoo_exporter/internal/config"
)

// Collector looks at one component.
//
// Update sends what it finds to ch and returns what went wrong; classify in
// reason.go turns the error into one of the closed set of reasons. It sends
// the component's status (see [status]) as soon as health is known, so that a
// statistics call that hangs afterwards does not turn a healthy component into
// a dead one. It ends when ctx does, does not send after it has returned, and
// is never called twice at once.
//
// A collector that holds connections also has a method Close() error. It
// releases them; Update may be called again afterwards and connects anew.
type Collector interface {
	Update(ctx context.Context, ch chan<- prometheus.Metric) error
}

// Deps is what a collector needs of the world around it.
type Deps struct {
	// Logger already carries the collector's name. Failures are returned, not
	// logged: the runner logs them, once per change.
	Logger *slog.Logger
	// DialContext opens every network connection of the collector. /probe
	// passes one that refuses hosts that the configuration does not allow.
	DialContext func(ctx context.Context, network, address string) (net.Conn, error)
	// Now is the clock.
	Now func() time.Time
	// Fleet says that connections are closed after each run (see Collector).
	Fleet bool
}

// withDefaults fills in what was left out.
func (d Deps) withDefaults() Deps {
	if d.Logger == nil {
		d.Logger = slog.New(slog.DiscardHandler)
	}
	if d.DialContext == nil {
		d.DialContext = (&net.Dialer{}).DialContext
	}
	if d.Now == nil {
		d.Now = time.Now
	}
	return d
}

// factory makes a collector from its section of the configuration. It does not
// connect: a component may come up after the exporter.
type factory func(cfg *config.Config, deps Deps) (Collector, error)

var factories = map[string]factory{}

// register makes a collector known. Its name is its section's in the
// configuration, which also says whether it runs by default.
func register(name string, f factory) {
	if _, ok := factories[name]; ok {
		panic("collector: " + name + " registered twice")
	}
	factories[name] = f
}

// Names returns the names of all collectors in the order of the configuration.
func Names() []string {
	var names []string
	for _, n := range config.Names() {
		if factories[n] != nil {
			names = append(names, n)
		}
	}
	return names
}

// parallel runs the parts of a collector side by side and returns the first
// error in the order of the parts. A part that panics fails alone: recover in
// the runner does not reach goroutines that a collector starts itself.
func parallel(parts ...func() error) error {
	errs := make([]error, len(parts))
	done := make(chan struct{})
	for i, part := range parts {
		go func() {
			defer func() {
				if p := recover(); p != nil {
					errs[i] = panicError(p)
				}
				done <- struct{}{}
			}()
			errs[i] = part()
		}()
	}
	for range parts {
		<-done
	}
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// newCollector calls a factory and turns its failure into a collector that
// says so on every scrape: one bad section does not silence the others.
func newCollector(f factory, cfg *config.Config, deps Deps) (c Collector) {
	defer func() {
		if p := recover(); p != nil {
			c = broken{panicError(p)}
		}
	}()
	c, err := f(cfg, deps)
	if err != nil {
		return broken{fail(ReasonConfig, fmt.Errorf("setting up: %w", err))}
	}
	return c
}

// broken is a collector that could not be made.
type broken struct{ err error }

func (b broken) Update(context.Context, chan<- prometheus.Metric) error {
	return b.err
}
