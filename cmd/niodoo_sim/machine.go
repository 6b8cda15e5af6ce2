// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/niodoo/niodoo_exporter/internal/sim"
)

// machine is the computer below the stack: a procfs of its own, a graphics
// processor that is a script in place of nvidia-smi, and, where we may mount
// one, a small disk.
type machine struct {
	dir  string
	disk string // where the disk is mounted; "" where we may not mount one

	booted time.Time

	mu     sync.Mutex
	turned []*func(*machineKnobs) // by the faults in effect
	knobs  machineKnobs
	state  machineState
	shown  map[string]string // what the files hold
}

// machineKnobs are what faults turn.
type machineKnobs struct {
	busy      float64       // share of the processors
	used      float64       // share of the memory
	pressure  float64       // share of the time in which someone waits for memory
	errors    float64       // share of the packets that arrive damaged
	clock     time.Duration // how far off it may be
	readonly  bool
	unmounted bool

	gpuLost               bool
	gpuDegrees, gpuMemory int
	gpuThrottle           int
}

func quietMachine() machineKnobs {
	return machineKnobs{busy: 0.3, used: 0.55, pressure: 0.001, clock: clockError, gpuDegrees: 62, gpuMemory: 10240}
}

// machineState are the counters, which only grow.
type machineState struct {
	at                        time.Time
	busy, idle, waited, faced float64 // seconds
	packets, damaged          float64
	oomKills, gpuErrors       int
}

const (
	machineCPUs   = 8
	machineMemory = 64 << 20 // KiB
	diskSize      = 16 << 20 // bytes
	diskFiles     = 1000
	machineTick   = 500 * time.Millisecond
)

func newMachine(dir string) (*machine, error) {
	m := &machine{dir: dir, shown: map[string]string{}, booted: time.Now().Add(-72 * time.Hour), knobs: quietMachine(), state: machineState{at: time.Now(), idle: 100000, busy: 40000, packets: 1e6}}
	for _, d := range []string{"proc/pressure", "proc/sys/fs", "proc/1/net", "disk"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return nil, err
		}
	}
	if err := m.mount(); err == nil {
		m.disk = m.mountPoint()
	}
	if err := os.WriteFile(m.nvidiaSMI(), []byte("#!/bin/sh\n. \"$(dirname \"$0\")/gpu\"\n"), 0o755); err != nil {
		return nil, err
	}
	return m, m.tick(time.Now())
}

func (m *machine) mountPoint() string { return filepath.Join(m.dir, "disk") }
func (m *machine) nvidiaSMI() string  { return filepath.Join(m.dir, "nvidia-smi") }

func (m *machine) mount() error {
	return unix.Mount("niodoo_sim", m.mountPoint(), "tmpfs", 0, fmt.Sprintf("size=%d,nr_inodes=%d,mode=0755", diskSize, diskFiles))
}

func (m *machine) unmount() error { return unix.Unmount(m.mountPoint(), unix.MNT_DETACH) }

// run lives until ctx ends.
func (m *machine) run(ctx context.Context) {
	every(ctx, machineTick, func(context.Context) { _ = m.tick(time.Now()) }) // a full disk of ours ends nothing
}

// tick lives until now and writes what there is to see.
func (m *machine) tick(now time.Time) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	k, s := &m.knobs, &m.state
	d := now.Sub(s.at).Seconds()
	s.at = now
	s.busy += machineCPUs * d * k.busy
	s.idle += machineCPUs * d * (1 - k.busy)
	s.waited += d * k.pressure
	s.faced += d * 0.002
	s.packets += 2000 * d
	s.damaged += 2000 * d * k.errors
	var errs []error
	for name, text := range m.files() { // whole or not at all for a reader; a crash may have any of it
		if m.shown[name] == text {
			continue
		}
		m.shown[name] = text
		path := filepath.Join(m.dir, name)
		errs = append(errs, os.WriteFile(path+".next", []byte(text), 0o600), os.Rename(path+".next", path))
	}
	return errors.Join(errs...)
}

// files are the files of procfs that the exporter reads, and what nvidia-smi does.
func (m *machine) files() map[string]string {
	k, s := &m.knobs, &m.state
	ticks := func(seconds float64) int64 { return int64(seconds * 100) }
	var cpus strings.Builder
	fmt.Fprintf(&cpus, "cpu  %d 0 %d %d 120 0 30 0 0 0\n", ticks(s.busy*0.8), ticks(s.busy*0.2), ticks(s.idle))
	for i := range machineCPUs {
		fmt.Fprintf(&cpus, "cpu%d %d 0 %d %d 15 0 4 0 0 0\n", i, ticks(s.busy*0.1), ticks(s.busy*0.025), ticks(s.idle/8))
	}
	pressure := func(seconds float64) string {
		us := int64(seconds * 1e6)
		return fmt.Sprintf("some avg10=0.00 avg60=0.00 avg300=0.00 total=%d\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=%d\n", us, us/2)
	}
	load := machineCPUs * k.busy
	return map[string]string{
		"proc/stat": cpus.String() + fmt.Sprintf("btime %d\nprocs_running 3\nprocs_blocked 0\n", m.booted.Unix()),
		"proc/meminfo": fmt.Sprintf("MemTotal: %d kB\nMemFree: %d kB\nMemAvailable: %d kB\nSwapTotal: 0 kB\nSwapFree: 0 kB\n",
			machineMemory, machineMemory/10, int64(machineMemory*(1-k.used))),
		"proc/loadavg":         fmt.Sprintf("%.2f %.2f %.2f 3/812 4242\n", load, load, load),
		"proc/vmstat":          fmt.Sprintf("nr_free_pages 1000\noom_kill %d\n", s.oomKills),
		"proc/sys/fs/file-nr":  "4096\t0\t9223372036854775807\n",
		"proc/pressure/cpu":    pressure(s.faced),
		"proc/pressure/memory": pressure(s.waited),
		"proc/pressure/io":     pressure(s.faced),
		"proc/diskstats":       fmt.Sprintf(" 259 0 nvme0n1 900 0 %d 400 800 0 %d 300 0 500 700 0 0 0 0\n", int64(s.busy*100), int64(s.busy*50)),
		"proc/1/net/dev": "Inter-|   Receive                                                |  Transmit\n" +
			" face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n" +
			fmt.Sprintf("  eth0: %d %d %d 0 0 0 0 0 %d %d 0 0 0 0 0 0\n", int64(s.packets*600), int64(s.packets), int64(s.damaged), int64(s.packets*400), int64(s.packets)),
		"proc/1/mountinfo": m.mountInfo(),
		"gpu":              m.gpu(),
	}
}

// mountInfo shows the disk as if it were one. A disk that was unmounted from
// under us still stands in the table, with a device number that is no more.
func (m *machine) mountInfo() string {
	if m.disk == "" {
		return ""
	}
	device := "259:7"
	var st unix.Stat_t
	if !m.knobs.unmounted && unix.Stat(m.disk, &st) == nil {
		device = fmt.Sprintf("%d:%d", unix.Major(uint64(st.Dev)), unix.Minor(uint64(st.Dev))) //nolint:unconvert // 32 bits wide on MIPS
	}
	mode := "rw"
	if m.knobs.readonly {
		mode = "ro"
	}
	return fmt.Sprintf("36 1 %s / %s %s,relatime shared:1 - ext4 /dev/nvme0n1 %s\n", device, m.disk, mode, mode)
}

// gpu is the script of nvidia-smi: it answers the fields it is asked for.
func (m *machine) gpu() string {
	k := &m.knobs
	if k.gpuLost {
		return "echo 'Unable to determine the device handle for GPU 0000:01:00.0: GPU is lost.  Reboot the system to recover this GPU'\nexit 15\n"
	}
	return fmt.Sprintf("echo '0, GPU-edfee158-11c1-52b8-0517-92f30e7fac88, NVIDIA RTX A6000, 570.172.08, 37, %d, 49140, %d, 145.21, 12, 300.00, 48, 1800, 7600, 16, 16, %d, 0x%016x'\n",
		k.gpuMemory, k.gpuDegrees, m.state.gpuErrors, k.gpuThrottle)
}

// clockOff is how far off the clock may be.
func (m *machine) clockOff() time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.knobs.clock
}

// sections are the configuration's sections about this machine.
func (m *machine) sections() []string {
	host := map[string]any{"procfs": filepath.Join(m.dir, "proc")}
	if m.disk != "" {
		host["paths"] = []string{m.disk}
	}
	return []string{sim.Section("host", host), sim.Section("gpu", map[string]any{"enabled": true, "nvidia_smi": m.nvidiaSMI(), "interval": "15s"})}
}

// turn makes a fault of a change to the knobs. The knobs are turned from
// quiet each time, so that faults cannot get out of step.
func turn(change func(*machineKnobs)) func(context.Context, *lab) (func() error, error) {
	return func(_ context.Context, l *lab) (func() error, error) {
		m := l.machine
		mine := &change
		set := func(turned func([]*func(*machineKnobs)) []*func(*machineKnobs)) error {
			m.mu.Lock()
			m.turned = turned(m.turned)
			m.knobs = quietMachine()
			for _, f := range m.turned {
				(*f)(&m.knobs)
			}
			m.mu.Unlock()
			return m.tick(time.Now())
		}
		end := func() error {
			return set(func(all []*func(*machineKnobs)) []*func(*machineKnobs) {
				return slices.DeleteFunc(all, func(f *func(*machineKnobs)) bool { return f == mine })
			})
		}
		return end, set(func(all []*func(*machineKnobs)) []*func(*machineKnobs) { return append(all, mine) })
	}
}

// count makes a fault of something that the machine counts.
func count(add func(*machineState)) func(context.Context, *lab) (func() error, error) {
	return func(_ context.Context, l *lab) (func() error, error) {
		l.machine.mu.Lock()
		add(&l.machine.state)
		l.machine.mu.Unlock()
		return nil, l.machine.tick(time.Now())
	}
}

var machineFaults = []labFault{
	{"host-cpu-busy", "host", "The processors are busy for 95 % of the time.", turn(func(k *machineKnobs) { k.busy = 0.95 })},
	{"host-memory-full", "host", "92 % of the memory is in use, and nobody waits for it.", turn(func(k *machineKnobs) { k.used = 0.92 })},
	{"host-memory-pressure", "host", "96 % of the memory is in use, and processes wait for it for a third of the time.", turn(func(k *machineKnobs) { k.used, k.pressure = 0.96, 0.33 })},
	{"host-oom-kill", "host", "The kernel has killed a process for want of memory.", count(func(s *machineState) { s.oomKills++ })},
	{"host-network-errors", "host", "5 % of the packets arrive damaged.", turn(func(k *machineKnobs) { k.errors = 0.05 })},
	{"gpu-hot", "gpu", "The graphics processor is at 91 °C.", turn(func(k *machineKnobs) { k.gpuDegrees = 91 })},
	{"gpu-throttled", "gpu", "The graphics processor is slowed down by its temperature.", turn(func(k *machineKnobs) { k.gpuThrottle = 0x60 })},
	{"gpu-lost", "gpu", "The graphics processor has fallen off the bus.", turn(func(k *machineKnobs) { k.gpuLost = true })},
	{"gpu-memory-full", "gpu", "The graphics processor's memory is full to 98 %.", turn(func(k *machineKnobs) { k.gpuMemory = 48300 })},
	{"gpu-memory-errors", "gpu", "The graphics processor has counted memory errors that it could not correct.", count(func(s *machineState) { s.gpuErrors += 4 })},
}

var clockFaults = []labFault{
	{"host-clock-off", "host", "Nothing keeps the machine's clock right any more: it may be off by 16 s.", turn(func(k *machineKnobs) { k.clock = clockLost })},
}

var diskFaults = []labFault{
	{"host-disk-high", "host", "The disk is full to 86 %.", fillDisk(0.86)},
	{"host-disk-almost-full", "host", "The disk is full to 95 %.", fillDisk(0.95)},
	{"host-disk-filling", "host", "The disk is full to 55 % and takes 16 KiB a second more.", func(ctx context.Context, l *lab) (func() error, error) {
		end, err := fillDisk(0.55)(ctx, l)
		l.work.Go(func() {
			every(ctx, 250*time.Millisecond, func(context.Context) { _ = appendTo(filepath.Join(l.machine.disk, "growing"), 4<<10) })
		})
		return func() error {
			return errors.Join(end(), unless(os.Remove(filepath.Join(l.machine.disk, "growing")), os.ErrNotExist))
		}, err
	}},
	{"host-inodes-gone", "host", "96 % of the files that the disk can hold are there.", func(_ context.Context, l *lab) (func() error, error) {
		dir := filepath.Join(l.machine.disk, "many")
		err := os.Mkdir(dir, 0o755)
		for i := range diskFiles * 96 / 100 {
			if err == nil {
				err = os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), nil, 0o600)
			}
		}
		return func() error { return os.RemoveAll(dir) }, err
	}},
	{"host-read-only", "host", "The disk can only be read.", func(ctx context.Context, l *lab) (func() error, error) {
		end, err := turn(func(k *machineKnobs) { k.readonly = true })(ctx, l)
		remount := func(flags uintptr) error { return unix.Mount("", l.machine.disk, "", unix.MS_REMOUNT|flags, "") }
		return func() error { return errors.Join(remount(0), end()) }, errors.Join(err, remount(unix.MS_RDONLY))
	}},
	{"host-disk-failing", "host", "The disk is gone although the table of mounts still has it.", func(ctx context.Context, l *lab) (func() error, error) {
		end, err := turn(func(k *machineKnobs) { k.unmounted = true })(ctx, l)
		return func() error { return errors.Join(l.machine.mount(), end()) }, errors.Join(err, l.machine.unmount())
	}},
}

// fillDisk fills the disk to a share, if it is not fuller already.
func fillDisk(share float64) func(context.Context, *lab) (func() error, error) {
	return func(_ context.Context, l *lab) (func() error, error) {
		path := filepath.Join(l.machine.disk, fmt.Sprintf("filling-%.0f", 100*share))
		var st unix.Statfs_t
		if err := unix.Statfs(l.machine.disk, &st); err != nil {
			return nil, err
		}
		used := float64(st.Blocks-st.Bfree) * float64(st.Frsize)
		return func() error { return os.Remove(path) }, appendTo(path, max(0, int(share*diskSize-used)))
	}
}

func appendTo(path string, bytes int) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(make([]byte, bytes))
	return errors.Join(err, f.Close())
}
