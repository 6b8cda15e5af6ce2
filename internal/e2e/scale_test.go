// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"go.yaml.in/yaml/v3"
)

// The scale of time. Every duration of the rules and of the routing is divided
// by timeScale: five minutes become ten seconds. What cannot be scaled with
// them are the intervals at which Prometheus scrapes and evaluates, which are
// one second: at least ten scrapes to the shortest window of a rule.
const (
	timeScale    = 30
	scrapeEvery  = time.Second
	evaluateEach = time.Second
)

// scaledNumbers are the numbers in expressions that are durations in seconds
// themselves, and one size that no test's disk should hold.
var scaledNumbers = map[string][]string{
	"DiskFullWithinHours":                    {"< 14400 ", "< 480 ", "< 15300 ", "< 510 "},
	"HeartbeatListenerDown":                  {"> 600", "> 20"},
	"HeartbeatLost":                          {"> 600", "> 20", "<= 600", "<= 20", "time() - 600", "time() - 20"},
	"KPIAbsent":                              {"> 600", "> 20"},
	"LogSilent":                              {"> 900", "> 30"},
	"PostgreSQLIdleInTransaction":            {"> 900", "> 30"},
	"PostgreSQLLongTransaction":              {"> 3600", "> 120"},
	"PostgreSQLPreparedTransactionForgotten": {"> 3600", "> 120"},
	"PostgreSQLSlotRetainsWAL":               {"> 10737418240", "> 33554432"},
}

// notLive are the groups that are left out: burn rates over days would fire at
// once on stacks that are half a minute old.
var notLive = []string{"niodoo-slo-alerts", "niodoo-slo"}

// rule is an alert or a recording rule.
type rule struct {
	Alert         string            `yaml:"alert,omitempty"`
	Record        string            `yaml:"record,omitempty"`
	Expr          string            `yaml:"expr"`
	For           string            `yaml:"for,omitempty"`
	KeepFiringFor string            `yaml:"keep_firing_for,omitempty"`
	Labels        map[string]string `yaml:"labels,omitempty"`
	Annotations   map[string]string `yaml:"annotations,omitempty"`
}

type ruleGroups struct {
	Groups []struct {
		Name  string `yaml:"name"`
		Rules []rule `yaml:"rules"`
	} `yaml:"groups"`
}

// shippedRules reads one of the generated files of rules.
func shippedRules(t testing.TB, name string) ruleGroups {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(Root(t), "rules", name))
	if err != nil {
		t.Fatal(err)
	}
	var g ruleGroups
	if err := yaml.Unmarshal(raw, &g); err != nil {
		t.Fatal(err)
	}
	return g
}

// scaledRules writes a file of rules with its times scaled and returns its path
// and its rules.
func scaledRules(t testing.TB, dir, name string) (string, []rule) {
	t.Helper()
	g := shippedRules(t, name)
	g.Groups = slices.DeleteFunc(g.Groups, func(g struct {
		Name  string `yaml:"name"`
		Rules []rule `yaml:"rules"`
	}) bool {
		return slices.Contains(notLive, g.Name)
	})
	var all []rule
	for i := range g.Groups {
		for j := range g.Groups[i].Rules {
			r := &g.Groups[i].Rules[j]
			r.Expr, r.For, r.KeepFiringFor = scaledExpr(t, r), scaledText(t, r.For), scaledText(t, r.KeepFiringFor)
			all = append(all, *r)
		}
	}
	out, err := yaml.Marshal(g)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, out, 0o600); err != nil {
		t.Fatal(err)
	}
	return path, all
}

// In expressions durations stand in brackets or after offset, and nowhere else.
var (
	exprRange  = regexp.MustCompile(`\[(\w+)(?::(\w+))?\]`)
	exprOffset = regexp.MustCompile(`offset (\w+)`)
)

func scaledExpr(t testing.TB, r *rule) string {
	t.Helper()
	expr := Replaced(t, r.Expr, scaledNumbers[r.Alert]...)
	expr = exprRange.ReplaceAllStringFunc(expr, func(s string) string {
		m := exprRange.FindStringSubmatch(s)
		if m[2] == "" {
			return "[" + scaledText(t, m[1]) + "]"
		}
		return "[" + scaledText(t, m[1]) + ":" + scaledText(t, m[2]) + "]"
	})
	return exprOffset.ReplaceAllStringFunc(expr, func(s string) string {
		return "offset " + scaledText(t, exprOffset.FindStringSubmatch(s)[1])
	})
}

// scaledText scales a duration in Prometheus' spelling; "" stays.
func scaledText(t testing.TB, s string) string {
	t.Helper()
	if s == "" {
		return ""
	}
	return model.Duration(scaled(t, s)).String()
}

// scaled returns a duration in Prometheus' spelling, scaled, in whole milliseconds.
func scaled(t testing.TB, s string) time.Duration {
	t.Helper()
	d, err := model.ParseDuration(s)
	if err != nil {
		t.Fatal(err)
	}
	return (time.Duration(d) / timeScale).Truncate(time.Millisecond)
}

// parsed returns a scaled duration of a rule; "" is none.
func parsed(t testing.TB, s string) time.Duration {
	t.Helper()
	if s == "" {
		return 0
	}
	d, err := model.ParseDuration(s)
	if err != nil {
		t.Fatal(err)
	}
	return time.Duration(d)
}

// counted are the functions that need a while until what they count is enough.
var counted = regexp.MustCompile(`\b(?:rate|increase|changes|resets|deriv|avg_over_time|min_over_time|max_over_time)\([^\[\]]*\[(\w+)\](?: offset (\w+))?`)

// ownWindow is how far a scaled expression looks back itself before it can be
// true: the longest window in it or in the rules it reads, and times it compares.
func ownWindow(t testing.TB, r rule) time.Duration {
	t.Helper()
	var longest time.Duration
	for _, m := range counted.FindAllStringSubmatch(r.Expr, -1) {
		if strings.Contains(m[0], "_over_time") && history(t, m[1]) {
			continue // it asks whether something ever was
		}
		longest = max(longest, parsed(t, m[1])+parsed(t, m[2]))
	}
	if strings.Contains(r.Expr, "rate5m") || strings.Contains(r.Expr, "mean5m") {
		longest = max(longest, scaled(t, "5m"))
	}
	pairs := scaledNumbers[r.Alert]
	for i := 1; i < len(pairs); i += 2 {
		var seconds int
		if _, err := fmt.Sscanf(strings.TrimLeft(pairs[i], "<>= time()-"), "%d", &seconds); err == nil && strings.HasPrefix(pairs[i], ">") && seconds < 3600 {
			longest = max(longest, time.Duration(seconds)*time.Second)
		}
	}
	return longest
}

// history reports whether a scaled window is one that only looks for what was.
func history(t testing.TB, window string) bool {
	return parsed(t, window) >= scaled(t, "1h")
}

// scaledRouting returns the shipped configuration of Alertmanager with its times
// scaled, business hours open, and receivers that mail to and call us.
func scaledRouting(t testing.TB, smtp, hooks string) string {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(Root(t), "alertmanager", "alertmanager.yml"))
	if err != nil {
		t.Fatal(err)
	}
	var c map[string]any
	if err := yaml.Unmarshal(raw, &c); err != nil {
		t.Fatal(err)
	}
	global := c["global"].(map[string]any)
	global["smtp_smarthost"], global["smtp_require_tls"] = smtp, false
	c["templates"] = []string{filepath.Join(Root(t), "alertmanager", "templates", "*.tmpl")}
	for _, r := range c["receivers"].([]any) {
		r := r.(map[string]any)
		if r["name"] == "null" {
			continue
		}
		r["webhook_configs"] = []any{map[string]any{"url": hooks + "/" + r["name"].(string), "send_resolved": true}}
		if mails, ok := r["email_configs"].([]any); ok {
			mails[0].(map[string]any)["to"] = strings.ToLower(r["name"].(string)) + "@example.com"
		}
	}
	scaleRoute(t, c["route"].(map[string]any))
	out, err := yaml.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

func scaleRoute(t testing.TB, r map[string]any) {
	t.Helper()
	for _, key := range []string{"group_wait", "group_interval"} {
		if s, ok := r[key].(string); ok {
			r[key] = scaledText(t, s)
		}
	}
	delete(r, "active_time_intervals")
	children, _ := r["routes"].([]any)
	for _, c := range children {
		scaleRoute(t, c.(map[string]any))
	}
}
