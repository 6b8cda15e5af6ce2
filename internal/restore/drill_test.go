// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package restore

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/niodoo/niodoo_exporter/internal/backup"
	"github.com/niodoo/niodoo_exporter/internal/backup/source"
	"github.com/niodoo/niodoo_exporter/internal/config"
	"github.com/niodoo/niodoo_exporter/internal/localserver"
)

// drilled is a bench whose backup was made by the real thing.
type drilled struct {
	*bench
	pg      *localserver.Postgres
	scratch string
	summary backup.Summary
}

// newDrilled makes a backup of a server with content, of Redis and of files.
func newDrilled(t *testing.T) *drilled {
	t.Helper()
	d := &drilled{bench: newBench(t)}
	// A socket's path is short; those of tests' directories are not.
	var err error
	d.scratch, err = os.MkdirTemp("/tmp", "drill")
	d.try(err)
	made := d.scratch // a test may choose another
	t.Cleanup(func() { _ = removeTree(made) })
	d.try(os.Chmod(d.scratch, 0o755))
	d.pg = d.startPostgres()
	d.makeDatabase(d.pg)
	_, redis := d.startRedis()
	for _, key := range []string{"a", "b", "c"} {
		d.try(redis.Set(t.Context(), key, "v", 0).Err())
	}
	d.try(redis.Set(t.Context(), "short", "v", time.Second).Err())
	d.try(os.MkdirAll(d.data, 0o755))
	oddTree(t, d.data)
	d.cfg.Backup.Sources = map[string]string{"data": d.data}
	for _, section := range []string{"ollama", "qdrant", "docker"} {
		no := false
		d.cfg.Section(section).Enabled = &no
	}
	d.make()
	return d
}

// make makes the backup anew.
func (d *drilled) make() {
	d.Helper()
	s, err := source.Create(d.Context(), d.cfg, source.Options{Class: backup.Daily, Now: now.Add(-time.Hour)})
	d.try(err)
	if len(s.Skipped) > 0 {
		d.Fatalf("skipped: %v", s.Skipped)
	}
	d.summary = s
}

func (d *drilled) drill(ctx context.Context) (*Report, error) {
	d.Helper()
	all, err := backup.List(d.Context(), d.cfg.Backup.Directory, now)
	d.try(err)
	return Drill(ctx, d.cfg, all[0], DrillOptions{Scratch: d.scratch})
}

// clean wants nothing to be left.
func (d *drilled) clean() {
	d.Helper()
	left, err := os.ReadDir(d.scratch)
	d.try(err)
	if len(left) > 0 {
		d.Errorf("left behind: %v", left)
	}
}

// rewrite changes what the backup's manifests say, or what is in the backup.
func (d *drilled) rewrite(change func(*backup.Summary), content func(name string, raw []byte) []byte) {
	d.Helper()
	a, err := backup.OpenArchive(d.Context(), d.cfg.Backup.Directory, d.summary.Name, nil, nil)
	d.try(err)
	var members []packed
	for {
		h, err := a.Next()
		if err != nil {
			break
		}
		raw := make([]byte, h.Size)
		for n := 0; n < len(raw); {
			k, err := a.Read(raw[n:])
			if n += k; err != nil && n < len(raw) {
				d.Fatal(err)
			}
		}
		if content != nil {
			raw = content(h.Name, raw)
			h.Size = int64(len(raw))
		}
		members = append(members, packed{h, raw})
	}
	d.try(a.Close())
	s := d.summary
	d.try(backup.Delete(d.cfg.Backup.Directory, s.Name))
	if change != nil {
		change(&s)
	}
	d.nativeOf(s, members...)
}

func TestDrill(t *testing.T) {
	t.Parallel()
	d := newDrilled(t)
	// Production changes, and is not even there any more when the drill comes.
	d.try(d.pg.ExecIn(t.Context(), "niodoo", "DROP TABLE public.events CASCADE"))
	d.pg.Kill()
	r, err := d.drill(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if !r.Proven() || len(r.NotDrilled) > 0 {
		t.Errorf("not proven: %q, %q", r.Differences, r.NotDrilled)
	}
	// Of the four keys one has expired, maybe; rows are those of the tables and of the large objects.
	if r.Tables < 5 || r.Rows < 2000+5+1 || r.Keys < 3 || r.Keys > 4 || r.Files != 12 || r.Bytes < 9<<20 || r.Recovery <= 0 || len(r.Phases) != 4 {
		t.Errorf("the report is %+v", r)
	}
	d.clean()
}

// Whatever is not as it was is found.
func TestDrillDiffers(t *testing.T) {
	t.Parallel()
	d := newDrilled(t)
	kept := d.summary
	d.rewrite(func(s *backup.Summary) {
		tables := s.Rows["postgresql"]
		for name, change := range map[string]func(*backup.Rows){
			"public.events":     func(r *backup.Rows) { r.Count++ },
			"public.parted_1":   func(r *backup.Rows) { r.Sum += "1" },
			"public.gone":       func(r *backup.Rows) { r.Count = 3 },
			source.LargeObjects: func(r *backup.Rows) { r.Sum += "1" },
		} {
			r := tables[name]
			change(&r)
			tables[name] = r
		}
		s.Rows["redis"]["db0"] = backup.Rows{Count: 9}
	}, nil)
	r, err := d.drill(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if r.Proven() || len(r.Differences) != 5 {
		t.Errorf("the differences are %q", r.Differences)
	}
	all := strings.Join(r.Differences, "\n")
	for _, say := range []string{"public.events has 2000 rows and had 2001", "public.parted_1 has as many rows as it had, 1, but others",
		"the table public.gone with 3 rows is missing", "large objects has as many rows", "Redis' db0 has"} {
		if !strings.Contains(all, say) {
			t.Errorf("not found: %s, in %q", say, r.Differences)
		}
	}
	d.clean()

	d.rewrite(nil, func(name string, raw []byte) []byte {
		if strings.HasSuffix(name, backup.DumpSuffix) {
			return raw[:len(raw)/2]
		}
		return raw
	})
	if _, err := d.drill(t.Context()); !errors.Is(err, ErrRestore) {
		t.Errorf("half a dump: %v", err)
	}
	d.clean()

	path := filepath.Join(d.cfg.Backup.Directory, kept.Archive.File)
	raw, err := os.ReadFile(path)
	d.try(err)
	raw[len(raw)/2] ^= 1
	d.try(os.WriteFile(path, raw, 0o600))
	if _, err := d.drill(t.Context()); !errors.Is(err, backup.ErrDamaged) {
		t.Errorf("a flipped bit: %v", err)
	}
	d.clean()
}

// What cannot be found out is neither well nor the backup's fault.
func TestDrillUnknown(t *testing.T) {
	t.Parallel()
	d := newDrilled(t)
	unknown := func(what, say string, err error) {
		t.Helper()
		if err == nil || errors.Is(err, ErrRestore) || errors.Is(err, backup.ErrDamaged) || !strings.Contains(err.Error(), say) {
			t.Errorf("%s: %v", what, err)
		}
		if _, statErr := os.Stat(d.scratch); statErr == nil {
			d.clean()
		}
	}
	d.rewrite(func(s *backup.Summary) { s.Versions = map[string]string{"postgresql": "99.1"} }, nil)
	_, err := d.drill(t.Context())
	unknown("no programs", "install postgresql-99", err)
	d.try(backup.Delete(d.cfg.Backup.Directory, d.summary.Name))
	d.make()

	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = d.drill(cancelled)
	unknown("interrupted", "context canceled", err)

	good := d.scratch
	d.scratch = filepath.Join(good, strings.Repeat("long", 25))
	d.try(os.Mkdir(d.scratch, 0o755))
	_, err = d.drill(t.Context())
	unknown("a long path", "too long for a socket", err)
	d.try(os.RemoveAll(d.scratch))
	d.scratch = filepath.Join(good, "missing")
	_, err = d.drill(t.Context())
	unknown("no directory", "no such file", err)
	d.scratch = good

	b := newBench(t)
	b.legacyArchive(legacyParts(t, t.TempDir(), script))
	all, err := backup.List(t.Context(), b.cfg.Backup.Directory, now)
	b.try(err)
	_, err = Drill(t.Context(), b.cfg, all[0], DrillOptions{Scratch: d.scratch})
	unknown("the manual's", "neither checksums nor numbers of rows", err)

	if os.Geteuid() != 0 {
		return
	}
	// A disk that has too little room, and one that is full in the middle.
	small := filepath.Join(good, "small")
	d.try(os.Mkdir(small, 0o755))
	if err := unix.Mount("tmpfs", small, "tmpfs", 0, "size=24m,mode=755"); err != nil {
		t.Logf("nothing can be mounted here: %v", err)
		return
	}
	t.Cleanup(func() { _ = unix.Unmount(small, unix.MNT_DETACH) })
	d.scratch = small
	fill := filepath.Join(small, "fill")
	d.try(os.WriteFile(fill, make([]byte, 20<<20), 0o600))
	_, err = d.drill(t.Context())
	if !errors.Is(err, ErrSpace) {
		t.Errorf("too little room: %v", err)
	}
	d.try(os.Remove(fill))
	_, err = d.drill(t.Context()) // initdb alone takes more
	unknown("a disk that becomes full", "No space left on device", err)
}

// drillEnv tells the test's own program to make a drill, and to be killed in it.
const drillEnv = "NIODOO_TEST_DRILL"

func TestDrillChild(t *testing.T) {
	settings := strings.Split(os.Getenv(drillEnv), "\n")
	if len(settings) < 2 {
		t.Skip("this is for TestDrillKilled")
	}
	cfg := config.Default()
	cfg.Backup.Directory, cfg.Backup.PGDump = settings[0], settings[2]
	all, err := backup.List(t.Context(), cfg.Backup.Directory, now)
	if err != nil {
		t.Fatal(err)
	}
	_, err = Drill(t.Context(), cfg, all[0], DrillOptions{Scratch: settings[1]})
	t.Fatalf("the drill came to its end: %v", err)
}

// A drill that is killed leaves no server; the next one removes its files.
func TestDrillKilled(t *testing.T) {
	t.Parallel()
	d := newDrilled(t)
	self, err := os.Executable()
	d.try(err)
	c := exec.CommandContext(t.Context(), self, "-test.run=^TestDrillChild$")
	c.Env = append(os.Environ(), drillEnv+"="+strings.Join([]string{d.cfg.Backup.Directory, d.scratch, d.cfg.Backup.PGDump}, "\n"))
	d.try(c.Start())
	var pid string
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		if found, _ := filepath.Glob(filepath.Join(d.scratch, "*/pg*/data/postmaster.pid")); len(found) > 0 {
			if raw, err := os.ReadFile(found[0]); err == nil && strings.Contains(string(raw), "\n") {
				pid, _, _ = strings.Cut(string(raw), "\n")
				break
			}
		}
		if time.Now().After(deadline) {
			t.Fatal("the drill has not started its server")
		}
	}
	// While it goes on, another drill leaves it alone.
	d.try(c.Process.Signal(syscall.SIGSTOP))
	d.try(sweep(d.scratch, drillPrefix))
	if left, _ := os.ReadDir(d.scratch); len(left) != 1 {
		t.Errorf("beside a drill that goes on there is %v", left)
	}
	d.try(c.Process.Kill())
	_ = c.Wait()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		raw, err := os.ReadFile("/proc/" + pid + "/stat")
		if err != nil || strings.Contains(string(raw), ") Z ") {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("its server still runs")
		}
	}
	if r, err := d.drill(t.Context()); err != nil || !r.Proven() {
		t.Errorf("the next drill: %v", err)
	}
	d.clean()
}
