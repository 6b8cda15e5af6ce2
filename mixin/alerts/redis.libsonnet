// Redis: room, persistence, connections, replication.
local alerts = import '../lib/alert.libsonnet';
local query = import '../lib/query.libsonnet';

{
  local c = $._config,
  local t = c.thresholds,
  local a = alerts.new(c),
  local q = query.new(c, c.selector, c.rateWindow),

  prometheusAlerts+:: {
    groups+: [
      a.group('niodoo-redis', [
        a.alert(
          'RedisMemoryNearlyFull',
          // Without a limit there is no memory_max_bytes; with a policy that evicts, full is normal.
          |||
            %s / %s > %s
            and on (%s)
            %s == 1
          ||| % [
            q.m('niodoo_redis_memory_used_bytes'),
            q.m('niodoo_redis_memory_max_bytes'),
            q.number(t.redis_memory_ratio.warning),
            q.by,
            q.m('niodoo_redis_info', 'maxmemory_policy="noeviction"'),
          ],
          'P2',
          'redis',
          'Redis will soon refuse to store anything.',
          '{{ $value | humanizePercentage }} of maxmemory are used and the policy is noeviction; at 100% writes fail.',
          'services',
          t.redis_memory_ratio['for'],
          { keep_firing_for: '5m' },
        ),
        a.alert(
          'RedisEvictions',
          |||
            %s > %s
            and on (%s)
            %s == 1
          ||| % [
            q.increase('niodoo_redis_evicted_keys_total', w='15m'),
            q.number(t.redis_evictions.warning),
            q.by,
            q.m('niodoo_redis_info', 'maxmemory_policy=~"volatile-.+"'),
          ],
          'P3',
          'redis',
          'Redis evicts keys before their time.',
          '{{ $value | printf "%%.0f" }} keys were evicted in 15 minutes; up to %s are borne.' % q.number(t.redis_evictions.warning),
          'services',
          t.redis_evictions['for'],
        ),
        a.alert(
          'RedisPersistenceFailing',
          |||
            %s == 0
            or
            %s == 0
            or
            %s == 0
          ||| % [
            q.m('niodoo_redis_rdb_last_bgsave_success'),
            q.m('niodoo_redis_aof_last_write_success'),
            q.m('niodoo_redis_aof_last_rewrite_success'),
          ],
          'P2',
          'redis',
          'Redis cannot write its data to disk.',
          'The last snapshot, write or rewrite of the append-only file failed: a restart loses data, and Redis may refuse writes.',
          'services',
          '5m',
        ),
        a.alert(
          'RedisConnectionsRejected',
          q.increase('niodoo_redis_rejected_connections_total', w='5m') + ' > 0',
          'P2',
          'redis',
          'Redis turns connections away.',
          '{{ $value | printf "%.0f" }} connections were refused in 5 minutes because maxclients is reached.',
          'services',
          '2m',
        ),
        a.alert(
          'RedisReplicaLinkDown',
          // A full copy takes its time; the link counts as down during it.
          |||
            %s == 0
            unless on (%s)
            %s == 1
          ||| % [q.m('niodoo_redis_master_link_up'), q.by, q.m('niodoo_redis_master_sync_in_progress')],
          'P3',
          'redis',
          'The Redis replica has lost its master.',
          'The replica has not been connected to its master for five minutes and serves old data.',
          'services',
          '5m',
        ),
      ]),
    ],
  },
}
