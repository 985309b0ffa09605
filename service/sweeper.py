"""What a gateway looks after in the queue, whether or not a worker lives: jobs that wait past their deadlines.

Every gateway does; what one of them has done is nothing left to do for the others.
"""

import asyncio

import structlog
from redis.exceptions import RedisError

from core.errors import QueueError
from service.queue import JobQueue
from service.tasks import is_cancelled

log = structlog.get_logger()

# How late a job may be told that its deadline passed in the queue.
SWEEP_S = 0.25


class Sweeper:
    """Sweeps one model's queue."""

    def __init__(self, queue: JobQueue) -> None:
        self._queue = queue

    async def run(self) -> None:
        """Sweep until cancelled; a fault of Redis is waited out."""
        while not is_cancelled():
            await asyncio.sleep(SWEEP_S)
            try:
                if num_ended := await self._queue.end_overdue():
                    log.info("deadlines_passed_in_queue", jobs=num_ended)
            except (RedisError, OSError, QueueError) as error:
                log.warning("sweep_failed", error=str(error))
