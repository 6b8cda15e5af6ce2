// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

var (
	componentUp = gauge("", "component_up",
		"Whether the component passes the operations manual's health check", "one health request per scrape", "component")
	componentRequired = gauge("", "component_required",
		"Whether the component's absence is a fault", "the configuration: enabled, required", "component")
	componentReady = gauge("", "component_ready",
		"Whether the component says that it is ready for work, where it says so", "its readiness endpoint", "component").
		absent("components without a readiness endpoint")
	componentResponse = gauge("", "component_response_seconds",
		"Time the component took to answer the health request on a warm connection; "+
			"niodoo_engine_response_time_seconds is what the engine says of itself", "measured by the exporter", "component").
		absent("while the component does not answer")
	componentInfo = gauge("", "component_info",
		"Version of the component; the value is 1", "its health or version endpoint", "component", "version").
		absent("while the component does not answer or does not tell its version")
	componentVersionChange = gauge("", "component_version_change_timestamp_seconds",
		"Time at which the exporter saw the component's version change", "niodoo_component_info", "component").
		absent("until the version has changed while the exporter was running")
	componentTLSNotAfter = gauge("", "component_tls_not_after_timestamp_seconds",
		"Time at which the certificate of the component's TLS endpoint expires; the chain's earliest", "TLS handshake", "component").
		absent("where the endpoint does not speak TLS")

	scrapeSuccess = gauge("", "scrape_collector_success",
		"Whether the collector found out all it wanted to", "the exporter's runner", "collector")
	scrapeDuration = gauge("", "scrape_collector_duration_seconds",
		"Time the collector took", "the exporter's runner", "collector")
	scrapeSeries = gauge("", "scrape_collector_series",
		"Number of series the collector added to this scrape", "the exporter's runner", "collector")
	scrapeFailure = gauge("", "scrape_collector_failure_info",
		"Why the collector failed, exactly one reason while it fails; the value is 1 and the text is in the log",
		"the exporter's runner", "collector", "reason").absent("while the collector succeeds")
	scrapeDropped = gauge("", "scrape_collector_series_dropped",
		"Number of series left out of this scrape: over the limit per collector, sent twice, or invalid",
		"the exporter's runner", "collector", "reason").absent("while nothing is left out")
	scrapeTimeout = gauge("", "scrape_timeout_seconds",
		"Time that this scrape was given", "X-Prometheus-Scrape-Timeout-Seconds less the offset, or --scrape.timeout")
)

// status is what is known of a component's health. A collector sends it as
// soon as it is known and goes on to the statistics.
type status struct {
	up bool
	// ready is nil where the component has no such notion.
	ready *bool
	// response is the health request's time, 0 for no answer.
	response time.Duration
	// version is "" if the component does not tell.
	version string
	// tlsNotAfter is the zero time without TLS.
	tlsNotAfter time.Time
}

// send sends the status of a component.
func (s status) send(ch chan<- prometheus.Metric, component string) {
	ch <- componentUp.boolean(s.up, component)
	if s.ready != nil {
		ch <- componentReady.boolean(*s.ready, component)
	}
	if s.response > 0 {
		ch <- componentResponse.metric(s.response.Seconds(), component)
	}
	if s.version != "" {
		ch <- componentInfo.metric(1, component, s.version)
	}
	if !s.tlsNotAfter.IsZero() {
		ch <- componentTLSNotAfter.metric(float64(s.tlsNotAfter.Unix()), component)
	}
}
