// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package restore

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/niodoo/niodoo_exporter/internal/backup/source"
	"github.com/niodoo/niodoo_exporter/internal/config"
	"github.com/niodoo/niodoo_exporter/internal/localserver"
)

// swapEnv tells the test's own program to swap a database, and to be killed in it.
const swapEnv = "NIODOO_TEST_SWAP"

func TestSwapChild(t *testing.T) {
	settings := strings.Split(os.Getenv(swapEnv), "\n")
	if len(settings) < 4 {
		t.Skip("this is for TestSwapKilled")
	}
	cfg := config.Default()
	port, err := strconv.Atoi(settings[1])
	if err != nil {
		t.Fatal(err)
	}
	cfg.PostgreSQL = config.PostgreSQL{Host: settings[0], Port: port, User: localserver.PostgresSuperuser, SSLMode: "disable"}
	cfg.Backup.PGDump = settings[2]
	p, err := source.OpenPostgres(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	s := &server{Postgres: p, id: settings[3]}
	fmt.Println("swapping")
	if _, err := s.swap(t.Context(), s.derived("niodoo", "restore"), "niodoo"); err != nil {
		t.Fatal(err)
	}
	fmt.Println("swapped")
	select {} // until killed
}

// Whenever a swap is killed, there is a whole database of the name and it lets
// everybody in: the old one or the new one.
func TestSwapKilled(t *testing.T) {
	t.Parallel()
	const kills = 30
	const origin = "SELECT name FROM origin"
	b := newBench(t)
	p := b.startPostgres()
	self, err := os.Executable()
	b.try(err)
	for _, name := range []string{"niodoo", "spare"} {
		b.try(p.Exec(t.Context(), "CREATE DATABASE "+name))
		b.try(p.ExecIn(t.Context(), name, "CREATE TABLE origin AS SELECT '"+name+"' AS name"))
	}

	// Somebody comes back as fast as he can, and stays. He may be told that the
	// database is another now, never that it lets nobody in.
	visits, stop := context.WithCancel(t.Context())
	var visitors sync.WaitGroup
	var refused error
	var mu sync.Mutex
	for range 2 {
		visitors.Go(func() {
			for visits.Err() == nil {
				c, err := p.Connect(visits, "niodoo")
				if err == nil {
					_, err = c.Exec(visits, "SELECT pg_sleep(10)").ReadAll()
					_ = c.Close(context.WithoutCancel(visits))
				}
				known := []string{"57P01", "3D000"} // ended; renamed while he waited
				if e, ok := errors.AsType[*pgconn.PgError](err); ok && !slices.Contains(known, e.Code) {
					mu.Lock()
					refused = errors.Join(refused, err)
					mu.Unlock()
				}
			}
		})
	}
	defer visitors.Wait()
	defer stop()

	outcomes := map[string]int{}
	spare := "spare"
	for i := range kills {
		id := fmt.Sprintf("id%d", i)
		fresh := "niodoo_restore_" + id
		b.try(p.Exec(t.Context(), "ALTER DATABASE "+spare+" RENAME TO "+fresh))
		was, other := b.query(p, "niodoo", origin), b.query(p, fresh, origin)
		c := exec.CommandContext(t.Context(), self, "-test.run=^TestSwapChild$")
		c.Env = append(os.Environ(), swapEnv+"="+strings.Join([]string{p.SocketDir, strconv.Itoa(p.Port), b.cfg.Backup.PGDump, id}, "\n"))
		out, err := c.StdoutPipe()
		b.try(err)
		b.try(c.Start())
		lines := bufio.NewScanner(out)
		if !lines.Scan() || lines.Text() != "swapping" {
			t.Fatalf("the child says %q", lines.Text())
		}
		time.Sleep(rand.N(30 * time.Millisecond))
		b.try(c.Process.Kill())
		_ = c.Wait()
		for deadline := time.Now().Add(time.Minute); b.query(p, "postgres", "SELECT count(*)::text FROM pg_stat_activity WHERE application_name = 'niodooctl'") != "0"; {
			if time.Now().After(deadline) {
				t.Fatal("its sessions still go on")
			}
			time.Sleep(time.Millisecond)
		}
		if closed := b.query(p, "postgres", "SELECT coalesce(string_agg(datname, ' '), '') FROM pg_database WHERE NOT datallowconn AND datname <> 'template0'"); closed != "" {
			t.Fatalf("nobody can log in to %s", closed)
		}
		is := b.query(p, "niodoo", origin)
		kept := b.query(p, "postgres", "SELECT count(*)::text FROM pg_database WHERE datname = $1", "niodoo_before_"+id)
		switch {
		case is == was && kept == "0":
			outcomes["before"]++
			spare = fresh
		case is == other && kept == "1":
			outcomes["after"]++
			spare = "niodoo_before_" + id
		default:
			t.Fatalf("the database is that of %s, and was that of %s; %s kept", is, was, kept)
		}
	}
	stop()
	visitors.Wait()
	if refused != nil {
		t.Errorf("a session was refused: %v", refused)
	}
	t.Logf("of %d kills, %d came before the swap and %d after", kills, outcomes["before"], outcomes["after"])
}
