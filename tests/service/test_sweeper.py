"""What a gateway sweeps: consumers that nobody is any more go, without what anybody holds; a fault stops no chore."""

import asyncio
import contextlib

import pytest
from prometheus_client import CollectorRegistry

from client.wire import INTAKE_GROUP, INTAKE_STREAM, WORKER_GROUP, live_key, queue_stream
from core.types import FinishReason
from service.storage.priority_streams import make_group
from service.telemetry.upkeep_metrics import UpkeepMetrics
from service.upkeep.sweeper import Sweeper
from tests.service.fakes import until
from tests.service.jobs import final_of, new_job, take

STREAM = queue_stream("fake")


@pytest.fixture
async def sweeping(queue, client, monkeypatch):
    """Sweep fast, with no patience; yields the registry of what is counted."""
    for name, value in {"CONSUMER_IDLE_MS": 50, "PRUNE_S": 0.05, "RESTORE_S": 0.05, "SWEEP_S": 0.02}.items():
        monkeypatch.setattr(f"service.upkeep.sweeper.{name}", value)
    monkeypatch.setattr("service.upkeep.lost_entries.LOOK_AFTER_MS", 50)
    await make_group(client, INTAKE_STREAM, INTAKE_GROUP)
    registry = CollectorRegistry()
    task = asyncio.create_task(Sweeper(queue, UpkeepMetrics(registry, "fake"), "g0").run())
    yield registry
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


def counted(registry, name):
    return registry.get_sample_value(name, {"model_name": "fake"})


async def names(client, stream=STREAM, group=WORKER_GROUP):
    return {row["name"].decode() for row in await client.xinfo_consumers(stream, group)}


async def test_consumers_that_hold_nothing_and_are_silent_go_and_no_entry_with_them(queue, client, sweeping):
    await queue.submit(new_job())
    claim = await take(queue, "holds an entry")
    for name in ("gone", "gone too"):
        await client.xgroup_createconsumer(STREAM, WORKER_GROUP, name)
    await client.xgroup_createconsumer(INTAKE_STREAM, INTAKE_GROUP, "gateway-gone")
    await until(lambda: names(client), {"holds an entry"})
    await until(lambda: names(client, INTAKE_STREAM, INTAKE_GROUP), set())
    assert (await client.xpending(STREAM, WORKER_GROUP))["pending"] == 1
    # Once nothing is in its hands any more, it goes as well.
    await queue.acknowledge([claim.entry])
    await until(lambda: names(client), set())
    assert counted(sweeping, "specd_consumers_removed_total") == 4


async def test_a_consumer_that_was_heard_of_lately_stays(queue, client, sweeping, monkeypatch):
    monkeypatch.setattr("service.upkeep.sweeper.CONSUMER_IDLE_MS", 60_000)
    await client.xgroup_createconsumer(STREAM, WORKER_GROUP, "idle")
    await asyncio.sleep(0.3)
    assert await names(client) == {"idle"}


async def test_a_fault_of_one_chore_keeps_no_other_from_its_turn(queue, client, sweeping):
    late = new_job(deadline_ms=await queue.now_ms() + 100)
    await queue.submit(late)
    await client.delete(live_key("fake"))
    await client.set(live_key("fake"), "no sorted set")

    async def reason():
        final = await final_of(client, late.id)
        return final and final.reason

    await until(reason, FinishReason.DEADLINE)


async def test_restored_entries_are_counted(queue, client, sweeping):
    await queue.submit(new_job())
    await client.delete(STREAM)
    await queue.make_group()
    await until(queue.depth, 1)
    assert counted(sweeping, "specd_entries_restored_total") == 1
