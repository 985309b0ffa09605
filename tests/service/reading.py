"""A gateway's reader at work in a test."""

import asyncio
from contextlib import asynccontextmanager


@asynccontextmanager
async def at_work(reader):
    """Have a reader read until the block ends."""
    task = asyncio.create_task(reader.run())
    try:
        yield reader
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
