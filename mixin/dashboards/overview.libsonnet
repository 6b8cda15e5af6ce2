// Is it well, and if not, where? State first, then symptoms, then causes.
local dashboards = import '../lib/dashboard.libsonnet';
local layout = import '../lib/layout.libsonnet';
local p = import '../lib/panels.libsonnet';

{
  local c = $._config,
  local t = c.thresholds,
  local d = dashboards.new(c),
  local q = d.q,

  grafanaDashboards+:: {
    'consciousness-overview.json': d.dashboard('consciousness-overview', 'Consciousness System Overview', 'Whether the stack is well, and if not, where.', [
      p.gauge('Memory System Stability', 'Share of memories that are stable; the target is 99.51 %.', 'percentunit', [p.now(q.m('niodoo_memory_stability_ratio'), '{{instance}}')], t.memory_stability_ratio, min=0.97) + layout.size(6),
      p.states('Components', 'Whether each component passes its health check.', [p.target('min by (component) (%s)' % q.m('niodoo_component_up'), '{{component}}')]) + layout.size(18),
      p.timeseries('Processing time', p.metrics.help('niodoo_consciousness_processing_time_seconds'), 's', [p.target(q.m('niodoo_consciousness_processing_time_seconds'), '{{instance}}')]) + p.drawn(t.processing_time_seconds) + layout.size(12),
    ]),
  },
}
