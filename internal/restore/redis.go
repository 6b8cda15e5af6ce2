// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package restore

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/niodoo/niodoo_exporter/internal/config"
)

// How a restored data set lies in a server's directory when append-only mode is
// on: a dump.rdb alone is ignored then, and the server starts empty.
const (
	redisDump       = "dump.rdb"
	redisAppendDir  = "appendonlydir"
	redisAppendBase = "appendonly.aof.1.base.rdb"
	redisAppendIncr = "appendonly.aof.1.incr.aof"
	redisManifest   = "appendonly.aof.manifest"
)

// writeRedisDir lays a dump that lies in dir out so that a server that is
// started on dir has the data, be append-only mode on or off.
func writeRedisDir(dir string) error {
	sub := filepath.Join(dir, redisAppendDir)
	if err := os.Mkdir(sub, 0o700); err != nil {
		return err
	}
	if err := os.Link(filepath.Join(dir, redisDump), filepath.Join(sub, redisAppendBase)); err != nil {
		return err
	}
	manifest := "file " + redisAppendBase + " seq 1 type b\nfile " + redisAppendIncr + " seq 1 type i\n"
	return errors.Join(os.WriteFile(filepath.Join(sub, redisAppendIncr), nil, 0o600),
		os.WriteFile(filepath.Join(sub, redisManifest), []byte(manifest), 0o600))
}

const (
	// redisPoll is how often a server is asked how far it is.
	redisPoll = 50 * time.Millisecond
	// redisIdle bounds how long the server may do nothing about the data: neither
	// come for it, nor receive it, nor load it.
	redisIdle = 30 * time.Second
)

// redisServer is a server that runs and is given a data set.
type redisServer struct {
	*redis.Client
	idle time.Duration
}

// redisOptions returns how a server is reached.
func redisOptions(c config.Redis) (*redis.Options, error) {
	password, err := c.PasswordFile.Read()
	if err != nil {
		return nil, err
	}
	network := "tcp"
	if strings.HasPrefix(c.Address, "/") {
		network = "unix"
	}
	o := &redis.Options{Network: network, Addr: c.Address, Username: c.Username, Password: password.Reveal(), MaxRetries: -1, ContextTimeoutEnabled: true, ClientName: "niodooctl"}
	if c.TLSConfig != nil {
		o.TLSConfig, err = c.TLSConfig.Client()
	}
	return o, err
}

// info returns the fields of a section of INFO.
func (r redisServer) info(ctx context.Context, section string) (map[string]string, error) {
	text, err := r.Info(ctx, section).Result()
	if err != nil {
		return nil, fmt.Errorf("redis: %w", err)
	}
	fields := map[string]string{}
	for line := range strings.Lines(text) {
		if key, value, ok := strings.Cut(strings.TrimSpace(line), ":"); ok {
			fields[key] = value
		}
	}
	return fields, nil
}

// keysByDatabase returns the number of keys of each database that has any.
func (r redisServer) keysByDatabase(ctx context.Context) (map[string]int64, error) {
	fields, err := r.info(ctx, "keyspace")
	if err != nil {
		return nil, err
	}
	keys := map[string]int64{}
	for db, value := range fields {
		first, _, _ := strings.Cut(value, ",")
		if keys[db], err = strconv.ParseInt(strings.TrimPrefix(first, "keys="), 10, 64); err != nil {
			return nil, fmt.Errorf("redis: INFO says %s:%.100s", db, value)
		}
	}
	return keys, nil
}

// keys returns the number of keys in all databases.
func (r redisServer) keys(ctx context.Context) (int64, error) {
	all, err := r.keysByDatabase(ctx)
	var total int64
	for _, n := range all {
		total += n
	}
	return total, err
}

// master reports why a server cannot be given a data set, nil if it can.
func (r redisServer) master(ctx context.Context) error {
	fields, err := r.info(ctx, "replication")
	if err != nil {
		return err
	}
	if role := fields["role"]; role != "master" {
		return fmt.Errorf("redis: this server is a %s of %s:%s: restore into its master", role, fields["master_host"], fields["master_port"])
	}
	cluster, err := r.info(ctx, "cluster")
	if err != nil {
		return err
	}
	if cluster["cluster_enabled"] == "1" {
		return errors.New("redis: a cluster is not restored over the network: use --to, and start each node on its directory")
	}
	return nil
}

// load makes the server take over the data set of an RDB file. We are its
// master for that long: so it needs no access to its files, which may be in a
// container, it replaces everything at once, and in append-only mode it writes
// its files anew, which it would not do for a dump.rdb put in their place.
func (r redisServer) load(ctx context.Context, path string) (err error) {
	if err := r.master(ctx); err != nil {
		return err
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	l, err := r.listen(ctx)
	if err != nil {
		return err
	}
	defer l.Close()
	secured, err := r.plainReplication(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, secured(context.WithoutCancel(ctx))) }()
	host, port, _ := net.SplitHostPort(l.Addr().String())
	if err := r.Do(ctx, "REPLICAOF", host, port).Err(); err != nil {
		return fmt.Errorf("redis: %w", err)
	}
	served := make(chan error, 1)
	go func() { served <- serveRDB(l, f) }()
	err = r.wait(ctx, served)
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), r.idle)
	defer cancel()
	if endErr := r.Do(end, "REPLICAOF", "NO", "ONE").Err(); endErr != nil {
		err = errors.Join(err, fmt.Errorf("redis: it still follows us; tell it REPLICAOF NO ONE: %w", endErr))
	}
	if err != nil {
		return err
	}
	return r.persist(ctx)
}

// plainReplication has a server that is to follow its master over TLS not do so
// for us: it would want a certificate of its own authority, which we have not.
// undo sets it back.
func (r redisServer) plainReplication(ctx context.Context) (undo func(context.Context) error, err error) {
	const setting = "tls-replication"
	// One that does not tell is taken not to: else it is what fails next.
	if r.ConfigGet(ctx, setting).Val()[setting] != "yes" {
		return func(context.Context) error { return nil }, nil
	}
	if err := r.ConfigSet(ctx, setting, "no").Err(); err != nil {
		return nil, fmt.Errorf("redis: %w", err)
	}
	return func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, r.idle)
		defer cancel()
		if err := r.ConfigSet(ctx, setting, "yes").Err(); err != nil {
			return fmt.Errorf("redis: %s is off; tell it CONFIG SET %s yes: %w", setting, setting, err)
		}
		return nil
	}, nil
}

// listen listens on the address by which the server sees us.
func (r redisServer) listen(ctx context.Context) (net.Listener, error) {
	host := "127.0.0.1"
	about, err := r.ClientInfo(ctx).Result()
	if err != nil {
		return nil, fmt.Errorf("redis: %w", err)
	}
	if h, _, err := net.SplitHostPort(about.Addr); err == nil && net.ParseIP(h) != nil {
		host = h
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		return nil, fmt.Errorf("redis sees this machine as %s, where nobody can listen: restore with --to, and start it on that directory: %w", host, err)
	}
	return l, nil
}

// wait waits until the server has loaded what it was sent.
func (r redisServer) wait(ctx context.Context, served <-chan error) error {
	sent := false
	for sign := time.Now(); ; {
		fields, err := r.info(ctx, "everything")
		switch {
		case err != nil:
			return err
		case fields["master_link_status"] == "up" && fields["master_sync_in_progress"] == "0":
			return nil
		case fields["master_sync_in_progress"] == "1", fields["loading"] == "1":
			sign = time.Now()
		case time.Since(sign) > r.idle && sent:
			return errors.New("redis has received the data and not taken it; its log says why")
		case time.Since(sign) > r.idle:
			return fmt.Errorf("redis has not come for the data within %s: does a firewall keep it from this machine?", r.idle)
		}
		select {
		case err := <-served:
			if err != nil {
				return fmt.Errorf("redis: sending the data: %w", err)
			}
			served, sent = nil, true
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(redisPoll):
		}
	}
}

// persist waits until the data is on the server's disk.
func (r redisServer) persist(ctx context.Context) error {
	fields, err := r.info(ctx, "persistence")
	if err != nil {
		return err
	}
	busy, status := "rdb_bgsave_in_progress", "rdb_last_bgsave_status"
	if fields["aof_enabled"] == "1" {
		busy, status = "aof_rewrite_in_progress", "aof_last_bgrewrite_status"
	} else if err := r.BgSave(ctx).Err(); err != nil && !strings.Contains(err.Error(), "already in progress") {
		return fmt.Errorf("redis: it has the data, but has not saved it: %w", err)
	}
	for {
		fields, err := r.info(ctx, "persistence")
		if err != nil {
			return err
		}
		if fields[busy] == "0" && fields["aof_rewrite_scheduled"] != "1" {
			if fields[status] != "ok" {
				return errors.New("redis: it has the data, but could not save it; see its log")
			}
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(redisPoll):
		}
	}
}

// serveRDB plays the master for one replica: it sends the file as the full
// synchronisation, and goes on listening until the replica hangs up.
func serveRDB(l net.Listener, f *os.File) error {
	conn, err := l.Accept()
	if err != nil {
		return err
	}
	stat, err := f.Stat()
	if err != nil {
		conn.Close()
		return err
	}
	in := bufio.NewReader(conn)
	for {
		command, err := readCommand(in)
		if err != nil {
			conn.Close()
			return err
		}
		answer := "+OK\r\n"
		switch strings.ToUpper(command[0]) {
		case "PING":
			answer = "+PONG\r\n"
		case "PSYNC":
			// Any 40 digits will do: nobody continues from here.
			answer = fmt.Sprintf("+FULLRESYNC %040x 0\r\n$%d\r\n", stat.Size(), stat.Size())
		}
		if _, err := io.WriteString(conn, answer); err != nil {
			conn.Close()
			return err
		}
		if strings.EqualFold(command[0], "PSYNC") {
			break
		}
	}
	if _, err = io.Copy(conn, f); err != nil {
		conn.Close()
		return err
	}
	// It reports its position until it is no replica any more.
	go func() { _, _ = io.Copy(io.Discard, in); conn.Close() }()
	return nil
}

// rdbVersion returns the version of a dump's format.
func rdbVersion(path string) (int, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	head := make([]byte, len("REDIS0011"))
	if _, err := io.ReadFull(f, head); err != nil {
		return 0, fmt.Errorf("%s is no dump of Redis: %w", path, err)
	}
	n, err := strconv.Atoi(strings.TrimPrefix(string(head), "REDIS"))
	if err != nil {
		return 0, fmt.Errorf("%s is no dump of Redis: it begins with %q", path, head)
	}
	return n, nil
}

// readCommand reads a command: an array of a few short strings.
func readCommand(r *bufio.Reader) ([]string, error) {
	number := func(kind byte, most int) (int, error) {
		line, err := r.ReadString('\n')
		if err != nil {
			return 0, err
		}
		line = strings.TrimRight(line, "\r\n")
		if line == "" || line[0] != kind {
			return 0, fmt.Errorf("a replica sends %.100q", line)
		}
		n, err := strconv.Atoi(line[1:])
		if err != nil || n < 0 || n > most {
			return 0, fmt.Errorf("a replica sends %.100q", line)
		}
		return n, nil
	}
	n, err := number('*', 16)
	if err != nil {
		return nil, err
	}
	var words []string
	for range n {
		size, err := number('$', 1024)
		if err != nil {
			return nil, err
		}
		word := make([]byte, size+2)
		if _, err := io.ReadFull(r, word); err != nil {
			return nil, err
		}
		words = append(words, string(word[:size]))
	}
	if n == 0 {
		return nil, errors.New("a replica sends an empty command")
	}
	return words, nil
}
