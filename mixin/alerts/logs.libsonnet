// What the log files say, and whether they still say anything.
local alerts = import '../lib/alert.libsonnet';
local query = import '../lib/query.libsonnet';

{
  local c = $._config,
  local t = c.thresholds,
  local a = alerts.new(c),
  local q = query.new(c, c.selector, c.rateWindow),

  local errors(window) = q.range('niodoo_logs_lines_total', 'level="error"', window),

  prometheusAlerts+:: {
    groups+: [
      a.group('niodoo-logs', [
        a.alert(
          'LogErrorSpike',
          // Yesterday's hour is centred on the present minute. A stack without a yesterday is not judged.
          |||
            sum by (%(by)s) (rate(%(now)s)) > %(minimum)s
            and
            sum by (%(by)s) (rate(%(now)s)) > %(times)s * sum by (%(by)s) (rate(%(hour)s offset 1410m))
          ||| % {
            by: q.by,
            now: errors('10m'),
            hour: errors('1h'),
            minimum: q.number(t.log_error_minimum.warning),
            times: q.number(t.log_error_spike.warning),
          },
          'P3',
          'logs',
          'The logs hold far more errors than yesterday.',
          'Errors per second: {{ $value | printf "%%.2f" }}; the limit is %g times as many as at this hour yesterday, and %g.' %
          [t.log_error_spike.warning, t.log_error_minimum.warning],
          'operations',
          t.log_error_spike['for'],
          { keep_firing_for: '10m' },
        ),
        a.alert(
          'LogSilent',
          // A file that has not been read from is somebody else's, or left over.
          |||
            time() - max by (%(by)s) (%(written)s) > %(limit)s
            and
            sum by (%(by)s) (%(read)s) > 0
            and on (%(by)s)
            min_over_time(%(events)s[%(limit)ss]) > %(minimum)s
          ||| % {
            by: q.by,
            written: q.m('niodoo_logs_last_write_timestamp_seconds'),
            read: q.m('niodoo_logs_bytes_total'),
            events: q.m('instance:niodoo_consciousness_events:rate5m'),
            limit: q.number(t.log_silence_seconds.warning),
            minimum: q.number(c.slo.minimumEventsPerSecond),
          },
          'P3',
          'logs',
          'The engine works but writes no log.',
          'No log file was written to for {{ $value | humanizeDuration }} although events are processed; the limit is %gm.' % (t.log_silence_seconds.warning / 60),
          'operations',
          t.log_silence_seconds['for'],
        ),
        a.alert(
          'LogNotRotated',
          '%s > %s' % [q.m('niodoo_logs_file_size_bytes'), q.number(t.log_size_bytes.warning)],
          'P3',
          'logs',
          'A log file is not rotated.',
          '{{ $labels.file }} has {{ $value | humanize1024 }}B; the limit is %gGiB.' % (t.log_size_bytes.warning / 1073741824),
          'operations',
          t.log_size_bytes['for'],
        ),
        a.alert(
          'LogReadingBehind',
          '%s > %s' % [q.m('niodoo_logs_lag_bytes'), q.number(t.log_lag_bytes.warning)],
          'P4',
          'logs',
          'More is written to a log than can be read.',
          '{{ $value | humanize1024 }}B of {{ $labels.file }} are still to be read; the limit is %gMiB.' % (t.log_lag_bytes.warning / 1048576),
          'operations',
          t.log_lag_bytes['for'],
        ),
      ]),
    ],
  },
}
