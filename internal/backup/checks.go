// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package backup

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/niodoo/niodoo_exporter/internal/atomicfile"
)

const maxChecksSize = 64 << 10

// Checks is what was done with a backup since it was made, the last time each.
// An attempt that could not find out - no key, no room - is not noted here: it
// proves nothing in either direction.
type Checks struct {
	Version int `json:"version"`
	// SHA256 is the archive's, so that the checks of one file never speak for another.
	SHA256 string `json:"archive_sha256"`
	// Copied off the host by the configured command.
	Copied *Check `json:"copied,omitempty"`
	// Verified byte by byte against the manifest.
	Verified *Check `json:"verified,omitempty"`
	// Drilled by restoring it somewhere else and comparing the rows; its
	// duration is the recovery time.
	Drilled *Check `json:"drilled,omitempty"`
}

// Check is the result of looking at a backup once.
type Check struct {
	Finished time.Time `json:"finished"`
	Seconds  float64   `json:"duration_seconds"`
	OK       bool      `json:"ok"`
	Detail   string    `json:"detail,omitempty"`
}

func (c Checks) validate() error {
	if !sumRE.MatchString(c.SHA256) {
		return errors.New("the archive's SHA-256 is missing")
	}
	for _, k := range []*Check{c.Copied, c.Verified, c.Drilled} {
		if k != nil && (k.Finished.Unix() <= 0 || !(k.Seconds >= 0)) {
			return errors.New("a check has no time or duration")
		}
	}
	return nil
}

// Passed reports whether the check was made and went well.
func (c *Check) Passed() bool { return c != nil && c.OK }

// Failed reports whether the check was made and went wrong.
func (c *Check) Failed() bool { return c != nil && !c.OK }

// ChecksPath returns the path of what is noted about a backup.
func ChecksPath(dir, name string) string { return filepath.Join(dir, name+checksSuffix) }

// WriteChecks replaces what is noted about a backup. The caller holds the lock
// of the directory.
func WriteChecks(dir, name string, c Checks) error {
	c.Version = Version
	if err := c.validate(); err != nil {
		return fmt.Errorf("checks of %s: %w", name, err)
	}
	raw, err := json.MarshalIndent(c, "", "  ")
	if err != nil {
		return fmt.Errorf("checks of %s: %w", name, err)
	}
	if len(raw) >= maxChecksSize {
		return fmt.Errorf("checks of %s: %w", name, ErrTooLarge)
	}
	return atomicfile.Replace(ChecksPath(dir, name), 0o644, func(w io.Writer) error {
		_, err := w.Write(append(raw, '\n'))
		return err
	})
}

// ReadChecks returns what is noted about the backup with that manifest. There
// being nothing is [os.ErrNotExist].
func ReadChecks(dir string, s Summary) (Checks, error) {
	path := ChecksPath(dir, s.Name)
	f, _, err := atomicfile.Open(path)
	if err != nil {
		return Checks{}, err
	}
	defer f.Close()
	c, err := DecodeChecks(f)
	if err != nil {
		return Checks{}, fmt.Errorf("%s: %w", path, err)
	}
	if s.Archive == nil || c.SHA256 != s.Archive.SHA256 {
		return Checks{}, fmt.Errorf("%s: %w: it speaks of another archive", path, ErrDamaged)
	}
	return c, nil
}

// DecodeChecks reads the content of such a file.
func DecodeChecks(r io.Reader) (Checks, error) {
	raw, err := io.ReadAll(io.LimitReader(r, maxChecksSize+1))
	if err != nil {
		return Checks{}, err
	}
	if len(raw) > maxChecksSize {
		return Checks{}, fmt.Errorf("checks: %w: more than %d bytes", ErrTooLarge, maxChecksSize)
	}
	var v struct {
		Version int `json:"version"`
	}
	if err := json.Unmarshal(raw, &v); err != nil {
		return Checks{}, fmt.Errorf("checks: %w: %w", ErrDamaged, err)
	}
	if err := checkVersion("checks", v.Version); err != nil {
		return Checks{}, err
	}
	var c Checks
	if err := json.Unmarshal(raw, &c); err != nil {
		return Checks{}, fmt.Errorf("checks: %w: %w", ErrDamaged, err)
	}
	if err := c.validate(); err != nil {
		return Checks{}, fmt.Errorf("checks: %w: %w", ErrDamaged, err)
	}
	return c, nil
}

// UpdateChecks changes what is noted about the backup with that manifest. The
// caller holds the lock of the directory. A backup that is gone by now is
// [os.ErrNotExist]; notes that cannot be read are begun anew.
func UpdateChecks(dir string, s Summary, change func(*Checks)) error {
	now, err := ReadManifest(dir, s.Name, nil)
	if err != nil {
		return err
	}
	if s.Archive == nil || now.Archive.SHA256 != s.Archive.SHA256 {
		return fmt.Errorf("checks of %s: it is another backup by now", s.Name)
	}
	c, err := ReadChecks(dir, now)
	switch {
	case errors.Is(err, ErrVersion):
		return err
	case errors.Is(err, os.ErrNotExist), errors.Is(err, ErrDamaged), errors.Is(err, ErrTooLarge):
		c = Checks{SHA256: now.Archive.SHA256}
	case err != nil:
		return err
	}
	change(&c)
	if err := atomicfile.RemoveLeftovers(ChecksPath(dir, s.Name)); err != nil {
		return err
	}
	return WriteChecks(dir, s.Name, c)
}
