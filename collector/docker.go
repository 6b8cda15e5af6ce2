// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/niodoo/niodoo_exporter/internal/config"
)

func init() { register("docker", newDocker) }

const (
	dockerConcurrency   = 8
	dockerMaxContainers = 200
	// dockerCallTimeout bounds one call about one container: the daemon answers
	// in milliseconds, or not at all while it holds that container's lock.
	dockerCallTimeout = 3 * time.Second
	// dockerForget is how long a container's image is remembered after it was
	// last seen: a redeployment removes a container before it makes the next.
	dockerForget = time.Hour
)

var (
	// dockerNewestAPI is the newest version this collector was written for.
	dockerNewestAPI = dockerAPI{1, 47}
	// dockerOneShotAPI is the first with one-shot=1. Without it the daemon
	// takes two samples of a container, which takes it up to two seconds.
	dockerOneShotAPI = dockerAPI{1, 41}
)

// dockerStates is the closed set of the label state; Podman knows more.
var dockerStates = []string{"created", "running", "paused", "restarting", "removing", "exited", "dead", "other"}

const (
	dockerList    = "GET /containers/json"
	dockerInspect = "GET /containers/{id}/json "
	dockerStats   = "GET /containers/{id}/stats?one-shot=true "

	dockerNotRunning = "for containers that do not run, and of daemons older than API 1.41"
)

var (
	dockerInfo = gauge("docker", "docker_info",
		"Version of the API spoken with the daemon; the value is 1, and below 1.41 there are no usage statistics",
		"GET /_ping Api-Version", "api_version")
	dockerContainers = gauge("docker", "docker_containers",
		"Number of containers by state", dockerList+" State", "state")
	dockerOverLimit = gauge("docker", "docker_containers_over_limit",
		"Number of containers without series of their own: the collector reports on 200, running ones first", dockerList)

	dockerContainerInfo = gauge("docker", "docker_container_info",
		"Image of the container and its service in the compose project; the value is 1 and image_digest is the start of the image's own digest",
		dockerInspect+"Config.Image, Image", "container", "compose_service", "image", "image_digest").absent("without containers")
	dockerImageChanged = gauge("docker", "docker_container_image_changed_timestamp_seconds",
		"Time at which the exporter saw that the container of this name runs another image than before",
		dockerList+" ImageID", "container").absent("until the image changes while the exporter runs")
	dockerRunning = gauge("docker", "docker_container_running",
		"Whether the container runs", dockerList+" State", "container").absent("without containers")
	dockerHealthy = gauge("docker", "docker_container_healthy",
		"Whether the container's own health check passes; 0 while it is still starting", dockerInspect+"State.Health.Status", "container").
		absent("for containers without a health check")
	dockerHealthFailures = gauge("docker", "docker_container_health_consecutive_failures",
		"Number of times in a row that the container's own health check has failed", dockerInspect+"State.Health.FailingStreak", "container").
		absent("for containers without a health check")
	dockerRestarts = counter("docker", "docker_container_restarts_total",
		"Number of times the daemon has restarted the container after it ended by itself", dockerInspect+"RestartCount", "container").
		absent("without containers")
	dockerOOMKilled = gauge("docker", "docker_container_oom_killed",
		"Whether the container's last end, or a process in it, was the kernel's doing for want of memory", dockerInspect+"State.OOMKilled", "container").
		absent("without containers")
	dockerExitCode = gauge("docker", "docker_container_exit_code",
		"Exit code of the container's last run; 128 and a signal's number for a killed one", dockerInspect+"State.ExitCode", "container").
		absent("for containers that run or never ran")
	dockerStarted = gauge("docker", "docker_container_start_time_seconds",
		"Time at which the container was last started", dockerInspect+"State.StartedAt", "container").
		absent("for containers that never ran")

	dockerCPU = counter("docker", "docker_container_cpu_seconds_total",
		"CPU time the container has used", dockerStats+"cpu_stats.cpu_usage.total_usage", "container").absent(dockerNotRunning)
	dockerThrottled = counter("docker", "docker_container_cpu_throttled_seconds_total",
		"Time the container was kept from the CPU by its limit", dockerStats+"cpu_stats.throttling_data.throttled_time", "container").
		absent(dockerNotRunning)
	dockerMemory = gauge("docker", "docker_container_memory_usage_bytes",
		"Memory the container uses without the page cache that can be dropped, as docker stats shows it",
		dockerStats+"memory_stats.usage less inactive_file", "container").absent(dockerNotRunning + ", and without the memory cgroup")
	dockerMemoryLimit = gauge("docker", "docker_container_memory_limit_bytes",
		"Memory the container may use; the machine's own where no limit is set", dockerStats+"memory_stats.limit", "container").
		absent(dockerNotRunning + ", and without the memory cgroup")
	dockerReceived = counter("docker", "docker_container_network_receive_bytes_total",
		"Bytes received on all the container's networks", dockerStats+"networks.*.rx_bytes", "container").
		absent(dockerNotRunning + ", and on the host's network")
	dockerSent = counter("docker", "docker_container_network_transmit_bytes_total",
		"Bytes sent on all the container's networks", dockerStats+"networks.*.tx_bytes", "container").
		absent(dockerNotRunning + ", and on the host's network")
	dockerBlockRead = counter("docker", "docker_container_block_read_bytes_total",
		"Bytes the container has read from block devices", dockerStats+"blkio_stats.io_service_bytes_recursive", "container").
		absent(dockerNotRunning + ", and until its first I/O")
	dockerBlockWritten = counter("docker", "docker_container_block_written_bytes_total",
		"Bytes the container has written to block devices", dockerStats+"blkio_stats.io_service_bytes_recursive", "container").
		absent(dockerNotRunning + ", and until its first I/O")
	dockerPIDs = gauge("docker", "docker_container_pids",
		"Number of processes and threads in the container", dockerStats+"pids_stats.current", "container").
		absent(dockerNotRunning + ", and without the pids cgroup")
)

// docker asks the Docker Engine API, or Podman's imitation of it. Three plain
// requests do not justify the daemon's client library.
type docker struct {
	*httpClient
	now     func() time.Time
	project string
	images  changes
	seen    map[string]time.Time // containers whose images are remembered
}

func newDocker(cfg *config.Config, deps Deps) (Collector, error) {
	u, err := url.Parse(cfg.Docker.Host)
	if err != nil {
		return nil, errors.New("docker.host cannot be parsed") // its text may hold credentials
	}
	section := config.HTTP{URL: cfg.Docker.Host, TLSConfig: cfg.Docker.TLSConfig}
	switch {
	case u.User != nil:
		return nil, errors.New("docker.host must not hold a user or password")
	case u.Scheme == "unix":
		if u.Path == "" {
			return nil, errors.New("docker.host names no socket: write unix:///PATH")
		}
		section.URL = "http://docker"
		dial := deps.DialContext
		deps.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx, "unix", u.Path) }
	case u.Host == "":
		return nil, errors.New("docker.host names no host: write tcp://HOST:PORT")
	case u.Scheme == "tcp":
		scheme := "http"
		if cfg.Docker.TLSConfig != (config.TLS{}) {
			scheme = "https"
		}
		section.URL = scheme + "://" + u.Host + u.Path
	}
	c, err := newHTTPClient(section, deps)
	if err != nil {
		return nil, err
	}
	c.transport.MaxConnsPerHost, c.transport.MaxIdleConnsPerHost = dockerConcurrency, dockerConcurrency
	return &docker{httpClient: c, now: deps.Now, project: cfg.Docker.Project, seen: map[string]time.Time{}}, nil
}

// Update implements [Collector]. What matters most comes first: the states of
// all containers, then each one's own, then what the running ones use.
func (d *docker) Update(ctx context.Context, ch chan<- prometheus.Metric) error {
	ping, err := d.ping(ctx)
	if err != nil {
		return err
	}
	status{up: true, response: ping.elapsed, version: dockerVersion(ping.header.Get("Server")), tlsNotAfter: ping.tlsNotAfter}.send(ch, "docker")

	all, api, err := d.list(ctx, negotiateDockerAPI(ping.header.Get("Api-Version")))
	if err != nil {
		return err
	}
	ch <- dockerInfo.metric(1, api.String())
	containers := d.choose(all)
	count := map[string]int{}
	for _, c := range all {
		count[c.State]++
	}
	for _, s := range dockerStates {
		ch <- dockerContainers.metric(float64(count[s]), s)
	}
	ch <- dockerOverLimit.metric(float64(max(0, len(containers)-dockerMaxContainers)))
	containers = containers[:min(len(containers), dockerMaxContainers)]
	d.reportContainers(ch, containers)

	inspected := dockerEach(containers, func(c dockerContainer) error { return d.inspect(ctx, ch, api, c) })
	if api.less(dockerOneShotAPI) || strings.EqualFold(ping.header.Get("Ostype"), "windows") {
		return inspected
	}
	running := slices.DeleteFunc(containers, func(c dockerContainer) bool { return c.State != "running" })
	measured := dockerEach(running, func(c dockerContainer) error { return d.stats(ctx, ch, api, c) })
	return cmp.Or(inspected, measured)
}

// ping is the health check.
func (d *docker) ping(ctx context.Context) (*reply, error) {
	r, err := d.get(ctx, "/_ping", maxHealthBody)
	if err != nil {
		return nil, err
	}
	if err := r.ok(); err != nil {
		return nil, err
	}
	word := strings.TrimSpace(string(r.body))
	switch {
	case r.isHTML():
		return nil, failf(ReasonParse, "%s: the answer is HTML, not the word OK", r.what)
	case word != "" && !strings.EqualFold(word, "OK"):
		return nil, failf(ReasonUnhealthy, "%s: the answer is not the word OK", r.what)
	}
	return r, nil
}

// dockerVersion reads the daemon's version from `Docker/29.7.2 (linux)` or
// `Libpod/4.9.3 (linux)`.
func dockerVersion(server string) string {
	_, rest, _ := strings.Cut(server, "/")
	v, _, _ := strings.Cut(rest, " ")
	return v
}

// dockerAPI is a version of the API: major and minor.
type dockerAPI [2]int

func (a dockerAPI) String() string        { return strconv.Itoa(a[0]) + "." + strconv.Itoa(a[1]) }
func (a dockerAPI) less(b dockerAPI) bool { return slices.Compare(a[:], b[:]) < 0 }

func parseDockerAPI(s string) (a dockerAPI, ok bool) {
	major, minor, ok := strings.Cut(s, ".")
	var errs [2]error
	a[0], errs[0] = strconv.Atoi(major)
	a[1], errs[1] = strconv.Atoi(minor)
	return a, ok && errors.Join(errs[:]...) == nil && a[0] >= 0 && a[1] >= 0
}

// negotiateDockerAPI returns the newest version that both sides know. A daemon
// that does not tell its own predates the header and knows 1.24.
func negotiateDockerAPI(header string) dockerAPI {
	server, ok := parseDockerAPI(header)
	switch {
	case !ok:
		return dockerAPI{1, 24}
	case dockerNewestAPI.less(server):
		return dockerNewestAPI
	}
	return server
}

// dockerContainer is an element of the list. Its inspection tells more, but
// not the compose labels any better.
type dockerContainer struct {
	ID      string            `json:"Id"`
	Names   []string          `json:"Names"`
	Image   string            `json:"Image"`
	ImageID string            `json:"ImageID"`
	State   string            `json:"State"`
	Labels  map[string]string `json:"Labels"`

	name string
}

// dockerTooOld is how a daemon answers a client that it considers too old.
var dockerTooOld = regexp.MustCompile(`[Mm]inimum supported API version is (\d+\.\d+)`)

// list returns the containers, stopped ones too, and the version they were
// asked with: a daemon that has given up ours tells what it wants instead.
func (d *docker) list(ctx context.Context, api dockerAPI) ([]dockerContainer, dockerAPI, error) {
	path := "/containers/json?all=1"
	if d.project != "" {
		filter, err := json.Marshal(map[string][]string{"label": {"com.docker.compose.project=" + d.project}})
		if err != nil {
			return nil, api, err
		}
		path += "&filters=" + url.QueryEscape(string(filter))
	}
	r, err := d.get(ctx, "/v"+api.String()+path, maxListBody)
	if err == nil && r.status == http.StatusBadRequest {
		if m := dockerTooOld.FindSubmatch(r.body); m != nil {
			if minimum, ok := parseDockerAPI(string(m[1])); ok && api.less(minimum) {
				api = minimum
				r, err = d.get(ctx, "/v"+api.String()+path, maxListBody)
			}
		}
	}
	if err != nil {
		return nil, api, err
	}
	if err := dockerOK(r); err != nil {
		return nil, api, err
	}
	var all []dockerContainer
	if err := r.json(&all); err != nil {
		return nil, api, err
	}
	for i := range all {
		c := &all[i]
		if c.State = strings.ToLower(c.State); !slices.Contains(dockerStates, c.State) {
			c.State = "other"
		}
		c.name = dockerName(c.ID, c.Names)
	}
	return all, api, nil
}

// dockerOK is [reply.ok] with the daemon's own words.
func dockerOK(r *reply) error {
	err := r.ok()
	if err == nil {
		return nil
	}
	var said struct {
		Message string `json:"message"`
	}
	if json.Unmarshal(r.body, &said) == nil && said.Message != "" {
		return fmt.Errorf("%w: %q", err, cleanLabel(said.Message))
	}
	return err
}

// dockerName returns the container's name without the slash, "" if it has none
// of its own: names with a second slash belong to links of other containers,
// and compose renames the container it is replacing to ID_NAME for a moment.
func dockerName(id string, names []string) string {
	for _, n := range names {
		n = strings.TrimPrefix(n, "/")
		if n != "" && !strings.Contains(n, "/") && (len(id) < 12 || !strings.HasPrefix(n, id[:12]+"_")) {
			return n
		}
	}
	return ""
}

// choose returns the containers with a name, running ones first.
func (d *docker) choose(all []dockerContainer) []dockerContainer {
	named := slices.DeleteFunc(slices.Clone(all), func(c dockerContainer) bool { return c.name == "" || c.ID == "" })
	rank := func(c dockerContainer) int {
		if c.State == "running" {
			return 0
		}
		return 1
	}
	slices.SortFunc(named, func(a, b dockerContainer) int {
		return cmp.Or(cmp.Compare(rank(a), rank(b)), cmp.Compare(a.name, b.name))
	})
	return named
}

// reportContainers sends what the list says of each container.
func (d *docker) reportContainers(ch chan<- prometheus.Metric, containers []dockerContainer) {
	now := d.now()
	for _, c := range containers {
		ch <- dockerRunning.boolean(c.State == "running", c.name)
		if c.ImageID == "" {
			continue
		}
		d.seen[c.name] = now
		if at := d.images.observe(c.name, c.ImageID, now); !at.IsZero() {
			ch <- dockerImageChanged.metric(float64(at.Unix()), c.name)
		}
	}
	for name, at := range d.seen {
		if now.Sub(at) > dockerForget {
			delete(d.seen, name)
		}
	}
	d.images.keep(func(name string) bool { _, ok := d.seen[name]; return ok })
}

// dockerEach calls f for every container, a few at a time, and returns the
// first failure in the order of the containers.
func dockerEach(containers []dockerContainer, f func(dockerContainer) error) error {
	errs := make([]error, len(containers))
	var next atomic.Int64
	worker := func() error {
		for {
			i := int(next.Add(1)) - 1
			if i >= len(containers) {
				return nil
			}
			errs[i] = f(containers[i])
		}
	}
	workers := slices.Repeat([]func() error{worker}, min(dockerConcurrency, len(containers)))
	if err := parallel(workers...); err != nil {
		return err
	}
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// ask gets what the daemon says of one container. It reports false, and no
// error, for one that is gone or going: the list is a moment old.
func (d *docker) ask(ctx context.Context, path string, v any) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, dockerCallTimeout)
	defer cancel()
	r, err := d.get(ctx, path, maxAPIBody)
	if err != nil {
		return false, err
	}
	if r.status == http.StatusNotFound || r.status == http.StatusConflict {
		return false, nil
	}
	if err := dockerOK(r); err != nil {
		return false, err
	}
	return true, r.json(v)
}

// dockerDetails is what an inspection tells and the list does not. The
// environment with its secrets stands there too and is not read.
type dockerDetails struct {
	Image        string   `json:"Image"`
	RestartCount *float64 `json:"RestartCount"`
	Config       struct {
		Image string `json:"Image"`
	} `json:"Config"`
	State struct {
		OOMKilled *bool    `json:"OOMKilled"`
		ExitCode  *float64 `json:"ExitCode"`
		StartedAt string   `json:"StartedAt"`
		Health    *struct {
			Status        string   `json:"Status"`
			FailingStreak *float64 `json:"FailingStreak"`
		} `json:"Health"`
	} `json:"State"`
}

// inspect reports on one container's state.
func (d *docker) inspect(ctx context.Context, ch chan<- prometheus.Metric, api dockerAPI, c dockerContainer) error {
	var v dockerDetails
	if found, err := d.ask(ctx, "/v"+api.String()+"/containers/"+url.PathEscape(c.ID)+"/json", &v); !found || err != nil {
		return err
	}
	ch <- dockerContainerInfo.metric(1, c.name, c.Labels["com.docker.compose.service"],
		cmp.Or(v.Config.Image, c.Image), dockerDigest(cmp.Or(v.Image, c.ImageID)))
	// Podman and daemons before health checks leave the status out or empty.
	if h := v.State.Health; h != nil && h.Status != "" && h.Status != "none" {
		ch <- dockerHealthy.boolean(h.Status == "healthy", c.name)
		dockerSend(ch, dockerHealthFailures, h.FailingStreak, 1, c.name)
	}
	dockerSend(ch, dockerRestarts, v.RestartCount, 1, c.name)
	if v.State.OOMKilled != nil {
		ch <- dockerOOMKilled.boolean(*v.State.OOMKilled, c.name)
	}
	started, err := time.Parse(time.RFC3339Nano, v.State.StartedAt)
	ran := err == nil && started.Unix() > 0 // never: 0001-01-01T00:00:00Z
	if ran {
		ch <- dockerStarted.metric(float64(started.UnixMilli())/1e3, c.name)
	}
	if ran && (c.State == "exited" || c.State == "dead" || c.State == "restarting") {
		dockerSend(ch, dockerExitCode, v.State.ExitCode, 1, c.name)
	}
	return nil
}

// dockerDigest shortens a digest as docker does: the first twelve digits.
func dockerDigest(s string) string {
	s = strings.TrimPrefix(s, "sha256:")
	return s[:min(len(s), 12)]
}

// dockerUsage is a one-shot sample. Fields that a version of cgroups, the
// daemon or Podman leaves out are absent, not zero.
type dockerUsage struct {
	Read time.Time `json:"read"`
	CPU  struct {
		Usage struct {
			Total *float64 `json:"total_usage"`
		} `json:"cpu_usage"`
		Throttling struct {
			Time *float64 `json:"throttled_time"`
		} `json:"throttling_data"`
	} `json:"cpu_stats"`
	Memory struct {
		Usage *float64 `json:"usage"`
		Limit *float64 `json:"limit"`
		Stats struct {
			TotalInactiveFile *float64 `json:"total_inactive_file"` // cgroup v1
			InactiveFile      *float64 `json:"inactive_file"`       // cgroup v2
		} `json:"stats"`
	} `json:"memory_stats"`
	Networks map[string]struct {
		Received *float64 `json:"rx_bytes"`
		Sent     *float64 `json:"tx_bytes"`
	} `json:"networks"`
	Block struct {
		Bytes []struct {
			Op    string  `json:"op"`
			Value float64 `json:"value"`
		} `json:"io_service_bytes_recursive"`
	} `json:"blkio_stats"`
	PIDs struct {
		Current *float64 `json:"current"`
	} `json:"pids_stats"`
}

// dockerNoLimit is above any memory there is: Podman and cgroup v1 write
// numbers near 2^63 where there is no limit.
const dockerNoLimit = 1 << 60

// stats reports on what one running container uses.
func (d *docker) stats(ctx context.Context, ch chan<- prometheus.Metric, api dockerAPI, c dockerContainer) error {
	var v dockerUsage
	path := "/v" + api.String() + "/containers/" + url.PathEscape(c.ID) + "/stats?stream=false&one-shot=true"
	if found, err := d.ask(ctx, path, &v); !found || err != nil {
		return err
	}
	v.report(ch, c.name)
	return nil
}

// report sends a sample's values. A container that has ended since the list
// has a sample of zeros, taken at no time.
func (v dockerUsage) report(ch chan<- prometheus.Metric, container string) {
	if v.Read.Unix() <= 0 {
		return
	}
	dockerSend(ch, dockerCPU, v.CPU.Usage.Total, 1e-9, container)
	dockerSend(ch, dockerThrottled, v.CPU.Throttling.Time, 1e-9, container)
	dockerSend(ch, dockerMemory, v.memory(), 1, container)
	if l := v.Memory.Limit; l != nil && *l > 0 && *l < dockerNoLimit {
		dockerSend(ch, dockerMemoryLimit, l, 1, container)
	}
	var received, sent, read, written *float64
	for _, n := range v.Networks {
		received, sent = dockerAdd(received, n.Received), dockerAdd(sent, n.Sent)
	}
	for _, b := range v.Block.Bytes {
		switch strings.ToLower(b.Op) {
		case "read":
			read = dockerAdd(read, &b.Value)
		case "write":
			written = dockerAdd(written, &b.Value)
		}
	}
	dockerSend(ch, dockerReceived, received, 1, container)
	dockerSend(ch, dockerSent, sent, 1, container)
	dockerSend(ch, dockerBlockRead, read, 1, container)
	dockerSend(ch, dockerBlockWritten, written, 1, container)
	dockerSend(ch, dockerPIDs, v.PIDs.Current, 1, container)
}

// memory is docker stats' own formula: usage without the inactive file pages.
func (v dockerUsage) memory() *float64 {
	m := v.Memory
	for _, cache := range []*float64{m.Stats.TotalInactiveFile, m.Stats.InactiveFile} {
		if m.Usage != nil && cache != nil && *cache < *m.Usage {
			used := *m.Usage - *cache
			return &used
		}
	}
	return m.Usage
}

// dockerAdd adds what is known to a sum.
func dockerAdd(sum, v *float64) *float64 {
	if v == nil {
		return sum
	}
	total := *v
	if sum != nil {
		total += *sum
	}
	return &total
}

// dockerSend sends a value in base units if the daemon told it.
func dockerSend(ch chan<- prometheus.Metric, desc *Desc, v *float64, unit float64, container string) {
	if v != nil && *v >= 0 {
		ch <- desc.metric(*v*unit, container)
	}
}
