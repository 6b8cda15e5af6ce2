// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// terminal opens a pseudo-terminal: what is written to tty is read from pty.
func terminal(t *testing.T) (pty, tty *os.File) {
	t.Helper()
	pty, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() { pty.Close() })
	if err := unix.IoctlSetPointerInt(int(pty.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(pty.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	tty, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	return pty, tty
}

// Colours are for a terminal that has them and a person who wants them.
func TestColours(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "niodoo.yml")
	if err := os.WriteFile(file, []byte(redisOnly("127.0.0.1:1", t.TempDir())), 0o600); err != nil {
		t.Fatal(err)
	}
	program, err := exec.LookPath("niodooctl")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		env  []string
		args []string
		want bool
	}{
		{"a terminal", []string{"TERM=xterm"}, nil, true},
		{"an empty NO_COLOR", []string{"TERM=xterm", "NO_COLOR="}, nil, true},
		{"NO_COLOR", []string{"TERM=xterm", "NO_COLOR=1"}, nil, false},
		{"TERM=dumb", []string{"TERM=dumb"}, nil, false},
		{"--no-color", []string{"TERM=xterm"}, []string{"--no-color"}, false},
		{"JSON", []string{"TERM=xterm"}, []string{"-o", "json"}, false},
	} {
		pty, tty := terminal(t)
		cmd := exec.Command(program, append([]string{"--config.file=" + file, "health"}, c.args...)...)
		cmd.Env = append([]string{"PATH=" + os.Getenv("PATH")}, c.env...)
		cmd.Stdout = tty
		err := cmd.Start()
		tty.Close()
		if err != nil {
			t.Fatal(err)
		}
		out, _ := io.ReadAll(pty) // ends with EIO when the other side is closed
		_ = cmd.Wait()
		if !strings.Contains(string(out), "failing") || strings.Contains(string(out), "\x1b[") != c.want {
			t.Errorf("%s: coloured must be %v:\n%q", c.name, c.want, out)
		}
	}
}
