// The monitoring itself: the exporter, Prometheus and Alertmanager, and the plumbing that routing needs.
local alerts = import '../lib/alert.libsonnet';
local query = import '../lib/query.libsonnet';

{
  local c = $._config,
  local t = c.thresholds,
  local a = alerts.new(c),
  local q = query.new(c, c.selector, c.rateWindow),

  // Of a component that is down nothing can be read; that is another alert, or none where nothing requires it.
  local unlessDown = 'unless on (%s, collector)\nlabel_replace(%s == 0, "collector", "$1", "component", "(.+)")\n' %
                     [q.by, q.m('niodoo_component_up')],

  // An alert without an instance must not link to one.
  local nowhere = { annotations+: { dashboard_url: '%s/d/operations' % c.grafanaURL } },

  prometheusAlerts+:: {
    groups+: [
      a.group('niodoo-meta', [
        a.alert(
          'NiodooExporterDown',
          '%s == 0' % q.m('up'),
          'P1',
          'exporter',
          'The stack is not watched: its exporter is down.',
          'Prometheus has not reached the exporter for 2 minutes. The stack or its machine may be down too; no other alert can tell.',
          'operations',
          '2m',
        ),
        a.alert(
          'NiodooExporterAbsent',
          'absent(%s)' % q.m('up'),
          'P1',
          'exporter',
          'No stack is watched: Prometheus knows of no exporter.',
          'Prometheus has no target that these alerts select: the scrape job was removed or renamed, or its service discovery is empty.',
          'operations',
          '5m',
          nowhere,
        ),
        a.alert(
          'NiodooCollectorFailing',
          '%s == 0\n%s' % [q.m('niodoo_scrape_collector_success'), unlessDown],
          'P3',
          '{{ $labels.collector }}',
          'Part of the stack cannot be read.',
          'The collector {{ $labels.collector }} has failed for 15 minutes although nothing is known to be down.' + a.reason('$labels.collector'),
          'operations',
          '15m',
        ),
        a.alert(
          'NiodooScrapeSlow',
          '%s\n  / on (%s) group_left ()\n%s > %s\n%s' % [
            q.m('niodoo_scrape_collector_duration_seconds'),
            q.by,
            q.m('niodoo_scrape_timeout_seconds'),
            q.number(t.scrape_duration_ratio.warning),
            unlessDown,
          ],
          'P3',
          '{{ $labels.collector }}',
          'A collector will soon be too slow for the scrape.',
          'The collector {{ $labels.collector }} takes {{ $value | humanizePercentage }} of the time that the scrape has; the limit is %g %%.' % (t.scrape_duration_ratio.warning * 100),
          'operations',
          t.scrape_duration_ratio['for'],
          { keep_firing_for: '5m' },
        ),
        a.alert(
          'NiodooSeriesDropped',
          'sum without (reason) (%s) > 0' % q.m('niodoo_scrape_collector_series_dropped'),
          'P3',
          '{{ $labels.collector }}',
          'The exporter leaves out part of what it has read.',
          'The collector {{ $labels.collector }} leaves out series: {{ $value | printf "%.0f" }}; there should be none.' +
          a.ask('niodoo_scrape_collector_series_dropped', ['collector'], '', ' Reason: {{ (first .).Labels.reason }}.', '> 0'),
          'operations',
          '15m',
        ),
        a.alert(
          'NiodooConfigReloadFailed',
          '%s == 0' % q.m('niodoo_exporter_config_last_reload_successful'),
          'P3',
          'exporter',
          'The exporter runs with an old configuration.',
          'The last reload of the configuration failed; the one before it is in force, and a restart would fail.',
          'operations',
          '5m',
        ),
        a.alert(
          'NiodooRequestsRejected',
          'sum without (handler) (%s) > 0' % q.increase('niodoo_exporter_requests_rejected_total', w='5m'),
          'P3',
          'exporter',
          'The exporter turns scrapes away.',
          'Requests answered 503 in the last 5 minutes because --web.max-requests were in flight: {{ $value | printf "%.0f" }}; there should be none.',
          'operations',
          '5m',
          { keep_firing_for: '5m' },
        ),
        a.alert(
          'PrometheusRuleFailures',
          '%s > 0' % q.increase('niodoo_prometheus_rule_evaluation_failures_total', w='5m'),
          'P3',
          'prometheus',
          'Prometheus cannot evaluate its rules.',
          'Evaluations that failed in the last 5 minutes: {{ $value | printf "%.0f" }}; an alert whose rule fails cannot fire.',
          'operations',
          '10m',
        ),
        a.alert(
          'PrometheusNotificationsDropped',
          '%s > 0' % q.increase('niodoo_prometheus_notifications_dropped_total', w='5m'),
          'P2',
          'prometheus',
          'Alerts do not reach Alertmanager.',
          'Notifications dropped in the last 5 minutes: {{ $value | printf "%.0f" }}; there should be none.',
          'operations',
          '10m',
        ),
        a.alert(
          'PrometheusConfigReloadFailed',
          '%s == 0' % q.m('niodoo_prometheus_config_last_reload_successful'),
          'P3',
          'prometheus',
          'Prometheus runs with an old configuration.',
          'The last reload of the configuration or of a rule file failed; a restart would fail.',
          'operations',
          '10m',
        ),
        a.alert(
          'PrometheusStorageFailing',
          '%s\n+ %s > 0' % [
            q.increase('niodoo_prometheus_compactions_failed_total', w='3h'),
            q.increase('niodoo_prometheus_wal_corruptions_total', w='3h'),
          ],
          'P3',
          'prometheus',
          'Prometheus has trouble with its storage.',
          'Failed compactions and corruptions found in the last 3 hours: {{ $value | printf "%.0f" }}; there should be none.',
          'operations',
          '15m',
        ),
        a.alert(
          'AlertmanagerNotificationsFailing',
          '%s > 0' % q.increase('niodoo_alertmanager_notification_failures_total', w='15m'),
          'P2',
          'alertmanager',
          'Alertmanager cannot deliver alerts.',
          'Notifications by {{ $labels.integration }} that failed for good in the last 15 minutes: {{ $value | printf "%.0f" }}; there should be none.',
          'operations',
          '5m',
        ),
        a.alert(
          'AlertmanagerConfigReloadFailed',
          '%s == 0' % q.m('niodoo_alertmanager_config_last_reload_successful'),
          'P3',
          'alertmanager',
          'Alertmanager runs with an old configuration.',
          'The last reload of the configuration failed; a restart would fail, and then nobody is told of anything.',
          'operations',
          '10m',
        ),
        a.alert(
          'AlertmanagerPeersFailed',
          '%s > 0' % q.m('niodoo_alertmanager_cluster_failed_peers'),
          'P3',
          'alertmanager',
          'Alertmanagers of one cluster do not reach each other.',
          'Peers that cannot be reached: {{ $value | printf "%.0f" }}; until all can, alerts may be sent twice.',
          'operations',
          '15m',
        ),

        // Plumbing.
        a.alert(
          'Watchdog',
          'vector(1)',
          'none',
          'prometheus',
          'The way of the alerts is open.',
          'This alert always fires. Whoever expects it learns from its absence that alerts are lost.',
          'operations',
          more=nowhere,
        ),
        a.alert(
          'NiodooEngineOutage',
          'min_over_time(%s) == 0' % q.range('niodoo_component_up', 'component="engine"', '10m'),
          'none',
          'engine',
          'The engine was down within the last 10 minutes.',
          'While this fires, EngineAvailabilityBurn is not sent: the outage itself was.',
        ),
        a.alert(
          'InfoInhibitor',
          // Pending ones count: whoever is to be silenced must not be first.
          |||
            max by (%(by)s) (%(info)s)
            unless on (%(by)s)
            %(serious)s
          ||| % {
            by: q.by,
            info: q.m('ALERTS', 'priority="P4"'),
            serious: q.m('ALERTS', 'priority=~"P[1-3]",alertstate="firing"'),
          },
          'none',
          'alertmanager',
          'Only information is to be told.',
          'While this fires, alerts of P4 on this stack are not sent: nothing more serious makes them worth reading.',
          'operations',
        ),
      ]),
    ],
  },
}
