// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package health

import (
	"encoding/json"
	"maps"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"

	"github.com/niodoo/niodoo_exporter/collector"
	"github.com/niodoo/niodoo_exporter/internal/config"
	"github.com/niodoo/niodoo_exporter/internal/opstate"
	"github.com/niodoo/niodoo_exporter/internal/thresholds"
)

// The tables agree with the rules, so that the tool and the alerts do.
func TestRulesAgree(t *testing.T) {
	t.Parallel()
	raw, err := os.ReadFile("../../rules/alerts.yml")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Groups []struct {
			Rules []struct {
				Alert       string
				Labels      map[string]string
				Annotations map[string]string
			}
		}
	}
	if err := yaml.Unmarshal(raw, &file); err != nil {
		t.Fatal(err)
	}
	inRules := map[string]rule{}
	components := map[string]string{}
	for _, g := range file.Groups {
		for _, r := range g.Rules {
			inRules[r.Alert] = rule{r.Labels["priority"], r.Labels["severity"]}
			components[r.Alert] = r.Labels["component"]
			if _, ours := rules[r.Alert]; ours && r.Annotations["runbook_url"] != RunbookURL+r.Alert+".md" {
				t.Errorf("%s: the runbook is at %s", r.Alert, r.Annotations["runbook_url"])
			}
		}
	}
	for name, r := range rules {
		if inRules[name] != r {
			t.Errorf("%s is %v in the rules and %v here", name, inRules[name], r)
		}
	}
	used := map[string]bool{"ServiceDown": true, "NiodooCollectorFailing": true}
	use := func(alert, component string) {
		if alert == "" {
			return
		}
		used[alert] = true
		if _, ok := rules[alert]; !ok {
			t.Errorf("%s has no priority here", alert)
		}
		if c := components[alert]; c != component && !strings.HasPrefix(c, "{{") {
			t.Errorf("%s is of %s in the rules and of %s here", alert, c, component)
		}
	}
	limits := thresholds.Default()
	for _, k := range kpis {
		use(k.alert, k.component)
		use(k.critical, k.component)
		limit, ok := limits[k.threshold]
		if !ok || (k.critical != "") != (limit.Critical != nil) {
			t.Errorf("%s: the threshold is %+v", k.threshold, limit)
		}
		if k.alert == "" && limit.Warning != nil && limit.On() && !k.shown {
			t.Errorf("%s: a limit without an alert", k.threshold)
		}
	}
	for _, c := range conditions {
		use(c.alert, c.component)
	}
	for component, alert := range downAlerts {
		use(alert, component)
	}
	for name := range rules {
		if !used[name] {
			t.Errorf("%s is used nowhere", name)
		}
	}
	if d := cmp.Diff(collector.Names(), slices.SortedFunc(maps.Keys(roles), func(a, b string) int { return order(a) - order(b) })); d != "" {
		t.Errorf("the roles: %s", d)
	}
}

// Every metric that is looked for exists.
func TestMetricsExist(t *testing.T) {
	t.Parallel()
	raw, err := os.ReadFile("../../mixin/metrics.json")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range conditions {
		if !strings.Contains(string(raw), `"niodoo_`+c.metric+`"`) {
			t.Errorf("there is no niodoo_%s", c.metric)
		}
	}
	for _, file := range []string{"kpis.go", "components.go", "findings.go"} {
		source, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, prefix := range []string{`s.one("`, `s.sum("`, `s.all("`, `s.grown("`, `s.rate("`, `gauge("`, `since("`} {
			for _, part := range strings.Split(string(source), prefix)[1:] {
				name, _, _ := strings.Cut(part, `"`)
				if !strings.Contains(string(raw), `"niodoo_`+name+`"`) {
					t.Errorf("%s: there is no niodoo_%s", file, name)
				}
			}
		}
	}
}

// The schema says what the report has, no more and no less.
func TestSchema(t *testing.T) {
	t.Parallel()
	raw, err := os.ReadFile("../../docs/health.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	var schema map[string]any
	if err := json.Unmarshal(raw, &schema); err != nil {
		t.Fatal(err)
	}
	sameShape(t, "report", schema, reflect.TypeFor[Report](), schema)
	for def, want := range map[string][]string{"verdict": texts(opstate.Verdicts), "state": texts(States)} {
		enum := schema["$defs"].(map[string]any)[def].(map[string]any)["enum"].([]any)
		var got []string
		for _, v := range enum {
			got = append(got, v.(string))
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%s: %s", def, d)
		}
	}
}

func texts[S ~string](all []S) []string {
	var out []string
	for _, s := range all {
		out = append(out, string(s))
	}
	return out
}

// sameShape compares an object's schema with a struct.
func sameShape(t *testing.T, at string, schema map[string]any, typ reflect.Type, root map[string]any) {
	t.Helper()
	if ref, ok := schema["$ref"].(string); ok {
		schema = root["$defs"].(map[string]any)[strings.TrimPrefix(ref, "#/$defs/")].(map[string]any)
	}
	for typ.Kind() == reflect.Pointer {
		typ = typ.Elem()
	}
	if typ.Kind() == reflect.Slice {
		if items, ok := schema["items"].(map[string]any); ok {
			sameShape(t, at+"[]", items, typ.Elem(), root)
		} else {
			t.Errorf("%s: a list without items", at)
		}
		return
	}
	if typ.Kind() != reflect.Struct || typ == reflect.TypeFor[time.Time]() {
		return
	}
	properties := schema["properties"].(map[string]any)
	var names, required []string
	for f := range typ.Fields() {
		name, opts, _ := strings.Cut(f.Tag.Get("json"), ",")
		names = append(names, name)
		if opts == "" {
			required = append(required, name)
		}
		if p, ok := properties[name].(map[string]any); ok {
			sameShape(t, at+"."+name, p, f.Type, root)
		}
	}
	slices.Sort(names)
	slices.Sort(required)
	if d := cmp.Diff(names, slices.Sorted(maps.Keys(properties))); d != "" {
		t.Errorf("%s: properties (-struct +schema): %s", at, d)
	}
	var got []string
	for _, r := range schema["required"].([]any) {
		got = append(got, r.(string))
	}
	slices.Sort(got)
	if d := cmp.Diff(required, got); d != "" {
		t.Errorf("%s: required (-struct +schema): %s", at, d)
	}
}

func series(values map[string]float64) []point {
	var out []point
	for labels, v := range values {
		p := point{labels: map[string]string{}, value: v}
		for pair := range strings.FieldsSeq(labels) {
			k, v, _ := strings.Cut(pair, "=")
			p.labels[k] = v
		}
		out = append(out, p)
	}
	return out
}

// KPIs that a machine under test cannot be made to show.
func TestMeasures(t *testing.T) {
	t.Parallel()
	began := time.Unix(1000, 0)
	s := &snapshot{cfg: config.Default(), now: began.Add(time.Hour), before: map[string][]point{}, points: map[string][]point{
		"niodoo_host_cpu_seconds_total":                    series(map[string]float64{"mode=user": 13, "mode=idle": 105, "mode=iowait": 2}),
		"niodoo_host_memory_total_bytes":                   series(map[string]float64{"": 100}),
		"niodoo_host_memory_available_bytes":               series(map[string]float64{"": 10}),
		"niodoo_host_filesystem_readonly":                  series(map[string]float64{"path=/": 0, "path=/cd": 1, "path=/boot/efi": 0}),
		"niodoo_host_filesystem_size_bytes":                series(map[string]float64{"path=/": 100, "path=/cd": 100, "path=/boot/efi": 100}),
		"niodoo_host_filesystem_free_bytes":                series(map[string]float64{"path=/": 10, "path=/cd": 0, "path=/boot/efi": 0}),
		"niodoo_host_filesystem_avail_bytes":               series(map[string]float64{"path=/": 5, "path=/cd": 0, "path=/boot/efi": 0}),
		"niodoo_host_filesystem_files":                     series(map[string]float64{"path=/": 0}),
		"niodoo_host_filesystem_files_free":                series(map[string]float64{"path=/": 0}),
		"niodoo_redis_memory_used_bytes":                   series(map[string]float64{"": 95}),
		"niodoo_redis_memory_max_bytes":                    series(map[string]float64{"": 100}),
		"niodoo_redis_info":                                series(map[string]float64{"maxmemory_policy=noeviction": 1}),
		"niodoo_backup_newest_timestamp_seconds":           series(map[string]float64{"": 1000}),
		"niodoo_backup_max_age_seconds":                    series(map[string]float64{"": 1000}),
		"niodoo_postgresql_connections":                    series(map[string]float64{"state=active": 30, "state=idle": 64}),
		"niodoo_postgresql_max_connections":                series(map[string]float64{"": 100}),
		"niodoo_postgresql_reserved_connections":           series(map[string]float64{"": 3}),
		"niodoo_consciousness_events_total":                {{value: 20, at: began.Add(2 * time.Second)}},
		"niodoo_consciousness_processing_time_seconds":     series(map[string]float64{"": 7}),
		"niodoo_consciousness_processing_duration_seconds": {{value: 13, count: 12, at: began.Add(time.Second)}},
	}}
	for i := range s.points["niodoo_host_cpu_seconds_total"] {
		s.points["niodoo_host_cpu_seconds_total"][i].at = began.Add(time.Second)
	}
	s.before["niodoo_host_cpu_seconds_total"] = series(map[string]float64{"mode=user": 10, "mode=idle": 100, "mode=iowait": 0})
	for i := range s.before["niodoo_host_cpu_seconds_total"] {
		s.before["niodoo_host_cpu_seconds_total"][i].at = began
	}
	s.before["niodoo_consciousness_events_total"] = []point{{value: 10, at: began}}
	s.before["niodoo_consciousness_processing_duration_seconds"] = []point{{value: 10, count: 10, at: began}}

	r := &Report{Verdict: opstate.Well}
	for _, name := range []string{"engine", "postgresql", "redis", "host", "backup"} {
		r.Components = append(r.Components, Component{Name: name, State: Up, Verdict: opstate.Well})
	}
	limits := thresholds.Default()
	for _, k := range kpis {
		s.compare(r, k, limits[k.threshold])
	}
	got := map[string]string{}
	for _, c := range r.Checks {
		got[c.Name] += c.Text + " " + c.Alert
	}
	want := map[string]string{
		"cpu_usage_ratio":             "CPU usage is 30 % ",
		"memory_usage_ratio":          "memory usage is 90 %, above the limit of 85 % HighMemoryUsage",
		"disk_usage_ratio":            "disk usage of / is 94.74 %, above the limit of 90 % DiskAlmostFull",
		"redis_memory_ratio":          "memory used is 95 %, above the limit of 90 % RedisMemoryNearlyFull",
		"backup_age_seconds":          "age of the newest is 1.0 h, above the limit of 33m20s BackupOverdue",
		"postgresql_connection_ratio": "connections used is 96.91 %, above the limit of 95 % PostgreSQLConnectionsExhausted",
		"events_per_second":           "events processed is 5 events per second ",
		"processing_time_seconds":     "processing time is 1.5 s, above the limit of 1 s HighProcessingLatency",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("-want +got\n%s", d)
	}
	if !slices.Contains(r.NotReported, "memory_stability_ratio") || slices.Contains(r.NotReported, "gpu_memory_ratio") {
		t.Errorf("not reported: %v", r.NotReported)
	}
	r.conclude()
	if r.Verdict != opstate.Failing || r.Component("host").Verdict != opstate.Failing || len(r.Component("host").Why) != 2 || !strings.HasPrefix(r.Component("host").Why[0], "disk usage") {
		t.Errorf("%s, %+v", r.Verdict, r.Component("host"))
	}
	labels := map[string]string{}
	for _, a := range r.Alerts(map[string]string{"instance": "x", "priority": "P9"}, began) {
		if a.Labels["alertname"] == "DiskAlmostFull" {
			labels = a.Labels
		}
	}
	if d := cmp.Diff(map[string]string{"alertname": "DiskAlmostFull", "component": "host", "path": "/", "priority": "P2", "severity": "warning",
		"source": "niodooctl", "instance": "x"}, labels); d != "" {
		t.Error(d)
	}
}

func TestWorse(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ bad, good opstate.Verdict }{
		{opstate.Failing, opstate.Unknown}, {opstate.Unknown, opstate.Warning}, {opstate.Warning, opstate.Well},
	} {
		if !Worse(c.bad, c.good) || Worse(c.good, c.bad) || Worse(c.bad, c.bad) {
			t.Errorf("%s and %s", c.bad, c.good)
		}
	}
}

func TestFormat(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		v          float64
		unit, want string
	}{
		{0.9951, "ratio", "99.51 %"}, {0, "ratio", "0 %"}, {0.00042, "seconds", "420 µs"}, {0.0123, "seconds", "12.3 ms"}, {1.5, "seconds", "1.5 s"},
		{90, "seconds", "1m30s"}, {93600, "seconds", "26.0 h"}, {864000, "seconds", "10.0 days"}, {1536, "bytes", "1.5 KiB"}, {1 << 40, "bytes", "1 TiB"},
		{12345.6, "points", "12346 points"}, {3.14159, "", "3.142"}, {71, "celsius", "71 °C"}, {-2, "seconds", "-2 s"},
	} {
		if got := Format(c.v, c.unit); got != c.want {
			t.Errorf("%g %s: got %q, want %q", c.v, c.unit, got, c.want)
		}
	}
}
