"""SIGTERM, as every deployment sends it: what runs goes on elsewhere, and nobody is told of it (bar R8)."""

import asyncio
import json
import signal

import aiohttp
import pytest

from client.jobs import Jobs
from client.wire import WORKERS_KEY, Chunk
from tests.faults.history import following
from tests.faults.points import BEFORE_RELEASE
from tests.faults.recital import writers
from tests.faults.world import health, new_jobs
from tests.service.fakes import until, until_true


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


async def test_what_is_handed_over_goes_on_at_once_whatever_the_lease_is(world):
    """Somebody who waits for new work hears of it; without that, he looks every fifth of a lease."""
    world.lease_ms = 60_000
    jobs = new_jobs(2, max_tokens=900)
    await world.submit(jobs)
    old = world.worker(step_s=0.05, constants={"service.worker.DRAIN_S": 0.1})
    async with following(world.url, jobs) as clients:
        await until_true(lambda: all(clients.num_tokens(job.id) >= 6 for job in jobs))
        world.worker()
        await until(lambda: world.client.scard(WORKERS_KEY), 2)
        old.signal(signal.SIGTERM)
        assert await old.ended() == 0, old.log
        seen = {job.id: clients.num_tokens(job.id) for job in jobs}
        await until_true(lambda: all(clients.num_tokens(job.id) > seen[job.id] for job in jobs), 5.0)
        assert await world.judge(jobs, clients) == []


async def ask(http, url, job, stream):
    """Return the tokens of a plain answer, which has to be whole."""
    body = {"prompt": job.prompt_ids, "max_tokens": job.sampling.max_tokens, "ignore_eos": True, "stream": stream}
    async with http.post(f"{url}/v1/completions", json=body) as response:
        assert response.status == 200
        if not stream:
            return list((await response.json())["choices"][0]["text"].encode())
        lines = (await response.read()).decode().splitlines()
    events = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
    assert events[-1] == "[DONE]"
    return [token for event in events[:-1] for token in token_ids(json.loads(event))]


def token_ids(event):
    assert "error" not in event
    return event.get("speculation", {}).get("token_ids", ())


async def follow(url, job):
    async with Jobs(url) as jobs:
        job_id = await jobs.submit(prompt=list(job.prompt_ids), max_tokens=job.sampling.max_tokens, ignore_eos=True)
        messages = [event.message async for event in jobs.events(job_id)]
    return [token for one in messages if isinstance(one, Chunk) for token in one.token_ids]


@pytest.mark.parametrize(("num_rolls", "num_jobs"), [(1, 12), pytest.param(10, 160, marks=pytest.mark.slow)])
async def test_no_request_fails_while_all_workers_are_restarted_one_by_one(world, num_rolls, num_jobs):
    """As clients of HTTP see it: whole answers, streams and jobs, a part of each."""
    world.lease_ms = 10_000
    fields = {"step_s": 0.03, "num_slots": 6, "constants": {"service.worker.DRAIN_S": 0.3}}
    workers, gateway = [world.worker(**fields) for _ in range(2)], world.gateway()
    url, jobs = f"http://127.0.0.1:{gateway.port}", new_jobs(num_jobs, max_tokens=120)
    room = asyncio.Semaphore(16)

    async def in_turn(answer):
        async with room:
            return await answer

    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=300)) as http:
        await until(lambda: health(http, gateway), 200)
        answers = [ask(http, url, job, stream=bool(at % 2)) for at, job in enumerate(jobs[::2])]
        answers += [follow(url, job) for job in jobs[1::2]]
        asked = [asyncio.create_task(in_turn(answer)) for answer in answers]
        for _ in range(num_rolls):
            await asyncio.sleep(0.3)
            workers = [await roll(world, worker, **fields) for worker in workers]
        assert not all(one.done() for one in asked)
        answers = await asyncio.gather(*asked)
    for job, tokens in zip([*jobs[::2], *jobs[1::2]], answers, strict=True):
        epochs = writers(job.prompt_ids, tokens)
        assert len(tokens) == 120
        assert epochs == sorted(epochs)
        assert set(epochs) <= set(range(1, 30))
