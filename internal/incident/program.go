// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package incident

import (
	"context"
	"fmt"
	"os/exec"
	"time"
)

// maxProgram bounds what is kept of a program's output, in bytes.
const maxProgram = 4 << 20

// program runs a program without a shell and returns its output. It ends with
// ctx, and what it has started may not keep us waiting.
func program(ctx context.Context, env []string, name string, args ...string) ([]byte, error) {
	path, err := exec.LookPath(name)
	if err != nil {
		return nil, notLookedAt(name + " is not installed")
	}
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = append([]string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8", "HOME=/nonexistent"}, env...)
	cmd.WaitDelay = time.Second
	var stdout, stderr limited
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return stdout.b, ctx.Err()
		}
		return stdout.b, fmt.Errorf("%s: %w: %s", name, err, cut(oneLine(string(stderr.b)), 500))
	}
	return stdout.b, nil
}

// limited keeps the first bytes written to it.
type limited struct{ b []byte }

func (l *limited) Write(p []byte) (int, error) {
	l.b = append(l.b, p[:min(len(p), maxProgram-len(l.b))]...)
	return len(p), nil
}
