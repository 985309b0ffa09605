"""What goes wrong in tasks reaches the command line as one error, never as a group."""

import asyncio

import pytest
from redis.exceptions import RedisError

from core.config import Settings
from core.errors import QueueError, SpecdError
from service.process import run_process


async def in_groups(error):
    async def fail():
        raise error

    async with asyncio.TaskGroup() as outer, asyncio.TaskGroup() as inner:
        outer.create_task(asyncio.sleep(10))
        inner.create_task(fail())


def test_a_deliberate_error_comes_out_of_its_groups():
    with pytest.raises(SpecdError, match="told"):
        run_process(Settings(), lambda *_: in_groups(SpecdError("told")))


def test_what_nobody_foresaw_keeps_its_traceback():
    with pytest.raises(ExceptionGroup) as caught:
        run_process(Settings(), lambda *_: in_groups(ZeroDivisionError()))
    assert caught.group_contains(ZeroDivisionError)


@pytest.mark.parametrize("error", [OSError("gone"), RedisError("gone")], ids=["socket", "redis"])
def test_a_fault_of_redis_is_a_queue_error(error):
    async def fail(*_):
        raise error

    with pytest.raises(QueueError, match="gone"):
        run_process(Settings(), fail)
