"""Jobs as tests write them, and what stands in their streams."""

import uuid

from client.wire import OUT_FIELD, Chunk, Final, Job, Usage, decode_event, job_key, out_stream
from core.types import FinishReason, Sampling
from service.storage.claims import Append, Ending
from tests.service.fakes import until


def new_job(prompt=(5, 6, 7), max_tokens=8, deadline_ms=None, priority=1, **fields):
    return Job(
        fields.pop("id", uuid.uuid4().hex),
        "fake",
        tuple(prompt),
        Sampling(max_tokens=max_tokens, **fields),
        nonce=b"n" * 16,
        created_ms=1,
        deadline_ms=deadline_ms,
        priority=priority,
    )


def append(claim, count, *tokens, reason=None):
    chunk = Chunk(tokens, tuple("x" for _ in tokens), reason=reason)
    return Append(claim.job.id, claim.epoch, count, chunk)


def ending(claim, tokens, reason=FinishReason.LENGTH):
    return Ending(claim.job.id, claim.epoch, Final(reason, Usage(3, tokens)), claim.entry)


async def take(queue, worker="one"):
    """Claim the next entry of the queue."""
    (entry,) = await queue.read(worker, 1, 200)
    return await queue.claim(entry, worker)


async def events_of(client, job_id):
    return [decode_event(fields[OUT_FIELD.encode()]) for _, fields in await client.xrange(out_stream(job_id))]


async def tokens_of(client, job_id):
    events = await events_of(client, job_id)
    return [token for event in events if isinstance(event, Chunk) for token in event.token_ids]


async def final_of(client, job_id):
    events = await events_of(client, job_id)
    return events[-1] if events and isinstance(events[-1], Final) else None


async def state_of(client, job_id):
    return (await client.hget(job_key(job_id), "state")).decode()


async def end_of(client, job):
    """Wait for a job's Final."""
    await until(lambda: has_ended(client, job), True)
    return await final_of(client, job.id)


async def has_ended(client, job):
    return await final_of(client, job.id) is not None


async def text_of(client, job):
    events = await events_of(client, job.id)
    return "".join(event.text for event in events[:-1]) + events[-1].tail
