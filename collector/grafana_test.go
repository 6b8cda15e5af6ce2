// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"fmt"
	"testing"
)

func TestGrafana(t *testing.T) {
	srv := serve(t, 200, "application/json; charset=UTF-8", "{\n  \"database\": \"ok\",\n  \"version\": \"12.1.0\",\n  \"commit\": \"4550cfb5b7\"\n}")
	golden(t, "grafana", scrape(t, scraper(t, only(t, "grafana", fmt.Sprintf("{url: %q}", srv.URL)))).Families)
}

func TestGrafanaFailures(t *testing.T) {
	testHTTPFailures(t, "grafana")

	for _, c := range []struct {
		name   string
		status int
		body   string
		reason Reason
	}{
		{"database failing", 503, "{\n  \"database\": \"failing\",\n  \"version\": \"12.1.0\"\n}", ReasonNotReady},
		{"database failing with 200", 200, `{"database": "failing"}`, ReasonUnhealthy},
		{"truncated", 200, `{"database": "o`, ReasonParse},
		{"another service", 200, `{"status": "ok"}`, ReasonParse},
	} {
		t.Run(c.name, func(t *testing.T) {
			srv := serve(t, c.status, "application/json", c.body)
			expectFailure(t, only(t, "grafana", fmt.Sprintf("{url: %q}", srv.URL)), "grafana", false, c.reason)
		})
	}
}

// With the version hidden the health check still passes.
func TestGrafanaHiddenVersion(t *testing.T) {
	srv := serve(t, 200, "application/json", `{"database": "ok"}`)
	res := scrape(t, scraper(t, only(t, "grafana", fmt.Sprintf("{url: %q}", srv.URL))))
	if v := value(t, res.Families, `niodoo_component_up{component="grafana"}`); v != 1 {
		t.Errorf("up is %v", v)
	}
	if _, ok := lookup(res.Families, `niodoo_component_info{component="grafana",version=""}`); ok {
		t.Error("an unknown version is exported")
	}
}
