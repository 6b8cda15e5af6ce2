// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

// Command logbench compares `niodooctl logs analyze` with what the operations
// manual does: five searches by grep, and by ripgrep, over the same logs. It
// makes the logs itself, and runs everything in turns.
package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/niodoo/niodoo_exporter/internal/loganalysis"
	"github.com/niodoo/niodoo_exporter/internal/logcorpus"
)

func main() {
	program := flag.String("program", "bin/niodooctl", "niodooctl")
	size := flag.Int64("size", 512, "size of each log in MiB")
	rounds := flag.Int("rounds", 7, "rounds to take turns in; the medians are shown")
	dir := flag.String("dir", "", "folder for the logs, which are removed at the end; the default is that for temporary files")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := bench(ctx, os.Stdout, *program, *dir, *size<<20, max(*rounds, 1))
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "logbench:", err)
		os.Exit(1)
	}
}

// corpora are the logs that are searched.
var corpora = []struct {
	name  string
	write func(io.Writer, int64, []int) error
	words []int
}{
	{"sparse", logcorpus.WriteJSON, logcorpus.Sparse},
	{"dense", logcorpus.WriteJSON, logcorpus.Dense},
}

func bench(ctx context.Context, out io.Writer, program, dir string, size int64, rounds int) error {
	dir, err := os.MkdirTemp(dir, "logbench-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	for _, c := range corpora {
		path := filepath.Join(dir, c.name+".log")
		if err := writeLog(path, func(w io.Writer) error { return c.write(w, size, c.words) }); err != nil {
			return err
		}
		if err := compare(ctx, out, c.name, path, program, rounds); err != nil {
			return err
		}
		if err := os.Remove(path); err != nil {
			return err
		}
	}
	return nil
}

func writeLog(path string, write func(io.Writer) error) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	b := bytes.NewBuffer(make([]byte, 0, 2<<20))
	if err := write(&flusher{b, f}); err != nil {
		return err
	}
	_, err = f.Write(b.Bytes())
	return err
}

// flusher writes in large pieces.
type flusher struct {
	b *bytes.Buffer
	f *os.File
}

func (f *flusher) Write(p []byte) (int, error) {
	if f.b.Len()+len(p) > 1<<20 {
		if _, err := f.b.WriteTo(f.f); err != nil {
			return 0, err
		}
	}
	return f.b.Write(p)
}

// contestant is one way to the same result: programs that run one after the
// other. Their standard output is a pipe: into /dev/null grep stops at the
// first match.
type contestant struct {
	name     string
	env      []string
	commands [][]string

	runs []usage
	out  [][]byte // of the last run, by command
}

// usage is what one run took.
type usage struct {
	wall, cpu time.Duration
	memory    int64 // bytes, the most at any time
}

// searches are the manual's, for grep and for ripgrep.
var searches = []struct{ grep, rg []string }{
	{[]string{"-i", `error\|failed\|exception`}, []string{"-i", "error|failed|exception"}},
	{[]string{"-E", "(processing_time|latency|timeout)"}, []string{"(processing_time|latency|timeout)"}},
	{[]string{"-E", "(memory|consolidation|retrieval)"}, []string{"(memory|consolidation|retrieval)"}},
	{[]string{"-E", "(consciousness|emotional|toroidal)"}, []string{"(consciousness|emotional|toroidal)"}},
	{[]string{"-E", "(cpu|memory|disk|gpu)"}, []string{"(cpu|memory|disk|gpu)"}},
}

func contestants(program, path string) (classes, greps, rgs, whole, pipelines *contestant) {
	classes = &contestant{name: "niodooctl logs analyze --classes-only", commands: [][]string{{program, "logs", "analyze", "--classes-only", "-o", "json", path}}}
	whole = &contestant{name: "niodooctl logs analyze", commands: [][]string{{program, "logs", "analyze", path}}}
	greps = &contestant{name: "five LC_ALL=C grep -a -c", env: []string{"LC_ALL=C"}}
	rgs = &contestant{name: "five rg -a -c"}
	pipelines = &contestant{name: "the manual's five grep | tail -20"}
	for _, s := range searches {
		greps.commands = append(greps.commands, slices.Concat([]string{"grep", "-a", "-c"}, s.grep, []string{path}))
		rgs.commands = append(rgs.commands, slices.Concat([]string{"rg", "-a", "-c"}, s.rg, []string{path}))
		pipelines.commands = append(pipelines.commands, slices.Concat([]string{"sh", "-c", `grep "$@" | tail -20`, "grep"}, s.grep, []string{path}))
	}
	return classes, greps, rgs, whole, pipelines
}

// run runs the contestant once.
func (c *contestant) run(ctx context.Context) error {
	var u usage
	c.out = nil
	start := time.Now()
	for _, args := range c.commands {
		cmd := exec.CommandContext(ctx, args[0], args[1:]...)
		var out bytes.Buffer // not a file, so that it is a pipe
		cmd.Stdout, cmd.Stderr = &out, os.Stderr
		cmd.Env = append(os.Environ(), c.env...)
		err := cmd.Run()
		if exit, ok := errors.AsType[*exec.ExitError](err); err != nil && (!ok || exit.ExitCode() != 1) { // 1: no match
			return fmt.Errorf("%s: %w", strings.Join(args, " "), err)
		}
		u.cpu += cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
		if r, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage); ok {
			u.memory = max(u.memory, r.Maxrss<<10)
		}
		c.out = append(c.out, out.Bytes())
	}
	u.wall = time.Since(start)
	c.runs = append(c.runs, u)
	return nil
}

func (c *contestant) median(of func(usage) float64) float64 {
	v := make([]float64, len(c.runs))
	for i, u := range c.runs {
		v[i] = of(u)
	}
	slices.Sort(v)
	return (v[(len(v)-1)/2] + v[len(v)/2]) / 2
}

func wall(u usage) float64   { return u.wall.Seconds() }
func cpu(u usage) float64    { return u.cpu.Seconds() }
func memory(u usage) float64 { return float64(u.memory) / (1 << 20) }

func compare(ctx context.Context, out io.Writer, name, path, program string, rounds int) error {
	classes, greps, rgs, whole, pipelines := contestants(program, path)
	all := []*contestant{classes, greps, rgs, whole, pipelines}
	if _, err := exec.LookPath("rg"); err != nil {
		fmt.Fprintln(out, "ripgrep is not installed; it is left out")
		all = slices.Delete(all, 2, 3)
	}
	for round := range rounds + 1 { // the first one is to warm up
		for _, c := range all {
			if err := c.run(ctx); err != nil {
				return err
			}
			if round == 0 {
				c.runs = nil
			}
		}
	}
	if err := sameCounts(out, name, path, classes, greps); err != nil {
		return err
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "wall s\tCPU s\tMiB\t")
	for _, c := range all {
		fmt.Fprintf(w, "%.3f\t%.3f\t%.0f\t %s\n", c.median(wall), c.median(cpu), c.median(memory), c.name)
	}
	_ = w.Flush()
	for _, r := range []struct {
		fast, slow *contestant
		target     float64
	}{{classes, greps, 5}, {classes, rgs, 2}, {whole, pipelines, 4}} {
		if len(r.slow.runs) > 0 {
			fmt.Fprintf(out, "%s is %.1f times as fast as %s (target %g); CPU time %.1f times\n", r.fast.name,
				r.slow.median(wall)/r.fast.median(wall), r.slow.name, r.target, r.slow.median(cpu)/r.fast.median(cpu))
		}
	}
	fmt.Fprintln(out)
	return ctx.Err()
}

// sameCounts holds niodooctl's counts against grep's, and says which share of
// the lines matches.
func sameCounts(out io.Writer, name, path string, classes, greps *contestant) error {
	var r loganalysis.Report
	if err := json.Unmarshal(classes.out[0], &r); err != nil {
		return err
	}
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "%s: %d MiB, %d lines", name, info.Size()>>20, r.Lines)
	for i, c := range r.Classes {
		n, err := strconv.ParseUint(strings.TrimSpace(string(greps.out[i])), 10, 64)
		if err := cmp.Or(err, errNot(n == c.Lines)); err != nil {
			return fmt.Errorf("%s: niodooctl counts %d, grep %q: %w", c.Name, c.Lines, greps.out[i], err)
		}
		fmt.Fprintf(out, ", %.0f %% %s", 100*float64(n)/float64(r.Lines), c.Name)
	}
	fmt.Fprintln(out)
	return nil
}

func errNot(ok bool) error {
	if ok {
		return nil
	}
	return errors.New("not the same")
}
