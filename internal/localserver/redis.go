// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package localserver

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// RedisOptions are what a Redis server is started with. The zero value is an
// empty server that keeps nothing on disk and asks for no password.
type RedisOptions struct {
	// Password is the default user's, "" for none.
	Password string
	// ACL are further users, as in an ACL file: "user monitor on >secret -@all +ping".
	ACL []string
	// TLSCert and TLSKey are files; with them the port speaks TLS only.
	TLSCert, TLSKey string
	// Sentinel starts a sentinel instead of a data server.
	Sentinel bool
	// Config are further lines of redis.conf; they win over ours.
	Config []string
	// Scratch is an existing directory with a short path, for the server to work
	// in: what is in it is loaded. Then it has no TCP port, and Stop leaves it.
	Scratch string
}

// Redis is a running redis-server. It listens on 127.0.0.1 and on a unix
// socket in its own directory, and is not for use by several goroutines.
type Redis struct {
	*Process
	// Addr is host:port.
	Addr string
	// Socket is the unix socket's path.
	Socket string
	// Dir holds the configuration and the data; Stop removes it.
	Dir string

	path string
	opts RedisOptions
}

// StartRedis starts a redis-server and waits until it answers, be it with an
// error: one that loads its data or asks for a password has been started.
func StartRedis(ctx context.Context, opts RedisOptions) (*Redis, error) {
	path, err := find("redis-server", "redis-server", "/usr/local/bin", "/opt/redis/bin")
	if err != nil {
		return nil, err
	}
	if opts.Scratch != "" {
		r := &Redis{Socket: filepath.Join(opts.Scratch, "redis.sock"), Dir: opts.Scratch, Addr: net.JoinHostPort("", "0"), path: path, opts: opts}
		return r, r.Start(ctx)
	}
	dir, err := os.MkdirTemp("", "niodoo-redis-")
	if err != nil {
		return nil, err
	}
	r := &Redis{Socket: filepath.Join(dir, "redis.sock"), Dir: dir, path: path, opts: opts}
	for range 3 { // someone else may have taken the port in the meantime
		var port int
		if port, err = freePort(); err != nil {
			break
		}
		r.Addr = net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
		if err = r.Start(ctx); err == nil {
			return r, nil
		}
		if !strings.Contains(err.Error(), "Address already in use") {
			break
		}
	}
	_ = os.RemoveAll(dir)
	return nil, err
}

// Start starts a server that was killed again, on the same port and data and
// with further lines of configuration.
func (r *Redis) Start(ctx context.Context, config ...string) error {
	conf := filepath.Join(r.Dir, "redis.conf")
	if err := os.WriteFile(conf, []byte(r.config(config)), 0o600); err != nil {
		return err
	}
	_ = os.Remove(r.Socket)
	args := []string{conf}
	if r.opts.Sentinel {
		args = append(args, "--sentinel")
	}
	// The socket is asked, not the port: nobody else can be listening there.
	p, err := start(ctx, launch{path: r.path, args: args, dir: r.Dir, ready: r.answers})
	if err != nil {
		return err
	}
	r.Process = p
	return nil
}

func (r *Redis) config(more []string) string {
	_, port, _ := net.SplitHostPort(r.Addr)
	lines := []string{"bind 127.0.0.1", "daemonize no", "dir " + r.Dir, "unixsocket " + r.Socket, "unixsocketperm 700"}
	if r.opts.TLSCert != "" {
		lines = append(lines, "port 0", "tls-port "+port, "tls-cert-file "+r.opts.TLSCert, "tls-key-file "+r.opts.TLSKey,
			"tls-auth-clients no", "tls-ca-cert-file "+r.opts.TLSCert)
	} else {
		lines = append(lines, "port "+port)
	}
	if !r.opts.Sentinel {
		lines = append(lines, `save ""`)
	}
	if r.opts.Password != "" {
		lines = append(lines, "requirepass "+strconv.Quote(r.opts.Password))
	}
	lines = append(lines, r.opts.ACL...)
	lines = append(lines, r.opts.Config...)
	lines = append(lines, more...)
	return strings.Join(lines, "\n") + "\n"
}

// answers returns nil once the server replies at all.
func (r *Redis) answers(ctx context.Context) error {
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", r.Socket)
	if err != nil {
		return err
	}
	defer conn.Close()
	if deadline, ok := ctx.Deadline(); ok {
		_ = conn.SetDeadline(deadline)
	}
	if _, err := fmt.Fprint(conn, "PING\r\n"); err != nil {
		return err
	}
	_, err = bufio.NewReader(conn).ReadString('\n')
	return err
}

// Stop ends the server and removes its directory.
func (r *Redis) Stop() {
	r.stop(syscall.SIGTERM)
	if r.opts.Scratch == "" {
		_ = os.RemoveAll(r.Dir)
	}
}
