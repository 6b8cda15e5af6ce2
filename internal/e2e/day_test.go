// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"fmt"
	"hash/fnv"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// A healthy day is replayed from the scrape of the demo, with true times and
// the rules as they are shipped, through Prometheus' own rule manager (promtool
// test rules): every series moves as it would, and what happens on an ordinary
// day happens. Nothing but Watchdog may come of it.

const dayLength = 25 * time.Hour

// recordedAge is for how long the recorded stack had been running: its counters
// have grown to what they are in that time.
const recordedAge = 26 * time.Hour

// dayStep is the interval of the scrapes and evaluations. A day takes a minute
// of a processor at 30 s; every build has one at a minute.
func dayStep() time.Duration {
	if os.Getenv(fullEnv) == "full" {
		return 30 * time.Second
	}
	return time.Minute
}

// dayBegins is noon before the change to summer time in Central Europe. The
// night has no hour from 2 to 3: the timer of the nightly backup runs at 3.
var dayBegins = time.Date(2027, 3, 27, 12, 0, 0, 0, time.UTC)

// span is a part of the day, from and to an offset from its beginning.
type span struct{ from, to time.Duration }

func (s span) has(d time.Duration) bool { return d >= s.from && d < s.to }

func at(hour, minute, second int, long time.Duration) span {
	t := time.Date(2027, 3, 28, hour, minute, second, 0, time.UTC)
	if hour >= 12 {
		t = t.AddDate(0, 0, -1)
	}
	return span{t.Sub(dayBegins), t.Sub(dayBegins) + long}
}

// What happens on that day, in UTC.
var (
	idleNight     = at(0, 0, 0, 4*time.Hour)    // nobody asks the engine
	nightlyBackup = at(1, 0, 0, 12*time.Minute) // 3 o'clock in summer time
	rotation      = at(2, 10, 0, 0)             // by renaming
	truncation    = at(2, 40, 0, 0)             // by copying and truncating
	vacuum        = at(3, 0, 0, 10*time.Minute) // long statements, more waiting
	unloaded      = at(22, 0, 0, 9*time.Hour)   // the model; the first to ask loads it again
	redeploy      = at(9, 0, 0, 40*time.Second) // the engine
	restarted     = at(9, 30, 0, 2*time.Second) // PostgreSQL: one scrape sees it
	healthRun     = at(6, 0, 0, 0)
)

// neverThere are services that this stack does not have.
var neverThere = []string{"qdrant", "loki", "vllm", "pipeline", "docker"}

// moment is what is asked of a series: its name with labels, the value that was
// recorded, and how long the day has lasted. It is absent if ok is false.
func moment(series string, recorded, recordedAt float64, d time.Duration) (v float64, ok bool) {
	name, _, _ := strings.Cut(series, "{")
	now := float64(dayBegins.Add(d).Unix())
	label := func(key, value string) bool { return strings.Contains(series, fmt.Sprintf("%s=%q", key, value)) }
	engine := strings.HasPrefix(name, "niodoo_engine_") || strings.HasPrefix(name, "niodoo_consciousness_") || strings.HasPrefix(name, "niodoo_memory_")

	for _, c := range neverThere {
		switch {
		case strings.HasPrefix(name, "niodoo_"+c+"_"), label("component", c) && name != "niodoo_component_up" && name != "niodoo_component_required":
			return 0, false
		case label("component", c):
			return 0, true
		case label("collector", c):
			return 0, name == "niodoo_scrape_collector_success" || name == "niodoo_scrape_collector_duration_seconds"
		}
	}
	if redeploy.has(d) {
		switch {
		case engine, label("component", "engine") && name != "niodoo_component_up" && name != "niodoo_component_required":
			return 0, false
		case label("component", "engine") && name == "niodoo_component_up", label("collector", "engine") && name == "niodoo_scrape_collector_success":
			return 0, true
		}
	}
	if restarted.has(d) && (strings.HasPrefix(name, "niodoo_postgresql_") && name != "niodoo_postgresql_login_success" && !strings.Contains(name, "failures_total") ||
		label("component", "postgresql") && name == "niodoo_component_response_seconds") {
		return 0, false
	}
	switch {
	case restarted.has(d) && (name == "niodoo_postgresql_login_success" || label("component", "postgresql") && name == "niodoo_component_up" || label("collector", "postgresql") && name == "niodoo_scrape_collector_success"):
		return 0, true
	case name == "niodoo_postgresql_connection_failures_total" && label("reason", "refused"):
		return step(d, restarted.from, 1), true
	case name == "niodoo_backup_same_device": // the recorded demo has only one
		return 0, true
	case name == "niodoo_host_clock_max_error_seconds":
		return 0.02, true
	case strings.HasPrefix(name, "niodoo_ollama_model_loaded"):
		if unloaded.has(d) {
			return 0, false
		}
	case name == "niodoo_backup_in_progress":
		return within(nightlyBackup, d), true
	case name == "niodoo_backup_newest_timestamp_seconds":
		return float64(dayBegins.Add(nightlyBackup.to).Unix()) - (1-step(d, nightlyBackup.to, 1))*(24*time.Hour).Seconds(), true
	case name == "niodoo_operations_health_last_run_timestamp_seconds":
		return float64(dayBegins.Add(healthRun.from).Unix()) - (1-step(d, healthRun.from, 1))*(24*time.Hour).Seconds(), true
	case strings.HasPrefix(name, "niodoo_operations_maintenance_step_last"):
		return float64(dayBegins.Add(vacuum.from).Unix()) - (1-step(d, vacuum.to, 1))*(24*time.Hour).Seconds(), true
	case strings.HasPrefix(name, "niodoo_host_filesystem_avail"), strings.HasPrefix(name, "niodoo_host_filesystem_free"), name == "niodoo_backup_filesystem_avail_bytes":
		// The dump is written, packed, and deleted again; the day's growth stays.
		gone := 12e9 * d.Hours() / 24 / 24
		if nightlyBackup.has(d) {
			gone += 6e9 * (d - nightlyBackup.from).Seconds() / (nightlyBackup.to - nightlyBackup.from).Seconds()
		}
		return recorded - gone, true
	case name == "niodoo_logs_file_size_bytes":
		since := d
		for _, r := range []span{rotation, truncation} {
			if d >= r.from {
				since = d - r.from
			}
		}
		return 2e4 * since.Seconds(), true
	case name == "niodoo_logs_rotations_total":
		return step(d, rotation.from, 1) + step(d, truncation.from, 1), true
	case name == "niodoo_postgresql_oldest_transaction_seconds":
		return max(recorded, within(vacuum, d)*(d-vacuum.from).Seconds()), true
	case name == "niodoo_engine_uptime_seconds":
		if d >= redeploy.to {
			return (d - redeploy.to).Seconds(), true
		}
		return recorded + d.Seconds(), true
	case strings.HasSuffix(name, "_per_second") && idleNight.has(d) && engine:
		return 0, true
	case strings.HasSuffix(name, "_timestamp_seconds"):
		if recordedAt-recorded < 120 { // it says when something was done just now
			return now - (recordedAt - recorded), true
		}
		return recorded + now - recordedAt - math.Mod(now-recordedAt, 86400), true // as often as a day
	}
	if counts(name) {
		grown := recorded / recordedAge.Seconds()
		if strings.HasPrefix(name, "niodoo_host_cpu") {
			grown = 2 * map[bool]float64{true: 0.7, false: 0.05}[label("mode", "idle")]
		}
		if engine && d >= redeploy.to {
			return grown * (d - redeploy.to).Seconds(), true
		}
		return recorded + grown*busy(engine, d), true
	}
	if engine && !idleNight.has(d) || name == "niodoo_component_response_seconds" {
		return recorded * (1 + 0.002*wander(series, d)), true
	}
	return recorded, true
}

// counts reports whether a family is a counter.
func counts(name string) bool {
	return strings.HasSuffix(name, "_total") || strings.HasSuffix(name, "_sum") || strings.HasSuffix(name, "_count") || strings.HasSuffix(name, "_bucket")
}

// busy is for how many seconds of the day so far something was counted: nobody
// asks the engine in an idle night.
func busy(engine bool, d time.Duration) float64 {
	if !engine || d < idleNight.from {
		return d.Seconds()
	}
	return (d - min(d-idleNight.from, idleNight.to-idleNight.from)).Seconds()
}

// step is 0 before a time and n from then on.
func step(d, when time.Duration, n float64) float64 {
	if d < when {
		return 0
	}
	return n
}

func within(s span, d time.Duration) float64 {
	if s.has(d) {
		return 1
	}
	return 0
}

// wander is a noise around 0 that is the same in every run.
func wander(series string, d time.Duration) float64 {
	h := fnv.New32a()
	fmt.Fprint(h, series, int(d/(2*time.Minute)))
	return float64(h.Sum32())/math.MaxUint32*2 - 1
}

var sampleLine = regexp.MustCompile(`(?m)^(\w+(?:\{.*\})?) (\S+)$`)

// dayOf returns the day as a test of promtool.
func dayOf(t *testing.T) []byte {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(Root(t), "mixin", "testdata", "scrape.prom"))
	if err != nil {
		t.Fatal(err)
	}
	var scrapedAt float64
	if _, err := fmt.Sscanf(string(raw), "# Scraped at %f", &scrapedAt); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "rule_files: [%q, %q]\nevaluation_interval: %s\n", filepath.Join(Root(t), "rules", "alerts.yml"), filepath.Join(Root(t), "rules", "recording.yml"), dayStep())
	fmt.Fprintf(&b, "group_eval_order: [niodoo-aggregates, niodoo-kpis, niodoo-slo]\ntests:\n- interval: %s\n  start_timestamp: %d\n  input_series:\n", dayStep(), dayBegins.Unix())
	used := usedByRules(t)
	for _, m := range sampleLine.FindAllSubmatch(raw, -1) {
		series := string(m[1])
		name, rest, _ := strings.Cut(series, "{")
		if !used(name) {
			continue
		}
		v, err := strconv.ParseFloat(string(m[2]), 64)
		if err != nil {
			t.Fatal(err)
		}
		labels := strings.TrimSuffix(rest, "}")
		if labels != "" {
			labels += ","
		}
		fmt.Fprintf(&b, "  - series: '%s{%sjob=\"niodoo\",instance=\"stack:10646\",cluster=\"east\"}'\n    values: '%s'\n", name, labels, values(series, v, scrapedAt))
	}
	fmt.Fprintf(&b, "  - series: 'up{job=\"niodoo\",instance=\"stack:10646\",cluster=\"east\"}'\n    values: '1x%d'\n", dayLength/dayStep())
	fmt.Fprintf(&b, "  promql_expr_test:\n")
	for expr, samples := range map[string]string{
		// Nothing has fired but what is to; and the replay did evaluate.
		fmt.Sprintf(`count by (alertname) (count_over_time(ALERTS{alertstate="firing",severity!="none"}[%s]))`, dayLength): "[]",
		fmt.Sprintf(`count_over_time(ALERTS{alertname="Watchdog"}[%s]) > bool 1400`, dayLength):                            `[{labels: '{alertname="Watchdog",alertstate="firing",component="prometheus",severity="none"}', value: 1}]`,
		`count(instance:niodoo_component_required_up:ratio{cluster="east"} == 1)`:                                          `[{labels: '{}', value: 1}]`,
	} {
		fmt.Fprintf(&b, "  - {expr: '%s', eval_time: %s, exp_samples: %s}\n", expr, dayLength, samples)
	}
	return b.Bytes()
}

// values writes a series as promtool reads it, with runs of the same value and
// of the same growth written once.
func values(series string, recorded, recordedAt float64) string {
	var out []string
	var all []string
	for d := time.Duration(0); d <= dayLength; d += dayStep() {
		v, ok := moment(series, recorded, recordedAt, d)
		if !ok {
			all = append(all, "stale")
			continue
		}
		all = append(all, strconv.FormatFloat(v, 'f', -1, 64))
	}
	for i := 0; i < len(all); {
		j := i
		for j < len(all) && all[j] == all[i] {
			j++
		}
		switch n := j - i; {
		case all[i] == "stale":
			out = append(out, "stale")
			if n > 1 {
				out = append(out, fmt.Sprintf("_x%d", n-1))
			}
		case n > 1:
			out = append(out, fmt.Sprintf("%sx%d", all[i], n-1))
		default:
			out = append(out, all[i])
		}
		i = j
	}
	return strings.Join(out, " ")
}

// usedByRules tells the families that rules read: only they are replayed.
func usedByRules(t *testing.T) func(string) bool {
	t.Helper()
	var names []string
	word := regexp.MustCompile(`niodoo_\w+`)
	for _, file := range []string{"alerts.yml", "recording.yml"} {
		for _, g := range shippedRules(t, file).Groups {
			for _, r := range g.Rules {
				names = append(names, word.FindAllString(r.Expr, -1)...)
			}
		}
	}
	return func(name string) bool { return slices.Contains(names, name) }
}

// A healthy day is silent.
func TestHealthyDayIsSilent(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "day.yml")
	if err := os.WriteFile(file, dayOf(t), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(Tool(t, "promtool"), "test", "rules", file).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
