"""The queue's entries: one stream per priority, read most urgent first, but never so that any of them starves.

It knows entries, not jobs. All streams of a model lie in one cluster slot, so that one script reads them all.
"""

import time
from collections.abc import Iterable, Sequence
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from client.wire import PRIORITIES, WORKER_GROUP, Job, queue_stream
from core.types import Backlog
from service.storage.claims import Entry
from service.storage.scripts import Call, Scripts

# Every so manieth entry that a worker reads is looked for among the less urgent ones first: low ones and normal ones by
# turns, so that each of them is sure of a sixteenth.
FAIR_EVERY = 8
# The job of an entry that is none: it only wakes a worker that waits for entries.
WAKE = ""
URGENT_FIRST, LOW_FIRST, NORMAL_FIRST = "012", "210", "120"


class PriorityStreams:
    """The streams of one model's queue, as one worker or gateway uses them."""

    def __init__(self, client: Redis, scripts: Scripts, model: str) -> None:
        self._client, self._scripts = client, scripts
        self.names = tuple(queue_stream(model, priority) for priority in PRIORITIES)
        self._num_read = 0

    async def make_groups(self) -> None:
        """Create the workers' groups where they are missing."""
        for name in self.names:
            await make_group(self._client, name, WORKER_GROUP)

    async def add(self, job: Job) -> None:
        """Add a job's entry."""
        fields = self.fields(job)
        await self._client.xadd(self.names[job.priority], dict(zip(fields[::2], fields[1::2], strict=True)))

    def fields(self, job: Job) -> tuple[str | int, ...]:
        """Return the names and values of a job's entry: its id comes first, then what is counted at admission."""
        return ("j", job.id, "t", len(job.prompt_ids), "a", job.sampling.max_tokens, "u", job.user)

    async def wake(self, num_workers: int) -> None:
        """Have so many workers look around at once, those that wait for entries first."""
        async with self._client.pipeline(transaction=False) as pipe:
            for _ in range(num_workers):
                pipe.xadd(self.names[0], {"j": WAKE})
            await pipe.execute()

    async def counted(self) -> list[tuple[dict[bytes, bytes], int, bool]]:
        """Return the fields of every entry, its priority, and whether nobody has taken it."""
        entries, _ = await self.look()
        return entries

    async def look(self, *, with_memory: bool = False) -> tuple[list[tuple[dict[bytes, bytes], int, bool]], Any]:
        """Return what `counted` does and, asked for on the way, what Redis tells of its memory."""
        async with self._client.pipeline(transaction=False) as pipe:
            for name in self.names:
                pipe.xrange(name)
                pipe.xinfo_groups(name)
            if with_memory:
                pipe.info("memory")
            # A stream that is not there has no groups and no entries.
            found = await pipe.execute(raise_on_error=False)
        told = found.pop() if with_memory else None
        raise_unless_missing(told)
        entries = []
        for priority, rows, groups in zip(PRIORITIES, found[::2], found[1::2], strict=True):
            raise_unless_missing(rows, groups)
            known = [] if isinstance(groups, Exception) else groups
            taken = max((order(group["last-delivered-id"]) for group in known), default=(0, 0))
            entries += [(fields, priority, order(entry_id) > taken) for entry_id, fields in rows]
        return entries, told

    async def all(self) -> list[Entry]:
        """Return every entry, taken or not."""
        async with self._client.pipeline(transaction=False) as pipe:
            for name in self.names:
                pipe.xrange(name)
            found = await pipe.execute()
        return [entry for priority in PRIORITIES for entry in _entries(priority, found[priority])]

    async def read(self, worker: str, count: int, block_ms: int | None) -> list[Entry]:
        """Return up to `count` new entries, waiting up to `block_ms` for one; None is not at all."""
        passes = [part for one in self._passes(count) for part in one]
        rows: Any = await self._scripts.run("read", Call(self.names, (WORKER_GROUP, worker, *passes)))
        entries = [Entry(entry_id.decode(), job_id.decode(), priority) for priority, entry_id, job_id in rows]
        if not entries and block_ms is not None:
            streams: Any = dict.fromkeys(self.names, ">")
            answer: Any = await self._client.xreadgroup(WORKER_GROUP, worker, streams, count=1, block=block_ms)
            for name, found in answer or []:
                entries += _entries(self.names.index(name.decode()), found)
        self._num_read += len(entries)
        return entries

    def _passes(self, count: int) -> list[tuple[str, int]]:
        """Return in which orders the next `count` entries are looked for, and how many in each."""
        fair = range(self._num_read + 1, self._num_read + count + 1)
        turns = [number // FAIR_EVERY % 2 for number in fair if number % FAIR_EVERY == 0]
        num_normal = sum(turns)
        passes = [(NORMAL_FIRST, num_normal), (LOW_FIRST, len(turns) - num_normal), (URGENT_FIRST, count - len(turns))]
        return [one for one in passes if one[1]]

    async def reclaim(self, worker: str, count: int, idle_ms: int) -> list[Entry]:
        """Return up to `count` entries that nobody has renewed for so long."""
        entries: list[Entry] = []
        for priority, name in zip(PRIORITIES, self.names, strict=True):
            if (left := count - len(entries)) <= 0:
                break
            # Redis 6.2 answers with two elements, 7 with three.
            answer: Any = await self._client.xautoclaim(name, WORKER_GROUP, worker, min_idle_time=idle_ms, count=left)
            entries += _entries(priority, answer[1])
        return entries

    async def release(self, worker: str, entries: Sequence[Entry], idle_ms: int) -> None:
        """Have entries look as if they had not been renewed for so long."""
        for priority, ids in ids_by_priority(entries).items():
            name: Any = self.names[priority]
            await self._client.xclaim(name, WORKER_GROUP, worker, 0, ids, idle=idle_ms, justid=True)  # type: ignore[arg-type]

    async def acknowledge(self, entries: Sequence[Entry]) -> None:
        """Take entries out."""
        if entries:
            async with self._client.pipeline(transaction=False) as pipe:
                for priority, ids in ids_by_priority(entries).items():
                    # An acknowledged entry stays in the stream until it is deleted.
                    pipe.xack(self.names[priority], WORKER_GROUP, *ids)
                    pipe.xdel(self.names[priority], *ids)
                await pipe.execute()

    async def depth(self) -> int:
        """Return how many entries there are, taken or not."""
        async with self._client.pipeline(transaction=False) as pipe:
            for name in self.names:
                pipe.xlen(name)
            return sum(await pipe.execute())

    async def backlogs(self) -> list[Backlog]:
        """Return by priority how many entries nobody has taken, and the age of the oldest."""
        async with self._client.pipeline(transaction=False) as pipe:
            for name in self.names:
                pipe.xlen(name)
                pipe.xinfo_groups(name)
            # A stream that is not there has no groups and no entries.
            found = await pipe.execute(raise_on_error=False)
        return [await self._backlog(*pair) for pair in zip(self.names, found[::2], found[1::2], strict=True)]

    async def _backlog(self, name: str, length: Any, groups: Any) -> Backlog:
        raise_unless_missing(length, groups)
        for group in [] if isinstance(groups, Exception) else groups:
            if group["name"] == WORKER_GROUP.encode():
                num_waiting = max(0, length - int(group["pending"]))
                after = b"(" + group["last-delivered-id"]
                rows: Any = await self._client.xrange(name, min=after, count=1) if num_waiting else []
                return Backlog(num_waiting, max((age_s(row[0]) for row in rows), default=0.0))
        return Backlog()


def ids_by_priority(entries: Iterable[Entry]) -> dict[int, list[str]]:
    """Return the ids of entries by their priority, sorted."""
    found: dict[int, list[str]] = {}
    for entry in entries:
        found.setdefault(entry.priority, []).append(entry.entry_id)
    return {priority: sorted(ids) for priority, ids in found.items()}


def order(entry_id: bytes) -> tuple[int, int]:
    """Return what entries are ordered by."""
    time_ms, _, number = entry_id.partition(b"-")
    return int(time_ms), int(number)


def raise_unless_missing(*answers: Any) -> None:
    """Raise an answer of a pipeline that is an error, unless it says that a key is not there."""
    for answer in answers:
        if isinstance(answer, Exception) and "no such key" not in str(answer):
            raise answer


def age_s(entry_id: bytes) -> float:
    """Return the seconds since an entry was added, at least 0: its id begins with Redis's milliseconds."""
    return max(0.0, time.time() - int(entry_id.partition(b"-")[0]) / 1000)


async def make_group(client: Redis, stream: str, group: str) -> None:
    """Create a consumer group that sees the stream from its start; one that exists is left alone."""
    try:
        await client.xgroup_create(stream, group, id="0", mkstream=True)
    except ResponseError as error:
        if "BUSYGROUP" not in str(error):
            raise


def _entries(priority: int, rows: Sequence[tuple[bytes, dict[bytes, bytes]]]) -> list[Entry]:
    return [Entry(entry_id.decode(), fields[b"j"].decode(), priority) for entry_id, fields in rows if fields]
