"""The more urgent goes first, and yet nothing starves, is lost or is forgotten by whoever counts."""

import asyncio
from collections import Counter

import pytest

from client.wire import HIGH, LOW, NORMAL, PRIORITIES, WORKER_GROUP, queue_stream
from core.types import FinishReason
from service.openai import CompletionRequest
from service.takeover import to_request
from service.telemetry.worker_metrics import families, read_workers
from tests.service.conftest import LEASE_MS
from tests.service.fakes import FakeEngine, running, until, worker
from tests.service.jobs import end_of, ending, final_of, new_job, take


async def fill(queue, *priorities):
    """Submit one job of each priority; returns them."""
    jobs = [new_job(priority=priority) for priority in priorities]
    for job in jobs:
        await queue.submit(job)
    return jobs


async def test_the_more_urgent_is_read_first_and_equals_in_their_order(queue):
    low, first, high, second = await fill(queue, LOW, NORMAL, HIGH, NORMAL)
    found = [(await take(queue)).job.id for _ in range(4)]
    assert found == [high.id, first.id, second.id, low.id]


@pytest.mark.parametrize("count", [1, 3, 5, 64])
async def test_under_a_flood_of_urgent_jobs_each_other_priority_gets_its_sixteenth(queue, count):
    await fill(queue, *[HIGH] * 112, *[NORMAL] * 20, *[LOW] * 20)
    entries = []
    while len(entries) < 64:
        entries += await queue.read("one", min(count, 64 - len(entries)), 10)
    assert Counter(entry.priority for entry in entries) == {HIGH: 56, NORMAL: 4, LOW: 4}


async def test_a_turn_that_nobody_less_urgent_takes_is_not_wasted(queue):
    await fill(queue, *[HIGH] * 20)
    assert len(await queue.read("one", 20, 10)) == 20


async def test_never_more_is_read_than_was_asked_for(queue):
    await fill(queue, *PRIORITIES)
    assert [len(await queue.read("one", 2, 10)) for _ in range(2)] == [2, 1]
    assert await queue.read("one", 2, 10) == []


@pytest.mark.parametrize("priority", PRIORITIES)
async def test_who_waits_hears_of_every_priority_at_once(queue, priority):
    reading = asyncio.create_task(queue.read("one", 4, 3000))
    await asyncio.sleep(0.05)
    (job,) = await fill(queue, priority)
    async with asyncio.timeout(1):
        assert [(entry.job_id, entry.priority) for entry in await reading] == [(job.id, priority)]


async def test_what_was_read_beyond_the_free_slots_is_given_back_at_once(queue, monkeypatch):
    await fill(queue, *PRIORITIES)

    async def nothing(*_):
        return []

    # What comes between the look at the streams and the wait for them is read from each.
    monkeypatch.setattr(queue.scripts, "run", nothing)
    assert len(await queue.read("one", 1, 10)) == 1
    assert len(await queue.reclaim("two", 5)) == 2


async def test_lost_jobs_of_every_priority_are_taken_over_the_urgent_first(queue):
    await fill(queue, LOW, NORMAL, HIGH)
    lost = await queue.read("one", 3, 10)
    await queue.release("one", lost)
    assert [entry.priority for entry in await queue.reclaim("two", 2)] == [HIGH, NORMAL]
    assert [entry.priority for entry in await queue.reclaim("two", 2)] == [LOW]


@pytest.mark.parametrize("priority", PRIORITIES)
async def test_a_lease_is_kept_whatever_the_priority(settings, queue, client, priority):
    async with worker(settings, FakeEngine(step_s=0.03)):
        job = new_job(priority=priority, max_tokens=60)
        await queue.submit(job)
        await asyncio.sleep(LEASE_MS / 1000 * 1.6)
        assert await final_of(client, job.id) is None
        assert await queue.reclaim("two", 5) == []
        assert (await end_of(client, job)).reason is FinishReason.LENGTH
        await until(queue.depth, 0)
    assert (await client.xpending(queue_stream("fake", priority), WORKER_GROUP))["pending"] == 0


async def test_depth_and_backlog_count_every_priority(queue):
    await fill(queue, HIGH, NORMAL, LOW, LOW)
    await asyncio.sleep(0.05)
    assert await queue.depth() == 4
    claim = await take(queue)
    assert [one.num_waiting for one in await queue.backlogs()] == [0, 1, 2]
    waiting = await queue.backlog()
    assert (waiting.num_waiting, waiting.oldest_wait_s >= 0.05) == (3, True)
    await queue.finish([ending(claim, 0)])
    assert await queue.depth() == 3


async def test_a_job_of_any_priority_leaves_the_queue_when_cancelled(queue):
    jobs = await fill(queue, *PRIORITIES)
    await queue.cancel(*[job.id for job in jobs])
    assert await queue.depth() == 0


async def test_what_waits_is_told_by_priority(queue):
    await fill(queue, HIGH, LOW, LOW)
    found = {family.name: family for family in families(await read_workers(queue))}
    waiting = {sample.labels["priority"]: sample.value for sample in found["specd_queue_waiting"].samples}
    oldest = {sample.labels["priority"]: sample.value for sample in found["specd_queue_oldest_seconds"].samples}
    assert waiting == {"high": 1, "normal": 0, "low": 2}
    assert oldest["low"] > oldest["normal"] == 0.0


@pytest.mark.parametrize(("asked", "priority"), [(None, NORMAL), (0, NORMAL), (-1, HIGH), (-99, HIGH), (7, LOW)])
def test_vllms_priorities_become_three(asked, priority):
    assert CompletionRequest(prompt="", priority=asked).job_priority == priority


async def test_to_the_engine_the_urgent_have_the_greater_priority(queue):
    await fill(queue, *PRIORITIES)
    claims = [await take(queue) for _ in PRIORITIES]
    assert [to_request(claim, "rejection").priority for claim in claims] == [2, 1, 0]


async def test_over_http_a_priority_reaches_queue_and_engine(settings, client):
    async with running(settings, FakeEngine()) as service:
        status, _ = await service.post(prompt="abc", max_tokens=3, priority=-1)
        info = await client.xinfo_stream(queue_stream("fake", HIGH))
        assert (status, service.engine.seen[-1].priority) == (200, 2)
    assert info["last-generated-id"] != b"0-0"
    assert (await client.xinfo_groups(queue_stream("fake", LOW)))[0]["name"] == WORKER_GROUP.encode()
