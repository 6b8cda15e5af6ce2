// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/alecthomas/kingpin/v2"

	"github.com/niodoo/niodoo_exporter/internal/backup"
	"github.com/niodoo/niodoo_exporter/internal/localserver"
	"github.com/niodoo/niodoo_exporter/internal/opstate"
	"github.com/niodoo/niodoo_exporter/internal/restore"
)

// newRestoreVault is a vault with a state directory, a PostgreSQL with 100 rows
// and a backup.
func newRestoreVault(t *testing.T) (v vault, state string, pg *localserver.Postgres) {
	t.Helper()
	pg, err := localserver.StartPostgres(t.Context(), localserver.PostgresOptions{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pg.Stop)
	for _, sql := range []string{"CREATE DATABASE niodoo"} {
		if err := pg.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	if err := pg.ExecIn(t.Context(), "niodoo", "CREATE TABLE events AS SELECT i FROM generate_series(1, 100) i"); err != nil {
		t.Fatal(err)
	}
	state = t.TempDir()
	v = newVault(t, 1<<20, fmt.Sprintf("operations: {state_dir: %q}\n", state))
	raw, err := os.ReadFile(v.config)
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Replace(string(raw), "postgresql: {enabled: false}", fmt.Sprintf("postgresql: {host: %q, port: %d, user: %s, sslmode: disable}",
		pg.SocketDir, pg.Port, localserver.PostgresSuperuser), 1)
	if err := os.WriteFile(v.config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	v.run(exitWell, "backup", "create")
	return v, state, pg
}

// scratchDir is a directory with a short path, for sockets.
func scratchDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "restore")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
			t.Errorf("left behind: %v, %v", left, err)
		}
		_ = os.RemoveAll(dir)
	})
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestBackupRestoreCommand(t *testing.T) {
	t.Parallel()
	v, _, pg := newRestoreVault(t)
	scratch := "--scratch=" + scratchDir(t)
	content, err := os.ReadFile(filepath.Join(v.data, "content"))
	if err != nil {
		t.Fatal(err)
	}
	rows := func() string {
		c, err := pg.Connect(t.Context(), "niodoo")
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close(t.Context())
		res := c.ExecParams(t.Context(), "SELECT count(*) FROM events", nil, nil, nil, nil).Read()
		if res.Err != nil || len(res.Rows) != 1 {
			t.Fatal(res.Err)
		}
		return string(res.Rows[0][0])
	}

	// All is live, and changes after the backup.
	if err := pg.ExecIn(t.Context(), "niodoo", "DELETE FROM events WHERE i > 7"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(v.data, "content"), []byte("spoilt"), 0o600); err != nil {
		t.Fatal(err)
	}
	out, _ := v.run(exitFailing, "backup", "restore", scratch, "--dry-run")
	for _, say := range []string{"Would restore", `the database "niodoo"`, "where there is live data", "kept as"} {
		if !strings.Contains(out, say) {
			t.Errorf("the plan lacks %q:\n%s", say, out)
		}
	}
	out, errs := v.run(exitFailing, "backup", "restore", scratch)
	if !strings.Contains(out, "Restoring") || !strings.Contains(errs, "--force") {
		t.Errorf("%s%s", out, errs)
	}
	if n := rows(); n != "7" {
		t.Errorf("a dry run or a refusal has changed the rows: %s", n)
	}
	out, _ = v.run(exitWell, "backup", "restore", scratch, "--dry-run", "--force")
	if !strings.Contains(out, "Nothing was changed") || rows() != "7" {
		t.Errorf("a dry run with --force: %s", out)
	}

	out, _ = v.run(exitWell, "-o", "json", "backup", "restore", scratch, "--force", "--only=postgresql, files")
	checkShape(t, "backup_restore", []byte(out))
	if n := rows(); n != "100" {
		t.Errorf("%s rows are restored", n)
	}
	if got, err := os.ReadFile(filepath.Join(v.data, "content")); err != nil || string(got) != string(content) {
		t.Errorf("the file is not restored: %v", err)
	}

	to := filepath.Join(t.TempDir(), "to")
	v.run(exitWell, "backup", "restore", v.only().Name, "--to="+to)
	if got, err := os.ReadFile(filepath.Join(to, "files/data/content")); err != nil || string(got) != string(content) {
		t.Errorf("--to: %v", err)
	}
	for _, name := range []string{backup.ReadmeMember, backup.GlobalsMember, "postgresql/niodoo.dump"} {
		if _, err := os.Stat(filepath.Join(to, name)); err != nil {
			t.Error(err)
		}
	}

	for _, wrong := range [][]string{{"--only=everything"}, {"--to=/x", "--database=y"}} {
		v.run(exitUsage, append([]string{"backup", "restore"}, wrong...)...)
	}
	v.run(exitUnknown, "backup", "restore", "niodoo_backup_20200101_000000")
	v.run(exitUnknown, "backup", "restore", scratch, "--postgresql.user=nobody")

	unlock, err := opstate.TryLock(v.dir)
	if err != nil {
		t.Fatal(err)
	}
	v.run(exitLocked, "backup", "restore", scratch, "--force")
	unlock()

	archive := filepath.Join(v.dir, v.only().Manifest.Archive.File)
	raw, err := os.ReadFile(archive)
	if err != nil {
		t.Fatal(err)
	}
	raw[len(raw)/2] ^= 1
	if err := os.WriteFile(archive, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	_, errs = v.run(exitFailing, "backup", "restore", scratch, "--force")
	if !strings.Contains(errs, "damaged") || rows() != "100" {
		t.Errorf("a damaged one: %s", errs)
	}
}

func TestBackupDrillCommand(t *testing.T) {
	t.Parallel()
	v, state, pg := newRestoreVault(t)
	pg.Kill() // production is not needed
	scratch := "--scratch=" + scratchDir(t)
	noted := func(want opstate.Drills, checked *bool) {
		t.Helper()
		d, err := opstate.Read[opstate.Drills](state)
		if err != nil || d.OK != want.OK || !strings.Contains(d.Detail, want.Detail) || d.Succeeded.IsZero() != want.Succeeded.IsZero() || d.Finished.IsZero() {
			t.Errorf("the state is %+v, %v", d, err)
		}
		switch c := v.only().Checks.Drilled; {
		case checked == nil && c != nil, checked != nil && (c == nil || c.OK != *checked || c.Seconds <= 0):
			t.Errorf("the backup's note is %+v", c)
		}
	}
	yes, no := true, false

	// What cannot be found out is noted as a drill that was not well, but not
	// held against the backup.
	out, _ := v.run(exitUnknown, "backup", "drill", "--scratch=/nonexistent")
	if !strings.Contains(out, "could not verify") {
		t.Errorf("%s", out)
	}
	noted(opstate.Drills{Detail: "could not verify"}, nil)

	out, _ = v.run(exitWell, "backup", "drill", scratch)
	for _, say := range []string{"proven", "of 30.0 min", "tables with 100 rows", "files, 1 MiB"} {
		if !strings.Contains(out, say) {
			t.Errorf("the report lacks %q:\n%s", say, out)
		}
	}
	d, err := opstate.Read[opstate.Drills](state)
	if err != nil || !d.OK || d.Recovery <= 0 || d.Backup != v.only().Name || !d.Succeeded.Equal(d.Finished) {
		t.Errorf("the state is %+v, %v", d, err)
	}
	noted(opstate.Drills{OK: true, Succeeded: d.Finished}, &yes)
	out, _ = v.run(exitWell, "-o", "json", "backup", "drill", scratch)
	checkShape(t, "backup_drill", []byte(out))
	if out, _ = v.run(exitWell, "--quiet", "backup", "drill", scratch); out != "" {
		t.Errorf("quiet, and well: %s", out)
	}

	archive := filepath.Join(v.dir, v.only().Manifest.Archive.File)
	raw, err := os.ReadFile(archive)
	if err != nil {
		t.Fatal(err)
	}
	raw[len(raw)/2] ^= 1
	if err := os.WriteFile(archive, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	name := v.only().Name
	out, _ = v.run(exitFailing, "backup", "drill", scratch)
	if !strings.Contains(out, "NOT PROVEN") || !strings.Contains(out, "damaged") {
		t.Errorf("%s", out)
	}
	noted(opstate.Drills{Detail: "damaged", Succeeded: d.Finished}, &no)

	// It is not good any more: the newest is none, and by its name it is tried again.
	v.run(exitUnknown, "backup", "drill", scratch)
	raw[len(raw)/2] ^= 1
	if err := os.WriteFile(archive, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	v.run(exitWell, "backup", "drill", name, scratch)
	noted(opstate.Drills{OK: true, Succeeded: d.Finished}, &yes)
}

// What a drill found out, and what is said and noted of it.
func TestDrillVerdicts(t *testing.T) {
	t.Parallel()
	report := func(change func(*restore.Report)) *restore.Report {
		r := &restore.Report{Recovery: 60, Target: 1800}
		change(r)
		return r
	}
	for name, c := range map[string]struct {
		report *restore.Report
		err    error
		want   opstate.Verdict
	}{
		"proven":          {report(func(*restore.Report) {}), nil, opstate.Well},
		"too slow":        {report(func(r *restore.Report) { r.Recovery = 1801 }), nil, opstate.Warning},
		"without Qdrant":  {report(func(r *restore.Report) { r.NotDrilled = []string{"Qdrant"} }), nil, opstate.Warning},
		"differs":         {report(func(r *restore.Report) { r.Differences = []string{"x"} }), nil, opstate.Failing},
		"damaged":         {nil, fmt.Errorf("x: %w", backup.ErrDamaged), opstate.Failing},
		"not restorable":  {nil, fmt.Errorf("x: %w", restore.ErrRestore), opstate.Failing},
		"no room":         {nil, fmt.Errorf("x: %w", restore.ErrSpace), opstate.Unknown},
		"no program":      {nil, fmt.Errorf("x: %w", restore.ErrNoProgram), opstate.Unknown},
		"no identity":     {nil, fmt.Errorf("x: %w", backup.ErrNoIdentity), opstate.Unknown},
		"anything at all": {report(func(*restore.Report) {}), os.ErrPermission, opstate.Unknown},
	} {
		if got := (&drillFlags{}).judge(c.report, backup.Backup{Name: "x"}, c.err); got.Verdict != c.want {
			t.Errorf("%s: %s, want %s", name, got.Verdict, c.want)
		}
	}
}

const examplesDir = "../../examples"

func exampleFiles(t *testing.T, pattern string) map[string]string {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(examplesDir, pattern))
	if err != nil || len(paths) == 0 {
		t.Fatalf("no %s: %v", pattern, err)
	}
	all := map[string]string{}
	for _, p := range paths {
		raw, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		all[filepath.Base(p)] = string(raw)
	}
	return all
}

// checkCommandLine wants a command line that niodooctl takes.
func checkCommandLine(t *testing.T, where string, args []string) {
	t.Helper()
	app := kingpin.New("niodooctl", "")
	app.Flag("config.file", "").String()
	app.Flag("quiet", "").Short('q').Bool()
	install(app)
	if _, err := app.Parse(args); err != nil {
		t.Errorf("%s: niodooctl %s: %v", where, strings.Join(args, " "), err)
	}
}

// Every line of the units and of the crontab is one that niodooctl understands.
func TestExampleCommands(t *testing.T) {
	t.Parallel()
	units := exampleFiles(t, "systemd/niodooctl-*.service")
	started := regexp.MustCompile(`(?m)^Exec\w+=/usr/local/bin/niodooctl (.*)$`)
	for name, text := range units {
		lines := started.FindAllStringSubmatch(text, -1)
		if len(lines) == 0 {
			t.Errorf("%s runs nothing", name)
		}
		for _, m := range lines {
			instances := []string{""}
			if strings.Contains(m[1], "%i") {
				instances = nil
				for timer, text := range exampleFiles(t, "systemd/niodooctl-*.timer") {
					if _, rest, ok := strings.Cut(text, "Unit="+strings.TrimSuffix(name, ".service")); ok {
						instance, _, _ := strings.Cut(rest, ".service\n")
						instances = append(instances, instance)
						_ = timer
					}
				}
				if len(instances) == 0 {
					t.Errorf("nothing starts %s", name)
				}
			}
			for _, i := range instances {
				checkCommandLine(t, name, strings.Fields(strings.ReplaceAll(m[1], "%i", i)))
			}
		}
	}
	entries := 0
	for line := range strings.Lines(exampleFiles(t, "cron/niodoo.crontab")["niodoo.crontab"]) {
		if _, command, ok := strings.Cut(line, " niodooctl "); ok && !strings.HasPrefix(line, "# ") { // a line that is commented out counts
			checkCommandLine(t, "crontab", strings.Fields(command))
			entries++
		}
	}
	if entries < 10 {
		t.Errorf("the crontab has %d entries", entries)
	}
}

// Each wrapper runs niodooctl with what the manual's crontabs and scripts give it.
func TestWrappers(t *testing.T) {
	t.Parallel()
	stub := t.TempDir()
	if err := os.WriteFile(filepath.Join(stub, "niodooctl"), []byte("#!/bin/sh\nprintf '%s\\n' \"$@\"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	wrappers := exampleFiles(t, "wrappers/*.sh")
	tried := map[string]bool{}
	for _, c := range []struct{ call, want string }{
		{"backup_system.sh", "backup create"},
		{"backup_system.sh --full", "backup create --full"},
		{"backup_system.sh --archive", "backup create --archive"},
		{"backup_system.sh restore", "backup restore"},
		{"backup_system.sh restore newest --dry-run", "backup restore newest --dry-run"},
		{"backup_recovery.sh backup", "backup create"},
		{"backup_recovery.sh restore /opt/niodoo/backups/20261124_020000/", "backup restore -- 20261124_020000"},
		{"backup_recovery.sh restore /x/niodoo_backup_20261124_020000.tar.gz --force", "backup restore --force -- niodoo_backup_20261124_020000.tar.gz"},
		{"backup_recovery.sh restore", ""},
		{"backup_recovery.sh", ""},
		{"disaster_recovery_test.sh", "backup drill"},
		{"health_monitor.sh", "health"},
		{"health_monitor.sh --detailed", "health --detailed"},
		{"health_monitor.sh --summary", "health --summary"},
		{"performance_monitor.sh", "report"},
		{"log_analyzer.sh", "logs analyze --output=/opt/niodoo/logs"},
		{"capacity_analyzer.sh", "capacity"},
		{"incident_response.sh P1 down", "incident open P1 down"},
		{"daily_maintenance.sh", "maintenance daily"},
		{"weekly_maintenance.sh", "maintenance weekly"},
		{"monthly_maintenance.sh", "maintenance monthly"},
	} {
		argv := strings.Fields(c.call)
		// The wrappers put the places where it is installed first.
		text := strings.Replace(wrappers[argv[0]], "PATH=", "PATH="+stub+":", 1)
		tried[argv[0]] = true
		cmd := exec.Command("sh", append([]string{"-c", text}, argv...)...)
		cmd.Env = []string{"PATH=/usr/bin:/bin"}
		out, err := cmd.Output()
		if c.want == "" {
			if e := exitStatus(err); e != "64" {
				t.Errorf("%s: exit code %s", c.call, e)
			}
			continue
		}
		if got := strings.Join(strings.Split(strings.TrimSpace(string(out)), "\n"), " "); err != nil || got != c.want {
			t.Errorf("%s: niodooctl %s, %v", c.call, got, err)
			continue
		}
		checkCommandLine(t, c.call, strings.Fields(c.want))
	}
	for name := range wrappers {
		if !tried[name] {
			t.Errorf("%s is not tried", name)
		}
	}
}

// systemd itself finds nothing wrong with the units.
func TestUnits(t *testing.T) {
	t.Parallel()
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("systemd-analyze is not installed")
	}
	dir := t.TempDir()
	var paths []string
	for _, pattern := range []string{"systemd/niodooctl-backup*", "systemd/niodooctl-health*"} {
		for name, text := range exampleFiles(t, pattern) {
			text = strings.ReplaceAll(text, "/usr/local/bin/niodooctl", "/bin/true")
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
			paths = append(paths, filepath.Join(dir, strings.Replace(name, "@.", "@daily.", 1)))
		}
	}
	out, err := exec.Command(analyze, append([]string{"verify", "--man=no"}, paths...)...).CombinedOutput()
	for line := range strings.Lines(string(out)) { // others' units are none of ours
		if strings.Contains(line, "niodooctl") {
			t.Errorf("systemd-analyze verify: %s", line)
		}
	}
	t.Logf("systemd-analyze verify: %v", err)
}

// A table that has lost its rows is named, and one that has none at all is
// something to look at.
func TestBackupFallen(t *testing.T) {
	t.Parallel()
	v, _, pg := newRestoreVault(t)
	first := v.only().Name
	exec := func(sql string) {
		t.Helper()
		if err := pg.ExecIn(t.Context(), "niodoo", sql); err != nil {
			t.Fatal(err)
		}
	}
	exec("DELETE FROM events WHERE i > 20; CREATE TABLE note AS SELECT 1 AS n")
	out, _ := v.run(exitWell, "backup", "create")
	if !strings.Contains(out, "fallen public.events has 20 rows; in "+first+" it had 100\n") {
		t.Errorf("most rows are gone:\n%s", out)
	}
	exec("TRUNCATE events; DROP TABLE note")
	out, _ = v.run(exitWarning, "backup", "create", "--quiet")
	if !strings.Contains(out, "public.events has 0 rows; ") || !strings.Contains(out, "public.note is gone; ") || !strings.Contains(out, "it had 1\n") {
		t.Errorf("all rows are gone:\n%s", out)
	}
	exec("INSERT INTO events VALUES (1)")
	v.run(exitWell, "backup", "create")
	exec("TRUNCATE events")
	out, _ = v.run(exitWarning, "backup", "create", "-o", "json")
	for _, say := range []string{`"fallen": [`, `"name": "public.events"`, `"before": 1`, `"now": 0`, `"previous": "niodoo_backup_`} {
		if !strings.Contains(out, say) {
			t.Errorf("%s is missing:\n%s", say, out)
		}
	}
	v.run(exitWell, "backup", "create") // it is known
}
