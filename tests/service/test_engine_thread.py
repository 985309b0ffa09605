"""The thread that steps the engine by itself: what it may run ahead of, and what it must wait for."""

import asyncio
import time

import pytest

from core.types import Request, Sampling
from service import engine_thread
from service.engine_thread import EngineThread
from tests.service.fakes import FakeEngine, until


def asking(name, prompt=(65,), max_tokens=30):
    return Request(name, prompt, Sampling(max_tokens=max_tokens), nonce=1)


@pytest.fixture
async def started():
    thread = EngineThread(FakeEngine())
    thread.start()
    yield thread, thread._engine
    thread.close()


async def test_it_is_at_most_one_step_ahead_of_its_reader(started):
    thread, engine = started
    thread.add(asking("a"))
    await asyncio.sleep(0.05)
    assert engine.num_steps == 2
    await thread.step()
    await asyncio.sleep(0.05)
    assert engine.num_steps == 3


async def test_it_tells_how_long_its_reader_kept_it_waiting(started):
    thread, _ = started
    thread.add(asking("a"))
    await asyncio.sleep(0.1)
    assert thread.held_s < 0.05
    await thread.step()
    await until(lambda: has_waited(thread), True)


async def has_waited(thread):
    return 0.05 < thread.held_s < 5


async def test_every_step_is_read_once_and_in_order(started):
    thread, _ = started
    thread.add(asking("a", max_tokens=30))
    tokens = []
    while True:
        [emission] = (await thread.step()).emissions
        tokens += emission.token_ids
        if emission.finish_reason is not None:
            break
    assert len(tokens) == 30
    assert not thread.has_work


async def test_after_a_failed_step_it_rests_until_that_is_dealt_with(started):
    thread, engine = started
    thread.add(asking("a"))
    await asyncio.sleep(0.05)
    # Behind two steps that nobody has read yet, one that fails.
    thread.add(asking("broken", prompt=(1,)))
    await thread.step()
    await thread.step()
    with pytest.raises(RuntimeError, match="the step broke"):
        await thread.step()
    await asyncio.sleep(0.05)
    thread.abort("broken")
    [emission] = (await thread.step()).emissions
    assert emission.request_id == "a"
    assert engine.aborted == ["broken"]


async def test_a_request_that_the_engine_refuses_is_told_with_the_step(started):
    thread, _ = started
    thread.add(asking("bad", prompt=(0,)))
    stepped = await thread.step()
    assert [(name, error.code) for name, error in stepped.refused] == [("bad", "zero")]
    assert stepped.emissions == []


@pytest.mark.parametrize("has_backlog", [False, True])
async def test_a_freed_slot_is_given_a_moment_where_jobs_wait_and_only_there(started, monkeypatch, has_backlog):
    monkeypatch.setattr(engine_thread, "REFILL_S", 5.0)
    thread, _ = started
    thread.has_backlog = has_backlog
    thread.add(asking("short", max_tokens=3))
    thread.add(asking("long", max_tokens=9))
    first = await thread.step()
    assert {emission.request_id: emission.finish_reason for emission in first.emissions}["short"] is not None
    # Were it not waiting, two more steps would have been made by now, and the engine would be done.
    await asyncio.sleep(0.05)
    begun = time.perf_counter()
    thread.add(asking("joins", max_tokens=3))
    thread.refilled()
    second = await thread.step()
    assert ("joins" in [emission.request_id for emission in second.emissions]) == has_backlog
    assert time.perf_counter() - begun < 2.0


async def test_closing_ends_it_even_where_nobody_reads():
    thread = EngineThread(FakeEngine())
    thread.start()
    thread.add(asking("a", max_tokens=300))
    await asyncio.sleep(0.02)
    thread.close()
    assert not thread._thread.is_alive()


async def test_closing_ends_it_where_a_failed_step_was_never_dealt_with():
    thread = EngineThread(FakeEngine())
    thread.start()
    thread.add(asking("broken", prompt=(1,)))
    with pytest.raises(RuntimeError):
        await thread.step()
    thread.close()
    assert not thread._thread.is_alive()
