"""Server-sent events as they are read: whole ones only, so that one cut in the middle never counts as received."""

from collections.abc import AsyncIterator

import aiohttp
from msgspec import Struct


class ServerEvent(Struct, frozen=True):
    """One event: its own id, "" for none, and its data."""

    id: str
    data: str


async def read_events(lines: aiohttp.StreamReader) -> AsyncIterator[ServerEvent]:
    """Yield the events of a stream that ended each of theirs with an empty line."""
    event_id, data = "", list[str]()
    async for raw in lines:
        if not raw.endswith(b"\n"):
            # The stream was cut inside of this line.
            return
        line = raw.decode().rstrip("\r\n")
        name, _, value = line.partition(":")
        if name == "data":
            data.append(value.removeprefix(" "))
        elif name == "id":
            event_id = value.removeprefix(" ")
        elif not line:
            if data:
                yield ServerEvent(event_id, "\n".join(data))
            event_id, data = "", []
