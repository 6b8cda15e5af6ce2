// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/niodoo/niodoo_exporter/internal/config"
	"github.com/niodoo/niodoo_exporter/internal/e2e"
	"github.com/niodoo/niodoo_exporter/internal/localserver"
	"github.com/niodoo/niodoo_exporter/internal/observe"
	"github.com/niodoo/niodoo_exporter/internal/opstate"
	"github.com/niodoo/niodoo_exporter/internal/sim"
	"github.com/niodoo/niodoo_exporter/internal/thresholds"
)

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func write(t *testing.T, path, text string) string {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// prometheus starts a real one and returns its address.
func prometheus(t *testing.T, cfg string, flags ...string) string {
	t.Helper()
	address := freeAddress(t)
	path := write(t, filepath.Join(t.TempDir(), "prometheus.yml"), strings.ReplaceAll(cfg, "SELF", address))
	e2e.Start(t, e2e.Tool(t, "prometheus"), append([]string{"--config.file=" + path, "--storage.tsdb.path=" + t.TempDir(),
		"--web.listen-address=" + address, "--log.level=error"}, flags...)...)
	e2e.Await(t, "Prometheus is ready", func() error { _, err := e2e.Get("http://" + address + "/-/ready"); return err })
	return address
}

// alertmanager starts a real one and returns its address.
func alertmanager(t *testing.T, cfg string) string {
	t.Helper()
	address := freeAddress(t)
	path := write(t, filepath.Join(t.TempDir(), "alertmanager.yml"), cfg)
	e2e.Start(t, e2e.Tool(t, "alertmanager"), "--config.file="+path, "--storage.path="+t.TempDir(), "--cluster.listen-address=",
		"--web.listen-address="+address, "--log.level=error")
	e2e.Await(t, "Alertmanager is ready", func() error { _, err := e2e.Get("http://" + address + "/-/ready"); return err })
	return address
}

func parsed(t *testing.T, text string) *config.Config {
	t.Helper()
	cfg, err := config.Parse("niodoo.yml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

// about are the findings of a check.
func about(r *Report, check string) []Finding {
	return slices.DeleteFunc(slices.Clone(r.Findings), func(f Finding) bool { return f.Check != check })
}

// wantFinding fails unless a check has found something at a level.
func wantFinding(t *testing.T, r *Report, check string, level Level, where, what string) {
	t.Helper()
	for _, f := range about(r, check) {
		if f.Level == level && strings.Contains(f.Where, where) && strings.Contains(f.What, what) {
			if f.Why == "" || f.Mend == "" {
				t.Errorf("%s: without why or mend: %+v", check, f)
			}
			return
		}
	}
	t.Errorf("%s: %s on %q with %q is not among\n%+v", check, level, where, what, about(r, check))
}

func examine(t *testing.T, o Options) *Report {
	t.Helper()
	o.Now = time.Now()
	if o.Thresholds == nil {
		o.Thresholds = thresholds.Default()
	}
	if o.Listening == nil {
		o.Listening = func() ([]int, error) { return nil, nil }
	}
	r, err := Examine(context.Background(), o, func() {})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

const off = "engine: {enabled: false}\npostgresql: {enabled: false}\nredis: {enabled: false}\nollama: {enabled: false}\nqdrant: {enabled: false}\n" +
	"grafana: {enabled: false}\nhost: {enabled: false}\nlogs: {enabled: false}\nbackup: {enabled: false}\noperations: {state_dir: /nowhere}\n"

// The project's own rules in a real Prometheus, its own routing in a real
// Alertmanager: the numbers agree, every alert reaches a receiver.
func TestOwnRulesAndRouting(t *testing.T) {
	t.Parallel()
	root := e2e.Root(t)
	routes, err := os.ReadFile(filepath.Join(root, "alertmanager", "alertmanager.yml"))
	if err != nil {
		t.Fatal(err)
	}
	am := alertmanager(t, strings.ReplaceAll(string(routes), "templates/niodoo.tmpl", filepath.Join(root, "alertmanager/templates/niodoo.tmpl")))
	prom := prometheus(t, fmt.Sprintf("global: {evaluation_interval: 15s, scrape_interval: 1s}\nrule_files: [%q, %q]\nalerting: {alertmanagers: [{static_configs: [{targets: [%q]}]}]}\n"+
		"scrape_configs: [{job_name: niodoo, static_configs: [{targets: [SELF]}]}]\n",
		filepath.Join(root, "rules/alerts.yml"), filepath.Join(root, "rules/recording.yml"), am))
	e2e.Await(t, "there is data of up", func() error {
		got, err := e2e.Query("http://"+prom, `up{job="niodoo"}`)
		if err == nil && len(got) == 0 {
			err = errors.New("none")
		}
		return err
	})
	o := Options{Config: parsed(t, off+"prometheus: {url: \"http://"+prom+"\"}\nalertmanager: {url: \"http://"+am+"\"}\n")}
	r := examine(t, o)
	for _, check := range []string{"rules", "thresholds", "prometheus", "targets"} {
		if found := about(r, check); len(found) > 0 || !slices.Contains(r.Checks, check) {
			t.Errorf("%s: %+v", check, found)
		}
	}
	wantFinding(t, r, "routing", Warning, `"heartbeat"`, "Watchdog")
	if n := len(about(r, "routing")); n != 1 {
		t.Errorf("routing: %+v", about(r, "routing"))
	}
	wantFinding(t, r, "alertmanager", Failing, "the configuration of http://"+am, "to is still the address of an example")
	wantFinding(t, r, "retention", Note, prom, "samples are kept for 15d")
	wantFinding(t, r, "no-data", Note, "alerts of host", "HighCPUUsage (instance:niodoo_host_cpu_usage:ratio_rate5m)") // it is off
	wantFinding(t, r, "no-data", Warning, "alerts of prometheus", "PrometheusConfigReloadFailed")
	wantFinding(t, r, "no-data", Warning, "alerts of any component", "NiodooCollectorFailing")
	for _, f := range about(r, "no-data") {
		for _, never := range []string{"Watchdog", "NiodooExporterAbsent", "NiodooExporterDown"} {
			if strings.Contains(f.What, never) {
				t.Errorf("%s can fire: %s", never, f.What)
			}
		}
	}
	if r.Verdict != opstate.Failing {
		t.Error(r.Verdict)
	}

	// Other thresholds than the rules have.
	raw, err := os.ReadFile(filepath.Join(root, "internal/thresholds/thresholds.json"))
	if err != nil {
		t.Fatal(err)
	}
	edited := e2e.Replaced(t, string(raw), `"warning": 0.85`, `"warning": 0.9`, `"cpu_usage_ratio": {"unit": "ratio", "direction": "above", "target": 0.5, "warning": 0.8, "capacity": 0.7, "for": "5m"`,
		`"cpu_usage_ratio": {"unit": "ratio", "direction": "above", "target": 0.5, "warning": 0.8, "capacity": 0.7, "for": "9m"`)
	if o.Thresholds, err = thresholds.Load(write(t, filepath.Join(t.TempDir(), "t.json"), edited)); err != nil {
		t.Fatal(err)
	}
	r = examine(t, o)
	wantFinding(t, r, "thresholds", Warning, "HighMemoryUsage", "it compares with [0.85], and thresholds.json says 0.9")
	wantFinding(t, r, "thresholds", Note, "HighCPUUsage", "it waits 5m, and thresholds.json says 9m")
	if n := len(about(r, "thresholds")); n != 2 {
		t.Errorf("%+v", about(r, "thresholds"))
	}
}

const oddRules = `groups:
- name: odd
  rules:
  - {alert: HighMemoryUsage, expr: 'niodoo_nothing > 0.5', for: 5m, labels: {severity: critical, priority: P1, component: host}}
  - {record: 'records:far_back', expr: 'max_over_time(up[10d] offset 6d)'}
  - {alert: LooksFarBack, expr: 'avg_over_time(up[20d]) < 0.9', labels: {severity: warning, component: host}}
  - {alert: EitherOr, expr: 'niodoo_nothing > 1 or up == 0', labels: {severity: warning}}
  - {alert: Unless, expr: 'up == 0 unless niodoo_nothing == 1', labels: {severity: warning}}
  - {alert: Absent, expr: 'absent(niodoo_nothing)', labels: {severity: warning}}
  - {alert: Window, expr: 'rate(niodoo_nothing[5m]) > 0 and up', labels: {severity: warning}}
  - {alert: Nightly, expr: 'vector(1) > 0', labels: {severity: critical, priority: P2}}
  - {alert: Watchdog, expr: 'vector(1)', labels: {severity: none}}
  - {alert: Broken, expr: 'up * on(job) group_left() count by (job, instance) ({__name__=~"up|scrape_.+"})', labels: {severity: warning}}
`

const oddRouting = `route:
  receiver: nobody
  group_interval: 10s
  routes:
  - {matchers: ['priority="P2"'], receiver: mail, active_time_intervals: [day]}
  - {matchers: ['alertname="Watchdog"'], receiver: mail}
receivers:
- name: nobody
- {name: mail, email_configs: [{to: ops@niodoo.test, from: a@niodoo.test, smarthost: "localhost:25"}]}
- {name: unused, webhook_configs: [{url: "http://127.0.0.1:1"}]}
time_intervals: [{name: day, time_intervals: [{times: [{start_time: "09:00", end_time: "17:00"}]}]}]
`

// Whatever can be odd in a running Prometheus and Alertmanager.
func TestOddRulesAndRouting(t *testing.T) {
	t.Parallel()
	am := alertmanager(t, oddRouting)
	path := write(t, filepath.Join(t.TempDir(), "odd.yml"), oddRules)
	prom := prometheus(t, fmt.Sprintf("global: {scrape_interval: 1s, evaluation_interval: 2m}\nrule_files: [%q]\n"+
		"scrape_configs: [{job_name: consciousness-engine, static_configs: [{targets: [SELF, '127.0.0.1:1'], labels: {component: x}}]}]\n", path))
	e2e.Await(t, "there is data of up", func() error {
		got, err := e2e.Query("http://"+prom, `up == 0`)
		if err == nil && len(got) == 0 {
			err = errors.New("none")
		}
		return err
	})
	r := examine(t, Options{Config: parsed(t, strings.Replace(off, "host: {enabled: false}\n", "", 1)+
		"modules: {stack: {services: {engine: {url: \"http://module:8080\"}}, allow: ['stack-.+']}}\nfleet: [{module: stack, targets: [stack-9.example.com]}]\n"+
		"prometheus: {url: \"http://"+prom+"\"}\nalertmanager: {url: \"http://"+am+"\"}\n")})
	wantFinding(t, r, "targets", Failing, prom, `no target has the label job="niodoo"`)
	wantFinding(t, r, "targets", Warning, "127.0.0.1:1 ", "it cannot be scraped")
	wantFinding(t, r, "targets", Failing, "job consciousness-engine", "it has a label component")
	wantFinding(t, r, "prometheus", Failing, prom, "no Alertmanager is named")
	wantFinding(t, r, "prometheus", Warning, prom, "rules are evaluated every 2m")
	wantFinding(t, r, "prometheus", Warning, prom, "a job is named consciousness-engine")
	wantFinding(t, r, "rules", Warning, prom, "of our alerts are not loaded")
	wantFinding(t, r, "retention", Warning, "LooksFarBack", "it looks back 20d, and samples are kept for 15d")
	wantFinding(t, r, "retention", Warning, "records:far_back", "it looks back 16d")
	wantFinding(t, r, "targets", Failing, "stack-9.example.com", "1 of the fleet")
	wantFinding(t, r, "thresholds", Warning, "HighMemoryUsage", "it compares with [0.5], and thresholds.json says 0.85")
	wantFinding(t, r, "no-data", Warning, "alerts of host", "1 of 2 have no data now: HighMemoryUsage (niodoo_nothing)")
	wantFinding(t, r, "no-data", Warning, "alerts of no component", "1 of 7 have no data now: Window (niodoo_nothing)")
	wantFinding(t, r, "routing", Failing, `"nobody"`, "HighMemoryUsage")
	wantFinding(t, r, "routing", Warning, "day", "Nightly")
	wantFinding(t, r, "alertmanager", Warning, am, "group_interval is 10s")
	wantFinding(t, r, "alertmanager", Note, am, "no route leads to the receiver unused")
	wantFinding(t, r, "alertmanager", Note, am, "there are no inhibit_rules")
	for _, f := range about(r, "routing") {
		if strings.Contains(f.What, "Watchdog") {
			t.Errorf("Watchdog is sent: %+v", f)
		}
	}
}

// The routes that an alert takes are those that amtool finds.
func TestRoutesAsAmtoolHasThem(t *testing.T) {
	t.Parallel()
	const cfg = `route:
  receiver: root
  routes:
  - {matchers: ['severity = none'], receiver: "null"}
  - {matchers: ['{priority="P1", component=~"engine|postgresql"}'], receiver: core, continue: true}
  - matchers: ['priority=~"P[12]"']
    receiver: pager
    routes:
    - {match: {component: gpu}, receiver: gpu}
    - {match_re: {component: 'red.s'}, receiver: redis}
    - {matchers: ['team!~"a,b|c"', 'team!=""'], receiver: team}
  - {matchers: ['"odd name"="x\"y"'], receiver: odd}
  - {matchers: [component!=host, priority=P4], receiver: later}
receivers: [{name: root}, {name: "null"}, {name: core}, {name: pager}, {name: gpu}, {name: redis}, {name: team}, {name: odd}, {name: later}]
`
	path := write(t, filepath.Join(t.TempDir(), "alertmanager.yml"), cfg)
	r := parseRouting(path, []byte(cfg))
	if r.err != nil {
		t.Fatal(r.err)
	}
	for _, labels := range []map[string]string{
		{}, {"severity": "none"}, {"priority": "P1"}, {"priority": "P1", "component": "engine"}, {"priority": "P12", "component": "engine"},
		{"priority": "P2", "component": "gpu"}, {"priority": "P2", "component": "redis"}, {"priority": "P2", "component": "redisx"},
		{"priority": "P2", "team": "a,b"}, {"priority": "P2", "team": "d"}, {"priority": "P4", "component": "host"}, {"priority": "P4"},
		{"priority": "P1", "component": "postgresql", "team": "c"}, {"severity": "warning"},
	} {
		args := []string{"config", "routes", "test", "--config.file=" + path}
		for k, v := range labels {
			args = append(args, k+"="+strconv.Quote(v))
		}
		out, err := exec.Command(e2e.Tool(t, "amtool"), args...).Output()
		if err != nil {
			t.Fatalf("%v: %v: %s", args, err, out)
		}
		var got []string
		for _, f := range r.Route.find(labels) {
			got = append(got, f.Receiver)
		}
		if want := strings.TrimSpace(string(out)); strings.Join(got, ",") != want {
			t.Errorf("%v goes to %v, amtool says %s", labels, got, want)
		}
	}
	if got := r.Route.find(map[string]string{"odd name": `x"y`}); got[0].Receiver != "odd" {
		t.Errorf("%+v", got[0])
	}
}

// Files that their programs refuse, the operations manual's own among them.
func TestMonitoringFiles(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	o := Options{Config: parsed(t, off+"prometheus: {enabled: false}\n")}
	o.AlertmanagerFile = write(t, filepath.Join(dir, "alertmanager.yml"), `global:
  smtp_smarthost: 'localhost:587'
  smtp_from: 'alerts@yourdomain.com'
route:
  receiver: web.hook
receivers:
- name: email
  email_configs:
  - to: 'admin@yourdomain.com'
    subject: 'Alert'
    body: |
      text
- name: email
`)
	o.PrometheusFile = write(t, filepath.Join(dir, "prometheus.yml"), "global:\n  scrape_interval: 5m\nscrape_configs:\n- job_name: niodoo\n")
	r := examine(t, o)
	wantFinding(t, r, "alertmanager", Failing, "alertmanager.yml:10", "email_configs has no field subject")
	wantFinding(t, r, "alertmanager", Failing, "alertmanager.yml:11", "email_configs has no field body")
	wantFinding(t, r, "alertmanager", Failing, "alertmanager.yml:9", "admin@yourdomain.com")
	wantFinding(t, r, "alertmanager", Failing, "alertmanager.yml:3", "smtp_from")
	wantFinding(t, r, "alertmanager", Failing, "alertmanager.yml", `names the receiver "web.hook", which is not there`)
	wantFinding(t, r, "alertmanager", Failing, "alertmanager.yml", "the receiver email is there twice")
	wantFinding(t, r, "prometheus", Failing, "prometheus.yml", "no rule files")
	wantFinding(t, r, "prometheus", Warning, "prometheus.yml", "the exporter is scraped every 5m")

	write(t, o.AlertmanagerFile, "route: {receiver: a}\nroute: {receiver: b}\n")
	write(t, o.PrometheusFile, "global: {}\nglobal: {}\n")
	r = examine(t, o)
	wantFinding(t, r, "alertmanager", Failing, "alertmanager.yml", "already defined")
	wantFinding(t, r, "prometheus", Failing, "prometheus.yml", "already defined")

	write(t, o.AlertmanagerFile, "receivers: []\n")
	wantFinding(t, examine(t, o), "alertmanager", Failing, "alertmanager.yml", "it has no route")
	write(t, o.AlertmanagerFile, "route: {receiver: a, routes: [{matchers: ['a=~\"(\"']}]}\n")
	wantFinding(t, examine(t, o), "alertmanager", Failing, "alertmanager.yml", "missing closing )")

	// Named and not there: not looked at, and not well.
	o.AlertmanagerFile += ".none"
	o.PrometheusFile += ".none"
	r = examine(t, o)
	for _, check := range []string{"alertmanager", "prometheus"} {
		if !slices.ContainsFunc(r.NotLookedAt, func(s Skipped) bool { return s.Check == check && s.Expected }) {
			t.Errorf("%s: %+v", check, r.NotLookedAt)
		}
	}
}

const production = `[consciousness]
timeout_seconds = 5
enable_circuit_breaker = false

[memory]
max_persistent_memories = 10000
backup_interval_hours = 48
layers.first = 1

[toroidal]
stability_target = 0.99

[network]
enable_ssl = true

[logging]
level = "debug"
file = "/var/log/elsewhere.log"
max_size = 1

[monitoring]
metrics_port = 9090
enable_metrics = false

[security]
enable_auth = false
jwt_secret = "your-secret-key-change-in-production"
allowed_origins = ["https://a", "*"]
thread_pool_size = 16
enable_auth = true
`

func TestEngineFile(t *testing.T) {
	t.Parallel()
	path := write(t, filepath.Join(t.TempDir(), "production.toml"), production)
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	o := Options{Config: parsed(t, strings.Replace(off, "logs: {enabled: false}\n", "", 1)+"prometheus: {enabled: false}\n"), EngineFiles: []string{path}}
	r := examine(t, o)
	for _, want := range []struct {
		level Level
		line  string // how the line begins
		what  string
	}{
		{Warning, "thread_pool_size", "thread_pool_size stands in [security] and belongs to [performance]"},
		{Failing, "enable_auth = true", "enable_auth is there twice in [security], first in line 26"},
		{Failing, "jwt_secret", "jwt_secret is a value from the documentation"},
		{Failing, "enable_auth = false", "enable_auth = false"},
		{Warning, "allowed_origins", "allowed_origins = https://a, *"},
		{Note, "max_size", "no guide knows max_size in [logging]"},
		{Warning, "file", "logs.paths does not match it"},
		{Note, "level", "level = debug"},
		{Note, "metrics_port", "metrics_port = 9090"},
		{Failing, "enable_metrics", "enable_metrics = false"},
		{Note, "enable_ssl", "enable_ssl = true"},
		{Note, "stability_target", "stability_target = 0.99"},
		{Note, "backup_interval_hours", "backup_interval_hours = 48"},
		{Warning, "enable_circuit_breaker", "enable_circuit_breaker = false"},
	} {
		before, _, ok := strings.Cut(production, "\n"+want.line)
		if !ok {
			t.Fatalf("no line begins with %s", want.line)
		}
		wantFinding(t, r, "engine", want.level, fmt.Sprintf("production.toml:%d", 2+strings.Count(before, "\n")), want.what)
	}
	wantFinding(t, r, "engine", Warning, "production.toml", "every user of the machine may read it")
	for _, f := range r.Findings {
		if strings.Contains(f.What+f.Mend, "your-secret") {
			t.Errorf("a secret is shown: %+v", f)
		}
	}
	for text, want := range map[string]string{
		"[security]\n[security]\n":                   "the table [security] is there twice",
		"[security\n":                                "line 1 is no TOML",
		"a = 1\nb = = 2\n":                           "line 2 is no TOML",
		"timeout_seconds = 5\n":                      "timeout_seconds stands in no table and belongs to [consciousness]",
		"[security]\njwt_secret = \"0123456789\"\n":  "fewer than 32 characters",
		"security.jwt_secret = \"niodoo123\"\n":      "jwt_secret is a value from the documentation",
		"[api]\nadmin_password = \"changeme\"\n":     "admin_password is a value from the documentation",
		"[network]\nwebsocket_port = 1\n[network]\n": "there twice",
	} {
		write(t, path, text)
		found := about(examine(t, o), "engine")
		if !slices.ContainsFunc(found, func(f Finding) bool { return strings.Contains(f.What, want) }) {
			t.Errorf("%q: %q is not among %+v", text, want, found)
		}
	}
	// The documented file, with a secret of one's own, has nothing to say.
	write(t, path, "[toroidal]\nstability_target=0.9951\n[security]\nenable_auth=true\njwt_secret=\""+strings.Repeat("k", 64)+"\"\nallowed_origins=[\"https://a\"]\n")
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	if found := about(examine(t, o), "engine"); len(found) > 0 {
		t.Errorf("%+v", found)
	}
}

func TestComposeFiles(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write(t, filepath.Join(dir, "docker-compose.yml"), `services:
  engine:
    image: niodoo/consciousness
    ports: ["8080:8080", "9090:9090", "53:53/udp", "127.0.0.1:7000:7000"]
    environment: ["JWT_SECRET=${JWT_SECRET:-changeme}", RUST_LOG=info]
  postgres:
    image: postgres:15
    ports: ["5432:5432"]
    environment: {POSTGRES_PASSWORD: niodoo123, POSTGRES_USER: niodoo}
  redis:
    image: redis:7
    ports: ["127.0.0.1:6379:6379"]
  other:
    ports: ["53:53", "8000", "${PORT}:80", "127.0.0.2:7000:7000", "[::1]:7100:7100"]
`)
	write(t, filepath.Join(dir, "docker-compose.monitoring.yml"), `services:
  prometheus:
    image: prom/prometheus
    ports:
    - {target: 9090, published: "9090"}
    - "9100-9110:9100-9110"
    - "${NODE_PORT:-9105}:9105"
  grafana:
    environment: {GF_SECURITY_ADMIN_PASSWORD: "${GF_PASSWORD:?}"}
    ports: ["many:3000"]
`)
	o := Options{Config: parsed(t, off+"prometheus: {enabled: false}\n"), ComposeFiles: []string{filepath.Join(dir, "docker-compose*.yml")}}
	r := examine(t, o)
	wantFinding(t, r, "compose", Failing, "docker-compose.yml:4", "port 9090 is published by engine and by prometheus")
	wantFinding(t, r, "compose", Failing, "docker-compose.monitoring.yml:7", "port 9105 is published by prometheus and by prometheus")
	wantFinding(t, r, "compose", Warning, "docker-compose.yml:8", "postgres is published on every address")
	wantFinding(t, r, "compose", Failing, "docker-compose.yml:9", "POSTGRES_PASSWORD of postgres")
	wantFinding(t, r, "compose", Failing, "docker-compose.yml:5", "JWT_SECRET of engine")
	wantFinding(t, r, "compose", Warning, "docker-compose.monitoring.yml:10", `"many" is not a number`)
	if n := len(about(r, "compose")); n != 6 {
		t.Errorf("%d: %+v", n, about(r, "compose"))
	}
	o.ComposeFiles = []string{write(t, filepath.Join(dir, "bad.yml"), "services: [")}
	wantFinding(t, examine(t, o), "compose", Failing, "bad.yml", "yaml")
	o.ComposeFiles = []string{filepath.Join(dir, "none.yml")}
	r = examine(t, o)
	if !slices.ContainsFunc(r.NotLookedAt, func(s Skipped) bool { return s.Check == "compose" && s.Expected && strings.Contains(s.Why, "none.yml") }) {
		t.Errorf("%+v", r.NotLookedAt)
	}
}

// A simulated stack of which some is not watched.
func TestStack(t *testing.T) {
	t.Parallel()
	st, err := sim.New(sim.Options{Only: []string{"qdrant", "docker"}, DockerSocket: filepath.Join(t.TempDir(), "docker.sock")})
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	text := strings.Replace(off, "qdrant: {enabled: false}\n", "", 1)
	text = strings.Replace(text, "operations: {state_dir: /nowhere}", "operations: {state_dir: "+t.TempDir()+"}", 1)
	cfg := parsed(t, text+st.Config()+"prometheus: {enabled: false}\nloki: {url: \"http://127.0.0.1:1\"}\n")
	stack := observe.Open(cfg, slog.New(slog.DiscardHandler))
	defer stack.Close()
	r := examine(t, Options{Config: cfg, Snapshot: stack.Look(context.Background(), nil), Listening: func() ([]int, error) { return []int{22, 3000, 6333}, nil }})
	wantFinding(t, r, "collectors", Failing, "collector loki", "it fails (refused)")
	wantFinding(t, r, "endpoints", Warning, "port 3000", "grafana is not watched")
	if n := len(about(r, "endpoints")); n != 1 {
		t.Errorf("%+v", about(r, "endpoints"))
	}
	wantFinding(t, r, "collections", Note, "collections failures", "no vector size is expected")
	wantFinding(t, r, "containers", Warning, "container", "postgresql is not watched")
	wantFinding(t, r, "state", Note, "", "no heartbeat has ever been received here")
	wantFinding(t, r, "state", Note, "notify.smtp", "no mail of its own")
	if !slices.ContainsFunc(r.NotLookedAt, func(s Skipped) bool { return s.Check == "databases" && !s.Expected }) {
		t.Errorf("%+v", r.NotLookedAt)
	}
}

// The mounts of this machine: one that is not watched is found.
func TestMounts(t *testing.T) {
	t.Parallel()
	cfg := parsed(t, strings.Replace(off, "host: {enabled: false}\n", "", 1)+"prometheus: {enabled: false}\n")
	stack := observe.Open(cfg, slog.New(slog.DiscardHandler))
	defer stack.Close()
	o := Options{Config: cfg, Snapshot: stack.Look(context.Background(), []string{"host"})}
	cfg.Backup.Directory = "/proc" // a filesystem that holds nothing
	wantFinding(t, examine(t, o), "mounts", Warning, "/proc", "no series of the exporter is about the filesystem")
	cfg.Backup.Directory = "/"
	if found := about(examine(t, o), "mounts"); len(found) > 0 {
		t.Errorf("%+v", found)
	}
}

func TestListeningPorts(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ports, err := listeningPorts("/proc")
	if err != nil || !slices.Contains(ports, l.Addr().(*net.TCPAddr).Port) {
		t.Errorf("%v %v", ports, err)
	}
	if _, err := listeningPorts(t.TempDir()); err == nil {
		t.Error("a /proc without anything in it")
	}
}

// Servers that do not answer are not looked at, and nothing is well.
func TestNothingAnswers(t *testing.T) {
	t.Parallel()
	nobody := freeAddress(t)
	r := examine(t, Options{Config: parsed(t, off+"prometheus: {url: \"http://"+nobody+"\"}\nalertmanager: {url: \"http://"+nobody+"\"}\n"),
		Listening: func() ([]int, error) { return nil, errors.New("no /proc") }})
	for _, check := range []string{"targets", "prometheus", "rules", "no-data", "retention", "thresholds", "alertmanager", "routing", "endpoints"} {
		if !slices.ContainsFunc(r.NotLookedAt, func(s Skipped) bool { return s.Check == check && s.Expected }) {
			t.Errorf("%s is not said to be not looked at: %+v", check, r.NotLookedAt)
		}
	}
	// The state directory is missing, which is a warning, and outweighs what is unknown.
	if r.Verdict != opstate.Warning {
		t.Error(r.Verdict)
	}
}

// Every alert of the table is one of ours.
func TestAlertThresholds(t *testing.T) {
	t.Parallel()
	ours := append(ourAlerts(), "LowConsciousnessProcessingRate") // off by default
	for name, use := range alertThresholds {
		th, ok := thresholds.Default()[use.threshold]
		if !ok || !slices.Contains(ours, name) || use.critical && th.Critical == nil || !use.critical && th.Warning == nil {
			t.Errorf("%s %+v", name, use)
		}
	}
}

// A real PostgreSQL with a second database.
func TestDatabases(t *testing.T) {
	t.Parallel()
	pg, err := localserver.StartPostgres(context.Background(), localserver.PostgresOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer pg.Stop()
	for _, sql := range []string{"CREATE DATABASE niodoo", "CREATE DATABASE gitea"} {
		if err := pg.Exec(context.Background(), sql); err != nil {
			t.Fatal(err)
		}
	}
	if err := pg.CreateMonitor(context.Background(), "secret"); err != nil {
		t.Fatal(err)
	}
	password := write(t, filepath.Join(t.TempDir(), "password"), "secret")
	cfg := parsed(t, strings.Replace(off, "postgresql: {enabled: false}", fmt.Sprintf("postgresql: {host: 127.0.0.1, port: %d, password_file: %s}", pg.Port, password), 1)+
		"prometheus: {enabled: false}\n")
	stack := observe.Open(cfg, slog.New(slog.DiscardHandler))
	defer stack.Close()
	r := examine(t, Options{Config: cfg, Snapshot: stack.Look(context.Background(), nil)})
	wantFinding(t, r, "databases", Note, "databases gitea", "besides niodoo")
}

// A Prometheus older than 3.0 has no /api/v1/parse_query: what needs it is not looked at.
func TestOldPrometheus(t *testing.T) {
	t.Parallel()
	const group = `{"status":"success","data":{"groups":[{"name":"g","file":"old.yml","interval":15,"rules":[` +
		`{"state":"inactive","name":"Old","query":"up == 0","duration":60,"labels":{"severity":"warning"},"annotations":{},"alerts":[],"health":"err","lastError":"many-to-many","type":"alerting"}]}]}}`
	mux := http.NewServeMux()
	mux.HandleFunc("GET /api/v1/rules", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, group) })
	s := httptest.NewServer(mux)
	defer s.Close()
	r := examine(t, Options{Config: parsed(t, off+"prometheus: {url: \""+s.URL+"\"}\n")})
	wantFinding(t, r, "rules", Failing, "rule Old in old.yml", "it cannot be evaluated: many-to-many")
	if !slices.ContainsFunc(r.NotLookedAt, func(n Skipped) bool {
		return n.Check == "no-data" && n.Expected && strings.Contains(n.Why, "older than 3.0")
	}) {
		t.Errorf("%+v", r.NotLookedAt)
	}
}
