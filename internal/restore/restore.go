// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

// Package restore puts backups back: into the services and directories that
// they came from, or into a directory. It reads niodooctl's own backups and both
// layouts of the manual's scripts.
//
// Everything is staged first: files beside their destination, the rest in a
// scratch directory, databases under a name of their own. Only when the last
// byte of the archive has proved right does anything change that is in use, and
// then by renaming; what was there before is kept. A drill ([Drill]) does the
// same with servers of its own and compares what came out.
package restore

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"filippo.io/age"
	"golang.org/x/sys/unix"

	"github.com/niodoo/niodoo_exporter/internal/atomicfile"
	"github.com/niodoo/niodoo_exporter/internal/backup"
	"github.com/niodoo/niodoo_exporter/internal/config"
	"github.com/niodoo/niodoo_exporter/internal/humanize"
)

// The parts of a backup that can be restored on their own.
const (
	PostgreSQL = "postgresql"
	Redis      = "redis"
	Qdrant     = "qdrant"
	Files      = "files"
)

// Parts lists the closed set, in the order in which they are put in place: what
// can be refused comes before what cannot.
var Parts = []string{PostgreSQL, Redis, Qdrant, Files}

var (
	// ErrLive says that data that is in use would be replaced.
	ErrLive = errors.New("there is live data")
	// ErrSpace says that there is too little room on a disk.
	ErrSpace = errors.New("too little space")
	// ErrNothing says that the backup has nothing of what is wanted.
	ErrNothing = errors.New("there is nothing to restore")
)

// Options say what is restored, and to where.
type Options struct {
	// To is a directory for everything; then no service is touched but for a
	// Database that is named. "" restores to where it came from.
	To string
	// Database is the database to restore into, "" the one that was backed up.
	Database string
	// Only are the parts to restore; none is all.
	Only []string
	// Force allows to replace live data, which is kept aside.
	Force bool
	// Scratch is an existing directory for what passes through.
	Scratch string
	// Identities decrypt an encrypted archive.
	Identities []age.Identity
	// Progress, if set, is told of the bytes of the archive as they are read.
	Progress func(int64)
	Now      time.Time
}

// Step is one thing that a restore does.
type Step struct {
	Part string `json:"part"`
	// What is restored, and Target where to, in words.
	What   string `json:"what"`
	Target string `json:"target"`
	Bytes  int64  `json:"bytes"`
	// Live is what is in use there now and will be replaced, "" if nothing; Kept
	// is what becomes of it.
	Live string `json:"live,omitempty"`
	Kept string `json:"kept,omitempty"`
}

// Done is what became of a step.
type Done struct {
	Step
	// Notes are what to know about it, such as where the old data is kept.
	Notes []string `json:"notes,omitempty"`
	Error string   `json:"error,omitempty"`
}

// target is a place to which one part is restored.
type target interface {
	// takes reports whether a member belongs there.
	takes(member string) bool
	// expect is told of the members to come, by name.
	expect(member string, bytes int64)
	// plan looks at what is there now.
	plan(ctx context.Context) (Step, error)
	// stage takes a member in.
	stage(h *tar.Header, r io.Reader) error
	// prepare does, once all is staged and proved, what changes nothing in use.
	prepare(ctx context.Context) error
	// commit puts it in place and returns what to know about it.
	commit(ctx context.Context) ([]string, error)
	// discard removes what was staged and not committed.
	discard()
}

// origin is where members come from.
type origin interface {
	// walk visits all members. [backup.ErrDamaged] says that the backup is bad.
	walk(ctx context.Context, visit visitor) error
}

// Restore is a restore that is planned and not done yet. Close it.
type Restore struct {
	Backup backup.Backup
	// Steps are what will be done.
	Steps []Step
	// Notes are what to know before, such as models to be pulled again.
	Notes []string

	source  origin
	targets []target
	scratch string
	unlock  func() // of scratch
	opts    Options
}

// native is one of our own backups.
type native struct {
	dir, name  string
	identities []age.Identity
	progress   func(int64)
}

func (n native) walk(ctx context.Context, visit visitor) error {
	a, err := backup.OpenArchive(ctx, n.dir, n.name, n.identities, n.progress)
	if err != nil {
		return err
	}
	defer func() { _ = a.Close() }()
	for {
		h, err := a.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := visit(h, a); err != nil {
			return err
		}
	}
}

// New plans a restore. Of the manual's backups it reads all: they have no
// table of contents.
func New(ctx context.Context, cfg *config.Config, b backup.Backup, o Options) (_ *Restore, err error) {
	r := &Restore{Backup: b, opts: o}
	defer func() {
		if err != nil {
			r.Close()
		}
	}()
	if r.scratch, r.unlock, err = workDir(o.Scratch, "niodoo-restore-"); err != nil {
		return nil, err
	}
	if o.Progress == nil {
		r.opts.Progress = func(int64) {}
	}
	r.source = open(cfg, b, o.Identities, r.opts.Progress)
	members, err := r.members(ctx, cfg.Backup.Directory)
	if err != nil {
		return nil, err
	}
	if err := r.choose(ctx, cfg, members); err != nil {
		return nil, err
	}
	for _, m := range members {
		if t := r.target(m.name); t != nil {
			t.expect(m.name, m.bytes)
		}
	}
	for _, t := range r.targets {
		step, err := t.plan(ctx)
		if err != nil {
			return nil, err
		}
		r.Steps = append(r.Steps, step)
		if step.Part == Redis && cfg.Redis.TLSConfig != nil {
			r.Notes = append(r.Notes, "Redis fetches its keys from this machine without TLS")
		}
	}
	return r, r.room()
}

// open returns where the members of a backup come from.
func open(cfg *config.Config, b backup.Backup, identities []age.Identity, progress func(int64)) origin {
	if b.Layout == backup.Native {
		return native{cfg.Backup.Directory, b.Name, identities, progress}
	}
	return &legacy{path: filepath.Join(cfg.Backup.Directory, b.Name), database: cfg.PostgreSQL.Database}
}

// member is one of the backup, or all the files of a source.
type member struct {
	name  string
	bytes int64
}

// members lists what is in the backup, in order. The files of a source, of which
// there may be millions, are one.
func (r *Restore) members(ctx context.Context, dir string) ([]member, error) {
	var all []member
	add := func(name string, bytes int64) {
		if rest, ok := strings.CutPrefix(name, backup.FilesDir); ok && rest != "" {
			source, _, _ := strings.Cut(rest, "/")
			name = backup.FilesDir + source
			if i := slices.IndexFunc(all, func(m member) bool { return m.name == name }); i >= 0 {
				all[i].bytes += bytes
				return
			}
		}
		all = append(all, member{name, bytes})
	}
	if r.Backup.Layout != backup.Native {
		err := r.source.walk(ctx, func(h *tar.Header, _ io.Reader) error {
			add(h.Name, h.Size)
			return nil
		})
		return all, err
	}
	_, err := backup.ReadManifest(dir, r.Backup.Name, func(e backup.Entry) error {
		name, err := e.Member()
		add(name, e.Bytes)
		return err
	})
	return all, err
}

// choose makes the targets.
func (r *Restore) choose(ctx context.Context, cfg *config.Config, members []member) error {
	wanted := func(part string) bool { return len(r.opts.Only) == 0 || slices.Contains(r.opts.Only, part) }
	has := func(prefix string) bool {
		return slices.ContainsFunc(members, func(m member) bool { return strings.HasPrefix(m.name, prefix) })
	}
	id := r.opts.Now.UTC().Format("20060102_150405")
	if r.opts.To != "" {
		r.targets = append(r.targets, newDirectory("everything", "", r.opts.To, id, r.opts.Force, r.opts.Only))
		if r.opts.Database != "" && wanted(PostgreSQL) {
			return errors.New("a database and a directory are two restores: leave --to or --database out")
		}
		return nil
	}
	if wanted(PostgreSQL) && has(backup.PostgreSQLDir) {
		t, err := newDatabases(ctx, cfg, r.opts, r.scratch, id)
		if err != nil {
			return err
		}
		r.targets = append(r.targets, t)
	}
	if wanted(Redis) && has(backup.RedisMember) {
		t, err := newDataset(cfg, r.scratch, id)
		if err != nil {
			return err
		}
		r.targets = append(r.targets, t)
	}
	if wanted(Qdrant) && has(backup.QdrantDir) {
		t, err := newCollections(cfg, r.scratch)
		if err != nil {
			return err
		}
		r.targets = append(r.targets, t)
	}
	if wanted(Files) {
		trees, _ := cfg.Backup.Trees()
		for _, source := range sourcesOf(members) {
			dest := trees[source]
			if dest == "" {
				return fmt.Errorf("the files of %q have no place: name one under backup.sources, or use --to", source)
			}
			r.targets = append(r.targets, newDirectory("the files of "+source, backup.FilesDir+source, dest, id, r.opts.Force, nil))
		}
	}
	if len(r.targets) == 0 {
		return fmt.Errorf("%w: %s holds none of what was asked for", ErrNothing, r.Backup.Name)
	}
	if has(backup.ModelsMember) {
		r.Notes = append(r.Notes, "the models of Ollama are not in a backup; "+backup.ModelsMember+" in it says which to pull again")
	}
	return nil
}

// sourcesOf returns the names of the sources of files, in order.
func sourcesOf(members []member) []string {
	var all []string
	for _, m := range members {
		if source, ok := strings.CutPrefix(m.name, backup.FilesDir); ok && source != "" {
			all = append(all, source)
		}
	}
	return all
}

func (r *Restore) target(member string) target {
	for _, t := range r.targets {
		if t.takes(member) {
			return t
		}
	}
	return nil
}

// Live returns what is in use and would be replaced.
func (r *Restore) Live() []Step {
	return slices.DeleteFunc(slices.Clone(r.Steps), func(s Step) bool { return s.Live == "" })
}

// room reports disks on which what is staged does not fit. Each step's bytes
// are counted where they are staged.
func (r *Restore) room() error {
	need := map[string]int64{}
	for i, t := range r.targets {
		dir := r.scratch
		if d, ok := t.(*directory); ok {
			dir = d.base
		}
		need[dir] += r.Steps[i].Bytes
	}
	for dir, bytes := range need {
		if err := Room(dir, bytes); err != nil {
			return err
		}
	}
	return nil
}

// Room reports [ErrSpace] if there is no room for so many bytes in a directory,
// which need not exist yet.
func Room(dir string, bytes int64) error {
	for {
		var st unix.Statfs_t
		err := unix.Statfs(dir, &st)
		if errors.Is(err, fs.ErrNotExist) && dir != filepath.Dir(dir) {
			dir = filepath.Dir(dir)
			continue
		}
		if err != nil {
			return &fs.PathError{Op: "statfs", Path: dir, Err: err}
		}
		if free := int64(st.Bavail) * st.Bsize; free < bytes {
			return fmt.Errorf("%w in %s: %s are free and %s are needed", ErrSpace, dir,
				humanize.Value(humanize.Bytes, float64(free)), humanize.Value(humanize.Bytes, float64(bytes)))
		}
		return nil
	}
}

// Run restores. Where live data would be replaced without leave it is
// [ErrLive]; a damaged backup is [backup.ErrDamaged]; in both cases nothing has
// changed. Else an error says which of the steps failed, and done what became of each.
func (r *Restore) Run(ctx context.Context) (done []Done, err error) {
	if live := r.Live(); len(live) > 0 && !r.opts.Force {
		var where []string
		for _, s := range live {
			where = append(where, s.Target+" ("+s.Live+")")
		}
		return nil, fmt.Errorf("%w in %s: --force replaces it, and keeps it aside; --to and --database restore beside it", ErrLive, strings.Join(where, ", "))
	}
	err = r.source.walk(ctx, func(h *tar.Header, content io.Reader) error {
		if t := r.target(h.Name); t != nil {
			return t.stage(h, content)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	for i, t := range r.targets {
		if err := t.prepare(ctx); err != nil {
			return nil, fmt.Errorf("%s: %w", r.Steps[i].What, err)
		}
	}
	var errs []error
	for i, t := range r.targets {
		d := Done{Step: r.Steps[i]}
		if len(errs) > 0 {
			d.Error = "not done, because of the failure before"
			done = append(done, d)
			continue
		}
		notes, err := t.commit(ctx)
		d.Notes = notes
		if err != nil {
			err = fmt.Errorf("%s: %w", d.What, err)
			d.Error = err.Error()
			errs = append(errs, err)
		}
		done = append(done, d)
	}
	return done, errors.Join(errs...)
}

// Verify reads the whole backup and changes nothing.
func (r *Restore) Verify(ctx context.Context) error {
	return r.source.walk(ctx, func(*tar.Header, io.Reader) error { return nil })
}

// Close removes what was staged.
func (r *Restore) Close() {
	for _, t := range r.targets {
		t.discard()
	}
	if r.scratch != "" {
		_ = removeTree(r.scratch)
		r.unlock()
	}
}

// directory is a target: a directory that gets the members below a prefix.
type directory struct {
	what, prefix, dest string
	id                 string
	force              bool
	only               []string

	base, staging string // the staging directory and the one it is in
	unlock        func() // of staging
	tree          *tree
	step          Step
	redis         bool
	committed     bool
	inside        bool // dest is there and empty: it is filled, not replaced
}

func newDirectory(what, prefix, dest, id string, force bool, only []string) *directory {
	dest = filepath.Clean(dest)
	return &directory{what: what, prefix: prefix, dest: dest, id: id, force: force, only: only, base: filepath.Dir(dest)}
}

// below returns the place of a member in the directory.
func (d *directory) below(member string) (string, bool) {
	member = path.Clean(member)
	if d.prefix == "" {
		part, _, _ := strings.Cut(member, "/")
		return member, len(d.only) == 0 || slices.Contains(d.only, part)
	}
	if member == d.prefix {
		return ".", true
	}
	return strings.CutPrefix(member, d.prefix+"/")
}

func (d *directory) takes(member string) bool {
	_, ok := d.below(member)
	return ok
}

func (d *directory) expect(_ string, bytes int64) { d.step.Bytes += bytes }

func (d *directory) plan(context.Context) (Step, error) {
	d.step.Part, d.step.What, d.step.Target = Files, d.what, d.dest
	if err := sweep(d.dest, d.prefixOfStaging()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return d.step, err
	}
	entries, err := os.ReadDir(d.dest)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return d.step, err
	case len(entries) == 0:
		d.inside, d.base = true, d.dest
	default:
		mount, err := isMountPoint(d.dest)
		if err != nil {
			return d.step, err
		}
		if mount {
			return d.step, fmt.Errorf("%s is a mount point and not empty, so it cannot be renamed: move what is in it away, or use --to", d.dest)
		}
		d.step.Live = fmt.Sprintf("%d entries", len(entries))
		d.step.Kept = "kept as " + d.before()
	}
	return d.step, nil
}

func (d *directory) prefixOfStaging() string { return ".niodoo-restore-" + filepath.Base(d.dest) + "-" }

func (d *directory) before() string { return d.dest + ".before-" + d.id }

func isMountPoint(dir string) (bool, error) {
	var a, b unix.Stat_t
	if err := unix.Stat(dir, &a); err != nil {
		return false, &fs.PathError{Op: "stat", Path: dir, Err: err}
	}
	if err := unix.Stat(filepath.Join(dir, ".."), &b); err != nil {
		return false, &fs.PathError{Op: "stat", Path: dir, Err: err}
	}
	return a.Dev != b.Dev, nil
}

func (d *directory) stage(h *tar.Header, r io.Reader) error {
	if d.tree == nil {
		if err := os.MkdirAll(d.base, 0o755); err != nil {
			return err
		}
		var err error
		if d.staging, d.unlock, err = workDir(d.base, d.prefixOfStaging()); err != nil {
			return err
		}
		t, err := newTree(d.staging)
		if err != nil {
			return err
		}
		d.tree = t
	}
	name, _ := d.below(h.Name)
	renamed := *h
	renamed.Name = name
	if h.Typeflag == tar.TypeLink {
		link, ok := d.below(h.Linkname)
		if !ok {
			return fmt.Errorf("%q is a hard link to %q, which is not restored: use --to", h.Name, h.Linkname)
		}
		renamed.Linkname = link
	}
	d.redis = d.redis || d.prefix == "" && h.Name == backup.RedisMember
	return d.tree.add(&renamed, r)
}

func (d *directory) prepare(context.Context) error {
	if d.tree == nil {
		return fmt.Errorf("%w: no member of %s", ErrNothing, d.what)
	}
	if d.redis {
		if err := writeRedisDir(filepath.Join(d.staging, Redis)); err != nil {
			return err
		}
	}
	return d.tree.finish()
}

func (d *directory) commit(context.Context) ([]string, error) {
	notes := d.tree.notes
	if !d.tree.privileged {
		notes = append(notes, "the files belong to you: only root can give them their owners back")
	}
	var err error
	switch {
	case d.inside:
		err = d.moveUp()
	case d.step.Live != "":
		if err = os.Rename(d.dest, d.before()); err != nil {
			return notes, err
		}
		notes = append(notes, "what was in "+d.dest+" is kept as "+d.before())
		if err = os.Rename(d.staging, d.dest); err != nil {
			return notes, errors.Join(err, os.Rename(d.before(), d.dest))
		}
	default:
		err = os.Rename(d.staging, d.dest)
	}
	if err != nil {
		return notes, err
	}
	d.committed = true
	if d.redis {
		notes = append(notes, "start a Redis with dir "+filepath.Join(d.dest, Redis)+", append-only mode on or off")
	}
	return notes, atomicfile.SyncDir(d.base)
}

// moveUp fills an empty directory, which may be a mount point, with what is
// staged in it, and gives it the attributes of the staged one.
func (d *directory) moveUp() error {
	entries, err := os.ReadDir(d.staging)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := os.Rename(filepath.Join(d.staging, e.Name()), filepath.Join(d.dest, e.Name())); err != nil {
			return err
		}
	}
	if err := os.Remove(d.staging); err != nil {
		return err
	}
	if len(d.tree.dirs) == 0 || path.Clean(d.tree.dirs[0].Name) != "." {
		return nil
	}
	t, err := newTree(d.dest)
	if err != nil {
		return err
	}
	defer t.close()
	t.dirs = d.tree.dirs[:1]
	return t.finish()
}

func (d *directory) discard() {
	if d.tree != nil {
		d.tree.close()
	}
	if d.unlock == nil {
		return
	}
	if !d.committed {
		_ = removeTree(d.staging)
	}
	d.unlock()
}
