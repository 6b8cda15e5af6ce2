// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package incident

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/niodoo/niodoo_exporter/internal/config"
	"github.com/niodoo/niodoo_exporter/internal/endpoint"
	"github.com/niodoo/niodoo_exporter/internal/logscan"
)

const (
	// errorsWindow is how much of each log's end is looked at, in bytes.
	errorsWindow = 8 << 20
	// maxErrors is how many of a log's last error lines are kept.
	maxErrors = 500
	// maxKernel is how many of the kernel's last messages are kept.
	maxKernel = 500
	// maxKernelReads is more than the kernel's buffer holds.
	maxKernelReads = 200_000
)

// errors are the last lines of each log that tell of an error.
func (l *look) errors(ctx context.Context) ([]byte, error) {
	var b bytes.Buffer
	var errs []error
	paths := 0
	for _, pattern := range l.Config.Logs.Paths {
		found, err := logscan.Expand(pattern)
		if err != nil {
			errs = append(errs, err)
		}
		for _, path := range found {
			if excluded(path, l.Config.Logs.Exclude) {
				continue
			}
			paths++
			if err := ctx.Err(); err != nil {
				return b.Bytes(), err
			}
			if b.Len() > maxPiece {
				return b.Bytes(), fmt.Errorf("further logs were left out, from %s on: there are too many errors", path)
			}
			if err := lastErrors(&b, path); err != nil {
				errs = append(errs, err)
			}
		}
	}
	err := errors.Join(errs...)
	if paths == 0 && (err == nil || errors.Is(err, fs.ErrNotExist)) {
		return nil, notLookedAt("no file matches logs.paths")
	}
	return b.Bytes(), err
}

func excluded(path string, globs []string) bool {
	return slices.ContainsFunc(globs, func(g string) bool {
		ok, _ := filepath.Match(g, filepath.Base(path))
		return ok
	})
}

// lastErrors writes the last error lines of a log.
func lastErrors(b *bytes.Buffer, path string) error {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%s is not a regular file", path)
	}
	buf := make([]byte, min(info.Size(), errorsWindow))
	n, err := f.ReadAt(buf, info.Size()-int64(len(buf)))
	if n < len(buf) && err != nil && n == 0 {
		return fmt.Errorf("reading %s: %w", path, err)
	}
	buf = buf[:n]
	if info.Size() > errorsWindow { // the first line's beginning is missing
		_, buf, _ = bytes.Cut(buf, []byte("\n"))
	}
	var kept [][]byte
	total := 0
	each := func(line logscan.Line) {
		if logscan.LevelOf(line.Head) < logscan.Error {
			return
		}
		total++
		if len(kept) == maxErrors {
			kept = slices.Delete(kept, 0, 1)
		}
		kept = append(kept, bytes.Clone(line.Head))
	}
	var s logscan.Stream
	s.Write(buf, each)
	s.Finish(each)
	fmt.Fprintf(b, "== %s: %d of %d error lines in its last %d bytes, changed %s\n", path, len(kept), total, len(buf), info.ModTime().UTC().Format(timeFormat))
	for _, line := range kept {
		b.Write(line)
		b.WriteByte('\n')
	}
	return nil
}

// unitProperties are what systemctl show is asked for.
const unitProperties = "Id,LoadState,ActiveState,SubState,Result,NRestarts,MainPID,ExecMainStartTimestamp,ExecMainExitTimestamp,ExecMainCode,ExecMainStatus,InvocationID,ActiveEnterTimestamp,MemoryCurrent,FragmentPath"

// units are the state of the configured systemd units, and those that failed.
func (l *look) units(ctx context.Context) ([]byte, error) {
	if _, err := os.Stat("/run/systemd/system"); err != nil {
		return nil, notLookedAt("there is no systemd here")
	}
	units := slices.Clone(l.Config.Incident.Units)
	for _, t := range l.Config.Incident.Restart {
		if t.Unit != "" {
			units = append(units, t.Unit)
		}
	}
	slices.Sort(units)
	failed, err := program(ctx, nil, "systemctl", "list-units", "--state=failed", "--no-pager", "--plain", "--full")
	out := append([]byte("== failed units\n"), failed...)
	if units = slices.Compact(units); len(units) == 0 {
		return out, err
	}
	shown, showErr := program(ctx, nil, "systemctl", append([]string{"show", "--no-pager", "--property=" + unitProperties, "--"}, units...)...)
	return append(append(out, "== configured units\n"...), shown...), errors.Join(err, showErr)
}

// container is what is kept of Docker's list of containers: no environment,
// which holds secrets.
type container struct {
	ID      string            `json:"Id"`
	Names   []string          `json:"Names"`
	Image   string            `json:"Image"`
	ImageID string            `json:"ImageID"`
	Created int64             `json:"Created"`
	State   string            `json:"State"`
	Status  string            `json:"Status"`
	Labels  map[string]string `json:"Labels"`
}

// name is the container's own.
func (c container) name() string {
	if len(c.Names) == 0 {
		return c.ID
	}
	return strings.TrimPrefix(c.Names[0], "/")
}

const composeProject = "com.docker.compose.project"

// listContainers asks the container engine; only the configured project's are returned.
func listContainers(ctx context.Context, cfg *config.Config) ([]container, error) {
	if !cfg.Enabled("docker") {
		return nil, notLookedAt("the configuration does not name docker")
	}
	e, err := endpoint.Docker(cfg.Docker)
	if err != nil {
		return nil, err
	}
	raw, err := e.Do(ctx, "GET", "/containers/json?all=true")
	if err != nil {
		return nil, err
	}
	var all []container
	if err := json.Unmarshal(raw, &all); err != nil {
		return nil, fmt.Errorf("GET /containers/json: %w", err)
	}
	all = slices.DeleteFunc(all, func(c container) bool {
		return cfg.Docker.Project != "" && c.Labels[composeProject] != cfg.Docker.Project
	})
	slices.SortFunc(all, func(a, b container) int { return cmp.Compare(a.name(), b.name()) })
	return all, nil
}

// maxInspected is how many containers are looked at one by one.
const maxInspected = 50

// containers are the state of the containers, with the reason of their last end.
func (l *look) containers(ctx context.Context) ([]byte, error) {
	all, err := listContainers(ctx, l.Config)
	if err != nil {
		return nil, err
	}
	e, err := endpoint.Docker(l.Config.Docker)
	if err != nil {
		return nil, err
	}
	type inspected struct {
		container
		RestartCount int             `json:"RestartCount"`
		Details      json.RawMessage `json:"Details,omitempty"`
	}
	out := make([]inspected, len(all))
	var errs []error
	for i, c := range all {
		out[i].container = c
		if i >= maxInspected {
			continue
		}
		raw, err := e.Do(ctx, "GET", "/containers/"+c.ID+"/json")
		var details struct {
			State        json.RawMessage
			RestartCount int
		}
		if err == nil {
			err = json.Unmarshal(raw, &details)
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		out[i].RestartCount, out[i].Details = details.RestartCount, details.State
	}
	raw, err := json.MarshalIndent(out, "", "  ")
	return raw, errors.Join(append(errs, err)...)
}

// kernel are the kernel's last messages.
func (l *look) kernel(ctx context.Context) ([]byte, error) {
	lines, err := readKmsg("/dev/kmsg")
	if err == nil {
		return lines, nil
	}
	journal, jerr := program(ctx, nil, "journalctl", "-k", "-q", "--no-pager", "-o", "short-iso", "-n", fmt.Sprint(maxKernel))
	if jerr == nil && len(journal) > 0 {
		return journal, nil
	}
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, fs.ErrNotExist) {
		return nil, notLookedAt("not permitted: " + err.Error() + "; CAP_SYSLOG or the group systemd-journal may")
	}
	return nil, err
}

// readKmsg returns the kernel's last messages; each read gives one.
func readKmsg(path string) ([]byte, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer func() { _ = unix.Close(fd) }()
	var lines [][]byte
	buf := make([]byte, 16<<10)
	for range maxKernelReads { // while it is written faster than it is read there is no end
		n, err := unix.Read(fd, buf)
		switch {
		case errors.Is(err, unix.EPIPE), errors.Is(err, unix.EINTR): // overwritten meanwhile: go on with the next
			continue
		case errors.Is(err, unix.EAGAIN), err == nil && n == 0:
			return bytes.Join(lines, nil), nil
		case err != nil:
			return nil, &os.PathError{Op: "read", Path: path, Err: err}
		}
		if len(lines) == maxKernel {
			lines = slices.Delete(lines, 0, 1)
		}
		lines = append(lines, bytes.Clone(buf[:n]))
	}
	return bytes.Join(lines, nil), nil
}

// hostFiles are what the machine itself says, below procfs.
var hostFiles = []string{"uptime", "loadavg", "meminfo", "pressure/cpu", "pressure/memory", "pressure/io", "diskstats", "net/dev", "net/sockstat", "mounts"}

func (l *look) host(ctx context.Context) ([]byte, error) {
	var b bytes.Buffer
	var errs []error
	for _, name := range hostFiles {
		if err := ctx.Err(); err != nil {
			return b.Bytes(), err
		}
		raw, err := os.ReadFile(filepath.Join(l.Config.Host.ProcFS, name))
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.EOPNOTSUPP) {
			continue // a kernel without pressure stall information
		}
		errs = append(errs, err)
		fmt.Fprintf(&b, "== %s\n%s", name, raw)
	}
	return b.Bytes(), errors.Join(errs...)
}

// alerts are the alerts and silences that Alertmanager has.
func (l *look) alerts(ctx context.Context) ([]byte, error) {
	e := endpoint.Endpoint{HTTP: l.Config.Alertmanager.HTTP}
	switch {
	case l.Config.Enabled("alertmanager"):
	case l.Config.Notify.Alertmanager != "":
		e = endpoint.Endpoint{HTTP: config.HTTP{URL: l.Config.Notify.Alertmanager}}
	default:
		return nil, notLookedAt("the configuration names neither alertmanager nor notify.alertmanager")
	}
	out := map[string]json.RawMessage{}
	var errs []error
	for name, path := range map[string]string{"alerts": "/api/v2/alerts", "silences": "/api/v2/silences"} {
		raw, err := e.Do(ctx, "GET", path)
		if err == nil && !json.Valid(raw) {
			err = fmt.Errorf("GET %s: the answer is not JSON", path)
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		out[name] = raw
	}
	if len(out) == 0 {
		return nil, errors.Join(errs...)
	}
	raw, err := json.MarshalIndent(out, "", "  ")
	return raw, errors.Join(append(errs, err)...)
}
