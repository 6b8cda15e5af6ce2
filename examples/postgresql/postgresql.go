// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

// Package postgresql holds what a PostgreSQL server needs to be watched, in
// the very form that the README shows, for the tests and the demo to run.
package postgresql

import _ "embed"

// MonitorRole creates the role niodoo_monitor; it sets no password.
//
//go:embed monitor-role.sql
var MonitorRole string
