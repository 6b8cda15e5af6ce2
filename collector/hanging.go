// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package collector

import "time"

// hanging makes calls that may never return, such as statfs on a mount whose
// server is gone: no context ends a system call. A call that outlasts the
// caller's patience is remembered, and nothing is asked under its key again
// until it has come back. So there is at most one goroutine per key, however
// many scrapes pass. It is not for concurrent use; the calls themselves run
// beside the caller. Keys within one round must differ.
type hanging[T any] struct {
	inFlight map[string]chan hangingAnswer[T]
}

// hangingAnswer is what a call returned.
type hangingAnswer[T any] struct {
	value T
	err   error
}

// start begins a call. It reports false, and calls nothing, while the last one
// under the same key has not come back.
func (h *hanging[T]) start(key string, call func() (T, error)) bool {
	if h.stuck(key) {
		return false
	}
	if h.inFlight == nil {
		h.inFlight = map[string]chan hangingAnswer[T]{}
	}
	done := make(chan hangingAnswer[T], 1) // the call can always leave its hangingAnswer and go
	h.inFlight[key] = done
	go func() {
		var a hangingAnswer[T]
		defer func() {
			if p := recover(); p != nil {
				a.err = panicError(p)
			}
			done <- a
		}()
		a.value, a.err = call()
	}()
	return true
}

// stuck reports whether the last call under the key has not come back. The
// answer of one that has is stale, so it is dropped.
func (h *hanging[T]) stuck(key string) bool {
	done, ok := h.inFlight[key]
	if !ok {
		return false
	}
	select {
	case <-done:
		delete(h.inFlight, key)
		return false
	default:
		return true
	}
}

// sweep forgets the calls that came back after their caller's patience.
func (h *hanging[T]) sweep() {
	for key := range h.inFlight {
		h.stuck(key)
	}
}

// wait returns the answer of the call just started under the key, or false
// once patience has run out.
func (h *hanging[T]) wait(key string, patience <-chan struct{}) (hangingAnswer[T], bool) {
	done := h.inFlight[key]
	select {
	case a := <-done:
		delete(h.inFlight, key)
		return a, true
	default:
	}
	select {
	case a := <-done:
		delete(h.inFlight, key)
		return a, true
	case <-patience:
		return hangingAnswer[T]{}, false
	}
}

// hangingPatience returns d or a third of the time until the deadline, if that is
// less: a collector with a short timeout still has time for the rest.
func hangingPatience(d time.Duration, deadline time.Time, ok bool) time.Duration {
	if ok {
		d = min(d, max(time.Until(deadline)/3, 0))
	}
	return d
}
