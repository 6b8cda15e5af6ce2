// Is it well, and if not, where? State first, then symptoms, then causes.
local p = import '../lib/panels.libsonnet';
local shared = import 'shared.libsonnet';

{
  local t = $._config.thresholds,
  local c = shared($._config),
  local d = c.d,
  local q = d.q,
  local s = d.s,

  grafanaDashboards+:: {
    'consciousness-overview.json': d.dashboard(
      'consciousness-overview',
      'Consciousness System Overview',
      'Whether the stack is well, and if not, where. Green is at its target, yellow past it, orange past the limit of a warning, red past that of a critical alert, grey not in use.',
      [
        p.row('Is it well?'),
        c.line(6, [
          p.stat('Required components up', 'Share of the components whose absence is a fault, on the worst of the selected instances.', [
            s.all('min', s.raw(q.m('instance:niodoo_component_required_up:ratio'), 'percentunit', metrics=['niodoo_component_required']), 'up'),
          ]) + p.lit + p.judged(p.below(1)) + p.decimals(0) + c.width(4),
          c.componentState('Engine', 'component="engine"') + c.width(3),
          c.alertCounts + c.width(7),
          c.stability('Memory System Stability') + c.width(4),
          c.errorBudgets + c.width(6),
        ]),
        c.line(9, [
          c.componentStates('Components', 'State of every component over time, the worst of the selected instances.') + c.width(14),
          c.alertTable('Firing now') + c.width(10),
        ]),

        p.row('Symptoms: what users notice'),
        c.line(7, [
          p.stat('Consciousness Processing Rate', 'Events per second over all selected instances. Judge it against its own past: an idle engine is well.', [c.events { expr: 'sum(%s)' % super.expr, legend: 'events' }])
          + p.past + c.width(5),
          p.timeseries('Events processed', 'Events per second of each instance.', [c.events]) + c.width(9),
          c.processingTime + c.width(10),
        ]),
        c.line(7, [
          c.emotionalTime,
          c.retrievalTime,
          c.errorRatio,
        ]),
        c.line(7, [
          p.timeseries('Response time as the engine says it', 'What the engine measures of its own answers.', [s.value('niodoo_engine_response_time_seconds')]),
          c.response('Response time as the exporter sees it', "Of each component's health request; the slowest of the selected instances.", []) + p.logarithmic,
          p.timeseries('Time-outs and open circuit breakers', 'Events that were not processed in time, and circuit breakers that opened.', [
            s.all('sum', s.rate('niodoo_consciousness_timeouts_total'), 'time-outs'),
            s.all('sum', s.rate('niodoo_consciousness_circuit_breaker_activations_total'), 'breakers'),
          ]) + p.coloured({ 'time-outs': p.colours.warning, breakers: p.colours.bad }),
        ]),

        p.row('Causes: what it runs on'),
        c.line(7, [c.cpu, c.memory, c.disk, c.response('Databases and models', 'Time of a health request to what the engine depends on.', ['postgresql', 'redis', 'ollama', 'qdrant'], t.database_response_seconds)]),
        c.line(8, [
          p.states('Parts of the engine', 'Whether the engine calls its parts healthy.', [s.over('min', ['part'], s.value('niodoo_engine_component_healthy'))], { '0': ['unhealthy', p.colours.bad], '1': ['healthy', p.colours.good] }),
          p.timeseries('State of consciousness', 'What the engine says of itself, the mean of the selected instances. There is no right value; a step is worth a look.', [
            s.all('avg', s.value('niodoo_consciousness_level_ratio'), 'level'),
            s.all('avg', s.value('niodoo_consciousness_attention_focus_ratio'), 'attention'),
            s.all('avg', s.value('niodoo_consciousness_memory_coherence_ratio'), 'coherence of memory'),
          ]) + p.ratio,
          c.failures,
        ]),
      ]
    ),
  },
}
