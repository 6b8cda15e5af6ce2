// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package report

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/niodoo/niodoo_exporter/internal/config"
	"github.com/niodoo/niodoo_exporter/internal/e2e"
	"github.com/niodoo/niodoo_exporter/internal/localserver"
	"github.com/niodoo/niodoo_exporter/internal/observe"
	"github.com/niodoo/niodoo_exporter/internal/opstate"
	"github.com/niodoo/niodoo_exporter/internal/pglogin"
	"github.com/niodoo/niodoo_exporter/internal/promapi"
	"github.com/niodoo/niodoo_exporter/internal/sim"
	"github.com/niodoo/niodoo_exporter/internal/thresholds"
)

func write(t *testing.T, path, text string) string {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// others are the sections that a test does not need.
const others = "logs: {enabled: false}\nbackup: {enabled: false}\noperations: {enabled: false}\n"

// build looks twice and reports.
func build(t *testing.T, text string, o Options) *Report {
	t.Helper()
	cfg, err := config.Parse("niodoo.yml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	stack := observe.Open(cfg, slog.New(slog.DiscardHandler))
	defer stack.Close()
	o.Config = cfg
	o.Before = stack.Look(context.Background(), nil)
	if o.Thresholds == nil {
		o.Thresholds = thresholds.Default()
	}
	o.Now = stack.Look(context.Background(), nil)
	o.At = time.Now()
	r, err := Build(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func findKPI(t *testing.T, r *Report, group, name string) KPI {
	t.Helper()
	i := slices.IndexFunc(r.KPIs, func(k KPI) bool { return k.Group == group && k.Name == name })
	if i < 0 {
		t.Fatalf("%s %s is not in the report: %+v", group, name, r.KPIs)
	}
	return r.KPIs[i]
}

func missing(r *Report, what string) *NotLookedAt {
	i := slices.IndexFunc(r.NotLookedAt, func(n NotLookedAt) bool { return n.What == what })
	if i < 0 {
		return nil
	}
	return &r.NotLookedAt[i]
}

func tuned(r *Report, where, setting string) *Tuning {
	i := slices.IndexFunc(r.Tuning, func(t Tuning) bool { return t.Where == where && t.Setting == setting })
	if i < 0 {
		return nil
	}
	return &r.Tuning[i]
}

// A whole stack: a real PostgreSQL and Redis, the rest simulated.
func TestStack(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	pg, err := localserver.StartPostgres(ctx, localserver.PostgresOptions{Settings: map[string]string{
		"shared_preload_libraries": "'pg_stat_statements'", "work_mem": "'1TB'", "fsync": "off", "idle_in_transaction_session_timeout": "'10min'"}})
	if err != nil {
		t.Fatal(err)
	}
	defer pg.Stop()
	if err := pg.Exec(ctx, "CREATE DATABASE niodoo"); err != nil {
		t.Fatal(err)
	}
	if err := pg.CreateMonitor(ctx, "secret"); err != nil {
		t.Fatal(err)
	}
	for _, sql := range []string{"CREATE EXTENSION pg_stat_statements", "CREATE TABLE small (v text)", "CREATE TABLE large (v text)",
		"INSERT INTO large SELECT repeat('x', 100) FROM generate_series(1, 20000)", "ANALYZE", "SELECT count(*) FROM large WHERE v LIKE '%y%'",
		"ALTER ROLE niodoo_monitor PASSWORD 'secret'", "SELECT 'hidden' AS password FROM small"} {
		if err := pg.ExecIn(ctx, "niodoo", sql); err != nil {
			t.Fatal(err)
		}
	}
	redis, err := localserver.StartRedis(ctx, localserver.RedisOptions{Password: "secret", Config: []string{"slowlog-log-slower-than -1"}})
	if err != nil {
		t.Fatal(err)
	}
	defer redis.Stop()
	st, err := sim.New(sim.Options{Only: []string{"engine", "ollama", "vllm", "docker"}, DockerSocket: filepath.Join(t.TempDir(), "docker.sock")})
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	password := write(t, filepath.Join(t.TempDir(), "password"), "secret")
	r := build(t, st.Config()+others+"prometheus: {enabled: false}\ngrafana: {enabled: false}\nqdrant: {enabled: false}\n"+
		fmt.Sprintf("postgresql: {host: 127.0.0.1, port: %d, password_file: %s}\nredis: {address: %q, password_file: %s}\n", pg.Port, password, redis.Addr, password), Options{})

	d := r.Database
	if d == nil || d.Name != "niodoo" || !strings.HasPrefix(d.Version, "1") || d.Size < 1<<20 || d.MaxConnections != 40 || d.CacheHits == nil || *d.CacheHits <= 0.5 {
		t.Fatalf("%+v: %+v", d, r.NotLookedAt)
	}
	if len(d.Tables) != 2 || d.Tables[0].Name != "public.large" || d.Tables[0].Bytes < 2e6 || d.Tables[0].Live != 20000 {
		t.Errorf("%+v", d.Tables)
	}
	if n := len(d.Statements); n == 0 || n > maxRows || d.Statements[0].Calls == 0 || d.Statements[0].Mean <= 0 {
		t.Errorf("%+v", d.Statements)
	}
	// All of them, not just the slowest: which those are is a matter of luck.
	cfg := config.Default().PostgreSQL
	cfg.Host, cfg.Port, cfg.PasswordFile, cfg.SSLMode = "127.0.0.1", pg.Port, config.SecretFile(password), "disable"
	conn, err := pglogin.ReadOnly(ctx, cfg, "test", statementTimeout, lockTimeout)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(ctx) }()
	all := &Database{}
	if err := statements(ctx, conn, "public", 1000, all); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"SELECT count(*) FROM large WHERE v LIKE $1", "SELECT $1 AS password FROM small"} {
		if !slices.ContainsFunc(all.Statements, func(s Statement) bool { return s.Text == want && s.Calls == 1 }) {
			t.Errorf("%s is not among %+v", want, all.Statements)
		}
	}
	for _, s := range all.Statements {
		if strings.Contains(s.Text, "secret") || strings.Contains(s.Text, "hidden") || strings.HasPrefix(s.Text, "ALTER ROLE") {
			t.Errorf("a secret is shown: %s", s.Text)
		}
	}
	if w := tuned(r, "PostgreSQL", "work_mem"); w == nil || w.Value != "1 TiB" || !w.Danger {
		t.Errorf("%+v", w)
	}
	if b := tuned(r, "PostgreSQL", "shared_buffers"); b == nil || !strings.Contains(b.How, "a reload is not enough") {
		t.Errorf("%+v", b)
	}
	if tuned(r, "PostgreSQL", "fsync") == nil || tuned(r, "PostgreSQL", "idle_in_transaction_session_timeout") != nil || tuned(r, "PostgreSQL", "shared_preload_libraries") != nil {
		t.Errorf("%+v", r.Tuning)
	}

	if r.Redis == nil || r.Redis.Version == "" || r.Redis.Memory == nil || r.Redis.Policy != "noeviction" {
		t.Errorf("%+v", r.Redis)
	}
	for _, name := range []string{"maxmemory", "appendonly", "slowlog-log-slower-than"} {
		if tuned(r, "Redis", name) == nil {
			t.Errorf("%s is not advised on: %+v: %+v", name, r.Tuning, r.NotLookedAt)
		}
	}

	if !slices.ContainsFunc(r.Models, func(m Model) bool { return m.Name == "mistral:latest" && m.Required && m.Bytes > 1e9 }) {
		t.Errorf("%+v", r.Models)
	}
	if !slices.ContainsFunc(r.Models, func(m Model) bool { return m.Server == "vllm" && m.Running != nil }) {
		t.Errorf("%+v", r.Models)
	}
	if c := r.Containers; len(c) < 3 || !c[0].Running || c[0].CPU == nil || c[0].Memory == nil || c[0].Received == nil || c[0].Written == nil || c[0].PIDs == nil {
		t.Errorf("%+v", c)
	}
	if h := r.Host; h == nil || len(h.PerCore) != 3 || h.CPUs == nil || *h.CPUs < 1 || len(r.Filesystems) == 0 || len(r.Network) == 0 {
		t.Errorf("%+v %+v %+v", h, r.Filesystems, r.Network)
	}
	if k := findKPI(t, r, "memory", "stability"); k.Value < 0.98 || k.Target == nil || *k.Target != 0.9951 || k.Meets == nil || k.Hour != nil {
		t.Errorf("%+v", k)
	}
	if k := findKPI(t, r, "consciousness", "events processed"); k.Warning != nil || k.Verdict != opstate.Well {
		t.Errorf("a limit that is switched off: %+v", k)
	}
	if n := missing(r, "graphics processors"); n == nil || n.Expected {
		t.Errorf("%+v", r.NotLookedAt)
	}
	if r.Verdict == opstate.Unknown {
		t.Errorf("%s: %+v", r.Verdict, r.NotLookedAt)
	}
}

// KPIs beyond their limits decide.
func TestVerdict(t *testing.T) {
	t.Parallel()
	st, err := sim.New(sim.Options{Only: []string{"engine"}})
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	text := st.Config() + others + "prometheus: {enabled: false}\ngrafana: {enabled: false}\nqdrant: {enabled: false}\nollama: {enabled: false}\npostgresql: {enabled: false}\nredis: {enabled: false}\nhost: {enabled: false}\n"
	if r := build(t, text, Options{}); r.Verdict != opstate.Well || tuned(r, "kernel", "vm.swappiness") != nil {
		t.Errorf("%s: %+v %+v", r.Verdict, r.KPIs, r.NotLookedAt)
	}
	strict := func(name string, warning, critical float64) thresholds.Set {
		s := thresholds.Default()
		th := s[name]
		th.Target, th.Warning, th.Critical = nil, &warning, &critical
		s[name] = th
		return s
	}
	if r := build(t, text, Options{Thresholds: strict("memory_stability_ratio", 0.9999, 0.5)}); r.Verdict != opstate.Warning || findKPI(t, r, "memory", "stability").Verdict != opstate.Warning {
		t.Errorf("%s: %+v", r.Verdict, r.KPIs)
	}
	if r := build(t, text, Options{Thresholds: strict("memory_retrieval_time_seconds", 0.0001, 0.001)}); r.Verdict != opstate.Failing {
		t.Errorf("%s: %+v", r.Verdict, r.KPIs)
	}
}

// What does not answer is said, and nothing is well.
func TestNothingAnswers(t *testing.T) {
	t.Parallel()
	prometheus, err := promapi.New(config.HTTP{URL: "http://127.0.0.1:1"})
	if err != nil {
		t.Fatal(err)
	}
	r := build(t, others+"engine: {url: \"http://127.0.0.1:1\"}\nollama: {url: \"http://127.0.0.1:1\"}\nqdrant: {enabled: false}\ngrafana: {enabled: false}\nhost: {enabled: false}\n"+
		"postgresql: {host: 127.0.0.1, port: 1}\nredis: {address: \"127.0.0.1:1\"}\nprometheus: {enabled: false}\ndocker: {host: \"unix:///nowhere\"}\n", Options{Prometheus: prometheus})
	for _, what := range []string{"trends of the KPIs", "consciousness and memory KPIs", "the database", "Redis", "Ollama's models", "containers"} {
		if n := missing(r, what); n == nil || !n.Expected || n.Why == "" {
			t.Errorf("%s: %+v", what, r.NotLookedAt)
		}
	}
	if r.Verdict != opstate.Unknown || r.Database != nil || r.Redis != nil || r.Host != nil {
		t.Errorf("%+v", r)
	}
}

// The exporter's own Redis user may not read the settings: said, and no fault.
func TestRedisRights(t *testing.T) {
	t.Parallel()
	redis, err := localserver.StartRedis(context.Background(), localserver.RedisOptions{ACL: []string{"user niodoo_monitor on >secret -@all +ping +info +slowlog|len +cluster|info"}})
	if err != nil {
		t.Fatal(err)
	}
	defer redis.Stop()
	password := write(t, filepath.Join(t.TempDir(), "password"), "secret")
	r := build(t, others+"engine: {enabled: false}\nollama: {enabled: false}\nqdrant: {enabled: false}\ngrafana: {enabled: false}\nhost: {enabled: false}\npostgresql: {enabled: false}\nprometheus: {enabled: false}\n"+
		fmt.Sprintf("redis: {address: %q, username: niodoo_monitor, password_file: %s}\n", redis.Addr, password), Options{})
	if n := missing(r, "Redis' settings"); n == nil || n.Expected || !strings.Contains(n.Why, "+config|get") || r.Redis == nil {
		t.Errorf("%+v", r)
	}
}

// A real Prometheus with eight days of a stability that fell.
func TestTrends(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	end := time.Now().UTC().Truncate(time.Minute)
	var b strings.Builder
	for at := end.Add(-8 * 24 * time.Hour); !at.After(end); at = at.Add(5 * time.Minute) {
		v := 0.999
		if end.Sub(at) < 2*time.Hour {
			v = 0.95
		}
		fmt.Fprintf(&b, "niodoo_memory_stability_ratio{job=\"niodoo\",instance=\"a\"} %v %d\n", v, at.Unix())
		fmt.Fprintf(&b, "niodoo_memory_stability_ratio{job=\"other\",instance=\"b\"} 0.1 %d\n", at.Unix())
	}
	b.WriteString("# EOF\n")
	data := filepath.Join(dir, "data")
	if out, err := exec.Command(e2e.Tool(t, "promtool"), "tsdb", "create-blocks-from", "--max-block-duration=162h", "openmetrics", write(t, filepath.Join(dir, "h.om"), b.String()), data).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()
	e2e.Start(t, e2e.Tool(t, "prometheus"), "--config.file="+write(t, filepath.Join(dir, "p.yml"), "global: {}\n"), "--storage.tsdb.path="+data, "--web.listen-address="+address, "--log.level=warn")
	e2e.Await(t, "Prometheus is ready", func() error { _, err := e2e.Get("http://" + address + "/-/ready"); return err })
	c, err := promapi.New(config.HTTP{URL: "http://" + address})
	if err != nil {
		t.Fatal(err)
	}
	o := Options{Prometheus: c, Selector: `job="niodoo"`, At: end}
	all := []KPI{{expr: "niodoo_memory_stability_ratio{@}"}, {expr: "niodoo_nothing{@}"}}
	if known, err := o.trends(context.Background(), all); err != nil || !known {
		t.Fatal(known, err)
	}
	for name, c := range map[string]struct {
		got  *float64
		want float64
	}{"hour": {all[0].Hour, 0.95}, "day": {all[0].Day, (0.999*22 + 0.95*2) / 24}, "week": {all[0].Week, (0.999*166 + 0.95*2) / 168}} {
		if c.got == nil || math.Abs(*c.got-c.want) > 0.001 {
			t.Errorf("the %s: %v, want %v", name, c.got, c.want)
		}
	}
	if all[1].Hour != nil {
		t.Errorf("%+v", all[1])
	}
	// Every expression of the table is one that Prometheus can evaluate.
	for _, k := range kpis {
		if k.expr == "" {
			continue
		}
		if _, err := o.trends(context.Background(), []KPI{{expr: k.expr}}); err != nil {
			t.Errorf("%s: %v", k.name, err)
		}
	}
}

// The rules of the tuning, on settings of which the answer is known.
func TestTuning(t *testing.T) {
	t.Parallel()
	m := machine{memory: 32 * gib}
	good := map[string]setting{
		"fsync": {text: "on"}, "shared_buffers": {text: "x", number: 8 * gib, restart: true}, "effective_cache_size": {number: 24 * gib},
		"work_mem": {number: 16 << 20}, "max_connections": {number: 200}, "random_page_cost": {number: 1.1}, "log_min_duration_statement": {number: 1},
		"password_encryption": {text: "scram-sha-256"}, "max_wal_size": {number: gib}, "maintenance_work_mem": {number: 2 * gib},
	}
	if found := tunePostgreSQL(good, m, Options{}); len(found) > 0 {
		t.Errorf("%+v", found)
	}
	bad := map[string]setting{
		"shared_buffers": {text: "16384", number: 128 << 20, unit: "8kB", restart: true}, "work_mem": {number: gib, unit: "kB"}, "max_connections": {text: "500", number: 500},
		"password_encryption": {text: "md5"}, "wal_level": {text: "replica", pending: true},
	}
	var names []string
	for _, f := range tunePostgreSQL(bad, m, Options{}) {
		if f.Reason == "" || f.Suggested == "" || f.How == "" || f.Value == "" {
			t.Errorf("%+v", f)
		}
		names = append(names, f.Setting)
	}
	if got := strings.Join(names, " "); got != "shared_buffers work_mem max_connections password_encryption wal_level" {
		t.Error(got)
	}
	// Of another machine's memory nothing is known, and nothing is advised.
	if found := tunePostgreSQL(map[string]setting{"shared_buffers": {number: 1}}, machine{}, Options{}); len(found) > 0 {
		t.Errorf("%+v", found)
	}
	redis := tuneRedis(map[string]string{"maxmemory": "1", "appendonly": "yes", "appendfsync": "no", "protected-mode": "no", "requirepass": "", "tcp-backlog": "511"}, Options{})
	if len(redis) != 2 || redis[0].Setting != "appendfsync" || redis[1].Setting != "protected-mode" {
		t.Errorf("%+v", redis)
	}
}

// The kernel's settings below another /proc.
func TestKernel(t *testing.T) {
	t.Parallel()
	proc := t.TempDir()
	for path, value := range map[string]string{"vm/swappiness": "60\n", "net/core/somaxconn": "4096\n", "vm/overcommit_memory": "0\n"} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(proc, "sys", path)), 0o700); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(proc, "sys", path), value)
	}
	cfg := config.Default()
	cfg.Host.ProcFS, cfg.Host.SysFS = proc, t.TempDir()
	r := &Report{}
	kernel(Options{Config: cfg}, r)
	if len(r.Tuning) != 1 || r.Tuning[0].Setting != "vm.swappiness" || r.Tuning[0].Value != "60" {
		t.Errorf("%+v", r.Tuning) // that Redis is here is not known: nothing on overcommit
	}
	if n := missing(r, "some of the kernel's settings"); n == nil || n.Expected || !strings.Contains(n.Why, "fs/file-max") {
		t.Errorf("%+v", r.NotLookedAt)
	}
}
