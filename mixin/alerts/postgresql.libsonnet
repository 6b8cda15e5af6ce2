// PostgreSQL: fast, with room for connections and transactions, and replicating. That it is there is in services.libsonnet.
local alerts = import '../lib/alert.libsonnet';
local query = import '../lib/query.libsonnet';

{
  local c = $._config,
  local t = c.thresholds,
  local a = alerts.new(c),
  local q = query.new(c, c.selector, c.rateWindow),

  // What applications can use: the server keeps some connections for superusers.
  local connectionRatio =
    |||
      instance:niodoo_postgresql_connections:sum
      / on (%s)
      (%s - %s)
    ||| % [q.by, q.m('niodoo_postgresql_max_connections'), q.m('niodoo_postgresql_reserved_connections')],
  local connectionSays = '{{ $value | humanizePercentage }} of the connections that applications can use are taken; the alert is above %s%%.',

  prometheusAlerts+:: {
    groups+: [
      a.group('niodoo-postgresql', [
        a.alert(
          'HighDatabaseResponseTime',
          '%s > %s' % [q.m('niodoo_component_response_seconds', 'component="postgresql"'), q.number(t.database_response_seconds.warning)],
          'P3',
          'postgresql',
          'PostgreSQL answers slowly.',
          'The most trivial statement takes {{ $value | humanizeDuration }}; the target is %s ms.' % q.number(t.database_response_seconds.target * 1000),
          'performance',
          t.database_response_seconds['for'],
          { keep_firing_for: '5m' },
        ),
        a.alert(
          'PostgreSQLConnectionsHigh',
          '%s> %s' % [connectionRatio, q.number(t.postgresql_connection_ratio.warning)],
          'P3',
          'postgresql',
          'PostgreSQL is running out of connections.',
          connectionSays % q.number(t.postgresql_connection_ratio.warning * 100),
          'services',
          t.postgresql_connection_ratio['for'],
          { keep_firing_for: '5m' },
        ),
        a.alert(
          'PostgreSQLConnectionsExhausted',
          '%s> %s' % [connectionRatio, q.number(t.postgresql_connection_ratio.critical)],
          'P2',
          'postgresql',
          'PostgreSQL has hardly a connection left.',
          connectionSays % q.number(t.postgresql_connection_ratio.critical * 100),
          'services',
          t.postgresql_connection_ratio['for'],
          { keep_firing_for: '5m' },
        ),
        a.alert(
          'PostgreSQLDeadlocks',
          '%s > %s' % [q.increase('niodoo_postgresql_deadlocks_total', w='15m'), q.number(t.postgresql_deadlocks.warning)],
          'P3',
          'postgresql',
          'Transactions in PostgreSQL block each other.',
          '{{ $value | printf "%%.0f" }} deadlocks were found in {{ $labels.datname }} in 15 minutes; each has failed a statement. Up to %s are borne.' % q.number(t.postgresql_deadlocks.warning),
          'services',
          t.postgresql_deadlocks['for'],
        ),
        a.alert(
          'PostgreSQLLongTransaction',
          '%s > %s' % [q.m('niodoo_postgresql_oldest_transaction_seconds'), q.number(t.postgresql_transaction_seconds.warning)],
          'P3',
          'postgresql',
          'A transaction in PostgreSQL does not come to an end.',
          'The oldest transaction has been open for {{ $value | humanizeDuration }}; vacuum can remove nothing that it might still see.',
          'services',
          t.postgresql_transaction_seconds['for'],
        ),
        a.alert(
          'PostgreSQLIdleInTransaction',
          '%s > %s' % [q.m('niodoo_postgresql_oldest_idle_in_transaction_seconds'), q.number(t.postgresql_idle_transaction_seconds.warning)],
          'P3',
          'postgresql',
          'A session holds a transaction open and does nothing.',
          'A session has been idle in a transaction for {{ $value | humanizeDuration }}; it keeps its locks.',
          'services',
          t.postgresql_idle_transaction_seconds['for'],
        ),
        a.alert(
          'PostgreSQLPreparedTransactionForgotten',
          '%s > %s' % [q.m('niodoo_postgresql_oldest_prepared_transaction_seconds'), q.number(t.postgresql_transaction_seconds.warning)],
          'P3',
          'postgresql',
          'A prepared transaction was never finished.',
          'It has waited for its second phase for {{ $value | humanizeDuration }}; it keeps its locks, even over a restart.',
          'services',
          t.postgresql_transaction_seconds['for'],
        ),
        a.alert(
          'PostgreSQLLockQueue',
          '%s > %s' % [q.m('niodoo_postgresql_lock_waiters'), q.number(t.postgresql_lock_waiters.warning)],
          'P2',
          'postgresql',
          'Sessions in PostgreSQL queue for a lock.',
          '{{ $value }} sessions wait for a lock; up to %s are borne.' % q.number(t.postgresql_lock_waiters.warning),
          'services',
          t.postgresql_lock_waiters['for'],
          { keep_firing_for: '5m' },
        ),
        a.alert(
          'PostgreSQLReplicationLag',
          // As the primary sees its standbys, and as a standby sees itself.
          '%(primary)s > %(limit)s\nor\n%(standby)s > %(limit)s\n' % {
            limit: q.number(t.postgresql_replication_lag_seconds.warning),
            primary: q.m('niodoo_postgresql_replication_lag_seconds'),
            standby: q.m('niodoo_postgresql_standby_lag_seconds'),
          },
          'P3',
          'postgresql',
          'A PostgreSQL standby lags behind.',
          '{{ with $labels.application_name }}{{ . }}{{ else }}The standby{{ end }} is {{ $value | humanizeDuration }} behind: a failover would lose as much.',
          'services',
          t.postgresql_replication_lag_seconds['for'],
          { keep_firing_for: '5m' },
        ),
        a.alert(
          'PostgreSQLStandbyDisconnected',
          // A standby that is fed from an archive has never streamed.
          '%(streams)s == 0\nand\nmax_over_time(%(streams)s[1d]) == 1\n' % { streams: q.m('niodoo_postgresql_standby_receiving') },
          'P2',
          'postgresql',
          'The PostgreSQL standby is cut off from its primary.',
          'It has received nothing for five minutes; what the primary writes since then is on one machine only.',
          'services',
          '5m',
        ),
        a.alert(
          'PostgreSQLSlotRetainsWAL',
          '%s > %s' % [q.m('niodoo_postgresql_replication_slot_retained_bytes'), q.number(t.postgresql_slot_retained_bytes.warning)],
          'P2',
          'postgresql',
          'A replication slot keeps PostgreSQL from removing its log.',
          'The slot {{ $labels.slot_name }} retains {{ $value | humanize1024 }}B of write-ahead log; it grows until the disk is full.',
          'services',
          t.postgresql_slot_retained_bytes['for'],
        ),
        a.alert(
          'PostgreSQLSlotLostWAL',
          q.m('niodoo_postgresql_replication_slot_wal_kept') + ' == 0',
          'P2',
          'postgresql',
          'A replication slot has lost the log it needs.',
          'The write-ahead log that the slot {{ $labels.slot_name }} needs is removed or about to be; its standby may have to be built anew.',
          'services',
          '5m',
        ),
        a.alert(
          'PostgreSQLTransactionIDsAging',
          |||
            %s > %s
            unless
            %s <= on (%s) group_left () %s * %s
          ||| % [
            q.m('niodoo_postgresql_frozen_xid_age'),
            q.number(t.postgresql_xid_age.warning),
            q.m('niodoo_postgresql_frozen_xid_age'),
            q.by,
            q.number(t.postgresql_xid_age_to_freeze_ratio.warning),
            q.m('niodoo_postgresql_autovacuum_freeze_max_age'),
          ],
          'P3',
          'postgresql',
          'Autovacuum does not freeze old transactions.',
          'The oldest transaction id in {{ $labels.datname }} is {{ $value | humanize }} transactions old; near 2.1 G the server stops taking writes.',
          'services',
          t.postgresql_xid_age['for'],
        ),
        a.alert(
          'PostgreSQLTransactionIDWraparound',
          '%(xid)s > %(limit)s\nor\n%(multixact)s > %(limit)s\n' % {
            limit: q.number(t.postgresql_xid_age.critical),
            xid: q.m('niodoo_postgresql_frozen_xid_age'),
            multixact: q.m('niodoo_postgresql_frozen_multixact_age'),
          },
          'P1',
          'postgresql',
          'PostgreSQL will soon stop taking writes.',
          'The oldest transaction id in {{ $labels.datname }} is {{ $value | humanize }} transactions old; near 2.1 G the server stops taking writes.',
          'services',
          t.postgresql_xid_age['for'],
        ),
        a.alert(
          'PostgreSQLArchiverFailing',
          |||
            %s > 0
            unless on (%s)
            %s > 0
          ||| % [q.increase('niodoo_postgresql_archive_failures_total', w='15m'), q.by, q.increase('niodoo_postgresql_archived_segments_total', w='15m')],
          'P2',
          'postgresql',
          'PostgreSQL cannot archive its write-ahead log.',
          'Archiving failed {{ $value | printf "%.0f" }} times in 15 minutes and never worked: the log fills the disk, and a restore ends where it stopped.',
          'services',
          '10m',
        ),
        a.alert(
          'PostgreSQLChecksumFailures',
          q.increase('niodoo_postgresql_checksum_failures_total', w='1h') + ' > 0',
          'P1',
          'postgresql',
          'PostgreSQL has read damaged data.',
          '{{ $value | printf "%.0f" }} pages of {{ $labels.datname }} had a wrong checksum in the last hour: the disk or the memory is faulty.',
          'services',
        ),
      ]),
    ],
  },
}
