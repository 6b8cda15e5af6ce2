// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/niodoo/niodoo_exporter/internal/config"
)

// Rows as nvidia-smi prints them for the fields of nvidiaFields.
const (
	gpuA6000 = "0, GPU-edfee158-11c1-52b8-0517-92f30e7fac88, NVIDIA RTX A6000, 570.172.08, 37, 10240, 49140, 62, 145.21, 12, 300.00, 48, 1800, 7600, 8, 16, 0, 0x0000000000000024"
	gpuH100  = "1, GPU-8d1f2c3e-6f0b-7c44-93aa-0d5c9a7e1b20, NVIDIA H100 80GB HBM3, 570.172.08, 0, 0, 81559, 41, 69.85, 0, 700.00, [N/A], 345, 2619, 16, 16, 3, 0x0000000000000001"
	gpuMIG   = "0, GPU-8d1f2c3e-6f0b-7c44-93aa-0d5c9a7e1b20, NVIDIA H100 80GB HBM3, 550.54.15, [N/A], 87, 81559, 36, 71.20, [N/A], 700.00, [N/A], 345, 2619, 16, 16, 0, 0x0000000000000001"
	gpuVague = "0, GPU-11111111-2222-3333-4444-555555555555, NVIDIA T400, 470.256.02, [Not Supported], [Unknown Error], 2048, ERR!, N/A, [Insufficient Permissions], , 30, 65535, nan, -1, inf, [N/A], [N/A]"
)

// gpuSMI makes an nvidia-smi that does what the shell text says and returns
// its path.
func gpuSMI(t testing.TB, behaviour string) string {
	t.Helper()
	script, err := filepath.Abs("testdata/gpu/nvidia-smi")
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(t.TempDir(), "nvidia-smi")
	if err := os.Symlink(script, program); err != nil {
		t.Fatal(err)
	}
	gpuBehaves(t, program, behaviour)
	return program
}

// gpuBehaves changes what a program of gpuSMI does, from one run to the next.
func gpuBehaves(t testing.TB, program, behaviour string) {
	t.Helper()
	dir := filepath.Dir(program)
	if err := os.WriteFile(dir+"/next", []byte(behaviour+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(dir+"/next", dir+"/behaviour"); err != nil {
		t.Fatal(err)
	}
}

func gpuCalls(t testing.TB, program string) []string {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(filepath.Dir(program), "calls"))
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(strings.TrimSpace(string(raw)), "\n")
}

func gpuPrint(lines ...string) string {
	return "cat <<'END'\n" + strings.Join(lines, "\n") + "\nEND"
}

func gpuConfig(t testing.TB, program, sysfs string) *config.Config {
	t.Helper()
	return only(t, "gpu", fmt.Sprintf("{nvidia_smi: %q, sysfs: %q}", program, sysfs))
}

// gpuOf reaches into a scraper for what the file cannot set: a quicker pace.
func gpuOf(s *Scraper) *gpu { return s.units[0].collector.(*gpu) }

func TestGPUNVIDIA(t *testing.T) {
	t.Parallel()
	program := gpuSMI(t, gpuPrint(gpuA6000, gpuH100))
	s := scraper(t, gpuConfig(t, program, t.TempDir()))
	golden(t, "gpu_nvidia", scrape(t, s).Families, gpuSampleAge.Name)

	scrape(t, s)
	if calls := gpuCalls(t, program); len(calls) != 1 {
		t.Errorf("two scrapes within the interval ran nvidia-smi %d times", len(calls))
	}
}

// What the driver does not know is absent, not zero.
func TestGPUAbsentValues(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		row           string
		there, absent []*Desc
	}{
		"MIG": {gpuMIG, []*Desc{gpuMemoryUsed, gpuMemoryTotal, gpuTemperature, gpuPower, gpuPowerLimit},
			[]*Desc{gpuUtilization, gpuMemoryUtilization, gpuFan}},
		"every word for unknown": {gpuVague, []*Desc{gpuMemoryTotal, gpuFan, gpuGraphicsClock},
			[]*Desc{gpuUtilization, gpuMemoryUtilization, gpuMemoryUsed, gpuTemperature, gpuPower, gpuPowerLimit, gpuMemoryClock,
				gpuPCIeWidth, gpuPCIeMaxWidth, gpuECCErrors, gpuThrottled}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			res := scrape(t, scraper(t, gpuConfig(t, gpuSMI(t, gpuPrint(c.row)), t.TempDir())))
			lint(t, res.Families)
			if len(res.Failures) > 0 {
				t.Error(res.Failures)
			}
			out := text(res.Families)
			for _, d := range c.there {
				if !strings.Contains(out, "\n"+d.Name+"{") {
					t.Errorf("%s is missing", d.Name)
				}
			}
			for _, d := range c.absent {
				if strings.Contains(out, "\n"+d.Name+"{") {
					t.Errorf("%s is exported", d.Name)
				}
			}
		})
	}
}

// gpuRejecting prints rows only for queries without the given fields, like a
// driver that does not have them, and one row of as many columns as asked.
func gpuRejecting(fields ...string) string {
	var b strings.Builder
	for _, f := range fields {
		fmt.Fprintf(&b, "case \"$1\" in *%s*) printf 'Field \"%s\" is not a valid field to query.\\n\\n'; exit 2;; esac\n", f, f)
	}
	b.WriteString(`columns=$(echo "$1" | tr -cd , | wc -c)
printf '0, GPU-1, Quadro, 390.157'
while [ "$columns" -gt 3 ]; do printf ', 1'; columns=$((columns - 1)); done
echo`)
	return b.String()
}

// A field that an older driver does not know costs that field alone, is asked
// for once, and is tried under its older name.
func TestGPUOlderDriver(t *testing.T) {
	t.Parallel()
	program := gpuSMI(t, gpuRejecting("clocks_event_reasons.active", "pcie.link.width.max"))
	s := scraper(t, gpuConfig(t, program, t.TempDir()))
	gpuOf(s).nvidia.interval = 10 * time.Millisecond
	res := scrape(t, s)
	if v := value(t, res.Families, `niodoo_gpu_utilization_ratio{gpu="0"}`); v != 0.01 {
		t.Errorf("utilization is %v", v)
	}
	if _, ok := lookup(res.Families, `niodoo_gpu_pcie_link_max_width{gpu="0"}`); ok {
		t.Error("an unknown field is exported")
	}
	value(t, res.Families, `niodoo_gpu_throttled{gpu="0",reason="thermal"}`)
	hostAwait(t, "a fourth call", func() bool { return len(gpuCalls(t, program)) >= 4 })
	for i, call := range gpuCalls(t, program) {
		asks := strings.Contains(call, "clocks_event_reasons") || strings.Contains(call, "width.max")
		if asks != (i < 2) {
			t.Errorf("call %d: %s", i, call)
		}
	}
	if calls := gpuCalls(t, program); !strings.Contains(calls[2], "clocks_throttle_reasons.active") {
		t.Errorf("the older name is not asked for: %s", calls[2])
	}
}

// A driver that rejects a query without saying what it does not like is asked
// for the least.
func TestGPUUnnamedField(t *testing.T) {
	t.Parallel()
	program := gpuSMI(t, "case \"$1\" in *fan.speed*) echo 'ERROR: Option --query-gpu=... is not recognized.'; exit 2;; esac\n"+gpuRejecting())
	res := scrape(t, scraper(t, gpuConfig(t, program, t.TempDir())))
	value(t, res.Families, `niodoo_gpu_power_watts{gpu="0"}`)
	if len(res.Failures) > 0 || len(gpuCalls(t, program)) != 2 {
		t.Errorf("failures %v, calls %v", res.Failures, gpuCalls(t, program))
	}
}

func TestGPUFailures(t *testing.T) {
	t.Parallel()
	const driver = "echo \"NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure that the latest NVIDIA driver is installed and running.\"; exit 9"
	for name, c := range map[string]struct {
		behaviour string
		reason    Reason
	}{
		"driver not loaded":  {driver, ReasonNotReady},
		"library missing":    {"echo \"NVIDIA-SMI couldn't find libnvidia-ml.so library in your system.\"; exit 12", ReasonNotFound},
		"mismatch":           {"echo 'Failed to initialize NVML: Driver/library version mismatch'; exit 18", ReasonConfig},
		"no permission":      {"echo 'Insufficient Permissions' >&2; exit 4", ReasonPermission},
		"blocked":            {"exit 17", ReasonPermission},
		"no devices":         {"echo 'No devices were found'", ReasonNotFound},
		"no devices, code 6": {"echo 'No devices were found'; exit 6", ReasonNotFound},
		"lost":               {"echo 'Unable to determine the device handle for GPU 0000:02:00.0: GPU is lost.  Reboot the system to recover this GPU'; exit 15", ReasonUnhealthy},
		"other":              {"exit 255", ReasonOther},
		"killed":             {"kill -9 $$", ReasonOther},
		"argument":           {"echo 'what?'; exit 2", ReasonOther},
		"empty":              {"true", ReasonParse},
		"garbage":            {"head -c 1000 /dev/urandom", ReasonParse},
		"a table":            {"echo '| NVIDIA-SMI 570.172.08 |'", ReasonParse},
		"too few columns":    {gpuPrint("0, GPU-1, Quadro, 390.157, 1"), ReasonParse},
		"flood":              {"head -c 2000000 /dev/zero", ReasonTooLarge},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			expectFailure(t, gpuConfig(t, gpuSMI(t, c.behaviour), t.TempDir()), "gpu", false, c.reason)
		})
	}
	t.Run("not a program", func(t *testing.T) {
		t.Parallel()
		file := filepath.Join(t.TempDir(), "nvidia-smi")
		if err := os.WriteFile(file, nil, 0o644); err != nil {
			t.Fatal(err)
		}
		expectFailure(t, gpuConfig(t, file, t.TempDir()), "gpu", false, ReasonPermission)
	})
	t.Run("missing", func(t *testing.T) {
		t.Parallel()
		expectFailure(t, gpuConfig(t, filepath.Join(t.TempDir(), "nvidia-smi"), t.TempDir()), "gpu", false, ReasonNotFound)
	})
	t.Run("nothing there", func(t *testing.T) {
		t.Parallel()
		expectFailure(t, gpuConfig(t, "", t.TempDir()), "gpu", false, ReasonNotFound)
	})
}

// Switched on by the flag alone, a machine without a processor is well.
func TestGPUIdle(t *testing.T) {
	t.Parallel()
	cfg := config.Default()
	cfg.GPU.SysFS = t.TempDir()
	c, err := newGPU(cfg, Deps{}.withDefaults())
	if err != nil {
		t.Fatal(err)
	}
	g := c.(*gpu)
	t.Cleanup(func() { _ = g.Close() })
	g.nvidia.program = "nvidia-smi-that-is-not-installed"
	ch := make(chan prometheus.Metric, 16)
	if err := g.Update(t.Context(), ch); err != nil || len(ch) != 0 {
		t.Errorf("failure %v, %d series", err, len(ch))
	}
}

// What nvidia-smi prints beside an exit code stands; so does the failure.
func TestGPUCorruptedROM(t *testing.T) {
	t.Parallel()
	program := gpuSMI(t, gpuPrint(gpuA6000, "WARNING: infoROM is corrupted at gpu 0000:04:00.0")+"\nexit 14")
	res := expectFailure(t, gpuConfig(t, program, t.TempDir()), "gpu", false, ReasonUnhealthy)
	value(t, res.Families, `niodoo_gpu_power_watts{gpu="0"}`)
}

// A processor that falls off the bus is seen, and so are those that stay.
func TestGPULost(t *testing.T) {
	t.Parallel()
	for name, after := range map[string]string{
		"with a word": gpuPrint(gpuA6000, "Unable to determine the device handle for GPU0000:07:00.0: Unknown Error") + "\nexit 15",
		"in a row":    gpuPrint(gpuA6000, strings.Replace(gpuH100, "41", "[GPU is lost]", 1)),
		"silently":    gpuPrint(gpuA6000),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			program := gpuSMI(t, gpuPrint(gpuA6000, gpuH100))
			s := scraper(t, gpuConfig(t, program, t.TempDir()))
			gpuOf(s).nvidia.interval = 10 * time.Millisecond
			if v := value(t, scrape(t, s).Families, "niodoo_gpu_lost"); v != 0 {
				t.Errorf("%v lost before", v)
			}
			gpuBehaves(t, program, after)
			var res Result
			hostAwait(t, "lost processor", func() bool {
				res = scrape(t, s)
				v, _ := lookup(res.Families, "niodoo_gpu_lost")
				return v == 1
			})
			lint(t, res.Families)
			if v := value(t, res.Families, `niodoo_gpu_devices{vendor="nvidia"}`); v != 1 {
				t.Errorf("%v processors", v)
			}
			if failed := len(res.Failures) > 0; failed != (name != "silently") {
				t.Errorf("failures: %v", res.Failures)
			}
			gpuBehaves(t, program, gpuPrint(gpuA6000, gpuH100))
			hostAwait(t, "recovery", func() bool {
				v, ok := lookup(scrape(t, s).Families, "niodoo_gpu_lost")
				return ok && v == 0
			})
		})
	}
}

// A program that hangs is killed, and its failure shows instead of old figures.
func TestGPUHanging(t *testing.T) {
	t.Parallel()
	program := gpuSMI(t, gpuPrint(gpuA6000))
	s := scraper(t, gpuConfig(t, program, t.TempDir()))
	n := gpuOf(s).nvidia
	n.interval, n.timeout = 10*time.Millisecond, 5*time.Second
	value(t, scrape(t, s).Families, `niodoo_gpu_power_watts{gpu="0"}`)
	closeConnections(s) // the pace is over: its fields may be changed
	gpuBehaves(t, program, "exec sleep 1000")
	n.timeout = 50 * time.Millisecond
	res := expectFailureOf(t, s, "gpu", false, ReasonTimeout, 5*time.Second)
	if _, ok := lookup(res.Families, `niodoo_gpu_power_watts{gpu="0"}`); ok {
		t.Error("figures of an earlier sample are exported")
	}
}

// The first scrape waits for the first sample no longer than it may.
func TestGPUFirstSampleLate(t *testing.T) {
	t.Parallel()
	s := scraper(t, gpuConfig(t, gpuSMI(t, "exec sleep 1000"), t.TempDir()))
	start := time.Now()
	expectFailureOf(t, s, "gpu", false, ReasonTimeout, 200*time.Millisecond)
	closeConnections(s)
	if d := time.Since(start); d > 4*time.Second {
		t.Errorf("scraping and closing took %s", d)
	}
}

// The figures are of a run in the background, and say how old they are.
func TestGPUAge(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 24, 3, 0, 0, 0, time.UTC)
	s := &nvidiaSample{at: now.Add(-12 * time.Second), gpus: []nvidiaGPU{{index: "0"}}}
	ch := make(chan prometheus.Metric, 16)
	s.send(ch, now)
	for len(ch) > 0 {
		if m := (<-ch).(*sample); m.desc == gpuSampleAge {
			if m.value != 12 {
				t.Errorf("age is %v", m.value)
			}
			return
		}
	}
	t.Error("there is no age")
}

// gpuSysfs makes a sysfs of the files given.
func gpuSysfs(t testing.TB, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for _, name := range slices.Sorted(maps.Keys(files)) {
		path := filepath.Join(root, "class/drm", name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(files[name]), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func gpuAMDFiles() map[string]string {
	return map[string]string{
		"card0/device/vendor":                       "0x8086\n", // the processor's own graphics
		"card0-HDMI-A-1/device/vendor":              "0x1002\n",
		"renderD128/device/vendor":                  "0x1002\n",
		"card1/device/vendor":                       "0x1002\n",
		"card1/device/device":                       "0x744c\n",
		"card1/device/unique_id":                    "a1b2c3d4e5f60718\n",
		"card1/device/product_name":                 "Radeon RX 7900 XTX\n",
		"card1/device/power/runtime_status":         "active\n",
		"card1/device/gpu_busy_percent":             "73\n",
		"card1/device/mem_busy_percent":             "12\n",
		"card1/device/mem_info_vram_used":           "5368709120\n",
		"card1/device/mem_info_vram_total":          "25753026560\n",
		"card1/device/hwmon/hwmon3/temp1_input":     "54000\n",
		"card1/device/hwmon/hwmon3/power1_average":  "187000000\n",
		"card1/device/hwmon/hwmon3/power1_cap":      "339000000\n",
		"card1/device/hwmon/hwmon3/pwm1":            "102\n",
		"card1/device/hwmon/hwmon3/freq1_input":     "2482000000\n",
		"card1/device/hwmon/hwmon3/freq2_input":     "1249000000\n",
		"card2/device/vendor":                       "0x1002\n",
		"card2/device/device":                       "0x1681\n",
		"card2/device/power/runtime_status":         "active\n",
		"card2/device/gpu_busy_percent":             "65535\n", // what some firmware says for "unknown"
		"card2/device/mem_info_vram_used":           "what\n",
		"card2/device/mem_info_vram_total":          "536870912\n",
		"card2/device/hwmon/hwmon4/power1_input":    "9215000\n", // newer cards have no average
		"card2/device/hwmon/hwmon4/temp1_input/dir": "",          // reading it fails: EISDIR for EINVAL
		"card3/device/vendor":                       "0x1002\n",
		"card3/device/device":                       "0x73df\n",
		"card3/device/power/runtime_status":         "suspended\n",
		"card3/device/gpu_busy_percent":             "1\n",
	}
}

func TestGPUAMD(t *testing.T) {
	t.Parallel()
	s := scraper(t, gpuConfig(t, "", gpuSysfs(t, gpuAMDFiles())))
	golden(t, "gpu_amd", scrape(t, s).Families)
}

func TestGPUBothVendors(t *testing.T) {
	t.Parallel()
	cfg := gpuConfig(t, gpuSMI(t, gpuPrint(gpuA6000)), gpuSysfs(t, gpuAMDFiles()))
	res := scrape(t, scraper(t, cfg))
	lint(t, res.Families)
	value(t, res.Families, `niodoo_gpu_power_watts{gpu="0"}`)
	value(t, res.Families, `niodoo_gpu_power_watts{gpu="card1"}`)
	if len(res.Failures) > 0 {
		t.Error(res.Failures)
	}
}
