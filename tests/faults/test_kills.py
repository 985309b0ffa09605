"""Workers and Redis killed at random under load: nothing is lost, repeated or reordered, nothing stays behind."""

import asyncio
import random

import pytest

from tests.faults.history import following
from tests.faults.storm import submit_surely
from tests.faults.world import LEASE_S, new_jobs
from tests.service.fakes import until_true

NUM_WORKERS = 4


async def pause(rng, least_s, most_s):
    await asyncio.sleep(rng.uniform(least_s, most_s))


async def kill_workers(world, living, num_kills, rng, least_s, most_s):
    """Kill one worker after another, each with a new one in its place."""
    for _ in range(num_kills):
        await pause(rng, least_s, most_s)
        living.pop(rng.randrange(len(living))).kill()
        living.append(world.worker())


async def freeze_workers(world, living, num_times, rng):
    """Freeze workers for longer than a lease, so that they wake as zombies."""
    for _ in range(num_times):
        await pause(rng, 0.3, 1.0)
        zombie = rng.choice(living)
        zombie.freeze()
        await asyncio.sleep(LEASE_S * 1.5)
        zombie.thaw()


async def keep_submitting(world, jobs, per_second):
    for job in jobs:
        await submit_surely(world, job)
        await asyncio.sleep(1 / per_second)


async def test_five_workers_killed_under_load(world):
    rng, jobs = random.Random(1), new_jobs(40)
    await world.submit(jobs)
    living = [world.worker(step_s=0.03) for _ in range(3)]
    async with following(world.url, jobs) as clients:
        await kill_workers(world, living, 5, rng, 0.1, 0.4)
        assert await world.judge(jobs, clients) == []
    assert sum(member.status == -9 for member in world.members) == 5


async def test_redis_killed_under_load(own_world, own_redis):
    jobs = new_jobs(20)
    await own_world.submit(jobs)
    for _ in range(2):
        own_world.worker(step_s=0.05)
    async with following(own_world.url, jobs) as clients:
        await asyncio.sleep(0.4)
        assert not all(clients.has_ended(job.id) for job in jobs)
        await own_redis.kill_and_restart()
        assert await own_world.judge(jobs, clients) == []


async def test_an_engine_that_hangs_loses_its_jobs_to_another_worker(world):
    world.lease_ms = 100
    jobs = new_jobs(2)
    await world.submit(jobs)
    hung = world.worker(step_s=60.0)
    async with following(world.url, jobs) as clients:
        await until_true(lambda: hung.hits.count("after_claim") == len(jobs))
        world.worker()
        assert await world.judge(jobs, clients) == []
    assert hung.status is None
    assert "engine_stalled" in hung.log


@pytest.mark.slow
@pytest.mark.parametrize(
    ("num_jobs", "num_kills", "num_redis_kills", "num_zombies"),
    [(600, 50, 0, 0), (600, 50, 5, 6), (3000, 200, 10, 20)],
    ids=["R1", "R2", "R2 nightly"],
)
async def test_random_kills(own_world, own_redis, num_jobs, num_kills, num_redis_kills, num_zombies):
    rng, jobs = random.Random(2), new_jobs(num_jobs, max_tokens=60)
    living = [own_world.worker(step_s=0.02, num_slots=8) for _ in range(NUM_WORKERS)]
    # So slowly that there is work until the last kill: kills take about 0.6 s each.
    per_second = num_jobs / (num_kills * 0.6)
    async with following(own_world.url, jobs) as clients, asyncio.TaskGroup() as group:
        group.create_task(keep_submitting(own_world, jobs, per_second))
        group.create_task(kill_workers(own_world, living, num_kills, rng, 0.4, 0.8))
        group.create_task(freeze_workers(own_world, living, num_zombies, rng))
        for _ in range(num_redis_kills):
            await pause(rng, 2.0, 4.0)
            await own_redis.kill_and_restart()
        assert await own_world.judge(jobs, clients, 600.0) == []
