// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package health

import (
	"fmt"

	"github.com/niodoo/niodoo_exporter/collector"
	"github.com/niodoo/niodoo_exporter/internal/config"
	"github.com/niodoo/niodoo_exporter/internal/humanize"
	"github.com/niodoo/niodoo_exporter/internal/opstate"
)

// roles are the components' parts in the operations manual's architecture, and
// for each the figure that matters most.
var roles = map[string]struct {
	role   string
	figure func(*snapshot) *Figure
}{
	"engine":       {"consciousness engine", eventRate},
	"pipeline":     {"live pipeline", nil},
	"postgresql":   {"memory system", connectionsUsed},
	"redis":        {"emotional processing", total("memory used", "redis_memory_used_bytes", "bytes")},
	"ollama":       {"model inference", share("required models available", "ollama_required_model_available")},
	"vllm":         {"model inference", total("requests waiting", "vllm_requests_waiting", "")},
	"qdrant":       {"vector database", total("points", "qdrant_collection_points", "")},
	"prometheus":   {"monitoring", targetsUp},
	"grafana":      {"dashboards", share("database ok", "grafana_database_ok")},
	"alertmanager": {"alert routing", total("active alerts", "alertmanager_alerts", "", "state", "active")},
	"loki":         {"log store", nil},
	"docker":       {"containers", share("containers running", "docker_container_running")},
	"host":         {"this machine", machineUse},
	"gpu":          {"graphics processors", total("utilization", "gpu_utilization_ratio", "ratio")},
	"logs":         {"log files", total("size", "logs_file_size_bytes", "bytes")},
	"backup":       {"backups", backupAge},
	"operations":   {"maintenance and incidents", total("open incidents", "operations_incidents_open", "")},
}

// ourFault are the reasons that say nothing about the component.
var ourFault = map[collector.Reason]bool{collector.ReasonConfig: true, collector.ReasonPanic: true}

// component says what one collector found of its component.
func (s *snapshot) component(l look) Component {
	c := Component{Name: l.name, Role: roles[l.name].role, Local: isLocal(l.name), Verdict: opstate.Well}
	if f := roles[l.name].figure; f != nil {
		c.Figure = f(s)
	}
	if v, ok := s.one("component_response_seconds", "component", l.name); ok {
		c.Response = &v
	}
	if p := s.all("component_info", "component", l.name); len(p) > 0 {
		c.Version = oneLine(p[0].Labels["version"])
	}
	c.Required = !c.Local && s.cfg.Required(l.name)
	up, _ := s.one("component_up", "component", l.name)
	failure := l.last.Failed(l.name)
	if failure != nil {
		c.Reason, c.Error = string(failure.Reason), oneLine(failure.Err.Error())
	}
	c.State, c.Verdict = s.state(c, failure, up == 1)
	if failure != nil && c.State != Absent {
		c.Why = []string{fmt.Sprintf("%s: %s", c.Reason, c.Error)}
	}
	return c
}

// state says in a word what was found, and what to think of it alone.
func (s *snapshot) state(c Component, f *collector.Failed, up bool) (State, opstate.Verdict) {
	switch {
	case f == nil && c.Local:
		if v, _ := s.one("scrape_collector_series", "collector", c.Name); v == 0 {
			return Idle, opstate.Well
		}
		return Read, opstate.Well
	case f == nil:
		return Up, opstate.Well // readiness is a check of its own
	case c.Local, ourFault[f.Reason]:
		return Broken, opstate.Unknown
	case up:
		return Unread, opstate.Unknown
	case c.Required:
		return Down, opstate.Failing
	case s.cfg.Section(c.Name).Named(): // somebody wants to know
		return Down, opstate.Warning
	}
	return Absent, opstate.Well
}

func isLocal(name string) bool {
	for _, i := range config.Sections {
		if i.Name == name {
			return i.Local
		}
	}
	return false
}

// figure is a number of something, or a value in a unit.
func figure(what string, value float64, unit string) *Figure {
	text := what + " " + humanize.Value(unit, value)
	if unit == "" {
		text = humanize.Value(what, value)
	}
	return &Figure{what, value, unit, text}
}

// total is a figure that is the sum over a metric's series.
func total(what, metric, unit string, labels ...string) func(*snapshot) *Figure {
	return func(s *snapshot) *Figure {
		v, ok := s.sum(metric, labels...)
		if !ok {
			return nil
		}
		return figure(what, v, unit)
	}
}

// share is a figure of how many of a metric's series are 1.
func share(what, metric string) func(*snapshot) *Figure {
	return func(s *snapshot) *Figure {
		all := s.all(metric)
		v, ok := s.sum(metric)
		if !ok {
			return nil
		}
		return &Figure{what, v / float64(len(all)), "ratio", fmt.Sprintf("%g of %d %s", v, len(all), what)}
	}
}

func eventRate(s *snapshot) *Figure {
	v, ok := s.events()
	if !ok {
		return nil
	}
	return figure("events per second", v, "")
}

// events returns the consciousness events per second as the engine reports
// them, or else as they were counted: in a second there may be none.
func (s *snapshot) events() (float64, bool) {
	if v, ok := s.one("consciousness_events_per_second"); ok {
		return v, ok
	}
	return s.rate("consciousness_events_total")
}

func connectionsUsed(s *snapshot) *Figure {
	used, ok1 := s.sum("postgresql_connections")
	limit, ok2 := s.connectionLimit()
	if !ok1 || !ok2 {
		return nil
	}
	return &Figure{"connections used", used / limit, "ratio", fmt.Sprintf("%g of %g connections", used, limit)}
}

// connectionLimit returns how many connections PostgreSQL has for ordinary roles.
func (s *snapshot) connectionLimit() (float64, bool) {
	most, ok := s.one("postgresql_max_connections")
	reserved, _ := s.one("postgresql_reserved_connections")
	return most - reserved, ok && most > reserved
}

func targetsUp(s *snapshot) *Figure {
	up, ok := s.sum("prometheus_targets", "health", "up")
	all, _ := s.sum("prometheus_targets")
	if !ok || all == 0 {
		return nil
	}
	return &Figure{"targets up", up / all, "ratio", fmt.Sprintf("%g of %g targets up", up, all)}
}

// machineUse is the manual's line about the system's resources. Its value is
// the scarcest.
func machineUse(s *snapshot) *Figure {
	f := &Figure{What: "CPU, memory, disk", Unit: "ratio"}
	for _, use := range []struct {
		what   string
		values []measure
	}{{"CPU", s.cpuUse()}, {"memory", s.memoryUse()}, {"disk", s.diskUse()}} {
		if len(use.values) == 0 {
			continue
		}
		most := use.values[0].value
		for _, m := range use.values {
			most = max(most, m.value)
		}
		if f.Text != "" {
			f.Text += ", "
		}
		f.Text += use.what + " " + humanize.Value("ratio", most)
		f.Value = max(f.Value, most)
	}
	if f.Text == "" {
		return nil
	}
	return f
}

func backupAge(s *snapshot) *Figure {
	newest, ok := s.one("backup_newest_timestamp_seconds")
	if !ok {
		return nil
	}
	age := s.age(newest)
	return &Figure{"age of the newest", age, "seconds", "newest " + humanize.Value("seconds", age) + " old"}
}

// age returns how long ago a Unix time was, in seconds.
func (s *snapshot) age(unix float64) float64 { return float64(s.now.UnixMilli())/1e3 - unix }
