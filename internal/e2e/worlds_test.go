// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-smtp"
	"golang.org/x/sys/unix"

	"github.com/niodoo/niodoo_exporter/internal/sim"
)

// worldFaults are the faults that are not of one stack, and so not among those
// of niodoo_sim: of what the chain is made of, and of the way to a stack.
var worldFaults = map[string]string{
	"smtp-refusing":       "The mail server to which Alertmanager sends answers every sender 554, for good.",
	"smtp-deferring":      "The mail server to which Alertmanager sends answers every recipient 451, for now.",
	"fleet-stack-cut-off": "Nothing arrives at one of the three stacks that an exporter probes: connections to it are neither taken nor refused.",
}

// world is what a proof's faults happen to, where that is more than a stack of
// its own.
type world func(*trial)

// smtpReplies are what a mail server says that does not take a mail.
var smtpReplies = map[string]*smtp.SMTPError{
	"smtp-refusing":  {Code: 554, EnhancedCode: smtp.EnhancedCode{5, 7, 1}, Message: "Rejected"},
	"smtp-deferring": {Code: 451, EnhancedCode: smtp.EnhancedCode{4, 3, 0}, Message: "Try again later"},
}

// mailWorld is a chain of its own, whose mail server can refuse, and an exporter
// that watches its Alertmanager, and an engine that there can be mail about.
func mailWorld(r *trial) {
	r.chain = startChain(r, 1, quick)
	engine, err := sim.New(sim.Options{Age: 6 * time.Hour, Only: []string{"engine"}})
	if err != nil {
		r.Fatal(err)
	}
	r.Cleanup(engine.Close)
	address := r.watchAlone(engine.Config() + sim.Section("alertmanager", map[string]any{"url": r.chain.alertmanager}))
	inbox := r.chain.inbox
	r.stack = &stack{exporter: address, end: func() {}, set: func(t testing.TB, in bool, fault string) {
		reply := smtpReplies[fault]
		switch {
		case reply != nil && in:
			inbox.refusal.Store(reply)
		case reply != nil:
			inbox.refusal.Store(nil)
			// What could not be sent is sent now.
			Await(t, "the mails arrive late", func() error {
				if got, want := len(inbox.lettersAbout(r.instance)), len(inbox.about(r.instance)); got < want {
					return fmt.Errorf("%d mails, %d calls", got, want)
				}
				return nil
			})
		default:
			setFault(t, engine, in, fault)
		}
	}}
	r.chain.watch(r, r.instance, address)
}

// setFault injects or lifts a fault of a simulated stack.
func setFault(t testing.TB, st *sim.Stack, in bool, fault string) {
	t.Helper()
	change := st.Lift
	if in {
		change = st.Inject
	}
	if err := change(fault); err != nil {
		t.Fatal(err)
	}
}

// watchAlone starts an exporter with these sections of a configuration and
// nothing else, and returns where it listens.
func (r *trial) watchAlone(sections string) string {
	r.Helper()
	for _, s := range []string{"engine", "postgresql", "redis", "ollama", "qdrant", "prometheus", "grafana", "host", "logs", "backup", "operations"} {
		if !strings.Contains(sections, "\n"+s+":") && !strings.HasPrefix(sections, s+":") {
			sections += s + ": {enabled: false}\n"
		}
	}
	path := filepath.Join(r.TempDir(), "niodoo.yml")
	writeFile(r, path, sections)
	address := fmt.Sprintf("127.0.0.1:%d", freePort(r))
	Start(r, r.exporter, "--config.file="+path, "--web.listen-address="+address, "--log.level=error")
	Await(r, "the exporter answers", func() error { _, err := Get("http://" + address + "/-/ready"); return err })
	return address
}

// fleetWorld are three stacks that one exporter probes.
func fleetWorld(r *trial) {
	services := []string{"engine", "ollama", "qdrant", "grafana"}
	ports := map[string]int{}
	module := "modules:\n  stack:\n    services:\n"
	for _, s := range services {
		ports[s] = freePort(r)
		module += fmt.Sprintf("      %s: {url: \"http://module:%d\"}\n", s, ports[s])
	}
	address := r.watchAlone(module + "    allow: ['127\\.0\\.2\\.\\d+']\n")
	var stacks []*sim.Stack
	for i, instance := range []string{r.instance, r.instance + "-beside-1", r.instance + "-beside-2"} {
		host := fmt.Sprintf("127.0.2.%d", i+1)
		st, err := sim.New(sim.Options{Seed: uint64(i), Age: 6 * time.Hour, Host: host, Ports: ports, Only: services})
		if err != nil {
			r.Fatal(err)
		}
		r.Cleanup(st.Close)
		stacks = append(stacks, st)
		if i > 0 {
			r.beside = append(r.beside, instance)
		}
		r.chain.probe(r, instance, address, "stack", host)
	}
	r.chain.watch(r, r.instance+"-exporter", address)
	r.beside = append(r.beside, r.instance+"-exporter")
	var holes []blackHole
	r.stack = &stack{exporter: address, end: func() {}, set: func(t testing.TB, in bool, _ string) {
		if !in {
			for _, h := range holes {
				h.close()
			}
			holes = nil
		}
		for _, s := range services { // who listens there must go first, and comes back last
			at := stacks[0].Address(s)
			setFault(t, stacks[0], in, s+"-stopped")
			if in {
				holes = append(holes, openBlackHole(t, at))
			}
		}
	}}
}

// probe lets Prometheus scrape a stack through an exporter's /probe.
func (c *chain) probe(t testing.TB, instance, exporter, module, target string) {
	t.Helper()
	c.target(t, instance, exporter, map[string]string{"__metrics_path__": "/probe", "__param_module": module, "__param_target": target})
}

// blackHole is a port whose queue of connections is full: the kernel drops what
// asks for another, and whoever asks hears nothing, as from a host that is cut off.
type blackHole struct {
	fd     int
	queued []net.Conn
}

func openBlackHole(t testing.TB, address string) blackHole {
	t.Helper()
	at, err := net.ResolveTCPAddr("tcp4", address)
	if err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	h := blackHole{fd: fd}
	if err := errors.Join(unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1),
		unix.Bind(fd, &unix.SockaddrInet4{Port: at.Port, Addr: [4]byte(at.IP.To4())}), unix.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	for range 8 { // one or two fill it
		c, err := net.DialTimeout("tcp", address, 200*time.Millisecond)
		if err, ok := errors.AsType[net.Error](err); ok && err.Timeout() {
			return h
		}
		if err != nil {
			t.Fatal(err)
		}
		h.queued = append(h.queued, c)
	}
	t.Fatalf("%s takes connections without end", address)
	return h
}

func (h blackHole) close() {
	_ = unix.Close(h.fd)
	for _, c := range h.queued {
		_ = c.Close()
	}
}
