// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/niodoo/niodoo_exporter/internal/config"
)

func init() { register("host", newHost) }

var (
	hostCPUSeconds = counter("host", "host_cpu_seconds_total",
		"Time the CPUs spent in each mode, summed over all of them; guests are inside user and nice",
		"/proc/stat cpu", "mode")
	hostCPUs = gauge("host", "host_cpus",
		"Number of CPUs that are online", "/proc/stat cpu0 and on")
	hostBootTime = gauge("host", "host_boot_time_seconds",
		"Time at which the machine was booted, since the epoch", "/proc/stat btime")
	hostProcesses = gauge("host", "host_processes",
		"Number of processes that run or wait for a CPU (running) or for the disk (blocked)",
		"/proc/stat procs_running, procs_blocked", "state")

	hostMemoryTotal = gauge("host", "host_memory_total_bytes",
		"Memory the kernel has", "/proc/meminfo MemTotal")
	hostMemoryAvailable = gauge("host", "host_memory_available_bytes",
		"Memory that can be had without swapping; usage is 1 - available / total, as free of procps 4 has it",
		"/proc/meminfo MemAvailable").absent("on kernels before 3.14")
	hostSwapTotal = gauge("host", "host_swap_total_bytes",
		"Size of the swap space", "/proc/meminfo SwapTotal").absent("on kernels without swap")
	hostSwapFree = gauge("host", "host_swap_free_bytes",
		"Swap space that is not in use", "/proc/meminfo SwapFree").absent("on kernels without swap")
	hostOOMKills = counter("host", "host_oom_kills_total",
		"Number of processes the kernel has killed for want of memory", "/proc/vmstat oom_kill").
		absent("on kernels before 4.13")

	hostLoad1 = gauge("host", "host_load1",
		"Average number of processes running or waiting, last minute", "/proc/loadavg")
	hostLoad5 = gauge("host", "host_load5",
		"Average number of processes running or waiting, last 5 minutes", "/proc/loadavg")
	hostLoad15 = gauge("host", "host_load15",
		"Average number of processes running or waiting, last 15 minutes", "/proc/loadavg")

	hostPressureWaiting = counter("host", "host_pressure_waiting_seconds_total",
		"Time in which at least one process waited for the resource", "/proc/pressure/* some", "resource").
		absent("on kernels without pressure stall information")
	hostPressureStalled = counter("host", "host_pressure_stalled_seconds_total",
		"Time in which all processes at once waited for the resource", "/proc/pressure/* full", "resource").
		absent("on kernels without pressure stall information")

	hostFileHandles = gauge("host", "host_file_handles",
		"Number of file handles the kernel has allocated", "/proc/sys/fs/file-nr first field")
	hostFileHandlesMax = gauge("host", "host_file_handles_max",
		"Number of file handles the kernel allocates at most", "/proc/sys/fs/file-nr third field")

	hostClockSynchronised = gauge("host", "host_clock_synchronised",
		"Whether something keeps the kernel's clock right", "adjtimex STA_UNSYNC").
		absent("where the kernel or a sandbox refuses adjtimex")
	hostClockMaxError = gauge("host", "host_clock_max_error_seconds",
		"How far the clock may be off; it grows while nothing keeps it right", "adjtimex maxerror").
		absent("where the kernel or a sandbox refuses adjtimex")

	hostDiskRead = counter("host", "host_disk_read_bytes_total",
		"Bytes read from the disk; partitions and logical devices (dm, md, loop, ram) are left out, as their disks count the same bytes",
		"/proc/diskstats field 6 × 512", "device").absent("where no disk is visible")
	hostDiskWritten = counter("host", "host_disk_written_bytes_total",
		"Bytes written to the disk", "/proc/diskstats field 10 × 512", "device").absent("where no disk is visible")
	hostDiskBusy = counter("host", "host_disk_busy_seconds_total",
		"Time in which the disk had something to do", "/proc/diskstats field 13", "device").absent("where no disk is visible")
)

// hostNetworkFields are the columns of /proc/net/dev after the device's name.
var hostNetworkFields = []struct {
	column int
	desc   *Desc
}{
	{0, hostNetworkCounter("receive_bytes", "Bytes received by the device; virtual devices are left out, as physical ones count the same bytes")},
	{1, hostNetworkCounter("receive_packets", "Packets received by the device")},
	{2, hostNetworkCounter("receive_errors", "Errors in receiving, as the device's driver counts them")},
	{3, hostNetworkCounter("receive_drops", "Packets received and dropped")},
	{8, hostNetworkCounter("transmit_bytes", "Bytes sent by the device")},
	{9, hostNetworkCounter("transmit_packets", "Packets sent by the device")},
	{10, hostNetworkCounter("transmit_errors", "Errors in sending, as the device's driver counts them")},
	{11, hostNetworkCounter("transmit_drops", "Packets dropped instead of sent")},
}

func hostNetworkCounter(name, help string) *Desc {
	direction, what, _ := strings.Cut(name, "_")
	return counter("host", "host_network_"+name+"_total", help, "/proc/1/net/dev "+direction+" "+what, "device").
		absent("where no network device but virtual ones is visible")
}

const (
	// maxProcFile bounds a file of procfs, in bytes: a host with thousands of
	// containers has a mount table of a megabyte.
	maxProcFile = 8 << 20
	// maxHostDevices bounds the disks, and the network devices, that are exported.
	maxHostDevices = 64
	// maxHostNames bounds the memory of device names.
	maxHostNames = 1024
	// hostUserHZ is the unit of /proc/stat; it is 100 on every architecture Go runs on.
	hostUserHZ = 100
	// hostSectorSize is the unit of /proc/diskstats whatever the disk's own is.
	hostSectorSize = 512
	// hostCPUJumpBack is how far a CPU counter may go backwards, in seconds, before
	// it is taken for a true reset. The kernel takes iowait and idle back by some
	// ticks; Prometheus would read a reset and count the whole sum once more.
	hostCPUJumpBack = 3
)

// host reads the machine's own figures from procfs and asks the kernel about
// mounts. It runs on every scrape, so it parses by hand into memory it keeps:
// a scrape costs a handful of allocations beside the samples themselves.
type host struct {
	procfs, rootfs string
	paths          []string
	// namedProcFS, namedPaths and namedFiles say that the file names other
	// paths than the defaults: then they must exist.
	namedProcFS, namedPaths, namedFiles bool

	usage    func(path string) (hostUsage, error) // may hang
	clock    func() (hostClock, bool)
	patience time.Duration

	buf    []byte
	sent   int // samples of the last scrape
	fields [][]byte
	names  map[string][]string // device name -> its label values
	cpu    [8]float64          // the last values, see hostCPUJumpBack

	mounts  hostMountTable
	statfs  hanging[hostUsage]
	configs hostConfigFiles
}

// hostClock is the state of the kernel's clock.
type hostClock struct {
	synchronised bool
	maxError     float64 // seconds
}

func newHost(cfg *config.Config, _ Deps) (Collector, error) {
	def := config.Default().Host
	c := cfg.Host
	return &host{
		procfs: filepath.Clean(c.ProcFS), rootfs: filepath.Clean(c.RootFS), paths: hostCleanPaths(c.Paths),
		namedProcFS: c.ProcFS != def.ProcFS,
		namedPaths:  !hostEqualPaths(c.Paths, def.Paths),
		namedFiles:  !hostEqualPaths(c.ConfigFiles, def.ConfigFiles),
		usage:       readHostUsage, clock: readHostClock, patience: time.Second,
		names:   map[string][]string{},
		configs: hostConfigFiles{globs: c.ConfigFiles, rootfs: filepath.Clean(c.RootFS)},
	}, nil
}

// hostProcFile is a file of procfs and what reads it. Where there are several
// paths the first that can be read is taken.
type hostProcFile struct {
	paths []string
	parse func(h *host, b *hostBatch, data []byte) error
	// needed files must be there; without any other the kernel is too old or was built without.
	needed bool
}

// The process 1 sees the machine's own mounts and network devices, while the
// exporter may run in namespaces of its own (systemd's ProtectSystem, a
// container with the host's /proc mounted).
var (
	hostProcFiles = []hostProcFile{
		{paths: []string{"stat"}, parse: (*host).parseStat, needed: true},
		{paths: []string{"meminfo"}, parse: (*host).parseMeminfo},
		{paths: []string{"loadavg"}, parse: (*host).parseLoadavg},
		{paths: []string{"vmstat"}, parse: (*host).parseVMStat},
		{paths: []string{"sys/fs/file-nr"}, parse: (*host).parseFileNr},
		{paths: []string{"pressure/cpu"}, parse: hostPressure("cpu", true, false)}, // full is always 0: some process has the CPU
		{paths: []string{"pressure/memory"}, parse: hostPressure("memory", true, true)},
		{paths: []string{"pressure/io"}, parse: hostPressure("io", true, true)},
		{paths: []string{"diskstats"}, parse: (*host).parseDiskstats},
	}
	hostNetworkFile = hostProcFile{paths: []string{"1/net/dev", "net/dev"}, parse: (*host).parseNetDev}
	// hostNetworkFileBelowRoot does not fall back: net/dev below another root's procfs
	// is the exporter's own network.
	hostNetworkFileBelowRoot = hostProcFile{paths: []string{"1/net/dev"}, parse: (*host).parseNetDev}
	hostMountFile            = hostProcFile{paths: []string{"1/mountinfo", "self/mountinfo"}, parse: (*host).parseMounts}
)

// Update implements [Collector]. Parts fail on their own: the first failure is
// returned after everything else has been exported.
func (h *host) Update(ctx context.Context, ch chan<- prometheus.Metric) error {
	b := &hostBatch{ch: ch, slab: make([]sample, 0, h.sent+8)}
	var failures []error
	for i, f := range hostProcFiles {
		err := h.read(f, b)
		if i == 0 && errors.Is(err, fs.ErrNotExist) {
			if h.namedProcFS {
				return err
			}
			return nil // no procfs here, and nobody said that there is
		}
		failures = append(failures, err)
	}
	network := hostNetworkFile
	if h.rootfs != "/" {
		network = hostNetworkFileBelowRoot
	}
	failures = append(failures, h.read(network, b), h.read(hostMountFile, b), h.filesystems(ctx, b), h.configFiles(ctx, b))
	if c, ok := h.clock(); ok {
		b.send(hostClockSynchronised, boolValue(c.synchronised), nil)
		b.send(hostClockMaxError, c.maxError, nil)
	}
	h.sent = b.sent
	return hostFirst(failures)
}

// read reads and parses the first of the paths that can be read.
func (h *host) read(f hostProcFile, b *hostBatch) error {
	var refused error
	for _, p := range f.paths {
		data, err := readSmallFile(h.procfs+"/"+p, h.buf)
		h.buf = data
		switch {
		case err == nil:
			if err := f.parse(h, b, data); err != nil {
				return failf(ReasonParse, "%s/%s: %w", h.procfs, p, err)
			}
			return nil
		case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.EOPNOTSUPP), errors.Is(err, syscall.ESRCH):
			if f.needed {
				return err
			}
		default:
			if refused == nil {
				refused = err
			}
		}
	}
	return refused
}

// hostBatch sends samples. It takes the memory for many at once.
type hostBatch struct {
	ch   chan<- prometheus.Metric
	slab []sample
	sent int
}

// send sends a sample. values are kept and must not change any more.
func (b *hostBatch) send(d *Desc, v float64, values []string) {
	if len(b.slab) == cap(b.slab) {
		b.slab = make([]sample, 0, 64)
	}
	b.slab = append(b.slab, sample{desc: d, values: values, value: v})
	b.sent++
	b.ch <- &b.slab[len(b.slab)-1]
}

// label returns a device's label values. They are made once per name.
func (h *host) label(name []byte) []string {
	if l, ok := h.names[string(name)]; ok {
		return l
	}
	if len(h.names) >= maxHostNames {
		clear(h.names)
	}
	l := []string{cleanLabel(string(name))}
	h.names[string(name)] = l
	return l
}

// hostCPUModes are the first columns of /proc/stat; guest and guest_nice after
// them are already inside user and nice.
var hostCPUModes = [8][]string{{"user"}, {"nice"}, {"system"}, {"idle"}, {"iowait"}, {"irq"}, {"softirq"}, {"steal"}}

var (
	hostRunning = []string{"running"}
	hostBlocked = []string{"blocked"}
)

func (h *host) parseStat(b *hostBatch, data []byte) error {
	cpus, sum := 0, false
	for len(data) > 0 {
		var line []byte
		line, data = hostLine(data)
		if rest, ok := bytes.CutPrefix(line, []byte("cpu")); ok {
			if len(rest) > 0 && rest[0] != ' ' {
				cpus++
				continue
			}
			sum = true
			h.fields = hostFields(h.fields[:0], rest)
			for i, f := range h.fields[:min(len(h.fields), len(hostCPUModes))] {
				ticks, err := hostNumber(f)
				if err != nil {
					return err
				}
				v := ticks / hostUserHZ
				if v < h.cpu[i] && h.cpu[i]-v < hostCPUJumpBack {
					v = h.cpu[i]
				}
				h.cpu[i] = v
				b.send(hostCPUSeconds, v, hostCPUModes[i])
			}
			continue
		}
		key, rest, _ := bytes.Cut(line, []byte(" "))
		var desc *Desc
		var labels []string
		switch string(key) {
		case "btime":
			desc = hostBootTime
		case "procs_running":
			desc, labels = hostProcesses, hostRunning
		case "procs_blocked":
			desc, labels = hostProcesses, hostBlocked
		default:
			continue
		}
		v, err := hostNumber(rest)
		if err != nil {
			return err
		}
		b.send(desc, v, labels)
	}
	if !sum {
		return errors.New("there is no line cpu")
	}
	if cpus > 0 {
		b.send(hostCPUs, float64(cpus), nil)
	}
	return nil
}

func (h *host) parseMeminfo(b *hostBatch, data []byte) error {
	total := false
	for len(data) > 0 {
		var line []byte
		line, data = hostLine(data)
		key, rest, _ := bytes.Cut(line, []byte(":"))
		var desc *Desc
		switch string(key) {
		case "MemTotal":
			desc, total = hostMemoryTotal, true
		case "MemAvailable":
			desc = hostMemoryAvailable
		case "SwapTotal":
			desc = hostSwapTotal
		case "SwapFree":
			desc, data = hostSwapFree, nil // the last one we want
		default:
			continue
		}
		v, err := hostNumber(bytes.TrimSuffix(rest, []byte(" kB")))
		if err != nil {
			return err
		}
		b.send(desc, v*1024, nil)
	}
	if !total {
		return errors.New("there is no line MemTotal")
	}
	return nil
}

func (h *host) parseLoadavg(b *hostBatch, data []byte) error {
	h.fields = hostFields(h.fields[:0], data)
	if len(h.fields) < 3 {
		return errors.New("there are fewer than three fields")
	}
	for i, d := range [...]*Desc{hostLoad1, hostLoad5, hostLoad15} {
		v, err := strconv.ParseFloat(string(h.fields[i]), 64)
		if err != nil || !(v >= 0) || math.IsInf(v, 0) {
			return fmt.Errorf("%q is not a load", h.fields[i])
		}
		b.send(d, v, nil)
	}
	return nil
}

func (h *host) parseVMStat(b *hostBatch, data []byte) error {
	_, rest, ok := bytes.Cut(data, []byte("\noom_kill "))
	if !ok {
		return nil
	}
	line, _ := hostLine(rest)
	v, err := hostNumber(line)
	if err == nil {
		b.send(hostOOMKills, v, nil)
	}
	return err
}

func (h *host) parseFileNr(b *hostBatch, data []byte) error {
	h.fields = hostFields(h.fields[:0], data)
	if len(h.fields) < 3 {
		return errors.New("there are fewer than three fields")
	}
	allocated, err := hostNumber(h.fields[0])
	if err != nil {
		return err
	}
	most, err := hostNumber(h.fields[2])
	if err != nil {
		return err
	}
	b.send(hostFileHandles, allocated, nil)
	b.send(hostFileHandlesMax, most, nil)
	return nil
}

// hostPressure parses a file such as
//
//	some avg10=0.83 avg60=1.03 avg300=1.85 total=198927852
//
// whose total is in microseconds.
func hostPressure(resource string, some, full bool) func(*host, *hostBatch, []byte) error {
	labels := []string{resource}
	return func(_ *host, b *hostBatch, data []byte) error {
		for len(data) > 0 {
			var line []byte
			line, data = hostLine(data)
			kind, rest, _ := bytes.Cut(line, []byte(" "))
			var desc *Desc
			switch {
			case some && string(kind) == "some":
				desc = hostPressureWaiting
			case full && string(kind) == "full":
				desc = hostPressureStalled
			default:
				continue
			}
			_, total, ok := bytes.Cut(rest, []byte("total="))
			if !ok {
				return fmt.Errorf("there is no total in %q", line)
			}
			v, err := hostNumber(total)
			if err != nil {
				return err
			}
			b.send(desc, v/1e6, labels)
		}
		return nil
	}
}

// hostLogicalDisks are block devices that keep nothing themselves: what passes
// through them, a disk below or the memory counts as well.
var hostLogicalDisks = []string{"loop", "ram", "zram", "dm-", "md", "drbd", "bcache", "zd", "sr", "fd"}

func (h *host) parseDiskstats(b *hostBatch, data []byte) error {
	var disk []byte // the last whole disk: its partitions follow it
	left := maxHostDevices
	for len(data) > 0 && left > 0 {
		var line []byte
		line, data = hostLine(data)
		h.fields = hostFields(h.fields[:0], line)
		if len(h.fields) < 13 {
			continue // a partition on a kernel before 2.6.25, or an empty line
		}
		name := h.fields[2]
		if hostHasPrefix(name, hostLogicalDisks) || hostPartitionOf(name, disk) {
			continue
		}
		disk = name
		left--
		labels := h.label(name)
		for _, f := range [...]struct {
			desc      *Desc
			field     int
			unit, per float64
		}{{hostDiskRead, 5, hostSectorSize, 1}, {hostDiskWritten, 9, hostSectorSize, 1}, {hostDiskBusy, 12, 1, 1000}} {
			v, err := hostNumber(h.fields[f.field])
			if err != nil {
				return err
			}
			b.send(f.desc, v*f.unit/f.per, labels)
		}
	}
	return nil
}

// hostPartitionOf reports whether name is a partition of disk: sda1 of sda,
// nvme0n1p2 of nvme0n1. A partition without a disk, as some virtual machines
// have (xvda1 alone), is a disk.
func hostPartitionOf(name, disk []byte) bool {
	rest, ok := bytes.CutPrefix(name, disk)
	if !ok || len(disk) == 0 || len(rest) == 0 {
		return false
	}
	if hostIsDigit(disk[len(disk)-1]) {
		if rest, ok = bytes.CutPrefix(rest, []byte("p")); !ok || len(rest) == 0 {
			return false
		}
	}
	for _, c := range rest {
		if !hostIsDigit(c) {
			return false
		}
	}
	return true
}

// hostVirtualNetworks are devices whose traffic a physical device counts as well,
// or that never leaves the machine.
var hostVirtualNetworks = []string{
	"lo", "veth", "docker", "br", "virbr", "vmbr", "fwbr", "fwpr", "fwln", "vnet", "lxc", "lxd", "cni", "cali", "cilium", "flannel",
	"kube", "nodelocaldns", "podman", "weave", "vxlan", "geneve", "genev_", "antrea", "azv", "gke", "ovs", "tun", "tap", "wg", "tailscale", "zt", "ppp",
	"ipvlan", "macvlan", "macvtap", "vlan", "bond", "team", "dummy", "ifb", "nlmon", "sit", "gre", "erspan", "ip6", "ip_vti", "tunl", "teql",
}

func (h *host) parseNetDev(b *hostBatch, data []byte) error {
	left := maxHostDevices
	for len(data) > 0 && left > 0 {
		var line []byte
		line, data = hostLine(data)
		at := bytes.LastIndexByte(line, ':') // an alias has one in its name
		if at < 0 {
			continue // the two lines of headings
		}
		name := bytes.TrimSpace(line[:at])
		// eth0.100 is a VLAN of eth0, eth0:1 an alias of it.
		if hostHasPrefix(name, hostVirtualNetworks) || bytes.ContainsAny(name, ".:@") {
			continue
		}
		h.fields = hostFields(h.fields[:0], line[at+1:])
		if len(h.fields) < 12 {
			return fmt.Errorf("device %q has %d fields", name, len(h.fields))
		}
		left--
		labels := h.label(name)
		for _, f := range hostNetworkFields {
			v, err := hostNumber(h.fields[f.column])
			if err != nil {
				return err
			}
			b.send(f.desc, v, labels)
		}
	}
	return nil
}

func hostHasPrefix(name []byte, prefixes []string) bool {
	for _, p := range prefixes {
		if len(name) >= len(p) && string(name[:len(p)]) == p {
			return true
		}
	}
	return false
}

// hostLine cuts the first line off data, without its line feed.
func hostLine(data []byte) (line, rest []byte) {
	at := bytes.IndexByte(data, '\n')
	if at < 0 {
		return data, nil
	}
	return data[:at], data[at+1:]
}

// hostFields appends the fields of line, which spaces or tabs separate, to dst.
func hostFields(dst [][]byte, line []byte) [][]byte {
	for i := 0; i < len(line); {
		if hostIsSpace(line[i]) {
			i++
			continue
		}
		start := i
		for i < len(line) && !hostIsSpace(line[i]) {
			i++
		}
		dst = append(dst, line[start:i])
	}
	return dst
}

func hostIsSpace(c byte) bool { return c == ' ' || c == '\t' || c == '\n' || c == '\r' }
func hostIsDigit(c byte) bool { return c >= '0' && c <= '9' }

// hostNumber parses a decimal number without sign, with blanks around it.
func hostNumber(b []byte) (float64, error) {
	b = bytes.TrimSpace(b)
	if len(b) == 0 || len(b) > 20 {
		return 0, fmt.Errorf("%q is not a number", b)
	}
	var n uint64
	for _, c := range b {
		if !hostIsDigit(c) || n > (math.MaxUint64-uint64(c-'0'))/10 {
			return 0, fmt.Errorf("%q is not a number", b)
		}
		n = n*10 + uint64(c-'0')
	}
	return float64(n), nil
}
