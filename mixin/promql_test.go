// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package mixin

import (
	"encoding/json"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"
)

var promql = parser.NewParser(parser.Options{})

// stands is what a variable stands for while an expression is parsed: a value
// that no expression has by itself.
var stands = map[string]string{"job": "JOB", "cluster": "CLUSTER", "instance": "INSTANCE"}

// inGo replaces Grafana's variables so that the expression can be parsed.
func inGo(expr string) string { return replaced(expr, stands) }

func replaced(expr string, values map[string]string) string {
	for name, value := range values {
		expr = strings.ReplaceAll(expr, "$"+name, value)
	}
	return strings.NewReplacer("$__rate_interval", "4m", "$__range", "6h").Replace(expr)
}

// A rule is a recording or an alerting rule.
type rule struct {
	Record, Alert, Expr, For string
	Labels, Annotations      map[string]string
}

type ruleGroup struct {
	Name  string
	Rules []rule
}

// rules returns the groups of one of the mixin's fields.
func rules(t *testing.T, field string) []ruleGroup {
	t.Helper()
	var v struct{ Groups []ruleGroup }
	snippet(t, "(import 'mixin.libsonnet')."+field, &v)
	if len(v.Groups) == 0 {
		t.Fatalf("the mixin has no %s", field)
	}
	return v.Groups
}

// catalogued is a metric as the exporter describes it.
type catalogued struct {
	Type   string
	Labels []string
}

// knowledge is what series there can be.
type knowledge struct {
	metrics  map[string]catalogued
	foreign  []string
	recorded map[string][]string // labels
}

var (
	targetLabels = []string{"job", "instance", "cluster"}
	alertLabels  = []string{"alertname", "alertstate", "severity", "priority", "component"}
)

func know(t *testing.T) *knowledge {
	t.Helper()
	k := &knowledge{recorded: map[string][]string{}}
	raw, err := os.ReadFile("metrics.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(raw, &k.metrics); err != nil {
		t.Fatal(err)
	}
	snippet(t, "(import 'lib/metrics.libsonnet').foreign", &k.foreign)
	for _, field := range []string{"prometheusRules", "manualNames", "manualUp"} {
		for _, g := range rules(t, field) {
			for _, r := range g.Rules {
				expr, err := promql.ParseExpr(r.Expr)
				if err != nil {
					t.Fatalf("%s: %v", r.Record, err)
				}
				known := append(slices.Collect(maps.Keys(r.Labels)), written(expr)...)
				for _, s := range selectors(expr) {
					known = append(known, k.labels(s.Name)...)
				}
				k.recorded[r.Record] = append(k.recorded[r.Record], known...)
			}
		}
	}
	return k
}

// family returns the catalogue's entry of a series, by the name of its family.
func (k *knowledge) family(name string) (string, catalogued, bool) {
	for _, suffix := range []string{"", "_bucket", "_sum", "_count"} {
		base := strings.TrimSuffix(name, suffix)
		if m, ok := k.metrics[base]; ok && strings.HasSuffix(name, suffix) && (suffix == "" || m.Type == "histogram") {
			return base, m, true
		}
	}
	return "", catalogued{}, false
}

func (k *knowledge) exists(name string) bool {
	_, _, ok := k.family(name)
	_, recorded := k.recorded[name]
	return ok || recorded || slices.Contains(k.foreign, name)
}

// labels returns the labels that a series can have besides its target's.
func (k *knowledge) labels(name string) []string {
	switch _, m, ok := k.family(name); {
	case ok && strings.HasSuffix(name, "_bucket"):
		return append(slices.Clone(m.Labels), "le")
	case ok:
		return m.Labels
	case strings.HasPrefix(name, "ALERTS"):
		return alertLabels
	}
	return k.recorded[name]
}

// counter reports whether a series only ever grows.
func (k *knowledge) counter(name string) bool {
	if _, m, ok := k.family(name); ok {
		return m.Type == "counter" || m.Type == "histogram"
	}
	return slices.Contains(k.foreign, name) && strings.HasSuffix(name, "_total")
}

// written returns the labels that an expression itself sets.
func written(expr parser.Expr) (list []string) {
	parser.Inspect(expr, func(n parser.Node, _ []parser.Node) error {
		if c, ok := n.(*parser.Call); ok && (c.Func.Name == "label_replace" || c.Func.Name == "label_join") {
			if l, ok := c.Args[1].(*parser.StringLiteral); ok {
				list = append(list, l.Val)
			}
		}
		return nil
	})
	return list
}

func selectors(expr parser.Expr) []*parser.VectorSelector {
	var found []*parser.VectorSelector
	parser.Inspect(expr, func(n parser.Node, _ []parser.Node) error {
		if s, ok := n.(*parser.VectorSelector); ok {
			found = append(found, s)
		}
		return nil
	})
	return found
}

// Functions that take a counter's range, and those that must not.
var (
	ofCounters = []string{"rate", "irate", "increase", "resets", "changes"}
	ofGauges   = []string{"deriv", "delta", "idelta", "predict_linear", "avg_over_time", "max_over_time", "min_over_time", "quantile_over_time"}
)

// complaints says what is wrong with an expression: metrics and labels that
// there are not, and counters that are used as gauges or the other way round.
func (k *knowledge) complaints(expr parser.Expr, copies bool) (list []string) {
	known := append(append(slices.Clone(targetLabels), "__name__"), written(expr)...)
	for _, s := range selectors(expr) {
		known = append(known, k.labels(s.Name)...)
	}
	parser.Inspect(expr, func(n parser.Node, path []parser.Node) error {
		switch n := n.(type) {
		case *parser.VectorSelector:
			list = append(list, k.selector(n, path, copies)...)
		case *parser.AggregateExpr:
			for _, l := range n.Grouping {
				if !slices.Contains(known, l) {
					list = append(list, "nothing has the label "+l)
				}
			}
		case *parser.BinaryExpr:
			if m := n.VectorMatching; m != nil {
				for _, l := range slices.Concat(m.MatchingLabels, m.Include) {
					if !slices.Contains(known, l) {
						list = append(list, "nothing has the label "+l)
					}
				}
			}
		}
		return nil
	})
	return list
}

func (k *knowledge) selector(s *parser.VectorSelector, path []parser.Node, copies bool) (list []string) {
	if s.Name == "" { // by a pattern of names
		return nil
	}
	if !k.exists(s.Name) {
		return []string{"there is no metric " + s.Name}
	}
	known := slices.Concat(targetLabels, k.labels(s.Name), []string{model.MetricNameLabel})
	for _, m := range s.LabelMatchers {
		if !slices.Contains(known, m.Name) {
			list = append(list, s.Name+" has no label "+m.Name)
		}
		if m.Name == "le" && m.Type == labels.MatchEqual && !strings.ContainsAny(m.Value, ".+") {
			list = append(list, `le="`+m.Value+`" is "`+m.Value+`.0" in Prometheus 3`)
		}
	}
	call := ""
	for _, n := range slices.Backward(path) {
		if c, ok := n.(*parser.Call); ok {
			call = c.Func.Name
			break
		}
		if _, ok := n.(*parser.MatrixSelector); !ok {
			break
		}
	}
	switch counter := k.counter(s.Name); {
	case counter && !copies && !slices.Contains(ofCounters, call):
		list = append(list, "the counter "+s.Name+" is not under rate or increase")
	case counter && slices.Contains(ofGauges, call):
		list = append(list, call+" of the counter "+s.Name)
	case !counter && slices.Contains([]string{"rate", "irate", "increase"}, call):
		list = append(list, call+" of the gauge "+s.Name)
	}
	return list
}

// Every expression parses and asks for series that there are.
func TestExpressions(t *testing.T) {
	k := know(t)
	count := 0
	check := func(where, expr string, copies bool) {
		t.Helper()
		count++
		parsed, err := promql.ParseExpr(inGo(expr))
		if err != nil {
			t.Errorf("%s: %v\n%s", where, err, expr)
			return
		}
		for _, c := range k.complaints(parsed, copies) {
			t.Errorf("%s: %s", where, c)
		}
	}
	for uid, d := range dashboards(t) {
		for _, p := range d.queries() {
			for _, q := range p.Targets {
				check(uid+", "+p.Title, q.Expr, false)
			}
		}
		for _, a := range d.Annotations.List {
			if a.Expr != "" {
				check(uid+", annotation "+a.Name, a.Expr, false)
			}
		}
	}
	// Rules copy counters, and alerts compare them with what they were.
	for _, field := range []string{"prometheusRules", "prometheusAlerts", "manualNames", "manualUp"} {
		for _, g := range rules(t, field) {
			for _, r := range g.Rules {
				check(r.Record+r.Alert, r.Expr, true)
			}
		}
	}
	t.Logf("%d expressions", count)
}

var word = regexp.MustCompile(`[a-zA-Z_:][a-zA-Z0-9_:]*`)

// Every metric that the exporter has is shown, recorded or alerted on, or there
// is a reason why not.
func TestEveryMetricIsUsed(t *testing.T) {
	k := know(t)
	var listed []struct {
		Reason  string
		Metrics []string
	}
	raw, err := os.ReadFile("unused_metrics.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(raw, &listed); err != nil {
		t.Fatal(err)
	}
	shown, used := map[string]bool{}, map[string]bool{}
	mark := func(set map[string]bool, text string) {
		for _, w := range word.FindAllString(text, -1) {
			if base, _, ok := k.family(w); ok {
				set[base] = true
			}
		}
	}
	for _, d := range dashboards(t) {
		for _, p := range d.queries() {
			for _, q := range p.Targets {
				mark(shown, q.Expr)
			}
		}
	}
	for _, field := range []string{"prometheusRules", "prometheusAlerts", "manualNames"} {
		for _, g := range rules(t, field) {
			for _, r := range g.Rules {
				mark(used, r.Expr)
				for _, a := range r.Annotations {
					mark(used, a)
				}
			}
		}
	}
	reasons := map[string]bool{}
	for _, l := range listed {
		if l.Reason == "" {
			t.Error("a list of unused metrics has no reason")
		}
		for _, m := range l.Metrics {
			if _, ok := k.metrics[m]; !ok || reasons[m] {
				t.Errorf("unused_metrics.json has %s, which there is not or which it has twice", m)
			}
			if shown[m] {
				t.Errorf("unused_metrics.json has %s, which a panel shows", m)
			}
			reasons[m] = true
		}
	}
	for _, m := range slices.Sorted(maps.Keys(k.metrics)) {
		if !shown[m] && !used[m] && !reasons[m] {
			t.Errorf("%s is nowhere used", m)
		}
	}
	t.Logf("%d metrics: %d shown, %d listed as unused", len(k.metrics), len(shown), len(reasons))
}

// What is wrong with an expression is found.
func TestComplaints(t *testing.T) {
	k := know(t)
	for expr, want := range map[string]string{
		`niodoo_component_up{component="engine"}`:                                         "",
		`rate(niodoo_engine_requests_total[5m])`:                                          "",
		`sum by (le) (rate(niodoo_consciousness_processing_duration_seconds_bucket[5m]))`: "",
		`instance:niodoo_slo_broken:slice{slo="engine-availability"}`:                     "",
		`niodoo_component_upp`:                                                            "there is no metric niodoo_component_upp",
		`niodoo_component_up_bucket`:                                                      "there is no metric niodoo_component_up_bucket",
		`niodoo_component_up{part="engine"}`:                                              "niodoo_component_up has no label part",
		`sum by (part) (niodoo_component_up)`:                                             "nothing has the label part",
		`niodoo_component_up * on (part) niodoo_component_ready`:                          "nothing has the label part",
		`niodoo_engine_requests_total`:                                                    "the counter niodoo_engine_requests_total is not under rate or increase",
		`rate(niodoo_component_up[5m])`:                                                   "rate of the gauge niodoo_component_up",
		`rate(niodoo_consciousness_processing_duration_seconds_bucket{le="1"}[5m])`:       `le="1" is "1.0" in Prometheus 3`,
	} {
		parsed, err := promql.ParseExpr(expr)
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(k.complaints(parsed, false), "; "); got != want {
			t.Errorf("%s: %q, want %q", expr, got, want)
		}
	}
}
