// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package maintenance

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/common/version"
	"golang.org/x/sys/unix"

	"github.com/niodoo/niodoo_exporter/internal/atomicfile"
	"github.com/niodoo/niodoo_exporter/internal/config"
	"github.com/niodoo/niodoo_exporter/internal/configsum"
	"github.com/niodoo/niodoo_exporter/internal/observe"
)

// maxInventory and maxConfigFile bound what is read, in bytes.
const (
	maxInventory  = 4 << 20
	maxConfigFile = 16 << 20
)

// inventory is what there is, by kind and name. A kind that could not be looked
// at is missing.
type inventory struct {
	At    time.Time                    `json:"at"`
	Kinds map[string]map[string]string `json:"kinds"`
	// NotLookedAt says by kind what is missing from it, or why it is missing.
	NotLookedAt map[string]string `json:"not_looked_at,omitempty"`
}

// The kinds, in the order of the page.
const (
	kindMachine   = "Machine"
	kindVersions  = "Versions"
	kindImages    = "Container images"
	kindModels    = "Models"
	kindAddresses = "Addresses"
	kindConfigs   = "Configuration files"
)

var kinds = []string{kindMachine, kindVersions, kindImages, kindModels, kindAddresses, kindConfigs}

// takeInventory looks at the stack with the exporter's own collectors, and at the machine.
func takeInventory(ctx context.Context, j *job) inventory {
	stack := observe.Open(j.Config, j.Logger)
	defer stack.Close()
	seen := stack.Look(ctx, nil)
	inv := inventory{At: j.Now().UTC(), Kinds: map[string]map[string]string{}, NotLookedAt: map[string]string{}}

	versions := map[string]string{"niodooctl": version.Version}
	for _, s := range seen.Series("niodoo_component_info") {
		versions[s.Labels["component"]] = s.Labels["version"]
	}
	inv.Kinds[kindVersions] = versions
	var silent []string
	for _, f := range seen.Failures {
		if versions[f.Collector] == "" && j.Config.Required(f.Collector) {
			silent = append(silent, fmt.Sprintf("%s (%s)", f.Collector, f.Reason))
		}
	}
	if len(silent) > 0 {
		inv.NotLookedAt[kindVersions] = strings.Join(silent, ", ")
	}
	inv.ask(j.Config, seen, kindImages, "docker", "niodoo_docker_container_info", func(l map[string]string) (string, string) {
		return l["container"], l["image"] + " " + l["image_digest"]
	})
	inv.ask(j.Config, seen, kindModels, "ollama", "niodoo_ollama_model_info", func(l map[string]string) (string, string) {
		return l["model"], l["digest"]
	})
	inv.Kinds[kindMachine] = machine(j.Config)
	inv.Kinds[kindAddresses] = addresses(j.Config)
	sums, err := configsum.Take(ctx, j.Config)
	for path, sum := range sums {
		sums[path] = sum[:16] // enough to tell a change
	}
	inv.Kinds[kindConfigs] = sums
	if err != nil {
		inv.NotLookedAt[kindConfigs] = err.Error()
	}
	return inv
}

// ask takes a kind from the labels of a collector's metric.
func (inv *inventory) ask(cfg *config.Config, seen observe.Snapshot, kind, collector, metric string, entry func(map[string]string) (name, value string)) {
	if !cfg.Enabled(collector) {
		inv.NotLookedAt[kind] = "the configuration does not name " + collector
		return
	}
	all := seen.Series(metric)
	if f := seen.Failed(collector); f != nil && len(all) == 0 {
		inv.NotLookedAt[kind] = fmt.Sprintf("%s does not tell (%s)", collector, f.Reason)
		return
	}
	found := map[string]string{}
	for _, s := range all {
		name, value := entry(s.Labels)
		found[name] = value
	}
	inv.Kinds[kind] = found
}

// machine describes the machine we run on.
func machine(cfg *config.Config) map[string]string {
	m := map[string]string{"architecture": runtime.GOARCH, "processors": fmt.Sprint(runtime.NumCPU())}
	if name, err := os.Hostname(); err == nil {
		m["name"] = name
	}
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		m["kernel"] = unix.ByteSliceToString(u.Release[:])
	}
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) == nil {
		m["memory"] = fmt.Sprintf("%d MiB", info.Totalram*uint64(info.Unit)>>20)
	}
	if raw, err := os.ReadFile(filepath.Join(cfg.Host.RootFS, "etc/os-release")); err == nil {
		for line := range strings.Lines(string(raw)) {
			if v, ok := strings.CutPrefix(strings.TrimSpace(line), "PRETTY_NAME="); ok {
				m["system"] = strings.Trim(v, `"`)
			}
		}
	}
	return m
}

// addresses are where the stack's services are asked.
func addresses(cfg *config.Config) map[string]string {
	all := map[string]string{
		"engine": cfg.Engine.URL, "pipeline": strings.Join(slices.Concat(cfg.Pipeline.URLs, cfg.Pipeline.Files), " "),
		"postgresql": fmt.Sprintf("%s:%d/%s", cfg.PostgreSQL.Host, cfg.PostgreSQL.Port, cfg.PostgreSQL.Database),
		"redis":      cfg.Redis.Address, "ollama": cfg.Ollama.URL, "vllm": cfg.VLLM.URL, "qdrant": cfg.Qdrant.URL,
		"prometheus": cfg.Prometheus.URL, "grafana": cfg.Grafana.URL, "alertmanager": cfg.Alertmanager.URL, "loki": cfg.Loki.URL,
		"docker": cfg.Docker.Host,
	}
	maps.DeleteFunc(all, func(name, _ string) bool { return !cfg.Enabled(name) })
	return all
}

// differences lists in words what is another in inv than it was, of the kinds
// that both know.
func (inv inventory) differences(was inventory, of ...string) []string {
	var all []string
	for _, kind := range of {
		before, ok1 := was.Kinds[kind]
		now, ok2 := inv.Kinds[kind]
		if !ok1 || !ok2 {
			continue
		}
		names := maps.Clone(before)
		maps.Copy(names, now)
		for _, n := range slices.Sorted(maps.Keys(names)) {
			w, is := before[n], now[n]
			_, silent := inv.NotLookedAt[kind]
			switch {
			case w == is:
			case w == "":
				all = append(all, fmt.Sprintf("%s: new: %s %s", kind, n, is))
			case is == "" && silent:
				// it was not looked at, which is no change
			case is == "":
				all = append(all, fmt.Sprintf("%s: gone: %s %s", kind, n, w))
			default:
				all = append(all, fmt.Sprintf("%s: changed: %s %s -> %s", kind, n, w, is))
			}
		}
	}
	return all
}

// keepMissing takes what could not be looked at from an earlier inventory, so
// that it can be compared when it can be looked at again.
func (inv *inventory) keepMissing(was inventory) {
	for _, kind := range kinds {
		if _, silent := inv.NotLookedAt[kind]; !silent || was.Kinds[kind] == nil {
			continue
		}
		merged := maps.Clone(was.Kinds[kind])
		maps.Copy(merged, inv.Kinds[kind])
		inv.Kinds[kind] = merged
	}
}

// readInventory returns a kept inventory. One that was never kept is [fs.ErrNotExist].
func readInventory(path string) (inventory, error) {
	var inv inventory
	f, _, err := atomicfile.Open(path)
	if err != nil {
		return inv, err
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, maxInventory))
	if err != nil {
		return inv, err
	}
	if err := json.Unmarshal(raw, &inv); err != nil {
		return inv, fmt.Errorf("%s: %w; remove it to begin anew", path, err)
	}
	return inv, nil
}

func (inv inventory) write(path string) error {
	raw, err := json.MarshalIndent(inv, "", "  ")
	if err != nil {
		return err
	}
	return atomicfile.Replace(path, 0o640, func(w io.Writer) error {
		_, err := w.Write(append(raw, '\n'))
		return err
	})
}

// drift reports images and models that are others than at the last run, and
// containers that run another image than their tag now names.
func drift(ctx context.Context, j *job) (outcome, error) {
	path := filepath.Join(j.Config.Operations.StateDir, "drift.json")
	inv := takeInventory(ctx, j)
	if err := ctx.Err(); err != nil {
		return outcome{}, err
	}
	was, err := readInventory(path)
	first := errors.Is(err, fs.ErrNotExist)
	if err != nil && !first {
		return outcome{}, err
	}
	found := inv.differences(was, kindImages, kindModels)
	outdated, imagesErr := outdatedImages(ctx, j.Config)
	found = append(found, outdated...)
	for _, line := range found {
		j.say("%s", line)
	}
	var blind []string
	for _, kind := range []string{kindImages, kindModels} {
		why := inv.NotLookedAt[kind]
		if why == "" {
			continue
		}
		j.say("not looked at: %s: %s", kind, why)
		if _, known := inv.Kinds[kind]; !known && !strings.HasPrefix(why, "the configuration") {
			blind = append(blind, kind+": "+why)
		}
	}
	switch {
	case errors.Is(imagesErr, errHidden): // on purpose, as a proxy is recommended
		found = append(found, "whether containers run what their tags now name was not looked at: "+imagesErr.Error())
		j.say("%s", found[len(found)-1])
	case imagesErr != nil:
		blind = append(blind, imagesErr.Error())
	}
	if !j.DryRun {
		inv.keepMissing(was)
		if err := inv.write(path); err != nil {
			return outcome{}, err
		}
	}
	switch {
	case len(blind) > 0:
		return failed("it could not be told: %s", strings.Join(slices.Concat(blind, found), "; ")), nil
	case first:
		return done(len(found) > 0, "nothing to compare with yet; %d images and %d models noted", len(inv.Kinds[kindImages]), len(inv.Kinds[kindModels])), nil
	}
	return done(len(found) > 0, "%s", cmp.Or(strings.Join(found, "; "), "nothing is another than on "+was.At.Format(time.DateOnly))), nil
}

// asBuilt writes the page that says how the stack is built, and keeps what it
// says for the next month's.
func asBuilt(ctx context.Context, j *job) (outcome, error) {
	inv := takeInventory(ctx, j)
	if err := ctx.Err(); err != nil {
		return outcome{}, err
	}
	dir := filepath.Join(j.Config.Operations.StateDir, "as-built")
	month := j.Now().Format("2006-01")
	was, err := lastAsBuilt(dir, month)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return outcome{}, err
	}
	var found []string
	if err == nil {
		found = inv.differences(was, kinds...)
	}
	page := filepath.Join(dir, month+".md")
	j.would("writing", "write", "%s", page)
	for _, line := range found {
		j.say("%s", line)
	}
	if j.DryRun {
		return done(false, "%d differences to last month", len(found)), nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return outcome{}, err
	}
	text := inv.page(was, found)
	err = atomicfile.Replace(page, 0o640, func(w io.Writer) error { _, err := w.Write(text); return err })
	if err == nil {
		err = inv.write(filepath.Join(dir, month+".json"))
	}
	if err != nil {
		return outcome{}, err
	}
	if was.At.IsZero() {
		return done(false, "%s; no earlier month to compare with", page), nil
	}
	return done(len(found) > 0, "%s; %d differences to %s", page, len(found), was.At.Format("2006-01")), nil
}

// lastAsBuilt returns what the latest page before a month said.
func lastAsBuilt(dir, month string) (inventory, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return inventory{}, err
	}
	last := ""
	for _, e := range entries { // sorted by name
		if m, ok := strings.CutSuffix(e.Name(), ".json"); ok && m < month {
			last = e.Name()
		}
	}
	if last == "" {
		return inventory{}, fs.ErrNotExist
	}
	return readInventory(filepath.Join(dir, last))
}

// page is the inventory in Markdown.
func (inv inventory) page(was inventory, differences []string) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "# As built: %s, %s\n\nWritten by niodooctl maintenance on %s.\n", cell(inv.Kinds[kindMachine]["name"]),
		inv.At.Format("January 2006"), inv.At.Format("2006-01-02 15:04 MST"))
	b.WriteString("\n## What is new\n\n")
	switch {
	case was.At.IsZero():
		b.WriteString("There is no earlier page to compare with.\n")
	case len(differences) == 0:
		fmt.Fprintf(&b, "Nothing since %s.\n", was.At.Format(time.DateOnly))
	default:
		fmt.Fprintf(&b, "Since %s:\n\n", was.At.Format(time.DateOnly))
		for _, d := range differences {
			fmt.Fprintf(&b, "- %s\n", cell(d))
		}
	}
	for _, kind := range kinds {
		fmt.Fprintf(&b, "\n## %s\n\n", kind)
		if why := inv.NotLookedAt[kind]; why != "" {
			fmt.Fprintf(&b, "Not looked at: %s.\n\n", cell(why))
		}
		if len(inv.Kinds[kind]) == 0 {
			continue
		}
		b.WriteString("| Name | Value |\n|---|---|\n")
		for _, n := range slices.Sorted(maps.Keys(inv.Kinds[kind])) {
			fmt.Fprintf(&b, "| %s | %s |\n", cell(n), cell(inv.Kinds[kind][n]))
		}
	}
	return b.Bytes()
}

// cell makes a text safe within a line of Markdown.
func cell(s string) string {
	return strings.NewReplacer("|", `\|`, "\n", " ", "\r", " ", "<", "&lt;", "`", "'").Replace(s)
}
