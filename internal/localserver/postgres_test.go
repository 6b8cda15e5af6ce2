// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package localserver

import (
	"context"
	"errors"
	"os"
	"testing"
	"time"
)

func startPostgres(t *testing.T, o PostgresOptions) *Postgres {
	t.Helper()
	p, err := StartPostgres(t.Context(), o)
	if errors.Is(err, ErrNotInstalled) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Stop)
	return p
}

func TestPostgres(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	p := startPostgres(t, PostgresOptions{Dir: t.TempDir(), Settings: map[string]string{"max_connections": "12"}})
	// A password that every kind of quoting would spoil, twice: the role's
	// statements may be run again.
	for range 2 {
		if err := p.CreateMonitor(ctx, `it's a \ "test"`); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.Exec(ctx, "CREATE TABLE kept (); SELECT 1/(current_setting('max_connections') = '12')::int"); err != nil {
		t.Fatal(err)
	}
	if err := p.Restart(ctx); err != nil {
		t.Fatal(err)
	}
	p.Kill()
	if err := p.Exec(ctx, "SELECT"); err == nil {
		t.Fatal("a killed server answers")
	}
	if err := p.Restart(ctx); err != nil {
		t.Fatalf("restart after a crash: %v", err)
	}
	if err := p.Exec(ctx, "SELECT FROM kept"); err != nil {
		t.Fatalf("the data did not survive: %v", err)
	}

	open, err := p.Connect(ctx, "postgres")
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close(ctx)
	p.Hang()
	short, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
	defer cancel()
	if err := p.Exec(short, "SELECT"); err == nil {
		t.Error("a hanging server takes logins")
	}
	if err := open.Conn().SetReadDeadline(time.Now().Add(100 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if _, err := open.Exec(ctx, "SELECT").ReadAll(); err == nil {
		t.Error("a hanging server answers on an open session")
	}
	p.Continue()
	if err := p.Exec(ctx, "SELECT"); err != nil {
		t.Errorf("after a hang: %v", err)
	}
	p.Stop()
	for _, dir := range []string{p.DataDir, p.SocketDir} {
		if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is left behind: %v", dir, err)
		}
	}
}
