// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"math"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/niodoo/niodoo_exporter/internal/config"
)

func init() { register("gpu", newGPU) }

var (
	gpuDevices = gauge("gpu", "gpu_devices",
		"Number of graphics processors that answer", "nvidia-smi rows, /sys/class/drm/card*", "vendor").
		absent("while nvidia-smi fails")
	gpuLost = gauge("gpu", "gpu_lost",
		"Number of processors that answered earlier in this process's life and do not any more, or of which nvidia-smi says that they are lost",
		"nvidia-smi").absent("without nvidia-smi")
	gpuSampleAge = gauge("gpu", "gpu_sample_age_seconds",
		"Age of the NVIDIA figures: nvidia-smi runs at its own pace, not with the scrape", "the exporter's clock").
		absent("while nvidia-smi fails")
	gpuInfo = gauge("gpu", "gpu_info",
		"What the processor is; the value is 1. uuid is empty where the driver has none",
		"nvidia-smi uuid, name, driver_version; amdgpu unique_id", "gpu", "uuid", "name", "driver", "vendor")

	gpuUtilization = gpuGauge("utilization_ratio",
		"Share of the driver's last sampling period in which the processor worked, not how full it was; niodoo_engine_gpu_usage_ratio is what the engine says",
		"nvidia-smi utilization.gpu, amdgpu gpu_busy_percent", "in MIG mode")
	gpuMemoryUtilization = gpuGauge("memory_utilization_ratio",
		"Share of the driver's last sampling period in which the memory was read or written",
		"nvidia-smi utilization.memory, amdgpu mem_busy_percent", "in MIG mode")
	gpuMemoryUsed = gpuGauge("memory_used_bytes",
		"Memory in use, without what the driver reserves", "nvidia-smi memory.used, amdgpu mem_info_vram_used", "where the driver does not tell")
	gpuMemoryTotal = gpuGauge("memory_total_bytes",
		"Memory of the processor", "nvidia-smi memory.total, amdgpu mem_info_vram_total", "where the driver does not tell")
	gpuTemperature = gpuGauge("temperature_celsius",
		"Temperature of the processor", "nvidia-smi temperature.gpu, amdgpu hwmon temp1_input", "without a sensor")
	gpuPower = gpuGauge("power_watts",
		"Power the processor draws", "nvidia-smi power.draw, amdgpu hwmon power1_average or power1_input", "without a sensor")
	gpuPowerLimit = gpuGauge("power_limit_watts",
		"Power the processor may draw", "nvidia-smi power.limit, amdgpu hwmon power1_cap", "where it cannot be limited")
	gpuFan = gpuGauge("fan_ratio",
		"Speed the fan is told to run at, of its highest", "nvidia-smi fan.speed, amdgpu hwmon pwm1 / 255", "without a fan")
	gpuGraphicsClock = gpuGauge("graphics_clock_hertz",
		"Clock of the processor", "nvidia-smi clocks.gr, amdgpu hwmon freq1_input", "where the driver does not tell")
	gpuMemoryClock = gpuGauge("memory_clock_hertz",
		"Clock of the memory", "nvidia-smi clocks.mem, amdgpu hwmon freq2_input", "where the driver does not tell")
	gpuPCIeWidth = gpuGauge("pcie_link_width",
		"Number of PCI Express lanes in use", "nvidia-smi pcie.link.width.current", "where the driver does not tell")
	gpuPCIeMaxWidth = gpuGauge("pcie_link_max_width",
		"Number of PCI Express lanes that processor and slot could use", "nvidia-smi pcie.link.width.max", "where the driver does not tell")
	gpuECCErrors = counter("gpu", "gpu_ecc_uncorrected_errors_total",
		"Number of memory errors that could not be corrected since the driver was loaded",
		"nvidia-smi ecc.errors.uncorrected.volatile.total", "gpu").absent("without error-correcting memory")
	gpuThrottled = gauge("gpu", "gpu_throttled",
		"Whether the processor is slowed down at present for the reason",
		"nvidia-smi clocks_event_reasons.active, in older drivers clocks_throttle_reasons.active", "gpu", "reason").
		absent("where the driver does not tell")
)

func gpuGauge(name, help, source, absent string) *Desc {
	return gauge("gpu", "gpu_"+name, help, source, "gpu").absent(absent)
}

// gpuField is how a figure of the driver becomes a metric.
type gpuField struct {
	// name is nvidia-smi's field or amdgpu's file below the device's directory.
	name string
	// older is the field's name in older drivers, or the file's on other cards.
	older string
	desc  *Desc
	// One of it is unit base units, or per of it are one.
	unit, per float64
	// most is the largest value to believe, in base units; 0 is any. Some
	// drivers report 65535 for "unknown".
	most float64
	// optional fields may be unknown to the driver.
	optional bool
}

const mebibyte = 1 << 20

// value turns the driver's text into base units. It reports false for what is
// not a number, which is how drivers say that they do not know.
func (f *gpuField) value(text string) (float64, bool) {
	v, err := strconv.ParseFloat(text, 64)
	if f.per != 0 {
		v /= f.per
	} else {
		v *= f.unit
	}
	if err != nil || math.IsNaN(v) || math.IsInf(v, 0) || v < 0 || f.most > 0 && v > f.most {
		return 0, false
	}
	return v, true
}

// gpu reads NVIDIA cards through nvidia-smi, since the driver's library needs
// cgo, and AMD cards from sysfs. It is the only collector that runs a program.
type gpu struct {
	named    bool // the file has the section: something must be there
	namedSMI bool // the file names the program
	sysfs    string
	patience time.Duration
	now      func() time.Time
	nvidia   *nvidiaSMI
	amd      hanging[[]amdCard]
	buf      []byte // owned by the call in flight of amd
}

func newGPU(cfg *config.Config, deps Deps) (Collector, error) {
	return &gpu{
		named:    cfg.GPU.Named(),
		namedSMI: cfg.GPU.NVIDIASMI != "" && cfg.GPU.NVIDIASMI != config.Default().GPU.NVIDIASMI,
		sysfs:    filepath.Clean(cfg.GPU.SysFS),
		patience: time.Second,
		now:      deps.Now,
		nvidia:   newNVIDIASMI(cfg.GPU.NVIDIASMI, time.Duration(cfg.GPU.Interval), deps),
	}, nil
}

// Update implements [Collector].
func (g *gpu) Update(ctx context.Context, ch chan<- prometheus.Metric) error {
	cards, amdErr := g.amdCards(ctx)
	for _, c := range cards {
		c.send(ch)
	}
	if len(cards) > 0 {
		ch <- gpuDevices.metric(float64(len(cards)), "amd")
	}
	s := g.nvidia.latest(ctx)
	if errors.Is(s.err, errNoNVIDIASMI) {
		switch {
		case g.namedSMI:
			return s.err
		case len(cards) > 0 || amdErr != nil:
			return amdErr
		case g.named:
			return failf(ReasonNotFound, "%w, and no AMD card in %s", s.err, g.sysfs)
		}
		return nil // nobody said that there is a graphics processor
	}
	s.send(ch, g.now())
	return cmp.Or(s.err, amdErr)
}

// Close ends the program's pace; see [Collector].
func (g *gpu) Close() error { return g.nvidia.close() }

// amdCard is what sysfs tells of an AMD card.
type amdCard struct {
	gpu, uuid, name, driver string
	values                  []gpuValue
}

type gpuValue struct {
	desc  *Desc
	value float64
}

func (c *amdCard) send(ch chan<- prometheus.Metric) {
	ch <- gpuInfo.metric(1, c.gpu, c.uuid, c.name, c.driver, "amd")
	for _, v := range c.values {
		ch <- v.desc.metric(v.value, c.gpu)
	}
}

// amdFields are the files of amdgpu; {hwmon} is the card's own directory
// below hwmon. Reading one may fail while the card sleeps or for what it does
// not have: then there is no figure.
var amdFields = []gpuField{
	{name: "gpu_busy_percent", desc: gpuUtilization, per: 100, most: 1},
	{name: "mem_busy_percent", desc: gpuMemoryUtilization, per: 100, most: 1},
	{name: "mem_info_vram_used", desc: gpuMemoryUsed, unit: 1},
	{name: "mem_info_vram_total", desc: gpuMemoryTotal, unit: 1},
	{name: "{hwmon}/temp1_input", desc: gpuTemperature, per: 1e3},
	{name: "{hwmon}/power1_average", older: "{hwmon}/power1_input", desc: gpuPower, per: 1e6},
	{name: "{hwmon}/power1_cap", desc: gpuPowerLimit, per: 1e6},
	{name: "{hwmon}/pwm1", desc: gpuFan, per: 255, most: 1},
	{name: "{hwmon}/freq1_input", desc: gpuGraphicsClock, unit: 1},
	{name: "{hwmon}/freq2_input", desc: gpuMemoryClock, unit: 1},
}

const (
	amdVendor = "0x1002"
	// maxGPUs bounds the processors that are exported.
	maxGPUs = 64
)

// amdCards reads all AMD cards. A driver that resets its card can hang a read.
func (g *gpu) amdCards(ctx context.Context) ([]amdCard, error) {
	const key = "cards"
	if !g.amd.start(key, g.readAMDCards) {
		return nil, failf(ReasonTimeout, "reading %s: the driver does not answer", g.sysfs)
	}
	deadline, limited := ctx.Deadline()
	over := make(chan struct{})
	timer := time.AfterFunc(hangingPatience(g.patience, deadline, limited), func() { close(over) })
	defer timer.Stop()
	a, ok := g.amd.wait(key, over)
	if !ok {
		return nil, failf(ReasonTimeout, "reading %s: the driver does not answer", g.sysfs)
	}
	return a.value, a.err
}

func (g *gpu) readAMDCards() ([]amdCard, error) {
	// Connectors (card0-HDMI-A-1) have no device of their own vendor.
	dirs, err := filepath.Glob(g.sysfs + "/class/drm/card[0-9]*/device")
	if err != nil {
		return nil, fail(ReasonConfig, err)
	}
	var cards []amdCard
	for _, dir := range dirs {
		name := filepath.Base(filepath.Dir(dir))
		vendor, err := g.readSysFile(dir + "/vendor")
		if errors.Is(err, fs.ErrPermission) {
			return cards, err
		}
		if vendor != amdVendor || strings.Contains(name, "-") || len(cards) >= maxGPUs {
			continue
		}
		cards = append(cards, g.readAMDCard(name, dir))
	}
	return cards, nil
}

func (g *gpu) readAMDCard(gpuName, dir string) amdCard {
	c := amdCard{gpu: gpuName, driver: "amdgpu"}
	c.uuid, _ = g.readSysFile(dir + "/unique_id")
	c.name, _ = g.readSysFile(dir + "/product_name")
	if c.name == "" {
		c.name, _ = g.readSysFile(dir + "/device") // the PCI number: 0x744c
	}
	// Asking a sleeping card wakes it up and costs its owner watts.
	if state, _ := g.readSysFile(dir + "/power/runtime_status"); state == "suspended" {
		return c
	}
	hwmon := dir + "/hwmon/none"
	if found, _ := filepath.Glob(dir + "/hwmon/hwmon[0-9]*"); len(found) > 0 {
		hwmon = found[0]
	}
	for i := range amdFields {
		f := &amdFields[i]
		for _, name := range []string{f.name, f.older} {
			if name == "" {
				continue
			}
			path := dir + "/" + name
			if rest, ok := strings.CutPrefix(name, "{hwmon}"); ok {
				path = hwmon + rest
			}
			text, err := g.readSysFile(path)
			if err != nil {
				continue
			}
			if v, ok := f.value(text); ok {
				c.values = append(c.values, gpuValue{f.desc, v})
				break
			}
		}
	}
	return c
}

// readSysFile reads a file of one line.
func (g *gpu) readSysFile(path string) (string, error) {
	data, err := readSmallFile(path, g.buf)
	g.buf = data
	return strings.TrimSpace(string(data)), err
}
