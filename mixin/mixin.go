// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

// Package mixin turns the jsonnet beside it into the files that Prometheus,
// Alertmanager, Grafana and Kubernetes read. The jsonnet is usable without it,
// as an ordinary mixin.
package mixin

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/go-jsonnet"
)

// documents are the entry points whose value is a file's text, by the file's
// path in the repository.
var documents = map[string]string{
	"rules/alerts.yml":                       "alerts.jsonnet",
	"rules/recording.yml":                    "recording.jsonnet",
	"rules/manual_names.yml":                 "manual_names.jsonnet",
	"rules/manual_up.yml":                    "manual_up.jsonnet",
	"alertmanager/alertmanager.yml":          "alertmanager.jsonnet",
	"alertmanager/templates/niodoo.tmpl":     "alertmanager_template.jsonnet",
	"examples/kubernetes/prometheusrule.yml": "prometheusrule.jsonnet",
	"mixin/tests/optional_rules.yml":         "tests/optional.jsonnet",
}

// Dir is the directory of the jsonnet, relative to the repository's root.
const Dir = "mixin"

// Generate returns every generated file by its path in the repository at root.
func Generate(root string) (map[string][]byte, error) {
	files := map[string][]byte{}
	for path, entry := range documents {
		text, err := evaluate(root, entry, true)
		if err != nil {
			return nil, err
		}
		files[path] = []byte(text)
	}
	raw, err := evaluate(root, "dashboards.jsonnet", false)
	if err != nil {
		return nil, err
	}
	var dashboards map[string]json.RawMessage
	if err := json.Unmarshal([]byte(raw), &dashboards); err != nil {
		return nil, fmt.Errorf("reading the dashboards: %w", err)
	}
	for name, d := range dashboards {
		var b bytes.Buffer
		if err := json.Indent(&b, d, "", "  "); err != nil {
			return nil, fmt.Errorf("writing %s: %w", name, err)
		}
		b.WriteByte('\n')
		files["dashboards/"+name] = b.Bytes()
	}
	return files, nil
}

// evaluate runs an entry point of the mixin.
func evaluate(root, entry string, text bool) (string, error) {
	vm := jsonnet.MakeVM()
	vm.StringOutput = text
	out, err := vm.EvaluateFile(filepath.Join(root, Dir, entry))
	if err != nil {
		return "", fmt.Errorf("evaluating %s: %w", entry, err)
	}
	return out, nil
}

// Write generates every file below root and removes dashboards that are
// generated no more.
func Write(root string) error {
	files, err := Generate(root)
	if err != nil {
		return err
	}
	old, err := filepath.Glob(filepath.Join(root, "dashboards", "*.json"))
	if err != nil {
		return err
	}
	for _, path := range old {
		if rel := strings.TrimPrefix(path, root+string(filepath.Separator)); files[rel] == nil {
			if err := os.Remove(path); err != nil {
				return fmt.Errorf("removing a dashboard that is no more: %w", err)
			}
		}
	}
	for path, content := range files {
		full := filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(full, content, 0o644); err != nil {
			return err
		}
	}
	return nil
}
