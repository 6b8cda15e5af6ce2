// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package report

import (
	"cmp"
	"context"
	"errors"
	"slices"

	"github.com/niodoo/niodoo_exporter/internal/observe"
)

// Model is a model of Ollama or vLLM.
type Model struct {
	Server string `json:"server"`
	Name   string `json:"name"`
	// Bytes is its size, where the server tells.
	Bytes float64 `json:"size_bytes,omitempty"`
	// Loaded says that it is in memory, VRAM how much of it in a GPU's.
	Loaded bool    `json:"loaded"`
	VRAM   float64 `json:"vram_bytes,omitempty"`
	// Required says that the configuration wants it; it may be missing.
	Required bool `json:"required"`
	Missing  bool `json:"missing"`
	// Running and Waiting are requests.
	Running *float64 `json:"requests_running,omitempty"`
	Waiting *float64 `json:"requests_waiting,omitempty"`
}

func ollamaModels(_ context.Context, o Options, r *Report) error {
	for _, s := range o.Now.Series("niodoo_ollama_model_info") {
		m := Model{Server: "ollama", Name: s.Labels["model"]}
		m.Bytes, _ = o.Now.Sum("niodoo_ollama_model_size_bytes", "model", m.Name)
		_, m.Loaded = o.Now.Sum("niodoo_ollama_model_loaded_size_bytes", "model", m.Name)
		m.VRAM, _ = o.Now.Sum("niodoo_ollama_model_loaded_vram_bytes", "model", m.Name)
		r.Models = append(r.Models, m)
	}
	for _, s := range o.Now.Series("niodoo_ollama_required_model_available") {
		name := s.Labels["model"]
		// A name without a tag is of every tag.
		i := slices.IndexFunc(r.Models, func(m Model) bool { return m.Name == name || m.Name == name+":latest" })
		switch {
		case s.Value == 0:
			r.Models = append(r.Models, Model{Server: "ollama", Name: name, Required: true, Missing: true})
		case i >= 0:
			r.Models[i].Required = true
		}
	}
	return nil
}

func vllmModels(_ context.Context, o Options, r *Report) error {
	for _, s := range o.Now.Series("niodoo_vllm_model_info") {
		m := Model{Server: "vllm", Name: s.Labels["model"], Loaded: true}
		m.Running = figure(o.Now, "niodoo_vllm_requests_running", "model", m.Name)
		m.Waiting = figure(o.Now, "niodoo_vllm_requests_waiting", "model", m.Name)
		r.Models = append(r.Models, m)
	}
	return nil
}

// figure returns a value that may be missing.
func figure(s observe.Snapshot, metric string, labels ...string) *float64 {
	if v, ok := s.Sum(metric, labels...); ok {
		return &v
	}
	return nil
}

// speed returns a rate that may be missing.
func speed(before, now observe.Snapshot, metric string, labels ...string) *float64 {
	if v, ok := now.Rate(before, metric, labels...); ok {
		return &v
	}
	return nil
}

// Container is what docker stats has of one.
type Container struct {
	Name    string `json:"name"`
	Image   string `json:"image"`
	Running bool   `json:"running"`
	// Healthy is missing where there is no health check.
	Healthy *bool `json:"healthy,omitempty"`
	// CPU is the share of one processor: 2 is two of them.
	CPU         *float64 `json:"cpu,omitempty"`
	Memory      *float64 `json:"memory_bytes,omitempty"`
	MemoryLimit *float64 `json:"memory_limit_bytes,omitempty"`
	// The totals are since the container's start.
	Received    *float64 `json:"network_receive_bytes_total,omitempty"`
	Transmitted *float64 `json:"network_transmit_bytes_total,omitempty"`
	Read        *float64 `json:"block_read_bytes_total,omitempty"`
	Written     *float64 `json:"block_written_bytes_total,omitempty"`
	PIDs        *float64 `json:"pids,omitempty"`
	Restarts    *float64 `json:"restarts,omitempty"`
}

func containers(_ context.Context, o Options, r *Report) error {
	const p = "niodoo_docker_container_"
	for _, s := range o.Now.Series(p + "info") {
		name := s.Labels["container"]
		of := func(metric string) *float64 { return figure(o.Now, p+metric, "container", name) }
		c := Container{Name: name, Image: s.Labels["image"], CPU: speed(o.Before, o.Now, p+"cpu_seconds_total", "container", name),
			Memory: of("memory_usage_bytes"), MemoryLimit: of("memory_limit_bytes"), Received: of("network_receive_bytes_total"),
			Transmitted: of("network_transmit_bytes_total"), Read: of("block_read_bytes_total"), Written: of("block_written_bytes_total"),
			PIDs: of("pids"), Restarts: of("restarts_total")}
		running, _ := o.Now.Sum(p+"running", "container", name)
		c.Running = running == 1
		if h := of("healthy"); h != nil {
			c.Healthy = new(*h == 1)
		}
		r.Containers = append(r.Containers, c)
	}
	slices.SortFunc(r.Containers, func(a, b Container) int { return cmp.Compare(a.Name, b.Name) })
	return nil
}

// Host is the machine.
type Host struct {
	CPUs     *float64 `json:"cpus,omitempty"`
	CPUUsage *float64 `json:"cpu_usage_ratio,omitempty"`
	// Load is of 1, 5 and 15 minutes, PerCore the same by processor.
	Load      []float64 `json:"load"`
	PerCore   []float64 `json:"load_per_core"`
	Memory    *float64  `json:"memory_total_bytes,omitempty"`
	Available *float64  `json:"memory_available_bytes,omitempty"`
	Swap      *float64  `json:"swap_total_bytes,omitempty"`
	SwapFree  *float64  `json:"swap_free_bytes,omitempty"`
	Uptime    *float64  `json:"uptime_seconds,omitempty"`
	// Waiting is the share of the time that tasks waited for a resource.
	Waiting map[string]float64 `json:"pressure_waiting_ratio"`
	// OOMKills are those since the machine started.
	OOMKills *float64 `json:"oom_kills_total,omitempty"`
}

// Filesystem is one, with the bytes that are used and those that may be.
type Filesystem struct {
	Path string `json:"path"`
	// Used is the share that is in use of what may be.
	Used   float64 `json:"usage_ratio"`
	Size   float64 `json:"size_bytes"`
	Avail  float64 `json:"avail_bytes"`
	Inodes float64 `json:"inode_usage_ratio"`
}

// Interface is a network interface: rates between the looks, and totals since
// the machine started.
type Interface struct {
	Device             string   `json:"device"`
	ReceiveBytes       *float64 `json:"receive_bytes_per_second,omitempty"`
	TransmitBytes      *float64 `json:"transmit_bytes_per_second,omitempty"`
	ReceivePackets     *float64 `json:"receive_packets_per_second,omitempty"`
	TransmitPackets    *float64 `json:"transmit_packets_per_second,omitempty"`
	ReceiveBytesTotal  *float64 `json:"receive_bytes_total,omitempty"`
	TransmitBytesTotal *float64 `json:"transmit_bytes_total,omitempty"`
	ReceiveErrors      *float64 `json:"receive_errors_total,omitempty"`
	TransmitErrors     *float64 `json:"transmit_errors_total,omitempty"`
	ReceiveDrops       *float64 `json:"receive_drops_total,omitempty"`
	TransmitDrops      *float64 `json:"transmit_drops_total,omitempty"`
}

func host(_ context.Context, o Options, r *Report) error {
	h := &Host{CPUs: figure(o.Now, "niodoo_host_cpus"), Memory: figure(o.Now, "niodoo_host_memory_total_bytes"), Available: figure(o.Now, "niodoo_host_memory_available_bytes"),
		Swap: figure(o.Now, "niodoo_host_swap_total_bytes"), SwapFree: figure(o.Now, "niodoo_host_swap_free_bytes"), OOMKills: figure(o.Now, "niodoo_host_oom_kills_total"),
		Load: []float64{}, PerCore: []float64{}, Waiting: map[string]float64{}}
	if h.Memory == nil {
		return errors.New("the collector host says nothing of the memory")
	}
	if v, ok := o.Now.CPUUsage(o.Before); ok {
		h.CPUUsage = &v
	}
	for _, metric := range []string{"niodoo_host_load1", "niodoo_host_load5", "niodoo_host_load15"} {
		if v := figure(o.Now, metric); v != nil {
			h.Load = append(h.Load, *v)
			if h.CPUs != nil && *h.CPUs > 0 {
				h.PerCore = append(h.PerCore, *v / *h.CPUs)
			}
		}
	}
	if boot := figure(o.Now, "niodoo_host_boot_time_seconds"); boot != nil {
		h.Uptime = new(float64(o.Now.At.Unix()) - *boot)
	}
	for _, s := range o.Now.Series("niodoo_host_pressure_waiting_seconds_total") {
		resource := s.Labels["resource"]
		if v := speed(o.Before, o.Now, "niodoo_host_pressure_waiting_seconds_total", "resource", resource); v != nil {
			h.Waiting[resource] = *v
		}
	}
	r.Host = h
	r.Filesystems = append(r.Filesystems, filesystems(o.Now)...)
	for _, s := range o.Now.Series("niodoo_host_network_receive_bytes_total") {
		const p = "niodoo_host_network_"
		device := s.Labels["device"]
		total := func(metric string) *float64 { return figure(o.Now, p+metric, "device", device) }
		rate := func(metric string) *float64 { return speed(o.Before, o.Now, p+metric, "device", device) }
		r.Network = append(r.Network, Interface{Device: device,
			ReceiveBytes: rate("receive_bytes_total"), TransmitBytes: rate("transmit_bytes_total"),
			ReceivePackets: rate("receive_packets_total"), TransmitPackets: rate("transmit_packets_total"),
			ReceiveBytesTotal: total("receive_bytes_total"), TransmitBytesTotal: total("transmit_bytes_total"),
			ReceiveErrors: total("receive_errors_total"), TransmitErrors: total("transmit_errors_total"),
			ReceiveDrops: total("receive_drops_total"), TransmitDrops: total("transmit_drops_total")})
	}
	return nil
}

// filesystems returns the filesystems, the fullest first.
func filesystems(s observe.Snapshot) []Filesystem {
	var all []Filesystem
	for _, one := range s.Series("niodoo_host_filesystem_size_bytes") {
		f := Filesystem{Path: one.Labels["path"], Size: one.Value}
		free, _ := s.Sum("niodoo_host_filesystem_free_bytes", "path", f.Path)
		f.Avail, _ = s.Sum("niodoo_host_filesystem_avail_bytes", "path", f.Path)
		if used := f.Size - free; used+f.Avail > 0 {
			f.Used = used / (used + f.Avail)
		}
		files, _ := s.Sum("niodoo_host_filesystem_files", "path", f.Path)
		if left, _ := s.Sum("niodoo_host_filesystem_files_free", "path", f.Path); files > 0 {
			f.Inodes = 1 - left/files
		}
		all = append(all, f)
	}
	slices.SortFunc(all, func(a, b Filesystem) int { return cmp.Or(cmp.Compare(b.Used, a.Used), cmp.Compare(a.Path, b.Path)) })
	return all
}

// GPU is a graphics processor.
type GPU struct {
	GPU         string   `json:"gpu"`
	Name        string   `json:"name"`
	Utilization *float64 `json:"utilization_ratio,omitempty"`
	MemoryUsed  *float64 `json:"memory_used_bytes,omitempty"`
	MemoryTotal *float64 `json:"memory_total_bytes,omitempty"`
	Temperature *float64 `json:"temperature_celsius,omitempty"`
	Power       *float64 `json:"power_watts,omitempty"`
}

func gpus(_ context.Context, o Options, r *Report) error {
	for _, s := range o.Now.Series("niodoo_gpu_info") {
		id := s.Labels["gpu"]
		of := func(metric string) *float64 { return figure(o.Now, "niodoo_gpu_"+metric, "gpu", id) }
		r.GPUs = append(r.GPUs, GPU{GPU: id, Name: s.Labels["name"], Utilization: of("utilization_ratio"), MemoryUsed: of("memory_used_bytes"),
			MemoryTotal: of("memory_total_bytes"), Temperature: of("temperature_celsius"), Power: of("power_watts")})
	}
	return nil
}
