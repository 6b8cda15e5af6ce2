// One alert: severity, links and overrides come from here.
local metrics = import 'metrics.libsonnet';

local severity = { P1: 'critical', P2: 'warning', P3: 'warning', P4: 'info', none: 'none' };

{
  // new returns a maker of alerts for a configuration.
  new(config):: {
    // alert makes a rule.
    //   component  one of the exporter's components or collectors: where to look first
    //   summary    one constant sentence that a person understands half asleep
    //   description  with the value and the target
    //   dashboard  uid of the dashboard that shows it
    //   more       more fields of the rule, such as keep_firing_for, or labels+
    alert(name, expr, priority, component, summary, description, dashboard='consciousness-overview', duration='0m', more={})::
      local over = std.get(config.alerts, name, {});
      local p = std.get(over, 'priority', priority);
      assert std.objectHas(severity, p) : name + ': priority ' + p + ' is unknown';
      if !std.get(over, 'enabled', true) then null else {
        alert: name,
        expr: expr,
        // The rule format leaves out a for of 0.
        [if std.get(over, 'for', duration) != '0m' then 'for']: std.get(over, 'for', duration),
        labels: {
          severity: severity[p],
          [if p != 'none' then 'priority']: p,
          component: component,
        },
        annotations: {
          summary: summary,
          description: description,
          runbook_url: '%s/%s.md' % [config.runbookURL, name],
          dashboard_url: '%s/d/%s?var-cluster={{ $labels.%s }}&var-instance={{ $labels.instance }}' % [config.grafanaURL, dashboard, config.clusterLabel],
        },
      } + more,

    // reason is text for a description: why the collector fails, if it does. It is no label: an alert whose reason
    // changes is the same alert. collector is a template expression, such as $labels.component or `engine`.
    reason(collector)::
      '{{ with printf `niodoo_scrape_collector_failure_info{collector="%%s",%s}` %s %s | query }} Reason: {{ (first .).Labels.reason }}.{{ end }}' % [
        std.join(',', ['%s="%%s"' % l for l in config.instanceLabels]),
        collector,
        std.join(' ', ['$labels.' + l for l in config.instanceLabels]),
      ],

    // ask is text for a description from another metric of the same place: says, if there is such a series. labels are those
    // of the alert that the series must share, extra more of its selector, condition what its value must be.
    ask(metric, labels, extra, says, condition='')::
      local all = config.instanceLabels + labels;
      '{{ with printf `%s{%s%s}%s` %s | query }}%s{{ end }}' % [
        metrics.name(metric),
        std.join(',', ['%s="%%s"' % l for l in all]),
        if extra == '' then '' else ',' + extra,
        if condition == '' then '' else ' ' + condition,
        std.join(' ', ['$labels.' + l for l in all]),
        says,
      ],

    // group makes a rule group of the alerts that are not switched off.
    group(name, alerts):: { name: name, rules: std.prune([a for a in alerts if a != null]) },
  },
}
