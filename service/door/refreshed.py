"""What was read of Redis a moment ago, so that a request need not wait for it to be read again."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

import structlog
from redis.exceptions import RedisError

log = structlog.get_logger()

T = TypeVar("T")

# What nobody waits for is read when whoever asked has gone on: it must not take its turn with Redis.
LATER_S = 0.005


class Refreshed(Generic[T]):
    """A value that is read when somebody asks for it: those who can do with an older one need not wait.

    read may raise RedisError or OSError; so does `get` then, for everybody who waits for it.
    """

    def __init__(self, read: Callable[[], Awaitable[T]], clock: Callable[[], float] = time.monotonic) -> None:
        self._read, self._clock = read, clock
        self._read_at_s = 0.0
        self._reading: asyncio.Task[T] | None = None
        self._later: asyncio.TimerHandle | None = None
        self.last: T | None = None

    async def get(self, fresh_s: float, good_s: float = 0.0) -> T:
        """Return the value: as it is where it is no older than `fresh_s`; older ones are read anew.

        One of at most `good_s` is returned nevertheless, and what is read is for those who ask later.
        """
        age_s = self._clock() - self._read_at_s
        if self.last is not None and age_s <= fresh_s:
            return self.last
        if self.last is not None and age_s <= good_s:
            if self._reading is None and self._later is None:
                self._later = asyncio.get_running_loop().call_later(LATER_S, self._begin)
            return self.last
        # Whoever leaves must not take the answer from the others.
        return await asyncio.shield(self._begin())

    def _begin(self) -> asyncio.Task[T]:
        self._later = None
        if self._reading is None:
            self._reading = asyncio.create_task(self._renew())
            self._reading.add_done_callback(self._renewed)
        return self._reading

    async def _renew(self) -> T:
        started_s = self._clock()
        value = await self._read()
        self.last, self._read_at_s = value, started_s
        return value

    def _renewed(self, task: asyncio.Task[T]) -> None:
        self._reading = None
        if task.cancelled() or (error := task.exception()) is None:
            return
        if isinstance(error, RedisError | OSError):
            log.debug("refresh_failed", error=str(error))
        else:
            log.error("refresh_failed", error=repr(error), exc_info=error)
