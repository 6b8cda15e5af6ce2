// Backups: there, fresh, whole, proven, and somewhere else. Without a backup directory there is nothing to judge.
local alerts = import '../lib/alert.libsonnet';
local query = import '../lib/query.libsonnet';

{
  local c = $._config,
  local t = c.thresholds,
  local a = alerts.new(c),
  local q = query.new(c, c.selector, c.rateWindow),

  local backups = q.m('niodoo_backup_backups'),
  local newest = q.m('niodoo_backup_newest_timestamp_seconds'),
  local copied = q.m('niodoo_backup_newest_copied'),
  local maxAge = q.m('niodoo_backup_max_age_seconds'),

  // Two limits: the age that the exporter's configuration allows, and as many times that as the thresholds say.
  local twice = t.backup_age_seconds.critical / t.backup_age_seconds.warning,
  local ageSays(limit) = 'The newest backup is {{ $value | humanizeDuration }} old; the limit is %s%s.' % [
    limit,
    a.ask('niodoo_backup_max_age_seconds', [], '', ', which is {{ first . | value | humanizeDuration }}'),
  ],

  // The archives of the manual's own scripts carry nothing that they could be verified with.
  local ours = 'and on (%s) %s > 0\n' % [q.by, q.m('niodoo_backup_layout_backups', 'layout="niodooctl"')],
  // overdue counts from when something last happened; where it never has, from the oldest backup.
  local overdue(metric, limit) =
    |||
      (
        time() - %(last)s
        or on (%(by)s)
        time() - %(oldest)s
      ) > %(limit)s
    ||| % {
      last: q.m(metric),
      oldest: q.m('niodoo_backup_oldest_timestamp_seconds'),
      by: q.by,
      limit: q.number(limit),
    } + ours,

  prometheusAlerts+:: {
    groups+: [
      a.group('niodoo-backup', [
        a.alert(
          'BackupMissing',
          // A new stack has until its first night; backups that were there and are gone are told at once.
          |||
            %(backups)s == 0
            and (
              max_over_time(%(backups)s[%(limit)ss]) > 0
              or
              %(backups)s offset %(limit)ss == 0
            )
          ||| % { backups: backups, limit: q.number(t.backup_age_seconds.warning) },
          'P2',
          'backup',
          'There is no backup.',
          'The backup directory holds {{ $value | printf "%.0f" }} good backups; there should be one for each night.',
          'operations',
          t.backup_age_seconds['for'],
        ),
        a.alert(
          'BackupTooOld',
          'time() - %s > on (%s) %s' % [newest, q.by, maxAge],
          'P3',
          'backup',
          'The last backup is too old.',
          ageSays('backup.max_age'),
          'operations',
          t.backup_age_seconds['for'],
        ),
        a.alert(
          'BackupOverdue',
          'time() - %s > on (%s) %s * %s' % [newest, q.by, q.number(twice), maxAge],
          'P2',
          'backup',
          'Several backups in a row are missing.',
          ageSays('%g times backup.max_age' % twice),
          'operations',
          t.backup_age_seconds['for'],
        ),
        a.alert(
          'BackupFailed',
          '%s > 0' % q.m('niodoo_backup_incomplete'),
          'P3',
          'backup',
          'A backup was never finished.',
          'Incomplete or damaged backups: {{ $value | printf "%.0f" }}; there should be none.',
          'operations',
          '5m',
        ),
        a.alert(
          'BackupCheckFailed',
          '%s > 0' % q.m('niodoo_backup_failed_checks'),
          'P2',
          'backup',
          'A backup cannot be restored.',
          'Backups that failed their last verification or restore drill: {{ $value | printf "%.0f" }}; there should be none.',
          'operations',
          '5m',
        ),
        a.alert(
          'BackupShrunk',
          '%s / %s < %s' % [q.m('niodoo_backup_newest_size_bytes'), q.m('niodoo_backup_previous_size_bytes'), q.number(t.backup_shrink_ratio.warning)],
          'P3',
          'backup',
          'The last backup is much smaller than the one before.',
          'The newest backup has {{ $value | humanizePercentage }} of the size of the one before it; the limit is %g %%.' % (t.backup_shrink_ratio.warning * 100),
          'operations',
          t.backup_shrink_ratio['for'],
        ),
        a.alert(
          'BackupIncompleteContent',
          '%s > 0' % q.m('niodoo_backup_newest_skipped'),
          'P3',
          'backup',
          'The last backup lacks something.',
          'Left out of the newest backup although it was to be in it: {{ $value | printf "%.0f" }}; there should be nothing.',
          'operations',
          '5m',
        ),
        a.alert(
          'BackupNotVerified',
          overdue('niodoo_backup_last_verification_timestamp_seconds', t.backup_verify_seconds.warning),
          'P3',
          'backup',
          'No backup was verified for too long.',
          'The last verification was {{ $value | humanizeDuration }} ago, or the first backup if there was none; the limit is %g days.' % (t.backup_verify_seconds.warning / 86400),
          'operations',
          t.backup_verify_seconds['for'],
        ),
        a.alert(
          'BackupNotDrilled',
          // The backup that was drilled may have been pruned; niodooctl remembers the drill.
          overdue('niodoo_backup_last_drill_timestamp_seconds', t.backup_drill_seconds.warning) +
          'unless on (%s) time() - %s <= %s\n' % [
            q.by,
            q.m('niodoo_operations_drill_last_success_timestamp_seconds'),
            q.number(t.backup_drill_seconds.warning),
          ],
          'P3',
          'backup',
          'No backup was restored for a trial for too long.',
          'The last good restore drill was {{ $value | humanizeDuration }} ago, or the first backup if there was none; the limit is %g days.' % (t.backup_drill_seconds.warning / 86400),
          'operations',
          t.backup_drill_seconds['for'],
        ),
        a.alert(
          'BackupOnSameDevice',
          |||
            max without (source) (%s) == 1
            unless on (%s)
            %s == 1
          ||| % [q.m('niodoo_backup_same_device'), q.by, copied],
          'P4',
          'backup',
          'The backups are lost with the disk that they are to replace.',
          'Data and backups lie on the same device and the newest backup is copied nowhere else.' +
          a.ask('niodoo_backup_same_device', [], '', ' Data: {{ range $i, $s := . }}{{ if $i }}, {{ end }}{{ $s.Labels.source }}{{ end }}.', '== 1'),
          'operations',
          '1h',
        ),
        a.alert(
          'BackupCopyFailed',
          // Only where copies are made at all.
          '%s == 0\nand\nmax_over_time(%s[14d:1h]) == 1\n' % [copied, copied],
          'P3',
          'backup',
          'The last backup was not copied off the machine.',
          'Backups were copied before; the newest has been without a copy for 4 hours.',
          'operations',
          '4h',
        ),
        a.alert(
          'BackupDoesNotFit',
          '%s\n< on (%s)\n%s' % [q.m('niodoo_backup_filesystem_avail_bytes'), q.by, q.m('niodoo_backup_newest_size_bytes')],
          'P3',
          'backup',
          'There is no room for another backup.',
          '{{ $value | humanize1024 }}B are left for backups' +
          a.ask('niodoo_backup_newest_size_bytes', [], '', '; the newest has {{ first . | value | humanize1024 }}B') + '.',
          'operations',
          '1h',
        ),
      ]),
    ],
  },
}
