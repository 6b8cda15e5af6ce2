// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"go.yaml.in/yaml/v3"
)

// pace is how fast time runs for a chain. Every duration of the rules and of the
// routing is divided by its scale.
type pace struct {
	scale            int
	scrape, evaluate time.Duration
}

var (
	// quick makes ten seconds of five minutes. What is not scaled with them are
	// the intervals at which Prometheus scrapes and evaluates: at least ten scrapes
	// to the shortest window of a rule.
	quick = pace{scale: 30, scrape: time.Second, evaluate: time.Second}
	// inProportion divides the 15 s of the examples' scrapes and evaluations, too.
	inProportion = pace{scale: 5, scrape: 3 * time.Second, evaluate: 3 * time.Second}
)

// secondsIn are the numbers in expressions that are durations in seconds themselves.
var secondsIn = map[string][]string{
	"DiskFullWithinHours":                    {"< 14400 ", "< 15300 "},
	"HeartbeatListenerDown":                  {"> 600"},
	"HeartbeatLost":                          {"> 600", "<= 600", "time() - 600"},
	"KPIAbsent":                              {"> 600"},
	"LogSilent":                              {"> 900"},
	"PostgreSQLIdleInTransaction":            {"> 900"},
	"PostgreSQLLongTransaction":              {"> 3600"},
	"PostgreSQLPreparedTransactionForgotten": {"> 3600"},
	"PostgreSQLReplicationLag":               {"> 60"},
}

// sizesIn are sizes in expressions that no test's disk should hold, and what
// stands for them.
var sizesIn = map[string][]string{
	"PostgreSQLSlotRetainsWAL": {"> 10737418240", "> 33554432"},
}

// slowBurn are the windows whose burn rates are left out: rows of the scheme that
// look back for hours and days would take the minute that a stack is old for all
// of it, and a fault of seconds for a spent budget.
var slowBurn = []string{"6h", "1d", "3d"}

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
func (p pace) scaledRules(t testing.TB, dir, name string) (string, []rule) {
	t.Helper()
	g := shippedRules(t, name)
	var all []rule
	for i := range g.Groups {
		g.Groups[i].Rules = slices.DeleteFunc(g.Groups[i].Rules, func(r rule) bool { return slices.Contains(slowBurn, r.Labels["window"]) })
		for j := range g.Groups[i].Rules {
			r := &g.Groups[i].Rules[j]
			r.Expr, r.For, r.KeepFiringFor = p.scaledExpr(t, r), p.scaledText(t, r.For), p.scaledText(t, r.KeepFiringFor)
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

func (p pace) scaledExpr(t testing.TB, r *rule) string {
	t.Helper()
	expr := Replaced(t, r.Expr, sizesIn[r.Alert]...)
	for _, text := range secondsIn[r.Alert] {
		expr = Replaced(t, expr, text, p.scaledSeconds(t, text))
	}
	expr = exprRange.ReplaceAllStringFunc(expr, func(s string) string {
		m := exprRange.FindStringSubmatch(s)
		if m[2] == "" {
			return "[" + p.scaledText(t, m[1]) + "]"
		}
		return "[" + p.scaledText(t, m[1]) + ":" + p.scaledText(t, m[2]) + "]"
	})
	return exprOffset.ReplaceAllStringFunc(expr, func(s string) string {
		return "offset " + p.scaledText(t, exprOffset.FindStringSubmatch(s)[1])
	})
}

var wholeNumber = regexp.MustCompile(`\d+`)

// scaledSeconds scales the number of seconds in a text.
func (p pace) scaledSeconds(t testing.TB, text string) string {
	t.Helper()
	return wholeNumber.ReplaceAllStringFunc(text, func(number string) string {
		n, err := strconv.Atoi(number)
		if err != nil {
			t.Fatal(err)
		}
		return strconv.Itoa(n / p.scale)
	})
}

// scaledText scales a duration in Prometheus' spelling; "" stays.
func (p pace) scaledText(t testing.TB, s string) string {
	t.Helper()
	if s == "" {
		return ""
	}
	return model.Duration(p.scaled(t, s)).String()
}

// scaled returns a duration in Prometheus' spelling, scaled, in whole milliseconds.
func (p pace) scaled(t testing.TB, s string) time.Duration {
	t.Helper()
	d, err := model.ParseDuration(s)
	if err != nil {
		t.Fatal(err)
	}
	return (time.Duration(d) / time.Duration(p.scale)).Truncate(time.Millisecond)
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

// recorded are the windows of the recorded rules that alerts read.
var recorded = regexp.MustCompile(`:\w*(?:rate|mean|over_time)(\d+[mhd])\b`)

// ownWindow is how far a scaled expression looks back itself before it can be
// true: the longest window in it or in the rules it reads, and times it compares.
func (p pace) ownWindow(t testing.TB, r rule) time.Duration {
	t.Helper()
	var longest time.Duration
	for _, m := range counted.FindAllStringSubmatch(r.Expr, -1) {
		if strings.Contains(m[0], "_over_time") && p.history(t, m[1]) {
			continue // it asks whether something ever was
		}
		longest = max(longest, parsed(t, m[1])+parsed(t, m[2]))
	}
	for _, m := range recorded.FindAllStringSubmatch(r.Expr, -1) {
		longest = max(longest, p.scaled(t, m[1]))
	}
	for _, text := range secondsIn[r.Alert] {
		if strings.HasPrefix(text, ">") {
			longest = max(longest, parsed(t, p.scaledSeconds(t, strings.Trim(text, "> "))+"s"))
		}
	}
	return longest
}

// history reports whether a scaled window is one that only looks for what was.
func (p pace) history(t testing.TB, window string) bool {
	return parsed(t, window) >= p.scaled(t, "1h")
}

// scaledRouting returns the shipped configuration of Alertmanager with its times
// scaled, business hours open, and receivers that mail to and call us.
func (p pace) scaledRouting(t testing.TB, smtp, hooks string) string {
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
	p.scaleRoute(t, c["route"].(map[string]any))
	out, err := yaml.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

func (p pace) scaleRoute(t testing.TB, r map[string]any) {
	t.Helper()
	for _, key := range []string{"group_wait", "group_interval"} {
		if s, ok := r[key].(string); ok {
			r[key] = p.scaledText(t, s)
		}
	}
	delete(r, "active_time_intervals")
	children, _ := r["routes"].([]any)
	for _, c := range children {
		p.scaleRoute(t, c.(map[string]any))
	}
}
