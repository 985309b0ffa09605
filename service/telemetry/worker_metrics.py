"""What engines counted, as each live worker tells it, labelled by worker: a worker that starts anew begins at zero.

Read from Redis when somebody scrapes, and only then; with Redis out of reach these are missing and `specd_redis_up` is
0, while what the gateway counts itself is still served.
"""

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence
from time import perf_counter
from typing import Any

import structlog
from msgspec import Struct
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from redis.exceptions import RedisError

from client.wire import WORKERS_KEY, worker_key
from core.errors import QueueError
from core.types import Backlog
from service.queue import JobQueue
from service.telemetry.answer_counters import ENGINE
from service.telemetry.recording_metrics import recording_families
from service.telemetry.work_metrics import work_families
from service.telemetry.worker_histograms import LABELS as VLLM_WORKER
from service.telemetry.worker_histograms import histogram_families
from service.telemetry.worker_stats import (
    STATS_FIELD,
    GroupCalibration,
    GroupCounts,
    WorkerStats,
    decode_stats,
)

log = structlog.get_logger()

# A scraper waits ten seconds by default; what the gateway itself knows must reach it in time.
REDIS_S = 2.0

PRIORITY_NAMES = ("high", "normal", "low")
WORKER = ("model_name", "worker")
GROUP = (*WORKER, "drafter", "policy")


class Workers(Struct, frozen=True):
    """The workers of a model by name, with their stats; how many jobs are queued or running, and were given up.

    backlogs are what no worker has taken, by priority. silent_s is how long ago each worker told what it tells, and
    redis_s what a round trip to Redis took.
    """

    model: str
    stats: Mapping[str, WorkerStats]
    num_jobs: int
    num_dead: int
    backlogs: Sequence[Backlog]
    silent_s: Mapping[str, float]
    redis_s: float


async def scrape_workers(queue: JobQueue) -> bytes:
    """Return what the model's workers tell, in Prometheus' text format."""
    registry = CollectorRegistry()
    try:
        async with asyncio.timeout(REDIS_S):
            workers = await read_workers(queue)
    except (RedisError, OSError) as error:
        log.warning("scrape_without_redis", error=str(error))
        registry.register(_Collected([_redis_up(0)]))
    else:
        registry.register(_Collected([_redis_up(1), *families(workers)]))
    return generate_latest(registry)


async def read_workers(queue: JobQueue) -> Workers:
    """Read the stats of every live worker of the queue's model; one whose stats are unreadable is left out."""
    client, model = queue.client, queue.model
    started_s = perf_counter()
    found: Any = await client.smembers(WORKERS_KEY)
    redis_s = perf_counter() - started_s
    names = sorted(name.decode() for name in found)
    async with client.pipeline(transaction=False) as pipe:
        for name in names:
            pipe.hmget(worker_key(name), "model", STATS_FIELD)
            pipe.pttl(worker_key(name))
        rows = await pipe.execute() if names else []
    stats, silent_s = {}, {}
    for name, (served, data), left_ms in zip(names, rows[::2], rows[1::2], strict=True):
        if served is None or served.decode() != model or data is None:
            continue
        try:
            stats[name] = decode_stats(data)
            # A worker's entry is given a lease with every sign of life.
            silent_s[name] = max(0, queue.settings.lease_ms - left_ms) / 1000
        except QueueError as error:
            log.warning("worker_stats_unreadable", worker=name, error=str(error))
    counts = await queue.depth(), await queue.num_dead(), await queue.backlogs()
    return Workers(model, stats, *counts, silent_s, redis_s)


def families(workers: Workers) -> Iterator[Metric]:
    """Yield every metric of the workers."""
    running = sum(stats.engine.running for stats in workers.stats.values())
    yield _gauge("specd_workers", "Live workers.", workers.model, len(workers.stats))
    # A job that has ended is taken out of the queue, so the rest waits: in Redis, or in an engine for a slot.
    waiting = max(0, workers.num_jobs - running)
    yield from _waiting(workers.model, waiting)
    yield from _by_priority(workers)
    yield _gauge("specd_redis_rtt_seconds", "This gateway's round trip to Redis.", workers.model, workers.redis_s)
    yield _gauge("specd_dead_letters", "Jobs given up that are still told of.", workers.model, workers.num_dead)
    for name, meaning, field in (
        ("specd_jobs_given_up", "Jobs that ended their workers too often.", "num_dead"),
        ("specd_group_heals", "Times that a worker made the workers' lost groups again.", "num_heals"),
    ):
        counter = CounterMetricFamily(name, meaning, labels=WORKER)
        for worker, stats in workers.stats.items():
            counter.add_metric((workers.model, worker), getattr(stats, field))
        yield counter
    for name, meaning, field in (
        ("vllm:num_requests_running", "Sequences in the engine's batch.", "running"),
        ("vllm:kv_cache_usage_perc", "Share of KV blocks in use; 1 is all.", "kv_usage"),
    ):
        yield _by_worker(GaugeMetricFamily(name, meaning, labels=VLLM_WORKER), workers, field)
    yield _cache_config(workers)
    yield _kv_reserved(workers)
    yield from _engine_counters(workers)
    yield from _output(workers)
    yield from _group_counters(workers)
    yield from _calibrations(workers)
    yield from _benefits(workers)
    yield from work_families(workers.model, workers.stats, workers.silent_s)
    yield from recording_families(workers.model, workers.stats)
    yield from histogram_families(workers.model, workers.stats)


def _by_worker(
    family: GaugeMetricFamily | CounterMetricFamily, workers: Workers, field: str
) -> GaugeMetricFamily | CounterMetricFamily:
    """Add one value per worker, a field of its engine's statistics, to a family under vLLM's name."""
    for worker, stats in workers.stats.items():
        family.add_metric((workers.model, ENGINE, worker), getattr(stats.engine, field))
    return family


def _waiting(model: str, num_waiting: int) -> Iterator[Metric]:
    """Yield how many jobs wait, and why: nothing is deferred here for other reasons than room."""
    whole = GaugeMetricFamily(
        "vllm:num_requests_waiting", "Jobs that nobody works on yet.", labels=("model_name", "engine")
    )
    whole.add_metric((model, ENGINE), num_waiting)
    reasons = GaugeMetricFamily(
        "vllm:num_requests_waiting_by_reason", "The same by reason.", labels=("model_name", "engine", "reason")
    )
    for reason, count in (("capacity", num_waiting), ("deferred", 0)):
        reasons.add_metric((model, ENGINE, reason), count)
    yield from (whole, reasons)


def _cache_config(workers: Workers) -> Metric:
    info = GaugeMetricFamily(
        "vllm:cache_config_info", "The KV cache; always 1.", labels=(*VLLM_WORKER, "block_size", "num_gpu_blocks")
    )
    for worker, stats in workers.stats.items():
        blocks = stats.engine.kv_blocks
        info.add_metric((workers.model, ENGINE, worker, str(blocks.size), str(blocks.count)), 1)
    return info


def _by_priority(workers: Workers) -> Iterator[Metric]:
    labels = ("model_name", "priority")
    waiting = GaugeMetricFamily("specd_queue_waiting", "Jobs that no worker has taken.", labels=labels)
    oldest = GaugeMetricFamily("specd_queue_oldest_seconds", "How long the oldest of them has waited.", labels=labels)
    for name, backlog in zip(PRIORITY_NAMES, workers.backlogs, strict=True):
        waiting.add_metric((workers.model, name), backlog.num_waiting)
        oldest.add_metric((workers.model, name), backlog.oldest_wait_s)
    yield from (waiting, oldest)


def _kv_reserved(workers: Workers) -> Metric:
    gauge = GaugeMetricFamily(
        "specd_kv_reserved_bytes", "Memory that KV reserves, for the target and by drafter.", labels=(*WORKER, "group")
    )
    for worker, stats in workers.stats.items():
        for group, num_bytes in stats.engine.kv_bytes.items():
            gauge.add_metric((workers.model, worker, group), num_bytes)
    return gauge


def _engine_counters(workers: Workers) -> Iterator[Metric]:
    for name, meaning, field in (
        ("vllm:num_preemptions", "Sequences put back for want of KV blocks.", "preemptions"),
        ("vllm:prefix_cache_queries", "Prompt tokens looked up in the prefix cache.", "prefix_queries"),
        ("vllm:prefix_cache_hits", "Prompt tokens found there.", "prefix_hits"),
        ("specd_engine_steps", "Steps taken.", "steps"),
        ("specd_engine_emitted_tokens", "Tokens computed, those past a stop text included.", "emitted"),
        ("specd_engine_catch_up_rows", "Target rows run again for a drafter that had not followed.", "catch_up_rows"),
        ("specd_engine_constrained_rounds", "Verdicts on answers with a grammar.", "constrained_rounds"),
        ("specd_engine_forced_draft_tokens", "Drafts that a grammar forced, verified.", "forced_verified"),
        ("specd_engine_forced_accepted_tokens", "Those that were accepted.", "forced_accepted"),
        ("specd_engine_cost_predicted_seconds", "What the cost table predicted for steps.", "cost_predicted_s"),
        ("specd_engine_cost_actual_seconds", "What those steps took.", "cost_actual_s"),
    ):
        if name.startswith("vllm:"):
            yield _by_worker(CounterMetricFamily(name, meaning, labels=VLLM_WORKER), workers, field)
            continue
        counter = CounterMetricFamily(name, meaning, labels=WORKER)
        for worker, stats in workers.stats.items():
            counter.add_metric((workers.model, worker), getattr(stats.engine, field))
        yield counter
    for name, meaning, field in (
        ("specd_engine_step_seconds", "Time in steps, by part.", "seconds"),
        ("specd_engine_fallbacks", "Steps that went on without a part that failed.", "fallbacks"),
    ):
        counter = CounterMetricFamily(name, meaning, labels=(*WORKER, "part"))
        for worker, stats in workers.stats.items():
            for part, value in getattr(stats.engine, field).items():
                counter.add_metric((workers.model, worker, part), value)
        yield counter


def _output(workers: Workers) -> Iterator[Metric]:
    for name, meaning, field in (
        ("specd_output_steps", "Steps whose tokens were written to their streams.", "steps"),
        ("specd_output_seconds", "Time that took, beside the engine's next steps.", "write_s"),
        ("specd_output_held_seconds", "Time in which the engine waited for it.", "held_s"),
    ):
        counter = CounterMetricFamily(name, meaning, labels=WORKER)
        for worker, stats in workers.stats.items():
            counter.add_metric((workers.model, worker), getattr(stats.output, field))
        yield counter


def _group_counters(workers: Workers) -> Iterator[Metric]:
    for name, meaning, field in (
        ("specd_engine_rounds", "Verdicts of one sequence each, plain decoding included.", "rounds"),
        ("specd_engine_drafted_tokens", "Draft tokens proposed.", "drafted"),
        ("specd_engine_allowed_tokens", "Draft tokens that plans would have had verified at most.", "allowed"),
        ("specd_engine_verified_tokens", "Draft tokens sent to the target.", "verified"),
        ("specd_engine_expected_tokens", "Verified draft tokens that admission expected to be kept.", "expected"),
        ("specd_engine_accepted_tokens", "Draft tokens kept.", "accepted"),
    ):
        yield _by_group(workers, name, meaning, field)
    for name, meaning, field in (
        ("specd_engine_verified_tokens_per_pos", "Draft tokens sent to the target, by position.", "verified_at"),
        ("specd_engine_accepted_tokens_per_pos", "Draft tokens kept, by position.", "accepted_at"),
    ):
        counter = CounterMetricFamily(name, meaning, labels=(*GROUP, "position"))
        for worker, group in _groups(workers):
            for position, count in enumerate(getattr(group, field)):
                counter.add_metric((workers.model, worker, group.drafter, group.policy, str(position)), count)
        yield counter
    length = GaugeMetricFamily(
        "specd_accepted_length", "Tokens per round since the start, bonus included.", labels=GROUP
    )
    for worker, group in _groups(workers):
        if group.rounds:
            value = (group.accepted + group.rounds) / group.rounds
            length.add_metric((workers.model, worker, group.drafter, group.policy), value)
    yield length


def _benefits(workers: Workers) -> Iterator[Metric]:
    """Yield whether speculation pays (engine/benefit.py)."""
    for name, meaning, field in (
        ("specd_speculation_plain_seconds", "Time in which plain steps would have made the same tokens.", "plain_s"),
        ("specd_speculation_spent_seconds", "Time in which they were made.", "spent_s"),
    ):
        yield _by_group(workers, name, meaning, field)
    ratio = GaugeMetricFamily(
        "specd_speculation_benefit", "Tokens per second lately over those of plain steps.", labels=GROUP
    )
    for worker, group in _groups(workers):
        if group.benefit is not None:
            ratio.add_metric((workers.model, worker, group.drafter, group.policy), group.benefit)
    yield ratio


def _by_group(workers: Workers, name: str, meaning: str, field: str) -> Metric:
    """Return a counter with one value per drafter and policy of a worker, a field of its counts."""
    counter = CounterMetricFamily(name, meaning, labels=GROUP)
    for worker, group in _groups(workers):
        counter.add_metric((workers.model, worker, group.drafter, group.policy), getattr(group, field))
    return counter


def _groups(workers: Workers) -> list[tuple[str, GroupCounts]]:
    return [(worker, group) for worker, stats in workers.stats.items() for group in stats.engine.groups]


def _calibrations(workers: Workers) -> Iterator[Metric]:
    """Yield how well survivals were calibrated, on the last rounds that were verified in full."""
    groups = [(worker, group) for worker, stats in workers.stats.items() for group in stats.engine.calibrations]

    def labels(worker: str, group: GroupCalibration) -> tuple[str, ...]:
        return workers.model, worker, group.drafter, group.policy

    for name, meaning, field in (
        ("specd_calibration_error", "Expected calibration error of survivals, debiased.", "ece"),
        ("specd_calibration_auc", "Chance that an accepted draft was trusted more than a rejected one.", "auc"),
        ("specd_calibration_brier", "Mean squared distance of survivals and what happened.", "brier"),
    ):
        gauge = GaugeMetricFamily(name, meaning, labels=(*GROUP, "position"))
        for worker, group in groups:
            for position, value in enumerate(getattr(group.report, field)):
                if value is not None:
                    gauge.add_metric((*labels(worker, group), str(position)), value)
        yield gauge
    for name, meaning, field in (
        ("specd_calibration_rounds", "Rounds verified in full that the calibration is judged by.", "rounds"),
        ("specd_calibration_predicted_length", "Accepted length that survivals promised.", "predicted_length"),
        ("specd_calibration_observed_length", "Accepted length that came of it.", "observed_length"),
    ):
        gauge = GaugeMetricFamily(name, meaning, labels=GROUP)
        for worker, group in groups:
            value = getattr(group.report, field)
            if value is not None:
                gauge.add_metric(labels(worker, group), value)
        yield gauge
    fallback = GaugeMetricFamily("specd_calibration_fallback", "Rungs climbed on the drift ladder.", labels=GROUP)
    alarms = CounterMetricFamily("specd_calibration_drift_alarms", "Drift alarms.", labels=GROUP)
    for worker, group in groups:
        fallback.add_metric(labels(worker, group), group.fallback)
        alarms.add_metric(labels(worker, group), group.num_alarms)
    yield from (fallback, alarms)


def _gauge(name: str, meaning: str, model: str, value: float) -> Metric:
    gauge = GaugeMetricFamily(name, meaning, labels=("model_name",))
    gauge.add_metric((model,), value)
    return gauge


def _redis_up(value: float) -> Metric:
    return GaugeMetricFamily("specd_redis_up", "Whether Redis answered this scrape.", value=value)


class _Collected(Collector):
    """Metrics that were computed before the scrape asks for them."""

    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = list(metrics)

    def collect(self) -> Iterator[Metric]:
        yield from self._metrics
