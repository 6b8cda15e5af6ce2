// What alerts and dashboards share, so that both show the same number. Names are level:metric:operations.
local query = import '../lib/query.libsonnet';

{
  local c = $._config,
  local q = query.new(c, c.selector, c.rateWindow),
  local record(name, expr) = { record: name, expr: expr },

  prometheusRules+:: {
    groups+: [{
      name: 'niodoo-aggregates',
      rules: [
        record('instance:niodoo_consciousness_events:rate5m', '%s\nor\n%s\n' % [q.rate('niodoo_consciousness_events_total', w='5m'), q.m('niodoo_consciousness_events_per_second')]),
        record('instance:niodoo_consciousness_processing_seconds:mean5m', $.processingSeconds),
        record('instance:niodoo_engine_errors:ratio_rate5m', |||
          %(errors)s / (%(requests)s > 0)
          or %(ratio)s
        ||| % {
          errors: q.rate('niodoo_engine_errors_total', w='5m'),
          requests: q.rate('niodoo_engine_requests_total', w='5m'),
          ratio: q.m('niodoo_engine_error_ratio'),
        }),
        record('instance:niodoo_host_cpu_usage:ratio_rate5m', |||
          1 -
              sum without (mode) (%s)
            / sum without (mode) (%s)
        ||| % [q.rate('niodoo_host_cpu_seconds_total', 'mode=~"idle|iowait"', '5m'), q.rate('niodoo_host_cpu_seconds_total', w='5m')]),
        record('instance:niodoo_host_memory_usage:ratio', '1 - %s / %s' % [q.m('niodoo_host_memory_available_bytes'), q.m('niodoo_host_memory_total_bytes')]),
        record('instance_path:niodoo_host_filesystem_usage:ratio', |||
          (%(size)s - %(free)s)
            / (%(size)s - %(free)s + %(avail)s)
        ||| % {
          size: q.m('niodoo_host_filesystem_size_bytes'),
          free: q.m('niodoo_host_filesystem_free_bytes'),
          avail: q.m('niodoo_host_filesystem_avail_bytes'),
        }),
        record('instance:niodoo_postgresql_connections:sum', 'sum without (datname, state) (%s)' % q.m('niodoo_postgresql_connections')),
        record('instance:niodoo_component_required_up:ratio', |||
          avg without (component) (
            %s and on (%s, component) %s == 1
          )
        ||| % [q.m('niodoo_component_up'), q.by, q.m('niodoo_component_required')]),
      ],
    }],
  },
}
