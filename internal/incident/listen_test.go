// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package incident

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/niodoo/niodoo_exporter/internal/config"
	"github.com/niodoo/niodoo_exporter/internal/endpoint"
	"github.com/niodoo/niodoo_exporter/internal/opstate"
	"github.com/niodoo/niodoo_exporter/internal/thresholds"
)

// none has every collector off: what is tested has nothing to look at.
func none() string {
	var b strings.Builder
	for _, name := range []string{"engine", "postgresql", "redis", "ollama", "qdrant", "prometheus", "grafana", "host", "logs", "backup"} {
		fmt.Fprintf(&b, "%s: {enabled: false}\n", name)
	}
	return b.String()
}

// listen runs a listener until the test ends and returns its URL.
func listen(t *testing.T, s Store, section string) string {
	t.Helper()
	url := listenUnready(t, s, section)
	await(t, "the listener is ready and healthy", func() bool {
		return ask(t, "GET", url+"/-/ready", "", "") == 200 && ask(t, "GET", url+"/-/healthy", "", "") == 200
	})
	return url
}

func listenUnready(t *testing.T, s Store, section string) string {
	t.Helper()
	cfg := parse(t, fmt.Sprintf("%soperations: {enabled: false, state_dir: '%s'}\nincident: {evidence_timeout: 5s, listen: {address: '127.0.0.1:0', %s}}\n", none(), s.Dir, section))
	ctx, cancel := context.WithCancel(context.Background())
	ended, address := make(chan error, 1), make(chan string, 1)
	go func() {
		l := NewListener(cfg, thresholds.Default(), slog.New(slog.NewTextHandler(t.Output(), nil)), time.Now)
		ended <- l.Listen(ctx, func(a net.Addr) { address <- a.String() })
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("the listener: %v", err)
		}
	})
	select {
	case a := <-address:
		return "http://" + a
	case err := <-ended:
		ended <- err
		t.Fatalf("the listener ended: %v", err)
		return ""
	}
}

func ask(t *testing.T, method, url, token, body string) int {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if token != "" {
		req.Header.Set("Authorization", token)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode
}

func body(t *testing.T, m Message) string {
	t.Helper()
	raw, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

func TestWebhookAnswers(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	token := filepath.Join(t.TempDir(), "token")
	write(t, token, "s3cret\n")
	url := listen(t, s, "max_open: 1, token_file: '"+token+"'")
	hook := url + "/webhook"
	one, other := body(t, message("one", "a firing 0")), body(t, message("other", "a firing 0"))
	for _, c := range []struct {
		what, method, url, token, body string
		want                           int
	}{
		{"no token", "POST", hook, "", one, 401},
		{"a wrong token", "POST", hook, "Bearer other", one, 401},
		{"another scheme", "POST", hook, "Basic s3cret", one, 401},
		{"GET", "GET", hook, "Bearer s3cret", "", 405},
		{"another path", "POST", url + "/", "Bearer s3cret", one, 404},
		{"not JSON", "POST", hook, "Bearer s3cret", "{", 400},
		{"too large", "POST", hook, "Bearer s3cret", strings.Repeat(" ", maxBody+1), 413},
		{"well", "POST", hook, "Bearer s3cret", one, 200},
		{"again", "POST", hook, "bearer s3cret", one, 200},
		{"no room for another", "POST", hook, "Bearer s3cret", other, 503},
		{"Watchdog has always room", "POST", hook, "Bearer s3cret", body(t, message("w", "Watchdog firing 0")), 200},
		{"health needs no token", "GET", url + "/-/healthy", "", "", 200},
	} {
		if got := ask(t, c.method, c.url, c.token, c.body); got != c.want {
			t.Errorf("%s: %d, want %d", c.what, got, c.want)
		}
	}
	h, err := opstate.Read[opstate.Heartbeat](s.Dir)
	if err != nil || h.Received.IsZero() || h.Listening.IsZero() {
		t.Errorf("the heartbeat is %+v, %v", h, err)
	}
	write(t, token, "rotated")
	if got := ask(t, "POST", hook, "Bearer rotated", one); got != 200 {
		t.Errorf("a rotated token: %d", got)
	}
	// What cannot be kept has to come again.
	id := index(t, s).Open[0].ID
	if err := os.Rename(opstate.Path[opstate.Incidents](s.Dir), s.Dir+"/away"); err != nil {
		t.Fatal(err)
	}
	write(t, opstate.Path[opstate.Incidents](s.Dir), "damaged")
	if got := ask(t, "POST", hook, "Bearer rotated", body(t, message("one", "a firing 0", "b firing 1"))); got != 503 {
		t.Errorf("a damaged index: %d", got)
	}
	if err := os.Rename(s.Dir+"/away", opstate.Path[opstate.Incidents](s.Dir)); err != nil {
		t.Fatal(err)
	}
	if got := ask(t, "POST", hook, "Bearer rotated", body(t, message("one", "a firing 0", "b firing 1"))); got != 200 {
		t.Errorf("a mended index: %d", got)
	}
	if i := index(t, s); len(i.Open) != 1 || i.Open[0].ID != id || i.Totals["P2"].Opened != 1 {
		t.Errorf("%+v", i)
	}
}

// Evidence is taken after the answer, once for what comes together, and an
// incident whose alerts stay resolved is closed.
func TestListenerResponds(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	url := listen(t, s, "interval: 100ms, quiet: 300ms")
	for _, group := range []string{"one", "two", "three"} {
		if got := ask(t, "POST", url+"/webhook", "", body(t, message(group, "a firing 0"))); got != 200 {
			t.Fatal(got)
		}
	}
	open := index(t, s).Open
	own := 0
	for _, in := range open {
		await(t, "the evidence of "+in.ID, func() bool { return strings.HasPrefix(kinds(t, s, in.ID), "opened alert evidence") })
		if _, err := os.Stat(s.Evidence(in.ID) + "/evidence.json"); err == nil {
			own++
		}
	}
	if len(open) != 3 || own != 1 {
		t.Errorf("%d incidents, %d have evidence of their own", len(open), own)
	}
	ask(t, "POST", url+"/webhook", "", body(t, message("one", "a resolved 0")))
	ask(t, "POST", url+"/webhook", "", body(t, truncated(message("two", "a resolved 0"), 1)))
	await(t, "the resolved one is closed", func() bool { return len(index(t, s).Open) == 2 })
	i := index(t, s)
	if i.Closed[0].GroupKey != "one" || slices.ContainsFunc(i.Open, func(in opstate.Incident) bool { return in.GroupKey == "one" }) {
		t.Errorf("%+v", i)
	}
	entries, err := s.Timeline(i.Closed[0].ID)
	if err != nil {
		t.Fatal(err)
	}
	if last := entries[len(entries)-1]; last.Kind != KindClosed || last.At.Sub(last.Ended) < 300*time.Millisecond {
		t.Errorf("%+v", last)
	}
}

// With client certificates asked for, who has none gets nowhere, and a peer
// with one is heard.
func TestMutualTLS(t *testing.T) {
	t.Parallel()
	s, dir := newStore(t), t.TempDir()
	certify(t, dir)
	write(t, dir+"/web.yml", "tls_server_config: {cert_file: cert.pem, key_file: key.pem, client_auth_type: RequireAndVerifyClientCert, client_ca_file: cert.pem}\n")
	url := "https" + strings.TrimPrefix(listenUnready(t, s, "web_config_file: '"+dir+"/web.yml'"), "http")
	with := endpoint.Endpoint{HTTP: config.HTTP{URL: url, TLSConfig: config.TLS{CAFile: dir + "/cert.pem", CertFile: dir + "/cert.pem", KeyFile: dir + "/key.pem"}}}
	await(t, "the listener is healthy", func() bool { _, err := with.Do(t.Context(), "GET", "/-/healthy"); return err == nil })
	without := with
	without.TLSConfig.CertFile, without.TLSConfig.KeyFile = "", ""
	if _, err := without.Do(t.Context(), "GET", "/-/ready"); err == nil || !strings.Contains(err.Error(), "certificate required") {
		t.Errorf("without a certificate: %v", err)
	}
	peers := map[string]config.IncidentPeer{"well": {URL: url, TLSConfig: with.TLSConfig}, "strange": {URL: url, TLSConfig: without.TLSConfig}}
	cfg := parse(t, "operations: {state_dir: '"+newStore(t).Dir+"'}")
	cfg.Incident.Listen.Peers = peers
	d := newDeadMan(cfg, thresholds.Default(), slog.New(slog.DiscardHandler), time.Now)
	d.askPeers(t.Context())
	h, err := opstate.Read[opstate.Heartbeat](cfg.Operations.StateDir)
	if err != nil || len(h.Peers) != 1 || h.Peers["well"].IsZero() {
		t.Errorf("%+v, %v", h, err)
	}
}

// certify writes a certificate for 127.0.0.1, which vouches for itself, and its key.
func certify(t *testing.T, dir string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	cert, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	write(t, dir+"/cert.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert})))
	write(t, dir+"/key.pem", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret})))
}

// Who holds all the connections keeps others waiting, not falling over.
func TestConnectionsAreBounded(t *testing.T) {
	t.Parallel()
	url := listen(t, newStore(t), "interval: 1s")
	http.DefaultClient.CloseIdleConnections()
	var held []net.Conn
	for range maxConnections {
		c, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		held = append(held, c)
	}
	e := endpoint.Endpoint{HTTP: config.HTTP{URL: url}}
	// Its own connection may have been taken before all of the others.
	await(t, "there is no connection left", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		defer cancel()
		_, err := e.Do(ctx, "GET", "/-/ready")
		return err != nil
	})
	for _, c := range held {
		c.Close()
	}
	await(t, "it answers again", func() bool { _, err := e.Do(t.Context(), "GET", "/-/ready"); return err == nil })
}
