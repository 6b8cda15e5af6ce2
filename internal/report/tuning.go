// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package report

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/niodoo/niodoo_exporter/internal/humanize"
)

// Tuning is a setting that is worth another thought. Nothing is changed.
type Tuning struct {
	// Where is PostgreSQL, Redis or the kernel.
	Where   string `json:"where"`
	Setting string `json:"setting"`
	Value   string `json:"value"`
	// Suggested is what is usual, Reason why, How the way to it.
	Suggested string `json:"suggested"`
	Reason    string `json:"reason"`
	How       string `json:"how"`
	// Danger says that data may be lost, or the service stopped.
	Danger bool `json:"danger"`
}

// setting is one of PostgreSQL's.
type setting struct {
	text string
	// number is in bytes, seconds or as it is.
	number float64
	// restart says that a change needs one; pending that one has not been made.
	restart, pending bool
	unit             string
}

const settingsQuery = `SELECT name, setting, coalesce(unit, ''), context = 'postmaster', pending_restart FROM pg_settings WHERE name = ANY($1) OR pending_restart`

// unitSizes turn PostgreSQL's units into bytes and seconds.
var unitSizes = map[string]float64{"B": 1, "kB": 1 << 10, "8kB": 8 << 10, "MB": 1 << 20, "16MB": 16 << 20, "us": 1e-6, "ms": 1e-3, "s": 1, "min": 60}

func readSettings(ctx context.Context, conn *pgx.Conn) (map[string]setting, error) {
	var names []string
	for _, t := range postgresqlTuning {
		names = append(names, t.name)
	}
	names = append(names, "max_connections")
	rows, err := conn.Query(ctx, settingsQuery, names)
	if err != nil {
		return nil, err
	}
	all := map[string]setting{}
	var name string
	var s setting
	_, err = pgx.ForEachRow(rows, []any{&name, &s.text, &s.unit, &s.restart, &s.pending}, func() error {
		s.number = 0
		if v, err := strconv.ParseFloat(s.text, 64); err == nil {
			size := unitSizes[s.unit]
			if size == 0 {
				size = 1
			}
			s.number = v * size
		}
		all[name] = s
		return nil
	})
	return all, err
}

// String writes a setting for people.
func (s setting) String() string {
	switch s.unit {
	case "B", "kB", "8kB", "MB", "16MB":
		if s.number >= 0 {
			return humanize.Value(humanize.Bytes, s.number)
		}
	case "us", "ms", "s", "min":
		if s.number >= 0 {
			return humanize.Value(humanize.Seconds, s.number)
		}
	}
	return cmp.Or(s.text, "empty")
}

// postgresqlCase is all that a rule for a setting may look at.
type postgresqlCase struct {
	setting
	all     map[string]setting
	machine machine
	// requested is the share of checkpoints that came before their time.
	requested float64
}

const gib = 1 << 30

// postgresqlTuning are the settings with when they are worth a word, what is
// usual and why.
var postgresqlTuning = []struct {
	name    string
	when    func(postgresqlCase) bool
	suggest func(postgresqlCase) string
	reason  string
	danger  bool
}{
	{"fsync", off, fixed("on"), "After a crash of the machine the database is damaged beyond repair.", true},
	{"full_page_writes", off, fixed("on"), "A page that was half written when the power failed cannot be repaired.", true},
	{"autovacuum", off, fixed("on"), "Dead rows stay, tables grow, and at two thousand million transactions the database stops.", true},
	{"synchronous_commit", off, fixed("on"), "The last transactions before a crash are lost, although they were confirmed.", true},
	{"shared_buffers", func(c postgresqlCase) bool {
		return c.machine.memory >= 2*gib && c.number < 0.15*c.machine.memory && c.number < 8*gib
	},
		func(c postgresqlCase) string { return bytes(min(c.machine.memory/4, 8*gib)) }, "A quarter of the memory is usual, and more than the performance guide's 8 GiB seldom helps: less, and pages are copied from the kernel's cache again and again.", false},
	{"effective_cache_size", func(c postgresqlCase) bool { return c.machine.memory > 0 && c.number < 0.4*c.machine.memory },
		func(c postgresqlCase) string { return bytes(0.6 * c.machine.memory) }, "The planner takes indexes for slower than they are. It reserves nothing.", false},
	{"work_mem", func(c postgresqlCase) bool {
		return c.machine.memory > 0 && c.number*c.all["max_connections"].number > c.machine.memory
	},
		func(c postgresqlCase) string {
			return bytes(max(4<<20, c.machine.memory/4/max(1, c.all["max_connections"].number)))
		}, "Every sort of every connection may take as much: all of them together are more than the memory, and the kernel kills the server.", true},
	{"maintenance_work_mem", func(c postgresqlCase) bool { return c.machine.memory >= 4*gib && c.number < 128<<20 },
		func(c postgresqlCase) string { return bytes(min(c.machine.memory/16, 2*gib)) }, "VACUUM and index builds go over the table more often than they need.", false},
	{"max_connections", func(c postgresqlCase) bool { return c.number > 300 }, fixed("100 to 200, and a pooler"), "Each connection is a process; with hundreds of active ones they keep each other waiting.", false},
	{"max_wal_size", func(c postgresqlCase) bool { return c.requested > 0.3 && c.number < 4*gib }, fixed("4 GiB"), "Checkpoints come before their time because the WAL is full: each writes whole pages again.", false},
	{"checkpoint_completion_target", func(c postgresqlCase) bool { return c.number < 0.8 }, fixed("0.9"), "A checkpoint is written in bursts instead of evenly.", false},
	{"random_page_cost", func(c postgresqlCase) bool { return c.number >= 4 }, fixed("1.1 on SSDs"), "The default is of spinning disks: the planner avoids indexes. Leave it where the disks do spin.", false},
	{"track_io_timing", off, fixed("on"), "How long reads take cannot be told, neither in EXPLAIN nor in pg_stat_statements. pg_test_timing says what it costs.", false},
	{"log_min_duration_statement", func(c postgresqlCase) bool { return c.number < 0 }, fixed("1s"), "Nobody can tell afterwards which statements were slow.", false},
	{"log_lock_waits", off, fixed("on"), "Nobody can tell afterwards who waited for whom.", false},
	{"idle_in_transaction_session_timeout", func(c postgresqlCase) bool { return c.number == 0 }, fixed("10min"), "A client that forgets to commit holds its locks, and keeps vacuum from cleaning, for ever.", false},
	{"shared_preload_libraries", func(c postgresqlCase) bool { return !strings.Contains(c.text, "pg_stat_statements") }, fixed("pg_stat_statements"), "Which statements take the time cannot be told.", false},
	{"password_encryption", func(c postgresqlCase) bool { return c.text == "md5" }, fixed("scram-sha-256"), "MD5 digests that are stolen are as good as the password.", false},
	{"wal_compression", off, fixed("on"), "Whole pages in the WAL cost disk and network; compressing them costs little.", false},
}

func off(c postgresqlCase) bool { return c.text == "off" }

func fixed(text string) func(postgresqlCase) string {
	return func(postgresqlCase) string { return text }
}

func bytes(v float64) string { return humanize.Value(humanize.Bytes, v) }

func tunePostgreSQL(all map[string]setting, m machine, o Options) []Tuning {
	requested, _ := o.Now.Sum("niodoo_postgresql_checkpoints_total", "cause", "requested")
	checkpoints, _ := o.Now.Sum("niodoo_postgresql_checkpoints_total")
	var found []Tuning
	for _, t := range postgresqlTuning {
		s, ok := all[t.name]
		if !ok {
			continue // of another version
		}
		c := postgresqlCase{s, all, m, 0}
		if checkpoints >= 10 { // fewer tell nothing
			c.requested = requested / checkpoints
		}
		if !t.when(c) {
			continue
		}
		how := "ALTER SYSTEM SET " + t.name + " = ...; SELECT pg_reload_conf()"
		if s.restart {
			how = "ALTER SYSTEM SET " + t.name + " = ..., and a restart: a reload is not enough"
		}
		found = append(found, Tuning{"PostgreSQL", t.name, s.String(), t.suggest(c), t.reason, how, t.danger})
	}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if s := all[name]; s.pending {
			found = append(found, Tuning{"PostgreSQL", name, s.String(), "the value in the file", "It was changed and is not in force.", "restart PostgreSQL", false})
		}
	}
	return found
}

// redisCase is all that a rule for one of Redis' settings may look at.
type redisCase struct {
	text string
	all  map[string]string
	o    Options
}

// redisTuning are Redis' settings.
var redisTuning = []struct {
	name, suggested string
	when            func(redisCase) bool
	reason          string
	danger          bool
}{
	{"maxmemory", "half of the memory, less what else runs there", func(c redisCase) bool { return c.text == "0" }, "Without a limit Redis grows until the kernel kills it, or something else.", true},
	{"appendonly", "yes", func(c redisCase) bool { return c.text == "no" && strings.Trim(c.all["save"], `" `) == "" }, "Nothing is kept: a restart loses everything. The deployment guide has appendonly yes.", true},
	{"appendfsync", "everysec", func(c redisCase) bool { return c.all["appendonly"] == "yes" && c.text == "no" }, "A crash loses up to half a minute of writes.", true},
	{"appendfsync", "everysec", func(c redisCase) bool { return c.all["appendonly"] == "yes" && c.text == "always" }, "Every write waits for the disk.", false},
	{"protected-mode", "yes, or a password", func(c redisCase) bool { return c.text == "no" && c.all["requirepass"] == "" }, "Whoever reaches the port reads and writes everything.", true},
	{"tcp-backlog", "511 or more, and net.core.somaxconn as much", func(c redisCase) bool { v, err := strconv.Atoi(c.text); return err == nil && v < 128 }, "A burst of connections is refused.", false},
	{"slowlog-log-slower-than", "10000", func(c redisCase) bool { return strings.HasPrefix(c.text, "-") }, "Nobody can tell afterwards which commands were slow.", false},
	{"activedefrag", "yes", func(c redisCase) bool {
		ratio, _ := c.o.Now.Sum("niodoo_redis_memory_fragmentation_ratio")
		used, _ := c.o.Now.Sum("niodoo_redis_memory_used_bytes")
		return c.text == "no" && ratio > 1.5 && used > 256<<20
	}, "More than a third of what Redis takes of the machine's memory holds nothing.", false},
	{"stop-writes-on-bgsave-error", "yes", func(c redisCase) bool { return c.text == "no" }, "When snapshots fail nobody notices before they are needed.", false},
}

func tuneRedis(all map[string]string, o Options) []Tuning {
	var found []Tuning
	for _, t := range redisTuning {
		text, ok := all[t.name]
		if ok && t.when(redisCase{text, all, o}) {
			found = append(found, Tuning{"Redis", t.name, text, t.suggested, t.reason, "CONFIG SET " + t.name + " ..., and redis.conf", t.danger})
		}
	}
	return found
}

// kernelTuning are the kernel's settings, below /proc/sys, that the stack has an
// opinion on.
var kernelTuning = []struct {
	path, suggested string
	when            func(v float64) bool
	reason          string
	// service is the one on this machine that wants it, "" for any.
	service string
}{
	{"vm/overcommit_memory", "1", func(v float64) bool { return v != 1 }, "Redis forks for its snapshots: with half of the memory in use the kernel may refuse that.", "redis"},
	{"net/core/somaxconn", "1024 or more", func(v float64) bool { return v < 511 }, "A burst of connections is refused: Redis alone asks for a queue of 511.", ""},
	{"net/ipv4/tcp_max_syn_backlog", "1024 or more", func(v float64) bool { return v < 512 }, "A burst of connections is dropped before anyone sees it.", ""},
	{"vm/swappiness", "10", func(v float64) bool { return v > 30 }, "The kernel swaps out memory of databases that will be needed in favour of its cache.", ""},
	{"vm/dirty_ratio", "15", func(v float64) bool { return v > 30 }, "Much is written at once, and everything else waits meanwhile.", "postgresql"},
	{"vm/zone_reclaim_mode", "0", func(v float64) bool { return v != 0 }, "Cache is thrown away although other memory is free.", "postgresql"},
	{"fs/file-max", "100000 or more", func(v float64) bool { return v < 100_000 }, "All processes together run out of open files.", ""},
	{"fs/inotify/max_user_watches", "65536 or more", func(v float64) bool { return v < 65536 }, "Programs that watch files, such as log shippers, miss changes.", ""},
	{"net/ipv4/tcp_keepalive_time", "600", func(v float64) bool { return v > 7200 }, "Connections to a machine that is gone are kept for hours.", ""},
}

// kernel looks at the settings of this machine's kernel.
func kernel(o Options, r *Report) {
	if !o.Config.Enabled("host") {
		return
	}
	local := map[string]bool{
		"":           true,
		"postgresql": o.Config.Enabled("postgresql") && machineOf(o, o.Config.PostgreSQL.Host).memory > 0,
		"redis":      o.Config.Enabled("redis") && machineOf(o, redisHost(o)).memory > 0,
	}
	var unread []string
	for _, t := range kernelTuning {
		raw, err := os.ReadFile(filepath.Join(o.Config.Host.ProcFS, "sys", t.path))
		if err != nil {
			unread = append(unread, t.path)
			continue
		}
		text := strings.TrimSpace(string(raw))
		v, err := strconv.ParseFloat(text, 64)
		if err == nil && local[t.service] && t.when(v) {
			key := strings.ReplaceAll(t.path, "/", ".")
			r.Tuning = append(r.Tuning, Tuning{"kernel", key, text, t.suggested, t.reason, "a file in /etc/sysctl.d, and sysctl --system", false})
		}
	}
	const thp = "kernel/mm/transparent_hugepage/enabled"
	if raw, err := os.ReadFile(filepath.Join(o.Config.Host.SysFS, thp)); err == nil && strings.Contains(string(raw), "[always]") && (local["redis"] || local["postgresql"]) {
		r.Tuning = append(r.Tuning, Tuning{"kernel", "transparent_hugepage", "always", "madvise", "A fork copies two megabytes for every byte that is written: Redis' latency and memory jump at each snapshot.",
			"echo madvise > /sys/" + thp + ", at every boot", false})
	}
	if len(unread) > 0 {
		r.missing("some of the kernel's settings", fmt.Sprintf("%s cannot be read in %s", strings.Join(unread, ", "), o.Config.Host.ProcFS), false)
	}
}
