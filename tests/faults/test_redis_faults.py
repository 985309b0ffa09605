"""A Redis that is emptied, full or gone: every stream goes on or ends in an error event, and service comes back."""

import asyncio
import json

import aiohttp
import pytest

from client.wire import job_key
from tests.faults.history import following
from tests.faults.proxy import Proxy
from tests.faults.world import health, new_jobs
from tests.service.fakes import until, until_true

UNAVAILABLE = 503
# After a full Redis has room again (bar R12).
RECOVERY_S = 5.0


async def complete(http, gateway, **body):
    """Return the status and the last event of a streamed completion, which has to end in one."""
    url = f"http://127.0.0.1:{gateway.port}/v1/completions"
    async with http.post(url, json={"prompt": "abc", "max_tokens": 30, "stream": True} | body) as response:
        text = (await response.read()).decode()
    if response.status != 200:
        return response.status, text
    return response.status, text.removesuffix("\n\n").rpartition("data: ")[2]


@pytest.fixture
async def http():
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30)) as http:
        yield http


async def test_open_streams_end_in_an_error_event_when_redis_is_emptied_and_new_ones_are_served(world, http):
    await world.steady_worker(step_s=0.05)
    gateway = world.gateway(request_timeout_s=2.0)
    await until(lambda: health(http, gateway), 200)
    open_stream = asyncio.create_task(complete(http, gateway, max_tokens=200))
    await until_job(world)
    await world.client.flushall()
    status, last = await open_stream
    assert status == 200
    assert "error" in json.loads(last)
    await until(lambda: health(http, gateway), 200)
    assert await complete(http, gateway) == (200, "[DONE]")


async def until_job(world, least=3, num_jobs=1):
    """Wait until so many jobs have tokens."""

    async def have_tokens():
        keys = [key async for key in world.client.scan_iter("specd:{*}:job")]
        counts = [int(await world.client.hget(key, "n") or 0) for key in keys]
        return sum(count >= least for count in counts) >= num_jobs

    await until(have_tokens, True)


async def test_a_full_redis_refuses_new_work_and_what_ran_goes_on_when_there_is_room(own_world, http):
    await own_world.steady_worker(step_s=0.03)
    gateway = own_world.gateway()
    await until(lambda: health(http, gateway), 200)
    jobs = new_jobs(3, max_tokens=60)
    await own_world.submit(jobs)
    async with following(own_world.url, jobs) as clients:
        await until_true(lambda: all(clients.num_tokens(job.id) >= 6 for job in jobs))
        await own_world.client.config_set("maxmemory", "1")
        # For some steps of every job, and for less than a lease.
        await asyncio.sleep(0.3)
        assert (await complete(http, gateway))[0] == UNAVAILABLE
        await own_world.client.config_set("maxmemory", "0")
        assert await own_world.judge(jobs, clients) == []
    assert all(member.status is None for member in own_world.members)
    assert await complete(http, gateway) == (200, "[DONE]")


@pytest.mark.parametrize(
    ("lease_ms", "full_s"),
    [(800, 2.0), pytest.param(10_000, 14.0, marks=pytest.mark.slow)],
    ids=["short leases", "the usual ones"],
)
async def test_what_ran_goes_on_within_five_seconds_of_room_however_long_redis_was_full(
    own_world, http, lease_ms, full_s
):
    """Longer than a lease: the worker beats all the while, so it keeps its jobs (bar R12)."""
    own_world.lease_ms = lease_ms
    own_world.worker(step_s=0.03)
    gateway = own_world.gateway()
    await until(lambda: health(http, gateway), 200)
    jobs = new_jobs(3, max_tokens=150)
    await own_world.submit(jobs)
    async with following(own_world.url, jobs) as clients:
        await until_true(lambda: all(clients.num_tokens(job.id) >= 6 for job in jobs))
        await own_world.client.config_set("maxmemory", "1")
        await asyncio.sleep(full_s)
        assert (await complete(http, gateway))[0] == UNAVAILABLE
        had = {job.id: clients.num_tokens(job.id) for job in jobs}
        await own_world.client.config_set("maxmemory", "0")
        async with asyncio.timeout(RECOVERY_S):
            await until_true(lambda: all(clients.num_tokens(job.id) > had[job.id] for job in jobs))
            await until(lambda: status_of(http, gateway), 200)
        assert await own_world.judge(jobs, clients) == []
        assert {await own_world.client.hget(job_key(job.id), "epoch") for job in jobs} == {b"1"}


async def status_of(http, gateway):
    return (await complete(http, gateway, max_tokens=3))[0]


async def test_a_gateway_cut_off_from_redis_is_unhealthy_and_goes_on_where_it_was(world, redis_url, http):
    await world.steady_worker(step_s=0.03)
    async with Proxy(redis_url.removeprefix("unix://")) as proxy:
        gateway = world.gateway(url=proxy.url)
        await until(lambda: health(http, gateway), 200)
        open_stream = asyncio.create_task(complete(http, gateway, max_tokens=90))
        await until_job(world)
        proxy.is_refusing = True
        proxy.cut()
        await until(lambda: health(http, gateway), UNAVAILABLE)
        proxy.is_refusing = False
        assert await open_stream == (200, "[DONE]")


@pytest.mark.parametrize("num_clients", [10, pytest.param(1000, marks=pytest.mark.slow)])
async def test_clients_that_leave_leave_nothing_behind(world, http, num_clients):
    """At every stage of an answer: before its headers, in the queue, in its tokens (bar R7)."""
    await world.steady_worker(step_s=0.02)
    gateway = world.gateway()
    await until(lambda: health(http, gateway), 200)
    queue = await world.queue()
    room = asyncio.Semaphore(20)

    async def leave_after(seconds):
        async with room:
            task = asyncio.create_task(complete(http, gateway, max_tokens=400))
            await asyncio.sleep(seconds)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    await asyncio.gather(*(leave_after(0.03 * (index % 10)) for index in range(num_clients)))
    await until(queue.depth, 0)
    states = [await world.client.hget(key, "state") async for key in world.client.scan_iter("specd:*:job")]
    assert set(states) == {b"cancelled"}
    assert await complete(http, gateway) == (200, "[DONE]")
