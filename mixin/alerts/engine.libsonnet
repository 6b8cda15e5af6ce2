// The consciousness engine: fast, without errors, and telling the truth. down.libsonnet says whether it is there.
local alerts = import '../lib/alert.libsonnet';
local query = import '../lib/query.libsonnet';

{
  local c = $._config,
  local t = c.thresholds,
  local a = alerts.new(c),
  local q = query.new(c, c.selector, c.rateWindow),

  local up = q.m('niodoo_component_up', 'component="engine"'),

  // What an engine says of its work while it has none to do, or of the time before, is no news.
  local idle = 'instance:niodoo_consciousness_events:rate5m == 0',

  // The engine's KPIs that are never exactly the same twice in an engine that works. Ratios that rest at 0 or 1 are not among them.
  local restless = std.join('|', [
    'consciousness_attention_focus_ratio',
    'consciousness_emotional_processing_time_seconds',
    'consciousness_gaussian_novelty_level',
    'consciousness_level_ratio',
    'consciousness_memory_coherence_ratio',
    'consciousness_memory_retrieval_time_seconds',
    'consciousness_processing_time_seconds',
    'consciousness_toroidal_coherence_score',
    'engine_cpu_usage_ratio',
    'engine_memory_usage_bytes',
    'engine_response_time_seconds',
    'memory_coherence_ratio',
    'memory_entries',
    'memory_stability_ratio',
    'memory_toroidal_coherence_score',
  ]),

  prometheusAlerts+:: {
    groups+: [
      a.group('niodoo-engine', [
        a.alert(
          'HighProcessingLatency',
          '(\n%s) > %s' % [$.processingSeconds, q.number(t.processing_time_seconds.warning)],
          'P2',
          'engine',
          'The engine takes long to process events.',
          'Processing takes {{ $value | humanizeDuration }} on average; the target is %s s.' % q.number(t.processing_time_seconds.target),
          'performance',
          t.processing_time_seconds['for'],
        ),
        a.alert(
          'EngineDegraded',
          q.m('niodoo_engine_component_healthy') + ' == 0',
          'P2',
          'engine',
          'A part of the engine is not healthy.',
          'The engine says that its part {{ $labels.part }} is not healthy.',
          duration='5m',
        ),
        a.alert(
          'EngineErrors',
          |||
            instance:niodoo_engine_errors:ratio_rate5m > %(limit)s
            unless on (%(by)s)
            %(errors)s < %(few)s
            unless on (%(by)s)
            %(requests)s == 0
          ||| % {
            by: q.by,
            limit: q.number(t.engine_error_ratio.warning),
            errors: q.increase('niodoo_engine_errors_total', w='5m'),
            few: q.number(t.engine_errors.warning),
            requests: q.m('niodoo_engine_requests_per_second'),
          },
          'P2',
          'engine',
          'The engine fails many requests.',
          '{{ $value | humanizePercentage }} of the requests fail; the target is %s%%.' % q.number(t.engine_error_ratio.target * 100),
          'performance',
          t.engine_error_ratio['for'],
          { keep_firing_for: '5m' },
        ),
        a.alert(
          'EventsStalled',
          // Requests are more than our own questions; a single event may take most of a minute.
          |||
            (
              increase(%(events)s[%(window)s]) == 0
              or
              max_over_time(%(eventRate)s[%(window)s]) == 0 unless %(events)s
            )
            and on (%(by)s) %(up)s == 1
            and on (%(by)s) (
              rate(%(requests)s[%(window)s]) > %(some)s
              or
              min_over_time(%(requestRate)s[%(window)s]) > %(some)s unless %(requests)s
            )
          ||| % {
            by: q.by,
            up: up,
            window: '%ds' % t.events_stalled_seconds.warning,
            some: q.number(t.events_stalled_requests_per_second.warning),
            events: q.m('niodoo_consciousness_events_total'),
            eventRate: q.m('niodoo_consciousness_events_per_second'),
            requests: q.m('niodoo_engine_requests_total'),
            requestRate: q.m('niodoo_engine_requests_per_second'),
          },
          'P2',
          'engine',
          'The engine takes requests but processes no events.',
          'No event was processed in the last %d minutes, although requests keep coming; the engine passes its health check.' % (t.events_stalled_seconds.warning / 60),
          duration=t.events_stalled_seconds['for'],
        ),
        a.alert(
          'EngineRestarting',
          'resets(%s) > %s' % [q.range('niodoo_engine_uptime_seconds', w='15m'), q.number(t.engine_restarts.warning)],
          'P2',
          'engine',
          'The engine restarts again and again.',
          'It has started {{ $value }} times in 15 minutes; a deployment takes one or two.',
          duration=t.engine_restarts['for'],
        ),
        a.alert(
          'EngineCanaryFailing',
          |||
            %(success)s == 0
            and on (%(by)s)
            changes(%(at)s[%(fresh)s]) > 0
          ||| % {
            by: q.by,
            success: q.m('niodoo_engine_canary_success'),
            at: q.m('niodoo_engine_canary_timestamp_seconds'),
            fresh: '%ds' % t.canary_age_seconds.warning,
          },
          'P1',
          'engine',
          'The engine does not process the test event.',
          'The canary event has failed for ten minutes although the engine may pass its health check: users get no answers.',
          duration=t.canary_age_seconds['for'],
        ),
        a.alert(
          'CircuitBreakerOpening',
          '%s > %s' % [q.increase('niodoo_consciousness_circuit_breaker_activations_total', w='10m'), q.number(t.circuit_breaker_activations.warning)],
          'P3',
          'engine',
          "The engine's circuit breaker keeps opening.",
          'It has opened {{ $value | printf "%%.0f" }} times in 10 minutes; more than %s are no blip.' % q.number(t.circuit_breaker_activations.warning),
          'performance',
          t.circuit_breaker_activations['for'],
        ),
        a.alert(
          'ProcessingTimeouts',
          '%s > %s' % [q.increase('niodoo_consciousness_timeouts_total', w='10m'), q.number(t.timeouts.warning)],
          'P3',
          'engine',
          'Events are not processed in time.',
          '{{ $value | printf "%%.0f" }} events ran into their time limit in 10 minutes; up to %s are borne.' % q.number(t.timeouts.warning),
          'performance',
          t.timeouts['for'],
        ),
        a.alert(
          'SlowMemoryRetrieval',
          |||
            %s > %s
            unless on (%s)
            %s
          ||| % [q.m('niodoo_consciousness_memory_retrieval_time_seconds'), q.number(t.memory_retrieval_time_seconds.warning), q.by, idle],
          'P3',
          'engine',
          'The engine takes long to find memories.',
          'A retrieval takes {{ $value | humanizeDuration }}; the target is %s ms.' % q.number(t.memory_retrieval_time_seconds.target * 1000),
          'performance',
          t.memory_retrieval_time_seconds['for'],
          { keep_firing_for: '5m' },
        ),
        a.alert(
          'LowCacheHitRatio',
          |||
            %s < %s
            unless on (%s)
            %s
          ||| % [q.m('niodoo_engine_cache_hit_ratio'), q.number(t.cache_hit_ratio.warning), q.by, idle],
          'P4',
          'engine',
          "The engine's caches answer few look-ups.",
          'They answer {{ $value | humanizePercentage }}; the target is %s%%.' % q.number(t.cache_hit_ratio.target * 100),
          'performance',
          t.cache_hit_ratio['for'],
          { keep_firing_for: '10m' },
        ),
        // Off by default: the manual's pipeline processes far fewer events than its performance guide wants.
        if std.get(t.events_per_second, 'enabled', true) then
          a.alert(
            'LowConsciousnessProcessingRate',
            'instance:niodoo_consciousness_events:rate5m < %s' % q.number(t.events_per_second.warning),
            'P3',
            'engine',
            'The engine processes fewer events than wanted.',
            '{{ $value | printf "%%.2f" }} events are processed per second; the target is %s.' % q.number(t.events_per_second.target),
            'performance',
            t.events_per_second['for'],
            { keep_firing_for: '5m' },
          ),
        a.alert(
          'TelemetryFrozen',
          // That the engine works is seen from its events, from the canary, or from an uptime that stands still.
          |||
            count by (%(by)s) (
              changes(%(kpis)s[%(window)s]) == 0 and %(kpis)s offset %(window)s
            ) >= %(some)s
            unless on (%(by)s)
            changes(%(kpis)s[%(window)s]) > 0
            and on (%(by)s) %(up)s == 1
            and on (%(by)s) (
              increase(%(events)s[%(window)s]) > 0
              or changes(%(canary)s[%(window)s]) > 0
              or changes(%(uptime)s[%(window)s]) == 0 and %(uptime)s offset %(window)s
            )
          ||| % {
            by: q.by,
            up: up,
            kpis: 'instance_kpi:niodoo_engine:value{kpi=~"%s"}' % restless,
            window: '%ds' % t.telemetry_frozen_seconds.warning,
            some: q.number(t.telemetry_frozen_kpis.warning),
            events: q.m('niodoo_consciousness_events_total'),
            canary: q.m('niodoo_engine_canary_timestamp_seconds'),
            uptime: q.m('niodoo_engine_uptime_seconds'),
          },
          'P3',
          'engine',
          "The engine's KPIs stand still although it works.",
          '{{ $value }} KPIs have had the same values for %d minutes: what the dashboards show is not what is going on.' % (t.telemetry_frozen_seconds.warning / 60),
          duration=t.telemetry_frozen_seconds['for'],
        ),
        a.alert(
          'KPIAbsent',
          |||
            time() - instance_kpi:niodoo_engine:last_seen_timestamp_seconds > %(gone)s
            and on (%(by)s) %(up)s == 1
            and on (%(by)s) %(success)s == 1
            unless on (%(by)s) %(idle)s
          ||| % {
            by: q.by,
            up: up,
            idle: idle,
            success: q.m('niodoo_scrape_collector_success', 'collector="engine"'),
            gone: q.number(t.kpi_absent_seconds.warning),
          },
          'P3',
          'engine',
          'The engine no longer reports a KPI.',
          'niodoo_{{ $labels.kpi }} was last reported {{ $value | humanizeDuration }} ago; alerts and panels that need it are blind.',
          duration=t.kpi_absent_seconds['for'],
        ),
        a.alert(
          'EngineFieldsRejected',
          // What has two meanings and what was not measured yet is in the documented answers of a healthy engine.
          q.increase('niodoo_engine_fields_rejected_total', 'reason!~"ambiguous|not_finite"', '15m') + ' > 0',
          'P4',
          'engine',
          'The engine reports values that cannot be right.',
          '{{ $value | printf "%.0f" }} values were left out in 15 minutes, reason {{ $labels.reason }}; their KPIs are missing.',
          duration='15m',
        ),
        a.alert(
          'ComponentFlapping',
          |||
            changes(%s[15m]) > %s
            and on (%s, component)
            %s == 1
          ||| % [q.m('niodoo_component_up'), q.number(t.component_flaps.warning), q.by, q.m('niodoo_component_required')],
          'P2',
          '{{ $labels.component }}',
          'A service keeps going down and coming back.',
          '{{ $labels.component }} went up or down {{ $value }} times in 15 minutes; a redeployment takes two.' + a.reason('$labels.component'),
          'services',
          t.component_flaps['for'],
          { keep_firing_for: '5m' },
        ),
      ]),
    ],
  },
}
