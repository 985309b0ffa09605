"""Those who follow jobs' streams: what each was given, and the bounded queue from which it takes it.

What waits here is bounded whatever a client does: one who does not take what came falls off the shared reader
(service/storage/reader.py) and has the rest read for it, by id, when it has taken all that waited.
"""

import asyncio
import math
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager

from client.wire import Chunk, Final, Job, out_stream
from core.errors import RequestError

# Events that may wait for one client.
MAX_EVENTS = 256

# Which of the followed jobs it belongs to, and what came.
Event = tuple[int, Chunk | Final]
# Told of every event as it arrives, before its follower gets it.
Saw = Callable[[int, Chunk | Final], None]
# Tokens, and 1 for the end after them: entries' ids as they compare.
Place = tuple[int, int]


class Follower:
    """One who follows one job; mutated by the reader, and by the watch over lost jobs (service/upkeep/lost_jobs.py).

    last        the entry it was given last, as Redis spells it; place is the same as it compares
    chunks      all chunks it was given, as Redis holds them: what the job is brought back from
    is_over     the job is known to have ended, whether or not this one was given its end
    generation  of the stream that it reads: 0, or when the job was brought back
    """

    def __init__(self, job: Job, index: int, events: "Events", saw: Saw) -> None:
        self.job, self.key = job, out_stream(job.id)
        self.index, self.events, self.saw = index, events, saw
        self.last, self.place = "0-0", (0, 0)
        self.chunks: list[bytes] = []
        self.is_behind = self.has_end = self.is_over = False
        self.heard_s = time.monotonic()
        self.generation = 0
        self.lost_at_s: float | None = None

    def give(self, entry_id: str, data: bytes, event: Chunk | Final) -> bool:
        """Pass an entry on unless it was given before; False, and it is behind from now on, if there is no room."""
        place = as_place(entry_id)
        if place <= self.place:
            return True
        if self.events.num_waiting >= MAX_EVENTS:
            self.is_behind = True
            return False
        self.last, self.place, self.heard_s = entry_id, place, time.monotonic()
        if isinstance(event, Chunk):
            self.chunks.append(data)
        else:
            self.has_end = True
        self.saw(self.index, event)
        self.events.put((self.index, event))
        return True


class Events:
    """What the jobs of one answer bring, taken by one client; `catch_up` reads what those behind were not given.

    keep is called after a job of it was brought back: for what else of it is lost.
    """

    def __init__(
        self,
        jobs: Sequence[Job],
        saw: Saw,
        catch_up: Callable[["Events"], Awaitable[None]],
        keep: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self.followers = [Follower(job, index, self, saw) for index, job in enumerate(jobs)]
        self.keep = keep
        self._catch_up = catch_up
        self._waiting: deque[Event] = deque()
        self._came = asyncio.Event()
        self._error: RequestError | None = None

    @property
    def num_waiting(self) -> int:
        """Events that were not taken yet."""
        return len(self._waiting)

    @property
    def has_failed(self) -> bool:
        """Whether nothing more will come."""
        return self._error is not None

    @property
    def behind(self) -> list[Follower]:
        """Those that fell off the shared reader."""
        return [one for one in self.followers if one.is_behind]

    @contextmanager
    def not_queued(self) -> Iterator[None]:
        """Say that within the context none of the jobs need be in Redis: there they are not lost."""
        for one in self.followers:
            one.heard_s = math.inf
        yield
        for one in self.followers:
            one.heard_s = time.monotonic()

    def put(self, event: Event) -> None:
        """Let an event wait."""
        self._waiting.append(event)
        self._came.set()

    def fail(self, error: RequestError) -> None:
        """Have whoever takes these events meet an error after those that wait."""
        self._error = self._error or error
        self._came.set()

    async def get(self) -> Event:
        """Take the next event, waiting for it; raises RequestError if none will come."""
        while not self._waiting:
            if self._error:
                raise self._error
            if self.behind:
                await self._catch_up(self)
            else:
                self._came.clear()
                await self._came.wait()
        return self._waiting.popleft()


def as_place(entry_id: str) -> Place:
    """Return an entry's id as it compares."""
    first, _, second = entry_id.partition("-")
    return int(first), int(second)
