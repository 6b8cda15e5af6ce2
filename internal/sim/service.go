// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// responder stands between the requests and a service's own answers.
type responder func(s *service, w http.ResponseWriter, r *http.Request, next http.Handler)

// service is one simulated service on a listener of its own.
type service struct {
	name    string
	network string // tcp or unix
	address string // where it listens; fixed once it has
	handler http.Handler
	// reject answers a request with an error in the service's own words.
	reject func(w http.ResponseWriter, r *http.Request, status int)
	// onStart is called before a service that was stopped listens again.
	onStart func()
	// section is what the exporter's configuration says about the service.
	section func(address string) map[string]any

	faults atomic.Pointer[[]responder]

	mu  sync.Mutex
	run *run // nil while stopped
}

// run is a service from its start to its stop.
type run struct {
	server  *http.Server
	served  chan struct{} // closed when the listener is
	stopped chan struct{} // closed when the service is about to stop
	busy    sync.RWMutex  // held by requests being answered
}

// start listens and serves. The first start picks the port if none is given.
func (s *service) start() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.run != nil {
		return nil
	}
	l, err := listen(s.network, s.address)
	if err != nil {
		return fmt.Errorf("starting the simulated %s: %w", s.name, err)
	}
	if at := l.Addr().String(); at != s.address { // only at the first start: others read it
		s.address = at
	}
	u := &run{served: make(chan struct{}), stopped: make(chan struct{})}
	u.server = &http.Server{
		Handler:           http.HandlerFunc(s.serve),
		ReadHeaderTimeout: 10 * time.Second,
		ErrorLog:          log.New(io.Discard, "", 0),
		BaseContext:       func(net.Listener) context.Context { return context.WithValue(context.Background(), runKey{}, u) },
	}
	s.run = u
	go func() {
		_ = u.server.Serve(l)
		close(u.served)
	}()
	return nil
}

// runKey is the key of the run in a request's context.
type runKey struct{}

func runOf(r *http.Request) *run { return r.Context().Value(runKey{}).(*run) }

// stop closes the listener and every connection, as the end of a process does,
// and waits until no request is being answered any more.
func (s *service) stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.run == nil {
		return
	}
	close(s.run.stopped)
	_ = s.run.server.Close()
	<-s.run.served
	u := s.run
	u.busy.Lock() // once every request has been answered or given up
	defer u.busy.Unlock()
	s.run = nil
}

// runs reports whether the service is started.
func (s *service) runs() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.run != nil
}

// restart is start for a service that was stopped by a fault.
func (s *service) restart() error {
	if s.runs() {
		return nil
	}
	if s.onStart != nil {
		s.onStart()
	}
	return s.start()
}

// serve passes a request through the faults in effect to the service itself.
func (s *service) serve(w http.ResponseWriter, r *http.Request) {
	u := runOf(r)
	u.busy.RLock()
	defer u.busy.RUnlock()
	select {
	case <-u.stopped:
		panic(http.ErrAbortHandler) // a request that slipped in: the connection just ends
	default:
	}
	next := s.handler
	if faults := s.faults.Load(); faults != nil {
		for _, f := range slices.Backward(*faults) { // the first is the outermost
			inner := next
			next = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { f(s, w, r, inner) })
		}
	}
	next.ServeHTTP(w, r)
}

// pause waits and reports false if the client or the service went away.
func pause(r *http.Request, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-r.Context().Done():
	case <-runOf(r).stopped:
	}
	return false
}

// listen opens a listener. A port of 0 becomes one below the ephemeral range:
// a service that is stopped for a while must find its port free again, not
// taken by somebody's outgoing connection.
func listen(network, address string) (net.Listener, error) {
	if network == "unix" {
		return net.Listen(network, address)
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	if port == "0" {
		for range 200 {
			l, err := net.Listen(network, net.JoinHostPort(host, strconv.Itoa(20000+rand.IntN(12000))))
			if err == nil || !errors.Is(err, syscall.EADDRINUSE) {
				return l, err
			}
		}
		return nil, errors.New("found no free port between 20000 and 32000")
	}
	// Somebody may be holding the port for a moment: try again for a while.
	for deadline := time.Now().Add(2 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		l, err := net.Listen(network, address)
		if err == nil || !errors.Is(err, syscall.EADDRINUSE) || time.Now().After(deadline) {
			return l, err
		}
	}
}
