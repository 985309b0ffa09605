"""The one reader of a gateway gives every follower of a stream all of it, in order and once."""

import asyncio
from contextlib import asynccontextmanager

import pytest

from client.wire import Chunk, encode, out_stream
from service.storage import reader as reader_module
from service.storage.connect import connect
from service.storage.followers import MAX_EVENTS
from service.storage.reader import StreamReader
from tests.service.fakes import until_true
from tests.service.jobs import append, new_job, take
from tests.service.reading import at_work

JOB = new_job(id="a" * 32)


async def add(client, *places):
    for place in places:
        await client.xadd(out_stream(JOB.id), {"m": encode(Chunk((place,), ("x",)))}, id=f"{place}-0")


async def given(events, count):
    async with asyncio.timeout(5):
        return [(await events.get())[1].token_ids[0] for _ in range(count)]


@asynccontextmanager
async def reading(redis_url, client, held):
    """Run a reader; `held` is awaited after each of its reads, before it looks at what came."""
    blocking = connect(redis_url, 5.0)
    read = blocking.xread

    async def hold(*arguments, **named):
        answer = await read(*arguments, **named)
        await held(answer)
        return answer

    blocking.xread = hold
    try:
        async with at_work(StreamReader(blocking, client)) as reader:
            yield reader
    finally:
        await blocking.aclose()


async def test_who_comes_while_later_entries_are_read_gets_the_earlier_ones_first(redis_url, client):
    came, goes_on = asyncio.Event(), asyncio.Event()

    async def hold(answer):
        if any(rows[-1][0] == b"3-0" for _, rows in answer or []):
            came.set()
            await goes_on.wait()

    async with reading(redis_url, client, hold) as reader, reader.follow([JOB], _unseen) as first:
        await add(client, 1, 2)
        assert await given(first, 2) == [1, 2]
        await add(client, 3)
        await came.wait()
        # Entry 3 is on its way to the first follower; the second one has not been given 1 and 2.
        async with reader.follow([JOB], _unseen) as second:
            goes_on.set()
            await add(client, 4)
            assert await given(second, 4) == [1, 2, 3, 4]
            assert await given(first, 2) == [3, 4]
            await add(client, 5)
            assert (await given(second, 1), await given(first, 1)) == ([5], [5])
        await add(client, 6)
        assert await given(first, 1) == [6]
        assert second.num_waiting == 0


@pytest.mark.parametrize("deadline_ms", [None, 1 << 50], ids=["in one trip", "in parts"])
async def test_a_submission_wakes_the_reader_that_blocks(redis_url, queue, client, monkeypatch, deadline_ms):
    monkeypatch.setattr(reader_module, "BLOCK_MS", 4000)
    job = new_job(deadline_ms=deadline_ms)

    async def submit(wakes):
        await queue.submit(job, None, wakes)

    async with reading(redis_url, client, _at_once) as reader:
        # It blocks by now, on nothing but its own stream.
        await asyncio.sleep(0.1)
        async with asyncio.timeout(2), reader.follow([job], _unseen, submit=submit) as events:
            claim = await take(queue)
            await queue.append([append(claim, 0, 7)])
            assert (await events.get())[1].token_ids == (7,)


async def test_who_takes_nothing_has_a_bounded_number_waiting_and_gets_the_rest_from_redis(redis_url, client):
    num_entries = 3 * MAX_EVENTS + 7
    async with (
        reading(redis_url, client, _at_once) as reader,
        reader.follow([JOB], _unseen) as quick,
        reader.follow([JOB], _unseen) as slow,
    ):
        for first in range(1, num_entries, 100):
            await add(client, *range(first, min(first + 100, num_entries + 1)))
            # The quick one gets everything while the slow one takes nothing.
            assert await given(quick, min(100, num_entries + 1 - first)) == [
                *range(first, min(first + 100, num_entries + 1))
            ]
            assert slow.num_waiting <= MAX_EVENTS
        assert slow.num_waiting == MAX_EVENTS
        assert await given(slow, num_entries) == [*range(1, num_entries + 1)]
        # It has caught up, and is read for like everybody else.
        await add(client, num_entries + 1)
        assert await given(slow, 1) == await given(quick, 1) == [num_entries + 1]
        assert slow.behind == []


async def test_one_that_falls_behind_in_one_choice_gets_all_of_every_choice(redis_url, client):
    other = new_job(id="b" * 32)
    async with reading(redis_url, client, _at_once) as reader, reader.follow([JOB, other], _unseen) as events:
        for place in range(1, MAX_EVENTS + 1):
            await add(client, place)
            await client.xadd(out_stream(other.id), {"m": encode(Chunk((place,), ("x",)))}, id=f"{place}-0")
        await until_true(lambda: events.num_waiting == MAX_EVENTS)
        taken = [[], []]
        async with asyncio.timeout(5):
            for _ in range(2 * MAX_EVENTS):
                index, chunk = await events.get()
                taken[index] += chunk.token_ids
        assert taken == [[*range(1, MAX_EVENTS + 1)]] * 2


async def _at_once(_):
    pass


def _unseen(_, __):
    pass
