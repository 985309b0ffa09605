"""Answers that live as long as a connection, and the gateways that hold those: whose gateway is gone are cancelled.

Each gateway beats in a hash of its model's gateways and keeps the ids of its open answers in a set. The others watch
the beats; one that stands still for the grace is taken for dead. Looks are counted, not seconds, and from nothing after
any fault of Redis: who was paused, or out of Redis's reach together with the rest, takes nobody for dead. Nor does one
whose own beat stands still, as while Redis is full. Jobs that are made as such, over /v1/jobs or straight through
Redis, stand in no such set.
"""

import asyncio
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import structlog
from redis.exceptions import RedisError

from client.wire import answers_key, gateways_key
from service.queue import LIVE_TTL_S, JobQueue
from service.tasks import is_cancelled

log = structlog.get_logger()

BEAT_S = 1.0
# How often others look, and after how many looks without a beat a gateway is gone: a grace of five seconds.
LOOK_S = 1.0
GRACE_LOOKS = 5
# A look may fall between two beats of one's own, but not two in a row.
OWN_LOOKS = 2


class OpenAnswers:
    """This gateway's open answers, and its beat."""

    def __init__(self, queue: JobQueue) -> None:
        self._client, self._gateways = queue.client, gateways_key(queue.model)
        self.gateway = uuid.uuid4().hex
        self._key = answers_key(self.gateway)
        self._open: set[str] = set()
        self._closed: set[str] = set()

    @contextmanager
    def held(self, job_ids: Sequence[str]) -> Iterator[str]:
        """Have jobs cancelled if this gateway dies within the context.

        Yields the key of the set that they are to be put into, with or before their submission; every beat does, too.
        """
        self._open.update(job_ids)
        try:
            yield self._key
        finally:
            # With the next beat: cancelling what has ended does nothing.
            self._open.difference_update(job_ids)
            self._closed.update(job_ids)

    async def keep(self) -> None:
        """Beat until cancelled, then sign off."""
        try:
            while not is_cancelled():
                try:
                    await self._beat()
                except (RedisError, OSError) as error:
                    log.warning("gateway_beat_failed", error=str(error))
                await asyncio.sleep(BEAT_S)
        finally:
            await self._leave()

    async def _beat(self) -> None:
        closed = tuple(self._closed)
        async with self._client.pipeline(transaction=False) as pipe:
            pipe.hincrby(self._gateways, self.gateway, 1)
            if closed:
                pipe.srem(self._key, *closed)
            # What an emptied Redis has lost is told again.
            if self._open:
                pipe.sadd(self._key, *self._open)
            for key in (self._key, self._gateways):
                pipe.expire(key, LIVE_TTL_S)
            await pipe.execute()
        self._closed.difference_update(closed)

    async def _leave(self) -> None:
        """Sign off; answers that are still open are left to the others, who will find that nobody beats."""
        if self._open:
            return
        try:
            await self._client.hdel(self._gateways, self.gateway)
            await self._client.delete(self._key)
        except (RedisError, OSError) as error:
            log.warning("gateway_leave_failed", error=str(error))


class GoneGateways:
    """Cancels the open answers of gateways that are gone, as `own` sees it; methods raise RedisError and OSError."""

    def __init__(self, queue: JobQueue, own: str) -> None:
        self._queue, self._gateways, self._own = queue, gateways_key(queue.model), own.encode()
        # By gateway, its last beat and the looks that it has stood at it.
        self._seen: dict[bytes, tuple[bytes, int]] = {}

    async def cancel(self) -> int:
        """Look once; return how many answers were cancelled."""
        try:
            beats: Any = await self._queue.client.hgetall(self._gateways)
        except (RedisError, OSError):
            self._seen.clear()
            raise
        self._seen = {gateway: (beat, self._num_looks(gateway, beat)) for gateway, beat in beats.items()}
        if self._own not in self._seen or self._seen[self._own][1] >= OWN_LOOKS:
            self._seen.clear()
        gone = [gateway for gateway, (_, num_looks) in self._seen.items() if num_looks >= GRACE_LOOKS]
        return sum([await self._cancel(gateway) for gateway in gone])

    def _num_looks(self, gateway: bytes, beat: bytes) -> int:
        before, num_looks = self._seen.get(gateway, (None, 0))
        return num_looks + 1 if before == beat else 0

    async def _cancel(self, gateway: bytes) -> int:
        key = answers_key(gateway.decode())
        found: Any = await self._queue.client.smembers(key)
        job_ids = sorted(job_id.decode() for job_id in found)
        if job_ids:
            await self._queue.cancel(*job_ids)
        # Last: a sweeper that dies before leaves all of it to the next.
        await self._queue.client.delete(key)
        await self._queue.client.hdel(self._gateways, gateway)
        log.warning("gateway_gone", gateway=gateway.decode(), answers=len(job_ids))
        return len(job_ids)
