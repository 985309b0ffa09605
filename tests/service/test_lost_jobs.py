"""A job that is brought back is another generation: old claims are void, and no draw is made twice."""

import pytest

from client.wire import decode_job, job_key, out_stream
from core.types import FinishReason
from service.queue import JobQueue
from service.storage.reader import StreamReader
from service.upkeep import lost_jobs
from service.upkeep.lost_jobs import LostJobs
from tests.service.fakes import FakeEngine, until_true, worker
from tests.service.jobs import append, end_of, new_job, take, tokens_of


async def lose(queue, client, job, *tokens):
    """Have a job claimed and begun, and lost; return the claim and what its stream held."""
    await queue.submit(job)
    claim = await take(queue)
    await queue.append([append(claim, 0, *tokens)])
    chunks = await queue.chunks(job.id)
    await client.flushall()
    await queue.make_group()
    return claim, chunks


async def test_a_job_goes_on_from_what_was_read_of_it_and_a_claim_from_before_is_void(queue, client):
    job = new_job()
    before, chunks = await lose(queue, client, job, 1, 2, 3)
    assert await queue.restore(job, chunks)
    await queue.add_entry(job)
    claim = await take(queue, "two")
    assert [chunk.token_ids for chunk in claim.streamed] == [(1, 2, 3)]
    assert not (await queue.append([append(before, 3, 8, 8)]))[0].is_ours
    assert (await queue.append([append(claim, 3, 4)]))[0].is_ours
    assert await tokens_of(client, job.id) == [1, 2, 3, 4]
    assert min(await client.ttl(job_key(job.id)), await client.ttl(out_stream(job.id))) > 0


async def test_nothing_that_is_there_is_written_over(queue, client):
    job = new_job()
    await queue.submit(job)
    assert not await queue.restore(job, [])
    await client.delete(job_key(job.id))
    await client.xadd(out_stream(job.id), {"m": b"x"})
    assert not await queue.restore(job, [])


@pytest.mark.parametrize("seed", [None, 5])
async def test_draws_are_new_unless_they_come_from_a_seed(queue, client, seed, monkeypatch):
    monkeypatch.setattr(lost_jobs, "CHECK_S", 0.0)
    job, reader = new_job(seed=seed), StreamReader(client, client)
    async with reader.follow([job], lambda *_: None):
        await LostJobs(queue, reader)._look()
        back = decode_job(await client.hget(job_key(job.id), "job"))
    assert (back.nonce == job.nonce) == (seed is not None)
    assert back.sampling == job.sampling


async def test_a_deadline_still_holds(queue, client):
    job = new_job(deadline_ms=1)
    assert await queue.restore(job, [])
    assert await queue.end_overdue() == 1


async def test_a_worker_in_the_middle_of_a_step_of_a_job_that_was_lost_does_not_swallow_its_new_entry(settings, client):
    job, engine = new_job(max_tokens=6), FakeEngine(step_s=1.0)
    queue = JobQueue(client, settings.queue, "fake")
    await queue.open()
    async with worker(settings, engine):
        await queue.submit(job)
        await until_true(lambda: engine.running)
        await client.flushall()
        await queue.make_group()
        assert await queue.restore(job, [])
        await queue.add_entry(job)
        assert (await end_of(client, job)).reason is FinishReason.LENGTH
    assert len(engine.seen) == 2
