// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	v1 "github.com/prometheus/client_golang/api/prometheus/v1"
	"github.com/prometheus/common/model"
	"go.yaml.in/yaml/v3"

	"github.com/niodoo/niodoo_exporter/collector"
	"github.com/niodoo/niodoo_exporter/internal/config"
	"github.com/niodoo/niodoo_exporter/internal/humanize"
	"github.com/niodoo/niodoo_exporter/internal/promapi"
	"github.com/niodoo/niodoo_exporter/rules"
)

// maxFile bounds a configuration file, in bytes.
const maxFile = 4 << 20

// errNoRules says that Prometheus has loaded no alert rules.
var errNoRules = errors.New("no alert rules are loaded in Prometheus")

// rule is a rule as Prometheus has loaded it.
type rule struct {
	name, query, file string
	labels            model.LabelSet
	// wait is an alert's for, records says that it is none.
	wait    time.Duration
	records bool
	health  v1.RuleHealth
	err     string
}

func (r rule) label(name string) string { return string(r.labels[model.LabelName(name)]) }

// alerts are the rules that alert.
func alerts(all []rule) []rule {
	return slices.DeleteFunc(slices.Clone(all), func(r rule) bool { return r.records })
}

// component is what the alert is about, in words where it is about several.
func (r rule) component() string {
	switch c := r.label("component"); {
	case c == "":
		return "no component"
	case strings.Contains(c, "{{"):
		return "any component"
	default:
		return c
	}
}

// prometheusConfig is what the checks want of prometheus.yml.
type prometheusConfig struct {
	where  string
	Global struct {
		ScrapeInterval     model.Duration    `yaml:"scrape_interval"`
		EvaluationInterval model.Duration    `yaml:"evaluation_interval"`
		ExternalLabels     map[string]string `yaml:"external_labels"`
	} `yaml:"global"`
	RuleFiles []string `yaml:"rule_files"`
	Alerting  struct {
		Alertmanagers []yaml.Node `yaml:"alertmanagers"`
	} `yaml:"alerting"`
	ScrapeConfigs []struct {
		JobName        string         `yaml:"job_name"`
		ScrapeInterval model.Duration `yaml:"scrape_interval"`
		StaticConfigs  []struct {
			Labels map[string]string `yaml:"labels"`
		} `yaml:"static_configs"`
	} `yaml:"scrape_configs"`
}

// fetchers prepares what several checks want from the servers.
func (p *patient) fetchers() {
	var err error
	if p.prom, err = promapi.New(p.Config.Prometheus.HTTP); err != nil {
		p.prom = nil
	}
	noProm := func() error {
		switch {
		case !p.Config.Enabled("prometheus"):
			return notExpected{errors.New("prometheus is not enabled in the configuration")}
		case p.prom == nil:
			return fmt.Errorf("prometheus: %w", err)
		}
		return nil
	}
	p.rules = once(func(ctx context.Context) ([]rule, error) {
		if err := noProm(); err != nil {
			return nil, err
		}
		res, err := p.prom.Rules(ctx, nil)
		if err != nil {
			return nil, fmt.Errorf("asking Prometheus for its rules: %w", promapi.WithoutURL(err))
		}
		var all []rule
		for _, g := range res.Groups {
			for _, r := range g.Rules {
				switch x := r.(type) {
				case v1.AlertingRule:
					all = append(all, rule{name: x.Name, query: x.Query, file: g.File, labels: x.Labels, wait: time.Duration(x.Duration * float64(time.Second)), health: x.Health, err: x.LastError})
				case v1.RecordingRule:
					all = append(all, rule{name: x.Name, query: x.Query, file: g.File, labels: x.Labels, records: true, health: x.Health, err: x.LastError})
				}
			}
		}
		if len(alerts(all)) == 0 {
			return nil, errNoRules
		}
		return all, nil
	})
	trees := map[string]*node{}
	p.parse = func(ctx context.Context, expr string) (*node, error) {
		if trees[expr] != nil {
			return trees[expr], nil
		}
		var answer struct {
			Data *node `json:"data"`
		}
		err := p.prom.Get(ctx, "/api/v1/parse_query", url.Values{"query": {expr}}, &answer)
		if errors.Is(err, promapi.ErrNotFound) {
			return nil, errors.New("this Prometheus cannot take expressions apart for us: it is older than 3.0")
		}
		if err != nil {
			return nil, err
		}
		trees[expr] = answer.Data
		return answer.Data, nil
	}
	p.pc = once(func(ctx context.Context) (prometheusConfig, error) {
		c := prometheusConfig{where: p.PrometheusFile} // where tells a file that is wrong from none
		if p.PrometheusFile != "" {
			raw, err := readFile(p.PrometheusFile)
			if err != nil {
				return prometheusConfig{}, err
			}
			return c, yaml.Unmarshal(raw, &c)
		}
		if err := noProm(); err != nil {
			return c, err
		}
		res, err := p.prom.Config(ctx)
		if err != nil {
			return c, fmt.Errorf("asking Prometheus for its configuration: %w", promapi.WithoutURL(err))
		}
		c.where = "the configuration of " + p.prom.URL()
		return c, yaml.Unmarshal([]byte(res.YAML), &c)
	})
	p.am = once(func(ctx context.Context) (routing, error) { return p.readRouting(ctx) })
}

// readFile reads a configuration file of reasonable size.
func readFile(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Size() > maxFile || !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is no file of up to %d bytes", path, maxFile)
	}
	return os.ReadFile(path)
}

// targetsCheck looks whether Prometheus scrapes the exporter, and what it cannot scrape.
func targetsCheck(ctx context.Context, p *patient) ([]Finding, error) {
	if !p.Config.Enabled("prometheus") || p.prom == nil {
		return nil, notExpected{errors.New("prometheus is not enabled in the configuration")}
	}
	res, err := p.prom.Targets(ctx)
	if err != nil {
		return nil, fmt.Errorf("asking Prometheus for its targets: %w", promapi.WithoutURL(err))
	}
	var found []Finding
	ours := 0
	scraped := map[string]bool{}
	var lost []string
	for _, t := range res.Active {
		scraped[string(t.Labels["instance"])] = true
		where := fmt.Sprintf("target %s of job %s", t.Labels["instance"], t.Labels["job"])
		if t.Labels["job"] == "niodoo" {
			ours++
		}
		if t.Health == v1.HealthBad {
			level := Warning
			if t.Labels["job"] == "niodoo" {
				level = Failing
			}
			found = append(found, Finding{Level: level, Where: where, What: "it cannot be scraped: " + t.LastError,
				Why: "No rule has data of it.", Mend: "Start it, or mend its address in prometheus.yml, or remove it there."})
		}
		if t.Labels["component"] != "" {
			found = append(found, Finding{Level: Failing, Where: where, What: "it has a label component",
				Why: "Prometheus renames the exporter's own label to exported_component, and no rule of ours matches.", Mend: "Give the label another name in prometheus.yml."})
		}
	}
	for _, g := range p.Config.Fleet {
		for _, target := range g.Targets {
			if !scraped[target] {
				lost = append(lost, target)
			}
		}
	}
	if len(lost) > 0 {
		found = append(found, Finding{Level: Failing, Where: "fleet: " + list(lost), What: fmt.Sprintf("%d of the fleet are in the configuration, and Prometheus does not scrape them", len(lost)),
			Why: "Nobody is told what goes on there.", Mend: "Discover them with http_sd_configs from the exporter's /sd, as examples/prometheus.yml does."})
	}
	if ours == 0 {
		found = append(found, Finding{Level: Failing, Where: p.prom.URL(), What: "no target has the label job=\"niodoo\"",
			Why: "All rules and dashboards select by it: none has data.", Mend: "Scrape the exporter as examples/prometheus.yml does."})
	}
	return found, nil
}

// longScrape is the longest scrape interval that the rules' windows bear.
const longScrape = time.Minute

// prometheusCheck looks into prometheus.yml, the file or the one in force.
func prometheusCheck(ctx context.Context, p *patient) ([]Finding, error) {
	c, err := p.pc(ctx)
	if err != nil && c.where == "" {
		return nil, err
	}
	if err != nil {
		// yaml names duplicate keys with their lines.
		return []Finding{{Level: Failing, Where: c.where, What: err.Error(), Why: "Prometheus refuses such a file at its next reload or start.", Mend: "Mend it and try it: promtool check config."}}, nil
	}
	var found []Finding
	add := func(l Level, what, why, mend string) { found = append(found, Finding{"", l, c.where, what, why, mend}) }
	if len(c.Alerting.Alertmanagers) == 0 {
		add(Failing, "no Alertmanager is named", "Alerts fire and reach nobody.", "alerting: {alertmanagers: [{static_configs: [{targets: [\"localhost:9093\"]}]}]}")
	} else if p.PrometheusFile == "" {
		res, err := p.prom.AlertManagers(ctx)
		if err != nil {
			return found, fmt.Errorf("asking Prometheus for its Alertmanagers: %w", promapi.WithoutURL(err))
		}
		if len(res.Active) == 0 {
			add(Failing, "Prometheus has found no Alertmanager", "Alerts fire and reach nobody.", "Look at alerting in prometheus.yml and at its service discovery.")
		}
	}
	if len(c.RuleFiles) == 0 {
		add(Failing, "no rule files are named", "Nothing ever alerts.", "rule_files: [rules/alerts.yml, rules/recording.yml]")
	}
	if i := time.Duration(c.Global.EvaluationInterval); i > longScrape {
		add(Warning, "rules are evaluated every "+humanize.Duration(i), "An alert for 1m is late by as much.", "evaluation_interval: 15s")
	}
	for _, s := range c.ScrapeConfigs {
		interval := time.Duration(s.ScrapeInterval)
		if interval == 0 {
			interval = time.Duration(c.Global.ScrapeInterval)
		}
		if s.JobName == "niodoo" && interval > longScrape {
			add(Warning, "the exporter is scraped every "+humanize.Duration(interval), "Rates over five minutes need more than a few samples, and what lasts a minute is not seen.", "scrape_interval: 15s for the job niodoo")
		}
		if s.JobName == "consciousness-engine" {
			add(Warning, "a job is named consciousness-engine", "up{job=\"consciousness-engine\"} is then Prometheus' own and, with rules/manual_up.yml, ours too: alerts fire twice.", "Name it niodoo-engine-text, as examples/prometheus.yml does.")
		}
	}
	return found, nil
}

// rulesCheck looks whether our alerts are loaded and whether all rules work.
func rulesCheck(ctx context.Context, p *patient) ([]Finding, error) {
	all, err := p.rules(ctx)
	if err != nil && !errors.Is(err, errNoRules) {
		return nil, err
	}
	if err != nil {
		return []Finding{{Level: Failing, Where: p.prom.URL(), What: "no alert rules are loaded", Why: "Nothing ever alerts.", Mend: "rule_files: [rules/alerts.yml, rules/recording.yml]"}}, nil
	}
	var found []Finding
	loaded := map[string]bool{}
	for _, r := range all {
		loaded[r.name] = loaded[r.name] || !r.records
		if r.health == v1.RuleHealthBad {
			found = append(found, Finding{Level: Failing, Where: "rule " + r.name + " in " + r.file, What: "it cannot be evaluated: " + r.err,
				Why: "It can never fire, nor what it records be used.", Mend: "Mend the expression; promtool check rules and promtool test rules help."})
		}
	}
	var missing []string
	for _, name := range ourAlerts() {
		if !loaded[name] {
			missing = append(missing, name)
		}
	}
	if len(missing) > 0 {
		found = append(found, Finding{Level: Warning, Where: p.prom.URL(), What: fmt.Sprintf("%d of our alerts are not loaded: %s", len(missing), list(missing)),
			Why: "What they are about alerts nobody.", Mend: "Load rules/alerts.yml of this version; alerts that are switched off in the mixin's configuration are meant to be missing."})
	}
	return found, nil
}

// ourAlerts returns the names of the alerts that belong to this version.
func ourAlerts() []string {
	var file struct {
		Groups []struct {
			Rules []struct {
				Alert string `yaml:"alert"`
			} `yaml:"rules"`
		} `yaml:"groups"`
	}
	if err := yaml.Unmarshal(rules.Alerts, &file); err != nil { // generated; a test reads it
		panic(err)
	}
	names := map[string]bool{}
	for _, g := range file.Groups {
		for _, r := range g.Rules {
			names[r.Alert] = true
		}
	}
	return slices.Sorted(maps.Keys(names))
}

// noDataCheck looks for alerts that could not fire whatever happens, for want of data.
func noDataCheck(ctx context.Context, p *patient) ([]Finding, error) {
	all, err := p.rules(ctx)
	if err != nil {
		return nil, err
	}
	has := p.hasData()
	type place struct {
		component string
		level     Level
	}
	blind := map[place][]string{}
	total, sighted := map[string]int{}, map[string]bool{}
	var errs []error
	seen := map[string]bool{}
	for _, r := range alerts(all) {
		if seen[r.name+r.query] {
			continue
		}
		seen[r.name+r.query] = true
		component := r.component()
		total[component]++
		tree, err := p.parse(ctx, r.query)
		if err != nil {
			return nil, err
		}
		ok, missing, err := tree.can(ctx, has)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if ok {
			sighted[component] = true
			continue
		}
		at := place{component, Note}
		var titles []string
		for _, m := range missing {
			titles = append(titles, m.title())
			if may, err := mayBeAbsent(ctx, m, has); err != nil {
				errs = append(errs, err)
			} else if !may {
				at.level = Warning
			}
		}
		slices.Sort(titles)
		blind[at] = appendNew(blind[at], r.name+" ("+list(slices.Compact(titles))+")")
	}
	// Of a component that has no data at all nothing may be absent, unless it is off.
	for at, names := range maps.Clone(blind) {
		right := at.level
		switch {
		case p.off(at.component):
			right = Note
		case !sighted[at.component]:
			right = Warning
		}
		if right != at.level {
			delete(blind, at)
			blind[place{at.component, right}] = append(blind[place{at.component, right}], names...)
		}
	}
	var found []Finding
	places := slices.SortedFunc(maps.Keys(blind), func(a, b place) int {
		return cmp.Or(cmp.Compare(a.component, b.component), cmp.Compare(a.level, b.level))
	})
	for _, at := range places {
		f := Finding{Level: at.level, Where: "alerts of " + at.component, What: fmt.Sprintf("%d of %d have no data now: %s", len(blind[at]), total[at.component], strings.Join(blind[at], ", ")),
			Why: "They cannot fire, whatever happens.", Mend: "Mend the collector if it fails, and the scrape if there is none; or else switch the alerts off."}
		switch {
		case p.off(at.component):
			f.Mend = "The component is not enabled here. Enable its section, or switch the alerts off."
		case at.level == Note:
			f.Mend = "A healthy component need not report these metrics, or not with these labels: collector/README.md says when. Make sure that this is why."
		}
		found = append(found, f)
	}
	return found, errors.Join(errs...)
}

// off reports whether a component is one that could be watched and is not.
func (p *patient) off(component string) bool {
	return slices.Contains(config.Names(), component) && !p.Config.Enabled(component)
}

// mayBeAbsent reports whether what a selector is missing may be well: a healthy
// component need not report the metric, or it does, with other labels.
func mayBeAbsent(ctx context.Context, n *node, has func(context.Context, string, time.Duration) (bool, error)) (bool, error) {
	if slices.ContainsFunc(collector.Catalogue(), func(d *collector.Desc) bool { return d.Name == n.Name && d.Absent != "" }) {
		return true, nil
	}
	if n.Name == "" || n.title() == n.Name {
		return false, nil
	}
	return has(ctx, "{__name__="+strconv.Quote(n.Name)+"}", 0)
}

// longHistory is how much capacity planning wants to look back on.
const longHistory = 30 * 24 * time.Hour

// retentionCheck compares how far rules look back with how long samples are kept.
func retentionCheck(ctx context.Context, p *patient) ([]Finding, error) {
	all, err := p.rules(ctx)
	if err != nil {
		return nil, err
	}
	kept, err := p.prom.Retention(ctx)
	if err != nil {
		return nil, err
	}
	if kept == 0 {
		return nil, notExpected{errors.New("samples are kept by size in Prometheus, not by time")}
	}
	short := map[string]time.Duration{}
	for _, r := range all {
		tree, err := p.parse(ctx, r.query)
		if err != nil {
			return nil, err
		}
		if w := tree.window(); w > kept {
			short[r.name] = max(short[r.name], w)
		}
	}
	var found []Finding
	for _, name := range slices.Sorted(maps.Keys(short)) {
		found = append(found, Finding{Level: Warning, Where: "rule " + name, What: "it looks back " + humanize.Duration(short[name]) + ", and samples are kept for " + humanize.Duration(kept),
			Why: "It judges by less than it says, or never fires.", Mend: "--storage.tsdb.retention.time of at least " + humanize.Duration(short[name]) + ", or a shorter window."})
	}
	if kept < longHistory {
		found = append(found, Finding{Level: Note, Where: p.prom.URL(), What: "samples are kept for " + humanize.Duration(kept),
			Why: "Capacity planning has no more history than that, and an objective over 30 days cannot be looked at.", Mend: "--storage.tsdb.retention.time=90d, or remote storage."})
	}
	return found, nil
}

// thresholdsCheck compares the numbers and times in the loaded rules with
// thresholds.json.
func thresholdsCheck(ctx context.Context, p *patient) ([]Finding, error) {
	all, err := p.rules(ctx)
	if err != nil {
		return nil, err
	}
	var found []Finding
	for _, r := range alerts(all) {
		use, ok := alertThresholds[r.name]
		if !ok {
			continue
		}
		t := p.Thresholds[use.threshold]
		want := t.Warning
		if use.critical {
			want = t.Critical
		}
		tree, err := p.parse(ctx, r.query)
		if err != nil {
			return nil, err
		}
		numbers := tree.numbers()
		same := func(v float64) bool { return math.Abs(v-*want) <= 1e-9*math.Max(1, math.Abs(*want)) }
		if want != nil && len(numbers) > 0 && !slices.ContainsFunc(numbers, same) {
			found = append(found, Finding{Level: Warning, Where: "rule " + r.name + " in " + r.file,
				What: fmt.Sprintf("it compares with %v, and thresholds.json says %v (%s)", numbers, *want, use.threshold),
				Why:  "Alerts and niodooctl do not agree: " + t.Reason, Mend: "Generate the rules from the thresholds that are wanted, or give niodooctl the same file: --thresholds.file."})
		}
		if !use.critical && t.For != "" && r.wait != t.Duration() && use.forToo {
			found = append(found, Finding{Level: Note, Where: "rule " + r.name + " in " + r.file,
				What: "it waits " + humanize.Duration(r.wait) + ", and thresholds.json says " + t.For + " (" + use.threshold + ")",
				Why:  "Alerts and niodooctl do not agree.", Mend: "Generate the rules from the thresholds that are wanted, or edit the copy that --thresholds.file names."})
		}
	}
	return found, nil
}

// alertThresholds says which threshold an alert compares with. forToo is where
// it also waits for as long as the threshold says.
var alertThresholds = map[string]struct {
	threshold        string
	critical, forToo bool
}{
	"HighProcessingLatency":          {"processing_time_seconds", false, true},
	"EngineErrors":                   {"engine_error_ratio", false, true},
	"CircuitBreakerOpening":          {"circuit_breaker_activations", false, true},
	"ProcessingTimeouts":             {"timeouts", false, true},
	"SlowMemoryRetrieval":            {"memory_retrieval_time_seconds", false, true},
	"LowCacheHitRatio":               {"cache_hit_ratio", false, true},
	"EngineRestarting":               {"engine_restarts", false, true},
	"LowConsciousnessProcessingRate": {"events_per_second", false, true},
	"MemorySystemInstability":        {"memory_stability_ratio", false, true},
	"MemoryStabilityCritical":        {"memory_stability_ratio", true, false},
	"LowMemoryCoherence":             {"toroidal_coherence_score", false, true},
	"LowRetrievalSuccess":            {"retrieval_success_ratio", false, true},
	"MemoryLayerNearlyFull":          {"layer_usage_ratio", false, true},
	"HighDatabaseResponseTime":       {"database_response_seconds", false, true},
	"PostgreSQLConnectionsHigh":      {"postgresql_connection_ratio", false, true},
	"PostgreSQLConnectionsExhausted": {"postgresql_connection_ratio", true, false},
	"PostgreSQLDeadlocks":            {"postgresql_deadlocks", false, true},
	"PostgreSQLLongTransaction":      {"postgresql_transaction_seconds", false, true},
	"PostgreSQLIdleInTransaction":    {"postgresql_idle_transaction_seconds", false, true},
	"PostgreSQLLockQueue":            {"postgresql_lock_waiters", false, true},
	"PostgreSQLReplicationLag":       {"postgresql_replication_lag_seconds", false, true},
	"PostgreSQLSlotRetainsWAL":       {"postgresql_slot_retained_bytes", false, true},
	"RedisMemoryNearlyFull":          {"redis_memory_ratio", false, true},
	"RedisEvictions":                 {"redis_evictions", false, true},
	"VLLMRequestsWaiting":            {"vllm_requests_waiting", false, true},
	"VLLMRequestsFailing":            {"vllm_errors", false, true},
	"HighCPUUsage":                   {"cpu_usage_ratio", false, true},
	"HighMemoryUsage":                {"memory_usage_ratio", false, true},
	"HighMemoryPressure":             {"memory_pressure_ratio", false, true},
	"HighDiskUsage":                  {"disk_usage_ratio", false, true},
	"DiskAlmostFull":                 {"disk_usage_ratio", true, false},
	"InodesRunningOut":               {"inode_usage_ratio", false, true},
	"GPUTemperatureHigh":             {"gpu_temperature_celsius", false, true},
	"GPUMemoryNearlyFull":            {"gpu_memory_ratio", false, true},
	"ContainerRestarting":            {"container_restarts", false, true},
	"ContainerMemoryNearLimit":       {"container_memory_ratio", false, true},
	"LogNotRotated":                  {"log_size_bytes", false, true},
	"LogReadingBehind":               {"log_lag_bytes", false, true},
	"BackupShrunk":                   {"backup_shrink_ratio", false, true},
	"NiodooScrapeSlow":               {"scrape_duration_ratio", false, true},
}
