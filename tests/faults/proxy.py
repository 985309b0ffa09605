"""A TCP proxy between processes and Redis that delays, holds, refuses and cuts."""

import asyncio
import contextlib
from dataclasses import dataclass, field

READ_BYTES = 1 << 16


@dataclass(eq=False)
class Link:
    """One connection through the proxy."""

    client: asyncio.StreamWriter
    server: asyncio.StreamWriter
    drops_reply: bool = False

    def cut(self) -> None:
        """Reset both sides."""
        self.client.transport.abort()
        self.server.transport.abort()


@dataclass
class Proxy:
    """Listens on a port of its own for the Redis behind a unix socket.

    delays_s are seconds that every piece of data waits on its way there and back. While it is held (a black hole) data
    pile up on both ways and connections stay open: when it is released, all of it arrives, late.
    """

    upstream: str
    delays_s: tuple[float, float] = (0.0, 0.0)
    is_refusing: bool = False
    links: set[Link] = field(default_factory=set)
    num_cut_replies: int = 0
    _marker: bytes | None = None
    _flows: asyncio.Event = field(default_factory=asyncio.Event)

    async def __aenter__(self) -> "Proxy":
        self._flows.set()
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self._flows.set()
        await self._server.wait_closed()
        # Who connected just before is a link only now.
        while self.links:
            self.cut()
            await asyncio.sleep(0.01)

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def cut(self) -> None:
        """Reset every connection there is."""
        for link in list(self.links):
            link.cut()

    def cut_reply_to(self, marker: bytes) -> None:
        """Let the next request that holds `marker` reach Redis, and reset its connection in place of the reply."""
        self._marker = marker

    def hold(self) -> None:
        self._flows.clear()

    def release(self) -> None:
        self._flows.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.is_refusing:
            writer.transport.abort()
            return
        try:
            server_reader, server_writer = await asyncio.open_unix_connection(self.upstream)
        except OSError:
            writer.transport.abort()
            return
        link = Link(writer, server_writer)
        self.links.add(link)
        try:
            with contextlib.suppress(OSError):
                await asyncio.gather(self._requests(link, reader), self._replies(link, server_reader))
        finally:
            link.cut()
            self.links.discard(link)

    async def _requests(self, link: Link, reader: asyncio.StreamReader) -> None:
        while data := await reader.read(READ_BYTES):
            await self._wait(self.delays_s[0])
            if self._marker is not None and self._marker in data:
                self._marker, link.drops_reply = None, True
            link.server.write(data)
            await link.server.drain()
        link.cut()

    async def _replies(self, link: Link, reader: asyncio.StreamReader) -> None:
        while data := await reader.read(READ_BYTES):
            await self._wait(self.delays_s[1])
            if link.drops_reply:
                self.num_cut_replies += 1
                break
            link.client.write(data)
            await link.client.drain()
        link.cut()

    async def _wait(self, delay_s: float) -> None:
        if delay_s:
            await asyncio.sleep(delay_s)
        await self._flows.wait()
