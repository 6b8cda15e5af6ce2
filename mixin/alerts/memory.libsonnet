// The engine's memory: stable, coherent, consolidated, and with room left.
local alerts = import '../lib/alert.libsonnet';
local query = import '../lib/query.libsonnet';

{
  local c = $._config,
  local t = c.thresholds,
  local a = alerts.new(c),
  local q = query.new(c, c.selector, c.rateWindow),

  local stability = q.m('niodoo_memory_stability_ratio'),
  local stable = 'Memory stability is {{ $value | humanizePercentage }}; the target is %s%%, the alert is below %s%%.',

  prometheusAlerts+:: {
    groups+: [
      a.group('niodoo-memory', [
        a.alert(
          'MemorySystemInstability',
          '%s < %s' % [stability, q.number(t.memory_stability_ratio.warning)],
          'P2',
          'engine',
          'The memory system is not stable.',
          stable % [q.number(t.memory_stability_ratio.target * 100), q.number(t.memory_stability_ratio.warning * 100)],
          'memory-system',
          t.memory_stability_ratio['for'],
        ),
        a.alert(
          'MemoryStabilityCritical',
          '%s < %s' % [stability, q.number(t.memory_stability_ratio.critical)],
          'P1',
          'engine',
          'The memory system is losing its stability.',
          stable % [q.number(t.memory_stability_ratio.target * 100), q.number(t.memory_stability_ratio.critical * 100)],
          'memory-system',
          t.memory_stability_ratio['for'],
        ),
        a.alert(
          'LowMemoryCoherence',
          // Of a memory without entries there is nothing to say.
          |||
            (
              %(memory)s < %(limit)s
              or
              %(consciousness)s < %(limit)s
            )
            unless on (%(by)s)
            %(entries)s == 0
          ||| % {
            by: q.by,
            limit: q.number(t.toroidal_coherence_score.warning),
            memory: q.m('niodoo_memory_toroidal_coherence_score'),
            consciousness: q.m('niodoo_consciousness_toroidal_coherence_score'),
            entries: q.m('niodoo_memory_entries'),
          },
          'P3',
          'engine',
          'Memories do not hang together as they should.',
          'The toroidal coherence is {{ $value | printf "%%.3f" }}; the target is %s, the alert is below %s.' %
          [q.number(t.toroidal_coherence_score.target), q.number(t.toroidal_coherence_score.warning)],
          'memory-system',
          t.toroidal_coherence_score['for'],
          { keep_firing_for: '10m' },
        ),
        a.alert(
          'MemoryConsolidationStopped',
          |||
            %s < %s
            and on (%s)
            avg_over_time(instance:niodoo_consciousness_events:rate5m[1h]) > %s
          ||| % [q.m('niodoo_memory_consolidations_per_hour'), q.number(t.consolidations_per_hour.warning), q.by, q.number(c.slo.minimumEventsPerSecond)],
          'P3',
          'engine',
          'Memories are no longer consolidated.',
          '{{ $value | humanize }} memories were consolidated per hour for two hours, although events keep coming.',
          'memory-system',
          t.consolidations_per_hour['for'],
        ),
        a.alert(
          'LowRetrievalSuccess',
          |||
            %s < %s
            unless on (%s)
            instance:niodoo_consciousness_events:rate5m == 0
          ||| % [q.m('niodoo_memory_retrieval_success_ratio'), q.number(t.retrieval_success_ratio.warning), q.by],
          'P2',
          'engine',
          'The engine does not find memories that it should.',
          '{{ $value | humanizePercentage }} of the retrievals succeed; the target is %s%%.' % q.number(t.retrieval_success_ratio.target * 100),
          'memory-system',
          t.retrieval_success_ratio['for'],
          { keep_firing_for: '5m' },
        ),
        if c.layerCapacity != {} then
          a.alert(
            'MemoryLayerNearlyFull',
            '(\n%s\n) > %s' % [
              std.join('\n  or\n', [
                '  %s / %s' % [q.m('niodoo_memory_layer_entries', 'layer="%s"' % layer), q.number(c.layerCapacity[layer])]
                for layer in std.objectFields(c.layerCapacity)
              ]),
              q.number(t.layer_usage_ratio.warning),
            ],
            'P4',
            'engine',
            'A memory layer is nearly full.',
            'The layer {{ $labels.layer }} is {{ $value | humanizePercentage }} full; a full layer forgets.',
            'memory-system',
            t.layer_usage_ratio['for'],
          ),
      ]),
    ],
  },
}
