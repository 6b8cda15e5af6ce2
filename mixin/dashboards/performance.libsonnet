// Where the time and the resources go: first whether anything is short, then the engine, then the machine.
local p = import '../lib/panels.libsonnet';
local shared = import 'shared.libsonnet';

{
  local t = $._config.thresholds,
  local c = shared($._config),
  local d = c.d,
  local q = d.q,
  local s = d.s,

  local duration = 'niodoo_consciousness_processing_duration_seconds',
  local device = ['instance', 'device'],

  grafanaDashboards+:: {
    'performance.json': d.dashboard('performance', 'Performance', 'CPU, memory, disk, network and GPU, and what the engine makes of them.', [
      p.row('Is anything short?'),
      c.line(6, [
        p.gauge('CPU', 'The busiest of the selected instances.', [s.all('max', s.raw(q.m('instance:niodoo_host_cpu_usage:ratio_rate5m'), 'percentunit', metrics=['niodoo_host_cpu_seconds_total']), 'CPU')], t.cpu_usage_ratio) + p.decimals(0),
        p.gauge('Memory', 'The fullest of the selected instances.', [s.all('max', s.raw(q.m('instance:niodoo_host_memory_usage:ratio'), 'percentunit', metrics=['niodoo_host_memory_available_bytes']), 'memory')], t.memory_usage_ratio) + p.decimals(0),
        p.gauge('Disk', 'The fullest file system of the selected instances.', [s.all('max', s.raw(q.m('instance_path:niodoo_host_filesystem_usage:ratio'), 'percentunit', metrics=['niodoo_host_filesystem_avail_bytes']), 'disk')], t.disk_usage_ratio) + p.decimals(0),
        p.stat('Waiting for memory', 'Share of the time in which some task waited for memory, the worst of the selected instances.', [s.all('max', s.rate('niodoo_host_pressure_waiting_seconds_total', 'resource="memory"'), 'waiting')], threshold=t.memory_pressure_ratio) + p.past,
        p.stat('Killed for memory', "Processes that the kernel killed for want of memory in the dashboard's range.", [s.all('sum', s.increase('niodoo_host_oom_kills_total'), 'killed')]) + p.judged(p.anyIs(p.colours.bad)) + p.decimals(0),
        p.stat('Load per CPU', 'Tasks that run or wait for each CPU, the worst of the selected instances.', [
          s.all('max', s.raw('%s / %s' % [q.m('niodoo_host_load1'), q.m('niodoo_host_cpus')], 'short', metrics=['niodoo_host_load1', 'niodoo_host_cpus']), 'load'),
        ]) + p.past + p.decimals(2),
      ]),

      p.row('Engine'),
      c.line(8, [
        p.timeseries('Events processed', 'Events per second of each instance.', [c.events]),
        p.timeseries('Processing time', "Of an event, over all selected instances. From the engine's own histogram; without one only the mean per instance is known.", [
          s.quantile(0.5, duration),
          s.quantile(0.95, duration),
          s.quantile(0.99, duration),
          s.all('avg', s.raw(q.m('instance:niodoo_consciousness_processing_seconds:mean5m'), 's', metrics=['niodoo_consciousness_processing_time_seconds']), 'mean'),
        ]) + p.drawn(t.processing_time_seconds),
        p.heatmap('Distribution of processing times', 'How many events per second took how long, over all selected instances.', [s.over('sum', ['le'], s.rate(duration + '_bucket')) { unit: 's' }]),
      ]),
      c.line(7, [
        p.timeseries('Requests', 'Requests to the engine per second, and those that fail.', [
          s.all('sum', s.rate('niodoo_engine_requests_total'), 'requests'),
          s.all('sum', s.rate('niodoo_engine_errors_total'), 'errors'),
        ], 'reqps') + p.coloured({ requests: p.colours.neutral, errors: p.colours.bad }),
        c.errorRatio,
        c.emotionalTime,
        c.retrievalTime,
      ]),
      c.line(7, [
        p.timeseries('Thread pool', "Share of the engine's threads that work.", [s.value('niodoo_engine_thread_pool_utilization_ratio')]) + p.ratio,
        p.timeseries('Cache hit ratio', "Share of look-ups that the engine's cache answers.", [s.value('niodoo_engine_cache_hit_ratio')]) + p.drawn(t.cache_hit_ratio) + p.ratio,
        p.timeseries("Engine's own usage", 'CPU and GPU as the engine reports them, the highest of the selected instances.', [
          s.all('max', s.value('niodoo_engine_cpu_usage_ratio'), 'CPU'),
          s.all('max', s.value('niodoo_engine_gpu_usage_ratio'), 'GPU'),
        ]) + p.ratio,
        p.timeseries("Engine's memory", 'Memory the engine says it uses.', [s.value('niodoo_engine_memory_usage_bytes')]),
      ]),
      c.line(7, [
        p.timeseries('Response time of the brains', 'The slowest of the selected instances.', [s.over('max', ['brain'], s.value('niodoo_engine_brain_response_time_seconds'))]),
        p.timeseries('CPU usage of the brains', 'The highest of the selected instances.', [s.over('max', ['brain'], s.value('niodoo_engine_brain_cpu_usage_ratio'))]),
        p.timeseries('Memory usage of the brains', 'The highest of the selected instances.', [s.over('max', ['brain'], s.value('niodoo_engine_brain_memory_usage_ratio'))]),
        p.timeseries('Uptime of the engine', 'A fall to 0 is a restart.', [s.value('niodoo_engine_uptime_seconds')]),
      ]),
      c.line(7, [
        c.response('Response of the databases', 'Time of a health request on a warm connection, the slowest of the selected instances.', ['postgresql', 'redis', 'qdrant'], t.database_response_seconds),
        c.response('Response of the models', 'Time of a health request; answers themselves take longer.', ['ollama', 'vllm']),
        p.timeseries('Values of the engine that were refused', 'Values that the engine reported and that cannot be right: they are not exported.', [s.over('sum', ['reason'], s.rate('niodoo_engine_fields_rejected_total'))]),
      ]),

      p.row('CPU and memory'),
      c.line(8, [
        p.timeseries('CPU by mode', 'CPUs busy with what, over all selected instances; idle is left out.', [s.over('sum', ['mode'], s.rate('niodoo_host_cpu_seconds_total', 'mode!="idle"')) { unit: 'short' }]) + p.stacked,
        c.cpu,
        p.timeseries('Load', 'Tasks that run or wait, over all selected instances, against the number of CPUs.', [
          s.all('sum', s.value('niodoo_host_load1'), '1 minute'),
          s.all('sum', s.value('niodoo_host_load5'), '5 minutes'),
          s.all('sum', s.value('niodoo_host_load15'), '15 minutes'),
          s.all('sum', s.value('niodoo_host_cpus'), 'CPUs'),
        ]) + p.dashed('CPUs'),
      ]),
      c.line(8, [
        c.memory,
        p.timeseries('Memory used and available', 'Used and available, over all selected instances.', [
          s.raw('sum(%s - %s)' % [q.m('niodoo_host_memory_total_bytes'), q.m('niodoo_host_memory_available_bytes')], 'bytes', 'used', ['niodoo_host_memory_total_bytes']),
          s.all('sum', s.value('niodoo_host_memory_available_bytes'), 'available'),
        ]) + p.stacked,
        p.timeseries('Swap in use', 'A little is normal; growth while memory is short is not.', [
          s.raw('%s - %s' % [q.m('niodoo_host_swap_total_bytes'), q.m('niodoo_host_swap_free_bytes')], 'bytes', metrics=['niodoo_host_swap_total_bytes', 'niodoo_host_swap_free_bytes']),
        ]),
      ]),
      c.line(8, [
        p.timeseries('Waiting for CPU, memory and disk', 'Share of the time in which some task waited, the worst of the selected instances.', [s.over('max', ['resource'], s.rate('niodoo_host_pressure_waiting_seconds_total'))]),
        p.timeseries('Everything waiting', 'Share of the time in which no task got on, the worst of the selected instances.', [s.over('max', ['resource'], s.rate('niodoo_host_pressure_stalled_seconds_total'))]),
        p.timeseries('Processes', 'That run or wait for a CPU, and that wait for the disk, over all selected instances.', [s.over('sum', ['state'], s.value('niodoo_host_processes'))]),
        p.timeseries('Open files', 'Share of the file handles the kernel allows.', [s.ratio(s.value('niodoo_host_file_handles'), s.value('niodoo_host_file_handles_max'))]),
      ]),

      p.row('Disks'),
      c.line(8, [
        p.timeseries('Disk I/O', 'Bytes read and, below the axis, written.', [
          s.over('sum', device, s.rate('niodoo_host_disk_read_bytes_total'), '{{instance}} {{device}} read'),
          s.over('sum', device, s.rate('niodoo_host_disk_written_bytes_total'), '{{instance}} {{device}} written') { expr: '-' + super.expr },
        ]) + { fieldConfig+: { defaults+: { custom+: { axisCenteredZero: true } } } },
        p.timeseries('Disks busy', 'Share of the time in which the disk had something to do.', [s.over('max', device, s.rate('niodoo_host_disk_busy_seconds_total'))]) + p.ratio,
        c.disk,
      ]),
      c.line(8, [
        p.timeseries('Time until the disk is full', 'If the last six hours go on; nothing where it does not fill up.', [
          s.over('min', ['instance', 'path'], s.raw(
            '%(avail)s / (-deriv(%(range)s) > 0)' % { avail: q.m('niodoo_host_filesystem_avail_bytes'), range: q.range('niodoo_host_filesystem_avail_bytes', w='6h') },
            's',
            metrics=['niodoo_host_filesystem_avail_bytes'],
          )),
        ]) + p.drawn(t.disk_full_seconds) + p.logarithmic + p.none('No disk fills up'),
        p.timeseries('Inodes', "Share of the file systems' inodes that is used; the fullest of the selected instances.", [
          s.over('max', ['path'], s.raw('1 - %s / %s' % [q.m('niodoo_host_filesystem_files_free'), q.m('niodoo_host_filesystem_files')], 'percentunit', metrics=['niodoo_host_filesystem_files_free', 'niodoo_host_filesystem_files'])),
        ]) + p.ratio + p.drawn(t.inode_usage_ratio),
        p.table('File systems', 'Read-only, unreadable and hanging file systems.', [
          { label: 'instance', title: 'Instance' },
          { label: 'path', title: 'Path' },
          { series: s.over('max', q.byList + ['path'], s.value('niodoo_host_filesystem_avail_bytes')), title: 'Available', unit: 'bytes' },
          { series: s.over('max', q.byList + ['path'], s.value('niodoo_host_filesystem_readonly')), title: 'Read-only', words: { '0': ['no', p.colours.good], '1': ['yes', p.colours.bad] } },
          { series: s.over('max', q.byList + ['path'], s.value('niodoo_host_filesystem_error')), title: 'Error', words: { '0': ['no', p.colours.good], '1': ['yes', p.colours.bad] } },
          { series: s.over('max', q.byList + ['path'], s.value('niodoo_host_filesystem_stuck')), title: 'Hangs', words: { '0': ['no', p.colours.good], '1': ['yes', p.colours.bad] } },
        ]),
      ]),

      p.row('Network'),
      c.line(8, [
        p.timeseries('Network throughput', 'Bytes received and, below the axis, sent.', [
          s.over('sum', device, s.rate('niodoo_host_network_receive_bytes_total'), '{{instance}} {{device}} received'),
          s.over('sum', device, s.rate('niodoo_host_network_transmit_bytes_total'), '{{instance}} {{device}} sent') { expr: '-' + super.expr },
        ]) + { fieldConfig+: { defaults+: { custom+: { axisCenteredZero: true } } } },
        p.timeseries('Packets', 'Packets received and, below the axis, sent, over all devices.', [
          s.over('sum', ['instance'], s.rate('niodoo_host_network_receive_packets_total'), '{{instance}} received'),
          s.over('sum', ['instance'], s.rate('niodoo_host_network_transmit_packets_total'), '{{instance}} sent') { expr: '-' + super.expr },
        ], 'pps') + { fieldConfig+: { defaults+: { custom+: { axisCenteredZero: true } } } },
        p.timeseries('Packets lost', 'Errors and drops, over all devices and selected instances.', [
          s.all('sum', s.rate('niodoo_host_network_receive_errors_total'), 'receive errors'),
          s.all('sum', s.rate('niodoo_host_network_transmit_errors_total'), 'send errors'),
          s.all('sum', s.rate('niodoo_host_network_receive_drops_total'), 'receive drops'),
          s.all('sum', s.rate('niodoo_host_network_transmit_drops_total'), 'send drops'),
        ], 'pps'),
      ]),

      p.row('GPU', true),
      c.line(7, [
        p.timeseries('GPU utilization', 'Share of the time in which the processor worked.', [s.value('niodoo_gpu_utilization_ratio', legend='{{instance}} {{gpu}}')]) + p.ratio,
        p.timeseries('GPU memory', 'Share of the memory in use.', [s.ratio(s.value('niodoo_gpu_memory_used_bytes'), s.value('niodoo_gpu_memory_total_bytes'), '{{instance}} {{gpu}}')]) + p.ratio + p.drawn(t.gpu_memory_ratio),
        p.timeseries('GPU temperature', 'Cards slow down when they get too hot.', [s.value('niodoo_gpu_temperature_celsius', legend='{{instance}} {{gpu}}')]) + p.drawn(t.gpu_temperature_celsius),
        p.timeseries('GPU power', 'Against the limit of the card.', [
          s.value('niodoo_gpu_power_watts', legend='{{instance}} {{gpu}}'),
          s.value('niodoo_gpu_power_limit_watts', legend='{{instance}} {{gpu}} limit'),
        ]),
      ]),
      c.line(7, [
        p.states('GPU slowed down', 'For which reason the processor is slowed down.', [s.over('max', ['gpu', 'reason'], s.value('niodoo_gpu_throttled'))], { '0': ['no', p.colours.good], '1': ['slowed down', p.colours.warning] }),
        p.timeseries('GPU memory bandwidth and fans', "Share of the time in which memory was read or written, and of the fans' full speed.", [
          s.value('niodoo_gpu_memory_utilization_ratio', legend='{{instance}} {{gpu}} memory'),
          s.value('niodoo_gpu_fan_ratio', legend='{{instance}} {{gpu}} fan'),
        ]) + p.ratio,
        p.timeseries('GPU clocks', 'A clock that falls while there is work is a card that slows down.', [
          s.value('niodoo_gpu_graphics_clock_hertz', legend='{{instance}} {{gpu}} graphics'),
          s.value('niodoo_gpu_memory_clock_hertz', legend='{{instance}} {{gpu}} memory'),
        ]),
        p.timeseries('GPU memory errors', 'Errors that could not be corrected.', [s.rate('niodoo_gpu_ecc_uncorrected_errors_total', legend='{{instance}} {{gpu}}')]),
      ]),
      c.line(7, [
        p.table('GPUs', 'Cards, drivers and how they are plugged in.', [
          { label: 'instance', title: 'Instance' },
          { label: 'gpu', title: 'GPU' },
          { label: 'name', title: 'Name' },
          { label: 'vendor', title: 'Vendor' },
          { label: 'driver', title: 'Driver' },
          { series: s.value('niodoo_gpu_info'), title: 'Present', words: { '1': ['yes', p.colours.good] } },
        ]) + c.width(10),
        p.timeseries('PCIe width', 'Lanes in use against those that the card and slot have.', [
          s.value('niodoo_gpu_pcie_link_width', legend='{{instance}} {{gpu}}'),
          s.value('niodoo_gpu_pcie_link_max_width', legend='{{instance}} {{gpu}} most'),
        ]),
        p.timeseries('GPUs found', 'Cards that answer, and cards that were lost.', [
          s.over('sum', ['vendor'], s.value('niodoo_gpu_devices')),
          s.all('sum', s.value('niodoo_gpu_lost'), 'lost'),
        ]) + p.coloured({ lost: p.colours.bad }),
        p.stat('Age of the GPU sample', 'nvidia-smi is asked in the background; an old sample means that it hangs.', [s.all('max', s.value('niodoo_gpu_sample_age_seconds'), 'age')]),
      ]),
    ]),
  },
}
