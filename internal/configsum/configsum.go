// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

// Package configsum takes the checksums of the stack's configuration files.
package configsum

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/niodoo/niodoo_exporter/internal/config"
	"github.com/niodoo/niodoo_exporter/internal/logscan"
)

const (
	// maxFile bounds a file whose sum is taken, in bytes.
	maxFile  = 16 << 20
	maxFiles = 1000
)

// Take returns the SHA-256 sums, in hex, of the configuration itself and what
// host.config_files names, by path. Directories and what is not there have
// none; the error is of what else could not be read.
func Take(ctx context.Context, cfg *config.Config) (map[string]string, error) {
	sums := map[string]string{}
	var errs []error
	var paths []string
	if cfg.File() != "" {
		own, err := filepath.Abs(cfg.File())
		paths, errs = append(paths, own), append(errs, err)
	}
	for _, pattern := range cfg.Host.ConfigFiles {
		found, err := logscan.Expand(pattern)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
		paths = append(paths, found...)
	}
	if len(paths) > maxFiles {
		errs = append(errs, fmt.Errorf("host.config_files names %d files, and the first %d are looked at", len(paths), maxFiles))
		paths = paths[:maxFiles]
	}
	for _, path := range paths {
		if err := ctx.Err(); err != nil {
			return sums, err
		}
		switch sum, err := of(path); {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			errs = append(errs, err)
		case sum != "":
			sums[path] = sum
		}
	}
	return sums, errors.Join(errs...)
}

// of returns a file's sum, "" for a directory.
func of(path string) (string, error) {
	info, err := os.Stat(path)
	switch {
	case err != nil || info.IsDir():
		return "", err
	case !info.Mode().IsRegular(): // a pipe would be waited for
		return "", fmt.Errorf("%s is not a regular file", path)
	case info.Size() > maxFile:
		return "", fmt.Errorf("%s is larger than %d bytes", path, maxFile)
	}
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, io.LimitReader(f, maxFile)); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
