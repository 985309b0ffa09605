"""Server-sent events over an aiohttp response."""

import asyncio
import socket

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
# What the kernel may hold for one client: left to itself it takes megabytes, a whole answer, of one who reads nothing.
SEND_BUFFER_BYTES = 1 << 16


class EventResponse(web.StreamResponse):
    """A stream of events, and the connection that it goes over."""

    def __init__(self, transport: asyncio.Transport | None) -> None:
        super().__init__(headers=HEADERS)
        self.transport = transport


async def open_events(request: web.Request) -> EventResponse:
    """Begin a stream of events as the answer to `request`."""
    response = EventResponse(request.transport)
    if request.transport is not None and (connection := request.transport.get_extra_info("socket")) is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
    await response.prepare(request)
    return response


async def send(response: EventResponse, data: bytes) -> None:
    """Write to a stream; raises ConnectionResetError for a client that is gone or has stopped reading."""
    try:
        async with asyncio.timeout(WRITE_S):
            await response.write(data)
    except TimeoutError:
        if response.transport is not None:
            # Closing would wait until the client has read what it does not read.
            response.transport.abort()
        raise ConnectionResetError("the client does not read") from None


def event(data: object, event_id: str = "") -> bytes:
    """Return one event with `data` as JSON, and an id where it has one."""
    head = f"id: {event_id}\n".encode() if event_id else b""
    return head + b"data: " + msgspec.json.encode(data) + b"\n\n"
