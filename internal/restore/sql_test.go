// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package restore

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestStatements(t *testing.T) {
	t.Parallel()
	script := `-- a comment; with a semicolon
\restrict abc
CREATE ROLE niodoo;
ALTER ROLE "we""ird; ROLE" WITH PASSWORD 'SCRAM-SHA-256$4096:a''b;c';
  ALTER DATABASE niodoo SET search_path TO 'a', 'b';
\connect niodoo
COMMENT ON DATABASE niodoo IS E'it\'s; \\ DATABASE other';
CREATE FUNCTION f() RETURNS int AS $_$ SELECT 1; DROP DATABASE niodoo; $_$ LANGUAGE sql;
CREATE FUNCTION g() RETURNS text AS $$ SELECT ';' $$ LANGUAGE sql;
-- the end`
	var got []string
	for _, s := range parseStatements(script) {
		got = append(got, s.String())
	}
	want := []string{
		"CREATE ROLE niodoo",
		`ALTER ROLE "we""ird; ROLE" WITH PASSWORD 'SCRAM-SHA-256$4096:a''b;c'`,
		"ALTER DATABASE niodoo SET search_path TO 'a', 'b'",
		`COMMENT ON DATABASE niodoo IS E'it\'s; \\ DATABASE other'`,
		"CREATE FUNCTION f() RETURNS int AS $_$ SELECT 1; DROP DATABASE niodoo; $_$ LANGUAGE sql",
		"CREATE FUNCTION g() RETURNS text AS $$ SELECT ';' $$ LANGUAGE sql",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

func TestOnDatabase(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"CREATE DATABASE niodoo WITH ENCODING = 'UTF8'":              `CREATE DATABASE "x""y" WITH ENCODING = 'UTF8'`,
		`ALTER ROLE "DATABASE niodoo" IN DATABASE niodoo SET a TO b`: `ALTER ROLE "DATABASE niodoo" IN DATABASE "x""y" SET a TO b`,
		"COMMENT ON DATABASE \"o dd\" IS 'DATABASE niodoo'":          `COMMENT ON DATABASE "x""y" IS 'DATABASE niodoo'`,
		"SELECT 1": "SELECT 1",
	} {
		st := parseStatements(in + ";")[0]
		if got := st.onDatabase(`x"y`).String(); got != want {
			t.Errorf("%s: %s", in, got)
		}
		if st.String() != in {
			t.Errorf("%s was changed: %s", in, st)
		}
	}
}

func TestAboutDatabase(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]bool{
		"CREATE DATABASE n": true, "ALTER DATABASE n OWNER TO o": true, "COMMENT ON DATABASE n IS 'x'": true,
		"GRANT CONNECT ON DATABASE n TO r": true, "REVOKE ALL ON DATABASE n FROM PUBLIC": true, "ALTER ROLE r IN DATABASE n SET a TO 'b'": true,
		"SECURITY LABEL FOR p ON DATABASE n IS 'x'": true,
		"CREATE TABLE t (database text)":            false, "GRANT SELECT ON TABLE t TO database": false, "SET a = b": false,
		"GRANT database TO x": false, "ALTER ROLE database SET a TO b": false, "COMMENT ON TABLE database IS 'DATABASE x'": false,
		"GRANT ALL ON SCHEMA database TO x": false,
	} {
		if got := aboutDatabase(parseStatements(in + ";")[0]); got != want {
			t.Errorf("%s: %v", in, got)
		}
	}
}

func TestStatementsOfGarbage(t *testing.T) {
	t.Parallel()
	for _, s := range []string{"", ";", ";;;", "'open", `"open`, "$$ open", "$x$ $y$", "\\", "--", "a", "$", "$ ;", strings.Repeat("(", 1000)} {
		for _, st := range parseStatements(s) {
			_ = st.onDatabase("x").String()
			_ = aboutDatabase(st)
		}
	}
}
