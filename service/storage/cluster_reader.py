"""The reader of a gateway on a Redis Cluster: every stream is read over a connection of its own.

No command reads streams of two slots, and each job has a slot of its own; so what is one blocking read on a plain Redis
is one for each stream here. A read that blocks costs Redis nothing, and the connections are used again.
"""

import asyncio
import time
from typing import Any

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from service.storage.followers import MAX_EVENTS, Events, Follower
from service.storage.reader import BLOCK_MS, RETRY_S, StreamReader, Submit
from service.storage.redis_cluster import ClusterClient
from service.tasks import is_cancelled

log = structlog.get_logger()


class ClusterReader(StreamReader):
    """Fans entries of jobs' out streams to their followers, stream by stream."""

    def __init__(self, reading: ClusterClient, writing: Redis) -> None:
        super().__init__(writing, writing)
        self._cluster = reading
        # By stream, the read that goes on, and when it was answered last.
        self._reads: dict[str, asyncio.Task[None]] = {}
        self._answered: dict[str, float] = {}
        self._changed = asyncio.Event()

    def cut_off(self, longest_s: float) -> list[Events]:
        """Return what waits for a stream whose node has not answered for longer than this."""
        oldest_s = time.monotonic() - longest_s
        silent = {key for key, answered_s in self._answered.items() if answered_s < oldest_s}
        return [events for events in self.open if any(one.key in silent for one in events.followers)]

    async def run(self) -> None:
        """Read until cancelled; a fault of Redis is waited out, streams go on where they were."""
        async with asyncio.TaskGroup() as group:
            while not is_cancelled():
                self._changed.clear()
                for key in self._followers.keys() - self._reads.keys():
                    self._reads[key] = group.create_task(self._read(key))
                await self._changed.wait()

    async def _read(self, key: str) -> None:
        """Read one stream for as long as somebody waits for more of it."""
        self._answered[key] = time.monotonic()
        while not is_cancelled() and (followers := self._waiting(key)):
            least = min(followers, key=lambda one: one.place)
            asked = least.place
            try:
                rows = await self._cluster.read_stream(key, least.last, MAX_EVENTS, BLOCK_MS)
            except (RedisError, OSError) as error:
                log.warning("read_failed", stream=key, error=str(error))
                await asyncio.sleep(RETRY_S)
                continue
            if is_cancelled():
                return
            self._answered[key] = time.monotonic()
            # Who came while this was read, and needs more than was asked for, is served by the next read.
            self._give([one for one in self._followers.get(key, ()) if one.place >= asked], rows)
        if self._reads.get(key) is asyncio.current_task():
            self._end_read(key)

    def _waiting(self, key: str) -> list[Follower]:
        return [one for one in self._followers.get(key, ()) if not one.has_end]

    async def _submit(self, submit: Submit) -> None:
        await submit(None)
        self._changed.set()

    async def _wake(self) -> None:
        self._changed.set()

    def _attach(self, follower: Follower) -> None:
        super()._attach(follower)
        # A read that blocks would not see that somebody needs more of its stream.
        self._end_read(follower.key)

    def _detach(self, follower: Follower) -> None:
        super()._detach(follower)
        if follower.key not in self._followers:
            self._end_read(follower.key)

    def _end_read(self, key: str) -> None:
        self._answered.pop(key, None)
        read = self._reads.pop(key, None)
        if read is not None and read is not asyncio.current_task():
            read.cancel()


def reader_of(reading: Any, writing: Redis) -> StreamReader:
    """Return the reader that the kind of Redis asks for."""
    return ClusterReader(reading, writing) if isinstance(reading, ClusterClient) else StreamReader(reading, writing)
