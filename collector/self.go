// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"runtime"
	"sync"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/version"
)

var (
	selfBuildInfo = gauge("exporter", "exporter_build_info",
		"Version, revision, branch and Go version the exporter was built with; the value is 1", "the linker",
		"version", "revision", "branch", "goversion")
	selfReloadOK = gauge("exporter", "exporter_config_last_reload_successful",
		"Whether the last attempt to load the configuration succeeded", "the exporter")
	selfReloadTime = gauge("exporter", "exporter_config_last_reload_success_timestamp_seconds",
		"Time of the last successful load of the configuration", "the exporter")
	selfConfigInfo = gauge("exporter", "exporter_config_info",
		"First 16 hex digits of the SHA-256 of the configuration file in force; the value is 1", "the exporter", "checksum").
		absent("without a configuration file")
	selfRejected = counter("exporter", "exporter_requests_rejected_total",
		"Requests answered 503 because --web.max-requests were in flight", "the exporter", "handler")
	selfTLSNotAfter = gauge("exporter", "exporter_tls_not_after_timestamp_seconds",
		"Time at which the exporter's own certificate expires", "tls_server_config of --web.config.file").
		absent("while the exporter serves plain HTTP")
)

// Self is what the exporter reports about itself, on /metrics only.
type Self struct {
	// TLSNotAfter returns the expiry of the exporter's own certificate, the
	// zero time without one.
	TLSNotAfter func() time.Time

	mu       sync.Mutex
	reloaded time.Time
	ok       bool
	checksum string
	rejected map[string]float64
}

// NewSelf returns a Self that counts rejected requests for the given handlers.
func NewSelf(handlers ...string) *Self {
	s := &Self{rejected: map[string]float64{}}
	for _, h := range handlers {
		s.rejected[h] = 0
	}
	return s
}

// Reloaded notes a successful load of a configuration file with the given
// checksum, "" for no file.
func (s *Self) Reloaded(at time.Time, checksum string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reloaded, s.ok, s.checksum = at, true, checksum
}

// ReloadFailed notes that the configuration could not be loaded.
func (s *Self) ReloadFailed() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ok = false
}

// Rejected counts a request that a handler turned away.
func (s *Self) Rejected(handler string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rejected[handler]++
}

// Families returns the exporter's own metrics, sorted by name.
func (s *Self) Families() []*dto.MetricFamily {
	families := map[*Desc][]*sample{}
	send := func(d *Desc, v float64, labels ...string) {
		families[d] = append(families[d], d.metric(v, labels...).(*sample))
	}
	send(selfBuildInfo, 1, version.Version, version.GetRevision(), version.Branch, runtime.Version())
	if s.TLSNotAfter != nil {
		if t := s.TLSNotAfter(); !t.IsZero() {
			send(selfTLSNotAfter, float64(t.Unix()))
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	send(selfReloadOK, boolValue(s.ok))
	send(selfReloadTime, float64(s.reloaded.UnixMilli())/1000)
	if s.checksum != "" {
		send(selfConfigInfo, 1, s.checksum)
	}
	for h, n := range s.rejected {
		send(selfRejected, n, h)
	}
	return encode(families)
}
