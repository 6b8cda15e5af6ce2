// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package collector

import "testing"

func lokiFake() expositionFake {
	return expositionFake{
		"/loki/api/v1/status/buildinfo": {200, `{"version":"3.7.6","revision":"f3a9a0b","branch":"HEAD","buildUser":"root@x","buildDate":"2026-08-01T10:00:00Z","goVersion":"go1.26"}`},
		"/ready":                        {200, "ready\n"},
	}
}

func TestLoki(t *testing.T) {
	t.Parallel()
	golden(t, "loki", scrape(t, scraper(t, only(t, "loki", lokiFake().section(t)))).Families)
}

func TestLokiFailures(t *testing.T) {
	testHTTPFailures(t, "loki")
	t.Run("another service", func(t *testing.T) {
		expectFailure(t, only(t, "loki", expositionFake{"/loki/api/v1/status/buildinfo": {200, "OK"}}.section(t)), "loki", false, ReasonParse)
	})
	t.Run("ready is broken", func(t *testing.T) {
		expectFailure(t, only(t, "loki", lokiFake().with("/ready", 500, "").section(t)), "loki", true, ReasonHTTPStatus)
	})
	t.Run("ready is on another port", func(t *testing.T) {
		expectFailure(t, only(t, "loki", lokiFake().with("/ready", 404, "").section(t)), "loki", true, ReasonNotFound)
	})
}

// A start takes Loki some 20 seconds, in which it is up, not ready, and says why.
func TestLokiNotReady(t *testing.T) {
	t.Parallel()
	for text, cause := range map[string]string{
		"Some services are not Running:\nStarting: 1\nRunning: 12\n":     "modules_starting",
		"Ingester not ready: waiting for 15s after being ready\n":        "ingester",
		"Ingester not ready: this instance owns no tokens\n":             "ingester",
		"Query Frontend not ready: not ready: number of schedulers is 0": "query_frontend",
		"Application is stopping\n":                                      "stopping",
		"something new":                                                  "other",
		"":                                                               "other",
	} {
		res := scrape(t, scraper(t, only(t, "loki", lokiFake().with("/ready", 503, text).section(t))))
		for series, want := range map[string]float64{
			`niodoo_component_up{component="loki"}`:             1,
			`niodoo_component_ready{component="loki"}`:          0,
			`niodoo_scrape_collector_success{collector="loki"}`: 1,
			`niodoo_loki_not_ready_info{cause="` + cause + `"}`: 1,
		} {
			if v := value(t, res.Families, series); v != want {
				t.Errorf("%q: %s is %v, want %v", text, series, v, want)
			}
		}
	}
}
