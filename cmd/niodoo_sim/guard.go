// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// guardian is a process that removes our directories when we end, be it by
// SIGKILL. Servers that we start die with us by themselves.
type guardian struct {
	cmd *exec.Cmd
	mu  sync.Mutex
	in  io.WriteCloser // ends when we do
}

// newGuardian starts the guardian of a directory.
func newGuardian(dir string) (*guardian, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	g := &guardian{cmd: exec.Command(self, "guard")}
	g.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C and the killing of our group are not for it
	if g.in, err = g.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	if err := g.cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting the process that cleans up: %w", err)
	}
	g.add(dir)
	return g, nil
}

// add gives the guardian one more directory.
func (g *guardian) add(dir string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	_, _ = fmt.Fprintln(g.in, dir)
}

// unmount lets the guardian take a disk off its place first.
func (g *guardian) unmount(disk string) { g.add(unmountMark + disk) }

// unmountMark stands before what is to be unmounted; no path begins with it.
const unmountMark = "unmount "

// dismiss lets the guardian remove what is left and waits for its end.
func (g *guardian) dismiss() {
	_ = g.in.Close()
	_ = g.cmd.Wait()
}

// guard is what the guardian does: it removes the directories that it is given
// once the standard input ends. Servers may still be about to die and write.
func guard(stdin io.Reader) error {
	signal.Ignore(os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	var dirs, disks []string
	for lines := bufio.NewScanner(stdin); lines.Scan(); {
		if disk, ok := strings.CutPrefix(lines.Text(), unmountMark); ok {
			disks = append(disks, disk)
			continue
		}
		dirs = append(dirs, lines.Text())
	}
	for _, disk := range disks {
		_ = unix.Unmount(disk, unix.MNT_DETACH) // the lab has done so in an orderly end
	}
	var err error
	for _, dir := range dirs {
		for range 100 {
			if err = os.RemoveAll(dir); err == nil {
				if _, gone := os.Lstat(dir); os.IsNotExist(gone) {
					break
				}
			}
			time.Sleep(50 * time.Millisecond)
		}
	}
	return err
}
