"""SIGTERM, as every deployment sends it: what runs goes on elsewhere, and nobody is told of it (bar R8)."""

import asyncio
import signal

import pytest

from tests.faults.history import following
from tests.faults.points import BEFORE_RELEASE
from tests.faults.world import new_jobs
from tests.service.fakes import until_true


async def roll(world, old, **fields):
    """Put a new worker in an old one's place, the new one first; returns it."""
    new = world.worker(**fields)
    old.signal(signal.SIGTERM)
    assert await old.ended() == 0, old.log
    return new


async def test_a_worker_that_is_told_to_end_hands_its_answers_over(world):
    jobs = new_jobs(2, max_tokens=90)
    await world.submit(jobs)
    old = world.worker(step_s=0.05, constants={"service.worker.DRAIN_S": 0.1})
    async with following(world.url, jobs) as clients:
        await until_true(lambda: all(clients.num_tokens(job.id) >= 6 for job in jobs))
        await roll(world, old)
        assert old.hits.count(BEFORE_RELEASE) == 1
        assert await world.judge(jobs, clients) == []


@pytest.mark.slow
async def test_ten_rolling_restarts_under_load(world):
    jobs = new_jobs(200, max_tokens=90)
    fields = {"step_s": 0.03, "constants": {"service.worker.DRAIN_S": 0.3}}
    workers = [world.worker(**fields) for _ in range(2)]
    await world.submit(jobs)
    async with following(world.url, jobs) as clients:
        for _ in range(10):
            workers = [await roll(world, worker, **fields) for worker in workers]
            await asyncio.sleep(0.2)
        assert await world.judge(jobs, clients, 120.0) == []
