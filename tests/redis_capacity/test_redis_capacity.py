"""What Redis carries is measured on loads that are what they say, and told in what Redis itself has taken."""

import asyncio
import os
import tempfile
import time
from pathlib import Path

import msgspec
import pytest

from bench.footprints import processor_s
from bench.server_roles import redis
from service.storage.connect import connect
from tests.redis_capacity.load import READY_KEY, TOKENS_PER_STEP, WINDOW_KEY, Side, Window, play
from tests.redis_capacity.memory import measure_memory
from tests.service.fakes import until


async def test_both_sides_count_the_same_chunks_and_jobs_of_a_window(redis_url, tmp_path):
    sides = [Side(role, redis_url, 2, 3, 0.005, 30, str(tmp_path / role)) for role in ("workers", "gateway")]
    async with connect(redis_url, 2.0) as client, asyncio.TaskGroup() as group:
        plays = [group.create_task(play(side)) for side in sides]
        await until(lambda: client.scard(READY_KEY), 2)
        now_s = asyncio.get_running_loop().time()
        await client.set(WINDOW_KEY, msgspec.json.encode(Window(now_s, now_s + 1.5)))
    wrote, read = (task.result() for task in plays)
    assert wrote.tokens == TOKENS_PER_STEP * wrote.chunks
    assert read.chunks == pytest.approx(wrote.chunks, abs=12)
    assert wrote.jobs > 6
    assert len(read.lag_s) == read.chunks
    assert min(read.lag_s) > 0.0


async def test_memory_is_told_of_jobs_prompts_and_answers(redis_binary):
    # A Redis of its own: what connections of other tests hold and give back would be counted.
    with tempfile.TemporaryDirectory(prefix="specd-test-") as name, redis(Path(name), redis_binary) as url:
        memory = await measure_memory(url, 20)
    assert 500 < memory.waiting_job < memory.ended_job < 20_000
    assert 1.0 < memory.prompt_token < 10.0
    assert memory.answer_token[6] < memory.answer_token[3] < memory.answer_token[1] < 200.0


def test_processor_time_is_that_of_all_that_a_process_did():
    before, began_s = processor_s(os.getpid()), time.process_time()
    while time.process_time() < began_s + 0.1:
        pass
    assert processor_s(os.getpid()) - before == pytest.approx(time.process_time() - began_s, abs=0.05)
