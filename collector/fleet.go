// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"regexp"
	"sync"
	"time"

	dto "github.com/prometheus/client_model/go"

	"github.com/niodoo/niodoo_exporter/internal/config"
)

// Limits on what a fleet keeps between probes.
const (
	// fleetExpiry is how long a target that is not probed any more is remembered.
	fleetExpiry = 10 * time.Minute
	// fleetMaxTargets bounds the targets remembered at once.
	fleetMaxTargets = 10_000
)

// Errors of [Fleet.Probe].
var (
	ErrBadProbe   = errors.New("bad probe")
	ErrNotAllowed = errors.New("target not allowed")
)

// Fleet probes the stacks of a fleet. What a collector keeps between probes is
// kept per target; connections are not kept.
type Fleet struct {
	cfg   *config.Config
	deps  Deps
	opts  Options
	allow map[string][]*regexp.Regexp

	mu      sync.Mutex
	targets map[fleetKey]*fleetTarget
	swept   time.Time
	closed  bool
}

type fleetKey struct{ module, target string }

type fleetTarget struct {
	scraper *Scraper
	used    time.Time
}

// NewFleet makes the fleet of a configuration's modules.
func NewFleet(cfg *config.Config, deps Deps, opts Options) *Fleet {
	deps = deps.withDefaults()
	deps.Fleet = true
	f := &Fleet{cfg: cfg, deps: deps, opts: opts, allow: map[string][]*regexp.Regexp{}, targets: map[fleetKey]*fleetTarget{}}
	for name, m := range cfg.Modules {
		for _, expr := range m.Allow {
			if re, err := config.CompileAllow(expr); err == nil { // the configuration has been validated
				f.allow[name] = append(f.allow[name], re)
			}
		}
	}
	return f
}

// allowed reports whether a module may be used for a target.
func (f *Fleet) allowed(module, target string) bool {
	for _, re := range f.allow[module] {
		if re.MatchString(target) {
			return true
		}
	}
	return false
}

// Check returns [ErrBadProbe] for a module or target that cannot be, and
// [ErrNotAllowed] for a target the module may not be used for.
func (f *Fleet) Check(module, target string) error {
	switch _, ok := f.cfg.Modules[module]; {
	case module == "":
		return fmt.Errorf("%w: the parameter module is missing", ErrBadProbe)
	case !ok:
		return fmt.Errorf("%w: there is no module %q in the configuration", ErrBadProbe, module)
	}
	if target == "" {
		return fmt.Errorf("%w: the parameter target is missing", ErrBadProbe)
	}
	if err := config.ValidTarget(target); err != nil {
		return fmt.Errorf("%w: target: %w", ErrBadProbe, err)
	}
	if !f.allowed(module, target) {
		return fmt.Errorf("%w: %q matches no expression of modules.%s.allow", ErrNotAllowed, target, module)
	}
	return nil
}

// Probe looks at one stack. logger, if not nil, gets what the collectors log
// in this probe, for debug=true; such a probe has no memory of others.
func (f *Fleet) Probe(ctx context.Context, module, target string, timeout time.Duration, logger *slog.Logger) (Result, error) {
	if err := f.Check(module, target); err != nil {
		return Result{}, err
	}
	started := time.Now()
	s := f.acquire(module, target, logger)
	defer s.Release()
	res := s.Scrape(ctx, timeout, nil)
	res.Families = MergeFamilies(res.Families, []*dto.MetricFamily{
		plainGauge("probe_success", "Whether every required component of the target is up.", boolValue(res.RequiredUp)),
		plainGauge("probe_duration_seconds", "Time the probe took.", time.Since(started).Seconds()),
	})
	return res, nil
}

// acquire returns the target's scraper, held. It is remembered, unless a probe
// has a logger of its own or the configuration is not in force any more.
func (f *Fleet) acquire(module, target string, logger *slog.Logger) *Scraper {
	f.mu.Lock()
	defer f.mu.Unlock()
	if logger != nil || f.closed {
		s := f.scraper(module, target, cmp.Or(logger, f.deps.Logger))
		s.Hold()
		go s.Retire(nil) // once it is released
		return s
	}
	now := f.deps.Now()
	f.sweep(now)
	k := fleetKey{module, target}
	t := f.targets[k]
	if t == nil {
		t = &fleetTarget{scraper: f.scraper(module, target, f.deps.Logger.With("module", module, "target", target))}
		f.targets[k] = t
	}
	t.used = now
	t.scraper.Hold()
	return t.scraper
}

// sweep forgets targets that are not probed any more, oldest first when there
// are too many.
func (f *Fleet) sweep(now time.Time) {
	if len(f.targets) < fleetMaxTargets && now.Sub(f.swept) < time.Minute {
		return
	}
	f.swept = now
	var oldest fleetKey
	for k, t := range f.targets {
		if now.Sub(t.used) > fleetExpiry {
			f.forget(k)
		} else if o := f.targets[oldest]; o == nil || t.used.Before(o.used) {
			oldest = k
		}
	}
	if len(f.targets) >= fleetMaxTargets {
		f.forget(oldest)
	}
}

func (f *Fleet) forget(k fleetKey) {
	t := f.targets[k]
	delete(f.targets, k)
	go t.scraper.Retire(nil) // waits for a probe in flight
}

// scraper makes the collectors of a module for one target.
func (f *Fleet) scraper(module, target string, logger *slog.Logger) *Scraper {
	cfg, err := f.cfg.ForTarget(module, target)
	if err != nil { // Check has been called
		panic(err)
	}
	deps := f.deps
	deps.Logger = logger
	dial := f.deps.DialContext
	deps.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		// Checked again where it counts: whatever a collector has been led to,
		// credentials leave for the target alone.
		host, _, err := net.SplitHostPort(address)
		if err != nil || host != target || !f.allowed(module, host) {
			return nil, failf(ReasonConfig, "refusing to connect to a host that is not the target")
		}
		return dial(ctx, network, address)
	}
	return NewScraper(cfg, deps, f.opts, nil)
}

// Close forgets all targets, and from now on remembers none: probes in flight
// come to their end.
func (f *Fleet) Close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
	for k := range f.targets {
		f.forget(k)
	}
}
