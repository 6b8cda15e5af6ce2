// The memory system: is it stable, does it find and keep things, is its shape right, and what does it stand on?
local p = import '../lib/panels.libsonnet';
local shared = import 'shared.libsonnet';

{
  local config = $._config,
  local t = config.thresholds,
  local c = shared(config),
  local d = c.d,
  local q = d.q,
  local s = d.s,

  // How full the layers are that have a capacity.
  local fill =
    local layers = std.objectFields(config.layerCapacity);
    s.raw(std.join('\nor\n', [
      '%s / %g' % [q.m('niodoo_memory_layer_entries', 'layer="%s"' % layer), config.layerCapacity[layer]]
      for layer in layers
    ]), 'percentunit', metrics=['niodoo_memory_layer_entries']),

  local entries = s.raw('%s\nor\nsum without (layer) (%s)' % [q.m('niodoo_memory_entries'), q.m('niodoo_memory_layer_entries')], 'short', metrics=['niodoo_memory_entries']),

  grafanaDashboards+:: {
    'memory-system.json': d.dashboard('memory-system', 'Memory System', 'Stability of the memory layers, consolidation, retrieval, topology and novelty.', [
      p.row('Is memory well?'),
      c.line(6, [
        c.stability('Memory stability'),
        p.stat('Retrievals that succeed', 'Share of retrievals that find what they look for, the worst of the selected instances.', [s.all('min', s.value('niodoo_memory_retrieval_success_ratio'), 'success')], threshold=t.retrieval_success_ratio)
        + p.past + p.decimals(2),
        p.stat('Coherence of the torus', 'Of the memory, the worst of the selected instances.', [s.all('min', s.value('niodoo_memory_toroidal_coherence_score'), 'coherence')], threshold=t.toroidal_coherence_score)
        + p.past + p.decimals(3),
        p.stat('Consolidations per hour', 'The least of the selected instances. None for two hours while events arrive is an alert.', [s.all('min', s.value('niodoo_memory_consolidations_per_hour'), 'consolidations')], threshold=t.consolidations_per_hour)
        + p.past + p.decimals(0),
        p.stat('Fullest layer', 'How full the fullest layer with a known capacity is.', [s.all('max', fill { expr: '\n%s\n' % super.expr }, 'fill')], threshold=t.layer_usage_ratio) + p.decimals(0),
        p.stat('Stability budget left', 'Of the objective that stability is kept for %g %% of the time.' % (t.slo_memory_stability.target * 100), [c.budgetLeft('memory-stability', 'left')])
        + p.judged(c.budgetSteps) + p.decimals(0),
      ]),

      p.row('Layers'),
      c.line(8, [
        p.timeseries('Layer stability', 'Share of stable memories in each layer, the worst of the selected instances.', [s.over('min', ['layer'], s.value('niodoo_memory_layer_stability_ratio'))])
        + p.drawn(t.memory_stability_ratio) + { fieldConfig+: { defaults+: { custom+: { axisSoftMin: 0.97, axisSoftMax: 1 } } } },
        p.timeseries('Entries by layer', 'Over all selected instances.', [s.over('sum', ['layer'], s.value('niodoo_memory_layer_entries'))]) + p.stacked,
        p.bargauge('Layers against their capacity', "A full layer evicts memories. Capacities are in the mixin's configuration; layers without one are not shown.", [s.over('max', ['layer'], fill { expr: '\n%s\n' % super.expr })], t.layer_usage_ratio) + p.ratio,
      ]),
      c.line(7, [
        p.timeseries('Stability over time', 'Of the whole memory, per instance.', [s.value('niodoo_memory_stability_ratio')]) + p.drawn(t.memory_stability_ratio)
        + { fieldConfig+: { defaults+: { custom+: { axisSoftMin: 0.97, axisSoftMax: 1 } } } },
        p.timeseries('Memories held', 'Total where the engine reports one, else the sum of the layers.', [entries]),
      ]),

      p.row('Retrieval and consolidation'),
      c.line(7, [
        c.retrievalTime,
        p.timeseries('Retrieval success', 'Share of retrievals that find what they look for.', [s.value('niodoo_memory_retrieval_success_ratio')]) + p.drawn(t.retrieval_success_ratio)
        + { fieldConfig+: { defaults+: { custom+: { axisSoftMin: 0.9, axisSoftMax: 1 } } } },
        p.timeseries('Consolidation rate', 'How often memories move from one layer to the next.', [s.value('niodoo_memory_consolidations_per_hour')]) + p.drawn(t.consolidations_per_hour),
        p.timeseries('Memory operations', 'Reads and writes of memories.', [s.rate('niodoo_memory_operations_total') { unit: 'ops' }]),
      ]),

      p.row('Topology and novelty'),
      c.line(7, [
        p.timeseries('Toroidal coherence', 'Of the memory and of the consciousness state, the worst of the selected instances.', [
          s.all('min', s.value('niodoo_memory_toroidal_coherence_score'), 'memory'),
          s.all('min', s.value('niodoo_consciousness_toroidal_coherence_score'), 'consciousness'),
        ]) + p.drawn(t.toroidal_coherence_score) + { fieldConfig+: { defaults+: { custom+: { axisSoftMin: 0.85, axisSoftMax: 1 } } } },
        p.timeseries('Gaussian novelty', 'The band is 0.15 to %g; beyond it everything looks new.' % t.gaussian_novelty_level.target, [s.value('niodoo_consciousness_gaussian_novelty_level')])
        + p.drawn(t.gaussian_novelty_level) + p.softTo(0.25),
        p.timeseries('Gaussian spheres', 'Spheres that memories are kept in.', [s.value('niodoo_memory_gaussian_spheres')]),
        p.timeseries('Compression', 'Ratio of the compressed size to the size.', [s.value('niodoo_memory_compression_ratio')]),
      ]),
      c.line(7, [
        p.timeseries('Coherence', 'As the memory system and as consciousness see it, the worst of the selected instances.', [
          s.all('min', s.value('niodoo_consciousness_memory_coherence_ratio'), 'as consciousness sees it'),
          s.all('min', s.value('niodoo_memory_coherence_ratio'), 'as memory sees it'),
        ]) + p.ratio,
        p.timeseries('Cache hit ratio', "Share of look-ups that the engine's cache answers.", [s.value('niodoo_engine_cache_hit_ratio')]) + p.drawn(t.cache_hit_ratio) + p.ratio,
      ]),

      p.row('What memory stands on'),
      c.line(7, [
        c.componentStates('Stores', 'State of what memories are kept in.', 'component=~"postgresql|redis|qdrant"'),
        c.response('Response of the stores', 'Time of a health request, the slowest of the selected instances.', ['postgresql', 'redis', 'qdrant'], t.database_response_seconds),
        p.timeseries('Vectors', 'Points in the vector database, over all selected instances.', [s.over('sum', ['collection'], s.value('niodoo_qdrant_collection_points'))]),
        c.memory,
      ]),
    ]),
  },
}
