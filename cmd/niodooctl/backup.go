// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/alecthomas/kingpin/v2"

	"github.com/niodoo/niodoo_exporter/internal/backup"
	"github.com/niodoo/niodoo_exporter/internal/backup/source"
	"github.com/niodoo/niodoo_exporter/internal/humanize"
	"github.com/niodoo/niodoo_exporter/internal/opstate"
)

func init() {
	register(spec{
		name: "backup create",
		help: "Make a backup of PostgreSQL, Redis, Qdrant, the models' list and the directories.\n\n" +
			"Daily, --full and --archive make the same backup and say how long prune keeps it. Where several are due at the same time, the highest is made and the others step aside. " +
			"It exits 1 if something is missing in it, a table that had rows has none any more, or it could not be copied, and 2 if there is no backup.",
		setup: func(c *kingpin.CmdClause) action {
			f := &createFlags{}
			c.Flag("daily", "Make the daily one, which it does without a flag too.").Bool()
			c.Flag("full", "Make the weekly one.").BoolVar(&f.full)
			c.Flag("archive", "Make the monthly one.").BoolVar(&f.archive)
			c.Flag("force", "Make it even if one of a higher class was just made or is due.").BoolVar(&f.force)
			c.Flag("verify", "Read it back and compare every byte.").BoolVar(&f.verify)
			c.Flag("copy", "Run backup.copy afterwards, if there is one.").Default("true").BoolVar(&f.copy)
			c.Flag("dry-run", "Say what would be backed up and how much room it takes, and change nothing.").BoolVar(&f.dryRun)
			return f.run
		},
	})
	register(spec{
		name:  "backup list",
		help:  "List the backups, newest first, those of the manual's scripts included.",
		setup: func(*kingpin.CmdClause) action { return backupList },
	})
	register(spec{
		name: "backup verify",
		help: "Read every byte of a backup and compare it with its manifests.\n\n" +
			"It exits 2 if one is damaged and 3 if one could not be compared, such as those of the manual's scripts, which have no checksums.",
		setup: func(c *kingpin.CmdClause) action {
			f := &verifyFlags{}
			c.Arg("name", "The backup, or newest.").Default(backup.Newest).HintOptions(backup.Newest).StringVar(&f.name)
			c.Flag("all", "Verify all backups of niodooctl.").BoolVar(&f.all)
			return f.run
		},
	})
	register(spec{
		name: "backup prune",
		help: "Delete the backups that backup.retention does not keep.\n\n" +
			"Only verified ones count; the newest verified and the newest drilled one always stay, and so do those of other programs. " +
			"What was never finished goes after a day.",
		setup: func(c *kingpin.CmdClause) action {
			f := &pruneFlags{}
			c.Flag("dry-run", "Say what would be deleted, and delete nothing.").BoolVar(&f.dryRun)
			return f.run
		},
	})
	register(spec{
		name: "backup copy",
		help: "Take a backup off this host with the command backup.copy.",
		setup: func(c *kingpin.CmdClause) action {
			f := &copyFlags{}
			c.Arg("name", "The backup, or newest.").Default(backup.Newest).HintOptions(backup.Newest).StringVar(&f.name)
			c.Flag("dry-run", "Print the command and do not run it.").BoolVar(&f.dryRun)
			return f.run
		},
	})
}

// sizeText returns a number of bytes for people.
func sizeText(n int64) string { return humanize.Value(humanize.Bytes, float64(n)) }

func secondsText(s float64) string { return humanize.Value(humanize.Seconds, s) }

// backups lists the directory. What could not be read is told on the standard
// error, and is an error only for those that want that very backup.
func (e *env) backups(ctx context.Context) ([]backup.Backup, error) {
	all, err := backup.List(ctx, e.cfg.Backup.Directory, e.now())
	if err != nil && all == nil {
		return nil, fmt.Errorf("backup.directory: %w", err)
	}
	if err != nil {
		fmt.Fprintf(e.stderr, "niodooctl: %v\n", err)
	}
	return all, nil
}

type createFlags struct {
	full, archive, force, verify, copy, dryRun bool
}

func (f *createFlags) class() backup.Class {
	switch {
	case f.archive:
		return backup.Archive
	case f.full:
		return backup.Full
	}
	return backup.Daily
}

// created is what backup create prints for machines.
type created struct {
	// Made is false where the run stepped aside or was a dry one.
	Made     bool             `json:"made"`
	Reason   string           `json:"reason,omitempty"`
	Estimate *source.Estimate `json:"estimate,omitempty"`
	Backup   *backup.Summary  `json:"backup,omitempty"`
	// Fallen are tables that have lost most of their rows since Previous.
	Fallen   []backup.Fall `json:"fallen,omitempty"`
	Previous string        `json:"previous,omitempty"`
	Copied   *backup.Check `json:"copied,omitempty"`
	Verified *backup.Check `json:"verified,omitempty"`
}

func (f *createFlags) run(ctx context.Context, e *env) error {
	dir := e.cfg.Backup.Directory
	if !f.dryRun {
		unlock, reason, err := f.lock(ctx, e)
		if err != nil {
			return err
		}
		if reason != "" {
			return f.aside(e, reason)
		}
		defer unlock()
	}
	all, err := e.backups(ctx)
	if err != nil {
		return err
	}
	if reason := backup.StepAside(f.class(), all, e.cfg.Backup.Schedule, e.now()); reason != "" && !f.force {
		return f.aside(e, reason)
	}
	previous := newestSummary(all)
	estimate, err := source.NewEstimate(ctx, e.cfg, previous)
	if err != nil {
		return failingError(err)
	}
	if f.dryRun {
		return f.printEstimate(e, estimate)
	}
	if err := estimate.Err(dir); err != nil {
		return failingError(err)
	}
	done, err := backup.SetRunning(dir, backup.Running{Class: f.class(), PID: os.Getpid(), Started: e.now()})
	if err != nil {
		return failingError(err)
	}
	defer done()
	p := e.progress("backing up", estimate.ContentBytes, true)
	s, err := source.Create(ctx, e.cfg, source.Options{Class: f.class(), Now: e.now(), Progress: p.add})
	p.done()
	if err != nil {
		return failingError(err)
	}
	c := created{Made: true, Backup: &s}
	v := opstate.Well
	if len(s.Skipped)+len(s.Warnings) > 0 {
		v = opstate.Warning
	}
	if previous != nil {
		// A list has no rows.
		before, err := backup.ReadManifest(dir, previous.Name, nil)
		if err != nil {
			fmt.Fprintf(e.stderr, "niodooctl: the rows are not compared with those of the backup before: %v\n", err)
			v = opstate.Warning
		}
		c.Previous, c.Fallen = previous.Name, backup.Fallen(before, s)
	}
	for _, fall := range c.Fallen {
		if fall.Now == 0 {
			v = opstate.Warning
		}
	}
	if f.verify {
		if c.Verified, err = e.verifyOne(ctx, s, true); err != nil {
			return err
		}
		if !c.Verified.OK {
			v = opstate.Failing
		}
	}
	if f.copy && len(e.cfg.Backup.Copy) > 0 && v != opstate.Failing {
		if c.Copied, err = e.copyOne(ctx, s); err != nil {
			return err
		}
		if !c.Copied.OK {
			v = opstate.Warning
		}
	}
	return f.print(e, c, v)
}

// lock takes the directory's lock. It waits only for a backup of a lower class;
// beside one of a higher class, reason says why there is nothing to do.
func (f *createFlags) lock(ctx context.Context, e *env) (unlock func(), reason string, err error) {
	dir := e.cfg.Backup.Directory
	unlock, err = opstate.TryLock(dir)
	if err == nil {
		return unlock, "", nil
	}
	if !errors.Is(err, opstate.ErrLocked) {
		return nil, "", failingError(fmt.Errorf("backup.directory: %w", err))
	}
	switch r := backup.ReadRunning(dir); {
	case r.Class == "":
		return nil, "", err
	case r.Class.Rank() > f.class().Rank():
		return nil, fmt.Sprintf("a backup of class %s is being made by process %d", r.Class, r.PID), nil
	case r.Class.Rank() < f.class().Rank():
		if !e.quiet {
			fmt.Fprintf(e.stderr, "niodooctl: waiting for the %s backup that process %d makes\n", r.Class, r.PID)
		}
		unlock, err = opstate.Lock(ctx, dir)
		return unlock, "", err
	}
	return nil, "", err
}

// aside says why no backup is made. That is well.
func (f *createFlags) aside(e *env, reason string) error {
	if e.format == formatJSON {
		return e.json(created{Reason: reason})
	}
	if !e.quiet {
		e.printf("No %s backup: %s.\n", f.class(), reason)
	}
	return nil
}

// newestSummary returns the newest good manifest, nil for none.
func newestSummary(all []backup.Backup) *backup.Summary {
	i := slices.IndexFunc(all, func(b backup.Backup) bool { return b.State == backup.Good && b.Manifest != nil })
	if i < 0 {
		return nil
	}
	return all[i].Manifest
}

func (f *createFlags) printEstimate(e *env, est source.Estimate) error {
	v := opstate.Well
	for _, p := range est.Parts {
		if p.Problem != "" {
			v = opstate.Warning
		}
	}
	short := est.Err(e.cfg.Backup.Directory)
	if short != nil {
		v = opstate.Failing
	}
	if e.format == formatJSON {
		if err := e.json(created{Reason: "dry run", Estimate: &est}); err != nil {
			return err
		}
	} else {
		e.printf("Would make a %s backup in %s of\n", f.class(), e.cfg.Backup.Directory)
		var rows [][]string
		for _, p := range est.Parts {
			size := ""
			if p.Bytes > 0 {
				size = sizeText(p.Bytes)
			}
			rows = append(rows, []string{"  " + p.Name, size, p.Problem})
		}
		e.table(nil, rows, 2)
		e.printf("It would take about %s; there are %s of room.\n", sizeText(est.NeededBytes), sizeText(est.AvailableBytes))
	}
	if short != nil {
		return failingError(short)
	}
	if v != opstate.Well {
		return verdict(v)
	}
	return nil
}

func (f *createFlags) print(e *env, c created, v opstate.Verdict) error {
	s := c.Backup
	if e.format == formatJSON {
		if err := e.json(c); err != nil {
			return err
		}
	} else if !e.quiet || v != opstate.Well {
		speed := ""
		if s.Seconds > 0 {
			speed = ", " + humanize.Value(humanize.BytesPerSec, float64(s.ContentBytes)/s.Seconds)
		}
		e.printf("%s %s: %s of content in %s, in %s%s\n", s.Class, e.cfg.Backup.Directory+"/"+s.Archive.File,
			sizeText(s.ContentBytes), sizeText(s.Archive.Bytes), secondsText(s.Seconds), speed)
		for _, k := range s.Skipped {
			e.printf("%s %s: %s\n", e.coloured(opstate.Warning, "skipped"), k.What, k.Why)
		}
		for _, w := range s.Warnings {
			e.printf("%s %s\n", e.coloured(opstate.Warning, "warning"), w)
		}
		for _, fall := range c.Fallen {
			is := fmt.Sprintf("has %d rows", fall.Now)
			if fall.Gone {
				is = "is gone"
			}
			e.printf("%s %s %s; in %s it had %d\n", e.coloured(opstate.Warning, "fallen"), fall.Name, is, c.Previous, fall.Before)
		}
		e.printCheck("verified", c.Verified)
		e.printCheck("copied", c.Copied)
	}
	if v != opstate.Well {
		return verdict(v)
	}
	return nil
}

// printCheck prints the result of a check, nothing for none.
func (e *env) printCheck(done string, c *backup.Check) {
	switch {
	case c == nil:
	case c.OK && c.Detail != "":
		e.printf("%s in %s: %s\n", e.coloured(opstate.Well, done), secondsText(c.Seconds), c.Detail)
	case c.OK:
		e.printf("%s in %s\n", e.coloured(opstate.Well, done), secondsText(c.Seconds))
	default:
		e.printf("%s: %s\n", e.coloured(opstate.Failing, "NOT "+done), c.Detail)
	}
}

// note adds the result of a check to what is known of a backup. A backup that
// was pruned meanwhile needs no note.
func (e *env) note(ctx context.Context, s backup.Summary, locked bool, change func(*backup.Checks)) error {
	if !locked {
		unlock, err := opstate.Lock(ctx, e.cfg.Backup.Directory)
		if err != nil {
			return err
		}
		defer unlock()
	}
	err := backup.UpdateChecks(e.cfg.Backup.Directory, s, change)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// verifyOne reads a backup, notes the result and returns it. The error is that
// nothing could be found out.
func (e *env) verifyOne(ctx context.Context, s backup.Summary, locked bool) (*backup.Check, error) {
	identities, err := backup.Identities(e.cfg.Backup)
	if err != nil {
		return nil, err
	}
	started := time.Now()
	p := e.progress("verifying "+s.Name, s.Archive.Bytes, true)
	detail, err := backup.Verify(ctx, e.cfg.Backup.Directory, s.Name, identities, p.add)
	p.done()
	if err != nil && !errors.Is(err, backup.ErrDamaged) {
		return nil, err
	}
	c := &backup.Check{Finished: e.now(), Seconds: time.Since(started).Seconds(), OK: err == nil, Detail: detail}
	if err != nil {
		c.Detail = err.Error()
	}
	return c, e.note(ctx, s, locked, func(all *backup.Checks) { all.Verified = c })
}

// copyOne copies a backup, notes the result and returns it. The caller holds the lock.
func (e *env) copyOne(ctx context.Context, s backup.Summary) (*backup.Check, error) {
	c, err := source.Copy(ctx, e.cfg.Backup, s)
	if err != nil {
		return nil, err
	}
	return &c, e.note(ctx, s, true, func(all *backup.Checks) { all.Copied = &c })
}

// listed is a backup as backup list prints it for machines.
type listed struct {
	Name         string         `json:"name"`
	Layout       backup.Layout  `json:"layout"`
	State        backup.State   `json:"state"`
	Problem      string         `json:"problem,omitempty"`
	Time         time.Time      `json:"time"`
	AgeSeconds   float64        `json:"age_seconds"`
	Bytes        int64          `json:"bytes"`
	Class        backup.Class   `json:"class,omitempty"`
	ContentBytes int64          `json:"content_bytes,omitempty"`
	Encrypted    bool           `json:"encrypted"`
	Skipped      int            `json:"skipped"`
	Checks       *backup.Checks `json:"checks,omitempty"`
}

func backupList(ctx context.Context, e *env) error {
	all, err := e.backups(ctx)
	if err != nil {
		return err
	}
	if e.format == formatJSON {
		out := make([]listed, 0, len(all))
		for _, b := range all {
			l := listed{Name: b.Name, Layout: b.Layout, State: b.State, Problem: b.Problem, Time: b.Time.UTC(),
				AgeSeconds: e.now().Sub(b.Time).Seconds(), Bytes: b.Bytes}
			if m := b.Manifest; m != nil {
				l.Class, l.ContentBytes, l.Encrypted, l.Skipped = m.Class, m.ContentBytes, m.Encryption != nil, len(m.Skipped)
			}
			if b.Checks.Version > 0 {
				l.Checks = &b.Checks
			}
			out = append(out, l)
		}
		return e.json(struct {
			Directory string   `json:"directory"`
			Backups   []listed `json:"backups"`
		}{e.cfg.Backup.Directory, out})
	}
	if len(all) == 0 {
		e.printf("No backups in %s.\n", e.cfg.Backup.Directory)
		return nil
	}
	var rows [][]string
	for _, b := range all {
		class := string(b.Layout)
		if b.Manifest != nil {
			class = string(b.Manifest.Class)
		} else if b.Layout == backup.Native {
			class = ""
		}
		rows = append(rows, []string{b.Name, humanize.Duration(e.now().Sub(b.Time)), sizeText(b.Bytes), class, e.stateText(b),
			e.checkText(b.Checks.Verified), e.checkText(b.Checks.Drilled), e.checkText(b.Checks.Copied), b.Problem})
	}
	e.table([]string{"NAME", "AGE", "SIZE", "CLASS", "STATE", "VERIFIED", "DRILLED", "COPIED", ""}, rows, 2, 3)
	return nil
}

var stateVerdicts = map[backup.State]opstate.Verdict{
	backup.Good: opstate.Well, backup.InProgress: opstate.Warning, backup.Incomplete: opstate.Failing,
	backup.Failed: opstate.Failing, backup.Unknown: opstate.Unknown,
}

func (e *env) stateText(b backup.Backup) string {
	return e.coloured(stateVerdicts[b.State], string(b.State))
}

// checkText says how long ago a check was made, or that it was not or failed.
func (e *env) checkText(c *backup.Check) string {
	switch {
	case c == nil:
		return "no"
	case !c.OK:
		return e.coloured(opstate.Failing, "FAILED")
	}
	return humanize.Duration(e.now().Sub(c.Finished)) + " ago"
}

type verifyFlags struct {
	name string
	all  bool
}

// verified is the result of verifying one backup, as it is printed for machines.
type verified struct {
	Name    string          `json:"name"`
	Verdict opstate.Verdict `json:"verdict"`
	Detail  string          `json:"detail,omitempty"`
	Bytes   int64           `json:"bytes,omitempty"`
	Seconds float64         `json:"duration_seconds,omitempty"`
}

func (f *verifyFlags) run(ctx context.Context, e *env) error {
	all, err := e.backups(ctx)
	if err != nil {
		return err
	}
	chosen := slices.DeleteFunc(slices.Clone(all), func(b backup.Backup) bool { return b.Layout != backup.Native || b.State == backup.InProgress })
	if !f.all {
		b, err := backup.Find(all, f.name)
		if err != nil {
			return err
		}
		chosen = []backup.Backup{b}
	}
	if len(chosen) == 0 {
		return errors.New("there is no backup to verify")
	}
	var results []verified
	worst := opstate.Well
	for _, b := range chosen {
		v, err := f.one(ctx, e, b)
		if err != nil {
			return err
		}
		results = append(results, v)
		if v.Verdict == opstate.Failing || worst == opstate.Well {
			worst = v.Verdict
		}
	}
	if e.format == formatJSON {
		if err := e.json(results); err != nil {
			return err
		}
	} else {
		for _, v := range results {
			if e.quiet && v.Verdict == opstate.Well {
				continue
			}
			text := map[opstate.Verdict]string{opstate.Well: "verified", opstate.Failing: "DAMAGED", opstate.Unknown: "could not verify"}[v.Verdict]
			line := v.Name + ": " + e.coloured(v.Verdict, text)
			if v.Seconds > 0 {
				line += fmt.Sprintf(", %s in %s, %s", sizeText(v.Bytes), secondsText(v.Seconds), humanize.Value(humanize.BytesPerSec, float64(v.Bytes)/v.Seconds))
			}
			if v.Detail != "" {
				line += ": " + v.Detail
			}
			e.printf("%s\n", line)
		}
	}
	if worst != opstate.Well {
		return verdict(worst)
	}
	return nil
}

// one verifies a backup. What is no whole backup needs no reading; the error is
// that the run was interrupted or its result could not be kept.
func (f *verifyFlags) one(ctx context.Context, e *env, b backup.Backup) (verified, error) {
	v := verified{Name: b.Name, Verdict: opstate.Unknown, Detail: b.Problem}
	switch {
	case b.Layout != backup.Native:
		v.Detail = "it has no checksums"
		return v, nil
	case b.State == backup.Incomplete:
		v.Verdict = opstate.Failing
		return v, nil
	case b.Manifest == nil:
		return v, nil
	}
	c, err := e.verifyOne(ctx, *b.Manifest, false)
	switch {
	case ctx.Err() != nil:
		return v, ctx.Err()
	case err != nil && c != nil: // it was verified, and the result could not be kept
		return v, err
	case err != nil:
		v.Detail = err.Error()
		return v, nil
	}
	v.Verdict, v.Detail, v.Seconds, v.Bytes = opstate.Failing, c.Detail, c.Seconds, b.Manifest.ContentBytes
	if c.OK {
		v.Verdict = opstate.Well
	}
	return v, nil
}

type pruneFlags struct{ dryRun bool }

// pruned is what becomes of a backup, as it is printed for machines.
type pruned struct {
	Name    string   `json:"name"`
	Kept    bool     `json:"kept"`
	Reasons []string `json:"reasons"`
	Bytes   int64    `json:"bytes"`
	Error   string   `json:"error,omitempty"`
}

func (f *pruneFlags) run(ctx context.Context, e *env) error {
	dir := e.cfg.Backup.Directory
	if !f.dryRun {
		unlock, err := opstate.TryLock(dir)
		if err != nil {
			return err
		}
		defer unlock()
	}
	all, err := e.backups(ctx)
	if err != nil {
		return err
	}
	decisions, err := backup.Retain(dir, all, e.cfg.Backup.Retention, e.now())
	if errors.Is(err, backup.ErrNoPolicy) {
		return usageError("%v", err)
	}
	if err != nil {
		return err
	}
	results := make([]pruned, len(decisions))
	var failed error
	for i, d := range slices.Backward(decisions) { // the oldest go first
		results[i] = pruned{Name: d.Backup.Name, Kept: d.Keep, Reasons: d.Reasons, Bytes: d.Backup.Bytes}
		if d.Keep || f.dryRun {
			continue
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := backup.Delete(dir, d.Backup.Name); err != nil {
			results[i].Error = err.Error()
			failed = errors.Join(failed, err)
		}
	}
	if e.format == formatJSON {
		err = e.json(results)
	} else {
		f.print(e, results)
	}
	if err != nil {
		return err
	}
	return failingError(failed)
}

func (f *pruneFlags) print(e *env, results []pruned) {
	verbs := map[bool]string{true: "keep", false: "deleted"}
	if f.dryRun {
		verbs[false] = "would delete"
	}
	var rows [][]string
	var freed int64
	for _, r := range results {
		verb := verbs[r.Kept]
		switch {
		case r.Error != "":
			verb = "NOT deleted"
		case !r.Kept:
			freed += r.Bytes
		}
		if e.quiet && r.Kept {
			continue
		}
		rows = append(rows, []string{verb, r.Name, sizeText(r.Bytes), strings.Join(r.Reasons, ", ")})
	}
	if len(rows) > 0 {
		e.table(nil, rows, 3)
	}
	if !e.quiet {
		e.printf("%s %s.\n", map[bool]string{true: "Would free", false: "Freed"}[f.dryRun], sizeText(freed))
	}
}

type copyFlags struct {
	name   string
	dryRun bool
}

func (f *copyFlags) run(ctx context.Context, e *env) error {
	if len(e.cfg.Backup.Copy) == 0 {
		return usageError("%v", source.ErrNoCopy)
	}
	if !f.dryRun {
		unlock, err := opstate.TryLock(e.cfg.Backup.Directory)
		if err != nil {
			return err
		}
		defer unlock()
	}
	all, err := e.backups(ctx)
	if err != nil {
		return err
	}
	b, err := backup.Find(all, f.name)
	if err != nil {
		return err
	}
	if b.Manifest == nil || b.State != backup.Good {
		return fmt.Errorf("%s is not copied: it is no good backup of niodooctl: %s", b.Name, b.State)
	}
	if f.dryRun {
		for _, a := range source.CopyCommand(e.cfg.Backup, *b.Manifest) {
			e.printf("%s\n", a)
		}
		return nil
	}
	c, err := e.copyOne(ctx, *b.Manifest)
	if err != nil {
		return err
	}
	if e.format == formatJSON {
		err = e.json(created{Backup: b.Manifest, Copied: c})
	} else if !e.quiet || !c.OK {
		e.printf("%s: ", b.Name)
		e.printCheck("copied", c)
	}
	if err == nil && !c.OK {
		return verdict(opstate.Failing)
	}
	return err
}
