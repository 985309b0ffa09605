"""The one reader of a gateway gives every follower of a stream all of it, in order and once."""

import asyncio
from contextlib import asynccontextmanager

from client.wire import Chunk, encode, out_stream
from service.queue import connect
from service.reader import StreamReader

JOB = "a" * 32


async def add(client, *places):
    for place in places:
        await client.xadd(out_stream(JOB), {"m": encode(Chunk((place,), ("x",)))}, id=f"{place}-0")


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
    reader = StreamReader(blocking, client)
    task = asyncio.create_task(reader.run())
    try:
        yield reader
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
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
        assert second.empty()


def _unseen(_, __):
    pass
