"""Submit jobs straight through Redis and follow their streams: no HTTP, the same queue."""

import secrets
import uuid
from collections.abc import AsyncIterator, Sequence
from typing import Any

import msgspec
from redis.asyncio import Redis
from redis.exceptions import RedisError

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
# Without any sign of life for this long, nobody is working on the job.
SILENCE_S = 60.0


def new_job_id() -> str:
    """Return a fresh job id."""
    return uuid.UUID(bytes=secrets.token_bytes(16), version=4).hex


async def submit(url: str, request: IntakeRequest) -> AsyncIterator[Chunk | Final]:
    """Queue a job and yield its events up to its Final.

    Raises QueueError if Redis is out of reach or nobody answers, RequestError for more than one choice; a refused job
    ends in a Final with an error.
    """
    if request.n not in (None, 1):
        raise RequestError(f"submit follows one choice, got n = {request.n}; use submit_choices", param="n")
    async for _, event in submit_choices(url, request):
        yield event


async def submit_choices(url: str, request: IntakeRequest) -> AsyncIterator[tuple[int, Chunk | Final]]:
    """Queue a job of one or more choices and yield (choice, event) as they come, up to the last choice's Final.

    Raises QueueError if Redis is out of reach or nobody answers; a refused job ends in a Final with an error.
    """
    client = Redis.from_url(url, socket_connect_timeout=COMMAND_TIMEOUT_S, socket_timeout=COMMAND_TIMEOUT_S, protocol=2)
    try:
        await client.xadd(INTAKE_STREAM, {INTAKE_FIELD: msgspec.json.encode(request)})
        async for pair in follow(client, [child_id(request.id, index) for index in range(request.n or 1)]):
            yield pair
    except (RedisError, OSError) as error:
        raise QueueError(f"Redis is out of reach: {error}") from error
    finally:
        await client.aclose()


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
