"""Redis loses all it has while answers are open: each goes on from what its client has, or says that it cannot.

What clients read over HTTP is held against the same rules as every history, and against the stream that stands in Redis
in the end (bar R6).
"""

import asyncio
import json
from functools import partial

import aiohttp
import pytest

from client.wire import Chunk, Final, Job, Usage, job_key, out_stream
from core.types import FinishReason, Sampling
from tests.faults.history import log_violations, recited
from tests.faults.world import health
from tests.service.fakes import until, until_true
from tests.service.jobs import events_of

NUM_TOKENS = 90
BOUND_S = 30.0
# Sooner than usual, where it is not the time that is tested.
SOON = {"service.upkeep.lost_jobs.CHECK_S": 0.2, "service.upkeep.lost_jobs.SETTLE_S": 0.6}


class Reader:
    """A client that reads one streamed answer and keeps all of it."""

    def __init__(self, http, gateway, path="/v1/completions", job_id=""):
        self.prompt = [5, 6, 7] if job_id else [2 + byte % 250 for byte in id(self).to_bytes(8)]
        self.url, self.http, self.job_id = f"http://127.0.0.1:{gateway.port}{path}", http, job_id
        self.bodies, self.log, self.last = [], [], ""
        self.task = asyncio.create_task(self._read())

    async def _read(self):
        body = {"prompt": self.prompt, "max_tokens": NUM_TOKENS, "ignore_eos": True, "stream": True}
        asked = self.http.get(self.url) if self.job_id else self.http.post(self.url, json=body)
        async with asked as response:
            assert response.status == 200
            async for line in response.content:
                if line.startswith(b"data: "):
                    self._take(line.removeprefix(b"data: ").strip().decode())

    def _take(self, data):
        self.last = data
        body = json.loads(data) if data != "[DONE]" else {}
        if body.get("choices"):
            self.job_id, (choice,) = body["id"].removeprefix("cmpl-"), body["choices"]
            if told := body.get("speculation"):
                count = self.num_tokens + len(told["token_ids"])
                self.log.append((f"{count}-0", Chunk(tuple(told["token_ids"]), tuple(told["pieces"]))))
            else:
                final = Final(FinishReason(choice["finish_reason"]), Usage(0, self.num_tokens), tail=choice["text"])
                self.log.append((f"{self.num_tokens}-1", final))

    @property
    def num_tokens(self):
        return sum(len(event.token_ids) for _, event in self.log if isinstance(event, Chunk))

    async def violations(self, client, restored=None):
        """Return what is wrong, once the answer has ended; restored is the epoch, where it is not to be asked for."""
        async with asyncio.timeout(BOUND_S):
            await self.task
        job = Job(self.job_id, "fake", tuple(self.prompt), Sampling(max_tokens=NUM_TOKENS), b"n" * 16, 1)
        epoch = int(await client.hget(job_key(self.job_id), "restored") or 0) if restored is None else restored
        found = log_violations(job, self.log, partial(recited, restored=epoch))
        tokens = [token for _, event in self.log if isinstance(event, Chunk) for token in event.token_ids]
        stored = [event for event in await events_of(client, self.job_id) if isinstance(event, Chunk)]
        if tokens != [token for event in stored for token in event.token_ids]:
            found.append("the answer is not what the stream holds")
        if self.last != "[DONE]":
            found.append(f"the answer ends in {self.last}")
        return found


async def serving(world, http, num_gateways=1, constants=SOON):
    """Start two workers and some gateways that know of them."""
    for _ in range(2):
        world.worker(step_s=0.05)
    gateways = [world.gateway(constants=constants) for _ in range(num_gateways)]
    for gateway in gateways:
        await until(lambda gateway=gateway: health(http, gateway), 200)
    return gateways


@pytest.fixture
async def http():
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)) as http:
        yield http


async def has_begun(*readers, least=9):
    await until_true(lambda: all(reader.num_tokens >= least for reader in readers))


async def test_answers_go_on_when_redis_is_emptied(world, http):
    (gateway,) = await serving(world, http)
    readers = [Reader(http, gateway) for _ in range(6)]
    await has_begun(*readers)
    await world.client.flushall()
    assert [await reader.violations(world.client) for reader in readers] == [[]] * 6
    assert [await world.client.hget(job_key(reader.job_id), "restored") for reader in readers].count(None) == 0


async def test_answers_go_on_when_redis_comes_back_without_its_data(forgetful_world, forgetful_redis, http):
    world = forgetful_world
    (gateway,) = await serving(world, http, constants={})
    readers = [Reader(http, gateway) for _ in range(4)]
    await has_begun(*readers)
    await forgetful_redis.kill_and_restart()
    assert [await reader.violations(world.client) for reader in readers] == [[]] * 4


async def make_job(http, gateway):
    body = {"prompt": [5, 6, 7], "max_tokens": NUM_TOKENS, "ignore_eos": True}
    async with http.post(f"http://127.0.0.1:{gateway.port}/v1/jobs", json=body) as response:
        assert response.status == 202
        return (await response.json())["id"]


async def test_a_job_that_is_followed_on_two_gateways_goes_on_for_both_and_is_known_again(world, http):
    gateways = await serving(world, http, 2)
    job_id = await make_job(http, gateways[0])
    readers = [Reader(http, gateway, f"/v1/jobs/{job_id}/events", job_id) for gateway in gateways]
    await has_begun(*readers)
    await world.client.flushall()
    assert [await reader.violations(world.client) for reader in readers] == [[], []]
    async with http.get(f"http://127.0.0.1:{gateways[1].port}/v1/jobs/{job_id}") as response:
        assert (await response.json())["state"] == "done"


async def test_who_has_more_than_was_brought_back_ends_in_an_error(world, http):
    """One gateway sleeps through its last tokens and the loss, wakes first, and brings back less than the other has."""
    behind, ahead = await serving(world, http, 2)
    job_id = await make_job(http, ahead)
    slow, quick = [Reader(http, one, f"/v1/jobs/{job_id}/events", job_id) for one in (behind, ahead)]
    await has_begun(slow, quick)
    behind.freeze()
    seen = slow.num_tokens
    await until_true(lambda: quick.num_tokens >= seen + 12)
    ahead.freeze()
    await world.client.flushall()
    behind.thaw()
    await until(lambda: is_restored(world, job_id), True)
    ahead.thaw()
    async with asyncio.timeout(BOUND_S):
        await quick.task
    assert json.loads(quick.last)["error"]["code"] == "job_lost"
    assert await slow.violations(world.client) == []


async def is_restored(world, job_id):
    return bool(await world.client.hexists(job_key(job_id), "restored"))


async def test_a_client_that_leaves_before_its_job_is_queued_again_cancels_it(world, http):
    (gateway,) = await serving(world, http, constants=SOON | {"service.upkeep.lost_jobs.SETTLE_S": 60.0})
    reader = Reader(http, gateway)
    await has_begun(reader)
    await world.client.flushall()
    await until(lambda: is_restored(world, reader.job_id), True)
    reader.task.cancel()
    await until(lambda: world.client.hget(job_key(reader.job_id), "state"), b"cancelled", 5.0)
    *chunks, final = await events_of(world.client, reader.job_id)
    assert final.reason is FinishReason.CANCELLED
    assert sum(len(chunk.token_ids) for chunk in chunks) == reader.num_tokens


async def test_a_stream_that_stands_without_its_job_ends_in_an_error(world, http):
    (gateway,) = await serving(world, http, constants=SOON | {"service.upkeep.lost_jobs.GIVE_UP_S": 0.5})
    reader = Reader(http, gateway)
    await has_begun(reader)
    await world.client.delete(job_key(reader.job_id))
    async with asyncio.timeout(BOUND_S):
        await reader.task
    assert json.loads(reader.last)["error"]["code"] == "job_lost"
    assert await world.client.exists(out_stream(reader.job_id))
