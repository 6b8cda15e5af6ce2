// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package mixin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"io"
	"maps"
	"math/rand/v2"
	"mime"
	"mime/multipart"
	"net"
	"net/http"
	"net/http/httptest"
	"net/mail"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"
)

// amPatience bounds every wait of the live tests; none lasts that long unless something is broken.
const amPatience = 30 * time.Second

// amServer is a running Alertmanager.
type amServer struct {
	url string
	log *bytes.Buffer // read only after it has ended
}

// amPrograms are the Alertmanagers to test with: ours, and an older one where
// Debian's package is installed.
func amPrograms(t *testing.T) map[string]string {
	t.Helper()
	programs := map[string]string{"built": amTool(t, "alertmanager")}
	if debian, err := exec.LookPath("prometheus-alertmanager"); err == nil {
		programs["debian"] = debian
	}
	return programs
}

// amStart runs an Alertmanager on a free loopback port until the test ends. The
// cluster protocol is off: it would open a second port.
func amStart(t *testing.T, program, config string) *amServer {
	t.Helper()
	addr := amFreeAddress(t)
	s := &amServer{url: "http://" + addr, log: &bytes.Buffer{}}
	cmd := exec.Command(program,
		"--config.file="+config, "--storage.path="+t.TempDir(),
		"--web.listen-address="+addr, "--web.external-url="+s.url, "--cluster.listen-address=")
	cmd.Stdout, cmd.Stderr = s.log, s.log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(ended)
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-ended:
		case <-time.After(10 * time.Second):
			_ = cmd.Process.Kill()
			<-ended
		}
		if t.Failed() {
			t.Logf("Alertmanager wrote:\n%s", s.log)
		}
	})
	amAwait(t, "Alertmanager to be ready", func() bool {
		select {
		case <-ended:
			t.Fatal("Alertmanager ended before it was ready")
		default:
		}
		resp, err := http.Get(s.url + "/-/ready")
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
	return s
}

// amFreeAddress returns a loopback address that was free a moment ago. Its port
// is below those that outgoing connections and other listeners are given.
func amFreeAddress(t *testing.T) string {
	t.Helper()
	for range 100 {
		addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(20000+rand.IntN(12000)))
		if l, err := net.Listen("tcp", addr); err == nil {
			l.Close()
			return addr
		}
	}
	t.Fatal("no free port found on 127.0.0.1")
	return ""
}

// amAwait polls until a condition holds.
func amAwait(t *testing.T, what string, holds func() bool) {
	t.Helper()
	deadline := time.Now().Add(amPatience)
	for !holds() {
		if time.Now().After(deadline) {
			t.Fatalf("waited %s for %s", amPatience, what)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// amPosted is an alert as the API takes it and gives it back.
type amPosted struct {
	Labels       map[string]string `json:"labels"`
	Annotations  map[string]string `json:"annotations,omitempty"`
	StartsAt     time.Time         `json:"startsAt,omitzero"`
	EndsAt       time.Time         `json:"endsAt,omitzero"`
	GeneratorURL string            `json:"generatorURL,omitempty"`
	Status       *amStatus         `json:"status,omitempty"`
}

type amStatus struct {
	InhibitedBy []string `json:"inhibitedBy"`
}

func (s *amServer) post(t *testing.T, alerts ...amPosted) {
	t.Helper()
	body, err := json.Marshal(alerts)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.Post(s.url+"/api/v2/alerts", "application/json", bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(resp.Body)
		t.Fatalf("posting alerts: %s: %s", resp.Status, text)
	}
}

// inhibited tells of every alert, by its labels, whether another silences it.
func (s *amServer) inhibited(t *testing.T) map[string]bool {
	t.Helper()
	resp, err := http.Get(s.url + "/api/v2/alerts")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var alerts []amPosted
	if err := json.NewDecoder(resp.Body).Decode(&alerts); err != nil {
		t.Fatal(err)
	}
	all := map[string]bool{}
	for _, a := range alerts {
		all[amLabelSet(a.Labels).String()] = len(a.Status.InhibitedBy) > 0
	}
	return all
}

// amInhibitions is what is news beside what. An alert is "Name label=value …". It
// is at a cluster and an instance of its own, with the sources that fire, unless
// it says otherwise; HERE is that instance.
var amInhibitions = []struct {
	name     string
	firing   []string // sources
	silenced []string
	heard    []string
}{
	{
		name:   "a dead engine silences its own symptoms",
		firing: []string{"ConsciousnessEngineDown component=engine priority=P1 severity=critical"},
		silenced: []string{
			"HighProcessingLatency component=engine priority=P2 severity=warning",
			"EngineAvailabilityBurn component=engine priority=P1 window=1h",
			"ComponentFlapping component=engine priority=P3",
			"EngineEvents component=engine priority=P4",
		},
		heard: []string{
			"PostgreSQLDown component=postgresql priority=P1",
			"ServiceDown component=redis priority=P2",
			"RedisMemoryHigh component=redis priority=P3",
			"HighDiskUsage component=host priority=P3",
			"HighProcessingLatency component=engine priority=P2 instance=HERE-other",
			"HighProcessingLatency component=engine priority=P2 cluster=another",
			"HighProcessingLatency component=engine priority=P2 cluster=",
			"HighProcessingLatency component=engine priority=P2 instance=",
			"HighProcessingLatency priority=P2 component=",
			"NotOurs component=engine severity=warning",
			"HeartbeatLost component=engine priority=P1",
			"Watchdog component=engine severity=none",
		},
	},
	{
		name:   "a dead database silences its own symptoms and the engine's causes",
		firing: []string{"PostgreSQLDown component=postgresql priority=P1 severity=critical"},
		silenced: []string{
			"DatabaseConnectionFailed component=postgresql priority=P1",
			"PostgreSQLDeadlocks component=postgresql priority=P3",
			"HighProcessingLatency component=engine priority=P2",
			"EngineErrors component=engine priority=P3",
		},
		heard: []string{
			"ConsciousnessEngineDown component=engine priority=P1",
			"MemoryStabilityCritical component=engine priority=P1",
			"RedisMemoryHigh component=redis priority=P3",
			"DashboardsSlow component=grafana priority=P3",
			"DatabaseConnectionFailed component=postgresql priority=P1 instance=HERE-other",
			"HighProcessingLatency component=engine priority=P2 instance=HERE-other",
			"HighProcessingLatency component=engine priority=P2 cluster=another",
			"HighProcessingLatency component=engine priority=P2 instance=",
		},
	},
	{
		name:     "a dead Redis silences the engine's causes",
		firing:   []string{"ServiceDown component=redis priority=P2 severity=warning"},
		silenced: []string{"RedisMemoryHigh component=redis priority=P3", "EngineErrors component=engine priority=P2"},
		heard: []string{
			"ServiceDown component=ollama priority=P2",
			"RequiredModelMissing component=ollama priority=P2",
			"EngineErrors component=engine priority=P2 cluster=another",
		},
	},
	{
		name:   "what the engine needs is told of with the engine, and not once more",
		firing: []string{"EngineDependencyDown component=redis priority=P1 severity=critical", "ConsciousnessEngineDown component=engine priority=P1"},
		silenced: []string{
			"ServiceDown component=redis priority=P2",
			"RedisMemoryHigh component=redis priority=P3",
			"EngineErrors component=engine priority=P2",
		},
		heard: []string{
			"EngineDependencyDown component=ollama priority=P1",
			"PostgreSQLDown component=postgresql priority=P1",
			"ServiceDown component=grafana priority=P2",
			"ServiceDown component=redis priority=P2 instance=HERE-other",
			"ServiceDown component=redis priority=P2 cluster=another",
		},
	},
	{
		name:     "a dead Ollama silences the engine's causes",
		firing:   []string{"ServiceDown component=ollama priority=P2"},
		silenced: []string{"RequiredModelMissing component=ollama priority=P2", "EngineErrors component=engine priority=P2"},
		heard:    []string{"ConsciousnessEngineDown component=engine priority=P1", "EngineErrors component=engine priority=P1"},
	},
	{
		name:     "a dead Prometheus silences Grafana's causes",
		firing:   []string{"ServiceDown component=prometheus priority=P2"},
		silenced: []string{"DashboardsSlow component=grafana priority=P3", "RuleEvaluationSlow component=prometheus priority=P3"},
		heard: []string{
			"ServiceDown component=grafana priority=P2",
			"EngineErrors component=engine priority=P2",
			"DashboardsSlow component=grafana priority=P3 instance=HERE-other",
		},
	},
	{
		name:     "nothing depends on Grafana or Qdrant",
		firing:   []string{"ServiceDown component=grafana priority=P2", "ServiceDown component=qdrant priority=P2"},
		silenced: []string{"QdrantNotGreen component=qdrant priority=P3"},
		heard:    []string{"EngineErrors component=engine priority=P2", "RuleEvaluationSlow component=prometheus priority=P3"},
	},
	{
		name:   "the engine is no dependency of its dependencies",
		firing: []string{"ConsciousnessEngineDown component=engine priority=P1"},
		heard:  []string{"PostgreSQLDeadlocks component=postgresql priority=P3"},
	},
	{
		name:   "what waits for business hours silences nothing",
		firing: []string{"ServiceDown component=redis priority=P3", "NiodooExporterDown component=exporter priority=P3"},
		heard:  []string{"RedisMemoryHigh component=redis priority=P2", "EngineErrors component=engine priority=P2", "HighCPUUsage component=host priority=P3"},
	},
	{
		name:   "a dead exporter silences all it would know",
		firing: []string{"NiodooExporterDown component=exporter priority=P1 severity=critical"},
		silenced: []string{
			"PostgreSQLDown component=postgresql priority=P1",
			"ServiceDown component=redis priority=P2",
			"HighCPUUsage component=host priority=P3",
			"BackupTooOld component=backup priority=P2",
			"NoComponent priority=P3",
		},
		heard: []string{
			"ConsciousnessEngineDown component=engine priority=P1",
			"HeartbeatLost priority=P1",
			"Watchdog severity=none",
			"NotOurs severity=warning",
			"PostgreSQLDown component=postgresql priority=P1 source=niodooctl",
			"NiodooExporterDown component=exporter priority=P1 replica=2",
			"HighCPUUsage component=host priority=P3 instance=HERE-other",
			"HighCPUUsage component=host priority=P3 cluster=another",
			"HighCPUUsage component=host priority=P3 instance=",
		},
	},
	{
		name:     "an outage silences its burn rate",
		firing:   []string{"NiodooEngineOutage component=engine severity=none"},
		silenced: []string{"EngineAvailabilityBurn component=engine priority=P1 window=1h", "EngineAvailabilityBurn component=engine priority=P3 window=3d"},
		heard: []string{
			"ProcessingLatencyBurn component=engine priority=P2",
			"ConsciousnessEngineDown component=engine priority=P1",
			"EngineAvailabilityBurn component=engine priority=P1 instance=HERE-other",
			"EngineAvailabilityBurn component=engine priority=P1 cluster=another",
			"EngineAvailabilityBurn component=engine priority=P1 instance=",
		},
	},
	{
		name:     "maintenance silences what can wait",
		firing:   []string{"MaintenanceInProgress component=operations severity=none"},
		silenced: []string{"HighCPUUsage component=host priority=P3", "HighCPUUsage component=host priority=P4"},
		heard: []string{
			"HighProcessingLatency component=engine priority=P2",
			"PostgreSQLDown component=postgresql priority=P1",
			"HeartbeatLost priority=P3",
			"HighCPUUsage component=host priority=P3 instance=HERE-other",
			"HighCPUUsage component=host priority=P3 cluster=another",
			"HighCPUUsage component=host priority=P3 instance=",
		},
	},
	{
		name:     "information waits for a warning",
		firing:   []string{"InfoInhibitor severity=none"},
		silenced: []string{"BackupNotDrilled component=backup priority=P4 severity=info"},
		heard: []string{
			"BackupTooOld component=backup priority=P2 severity=warning",
			"BackupNotDrilled component=backup priority=P4 severity=info instance=HERE-other",
			"NotOurs severity=info",
		},
	},
	{
		name: "nobody silences an engine that is down or a heartbeat that is lost",
		firing: []string{
			"PostgreSQLDown component=postgresql priority=P1", "ServiceDown component=redis priority=P2", "ServiceDown component=ollama priority=P2",
			"NiodooEngineOutage component=engine severity=none", "MaintenanceInProgress severity=none",
			"ConsciousnessEngineDown component=engine priority=P1", "ConsciousnessEngineDown component=engine priority=P3 severity=info",
			"HeartbeatLost component=engine priority=P1", "HeartbeatLost component=engine priority=P4 severity=info",
			"Watchdog component=engine severity=none", "InfoInhibitor severity=none",
		},
	},
	{
		name: "nothing that lacks an instance silences another that lacks it",
		firing: []string{
			"ConsciousnessEngineDown component=engine priority=P1 instance=", "PostgreSQLDown component=postgresql priority=P1 instance=",
			"NiodooExporterDown priority=P1 instance=", "NiodooEngineOutage severity=none instance=", "MaintenanceInProgress severity=none instance=",
			"InfoInhibitor severity=none instance=",
		},
		heard: []string{
			"HighProcessingLatency component=engine priority=P2 instance=", "EngineAvailabilityBurn component=engine priority=P1 instance=",
			"HighCPUUsage component=host priority=P3 instance=", "BackupNotDrilled priority=P4 severity=info instance=",
			"HighProcessingLatency component=engine priority=P2",
		},
	},
	{
		name:     "a stack without a cluster is one cluster",
		firing:   []string{"ConsciousnessEngineDown component=engine priority=P1 cluster="},
		silenced: []string{"HighProcessingLatency component=engine priority=P2 cluster="},
		heard:    []string{"HighProcessingLatency component=engine priority=P2", "HighProcessingLatency component=engine priority=P2 cluster= instance=HERE-other"},
	},
	{
		name:   "a component missing on both sides is not the same component",
		firing: []string{"ServiceDown priority=P2 component="},
		heard:  []string{"HighProcessingLatency priority=P2 component="},
	},
}

// TestAlertmanagerInhibits asks a real Alertmanager, everything at once: each
// target is at a place of its own with the sources of its case, so that none of
// them is a source for another.
func TestAlertmanagerInhibits(t *testing.T) {
	t.Parallel()
	config := amWrite(t, amNothing)
	type expectation struct {
		about  string
		labels map[string]string
		silent bool
	}
	var sources, targets []amPosted
	var expected []expectation
	places := 0
	place := func() map[string]string {
		places++
		return map[string]string{"cluster": fmt.Sprintf("cluster-%d", places), "instance": fmt.Sprintf("stack-%d:10646", places)}
	}
	expect := func(name, text string, firing []string, silent bool) {
		base := place()
		for _, source := range firing {
			labels := amAlert(base, source)
			sources = append(sources, amPosted{Labels: labels})
			// That no source silences another is expected too.
			expected = append(expected, expectation{name + ": source " + source, labels, false})
		}
		if text == "" {
			return
		}
		labels := amAlert(base, strings.ReplaceAll(text, "HERE", base["instance"]))
		targets = append(targets, amPosted{Labels: labels})
		expected = append(expected, expectation{name + ": " + text, labels, silent})
	}
	for _, tc := range amInhibitions {
		for _, text := range tc.silenced {
			expect(tc.name, text, tc.firing, true)
		}
		for _, text := range tc.heard {
			expect(tc.name, text, tc.firing, false)
		}
		if len(tc.silenced)+len(tc.heard) == 0 {
			expect(tc.name, "", tc.firing, false)
		}
	}
	// Alertmanager works through the sources in order: once the last has its effect, all have.
	const control = "HighProcessingLatency component=engine priority=P2"
	expect("control", control, []string{"ConsciousnessEngineDown component=engine priority=P1"}, true)
	last := amLabelSet(targets[len(targets)-1].Labels).String()

	for name, program := range amPrograms(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := amStart(t, program, config)
			server.post(t, targets...)
			server.post(t, sources...)
			amAwait(t, "the last source to have its effect", func() bool {
				return server.inhibited(t)[last]
			})
			all := server.inhibited(t) // that answer may have looked at others before their sources
			if len(all) != len(expected) {
				t.Errorf("Alertmanager has %d alerts, not %d: two at one place are alike", len(all), len(expected))
			}
			for _, e := range expected {
				if got, known := all[amLabelSet(e.labels).String()]; !known || got != e.silent {
					t.Errorf("%s: silenced %v, want %v", e.about, got, e.silent)
				}
			}
			t.Logf("%d alerts at %d places", len(expected), places)
		})
	}
}

// amMailbox is a mail server that keeps what it is given.
type amMailbox struct {
	addr  string
	mails chan amMail
}

type amMail struct {
	from string
	to   []string
	raw  []byte
}

// amUser and amPassword are the login that the mail server asks for.
const amUser, amPassword = "niodoo", "correct horse battery staple"

func amReceiveMail(t *testing.T) *amMailbox {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	box := &amMailbox{addr: l.Addr().String(), mails: make(chan amMail, 100)}
	server := smtp.NewServer(smtp.BackendFunc(func(*smtp.Conn) (smtp.Session, error) { return &amSession{box: box}, nil }))
	server.AllowInsecureAuth = true
	server.MaxMessageBytes = 1 << 20
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = server.Serve(l)
	}()
	t.Cleanup(func() {
		server.Close()
		<-ended
	})
	return box
}

type amSession struct {
	box    *amMailbox
	mail   amMail
	authed bool
}

func (s *amSession) AuthMechanisms() []string { return []string{sasl.Plain} }

func (s *amSession) Auth(string) (sasl.Server, error) {
	return sasl.NewPlainServer(func(_, user, password string) error {
		if user != amUser || password != amPassword {
			return smtp.ErrAuthFailed
		}
		s.authed = true
		return nil
	}), nil
}

func (s *amSession) Mail(from string, _ *smtp.MailOptions) error {
	if !s.authed {
		return smtp.ErrAuthRequired
	}
	s.mail = amMail{from: from}
	return nil
}

func (s *amSession) Rcpt(to string, _ *smtp.RcptOptions) error {
	s.mail.to = append(s.mail.to, to)
	return nil
}

func (s *amSession) Data(r io.Reader) (err error) {
	if s.mail.raw, err = io.ReadAll(r); err != nil {
		return err
	}
	s.box.mails <- s.mail
	return nil
}

func (s *amSession) Reset()        {}
func (s *amSession) Logout() error { return nil }

// next waits for a mail and takes it apart.
func (b *amMailbox) next(t *testing.T) (m amMail, subject, text, page string) {
	t.Helper()
	select {
	case m = <-b.mails:
	case <-time.After(amPatience):
		t.Fatalf("no mail came in %s", amPatience)
	}
	msg, err := mail.ReadMessage(bytes.NewReader(m.raw))
	if err != nil {
		t.Fatal(err)
	}
	if subject, err = new(mime.WordDecoder).DecodeHeader(msg.Header.Get("Subject")); err != nil {
		t.Fatal(err)
	}
	_, params, err := mime.ParseMediaType(msg.Header.Get("Content-Type"))
	if err != nil {
		t.Fatal(err)
	}
	for parts := multipart.NewReader(msg.Body, params["boundary"]); ; {
		part, err := parts.NextPart() // undoes quoted-printable
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(part)
		if err != nil {
			t.Fatal(err)
		}
		clean := strings.ReplaceAll(string(body), "\r\n", "\n")
		switch kind := part.Header.Get("Content-Type"); {
		case strings.HasPrefix(kind, "text/plain"):
			text = clean
		case strings.HasPrefix(kind, "text/html"):
			page = clean
		default:
			t.Errorf("the mail has a part of type %s", kind)
		}
	}
	for what, s := range map[string]string{"the subject": subject, "the text": text, "the HTML": page} {
		if s == "" {
			t.Errorf("%s is empty", what)
		}
		amClean(t, what, s)
	}
	return m, subject, text, page
}

// amPages serves the pages that notifications link to, and the webhooks.
type amPages struct {
	*httptest.Server
	hooks chan amHook
	slack chan amSlack
}

// amSlack is the part of a Slack message that is ours.
type amSlack struct {
	Channel     string `json:"channel"`
	Attachments []struct {
		Title     string `json:"title"`
		TitleLink string `json:"title_link"`
		Text      string `json:"text"`
	} `json:"attachments"`
}

// amHook is what a webhook was sent.
type amHook struct {
	path, authorization string
	body                struct {
		Alerts []struct {
			Status string            `json:"status"`
			Labels map[string]string `json:"labels"`
		} `json:"alerts"`
	}
}

func amServePages(t *testing.T) *amPages {
	t.Helper()
	p := &amPages{hooks: make(chan amHook, 1000), slack: make(chan amSlack, 100)}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /runbooks/{page}", func(w http.ResponseWriter, r *http.Request) {
		if page := r.PathValue("page"); page != "ConsciousnessEngineDown.md" && page != "PostgreSQLDown.md" {
			http.NotFound(w, r)
		}
	})
	mux.HandleFunc("GET /grafana/d/consciousness-overview", func(w http.ResponseWriter, r *http.Request) {
		if q := r.URL.Query(); q.Get("var-cluster") != "prod" || q.Get("var-instance") != "stack-1:10646" {
			http.NotFound(w, r)
		}
	})
	mux.HandleFunc("GET /graph", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("g0.expr") != `niodoo_component_up{component="engine"} == 0` {
			http.NotFound(w, r)
		}
	})
	mux.HandleFunc("POST /slack", func(w http.ResponseWriter, r *http.Request) {
		var m amSlack
		if err := json.NewDecoder(r.Body).Decode(&m); err != nil || len(m.Attachments) != 1 {
			t.Errorf("Slack was sent something else: %v", err)
		}
		p.slack <- m
		fmt.Fprint(w, "ok")
	})
	mux.HandleFunc("POST /hooks/", func(_ http.ResponseWriter, r *http.Request) {
		h := amHook{path: r.URL.Path, authorization: r.Header.Get("Authorization")}
		if err := json.NewDecoder(r.Body).Decode(&h.body); err != nil {
			t.Errorf("reading what a webhook was sent: %v", err)
		}
		p.hooks <- h
	})
	p.Server = httptest.NewServer(mux)
	t.Cleanup(p.Close)
	return p
}

// next waits for what a webhook is sent.
func (p *amPages) next(t *testing.T) amHook {
	t.Helper()
	select {
	case h := <-p.hooks:
		return h
	case <-time.After(amPatience):
		t.Fatalf("no webhook was called in %s", amPatience)
	}
	return amHook{}
}

var amLink = regexp.MustCompile(`https?://[^\s"<>|]+`)

// amResolve fetches every link of a text.
func amResolve(t *testing.T, text string) (links int) {
	t.Helper()
	for _, link := range amLink.FindAllString(text, -1) {
		resp, err := http.Get(html.UnescapeString(link))
		if err != nil {
			t.Error(err)
			continue
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			t.Errorf("%s: %s", link, resp.Status)
		}
		links++
	}
	return links
}

// TestAlertmanagerNotifies follows alerts through a real Alertmanager to a real
// mail server, to the webhooks and to what it takes for Slack.
func TestAlertmanagerNotifies(t *testing.T) {
	t.Parallel()
	for name, program := range amPrograms(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			box, pages := amReceiveMail(t), amServePages(t)
			secrets := t.TempDir()
			for file, secret := range map[string]string{"smtp": amPassword, "token": "s3cret", "slack": pages.URL + "/slack"} {
				if err := os.WriteFile(filepath.Join(secrets, file), []byte(secret), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			fast := `{ group_wait: '500ms', group_interval: '500ms' }`
			server := amStart(t, program, amWrite(t, fmt.Sprintf(`{
				smtp+: { smarthost: '%s', to: 'oncall@example.com, boss@example.com', requireTLS: false, authUsername: '%s', authPasswordFile: '%s/smtp' },
				webhooks+: { heartbeat: '%s/hooks/heartbeat', incidents: '%s/hooks/incidents' },
				webhookCredentialsFile: '%s/token',
				slack+: { apiURLFile: '%s/slack' },
				routes+: { default+: %s, incidents+: %s, P1+: %s },
			}`, box.addr, amUser, secrets, pages.URL, pages.URL, secrets, secrets, fast, fast, fast)))

			here := map[string]string{"cluster": "prod", "instance": "stack-1:10646", "job": "niodoo"}
			alert := func(text, summary, description string) amPosted {
				labels := amAlert(here, text)
				return amPosted{
					Labels: labels,
					Annotations: map[string]string{
						"summary": summary, "description": description,
						"runbook_url":   pages.URL + "/runbooks/" + labels["alertname"] + ".md",
						"dashboard_url": pages.URL + "/grafana/d/consciousness-overview?var-cluster=prod&var-instance=stack-1:10646",
					},
					StartsAt:     time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
					GeneratorURL: pages.URL + "/graph?g0.expr=niodoo_component_up%7Bcomponent%3D%22engine%22%7D+%3D%3D+0&g0.tab=1",
					EndsAt:       time.Now().Add(time.Hour),
				}
			}
			engine := alert("ConsciousnessEngineDown component=engine priority=P1 severity=critical", "The consciousness engine is down.", "It has not passed its health check for a minute. Reason: refused.")
			postgresql := alert("PostgreSQLDown component=postgresql priority=P1 severity=critical", "PostgreSQL is down.", "No answer on <5432> & counting.")
			server.post(t, engine, postgresql,
				amPosted{Labels: map[string]string{"alertname": "Watchdog", "severity": "none"}},
				amPosted{Labels: amAlert(here, "NiodooEngineOutage severity=none")})

			m, subject, text, markup := box.next(t)
			if m.from != "alerts@yourdomain.com" || !slices.Equal(slices.Sorted(slices.Values(m.to)), []string{"boss@example.com", "oncall@example.com"}) {
				t.Errorf("the mail goes from %s to %v", m.from, m.to)
			}
			if want := "[P1] PostgreSQLDown, ConsciousnessEngineDown - stack-1:10646 (prod) - 2 firing"; subject != want {
				t.Errorf("subject\n got %q\nwant %q", subject, want)
			}
			for _, want := range []string{
				"P1: answer within 15 minutes", "FIRING (2)", "The consciousness engine is down.", "Reason: refused.", "No answer on <5432> & counting.",
				"ConsciousnessEngineDown (P1, critical)", "Component:  engine", "Component:  postgresql", "Cluster:    prod", "Instance:   stack-1:10646",
				"Since:      2026-01-02 03:04:05 UTC", "/runbooks/ConsciousnessEngineDown.md", "/runbooks/PostgreSQLDown.md", "/grafana/d/consciousness-overview",
			} {
				if !strings.Contains(text, want) {
					t.Errorf("the text lacks %q:\n%s", want, text)
				}
			}
			for _, want := range []string{"The consciousness engine is down.", "No answer on &lt;5432&gt; &amp; counting.", "2026-01-02 03:04:05 UTC", ">Runbook</a>"} {
				if !strings.Contains(markup, want) {
					t.Errorf("the HTML lacks %q:\n%s", want, markup)
				}
			}
			// Three for each alert and one for all.
			if t1, t2 := amResolve(t, text), amResolve(t, markup); t1 != 7 || t2 != 7 {
				t.Errorf("%d links in the text and %d in the HTML, want 7 each", t1, t2)
			}

			select {
			case m := <-pages.slack:
				a := m.Attachments[0]
				if m.Channel != "#niodoo" || a.Title != subject || !strings.Contains(a.Text, "No answer on &lt;5432&gt; &amp; counting.") {
					t.Errorf("Slack was sent %+v", m)
				}
				amClean(t, "Slack's text", a.Text)
				if n := amResolve(t, a.TitleLink+"\n"+a.Text); n != 5 {
					t.Errorf("Slack was sent %d links, want 5:\n%s", n, a.Text)
				}
			case <-time.After(amPatience):
				t.Errorf("Slack was sent nothing in %s", amPatience)
			}

			// One is over: it is told apart from the one that is not.
			postgresql.EndsAt = time.Date(2026, 1, 2, 4, 4, 5, 0, time.UTC)
			server.post(t, postgresql)
			_, subject, text, _ = box.next(t)
			if want := "[P1] The consciousness engine is down - stack-1:10646 (prod) - 1 firing, 1 resolved"; subject != want {
				t.Errorf("subject\n got %q\nwant %q", subject, want)
			}
			firing, resolved, _ := strings.Cut(text, "RESOLVED (1)")
			if !strings.Contains(firing, "The consciousness engine is down.") || strings.Contains(firing, "PostgreSQL") ||
				!strings.Contains(resolved, "PostgreSQL is down.") || !strings.Contains(resolved, "Until:      2026-01-02 04:04:05 UTC") {
				t.Errorf("the resolved one is not told apart:\n%s", text)
			}
			engine.EndsAt = time.Date(2026, 1, 2, 5, 4, 5, 0, time.UTC)
			server.post(t, engine)
			if _, subject, _, _ = box.next(t); subject != "[P1] Resolved: The consciousness engine is down - stack-1:10646 (prod) - 1 resolved" {
				t.Errorf("subject %q", subject)
			}

			// An alert of somebody else, with nothing but its name.
			server.post(t, amPosted{Labels: map[string]string{"alertname": "NodeDown"}, EndsAt: time.Now().Add(time.Hour)})
			if _, subject, _, _ = box.next(t); subject != "[ALERT] NodeDown - 1 firing" {
				t.Errorf("subject %q", subject)
			}

			seen := map[string]bool{}
			for !maps.Equal(seen, map[string]bool{"heartbeat": true, "firing": true, "resolved": true}) {
				h := pages.next(t)
				if h.authorization != "Bearer s3cret" {
					t.Errorf("%s was sent the authorization %q", h.path, h.authorization)
				}
				for _, a := range h.body.Alerts {
					switch {
					case h.path == "/hooks/heartbeat":
						seen["heartbeat"] = true
						if a.Labels["alertname"] != "Watchdog" {
							t.Errorf("the heartbeat was sent %v", a.Labels)
						}
					case a.Labels["priority"] != "P1":
						t.Errorf("the incidents were sent %v", a.Labels)
					default:
						seen[a.Status] = true
					}
				}
			}
			// Nothing else was sent to a person: neither the Watchdog nor an inhibitor.
			select {
			case m := <-box.mails:
				t.Errorf("one mail too many:\n%s", m.raw)
			default:
			}
		})
	}
}

// TestAlertmanagerReloads: a running Alertmanager takes every form of the configuration.
func TestAlertmanagerReloads(t *testing.T) {
	t.Parallel()
	for name, program := range amPrograms(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			live := amWrite(t, `{}`)
			server := amStart(t, program, live)
			for _, changes := range []string{amEverything, amNothing, `{ businessHours: null }`, `{ clusterLabel: 'stack' }`} {
				text, err := os.ReadFile(amWrite(t, changes))
				if err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(live, text, 0o600); err != nil {
					t.Fatal(err)
				}
				req, err := http.NewRequestWithContext(context.Background(), http.MethodPost, server.url+"/-/reload", nil)
				if err != nil {
					t.Fatal(err)
				}
				resp, err := http.DefaultClient.Do(req)
				if err != nil {
					t.Fatal(err)
				}
				body, _ := io.ReadAll(resp.Body)
				resp.Body.Close()
				if resp.StatusCode != http.StatusOK {
					t.Errorf("%s: %s: %s", changes, resp.Status, body)
				}
			}
		})
	}
}
