// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package backup

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"filippo.io/age"

	"github.com/niodoo/niodoo_exporter/internal/config"
)

// Recipients returns the keys that archives are encrypted to, and how they are
// written; none for archives that anyone can read.
func Recipients(cfg config.Backup) ([]age.Recipient, []string, error) {
	var all []age.Recipient
	var keys []string
	for i, r := range cfg.Recipients {
		// The library's parser takes whole files, and knows every kind.
		parsed, err := age.ParseRecipients(strings.NewReader(r))
		if err != nil {
			return nil, nil, fmt.Errorf("backup.recipients[%d]: %w", i, err)
		}
		all = append(all, parsed...)
	}
	if path := cfg.RecipientsFile; path != "" {
		f, err := os.Open(path)
		if err != nil {
			return nil, nil, fmt.Errorf("backup.recipients_file: %w", err)
		}
		defer f.Close()
		parsed, err := age.ParseRecipients(f)
		if err != nil {
			return nil, nil, fmt.Errorf("backup.recipients_file: %s: %w", path, err)
		}
		all = append(all, parsed...)
	}
	for _, r := range all {
		if s, ok := r.(fmt.Stringer); ok {
			keys = append(keys, s.String())
		}
	}
	return all, slices.Compact(keys), nil
}

// Identities returns the keys that open encrypted archives again, none if there
// are none on this host.
func Identities(cfg config.Backup) ([]age.Identity, error) {
	if cfg.IdentityFile == "" {
		return nil, nil
	}
	f, err := os.Open(cfg.IdentityFile)
	if err != nil {
		return nil, fmt.Errorf("backup.identity_file: %w", err)
	}
	defer f.Close()
	ids, err := age.ParseIdentities(f)
	if err != nil {
		return nil, fmt.Errorf("backup.identity_file: %s cannot be read as age identities", cfg.IdentityFile) // its text may hold a key
	}
	return ids, nil
}
