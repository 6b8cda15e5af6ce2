// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package maintenance

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sys/unix"

	"github.com/niodoo/niodoo_exporter/internal/humanize"
)

const (
	// freshDensity is how full the leaves of a new B-tree are.
	freshDensity = 0.9
	// roomFactor is how much room a rebuild must find, in sizes of the index:
	// the new one, and what is sorted and logged for it.
	roomFactor = 2
)

// index is an index that may be rebuilt.
type index struct {
	oid  uint32
	name string
	size int64
	// location is the directory of its table space, "" for the server's own.
	location string
	listed   bool
	// density is how full the leaves are; estimated says that they have not been
	// looked at. It is 0 where nobody knows.
	density   float64
	estimated bool
}

// gain is how many bytes a rebuild would free.
func (i index) gain() float64 {
	if i.density <= 0 {
		return 0
	}
	return float64(i.size) * max(0, 1-i.density/freshDensity)
}

func (i index) String() string {
	text := fmt.Sprintf("%s, %s", i.name, humanize.Value(humanize.Bytes, float64(i.size)))
	if i.density > 0 {
		text += fmt.Sprintf(", leaves %.0f %% full", 100*i.density)
		if i.estimated {
			text += " (estimated)"
		}
	}
	if i.listed {
		text += ", listed in maintenance.indexes"
	}
	return text
}

// Indexes of partitioned tables have no data of their own; those of exclusion
// constraints cannot be rebuilt while others use them.
const indexColumns = `
SELECT c.oid, format('%I.%I', n.nspname, c.relname), pg_relation_size(c.oid), pg_tablespace_location(nullif(c.reltablespace, 0))
FROM pg_index i
JOIN pg_class c ON c.oid = i.indexrelid
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'i' AND NOT i.indisexclusion`

const candidatesQuery = indexColumns + ` AND i.indisvalid AND c.relpersistence <> 't'
  AND c.relam = (SELECT oid FROM pg_am WHERE amname = 'btree')
  AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_' AND pg_relation_size(c.oid) >= $1
ORDER BY pg_relation_size(c.oid) DESC`

// estimateQuery compares the size of a B-tree's leaves with what their entries
// need: 8 bytes of header and 4 of line pointer each, keys aligned to 8 bytes,
// 8 KiB pages. It does not know that equal keys are stored once, which makes it
// say that an index is fuller than it is: that is the harmless side.
const estimateQuery = `
SELECT c.reltuples::float8 * (12 + 8 * ceil(sum(s.avg_width) / 8.0)) / (c.relpages::float8 * (current_setting('block_size')::int - 40))
FROM pg_index i
JOIN pg_class c ON c.oid = i.indexrelid
JOIN pg_class t ON t.oid = i.indrelid
JOIN pg_namespace n ON n.oid = t.relnamespace
JOIN pg_attribute a ON a.attrelid = i.indexrelid AND a.attnum > 0
LEFT JOIN pg_attribute ta ON ta.attrelid = i.indrelid AND ta.attnum = i.indkey[a.attnum - 1] AND ta.attnum > 0
LEFT JOIN pg_stats s ON s.schemaname = n.nspname
  AND s.tablename = CASE WHEN ta.attnum IS NULL THEN c.relname ELSE t.relname END
  AND s.attname = coalesce(ta.attname, a.attname) AND NOT s.inherited
WHERE i.indexrelid = $1 AND c.relpages > 0 AND c.reltuples > 0
GROUP BY c.reltuples, c.relpages
HAVING count(*) = count(s.avg_width)`

func reindex(ctx context.Context, j *job) (outcome, error) {
	s, err := j.connect(ctx)
	if errors.Is(err, errStandby) {
		return skipped("%v", err), nil
	}
	if err != nil {
		return outcome{}, err
	}
	defer s.close(ctx)
	r := &rebuild{job: j, session: s}
	if err := r.choose(ctx); err != nil {
		return outcome{}, err
	}
	for i, x := range r.chosen {
		if outOfTime(ctx) {
			r.problem("%s and %d more: not reached in time", x.name, len(r.chosen)-i-1)
			break
		}
		why, err := r.obstacle(ctx, x)
		switch {
		case err != nil:
			r.problem("%s: %s", x.name, message(err))
		case why != "":
			r.passedOver = append(r.passedOver, x.name+": "+why)
			r.say("skipped %s: %s", x, why)
		case j.DryRun:
			r.say("would rebuild %s", x)
		default:
			r.rebuild(ctx, x)
		}
		if r.IsClosed() {
			return outcome{}, errors.Join(errors.New("the session with PostgreSQL ended"), err)
		}
	}
	return r.outcome(), nil
}

// rebuild is how far the rebuilding has come.
type rebuild struct {
	*job
	*session
	chosen, rebuilt      []index
	passedOver, problems []string
	notJudged            int
}

func (r *rebuild) problem(format string, args ...any) {
	p := fmt.Sprintf(format, args...)
	r.problems = append(r.problems, p)
	r.say("%s", p)
}

// choose finds the listed indexes and the bloated ones, the biggest gain first.
func (r *rebuild) choose(ctx context.Context) error {
	m := r.job.Config.Maintenance
	for _, name := range m.Indexes {
		found, err := r.indexes(ctx, indexColumns+" AND c.oid = to_regclass($1)", name)
		switch {
		case err != nil:
			return err
		case len(found) == 0:
			r.problem("maintenance.indexes: %s is no index that can be rebuilt while it is used", name)
		default:
			found[0].listed = true
			r.chosen = append(r.chosen, found[0])
		}
	}
	candidates, err := r.indexes(ctx, candidatesQuery, m.BloatMinBytes)
	if err != nil {
		return err
	}
	measure, err := r.statindex(ctx)
	if err != nil {
		return err
	}
	for _, x := range candidates {
		if slices.ContainsFunc(r.chosen, func(o index) bool { return o.oid == x.oid }) {
			continue
		}
		if outOfTime(ctx) {
			r.problem("%s and those smaller: not looked at in time", x.name)
			break
		}
		if err := r.judge(ctx, measure, &x); err != nil {
			return err
		}
		switch {
		case x.density == 0:
			r.notJudged++
			r.say("not judged %s: neither pgstatindex nor statistics of its columns are there", x)
		case x.density < m.BloatMaxDensity:
			r.chosen = append(r.chosen, x)
		}
	}
	slices.SortStableFunc(r.chosen, func(a, b index) int { return cmp.Compare(b.gain(), a.gain()) })
	return nil
}

func (r *rebuild) indexes(ctx context.Context, query string, args ...any) ([]index, error) {
	rows, err := r.Query(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (x index, err error) {
		var location *string
		err = row.Scan(&x.oid, &x.name, &x.size, &location)
		if location != nil {
			x.location = *location
		}
		return x, err
	})
}

// statindex returns pgstattuple's function by its full name, "" where the
// extension or the right to use it is missing.
func (r *rebuild) statindex(ctx context.Context) (string, error) {
	var name string
	err := r.QueryRow(ctx, `
SELECT format('%I.%I', n.nspname, p.proname) FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
WHERE p.proname = 'pgstatindex' AND p.proargtypes = ARRAY['regclass'::regtype]::oidvector
  AND has_schema_privilege(n.oid, 'USAGE') AND has_function_privilege(p.oid, 'EXECUTE')`).Scan(&name)
	if errors.Is(err, pgx.ErrNoRows) {
		return "", nil
	}
	return name, err
}

// judge finds out how full an index is: by looking at all of it where we may.
func (r *rebuild) judge(ctx context.Context, measure string, x *index) error {
	query := estimateQuery
	if x.estimated = measure == ""; !x.estimated {
		query = "SELECT avg_leaf_density / 100 FROM " + measure + "($1::oid::regclass) WHERE avg_leaf_density <> 'NaN'"
	}
	err := r.QueryRow(ctx, query, x.oid).Scan(&x.density)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil
	}
	return err
}

// obstacle says why an index had better not be rebuilt now, "" for nothing.
func (r *rebuild) obstacle(ctx context.Context, x index) (string, error) {
	if building, err := r.indexBuild(ctx); err != nil {
		return "", err
	} else if building {
		return "another index is being built", nil
	}
	if why, err := r.longTransaction(ctx); why != "" || err != nil {
		return why, err
	}
	return r.noRoom(ctx, x)
}

// noRoom says that the new index would not fit beside the old one. Where that
// cannot be found out it is an error.
func (r *rebuild) noRoom(ctx context.Context, x index) (string, error) {
	dir := cmp.Or(x.location, r.job.Config.Maintenance.DataDirectory)
	if dir == "" {
		err := r.QueryRow(ctx, "SELECT setting FROM pg_settings WHERE name = 'data_directory'").Scan(&dir)
		if err != nil && !errors.Is(err, pgx.ErrNoRows) { // only members of pg_read_all_settings see it
			return "", err
		}
		if host := r.job.Config.PostgreSQL.Host; !strings.HasPrefix(host, "/") && !slices.Contains([]string{"localhost", "127.0.0.1", "::1"}, host) {
			dir = "" // another machine's
		}
	}
	const mend = "write maintenance.data_directory, where the server's data is as seen from here"
	if dir == "" {
		return "", errors.New("the free space for its rebuild is not known; " + mend)
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return "", fmt.Errorf("the free space for its rebuild is not known: %s: %w; %s", dir, err, mend)
	}
	free, need := float64(fs.Bavail)*float64(fs.Bsize), roomFactor*float64(x.size)
	if free < need {
		return fmt.Sprintf("%s free at %s, and its rebuild may need %s", humanize.Value(humanize.Bytes, free), dir, humanize.Value(humanize.Bytes, need)), nil
	}
	return "", nil
}

// rebuild rebuilds one index. What a rebuild that fails leaves behind is dropped.
func (r *rebuild) rebuild(ctx context.Context, x index) {
	r.say("rebuilding %s", x)
	warnings, err := r.run(ctx, "REINDEX INDEX CONCURRENTLY "+x.name)
	for _, w := range warnings {
		r.problem("%s: %s", x.name, w.Message)
	}
	if err != nil {
		r.problem("%s: %s", x.name, message(err))
		r.dropOwn(ctx, x)
		return
	}
	was := x.size
	if err := r.QueryRow(ctx, "SELECT pg_relation_size(to_regclass($1))", x.name).Scan(&x.size); err != nil {
		r.problem("%s: %s", x.name, message(err))
		return
	}
	r.rebuilt = append(r.rebuilt, x)
	r.say("rebuilt %s: %s -> %s", x.name, humanize.Value(humanize.Bytes, float64(was)), humanize.Value(humanize.Bytes, float64(x.size)))
}

// dropOwn drops what our broken-off rebuild of an index left behind. It has its
// own time: ours may be over.
func (r *rebuild) dropOwn(ctx context.Context, x index) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), margin/2)
	defer cancel()
	if r.IsClosed() {
		return // the next run's index_leftovers finds it
	}
	left, err := r.leftovers(ctx, x.oid)
	if err != nil {
		r.problem("%s: looking for what is left of it: %s", x.name, message(err))
	}
	for _, l := range left {
		if _, err := r.run(ctx, "DROP INDEX CONCURRENTLY "+l.name); err != nil {
			r.problem("%s is left behind: %s", l.name, message(err))
			continue
		}
		r.say("dropped %s, which was left of it", l.name)
	}
}

func (r *rebuild) outcome() outcome {
	parts := []string{fmt.Sprintf("%d of %d indexes rebuilt", len(r.rebuilt), len(r.chosen))}
	if r.DryRun {
		parts[0] = fmt.Sprintf("%d indexes chosen", len(r.chosen))
	}
	if r.notJudged > 0 {
		parts = append(parts, fmt.Sprintf("%d not judged", r.notJudged))
	}
	text := strings.Join(slices.Concat(parts, r.problems, r.passedOver), "; ")
	switch {
	case len(r.problems) > 0:
		return failed("%s", text)
	case len(r.passedOver) > 0 && len(r.rebuilt) == 0:
		return skipped("%s", text)
	}
	return done(r.notJudged+len(r.passedOver) > 0, "%s", text)
}

// leftoversQuery lists the invalid indexes that rebuilds make, of one table's
// or of all. Invalid indexes of other names are somebody's own.
const leftoversQuery = indexColumns + ` AND NOT i.indisvalid AND c.relname ~ '_cc(new|old)[0-9]*$'
  AND ($1 = 0::oid OR i.indrelid = (SELECT indrelid FROM pg_index WHERE indexrelid = $1))
ORDER BY 2`

// leftovers returns what broken-off rebuilds left on the table of an index, 0 for all.
func (r *rebuild) leftovers(ctx context.Context, of uint32) ([]index, error) {
	return r.indexes(ctx, leftoversQuery, of)
}

func leftovers(ctx context.Context, j *job) (outcome, error) {
	s, err := j.connect(ctx)
	if errors.Is(err, errStandby) {
		return skipped("%v", err), nil
	}
	if err != nil {
		return outcome{}, err
	}
	defer s.close(ctx)
	r := &rebuild{job: j, session: s}
	all, err := r.leftovers(ctx, 0)
	if err != nil {
		return outcome{}, err
	}
	dropped := 0
	for _, l := range all {
		building, err := r.indexBuild(ctx)
		if err != nil {
			return outcome{}, err
		}
		if building { // it may be what that build makes
			return skipped("%d of %d dropped; an index is being built, and the rest may be part of it", dropped, len(all)), nil
		}
		r.would("dropping", "drop", "%s, %s", l.name, humanize.Value(humanize.Bytes, float64(l.size)))
		if j.DryRun {
			continue
		}
		if _, err := r.run(ctx, "DROP INDEX CONCURRENTLY "+l.name); err != nil {
			r.problem("%s: %s", l.name, message(err))
			continue
		}
		dropped++
	}
	if len(r.problems) > 0 {
		return failed("%d of %d dropped; %s", dropped, len(all), strings.Join(r.problems, "; ")), nil
	}
	if j.DryRun {
		return done(false, "%d left behind", len(all)), nil
	}
	return done(false, "%d dropped", dropped), nil
}
