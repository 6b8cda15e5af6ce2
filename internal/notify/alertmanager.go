// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

// Package notify sends niodooctl's own notifications: alerts to Alertmanager,
// and mail directly, which alone is left when Alertmanager does not answer.
package notify

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/niodoo/niodoo_exporter/internal/config"
)

// ErrNotConfigured says that the configuration names nowhere to send to.
var ErrNotConfigured = errors.New("not configured")

// Alert is one alert for Alertmanager's API v2
// (https://github.com/prometheus/alertmanager/blob/main/api/v2/openapi.yaml).
type Alert struct {
	Labels       map[string]string `json:"labels"`
	Annotations  map[string]string `json:"annotations,omitempty"`
	StartsAt     time.Time         `json:"startsAt,omitzero"`
	EndsAt       time.Time         `json:"endsAt,omitzero"`
	GeneratorURL string            `json:"generatorURL,omitempty"`
}

// PostAlerts hands alerts to the Alertmanager of the configuration; none is
// well without asking it. An alert whose EndsAt has passed resolves; one without
// resolves by itself after Alertmanager's resolve_timeout. Without an address
// the error is [ErrNotConfigured].
func PostAlerts(ctx context.Context, cfg config.Notify, alerts []Alert) error {
	if cfg.Alertmanager == "" {
		return fmt.Errorf("notify.alertmanager: %w", ErrNotConfigured)
	}
	if len(alerts) == 0 {
		return nil
	}
	body, err := json.Marshal(alerts)
	if err != nil {
		return fmt.Errorf("encoding alerts: %w", err)
	}
	url := strings.TrimRight(cfg.Alertmanager, "/") + "/api/v2/alerts"
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("posting alerts: %w", err)
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("posting alerts: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 512))
		return fmt.Errorf("posting alerts to %s: %s: %s", url, resp.Status, strings.TrimSpace(string(text)))
	}
	return nil
}

// client keeps no connection: notifications are rare.
var client = &http.Client{
	Timeout:       15 * time.Second,
	Transport:     &http.Transport{DisableKeepAlives: true, Proxy: nil},
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}
