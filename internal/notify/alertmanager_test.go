// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package notify

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/niodoo/niodoo_exporter/internal/config"
	"github.com/niodoo/niodoo_exporter/internal/localserver"
)

// alertmanager starts a real one whose only receiver does nothing.
func alertmanager(t *testing.T) config.Notify {
	t.Helper()
	a, err := localserver.StartAlertmanager(t.Context(), "route: {receiver: nowhere}\nreceivers: [{name: nowhere}]\n")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.Stop)
	return config.Notify{Alertmanager: a.URL + "/"}
}

// active returns the summaries of the alerts that are active.
func active(t *testing.T, cfg config.Notify) map[string]string {
	t.Helper()
	res, err := http.Get(strings.TrimRight(cfg.Alertmanager, "/") + "/api/v2/alerts")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	var alerts []Alert
	if err := json.NewDecoder(res.Body).Decode(&alerts); err != nil {
		t.Fatal(err)
	}
	found := map[string]string{}
	for _, a := range alerts {
		found[a.Labels["alertname"]] = a.Annotations["summary"]
	}
	http.DefaultClient.CloseIdleConnections()
	return found
}

func TestPostAlerts(t *testing.T) {
	t.Parallel()
	cfg := alertmanager(t)
	a := Alert{Labels: map[string]string{"alertname": "Tried", "priority": "P1"}, Annotations: map[string]string{"summary": "bad byte \xff"},
		EndsAt: time.Now().Add(time.Hour)}
	if err := PostAlerts(t.Context(), cfg, []Alert{a}); err != nil {
		t.Fatal(err)
	}
	if got := active(t, cfg); len(got) != 1 || got["Tried"] != "bad byte \ufffd" {
		t.Errorf("active: %v", got)
	}
	a.EndsAt = time.Now()
	if err := PostAlerts(t.Context(), cfg, []Alert{a}); err != nil {
		t.Fatal(err)
	}
	if got := active(t, cfg); len(got) != 0 {
		t.Errorf("active after it was resolved: %v", got)
	}
	if err := PostAlerts(t.Context(), cfg, nil); err != nil {
		t.Errorf("no alerts: %v", err)
	}
	if err := PostAlerts(t.Context(), cfg, []Alert{{Labels: map[string]string{}}}); err == nil || !strings.Contains(err.Error(), "at least one label pair required") {
		t.Errorf("an alert that Alertmanager refuses: %v", err)
	}
	if err := PostAlerts(t.Context(), config.Notify{}, []Alert{a}); !errors.Is(err, ErrNotConfigured) {
		t.Errorf("without an address: %v", err)
	}
}

func TestPostAlertsFailures(t *testing.T) {
	t.Parallel()
	alerts := []Alert{{Labels: map[string]string{"alertname": "X"}}}
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	if err := PostAlerts(t.Context(), config.Notify{Alertmanager: "http://" + closed.Addr().String()}, alerts); err == nil || !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("nobody there: %v", err)
	}
	asked := make(chan struct{}, 1)
	gone := make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // else the server does not see the client leave
		asked <- struct{}{}
		<-r.Context().Done()
		close(gone)
	}))
	defer srv.Close()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- PostAlerts(ctx, config.Notify{Alertmanager: srv.URL}, alerts) }()
	<-asked
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("one that hangs: %v", err)
	}
	<-gone
	login := httptest.NewServer(http.RedirectHandler("https://login.example.com/", http.StatusFound))
	defer login.Close()
	if err := PostAlerts(t.Context(), config.Notify{Alertmanager: login.URL}, alerts); err == nil || !strings.Contains(err.Error(), "302") {
		t.Errorf("a login page: %v", err)
	}
}
