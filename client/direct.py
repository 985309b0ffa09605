"""Submit jobs straight through Redis and follow their streams: no HTTP, the same queue."""

import asyncio
import secrets
import uuid
from collections.abc import AsyncIterator, Sequence
from typing import Any

import msgspec
from redis.asyncio import Redis, RedisCluster
from redis.exceptions import MovedError, RedisClusterException, RedisError

from client.wire import (
    INTAKE_FIELD,
    INTAKE_STREAM,
    OUT_FIELD,
    Chunk,
    Final,
    IntakeRequest,
    child_id,
    decode_event,
    out_stream,
)
from core.errors import QueueError, RequestError

BLOCK_MS = 1000
COMMAND_TIMEOUT_S = 5.0
# Events that may wait for who follows several choices.
MAX_WAITING = 256
# Without any sign of life for this long, nobody is working on the job.
SILENCE_S = 60.0


def new_job_id() -> str:
    """Return a fresh job id."""
    return uuid.UUID(bytes=secrets.token_bytes(16), version=4).hex


async def submit(url: str, request: IntakeRequest, *, is_cluster: bool = False) -> AsyncIterator[Chunk | Final]:
    """Queue a job and yield its events up to its Final; is_cluster says that the URL names a node of a Redis Cluster.

    Raises QueueError if Redis is out of reach or nobody answers, RequestError for more than one choice; a refused job
    ends in a Final with an error.
    """
    if request.n not in (None, 1):
        raise RequestError(f"submit follows one choice, got n = {request.n}; use submit_choices", param="n")
    async for _, event in submit_choices(url, request, is_cluster=is_cluster):
        yield event


async def submit_choices(
    url: str, request: IntakeRequest, *, is_cluster: bool = False
) -> AsyncIterator[tuple[int, Chunk | Final]]:
    """Queue a job of one or more choices and yield (choice, event) as they come, up to the last choice's Final.

    Raises QueueError if Redis is out of reach or nobody answers; a refused job ends in a Final with an error.
    """
    timeouts = {"socket_connect_timeout": COMMAND_TIMEOUT_S, "socket_timeout": COMMAND_TIMEOUT_S}
    kind: Any = RedisCluster if is_cluster else Redis
    job_ids = [child_id(request.id, index) for index in range(request.n or 1)]
    try:
        async with kind.from_url(url, protocol=2, **timeouts) as client:
            await client.xadd(INTAKE_STREAM, {INTAKE_FIELD: msgspec.json.encode(request)})
            async for pair in follow_each(client, job_ids) if is_cluster else follow(client, job_ids):
                yield pair
    except MovedError as error:
        raise QueueError("this Redis is a node of a Redis Cluster; say so (--redis-cluster)") from error
    except (RedisError, RedisClusterException, OSError) as error:
        raise QueueError(f"Redis is out of reach: {error}") from error


async def follow_each(client: Redis, job_ids: Sequence[str]) -> AsyncIterator[tuple[int, Chunk | Final]]:
    """Do what `follow` does, stream by stream: no command reads streams of two slots of a Cluster."""
    waiting: asyncio.Queue[tuple[int, Chunk | Final] | BaseException] = asyncio.Queue(MAX_WAITING)

    async def pass_on(index: int) -> None:
        try:
            async for _, event in follow(client, job_ids[index : index + 1]):
                await waiting.put((index, event))
        except (QueueError, RedisError, RedisClusterException, OSError) as error:
            await waiting.put(error)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(pass_on(index)) for index in range(len(job_ids))]
        num_open = len(job_ids)
        while num_open:
            found = await waiting.get()
            if isinstance(found, BaseException):
                break
            yield found
            if isinstance(found[1], Final):
                num_open = 0 if found[1].error is not None else num_open - 1
        for task in tasks:
            task.cancel()
    if isinstance(found, BaseException):
        raise found


async def follow(client: Redis, job_ids: Sequence[str]) -> AsyncIterator[tuple[int, Chunk | Final]]:
    """Yield (index, event) of jobs from their first event on, up to the last Final.

    Raises QueueError if all of them stay silent. A request that is refused as a whole has a Final on its first job
    only, which then ends all.
    """
    indices = {out_stream(job_id).encode(): index for index, job_id in enumerate(job_ids)}
    last: dict[Any, Any] = dict.fromkeys(indices, b"0-0")
    silent_ms = 0
    while silent_ms < SILENCE_S * 1000:
        answer: Any = await client.xread(dict(last), block=BLOCK_MS)
        silent_ms = 0 if answer else silent_ms + BLOCK_MS
        for key, rows in answer or []:
            for entry_id, fields in rows:
                last[key] = entry_id
                event = decode_event(fields[OUT_FIELD.encode()])
                yield indices[key], event
                if isinstance(event, Final):
                    if event.error is not None:
                        return
                    del last[key]
        if not last:
            return
    raise QueueError(f"job {job_ids[0]} was silent for {SILENCE_S:.0f} s; is a gateway and a worker running?")
