"""The engine behind its one thread: what is asked of it waits until a step is over.

The thread steps on by itself, so that the engine never waits for its reader to hear of a step and ask for the next. It
runs at most one step ahead of that reader. Where a device computes, a step is told of while it runs the next one.
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

import structlog

from client.wire import WireError
from core.errors import RequestError
from core.types import Backlog, Emission, Request
from service.engine_process.messages import Broken, Counted, Failure, Stepped

log = structlog.get_logger()

SNAPSHOT_S = 0.5
# How long a step may wait for jobs that are known to be queued to take the slots that the last one freed.
REFILL_S = 0.003

Change = Callable[[], None]


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
    def runs_apart(self) -> bool:
        """Tell whether a device computes while the host goes on."""
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

    def step(self, meanwhile: Callable[[], None] | None = None) -> list[Emission]:
        """Advance all requests by one round; `meanwhile` is called while a device runs it, if it is called."""
        ...

    def snapshot(self) -> dict[str, Any]:
        """Return what it has counted and what it holds, as plain values."""
        ...


class EngineThread:
    """Owns the thread. `add` and `abort` are done, in order, before the next step that begins.

    tell is called, in the thread, with what every step brought, and now and then with what was counted.
    """

    def __init__(self, engine: SteppedEngine, tell: Callable[[Stepped | Broken | Counted], None]) -> None:
        self._engine, self._tell = engine, tell
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._calls: deque[Change] = deque()
        self._asked, self._refilled, self._resumed = threading.Event(), threading.Event(), threading.Event()
        self._room = threading.Semaphore(1)
        self._refused: list[tuple[str, WireError]] = []
        self._num_done = 0
        self._is_closed = False
        self._has_backlog = False
        self._next_snapshot_s = 0.0
        self._held_s = 0.0
        self._untold: Stepped | None = None
        self._backlog = Backlog()

    def start(self) -> None:
        """Begin to step whenever there is work."""
        self._thread.start()

    def add(self, request: Request) -> None:
        """Have a request taken in."""
        self.call(lambda: self._add(request))

    def abort(self, request_id: str) -> None:
        """Have a request dropped."""
        self.call(lambda: self._abort(request_id))

    def call(self, change: Change) -> None:
        """Have something done between two steps; it must not raise."""
        self._calls.append(change)
        self._asked.set()

    def waiting(self, backlog: Backlog) -> None:
        """Let the engine know what waits elsewhere."""
        self._backlog = backlog

    def refilled(self, *, has_backlog: bool) -> None:
        """Say that whoever claims jobs has claimed what there was.

        While more are likely to wait, slots that a step frees are given a moment to be taken again.
        """
        self._has_backlog = has_backlog
        self._refilled.set()

    def read(self) -> None:
        """Say that a step was read."""
        self._room.release()

    def resume(self) -> None:
        """Say that the failed step is dealt with; what was called before this is done first."""
        self._resumed.set()

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
            if not (self._calls or self._engine.has_work or self._is_closed):
                self._asked.wait()
                continue
            done = self._advance()
            self._refilled.clear()
            self._tell_last()
            if isinstance(done, Broken):
                self._tell(done)
                self._rest()
                continue
            self._untold = done
            may_refill, may_count = self._has_backlog and self._has_freed(done), self._may_count(done)
            if may_refill or may_count or not self._engine.runs_apart:
                self._tell_last()
            if may_count:
                self._count()
            if may_refill:
                self._refilled.wait(REFILL_S)
            self._wait_for_room()
        self._tell_last()

    def _tell_last(self) -> None:
        """Tell of the last step, if nobody has."""
        if self._untold is not None:
            done, self._untold = self._untold, None
            self._tell(done)

    def _has_freed(self, done: Stepped) -> bool:
        """Tell whether a step has freed slots that nobody who is here takes."""
        has_ended = any(emission.finish_reason for emission in done.emissions)
        return has_ended and self._engine.num_free_slots > len(self._calls)

    def _wait_for_room(self) -> None:
        """Wait until the reader has the last step but one."""
        if self._room.acquire(blocking=False):
            return
        self._tell_last()
        started_s = time.perf_counter()
        self._room.acquire()
        self._held_s += time.perf_counter() - started_s

    def _rest(self) -> None:
        """Wait until the failed step is dealt with."""
        self._resumed.wait()
        if not self._is_closed:
            self._resumed.clear()

    def _advance(self) -> Stepped | Broken:
        """Do what was asked, then a step; returns what the engine raises."""
        try:
            while self._calls:
                self._calls.popleft()()
            self._engine.backlog = self._backlog
            emissions = self._engine.step(self._tell_last) if self._engine.has_work else []
            has_work = self._engine.has_work
        except Exception as error:
            log.exception("step_broken", error=repr(error))
            return Broken(Failure.of(error), self._num_done)
        refused, self._refused = self._refused, []
        return Stepped(emissions, refused, self._num_done, has_work, self._held_s)

    def _may_count(self, done: Stepped) -> bool:
        """Tell whether it is time to tell what was counted: now and then, and surely before the engine idles."""
        return not done.has_work or time.monotonic() >= self._next_snapshot_s

    def _count(self) -> None:
        """Tell what was counted, between steps, where nothing changes it."""
        try:
            counted = Counted(self._engine.snapshot())
        except Exception as error:
            log.exception("count_failed", error=repr(error))
        else:
            self._tell(counted)
        self._next_snapshot_s = time.monotonic() + SNAPSHOT_S

    def _add(self, request: Request) -> None:
        self._num_done += 1
        try:
            self._engine.add(request)
        except RequestError as error:
            self._refused.append((request.id, WireError(error.message, error.status, error.code, error.param)))

    def _abort(self, request_id: str) -> None:
        self._num_done += 1
        self._engine.abort(request_id)
