// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package health

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/niodoo/niodoo_exporter/internal/config"
	"github.com/niodoo/niodoo_exporter/internal/notify/notifytest"
	"github.com/niodoo/niodoo_exporter/internal/opstate"
)

// What a mail tells and when, run after run, five minutes apart.
func TestWhenToTell(t *testing.T) {
	t.Parallel()
	relay := notifytest.Start(t, notifytest.RelayOptions{TLS: true})
	teller := Teller{Config: config.Notify{SMTP: relay.Config()}, Email: true, Interval: 5 * time.Minute, Host: "box"}
	dir := t.TempDir()
	began := time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)
	run := func(n int, redisDown, busy bool) {
		t.Helper()
		r := &Report{Started: began.Add(time.Duration(n) * 5 * time.Minute), Verdict: opstate.Well, Components: []Component{
			{Name: "redis", Required: true, State: Up, Verdict: opstate.Well}, {Name: "host", State: Read, Verdict: opstate.Well}}}
		if redisDown {
			r.Components[0].State, r.Components[0].Verdict = Down, opstate.Failing
		}
		if busy {
			r.Checks = []Check{{Component: "host", Name: "cpu_usage_ratio", Verdict: opstate.Warning, Alert: "HighCPUUsage", Text: "CPU usage is 99 %", wait: 5 * time.Minute}}
		}
		r.conclude()
		before, err := History(dir)
		if err != nil {
			t.Fatal(err)
		}
		told := teller.Tell(t.Context(), r, before)
		if told.MailErr != nil {
			t.Fatal(told.MailErr)
		}
		if err := r.Remember(t.Context(), dir, told, false); err != nil {
			t.Fatal(err)
		}
	}
	var got []string
	for n, c := range []struct{ redisDown, busy bool }{
		{false, false}, // well: nothing to tell
		{false, true},  // busy for a moment
		{false, false}, // that is all
		{false, true},  // busy again
		{false, true},  // and still: told
		{true, true},   // what is down is told at once
		{true, true},   // known
		{false, false}, // well again
		{false, false},
	} {
		had := len(relay.Messages())
		run(n, c.redisDown, c.busy)
		for _, m := range relay.Messages()[had:] {
			_, subject, _ := strings.Cut(m.Raw, "Subject: ")
			subject, _, _ = strings.Cut(subject, "\r\n")
			got = append(got, fmt.Sprintf("%d %s", n, subject))
		}
	}
	want := []string{"4 [niodoo] box: host warning", "5 [niodoo] box: redis failing, host warning", "7 [niodoo] box: well again"}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("-want +got\n%s", d)
	}
	// Four hours of the same are worth a reminder.
	had := len(relay.Messages())
	for n := 100; n < 100+4*12+1; n++ {
		run(n, true, false)
	}
	if n := len(relay.Messages()) - had; n != 2 {
		t.Errorf("%d mails in four hours of the same", n)
	}
	h, err := History(dir)
	if err != nil || len(h.Changes) != 7 || h.Runs[opstate.Failing] != 51 || h.Runs[opstate.Well] != 4 {
		t.Errorf("%v: %d changes, runs %v", err, len(h.Changes), h.Runs)
	}
}
