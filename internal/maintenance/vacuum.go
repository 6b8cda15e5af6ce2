// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package maintenance

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
)

// eachTable is one statement that is run for every table by itself, so that one
// that is locked, or takes long, costs no other.
type eachTable struct {
	verb string
	// statement takes further options and the table's name.
	statement string
	// tables lists names, the neediest first, and whether a vacuum is at work
	// on the table.
	tables string
}

// Partitions are analysed with the table they belong to, which autovacuum never
// does. Tables that need it to keep the transaction ids from running out come first.
var (
	vacuumTables = eachTable{
		verb: "vacuum", statement: "VACUUM (ANALYZE%s) %s",
		tables: `
SELECT format('%I.%I', s.schemaname, s.relname), p.relid IS NOT NULL
FROM pg_stat_user_tables s
JOIN pg_class c ON c.oid = s.relid
LEFT JOIN pg_stat_progress_vacuum p ON p.relid = s.relid AND p.datname = current_database()
WHERE c.relkind IN ('r', 'm') AND c.relpersistence <> 't'
ORDER BY age(c.relfrozenxid) > 100000000 DESC, s.n_dead_tup DESC, s.schemaname, s.relname`,
	}
	analyzeTables = eachTable{
		verb: "analyze", statement: "ANALYZE%s %s",
		tables: `
SELECT format('%I.%I', n.nspname, c.relname), p.relid IS NOT NULL
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_stat_user_tables s ON s.relid = c.oid
LEFT JOIN pg_stat_progress_vacuum p ON p.relid = c.oid AND p.datname = current_database()
WHERE c.relkind IN ('r', 'm', 'p') AND c.relpersistence <> 't' AND NOT c.relispartition
  AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'
ORDER BY s.n_mod_since_analyze DESC NULLS FIRST, n.nspname, c.relname`,
	}
)

func vacuum(ctx context.Context, j *job) (outcome, error) { return vacuumTables.run(ctx, j) }

func analyze(ctx context.Context, j *job) (outcome, error) { return analyzeTables.run(ctx, j) }

type table struct {
	name string
	busy bool // a vacuum is at work on it, autovacuum as a rule
}

func (e eachTable) run(ctx context.Context, j *job) (outcome, error) {
	s, err := j.connect(ctx)
	if errors.Is(err, errStandby) {
		return skipped("%v", err), nil
	}
	if err != nil {
		return outcome{}, err
	}
	defer s.close(ctx)
	rows, err := s.Query(ctx, e.tables)
	if err != nil {
		return outcome{}, err
	}
	tables, err := pgx.CollectRows(rows, func(r pgx.CollectableRow) (t table, err error) {
		err = r.Scan(&t.name, &t.busy)
		return t, err
	})
	if err != nil {
		return outcome{}, err
	}
	run := tableRun{eachTable: e, job: j, session: s}
	if j.DryRun {
		run.list(tables)
		return done(false, "%d tables", len(tables)), nil
	}
	// Nobody is kept waiting, nor are we: tables that are locked get another
	// chance at the end, with a wait that is bounded.
	locked, err := run.each(ctx, tables, true)
	if err == nil {
		_, err = run.each(ctx, locked, false)
	}
	return run.outcome(len(tables)), err
}

// tableRun is how far a statement for every table has come.
type tableRun struct {
	eachTable
	*job
	*session
	well, gone, busy int
	problems         []string
}

func (r *tableRun) list(tables []table) {
	for _, t := range tables {
		if t.busy {
			r.say("would leave %s alone: a vacuum is at work on it", t.name)
			continue
		}
		r.say("would %s %s", r.verb, t.name)
	}
}

// each runs the statement for each table. With skip it leaves out those that are
// locked, and returns them.
func (r *tableRun) each(ctx context.Context, tables []table, skip bool) (locked []table, err error) {
	for i, t := range tables {
		if t.busy {
			r.busy++
			r.say("%s: a vacuum is at work on it", t.name)
			continue
		}
		warnings, err := r.session.run(ctx, r.text(t.name, skip))
		if err != nil && outOfTime(ctx) {
			r.problem("%s and %d more: not reached in time", t.name, len(tables)-i-1)
			return locked, nil
		}
		var said []string
		again := false
		for _, w := range warnings { // a table is skipped with a warning, and no error
			again = again || w.Code == pgLockNotAvailable
			said = append(said, w.Message)
		}
		switch {
		case code(err) == pgUndefinedTable:
			r.gone++ // dropped meanwhile
		case r.IsClosed():
			return nil, err
		case err != nil:
			r.problem("%s: %s", t.name, message(err))
		case again && skip:
			locked = append(locked, t)
		case len(said) > 0:
			r.problem("%s: %s", t.name, strings.Join(said, "; "))
		default:
			r.well++
		}
	}
	return locked, nil
}

// text returns the statement for a table.
func (r *tableRun) text(name string, skip bool) string {
	options := ""
	switch {
	case skip && strings.Contains(r.statement, "("):
		options = ", SKIP_LOCKED"
	case skip:
		options = " (SKIP_LOCKED)"
	}
	return fmt.Sprintf(r.statement, options, name)
}

func (r *tableRun) problem(format string, args ...any) {
	p := fmt.Sprintf(format, args...)
	r.problems = append(r.problems, p)
	r.say("%s", p)
}

func (r *tableRun) outcome(all int) outcome {
	counts := fmt.Sprintf("%d of %d tables", r.well, all)
	if r.busy > 0 {
		counts += fmt.Sprintf(", %d being vacuumed", r.busy)
	}
	if r.gone > 0 {
		counts += fmt.Sprintf(", %d dropped meanwhile", r.gone)
	}
	if len(r.problems) > 0 {
		return failed("%s; %s", counts, strings.Join(r.problems, "; "))
	}
	return done(false, "%s", counts)
}
