// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"encoding/json"
	"math"
	"net/http"
	"strconv"
	"time"
)

// Prometheus, Grafana, Alertmanager and Loki, as far as others ask them.

const (
	prometheusVersion   = "3.14.0"
	grafanaVersion      = "12.1.0"
	alertmanagerVersion = "0.34.1"
	lokiVersion         = "3.7.6"
	goVersion           = "go1.26.8"
)

// build is what the servers of the Prometheus family say about themselves.
type build struct {
	Version   string `json:"version"`
	Revision  string `json:"revision"`
	Branch    string `json:"branch"`
	BuildUser string `json:"buildUser"`
	BuildDate string `json:"buildDate"`
	GoVersion string `json:"goVersion"`
}

func buildOf(version string) build {
	return build{version, "4f5dd3bc8d8a3e0b2f31a1a1f9a7a1a7cde30a2e", "HEAD", "root@7d3e1f9b2c44", "20260817-10:00:00", goVersion}
}

func (b build) family(name string) family {
	return gauge(name+"_build_info", "A metric with a constant '1' value labeled by version, revision, branch, goversion from which "+name+" was built, and the goos and goarch for the build.", 1,
		"branch", b.Branch, "goarch", "amd64", "goos", "linux", "goversion", b.GoVersion, "revision", b.Revision, "tags", "netgo,builtinassets", "version", b.Version)
}

// hoursOf is how long the monitoring has been running.
func hoursOf(s state) float64 { return max(0, s.at.Sub(s.prometheusStarted).Hours()) }

func seconds(t time.Time) float64 { return float64(t.UnixMilli()) / 1000 }

// badly is 0 for what failed, 1 for what went well.
func badly(failed bool) float64 {
	if failed {
		return 0
	}
	return 1
}

func newPrometheus(w *world) *service {
	b := buildOf(prometheusVersion)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /-/healthy", func(rw http.ResponseWriter, _ *http.Request) {
		answerText(rw, http.StatusOK, "Prometheus Server is Healthy.\n")
	})
	// ready is the gate that everything but /metrics, /-/healthy and the progress of the replay stands behind.
	ready := func(h http.HandlerFunc) http.HandlerFunc {
		return func(rw http.ResponseWriter, r *http.Request) {
			if w.look().knobs.prometheusNotReady {
				rw.Header().Set("X-Prometheus-Stopping", "false")
				answerText(rw, http.StatusServiceUnavailable, "Service Unavailable")
				return
			}
			h(rw, r)
		}
	}
	api := func(path string, data func(state) any) {
		mux.HandleFunc("GET /api/v1/"+path, ready(func(rw http.ResponseWriter, _ *http.Request) { prometheusAnswer(rw, data(w.look())) }))
	}
	mux.HandleFunc("GET /-/ready", ready(func(rw http.ResponseWriter, _ *http.Request) {
		answerText(rw, http.StatusOK, "Prometheus Server is Ready.\n")
	}))
	mux.HandleFunc("GET /api/v1/status/walreplay", func(rw http.ResponseWriter, _ *http.Request) {
		progress := struct {
			Min     int `json:"min"`
			Max     int `json:"max"`
			Current int `json:"current"`
		}{0, 12, 12}
		if w.look().knobs.prometheusNotReady {
			progress.Current = 3
		}
		prometheusAnswer(rw, progress)
	})
	api("status/buildinfo", func(state) any { return b })
	api("status/runtimeinfo", func(s state) any {
		return struct {
			Start      string `json:"startTime"`
			CWD        string `json:"CWD"`
			Hostname   string `json:"hostname"`
			Server     string `json:"serverTime"`
			Reload     bool   `json:"reloadConfigSuccess"`
			LastConfig string `json:"lastConfigTime"`
			Corruption int    `json:"corruptionCount"`
			Goroutines int    `json:"goroutineCount"`
			MaxProcs   int    `json:"GOMAXPROCS"`
			MemLimit   int64  `json:"GOMEMLIMIT"`
			GC         string `json:"GOGC"`
			Debug      string `json:"GODEBUG"`
			Retention  string `json:"storageRetention"`
		}{s.prometheusStarted.UTC().Format(time.RFC3339Nano), "/", "vm", s.at.UTC().Format(time.RFC3339Nano), !s.knobs.prometheusReload,
			s.prometheusStarted.UTC().Format(time.RFC3339), 0, 41, 2, 22748851814, "75", "", "15d"}
	})
	api("status/tsdb", func(s state) any {
		return map[string]any{"headStats": struct {
			Series int   `json:"numSeries"`
			Pairs  int   `json:"numLabelPairs"`
			Chunks int   `json:"chunkCount"`
			Min    int64 `json:"minTime"`
			Max    int64 `json:"maxTime"`
		}{headSeries(s), 2210, 3 * headSeries(s), s.at.Add(-2 * time.Hour).UnixMilli(), s.at.UnixMilli()},
			"seriesCountByMetricName": []any{}, "labelValueCountByLabelName": []any{}, "memoryInBytesByLabelName": []any{}, "seriesCountByLabelValuePair": []any{}}
	})
	api("targets", prometheusTargets)
	mux.HandleFunc("GET /metrics", func(rw http.ResponseWriter, _ *http.Request) {
		answer(rw, http.StatusOK, typeGoMetrics, prometheusMetrics(w.look(), b))
	})
	mux.HandleFunc("/", http.NotFound)
	reject := func(rw http.ResponseWriter, r *http.Request, status int) {
		if status == http.StatusUnauthorized {
			rw.Header().Set("WWW-Authenticate", "Basic")
		}
		rejectText(rw, r, status)
	}
	return &service{name: "prometheus", handler: mux, reject: reject, section: urlSection}
}

func prometheusAnswer(w http.ResponseWriter, data any) {
	body, err := json.Marshal(struct {
		Status string `json:"status"`
		Data   any    `json:"data"`
	}{"success", data})
	if err != nil {
		panic(err) // our own plain structures
	}
	answer(w, http.StatusOK, typeJSON, body)
}

func headSeries(s state) int { return 8400 + int(600*s.load) }

func prometheusTargets(s state) any {
	type target struct {
		Discovered map[string]string `json:"discoveredLabels"`
		Labels     map[string]string `json:"labels"`
		Pool       string            `json:"scrapePool"`
		ScrapeURL  string            `json:"scrapeUrl"`
		GlobalURL  string            `json:"globalUrl"`
		Error      string            `json:"lastError"`
		Last       string            `json:"lastScrape"`
		Duration   float64           `json:"lastScrapeDuration"`
		Health     string            `json:"health"`
		Interval   string            `json:"scrapeInterval"`
		Timeout    string            `json:"scrapeTimeout"`
	}
	var targets []target
	for _, t := range []struct{ job, address string }{
		{"alertmanager", "127.0.0.1:9093"}, {"niodoo", "127.0.0.1:10646"}, {"node", "127.0.0.1:9100"}, {"prometheus", "127.0.0.1:9090"},
	} {
		at := "http://" + t.address + "/metrics"
		one := target{map[string]string{"__address__": t.address, "__metrics_path__": "/metrics", "__scheme__": "http", "__scrape_interval__": "15s", "__scrape_timeout__": "10s", "job": t.job},
			map[string]string{"instance": t.address, "job": t.job}, t.job, at, at, "", s.at.Truncate(15 * time.Second).UTC().Format(time.RFC3339Nano), 0.0081, "up", "15s", "10s"}
		if t.job == "node" && s.knobs.targetDown {
			one.Health, one.Error = "down", `Get "`+at+`": dial tcp `+t.address+`: connect: connection refused`
		}
		targets = append(targets, one)
	}
	return struct {
		Active        []target `json:"activeTargets"`
		Dropped       []string `json:"droppedTargets"`
		DroppedCounts any      `json:"droppedTargetCounts"`
	}{targets, []string{}, nil}
}

func prometheusMetrics(s state, b build) []byte {
	k, hours := &s.knobs, hoursOf(s)
	alertmanagers := badly(k.noAlertmanager)
	return exposition([]family{
		b.family("prometheus"),
		gauge("process_start_time_seconds", "Start time of the process since unix epoch in seconds.", seconds(s.prometheusStarted)),
		gauge("prometheus_config_last_reload_successful", "Whether the last configuration reload attempt was successful.", badly(k.prometheusReload)),
		gauge("prometheus_config_last_reload_success_timestamp_seconds", "Timestamp of the last successful configuration reload.", seconds(s.prometheusStarted)),
		gauge("prometheus_tsdb_head_series", "Total number of series in the head block.", float64(headSeries(s))),
		gauge("prometheus_tsdb_storage_blocks_bytes", "The number of bytes that are currently used for local storage by all blocks.", math.Floor(212_000_000+4_100_000*hours)),
		gauge("prometheus_tsdb_wal_storage_size_bytes", "Size of the write log storage on disk.", math.Floor(38_000_000+9_000_000*math.Mod(hours, 2))),
		counter("prometheus_tsdb_wal_corruptions_total", "Total number of WAL corruptions.", 0),
		counter("prometheus_tsdb_compactions_failed_total", "Total number of compactions that failed for the partition.", math.Floor(s.compactionsFailed)),
		counter("prometheus_rule_evaluation_failures_total", "The total number of rule evaluation failures.", s.rulesFailed, "rule_group", "/etc/prometheus/rules/niodoo.yml;niodoo-alerts").
			with(0, "rule_group", "/etc/prometheus/rules/niodoo.yml;niodoo-manual-names"),
		counter("prometheus_rule_group_iterations_missed_total", "The total number of rule group evaluations missed due to slow rule group evaluation.", 0, "rule_group", "/etc/prometheus/rules/niodoo.yml;niodoo-alerts"),
		counter("prometheus_notifications_dropped_total", "Total number of alerts dropped due to errors when sending to Alertmanager.", s.dropped),
		gauge("prometheus_notifications_alertmanagers_discovered", "The number of alertmanagers discovered and active.", alertmanagers),
		counter("prometheus_target_scrapes_exceeded_sample_limit_total", "Total number of scrapes that hit the sample limit and were rejected.", 0),
		counter("prometheus_tsdb_head_samples_appended_total", "Total number of appended samples.", hours*240*float64(headSeries(s)), "type", "float"),
		gauge("go_goroutines", "Number of goroutines that currently exist.", 41),
	}, goNumber)
}

func newGrafana(w *world) *service {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /api/health", func(rw http.ResponseWriter, _ *http.Request) {
		status, database := http.StatusOK, "ok"
		if w.look().knobs.grafanaDatabase {
			status, database = http.StatusServiceUnavailable, "failing"
		}
		answer(rw, status, "application/json; charset=UTF-8",
			[]byte("{\n  \"database\": \""+database+"\",\n  \"version\": \""+grafanaVersion+"\",\n  \"commit\": \"4550cfb5b7\"\n}"))
	})
	mux.HandleFunc("GET /healthz", func(rw http.ResponseWriter, _ *http.Request) { answerText(rw, http.StatusOK, "Ok") })
	mux.HandleFunc("GET /metrics", func(rw http.ResponseWriter, _ *http.Request) {
		s := w.look()
		answer(rw, http.StatusOK, typeGoMetrics, exposition([]family{
			gauge("grafana_build_info", "A metric with a constant '1' value labeled by version, revision, branch, and goversion from which Grafana was built", 1,
				"branch", "HEAD", "edition", "oss", "goversion", goVersion, "revision", "4550cfb5b7", "version", grafanaVersion),
			gauge("grafana_stat_totals_dashboard", "total amount of dashboards", 9),
			gauge("grafana_stat_totals_datasource", "total number of defined datasources, labeled by pluginId", 2, "plugin_id", "prometheus"),
			gauge("grafana_stat_active_users", "number of active users", math.Round(4*s.load)),
			gauge("process_start_time_seconds", "Start time of the process since unix epoch in seconds.", seconds(s.prometheusStarted)),
		}, goNumber))
	})
	// Everything else is behind the login.
	mux.HandleFunc("/", func(rw http.ResponseWriter, r *http.Request) { http.Redirect(rw, r, "/login", http.StatusFound) })
	mux.HandleFunc("GET /login", func(rw http.ResponseWriter, r *http.Request) { loginPage(nil)(nil, rw, r, nil) })
	reject := func(rw http.ResponseWriter, _ *http.Request, status int) {
		answerJSON(rw, status, map[string]string{"message": http.StatusText(status)})
	}
	return &service{name: "grafana", handler: mux, reject: reject, section: urlSection}
}

func newAlertmanager(w *world) *service {
	b := buildOf(alertmanagerVersion)
	mux := http.NewServeMux()
	ok := func(rw http.ResponseWriter, _ *http.Request) { answerText(rw, http.StatusOK, "OK") }
	mux.HandleFunc("GET /-/healthy", ok)
	mux.HandleFunc("GET /-/ready", ok)
	mux.HandleFunc("GET /api/v2/status", func(rw http.ResponseWriter, _ *http.Request) {
		answerJSON(rw, http.StatusOK, map[string]any{
			"cluster":     map[string]any{"peers": []any{}, "status": "disabled"},
			"config":      map[string]string{"original": "global:\n  resolve_timeout: 5m\nroute:\n  receiver: ops\nreceivers:\n- name: ops\n"},
			"uptime":      w.look().prometheusStarted.UTC().Format("2006-01-02T15:04:05.000Z07:00"),
			"versionInfo": b,
		})
	})
	mux.HandleFunc("GET /api/v2/alerts", func(rw http.ResponseWriter, _ *http.Request) {
		answerJSON(rw, http.StatusOK, alerts(w.look()))
	})
	mux.HandleFunc("GET /api/v2/silences", func(rw http.ResponseWriter, _ *http.Request) { answerJSON(rw, http.StatusOK, []any{}) })
	mux.HandleFunc("GET /metrics", func(rw http.ResponseWriter, _ *http.Request) {
		s := w.look()
		sent := math.Floor(hoursOf(s) / 4)
		failed := math.Floor(s.undelivered)
		gone := 1 - badly(s.knobs.peerGone)
		answer(rw, http.StatusOK, typeGoMetrics, exposition([]family{
			b.family("alertmanager"),
			gauge("alertmanager_alerts", "How many alerts by state.", 1, "state", "active").with(0, "state", "suppressed").with(0, "state", "unprocessed"),
			gauge("alertmanager_silences", "How many silences by state.", 0, "state", "active").with(0, "state", "expired").with(0, "state", "pending"),
			counter("alertmanager_notifications_total", "The total number of attempted notifications.", sent+failed, "integration", "email").with(sent, "integration", "webhook"),
			counter("alertmanager_notifications_failed_total", "The total number of failed notifications.", 0, "integration", "email", "reason", "clientError").
				with(failed, "integration", "email", "reason", "other").with(0, "integration", "webhook", "reason", "other"),
			gauge("alertmanager_config_last_reload_successful", "Whether the last configuration reload attempt was successful.", badly(s.knobs.alertReload)),
			gauge("alertmanager_config_last_reload_success_timestamp_seconds", "Timestamp of the last successful configuration reload.", seconds(s.prometheusStarted)),
			gauge("alertmanager_cluster_members", "Number indicating current number of members in cluster.", 1),
			gauge("alertmanager_cluster_failed_peers", "Number indicating the current number of failed peers in the cluster.", gone),
			gauge("process_start_time_seconds", "Start time of the process since unix epoch in seconds.", seconds(s.prometheusStarted)),
		}, goNumber))
	})
	mux.HandleFunc("/", func(rw http.ResponseWriter, r *http.Request) {
		answerJSON(rw, http.StatusNotFound, struct {
			Code    int    `json:"code"`
			Message string `json:"message"`
		}{404, "path " + r.URL.Path + " was not found"})
	})
	return &service{name: "alertmanager", handler: mux, reject: rejectText, section: urlSection}
}

// alerts is the one that always fires.
func alerts(s state) any {
	type status struct {
		Inhibited []string `json:"inhibitedBy"`
		Muted     []string `json:"mutedBy"`
		Silenced  []string `json:"silencedBy"`
		State     string   `json:"state"`
	}
	type alert struct {
		Annotations map[string]string   `json:"annotations"`
		Ends        string              `json:"endsAt"`
		Fingerprint string              `json:"fingerprint"`
		Receivers   []map[string]string `json:"receivers"`
		Starts      string              `json:"startsAt"`
		Status      status              `json:"status"`
		Updated     string              `json:"updatedAt"`
		Generator   string              `json:"generatorURL"`
		Labels      map[string]string   `json:"labels"`
	}
	const milli = "2006-01-02T15:04:05.000Z07:00"
	return []alert{{map[string]string{"summary": "The alerting chain works"}, s.at.Add(4 * time.Minute).UTC().Format(milli), "285ffb673bdb962a",
		[]map[string]string{{"name": "ops"}}, s.prometheusStarted.UTC().Format(milli), status{[]string{}, []string{}, []string{}, "active"},
		s.at.Truncate(time.Minute).UTC().Format(milli), "http://127.0.0.1:9090/graph?g0.expr=vector%281%29&g0.tab=1",
		map[string]string{"alertname": "Watchdog", "severity": "none"}}}
}

func newLoki(w *world) *service {
	b := buildOf(lokiVersion)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /ready", func(rw http.ResponseWriter, _ *http.Request) {
		if w.look().knobs.lokiNotReady {
			answerText(rw, http.StatusServiceUnavailable, "Ingester not ready: waiting for 15s after being ready\n")
			return
		}
		answerText(rw, http.StatusOK, "ready\n")
	})
	mux.HandleFunc("GET /loki/api/v1/status/buildinfo", func(rw http.ResponseWriter, _ *http.Request) { answerJSON(rw, http.StatusOK, b) })
	mux.HandleFunc("GET /services", func(rw http.ResponseWriter, _ *http.Request) {
		answerText(rw, http.StatusOK, "server => Running\nmemberlist-kv => Running\nstore => Running\ningester => Running\ndistributor => Running\nquerier => Running\nquery-frontend => Running\n")
	})
	mux.HandleFunc("GET /metrics", func(rw http.ResponseWriter, _ *http.Request) {
		s := w.look()
		lines := s.logLines
		tenant := []string{"tenant", "fake"}
		answer(rw, http.StatusOK, typeGoMetrics, exposition([]family{
			b.family("loki"),
			counter("loki_distributor_bytes_received_total", "The total number of uncompressed bytes received per tenant. Includes structured metadata bytes.", 180*lines, tenant...),
			counter("loki_distributor_lines_received_total", "The total number of lines received per tenant", lines, tenant...),
			counter("loki_discarded_samples_total", "The total number of samples that were discarded.", 0, "policy", "", "reason", "rate_limited", "tenant", "fake"),
			gauge("loki_ingester_memory_streams", "The total number of streams in memory per tenant.", 14, tenant...),
			gauge("loki_ingester_memory_chunks", "The total number of chunks in memory.", 22),
			gauge("loki_ingester_flush_queue_length", "The total number of series pending in the flush queue.", 0),
			counter("loki_ingester_chunks_flush_failures_total", "Total number of flush failures.", 0),
			counter("loki_ingester_wal_disk_full_failures_total", "Total number of wal write failures due to full disk.", 0),
			gauge("loki_ingester_wal_replay_active", "Whether the WAL is replaying", 0),
			counter("loki_ingester_wal_corruptions_total", "Total number of WAL corruptions encountered.", 0, "type", "segment"),
			counter("loki_panic_total", "The total number of panic triggered", 0),
			counter("loki_request_duration_seconds_count", "Requests", lines/50, "method", "POST", "route", "loki_api_v1_push", "status_code", strconv.Itoa(http.StatusNoContent)),
		}, goNumber))
	})
	mux.HandleFunc("/", http.NotFound)
	return &service{name: "loki", handler: mux, reject: rejectText, section: urlSection}
}
