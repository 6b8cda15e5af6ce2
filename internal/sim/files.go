// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// maxLogFile is where a log is rotated, in bytes.
const maxLogFile = 8 << 20

// WriteLogs writes the logs of the engine (niodoo.log, JSON) and of the
// pipeline (pipeline.log, text with colours) into a directory until ctx ends:
// a few lines a second, rotated by renaming at 8 MiB. Their content follows
// from the seed; the lines about faults follow from the faults.
func (st *Stack) WriteLogs(ctx context.Context, dir string) error {
	engine, pipeline := &logFile{path: filepath.Join(dir, "niodoo.log")}, &logFile{path: filepath.Join(dir, "pipeline.log")}
	defer engine.close()
	defer pipeline.close()
	rng := rand.New(rand.NewPCG(st.opts.Seed, 0x6c6f67))
	t := time.NewTicker(time.Second)
	defer t.Stop()
	for {
		s := st.world.look()
		if lines := engineLines(s, rng); st.runs("engine") { // one that is stopped writes nothing
			if err := engine.write(lines); err != nil {
				return err
			}
		}
		if err := pipeline.write(pipelineLines(s, rng)); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
	}
}

// logFile is appended to and rotated by renaming.
type logFile struct {
	path string
	file *os.File
	size int
}

func (l *logFile) write(lines []string) error {
	if l.size > maxLogFile {
		l.close()
		if err := os.Rename(l.path, l.path+".1"); err != nil {
			return err
		}
	}
	if l.file == nil {
		f, err := os.OpenFile(l.path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
		if err != nil {
			return err
		}
		l.file = f
	}
	n, err := l.file.WriteString(strings.Join(lines, "\n") + "\n")
	l.size += n
	return err
}

func (l *logFile) close() {
	if l.file != nil {
		l.file.Close()
		l.file, l.size = nil, 0
	}
}

// stamp is the time as the tracing crate writes it.
func stamp(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000000Z") }

// engineLines are what the engine logs in a second.
func engineLines(s state, rng *rand.Rand) []string {
	line := func(level, target, message string) string {
		text, _ := json.Marshal(message)
		return fmt.Sprintf(`{"timestamp":%q,"level":%q,"fields":{"message":%s},"target":%q}`, stamp(s.at), level, text, target)
	}
	e := &s.engine
	lines := []string{
		line("INFO", "niodoo::consciousness", fmt.Sprintf("consciousness event batch done events=%.0f processing_time_ms=%.1f", e.eventRate, e.processingMs*(0.9+0.2*rng.Float64()))),
		line("DEBUG", "niodoo::memory", fmt.Sprintf("memory retrieval done retrieval_time_ms=%.1f stability=%.4f", e.retrievalMs, e.stability)),
	}
	if rng.IntN(30) == 0 {
		lines = append(lines, line("INFO", "niodoo::memory", fmt.Sprintf("memory consolidation done layer=%s entries=%.0f", layers[2].name, e.layers[2])))
	}
	if rng.IntN(60) == 0 {
		lines = append(lines, line("WARN", "niodoo::emotional", "emotional processing took longer than its budget"))
	}
	for range int(10 * e.errorRate) {
		lines = append(lines, line("ERROR", "niodoo::consciousness", "brain coordination failed: timeout"))
	}
	return lines
}

// pipelineLines are what the pipeline logs; most seconds it logs nothing new.
func pipelineLines(s state, rng *rand.Rand) []string {
	line := func(level, message, fields string) string {
		return "\x1b[2m" + stamp(s.at) + "\x1b[0m \x1b[32m" + fmt.Sprintf("%5s", level) + "\x1b[0m " + message + " " + fields
	}
	lines := []string{line("INFO", "generate: generated hybrid response", fmt.Sprintf("latency_ms=%.5f rouge=%v", 1800+400*rng.Float64(), s.pipeline.rouge))}
	if rng.IntN(4) == 0 {
		lines = append(lines, line("INFO", "stored ERAG memory", "collection=experiences"))
	}
	if s.knobs.vectorSize != vectorSize || s.knobs.collectionGone {
		lines = append(lines, line("WARN", fmt.Sprintf("collapse{dim=%d}: qdrant search returned error status", vectorSize), "status=400 Bad Request"))
	}
	return lines
}

// WriteBackups leaves the backups of the last two nights in a directory, as
// the manual's script does: one archive each, named by its time.
func (st *Stack) WriteBackups(dir string) error {
	now := st.opts.Now()
	night := time.Date(now.Year(), now.Month(), now.Day(), 2, 0, 0, 0, now.Location())
	if night.After(now) {
		night = night.AddDate(0, 0, -1)
	}
	for _, at := range []time.Time{night.AddDate(0, 0, -1), night} {
		if err := WriteBackup(dir, at); err != nil {
			return err
		}
	}
	return nil
}

// WriteBackup leaves the backup of one time in a directory.
func WriteBackup(dir string, at time.Time) error {
	stamp := at.Format("20060102_150405")
	data, err := archive(at, map[string]string{
		"data/memory_layers.bin": strings.Repeat("\x00\x01\x02\x03", 4096), "data/consciousness_state.json": `{"consciousness_level":0.75}`})
	if err != nil {
		return err
	}
	logs, err := archive(at, map[string]string{"logs/niodoo.log": strings.Repeat("2026-01-27T10:00:00.123456Z  INFO niodoo: ready\n", 200)})
	if err != nil {
		return err
	}
	var sql strings.Builder
	sql.WriteString("--\n-- PostgreSQL database dump\n--\n\nCREATE TABLE public.consciousness_events (event_id bigint NOT NULL, content text);\n\nCOPY public.consciousness_events (event_id, content) FROM stdin;\n")
	for i := range 2000 {
		fmt.Fprintf(&sql, "%d\tevent %x\n", i, fnv(fmt.Sprint(stamp, i)))
	}
	sql.WriteString("\\.\n\n--\n-- PostgreSQL database dump complete\n--\n\n")
	whole, err := archive(at, map[string]string{
		stamp + "/database.sql": sql.String(), stamp + "/consciousness_data.tar.gz": string(data), stamp + "/logs.tar.gz": string(logs),
		stamp + "/config/production.toml": "[toroidal]\nstability_target = 0.9951\n",
		stamp + "/manifest.txt":           "Niodoo Consciousness System Backup\nTimestamp: " + stamp + "\nComponents:\n- Database dump\n- Consciousness data\n- Configuration files\n- Log files\n",
	})
	if err != nil {
		return err
	}
	path := filepath.Join(dir, "niodoo_backup_"+stamp+".tar.gz")
	return errors.Join(os.WriteFile(path, whole, 0o600), os.Chtimes(path, at, at))
}

// archive is a compressed tar of files, in the order of their names.
func archive(at time.Time, files map[string]string) ([]byte, error) {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	t := tar.NewWriter(z)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		body := files[name]
		if err := t.WriteHeader(&tar.Header{Name: name, Mode: 0o600, Size: int64(len(body)), ModTime: at}); err != nil {
			return nil, err
		}
		if _, err := t.Write([]byte(body)); err != nil {
			return nil, err
		}
	}
	if err := errors.Join(t.Close(), z.Close()); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}
