// One row per component: its state over time, how fast it answers, and its vital signs.
local p = import '../lib/panels.libsonnet';
local shared = import 'shared.libsonnet';

{
  local t = $._config.thresholds,
  local c = shared($._config),
  local d = c.d,
  local q = d.q,
  local s = d.s,

  local yes = { '0': ['no', p.colours.bad], '1': ['yes', p.colours.good] },
  local no = { '0': ['no', p.colours.good], '1': ['yes', p.colours.bad] },
  local plain = { '0': ['no', p.colours.idle], '1': ['yes', p.colours.neutral] },

  // head is how every row begins.
  local head(component, name, more, h=7) = c.line(h, [
    c.componentStates(name + ' over time', 'State of each selected instance.', 'component="%s"' % component, ['instance']) + c.width(8),
    p.timeseries(name + ' response', 'Time of the health request.', [s.value('niodoo_component_response_seconds', 'component="%s"' % component)])
    + (if std.member(['postgresql', 'redis'], component) then p.drawn(t.database_response_seconds) else {}) + c.width(6),
  ] + more),

  // per instance and label, summed up where it is an amount
  local sum(metric, labels, extra='') = s.over('sum', labels, s.value(metric, extra)),
  local most(metric, labels, extra='') = s.over('max', labels, s.value(metric, extra)),
  local rates(metric, labels, extra='') = s.over('sum', labels, s.rate(metric, extra)),
  local total(metric, legend, extra='') = s.all('sum', s.rate(metric, extra), legend),

  // flags is a table of facts, one row an instance.
  local flags(title, text, facts) = p.table(title, text, [
    { label: $._config.clusterLabel, title: 'Cluster' },
    { label: 'instance', title: 'Instance' },
  ] + [
    { series: s.over('max', q.byList, f.series), title: f.title } + (if std.objectHas(f, 'words') then { words: f.words } else {}) + (if std.objectHas(f, 'unit') then { unit: f.unit } else {})
    for f in facts
  ]),

  local ended = s.over('sum', ['cause'], s.rate('niodoo_postgresql_sessions_ended_total')),
  local standby = ['application_name', 'client_addr'],
  local slot = ['slot_name'],
  local table = ['schema', 'table'],

  grafanaDashboards+:: {
    'services.json': d.dashboard('services', 'Services', 'Every component of the stack: state over time, latency and vital signs.', [
      p.row('All components'),
      c.line(10, [
        c.componentStates('Components', 'State of every component over time, the worst of the selected instances.') + c.width(10),
        p.table('Versions and readiness', 'What each component is, and when its certificate expires, if it has one.', [
          { label: 'component', title: 'Component' },
          { label: 'version', title: 'Version' },
          { label: 'instance', title: 'Instance' },
          { series: s.raw('max by (%s, component, version) (%s * on (%s, component) group_left () %s)' % [q.by, q.m('niodoo_component_info'), q.by, q.m('niodoo_component_up')], 'short', metrics=['niodoo_component_info']), title: 'Up', words: yes, width: 60 },
          { series: s.raw('max by (%s, component, version) (%s * on (%s, component) group_left () %s)' % [q.by, q.m('niodoo_component_info'), q.by, q.m('niodoo_component_required')], 'short', metrics=['niodoo_component_required']), title: 'Required', words: plain, width: 80 },
          { series: s.raw('max by (%s, component, version) (%s * on (%s, component) group_left () %s)' % [q.by, q.m('niodoo_component_info'), q.by, q.m('niodoo_component_response_seconds')], 's', metrics=['niodoo_component_response_seconds']), title: 'Response', width: 90 },
        ], { displayName: 'Component', desc: false }) + c.width(14),
      ]),
      c.line(7, [
        c.response('Response times', "Of each component's health request, the slowest of the selected instances.", []) + p.logarithmic + c.width(10),
        p.timeseries('Readiness', 'Share of the selected instances whose component says that it is ready for work.', [s.over('avg', ['component'], s.value('niodoo_component_ready'))], 'percentunit') + p.ratio,
        p.table('Certificates', "Time until the certificates of the components' TLS endpoints expire; empty where none speaks TLS.", [
          { label: 'component', title: 'Component' },
          { label: 'instance', title: 'Instance' },
          { series: s.over('min', q.byList + ['component'], s.remaining('niodoo_component_tls_not_after_timestamp_seconds')), title: 'Expires in', threshold: t.certificate_seconds },
        ]) + p.none('No component speaks TLS'),
      ]),

      p.row('PostgreSQL'),
      head('postgresql', 'PostgreSQL', [
        p.timeseries('Logins', 'A fresh login now and then shows whether the application would be let in; 1 is yes.', [s.value('niodoo_postgresql_login_success')]) + p.ratio,
        p.timeseries('Failed logins', "By reason. A refused role or password is the exporter's own trouble.", [rates('niodoo_postgresql_connection_failures_total', ['reason'])]) + p.none('0'),
      ]),
      c.line(7, [
        p.timeseries('Connections', 'Share of the connections the server takes.', [
          s.raw('%s / %s' % [q.m('instance:niodoo_postgresql_connections:sum'), q.m('niodoo_postgresql_max_connections')], 'percentunit', metrics=['niodoo_postgresql_connections', 'niodoo_postgresql_max_connections']),
        ]) + p.ratio + p.drawn(t.postgresql_connection_ratio),
        p.timeseries('Connections by state', 'Over all selected instances.', [sum('niodoo_postgresql_connections', ['state'])]) + p.stacked,
        p.timeseries('Transactions', 'That ended, over all selected instances and databases.', [rates('niodoo_postgresql_transactions_total', ['outcome'])]),
        p.timeseries('Hits in the buffers', 'Share of blocks that need not be read.', [
          s.raw('sum by (instance) (%s) / (sum by (instance) (%s) > 0)' % [q.rate('niodoo_postgresql_blocks_total', 'source="hit"'), q.rate('niodoo_postgresql_blocks_total')], 'percentunit', metrics=['niodoo_postgresql_blocks_total']),
        ]) + p.ratio + p.drawn(t.cache_hit_ratio),
      ]),
      c.line(7, [
        p.timeseries('Oldest transactions', 'The longest open, idle and prepared transactions of the selected instances: they keep vacuum from cleaning.', [
          s.all('max', s.value('niodoo_postgresql_oldest_transaction_seconds'), 'open'),
          s.all('max', s.value('niodoo_postgresql_oldest_idle_in_transaction_seconds'), 'idle in transaction'),
          s.all('max', s.value('niodoo_postgresql_oldest_prepared_transaction_seconds'), 'prepared'),
        ]) + p.drawn(t.postgresql_transaction_seconds),
        p.timeseries('Locks', 'Clients that wait for a lock, and deadlocks per second.', [
          s.all('sum', s.value('niodoo_postgresql_lock_waiters'), 'waiting'),
          s.all('sum', s.rate('niodoo_postgresql_deadlocks_total'), 'deadlocks'),
        ]) + p.drawn(t.postgresql_lock_waiters),
        p.timeseries('Size of the databases', 'Over all selected instances.', [sum('niodoo_postgresql_database_size_bytes', ['datname'])]),
        p.timeseries('Age of the transaction ids', 'Transactions since the oldest that is not frozen; autovacuum steps in at the dashed line, at 2³¹ the server stops taking writes.', [
          most('niodoo_postgresql_frozen_xid_age', ['datname']),
          s.all('max', s.value('niodoo_postgresql_autovacuum_freeze_max_age'), 'autovacuum'),
        ]) + p.drawn(t.postgresql_xid_age) + p.dashed('autovacuum'),
      ]),
      c.line(7, [
        p.timeseries('Write-ahead log', 'Written per second, and its size on disk on the right.', [
          s.rate('niodoo_postgresql_wal_written_bytes_total', legend='{{instance}} written'),
          s.value('niodoo_postgresql_wal_size_bytes', legend='{{instance}} size'),
        ]) + { fieldConfig+: { overrides+: [{ matcher: { id: 'byRegexp', options: '/ size$/' }, properties: [{ id: 'unit', value: 'bytes' }, { id: 'custom.axisPlacement', value: 'right' }] }] } },
        p.timeseries('Checkpoints', 'Those that came by time, and those that were requested because too much was written.', [rates('niodoo_postgresql_checkpoints_total', ['cause'])]),
        p.timeseries('Work of checkpoints', 'Share of the time spent writing and synchronizing.', [
          total('niodoo_postgresql_checkpoint_write_seconds_total', 'writing') { unit: 'percentunit' },
          total('niodoo_postgresql_checkpoint_sync_seconds_total', 'synchronizing') { unit: 'percentunit' },
        ]),
        p.timeseries('Temporary files', 'Bytes per second written by statements that had too little memory.', [rates('niodoo_postgresql_temp_bytes_total', ['datname'])]),
      ]),
      c.line(7, [
        p.timeseries('Sessions', 'Begun, and those that did not end in order.', [total('niodoo_postgresql_sessions_total', 'begun'), ended]),
        p.timeseries('Archiving', 'Segments of the write-ahead log per second.', [
          total('niodoo_postgresql_archived_segments_total', 'archived'),
          total('niodoo_postgresql_archive_failures_total', 'failed'),
        ]) + p.coloured({ failed: p.colours.bad }),
        p.table('Tables with the most dead rows', 'Vacuum removes them; many of them, long after the last vacuum, slow everything down.', [
          { label: 'instance', title: 'Instance' },
          { label: 'table', title: 'Table' },
          { series: most('niodoo_postgresql_table_live_rows', q.byList + table), title: 'Rows' },
          { series: most('niodoo_postgresql_table_dead_rows', q.byList + table), title: 'Dead rows' },
          { series: s.over('min', q.byList + table, s.age('niodoo_postgresql_table_last_vacuum_timestamp_seconds')), title: 'Since vacuum', unit: 's' },
          { series: s.over('min', q.byList + table, s.age('niodoo_postgresql_table_last_analyze_timestamp_seconds')), title: 'Since analyze', unit: 's' },
        ], { displayName: 'Dead rows', desc: true }) + c.width(12),
      ]),

      p.row('PostgreSQL: replication and rare trouble', true),
      c.line(7, [
        p.timeseries('Replication lag', 'Of each standby as its primary sees it.', [most('niodoo_postgresql_replication_lag_seconds', standby)]) + p.drawn(t.postgresql_replication_lag_seconds),
        p.timeseries('Log not replayed', 'Of each standby as its primary sees it.', [most('niodoo_postgresql_replication_lag_bytes', standby)]),
        p.states('Standbys that stream', 'Whether each standby has caught up and streams.', [s.over('min', standby, s.value('niodoo_postgresql_replication_streaming'))], yes),
        p.timeseries('Lag of this standby', 'As the standby sees it.', [
          s.value('niodoo_postgresql_standby_lag_seconds'),
        ]) + p.drawn(t.postgresql_replication_lag_seconds),
      ]),
      c.line(7, [
        p.timeseries('Log kept for slots', 'A slot that nobody reads keeps the log until the disk is full.', [most('niodoo_postgresql_replication_slot_retained_bytes', slot)]) + p.drawn(t.postgresql_slot_retained_bytes),
        p.table('Replication slots', 'Whether each slot is read, and whether the log it needs is there.', [
          { label: 'slot_name', title: 'Slot' },
          { label: 'slot_type', title: 'Type' },
          { series: s.over('max', q.byList + ['slot_name', 'slot_type'], s.value('niodoo_postgresql_replication_slot_active')), title: 'Active', words: yes },
          { series: s.over('max', q.byList + ['slot_name', 'slot_type'], s.value('niodoo_postgresql_replication_slot_wal_kept')), title: 'Log kept', words: yes },
        ]),
        flags('Roles', 'Primary or standby.', [
          { series: s.value('niodoo_postgresql_in_recovery'), title: 'Standby', words: plain },
          { series: s.value('niodoo_postgresql_standby_receiving'), title: 'Receiving', words: yes },
          { series: s.value('niodoo_postgresql_standby_lag_bytes'), title: 'Not replayed', unit: 'bytes' },
        ]),
        p.timeseries('Conflicts and wrong checksums', 'Statements cancelled because of recovery, and data pages whose checksum was wrong: the disk or the memory is failing.', [
          total('niodoo_postgresql_conflicts_total', 'conflicts'),
          total('niodoo_postgresql_checksum_failures_total', 'wrong checksums'),
        ]) + p.coloured({ 'wrong checksums': p.colours.bad }),
      ]),

      p.row('Redis'),
      head('redis', 'Redis', [
        p.timeseries('Redis memory', 'Used, of the limit where there is one.', [
          s.value('niodoo_redis_memory_used_bytes', legend='{{instance}} used'),
          s.value('niodoo_redis_memory_rss_bytes', legend='{{instance}} resident'),
          s.value('niodoo_redis_memory_peak_bytes', legend='{{instance}} peak'),
          s.value('niodoo_redis_memory_max_bytes', legend='{{instance}} limit'),
        ]) + c.width(10),
      ]),
      c.line(7, [
        p.timeseries('Commands', 'Per second, and those that were answered with an error.', [
          total('niodoo_redis_commands_processed_total', 'commands') { unit: 'ops' },
          total('niodoo_redis_error_replies_total', 'errors'),
        ]) + p.coloured({ errors: p.colours.bad }),
        p.timeseries('Clients', 'Connected, and those that wait in a blocking command, over all selected instances.', [
          s.all('sum', s.value('niodoo_redis_connected_clients'), 'connected'),
          s.all('sum', s.value('niodoo_redis_blocked_clients'), 'blocked'),
          s.all('sum', s.value('niodoo_redis_max_clients'), 'limit'),
        ]) + p.dashed('limit') + p.logarithmic,
        p.timeseries('Keys evicted and expired', 'Evicted keys are lost for want of memory; expired ones came to their end.', [
          total('niodoo_redis_evicted_keys_total', 'evicted'),
          total('niodoo_redis_expired_keys_total', 'expired'),
        ]) + p.coloured({ evicted: p.colours.warning }),
        p.timeseries('Hits among the keys', 'Look-ups that found their key, and those that did not.', [
          total('niodoo_redis_keyspace_hits_total', 'hits'),
          total('niodoo_redis_keyspace_misses_total', 'misses'),
        ]),
      ]),
      c.line(7, [
        p.timeseries('Keys', 'By database, over all selected instances.', [sum('niodoo_redis_keys', ['db'])]),
        p.timeseries('Redis network', 'Bytes in and out, over all selected instances.', [
          total('niodoo_redis_net_input_bytes_total', 'in') { unit: 'Bps' },
          total('niodoo_redis_net_output_bytes_total', 'out') { unit: 'Bps' },
        ]),
        p.timeseries('Clients turned away', 'Connections over the limit, clients thrown out for want of memory.', [
          total('niodoo_redis_rejected_connections_total', 'rejected'),
          total('niodoo_redis_evicted_clients_total', 'thrown out'),
        ]),
        p.timeseries('Redis CPU', 'Share of one CPU, over all selected instances.', [rates('niodoo_redis_cpu_seconds_total', ['mode'])]) + p.stacked,
      ]),
      c.line(7, [
        flags('Redis persistence', 'Whether what Redis holds is safe on disk.', [
          { series: s.value('niodoo_redis_rdb_last_bgsave_success'), title: 'Snapshot well', words: yes },
          { series: s.age('niodoo_redis_rdb_last_save_timestamp_seconds'), title: 'Since snapshot', unit: 's' },
          { series: s.value('niodoo_redis_rdb_changes_since_last_save'), title: 'Changes since' },
          { series: s.value('niodoo_redis_aof_enabled'), title: 'AOF', words: plain },
          { series: s.value('niodoo_redis_aof_last_write_success'), title: 'AOF written', words: yes },
          { series: s.value('niodoo_redis_aof_last_rewrite_success'), title: 'AOF rewritten', words: yes },
        ]) + c.width(12),
        p.timeseries('Fragmentation', 'Resident memory over used memory; far above 1.5 on more than some megabytes, memory is wasted.', [s.value('niodoo_redis_memory_fragmentation_ratio') { unit: 'short' }]),
        p.table('Redis servers', 'What each one is.', [
          { label: 'instance', title: 'Instance' },
          { label: 'server', title: 'Server' },
          { label: 'mode', title: 'Mode' },
          { label: 'role', title: 'Role' },
          { label: 'maxmemory_policy', title: 'Policy' },
          { series: s.raw('%s * on (%s) group_left () %s' % [q.m('niodoo_redis_info'), q.by, q.m('niodoo_redis_uptime_seconds')], 's', metrics=['niodoo_redis_info', 'niodoo_redis_uptime_seconds']), title: 'Uptime' },
        ]),
      ]),

      p.row('Redis: replication, cluster and sentinel', true),
      c.line(7, [
        p.timeseries('Replicas', 'Connected to the selected instances, and of those the ones that are online.', [
          s.all('sum', s.value('niodoo_redis_connected_replicas'), 'connected'),
          s.all('sum', s.value('niodoo_redis_replicas_online'), 'online'),
        ]),
        p.timeseries('Lag of the replicas', 'Of the slowest.', [s.value('niodoo_redis_replica_lag_max_seconds')]),
        p.states('Link to the master', 'As each replica sees it.', [s.over('min', ['instance'], s.value('niodoo_redis_master_link_up'))]),
        p.timeseries('Synchronizations', 'Full ones are dear; failed partial ones become full.', [
          total('niodoo_redis_replica_full_syncs_total', 'full'),
          total('niodoo_redis_replica_partial_sync_failures_total', 'failed partial'),
        ]),
      ]),
      c.line(7, [
        p.timeseries('Slots of the cluster', 'By state.', [most('niodoo_redis_cluster_slots', ['state'])]),
        p.states('Cluster', 'Whether the cluster says that it is well.', [s.over('min', ['instance'], s.value('niodoo_redis_cluster_ok'))], yes),
        p.states('Masters that sentinels watch', 'Whether a sentinel finds them well.', [s.over('min', ['master'], s.value('niodoo_redis_sentinel_master_ok'))], yes),
        p.timeseries('Sentinels and replicas by master', 'As a sentinel knows them.', [
          s.over('max', ['master'], s.value('niodoo_redis_sentinel_master_sentinels'), '{{master}} sentinels'),
          s.over('max', ['master'], s.value('niodoo_redis_sentinel_master_replicas'), '{{master}} replicas'),
        ]),
      ]),

      p.row('Ollama'),
      head('ollama', 'Ollama', [
        p.table('Models that are required', 'A required model that is missing stops inference.', [
          { label: 'instance', title: 'Instance' },
          { label: 'model', title: 'Model' },
          { series: s.value('niodoo_ollama_required_model_available'), title: 'Available', words: yes },
        ]) + c.width(5),
        p.timeseries('Loaded models', 'Memory of each, over all selected instances.', [sum('niodoo_ollama_model_loaded_size_bytes', ['model'])]) + p.stacked + c.width(5),
      ]),
      c.line(7, [
        p.timeseries('Share of the models on the GPU', 'Below 1 a model runs on the CPU in part: it is slow.', [s.over('min', ['model'], s.value('niodoo_ollama_model_loaded_gpu_ratio'))]) + p.ratio,
        p.timeseries('Models in GPU memory', 'Over all selected instances.', [sum('niodoo_ollama_model_loaded_vram_bytes', ['model'])]),
        p.timeseries('Models', 'On disk and loaded, over all selected instances.', [
          s.all('sum', s.value('niodoo_ollama_models'), 'on disk'),
          s.all('sum', s.value('niodoo_ollama_loaded_models'), 'loaded'),
        ]),
        p.table('Models on disk', 'Their size, and since when they are what they are.', [
          { label: 'instance', title: 'Instance' },
          { label: 'model', title: 'Model' },
          { series: most('niodoo_ollama_model_size_bytes', q.byList + ['model']), title: 'Size', unit: 'bytes' },
          { series: s.over('min', q.byList + ['model'], s.age('niodoo_ollama_model_modified_timestamp_seconds')), title: 'Age', unit: 's' },
        ]),
      ]),

      p.row('Canaries of engine and models', true),
      c.line(7, [
        p.timeseries("Engine's canary", 'Time that a synthetic event takes.', [s.value('niodoo_engine_canary_duration_seconds')]) + p.drawn(t.processing_time_seconds),
        p.states('Canaries that came through', 'Whether the last synthetic event and the last synthetic prompt were answered.', [
          s.over('min', ['instance'], s.value('niodoo_engine_canary_success'), '{{instance}} engine'),
          s.over('min', ['instance'], s.value('niodoo_ollama_canary_success'), '{{instance}} Ollama'),
        ], yes),
        p.timeseries('Time to the first token', "Of Ollama's canary.", [s.value('niodoo_ollama_canary_time_to_first_token_seconds')]),
        p.timeseries('Tokens per second', "Of Ollama's canary.", [s.value('niodoo_ollama_canary_tokens_per_second')]),
      ]),

      p.row('Qdrant'),
      head('qdrant', 'Qdrant', [
        p.table('Collections', 'A vector size that is not the configured one makes every search fail.', [
          { label: 'instance', title: 'Instance' },
          { label: 'collection', title: 'Collection' },
          { series: s.over('max', q.byList + ['collection'], s.value('niodoo_qdrant_collection_status', 'status="green"')), title: 'Green', words: yes },
          { series: most('niodoo_qdrant_collection_optimizer_ok', q.byList + ['collection']), title: 'Optimizer', words: yes },
          { series: most('niodoo_qdrant_collection_points', q.byList + ['collection']), title: 'Points' },
          { series: most('niodoo_qdrant_collection_exists', q.byList + ['collection']), title: 'Exists', words: yes },
          { series: most('niodoo_qdrant_collection_vector_size', q.byList + ['collection']), title: 'Vector size', unit: 'none' },
          { series: most('niodoo_qdrant_collection_vector_size_mismatch', q.byList + ['collection']), title: 'Wrong size', words: no },
        ]) + c.width(10),
      ]),
      c.line(7, [
        p.timeseries('Points', 'By collection, over all selected instances.', [sum('niodoo_qdrant_collection_points', ['collection'])]),
        p.timeseries('Indexed vectors', 'Small collections are searched without an index: 0 is normal for them.', [sum('niodoo_qdrant_collection_indexed_vectors', ['collection'])]),
        p.timeseries('Segments', 'By collection. Many small segments are slow until the optimizer merges them.', [sum('niodoo_qdrant_collection_segments', ['collection'])]),
        p.timeseries('Updates that wait', 'By collection.', [sum('niodoo_qdrant_collection_update_queue_length', ['collection'])]),
      ]),

      p.row('Prometheus'),
      head('prometheus', 'Prometheus', [
        p.timeseries('Targets', 'By health, over all selected instances.', [sum('niodoo_prometheus_targets', ['health'])]) + p.stacked + p.coloured({ up: p.colours.good, down: p.colours.bad, unknown: p.colours.idle }),
        p.timeseries('Trouble with rules and alerts', 'Anything but 0 means that alerts are late or lost.', [
          total('niodoo_prometheus_rule_evaluation_failures_total', 'rules that failed'),
          total('niodoo_prometheus_rule_group_iterations_missed_total', 'evaluations missed'),
          total('niodoo_prometheus_notifications_dropped_total', 'notifications dropped'),
        ]),
      ]),
      c.line(7, [
        p.timeseries('Series', 'In the head of the database.', [s.value('niodoo_prometheus_head_series')]),
        p.timeseries('Storage', 'Blocks and write-ahead log.', [
          s.value('niodoo_prometheus_storage_blocks_bytes', legend='{{instance}} blocks'),
          s.value('niodoo_prometheus_wal_bytes', legend='{{instance}} log'),
        ]),
        p.timeseries('Trouble with the database', 'Anything but 0 needs a look at the log and at the disk.', [
          total('niodoo_prometheus_compactions_failed_total', 'compactions failed'),
          total('niodoo_prometheus_wal_corruptions_total', 'log corrupted'),
          total('niodoo_prometheus_scrapes_over_sample_limit_total', 'scrapes over the limit'),
        ]),
        flags('Prometheus: configuration', 'Whether the configuration on disk is the one in force.', [
          { series: s.value('niodoo_prometheus_config_last_reload_successful'), title: 'Loaded', words: yes },
          { series: s.age('niodoo_prometheus_config_last_reload_success_timestamp_seconds'), title: 'Since', unit: 's' },
          { series: s.value('niodoo_prometheus_alertmanagers_discovered'), title: 'Alertmanagers' },
          { series: s.age('niodoo_prometheus_start_time_seconds'), title: 'Uptime', unit: 's' },
        ]),
      ]),

      p.row('Alertmanager', true),
      head('alertmanager', 'Alertmanager', [
        p.timeseries('Alerts it holds', 'By severity, active ones only, over all selected instances.', [sum('niodoo_alertmanager_alerts', ['severity'], 'state="active"')]) + p.stacked,
        p.timeseries('Notifications', 'Tried, and those that failed for good.', [
          s.over('sum', ['integration'], s.rate('niodoo_alertmanager_notifications_total')),
          s.over('sum', ['integration'], s.rate('niodoo_alertmanager_notification_failures_total'), '{{integration}} failed'),
        ]),
      ]),
      c.line(7, [
        p.timeseries('Silences', 'By state, over all selected instances.', [sum('niodoo_alertmanager_silences', ['state'])]),
        p.states('State of the cluster', 'Which state the cluster of Alertmanagers is in.', [most('niodoo_alertmanager_cluster_status', ['status'])], { '0': ['no', p.colours.idle], '1': ['yes', p.colours.neutral] }),
        flags('Alertmanager: configuration', 'Whether the configuration on disk is the one in force, and who cannot be reached.', [
          { series: s.value('niodoo_alertmanager_config_last_reload_successful'), title: 'Loaded', words: yes },
          { series: s.age('niodoo_alertmanager_config_last_reload_success_timestamp_seconds'), title: 'Since', unit: 's' },
          { series: s.value('niodoo_alertmanager_cluster_failed_peers'), title: 'Peers lost' },
          { series: s.age('niodoo_alertmanager_start_time_seconds'), title: 'Uptime', unit: 's' },
        ]),
      ]),

      p.row('Grafana', true),
      head('grafana', 'Grafana', [
        p.states("Grafana's database", 'Whether Grafana reaches its own database.', [s.over('min', ['instance'], s.value('niodoo_grafana_database_ok'))], yes),
      ]),
      p.row('Loki', true),
      head('loki', 'Loki', [
        p.table('What Loki waits for', 'Empty while Loki is ready.', [
          { label: 'instance', title: 'Instance' },
          { label: 'cause', title: 'Cause' },
          { series: s.value('niodoo_loki_not_ready_info'), title: 'Waiting', words: { '1': ['yes', p.colours.warning] } },
        ]) + p.none('Loki is ready'),
      ]),

      p.row('vLLM', true),
      head('vllm', 'vLLM', [
        p.timeseries('Requests to vLLM', 'Being worked on, and waiting for a free place.', [
          s.over('sum', ['model'], s.value('niodoo_vllm_requests_running'), '{{model}} running'),
          s.over('sum', ['model'], s.value('niodoo_vllm_requests_waiting'), '{{model}} waiting'),
        ]),
        p.timeseries('Key-value cache', 'Of the fullest engine; at 1 requests are preempted.', [most('niodoo_vllm_kv_cache_usage_ratio', ['model'])]) + p.ratio,
      ]),
      c.line(7, [
        p.timeseries('Tokens', 'Read and written.', [
          s.over('sum', ['model'], s.rate('niodoo_vllm_prompt_tokens_total'), '{{model}} read'),
          s.over('sum', ['model'], s.rate('niodoo_vllm_generation_tokens_total'), '{{model}} written'),
        ]),
        p.timeseries('Requests that ended', 'By how they ended.', [rates('niodoo_vllm_requests_finished_total', ['finished_reason'])]) + p.stacked,
        p.timeseries('Hits in the prefix cache', 'Share of the tokens that need not be computed again.', [
          s.raw('sum by (model) (%s) / (sum by (model) (%s) > 0)' % [q.rate('niodoo_vllm_prefix_cache_hits_total'), q.rate('niodoo_vllm_prefix_cache_queries_total')], 'percentunit', '{{model}}', ['niodoo_vllm_prefix_cache_hits_total', 'niodoo_vllm_prefix_cache_queries_total']),
        ]) + p.ratio,
        p.timeseries('Preemptions', 'Requests interrupted for want of cache.', [rates('niodoo_vllm_preemptions_total', ['model'])]),
      ]),

      p.row('Docker', true),
      head('docker', 'Docker', [
        p.timeseries('Containers by state', 'By state, over all selected instances.', [sum('niodoo_docker_containers', ['state'])]) + p.stacked,
        p.timeseries('Restarts', 'Of each container per second; a few in a row are a crash loop.', [s.over('sum', ['container'], s.rate('niodoo_docker_container_restarts_total'))]),
      ]),
      c.line(8, [
        p.table('Containers', 'State of every container.', [
          { label: 'instance', title: 'Instance' },
          { label: 'container', title: 'Container' },
          { series: most('niodoo_docker_container_running', q.byList + ['container']), title: 'Running', words: yes },
          { series: most('niodoo_docker_container_healthy', q.byList + ['container']), title: 'Healthy', words: yes },
          { series: most('niodoo_docker_container_health_consecutive_failures', q.byList + ['container']), title: 'Failures in a row' },
          { series: most('niodoo_docker_container_oom_killed', q.byList + ['container']), title: 'Killed for memory', words: no },
          { series: most('niodoo_docker_container_exit_code', q.byList + ['container']), title: 'Exit code', unit: 'none' },
          { series: most('niodoo_docker_container_pids', q.byList + ['container']), title: 'Processes' },
          { series: s.over('min', q.byList + ['container'], s.age('niodoo_docker_container_start_time_seconds')), title: 'Uptime', unit: 's' },
        ], { displayName: 'Running', desc: false }) + c.width(16),
        p.timeseries('Memory of the containers', "Share of each container's limit, the fullest of the selected instances.", [
          s.over('max', ['container'], s.ratio(s.value('niodoo_docker_container_memory_usage_bytes'), s.value('niodoo_docker_container_memory_limit_bytes'))),
        ]) + p.ratio,
      ]),
      c.line(7, [
        p.timeseries('CPU of the containers', 'CPUs in use, over all selected instances.', [rates('niodoo_docker_container_cpu_seconds_total', ['container']) { unit: 'short' }]),
        p.timeseries('Kept from the CPU', "Share of the time in which a container's limit kept it from the CPU.", [rates('niodoo_docker_container_cpu_throttled_seconds_total', ['container'])]),
        p.timeseries('Network of the containers', 'Received and, below the axis, sent.', [
          s.over('sum', ['container'], s.rate('niodoo_docker_container_network_receive_bytes_total'), '{{container}} received'),
          s.over('sum', ['container'], s.rate('niodoo_docker_container_network_transmit_bytes_total'), '{{container}} sent') { expr: '-' + super.expr },
        ]),
        p.timeseries('Disk I/O of the containers', 'Read and, below the axis, written.', [
          s.over('sum', ['container'], s.rate('niodoo_docker_container_block_read_bytes_total'), '{{container}} read'),
          s.over('sum', ['container'], s.rate('niodoo_docker_container_block_written_bytes_total'), '{{container}} written') { expr: '-' + super.expr },
        ]),
      ]),

      p.row('Pipeline', true),
      head('pipeline', 'Pipeline', [
        p.timeseries('Time of an answer', 'Mean of the answers in the window; the buckets end too early for quantiles.', [s.mean('niodoo_pipeline_latency_seconds', ['source'], legend='{{source}}')]),
        p.timeseries('Cycles', 'Of healing and of threat.', [
          s.over('sum', ['source'], s.rate('niodoo_pipeline_healing_cycles_total'), '{{source}} healing'),
          s.over('sum', ['source'], s.rate('niodoo_pipeline_threat_cycles_total'), '{{source}} threat'),
        ]),
      ]),
      c.line(7, [
        p.timeseries('Entropy', 'Of the state after the last cycle, in bits.', [s.over('avg', ['source'], s.value('niodoo_pipeline_entropy'))]),
        p.timeseries('Likeness to the baseline', 'ROUGE-L of the last answer.', [s.over('avg', ['source'], s.value('niodoo_pipeline_rouge_l_score'))]) + p.ratio,
        p.table('Sources', 'Whether each source can be read, and what in it is not understood.', [
          { label: 'instance', title: 'Instance' },
          { label: 'source', title: 'Source' },
          { series: s.value('niodoo_pipeline_source_up'), title: 'Read', words: yes },
          { series: s.value('niodoo_pipeline_families_unknown'), title: 'Unknown families' },
          { series: s.value('niodoo_pipeline_lines_rejected'), title: 'Lines refused' },
          { series: s.value('niodoo_pipeline_samples_rejected'), title: 'Samples refused' },
        ]) + c.width(12),
      ]),
      p.row('Pipeline: variants', true),
      c.line(7, [
        p.timeseries('Retries', 'Generations that were repeated.', [
          total('niodoo_pipeline_soft_retries_total', 'soft'),
          total('niodoo_pipeline_hard_retries_total', 'hard'),
          total('niodoo_pipeline_retry_successes_total', 'then well'),
        ]),
        p.timeseries('Stages', 'Mean time in each stage.', [s.mean('niodoo_pipeline_stage_latency_seconds', ['stage'], legend='{{stage}}')]),
        p.timeseries('Inference', 'Of the silicon monitoring.', [
          total('niodoo_pipeline_silicon_inference_requests_total', 'requests'),
          total('niodoo_pipeline_silicon_inference_errors_total', 'errors'),
        ]) + p.coloured({ errors: p.colours.bad }),
        p.timeseries('Betti numbers', 'Of the topological cognitive system.', [
          s.over('avg', ['source'], s.value('niodoo_pipeline_tcs_betti_0'), '{{source}} β₀'),
          s.over('avg', ['source'], s.value('niodoo_pipeline_tcs_betti_1'), '{{source}} β₁'),
        ]),
      ]),
    ]),
  },
}
