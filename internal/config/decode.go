// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/prometheus/common/model"
	"go.yaml.in/yaml/v3"
)

// decoder turns one file into a Config and remembers where each key stood.
type decoder struct {
	file  string
	cfg   *Config
	lines map[string]int // dotted key -> line
	keys  map[int]string // line -> dotted key
	errs  []error
}

func decode(file string, raw []byte) (*decoder, error) {
	d := &decoder{file: file, cfg: Default(), lines: map[string]int{}, keys: map[int]string{}}
	docs := yaml.NewDecoder(bytes.NewReader(raw))
	var doc yaml.Node
	if err := docs.Decode(&doc); err != nil {
		if errors.Is(err, io.EOF) {
			return d, nil // an empty file is the default configuration
		}
		return nil, fmt.Errorf("%s: not YAML: %s", file, strings.TrimPrefix(err.Error(), "yaml: "))
	}
	var more yaml.Node
	if err := docs.Decode(&more); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%s: more than one YAML document; keep one", file)
	}
	root := doc.Content[0]
	if root.Kind == yaml.ScalarNode && root.Tag == "!!null" {
		return d, nil
	}
	if root.Kind != yaml.MappingNode {
		return nil, fmt.Errorf("%s:%d: the file must be a mapping of sections such as %q", file, root.Line, "engine: {}")
	}
	d.check(root, reflect.TypeFor[Config](), "")
	if err := errors.Join(d.errs...); err != nil {
		return nil, err
	}
	if err := root.Decode(d.cfg); err != nil {
		return nil, d.typeErrors(err)
	}
	markNamed(root, d.cfg)
	return d, nil
}

// check walks the document beside the type it will be decoded into. It reports
// every unknown key with its line and what would be valid there.
func (d *decoder) check(n *yaml.Node, t reflect.Type, path string) {
	for n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch {
	case n.Kind == yaml.ScalarNode && t == reflect.TypeFor[model.Duration]():
		if _, err := model.ParseDuration(n.Value); err != nil { // the YAML library would not tell the line
			d.errorf(path, "%q is no duration; write a number and a unit, such as 30s, 5m or 26h", n.Value)
		}
	case n.Kind == yaml.MappingNode && t.Kind() == reflect.Struct:
		fields := yamlFields(t)
		for i := 0; i+1 < len(n.Content); i += 2 {
			k, v := n.Content[i], n.Content[i+1]
			p := dotted(path, k.Value)
			d.lines[p], d.keys[k.Line] = k.Line, p
			ft, ok := fields[k.Value]
			if !ok {
				d.errs = append(d.errs, d.unknownKey(p, k, path, fields))
				continue
			}
			d.check(v, ft, p)
		}
	case n.Kind == yaml.MappingNode && t.Kind() == reflect.Map:
		for i := 0; i+1 < len(n.Content); i += 2 {
			k, v := n.Content[i], n.Content[i+1]
			p := dotted(path, k.Value)
			d.lines[p], d.keys[k.Line] = k.Line, p
			d.check(v, t.Elem(), p)
		}
	case n.Kind == yaml.SequenceNode && t.Kind() == reflect.Slice:
		for i, v := range n.Content {
			p := path + "[" + strconv.Itoa(i) + "]"
			d.lines[p] = v.Line
			d.check(v, t.Elem(), p)
		}
	}
}

// misplaced are keys that people bring along from elsewhere, with the mend.
var misplaced = map[string]string{
	"bearer_token":      "write authorization: {credentials_file: FILE}",
	"bearer_token_file": "write authorization: {credentials_file: FILE}",
	"credentials":       "secrets come from files only: write credentials_file: FILE",
	"password":          "secrets come from files only: write password_file: FILE",
	"auth_password":     "secrets come from files only: write auth_password_file: FILE",
	"api_key":           "secrets come from files only: write api_key_file: FILE",
	"tls":               "write tls_config: {ca_file: FILE, …}",
	"dsn":               "write host, port, user, database and password_file",
	"thresholds":        "thresholds come from --thresholds.file",
}

func (d *decoder) unknownKey(p string, k *yaml.Node, path string, fields map[string]reflect.Type) error {
	valid := slices.Sorted(maps.Keys(fields))
	hint := ""
	switch {
	case strings.HasSuffix(path, ".services") && isSection(k.Value):
		hint = "; " + k.Value + " looks at the machine the exporter runs on: run an exporter on each machine of the fleet for it"
	case misplaced[k.Value] != "":
		hint = "; " + misplaced[k.Value]
	default:
		if c := closest(k.Value, valid); c != "" {
			hint = fmt.Sprintf("; did you mean %q?", c)
		}
	}
	if len(valid) == 0 {
		return fmt.Errorf("%s:%d: %s: unknown key%s; no keys are valid here", d.file, k.Line, p, hint)
	}
	return fmt.Errorf("%s:%d: %s: unknown key%s; valid here: %s", d.file, k.Line, p, hint, strings.Join(valid, ", "))
}

func isSection(name string) bool {
	return slices.ContainsFunc(Sections, func(i Info) bool { return i.Name == name })
}

var typeErrorLine = regexp.MustCompile(`^line (\d+): (.*)$`)

// typeErrors puts file, line and key before what the YAML library says.
func (d *decoder) typeErrors(err error) error {
	var te *yaml.TypeError
	if !errors.As(err, &te) {
		return fmt.Errorf("%s: %s", d.file, strings.TrimPrefix(err.Error(), "yaml: "))
	}
	var errs []error
	for _, e := range te.Errors {
		m := typeErrorLine.FindStringSubmatch(e)
		if m == nil {
			errs = append(errs, fmt.Errorf("%s: %s", d.file, e))
			continue
		}
		line, _ := strconv.Atoi(m[1])
		msg := m[2]
		if key := d.keys[line]; key != "" {
			msg = key + ": " + msg
		}
		errs = append(errs, fmt.Errorf("%s:%d: %s", d.file, line, msg))
	}
	return errors.Join(errs...)
}

// errorf reports a problem with the value of a key.
func (d *decoder) errorf(key, format string, args ...any) {
	var where strings.Builder
	where.WriteString(d.file)
	for p := key; p != ""; p = parent(p) { // a default has no line: its section has
		if l, ok := d.lines[p]; ok {
			where.WriteString(":" + strconv.Itoa(l))
			break
		}
	}
	d.errs = append(d.errs, fmt.Errorf("%s: %s: %s", where.String(), key, fmt.Sprintf(format, args...)))
}

// markNamed notes which sections a mapping has.
func markNamed(mapping *yaml.Node, cfg *Config) {
	for mapping.Kind == yaml.AliasNode {
		mapping = mapping.Alias
	}
	for i := 0; i+1 < len(mapping.Content); i += 2 {
		k, section := mapping.Content[i].Value, mapping.Content[i+1]
		if !isSection(k) {
			continue
		}
		cfg.Section(k).named = true
		// Whoever names files and no URL reads files only.
		if k == "pipeline" && hasKey(section, "files") && !hasKey(section, "urls") {
			cfg.Pipeline.URLs = nil
		}
	}
}

func hasKey(mapping *yaml.Node, key string) bool {
	for i := 0; i+1 < len(mapping.Content); i += 2 {
		if mapping.Content[i].Value == key {
			return true
		}
	}
	return false
}

// UnmarshalYAML starts a module from the defaults and notes which services it names.
func (m *Module) UnmarshalYAML(n *yaml.Node) error {
	m.Services = defaultServices()
	type plain Module // without this method
	if err := n.Decode((*plain)(m)); err != nil {
		return err
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value != "services" {
			continue
		}
		c := &Config{Services: m.Services}
		markNamed(n.Content[i+1], c)
		m.Services = c.Services
	}
	return nil
}

func yamlFields(t reflect.Type) map[string]reflect.Type {
	fields := map[string]reflect.Type{}
	for f := range t.Fields() {
		name, opts, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		switch {
		case strings.Contains(opts, "inline"):
			maps.Copy(fields, yamlFields(f.Type))
		case name != "" && name != "-":
			fields[name] = f.Type
		}
	}
	return fields
}

func dotted(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

func parent(p string) string {
	i := strings.LastIndexAny(p, ".[")
	if i < 0 {
		return ""
	}
	return p[:i]
}

// closest returns the valid word nearest to what was written, "" if none is near.
func closest(word string, valid []string) string {
	best, at := "", 3
	for _, v := range valid {
		if n := editDistance(word, v); n < at {
			best, at = v, n
		}
	}
	return best
}

func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		prev := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			prev, row[j+1] = row[j+1], min(prev+cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
