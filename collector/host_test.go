// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/niodoo/niodoo_exporter/internal/config"
)

const hostTestProc = "testdata/host/proc"

// hostUsages are the file systems of the mount table in testdata.
var hostUsages = map[string]hostUsage{
	"/":                  {size: 100e9, free: 40e9, avail: 35e9, files: 6e6, filesFree: 5e6, device: hostDevice{8, 2}},
	"/opt/niodoo":        {size: 100e9, free: 40e9, avail: 35e9, files: 6e6, filesFree: 5e6, device: hostDevice{8, 2}},
	"/var/lib/redis":     {size: 100e9, free: 40e9, avail: 35e9, files: 6e6, filesFree: 5e6, device: hostDevice{8, 2}},
	"/link":              {size: 900e9, free: 300e9, avail: 300e9, files: 9e6, filesFree: 8e6, device: hostDevice{259, 2}},
	"/boot":              {size: 1e9, free: 5e8, avail: 4e8, files: 65536, filesFree: 65000, device: hostDevice{8, 1}},
	`/srv/my data\x`:     {size: 900e9, free: 300e9, avail: 300e9, files: 9e6, filesFree: 8e6, device: hostDevice{259, 2}},
	"/mnt/nfs":           {size: 5e12, free: 1e12, avail: 1e12, files: 1e9, filesFree: 9e8, device: hostDevice{0, 41}},
	"/home":              {size: 2e12, free: 1e12, avail: 9e11, device: hostDevice{0, 46}}, // a subvolume's number, and no fixed inodes
	"/home/x":            {size: 2e12, free: 1e12, avail: 9e11, device: hostDevice{0, 47}},
	"/mnt/fat":           {size: 1e9, free: 0, avail: 0, device: hostDevice{8, 17}},
	"/mnt/hidden":        {size: 7, device: hostDevice{8, 2}}, // not what the table says is mounted there
	"/mnt/empty":         {device: hostDevice{0, 60}},
	"/run/x":             {size: 1e6, free: 1e6, avail: 1e6, device: hostDevice{0, 24}},
	"/.snapshots":        {size: 1},
	"/opt/niodoo/models": {size: 1},
}

func hostTestUsage(path string) (hostUsage, error) {
	if path == "/mnt/broken" {
		return hostUsage{}, &fs.PathError{Op: "statfs", Path: path, Err: syscall.EIO}
	}
	u, ok := hostUsages[path]
	if !ok {
		return u, &fs.PathError{Op: "statfs", Path: path, Err: syscall.ENOENT}
	}
	return u, nil
}

// hostScraper returns a scraper of only the host, whose kernel is in testdata.
func hostScraper(t testing.TB, section string) (*Scraper, *host) {
	t.Helper()
	s := scraper(t, only(t, "host", section))
	h := s.units[0].collector.(*host)
	h.usage = hostTestUsage
	h.clock = func() (hostClock, bool) { return hostClock{synchronised: true, maxError: 0.25}, true }
	return s, h
}

// hostTree copies the procfs of testdata so that a test can break it.
func hostTree(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(hostTestProc)); err != nil {
		t.Fatal(err)
	}
	return dir
}

func hostWrite(t testing.TB, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func hostAbs(t testing.TB, path string) string {
	t.Helper()
	abs, err := filepath.Abs(path)
	if err != nil {
		t.Fatal(err)
	}
	return abs
}

func hostSection(t testing.TB, procfs, more string) string {
	return fmt.Sprintf("{procfs: %q%s}", hostAbs(t, procfs), more)
}

// hostAwait waits until the condition holds.
func hostAwait(t testing.TB, what string, condition func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !condition(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("no %s", what)
		}
	}
}

func TestHost(t *testing.T) {
	t.Parallel()
	s, _ := hostScraper(t, hostSection(t, hostTestProc, ""))
	res := scrape(t, s)
	golden(t, "host", res.Families)
	if len(res.Failures) > 0 {
		t.Error(res.Failures)
	}
	// The second scrape takes the mount table from memory.
	golden(t, "host", scrape(t, s).Families)
}

// The real machine: whatever it has, nothing fails and nothing is invalid.
func TestHostReal(t *testing.T) {
	t.Parallel()
	if _, err := os.Stat("/proc/stat"); err != nil {
		t.Skip("there is no procfs")
	}
	res := scrape(t, scraper(t, only(t, "host", "{}")))
	lint(t, res.Families)
	if len(res.Failures) > 0 {
		t.Error(res.Failures)
	}
	if strings.Contains(text(res.Families), scrapeDropped.Name+"{") {
		t.Errorf("series are left out:\n%s", text(res.Families))
	}
	if v := value(t, res.Families, "niodoo_host_memory_total_bytes"); v < 1<<20 {
		t.Errorf("memory is %v bytes", v)
	}
}

// df is the judge of how a file system is counted.
func TestHostUsageAsDF(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	out, err := exec.Command("df", "-B1", "--output=size,itotal", dir).Output()
	if err != nil {
		t.Skip("there is no df of coreutils: ", err)
	}
	f := strings.Fields(string(out))
	size, _ := strconv.ParseFloat(f[len(f)-2], 64)
	files, _ := strconv.ParseFloat(f[len(f)-1], 64)
	u, err := readHostUsage(dir)
	if err != nil || u.size != size || u.files != files {
		t.Errorf("size %v files %v, df has %v and %v (%v)", u.size, u.files, size, files, err)
	}
	if u.avail > u.free || u.free > u.size {
		t.Errorf("%+v", u)
	}
}

// A configured path stands for its mount, wherever a link leads; the first one
// for a mount that has several; and it is listed even on what is not real.
func TestHostPaths(t *testing.T) {
	t.Parallel()
	s, _ := hostScraper(t, hostSection(t, hostTestProc, ", paths: [/opt/niodoo, /var/lib/redis, /link, /home/x, /run/x]"))
	res := scrape(t, s)
	lint(t, res.Families)
	if len(res.Failures) > 0 {
		t.Error(res.Failures)
	}
	for path, want := range map[string]bool{
		"/opt/niodoo": true, "/": false, "/var/lib/redis": false, "/link": true, `/srv/my data\\x`: false,
		"/home/x": true, "/home": false, "/run/x": true, "/run": false, "/mnt/nfs": true,
	} {
		if _, ok := lookup(res.Families, `niodoo_host_filesystem_size_bytes{path="`+path+`"}`); ok != want {
			t.Errorf("%s is there: %v, want %v", path, ok, want)
		}
	}
}

// A default that is not there is nobody's fault; what the file names is.
func TestHostMissingPath(t *testing.T) {
	t.Parallel()
	s, h := hostScraper(t, hostSection(t, hostTestProc, ""))
	h.usage = func(p string) (hostUsage, error) {
		if p == "/opt/niodoo" {
			return hostUsage{}, &fs.PathError{Op: "statfs", Path: p, Err: syscall.ENOENT}
		}
		return hostTestUsage(p)
	}
	res := scrape(t, s)
	if len(res.Failures) > 0 {
		t.Error(res.Failures)
	}
	value(t, res.Families, `niodoo_host_filesystem_size_bytes{path="/"}`)

	s, _ = hostScraper(t, hostSection(t, hostTestProc, ", paths: [/data]"))
	res = expectFailureOf(t, s, "host", false, ReasonNotFound, 2*time.Second)
	value(t, res.Families, `niodoo_host_filesystem_size_bytes{path="/"}`)

	s, h = hostScraper(t, hostSection(t, hostTestProc, ", paths: [/data]"))
	h.usage = func(p string) (hostUsage, error) {
		if p == "/data" {
			return hostUsage{}, &fs.PathError{Op: "statfs", Path: p, Err: syscall.EACCES}
		}
		return hostTestUsage(p)
	}
	res = expectFailureOf(t, s, "host", false, ReasonPermission, 2*time.Second)
	value(t, res.Families, `niodoo_host_filesystem_size_bytes{path="/"}`)
	if v := value(t, res.Families, `niodoo_host_filesystem_error{path="/data"}`); v != 1 {
		t.Errorf("error is %v", v)
	}
}

// A configured path that is itself a mount, or is named twice, is one series
// when it fails, too.
func TestHostBrokenPath(t *testing.T) {
	t.Parallel()
	s, _ := hostScraper(t, hostSection(t, hostTestProc, ", paths: [/mnt/broken, /mnt/broken/, /opt/niodoo]"))
	res := expectFailureOf(t, s, "host", false, ReasonOther, 2*time.Second)
	if v := value(t, res.Families, `niodoo_host_filesystem_error{path="/mnt/broken"}`); v != 1 {
		t.Errorf("error is %v", v)
	}
	if strings.Contains(text(res.Families), scrapeDropped.Name+"{") {
		t.Error("a series is sent twice")
	}
}

// A path on a mount that the exporter cannot see must not be given the figures
// of what it sees there instead: a container without mount propagation.
func TestHostHiddenPath(t *testing.T) {
	t.Parallel()
	s, _ := hostScraper(t, hostSection(t, hostTestProc, ", paths: [/mnt/hidden]"))
	res := expectFailureOf(t, s, "host", false, ReasonOther, 2*time.Second)
	if _, ok := lookup(res.Families, `niodoo_host_filesystem_size_bytes{path="/mnt/hidden"}`); ok {
		t.Error("the size of another file system is exported")
	}
	value(t, res.Families, `niodoo_host_filesystem_size_bytes{path="/"}`)
}

// NFS without its server: the scrape goes on without it, nobody asks twice,
// and its figures come back with the server.
func TestHostStuckMount(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		paths, label string
		fails        bool
	}{
		"mount":           {", paths: [/opt/niodoo]", "/mnt/nfs", false},
		"configured path": {", paths: [/mnt/nfs/deep]", "/mnt/nfs/deep", true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, h := hostScraper(t, hostSection(t, hostTestProc, c.paths))
			h.patience = 50 * time.Millisecond
			var asked atomic.Int32
			server := make(chan struct{})
			h.usage = func(p string) (hostUsage, error) {
				if strings.HasPrefix(p, "/mnt/nfs") {
					asked.Add(1)
					<-server
					return hostUsages["/mnt/nfs"], nil
				}
				return hostTestUsage(p)
			}
			for range 3 {
				res := scrape(t, s)
				lint(t, res.Families)
				if v := value(t, res.Families, `niodoo_host_filesystem_stuck{path="`+c.label+`"}`); v != 1 {
					t.Errorf("stuck is %v", v)
				}
				if _, ok := lookup(res.Families, `niodoo_host_filesystem_size_bytes{path="`+c.label+`"}`); ok {
					t.Error("a stuck mount has a size")
				}
				value(t, res.Families, `niodoo_host_filesystem_size_bytes{path="/boot"}`)
				switch {
				case !c.fails && len(res.Failures) > 0, c.fails && (len(res.Failures) != 1 || res.Failures[0].Reason != ReasonTimeout):
					t.Errorf("failures: %v", res.Failures)
				}
			}
			if n := asked.Load(); n != 1 {
				t.Errorf("the mount was asked %d times", n)
			}
			close(server)
			hostAwait(t, "recovery", func() bool {
				v, ok := lookup(scrape(t, s).Families, `niodoo_host_filesystem_size_bytes{path="`+c.label+`"}`)
				return ok && v == 5e12
			})
		})
	}
}

// The patience leaves time for the rest, however short the collector's own.
func TestHostStuckMountShortTimeout(t *testing.T) {
	t.Parallel()
	s, h := hostScraper(t, hostSection(t, hostTestProc, ", timeout: 300ms"))
	server := make(chan struct{})
	t.Cleanup(func() { close(server) })
	h.usage = func(p string) (hostUsage, error) {
		if p == "/mnt/nfs" {
			<-server
		}
		return hostTestUsage(p)
	}
	if res := scrape(t, s); len(res.Failures) > 0 {
		t.Error(res.Failures)
	}
}

// In a container the machine is below /host: paths are the machine's.
func TestHostContainer(t *testing.T) {
	t.Parallel()
	s, h := hostScraper(t, hostSection(t, hostTestProc, ", rootfs: /host/rootfs"))
	h.usage = func(p string) (hostUsage, error) {
		rest, ok := strings.CutPrefix(p, "/host/rootfs")
		if !ok {
			return hostUsage{}, errors.New("not below the root: " + p)
		}
		return hostTestUsage(rest)
	}
	golden(t, "host", scrape(t, s).Families) // the very same
}

// Without the machine's process 1 the container's own table serves, in which
// the machine's mounts are below /host/rootfs; its network is not the machine's.
func TestHostContainerOwnTable(t *testing.T) {
	t.Parallel()
	proc := hostTree(t)
	if err := os.Rename(proc+"/1", proc+"/self"); err != nil {
		t.Fatal(err)
	}
	hostWrite(t, proc+"/self/mountinfo", `100 1 0:70 / / rw - overlay overlay rw
101 100 8:2 / /host/rootfs ro - ext4 /dev/sda2 rw
102 101 8:1 / /host/rootfs/boot ro - ext4 /dev/sda1 rw
103 100 8:2 /var/lib/docker/containers/x/hosts /etc/hosts rw - ext4 /dev/sda2 rw
`)
	if err := os.Rename(proc+"/self/net", proc+"/net"); err != nil {
		t.Fatal(err)
	}
	for rootfs, network := range map[string]bool{"/host/rootfs": false, "/": true} {
		s, h := hostScraper(t, hostSection(t, proc, ", rootfs: "+rootfs))
		h.usage = func(p string) (hostUsage, error) { return hostTestUsage(strings.TrimPrefix(p, "/host/rootfs")) }
		res := scrape(t, s)
		if _, ok := lookup(res.Families, `niodoo_host_network_receive_bytes_total{device="eth0"}`); ok != network {
			t.Errorf("rootfs %s: network is there: %v", rootfs, ok)
		}
		if rootfs == "/" {
			continue
		}
		value(t, res.Families, `niodoo_host_filesystem_size_bytes{path="/opt/niodoo"}`)
		value(t, res.Families, `niodoo_host_filesystem_size_bytes{path="/boot"}`)
		if out := text(res.Families); strings.Contains(out, "/etc/hosts") || strings.Contains(out, `path="/host`) {
			t.Error(out)
		}
	}
}

// What an old kernel does not have is absent, and no failure.
func TestHostOldKernel(t *testing.T) {
	t.Parallel()
	proc := hostTree(t)
	for _, f := range []string{"pressure", "vmstat", "diskstats"} {
		if err := os.RemoveAll(filepath.Join(proc, f)); err != nil {
			t.Fatal(err)
		}
	}
	hostWrite(t, proc+"/meminfo", "MemTotal:        1024 kB\nMemFree:          10 kB\n")
	hostWrite(t, proc+"/stat", "cpu  1 2 3 4\ncpu0 1 2 3 4\nbtime 1\n")
	s, h := hostScraper(t, hostSection(t, proc, ""))
	h.clock = func() (hostClock, bool) { return hostClock{}, false }
	res := scrape(t, s)
	if len(res.Failures) > 0 {
		t.Error(res.Failures)
	}
	out := text(res.Families)
	for _, d := range []*Desc{hostPressureWaiting, hostPressureStalled, hostOOMKills, hostDiskRead, hostMemoryAvailable, hostSwapTotal, hostClockSynchronised} {
		if strings.Contains(out, d.Name) {
			t.Errorf("%s is exported", d.Name)
		}
	}
	if strings.Contains(out, `mode="iowait"`) {
		t.Error("a mode the kernel does not count is exported")
	}
}

// The kernel takes some ticks of iowait back: Prometheus would read a reset.
func TestHostCPUGoesBackwards(t *testing.T) {
	t.Parallel()
	proc := hostTree(t)
	s, _ := hostScraper(t, hostSection(t, proc, ""))
	const iowait = `niodoo_host_cpu_seconds_total{mode="iowait"}`
	for _, step := range []struct {
		ticks int
		want  float64
	}{{1000, 10}, {990, 10}, {1005, 10.05}, {100, 1}} {
		hostWrite(t, proc+"/stat", fmt.Sprintf("cpu  1 2 3 4 %d 0 0 0 0 0\n", step.ticks))
		if v := value(t, scrape(t, s).Families, iowait); v != step.want {
			t.Errorf("%d ticks are %v s, want %v", step.ticks, v, step.want)
		}
	}
}

// Changes of the mount table are seen, above all a turn to read-only.
func TestHostRemount(t *testing.T) {
	t.Parallel()
	proc := hostTree(t)
	s, _ := hostScraper(t, hostSection(t, proc, ""))
	const readonly = `niodoo_host_filesystem_readonly{path="/opt/niodoo"}`
	if v := value(t, scrape(t, s).Families, readonly); v != 0 {
		t.Errorf("readonly is %v", v)
	}
	raw, err := os.ReadFile(proc + "/1/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	hostWrite(t, proc+"/1/mountinfo", strings.Replace(string(raw), "/dev/sda2 rw,errors", "/dev/sda2 ro,errors", 1))
	if v := value(t, scrape(t, s).Families, readonly); v != 1 {
		t.Errorf("readonly is %v after an error", v)
	}
}

func TestHostFailures(t *testing.T) {
	t.Parallel()
	t.Run("no procfs where the file says", func(t *testing.T) {
		t.Parallel()
		expectFailure(t, only(t, "host", fmt.Sprintf("{procfs: %q}", t.TempDir()+"/proc")), "host", false, ReasonNotFound)
	})
	t.Run("no procfs at all", func(t *testing.T) {
		t.Parallel()
		s, h := hostScraper(t, "{}")
		h.procfs = t.TempDir()
		if res := scrape(t, s); len(res.Failures) > 0 || value(t, res.Families, `niodoo_scrape_collector_series{collector="host"}`) != 0 {
			t.Errorf("not idle: %v\n%s", res.Failures, text(res.Families))
		}
	})
	t.Run("unreadable", func(t *testing.T) {
		t.Parallel()
		if os.Getuid() == 0 {
			t.Skip("root may read everything")
		}
		proc := hostTree(t)
		if err := os.Chmod(proc+"/meminfo", 0); err != nil {
			t.Fatal(err)
		}
		s, _ := hostScraper(t, hostSection(t, proc, ""))
		expectFailureOf(t, s, "host", false, ReasonPermission, 2*time.Second)
	})
	t.Run("a loop of links", func(t *testing.T) {
		t.Parallel()
		proc := hostTree(t)
		if err := errors.Join(os.Remove(proc+"/meminfo"), os.Symlink("meminfo", proc+"/meminfo")); err != nil {
			t.Fatal(err)
		}
		s, _ := hostScraper(t, hostSection(t, proc, ""))
		expectFailureOf(t, s, "host", false, ReasonOther, 2*time.Second)
	})
	for file, garbage := range map[string]string{
		"stat": "cpu  1 2 x 4\n", "meminfo": "MemTotal: many kB\n", "loadavg": "0.1\n", "vmstat": "a 1\noom_kill -1\n",
		"sys/fs/file-nr": "1 2\n", "pressure/io": "some avg10=0.00\n", "diskstats": "8 0 sda 1 2 3 4 5 6 7 8 9 10 x x x\n8 1 sdb 1 2 z 4 5 6 7 8 9 10 11\n",
		"1/net/dev": "eth0: 1 2 3\n", "1/mountinfo": "what\n",
	} {
		t.Run(file, func(t *testing.T) {
			t.Parallel()
			proc := hostTree(t)
			hostWrite(t, filepath.Join(proc, file), garbage)
			s, _ := hostScraper(t, hostSection(t, proc, ""))
			res := expectFailureOf(t, s, "host", false, ReasonParse, 2*time.Second)
			if file != "loadavg" { // the others are exported
				value(t, res.Families, "niodoo_host_load1")
			}
		})
	}
	t.Run("no cpu line", func(t *testing.T) {
		t.Parallel()
		proc := hostTree(t)
		hostWrite(t, proc+"/stat", "")
		s, _ := hostScraper(t, hostSection(t, proc, ""))
		expectFailureOf(t, s, "host", false, ReasonParse, 2*time.Second)
	})
	t.Run("too large", func(t *testing.T) {
		t.Parallel()
		proc := hostTree(t)
		hostWrite(t, proc+"/1/mountinfo", strings.Repeat(" ", maxProcFile+1))
		s, _ := hostScraper(t, hostSection(t, proc, ""))
		expectFailureOf(t, s, "host", false, ReasonTooLarge, 2*time.Second)
	})
	t.Run("panic beside the scrape", func(t *testing.T) {
		t.Parallel()
		s, h := hostScraper(t, hostSection(t, hostTestProc, ""))
		h.usage = func(p string) (hostUsage, error) {
			if p == "/opt/niodoo" {
				panic("oops")
			}
			return hostTestUsage(p)
		}
		expectFailureOf(t, s, "host", false, ReasonPanic, 2*time.Second)
	})
}

// No device of a machine with thousands escapes the bounds.
func TestHostBounds(t *testing.T) {
	t.Parallel()
	proc := hostTree(t)
	var net, disks, mounts strings.Builder
	for i := range 5000 {
		fmt.Fprintf(&net, "eth%d: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n", i)
		fmt.Fprintf(&disks, "8 %d sd%s 1 2 3 4 5 6 7 8 9 10 11\n", i, strings.Repeat("a", i%200+1))
		fmt.Fprintf(&mounts, "%d 1 8:%d / /m%d rw - ext4 /dev/x rw\n", i, i, i)
	}
	hostWrite(t, proc+"/1/net/dev", net.String())
	hostWrite(t, proc+"/diskstats", disks.String())
	hostWrite(t, proc+"/1/mountinfo", mounts.String())
	s, h := hostScraper(t, hostSection(t, proc, ""))
	h.usage = func(string) (hostUsage, error) { return hostUsage{}, syscall.EIO }
	res := scrape(t, s)
	if v := value(t, res.Families, `niodoo_scrape_collector_series{collector="host"}`); v > DefaultMaxSeries {
		t.Errorf("%v series", v)
	}
	if _, ok := lookup(res.Families, `niodoo_scrape_collector_series_dropped{collector="host",reason="limit"}`); ok {
		t.Error("the runner had to cut the series")
	}
}

func TestHostConfigFiles(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	dir := root + "/etc/niodoo"
	hostWrite(t, dir+"/engine.toml", "a = 1\n")
	hostWrite(t, dir+"/big.bin", strings.Repeat("x", maxHostConfigFile+1))
	hostWrite(t, dir+"/sub/not.toml", "")
	if err := syscall.Mkfifo(dir+"/pipe", 0o644); err != nil {
		t.Fatal(err)
	}
	stamp := time.Unix(1700000000, 500e6)
	for _, f := range []string{"engine.toml", "big.bin"} {
		if err := os.Chtimes(dir+"/"+f, stamp, stamp); err != nil {
			t.Fatal(err)
		}
	}
	section := hostSection(t, hostTestProc, fmt.Sprintf(", rootfs: %q, config_files: [/etc/niodoo/*]", root))
	s, h := hostScraper(t, section)
	h.usage = func(p string) (hostUsage, error) {
		return hostTestUsage("/" + strings.TrimPrefix(strings.TrimPrefix(p, root), "/"))
	}
	res := scrape(t, s)
	lint(t, res.Families)
	if len(res.Failures) > 0 {
		t.Error(res.Failures)
	}
	const info = `niodoo_host_config_file_info{path="/etc/niodoo/engine.toml",sha256="%s"}`
	value(t, res.Families, fmt.Sprintf(info, "cb78bd8a17f7b751"))
	for _, f := range []string{"engine.toml", "big.bin"} {
		if v := value(t, res.Families, `niodoo_host_config_file_modified_timestamp_seconds{path="/etc/niodoo/`+f+`"}`); v != 1700000000.5 {
			t.Errorf("%s was changed at %v", f, v)
		}
	}
	if out := text(res.Families); strings.Count(out, "\nniodoo_host_config_file_info{") != 1 || strings.Contains(out, "pipe") || strings.Contains(out, "/sub") {
		t.Error(out)
	}

	hostWrite(t, dir+"/engine.toml", "a = 22\n")
	res = scrape(t, s)
	if _, ok := lookup(res.Families, fmt.Sprintf(info, "cb78bd8a17f7b751")); ok {
		t.Error("the change is not seen")
	}

	for name, glob := range map[string]string{"file": "/etc/niodoo/missing.toml", "directory": "/etc/other/*.toml"} {
		s, h := hostScraper(t, hostSection(t, hostTestProc, fmt.Sprintf(", rootfs: %q, config_files: [%s]", root, glob)))
		h.usage = func(p string) (hostUsage, error) {
			return hostTestUsage("/" + strings.TrimPrefix(strings.TrimPrefix(p, root), "/"))
		}
		t.Log("missing", name)
		expectFailureOf(t, s, "host", false, ReasonNotFound, 2*time.Second)
	}
}

func TestHostUnescape(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		`/plain`: "/plain", `/a\040b`: "/a b", `/tab\011`: "/tab\t", `/back\134slash`: `/back\slash`, `/end\04`: `/end\04`, `/no\999`: `/no\999`, `\`: `\`,
	} {
		if got := unescapeHostMount(in); got != want {
			t.Errorf("%q is %q, want %q", in, got, want)
		}
	}
}

// FuzzHost holds that no text of a kernel, or of what stands in for one, makes
// a parser panic or send what the runner would refuse.
func FuzzHost(f *testing.F) {
	files := append([]hostProcFile{hostNetworkFile, hostMountFile}, hostProcFiles...)
	for i, p := range files {
		raw, err := os.ReadFile(hostTestProc + "/" + p.paths[0])
		if err != nil {
			f.Fatal(err)
		}
		f.Add(i, raw)
	}
	f.Fuzz(func(t *testing.T, file int, raw []byte) {
		if file < 0 || file >= len(files) {
			t.Skip()
		}
		h := &host{rootfs: "/", names: map[string][]string{}}
		ch := make(chan prometheus.Metric, 10_000)
		_ = files[file].parse(h, &hostBatch{ch: ch}, raw)
		for len(ch) > 0 {
			s, err := adopt(<-ch)
			if err != nil {
				t.Fatal(err)
			}
			for _, v := range s.values {
				if len(v) > maxLabelValue || !utf8.ValidString(v) {
					t.Fatalf("label %q", v)
				}
			}
			if s.value < 0 || math.IsNaN(s.value) {
				t.Fatalf("%s is %v", s.desc.Name, s.value)
			}
		}
	})
}

// BenchmarkHost measures one scrape of this machine, without the runner. The
// wall time is that of a busy machine; cpu-ns/op is what it costs.
func BenchmarkHost(b *testing.B) {
	c, err := newHost(config.Default(), Deps{}.withDefaults())
	if err != nil {
		b.Fatal(err)
	}
	ch := make(chan prometheus.Metric, 4096)
	b.ReportAllocs()
	before := hostCPUTime(b)
	for b.Loop() {
		if err := c.Update(context.Background(), ch); err != nil {
			b.Fatal(err)
		}
		for len(ch) > 0 {
			<-ch
		}
	}
	b.ReportMetric(float64(hostCPUTime(b)-before)/float64(b.N), "cpu-ns/op")
}

func hostCPUTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
