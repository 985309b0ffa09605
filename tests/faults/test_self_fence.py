"""A worker that Redis could not hear for a lease stops computing what others compute by now, and waits for Redis."""

import asyncio
import time

import pytest

from core.types import FinishReason
from service.heartbeat import Heartbeat
from service.storage.connect import connect
from service.worker import READ_BLOCK_MS, Worker
from tests.faults.proxy import Proxy
from tests.service.fakes import FakeEngine, fake_settings, served, spoken, until_true, worker, write_tokenizer
from tests.service.jobs import end_of, new_job, text_of

LEASE_S = 1.0
# What a busy machine may be late by; far less than a command waits for its reply.
LATE_S = 30.0
COMMAND_S = 60.0


class LongPrefill(FakeEngine):
    """Computes and has nothing to say yet, so that no write fails."""

    def step(self, meanwhile=None):
        time.sleep(self.step_s)
        self.num_steps += 1
        return []


@pytest.fixture
async def queue(world):
    return await world.queue()


@pytest.fixture
def settings(proxy, tmp_path):
    return fake_settings(proxy.url, tmp_path / "model", lease_ms=int(1000 * LEASE_S), command_timeout_s=COMMAND_S)


def refuse(proxy):
    proxy.is_refusing = True
    proxy.cut()


@pytest.mark.parametrize(
    ("cut", "engine"),
    [
        pytest.param(Proxy.hold, FakeEngine, id="decoding, behind a black hole"),
        pytest.param(refuse, LongPrefill, id="in a prefill, without a route"),
        pytest.param(refuse, FakeEngine, id="decoding, without a route", marks=pytest.mark.slow),
        pytest.param(Proxy.hold, LongPrefill, id="in a prefill, behind a black hole", marks=pytest.mark.slow),
    ],
)
async def test_it_stops_computing_after_a_lease_without_a_beat(settings, queue, proxy, cut, engine):
    engine = engine(step_s=0.15, max_model_len=10_000)
    async with worker(settings, engine):
        await queue.submit(new_job(max_tokens=5000))
        await until_true(lambda: engine.num_steps >= 3)
        cut(proxy)
        begun, num_steps = time.monotonic(), engine.num_steps
        await until_true(lambda: not engine.running, LEASE_S + LATE_S)
        assert time.monotonic() - begun > LEASE_S / 2
        assert engine.num_steps > num_steps + 1
        num_steps = engine.num_steps
        await asyncio.sleep(0.5)
        # The step that ran while its jobs were dropped is the last.
        assert engine.num_steps - num_steps <= 1
        assert engine.aborted == [engine.seen[0].id]
        proxy.is_refusing = False
        proxy.release()


async def test_it_takes_new_work_when_redis_is_back_and_every_answer_is_whole(settings, queue, proxy, redis_url):
    engine, client = FakeEngine(step_s=0.15), connect(redis_url, 5.0)
    jobs = [new_job(max_tokens=60), new_job(max_tokens=30)]
    async with worker(settings, engine):
        await queue.submit(jobs[0])
        await until_true(lambda: engine.num_steps >= 3)
        proxy.hold()
        await until_true(lambda: not engine.running, LEASE_S + LATE_S)
        await queue.submit(jobs[1])
        num_seen = len(engine.seen)
        await asyncio.sleep(0.5)
        assert len(engine.seen) == num_seen
        proxy.release()
        assert [(await end_of(client, job)).reason for job in jobs] == [FinishReason.LENGTH] * 2
    assert [await text_of(client, job) for job in jobs] == [spoken(60), spoken(30)]
    await client.aclose()


async def test_a_worker_that_cannot_beat_takes_no_new_work_though_it_could_read_some(settings, queue, proxy, tmp_path):
    engine = FakeEngine(step_s=0.05)
    heartbeat = Heartbeat(proxy.url, settings.queue, "fake", "one")
    async with served(engine) as told, asyncio.TaskGroup() as group:
        one = Worker(told, write_tokenizer(tmp_path / "tokenizer"), queue, heartbeat)
        group.create_task(one.run())
        refuse(proxy)
        await until_true(lambda: heartbeat.is_cut_off, LEASE_S + LATE_S)
        # Past the read that it may be in the middle of.
        await asyncio.sleep(READ_BLOCK_MS / 1000 + 0.2)
        await queue.submit(new_job())
        await asyncio.sleep(0.5)
        assert engine.seen == []
        proxy.is_refusing = False
        await until_true(lambda: engine.seen, LATE_S)
        one.stop()
