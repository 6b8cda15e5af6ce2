// A dashboard: variables, links, annotations, layout.
local layout = import 'layout.libsonnet';
local panels = import 'panels.libsonnet';
local query = import 'query.libsonnet';
local series = import 'series.libsonnet';

{
  // new returns what a dashboard of a configuration is made of:
  //   q          expressions with the variables' selectors
  //   s          series over them
  //   alerts, alertAges  select our alerts
  //   link, drill  lead from a table's cell to a dashboard
  //   dashboard  the dashboard itself
  new(config):: {
    local selector = 'job=~"$job",%s=~"$cluster",instance=~"$instance"' % config.clusterLabel,

    local d = self,

    q:: query.new(config, selector, '$__rate_interval'),
    s:: series.new(d.q),

    // An alert about something that is absent has neither job nor instance: those are shown whatever is selected.
    local alertSelector = 'job=~"$job|",%s=~"$cluster|",instance=~"$instance|"' % config.clusterLabel,
    alerts(which='priority=~"P[1-4]"'):: 'ALERTS{alertstate="firing",%s,%s}' % [which, alertSelector],
    // alertAges is how long each has been active, without the label alertstate.
    alertAges(which='priority=~"P[1-4]"'):: '%s * ignoring (alertstate) (time() - ALERTS_FOR_STATE{%s,%s})' % [d.alerts(which), which, alertSelector],

    // link leads to a dashboard with the range and the data source of this one.
    link(uid, title, variables=['${cluster:queryparam}', '${job:queryparam}', '${instance:queryparam}']):: {
      title: title,
      url: '%s/d/%s?%s' % [config.dashboardPrefix, uid, std.join('&', ['${datasource:queryparam}', '${__url_time_range}'] + variables)],
      targetBlank: false,
    },

    // drill leads from a table's row to a dashboard of its instance.
    drill(uid, title):: d.link(uid, title, ['${cluster:queryparam}', 'var-job=${__data.fields.Job}', 'var-instance=${__data.fields.Instance}']),

    local label(name, text, chained, allValue) = {
      local values = 'label_values(niodoo_component_up%s, %s)' % [if chained == '' then '' else '{' + chained + '}', name],
      type: 'query',
      name: if name == config.clusterLabel then 'cluster' else name,
      label: text,
      datasource: panels.datasource,
      definition: values,
      query: { query: values, refId: 'StandardVariableQuery' },
      refresh: 2,
      sort: 1,
      multi: true,
      includeAll: true,
      allValue: allValue,
      regex: '',
      hide: 0,
      options: [],
      current: { selected: false, text: 'All', value: '$__all' },
    },

    dashboard(uid, title, description, list):: {
      uid: uid,
      title: title,
      description: description,
      tags: config.dashboardTags,
      timezone: config.dashboardTimezone,
      editable: false,
      graphTooltip: 1,
      schemaVersion: 42,
      version: 1,
      refresh: config.dashboardRefresh,
      fiscalYearStartMonth: 0,
      liveNow: false,
      weekStart: '',
      time: { from: 'now-6h', to: 'now' },
      timepicker: {},
      annotations: { list: [
        { builtIn: 1, datasource: { type: 'grafana', uid: '-- Grafana --' }, enable: true, hide: true, iconColor: 'rgba(0, 211, 255, 1)', name: 'Annotations & Alerts', type: 'dashboard' },
        {
          datasource: panels.datasource,
          enable: true,
          hide: false,
          iconColor: panels.colours.bad,
          name: 'Pages',
          expr: 'max by (alertname, instance) (%s)' % d.alerts('priority=~"P1|P2"'),
          titleFormat: '{{ alertname }}',
          textFormat: '{{ instance }}',
          step: '60s',
        },
        {
          datasource: panels.datasource,
          enable: true,
          hide: false,
          iconColor: panels.colours.neutral,
          name: 'Engine restarts',
          expr: 'resets(%s[$__rate_interval]) > 0' % d.q.m('niodoo_engine_uptime_seconds'),
          titleFormat: 'Engine restarted',
          textFormat: '{{ instance }}',
          step: '60s',
        },
      ] },
      templating: { list: [
        { type: 'datasource', name: 'datasource', label: 'Data source', query: 'prometheus', regex: '', hide: 0, refresh: 1, multi: false, includeAll: false, current: { text: 'default', value: 'default', selected: false }, options: [] },
        label(config.clusterLabel, 'Cluster', '', '.*'),
        label('job', 'Job', '%s=~"$cluster"' % config.clusterLabel, '.+'),
        label('instance', 'Instance', '%s=~"$cluster",job=~"$job"' % config.clusterLabel, '.+'),
      ] },
      links: [{ type: 'dashboards', title: 'Niodoo', tags: config.dashboardTags, asDropdown: false, includeVars: true, keepTime: true, targetBlank: false, icon: 'external link', tooltip: '', url: '' }],
      panels: layout.flow(std.flattenArrays([if std.isArray(x) then x else [x] for x in list])),
    },
  },
}
