"""A network that delays, holds and cuts between workers, gateways and Redis changes no answer (bar R4)."""

import asyncio

import aiohttp
import pytest

from tests.faults.history import following
from tests.faults.proxy import Proxy
from tests.faults.recital import writers
from tests.faults.world import LEASE_S, health, new_jobs
from tests.service.fakes import until, until_true


async def begin(world, proxy, num_jobs=4, **fields):
    """Return jobs that a worker behind the proxy has begun with."""
    jobs = new_jobs(num_jobs, max_tokens=60)
    await world.submit(jobs)
    return jobs, world.worker(url=proxy.url, **fields)


async def test_an_answer_over_a_slow_network_is_whole(world, proxy):
    proxy.delays_s = (0.01, 0.01)
    jobs, _ = await begin(world, proxy)
    async with following(world.url, jobs) as clients:
        assert await world.judge(jobs, clients) == []


@pytest.mark.parametrize("marker", [b"c/1", b"f/1"], ids=["a chunk", "the final"])
async def test_a_write_that_landed_without_an_answer_is_not_written_twice(world, proxy, marker):
    proxy.cut_reply_to(marker)
    jobs, _ = await begin(world, proxy)
    async with following(world.url, jobs) as clients:
        assert await world.judge(jobs, clients) == []
    assert proxy.num_cut_replies == 1


async def test_connections_may_be_reset_again_and_again(world, proxy):
    jobs, _ = await begin(world, proxy, step_s=0.03)
    world.worker(url=proxy.url, step_s=0.03)
    async with following(world.url, jobs) as clients:
        for _ in range(5):
            await asyncio.sleep(0.15)
            proxy.cut()
        assert await world.judge(jobs, clients) == []


async def test_a_worker_behind_a_partition_is_succeeded_and_its_late_writes_are_refused(world, proxy):
    jobs, cut_off = await begin(world, proxy, num_jobs=2, step_s=0.03)
    async with following(world.url, jobs) as clients:
        await until_true(lambda: all(clients.num_tokens(job.id) >= 6 for job in jobs))
        proxy.hold()
        world.worker(step_s=0.06)
        await asyncio.sleep(LEASE_S * 1.6)
        proxy.release()
        assert await world.judge(jobs, clients) == []
    assert cut_off.status is None
    assert {int(row) for row in await epochs(world, jobs)} != {1}


async def epochs(world, jobs):
    return [await world.client.hget(f"specd:{{{job.id}}}:job", "epoch") for job in jobs]


async def complete(http, gateway, job):
    """Return the tokens of a whole answer over HTTP."""
    url = f"http://127.0.0.1:{gateway.port}/v1/completions"
    body = {"prompt": job.prompt_ids, "max_tokens": job.sampling.max_tokens, "ignore_eos": True}
    async with http.post(url, json=body) as response:
        assert response.status == 200
        return list((await response.json())["choices"][0]["text"].encode())


async def test_nobody_gets_the_reply_to_a_command_of_a_client_that_left(world, proxy):
    """A client library once read the reply of a cancelled command as the next one's: the answers got mixed up."""
    proxy.delays_s = (0.02, 0.02)
    await world.steady_worker(step_s=0.02, num_slots=16)
    gateway = world.gateway(url=proxy.url)
    async with aiohttp.ClientSession() as http:
        await until(lambda: health(http, gateway), 200)
        stay, leave = new_jobs(8), new_jobs(40)
        answers = [asyncio.create_task(complete(http, gateway, job)) for job in stay]
        for job in leave:
            leaver = asyncio.create_task(complete(http, gateway, job))
            await asyncio.sleep(0.01)
            leaver.cancel()
        for job, answer in zip(stay, answers, strict=True):
            tokens = await answer
            assert len(tokens) == job.sampling.max_tokens
            assert set(writers(job.prompt_ids, tokens)) == {1}


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
async def test_a_network_that_does_everything_at_once(world, redis_url, seed):
    jobs, socket = new_jobs(24, max_tokens=60), redis_url.removeprefix("unix://")
    await world.submit(jobs)
    async with (
        Proxy(socket, (0.02, 0.02)) as one,
        Proxy(socket, (0.0, 0.2)) as two,
        following(world.url, jobs) as clients,
    ):
        for proxy in (one, two):
            world.worker(url=proxy.url, step_s=0.02)
        for proxy in (one, two, one, two):
            # Long enough for every job to get a token: three claims without one would be held against it.
            await asyncio.sleep(1.0 + 0.05 * seed)
            proxy.cut_reply_to(b"c/1")
            await asyncio.sleep(0.2)
            proxy.cut()
            proxy.hold()
            await asyncio.sleep(LEASE_S * 1.5)
            proxy.release()
        assert await world.judge(jobs, clients, 120.0) == []
