// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package incident

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/niodoo/niodoo_exporter/internal/config"
	"github.com/niodoo/niodoo_exporter/internal/endpoint"
	"github.com/niodoo/niodoo_exporter/internal/notify"
	"github.com/niodoo/niodoo_exporter/internal/opstate"
	"github.com/niodoo/niodoo_exporter/internal/thresholds"
)

// deadMan expects signs of life, of Watchdog and of the peers, and mails when
// one has failed to come for too long: once, and again when it is back. What it
// has told is on disk, so that it is told once whatever is restarted.
type deadMan struct {
	cfg     *config.Config
	dir     string
	silence time.Duration
	logger  *slog.Logger
	now     func() time.Time
	started time.Time
	// patience bounds the wait for the state directory's lock.
	patience time.Duration
	// tried is when a mail about a source was last tried, pending what was
	// mailed and is not on disk yet: as in Told, the zero time for "is back".
	tried, pending map[string]time.Time

	mu      sync.Mutex
	resumed bool // since and waiting are known
	// since is from when on silence counts: this program's start, or earlier if
	// another has listened until just before. waiting is the first start of those.
	since, waiting time.Time
	// lately is when sources were heard, which a full disk may not know.
	lately map[string]time.Time
}

func newDeadMan(cfg *config.Config, set thresholds.Set, logger *slog.Logger, now func() time.Time) *deadMan {
	silence := time.Duration(cfg.Incident.Listen.Silence)
	if w := set["heartbeat_seconds"].Warning; silence == 0 && w != nil {
		silence = time.Duration(*w * float64(time.Second))
	}
	return &deadMan{cfg: cfg, dir: cfg.Operations.StateDir, silence: silence, logger: logger, now: now, started: now(), patience: writePatience, tried: map[string]time.Time{}, pending: map[string]time.Time{}, lately: map[string]time.Time{}}
}

// alive notes a sign of life of our own.
func (d *deadMan) alive(ctx context.Context) error {
	return opstate.Update(ctx, d.dir, func(h *opstate.Heartbeat) error {
		d.resume(h)
		h.Listening = d.now().UTC()
		for name := range h.Peers { // one that is no longer configured
			if _, ok := d.cfg.Incident.Listen.Peers[name]; !ok {
				delete(h.Peers, name)
				delete(h.Told, name)
			}
		}
		return nil
	})
}

// resume finds out from when on silence counts. A listener that is restarted
// over and over must not begin to wait anew each time; one that was away for
// long could not hear.
func (d *deadMan) resume(h *opstate.Heartbeat) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.resumed {
		return
	}
	d.resumed, d.since, d.waiting = true, d.started, d.started
	if away := d.started.Sub(h.Listening); away >= 0 && away < d.silence/2 {
		d.since = time.Time{}
		if !h.Waiting.IsZero() {
			d.waiting = h.Waiting
		}
	}
	h.Waiting = d.waiting.UTC()
}

// heard notes a sign of life of a source.
func (d *deadMan) heard(ctx context.Context, source string) error {
	d.mu.Lock()
	d.lately[source] = d.now().UTC()
	d.mu.Unlock()
	return opstate.Update(ctx, d.dir, func(h *opstate.Heartbeat) error {
		d.resume(h)
		if source == opstate.Watchdog {
			h.Received = d.now().UTC()
			return nil
		}
		if h.Peers == nil {
			h.Peers = map[string]time.Time{}
		}
		h.Peers[source] = d.now().UTC()
		return nil
	})
}

// watch asks the peers and mails about silences until ctx ends.
func (d *deadMan) watch(ctx context.Context) {
	if d.cfg.Notify.SMTP.Smarthost == "" {
		d.logger.Warn("Nobody will be told of a silence: configure notify.smtp")
	}
	for ctx.Err() == nil {
		d.askPeers(ctx)
		d.tell(ctx)
		pause(ctx, time.Duration(d.cfg.Incident.Listen.Interval))
	}
}

// peerPatience bounds the wait for a peer's answer.
const peerPatience = 10 * time.Second

func (d *deadMan) askPeers(ctx context.Context) {
	var wg sync.WaitGroup
	for name, p := range d.cfg.Incident.Listen.Peers {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, peerPatience)
			defer cancel()
			e := endpoint.Endpoint{HTTP: config.HTTP{URL: p.URL, Authorization: p.Authorization, BasicAuth: p.BasicAuth, TLSConfig: p.TLSConfig}}
			_, err := e.Do(ctx, "GET", "/-/healthy")
			if err == nil {
				err = d.heard(ctx, name)
			}
			if err != nil && ctx.Err() == nil {
				d.logger.Warn("A peer gives no sign of life", "peer", name, "err", err)
			}
		})
	}
	wg.Wait()
}

// tell mails about the sources that have fallen silent or are back.
func (d *deadMan) tell(ctx context.Context) {
	h, err := opstate.Read[opstate.Heartbeat](d.dir)
	d.mu.Lock()
	since, waiting, resumed, lately := d.since, d.waiting, d.resumed, maps.Clone(d.lately)
	d.mu.Unlock()
	if err != nil || !resumed { // the round says so
		return
	}
	sources := append([]string{opstate.Watchdog}, slices.Sorted(maps.Keys(d.cfg.Incident.Listen.Peers))...)
	for _, source := range sources {
		last, begun := h.Peers[source], d.started
		if source == opstate.Watchdog {
			last, begun = h.Received, waiting
		}
		if lately[source].After(last) {
			last = lately[source]
		}
		told := h.Told[source]
		if p, ok := d.pending[source]; ok { // mailed already: only the disk does not know
			told = p
			d.remember(ctx, source)
		}
		from := last
		if from.Before(since) {
			from = since
		}
		if from.IsZero() { // it has never come, to us or to who listened before
			from = begun
		}
		silent := d.now().Sub(from) >= d.silence
		if !told.IsZero() { // told already: only a sign of life since is news
			silent = !last.After(told)
		}
		if silent == !told.IsZero() || time.Since(d.tried[source]) < d.retry() {
			continue
		}
		d.tried[source] = time.Now()
		if err := d.tellOf(ctx, source, silent, last, told, from); err != nil && ctx.Err() == nil {
			d.logger.Error("A silence could not be told", "source", source, "silent", silent, "err", err)
		}
	}
}

// retry is how long a mail that failed is not tried again.
func (d *deadMan) retry() time.Duration { return min(retryPause, d.silence/2) }

func (d *deadMan) tellOf(ctx context.Context, source string, silent bool, last, told, from time.Time) error {
	m := d.back(source, last, told)
	if silent {
		m = d.lost(source, last, from)
	}
	d.logger.Error(m.Subject)
	reached, err := mailEach(ctx, d.cfg.Notify.SMTP, d.cfg.Notify.SMTP.To, m)
	if len(reached) == 0 {
		return cmp.Or(err, fmt.Errorf("notify.smtp: %w", notify.ErrNotConfigured))
	}
	if err != nil {
		d.logger.Warn("Not everyone was reached", "err", err)
	}
	delete(d.tried, source) // what comes next is another message
	d.pending[source] = time.Time{}
	if silent {
		d.pending[source] = from.UTC()
	}
	d.remember(ctx, source)
	return nil
}

// remember writes down what was mailed about a source.
func (d *deadMan) remember(ctx context.Context, source string) {
	ctx, cancel := context.WithTimeout(ctx, d.patience)
	defer cancel()
	since := d.pending[source]
	err := opstate.Update(ctx, d.dir, func(h *opstate.Heartbeat) error {
		if since.IsZero() {
			delete(h.Told, source)
			return nil
		}
		if h.Told == nil {
			h.Told = map[string]time.Time{}
		}
		h.Told[source] = since
		return nil
	})
	if err == nil {
		delete(d.pending, source)
	} else {
		d.logger.Error("What was mailed cannot be written down", "source", source, "err", err)
	}
}

func (d *deadMan) lost(source string, last, from time.Time) notify.Mail {
	heard := "has never been heard since " + from.UTC().Format(timeFormat)
	if !last.IsZero() {
		heard = "was last heard at " + last.UTC().Format(timeFormat)
	}
	m := notify.Mail{
		Subject: fmt.Sprintf("[niodoo] %s: the listener %s is silent", hostName(), source),
		Text: fmt.Sprintf("The incident listener %s %s; %s of silence are the limit.\n\nIts machine, its network or the listener itself is down. "+
			"Nobody there is told of anything.\n\nThis is mailed once, and once more when it is back.\n", source, heard, d.silence),
	}
	if source == opstate.Watchdog {
		m.Subject = fmt.Sprintf("[niodoo] %s: alerts do not arrive any more", hostName())
		m.Text = fmt.Sprintf("The alert Watchdog, which always fires, %s; %s of silence are the limit.\n\nPrometheus, Alertmanager or the way between "+
			"them and the incident listener is broken. Other alerts may be lost meanwhile: watch by hand until it is mended.\n"+
			"See docs/runbooks/HeartbeatLost.md.\n\nThis is mailed once, and once more when Watchdog is back.\n", heard, d.silence)
	}
	return m
}

func (d *deadMan) back(source string, last, told time.Time) notify.Mail {
	what, subject := "The incident listener "+source, "the listener "+source+" is back"
	if source == opstate.Watchdog {
		what, subject = "The alert Watchdog", "alerts arrive again"
	}
	return notify.Mail{
		Subject: fmt.Sprintf("[niodoo] %s: %s", hostName(), subject),
		Text:    fmt.Sprintf("%s is back: heard at %s, after a silence since %s.\n", what, last.UTC().Format(timeFormat), told.UTC().Format(timeFormat)),
	}
}
