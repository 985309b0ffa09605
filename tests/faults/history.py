"""What clients saw, and whether it can be true: every log a growing prefix of one right text with one end."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
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
from service.queue import connect
from tests.faults.recital import NUM_LETTERS, writers

# An entry's id and what it holds.
Seen = tuple[str, Chunk | Final]


class Clients:
    """Follows the streams of jobs as clients do, waits out any fault, and keeps what it saw, in order."""

    def __init__(self, url: str, jobs: Sequence[Job]) -> None:
        self._url = url
        self.logs: dict[str, list[Seen]] = {job.id: [] for job in jobs}

    async def run(self) -> None:
        """Read until every log has an end."""
        client = connect(self._url, 2.0)
        try:
            while waiting := [job_id for job_id in self.logs if not self.has_ended(job_id)]:
                try:
                    await self._read(client, waiting)
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
        answer: Any = await client.xread(last, block=500)
        for key, rows in answer or []:
            self.logs[names[key.decode()]] += [_seen(row) for row in rows]


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


def log_violations(job: Job, log: Sequence[Seen], restored: int = 0) -> list[str]:
    """Return what is wrong with what one client saw of one job, which Redis may have lost once (`claims`)."""
    found, count = [], 0
    for entry_id, event in log:
        count += len(event.token_ids) if isinstance(event, Chunk) else 0
        if entry_id != f"{count}-{int(isinstance(event, Final))}":
            found.append(f"entry {entry_id} stands after {count} tokens")
    ends = [index for index, (_, event) in enumerate(log) if isinstance(event, Final)]
    if ends != [len(log) - 1]:
        found.append(f"{len(ends)} ends in {len(log)} events")
    tokens = tokens_in(log)
    epochs = claims(job.prompt_ids, tokens, restored)
    if epochs != sorted(epochs) or (epochs and not 1 <= epochs[0] <= epochs[-1] < (60 if restored else 30)):
        found.append(f"tokens do not follow from one another: written under the claims {epochs}")
    text = "".join(event.text if isinstance(event, Chunk) else event.tail for _, event in log)
    if text != bytes(tokens).decode():
        found.append("the text is not that of the tokens")
    if ends:
        final = log[ends[0]][1]
        if final.reason is not FinishReason.LENGTH:
            found.append(f"the answer ended as {final.reason}: {final.error}")
        elif not len(tokens) == final.usage.completion_tokens == job.sampling.max_tokens:
            wanted = job.sampling.max_tokens
            found.append(f"{wanted} tokens asked for, {final.usage.completion_tokens} counted, {len(tokens)} seen")
    return [f"{job.id}: {one}" for one in found]


async def violations(client: Redis, jobs: Sequence[Job], clients: Clients) -> list[str]:
    """Return what is wrong with the logs, with the streams they were read from, and with what is left in Redis."""
    found = []
    for job in jobs:
        log = clients.logs[job.id]
        found += log_violations(job, log)
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
    """Return keys of jobs that are not ours or never expire."""
    known = {key for job in jobs for key in (job_key(job.id), out_stream(job.id))}
    found = []
    async for raw in client.scan_iter("specd:{*"):
        key, ttl_s = raw.decode(), await client.ttl(raw)
        if key in known and not 0 < ttl_s <= 3600:
            found.append(f"{key} lives for {ttl_s} s")
    return found
