"""What a gateway looks after in the queue, whether or not a worker lives: jobs that wait past their deadlines, and
the names of those who are gone.

Every gateway does; what one of them has done is nothing left to do for the others.
"""

import asyncio
import time

import structlog
from redis.exceptions import RedisError

from core.errors import QueueError
from service.queue import JobQueue
from service.tasks import is_cancelled

log = structlog.get_logger()

# How late a job may be told that its deadline passed in the queue.
SWEEP_S = 0.25
# How often workers and gateways are looked for that are gone.
RETIRE_S = 60.0


class Sweeper:
    """Sweeps one model's queue."""

    def __init__(self, queue: JobQueue) -> None:
        self._queue = queue

    async def run(self) -> None:
        """Sweep until cancelled; a fault of Redis is waited out."""
        next_retire_s = 0.0
        while not is_cancelled():
            await asyncio.sleep(SWEEP_S)
            try:
                if time.monotonic() >= next_retire_s:
                    next_retire_s = time.monotonic() + RETIRE_S
                    if num_gone := await self._queue.retire():
                        log.info("consumers_retired", consumers=num_gone)
                if num_ended := await self._queue.end_overdue():
                    log.info("deadlines_passed_in_queue", jobs=num_ended)
            except (RedisError, OSError, QueueError) as error:
                log.warning("sweep_failed", error=str(error))
