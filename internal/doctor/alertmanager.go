// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/common/model"
	"go.yaml.in/yaml/v3"

	"github.com/niodoo/niodoo_exporter/internal/humanize"
	"github.com/niodoo/niodoo_exporter/internal/promapi"
)

// routing is what the checks want of an Alertmanager's configuration.
type routing struct {
	where     string
	err       error // the file cannot be read as YAML
	root      yaml.Node
	Route     *route `yaml:"route"`
	Inhibit   []any  `yaml:"inhibit_rules"`
	Global    map[string]any
	Receivers []receiver `yaml:"receivers"`
}

// route is a node of the routing tree.
type route struct {
	Receiver string            `yaml:"receiver"`
	Matchers []string          `yaml:"matchers"`
	Match    map[string]string `yaml:"match"`
	MatchRE  map[string]string `yaml:"match_re"`
	Continue bool              `yaml:"continue"`
	Routes   []*route          `yaml:"routes"`
	Interval model.Duration    `yaml:"group_interval"`
	Active   []string          `yaml:"active_time_intervals"`
	Mute     []string          `yaml:"mute_time_intervals"`

	all []matcher
}

// receiver is where alerts are sent; its lists are the integrations.
type receiver map[string]any

func (r receiver) name() string { n, _ := r["name"].(string); return n }

// sends reports whether the receiver has an integration.
func (r receiver) sends() bool {
	for k, v := range r {
		if l, ok := v.([]any); ok && strings.HasSuffix(k, "_configs") && len(l) > 0 {
			return true
		}
	}
	return false
}

// matcher is one condition on a label.
type matcher struct {
	name, op, value string
	re              *regexp.Regexp
}

var matcherRE = regexp.MustCompile(`^\s*("(?:[^"\\]|\\.)*"|[^=!~\s]+)\s*(=~|!~|!=|=)\s*(.*?)\s*$`)

// parseMatcher reads a condition as Alertmanager has it: name="value".
func parseMatcher(text string) (matcher, error) {
	m := matcherRE.FindStringSubmatch(text)
	if m == nil {
		return matcher{}, fmt.Errorf("the matcher %q cannot be read", text)
	}
	return newMatcher(unquote(m[1]), m[2], unquote(m[3]))
}

// splitMatchers takes apart several conditions in one string, in braces or not.
func splitMatchers(text string) []string {
	text = strings.TrimSpace(text)
	if strings.HasPrefix(text, "{") && strings.HasSuffix(text, "}") {
		text = text[1 : len(text)-1]
	}
	var all []string
	quoted, from := false, 0
	for i := 0; i <= len(text); i++ { // the end is a comma too
		switch {
		case i == len(text) || text[i] == ',' && !quoted:
			if one := strings.TrimSpace(text[from:i]); one != "" {
				all = append(all, one)
			}
			from = i + 1
		case text[i] == '\\' && quoted:
			i++
		case text[i] == '"':
			quoted = !quoted
		}
	}
	return all
}

func newMatcher(name, op, value string) (matcher, error) {
	m := matcher{name: name, op: op, value: value}
	if strings.HasSuffix(op, "~") {
		re, err := regexp.Compile("^(?:" + value + ")$")
		if err != nil {
			return m, fmt.Errorf("the matcher %s%s%q: %w", name, op, value, err)
		}
		m.re = re
	}
	return m, nil
}

func unquote(s string) string {
	if u, err := strconv.Unquote(s); err == nil {
		return u
	}
	return s
}

func (m matcher) matches(labels map[string]string) bool {
	v := labels[m.name]
	switch m.op {
	case "=":
		return v == m.value
	case "!=":
		return v != m.value
	case "=~":
		return m.re.MatchString(v)
	}
	return !m.re.MatchString(v)
}

// prepare reads the matchers and hands down the receivers.
func (r *route) prepare(parent string) error {
	if r.Receiver == "" {
		r.Receiver = parent
	}
	var errs []error
	add := func(m matcher, err error) {
		r.all = append(r.all, m)
		errs = append(errs, err)
	}
	for _, text := range r.Matchers {
		for _, one := range splitMatchers(text) {
			add(parseMatcher(one))
		}
	}
	for _, k := range slices.Sorted(maps.Keys(r.Match)) {
		add(newMatcher(k, "=", r.Match[k]))
	}
	for _, k := range slices.Sorted(maps.Keys(r.MatchRE)) {
		add(newMatcher(k, "=~", r.MatchRE[k]))
	}
	for _, c := range r.Routes {
		errs = append(errs, c.prepare(r.Receiver))
	}
	return errors.Join(errs...)
}

// find returns the routes that an alert takes.
func (r *route) find(labels map[string]string) []*route {
	for _, m := range r.all {
		if !m.matches(labels) {
			return nil
		}
	}
	var all []*route
	for _, c := range r.Routes {
		found := c.find(labels)
		all = append(all, found...)
		if len(found) > 0 && !c.Continue {
			break
		}
	}
	if len(all) == 0 {
		return []*route{r}
	}
	return all
}

func (r *route) walk(f func(*route)) {
	f(r)
	for _, c := range r.Routes {
		c.walk(f)
	}
}

// readRouting reads the file, or what Alertmanager says is in force.
func (p *patient) readRouting(ctx context.Context) (routing, error) {
	if p.AlertmanagerFile != "" {
		raw, err := readFile(p.AlertmanagerFile)
		if err != nil {
			return routing{}, err
		}
		return parseRouting(p.AlertmanagerFile, raw), nil
	}
	if !p.Config.Enabled("alertmanager") {
		return routing{}, notExpected{errors.New("alertmanager is not enabled in the configuration, and --alertmanager-file names no file")}
	}
	am, err := promapi.New(p.Config.Alertmanager.HTTP)
	if err != nil {
		return routing{}, fmt.Errorf("alertmanager: %w", err)
	}
	var status struct {
		Config struct {
			Original string `json:"original"`
		} `json:"config"`
	}
	if err := am.Get(ctx, "/api/v2/status", nil, &status); err != nil {
		return routing{}, fmt.Errorf("asking Alertmanager for its configuration: %w", err)
	}
	return parseRouting("the configuration of "+am.URL(), []byte(status.Config.Original)), nil
}

func parseRouting(where string, raw []byte) routing {
	r := routing{where: where}
	if r.err = yaml.Unmarshal(raw, &r.root); r.err == nil {
		r.err = r.root.Decode(&r)
	}
	if r.err == nil && r.Route == nil {
		r.err = errors.New("it has no route")
	}
	if r.err == nil {
		r.err = r.Route.prepare("")
	}
	return r
}

// placeholders are what examples have in the place of real addresses.
var placeholders = []string{"yourdomain.com", "example.com", "example.org"}

// fastGroups is from which group_interval on an incident becomes a flood of mails.
const fastGroups = 30 * time.Second

// alertmanagerCheck looks into alertmanager.yml, the file or the one in force.
func alertmanagerCheck(ctx context.Context, p *patient) ([]Finding, error) {
	c, err := p.am(ctx)
	if err != nil {
		return nil, err
	}
	if c.err != nil {
		return []Finding{{Level: Failing, Where: c.where, What: c.err.Error(), Why: "Alertmanager refuses such a file at its next reload or start.", Mend: "Mend it and try it: amtool check-config."}}, nil
	}
	var found []Finding
	add := func(l Level, what, why, mend string) { found = append(found, Finding{"", l, c.where, what, why, mend}) }
	known := map[string]bool{}
	for _, r := range c.Receivers {
		if known[r.name()] {
			add(Failing, "the receiver "+r.name()+" is there twice", "Alertmanager refuses the file.", "Give one of them another name.")
		}
		known[r.name()] = true
	}
	used := map[string]bool{}
	c.Route.walk(func(r *route) {
		used[r.Receiver] = true
		if !known[r.Receiver] {
			add(Failing, fmt.Sprintf("a route names the receiver %q, which is not there", r.Receiver), "Alertmanager refuses the file.", "Add the receiver, or name another one.")
		}
		if i := time.Duration(r.Interval); i > 0 && i < fastGroups {
			add(Warning, "group_interval is "+humanize.Duration(i), "One incident becomes a flood of messages, each with one more alert.", "group_interval: 5m")
		}
	})
	for _, r := range c.Receivers {
		if !used[r.name()] {
			add(Note, "no route leads to the receiver "+r.name(), "What was to be sent there goes elsewhere.", "Add a route, or remove the receiver.")
		}
	}
	if len(c.Inhibit) == 0 {
		add(Note, "there are no inhibit_rules", "When the database is down, everything that needs it alerts too.", "Use the inhibit_rules of alertmanager/alertmanager.yml.")
	}
	found = append(found, c.emails()...)
	return found, nil
}

// emails looks into the mail settings, where the operations manual's own example
// is refused by Alertmanager.
func (c routing) emails() []Finding {
	var found []Finding
	said := map[string]bool{}
	visit(&c.root, func(key string, k, v *yaml.Node) {
		line := c.where
		if !strings.HasPrefix(c.where, "the configuration") {
			line = fmt.Sprintf("%s:%d", c.where, k.Line)
		}
		if key == "email_configs" && v.Kind == yaml.SequenceNode {
			for _, e := range v.Content {
				for i := 0; i+1 < len(e.Content); i += 2 {
					switch name := e.Content[i].Value; name {
					case "subject":
						found = append(found, Finding{Level: Failing, Where: fmt.Sprintf("%s:%d", c.where, e.Content[i].Line), What: "email_configs has no field subject",
							Why: "Alertmanager refuses the file.", Mend: "headers: {Subject: ...}"})
					case "body":
						found = append(found, Finding{Level: Failing, Where: fmt.Sprintf("%s:%d", c.where, e.Content[i].Line), What: "email_configs has no field body",
							Why: "Alertmanager refuses the file.", Mend: "text: ..., or html: ..."})
					}
				}
			}
		}
		if v.Kind != yaml.ScalarNode || key != "to" && key != "smtp_from" && key != "smtp_smarthost" && key != "from" && key != "smarthost" {
			return
		}
		for _, example := range placeholders {
			if strings.Contains(v.Value, example) && !said[v.Value] {
				said[v.Value] = true
				found = append(found, Finding{Level: Failing, Where: line, What: key + " is still the address of an example, " + v.Value,
					Why: "The mail reaches nobody.", Mend: "Write the address of whoever is on call."})
			}
		}
	})
	return found
}

// visit calls f for every key of every mapping below a node.
func visit(n *yaml.Node, f func(key string, k, v *yaml.Node)) {
	for i, c := range n.Content {
		if n.Kind == yaml.MappingNode && i%2 == 0 {
			f(c.Value, c, n.Content[i+1])
		}
		visit(c, f)
	}
}

// routingCheck sends every loaded alert through the routing tree.
func routingCheck(ctx context.Context, p *patient) ([]Finding, error) {
	c, err := p.am(ctx)
	if err != nil {
		return nil, err
	}
	if c.err != nil {
		return nil, errors.New("the configuration of Alertmanager cannot be read")
	}
	all, err := p.rules(ctx)
	if err != nil {
		return nil, err
	}
	sends := map[string]bool{}
	for _, r := range c.Receivers {
		sends[r.name()] = r.sends()
	}
	lost, late := map[string][]string{}, map[string][]string{}
	urgent := map[string]bool{}
	heartbeat := ""
	for _, r := range alerts(all) {
		labels := map[string]string{}
		for k, v := range r.labels {
			if !strings.Contains(string(v), "{{") {
				labels[string(k)] = string(v)
			}
		}
		labels["alertname"] = r.name
		reached, always := false, false
		routes := c.Route.find(labels)
		for _, t := range routes {
			reached = reached || sends[t.Receiver]
			always = always || sends[t.Receiver] && len(t.Active) == 0 && len(t.Mute) == 0
		}
		at := routes[0]
		priority := labels["priority"]
		switch {
		case r.name == "Watchdog" && !reached:
			heartbeat = at.Receiver
		case labels["severity"] == "none":
		case !reached:
			lost[at.Receiver] = appendNew(lost[at.Receiver], r.name)
			urgent[at.Receiver] = urgent[at.Receiver] || priority == "P1" || priority == "P2"
		case !always && (priority == "P1" || priority == "P2" || labels["severity"] == "critical"):
			when := strings.Join(slices.Concat(at.Active, at.Mute), ", ")
			late[when] = appendNew(late[when], r.name)
		}
	}
	var found []Finding
	for _, name := range slices.Sorted(maps.Keys(lost)) {
		level := Warning
		if urgent[name] {
			level = Failing
		}
		found = append(found, Finding{Level: level, Where: fmt.Sprintf("receiver %q", name), What: fmt.Sprintf("%d alerts end here, and it sends nothing: %s", len(lost[name]), list(lost[name])),
			Why: "They fire and nobody is told.", Mend: "Give the receiver an integration, such as email_configs, or the route another receiver."})
	}
	if heartbeat != "" {
		found = append(found, Finding{Level: Warning, Where: fmt.Sprintf("receiver %q", heartbeat), What: "Watchdog ends here, and it sends nothing",
			Why:  "If Prometheus or Alertmanager dies, nobody is told: silence looks like health.",
			Mend: "Give the receiver a webhook of a service that calls when it stops, or of niodooctl incident listen on another machine."})
	}
	for _, when := range slices.Sorted(maps.Keys(late)) {
		found = append(found, Finding{Level: Warning, Where: "time intervals " + when, What: fmt.Sprintf("%d urgent alerts are held back outside of them: %s", len(late[when]), list(late[when])),
			Why: "Nobody is called at night.", Mend: "Remove the time intervals from their route."})
	}
	return found, nil
}

func appendNew(all []string, s string) []string {
	if slices.Contains(all, s) {
		return all
	}
	return append(all, s)
}
