// Expressions over the exporter's metrics with the same selector throughout.
local metrics = import 'metrics.libsonnet';

{
  // new returns a maker of expressions. selector goes into every selector;
  // window is the default window of rates.
  new(config, selector, window):: {
    local q = self,
    local braces(extra) =
      local all = std.join(',', [s for s in [selector, extra] if s != '']);
      if all == '' then '' else '{' + all + '}',

    // m is an instant selector: m('niodoo_component_up', 'component="engine"').
    m(name, extra=''):: metrics.name(name) + braces(extra),

    // range is a range selector.
    range(name, extra='', w=window):: q.m(name, extra) + '[' + w + ']',

    rate(name, extra='', w=window):: 'rate(' + q.range(name, extra, w) + ')',
    increase(name, extra='', w=window):: 'increase(' + q.range(name, extra, w) + ')',

    // quantile of a histogram, per instance.
    quantile(phi, name, extra='', w=window)::
      'histogram_quantile(%g, sum by (%s, le) (%s))' % [phi, q.by, q.rate(name + '_bucket', extra, w)],

    // by is what aggregations keep and joins match on.
    by:: std.join(', ', config.instanceLabels),
    byList:: config.instanceLabels,

    // sum adds up what differs in other labels than those of an instance.
    sum(expr, also=''):: 'sum by (%s%s) (%s)' % [q.by, if also == '' then '' else ', ' + also, expr],

    // number writes a number so that 0.8 does not become 0.80000000000000004, nor 10737418240 a rounded 1.07374e+10.
    number(x):: '%.12g' % x,
  },
}
