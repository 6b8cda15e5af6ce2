// The engine's KPIs side by side, one series each, so that alerts can count those that stand still and miss those that are gone.
local metrics = import '../lib/metrics.libsonnet';
local query = import '../lib/query.libsonnet';

{
  local c = $._config,
  local t = c.thresholds,
  local q = query.new(c, c.selector, c.rateWindow),

  // Every metric without labels that the engine reports; of a histogram its count.
  local kpis = [
    if metrics.catalogue[name].type == 'histogram' then name + '_count' else name
    for name in std.objectFields(metrics.catalogue)
    if metrics.catalogue[name].collector == 'engine'
       && std.length(std.get(metrics.catalogue[name], 'labels', [])) == 0
       && !std.startsWith(name, 'niodoo_engine_canary_')
  ],
  local every = '{%s}' % std.join(',', [s for s in [c.selector, '__name__=~"%s"' % std.join('|', kpis)] if s != '']),

  local value = 'instance_kpi:niodoo_engine:value',
  local lastSeen = 'instance_kpi:niodoo_engine:last_seen_timestamp_seconds',

  prometheusRules+:: {
    groups+: [{
      name: 'niodoo-kpis',
      rules: [
        { record: value, expr: 'label_replace(%s, "kpi", "$1", "__name__", "niodoo_(.+)")' % every },
        // It remembers itself, which is far cheaper than to look through a day of every KPI.
        { record: lastSeen, expr: |||
          timestamp(%s)
          or
          last_over_time(%s[1h]) > time() - %s
        ||| % [value, lastSeen, q.number(t.kpi_remembered_seconds.warning)] },
      ],
    }],
  },
}
