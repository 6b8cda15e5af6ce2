// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package config

import (
	"errors"
	"maps"
	"net"
	"net/mail"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/common/model"
)

var sslModes = []string{"disable", "allow", "prefer", "require", "verify-ca", "verify-full"}

// retentionClasses are the buckets that `niodooctl backup prune` knows.
var retentionClasses = []string{"last", "daily", "weekly", "monthly", "yearly"}

// minGPUInterval is the shortest pace at which nvidia-smi may be asked.
const minGPUInterval = 15 * time.Second

// validate checks every value and reports all problems at once.
func (d *decoder) validate() error {
	c := d.cfg
	for _, i := range Sections {
		s, _ := i.section(c)
		if s.Timeout < 0 {
			d.errorf(i.Name+".timeout", "must not be negative")
		}
		if i.Local && s.Required != nil {
			d.errorf(i.Name+".required", "a local collector has no component that could be required; remove the key")
		}
	}
	d.services("", &c.Services)
	d.paths("host.procfs", c.Host.ProcFS)
	d.paths("host.sysfs", c.Host.SysFS)
	d.paths("host.rootfs", c.Host.RootFS)
	d.paths("host.paths", c.Host.Paths...)
	d.globs("host.config_files", c.Host.ConfigFiles, true)
	if c.GPU.Interval < duration(minGPUInterval) {
		d.errorf("gpu.interval", "is %s; nvidia-smi may be asked every %s at most", c.GPU.Interval, minGPUInterval)
	}
	d.globs("logs.paths", c.Logs.Paths, true)
	d.globs("logs.exclude", c.Logs.Exclude, false)
	if c.Logs.StateFile != "" {
		d.paths("logs.state_file", c.Logs.StateFile)
	}
	d.backup(c.Backup)
	d.paths("operations.state_dir", c.Operations.StateDir)
	if c.Notify.Alertmanager != "" {
		d.url("notify.alertmanager", c.Notify.Alertmanager)
	}
	d.smtp("notify.smtp", &c.Notify.SMTP)
	for _, name := range slices.Sorted(maps.Keys(c.Modules)) {
		m := c.Modules[name]
		key := "modules." + name
		d.services(key+".services.", &m.Services)
		if mc, _ := c.ModuleConfig(name); !slices.ContainsFunc(Sections, func(i Info) bool { return mc.Enabled(i.Name) }) {
			d.errorf(key+".services", "name at least one service, such as engine: {}")
		}
		const own = "is on the exporter's own machine and no target; "
		if m.Services.Docker.named && strings.HasPrefix(m.Services.Docker.Host, "unix:") {
			d.errorf(key+".services.docker.host", own+"write tcp://HOST:PORT")
		}
		if strings.HasPrefix(m.Services.Redis.Address, "/") {
			d.errorf(key+".services.redis.address", own+"write HOST:PORT")
		}
		if strings.HasPrefix(m.Services.PostgreSQL.Host, "/") {
			d.errorf(key+".services.postgresql.host", own+"write a host name")
		}
		if len(m.Services.Pipeline.Files) > 0 {
			d.errorf(key+".services.pipeline.files", own+"keep urls")
		}
		if len(m.Allow) == 0 {
			d.errorf(key+".allow", "name at least one anchored regular expression that targets must match, such as %q", `stack-\d+\.example\.com`)
		}
		for i, re := range m.Allow {
			if _, err := CompileAllow(re); err != nil {
				d.errorf(key+".allow["+strconv.Itoa(i)+"]", "%v", err)
			}
		}
	}
	d.incident()
	d.maintenance()
	d.fleet()
	return errors.Join(d.errs...)
}

// sourceName is a directory's name within an archive.
var sourceName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]*$`)

var weekdays = []string{"", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"}

func (d *decoder) backup(b Backup) {
	d.paths("backup.directory", b.Directory)
	d.positive("backup.max_age", b.MaxAge)
	for _, k := range slices.Sorted(maps.Keys(b.Retention)) {
		if !slices.Contains(retentionClasses, k) {
			d.errorf("backup.retention."+k, "unknown class; valid here: %s", strings.Join(retentionClasses, ", "))
		} else if b.Retention[k] < 0 {
			d.errorf("backup.retention."+k, "must not be negative")
		}
	}
	for _, name := range slices.Sorted(maps.Keys(b.Sources)) {
		d.paths("backup.sources."+name, b.Sources[name])
		if !sourceName.MatchString(name) {
			d.errorf("backup.sources", "%q cannot be a directory's name in an archive; write letters, digits, dots, underscores and hyphens", name)
		}
	}
	if len(b.Copy) > 0 && !filepath.IsAbs(b.Copy[0]) && strings.ContainsAny(b.Copy[0], "/ ") {
		d.errorf("backup.copy", "%q is no program: write its name or absolute path, and each argument as an element of its own", b.Copy[0])
	}
	switch container, ok := strings.CutPrefix(b.PGDump, "container:"); {
	case ok && (container == "" || strings.HasPrefix(container, "-")):
		d.errorf("backup.pg_dump", "write container:NAME")
	case b.PGDump == "", !ok && !filepath.IsAbs(b.PGDump) && strings.Contains(b.PGDump, "/"):
		d.errorf("backup.pg_dump", "%q: write pg_dump, its absolute path, or container:NAME", b.PGDump)
	}
	if b.QdrantProgram == "" || !filepath.IsAbs(b.QdrantProgram) && strings.Contains(b.QdrantProgram, "/") {
		d.errorf("backup.qdrant_program", "%q: write qdrant or its absolute path", b.QdrantProgram)
	}
	for i, name := range b.Databases {
		if name == "" || strings.ContainsAny(name, "/\x00") {
			d.errorf("backup.databases["+strconv.Itoa(i)+"]", "%q cannot be backed up under this name", name)
		}
	}
	for _, f := range []struct{ key, path string }{{"recipients_file", b.RecipientsFile}, {"identity_file", b.IdentityFile}} {
		if f.path != "" {
			d.paths("backup."+f.key, f.path)
		}
	}
	for i, r := range b.Recipients {
		if !strings.HasPrefix(r, "age1") {
			d.errorf("backup.recipients["+strconv.Itoa(i)+"]", "is no age recipient; write the public key, which begins with age1")
		}
	}
	if !slices.Contains(weekdays, strings.ToLower(b.Schedule.Full)) {
		d.errorf("backup.schedule.full", "%q is no day of the week", b.Schedule.Full)
	}
	if b.Schedule.Archive < 0 || b.Schedule.Archive > 28 {
		d.errorf("backup.schedule.archive", "%d is not a day that every month has; write 1 to 28", b.Schedule.Archive)
	}
}

// CompileAllow compiles one expression of an allow-list. It always matches the
// whole target.
func CompileAllow(expr string) (*regexp.Regexp, error) {
	return regexp.Compile("^(?:" + expr + ")$")
}

func (d *decoder) services(prefix string, s *Services) {
	for _, e := range []struct {
		name string
		http *HTTP
	}{
		{"engine", &s.Engine.HTTP}, {"ollama", &s.Ollama.HTTP}, {"vllm", &s.VLLM.HTTP}, {"qdrant", &s.Qdrant.HTTP},
		{"prometheus", &s.Prometheus.HTTP}, {"grafana", &s.Grafana.HTTP}, {"alertmanager", &s.Alertmanager.HTTP}, {"loki", &s.Loki.HTTP},
	} {
		key := prefix + e.name
		d.url(key+".url", e.http.URL)
		d.auth(key, e.http.Authorization, e.http.BasicAuth)
		d.tls(key, &e.http.TLSConfig)
	}
	for _, p := range []struct{ key, path string }{
		{"health", s.Engine.Paths.Health}, {"metrics", s.Engine.Paths.Metrics}, {"memory", s.Engine.Paths.Memory},
		{"state", s.Engine.Paths.State}, {"brain", s.Engine.Paths.Brain},
	} {
		if p.path != "" && !strings.HasPrefix(p.path, "/") {
			d.errorf(prefix+"engine.paths."+p.key, "%q must start with a slash", p.path)
		}
	}
	d.canary(prefix+"engine.canary", s.Engine.Canary)
	d.canary(prefix+"ollama.canary", s.Ollama.Canary)
	for i, m := range s.Ollama.RequiredModels {
		if strings.TrimSpace(m) == "" {
			d.errorf(prefix+"ollama.required_models["+strconv.Itoa(i)+"]", "a model's name is missing")
		}
	}

	d.auth(prefix+"pipeline", s.Pipeline.Authorization, s.Pipeline.BasicAuth)
	d.tls(prefix+"pipeline", &s.Pipeline.TLSConfig)
	for i, u := range s.Pipeline.URLs {
		d.url(prefix+"pipeline.urls["+strconv.Itoa(i)+"]", u)
	}
	d.globs(prefix+"pipeline.files", s.Pipeline.Files, true)
	if s.Pipeline.named && len(s.Pipeline.URLs)+len(s.Pipeline.Files) == 0 {
		d.errorf(prefix+"pipeline", "name at least one of urls and files")
	}

	p := &s.PostgreSQL
	key := prefix + "postgresql"
	if p.Host == "" {
		d.errorf(key+".host", "is empty; write a host name, an address or a socket's directory")
	}
	if p.Port < 1 || p.Port > 65535 {
		d.errorf(key+".port", "%d is no port; write 1 to 65535", p.Port)
	}
	if p.User == "" {
		d.errorf(key+".user", "is empty; write the monitoring role's name")
	}
	if p.Database == "" {
		d.errorf(key+".database", "is empty; write the database's name")
	}
	if !slices.Contains(sslModes, p.SSLMode) {
		d.errorf(key+".sslmode", "%q is unknown; valid here: %s", p.SSLMode, strings.Join(sslModes, ", "))
	}
	d.positive(key+".login_interval", p.LoginInterval)
	d.tls(key, &p.TLSConfig)

	key = prefix + "redis"
	if !strings.HasPrefix(s.Redis.Address, "/") {
		d.hostPort(key+".address", s.Redis.Address)
	}
	if s.Redis.TLSConfig != nil {
		d.tls(key, s.Redis.TLSConfig)
	}
	for _, name := range slices.Sorted(maps.Keys(s.Qdrant.Collections)) {
		if n := s.Qdrant.Collections[name].VectorSize; n < 0 {
			d.errorf(prefix+"qdrant.collections."+name+".vector_size", "must not be negative")
		}
	}
	if u, err := url.Parse(s.Docker.Host); err != nil || !slices.Contains([]string{"unix", "tcp", "http", "https"}, u.Scheme) {
		d.errorf(prefix+"docker.host", "%q: write unix:///PATH, tcp://HOST:PORT or https://HOST:PORT", s.Docker.Host)
	}
	d.tls(prefix+"docker", &s.Docker.TLSConfig)
}

func (d *decoder) url(key, raw string) {
	u, err := url.Parse(raw)
	switch {
	case err != nil:
		d.errorf(key, "not a URL: write http://HOST:PORT") // the parser's error repeats the text, credentials and all
	case u.Scheme != "http" && u.Scheme != "https":
		d.errorf(key, "must start with http:// or https://")
	case u.User != nil:
		d.errorf(key, "must not hold a user or password: write basic_auth: {username: …, password_file: FILE}")
	case u.Hostname() == "":
		d.errorf(key, "has no host: write http://HOST:PORT")
	case u.RawQuery != "" || u.Fragment != "":
		d.errorf(key, "must not have a query or fragment")
	}
}

func (d *decoder) hostPort(key, addr string) {
	host, port, err := net.SplitHostPort(addr)
	n, perr := strconv.Atoi(port)
	if err != nil || host == "" || perr != nil || n < 1 || n > 65535 {
		d.errorf(key, "%q: write HOST:PORT", addr)
	}
}

func (d *decoder) auth(key string, a *Authorization, b *BasicAuth) {
	if a != nil && b != nil {
		d.errorf(key+".basic_auth", "authorization and basic_auth exclude each other; keep one")
	}
	if a != nil && a.CredentialsFile == "" {
		d.errorf(key+".authorization", "write credentials_file: FILE")
	}
	if a != nil && strings.EqualFold(strings.TrimSpace(a.Type), "basic") {
		d.errorf(key+".authorization.type", "for basic authentication write basic_auth: {username: …, password_file: FILE}")
	}
	if b != nil && b.Username == "" {
		d.errorf(key+".basic_auth.username", "is empty")
	}
}

func (d *decoder) tls(key string, t *TLS) {
	if (t.CertFile == "") != (t.KeyFile == "") {
		d.errorf(key+".tls_config", "cert_file and key_file go together; write both or neither")
	}
}

// smtp checks a mail relay. Nothing needs to be said of one that is not named.
func (d *decoder) smtp(key string, s *SMTP) {
	if s.Smarthost == "" {
		if s.From != "" || len(s.To) > 0 || s.AuthUsername != "" {
			d.errorf(key+".smarthost", "is missing; write the relay's HOST:PORT")
		}
		return
	}
	d.hostPort(key+".smarthost", s.Smarthost)
	d.mailAddress(key+".from", s.From)
	if len(s.To) == 0 {
		d.errorf(key+".to", "is missing; write a list of addresses, such as [oncall@example.com]")
	}
	for i, to := range s.To {
		d.mailAddress(key+".to["+strconv.Itoa(i)+"]", to)
	}
	if (s.AuthUsername == "") != (s.AuthPassword == "") {
		d.errorf(key, "auth_username and auth_password_file go together; write both or neither")
	}
	d.tls(key, &s.TLSConfig)
}

func (d *decoder) mailAddress(key, addr string) {
	if _, err := mail.ParseAddress(addr); err != nil {
		d.errorf(key, "%q is no mail address; write one such as niodoo@example.com", addr)
	}
}

func (d *decoder) canary(key string, c Canary) {
	d.positive(key+".interval", c.Interval)
	d.positive(key+".timeout", c.Timeout)
}

func (d *decoder) positive(key string, v model.Duration) {
	if v <= 0 {
		d.errorf(key, "must be more than 0")
	}
}

func (d *decoder) paths(key string, paths ...string) {
	for _, p := range paths {
		if !filepath.IsAbs(p) {
			d.errorf(key, "%q must be an absolute path", p)
		}
	}
}

func (d *decoder) globs(key string, globs []string, absolute bool) {
	for i, g := range globs {
		k := key + "[" + strconv.Itoa(i) + "]"
		if _, err := filepath.Match(g, ""); err != nil {
			d.errorf(k, "%q is not a glob pattern", g)
		} else if absolute && !filepath.IsAbs(g) {
			d.errorf(k, "%q must be an absolute path", g)
		}
	}
}

func (d *decoder) fleet() {
	c := d.cfg
	seen := map[[2]string]string{}
	for i, g := range c.Fleet {
		key := "fleet[" + strconv.Itoa(i) + "]"
		m, ok := c.Modules[g.Module]
		if !ok {
			d.errorf(key+".module", "%q is not one of the modules; valid here: %s", g.Module,
				strings.Join(slices.Sorted(maps.Keys(c.Modules)), ", "))
		}
		for _, l := range slices.Sorted(maps.Keys(g.Labels)) {
			switch {
			case !model.LegacyValidation.IsValidLabelName(l):
				d.errorf(key+".labels", "%q is not a label name", l)
			case strings.HasPrefix(l, "__"), l == "component":
				d.errorf(key+".labels", "the label %q is taken; choose another name", l)
			}
		}
		for j, t := range g.Targets {
			tkey := key + ".targets[" + strconv.Itoa(j) + "]"
			if other, dup := seen[[2]string{g.Module, t}]; dup {
				d.errorf(tkey, "%q stands in %s already", t, other)
			}
			seen[[2]string{g.Module, t}] = tkey
			if err := ValidTarget(t); err != nil {
				d.errorf(tkey, "%v", err)
			} else if ok && !m.Allows(t) {
				d.errorf(tkey, "%q matches no expression of modules.%s.allow", t, g.Module)
			}
		}
	}
}

// ValidTarget reports what is wrong with a target of /probe: it must be a bare
// host name or IP address, since ports, schemes and paths come from the module.
func ValidTarget(t string) error {
	if t == "" {
		return errors.New("the target is empty; write a host name or an IP address")
	}
	if len(t) > 253 {
		return errors.New("the target is longer than a host name can be (253 bytes)")
	}
	if net.ParseIP(t) != nil {
		return nil
	}
	for _, r := range t {
		letter := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z'
		if !letter && (r < '0' || r > '9') && !strings.ContainsRune("-._", r) {
			return errors.New("write a bare host name or IP address: the port, scheme and path come from the module")
		}
	}
	return nil
}

// Allows reports whether the module may be used for a target.
func (m Module) Allows(target string) bool {
	return slices.ContainsFunc(m.Allow, func(expr string) bool {
		re, err := CompileAllow(expr)
		return err == nil && re.MatchString(target)
	})
}
