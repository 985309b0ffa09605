"""Server-sent events over an aiohttp response."""

import asyncio

import msgspec
from aiohttp import web

HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache",
    # Buffering proxies would hold tokens back.
    "X-Accel-Buffering": "no",
}
DONE = b"data: [DONE]\n\n"
# One newline: a comment that ends in an empty line is an event of its own to some clients, and breaks them.
KEEP_ALIVE = b": ka\n"
# A client whose buffers stay full for this long has stopped reading.
WRITE_S = 30.0


async def open_events(request: web.Request) -> web.StreamResponse:
    """Begin a stream of events as the answer to `request`."""
    response = web.StreamResponse(headers=HEADERS)
    await response.prepare(request)
    return response


async def send(response: web.StreamResponse, data: bytes) -> None:
    """Write to a stream; raises ConnectionResetError for a client that is gone or has stopped reading."""
    try:
        async with asyncio.timeout(WRITE_S):
            await response.write(data)
    except TimeoutError:
        raise ConnectionResetError("the client does not read") from None


def event(data: object, event_id: str = "") -> bytes:
    """Return one event with `data` as JSON, and an id where it has one."""
    head = f"id: {event_id}\n".encode() if event_id else b""
    return head + b"data: " + msgspec.json.encode(data) + b"\n\n"
