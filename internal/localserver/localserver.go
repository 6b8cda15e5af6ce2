// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

// Package localserver runs real servers on a temporary directory and a free
// loopback port or a socket, for the tests, the demo and the restore drill. Each
// is stopped by whoever started it; none touches what is installed on the machine.
package localserver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// startTimeout bounds the wait for a server to answer.
const startTimeout = 60 * time.Second

// ErrNotInstalled says that a server's program is not on this machine. The
// error's text names the package that has it.
var ErrNotInstalled = errors.New("not installed")

// Process is a server that this package started.
type Process struct {
	cmd    *exec.Cmd
	out    *tail
	exited <-chan struct{}
	once   sync.Once
}

// launch is how a server is started and how it is known to answer.
type launch struct {
	path  string
	args  []string
	dir   string
	owner *syscall.Credential // nil: as we are
	env   []string            // nil: ours
	ready func(context.Context) error
}

// start runs a server and waits until it is ready. A server that ends before
// that is reported with the last lines it wrote.
func start(ctx context.Context, l launch) (*Process, error) {
	p := &Process{out: &tail{}}
	p.cmd = exec.Command(l.path, l.args...)
	p.cmd.Dir, p.cmd.Env = l.dir, l.env
	p.cmd.Stdout, p.cmd.Stderr = p.out, p.out
	p.cmd.WaitDelay = 10 * time.Second // its children may hold its output open
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Credential: l.owner}
	name := filepath.Base(l.path)
	var err error
	if p.exited, err = StartBound(p.cmd); err != nil {
		return nil, fmt.Errorf("starting %s: %w", name, err)
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for wait := 5 * time.Millisecond; ; wait = min(2*wait, 200*time.Millisecond) {
		err := l.ready(ctx)
		if err == nil {
			return p, nil
		}
		select {
		case <-p.exited:
			return nil, fmt.Errorf("%s ended before it was ready: %s", name, p.out)
		case <-ctx.Done():
			p.Kill()
			return nil, fmt.Errorf("%s was not ready in time: %w; it wrote: %s", name, err, p.out)
		case <-time.After(wait):
		}
	}
}

// StartBound starts a program that dies with us, be it by SIGKILL: no test
// leaves a process behind. The channel is closed once it has been waited for.
//
// The kernel takes the end of the thread that started a program for the
// parent's. So a thread of its own waits for it: any other one may end, with a
// goroutine that is locked to it, long before the program.
func StartBound(cmd *exec.Cmd) (<-chan struct{}, error) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	started, ended := make(chan error), make(chan struct{})
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // how it ended is in cmd.ProcessState
			close(ended)
		}
	}()
	return ended, <-started
}

// Pid returns the server's process id.
func (p *Process) Pid() int { return p.cmd.Process.Pid }

// Signal sends a signal to the server: SIGSTOP hangs it, SIGCONT lets it go on.
func (p *Process) Signal(s syscall.Signal) error { return p.cmd.Process.Signal(s) }

// Kill ends the server at once, as a crash would.
func (p *Process) Kill() { p.stop(syscall.SIGKILL) }

// stop ends the server with a signal, and by force if that takes over 10 s.
func (p *Process) stop(s syscall.Signal) {
	p.once.Do(func() {
		_ = p.cmd.Process.Signal(syscall.SIGCONT) // one that a test has stopped cannot end
		_ = p.cmd.Process.Signal(s)
		select {
		case <-p.exited:
		case <-time.After(10 * time.Second):
			_ = p.cmd.Process.Kill()
			<-p.exited
		}
	})
}

// Log returns the last lines the server wrote.
func (p *Process) Log() string { return p.out.String() }

// freePort returns a TCP port on the loopback interface that was free a moment
// ago. It stays below the ephemeral range, whose ports outgoing connections take.
func freePort() (int, error) {
	for range 200 {
		port := 20000 + int(time.Now().UnixNano()/1000)%12000
		l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err == nil {
			l.Close()
			return port, nil
		}
		time.Sleep(time.Millisecond) // another port number
	}
	return 0, errors.New("no free port found on 127.0.0.1")
}

// find returns the path of a program in the given directories or in PATH.
func find(program, pkg string, dirs ...string) (string, error) {
	for _, d := range dirs {
		if p := filepath.Join(d, program); isExecutable(p) {
			return p, nil
		}
	}
	if p, err := exec.LookPath(program); err == nil {
		return p, nil
	}
	return "", fmt.Errorf("%s is %w: install the package %s", program, ErrNotInstalled, pkg)
}

func isExecutable(path string) bool {
	st, err := os.Stat(path)
	return err == nil && st.Mode().IsRegular() && st.Mode()&0o111 != 0
}

// unprivileged returns the first existing user of the given names, for servers
// that refuse to run as root. It is nil when we are not root ourselves.
func unprivileged(names ...string) (*syscall.Credential, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	for _, n := range slices.Concat(names, []string{"nobody"}) {
		u, err := user.Lookup(n)
		if err != nil {
			continue
		}
		uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
		gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
		if err1 == nil && err2 == nil {
			return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
		}
	}
	return nil, fmt.Errorf("none of the users %v exists to run a server as", names)
}

// tail keeps the last bytes written to it.
type tail struct {
	mu  sync.Mutex
	buf []byte
}

const tailSize = 16 << 10

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, p...)
	if n := len(t.buf) - tailSize; n > 0 {
		t.buf = slices.Delete(t.buf, 0, n)
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(bytes.TrimSpace(t.buf))
}
