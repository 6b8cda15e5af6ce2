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
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"go.yaml.in/yaml/v3"

	"github.com/niodoo/niodoo_exporter/collector"
	"github.com/niodoo/niodoo_exporter/internal/config"
	"github.com/niodoo/niodoo_exporter/internal/observe"
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
				Alert, Expr string
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
			if r.Alert == "EngineDependencyDown" && !strings.Contains(r.Expr, `component=~"`+strings.Join(withEngine, "|")+`"`) {
				t.Errorf("it is not of %v in the rules: %s", withEngine, r.Expr)
			}
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
	used := map[string]bool{"ServiceDown": true, "EngineDependencyDown": true, "NiodooCollectorFailing": true}
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
		for _, prefix := range []string{`s.one("`, `s.sum("`, `s.all("`, `s.rate("`, `gauge("`, `since("`} {
			for _, part := range strings.Split(string(source), prefix)[1:] {
				name, _, _ := strings.Cut(part, `"`)
				if h, _, ok := strings.Cut(name, "_duration_seconds_"); ok { // a part of a histogram
					name = h + "_duration_seconds"
				}
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
		if !f.IsExported() {
			continue
		}
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

// metrics reads the text format; a counter ends in _total.
func metrics(t *testing.T, at time.Time, text string) observe.Snapshot {
	t.Helper()
	p := expfmt.NewTextParser(model.UTF8Validation)
	families, err := p.TextToMetricFamilies(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	var all []*dto.MetricFamily
	for name, f := range families {
		if f.GetType() == dto.MetricType_UNTYPED {
			f.Type = dto.MetricType_GAUGE.Enum()
			for _, m := range f.Metric {
				if v := m.GetUntyped().GetValue(); strings.HasSuffix(name, "_total") {
					m.Counter = &dto.Counter{Value: &v}
					f.Type = dto.MetricType_COUNTER.Enum()
				} else {
					m.Gauge = &dto.Gauge{Value: &v}
				}
			}
		}
		all = append(all, f)
	}
	return observe.Of(at, all...)
}

// KPIs that a machine under test cannot be made to show.
func TestMeasures(t *testing.T) {
	t.Parallel()
	began := time.Unix(1000, 0)
	s := &snapshot{cfg: config.Default(), now: began.Add(time.Hour), looks: []look{{twice: true,
		first: metrics(t, began, `
niodoo_host_cpu_seconds_total{mode="user"} 10
niodoo_host_cpu_seconds_total{mode="idle"} 100
niodoo_host_cpu_seconds_total{mode="iowait"} 0
niodoo_consciousness_events_total 10
# TYPE niodoo_consciousness_processing_duration_seconds histogram
niodoo_consciousness_processing_duration_seconds_bucket{le="+Inf"} 10
niodoo_consciousness_processing_duration_seconds_sum 10
niodoo_consciousness_processing_duration_seconds_count 10
`),
		last: metrics(t, began.Add(2*time.Second), `
niodoo_host_cpu_seconds_total{mode="user"} 13
niodoo_host_cpu_seconds_total{mode="idle"} 105
niodoo_host_cpu_seconds_total{mode="iowait"} 2
niodoo_host_memory_total_bytes 100
niodoo_host_memory_available_bytes 10
niodoo_host_filesystem_readonly{path="/"} 0
niodoo_host_filesystem_readonly{path="/cd"} 1
niodoo_host_filesystem_readonly{path="/boot/efi"} 0
niodoo_host_filesystem_size_bytes{path="/"} 100
niodoo_host_filesystem_size_bytes{path="/cd"} 100
niodoo_host_filesystem_size_bytes{path="/boot/efi"} 100
niodoo_host_filesystem_free_bytes{path="/"} 10
niodoo_host_filesystem_free_bytes{path="/cd"} 0
niodoo_host_filesystem_free_bytes{path="/boot/efi"} 0
niodoo_host_filesystem_avail_bytes{path="/"} 5
niodoo_host_filesystem_avail_bytes{path="/cd"} 0
niodoo_host_filesystem_avail_bytes{path="/boot/efi"} 0
niodoo_host_filesystem_files{path="/"} 0
niodoo_host_filesystem_files_free{path="/"} 0
niodoo_redis_memory_used_bytes 95
niodoo_redis_memory_max_bytes 100
niodoo_redis_info{maxmemory_policy="noeviction"} 1
niodoo_backup_newest_timestamp_seconds 1000
niodoo_backup_max_age_seconds 1000
niodoo_postgresql_connections{state="active"} 30
niodoo_postgresql_connections{state="idle"} 64
niodoo_postgresql_max_connections 100
niodoo_postgresql_reserved_connections 3
niodoo_consciousness_events_total 20
niodoo_consciousness_processing_time_seconds 7
# TYPE niodoo_consciousness_processing_duration_seconds histogram
niodoo_consciousness_processing_duration_seconds_bucket{le="+Inf"} 12
niodoo_consciousness_processing_duration_seconds_sum 13
niodoo_consciousness_processing_duration_seconds_count 12
`)}}}
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
		"backup_age_seconds":          "age of the newest is 1h, above the limit of 33m20s BackupOverdue",
		"postgresql_connection_ratio": "connections used is 96.91 %, above the limit of 95 % PostgreSQLConnectionsExhausted",
		"events_per_second":           "events processed is 5 events per second ",
		"processing_time_seconds":     "processing time is 1.50 s, above the limit of 1 s HighProcessingLatency",
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
