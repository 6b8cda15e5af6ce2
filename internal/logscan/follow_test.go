// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package logscan

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// bench is a directory of logs and a follower of *.log in it.
type bench struct {
	t   testing.TB
	dir string
	now time.Time
	o   Options
	f   *Follower
}

func newBench(t testing.TB, change func(*Options)) *bench {
	t.Helper()
	b := &bench{t: t, dir: t.TempDir(), now: time.Date(2026, 1, 27, 12, 0, 0, 0, time.UTC)}
	b.o = Options{Paths: []string{filepath.Join(b.dir, "*.log")}, Now: func() time.Time { return b.now }}
	if change != nil {
		change(&b.o)
	}
	b.start()
	return b
}

func (b *bench) path(name string) string { return filepath.Join(b.dir, name) }

// start makes a new follower, as a new process would.
func (b *bench) start() {
	b.f = NewFollower(b.o)
	f := b.f
	b.t.Cleanup(func() { f.state.path = ""; f.Close() })
}

func (b *bench) restart() {
	b.t.Helper()
	if err := b.f.Close(); err != nil {
		b.t.Fatal(err)
	}
	b.start()
}

// put appends to a file.
func (b *bench) put(name, text string) {
	b.t.Helper()
	f, err := os.OpenFile(b.path(name), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		b.t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString(text); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) must(err error) {
	b.t.Helper()
	if err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) rename(from, to string) { b.t.Helper(); b.must(os.Rename(b.path(from), b.path(to))) }

// poll polls and expects no error.
func (b *bench) poll() []Log {
	b.t.Helper()
	logs, errs := b.f.Poll(context.Background())
	for _, err := range errs {
		b.t.Errorf("poll: %v", err)
	}
	return logs
}

// expect polls and compares the lines counted and the rotations of each log:
// "app.log 3/1".
func (b *bench) expect(want ...string) []Log {
	b.t.Helper()
	logs := b.poll()
	if got := summary(logs); !slices.Equal(got, want) {
		b.t.Errorf("the logs are %q, want %q", got, want)
	}
	return logs
}

func summary(logs []Log) []string {
	var s []string
	for _, l := range logs {
		s = append(s, fmt.Sprintf("%s %d/%d", filepath.Base(l.Path), lines(l), l.Rotations))
	}
	return s
}

func lines(l Log) (n uint64) {
	for _, c := range l.Tally.Levels {
		n += c
	}
	return n
}

func text(from, to int) string {
	var s strings.Builder
	for i := from; i < to; i++ {
		fmt.Fprintf(&s, "2026-01-27T10:00:00.%06dZ  INFO line of its own\n", i)
	}
	return s.String()
}

func TestFollowBegins(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	b.put("old.log", text(0, 100)+"2026-01-27T11:00:00Z ERROR unfin")
	b.expect("old.log 0/0")
	b.put("old.log", "ished, latency\n"+text(0, 1))
	b.put("new.log", text(0, 3)+"partial")
	logs := b.expect("new.log 3/0", "old.log 2/0")
	old := logs[1]
	if old.Tally.Levels[Error] != 1 || old.Tally.Matches != (Matches{1, 1}) || !old.Tally.LastError.Equal(time.Date(2026, 1, 27, 11, 0, 0, 0, time.UTC)) {
		t.Errorf("the unfinished line was not read whole: %+v", old.Tally)
	}
	if want := uint64(len("2026-01-27T11:00:00Z ERROR unfinished, latency\n" + text(0, 1))); old.Tally.Bytes != want {
		t.Errorf("%d bytes, want %d", old.Tally.Bytes, want)
	}
	if info, err := os.Stat(b.path("new.log")); err != nil || logs[0].Size != info.Size() || !logs[0].ModTime.Equal(info.ModTime()) || !logs[0].Exists {
		t.Errorf("size, time: %+v", logs[0])
	}
	b.put("new.log", "\n")
	b.expect("new.log 4/0", "old.log 2/0")
}

func TestFollowRename(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	b.put("app.log", text(0, 5))
	b.expect("app.log 0/0")
	b.put("app.log", text(5, 7)+"half a ")
	b.expect("app.log 2/0")
	b.put("app.log", "line\n"+text(8, 9))
	b.rename("app.log", "app.log.1")
	b.expect("app.log 4/0") // there is no file yet
	b.put("app.log", text(9, 10))
	b.put("app.log.1", text(10, 12)) // the writer has not reopened
	b.expect("app.log 7/1")
	b.put("app.log.1", "the last, without a newline")
	b.expect("app.log 7/1")
	b.now = b.now.Add(linger)
	b.expect("app.log 8/1")
	if n := len(b.f.logs[b.path("app.log")].rotated); n != 0 {
		t.Errorf("%d rotated files stay open", n)
	}
	// Twice between two polls: the one in the middle was never seen.
	b.rename("app.log.1", "app.log.2")
	b.put("app.log", text(12, 14))
	b.rename("app.log", "app.log.1")
	b.put("app.log", text(14, 17))
	b.rename("app.log.2", "app.log.3")
	b.rename("app.log.1", "app.log.2")
	b.rename("app.log", "app.log.1")
	b.put("app.log", text(17, 21))
	b.expect("app.log 17/3")
}

func TestFollowTruncation(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	b.put("app.log", "")
	b.expect("app.log 0/0")
	b.put("app.log", text(0, 10))
	b.expect("app.log 10/0")
	b.must(os.Truncate(b.path("app.log"), 0))
	b.put("app.log", text(10, 12))
	b.expect("app.log 12/1")
	// Written anew, and longer than before: the first bytes give it away.
	b.must(os.WriteFile(b.path("app.log"), []byte(text(20, 60)), 0o644))
	b.expect("app.log 52/2")
	// The same first bytes, others before the position.
	b.must(os.WriteFile(b.path("app.log"), []byte(text(20, 40)+text(80, 120)), 0o644))
	b.expect("app.log 112/3")
	// A partial line counts when it can no longer be finished.
	b.put("app.log", "unfinished")
	b.expect("app.log 112/3")
	b.must(os.Truncate(b.path("app.log"), 0))
	b.expect("app.log 113/4")
}

// What was written since the last poll is read from the copy.
func TestFollowCopyTruncate(t *testing.T) {
	t.Parallel()
	for _, copyName := range []string{"app.log.1", "app.log-20260127", "app-20260127.log"} {
		t.Run(copyName, func(t *testing.T) {
			t.Parallel()
			b := newBench(t, nil)
			b.put("app.log", text(0, 5))
			b.expect("app.log 0/0")
			b.put("app.log", text(5, 8)+"half a")
			b.expect("app.log 3/0")
			b.put("app.log", " line\n"+text(9, 12)+"without a newline")
			all, err := os.ReadFile(b.path("app.log"))
			b.must(err)
			b.put(copyName, string(all))
			b.must(os.Truncate(b.path("app.log"), 0))
			b.put("app.log", text(20, 24))
			logs := b.poll()
			i := slices.IndexFunc(logs, func(l Log) bool { return l.Path == b.path("app.log") })
			if n := lines(logs[i]); n != 12 || logs[i].Rotations != 1 {
				t.Errorf("%d lines, %d rotations; want 12, 1", n, logs[i].Rotations)
			}
			for _, l := range logs {
				if l.Path != b.path("app.log") && lines(l) != 0 {
					t.Errorf("the copy was read again: %q", summary(logs))
				}
			}
			b.now = b.now.Add(linger)
			b.poll()
			if logs := b.poll(); lines(logs[slices.IndexFunc(logs, func(l Log) bool { return l.Path == b.path("app.log") })]) != 12 {
				t.Errorf("later: %q", summary(logs))
			}
		})
	}
	// The poll comes between the copy and the truncation.
	b := newBench(t, nil)
	b.put("app.log", text(0, 5))
	b.expect("app.log 0/0")
	b.put("app-20260127.log", text(0, 5))
	b.expect("app-20260127.log 0/0", "app.log 0/0")
	b.must(os.Truncate(b.path("app.log"), 0))
	b.expect("app-20260127.log 0/0", "app.log 0/1")
}

func TestFollowDisappears(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	b.put("app.log", text(0, 5))
	b.expect("app.log 0/0")
	b.put("app.log", text(5, 6))
	b.must(os.Remove(b.path("app.log")))
	if logs := b.expect("app.log 1/0"); logs[0].Exists {
		t.Error("it exists")
	}
	b.now = b.now.Add(linger)
	b.expect("app.log 1/0") // the last time: there is nothing more to come
	b.expect()
	b.put("app.log", text(6, 8))
	b.expect("app.log 2/0")
	// Away and back: not read again, not even when it was forgotten in between.
	b.rename("app.log", "elsewhere")
	b.now = b.now.Add(linger)
	b.expect("app.log 2/0")
	b.expect()
	b.put("elsewhere", text(8, 9))
	b.rename("elsewhere", "app.log")
	b.expect("app.log 1/0")
}

// A glob that matches the rotated file too does not read it again.
func TestFollowMatchesRotated(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	b.put("app.log", text(0, 5))
	b.expect("app.log 0/0")
	b.put("app.log", text(5, 7))
	b.rename("app.log", "app-20260127.log")
	b.put("app.log", text(7, 8))
	b.expect("app.log 3/1")
	b.now = b.now.Add(linger)
	b.expect("app.log 3/1")
	b.put("app-20260127.log", text(8, 10))
	b.expect("app-20260127.log 2/0", "app.log 3/1")
}

func TestFollowOddFiles(t *testing.T) {
	t.Parallel()
	b := newBench(t, func(o *Options) { o.Exclude = OwnReports })
	b.poll()
	b.must(os.Mkdir(b.path("directory.log"), 0o755))
	b.must(syscall.Mkfifo(b.path("fifo.log"), 0o644))
	b.must(os.Symlink(b.path("nowhere"), b.path("dangling.log")))
	b.must(os.Symlink(b.path("loop.log"), b.path("loop.log")))
	b.put("target", text(0, 2))
	b.must(os.Symlink(b.path("target"), b.path("a-link.log")))
	b.must(os.Symlink(b.path("target"), b.path("b-link.log")))
	for _, own := range []string{"health_monitor.log", "incident_INC-1.log", "x.log.gz", "y.gz.log"} {
		b.put(own, text(0, 1))
	}
	b.put("binary.log", "\x00\xff\xfe error\n\x00\x00\n")
	logs, errs := b.f.Poll(context.Background())
	if got, want := summary(logs), []string{"a-link.log 2/0", "binary.log 2/0", "loop.log 0/0", "y.gz.log 1/0"}; !slices.Equal(got, want) {
		t.Errorf("the logs are %q, want %q", got, want)
	}
	if len(errs) != 1 || !errors.Is(errs[0], syscall.ELOOP) {
		t.Errorf("errors: %v", errs)
	}
	// A pipe in the place of a log does not stop the reading.
	b.must(os.Remove(b.path("loop.log")))
	b.must(os.Remove(b.path("binary.log")))
	b.must(syscall.Mkfifo(b.path("binary.log"), 0o644))
	b.put("y.gz.log", text(1, 2))
	b.expect("a-link.log 2/0", "binary.log 2/0", "y.gz.log 2/0")
	// A symbolic link is turned to another file.
	b.put("target2", text(0, 4))
	b.must(os.Remove(b.path("a-link.log")))
	b.must(os.Symlink(b.path("target2"), b.path("a-link.log")))
	b.expect("a-link.log 6/1", "binary.log 2/0", "y.gz.log 2/0")
}

func TestFollowNamedPaths(t *testing.T) {
	t.Parallel()
	b := newBench(t, func(o *Options) {
		dir := filepath.Dir(o.Paths[0])
		o.Paths = []string{filepath.Join(dir, "named.log"), filepath.Join(dir, "no-such", "*.log"), dir, filepath.Join(dir, "*", "deep.log")}
	})
	logs, errs := b.f.Poll(context.Background())
	if len(logs) != 0 || len(errs) != 3 || !errors.Is(errs[0], fs.ErrNotExist) || !errors.Is(errs[1], fs.ErrNotExist) || !ErrNotRegular(errs[2]) {
		t.Errorf("%v, %v", logs, errs)
	}
	b.put("named.log", text(0, 2))
	b.must(os.Mkdir(b.path("no-such"), 0o755))
	b.put("no-such/x.log", text(0, 3))
	b.put("no-such/deep.log", text(0, 4))
	logs, errs = b.f.Poll(context.Background())
	if got, want := summary(logs), []string{"named.log 2/0", "deep.log 4/0", "x.log 3/0"}; !slices.Equal(got, want) || len(errs) != 1 {
		t.Errorf("%q, %v", got, errs)
	}
}

// asNobody runs f without root's privilege to read everything.
func asNobody(t testing.TB, f func()) {
	t.Helper()
	if os.Getuid() != 0 {
		f()
		return
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if _, _, e := syscall.RawSyscall(syscall.SYS_SETFSUID, 65534, 0, 0); e != 0 {
			t.Error(e)
		}
		f()
	}()
	<-done
}

func TestFollowPermission(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	b.put("open.log", "")
	b.put("secret.log", text(0, 5))
	b.must(os.Chmod(b.path("secret.log"), 0))
	if os.Getuid() == 0 { // the way to the directory must be free for others
		for d := b.dir; d != "/"; d = filepath.Dir(d) {
			if info, err := os.Stat(d); err == nil && info.Mode()&0o005 != 0o005 {
				b.must(os.Chmod(d, info.Mode()|0o055))
			}
		}
	}
	for i := range 2 {
		b.put("open.log", text(i, i+1))
		asNobody(t, func() {
			logs, errs := b.f.Poll(context.Background())
			if got, want := summary(logs), []string{fmt.Sprint("open.log ", i, "/0"), "secret.log 0/0"}; !slices.Equal(got, want) {
				t.Errorf("the logs are %q, want %q", got, want)
			}
			if len(errs) != 1 || !errors.Is(errs[0], fs.ErrPermission) || len(logs) == 2 && logs[1].ReadErrors != uint64(i+1) {
				t.Errorf("errors: %v", errs)
			}
		})
	}
	// It was there all the time: what it holds is history.
	b.must(os.Chmod(b.path("secret.log"), 0o644))
	b.expect("open.log 1/0", "secret.log 0/0")
	b.put("secret.log", text(5, 7))
	b.expect("open.log 1/0", "secret.log 2/0")
}

func TestFollowUnreadableDirectory(t *testing.T) {
	t.Parallel()
	b := newBench(t, func(o *Options) { o.Paths = []string{filepath.Join(filepath.Dir(o.Paths[0]), "d", "*.log")} })
	b.must(os.Mkdir(b.path("d"), 0))
	if os.Getuid() != 0 {
		t.Cleanup(func() { os.Chmod(b.path("d"), 0o755) })
	} else {
		b.put("d/x.log", text(0, 5))
	}
	asNobody(t, func() {
		if logs, errs := b.f.Poll(context.Background()); len(logs) != 0 || len(errs) != 1 || !errors.Is(errs[0], fs.ErrPermission) {
			t.Errorf("%v, %v", logs, errs)
		}
	})
	b.must(os.Chmod(b.path("d"), 0o755))
	if os.Getuid() == 0 {
		b.expect("x.log 0/0") // it may have been there before
	}
}

func TestFollowBounds(t *testing.T) {
	t.Parallel()
	b := newBench(t, func(o *Options) { o.MaxBytes, o.MaxFiles = 1<<20, 3 })
	b.poll()
	line := strings.Repeat("x", 1023) + "\n"
	for _, n := range []string{"a", "b", "c"} {
		b.put(n+".log", strings.Repeat(line, 1024))
	}
	var total uint64
	for i := range 3 {
		logs := b.poll()
		sum, lag := uint64(0), int64(0)
		for _, l := range logs {
			sum, lag = sum+lines(l), lag+l.Lag
			if i == 0 && l.Tally.Bytes == 0 {
				t.Errorf("%s waits for the others", l.Path)
			}
		}
		if total += 1024; sum != total || lag != int64(3-1-i)<<20 {
			t.Errorf("poll %d: %d lines, lag %d", i, sum, lag)
		}
	}
	// No time is left: nothing is read, and it shows.
	b.put("a.log", line)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if logs, errs := b.f.Poll(ctx); len(errs) != 0 || logs[0].Lag != 1024 {
		t.Errorf("%+v, %v", logs, errs)
	}
	b.expect("a.log 1025/0", "b.log 1024/0", "c.log 1024/0")
	// A fourth file: the one written last is followed, the one written longest ago
	// waits, and goes on where it was.
	past := time.Now().Add(-time.Hour)
	b.must(os.Chtimes(b.path("b.log"), past, past))
	b.put("d.log", line)
	b.expect("a.log 1025/0", "c.log 1024/0", "d.log 1/0")
	b.put("b.log", line)
	b.must(os.Chtimes(b.path("c.log"), past, past))
	b.expect("a.log 1025/0", "b.log 1/0", "d.log 1/0")
}

func TestFollowState(t *testing.T) {
	t.Parallel()
	with := func(t *testing.T) *bench {
		return newBench(t, func(o *Options) { o.StateFile = filepath.Join(t.TempDir(), "logs.json") })
	}
	begin := func(t *testing.T) *bench {
		b := with(t)
		b.put("app.log", text(0, 100))
		b.expect("app.log 0/0")
		b.put("app.log", text(100, 105)+"half a")
		b.expect("app.log 5/0")
		return b
	}
	for _, c := range []struct {
		name string
		down func(b *bench) // what happens while it is down
		want []string
	}{
		{"nothing", func(*bench) {}, []string{"app.log 0/0"}},
		{"writes", func(b *bench) { b.put("app.log", " line\n"+text(0, 2)) }, []string{"app.log 3/0"}},
		{"a new file", func(b *bench) { b.put("new.log", text(0, 2)) }, []string{"app.log 0/0", "new.log 2/0"}},
		{"rotation", func(b *bench) {
			b.put("app.log", " line\n"+text(0, 2))
			b.rename("app.log", "app.log.1")
			b.put("app.log", text(2, 6))
		}, []string{"app.log 7/1"}},
		{"rotation, nothing new yet", func(b *bench) {
			b.put("app.log", " line\n"+text(0, 2))
			b.rename("app.log", "app.log-20260127")
		}, []string{"app.log 3/0"}},
		{"two rotations", func(b *bench) {
			b.put("app.log", " line\n"+text(0, 2))
			b.rename("app.log", "app.log.1")
			b.put("app.log", text(2, 6))
			b.rename("app.log.1", "app.log.2")
			b.rename("app.log", "app.log.1")
			b.put("app.log", text(6, 7))
		}, []string{"app.log 8/2"}},
		{"two rotations, the first compressed", func(b *bench) {
			b.must(os.Remove(b.path("app.log")))
			b.put("app.log.2.gz", "compressed")
			b.put("app.log.1", text(2, 6))
			future := b.now.Add(time.Minute)
			b.must(os.Chtimes(b.path("app.log.1"), future, future))
			b.put("app.log", text(6, 7))
		}, []string{"app.log 5/1"}},
		{"rotation to a name that matches", func(b *bench) {
			b.put("app.log", " line\n"+text(0, 2))
			b.rename("app.log", "app-20260127.log")
			b.put("app.log", text(2, 6))
		}, []string{"app.log 7/1"}},
		{"copytruncate", func(b *bench) {
			b.put("app.log", " line\n"+text(0, 2))
			all, err := os.ReadFile(b.path("app.log"))
			b.must(err)
			b.put("app.log.1", string(all))
			b.must(os.Truncate(b.path("app.log"), 0))
			b.put("app.log", text(2, 6))
		}, []string{"app.log 7/1"}},
		{"truncation", func(b *bench) { b.must(os.WriteFile(b.path("app.log"), []byte(text(7, 9)), 0o644)) }, []string{"app.log 2/1"}},
		{"another file with the same inode", func(b *bench) {
			b.must(os.WriteFile(b.path("app.log"), []byte(text(300, 600)), 0o644))
		}, []string{"app.log 300/1"}},
		{"removed", func(b *bench) { b.must(os.Remove(b.path("app.log"))) }, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			b := begin(t)
			b.must(b.f.Close())
			c.down(b)
			b.start()
			b.expect(c.want...)
			// The state is that of now: a crash here would lose nothing.
			b.now = b.now.Add(time.Minute)
			b.start()
			for _, l := range b.poll() {
				if lines(l) != 0 {
					t.Errorf("%s is read again after another restart", l.Path)
				}
			}
		})
	}

	t.Run("content", func(t *testing.T) {
		t.Parallel()
		b := begin(t)
		b.must(b.f.Close())
		raw, err := os.ReadFile(b.o.StateFile)
		b.must(err)
		var s savedState
		b.must(json.Unmarshal(raw, &s))
		if s.Version != 1 || len(s.Files) != 1 || s.Files[0].Offset != int64(len(text(0, 105))) || strings.Contains(string(raw), "line of") {
			t.Errorf("the state is %s", raw)
		}
		if info, err := os.Stat(b.o.StateFile); err != nil || info.Mode() != 0o600 {
			t.Errorf("%v, %v", info.Mode(), err)
		}
		if names, err := readNames(filepath.Dir(b.o.StateFile)); err != nil || len(names) != 1 {
			t.Errorf("left behind: %v", names)
		}
	})
	t.Run("pace", func(t *testing.T) {
		t.Parallel()
		b := begin(t)
		before, err := os.ReadFile(b.o.StateFile)
		b.must(err)
		b.put("app.log", text(1, 2))
		b.poll()
		if now, _ := os.ReadFile(b.o.StateFile); string(now) != string(before) {
			t.Error("the state was written twice at once")
		}
		b.now = b.now.Add(stateInterval)
		b.poll()
		if now, _ := os.ReadFile(b.o.StateFile); string(now) == string(before) {
			t.Error("the state was not written")
		}
	})
	t.Run("one that took over", func(t *testing.T) {
		t.Parallel()
		b := begin(t)
		old := b.f
		b.start()
		b.put("app.log", "\n"+text(1, 2))
		b.now = b.now.Add(stateInterval)
		b.poll()
		after, err := os.ReadFile(b.o.StateFile)
		b.must(err)
		b.must(old.Close())
		if now, _ := os.ReadFile(b.o.StateFile); string(now) != string(after) {
			t.Error("the old follower overwrote the state of the new one")
		}
	})
	for name, content := range map[string]string{
		"corrupt": `{"version":1,"files":[{"pa`, "empty": "", "of the future": `{"version":2}`,
		"nonsense": `{"version":1,"files":[{"path":"/x","offset":-5}]}`, "not an object": `[1]`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := with(t)
			b.must(os.WriteFile(b.o.StateFile, []byte(content), 0o600))
			b.put("app.log", text(0, 5))
			logs, errs := b.f.Poll(context.Background())
			if len(errs) != 1 || !errors.Is(errs[0], ErrState) || lines(logs[0]) != 0 {
				t.Errorf("%v, %q", errs, summary(logs))
			}
			if raw, err := os.ReadFile(b.o.StateFile + ".corrupt"); err != nil || string(raw) != content {
				t.Errorf("put aside: %q, %v", raw, err)
			}
			b.put("app.log", text(5, 6))
			b.expect("app.log 1/0")
			b.restart()
			b.expect("app.log 0/0")
		})
	}
	t.Run("unreadable", func(t *testing.T) {
		t.Parallel()
		b := with(t)
		b.must(os.Mkdir(b.o.StateFile, 0o700))
		for range 2 {
			if _, errs := b.f.Poll(context.Background()); len(errs) != 1 || !ErrNotRegular(errs[0]) {
				t.Errorf("%v", errs)
			}
		}
	})
	t.Run("no directory", func(t *testing.T) {
		t.Parallel()
		b := with(t)
		b.must(os.Remove(filepath.Dir(b.o.StateFile)))
		b.put("app.log", text(0, 5))
		b.f.Poll(context.Background())
		b.put("app.log", text(5, 6))
		logs, errs := b.f.Poll(context.Background())
		if len(errs) != 1 || !errors.Is(errs[0], fs.ErrNotExist) || lines(logs[0]) != 1 {
			t.Errorf("%v %v", summary(logs), errs)
		}
	})
}

// A follower that was closed goes on where it stopped, without a state file too.
func TestFollowClosed(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	b.put("app.log", text(0, 5))
	b.poll()
	b.put("app.log", text(5, 8)+"half a")
	b.expect("app.log 3/0")
	b.must(b.f.Close())
	b.put("app.log", " line\n")
	b.rename("app.log", "app.log.1")
	b.put("app.log", text(8, 10))
	b.expect("app.log 6/1")
}

// logrotate runs the real program once, with a configuration for app.log.
func (b *bench) logrotate(directives string) {
	b.t.Helper()
	conf := b.path("logrotate.conf")
	b.must(os.WriteFile(conf, []byte(fmt.Sprintf("%s {\n rotate 50\n missingok\n %s\n}\n", b.path("app.log"), directives)), 0o644))
	cmd := exec.Command("logrotate", "-f", "-s", b.path("logrotate.state"), conf)
	if out, err := cmd.CombinedOutput(); err != nil {
		b.t.Fatalf("logrotate: %v\n%s", err, out)
	}
}

// writer writes numbered lines to app.log until it is stopped. Between two
// lines it opens the file anew if reopen says so.
type writer struct {
	written atomic.Int64
	reopen  atomic.Bool
	stop    chan struct{}
	done    chan error
}

func (b *bench) writer() *writer {
	w := &writer{stop: make(chan struct{}), done: make(chan error, 1)}
	open := func() (*os.File, error) {
		return os.OpenFile(b.path("app.log"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	}
	go func() {
		f, err := open()
		for err == nil {
			select {
			case <-w.stop:
				w.done <- f.Close()
				return
			default:
			}
			if w.reopen.CompareAndSwap(true, false) {
				f.Close()
				if f, err = open(); err != nil {
					break
				}
			}
			if _, err = f.WriteString(text(int(w.written.Load()), int(w.written.Load())+1)); err == nil {
				w.written.Add(1)
			}
			if w.written.Load()%64 == 0 {
				runtime.Gosched()
			}
		}
		w.done <- err
	}()
	return w
}

func (w *writer) wait(t testing.TB, more int64) {
	t.Helper()
	for target := w.written.Load() + more; w.written.Load() < target; runtime.Gosched() {
		select {
		case err := <-w.done:
			t.Fatalf("the writer ended: %v", err)
		default:
		}
	}
}

// TestLogrotate rotates by renaming under a writer that goes on writing to the
// renamed file for a while, and restarts the follower: every line counts once.
func TestLogrotate(t *testing.T) {
	t.Parallel()
	for name, directives := range map[string]string{
		"create": "create\n nocompress", "dateext": "create\n nocompress\n dateext\n dateformat -%Y%m%d-%s",
		"extension":     "create\n nocompress\n dateext\n dateformat -%Y%m%d-%s\n extension .log",
		"delaycompress": "create\n compress\n delaycompress", "nocreate": "nocreate\n nocompress",
	} {
		for _, restart := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/restart=%v", name, restart), func(t *testing.T) {
				t.Parallel()
				b := newBench(t, func(o *Options) {
					if restart {
						o.StateFile = filepath.Join(t.TempDir(), "state.json")
					}
				})
				b.poll()
				total := map[string]uint64{}
				count := func() {
					for _, l := range b.poll() {
						total[l.Path] += lines(l)
					}
				}
				w := b.writer()
				for i := range 6 {
					w.wait(t, 300)
					if !restart {
						b.poll()
						b.now = b.now.Add(15 * time.Second)
					}
					if restart { // the rotation comes while the follower is down
						count()
						b.must(b.f.Close())
					}
					b.logrotate(directives)
					if strings.Contains(directives, "dateext") && i < 5 { // its names have seconds
						for s := time.Now().Unix(); time.Now().Unix() == s; {
							w.wait(t, 10)
							time.Sleep(10 * time.Millisecond)
						}
					}
					w.wait(t, 100)
					if restart {
						b.start()
					} else {
						b.poll()
					}
					w.reopen.Store(true)
					w.wait(t, 100)
				}
				close(w.stop)
				b.must(<-w.done)
				count()
				var got uint64
				for _, n := range total {
					got += n
				}
				if got != uint64(w.written.Load()) {
					t.Errorf("%d lines counted, %d written (%v)", got, w.written.Load(), total)
				}
			})
		}
	}
}

// TestLogrotateCopyTruncate shows what copytruncate costs: nothing if nobody
// writes between the copy and the truncation, else what was written in between.
func TestLogrotateCopyTruncate(t *testing.T) {
	t.Parallel()
	for _, directives := range []string{"copytruncate\n nocompress", "copytruncate\n compress\n delaycompress"} {
		b := newBench(t, nil)
		b.put("app.log", "")
		b.poll()
		n := 0
		for range 5 {
			b.put("app.log", text(n, n+70))
			b.poll()
			b.put("app.log", text(n+70, n+100)) // not yet seen when it is copied
			b.logrotate(directives)
			b.put("app.log", text(n+100, n+110))
			n += 110
		}
		b.expect(fmt.Sprintf("app.log %d/5", n))
	}

	b := newBench(t, nil)
	b.put("app.log", "")
	b.poll()
	w := b.writer()
	for range 5 {
		w.wait(t, 1000)
		b.poll()
		b.logrotate("copytruncate\n nocompress")
	}
	w.wait(t, 100)
	close(w.stop)
	b.must(<-w.done)
	logs := b.poll()
	// What is left in the files is all that anybody could have counted.
	var kept int
	names, err := readNames(b.dir)
	b.must(err)
	for _, n := range names {
		if _, ok := rotationSuffix("app.log", n); ok || n == "app.log" {
			raw, err := os.ReadFile(b.path(n))
			b.must(err)
			kept += strings.Count(string(raw), "\n")
		}
	}
	got := int(lines(logs[0]))
	if got > int(w.written.Load()) || got < kept {
		t.Errorf("%d lines counted, %d written, %d kept in the files", got, w.written.Load(), kept)
	}
	t.Logf("%d lines written, %d kept in the files, %d counted", w.written.Load(), kept, got)
}
