// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package mixin

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"unicode/utf8"

	"github.com/google/go-jsonnet"
	"github.com/grafana/grafana-foundation-sdk/go/cog/plugins"
	sdk "github.com/grafana/grafana-foundation-sdk/go/dashboard"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"
)

// A dashboard is as much of Grafana's JSON as the rules look at.
type dashboard struct {
	UID, Title, Description, Timezone string
	ID                                *int
	Tags                              []string
	Editable                          bool
	SchemaVersion                     int
	Panels                            []panel
	Links                             []struct{ Type, URL string }
	Templating                        struct{ List []variable }
	Annotations                       struct {
		List []struct {
			Name, Expr string
			Datasource struct{ Type, UID string }
		}
	}
	raw []byte
}

type variable struct {
	Name, Label, Type, AllValue string
	Query                       json.RawMessage
	Datasource                  struct{ Type, UID string }
	Refresh, Sort               int
	Multi, IncludeAll           bool
}

type panel struct {
	ID                       int
	Type, Title, Description string
	Collapsed                bool
	Panels                   []panel
	GridPos                  struct{ H, W, X, Y int }
	Datasource               struct{ Type, UID string }
	Targets                  []target
	FieldConfig              struct {
		Defaults struct {
			Unit       string
			Mappings   []json.RawMessage
			Thresholds struct {
				Mode  string
				Steps []struct {
					Color string
					Value *float64
				}
			}
		}
	}
	Options json.RawMessage
	raw     json.RawMessage
}

type target struct {
	RefID, Expr, LegendFormat, Format string
	Datasource                        struct{ Type, UID string }
	Range, Instant                    bool
}

// UnmarshalJSON keeps the text, in which links are looked for.
func (p *panel) UnmarshalJSON(raw []byte) error {
	type plain panel
	p.raw = slices.Clone(raw)
	return json.Unmarshal(raw, (*plain)(p))
}

// all lists the panels, those of collapsed rows included.
func (d *dashboard) all() []panel {
	var list []panel
	for _, p := range d.Panels {
		list = append(append(list, p), p.Panels...)
	}
	return list
}

// queries are the panels with data.
func (d *dashboard) queries() []panel {
	return slices.DeleteFunc(d.all(), func(p panel) bool { return p.Type == "row" || p.Type == "text" })
}

// generated is what the jsonnet makes, once for all tests.
var generated = sync.OnceValues(func() (map[string][]byte, error) { return Generate("..") })

func dashboards(t *testing.T) map[string]*dashboard {
	t.Helper()
	files, err := generated()
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]*dashboard{}
	for name, raw := range files {
		if !strings.HasPrefix(name, "dashboards/") {
			continue
		}
		d := &dashboard{raw: raw}
		if err := json.Unmarshal(raw, d); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if want := "dashboards/" + d.UID + ".json"; name != want {
			t.Errorf("%s has the uid %s: it should be in %s", name, d.UID, want)
		}
		found[d.UID] = d
	}
	for _, uid := range []string{"consciousness-overview", "memory-system", "performance", "services", "operations", "fleet"} {
		if found[uid] == nil {
			t.Fatalf("no dashboard has the uid %s", uid)
		}
	}
	return found
}

// snippet evaluates jsonnet that may import the mixin.
func snippet(t *testing.T, code string, into any) {
	t.Helper()
	vm := jsonnet.MakeVM()
	out, err := vm.EvaluateAnonymousSnippet("test.jsonnet", code)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(out), into); err != nil {
		t.Fatal(err)
	}
}

// Fields of an annotation that Grafana reads and the SDK does not know.
var unknownToSDK = []string{"titleFormat", "textFormat", "step"}

// Grafana's own schema reads every dashboard without a field too many, too few or of a wrong type.
func TestDashboardsParseStrictly(t *testing.T) {
	plugins.RegisterDefaultPlugins()
	for uid, d := range dashboards(t) {
		var value map[string]any
		if err := json.Unmarshal(d.raw, &value); err != nil {
			t.Fatal(err)
		}
		for _, a := range value["annotations"].(map[string]any)["list"].([]any) {
			for _, f := range unknownToSDK {
				delete(a.(map[string]any), f)
			}
		}
		raw, err := json.Marshal(value)
		if err != nil {
			t.Fatal(err)
		}
		var strict sdk.Dashboard
		if err := strict.UnmarshalJSONStrict(bytes.Replace(raw, []byte(`"fillOpacity"`), []byte(`"filOpacity"`), 1)); err == nil {
			t.Errorf("%s: a misspelt field goes through", uid)
		}
		strict = sdk.Dashboard{}
		if err := strict.UnmarshalJSONStrict(raw); err != nil {
			t.Errorf("%s: %v", uid, err)
			continue
		}
		if err := strict.Validate(); err != nil {
			t.Errorf("%s: %v", uid, err)
		}
	}
}

// Units that Grafana knows; a misspelt one is shown behind the number.
var units = []string{"short", "none", "s", "bytes", "Bps", "percentunit", "cps", "ops", "eps", "pps", "reqps", "celsius", "watt", "hertz"}

// Enumerations that the strict parse lets pass.
var panelTypes = []string{"row", "timeseries", "stat", "gauge", "bargauge", "table", "heatmap", "state-timeline", "text"}

const maxTitle = 50

// panelRules are the rules of the dashboard linter, and some it does not have.
var panelRules = map[string]func(*dashboard, panel) string{
	"title": func(_ *dashboard, p panel) string {
		if p.Title == "" || utf8.RuneCountInString(p.Title) > maxTitle {
			return fmt.Sprintf("a title has 1 to %d characters", maxTitle)
		}
		return ""
	},
	"description": func(_ *dashboard, p panel) string {
		if len(p.Description) < 5 {
			return "no description"
		}
		return ""
	},
	"type": func(_ *dashboard, p panel) string {
		if !slices.Contains(panelTypes, p.Type) {
			return "unknown type " + p.Type
		}
		return ""
	},
	"unit": func(_ *dashboard, p panel) string {
		if p.Type == "heatmap" { // on its axis
			return ""
		}
		if u := p.FieldConfig.Defaults.Unit; !slices.Contains(units, u) {
			return fmt.Sprintf("unit %q", u)
		}
		return ""
	},
	"datasource": func(_ *dashboard, p panel) string {
		for _, t := range p.Targets {
			if t.Datasource.UID != "${datasource}" || t.Datasource.Type != "prometheus" {
				return "target " + t.RefID + " has a data source of its own"
			}
		}
		if p.Datasource.UID != "${datasource}" {
			return "the data source is not the variable"
		}
		return ""
	},
	"targets": func(_ *dashboard, p panel) string {
		seen := map[string]bool{}
		for _, t := range p.Targets {
			if seen[t.RefID] || t.Expr == "" {
				return "target " + t.RefID + " is empty or not the only one"
			}
			seen[t.RefID] = true
			if t.Range == t.Instant {
				return "target " + t.RefID + " must be a range or an instant"
			}
			if p.Type == "table" && (!t.Instant || t.Format != "table") {
				return "a table's target is an instant of format table"
			}
		}
		if len(p.Targets) == 0 {
			return "no target"
		}
		return ""
	},
	"legend": func(_ *dashboard, p panel) string {
		seen := map[string]bool{}
		for _, t := range p.Targets {
			if p.Type == "table" {
				continue
			}
			if t.LegendFormat == "" || seen[t.LegendFormat] {
				return fmt.Sprintf("legend %q is empty or stands twice", t.LegendFormat)
			}
			seen[t.LegendFormat] = true
		}
		return ""
	},
	"thresholds": func(_ *dashboard, p panel) string {
		steps := p.FieldConfig.Defaults.Thresholds.Steps
		for i, s := range steps {
			if (i == 0) != (s.Value == nil) {
				return "the first step, and only it, has no value"
			}
			if i > 1 && *s.Value <= *steps[i-1].Value {
				return "steps do not ascend"
			}
		}
		return ""
	},
	"selectors": func(d *dashboard, p panel) string {
		for _, t := range p.Targets {
			expr, err := promql.ParseExpr(inGo(t.Expr))
			if err != nil {
				return fmt.Sprintf("%v in %s", err, t.Expr)
			}
			for _, s := range parser.ExtractSelectors(expr) {
				if missing := unselected(s); missing != "" {
					return "no matcher for " + missing + " in " + t.Expr
				}
			}
		}
		return ""
	},
	// A window that is not the panel's is one that its title says: a week's mean, and five minutes of yesterday.
	"rates": func(_ *dashboard, p panel) string {
		for _, t := range p.Targets {
			for _, m := range regexp.MustCompile(`\b(?:i?rate)\([^()]*\{[^}]*\}\[([^\]]+)\]`).FindAllStringSubmatch(t.Expr, -1) {
				if m[1] != "$__rate_interval" && m[1] != "7d" && m[1] != "5m" {
					return "a rate over " + m[1]
				}
			}
		}
		return ""
	},
}

// unselected returns the variable that a selector does not use. Alerts on what is absent have neither job nor instance.
func unselected(matchers []*labels.Matcher) string {
	for _, name := range []string{"job", "cluster", "instance"} {
		ok := slices.ContainsFunc(matchers, func(m *labels.Matcher) bool {
			return m.Name == name && m.Type == labels.MatchRegexp && strings.TrimSuffix(m.Value, "|") == stands[name]
		})
		if !ok {
			return name
		}
	}
	return ""
}

func TestPanels(t *testing.T) {
	total, queries := 0, 0
	for uid, d := range dashboards(t) {
		for _, p := range d.queries() {
			total++
			queries += len(p.Targets)
			for _, rule := range slices.Sorted(maps.Keys(panelRules)) {
				if complaint := panelRules[rule](d, p); complaint != "" {
					t.Errorf("%s, %s: %s: %s", uid, p.Title, rule, complaint)
				}
			}
		}
	}
	t.Logf("%d panels, %d queries", total, queries)
}

// Every panel has its own number and place, and panels side by side have the same height.
func TestLayout(t *testing.T) {
	for uid, d := range dashboards(t) {
		ids, titles := map[int]bool{}, map[string]bool{}
		taken := map[[2]int]string{}
		heights := map[int]int{}
		for _, p := range d.all() {
			if p.ID <= 0 || ids[p.ID] {
				t.Errorf("%s, %s: the id %d is not the only one", uid, p.Title, p.ID)
			}
			ids[p.ID] = true
			if titles[p.Title] {
				t.Errorf("%s: two panels are called %s", uid, p.Title)
			}
			titles[p.Title] = true
			g := p.GridPos
			if g.X < 0 || g.Y < 0 || g.W <= 0 || g.H <= 0 || g.X+g.W > 24 {
				t.Errorf("%s, %s: stands at %+v", uid, p.Title, g)
				continue
			}
			if h, ok := heights[g.Y]; ok && h != g.H {
				t.Errorf("%s, %s: is %d high where its line is %d", uid, p.Title, g.H, h)
			}
			heights[g.Y] = g.H
			for x := g.X; x < g.X+g.W; x++ {
				for y := g.Y; y < g.Y+g.H; y++ {
					if other := taken[[2]int{x, y}]; other != "" {
						t.Fatalf("%s, %s: lies on %s", uid, p.Title, other)
					}
					taken[[2]int{x, y}] = p.Title
				}
			}
		}
	}
}

func TestDashboardSettings(t *testing.T) {
	for uid, d := range dashboards(t) {
		if d.SchemaVersion != 42 || d.Editable || d.ID != nil || d.Title == "" || len(d.Title) > maxTitle || d.Description == "" || !slices.Contains(d.Tags, "niodoo") {
			t.Errorf("%s: schema %d, editable %t, id %v, title %q, tags %v", uid, d.SchemaVersion, d.Editable, d.ID, d.Title, d.Tags)
		}
		if len(uid) > 40 || strings.Contains(string(d.raw), "__inputs") {
			t.Errorf("%s cannot be provisioned", uid)
		}
		for _, a := range d.Annotations.List {
			if a.Datasource.Type == "prometheus" && a.Datasource.UID != "${datasource}" {
				t.Errorf("%s, annotation %s: the data source is not the variable", uid, a.Name)
			}
			if a.Expr == "" {
				continue
			}
			expr, err := promql.ParseExpr(inGo(a.Expr))
			if err != nil {
				t.Errorf("%s, annotation %s: %v", uid, a.Name, err)
				continue
			}
			for _, s := range parser.ExtractSelectors(expr) {
				if missing := unselected(s); missing != "" {
					t.Errorf("%s, annotation %s: no matcher for %s", uid, a.Name, missing)
				}
			}
		}
	}
}

// The variables are there, are as the linter wants them, and are all used.
func TestVariables(t *testing.T) {
	want := []variable{
		{Name: "datasource", Label: "Data source", Type: "datasource"},
		{Name: "cluster", Label: "Cluster", Type: "query", AllValue: ".*"},
		{Name: "job", Label: "Job", Type: "query", AllValue: ".+"},
		{Name: "instance", Label: "Instance", Type: "query", AllValue: ".+"},
	}
	reference := regexp.MustCompile(`\$\{?(\w+)`)
	for uid, d := range dashboards(t) {
		if len(d.Templating.List) != len(want) {
			t.Fatalf("%s has %d variables, want %d", uid, len(d.Templating.List), len(want))
		}
		defined := map[string]bool{}
		for i, v := range d.Templating.List {
			w := want[i]
			defined[v.Name] = true
			if v.Name != w.Name || v.Label != w.Label || v.Type != w.Type || v.AllValue != w.AllValue {
				t.Errorf("%s: variable %d is %+v, want %+v", uid, i, v, w)
			}
			if v.Type == "query" && (v.Refresh != 2 || !v.Multi || !v.IncludeAll || v.Sort != 1 || v.Datasource.UID != "${datasource}") {
				t.Errorf("%s: variable %s is not as it should be: %+v", uid, v.Name, v)
			}
		}
		used := map[string]bool{}
		for _, m := range reference.FindAllStringSubmatch(string(d.raw), -1) {
			if !strings.HasPrefix(m[1], "__") {
				used[m[1]] = true
			}
		}
		if !maps.Equal(used, defined) {
			t.Errorf("%s uses the variables %v and defines %v", uid, slices.Sorted(maps.Keys(used)), slices.Sorted(maps.Keys(defined)))
		}
	}
}

// Every link into Grafana leads to a dashboard that there is, with the range and data source of the one it leaves.
func TestLinks(t *testing.T) {
	all := dashboards(t)
	link := regexp.MustCompile(`"url": ?"(/d/[^"]*)"`)
	for uid, d := range all {
		if len(d.Links) == 0 {
			t.Errorf("%s has no links to the others", uid)
		}
		for _, m := range link.FindAllStringSubmatch(string(d.raw), -1) {
			u, err := url.Parse(m[1])
			if err != nil {
				t.Errorf("%s: %v", uid, err)
				continue
			}
			if all[strings.TrimPrefix(u.Path, "/d/")] == nil {
				t.Errorf("%s links to %s, which there is not", uid, u.Path)
			}
			for _, need := range []string{"${__url_time_range}", "${datasource:queryparam}"} {
				if !strings.Contains(m[1], need) {
					t.Errorf("%s: %s does not take %s along", uid, m[1], need)
				}
			}
		}
	}
	if len(link.FindAllString(string(all["fleet"].raw), -1)) < 5 {
		t.Error("the fleet does not lead to the other dashboards")
	}
}

// The thresholds of a panel are those of the alerts: the stability gauge has the manual's.
func TestStabilityThresholds(t *testing.T) {
	for _, p := range dashboards(t)["consciousness-overview"].all() {
		if p.Title != "Memory System Stability" {
			continue
		}
		got := ""
		for _, s := range p.FieldConfig.Defaults.Thresholds.Steps {
			if s.Value == nil {
				got += s.Color
			} else {
				got += fmt.Sprintf(" %g %s", *s.Value, s.Color)
			}
		}
		if want := "red 0.98 orange 0.99 yellow 0.9951 green"; got != want || p.Type != "gauge" {
			t.Errorf("%s with the thresholds %s, want a gauge with %s", p.Type, got, want)
		}
		return
	}
	t.Error("no panel Memory System Stability")
}

// Each rule finds what it is for.
func TestPanelRules(t *testing.T) {
	const good = `{"type":"stat","title":"Up","description":"Is it up?","datasource":{"type":"prometheus","uid":"${datasource}"},` +
		`"targets":[{"refId":"A","expr":"rate(x{job=~\"$job\",cluster=~\"$cluster\",instance=~\"$instance\"}[$__rate_interval])","legendFormat":"x","range":true,` +
		`"datasource":{"type":"prometheus","uid":"${datasource}"}}],"fieldConfig":{"defaults":{"unit":"short","thresholds":{"steps":[{"color":"red","value":null},{"color":"green","value":1}]}}}}`
	for rule, change := range map[string][2]string{
		"":            {},
		"title":       {`"title":"Up"`, `"title":"` + strings.Repeat("Up", maxTitle) + `"`},
		"description": {"Is it up?", ""},
		"type":        {`"type":"stat"`, `"type":"graph"`},
		"unit":        {`"unit":"short"`, `"unit":"shrot"`},
		"datasource":  {"${datasource}", "${DS_PROMETHEUS}"},
		"targets":     {`"range":true`, `"range":false`},
		"legend":      {`"legendFormat":"x"`, `"legendFormat":""`},
		"thresholds":  {`"value":null`, `"value":0`},
		"selectors":   {`cluster=~\"$cluster\",`, ""},
		"rates":       {"$__rate_interval", "1m"},
	} {
		text := good
		if rule != "" {
			text = strings.ReplaceAll(good, change[0], change[1])
		}
		var p panel
		if err := json.Unmarshal([]byte(text), &p); err != nil {
			t.Fatal(err)
		}
		for name, check := range panelRules {
			if complaint := check(nil, p); (complaint != "") != (name == rule) {
				t.Errorf("a panel with a bad %q: the rule %s says %q", rule, name, complaint)
			}
		}
	}
}
