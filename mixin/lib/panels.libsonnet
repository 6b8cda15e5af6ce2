// Panels of one look. Every constructor takes the unit from the metric where it can, draws limits from the thresholds that the
// alerts use, and leaves nothing to a person's patience: title, description and unit are arguments, not options.
local metrics = import 'metrics.libsonnet';

local datasource = { type: 'prometheus', uid: '${datasource}' };

// Colours mean the same everywhere.
local colours = { good: 'green', warning: 'orange', bad: 'red', idle: '#8e8e8e', neutral: 'blue' };

local reduce = { calcs: ['lastNotNull'], fields: '', values: false };
local hidden = { legend: false, tooltip: false, viz: false };
local listLegend = { displayMode: 'list', placement: 'bottom', showLegend: true, calcs: [] };
local tableLegend = { displayMode: 'table', placement: 'bottom', showLegend: true, calcs: ['mean', 'max', 'lastNotNull'] };
local tooltip = { mode: 'multi', sort: 'desc' };

local steps(list) = { mode: 'absolute', steps: list };
local plain = steps([{ color: colours.neutral, value: null }]);

// base is what all panels have.
local base(type, title, description, unit, targets) = {
  type: type,
  title: title,
  description: description,
  datasource: datasource,
  targets: [targets[i] { refId: std.char(65 + i) } for i in std.range(0, std.length(targets) - 1)],
  fieldConfig: {
    defaults: { unit: unit, color: { mode: 'palette-classic' }, mappings: [], thresholds: plain },
    overrides: [],
  },
  options: {},
};

{
  datasource:: datasource,
  colours:: colours,
  metrics:: metrics,

  // target is one query over time.
  target(expr, legend=''):: {
    datasource: datasource,
    expr: expr,
    legendFormat: legend,
    editorMode: 'code',
    range: true,
    instant: false,
    format: 'time_series',
  },

  // now is one query for the value at the end of the range; format 'table' for tables.
  now(expr, legend='', format='time_series'):: $.target(expr, legend) { range: false, instant: true, format: format },

  // limits makes threshold steps from one of the thresholds: good, beyond the warning, beyond the critical limit.
  limits(threshold)::
    local warning = std.get(threshold, 'warning');
    local critical = std.get(threshold, 'critical');
    local target = std.get(threshold, 'target');
    if threshold.direction == 'above' then
      steps(std.prune([
        { color: colours.good, value: -1e308 },
        if warning != null then { color: if critical == null then colours.bad else colours.warning, value: warning }
        else { color: colours.warning, value: target },
        if critical != null then { color: colours.bad, value: critical },
      ]))
    else
      steps(std.prune([
        { color: if warning == null then colours.warning else colours.bad, value: -1e308 },
        if critical != null then { color: colours.warning, value: critical },
        if warning != null && target != null then { color: colours.warning, value: warning },
        { color: colours.good, value: if target != null then target else warning },
      ])),

  // base colours of the first step are written as null, as Grafana does.
  local finish(panel) = panel {
    fieldConfig+: { defaults+: { thresholds+: { steps: [
      if s.value == null || s.value < -1e307 then s { value: null } else s
      for s in super.steps
    ] } } },
  },

  // drawn adds a threshold's lines to a time series.
  drawn(threshold):: {
    fieldConfig+: { defaults+: { thresholds: $.limits(threshold), custom+: { thresholdsStyle: { mode: 'dashed' } } } },
  },

  timeseries(title, description, unit, targets):: base('timeseries', title, description, unit, targets) + {
    fieldConfig+: { defaults+: { custom: {
      drawStyle: 'line',
      lineInterpolation: 'linear',
      lineWidth: 1,
      fillOpacity: 10,
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
      scaleDistribution: { type: 'linear' },
      barAlignment: 0,
      hideFrom: hidden,
      thresholdsStyle: { mode: 'off' },
    } } },
    options: { legend: if std.length(targets) > 1 then tableLegend else listLegend, tooltip: tooltip },
  },

  // stacked turns a time series into parts of a whole.
  stacked:: { fieldConfig+: { defaults+: { custom+: { stacking: { mode: 'normal', group: 'A' }, fillOpacity: 40, lineWidth: 0 } } } },

  stat(title, description, unit, targets, threshold=null):: base('stat', title, description, unit, targets) + {
    fieldConfig+: { defaults+: { color: { mode: 'thresholds' }, thresholds: if threshold == null then plain else $.limits(threshold) } },
    options: {
      reduceOptions: reduce,
      orientation: 'auto',
      textMode: 'auto',
      wideLayout: true,
      colorMode: 'value',
      graphMode: 'area',
      justifyMode: 'auto',
      showPercentChange: false,
      percentChangeColorMode: 'standard',
    },
  },

  // yesno is a stat of 1 and 0 in words.
  yesno(title, description, targets, yes, no, good=true):: $.stat(title, description, 'short', targets) + {
    fieldConfig+: { defaults+: { mappings: [{ type: 'value', options: {
      '0': { text: no, color: if good then colours.bad else colours.good, index: 0 },
      '1': { text: yes, color: if good then colours.good else colours.bad, index: 1 },
    } }] } },
    options+: { graphMode: 'none', colorMode: 'background' },
  },

  gauge(title, description, unit, targets, threshold, min=0, max=1):: base('gauge', title, description, unit, targets) + {
    fieldConfig+: { defaults+: { min: min, max: max, color: { mode: 'thresholds' }, thresholds: $.limits(threshold) } },
    options: { reduceOptions: reduce, orientation: 'auto', showThresholdLabels: false, showThresholdMarkers: true, sizing: 'auto', minVizWidth: 75, minVizHeight: 75 },
  },

  bargauge(title, description, unit, targets, threshold=null):: base('bargauge', title, description, unit, targets) + {
    fieldConfig+: { defaults+: { color: { mode: 'thresholds' }, thresholds: if threshold == null then plain else $.limits(threshold) } },
    options: {
      reduceOptions: reduce,
      orientation: 'horizontal',
      displayMode: 'gradient',
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

  heatmap(title, description, unit, targets):: base('heatmap', title, description, unit, targets) + {
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
      yAxis: { axisPlacement: 'left', reverse: false, unit: unit },
    },
  },

  // states shows 0 and 1 over time, one line a series.
  states(title, description, targets, yes='up', no='down'):: base('state-timeline', title, description, 'short', targets) + {
    fieldConfig+: { defaults+: {
      color: { mode: 'thresholds' },
      custom: { fillOpacity: 70, lineWidth: 0, spanNulls: false, insertNulls: false, axisPlacement: 'auto', hideFrom: hidden },
      mappings: [
        { type: 'value', options: { '0': { text: no, color: colours.bad, index: 0 }, '1': { text: yes, color: colours.good, index: 1 } } },
        { type: 'special', options: { match: 'null', result: { text: 'no data', color: colours.idle, index: 2 } } },
      ],
    } },
    options: { mergeValues: true, showValue: 'never', alignValue: 'left', rowHeight: 0.9, legend: listLegend { showLegend: false }, tooltip: { mode: 'single', sort: 'none' } },
  },

  // table shows one row a series; columns name and order the labels and values.
  table(title, description, targets, rename={}, hide=[], order={}, overrides=[]):: base('table', title, description, 'short', targets) + {
    fieldConfig+: {
      defaults+: { color: { mode: 'thresholds' }, custom: { align: 'auto', cellOptions: { type: 'auto' }, inspect: false, filterable: true } },
      overrides: overrides,
    },
    options: { showHeader: true, cellHeight: 'sm', frameIndex: 0, sortBy: [] },
    transformations: [
      { id: 'merge', options: {} },
      { id: 'organize', options: { excludeByName: { Time: true, __name__: true } + { [h]: true for h in hide }, indexByName: order, renameByName: rename } },
    ],
  },

  // column overrides one column of a table.
  column(name, properties):: { matcher: { id: 'byName', options: name }, properties: [{ id: k, value: properties[k] } for k in std.objectFields(properties)] },

  text(title, markdown):: {
    type: 'text',
    title: title,
    description: title,
    fieldConfig: { defaults: {}, overrides: [] },
    options: { mode: 'markdown', content: markdown, code: { language: 'plaintext', showLineNumbers: false, showMiniMap: false } },
  },

  row(title, collapsed=false):: { type: 'row', title: title, collapsed: collapsed, panels: [] },

  finish:: finish,
}
