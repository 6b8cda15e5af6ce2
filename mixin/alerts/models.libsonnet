// The models and their vectors: Ollama, vLLM, Qdrant.
local alerts = import '../lib/alert.libsonnet';
local query = import '../lib/query.libsonnet';

{
  local c = $._config,
  local t = c.thresholds,
  local a = alerts.new(c),
  local q = query.new(c, c.selector, c.rateWindow),

  prometheusAlerts+:: {
    groups+: [
      a.group('niodoo-models', [
        a.alert(
          'RequiredModelMissing',
          |||
            %s == 0
            and on (%s)
            %s == 1
          ||| % [q.m('niodoo_ollama_required_model_available'), q.by, q.m('niodoo_component_required', 'component="ollama"')],
          'P2',
          'ollama',
          'Ollama lacks a model that the engine needs.',
          'The model {{ $labels.model }} is not on disk; requests for it fail.',
          'services',
          '2m',
        ),
        a.alert(
          'ModelOnCPUOnly',
          // Only where there is a graphics card, or the model was on one within a day.
          |||
            %(share)s == 0
            and (
              %(share)s and on (%(by)s) %(gpu)s
              or
              max_over_time(%(share)s[1d]) > 0
            )
          ||| % { by: q.by, share: q.m('niodoo_ollama_model_loaded_gpu_ratio'), gpu: q.m('niodoo_gpu_info') },
          'P3',
          'ollama',
          'A model runs on the processor instead of the graphics card.',
          'Nothing of the loaded model {{ $labels.model }} is in graphics memory; it answers many times slower.',
          'services',
          '5m',
          { keep_firing_for: '10m' },
        ),
        a.alert(
          'InferenceCanaryFailing',
          |||
            %(success)s == 0
            and on (%(by)s)
            changes(%(at)s[%(fresh)s]) > 0
          ||| % {
            by: q.by,
            success: q.m('niodoo_ollama_canary_success'),
            at: q.m('niodoo_ollama_canary_timestamp_seconds'),
            fresh: '%ds' % t.canary_age_seconds.warning,
          },
          'P2',
          'ollama',
          'Ollama is up but generates nothing.',
          'Test generations with a loaded model have failed for ten minutes.',
          'services',
          t.canary_age_seconds['for'],
        ),
        a.alert(
          'VLLMRequestsWaiting',
          'min_over_time(%s) > %s' % [q.range('niodoo_vllm_requests_waiting'), q.number(t.vllm_requests_waiting.warning)],
          'P3',
          'vllm',
          'vLLM has more requests than it can work on.',
          'At least {{ $value }} requests for {{ $labels.model }} have waited all the time; a queue of up to %s is worked off.' % q.number(t.vllm_requests_waiting.warning),
          'services',
          t.vllm_requests_waiting['for'],
          { keep_firing_for: '5m' },
        ),
        a.alert(
          'VLLMRequestsFailing',
          '%s > %s' % [q.increase('niodoo_vllm_requests_finished_total', 'finished_reason="error"', '10m'), q.number(t.vllm_errors.warning)],
          'P2',
          'vllm',
          'vLLM fails requests.',
          '{{ $value | printf "%%.0f" }} requests for {{ $labels.model }} ended with an error in 10 minutes; up to %s are borne.' % q.number(t.vllm_errors.warning),
          'services',
          t.vllm_errors['for'],
        ),
        a.alert(
          'QdrantCollectionFailed',
          q.m('niodoo_qdrant_collection_status', 'status="red"') + ' == 1',
          'P2',
          'qdrant',
          'A Qdrant collection has failed.',
          'The collection {{ $labels.collection }} is red: an operation on it failed, and it may lack memories.',
          'services',
          '2m',
        ),
        a.alert(
          'QdrantCollectionNotGreen',
          // Grey is normal: after a restart optimizations wait for the next write.
          q.m('niodoo_qdrant_collection_status', 'status="yellow"') + ' == 1',
          'P4',
          'qdrant',
          'A Qdrant collection does not become green.',
          'The collection {{ $labels.collection }} has been optimizing for an hour; searches are slow meanwhile.',
          'services',
          '1h',
        ),
        a.alert(
          'QdrantOptimizerFailing',
          q.m('niodoo_qdrant_collection_optimizer_ok') + ' == 0',
          'P3',
          'qdrant',
          'Qdrant cannot optimize a collection.',
          'The optimizer of the collection {{ $labels.collection }} has failed; new vectors are not indexed.',
          'services',
          '5m',
        ),
        a.alert(
          'QdrantVectorSizeMismatch',
          q.m('niodoo_qdrant_collection_vector_size_mismatch') + ' == 1',
          'P2',
          'qdrant',
          'A Qdrant collection has vectors of the wrong size.',
          'No vector of the collection {{ $labels.collection }} has the size that the embedding model makes: every search and every insert fails.',
          'services',
          '2m',
        ),
        a.alert(
          'QdrantCollectionMissing',
          q.m('niodoo_qdrant_collection_exists') + ' == 0',
          'P2',
          'qdrant',
          'A Qdrant collection is missing.',
          'The collection {{ $labels.collection }} is expected and does not exist.',
          'services',
          '5m',
        ),
      ]),
    ],
  },
}
