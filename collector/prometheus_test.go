// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

// prometheusFake is Prometheus 3.16 with two targets, one of them dead, a rule
// that fails and an Alertmanager that is not there, as captured.
func prometheusFake(t testing.TB) expositionFake {
	return expositionFake{
		"/metrics":        {200, expositionFile(t, "prometheus_metrics.txt")},
		"/-/ready":        {200, "Prometheus Server is Ready.\n"},
		"/api/v1/targets": {200, expositionFile(t, "prometheus_targets.json")},
	}
}

func TestPrometheus(t *testing.T) {
	t.Parallel()
	golden(t, "prometheus", scrape(t, scraper(t, only(t, "prometheus", prometheusFake(t).section(t)))).Families)
}

func TestPrometheusFailures(t *testing.T) {
	testHTTPFailures(t, "prometheus")
	fake := prometheusFake(t)
	for _, c := range []struct {
		name   string
		fake   expositionFake
		reason Reason
	}{
		{"something else on its port", expositionFake{"/metrics": {200, "# TYPE gpu_power_watts gauge\ngpu_power_watts 245.3\n"}}, ReasonNotFound},
		{"targets refused", fake.with("/api/v1/targets", 401, "Unauthorized"), ReasonAuth},
		{"targets truncated", fake.with("/api/v1/targets", 200, fake["/api/v1/targets"].body[:900]), ReasonParse},
		{"targets are HTML", fake.with("/api/v1/targets", 200, "<html>"), ReasonParse},
		{"targets are another answer", fake.with("/api/v1/targets", 200, `{"status":"success","data":{}}`), ReasonParse},
		{"ready is broken", fake.with("/-/ready", 500, ""), ReasonHTTPStatus},
		{"stopping between two questions", fake.with("/api/v1/targets", 503, "Service Unavailable"), ReasonNotReady},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			expectFailure(t, only(t, "prometheus", c.fake.section(t)), "prometheus", true, c.reason)
		})
	}
}

// While the write-ahead log is replayed Prometheus is up and not ready, which
// is no failure; the API behind the gate is not asked.
func TestPrometheusReplay(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		answer expositionAnswer
		want   float64
		there  bool
	}{
		"in the middle": {expositionAnswer{200, `{"status":"success","data":{"min":4,"max":12,"current":6}}`}, 0.25, true},
		"not begun":     {expositionAnswer{200, `{"status":"success","data":{"min":0,"max":0,"current":0}}`}, 0, false},
		"stopping":      {expositionAnswer{503, "Service Unavailable"}, 0, false},
		"too old":       {expositionAnswer{404, "404 page not found"}, 0, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			fake := prometheusFake(t).with("/-/ready", 503, "Service Unavailable").
				with("/api/v1/targets", 500, "must not be asked").with("/api/v1/status/walreplay", c.answer.status, c.answer.body)
			res := scrape(t, scraper(t, only(t, "prometheus", fake.section(t))))
			for series, want := range map[string]float64{
				`niodoo_component_up{component="prometheus"}`:             1,
				`niodoo_component_ready{component="prometheus"}`:          0,
				`niodoo_scrape_collector_success{collector="prometheus"}`: 1,
			} {
				if v := value(t, res.Families, series); v != want {
					t.Errorf("%s is %v, want %v", series, v, want)
				}
			}
			if v, ok := lookup(res.Families, "niodoo_prometheus_wal_replay_ratio"); ok != c.there || v != c.want {
				t.Errorf("replay is %v, %v", v, ok)
			}
		})
	}
}

// Whatever else /metrics has, what was found there is exported even though
// what comes after it fails.
func TestPrometheusPartial(t *testing.T) {
	t.Parallel()
	res := expectFailure(t, only(t, "prometheus", prometheusFake(t).with("/-/ready", 500, "").section(t)), "prometheus", true, ReasonHTTPStatus)
	if v := value(t, res.Families, "niodoo_prometheus_head_series"); v == 0 {
		t.Error("no head series")
	}
}

func TestCountTargets(t *testing.T) {
	t.Parallel()
	const head = `{"status":"success","data":{"activeTargets":`
	broken := errors.New("broken")
	for _, c := range []struct {
		name, body string
		limit      int64
		want       string
		reason     Reason
	}{
		{"none", head + `[],"droppedTargets":[]}}`, 1000, "map[]", ""},
		{"null", head + `null}}`, 1000, "map[]", ""},
		{"a new word", head + `[{"health":"up"},{"health":"sideways"},{"labels":{"activeTargets":"x"}}]}}`, 1000, "map[unknown:2 up:1]", ""},
		{"over the limit", head + strings.Repeat(`{"health":"up"},`, 100), 500, "map[]", ""},
		{"over the limit after the list", head + `[{"health":"up"}],"x":"` + strings.Repeat("y", 500), 500, "map[]", ""},
		{"no list", head + `7}}`, 1000, "map[]", ReasonParse},
		{"cut off", head + `[{"health":"up"},`, 1000, "map[]", ReasonParse},
		{"empty", ``, 1000, "map[]", ReasonParse},
	} {
		got, err := countTargets(strings.NewReader(c.body), c.limit)
		if fmt.Sprint(got) != c.want || (err != nil) != (c.reason != "") || err != nil && classify(err) != c.reason {
			t.Errorf("%s: %v, %v", c.name, got, err)
		}
		if over := strings.HasPrefix(c.name, "over"); over != (err == nil && got == nil) {
			t.Errorf("%s: counts are %v", c.name, got)
		}
	}
	_, err := countTargets(io.MultiReader(strings.NewReader(head+`[{"health"`), iotest.ErrReader(broken)), 1000)
	if !errors.Is(err, broken) {
		t.Errorf("a broken connection became %v", err)
	}
}
