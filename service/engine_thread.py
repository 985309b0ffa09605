"""The engine behind its one thread: what the loop asks of it waits until a step is over."""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

from msgspec import Struct

from client.wire import WireError
from core.errors import RequestError
from core.types import Backlog, Emission, Request

SNAPSHOT_S = 0.5


class SteppedEngine(Protocol):
    """What the worker needs of an engine; after construction every call is made in the engine's one thread."""

    backlog: Backlog

    @property
    def max_model_len(self) -> int:
        """Most tokens of one request, prompt and answer together."""
        ...

    @property
    def has_work(self) -> bool:
        """Tell whether a step would do anything."""
        ...

    @property
    def num_free_slots(self) -> int:
        """Requests that could be admitted beside those here."""
        ...

    def add(self, request: Request) -> None:
        """Take a request in; raises RequestError for one that can never run here."""
        ...

    def abort(self, request_id: str) -> None:
        """Drop a request; an unknown one is nothing to do."""
        ...

    def step(self) -> list[Emission]:
        """Advance all requests by one round."""
        ...

    def snapshot(self) -> dict[str, Any]:
        """Return what it has counted and what it holds, as plain values."""
        ...


class Stepped(Struct, frozen=True):
    """What one step brought: tokens, and the requests that the engine refused before it, with the reason."""

    emissions: list[Emission]
    refused: list[tuple[str, WireError]]


class EngineThread:
    """Owns the thread. `add` and `abort` are done, in order, before the next step."""

    def __init__(self, engine: SteppedEngine) -> None:
        self._engine = engine
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="engine")
        self._calls: deque[Callable[[], None]] = deque()
        self._refused: list[tuple[str, WireError]] = []
        self._wake = asyncio.Event()
        # Read while no step runs; who claims jobs counts from here on by the jobs it has open.
        self.num_slots = engine.num_free_slots
        self.max_model_len = engine.max_model_len
        # What the engine has counted, as of a step ago or a little longer.
        self.snapshot = engine.snapshot()
        self._next_snapshot_s = 0.0
        # What waits in the queue; the engine hears of it with its next step.
        self.backlog = Backlog()

    def add(self, request: Request) -> None:
        """Have a request taken in."""
        self._call(lambda: self._add(request))

    def abort(self, request_id: str) -> None:
        """Have a request dropped."""
        self._call(lambda: self._engine.abort(request_id))

    @property
    def has_work(self) -> bool:
        """Tell whether a step would do anything; to be asked between steps."""
        return bool(self._calls) or self._engine.has_work

    async def wait_for_work(self, timeout_s: float) -> None:
        """Return when something was asked, or after `timeout_s`."""
        self._wake.clear()
        if self._calls:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._wake.wait()

    async def step(self) -> Stepped:
        """Do what was asked, then a step; raises what the engine raises."""
        emissions = await asyncio.get_running_loop().run_in_executor(self._thread, self._advance)
        refused, self._refused = self._refused, []
        return Stepped(emissions, refused)

    def close(self) -> None:
        """Wait for a running step and end the thread."""
        self._thread.shutdown()

    def _call(self, call: Callable[[], None]) -> None:
        self._calls.append(call)
        self._wake.set()

    def _advance(self) -> list[Emission]:
        while self._calls:
            self._calls.popleft()()
        self._engine.backlog = self.backlog
        emissions = self._engine.step() if self._engine.has_work else []
        # Here, between steps, where nothing changes it; not in every one, and surely in the last before it idles.
        if time.monotonic() >= self._next_snapshot_s or not self._engine.has_work:
            self.snapshot = self._engine.snapshot()
            self._next_snapshot_s = time.monotonic() + SNAPSHOT_S
        return emissions

    def _add(self, request: Request) -> None:
        try:
            self._engine.add(request)
        except RequestError as error:
            self._refused.append((request.id, WireError(error.message, error.status, error.code, error.param)))
