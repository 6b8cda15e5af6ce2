// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package source

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/niodoo/niodoo_exporter/internal/backup"
	"github.com/niodoo/niodoo_exporter/internal/config"
)

// ErrNoCopy says that no command is configured.
var ErrNoCopy = errors.New(`backup.copy is empty: write a command, such as [scp, "{archive}", "{manifest}", "host:backups/"]`)

// Copy runs the configured command that takes a backup off the host. The error
// is that there is no command, or that ctx ended; that the command failed is in
// the check.
func Copy(ctx context.Context, cfg config.Backup, s backup.Summary) (backup.Check, error) {
	if len(cfg.Copy) == 0 {
		return backup.Check{}, ErrNoCopy
	}
	started := time.Now()
	argv := CopyCommand(cfg, s)
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	var said tail
	cmd.Stdout, cmd.Stderr = &said, &said
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = stopTimeout
	err := cmd.Run()
	if ctx.Err() != nil {
		return backup.Check{}, ctx.Err()
	}
	c := backup.Check{Finished: time.Now(), Seconds: time.Since(started).Seconds(), OK: err == nil}
	if err != nil {
		c.Detail = printable(fmt.Sprintf("%s: %v: %s", argv[0], err, said.String()))
	}
	return c, nil
}

// CopyCommand returns the command with its arguments: it fills in the names of the backup. A command that has no place for
// them gets the archive's and the manifest's path as its last arguments, the
// manifest last: it makes a backup of the archive.
func CopyCommand(cfg config.Backup, s backup.Summary) []string {
	archive, manifest := filepath.Join(cfg.Directory, s.Archive.File), backup.ManifestPath(cfg.Directory, s.Name)
	fill := strings.NewReplacer("{archive}", archive, "{manifest}", manifest, "{name}", s.Name)
	argv := []string{cfg.Copy[0]}
	placed := false
	for _, a := range cfg.Copy[1:] {
		filled := fill.Replace(a)
		placed = placed || filled != a
		argv = append(argv, filled)
	}
	if !placed {
		argv = append(argv, archive, manifest)
	}
	return argv
}
