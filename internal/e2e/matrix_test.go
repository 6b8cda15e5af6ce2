// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"cmp"
	"fmt"
	"html"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// How much of the matrix is run, and how: by the Makefile.
const (
	fullEnv   = "NIODOO_E2E"       // "full" is every fault
	matrixEnv = "NIODOO_E2E_TABLE" // where the table is written, without its ending
	lanesEnv  = "NIODOO_E2E_LANES" // stacks at a time
	onlyEnv   = "NIODOO_E2E_ONLY"  // a regular expression of faults
)

// slack is what a machine that has other things to do may add to a detection.
// The full matrix, which says how long detection takes, allows none of it.
const slack = 30 * time.Second

// TestMatrix injects each fault into a stack of its own and follows it through
// exporter, Prometheus, rules and Alertmanager to webhook and mailbox: what
// must be told is told, to the right receiver, whole and in time; nothing else
// is told; and it ends when the fault does.
func TestMatrix(t *testing.T) {
	t.Parallel()
	full := os.Getenv(fullEnv) == "full"
	sim, exporter := Build(t, "niodoo_sim"), Build(t, "niodoo_exporter")
	c := startChain(t, 1)

	// A stack that is well beside them, for all the time: nobody is told anything about it.
	well := startStack(t, sim, exporter, "--machine")
	c.watch(t, "well", well.exporter)

	m := &run{T: t, chain: c, sim: sim, exporter: exporter, full: full, results: map[string]result{}, follow: (*trial).run, table: os.Getenv(matrixEnv)}
	m.prove(slices.DeleteFunc(slices.Clone(matrix), func(p proof) bool { return !full && !p.short }), 6)
	for _, n := range c.inbox.about("well") {
		t.Errorf("the stack that is well was in the news: %+v", n)
	}
	c.inbox.mu.Lock()
	for _, err := range c.inbox.broken {
		t.Errorf("a notification cannot be read: %v", err)
	}
	c.inbox.mu.Unlock()
	c.healthy(t)
	ordered := slices.SortedFunc(maps.Values(m.results), func(a, b result) int { return matrixIndex(a.Fault) - matrixIndex(b.Fault) })
	t.Log(summarize(ordered).String())
}

func matrixIndex(faults string) int {
	return slices.IndexFunc(matrix, func(p proof) bool { return p.faults == faults })
}

// name is the instance that the stack of a proof is.
func (p proof) name() string { return strings.ReplaceAll(p.faults, " ", "+") }

// healthy fails if a rule could not be evaluated.
func (c *chain) healthy(t testing.TB) {
	t.Helper()
	for _, q := range []string{"sum(prometheus_rule_evaluation_failures_total) > 0"} {
		if got, err := Query(c.prometheus, q); err != nil || len(got) > 0 {
			t.Errorf("%s: %v %v", q, got, err)
		}
	}
}

// run is the matrix under way.
type run struct {
	*testing.T
	chain         *chain
	sim, exporter string
	full          bool
	follow        func(*trial) // what is done with a stack
	table         string       // where the table is written, without its ending; "" is nowhere
	atOnce        bool         // every stack at once: none need be forgotten for the next

	mu      sync.Mutex
	results map[string]result
}

// prove tries proofs, so many at a time, or as many and those that the
// environment says. Detection is timed, and a busy machine is late: what fails is
// tried once more with fewer beside it. The table says how often each was tried.
func (m *run) prove(todo []proof, lanes int) {
	m.Helper()
	only := regexp.MustCompile(os.Getenv(onlyEnv))
	todo = slices.DeleteFunc(todo, func(p proof) bool { return !only.MatchString(p.faults) })
	if n, err := strconv.Atoi(os.Getenv(lanesEnv)); err == nil {
		lanes = n
	}
	again := m.all(todo, lanes, 1)
	for _, p := range m.all(again, max(1, lanes/4), 2) {
		m.Errorf("%s: %s", p.faults, strings.Join(m.results[p.faults].Failures, "; "))
	}
}

// all tries proofs, so many at a time, and returns those that failed.
func (m *run) all(todo []proof, lanes, attempt int) []proof {
	var failed []proof
	lane := make(chan struct{}, lanes)
	var wg sync.WaitGroup
	for _, p := range todo {
		lane <- struct{}{}
		wg.Go(func() {
			defer func() { <-lane }()
			r := m.try(p, attempt)
			m.mu.Lock()
			defer m.mu.Unlock()
			m.results[p.faults] = r
			m.write() // a run that is interrupted has something to show
			if !r.OK {
				failed = append(failed, p)
			}
		})
	}
	wg.Wait()
	return failed
}

// write writes the table, if one is asked for. The caller holds the lock.
func (m *run) write() {
	if m.table != "" {
		writeMatrix(m.T, m.table, slices.Collect(maps.Values(m.results)))
	}
}

// try tries a proof in a goroutine of its own, which a fatal failure ends.
func (m *run) try(p proof, attempt int) result {
	began := time.Now()
	r := &trial{T: m.T, chain: m.chain, proof: p, full: m.full, atOnce: m.atOnce, instance: p.name(),
		result: result{Fault: p.faults, Expected: strings.Fields(p.fires), Attempts: attempt}}
	if attempt > 1 {
		r.instance += fmt.Sprint("-", attempt)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer r.begin(m.sim, m.exporter)()
		m.follow(r)
	}()
	<-done
	r.result.OK = len(r.result.Failures) == 0
	m.Logf("%s in %s: %v %v", r.instance, time.Since(began).Round(time.Second), r.result.OK, strings.Join(r.result.Failures, "; "))
	return r.result
}

// trial is a proof under way. Its failures are those of the attempt, not yet of
// the test.
type trial struct {
	*testing.T
	chain    *chain
	proof    proof
	full     bool
	atOnce   bool
	instance string
	stack    *stack
	injected time.Time
	result   result

	mu sync.Mutex
}

func (r *trial) Errorf(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.result.Failures = append(r.result.Failures, fmt.Sprintf(format, args...))
}

func (r *trial) Error(args ...any) { r.Errorf("%s", fmt.Sprint(args...)) }

func (r *trial) Fatalf(format string, args ...any) {
	r.Errorf(format, args...)
	runtime.Goexit()
}

func (r *trial) Fatal(args ...any) { r.Fatalf("%s", fmt.Sprint(args...)) }

func (r *trial) Failed() bool { return len(r.result.Failures) > 0 }

// begin starts the stack and waits until it has been well for a while. The
// function it returns ends it.
func (r *trial) begin(sim, exporter string) (end func()) {
	// The machine is simulated: the true one is busy with us.
	flags := append([]string{"--machine"}, strings.Fields(r.proof.flags)...)
	if !strings.Contains(r.proof.faults, "postgresql") && !strings.Contains(r.proof.faults, "redis") {
		flags = append(flags, "--no-databases")
	}
	r.stack = startStack(r, sim, exporter, flags...)
	r.chain.watch(r, r.instance, r.stack.exporter)
	end = func() {
		if !r.atOnce {
			r.chain.forget(r, r.instance)
		}
		r.stack.end()
	}
	settled := false
	defer func() {
		if !settled {
			end()
		}
	}()
	r.settle(r.instance)
	settled = true
	return end
}

// inject and lift change what is wrong with the stack.
func (r *trial) inject() {
	for f := range strings.FieldsSeq(r.proof.faults) {
		r.stack.inject(r, f)
	}
	r.injected = time.Now()
}

func (r *trial) lift() (lifted time.Time) {
	for f := range strings.FieldsSeq(r.proof.faults) {
		r.stack.lift(r, f)
	}
	return time.Now()
}

// run follows the faults to those who are told.
func (r *trial) run() {
	instance, expected := r.instance, strings.Fields(r.proof.fires)
	r.inject()
	r.awaitTold(instance, expected)
	r.awaitInhibited(instance)
	lifted := r.lift()
	r.awaitResolved(instance, expected)
	r.result.Resolved = time.Since(lifted).Seconds()
	r.judge(instance, expected)
	r.read(instance)
}

// settle waits until the stack has been well for as long as it must have been.
func (r *trial) settle(instance string) {
	quiet := cmp.Or(r.proof.quiet, usually)
	if strings.HasPrefix(r.proof.faults, "gpu") {
		quiet = max(quiet, gpuPace+5*time.Second)
	}
	samples := int(quiet / scrapeEvery)
	deadline := time.Now().Add(quiet + patience)
	Await(r, "the stack is being watched", func() error {
		got, err := Query(r.chain.prometheus, fmt.Sprintf(`up{instance=%q} == 1`, instance))
		if err == nil && len(got) != 1 {
			err = fmt.Errorf("%v", got)
		}
		return err
	})
	for {
		got, err := Query(r.chain.prometheus, fmt.Sprintf(`count_over_time(up{instance=%q}[10m]) >= %d`, instance, samples))
		if err == nil && len(got) == 1 {
			break
		}
		if time.Now().After(deadline) {
			r.Fatalf("the stack was not scraped %d times: %v %v", samples, got, err)
		}
		time.Sleep(100 * time.Millisecond)
	}
	if told := r.chain.inbox.about(instance); len(told) > 0 {
		r.Fatalf("before the fault: %+v", told)
	}
}

// first returns when an alert was first told about, with a status.
func (r *trial) first(instance, alert, status string) (time.Time, notification, bool) {
	for _, n := range r.chain.inbox.about(instance) {
		for _, a := range n.Alerts {
			if a.Labels["alertname"] == alert && a.Status == status {
				return n.at, n, true
			}
		}
	}
	return time.Time{}, notification{}, false
}

// longest bounds the wait for a proof: it is no assertion.
func (r *trial) longest(alerts []string) time.Duration {
	var d time.Duration
	for _, a := range alerts {
		d = max(d, r.bound(a))
	}
	return 2*d + patience
}

// bound is the detection bound of an alert: `for`, its own window, two scrapes,
// a rule interval, group_wait, and group_interval where it may join a group that
// was sent already; and the fault's own onset.
func (r *trial) bound(alert string) time.Duration {
	var longest time.Duration
	for _, x := range r.chain.rules {
		if x.Alert != alert {
			continue
		}
		wait, interval := routeTimes(r, x.Labels["priority"])
		d := parsed(r, x.For) + ownWindow(r, x) + 2*scrapeEvery + evaluateEach + wait + r.proof.onset
		if len(strings.Fields(r.proof.fires+" "+r.proof.may)) > 1 {
			d += interval
		}
		longest = max(longest, d)
	}
	return longest
}

func (r *trial) awaitTold(instance string, alerts []string) {
	deadline := time.Now().Add(r.longest(alerts))
	for _, alert := range alerts {
		for {
			at, n, ok := r.first(instance, alert, "firing")
			if ok {
				took := at.Sub(r.injected)
				bound := r.bound(alert)
				r.result.Detections = append(r.result.Detections, detection{alert, n.Receiver, took.Seconds(), bound.Seconds()})
				allowed := bound
				if !r.full {
					allowed += slack
				}
				if took > allowed {
					r.Errorf("%s was told of after %s; the bound is %s", alert, took.Round(time.Millisecond), bound)
				}
				break
			}
			if time.Now().After(deadline) {
				state, _ := Query(r.chain.prometheus, fmt.Sprintf(`ALERTS{instance=%q}`, instance))
				r.Errorf("%s was not told of in %s; Prometheus has %v", alert, time.Since(r.injected).Round(time.Second), state)
				break
			}
			time.Sleep(50 * time.Millisecond)
		}
	}
}

// awaitInhibited waits until what must be silent is there, and silent.
func (r *trial) awaitInhibited(instance string) {
	for alert := range strings.FieldsSeq(r.proof.inhibited) {
		Await(r, alert+" fires and is silent", func() error {
			all, err := r.chain.active(instance)
			if err != nil {
				return err
			}
			for _, a := range all {
				if a.Labels["alertname"] == alert && len(a.Status.InhibitedBy) > 0 {
					return nil
				}
			}
			return fmt.Errorf("Alertmanager has %v", all)
		})
		if _, _, ok := r.first(instance, alert, "firing"); ok {
			r.Errorf("%s was told of although it is inhibited", alert)
		}
	}
	all, err := r.chain.active(instance)
	if err != nil {
		r.Error(err)
	}
	for _, a := range all {
		if name := a.Labels["alertname"]; len(a.Status.InhibitedBy) > 0 && !slices.Contains(r.result.Inhibited, name) {
			r.result.Inhibited = append(r.result.Inhibited, name)
		}
	}
	slices.Sort(r.result.Inhibited)
}

// awaitResolved waits until every alert that was told of is over.
func (r *trial) awaitResolved(instance string, alerts []string) {
	deadline := time.Now().Add(10 * time.Minute)
	for _, alert := range alerts {
		if _, _, ok := r.first(instance, alert, "firing"); !ok {
			continue // said already
		}
		for {
			if _, _, ok := r.first(instance, alert, "resolved"); ok {
				break
			}
			if time.Now().After(deadline) {
				state, _ := Query(r.chain.prometheus, fmt.Sprintf(`ALERTS{instance=%q}`, instance))
				r.Errorf("%s is not over; Prometheus has %v", alert, state)
				break
			}
			time.Sleep(50 * time.Millisecond)
		}
	}
}

// judge holds what was told to what may be.
func (r *trial) judge(instance string, expected []string) {
	allowed := slices.Concat(expected, strings.Fields(r.proof.may))
	fired := map[string]bool{}
	for _, n := range r.chain.inbox.about(instance) {
		for _, a := range n.Alerts {
			name := a.Labels["alertname"]
			if a.Status != "firing" {
				continue
			}
			fired[name] = true
			if !slices.Contains(allowed, name) && !slices.Contains(r.result.Unexpected, name) {
				r.result.Unexpected = append(r.result.Unexpected, name)
				r.Errorf("%s was told of: %v", name, a.Labels)
			}
			if a.Labels["instance"] != instance || a.Labels["cluster"] != "lab" {
				r.Errorf("the notification about %s has an alert of another: %v", instance, a.Labels)
			}
			if a.Labels["priority"] != n.Receiver {
				r.Errorf("%s of priority %s went to %s", name, a.Labels["priority"], n.Receiver)
			}
		}
	}
	r.result.Fired = slices.Sorted(maps.Keys(fired))
}

// read reads the notifications as people would.
func (r *trial) read(instance string) {
	for _, n := range r.chain.inbox.about(instance) {
		for _, a := range n.Alerts {
			r.links(a.Annotations["runbook_url"], a.Annotations["dashboard_url"])
			for key, text := range a.Annotations {
				r.clean(a.Labels["alertname"]+": "+key, text)
			}
		}
	}
	told := len(r.chain.inbox.about(instance))
	Await(r, "as many mails as calls came", func() error {
		if n := len(r.chain.inbox.lettersAbout(instance)); n < told {
			return fmt.Errorf("%d mails, %d calls", n, told)
		}
		return nil
	})
	letters := r.chain.inbox.lettersAbout(instance)
	if r.proof.subject != "" && !slices.ContainsFunc(letters, func(m letter) bool { return strings.Contains(m.subject, "] "+r.proof.subject) }) {
		r.Errorf("no mail has the subject %q", r.proof.subject)
	}
	if firing := slices.DeleteFunc(r.chain.inbox.about(instance), func(n notification) bool { return n.Status != "firing" }); r.proof.once && len(firing) != 1 {
		r.Errorf("%d notifications: %+v", len(firing), firing)
	}
	for _, m := range letters {
		priority := regexp.MustCompile(`^\[(P[1-4])\] \S`).FindStringSubmatch(m.subject)
		if priority == nil || len(m.to) != 1 || m.to[0] != strings.ToLower(priority[1])+"@example.com" {
			r.Errorf("the mail to %v has the subject %q", m.to, m.subject)
		}
		for what, text := range map[string]string{"subject": m.subject, "text": m.text, "page": m.page} {
			r.clean(what, text)
			for _, link := range anyLink.FindAllString(text, -1) {
				r.links(html.UnescapeString(link))
			}
		}
	}
}

var anyLink = regexp.MustCompile(`https?://[^\s"<>|]+`)

// clean fails for a text that no person should be sent.
func (r *trial) clean(what, text string) {
	for _, bad := range []string{"<no value>", "&lt;no value&gt;", "%!", "NaN", "{{"} {
		if strings.Contains(text, bad) {
			r.Errorf("%s has %q: %s", what, bad, text)
		}
	}
	if strings.TrimSpace(text) == "" {
		r.Errorf("%s is empty", what)
	}
}

// links fails for links that lead nowhere: to a page or dashboard that we do not
// have, or to a server that is none of ours.
func (r *trial) links(links ...string) {
	for _, link := range links {
		u, err := url.Parse(link)
		if err != nil || link == "" {
			r.Errorf("a link is %q: %v", link, err)
			continue
		}
		var file string
		switch _, page, _ := strings.Cut(u.Path, "/docs/runbooks/"); {
		case page != "":
			file = filepath.Join("docs", "runbooks", page)
		case strings.HasPrefix(u.Path, "/d/"):
			file = filepath.Join("dashboards", strings.Split(u.Path, "/")[2]+".json")
		case strings.HasPrefix(u.Path, "/graph"), u.Fragment != "": // of the Prometheus or Alertmanager that said so
			continue
		}
		if _, err := os.Stat(filepath.Join(Root(r), file)); err != nil || file == "" {
			r.Errorf("the link %s leads nowhere: %v", link, err)
		}
	}
}
