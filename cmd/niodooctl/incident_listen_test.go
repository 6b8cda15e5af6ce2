// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"mime"
	"net"
	"net/http"
	"net/mail"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/niodoo/niodoo_exporter/internal/e2e"
	"github.com/niodoo/niodoo_exporter/internal/incident"
	"github.com/niodoo/niodoo_exporter/internal/localserver"
	"github.com/niodoo/niodoo_exporter/internal/notify"
	"github.com/niodoo/niodoo_exporter/internal/notify/notifytest"
	"github.com/niodoo/niodoo_exporter/internal/opstate"
)

// process is a program that a test kills and starts again.
type process struct {
	t    *testing.T
	name string
	args []string
	url  string // answers 200 below it when it is ready

	cmd *exec.Cmd
	log *bytes.Buffer // read only while it does not run

	ended <-chan struct{}
}

func (p *process) start() {
	p.t.Helper()
	if p.log == nil {
		p.log = &bytes.Buffer{}
		p.t.Cleanup(func() {
			p.kill()
			if p.t.Failed() {
				p.t.Logf("the end of what %s wrote:\n%s", p.name, p.log.Bytes()[max(0, p.log.Len()-4096):])
			}
		})
	}
	p.cmd = exec.Command(p.name, p.args...)
	p.cmd.Stdout, p.cmd.Stderr = p.log, p.log
	var err error
	if p.ended, err = localserver.StartBound(p.cmd); err != nil {
		p.t.Fatal(err)
	}
}

// kill ends the program as a crash would.
func (p *process) kill() {
	if p.cmd != nil {
		_ = p.cmd.Process.Kill()
		<-p.ended
		p.cmd = nil
	}
}

func (p *process) ready() {
	p.t.Helper()
	e2e.Await(p.t, p.name+" is ready", func() error { _, err := e2e.Get(p.url + "/-/ready"); return err })
}

// address returns a loopback address that was free a moment ago, with a port
// that no outgoing connection is given.
func address(t *testing.T) string {
	t.Helper()
	for range 100 {
		a := net.JoinHostPort("127.0.0.1", strconv.Itoa(12000+rand.IntN(8000)))
		if l, err := net.Listen("tcp", a); err == nil {
			l.Close()
			return a
		}
	}
	t.Fatal("no free port found on 127.0.0.1")
	return ""
}

// nothing switches every collector off.
const nothing = `engine: {enabled: false}
postgresql: {enabled: false}
redis: {enabled: false}
ollama: {enabled: false}
qdrant: {enabled: false}
prometheus: {enabled: false}
grafana: {enabled: false}
host: {enabled: false}
logs: {enabled: false, paths: []}
backup: {enabled: false}
`

func file(t *testing.T, dir, name, text string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// listener is niodooctl incident listen with what is below the key listen.
func listener(t *testing.T, dir, addr, more, listen string) *process {
	t.Helper()
	config := file(t, dir, "niodoo.yml", fmt.Sprintf("%soperations: {enabled: false, state_dir: '%s/state'}\n%sincident:\n  evidence_timeout: 5s\n  listen:\n    address: %s\n%s",
		nothing, dir, more, addr, listen))
	return &process{t: t, name: "niodooctl", args: []string{"--config.file=" + config, "incident", "listen"}, url: "http://" + addr}
}

// alertmanager is a real one that sends everything to webhooks, by receiver. Each
// has a route of its own: in one they would wait for each other.
func alertmanager(t *testing.T, dir, timing string, webhooks map[string]string) *process {
	t.Helper()
	addr := address(t)
	var routes, receivers strings.Builder
	for name, webhook := range webhooks {
		fmt.Fprintf(&routes, "  - {receiver: %s, continue: true}\n", name)
		fmt.Fprintf(&receivers, "- {name: %s, webhook_configs: [%s]}\n", name, webhook)
	}
	config := file(t, dir, "alertmanager.yml", "route:\n  receiver: nobody\n"+timing+"  routes:\n"+routes.String()+"receivers:\n- name: nobody\n"+receivers.String())
	return &process{t: t, name: e2e.Tool(t, "alertmanager"), url: "http://" + addr, args: []string{"--config.file=" + config, "--storage.path=" + t.TempDir(),
		"--web.listen-address=" + addr, "--cluster.listen-address=", "--log.level=warn"}}
}

// TestStorm has a real Alertmanager send a storm of alerts to a listener while
// both are killed again and again: no incident is lost, none is doubled.
func TestStorm(t *testing.T) {
	t.Parallel()
	const groups, each = 200, 5
	dir := t.TempDir()
	token := file(t, dir, "token", "s3cret")
	l := listener(t, dir, address(t), "", "    token_file: "+token+"\n    quiet: 0s\n    interval: 200ms\n")
	store := incident.Store{Dir: filepath.Join(dir, "state")}
	am := alertmanager(t, dir, "  group_by: [instance]\n  group_wait: 100ms\n  group_interval: 1s\n  repeat_interval: 1h\n",
		map[string]string{"listener": fmt.Sprintf("{url: '%s/webhook', http_config: {authorization: {credentials_file: %s}}}", l.url, token)})
	am.start()
	l.start()
	am.ready()

	began := time.Now().UTC().Truncate(time.Millisecond)
	alerts := func(ends time.Time) []notify.Alert {
		var all []notify.Alert
		for g := range groups {
			for a := range each {
				all = append(all, notify.Alert{Labels: map[string]string{"alertname": fmt.Sprint("Alert", a), "instance": fmt.Sprint("stack-", g), "priority": "P2"},
					Annotations: map[string]string{"summary": "A storm."}, StartsAt: began, EndsAt: ends})
			}
		}
		return all
	}
	index := func() (i opstate.Incidents) {
		i, err := store.Index()
		if err != nil {
			t.Error(err)
		}
		return i
	}
	// The listener is killed whenever some more are there than last time.
	storm := func(progress func() int, marks ...int) {
		for _, m := range marks {
			e2e.Await(t, fmt.Sprint("more than ", m, " are there"), func() error {
				if n := progress(); n <= m {
					return fmt.Errorf("%d", n)
				}
				return nil
			})
			l.kill()
			l.start()
		}
	}
	send := func(ends time.Time) {
		all := alerts(ends)
		for len(all) > 0 {
			if err := postAlerts(am.url, all[:100]); err != nil {
				t.Fatal(err)
			}
			all = all[100:]
		}
	}
	send(began.Add(time.Hour))
	storm(func() int { return len(index().Open) }, 0, groups/4, groups/2)
	am.kill() // what it has not written down it forgets, and sends again
	am.start()
	am.ready()
	send(began.Add(time.Hour)) // as Prometheus does all the time
	storm(func() int { return len(index().Open) }, groups*3/4)
	check := func(want map[string]int) error {
		for id, firing := range want {
			entries, err := store.Timeline(id)
			if err != nil {
				return err
			}
			seen, began := map[string]int{}, 0
			for _, e := range entries {
				if e.Kind == incident.KindAlert {
					seen[e.Alert.Fingerprint+e.Alert.Status]++
					if e.Alert.Status == "firing" {
						began++
					}
				}
			}
			for what, n := range seen {
				if n != 1 {
					t.Fatalf("%s: %s is noted %d times", id, what, n)
				}
			}
			if len(seen) != firing {
				return fmt.Errorf("%s has %d events, want %d", id, len(seen), firing)
			}
		}
		return nil
	}
	ids := map[string]int{}
	e2e.Await(t, "every incident is open with all its alerts", func() error {
		clear(ids)
		byGroup := map[string]string{}
		for _, in := range index().Open {
			if other := byGroup[in.GroupKey]; other != "" {
				t.Fatalf("%s and %s are of the same group %s", other, in.ID, in.GroupKey)
			}
			byGroup[in.GroupKey] = in.ID
			ids[in.ID] = each
		}
		if len(ids) != groups {
			return fmt.Errorf("%d incidents", len(ids))
		}
		return check(ids)
	})

	over := time.Now()
	send(over)
	storm(func() int { return groups - len(index().Open) }, 0, groups/2)
	e2e.Await(t, "every incident is closed", func() error {
		if n := len(index().Open); n > 0 {
			return fmt.Errorf("%d are open", n)
		}
		return nil
	})
	for id := range ids {
		ids[id] = 2 * each
	}
	if err := check(ids); err != nil {
		t.Error(err)
	}
	if got := index().Totals["P2"]; got.Opened != groups || got.Closed != groups {
		t.Errorf("%+v", got)
	}
	if dirs, err := filepath.Glob(filepath.Join(store.Dir, "incidents", "INC-*")); err != nil || len(dirs) != groups {
		t.Errorf("%d directories, %v", len(dirs), err)
	}
}

func postAlerts(url string, alerts []notify.Alert) error {
	raw, err := json.Marshal(alerts)
	if err != nil {
		return err
	}
	resp, err := http.Post(url+"/api/v2/alerts", "application/json", bytes.NewReader(raw))
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return errors.New(resp.Status)
	}
	return nil
}

// subjects are the mails that have come, without the host's name.
func subjects(t *testing.T, r *notifytest.Relay) []string {
	t.Helper()
	var all []string
	for _, m := range r.Messages() {
		msg, err := mail.ReadMessage(strings.NewReader(m.Raw))
		if err != nil {
			t.Fatal(err)
		}
		s, err := new(mime.WordDecoder).DecodeHeader(msg.Header.Get("Subject"))
		if err != nil {
			t.Fatal(err)
		}
		_, s, _ = strings.Cut(s, ": ")
		all = append(all, s)
	}
	return all
}

// TestTwoBoxes has two listeners watch each other and the way of the alerts
// from a real Prometheus through a real Alertmanager. Each is killed in turn;
// who is left mails once, and once more when it is back.
func TestTwoBoxes(t *testing.T) {
	t.Parallel()
	addrs := map[string]string{"a": address(t), "b": address(t)}
	relays, boxes, dirs := map[string]*notifytest.Relay{}, map[string]*process{}, map[string]string{}
	for box, other := range map[string]string{"a": "b", "b": "a"} {
		relays[box] = notifytest.Start(t, notifytest.RelayOptions{})
		dirs[box] = t.TempDir()
		boxes[box] = listener(t, dirs[box], addrs[box],
			fmt.Sprintf("notify: {smtp: {smarthost: '%s', from: niodoo@example.com, to: [oncall@example.com], require_tls: false}}\n", relays[box].Addr),
			fmt.Sprintf("    interval: 200ms\n    silence: 8s\n    peers: {%s: {url: 'http://%s'}}\n", other, addrs[other]))
		boxes[box].start()
	}
	am := alertmanager(t, t.TempDir(), "  group_wait: 0s\n  group_interval: 500ms\n  repeat_interval: 500ms\n", map[string]string{
		"a": fmt.Sprintf("{url: 'http://%s/webhook', send_resolved: false}", addrs["a"]), "b": fmt.Sprintf("{url: 'http://%s/webhook', send_resolved: false}", addrs["b"])})
	am.start()
	dir := t.TempDir()
	file(t, dir, "rules.yml", "groups: [{name: meta, interval: 200ms, rules: [{alert: Watchdog, expr: vector(1), labels: {severity: none}}]}]\n")
	addr := address(t)
	prometheus := &process{t: t, name: e2e.Tool(t, "prometheus"), url: "http://" + addr, args: []string{"--storage.tsdb.path=" + t.TempDir(), "--web.listen-address=" + addr,
		"--rules.alert.resend-delay=500ms", "--log.level=warn", "--config.file=" + file(t, dir, "prometheus.yml",
			"global: {scrape_interval: 1s, evaluation_interval: 200ms}\nrule_files: [rules.yml]\nalerting: {alertmanagers: [{static_configs: [{targets: ['"+strings.TrimPrefix(am.url, "http://")+"']}]}]}\n")}}
	prometheus.start()

	want := map[string][]string{}
	expect := func(subject string, who ...string) {
		t.Helper()
		for _, box := range who {
			want[box] = append(want[box], subject)
			e2e.Await(t, box+" mails that "+subject, func() error {
				if got := subjects(t, relays[box]); strings.Join(got, "; ") != strings.Join(want[box], "; ") {
					return fmt.Errorf("mails %q, want %q", got, want[box])
				}
				return nil
			})
		}
	}
	const lost, back = "alerts do not arrive any more", "alerts arrive again"
	heartbeat := func(box, what string, holds func(opstate.Heartbeat) bool) {
		t.Helper()
		e2e.Await(t, box+" "+what, func() error {
			h, err := opstate.Read[opstate.Heartbeat](filepath.Join(dirs[box], "state"))
			if err == nil && !holds(h) {
				err = fmt.Errorf("%+v", h)
			}
			return err
		})
	}
	for _, box := range []string{"a", "b"} {
		heartbeat(box, "hears Watchdog and its peer", func(h opstate.Heartbeat) bool { return !h.Received.IsZero() && len(h.Peers) == 1 })
	}
	for _, p := range []*process{prometheus, am} {
		p.kill()
		expect(lost, "a", "b")
		p.start()
		expect(back, "a", "b")
	}
	heartbeat("b", "has written down what it mailed", func(h opstate.Heartbeat) bool { return len(h.Told) == 0 })
	boxes["b"].kill()
	expect("the listener b is silent", "a")
	boxes["b"].start()
	expect("the listener b is back", "a")
	for box, r := range relays {
		if got := subjects(t, r); strings.Join(got, "; ") != strings.Join(want[box], "; ") {
			t.Errorf("%s mails %q, want %q", box, got, want[box])
		}
	}
}
