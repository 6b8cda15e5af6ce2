// What is not there. One group, for Prometheus evaluates a group at one moment: what falls together is told together, in one
// notification that begins with what the others depend on.
local alerts = import '../lib/alert.libsonnet';
local query = import '../lib/query.libsonnet';

{
  local c = $._config,
  local a = alerts.new(c),
  local q = query.new(c, c.selector, c.rateWindow),

  local down(components) = '%s == 0\n' % q.m('niodoo_component_up', 'component' + components),
  local required = 'and on (%s, component)\n%s == 1\n' % [q.by, q.m('niodoo_component_required')],

  // PostgreSQL has an alert of its own.
  local needed = [d for d in c.dependencies.engine if d != 'postgresql'],

  prometheusAlerts+:: {
    groups+: [
      a.group('niodoo-down', [
        a.alert(
          'PostgreSQLDown',
          down('="postgresql"') + required,
          'P1',
          'postgresql',
          'PostgreSQL is down.',
          'PostgreSQL has not answered for a minute; the engine cannot store anything.' + a.reason('`postgresql`'),
          'services',
          '1m',
        ),
        // Beside an engine that is down, what it needs is the likely cause, and as urgent. ServiceDown is no news then.
        if needed == [] then null else a.alert(
          'EngineDependencyDown',
          down('=~"%s"' % std.join('|', needed)) + required + 'and on (%s)\n%s' % [q.by, down('="engine"')],
          'P1',
          '{{ $labels.component }}',
          'The engine and a service that it needs are down.',
          '{{ $labels.component }}, which the engine needs, has not passed its health check for a minute, nor has the engine.' + a.reason('$labels.component'),
          'services',
          '1m',
        ),
        a.alert(
          'ConsciousnessEngineDown',
          q.m('niodoo_component_up', 'component="engine"') + ' == 0',
          'P1',
          'engine',
          'The consciousness engine is down.',
          'The engine has not passed its health check for a minute.' + a.reason('`engine`'),
          duration='1m',
        ),
        a.alert(
          'ServiceDown',
          down('!~"engine|postgresql"') + required,
          'P2',
          '{{ $labels.component }}',
          'A required service is down.',
          '{{ $labels.component }} has not passed its health check for two minutes.' + a.reason('$labels.component'),
          'services',
          '2m',
        ),
      ]),
    ],
  },
}
