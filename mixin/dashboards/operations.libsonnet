// What is done to keep the stack well: alerts and budgets, logs, backups, maintenance, incidents, and the exporter itself.
local p = import '../lib/panels.libsonnet';
local shared = import 'shared.libsonnet';

{
  local t = $._config.thresholds,
  local c = shared($._config),
  local d = c.d,
  local q = d.q,
  local s = d.s,

  local yes = { '0': ['no', p.colours.bad], '1': ['yes', p.colours.good] },
  local should = { '0': ['no', p.colours.off], '1': ['yes', p.colours.good] },
  local no = { '0': ['no', p.colours.good], '1': ['yes', p.colours.bad] },
  local verdict = { '0': ['well', p.colours.good], '1': ['warning', p.colours.warning], '2': ['failing', p.colours.bad], '3': ['could not check', p.colours.idle] },
  local total(metric, legend, extra='') = s.all('sum', s.rate(metric, extra), legend),
  local mostOf(metric, legend) = s.all('max', s.value(metric), legend),
  local oldest(metric, legend) = s.all('max', s.age(metric), legend),
  local step = q.byList + ['step'],

  // The rows of the burn alerts that a budget of a share is burnt by.
  local burn(slo, name) =
    p.timeseries('Burn: ' + name, 'How many times faster than allowed the budget is burnt, on the worst of the selected instances: above 1 it will not last.', [
      s.all('max', s.raw('%s / %g' % [q.m('instance:niodoo_slo_errors:avg_over_time' + w, 'slo="%s"' % slo), 1 - c.budgets[slo].target], 'short'), w)
      for w in ['1h', '6h', '3d']
    ]) + p.judged({ mode: 'absolute', steps: [
      { color: p.colours.good, value: null },
      { color: p.colours.off, value: 1 },
      { color: p.colours.warning, value: 3 },
      { color: p.colours.bad, value: 14.4 },
    ] }) + { fieldConfig+: { defaults+: { color: { mode: 'palette-classic' }, custom+: { thresholdsStyle: { mode: 'dashed' } } } } },

  grafanaDashboards+:: {
    'operations.json': d.dashboard('operations', 'Operations', 'Alerts, error budgets, logs, backups, maintenance, incidents and the exporter itself.', [
      p.row('Alerts and error budgets'),
      c.line(5, [
        c.alertCounts + c.width(8),
        c.errorBudgets + c.width(8),
        p.stat('Incidents open', 'By priority, over all selected instances; kept by niodooctl.', [s.over('sum', ['priority'], s.value('niodoo_operations_incidents_open'))])
        + p.judged(p.anyIs(p.colours.warning)) + { options+: { orientation: 'vertical' } },
      ]),
      c.line(9, [
        c.alertTable('Firing now') + c.width(14),
        p.timeseries('Alerts over time', 'Firing alerts by name.', [s.raw('count by (alertname) (%s)' % d.alerts(), 'short', '{{alertname}}')]) + p.stacked + p.none('No alerts'),
      ]),
      c.line(7, [burn('engine-availability', 'availability'), burn('processing-latency', 'latency'), burn('memory-stability', 'stability')]),

      p.row('Logs'),
      c.line(8, [
        p.timeseries('Lines by level', 'Lines per second, over all selected instances and files.', [s.over('sum', ['level'], s.rate('niodoo_logs_lines_total'))]) + p.stacked
        + p.coloured({ 'error': p.colours.bad, warn: p.colours.warning, info: p.colours.neutral, debug: p.colours.idle }),
        p.timeseries('Errors', 'Lines of level error per second, by file, and how many there were at this time yesterday.', [
          s.over('sum', ['file'], s.rate('niodoo_logs_lines_total', 'level="error"')),
          s.raw('sum(rate(%s[5m] offset 1d))' % q.m('niodoo_logs_lines_total', 'level="error"'), 'cps', 'yesterday', ['niodoo_logs_lines_total']),
        ]) + p.drawn(t.log_error_minimum) + p.dashed('yesterday'),
        p.timeseries('Lines by class', "The classes of the manual's log analyzer; a line may be in several.", [s.over('sum', ['class'], s.rate('niodoo_logs_matches_total'))]),
      ]),
      c.line(8, [
        p.table('Log files', 'A file that nobody writes, or that is never rotated, is broken logging.', [
          { label: 'instance', title: 'Instance' },
          { label: 'file', title: 'File' },
          { series: s.over('max', q.byList + ['file'], s.value('niodoo_logs_file_size_bytes')), title: 'Size', threshold: t.log_size_bytes },
          { series: s.over('min', q.byList + ['file'], s.age('niodoo_logs_last_write_timestamp_seconds')), title: 'Last written', threshold: t.log_silence_seconds },
          { series: s.over('min', q.byList + ['file'], s.age('niodoo_logs_last_error_timestamp_seconds')), title: 'Last error' },
          { series: s.over('max', q.byList + ['file'], s.increase('niodoo_logs_rotations_total')), title: 'Rotations', unit: 'short', decimals: 0 },
          { series: s.over('max', q.byList + ['file'], s.increase('niodoo_logs_read_errors_total')), title: 'Read errors', unit: 'short', decimals: 0, steps: p.anyIs(p.colours.warning) },
        ]) + c.width(14),
        p.timeseries('Bytes read', 'By file, over all selected instances.', [s.over('sum', ['file'], s.rate('niodoo_logs_bytes_total'))]) + c.width(5),
        p.timeseries('Still to read', 'A log that grows faster than it is read.', [s.over('max', ['file'], s.value('niodoo_logs_lag_bytes'))]) + c.width(5),
      ]),

      p.row('Backups'),
      c.line(5, [
        p.stat('Age of the newest backup', "The oldest of the selected instances' newest. 26 hours leave two for a slow night.", [oldest('niodoo_backup_newest_timestamp_seconds', 'age')], threshold=t.backup_age_seconds) + p.lit + p.none('No backup'),
        p.stat('Good backups', 'The least of the selected instances.', [s.all('min', s.value('niodoo_backup_backups'), 'backups')]) + p.judged(p.below(1)),
        p.stat('Newest against the one before', 'A backup half the size of the one before has probably lost something.', [s.all('min', s.ratio(s.value('niodoo_backup_newest_size_bytes'), s.value('niodoo_backup_previous_size_bytes')), 'size')], threshold=t.backup_shrink_ratio) + p.decimals(0),
        p.stat('Broken backups', 'Incomplete, unreadable, or failed at their verification or drill.', [
          mostOf('niodoo_backup_incomplete', 'incomplete'),
          mostOf('niodoo_backup_unreadable', 'unreadable'),
          mostOf('niodoo_backup_failed_checks', 'failed'),
        ]) + p.judged(p.anyIs(p.colours.bad)) + { options+: { orientation: 'vertical' } } + c.width(6),
        p.stat('Room for backups', 'Share of the file system that is left, the least of the selected instances.', [s.all('min', s.ratio(s.value('niodoo_backup_filesystem_avail_bytes'), s.value('niodoo_backup_filesystem_size_bytes')), 'left')])
        + p.judged({ mode: 'absolute', steps: [{ color: p.colours.bad, value: null }, { color: p.colours.warning, value: 1 - t.disk_usage_ratio.critical }, { color: p.colours.good, value: 1 - t.disk_usage_ratio.warning }] }) + p.decimals(0),
      ]),
      c.line(7, [
        p.timeseries('Size of the backups', 'All of them, and the newest.', [
          s.value('niodoo_backup_size_bytes', legend='{{instance}} all'),
          s.value('niodoo_backup_newest_size_bytes', legend='{{instance}} newest'),
        ]),
        p.timeseries('Age of the newest backup over time', 'A saw: one tooth a night.', [
          s.age('niodoo_backup_newest_timestamp_seconds'),
        ]) + p.drawn(t.backup_age_seconds),
        p.table('Where backups lie', 'Backups on the device of the data are lost with it.', [
          { label: 'instance', title: 'Instance' },
          { label: 'source', title: 'Source' },
          { series: s.value('niodoo_backup_same_device'), title: 'On the same device', words: { '0': ['no', p.colours.good], '1': ['yes', p.colours.off] } },
        ]),
        p.timeseries('Backups by layout', "Of niodooctl, and of the manual's scripts.", [
          s.over('sum', ['layout'], s.value('niodoo_backup_layout_backups')),
          s.all('sum', s.value('niodoo_backup_in_progress'), 'in progress'),
        ]),
      ]),
      p.row('Backups of niodooctl: checks and drills', true),
      c.line(6, [
        p.table('The newest backup', 'What is known of it.', [
          { label: $._config.clusterLabel, title: 'Cluster' },
          { label: 'instance', title: 'Instance' },
          { series: s.value('niodoo_backup_newest_verified'), title: 'Verified', words: should },
          { series: s.value('niodoo_backup_newest_copied'), title: 'Copied', words: should },
          { series: s.value('niodoo_backup_newest_encrypted'), title: 'Encrypted', words: should },
          { series: s.value('niodoo_backup_newest_skipped'), title: 'Left out', steps: p.anyIs(p.colours.warning) },
          { series: s.value('niodoo_backup_newest_duration_seconds'), title: 'Took' },
        ]) + c.width(9),
        p.stat('Last verification', 'Backups are verified weekly.', [oldest('niodoo_backup_last_verification_timestamp_seconds', 'age')], threshold=t.backup_verify_seconds),
        p.stat('Last good drill', 'The restore drill is monthly.', [oldest('niodoo_backup_last_drill_timestamp_seconds', 'age')], threshold=t.backup_drill_seconds),
        p.stat('Recovery takes', 'From the start of the last good drill to compared rows.', [mostOf('niodoo_backup_last_recovery_seconds', 'recovery')]),
        p.stat('Certain to be there', 'Age of the data in the newest verified backup.', [oldest('niodoo_backup_verified_newest_timestamp_seconds', 'age')], threshold=t.backup_verify_seconds),
        p.stat('Newest by class', 'Age of the newest backup of each retention class.', [s.over('max', ['class'], s.age('niodoo_backup_class_newest_timestamp_seconds'))]),
      ]),

      p.row('Maintenance and health'),
      c.line(7, [
        p.table('Maintenance steps', 'When each step last ended well, and how often it should.', [
          { label: 'instance', title: 'Instance' },
          { label: 'step', title: 'Step' },
          { series: s.over('min', step, s.age('niodoo_operations_maintenance_step_last_success_timestamp_seconds')), title: 'Last success' },
          { series: s.over('min', step, s.age('niodoo_operations_maintenance_step_last_start_timestamp_seconds')), title: 'Last start' },
          { series: s.over('min', step, s.value('niodoo_operations_maintenance_step_interval_seconds')), title: 'Planned every' },
          { series: s.over('max', step, s.value('niodoo_operations_maintenance_step_last_duration_seconds')), title: 'Took' },
          { series: s.over('max', step, s.value('niodoo_operations_maintenance_step_last_result', 'result="failed"')), title: 'Failed', words: no },
        ]) + c.width(14),
        p.stat('Maintenance', 'While it goes on, alerts of P3 and P4 are silent.', [mostOf('niodoo_operations_maintenance_in_progress', 'in progress')]) + p.lit
        + p.words({ '0': ['none', p.colours.idle], '1': ['in progress', p.colours.off] }),
        p.stat('Last health check', 'Verdict of the last niodooctl health, the worst of the selected instances.', [mostOf('niodoo_operations_health_verdict', 'verdict')]) + p.lit + p.words(verdict),
      ]),
      c.line(7, [
        p.states('Health checks', 'Verdict of niodooctl health on each component over time.', [s.over('max', ['component'], s.value('niodoo_operations_health_component_verdict'))], verdict) + c.width(9),
        p.stat('Since the last health check', 'And how long it took.', [
          s.all('min', s.age('niodoo_operations_health_last_run_timestamp_seconds'), 'ago'),
          mostOf('niodoo_operations_health_last_duration_seconds', 'took'),
        ]) + { options+: { orientation: 'vertical' } },
        p.stat('Last restore drill', 'Whether it went well, since when, and how long recovery took.', [
          s.all('max', s.age('niodoo_operations_drill_last_run_timestamp_seconds'), 'ago'),
          s.all('max', s.age('niodoo_operations_drill_last_success_timestamp_seconds'), 'last good'),
          mostOf('niodoo_operations_drill_last_recovery_seconds', 'recovery'),
        ], threshold=t.backup_drill_seconds) + { options+: { orientation: 'vertical' } },
        p.yesno('Last restore drill went well', 'A backup is good once it has been restored.', [s.all('min', s.value('niodoo_operations_drill_last_ok'), 'drill')], 'yes', 'no'),
      ]),

      p.row('Incidents and the heartbeat'),
      c.line(7, [
        p.timeseries('Open incidents', 'By priority, over all selected instances.', [s.over('sum', ['priority'], s.value('niodoo_operations_incidents_open'))]) + p.stacked,
        p.stat('Nobody has taken', 'Incidents that nobody has acknowledged, by priority.', [s.over('sum', ['priority'], s.value('niodoo_operations_incidents_unacknowledged'))]) + p.judged(p.anyIs(p.colours.bad)) + { options+: { orientation: 'vertical' } },
        p.timeseries('Incidents a day', 'Opened and closed, on average over the last week.', [
          s.raw('86400 * sum(rate(%s[7d]))' % q.m('niodoo_operations_incidents_opened_total'), 'short', 'opened', ['niodoo_operations_incidents_opened_total']),
          s.raw('86400 * sum(rate(%s[7d]))' % q.m('niodoo_operations_incidents_closed_total'), 'short', 'closed', ['niodoo_operations_incidents_closed_total']),
        ]),
        p.timeseries('Time to acknowledge and to close', 'Mean over the last week.', [
          s.raw('sum(increase(%s[7d])) / (sum(increase(%s[7d])) > 0)' % [q.m('niodoo_operations_incident_response_seconds_total'), q.m('niodoo_operations_incidents_acknowledged_total')], 's', 'acknowledge', ['niodoo_operations_incident_response_seconds_total', 'niodoo_operations_incidents_acknowledged_total']),
          s.raw('sum(increase(%s[7d])) / (sum(increase(%s[7d])) > 0)' % [q.m('niodoo_operations_incident_resolution_seconds_total'), q.m('niodoo_operations_incidents_closed_total')], 's', 'close', ['niodoo_operations_incident_resolution_seconds_total']),
        ]),
      ]),
      c.line(7, [
        p.table('Waiting longest', 'The oldest incident of each priority that nobody has acknowledged. Empty is good.', [
          { label: 'priority', title: 'Priority' },
          { label: 'instance', title: 'Instance' },
          { series: s.age('niodoo_operations_incident_oldest_unacknowledged_timestamp_seconds'), title: 'Waits for' },
        ]) + p.none('None'),
        p.timeseries('Heartbeat', 'Time since Watchdog came, and since the listener was alive: if either grows, alerts do not arrive.', [
          s.age('niodoo_operations_heartbeat_last_received_timestamp_seconds', legend='{{instance}} Watchdog'),
          s.age('niodoo_operations_heartbeat_listener_alive_timestamp_seconds', legend='{{instance}} listener'),
          s.age('niodoo_operations_heartbeat_peer_last_received_timestamp_seconds', legend='{{instance}} {{peer}}'),
        ]),
      ]),

      p.row('The exporter itself'),
      c.line(9, [
        p.states('Collectors', 'Whether each collector succeeded; the worst of the selected instances.', [s.over('min', ['collector'], s.value('niodoo_scrape_collector_success'))], { '0': ['failed', p.colours.bad], '1': ['succeeded', p.colours.good] }),
        p.timeseries('Duration of the collectors', 'The slowest of the selected instances.', [s.over('max', ['collector'], s.value('niodoo_scrape_collector_duration_seconds'))]),
        c.failures,
      ]),
      c.line(7, [
        p.timeseries('Slowest collector against the deadline', 'Share of the time a scrape may take that the slowest collector needs.', [
          s.raw('max by (%(by)s) (%(duration)s) / on (%(by)s) %(timeout)s' % { by: q.by, duration: q.m('niodoo_scrape_collector_duration_seconds'), timeout: q.m('niodoo_scrape_timeout_seconds') }, 'percentunit', metrics=['niodoo_scrape_timeout_seconds']),
        ]) + p.drawn(t.scrape_duration_ratio),
        p.timeseries('Series', 'By collector, over all selected instances.', [s.over('sum', ['collector'], s.value('niodoo_scrape_collector_series'))]) + p.stacked,
        p.timeseries('Series left out', 'Over a limit, twice the same, or invalid.', [s.over('sum', ['collector', 'reason'], s.value('niodoo_scrape_collector_series_dropped'))]) + p.none('None'),
        p.timeseries('Scrapes', 'How long Prometheus waits for the exporter.', [s.raw(q.m('scrape_duration_seconds'), 's')]),
      ]),
      c.line(7, [
        p.timeseries('Exporter: CPU', 'Share of one CPU.', [s.raw(q.rate('process_cpu_seconds_total'), 'percentunit')]),
        p.timeseries('Exporter: memory', 'Resident memory.', [s.raw(q.m('process_resident_memory_bytes'), 'bytes')]),
        p.timeseries('Exporter: goroutines and files', 'Both go up and down; one that only goes up is a leak.', [
          s.raw(q.m('go_goroutines'), 'short', '{{instance}} goroutines'),
          s.raw(q.m('process_open_fds'), 'short', '{{instance}} files'),
        ]),
        p.timeseries('Scrapes turned away', 'Because too many ran at once.', [s.over('sum', ['handler'], s.rate('niodoo_exporter_requests_rejected_total'))]),
      ]),
      c.line(6, [
        p.table('Exporters', 'What runs, and whether its configuration is the one on disk.', [
          { label: $._config.clusterLabel, title: 'Cluster' },
          { label: 'instance', title: 'Instance' },
          { label: 'version', title: 'Version' },
          { series: s.raw('max by (%(by)s, version) (%(info)s * on (%(by)s) group_left () %(x)s)' % { by: q.by, info: q.m('niodoo_exporter_build_info'), x: q.m('niodoo_exporter_config_last_reload_successful') }, 'short', metrics=['niodoo_exporter_config_last_reload_successful']), title: 'Configuration loaded', words: yes },
          { series: s.raw('max by (%(by)s, version) (%(info)s * on (%(by)s) group_left () (time() - %(x)s))' % { by: q.by, info: q.m('niodoo_exporter_build_info'), x: q.m('niodoo_exporter_config_last_reload_success_timestamp_seconds') }, 's', metrics=['niodoo_exporter_config_last_reload_success_timestamp_seconds']), title: 'Since' },
          { series: s.raw('max by (%(by)s, version) (%(info)s * on (%(by)s) group_left () (time() - %(x)s))' % { by: q.by, info: q.m('niodoo_exporter_build_info'), x: q.m('process_start_time_seconds') }, 's'), title: 'Uptime' },
        ]) + c.width(16),
        p.timeseries('Clock', "How wrong the host's clock may be.", [s.value('niodoo_host_clock_max_error_seconds')]) + p.drawn(t.clock_error_seconds) + c.width(8),
      ]),
    ]),
  },
}
