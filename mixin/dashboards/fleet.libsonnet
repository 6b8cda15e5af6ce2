// Many stacks in one table: which one needs someone?
local p = import '../lib/panels.libsonnet';
local shared = import 'shared.libsonnet';

{
  local config = $._config,
  local t = config.thresholds,
  local c = shared(config),
  local d = c.d,
  local q = d.q,
  local s = d.s,

  local each(series) = s.over('max', q.byList, series),
  local required = s.raw(q.m('instance:niodoo_component_required_up:ratio'), 'percentunit', metrics=['niodoo_component_required']),
  local engine = s.value('niodoo_component_up', 'component="engine"'),
  local count(expr, legend) = s.raw('count(%s) or vector(0)' % expr, 'short', legend),

  grafanaDashboards+:: {
    'fleet.json': d.dashboard('fleet', 'Fleet', 'Every stack in one line, the ones that need someone first. An instance leads to its dashboards.', [
      p.row('Are all well?'),
      c.line(5, [
        p.stat('Stacks watched', 'Stacks that send something.', [count('count by (%s) (%s)' % [q.by, q.m('niodoo_component_up')], 'stacks')]),
        p.stat('Stacks with all they need', 'Stacks of which every required component is up.', [
          s.raw('avg(%s == bool 1)' % required.expr, 'percentunit', 'whole', ['niodoo_component_required']),
        ]) + p.lit + p.judged(p.below(1)) + p.decimals(0),
        p.stat('Engines down', 'Stacks whose engine does not pass its health check.', [count(engine.expr + ' == 0', 'down')]) + p.lit + p.judged(p.anyIs(p.colours.bad)),
        c.alertCounts + c.width(9),
        p.stat('Least stable', 'Memory stability of the least stable stack.', [s.all('min', s.value('niodoo_memory_stability_ratio'), 'stability')], threshold=t.memory_stability_ratio) + p.decimals(2),
      ]),
      c.line(16, [
        p.table('Stacks', 'One line a stack. Pick the cluster above where instances of two clusters have the same name.', [
          { label: config.clusterLabel, title: 'Cluster', links: [d.link('consciousness-overview', 'Overview of this stack', ['var-cluster=${__value.raw}', 'var-job=${__data.fields.Job}', 'var-instance=${__data.fields.Instance}'])] },
          { label: 'job', title: 'Job', width: 90 },
          { label: 'instance', title: 'Instance', links: [
            d.drill('consciousness-overview', 'Overview'),
            d.drill('services', 'Services'),
            d.drill('memory-system', 'Memory system'),
            d.drill('performance', 'Performance'),
            d.drill('operations', 'Operations'),
          ] },
          { series: each(required), title: 'Required up', steps: p.below(1), decimals: 0 },
          { series: each(engine), title: 'Engine', words: { '0': ['down', p.colours.bad], '1': ['up', p.colours.good] } },
          { series: s.raw('count by (%s) (%s)' % [q.by, d.alerts('priority=~"P[1-4]",instance!=""')], 'short'), title: 'Alerts', steps: p.anyIs(p.colours.warning) },
          { series: s.raw('count by (%s) (%s)' % [q.by, d.alerts('priority="P1",instance!=""')], 'short'), title: 'P1', steps: p.anyIs(p.colours.bad) },
          { series: each(s.raw(q.m('instance:niodoo_consciousness_processing_seconds:mean5m'), 's', metrics=['niodoo_consciousness_processing_time_seconds'])), title: 'Processing', threshold: t.processing_time_seconds },
          { series: each(s.value('niodoo_memory_stability_ratio')), title: 'Stability', threshold: t.memory_stability_ratio, decimals: 2 },
          { series: each(c.events), title: 'Events', decimals: 1 },
          { series: each(s.raw(q.m('instance:niodoo_engine_errors:ratio_rate5m'), 'percentunit', metrics=['niodoo_engine_error_ratio'])), title: 'Errors', threshold: t.engine_error_ratio },
          { series: each(s.raw(q.m('instance:niodoo_host_cpu_usage:ratio_rate5m'), 'percentunit', metrics=['niodoo_host_cpu_seconds_total'])), title: 'CPU', threshold: t.cpu_usage_ratio, decimals: 0 },
          { series: each(s.raw(q.m('instance:niodoo_host_memory_usage:ratio'), 'percentunit', metrics=['niodoo_host_memory_total_bytes'])), title: 'Memory', threshold: t.memory_usage_ratio, decimals: 0 },
          { series: each(s.raw(q.m('instance_path:niodoo_host_filesystem_usage:ratio'), 'percentunit', metrics=['niodoo_host_filesystem_size_bytes'])), title: 'Disk', threshold: t.disk_usage_ratio, decimals: 0 },
          { series: each(s.age('niodoo_backup_newest_timestamp_seconds')), title: 'Backup', threshold: t.backup_age_seconds },
        ], { displayName: 'Required up', desc: false }),
      ]),
      p.row('Over time'),
      c.line(9, [
        p.states('Engines', 'Of each stack.', [s.over('min', ['instance'], engine)]),
        p.timeseries('Required components up', 'The ten worst at each moment.', [s.raw('bottomk(10, %s)' % required.expr, 'percentunit', metrics=['niodoo_component_required'])]) + p.ratio,
      ]),
      c.line(8, [
        p.timeseries('Processing time', 'The ten slowest at each moment.', [s.top(10, s.raw(q.m('instance:niodoo_consciousness_processing_seconds:mean5m'), 's', metrics=['niodoo_consciousness_processing_time_seconds']))]) + p.drawn(t.processing_time_seconds),
        p.timeseries('Memory stability', 'The ten least stable at each moment.', [s.raw('bottomk(10, %s)' % q.m('niodoo_memory_stability_ratio'), 'percentunit', metrics=['niodoo_memory_stability_ratio'])]) + p.drawn(t.memory_stability_ratio)
        + { fieldConfig+: { defaults+: { custom+: { axisSoftMin: 0.97, axisSoftMax: 1 } } } },
        p.timeseries('Events', 'Per second, of the ten busiest.', [s.top(10, c.events)]),
      ]),
      c.line(8, [
        p.timeseries('Stacks by version of the engine', 'During a roll-out, both.', [s.raw('count by (version) (%s)' % q.m('niodoo_component_info', 'component="engine"'), 'short', '{{version}}', ['niodoo_component_info'])]) + p.stacked,
        p.timeseries('Components down', 'In how many stacks each component is down.', [s.raw('count by (component) (%s == 0)' % q.m('niodoo_component_up'), 'short', '{{component}}', ['niodoo_component_up'])]) + p.stacked + p.none('None'),
        p.timeseries('Collectors that fail', 'In how many stacks, by reason.', [s.over('sum', ['collector', 'reason'], s.value('niodoo_scrape_collector_failure_info'))]) + p.stacked + p.none('None'),
      ]),
    ]),
  },
}
