// The consciousness engine: up, fast, right.
local alerts = import '../lib/alert.libsonnet';
local query = import '../lib/query.libsonnet';

{
  local c = $._config,
  local t = c.thresholds,
  local a = alerts.new(c),
  local q = query.new(c, c.selector, c.rateWindow),

  prometheusAlerts+:: {
    groups+: [
      a.group('niodoo-engine', [
        a.alert(
          'ConsciousnessEngineDown',
          '%s == 0' % q.m('niodoo_component_up', 'component="engine"'),
          'P1',
          'engine',
          'The consciousness engine is down.',
          'The engine has not passed its health check for a minute.{{ with printf `niodoo_scrape_collector_failure_info{collector="engine",instance="%s"}` $labels.instance | query }} Reason: {{ (first .).Labels.reason }}.{{ end }}',
          duration='1m',
        ),
        a.alert(
          'HighProcessingLatency',
          '(\n%s) > %g' % [$.processingSeconds, t.processing_time_seconds.warning],
          'P2',
          'engine',
          'The engine takes long to process events.',
          'Processing takes {{ $value | humanizeDuration }} on average; the target is %gs.' % t.processing_time_seconds.target,
          duration=t.processing_time_seconds['for'],
        ),
      ]),
    ],
  },
}
