// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"context"
	"errors"
	"io/fs"
	"maps"
	"os"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/niodoo/niodoo_exporter/internal/config"
	"github.com/niodoo/niodoo_exporter/internal/opstate"
)

func init() { register("operations", newOperations) }

const (
	opsHealth      = "health.json in operations.state_dir"
	opsMaintenance = "maintenance.json in operations.state_dir"
	opsDrills      = "drills.json in operations.state_dir"
	opsIncidents   = "incidents.json in operations.state_dir"
	opsHeartbeat   = "heartbeat.json in operations.state_dir"

	opsNoHealth = "until niodooctl health has run"
	opsNoStep   = "until niodooctl maintenance has run a step"
	opsNoDrill  = "until niodooctl backup drill has run"
)

// All are absent while the default directory does not exist; that is the whole
// collector's idleness and not noted with each.
var (
	opsHealthRun = gauge("operations", "operations_health_last_run_timestamp_seconds",
		"Time at which niodooctl health last ended", opsHealth).absent(opsNoHealth)
	opsHealthDuration = gauge("operations", "operations_health_last_duration_seconds",
		"Time that the last niodooctl health took", opsHealth).absent(opsNoHealth)
	opsHealthVerdict = gauge("operations", "operations_health_verdict",
		"Verdict of the last niodooctl health on the whole: 0 well, 1 warning, 2 failing, 3 could not check", opsHealth).absent(opsNoHealth)
	opsComponentVerdict = gauge("operations", "operations_health_component_verdict",
		"Verdict of the last niodooctl health on a component: 0 well, 1 warning, 2 failing, 3 could not check", opsHealth, "component").
		absent(opsNoHealth)

	opsInProgress = gauge("operations", "operations_maintenance_in_progress",
		"Whether maintenance is in progress; 0 once it is past its upper limit, whatever became of it", opsMaintenance)
	opsStepStarted = gauge("operations", "operations_maintenance_step_last_start_timestamp_seconds",
		"Time at which the maintenance step was last started", opsMaintenance, "step").absent(opsNoStep)
	opsStepSucceeded = gauge("operations", "operations_maintenance_step_last_success_timestamp_seconds",
		"Time at which the maintenance step last ended well", opsMaintenance, "step").absent("until the step has succeeded")
	opsStepDuration = gauge("operations", "operations_maintenance_step_last_duration_seconds",
		"Time that the last run of the maintenance step took", opsMaintenance, "step").absent(opsNoStep)
	opsStepResult = gauge("operations", "operations_maintenance_step_last_result",
		"How the last run of the maintenance step ended: 1 for the result that it had", opsMaintenance, "step", "result").absent(opsNoStep)
	opsStepInterval = gauge("operations", "operations_maintenance_step_interval_seconds",
		"How often the plan has the maintenance step", opsMaintenance, "step").absent("for steps that the plan does not repeat")

	opsDrillRun = gauge("operations", "operations_drill_last_run_timestamp_seconds",
		"Time at which a restore drill last ended, well or not", opsDrills).absent(opsNoDrill)
	opsDrillSucceeded = gauge("operations", "operations_drill_last_success_timestamp_seconds",
		"Time at which a restore drill last ended well; niodoo_backup_last_drill_timestamp_seconds is from the backups that are still there", opsDrills).absent("until a restore drill has succeeded")
	opsDrillOK = gauge("operations", "operations_drill_last_ok",
		"Whether the last restore drill ended well", opsDrills).absent(opsNoDrill)
	opsDrillRecovery = gauge("operations", "operations_drill_last_recovery_seconds",
		"Time that the last restore drill took from the start to compared rows; niodoo_backup_last_recovery_seconds is of the last good one among the backups that are still there", opsDrills).absent(opsNoDrill)

	opsOpen = gauge("operations", "operations_incidents_open",
		"Number of open incidents", opsIncidents, "priority")
	opsUnacknowledged = gauge("operations", "operations_incidents_unacknowledged",
		"Number of open incidents that nobody has taken on", opsIncidents, "priority")
	opsOldest = gauge("operations", "operations_incident_oldest_unacknowledged_timestamp_seconds",
		"Time at which the incident was opened that has waited longest for someone to take it on", opsIncidents, "priority").
		absent("without an unacknowledged incident of the priority")
	opsOpened = counter("operations", "operations_incidents_opened_total",
		"Number of incidents opened", opsIncidents, "priority")
	opsAcknowledged = counter("operations", "operations_incidents_acknowledged_total",
		"Number of incidents that someone has taken on; one closed without that counts when it was closed", opsIncidents, "priority")
	opsClosed = counter("operations", "operations_incidents_closed_total",
		"Number of incidents closed", opsIncidents, "priority")
	opsResponse = counter("operations", "operations_incident_response_seconds_total",
		"Time from opening to acknowledgement, summed over all acknowledged incidents; divide by niodoo_operations_incidents_acknowledged_total",
		opsIncidents, "priority")
	opsResolution = counter("operations", "operations_incident_resolution_seconds_total",
		"Time from opening to closing, summed over all closed incidents; divide by niodoo_operations_incidents_closed_total",
		opsIncidents, "priority")

	opsListening = gauge("operations", "operations_heartbeat_listener_alive_timestamp_seconds",
		"Time of the last sign of life of niodooctl incident listen", opsHeartbeat).absent("until niodooctl incident listen has run")
	opsReceived = gauge("operations", "operations_heartbeat_last_received_timestamp_seconds",
		"Time at which niodooctl incident listen last heard from Watchdog", opsHeartbeat).absent("until Watchdog has come")
	opsPeer = gauge("operations", "operations_heartbeat_peer_last_received_timestamp_seconds",
		"Time at which niodooctl incident listen last heard from another listener", opsHeartbeat, "peer").absent("without other listeners")
)

// operations reads what niodooctl last did.
type operations struct {
	dir string
	now func() time.Time
}

func newOperations(cfg *config.Config, deps Deps) (Collector, error) {
	return operations{cfg.Operations.StateDir, deps.Now}, nil
}

// Update implements [Collector]. A document that cannot be read does not hide the others.
func (o operations) Update(ctx context.Context, ch chan<- prometheus.Metric) error {
	info, err := os.Stat(o.dir)
	switch {
	case errors.Is(err, fs.ErrNotExist) && o.dir == config.Default().Operations.StateDir:
		return nil
	case err != nil:
		return err
	case !info.IsDir():
		return failf(ReasonNotFound, "operations.state_dir %s is not a directory", o.dir)
	}
	var first error
	for _, report := range []func(chan<- prometheus.Metric) error{o.health, o.maintenance, o.drills, o.incidents, o.heartbeat} {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := report(ch); err != nil && first == nil {
			first = err
		}
	}
	return first
}

// operationsRead returns a document, nil where it was never written.
func operationsRead[D opstate.Document](dir string) (*D, error) {
	d, err := opstate.Read[D](dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case errors.Is(err, opstate.ErrTooLarge):
		return nil, fail(ReasonTooLarge, err)
	case errors.Is(err, opstate.ErrDamaged), errors.Is(err, opstate.ErrVersion):
		return nil, fail(ReasonParse, err)
	case err != nil:
		return nil, err
	}
	return &d, nil
}

// operationsTime sends a time unless it is the zero time.
func operationsTime(ch chan<- prometheus.Metric, desc *Desc, t time.Time, labelValues ...string) {
	if !t.IsZero() {
		ch <- desc.metric(float64(t.UnixMilli())/1e3, labelValues...)
	}
}

func (o operations) health(ch chan<- prometheus.Metric) error {
	h, err := operationsRead[opstate.Health](o.dir)
	if h == nil {
		return err
	}
	operationsTime(ch, opsHealthRun, h.Finished)
	ch <- opsHealthDuration.metric(h.Seconds)
	ch <- opsHealthVerdict.metric(float64(h.Verdict.ExitCode()))
	for name, v := range h.Components {
		ch <- opsComponentVerdict.metric(float64(v.ExitCode()), name)
	}
	return nil
}

func (o operations) maintenance(ch chan<- prometheus.Metric) error {
	m, err := operationsRead[opstate.Maintenance](o.dir)
	if err != nil {
		return err
	}
	if m == nil {
		m = &opstate.Maintenance{}
	}
	ch <- opsInProgress.boolean(m.Running.At(o.now()))
	for _, name := range slices.Sorted(maps.Keys(m.Steps)) {
		s := m.Steps[name]
		operationsTime(ch, opsStepStarted, s.Started, name)
		operationsTime(ch, opsStepSucceeded, s.Succeeded, name)
		ch <- opsStepDuration.metric(s.Seconds, name)
		for _, r := range opstate.StepResults {
			ch <- opsStepResult.boolean(s.Result == r, name, string(r))
		}
		if s.Interval > 0 {
			ch <- opsStepInterval.metric(s.Interval, name)
		}
	}
	return nil
}

func (o operations) drills(ch chan<- prometheus.Metric) error {
	d, err := operationsRead[opstate.Drills](o.dir)
	if d == nil {
		return err
	}
	operationsTime(ch, opsDrillRun, d.Finished)
	operationsTime(ch, opsDrillSucceeded, d.Succeeded)
	ch <- opsDrillOK.boolean(d.OK)
	ch <- opsDrillRecovery.metric(d.Recovery)
	return nil
}

func (o operations) incidents(ch chan<- prometheus.Metric) error {
	all, err := operationsRead[opstate.Incidents](o.dir)
	if err != nil {
		return err
	}
	if all == nil { // none yet: the counters begin at 0, or the first would not be an increase
		all = &opstate.Incidents{}
	}
	for _, p := range opstate.Priorities {
		open, waiting := 0, 0
		for _, in := range all.Open {
			if in.Priority == p {
				open++
				if in.Acknowledged.IsZero() {
					waiting++
				}
			}
		}
		ch <- opsOpen.metric(float64(open), string(p))
		ch <- opsUnacknowledged.metric(float64(waiting), string(p))
		if oldest, ok := all.Oldest(p); ok {
			operationsTime(ch, opsOldest, oldest.Opened, string(p))
		}
		t := all.Totals[p]
		for _, c := range []struct {
			desc  *Desc
			value float64
		}{
			{opsOpened, float64(t.Opened)}, {opsAcknowledged, float64(t.Acknowledged)}, {opsClosed, float64(t.Closed)},
			{opsResponse, t.ResponseSeconds}, {opsResolution, t.ResolutionSeconds},
		} {
			ch <- c.desc.metric(c.value, string(p))
		}
	}
	return nil
}

func (o operations) heartbeat(ch chan<- prometheus.Metric) error {
	h, err := operationsRead[opstate.Heartbeat](o.dir)
	if h == nil {
		return err
	}
	operationsTime(ch, opsListening, h.Listening)
	operationsTime(ch, opsReceived, h.Received)
	for peer, at := range h.Peers {
		operationsTime(ch, opsPeer, at, peer)
	}
	return nil
}
