"""A worker that is killed at any named place of its path costs its clients a pause, and nothing else (bar R3)."""

import asyncio
import json
import signal

import pytest
from redis.asyncio import Redis

from client.wire import INTAKE_FIELD, INTAKE_STREAM, out_stream
from tests.faults.history import following
from tests.faults.points import MID_SUBMIT, WORKER_POINTS, Fault
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


async def test_a_gateway_may_die_between_a_job_and_its_place_in_the_queue(world):
    await world.queue()
    jobs = new_jobs(1)
    await world.steady_worker()
    doomed = world.gateway(faults=(Fault(MID_SUBMIT, signal.SIGKILL),))
    await submit_natively(world.client, jobs[0])
    async with following(world.url, jobs) as clients:
        assert await doomed.ended() == -signal.SIGKILL
        assert await world.client.exists(out_stream(jobs[0].id)) == 0
        world.gateway(constants={"service.intake.ABANDONED_MS": 300})
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
