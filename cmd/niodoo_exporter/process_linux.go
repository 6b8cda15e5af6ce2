// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/procfs"
	"golang.org/x/sys/unix"
)

// processCollector exports the process_* metrics that every exporter has, by
// the names and the meanings of client_golang's collector. That one reads
// /proc/stat for a start time that never changes, and counts the bytes of the
// whole machine's network: more than a twelfth of the time of a scrape.
type processCollector struct {
	proc  procfs.Proc
	start float64 // seconds since the epoch
}

var (
	processCPU      = processDesc("cpu_seconds_total", "Total user and system CPU time spent in seconds.")
	processOpenFDs  = processDesc("open_fds", "Number of open file descriptors.")
	processMaxFDs   = processDesc("max_fds", "Maximum number of open file descriptors.")
	processVirtual  = processDesc("virtual_memory_bytes", "Virtual memory size in bytes.")
	processResident = processDesc("resident_memory_bytes", "Resident memory size in bytes.")
	processStart    = processDesc("start_time_seconds", "Start time of the process since unix epoch in seconds.")
)

func processDesc(name, help string) *prometheus.Desc {
	return prometheus.NewDesc("process_"+name, help, nil, nil)
}

// newProcessCollector returns a collector that exports what this process may
// read of itself: nothing where there is no procfs.
func newProcessCollector() prometheus.Collector {
	c := &processCollector{}
	var err error
	if c.proc, err = procfs.Self(); err != nil {
		return c
	}
	if stat, err := c.proc.Stat(); err == nil {
		c.start, _ = stat.StartTime() // 0 is left out
	}
	return c
}

// Describe implements [prometheus.Collector].
func (c *processCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{processCPU, processOpenFDs, processMaxFDs, processVirtual, processResident, processStart} {
		ch <- d
	}
}

// Collect implements [prometheus.Collector].
func (c *processCollector) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v) //nolint:forbidigo // it has no label that could be bad
	}
	if stat, err := c.proc.Stat(); err == nil {
		ch <- prometheus.MustNewConstMetric(processCPU, prometheus.CounterValue, stat.CPUTime()) //nolint:forbidigo // as above
		gauge(processVirtual, float64(stat.VirtualMemory()))
		gauge(processResident, float64(stat.ResidentMemory()))
	}
	if n, err := c.proc.FileDescriptorsLen(); err == nil {
		gauge(processOpenFDs, float64(n))
	}
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err == nil {
		gauge(processMaxFDs, float64(limit.Cur))
	}
	if c.start > 0 {
		gauge(processStart, c.start)
	}
}
