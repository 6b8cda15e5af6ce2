// The services that the engine needs: ready, and reachable by those who know the password. down.libsonnet says whether they are there.
local alerts = import '../lib/alert.libsonnet';
local query = import '../lib/query.libsonnet';

{
  local c = $._config,
  local t = c.thresholds,
  local a = alerts.new(c),
  local q = query.new(c, c.selector, c.rateWindow),

  local required = 'and on (%s, component)\n%s == 1\n' % [q.by, q.m('niodoo_component_required')],

  // The exporter's own certificate counts with those of the endpoints.
  local certificateLeft =
    |||
      (
        %s
        or
        label_replace(%s, "component", "exporter", "", "")
      ) - time()
    ||| % [q.m('niodoo_component_tls_not_after_timestamp_seconds'), q.m('niodoo_exporter_tls_not_after_timestamp_seconds')],
  local certificateSays =
    'The certificate of {{ $labels.component }} {{ if gt $value 0.0 }}expires in {{ $value | humanizeDuration }}{{ else }}has expired{{ end }}; it should have been renewed %d days before.',

  prometheusAlerts+:: {
    groups+: [
      a.group('niodoo-services', [
        a.alert(
          'DatabaseConnectionFailed',
          |||
            sum without (reason) (%s) > 0
            and
            %s == 0
          ||| % [
            q.increase('niodoo_postgresql_connection_failures_total', 'reason!~"auth|config|permission"', '5m'),
            q.m('niodoo_postgresql_login_success'),
          ],
          'P1',
          'postgresql',
          'PostgreSQL takes no new connections.',
          'New logins have failed for a minute; sessions that are open may still work.' + a.reason('`postgresql`'),
          'services',
          '1m',
        ),
        a.alert(
          'ComponentNotReady',
          '%s == 0\nand on (%s, component)\n%s == 1\n%s' % [q.m('niodoo_component_ready'), q.by, q.m('niodoo_component_up'), required],
          'P3',
          '{{ $labels.component }}',
          'A service is up but not ready for work.',
          '{{ $labels.component }} has said for 15 minutes that it is not ready; starting and replaying logs take less.',
          'services',
          '15m',
        ),
        a.alert(
          'CertificateExpiring',
          '%s< %s' % [certificateLeft, q.number(t.certificate_seconds.warning)],
          'P3',
          '{{ $labels.component }}',
          'A certificate was not renewed in time.',
          certificateSays % (t.certificate_seconds.warning / 86400),
          'services',
          t.certificate_seconds['for'],
        ),
        a.alert(
          'CertificateAboutToExpire',
          '%s< %s' % [certificateLeft, q.number(t.certificate_seconds.critical)],
          'P2',
          '{{ $labels.component }}',
          'A certificate expires within days.',
          certificateSays % (t.certificate_seconds.critical / 86400),
          'services',
          t.certificate_seconds['for'],
        ),
      ]),
    ],
  },
}
