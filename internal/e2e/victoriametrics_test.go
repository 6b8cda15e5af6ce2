// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// sameAlerts are the cases of the version for every build: many faults at a
// time, of each kind that rules can see. The full version has the matrix instead.
var sameAlerts = []proof{
	// Those that show soon: a service, a join of labels, a counter, a histogram's mean, a subquery, a time, one that keeps firing.
	{faults: "ollama-stopped redis-clients-refused engine-processing-slow host-read-only incident-p1-unacknowledged postgresql-lock-queue",
		fires: "ServiceDown RedisConnectionsRejected HighProcessingLatency FilesystemReadOnly IncidentUnacknowledged PostgreSQLLockQueue", quiet: shortly},
	// Those that take their time, but end soon: a recording rule, states.
	{faults: "engine-part-unhealthy host-memory-full qdrant-red backup-bit-flipped",
		fires: "EngineDegraded HighMemoryUsage QdrantCollectionFailed QdrantOptimizerFailing BackupCheckFailed", quiet: shortly},
	// Every series of a stack.
	{faults: "exporter-stopped", fires: "NiodooExporterDown", quiet: shortly},
}

// shortly is how long the stacks of these cases are well before their faults:
// they look at no detection's time.
const shortly = 3 * time.Second

// visibleAfter is for how long VictoriaMetrics is not asked about what was
// written to it. Scaled, its 30 s would be one, and it shows what it has up to a
// second late at any scale.
const visibleAfter = "2s"

// twoWays are two ways of the alerts from the same scrapes: the chain's, and
// VictoriaMetrics, to which the chain's Prometheus writes what it scrapes, with
// vmalert, which evaluates the same files of rules and tells an Alertmanager of
// its own.
type twoWays struct {
	*chain
	vmalert string   // URL
	ways    []string // the Alertmanagers

	mu   sync.Mutex
	seen []map[string]map[string]string // every alert of a way, as in alertsIn
}

// startTwoWays starts both; nothing is watched yet.
func startTwoWays(t testing.TB) *twoWays {
	t.Helper()
	dir := t.TempDir()
	listen := func() (address, base string) {
		address = fmt.Sprintf("127.0.0.1:%d", freePort(t))
		return address, "http://" + address
	}
	up := func(address string) {
		Await(t, address+" answers", func() error { _, err := Get(address); return err })
	}
	address, storage := listen()
	Start(t, Tool(t, "victoria-metrics"), "-httpListenAddr="+address, "-storageDataPath="+filepath.Join(dir, "metrics"), "-search.latencyOffset="+visibleAfter,
		"-search.maxQueueDuration="+patience.String(), "-memory.allowedBytes=256MiB", "-loggerLevel=WARN")
	up(storage + "/health")
	// What Prometheus makes of its own rules stays with it: vmalert must make its own.
	c := startChain(t, 1, quick, fmt.Sprintf(`remote_write:
  - url: %s/api/v1/write
    queue_config: {batch_send_deadline: %s}
    write_relabel_configs:
      - {action: labeldrop, regex: replica}
      - {action: drop, source_labels: [__name__], regex: "ALERTS.*|.+:.+"}
`, storage, quick.scaledText(t, "5s")))
	address, alertmanager := listen()
	Start(t, Tool(t, "alertmanager"), "--config.file="+c.routing, "--storage.path="+filepath.Join(dir, "alertmanager"), "--web.listen-address="+address, "--cluster.listen-address=", "--log.level=warn")
	up(alertmanager + "/-/ready")
	address, vmalert := listen()
	Start(t, Tool(t, "vmalert"), "-httpListenAddr="+address, "-rule="+strings.Join(c.ruleFiles, ","), "-datasource.url="+storage, "-remoteWrite.url="+storage, "-notifier.url="+alertmanager,
		"-evaluationInterval="+quick.evaluate.String(), "-rule.evalDelay="+visibleAfter, "-remoteWrite.flushInterval="+quick.scaledText(t, "5s"), "-disableAlertgroupLabel", "-loggerLevel=WARN")
	up(vmalert + "/health")

	w := &twoWays{chain: c, vmalert: vmalert, ways: []string{c.alertmanager, alertmanager}}
	w.watchBoth(t)
	return w
}

// watchBoth remembers every alert of both ways until the test ends.
func (w *twoWays) watchBoth(t testing.TB) {
	w.seen = []map[string]map[string]string{{}, {}}
	ended := make(chan struct{})
	var wg sync.WaitGroup
	for i, base := range w.ways {
		wg.Go(func() {
			for every := time.NewTicker(200 * time.Millisecond); ; {
				select {
				case <-ended:
					return
				case <-every.C:
				}
				all, err := alertsIn(base, "")
				if err != nil {
					continue // it is ending, or busy; whoever asks it next says so
				}
				w.mu.Lock()
				maps.Copy(w.seen[i], all)
				w.mu.Unlock()
			}
		})
	}
	t.Cleanup(func() {
		close(ended)
		wg.Wait()
	})
}

// alertsIn returns the annotations of the alerts about an instance that an
// Alertmanager has, inhibited ones included, by their labels. "" is any instance.
func alertsIn(base, instance string) (map[string]map[string]string, error) {
	body, err := Get(base + "/api/v2/alerts")
	if err != nil {
		return nil, err
	}
	var all []struct{ Labels, Annotations map[string]string }
	if err := json.Unmarshal([]byte(body), &all); err != nil {
		return nil, err
	}
	alerts := map[string]map[string]string{}
	for _, a := range all {
		if instance == "" || a.Labels["instance"] == instance {
			alerts[fmt.Sprint(a.Labels)] = a.Annotations
		}
	}
	return alerts, nil
}

// same returns nil if both ways have the same alerts about an instance, with the
// same texts, and at least those wanted.
func (w *twoWays) same(instance string, wanted ...string) error {
	var both [2]map[string]map[string]string
	var err error
	for i, base := range w.ways {
		if both[i], err = alertsIn(base, instance); err != nil {
			return err
		}
	}
	for _, name := range wanted {
		if !slices.ContainsFunc(slices.Collect(maps.Keys(both[0])), func(labels string) bool { return strings.HasPrefix(labels, "map[alertname:"+name+" ") }) {
			return fmt.Errorf("Prometheus does not give %s", name)
		}
	}
	var errs []error
	for labels, texts := range both[0] {
		other, ok := both[1][labels]
		if !ok {
			errs = append(errs, fmt.Errorf("only Prometheus gives %s", labels))
		} else if !maps.EqualFunc(texts, other, alikeTexts) {
			errs = append(errs, fmt.Errorf("of %s Prometheus says\n%v, vmalert\n%v", labels, texts, other))
		}
	}
	for labels := range both[1] {
		if both[0][labels] == nil {
			errs = append(errs, fmt.Errorf("only vmalert gives %s", labels))
		}
	}
	return errors.Join(errs...)
}

var number = regexp.MustCompile(`\d+(?:\.\d+)?`)

// alikeTexts reports whether two texts have the same words, and numbers that two
// evaluations at two moments can have: within a quarter.
func alikeTexts(a, b string) bool {
	if number.ReplaceAllString(a, "0") != number.ReplaceAllString(b, "0") {
		return false
	}
	others := number.FindAllString(b, -1)
	for i, s := range number.FindAllString(a, -1) {
		x, errX := strconv.ParseFloat(s, 64)
		y, errY := strconv.ParseFloat(others[i], 64)
		if errX != nil || errY != nil || math.Abs(x-y) > max(x, y)/4 {
			return false
		}
	}
	return true
}

// follow follows faults on both ways.
func (w *twoWays) follow(r *trial) {
	fires := strings.Fields(r.proof.fires + " " + r.proof.inhibited)
	r.inject()
	awaitFor(r, r.longest(fires), "both ways give "+r.proof.fires, func() error { return w.same(r.instance, fires...) })
	r.lift()
	awaitFor(r, 10*time.Minute, "all is over on both ways", func() error {
		for _, base := range w.ways {
			all, err := alertsIn(base, r.instance)
			if err == nil && len(all) > 0 {
				err = fmt.Errorf("%s has %v", base, all)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := range w.seen {
		for labels := range w.seen[i] {
			name := strings.TrimPrefix(strings.Fields(labels)[0], "map[alertname:")
			if strings.Contains(labels, " instance:"+r.instance+" ") && w.seen[1-i][labels] == nil && !slices.Contains(strings.Fields(r.proof.may), name) {
				r.Errorf("%s: at some time only way %d gave %s", r.instance, i, labels)
			}
		}
	}
}

// The same rules evaluated by Prometheus, and by vmalert over a VictoriaMetrics
// that this Prometheus writes to, give the same alerts.
func TestVictoriaMetricsGivesTheSameAlerts(t *testing.T) {
	t.Parallel()
	cases, full := sameAlerts, os.Getenv(fullEnv) == "full"
	if full {
		// A mail server is of a chain's own.
		cases = slices.DeleteFunc(slices.Clone(matrix), func(p proof) bool { return strings.HasPrefix(p.faults, "smtp-") })
	}
	sim, exporter := Build(t, "niodoo_sim"), Build(t, "niodoo_exporter")
	w := startTwoWays(t)
	m := &run{T: t, chain: w.chain, sim: sim, exporter: exporter, results: map[string]result{}, follow: w.follow, atOnce: !full}
	m.prove(slices.Clone(cases), 12) // nothing is timed here
	w.healthy(t)
}

// That no exporter is watched at all both ways say, too, and that one is again.
func TestVictoriaMetricsMissesTheExporter(t *testing.T) {
	t.Parallel()
	w := startTwoWays(t)
	Await(t, "both ways miss the exporter", func() error { return w.same("", "NiodooExporterAbsent", "Watchdog") })
	exporter := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; version=0.0.4")
	}))
	defer exporter.Close()
	w.watch(t, "found", strings.TrimPrefix(exporter.URL, "http://"))
	Await(t, "both have found it", func() error {
		all, err := alertsIn(w.alertmanager, "")
		if err == nil && len(all) > 1 {
			err = fmt.Errorf("%s has %v", w.alertmanager, all)
		}
		return cmp.Or(err, w.same("", "Watchdog"))
	})
	w.healthy(t)
}

// healthy fails if a rule could not be evaluated, or what came of it was lost.
func (w *twoWays) healthy(t testing.TB) {
	t.Helper()
	w.chain.healthy(t)
	page, err := Get(w.vmalert + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	bad := regexp.MustCompile(`(?m)^vmalert_(?:alerting_rules_errors_total|recording_rules_errors_total|alerts_send_errors_total|remotewrite_dropped_rows_total|remotewrite_errors_total)\b.* [1-9].*$`)
	if lines := bad.FindAllString(page, -1); len(lines) > 0 {
		t.Errorf("vmalert had trouble:\n%s", strings.Join(lines, "\n"))
	}
}

func TestAlikeTexts(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		a, b string
		want bool
	}{
		{"It is 80.5% full.", "It is 80.5% full.", true},
		{"It failed 20 times in 10 minutes.", "It failed 22 times in 10 minutes.", true},
		{"It failed 20 times in 10 minutes.", "It failed 40 times in 10 minutes.", false},
		{"It is down. Reason: refused.", "It is down. Reason: timeout.", false},
		{"It is down. Reason: refused.", "It is down.", false},
		{"for 1h 2m", "for 62m", false},
		{"0 left", "1 left", false},
	} {
		if got := alikeTexts(c.a, c.b); got != c.want {
			t.Errorf("%q and %q: %v", c.a, c.b, got)
		}
	}
}
