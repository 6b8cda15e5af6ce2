// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// The identifying fields come first in every query; a row without them is not a row.
var nvidiaIdentity = []string{"index", "uuid", "name", "driver_version"}

// nvidiaFields are the figures nvidia-smi is asked for.
var nvidiaFields = []gpuField{
	{name: "utilization.gpu", desc: gpuUtilization, per: 100, most: 1},
	{name: "memory.used", desc: gpuMemoryUsed, unit: mebibyte},
	{name: "memory.total", desc: gpuMemoryTotal, unit: mebibyte},
	{name: "temperature.gpu", desc: gpuTemperature, unit: 1},
	{name: "power.draw", desc: gpuPower, unit: 1},
	{name: "utilization.memory", desc: gpuMemoryUtilization, per: 100, most: 1, optional: true},
	{name: "power.limit", desc: gpuPowerLimit, unit: 1, optional: true},
	{name: "fan.speed", desc: gpuFan, per: 100, optional: true},
	{name: "clocks.gr", desc: gpuGraphicsClock, unit: 1e6, optional: true},
	{name: "clocks.mem", desc: gpuMemoryClock, unit: 1e6, optional: true},
	{name: "pcie.link.width.current", desc: gpuPCIeWidth, unit: 1, optional: true},
	{name: "pcie.link.width.max", desc: gpuPCIeMaxWidth, unit: 1, optional: true},
	{name: "ecc.errors.uncorrected.volatile.total", desc: gpuECCErrors, unit: 1, optional: true},
	{name: "clocks_event_reasons.active", older: "clocks_throttle_reasons.active", desc: gpuThrottled, optional: true},
}

// nvidiaThrottles are the bits of nvmlClocksEventReasons that slow a processor
// down. The others (idle, clocks set by someone) are not a complaint.
var nvidiaThrottles = []struct {
	bit    uint64
	reason string
}{
	{0x04, "power_cap"}, {0x08, "hardware"}, {0x10, "sync_boost"}, {0x20, "thermal"}, {0x40, "hardware_thermal"}, {0x80, "power_brake"},
}

// nvidiaExits are nvidia-smi's exit codes, which are those of its library.
var nvidiaExits = map[int]struct {
	reason Reason
	means  string
}{
	2:  {ReasonOther, "it does not know an argument"},
	3:  {ReasonOther, "the operation is not supported"},
	4:  {ReasonPermission, "no permission"},
	6:  {ReasonNotFound, "there is no such processor"},
	8:  {ReasonUnhealthy, "a power cable is not attached"},
	9:  {ReasonNotReady, "the driver is not loaded"},
	10: {ReasonUnhealthy, "the driver saw an interrupt problem"},
	12: {ReasonNotFound, "the driver's library is missing"},
	13: {ReasonOther, "the driver's library is too old"},
	14: {ReasonUnhealthy, "a processor's own ROM is corrupted"},
	15: {ReasonUnhealthy, "a processor has fallen off the bus"},
	16: {ReasonUnhealthy, "a processor needs a reset"},
	17: {ReasonPermission, "the operating system refuses"},
	18: {ReasonConfig, "driver and library are of different versions: reboot"},
}

const (
	// maxNVIDIAOutput bounds what nvidia-smi may print, in bytes.
	maxNVIDIAOutput = 1 << 20
	// nvidiaWaitDelay is how long a killed nvidia-smi may keep its pipes open.
	nvidiaWaitDelay = 2 * time.Second
)

var errNoNVIDIASMI = fail(ReasonNotFound, errors.New("nvidia-smi is not installed"))

// nvidiaSMI runs nvidia-smi in the background: it takes seconds on some
// machines and hangs for good when the driver is wedged. One runs at a time.
type nvidiaSMI struct {
	program           string
	interval, timeout time.Duration
	now               func() time.Time

	mu   sync.Mutex
	pace *nvidiaPace // the one begun last

	// What follows belongs to the query in flight.
	unknown map[string]bool // fields this driver does not have
	driver  string          // the driver's version when that was learnt
	seen    map[string]bool // uuids
}

// nvidiaPace is the background work from the first scrape until close.
type nvidiaPace struct {
	cancel  context.CancelFunc
	ready   chan struct{} // closed once there is a sample
	stopped chan struct{} // closed when the loop has ended
	sample  *nvidiaSample // guarded by nvidiaSMI.mu
}

// nvidiaSample is what one run of nvidia-smi told.
type nvidiaSample struct {
	at   time.Time
	gpus []nvidiaGPU
	lost int
	err  error
}

type nvidiaGPU struct {
	index, uuid, name, driver string
	values                    []gpuValue
	throttles                 uint64
	throttlesKnown            bool
}

func newNVIDIASMI(program string, interval time.Duration, deps Deps) *nvidiaSMI {
	return &nvidiaSMI{program: program, interval: interval, timeout: interval, now: deps.Now,
		unknown: map[string]bool{}, seen: map[string]bool{}}
}

// latest returns the newest sample. The first time it starts the pace and
// waits for a sample until ctx ends.
func (n *nvidiaSMI) latest(ctx context.Context) *nvidiaSample {
	n.mu.Lock()
	p := n.pace
	if p == nil || p.cancel == nil {
		var before chan struct{}
		if p != nil {
			before = p.stopped
		}
		p = &nvidiaPace{ready: make(chan struct{}), stopped: make(chan struct{})}
		var life context.Context
		life, p.cancel = context.WithCancel(context.Background())
		n.pace = p
		go n.loop(life, p, before)
	}
	n.mu.Unlock()
	select {
	case <-p.ready:
		n.mu.Lock()
		defer n.mu.Unlock()
		return p.sample
	case <-ctx.Done():
		return &nvidiaSample{err: failf(ReasonTimeout, "nvidia-smi has not answered yet: %w", ctx.Err())}
	}
}

// close ends the pace. It waits for a program that can be killed.
func (n *nvidiaSMI) close() error {
	n.mu.Lock()
	p := n.pace
	if p == nil || p.cancel == nil {
		n.mu.Unlock()
		return nil
	}
	p.cancel()
	p.cancel = nil
	n.mu.Unlock()
	select {
	case <-p.stopped:
		return nil
	case <-time.After(2 * nvidiaWaitDelay): // it ends when the kernel lets go of the process
		return errors.New("nvidia-smi cannot be killed")
	}
}

// loop takes a sample at each tick. A query that does not come back in time
// is a failed sample, and the next one waits for it: an unkillable process
// never has a second beside it.
func (n *nvidiaSMI) loop(ctx context.Context, p *nvidiaPace, before chan struct{}) {
	defer close(p.stopped)
	if before != nil {
		<-before
	}
	tick := time.NewTicker(n.interval)
	defer tick.Stop()
	keep := func(s *nvidiaSample) {
		n.mu.Lock()
		first := p.sample == nil
		p.sample = s
		n.mu.Unlock()
		if first {
			close(p.ready)
		}
	}
	for {
		done := make(chan *nvidiaSample, 1)
		go func() {
			defer func() {
				if r := recover(); r != nil {
					done <- &nvidiaSample{at: n.now(), err: panicError(r)}
				}
			}()
			done <- n.query(ctx)
		}()
		late := time.NewTimer(n.timeout + 2*nvidiaWaitDelay)
		select {
		case s := <-done:
			if ctx.Err() == nil {
				keep(s)
			}
		case <-late.C:
			keep(&nvidiaSample{at: n.now(), err: failf(ReasonTimeout, "nvidia-smi cannot be killed after %s: the driver hangs", n.timeout)})
			<-done // close has a patience of its own
		}
		late.Stop()
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if ctx.Err() != nil {
			return
		}
	}
}

// query runs nvidia-smi until it knows all fields it is asked for.
func (n *nvidiaSMI) query(ctx context.Context) *nvidiaSample {
	ctx, cancel := context.WithTimeout(ctx, n.timeout)
	defer cancel()
	if n.program == "" {
		return &nvidiaSample{at: n.now(), err: errNoNVIDIASMI}
	}
	program, err := exec.LookPath(n.program)
	if err == nil {
		program, err = filepath.Abs(program)
	}
	switch {
	case errors.Is(err, exec.ErrNotFound):
		return &nvidiaSample{at: n.now(), err: errNoNVIDIASMI}
	case err != nil && classify(err) == ReasonNotFound:
		return &nvidiaSample{at: n.now(), err: errNoNVIDIASMI}
	case err != nil:
		return &nvidiaSample{at: n.now(), err: err}
	}
	// Each turn forgets at least one name, so it ends.
	for {
		fields := n.fields()
		out, code, err := n.run(ctx, program, fields)
		if err != nil {
			return &nvidiaSample{at: n.now(), err: err}
		}
		if code == 2 && n.forget(out, fields) {
			continue
		}
		s := n.parse(out, code, fields)
		// Another driver may know what the last one did not.
		if len(s.gpus) > 0 && s.gpus[0].driver != n.driver {
			before := n.driver
			n.driver = s.gpus[0].driver
			if before != "" {
				clear(n.unknown)
			}
		}
		return s
	}
}

// nvidiaColumn is a field with the name it is asked by.
type nvidiaColumn struct {
	*gpuField
	ask string
}

// fields returns the fields the driver is not known to lack.
func (n *nvidiaSMI) fields() []nvidiaColumn {
	var columns []nvidiaColumn
	for i := range nvidiaFields {
		f := &nvidiaFields[i]
		switch {
		case !n.unknown[f.name]:
			columns = append(columns, nvidiaColumn{f, f.name})
		case f.older != "" && !n.unknown[f.older]:
			columns = append(columns, nvidiaColumn{f, f.older})
		}
	}
	return columns
}

// forget notes the field that nvidia-smi says it does not know, or all
// optional ones if it does not say which. It reports whether that helps.
func (n *nvidiaSMI) forget(out []byte, asked []nvidiaColumn) bool {
	for line := range strings.Lines(string(out)) {
		rest, ok := strings.CutPrefix(line, `Field "`)
		name, rest, closed := strings.Cut(rest, `"`)
		if !ok || !closed || !strings.Contains(rest, "not a valid field") {
			continue
		}
		if slices.ContainsFunc(asked, func(c nvidiaColumn) bool { return c.ask == name }) {
			n.unknown[name] = true
			return true
		}
	}
	helps := false
	for _, c := range asked {
		if c.optional {
			n.unknown[c.name], helps = true, true
			if c.older != "" {
				n.unknown[c.older] = true
			}
		}
	}
	return helps
}

// run runs nvidia-smi once. An exit code is not an error: data may come with it.
func (n *nvidiaSMI) run(ctx context.Context, program string, fields []nvidiaColumn) (out []byte, code int, err error) {
	names := slices.Clone(nvidiaIdentity)
	for _, f := range fields {
		names = append(names, f.ask)
	}
	cmd := exec.CommandContext(ctx, program, "--query-gpu="+strings.Join(names, ","), "--format=csv,noheader,nounits")
	cmd.Env = []string{"LC_ALL=C"}
	cmd.WaitDelay = nvidiaWaitDelay
	printed := &nvidiaOutput{left: maxNVIDIAOutput}
	cmd.Stdout, cmd.Stderr = printed, printed
	err = cmd.Run()
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return nil, 0, failf(ReasonTimeout, "nvidia-smi did not answer within %s", n.timeout)
	case printed.over:
		return nil, 0, failf(ReasonTooLarge, "nvidia-smi printed more than %d bytes", maxNVIDIAOutput)
	case errors.As(err, &exit) && exit.ExitCode() >= 0:
		return printed.kept, exit.ExitCode(), nil
	case err != nil && !errors.Is(err, exec.ErrWaitDelay):
		return nil, 0, fmt.Errorf("running nvidia-smi: %w", err)
	}
	return printed.kept, 0, nil
}

// nvidiaOutput keeps what is written to it up to its cap and swallows the rest.
type nvidiaOutput struct {
	kept []byte
	left int
	over bool
}

func (b *nvidiaOutput) Write(p []byte) (int, error) {
	keep := p[:min(len(p), b.left)]
	b.over = b.over || len(keep) < len(p)
	b.left -= len(keep)
	b.kept = append(b.kept, keep...)
	return len(p), nil
}

// parse reads the rows. There is no quoting: a row is known by its number of
// columns and an index in front; the rest is what nvidia-smi has to say.
func (n *nvidiaSMI) parse(out []byte, code int, fields []nvidiaColumn) *nvidiaSample {
	s := &nvidiaSample{at: n.now()}
	var said []string
	lost := 0
	for line := range strings.Lines(string(out)) {
		line = strings.TrimSpace(line)
		cells := strings.Split(line, ",")
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		_, err := strconv.ParseUint(cells[0], 10, 16)
		switch {
		case line == "":
		case err != nil || len(cells) != len(nvidiaIdentity)+len(fields):
			if strings.Contains(line, "GPU is lost") || strings.HasPrefix(line, "Unable to determine the device handle") {
				lost++
			}
			if !strings.HasPrefix(line, "WARNING:") {
				said = append(said, line)
			}
		case slices.ContainsFunc(cells, func(c string) bool { return strings.Contains(c, "GPU is lost") }):
			lost++
			said = append(said, line)
		case len(s.gpus) < maxGPUs:
			s.gpus = append(s.gpus, parseNVIDIARow(cells, fields))
		}
	}
	s.lost = max(lost, n.missing(s.gpus))
	message := cleanLabel(strings.Join(said, " "))
	switch exit, known := nvidiaExits[code]; {
	case code != 0 && known:
		s.err = failf(exit.reason, "nvidia-smi exited with %d, %s: %s", code, exit.means, message)
	case code != 0:
		s.err = failf(ReasonOther, "nvidia-smi exited with %d: %s", code, message)
	case lost > 0:
		s.err = failf(ReasonUnhealthy, "nvidia-smi: %s", message)
	case len(s.gpus) == 0 && strings.Contains(message, "No devices were found"):
		s.err = failf(ReasonNotFound, "nvidia-smi: %s", message)
	case len(s.gpus) == 0 || len(said) > 0:
		s.err = failf(ReasonParse, "nvidia-smi printed something else than rows: %q", message)
	}
	if code == 15 && s.lost == 0 {
		s.lost = 1
	}
	return s
}

// missing returns how many processors that answered earlier are not among
// those that do now, and remembers these.
func (n *nvidiaSMI) missing(now []nvidiaGPU) int {
	for _, g := range now {
		if len(n.seen) < maxGPUs {
			n.seen[g.uuid] = true
		}
	}
	count := len(n.seen)
	for _, g := range now {
		if n.seen[g.uuid] {
			count--
		}
	}
	return max(count, 0)
}

func parseNVIDIARow(cells []string, fields []nvidiaColumn) nvidiaGPU {
	g := nvidiaGPU{index: cells[0], uuid: cells[1], name: cells[2], driver: cells[3]}
	for i, f := range fields {
		text := cells[len(nvidiaIdentity)+i]
		if f.desc == gpuThrottled {
			bits, err := strconv.ParseUint(text, 0, 64) // 0x0000000000000004
			g.throttles, g.throttlesKnown = bits, err == nil
			continue
		}
		if v, ok := f.value(text); ok {
			g.values = append(g.values, gpuValue{f.desc, v})
		}
	}
	return g
}

// send exports a sample. The figures of a sample that failed as a whole are
// absent; what a failing nvidia-smi did print stands.
func (s *nvidiaSample) send(ch chan<- prometheus.Metric, now time.Time) {
	if s.err == nil || s.lost > 0 {
		ch <- gpuLost.metric(float64(s.lost))
	}
	if s.err != nil && len(s.gpus) == 0 {
		return
	}
	ch <- gpuDevices.metric(float64(len(s.gpus)), "nvidia")
	ch <- gpuSampleAge.metric(max(now.Sub(s.at).Seconds(), 0))
	for _, g := range s.gpus {
		ch <- gpuInfo.metric(1, g.index, g.uuid, g.name, g.driver, "nvidia")
		for _, v := range g.values {
			ch <- v.desc.metric(v.value, g.index)
		}
		if !g.throttlesKnown {
			continue
		}
		for _, t := range nvidiaThrottles {
			ch <- gpuThrottled.boolean(g.throttles&t.bit != 0, g.index, t.reason)
		}
	}
}
