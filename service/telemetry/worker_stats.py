"""What a worker tells of itself with each sign of life, for gateways to publish: its engine's counts, its queue times.

Everything counts from the worker's start. A field that one side does not know is left out by it, so that gateways and
workers of different versions can work together.
"""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Struct, field

from client.wire import DrafterState
from core.errors import QueueError
from core.histogram import REQUEST_SECONDS, STEP_TOKENS, Histogram
from core.step_record import StepRecord
from policies.calibration_report import CalibrationReport
from service.telemetry.phases import Phases

# Field of a worker's hash (client.wire.worker_key) that holds its WorkerStats as JSON.
STATS_FIELD = "stats"


class GroupCounts(Struct, frozen=True):
    """What speculation did for one drafter under one policy: verdicts, draft tokens, and these by draft position.

    allowed      draft tokens that plans would have had verified at most
    expected     accepted ones that admission expected
    plain_s, spent_s   seconds that plain steps would have taken for the tokens of steps, by the cost table, and that
                 these took; benefit is the ratio of the two lately, None where it is not known
    """

    drafter: str
    policy: str
    rounds: int = 0
    drafted: int = 0
    allowed: int = 0
    verified: int = 0
    accepted: int = 0
    expected: float = 0.0
    plain_s: float = 0.0
    spent_s: float = 0.0
    benefit: float | None = None
    verified_at: tuple[int, ...] = ()
    accepted_at: tuple[int, ...] = ()


class GroupCalibration(Struct, frozen=True):
    """How the calibration of one drafter under one policy fares.

    fallback    rungs of the ladder that drift has made it climb, 0 to 3 (policies/drift.py)
    """

    drafter: str
    policy: str
    report: CalibrationReport = CalibrationReport()
    fallback: int = 0
    num_alarms: int = 0


class KVBlocks(Struct, frozen=True):
    """The KV cache: how many blocks of how many tokens."""

    count: int = 0
    size: int = 0


class EngineCounts(Struct, frozen=True):
    """An engine's snapshot: what it has counted since it started, and what it holds now.

    seconds are by part of the step, fallbacks by what failed; the cost table predicted cost_predicted_s for steps that
    took cost_actual_s; slots is how many sequences can run at once; kv_usage is the share of KV blocks in use; kv_bytes
    what KV reserves, for the target and by drafter; recent_steps are the newest, oldest first.
    """

    steps: int = 0
    emitted: int = 0
    catch_up_rows: int = 0
    constrained_rounds: int = 0
    forced_verified: int = 0
    forced_accepted: int = 0
    preemptions: int = 0
    prefix_queries: int = 0
    prefix_hits: int = 0
    running: int = 0
    slots: int = 0
    waiting: int = 0
    kv_usage: float = 0.0
    kv_bytes: dict[str, int] = field(default_factory=dict)
    kv_blocks: KVBlocks = KVBlocks()
    step_tokens: Histogram = field(default_factory=lambda: Histogram.of(STEP_TOKENS))
    cost_predicted_s: float = 0.0
    cost_actual_s: float = 0.0
    fallbacks: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    groups: tuple[GroupCounts, ...] = ()
    calibrations: tuple[GroupCalibration, ...] = ()
    recent_steps: tuple[StepRecord, ...] = ()


class QueueTimes(Struct):
    """How long jobs waited for this worker, as a histogram; mutated by the worker's intake only.

    counts has one entry per bound of REQUEST_SECONDS and one beyond the last.
    """

    counts: list[int] = field(default_factory=lambda: [0] * (len(REQUEST_SECONDS) + 1))
    sum_s: float = 0.0

    def observe(self, waited_s: float) -> None:
        """Count one job; clocks of two machines may differ, so no wait is below zero."""
        waited_s = max(0.0, waited_s)
        self.counts[bisect_left(REQUEST_SECONDS, waited_s)] += 1
        self.sum_s += waited_s


class OutputCounts(Struct, frozen=True):
    """What it takes to get tokens from the engine into streams.

    write_s are the seconds in which steps became text and went to Redis, beside the engine's next step; held_s those in
    which the engine had to wait because its output was behind.
    """

    steps: int = 0
    write_s: float = 0.0
    held_s: float = 0.0


class WorkCounts(Struct, frozen=True):
    """How a worker fares with its jobs and with Redis.

    num_reclaimed   queue entries taken from workers that had fallen silent
    num_taken_over  jobs begun that another worker had held before
    num_fenced      writes that Redis refused because another worker had the job
    beat_age_s      since the last sign of life that kept this worker's claims
    redis_s         what the last round trip to Redis took; None before the first
    phases          how long jobs took
    """

    num_reclaimed: int = 0
    num_taken_over: int = 0
    num_fenced: int = 0
    beat_age_s: float = 0.0
    redis_s: float | None = None
    phases: Phases = field(default_factory=Phases)


class RecordingCounts(Struct, frozen=True):
    """Answers that were recorded, and that were to be and are not, by reason (service/recording/recording.py)."""

    num_recorded: int = 0
    dropped: dict[str, int] = field(default_factory=dict)


class WorkerStats(Struct, frozen=True):
    """All that one worker tells; num_dead counts the jobs that it gave up (queue.max_attempts).

    num_heals counts the times that it found the workers' groups missing and made them again; recording is None where
    nothing is recorded.
    """

    engine: EngineCounts
    queue_times: QueueTimes = field(default_factory=QueueTimes)
    drafters: tuple[DrafterState, ...] = ()
    num_dead: int = 0
    output: OutputCounts = OutputCounts()
    num_heals: int = 0
    work: WorkCounts = field(default_factory=WorkCounts)
    recording: RecordingCounts | None = None


def encode_stats(
    snapshot: Mapping[str, Any],
    queue_times: QueueTimes,
    drafters: Sequence[DrafterState] = (),
    num_dead: int = 0,
    output: OutputCounts | None = None,
    num_heals: int = 0,
    work: WorkCounts | None = None,
    recording: RecordingCounts | None = None,
) -> bytes:
    """Return what goes into a worker's hash; snapshot is the engine's."""
    told = {"engine": snapshot, "queue_times": queue_times, "drafters": drafters, "num_dead": num_dead}
    told |= {"output": output or OutputCounts(), "num_heals": num_heals, "work": work or WorkCounts()}
    told |= {"recording": recording}
    return msgspec.json.encode(told)


def decode_stats(data: bytes) -> WorkerStats:
    """Read what a worker's hash holds; raises QueueError if it is no WorkerStats."""
    try:
        return msgspec.json.decode(data, type=WorkerStats)
    except msgspec.DecodeError as error:
        raise QueueError(f"a worker's stats cannot be read: {error}") from error
