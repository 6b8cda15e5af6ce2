// Copyright The niodoo_exporter Authors
// SPDX-License-Identifier: Apache-2.0

package collector

// The engine's metrics and the one table that maps its fields to them.

func engineGauge(name, help, source string, labels ...string) *Desc {
	return gauge("engine", name, help, source, labels...).absent("when the engine does not report it")
}

func engineCounter(name, help, source string) *Desc {
	return counter("engine", name, help, source).absent("when the engine does not report it")
}

var (
	consciousnessEvents = engineCounter("consciousness_events_total",
		"Consciousness events processed; niodoo_consciousness_events_per_second is the engine's own rate", "consciousness_events_total")
	consciousnessEventRate = engineGauge("consciousness_events_per_second",
		"Consciousness events processed per second as the engine reports it; niodoo_consciousness_events_total is the counter",
		"events_processed_per_second")
	consciousnessProcessingTime = engineGauge("consciousness_processing_time_seconds",
		"Time to process a consciousness event as the engine reports it, which may be a mean since its start; "+
			"niodoo_consciousness_processing_duration_seconds is the distribution where the engine has one",
		"consciousness_processing_time_ms, average_processing_time_ms")
	consciousnessProcessingDuration = histogram("engine", "consciousness_processing_duration_seconds",
		"Times to process a consciousness event, in the engine's own buckets; "+
			"niodoo_consciousness_processing_time_seconds is the single value where it has no histogram",
		"consciousness_processing_time_ms as a histogram").absent("when the engine does not report it as a histogram")
	consciousnessRetrievalTime = engineGauge("consciousness_memory_retrieval_time_seconds",
		"Time to retrieve a memory", "memory_retrieval_time_ms")
	consciousnessEmotionalTime = engineGauge("consciousness_emotional_processing_time_seconds",
		"Time to process emotions", "emotional_processing_time_ms")
	consciousnessToroidal = engineGauge("consciousness_toroidal_coherence_score",
		"Toroidal coherence of the consciousness state, 0 to 1; niodoo_memory_toroidal_coherence_score is that of the memory",
		"toroidal_coherence_score")
	consciousnessNovelty = engineGauge("consciousness_gaussian_novelty_level",
		"Gaussian novelty, 0 to 1", "gaussian_novelty_level")
	consciousnessBreaker = engineCounter("consciousness_circuit_breaker_activations_total",
		"Times a circuit breaker has opened", "circuit_breaker_activations")
	consciousnessTimeouts = engineCounter("consciousness_timeouts_total",
		"Events that were not processed in time", "timeout_occurrences")
	consciousnessLevel = engineGauge("consciousness_level_ratio",
		"Level of consciousness", "consciousness_level")
	consciousnessFocus = engineGauge("consciousness_attention_focus_ratio",
		"Focus of attention", "attention_focus")
	consciousnessMemoryCoherence = engineGauge("consciousness_memory_coherence_ratio",
		"Coherence of memory as consciousness sees it; niodoo_memory_coherence_ratio is the memory system's",
		"memory_coherence of consciousness_metrics or the state endpoint")

	memoryStability = engineGauge("memory_stability_ratio",
		"Stability of the memory system; the production target is 0.9951", "memory_stability_ratio, stability_ratio")
	memoryLayerStability = engineGauge("memory_layer_stability_ratio",
		"Stability of a memory layer", "memory_layer_stability", "layer")
	memoryConsolidations = engineGauge("memory_consolidations_per_hour",
		"Memories consolidated per hour", "consolidation_rate_per_hour, consolidation_rate above 1")
	memoryRetrievalSuccess = engineGauge("memory_retrieval_success_ratio",
		"Share of memory retrievals that succeed", "retrieval_success_rate")
	memoryLayerEntries = engineGauge("memory_layer_entries",
		"Memories in a layer", "memory_layer_distribution", "layer")
	memoryEntries = engineGauge("memory_entries",
		"Memories in all layers", "total_memories")
	memoryCoherence = engineGauge("memory_coherence_ratio",
		"Coherence of the memory system; niodoo_consciousness_memory_coherence_ratio is what consciousness sees",
		"memory_coherence of memory_metrics or the memory endpoint")
	memoryToroidal = engineGauge("memory_toroidal_coherence_score",
		"Coherence of the memory's toroidal topology, 0 to 1; niodoo_consciousness_toroidal_coherence_score is that of the consciousness state",
		"toroidal_topology_coherence, toroidal_coherence")
	memorySpheres = engineGauge("memory_gaussian_spheres",
		"Gaussian memory spheres", "gaussian_sphere_count")
	memoryCompression = engineGauge("memory_compression_ratio",
		"Size of compressed memories by their uncompressed size", "memory_compression_ratio")
	memoryOperations = engineCounter("memory_operations_total",
		"Memory operations", "memory_operations_total")

	engineRequests = engineCounter("engine_requests_total",
		"Requests the engine has served; niodoo_engine_requests_per_second is its own rate", "requests_total, http_requests_total")
	engineErrors = engineCounter("engine_errors_total",
		"Requests that failed", "errors_total, http_errors_total")
	engineRequestRate = engineGauge("engine_requests_per_second",
		"Requests per second as the engine reports it; these are not consciousness events, and niodoo_engine_requests_total is the counter", "requests_per_second")
	engineErrorRatio = engineGauge("engine_error_ratio",
		"Share of requests that fail", "error_rate")
	engineResponseTime = engineGauge("engine_response_time_seconds",
		"Mean time to answer a request as the engine reports it, over a time of its choice; "+
			"niodoo_component_response_seconds is measured by the exporter, niodoo_consciousness_processing_time_seconds is of events",
		"avg_response_time_ms")
	engineUptime = engineGauge("engine_uptime_seconds",
		"Time since the engine started", "uptime_seconds")
	engineThreadPool = engineGauge("engine_thread_pool_utilization_ratio",
		"Share of the engine's threads that are busy", "thread_pool_utilization")
	engineCacheHits = engineGauge("engine_cache_hit_ratio",
		"Share of look-ups that the engine's caches answer", "cache_hit_ratio")
	engineCPU = engineGauge("engine_cpu_usage_ratio",
		"CPU usage as the engine reports it; niodoo_host_cpu_seconds_total is measured on the host", "cpu_usage_percent")
	engineGPU = engineGauge("engine_gpu_usage_ratio",
		"GPU usage as the engine reports it; niodoo_gpu_utilization_ratio is the driver's", "gpu_usage_percent, gpu_utilization_percent")
	engineMemory = engineGauge("engine_memory_usage_bytes",
		"Memory the engine uses", "memory_usage_mb in MiB, memory_usage_bytes")

	engineBrainResponse = engineGauge("engine_brain_response_time_seconds",
		"Time one of the brains takes to answer", "/api/v1/brain/status response_time_ms", "brain")
	engineBrainCPU = engineGauge("engine_brain_cpu_usage_ratio",
		"CPU usage of one of the brains", "/api/v1/brain/status cpu_usage", "brain")
	engineBrainMemory = engineGauge("engine_brain_memory_usage_ratio",
		"Memory usage of one of the brains", "/api/v1/brain/status memory_usage", "brain")

	enginePartHealthy = engineGauge("engine_component_healthy",
		"Whether a part of the engine says that it is healthy", "components of the health endpoint, brains and overall_status (part brains) of the brain status", "part")

	engineRejected = counter("engine", "engine_fields_rejected_total",
		"Values the engine reported that could not be used, by reason: ambiguous (two meanings or two values), inconsistent (a histogram that does "+
			"not add up), limit (too many layers, parts or series), not_a_number, not_finite (NaN or infinite), range (outside what the field can be), "+
			"syntax (an unreadable line of text)", "counted by the exporter since it started", "reason")
)

// engineReject says why a value was not used.
type engineReject uint8

const (
	rejectAmbiguous engineReject = iota
	rejectInconsistent
	rejectLimit
	rejectNotANumber
	rejectNotFinite
	rejectRange
	rejectSyntax
)

// engineRejects are the label values of the reasons.
var engineRejects = [...]string{
	rejectAmbiguous: "ambiguous", rejectInconsistent: "inconsistent", rejectLimit: "limit", rejectNotANumber: "not_a_number",
	rejectNotFinite: "not_finite", rejectRange: "range", rejectSyntax: "syntax",
}

// engineField is a row of the table: a field of the engine and the metric it is.
type engineField struct {
	// name is the field's, in JSON and in text alike, in text also with _total.
	name   string
	metric *Desc
	// div divides the source's value into base units; 0 is 1.
	div float64
	// max is the largest value in base units; 0 is no limit. The smallest is 0.
	max float64
	// ambiguousTo is the largest source value that could also mean something else; 0 is none.
	ambiguousTo float64
	// distribution takes the field where it is a histogram.
	distribution *Desc
	// within are the sections and endpoints that give the name this meaning;
	// the innermost decides. Without any the name has one meaning everywhere.
	within []string
}

// ratio is the max of a share.
const ratio = 1

var (
	withinConsciousness = []string{"consciousness_metrics", "consciousness", "state"}
	withinMemory        = []string{"memory_metrics", "memory"}
	withinBrains        = []string{"brains"}
)

// engineFields is the table. Where several rows give the same metric, the
// first one that the engine reports wins; where several endpoints report the
// same row, the first in the order metrics, memory, state, brain, health.
//
// Known and left out: consolidation_frequency (its unit is not documented) and
// the host's memory_usage_percent, disk_usage_percent, network_throughput_mbps,
// which the host collector measures.
var engineFields = []engineField{
	{name: "consciousness_events", metric: consciousnessEvents},
	{name: "events_processed_per_second", metric: consciousnessEventRate},
	{name: "consciousness_processing_time_ms", metric: consciousnessProcessingTime, div: 1000, distribution: consciousnessProcessingDuration},
	{name: "consciousness_processing_time_seconds", metric: consciousnessProcessingTime, distribution: consciousnessProcessingDuration},
	{name: "consciousness_processing_duration_ms", metric: consciousnessProcessingTime, div: 1000, distribution: consciousnessProcessingDuration},
	{name: "consciousness_processing_duration_seconds", metric: consciousnessProcessingTime, distribution: consciousnessProcessingDuration},
	{name: "average_processing_time_ms", metric: consciousnessProcessingTime, div: 1000},
	{name: "memory_retrieval_time_ms", metric: consciousnessRetrievalTime, div: 1000},
	{name: "memory_retrieval_time_seconds", metric: consciousnessRetrievalTime},
	{name: "emotional_processing_time_ms", metric: consciousnessEmotionalTime, div: 1000},
	{name: "emotional_processing_time_seconds", metric: consciousnessEmotionalTime},
	{name: "toroidal_coherence_score", metric: consciousnessToroidal, max: 1},
	{name: "gaussian_novelty_level", metric: consciousnessNovelty, max: 1},
	{name: "circuit_breaker_activations", metric: consciousnessBreaker},
	{name: "timeout_occurrences", metric: consciousnessTimeouts},
	{name: "consciousness_level", metric: consciousnessLevel, max: ratio},
	{name: "attention_focus", metric: consciousnessFocus, max: ratio},
	{name: "memory_coherence", metric: consciousnessMemoryCoherence, max: ratio, within: withinConsciousness},

	{name: "memory_stability_ratio", metric: memoryStability, max: ratio},
	{name: "stability_ratio", metric: memoryStability, max: ratio},
	{name: "memory_layer_stability", metric: memoryLayerStability, max: ratio},
	{name: "memory_layer_stability_ratio", metric: memoryLayerStability, max: ratio},
	{name: "layer_stability", metric: memoryLayerStability, max: ratio},
	{name: "consolidation_rate_per_hour", metric: memoryConsolidations},
	{name: "consolidation_rate", metric: memoryConsolidations, ambiguousTo: 1}, // elsewhere in the engine a fraction
	{name: "retrieval_success_rate", metric: memoryRetrievalSuccess, max: ratio},
	{name: "memory_layer_distribution", metric: memoryLayerEntries},
	{name: "total_memories", metric: memoryEntries},
	{name: "memory_coherence", metric: memoryCoherence, max: ratio, within: withinMemory},
	{name: "toroidal_topology_coherence", metric: memoryToroidal, max: 1},
	{name: "toroidal_coherence", metric: memoryToroidal, max: 1},
	{name: "gaussian_sphere_count", metric: memorySpheres},
	{name: "memory_compression_ratio", metric: memoryCompression, max: ratio},
	{name: "memory_operations", metric: memoryOperations},

	{name: "requests_total", metric: engineRequests},
	{name: "http_requests_total", metric: engineRequests},
	{name: "total_requests", metric: engineRequests},
	{name: "errors_total", metric: engineErrors},
	{name: "http_errors_total", metric: engineErrors},
	{name: "total_errors", metric: engineErrors},
	{name: "requests_per_second", metric: engineRequestRate},
	{name: "error_rate", metric: engineErrorRatio, max: ratio},
	{name: "avg_response_time_ms", metric: engineResponseTime, div: 1000},
	{name: "uptime_seconds", metric: engineUptime},
	{name: "thread_pool_utilization", metric: engineThreadPool, max: ratio},
	{name: "cache_hit_ratio", metric: engineCacheHits, max: ratio},
	{name: "cpu_usage_percent", metric: engineCPU, div: 100, max: ratio},
	{name: "gpu_usage_percent", metric: engineGPU, div: 100, max: ratio},
	{name: "gpu_utilization_percent", metric: engineGPU, div: 100, max: ratio},
	{name: "memory_usage_mb", metric: engineMemory, div: 1.0 / (1 << 20)},
	{name: "memory_usage_bytes", metric: engineMemory},

	{name: "response_time_ms", metric: engineBrainResponse, div: 1000, within: withinBrains},
	{name: "cpu_usage", metric: engineBrainCPU, max: ratio, within: withinBrains},
	{name: "memory_usage", metric: engineBrainMemory, max: ratio, within: withinBrains},
}

// engineByName finds the rows of a name; a counter's name is also that without _total.
var engineByName = func() map[string][]int {
	m := make(map[string][]int, len(engineFields))
	for i, f := range engineFields {
		m[f.name] = append(m[f.name], i)
	}
	return m
}()

// base returns the source's value in base units, or why it cannot be used.
func (f *engineField) base(v float64) (float64, engineReject, bool) {
	if v-v != 0 { // NaN or infinite
		return 0, rejectNotFinite, false
	}
	if f.ambiguousTo > 0 && v >= 0 && v <= f.ambiguousTo {
		return 0, rejectAmbiguous, false
	}
	if f.div != 0 {
		v /= f.div
	}
	if v < 0 || f.max > 0 && v > f.max || v-v != 0 {
		return 0, rejectRange, false
	}
	return v, 0, true
}
