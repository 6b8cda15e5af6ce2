// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/niodoo/niodoo_exporter/internal/config"
)

const (
	// pgMaxMessage bounds one message of the server, in bytes.
	pgMaxMessage = 1 << 20
	// pgMaxRows bounds the rows of one statement; the statements' own limits are lower.
	pgMaxRows = 1000
	// pgStatementTimeout, pgLockTimeout bound a statement on the server, so
	// that one that takes long costs its own result and not the session.
	pgStatementTimeout = 2 * time.Second
	pgLockTimeout      = 500 * time.Millisecond
	// pgGoodbye bounds the wait for the server's side of a session to end.
	pgGoodbye = 250 * time.Millisecond
)

// pgSession is a session with a PostgreSQL server. pgx makes the connection;
// the statistics are read from its wire in one round trip.
type pgSession struct {
	conn        net.Conn
	frontend    *pgproto3.Frontend
	opened      time.Time
	version     string         // such as 15.18
	statements  []*pgStatement // for this version
	tlsNotAfter time.Time
	// prepared are the statements that the server has parsed and planned: that
	// takes it several times as long as running them. A pooler between us may
	// give every transaction another server's session; then nothing is kept.
	prepared map[string]bool
	pooled   bool
}

// pgBaseConfig returns pgx's configuration with nothing in it. pgx insists on
// making it from a string and the environment; what it takes from there is
// overridden by the string or replaced by the caller, but for PGSERVICE, which
// can only be taken away for that moment.
func pgBaseConfig() (*pgconn.Config, error) {
	const service = "PGSERVICE"
	if v, ok := os.LookupEnv(service); ok {
		_ = os.Unsetenv(service)
		defer os.Setenv(service, v)
	}
	// A host that is a path reads no certificate files, a password no ~/.pgpass.
	c, err := pgconn.ParseConfig("host=/ port=5432 user=x password=x database=x sslmode=disable sslcertmode=allow sslrootcert='' " +
		"sslnegotiation='' connect_timeout=0 target_session_attrs=any min_protocol_version='' max_protocol_version='' " +
		"channel_binding=prefer require_auth='' krbsrvname='' krbspn=''")
	if err != nil {
		return nil, err
	}
	c.Password, c.RuntimeParams, c.MaxProtocolMessageBodyLen = "", nil, pgMaxMessage
	return c, nil
}

// pgEncryption is what one attempt to connect asks for.
type pgEncryption int

const (
	pgPlain   pgEncryption = iota
	pgOffered              // TLS if the server offers it
	pgDemanded
)

// pgAttempts are the attempts that make up one logical connect, as in libpq:
// "allow" and "prefer" try the other way where the server turns the first down.
var pgAttempts = map[string][]pgEncryption{
	"disable":     {pgPlain},
	"allow":       {pgPlain, pgDemanded},
	"prefer":      {pgOffered, pgPlain},
	"require":     {pgDemanded},
	"verify-ca":   {pgDemanded},
	"verify-full": {pgDemanded},
}

// connect makes a session: one logical connect, whatever sslmode tries.
func (p *postgresql) connect(ctx context.Context) (*pgSession, error) {
	ctx, cancel := context.WithTimeout(ctx, pgPatience(ctx))
	defer cancel()
	password, err := p.cfg.PasswordFile.Read()
	if err != nil {
		return nil, p.misconfigured(ctx, fail(ReasonConfig, err))
	}
	tlsCfg, err := pgTLSConfig(p.cfg)
	if err != nil {
		return nil, p.misconfigured(ctx, err)
	}
	attempts := p.attempts()
	for i, encryption := range attempts {
		s, encrypted, attemptErr := p.attempt(ctx, password, encryption, tlsCfg)
		if attemptErr == nil {
			return s, nil
		}
		var refused *pgconn.PgError
		if !errors.As(err, &refused) || errors.As(attemptErr, &refused) { // the server's own word counts
			err = attemptErr
		}
		if i+1 < len(attempts) && !pgTryOtherWay(attemptErr, encryption, encrypted) {
			break
		}
	}
	return nil, pgFailure(ctx, err)
}

// pgTryOtherWay reports whether an attempt failed in a way that depends on
// encryption: the handshake failed, or pg_hba.conf has no line for it.
func pgTryOtherWay(err error, encryption pgEncryption, encrypted bool) bool {
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) {
		return pgErr.Code == "28000" && encrypted == (encryption == pgOffered)
	}
	return encryption == pgOffered && classify(err) == ReasonTLS
}

// attempt connects and logs in once. encrypted says how far it came.
func (p *postgresql) attempt(ctx context.Context, password config.Secret, encryption pgEncryption, tlsCfg *tls.Config) (_ *pgSession, encrypted bool, _ error) {
	cfg := p.base.Copy()
	cfg.Host, cfg.Port = p.cfg.Host, uint16(p.cfg.Port)
	cfg.User, cfg.Database, cfg.Password = p.cfg.User, p.cfg.Database, password.Reveal()
	statement := min(pgStatementTimeout, pgPatience(ctx))
	cfg.RuntimeParams = map[string]string{
		"application_name":                    "niodoo_exporter",
		"client_encoding":                     "UTF8",
		"default_transaction_read_only":       "on",
		"statement_timeout":                   strconv.FormatInt(max(1, statement.Milliseconds()), 10),
		"lock_timeout":                        strconv.FormatInt(max(1, min(pgLockTimeout, statement).Milliseconds()), 10),
		"idle_in_transaction_session_timeout": "5000",
	}
	// The dialer resolves names: it has the allow-list, tries all addresses and
	// says when it was the name.
	cfg.LookupFunc = func(_ context.Context, host string) ([]string, error) { return []string{host}, nil }
	dialed, s := false, &pgSession{prepared: map[string]bool{}}
	cfg.DialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
		if dialed { // pgx would send a cancel request; the server's timeouts do that
			return nil, net.ErrClosed
		}
		dialed = true
		conn, err := p.dial(ctx, network, address, encryption, tlsCfg)
		if t, ok := conn.(*tls.Conn); ok {
			encrypted = true
			state := t.ConnectionState()
			s.tlsNotAfter = notAfter(&state)
		}
		return conn, err
	}
	pg, err := pgconn.ConnectConfig(ctx, cfg)
	if err != nil {
		return nil, encrypted, err
	}
	h, err := pg.Hijack()
	if err != nil {
		return nil, encrypted, err
	}
	s.conn, s.frontend, s.opened = h.Conn, h.Frontend, time.Now()
	s.version, _, _ = strings.Cut(h.ParameterStatuses["server_version"], " ")
	digits := strings.IndexFunc(s.version, func(r rune) bool { return r < '0' || r > '9' })
	if digits < 0 {
		digits = len(s.version)
	}
	major, _ := strconv.Atoi(s.version[:digits])
	s.statements = pgStatementsFor(major)
	return s, encrypted, nil
}

// attempts returns the attempts of a logical connect. A host that is a path is
// a socket's directory, and libpq does not encrypt a socket either.
func (p *postgresql) attempts() []pgEncryption {
	if strings.HasPrefix(p.cfg.Host, "/") {
		return pgAttempts["disable"]
	}
	return pgAttempts[p.cfg.SSLMode]
}

// dial connects and settles encryption, on one connection as libpq does.
func (p *postgresql) dial(ctx context.Context, network, address string, encryption pgEncryption, tlsCfg *tls.Config) (net.Conn, error) {
	conn, err := p.deps.DialContext(ctx, network, address)
	if err != nil || encryption == pgPlain {
		return conn, err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	encrypted, err := p.encrypt(ctx, conn, encryption, tlsCfg)
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	return encrypted, nil
}

// encrypt asks the server for TLS and shakes hands if it agrees.
func (p *postgresql) encrypt(ctx context.Context, conn net.Conn, encryption pgEncryption, tlsCfg *tls.Config) (net.Conn, error) {
	request, err := (&pgproto3.SSLRequest{}).Encode(nil)
	if err != nil {
		return nil, err
	}
	if _, err := conn.Write(request); err != nil {
		return nil, err
	}
	var answer [1]byte // no more than that: what follows in plain text is nobody's
	if _, err := io.ReadFull(conn, answer[:]); err != nil {
		return nil, err
	}
	switch {
	case answer[0] == 'S':
	case answer[0] == 'N' && encryption == pgOffered:
		return conn, nil
	case answer[0] == 'N':
		return nil, failf(ReasonTLS, "the server does not offer TLS, which sslmode %s demands", p.cfg.SSLMode)
	default:
		return nil, failf(ReasonProtocol, "the server answered %q where PostgreSQL says whether it offers TLS", answer[0])
	}
	t := tls.Client(conn, tlsCfg)
	if err := t.HandshakeContext(ctx); err != nil {
		return nil, handshakeFailure(ctx, err)
	}
	return t, nil
}

// pgTLSConfig is what sslmode and tls_config say together. As in libpq,
// "require" with a ca_file is "verify-ca".
func pgTLSConfig(cfg config.PostgreSQL) (*tls.Config, error) {
	c, err := tlsConfig(cfg.TLSConfig)
	if err != nil {
		return nil, err
	}
	if c.ServerName == "" {
		c.ServerName = cfg.Host
	}
	mode := cfg.SSLMode
	if mode == "require" && cfg.TLSConfig.CAFile != "" {
		mode = "verify-ca"
	}
	if mode == "verify-full" || c.InsecureSkipVerify {
		return c, nil
	}
	c.InsecureSkipVerify = true // no name is verified; verify-ca verifies the chain itself
	if mode == "verify-ca" {
		c.VerifyConnection = func(s tls.ConnectionState) error {
			opts := x509.VerifyOptions{Roots: c.RootCAs, Intermediates: x509.NewCertPool()}
			for _, cert := range s.PeerCertificates[1:] {
				opts.Intermediates.AddCert(cert)
			}
			_, err := s.PeerCertificates[0].Verify(opts)
			return err
		}
	}
	return c, nil
}

// misconfigured returns err, which keeps us from logging in, with what can be
// said of the server all the same: like pg_isready, it looks whether the
// server asks who we are. A file of ours that cannot be read is no outage.
func (p *postgresql) misconfigured(ctx context.Context, err error) error {
	tlsCfg, tlsErr := pgTLSConfig(p.cfg)
	encryption := p.attempts()[0]
	if tlsErr != nil && encryption != pgPlain {
		return err
	}
	network, address := pgconn.NetworkAddress(p.cfg.Host, uint16(p.cfg.Port))
	conn, dialErr := p.dial(ctx, network, address, encryption, tlsCfg)
	if dialErr != nil {
		return err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	f := pgproto3.NewFrontend(conn, conn)
	f.SetMaxBodyLen(pgMaxMessage)
	f.Send(&pgproto3.StartupMessage{ProtocolVersion: pgproto3.ProtocolVersion30,
		Parameters: map[string]string{"user": p.cfg.User, "database": p.cfg.Database}})
	if f.Flush() != nil {
		return err
	}
	msg, receiveErr := f.Receive()
	if receiveErr != nil {
		return err
	}
	switch msg := msg.(type) {
	case pgproto3.AuthenticationResponseMessage:
		return &pgVerdict{up: true, err: err}
	case *pgproto3.ErrorResponse:
		return &pgVerdict{up: pgAccepts(msg.Code), err: err}
	}
	return err
}

// close takes leave and waits until the server has let go: its end of the
// session must not be counted by the next statement, nor its slot be missing.
func (s *pgSession) close() {
	defer s.conn.Close()
	if s.conn.SetDeadline(time.Now().Add(pgGoodbye)) != nil {
		return
	}
	s.frontend.Send(&pgproto3.Terminate{})
	if s.frontend.Flush() == nil {
		_, _ = io.Copy(io.Discard, s.conn)
	}
}

// abort closes a session that is broken.
func (s *pgSession) abort() {
	c := s.conn
	if t, ok := c.(*tls.Conn); ok {
		c = t.NetConn() // no farewell, which a full socket would hold up
	}
	_ = c.Close()
}

// query sends the statements at once and hands out their rows as they come:
// one round trip. The first must be answered within patience, the others until
// ctx ends. done is called with what became of each. A statement that fails
// takes those after it along, and they are sent again: a second round trip is
// cheaper where one fails than a transaction for each where all is well. The
// error returned is that of the session, which is lost then.
func (s *pgSession) query(ctx context.Context, patience time.Duration, statements []*pgStatement,
	row func(*pgStatement, [][]byte), done func(*pgStatement, error)) (err error) {
	_ = s.conn.SetDeadline(time.Now().Add(patience))
	stop := context.AfterFunc(ctx, func() { _ = s.conn.SetDeadline(time.Unix(1, 0)) })
	defer func() {
		if !stop() && err == nil {
			err = ctx.Err()
		}
	}()
	first := true
	answered := func(st *pgStatement, failure error) {
		done(st, failure)
		if first {
			first = false
			_ = s.conn.SetDeadline(time.Time{})
		}
	}
	for len(statements) > 0 {
		if statements, err = s.transact(statements, row, answered); err == nil {
			err = ctx.Err() // its AfterFunc may have come before the deadline was lifted
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// transact sends the first statement in a transaction of its own, so that its
// answer comes at once, and the others in another one. It returns those that
// have to be sent again.
func (s *pgSession) transact(statements []*pgStatement, row func(*pgStatement, [][]byte), done func(*pgStatement, error)) ([]*pgStatement, error) {
	pooled := s.pooled
	transactions := [][]*pgStatement{statements[:1], statements[1:]}
	if len(statements) == 1 {
		transactions = transactions[:1]
	}
	for _, t := range transactions {
		for _, st := range t {
			name := st.name
			if pooled {
				name = ""
			}
			if !s.prepared[name] {
				s.frontend.SendParse(&pgproto3.Parse{Name: name, Query: st.sql})
			}
			s.frontend.SendBind(&pgproto3.Bind{PreparedStatement: name})
			s.frontend.SendExecute(&pgproto3.Execute{})
		}
		s.frontend.SendSync(&pgproto3.Sync{})
	}
	if err := s.frontend.Flush(); err != nil {
		return nil, err
	}
	var again []*pgStatement
	for _, t := range transactions {
		for i, st := range t {
			failure, err := s.receive(st, pooled, row)
			if err != nil {
				return nil, err
			}
			if !pooled && pgNotPrepared(failure) {
				s.pooled = true
				again = append(again, t[i:]...)
				break
			}
			done(st, failure)
			if failure != nil {
				again = append(again, t[i+1:]...)
				break
			}
		}
		if err := s.ready(); err != nil {
			return nil, err
		}
	}
	return again, nil
}

// receive reads what the server says to one statement.
func (s *pgSession) receive(st *pgStatement, pooled bool, row func(*pgStatement, [][]byte)) (failure, err error) {
	rows := 0
	for {
		msg, err := s.frontend.Receive()
		if err != nil {
			return nil, err
		}
		switch msg := msg.(type) {
		case *pgproto3.ParseComplete:
			s.prepared[st.name] = !pooled
		case *pgproto3.DataRow:
			if rows++; rows > pgMaxRows {
				return nil, failf(ReasonTooLarge, "statement %s: more than %d rows", st.name, pgMaxRows)
			}
			if len(msg.Values) != st.labels+len(st.columns) {
				return nil, failf(ReasonProtocol, "statement %s: %d columns instead of %d", st.name, len(msg.Values), st.labels+len(st.columns))
			}
			row(st, msg.Values)
		case *pgproto3.ErrorResponse:
			err := fmt.Errorf("statement %s: %w", st.name, pgconn.ErrorResponseToPgError(msg))
			if pgFatal(msg) {
				return nil, err
			}
			return err, nil
		case *pgproto3.CommandComplete, *pgproto3.EmptyQueryResponse:
			return nil, nil
		case *pgproto3.BindComplete, *pgproto3.NoticeResponse, *pgproto3.ParameterStatus, *pgproto3.NotificationResponse:
		default:
			return nil, failf(ReasonProtocol, "statement %s: unexpected message %T", st.name, msg)
		}
	}
}

// ready reads the end of a transaction.
func (s *pgSession) ready() error {
	for {
		msg, err := s.frontend.Receive()
		if err != nil {
			return err
		}
		switch msg := msg.(type) {
		case *pgproto3.ReadyForQuery:
			return nil
		case *pgproto3.ErrorResponse:
			return fmt.Errorf("ending a transaction: %w", pgconn.ErrorResponseToPgError(msg))
		case *pgproto3.NoticeResponse, *pgproto3.ParameterStatus, *pgproto3.NotificationResponse:
		default:
			return failf(ReasonProtocol, "ending a transaction: unexpected message %T", msg)
		}
	}
}

// pgFatal reports whether an error ends the session. Servers before 9.6 and
// some poolers give the severity in their own language only.
func pgFatal(msg *pgproto3.ErrorResponse) bool {
	severity := cmp.Or(msg.SeverityUnlocalized, msg.Severity)
	return severity == "FATAL" || severity == "PANIC"
}

// pgNotPrepared reports whether a statement failed because a pooler gave us
// another server's session than the one that knows it, or one that another
// client has prepared it in.
func pgNotPrepared(err error) bool {
	var pgErr *pgconn.PgError
	return errors.As(err, &pgErr) && (pgErr.Code == "26000" || pgErr.Code == "42P05")
}

// pgVerdict is a failure that says whether the server is up.
type pgVerdict struct {
	up  bool
	err error
}

func (v *pgVerdict) Error() string { return v.err.Error() }
func (v *pgVerdict) Unwrap() error { return v.err }

// pgReasons are the SQLSTATEs with a reason of their own.
var pgReasons = map[string]Reason{
	"28000": ReasonAuth, // pg_hba.conf has no line for us, or the role may not log in
	"28P01": ReasonAuth,
	"3D000": ReasonConfig, // no such database
	"42501": ReasonPermission,
	"53300": ReasonTooManyConnections,
	"55P03": ReasonTimeout,  // lock_timeout
	"57014": ReasonTimeout,  // statement_timeout
	"57P01": ReasonNotReady, // ended by the administrator
	"57P02": ReasonNotReady, // another session crashed
	"57P03": ReasonNotReady, // starting, stopping, or in recovery without hot standby
	"08P01": ReasonProtocol,
}

// pgAccepts reports whether a server that refuses with a SQLSTATE accepts
// connections as such, which is what pg_isready asks. It says so for all but
// 57P03; a server that ends sessions is going down.
func pgAccepts(code string) bool {
	return code != "57P01" && code != "57P02" && code != "57P03"
}

// pgFailure gives an error its reason, and says whether a server that failed
// so is up.
func pgFailure(ctx context.Context, err error) error {
	var verdict *pgVerdict
	if err == nil || errors.As(err, &verdict) {
		return err
	}
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) {
		r, ok := pgReasons[pgErr.Code]
		if !ok {
			r = ReasonOther
		}
		return &pgVerdict{up: pgAccepts(pgErr.Code), err: fail(r, err)}
	}
	var f *Failure
	if errors.As(err, &f) {
		return &pgVerdict{err: err}
	}
	r := classify(err)
	switch {
	case ctx.Err() != nil:
		r = ReasonTimeout
	case r == ReasonOther: // pgx's own words for an answer that is not the protocol
		r = ReasonProtocol
	}
	return &pgVerdict{err: fail(r, err)}
}

// pgUp reports whether the server is up in spite of err.
func pgUp(err error) bool {
	var verdict *pgVerdict
	return err == nil || errors.As(err, &verdict) && verdict.up
}

// pgPatience is how long to wait for a login or for the answer to a trivial
// statement: as long as pg_isready does, and never so long that there is no
// time left to try again and to tell.
func pgPatience(ctx context.Context) time.Duration {
	patience := 3 * time.Second
	if deadline, ok := ctx.Deadline(); ok {
		patience = min(patience, time.Until(deadline)/2)
	}
	return patience
}
