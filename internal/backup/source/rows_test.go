// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package source

import (
	"fmt"
	"strings"
	"testing"

	"github.com/niodoo/niodoo_exporter/internal/localserver"
)

// TestRowSums wants another sum for every other content, also where SQL calls it
// equal, and the same one for the same rows in another order.
func TestRowSums(t *testing.T) {
	t.Parallel()
	p, err := localserver.StartPostgres(t.Context(), localserver.PostgresOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Stop)
	exec := func(sql string) {
		t.Helper()
		if err := p.ExecIn(t.Context(), "sums", sql); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.Exec(t.Context(), "CREATE DATABASE sums"); err != nil {
		t.Fatal(err)
	}
	exec("CREATE TYPE mood AS ENUM ('calm', 'tense'); CREATE DOMAIN level AS numeric; CREATE TYPE pair AS (a int, b numeric)")
	exec("CREATE COLLATION nocase (provider = icu, locale = 'und-u-ks-level2', deterministic = false)")
	sumOf := func() string {
		t.Helper()
		return rowsOf(t, p, "sums")["public.t"].Sum
	}
	for _, c := range []struct{ typ, a, b string }{
		{"bool", "true", "false"}, {"smallint", "1", "2"}, {"bigint", "1", "4294967297"}, {"oid", "1", "2"},
		{"numeric", "1.0", "1.00"}, {"level", "1.0", "1.00"}, {"money", "1", "2"},
		{"real", "0", "'-0'"}, {"double precision", "0", "'-0'"}, {"double precision", "1", "1.0000000000000002"},
		{"interval", "'1 month'", "'30 days'"}, {"date", "'2026-01-01'", "'2026-01-02'"}, {"time", "'10:00'", "'10:01'"},
		{"timetz", "'10:00+01'", "'09:00+00'"}, {"timestamp", "'2026-01-01'", "'infinity'"}, {"timestamptz", "'2026-01-01 10:00+01'", "'2026-01-01 10:00+00'"},
		{"text", "'a'", "'A'"}, {"text COLLATE nocase", "'a'", "'A'"}, {"varchar(9)", "'a'", "'a '"}, {"char(3)", "'a'", "'b'"}, {"bytea", `'\x00'`, `'\x0000'`},
		{"text", "''", "NULL"}, {"int", "0", "NULL"}, {"uuid", "'00000000-0000-0000-0000-000000000000'", "'00000000-0000-0000-0000-000000000001'"},
		{"json", `'{"a":1}'`, `'{"a": 1}'`}, {"jsonb", `'{"a":1}'`, `'{"a":2}'`}, {"xml", "'<a/>'", "'<b/>'"}, {"point", "'(1,2)'", "'(2,1)'"}, {"inet", "'10.0.0.1'", "'10.0.0.1/8'"},
		{"int[]", "'{1,2,3,4}'", "'{{1,2},{3,4}}'"}, {"int[]", "'{1}'", "'[0:0]={1}'"}, {"real[]", "'{0}'", "'{-0}'"}, {"text[]", "'{a,b}'", `'{"a,b"}'`}, {"text[]", "'{}'", "'{NULL}'"},
		{"numeric[]", "'{1.0}'", "'{1.00}'"}, {"mood", "'calm'", "'tense'"}, {"mood[]", "'{calm}'", "'{tense}'"}, {"pair", "'(1,1.0)'", "'(1,1.00)'"},
		{"int4range", "'[1,3)'", "'[1,4)'"}, {"tsvector", "'a'", "'b'"}, {"bit varying", "B'1'", "B'10'"},
	} {
		exec(fmt.Sprintf(`CREATE TABLE t (id int, "odd ""column" %s); INSERT INTO t VALUES (1, %s)`, c.typ, c.a))
		first := sumOf()
		exec(fmt.Sprintf(`UPDATE t SET "odd ""column" = %s`, c.b))
		second := sumOf()
		exec(fmt.Sprintf(`UPDATE t SET "odd ""column" = %s`, c.a))
		if again := sumOf(); first == second || again != first {
			t.Errorf("%s: %s is %s, %s is %s, and again %s", c.typ, c.a, first, c.b, second, again)
		}
		exec("DROP TABLE t")
	}

	exec("CREATE TABLE t (a int, b int); INSERT INTO t VALUES (1, 2), (3, 4), (3, 4)")
	twice := sumOf()
	for sql, same := range map[string]bool{
		"INSERT INTO t VALUES (3, 4), (1, 2), (3, 4)": true,
		"INSERT INTO t VALUES (1, 2)":                 false, // equal rows do not cancel
		"INSERT INTO t VALUES (2, 1), (3, 4), (3, 4)": false,
		"INSERT INTO t VALUES (1, 4), (3, 2), (3, 4)": false, // nor do columns that change places
	} {
		exec("TRUNCATE t; " + sql)
		if got := sumOf(); (got == twice) != same {
			t.Errorf("%s: %s, and it was %s", sql, got, twice)
		}
	}
	exec("DROP TABLE t; CREATE TABLE t (); INSERT INTO t DEFAULT VALUES; INSERT INTO t DEFAULT VALUES")
	if got := rowsOf(t, p, "sums")["public.t"]; got.Count != 2 || !strings.Contains(got.Sum, "-"+rowHash(140000).name+":") {
		t.Errorf("a table without columns: %+v", got)
	}
}

// TestRowHashOfOldServers counts on a function that they have.
func TestRowHashOfOldServers(t *testing.T) {
	p, _ := startPostgres(t, 10)
	for _, version := range []int{130000, 140000} {
		f := rowHash(version)
		sql := fmt.Sprintf("DO $$BEGIN PERFORM sum(%s) FROM events r; END$$", fmt.Sprintf(f.sql, "r.id, r.body"))
		if err := p.ExecIn(t.Context(), "niodoo", sql); err != nil {
			t.Errorf("%d: %v", version, err)
		}
	}
	if rowHash(130000).name == rowHash(140000).name {
		t.Error("their sums could be taken for comparable")
	}
}
