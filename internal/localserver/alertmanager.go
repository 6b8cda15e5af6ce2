// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package localserver

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
)

// Alertmanager is a running Alertmanager without a cluster.
type Alertmanager struct {
	*Process
	URL string
	// Dir holds the configuration and the data; Stop removes it.
	Dir string
}

// StartAlertmanager starts an Alertmanager with a configuration file's content
// and waits until it is ready.
func StartAlertmanager(ctx context.Context, config string) (*Alertmanager, error) {
	path, err := find("alertmanager", "prometheus-alertmanager, or run make tools", toolDirs()...)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "niodoo-alertmanager-")
	if err != nil {
		return nil, err
	}
	a := &Alertmanager{Dir: dir}
	file := filepath.Join(dir, "alertmanager.yml")
	if err = os.WriteFile(file, []byte(config), 0o600); err == nil {
		err = a.start(ctx, path, file)
	}
	if err != nil {
		_ = os.RemoveAll(dir)
		return nil, err
	}
	return a, nil
}

func (a *Alertmanager) start(ctx context.Context, path, file string) error {
	port, err := freePort()
	if err != nil {
		return err
	}
	addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	a.URL = "http://" + addr
	a.Process, err = start(ctx, launch{
		path: path, dir: a.Dir, ready: a.ready,
		args: []string{"--config.file=" + file, "--storage.path=" + a.Dir, "--web.listen-address=" + addr, "--cluster.listen-address="},
	})
	return err
}

func (a *Alertmanager) ready(ctx context.Context) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, a.URL+"/-/ready", http.NoBody)
	if err != nil {
		return err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("it answers %s", res.Status)
	}
	return nil
}

// Stop ends the server and removes its directory.
func (a *Alertmanager) Stop() {
	a.stop(syscall.SIGTERM)
	_ = os.RemoveAll(a.Dir)
}

// toolDirs are where make tools puts programs, seen from here and above: tests
// run in their package's directory.
func toolDirs() []string {
	var dirs []string
	for _, up := range []string{".", "..", "../.."} {
		if dir, err := filepath.Abs(filepath.Join(up, ".build", "tools")); err == nil {
			dirs = append(dirs, dir)
		}
	}
	return dirs
}
