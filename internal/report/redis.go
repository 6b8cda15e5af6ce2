// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package report

import (
	"context"
	"errors"
	"maps"
	"net"
	"strings"
	"time"

	goredis "github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"

	"github.com/niodoo/niodoo_exporter/internal/config"
)

// Redis is the emotional processing's store.
type Redis struct {
	Version   string   `json:"version,omitempty"`
	Policy    string   `json:"maxmemory_policy"`
	Uptime    *float64 `json:"uptime_seconds,omitempty"`
	Memory    *float64 `json:"memory_used_bytes,omitempty"`
	MaxMemory *float64 `json:"memory_max_bytes,omitempty"`
	Peak      *float64 `json:"memory_peak_bytes,omitempty"`
	Fragments *float64 `json:"memory_fragmentation_ratio,omitempty"`
	Clients   *float64 `json:"connected_clients,omitempty"`
	Keys      *float64 `json:"keys,omitempty"`
	// Commands are per second between the looks, HitRatio since the start.
	Commands *float64 `json:"commands_per_second,omitempty"`
	HitRatio *float64 `json:"hit_ratio,omitempty"`
	Evicted  *float64 `json:"evicted_keys_total,omitempty"`
	Slow     *float64 `json:"slowlog_length,omitempty"`
}

// redisSettings are those that the tuning looks at.
var redisSettings = []string{"maxmemory", "maxmemory-policy", "appendonly", "appendfsync", "save", "timeout", "tcp-backlog", "maxclients", "requirepass",
	"protected-mode", "activedefrag", "lazyfree-lazy-eviction", "slowlog-log-slower-than", "stop-writes-on-bgsave-error"}

func redisSection(ctx context.Context, o Options, r *Report) error {
	if o.Now.Failed("redis") != nil {
		return nil // it has been said
	}
	of := func(metric string) *float64 { return figure(o.Now, "niodoo_redis_"+metric) }
	d := &Redis{Uptime: of("uptime_seconds"), Memory: of("memory_used_bytes"), MaxMemory: of("memory_max_bytes"), Peak: of("memory_peak_bytes"),
		Fragments: of("memory_fragmentation_ratio"), Clients: of("connected_clients"), Keys: of("keys"), Evicted: of("evicted_keys_total"), Slow: of("slowlog_length"),
		Commands: speed(o.Before, o.Now, "niodoo_redis_commands_processed_total")}
	for _, s := range o.Now.Series("niodoo_redis_info") {
		d.Policy = s.Labels["maxmemory_policy"]
	}
	for _, s := range o.Now.Series("niodoo_component_info", "component", "redis") {
		d.Version = s.Labels["version"]
	}
	hits, _ := o.Now.Sum("niodoo_redis_keyspace_hits_total")
	misses, _ := o.Now.Sum("niodoo_redis_keyspace_misses_total")
	if hits+misses > 0 {
		d.HitRatio = new(hits / (hits + misses))
	}
	r.Redis = d
	settings, err := redisConfig(ctx, o.Config.Redis)
	if err != nil {
		r.missing("Redis' settings", err.Error(), false)
		return nil
	}
	r.Tuning = append(r.Tuning, tuneRedis(settings, o)...)
	return nil
}

// redisHost is the host of Redis' address, or its socket.
func redisHost(o Options) string {
	if host, _, err := net.SplitHostPort(o.Config.Redis.Address); err == nil {
		return host
	}
	return o.Config.Redis.Address
}

// redisConfig returns the settings. The exporter's user need not have the right:
// its ACL has no CONFIG GET.
func redisConfig(ctx context.Context, cfg config.Redis) (map[string]string, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	password, err := cfg.PasswordFile.Read()
	if err != nil {
		return nil, err
	}
	opts := &goredis.Options{Network: "tcp", Addr: cfg.Address, Username: cfg.Username, Password: password.Reveal(), Protocol: 2, DisableIdentity: true,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
		PoolSize:                 1, PipelinePoolSize: -1, MaxRetries: -1, ContextTimeoutEnabled: true}
	if strings.HasPrefix(cfg.Address, "/") {
		opts.Network = "unix"
	}
	if t := cfg.TLSConfig; t != nil {
		if opts.TLSConfig, err = t.Client(); err != nil {
			return nil, err
		}
	}
	client := goredis.NewClient(opts)
	defer func() { _ = client.Close() }()
	all := map[string]string{}
	for _, name := range redisSettings { // several in one command only from Redis 7 on
		got, err := client.ConfigGet(ctx, name).Result()
		switch {
		case err != nil && strings.HasPrefix(err.Error(), "NOPERM"):
			return nil, errors.New("the user may not; it needs ACL SETUSER USER +config|get")
		case err != nil:
			return nil, err
		}
		maps.Copy(all, got)
	}
	return all, nil
}
