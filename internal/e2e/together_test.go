// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// Three services of one stack that are down together are one notification, and
// it names first what the engine needs, also when they fall in different scrapes.
func TestThreeDown(t *testing.T) {
	t.Parallel()
	if os.Getenv(fullEnv) != "full" {
		t.Skip("two minutes: in make e2e")
	}
	const stacks = 4
	sim, exporter := Build(t, "niodoo_sim"), Build(t, "niodoo_exporter")
	c := startChain(t, 1, inProportion)
	var wg sync.WaitGroup
	for i := range stacks {
		name := fmt.Sprint("three-", i)
		s := startStack(t, sim, exporter, "--machine")
		c.watch(t, name, s.exporter)
		// From all at once to most of a scrape's interval from the first to the last.
		gap := time.Duration(i) * c.pace.scrape * 2 / (5 * (stacks - 1))
		wg.Go(func() { (&threeDown{t, c, s, name}).run(gap) })
	}
	wg.Wait()
}

// threeDown is a stack whose engine, Redis and PostgreSQL fall.
type threeDown struct {
	*testing.T
	*chain
	*stack
	name string
}

// run lets them fall with a gap from one to the next, and come back.
func (d *threeDown) run(gap time.Duration) {
	d.await("the stack was scraped five times", func() error {
		got, err := Query(d.prometheus, fmt.Sprintf(`count_over_time(niodoo_component_up{instance=%q,component="redis"}[10m]) >= 5`, d.name))
		if err == nil && len(got) == 0 {
			err = errors.New("not yet")
		}
		return err
	})
	faults := []string{"engine-stopped", "redis-stopped", "postgresql-stopped"}
	for _, f := range faults {
		d.inject(d.T, f)
		time.Sleep(gap)
	}
	// By the time ServiceDown would be told of, all else has been.
	d.await("ServiceDown fires and is silent", func() error {
		all, err := d.active(d.name)
		if err == nil && !slices.ContainsFunc(all, func(a activeAlert) bool {
			return a.Labels["alertname"] == "ServiceDown" && len(a.Status.InhibitedBy) > 0
		}) {
			err = fmt.Errorf("Alertmanager has %v", all)
		}
		return err
	})
	told := d.inbox.about(d.name)
	if len(told) != 1 || told[0].Receiver != "P1" || !slices.Equal(names(told[0], "firing"), fallen) {
		d.Errorf("%s: not one notification of the three: %+v", d.name, told)
	}
	d.await("the mail is there", func() error { return d.mail() })
	for _, f := range faults {
		d.lift(d.T, f)
	}
	// PostgreSQL's log-ins may be said to work again, too.
	d.await("all of it is over", func() error {
		over := map[string]bool{}
		for _, n := range d.inbox.about(d.name) {
			for _, a := range names(n, "resolved") {
				over[a] = true
			}
		}
		for _, a := range fallen {
			if !over[a] {
				return fmt.Errorf("over are %v", over)
			}
		}
		return nil
	})
	for _, n := range d.inbox.about(d.name) {
		if slices.Contains(names(n, "firing"), "ServiceDown") {
			d.Errorf("%s: ServiceDown was told of as well: %+v", d.name, n)
		}
	}
}

// fallen are the alerts of the three.
var fallen = []string{"ConsciousnessEngineDown", "EngineDependencyDown", "PostgreSQLDown"}

// await is Await for a goroutine that is not the test's.
func (d *threeDown) await(what string, cond func() error) {
	var err error
	for deadline := time.Now().Add(2 * patience); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if err = cond(); err == nil {
			return
		}
	}
	d.Errorf("%s: waited in vain until %s: %v", d.name, what, err)
}

// mail reads the mail: in the subject and in the text, what the engine needs
// stands before the engine.
func (d *threeDown) mail() error {
	letters := d.inbox.lettersAbout(d.name)
	if len(letters) != 1 {
		return fmt.Errorf("%d mails", len(letters))
	}
	const subject = "[P1] EngineDependencyDown, PostgreSQLDown, ConsciousnessEngineDown - "
	if m := letters[0]; !strings.HasPrefix(m.subject, subject) {
		return fmt.Errorf("the subject is %q", m.subject)
	}
	at := 0
	for _, alert := range []string{"EngineDependencyDown", "PostgreSQLDown", "ConsciousnessEngineDown"} {
		i := strings.Index(letters[0].text[at:], "Alert:      "+alert+" ")
		if i < 0 {
			return fmt.Errorf("%s is not at its place: %s", alert, letters[0].text)
		}
		at += i
	}
	return nil
}

// names returns the alerts of a notification that have a status, sorted.
func names(n notification, status string) []string {
	var all []string
	for _, a := range n.Alerts {
		if a.Status == status {
			all = append(all, a.Labels["alertname"])
		}
	}
	slices.Sort(all)
	return all
}
