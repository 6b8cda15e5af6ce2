// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"
)

// Two Prometheus servers and two Alertmanagers watch one stack: each incident is
// told of once, also when one of each is killed between the fault and the
// notification.
func TestTwoOfEach(t *testing.T) {
	t.Parallel()
	c := startChain(t, 2, quick)
	s := startStack(t, Build(t, "niodoo_sim"), Build(t, "niodoo_exporter"), "--machine", "--no-databases")
	c.watch(t, "pair", s.exporter)
	for _, server := range c.servers {
		switch server.name {
		case "prometheus":
			Await(t, server.url+" watches the stack", func() error {
				got, err := Query(server.url, `count_over_time(up{instance="pair"}[1m]) >= 12`)
				if err == nil && len(got) == 0 {
					err = errors.New("not yet")
				}
				return err
			})
		case "alertmanager":
			Await(t, server.url+" has a peer", func() error {
				body, err := Get(server.url + "/metrics")
				if err == nil && !strings.Contains(body, "\nalertmanager_cluster_members 2\n") {
					err = errors.New("it has none")
				}
				return err
			})
		}
	}

	incident := func(fault, alert string, killed bool) {
		t.Helper()
		s.inject(t, fault)
		if killed { // the fault shows after seconds: this is before anyone was told
			for _, server := range []server{c.servers[0], c.servers[2]} {
				if err := syscall.Kill(server.pid, syscall.SIGKILL); err != nil {
					t.Fatal(err)
				}
			}
		}
		Await(t, alert+" is told of", func() error { return c.toldTimes("pair", alert, "firing", 1) })
		s.lift(t, fault)
		Await(t, alert+" is over", func() error { return c.toldTimes("pair", alert, "resolved", 1) })
		// By now the other Alertmanager has had its turn twice.
		for _, status := range []string{"firing", "resolved"} {
			if err := c.toldTimes("pair", alert, status, 1); err != nil {
				t.Error(err)
			}
		}
	}
	incident("engine-stopped", "ConsciousnessEngineDown", false)
	incident("ollama-model-removed", "RequiredModelMissing", true)
}

// toldTimes fails unless an alert was told of so many times with a status.
func (c *chain) toldTimes(instance, alert, status string, want int) error {
	n := 0
	for _, told := range c.inbox.about(instance) {
		for _, a := range told.Alerts {
			if a.Labels["alertname"] == alert && a.Status == status {
				n++
			}
		}
	}
	if n != want {
		return fmt.Errorf("%s was told of as %s %d times, not %d", alert, status, n, want)
	}
	return nil
}
