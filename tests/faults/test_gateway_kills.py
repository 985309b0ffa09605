"""Gateways killed again and again: jobs are followed to their end, and what hung on a connection ends (bar R5)."""

import asyncio
import json
from functools import partial

import aiohttp
import pytest

from client.blocking_jobs import BlockingJobs
from client.jobs import Jobs
from tests.faults.history import log_violations
from tests.faults.proxy import Proxy
from tests.faults.test_redis_faults import complete, until_job
from tests.faults.world import health, new_jobs
from tests.service.fakes import until

# A grace of a second in place of five.
HASTE = {"service.upkeep.open_answers.BEAT_S": 0.05, "service.upkeep.sweeper.LOOK_S": 0.2}
GRACE_S = 1.0


@pytest.fixture
async def http():
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)) as http:
        yield http


def url_of(gateway):
    return f"http://127.0.0.1:{gateway.port}"


def fields_of(job):
    return {"prompt": list(job.prompt_ids), "max_tokens": job.sampling.max_tokens, "ignore_eos": True}


def as_seen(event):
    """Return an event as an entry of the stream it was read from."""
    return f"{event.id.removesuffix('f')}-{int(event.id.endswith('f'))}", event.message


async def follow(url, job):
    async with Jobs(url) as jobs:
        job_id = await jobs.submit(**fields_of(job))
        return [as_seen(event) async for event in jobs.events(job_id)]


def follow_blocking(url, job):
    with BlockingJobs(url) as jobs:
        job_id = jobs.submit(**fields_of(job))
        return [as_seen(event) for event in jobs.events(job_id)]


@pytest.mark.parametrize("num_kills", [2, pytest.param(20, marks=pytest.mark.slow)])
async def test_clients_of_jobs_follow_them_exactly_through_any_number_of_kills(world, http, num_kills):
    # So slow that they end after the last kill: 150 steps.
    await world.steady_worker(step_s=0.012 * num_kills, num_slots=8)
    gateway = world.gateway()
    await until_healthy(http, gateway)
    jobs = new_jobs(6, max_tokens=450)
    followers = [asyncio.create_task(follow(url_of(gateway), job)) for job in jobs[:3]]
    followers += [asyncio.create_task(asyncio.to_thread(follow_blocking, url_of(gateway), job)) for job in jobs[3:]]
    for _ in range(num_kills):
        await asyncio.sleep(0.5)
        assert not any(one.done() for one in followers)
        gateway.kill()
        await gateway.ended()
        gateway = world.start("gateway", "fake", None, port=gateway.port)
    logs = await asyncio.wait_for(asyncio.gather(*followers), 120)
    assert [log_violations(job, log) for job, log in zip(jobs, logs, strict=True)] == [[]] * len(jobs)


async def test_a_plain_stream_whose_gateway_is_killed_breaks_off_and_never_looks_whole(world, http):
    await world.steady_worker(step_s=0.05)
    gateway = world.gateway()
    await until_healthy(http, gateway)
    open_stream = asyncio.create_task(complete(http, gateway, max_tokens=200))
    await until_job(world)
    gateway.kill()
    with pytest.raises(aiohttp.ClientError):
        await open_stream


async def test_plain_answers_of_a_killed_gateway_are_cancelled_and_jobs_are_not(world, http):
    await world.steady_worker(step_s=0.03)
    doomed, other = world.gateway(constants=HASTE), world.gateway(constants=HASTE)
    await until_healthy(http, doomed, other)
    plain = asyncio.create_task(complete(http, doomed, max_tokens=400))
    await until_job(world)
    (plain_id,) = await job_ids(world)
    job, natively = new_jobs(2, max_tokens=200)
    follower = asyncio.create_task(follow([url_of(other), url_of(doomed)], job))
    async with Jobs(url_of(doomed)) as jobs:
        job_id = await jobs.submit(**fields_of(job))
    request = {"id": natively.id} | fields_of(natively)
    await world.client.xadd("specd:intake", {"request": json.dumps(request)})
    await until(lambda: state_of(world, natively.id), b"running")
    doomed.kill()
    await asyncio.gather(plain, return_exceptions=True)
    await until(lambda: state_of(world, plain_id), b"cancelled")
    await until(lambda: states_of(world, job_id, natively.id), {b"done"}, 30.0)
    assert log_violations(job, await follower) == []
    assert await metric(http, other, "specd_orphans_cancelled_total") == 1


async def test_a_restarted_gateway_cancels_what_it_left_open_when_it_was_killed(world, http):
    await world.steady_worker(step_s=0.03)
    gateway = world.gateway(constants=HASTE)
    await until_healthy(http, gateway)
    plain = asyncio.create_task(complete(http, gateway, max_tokens=400))
    await until_job(world)
    (plain_id,) = await job_ids(world)
    gateway.kill()
    await asyncio.gather(plain, return_exceptions=True)
    await gateway.ended()
    world.start("gateway", "fake", None, port=gateway.port, constants=HASTE)
    await until(lambda: state_of(world, plain_id), b"cancelled")


async def test_a_gateway_that_was_taken_for_dead_ends_its_answers_in_an_error(world, redis_url, http):
    """Not in what looks like a whole answer: its jobs were cancelled behind its back."""
    await world.steady_worker(step_s=0.03)
    async with Proxy(redis_url.removeprefix("unix://")) as proxy:
        cut_off, other = world.gateway(url=proxy.url, constants=HASTE), world.gateway(constants=HASTE)
        await until_healthy(http, cut_off, other)
        plain = asyncio.create_task(complete(http, cut_off, max_tokens=400))
        await until_job(world)
        (plain_id,) = await job_ids(world)
        proxy.hold()
        await until(lambda: state_of(world, plain_id), b"cancelled")
        proxy.release()
        status, last = await plain
    assert (status, json.loads(last)["error"]["code"]) == (200, "answer_given_up")


async def test_a_gateway_that_is_alive_is_not_taken_for_dead_with_redis_away(own_world, own_redis, http):
    await own_world.steady_worker(step_s=0.03)
    gateways = [own_world.gateway(constants=HASTE) for _ in range(2)]
    await until_healthy(http, *gateways)
    plain = [asyncio.create_task(complete(http, gateway, max_tokens=150)) for gateway in gateways]
    await until_job(own_world, num_jobs=len(plain))
    own_redis.kill()
    await asyncio.sleep(2 * GRACE_S)
    await asyncio.to_thread(own_redis.start)
    assert await asyncio.gather(*plain) == [(200, "[DONE]")] * 2


async def until_healthy(http, *gateways):
    for gateway in gateways:
        await until(partial(health, http, gateway), 200)


async def job_ids(world):
    return [key.decode()[7:39] async for key in world.client.scan_iter("specd:{*}:job")]


async def state_of(world, job_id):
    return await world.client.hget(f"specd:{{{job_id}}}:job", "state")


async def states_of(world, *ids):
    return {await state_of(world, job_id) for job_id in ids}


async def metric(http, gateway, name):
    async with http.get(f"{url_of(gateway)}/metrics") as response:
        lines = (await response.text()).splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name + "{"))
