// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package incident

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/niodoo/niodoo_exporter/internal/config"
	"github.com/niodoo/niodoo_exporter/internal/localserver"
	"github.com/niodoo/niodoo_exporter/internal/sim"
	"github.com/niodoo/niodoo_exporter/internal/thresholds"
)

const patience = 60 * time.Second

// await polls until a condition holds.
func await(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !holds(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited %s in vain until %s", patience, what)
		}
	}
}

func parse(t *testing.T, text string) *config.Config {
	t.Helper()
	path := filepath.Join(t.TempDir(), "niodoo.yml")
	write(t, path, text)
	c, err := config.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// machine is the part of a configuration about this machine that tests share.
func machine(dir string) string {
	return fmt.Sprintf("operations: {state_dir: '%[1]s/state'}\nlogs: {paths: ['%[1]s/logs/*.log']}\nbackup: {enabled: false}\n"+
		"host: {config_files: ['%[1]s/config/*']}\nredis: {enabled: false}\n", dir)
}

func stack(t *testing.T, only ...string) (*sim.Stack, string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "niodoo") // a socket's path must be short
	if err != nil {
		t.Fatal(err)
	}
	st, err := sim.New(sim.Options{Seed: 1, Age: time.Hour, Only: only, DockerSocket: filepath.Join(dir, "docker.sock")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close(); os.RemoveAll(dir) })
	return st, st.Config()
}

func read(t *testing.T, path string) string {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Error(err)
	}
	return string(raw)
}

func has(t *testing.T, text string, wants ...string) {
	t.Helper()
	for _, w := range wants {
		if !regexp.MustCompile(w).MatchString(text) {
			t.Errorf("%q is not in\n%.3000s", w, text)
		}
	}
}

func TestGather(t *testing.T) {
	t.Parallel()
	_, services := stack(t, "engine", "ollama", "prometheus", "grafana", "alertmanager", "docker")
	dir := t.TempDir()
	write(t, dir+"/logs/niodoo.log", "2026-11-24T01:59:58Z INFO fine\n2026-11-24T01:59:59Z ERROR engine: the memory is full\n")
	write(t, dir+"/logs/incident_1.log", "ERROR one of our own\n")
	write(t, dir+"/config/engine.toml", "jwt_secret = 's3cret'")
	write(t, dir+"/config/gone.toml", "x = 1")
	write(t, dir+"/repository/file", "x")
	for _, args := range [][]string{{"init", "-q"}, {"add", "file"}, {"-c", "user.name=Ann", "-c", "user.email=a@example.com", "commit", "-qm", "Double the cache"}} {
		if out, err := exec.Command("git", append([]string{"-C", dir + "/repository"}, args...)...).CombinedOutput(); err != nil {
			t.Fatalf("git %v: %v\n%s", args, err, out)
		}
	}
	cfg := parse(t, services+machine(dir)+"postgresql: {enabled: false}\nincident: {repositories: ['"+dir+"/repository']}\n")
	s := Store{cfg.Operations.StateDir}
	if err := s.Prepare(); err != nil {
		t.Fatal(err)
	}
	g := Gatherer{Config: cfg, Thresholds: thresholds.Default(), StateDir: s.Dir, Now: time.Now}
	id := open(t, s, New{})
	seen := 0
	e, err := g.Gather(t.Context(), s.Evidence(id), func(Piece) { seen++ })
	if err != nil || !e.Complete() || e.Health == nil || !e.Health.Well || seen != len(e.Pieces) {
		t.Fatalf("%+v, %v; %d told", e, err, seen)
	}
	for name, wants := range map[string][]string{
		"health.txt":      {`^\w+: every required component is up`, `(?m)^engine +well +up`},
		"kpis.txt":        {`(?m)^well +engine +memory_stability_ratio +memory stability`},
		"metrics.prom":    {`# TYPE niodoo_component_up gauge`, `niodoo_component_up\{component="ollama"\} 1`},
		"changes.txt":     {`nothing to compare with`, `[0-9a-f]{12} .*/config/engine.toml`, `Ann: Double the cache`, `niodoo-redis-1 \(redis:7-alpine\)`, `mistral`},
		"errors.txt":      {`niodoo.log: 1 of 1 error lines`, `the memory is full`},
		"containers.json": {`"niodoo-consciousness-engine-1"|/niodoo-consciousness-engine-1`, `"StartedAt"`},
		"alerts.json":     {`"alerts"`, `"silences"`},
		"host.txt":        {`== meminfo\nMemTotal`},
		"evidence.json":   {`"result": "taken"`},
	} {
		has(t, read(t, filepath.Join(s.Evidence(id), name)), wants...)
	}
	if text := read(t, s.Evidence(id)+"/errors.txt"); strings.Contains(text, "our own") || strings.Contains(text, "fine") {
		t.Errorf("errors.txt has what is none:\n%s", text)
	}
	if i := slices.IndexFunc(e.Pieces, func(p Piece) bool { return p.Name == "statements" }); e.Pieces[i].Result != NotLookedAt {
		t.Errorf("PostgreSQL is disabled: %+v", e.Pieces[i])
	}

	// What is different from when all was well.
	if err := RememberGood(t.Context(), cfg, at); err != nil {
		t.Fatal(err)
	}
	write(t, dir+"/config/engine.toml", "jwt_secret = 'other'")
	write(t, dir+"/config/new.toml", "x = 1")
	if err := os.Remove(dir + "/config/gone.toml"); err != nil {
		t.Fatal(err)
	}
	if _, err := g.Gather(t.Context(), s.Evidence(id), nil); err != nil {
		t.Fatal(err)
	}
	text := read(t, s.Evidence(id)+"/changes.txt")
	has(t, text, `since all was well, 2026-11-24 02:00:00 UTC`, `configuration files: changed: .*engine.toml [0-9a-f]{12} -> [0-9a-f]{12}`,
		`configuration files: new: .*new.toml`, `configuration files: gone: .*gone.toml`, `models: unchanged, \d`, `container images: unchanged, 6`)
	filepath.WalkDir(s.Path(id), func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() && strings.Contains(read(t, path), "s3cret") {
			t.Errorf("%s tells a secret", path)
		}
		return err
	})
}

// silent accepts connections and says nothing.
func silent(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		var held []net.Conn
		for {
			c, err := l.Accept()
			if err != nil {
				for _, c := range held {
					c.Close()
				}
				return
			}
			held = append(held, c)
		}
	}()
	return l.Addr().String()
}

// Services that hang cost their own pieces and nothing else.
func TestGatherDeadline(t *testing.T) {
	t.Parallel()
	dir, addr := t.TempDir(), silent(t)
	host, port, _ := net.SplitHostPort(addr)
	write(t, dir+"/logs/niodoo.log", "2026-11-24T01:59:59Z ERROR engine: stuck\n")
	text := machine(dir) + "incident: {evidence_timeout: 4s}\ndocker: {host: 'tcp://" + addr + "'}\n"
	for _, s := range []string{"engine", "ollama", "qdrant", "prometheus", "grafana", "alertmanager"} {
		text += s + ": {url: 'http://" + addr + "'}\n"
	}
	cfg := parse(t, text+"postgresql: {host: "+host+", port: "+port+", sslmode: disable}\n")
	began := time.Now()
	e, err := Gatherer{Config: cfg, Thresholds: thresholds.Default(), StateDir: t.TempDir(), Now: time.Now}.Gather(t.Context(), filepath.Join(dir, "evidence"), nil)
	if err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took > 30*time.Second {
		t.Errorf("it took %s", took)
	}
	for _, p := range e.Pieces {
		want := map[string]Result{"units": p.Result, "kernel": p.Result, "changes": Failed, "alerts": Failed, "statements": Failed, "containers": Failed}[p.Name]
		if want == "" {
			want = Taken
		}
		if p.Result != want || p.Result == Failed && p.Name != "changes" && p.Name != "units" && p.Name != "kernel" && p.Detail != "no answer within 4s" {
			t.Errorf("%+v, want %s", p, want)
		}
	}
	if e.Complete() || e.Health == nil || e.Health.Well {
		t.Errorf("%+v", e.Health)
	}
	has(t, read(t, dir+"/evidence/errors.txt"), "stuck")
	has(t, read(t, dir+"/evidence/health.txt"), `engine +failing +down +timeout`)
}

// A call that no context ends is left behind.
func TestGatherLeavesBehind(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	defer close(release)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	stuck := piece{"stuck", "stuck.txt", func(context.Context) ([]byte, error) { <-release; return nil, nil }}
	if p := stuck.gather(ctx, t.TempDir(), time.Second); p.Result != Failed || p.Detail != "no answer within 1s" {
		t.Errorf("%+v", p)
	}
	panics := piece{"panics", "panics.txt", func(context.Context) ([]byte, error) { panic("at the disco") }}
	if p := panics.gather(t.Context(), t.TempDir(), time.Second); p.Result != Failed || p.Detail != "panic: at the disco" {
		t.Errorf("%+v", p)
	}
}

// Who blocks whom is told, with what would end it, and nothing is ended.
func TestStatements(t *testing.T) {
	t.Parallel()
	pg, err := localserver.StartPostgres(t.Context(), localserver.PostgresOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pg.Stop)
	if err := pg.CreateMonitor(t.Context(), "pa'ss"); err != nil {
		t.Fatal(err)
	}
	if err := pg.Exec(t.Context(), "CREATE TABLE memories (id int)"); err != nil {
		t.Fatal(err)
	}
	blocker, err := pg.Connect(t.Context(), "postgres")
	if err != nil {
		t.Fatal(err)
	}
	defer blocker.Close(context.Background())
	if _, err := blocker.Exec(t.Context(), "BEGIN; LOCK TABLE memories").ReadAll(); err != nil {
		t.Fatal(err)
	}
	waited := make(chan error, 1)
	go func() { waited <- pg.Exec(context.Background(), "SELECT count(*) FROM memories") }()

	dir := t.TempDir()
	write(t, dir+"/password", "pa'ss\n")
	cfg := parse(t, fmt.Sprintf("postgresql: {host: 127.0.0.1, port: %d, database: postgres, password_file: %s/password, sslmode: disable}", pg.Port, dir))
	l := &look{Gatherer: Gatherer{Config: cfg, Now: time.Now}}
	var text string
	await(t, "the waiter waits", func() bool {
		raw, err := l.statements(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		text = string(raw)
		return strings.Contains(text, "pg_terminate_backend")
	})
	pid := fmt.Sprint(blocker.PID())
	has(t, text, `(?m)^`+pid+` .*idle in transaction`, `Lock:relation +`+pid+` +SELECT count`, `WHERE pid = `+pid+` AND backend_start = '`)
	terminate := regexp.MustCompile(`SELECT pg_terminate_backend.*;`).FindAllString(text, -1)
	if len(terminate) != 1 {
		t.Fatalf("%d statements to end one blocker:\n%s", len(terminate), text)
	}
	if _, err := blocker.Exec(t.Context(), "SELECT 1").ReadAll(); err != nil {
		t.Fatalf("the blocker was ended: %v", err)
	}
	// What it names is that session and no other.
	if err := pg.Exec(t.Context(), strings.Replace(terminate[0], "backend_start = '2", "backend_start = '1", 1)); err != nil {
		t.Fatal(err)
	}
	if _, err := blocker.Exec(t.Context(), "SELECT 1").ReadAll(); err != nil {
		t.Fatalf("another's start ended it: %v", err)
	}
	if err := pg.Exec(t.Context(), terminate[0]); err != nil {
		t.Fatal(err)
	}
	if err := <-waited; err != nil {
		t.Error(err)
	}
}
