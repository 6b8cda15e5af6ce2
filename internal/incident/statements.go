// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package incident

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/niodoo/niodoo_exporter/internal/pglogin"
)

// session is one backend that does something, or keeps others from it.
type session struct {
	pid                        int
	user, database, app, state string
	wait, query                string
	blockers                   []int32
	seconds, transaction       float64
	started                    time.Time
	kind                       string
}

// sessionsQuery lists the backends that are in a transaction or a statement,
// or wait for a lock, the longest first, but not our own.
const sessionsQuery = `
SELECT pid, coalesce(usename, ''), coalesce(datname, ''), coalesce(application_name, ''), coalesce(state, ''),
  coalesce(wait_event_type || ':' || wait_event, ''), left(coalesce(query, ''), 2000), pg_blocking_pids(pid),
  coalesce(extract(epoch FROM clock_timestamp() - query_start), 0)::float8,
  coalesce(extract(epoch FROM clock_timestamp() - xact_start), 0)::float8, backend_start, backend_type
FROM pg_stat_activity
WHERE pid <> pg_backend_pid() AND (xact_start IS NOT NULL OR state = 'active') AND backend_type IN ('client backend', 'autovacuum worker', 'parallel worker')
ORDER BY xact_start NULLS LAST, query_start LIMIT 200`

func listSessions(ctx context.Context, conn *pgx.Conn) ([]session, error) {
	rows, err := conn.Query(ctx, sessionsQuery)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(r pgx.CollectableRow) (session, error) {
		var s session
		err := r.Scan(&s.pid, &s.user, &s.database, &s.app, &s.state, &s.wait, &s.query, &s.blockers, &s.seconds, &s.transaction, &s.started, &s.kind)
		return s, err
	})
}

// rootBlockers are the sessions that keep others waiting and wait for nobody.
func rootBlockers(all []session) []session {
	blocks := map[int32]bool{}
	for _, s := range all {
		for _, b := range s.blockers {
			blocks[b] = true
		}
	}
	var roots []session
	for _, s := range all {
		if blocks[int32(s.pid)] && len(s.blockers) == 0 {
			roots = append(roots, s)
		}
	}
	return roots
}

// terminate is the statement that ends a session, for people to run: it names
// the start, since the number may be another's by then.
func (s session) terminate() string {
	return fmt.Sprintf("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE pid = %d AND backend_start = '%s';",
		s.pid, s.started.UTC().Format("2006-01-02 15:04:05.999999+00"))
}

// statements are the sessions at work in PostgreSQL and who blocks whom.
func (l *look) statements(ctx context.Context) ([]byte, error) {
	if !l.Config.Enabled("postgresql") {
		return nil, notLookedAt("the configuration has PostgreSQL disabled")
	}
	conn, err := pglogin.ReadOnly(ctx, l.Config.PostgreSQL, "niodooctl incident", "5s", "1s")
	if err != nil {
		return nil, err
	}
	defer func() { // a server that hangs must not keep us
		goodbye, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = conn.Close(goodbye)
	}()
	all, err := listSessions(ctx, conn)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	t := tabwriter.NewWriter(&b, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "PID\tUSER\tDATABASE\tSTATE\tTRANSACTION\tSTATEMENT\tWAITS FOR\tBLOCKED BY\tQUERY")
	for _, s := range all {
		fmt.Fprintf(t, "%d\t%s\t%s\t%s\t%.1fs\t%.1fs\t%s\t%s\t%s\n", s.pid, s.user, s.database, s.state, s.transaction, s.seconds, s.wait,
			strings.Trim(fmt.Sprint(s.blockers), "[]"), cut(oneLine(s.query), 300))
	}
	_ = t.Flush()
	for i, r := range rootBlockers(all) {
		if i == 0 {
			b.WriteString("\nThese keep others waiting and wait for nobody. Nothing was ended; to end one, run:\n")
		}
		fmt.Fprintf(&b, "  %s  -- %s %s: %s\n", r.terminate(), r.user, r.state, cut(oneLine(r.query), 120))
	}
	return b.Bytes(), nil
}
