"""The job queue on Redis: submit, claim, append, finish, each fenced so that no token is ever lost or repeated.

Every claim raises a job's epoch; every append names the epoch and the count of tokens before it, and Redis refuses
what does not fit (service/lua). A claim is kept alive by heartbeats; an entry that falls silent for a lease is taken
over, and the answer goes on from the tokens that were streamed.
"""

import contextlib
from collections.abc import Sequence
from itertools import chain
from typing import Any, cast

import msgspec
import structlog
from redis.asyncio import Redis
from redis.asyncio.client import Pipeline
from redis.exceptions import NoPermissionError, RedisError, ResponseError

from client.wire import (
    OUT_FIELD,
    Chunk,
    Final,
    Job,
    Usage,
    WireError,
    dead_stream,
    deadlines_key,
    decode_event,
    decode_job,
    encode,
    job_key,
    live_key,
    out_stream,
)
from core.errors import QueueError
from core.queue_settings import QueueSettings
from core.types import Backlog, FinishReason
from service.storage.claims import Append, AppendResult, Claim, DeadLetter, Ending, Entry, Standing
from service.storage.priority_streams import PriorityStreams
from service.storage.reader_wake import add_wake
from service.storage.redis_cluster import ClusterClient
from service.storage.scripts import Call, Scripts, raise_if_transient

log = structlog.get_logger()

# A queued job that nobody finishes is forgotten after this long, and so is one that was given up.
LIVE_TTL_S = 24 * 3600
# Of the jobs that were given up the last so many are told of, or a few more.
MAX_DEAD_LETTERS = 10_000
# How many jobs past their deadline are looked at together.
OVERDUE_BATCH = 256
# The stream of a job that was deleted stays for those who follow it, so that they read its end.
FORGOTTEN_S = 60
# What emit.lua says of an append, added up.
NOT_OURS, CANCELLED = 1, 2
# What cancel.lua and expire.lua say of a job that they ended.
ENDED_HERE = 2
# What expire.lua says of a job that it left alone for now.
NOT_YET = 1
LIVE_STATES = (b"queued", b"running")
STATES = {"stop": "done", "length": "done", "cancelled": "cancelled", "deadline": "expired", "error": "failed"}


class JobQueue:
    """The queue of one model, by priorities; used by gateways (submit, cancel) and workers (the rest).

    Its methods raise RedisError or OSError while Redis is out of reach; each may then be repeated safely.
    """

    def __init__(self, client: Redis, settings: QueueSettings, model: str) -> None:
        self.client, self.settings, self.model = client, settings, model
        self.scripts = Scripts(client)
        self._streams = PriorityStreams(client, self.scripts, model)

    async def open(self) -> None:
        """Check that Redis answers, load the scripts, make the group.

        Raises QueueError if Redis is out of reach, or part of a Cluster that the settings do not speak of.
        """
        try:
            if not self.settings.redis_cluster:
                await self._refuse_cluster()
            await self.scripts.load()
            await self.make_group()
        except (RedisError, OSError) as error:
            raise QueueError(f"Redis is out of reach: {error}") from error

    async def _refuse_cluster(self) -> None:
        """Raise QueueError for a node of a Cluster: most of its commands it would send elsewhere, or refuse."""
        # Who may not ask has a Redis whose rights were given by hand.
        with contextlib.suppress(NoPermissionError):
            told = await self.client.info("cluster")
            if told.get("cluster_enabled"):
                raise QueueError("this Redis is a node of a Redis Cluster: set queue.redis_cluster = true")

    async def make_group(self) -> None:
        """Create the workers' groups unless they exist; a Redis that was emptied has lost them."""
        await self._streams.make_groups()

    # --- Gateways ----------------------------------------------------------------------------------------------

    async def submit(self, job: Job, held_in: str | None = None, wakes: str | None = None) -> bool:
        """Create a job and queue it; False if its id exists.

        Before, it is put into the set of ids held_in, and the reader is woken that blocks on the stream `wakes`.
        """
        if self.settings.redis_cluster or job.deadline_ms is not None:
            return await self.submit_in_parts(job, held_in, wakes)
        call = self._submission(job)
        entry = Call((*call.keys, self._streams.names[job.priority]), (*call.values, *self._streams.fields(job)))
        async with self.client.pipeline(transaction=False) as pipe:
            self._note(pipe, job.id, held_in, wakes)
            return bool(await self.scripts.run_last(pipe, "submit", entry) == 1)

    async def submit_in_parts(self, job: Job, held_in: str | None = None, wakes: str | None = None) -> bool:
        """Do the same key by key, as a Cluster keeps them on several nodes; a creator may die after each."""
        # First of all: whatever breaks off from here on is found by those who look at live jobs.
        await self.note(job.id, held_in, wakes)
        created = await self.scripts.run("submit", self._submission(job))
        if created:
            if job.deadline_ms is not None:
                await self.client.zadd(deadlines_key(self.model), {job.id: job.deadline_ms})
            # A second entry is harmless.
            await self.add_entry(job)
        return bool(created == 1)

    def _submission(self, job: Job) -> Call:
        deadline = "" if job.deadline_ms is None else job.deadline_ms
        return Call((job_key(job.id),), (encode(job), job.created_ms, LIVE_TTL_S, deadline))

    async def note(self, job_id: str, held_in: str | None, wakes: str | None = None) -> None:
        """Have those who look at live jobs look at this one, too (service/upkeep/lost_entries.py)."""
        async with self.client.pipeline(transaction=False) as pipe:
            self._note(pipe, job_id, held_in, wakes)
            await pipe.execute()

    def _note(self, pipe: Pipeline, job_id: str, held_in: str | None, wakes: str | None) -> None:
        if wakes:
            add_wake(pipe, wakes)
        if held_in:
            pipe.sadd(held_in, job_id)
        pipe.zadd(live_key(self.model), {job_id: 0}, nx=True)
        # As long as a job may live.
        pipe.expire(live_key(self.model), LIVE_TTL_S)

    async def add_entry(self, job: Job) -> None:
        """Give a job a place in the queue."""
        await self._streams.add(job)

    async def restore(self, job: Job, chunks: Sequence[bytes]) -> bool:
        """Write a job that Redis has lost anew, with what was read of its stream; False if anything of it is there.

        It waits to be queued (`add_entry`); claims to it from before are void.
        """
        count, rows = 0, list[str | bytes]()
        for chunk in chunks:
            event = decode_event(chunk)
            count += len(event.token_ids) if isinstance(event, Chunk) else 0
            rows += (f"{count}-0", chunk)
        deadline = "" if job.deadline_ms is None else job.deadline_ms
        values = (encode(job), job.created_ms, LIVE_TTL_S, deadline, count, *rows)
        await self.client.zadd(live_key(self.model), {job.id: 0}, nx=True)
        restored = await self.scripts.run("restore", Call((job_key(job.id), out_stream(job.id)), values))
        if restored and job.deadline_ms is not None:
            await self.client.zadd(deadlines_key(self.model), {job.id: job.deadline_ms})
        return bool(restored)

    async def standings(self, job_ids: Sequence[str]) -> list[Standing | None]:
        """Return where jobs stand, in one round trip; None is of a job that is not there."""
        async with self.client.pipeline(transaction=False) as pipe:
            for job_id in job_ids:
                pipe.hmget(job_key(job_id), "state", "restored")
            rows = await pipe.execute()
        return [None if state is None else Standing(state not in LIVE_STATES, int(at or 0)) for state, at in rows]

    async def chunks(self, job_id: str) -> list[bytes]:
        """Return what a job's stream holds as it is stored, its end included."""
        rows: Any = await self.client.xrange(out_stream(job_id))
        return [fields.get(OUT_FIELD.encode(), b"") for _, fields in rows]

    async def epoch(self, job_id: str) -> int:
        """Return how often a job was claimed; 0 for one that is not there."""
        return int(await self.client.hget(job_key(job_id), "epoch") or 0)

    async def depth(self) -> int:
        """Return how many jobs are queued or running."""
        return await self._streams.depth()

    async def entries(self) -> list[tuple[dict[bytes, bytes], int, bool]]:
        """Return every entry's fields and priority, and whether no worker has taken it: a look at the whole queue."""
        return await self._streams.counted()

    async def look(self) -> tuple[list[tuple[dict[bytes, bytes], int, bool]], float]:
        """Return all entries, and how much of its memory Redis uses; 1 is all, 0 stands for no bound.

        Of a Cluster it is the fullest node's.
        """
        if self.settings.redis_cluster:
            nodes = await cast("ClusterClient", self.client).infos("memory")
            return await self.entries(), max(map(_memory_share, nodes))
        entries, told = await self._streams.look(with_memory=True)
        return entries, _memory_share(told)

    async def backlogs(self) -> list[Backlog]:
        """Return what waits by priority, most urgent first."""
        return await self._streams.backlogs()

    async def backlog(self) -> Backlog:
        """Return how many jobs no worker has taken yet, and the age of the oldest, by the clocks of Redis and ours."""
        found = await self.backlogs()
        return Backlog(sum(one.num_waiting for one in found), max(one.oldest_wait_s for one in found))

    async def cancel(self, *job_ids: str) -> None:
        """End jobs that wait in the queue; the worker that runs one hears of it with its next append, or soon."""
        values = (encode(Final(FinishReason.CANCELLED, Usage(0, 0))), self.settings.result_ttl_s)
        calls = [Call((job_key(job_id), out_stream(job_id)), values) for job_id in job_ids]
        answers = await self.scripts.run_all("cancel", calls)
        await self._forget({job_id for job_id, answer in zip(job_ids, answers, strict=True) if answer == ENDED_HERE})

    async def now_ms(self) -> int:
        """Return Redis's Unix time."""
        now: Any = await self.client.time()
        return int(now[0]) * 1000 + int(now[1]) // 1000

    async def end_overdue(self) -> int:
        """End jobs past their deadline that wait in the queue, or whose worker does not end them; return how many."""
        key = deadlines_key(self.model)
        found: Any = await self.client.zrangebyscore(key, "-inf", await self.now_ms(), start=0, num=OVERDUE_BATCH)
        if not found:
            return 0
        job_ids = [job_id.decode() for job_id in found]
        async with self.client.pipeline(transaction=False) as pipe:
            for job_id in job_ids:
                pipe.hmget(job_key(job_id), "epoch", "n", "job")
            rows = await pipe.execute()
        calls = [self._expire_call(job_id, *row) for job_id, row in zip(job_ids, rows, strict=True)]
        answers = await self.scripts.run_all("expire", calls)
        told = dict(zip(job_ids, answers, strict=True))
        ended = {job_id for job_id, answer in told.items() if answer == ENDED_HERE}
        await self._forget(ended)
        if done := [job_id for job_id, answer in told.items() if answer != NOT_YET]:
            await self.client.zrem(key, *done)
        return len(ended)

    async def _forget(self, job_ids: set[str]) -> None:
        """Delete the entries of jobs that ended in the queue: they would take places until a worker looks at them."""
        if job_ids:
            await self.acknowledge([entry for entry in await self._streams.all() if entry.job_id in job_ids])

    def _expire_call(self, job_id: str, epoch: bytes | None, count: bytes | None, data: bytes | None) -> Call:
        prompt_len = 0
        if data:
            # One that cannot be read must not keep the others from their ends.
            with contextlib.suppress(QueueError):
                prompt_len = len(decode_job(data).prompt_ids)
        final = encode(Final(FinishReason.DEADLINE, Usage(prompt_len, int(count or 0))))
        values = (epoch or b"", count or b"", final, self.settings.result_ttl_s, 2 * self.settings.lease_ms)
        return Call((job_key(job_id), out_stream(job_id)), values)

    async def forget(self, *job_ids: str) -> None:
        """Cancel jobs and forget them; those who follow one that has not ended read that it was cancelled."""
        await self.cancel(*job_ids)
        values = (encode(Final(FinishReason.CANCELLED, Usage(0, 0))), FORGOTTEN_S)
        await self.scripts.run_all("forget", [Call((job_key(one), out_stream(one)), values) for one in job_ids])

    # --- Workers -----------------------------------------------------------------------------------------------

    async def read(self, worker: str, count: int, block_ms: int | None) -> list[Entry]:
        """Return up to `count` new entries, urgent ones first, mostly; wait up to `block_ms` for one, None is not."""
        entries = await self._streams.read(worker, count, block_ms)
        await self.release(worker, entries[count:])
        return entries[:count]

    async def reclaim(self, worker: str, count: int) -> list[Entry]:
        """Return up to `count` entries whose worker has been silent for a lease."""
        return await self._streams.reclaim(worker, count, self.settings.lease_ms)

    async def release(self, worker: str, entries: Sequence[Entry], claims: Sequence[Claim] = ()) -> None:
        """Give entries back unfinished: whoever reclaims next gets them, without waiting for the lease.

        claims are those to jobs of these entries: they do not count as attempts.
        """
        await self.scripts.run_all("release", [Call((job_key(one.job.id),), (one.epoch,)) for one in claims])
        await self._streams.release(worker, entries, self.settings.lease_ms)

    async def wake(self, num_workers: int) -> None:
        """Have so many workers look at once for what was given back: it wakes nobody by itself."""
        if num_workers:
            await self._streams.wake(num_workers)

    async def claim(self, entry: Entry, worker: str) -> Claim | None:
        """Take a job over; None, with the entry acknowledged, if it has ended or is unknown.

        Raises QueueError if what is stored is no job: it never will be, so `refuse` it.
        """
        (claim,) = await self.claim_all([entry], worker)
        if isinstance(claim, QueueError):
            raise claim
        return claim

    async def claim_all(self, entries: Sequence[Entry], worker: str) -> list[Claim | QueueError | None]:
        """Take over the jobs of entries, no two of one job, in one round trip; the error is that of `claim`."""
        answers = await self.scripts.run_all("claim", [Call((job_key(one.job_id),), (worker,)) for one in entries])
        return [await self._claim(entry, answer) for entry, answer in zip(entries, answers, strict=True)]

    async def _claim(self, entry: Entry, answer: Any) -> Claim | QueueError | None:
        if isinstance(answer, ResponseError):
            raise answer
        epoch, count, cancel, data, attempts, before, left_ms = answer
        if epoch < 0:
            await self.acknowledge([entry])
            return None
        try:
            job, streamed = decode_job(data), await self._streamed(entry.job_id) if count else ()
        except QueueError as error:
            return error
        return Claim(entry, job, epoch, streamed, bool(cancel), attempts, before.decode(), left_ms)

    async def _streamed(self, job_id: str) -> tuple[Chunk, ...]:
        events = map(decode_event, await self.chunks(job_id))
        return tuple(event for event in events if isinstance(event, Chunk))

    async def are_cancelled(self, job_ids: Sequence[str]) -> list[bool]:
        """Tell of each job whether its end was asked for."""
        async with self.client.pipeline(transaction=False) as pipe:
            for job_id in job_ids:
                pipe.hexists(job_key(job_id), "cancel")
            return [bool(found) for found in await pipe.execute()]

    async def refuse(self, entry: Entry, error: WireError) -> None:
        """End a claimed job that nobody can run, whoever owns it."""
        epoch = await self.epoch(entry.job_id)
        await self.finish([Ending(entry.job_id, epoch, Final(FinishReason.ERROR, Usage(0, 0), error=error), entry)])

    async def append(self, appends: Sequence[Append]) -> list[AppendResult]:
        """Append the rounds of one step, in one call of one script: a command per job would cost more than the work.

        In a Cluster, where no script may touch two jobs, it is a call for each, and a round trip for each node.
        """
        if not appends:
            return []
        batches = [[one] for one in appends] if self.settings.redis_cluster else [appends]
        answers = await self.scripts.run_all("emit", [_emit_call(batch) for batch in batches])
        for answer in answers:
            if isinstance(answer, ResponseError):
                raise answer
        results = []
        for one, answer in zip(appends, chain.from_iterable(answers), strict=True):
            if isinstance(answer, ResponseError):
                raise_if_transient(answer)
                log.error("append_refused", job_id=one.job_id, error=str(answer))
                answer = NOT_OURS
            results.append(AppendResult(not answer & NOT_OURS, bool(answer & CANCELLED)))
        return results

    async def finish(self, endings: Sequence[Ending]) -> list[bool]:
        """End jobs, once each, and acknowledge their entries; False for one that is another's and left alone.

        What is to be told of a job that is given up is told first: twice rather than never, should this break off.
        """
        await self._bury([one.letter for one in endings if one.letter])
        answers = await self.scripts.run_all("finish", [self._finish_call(one) for one in endings])
        ended = []
        for one, answer in zip(endings, answers, strict=True):
            if isinstance(answer, ResponseError):
                log.error("finish_refused", job_id=one.job_id, error=str(answer))
            # The entry of a job that another worker runs is all that keeps the job alive if that worker dies.
            if answer != -1 and one.entry:
                ended.append(one.entry)
        await self.acknowledge(ended)
        return [answer in (0, 1) for answer in answers]

    async def acknowledge(self, entries: Sequence[Entry]) -> None:
        """Take entries out of the queue."""
        await self._streams.acknowledge(entries)

    async def num_dead(self) -> int:
        """Return how many jobs were given up and are still told of."""
        count: int = await self.client.xlen(dead_stream(self.model))
        return count

    async def _bury(self, letters: Sequence[DeadLetter]) -> None:
        for letter in letters:
            fields: Any = msgspec.structs.asdict(letter)
            await self.client.xadd(dead_stream(self.model), fields, maxlen=MAX_DEAD_LETTERS, approximate=True)

    def _finish_call(self, one: Ending) -> Call:
        epoch = "" if one.epoch is None else one.epoch
        ttl_s = max(self.settings.result_ttl_s, LIVE_TTL_S) if one.letter else self.settings.result_ttl_s
        values = (epoch, STATES[one.final.reason], encode(one.final), ttl_s)
        return Call((job_key(one.job_id), out_stream(one.job_id)), values)


def _memory_share(told: dict[str, Any]) -> float:
    return told["used_memory"] / told["maxmemory"] if told.get("maxmemory") else 0.0


def _emit_call(appends: Sequence[Append]) -> Call:
    keys: list[str] = []
    values: list[str | bytes | int] = [LIVE_TTL_S]
    for one in appends:
        keys += (job_key(one.job_id), out_stream(one.job_id))
        values += (one.epoch, one.count, len(one.chunk.token_ids), encode(one.chunk))
    return Call((*keys,), (*values,))
