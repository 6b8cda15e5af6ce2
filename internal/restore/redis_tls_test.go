// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package restore

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/niodoo/niodoo_exporter/internal/backup"
	"github.com/niodoo/niodoo_exporter/internal/backup/source"
	"github.com/niodoo/niodoo_exporter/internal/config"
	"github.com/niodoo/niodoo_exporter/internal/localserver"
)

// certificate writes a certificate for 127.0.0.1 that is its own authority.
func certificate(t *testing.T) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for path, block := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "PRIVATE KEY", Bytes: raw}} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cert, key
}

// A Redis that speaks TLS only, wants a certificate of its clients and knows
// users by name is backed up and restored with the rights that the README names.
func TestRedisTLS(t *testing.T) {
	t.Parallel()
	cert, key := certificate(t)
	for _, replication := range []string{"no", "yes"} {
		b := newBench(t)
		r, err := localserver.StartRedis(t.Context(), localserver.RedisOptions{Password: "admin's", TLSCert: cert, TLSKey: key,
			ACL:    []string{"user saver on >s4ver +sync +replconf +info", "user restorer on >s3cret +@admin +@dangerous +@connection", "user filler on >f +@all ~*"},
			Config: []string{"tls-auth-clients yes", "tls-replication " + replication, "appendonly yes"}})
		b.try(err)
		t.Cleanup(r.Stop)
		as := func(user, password string) {
			secret := filepath.Join(t.TempDir(), "secret")
			b.try(os.WriteFile(secret, []byte(password+"\n"), 0o600))
			b.cfg.Redis = config.Redis{Address: r.Addr, Username: user, PasswordFile: config.SecretFile(secret),
				TLSConfig: &config.TLS{CAFile: cert, CertFile: cert, KeyFile: key}}
		}
		as("filler", "f")
		c := b.useRedis(r)
		for i := range 500 {
			b.try(c.Set(t.Context(), fmt.Sprintf("key:%d", i), strings.Repeat("v", i), 0).Err())
		}
		for _, section := range []string{"postgresql", "qdrant", "ollama", "docker"} {
			no := false
			b.cfg.Section(section).Enabled = &no
		}
		b.try(os.MkdirAll(b.data, 0o755))
		b.cfg.Backup.Sources = map[string]string{"data": b.data}

		as("saver", "s4ver")
		at := now.Add(-time.Hour)
		create := func() backup.Summary {
			t.Helper()
			s, err := source.Create(t.Context(), b.cfg, source.Options{Class: backup.Daily, Now: at})
			at = at.Add(-time.Minute)
			b.try(err)
			return s
		}
		if s := create(); len(s.Skipped) > 0 || s.Rows[Redis]["db0"].Count != 500 {
			t.Fatalf("skipped %v, rows %v", s.Skipped, s.Rows)
		}

		b.try(c.FlushAll(t.Context()).Err())
		b.try(c.Set(t.Context(), "since", "then", 0).Err())
		as("restorer", "s3cret")
		done, err := b.restore(Options{Force: true, Only: []string{Redis}})
		if err != nil {
			t.Fatalf("tls-replication %s: %v", replication, err)
		}
		if n := c.DBSize(t.Context()).Val(); n != 500 {
			t.Errorf("tls-replication %s: %d keys, %v", replication, n, done[0].Notes)
		}
		if v := c.ConfigGet(t.Context(), "tls-replication").Val()["tls-replication"]; v != replication {
			t.Errorf("tls-replication is %s and was %s", v, replication)
		}
		r.Kill()
		b.try(r.Start(t.Context()))
		as("filler", "f")
		c = b.useRedis(r)
		b.try(c.loaded(t.Context()))
		if n := c.DBSize(t.Context()).Val(); n != 500 {
			t.Errorf("tls-replication %s: %d keys after a crash", replication, n)
		}

		// Another authority's certificate, and a password that is wrong: said, and no dump.
		other, _ := certificate(t)
		as("saver", "s4ver")
		b.cfg.Redis.TLSConfig.CAFile = other
		for _, want := range []string{"certificate", "WRONGPASS"} {
			if s := create(); len(s.Skipped) != 1 || !strings.Contains(s.Skipped[0].Why, want) {
				t.Errorf("skipped: %v", s.Skipped)
			}
			as("saver", "wrong")
		}
	}
}
