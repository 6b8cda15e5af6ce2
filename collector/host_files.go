// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// The parts of the collector host that ask file systems instead of procfs:
// mounts and configuration files. Both may hang.

var (
	hostFilesystemSize = hostFilesystemGauge("size_bytes",
		"Size of the file system, as df counts it", "statfs f_blocks × f_frsize")
	hostFilesystemFree = hostFilesystemGauge("free_bytes",
		"Free space, with what is reserved for root; used is size - free", "statfs f_bfree × f_frsize")
	hostFilesystemAvail = hostFilesystemGauge("avail_bytes",
		"Space that users can have; df's Use% is used / (used + avail)", "statfs f_bavail × f_frsize")
	hostFilesystemFiles = hostFilesystemGauge("files",
		"Number of files the file system can hold (inodes)", "statfs f_files").
		absent("on file systems without a fixed number of inodes")
	hostFilesystemFilesFree = hostFilesystemGauge("files_free",
		"Number of files that can still be made (free inodes)", "statfs f_ffree").
		absent("on file systems without a fixed number of inodes")
	hostFilesystemReadonly = hostFilesystemGauge("readonly",
		"Whether the file system can only be read: mounted so, or after an error", "/proc/1/mountinfo options of mount and superblock")
	hostFilesystemStuck = hostFilesystemGauge("stuck",
		"Whether the file system does not answer, such as NFS without its server; it is asked again when the last question came back",
		"statfs")
	hostFilesystemError = hostFilesystemGauge("error",
		"Whether the file system answered with an error, or is hidden from the exporter by its own mounts", "statfs")

	hostConfigFile = gauge("host", "host_config_file_info",
		"Configuration file with the first 16 digits of its content's SHA-256; the value is 1",
		"host.config_files", "path", "sha256").absent("while host.config_files matches no file that can be read")
	hostConfigFileModified = gauge("host", "host_config_file_modified_timestamp_seconds",
		"Time at which the configuration file was last changed", "host.config_files, mtime", "path").
		absent("while host.config_files matches no file")
)

func hostFilesystemGauge(name, help, source string) *Desc {
	return gauge("host", "host_filesystem_"+name, help, source, "path").
		absent("where no file system but virtual ones is mounted")
}

const (
	// maxHostMounts bounds the file systems that are exported.
	maxHostMounts = 100
	// maxHostConfigFiles bounds the configuration files that are exported.
	maxHostConfigFiles = 64
	// maxHostConfigFile bounds a configuration file whose content is hashed, in bytes.
	maxHostConfigFile = 4 << 20
)

// hostDevice is a file system's device number.
type hostDevice struct{ major, minor uint32 }

// hostUsage is what the kernel says of the file system that holds a path. Sizes
// are in bytes; files is 0 where there is no fixed number of inodes.
type hostUsage struct {
	size, free, avail float64
	files, filesFree  float64
	device            hostDevice
}

// hostMount is a line of mountinfo.
type hostMount struct {
	device       hostDevice
	root, path   string // path is as the machine sees it
	fstype, from string
	readonly     bool
	labels       []string
}

// hostMountTable is the mounts of the machine. Parsing is skipped while the
// kernel's text does not change.
type hostMountTable struct {
	raw  []byte
	all  []hostMount  // in the order of mounting; a path appears once
	real []*hostMount // one per device, see hostRealMounts
}

func (h *host) parseMounts(_ *hostBatch, data []byte) error {
	if h.mounts.all != nil && bytes.Equal(h.mounts.raw, data) {
		return nil
	}
	all, err := parseHostMounts(data, h.rootfs)
	if err != nil {
		return err
	}
	h.mounts = hostMountTable{raw: append(h.mounts.raw[:0], data...), all: all, real: hostRealMounts(all)}
	return nil
}

// parseHostMounts parses lines such as
//
//	36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue
//
// rootfs is where the machine's root is mounted for the exporter: it is cut
// off paths that begin with it, since a container sees its mounts so.
func parseHostMounts(data []byte, rootfs string) ([]hostMount, error) {
	all := []hostMount{}
	at := map[string]int{}
	for len(data) > 0 {
		var line []byte
		line, data = hostLine(data)
		f := strings.Fields(string(line))
		if len(f) == 0 {
			continue
		}
		dash := slices.Index(f, "-")
		if dash < 6 || len(f) < dash+3 {
			return nil, fmt.Errorf("not a mount: %q", line)
		}
		dev, ok := parseHostDevice(f[2])
		if !ok {
			return nil, fmt.Errorf("not a device number: %q", f[2])
		}
		path := unescapeHostMount(f[4])
		if rootfs != "/" {
			if rest, ok := strings.CutPrefix(path, rootfs); ok && (rest == "" || rest[0] == '/') {
				path = cmp.Or(rest, "/")
			}
		}
		m := hostMount{device: dev, root: unescapeHostMount(f[3]), path: path, fstype: f[dash+1], from: unescapeHostMount(f[dash+2]),
			// After an error the superblock turns read-only and the mount does not.
			readonly: hostHasOption(f[5], "ro") || len(f) > dash+3 && hostHasOption(f[dash+3], "ro"),
			labels:   []string{cleanLabel(path)}}
		if i, ok := at[path]; ok {
			all[i] = m // mounted over the earlier one
			continue
		}
		at[path] = len(all)
		all = append(all, m)
	}
	return all, nil
}

func parseHostDevice(s string) (hostDevice, bool) {
	a, b, ok := strings.Cut(s, ":")
	major, err1 := strconv.ParseUint(a, 10, 32)
	minor, err2 := strconv.ParseUint(b, 10, 32)
	return hostDevice{uint32(major), uint32(minor)}, ok && err1 == nil && err2 == nil
}

func hostHasOption(list, option string) bool {
	for o := range strings.SplitSeq(list, ",") {
		if o == option {
			return true
		}
	}
	return false
}

// unescapeHostMount undoes the kernel's escapes of blank, tab, line feed and
// backslash: three octal digits.
func unescapeHostMount(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// hostVirtualFilesystems hold no data of their own, or an image that is always
// full. tmpfs is memory and is counted there.
var hostVirtualFilesystems = []string{
	"aufs", "autofs", "binfmt_misc", "bpf", "cgroup", "cgroup2", "configfs", "cramfs", "debugfs", "devpts", "devtmpfs", "ecryptfs",
	"efivarfs", "erofs", "fuse.gvfsd-fuse", "fuse.lxcfs", "fuse.portal", "fuse.snapfuse", "fuse.squashfuse", "fusectl", "hugetlbfs",
	"iso9660", "mqueue", "nfsd", "nsfs", "overlay", "proc", "pstore", "ramfs", "romfs", "rootfs", "rpc_pipefs", "securityfs",
	"selinuxfs", "smackfs", "squashfs", "sysfs", "tmpfs", "tracefs", "udf",
}

// hostForeignPaths belong to container engines and packages, which mount the same
// devices once more or images.
var hostForeignPaths = []string{"/dev", "/proc", "/sys", "/run/credentials", "/snap", "/var/lib/snapd/snap",
	"/var/lib/docker", "/var/lib/containers/storage"}

// hostSubvolumes are file systems whose files have other device numbers than
// their mount, and of which parts are mounted rather than bound.
var hostSubvolumes = []string{"btrfs", "bcachefs"}

// hostRealMounts picks one mount per device: the one with the shortest path that
// is not merely a part of it bound to another place.
func hostRealMounts(all []hostMount) []*hostMount {
	best := map[hostDevice]*hostMount{}
	for i := range all {
		m := &all[i]
		bound := m.root != "/" && m.path != "/" && strings.HasPrefix(m.from, "/dev/") && !slices.Contains(hostSubvolumes, m.fstype)
		if bound || slices.Contains(hostVirtualFilesystems, m.fstype) || slices.ContainsFunc(hostForeignPaths, m.isBelow) {
			continue
		}
		if b := best[m.device]; b == nil || len(m.path) < len(b.path) || len(m.path) == len(b.path) && m.path < b.path {
			best[m.device] = m
		}
	}
	found := slices.SortedFunc(maps.Values(best), func(a, b *hostMount) int { return cmp.Compare(a.path, b.path) })
	return found[:min(len(found), maxHostMounts)]
}

func (m *hostMount) isBelow(dir string) bool { return hostWithin(m.path, dir) }

// hostWithin reports whether path is dir or below it.
func hostWithin(path, dir string) bool {
	rest, ok := strings.CutPrefix(path, dir)
	return ok && (rest == "" || rest[0] == '/' || dir == "/")
}

// holding returns the mount that a path lies on as far as its name tells; nil for none.
func (t *hostMountTable) holding(path string) *hostMount {
	var best *hostMount
	for i := range t.all {
		if m := &t.all[i]; hostWithin(path, m.path) && (best == nil || len(m.path) > len(best.path)) {
			best = m
		}
	}
	return best
}

// of returns the real mount of a device, nil for none.
func (t *hostMountTable) of(d hostDevice) *hostMount {
	for _, m := range t.real {
		if m.device == d {
			return m
		}
	}
	return nil
}

var (
	errHostStuck  = errors.New("the file system does not answer")
	errHostHidden = errors.New("another file system is mounted there for the exporter")
)

// filesystems asks all mounts at once, then the configured paths on those that
// answered. A configured path stands for its mount, the first one for a mount
// that has several.
func (h *host) filesystems(ctx context.Context, b *hostBatch) error {
	deadline, limited := ctx.Deadline()
	answers := h.ask(hostMountPaths(h.mounts.real), hangingPatience(h.patience, deadline, limited))
	for i, m := range h.mounts.real {
		a := &answers[i]
		if a.err == nil && a.value.device != m.device && !slices.Contains(hostSubvolumes, m.fstype) {
			a.err = errHostHidden
		}
	}
	var asked []string
	places := make([]hostPlace, len(h.paths))
	for i, p := range h.paths {
		places[i].mount = h.mounts.holding(p)
		if at := slices.Index(h.mounts.real, h.realOf(places[i].mount)); at >= 0 {
			err := answers[at].err
			// What is below a hidden mount would be counted from what hides it.
			if errors.Is(err, errHostStuck) || errors.Is(err, errHostHidden) && h.mounts.real[at] == places[i].mount {
				places[i].err, places[i].inherited = err, true
				continue
			}
		}
		asked = append(asked, p)
	}
	replies := h.ask(asked, hangingPatience(h.patience, deadline, limited))
	var failures []error
	covered, listed := map[*hostMount]bool{}, map[string]bool{}
	for i, p := range h.paths {
		pl := &places[i]
		if pl.err == nil {
			pl.usage, pl.err, replies = replies[0].value, replies[0].err, replies[1:]
		}
		m := h.realOf(pl.mount)
		if pl.err == nil {
			if byDevice := h.mounts.of(pl.usage.device); byDevice != nil {
				m = byDevice // a link led there
			}
		}
		switch {
		case errors.Is(pl.err, fs.ErrNotExist):
			if h.namedPaths {
				failures = append(failures, pl.err)
			}
			continue
		case pl.err != nil:
			failures = append(failures, hostPathFailure(p, pl.err))
		}
		if listed[p] {
			continue
		}
		if m != nil && (pl.err == nil || pl.inherited) {
			if covered[m] {
				continue
			}
			covered[m] = true
		}
		readonly := pl.mount != nil && pl.mount.readonly
		if m != nil {
			readonly = m.readonly
		}
		listed[p] = true
		sendHostFilesystem(b, []string{cleanLabel(p)}, pl.usage, pl.err, readonly)
	}
	for i, m := range h.mounts.real {
		if !covered[m] && !listed[m.path] {
			sendHostFilesystem(b, m.labels, answers[i].value, answers[i].err, m.readonly)
		}
	}
	return hostFirst(failures)
}

// hostPlace is a configured path.
type hostPlace struct {
	mount *hostMount // by its name
	usage hostUsage
	err   error
	// inherited says that it was not asked, because its mount does not answer or is hidden.
	inherited bool
}

// realOf returns the real mount of m's device, nil for none.
func (h *host) realOf(m *hostMount) *hostMount {
	if m == nil {
		return nil
	}
	return h.mounts.of(m.device)
}

func hostPathFailure(path string, err error) error {
	switch {
	case errors.Is(err, errHostStuck):
		return failf(ReasonTimeout, "%s: %w", path, err)
	case errors.Is(err, errHostHidden):
		return failf(ReasonOther, "%s: %w", path, err)
	}
	return err // names the path itself
}

func hostMountPaths(mounts []*hostMount) []string {
	paths := make([]string, len(mounts))
	for i, m := range mounts {
		paths[i] = m.path
	}
	return paths
}

// ask asks about all paths at once and waits for the answers. A path whose
// last question has not come back is not asked again.
func (h *host) ask(paths []string, patience time.Duration) []hangingAnswer[hostUsage] {
	h.statfs.sweep()
	answers := make([]hangingAnswer[hostUsage], len(paths))
	over := make(chan struct{})
	timer := time.AfterFunc(patience, func() { close(over) })
	defer timer.Stop()
	for i, p := range paths {
		if !h.statfs.start(p, func() (hostUsage, error) { return h.usage(hostPathBelow(h.rootfs, p)) }) {
			answers[i].err = errHostStuck
		}
	}
	for i, p := range paths {
		if answers[i].err != nil {
			continue
		}
		a, ok := h.statfs.wait(p, over)
		if !ok {
			a.err = errHostStuck
		}
		answers[i] = a
	}
	return answers
}

func sendHostFilesystem(b *hostBatch, labels []string, u hostUsage, err error, readonly bool) {
	if err == nil && u.size <= 0 {
		return // no file system to speak of, as df has it
	}
	stuck := errors.Is(err, errHostStuck)
	b.send(hostFilesystemStuck, boolValue(stuck), labels)
	b.send(hostFilesystemError, boolValue(err != nil && !stuck), labels)
	b.send(hostFilesystemReadonly, boolValue(readonly), labels)
	if err != nil {
		return
	}
	b.send(hostFilesystemSize, u.size, labels)
	b.send(hostFilesystemFree, u.free, labels)
	b.send(hostFilesystemAvail, u.avail, labels)
	if u.files > 0 {
		b.send(hostFilesystemFiles, u.files, labels)
		b.send(hostFilesystemFilesFree, u.filesFree, labels)
	}
}

// hostConfigFiles hashes the configuration files. A file that has not changed is
// not read again.
type hostConfigFiles struct {
	globs  []string
	rootfs string
	known  map[string]hostConfigEntry
	call   hanging[[]hostConfigEntry]
}

// hostConfigEntry is one of them; sum is "" if it cannot be read or is too large.
type hostConfigEntry struct {
	path     string
	sum      string
	modified time.Time
	size     int64
	err      error
}

func (h *host) configFiles(ctx context.Context, b *hostBatch) error {
	const key = "config files"
	if !h.configs.call.start(key, h.configs.read) {
		return failf(ReasonTimeout, "host.config_files: %w", errHostStuck)
	}
	deadline, limited := ctx.Deadline()
	over := make(chan struct{})
	timer := time.AfterFunc(hangingPatience(h.patience, deadline, limited), func() { close(over) })
	defer timer.Stop()
	files, ok := h.configs.call.wait(key, over)
	if !ok {
		return failf(ReasonTimeout, "host.config_files: %w", errHostStuck)
	}
	failure := files.err
	for _, f := range files.value {
		b.send(hostConfigFileModified, float64(f.modified.UnixNano())/1e9, []string{cleanLabel(f.path)})
		if f.sum != "" {
			b.send(hostConfigFile, 1, []string{cleanLabel(f.path), f.sum})
		}
		failure = cmp.Or(failure, f.err)
	}
	if !h.namedFiles && !hostIsPanic(failure) {
		return nil
	}
	return failure
}

func hostIsPanic(err error) bool {
	var p *panicked
	return errors.As(err, &p)
}

// read looks at all files that match. It fails when a path without wildcards,
// or the directory of one with, is not there.
func (c *hostConfigFiles) read() ([]hostConfigEntry, error) {
	found := map[string]bool{}
	var failure error
	for _, g := range c.globs {
		matches, err := filepath.Glob(hostPathBelow(c.rootfs, g))
		if len(matches) == 0 {
			if at := strings.IndexAny(g, `*?[\`); at >= 0 {
				g = filepath.Dir(g[:at] + "x")
			}
			if _, missing := os.Stat(hostPathBelow(c.rootfs, g)); missing != nil {
				err = cmp.Or(err, missing)
			}
		}
		failure = cmp.Or(failure, err)
		for _, m := range matches {
			found[m] = true
		}
	}
	known := map[string]hostConfigEntry{}
	var files []hostConfigEntry
	for _, p := range slices.Sorted(maps.Keys(found)) {
		info, err := os.Stat(p)
		if err != nil || !info.Mode().IsRegular() || len(files) >= maxHostConfigFiles {
			continue
		}
		f := c.known[p]
		if f.path == "" || f.err != nil || !f.modified.Equal(info.ModTime()) || f.size != info.Size() {
			f = hostConfigEntry{path: strings.TrimPrefix(p, strings.TrimSuffix(c.rootfs, "/")), modified: info.ModTime(), size: info.Size()}
			f.sum, f.err = hostShortSum(p)
		}
		known[p] = f
		files = append(files, f)
	}
	c.known = known
	return files, failure
}

// hostShortSum returns the first 16 digits of the SHA-256 of a file's content, ""
// for a file over the cap. It does not wait for what turned into a pipe.
func hostShortSum(path string) (string, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return "", err
	}
	defer f.Close()
	sum := sha256.New()
	n, err := io.Copy(sum, io.LimitReader(f, maxHostConfigFile+1))
	if err != nil || n > maxHostConfigFile {
		return "", err
	}
	return hex.EncodeToString(sum.Sum(nil)[:8]), nil
}

// hostPathBelow returns where the machine's path is for the exporter.
func hostPathBelow(rootfs, path string) string {
	if rootfs == "/" {
		return path
	}
	return rootfs + path
}

// hostCleanPaths returns each path once and in its shortest form.
func hostCleanPaths(paths []string) []string {
	var clean []string
	for _, p := range paths {
		if p = filepath.Clean(p); !slices.Contains(clean, p) {
			clean = append(clean, p)
		}
	}
	return clean
}

func hostEqualPaths(a, b []string) bool { return slices.Equal(hostCleanPaths(a), hostCleanPaths(b)) }

// hostFirst returns the first error that is one.
func hostFirst(errs []error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
