"""A process that is killed at any named place of its path costs its clients a pause, and nothing else (bar R3)."""

import asyncio
import json
import signal

import pytest
from redis.asyncio import Redis

from client.wire import INTAKE_FIELD, INTAKE_STREAM, queue_stream
from tests.faults.history import following
from tests.faults.points import BEFORE_RELEASE, MID_SUBMIT, RESTORE_POINTS, SUBMIT_POINTS, WORKER_POINTS, Fault
from tests.faults.world import new_jobs
from tests.service.fakes import until_true

# Between two appends is after the second of them.
NTH = {"after_append": 2, "before_append": 3}


async def die_at(world, point, model):
    """Kill a worker at `point` while it answers; returns what is wrong with what clients saw."""
    jobs = new_jobs(3, model)
    await world.submit(jobs)
    doomed = world.worker(model, faults=(Fault(point, signal.SIGKILL, NTH.get(point, 1)),))
    async with following(world.url, jobs) as clients:
        assert await doomed.ended() == -signal.SIGKILL
        assert doomed.hits[-1] == point
        heir = world.worker(model)
        found = await world.judge(jobs, clients)
    heir.kill()
    return found


async def test_a_worker_may_die_at_every_point(world):
    found = await asyncio.gather(*(die_at(world, point, f"fake-{point}") for point in WORKER_POINTS))
    assert dict(zip(WORKER_POINTS, found, strict=True)) == {point: [] for point in WORKER_POINTS}


@pytest.mark.slow
@pytest.mark.parametrize("point", WORKER_POINTS)
async def test_a_worker_may_die_at_every_point_twenty_times(world, point):
    for start in range(0, 20, 5):
        found = await asyncio.gather(*(die_at(world, point, f"fake-{start + i}") for i in range(5)))
        assert found == [[]] * 5


async def submit_natively(client: Redis, job):
    request = {"id": job.id, "prompt": job.prompt_ids, "max_tokens": job.sampling.max_tokens, "ignore_eos": True}
    await client.xadd(INTAKE_STREAM, {INTAKE_FIELD: json.dumps(request)})


# Looks at live jobs all the time, so that tests need not wait for ten seconds.
SWEEPING = {"service.upkeep.lost_entries.LOOK_AFTER_MS": 200, "service.upkeep.sweeper.RESTORE_S": 0.1}


async def die_submitting(world, point, heir_constants):
    """Kill a gateway at `point` while it submits an intake entry; returns what is wrong with what its client saw."""
    await world.client.flushall()
    jobs = new_jobs(1)
    await world.steady_worker()
    doomed = world.gateway(faults=(Fault(point, signal.SIGKILL),))
    await submit_natively(world.client, jobs[0])
    async with following(world.url, jobs) as clients:
        assert await doomed.ended() == -signal.SIGKILL
        assert doomed.hits[-1] == point
        world.gateway(constants=heir_constants)
        found = await world.judge(jobs, clients)
    await world.end()
    return found


@pytest.mark.parametrize("point", SUBMIT_POINTS)
@pytest.mark.parametrize("times", [1, pytest.param(20, marks=pytest.mark.slow)])
async def test_a_gateway_may_die_while_it_submits(world, point, times):
    for _ in range(times):
        assert await die_submitting(world, point, {"service.storage.intake.ABANDONED_MS": 300}) == []


async def test_a_job_without_a_place_in_the_queue_is_given_one_though_nobody_submits_it_again(world):
    found = await die_submitting(world, MID_SUBMIT, SWEEPING | {"service.storage.intake.ABANDONED_MS": 3_600_000})
    assert found == []


@pytest.mark.parametrize("point", RESTORE_POINTS)
@pytest.mark.parametrize("times", [1, pytest.param(20, marks=pytest.mark.slow)])
async def test_a_gateway_may_die_while_it_restores_a_place_in_the_queue(world, point, times):
    for _ in range(times):
        await world.client.flushall()
        jobs = new_jobs(1)
        await world.submit(jobs)
        await world.client.delete(queue_stream("fake"))
        doomed = world.gateway(constants=SWEEPING, faults=(Fault(point, signal.SIGKILL),))
        async with following(world.url, jobs) as clients:
            assert await doomed.ended() == -signal.SIGKILL
            assert doomed.hits[-1] == point
            world.gateway(constants=SWEEPING)
            await world.steady_worker()
            assert await world.judge(jobs, clients) == []
        await world.end()


async def test_a_worker_that_was_told_to_end_may_die_before_it_gives_its_jobs_back(world):
    jobs = new_jobs(2, max_tokens=90)
    await world.submit(jobs)
    faults = (Fault(BEFORE_RELEASE, signal.SIGKILL),)
    doomed = world.worker(step_s=0.05, constants={"service.worker.DRAIN_S": 0.1}, faults=faults)
    async with following(world.url, jobs) as clients:
        await until_true(lambda: all(clients.num_tokens(job.id) >= 6 for job in jobs))
        doomed.signal(signal.SIGTERM)
        assert await doomed.ended() == -signal.SIGKILL
        world.worker()
        assert await world.judge(jobs, clients) == []


async def test_a_gateway_that_dies_takes_no_answer_with_it(world):
    await world.queue()
    jobs = new_jobs(1, max_tokens=90)
    await world.steady_worker(step_s=0.02)
    doomed = world.gateway()
    await submit_natively(world.client, jobs[0])
    async with following(world.url, jobs) as clients:
        await until_true(lambda: clients.num_tokens(jobs[0].id) >= 6)
        doomed.kill()
        assert await world.judge(jobs, clients) == []
