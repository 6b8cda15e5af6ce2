// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package notify

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/common/model"
	"go.yaml.in/yaml/v3"

	"github.com/niodoo/niodoo_exporter/internal/config"
	"github.com/niodoo/niodoo_exporter/internal/opstate"
	"github.com/niodoo/niodoo_exporter/internal/promtext"
)

// TestAlert is the name of the alerts that try the chain.
const TestAlert = "NiodooNotificationTest"

// severities are those that the rules' alerts of a priority have.
var severities = map[opstate.Priority]string{"P1": "critical", "P2": "warning", "P3": "warning", "P4": "info"}

// Chain tries the way of an alert through Alertmanager to its receivers.
type Chain struct {
	Config     config.Notify
	Priorities []opstate.Priority
	// Target are further labels of the alerts.
	Target map[string]string
	// ID tells this trial from others; it is the label test.
	ID string
	// Wait is how long to wait for the notifications.
	Wait time.Duration
	// Progress is told how many of the alerts have arrived; nil is nobody.
	Progress func(arrived int)
}

// Delivery is what became of the alert of one priority.
type Delivery struct {
	Priority  opstate.Priority `json:"priority"`
	Verdict   opstate.Verdict  `json:"verdict"`
	Receivers []Receiver       `json:"receivers"`
	// Sent says that all of its receivers' notifications went out.
	Sent bool `json:"sent"`
	// Seconds is how long that took.
	Seconds float64 `json:"seconds,omitempty"`
	Text    string  `json:"text"`

	wait time.Duration // of its route
	held bool          // by a time interval of its route
}

// Receiver is one of Alertmanager's and what it sends through.
type Receiver struct {
	Name         string   `json:"name"`
	Integrations []string `json:"integrations"`
}

const (
	chainPoll = 500 * time.Millisecond
	// chainCleanUp bounds the resolving of the alerts at the end.
	chainCleanUp = 10 * time.Second
	maxAnswer    = 16 << 20
)

// Try posts an alert of each priority, waits until their notifications have
// gone out, and resolves them whatever happens. An error is what kept it from
// finding out anything.
func (c Chain) Try(ctx context.Context) (deliveries []Delivery, err error) {
	routes, err := c.routing(ctx)
	if err != nil {
		return nil, err
	}
	before, err := c.counts(ctx)
	if err != nil {
		return nil, err
	}
	started := time.Now()
	if err := PostAlerts(ctx, c.Config, c.alerts(started, started.Add(c.Wait+time.Minute))); err != nil {
		return nil, err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), chainCleanUp)
		defer cancel()
		if cerr := PostAlerts(ctx, c.Config, c.alerts(started, time.Now())); err == nil && cerr != nil {
			err = fmt.Errorf("the test alerts could not be resolved; they end by themselves: %w", cerr)
		}
	}()
	deadline := started.Add(c.Wait)
	for {
		seen, err := c.seen(ctx)
		if err != nil {
			return nil, err
		}
		after, err := c.counts(ctx)
		if err != nil {
			return nil, err
		}
		last := !time.Now().Before(deadline)
		deliveries = c.judge(routes, seen, after.less(before), time.Since(started), last)
		arrived := 0
		for _, d := range deliveries {
			if d.Sent {
				arrived++
			}
		}
		if c.Progress != nil {
			c.Progress(arrived)
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if !slices.ContainsFunc(deliveries, Delivery.waits) || last {
			return deliveries, nil
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(chainPoll):
		}
	}
}

// waits reports whether more may soon become of it.
func (d Delivery) waits() bool { return d.Verdict == opstate.Unknown && !d.held }

func (c Chain) alerts(starts, ends time.Time) []Alert {
	out := make([]Alert, len(c.Priorities))
	for i, p := range c.Priorities {
		labels := maps.Clone(c.Target)
		if labels == nil {
			labels = map[string]string{}
		}
		labels["alertname"], labels["priority"], labels["severity"] = TestAlert, string(p), severities[p]
		labels["component"], labels["source"], labels["test"] = "operations", "niodooctl", c.ID
		out[i] = Alert{Labels: labels, StartsAt: starts, EndsAt: ends, Annotations: map[string]string{
			"summary":     "This is a test of the notifications of priority " + string(p) + "; nothing is wrong.",
			"description": "niodooctl notify test sent it to see that it arrives. Nothing is to be done."}}
	}
	return out
}

// seenAlert is an alert as Alertmanager shows it.
type seenAlert struct {
	Labels    map[string]string `json:"labels"`
	Receivers []struct {
		Name string `json:"name"`
	} `json:"receivers"`
	Status struct {
		State       string   `json:"state"`
		SilencedBy  []string `json:"silencedBy"`
		InhibitedBy []string `json:"inhibitedBy"`
		MutedBy     []string `json:"mutedBy"`
	} `json:"status"`
}

func (c Chain) seen(ctx context.Context) (map[opstate.Priority]seenAlert, error) {
	// Only groups tell that they are muted.
	raw, err := c.get(ctx, "/api/v2/alerts/groups?"+url.Values{"filter": {fmt.Sprintf("test=%q", c.ID)}}.Encode())
	if err != nil {
		return nil, err
	}
	var groups []struct {
		Alerts []seenAlert `json:"alerts"`
	}
	if err := json.Unmarshal(raw, &groups); err != nil {
		return nil, fmt.Errorf("reading Alertmanager's alerts: %w", err)
	}
	out := map[opstate.Priority]seenAlert{}
	for _, g := range groups {
		for _, a := range g.Alerts {
			out[opstate.Priority(a.Labels["priority"])] = a // in each group with all its receivers
		}
	}
	return out, nil
}

// route is what a receiver has: what it sends through, and how long its groups wait.
type route struct {
	integrations []string
	wait         time.Duration
}

// amConfig is what is needed of Alertmanager's configuration.
type amConfig struct {
	Route     amRoute          `yaml:"route"`
	Receivers []map[string]any `yaml:"receivers"`
}

type amRoute struct {
	Receiver  string          `yaml:"receiver"`
	GroupWait *model.Duration `yaml:"group_wait"`
	Routes    []amRoute       `yaml:"routes"`
}

// defaultGroupWait is Alertmanager's.
const defaultGroupWait = 30 * time.Second

func (c Chain) routing(ctx context.Context) (map[string]route, error) {
	raw, err := c.get(ctx, "/api/v2/status")
	if err != nil {
		return nil, err
	}
	var status struct {
		Config struct {
			Original string `json:"original"`
		} `json:"config"`
	}
	if err := json.Unmarshal(raw, &status); err != nil {
		return nil, fmt.Errorf("reading Alertmanager's status: %w", err)
	}
	var cfg amConfig
	if err := yaml.Unmarshal([]byte(status.Config.Original), &cfg); err != nil {
		return nil, fmt.Errorf("reading Alertmanager's configuration: %w", err)
	}
	routes := map[string]route{}
	for _, r := range cfg.Receivers {
		name, _ := r["name"].(string)
		routes[name] = route{integrations: integrations(r)}
	}
	cfg.Route.walk(defaultGroupWait, "", routes)
	return routes, nil
}

// integrations lists what a receiver sends through, as the metrics name it,
// each as often as it stands there.
func integrations(receiver map[string]any) []string {
	out := []string{}
	for _, key := range slices.Sorted(maps.Keys(receiver)) {
		kind, ok := strings.CutSuffix(key, "_configs")
		list, isList := receiver[key].([]any)
		for range list {
			if ok && isList {
				out = append(out, kind)
			}
		}
	}
	return out
}

// walk notes the longest time that a receiver's groups wait.
func (r amRoute) walk(wait time.Duration, receiver string, routes map[string]route) {
	receiver = cmp.Or(r.Receiver, receiver)
	if r.GroupWait != nil {
		wait = time.Duration(*r.GroupWait)
	}
	if to, ok := routes[receiver]; ok {
		to.wait = max(to.wait, wait)
		routes[receiver] = to
	}
	for _, child := range r.Routes {
		child.walk(wait, receiver, routes)
	}
}

// counts are, by integration, the notifications that went out, the attempts
// that failed, and the notifications that were given up.
type counts struct{ sent, failed, givenUp map[string]float64 }

func newCounts() counts {
	return counts{map[string]float64{}, map[string]float64{}, map[string]float64{}}
}

// counts asks twice: a registry gathers its families side by side, so that one
// answer can have an attempt and not yet that it failed. The failures of a later
// answer cover the attempts of an earlier one.
func (c Chain) counts(ctx context.Context) (counts, error) {
	n := newCounts()
	for _, later := range []bool{false, true} {
		raw, err := c.get(ctx, "/metrics")
		if err != nil {
			return counts{}, err
		}
		promtext.Parse(raw, func(s *promtext.Sample) {
			integration := s.Label("integration")
			switch {
			case !later && s.Name == "alertmanager_notification_requests_total":
				n.sent[integration] += s.Value
			case later && s.Name == "alertmanager_notification_requests_failed_total":
				n.sent[integration] -= s.Value
				n.failed[integration] += s.Value
			case later && s.Name == "alertmanager_notifications_failed_total":
				n.givenUp[integration] += s.Value
			}
		})
	}
	return n, nil
}

func (n counts) less(before counts) counts {
	out := newCounts()
	for _, m := range []struct{ out, after, before map[string]float64 }{
		{out.sent, n.sent, before.sent}, {out.failed, n.failed, before.failed}, {out.givenUp, n.givenUp, before.givenUp},
	} {
		for k, v := range m.after {
			m.out[k] = v - m.before[k]
		}
	}
	return out
}

// judge says what has become of each alert. Alertmanager counts notifications
// by integration only: those that went out since the start belong to the alerts
// whose routes wait the shortest.
func (c Chain) judge(routes map[string]route, seen map[opstate.Priority]seenAlert, since counts, took time.Duration, last bool) []Delivery {
	out := make([]Delivery, len(c.Priorities))
	order := make([]*Delivery, len(out))
	for i, p := range c.Priorities {
		a, there := seen[p]
		out[i] = deliver(p, a, there, routes)
		order[i] = &out[i]
	}
	slices.SortStableFunc(order, func(a, b *Delivery) int { return cmp.Compare(a.wait, b.wait) })
	for _, d := range order {
		if d.waits() && len(d.Receivers) > 0 {
			d.settle(since, took, last)
		}
	}
	return out
}

// deliver says what Alertmanager itself shows of an alert.
func deliver(p opstate.Priority, a seenAlert, there bool, routes map[string]route) Delivery {
	d := Delivery{Priority: p, Verdict: opstate.Unknown, Receivers: []Receiver{}}
	if !there {
		d.Text = "Alertmanager took it and does not show it"
		return d
	}
	for _, r := range a.Receivers {
		d.Receivers = append(d.Receivers, Receiver{r.Name, routes[r.Name].integrations})
		d.wait = max(d.wait, routes[r.Name].wait)
	}
	silent := !slices.ContainsFunc(d.Receivers, func(r Receiver) bool { return len(r.Integrations) > 0 })
	switch {
	case len(a.Status.SilencedBy) > 0:
		d.Verdict, d.Text = opstate.Warning, "it is silenced by "+strings.Join(a.Status.SilencedBy, ", ")
	case len(a.Status.InhibitedBy) > 0:
		d.Verdict, d.Text = opstate.Warning, "another alert inhibits it: "+strings.Join(a.Status.InhibitedBy, ", ")
	case silent:
		d.Verdict, d.Text = opstate.Failing, "nobody is told: its receiver sends nothing"
	case len(a.Status.MutedBy) > 0:
		d.held, d.Text = true, "held back until "+strings.Join(a.Status.MutedBy, ", ")
	default:
		d.Text = "not sent yet: its route waits " + d.wait.String()
	}
	return d
}

// enoughFailures are attempts after which no more are waited for.
const enoughFailures = 3

// settle takes the alert's notifications from those that went out.
func (d *Delivery) settle(since counts, took time.Duration, last bool) {
	wanted := map[string]float64{}
	for _, r := range d.Receivers {
		for _, i := range r.Integrations {
			wanted[i]++
		}
	}
	var failing []string
	missing := false
	for _, i := range slices.Sorted(maps.Keys(wanted)) {
		if since.sent[i] >= wanted[i] {
			continue
		}
		missing = true
		if since.givenUp[i] > 0 || since.failed[i] >= enoughFailures || last && since.failed[i] > 0 {
			failing = append(failing, i)
		}
	}
	switch {
	case len(failing) > 0:
		d.Verdict, d.Text = opstate.Failing, "Alertmanager cannot send by "+strings.Join(failing, ", ")+"; its log has the reason"
	case !missing:
		for i, n := range wanted {
			since.sent[i] -= n
		}
		d.Verdict, d.Sent, d.Seconds, d.Text = opstate.Well, true, took.Seconds(), "sent"
	}
}

// get returns Alertmanager's answer of status 200.
func (c Chain) get(ctx context.Context, path string) ([]byte, error) {
	if c.Config.Alertmanager == "" {
		return nil, fmt.Errorf("notify.alertmanager: %w", ErrNotConfigured)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimRight(c.Config.Alertmanager, "/")+path, http.NoBody)
	if err != nil {
		return nil, fmt.Errorf("asking Alertmanager: %w", err)
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("asking Alertmanager: %w", err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return nil, fmt.Errorf("asking Alertmanager: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("asking Alertmanager: %s answered %s", path, resp.Status)
	}
	return raw, nil
}
