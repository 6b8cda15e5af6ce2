// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"bufio"
	"context"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/niodoo/niodoo_exporter/internal/localserver"
)

// redisServer starts a real redis-server that ends with the test.
func redisServer(t testing.TB, opts localserver.RedisOptions) *localserver.Redis {
	t.Helper()
	r, err := localserver.StartRedis(context.Background(), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Stop)
	return r
}

// redisSection is the redis section for an address; more is further keys, each
// after a comma.
func redisSection(address, more string) string {
	return fmt.Sprintf("{address: %q%s}", address, more)
}

// redisDo sends inline commands and returns the first line of each reply.
func redisDo(t testing.TB, r *localserver.Redis, commands ...string) []string {
	t.Helper()
	conn, err := net.Dial("unix", r.Socket)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	var replies []string
	in := bufio.NewReader(conn)
	for _, c := range commands {
		fmt.Fprintf(conn, "%s\r\n", c)
		line, err := in.ReadString('\n')
		if err != nil {
			t.Fatalf("%s: %v", c, err)
		}
		replies = append(replies, strings.TrimSpace(line))
	}
	return replies
}

// redisAwait waits until ok holds.
func redisAwait(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(15 * time.Second); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: waited in vain", what)
		}
	}
}

// redisFake answers each command by its name, "SLOWLOG LEN" by both words. It
// speaks RESP2 and, like Redis before version 6, does not know HELLO unless
// told. An answer of "" hangs up.
func redisFake(t testing.TB, answers map[string]string) string {
	t.Helper()
	return listen(t, func(c net.Conn) { redisServeFake(c, answers) })
}

func redisServeFake(c net.Conn, answers map[string]string) {
	in := bufio.NewReader(c)
	for {
		args, err := redisReadCommand(in)
		if err != nil {
			return
		}
		name := strings.ToUpper(args[0])
		if name == "SLOWLOG" || name == "CLUSTER" {
			name += " " + strings.ToUpper(args[1])
		}
		answer, ok := answers[name]
		if !ok {
			answer = "-ERR unknown command `" + args[0] + "`, with args beginning with: "
			for _, a := range args[1:] {
				answer += "`" + a + "`, "
			}
			answer += "\r\n"
		}
		if answer == "" {
			return
		}
		if _, err := io.WriteString(c, answer); err != nil {
			return
		}
	}
}

func redisReadCommand(in *bufio.Reader) ([]string, error) {
	line, err := in.ReadString('\n')
	if err != nil {
		return nil, err
	}
	n, err := strconv.Atoi(strings.TrimSpace(line[1:]))
	if err != nil {
		return nil, err
	}
	args := make([]string, n)
	for i := range args {
		if line, err = in.ReadString('\n'); err != nil {
			return nil, err
		}
		size, err := strconv.Atoi(strings.TrimSpace(line[1:]))
		if err != nil {
			return nil, err
		}
		buf := make([]byte, size+2)
		if _, err := io.ReadFull(in, buf); err != nil {
			return nil, err
		}
		args[i] = string(buf[:size])
	}
	return args, nil
}

func redisBulk(s string) string { return fmt.Sprintf("$%d\r\n%s\r\n", len(s), s) }

// redisRecorded is a recorded INFO text as the server sends it.
func redisRecorded(t testing.TB, name string) string {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("testdata", name+".info"))
	if err != nil {
		t.Fatal(err)
	}
	return redisBulk(strings.ReplaceAll(string(raw), "\n", "\r\n"))
}

// redisAnswers are those of a healthy server.
func redisAnswers(t testing.TB) map[string]string {
	return map[string]string{"PING": "+PONG\r\n", "INFO": redisRecorded(t, "redis_6.2"), "SLOWLOG LEN": ":3\r\n"}
}

func TestRedis(t *testing.T) {
	t.Parallel()
	r := redisServer(t, localserver.RedisOptions{Config: []string{
		"maxmemory 100mb", "maxmemory-policy allkeys-lru", "appendonly yes", "maxclients 500", "slowlog-log-slower-than -1",
	}})
	redisDo(t, r, "SET a 1", "SET b 2 EX 1000", "GET a", "GET missing", "WRONG", "SELECT 3", "SET c 1")
	golden(t, "redis", scrape(t, scraper(t, only(t, "redis", redisSection(r.Addr, "")))).Families,
		"niodoo_redis_uptime_seconds", "niodoo_redis_cpu_seconds_total", "niodoo_redis_memory_used_bytes", "niodoo_redis_memory_rss_bytes",
		"niodoo_redis_memory_peak_bytes", "niodoo_redis_memory_dataset_bytes", "niodoo_redis_memory_fragmentation_ratio",
		"niodoo_redis_system_memory_bytes", "niodoo_redis_rdb_last_save_timestamp_seconds", "niodoo_redis_net_input_bytes_total",
		"niodoo_redis_net_output_bytes_total", "niodoo_redis_connections_received_total", "niodoo_redis_commands_processed_total",
		"niodoo_redis_latest_fork_seconds", "niodoo_redis_aof_current_size_bytes", "niodoo_redis_aof_base_size_bytes",
		"niodoo_redis_connected_clients")
}

func TestRedisRecorded(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"redis_6.0", "redis_6.2", "redis_7.4", "redis_8.0", "valkey_8.0"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			addr := redisFake(t, map[string]string{
				"HELLO": "*4\r\n$6\r\nserver\r\n$5\r\nredis\r\n$5\r\nproto\r\n:2\r\n",
				"PING":  "+PONG\r\n", "INFO": redisRecorded(t, name), "SLOWLOG LEN": ":3\r\n",
				"CLUSTER INFO": redisBulk("cluster_state:ok\r\ncluster_slots_assigned:16384\r\ncluster_slots_ok:16384\r\n" +
					"cluster_slots_pfail:0\r\ncluster_slots_fail:0\r\ncluster_known_nodes:6\r\ncluster_size:3\r\ncluster_current_epoch:6\r\n"),
			})
			s := scraper(t, only(t, "redis", redisSection(addr, "")))
			golden(t, name, scrape(t, s).Families)
			golden(t, name, scrape(t, s).Families) // the same when CLUSTER INFO rides along
		})
	}
}

// The INFO text of a server that is not in order must not hide the rest of it.
func TestRedisDirt(t *testing.T) {
	t.Parallel()
	base := "# Server\r\nredis_version:7.0.15\r\nuptime_in_seconds:5\r\n"
	for _, c := range []struct {
		name, info string
		reason     Reason // "" for success
		series     string // must be there, with want
		want       float64
		absent     string
	}{
		{"NaN", base + "mem_fragmentation_ratio:-nan\r\nloading:0\r\n", "", "niodoo_redis_loading", 0, "niodoo_redis_memory_fragmentation_ratio"},
		{"not a number", base + "used_memory:lots\r\nused_memory_rss:7\r\n", ReasonParse, "niodoo_redis_memory_rss_bytes", 7, "niodoo_redis_memory_used_bytes"},
		{"empty value", base + "used_memory:\r\nused_memory_rss:7\r\n", ReasonParse, "niodoo_redis_memory_rss_bytes", 7, "niodoo_redis_memory_used_bytes"},
		{"unknown word", base + "aof_last_write_status:maybe\r\nloading:0\r\n", ReasonParse, "niodoo_redis_loading", 0, "niodoo_redis_aof_last_write_success"},
		{"no keys", base + "# Keyspace\r\n", "", `niodoo_redis_keys{db="db0"}`, 0, ""},
		{"no keyspace section", base, "", "niodoo_redis_uptime_seconds", 5, `niodoo_redis_keys{db="db0"}`},
		{"broken keyspace", base + "# Keyspace\r\ndb0:keys=\r\ndb1:keys=3,expires=1\r\ndbx:keys=9,expires=9\r\ndb2\r\n", ReasonParse,
			`niodoo_redis_keys{db="db1"}`, 3, `niodoo_redis_keys{db="dbx"}`},
		{"bare line feeds", "redis_version:7\nuptime_in_seconds:5", "", "niodoo_redis_uptime_seconds", 5, ""},
		{"bytes that are no text", base + "role:mas\xffter\r\nloading:0\r\n", "", "niodoo_redis_loading", 0, ""},
		{"another program", "hello\r\nworld: yes\r\n", ReasonParse, `niodoo_component_up{component="redis"}`, 1, "niodoo_redis_uptime_seconds"},
		{"empty", "", ReasonParse, `niodoo_component_up{component="redis"}`, 1, "niodoo_redis_uptime_seconds"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			addr := redisFake(t, map[string]string{"PING": "+PONG\r\n", "INFO": redisBulk(c.info), "SLOWLOG LEN": ":0\r\n"})
			s := scraper(t, only(t, "redis", redisSection(addr, "")))
			var res Result
			if c.reason == "" {
				res = scrape(t, s)
				lint(t, res.Families)
				if len(res.Failures) > 0 {
					t.Errorf("failures: %v", res.Failures)
				}
			} else {
				res = expectFailureOf(t, s, "redis", true, c.reason, 2*time.Second)
			}
			if v := value(t, res.Families, c.series); v != c.want {
				t.Errorf("%s is %v, want %v", c.series, v, c.want)
			}
			if _, ok := lookup(res.Families, c.absent); ok {
				t.Errorf("%s is there", c.absent)
			}
		})
	}
}

func TestRedisFailures(t *testing.T) {
	t.Parallel()
	with := func(t testing.TB, name, answer string) string {
		a := redisAnswers(t)
		a[name] = answer
		return redisFake(t, a)
	}
	for _, c := range []struct {
		name    string
		address func(t testing.TB) string
		up      bool
		reason  Reason
	}{
		{"refused", closedPort, false, ReasonRefused},
		{"no socket", func(t testing.TB) string { return filepath.Join(t.TempDir(), "redis.sock") }, false, ReasonRefused},
		{"hanging", hang, false, ReasonTimeout},
		{"dns", func(testing.TB) string { return "no-such-host.invalid:6379" }, false, ReasonDNS},
		{"HTTP", func(t testing.TB) string { return strings.TrimPrefix(serve(t, 200, "text/plain", "ok").URL, "http://") }, false, ReasonProtocol},
		{"closed at once", func(t testing.TB) string { return listen(t, func(net.Conn) {}) }, false, ReasonProtocol},
		{"closed in mid-answer", func(t testing.TB) string {
			return listen(t, func(c net.Conn) {
				_, _ = c.Read(make([]byte, 1024))
				_, _ = io.WriteString(c, "-ERR unkn")
			})
		}, false, ReasonProtocol},
		{"loading", func(t testing.TB) string {
			return with(t, "PING", "-LOADING Redis is loading the dataset in memory\r\n")
		}, false, ReasonNotReady},
		{"busy", func(t testing.TB) string {
			return with(t, "PING", "-BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.\r\n")
		}, false, ReasonUnhealthy},
		{"protected mode", func(t testing.TB) string {
			return listen(t, func(c net.Conn) {
				_, _ = io.WriteString(c, "-DENIED Redis is running in protected mode because protected mode is enabled\r\n")
				_, _ = c.Read(make([]byte, 1024))
			})
		}, true, ReasonPermission},
		{"not PONG", func(t testing.TB) string { return with(t, "PING", "+PANG\r\n") }, false, ReasonUnhealthy},
		{"null", func(t testing.TB) string { return with(t, "PING", "$-1\r\n") }, false, ReasonUnhealthy},
		{"PING unknown", func(t testing.TB) string { return redisFake(t, nil) }, false, ReasonUnhealthy},
		{"long text announced", func(t testing.TB) string { return with(t, "PING", "$99999999999999\r\n") }, false, ReasonTooLarge},
		{"impossible length", func(t testing.TB) string { return with(t, "PING", "$99999999999999999999999\r\n") }, false, ReasonTooLarge},
		{"long list announced", func(t testing.TB) string { return with(t, "HELLO", "*1000000\r\n") }, false, ReasonTooLarge},
		{"endless", func(t testing.TB) string { return with(t, "PING", "+"+strings.Repeat("x", maxAPIBody)) }, false, ReasonTooLarge},
		{"INFO too large", func(t testing.TB) string { return with(t, "INFO", fmt.Sprintf("$%d\r\n", maxAPIBody+1)) }, true, ReasonTooLarge},
		{"INFO renamed", func(t testing.TB) string {
			return redisFake(t, map[string]string{"PING": "+PONG\r\n", "SLOWLOG LEN": ":0\r\n"})
		}, true, ReasonNotFound},
		{"INFO cut off", func(t testing.TB) string { return with(t, "INFO", "") }, true, ReasonProtocol},
		{"INFO hangs", func(t testing.TB) string { return with(t, "INFO", "$5000\r\n# Ser") }, true, ReasonTimeout},
		{"SLOWLOG forbidden", func(t testing.TB) string {
			return with(t, "SLOWLOG LEN", "-NOPERM this user has no permissions to run the 'slowlog|len' command\r\n")
		}, true, ReasonPermission},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := scraper(t, only(t, "redis", redisSection(c.address(t), ", timeout: 500ms")))
			expectFailureOf(t, s, "redis", c.up, c.reason, 2*time.Second)
			expectFailureOf(t, s, "redis", c.up, c.reason, 2*time.Second) // no answer of the pool's own the second time
		})
	}
}

// A server without SLOWLOG, such as an old sentinel, has nothing wrong with it.
func TestRedisWithoutSlowlog(t *testing.T) {
	t.Parallel()
	a := redisAnswers(t)
	delete(a, "SLOWLOG LEN")
	res := scrape(t, scraper(t, only(t, "redis", redisSection(redisFake(t, a), ""))))
	if len(res.Failures) > 0 {
		t.Error(res.Failures)
	}
	if _, ok := lookup(res.Families, "niodoo_redis_slowlog_length"); ok {
		t.Error("a slow log is exported")
	}
}

func TestRedisHung(t *testing.T) {
	t.Parallel()
	r := redisServer(t, localserver.RedisOptions{})
	s := scraper(t, only(t, "redis", redisSection(r.Addr, ", timeout: 400ms")))
	if res := scrape(t, s); len(res.Failures) > 0 {
		t.Fatal(res.Failures)
	}
	if err := r.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	expectFailureOf(t, s, "redis", false, ReasonTimeout, 2*time.Second)
	if err := r.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if res := scrape(t, s); len(res.Failures) > 0 {
		t.Errorf("after it went on: %v", res.Failures)
	}
}

func TestRedisAuthentication(t *testing.T) {
	t.Parallel()
	r := redisServer(t, localserver.RedisOptions{Password: `s3 cr#t`, ACL: []string{
		"user niodoo_monitor on >monitor -@all +ping +info +slowlog|len +cluster|info",
		"user poor on >poor -@all +ping +info",
		"user poorer on >poorer -@all +ping",
		"user poorest on >poorest -@all +get",
	}})
	file := func(secret string) string {
		path := filepath.Join(t.TempDir(), "password")
		if err := os.WriteFile(path, []byte(secret+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for _, c := range []struct {
		name, more string
		reason     Reason // "" for success
		info       bool
	}{
		{"password", fmt.Sprintf(", password_file: %q", file("s3 cr#t")), "", true},
		{"monitor role", fmt.Sprintf(", username: niodoo_monitor, password_file: %q", file("monitor")), "", true},
		{"no password", "", ReasonAuth, false},
		{"wrong password", fmt.Sprintf(", password_file: %q", file("wrong")), ReasonAuth, false},
		{"unknown user", fmt.Sprintf(", username: nobody, password_file: %q", file("wrong")), ReasonAuth, false},
		{"no SLOWLOG", fmt.Sprintf(", username: poor, password_file: %q", file("poor")), ReasonPermission, true},
		{"no INFO", fmt.Sprintf(", username: poorer, password_file: %q", file("poorer")), ReasonPermission, false},
		{"no PING", fmt.Sprintf(", username: poorest, password_file: %q", file("poorest")), ReasonPermission, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := scraper(t, only(t, "redis", redisSection(r.Addr, c.more)))
			var res Result
			if c.reason == "" {
				if res = scrape(t, s); len(res.Failures) > 0 {
					t.Error(res.Failures)
				}
			} else {
				res = expectFailureOf(t, s, "redis", true, c.reason, 2*time.Second)
			}
			if _, ok := lookup(res.Families, "niodoo_redis_uptime_seconds"); ok != c.info {
				t.Errorf("INFO is exported: %v, want %v", ok, c.info)
			}
		})
	}
	t.Run("password file missing", func(t *testing.T) {
		expectFailure(t, only(t, "redis", redisSection(r.Addr, `, password_file: "/no/such/file"`)), "redis", false, ReasonConfig)
	})
	t.Run("password changed", func(t *testing.T) {
		path := file("s3 cr#t")
		now := atomic.Int64{}
		started := time.Now()
		deps := Deps{Now: func() time.Time { return started.Add(time.Duration(now.Load())) }}
		s := scraperWith(t, only(t, "redis", redisSection(r.Addr, fmt.Sprintf(", password_file: %q", path))), deps, Options{})
		if res := scrape(t, s); len(res.Failures) > 0 {
			t.Fatal(res.Failures)
		}
		if got := redisDo(t, r, `AUTH "s3 cr#t"`, "CONFIG SET requirepass new"); got[1] != "+OK" {
			t.Fatal(got)
		}
		now.Store(int64(redisMaxAge)) // nobody hung up: the connection's age tells
		expectFailureOf(t, s, "redis", true, ReasonAuth, 2*time.Second)
		if err := os.WriteFile(path, []byte("new"), 0o600); err != nil {
			t.Fatal(err)
		}
		if res := scrape(t, s); len(res.Failures) > 0 {
			t.Errorf("with the new password in the file: %v", res.Failures)
		}
	})
}

// Redis before version 6 repeats the arguments of commands it does not know,
// and HELLO and AUTH carry the password.
func TestRedisSecretIsNotRepeated(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(path, []byte("hunter2"), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg := only(t, "redis", redisSection(redisFake(t, nil), fmt.Sprintf(", password_file: %q", path)))
	res := scrape(t, scraper(t, cfg))
	if len(res.Failures) != 1 {
		t.Fatal(res.Failures)
	}
	if msg := res.Failures[0].Err.Error(); strings.Contains(msg, "hunter2") || !strings.Contains(msg, "unknown command") {
		t.Errorf("the failure is %q", msg)
	}
}

func TestRedisTooManyClients(t *testing.T) {
	t.Parallel()
	r := redisServer(t, localserver.RedisOptions{Config: []string{"maxclients 1"}})
	conn, err := net.Dial("tcp", r.Addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprint(conn, "PING\r\n")
	if _, err := conn.Read(make([]byte, 16)); err != nil { // it has the one place
		t.Fatal(err)
	}
	expectFailure(t, only(t, "redis", redisSection(r.Addr, "")), "redis", true, ReasonTooManyConnections)
}

func TestRedisLoading(t *testing.T) {
	t.Parallel()
	r := redisServer(t, localserver.RedisOptions{})
	var fill []string
	for i := range 5000 {
		fill = append(fill, fmt.Sprintf("SET key:%d value:%d", i, i))
	}
	redisDo(t, r, append(fill, "SAVE")...)
	r.Kill()
	if err := r.Start(t.Context(), "key-load-delay 2000", "loading-process-events-interval-bytes 1024"); err != nil {
		t.Fatal(err)
	}
	res := expectFailure(t, only(t, "redis", redisSection(r.Addr, "")), "redis", false, ReasonNotReady)
	if v := value(t, res.Families, "niodoo_redis_loading"); v != 1 {
		t.Errorf("loading is %v", v)
	}
	if v := value(t, res.Families, "niodoo_redis_loading_progress_ratio"); v < 0 || v > 1 {
		t.Errorf("progress is %v", v)
	}
	if _, ok := lookup(res.Families, `niodoo_redis_keys{db="db0"}`); ok {
		t.Error("keys are counted before they are there")
	}
	value(t, res.Families, `niodoo_component_info{component="redis",version="7.0.15"}`)
}

func TestRedisMasterDown(t *testing.T) {
	t.Parallel()
	host, port, _ := net.SplitHostPort(closedPort(t))
	r := redisServer(t, localserver.RedisOptions{Config: []string{"replicaof " + host + " " + port, "replica-serve-stale-data no"}})
	res := expectFailure(t, only(t, "redis", redisSection(r.Addr, "")), "redis", false, ReasonNotReady)
	if v := value(t, res.Families, "niodoo_redis_master_link_up"); v != 0 {
		t.Errorf("the link to a dead master is %v", v)
	}
}

func TestRedisReplication(t *testing.T) {
	t.Parallel()
	master := redisServer(t, localserver.RedisOptions{Config: []string{"repl-diskless-sync-delay 0"}})
	host, port, _ := net.SplitHostPort(master.Addr)
	replica := redisServer(t, localserver.RedisOptions{Config: []string{"replicaof " + host + " " + port}})
	m := scraper(t, only(t, "redis", redisSection(master.Addr, "")))
	r := scraper(t, only(t, "redis", redisSection(replica.Addr, "")))
	redisAwait(t, "the replica in sync", func() bool {
		v, _ := lookup(scrape(t, m).Families, "niodoo_redis_replicas_online")
		w, _ := lookup(scrape(t, r).Families, "niodoo_redis_master_link_up")
		return v == 1 && w == 1
	})
	res := scrape(t, m)
	if v := value(t, res.Families, "niodoo_redis_replica_lag_max_seconds"); v > 5 {
		t.Errorf("lag is %v", v)
	}
	res = scrape(t, r)
	value(t, res.Families, `niodoo_redis_info{maxmemory_policy="noeviction",mode="standalone",role="slave",server="redis"}`)
	value(t, res.Families, "niodoo_redis_replica_offset_bytes")
	value(t, res.Families, "niodoo_redis_master_last_io_seconds")
}

// A script that does not end makes Redis answer everything with BUSY; when
// snapshots fail it answers even PING with MISCONF.
func TestRedisUnhealthy(t *testing.T) {
	t.Parallel()
	t.Run("BUSY", func(t *testing.T) {
		t.Parallel()
		r := redisServer(t, localserver.RedisOptions{Config: []string{"lua-time-limit 10"}})
		conn, err := net.Dial("tcp", r.Addr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		fmt.Fprint(conn, "EVAL \"while true do end\" 0\r\n")
		redisAwait(t, "busy", func() bool { return strings.HasPrefix(redisDo(t, r, "PING")[0], "-BUSY") })
		expectFailure(t, only(t, "redis", redisSection(r.Addr, "")), "redis", false, ReasonUnhealthy)
	})
	t.Run("MISCONF", func(t *testing.T) {
		t.Parallel()
		r := redisServer(t, localserver.RedisOptions{Config: []string{"save 3600 1", "dbfilename dump.rdb"}})
		if err := os.MkdirAll(filepath.Join(r.Dir, "dump.rdb", "in the way"), 0o755); err != nil {
			t.Fatal(err)
		}
		redisDo(t, r, "SET a 1", "BGSAVE")
		redisAwait(t, "a failed snapshot", func() bool { return strings.HasPrefix(redisDo(t, r, "PING")[0], "-MISCONF") })
		res := expectFailure(t, only(t, "redis", redisSection(r.Addr, "")), "redis", false, ReasonUnhealthy)
		if v := value(t, res.Families, "niodoo_redis_rdb_last_bgsave_success"); v != 0 {
			t.Errorf("the last snapshot's success is %v", v)
		}
	})
}

// The connection is kept between scrapes; a server that was restarted between
// two of them is not down, and one that is back is seen at once.
func TestRedisRestart(t *testing.T) {
	t.Parallel()
	r := redisServer(t, localserver.RedisOptions{})
	s := scraper(t, only(t, "redis", redisSection(r.Addr, "")))
	first := value(t, scrape(t, s).Families, "niodoo_redis_connections_received_total")
	if v := value(t, scrape(t, s).Families, "niodoo_redis_connections_received_total"); v != first {
		t.Errorf("%v new connections for a second scrape", v-first)
	}
	for range 3 {
		r.Kill()
		if err := r.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		if res := scrape(t, s); len(res.Failures) > 0 {
			t.Fatalf("after a restart: %v", res.Failures)
		}
	}
	r.Kill()
	for range 3 { // its own reason each time
		expectFailureOf(t, s, "redis", false, ReasonRefused, 2*time.Second)
	}
	if err := r.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if res := scrape(t, s); len(res.Failures) > 0 {
		t.Fatalf("right after it came back: %v", res.Failures)
	}
	closeConnections(s)
	redisAwait(t, "no connection but ours", func() bool {
		conn, err := net.Dial("unix", r.Socket)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		fmt.Fprint(conn, "INFO clients\r\n")
		buf := make([]byte, 4096)
		n, _ := conn.Read(buf)
		return strings.Contains(string(buf[:n]), "connected_clients:1\r\n")
	})
	if res := scrape(t, s); len(res.Failures) > 0 {
		t.Errorf("after closing: %v", res.Failures)
	}
}

// A peer that vanished without a word, such as a container that was replaced,
// costs half of the time, not the scrape.
func TestRedisVanishedPeer(t *testing.T) {
	t.Parallel()
	answers := redisAnswers(t)
	var conns atomic.Int32
	addr := listen(t, func(c net.Conn) {
		if conns.Add(1) > 1 {
			redisServeFake(c, answers)
			return
		}
		in := bufio.NewReader(c)
		for range 4 { // HELLO and the first scrape
			args, err := redisReadCommand(in)
			if err != nil {
				return
			}
			name := strings.ToUpper(strings.Join(args, " "))
			if a, ok := answers[name]; ok {
				_, _ = io.WriteString(c, a)
			} else {
				_, _ = io.WriteString(c, "-ERR unknown command 'HELLO'\r\n")
			}
		}
		_, _ = io.Copy(io.Discard, c)
	})
	s := scraper(t, only(t, "redis", redisSection(addr, ", timeout: 1s")))
	for range 2 {
		if res := scrape(t, s); len(res.Failures) > 0 {
			t.Fatal(res.Failures)
		}
	}
	if n := conns.Load(); n != 2 {
		t.Errorf("%d connections, want 2", n)
	}
}

// A run whose last scrape has gone ends at once, not at its timeout.
func TestRedisCancelled(t *testing.T) {
	t.Parallel()
	s := scraper(t, only(t, "redis", redisSection(hang(t), ", timeout: 1m")))
	started := time.Now()
	s.Scrape(context.Background(), 100*time.Millisecond, nil)
	closeConnections(s) // waits for the run
	if d := time.Since(started); d > 5*time.Second {
		t.Errorf("the run ended after %s", d)
	}
}

func TestRedisCluster(t *testing.T) {
	t.Parallel()
	r := redisServer(t, localserver.RedisOptions{Config: []string{"cluster-enabled yes"}})
	s := scraper(t, only(t, "redis", redisSection(r.Addr, "")))
	if v := value(t, scrape(t, s).Families, "niodoo_redis_cluster_ok"); v != 0 {
		t.Errorf("a cluster without slots is ok: %v", v)
	}
	redisDo(t, r, "CLUSTER ADDSLOTSRANGE 0 16383")
	redisAwait(t, "the cluster ok", func() bool { return value(t, scrape(t, s).Families, "niodoo_redis_cluster_ok") == 1 })
	res := scrape(t, s)
	lint(t, res.Families)
	if v := value(t, res.Families, `niodoo_redis_cluster_slots{state="ok"}`); v != 16384 {
		t.Errorf("%v slots are ok", v)
	}
}

func TestRedisSentinel(t *testing.T) {
	t.Parallel()
	master := redisServer(t, localserver.RedisOptions{})
	host, port, _ := net.SplitHostPort(master.Addr)
	r := redisServer(t, localserver.RedisOptions{Sentinel: true, Config: []string{
		"sentinel monitor mymaster " + host + " " + port + " 1", "sentinel down-after-milliseconds mymaster 200"}})
	s := scraper(t, only(t, "redis", redisSection(r.Addr, "")))
	res := scrape(t, s)
	lint(t, res.Families)
	if len(res.Failures) > 0 {
		t.Fatal(res.Failures)
	}
	if v := value(t, res.Families, `niodoo_redis_sentinel_master_ok{master="mymaster"}`); v != 1 {
		t.Errorf("the master is %v", v)
	}
	if _, ok := lookup(res.Families, "niodoo_redis_memory_used_bytes"); ok {
		t.Error("a sentinel has memory figures")
	}
	master.Kill()
	redisAwait(t, "the master down", func() bool {
		return value(t, scrape(t, s).Families, `niodoo_redis_sentinel_master_ok{master="mymaster"}`) == 0
	})
}

func TestRedisUnixSocket(t *testing.T) {
	t.Parallel()
	r := redisServer(t, localserver.RedisOptions{})
	if res := scrape(t, scraper(t, only(t, "redis", redisSection(r.Socket, "")))); len(res.Failures) > 0 {
		t.Error(res.Failures)
	}
	expectFailure(t, only(t, "redis", redisSection(r.Socket, ", tls_config: {}")), "redis", false, ReasonConfig)
}

// A socket that we may not open says nothing about the server: unlike Redis'
// own NOPERM it does not mean up.
func TestRedisSocketForbidden(t *testing.T) {
	t.Parallel()
	deps := Deps{DialContext: func(_ context.Context, network, _ string) (net.Conn, error) {
		return nil, &net.OpError{Op: "dial", Net: network, Err: os.NewSyscallError("connect", syscall.EACCES)}
	}}
	s := scraperWith(t, only(t, "redis", redisSection("/run/redis/redis.sock", "")), deps, Options{})
	expectFailureOf(t, s, "redis", false, ReasonPermission, 2*time.Second)
}

func TestRedisTLS(t *testing.T) {
	t.Parallel()
	srv := httptest.NewTLSServer(nil) // for its certificate, which is for 127.0.0.1
	srv.Close()
	pair := srv.TLS.Certificates[0]
	key, err := x509.MarshalPKCS8PrivateKey(pair.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	cert, keyFile := filepath.Join(t.TempDir(), "cert.pem"), filepath.Join(t.TempDir(), "key.pem")
	for _, f := range []struct {
		path, kind string
		der        []byte
	}{{cert, "CERTIFICATE", pair.Certificate[0]}, {keyFile, "PRIVATE KEY", key}} {
		if err := os.WriteFile(f.path, pem.EncodeToMemory(&pem.Block{Type: f.kind, Bytes: f.der}), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	r := redisServer(t, localserver.RedisOptions{TLSCert: cert, TLSKey: keyFile})
	s := scraper(t, only(t, "redis", redisSection(r.Addr, fmt.Sprintf(", tls_config: {ca_file: %q}", cert))))
	for range 2 { // the second time over the kept connection
		res := scrape(t, s)
		if len(res.Failures) > 0 {
			t.Fatal(res.Failures)
		}
		want := float64(srv.Certificate().NotAfter.Unix())
		if v := value(t, res.Families, `niodoo_component_tls_not_after_timestamp_seconds{component="redis"}`); v != want {
			t.Errorf("the certificate expires at %v, want %v", v, want)
		}
	}
	t.Run("not trusted", func(t *testing.T) {
		expectFailure(t, only(t, "redis", redisSection(r.Addr, ", tls_config: {}")), "redis", false, ReasonTLS)
	})
	t.Run("no TLS there", func(t *testing.T) { // Redis waits for the end of the line
		plain := redisServer(t, localserver.RedisOptions{})
		expectFailure(t, only(t, "redis", redisSection(plain.Addr, ", tls_config: {}, timeout: 500ms")), "redis", false, ReasonTimeout)
	})
	t.Run("TLS wanted", func(t *testing.T) {
		expectFailure(t, only(t, "redis", redisSection(r.Addr, "")), "redis", false, ReasonProtocol)
	})
	t.Run("CA file missing", func(t *testing.T) {
		expectFailure(t, only(t, "redis", redisSection(r.Addr, ", tls_config: {ca_file: /no/such/file}")), "redis", false, ReasonConfig)
	})
}
