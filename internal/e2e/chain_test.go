// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"mime"
	"mime/multipart"
	"net"
	"net/http"
	"net/http/httptest"
	"net/mail"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/emersion/go-smtp"

	"github.com/niodoo/niodoo_exporter/internal/localserver"
)

// chain is what stands between the exporters and the people: a real Prometheus
// and Alertmanager, or two of each, with the shipped rules and routing, and
// those who receive.
type chain struct {
	prometheus   string // base URLs, of the first
	alertmanager string
	targets      string // directory of the files that list the targets
	rules        []rule // scaled
	ruleFiles    []string
	routing      string // Alertmanager's configuration
	inbox        *inbox
	servers      []server
}

// server is one of the chain's servers.
type server struct {
	name, url string
	pid       int
}

// startChain starts the chain with so many of each server; nothing is watched yet.
// The sections are further ones of Prometheus' configuration.
func startChain(t testing.TB, each int, sections ...string) *chain {
	t.Helper()
	dir := t.TempDir()
	c := &chain{targets: filepath.Join(dir, "targets"), inbox: openInbox(t)}
	if err := os.Mkdir(c.targets, 0o700); err != nil {
		t.Fatal(err)
	}
	alerts, rules := scaledRules(t, dir, "alerts.yml")
	recording, _ := scaledRules(t, dir, "recording.yml")
	c.rules, c.ruleFiles = rules, []string{alerts, recording}

	c.routing = filepath.Join(dir, "alertmanager.yml")
	writeFile(t, c.routing, scaledRouting(t, c.inbox.smtp, c.inbox.hooks))
	var gossip, alertmanagers []string
	for range each {
		gossip = append(gossip, fmt.Sprintf("127.0.0.1:%d", freePort(t)))
		alertmanagers = append(alertmanagers, fmt.Sprintf("127.0.0.1:%d", freePort(t)))
	}
	for i, address := range alertmanagers {
		args := []string{"--config.file=" + c.routing, "--storage.path=" + filepath.Join(dir, fmt.Sprint("alertmanager", i)), "--web.listen-address=" + address, "--log.level=warn"}
		if each == 1 {
			args = append(args, "--cluster.listen-address=")
		} else {
			// What a peer waits for the one before it is scaled less than the rest: gossip keeps its pace.
			args = append(args, "--cluster.listen-address="+gossip[i], "--cluster.peer-timeout=3s", "--cluster.settle-timeout=10s")
			for _, peer := range gossip {
				args = append(args, "--cluster.peer="+peer)
			}
		}
		c.serve(t, "alertmanager", address, args...)
	}
	for i := range each {
		config := filepath.Join(dir, fmt.Sprintf("prometheus%d.yml", i))
		writeFile(t, config, fmt.Sprintf(`
global: {scrape_interval: %s, scrape_timeout: %[1]s, evaluation_interval: %s, external_labels: {replica: "%d"}}
rule_files: [%q, %q]
alerting:
  alert_relabel_configs: [{action: labeldrop, regex: replica}]
  alertmanagers: [{static_configs: [{targets: ["%s"]}]}]
scrape_configs:
  - job_name: niodoo
    file_sd_configs: [{files: ["%s/*.json"], refresh_interval: 5s}]
%s`, scrapeEvery, evaluateEach, i, alerts, recording, strings.Join(alertmanagers, `", "`), c.targets, strings.Join(sections, "")))
		address := fmt.Sprintf("127.0.0.1:%d", freePort(t))
		c.serve(t, "prometheus", address, "--config.file="+config, "--storage.tsdb.path="+filepath.Join(dir, fmt.Sprint("data", i)), "--web.listen-address="+address, "--log.level=warn",
			"--rules.alert.resend-delay="+scaledText(t, "1m"))
	}
	c.alertmanager, c.prometheus = c.servers[0].url, c.servers[each].url
	return c
}

// serve starts one of the servers and waits until it is ready.
func (c *chain) serve(t testing.TB, name, address string, args ...string) {
	t.Helper()
	s := server{name, "http://" + address, Start(t, Tool(t, name), args...)}
	Await(t, s.url+" is ready", func() error { _, err := Get(s.url + "/-/ready"); return err })
	c.servers = append(c.servers, s)
}

func writeFile(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// watch lets Prometheus scrape an exporter as an instance.
func (c *chain) watch(t testing.TB, instance, address string) {
	t.Helper()
	text, err := json.Marshal([]any{map[string]any{"targets": []string{address}, "labels": map[string]string{"instance": instance, "cluster": "lab"}}})
	if err != nil {
		t.Fatal(err)
	}
	// Prometheus may read at any moment: the file appears whole.
	path := filepath.Join(c.targets, instance+".json")
	writeFile(t, path+".next", string(text))
	if err := os.Rename(path+".next", path); err != nil {
		t.Fatal(err)
	}
}

// forget ends the watch of an instance, as when a stack is taken out of service.
func (c *chain) forget(t testing.TB, instance string) {
	t.Helper()
	if err := os.Remove(filepath.Join(c.targets, instance+".json")); err != nil {
		t.Fatal(err)
	}
	Await(t, instance+" is forgotten", func() error {
		got, err := Query(c.prometheus, fmt.Sprintf(`up{instance=%q}`, instance))
		if err == nil && len(got) > 0 {
			err = errors.New("it is still scraped")
		}
		return err
	})
}

// stack is a stack in the laboratory, and the exporter that watches it.
type stack struct {
	exporter string // host:port
	faults   string // URL
	end      func()
}

// startStack runs a stack until end is called.
func startStack(t testing.TB, sim, exporter string, flags ...string) *stack {
	t.Helper()
	args := append([]string{"demo", "--exporter=" + exporter, "--exporter-address=127.0.0.1:0", "--control-address=127.0.0.1:0"}, flags...)
	cmd := exec.Command(sim, args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	path := filepath.Join(t.TempDir(), "out")
	out, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout = out
	exited, err := localserver.StartBound(cmd)
	if err != nil {
		t.Fatal(err)
	}
	s := &stack{end: sync.OnceFunc(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-exited:
		case <-time.After(patience):
			_ = cmd.Process.Kill()
			<-exited
			t.Error("niodoo_sim did not stop on SIGTERM")
		}
		out.Close()
		if t.Failed() {
			t.Logf("niodoo_sim wrote:\n%s", stderr.Bytes()[max(0, stderr.Len()-4096):])
		}
	})}
	t.Cleanup(s.end)
	found := regexp.MustCompile(`(?s)metrics +http://(\S+)/metrics\n.*faults +curl (\S+)\n.*Ctrl-C`)
	Await(t, "the stack is up", func() error {
		select {
		case <-exited:
			t.Fatalf("niodoo_sim ended: %s", stderr.String())
		default:
		}
		raw, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		m := found.FindSubmatch(raw)
		if m == nil {
			return fmt.Errorf("it has written %q", raw)
		}
		s.exporter, s.faults = string(m[1]), string(m[2])
		return nil
	})
	return s
}

// inject and lift change what is wrong with the stack.
func (s *stack) inject(t testing.TB, fault string) { s.set(t, http.MethodPut, fault) }
func (s *stack) lift(t testing.TB, fault string)   { s.set(t, http.MethodDelete, fault) }

func (s *stack) set(t testing.TB, method, fault string) {
	t.Helper()
	req, err := http.NewRequest(method, s.faults+"/"+fault, nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := (&http.Client{Timeout: patience}).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if body, _ := io.ReadAll(res.Body); res.StatusCode != http.StatusOK {
		t.Fatalf("%s %s: %s %s", method, fault, res.Status, body)
	}
}

// simFaults lists the faults that there are.
func simFaults(t testing.TB) []string {
	t.Helper()
	out, err := exec.Command(Build(t, "niodoo_sim"), "faults").Output()
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for line := range strings.Lines(string(out)) {
		name, _, _ := strings.Cut(line, " ")
		all = append(all, name)
	}
	return all
}

// notification is what one receiver was told at once.
type notification struct {
	Receiver string
	Status   string
	Alerts   []struct {
		Status              string
		Labels, Annotations map[string]string
	}
	at time.Time
}

// letter is a mail, taken apart.
type letter struct {
	to                  []string
	subject, text, page string
}

// inbox receives notifications by webhook and by mail.
type inbox struct {
	smtp  string // host:port
	hooks string // URL

	mu      sync.Mutex
	told    []notification
	letters []letter
	broken  []error
}

func openInbox(t testing.TB) *inbox {
	t.Helper()
	b := &inbox{}
	web := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		n := notification{at: time.Now()}
		err := json.NewDecoder(r.Body).Decode(&n)
		b.mu.Lock()
		defer b.mu.Unlock()
		if err != nil {
			b.broken = append(b.broken, err)
		}
		b.told = append(b.told, n)
	}))
	t.Cleanup(web.Close)
	b.hooks = web.URL
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b.smtp = l.Addr().String()
	server := smtp.NewServer(smtp.BackendFunc(func(*smtp.Conn) (smtp.Session, error) { return &session{inbox: b}, nil }))
	server.ErrorLog = log.New(io.Discard, "", 0) // a server that is killed hangs up
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = server.Serve(l)
	}()
	t.Cleanup(func() {
		server.Close()
		<-ended
	})
	return b
}

// session is one conversation with our mail server.
type session struct {
	inbox *inbox
	to    []string
}

func (s *session) Mail(string, *smtp.MailOptions) error { s.to = nil; return nil }
func (s *session) Rcpt(to string, _ *smtp.RcptOptions) error {
	s.to = append(s.to, to)
	return nil
}

func (s *session) Data(r io.Reader) error {
	m, err := readLetter(r)
	m.to = s.to
	s.inbox.mu.Lock()
	defer s.inbox.mu.Unlock()
	if err != nil {
		s.inbox.broken = append(s.inbox.broken, err)
	}
	s.inbox.letters = append(s.inbox.letters, m)
	return nil
}

func (s *session) Reset()        {}
func (s *session) Logout() error { return nil }

func readLetter(r io.Reader) (letter, error) {
	var m letter
	msg, err := mail.ReadMessage(r)
	if err != nil {
		return m, err
	}
	if m.subject, err = new(mime.WordDecoder).DecodeHeader(msg.Header.Get("Subject")); err != nil {
		return m, err
	}
	_, params, err := mime.ParseMediaType(msg.Header.Get("Content-Type"))
	if err != nil {
		return m, err
	}
	for parts := multipart.NewReader(msg.Body, params["boundary"]); ; {
		part, err := parts.NextPart() // undoes quoted-printable
		if errors.Is(err, io.EOF) {
			return m, nil
		}
		if err != nil {
			return m, err
		}
		body, err := io.ReadAll(part)
		if err != nil {
			return m, err
		}
		if strings.HasPrefix(part.Header.Get("Content-Type"), "text/html") {
			m.page = string(body)
		} else {
			m.text = string(body)
		}
	}
}

// about returns what was told about an instance, in order.
func (b *inbox) about(instance string) []notification {
	b.mu.Lock()
	defer b.mu.Unlock()
	var all []notification
	for _, n := range b.told {
		if len(n.Alerts) > 0 && n.Alerts[0].Labels["instance"] == instance {
			all = append(all, n)
		}
	}
	return all
}

// lettersAbout returns the mails about an instance.
func (b *inbox) lettersAbout(instance string) []letter {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(b.letters), func(m letter) bool { return !strings.Contains(m.subject, " - "+instance+" (lab) - ") })
}

// activeAlert is an alert as Alertmanager has it.
type activeAlert struct {
	Labels map[string]string `json:"labels"`
	Status struct {
		InhibitedBy []string `json:"inhibitedBy"`
	} `json:"status"`
}

// active returns the alerts about an instance that Alertmanager has.
func (c *chain) active(instance string) ([]activeAlert, error) {
	body, err := Get(c.alertmanager + "/api/v2/alerts?" + url.Values{"filter": {fmt.Sprintf("instance=%q", instance)}}.Encode())
	if err != nil {
		return nil, err
	}
	var all []activeAlert
	return all, json.Unmarshal([]byte(body), &all)
}
