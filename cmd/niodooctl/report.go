// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/alecthomas/kingpin/v2"

	"github.com/niodoo/niodoo_exporter/internal/humanize"
	"github.com/niodoo/niodoo_exporter/internal/observe"
	"github.com/niodoo/niodoo_exporter/internal/opstate"
	"github.com/niodoo/niodoo_exporter/internal/promapi"
	"github.com/niodoo/niodoo_exporter/internal/report"
)

func init() {
	register(spec{
		name: "report",
		help: "Report how the stack performs: KPIs against their targets, database, Redis, models, containers, the machine, and settings worth another thought.\n\n" +
			"Rates come from two looks at the stack; where Prometheus knows, the KPIs' means of the last hour, day and week stand beside them. " +
			"The exit code is the KPIs': advice on settings does not change it.",
		markdown: true,
		setup: func(c *kingpin.CmdClause) action {
			f := &reportFlags{}
			c.Flag("interval", "Time between the two looks.").Default("2s").DurationVar(&f.interval)
			c.Flag("trend", "Ask Prometheus how the KPIs have been, where it is enabled.").Default("true").BoolVar(&f.trend)
			c.Flag("selector", "Which series to take from Prometheus, as labels in PromQL.").Default(`job="niodoo"`).StringVar(&f.selector)
			return f.run
		},
	})
}

type reportFlags struct {
	interval time.Duration
	trend    bool
	selector string
}

// Bounds of the time between two looks.
const (
	minInterval = 100 * time.Millisecond
	maxInterval = 10 * time.Minute
)

func (f *reportFlags) run(ctx context.Context, e *env) error {
	if f.interval < minInterval || f.interval > maxInterval {
		return usageError("--interval %s: write a duration from %s to %s", f.interval, minInterval, maxInterval)
	}
	o := report.Options{Config: e.cfg, Thresholds: e.thresholds, Selector: f.selector}
	if f.trend && e.cfg.Enabled("prometheus") {
		var err error
		if o.Prometheus, err = promapi.New(e.cfg.Prometheus.HTTP); err != nil {
			return usageError("prometheus: %v", err)
		}
	}
	stack := observe.Open(e.cfg, e.logger)
	defer stack.Close()
	progress := e.progress("looking", -1, false)
	defer progress.done()
	o.Before = stack.Look(ctx, nil)
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(f.interval):
	}
	o.Now = stack.Look(ctx, nil)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	o.At = e.now().UTC()
	rep, err := report.Build(ctx, o)
	if err != nil {
		return err
	}
	progress.done()
	if e.format == formatJSON {
		err = e.json(rep)
	} else {
		printReport(e, rep)
	}
	if err != nil {
		return err
	}
	if rep.Verdict != opstate.Well {
		return verdict(rep.Verdict)
	}
	return nil
}

// value writes a figure that may be missing.
func value(unit string, v *float64) string {
	if v == nil {
		return ""
	}
	return humanize.Value(unit, *v)
}

func printReport(e *env, r *report.Report) {
	if !e.quiet {
		e.heading(1, "Performance at "+r.Generated.Format("2006-01-02 15:04 MST"))
		trend := "no past: Prometheus was not asked, or could not tell"
		if r.Trend != "" {
			trend = "means of the last hour, day and week from " + r.Trend
		}
		e.printf("Rates over %s; %s.\n", humanize.Value(humanize.Seconds, r.Seconds), trend)
	}
	printKPIs(e, r)
	if e.quiet {
		return
	}
	printDatabase(e, r.Database)
	printRedis(e, r.Redis)
	printModels(e, r.Models)
	printContainers(e, r.Containers)
	printHost(e, r)
	printTuning(e, r.Tuning)
	if len(r.NotLookedAt) > 0 {
		e.heading(2, "Not looked at")
		for _, n := range r.NotLookedAt {
			e.printf("- %s: %s\n", n.What, oneLine(n.Why))
		}
	}
}

// section prints a title and a table, and nothing where there are no rows.
func (e *env) section(title string, header []string, rows [][]string, right ...int) {
	if len(rows) > 0 {
		e.heading(2, title)
		e.table(header, rows, right...)
	}
}

func printKPIs(e *env, r *report.Report) {
	var rows [][]string
	for _, k := range r.KPIs {
		if e.quiet && k.Verdict == opstate.Well {
			continue
		}
		meets := ""
		if k.Meets != nil && !*k.Meets {
			meets = "misses"
		} else if k.Meets != nil {
			meets = "meets"
		}
		rows = append(rows, []string{e.coloured(k.Verdict, string(k.Verdict)), k.Group, k.Name, humanize.Value(k.Unit, k.Value), value(k.Unit, k.Target), meets,
			value(k.Unit, k.Warning), value(k.Unit, k.Hour), value(k.Unit, k.Day), value(k.Unit, k.Week)})
	}
	e.section("KPIs", []string{"", "", "KPI", "now", "target", "", "alert", "hour", "day", "week"}, rows, 4, 5, 7, 8, 9, 10)
}

func printDatabase(e *env, d *report.Database) {
	if d == nil {
		return
	}
	var states []string
	total := 0.0
	for _, s := range slices.Sorted(maps.Keys(d.Connections)) {
		total += d.Connections[s]
		states = append(states, fmt.Sprintf("%.0f %s", d.Connections[s], s))
	}
	e.section("Database", nil, nonEmpty([][]string{
		{"PostgreSQL", d.Version + ", up " + humanize.Duration(time.Duration(d.Uptime)*time.Second)},
		{"size of " + d.Name, humanize.Value(humanize.Bytes, d.Size)},
		{"connections", fmt.Sprintf("%.0f of %.0f: %s", total, d.MaxConnections, strings.Join(states, ", "))},
		{"cache hits", value(humanize.Ratio, d.CacheHits)},
		{"commits", value("per second", d.Commits)}, {"rollbacks", value("per second", d.Rollbacks)},
		{"deadlocks", value("", d.Deadlocks)}, {"temporary files", value(humanize.Bytes, d.TempBytes)},
	}))
	var rows [][]string
	for _, s := range d.Statements {
		rows = append(rows, []string{humanize.Value(humanize.Seconds, s.Total), humanize.Value("", s.Calls), humanize.Value(humanize.Seconds, s.Mean),
			humanize.Value(humanize.Seconds, s.Max), humanize.Value("", s.Rows), cell(e, s.Text)})
	}
	e.section("Slowest statements", []string{"in all", "calls", "mean", "longest", "rows", "statement"}, rows, 1, 2, 3, 4, 5)
	rows = nil
	for _, t := range d.Tables {
		rows = append(rows, []string{cell(e, t.Name), humanize.Value(humanize.Bytes, t.Bytes), humanize.Value("", t.Live), humanize.Value("", t.Dead),
			humanize.Value("", t.SeqScans), humanize.Value("", t.IdxScans)})
	}
	e.section("Largest tables", []string{"table", "size", "live rows", "dead rows", "sequential scans", "index scans"}, rows, 2, 3, 4, 5, 6)
}

// cell makes text that others wrote fit into one cell.
func cell(e *env, text string) string {
	const most = 80
	text = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, text)
	if r := []rune(text); e.format == formatText && len(r) > most {
		return string(r[:most]) + "..."
	}
	return text
}

// nonEmpty leaves out rows without a value.
func nonEmpty(rows [][]string) [][]string {
	return slices.DeleteFunc(rows, func(r []string) bool { return r[1] == "" })
}

func printRedis(e *env, d *report.Redis) {
	if d == nil {
		return
	}
	memory := value(humanize.Bytes, d.Memory)
	if d.MaxMemory != nil && *d.MaxMemory > 0 {
		memory += " of " + value(humanize.Bytes, d.MaxMemory)
	} else if memory != "" {
		memory += " without a limit"
	}
	e.section("Redis", nil, nonEmpty([][]string{
		{"version", d.Version}, {"up", value(humanize.Seconds, d.Uptime)}, {"memory", memory}, {"largest memory", value(humanize.Bytes, d.Peak)},
		{"fragmentation", value("", d.Fragments)}, {"policy", d.Policy}, {"clients", value("", d.Clients)}, {"keys", value("", d.Keys)},
		{"commands", value("per second", d.Commands)}, {"keys found", value(humanize.Ratio, d.HitRatio)}, {"keys evicted", value("", d.Evicted)},
		{"slow commands kept", value("", d.Slow)},
	}))
}

func printModels(e *env, all []report.Model) {
	var rows [][]string
	for _, m := range all {
		state := "on disk"
		switch {
		case m.Missing:
			state = e.coloured(opstate.Failing, "missing")
		case m.Loaded:
			state = "loaded"
		}
		if m.Required {
			state += ", required"
		}
		requests := ""
		if m.Running != nil {
			requests = value("", m.Running) + " running, " + value("", m.Waiting) + " waiting"
		}
		rows = append(rows, []string{m.Server, cell(e, m.Name), state, size(m.Bytes), size(m.VRAM), requests})
	}
	e.section("Models", []string{"server", "model", "state", "size", "in GPU memory", "requests"}, rows, 4, 5)
}

// size writes bytes, and nothing for none.
func size(v float64) string {
	if v == 0 {
		return ""
	}
	return humanize.Value(humanize.Bytes, v)
}

func printContainers(e *env, all []report.Container) {
	var rows [][]string
	for _, c := range all {
		state := "running"
		switch {
		case !c.Running:
			state = e.coloured(opstate.Failing, "not running")
		case c.Healthy != nil && !*c.Healthy:
			state = e.coloured(opstate.Warning, "unhealthy")
		}
		memory := value(humanize.Bytes, c.Memory)
		if c.MemoryLimit != nil && memory != "" {
			memory += " / " + value(humanize.Bytes, c.MemoryLimit)
		}
		rows = append(rows, []string{cell(e, c.Name), state, value(humanize.Ratio, c.CPU), memory, pair(c.Received, c.Transmitted), pair(c.Read, c.Written),
			value("", c.PIDs), value("", c.Restarts)})
	}
	e.section("Containers", []string{"container", "state", "CPU", "memory / limit", "network in / out", "disk read / written", "PIDs", "restarts"}, rows, 3, 4, 5, 6, 7, 8)
}

// pair writes two sizes as docker stats does.
func pair(a, b *float64) string {
	if a == nil && b == nil {
		return ""
	}
	return value(humanize.Bytes, a) + " / " + value(humanize.Bytes, b)
}

func printHost(e *env, r *report.Report) {
	if h := r.Host; h != nil {
		waiting := make([]string, 0, len(h.Waiting))
		for _, k := range slices.Sorted(maps.Keys(h.Waiting)) {
			waiting = append(waiting, k+" "+humanize.Value(humanize.Ratio, h.Waiting[k]))
		}
		e.section("Machine", nil, nonEmpty([][]string{
			{"up", value(humanize.Seconds, h.Uptime)}, {"processors", value("", h.CPUs)}, {"CPU usage", value(humanize.Ratio, h.CPUUsage)},
			{"load, 1, 5 and 15 minutes", numbers(h.Load)}, {"load per core", numbers(h.PerCore)},
			{"memory available", ofTotal(h.Available, h.Memory)}, {"swap free", ofTotal(h.SwapFree, h.Swap)},
			{"time tasks waited for", strings.Join(waiting, ", ")}, {"out-of-memory kills", value("", h.OOMKills)},
		}))
	}
	var rows [][]string
	for _, f := range r.Filesystems {
		rows = append(rows, []string{cell(e, f.Path), humanize.Value(humanize.Bytes, f.Size), humanize.Value(humanize.Bytes, f.Avail), humanize.Value(humanize.Ratio, f.Used), humanize.Value(humanize.Ratio, f.Inodes)})
	}
	e.section("Filesystems", []string{"path", "size", "available", "used", "inodes used"}, rows, 2, 3, 4, 5)
	rows = nil
	for _, n := range r.Network {
		rows = append(rows, []string{n.Device, value(humanize.BytesPerSec, n.ReceiveBytes), value(humanize.BytesPerSec, n.TransmitBytes), value("", n.ReceivePackets), value("", n.TransmitPackets),
			value(humanize.Bytes, n.ReceiveBytesTotal), value(humanize.Bytes, n.TransmitBytesTotal),
			value("", n.ReceiveErrors) + " / " + value("", n.TransmitErrors), value("", n.ReceiveDrops) + " / " + value("", n.TransmitDrops)})
	}
	e.section("Network", []string{"device", "in", "out", "packets/s in", "packets/s out", "in since boot", "out since boot", "errors in / out", "drops in / out"}, rows, 2, 3, 4, 5, 6, 7, 8, 9)
	rows = nil
	for _, g := range r.GPUs {
		rows = append(rows, []string{g.GPU, g.Name, value(humanize.Ratio, g.Utilization), pair(g.MemoryUsed, g.MemoryTotal), value("celsius", g.Temperature), value("watts", g.Power)})
	}
	e.section("GPUs", []string{"GPU", "name", "utilisation", "memory / of", "temperature", "power"}, rows, 3, 4, 5, 6)
}

func numbers(all []float64) string {
	texts := make([]string, len(all))
	for i, v := range all {
		texts[i] = fmt.Sprintf("%.2f", v)
	}
	return strings.Join(texts, "  ")
}

func ofTotal(v, total *float64) string {
	if v == nil || total == nil || *total == 0 {
		return ""
	}
	return value(humanize.Bytes, v) + " of " + value(humanize.Bytes, total)
}

func printTuning(e *env, all []report.Tuning) {
	if len(all) == 0 {
		return
	}
	e.heading(2, "Settings worth another thought")
	for _, t := range all {
		danger := ""
		if t.Danger {
			danger = e.coloured(opstate.Warning, " (dangerous)")
		}
		e.printf("- %s %s is %s%s; usual: %s.\n  %s\n  %s\n", t.Where, t.Setting, t.Value, danger, t.Suggested, t.Reason, t.How)
	}
}
