// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
)

// The documented answers of Docker Engine 29 about the stack's containers.

const dockerMinimum, dockerMaximum = "1.44", "1.55"

type container struct {
	service, image string
	port           int
	memory, cpu    float64 // bytes, cores
}

var containers = []container{
	{"consciousness-engine", "niodoo/consciousness-engine:latest", 8080, 512 << 20, 0.7},
	{"postgres", "postgres:15", 5432, 180 << 20, 0.1},
	{"redis", "redis:7-alpine", 6379, 24 << 20, 0.02},
	{"ollama", "ollama/ollama:latest", 11434, 5200 << 20, 1.2},
	{"prometheus", "prom/prometheus:latest", 9090, 150 << 20, 0.03},
	{"grafana", "grafana/grafana:latest", 3000, 110 << 20, 0.01},
}

func (c container) name() string { return "niodoo-" + c.service + "-1" }

// id is 64 hex digits, the same in every run.
func (c container) id() string {
	return strings.Repeat(fmt.Sprintf("%016x", fnv(c.service)), 4)
}

// fnv is the 64 bit FNV-1a hash.
func fnv(s string) uint64 {
	h := uint64(14695981039346656037)
	for i := range len(s) {
		h = (h ^ uint64(s[i])) * 1099511628211
	}
	return h
}

// condition is what can be said of a container at a moment.
type condition struct {
	state, status, health string
	exit, restarts        int
	oom                   bool
	started               time.Time
}

func (c container) condition(s state) condition {
	k := condition{state: "running", health: "healthy", started: s.began}
	if c.port == 8080 {
		switch {
		case s.knobs.oomKilled:
			k = condition{state: "exited", status: "Exited (137) 5 minutes ago", health: "unhealthy", exit: 137, oom: true, started: s.began}
			return k
		case s.knobs.restarting:
			k.state, k.status, k.exit = "restarting", "Restarting (1) 5 seconds ago", 1
			k.restarts = 3 + int(s.at.Unix()/10%1_000_000)
			return k
		case s.knobs.unwell:
			k.health = "unhealthy"
		}
		k.started = s.engine.started
	}
	k.status = "Up " + upFor(s.at.Sub(k.started)) + " (" + k.health + ")"
	return k
}

// streak is how many health checks have failed in a row.
func (k condition) streak() int {
	if k.health == "healthy" {
		return 0
	}
	return 4
}

// upFor is a duration in Docker's words.
func upFor(d time.Duration) string {
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%d seconds", int(d.Seconds()))
	case d < 2*time.Hour:
		return fmt.Sprintf("%d minutes", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d hours", int(d.Hours()))
	}
	return fmt.Sprintf("%d days", int(d.Hours()/24))
}

// dockerLimit is the memory that a container may have, in bytes.
const dockerLimit = 33554432000

func newDocker(w *world, socket string) *service {
	mux := http.NewServeMux()
	ping := func(rw http.ResponseWriter, _ *http.Request) {
		rw.Header()["Api-Version"] = []string{dockerMaximum}
		rw.Header().Set("Ostype", "linux")
		rw.Header().Set("Swarm", "inactive")
		answerText(rw, http.StatusOK, "OK")
	}
	mux.HandleFunc("GET /_ping", ping)
	mux.HandleFunc("HEAD /_ping", ping)
	find := func(rw http.ResponseWriter, r *http.Request) (container, bool) {
		id := r.PathValue("id")
		i := slices.IndexFunc(containers, func(c container) bool { return c.id() == id || c.name() == id })
		if i < 0 {
			answerJSON(rw, http.StatusNotFound, map[string]string{"message": "No such container: " + id})
			return container{}, false
		}
		return containers[i], true
	}
	mux.HandleFunc("GET /containers/json", func(rw http.ResponseWriter, r *http.Request) {
		s := w.look()
		var list []string
		for _, c := range containers {
			if k := c.condition(s); k.state == "running" || k.state == "restarting" || r.URL.Query().Get("all") == "1" || r.URL.Query().Get("all") == "true" {
				list = append(list, c.listed(s))
			}
		}
		answer(rw, http.StatusOK, typeJSON, []byte("["+strings.Join(list, ",")+"]\n"))
	})
	mux.HandleFunc("GET /containers/{id}/json", func(rw http.ResponseWriter, r *http.Request) {
		if c, ok := find(rw, r); ok {
			answer(rw, http.StatusOK, typeJSON, []byte(c.inspected(w.look())+"\n"))
		}
	})
	mux.HandleFunc("GET /containers/{id}/stats", func(rw http.ResponseWriter, r *http.Request) {
		if c, ok := find(rw, r); ok {
			answer(rw, http.StatusOK, typeJSON, []byte(c.stats(w.look())+"\n"))
		}
	})
	mux.HandleFunc("GET /images/{name...}", func(rw http.ResponseWriter, r *http.Request) {
		name := strings.TrimSuffix(r.PathValue("name"), "/json")
		i := slices.IndexFunc(containers, func(c container) bool { return c.image == name })
		if i < 0 {
			answerJSON(rw, http.StatusNotFound, map[string]string{"message": "No such image: " + name})
			return
		}
		answer(rw, http.StatusOK, typeJSON, []byte(fmt.Sprintf(`{"Id":"sha256:%s","RepoTags":[%q],"RepoDigests":[],"Architecture":"amd64","Os":"linux"}`+"\n",
			containers[i].id(), name)))
	})
	mux.HandleFunc("/", func(rw http.ResponseWriter, _ *http.Request) {
		answerJSON(rw, http.StatusNotFound, map[string]string{"message": "page not found"})
	})
	h := http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		rw.Header().Set("Server", "Docker/29.7.2 (linux)")
		if v, rest, ok := strings.Cut(strings.TrimPrefix(r.URL.Path, "/v"), "/"); ok && strings.HasPrefix(r.URL.Path, "/v1.") {
			if olderAPI(v, dockerMinimum) {
				answerJSON(rw, http.StatusBadRequest, map[string]string{"message": "client version " + v + " is too old. Minimum supported API version is " + dockerMinimum + ", please upgrade your client to a newer version"})
				return
			}
			if olderAPI(dockerMaximum, v) {
				answerJSON(rw, http.StatusBadRequest, map[string]string{"message": "client version " + v + " is too new. Maximum supported API version is " + dockerMaximum})
				return
			}
			r = r.Clone(r.Context())
			r.URL.Path = "/" + rest
		}
		mux.ServeHTTP(rw, r)
	})
	reject := func(rw http.ResponseWriter, _ *http.Request, status int) {
		answerJSON(rw, status, map[string]string{"message": http.StatusText(status)})
	}
	return &service{name: "docker", network: "unix", address: socket, handler: h, reject: reject, section: func(address string) map[string]any {
		return map[string]any{"host": "unix://" + address, "project": "niodoo"}
	}}
}

// olderAPI compares versions such as 1.47.
func olderAPI(a, b string) bool {
	var x, y int
	_, _ = fmt.Sscanf(a, "1.%d", &x)
	_, _ = fmt.Sscanf(b, "1.%d", &y)
	return x < y
}

func (c container) listed(s state) string {
	k := c.condition(s)
	health := ""
	if k.state == "running" {
		health = fmt.Sprintf(`,"Health":{"Status":%q,"FailingStreak":%d}`, k.health, k.streak())
	}
	return fmt.Sprintf(`{"Id":%q,"Names":["/%s"],"Image":%q,"ImageID":"sha256:%s","Command":"docker-entrypoint.s…","Created":%d,`+
		`"Ports":[{"IP":"0.0.0.0","PrivatePort":%d,"PublicPort":%d,"Type":"tcp"}],`+
		`"Labels":{"com.docker.compose.project":"niodoo","com.docker.compose.service":%q},"State":%q,"Status":%q,`+
		`"HostConfig":{"NetworkMode":"niodoo_default"},"NetworkSettings":{"Networks":{}},"Mounts":[]%s}`,
		c.id(), c.name(), c.image, c.id(), s.began.Unix(), c.port, c.port, c.service, k.state, k.status, health)
}

func (c container) inspected(s state) string {
	k := c.condition(s)
	running := k.state == "running"
	finished := "0001-01-01T00:00:00Z"
	if !running {
		finished = s.at.Add(-5 * time.Second).UTC().Format(time.RFC3339Nano)
	}
	return fmt.Sprintf(`{"Id":%q,"Created":%q,"Path":"docker-entrypoint.sh","Args":[],"State":{"Status":%q,"Running":%t,"Paused":false,"Restarting":%t,"OOMKilled":%t,`+
		`"Dead":false,"Pid":%d,"ExitCode":%d,"Error":"","StartedAt":%q,"FinishedAt":%q,"Health":{"Status":%q,"FailingStreak":%d,"Log":[]}},"Image":"sha256:%s","Name":"/%s",`+
		`"RestartCount":%d,"HostConfig":{"Memory":0,"NanoCpus":0,"RestartPolicy":{"Name":"unless-stopped","MaximumRetryCount":0}},`+
		`"Config":{"Image":%q,"Labels":{"com.docker.compose.project":"niodoo","com.docker.compose.service":%q}}}`,
		c.id(), s.began.UTC().Format(time.RFC3339Nano), k.state, running, k.state == "restarting", k.oom, 1000+c.port, k.exit, k.started.UTC().Format(time.RFC3339Nano), finished, k.health, k.streak(),
		c.id(), c.name(), k.restarts, c.image, c.service)
}

// stats is the one-shot sample on cgroup v2; its counters grow with the time
// the container has been up.
func (c container) stats(s state) string {
	k := c.condition(s)
	const empty = `{"cpu_usage":{"total_usage":0,"usage_in_kernelmode":0,"usage_in_usermode":0},"throttling_data":{"periods":0,"throttled_periods":0,"throttled_time":0}}`
	if k.state != "running" {
		return fmt.Sprintf(`{"id":%q,"name":"/%s","os_type":"linux","read":"0001-01-01T00:00:00Z","cpu_stats":%s,"memory_stats":{},"pids_stats":{},"blkio_stats":{},`+
			`"num_procs":0,"storage_stats":{},"preread":"0001-01-01T00:00:00Z","precpu_stats":%s}`, c.id(), c.name(), empty, empty)
	}
	up := s.at.Sub(k.started).Seconds()
	cpu := int64(up * c.cpu * 1e9)
	kernel := cpu / 7
	rx := int64(up * 4000 * c.cpu)
	memory := int64(c.memory * (0.95 + 0.1*s.load))
	inactive := memory / 5
	if s.knobs.containerFull && c.port == 8080 {
		memory, inactive = dockerLimit*98/100, 0
	}
	return fmt.Sprintf(`{"id":%q,"name":"/%s","os_type":"linux","read":%q,"cpu_stats":{"cpu_usage":{"total_usage":%d,"usage_in_kernelmode":%d,"usage_in_usermode":%d},`+
		`"system_cpu_usage":%d,"online_cpus":8,"throttling_data":{"periods":0,"throttled_periods":0,"throttled_time":0}},`+
		`"memory_stats":{"usage":%d,"stats":{"anon":%d,"file":%d,"inactive_file":%d,"active_file":%d},"limit":%d},`+
		`"networks":{"eth0":{"rx_bytes":%d,"rx_packets":%d,"rx_errors":0,"rx_dropped":0,"tx_bytes":%d,"tx_packets":%d,"tx_errors":0,"tx_dropped":0}},`+
		`"pids_stats":{"current":14,"limit":38000},"blkio_stats":{"io_service_bytes_recursive":[{"major":259,"minor":0,"op":"read","value":8388608},`+
		`{"major":259,"minor":0,"op":"write","value":%d}],"io_serviced_recursive":null,"io_queue_recursive":null,"io_service_time_recursive":null,`+
		`"io_wait_time_recursive":null,"io_merged_recursive":null,"io_time_recursive":null,"sectors_recursive":null},"num_procs":0,"storage_stats":{},`+
		`"preread":"0001-01-01T00:00:00Z","precpu_stats":%s}`,
		c.id(), c.name(), s.at.UTC().Format(time.RFC3339Nano), cpu, kernel, cpu-kernel, int64(up*8e9), memory, memory*7/10, memory*3/10, inactive, memory/10, dockerLimit,
		rx, rx/160, 2*rx, rx/165, 4194304+rx, empty)
}
