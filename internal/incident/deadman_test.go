// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package incident

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"mime/quotedprintable"
	"net/mail"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/niodoo/niodoo_exporter/internal/config"
	"github.com/niodoo/niodoo_exporter/internal/notify/notifytest"
	"github.com/niodoo/niodoo_exporter/internal/opstate"
	"github.com/niodoo/niodoo_exporter/internal/thresholds"
)

// TestSilence plays what happens by the minute: "start" a listener, "heard" from
// Watchdog, "peer" from the peer, "away" for one that is killed. A mail that is
// expected stands after it as its minute and subject's end.
func TestSilence(t *testing.T) {
	t.Parallel()
	const lost, back = "alerts do not arrive any more", "alerts arrive again"
	for name, c := range map[string]struct {
		events map[int]string
		until  int
		want   []string
	}{
		"never heard":                   {map[int]string{0: "start"}, 40, []string{"10 " + lost}},
		"heard all the time":            {map[int]string{0: "start", 5: "heard", 10: "heard", 15: "heard"}, 24, nil},
		"lost and back":                 {map[int]string{0: "start", 5: "heard", 30: "heard"}, 39, []string{"15 " + lost, "30 " + back}},
		"lost, back and lost":           {map[int]string{0: "start", 5: "heard", 30: "heard"}, 60, []string{"15 " + lost, "30 " + back, "40 " + lost}},
		"restarted during the silence":  {map[int]string{0: "start", 5: "heard", 9: "start", 12: "start", 14: "start"}, 40, []string{"15 " + lost}},
		"restarted before ever heard":   {map[int]string{0: "start", 4: "start", 8: "start"}, 40, []string{"10 " + lost}},
		"restarted after it was told":   {map[int]string{0: "start", 5: "heard", 20: "start", 30: "heard"}, 39, []string{"15 " + lost, "30 " + back}},
		"away for long":                 {map[int]string{0: "start", 5: "heard", 6: "away", 40: "start"}, 60, []string{"50 " + lost}},
		"away for long, heard again":    {map[int]string{0: "start", 5: "heard", 6: "away", 40: "start", 45: "heard"}, 54, nil},
		"told, away for long":           {map[int]string{0: "start", 5: "heard", 20: "away", 40: "start"}, 60, []string{"15 " + lost}},
		"told, away for long, and back": {map[int]string{0: "start", 5: "heard", 20: "away", 40: "start", 41: "heard"}, 50, []string{"15 " + lost, "41 " + back}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStore(t)
			box, cfg := mailing(t, s, "")
			now := at
			var d *deadMan
			var got []string
			for minute := range c.until {
				now = at.Add(time.Duration(minute) * time.Minute)
				switch c.events[minute] {
				case "start":
					d = newDeadMan(cfg, thresholds.Default(), slog.New(slog.DiscardHandler), func() time.Time { return now })
				case "away":
					d = nil
				case "heard":
					if err := d.heard(t.Context(), opstate.Watchdog); err != nil {
						t.Fatal(err)
					}
				}
				if d == nil {
					continue
				}
				if err := d.alive(t.Context()); err != nil {
					t.Fatal(err)
				}
				before := len(mails(t, box))
				d.tell(t.Context())
				for _, m := range mails(t, box)[before:] {
					_, what, _ := strings.Cut(m.Subject, ": ")
					got = append(got, fmt.Sprint(minute, " ", what))
				}
			}
			if d := cmp.Diff(c.want, got); d != "" {
				t.Error(d)
			}
		})
	}
}

// mailing is a relay, and a configuration that mails through it.
func mailing(t *testing.T, s Store, more string) (*notifytest.Relay, *config.Config) {
	t.Helper()
	box := notifytest.Start(t, notifytest.RelayOptions{})
	return box, parse(t, fmt.Sprintf("operations: {state_dir: '%s'}\nnotify: {smtp: {smarthost: '%s', from: niodoo@example.com, to: [boss@example.com], require_tls: false}}\n%s",
		s.Dir, box.Addr, more))
}

// sent is a mail taken apart.
type sent struct{ Subject, Text string }

func mails(t *testing.T, r *notifytest.Relay) []sent {
	t.Helper()
	var all []sent
	for _, m := range r.Messages() {
		msg, err := mail.ReadMessage(strings.NewReader(m.Raw))
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(quotedprintable.NewReader(msg.Body))
		if err != nil {
			t.Fatal(err)
		}
		subject, err := new(mime.WordDecoder).DecodeHeader(msg.Header.Get("Subject"))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, sent{subject, string(text)})
	}
	return all
}

// A mail that fails is tried again, and the silence is told once in the end.
func TestSilenceUntold(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	box, cfg := mailing(t, s, "incident: {listen: {interval: 100ms, silence: 200ms, peers: {b: {url: 'http://127.0.0.1:1'}}}}")
	address := cfg.Notify.SMTP.Smarthost
	cfg.Notify.SMTP.Smarthost = "127.0.0.1:1"
	now := at
	d := newDeadMan(cfg, thresholds.Default(), slog.New(slog.DiscardHandler), func() time.Time { return now })
	if err := d.alive(t.Context()); err != nil {
		t.Fatal(err)
	}
	now = at.Add(time.Minute)
	d.tell(t.Context())
	h, err := opstate.Read[opstate.Heartbeat](s.Dir)
	if err != nil || len(h.Told) != 0 {
		t.Fatalf("told %v, %v", h.Told, err)
	}
	cfg.Notify.SMTP.Smarthost = address
	await(t, "both silences are told", func() bool { d.tell(t.Context()); return len(mails(t, box)) == 2 })
	d.askPeers(t.Context())
	d.tell(t.Context())
	if n := len(mails(t, box)); n != 2 {
		t.Errorf("%d mails", n)
	}
	has(t, mails(t, box)[1].Subject, "the listener b is silent")
	if h, err = opstate.Read[opstate.Heartbeat](s.Dir); err != nil || len(h.Told) != 2 {
		t.Errorf("told %v, %v", h.Told, err)
	}
}

// A silence is told once even while the disk is full.
func TestSilenceOnAFullDisk(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	box, cfg := mailing(t, s, "incident: {listen: {interval: 100ms, silence: 200ms}}")
	now := at
	d := newDeadMan(cfg, thresholds.Default(), slog.New(slog.DiscardHandler), func() time.Time { return now })
	if err := d.alive(t.Context()); err != nil {
		t.Fatal(err)
	}
	now = at.Add(time.Minute)
	d.patience = 100 * time.Millisecond
	unlock := holdLock(t, s.Dir)
	for range 2 {
		d.tell(t.Context()) // mails, and cannot write
	}
	unlock()
	if n := len(mails(t, box)); n != 1 {
		t.Fatalf("%d mails", n)
	}
	d.tell(t.Context())
	h, err := opstate.Read[opstate.Heartbeat](s.Dir)
	if err != nil || len(h.Told) != 1 || len(mails(t, box)) != 1 || len(d.pending) != 0 {
		t.Errorf("told %v, %v; %d mails, %v pending", h.Told, err, len(mails(t, box)), d.pending)
	}
}

// What was heard and could not be written down was heard all the same.
func TestHeardOnAFullDisk(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	box, cfg := mailing(t, s, "")
	now := at
	d := newDeadMan(cfg, thresholds.Default(), slog.New(slog.DiscardHandler), func() time.Time { return now })
	if err := d.alive(t.Context()); err != nil {
		t.Fatal(err)
	}
	unlock := holdLock(t, s.Dir)
	defer unlock()
	for range 4 {
		now = now.Add(5 * time.Minute)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		if err := d.heard(ctx, opstate.Watchdog); err == nil {
			t.Error("it was written down")
		}
		cancel()
		d.tell(t.Context())
	}
	if got := mails(t, box); len(got) != 0 {
		t.Errorf("mailed %+v", got)
	}
}

// holdLock keeps every writer out of a state directory.
func holdLock(t *testing.T, dir string) (release func()) {
	t.Helper()
	f, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	return func() { f.Close() }
}
