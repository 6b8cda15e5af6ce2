// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

// Package e2e runs the whole chain as users run it: simulated stacks, the
// exporter's own program and a real Prometheus, all on loopback.
package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/niodoo/niodoo_exporter/internal/localserver"
)

// patience bounds every wait for a condition.
const patience = 60 * time.Second

// Await waits until cond holds and fails the test if it does not in time.
func Await(t testing.TB, what string, cond func() error) {
	t.Helper()
	awaitFor(t, patience, what, cond)
}

// awaitFor is Await with another bound.
func awaitFor(t testing.TB, bound time.Duration, what string, cond func() error) {
	t.Helper()
	var err error
	for deadline := time.Now().Add(bound); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if err = cond(); err == nil {
			return
		}
	}
	t.Fatalf("waited %s in vain until %s: %v", bound, what, err)
}

// Root returns the repository's root.
func Root(t testing.TB) string {
	t.Helper()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	return root
}

// Build builds one of the repository's commands and returns its path.
func Build(t testing.TB, command string) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), command)
	cmd := exec.Command("go", "build", "-o", out, "./cmd/"+command)
	cmd.Dir = Root(t)
	if msg, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("building %s: %v\n%s", command, err, msg)
	}
	return out
}

// Start runs a program until the test ends and returns its process id. Its
// output goes to a file whose end is logged if the test fails.
func Start(t testing.TB, path string, args ...string) (pid int) {
	t.Helper()
	log := filepath.Join(t.TempDir(), filepath.Base(path)+".log")
	f, err := os.Create(log)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path, args...)
	cmd.Stdout, cmd.Stderr = f, f
	ended, err := localserver.StartBound(cmd)
	if err != nil {
		t.Fatalf("starting %s: %v", path, err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-ended:
		case <-time.After(20 * time.Second):
			t.Errorf("%s did not stop on SIGTERM", filepath.Base(path))
			_ = cmd.Process.Kill()
			<-ended
		}
		f.Close()
		if t.Failed() {
			raw, _ := os.ReadFile(log)
			t.Logf("the end of %s:\n%s", log, raw[max(0, len(raw)-4096):])
		}
	})
	return cmd.Process.Pid
}

// Tool returns the path of a program that `make tools` builds.
func Tool(t testing.TB, name string) string {
	t.Helper()
	if p, err := exec.LookPath(name); err == nil {
		return p
	}
	p := filepath.Join(Root(t), ".build", "tools", name)
	if _, err := os.Stat(p); err != nil {
		t.Fatalf("%s is not there: run make tools", name)
	}
	return p
}

// Get returns the body of an HTTP answer of status 200.
func Get(rawURL string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, rawURL, nil)
	if err != nil {
		return "", err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return "", err
	}
	if res.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%s answered %s: %s", rawURL, res.Status, body)
	}
	return string(body), nil
}

// Sample is one element of an instant vector.
type Sample struct {
	Metric map[string]string `json:"metric"`
	Value  [2]any            `json:"value"`
}

// Number returns the sample's value as text, as Prometheus writes it.
func (s Sample) Number() string { return fmt.Sprint(s.Value[1]) }

// Query evaluates an expression in a Prometheus.
func Query(base, expr string) ([]Sample, error) {
	body, err := Get(base + "/api/v1/query?" + url.Values{"query": {expr}}.Encode())
	if err != nil {
		return nil, err
	}
	var res struct {
		Data struct {
			Result []Sample `json:"result"`
		} `json:"data"`
	}
	if err := json.Unmarshal([]byte(body), &res); err != nil {
		return nil, fmt.Errorf("reading the answer to %s: %w", expr, err)
	}
	return res.Data.Result, nil
}

// Replaced returns text with each of the pairs replaced, and fails for one that
// does not occur: the example has changed and the test must follow.
func Replaced(t testing.TB, text string, pairs ...string) string {
	t.Helper()
	for i := 0; i+1 < len(pairs); i += 2 {
		if !strings.Contains(text, pairs[i]) {
			t.Fatalf("%q does not occur", pairs[i])
		}
		text = strings.ReplaceAll(text, pairs[i], pairs[i+1])
	}
	return text
}
