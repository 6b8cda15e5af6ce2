// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package scrapecost

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/niodoo/niodoo_exporter/internal/localserver"
)

// Program is a running exporter.
type Program struct {
	// Name is the program's file name.
	Name string
	// Address is host:port of its HTTP endpoint.
	Address string

	cmd    *exec.Cmd
	out    bytes.Buffer // read once it has ended
	exited <-chan struct{}
}

// startTimeout bounds the wait for a program to answer.
const startTimeout = 30 * time.Second

// Build builds one of the repository's commands, as released, into dir.
func Build(ctx context.Context, root, command, dir string) (string, error) {
	path := filepath.Join(dir, command)
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags=-s -w", "-o", path, "./cmd/"+command)
	cmd.Dir, cmd.Env = root, append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building %s: %w: %s", command, err, out)
	}
	return path, nil
}

// StartProgram starts an exporter and waits until it listens. {address} in an
// argument becomes where it is to do so; env is added to the environment.
func StartProgram(ctx context.Context, path string, env []string, args ...string) (*Program, error) {
	address, err := freeAddress()
	if err != nil {
		return nil, err
	}
	p := &Program{Name: filepath.Base(path), Address: address}
	for i, a := range args {
		args[i] = strings.ReplaceAll(a, "{address}", address)
	}
	p.cmd = exec.Command(path, args...)
	p.cmd.Env = append(os.Environ(), env...)
	p.cmd.Stdout, p.cmd.Stderr = &p.out, &p.out
	if p.exited, err = localserver.StartBound(p.cmd); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
		if err == nil {
			return p, conn.Close()
		}
		select {
		case <-p.exited:
			return nil, fmt.Errorf("%s ended: %s", p.Name, p.out.String())
		case <-ctx.Done():
			p.Stop()
			return nil, fmt.Errorf("%s does not listen on %s: %w: %s", p.Name, address, err, p.out.String())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// URL is the URL of a path of the program.
func (p *Program) URL(path string) string { return "http://" + p.Address + path }

// Stop ends the program.
func (p *Program) Stop() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.exited:
	case <-time.After(15 * time.Second):
		_ = p.cmd.Process.Kill()
		<-p.exited
	}
}

// tick is the unit of times in /proc/PID/stat: USER_HZ, 100 on every Linux that Go supports.
const tick = 10 * time.Millisecond

// CPU returns the processor time the program has used: utime and stime of /proc/PID/stat.
func (p *Program) CPU() (time.Duration, error) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	_, rest, _ := bytes.Cut(raw, []byte(") ")) // the name before it may hold spaces
	f := strings.Fields(string(rest))          // f[0] is field 3
	if len(f) < 13 {
		return 0, fmt.Errorf("%s: /proc/PID/stat has only %d fields", p.Name, len(f)+2)
	}
	var sum time.Duration
	for _, s := range f[11:13] {
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil {
			return 0, err
		}
		sum += time.Duration(n) * tick
	}
	return sum, nil
}

// Memory is what a program keeps resident, in bytes: all of it, and of that
// what is its own and not backed by a file such as the program.
type Memory struct{ Resident, Anonymous int64 }

// Memory reads VmRSS and RssAnon of /proc/PID/status.
func (p *Program) Memory() (Memory, error) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		return Memory{}, err
	}
	var m Memory
	for line := range strings.Lines(string(raw)) {
		f := strings.Fields(line)
		if len(f) != 3 || f[2] != "kB" {
			continue
		}
		kib, err := strconv.ParseInt(f[1], 10, 64)
		if err != nil {
			return Memory{}, err
		}
		switch f[0] {
		case "VmRSS:":
			m.Resident = kib << 10
		case "RssAnon:":
			m.Anonymous = kib << 10
		}
	}
	return m, nil
}

// freeAddress returns a loopback address that was free a moment ago.
func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}
