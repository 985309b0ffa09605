"""What became of the answers that workers were to record."""

from collections.abc import Iterator, Mapping

from prometheus_client.core import CounterMetricFamily
from prometheus_client.metrics_core import Metric

from service.telemetry.worker_stats import WorkerStats

LABELS = ("model_name", "worker")


def recording_families(model: str, stats: Mapping[str, WorkerStats]) -> Iterator[Metric]:
    """Yield them for the workers of one model that record."""
    recorded = CounterMetricFamily("specd_recorded_answers", "Answers written to the recording.", labels=LABELS)
    dropped = CounterMetricFamily(
        "specd_recording_dropped",
        "Answers that were to be recorded and are not, by reason.",
        labels=(*LABELS, "reason"),
    )
    for worker, one in stats.items():
        if one.recording is None:
            continue
        recorded.add_metric((model, worker), one.recording.num_recorded)
        for reason, count in one.recording.dropped.items():
            dropped.add_metric((model, worker, reason), count)
    yield from (recorded, dropped)
