// Containers, of the stack and beside it. That the daemon does not answer is ServiceDown.
local alerts = import '../lib/alert.libsonnet';
local query = import '../lib/query.libsonnet';

{
  local c = $._config,
  local t = c.thresholds,
  local a = alerts.new(c),
  local q = query.new(c, c.selector, c.rateWindow),

  local killed = q.m('niodoo_docker_container_oom_killed'),
  local limit = q.m('niodoo_docker_container_memory_limit_bytes'),

  prometheusAlerts+:: {
    groups+: [
      a.group('niodoo-containers', [
        a.alert(
          'ContainerRestarting',
          '%s > %s' % [q.increase('niodoo_docker_container_restarts_total', w='15m'), q.number(t.container_restarts.warning)],
          'P2',
          'docker',
          'A container restarts again and again.',
          '{{ $labels.container }} was restarted {{ $value | printf "%%.0f" }} times in the last 15 minutes; the limit is %g.' % t.container_restarts.warning,
          'services',
          t.container_restarts['for'],
          { keep_firing_for: '10m' },
        ),
        a.alert(
          'ContainerOutOfMemory',
          // The flag stays with a container that is not started again: what is older than an hour is no news.
          '%s == 1\nand\nmin_over_time(%s[1h]) == 0\n' % [killed, killed],
          'P3',
          'docker',
          'A container was killed for want of memory.',
          'The kernel killed {{ $labels.container }}, or a process in it, in the last hour.' + a.ask(
            'niodoo_docker_container_memory_limit_bytes', ['container'], '', ' Its limit is {{ first . | value | humanize1024 }}B.'
          ),
          'services',
        ),
        a.alert(
          'ContainerUnhealthy',
          // While a container starts it is not healthy yet, and its failures do not count.
          |||
            %s > 0
            and
            %s == 0
            and
            %s == 1
          ||| % [
            q.m('niodoo_docker_container_health_consecutive_failures'),
            q.m('niodoo_docker_container_healthy'),
            q.m('niodoo_docker_container_running'),
          ],
          'P3',
          'docker',
          'The health check of a container fails.',
          'The own health check of {{ $labels.container }} has failed {{ $value | printf "%.0f" }} times in a row; 0 is well.',
          'services',
          '5m',
        ),
        a.alert(
          'ContainerMemoryNearLimit',
          // Without a limit of its own a container has the machine's.
          |||
            %(usage)s / %(limit)s > %(ratio)s
            and on (%(by)s, container)
            (%(limit)s < on (%(by)s) group_left () %(machine)s)
          ||| % {
            usage: q.m('niodoo_docker_container_memory_usage_bytes'),
            limit: limit,
            machine: q.m('niodoo_host_memory_total_bytes'),
            ratio: q.number(t.container_memory_ratio.warning),
            by: q.by,
          },
          'P4',
          'docker',
          'A container has nearly used up its memory.',
          '{{ $labels.container }} uses {{ $value | humanizePercentage }} of the memory that it may; the limit is %g %%.' % (t.container_memory_ratio.warning * 100),
          'services',
          t.container_memory_ratio['for'],
          { keep_firing_for: '10m' },
        ),
      ]),
    ],
  },
}
