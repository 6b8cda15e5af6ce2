// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package maintenance

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/niodoo/niodoo_exporter/internal/humanize"
)

const (
	// maxListAge is how old the package lists may be to say that there is nothing new.
	maxListAge     = 48 * time.Hour
	refreshCommand = "sudo apt-get update"
)

// apt is the machine's package management.
type apt struct {
	root string
	// simulate returns what `apt-get -s upgrade` prints.
	simulate func(context.Context) ([]byte, error)
}

// errNoAPT says that the machine's packages are not APT's.
var errNoAPT = errors.New("apt-get is not on this machine")

// aptGet simulates an upgrade, which needs no rights and takes no lock.
func aptGet(ctx context.Context) ([]byte, error) { return runAPTGet(ctx, "upgrade") }

func runAPTGet(ctx context.Context, args ...string) ([]byte, error) {
	path, err := exec.LookPath("apt-get")
	if err != nil {
		return nil, errNoAPT
	}
	cmd := exec.CommandContext(ctx, path, append([]string{"-s", "-q", "-o", "Debug::NoLocking=1"}, args...)...)
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive"}
	cmd.WaitDelay = time.Second
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("apt-get: %w: %s", err, strings.TrimSpace(stderr.String()))
	}
	return out, nil
}

// instRE is a package that would be installed: name, old version if any, and in
// parentheses the new version and the suites that have it.
var instRE = regexp.MustCompile(`(?m)^Inst (\S+) (?:\[\S+\] )?\((\S+) (.*) \[\S+\]\)`)

// update is one package with a newer version.
type update struct{ name, version string }

// securityOf returns the updates that a security suite has.
func securityOf(out []byte) []update {
	var all []update
	for _, m := range instRE.FindAllSubmatch(out, -1) {
		if strings.Contains(strings.ToLower(string(m[3])), "security") {
			all = append(all, update{string(m[1]), string(m[2])})
		}
	}
	return all
}

// listsUpdated returns when the package lists were last brought up to date, the
// zero time if they never were. Every update touches the stamp or some list.
func (a apt) listsUpdated() (time.Time, error) {
	var newest time.Time
	note := func(path string) error {
		info, err := os.Stat(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err == nil && info.Mode().IsRegular() && info.ModTime().After(newest) {
			newest = info.ModTime()
		}
		return err
	}
	lists := filepath.Join(a.root, "var/lib/apt/lists")
	entries, err := os.ReadDir(lists)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return newest, err
	}
	paths := []string{filepath.Join(a.root, "var/lib/apt/periodic/update-success-stamp")}
	for _, e := range entries {
		if strings.Contains(e.Name(), "Release") { // also a list that did not change is asked for
			paths = append(paths, filepath.Join(lists, e.Name()))
		}
	}
	for _, p := range paths {
		if err := note(p); err != nil {
			return newest, err
		}
	}
	return newest, nil
}

func securityUpdates(ctx context.Context, j *job) (outcome, error) {
	return apt{j.Config.Host.RootFS, aptGet}.report(ctx, j)
}

// apply returns the command that installs the security updates and nothing else.
func (a apt) apply(updates []update) string {
	if _, err := os.Stat(filepath.Join(a.root, "usr/bin/unattended-upgrade")); err == nil {
		return "sudo unattended-upgrade -v"
	}
	names := make([]string, len(updates))
	for i, u := range updates {
		names[i] = u.name
	}
	return "sudo apt-get install --only-upgrade " + strings.Join(names, " ")
}

// report says which security updates there are, and installs nothing.
func (a apt) report(ctx context.Context, j *job) (outcome, error) {
	out, err := a.simulate(ctx)
	if errors.Is(err, errNoAPT) {
		return skipped("it could not be checked: %v; look with this system's own package manager", err), nil
	}
	if err != nil {
		return outcome{}, fmt.Errorf("it could not be checked: %w", err)
	}
	at, err := a.listsUpdated()
	if err != nil {
		return outcome{}, fmt.Errorf("the age of the package lists could not be told: %w", err)
	}
	updates := securityOf(out)
	slices.SortFunc(updates, func(x, y update) int { return strings.Compare(x.name, y.name) })
	for _, u := range updates {
		j.say("%s %s", u.name, u.version)
	}
	if len(updates) > 0 {
		j.say("to install them: %s", a.apply(updates))
	}
	reboot := ""
	if _, err := os.Stat(filepath.Join(a.root, "run/reboot-required")); err == nil {
		reboot = "; a reboot is due"
		j.say("a reboot is due: see /run/reboot-required.pkgs")
	}
	age := "were never fetched"
	if !at.IsZero() {
		age = "are " + humanize.Duration(j.Now().Sub(at)) + " old"
	}
	switch {
	case j.Now().Sub(at) > maxListAge: // what there is may be more
		return failed("%d security updates known, but the package lists %s: run %s, then this step again%s", len(updates), age, refreshCommand, reboot), nil
	case len(updates) > 0:
		return done(true, "%d security updates; the package lists %s; to install them: %s%s", len(updates), age, a.apply(updates), reboot), nil
	}
	return done(reboot != "", "no security updates; the package lists %s%s", age, reboot), nil
}
