"""How workers fare with their jobs and with Redis: takeovers, refused writes, signs of life."""

from collections.abc import Iterator, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from service.telemetry.worker_stats import WorkerStats

LABELS = ("model_name", "worker")


def work_families(model: str, stats: Mapping[str, WorkerStats], silent_s: Mapping[str, float]) -> Iterator[Metric]:
    """Yield them for the workers of one model, by name; silent_s is how long ago each told what it tells."""
    for name, meaning, field in (
        ("specd_reclaims", "Queue entries taken from workers that had fallen silent.", "num_reclaimed"),
        ("specd_takeovers", "Jobs gone on with that another worker had held.", "num_taken_over"),
        ("specd_fenced_writes", "Writes refused because another worker had the job.", "num_fenced"),
    ):
        counter = CounterMetricFamily(name, meaning, labels=LABELS)
        for worker, one in stats.items():
            counter.add_metric((model, worker), getattr(one.work, field))
        yield counter
    age = GaugeMetricFamily(
        "specd_heartbeat_age_seconds", "Since the worker's claims were last renewed.", labels=LABELS
    )
    redis = GaugeMetricFamily("specd_worker_redis_rtt_seconds", "The worker's last round trip to Redis.", labels=LABELS)
    for worker, one in stats.items():
        age.add_metric((model, worker), one.work.beat_age_s + silent_s.get(worker, 0.0))
        if one.work.redis_s is not None:
            redis.add_metric((model, worker), one.work.redis_s)
    yield from (age, redis)
