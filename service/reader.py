"""One blocking reader for all open streams of a gateway: a single connection, however many clients follow.

A new follower has to be noticed while the reader blocks, so the reader also follows a small stream of its own that
`follow` writes to.
"""

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from client.wire import OUT_FIELD, Chunk, Final, Usage, WireError, decode_event, out_stream
from core.errors import QueueError
from core.types import FinishReason
from service.tasks import is_cancelled

log = structlog.get_logger()

BLOCK_MS = 1000
RETRY_S = 0.5
WAKE_TTL_S = 60

# Which of the followed jobs it belongs to, and what came.
Event = tuple[int, Chunk | Final]
Events = asyncio.Queue[Event]
# Told of every event as it arrives, before its follower gets it.
Saw = Callable[[int, Chunk | Final], None]


class StreamReader:
    """Fans entries of jobs' out streams to their followers."""

    def __init__(self, reading: Redis, writing: Redis) -> None:
        self._reading, self._writing = reading, writing
        self._wake_key = f"specd:gw:{uuid.uuid4().hex}:wake"
        self._last: dict[str, str] = {self._wake_key: "0-0"}
        self._followers: dict[str, tuple[int, Events, Saw]] = {}

    @asynccontextmanager
    async def follow(self, job_ids: Sequence[str], saw: Saw) -> AsyncIterator[Events]:
        """Deliver jobs' events from their first on, for as long as the context lasts; one follower per job."""
        keys, events = [out_stream(job_id) for job_id in job_ids], Events()
        for index, key in enumerate(keys):
            self._followers[key] = index, events, saw
            self._last[key] = "0-0"
        try:
            async with self._writing.pipeline(transaction=False) as pipe:
                pipe.xadd(self._wake_key, {"w": 1}, maxlen=1)
                pipe.expire(self._wake_key, WAKE_TTL_S)
                await pipe.execute()
            yield events
        finally:
            for key in keys:
                self._followers.pop(key, None)
                self._last.pop(key, None)

    async def run(self) -> None:
        """Read until cancelled; a fault of Redis is waited out, streams go on where they were."""
        try:
            while not is_cancelled():
                try:
                    await self._read_once()
                except (RedisError, OSError) as error:
                    log.warning("read_failed", error=str(error))
                    await asyncio.sleep(RETRY_S)
        finally:
            with suppress(RedisError, OSError):
                await self._writing.delete(self._wake_key)

    async def _read_once(self) -> None:
        answer: Any = await self._reading.xread(dict(self._last), block=BLOCK_MS)  # type: ignore[arg-type]
        for raw_key, rows in answer or []:
            key = raw_key.decode()
            follower = self._followers.get(key)
            if key in self._last:
                self._last[key] = rows[-1][0].decode()
            if follower is None:
                continue
            index, events, saw = follower
            for _, fields in rows:
                event = _event(key, fields)
                saw(index, event)
                events.put_nowait((index, event))


def _event(key: str, fields: dict[bytes, bytes]) -> Chunk | Final:
    """Read an entry; one that is no event ends its follower's answer, and nobody else's."""
    try:
        return decode_event(fields.get(OUT_FIELD.encode(), b""))
    except QueueError as error:
        log.warning("event_unreadable", stream=key, error=str(error))
        return Final(FinishReason.ERROR, Usage(0, 0), error=WireError("the answer could not be read"))
