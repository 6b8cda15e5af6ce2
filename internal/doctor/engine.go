// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2/unstable"
)

// engineKeys are the keys that the deployment and performance guides document,
// by table.
var engineKeys = map[string][]string{
	"consciousness": {"timeout_seconds", "max_parallel_streams", "enable_circuit_breaker", "memory_limit_mb", "circuit_breaker_threshold", "circuit_breaker_timeout",
		"enable_parallel_processing", "processing_batch_size", "emotional_processing_timeout_ms"},
	"memory": {"max_persistent_memories", "persistence_path", "enable_compression", "backup_interval_hours", "compression_level", "layer_0_size", "layer_1_size",
		"layer_2_size", "layer_3_size", "layer_4_size", "layer_5_size", "consolidation_threshold", "consolidation_batch_size", "consolidation_interval_seconds",
		"retrieval_cache_size", "retrieval_timeout_ms", "enable_parallel_retrieval", "max_retrieval_threads"},
	"toroidal":     {"major_radius", "minor_radius", "activation_radius", "stability_target"},
	"network":      {"websocket_port", "heartbeat_interval", "max_reconnect_attempts", "enable_ssl", "ssl_cert_path", "ssl_key_path"},
	"performance":  {"enable_gpu", "thread_pool_size", "cache_size_mb", "enable_profiling", "optimize_memory_layout", "enable_vectorization"},
	"logging":      {"level", "file", "max_size_mb", "max_backups", "enable_structured_logging", "enable_json_format"},
	"monitoring":   {"enable_metrics", "metrics_port", "enable_health_checks", "health_check_interval"},
	"security":     {"enable_auth", "jwt_secret", "rate_limit_requests_per_minute", "enable_cors", "allowed_origins"},
	"log_rotation": {"enable_rotation", "rotation_size_mb", "max_rotated_files", "compression_enabled"},
}

// homes returns the tables that a key belongs to.
func homes(key string) []string {
	var tables []string
	for _, t := range slices.Sorted(maps.Keys(engineKeys)) {
		if slices.Contains(engineKeys[t], key) {
			tables = append(tables, "["+t+"]")
		}
	}
	return tables
}

// entry is a key of a TOML file.
type entry struct {
	table, key string
	value      string // a string's content, or the value as it is written
	line       int
}

// engineCheck looks into the engine's configuration files.
func engineCheck(_ context.Context, p *patient) ([]Finding, error) {
	return eachFile(p.EngineFiles, func(path string, raw []byte) []Finding {
		entries, twice, err := readTOML(raw)
		var found []Finding
		if err != nil {
			found = append(found, Finding{Level: Failing, Where: path, What: err.Error(), Why: "The engine cannot read the file, or takes another value than was meant.", Mend: "Mend the line."})
		}
		for _, t := range twice {
			found = append(found, Finding{Level: Failing, Where: at(path, t.line), What: "the table [" + t.table + "] is there twice", Why: "TOML does not allow it: the engine does not start.", Mend: "Move the keys together."})
		}
		first := map[string]int{}
		for _, e := range entries {
			name := e.table + "." + e.key
			if line := first[name]; line > 0 {
				found = append(found, Finding{Level: Failing, Where: at(path, e.line), What: fmt.Sprintf("%s is there twice in [%s], first in line %d", e.key, e.table, line),
					Why: "TOML does not allow it: the engine does not start.", Mend: "Keep the one that is meant."})
				continue
			}
			first[name] = e.line
			if secretKey.MatchString(e.key) && readable(path) {
				found = append(found, Finding{Level: Warning, Where: path, What: "every user of the machine may read it, and it holds " + e.key, Why: "With it anyone can sign in.",
					Mend: "chmod o-r " + path})
			}
			found = append(found, misplaced(path, e)...)
			for _, c := range engineValues {
				if c.table == e.table && c.key == e.key && c.bad(p, e.value) {
					found = append(found, Finding{Level: c.level, Where: at(path, e.line), What: c.what(e), Why: c.why, Mend: c.mend})
				}
			}
			if secretKey.MatchString(e.key) && isDefaultSecret(e.value) {
				found = append(found, Finding{Level: Failing, Where: at(path, e.line), What: e.key + " is a value from the documentation", Why: "Whoever has read it can sign in.",
					Mend: "Write a secret of your own: openssl rand -hex 32."})
			}
		}
		return found
	})
}

// misplaced reports a key that stands where it has no meaning: appended with >>,
// it has landed in the file's last table.
func misplaced(path string, e entry) []Finding {
	known, isTable := engineKeys[e.table]
	if slices.Contains(known, e.key) {
		return nil
	}
	where := homes(e.key)
	switch {
	case len(where) > 0:
		in := "[" + e.table + "]"
		if e.table == "" {
			in = "no table"
		}
		return []Finding{{Level: Warning, Where: at(path, e.line), What: e.key + " stands in " + in + " and belongs to " + strings.Join(where, " or "),
			Why: "The engine does not see it: the default is in force.", Mend: "Move the line; appending with >> puts it into the file's last table."}}
	case isTable:
		return []Finding{{Level: Note, Where: at(path, e.line), What: "no guide knows " + e.key + " in [" + e.table + "]", Why: "A misspelt key leaves the default in force.", Mend: "Compare with the deployment guide."}}
	}
	return nil
}

// engineValues are values that a running stack should not have.
var engineValues = []struct {
	table, key string
	level      Level
	bad        func(p *patient, v string) bool
	what       func(e entry) string
	why, mend  string
}{
	{"security", "enable_auth", Failing, is("false"), says("anyone may use the engine's API"), "It writes to the memory system.", "enable_auth = true, and give the exporter a token: engine: {authorization: {credentials_file: ...}}."},
	{"security", "jwt_secret", Warning, func(_ *patient, v string) bool { return len(v) < 32 && !isDefaultSecret(v) }, says("it has fewer than 32 characters"), "HMAC keys shorter than their hash can be guessed.", "openssl rand -hex 32"},
	{"security", "allowed_origins", Warning, func(_ *patient, v string) bool { return strings.Contains(v, "*") }, says("any web page may call the engine"), "A browser that can reach it does so for whatever page it shows.", "Name the origins."},
	{"monitoring", "enable_metrics", Failing, is("false"), says("the engine tells nothing of itself"), "Every KPI is absent, and no alert on one can fire.", "enable_metrics = true"},
	{"monitoring", "enable_health_checks", Warning, is("false"), says("the engine does not check its parts"), "That it answers does not mean that it is well.", "enable_health_checks = true"},
	{"monitoring", "metrics_port", Note, is("9090"), says("the engine's metrics have the port of Prometheus"), "Published on the host, one of the two does not start.", "Keep it inside the compose network, or take another port."},
	{"network", "enable_ssl", Note, func(p *patient, v string) bool {
		return v == "true" && strings.HasPrefix(p.Config.Engine.URL, "http://")
	}, says("the engine speaks TLS, and engine.url is http://"), "The exporter and every script of the manual ask in plain text.", "engine: {url: https://...}, or enable_ssl = false behind a proxy."},
	{"logging", "file", Warning, notWatched, says("logs.paths does not match it"), "Errors in the engine's log are counted by nobody.", "Add it to logs: {paths: [...]}."},
	{"memory", "enable_compression", Note, is("false"), says("memories are stored as they are"), "The disk fills sooner.", "enable_compression = true"},
	{"memory", "backup_interval_hours", Note, func(p *patient, v string) bool {
		h, err := strconv.ParseFloat(v, 64)
		return err == nil && time.Duration(h*float64(time.Hour)) > time.Duration(p.Config.Backup.MaxAge)
	}, says("it is longer than backup.max_age"), "The alert for an old backup fires although all goes as it was set.", "A larger backup.max_age, or backups more often."},
	{"toroidal", "stability_target", Note, func(p *patient, v string) bool {
		f, err := strconv.ParseFloat(v, 64)
		t := p.Thresholds["memory_stability_ratio"].Target
		return err == nil && t != nil && f != *t
	}, says("it is not the target of thresholds.json"), "Alerts, dashboards and niodooctl aim at another value than the engine.", "Edit a copy of thresholds.json, generate the rules from it, and name it with --thresholds.file."},
	{"logging", "level", Note, func(_ *patient, v string) bool { return v == "trace" || v == "debug" }, says("the engine logs at that level"), "The disk fills with it, and errors drown.", "level = \"info\""},
	{"consciousness", "enable_circuit_breaker", Warning, is("false"), says("the engine has no circuit breaker"), "A slow dependency stops it whole.", "enable_circuit_breaker = true"},
}

func is(want string) func(*patient, string) bool {
	return func(_ *patient, v string) bool { return v == want }
}

func says(text string) func(entry) string {
	return func(e entry) string {
		if secretKey.MatchString(e.key) {
			return e.key + ": " + text
		}
		return e.key + " = " + e.value + ": " + text
	}
}

func notWatched(p *patient, file string) bool {
	return p.Config.Enabled("logs") && !slices.ContainsFunc(p.Config.Logs.Paths, func(glob string) bool {
		ok, _ := filepath.Match(glob, file)
		return ok
	})
}

// secretKey matches the names of keys that hold a secret.
var secretKey = regexp.MustCompile(`(?i)(secret|password|passwd|token|api_?key)s?$`)

// defaultSecrets are values that documentation shows.
var defaultSecrets = []string{"your-secret-key-change-in-production", "niodoo123", "niodoo", "admin", "password", "changeme", "change-me", "change_me", "secret",
	"postgres", "redis", "your_secure_password", "your-secure-password", "your_password", "your-password", "your_jwt_secret", "test", "123456"}

func isDefaultSecret(v string) bool {
	v = strings.ToLower(strings.TrimSpace(v))
	return slices.Contains(defaultSecrets, v) || strings.Contains(v, "change-in-production") || strings.Contains(v, "change_in_production")
}

// readTOML returns the keys of a file, and the tables that are there twice. Up to
// an error, what was read is returned with it.
func readTOML(raw []byte) (entries, twice []entry, err error) {
	var p unstable.Parser
	p.Reset(raw)
	table := ""
	tables := map[string]bool{}
	for p.NextExpression() {
		n := p.Expression()
		switch n.Kind {
		case unstable.Table, unstable.ArrayTable:
			var line int
			table, line = dotted(&p, n)
			if n.Kind == unstable.Table && tables[table] {
				twice = append(twice, entry{table: table, line: line})
			}
			tables[table] = true
		case unstable.KeyValue:
			key, line := dotted(&p, n)
			e := entry{table: table, key: key, line: line}
			// A dotted key names its table.
			if i := strings.LastIndexByte(key, '.'); i >= 0 {
				e.table, e.key = strings.TrimPrefix(table+"."+key[:i], "."), key[i+1:]
			}
			e.value = text(n.Value())
			entries = append(entries, e)
		}
	}
	if err := p.Error(); err != nil {
		if pe, ok := errors.AsType[*unstable.ParserError](err); ok {
			line := p.Shape(p.Range(pe.Highlight)).Start.Line
			return entries, twice, fmt.Errorf("line %d is no TOML: %s", line, pe.Message)
		}
		return entries, twice, err
	}
	return entries, twice, nil
}

// dotted returns the name of a table or key, and its line.
func dotted(p *unstable.Parser, n *unstable.Node) (string, int) {
	var parts []string
	line := 0
	for it := n.Key(); it.Next(); {
		parts = append(parts, string(it.Node().Data))
		line = p.Shape(it.Node().Raw).Start.Line
	}
	return strings.Join(parts, "."), line
}

// text returns a value as text; the elements of a list with commas.
func text(n *unstable.Node) string {
	if n.Kind == unstable.Array {
		var parts []string
		for it := n.Children(); it.Next(); {
			parts = append(parts, text(it.Node()))
		}
		return strings.Join(parts, ", ")
	}
	return string(n.Data)
}

func at(path string, line int) string { return fmt.Sprintf("%s:%d", path, line) }

// eachFile reads the files that globs match. One without wildcards that was
// named must be there; where nothing matches there is nothing to look at.
func eachFile(globs []string, f func(path string, raw []byte) []Finding) ([]Finding, error) {
	var found []Finding
	var errs []error
	files := 0
	for _, g := range globs {
		paths, err := filepath.Glob(g)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", g, err)
		}
		if len(paths) == 0 && !strings.ContainsAny(g, "*?[") {
			paths = []string{g}
		}
		for _, path := range paths {
			files++
			raw, err := readFile(path)
			if err != nil {
				errs = append(errs, err)
				continue
			}
			found = append(found, f(path, raw)...)
		}
	}
	if files == 0 {
		return nil, notExpected{fmt.Errorf("there is no %s", strings.Join(globs, " or "))}
	}
	return found, errors.Join(errs...)
}

// readable reports whether others may read a file.
func readable(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().Perm()&0o004 != 0
}
