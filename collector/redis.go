// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	goredis "github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"

	"github.com/niodoo/niodoo_exporter/internal/config"
)

func init() {
	register("redis", newRedis)
	goredis.SetLogger(redisSilence{})
}

const (
	// redisMaxAge is how long a connection is kept, so that a password or
	// certificate that was replaced is noticed although nobody hung up.
	redisMaxAge = 5 * time.Minute
	// redisMaxDatabases bounds the label db, redisMaxMasters the label master.
	redisMaxDatabases = 32
	redisMaxMasters   = 32
	// redisMaxElements bounds a list in an answer; HELLO's has 14.
	redisMaxElements = 128
)

const (
	redisINFO       = "INFO "
	redisOnSentinel = "on a sentinel"
)

var (
	redisInfoDesc = gauge("redis", "redis_info",
		"What kind of server it is; the value is 1", "INFO server_name, redis_mode, role, maxmemory_policy", "server", "mode", "role", "maxmemory_policy")
	redisKeys = gauge("redis", "redis_keys",
		"Number of keys in the database; db0 is reported even if empty, databases beyond the first 32 together as other",
		"INFO dbN keys", "db").absent(redisOnSentinel)
	redisExpiringKeys = gauge("redis", "redis_expiring_keys",
		"Number of keys in the database that have a time to live", "INFO dbN expires", "db").absent(redisOnSentinel)
	redisSlowlogLength = gauge("redis", "redis_slowlog_length",
		"Number of entries in the slow log, at most slowlog-max-len", "SLOWLOG LEN").absent("where the server has no SLOWLOG")
	redisReplicasOnline = gauge("redis", "redis_replicas_online",
		"Number of replicas that are connected and in sync", "INFO slaveN state").absent(redisOnSentinel)
	redisReplicaLag = gauge("redis", "redis_replica_lag_max_seconds",
		"Time since the slowest online replica last acknowledged", "INFO slaveN lag").absent("without online replicas")
	redisSentinelMasterOK = gauge("redis", "redis_sentinel_master_ok",
		"Whether the sentinel considers the master up", "INFO masterN status", "master").absent("except on a sentinel")
	redisSentinelMasterReplicas = gauge("redis", "redis_sentinel_master_replicas",
		"Number of replicas of the master that the sentinel knows", "INFO masterN slaves", "master").absent("except on a sentinel")
	redisSentinelMasterSentinels = gauge("redis", "redis_sentinel_master_sentinels",
		"Number of sentinels that watch the master", "INFO masterN sentinels", "master").absent("except on a sentinel")
)

// redisField is a field of INFO or CLUSTER INFO and the metric it becomes.
type redisField struct {
	name   string
	desc   *Desc
	read   redisReader
	labels []string
}

// redisReader reads a field's value. It reports false where the value says
// that there is nothing to tell and an error where it is not what it should be.
type redisReader func(string) (float64, bool, error)

func redisGauge(field string, read redisReader, name, help string) redisField {
	return redisField{name: field, read: read, desc: gauge("redis", "redis_"+name, help, redisINFO+field)}
}

func redisCounter(field string, read redisReader, name, help string) redisField {
	return redisField{name: field, read: read, desc: counter("redis", "redis_"+name, help, redisINFO+field)}
}

// absent notes when a healthy server does not have the field.
func (f redisField) absent(when string) redisField {
	f.desc.absent(when)
	return f
}

var (
	redisCPU = counter("redis", "redis_cpu_seconds_total",
		"Processor time of the server and of its background children", "INFO used_cpu_sys, used_cpu_user, used_cpu_sys_children, used_cpu_user_children", "mode")
	redisClusterSlots = gauge("redis", "redis_cluster_slots",
		"Number of hash slots that are assigned, served, probably failed and failed", "CLUSTER INFO cluster_slots_*", "state").
		absent("without cluster mode")
)

// redisFields is everything that is taken from INFO one field at a time.
var redisFields = []redisField{
	redisGauge("uptime_in_seconds", redisNumber, "uptime_seconds", "Time since the server started"),

	redisGauge("connected_clients", redisNumber, "connected_clients", "Number of client connections, this one included"),
	redisGauge("maxclients", redisNumber, "max_clients", "Number of client connections the server allows").absent("before Redis 6.2"),
	redisGauge("blocked_clients", redisNumber, "blocked_clients", "Number of clients that wait in a blocking call"),

	redisGauge("used_memory", redisNumber, "memory_used_bytes", "Memory that the server has allocated").absent(redisOnSentinel),
	redisGauge("used_memory_rss", redisNumber, "memory_rss_bytes", "Memory that the operating system sees the server use").absent(redisOnSentinel),
	redisGauge("used_memory_peak", redisNumber, "memory_peak_bytes", "Highest memory_used_bytes since the start").absent(redisOnSentinel),
	redisGauge("used_memory_dataset", redisNumber, "memory_dataset_bytes", "Memory that the data takes without overhead").absent(redisOnSentinel),
	redisGauge("maxmemory", redisPositive, "memory_max_bytes", "Memory at which the server evicts or refuses writes").absent("without a limit (maxmemory 0)"),
	redisGauge("total_system_memory", redisPositive, "system_memory_bytes", "Memory of the server's machine; limits of its container do not count").absent(redisOnSentinel),
	redisGauge("mem_fragmentation_ratio", redisNumber, "memory_fragmentation_ratio",
		"memory_rss_bytes over memory_used_bytes; means little below 100 MB").absent(redisOnSentinel),

	redisGauge("loading", redisNumber, "loading", "Whether the server is loading its data from disk").absent(redisOnSentinel),
	redisGauge("loading_loaded_perc", redisPercent, "loading_progress_ratio", "Share of the data that has been loaded").absent("except while loading"),
	redisGauge("loading_eta_seconds", redisNumber, "loading_remaining_seconds", "Time that loading is expected to take still").absent("except while loading"),
	redisGauge("rdb_changes_since_last_save", redisNumber, "rdb_changes_since_last_save", "Number of changes since the last snapshot").absent(redisOnSentinel),
	redisGauge("rdb_bgsave_in_progress", redisNumber, "rdb_bgsave_in_progress", "Whether a snapshot is being written").absent(redisOnSentinel),
	redisGauge("rdb_last_save_time", redisPositive, "rdb_last_save_timestamp_seconds",
		"Time of the last successful snapshot, or of the start; old is no fault where the append-only file is on").absent(redisOnSentinel),
	redisGauge("rdb_last_bgsave_status", redisOK, "rdb_last_bgsave_success", "Whether the last snapshot succeeded").absent(redisOnSentinel),
	redisGauge("rdb_last_bgsave_time_sec", redisKnown, "rdb_last_bgsave_duration_seconds", "Time the last snapshot took").absent("before the first snapshot"),
	redisGauge("aof_enabled", redisNumber, "aof_enabled", "Whether the append-only file is on").absent(redisOnSentinel),
	redisGauge("aof_rewrite_in_progress", redisNumber, "aof_rewrite_in_progress", "Whether the append-only file is being rewritten").absent(redisOnSentinel),
	redisGauge("aof_last_bgrewrite_status", redisOK, "aof_last_rewrite_success", "Whether the last rewrite of the append-only file succeeded").absent(redisOnSentinel),
	redisGauge("aof_last_write_status", redisOK, "aof_last_write_success", "Whether the last write to the append-only file succeeded").absent(redisOnSentinel),
	redisGauge("aof_last_rewrite_time_sec", redisKnown, "aof_last_rewrite_duration_seconds", "Time the last rewrite of the append-only file took").absent("before the first rewrite"),
	redisGauge("aof_current_size", redisNumber, "aof_current_size_bytes", "Size of the append-only file").absent("while the append-only file is off"),
	redisGauge("aof_base_size", redisNumber, "aof_base_size_bytes", "Size of the append-only file at the start or after the last rewrite").absent("while the append-only file is off"),
	redisCounter("aof_delayed_fsync", redisNumber, "aof_delayed_fsync_total", "Number of times writing waited for a slow fsync").absent("while the append-only file is off"),

	redisCounter("total_connections_received", redisNumber, "connections_received_total", "Number of connections accepted"),
	redisCounter("total_commands_processed", redisNumber, "commands_processed_total", "Number of commands processed"),
	redisCounter("total_net_input_bytes", redisNumber, "net_input_bytes_total", "Bytes read from the network"),
	redisCounter("total_net_output_bytes", redisNumber, "net_output_bytes_total", "Bytes written to the network"),
	redisCounter("rejected_connections", redisNumber, "rejected_connections_total", "Number of connections refused because of maxclients"),
	redisCounter("expired_keys", redisNumber, "expired_keys_total", "Number of keys whose time to live ran out"),
	redisCounter("evicted_keys", redisNumber, "evicted_keys_total", "Number of keys evicted because of maxmemory"),
	redisCounter("evicted_clients", redisNumber, "evicted_clients_total", "Number of clients disconnected because of maxmemory-clients").absent("before Redis 7.0"),
	redisCounter("keyspace_hits", redisNumber, "keyspace_hits_total", "Number of lookups that found their key"),
	redisCounter("keyspace_misses", redisNumber, "keyspace_misses_total", "Number of lookups that did not find their key"),
	redisCounter("total_error_replies", redisNumber, "error_replies_total", "Number of error replies").absent("before Redis 6.2"),
	redisCounter("acl_access_denied_auth", redisNumber, "auth_failures_total", "Number of failed authentications").absent("before Redis 7.2"),
	redisGauge("latest_fork_usec", redisMicroseconds, "latest_fork_seconds", "Time the last fork took, during which the server stood still"),
	redisCounter("sync_full", redisNumber, "replica_full_syncs_total", "Number of full resynchronizations with replicas"),
	redisCounter("sync_partial_err", redisNumber, "replica_partial_sync_failures_total", "Number of partial resynchronizations that were refused"),
	redisGauge("pubsub_channels", redisNumber, "pubsub_channels", "Number of channels with subscribers"),

	redisGauge("connected_slaves", redisNumber, "connected_replicas", "Number of connected replicas").absent(redisOnSentinel),
	redisGauge("master_repl_offset", redisNumber, "replication_offset_bytes", "Replication offset of the server").absent(redisOnSentinel),
	redisGauge("master_link_status", redisUp, "master_link_up", "Whether the replica is connected to its master").absent("except on a replica"),
	redisGauge("master_last_io_seconds_ago", redisKnown, "master_last_io_seconds", "Time since the replica last heard of its master").absent("except on a replica whose link is up"),
	redisGauge("master_link_down_since_seconds", redisKnown, "master_link_down_seconds", "Time since the replica lost its master").absent("except on a replica whose link is down"),
	redisGauge("master_sync_in_progress", redisNumber, "master_sync_in_progress", "Whether the replica is receiving a full copy").absent("except on a replica"),
	redisGauge("slave_repl_offset", redisNumber, "replica_offset_bytes", "Replication offset that the replica has reached").absent("except on a replica"),

	{name: "used_cpu_sys", desc: redisCPU, read: redisNumber, labels: []string{"system"}},
	{name: "used_cpu_user", desc: redisCPU, read: redisNumber, labels: []string{"user"}},
	{name: "used_cpu_sys_children", desc: redisCPU, read: redisNumber, labels: []string{"system_children"}},
	{name: "used_cpu_user_children", desc: redisCPU, read: redisNumber, labels: []string{"user_children"}},

	redisGauge("cluster_enabled", redisNumber, "cluster_enabled", "Whether the server is part of a Redis cluster").absent(redisOnSentinel),

	redisGauge("sentinel_masters", redisNumber, "sentinel_masters", "Number of masters the sentinel watches").absent("except on a sentinel"),
	redisGauge("sentinel_tilt", redisNumber, "sentinel_tilt", "Whether the sentinel mistrusts its clock and does not act").absent("except on a sentinel"),
}

// redisClusterFields is what is taken from CLUSTER INFO.
var redisClusterFields = []redisField{
	{name: "cluster_state", read: redisClusterOK, desc: gauge("redis", "redis_cluster_ok",
		"Whether the node considers the cluster able to serve", "CLUSTER INFO cluster_state").absent("without cluster mode")},
	{name: "cluster_known_nodes", read: redisNumber, desc: gauge("redis", "redis_cluster_known_nodes",
		"Number of nodes the node knows", "CLUSTER INFO cluster_known_nodes").absent("without cluster mode")},
	{name: "cluster_size", read: redisNumber, desc: gauge("redis", "redis_cluster_size",
		"Number of masters that serve at least one slot", "CLUSTER INFO cluster_size").absent("without cluster mode")},
	{name: "cluster_slots_assigned", desc: redisClusterSlots, read: redisNumber, labels: []string{"assigned"}},
	{name: "cluster_slots_ok", desc: redisClusterSlots, read: redisNumber, labels: []string{"ok"}},
	{name: "cluster_slots_pfail", desc: redisClusterSlots, read: redisNumber, labels: []string{"pfail"}},
	{name: "cluster_slots_fail", desc: redisClusterSlots, read: redisNumber, labels: []string{"fail"}},
}

// redisNumber reads a number. Redis divides by zero in some ratios: NaN and
// infinity say nothing.
func redisNumber(s string) (float64, bool, error) {
	v, err := strconv.ParseFloat(strings.TrimPrefix(s, "-"), 64)
	if err != nil {
		return 0, false, errors.New("not a number")
	}
	if strings.HasPrefix(s, "-") {
		v = -v
	}
	return v, !math.IsNaN(v) && !math.IsInf(v, 0), nil
}

// redisPositive is redisNumber where 0 means none.
func redisPositive(s string) (float64, bool, error) {
	v, ok, err := redisNumber(s)
	return v, ok && v > 0, err
}

// redisKnown is redisNumber where -1 means never.
func redisKnown(s string) (float64, bool, error) {
	v, ok, err := redisNumber(s)
	return v, ok && v >= 0, err
}

func redisMicroseconds(s string) (float64, bool, error) {
	v, ok, err := redisNumber(s)
	return v / 1e6, ok, err
}

func redisPercent(s string) (float64, bool, error) {
	v, ok, err := redisNumber(s)
	return v / 100, ok, err
}

func redisOK(s string) (float64, bool, error)        { return redisEither(s, "ok", "err") }
func redisUp(s string) (float64, bool, error)        { return redisEither(s, "up", "down") }
func redisClusterOK(s string) (float64, bool, error) { return redisEither(s, "ok", "fail") }

func redisEither(s, yes, no string) (float64, bool, error) {
	if s != yes && s != no {
		return 0, false, fmt.Errorf("neither %s nor %s", yes, no)
	}
	return boolValue(s == yes), true, nil
}

// redis asks PING, INFO and SLOWLOG LEN in one round trip over a connection
// that is kept between scrapes.
//
// The pool of go-redis is made for throughput: it dials in the background,
// without our deadline, and answers with the error of an earlier dial for up
// to a second after the server has come back. Hence the collector dials itself
// and gives each connection a client of its own.
type redis struct {
	cfg     config.Redis
	dial    func(ctx context.Context, network, address string) (net.Conn, error)
	now     func() time.Time
	network string

	mu   sync.Mutex // Close may come while a run is in flight
	link *redisLink
	// clustered is whether CLUSTER INFO is worth asking for.
	clustered bool
}

func newRedis(cfg *config.Config, deps Deps) (Collector, error) {
	r := &redis{cfg: cfg.Redis, dial: deps.DialContext, now: deps.Now, network: "tcp"}
	if strings.HasPrefix(r.cfg.Address, "/") {
		r.network = "unix"
	}
	if t := r.cfg.TLSConfig; t != nil {
		if r.network == "unix" {
			return nil, errors.New("redis.tls_config does not go with a unix socket")
		}
		r.dial = func(ctx context.Context, network, address string) (net.Conn, error) {
			return dialTLS(ctx, deps.DialContext, network, address, *t)
		}
	}
	return r, nil
}

// Close closes the connection; the next run connects anew.
func (r *redis) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.drop()
	return nil
}

func (r *redis) drop() {
	if r.link != nil {
		r.link.close()
		r.link = nil
	}
}

// Update implements [Collector]. Redis is up when it answers PONG. While it
// loads its data or has lost its master it answers INFO all the same, which is
// then exported too.
func (r *redis) Update(ctx context.Context, ch chan<- prometheus.Metric) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	a, err := r.ask(ctx)
	if errors.Is(err, fs.ErrPermission) { // the system has kept us from the socket, not Redis
		status{}.send(ch, "redis")
	}
	if err != nil {
		return err
	}
	pingErr := a.health(ctx)
	info := parseRedisInfo(a.info.Val())
	s := status{version: cmp.Or(info["valkey_version"], info["redis_version"]), tlsNotAfter: a.tlsNotAfter}
	if pingErr == nil {
		s.up, s.response = true, a.elapsed
	} else {
		s.up = classify(pingErr).MeansUp()
	}
	s.send(ch, "redis")
	statErr := r.statistics(ctx, ch, a, info)
	if pingErr != nil { // whatever it was, it may be over: begin anew next time
		r.drop()
		return pingErr
	}
	return statErr
}

// ask asks over the kept connection and, where that turns out to be dead, once
// more over a new one: a restart of the server between two scrapes is no
// fault. A kept connection gets half of the time, because a peer that has
// vanished without a word looks like one that is slow.
func (r *redis) ask(ctx context.Context) (*redisAnswer, error) {
	if r.link != nil && r.now().Sub(r.link.since) < redisMaxAge {
		half, cancel := halfOf(ctx)
		a, err := r.link.ask(half, r.clustered)
		cancel()
		if err == nil {
			return a, nil
		}
		if ctx.Err() != nil {
			r.drop()
			return a.orFailure(ctx, err)
		}
	}
	r.drop()
	link, err := r.connect(ctx)
	if err != nil {
		return nil, redisFailure(ctx, "connecting", err)
	}
	a, err := link.ask(ctx, r.clustered)
	if err != nil {
		link.close()
		return a.orFailure(ctx, link.greeting.explains(err))
	}
	r.link = link
	return a, nil
}

// halfOf returns a context that ends when half of ctx's time is over.
func halfOf(ctx context.Context) (context.Context, context.CancelFunc) {
	deadline, ok := ctx.Deadline()
	if !ok {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, time.Until(deadline)/2)
}

// redisLink is one connection to the server.
type redisLink struct {
	conn        *redisConn
	client      *goredis.Client
	since       time.Time
	tlsNotAfter time.Time
	greeting    *redisGreeting
	started     time.Time // when the connection was last ready for a question
}

// connect reads the password and dials.
func (r *redis) connect(ctx context.Context) (*redisLink, error) {
	password, err := r.cfg.PasswordFile.Read()
	if err != nil {
		return nil, fail(ReasonConfig, err)
	}
	raw, err := r.dial(ctx, r.network, r.cfg.Address)
	if err != nil {
		return nil, err
	}
	l := &redisLink{conn: &redisConn{Conn: raw}, since: r.now(), greeting: &redisGreeting{}}
	if t, ok := raw.(*tls.Conn); ok {
		state := t.ConnectionState()
		l.tlsNotAfter = notAfter(&state)
	}
	conns := make(chan net.Conn, 1)
	conns <- l.conn
	l.client = goredis.NewClient(&goredis.Options{
		Network: r.network, Addr: r.cfg.Address, Username: r.cfg.Username, Password: password.Reveal(),
		Dialer: func(context.Context, string, string) (net.Conn, error) {
			select {
			case c := <-conns:
				return c, nil
			default:
				return nil, net.ErrClosed
			}
		},
		OnConnect: func(context.Context, *goredis.Conn) error {
			l.started = time.Now()
			return nil
		},
		Protocol: 2, DisableIdentity: true,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
		PoolSize:                 1, PipelinePoolSize: -1, MaxRetries: -1, DialerRetries: 1, ConnMaxIdleTime: -1,
		ReadBufferSize: 8 << 10, WriteBufferSize: 1 << 10,
		ContextTimeoutEnabled: true, ReadTimeout: -1, WriteTimeout: -1, // the context's deadline alone counts
	})
	l.client.AddHook(l.greeting)
	return l, nil
}

// close closes the client and, in case it never took it, the connection.
func (l *redisLink) close() {
	l.client.Close()
	l.conn.Close()
}

// redisAnswer is the answer to the one round trip of a scrape.
type redisAnswer struct {
	// elapsed is the time of the round trip that carries PING. INFO and
	// SLOWLOG LEN ride along; the server needs well under 1 ms for them.
	elapsed     time.Duration
	tlsNotAfter time.Time
	ping        *goredis.StatusCmd
	info        *goredis.StringCmd
	slowlog     *goredis.Cmd
	cluster     *goredis.StringCmd // nil if not asked
}

// ask makes the round trip. Error replies of the server are in the answer; the
// error is that of a connection which is of no use any more.
func (l *redisLink) ask(ctx context.Context, clustered bool) (*redisAnswer, error) {
	l.conn.allow(maxAPIBody)
	// go-redis knows deadlines, but not that nobody waits any more.
	stop := context.AfterFunc(ctx, func() { l.conn.Close() })
	defer stop()
	a := &redisAnswer{tlsNotAfter: l.tlsNotAfter}
	l.started = time.Now()
	cmds, err := l.client.Pipelined(ctx, func(p goredis.Pipeliner) error {
		a.ping = p.Ping(ctx)
		a.info = p.Info(ctx)
		a.slowlog = p.Do(ctx, "slowlog", "len")
		if clustered {
			a.cluster = p.ClusterInfo(ctx)
		}
		return nil
	})
	a.elapsed = time.Since(l.started)
	if l.conn.broken != nil {
		return a, l.conn.broken
	}
	if !isRedisReply(err) {
		return a, err
	}
	refused := a.ping.Err() == nil && a.ping.Val() == "" // while logging in, before the first question
	for _, c := range cmds {
		switch {
		case refused:
			c.SetErr(err)
		case c.Err() != nil && !isRedisReply(c.Err()):
			return a, c.Err()
		}
	}
	return a, nil
}

// orFailure returns the answer if PING was answered before the connection
// failed, else the failure.
func (a *redisAnswer) orFailure(ctx context.Context, err error) (*redisAnswer, error) {
	if a.ping.Val() == "PONG" {
		return a, nil
	}
	return nil, redisFailure(ctx, "PING", err)
}

// health returns nil for PONG.
func (a *redisAnswer) health(ctx context.Context) error {
	switch pong := a.ping.Val(); {
	case pong == "PONG":
		return nil
	case a.ping.Err() != nil:
		return redisFailure(ctx, "PING", a.ping.Err())
	default:
		return failf(ReasonUnhealthy, "PING answered %.64q", pong)
	}
}

// statistics exports what INFO and the other calls tell and returns the first failure.
func (r *redis) statistics(ctx context.Context, ch chan<- prometheus.Metric, a *redisAnswer, info redisInfo) error {
	var errs []error
	if err := a.info.Err(); err != nil {
		errs = append(errs, redisFailure(ctx, "INFO", err))
	} else if info["uptime_in_seconds"] == "" {
		errs = append(errs, failf(ReasonParse, "INFO: the answer has no uptime_in_seconds"))
	} else {
		errs = append(errs, info.send(ch))
	}
	switch n, err := a.slowlog.Int64(); {
	case err == nil:
		ch <- redisSlowlogLength.metric(float64(n))
	case !isRedisUnknown(a.slowlog.Err()):
		errs = append(errs, redisFailure(ctx, "SLOWLOG LEN", err))
	}
	errs = append(errs, r.cluster(ctx, ch, a, info["cluster_enabled"] == "1"))
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// cluster exports CLUSTER INFO of a server in cluster mode. What the mode is
// shows in INFO, so the first scrape needs one more round trip.
func (r *redis) cluster(ctx context.Context, ch chan<- prometheus.Metric, a *redisAnswer, enabled bool) error {
	if a.info.Err() == nil {
		r.clustered = enabled
	}
	if !r.clustered {
		return nil
	}
	c := a.cluster
	if c == nil && r.link != nil {
		stop := context.AfterFunc(ctx, func() { r.link.conn.Close() })
		c = r.link.client.ClusterInfo(ctx)
		stop()
		if c.Err() != nil && !isRedisReply(c.Err()) {
			r.drop()
		}
	}
	if c == nil {
		return nil
	}
	if err := c.Err(); err != nil {
		return redisFailure(ctx, "CLUSTER INFO", err)
	}
	return parseRedisInfo(c.Val()).sendFields(ch, "CLUSTER INFO", redisClusterFields)
}

// redisInfo holds the fields of INFO, and "# Keyspace" and the like for the
// sections that are there.
type redisInfo map[string]string

func parseRedisInfo(text string) redisInfo {
	info := make(redisInfo, 256)
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\r\n")
		if strings.HasPrefix(line, "#") {
			info[line] = line
		} else if k, v, ok := strings.Cut(line, ":"); ok {
			info[k] = v
		}
	}
	return info
}

// send exports INFO.
func (i redisInfo) send(ch chan<- prometheus.Metric) error {
	server := cmp.Or(i["server_name"], "redis")
	ch <- redisInfoDesc.metric(1, server, cmp.Or(i["redis_mode"], i["server_mode"]), i["role"], i["maxmemory_policy"])
	errs := []error{i.sendFields(ch, "INFO", redisFields), i.sendReplicas(ch), i.sendMasters(ch)}
	if _, ok := i["# Keyspace"]; ok && i["loading"] != "1" { // while loading the keys are yet to come
		errs = append(errs, i.sendKeyspace(ch))
	}
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// sendFields exports the fields that are there. One that cannot be read does
// not keep the others from being exported.
func (i redisInfo) sendFields(ch chan<- prometheus.Metric, what string, fields []redisField) error {
	var first error
	for _, f := range fields {
		raw, ok := i[f.name]
		if !ok {
			continue
		}
		v, ok, err := f.read(raw)
		if err != nil && first == nil {
			first = failf(ReasonParse, "%s: %s is %.64q: %w", what, f.name, raw, err)
		}
		if err == nil && ok {
			ch <- f.desc.metric(v, slices.Clone(f.labels)...)
		}
	}
	return first
}

// numbered returns the fields prefix0, prefix1 … in the order of their numbers.
func (i redisInfo) numbered(prefix string) []redisPairs {
	var all []redisPairs
	for k, v := range i {
		digits, ok := strings.CutPrefix(k, prefix)
		if n, err := strconv.ParseUint(digits, 10, 32); ok && err == nil {
			p := redisPairs{name: k, number: n, values: map[string]string{}}
			for pair := range strings.SplitSeq(v, ",") {
				if pk, pv, ok := strings.Cut(pair, "="); ok {
					p.values[pk] = pv
				}
			}
			all = append(all, p)
		}
	}
	slices.SortFunc(all, func(a, b redisPairs) int { return cmp.Compare(a.number, b.number) })
	return all
}

// redisPairs is a field such as db0:keys=2,expires=1.
type redisPairs struct {
	name   string
	number uint64
	values map[string]string
	err    error // the first value that could not be read
}

func (p *redisPairs) number64(key string) float64 {
	v, _, err := redisNumber(p.values[key])
	if err != nil && p.err == nil {
		p.err = failf(ReasonParse, "INFO: %s has %s=%.64q: %w", p.name, key, p.values[key], err)
	}
	return v
}

func (i redisInfo) sendKeyspace(ch chan<- prometheus.Metric) error {
	dbs := i.numbered("db")
	if len(dbs) == 0 || dbs[0].number != 0 { // an empty database has no line
		dbs = slices.Insert(dbs, 0, redisPairs{name: "db0", values: map[string]string{"keys": "0", "expires": "0"}})
	}
	var first error
	var keys, expires float64
	for n, db := range dbs {
		k, e := db.number64("keys"), db.number64("expires")
		switch {
		case db.err != nil:
			first = cmp.Or(first, db.err)
		case n < redisMaxDatabases:
			ch <- redisKeys.metric(k, db.name)
			ch <- redisExpiringKeys.metric(e, db.name)
		default:
			keys, expires = keys+k, expires+e
		}
	}
	if len(dbs) > redisMaxDatabases {
		ch <- redisKeys.metric(keys, "other")
		ch <- redisExpiringKeys.metric(expires, "other")
	}
	return first
}

func (i redisInfo) sendReplicas(ch chan<- prometheus.Metric) error {
	if _, ok := i["connected_slaves"]; !ok {
		return nil
	}
	var first error
	var online int
	lag := -1.0
	for _, s := range i.numbered("slave") {
		if s.values["state"] != "online" {
			continue
		}
		online++
		if v := s.number64("lag"); s.err == nil {
			lag = max(lag, v)
		}
		first = cmp.Or(first, s.err)
	}
	ch <- redisReplicasOnline.metric(float64(online))
	if lag >= 0 {
		ch <- redisReplicaLag.metric(lag)
	}
	return first
}

func (i redisInfo) sendMasters(ch chan<- prometheus.Metric) error {
	if _, ok := i["sentinel_masters"]; !ok {
		return nil
	}
	var first error
	masters := i.numbered("master")
	for _, m := range masters[:min(len(masters), redisMaxMasters)] {
		name := m.values["name"]
		replicas, sentinels := m.number64("slaves"), m.number64("sentinels")
		if m.err != nil {
			first = cmp.Or(first, m.err)
			continue
		}
		ch <- redisSentinelMasterOK.boolean(m.values["status"] == "ok", name)
		ch <- redisSentinelMasterReplicas.metric(replicas, name)
		ch <- redisSentinelMasterSentinels.metric(sentinels, name)
	}
	return first
}

// redisReplies says which reason an error reply of the server is. What is not
// in it is a server that answers, but not what it should.
var redisReplies = []struct {
	prefix string
	reason Reason
}{
	{"NOAUTH ", ReasonAuth},
	{"WRONGPASS ", ReasonAuth},
	{"ERR invalid password", ReasonAuth},       // before Redis 6
	{"ERR Client sent AUTH", ReasonAuth},       // before Redis 6: a password, and none is set
	{"ERR AUTH <password> called", ReasonAuth}, // the same since
	{"NOPERM ", ReasonPermission},
	{"DENIED ", ReasonPermission}, // protected mode: only the server's own machine may connect
	{"ERR max number of clients", ReasonTooManyConnections},
	{"LOADING ", ReasonNotReady},
	{"MASTERDOWN ", ReasonNotReady},
	{"ERR unknown command", ReasonNotFound},
}

func redisReason(reply string) (Reason, bool) {
	for _, r := range redisReplies {
		if strings.HasPrefix(reply, r.prefix) {
			return r.reason, true
		}
	}
	return ReasonUnhealthy, false
}

// isRedisReply reports whether an error is an error reply of the server: the
// connection is fine.
func isRedisReply(err error) bool {
	var reply goredis.Error
	return errors.As(err, &reply)
}

func isRedisUnknown(err error) bool {
	return isRedisReply(err) && strings.HasPrefix(err.Error(), "ERR unknown command")
}

// redisFailure gives an error its reason.
func redisFailure(ctx context.Context, what string, err error) error {
	var f *Failure
	var reply goredis.Error
	r := classify(err)
	switch {
	case errors.As(err, &f):
	case errors.As(err, &reply):
		r, _ = redisReason(reply.Error())
		if what == "PING" && r == ReasonNotFound { // no route is missing: it is no Redis we know
			r = ReasonUnhealthy
		}
		// Redis repeats the arguments of a command that it does not know, and
		// AUTH may be one.
		text, _, _ := strings.Cut(reply.Error(), ", with args")
		err = fmt.Errorf("the server answered %.200q", text)
	case ctx.Err() != nil:
		r = ReasonTimeout
	case r == ReasonOther: // go-redis' own words for what is not its protocol
		r = ReasonProtocol
	}
	return fail(r, fmt.Errorf("%s: %w", what, err))
}

// redisGreeting notes what the server answered to HELLO. A server that is full
// or in protected mode says so unasked and hangs up; go-redis takes it for the
// answer to HELLO and goes on, into the closed connection.
type redisGreeting struct{ err error }

// DialHook implements redis.Hook.
func (g *redisGreeting) DialHook(next goredis.DialHook) goredis.DialHook { return next }

// ProcessPipelineHook implements redis.Hook.
func (g *redisGreeting) ProcessPipelineHook(next goredis.ProcessPipelineHook) goredis.ProcessPipelineHook {
	return next
}

// ProcessHook implements redis.Hook.
func (g *redisGreeting) ProcessHook(next goredis.ProcessHook) goredis.ProcessHook {
	return func(ctx context.Context, cmd goredis.Cmder) error {
		err := next(ctx, cmd)
		if cmd.Name() == "hello" && isRedisReply(err) {
			g.err = err
		}
		return err
	}
}

// explains returns the greeting's error where it is why the connection failed.
func (g *redisGreeting) explains(err error) error {
	if g.err != nil && !isRedisReply(err) {
		if r, known := redisReason(g.err.Error()); known && r != ReasonNotFound {
			return g.err
		}
	}
	return err
}

// redisConn bounds what is read. go-redis takes the memory for a string before
// it has arrived, so the length that the peer announces must be looked at.
type redisConn struct {
	net.Conn
	left   int    // bytes that may still be read
	skip   int    // bytes of the string that is being read
	line   []byte // beginning of the line that is being read, as far as it matters
	broken error  // why no more is read; go-redis wraps and unwraps what Read returns
}

// allow sets how much may be read from now on.
func (c *redisConn) allow(n int) { c.left = n }

// Read implements net.Conn.
func (c *redisConn) Read(p []byte) (int, error) {
	if c.broken != nil {
		return 0, c.broken
	}
	n, err := c.Conn.Read(p)
	good := c.scan(p[:n])
	c.left -= n
	if good < n || c.left < 0 {
		c.broken = failf(ReasonTooLarge, "the answer is larger than %d bytes or has more than %d elements", maxAPIBody, redisMaxElements)
		return good, c.broken
	}
	return n, err
}

// scan follows the protocol through what was read and returns how much of it
// comes before a length that is not bearable.
func (c *redisConn) scan(p []byte) int {
	for i := 0; i < len(p); i++ {
		if c.skip > 0 {
			n := min(c.skip, len(p)-i)
			c.skip -= n
			i += n - 1
			continue
		}
		if p[i] != '\n' {
			if len(c.line) < redisMaxHeader {
				c.line = append(c.line, p[i])
			}
			continue
		}
		line := strings.TrimRight(string(c.line), "\r")
		c.line = c.line[:0]
		if line == "" || !strings.ContainsRune(redisStrings+redisLists, rune(line[0])) {
			continue
		}
		isString := strings.ContainsRune(redisStrings, rune(line[0]))
		limit := redisMaxElements
		if isString {
			limit = maxAPIBody
		}
		n, err := strconv.Atoi(line[1:])
		if errors.Is(err, strconv.ErrRange) || n > limit {
			return i
		}
		if err == nil && n >= 0 && isString {
			c.skip = n + len("\r\n")
		}
	}
	return len(p)
}

// The first bytes of what has a length, and how much of such a line matters.
const (
	redisStrings   = "$=!"
	redisLists     = "*%~>|"
	redisMaxHeader = 24
)

// redisSilence takes go-redis' own log: every error also comes back to us.
type redisSilence struct{}

func (redisSilence) Printf(context.Context, string, ...any) {}
