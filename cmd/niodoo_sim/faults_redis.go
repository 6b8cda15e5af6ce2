// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/redis/go-redis/v9"
)

// What the lab's Redis may keep, and what it does when that is full.
const (
	redisMemory = "64mb"
	redisPolicy = "allkeys-lru"
)

var redisFaults = []labFault{
	{"redis-stopped", "redis", "The Redis server is killed.", func(_ context.Context, l *lab) (func() error, error) {
		l.redis.Kill()
		return func() error { return l.redis.Start(l.ctx) }, nil
	}},
	{"redis-hanging", "redis", "The Redis server is stopped where it is: connections are taken and nobody answers.", func(_ context.Context, l *lab) (func() error, error) {
		return func() error { return unless(l.redis.Signal(syscall.SIGCONT), os.ErrProcessDone) }, unless(l.redis.Signal(syscall.SIGSTOP), os.ErrProcessDone)
	}},
	{"redis-loading", "redis", "Redis was restarted and loads its data, for minutes.", func(ctx context.Context, l *lab) (func() error, error) {
		err := l.withRedis(func(c *redis.Client) error {
			return errors.Join(fillRedis(ctx, c, "loaded", 20_000), c.Save(ctx).Err())
		})
		if err != nil {
			return nil, err
		}
		l.redis.Kill()
		end := func() error {
			l.redis.Kill()
			return errors.Join(os.Remove(filepath.Join(l.redis.Dir, "dump.rdb")), l.redis.Start(l.ctx))
		}
		return end, l.redis.Start(ctx, "key-load-delay 20000", "loading-process-events-interval-bytes 1024")
	}},
	{"redis-full", "redis", "Redis is nearly full and may not evict.", func(ctx context.Context, l *lab) (func() error, error) {
		return l.resetRedis, l.withRedis(func(c *redis.Client) error {
			used, err := redisUsed(ctx, c)
			return errors.Join(err, c.ConfigSet(ctx, "maxmemory-policy", "noeviction").Err(), c.ConfigSet(ctx, "maxmemory", strconv.Itoa(used+used/50)).Err())
		})
	}},
	{"redis-evicting", "redis", "Redis evicts thousands of keys that were to expire later.", func(ctx context.Context, l *lab) (func() error, error) {
		err := l.withRedis(func(c *redis.Client) error {
			used, err := redisUsed(ctx, c)
			return errors.Join(err, c.ConfigSet(ctx, "maxmemory-policy", "volatile-lru").Err(), c.ConfigSet(ctx, "maxmemory", strconv.Itoa(used+1<<20)).Err())
		})
		l.work.Go(func() {
			round := 0
			every(ctx, 200*time.Millisecond, func(ctx context.Context) {
				round++
				_ = l.withRedis(func(c *redis.Client) error { return fillRedis(ctx, c, fmt.Sprint("evicted:", round), 500) })
			})
		})
		return l.resetRedis, err
	}},
	{"redis-save-failing", "redis", "The process that saves Redis' data is killed.", func(ctx context.Context, l *lab) (func() error, error) {
		err := l.withRedis(func(c *redis.Client) error {
			err := errors.Join(c.ConfigSet(ctx, "rdb-key-save-delay", "1000000").Err(), c.BgSave(ctx).Err())
			return errors.Join(err, l.killRedisChild(ctx), c.ConfigSet(ctx, "rdb-key-save-delay", "0").Err())
		})
		return func() error {
			return l.withRedis(func(c *redis.Client) error {
				return again(l.ctx, func() error { return c.BgSave(l.ctx).Err() }) // the server may not have noticed the death yet
			})
		}, err
	}},
	{"redis-clients-refused", "redis", "Redis has as many clients as it may have and refuses more, five a second.", func(ctx context.Context, l *lab) (func() error, error) {
		c := l.redisClient() // keeps its place: another could not undo this
		usual, err := c.ConfigGet(ctx, "maxclients").Result()
		clients, infoErr := redisInfo(ctx, c, "clients", "connected_clients")
		err = errors.Join(err, infoErr, c.ConfigSet(ctx, "maxclients", strconv.Itoa(clients)).Err())
		l.work.Go(func() {
			every(ctx, 200*time.Millisecond, func(context.Context) {
				if c, err := net.DialTimeout("tcp", l.redis.Addr, time.Second); err == nil {
					c.Close()
				}
			})
		})
		return func() error {
			return errors.Join(c.ConfigSet(l.ctx, "maxclients", usual["maxclients"]).Err(), c.Close())
		}, err
	}},
	{"redis-replica-link-down", "redis", "Redis is the replica of a server that is not there.", func(ctx context.Context, l *lab) (func() error, error) {
		return func() error {
				return l.withRedis(func(c *redis.Client) error { return c.ReplicaOf(l.ctx, "NO", "ONE").Err() })
			},
			l.withRedis(func(c *redis.Client) error { return c.ReplicaOf(ctx, "127.0.0.1", "1").Err() })
	}},
}

// redisClient is a client that has all rights. It comes through the socket,
// whose place nobody else can take.
func (l *lab) redisClient() *redis.Client {
	return redis.NewClient(&redis.Options{Network: "unix", Addr: l.redis.Socket, Password: l.redisPassword, PoolSize: 1, DisableIdentity: true, ContextTimeoutEnabled: true, ReadTimeout: 30 * time.Second})
}

// withRedis lets f work with such a client.
func (l *lab) withRedis(f func(*redis.Client) error) error {
	c := l.redisClient()
	defer func() { _ = c.Close() }()
	return f(c)
}

func (l *lab) resetRedis() error {
	return l.withRedis(func(c *redis.Client) error {
		return errors.Join(c.ConfigSet(l.ctx, "maxmemory", redisMemory).Err(), c.ConfigSet(l.ctx, "maxmemory-policy", redisPolicy).Err())
	})
}

// again calls f until it succeeds, for 10 s at most.
func again(ctx context.Context, f func() error) error {
	deadline := time.Now().Add(10 * time.Second)
	for {
		err := f()
		if err == nil || time.Now().After(deadline) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// fillRedis writes keys that expire in an hour.
func fillRedis(ctx context.Context, c *redis.Client, prefix string, keys int) error {
	value := strings.Repeat("x", 512)
	_, err := c.Pipelined(ctx, func(p redis.Pipeliner) error {
		for i := range keys {
			p.Set(ctx, fmt.Sprintf("%s:%d", prefix, i), value, time.Hour)
		}
		return nil
	})
	return err
}

func redisUsed(ctx context.Context, c *redis.Client) (int, error) {
	return redisInfo(ctx, c, "memory", "used_memory")
}

// redisInfo returns a number from a section of INFO.
func redisInfo(ctx context.Context, c *redis.Client, section, key string) (int, error) {
	text, err := c.Info(ctx, section).Result()
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(text, "\n"+key+":")
	number, _, _ := strings.Cut(rest, "\r")
	return strconv.Atoi(number)
}

// killRedisChild kills the process that saves the data once it is there.
func (l *lab) killRedisChild(ctx context.Context) error {
	return again(ctx, func() error {
		raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", l.redis.Pid()))
		if err != nil {
			return err
		}
		pid, err := strconv.Atoi(strings.TrimSpace(string(raw)))
		if err != nil {
			return errors.New("redis-server has no child that saves")
		}
		return syscall.Kill(pid, syscall.SIGKILL)
	})
}
