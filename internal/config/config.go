// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

// Package config reads the one configuration file that niodoo_exporter and
// niodooctl share: strict YAML, every key optional, validated whole. Secrets
// never stand in the file; it names files that hold them.
package config

import (
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"time"

	promconfig "github.com/prometheus/common/config"
	"github.com/prometheus/common/model"
	"go.yaml.in/yaml/v3"
)

// MaxFileSize bounds the configuration file, in bytes.
const MaxFileSize = 1 << 20

// Config is a whole, validated configuration file.
type Config struct {
	Services `yaml:",inline"`
	Local    `yaml:",inline"`

	Notify      Notify            `yaml:"notify"`
	Incident    Incident          `yaml:"incident"`
	Maintenance Maintenance       `yaml:"maintenance"`
	Modules     map[string]Module `yaml:"modules"`
	Fleet       []FleetGroup      `yaml:"fleet"`

	file, checksum string
}

// Services are the components that are spoken to over the network, one section
// each. A module of the fleet consists of these alone.
type Services struct {
	Engine       Engine       `yaml:"engine"`
	Pipeline     Pipeline     `yaml:"pipeline"`
	PostgreSQL   PostgreSQL   `yaml:"postgresql"`
	Redis        Redis        `yaml:"redis"`
	Ollama       Ollama       `yaml:"ollama"`
	VLLM         VLLM         `yaml:"vllm"`
	Qdrant       Qdrant       `yaml:"qdrant"`
	Prometheus   Prometheus   `yaml:"prometheus"`
	Grafana      Grafana      `yaml:"grafana"`
	Alertmanager Alertmanager `yaml:"alertmanager"`
	Loki         Loki         `yaml:"loki"`
	Docker       Docker       `yaml:"docker"`
}

// Local are the sections about the machine the exporter runs on.
type Local struct {
	Host       Host       `yaml:"host"`
	GPU        GPU        `yaml:"gpu"`
	Logs       Logs       `yaml:"logs"`
	Backup     Backup     `yaml:"backup"`
	Operations Operations `yaml:"operations"`
}

// Section is what every collector's section has.
type Section struct {
	// Enabled overrides whether the collector runs.
	Enabled *bool `yaml:"enabled"`
	// Required overrides whether the component's absence is a fault.
	Required *bool `yaml:"required"`
	// Timeout bounds one run of the collector; 0 is the scrape's own timeout.
	Timeout model.Duration `yaml:"timeout"`

	named bool
}

// Named reports whether the file has the section, be it empty.
func (s Section) Named() bool { return s.named }

// HTTP is what the section of every service spoken to over HTTP has. The
// spellings are those of Prometheus' own scrape configuration.
type HTTP struct {
	Section       `yaml:",inline"`
	URL           string         `yaml:"url"`
	Authorization *Authorization `yaml:"authorization"`
	BasicAuth     *BasicAuth     `yaml:"basic_auth"`
	TLSConfig     TLS            `yaml:"tls_config"`
}

// Authorization sends `Authorization: TYPE CREDENTIALS`.
type Authorization struct {
	Type            string     `yaml:"type"`
	CredentialsFile SecretFile `yaml:"credentials_file"`
}

// BasicAuth sends a user name and a password.
type BasicAuth struct {
	Username     string     `yaml:"username"`
	PasswordFile SecretFile `yaml:"password_file"`
}

// TLS says how a TLS endpoint is verified and which certificate is shown to it.
type TLS struct {
	CAFile             string `yaml:"ca_file"`
	CertFile           string `yaml:"cert_file"`
	KeyFile            string `yaml:"key_file"`
	ServerName         string `yaml:"server_name"`
	InsecureSkipVerify bool   `yaml:"insecure_skip_verify"`
}

// Prometheus returns the section as Prometheus' libraries have it.
func (t TLS) Prometheus() promconfig.TLSConfig {
	return promconfig.TLSConfig{CAFile: t.CAFile, CertFile: t.CertFile, KeyFile: t.KeyFile, ServerName: t.ServerName,
		InsecureSkipVerify: t.InsecureSkipVerify, MinVersion: promconfig.TLSVersion(tls.VersionTLS12)}
}

// Client reads the section's files and returns what a client shakes hands with.
func (t TLS) Client() (*tls.Config, error) {
	p := t.Prometheus()
	c, err := promconfig.NewTLSConfig(&p)
	if err != nil {
		return nil, fmt.Errorf("tls_config: %w", err)
	}
	return c, nil
}

// Canary is an opt-in test generation, made at its own pace.
type Canary struct {
	Enabled  bool           `yaml:"enabled"`
	Interval model.Duration `yaml:"interval"`
	Timeout  model.Duration `yaml:"timeout"`
	// Model is the model to ask (Ollama); "" is the loaded one that expires last.
	Model string `yaml:"model"`
}

// Engine is the consciousness engine.
type Engine struct {
	HTTP   `yaml:",inline"`
	Paths  EnginePaths `yaml:"paths"`
	Canary Canary      `yaml:"canary"`
}

// EnginePaths name the engine's endpoints; "" tries the documented ones.
type EnginePaths struct {
	Health  string `yaml:"health"`
	Metrics string `yaml:"metrics"`
	Memory  string `yaml:"memory"`
	State   string `yaml:"state"`
	Brain   string `yaml:"brain"`
}

// Pipeline is the live pipeline: its metrics endpoints and the .prom files it writes.
type Pipeline struct {
	Section       `yaml:",inline"`
	URLs          []string       `yaml:"urls"`
	Files         []string       `yaml:"files"`
	Authorization *Authorization `yaml:"authorization"`
	BasicAuth     *BasicAuth     `yaml:"basic_auth"`
	TLSConfig     TLS            `yaml:"tls_config"`
}

// PostgreSQL is the memory system's database.
type PostgreSQL struct {
	Section       `yaml:",inline"`
	Host          string         `yaml:"host"`
	Port          int            `yaml:"port"`
	User          string         `yaml:"user"`
	Database      string         `yaml:"database"`
	PasswordFile  SecretFile     `yaml:"password_file"`
	SSLMode       string         `yaml:"sslmode"`
	LoginInterval model.Duration `yaml:"login_interval"`
	TLSConfig     TLS            `yaml:"tls_config"`
}

// Redis is the emotional processing's store.
type Redis struct {
	Section      `yaml:",inline"`
	Address      string     `yaml:"address"`
	Username     string     `yaml:"username"`
	PasswordFile SecretFile `yaml:"password_file"`
	TLSConfig    *TLS       `yaml:"tls_config"`
}

// Ollama is the model server.
type Ollama struct {
	HTTP           `yaml:",inline"`
	RequiredModels []string `yaml:"required_models"`
	Canary         Canary   `yaml:"canary"`
}

// VLLM is the other model server.
type VLLM struct {
	HTTP `yaml:",inline"`
}

// Qdrant is the vector database.
type Qdrant struct {
	HTTP        `yaml:",inline"`
	APIKeyFile  SecretFile                  `yaml:"api_key_file"`
	Collections map[string]QdrantCollection `yaml:"collections"`
}

// QdrantCollection is what is expected of a collection.
type QdrantCollection struct {
	// VectorSize is the number of dimensions the collection must have; 0 is any.
	VectorSize int `yaml:"vector_size"`
}

// Prometheus is the metrics server.
type Prometheus struct {
	HTTP `yaml:",inline"`
}

// Grafana serves the dashboards.
type Grafana struct {
	HTTP `yaml:",inline"`
}

// Alertmanager routes the alerts.
type Alertmanager struct {
	HTTP `yaml:",inline"`
}

// Loki stores the logs.
type Loki struct {
	HTTP `yaml:",inline"`
}

// Docker is the container engine.
type Docker struct {
	Section   `yaml:",inline"`
	Host      string `yaml:"host"`
	TLSConfig TLS    `yaml:"tls_config"`
	// Project limits the containers to one compose project; "" is all.
	Project string `yaml:"project"`
}

// Host is the machine itself, read from /proc and /sys.
type Host struct {
	Section `yaml:",inline"`
	ProcFS  string   `yaml:"procfs"`
	SysFS   string   `yaml:"sysfs"`
	RootFS  string   `yaml:"rootfs"`
	Paths   []string `yaml:"paths"`
	// ConfigFiles are globs of files whose changes are reported.
	ConfigFiles []string `yaml:"config_files"`
}

// GPU are the graphics processors, NVIDIA and AMD.
type GPU struct {
	Section   `yaml:",inline"`
	NVIDIASMI string         `yaml:"nvidia_smi"`
	SysFS     string         `yaml:"sysfs"`
	Interval  model.Duration `yaml:"interval"`
}

// Logs are the files whose lines are counted.
type Logs struct {
	Section   `yaml:",inline"`
	Paths     []string `yaml:"paths"`
	Exclude   []string `yaml:"exclude"`
	StateFile string   `yaml:"state_file"`
}

// Backup is where backups are kept and what they must be.
type Backup struct {
	Section   `yaml:",inline"`
	Directory string            `yaml:"directory"`
	MaxAge    model.Duration    `yaml:"max_age"`
	Sources   map[string]string `yaml:"sources"`
	Retention map[string]int    `yaml:"retention"`
	// Copy is a command and its arguments that takes a backup off the host; in
	// them {archive}, {manifest} and {name} stand for the backup's.
	Copy Command `yaml:"copy"`
	// PGDump is pg_dump's path, or container:NAME for the one in that container.
	PGDump string `yaml:"pg_dump"`
	// QdrantProgram is the path of a Qdrant server's program, for the drill.
	QdrantProgram string `yaml:"qdrant_program"`
	// User and PasswordFile are of the role that may read everything;
	// postgresql.user and its password by default.
	User         string     `yaml:"user"`
	PasswordFile SecretFile `yaml:"password_file"`
	// Databases are dumped; by default postgresql.database.
	Databases []string `yaml:"databases"`
	// Recipients and those in RecipientsFile are the age keys that archives are
	// encrypted to; without any they are not. IdentityFile opens them again.
	Recipients     []string       `yaml:"recipients"`
	RecipientsFile string         `yaml:"recipients_file"`
	IdentityFile   string         `yaml:"identity_file"`
	Schedule       BackupSchedule `yaml:"schedule"`
}

// Command is a program and its arguments. It is not given to a shell. A string
// is split at its spaces.
type Command []string

// UnmarshalYAML implements yaml.Unmarshaler.
func (c *Command) UnmarshalYAML(n *yaml.Node) error {
	if n.Kind != yaml.ScalarNode {
		return n.Decode((*[]string)(c))
	}
	var line string
	if err := n.Decode(&line); err != nil {
		return err
	}
	if strings.ContainsAny(line, "\"'\\$|;&<>") {
		return errors.New("no shell reads it: write a list, the program and each argument as an element")
	}
	*c = strings.Fields(line)
	return nil
}

// BackupSchedule says on which days a backup of a higher class is due, so that
// those of lower ones step aside; "" and 0 say nothing.
type BackupSchedule struct {
	// Full is a day of the week, Archive one of the month.
	Full    string `yaml:"full"`
	Archive int    `yaml:"archive"`
}

// defaultSources are what the manual's script backs up.
var defaultSources = map[string]string{"data": "/opt/niodoo/data", "config": "/opt/niodoo/config", "logs": "/opt/niodoo/logs"}

// Trees returns the directories to back up by name, and whether the file names
// them: those of the manual need not be there.
func (b Backup) Trees() (trees map[string]string, named bool) {
	if len(b.Sources) > 0 {
		return b.Sources, true
	}
	return defaultSources, false
}

// Operations is where niodooctl leaves what it last did.
type Operations struct {
	Section  `yaml:",inline"`
	StateDir string `yaml:"state_dir"`
}

// Notify says where niodooctl sends its own notifications.
type Notify struct {
	Alertmanager string `yaml:"alertmanager"`
	SMTP         SMTP   `yaml:"smtp"`
}

// SMTP is a mail relay. Its keys are those of Alertmanager's configuration
// without the prefix, and mean the same.
type SMTP struct {
	Smarthost    string     `yaml:"smarthost"`
	From         string     `yaml:"from"`
	To           []string   `yaml:"to"`
	AuthUsername string     `yaml:"auth_username"`
	AuthPassword SecretFile `yaml:"auth_password_file"`
	RequireTLS   *bool      `yaml:"require_tls"`
	TLSConfig    TLS        `yaml:"tls_config"`
}

// Incident is niodooctl's incident handling.
type Incident struct {
	// Timeout bounds the collection of evidence: what has not answered by then is left out.
	Timeout model.Duration `yaml:"evidence_timeout"`
	// Repositories are git working trees whose commits count as changes.
	Repositories []string `yaml:"repositories"`
	// Units are systemd units to look at, besides those of Restart.
	Units []string `yaml:"units"`
	// Restart says by component what may be restarted, once, when it fails.
	Restart map[string]RestartTarget `yaml:"restart"`
	// Recovery is how long after a restart the component may take to be up.
	Recovery model.Duration `yaml:"recovery"`
	// Escalation are mail addresses by priority; notify.smtp.to where a
	// priority is missing.
	Escalation map[string][]string `yaml:"escalation"`
	Listen     IncidentListen      `yaml:"listen"`
}

// RestartTarget is a systemd unit or a container; one of them is named.
type RestartTarget struct {
	Unit      string `yaml:"unit"`
	Container string `yaml:"container"`
}

// String names the target for people, and the journal of actions.
func (t RestartTarget) String() string {
	if t.Unit != "" {
		return "unit " + t.Unit
	}
	return "container " + t.Container
}

// IncidentListen is `niodooctl incident listen`.
type IncidentListen struct {
	Address string `yaml:"address"`
	// WebConfigFile is the exporter-toolkit's: TLS, client certificates, passwords.
	WebConfigFile string `yaml:"web_config_file"`
	// TokenFile holds the bearer token that Alertmanager must send.
	TokenFile SecretFile `yaml:"token_file"`
	// MaxOpen bounds the incidents that are open at once.
	MaxOpen int `yaml:"max_open"`
	// Quiet is how long all alerts of an incident must be resolved until it is closed.
	Quiet model.Duration `yaml:"quiet"`
	// Interval is how often the listener gives a sign of life and asks its peers for one.
	Interval model.Duration `yaml:"interval"`
	// Silence is how long the heartbeat may fail to come; 0 is the threshold heartbeat_seconds.
	Silence model.Duration `yaml:"silence"`
	// Peers are other listeners, which this one watches.
	Peers map[string]IncidentPeer `yaml:"peers"`
}

// IncidentPeer is another machine's listener.
type IncidentPeer struct {
	URL           string         `yaml:"url"`
	Authorization *Authorization `yaml:"authorization"`
	BasicAuth     *BasicAuth     `yaml:"basic_auth"`
	TLSConfig     TLS            `yaml:"tls_config"`
}

// Maintenance is niodooctl's maintenance plan.
type Maintenance struct {
	// User is the role that owns the tables and indexes; "" is postgresql.user.
	User         string     `yaml:"user"`
	PasswordFile SecretFile `yaml:"password_file"`
	// Window is when steps that load the stack may run, in local time; "" is always.
	Window Window `yaml:"window"`
	// TimeLimits say by step how long it may take.
	TimeLimits map[string]model.Duration `yaml:"time_limits"`
	// LockTimeout bounds each wait for a lock in PostgreSQL.
	LockTimeout model.Duration `yaml:"lock_timeout"`
	// LongTransaction is how old a transaction may be for an index to be rebuilt
	// beside it.
	LongTransaction model.Duration `yaml:"long_transaction"`
	// Indexes are rebuilt every week; others are if they are clearly bloated.
	Indexes []string `yaml:"indexes"`
	// BloatMinBytes and BloatMaxDensity say which index is: of that size, with
	// leaves that are less full than this ratio.
	BloatMinBytes   int64   `yaml:"bloat_min_bytes"`
	BloatMaxDensity float64 `yaml:"bloat_max_density"`
	// DataDirectory is where the server's data is as seen from here, for the
	// free space; "" is what the server says.
	DataDirectory string `yaml:"data_directory"`
	// LogDirectories are where rotated logs are removed; those of logs.paths
	// without any.
	LogDirectories []string       `yaml:"log_directories"`
	LogRetention   model.Duration `yaml:"log_retention"`
	// IncidentRetention is how long a closed incident's timeline and evidence are kept.
	IncidentRetention model.Duration `yaml:"incident_retention"`
	// ReportDirectory is where reports are written; "" is reports in
	// operations.state_dir.
	ReportDirectory string `yaml:"report_directory"`
}

// Module is a named set of services for /probe.
type Module struct {
	Services Services `yaml:"services"`
	// Allow are anchored regular expressions; a target must match one of them.
	Allow []string `yaml:"allow"`
}

// FleetGroup are targets of /sd that share a module and labels.
type FleetGroup struct {
	Module  string            `yaml:"module"`
	Targets []string          `yaml:"targets"`
	Labels  map[string]string `yaml:"labels"`
}

// Info is what is fixed about a collector's section.
type Info struct {
	Name string
	// Local sections are about this machine: they have no component_up.
	Local bool
	// Default collectors run without being named in the file.
	Default bool
	// OnlyNamed components are required only when the file names them.
	OnlyNamed bool

	section func(*Config) (*Section, any)
}

// Sections lists every collector's section in the order of the contract. The
// names are the collectors' names and the values of the label component.
var Sections = []Info{
	{Name: "engine", Default: true, section: func(c *Config) (*Section, any) { return &c.Engine.Section, &c.Engine }},
	{Name: "pipeline", OnlyNamed: true, section: func(c *Config) (*Section, any) { return &c.Pipeline.Section, &c.Pipeline }},
	{Name: "postgresql", Default: true, section: func(c *Config) (*Section, any) { return &c.PostgreSQL.Section, &c.PostgreSQL }},
	{Name: "redis", Default: true, section: func(c *Config) (*Section, any) { return &c.Redis.Section, &c.Redis }},
	{Name: "ollama", Default: true, section: func(c *Config) (*Section, any) { return &c.Ollama.Section, &c.Ollama }},
	{Name: "vllm", OnlyNamed: true, section: func(c *Config) (*Section, any) { return &c.VLLM.Section, &c.VLLM }},
	{Name: "qdrant", Default: true, OnlyNamed: true, section: func(c *Config) (*Section, any) { return &c.Qdrant.Section, &c.Qdrant }},
	{Name: "prometheus", Default: true, section: func(c *Config) (*Section, any) { return &c.Prometheus.Section, &c.Prometheus }},
	{Name: "grafana", Default: true, section: func(c *Config) (*Section, any) { return &c.Grafana.Section, &c.Grafana }},
	{Name: "alertmanager", OnlyNamed: true, section: func(c *Config) (*Section, any) { return &c.Alertmanager.Section, &c.Alertmanager }},
	{Name: "loki", OnlyNamed: true, section: func(c *Config) (*Section, any) { return &c.Loki.Section, &c.Loki }},
	{Name: "docker", OnlyNamed: true, section: func(c *Config) (*Section, any) { return &c.Docker.Section, &c.Docker }},
	{Name: "host", Local: true, Default: true, section: func(c *Config) (*Section, any) { return &c.Host.Section, &c.Host }},
	{Name: "gpu", Local: true, section: func(c *Config) (*Section, any) { return &c.GPU.Section, &c.GPU }},
	{Name: "logs", Local: true, Default: true, section: func(c *Config) (*Section, any) { return &c.Logs.Section, &c.Logs }},
	{Name: "backup", Local: true, Default: true, section: func(c *Config) (*Section, any) { return &c.Backup.Section, &c.Backup }},
	{Name: "operations", Local: true, Default: true, section: func(c *Config) (*Section, any) { return &c.Operations.Section, &c.Operations }},
}

// Section returns what the named section has in common with the others. It
// panics on a name that is not in [Sections]: names are fixed at compile time.
func (c *Config) Section(name string) *Section {
	s, _ := info(name).section(c)
	return s
}

// SameSection reports whether two configurations say the same about a
// collector, so that its instance can live on.
func (c *Config) SameSection(other *Config, name string) bool {
	i := info(name)
	_, a := i.section(c)
	_, b := i.section(other)
	return reflect.DeepEqual(a, b)
}

// Enabled reports whether the collector runs: what the section says, else
// whether the file names it or it is one of the defaults.
func (c *Config) Enabled(name string) bool {
	i := info(name)
	s, _ := i.section(c)
	if s.Enabled != nil {
		return *s.Enabled
	}
	return i.Default || s.named
}

// Required reports whether the component's absence is a fault.
func (c *Config) Required(name string) bool {
	i := info(name)
	s, _ := i.section(c)
	if s.Required != nil {
		return *s.Required
	}
	return !i.OnlyNamed || s.named
}

// Checksum is the beginning of the SHA-256 of the file, in 16 hex digits, ""
// for none.
func (c *Config) Checksum() string { return c.checksum }

// File is the path the configuration was read from, "" for none.
func (c *Config) File() string { return c.file }

// ModuleConfig returns a module as a configuration of its own: the services it
// names and nothing else.
func (c *Config) ModuleConfig(name string) (*Config, bool) {
	m, ok := c.Modules[name]
	if !ok {
		return nil, false
	}
	mc := &Config{Services: m.Services, file: c.file}
	no := false
	for _, i := range Sections {
		if s, _ := i.section(mc); !s.named {
			s.Enabled = &no
		}
	}
	return mc, true
}

// ForTarget returns a module's configuration with target in the place of the
// host in every address. Ports and paths stay the module's.
func (c *Config) ForTarget(module, target string) (*Config, error) {
	mc, ok := c.ModuleConfig(module)
	if !ok {
		return nil, fmt.Errorf("there is no module %q", module)
	}
	var errs []error
	inURL := func(raw string) string {
		u, err := url.Parse(raw)
		if err != nil {
			errs = append(errs, err)
			return raw
		}
		u.Host = hostPort(target, u.Port())
		return u.String()
	}
	s := &mc.Services
	for _, u := range []*string{&s.Engine.URL, &s.Ollama.URL, &s.VLLM.URL, &s.Qdrant.URL, &s.Prometheus.URL,
		&s.Grafana.URL, &s.Alertmanager.URL, &s.Loki.URL, &s.Docker.Host} {
		*u = inURL(*u)
	}
	s.Pipeline.URLs = slices.Clone(s.Pipeline.URLs)
	for i, u := range s.Pipeline.URLs {
		s.Pipeline.URLs[i] = inURL(u)
	}
	s.PostgreSQL.Host = target
	if _, port, err := net.SplitHostPort(s.Redis.Address); err == nil {
		s.Redis.Address = hostPort(target, port)
	}
	return mc, errors.Join(errs...)
}

// DescribeModule returns a module as YAML, for people: the services it names
// and its allow-list. There are no secrets in it, only the names of files.
func (c *Config) DescribeModule(name string) string {
	m := c.Modules[name]
	mc, _ := c.ModuleConfig(name)
	services := map[string]any{}
	for _, i := range Sections {
		if s, whole := i.section(mc); s.named {
			services[i.Name] = whole
		}
	}
	out, err := yaml.Marshal(map[string]any{"services": services, "allow": m.Allow})
	if err != nil {
		return err.Error()
	}
	return string(out)
}

// CheckTLSFiles tries the certificates and keys that the configuration names.
func (c *Config) CheckTLSFiles() error {
	var errs []error
	walkValues(reflect.ValueOf(c).Elem(), func(v reflect.Value) {
		t, ok := reflect.TypeAssert[TLS](v)
		if !ok {
			return
		}
		_, err := t.Client()
		errs = append(errs, err)
	})
	return errors.Join(errs...)
}

// hostPort joins a host, in brackets if it is an IPv6 address, and a port, if any.
func hostPort(host, port string) string {
	if port != "" {
		return net.JoinHostPort(host, port)
	}
	if strings.Contains(host, ":") {
		return "[" + host + "]"
	}
	return host
}

func info(name string) Info {
	for _, i := range Sections {
		if i.Name == name {
			return i
		}
	}
	panic("config: no section " + name)
}

// Default returns the configuration of an empty file: the manual's ports on localhost.
func Default() *Config {
	return &Config{
		Services: defaultServices(),
		Local: Local{
			Host: Host{ProcFS: "/proc", SysFS: "/sys", RootFS: "/", Paths: []string{"/opt/niodoo"},
				ConfigFiles: []string{"/opt/niodoo/config/*"}},
			GPU: GPU{NVIDIASMI: "nvidia-smi", SysFS: "/sys", Interval: duration(15 * time.Second)},
			Logs: Logs{Paths: []string{"/opt/niodoo/logs/*.log"},
				Exclude: []string{"health_monitor.log", "incident_*.log"}},
			Backup:     Backup{Directory: "/opt/niodoo/backups", MaxAge: duration(26 * time.Hour), PGDump: "pg_dump", QdrantProgram: "qdrant"},
			Operations: Operations{StateDir: "/var/lib/niodoo"},
		},
		Incident: Incident{Timeout: duration(30 * time.Second), Recovery: duration(time.Minute),
			Listen: IncidentListen{Address: "localhost:10647", MaxOpen: 500, Quiet: duration(5 * time.Minute), Interval: duration(15 * time.Second)}},
		Maintenance: Maintenance{LockTimeout: duration(5 * time.Second), LongTransaction: duration(5 * time.Minute),
			BloatMinBytes: 100 << 20, BloatMaxDensity: 0.5, LogRetention: duration(30 * 24 * time.Hour), IncidentRetention: duration(365 * 24 * time.Hour)},
	}
}

func defaultServices() Services {
	canary := Canary{Interval: duration(5 * time.Minute), Timeout: duration(time.Minute)}
	return Services{
		Engine:   Engine{HTTP: HTTP{URL: "http://localhost:8080"}, Canary: canary},
		Pipeline: Pipeline{URLs: []string{"http://localhost:9095/metrics"}},
		PostgreSQL: PostgreSQL{Host: "localhost", Port: 5432, User: "niodoo_monitor", Database: "niodoo",
			SSLMode: "prefer", LoginInterval: duration(30 * time.Second)},
		Redis:        Redis{Address: "localhost:6379"},
		Ollama:       Ollama{HTTP: HTTP{URL: "http://localhost:11434"}, RequiredModels: []string{"mistral"}, Canary: canary},
		VLLM:         VLLM{HTTP: HTTP{URL: "http://localhost:8000"}},
		Qdrant:       Qdrant{HTTP: HTTP{URL: "http://localhost:6333"}},
		Prometheus:   Prometheus{HTTP: HTTP{URL: "http://localhost:9090"}},
		Grafana:      Grafana{HTTP: HTTP{URL: "http://localhost:3000"}},
		Alertmanager: Alertmanager{HTTP: HTTP{URL: "http://localhost:9093"}},
		Loki:         Loki{HTTP: HTTP{URL: "http://localhost:3100"}},
		Docker:       Docker{Host: "unix:///var/run/docker.sock"},
	}
}

func duration(d time.Duration) model.Duration { return model.Duration(d) }

// Load reads and validates the configuration at path. An empty path is the
// default configuration. The error names the file, the line, the key and what
// would be valid, one problem a line.
func Load(path string) (*Config, error) {
	if path == "" {
		return Default(), nil
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("reading the configuration: %w", err)
	}
	defer f.Close()
	raw, err := readLimited(f, MaxFileSize)
	if err != nil {
		return nil, fmt.Errorf("reading the configuration %s: %w", path, err)
	}
	return Parse(path, raw)
}

// Parse is Load for content that is at hand; file is what errors call it.
func Parse(file string, raw []byte) (*Config, error) {
	d, err := decode(file, raw)
	if err != nil {
		return nil, err
	}
	d.cfg.file = file
	sum := sha256.Sum256(raw)
	d.cfg.checksum = hex.EncodeToString(sum[:8])
	if err := d.validate(); err != nil {
		return nil, err
	}
	d.cfg.resolvePaths(filepath.Dir(file))
	return d.cfg, nil
}

// SecretFiles returns every file that the configuration names as the holder of
// a secret, sorted, so that --config.check can try them.
func (c *Config) SecretFiles() []string {
	found := map[string]bool{}
	walkValues(reflect.ValueOf(c).Elem(), func(v reflect.Value) {
		if s, ok := reflect.TypeAssert[SecretFile](v); ok && s != "" {
			found[string(s)] = true
		}
	})
	return slices.Sorted(maps.Keys(found))
}

// resolvePaths makes file names in the configuration relative to its own
// directory, as Prometheus does, and not to wherever the process was started.
func (c *Config) resolvePaths(dir string) {
	join := func(s string) string {
		if s == "" || filepath.IsAbs(s) {
			return s
		}
		return filepath.Join(dir, s)
	}
	walkValues(reflect.ValueOf(c).Elem(), func(v reflect.Value) {
		switch x := v.Addr().Interface().(type) {
		case *SecretFile:
			*x = SecretFile(join(string(*x)))
		case *TLS:
			x.CAFile, x.CertFile, x.KeyFile = join(x.CAFile), join(x.CertFile), join(x.KeyFile)
		}
	})
}

// walkValues calls f for every addressable struct and string below v. Values
// of maps are copied, shown and put back.
func walkValues(v reflect.Value, f func(reflect.Value)) {
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			walkValues(v.Elem(), f)
		}
	case reflect.Struct:
		f(v)
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				walkValues(v.Field(i), f)
			}
		}
	case reflect.Slice:
		for i := range v.Len() {
			walkValues(v.Index(i), f)
		}
	case reflect.Map:
		for _, k := range v.MapKeys() {
			e := reflect.New(v.Type().Elem()).Elem()
			e.Set(v.MapIndex(k))
			walkValues(e, f)
			v.SetMapIndex(k, e)
		}
	case reflect.String:
		f(v)
	}
}

// Names returns the names of all collectors in the order of the contract.
func Names() []string {
	names := make([]string, len(Sections))
	for i, s := range Sections {
		names[i] = s.Name
	}
	return names
}

// String never shows more than the file's name: a configuration that ends up
// in a log by accident says nothing.
func (c *Config) String() string { return "config(" + strings.TrimSpace(c.file) + ")" }
