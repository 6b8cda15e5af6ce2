// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"filippo.io/age"
	"github.com/alecthomas/kingpin/v2"

	"github.com/niodoo/niodoo_exporter/internal/backup"
	"github.com/niodoo/niodoo_exporter/internal/config"
	"github.com/niodoo/niodoo_exporter/internal/opstate"
	"github.com/niodoo/niodoo_exporter/internal/restore"
)

func init() {
	register(spec{
		name: "backup restore",
		help: "Restore a backup, into the services and directories it came from or, with --to, into a directory.\n\n" +
			"Every byte is verified before anything in use changes. What is live is never replaced without --force, and is kept aside then. " +
			"The backups of the manual's scripts can be restored too; they have no checksums, so that it exits 1. " +
			"It exits 2 if the backup is damaged or could not be restored.",
		setup: func(c *kingpin.CmdClause) action {
			f := &restoreFlags{}
			c.Arg("name", "The backup, or newest.").Default(backup.Newest).HintOptions(backup.Newest).StringVar(&f.name)
			c.Flag("to", "Directory to restore everything into; then no service is touched.").StringVar(&f.to)
			c.Flag("database", "Database to restore into, in place of the one that was backed up.").StringVar(&f.database)
			c.Flag("only", "Parts to restore, separated by commas: "+strings.Join(restore.Parts, ", ")+".").StringVar(&f.only)
			c.Flag("force", "Replace live data. It is kept aside.").BoolVar(&f.force)
			c.Flag("dry-run", "Verify the backup, say what would be done, and change nothing.").BoolVar(&f.dryRun)
			c.Flag("postgresql.user", "Role that may create roles and databases: a superuser. By default backup.user.").StringVar(&f.pgUser)
			c.Flag("postgresql.password-file", "File with its password.").StringVar(&f.pgPassword)
			c.Flag("redis.user", "Redis user with +@admin +@dangerous +@connection. By default redis.username.").StringVar(&f.redisUser)
			c.Flag("redis.password-file", "File with its password.").StringVar(&f.redisPassword)
			f.common(c)
			return f.run
		},
	})
	register(spec{
		name: "backup drill",
		help: "Prove a backup: restore it to scratch servers, and compare rows, keys and files.\n\n" +
			"PostgreSQL is started as an unprivileged user on a socket of its own, Qdrant on a loopback port if its program is here; nothing of production is touched or asked. " +
			"It exits 0 if the backup is proven, 1 if it is but for what could not be tried here or the recovery took over 30 minutes, " +
			"2 if what came out is not what went in, and 3 if that could not be found out.",
		setup: func(c *kingpin.CmdClause) action {
			f := &drillFlags{}
			c.Arg("name", "The backup, or newest.").Default(backup.Newest).HintOptions(backup.Newest).StringVar(&f.name)
			f.common(c)
			return f.run
		},
	})
}

// sourceFlags are what a restore and a drill have in common.
type sourceFlags struct {
	name, scratch, identity string
}

func (f *sourceFlags) common(c *kingpin.CmdClause) {
	c.Flag("scratch", "Directory for what passes through. By default TMPDIR, else /var/tmp.").StringVar(&f.scratch)
	c.Flag("identity", "File with the age identity that opens the archive. By default backup.identity_file.").StringVar(&f.identity)
}

// find returns the backup that is meant. One whose drill or verification has
// failed is looked at again.
func (f *sourceFlags) find(ctx context.Context, e *env) (backup.Backup, []age.Identity, error) {
	all, err := e.backups(ctx)
	if err != nil {
		return backup.Backup{}, nil, err
	}
	b, err := backup.Find(all, f.name)
	if err != nil {
		return b, nil, err
	}
	if b.State != backup.Good && b.State != backup.Failed {
		return b, nil, fmt.Errorf("%s is no whole backup: %s", b.Name, cmp.Or(b.Problem, strings.ReplaceAll(string(b.State), "_", " ")))
	}
	c := e.cfg.Backup
	c.IdentityFile = cmp.Or(f.identity, c.IdentityFile)
	identities, err := backup.Identities(c)
	return b, identities, err
}

func (f *sourceFlags) dir() string { return cmp.Or(f.scratch, os.Getenv("TMPDIR"), "/var/tmp") }

type restoreFlags struct {
	sourceFlags
	to, database, only       string
	force, dryRun            bool
	pgUser, pgPassword       string
	redisUser, redisPassword string
}

// restored is what backup restore prints for machines.
type restored struct {
	Backup  string         `json:"backup"`
	Layout  backup.Layout  `json:"layout"`
	Time    time.Time      `json:"time"`
	DryRun  bool           `json:"dry_run"`
	Steps   []restore.Done `json:"steps"`
	Notes   []string       `json:"notes,omitempty"`
	Seconds float64        `json:"duration_seconds"`
}

func (f *restoreFlags) parts() ([]string, error) {
	if f.only == "" {
		return nil, nil
	}
	var parts []string
	for p := range strings.SplitSeq(f.only, ",") {
		p = strings.TrimSpace(p)
		if !slices.Contains(restore.Parts, p) {
			return nil, usageError("--only: there is no part %q; the parts are %s", p, strings.Join(restore.Parts, ", "))
		}
		parts = append(parts, p)
	}
	return parts, nil
}

// config returns the configuration with the roles that may restore.
func (f *restoreFlags) config(e *env) *config.Config {
	c := *e.cfg
	if f.pgUser != "" {
		c.Backup.User, c.Backup.PasswordFile = f.pgUser, ""
	}
	if f.pgPassword != "" {
		c.Backup.User = cmp.Or(c.Backup.User, c.PostgreSQL.User)
		c.Backup.PasswordFile = config.SecretFile(f.pgPassword)
	}
	if f.redisUser != "" {
		c.Redis.Username, c.Redis.PasswordFile = f.redisUser, ""
	}
	if f.redisPassword != "" {
		c.Redis.PasswordFile = config.SecretFile(f.redisPassword)
	}
	return &c
}

func (f *restoreFlags) run(ctx context.Context, e *env) error {
	only, err := f.parts()
	if err != nil {
		return err
	}
	if f.to != "" && f.database != "" {
		return usageError("--to restores into a directory and --database into a server: leave one out")
	}
	if f.to == "" && !f.dryRun {
		// No backup is made of what is half restored, and none is pruned meanwhile.
		unlock, err := opstate.TryLock(e.cfg.Backup.Directory)
		if err != nil {
			return err
		}
		defer unlock()
	}
	b, identities, err := f.find(ctx, e)
	if err != nil {
		return err
	}
	started := time.Now()
	p := e.progress("reading "+b.Name, b.ArchiveBytes, true)
	r, err := restore.New(ctx, f.config(e), b, restore.Options{To: f.to, Database: f.database, Only: only, Force: f.force,
		Scratch: f.dir(), Identities: identities, Progress: p.add, Now: e.now()})
	if err != nil {
		p.done()
		return f.failure(err)
	}
	defer r.Close()
	out := restored{Backup: b.Name, Layout: b.Layout, Time: b.Time.UTC(), DryRun: f.dryRun, Notes: r.Notes}
	if e.format == formatText && !e.quiet {
		f.printPlan(e, r)
	}
	if f.dryRun {
		err = r.Verify(ctx)
		for _, s := range r.Steps {
			out.Steps = append(out.Steps, restore.Done{Step: s})
		}
		if live := r.Live(); err == nil && len(live) > 0 && !f.force {
			err = fmt.Errorf("%w: it would be refused without --force", restore.ErrLive)
		}
	} else {
		out.Steps, err = r.Run(ctx)
	}
	p.done()
	out.Seconds = time.Since(started).Seconds()
	return f.report(e, out, err)
}

// failure gives an error its exit code: what was refused or is damaged is
// failing, what could not be found out is not.
func (f *restoreFlags) failure(err error) error {
	for _, known := range []error{backup.ErrDamaged, restore.ErrLive, restore.ErrSpace, restore.ErrNothing, restore.ErrRestore} {
		if errors.Is(err, known) {
			return failingError(err)
		}
	}
	return err
}

func (f *restoreFlags) printPlan(e *env, r *restore.Restore) {
	verb := "Restoring"
	if f.dryRun {
		verb = "Would restore"
	}
	e.printf("%s %s, which holds the data of %s\n", verb, r.Backup.Name, r.Backup.Time.UTC().Format("2006-01-02 15:04:05 MST"))
	var rows [][]string
	for _, s := range r.Steps {
		rows = append(rows, []string{"  " + s.What, sizeText(s.Bytes), "to " + s.Target})
		if s.Live != "" {
			rows = append(rows, []string{"", "", e.coloured(opstate.Warning, "where there is live data") + ": " + s.Live + "; " + s.Kept})
		}
	}
	e.table(nil, rows, 2)
	for _, n := range r.Notes {
		e.printf("  note: %s\n", n)
	}
}

func (f *restoreFlags) report(e *env, out restored, err error) error {
	if e.format == formatJSON {
		if jsonErr := e.json(out); jsonErr != nil {
			return jsonErr
		}
	} else if !f.dryRun {
		for _, s := range out.Steps {
			text := e.coloured(opstate.Well, "restored")
			if s.Error != "" {
				text = e.coloured(opstate.Failing, "NOT restored")
			}
			if !e.quiet || s.Error != "" {
				e.printf("%s %s\n", text, s.What)
			}
			for _, n := range s.Notes {
				e.printf("  %s\n", n)
			}
		}
	}
	if err != nil {
		if len(out.Steps) > 0 && !f.dryRun {
			return failingError(err) // some of it is done
		}
		return f.failure(err)
	}
	if e.format == formatText && !e.quiet {
		if f.dryRun {
			e.printf("It is whole. Nothing was changed.\n")
		} else {
			e.printf("Done in %s.\n", secondsText(out.Seconds))
		}
	}
	if out.Layout != backup.Native {
		fmt.Fprintln(e.stderr, "niodooctl: this backup has no checksums: it ends where it should, and more cannot be told")
		return verdict(opstate.Warning)
	}
	return nil
}

type drillFlags struct{ sourceFlags }

// drilled is what backup drill prints for machines.
type drilled struct {
	*restore.Report
	Verdict opstate.Verdict `json:"verdict"`
	Detail  string          `json:"detail,omitempty"`
}

func (f *drillFlags) run(ctx context.Context, e *env) error {
	b, identities, err := f.find(ctx, e)
	if err != nil {
		return errors.Join(err, f.remember(ctx, e, opstate.Drills{Detail: "could not be made: " + err.Error()}))
	}
	started := time.Now()
	p := e.progress("drilling "+b.Name, b.ArchiveBytes, true)
	report, err := restore.Drill(ctx, e.cfg, b, restore.DrillOptions{Scratch: f.dir(), Identities: identities, Progress: p.add})
	p.done()
	if ctx.Err() != nil {
		return err
	}
	out := f.judge(report, b, err)
	seconds := time.Since(started).Seconds()
	if out.Report != nil && out.Recovery > 0 {
		seconds = out.Recovery
	}
	if err := f.keep(ctx, e, b, out, seconds); err != nil {
		fmt.Fprintf(e.stderr, "niodooctl: the result could not be kept: %v\n", err)
		if out.Verdict == opstate.Well {
			out.Verdict = opstate.Warning
		}
	}
	if err := f.print(e, out); err != nil {
		return err
	}
	if out.Verdict != opstate.Well {
		return verdict(out.Verdict)
	}
	return nil
}

// judge turns what a drill found out into a verdict and a sentence.
func (f *drillFlags) judge(report *restore.Report, b backup.Backup, err error) drilled {
	if report == nil {
		report = &restore.Report{Backup: b.Name, Target: restore.RecoveryTarget.Seconds(), Differences: []string{}, NotDrilled: []string{}}
	}
	d := drilled{Report: report}
	switch {
	case errors.Is(err, backup.ErrDamaged), errors.Is(err, restore.ErrRestore):
		d.Verdict, d.Detail = opstate.Failing, err.Error()
	case err != nil:
		d.Verdict, d.Detail = opstate.Unknown, err.Error()
	case !report.Proven():
		d.Verdict, d.Detail = opstate.Failing, strings.Join(report.Differences, "; ")
	case report.Recovery > report.Target:
		d.Verdict, d.Detail = opstate.Warning, "the recovery took longer than it may"
	case len(report.NotDrilled) > 0:
		d.Verdict, d.Detail = opstate.Warning, strings.Join(report.NotDrilled, "; ")
	default:
		d.Verdict = opstate.Well
	}
	return d
}

// keep notes the result where the exporter and backup list look.
func (f *drillFlags) keep(ctx context.Context, e *env, b backup.Backup, d drilled, seconds float64) error {
	proven := d.Verdict == opstate.Well || d.Verdict == opstate.Warning
	last := opstate.Drills{OK: proven, Recovery: seconds, Backup: b.Name, Detail: d.Detail}
	if d.Verdict == opstate.Unknown {
		last.Recovery, last.Detail = 0, "could not verify: "+d.Detail
	}
	err := f.remember(ctx, e, last)
	if d.Verdict == opstate.Unknown || b.Manifest == nil {
		return err // it proves nothing about the backup
	}
	check := &backup.Check{Finished: e.now(), Seconds: seconds, OK: proven, Detail: shorten(d.Detail)}
	return errors.Join(err, e.note(ctx, *b.Manifest, false, func(all *backup.Checks) { all.Drilled = check }))
}

// remember notes a drill in the state directory.
func (f *drillFlags) remember(ctx context.Context, e *env, last opstate.Drills) error {
	last.Finished, last.Detail = e.now(), shorten(last.Detail)
	err := opstate.Update(ctx, e.cfg.Operations.StateDir, func(d *opstate.Drills) error { d.Record(last); return nil })
	if noStateYet(e.cfg, err) {
		return nil
	}
	return err
}

// shorten cuts a text that goes into a document.
func shorten(s string) string {
	const most = 1000
	if len(s) > most {
		s = s[:most] + " ..."
	}
	return strings.ToValidUTF8(s, "")
}

func (f *drillFlags) print(e *env, d drilled) error {
	if e.format == formatJSON {
		return e.json(d)
	}
	if e.quiet && d.Verdict == opstate.Well {
		return nil
	}
	text := map[opstate.Verdict]string{opstate.Well: "proven", opstate.Warning: "proven, but", opstate.Failing: "NOT PROVEN", opstate.Unknown: "could not verify"}[d.Verdict]
	line := d.Backup + ": " + e.coloured(d.Verdict, text)
	if d.Verdict == opstate.Unknown {
		line += ": " + d.Detail
	}
	e.printf("%s\n", line)
	if d.Recovery > 0 {
		e.printf("  recovery     %s of %s\n", minutes(d.Recovery), minutes(d.Target))
	}
	for _, p := range d.Phases {
		e.printf("    %-18s %s\n", p.Name, secondsText(p.Seconds))
	}
	for _, c := range []struct {
		n    int64
		what string
	}{{int64(d.Tables), "tables with " + strconv.FormatInt(d.Rows, 10) + " rows"}, {d.Keys, "keys of Redis"},
		{int64(d.Snapshots), "snapshots of Qdrant"}, {d.Points, "points of Qdrant"}, {d.Files, "files, " + sizeText(d.Bytes)}} {
		if c.n > 0 {
			e.printf("  compared     %d %s\n", c.n, c.what)
		}
	}
	for _, t := range d.NotDrilled {
		e.printf("  not drilled  %s\n", t)
	}
	for _, t := range d.Differences {
		e.printf("  %s     %s\n", e.coloured(opstate.Failing, "DIFFERS"), t)
	}
	if d.Verdict == opstate.Failing && len(d.Differences) == 0 {
		e.printf("  %s\n", d.Detail)
	}
	for _, t := range d.Notes {
		e.printf("  note         %s\n", t)
	}
	return nil
}

func minutes(seconds float64) string { return strconv.FormatFloat(seconds/60, 'f', 1, 64) + " min" }
