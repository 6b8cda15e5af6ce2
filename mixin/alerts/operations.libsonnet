// What people do, or have niodooctl do: maintenance, drills, incidents, the dead man's switch.
local alerts = import '../lib/alert.libsonnet';
local query = import '../lib/query.libsonnet';

{
  local c = $._config,
  local t = c.thresholds,
  local a = alerts.new(c),
  local q = query.new(c, c.selector, c.rateWindow),

  local succeeded = q.m('niodoo_operations_maintenance_step_last_success_timestamp_seconds'),
  local interval = q.m('niodoo_operations_maintenance_step_interval_seconds'),
  local limits = [t.maintenance_daily_seconds, t.maintenance_weekly_seconds, t.maintenance_monthly_seconds],

  // A step is judged by the first limit that is longer than its interval.
  local overdue = std.join('or\n', [
    'time() - %s > %s\nand on (%s, step)\n%s%s%s\n' % [
      succeeded,
      q.number(limits[i].warning),
      q.by,
      interval,
      if i == 0 then '' else ' > ' + q.number(limits[i - 1].warning),
      if i == std.length(limits) - 1 then '' else ' <= ' + q.number(limits[i].warning),
    ]
    for i in std.range(0, std.length(limits) - 1)
  ]),

  // A state file that nobody writes any more is as silent as a listener that died.
  local alive = q.m('niodoo_operations_heartbeat_listener_alive_timestamp_seconds'),
  local received = q.m('niodoo_operations_heartbeat_last_received_timestamp_seconds'),

  local responses = {
    P1: t.incident_p1_ack_seconds,
    P2: t.incident_p2_ack_seconds,
    P3: t.incident_p3_ack_seconds,
    P4: t.incident_p4_ack_seconds,
  },
  // The manual's table of response and escalation.
  local said = { P1: '15 minutes', P2: '1 hour', P3: '4 hours', P4: '1 week' },
  local escalated = { P1: 'immediately', P2: 'within 4 hours', P3: 'on the next business day', P4: 'in the next sprint' },

  prometheusAlerts+:: {
    groups+: [
      a.group('niodoo-operations', [
        a.alert(
          'MaintenanceInProgress',
          '%s == 1' % q.m('niodoo_operations_maintenance_in_progress'),
          'none',
          'operations',
          'Maintenance is in progress.',
          'niodooctl is at work; alerts of P3 and P4 on this stack are not sent meanwhile.',
          'operations',
        ),
        a.alert(
          'MaintenanceOverdue',
          overdue,
          'P3',
          'operations',
          'A maintenance step is overdue.',
          'The step {{ $labels.step }} last succeeded {{ $value | humanizeDuration }} ago' +
          a.ask('niodoo_operations_maintenance_step_interval_seconds', ['step'], '', '; the plan has it every {{ first . | value | humanizeDuration }}') + '.',
          'operations',
          t.maintenance_daily_seconds['for'],
        ),
        a.alert(
          'MaintenanceFailed',
          'max without (result) (%s) == 1' % q.m('niodoo_operations_maintenance_step_last_result', 'result="failed"'),
          'P3',
          'operations',
          'A maintenance step has failed.',
          'The last run of the step {{ $labels.step }} failed.',
          'operations',
          '5m',
        ),
        a.alert(
          'RestoreDrillFailed',
          '%s == 0' % q.m('niodoo_operations_drill_last_ok'),
          'P3',
          'operations',
          'A backup could not be restored in a drill.',
          'The last restore drill failed: what it tried to restore would not have come back after a disaster.',
          'operations',
          '5m',
        ),
        a.alert(
          'HealthRunOverdue',
          'time() - %s > %s' % [q.m('niodoo_operations_health_last_run_timestamp_seconds'), q.number(t.health_run_seconds.warning)],
          'P3',
          'operations',
          'The health check of niodooctl has not run.',
          'niodooctl health last ran {{ $value | humanizeDuration }} ago; the limit is %g hours.' % (t.health_run_seconds.warning / 3600),
          'operations',
          t.health_run_seconds['for'],
        ),
        a.alert(
          'HeartbeatLost',
          // Whoever has just begun to listen may not have heard yet.
          |||
            time() - %(received)s > %(limit)s
            and
            time() - %(alive)s <= %(limit)s
            and
            time() - %(limit)s - %(alive)s offset %(limit)ss <= %(limit)s
          ||| % { received: received, alive: alive, limit: q.number(t.heartbeat_seconds.warning) },
          'P1',
          'operations',
          'Alerts do not reach the incident listener.',
          'niodooctl incident listen last heard from Watchdog {{ $value | humanizeDuration }} ago; the limit is %g minutes.' % (t.heartbeat_seconds.warning / 60),
          'operations',
        ),
        a.alert(
          'HeartbeatListenerDown',
          'time() - %s > %s' % [alive, q.number(t.heartbeat_seconds.warning)],
          'P2',
          'operations',
          'Nobody listens for the heartbeat of the alerts.',
          'niodooctl incident listen last gave a sign of life {{ $value | humanizeDuration }} ago; the limit is %g minutes.' % (t.heartbeat_seconds.warning / 60),
          'operations',
          '5m',
        ),
      ] + [
        a.alert(
          'IncidentUnacknowledged',
          'time() - %s > %s' % [
            q.m('niodoo_operations_incident_oldest_unacknowledged_timestamp_seconds', 'priority="%s"' % p),
            q.number(responses[p].warning),
          ],
          p,
          'operations',
          'Nobody has taken on an incident.',
          'An incident of %s has been open for {{ $value | humanizeDuration }} without an answer; the response time is %s. It is escalated %s.' % [p, said[p], escalated[p]],
          'operations',
          responses[p]['for'],
        )
        for p in std.objectFields(responses)
      ]),
    ],
  },
}
