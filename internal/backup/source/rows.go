// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package source

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/niodoo/niodoo_exporter/internal/backup"
)

// LargeObjects is what [CountRows] calls a database's large objects together.
const LargeObjects = "large objects"

// CountRows returns the number of rows of each table of a database that a dump
// holds, and a sum over them, by the name that SQL would write. It works in the
// transaction of the connection, whose settings it sets, and counts the large
// objects too.
//
// The sum is that of PostgreSQL's 64-bit hash of each row, so that it does not
// depend on the rows' order and equal rows do not cancel. It begins with the
// server's major version and the function, since no hash is promised to be the
// same in others; see [Comparable].
func CountRows(ctx context.Context, conn *pgx.Conn) (map[string]backup.Rows, error) {
	for k, v := range settings {
		if _, err := conn.Exec(ctx, "SELECT set_config($1, $2, false)", k, v); err != nil {
			return nil, err
		}
	}
	var version int
	if err := conn.QueryRow(ctx, "SELECT current_setting('server_version_num')::int").Scan(&version); err != nil {
		return nil, err
	}
	names, err := column(ctx, conn, listTables)
	if err != nil {
		return nil, err
	}
	if len(names) > maxTables {
		names = names[:maxTables]
	}
	columns, err := columnsOf(ctx, conn)
	if err != nil {
		return nil, err
	}
	function := rowHash(version)
	all := map[string]backup.Rows{}
	count := func(name, from string, columns []string) error {
		var r backup.Rows
		var sum string
		hash := fmt.Sprintf(function.sql, strings.Join(columns, ", "))
		sql := fmt.Sprintf("SELECT count(*), coalesce(sum(%s), 0)::text FROM %s AS r", hash, from)
		if err := conn.QueryRow(ctx, sql).Scan(&r.Count, &sum); err != nil {
			return fmt.Errorf("counting the rows of %s: %w", name, err)
		}
		r.Sum = fmt.Sprintf("pg%d-%s:%s", version/10000, function.name, sum)
		all[name] = r
		return nil
	}
	for _, n := range names {
		if err := count(n, "ONLY "+n, columns[n]); err != nil {
			return nil, err
		}
	}
	// The pages of large objects are for superusers alone; that they exist is not.
	var readable bool
	if err := conn.QueryRow(ctx, "SELECT has_table_privilege('pg_largeobject', 'SELECT')").Scan(&readable); err != nil {
		return nil, err
	}
	if readable {
		var objects int64
		if err := count(LargeObjects, "pg_largeobject", []string{"r.loid", "r.pageno", "r.data"}); err != nil {
			return nil, err
		}
		if err := conn.QueryRow(ctx, "SELECT count(*) FROM pg_largeobject_metadata").Scan(&objects); err != nil {
			return nil, err
		}
		all[LargeObjects] = backup.Rows{Count: objects, Sum: all[LargeObjects].Sum}
	}
	return all, nil
}

// Comparable reports whether two sums of [CountRows] were made the same way.
func Comparable(a, b string) bool {
	x, _, okX := strings.Cut(a, ":")
	y, _, okY := strings.Cut(b, ":")
	return okX && okY && x == y
}

// hashFunction makes 64 bits of the columns of a row.
type hashFunction struct{ name, sql string }

// rowHash returns the function for a server's version. Hashing columns takes a
// third of the time that their text takes; it came with PostgreSQL 14.
func rowHash(version int) hashFunction {
	if version < 140000 {
		return hashFunction{"hashtextextended", "hashtextextended(ROW(%s)::text, 0)"}
	}
	// A record's hash is linear in those of its columns: without the outer one,
	// values that change places with another row's would keep the sum.
	return hashFunction{"hash_record_extended", "hashint8extended(hash_record_extended(ROW(%s), 0), 0)"}
}

// exactly says how a value of a type is hashed so that other bits are another
// hash. The hash functions of types that are not here take for equal what SQL
// does, such as 1.0 and 1.00 or a month and 30 days, or there is none: of
// those it is the text.
var exactly = map[uint32]string{
	pgtype.BoolOID: "%s", pgtype.Int2OID: "%s", pgtype.Int4OID: "%s", pgtype.Int8OID: "%s", pgtype.OIDOID: "%s",
	pgtype.DateOID: "%s", pgtype.TimeOID: "%s", pgtype.TimestampOID: "%s", pgtype.TimestamptzOID: "%s",
	pgtype.UUIDOID: "%s", pgtype.ByteaOID: "%s",
	pgtype.Float4OID: "float4send(%s)", pgtype.Float8OID: "float8send(%s)",
	// Their element's type is in it by its number, which is the same everywhere.
	pgtype.BoolArrayOID: "array_send(%s)", pgtype.Int2ArrayOID: "array_send(%s)", pgtype.Int4ArrayOID: "array_send(%s)",
	pgtype.Int8ArrayOID: "array_send(%s)", pgtype.Float4ArrayOID: "array_send(%s)", pgtype.Float8ArrayOID: "array_send(%s)",
	pgtype.UUIDArrayOID: "array_send(%s)", pgtype.TextArrayOID: "array_send(%s)", pgtype.VarcharArrayOID: "array_send(%s)",
	pgtype.TimestamptzArrayOID: "array_send(%s)",
}

// asText needs its collation: others may hash different text alike.
const asText = `%s::text COLLATE "C"`

// columnsOf returns what is hashed of the columns of each table.
func columnsOf(ctx context.Context, conn *pgx.Conn) (map[string][]string, error) {
	rows, err := conn.Query(ctx, `SELECT quote_ident(n.nspname) || '.' || quote_ident(c.relname), 'r.' || quote_ident(a.attname), a.atttypid
FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'r' AND a.attnum > 0 AND NOT a.attisdropped AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'
ORDER BY a.attrelid, a.attnum`)
	if err != nil {
		return nil, err
	}
	all := map[string][]string{}
	var table, column string
	var oid uint32
	_, err = pgx.ForEachRow(rows, []any{&table, &column, &oid}, func() error {
		how, ok := exactly[oid]
		if !ok {
			how = asText
		}
		all[table] = append(all[table], fmt.Sprintf(how, column))
		return nil
	})
	return all, err
}
