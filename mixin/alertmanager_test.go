// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package mixin

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-jsonnet"
	"github.com/prometheus/alertmanager/config"
	"github.com/prometheus/alertmanager/dispatch"
	"github.com/prometheus/alertmanager/pkg/labels"
	"github.com/prometheus/alertmanager/template"
	"github.com/prometheus/alertmanager/timeinterval"
	"github.com/prometheus/common/model"
	"gopkg.in/yaml.v2"
)

// amEverything switches on all that is off by default.
const amEverything = `{
	smtp+: { authUsername: 'niodoo', authPasswordFile: '/etc/hostname' },
	webhooks+: { heartbeat: 'http://127.0.0.1:1/', incidents: 'http://127.0.0.1:2/', P1: 'http://127.0.0.1:3/' },
	webhookCredentialsFile: '/etc/hostname',
	slack+: { apiURLFile: '/etc/hostname' },
	pagerduty+: { routingKeyFile: '/etc/hostname' },
}`

// amNothing leaves every receiver without a way to reach anyone.
const amNothing = `{ smtp+: { to: '' } }`

// amWrite writes the configuration that _config with these changes makes, and
// its templates, to a directory of the test's own. It returns its path.
func amWrite(t *testing.T, changes string) string {
	t.Helper()
	vm := jsonnet.MakeVM()
	vm.StringOutput = true
	text, err := vm.EvaluateAnonymousSnippet("changed.jsonnet",
		`(import 'lib/yaml.libsonnet').document(((import 'mixin.libsonnet') + { _config+:: `+changes+` }).alertmanager)`)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.CopyFS(filepath.Join(dir, "templates"), os.DirFS("templates")); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "alertmanager.yml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func amLoad(t *testing.T, changes string) *config.Config {
	t.Helper()
	c, err := config.LoadFile(amWrite(t, changes))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// amTool returns the path of a program that `make` builds into .build/tools.
func amTool(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(filepath.Join("..", ".build", "tools", name))
	if err != nil {
		path, err = exec.LookPath(name)
	}
	if errors.Is(err, exec.ErrNotFound) || errors.Is(err, os.ErrNotExist) {
		t.Fatalf("%s is missing: in the repository's root, run make $PWD/.build/tools/%s", name, name)
	}
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// TestAlertmanagerFilesAreCurrent compares the committed files with what the jsonnet says.
func TestAlertmanagerFilesAreCurrent(t *testing.T) {
	t.Parallel()
	for path, entry := range documents {
		if !strings.HasPrefix(path, "alertmanager/") {
			continue
		}
		want, err := evaluate("..", entry, true)
		if err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(filepath.Join("..", path))
		if err != nil {
			t.Fatal(err)
		}
		if string(got) != want {
			t.Errorf("%s is not current: run make generate", path)
		}
	}
}

func TestAlertmanagerConfigIsAccepted(t *testing.T) {
	t.Parallel()
	committed := filepath.Join("..", "alertmanager", "alertmanager.yml")
	for name, path := range map[string]string{
		"committed":  committed,
		"everything": amWrite(t, amEverything),
		"nothing":    amWrite(t, amNothing),
		"any hour":   amWrite(t, `{ businessHours: null }`),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if out, err := exec.Command(amTool(t, "amtool"), "check-config", path).CombinedOutput(); err != nil {
				t.Errorf("amtool check-config: %v\n%s", err, out)
			}
		})
	}
}

// amKeys are the keys of Alertmanager 0.25, the oldest version that must load
// the configuration, as far as it uses them. Look a key up there before adding it.
var amKeys = strings.Fields(`
	global smtp_auth_password_file smtp_auth_username smtp_from smtp_require_tls smtp_smarthost
	templates
	route routes receiver group_by group_wait group_interval repeat_interval matchers continue active_time_intervals
	inhibit_rules source_matchers target_matchers equal
	time_intervals name location weekdays times start_time end_time
	receivers
	email_configs to headers Subject text html send_resolved
	webhook_configs url http_config authorization type credentials_file
	slack_configs api_url_file channel title title_link fallback
	pagerduty_configs routing_key_file description client client_url severity component group class
	details firing resolved num_firing num_resolved
`)

func TestAlertmanagerUsesNoNewerKeys(t *testing.T) {
	t.Parallel()
	raw, err := os.ReadFile(amWrite(t, amEverything))
	if err != nil {
		t.Fatal(err)
	}
	var doc yaml.MapSlice
	if err := yaml.Unmarshal(raw, &doc); err != nil {
		t.Fatal(err)
	}
	used := map[string]bool{}
	amWalk(doc, func(key, _ string) { used[key] = true })
	for key := range used {
		if !slices.Contains(amKeys, key) {
			t.Errorf("the key %s is not known to be in Alertmanager 0.25", key)
		}
	}
	for _, key := range amKeys {
		if !used[key] {
			t.Errorf("the key %s is listed but not used", key)
		}
	}
}

// amWalk visits every key of a document with its value, where that is text.
func amWalk(v any, visit func(key, value string)) {
	switch v := v.(type) {
	case yaml.MapSlice:
		for _, item := range v {
			text, _ := item.Value.(string)
			visit(item.Key.(string), text)
			amWalk(item.Value, visit)
		}
	case []any:
		for _, item := range v {
			amWalk(item, visit)
		}
	}
}

// amAlert reads "Name label=value …". The rest of the labels comes from base; a
// label with an empty value is removed.
func amAlert(base map[string]string, text string) map[string]string {
	words := strings.Fields(text)
	labels := maps.Clone(base)
	labels["alertname"] = words[0]
	for _, w := range words[1:] {
		k, v, _ := strings.Cut(w, "=")
		labels[k] = v
		if v == "" {
			delete(labels, k)
		}
	}
	return labels
}

func amLabelSet(labels map[string]string) model.LabelSet {
	set := model.LabelSet{}
	for k, v := range labels {
		set[model.LabelName(k)] = model.LabelValue(v)
	}
	return set
}

// TestAlertmanagerRoutes asks Alertmanager's own router where alerts go.
func TestAlertmanagerRoutes(t *testing.T) {
	t.Parallel()
	plain := dispatch.NewRoute(amLoad(t, `{}`).Route, nil)
	full := dispatch.NewRoute(amLoad(t, amEverything).Route, nil)
	here := map[string]string{"cluster": "prod", "instance": "stack-1:10646", "job": "niodoo"}
	for _, tc := range []struct {
		alert string
		plain []string
		full  []string // with the incidents' webhook
	}{
		{"Watchdog severity=none", []string{"heartbeat"}, nil},
		// A Watchdog of another kind never reaches a person either.
		{"Watchdog severity=critical priority=P1", []string{"heartbeat"}, nil},
		{"Watchdog instance= cluster= severity=none", []string{"heartbeat"}, nil},
		{"InfoInhibitor severity=none", []string{"null"}, nil},
		{"NiodooEngineOutage severity=none", []string{"null"}, nil},
		{"MaintenanceInProgress severity=none", []string{"null"}, nil},
		{"ConsciousnessEngineDown severity=critical priority=P1", []string{"P1"}, []string{"incidents", "P1"}},
		{"HighProcessingLatency severity=warning priority=P2", []string{"P2"}, []string{"incidents", "P2"}},
		{"HighMemoryUsage severity=warning priority=P3", []string{"P3"}, []string{"incidents", "P3"}},
		{"BackupNotDrilled severity=info priority=P4", []string{"P4"}, []string{"incidents", "P4"}},
		{"HeartbeatLost severity=critical priority=P1 instance=", []string{"P1"}, []string{"incidents", "P1"}},
		// Not ours, or not complete: someone hears of it all the same.
		{"NodeDown severity=critical", []string{"default"}, nil},
		{"NodeDown severity=critical priority=P5", []string{"default"}, nil},
		{"NodeDown priority=P11", []string{"default"}, nil},
		{"NodeDown", []string{"default"}, nil},
	} {
		t.Run(tc.alert, func(t *testing.T) {
			t.Parallel()
			if tc.full == nil {
				tc.full = tc.plain
			}
			set := amLabelSet(amAlert(here, tc.alert))
			if got := amReceivers(plain.Match(set)); !slices.Equal(got, tc.plain) {
				t.Errorf("goes to %v, want %v", got, tc.plain)
			}
			if got := amReceivers(full.Match(set)); !slices.Equal(got, tc.full) {
				t.Errorf("with everything on it goes to %v, want %v", got, tc.full)
			}
		})
	}
}

func amReceivers(routes []*dispatch.Route) []string {
	var names []string
	for _, r := range routes {
		names = append(names, r.RouteOpts.Receiver)
	}
	return names
}

// TestAlertmanagerTimings holds every route to the times and groups that are promised for it.
func TestAlertmanagerTimings(t *testing.T) {
	t.Parallel()
	want := map[string]string{
		"default":   "30s 5m 4h",
		"heartbeat": "0s 1m 5m",
		"null":      "30s 5m 4h",
		"incidents": "20s 1m 1h",
		"P1":        "20s 1m 15m",
		"P2":        "30s 5m 1h",
		"P3":        "5m 15m 4h business-hours",
		"P4":        "5m 1h 1d business-hours",
	}
	got := map[string]string{}
	c := amLoad(t, amEverything)
	dispatch.NewRoute(c.Route, nil).Walk(func(r *dispatch.Route) {
		o := r.RouteOpts
		by := slices.Sorted(maps.Keys(o.GroupBy))
		if !slices.Equal(by, []model.LabelName{"cluster", "instance", "priority"}) {
			t.Errorf("%s groups by %v", o.Receiver, by)
		}
		line := []string{model.Duration(o.GroupWait).String(), model.Duration(o.GroupInterval).String(), model.Duration(o.RepeatInterval).String()}
		got[o.Receiver] = strings.Join(append(line, o.ActiveTimeIntervals...), " ")
		if len(o.MuteTimeIntervals) != 0 {
			t.Errorf("%s is muted at times", o.Receiver)
		}
	})
	if !maps.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	// Not one is left to what it would inherit.
	for _, r := range append(c.Route.Routes, c.Route) {
		if r.GroupByStr == nil || r.GroupWait == nil || r.GroupInterval == nil || r.RepeatInterval == nil {
			t.Errorf("%s does not say all of its groups and times", r.Receiver)
		}
	}
}

func TestAlertmanagerBusinessHours(t *testing.T) {
	t.Parallel()
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		config string
		at     time.Time
		open   bool
	}{
		{`{}`, time.Date(2026, 11, 23, 8, 59, 59, 0, time.Local), false}, // a Monday
		{`{}`, time.Date(2026, 11, 23, 9, 0, 0, 0, time.Local), true},
		{`{}`, time.Date(2026, 11, 23, 16, 59, 59, 0, time.Local), true},
		{`{}`, time.Date(2026, 11, 23, 17, 0, 0, 0, time.Local), false},
		{`{}`, time.Date(2026, 11, 27, 12, 0, 0, 0, time.Local), true}, // Friday
		{`{}`, time.Date(2026, 11, 28, 12, 0, 0, 0, time.Local), false},
		{`{}`, time.Date(2026, 11, 29, 12, 0, 0, 0, time.Local), false},
		{`{}`, time.Date(2026, 11, 24, 3, 0, 0, 0, time.Local), false},
		// Nine is nine by the clock on the wall, in winter and in summer.
		{`{ businessHours+: { location: 'Europe/Berlin' } }`, time.Date(2026, 1, 12, 9, 0, 0, 0, berlin), true},
		{`{ businessHours+: { location: 'Europe/Berlin' } }`, time.Date(2026, 7, 13, 9, 0, 0, 0, berlin), true},
		{`{ businessHours+: { location: 'Europe/Berlin' } }`, time.Date(2026, 7, 13, 8, 59, 0, 0, berlin), false},
		{`{ businessHours+: { location: 'Europe/Berlin' } }`, time.Date(2026, 1, 12, 8, 30, 0, 0, time.UTC), true},
		{`{ businessHours+: { location: 'Europe/Berlin' } }`, time.Date(2026, 7, 13, 15, 30, 0, 0, time.UTC), false},
		// Opened for good, as end-to-end tests do.
		{`{ businessHours: { times: [{ start_time: '00:00', end_time: '24:00' }] } }`, time.Date(2026, 11, 29, 3, 0, 0, 0, time.UTC), true},
	} {
		t.Run(fmt.Sprintf("%s %s", tc.config, tc.at.Format(time.RFC1123Z)), func(t *testing.T) {
			t.Parallel()
			c := amLoad(t, tc.config)
			named := map[string][]timeinterval.TimeInterval{}
			for _, ti := range c.TimeIntervals {
				named[ti.Name] = ti.TimeIntervals
			}
			for _, r := range c.Route.Routes {
				if r.Receiver != "P3" && r.Receiver != "P4" {
					continue
				}
				// Intervener tells whether the time lies in the intervals, whatever its method is called.
				open, _, err := timeinterval.NewIntervener(named).Mutes(r.ActiveTimeIntervals, tc.at)
				if err != nil {
					t.Fatal(err)
				}
				if open != tc.open {
					t.Errorf("%s is sent: %v, want %v", r.Receiver, open, tc.open)
				}
			}
		})
	}
	for _, r := range amLoad(t, `{ businessHours: null }`).Route.Routes {
		if len(r.ActiveTimeIntervals) != 0 {
			t.Errorf("without business hours %s still has intervals", r.Receiver)
		}
	}
}

// TestAlertmanagerReceivers checks who has which ways to be reached, and that
// no secret is in the file.
func TestAlertmanagerReceivers(t *testing.T) {
	t.Parallel()
	ways := func(changes string) map[string]string {
		all := map[string]string{}
		for _, r := range amLoad(t, changes).Receivers {
			all[r.Name] = fmt.Sprintf("%d mail, %d webhook, %d slack, %d pagerduty",
				len(r.EmailConfigs), len(r.WebhookConfigs), len(r.SlackConfigs), len(r.PagerdutyConfigs))
		}
		return all
	}
	const none, mail = "0 mail, 0 webhook, 0 slack, 0 pagerduty", "1 mail, 0 webhook, 0 slack, 0 pagerduty"
	for _, tc := range []struct {
		changes string
		want    map[string]string
	}{
		{`{}`, map[string]string{"null": none, "heartbeat": none, "default": mail, "P1": mail, "P2": mail, "P3": mail, "P4": mail}},
		{amNothing, map[string]string{"null": none, "heartbeat": none, "default": none, "P1": none, "P2": none, "P3": none, "P4": none}},
		{amEverything, map[string]string{
			"null": none, "default": mail, "P4": mail,
			"heartbeat": "0 mail, 1 webhook, 0 slack, 0 pagerduty",
			"incidents": "0 mail, 1 webhook, 0 slack, 0 pagerduty",
			"P1":        "1 mail, 1 webhook, 1 slack, 1 pagerduty",
			"P2":        "1 mail, 0 webhook, 1 slack, 1 pagerduty",
			"P3":        "1 mail, 0 webhook, 1 slack, 0 pagerduty",
		}},
		{`{ receivers+: { P1+: { email: 'a@example.com, b@example.com' }, P4+: { email: '' } } }`,
			map[string]string{"null": none, "heartbeat": none, "default": mail, "P1": mail, "P2": mail, "P3": mail, "P4": none}},
	} {
		if got := ways(tc.changes); !maps.Equal(got, tc.want) {
			t.Errorf("%s:\n got %v\nwant %v", tc.changes, got, tc.want)
		}
	}
	c := amLoad(t, amEverything)
	for _, r := range c.Receivers {
		for _, w := range r.WebhookConfigs {
			if w.HTTPConfig.Authorization.CredentialsFile != "/etc/hostname" {
				t.Errorf("%s: the webhook's token comes from %q", r.Name, w.HTTPConfig.Authorization.CredentialsFile)
			}
			if w.MaxAlerts != 0 {
				t.Errorf("%s: the webhook drops alerts", r.Name)
			}
			if got, want := w.SendResolved(), r.Name != "heartbeat"; got != want {
				t.Errorf("%s: what is resolved is sent: %v, want %v", r.Name, got, want)
			}
		}
	}
	if c.Global.SMTPAuthPassword != "" || c.Global.SMTPAuthPasswordFile != "/etc/hostname" {
		t.Error("the mail password does not come from its file")
	}
}

// TestAlertmanagerInhibitsOnlyInPlace checks the guards of every rule; the live
// test shows what they do.
func TestAlertmanagerInhibitsOnlyInPlace(t *testing.T) {
	t.Parallel()
	c := amLoad(t, `{ clusterLabel: 'stack' }`)
	if len(c.InhibitRules) == 0 {
		t.Fatal("there are no rules")
	}
	for i, r := range c.InhibitRules {
		for _, l := range []string{"stack", "instance"} {
			if !slices.Contains(r.Equal, l) {
				t.Errorf("rule %d: %s may differ", i, l)
			}
		}
		for side, ms := range map[string][]*labels.Matcher{"source": r.SourceMatchers, "target": r.TargetMatchers} {
			for _, l := range r.Equal {
				guarded := slices.ContainsFunc(ms, func(m *labels.Matcher) bool { return m.Name == l && m.String() == l+`!=""` })
				if !guarded && l != "stack" {
					t.Errorf("rule %d: the %s may lack %s", i, side, l)
				}
			}
		}
	}
}

// TestAlertmanagerTemplates renders what is rare in life: labels and annotations
// that are missing, and text that is markup somewhere.
func TestAlertmanagerTemplates(t *testing.T) {
	t.Parallel()
	since := time.Date(2026, 11, 24, 3, 12, 5, 999, time.FixedZone("", 3600))
	alert := func(status, name string, labels, annotations template.KV) template.Alert {
		l := template.KV{"alertname": name}
		maps.Copy(l, labels)
		a := template.Alert{Status: status, Labels: l, Annotations: annotations, StartsAt: since}
		if status == "resolved" {
			a.EndsAt = since.Add(time.Hour)
		}
		return a
	}
	raw, err := os.ReadFile(amWrite(t, amEverything))
	if err != nil {
		t.Fatal(err)
	}
	var doc yaml.MapSlice
	if err := yaml.Unmarshal(raw, &doc); err != nil {
		t.Fatal(err)
	}
	var fields []string
	amWalk(doc, func(_, value string) {
		if strings.Contains(value, "{{") && !slices.Contains(fields, value) {
			fields = append(fields, value)
		}
	})
	if len(fields) < 10 {
		t.Fatalf("only %d fields are templates: %q", len(fields), fields)
	}
	disk := template.KV{"summary": "A disk is  nearly full.", "description": "/data <b>&\"x\" is at 91 %; the limit is 80 %."}
	for _, tc := range []struct {
		name    string
		data    template.Data
		subject string
		text    []string // each once in the text, in this order
	}{
		{
			name: "one alert",
			data: template.Data{
				Alerts:       template.Alerts{alert("firing", "HighDiskUsage", template.KV{"path": "/data", "component": "host", "priority": "P3", "severity": "warning"}, disk)},
				CommonLabels: template.KV{"cluster": "prod", "instance": "stack-1:10646", "priority": "P3"},
			},
			subject: "[P3] A disk is nearly full - stack-1:10646 (prod) - 1 firing",
			text: []string{
				"P3: answer within 4 hours", "FIRING (1)", "A disk is  nearly full.", disk["description"],
				"Alert:      HighDiskUsage (P3, warning)", "Component:  host", "Details:    path=/data", "Since:      2026-11-24 02:12:05 UTC",
			},
		},
		{
			name: "several of one name",
			data: template.Data{
				Alerts:       template.Alerts{alert("firing", "HighDiskUsage", nil, disk), alert("firing", "HighDiskUsage", nil, disk)},
				CommonLabels: template.KV{"instance": "stack-1:10646", "priority": "P2"},
			},
			subject: "[P2] A disk is nearly full - stack-1:10646 - 2 firing",
			text:    []string{"P2: answer within 1 hour", "FIRING (2)"},
		},
		{
			name: "more names than fit, and resolved ones apart",
			data: template.Data{
				Alerts: template.Alerts{
					alert("firing", "A", nil, nil), alert("firing", "A", nil, nil), alert("firing", "B", nil, nil), alert("resolved", "Gone", nil, disk),
					alert("firing", "C", nil, nil), alert("firing", "D", nil, nil), alert("firing", "E", nil, nil),
				},
				CommonLabels: template.KV{"cluster": "prod", "priority": "P1"},
			},
			subject: "[P1] A, B, C and more - cluster prod - 6 firing, 1 resolved",
			text:    []string{"P1: answer within 15 minutes", "FIRING (6)", "RESOLVED (1)", "Gone", "Until:      2026-11-24 03:12:05 UTC"},
		},
		{
			name:    "all resolved",
			data:    template.Data{Status: "resolved", Alerts: template.Alerts{alert("resolved", "HighDiskUsage", nil, disk)}, CommonLabels: template.KV{"priority": "P4"}},
			subject: "[P4] Resolved: A disk is nearly full - 1 resolved",
			text:    []string{"P4: answer within a week", "RESOLVED (1)"},
		},
		{
			name:    "nothing but a name",
			data:    template.Data{Alerts: template.Alerts{alert("firing", "Bare", nil, nil)}},
			subject: "[ALERT] Bare - 1 firing",
			text:    []string{"FIRING (1)", "Alert:      Bare"},
		},
		{
			name:    "not ours",
			data:    template.Data{Alerts: template.Alerts{alert("firing", "NodeDown", nil, template.KV{"summary": "..."})}, CommonLabels: template.KV{"severity": "critical"}},
			subject: "[CRITICAL] NodeDown - 1 firing",
			text:    []string{"Alert:      NodeDown"},
		},
		{
			name:    "no name",
			data:    template.Data{Alerts: template.Alerts{{Status: "firing", StartsAt: since}}},
			subject: "[ALERT] An alert without a name - 1 firing",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			tmpl, err := template.FromGlobs([]string{"templates/*.tmpl"})
			if err != nil {
				t.Fatal(err)
			}
			tc.data.Receiver, tc.data.ExternalURL = "P 1/x", "http://alertmanager:9093"
			render := func(name, kind string) string {
				t.Helper()
				execute := tmpl.ExecuteTextString
				if kind == "html" {
					execute = tmpl.ExecuteHTMLString
				}
				out, err := execute(`{{ template "`+name+`" . }}`, tc.data)
				if err != nil {
					t.Fatal(err)
				}
				amClean(t, name, out)
				return out
			}
			if got := render("niodoo.subject", "text"); got != tc.subject {
				t.Errorf("subject\n got %q\nwant %q", got, tc.subject)
			}
			text := render("niodoo.text", "text")
			at := 0
			for _, want := range tc.text {
				i := strings.Index(text[at:], want)
				if i < 0 {
					t.Fatalf("the text lacks %q, or has it too early:\n%s", want, text)
				}
				at += i + len(want)
			}
			if !strings.HasSuffix(text, "All alerts: http://alertmanager:9093/#/alerts?receiver=P+1%2Fx\n") {
				t.Errorf("the text ends with %q", text[max(0, len(text)-80):])
			}
			if html := render("niodoo.html", "html"); strings.Contains(html, "<b>") {
				t.Errorf("markup came through:\n%s", html)
			}
			if slack := render("niodoo.slack", "text"); strings.Contains(slack, "<b>") {
				t.Errorf("markup came through:\n%s", slack)
			}
			// Each receiver's own words, PagerDuty's among them.
			for _, field := range fields {
				out, err := tmpl.ExecuteTextString(field, tc.data)
				if err != nil {
					t.Errorf("%s: %v", field, err)
				}
				amClean(t, field, out)
			}
			if s := render("niodoo.pagerduty.severity", "text"); s != cmp.Or(tc.data.CommonLabels["severity"], "error") {
				t.Errorf("PagerDuty's severity is %q", s)
			}
		})
	}
}

// amClean fails for what a template leaves where it had nothing to say, and
// for anything but ASCII.
func amClean(t *testing.T, what, text string) {
	t.Helper()
	for _, bad := range []string{"<no value>", "no value", "ZgotmplZ", "%!", "0001-01-01", "map["} {
		if strings.Contains(text, bad) {
			t.Errorf("%s has %q:\n%s", what, bad, text)
		}
	}
	for _, r := range text {
		if r > 126 {
			t.Errorf("%s has the character %q:\n%s", what, r, text)
			break
		}
	}
}
