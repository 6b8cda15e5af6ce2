// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package collector

import (
	"errors"
	"io"
	"os"
)

// There is no procfs here: the collector host is idle unless a copy of one is
// named in the file, as the tests do.

func readHostUsage(string) (hostUsage, error) { return hostUsage{}, errors.ErrUnsupported }

func readHostClock() (hostClock, bool) { return hostClock{}, false }

func readSmallFile(path string, buf []byte) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return buf[:0], err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxProcFile+1))
	if err == nil && len(data) > maxProcFile {
		err = failf(ReasonTooLarge, "%s is larger than %d bytes", path, maxProcFile)
	}
	return append(buf[:0], data...), err
}
