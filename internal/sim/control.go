// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"slices"
)

// Control serves the stack's control endpoint:
//
//	GET    /faults       every fault, what it does and whether it is in effect
//	GET    /faults/NAME  one of them
//	PUT    /faults/NAME  injects it
//	DELETE /faults/NAME  lifts it
//	GET    /services     where each service listens
//
// It answers JSON; errors are {"error": "…"}.
func (st *Stack) Control() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /faults", func(w http.ResponseWriter, _ *http.Request) {
		answerJSON(w, http.StatusOK, st.Faults())
	})
	mux.HandleFunc("GET /faults/{name}", func(w http.ResponseWriter, r *http.Request) {
		st.answerFault(w, r.PathValue("name"), nil)
	})
	mux.HandleFunc("PUT /faults/{name}", func(w http.ResponseWriter, r *http.Request) {
		st.answerFault(w, r.PathValue("name"), st.Inject(r.PathValue("name")))
	})
	mux.HandleFunc("DELETE /faults/{name}", func(w http.ResponseWriter, r *http.Request) {
		st.answerFault(w, r.PathValue("name"), st.Lift(r.PathValue("name")))
	})
	mux.HandleFunc("GET /services", func(w http.ResponseWriter, _ *http.Request) {
		where := map[string]string{}
		for _, s := range st.services {
			where[s.name] = s.address
		}
		answerJSON(w, http.StatusOK, where)
	})
	return localOnly(mux)
}

// localOnly refuses names that are not this machine's, which is how a web page
// in a browser here would come.
func localOnly(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host := r.Host
		if h, _, err := net.SplitHostPort(host); err == nil {
			host = h
		}
		if host != "localhost" && net.ParseIP(host) == nil {
			answerJSON(w, http.StatusForbidden, map[string]string{"error": "ask for localhost or an address"})
			return
		}
		next.ServeHTTP(w, r)
	})
}

func (st *Stack) answerFault(w http.ResponseWriter, name string, err error) {
	if err != nil {
		status := http.StatusInternalServerError
		if errors.Is(err, ErrNoFault) {
			status = http.StatusNotFound
		}
		answerJSON(w, status, map[string]string{"error": err.Error()})
		return
	}
	states := st.Faults()
	i := slices.IndexFunc(states, func(f FaultState) bool { return f.Name == name })
	if i < 0 {
		answerJSON(w, http.StatusNotFound, map[string]string{"error": ErrNoFault.Error()})
		return
	}
	answerJSON(w, http.StatusOK, states[i])
}

// answerJSON sends v with a line break at its end, as most servers do.
func answerJSON(w http.ResponseWriter, status int, v any) { answerJSONAs(w, status, typeJSON, v) }

func answerJSONAs(w http.ResponseWriter, status int, contentType string, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		panic(err) // our own plain structures
	}
	answer(w, status, contentType, append(body, '\n'))
}

// Server is a handler on a listener of its own that no fault touches.
type Server struct {
	// Address is where it listens.
	Address string
	service *service
}

// Listen serves a handler; a port of 0 takes a free one.
func Listen(h http.Handler, address string) (*Server, error) {
	s := &service{name: "control endpoint", network: "tcp", address: address, handler: h}
	if err := s.start(); err != nil {
		return nil, err
	}
	return &Server{s.address, s}, nil
}

// Close ends the listener and waits until no request is being answered.
func (s *Server) Close() { s.service.stop() }
