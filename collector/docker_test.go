// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// fakeDocker answers as the Engine API does. Its containers are written out
// below; answers replaces single ones by path.
type fakeDocker struct {
	apiVersion string // header Api-Version; "" leaves it out
	minimum    string // answers 400 to paths of an older version
	list       string

	mu      sync.Mutex
	answers map[string]http.HandlerFunc // by path without the version
	asked   []string                    // request URIs
	most    atomic.Int64                // requests in flight at once
}

func (f *fakeDocker) answer(path string, status int, body string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.answers == nil {
		f.answers = map[string]http.HandlerFunc{}
	}
	f.answers[path] = func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		fmt.Fprintln(w, body)
	}
}

func (f *fakeDocker) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	f.asked = append(f.asked, r.URL.RequestURI())
	path := r.URL.Path
	version := ""
	if rest, ok := strings.CutPrefix(path, "/v1."); ok {
		version, path, _ = strings.Cut(rest, "/")
		version, path = "1."+version, "/"+path
	}
	h := f.answers[path]
	f.mu.Unlock()
	if f.apiVersion != "" {
		w.Header().Set("Api-Version", f.apiVersion)
	}
	w.Header().Set("Docker-Experimental", "false")
	w.Header().Set("Ostype", "linux")
	w.Header().Set("Server", "Docker/29.7.2 (linux)")
	w.Header().Set("Content-Type", "application/json")
	wanted, _ := parseDockerAPI(version)
	minimum, has := parseDockerAPI(f.minimum)
	switch {
	case h != nil:
		h(w, r)
	case path == "/_ping":
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		fmt.Fprint(w, "OK")
	case has && wanted.less(minimum):
		w.WriteHeader(http.StatusBadRequest)
		fmt.Fprintf(w, `{"message":"client version %s is too old. Minimum supported API version is %s, please upgrade your client to a newer version"}`+"\n", version, f.minimum)
	case path == "/containers/json":
		fmt.Fprintln(w, f.list)
	default:
		w.WriteHeader(http.StatusNotFound)
		id, _, _ := strings.Cut(strings.TrimPrefix(path, "/containers/"), "/")
		fmt.Fprintf(w, `{"message":"No such container: %s"}`+"\n", id)
	}
}

// start serves on a unix socket and returns the configuration's host.
func (f *fakeDocker) start(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "docker") // a socket's path has 107 bytes at most
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	l, err := net.Listen("unix", filepath.Join(dir, "docker.sock"))
	if err != nil {
		t.Fatal(err)
	}
	srv := &httptest.Server{Listener: l, Config: &http.Server{Handler: f}}
	srv.Start()
	t.Cleanup(srv.Close)
	return "unix://" + l.Addr().String()
}

func (f *fakeDocker) requests(contains string) []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var found []string
	for _, r := range f.asked {
		if strings.Contains(r, contains) {
			found = append(found, r)
		}
	}
	return found
}

func dockerConfig(host string) string { return fmt.Sprintf("{host: %q}", host) }

func dockerID(n int) string { return fmt.Sprintf("%064x", 0xaa86eacf0000+n) }

// dockerListed is an element of the list as API 1.47 has it.
func dockerListed(n int, name, state, statusText, image string) string {
	return fmt.Sprintf(`{"Id":"%s","Names":["/%s"],"Image":"%s","ImageID":"sha256:%x7229%059d","Command":"docker-entrypoint.s…","Created":1739811096,`+
		`"Ports":[{"IP":"0.0.0.0","PrivatePort":5432,"PublicPort":5432,"Type":"tcp"}],"Labels":{"com.docker.compose.project":"niodoo","com.docker.compose.service":"%s"},`+
		`"State":"%s","Status":"%s","HostConfig":{"NetworkMode":"niodoo_default"},"NetworkSettings":{"Networks":{}},"Mounts":[]}`,
		dockerID(n), name, image, n, n, strings.Split(name, "-")[1], state, statusText)
}

// dockerInspected is the part of an inspection that differs between containers;
// the environment must never be shown.
func dockerInspected(n int, name, image, state string, restarts int) string {
	return fmt.Sprintf(`{"Id":"%s","Created":"2026-08-16T11:59:58.000000001Z","Path":"docker-entrypoint.sh","Args":["postgres"],"State":%s,`+
		`"Image":"sha256:%x7229%059d","ResolvConfPath":"","LogPath":"","Name":"/%s","RestartCount":%d,"Driver":"overlayfs","Platform":"linux",`+
		`"HostConfig":{"Memory":0},"Mounts":[],"Config":{"Hostname":"aa86eacfb3b3","Env":["POSTGRES_PASSWORD=hunter2"],"Image":"%s","Labels":{}},"NetworkSettings":{}}`,
		dockerID(n), state, n, n, name, restarts, image)
}

const (
	dockerStateHealthy = `{"Status":"running","Running":true,"Paused":false,"Restarting":false,"OOMKilled":false,"Dead":false,"Pid":4711,"ExitCode":0,"Error":"",` +
		`"StartedAt":"2026-08-16T12:00:00.123456789Z","FinishedAt":"0001-01-01T00:00:00Z","Health":{"Status":"healthy","FailingStreak":0,"Log":[{"Start":"2026-08-20T12:00:00Z","End":"2026-08-20T12:00:00.1Z","ExitCode":0,"Output":"accepting connections\n"}]}}`
	dockerStateStarting = `{"Status":"running","Running":true,"OOMKilled":false,"ExitCode":0,"StartedAt":"2026-08-20T11:59:00Z","FinishedAt":"2026-08-20T11:58:00Z","Health":{"Status":"unhealthy","FailingStreak":3,"Log":[]}}`
	dockerStatePlain    = `{"Status":"running","Running":true,"OOMKilled":false,"ExitCode":0,"StartedAt":"2026-08-16T12:00:01Z","FinishedAt":"0001-01-01T00:00:00Z"}`
	dockerStateKilled   = `{"Status":"exited","Running":false,"OOMKilled":true,"ExitCode":137,"StartedAt":"2026-08-16T12:00:02Z","FinishedAt":"2026-08-20T10:00:00Z"}`
	dockerStateCreated  = `{"Status":"created","Running":false,"OOMKilled":false,"ExitCode":0,"StartedAt":"0001-01-01T00:00:00Z","FinishedAt":"0001-01-01T00:00:00Z"}`

	dockerZeroCPU = `"preread":"0001-01-01T00:00:00Z","precpu_stats":{"cpu_usage":{"total_usage":0,"usage_in_kernelmode":0,"usage_in_usermode":0},"throttling_data":{"periods":0,"throttled_periods":0,"throttled_time":0}}`
	// A real answer of a daemon on cgroup v2.
	dockerStatsV2 = `{"id":"aa86","name":"/niodoo-postgres-1","os_type":"linux","read":"2026-08-20T12:00:02.117354Z","cpu_stats":{"cpu_usage":{"total_usage":18702340106000,"usage_in_kernelmode":2799670000000,"usage_in_usermode":15902670106000},"system_cpu_usage":67684074960000000,"online_cpus":8,"throttling_data":{"periods":10,"throttled_periods":2,"throttled_time":1500000000}},"memory_stats":{"usage":268435456,"stats":{"anon":120000000,"file":140000000,"inactive_file":96468992,"active_file":40000000},"limit":33554432000},"networks":{"eth0":{"rx_bytes":648000,"rx_packets":4100,"rx_errors":0,"rx_dropped":0,"tx_bytes":1296000,"tx_packets":3900,"tx_errors":0,"tx_dropped":0},"eth1":{"rx_bytes":1000,"tx_bytes":2000}},"pids_stats":{"current":14,"limit":38000},"blkio_stats":{"io_service_bytes_recursive":[{"major":259,"minor":0,"op":"read","value":8388608},{"major":259,"minor":0,"op":"write","value":4194304},{"major":8,"minor":0,"op":"read","value":1000}],"io_serviced_recursive":null,"io_queue_recursive":null,"io_service_time_recursive":null,"io_wait_time_recursive":null,"io_merged_recursive":null,"io_time_recursive":null,"sectors_recursive":null},"num_procs":0,"storage_stats":{},` + dockerZeroCPU + `}`
	// cgroup v1: total_inactive_file, percpu_usage, capital operations with sums.
	dockerStatsV1 = `{"read":"2026-08-20T12:00:02.2Z","cpu_stats":{"cpu_usage":{"total_usage":2000000000,"percpu_usage":[1000000000,1000000000],"usage_in_kernelmode":1,"usage_in_usermode":2},"system_cpu_usage":67684074960000000,"online_cpus":2,"throttling_data":{"periods":0,"throttled_periods":0,"throttled_time":0}},"memory_stats":{"usage":52428800,"max_usage":60000000,"stats":{"cache":20000000,"inactive_file":1,"total_cache":20000000,"total_inactive_file":10485760},"failcnt":0,"limit":104857600},"networks":{"eth0":{"rx_bytes":10,"tx_bytes":20}},"pids_stats":{"current":5},"blkio_stats":{"io_service_bytes_recursive":[{"major":8,"minor":0,"op":"Read","value":100},{"major":8,"minor":0,"op":"Write","value":200},{"major":8,"minor":0,"op":"Sync","value":300},{"major":8,"minor":0,"op":"Async","value":0},{"major":8,"minor":0,"op":"Total","value":300}]},` + dockerZeroCPU + `}`
	// Host network, no block I/O yet, no memory cgroup, no pids cgroup.
	dockerStatsBare = `{"read":"2026-08-20T12:00:02.3Z","cpu_stats":{"cpu_usage":{"total_usage":500000000},"throttling_data":{"periods":0,"throttled_periods":0,"throttled_time":0}},"memory_stats":{},"pids_stats":{},"blkio_stats":{"io_service_bytes_recursive":null},` + dockerZeroCPU + `}`
	dockerStatsZero = `{"id":"aa86","read":"0001-01-01T00:00:00Z","cpu_stats":{"cpu_usage":{"total_usage":0},"throttling_data":{"throttled_time":0}},"memory_stats":{},"pids_stats":{},"blkio_stats":{"io_service_bytes_recursive":null}}`
)

// dockerStack is the manual's compose project with one container in each plight.
func dockerStack() *fakeDocker {
	f := &fakeDocker{apiVersion: "1.55"}
	type c struct {
		name, state, status, image, inspected, stats string
		restarts                                     int
	}
	var list []string
	for n, c := range []c{
		{"niodoo-postgres-1", "running", "Up 4 days (healthy)", "postgres:15", dockerStateHealthy, dockerStatsV2, 0},
		{"niodoo-redis-1", "running", "Up 4 days", "redis:7-alpine", dockerStatePlain, dockerStatsV1, 0},
		{"niodoo-ollama-1", "running", "Up 1 minute (unhealthy)", "ollama/ollama:latest", dockerStateStarting, dockerStatsBare, 4},
		{"niodoo-engine-1", "exited", "Exited (137) 2 hours ago", "niodoo/consciousness:1.4", dockerStateKilled, "", 2},
		{"niodoo-grafana-1", "created", "Created", "grafana/grafana:latest", dockerStateCreated, "", 0},
	} {
		list = append(list, dockerListed(n, c.name, c.state, c.status, c.image))
		f.answer("/containers/"+dockerID(n)+"/json", 200, dockerInspected(n, c.name, c.image, c.inspected, c.restarts))
		if c.stats != "" {
			f.answer("/containers/"+dockerID(n)+"/stats", 200, c.stats)
		}
	}
	f.list = "[" + strings.Join(list, ",") + "]"
	return f
}

func TestDocker(t *testing.T) {
	t.Parallel()
	f := dockerStack()
	s := scraper(t, only(t, "docker", dockerConfig(f.start(t))))
	families := scrape(t, s).Families
	golden(t, "docker", families)
	if strings.Contains(text(families), "aa86eacf") || strings.Contains(text(families), "hunter2") {
		t.Error("a container's id or environment is exported")
	}
	if got := f.requests("/stats"); len(got) != 3 {
		t.Errorf("statistics were asked of %d containers, want the 3 that run: %q", len(got), got)
	}
	for _, r := range f.requests("/stats") {
		if !strings.HasPrefix(r, "/v1.47/") || !strings.HasSuffix(r, "?stream=false&one-shot=true") {
			t.Errorf("request %s", r)
		}
	}
}

func TestDockerProject(t *testing.T) {
	t.Parallel()
	f := dockerStack()
	s := scraper(t, only(t, "docker", fmt.Sprintf(`{host: %q, project: 'nio"doo'}`, f.start(t))))
	scrape(t, s)
	want := "/v1.47/containers/json?all=1&filters=%7B%22label%22%3A%5B%22com.docker.compose.project%3Dnio%5C%22doo%22%5D%7D"
	if got := f.requests("/containers/json"); len(got) != 1 || got[0] != want {
		t.Errorf("asked %q, want %q", got, want)
	}
}

func TestDockerOverTCP(t *testing.T) {
	t.Parallel()
	srv := serveFunc(t, dockerStack().ServeHTTP)
	s := scraper(t, only(t, "docker", dockerConfig(strings.Replace(srv.URL, "http:", "tcp:", 1))))
	res := scrape(t, s)
	if v := value(t, res.Families, `niodoo_docker_containers{state="running"}`); v != 3 {
		t.Errorf("%v containers run, want 3", v)
	}
}

// A daemon behind TLS is reached by tcp:// as soon as there is a tls_config.
func TestDockerOverTLS(t *testing.T) {
	t.Parallel()
	srv := httptest.NewTLSServer(dockerStack())
	t.Cleanup(srv.Close)
	host := strings.Replace(srv.URL, "https:", "tcp:", 1)
	res := scrape(t, scraper(t, only(t, "docker", fmt.Sprintf("{host: %q, tls_config: {insecure_skip_verify: true}}", host))))
	if v := value(t, res.Families, `niodoo_component_up{component="docker"}`); v != 1 {
		t.Errorf("up is %v", v)
	}
	want := float64(srv.Certificate().NotAfter.Unix())
	if v := value(t, res.Families, `niodoo_component_tls_not_after_timestamp_seconds{component="docker"}`); v != want {
		t.Errorf("the certificate expires at %v, want %v", v, want)
	}
	expectFailure(t, only(t, "docker", dockerConfig(srv.URL)), "docker", false, ReasonTLS)
}

func TestDockerVersions(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, server, minimum string
		spoken                string
		stats                 bool
	}{
		{"newest", "1.56", "1.44", "1.47", true},
		{"same", "1.47", "1.24", "1.47", true},
		{"older", "1.43", "1.12", "1.43", true},
		{"first with one-shot", "1.41", "", "1.41", true},
		{"too old for one-shot", "1.40", "", "1.40", false},
		{"does not tell", "", "", "1.24", false},
		{"does not tell and wants more", "", "1.44", "1.44", true},
		{"has given up ours", "1.70", "1.50", "1.50", true},
		{"nonsense", "latest", "", "1.24", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			f := dockerStack()
			f.apiVersion, f.minimum = c.server, c.minimum
			res := scrape(t, scraper(t, only(t, "docker", dockerConfig(f.start(t)))))
			if v := value(t, res.Families, `niodoo_scrape_collector_success{collector="docker"}`); v != 1 {
				t.Errorf("success is %v: %v", v, res.Failures)
			}
			value(t, res.Families, fmt.Sprintf(`niodoo_docker_info{api_version="%s"}`, c.spoken))
			if _, ok := lookup(res.Families, `niodoo_docker_container_cpu_seconds_total{container="niodoo-redis-1"}`); ok != c.stats {
				t.Errorf("statistics: %v, want %v", ok, c.stats)
			}
			value(t, res.Families, `niodoo_docker_container_restarts_total{container="niodoo-ollama-1"}`)
		})
	}
}

func TestDockerFailures(t *testing.T) {
	t.Parallel()
	for _, f := range httpFailures() {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			timeout := "10s" // a loaded machine is not what is tested
			if f.reason == ReasonTimeout {
				timeout = "300ms"
			}
			s := scraper(t, only(t, "docker", fmt.Sprintf("{host: %q, timeout: %s}", f.url(t), timeout)))
			expectFailureOf(t, s, "docker", f.up, f.reason, 10*time.Second)
		})
	}
	t.Run("no socket", func(t *testing.T) {
		t.Parallel()
		expectFailure(t, only(t, "docker", dockerConfig("unix://"+t.TempDir()+"/docker.sock")), "docker", false, ReasonRefused)
	})
	t.Run("nobody behind the socket", func(t *testing.T) {
		t.Parallel()
		path := filepath.Join(t.TempDir(), "s")
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
		if err != nil {
			t.Fatal(err)
		}
		l.SetUnlinkOnClose(false)
		l.Close()
		expectFailure(t, only(t, "docker", dockerConfig("unix://"+path)), "docker", false, ReasonRefused)
	})
	// As root no socket refuses us: the dialer says what the system would.
	t.Run("not in the group docker", func(t *testing.T) {
		t.Parallel()
		deps := Deps{DialContext: func(context.Context, string, string) (net.Conn, error) {
			return nil, &net.OpError{Op: "dial", Net: "unix", Err: os.NewSyscallError("connect", syscall.EACCES)}
		}}
		s := scraperWith(t, only(t, "docker", "{}"), deps, Options{})
		expectFailureOf(t, s, "docker", false, ReasonPermission, time.Second)
	})
	for _, c := range []struct {
		name, body string
		reason     Reason
	}{
		{"word outside the list", "NO", ReasonUnhealthy},
		{"another service", `{"status":"ok"}`, ReasonUnhealthy},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			expectFailure(t, only(t, "docker", dockerConfig(serve(t, 200, "text/plain", c.body).URL)), "docker", false, c.reason)
		})
	}
	first := dockerID(0)
	for _, c := range []struct {
		name, path, body string
		status           int
		reason           Reason
	}{
		{"list fails", "/containers/json", `{"message":"layer store is broken"}`, 500, ReasonHTTPStatus},
		{"list forbidden by a proxy", "/containers/json", "<html><body><h1>403 Forbidden</h1></body></html>", 403, ReasonAuth},
		{"list truncated", "/containers/json", `[{"Id":"aa`, 200, ReasonParse},
		{"list too large", "/containers/json", strings.Repeat(" ", maxListBody+1), 200, ReasonTooLarge},
		{"too old without a number", "/containers/json", `{"message":"client version 1.47 is too old."}`, 400, ReasonHTTPStatus},
		{"inspection fails", "/containers/" + first + "/json", `{"message":"oops"}`, 500, ReasonHTTPStatus},
		{"inspection unreadable", "/containers/" + first + "/json", `{"RestartCount":"many"}`, 200, ReasonParse},
		{"statistics fail", "/containers/" + first + "/stats", `{"message":"oops"}`, 500, ReasonHTTPStatus},
		{"statistics too large", "/containers/" + first + "/stats", strings.Repeat(" ", maxAPIBody+1), 200, ReasonTooLarge},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			f := dockerStack()
			f.answer(c.path, c.status, c.body)
			res := expectFailure(t, only(t, "docker", dockerConfig(f.start(t))), "docker", true, c.reason)
			if strings.HasPrefix(c.path, "/containers/"+first) { // the others are not affected
				value(t, res.Families, `niodoo_docker_container_cpu_seconds_total{container="niodoo-redis-1"}`)
			}
		})
	}
}

// A broken address is this collector's failure alone, and does not repeat credentials.
func TestDockerBadConfig(t *testing.T) {
	t.Parallel()
	for _, host := range []string{"unix://", "tcp://", "tcp://user:hunter2@localhost:2375"} {
		res := expectFailure(t, only(t, "docker", dockerConfig(host)), "docker", false, ReasonConfig)
		if msg := res.Failures[0].Err.Error(); strings.Contains(msg, "hunter2") {
			t.Errorf("%s: the error shows the password: %s", host, msg)
		}
	}
}

// A container may go away between the list and the questions about it.
func TestDockerVanishing(t *testing.T) {
	t.Parallel()
	f := dockerStack()
	gone := `{"message":"No such container: x"}`
	f.answer("/containers/"+dockerID(0)+"/json", 404, gone)
	f.answer("/containers/"+dockerID(0)+"/stats", 404, gone)
	f.answer("/containers/"+dockerID(1)+"/stats", 409, `{"message":"container is marked for removal"}`)
	f.answer("/containers/"+dockerID(2)+"/stats", 200, dockerStatsZero)
	res := scrape(t, scraper(t, only(t, "docker", dockerConfig(f.start(t)))))
	if v := value(t, res.Families, `niodoo_scrape_collector_success{collector="docker"}`); v != 1 {
		t.Errorf("success is %v: %v", v, res.Failures)
	}
	if strings.Contains(text(res.Families), "cpu_seconds_total") {
		t.Error("zeros of containers that have ended are exported")
	}
}

// One container whose lock the daemon holds for ever costs neither the others
// nor the scrape more than its own time.
func TestDockerHangingContainer(t *testing.T) {
	t.Parallel()
	f := dockerStack()
	released := make(chan struct{})
	t.Cleanup(func() { close(released) })
	f.answers["/containers/"+dockerID(0)+"/stats"] = func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-r.Context().Done():
		case <-released:
		}
	}
	s := scraper(t, only(t, "docker", fmt.Sprintf("{host: %q, timeout: 2s}", f.start(t))))
	res := expectFailureOf(t, s, "docker", true, ReasonTimeout, 10*time.Second)
	value(t, res.Families, `niodoo_docker_container_restarts_total{container="niodoo-postgres-1"}`)
	value(t, res.Families, `niodoo_docker_container_cpu_seconds_total{container="niodoo-redis-1"}`)
}

func TestDockerMany(t *testing.T) {
	t.Parallel()
	f := &fakeDocker{apiVersion: "1.47"}
	var list []string
	var inFlight atomic.Int64
	f.answers = map[string]http.HandlerFunc{}
	for n := range 250 {
		state := "exited"
		if n%10 == 0 {
			state = "running"
		}
		list = append(list, dockerListed(n, fmt.Sprintf("niodoo-worker-%03d", n), state, "", "niodoo/worker"))
		body := dockerInspected(n, "", "niodoo/worker", dockerStatePlain, 0)
		f.answers["/containers/"+dockerID(n)+"/json"] = func(w http.ResponseWriter, _ *http.Request) {
			now := inFlight.Add(1)
			for m := f.most.Load(); now > m && !f.most.CompareAndSwap(m, now); m = f.most.Load() {
			}
			fmt.Fprint(w, body)
			inFlight.Add(-1)
		}
		f.answer("/containers/"+dockerID(n)+"/stats", 200, dockerStatsV2)
	}
	f.list = "[" + strings.Join(list, ",") + "]"
	res := scrape(t, scraper(t, only(t, "docker", dockerConfig(f.start(t)))))
	for series, want := range map[string]float64{
		`niodoo_docker_containers{state="running"}`:                                          25,
		`niodoo_docker_containers{state="exited"}`:                                           225,
		`niodoo_docker_containers_over_limit`:                                                50,
		`niodoo_docker_container_running{container="niodoo-worker-240"}`:                     1,
		`niodoo_docker_container_running{container="niodoo-worker-001"}`:                     0,
		`niodoo_docker_container_pids{container="niodoo-worker-240"}`:                        14,
		`niodoo_scrape_collector_success{collector="docker"}`:                                1,
		`niodoo_docker_container_network_receive_bytes_total{container="niodoo-worker-240"}`: 649000,
	} {
		if v := value(t, res.Families, series); v != want {
			t.Errorf("%s is %v, want %v", series, v, want)
		}
	}
	if _, ok := lookup(res.Families, `niodoo_docker_container_running{container="niodoo-worker-249"}`); ok {
		t.Error("a container over the limit has series of its own")
	}
	if most := f.most.Load(); most > dockerConcurrency {
		t.Errorf("%d requests at once, want %d at most", most, dockerConcurrency)
	}
}

// The names, states and numbers that daemons and Podman come up with.
func TestDockerDirt(t *testing.T) {
	t.Parallel()
	f := &fakeDocker{apiVersion: "1.41"}
	id := dockerID(0)
	f.list = `[{"Id":"` + id + `","Names":["/web/db","/niodoo-db"],"Image":"sha256:72290000","ImageID":"","State":"Running","Labels":null},
	 {"Id":"` + dockerID(1) + `","Names":null,"State":"removing"},
	 {"Id":"` + dockerID(2) + `","Names":["/` + dockerID(2)[:12] + `_niodoo-engine-1"],"State":"exited"},
	 {"Id":"","Names":["/nameless"],"State":"stopping"},
	 {"Id":"` + dockerID(3) + `","Names":["niodoo-podman"],"State":"running","Extra":{"a":1}}]`
	f.answer("/containers/"+id+"/json", 200, `{"Image":"72290000abcdef00","Config":{"Image":"docker.io/library/postgres:15"},"State":{"Health":{"Status":""},"StartedAt":"yesterday"}}`)
	f.answer("/containers/"+id+"/stats", 200, `{"read":"2026-08-20T12:00:02Z","cpu_stats":{"cpu_usage":{"total_usage":1e9}},"memory_stats":{"usage":1000,"limit":18446744073709551615,"stats":{"inactive_file":5000}},"networks":null,"blkio_stats":{},"pids_stats":{"current":-1}}`)
	f.answer("/containers/"+dockerID(3)+"/json", 200, `{"RestartCount":null,"State":{"Health":{"Status":"none"},"OOMKilled":false}}`)
	f.answer("/containers/"+dockerID(3)+"/stats", 200, `{"read":"2026-08-20T12:00:02Z","memory_stats":{"limit":0}}`)
	golden(t, "docker_dirt", scrape(t, scraper(t, only(t, "docker", dockerConfig(f.start(t))))).Families)
}

// A container that is redeployed is away for a moment; its new image is a
// change all the same.
func TestDockerImageChange(t *testing.T) {
	t.Parallel()
	now := time.Unix(1800000000, 0)
	f := &fakeDocker{apiVersion: "1.47"}
	s := scraperWith(t, only(t, "docker", dockerConfig(f.start(t))), Deps{Now: func() time.Time { return now }}, Options{})
	const series = `niodoo_docker_container_image_changed_timestamp_seconds{container="niodoo-engine-1"}`
	look := func(list string) (float64, bool) {
		now = now.Add(15 * time.Second)
		f.list = list
		return lookup(scrape(t, s).Families, series)
	}
	listed := func(image string) string {
		return `[{"Id":"` + dockerID(1) + `","Names":["/niodoo-engine-1"],"ImageID":"sha256:` + image + `","State":"running"}]`
	}
	for _, list := range []string{listed("a"), listed("a"), "[]"} {
		if v, ok := look(list); ok {
			t.Fatalf("%s: changed at %v before any change", list, v)
		}
	}
	if v, ok := look(listed("b")); !ok || v != float64(now.Unix()) {
		t.Fatalf("changed at %v, %v; want %d", v, ok, now.Unix())
	}
	changed := now
	if v, _ := look(listed("b")); v != float64(changed.Unix()) {
		t.Errorf("changed at %v, want %d", v, changed.Unix())
	}
	now = now.Add(2 * dockerForget)
	look("[]")
	if v, ok := look(listed("c")); ok {
		t.Errorf("a name that was gone for long changed at %v", v)
	}
}

func TestDockerLosesNothingToPanics(t *testing.T) {
	t.Parallel()
	err := dockerEach(make([]dockerContainer, 20), func(dockerContainer) error { panic("boom") })
	if classify(err) != ReasonPanic {
		t.Errorf("reason %s, want panic", classify(err))
	}
	want := errors.New("first")
	n := atomic.Int64{}
	err = dockerEach([]dockerContainer{{name: "a"}, {name: "b"}, {name: "c"}}, func(c dockerContainer) error {
		n.Add(1)
		if c.name != "a" {
			return want
		}
		return nil
	})
	if !errors.Is(err, want) || n.Load() != 3 {
		t.Errorf("%v after %d calls", err, n.Load())
	}
}

// FuzzDockerUsage holds the decoder and its arithmetic against any answer:
// what comes out is a valid exposition.
func FuzzDockerUsage(f *testing.F) {
	for _, s := range []string{dockerStatsV2, dockerStatsV1, dockerStatsBare, dockerStatsZero, `{"read":"2026-08-20T12:00:02Z","memory_stats":{"usage":1e400}}`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, body string) {
		var v dockerUsage
		r := reply{what: "x", status: 200, header: http.Header{}, body: []byte(body)}
		if r.json(&v) != nil {
			return
		}
		ch := make(chan prometheus.Metric, 32)
		v.report(ch, "c")
		close(ch)
		for m := range ch {
			if s := m.(*sample); !(s.value >= 0) {
				t.Errorf("%s is %v", s.desc.Name, s.value)
			}
		}
	})
}
