// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package health

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/niodoo/niodoo_exporter/collector"
	"github.com/niodoo/niodoo_exporter/internal/humanize"
)

// findings says what about the set-up will hurt one day.
var findings = []struct {
	component, text, mend string
	// found returns what is added to the text, and whether it is so.
	found func(*snapshot, *Report) (string, bool)
}{
	{"operations", "nobody notices when Prometheus or Alertmanager is dead: no heartbeat is received",
		"run niodooctl incident listen and send Watchdog to it: webhooks.heartbeat in the mixin's _config", noHeartbeat},
	{"operations", "niodooctl cannot remember its runs: operations.state_dir is missing or not ours to write",
		"create it for the user that niodooctl runs as", stateDir},
	{"operations", "niodooctl can tell nobody: neither notify.alertmanager nor notify.smtp is configured",
		"write the section notify, and try it with niodooctl notify test",
		func(s *snapshot, _ *Report) (string, bool) {
			return "", s.cfg.Notify.Alertmanager == "" && s.cfg.Notify.SMTP.Smarthost == ""
		}},
	{"postgresql", "the monitoring role may not see other sessions",
		"GRANT pg_monitor TO it: examples/postgresql/monitor-role.sql",
		func(s *snapshot, _ *Report) (string, bool) {
			return "", len(s.all("postgresql_connections", "state", "unknown")) > 0
		}},
	{"", "monitoring rights are missing", "give them as the README says under \"Rights it needs\"", deniedRights},
	{"prometheus", "Prometheus knows no Alertmanager: its alerts go nowhere", "name one under alerting in prometheus.yml",
		func(s *snapshot, _ *Report) (string, bool) {
			n, ok := s.one("prometheus_alertmanagers_discovered")
			return "", ok && n == 0
		}},
	{"backup", "there is nothing where backups should be", "make one with niodooctl backup create, every night",
		func(_ *snapshot, r *Report) (string, bool) {
			c := r.Component("backup")
			return "", c != nil && c.State == Idle
		}},
	{"backup", "the backups lie on the device that they are made of, and are lost with it", "copy them elsewhere: backup.copy",
		func(s *snapshot, _ *Report) (string, bool) {
			copied, _ := s.one("backup_newest_copied")
			same, _ := s.sum("backup_same_device")
			return "", same > 0 && copied != 1
		}},
}

// heartbeatAge is how old a heartbeat may be, as in the rules.
const heartbeatAge = 10 * time.Minute

func noHeartbeat(s *snapshot, _ *Report) (string, bool) {
	at, ok := s.one("operations_heartbeat_last_received_timestamp_seconds")
	if !ok {
		return "", true
	}
	age := s.age(at)
	return "the last came " + humanize.Value("seconds", age) + " ago", age > heartbeatAge.Seconds()
}

func stateDir(s *snapshot, _ *Report) (string, bool) {
	dir := s.cfg.Operations.StateDir
	info, err := os.Stat(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return dir + " does not exist", true
	case err != nil:
		return err.Error(), true
	case !info.IsDir():
		return dir + " is not a directory", true
	}
	return "", false
}

func deniedRights(_ *snapshot, r *Report) (string, bool) {
	for _, c := range r.Components {
		if c.Reason == string(collector.ReasonPermission) || c.Reason == string(collector.ReasonAuth) {
			return fmt.Sprintf("%s: %s", c.Name, c.Error), true
		}
	}
	return "", false
}

func (s *snapshot) findings(r *Report) []Finding {
	out := []Finding{}
	for _, f := range findings {
		if f.component != "" && f.component != "operations" && r.Component(f.component) == nil {
			continue
		}
		if more, found := f.found(s, r); found {
			text := f.text
			if more != "" {
				text += " (" + more + ")"
			}
			out = append(out, Finding{f.component, text, f.mend})
		}
	}
	return out
}
