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
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/niodoo/niodoo_exporter/internal/atomicfile"
	"github.com/niodoo/niodoo_exporter/internal/config"
	"github.com/niodoo/niodoo_exporter/internal/configsum"
	"github.com/niodoo/niodoo_exporter/internal/endpoint"
)

const (
	timeFormat = "2006-01-02 15:04:05 MST"
	// changesWindow is how far back commits and packages are looked at.
	changesWindow = 7 * 24 * time.Hour
	// maxCommits and maxPackages are how many of the latest are kept.
	maxCommits, maxPackages = 20, 100

	lastGoodFile = "last-good.json"
)

// dpkgLogs are the package manager's logs, the older first.
var dpkgLogs = []string{"/var/log/dpkg.log.1", "/var/log/dpkg.log"}

// State is what can be compared with a time when all was well.
type State struct {
	At time.Time `json:"at"`
	// Configs are SHA-256 sums by path, Images and Models digests by name.
	Configs map[string]string `json:"configs"`
	Images  map[string]string `json:"images,omitempty"`
	Models  map[string]string `json:"models,omitempty"`
}

// stateKinds are the parts of a [State], for people.
var stateKinds = []struct {
	name string
	of   func(*State) *map[string]string
}{
	{"configuration files", func(s *State) *map[string]string { return &s.Configs }},
	{"container images", func(s *State) *map[string]string { return &s.Images }},
	{"models", func(s *State) *map[string]string { return &s.Models }},
}

// takeState finds out what there is now. What could not be found out is nil,
// with the reason in the errors by the same index as in stateKinds.
func takeState(ctx context.Context, cfg *config.Config, now time.Time) (State, []error) {
	s, errs := State{At: now.UTC()}, make([]error, len(stateKinds))
	var wg sync.WaitGroup
	wg.Go(func() { s.Configs, errs[0] = configsum.Take(ctx, cfg) })
	wg.Go(func() { s.Images, errs[1] = imageDigests(ctx, cfg) })
	wg.Go(func() { s.Models, errs[2] = modelDigests(ctx, cfg) })
	wg.Wait()
	return s, errs
}

// imageDigests returns the digests of the images that containers run.
func imageDigests(ctx context.Context, cfg *config.Config) (map[string]string, error) {
	all, err := listContainers(ctx, cfg)
	if err != nil {
		return nil, err
	}
	digests := map[string]string{}
	for _, c := range all {
		digests[c.name()+" ("+c.Image+")"] = c.ImageID
	}
	return digests, nil
}

// modelDigests returns the digests of Ollama's models.
func modelDigests(ctx context.Context, cfg *config.Config) (map[string]string, error) {
	if !cfg.Enabled("ollama") {
		return nil, notLookedAt("the configuration has Ollama disabled")
	}
	raw, err := endpoint.Endpoint{HTTP: cfg.Ollama.HTTP}.Do(ctx, "GET", "/api/tags")
	if err != nil {
		return nil, err
	}
	var tags struct {
		Models []struct{ Name, Digest string }
	}
	if err := json.Unmarshal(raw, &tags); err != nil {
		return nil, fmt.Errorf("GET /api/tags: %w", err)
	}
	digests := map[string]string{}
	for _, m := range tags.Models {
		digests[m.Name] = m.Digest
	}
	return digests, nil
}

func lastGoodPath(stateDir string) string { return filepath.Join(stateDir, "incidents", lastGoodFile) }

// RememberGood keeps what there is now as what is known to be good. What could
// not be found out keeps its last value. The caller has seen that all is well.
func RememberGood(ctx context.Context, cfg *config.Config, now time.Time) error {
	s, errs := takeState(ctx, cfg, now)
	before, err := readLastGood(cfg.Operations.StateDir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for i, k := range stateKinds {
		if errs[i] != nil {
			*k.of(&s) = *k.of(&before)
		}
	}
	return writeJSON(lastGoodPath(cfg.Operations.StateDir), s)
}

func readLastGood(stateDir string) (State, error) {
	var s State
	f, _, err := atomicfile.Open(lastGoodPath(stateDir))
	if err != nil {
		return s, err
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, maxPiece))
	if err != nil {
		return s, err
	}
	if err := json.Unmarshal(raw, &s); err != nil {
		return s, fmt.Errorf("%s: %w", f.Name(), err)
	}
	return s, nil
}

// changes are what is different from when all was well.
func (l *look) changes(ctx context.Context) ([]byte, error) {
	parts := []func(context.Context, *bytes.Buffer) error{l.changesSinceGood, l.commits, l.packages}
	texts, errs := make([]bytes.Buffer, len(parts)), make([]error, len(parts))
	var wg sync.WaitGroup
	for i, part := range parts {
		wg.Go(func() { errs[i] = part(ctx, &texts[i]) })
	}
	wg.Wait()
	var all bytes.Buffer
	for i := range texts {
		all.Write(texts[i].Bytes())
	}
	return all.Bytes(), errors.Join(errs...)
}

// changesSinceGood compares with the last state that was known to be good.
func (l *look) changesSinceGood(ctx context.Context, b *bytes.Buffer) error {
	now, errs := takeState(ctx, l.Config, l.Now())
	good, err := readLastGood(l.StateDir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		b.WriteString("== nothing to compare with: no state has been known to be good yet\n")
	case err != nil:
		return err
	default:
		fmt.Fprintf(b, "== since all was well, %s\n", good.At.UTC().Format(timeFormat))
	}
	known := err == nil
	var failed []error
	for i, k := range stateKinds {
		if none, ok := errors.AsType[notLookedAt](errs[i]); ok {
			fmt.Fprintf(b, "%s: not looked at: %s\n", k.name, none)
			continue
		}
		if errs[i] != nil {
			failed = append(failed, fmt.Errorf("%s: %w", k.name, errs[i]))
		}
		is, was := *k.of(&now), *k.of(&good)
		if is == nil { // not found out
			continue
		}
		if known && was != nil {
			writeDifferences(b, k.name, was, is)
			continue
		}
		fmt.Fprintf(b, "%s now:\n", k.name)
		for _, name := range slices.Sorted(maps.Keys(is)) {
			fmt.Fprintf(b, "  %s %s\n", short(is[name]), name)
		}
	}
	return errors.Join(failed...)
}

func writeDifferences(b *bytes.Buffer, what string, was, is map[string]string) {
	names := maps.Clone(was)
	maps.Copy(names, is)
	same := true
	for _, n := range slices.Sorted(maps.Keys(names)) {
		switch w, i := was[n], is[n]; {
		case w == i:
			continue
		case w == "":
			fmt.Fprintf(b, "%s: new: %s %s\n", what, n, short(i))
		case i == "":
			fmt.Fprintf(b, "%s: gone: %s %s\n", what, n, short(w))
		default:
			fmt.Fprintf(b, "%s: changed: %s %s -> %s\n", what, n, short(w), short(i))
		}
		same = false
	}
	if same {
		fmt.Fprintf(b, "%s: unchanged, %d\n", what, len(is))
	}
}

// short is the beginning of a digest.
func short(digest string) string {
	digest = strings.TrimPrefix(digest, "sha256:")
	return digest[:min(len(digest), 12)]
}

// gitQuiet keeps git from writing, asking and reading what is not the repository's.
var gitQuiet = []string{"GIT_OPTIONAL_LOCKS=0", "GIT_TERMINAL_PROMPT=0", "GIT_CONFIG_NOSYSTEM=1", "GIT_PAGER=cat"}

// commits are the latest commits and uncommitted changes of the configured repositories.
func (l *look) commits(ctx context.Context, b *bytes.Buffer) error {
	repositories := l.Config.Incident.Repositories
	if len(repositories) == 0 {
		b.WriteString("== commits: not looked at: incident.repositories names none\n")
	}
	since := "--since=" + l.Now().Add(-changesWindow).UTC().Format(time.RFC3339)
	var errs []error
	for _, dir := range repositories {
		// The owner's repository is trusted to be looked at by whoever configured it.
		git := []string{"-C", dir, "-c", "safe.directory=" + dir, "-c", "core.fsmonitor=false"}
		log, err := program(ctx, gitQuiet, "git", append(git, "log", "--no-color", "-n", fmt.Sprint(maxCommits), since, "--date=iso-strict", "--format=%cd %h %an: %s", "--")...)
		status, serr := program(ctx, gitQuiet, "git", append(git, "status", "--short", "--branch", "--untracked-files=no")...)
		err = cmp.Or(err, serr)
		if none, ok := errors.AsType[notLookedAt](err); ok {
			fmt.Fprintf(b, "== commits in %s: not looked at: %s\n", dir, none)
			continue
		}
		errs = append(errs, err)
		fmt.Fprintf(b, "== commits of the last %s in %s\n%s%s", days(changesWindow), dir, log, status)
	}
	return errors.Join(errs...)
}

// packages are the packages that were installed, upgraded or removed lately.
func (l *look) packages(ctx context.Context, b *bytes.Buffer) error {
	since := l.Now().Add(-changesWindow)
	var lines []string
	found := false
	for _, path := range dpkgLogs {
		if err := ctx.Err(); err != nil {
			return err
		}
		raw, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		found = true
		for line := range strings.Lines(string(raw)) {
			f := strings.Fields(line)
			if len(f) < 4 || !slices.Contains([]string{"install", "upgrade", "remove", "purge"}, f[2]) {
				continue
			}
			at, err := time.ParseInLocation("2006-01-02 15:04:05", f[0]+" "+f[1], time.Local)
			if err == nil && at.After(since) {
				lines = append(lines, strings.TrimSpace(line))
			}
		}
	}
	if !found {
		b.WriteString("== packages: not looked at: there is no " + dpkgLogs[1] + "\n")
		return nil
	}
	fmt.Fprintf(b, "== packages changed in the last %s: %d\n", days(changesWindow), len(lines))
	for _, line := range lines[max(0, len(lines)-maxPackages):] {
		fmt.Fprintln(b, line)
	}
	return nil
}

func days(d time.Duration) string { return fmt.Sprintf("%g days", d.Hours()/24) }
