"""How long requests take in workers and how much their steps work on, as histograms under vLLM's names."""

from collections.abc import Callable, Iterator, Mapping
from itertools import accumulate

from prometheus_client.core import HistogramMetricFamily
from prometheus_client.metrics_core import Metric

from core.histogram import REQUEST_SECONDS, Histogram
from service.telemetry.answer_counters import ENGINE
from service.telemetry.worker_stats import WorkerStats

LABELS = ("model_name", "engine", "worker")


def histogram_families(model: str, stats: Mapping[str, WorkerStats]) -> Iterator[Metric]:
    """Yield them for the workers of one model, by name."""
    sources: tuple[tuple[str, str, Callable[[WorkerStats], Histogram]], ...] = (
        ("vllm:request_queue_time_seconds", "From a job's submission to its first claim.", _queue_times),
        ("vllm:request_prefill_time_seconds", "From a claim to its first tokens.", lambda one: one.work.phases.prefill),
        ("vllm:request_decode_time_seconds", "From first tokens to the last.", lambda one: one.work.phases.decode),
        ("vllm:request_inference_time_seconds", "From a claim to the last.", lambda one: one.work.phases.inference),
        ("vllm:iteration_tokens_total", "Prompt and new tokens of a step.", lambda one: one.engine.step_tokens),
    )
    for name, meaning, read in sources:
        family = HistogramMetricFamily(name, meaning, labels=LABELS)
        for worker, one in stats.items():
            histogram = read(one)
            bounds = [*(str(bound) for bound in histogram.bounds), "+Inf"]
            counts = list(zip(bounds, accumulate(histogram.counts), strict=True))
            family.add_metric((model, ENGINE, worker), buckets=counts, sum_value=histogram.total)
        yield family


def _queue_times(stats: WorkerStats) -> Histogram:
    return Histogram(REQUEST_SECONDS, stats.queue_times.counts, stats.queue_times.sum_s)
