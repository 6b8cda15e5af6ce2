// Panels of one look. A panel takes its unit and its description from the metrics of its series and its limits from the
// thresholds that the alerts use: a panel that is red is one that alerts.
local metrics = import 'metrics.libsonnet';

local datasource = { type: 'prometheus', uid: '${datasource}' };

// Colours mean the same everywhere: good is at its target; off is past it, and nobody is told; warning and bad are past the
// limit of a warning and of a critical alert; idle is not in use; neutral is a number without a judgement.
local colours = { good: 'green', off: 'yellow', warning: 'orange', bad: 'red', idle: '#8e8e8e', neutral: 'blue' };

local reduce = { calcs: ['lastNotNull'], fields: '', values: false };
local hidden = { legend: false, tooltip: false, viz: false };
local listLegend = { displayMode: 'list', placement: 'bottom', showLegend: true, calcs: [] };
local tableLegend = { displayMode: 'table', placement: 'right', showLegend: true, calcs: ['mean', 'max', 'lastNotNull'] };

local some(list) = [x for x in list if x != null];
local step(colour, value) = { color: colour, value: value };
local steps(list) = { mode: 'absolute', steps: some(list) };
local plain = steps([step(colours.neutral, null)]);

// target is a query. Stats and gauges ask for the end of the range, and for the past only where they draw it.
local target(series) = {
  datasource: datasource,
  expr: series.expr,
  legendFormat: series.legend,
  editorMode: 'code',
  range: true,
  instant: false,
  format: 'time_series',
};
local now = { range: false, instant: true };

local explained(text, series) =
  local names = std.foldl(function(seen, n) if std.member(seen, n) then seen else seen + [n], std.flattenArrays([s.metrics for s in series]), []);
  text + std.join('', ['\n\n`%s`: %s' % [n, metrics.help(n)] for n in names]);

// base is what all panels of data have.
local base(type, title, text, series, unit) =
  {
    type: type,
    title: title,
    description: explained(text, series),
    datasource: datasource,
    targets: [target(series[i]) { refId: std.char(65 + i) } for i in std.range(0, std.length(series) - 1)],
    fieldConfig: {
      defaults: {
        unit: if unit != null then unit else series[0].unit,
        color: { mode: 'palette-classic' },
        mappings: [],
        thresholds: plain,
      },
      overrides: [],
    },
    options: {},
  };

{
  datasource:: datasource,
  colours:: colours,
  metrics:: metrics,

  // limits makes threshold steps of one of the thresholds.
  limits(threshold)::
    local target = std.get(threshold, 'target');
    local warning = std.get(threshold, 'warning');
    local critical = std.get(threshold, 'critical');
    if threshold.direction == 'above' then
      steps([
        step(colours.good, null),
        if target != null then step(colours.off, target),
        if warning != null then step(colours.warning, warning),
        if critical != null then step(colours.bad, critical),
      ])
    else
      local names = [
        { colour: colours.bad, upto: critical },
        { colour: colours.warning, upto: warning },
        { colour: colours.off, upto: target },
      ];
      local known = [n for n in names if n.upto != null];
      steps([step(known[0].colour, null)] + [
        step(if i + 1 < std.length(known) then known[i + 1].colour else colours.good, known[i].upto)
        for i in std.range(0, std.length(known) - 1)
      ]),

  // anyIs are the steps of what is well only at 0.
  anyIs(colour):: steps([step(colours.good, null), step(colour, 1)]),

  // below are the steps of what is well only from a value on.
  below(value, colour=colours.bad):: steps([step(colour, null), step(colours.good, value)]),

  judged(thresholds):: { fieldConfig+: { defaults+: { color: { mode: 'thresholds' }, thresholds: thresholds } } },

  // drawn adds a threshold's lines to a time series.
  drawn(threshold):: {
    fieldConfig+: { defaults+: { thresholds: $.limits(threshold), custom+: { thresholdsStyle: { mode: 'dashed' } } } },
  },

  // ratio is the scale of what cannot leave 0 to 1, from keeps small counts from looking like great ones.
  ratio:: { fieldConfig+: { defaults+: { min: 0, max: 1 } } },
  from(min):: { fieldConfig+: { defaults+: { min: min } } },
  softTo(max):: { fieldConfig+: { defaults+: { custom+: { axisSoftMin: 0, axisSoftMax: max } } } },
  decimals(n):: { fieldConfig+: { defaults+: { decimals: n } } },

  // none says what a panel shows when there is nothing: where nothing is good, it should not look broken.
  none(text):: { fieldConfig+: { defaults+: { noValue: text } } },

  timeseries(title, text, series, unit=null):: base('timeseries', title, text, series, unit) + {
    fieldConfig+: { defaults+: { custom: {
      drawStyle: 'line',
      lineInterpolation: 'linear',
      lineWidth: 1,
      fillOpacity: 8,
      gradientMode: 'none',
      showPoints: 'never',
      pointSize: 5,
      spanNulls: false,
      insertNulls: false,
      stacking: { mode: 'none', group: 'A' },
      axisPlacement: 'auto',
      axisLabel: '',
      axisColorMode: 'text',
      axisBorderShow: false,
      axisCenteredZero: false,
      axisSoftMin: 0,
      scaleDistribution: { type: 'linear' },
      barAlignment: 0,
      hideFrom: hidden,
      thresholdsStyle: { mode: 'off' },
    } } },
    options: { legend: listLegend, tooltip: { mode: 'multi', sort: 'desc', hideZeros: false } },
  },

  // stacked turns a time series into parts of a whole, bars into counts per step, lookup gives it a legend to read values from.
  stacked:: { fieldConfig+: { defaults+: { custom+: { stacking: { mode: 'normal', group: 'A' }, fillOpacity: 40, lineWidth: 0 } } } },
  bars:: { fieldConfig+: { defaults+: { custom+: { drawStyle: 'bars', fillOpacity: 60, lineWidth: 0, stacking: { mode: 'normal', group: 'A' } } } } },
  lookup:: { options+: { legend: tableLegend } },
  logarithmic:: { fieldConfig+: { defaults+: { custom+: { scaleDistribution: { type: 'log', log: 10 } } } } },

  // dashed draws a series of a panel as a limit.
  dashed(name):: { fieldConfig+: { overrides+: [$.field(name, {
    color: { mode: 'fixed', fixedColor: colours.idle },
    'custom.lineStyle': { fill: 'dash', dash: [8, 8] },
    'custom.fillOpacity': 0,
    'custom.stacking': { mode: 'none', group: 'B' },
  })] } },

  // coloured gives series their colours by name.
  coloured(names):: { fieldConfig+: { overrides+: [$.field(n, { color: { mode: 'fixed', fixedColor: names[n] } }) for n in std.objectFields(names)] } },

  // field overrides what is shown of one series or column.
  field(name, properties):: { matcher: { id: 'byName', options: name }, properties: [{ id: k, value: properties[k] } for k in std.objectFields(properties)] },

  stat(title, text, series, unit=null, threshold=null):: base('stat', title, text, series, unit) + {
    targets: [t + now for t in super.targets],
    fieldConfig+: { defaults+: { color: { mode: 'thresholds' }, thresholds: if threshold == null then plain else $.limits(threshold) } },
    options: {
      reduceOptions: reduce,
      orientation: 'auto',
      textMode: 'auto',
      wideLayout: true,
      colorMode: 'value',
      graphMode: 'none',
      justifyMode: 'auto',
      showPercentChange: false,
      percentChangeColorMode: 'standard',
    },
  },

  // past adds to a stat how it came there.
  past:: { targets: [t { range: true, instant: false } for t in super.targets], options+: { graphMode: 'area' } },

  // lit colours the whole of a stat: for what must be seen from across the room.
  lit:: { options+: { colorMode: 'background' } },

  // words writes numbers as words: { '0': ['down', colour] }.
  words(words):: { fieldConfig+: { defaults+: { mappings: [{ type: 'value', options: {
    [std.objectFields(words)[i]]: { text: words[std.objectFields(words)[i]][0], color: words[std.objectFields(words)[i]][1], index: i }
    for i in std.range(0, std.length(words) - 1)
  } }] } } },

  // yesno is a stat of 1 and 0 in words; the value of yes is the good one.
  yesno(title, text, series, yes, no, bad=colours.bad):: $.stat(title, text, series, 'short') + $.lit
                                                         + $.judged($.below(1, bad)) + $.words({ '0': [no, bad], '1': [yes, colours.good] }),

  gauge(title, text, series, threshold, unit=null, min=0, max=1):: base('gauge', title, text, series, unit) + {
    targets: [t + now for t in super.targets],
    fieldConfig+: { defaults+: { min: min, max: max, color: { mode: 'thresholds' }, thresholds: $.limits(threshold) } },
    options: { reduceOptions: reduce, orientation: 'auto', showThresholdLabels: false, showThresholdMarkers: true, sizing: 'auto', minVizWidth: 75, minVizHeight: 75 },
  },

  bargauge(title, text, series, threshold=null, unit=null):: base('bargauge', title, text, series, unit) + {
    targets: [t + now for t in super.targets],
    fieldConfig+: { defaults+: { min: 0, color: { mode: 'thresholds' }, thresholds: if threshold == null then plain else $.limits(threshold) } },
    options: {
      reduceOptions: reduce,
      orientation: 'horizontal',
      displayMode: 'basic',
      valueMode: 'color',
      namePlacement: 'auto',
      showUnfilled: true,
      sizing: 'auto',
      minVizWidth: 8,
      minVizHeight: 16,
      maxVizHeight: 300,
      legend: { showLegend: false, displayMode: 'list', placement: 'bottom', calcs: [] },
    },
  },

  heatmap(title, text, series, unit=null):: base('heatmap', title, text, series, unit) + {
    targets: [t { format: 'heatmap' } for t in super.targets],
    fieldConfig: { defaults: { custom: { hideFrom: hidden, scaleDistribution: { type: 'linear' } } }, overrides: [] },
    options: {
      calculate: false,
      cellGap: 1,
      color: { mode: 'scheme', scheme: 'Oranges', fill: 'dark-orange', scale: 'exponential', exponent: 0.5, steps: 64, reverse: false },
      exemplars: { color: 'rgba(255,0,255,0.7)' },
      filterValues: { le: 1e-9 },
      legend: { show: true },
      rowsFrame: { layout: 'auto' },
      showValue: 'never',
      tooltip: { mode: 'single', showColorScale: false, yHistogram: false },
      yAxis: { axisPlacement: 'left', reverse: false, unit: if unit != null then unit else series[0].unit },
    },
  },

  // states shows words over time, one line a series.
  states(title, text, series, words={ '0': ['down', colours.bad], '1': ['up', colours.good] }):: base('state-timeline', title, text, series, 'short') + $.words(words) + {
    fieldConfig+: { defaults+: {
      color: { mode: 'thresholds' },
      custom: { fillOpacity: 75, lineWidth: 0, spanNulls: false, insertNulls: false, axisPlacement: 'auto', hideFrom: hidden },
    } },
    options: { mergeValues: true, showValue: 'never', alignValue: 'left', rowHeight: 0.85, legend: listLegend { showLegend: false }, tooltip: { mode: 'single', sort: 'none' } },
  },

  // table has a row for each combination of labels. columns, from left to right, are
  //   { label: 'instance', title: 'Instance', … } or { series: …, title: 'Up', … } with, for both,
  //   unit, threshold, steps, words, links, width, decimals
  // Labels that are no column are not shown.
  table(title, text, columns, sort=null)::
    local values = [c for c in columns if std.objectHas(c, 'series')];
    local fieldOf(c) =
      if std.objectHas(c, 'label') then c.label
      else if std.length(values) == 1 then 'Value'
      else 'Value #' + std.char(65 + std.find(c.title, [v.title for v in values])[0]);
    local style(c) =
      local steps = if std.objectHas(c, 'threshold') then $.limits(c.threshold) else std.get(c, 'steps');
      { [if std.objectHas(c, 'series') then 'unit']: std.get(c, 'unit', c.series.unit) }
      + { [if steps != null || std.objectHas(c, 'words') then 'custom.cellOptions']: { type: 'color-text' } }
      + { [if steps != null then 'thresholds']: steps }
      + { [if std.objectHas(c, 'words') then 'mappings']: $.words(c.words).fieldConfig.defaults.mappings }
      + { [if std.objectHas(c, 'links') then 'links']: c.links }
      + { [if std.objectHas(c, 'width') then 'custom.width']: c.width }
      + { [if std.objectHas(c, 'decimals') then 'decimals']: c.decimals };
    base('table', title, text, [c.series for c in values], 'short') + {
      targets: [super.targets[i] + now + { format: 'table', legendFormat: values[i].title } for i in std.range(0, std.length(values) - 1)],
      fieldConfig+: {
        defaults+: { color: { mode: 'thresholds' }, custom: { align: 'auto', cellOptions: { type: 'auto' }, inspect: false, filterable: true } },
        overrides: [$.field(c.title, style(c)) for c in columns if style(c) != {}],
      },
      options: { showHeader: true, cellHeight: 'sm', frameIndex: 0, sortBy: if sort == null then [] else [sort] },
      transformations: [
        { id: 'merge', options: {} },
        { id: 'filterFieldsByName', options: { include: { names: [fieldOf(c) for c in columns] } } },
        { id: 'organize', options: {
          excludeByName: {},
          indexByName: { [fieldOf(columns[i])]: i for i in std.range(0, std.length(columns) - 1) },
          renameByName: { [fieldOf(c)]: c.title for c in columns },
        } },
      ],
    },

  row(title, collapsed=false):: { type: 'row', title: title, collapsed: collapsed, panels: [] },
}
