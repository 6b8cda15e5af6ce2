// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package localserver

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestRedis(t *testing.T) {
	r, err := StartRedis(t.Context(), RedisOptions{Password: `a "quoted" one`, Config: []string{"appendonly yes"}})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Stop()
	if raw, err := os.ReadFile(filepath.Join(r.Dir, "redis.conf")); err != nil || !strings.Contains(string(raw), `\"quoted\"`) {
		t.Errorf("the configuration is %q, %v", raw, err)
	}
	dial := func() error {
		c, err := net.Dial("tcp", r.Addr)
		if err == nil {
			c.Close()
		}
		return err
	}
	if err := dial(); err != nil {
		t.Error(err)
	}
	r.Kill()
	if err := dial(); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("after Kill: %v", err)
	}
	if err := r.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := dial(); err != nil {
		t.Errorf("after Start: %v", err)
	}
	if err := r.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	r.Stop() // also one that is stopped
	if _, err := os.Stat(r.Dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the directory is still there: %v", err)
	}
}

func TestRedisBadConfig(t *testing.T) {
	r, err := StartRedis(t.Context(), RedisOptions{Config: []string{"no-such-directive 1"}})
	if err == nil {
		r.Stop()
		t.Fatal("it starts")
	}
	if !strings.Contains(err.Error(), "no-such-directive") {
		t.Errorf("the error does not show what the server said: %v", err)
	}
}

func TestRedisNotInstalled(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	if r, err := StartRedis(t.Context(), RedisOptions{}); err == nil {
		r.Stop()
		t.Skip("redis-server is outside PATH here")
	} else if !errors.Is(err, ErrNotInstalled) {
		t.Error(err)
	}
}
