"""The engine behind its one thread: what the loop asks of it waits until a step is over.

The thread steps on by itself, so that the engine never waits for the event loop to hear of a step and ask for the next.
It runs at most one step ahead of its reader.
"""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from msgspec import Struct

from client.wire import WireError
from core.errors import RequestError
from core.types import Backlog, Emission, Request

SNAPSHOT_S = 0.5
# How long a step may wait for jobs that are known to be queued to take the slots that the last one freed.
REFILL_S = 0.003


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
    """Owns the thread. `add` and `abort` are done, in order, before the next step that begins.

    has_backlog is set by whoever claims jobs, while more are likely to wait: then slots that a step frees are given a
    moment to be taken again.
    """

    def __init__(self, engine: SteppedEngine) -> None:
        self._engine = engine
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._calls: deque[Callable[[], None]] = deque()
        self._asked, self._refilled, self._resumed = threading.Event(), threading.Event(), threading.Event()
        self._room = threading.Semaphore(1)
        self._refused: list[tuple[str, WireError]] = []
        self._has_failed = False
        self._is_closed = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._done: asyncio.Queue[Stepped | Exception] = asyncio.Queue()
        self.has_backlog = False
        # Read before the thread runs; who claims jobs counts from here on by the jobs it has open.
        self.num_slots = engine.num_free_slots
        self.max_model_len = engine.max_model_len
        # What the engine has counted, as of a step ago or a little longer.
        self.snapshot = engine.snapshot()
        self._next_snapshot_s = 0.0
        # Seconds in which the thread could not step because its reader was behind.
        self.held_s = 0.0
        # What waits in the queue; the engine hears of it with its next step.
        self.backlog = Backlog()

    def start(self) -> None:
        """Begin to step whenever there is work; to be called in the event loop that reads the steps."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    def add(self, request: Request) -> None:
        """Have a request taken in."""
        self._call(lambda: self._add(request))

    def abort(self, request_id: str) -> None:
        """Have a request dropped."""
        self._call(lambda: self._engine.abort(request_id))

    async def call(self, change: Callable[[], None]) -> None:
        """Have something done between two steps, and wait for it; raises what it raises."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._call(lambda: self._answer(change, done))
        await done

    async def counts(self) -> dict[str, Any]:
        """Return what the engine has counted by now, between two steps."""
        found: dict[str, Any] = {}
        await self.call(lambda: found.update(self._engine.snapshot()))
        return found

    def refilled(self) -> None:
        """Say that whoever claims jobs has claimed what there was."""
        self._refilled.set()

    @property
    def has_work(self) -> bool:
        """Tell whether a step runs or would do anything."""
        return bool(self._calls) or self._engine.has_work

    async def step(self) -> Stepped:
        """Return what the next step brought; raises what the engine raised.

        After a step that failed the thread rests until it is asked for another, with all that was called before that.
        """
        if self._has_failed:
            self._has_failed = False
            self._resumed.set()
        done = await self._done.get()
        if isinstance(done, Exception):
            self._has_failed = True
            raise done
        self._room.release()
        return done

    def close(self) -> None:
        """Wait for a running step and end the thread."""
        self._is_closed = True
        for event in (self._asked, self._refilled, self._resumed):
            event.set()
        self._room.release()
        if self._thread.is_alive():
            self._thread.join()

    # --- In the thread -----------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._is_closed:
            self._asked.clear()
            if not self.has_work and not self._is_closed:
                self._asked.wait()
                continue
            self._refilled.clear()
            done = self._advance()
            assert self._loop is not None
            self._loop.call_soon_threadsafe(self._done.put_nowait, done)
            if isinstance(done, Exception):
                self._rest()
                continue
            if self.has_backlog and any(emission.finish_reason for emission in done.emissions):
                self._refilled.wait(REFILL_S)
            self._wait_for_room()

    def _wait_for_room(self) -> None:
        """Wait until the reader has the last step but one."""
        started_s = time.perf_counter()
        self._room.acquire()
        self.held_s += time.perf_counter() - started_s

    def _rest(self) -> None:
        """Wait until the failed step is dealt with."""
        self._resumed.wait()
        if not self._is_closed:
            self._resumed.clear()

    def _advance(self) -> Stepped | Exception:
        """Do what was asked, then a step; returns what the engine raises."""
        try:
            while self._calls:
                self._calls.popleft()()
            self._engine.backlog = self.backlog
            emissions = self._engine.step() if self._engine.has_work else []
            # Here, between steps, where nothing changes it; not in every one, and surely in the last before it idles.
            if time.monotonic() >= self._next_snapshot_s or not self._engine.has_work:
                self.snapshot = self._engine.snapshot()
                self._next_snapshot_s = time.monotonic() + SNAPSHOT_S
        except Exception as error:  # noqa: BLE001 - the border to the engine: its reader must hear of whatever it is
            return error
        refused, self._refused = self._refused, []
        return Stepped(emissions, refused)

    def _call(self, call: Callable[[], None]) -> None:
        self._calls.append(call)
        self._asked.set()

    def _answer(self, change: Callable[[], None], done: "asyncio.Future[None]") -> None:
        assert self._loop is not None
        try:
            change()
        except Exception as error:  # noqa: BLE001 - whoever asked for it is told
            self._loop.call_soon_threadsafe(_set_exception, done, error)
        else:
            self._loop.call_soon_threadsafe(_set_result, done)

    def _add(self, request: Request) -> None:
        try:
            self._engine.add(request)
        except RequestError as error:
            self._refused.append((request.id, WireError(error.message, error.status, error.code, error.param)))


def _set_result(done: "asyncio.Future[None]") -> None:
    if not done.done():
        done.set_result(None)


def _set_exception(done: "asyncio.Future[None]", error: Exception) -> None:
    if not done.done():
        done.set_exception(error)
