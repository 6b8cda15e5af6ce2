// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package restore

import (
	"archive/tar"
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/niodoo/niodoo_exporter/internal/backup"
	"github.com/niodoo/niodoo_exporter/internal/sim"
)

// qdrantEnv makes the test's own program a Qdrant: the simulated one, started
// as the real one is, by a file of configuration.
const qdrantEnv = "NIODOO_TEST_QDRANT"

func TestQdrantChild(t *testing.T) {
	if os.Getenv(qdrantEnv) == "" {
		t.Skip("this is for the drills")
	}
	args := flag.Args()
	if len(args) != 3 || args[0] != "--config-path" || args[2] != "--disable-telemetry" {
		t.Fatalf("the arguments are %q", args)
	}
	raw, err := os.ReadFile(args[1])
	if err != nil {
		t.Fatal(err)
	}
	var conf struct {
		Storage struct {
			Storage   string `yaml:"storage_path"`
			Snapshots string `yaml:"snapshots_path"`
			Temp      string `yaml:"temp_path"`
		} `yaml:"storage"`
		Service struct {
			Host string `yaml:"host"`
			Port int    `yaml:"http_port"`
			GRPC int    `yaml:"grpc_port"`
			Key  string `yaml:"api_key"`
		} `yaml:"service"`
	}
	if err := yaml.Unmarshal(raw, &conf); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{conf.Storage.Storage, conf.Storage.Snapshots, conf.Storage.Temp} {
		if err := os.Mkdir(dir, 0o755); err != nil || !strings.HasPrefix(dir, filepath.Dir(args[1])+"/") {
			t.Fatalf("the directory %q: %v", dir, err)
		}
	}
	if conf.Service.Host != "127.0.0.1" || conf.Service.GRPC == 0 || len(conf.Service.Key) < 20 || os.Geteuid() == 0 {
		t.Fatalf("the configuration is %+v, the user %d", conf, os.Geteuid())
	}
	if env := os.Environ(); slices.ContainsFunc(env, func(e string) bool { return strings.HasPrefix(e, "QDRANT") }) {
		t.Fatalf("the environment is %q", env)
	}
	key := filepath.Join(conf.Storage.Storage, "key")
	if err := os.WriteFile(key, []byte(conf.Service.Key), 0o600); err != nil {
		t.Fatal(err)
	}
	stack, err := sim.New(sim.Options{Only: []string{"qdrant"}, Ports: map[string]int{"qdrant": conf.Service.Port}, QdrantKeyFile: key, QdrantEmpty: true})
	if err != nil {
		t.Fatal(err)
	}
	defer stack.Close()
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGTERM)
	<-ended
}

// collected is a bench whose backup holds snapshots of a Qdrant and a file.
type collected struct {
	*drilled
	program string
}

func newCollected(t *testing.T) *collected {
	t.Helper()
	c := &collected{drilled: &drilled{bench: newBench(t)}}
	var err error
	c.scratch, err = os.MkdirTemp("/tmp", "drill")
	c.try(err)
	t.Cleanup(func() { _ = removeTree(c.scratch) })
	programs, err := os.MkdirTemp("/tmp", "drillbin")
	c.try(err)
	t.Cleanup(func() { _ = os.RemoveAll(programs) })
	for _, dir := range []string{c.scratch, programs} {
		c.try(os.Chmod(dir, 0o755)) // an unprivileged user comes here
	}
	self, err := os.Executable()
	c.try(err)
	own := filepath.Join(programs, "own")
	raw, err := os.ReadFile(self)
	c.try(err)
	c.try(os.WriteFile(own, raw, 0o755))
	c.program = filepath.Join(programs, "qdrant")
	c.try(os.WriteFile(c.program, []byte("#!/bin/sh\n"+qdrantEnv+"=1 exec "+own+" -test.run='^TestQdrantChild$' -- \"$@\"\n"), 0o755))
	c.try(os.MkdirAll(c.data, 0o755))
	c.try(os.WriteFile(filepath.Join(c.data, "f"), []byte("f"), 0o644))
	c.cfg.Backup.Sources = map[string]string{"data": c.data}
	c.cfg.Backup.QdrantProgram = c.program
	for _, section := range []string{"postgresql", "redis", "ollama", "docker"} {
		no := false
		c.cfg.Section(section).Enabled = &no
	}
	stack, err := sim.New(sim.Options{Only: []string{"qdrant"}})
	c.try(err)
	t.Cleanup(stack.Close)
	c.cfg.Qdrant.URL = stack.URL("qdrant")
	c.make()
	return c
}

// drillAgain makes a drill of a backup that says or holds something else.
func (c *collected) drillAgain(change func(*backup.Summary), content func(name string, raw []byte) []byte) (*Report, error) {
	c.Helper()
	c.rewrite(change, content)
	r, err := c.drill(c.Context())
	c.clean()
	c.try(backup.Delete(c.cfg.Backup.Directory, c.summary.Name))
	c.make()
	return r, err
}

func TestDrillQdrant(t *testing.T) {
	// An environment of a Qdrant's must not reach ours.
	t.Setenv("QDRANT__SERVICE__HTTP_PORT", "6333")
	c := newCollected(t)
	var points int64
	for _, r := range c.summary.Rows[Qdrant] {
		points += r.Count
	}
	if e := c.summary.Collections["experiences"]; points == 0 || e.Vectors[""] != 896 || len(e.SHA256) != 64 {
		t.Fatalf("the manifest has %v and %v", c.summary.Rows, c.summary.Collections)
	}
	r, err := c.drill(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if !r.Proven() || len(r.NotDrilled)+len(r.Notes) > 0 || r.Snapshots != 2 || r.Points != points {
		t.Errorf("%+v", r)
	}
	c.clean()

	for name, test := range map[string]struct {
		change  func(*backup.Summary)
		content func(string, []byte) []byte
		differs string
	}{
		"points": {func(s *backup.Summary) { s.Rows[Qdrant]["experiences"] = backup.Rows{Count: 1 << 40} }, nil, " points and had 1099511627776"},
		"vectors": {func(s *backup.Summary) {
			e := s.Collections["failures"]
			e.Vectors = map[string]int64{"": 768, "title": 4}
			s.Collections["failures"] = e
		}, nil, "snapshot of failures has vectors of 896 and the collection had 768, title 4"},
		"another's": {func(s *backup.Summary) {
			e := s.Collections["failures"]
			e.SHA256 = strings.Repeat("0", 64)
			s.Collections["failures"] = e
		}, nil, "failures has another SHA-256"},
		"no tar": {nil, func(name string, raw []byte) []byte {
			if strings.HasPrefix(name, backup.QdrantDir) {
				return raw[:len(raw)/2]
			}
			return raw
		}, "snapshot of experiences is none: "},
	} {
		r, err := c.drillAgain(test.change, test.content)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if r.Proven() || !strings.Contains(strings.Join(r.Differences, "\n"), test.differs) {
			t.Errorf("%s: %q", name, r.Differences)
		}
	}

	// One that Qdrant does not take, although it looks like one.
	spoil := func(name string, raw []byte) []byte {
		if strings.HasPrefix(name, backup.QdrantDir) {
			return repacked(t, raw, func(name string, content []byte) []byte {
				if strings.HasSuffix(name, ".tar") {
					return content[:700]
				}
				return content
			})
		}
		return raw
	}
	if _, err := c.drillAgain(func(s *backup.Summary) { s.Collections = nil }, spoil); !errors.Is(err, ErrRestore) {
		t.Errorf("a snapshot that is refused: %v", err)
	}

	// What cannot be tried here is said, and is nobody's fault.
	unproven := func(what, say string, r *Report, err error) {
		t.Helper()
		if err != nil {
			t.Errorf("%s: %v", what, err)
			return
		}
		if !r.Proven() || len(r.NotDrilled) != 1 || !strings.Contains(r.NotDrilled[0], "2 snapshots are whole") || !strings.Contains(r.NotDrilled[0], say) || r.Points > 0 {
			t.Errorf("%s: %q, %q", what, r.Differences, r.NotDrilled)
		}
	}
	for _, version := range []string{"1.20.0", "1.17.3", "2.19.0"} {
		r, err := c.drillAgain(func(s *backup.Summary) { s.Versions = map[string]string{Qdrant: version} }, nil)
		unproven(version, "put the program of that version there", r, err)
	}
	r, err = c.drillAgain(func(s *backup.Summary) { s.Versions, s.Collections = map[string]string{Qdrant: "1.18.2"}, nil }, spoil)
	unproven("refused by the next version", "were made by 1.18.2", r, err)
	c.cfg.Backup.QdrantProgram = "no-such-qdrant"
	r, err = c.drill(t.Context())
	unproven("no program", "docker cp CONTAINER:/qdrant/qdrant", r, err)
	c.clean()

	// A program that does not start proves nothing.
	c.try(os.WriteFile(c.program, []byte("#!/bin/sh\necho no libunwind >&2; exit 1\n"), 0o755))
	c.cfg.Backup.QdrantProgram = c.program
	if r, err := c.drill(t.Context()); err == nil || errors.Is(err, ErrRestore) || !strings.Contains(err.Error(), "no libunwind") {
		t.Errorf("a program that ends: %v, %+v", err, r)
	}
	c.clean()
}

// repacked changes the files of a tar.
func repacked(t *testing.T, raw []byte, change func(name string, content []byte) []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for r := tar.NewReader(bytes.NewReader(raw)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		if content = change(h.Name, content); content == nil {
			continue
		}
		h.Size = int64(len(content))
		if err := errors.Join(w.WriteHeader(h), func() error { _, err := w.Write(content); return err }()); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// What a snapshot must hold is what Qdrant's own recovery asks for.
func TestReadSnapshot(t *testing.T) {
	t.Parallel()
	pack := func(files ...string) []byte {
		var out bytes.Buffer
		w := tar.NewWriter(&out)
		for i := 0; i < len(files); i += 2 {
			if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: files[i], Size: int64(len(files[i+1])), Mode: 0o644}); err != nil {
				t.Fatal(err)
			}
			fmt.Fprint(w, files[i+1])
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		return out.Bytes()
	}
	version := []string{"./version.info", "1.19.0"}
	shard := func(n string) []string { return []string{n + "/shard_config.json", "{}", n + "/segments/a.tar", "x"} }
	of := func(parts ...[]string) []byte { return pack(slices.Concat(parts...)...) }
	config := func(text string) []string { return []string{"./config.json", text} }
	const two = `{"params":{"vectors":{"a":{"size":3,"distance":"Dot"},"b":{"size":4}},"shard_number":2}}`
	const custom = `{"params":{"vectors":{"size":3},"shard_number":1,"sharding_method":"custom"}}`
	keys := func(text string) []string { return []string{"shard_key_mapping.json", text} }
	whole := of(version, config(two), shard("0"), shard("1"))
	for name, test := range map[string]struct {
		raw    []byte
		shards int
		fails  string
	}{
		"two shards":       {whole, 2, ""},
		"named, old":       {of(version, config(custom), keys(`{"x":[7],"y":[9]}`), shard("7"), shard("9")), 2, ""},
		"named, new":       {of(version, config(custom), keys(`[{"key":"x","shard_ids":[7]},{"key":1,"shard_ids":[8]}]`), shard("7"), shard("8")), 2, ""},
		"named, no list":   {of(version, config(custom), shard("0")), 0, "shard_key_mapping.json in it is missing"},
		"named, one gone":  {of(version, config(custom), keys(`{"x":[7,8]}`), shard("7")), 0, "8/shard_config.json is missing"},
		"a shard is gone":  {of(version, config(two), shard("0")), 0, "1/shard_config.json is missing"},
		"an empty shard":   {of(version, config(two), shard("0"), shard("1")[:2]), 0, "the shard 1 has no segments"},
		"no configuration": {of(version, shard("0")), 0, "config.json is missing"},
		"no version":       {of(config(two), shard("0"), shard("1")), 0, "version.info is missing"},
		"not JSON":         {of(version, config("<html>"), shard("0")), 0, "config.json in it cannot be read"},
		"too many shards":  {of(version, config(`{"params":{"shard_number":99999999}}`)), 0, "99999999 shards"},
		"cut":              {whole[:len(whole)-1024], 0, "ends before its end"},
		"cut in a file":    {whole[:len(whole)-1024-513], 0, "it is no whole tar"},
		"HTML":             {[]byte("<html>" + strings.Repeat(" ", 4096)), 0, "it is no whole tar"},
		"nothing":          {nil, 0, "ends before its end"},
	} {
		l, err := readSnapshot(bytes.NewReader(test.raw))
		switch {
		case test.fails == "" && (err != nil || l.shards != test.shards):
			t.Errorf("%s: %d shards, %v", name, l.shards, err)
		case test.fails != "" && (err == nil || !strings.Contains(err.Error(), test.fails)):
			t.Errorf("%s: %v", name, err)
		}
	}
	l, err := readSnapshot(bytes.NewReader(whole))
	if v := l.config.Params.Vectors; err != nil || len(v) != 2 || v["a"] != 3 || v["b"] != 4 {
		t.Errorf("the vectors are %v, %v", v, err)
	}
}
