"""A group that Redis has lost is made again from the stream's start; what keeps failing is tried ever less often."""

import asyncio

import pytest
from redis.exceptions import ResponseError
from structlog.testing import capture_logs

from client.wire import INTAKE_GROUP, INTAKE_STREAM, PRIORITIES, WORKER_GROUP, WORKERS_KEY, queue_stream
from core.types import FinishReason
from service.upkeep.group_healing import GroupHealing
from tests.service.fakes import FakeEngine, gateway, running, until, worker
from tests.service.jobs import end_of, new_job


async def lose_groups(client):
    for priority in PRIORITIES:
        await client.xgroup_destroy(queue_stream("fake", priority), WORKER_GROUP)
    await client.xgroup_destroy(INTAKE_STREAM, INTAKE_GROUP)


async def test_a_worker_makes_its_lost_group_again_and_serves_what_came_before_it(settings, queue, client):
    job = new_job()
    async with worker(settings, FakeEngine()):
        await until(lambda: client.scard(WORKERS_KEY), 1)
        await client.flushall()
        await queue.submit(job)
        assert (await end_of(client, job)).reason is FinishReason.LENGTH


async def test_heals_are_counted(settings, client):
    async with running(settings, FakeEngine()) as service:
        await lose_groups(client)
        await until(lambda: has_lines(service, 'specd_intake_group_heals_total{model_name="fake"} 1.0'), True)
        await until(lambda: has_lines(service, "specd_group_heals_total{", "} 1.0"), True)


async def has_lines(service, start, end=""):
    async with service.http.get(f"{service.url}/metrics") as response:
        return any(line.startswith(start) and line.endswith(end) for line in (await response.text()).splitlines())


@pytest.fixture
async def no_groups(client):
    """Groups are lost and cannot be made."""

    async def forbid():
        await client.execute_command("ACL", "SETUSER", "default", "-xgroup")

    yield forbid
    await client.execute_command("ACL", "SETUSER", "default", "+@all")


async def attempts(no_groups, client, seconds):
    """Return the pauses after each attempt within so many seconds without a group."""
    with capture_logs() as logs:
        await no_groups()
        await client.delete(INTAKE_STREAM, *(queue_stream("fake", priority) for priority in PRIORITIES))
        await asyncio.sleep(seconds)
    return [line["pause_s"] for line in logs if line["event"] == "group_not_healed"]


async def test_a_worker_that_cannot_make_its_group_tries_less_and_less_often(settings, client, no_groups):
    async with worker(settings, FakeEngine()):
        await until(lambda: client.scard(WORKERS_KEY), 1)
        pauses = await attempts(no_groups, client, 2.0)
    assert 2 <= len(pauses) <= 5
    assert pauses == [0.1 * 2**index for index in range(len(pauses))]


async def test_an_intake_that_cannot_make_its_group_tries_less_and_less_often(settings, client, no_groups):
    async with gateway(settings, ready_status=503):
        pauses = await attempts(no_groups, client, 2.5)
    assert 2 <= len(pauses) <= 6
    assert pauses == [0.1 * 2**index for index in range(len(pauses))]


async def test_a_read_that_works_begins_the_pauses_anew(queue):
    healing = GroupHealing(WORKER_GROUP, queue.make_group, lambda: None)
    missing = ResponseError("NOGROUP No such key")
    with capture_logs() as logs:
        await healing.after(missing)
        await healing.after(missing)
        healing.worked()
        await healing.after(missing)
    assert [line["pause_s"] for line in logs] == [0.1, 0.2, 0.1]
