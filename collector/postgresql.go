// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/niodoo/niodoo_exporter/internal/config"
)

func init() { register("postgresql", newPostgreSQL) }

var (
	pgLoginSuccess = pg("login_success", "Whether the exporter's last login worked; it logs in anew every login_interval, and at once when a statement fails",
		"connect and authenticate")
	pgLoginTime = pg("login_timestamp_seconds", "Time of the exporter's last attempt to log in", "connect and authenticate")
	pgLoginTook = pg("login_duration_seconds", "Time that the last successful login took", "connect and authenticate").absent("before the first successful login")

	pgConnectionFailures = pgCounter("connection_failures_total",
		"Failed logins of the exporter; what sslmode tries one after the other is one login", "connect and authenticate", "reason")
)

// pgLoginReasons are the reasons for which a login can fail; each has its
// counter from the first scrape on.
var pgLoginReasons = []Reason{
	ReasonRefused, ReasonTimeout, ReasonDNS, ReasonTLS, ReasonAuth, ReasonProtocol, ReasonTooLarge, ReasonNotReady,
	ReasonTooManyConnections, ReasonPermission, ReasonConfig, ReasonOther,
}

// pgSessionLife is how long a session is kept before a paced login takes its
// place: a server's process grows with the catalogs it has seen.
const pgSessionLife = 30 * time.Minute

// postgresql watches a server through one session, which it keeps, and
// through logins of its own.
//
// The session answers the statistics, all in one round trip. The logins tell
// what the application would meet: a session that is there looks well while
// the server has no slot left, a changed pg_hba.conf turns everybody away, or
// the listener is gone. So one is made every login_interval, and at once when
// the session is lost, a statement fails in a way that is not our role's
// fault, or the last login failed. A session's own connect is such a login,
// which makes it the only one where connections are not kept (the fleet).
type postgresql struct {
	cfg  config.PostgreSQL
	deps Deps
	base *pgconn.Config

	session *pgSession
	login   struct {
		at       time.Time
		ok       bool
		took     time.Duration
		failures map[Reason]float64
	}
	// last holds what the statements with a pace of their own last said.
	last map[string]pgSample
}

type pgSample struct {
	at      time.Time
	metrics []prometheus.Metric
}

func newPostgreSQL(cfg *config.Config, deps Deps) (Collector, error) {
	base, err := pgBaseConfig()
	if err != nil {
		return nil, err
	}
	p := &postgresql{cfg: cfg.PostgreSQL, deps: deps, base: base, last: map[string]pgSample{}}
	p.login.failures = map[Reason]float64{}
	return p, nil
}

// Close ends the session.
func (p *postgresql) Close() error {
	if p.session != nil {
		p.session.close()
		p.session = nil
	}
	return nil
}

// Update implements [Collector]. "Up" is what pg_isready says: the server
// talks to us, be it to turn us away.
func (p *postgresql) Update(ctx context.Context, ch chan<- prometheus.Metric) error {
	if deadline, ok := ctx.Deadline(); ok { // what we found out must be told in time
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Until(deadline)*85/100)
		defer cancel()
	}
	r := &pgRun{postgresql: p, ch: ch}
	err := r.run(ctx)
	r.tellHealth(err, 0)
	r.tellLogin()
	return err
}

// pgRun is one Update.
type pgRun struct {
	*postgresql
	ch chan<- prometheus.Metric

	loggedIn bool  // a login was tried in this run
	opened   bool  // and became the session
	loginErr error // what became of the last one

	answered map[string]bool     // statements, by name
	kept     []prometheus.Metric // of statements that are not due, until the server is known to be there
	failed   error               // the first one that failed
	doubt    bool                // one failed in a way that might concern logins too

	toldHealth, toldLogin bool
}

func (r *pgRun) run(ctx context.Context) error {
	switch {
	case r.session == nil:
		r.open(ctx)
	case r.loginDue():
		r.logIn(ctx)
	}
	if r.session == nil {
		return r.loginErr
	}
	lost := r.statistics(ctx)
	if lost != nil && !r.opened && r.loginErr == nil && ctx.Err() == nil {
		// The session was dead: the server was restarted, or something on the
		// way has forgotten the connection. That is no outage if a login works.
		if r.open(ctx); r.session != nil {
			lost = r.statistics(ctx)
		}
	}
	if r.doubt && !r.loggedIn && ctx.Err() == nil {
		r.logIn(ctx)
	}
	for _, err := range []error{r.loginErr, lost, r.failed} {
		if err != nil {
			return err
		}
	}
	return nil
}

// loginDue reports whether it is time for a login. A little early is on time:
// scrapes do not come to the millisecond.
func (p *postgresql) loginDue() bool {
	interval := time.Duration(p.cfg.LoginInterval)
	age := p.deps.Now().Sub(p.login.at)
	return !p.login.ok || age < 0 || age >= interval-interval/10
}

// open logs in and keeps the session.
func (r *pgRun) open(ctx context.Context) {
	r.session = r.connected(ctx)
	r.opened = r.session != nil
}

// logIn logs in beside the session, or in its place if that is old.
func (r *pgRun) logIn(ctx context.Context) {
	s := r.connected(ctx)
	switch {
	case s == nil:
	case r.session != nil && time.Since(r.session.opened) < pgSessionLife:
		s.close()
	default:
		_ = r.Close()
		r.session = s
	}
}

// connected logs in and remembers what came of it; nil is a failure.
func (r *pgRun) connected(ctx context.Context) *pgSession {
	started := time.Now()
	s, err := r.connect(ctx)
	r.loggedIn, r.loginErr = true, err
	r.login.at, r.login.ok = r.deps.Now(), err == nil
	if err == nil {
		r.login.took = time.Since(started)
		return s
	}
	reason := classify(err)
	if !slices.Contains(pgLoginReasons, reason) {
		reason = ReasonOther
	}
	r.login.failures[reason]++
	r.tellLogin() // there is no other login in this run
	return nil
}

// statistics asks the session for all that is not known yet. The error is that
// of the session, which is closed then.
func (r *pgRun) statistics(ctx context.Context) error {
	if r.answered == nil {
		r.answered = map[string]bool{}
	}
	var ask []*pgStatement
	for _, st := range r.session.statements {
		switch {
		case r.answered[st.name]:
		case r.keeps(st):
			r.answered[st.name] = true
			r.kept = append(r.kept, r.last[st.name].metrics...)
		default:
			ask = append(ask, st)
		}
	}
	if len(ask) == 0 { // lost after the last answer
		return nil
	}
	var rows []prometheus.Metric
	var rowErr error
	started := time.Now()
	err := r.session.query(ctx, pgPatience(ctx), ask, func(st *pgStatement, values [][]byte) {
		if rowErr == nil {
			rows, rowErr = st.samples(rows, values)
		}
	}, func(st *pgStatement, err error) {
		if st == pgHealth {
			r.tellHealth(nil, time.Since(started))
			r.send(r.kept)
		}
		if err == nil {
			err = rowErr
		}
		r.answer(ctx, st, rows, err)
		rows, rowErr = nil, nil
	})
	if err != nil {
		r.session.abort()
		r.session = nil
	}
	return pgFailure(ctx, err)
}

// keeps reports whether what a statement last said still stands.
func (p *postgresql) keeps(st *pgStatement) bool {
	last, ok := p.last[st.name]
	age := p.deps.Now().Sub(last.at)
	return st.every > 0 && ok && age >= 0 && age < st.every-st.every/10
}

// answer deals with a statement's whole answer.
func (r *pgRun) answer(ctx context.Context, st *pgStatement, rows []prometheus.Metric, err error) {
	r.answered[st.name] = true
	if err != nil {
		delete(r.last, st.name)
		if r.failed == nil {
			r.failed = pgFailure(ctx, err)
		}
		r.doubt = r.doubt || pgDoubt(err)
		return
	}
	if st.every > 0 {
		r.last[st.name] = pgSample{r.deps.Now(), rows}
	}
	r.send(rows)
}

func (r *pgRun) send(metrics []prometheus.Metric) {
	for _, m := range metrics {
		r.ch <- m
	}
}

// pgDoubt reports whether a statement failed for want of resources, by
// intervention or by a fault of the server's, which may strike logins too. A
// statistic that our role may not see does not.
func pgDoubt(err error) bool {
	var pgErr *pgconn.PgError
	return errors.As(err, &pgErr) && slices.ContainsFunc([]string{"08", "53", "57", "58", "XX"},
		func(class string) bool { return strings.HasPrefix(pgErr.Code, class) })
}

// tellHealth sends the status, once. The server is up if it answers; whether
// it takes logins, if one was tried in this run, counts for more.
func (r *pgRun) tellHealth(err error, response time.Duration) {
	if r.toldHealth {
		return
	}
	r.toldHealth = true
	if r.loginErr != nil {
		err = r.loginErr
	}
	st := status{up: pgUp(err)}
	if st.up && r.session != nil {
		st.response, st.version, st.tlsNotAfter = response, r.session.version, r.session.tlsNotAfter
	}
	st.send(r.ch, "postgresql")
}

// tellLogin sends what is known of the logins, once.
func (r *pgRun) tellLogin() {
	if r.toldLogin {
		return
	}
	r.toldLogin = true
	r.ch <- pgLoginSuccess.boolean(r.login.ok)
	r.ch <- pgLoginTime.metric(float64(r.login.at.UnixMilli()) / 1000)
	if r.login.took > 0 {
		r.ch <- pgLoginTook.metric(r.login.took.Seconds())
	}
	for _, reason := range pgLoginReasons {
		r.ch <- pgConnectionFailures.metric(r.login.failures[reason], string(reason))
	}
}
