"""What clients saw, and whether it can be true: every log a growing prefix of one right text with one end."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from itertools import product
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError

from client.wire import (
    OUT_FIELD,
    PRIORITIES,
    WORKER_GROUP,
    Chunk,
    Final,
    Job,
    decode_event,
    job_key,
    out_stream,
    queue_stream,
)
from core.types import FinishReason
from service.storage.connect import connect
from tests.faults.recital import NUM_LETTERS, writers

# An entry's id and what it holds.
Seen = tuple[str, Chunk | Final]
# What is not about single jobs stays: queues, workers, what was given up.
LASTING = (
    *("specd:q:", "specd:workers", "specd:intake", "specd:dead:", "specd:deadlines:", "specd:live:", "specd:gateways:"),
)
# What Redis calls the time to live of a key that is not there: it expired after it was listed.
GONE = -2
# Returns what is wrong with the contents of a whole log of a job.
Reading = Callable[[Job, Sequence[Seen]], list[str]]


class Clients:
    """Follows the streams of jobs as clients do, waits out any fault, and keeps what it saw, in order.

    arrived_s holds when each entry of a log came, by the monotonic clock; waiting the jobs whose logs have no end yet.
    """

    def __init__(self, url: str, jobs: Sequence[Job]) -> None:
        self._url = url
        self.logs: dict[str, list[Seen]] = {}
        self.arrived_s: dict[str, list[float]] = {}
        self.waiting: set[str] = set()
        for job in jobs:
            self.follow(job)

    def follow(self, job: Job) -> None:
        """Read one more job's stream from now on."""
        self.logs[job.id], self.arrived_s[job.id] = [], []
        self.waiting.add(job.id)

    async def run(self) -> None:
        """Read every stream to its end, until cancelled."""
        client = connect(self._url, 2.0)
        try:
            while True:
                if not self.waiting:
                    await asyncio.sleep(0.02)
                    continue
                try:
                    await self._read(client, sorted(self.waiting))
                except (RedisError, OSError):
                    await asyncio.sleep(0.1)
        finally:
            await client.aclose()

    def has_ended(self, job_id: str) -> bool:
        log = self.logs[job_id]
        return bool(log) and isinstance(log[-1][1], Final)

    def num_tokens(self, job_id: str) -> int:
        return len(tokens_in(self.logs[job_id]))

    async def _read(self, client: Redis, job_ids: list[str]) -> None:
        last = {out_stream(job_id): (self.logs[job_id] or [("0-0", None)])[-1][0] for job_id in job_ids}
        names = {out_stream(job_id): job_id for job_id in job_ids}
        # Jobs that are followed later are read from the next call on.
        answer: Any = await client.xread(last, block=100)
        now_s = time.monotonic()
        for key, rows in answer or []:
            self.logs[names[key.decode()]] += [_seen(row) for row in rows]
            self.arrived_s[names[key.decode()]] += [now_s] * len(rows)
        self.waiting -= {job_id for job_id in job_ids if self.has_ended(job_id)}


@asynccontextmanager
async def following(url: str, jobs: Sequence[Job]) -> AsyncIterator[Clients]:
    """Follow jobs for as long as the context lasts."""
    clients = Clients(url, jobs)
    task = asyncio.create_task(clients.run())
    try:
        yield clients
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def _seen(row: tuple[bytes, dict[bytes, bytes]]) -> Seen:
    return row[0].decode(), decode_event(row[1][OUT_FIELD.encode()])


def tokens_in(log: Sequence[Seen]) -> list[int]:
    return [token for _, event in log if isinstance(event, Chunk) for token in event.token_ids]


def text_in(log: Sequence[Seen]) -> str:
    return "".join(event.text if isinstance(event, Chunk) else event.tail for _, event in log)


def claims(prompt: Sequence[int], tokens: Sequence[int], restored: int = 0) -> list[int]:
    """Return under which of a job's claims each token was made; those after it was brought back count from 30.

    restored is the epoch at which that was, 0 if it never was.
    """
    found: list[int] = []
    for writer in writers(prompt, tokens):
        later = 30 + (writer - restored) % NUM_LETTERS
        goes_back = bool(found) and writer < found[-1]
        found.append(later if restored and (goes_back or not 1 <= writer < 30) else writer)
    return found


def log_violations(job: Job, log: Sequence[Seen], read: Reading | None = None) -> list[str]:
    """Return what is wrong with what one client saw of one job; `read` judges the contents, `recited` by default."""
    found, count = [], 0
    for entry_id, event in log:
        count += len(event.token_ids) if isinstance(event, Chunk) else 0
        if entry_id != f"{count}-{int(isinstance(event, Final))}":
            found.append(f"entry {entry_id} stands after {count} tokens")
    ends = [index for index, (_, event) in enumerate(log) if isinstance(event, Final)]
    if ends != [len(log) - 1]:
        found.append(f"{len(ends)} ends in {len(log)} events")
    found += (read or recited)(job, log)
    return [f"{job.id}: {one}" for one in found]


def recited(job: Job, log: Sequence[Seen], restored: int = 0) -> list[str]:
    """Return what is wrong with an answer of the reciting engine: its tokens, text and end (restored: `claims`)."""
    found, tokens = [], tokens_in(log)
    epochs = claims(job.prompt_ids, tokens, restored)
    if epochs != sorted(epochs) or (epochs and not 1 <= epochs[0] <= epochs[-1] < (60 if restored else 30)):
        found.append(f"tokens do not follow from one another: written under the claims {epochs}")
    if text_in(log) != bytes(tokens).decode():
        found.append("the text is not that of the tokens")
    for final in (event for _, event in log if isinstance(event, Final)):
        if final.reason is not FinishReason.LENGTH:
            found.append(f"the answer ended as {final.reason}: {final.error}")
        elif not len(tokens) == final.usage.completion_tokens == job.sampling.max_tokens:
            wanted = job.sampling.max_tokens
            found.append(f"{wanted} tokens asked for, {final.usage.completion_tokens} counted, {len(tokens)} seen")
    return found


async def violations(client: Redis, jobs: Sequence[Job], clients: Clients, read: Reading | None = None) -> list[str]:
    """Return what is wrong with the logs, with the streams they were read from, and with what is left in Redis."""
    found = []
    for job in jobs:
        log = clients.logs[job.id]
        found += log_violations(job, log, read)
        if log != [_seen(row) for row in await client.xrange(out_stream(job.id))]:
            found.append(f"{job.id}: the log is not what the stream holds")
        if (state := await client.hget(job_key(job.id), "state")) != b"done":
            found.append(f"{job.id}: its state is {state}")
    for model, priority in product({job.model for job in jobs}, PRIORITIES):
        stream = queue_stream(model, priority)
        pending = (await client.xpending(stream, WORKER_GROUP))["pending"]
        if pending or await client.xlen(stream):
            found.append(f"{model}: {pending} entries pending, {await client.xlen(stream)} left in the queue")
    return found + await leaked_keys(client, jobs)


async def leaked_keys(client: Redis, jobs: Sequence[Job]) -> list[str]:
    """Return keys of our jobs that stay for longer than they are kept, and all others that never expire."""
    known = {key for job in jobs for key in (job_key(job.id), out_stream(job.id))}
    found = []
    async for raw in client.scan_iter():
        key, ttl_s = raw.decode(), await client.ttl(raw)
        if ttl_s == GONE:
            continue
        if ttl_s < 0 if key not in known else not 0 < ttl_s <= 3600:
            found += [] if key.startswith(LASTING) else [f"{key} lives for {ttl_s} s"]
    return found
