// The machine: processor, memory, file systems, clock, network.
local alerts = import '../lib/alert.libsonnet';
local query = import '../lib/query.libsonnet';

{
  local c = $._config,
  local t = c.thresholds,
  local a = alerts.new(c),
  local q = query.new(c, c.selector, c.rateWindow),

  local path = 'path!~"%s"' % c.ignoredPaths,
  local avail = 'niodoo_host_filesystem_avail_bytes',
  local usage = q.m('instance_path:niodoo_host_filesystem_usage:ratio', path),
  // What can only be read does not fill up; read-only media are always full.
  local writable = 'and on (%s, path) %s == 0\n' % [q.by, q.m('niodoo_host_filesystem_readonly')],

  // was holds where a metric had another value before: some media are always read-only, some machines have never had
  // a time server. After two weeks a state counts as meant. Hourly looks do for so long a time; for the first hour they are too few.
  local was(expr, condition) =
    'and (\n  min_over_time(%(e)s[1h]) %(c)s\n  or\n  min_over_time(%(e)s[14d:1h]) %(c)s\n)\n' % { e: expr, c: condition },

  // secondsLeft until a file system is full, at its pace in the window that ended so many windows ago.
  local secondsLeft(window, ago) =
    local at = if ago == 0 then '' else ' offset %dm' % (window * ago);
    '%s%s / -deriv(%s%s)' % [q.m(avail, path), at, q.range(avail, path, '%dm' % window), at],

  // fullWithin holds where several windows in a row, each by itself, point to a full disk before the limit: a backup, a
  // dump or a compaction takes space in one of them and gives it back. The value is what the latest says.
  local fullWithin(limit, window, windows) =
    std.join('and\n', [
      '(%s) < %s > 0\n' % [secondsLeft(window, i), q.number(limit + i * window * 60)]
      for i in std.range(0, windows - 1)
    ]) +
    'and on (%s, path) %s > %s\n' % [q.by, usage, q.number(t.disk_full_used_ratio.warning)] +
    writable +
    'unless on (%s) %s > 0\n' % [q.by, q.m('niodoo_backup_in_progress')],

  local fullSays = '{{ $labels.path }} will be full in {{ $value | humanizeDuration }} if it goes on like this; the limit is %s.',

  local networkErrors(directions, what, w) = std.join('\n+ ', [q.increase('niodoo_host_network_%s_%s_total' % [d, what], w=w) for d in directions]),
  local both = ['receive', 'transmit'],

  prometheusAlerts+:: {
    groups+: [
      a.group('niodoo-host', [
        a.alert(
          'HighCPUUsage',
          '%s > %s' % [q.m('instance:niodoo_host_cpu_usage:ratio_rate5m'), q.number(t.cpu_usage_ratio.warning)],
          'P3',
          'host',
          'The processor is nearly fully used.',
          'CPU usage is {{ $value | humanizePercentage }} on average of 5 minutes; the limit is %g %%, the target %g %%.' %
          [t.cpu_usage_ratio.warning * 100, t.cpu_usage_ratio.target * 100],
          'performance',
          t.cpu_usage_ratio['for'],
          { keep_firing_for: '5m' },
        ),
        a.alert(
          'HighMemoryUsage',
          '%s > %s' % [q.m('instance:niodoo_host_memory_usage:ratio'), q.number(t.memory_usage_ratio.warning)],
          'P3',
          'host',
          'The memory is nearly used up.',
          'Memory usage is {{ $value | humanizePercentage }}; the limit is %g %%, the target %g %%.' %
          [t.memory_usage_ratio.warning * 100, t.memory_usage_ratio.target * 100],
          'performance',
          t.memory_usage_ratio['for'],
        ),
        a.alert(
          'HighMemoryPressure',
          'max without (resource) (%s) > %s' % [q.rate('niodoo_host_pressure_waiting_seconds_total', 'resource="memory"', '5m'), q.number(t.memory_pressure_ratio.warning)],
          'P3',
          'host',
          'Processes wait for memory.',
          'Processes waited for memory {{ $value | humanizePercentage }} of the last 5 minutes; the limit is %g %%.' % (t.memory_pressure_ratio.warning * 100),
          'performance',
          t.memory_pressure_ratio['for'],
          { keep_firing_for: '5m' },
        ),
        a.alert(
          'OutOfMemoryKill',
          '%s > 0' % q.increase('niodoo_host_oom_kills_total', w='15m'),
          'P3',
          'host',
          'The kernel has killed a process for want of memory.',
          'Processes killed in the last 15 minutes: {{ $value | printf "%.0f" }}; there should be none.',
          'performance',
        ),
        a.alert(
          'HighDiskUsage',
          '%s > %s\n%s' % [usage, q.number(t.disk_usage_ratio.warning), writable],
          'P3',
          'host',
          'A disk is filling up.',
          '{{ $labels.path }} is {{ $value | humanizePercentage }} full; the limit is %g %%.' % (t.disk_usage_ratio.warning * 100),
          'performance',
          t.disk_usage_ratio['for'],
          { keep_firing_for: '5m' },
        ),
        a.alert(
          'DiskAlmostFull',
          '%s > %s\n%s' % [usage, q.number(t.disk_usage_ratio.critical), writable],
          'P2',
          'host',
          'A disk is almost full.',
          '{{ $labels.path }} is {{ $value | humanizePercentage }} full; the limit is %g %%.' % (t.disk_usage_ratio.critical * 100),
          'performance',
          t.disk_usage_ratio['for'],
          { keep_firing_for: '5m' },
        ),
        a.alert(
          'DiskFullWithinADay',
          fullWithin(t.disk_full_seconds.warning, 60, 3),
          'P3',
          'host',
          'A disk will be full within a day.',
          fullSays % 'a day',
          'performance',
          t.disk_full_seconds['for'],
          { keep_firing_for: '30m' },
        ),
        a.alert(
          'DiskFullWithinHours',
          fullWithin(t.disk_full_seconds.critical, 15, 2),
          'P2',
          'host',
          'A disk will be full within hours.',
          fullSays % ('%g hours' % (t.disk_full_seconds.critical / 3600)),
          'performance',
          t.disk_full_seconds['for'],
          { keep_firing_for: '15m' },
        ),
        a.alert(
          'InodesRunningOut',
          '1 - %s\n  / %s\n> %s\n%s' % [
            q.m('niodoo_host_filesystem_files_free', path),
            q.m('niodoo_host_filesystem_files', path),
            q.number(t.inode_usage_ratio.warning),
            writable,
          ],
          'P3',
          'host',
          'A file system can hold few more files.',
          '{{ $value | humanizePercentage }} of the inodes of {{ $labels.path }} are used; the limit is %g %%.' % (t.inode_usage_ratio.warning * 100),
          'performance',
          t.inode_usage_ratio['for'],
        ),
        a.alert(
          'FilesystemReadOnly',
          '%s == 1\n%s' % [q.m('niodoo_host_filesystem_readonly'), was(q.m('niodoo_host_filesystem_readonly'), '== 0')],
          'P2',
          'host',
          'A file system can no longer be written to.',
          '{{ $labels.path }} was writable before and is read-only now, as after a disk error.',
          'performance',
          '2m',
        ),
        a.alert(
          'FilesystemFailing',
          '%s == 1\n%s' % [q.m('niodoo_host_filesystem_error'), was(q.m('niodoo_host_filesystem_error'), '== 0')],
          'P2',
          'host',
          'A file system answers with errors.',
          '{{ $labels.path }} answered before and gives an error now, as XFS does after a disk error.',
          'performance',
          '2m',
        ),
        a.alert(
          'FilesystemStuck',
          '%s == 1' % q.m('niodoo_host_filesystem_stuck'),
          'P2',
          'host',
          'A file system does not answer.',
          '{{ $labels.path }} has not answered for 5 minutes; whatever touches it hangs, such as on NFS without its server.',
          'performance',
          '5m',
        ),
        a.alert(
          'ClockNotSynchronised',
          '%s > %s\n%s' % [
            q.m('niodoo_host_clock_max_error_seconds'),
            q.number(t.clock_error_seconds.warning),
            was(q.m('niodoo_host_clock_max_error_seconds'), '<= ' + q.number(t.clock_error_seconds.warning)),
          ],
          'P3',
          'host',
          'Nothing keeps the clock right any more.',
          'The clock may be off by {{ $value | humanizeDuration }}; the limit is %gs.' % t.clock_error_seconds.warning,
          'performance',
          t.clock_error_seconds['for'],
        ),
        a.alert(
          'NetworkErrors',
          |||
            (
              %(errors)s
            ) / (
              %(packets)s
            ) > %(ratio)s
            and (
              %(errors)s
            ) > %(minimum)s
          ||| % {
            errors: networkErrors(both, 'errors', '15m'),
            packets: networkErrors(both, 'packets', '15m'),
            ratio: q.number(t.network_error_ratio.warning),
            minimum: q.number(t.network_errors.warning),
          },
          'P3',
          'host',
          'A network device loses packets to errors.',
          '{{ $value | humanizePercentage }} of the packets of {{ $labels.device }} in the last 15 minutes were errors; the limit is %g %%.' %
          (t.network_error_ratio.warning * 100),
          'performance',
          t.network_error_ratio['for'],
        ),
      ]),
    ],
  },
}
