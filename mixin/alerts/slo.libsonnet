// The error budgets: how fast they burn. An outage itself is ConsciousnessEngineDown and inhibits its own burn.
local alerts = import '../lib/alert.libsonnet';
local query = import '../lib/query.libsonnet';
local slo = import '../lib/slo.libsonnet';

{
  local c = $._config,
  local a = alerts.new(c),
  local q = query.new(c, c.selector, c.rateWindow),

  // What is promised, and how urgent each row of the scheme is; null is no alert.
  local promises = [
    {
      slo: 'engine-availability',
      alert: 'EngineAvailabilityBurn',
      objective: c.thresholds.slo_engine_availability.target,
      priorities: ['P1', 'P2', 'P3', 'P3'],
      component: 'engine',
      dashboard: 'operations',
      summary: 'The engine is down too often for its availability objective.',
      what: 'the engine did not answer',
    },
    {
      slo: 'processing-latency',
      alert: 'ProcessingLatencyBurn',
      objective: c.thresholds.slo_processing_latency.target,
      priorities: ['P2', 'P2', 'P3', 'P3'],
      component: 'engine',
      dashboard: 'operations',
      summary: 'Events take too long too often for the latency objective.',
      what: 'events took longer than %g s on average' % c.thresholds.processing_time_seconds.target,
    },
    {
      slo: 'memory-stability',
      alert: 'MemoryStabilityBurn',
      objective: c.thresholds.slo_memory_stability.target,
      priorities: [null, null, 'P3', 'P3'],
      component: 'engine',
      dashboard: 'memory-system',
      summary: 'Memory stability is below its limit too often for the objective.',
      what: 'memory stability was below %g' % c.thresholds.memory_stability_ratio.warning,
    },
  ],

  prometheusAlerts+:: {
    groups+: [
      a.group('niodoo-slo-alerts', [
        a.alert(
          p.alert,
          slo.condition(p.slo, p.objective, slo.rows[i], q.by),
          p.priorities[i],
          p.component,
          p.summary,
          'During {{ $value | humanizePercentage }} of the last %s, and of the last %s, %s; the objective is %g %%. The 30-day budget burns %g times too fast.' %
          [slo.rows[i].long, slo.rows[i].short, p.what, p.objective * 100, slo.rows[i].factor],
          p.dashboard,
          slo.rows[i]['for'],
          { labels+: { window: slo.rows[i].long } },
        )
        for p in promises
        for i in std.range(0, std.length(slo.rows) - 1)
        if p.priorities[i] != null
      ]),
    ],
  },
}
