// The slices of the SLOs and their error ratios.
local query = import '../lib/query.libsonnet';
local slo = import '../lib/slo.libsonnet';

{
  local c = $._config,
  local t = c.thresholds,
  local q = query.new(c, c.selector, c.rateWindow),
  local slice(name, expr) = { record: slo.slice, expr: expr, labels: { slo: name } },

  prometheusRules+:: {
    groups+: [{
      name: 'niodoo-slo',
      rules: [
        slice('engine-availability', '1 - max without (component) (%s)' % q.m('niodoo_component_up', 'component="engine"')),
        // Judged only while enough events are processed to mean something.
        slice('processing-latency', |||
          instance:niodoo_consciousness_processing_seconds:mean5m > bool %g
          and on (%s)
          instance:niodoo_consciousness_events:rate5m > %g
        ||| % [t.processing_time_seconds.target, q.by, c.slo.minimumEventsPerSecond]),
        slice('memory-stability', '%s < bool %g' % [q.m('niodoo_memory_stability_ratio'), t.memory_stability_ratio.warning]),
      ] + slo.recordings,
    }],
  },
}
