// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

// Package pglogin is how niodooctl's commands log in to PostgreSQL. The
// exporter's collector, which keeps a session and counts every failure, has its own.
package pglogin

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/niodoo/niodoo_exporter/internal/config"
)

// Config returns the settings of a session with a database, "" for the
// configuration's. Everything comes from the configuration and nothing from the
// environment's PG variables; the password is read from its file each time.
// Nothing is prepared on the server, as poolers like it.
func Config(cfg config.PostgreSQL, database, application string) (*pgx.ConnConfig, error) {
	password, err := cfg.PasswordFile.Read()
	if err != nil {
		return nil, err
	}
	if database == "" {
		database = cfg.Database
	}
	var dsn strings.Builder
	for _, kv := range [][2]string{
		{"host", cfg.Host}, {"port", strconv.Itoa(cfg.Port)}, {"user", cfg.User}, {"dbname", database}, {"sslmode", cfg.SSLMode},
		{"sslrootcert", cfg.TLSConfig.CAFile}, {"sslcert", cfg.TLSConfig.CertFile}, {"sslkey", cfg.TLSConfig.KeyFile},
		{"application_name", application}, {"connect_timeout", "10"}, {"target_session_attrs", "any"},
		{"password", "-"}, // or it would be looked for in the user's password file
	} {
		if kv[1] == "" && strings.HasPrefix(kv[0], "ssl") {
			continue // an empty file name is one, too
		}
		fmt.Fprintf(&dsn, "%s='%s' ", kv[0], strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(kv[1]))
	}
	c, err := pgx.ParseConfig(dsn.String())
	if err != nil {
		return nil, errors.New("postgresql: the connection's settings do not fit together: host, sslmode and the files of tls_config")
	}
	c.Password = password.Reveal()
	if name := cfg.TLSConfig.ServerName; name != "" && c.TLSConfig != nil {
		c.TLSConfig.ServerName = name
	}
	c.DefaultQueryExecMode = pgx.QueryExecModeExec
	return c, nil
}

// ReadOnly opens a session that can only read, with bounds for a statement and
// for the wait for a lock in PostgreSQL's notation, such as "5s".
func ReadOnly(ctx context.Context, cfg config.PostgreSQL, application, statementTimeout, lockTimeout string) (*pgx.Conn, error) {
	c, err := Config(cfg, "", application)
	if err != nil {
		return nil, err
	}
	c.RuntimeParams["default_transaction_read_only"] = "on"
	c.RuntimeParams["statement_timeout"] = statementTimeout
	c.RuntimeParams["lock_timeout"] = lockTimeout
	return pgx.ConnectConfig(ctx, c)
}
