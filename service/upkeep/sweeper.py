"""What a gateway looks after in the queue, whether or not a worker lives: what waits too long, and what others left.

Every gateway does; what one of them has done is nothing left to do for the others.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable

import structlog
from prometheus_client import Counter
from redis.exceptions import RedisError

from client.wire import INTAKE_GROUP, INTAKE_STREAM, PRIORITIES, WORKER_GROUP, queue_stream
from core.errors import QueueError
from service.queue import JobQueue
from service.storage.scripts import Call
from service.tasks import is_cancelled
from service.telemetry.upkeep_metrics import UpkeepMetrics
from service.upkeep.lost_entries import LostEntries
from service.upkeep.open_answers import LOOK_S, GoneGateways

log = structlog.get_logger()

# How late a job may be told that its deadline passed in the queue.
SWEEP_S = 0.25
RESTORE_S = 5.0
PRUNE_S = 60.0
# A live reader is heard of twice a second, unless its hands are full.
CONSUMER_IDLE_MS = 300_000


class Chore:
    """Something to be done every so often; counter counts what its doing returns."""

    def __init__(self, event: str, every_s: float, do: Callable[[], Awaitable[int]], counter: Counter | None) -> None:
        self._event, self._every_s, self._do, self._counter = event, every_s, do, counter
        self._next_s = time.monotonic() + every_s

    async def do(self) -> None:
        """Do it if it is due; a fault of Redis is waited out."""
        if time.monotonic() < self._next_s:
            return
        self._next_s = time.monotonic() + self._every_s
        try:
            if count := await self._do():
                log.info(self._event, count=count)
                if self._counter:
                    self._counter.inc(count)
        except (RedisError, OSError, QueueError) as error:
            log.warning("sweep_failed", chore=self._event, error=str(error))


class Sweeper:
    """Sweeps one model's queue for the gateway of this name."""

    def __init__(self, queue: JobQueue, metrics: UpkeepMetrics, gateway: str) -> None:
        self._queue = queue
        self._chores = (
            Chore("deadlines_passed_in_queue", SWEEP_S, queue.end_overdue, None),
            Chore("orphans_cancelled", LOOK_S, GoneGateways(queue, gateway).cancel, metrics.orphans),
            Chore("entries_restored", RESTORE_S, LostEntries(queue).restore, metrics.restored),
            Chore("consumers_removed", PRUNE_S, self._prune, metrics.consumers),
        )

    async def run(self) -> None:
        """Sweep until cancelled."""
        while not is_cancelled():
            await asyncio.sleep(SWEEP_S)
            for chore in self._chores:
                await chore.do()

    async def _prune(self) -> int:
        """Remove consumers that nobody is any more: every start of a process leaves one behind."""
        groups = [(queue_stream(self._queue.model, priority), WORKER_GROUP) for priority in PRIORITIES]
        calls = [((stream,), (group, CONSUMER_IDLE_MS)) for stream, group in (*groups, (INTAKE_STREAM, INTAKE_GROUP))]
        return sum([await self._queue.scripts.run("prune", Call(*call)) for call in calls])
