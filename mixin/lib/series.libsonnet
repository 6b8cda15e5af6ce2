// A series is an expression together with what a panel says about it: the unit, what the lines are called, and the metrics
// whose HELP explains it.
local metrics = import 'metrics.libsonnet';

local rateUnit(metric) = std.get({ bytes: 'Bps', s: 'percentunit' }, metrics.unit(metric), 'cps');
local braces(labels) = std.join(' ', ['{{%s}}' % l for l in labels]);

{
  // new returns makers of series over the metrics that q selects.
  new(q):: {
    local s = self,

    // raw is any expression. metrics are the exporter's metrics that explain it.
    raw(expr, unit, legend='{{instance}}', metrics=[]):: { expr: expr, unit: unit, legend: legend, metrics: metrics },

    // value is a gauge, per instance.
    value(metric, extra='', legend='{{instance}}'):: s.raw(q.m(metric, extra), metrics.unit(metric), legend, [metric]),

    // rate is a counter per second; of seconds, that is a share of the time.
    rate(metric, extra='', legend='{{instance}}'):: s.raw(q.rate(metric, extra), rateUnit(metric), legend, [metric]),

    // increase is what a counter grew by in the panel's whole range.
    increase(metric, extra='', legend='{{instance}}', window='$__range'):: s.raw(q.increase(metric, extra, window), metrics.unit(metric), legend, [metric]),

    // age is how long ago a timestamp is, remaining how far ahead.
    age(metric, extra='', legend='{{instance}}'):: s.raw('time() - ' + q.m(metric, extra), 's', legend, [metric]),
    remaining(metric, extra='', legend='{{instance}}'):: s.raw(q.m(metric, extra) + ' - time()', 's', legend, [metric]),

    // ratio is one series over another with the same labels.
    ratio(part, whole, legend='{{instance}}'):: s.raw('%s / %s' % [part.expr, whole.expr], 'percentunit', legend, part.metrics + whole.metrics),

    // quantile is that of a histogram over what the given labels leave together.
    quantile(phi, metric, by=[], extra='', legend=null)::
      s.raw(
        'histogram_quantile(%g, sum by (%s) (%s))' % [phi, std.join(', ', by + ['le']), q.rate(metric + '_bucket', extra)],
        's',
        if legend != null then legend else 'p%g' % (phi * 100) + std.join('', [' {{%s}}' % l for l in by]),
        [metric]
      ),

    // mean is a histogram's or summary's mean in the window.
    mean(metric, by=[], extra='', legend='mean')::
      local sum(suffix) = 'sum by (%s) (%s)' % [std.join(', ', by), q.rate(metric + suffix, extra)];
      s.raw('%s / (%s > 0)' % [sum('_sum'), sum('_count')], metrics.unit(metric), legend, [metric]),

    // over aggregates, keeping the labels; all keeps none.
    over(aggregate, labels, series, legend=null):: series {
      expr: '%s by (%s) (%s)' % [aggregate, std.join(', ', labels), series.expr],
      legend: if legend != null then legend else braces(labels),
    },
    all(aggregate, series, legend):: series { expr: '%s(%s)' % [aggregate, series.expr], legend: legend },

    // top keeps the n greatest, for what has no bound.
    top(n, series):: series { expr: 'topk(%d, %s)' % [n, series.expr] },

    // orZero is for counts of what may not be there at all.
    orZero(series):: series { expr: '%s or vector(0)' % series.expr },
  },
}
