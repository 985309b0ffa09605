"""What gateways look after: workers and gateways that are gone leave nothing in Redis, not even their names."""

import asyncio
from contextlib import asynccontextmanager

import pytest

import service.queue
import service.sweeper
from client.wire import INTAKE_GROUP, INTAKE_STREAM, PRIORITIES, WORKER_GROUP, queue_stream
from service.priority_streams import make_group
from service.sweeper import Sweeper
from tests.service.fakes import until
from tests.service.jobs import append, new_job, take, tokens_of

STREAMS = [queue_stream("fake", priority) for priority in PRIORITIES]


@pytest.fixture(autouse=True)
def soon(queue, monkeypatch):
    """Whoever is silent for a moment was not heard of for long."""
    monkeypatch.setattr(service.queue, "LEAST_IDLE_MS", 1)
    monkeypatch.setattr(service.queue, "IDLE_LEASES", 0)
    monkeypatch.setattr(service.sweeper, "RETIRE_S", 0.1)


@asynccontextmanager
async def sweeping(queue):
    task = asyncio.create_task(Sweeper(queue).run())
    try:
        yield
    finally:
        task.cancel()


async def names(client, stream, group=WORKER_GROUP):
    return {row["name"].decode() for row in await client.xinfo_consumers(stream, group)}


async def serve_one(queue, worker, priority=1):
    await queue.submit(new_job(priority=priority))
    await queue.acknowledge(await queue.read(worker, 1, 200))


async def test_a_worker_that_is_gone_is_forgotten_in_every_stream(queue, client):
    for priority in PRIORITIES:
        await serve_one(queue, "gone", priority)
    assert [await names(client, stream) for stream in STREAMS] == [{"gone"}] * 3
    async with sweeping(queue):
        for stream in STREAMS:
            await until(lambda stream=stream: names(client, stream), set())


async def test_a_gateway_that_is_gone_is_forgotten(queue, client):
    await make_group(client, INTAKE_STREAM, INTAKE_GROUP)
    entry_id = await client.xadd(INTAKE_STREAM, {"request": "{}"})
    await client.xreadgroup(INTAKE_GROUP, "gone", {INTAKE_STREAM: ">"}, count=1)
    await client.xack(INTAKE_STREAM, INTAKE_GROUP, entry_id)
    assert await names(client, INTAKE_STREAM, INTAKE_GROUP) == {"gone"}
    async with sweeping(queue):
        await until(lambda: names(client, INTAKE_STREAM, INTAKE_GROUP), set())


async def test_one_that_holds_a_job_is_kept_however_silent_so_that_the_job_is_not_lost(queue, client):
    await serve_one(queue, "gone")
    await queue.submit(new_job())
    claim = await take(queue, "silent")
    async with sweeping(queue):
        await until(lambda: names(client, STREAMS[1]), {"silent"})
    await asyncio.sleep(queue.settings.lease_ms / 1000)
    (entry,) = await queue.reclaim("heir", 5)
    assert entry == claim.entry


async def test_one_that_lives_after_all_reads_on(queue, client):
    await serve_one(queue, "one")
    async with sweeping(queue):
        await until(lambda: names(client, STREAMS[1]), set())
    await queue.submit(new_job())
    claim = await take(queue, "one")
    await queue.append([append(claim, 0, 65)])
    assert await tokens_of(client, claim.job.id) == [65]


async def test_it_looks_at_queues_that_are_not_there(queue, client):
    await client.flushall()
    assert await queue.retire() == 0
