// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// How far off a clock may be only the kernel knows: adjtimex says it, and no
// file of procfs. To lose the clock of a simulated machine without touching the
// true one, the exporter of a laboratory runs under a seccomp filter that has
// the kernel ask us what adjtimex is to answer. The program is the shipped one.

// clockError is how far off the clock may be while a time server is asked, and
// the limit at which the kernel says that nothing keeps it right.
const (
	clockError = 30 * time.Millisecond
	clockLost  = 16 * time.Second
)

// clockCanBeHeld reports whether this system lets us answer for its kernel.
func clockCanBeHeld() bool {
	can := make(chan bool)
	go func() {
		runtime.LockOSThread() // for good: the thread ends, and its filter with it
		listener, err := filterClock()
		if err == nil {
			_ = unix.Close(listener)
		}
		can <- err == nil
	}()
	return <-can
}

// filterClock has the kernel ask whoever holds the descriptor that it returns
// what adjtimex is to answer to this thread, and to what that becomes.
func filterClock() (listener int, err error) {
	program := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS}, // the number of the system call
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: 1, K: unix.SYS_ADJTIMEX},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_USER_NOTIF},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
	filter := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return -1, fmt.Errorf("giving up further rights: %w", err)
	}
	fd, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_NEW_LISTENER, uintptr(unsafe.Pointer(&filter)))
	if errno != 0 {
		return -1, fmt.Errorf("installing the filter of the clock: %w", errno)
	}
	return int(fd), nil
}

// clockedCommand is the hidden command that puts itself under the filter and
// becomes another program.
const clockedCommand = "clocked"

// clocked makes a command one whose adjtimex is answered with what off says, once
// it has started and until it has ended; call the returned function when it has
// started, or could not be.
func clocked(cmd *exec.Cmd, off func() time.Duration) (serve func(ended <-chan struct{}), err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	theirs := os.NewFile(uintptr(pair[1]), "clock")
	cmd.ExtraFiles = append(cmd.ExtraFiles, theirs)
	fd := 2 + len(cmd.ExtraFiles)
	cmd.Args = append([]string{self, clockedCommand, strconv.Itoa(fd), cmd.Path}, cmd.Args[1:]...)
	cmd.Path = self
	return func(ended <-chan struct{}) {
		_ = theirs.Close()
		defer func() { _ = unix.Close(pair[0]) }()
		listener, err := receiveFile(pair[0])
		if err != nil {
			return // the program could not be started, which is reported
		}
		defer func() { _ = unix.Close(listener) }()
		for {
			ready := []unix.PollFd{{Fd: int32(listener), Events: unix.POLLIN}}
			_, _ = unix.Poll(ready, 1000)
			switch {
			case ready[0].Revents&unix.POLLIN != 0:
				answerClock(listener, off())
			case ready[0].Revents != 0: // nobody is left who could ask
				return
			}
			select {
			case <-ended:
				return
			default:
			}
		}
	}, nil
}

// runClocked is the hidden command: its arguments are the descriptor of the
// socket to us, the program, and the program's arguments.
func runClocked(args []string) error {
	if len(args) < 2 {
		return errors.New("usage: " + clockedCommand + " FD PROGRAM ARGUMENTS")
	}
	fd, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	runtime.LockOSThread()
	listener, err := filterClock()
	if err != nil {
		return err
	}
	if err := unix.Sendmsg(fd, []byte{0}, unix.UnixRights(listener), nil, 0); err != nil {
		return fmt.Errorf("handing over the clock: %w", err)
	}
	_ = unix.Close(listener)
	_ = unix.Close(fd)
	return syscall.Exec(args[1], args[1:], os.Environ())
}

// receiveFile receives the one descriptor that is sent through a socket.
func receiveFile(socket int) (int, error) {
	buf := make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := unix.Recvmsg(socket, make([]byte, 1), buf, unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return -1, err
	}
	messages, err := unix.ParseSocketControlMessage(buf[:n])
	if err != nil {
		return -1, err
	}
	for _, m := range messages {
		if fds, err := unix.ParseUnixRights(&m); err == nil && len(fds) == 1 {
			return fds[0], nil
		}
	}
	return -1, errors.New("no descriptor came")
}

// question and reply are what <linux/seccomp.h> has as seccomp_notif and seccomp_notif_resp.
type question struct {
	id    uint64
	pid   uint32
	_     uint32
	nr    int32
	_     uint32
	_     uint64
	where [6]uint64 // the arguments
}

type reply struct {
	id    uint64
	value int64
	errno int32
	flags uint32
}

// answerClock answers one call of adjtimex: into the caller's memory, as the kernel does.
func answerClock(listener int, off time.Duration) {
	var q question
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(listener), unix.SECCOMP_IOCTL_NOTIF_RECV, uintptr(unsafe.Pointer(&q))); errno != 0 {
		return // the caller has ended, or asks again after a signal
	}
	r := reply{id: q.id}
	t := unix.Timex{Maxerror: off.Microseconds(), Status: unix.STA_PLL}
	if off >= clockLost {
		t.Status |= unix.STA_UNSYNC
		r.value = unix.TIME_ERROR
	}
	if err := writeMemory(int(q.pid), q.where[0], unsafe.Slice((*byte)(unsafe.Pointer(&t)), unsafe.Sizeof(t))); err != nil {
		r.value, r.errno = 0, -int32(unix.EPERM)
	}
	_, _, _ = unix.Syscall(unix.SYS_IOCTL, uintptr(listener), unix.SECCOMP_IOCTL_NOTIF_SEND, uintptr(unsafe.Pointer(&r)))
}

func writeMemory(pid int, at uint64, bytes []byte) error {
	if at > math.MaxInt64 {
		return unix.EFAULT
	}
	f, err := os.OpenFile(fmt.Sprintf("/proc/%d/mem", pid), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(bytes, int64(at))
	return errors.Join(err, f.Close())
}
