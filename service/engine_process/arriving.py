"""What an engine tells, message by message as it arrives: no task has to be woken first to read it."""

import asyncio
from collections.abc import Callable

from service.engine_process.messages import LENGTH, Heard, heard_decoder


class Arriving(asyncio.Protocol):
    """The worker's side of a connection. What arrives before `listen` is kept for it.

    first is the first message of all; None if the connection ended without one.
    """

    def __init__(self) -> None:
        self._received = bytearray()
        self._kept: list[Heard] = []
        self._hear: Callable[[Heard], None] = self._keep
        self._lost: Callable[[], None] | None = None
        self._has_ended = False
        self.first: asyncio.Future[Heard | None] = asyncio.get_running_loop().create_future()

    def listen(self, hear: Callable[[Heard], None], lost: Callable[[], None]) -> None:
        """Have every message but the first told from here on, and at last the connection's end."""
        self._hear, self._lost = hear, lost
        kept, self._kept = self._kept, []
        for message in kept:
            hear(message)
        if self._has_ended:
            lost()

    def data_received(self, data: bytes) -> None:
        """Take what came; messages that are whole are told."""
        self._received += data
        start, end = 0, len(self._received)
        while end - start >= LENGTH.size:
            (length,) = LENGTH.unpack_from(self._received, start)
            body = start + LENGTH.size
            if end - body < length:
                break
            start = body + length
            self._hear(heard_decoder.decode(self._received[body:start]))
        del self._received[:start]

    def connection_lost(self, _: Exception | None) -> None:
        """Tell of the end."""
        self._has_ended = True
        if not self.first.done():
            self.first.set_result(None)
        if self._lost:
            self._lost()

    def _keep(self, message: Heard) -> None:
        if self.first.done():
            self._kept.append(message)
        else:
            self.first.set_result(message)
