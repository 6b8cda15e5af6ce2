// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

// Package rules holds the generated alerts in the very form that Prometheus
// loads, for niodooctl to compare with what it has loaded.
package rules

import _ "embed"

// Alerts is alerts.yml.
//
//go:embed alerts.yml
var Alerts []byte
