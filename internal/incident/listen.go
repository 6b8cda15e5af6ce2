// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package incident

import (
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/exporter-toolkit/web"
	"golang.org/x/net/netutil"

	"github.com/niodoo/niodoo_exporter/internal/config"
	"github.com/niodoo/niodoo_exporter/internal/opstate"
	"github.com/niodoo/niodoo_exporter/internal/thresholds"
)

// Limits of the listener.
const (
	// maxBody bounds a message, in bytes: ten thousand alerts fit.
	maxBody = 16 << 20
	// maxBodies is how many messages are read at once, maxConnections how many
	// connections are open.
	maxBodies, maxConnections = 4, 64
	readTimeout               = 30 * time.Second
	// writePatience bounds the wait for the state directory's lock.
	writePatience = 10 * time.Second
	// shutdownPatience is for the requests in flight when the listener is ended.
	shutdownPatience = 10 * time.Second
)

const (
	// sharedFor is how long evidence speaks for incidents that are opened after it.
	sharedFor = time.Minute
	// retryPause is between attempts to hand an incident on or to mail.
	retryPause = time.Minute
	// goodPause is between looks whether all is well, to remember that state.
	goodPause = 15 * time.Minute
)

// byListener is who the listener is in timelines.
const byListener = "incident listen"

// Listener receives Alertmanager's webhook and is the dead man's switch.
type Listener struct {
	cfg      *config.Config
	set      thresholds.Set
	store    Store
	logger   *slog.Logger
	now      func() time.Time
	respond  Responder
	switches *deadMan

	mu       sync.Mutex // held while a message is applied
	receiver receiver

	bodies    chan struct{}
	wake      chan struct{}
	resolving sync.WaitGroup // of escalations
	// ready is set once what was killed is made up for; alive is the unix time
	// in nanoseconds of the last sign of life that is on disk.
	ready atomic.Bool
	alive atomic.Int64
}

// NewListener returns a listener of a configuration.
func NewListener(cfg *config.Config, set thresholds.Set, logger *slog.Logger, now func() time.Time) *Listener {
	store := Store{cfg.Operations.StateDir}
	l := &Listener{cfg: cfg, set: set, store: store, logger: logger, now: now,
		respond:  Responder{Config: cfg, Thresholds: set, Store: store, By: byListener, Now: now},
		receiver: receiver{store: store, by: byListener, maxOpen: cfg.Incident.Listen.MaxOpen, now: now, episodes: map[string]*episode{}},
		bodies:   make(chan struct{}, maxBodies), wake: make(chan struct{}, 1)}
	l.switches = newDeadMan(cfg, set, logger, now)
	return l
}

// Exposed reports whether the listener would take messages from other
// machines without asking who they are.
func Exposed(l config.IncidentListen) bool {
	if l.TokenFile != "" || l.WebConfigFile != "" {
		return false
	}
	host, _, err := net.SplitHostPort(l.Address)
	ip := net.ParseIP(host)
	return err != nil || host != "localhost" && (ip == nil || !ip.IsLoopback())
}

// Listen serves until ctx ends. listening, which may be nil, is told the address.
func (l *Listener) Listen(ctx context.Context, listening func(net.Addr)) error {
	if err := l.store.Prepare(); err != nil {
		return err
	}
	if _, err := l.cfg.Incident.Listen.TokenFile.Read(); err != nil {
		return fmt.Errorf("incident.listen.token_file: %w", err)
	}
	socket, err := net.Listen("tcp", l.cfg.Incident.Listen.Address)
	if err != nil {
		return fmt.Errorf("incident.listen.address: %w", err)
	}
	if listening != nil {
		listening(socket.Addr())
	}
	srv := &http.Server{Handler: l.routes(), ReadTimeout: readTimeout, WriteTimeout: 2 * readTimeout, IdleTimeout: 5 * time.Minute, MaxHeaderBytes: 64 << 10,
		ErrorLog: slog.NewLogLogger(l.logger.Handler(), slog.LevelDebug)}
	no := false
	flags := &web.FlagConfig{WebListenAddresses: &[]string{l.cfg.Incident.Listen.Address}, WebSystemdSocket: &no, WebConfigFile: &l.cfg.Incident.Listen.WebConfigFile}
	failed := make(chan error, 1)
	go func() { failed <- web.Serve(netutil.LimitListener(socket, maxConnections), srv, flags, l.logger) }()
	background, stop := context.WithCancel(ctx)
	var work sync.WaitGroup
	work.Go(func() { l.tick(background) })
	work.Go(func() { l.work(background) })
	work.Go(func() { l.switches.watch(background) })
	select {
	case err = <-failed:
	case <-ctx.Done():
		ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownPatience)
		defer cancel()
		err = srv.Shutdown(ending)
	}
	stop()
	work.Wait()
	l.resolving.Wait()
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

func (l *Listener) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /webhook", l.webhook)
	mux.HandleFunc("GET /-/healthy", l.healthy)
	mux.HandleFunc("GET /-/ready", l.isReady)
	return mux
}

// healthy answers 200 while the signs of life reach the disk: peers ask here.
func (l *Listener) healthy(w http.ResponseWriter, _ *http.Request) {
	age := time.Since(time.Unix(0, l.alive.Load()))
	if most := max(4*time.Duration(l.cfg.Incident.Listen.Interval), writePatience); age > most {
		http.Error(w, "no sign of life could be written for "+most.String(), http.StatusServiceUnavailable)
		return
	}
	fmt.Fprintln(w, "healthy")
}

func (l *Listener) isReady(w http.ResponseWriter, _ *http.Request) {
	if !l.ready.Load() {
		http.Error(w, "starting", http.StatusServiceUnavailable)
		return
	}
	fmt.Fprintln(w, "ready")
}

// webhook answers 200 when what the message says is on disk. Alertmanager tries
// again after 503, and not after 4xx.
func (l *Listener) webhook(w http.ResponseWriter, r *http.Request) {
	if !l.allowed(r) {
		w.Header().Set("WWW-Authenticate", "Bearer")
		http.Error(w, "the bearer token is not that of incident.listen.token_file", http.StatusUnauthorized)
		return
	}
	if !l.ready.Load() {
		http.Error(w, "starting", http.StatusServiceUnavailable)
		return
	}
	select {
	case l.bodies <- struct{}{}:
		defer func() { <-l.bodies }()
	case <-r.Context().Done():
		return
	}
	raw, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if tooLarge, ok := errors.AsType[*http.MaxBytesError](err); ok {
		l.logger.Error("A message was refused: set max_alerts for the webhook", "limit_bytes", tooLarge.Limit)
		http.Error(w, "the message is too large", http.StatusRequestEntityTooLarge)
		return
	}
	if err != nil {
		http.Error(w, "the message did not arrive whole", http.StatusServiceUnavailable)
		return
	}
	m, err := ParseMessage(raw)
	if err != nil {
		l.logger.Error("A message was refused", "err", err)
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	if err := l.take(r.Context(), m); err != nil {
		l.logger.Error("A message has to come again", "group", m.GroupKey, "err", err)
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	fmt.Fprintln(w, "kept")
}

func (l *Listener) allowed(r *http.Request) bool {
	file := l.cfg.Incident.Listen.TokenFile
	if file == "" {
		return true
	}
	token, err := file.Read() // each time: it may be replaced while we run
	if err != nil || token.Reveal() == "" {
		l.logger.Error("The token cannot be read", "err", err)
		return false
	}
	scheme, given, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	want, got := sha256.Sum256([]byte(token.Reveal())), sha256.Sum256([]byte(strings.TrimSpace(given)))
	return strings.EqualFold(scheme, "bearer") && subtle.ConstantTimeCompare(want[:], got[:]) == 1
}

// take makes a message durable.
func (l *Listener) take(ctx context.Context, m Message) error {
	ctx, cancel := context.WithTimeout(ctx, writePatience)
	defer cancel()
	if m.heartbeat() {
		if err := l.switches.heard(ctx, opstate.Watchdog); err != nil {
			return err
		}
	}
	if len(m.incidental()) == 0 {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := ctx.Err(); err != nil { // whoever sent it has gone, and sends it again
		return err
	}
	opened, err := l.receiver.receive(ctx, m)
	if err != nil {
		return err
	}
	if opened != "" {
		l.logger.Info("An incident was opened", "incident", opened, "group", m.GroupKey)
		l.wakeUp()
	}
	return nil
}

func (l *Listener) wakeUp() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// tick gives signs of life and closes the incidents whose alerts have been
// resolved for long enough.
func (l *Listener) tick(ctx context.Context) {
	for ctx.Err() == nil {
		if err := l.round(ctx); err != nil && ctx.Err() == nil {
			l.logger.Error("The state directory cannot be used", "err", err)
		}
		pause(ctx, time.Duration(l.cfg.Incident.Listen.Interval))
	}
}

func (l *Listener) round(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, writePatience)
	defer cancel()
	if !l.ready.Load() {
		if err := l.store.Reconcile(ctx); err != nil {
			return err
		}
		l.ready.Store(true)
	}
	if err := l.switches.alive(ctx); err != nil {
		return err
	}
	l.alive.Store(time.Now().UnixNano())
	l.wakeUp() // what was left undone is tried again
	return l.closeQuiet(ctx)
}

// open are the open incidents with what is known of them, the most urgent first.
func (l *Listener) open() ([]opstate.Incident, map[string]episode, error) {
	index, err := l.store.Index()
	if err != nil {
		return nil, nil, err
	}
	open := index.Open
	slices.SortFunc(open, func(a, b opstate.Incident) int {
		return cmp.Or(cmp.Compare(a.Priority, b.Priority), a.Opened.Compare(b.Opened), cmp.Compare(a.ID, b.ID))
	})
	l.mu.Lock()
	defer l.mu.Unlock()
	maps.DeleteFunc(l.receiver.episodes, func(id string, _ *episode) bool { // long closed
		is := func(in opstate.Incident) bool { return in.ID == id }
		return !slices.ContainsFunc(open, is) && !slices.ContainsFunc(index.Closed, is)
	})
	known := map[string]episode{}
	for _, in := range open {
		if e, err := l.receiver.episode(in.ID); err == nil {
			known[in.ID] = *e
		}
	}
	return open, known, nil
}

func (l *Listener) closeQuiet(ctx context.Context) error {
	open, known, err := l.open()
	if err != nil {
		return err
	}
	now := l.now().UTC()
	for _, in := range open {
		e, ok := known[in.ID]
		if !ok || e.quiet.IsZero() || now.Sub(e.quiet) < time.Duration(l.cfg.Incident.Listen.Quiet) {
			continue
		}
		if err := l.close(ctx, in, now); err != nil {
			return err
		}
	}
	return nil
}

// close closes an incident unless one of its alerts has come back meanwhile.
func (l *Listener) close(ctx context.Context, in opstate.Incident, now time.Time) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	e, err := l.receiver.episode(in.ID)
	if err != nil || e.quiet.IsZero() {
		return err
	}
	err = l.store.Close(ctx, in.ID, byListener, "its alerts have stayed resolved", now, e.quiet)
	if err != nil && !errors.Is(err, ErrClosed) { // somebody was quicker
		return err
	}
	l.logger.Info("An incident was closed", "incident", in.ID)
	l.resolving.Go(func() {
		if err := l.respond.Resolve(context.WithoutCancel(ctx), in); err != nil {
			l.logger.Warn("The escalation could not be taken back", "incident", in.ID, "err", err)
		}
	})
	return nil
}

// work responds to incidents, one at a time: beside each other they would
// only see each other's load.
func (l *Listener) work(ctx context.Context) {
	var shared *Shared
	var taken, looked time.Time // when the evidence was taken, and when all was last looked at
	// tried is when something was last tried, far ahead for what must not be
	// done twice although its timeline could not be written.
	tried := map[string]time.Time{}
	for {
		select {
		case <-ctx.Done():
			return
		case <-l.wake:
		}
		for ctx.Err() == nil {
			in, due := l.next(tried)
			if due == nothing {
				break
			}
			tried[in.ID] = time.Now()
			if time.Since(taken) > sharedFor {
				shared = nil
			}
			switch due {
			case response:
				o, err := l.respond.Respond(ctx, in, shared)
				l.logOutcome(in, o, err)
				if err != nil && o.Escalated != "" {
					tried[in.ID] = time.Now().Add(escalationLasts)
				}
				if err == nil && shared == nil {
					shared, taken = &Shared{in.ID, o.Evidence}, time.Now()
				}
			case escalate:
				to, err := l.respond.Escalate(ctx, in)
				if err != nil && ctx.Err() == nil {
					l.logger.Error("An incident was not handed on as it should be", "incident", in.ID, "to", to, "err", err)
				}
				if to != "" {
					tried[in.ID] = time.Now().Add(escalationLasts)
				}
			}
			l.forget(in.ID)
		}
		if time.Since(looked) > goodPause {
			looked = time.Now()
			l.rememberGood(ctx)
		}
	}
}

type duty int

const (
	nothing duty = iota
	response
	escalate
)

// next returns what has to be done next. What was just tried is left alone for a while.
func (l *Listener) next(tried map[string]time.Time) (opstate.Incident, duty) {
	open, known, err := l.open()
	if err != nil {
		return opstate.Incident{}, nothing // the next round says so
	}
	now := l.now()
	for id := range tried {
		if !slices.ContainsFunc(open, func(in opstate.Incident) bool { return in.ID == id }) {
			delete(tried, id)
		}
	}
	for _, in := range open {
		e, ok := known[in.ID]
		if !ok || time.Since(tried[in.ID]) < retryPause {
			continue
		}
		plan := PlanOf(in.Priority, l.set)
		due, byHand := plan.EscalateAt(in.Opened), in.GroupKey == ""
		// A cured one may close by itself; who opened one by hand escalates it first.
		if later := in.Opened.Add(plan.Response); (e.cured || byHand) && later.After(due) {
			due = later
		}
		switch {
		case !e.evidence && !byHand:
			return in, response
		case !e.escalated && !now.Before(due):
			return in, escalate
		}
	}
	return opstate.Incident{}, nothing
}

// forget drops what is cached of an incident whose timeline others have added to.
func (l *Listener) forget(id string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.receiver.episodes, id)
}

func (l *Listener) logOutcome(in opstate.Incident, o Outcome, err error) {
	if err != nil {
		if !errors.Is(err, context.Canceled) {
			l.logger.Error("The response to an incident failed", "incident", in.ID, "err", err)
		}
		return
	}
	l.logger.Info("Responded to an incident", "incident", in.ID, "evidence", o.Evidence.Summary(), "restarted", o.Restarted, "escalated", o.Escalated,
		"action_error", o.ActionError, "escalation_error", o.EscalationError)
}

// rememberGood keeps the state of things while no incident is open and all is well.
func (l *Listener) rememberGood(ctx context.Context) {
	index, err := l.store.Index()
	if err != nil || len(index.Open) > 0 {
		return
	}
	if h, err := CheckHealth(ctx, l.cfg, l.set, l.now); err != nil || !h.Well {
		return
	}
	if err := RememberGood(ctx, l.cfg, l.now()); err != nil && ctx.Err() == nil {
		l.logger.Warn("The good state could not be kept", "err", err)
	}
}

// pause waits, or until ctx ends.
func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}
