// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
)

const redacted = "<secret>"

// maxSecretSize bounds a secret's file, in bytes: a larger one is a mistake.
const maxSecretSize = 64 << 10

// SecretFile is the path of a file that holds a secret.
type SecretFile string

// Read returns the file's content without the line break at its end. It is
// called at every connect, so a rotated secret needs no reload. An empty path
// gives an empty secret.
func (f SecretFile) Read() (Secret, error) {
	if f == "" {
		return Secret{}, nil
	}
	file, err := os.Open(string(f))
	if err != nil {
		return Secret{}, fmt.Errorf("reading a secret: %w", err)
	}
	defer file.Close()
	raw, err := readLimited(file, maxSecretSize)
	if err != nil {
		return Secret{}, fmt.Errorf("reading a secret from %s: %w", f, err)
	}
	return Secret{value: strings.TrimRight(string(raw), "\r\n")}, nil
}

// Secret is a value that prints as "<secret>" wherever it ends up.
type Secret struct{ value string }

// Reveal returns the value itself, for the one place that sends it.
func (s Secret) Reveal() string { return s.value }

// String implements fmt.Stringer.
func (s Secret) String() string {
	if s.value == "" {
		return ""
	}
	return redacted
}

// GoString implements fmt.GoStringer, for %#v.
func (s Secret) GoString() string { return s.String() }

// Format implements fmt.Formatter: no verb shows the value.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, s.String()) }

// LogValue implements slog.LogValuer.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// MarshalText implements encoding.TextMarshaler, for JSON and YAML.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// readLimited reads all of r, or says that it is larger than limit bytes.
func readLimited(r io.Reader, limit int64) ([]byte, error) {
	raw, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(raw)) > limit {
		return nil, fmt.Errorf("larger than the limit of %d bytes", limit)
	}
	return raw, nil
}
