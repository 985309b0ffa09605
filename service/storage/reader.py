"""One blocking reader for all open streams of a gateway: a single connection, however many clients follow.

A new follower has to be noticed while the reader blocks, so the reader also follows a small stream of its own, which is
written to together with new jobs, or by `follow`. A follower that does not take what comes is read for no longer: its
stream stands in Redis, and the rest is read from there once it has room, so that no client holds up the others, or the
worker.
"""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from client.wire import OUT_FIELD, Chunk, Final, Job, Usage, WireError, decode_event
from core.errors import QueueError
from core.types import FinishReason
from service.storage.followers import MAX_EVENTS, Events, Follower, Place, Saw
from service.storage.reader_wake import add_wake
from service.tasks import is_cancelled

log = structlog.get_logger()

BLOCK_MS = 1000
RETRY_S = 0.5

# Queues jobs that are followed already; what it adds to the stream that it is told of, if any, wakes their reader.
Submit = Callable[[str | None], Awaitable[None]]


class StreamReader:
    """Fans entries of jobs' out streams to their followers. answered_s is when Redis answered last, monotonic."""

    def __init__(self, reading: Redis, writing: Redis) -> None:
        self._reading, self._writing = reading, writing
        self._wake_key = f"specd:gw:{uuid.uuid4().hex}:wake"
        self._woken = "0-0"
        # By stream, those that are read for.
        self._followers: dict[str, list[Follower]] = {}
        self._open: set[Events] = set()
        self.answered_s = time.monotonic()

    @property
    def open(self) -> list[Events]:
        """All that is followed."""
        return list(self._open)

    def cut_off(self, longest_s: float) -> list[Events]:
        """Return what waits for a Redis that has not answered for longer than this."""
        return self.open if time.monotonic() - self.answered_s > longest_s else []

    @asynccontextmanager
    async def follow(
        self,
        jobs: Sequence[Job],
        saw: Saw,
        keep: Callable[[], Awaitable[None]] | None = None,
        submit: Submit | None = None,
    ) -> AsyncIterator[Events]:
        """Deliver jobs' events from their first on, for as long as the context lasts, to any number of followers.

        keep is called after a job that Redis had lost was brought back. submit is for jobs that are not queued yet.
        """
        events = Events(jobs, saw, self._catch_up, keep)
        self._open.add(events)
        for follower in events.followers:
            self._attach(follower)
        try:
            if submit is None:
                await self._wake()
            else:
                with events.not_queued():
                    await self._submit(submit)
            yield events
        finally:
            self._open.discard(events)
            for follower in events.followers:
                self._detach(follower)

    async def run(self) -> None:
        """Read until cancelled; a fault of Redis is waited out, streams go on where they were."""
        try:
            while not is_cancelled():
                try:
                    await self._read_once()
                except (RedisError, OSError) as error:
                    log.warning("read_failed", error=str(error))
                    await asyncio.sleep(RETRY_S)
                # Those who were given something send it before the next read begins.
                await asyncio.sleep(0)
        finally:
            with suppress(RedisError, OSError):
                await self._writing.delete(self._wake_key)

    async def _read_once(self) -> None:
        # Each stream from where the follower that has least of it stands.
        least = {key: min(found, key=_place) for key, found in self._followers.items()}
        asked = {key: (follower.last, follower.place) for key, follower in least.items()}
        after = {self._wake_key: self._woken} | {key: last for key, (last, _) in asked.items()}
        answer: Any = await self._reading.xread(after, count=MAX_EVENTS, block=BLOCK_MS)  # type: ignore[arg-type]
        self.answered_s = time.monotonic()
        for raw_key, rows in answer or []:
            key = raw_key.decode()
            if key == self._wake_key:
                self._woken = rows[-1][0].decode()
                continue
            # Who came while this was read, and needs more than was asked for, is served by the next read.
            followers = [one for one in self._followers.get(key, ()) if one.place >= asked[key][1]]
            self._give(followers, rows)

    def _give(self, followers: Sequence[Follower], rows: Sequence[tuple[bytes, dict[bytes, bytes]]]) -> None:
        """Pass entries of one stream on; those without room for them are read for no longer."""
        for raw_id, fields in rows if followers else ():
            entry_id, data = raw_id.decode(), fields.get(OUT_FIELD.encode(), b"")
            event = _event(followers[0].key, data)
            for follower in followers:
                if not follower.is_behind and not follower.give(entry_id, data, event):
                    self._detach(follower)

    async def _catch_up(self, events: Events) -> None:
        """Read for those behind, as much as there is room for; who has all of its stream is read for again."""
        try:
            for follower in events.behind:
                if (room := MAX_EVENTS - events.num_waiting) <= 0:
                    return
                rows: Any = await self._writing.xrange(follower.key, min=f"({follower.last}", count=room)
                follower.is_behind = False
                self._give([follower], rows)
                if follower.is_behind or len(rows) == room:
                    follower.is_behind = True
                else:
                    self._attach(follower)
                    await self._wake()
        except (RedisError, OSError) as error:
            log.warning("catch_up_failed", error=str(error))
            await asyncio.sleep(RETRY_S)

    async def _submit(self, submit: Submit) -> None:
        """Have jobs queued, and the read that blocks now begin anew, in one round trip."""
        await submit(self._wake_key)

    async def _wake(self) -> None:
        """Have the read that blocks now begin anew."""
        async with self._writing.pipeline(transaction=False) as pipe:
            add_wake(pipe, self._wake_key)
            await pipe.execute()

    def _attach(self, follower: Follower) -> None:
        self._followers.setdefault(follower.key, []).append(follower)

    def _detach(self, follower: Follower) -> None:
        found = self._followers.get(follower.key, [])
        if follower in found:
            found.remove(follower)
            if not found:
                del self._followers[follower.key]


def _place(follower: Follower) -> Place:
    return follower.place


def _event(key: str, data: bytes) -> Chunk | Final:
    """Read an entry; one that is no event ends its follower's answer, and nobody else's."""
    try:
        return decode_event(data)
    except QueueError as error:
        log.warning("event_unreadable", stream=key, error=str(error))
        return Final(FinishReason.ERROR, Usage(0, 0), error=WireError("the answer could not be read"))
