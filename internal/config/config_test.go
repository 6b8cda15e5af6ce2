// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package config

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

func mustParse(t *testing.T, text string) *Config {
	t.Helper()
	c, err := Parse("/etc/niodoo/niodoo.yml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// The contract's table of what runs and what is required.
func TestDefaults(t *testing.T) {
	on := []string{"engine", "postgresql", "redis", "ollama", "qdrant", "prometheus", "grafana", "host", "logs", "backup", "operations"}
	onlyNamed := []string{"qdrant", "pipeline", "alertmanager", "loki", "vllm", "docker"}
	for name, c := range map[string]*Config{"no file": Default(), "empty": mustParse(t, ""), "comment": mustParse(t, "# nothing\n"), "null": mustParse(t, "null")} {
		for _, n := range Names() {
			if got, want := c.Enabled(n), slices.Contains(on, n); got != want {
				t.Errorf("%s: %s enabled %v", name, n, got)
			}
			if got, want := c.Required(n), !slices.Contains(onlyNamed, n); got != want {
				t.Errorf("%s: %s required %v", name, n, got)
			}
		}
	}
	named := mustParse(t, strings.Join(onlyNamed, ": {}\n")+": {}\ngpu: {}\nredis: {enabled: false}\nollama: {required: false}\ngrafana:\n")
	for _, n := range append(onlyNamed, "gpu", "grafana") {
		if !named.Enabled(n) || !named.Required(n) {
			t.Errorf("%s is named: enabled %v, required %v", n, named.Enabled(n), named.Required(n))
		}
	}
	if named.Enabled("redis") || named.Required("ollama") || !named.Enabled("ollama") {
		t.Error("enabled and required are not obeyed")
	}
	if p := mustParse(t, "pipeline: {files: [/var/lib/niodoo/*.prom]}").Pipeline; len(p.URLs) != 0 || len(p.Files) != 1 {
		t.Errorf("files alone leave the URLs %v", p.URLs)
	}
	if named.Grafana.URL != "http://localhost:3000" {
		t.Error("a section without keys loses its defaults")
	}
}

// Every section of the design's example can be written out and read back.
func TestDesignExample(t *testing.T) {
	c := mustParse(t, `
engine:       {url: "http://localhost:8080", paths: {}}
pipeline:     {urls: ["http://localhost:9095/metrics"], files: []}
postgresql:   {host: localhost, port: 5432, user: niodoo_monitor, database: niodoo, password_file: "", sslmode: prefer, login_interval: 30s}
redis:        {address: "localhost:6379", username: "", password_file: ""}
ollama:       {url: "http://localhost:11434", required_models: [mistral]}
vllm:         {url: "http://localhost:8000"}
qdrant:       {url: "http://localhost:6333", api_key_file: "", collections: {experiences: {vector_size: 896}}}
prometheus:   {url: "http://localhost:9090"}
grafana:      {url: "http://localhost:3000"}
alertmanager: {url: "http://localhost:9093"}
loki:         {url: "http://localhost:3100"}
docker:       {host: "unix:///var/run/docker.sock"}
host:         {procfs: /proc, sysfs: /sys, rootfs: /, paths: [/opt/niodoo]}
gpu:          {}
logs:         {paths: ["/opt/niodoo/logs/*.log"], exclude: ["health_monitor.log", "incident_*.log"], state_file: ""}
backup:       {directory: /opt/niodoo/backups, max_age: 26h, sources: {}, retention: {}, copy: "", pg_dump: pg_dump}
operations:   {state_dir: /var/lib/niodoo}
notify:       {alertmanager: "", smtp: {}}
incident:     {}
maintenance:  {}
modules:      {}
`)
	if c.Qdrant.Collections["experiences"].VectorSize != 896 {
		t.Error("the collection is lost")
	}
	c.file = ""
	for _, i := range Sections {
		s, _ := i.section(c)
		s.named = false
	}
	c.Qdrant.Collections = nil
	want := Default()
	for _, n := range Names() {
		if !c.SameSection(want, n) && n != "pipeline" && n != "backup" { // empty and missing lists differ there
			t.Errorf("%s: the example is not the default", n)
		}
	}
}

const fleet = `
modules:
  stack:
    services:
      engine: {url: "https://x:8443/base", authorization: {credentials_file: token}}
      redis: {}
      postgresql: {port: 5433}
      pipeline: {urls: ["http://x:9095/metrics"]}
    allow: ['node-\d+\.example\.com', '10\.0\.0\.\d+', '\[?::1\]?']
fleet:
  - module: stack
    targets: [node-1.example.com, node-2.example.com]
    labels: {cluster: a}
`

func TestModules(t *testing.T) {
	c := mustParse(t, fleet)
	m, ok := c.ModuleConfig("stack")
	if !ok {
		t.Fatal("no module")
	}
	for _, n := range Names() {
		want := slices.Contains([]string{"engine", "redis", "postgresql", "pipeline"}, n)
		if m.Enabled(n) != want {
			t.Errorf("%s enabled %v", n, m.Enabled(n))
		}
	}
	for target, want := range map[string]bool{
		"node-1.example.com": true, "node-1.example.com.evil.org": false, "evil-node-1.example.com": false,
		"node-1xexample.com": false, "10.0.0.7": true, "10.0.0.7.evil.org": false, "": false,
	} {
		if got := c.Modules["stack"].Allows(target); got != want {
			t.Errorf("Allows(%q) = %v", target, got)
		}
	}

	f, err := c.ForTarget("stack", "10.0.0.7")
	if err != nil {
		t.Fatal(err)
	}
	if f.Engine.URL != "https://10.0.0.7:8443/base" || f.Redis.Address != "10.0.0.7:6379" || f.PostgreSQL.Host != "10.0.0.7" ||
		f.PostgreSQL.Port != 5433 || f.Pipeline.URLs[0] != "http://10.0.0.7:9095/metrics" {
		t.Errorf("got %q %q %q %q", f.Engine.URL, f.Redis.Address, f.PostgreSQL.Host, f.Pipeline.URLs)
	}
	if f, _ = c.ForTarget("stack", "::1"); f.Engine.URL != "https://[::1]:8443/base" || f.Redis.Address != "[::1]:6379" {
		t.Errorf("got %q %q", f.Engine.URL, f.Redis.Address)
	}
	if c.Modules["stack"].Services.Pipeline.URLs[0] != "http://x:9095/metrics" {
		t.Error("one target's address got into the module")
	}
	if got := c.Modules["stack"].Services.Engine.Authorization.CredentialsFile; got != "/etc/niodoo/token" {
		t.Errorf("credentials_file is %q: not relative to the configuration", got)
	}
	if y := c.DescribeModule("stack"); !strings.Contains(y, "credentials_file: /etc/niodoo/token") || strings.Contains(y, "ollama") {
		t.Errorf("described as\n%s", y)
	}
}

// Each mistake is reported with its place and the mend.
func TestErrors(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"redis:\n  addrses: x", `niodoo.yml:2: redis.addrses: unknown key; did you mean "address"?; valid here: address, enabled`},
		{"rediss: {}", `niodoo.yml:1: rediss: unknown key; did you mean "redis"?`},
		{"engine: {bearer_token_file: x}", "write authorization: {credentials_file: FILE}"},
		{"engine: {tls: {}}", "write tls_config"},
		{"engine: {authorization: {credentials: s3cret}}", "secrets come from files only: write credentials_file: FILE"},
		{"postgresql: {password: s3cret}", "write password_file: FILE"},
		{"thresholds: {}", "--thresholds.file"},
		{"incident: {x: 1}", "incident.x: unknown key; valid here: escalation, evidence_timeout, listen"},
		{"incident: {evidence_timeout: 0s}", "incident.evidence_timeout: must be more than 0"},
		{"incident: {repositories: [niodoo]}", `incident.repositories: "niodoo" must be an absolute path`},
		{"incident: {units: [niodoo]}", `"niodoo" is not the name of a systemd unit with its type, such as niodoo.service`},
		{"incident: {units: ['--all.service']}", "is not the name of a systemd unit"},
		{"incident: {restart: {disk: {unit: a.service}}}", `incident.restart.disk: "disk" is no component; valid here: engine, pipeline`},
		{"incident: {restart: {host: {unit: a.service}}}", `"host" is no component`},
		{"incident: {restart: {engine: {}}}", "write either unit: NAME.service or container: NAME"},
		{"incident: {restart: {engine: {unit: a.service, container: a}}}", "write either unit: NAME.service or container: NAME"},
		{"incident: {restart: {engine: {container: 'a/../b'}}}", `"a/../b" is not the name of a container`},
		{"incident:\n  escalation:\n    P5: [a@example.com]", `niodoo.yml:3: incident.escalation.P5: "P5" is no priority; valid here: P1, P2`},
		{"incident: {escalation: {P1: [nobody]}}", `"nobody" is not a mail address`},
		{"incident: {listen: {address: localhost}}", `incident.listen.address: "localhost": write HOST:PORT`},
		{"incident: {listen: {max_open: 1001}}", "incident.listen.max_open: is 1001; write a number from 1 to 1000"},
		{"incident: {listen: {interval: 1m, silence: 1m}}", "incident.listen.silence: must be at least twice the interval of 1m"},
		{"incident: {listen: {interval: 0s}}", "incident.listen.interval: must be at least 100ms"},
		{"incident: {listen: {peers: {B: {url: 'http://b'}}}}", `incident.listen.peers.B: "B" is not a name`},
		{"incident: {listen: {peers: {b: {}}}}", "incident.listen.peers.b.url: must start with http:// or https://"},
		{"maintenance: {password_file: pw}", "maintenance.password_file: whose password is it? Write user too"},
		{"maintenance: {window: 2-3}", `maintenance.window: "2-3": write HH:MM-HH:MM`},
		{"maintenance: {window: '02:00-02:00'}", "maintenance.window:"},
		{"maintenance: {time_limits: {vacum: 1h}}", `maintenance.time_limits.vacum: "vacum" is no step; valid here: health, log_analysis`},
		{"maintenance: {time_limits: {vacuum: 13h}}", "maintenance.time_limits.vacuum: must be more than 0 and at most 12h"},
		{"maintenance: {time_limits: {vacuum: fast}}", `"fast" is no duration`},
		{"maintenance: {lock_timeout: 0s}", "maintenance.lock_timeout: must be more than 0"},
		{"maintenance: {indexes: [events_idx]}", `maintenance.indexes[0]: "events_idx": write SCHEMA.INDEX`},
		{"maintenance: {bloat_max_density: 90}", "maintenance.bloat_max_density: is 90; write a ratio"},
		{"maintenance: {bloat_min_bytes: 0}", "maintenance.bloat_min_bytes: must be more than 0"},
		{"maintenance: {log_retention: 1h}", "maintenance.log_retention: is 1h; at least 1d are kept"},
		{"maintenance: {log_directories: [logs]}", `maintenance.log_directories: "logs" must be an absolute path`},
		{"maintenance: {data_directory: data, report_directory: reports}", `maintenance.report_directory: "reports" must be an absolute path`},
		{"engine: {}\npostgresql:\n  port: abc", "niodoo.yml:3: postgresql.port: cannot unmarshal !!str `abc` into int"},
		{"postgresql: {port: 0}", "niodoo.yml:1: postgresql.port: 0 is no port; write 1 to 65535"},
		{"postgresql: {sslmode: on}", `postgresql.sslmode: "on" is unknown; valid here: disable, allow`},
		{"postgresql: {login_interval: 0s}", "postgresql.login_interval: must be more than 0"},
		{"redis: {address: localhost}", `redis.address: "localhost": write HOST:PORT`},
		{"engine: {url: localhost:8080}", "engine.url: must start with http:// or https://"},
		{"engine: {url: 'http://user:s3cret@h'}", "engine.url: must not hold a user or password"},
		{"engine: {url: 'http://h/?token=s3cret'}", "engine.url: must not have a query"},
		{"engine: {url: 'http://%zz:s3cret@'}", "engine.url: not a URL"},
		{"engine: {paths: {health: healthz}}", `engine.paths.health: "healthz" must start with a slash`},
		{"engine: {authorization: {}}", "engine.authorization: write credentials_file: FILE"},
		{"engine: {authorization: {credentials_file: f}, basic_auth: {username: u}}", "exclude each other"},
		{"engine: {tls_config: {cert_file: f}}", "cert_file and key_file go together"},
		{"engine:\n  timeout: -1s", `niodoo.yml:2: engine.timeout: "-1s" is no duration`},
		{"host: {required: true}", "host.required: a local collector has no component"},
		{"host: {paths: [opt]}", `host.paths: "opt" must be an absolute path`},
		{"logs: {paths: ['/a/[']}", `logs.paths[0]: "/a/[" is not a glob pattern`},
		{"gpu: {interval: 1s}", "nvidia-smi may be asked every 15s at most"},
		{"backup: {retention: {hourly: 1}}", "backup.retention.hourly: unknown class; valid here: last, daily"},
		{"notify: {smtp: {smarthost: relay}}", `niodoo.yml:1: notify.smtp.smarthost: "relay": write HOST:PORT`},
		{"notify: {smtp: {from: a@b.c}}", "notify.smtp.smarthost: is missing; write the relay's HOST:PORT"},
		{"notify: {smtp: {smarthost: 'r:25', from: root, to: [a@b.c]}}", `notify.smtp.from: "root" is no mail address`},
		{"notify: {smtp: {smarthost: 'r:25', from: a@b.c}}", "notify.smtp.to: is missing; write a list of addresses"},
		{"notify:\n  smtp:\n    smarthost: r:25\n    from: a@b.c\n    to: [a@b.c, 'b c']", `niodoo.yml:5: notify.smtp.to[1]: "b c" is no mail address`},
		{"notify: {smtp: {smarthost: 'r:25', from: a@b.c, to: [a@b.c], auth_username: u}}", "auth_username and auth_password_file go together"},
		{"notify: {smtp: {auth_password: s3cret}}", "secrets come from files only: write auth_password_file: FILE"},
		{"notify: {smtp: {to: a@b.c}}", "niodoo.yml:1: "},
		{"notify: {alertmanager: 'localhost:9093'}", "notify.alertmanager: must start with http:// or https://"},
		{"backup: {sources: {'a/b': /x}}", `"a/b" cannot be a directory's name in an archive`},
		{"backup: {sources: {a: x}}", `backup.sources.a: "x" must be an absolute path`},
		{"backup: {copy: 'scp a | b'}", "no shell reads it: write a list"},
		{"backup: {copy: [bin/scp]}", `backup.copy: "bin/scp" is no program`},
		{"backup: {pg_dump: 'container:'}", "backup.pg_dump: write container:NAME"},
		{"backup: {pg_dump: bin/pg_dump}", "its absolute path, or container:NAME"},
		{"backup: {databases: ['a/b']}", `backup.databases[0]: "a/b" cannot be backed up`},
		{"backup: {recipients: [AGE-SECRET-KEY-1]}", "backup.recipients[0]: is no age recipient"},
		{"backup: {identity_file: key}", `backup.identity_file: "key" must be an absolute path`},
		{"backup: {schedule: {full: Sun}}", `backup.schedule.full: "Sun" is no day of the week`},
		{"backup: {schedule: {archive: 31}}", "backup.schedule.archive: 31 is not a day that every month has"},
		{"pipeline: {urls: []}", "pipeline: name at least one of urls and files"},
		{"docker: {host: /var/run/docker.sock}", "write unix:///PATH"},
		{"modules: {m: {allow: ['x']}}", "modules.m.services: name at least one service"},
		{"modules: {m: {services: {engine: {}}}}", "modules.m.allow: name at least one anchored regular expression"},
		{"modules: {m: {services: {engine: {}}, allow: ['(']}}", "modules.m.allow[0]: error parsing regexp"},
		{"modules:\n  m:\n    services:\n      host: {}", "niodoo.yml:4: modules.m.services.host: unknown key; host looks at the machine the exporter runs on"},
		{"modules: {m: {services: {redis: {address: /run/r.sock}}, allow: [x]}}", "is on the exporter's own machine"},
		{"modules: {m: {services: {docker: {}}, allow: [x]}}", "write tcp://HOST:PORT"},
		{"modules: {m: {services: {engine: {url: 'ftp://x'}}, allow: [x]}}", "modules.m.services.engine.url: must start with"},
		{fleet + "  - module: other\n", `fleet[1].module: "other" is not one of the modules; valid here: stack`},
		{strings.Replace(fleet, "node-2.", "node-b.", 1), `fleet[0].targets[1]: "node-b.example.com" matches no expression of modules.stack.allow`},
		{strings.Replace(fleet, "node-2.", "node-1.", 1), `stands in fleet[0].targets[0] already`},
		{strings.Replace(fleet, "node-2.example.com", "'node-2.example.com:80'", 1), "write a bare host name or IP address"},
		{strings.Replace(fleet, "cluster: a", "component: a", 1), `the label "component" is taken`},
		{"a: {}\n---\nb: {}", "more than one YAML document"},
		{"- engine", "must be a mapping of sections"},
		{"engine: {", "not YAML"},
		{"engine: {}\nengine: {}", "already defined"},
	} {
		_, err := Parse("niodoo.yml", []byte(c.text))
		if err == nil {
			t.Errorf("%q is accepted", c.text)
			continue
		}
		if !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q gives\n%v\nwant %s", c.text, err, c.want)
		}
		if strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%q: the error tells a secret: %v", c.text, err)
		}
	}
}

func TestBackup(t *testing.T) {
	c, err := Parse("niodoo.yml", []byte("backup:\n  copy: rclone copy {archive} remote:x\n  schedule: {full: Sunday, archive: 1}\n"))
	if err != nil || strings.Join(c.Backup.Copy, ",") != "rclone,copy,{archive},remote:x" {
		t.Errorf("%q, %v", c.Backup.Copy, err)
	}
	if trees, named := c.Backup.Trees(); len(trees) != 3 || named {
		t.Errorf("%v, %v", trees, named)
	}
	c, err = Parse("niodoo.yml", []byte("backup: {copy: [a, 'b c'], sources: {x: /x}}"))
	if err != nil || strings.Join(c.Backup.Copy, ",") != "a,b c" {
		t.Errorf("%q, %v", c.Backup.Copy, err)
	}
	if trees, named := c.Backup.Trees(); len(trees) != 1 || !named {
		t.Errorf("%v, %v", trees, named)
	}
}

// All problems are reported at once, one a line.
func TestAllErrors(t *testing.T) {
	_, err := Parse("f", []byte("postgresql: {port: 0, user: ''}\nredis: {address: x}\n"))
	if err == nil || strings.Count(err.Error(), "\n") != 2 {
		t.Errorf("got %v", err)
	}
}

func TestLoad(t *testing.T) {
	dir := t.TempDir()
	if _, err := Load(filepath.Join(dir, "none.yml")); err == nil || !strings.Contains(err.Error(), "none.yml") {
		t.Errorf("missing file: %v", err)
	}
	big := filepath.Join(dir, "big.yml")
	if err := os.WriteFile(big, []byte(strings.Repeat("# x\n", MaxFileSize/4+1)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(big); err == nil || !strings.Contains(err.Error(), "larger than the limit") {
		t.Errorf("big file: %v", err)
	}
}

func TestSecret(t *testing.T) {
	f := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(f, []byte(" p@ss #word{\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := SecretFile(f).Read()
	if err != nil || s.Reveal() != " p@ss #word{" {
		t.Fatalf("got %q, %v", s.Reveal(), err)
	}
	j, _ := json.Marshal(map[string]any{"s": s})
	y, _ := yaml.Marshal(map[string]any{"s": s})
	for _, out := range []string{fmt.Sprint(s), fmt.Sprintf("%v %+v %#v %s %q %x %d", s, s, s, s, s, s, s),
		fmt.Sprintf("%+v", struct{ S Secret }{s}), string(j), string(y), s.LogValue().String()} {
		if strings.Contains(out, "word") || !strings.Contains(out, "secret") {
			t.Errorf("printed as %q", out)
		}
	}
	if s, err := SecretFile("").Read(); err != nil || s.Reveal() != "" || s.String() != "" {
		t.Errorf("no file: %v %v", s, err)
	}
	if _, err := SecretFile(f + "x").Read(); err == nil {
		t.Error("a missing file is no error")
	}
	c := mustParse(t, "redis: {password_file: pw}\nengine: {authorization: {credentials_file: /abs/token}}\n"+fleet[1:])
	if got, want := c.SecretFiles(), []string{"/abs/token", "/etc/niodoo/pw", "/etc/niodoo/token"}; !slices.Equal(got, want) {
		t.Errorf("secret files %v, want %v", got, want)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(fleet)
	f.Add("engine: &a {url: 'http://h'}\ngrafana: *a\n")
	f.Add("modules: {m: {services: {engine: {}, redis: null}, allow: [a]}}")
	f.Add("modules: {m: null}")
	f.Add("qdrant: {collections: {a: {vector_size: 1}}}")
	f.Fuzz(func(t *testing.T, text string) {
		c, err := Parse("f", []byte(text))
		if (c == nil) == (err == nil) {
			t.Errorf("%v %v", c, err)
		}
	})
}
