"""Submit a job straight through Redis and follow its stream: no HTTP, the same queue."""

import secrets
import uuid
from collections.abc import AsyncIterator
from typing import Any

import msgspec
from redis.asyncio import Redis
from redis.exceptions import RedisError

from client.wire import INTAKE_FIELD, INTAKE_STREAM, OUT_FIELD, Chunk, Final, IntakeRequest, decode_event, out_stream
from core.errors import QueueError

BLOCK_MS = 1000
COMMAND_TIMEOUT_S = 5.0
# Without any sign of life for this long, nobody is working on the job.
SILENCE_S = 60.0


def new_job_id() -> str:
    """Return a fresh job id."""
    return uuid.UUID(bytes=secrets.token_bytes(16), version=4).hex


async def submit(url: str, request: IntakeRequest) -> AsyncIterator[Chunk | Final]:
    """Queue a job and yield its events up to its Final.

    Raises QueueError if Redis is out of reach or nobody answers; a refused job ends in a Final with an error.
    """
    client = Redis.from_url(url, socket_connect_timeout=COMMAND_TIMEOUT_S, socket_timeout=COMMAND_TIMEOUT_S, protocol=2)
    try:
        await client.xadd(INTAKE_STREAM, {INTAKE_FIELD: msgspec.json.encode(request)})
        async for event in follow(client, request.id):
            yield event
    except (RedisError, OSError) as error:
        raise QueueError(f"Redis is out of reach: {error}") from error
    finally:
        await client.aclose()


async def follow(client: Redis, job_id: str) -> AsyncIterator[Chunk | Final]:
    """Yield a job's events from its first on, up to its Final; raises QueueError if it stays silent."""
    key, last, silent_ms = out_stream(job_id), "0-0", 0
    while silent_ms < SILENCE_S * 1000:
        answer: Any = await client.xread({key: last}, block=BLOCK_MS)
        silent_ms = 0 if answer else silent_ms + BLOCK_MS
        for _, rows in answer or []:
            for entry_id, fields in rows:
                last = entry_id.decode()
                event = decode_event(fields[OUT_FIELD.encode()])
                yield event
                if isinstance(event, Final):
                    return
    raise QueueError(f"job {job_id} was silent for {SILENCE_S:.0f} s; is a gateway and a worker running?")
