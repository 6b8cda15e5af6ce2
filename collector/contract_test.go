// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/niodoo/niodoo_exporter/internal/config"
)

// The table of what a condition means, for every service at once. What only
// one kind of service can meet is in the collectors' own tests.

// contractServices has a section for each service, in which %s may stand for
// more keys, and the key of a secret's file, "" where it takes none.
var contractServices = map[string]struct{ section, secret string }{
	"engine":       {`{url: "http://service:1"%s}`, "authorization: {credentials_file: %q}"},
	"pipeline":     {`{urls: ["http://service:1/metrics"]%s}`, "authorization: {credentials_file: %q}"},
	"postgresql":   {`{host: service%s}`, "password_file: %q"},
	"redis":        {`{address: "service:1"%s}`, "password_file: %q"},
	"ollama":       {`{url: "http://service:1"%s}`, "authorization: {credentials_file: %q}"},
	"vllm":         {`{url: "http://service:1"%s}`, "basic_auth: {username: u, password_file: %q}"},
	"qdrant":       {`{url: "http://service:1"%s}`, "authorization: {credentials_file: %q}"},
	"prometheus":   {`{url: "http://service:1"%s}`, "authorization: {credentials_file: %q}"},
	"grafana":      {`{url: "http://service:1"%s}`, "authorization: {credentials_file: %q}"},
	"alertmanager": {`{url: "http://service:1"%s}`, "authorization: {credentials_file: %q}"},
	"loki":         {`{url: "http://service:1"%s}`, "authorization: {credentials_file: %q}"},
	"docker":       {`{host: "tcp://service:1"%s}`, ""},
}

func contractNames(t *testing.T) []string {
	t.Helper()
	var names []string
	for _, i := range config.Sections {
		if i.Local {
			continue
		}
		if contractServices[i.Name].section == "" {
			t.Errorf("the service %s is not in the table", i.Name)
			continue
		}
		names = append(names, i.Name)
	}
	return names
}

// What goes wrong before the service has said a word: the component is down,
// whatever our own system says, and the reason tells what to look at.
func TestContractConnections(t *testing.T) {
	t.Parallel()
	type dialer func(context.Context, string, string) (net.Conn, error)
	failing := func(err error) dialer {
		return func(_ context.Context, network, _ string) (net.Conn, error) {
			return nil, &net.OpError{Op: "dial", Net: network, Err: err}
		}
	}
	call := func(errno syscall.Errno) dialer { return failing(os.NewSyscallError("connect", errno)) }
	serving := func(f func(net.Conn)) dialer {
		return func(context.Context, string, string) (net.Conn, error) {
			ours, theirs := net.Pipe()
			go func() {
				defer theirs.Close()
				f(theirs)
			}()
			return ours, nil
		}
	}
	for _, c := range []struct {
		name   string
		dial   dialer
		reason Reason
	}{
		{"refused", call(syscall.ECONNREFUSED), ReasonRefused},
		{"host unreachable", call(syscall.EHOSTUNREACH), ReasonRefused},
		{"network unreachable", call(syscall.ENETUNREACH), ReasonRefused},
		{"no socket file", call(syscall.ENOENT), ReasonRefused},
		{"no right to the socket file", call(syscall.EACCES), ReasonPermission},
		{"packet filter", call(syscall.EPERM), ReasonPermission},
		{"connect timed out", call(syscall.ETIMEDOUT), ReasonTimeout},
		{"no such name", failing(&net.DNSError{Err: "no such host", Name: "service", IsNotFound: true}), ReasonDNS},
		{"name server fails", failing(&net.DNSError{Err: "server misbehaving", Name: "service", IsTemporary: true}), ReasonDNS},
		{"black hole", func(ctx context.Context, _, _ string) (net.Conn, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}, ReasonTimeout},
		{"silence", serving(func(c net.Conn) {
			for buf := make([]byte, 4096); ; {
				if _, err := c.Read(buf); err != nil {
					return
				}
			}
		}), ReasonTimeout},
		{"closed at once", serving(func(net.Conn) {}), ReasonProtocol},
		{"closed after the question", serving(func(c net.Conn) { _, _ = c.Read(make([]byte, 4096)) }), ReasonProtocol},
		{"another protocol", serving(func(c net.Conn) {
			_, _ = c.Read(make([]byte, 4096))
			fmt.Fprint(c, "220 mail.example.com ESMTP\r\n")
		}), ReasonProtocol},
		{"panic", func(context.Context, string, string) (net.Conn, error) { panic("boom") }, ReasonPanic},
	} {
		names := contractNames(t)
		if c.reason == ReasonPanic { // net/http dials in a goroutine of its own
			names = []string{"postgresql", "redis"}
		}
		for _, name := range names {
			t.Run(c.name+"/"+name, func(t *testing.T) {
				t.Parallel()
				timeout := 20 * time.Second // a loaded machine is not what is tested
				if c.reason == ReasonTimeout {
					timeout = 300 * time.Millisecond
				}
				section := fmt.Sprintf(contractServices[name].section, ", timeout: "+timeout.String())
				s := scraperWith(t, only(t, name, section), Deps{DialContext: c.dial}, Options{})
				expectFailureOf(t, s, name, false, c.reason, 2*timeout)
			})
		}
	}
}

// A secret of ours that cannot be read is our fault, and says nothing about a
// service that nobody has asked.
func TestContractOwnConfiguration(t *testing.T) {
	t.Parallel()
	for _, name := range contractNames(t) {
		if contractServices[name].secret == "" {
			continue
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			secret := fmt.Sprintf(contractServices[name].secret, filepath.Join(t.TempDir(), "none"))
			asked := false
			s := scraperWith(t, only(t, name, fmt.Sprintf(contractServices[name].section, ", "+secret)), Deps{
				DialContext: func(context.Context, string, string) (net.Conn, error) {
					asked = true
					return nil, &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}
				},
			}, Options{})
			expectFailureOf(t, s, name, false, ReasonConfig, 10*time.Second)
			if asked && name != "postgresql" { // which looks whether the server asks who we are, as pg_isready does
				t.Error("it connected without the secret")
			}
		})
	}
}

// A JSON answer that is cut off although it is whole as HTTP goes.
func TestContractTruncated(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"engine", "ollama", "qdrant", "grafana", "alertmanager", "loki"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url := serve(t, http.StatusOK, "application/json", `{"status": "ok", "models": [{"name`).URL
			up := name == "qdrant" || name == "alertmanager" // whose health is a sentence for people
			expectFailure(t, only(t, name, fmt.Sprintf("{url: %q}", url)), name, up, ReasonParse)
		})
	}
}

// Whatever a collector does, a panic after health was known leaves it alone.
func TestContractPanicAfterHealth(t *testing.T) {
	t.Parallel()
	for _, name := range contractNames(t) {
		u := testUnit(name, func(_ context.Context, ch chan<- prometheus.Metric) error {
			status{up: true}.send(ch, name)
			panic("boom")
		})
		res := testScraper(u).Scrape(t.Context(), time.Second, nil)
		if !isUp(1, res, name) || !failedWith(res, name, ReasonPanic) || len(res.Failures) != 1 {
			t.Errorf("%s:\n%s", name, text(res.Families))
		}
	}
}

// reservedLabels are Prometheus' own, those that targets are told apart by,
// and one that says nothing.
var reservedLabels = []string{"type", "instance", "service", "job", "cluster", "env", "id", "error", "message", "le", "quantile"}

// Every declaration holds to the naming rules, whether or not a test scrapes it.
func TestContractCatalogue(t *testing.T) {
	t.Parallel()
	for _, d := range Catalogue() {
		if d.Collector == "test" {
			continue
		}
		for _, l := range d.Labels {
			if slices.Contains(reservedLabels, l) {
				t.Errorf("%s has the label %s", d.Name, l)
			}
			if l == "component" && !strings.Contains(d.Name, "_component_") {
				t.Errorf("%s has the label component, but is not about components", d.Name)
			}
		}
		for _, c := range []struct {
			bad  bool
			what string
		}{
			{strings.HasSuffix(d.Name, "_total") != (d.TypeName() == "counter"), "_total is for counters, and they have it"},
			{strings.HasSuffix(d.Name, "_info") && !strings.Contains(d.Help, "the value is 1"), "the HELP of an _info says that the value is 1"},
			{strings.HasSuffix(d.Name, "_info") && len(d.Labels) == 0, "an _info has labels"},
			// What started when has the name that Prometheus' own libraries give it.
			{strings.HasPrefix(d.Help, "Time at which") && !strings.HasSuffix(d.Name, "_timestamp_seconds") &&
				!strings.HasSuffix(d.Name, "_start_time_seconds") && !strings.HasSuffix(d.Name, "_boot_time_seconds"),
				"a moment is a _timestamp_seconds, or a _start_time_seconds"},
			{strings.HasSuffix(d.Name, "_start_timestamp_seconds") && !strings.Contains(d.Name, "_last_"), "what runs has a _start_time_seconds"},
			{strings.HasSuffix(d.Name, "_timestamp_seconds") && !strings.HasPrefix(d.Help, "Time ") && !strings.HasPrefix(d.Help, "Moment "), "the HELP of a moment begins with Time or Moment"},
			{strings.HasSuffix(d.Help, "."), "HELP gets its full stop when it is written"},
			{d.Help == "" || d.Source == "", "HELP and source are there"},
			{strings.Contains(d.Name, "_ms") || strings.Contains(d.Name, "percent") || strings.Contains(d.Name, "_mb"), "base units"},
			{d.Name != strings.ToLower(d.Name), "lower case"},
		} {
			if c.bad {
				t.Errorf("%s: %s (HELP: %s)", d.Name, c.what, d.Help)
			}
		}
		for word := range strings.FieldsFuncSeq(d.Help, func(r rune) bool { return r != '_' && (r < 'a' || r > 'z') && (r < '0' || r > '9') }) {
			if other := strings.TrimSuffix(strings.TrimSuffix(word, "_sum"), "_count"); strings.HasPrefix(word, "niodoo_") && catalogue[other] == nil {
				t.Errorf("%s: HELP names %s, which does not exist", d.Name, word)
			}
		}
	}
}

// Where two metrics look alike each HELP names the other.
func TestContractLookAlikes(t *testing.T) {
	t.Parallel()
	for _, pair := range [][2]string{
		{"niodoo_consciousness_processing_time_seconds", "niodoo_consciousness_processing_duration_seconds"},
		{"niodoo_engine_response_time_seconds", "niodoo_component_response_seconds"},
		{"niodoo_consciousness_memory_coherence_ratio", "niodoo_memory_coherence_ratio"},
		{"niodoo_consciousness_toroidal_coherence_score", "niodoo_memory_toroidal_coherence_score"},
		{"niodoo_consciousness_events_total", "niodoo_consciousness_events_per_second"},
		{"niodoo_engine_cpu_usage_ratio", "niodoo_host_cpu_seconds_total"},
		{"niodoo_engine_gpu_usage_ratio", "niodoo_gpu_utilization_ratio"},
		{"niodoo_engine_requests_total", "niodoo_engine_requests_per_second"},
		{"niodoo_operations_drill_last_success_timestamp_seconds", "niodoo_backup_last_drill_timestamp_seconds"},
		{"niodoo_operations_drill_last_recovery_seconds", "niodoo_backup_last_recovery_seconds"},
	} {
		for i := range pair {
			d, other := catalogue[pair[i]], pair[1-i]
			if d == nil || !strings.Contains(d.Help, other) {
				t.Errorf("%s: HELP does not name %s", pair[i], other)
			}
		}
	}
}
