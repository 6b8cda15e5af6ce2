// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package mixin

import (
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-jsonnet/formatter"
)

func alertsOf(t *testing.T) []rule {
	t.Helper()
	var all []rule
	for _, g := range rules(t, "prometheusAlerts") {
		all = append(all, g.Rules...)
	}
	return all
}

// The generated files that are committed are those the jsonnet gives.
func TestGeneratedFilesAreCurrent(t *testing.T) {
	files, err := Generate("..")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range slices.Sorted(maps.Keys(files)) {
		got, err := os.ReadFile(filepath.Join("..", path))
		if err != nil || string(got) != string(files[path]) {
			t.Errorf("%s is not current: run make generate (%v)", path, err)
		}
	}
	on, err := filepath.Glob("../dashboards/*.json")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range on {
		if files["dashboards/"+filepath.Base(path)] == nil {
			t.Errorf("%s is generated no more: run make generate", path)
		}
	}
}

// The jsonnet is written the way its formatter writes it.
func TestJsonnetIsFormatted(t *testing.T) {
	err := filepath.WalkDir(".", func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, "sonnet") && !strings.HasSuffix(path, ".jsonnet") {
			return err
		}
		raw, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		want, err := formatter.Format(path, string(raw), formatter.DefaultOptions())
		if err != nil {
			return err
		}
		if want != string(raw) {
			t.Errorf("%s is not formatted: run jsonnetfmt -i", path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// The contract's alerts have its names, durations and priorities.
func TestContractAlerts(t *testing.T) {
	byName := map[string]rule{}
	for _, a := range alertsOf(t) {
		byName[a.Alert] = a
	}
	for name, want := range map[string][3]string{
		"ConsciousnessEngineDown":  {"1m", "critical", "P1"},
		"DatabaseConnectionFailed": {"1m", "critical", "P1"},
		"HighProcessingLatency":    {"3m", "warning", "P2"},
		"MemorySystemInstability":  {"2m", "warning", "P2"},
		"HighMemoryUsage":          {"5m", "warning", "P3"},
	} {
		a := byName[name]
		if got := [3]string{a.For, a.Labels["severity"], a.Labels["priority"]}; got != want {
			t.Errorf("%s has for, severity, priority %v, want %v", name, got, want)
		}
	}
	for _, name := range []string{"HighCPUUsage", "HighDiskUsage", "ServiceDown", "PostgreSQLDown", "RequiredModelMissing", "MemoryStabilityCritical",
		"NiodooExporterDown", "NiodooCollectorFailing", "ComponentFlapping", "HeartbeatLost", "IncidentUnacknowledged", "Watchdog"} {
		if byName[name].Alert == "" {
			t.Errorf("%s is missing", name)
		}
	}
}

var severityOf = map[string]string{"P1": "critical", "P2": "warning", "P3": "warning", "P4": "info", "": "none"}

// Every alert says what someone at night needs, and links to where it says more.
func TestEveryAlertIsComplete(t *testing.T) {
	dashboards, err := filepath.Glob("../dashboards/*.json")
	if err != nil {
		t.Fatal(err)
	}
	alerts := alertsOf(t)
	names := map[string]bool{}
	for _, a := range alerts {
		names[a.Alert] = true
		if want, ok := severityOf[a.Labels["priority"]]; !ok || a.Labels["severity"] != want {
			t.Errorf("%s: severity %q does not go with priority %q", a.Alert, a.Labels["severity"], a.Labels["priority"])
		}
		// An alert about several components takes the label from its series.
		if a.Labels["component"] == "" && !strings.Contains(a.Expr, "niodoo_component_") && !strings.Contains(a.Expr, "tls_not_after") {
			t.Errorf("%s has no component", a.Alert)
		}
		if _, ok := a.Labels["reason"]; ok {
			t.Errorf("%s: a reason is an annotation, not a label", a.Alert)
		}
		if s := a.Annotations["summary"]; s == "" || strings.Contains(s, "{{") || !strings.HasSuffix(s, ".") || !capital(s) {
			t.Errorf("%s: the summary %q is not one constant sentence", a.Alert, s)
		}
		if a.Annotations["description"] == "" {
			t.Errorf("%s has no description", a.Alert)
		}
		if got := a.Annotations["runbook_url"]; !strings.HasSuffix(got, "/"+a.Alert+".md") {
			t.Errorf("%s: runbook_url is %q", a.Alert, got)
		}
		uid, _, _ := strings.Cut(a.Annotations["dashboard_url"][strings.LastIndex(a.Annotations["dashboard_url"], "/d/")+3:], "?")
		if !slices.Contains(dashboards, "../dashboards/"+uid+".json") {
			t.Errorf("%s: there is no dashboard %q", a.Alert, uid)
		}
	}
	t.Logf("%d alerts, %d names, %d groups", len(alerts), len(names), len(rules(t, "prometheusAlerts")))
}

// Group names and sizes are what mixtool's lint accepts.
func TestRuleGroups(t *testing.T) {
	seen := map[string]bool{}
	for _, field := range []string{"prometheusAlerts", "prometheusRules", "manualNames", "manualUp"} {
		for _, g := range rules(t, field) {
			if len(g.Rules) > 20 || len(g.Rules) == 0 || len(g.Name) > 40 || seen[g.Name] {
				t.Errorf("%s: group %s has %d rules, is too long, or stands twice", field, g.Name, len(g.Rules))
			}
			seen[g.Name] = true
		}
	}
}

var heading = regexp.MustCompile(`(?m)^## (.+)$`)

// Every alert has a runbook that says what users notice and how to confirm,
// mend and prevent; every runbook has an alert, if only one that is off.
func TestRunbooks(t *testing.T) {
	names := map[string]bool{}
	for _, a := range alertsOf(t) {
		names[a.Alert] = true
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		raw, err := os.ReadFile(filepath.Join("../docs/runbooks", name+".md"))
		if err != nil {
			t.Errorf("%s has no runbook: %v", name, err)
			continue
		}
		text := string(raw)
		if !strings.HasPrefix(text, "# "+name+"\n") {
			t.Errorf("%s: the runbook has another title", name)
		}
		var sections []string
		for _, m := range heading.FindAllStringSubmatch(text, -1) {
			sections = append(sections, m[1])
		}
		for _, want := range []string{"What users notice", "Confirm", "Mend", "Prevent"} {
			if !slices.Contains(sections, want) {
				t.Errorf("%s: the runbook has no section %q (it has %q)", name, want, sections)
			}
		}
	}
	pages, err := filepath.Glob("../docs/runbooks/*.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range pages {
		name := strings.TrimSuffix(filepath.Base(p), ".md")
		off := []string{"InfoInhibitor", "LowConsciousnessProcessingRate"}
		if !names[name] && !slices.Contains(off, name) && name != "README" {
			t.Errorf("%s is about no alert", p)
		}
	}
}

// tool returns the path of a program that make tools builds.
func tool(t *testing.T, name string) string {
	t.Helper()
	if p, err := exec.LookPath(name); err == nil {
		return p
	}
	p, err := filepath.Abs("../.build/tools/" + name)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(p); err != nil {
		t.Fatalf("%s is missing: run make tools in the repository's root", name)
	}
	return p
}

// The rules load in vmalert too, templates and expressions checked.
func TestVmalertLoadsTheRules(t *testing.T) {
	if out, err := exec.Command(tool(t, "vmalert"), "-dryRun", "-rule=../rules/*.yml", "-rule.validateTemplates", "-rule.validateExpressions").CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestPromtoolCheckRules(t *testing.T) {
	files, err := filepath.Glob("../rules/*.yml")
	if err != nil || len(files) != 4 {
		t.Fatalf("rule files %v, %v", files, err)
	}
	if out, err := exec.Command(tool(t, "promtool"), append([]string{"check", "rules", "--lint=all", "--lint-fatal"}, files...)...).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

var alertname = regexp.MustCompile(`alertname: "?(\w+)`)
var fires = regexp.MustCompile(`exp_alerts:\s*\n\s*- |exp_alerts: \[\{|exp_annotations`)

// Every alert has a unit test in which it fires and one in which it does not.
// The files run side by side: each evaluates every rule.
func TestPromtoolTestRules(t *testing.T) {
	files, err := filepath.Glob("tests/*_test.yml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no tests: %v", err)
	}
	tested := map[string]int{}
	cases := 0
	for _, f := range files {
		raw, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		if !fires.Match(raw) {
			t.Errorf("%s: nothing fires", f)
		}
		for _, m := range alertname.FindAllSubmatch(raw, -1) {
			tested[string(m[1])]++
			cases++
		}
	}
	for _, a := range alertsOf(t) {
		if tested[a.Alert] < 2 && a.Alert != "Watchdog" {
			t.Errorf("%s has %d assertions, want one where it fires and one where it does not", a.Alert, tested[a.Alert])
		}
	}
	t.Logf("%d files, %d assertions about %d alerts", len(files), cases, len(tested))
	promtool := tool(t, "promtool")
	for _, f := range files {
		t.Run(filepath.Base(f), func(t *testing.T) {
			t.Parallel()
			if out, err := exec.Command(promtool, "test", "rules", f).CombinedOutput(); err != nil {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}

// capital reports whether a sentence begins as one: with a capital, or with a
// name that is written otherwise.
func capital(s string) bool {
	return s != "" && s[0] >= 'A' && s[0] <= 'Z' || strings.HasPrefix(s, "vLLM ")
}
