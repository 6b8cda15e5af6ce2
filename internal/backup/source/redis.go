// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package source

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc64"
	"io"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/niodoo/niodoo_exporter/internal/backup"
	"github.com/niodoo/niodoo_exporter/internal/config"
)

// redisPatience is how long the server may be silent: it forks and writes its
// whole content before the first byte comes, with a line break now and then.
const redisPatience = 10 * time.Minute

// redis asks for a fresh dump as a replica would: the server sends it over the
// connection, and its files are not touched or needed. See
// https://redis.io/docs/latest/operate/oss_and_stack/management/replication/.
type redis struct {
	conn net.Conn
	r    *bufio.Reader
}

func dialRedis(ctx context.Context, cfg config.Redis) (*redis, error) {
	network := "tcp"
	if strings.HasPrefix(cfg.Address, "/") {
		network = "unix"
	}
	dialer := net.Dialer{Timeout: 10 * time.Second}
	conn, err := dialer.DialContext(ctx, network, cfg.Address)
	if err != nil {
		return nil, err
	}
	if cfg.TLSConfig != nil {
		c, err := cfg.TLSConfig.Client()
		if err != nil {
			conn.Close()
			return nil, err
		}
		if c.ServerName == "" {
			c.ServerName, _, _ = net.SplitHostPort(cfg.Address)
		}
		secured := tls.Client(conn, c)
		if err := secured.HandshakeContext(ctx); err != nil {
			conn.Close()
			return nil, err
		}
		conn = secured
	}
	r := &redis{conn: conn}
	r.r = bufio.NewReaderSize(readWithin{conn, redisPatience}, 64<<10)
	password, err := cfg.PasswordFile.Read()
	if err == nil && password.Reveal() != "" {
		args := []string{"AUTH", password.Reveal()}
		if cfg.Username != "" {
			args = []string{"AUTH", cfg.Username, password.Reveal()}
		}
		_, err = r.do(args...)
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	return r, nil
}

// readWithin bounds the silence between two reads.
type readWithin struct {
	net.Conn
	patience time.Duration
}

func (c readWithin) Read(p []byte) (int, error) {
	if err := c.SetReadDeadline(time.Now().Add(c.patience)); err != nil {
		return 0, err
	}
	return c.Conn.Read(p)
}

func (r *redis) send(args ...string) error {
	var b strings.Builder
	fmt.Fprintf(&b, "*%d\r\n", len(args))
	for _, a := range args {
		fmt.Fprintf(&b, "$%d\r\n%s\r\n", len(a), a)
	}
	_, err := io.WriteString(r.conn, b.String())
	return err
}

// line reads a line and returns it without its end; an error of the server's is one.
func (r *redis) line() (string, error) {
	raw, err := r.r.ReadSlice('\n')
	if err != nil {
		return "", err
	}
	line := strings.TrimRight(string(raw), "\r\n")
	if said, ok := strings.CutPrefix(line, "-"); ok {
		return "", errors.New(said)
	}
	return line, nil
}

// do sends a command whose answer is a line or a string.
func (r *redis) do(args ...string) (string, error) {
	if err := r.send(args...); err != nil {
		return "", err
	}
	line, err := r.line()
	if err != nil {
		return "", fmt.Errorf("%s: %w", args[0], err)
	}
	size, ok := strings.CutPrefix(line, "$")
	if !ok {
		return line, nil
	}
	n, err := strconv.Atoi(size)
	if err != nil || n < 0 || n > 1<<20 {
		return "", fmt.Errorf("%s: the answer %.20q cannot be read", args[0], line)
	}
	body := make([]byte, n+2)
	_, err = io.ReadFull(r.r, body)
	return string(body[:n]), err
}

// info returns a section of INFO by field.
func (r *redis) info(section string) (map[string]string, error) {
	text, err := r.do("INFO", section)
	if err != nil {
		return nil, err
	}
	fields := map[string]string{}
	for line := range strings.Lines(text) {
		if k, v, ok := strings.Cut(strings.TrimSpace(line), ":"); ok {
			fields[k] = v
		}
	}
	return fields, nil
}

// keys returns the number of keys of each database.
func (r *redis) keys() (map[string]backup.Rows, error) {
	fields, err := r.info("keyspace")
	if err != nil {
		return nil, err
	}
	rows := map[string]backup.Rows{}
	for db, v := range fields {
		count, _, _ := strings.Cut(strings.TrimPrefix(v, "keys="), ",")
		n, err := strconv.ParseInt(count, 10, 64)
		if err != nil {
			return nil, fmt.Errorf("INFO keyspace: %s is %.50q", db, v)
		}
		rows[db] = backup.Rows{Count: n}
	}
	return rows, nil
}

// dump asks for the dump and returns its length. It is what comes next.
func (r *redis) dump() (int64, error) {
	// Nothing after the dump, please; servers before 7.0 do not know this.
	if _, err := r.do("REPLCONF", "rdb-only", "1"); err != nil && !strings.Contains(err.Error(), "Unrecognized REPLCONF") {
		return 0, err
	}
	// Without the capability "eof" the server tells the length first.
	if err := r.send("SYNC"); err != nil {
		return 0, err
	}
	for {
		line, err := r.line()
		if err != nil {
			return 0, fmt.Errorf("SYNC: %w", err)
		}
		if line == "" { // the server is at work
			continue
		}
		size, ok := strings.CutPrefix(line, "$")
		n, err := strconv.ParseInt(size, 10, 64)
		if !ok || err != nil || n < 0 {
			return 0, fmt.Errorf("SYNC: the answer %.50q is no dump", line)
		}
		return n, nil
	}
}

// backUpRedis adds a dump of all of Redis' databases.
func backUpRedis(ctx context.Context, b *run) error {
	cfg := b.cfg.Redis
	r, err := dialRedis(ctx, cfg)
	if err != nil {
		return err
	}
	defer r.conn.Close()
	stop := context.AfterFunc(ctx, func() { r.conn.Close() })
	defer stop()
	server, err := r.info("server")
	if err != nil {
		return err
	}
	before, err := r.keys()
	if err != nil {
		return err
	}
	size, err := r.dump()
	if err != nil {
		return err
	}
	check := newRDBCheck()
	content := io.TeeReader(io.LimitReader(r.r, size), check)
	err = b.archive.AddStream(b.member(backup.RedisMember), content, b.dir, func() error { return check.verdict(size) })
	if err != nil {
		return err
	}
	b.summary.Versions["redis"] = server["redis_version"]
	return countRedis(ctx, b, before)
}

// countRedis notes the numbers of keys where they did not change meanwhile: only
// then are they known to be the dump's.
func countRedis(ctx context.Context, b *run, before map[string]backup.Rows) error {
	again, err := dialRedis(ctx, b.cfg.Redis)
	if err != nil {
		return nil //nolint:nilerr // the dump is in; without a count it cannot be compared
	}
	defer again.conn.Close()
	after, err := again.keys()
	if err != nil {
		return nil //nolint:nilerr // as above
	}
	for db, rows := range before {
		if after[db] == rows {
			b.rows("redis")[db] = rows
		}
	}
	return nil
}

// rdbCheck looks whether a dump is whole: it begins with its magic and ends
// with its own checksum, unless the server makes none.
type rdbCheck struct {
	sum  uint64
	seen int64
	head []byte
	tail []byte // the last eight bytes, which are not summed up yet
}

// redisCRC is the polynomial of Jones, reversed.
var redisCRC = crc64.MakeTable(0x95ac9329ac4bc9b5)

func newRDBCheck() *rdbCheck { return &rdbCheck{sum: ^uint64(0)} }

func (c *rdbCheck) Write(p []byte) (int, error) {
	c.head = append(c.head, p[:min(len(p), 9-len(c.head))]...)
	c.seen += int64(len(p))
	c.tail = append(c.tail, p...)
	if n := len(c.tail) - 8; n > 0 {
		c.sum = crc64.Update(c.sum, redisCRC, c.tail[:n])
		c.tail = append(c.tail[:0], c.tail[n:]...)
	}
	return len(p), nil
}

func (c *rdbCheck) verdict(size int64) error {
	switch {
	case c.seen != size:
		return fmt.Errorf("the dump ended after %d of %d bytes", c.seen, size)
	case len(c.head) < 9 || string(c.head[:5]) != "REDIS":
		return fmt.Errorf("what the server sent is no dump: it begins with %q", c.head)
	}
	// The library inverts before and after; Redis does neither.
	if want := binary.LittleEndian.Uint64(c.tail); want != 0 && want != ^c.sum {
		return errors.New("the dump's checksum is wrong")
	}
	return nil
}
