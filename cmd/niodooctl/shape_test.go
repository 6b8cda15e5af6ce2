// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

var updateShapes = flag.Bool("update-shapes", false, "write testdata/shape anew")

// checkShape compares the fields of a JSON document, and what kinds of values
// they hold, with testdata/shape/NAME: machines rely on them. A field of the file
// may be missing in a document if it ends in "?". A key in place of which the file
// has "*" is a name, such as that of a label.
func checkShape(t *testing.T, name string, document []byte, names ...string) {
	t.Helper()
	d := json.NewDecoder(bytes.NewReader(document))
	var v any
	if err := d.Decode(&v); err != nil {
		t.Fatalf("%s is not JSON: %v\n%s", name, err, document)
	}
	if d.More() {
		t.Errorf("%s: more than one document", name)
	}
	found := map[string]string{}
	walkShape("", v, names, found)
	file := filepath.Join("testdata", "shape", name+".txt")
	if *updateShapes {
		var b strings.Builder
		for _, k := range slices.Sorted(maps.Keys(found)) {
			fmt.Fprintf(&b, "%s %s\n", k, found[k])
		}
		if err := os.WriteFile(file, []byte(b.String()), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{}
	for line := range strings.Lines(string(raw)) {
		field, kind, _ := strings.Cut(strings.TrimSpace(line), " ")
		field, optional := strings.CutSuffix(field, "?")
		want[field] = kind
		if _, ok := found[field]; !ok && !optional {
			t.Errorf("%s: the field %s is missing", name, field)
		}
	}
	for field, kind := range found {
		if want[field] == "" {
			t.Errorf("%s: the field %s is not in %s", name, field, file)
		} else if !slices.Contains(strings.Split(want[field], "|"), kind) {
			t.Errorf("%s: %s is %s, want %s", name, field, kind, want[field])
		}
	}
}

// walkShape notes the kind of every field below v; all elements of a list are one.
func walkShape(at string, v any, names []string, found map[string]string) {
	switch x := v.(type) {
	case map[string]any:
		for k, e := range x {
			if slices.Contains(names, at) {
				k = "*"
			}
			walkShape(at+"."+k, e, names, found)
		}
		return
	case []any:
		for _, e := range x {
			walkShape(at+"[]", e, names, found)
		}
		return
	case string:
		found[at] = "string"
	case float64:
		found[at] = "number"
	case bool:
		found[at] = "bool"
	case nil:
		if found[at] == "" {
			found[at] = "null"
		}
	}
}
