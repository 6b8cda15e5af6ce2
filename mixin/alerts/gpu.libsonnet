// Graphics processors. That none can be read at all is NiodooCollectorFailing.
local alerts = import '../lib/alert.libsonnet';
local query = import '../lib/query.libsonnet';

{
  local c = $._config,
  local t = c.thresholds,
  local a = alerts.new(c),
  local q = query.new(c, c.selector, c.rateWindow),

  // At its power limit a processor works as it was told to; these are what it should never need.
  local distress = 'reason=~"hardware|thermal|hardware_thermal|power_brake"',

  prometheusAlerts+:: {
    groups+: [
      a.group('niodoo-gpu', [
        a.alert(
          'GPUTemperatureHigh',
          '%s > %s' % [q.m('niodoo_gpu_temperature_celsius'), q.number(t.gpu_temperature_celsius.warning)],
          'P3',
          'gpu',
          'A GPU is too hot.',
          'GPU {{ $labels.gpu }} is at {{ $value | printf "%%.0f" }} °C; the limit is %g °C, the target %g °C.' %
          [t.gpu_temperature_celsius.warning, t.gpu_temperature_celsius.target],
          'performance',
          t.gpu_temperature_celsius['for'],
          { keep_firing_for: '5m' },
        ),
        a.alert(
          'GPUThrottled',
          'max without (reason) (%s) == 1' % q.m('niodoo_gpu_throttled', distress),
          'P3',
          'gpu',
          'A GPU slows itself down.',
          'GPU {{ $labels.gpu }} has been slowed down for 10 minutes.' + a.ask(
            'niodoo_gpu_throttled', ['gpu'], distress, ' Reason: {{ (first .).Labels.reason }}.', '== 1'
          ),
          'performance',
          '10m',
          { keep_firing_for: '5m' },
        ),
        a.alert(
          'GPULost',
          |||
            sum by (%(by)s) (max_over_time(%(devices)s[1h]) - %(devices)s) > 0
            or
            sum by (%(by)s) (%(lost)s) > 0
          ||| % { by: q.by, devices: q.m('niodoo_gpu_devices'), lost: q.m('niodoo_gpu_lost') },
          'P2',
          'gpu',
          'A GPU no longer answers.',
          'Of the GPUs that worked before, {{ $value | printf "%.0f" }} no longer answer.',
          'performance',
          '5m',
        ),
        a.alert(
          'GPUMemoryNearlyFull',
          '%s / %s > %s' % [q.m('niodoo_gpu_memory_used_bytes'), q.m('niodoo_gpu_memory_total_bytes'), q.number(t.gpu_memory_ratio.warning)],
          'P4',
          'gpu',
          'The memory of a GPU is nearly full.',
          '{{ $value | humanizePercentage }} of the memory of GPU {{ $labels.gpu }} is used; the limit is %g %%.' % (t.gpu_memory_ratio.warning * 100),
          'performance',
          t.gpu_memory_ratio['for'],
          { keep_firing_for: '10m' },
        ),
        a.alert(
          'GPUMemoryErrors',
          '%s > 0' % q.increase('niodoo_gpu_ecc_uncorrected_errors_total', w='1h'),
          'P3',
          'gpu',
          'The memory of a GPU is damaged.',
          'GPU {{ $labels.gpu }} had memory errors in the last hour that could not be corrected: {{ $value | printf "%.0f" }}; there should be none.',
          'performance',
        ),
      ]),
    ],
  },
}
