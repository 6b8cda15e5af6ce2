// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package localserver

import (
	"context"
	"crypto/rand"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// QdrantOptions say how a Qdrant server is started.
type QdrantOptions struct {
	// Program is the server's program, by path or by name in PATH.
	Program string
	// Scratch is an existing directory, which the server's user can reach, for all
	// that the server has. Stop leaves it.
	Scratch string
}

// Qdrant is a running Qdrant. It listens on 127.0.0.1 only, and answers only
// who knows the key.
type Qdrant struct {
	*Process
	URL     string
	KeyFile string
}

// StartQdrant starts an empty Qdrant as an unprivileged user and waits until it
// is ready. Nothing of the machine's own configuration of Qdrant is in effect
// but what says nothing about addresses and directories.
func StartQdrant(ctx context.Context, o QdrantOptions) (*Qdrant, error) {
	path, err := exec.LookPath(o.Program)
	if err != nil {
		return nil, fmt.Errorf("%s is %w: copy it out of the image (docker cp CONTAINER:/qdrant/qdrant /usr/local/bin/)", o.Program, ErrNotInstalled)
	}
	if path, err = filepath.Abs(path); err != nil {
		return nil, err
	}
	owner, err := unprivileged("qdrant")
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(o.Scratch, "qdrant")
	if err != nil {
		return nil, err
	}
	q := &Qdrant{KeyFile: filepath.Join(o.Scratch, "qdrant.key")}
	key := rand.Text()
	if err := os.WriteFile(q.KeyFile, []byte(key), 0o600); err != nil {
		return nil, err
	}
	for tries := 1; ; tries++ { // someone else may have taken a port in the meantime
		if q.Process, err = q.start(ctx, path, dir, key, owner); err == nil {
			return q, nil
		}
		if tries == 3 || !strings.Contains(strings.ToLower(err.Error()), "address already in use") {
			return nil, err
		}
	}
}

func (q *Qdrant) start(ctx context.Context, path, dir, key string, owner *syscall.Credential) (*Process, error) {
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	grpc, err := freePort()
	if err != nil {
		return nil, err
	}
	q.URL = "http://" + net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	conf := filepath.Join(dir, "config.yaml")
	content := fmt.Sprintf("log_level: WARN\ntelemetry_disabled: true\n"+
		"storage: {storage_path: %q, snapshots_path: %q, temp_path: %q, snapshots_config: {snapshots_storage: local}}\n"+
		"service: {host: 127.0.0.1, http_port: %d, grpc_port: %d, api_key: %q, enable_tls: false, enable_static_content: false}\n"+
		"cluster: {enabled: false}\n",
		filepath.Join(dir, "storage"), filepath.Join(dir, "snapshots"), filepath.Join(dir, "temp"), port, grpc, key)
	if err := os.WriteFile(conf, []byte(content), 0o600); err != nil {
		return nil, err
	}
	for _, p := range []string{dir, conf} {
		if owner == nil {
			break
		}
		if err := os.Lchown(p, int(owner.Uid), int(owner.Gid)); err != nil {
			return nil, err
		}
	}
	// Variables QDRANT__... would win over the file: the server gets no environment.
	return start(ctx, launch{path: path, args: []string{"--config-path", conf, "--disable-telemetry"}, dir: dir, owner: owner,
		env: []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir}, ready: func(ctx context.Context) error { return q.answers(ctx, key) }})
}

// answers returns nil once the server answers with our key and not without: so
// it cannot be someone else's.
func (q *Qdrant) answers(ctx context.Context, key string) error {
	for _, k := range []string{"", key} {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, q.URL+"/collections", nil)
		if err != nil {
			return err
		}
		want := http.StatusUnauthorized
		if k != "" {
			req.Header.Set("api-key", k)
			want = http.StatusOK
		}
		client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
		res, err := client.Do(req)
		if err != nil {
			return err
		}
		res.Body.Close()
		if res.StatusCode != want {
			return fmt.Errorf("GET /collections: %s", res.Status)
		}
	}
	return nil
}

// Stop ends the server.
func (q *Qdrant) Stop() { q.stop(syscall.SIGTERM) }
