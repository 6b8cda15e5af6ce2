// The exporter's metrics. A name that it does not export is an error here and
// not an empty panel there.
local catalogue = import '../metrics.json';

// Series that are not the exporter's own: Prometheus' about its targets, the
// process's, and what the rules record.
local foreign = [
  'up',
  'ALERTS',
  'ALERTS_FOR_STATE',
  'scrape_duration_seconds',
  'scrape_samples_scraped',
  'process_start_time_seconds',
  'process_resident_memory_bytes',
  'process_cpu_seconds_total',
  'process_open_fds',
  'process_max_fds',
  'go_goroutines',
  'probe_success',
  'probe_duration_seconds',
];

local histogramSuffixes = ['_bucket', '_sum', '_count'];

// base returns the family's name of a histogram's series.
local base(name) =
  local cut = [
    std.substr(name, 0, std.length(name) - std.length(s))
    for s in histogramSuffixes
    if std.endsWith(name, s)
       && std.objectHas(catalogue, std.substr(name, 0, std.length(name) - std.length(s)))
       && catalogue[std.substr(name, 0, std.length(name) - std.length(s))].type == 'histogram'
  ];
  if std.length(cut) > 0 then cut[0] else name;

{
  catalogue:: catalogue,
  foreign:: foreign,

  // name returns the name of a metric that there is.
  name(name)::
    if std.objectHas(catalogue, base(name)) || std.member(foreign, name) || std.length(std.findSubstr(':', name)) > 0
    then name
    else error 'the exporter has no metric ' + name + '; see collector/README.md',

  // help returns what the metric is and where it comes from.
  help(name):: catalogue[base($.name(name))].help,

  // unit returns the Grafana unit of a metric, from the base unit in its name.
  unit(name)::
    local units = {
      seconds: if std.length(std.findSubstr('timestamp', name)) > 0 then 'dateTimeFromNow' else 's',
      bytes: 'bytes',
      ratio: 'percentunit',
      celsius: 'celsius',
      watts: 'watt',
      hertz: 'hertz',
    };
    std.get(units, catalogue[base($.name(name))].unit, 'short'),
}
