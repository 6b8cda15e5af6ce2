// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

// Command bench makes a backup of the same files and the same PostgreSQL
// database with the manual's script and with niodooctl, and compares them:
//
//	go run ./internal/backup/bench bin/niodooctl
//
// It exits 1 if niodooctl misses its targets.
package main

import (
	"bufio"
	"compress/gzip"
	"context"
	_ "embed"
	"encoding/binary"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/niodoo/niodoo_exporter/internal/humanize"
	"github.com/niodoo/niodoo_exporter/internal/localserver"
)

// The targets.
const (
	minRatio  = 6
	maxMemory = 128 << 20
)

//go:embed manual.sh
var manual string

func main() {
	scale := flag.Float64("scale", 1, "How much data: 1 is over 1 GiB of files and over 500 MiB of tables.")
	dir := flag.String("dir", "", "Where to work, with room for six times that; the default is the system's temporary directory.")
	flag.Parse()
	if flag.NArg() != 1 {
		fmt.Fprintln(os.Stderr, "usage: bench [--scale=N] [--dir=DIR] NIODOOCTL")
		os.Exit(64)
	}
	if err := run(*scale, *dir, flag.Arg(0)); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// stack is what is backed up.
type stack struct {
	root string
	pg   *localserver.Postgres
}

func run(scale float64, dir, niodooctl string) (err error) {
	ctx := context.Background()
	if niodooctl, err = filepath.Abs(niodooctl); err != nil {
		return err
	}
	root, err := os.MkdirTemp(dir, "bench-backup-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(root)) }()
	s := stack{root: root}
	fmt.Printf("Making data, on %d cores\n", runtime.NumCPU())
	files, err := s.makeFiles(scale)
	if err != nil {
		return err
	}
	if s.pg, err = localserver.StartPostgres(ctx, localserver.PostgresOptions{Settings: map[string]string{"shared_buffers": "128MB"}}); err != nil {
		return err
	}
	defer s.pg.Stop()
	tables, err := s.makeTables(ctx, scale)
	if err != nil {
		return err
	}
	fmt.Printf("Files: %s. Tables: %s.\n", size(files), size(tables))

	theirs, err := s.time(exec.Command("bash", "-c", manual))
	if err != nil {
		return fmt.Errorf("the manual's script: %w", err)
	}
	if theirs.archive, err = s.archive("niodoo_backup_*.tar.gz"); err != nil {
		return err
	}
	config := filepath.Join(root, "niodoo.yml")
	if err := os.WriteFile(config, []byte(s.config()), 0o600); err != nil {
		return err
	}
	ours, err := s.time(exec.Command(niodooctl, "--config.file="+config, "backup", "create"))
	if err != nil {
		return fmt.Errorf("niodooctl: %w", err)
	}
	if ours.archive, err = s.archive("niodoo_backup_*.tar.zst"); err != nil {
		return err
	}
	var content int64
	if content, err = s.content(); err != nil {
		return err
	}
	verify, err := s.time(exec.Command(niodooctl, "--config.file="+config, "backup", "verify"))
	if err != nil {
		return fmt.Errorf("niodooctl backup verify: %w", err)
	}

	ratio := theirs.took.Seconds() / ours.took.Seconds()
	fmt.Printf("%-22s %8s %8s %14s %10s %10s\n", "", "time", "cpu", "throughput", "archive", "memory")
	for _, r := range []struct {
		name string
		result
	}{{"the manual's script", theirs}, {"niodooctl", ours}, {"niodooctl verify", verify}} {
		fmt.Printf("%-22s %7.1fs %7.1fs %14s %10s %10s\n", r.name, r.took.Seconds(), r.cpu.Seconds(),
			humanize.Value(humanize.BytesPerSec, float64(content)/r.took.Seconds()), size(r.archive), size(r.memory))
	}
	fmt.Printf("Throughput ratio: %.1f (target %d)\n", ratio, minRatio)
	if scale >= 1 && (files < 1<<30 || tables < 500<<20) {
		err = errors.New("there was less data than there should be")
	}
	if ratio < minRatio {
		err = errors.Join(err, fmt.Errorf("the ratio is below %d", minRatio))
	}
	if ours.archive > theirs.archive {
		err = errors.Join(err, errors.New("the archive is larger than the manual's"))
	}
	if ours.memory >= maxMemory {
		err = errors.Join(err, fmt.Errorf("more than %s of memory", size(maxMemory)))
	}
	return err
}

func size(n int64) string {
	if n == 0 {
		return ""
	}
	return humanize.Value(humanize.Bytes, float64(n))
}

// result is one run of a program. The processor's time is without the server's.
type result struct {
	took, cpu       time.Duration
	memory, archive int64
}

// time runs a program. Its memory is that of the largest of its processes.
func (s stack) time(c *exec.Cmd) (result, error) {
	c.Env = append(os.Environ(), "NIODOO="+s.root, "PGHOST="+s.pg.SocketDir, "PGPORT="+strconv.Itoa(s.pg.Port))
	c.Stdout, c.Stderr = os.Stdout, os.Stderr
	syscall.Sync() // neither pays for what was written before
	started := time.Now()
	err := c.Run()
	r := result{took: time.Since(started), cpu: c.ProcessState.UserTime() + c.ProcessState.SystemTime()}
	if u, ok := c.ProcessState.SysUsage().(*syscall.Rusage); ok {
		r.memory = u.Maxrss << 10
	}
	return r, err
}

func (s stack) archive(glob string) (int64, error) {
	found, err := filepath.Glob(filepath.Join(s.root, "backups", glob))
	if err != nil || len(found) != 1 {
		return 0, fmt.Errorf("%d archives %s: %w", len(found), glob, err)
	}
	info, err := os.Stat(found[0])
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

// content returns the size of what is in niodooctl's backup.
func (s stack) content() (int64, error) {
	found, err := filepath.Glob(filepath.Join(s.root, "backups", "*.manifest.json"))
	if err != nil || len(found) != 1 {
		return 0, fmt.Errorf("%d manifests: %w", len(found), err)
	}
	raw, err := os.ReadFile(found[0])
	if err != nil {
		return 0, err
	}
	var m struct {
		Bytes int64 `json:"content_bytes"`
	}
	return m.Bytes, errors.Join(json.Unmarshal(raw, &m), func() error {
		if m.Bytes == 0 {
			return errors.New("the manifest has no size")
		}
		return nil
	}())
}

func (s stack) config() string {
	return fmt.Sprintf(`postgresql: {host: %q, port: %d, user: postgres, sslmode: disable}
redis: {enabled: false}
qdrant: {enabled: false}
ollama: {enabled: false}
backup:
  directory: %q
  sources: {data: %q, config: %q, logs: %q}
`, s.pg.SocketDir, s.pg.Port, s.root+"/backups", s.root+"/data", s.root+"/config", s.root+"/logs")
}

// makeTables fills a database with events and memories, and returns the size of
// its tables.
func (s stack) makeTables(ctx context.Context, scale float64) (int64, error) {
	if err := s.pg.Exec(ctx, "CREATE DATABASE niodoo"); err != nil {
		return 0, err
	}
	rows := int(2_200_000 * scale)
	for _, sql := range []string{
		`CREATE TABLE events AS SELECT i AS id, timestamptz '2026-01-01' + i * interval '1 second' AS at, 'consciousness_' || (ARRAY['update','query','merge','decay'])[1 + i % 4] AS kind,
			md5(i::text) AS digest, json_build_object('level', random(), 'source', 'worker-' || i % 16, 'tokens', (random() * 4096)::int, 'note', 'memory consolidated in layer ' || i % 6) AS payload
			FROM generate_series(1, ` + strconv.Itoa(rows) + `) i`,
		`CREATE TABLE memories AS SELECT i AS id, (SELECT array_agg(random()::real) FROM generate_series(1, 32) WHERE i > 0) AS embedding, repeat('remember this ' || i % 100, 5) AS body
			FROM generate_series(1, ` + strconv.Itoa(rows/8) + `) i`,
		"ALTER TABLE events ADD PRIMARY KEY (id)", "VACUUM ANALYZE",
	} {
		if err := s.pg.ExecIn(ctx, "niodoo", sql); err != nil {
			return 0, err
		}
	}
	c, err := s.pg.Connect(ctx, "niodoo")
	if err != nil {
		return 0, err
	}
	defer func() { _ = c.Close(ctx) }()
	res, err := c.Exec(ctx, "SELECT pg_table_size('events') + pg_table_size('memories')").ReadAll()
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(string(res[0].Rows[0][0]), 10, 64)
}

// makeFiles writes data, configuration and logs of the kinds that a stack has,
// and returns their size.
func (s stack) makeFiles(scale float64) (int64, error) {
	r := rand.New(rand.NewPCG(1, 2))
	mib := func(n float64) int64 { return int64(n * scale * (1 << 20)) }
	var total int64
	write := func(name string, size int64, piece func(io.Writer)) error {
		n, err := writeFile(filepath.Join(s.root, name), size, piece)
		total += n
		return err
	}
	err := errors.Join(
		os.MkdirAll(filepath.Join(s.root, "backups"), 0o755),
		write("data/embeddings.f32", mib(280), func(w io.Writer) {
			var b [4096]byte
			for i := 0; i < len(b); i += 4 {
				binary.LittleEndian.PutUint32(b[i:], math.Float32bits(float32(r.NormFloat64())))
			}
			_, _ = w.Write(b[:])
		}),
		write("data/memories.jsonl", mib(280), func(w io.Writer) {
			fmt.Fprintf(w, `{"id":%d,"layer":"%s","valence":%.4f,"arousal":%.4f,"text":"%s"}`+"\n", r.Uint32(), word(r), r.Float64(), r.Float64(), sentence(r, 12))
		}),
		write("data/model.bin", mib(110), func(w io.Writer) {
			var b [8]byte
			binary.LittleEndian.PutUint64(b[:], r.Uint64())
			_, _ = w.Write(b[:])
		}),
		write("data/export.json.gz", mib(15), func(w io.Writer) {
			z := gzip.NewWriter(w)
			fmt.Fprint(z, sentence(r, 2000))
			_ = z.Close()
		}),
		write("config/production.toml", 20<<10, func(w io.Writer) { fmt.Fprintf(w, "%s = %d\n", word(r), r.IntN(1000)) }),
		write("logs/consciousness.log", mib(350), func(w io.Writer) {
			fmt.Fprintf(w, `{"timestamp":"2026-11-24T%02d:%02d:%02d.%06dZ","level":"%s","target":"niodoo::%s","fields":{"message":"%s","latency_ms":%.2f}}`+"\n",
				r.IntN(24), r.IntN(60), r.IntN(60), r.IntN(1e6), []string{"INFO", "INFO", "INFO", "WARN", "ERROR"}[r.IntN(5)], word(r), sentence(r, 6), r.ExpFloat64()*40)
		}),
	)
	for i := 0; err == nil && i < int(8000*scale); i++ {
		err = write(fmt.Sprintf("data/states/%02d/state_%05d.json", i%64, i), int64(2000+r.IntN(6000)), func(w io.Writer) {
			fmt.Fprintf(w, `{"%s":%.6f,"%s":"%s"}`+"\n", word(r), r.Float64(), word(r), sentence(r, 3))
		})
	}
	return total, err
}

// writeFile writes pieces until there are size bytes.
func writeFile(path string, size int64, piece func(io.Writer)) (int64, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return 0, err
	}
	f, err := os.Create(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	b := bufio.NewWriterSize(f, 1<<20)
	c := &counting{w: b}
	for c.n < size {
		piece(c)
	}
	return c.n, errors.Join(b.Flush(), f.Close())
}

type counting struct {
	w io.Writer
	n int64
}

func (c *counting) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}

var words = strings.Fields(`memory layer consolidation emotion gaussian sphere toroidal coherence novelty attention retrieval engine session token embedding vector
	query response cache worker thread pool timeout circuit breaker stability entropy threshold model inference latency context episodic semantic working`)

func word(r *rand.Rand) string { return words[r.IntN(len(words))] }

func sentence(r *rand.Rand, n int) string {
	var b strings.Builder
	for i := range n {
		if i > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(word(r))
		if r.IntN(4) == 0 {
			fmt.Fprintf(&b, "=%d", r.IntN(100000))
		}
	}
	return b.String()
}
