// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/alecthomas/kingpin/v2"
	"github.com/alecthomas/units"
	"github.com/prometheus/common/model"

	"github.com/niodoo/niodoo_exporter/internal/capacity"
	"github.com/niodoo/niodoo_exporter/internal/humanize"
	"github.com/niodoo/niodoo_exporter/internal/observe"
	"github.com/niodoo/niodoo_exporter/internal/opstate"
	"github.com/niodoo/niodoo_exporter/internal/promapi"
)

// Where the history comes from.
const (
	sourceAuto       = "auto"
	sourcePrometheus = "prometheus"
	sourceOwn        = "own"
)

// capacityPause lies between two looks: long enough for the processors' counters,
// which count hundredths of a second.
const capacityPause = 500 * time.Millisecond

const maxHorizon = 5 * 365 * 24 * time.Hour

func init() {
	register(spec{
		name: "capacity",
		help: "Say how much is used, how fast it grows and when limits are reached.\n\n" +
			"The history comes from Prometheus, or else from what earlier runs have left in operations.state_dir: let one run every day. " +
			"It exits 1 where planning should begin within the horizon and 2 where a limit is reached within a week.",
		markdown: true,
		setup: func(c *kingpin.CmdClause) action {
			f := &capacityFlags{}
			c.Flag("source", "Where the history comes from; auto is Prometheus, and niodooctl's own where Prometheus has none.").
				Default(sourceAuto).EnumVar(&f.source, sourceAuto, sourcePrometheus, sourceOwn)
			c.Flag("selector", "Which series to take from Prometheus, as labels in PromQL.").Default(`job="niodoo"`).StringVar(&f.selector)
			c.Flag("history", "How far to look back.").Default("90d").StringVar(&f.history)
			c.Flag("horizon", "How far to look ahead.").Default("90d").StringVar(&f.horizon)
			c.Flag("growth", "What if: so much more load than today, and what is stored growing so much faster, such as 20%.").Default("0%").StringVar(&f.growth)
			c.Flag("limit", "A limit by hand, RESOURCE=VALUE, such as memories=50000 or database=200GiB. Resources: "+strings.Join(capacity.Names(), ", ")+". May be repeated.").
				PlaceHolder("RESOURCE=VALUE").StringsVar(&f.limits)
			c.Flag("record", "Add today's measurement to niodooctl's own history.").Default("true").BoolVar(&f.record)
			return f.run
		},
	})
}

type capacityFlags struct {
	source, selector, history, horizon, growth string
	limits                                     []string
	record                                     bool
}

func (f *capacityFlags) run(ctx context.Context, e *env) error {
	o, err := f.options(e)
	if err != nil {
		return err
	}
	stack := observe.Open(e.cfg, e.logger)
	defer stack.Close()
	before := stack.Look(ctx, capacity.Collectors())
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(capacityPause):
	}
	now := stack.Look(ctx, capacity.Collectors())
	if ctx.Err() != nil {
		return ctx.Err()
	}
	rep, why, err := f.analyse(ctx, e, o, before, now)
	if err != nil {
		return err
	}
	if why != "" {
		rep.NotLookedAt = slices.Insert(rep.NotLookedAt, 0, capacity.NotLookedAt{What: "Prometheus", Why: why})
	}
	if f.record {
		if err := f.keep(ctx, e.cfg.Operations.StateDir, now); err != nil {
			rep.NotLookedAt = append(rep.NotLookedAt, capacity.NotLookedAt{What: "today's measurement",
				Why: fmt.Sprintf("it could not be kept for later: %v; see operations.state_dir, or --no-record", err)})
		}
	}
	if e.format == formatJSON {
		err = e.json(rep)
	} else {
		f.print(e, rep)
	}
	if err != nil {
		return err
	}
	if rep.Verdict != opstate.Well {
		return verdict(rep.Verdict)
	}
	return nil
}

// keep adds the measurement to the history. It waits for another run of
// niodooctl that writes there, but not for long.
func (f *capacityFlags) keep(ctx context.Context, dir string, now observe.Snapshot) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	return capacity.Record(ctx, dir, now)
}

// analyse asks Prometheus, and takes niodooctl's own history where that may be
// and why says what kept it from Prometheus.
func (f *capacityFlags) analyse(ctx context.Context, e *env, o capacity.Options, before, now observe.Snapshot) (rep *capacity.Report, why string, err error) {
	if f.source == sourceOwn {
		rep, err = capacity.Analyse(ctx, o, before, now)
		return rep, "", err
	}
	own := o
	switch o.Prometheus, err = promapi.New(e.cfg.Prometheus.HTTP); {
	case err != nil:
	case f.source == sourceAuto && !e.cfg.Enabled("prometheus"):
		err = errors.New("it is not enabled in the configuration")
	default:
		if rep, err = capacity.Analyse(ctx, o, before, now); err == nil && len(rep.Resources) == 0 {
			err = fmt.Errorf("%s has no data with {%s}: is the exporter scraped, under that name?", o.Prometheus.URL(), f.selector)
		}
	}
	if err == nil || f.source == sourcePrometheus || ctx.Err() != nil {
		return rep, "", err
	}
	why = err.Error()
	rep, err = capacity.Analyse(ctx, own, before, now)
	return rep, why, err
}

func (f *capacityFlags) options(e *env) (capacity.Options, error) {
	o := capacity.Options{Selector: f.selector, StateDir: e.cfg.Operations.StateDir, Enabled: e.cfg.Enabled, Thresholds: e.thresholds,
		Limits: map[string]float64{}, Now: e.now().UTC()}
	var err error
	if o.History, err = days("history", f.history); err != nil {
		return o, err
	}
	if o.Horizon, err = days("horizon", f.horizon); err != nil {
		return o, err
	}
	if o.Growth, err = percentage(f.growth); err != nil {
		return o, err
	}
	for _, l := range f.limits {
		name, text, ok := strings.Cut(l, "=")
		if !ok || !slices.Contains(capacity.Names(), name) {
			return o, usageError("--limit %s: write RESOURCE=VALUE with one of %s", l, strings.Join(capacity.Names(), ", "))
		}
		v, err := quantity(text)
		if err != nil {
			return o, usageError("--limit %s: %v", l, err)
		}
		o.Limits[name] = v
	}
	return o, nil
}

// days reads the value of a flag that is a time of at least a day.
func days(flag, text string) (time.Duration, error) {
	d, err := model.ParseDuration(text)
	if err != nil || time.Duration(d) < 24*time.Hour || time.Duration(d) > maxHorizon {
		return 0, usageError("--%s %s: write a duration from 1d to 5y, such as 90d", flag, text)
	}
	return time.Duration(d), nil
}

// percentage reads 20% or 0.2.
func percentage(text string) (float64, error) {
	number, percent := strings.CutSuffix(text, "%")
	v, err := strconv.ParseFloat(strings.TrimSpace(number), 64)
	if percent {
		v /= 100
	}
	if err != nil || !(v > -1 && v <= 100) {
		return 0, usageError("--growth %s: write a percentage above -100%%, such as 20%%", text)
	}
	return v, nil
}

// quantity reads a number or a size such as 200GiB or 200GB.
func quantity(text string) (float64, error) {
	v, err := strconv.ParseFloat(text, 64)
	if err != nil {
		var n int64
		n, err = units.ParseStrictBytes(text)
		v = float64(n)
	}
	if err != nil || !(v > 0) || math.IsInf(v, 0) {
		return 0, errors.New("write a number above 0, or a size such as 200GiB")
	}
	return v, nil
}

func (f *capacityFlags) print(e *env, rep *capacity.Report) {
	if !e.quiet {
		e.heading(1, fmt.Sprintf("Capacity at %s", rep.Generated.Format("2006-01-02 15:04 MST")))
		e.printf("History: %s (%s), %s used. Horizon: %s.", rep.Source, rep.Detail, daysText(rep.HistoryDays), rep.Until.Format("2006-01-02"))
		if rep.Growth != 0 {
			e.printf(" What if: %s load, and what is stored growing as much faster.", humanize.Signed(humanize.Ratio, rep.Growth))
		}
		e.printf("\n\n")
	}
	var rows [][]string
	for _, r := range rep.Resources {
		if e.quiet && r.Verdict == opstate.Well {
			continue
		}
		rows = append(rows, f.row(e, r))
	}
	if len(rows) > 0 {
		e.table([]string{"resource", "now", "of", "trend", "90 % range", "at the horizon", "planning from", "full"}, rows, 2, 3)
	}
	var advice [][]string
	for _, r := range rep.Resources {
		if r.Advice != "" {
			advice = append(advice, []string{e.coloured(r.Verdict, string(r.Verdict)), r.Advice})
		}
	}
	if len(advice) > 0 {
		e.heading(2, "Advice")
		e.table(nil, advice)
	}
	if len(rep.NotLookedAt) > 0 && !e.quiet {
		e.heading(2, "Not looked at")
		for _, n := range rep.NotLookedAt {
			e.printf("- %s: %s\n", n.What, oneLine(n.Why))
		}
	}
}

func daysText(n int) string {
	if n == 1 {
		return "1 day"
	}
	return fmt.Sprintf("%d days", n)
}

func (f *capacityFlags) row(e *env, r capacity.Resource) []string {
	now, limit, trend, between, ahead := "?", "", string(r.Trend.Answer), "", ""
	if r.Use != nil {
		now = humanize.Value(r.Unit, *r.Use)
	}
	if r.WhatIf != nil {
		now += " -> " + humanize.Value(r.Unit, *r.WhatIf)
	}
	if r.Limit != nil {
		limit = humanize.Value(r.Unit, *r.Limit)
		if r.Use != nil && r.Unit != humanize.Ratio {
			limit += " = " + humanize.Value(humanize.Ratio, *r.Use / *r.Limit)
		}
	}
	switch r.Trend.Answer {
	case capacity.Growing, capacity.Shrinking:
		trend = humanize.Signed(r.Unit, r.Trend.PerDay) + " a day"
		between = humanize.Signed(r.Unit, r.Trend.Low) + " .. " + humanize.Signed(r.Unit, r.Trend.High)
	case capacity.TooShort:
		trend += " (" + daysText(r.Trend.Days) + ")"
	}
	if !r.Trend.Step.IsZero() {
		trend += ", since a jump on " + r.Trend.Step.Format("2006-01-02")
	}
	if r.Forecast != nil {
		ahead = fmt.Sprintf("%s (%s .. %s)", humanize.Value(r.Unit, r.Forecast.Value),
			humanize.Value(r.Unit, max(0, r.Forecast.Low)), humanize.Value(r.Unit, r.Forecast.High))
	}
	row := []string{e.coloured(r.Verdict, r.Title()), now, limit, trend, between, ahead, "", ""}
	for _, m := range r.Marks {
		column := 7
		if m.Name == "advice" {
			column = 6
		}
		when := m.When()
		if when == "" && r.Trend.Answer == capacity.Growing {
			when = "not within the horizon"
		}
		row[column] = when
	}
	return row
}
