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


class _Follower:
    """One who follows a stream, and the entry it was given last: as Redis spells it, and as it compares."""

    def __init__(self, index: int, events: Events, saw: Saw) -> None:
        self.index, self.events, self.saw = index, events, saw
        self.last, self.place = "0-0", (0, 0)

    def give(self, entry_id: str, place: tuple[int, int], event: Chunk | Final) -> None:
        """Pass an entry on unless it was given before."""
        if place > self.place:
            self.last, self.place = entry_id, place
            self.saw(self.index, event)
            self.events.put_nowait((self.index, event))


class StreamReader:
    """Fans entries of jobs' out streams to their followers."""

    def __init__(self, reading: Redis, writing: Redis) -> None:
        self._reading, self._writing = reading, writing
        self._wake_key = f"specd:gw:{uuid.uuid4().hex}:wake"
        self._woken = "0-0"
        self._followers: dict[str, list[_Follower]] = {}

    @asynccontextmanager
    async def follow(self, job_ids: Sequence[str], saw: Saw) -> AsyncIterator[Events]:
        """Deliver jobs' events from their first on, for as long as the context lasts, to any number of followers."""
        events = Events()
        followers = {out_stream(job_id): _Follower(index, events, saw) for index, job_id in enumerate(job_ids)}
        for key, follower in followers.items():
            self._followers.setdefault(key, []).append(follower)
        try:
            async with self._writing.pipeline(transaction=False) as pipe:
                pipe.xadd(self._wake_key, {"w": 1}, maxlen=1)
                pipe.expire(self._wake_key, WAKE_TTL_S)
                await pipe.execute()
            yield events
        finally:
            for key, follower in followers.items():
                self._followers[key].remove(follower)
                if not self._followers[key]:
                    del self._followers[key]

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
        # Each stream from where the follower that has least of it stands.
        least = {key: min(found, key=_place) for key, found in self._followers.items()}
        asked = {key: (follower.last, follower.place) for key, follower in least.items()}
        after = {self._wake_key: self._woken} | {key: last for key, (last, _) in asked.items()}
        answer: Any = await self._reading.xread(after, block=BLOCK_MS)  # type: ignore[arg-type]
        for raw_key, rows in answer or []:
            key = raw_key.decode()
            if key == self._wake_key:
                self._woken = rows[-1][0].decode()
                continue
            # Who came while this was read, and needs more than was asked for, is served by the next read.
            followers = [one for one in self._followers.get(key, ()) if one.place >= asked[key][1]]
            for raw_id, fields in rows if followers else ():
                entry_id, event = raw_id.decode(), _event(key, fields)
                place = _as_place(entry_id)
                for follower in followers:
                    follower.give(entry_id, place, event)


def _place(follower: _Follower) -> tuple[int, int]:
    return follower.place


def _as_place(entry_id: str) -> tuple[int, int]:
    first, _, second = entry_id.partition("-")
    return int(first), int(second)


def _event(key: str, fields: dict[bytes, bytes]) -> Chunk | Final:
    """Read an entry; one that is no event ends its follower's answer, and nobody else's."""
    try:
        return decode_event(fields.get(OUT_FIELD.encode(), b""))
    except QueueError as error:
        log.warning("event_unreadable", stream=key, error=str(error))
        return Final(FinishReason.ERROR, Usage(0, 0), error=WireError("the answer could not be read"))
