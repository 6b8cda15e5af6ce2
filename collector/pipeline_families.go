// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package collector

import "strings"

// The live pipeline comes in variants, each with names, units and types of its
// own. This table says what each family is here; nothing else depends on the
// variant. Units become base units, counters end in _total however they came,
// and what the variants name differently has one name.

// pipelineFamily is one row: families of the source and what they become.
type pipelineFamily struct {
	desc *Desc
	// from are the source's names for it, counters without _total.
	from []string
	// labels are the source's labels in the order of desc's after source. A
	// series without one of them has it empty.
	labels []string
	// per divides the source's unit: 1000 milliseconds are a second. 0 is 1.
	per float64
	// atMost is the largest value that makes sense, in our unit, 0 for any.
	atMost float64
	// signed values may be below 0.
	signed bool
	// bytes may be as large as a timestamp in milliseconds.
	bytes bool
	// maybeSeconds is for histograms that are named milliseconds and whose one
	// implementation observes seconds into the client library's own buckets,
	// the last of which is 10: with such buckets they are taken for seconds.
	maybeSeconds bool
}

// libraryLastBound is the last of the default buckets of the Rust and all
// other client libraries, which are meant for seconds.
const libraryLastBound = 10

// maxEntropy is the entropy of 2^64 states, in bits. The pipeline's is near 1.95.
const maxEntropy = 64

func pipelineGauge(name, help, source string, labels ...string) *Desc {
	return gauge("pipeline", "pipeline_"+name, help, source, append([]string{"source"}, labels...)...).absent(pipelineAbsent)
}

func pipelineCounter(name, help, source string, labels ...string) *Desc {
	return counter("pipeline", "pipeline_"+name, help, source, append([]string{"source"}, labels...)...).absent(pipelineAbsent)
}

func pipelineHistogram(name, help, source string, labels ...string) *Desc {
	return histogram("pipeline", "pipeline_"+name, help, source, append([]string{"source"}, labels...)...).absent(pipelineAbsent)
}

const pipelineAbsent = "from variants of the pipeline that do not have it"

var pipelineFamilies = []pipelineFamily{
	// niodoo_real_integrated, the system that runs, and its predecessor niodoo_integrated.
	{from: strings.Fields("niodoo_entropy_bits niodoo_entropy"), atMost: maxEntropy, desc: pipelineGauge("entropy",
		"Entropy of the consciousness state after the last cycle, in bits", "niodoo_entropy_bits, niodoo_entropy")},
	{from: strings.Fields("niodoo_latency_ms niodoo_latency"), per: 1000, desc: pipelineHistogram("latency_seconds",
		"Time to generate an answer. The bounds end at 1 s where generations take from 2 to 50: use _sum and _count, quantiles stop at the last bound",
		"niodoo_latency_ms, niodoo_latency in milliseconds")},
	{from: strings.Fields("niodoo_stage_latency_ms"), per: 1000, labels: strings.Fields("stage"), desc: pipelineHistogram("stage_latency_seconds",
		"Time spent in a stage of the pipeline", "niodoo_stage_latency_ms", "stage")},
	{from: strings.Fields("niodoo_rouge_l"), atMost: 1, desc: pipelineGauge("rouge_l_score",
		"ROUGE-L similarity of the hybrid answer to the baseline's in the last cycle, 0 to 1", "niodoo_rouge_l")},
	{from: strings.Fields("niodoo_threat_cycles niodoo_threats"), desc: pipelineCounter("threat_cycles_total",
		"Cycles in which a threat was detected", "niodoo_threat_cycles, niodoo_threats")},
	{from: strings.Fields("niodoo_healing_cycles niodoo_healings niodoo_healing"), desc: pipelineCounter("healing_cycles_total",
		"Cycles in which healing was detected", "niodoo_healing_cycles, niodoo_healings")},
	{from: strings.Fields("niodoo_soft_retries"), desc: pipelineCounter("soft_retries_total",
		"Generations repeated after a soft failure", "niodoo_soft_retries_total")},
	{from: strings.Fields("niodoo_hard_retries"), desc: pipelineCounter("hard_retries_total",
		"Generations repeated after a hard failure", "niodoo_hard_retries_total")},
	{from: strings.Fields("niodoo_success_after_retry"), desc: pipelineCounter("retry_successes_total",
		"Generations that succeeded after a retry", "niodoo_success_after_retry")},
	{from: strings.Fields("niodoo_avg_rouge"), atMost: 1, labels: strings.Fields("type"), desc: pipelineGauge("average_rouge_l_score",
		"Mean ROUGE-L score of the last ten cycles, 0 to 1", "niodoo_avg_rouge", "kind")},
	{from: strings.Fields("niodoo_avg_entropy_delta"), signed: true, labels: strings.Fields("type"), desc: pipelineGauge("average_entropy_delta",
		"Mean change of the entropy over the last ten cycles, in bits", "niodoo_avg_entropy_delta", "kind")},
	{from: strings.Fields("niodoo_embedding_cache_hits"), desc: pipelineCounter("embedding_cache_hits_total",
		"Embeddings found in the cache", "niodoo_embedding_cache_hits_total")},
	{from: strings.Fields("niodoo_tokenizer_vocab_size"), desc: pipelineGauge("tokenizer_vocabulary_tokens",
		"Number of tokens in the tokenizer's vocabulary", "niodoo_tokenizer_vocab_size")},
	{from: strings.Fields("niodoo_tokenizer_oov_rate"), atMost: 1, desc: pipelineGauge("tokenizer_out_of_vocabulary_ratio",
		"Share of the words that the vocabulary does not have", "niodoo_tokenizer_oov_rate")},
	{from: strings.Fields("niodoo_tokenizer_promotion_latency_ms"), per: 1000, desc: pipelineGauge("tokenizer_promotion_latency_seconds",
		"Time the last promotion of tokens took", "niodoo_tokenizer_promotion_latency_ms")},
	{from: strings.Fields("niodoo_tokenizer_promoted"), desc: pipelineCounter("tokenizer_promoted_tokens_total",
		"Tokens promoted into the vocabulary", "niodoo_tokenizer_promoted_total")},
	{from: strings.Fields("niodoo_tokenizer_pruned"), desc: pipelineCounter("tokenizer_pruned_tokens_total",
		"Tokens pruned from the vocabulary", "niodoo_tokenizer_pruned_total")},

	// Its weighted episodic memory.
	{from: strings.Fields("weighted_memory_weight_update_latency_ms"), per: 1000, desc: pipelineHistogram("memory_weight_update_latency_seconds",
		"Time to update the memory's weights", "weighted_memory_weight_update_latency_ms")},
	{from: strings.Fields("weighted_memory_discoveries_per_second"), desc: pipelineGauge("memory_discoveries_per_second",
		"Discoveries made per second, as the source reckons it", "weighted_memory_discoveries_per_second")},
	{from: strings.Fields("weighted_memory_evolution_score"), signed: true, desc: pipelineGauge("memory_evolution_score",
		"Score of the current generation of weights", "weighted_memory_evolution_score")},
	{from: strings.Fields("weighted_memory_evolution_best_score"), signed: true, desc: pipelineGauge("memory_evolution_best_score",
		"Best score of any generation of weights", "weighted_memory_evolution_best_score")},
	{from: strings.Fields("weighted_memory_consolidation_throughput"), desc: pipelineGauge("memory_consolidations_per_second",
		"Memories consolidated per second, as the source reckons it", "weighted_memory_consolidation_throughput")},
	{from: strings.Fields("weighted_memory_beta_1_connectivity_avg"), signed: true, desc: pipelineGauge("memory_beta_1_connectivity_average",
		"Mean connectivity of the memory's loops, the first Betti number", "weighted_memory_beta_1_connectivity_avg")},
	{from: strings.Fields("weighted_memory_consonance_score_avg"), signed: true, desc: pipelineGauge("memory_consonance_average_score",
		"Mean consonance of the memories", "weighted_memory_consonance_score_avg")},
	{from: strings.Fields("weighted_memory_fitness_score"), desc: pipelineHistogram("memory_fitness_score",
		"Fitness of the memories, 0 to 1", "weighted_memory_fitness_score")},
	{from: strings.Fields("weighted_memory_topology_updates"), desc: pipelineCounter("memory_topology_updates_total",
		"Updates of the memory's topology", "weighted_memory_topology_updates_total")},

	// tcs-core.
	{from: strings.Fields("tcs_entropy"), atMost: maxEntropy, labels: strings.Fields("component"), desc: pipelineGauge("tcs_entropy",
		"Entropy by part, in bits", "tcs_entropy", "part")},
	{from: strings.Fields("tcs_persistence_entropy"), atMost: maxEntropy, labels: strings.Fields("dimension"), desc: pipelineGauge("tcs_persistence_entropy",
		"Entropy of the persistence diagram by dimension, in bits", "tcs_persistence_entropy", "dimension")},
	{from: strings.Fields("tcs_betti_0"), desc: pipelineGauge("tcs_betti_0",
		"Zeroth Betti number: connected components", "tcs_betti_0")},
	{from: strings.Fields("tcs_betti_1"), desc: pipelineGauge("tcs_betti_1",
		"First Betti number: loops", "tcs_betti_1")},
	{from: strings.Fields("tcs_memories_size_bytes"), bytes: true, labels: strings.Fields("type"), desc: pipelineGauge("tcs_memories_size_bytes",
		"Size of the stored memories", "tcs_memories_size_bytes", "kind")},
	{from: strings.Fields("tcs_learning_entropy_delta"), signed: true, labels: strings.Fields("component"), desc: pipelineGauge("tcs_learning_entropy_delta",
		"Change of the entropy over the epochs, in bits", "tcs_learning_entropy_delta", "part")},
	{from: strings.Fields("tcs_prompts"), labels: strings.Fields("type"), desc: pipelineCounter("tcs_prompts_total",
		"Prompts by how they ended: stuck, rogue or unstuck", "tcs_prompts_total", "kind")},
	{from: strings.Fields("tcs_memories_saved"), labels: strings.Fields("type"), desc: pipelineCounter("tcs_memories_saved_total",
		"Memories saved", "tcs_memories_saved_total", "kind")},
	{from: strings.Fields("tcs_rag_hits"), labels: strings.Fields("component"), desc: pipelineCounter("tcs_rag_hits_total",
		"Documents retrieved with a similarity over 0.8", "tcs_rag_hits_total", "part")},
	{from: strings.Fields("tcs_llm_prompts"), labels: strings.Fields("type"), desc: pipelineCounter("tcs_llm_prompts_total",
		"Prompts sent to the language model", "tcs_llm_prompts_total", "kind")},
	{from: strings.Fields("tcs_output_duration_seconds"), labels: strings.Fields("type"), desc: pipelineHistogram("tcs_output_duration_seconds",
		"Time to produce an output", "tcs_output_duration_seconds", "kind")},
	{from: strings.Fields("tcs_output_var"), labels: strings.Fields("component"), desc: pipelineHistogram("tcs_output_variance",
		"Variance of the outputs; the source sorts it into buckets meant for seconds", "tcs_output_var", "part")},
	{from: strings.Fields("tcs_rag_latency_seconds"), labels: strings.Fields("success"), desc: pipelineHistogram("tcs_rag_latency_seconds",
		"Time to retrieve documents", "tcs_rag_latency_seconds", "success")},
	{from: strings.Fields("tcs_rag_similarity"), labels: strings.Fields("component"), desc: pipelineHistogram("tcs_rag_similarity_score",
		"Similarity of the documents retrieved, 0 to 1", "tcs_rag_similarity", "part")},
	{from: strings.Fields("tcs_persistence_computations"), desc: pipelineCounter("tcs_persistence_computations_total",
		"Persistent homology computations", "tcs_persistence_computations_total")},
	{from: strings.Fields("tcs_persistence_duration_seconds"), desc: pipelineHistogram("tcs_persistence_duration_seconds",
		"Time a persistent homology computation takes", "tcs_persistence_duration_seconds")},
	{from: strings.Fields("tcs_knot_detections"), desc: pipelineCounter("tcs_knot_detections_total",
		"Knots detected", "tcs_knot_detections_total")},
	{from: strings.Fields("tcs_knot_complexity"), desc: pipelineHistogram("tcs_knot_complexity",
		"Complexity of the knots detected", "tcs_knot_complexity")},
	{from: strings.Fields("tcs_consensus_proposals"), desc: pipelineCounter("tcs_consensus_proposals_total",
		"Consensus proposals made", "tcs_consensus_proposals_total")},
	{from: strings.Fields("tcs_consensus_accepts"), desc: pipelineCounter("tcs_consensus_accepts_total",
		"Consensus proposals accepted", "tcs_consensus_accepts_total")},
	{from: strings.Fields("tcs_events_h0"), desc: pipelineCounter("tcs_events_h0_total",
		"Topological events in dimension 0", "tcs_events_h0_total")},
	{from: strings.Fields("tcs_events_h1"), desc: pipelineCounter("tcs_events_h1_total",
		"Topological events in dimension 1", "tcs_events_h1_total")},
	{from: strings.Fields("tcs_events_h2"), desc: pipelineCounter("tcs_events_h2_total",
		"Topological events in dimension 2", "tcs_events_h2_total")},
	{from: strings.Fields("tcs_memory_usage_bytes"), bytes: true, desc: pipelineGauge("tcs_memory_used_bytes",
		"Memory in use", "tcs_memory_usage_bytes")},
	{from: strings.Fields("tcs_gpu_utilization_percent"), per: 100, atMost: 1, desc: pipelineGauge("tcs_gpu_utilization_ratio",
		"GPU utilization as the pipeline sees it", "tcs_gpu_utilization_percent")},
	{from: strings.Fields("tcs_gpu_memory_usage_bytes"), bytes: true, desc: pipelineGauge("tcs_gpu_memory_used_bytes",
		"GPU memory in use as the pipeline sees it", "tcs_gpu_memory_usage_bytes")},
	{from: strings.Fields("tcs_gpu_memory_total_bytes"), bytes: true, desc: pipelineGauge("tcs_gpu_memory_size_bytes",
		"GPU memory as the pipeline sees it", "tcs_gpu_memory_total_bytes")},

	// Silicon Synapse: the code's names, the demos', and those of its documents, some without prefix.
	{from: strings.Fields("silicon_synapse_gpu_temperature_celsius silicon_synapse_gpu_temperature gpu_temperature_celsius"), atMost: 200,
		labels: strings.Fields("device type"), desc: pipelineGauge("silicon_gpu_temperature_celsius",
			"GPU temperature as Silicon Synapse sees it; its one implementation always says 72.5",
			"silicon_synapse_gpu_temperature_celsius, gpu_temperature_celsius", "gpu", "kind")},
	{from: strings.Fields("silicon_synapse_gpu_power_watts silicon_synapse_gpu_power gpu_power_watts"),
		labels: strings.Fields("device type"), desc: pipelineGauge("silicon_gpu_power_watts",
			"GPU power as Silicon Synapse sees it; its one implementation always says 245.3",
			"silicon_synapse_gpu_power_watts, gpu_power_watts", "gpu", "kind")},
	{from: strings.Fields("silicon_synapse_gpu_utilization_percent silicon_synapse_gpu_utilization gpu_utilization_percent"), per: 100, atMost: 1,
		labels: strings.Fields("device type"), desc: pipelineGauge("silicon_gpu_utilization_ratio",
			"GPU utilization as Silicon Synapse sees it", "silicon_synapse_gpu_utilization_percent, gpu_utilization_percent", "gpu", "kind")},
	{from: strings.Fields("silicon_synapse_vram_used_bytes vram_used_bytes"), bytes: true, labels: strings.Fields("device"), desc: pipelineGauge("silicon_gpu_memory_used_bytes",
		"GPU memory in use as Silicon Synapse sees it; its one implementation always says 8 GiB",
		"silicon_synapse_vram_used_bytes, vram_used_bytes", "gpu")},
	{from: strings.Fields("silicon_synapse_vram_total_bytes vram_total_bytes"), bytes: true, labels: strings.Fields("device"), desc: pipelineGauge("silicon_gpu_memory_size_bytes",
		"GPU memory as Silicon Synapse sees it", "silicon_synapse_vram_total_bytes, vram_total_bytes", "gpu")},
	{from: strings.Fields("silicon_synapse_cpu_utilization_percent cpu_utilization_percent"), per: 100, atMost: 1, desc: pipelineGauge("silicon_cpu_utilization_ratio",
		"CPU utilization as Silicon Synapse sees it", "silicon_synapse_cpu_utilization_percent, cpu_utilization_percent")},
	{from: strings.Fields("silicon_synapse_ram_used_bytes ram_used_bytes"), bytes: true, desc: pipelineGauge("silicon_memory_used_bytes",
		"Memory in use as Silicon Synapse sees it", "silicon_synapse_ram_used_bytes, ram_used_bytes")},
	{from: strings.Fields("silicon_synapse_ram_total_bytes ram_total_bytes"), bytes: true, desc: pipelineGauge("silicon_memory_size_bytes",
		"Memory as Silicon Synapse sees it", "silicon_synapse_ram_total_bytes, ram_total_bytes")},
	{from: strings.Fields("silicon_synapse_inference_ttft_milliseconds silicon_synapse_ttft_ms inference_ttft_milliseconds"), per: 1000, maybeSeconds: true,
		labels: strings.Fields("model"), desc: pipelineHistogram("silicon_time_to_first_token_seconds",
			"Time to the first token; with bounds of up to 10 the source is taken to observe seconds, against its name",
			"silicon_synapse_inference_ttft_milliseconds, silicon_synapse_ttft_ms", "model")},
	{from: strings.Fields("silicon_synapse_inference_tpot_milliseconds silicon_synapse_tpot_ms inference_tpot_milliseconds"), per: 1000, maybeSeconds: true,
		labels: strings.Fields("model"), desc: pipelineHistogram("silicon_time_per_output_token_seconds",
			"Time per output token; with bounds of up to 10 the source is taken to observe seconds, against its name",
			"silicon_synapse_inference_tpot_milliseconds, silicon_synapse_tpot_ms", "model")},
	{from: strings.Fields("silicon_synapse_ttft_ms"), per: 1000, labels: strings.Fields("type"), desc: pipelineGauge("silicon_time_to_first_token_statistic_seconds",
		"Time to the first token as a statistic of the source's window, such as its mean", "silicon_synapse_ttft_ms", "kind")},
	{from: strings.Fields("silicon_synapse_tpot_ms"), per: 1000, labels: strings.Fields("type"), desc: pipelineGauge("silicon_time_per_output_token_statistic_seconds",
		"Time per output token as a statistic of the source's window, such as its mean", "silicon_synapse_tpot_ms", "kind")},
	{from: strings.Fields("silicon_synapse_throughput_tps"), labels: strings.Fields("type"), desc: pipelineGauge("silicon_tokens_per_second",
		"Tokens generated per second, as the source reckons it", "silicon_synapse_throughput_tps", "kind")},
	{from: strings.Fields("silicon_synapse_tokens_generated tokens_generated"), labels: strings.Fields("model"), desc: pipelineCounter("silicon_tokens_generated_total",
		"Tokens generated", "silicon_synapse_tokens_generated_total, tokens_generated_total", "model")},
	{from: strings.Fields("silicon_synapse_inference_requests inference_requests"), desc: pipelineCounter("silicon_inference_requests_total",
		"Inference requests", "silicon_synapse_inference_requests_total")},
	{from: strings.Fields("silicon_synapse_inference_errors inference_errors"), desc: pipelineCounter("silicon_inference_errors_total",
		"Inference requests that failed", "silicon_synapse_inference_errors_total, inference_errors_total")},
	{from: strings.Fields("silicon_synapse_active_requests active_requests"), desc: pipelineGauge("silicon_active_requests",
		"Number of inference requests that are being worked on", "silicon_synapse_active_requests, active_requests")},
	{from: strings.Fields("silicon_synapse_anomalies_detected anomalies_detected"), labels: strings.Fields("type severity"), desc: pipelineCounter("silicon_anomalies_detected_total",
		"Anomalies detected", "silicon_synapse_anomalies_detected_total, anomalies_detected_total", "kind", "severity")},
	{from: strings.Fields("silicon_synapse_model_entropy silicon_synapse_model_softmax_entropy model_softmax_entropy"), labels: strings.Fields("layer type"),
		desc: pipelineGauge("silicon_model_softmax_entropy", "Entropy of a layer's softmax", "model_softmax_entropy, silicon_synapse_model_entropy", "layer", "kind")},
	{from: strings.Fields("silicon_synapse_model_sparsity silicon_synapse_activation_sparsity activation_sparsity"), atMost: 1, labels: strings.Fields("layer type"),
		desc: pipelineGauge("silicon_model_activation_sparsity_ratio", "Share of a layer's activations that are zero",
			"activation_sparsity, silicon_synapse_model_sparsity", "layer", "kind")},
	{from: strings.Fields("silicon_synapse_activation_magnitude activation_magnitude"), labels: strings.Fields("layer type"),
		desc: pipelineGauge("silicon_model_activation_magnitude", "Mean magnitude of a layer's activations", "activation_magnitude", "layer", "kind")},

	// bullshitdetector.
	{from: strings.Fields("bs_detector_latency_ms"), per: 1000, desc: pipelineHistogram("bs_detector_latency_seconds",
		"Time of a review", "bs_detector_latency_ms")},
	{from: strings.Fields("bs_detector_coherence"), signed: true, desc: pipelineGauge("bs_detector_coherence_score",
		"Coherence of the last review", "bs_detector_coherence")},
	{from: strings.Fields("bs_detector_risk"), signed: true, desc: pipelineGauge("bs_detector_risk_score",
		"Risk found in the last review", "bs_detector_risk")},
	{from: strings.Fields("bs_detector_alerts"), desc: pipelineCounter("bs_detector_alerts_total",
		"Alerts raised", "bs_detector_alerts_total")},
}
