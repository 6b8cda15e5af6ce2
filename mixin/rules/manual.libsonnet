// The operations manual's own metric names, so that rules and panels written from the manual work unchanged. Per instance;
// counters are copied, never summed.
local query = import '../lib/query.libsonnet';

{
  local c = $._config,
  local q = query.new(c, c.selector, c.rateWindow),
  local record(name, expr) = { record: name, expr: expr },
  local ms(metric) = '1000 * ' + q.m(metric),

  // The latency's expression is the contract's: while no event is processed there is none.
  local processingSeconds =
    |||
      (
          %(sum)s
        / (%(count)s > 0)
        or %(gauge)s
      )
      unless %(events)s == 0
    ||| % {
      sum: q.rate('niodoo_consciousness_processing_duration_seconds_sum'),
      count: q.rate('niodoo_consciousness_processing_duration_seconds_count'),
      gauge: q.m('niodoo_consciousness_processing_time_seconds'),
      events: q.rate('niodoo_consciousness_events_total'),
    },

  // processingSeconds is what HighProcessingLatency compares.
  processingSeconds:: processingSeconds,

  manualNames+:: {
    groups+: [{
      name: 'niodoo-manual-names',
      rules: [
        record('consciousness_events_total', q.m('niodoo_consciousness_events_total')),
        record('consciousness_processing_time_ms', '1000 * ' + processingSeconds),
        record('average_processing_time_ms', ms('niodoo_consciousness_processing_time_seconds')),
        record('events_processed_per_second', '%s\nor\n%s\n' % [q.rate('niodoo_consciousness_events_total'), q.m('niodoo_consciousness_events_per_second')]),
        record('memory_retrieval_time_ms', ms('niodoo_consciousness_memory_retrieval_time_seconds')),
        record('emotional_processing_time_ms', ms('niodoo_consciousness_emotional_processing_time_seconds')),
        record('toroidal_coherence_score', q.m('niodoo_consciousness_toroidal_coherence_score')),
        record('gaussian_novelty_level', q.m('niodoo_consciousness_gaussian_novelty_level')),
        record('circuit_breaker_activations', q.m('niodoo_consciousness_circuit_breaker_activations_total')),
        record('timeout_occurrences', q.m('niodoo_consciousness_timeouts_total')),
        record('memory_operations_total', q.m('niodoo_memory_operations_total')),
        record('memory_stability_ratio', q.m('niodoo_memory_stability_ratio')),
        record('consolidation_rate_per_hour', q.m('niodoo_memory_consolidations_per_hour')),
        record('retrieval_success_rate', q.m('niodoo_memory_retrieval_success_ratio')),
        record('memory_layer_distribution', q.m('niodoo_memory_layer_entries')),
        record('toroidal_topology_coherence', q.m('niodoo_memory_toroidal_coherence_score')),
        record('gaussian_sphere_count', q.m('niodoo_memory_gaussian_spheres')),
        record('memory_compression_ratio', q.m('niodoo_memory_compression_ratio')),
        record('thread_pool_utilization', q.m('niodoo_engine_thread_pool_utilization_ratio')),
        record('cache_hit_ratio', q.m('niodoo_engine_cache_hit_ratio')),
      ],
    }, {
      name: 'niodoo-manual-names-system',
      rules: [
        record('cpu_usage_percent', |||
          100 * (1 -
              sum without (mode) (%s)
            / sum without (mode) (%s))
        ||| % [q.rate('niodoo_host_cpu_seconds_total', 'mode=~"idle|iowait"'), q.rate('niodoo_host_cpu_seconds_total')]),
        record('memory_usage_percent', '100 * (1 - %s / %s)' % [q.m('niodoo_host_memory_available_bytes'), q.m('niodoo_host_memory_total_bytes')]),
        record('disk_usage_percent', |||
          100 * (%(size)s - %(free)s)
            / (%(size)s - %(free)s + %(avail)s)
        ||| % {
          size: q.m('niodoo_host_filesystem_size_bytes'),
          free: q.m('niodoo_host_filesystem_free_bytes'),
          avail: q.m('niodoo_host_filesystem_avail_bytes'),
        }),
        record('network_throughput_mbps', '8e-6 * sum without (device) (%s + %s)' %
                                          [q.rate('niodoo_host_network_receive_bytes_total'), q.rate('niodoo_host_network_transmit_bytes_total')]),
        record('gpu_utilization_percent', '100 * ' + q.m('niodoo_gpu_utilization_ratio')),
        record('gpu_memory_used_percent', '100 * %s / %s' % [q.m('niodoo_gpu_memory_used_bytes'), q.m('niodoo_gpu_memory_total_bytes')]),
        record('database_connections_failed', 'ceil(sum without (reason) (%s))' % q.increase('niodoo_postgresql_connection_failures_total', w='5m')),
        record('database_connections_active', 'sum without (datname, state) (%s)' % q.m('niodoo_postgresql_connections', 'state="active"')),
        record('database_response_time_ms', '1000 * max without (component) (%s)' % q.m('niodoo_component_response_seconds', 'component="postgresql"')),
      ],
    }],
  },

  // A recorded up looks like a target to other people's rules: this stands in a file that one loads on purpose.
  manualUp+:: {
    groups+: [{
      name: 'niodoo-manual-up',
      rules: [
        record('up', 'max without (component) (%s)' % q.m('niodoo_component_up', 'component="engine"'))
        + { labels: { job: 'consciousness-engine' } },
      ],
    }],
  },
}
