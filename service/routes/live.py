"""What the page draws, in one answer: what the workers of the model tell, what waits, what may be asked for.

The same numbers as in /metrics and /specd/steps, as JSON, with the times at which workers told them: rates over those
are right however often somebody asks. No text, and no ids of jobs, users or tenants.
"""

import asyncio
import time

from msgspec import Struct
from redis.exceptions import RedisError

from client.wire import DrafterState
from core.config import Settings, kind_of
from core.types import SamplingDefaults
from service.door.speculation import KnownNames
from service.queue import JobQueue
from service.telemetry.arm_sums import ArmFigures, ArmSums
from service.telemetry.worker_metrics import PRIORITY_NAMES, REDIS_S, Workers, read_workers
from service.telemetry.worker_stats import EngineCounts


class Choices(Struct, frozen=True):
    """What a request's `speculation` may name, what stands for nothing said, and under which law draws are made.

    sampling has the values of the fields of these names that a request leaves out.
    """

    drafters: tuple[str, ...]
    policies: tuple[str, ...]
    default_drafter: str
    default_policy: str
    verifier: str
    numerics: str
    sampling: SamplingDefaults


class LiveWorker(Struct, frozen=True):
    """One worker; told_s is the Unix time at which it told its engine's counts, silent_s seconds ago."""

    name: str
    told_s: float
    silent_s: float
    engine: EngineCounts
    drafters: tuple[DrafterState, ...]
    dead: int


class Waiting(Struct, frozen=True):
    """Jobs of one priority that no worker has taken, and for how long the oldest of them has waited."""

    priority: str
    jobs: int
    oldest_s: float


class Live(Struct, frozen=True):
    """The state of a model's service, as one gateway sees it.

    jobs        queued or running, of all gateways; None while Redis is out of reach, when there are no workers either
    redis_s     what a round trip to Redis took; None as above
    arms        what this gateway's clients saw since it started
    """

    model: str
    now_s: float
    choices: Choices
    arms: tuple[ArmFigures, ...]
    jobs: int | None = None
    redis_s: float | None = None
    waiting: tuple[Waiting, ...] = ()
    workers: tuple[LiveWorker, ...] = ()


class LiveReader:
    """Reads the present state, whenever it is asked for."""

    def __init__(
        self, settings: Settings, queue: JobQueue, known: KnownNames, arms: ArmSums, defaults: SamplingDefaults
    ) -> None:
        self._settings, self._queue, self._known, self._arms = settings, queue, known, arms
        self._defaults = defaults

    async def read(self) -> Live:
        """Return the present state; with Redis out of reach, as much of it as is known here."""
        try:
            async with asyncio.timeout(REDIS_S):
                workers = await read_workers(self._queue)
        except (RedisError, OSError):
            return Live(self._queue.model, time.time(), self._choices(self._known.drafters), self._arms.told())
        now_s = time.time()
        loaded = {one.name for stats in workers.stats.values() for one in stats.drafters if one.serves}
        drafters = (*self._known.drafters, *sorted(loaded - set(self._known.drafters)))
        return Live(
            workers.model,
            now_s,
            self._choices(drafters),
            self._arms.told(),
            workers.num_jobs,
            workers.redis_s,
            tuple(
                Waiting(name, backlog.num_waiting, backlog.oldest_wait_s)
                for name, backlog in zip(PRIORITY_NAMES, workers.backlogs, strict=True)
            ),
            tuple(_worker(workers, name, now_s) for name in workers.stats),
        )

    def _choices(self, drafters: tuple[str, ...]) -> Choices:
        settings = self._settings
        return Choices(
            drafters,
            self._known.policies,
            kind_of(settings.drafter),
            kind_of(settings.policy),
            settings.engine.verifier,
            settings.engine.numerics,
            self._defaults,
        )


def _worker(workers: Workers, name: str, now_s: float) -> LiveWorker:
    stats, silent_s = workers.stats[name], workers.silent_s[name]
    return LiveWorker(name, now_s - silent_s, silent_s, stats.engine, stats.drafters, stats.num_dead)
