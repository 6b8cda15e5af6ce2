// Burn-rate alerts over a time-slice SLO. A slice is a recorded 0 (kept) or 1
// (broken) per instance; its average over a window is the error ratio.
local slice = 'instance:niodoo_slo_broken:slice';

// The rows of the multi-window, multi-burn-rate scheme for a 30-day budget.
local rows = [
  { factor: 14.4, long: '1h', short: '5m', 'for': '2m' },
  { factor: 6, long: '6h', short: '30m', 'for': '15m' },
  { factor: 3, long: '1d', short: '2h', 'for': '1h' },
  { factor: 1, long: '3d', short: '6h', 'for': '3h' },
];

{
  slice:: slice,
  rows:: rows,

  // errors is the recorded error ratio over a window.
  errors(window):: 'instance:niodoo_slo_errors:avg_over_time' + window,

  // recordings are the error ratios over every window that the rows use.
  recordings:: [
    { record: $.errors(w), expr: 'avg_over_time(%s[%s])' % [slice, w] }
    for w in std.set(std.flattenArrays([[r.long, r.short] for r in rows]))
  ],

  // condition holds while both windows burn the budget faster than the row allows. A factor that the error ratio cannot
  // reach would make an alert that never fires.
  condition(name, objective, row, by)::
    local limit = row.factor * (1 - objective);
    assert limit < 1 : '%s: a burn of %g times an objective of %g can never be seen' % [name, row.factor, objective];
    |||
      %(long)s{slo="%(slo)s"} > %(limit)s
      and on (%(by)s, slo)
      %(short)s{slo="%(slo)s"} > %(limit)s
    ||| % { long: $.errors(row.long), short: $.errors(row.short), slo: name, limit: '%g' % limit, by: by },
}
