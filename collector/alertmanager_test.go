// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"strings"
	"testing"
)

// alertmanagerFake is Alertmanager 0.31 with five alerts, one of them silenced,
// and a receiver that is not there, as captured.
func alertmanagerFake(t testing.TB) expositionFake {
	return expositionFake{
		"/-/healthy":     {200, "OK"},
		"/-/ready":       {200, "OK"},
		"/api/v2/status": {200, expositionFile(t, "alertmanager_status.json")},
		"/api/v2/alerts": {200, expositionFile(t, "alertmanager_alerts.json")},
		"/metrics":       {200, expositionFile(t, "alertmanager_metrics.txt")},
	}
}

func TestAlertmanager(t *testing.T) {
	t.Parallel()
	golden(t, "alertmanager", scrape(t, scraper(t, only(t, "alertmanager", alertmanagerFake(t).section(t)))).Families)
}

func TestAlertmanagerFailures(t *testing.T) {
	testHTTPFailures(t, "alertmanager")
	fake := alertmanagerFake(t)
	for _, c := range []struct {
		name   string
		fake   expositionFake
		reason Reason
	}{
		{"too many questions at once", fake.with("/api/v2/alerts", 503, "Limit of concurrent GET requests reached (8), try again later.\n"), ReasonNotReady},
		{"API refused by a proxy", fake.with("/api/v2/status", 403, ""), ReasonAuth},
		{"before the API's second version", fake.with("/api/v2/status", 404, "404 page not found"), ReasonNotFound},
		{"alerts truncated", fake.with("/api/v2/alerts", 200, fake["/api/v2/alerts"].body[:500]), ReasonParse},
		{"alerts too large", fake.with("/api/v2/alerts", 200, "["+strings.Repeat(" ", maxListBody)+"]"), ReasonTooLarge},
		{"another status", fake.with("/api/v2/status", 200, `{"status":"ok"}`), ReasonParse},
		{"metrics are HTML", fake.with("/metrics", 200, "<html>Sign in</html>"), ReasonParse},
		{"ready is broken", fake.with("/-/ready", 500, ""), ReasonHTTPStatus},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			expectFailure(t, only(t, "alertmanager", c.fake.section(t)), "alertmanager", true, c.reason)
		})
	}
}

// Without a cluster there are no peers, which is not a cluster of none.
func TestAlertmanagerAlone(t *testing.T) {
	t.Parallel()
	fake := alertmanagerFake(t).
		with("/api/v2/status", 200, `{"cluster":{"peers":[],"status":"disabled"},"config":{"original":""},"uptime":"2026-11-23T08:41:55.486Z","versionInfo":{"version":"0.34.1"}}`).
		with("/api/v2/alerts", 200, `[]`).
		with("/-/ready", 503, "")
	res := scrape(t, scraper(t, only(t, "alertmanager", fake.section(t))))
	for series, want := range map[string]float64{
		`niodoo_component_up{component="alertmanager"}`:                    1,
		`niodoo_component_ready{component="alertmanager"}`:                 0,
		`niodoo_scrape_collector_success{collector="alertmanager"}`:        1,
		`niodoo_alertmanager_cluster_status{status="disabled"}`:            1,
		`niodoo_alertmanager_cluster_status{status="ready"}`:               0,
		`niodoo_alertmanager_alerts{severity="critical",state="active"}`:   0,
		`niodoo_component_info{component="alertmanager",version="0.34.1"}`: 1,
	} {
		if v := value(t, res.Families, series); v != want {
			t.Errorf("%s is %v, want %v", series, v, want)
		}
	}
	for _, series := range []string{"niodoo_alertmanager_cluster_peers", "niodoo_alertmanager_oldest_active_alert_start_time_seconds"} {
		if v, ok := lookup(res.Families, series); ok {
			t.Errorf("%s is %v, want none", series, v)
		}
	}
}

// A dead man's switch is always active: it must not be the oldest alert.
func TestAlertmanagerOldest(t *testing.T) {
	t.Parallel()
	alert := func(severity, state, starts string) string {
		return `{"labels":{"severity":"` + severity + `"},"startsAt":"` + starts + `","status":{"state":"` + state + `"}}`
	}
	fake := alertmanagerFake(t).with("/api/v2/alerts", 200, "["+strings.Join([]string{
		alert("none", "active", "2020-01-01T00:00:00Z"),
		alert("critical", "suppressed", "2021-01-01T00:00:00Z"),
		alert("warning", "active", "2026-11-23T08:52:36Z"),
		alert("warning", "active", "2026-11-23T08:52:35.5Z"),
		alert("warning", "unheard of", "2026-11-23T08:52:35.5Z"),
	}, ",")+"]")
	res := scrape(t, scraper(t, only(t, "alertmanager", fake.section(t))))
	if v := value(t, res.Families, "niodoo_alertmanager_oldest_active_alert_start_time_seconds"); v != 1795423955.5 {
		t.Errorf("the oldest began at %f", v)
	}
	if v := value(t, res.Families, `niodoo_alertmanager_alerts{severity="warning",state="active"}`); v != 2 {
		t.Errorf("%v warnings are active", v)
	}
}
