"""A job that has lost its place in the queue gets another; one that somebody works on, or that waits, is left alone."""

import pytest

from client.wire import WORKER_GROUP, job_key, live_key, queue_stream, worker_key
from service.upkeep.lost_entries import LostEntries
from tests.service.jobs import append, ending, new_job, take

STREAM = queue_stream("fake")


@pytest.fixture
def lost(queue, monkeypatch):
    """Look at every job each time."""
    monkeypatch.setattr("service.upkeep.lost_entries.LOOK_AFTER_MS", 0)
    return LostEntries(queue)


async def restored(lost):
    """Return how many entries are restored by the first look that counts: the one before begins a job's time."""
    await lost.restore()
    return await lost.restore()


async def lose_entries(client, queue):
    await client.delete(STREAM)
    await queue.make_group()


async def test_a_job_whose_creator_died_before_its_entry_gets_one(queue, client, lost):
    job = new_job()
    await queue.submit(job)
    await lose_entries(client, queue)
    assert await restored(lost) == 1
    assert (await take(queue)).job == job


async def test_the_new_entry_is_of_the_jobs_own_priority_and_counts_like_the_first(queue, client, lost):
    job = new_job(priority=0)
    await queue.submit(job)
    (first,) = await queue.entries()
    await client.delete(queue_stream("fake", 0))
    await queue.make_group()
    await restored(lost)
    assert await queue.entries() == [first]
    assert (await take(queue)).entry.priority == 0


async def test_a_job_is_left_alone_for_ten_seconds(queue, client, monkeypatch):
    await queue.submit(new_job())
    await lose_entries(client, queue)
    assert await restored(LostEntries(queue)) == 0
    monkeypatch.setattr("service.upkeep.lost_entries.LOOK_AFTER_MS", 0)
    assert await LostEntries(queue).restore() == 1


async def test_a_job_that_waits_is_left_where_it_is(queue, lost):
    await queue.submit(new_job())
    assert await restored(lost) == 0
    assert await queue.depth() == 1


async def running_without_entry(queue, client):
    await queue.submit(new_job())
    claim = await take(queue, "one")
    await queue.append([append(claim, 0, 7, 8)])
    await lose_entries(client, queue)
    return claim


async def test_a_running_job_whose_worker_is_gone_goes_on_from_its_tokens(queue, client, lost):
    claim = await running_without_entry(queue, client)
    assert await restored(lost) == 1
    heir = await take(queue, "two")
    assert (heir.job, heir.epoch) == (claim.job, claim.epoch + 1)
    assert [chunk.token_ids for chunk in heir.streamed] == [(7, 8)]


async def test_a_running_job_whose_worker_lives_and_goes_on_is_left_to_it(queue, client, lost):
    claim = await running_without_entry(queue, client)
    await client.hset(worker_key("one"), "model", "fake")
    for count in range(2, 6):
        await queue.append([append(claim, count, 9)])
        assert await lost.restore() == 0
    assert await queue.depth() == 0


async def test_a_running_job_that_its_living_worker_has_dropped_is_found_by_its_standing_still(queue, client, lost):
    await running_without_entry(queue, client)
    await client.hset(worker_key("one"), "model", "fake")
    assert [await lost.restore() for _ in range(3)] == [0, 0, 1]


async def test_of_two_gateways_one_looks_at_a_job(queue, client):
    job = new_job()
    await queue.submit(job)
    await client.delete(STREAM)
    await client.zadd(live_key("fake"), {job.id: 1})
    assert await LostEntries(queue).restore() == 1
    await client.delete(STREAM)
    assert await LostEntries(queue).restore() == 0


async def test_what_has_ended_is_no_longer_looked_at(queue, client, lost):
    await queue.submit(new_job())
    claim = await take(queue)
    assert await client.zcard(live_key("fake")) == 1
    await queue.finish([ending(claim, 0)])
    assert await restored(lost) == 0
    assert (await client.zcard(live_key("fake")), await queue.depth()) == (0, 0)


async def test_a_job_that_was_never_made_is_forgotten(client, lost):
    await client.zadd(live_key("fake"), {"a" * 32: 0})
    assert await restored(lost) == 0
    assert await client.zcard(live_key("fake")) == 0


async def test_a_job_that_cannot_be_read_keeps_no_other_from_its_entry(queue, client, lost):
    broken, job = new_job(), new_job()
    for one in (broken, job):
        await queue.submit(one)
    await client.hset(job_key(broken.id), "job", b"\xc1")
    await lose_entries(client, queue)
    assert await restored(lost) == 1
    assert (await take(queue)).job == job


async def test_an_entry_in_a_workers_hands_is_an_entry(queue, client, lost):
    await queue.submit(new_job())
    await take(queue)
    assert await restored(lost) == 0
    assert (await client.xpending(STREAM, WORKER_GROUP))["pending"] == 1
