// Panels that stand on more than one dashboard.
local lib = import '../lib/dashboard.libsonnet';
local layout = import '../lib/layout.libsonnet';
local p = import '../lib/panels.libsonnet';

// new returns them for a configuration.
function(config) {
  local t = config.thresholds,
  local d = lib.new(config),
  local q = d.q,
  local s = d.s,

  d:: d,
  line:: layout.line,
  width:: layout.width,

  // State of a component: 1 up, 0.5 up and not ready, 0 down, 2 down and nobody asked for it. Worst wins.
  local state(selector) = |||
    (%(up)s == 0 and on (%(by)s, component) %(required)s == 0) + 2
    or clamp_min(%(up)s - 0.5 * (%(ready)s == bool 0), 0)
    or %(up)s
  ||| % {
    up: q.m('niodoo_component_up', selector),
    ready: q.m('niodoo_component_ready', selector),
    required: q.m('niodoo_component_required', selector),
    by: q.by,
  },
  local words = {
    '0': ['down', p.colours.bad],
    '0.5': ['not ready', p.colours.warning],
    '1': ['up', p.colours.good],
    '2': ['not in use', p.colours.idle],
  },

  componentStates(title, text, selector='', labels=['component'])::
    p.states(title, text, [s.over('min', labels, s.raw('\n' + state(selector), 'short', metrics=['niodoo_component_up', 'niodoo_component_ready', 'niodoo_component_required']))], words),

  componentState(title, selector)::
    p.stat(title, 'The worst of the selected instances.', [s.all('min', s.raw('\n' + state(selector), 'short', metrics=['niodoo_component_up']), title)])
    + p.lit + p.words(words),

  // What was kept of the SLOs' budgets. The mean of the hours' means is that of the window, at a hundredth of the price; in
  // the first hour there is only the one that runs.
  local budgets = {
    'engine-availability': t.slo_engine_availability,
    'processing-latency': t.slo_processing_latency,
    'memory-stability': t.slo_memory_stability,
  },
  budgets:: budgets,
  budgetLeft(slo, legend)::
    s.all('min', s.raw('1 - (avg_over_time(%(hour)s[%(days)dd:1h]) or %(hour)s) / %(budget)g' % {
      hour: q.m('instance:niodoo_slo_errors:avg_over_time1h', 'slo="%s"' % slo),
      days: config.slo.windowDays,
      budget: 1 - budgets[slo].target,
    }, 'percentunit'), legend),
  budgetSteps:: { mode: 'absolute', steps: [
    { color: p.colours.bad, value: null },
    { color: p.colours.warning, value: 0.1 },
    { color: p.colours.off, value: 0.5 },
    { color: p.colours.good, value: 0.75 },
  ] },

  errorBudgets::
    p.stat('Error budget left', 'Of the last %d days, the instance that has the least left; below 0 the objective is missed. Up to an hour behind.' % config.slo.windowDays, [
      self.budgetLeft('engine-availability', 'Availability'),
      self.budgetLeft('processing-latency', 'Latency'),
      self.budgetLeft('memory-stability', 'Stability'),
    ]) + p.judged(self.budgetSteps) + p.decimals(0) + { options+: { orientation: 'vertical' } },

  alertCounts::
    p.stat('Alerts firing', 'By priority: P1 needs someone within 15 minutes, P2 within an hour, P3 within 4, P4 within a week.', [
      s.orZero(s.raw('count(%s)' % d.alerts('priority="%s"' % priority), 'short', priority))
      for priority in ['P1', 'P2', 'P3', 'P4']
    ]) + p.lit + p.judged(p.anyIs(p.colours.warning)) + {
      options+: { orientation: 'vertical', textMode: 'value_and_name' },
      fieldConfig+: { overrides: [p.field('P1', { thresholds: p.anyIs(p.colours.bad) }), p.field('P4', { thresholds: p.anyIs(p.colours.off) })] },
    },

  local priorityColours = {
    P1: { text: 'P1', color: p.colours.bad, index: 0 },
    P2: { text: 'P2', color: p.colours.warning, index: 1 },
    P3: { text: 'P3', color: p.colours.warning, index: 2 },
    P4: { text: 'P4', color: p.colours.off, index: 3 },
  },

  alertTable(title)::
    p.table(title, 'Firing alerts of every priority, the most urgent first. An alert leads to its runbook, an instance to its services. Empty is good.', [
      { label: 'priority', title: 'Priority', width: 70 },
      { label: 'alertname', title: 'Alert', links: [{ title: 'Runbook', url: config.runbookURL + '/${__value.raw}.md', targetBlank: true }] },
      { label: 'component', title: 'Component', width: 110 },
      { label: config.clusterLabel, title: 'Cluster' },
      { label: 'job', title: 'Job', width: 80 },
      { label: 'instance', title: 'Instance', links: [d.drill('services', 'Services of this instance')] },
      { series: s.raw(d.alertAges(), 's'), title: 'Since', width: 90 },
    ], { displayName: 'Priority', desc: false }) + p.none('No alerts') + {
      fieldConfig+: { overrides+: [p.field('Priority', { 'custom.cellOptions': { type: 'color-text' }, mappings: [{ type: 'value', options: priorityColours }] })] },
    },

  failures::
    p.table('What cannot be collected', 'Collectors that fail, and why. The component may be well: compare it with the states. Empty is good.', [
      { label: 'collector', title: 'Collector' },
      { label: 'reason', title: 'Reason' },
      { label: config.clusterLabel, title: 'Cluster' },
      { label: 'instance', title: 'Instance' },
      { series: s.value('niodoo_scrape_collector_failure_info'), title: 'Failing', words: { '1': ['yes', p.colours.warning] }, width: 70 },
    ]) + p.none('Everything is collected'),

  stability(title)::
    p.gauge(title,
            'Share of memories that are stable, the worst of the selected instances. The target is %g %%.' % (t.memory_stability_ratio.target * 100),
            [s.all('min', s.value('niodoo_memory_stability_ratio'), 'stability')],
            t.memory_stability_ratio,
            min=0.97) + p.decimals(2),

  events:: s.raw(q.m('instance:niodoo_consciousness_events:rate5m'), 'eps', metrics=['niodoo_consciousness_events_total', 'niodoo_consciousness_events_per_second']),

  processingTime::
    p.timeseries('Processing time',
                 'Mean time to process an event. Users notice from %gs on, the alert is at %gs; nothing is shown while no event is processed.' %
                 [t.processing_time_seconds.target, t.processing_time_seconds.warning],
                 [s.raw(q.m('instance:niodoo_consciousness_processing_seconds:mean5m'), 's', metrics=['niodoo_consciousness_processing_time_seconds', 'niodoo_consciousness_processing_duration_seconds'])])
    + p.drawn(t.processing_time_seconds),

  emotionalTime::
    p.timeseries('Emotional processing latency', 'Time to process emotions.', [s.value('niodoo_consciousness_emotional_processing_time_seconds')]) + p.drawn(t.emotional_processing_time_seconds),

  retrievalTime::
    p.timeseries('Memory retrieval time', 'Time to retrieve a memory; the engine gives up at %gs.' % t.memory_retrieval_time_seconds.warning, [s.value('niodoo_consciousness_memory_retrieval_time_seconds')])
    + p.drawn(t.memory_retrieval_time_seconds),

  errorRatio::
    p.timeseries('Error ratio', 'Share of requests that fail, of the counters where the engine has them.', [
      s.raw(q.m('instance:niodoo_engine_errors:ratio_rate5m'), 'percentunit', metrics=['niodoo_engine_errors_total', 'niodoo_engine_requests_total', 'niodoo_engine_error_ratio']),
    ]) + p.drawn(t.engine_error_ratio),

  cpu:: p.timeseries('CPU usage', "Share of the CPUs' time that is not idle.", [
    s.raw(q.m('instance:niodoo_host_cpu_usage:ratio_rate5m'), 'percentunit', metrics=['niodoo_host_cpu_seconds_total']),
  ]) + p.ratio + p.drawn(t.cpu_usage_ratio),
  memory:: p.timeseries('Memory usage', 'Share of the memory that programs cannot have any more.', [
    s.raw(q.m('instance:niodoo_host_memory_usage:ratio'), 'percentunit', metrics=['niodoo_host_memory_available_bytes', 'niodoo_host_memory_total_bytes']),
  ]) + p.ratio + p.drawn(t.memory_usage_ratio),
  disk:: p.timeseries('Disk usage', 'Share of each file system that is used, as df says it; the fullest of the selected instances.', [
    s.over('max', ['path'], s.raw(q.m('instance_path:niodoo_host_filesystem_usage:ratio'), 'percentunit', metrics=['niodoo_host_filesystem_size_bytes', 'niodoo_host_filesystem_free_bytes', 'niodoo_host_filesystem_avail_bytes'])),
  ]) + p.ratio + p.drawn(t.disk_usage_ratio),

  // response of some components over time.
  response(title, text, components, threshold=null)::
    p.timeseries(title, text, [s.over('max', ['component'], s.value('niodoo_component_response_seconds', if components == [] then '' else 'component=~"%s"' % std.join('|', components)))])
    + (if threshold == null then {} else p.drawn(threshold)),
}
