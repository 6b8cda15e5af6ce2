// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"filippo.io/age"
	"golang.org/x/sys/unix"

	"github.com/niodoo/niodoo_exporter/internal/backup"
	"github.com/niodoo/niodoo_exporter/internal/config"
	"github.com/niodoo/niodoo_exporter/internal/observe"
	"github.com/niodoo/niodoo_exporter/internal/opstate"
)

// vault is a backup directory with one source, and the configuration for it.
type vault struct {
	testing.TB
	dir, data, config string
}

func newVault(t testing.TB, size int, more string) vault {
	t.Helper()
	root := t.TempDir()
	v := vault{t, filepath.Join(root, "backups"), filepath.Join(root, "data"), filepath.Join(root, "niodoo.yml")}
	content := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{}).Read(content)
	text := fmt.Sprintf("backup:\n  directory: %q\n  sources: {data: %q}\n%s", v.dir, v.data, more)
	for _, name := range []string{"postgresql", "redis", "qdrant", "ollama"} {
		text += name + ": {enabled: false}\n"
	}
	if err := errors.Join(os.Mkdir(v.dir, 0o755), os.Mkdir(v.data, 0o755), os.WriteFile(filepath.Join(v.data, "content"), content, 0o600),
		os.WriteFile(v.config, []byte(text), 0o600)); err != nil {
		t.Fatal(err)
	}
	return v
}

// command is the program in a process of its own.
func (v vault) command(ctx context.Context, args ...string) *exec.Cmd {
	c := exec.CommandContext(ctx, os.Args[0])
	c.Args = append([]string{"niodooctl", "--config.file=" + v.config}, args...)
	return c
}

// run runs the program in this process and wants an exit code.
func (v vault) run(code int, args ...string) (stdout, stderr string) {
	v.Helper()
	var out, errs bytes.Buffer
	got := run(v.Context(), append([]string{"--config.file=" + v.config}, args...), strings.NewReader(""), &out, &errs)
	if got != code {
		v.Errorf("%v: exit code %d, want %d\n%s%s", args, got, code, &out, &errs)
	}
	return out.String(), errs.String()
}

// only returns the one backup that there is.
func (v vault) only() backup.Backup {
	v.Helper()
	all := v.scan()
	if len(all) != 1 {
		v.Fatalf("%d backups, want one", len(all))
	}
	return all[0]
}

func (v vault) scan() []backup.Backup {
	v.Helper()
	all, err := backup.List(v.Context(), v.dir, time.Now())
	if err != nil {
		v.Fatal(err)
	}
	return all
}

// TestBackupKilled kills the program with SIGKILL at 50 random moments: what is
// listed as good is good, what was good stays, and the next run cleans up.
func TestBackupKilled(t *testing.T) {
	t.Parallel()
	v := newVault(t, 6<<20, "")
	started := time.Now()
	if out, err := v.command(t.Context(), "backup", "create").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	took := time.Since(started)
	good := map[string]bool{}
	finished := 0
	for i := range 50 {
		c := v.command(t.Context(), "backup", "create")
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		kill := time.AfterFunc(time.Duration(rand.Int64N(int64(took*11/10))), func() { _ = c.Process.Kill() })
		if err := c.Wait(); err == nil {
			finished++
		}
		kill.Stop()
		now := map[string]bool{}
		for _, b := range v.scan() {
			if b.State != backup.Good {
				continue
			}
			now[b.Name] = true
			if good[b.Name] {
				continue
			}
			if _, err := backup.Verify(t.Context(), v.dir, b.Name, nil, nil); err != nil {
				t.Errorf("kill %d: %s is listed as good: %v", i, b.Name, err)
			}
		}
		for name := range good {
			if !now[name] {
				t.Errorf("kill %d: %s was good and is no more", i, name)
			}
		}
		good = now
	}
	if out, err := v.command(t.Context(), "backup", "create").CombinedOutput(); err != nil {
		t.Fatalf("after 50 kills: %v: %s", err, out)
	}
	left, err := filepath.Glob(filepath.Join(v.dir, ".*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %q, %v", left, err)
	}
	t.Logf("%d of 50 had finished", finished)
}

// TestBackupFlow makes a backup and does with it all that can be done; the
// exporter sees it.
func TestBackupFlow(t *testing.T) {
	t.Parallel()
	elsewhere := t.TempDir()
	v := newVault(t, 3<<20, fmt.Sprintf("  copy: [cp, '{archive}', '{manifest}', %q]\n", elsewhere))
	out, _ := v.run(exitWell, "backup", "create", "--dry-run")
	if !strings.Contains(out, "files/data") || len(v.scan()) > 0 {
		t.Errorf("dry run:\n%s", out)
	}
	out, _ = v.run(exitWell, "backup", "create", "--verify", "--full", "-o", "json")
	checkShape(t, "backup_create", []byte(out), "rows", "versions", "images", "models")
	out, _ = v.run(exitWell, "backup", "list", "-o", "json")
	checkShape(t, "backup_list", []byte(out))
	b := v.only()
	if b.State != backup.Good || b.Manifest.Class != backup.Full || !b.Checks.Verified.Passed() || !b.Checks.Copied.Passed() {
		t.Errorf("%+v", b)
	}
	copied, err := filepath.Glob(filepath.Join(elsewhere, b.Name+".*"))
	if err != nil || len(copied) != 2 {
		t.Errorf("copied %v, %v", copied, err)
	}
	for _, name := range []string{"newest", b.Name, filepath.Join(v.dir, b.Manifest.Archive.File)} {
		out, _ = v.run(exitWell, "backup", "verify", name)
		if !strings.Contains(out, b.Name+": verified, 3") {
			t.Errorf("verify %s:\n%s", name, out)
		}
	}
	out, _ = v.run(exitWell, "backup", "copy", "--dry-run")
	if !strings.HasPrefix(out, "cp\n"+v.dir) {
		t.Errorf("copy --dry-run:\n%s", out)
	}
	v.run(exitWell, "backup", "copy")
	v.run(exitUnknown, "backup", "verify", "nonesuch")

	cfg, err := config.Load(v.config)
	if err != nil {
		t.Fatal(err)
	}
	stack := observe.Open(cfg, slog.New(slog.DiscardHandler))
	defer stack.Close()
	seen := stack.Look(t.Context(), []string{"backup"})
	if f := seen.Failed("backup"); f != nil {
		t.Errorf("the exporter: %+v", f)
	}
	for name, want := range map[string]float64{"niodoo_backup_backups": 1, "niodoo_backup_incomplete": 0, "niodoo_backup_newest_verified": 1,
		"niodoo_backup_newest_copied": 1, "niodoo_backup_newest_encrypted": 0, "niodoo_backup_newest_skipped": 0, "niodoo_backup_same_device": 1,
		"niodoo_backup_newest_size_bytes": float64(b.Manifest.Archive.Bytes), "niodoo_backup_newest_timestamp_seconds": float64(b.Time.Unix())} {
		if got, ok := seen.Sum(name); !ok || got != want {
			t.Errorf("the exporter says %s is %v (%v), want %v", name, got, ok, want)
		}
	}

	// The archive is damaged, and later the command to copy it fails.
	flip(t, filepath.Join(v.dir, b.Manifest.Archive.File), 1000)
	out, _ = v.run(exitFailing, "backup", "verify")
	if !strings.Contains(out, b.Name+": DAMAGED") {
		t.Errorf("damaged:\n%s", out)
	}
	if got := v.only(); got.State != backup.Failed {
		t.Errorf("a damaged backup is %s", got.State)
	}
	out, _ = v.run(exitFailing, "backup", "verify", "--all", "-o", "json")
	checkShape(t, "backup_verify", []byte(out))
	v.run(exitUnknown, "backup", "copy", b.Name) // no good backup
	v.run(exitUnknown, "backup", "verify", "newest")
	if err := os.RemoveAll(elsewhere); err != nil {
		t.Fatal(err)
	}
	out, _ = v.run(exitWarning, "backup", "create", "--archive")
	if !strings.Contains(out, "NOT copied: cp: exit status 1: cp: ") {
		t.Errorf("copying fails:\n%s", out)
	}
	v.run(exitFailing, "backup", "copy")
	out, _ = v.run(exitWell, "backup", "list")
	if !strings.Contains(out, "failed") || !strings.Contains(out, "archive") || !strings.Contains(out, "FAILED") {
		t.Errorf("list:\n%s", out)
	}
}

func flip(t testing.TB, path string, at int64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, 1)
	_, err = f.ReadAt(b, at)
	if err == nil {
		_, err = f.WriteAt([]byte{b[0] ^ 4}, at)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestBackupEncrypted needs the identity to look inside, and not for the rest.
func TestBackupEncrypted(t *testing.T) {
	t.Parallel()
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	keys := t.TempDir()
	identity, recipients := filepath.Join(keys, "key.txt"), filepath.Join(keys, "recipients")
	if err := errors.Join(os.WriteFile(identity, []byte(id.String()+"\n"), 0o600), os.WriteFile(recipients, []byte("# us\n"+id.Recipient().String()+"\n"), 0o600)); err != nil {
		t.Fatal(err)
	}
	v := newVault(t, 1<<20, fmt.Sprintf("  recipients_file: %q\n", recipients))
	v.run(exitWell, "backup", "create")
	out, _ := v.run(exitWell, "backup", "verify")
	if !strings.Contains(out, "not decrypted") {
		t.Errorf("without the identity:\n%s", out)
	}
	text, err := os.ReadFile(v.config)
	if err != nil {
		t.Fatal(err)
	}
	text = bytes.Replace(text, []byte("backup:\n"), fmt.Appendf(nil, "backup:\n  identity_file: %q\n", identity), 1)
	if err := os.WriteFile(v.config, text, 0o600); err != nil {
		t.Fatal(err)
	}
	out, _ = v.run(exitWell, "backup", "verify")
	if strings.Contains(out, "not decrypted") {
		t.Errorf("with the identity:\n%s", out)
	}
	raw, err := os.ReadFile(filepath.Join(v.dir, v.only().Manifest.Archive.File))
	if err != nil || !bytes.HasPrefix(raw, []byte("age-encryption.org/v1")) {
		t.Errorf("%v: the archive begins with %q", err, raw[:min(len(raw), 30)])
	}
	if err := os.WriteFile(identity, []byte("AGE-SECRET-KEY-1NONSENSE\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	out, _ = v.run(exitUnknown, "backup", "verify")
	if strings.Contains(out, "NONSENSE") || !strings.Contains(out, "could not verify") {
		t.Errorf("with a bad identity:\n%s", out)
	}
}

// TestBackupTwoAtOnce holds the lock, as another run would.
func TestBackupTwoAtOnce(t *testing.T) {
	t.Parallel()
	v := newVault(t, 1000, "  retention: {daily: 1}\n  copy: 'true'\n")
	unlock, err := opstate.TryLock(v.dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"backup", "create"}, {"backup", "prune"}, {"backup", "copy"}} {
		v.run(exitLocked, args...)
	}
	v.run(exitWell, "backup", "prune", "--dry-run")
	running := func(class backup.Class) {
		if _, err := backup.SetRunning(v.dir, backup.Running{Class: class, PID: 17, Started: time.Now()}); err != nil {
			t.Fatal(err)
		}
	}
	running(backup.Full)
	v.run(exitLocked, "backup", "create", "--full")
	out, _ := v.run(exitWell, "backup", "create")
	if out != "No daily backup: a backup of class full is being made by process 17.\n" {
		t.Errorf("beside a higher class:\n%s", out)
	}
	if len(v.scan()) > 0 {
		t.Error("a backup was made in spite of the lock")
	}
	// One of a higher class waits for its turn, and the daily ones then have nothing to do.
	running(backup.Daily)
	var errs firstLine
	done := make(chan int)
	go func() {
		done <- run(t.Context(), []string{"--config.file=" + v.config, "backup", "create", "--archive"}, strings.NewReader(""), io.Discard, &errs)
	}()
	<-errs.written()
	unlock()
	if code := <-done; code != exitWell {
		t.Errorf("exit code %d: %s", code, &errs)
	}
	out, _ = v.run(exitWell, "backup", "create", "--full")
	if !strings.Contains(out, "was just made") || v.only().Manifest.Class != backup.Archive {
		t.Errorf("after the archive:\n%s", out)
	}
	v.run(exitWell, "backup", "create", "--force")
	if got := len(v.scan()); got != 2 {
		t.Errorf("%d backups", got)
	}
}

// firstLine tells when something is written.
type firstLine struct {
	mu   sync.Mutex
	buf  bytes.Buffer
	some chan struct{}
}

func (f *firstLine) written() <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.some == nil {
		f.some = make(chan struct{})
		if f.buf.Len() > 0 {
			close(f.some)
		}
	}
	return f.some
}

func (f *firstLine) Write(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.buf.Len() == 0 && f.some != nil {
		close(f.some)
	}
	return f.buf.Write(p)
}

func (f *firstLine) String() string { return f.buf.String() }

// TestBackupDiskFull has less room than the archive needs: nothing is left of
// it, and the backup before it stays.
func TestBackupDiskFull(t *testing.T) {
	t.Parallel()
	v := newVault(t, 1<<20, "")
	full := v.command(t.Context(), "backup", "create")
	if err := unix.Mount("tmpfs", v.dir, "tmpfs", 0, "size=8m"); err == nil {
		t.Cleanup(func() { _ = unix.Unmount(v.dir, unix.MNT_DETACH) })
	} else {
		// Whoever may not mount gets a limit for files, in blocks of 512 or 1,024 bytes.
		full.Path, full.Args = "/bin/sh", append([]string{"sh", "-c", `trap '' XFSZ; ulimit -f 4096; exec -a niodooctl "$0" "$@"`, os.Args[0]}, full.Args[1:]...)
	}
	v.run(exitWell, "backup", "create")
	if err := os.Truncate(filepath.Join(v.data, "content"), 0); err != nil {
		t.Fatal(err)
	}
	content := make([]byte, 12<<20)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(content)
	if err := os.WriteFile(filepath.Join(v.data, "content"), content, 0o600); err != nil {
		t.Fatal(err)
	}
	// The manifest says that content gets smaller: a guess that comes to enough room.
	first := v.only()
	s, err := backup.ReadManifest(v.dir, first.Name, nil)
	if err != nil {
		t.Fatal(err)
	}
	s.ContentBytes = 10 * s.Archive.Bytes
	if err := errors.Join(os.Remove(backup.ManifestPath(v.dir, first.Name)), backup.WriteManifest(v.dir, s, slices.Values([]backup.Entry(nil)))); err != nil {
		t.Fatal(err)
	}
	out, err := full.CombinedOutput()
	if full.ProcessState.ExitCode() != exitFailing || !strings.Contains(string(out), "no space left on device") && !strings.Contains(string(out), "file too large") {
		t.Errorf("%v: %s", err, out)
	}
	if got := v.only(); got.Name != first.Name || got.State != backup.Good {
		t.Errorf("%+v", got)
	}
	left, err := filepath.Glob(filepath.Join(v.dir, ".*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %q, %v", left, err)
	}
}

// TestBackupInterrupted ends a backup in the middle in the way that Ctrl-C does.
func TestBackupInterrupted(t *testing.T) {
	t.Parallel()
	v := newVault(t, 1000, "")
	if err := os.WriteFile(filepath.Join(v.data, "sparse"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(filepath.Join(v.data, "sparse"), 1<<40); err != nil { // takes minutes to back up
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	c := v.command(ctx, "backup", "create")
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if all := v.scan(); len(all) > 0 && all[0].State == backup.InProgress && all[0].Bytes > 0 {
			break
		}
	}
	if err := c.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := c.Wait(); c.ProcessState.ExitCode() != exitInterrupted {
		t.Errorf("%v, exit code %d", err, c.ProcessState.ExitCode())
	}
	if entries, err := os.ReadDir(v.dir); err != nil || len(entries) > 0 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
}

// TestBackupPrune deletes what the policy does not keep, and what was never finished.
func TestBackupPrune(t *testing.T) {
	t.Parallel()
	v := newVault(t, 1000, "  retention: {last: 1}\n")
	for range 3 {
		v.run(exitWell, "backup", "create", "--verify")
	}
	all := v.scan()
	if len(all) != 3 {
		t.Fatalf("%d backups", len(all))
	}
	out, _ := v.run(exitWell, "backup", "prune", "--dry-run")
	if strings.Count(out, "would delete") != 2 || len(v.scan()) != 3 {
		t.Errorf("dry run:\n%s", out)
	}
	out, _ = v.run(exitWell, "backup", "prune", "-o", "json")
	checkShape(t, "backup_prune", []byte(out))
	if b := v.only(); b.Name != all[0].Name {
		t.Errorf("kept %s, want %s", b.Name, all[0].Name)
	}
	entries, err := os.ReadDir(v.dir)
	if err != nil || len(entries) != 3 {
		t.Errorf("left %v, %v", entries, err)
	}
	out, errs := newVault(t, 0, "").run(exitUsage, "backup", "prune")
	if !strings.Contains(errs, "backup.retention is empty") {
		t.Errorf("without a policy: %s%s", out, errs)
	}
}
