"""What was read a moment ago is good enough for those who say so; others wait, all for one reading."""

import asyncio

import pytest
from redis.exceptions import ConnectionError as NoRedis

from service.door.refreshed import LATER_S, Refreshed
from tests.service.fakes import until_true


class Source:
    def __init__(self):
        self.now_s, self.count, self.error = 100.0, 0, None
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.refreshed = Refreshed(self.read, lambda: self.now_s)

    async def read(self):
        await self.may_answer.wait()
        if self.error:
            raise self.error
        self.count += 1
        return self.count


@pytest.fixture
def source():
    return Source()


async def test_a_fresh_value_is_not_read_again(source):
    assert await source.refreshed.get(1.0) == 1
    source.now_s += 1.0
    assert await source.refreshed.get(1.0) == 1
    source.now_s += 0.1
    assert await source.refreshed.get(1.0) == 2


async def test_one_that_is_still_good_is_returned_at_once_and_read_for_those_who_ask_later(source):
    await source.refreshed.get(1.0)
    source.now_s += 5.0
    source.may_answer.clear()
    assert await source.refreshed.get(1.0, 5.0) == 1
    source.may_answer.set()
    await until_true(lambda: source.count == 2)
    assert await source.refreshed.get(1.0, 5.0) == 2


async def test_all_who_need_a_newer_one_wait_for_one_reading_whoever_of_them_leaves(source):
    source.may_answer.clear()
    asking = [asyncio.create_task(source.refreshed.get(1.0)) for _ in range(3)]
    await asyncio.sleep(0.01)
    asking[0].cancel()
    source.may_answer.set()
    assert await asyncio.gather(*asking[1:]) == [1, 1]
    assert source.count == 1


async def test_who_waits_hears_of_a_fault_and_the_next_reads_again(source):
    source.error = NoRedis("away")
    with pytest.raises(NoRedis):
        await source.refreshed.get(1.0, 5.0)
    source.error = None
    assert await source.refreshed.get(1.0) == 1


async def test_a_fault_that_nobody_waits_for_leaves_the_value_until_it_is_too_old(source):
    await source.refreshed.get(1.0)
    source.now_s, source.error = source.now_s + 2.0, NoRedis("away")
    assert await source.refreshed.get(1.0, 5.0) == 1
    await asyncio.sleep(10 * LATER_S)
    assert await source.refreshed.get(1.0, 5.0) == 1
    source.now_s += 4.0
    with pytest.raises(NoRedis):
        await source.refreshed.get(1.0, 5.0)
