// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/niodoo/niodoo_exporter/internal/opstate"
)

// collectorsCheck reports what the exporter's collectors, run here, cannot see.
func collectorsCheck(_ context.Context, p *patient) ([]Finding, error) {
	var found []Finding
	for _, f := range p.Snapshot.Failures {
		level := Warning
		if p.Config.Required(f.Collector) {
			level = Failing
		}
		found = append(found, Finding{Level: level, Where: "collector " + f.Collector,
			What: fmt.Sprintf("it fails (%s): %v", f.Reason, f.Err), Why: "Nothing that it would tell can alert.",
			Mend: f.Reason.Explain() + "."})
	}
	for _, s := range p.Snapshot.Series("niodoo_scrape_collector_series_dropped") {
		found = append(found, Finding{Level: Warning, Where: "collector " + s.Labels["collector"],
			What: fmt.Sprintf("%.0f series are left out (%s)", s.Value, s.Labels["reason"]), Why: "What is left out can alert nobody.",
			Mend: "Watch fewer tables, collections, containers or files, or have the server itself keep fewer."})
	}
	if len(p.Snapshot.Collectors) == 0 {
		return found, errors.New("no collector is enabled")
	}
	return found, nil
}

// knownPorts are the ports of the operations manual and its surroundings with
// the section that watches them; "" is what the exporter has no section for.
var knownPorts = map[int]struct{ section, service string }{
	8080: {"engine", "the consciousness engine"}, 9095: {"pipeline", "the live pipeline's metrics"},
	5432: {"postgresql", "PostgreSQL"}, 6379: {"redis", "Redis"}, 11434: {"ollama", "Ollama"},
	8000: {"vllm", "vLLM"}, 5001: {"vllm", "vLLM"}, 6333: {"qdrant", "Qdrant"}, 9090: {"prometheus", "Prometheus"},
	3000: {"grafana", "Grafana"}, 9093: {"alertmanager", "Alertmanager"}, 3100: {"loki", "Loki"}, 2375: {"docker", "Docker"},
}

// endpointsCheck looks for listening ports whose service has no section.
func endpointsCheck(_ context.Context, p *patient) ([]Finding, error) {
	listening := p.Listening
	if listening == nil {
		listening = func() ([]int, error) { return listeningPorts(p.Config.Host.ProcFS) }
	}
	ports, err := listening()
	if err != nil {
		return nil, fmt.Errorf("which ports are listened on: %w", err)
	}
	var found []Finding
	for _, port := range ports {
		known, ok := knownPorts[port]
		if !ok || p.Config.Enabled(known.section) {
			continue
		}
		found = append(found, Finding{Level: Warning, Where: fmt.Sprintf("port %d", port),
			What: "something listens on the port of " + known.service + ", and " + known.section + " is not watched",
			Why:  "Nobody is told when it goes down.", Mend: "Name it in the configuration: " + known.section + ": {}, with its address if it is another."})
	}
	if socket := strings.TrimPrefix(p.Config.Docker.Host, "unix://"); !p.Config.Enabled("docker") && socket != p.Config.Docker.Host {
		if _, err := os.Stat(socket); err == nil {
			found = append(found, Finding{Level: Note, Where: socket, What: "Docker runs here, and docker is not watched",
				Why: "Nobody is told of containers that restart, are unhealthy or run out of memory.", Mend: "Name it in the configuration, docker: {}; the README says what rights it needs."})
		}
	}
	return found, nil
}

// listeningPorts returns the TCP ports that something listens on, sorted.
func listeningPorts(procfs string) ([]int, error) {
	ports := map[int]bool{}
	read := 0
	var errs []error
	for _, name := range []string{"tcp", "tcp6"} {
		f, err := os.Open(filepath.Join(procfs, "1/net", name)) // of the machine, also from a container
		if err != nil {
			f, err = os.Open(filepath.Join(procfs, "net", name))
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		read++
		s := bufio.NewScanner(f)
		for s.Scan() {
			field := strings.Fields(s.Text())
			if len(field) < 4 || field[3] != "0A" {
				continue
			}
			if _, hex, ok := strings.Cut(field[1], ":"); ok {
				if n, err := strconv.ParseInt(hex, 16, 32); err == nil {
					ports[int(n)] = true
				}
			}
		}
		errs = append(errs, s.Err())
		f.Close()
	}
	if read == 0 {
		return nil, errors.Join(errs...)
	}
	return slices.Sorted(maps.Keys(ports)), nil
}

// mountsCheck looks for filesystems that matter and are not watched.
func mountsCheck(_ context.Context, p *patient) ([]Finding, error) {
	if !p.Config.Enabled("host") {
		return nil, notExpected{errors.New("the collector host is not enabled")}
	}
	watched := map[uint64]bool{}
	for _, s := range p.Snapshot.Series("niodoo_host_filesystem_size_bytes") {
		if dev, err := device(filepath.Join(p.Config.Host.RootFS, s.Labels["path"])); err == nil {
			watched[dev] = true
		}
	}
	if len(watched) == 0 {
		return nil, errors.New("the collector host names no filesystem")
	}
	var found []Finding
	for metric, what := range map[string]string{"niodoo_host_filesystem_error": "cannot be looked at", "niodoo_host_filesystem_stuck": "does not answer"} {
		for _, s := range p.Snapshot.Series(metric) {
			if s.Value != 0 {
				found = append(found, Finding{Level: Warning, Where: s.Labels["path"], What: "the filesystem " + what, Why: "It may be full, and nobody would know.",
					Mend: "Rights of the exporter's user, ProtectHome= of its unit, or a network share whose server is gone."})
			}
		}
	}
	paths := []string{p.Config.Backup.Directory, p.Config.Operations.StateDir, "/opt/niodoo/data", "/opt/niodoo/config", "/var/lib/docker", "/var/lib/postgresql", "/var/lib/redis"}
	for _, l := range p.Config.Logs.Paths {
		paths = append(paths, filepath.Dir(l))
	}
	var errs []error
	for _, path := range paths {
		dev, err := device(path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			errs = append(errs, err)
		case !watched[dev]:
			watched[dev] = true // named once
			found = append(found, Finding{Level: Warning, Where: path, What: "no series of the exporter is about the filesystem that holds it",
				Why: "Nobody is told when it fills up.", Mend: "Name it in the configuration: host: {paths: [" + path + "]}."})
		}
	}
	return found, errors.Join(errs...)
}

func device(path string) (uint64, error) {
	info, err := os.Stat(path)
	if err != nil {
		return 0, err
	}
	return info.Sys().(*syscall.Stat_t).Dev, nil
}

// containersCheck looks for containers without a health check, which are well
// for as long as their process lives.
func containersCheck(_ context.Context, p *patient) ([]Finding, error) {
	if err := p.sees("docker"); err != nil {
		return nil, err
	}
	healthy := map[string]bool{}
	for _, s := range p.Snapshot.Series("niodoo_docker_container_healthy") {
		healthy[s.Labels["container"]] = true
	}
	var found []Finding
	var without []string
	for _, s := range p.Snapshot.Series("niodoo_docker_container_running") {
		if c := s.Labels["container"]; s.Value == 1 && !healthy[c] {
			without = append(without, c)
		}
	}
	if len(without) > 0 {
		slices.Sort(without)
		found = append(found, Finding{Level: Note, Where: list(without), What: "these containers have no health check",
			Why: "Docker calls them well for as long as the process lives, be it stuck.", Mend: "Add a healthcheck to the compose file."})
	}
	for _, s := range p.Snapshot.Series("niodoo_docker_container_info") {
		section, ok := imageSection(s.Labels["image"])
		if ok && !p.Config.Enabled(section) {
			found = append(found, Finding{Level: Warning, Where: "container " + s.Labels["container"], What: "it runs " + s.Labels["image"] + ", and " + section + " is not watched",
				Why: "That the container runs does not mean that it answers.", Mend: "Name it in the configuration: " + section + ": {}."})
		}
	}
	if over, _ := p.Snapshot.Sum("niodoo_docker_containers_over_limit"); over > 0 {
		found = append(found, Finding{Level: Warning, Where: "collector docker", What: fmt.Sprintf("%.0f containers are not looked at: there are too many", over),
			Why: "Nobody is told when they fail.", Mend: "Limit it to the stack: docker: {project: niodoo}."})
	}
	return found, nil
}

// imageSection returns the section that watches what an image runs.
func imageSection(image string) (string, bool) {
	base := filepath.Base(image)
	base, _, _ = strings.Cut(base, ":")
	for part, section := range map[string]string{"postgres": "postgresql", "redis": "redis", "valkey": "redis", "ollama": "ollama", "vllm": "vllm",
		"qdrant": "qdrant", "prometheus": "prometheus", "grafana": "grafana", "alertmanager": "alertmanager", "loki": "loki"} {
		if base == part || strings.HasPrefix(base, part+"-") {
			return section, true
		}
	}
	return "", false
}

// databasesCheck looks for databases beside the configured one: only their sizes are known.
func databasesCheck(_ context.Context, p *patient) ([]Finding, error) {
	if err := p.sees("postgresql"); err != nil {
		return nil, err
	}
	sizes := p.Snapshot.Series("niodoo_postgresql_database_size_bytes")
	if len(sizes) == 0 {
		return nil, errors.New("the collector postgresql names no database")
	}
	var others []string
	for _, s := range sizes {
		if name := s.Labels["datname"]; name != p.Config.PostgreSQL.Database && name != "postgres" && !strings.HasPrefix(name, "template") {
			others = append(others, name)
		}
	}
	if len(others) == 0 {
		return nil, nil
	}
	slices.Sort(others)
	return []Finding{{Level: Note, Where: "databases " + list(others), What: "the server holds databases besides " + p.Config.PostgreSQL.Database,
		Why:  "Their tables, dead rows and slow statements are not looked at, and a backup of " + p.Config.PostgreSQL.Database + " does not hold them.",
		Mend: "Watch them with an exporter of their own, and back them up, or move them to another server."}}, nil
}

// collectionsCheck looks for collections whose vectors nobody knows the size of.
func collectionsCheck(_ context.Context, p *patient) ([]Finding, error) {
	if err := p.sees("qdrant"); err != nil {
		return nil, err
	}
	var found []Finding
	var unknown []string
	for _, s := range p.Snapshot.Series("niodoo_qdrant_collection_points") {
		if name := s.Labels["collection"]; p.Config.Qdrant.Collections[name].VectorSize == 0 {
			unknown = append(unknown, name)
		}
	}
	if len(unknown) > 0 {
		slices.Sort(unknown)
		found = append(found, Finding{Level: Note, Where: "collections " + list(unknown), What: "no vector size is expected of them",
			Why:  "With another model every search fails with 400 Bad Request, and that the collection is missing is told by nobody.",
			Mend: "Name them in the configuration: qdrant: {collections: {" + unknown[0] + ": {vector_size: 896}}}."})
	}
	if n, _ := p.Snapshot.Sum("niodoo_qdrant_collections_skipped"); n > 0 {
		found = append(found, Finding{Level: Warning, Where: "collector qdrant", What: fmt.Sprintf("%.0f collections are not looked at: there are too many", n),
			Why: "Nobody is told when they fail.", Mend: "Name those that matter in the configuration: they are looked at first."})
	}
	return found, nil
}

// sees returns why a collector has nothing to say, nil if it has.
func (p *patient) sees(collector string) error {
	if !p.Config.Enabled(collector) {
		return notExpected{fmt.Errorf("the collector %s is not enabled", collector)}
	}
	if f := p.Snapshot.Failed(collector); f != nil {
		return fmt.Errorf("the collector %s fails (%s)", collector, f.Reason)
	}
	return nil
}

// stateCheck looks at what the operations collector lives on.
func stateCheck(_ context.Context, p *patient) ([]Finding, error) {
	var found []Finding
	dir := p.Config.Operations.StateDir
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		found = append(found, Finding{Level: Warning, Where: dir, What: "operations.state_dir does not exist",
			Why: "Nobody is told when maintenance, drills or health runs stop, and incidents cannot be kept.", Mend: "Create it for the user that runs niodooctl, readable for the exporter's."})
	} else if err != nil {
		return nil, err
	} else if h, err := opstate.Read[opstate.Heartbeat](dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	} else if h.Received.IsZero() {
		found = append(found, Finding{Level: Note, Where: dir, What: "no heartbeat has ever been received here",
			Why: "If Prometheus or Alertmanager dies, no alert says so: silence looks like health.", Mend: "Route Watchdog to niodooctl incident listen on another machine, or to a service that calls when it stops."})
	}
	if len(p.Config.Notify.SMTP.To) == 0 {
		found = append(found, Finding{Level: Note, Where: "notify.smtp", What: "niodooctl can send no mail of its own",
			Why: "When Alertmanager is dead, health and incidents reach nobody.", Mend: "Name a relay: notify: {smtp: {smarthost: ..., from: ..., to: [...]}}."})
	}
	return found, nil
}

// list writes names, at most ten.
func list(names []string) string {
	const most = 10
	if len(names) > most {
		return strings.Join(names[:most], ", ") + fmt.Sprintf(" and %d more", len(names)-most)
	}
	return strings.Join(names, ", ")
}
