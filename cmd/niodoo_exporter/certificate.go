// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"sync"
	"time"

	"go.yaml.in/yaml/v3"
)

// ownCertificate tells when the certificate that --web.config.file names
// expires. The files are read again when they have changed.
type ownCertificate struct {
	webConfig string

	mu     sync.Mutex
	stamps [2]time.Time // modification times of the web configuration and the certificate
	until  time.Time
}

// notAfter returns the expiry, the zero time where there is no certificate or
// it cannot be read: the server itself reports that.
func (o *ownCertificate) notAfter() time.Time {
	if o.webConfig == "" {
		return time.Time{}
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	file, raw := o.certificate()
	stamps := [2]time.Time{modified(o.webConfig), modified(file)}
	if !o.until.IsZero() && stamps == o.stamps {
		return o.until
	}
	if file != "" {
		raw, _ = os.ReadFile(file) // an unreadable file has no certificate in it
	}
	o.stamps, o.until = stamps, firstExpiry(raw)
	return o.until
}

// certificate returns the certificate's file, or the certificate itself where
// the web configuration holds it.
func (o *ownCertificate) certificate() (file string, inline []byte) {
	raw, err := os.ReadFile(o.webConfig)
	if err != nil {
		return "", nil
	}
	var cfg struct {
		TLS struct {
			CertFile string `yaml:"cert_file"`
			Cert     string `yaml:"cert"`
		} `yaml:"tls_server_config"`
	}
	if err := yaml.Unmarshal(raw, &cfg); err != nil || cfg.TLS.CertFile == "" {
		return "", []byte(cfg.TLS.Cert)
	}
	if !filepath.IsAbs(cfg.TLS.CertFile) {
		return filepath.Join(filepath.Dir(o.webConfig), cfg.TLS.CertFile), nil
	}
	return cfg.TLS.CertFile, nil
}

func modified(path string) time.Time {
	st, err := os.Stat(path)
	if err != nil {
		return time.Time{}
	}
	return st.ModTime()
}

// firstExpiry returns when the first certificate of a PEM chain expires.
func firstExpiry(chain []byte) time.Time {
	var first time.Time
	for block, rest := pem.Decode(chain); block != nil; block, rest = pem.Decode(rest) {
		c, err := x509.ParseCertificate(block.Bytes)
		if err == nil && (first.IsZero() || c.NotAfter.Before(first)) {
			first = c.NotAfter
		}
	}
	return first
}
