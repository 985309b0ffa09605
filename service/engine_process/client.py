"""The worker's end: an engine in another process, for the event loop to tell and to hear from."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from core.config import DrafterSettings
from core.errors import EngineError
from core.experiments.spec import Experiment
from core.types import Backlog, Request
from service.engine_process.arriving import Arriving
from service.engine_process.messages import (
    Abort,
    Add,
    Answer,
    Broken,
    Call,
    Close,
    Count,
    Counted,
    EndArms,
    ExpectDrafter,
    Heard,
    LoadDrafter,
    MakeArms,
    Order,
    Read,
    Ready,
    Refilled,
    Resume,
    ServeArm,
    Stepped,
    Told,
    UnloadDrafter,
    Unusable,
    Waiting,
    framed,
)

# A step that takes longer than this when the worker ends is not waited for.
CLOSE_S = 5.0


class EngineGone(EngineError):
    """The engine's process has ended: this worker is past use, its jobs are others'."""


class EngineClient:
    """Tells one engine what to do and hears what it did; made by `engine_at`.

    snapshot is what the engine has counted, as of a step ago or a little longer. held_s are the seconds in which it
    could not step because its reader was behind. drafters are those that are loaded, with the MiB of their KV.
    """

    def __init__(self, connection: asyncio.WriteTransport, ready: Ready) -> None:
        self._connection = connection
        self._done: asyncio.Queue[Stepped | Broken | EngineGone] = asyncio.Queue()
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._num_calls = self._num_told = self._num_done = 0
        self._engine_has_work = self._has_failed = self._is_closing = False
        self._gone: EngineGone | None = None
        self._ended = asyncio.Event()
        # Who claims jobs counts from here on by the jobs it has open.
        self.num_slots, self.max_model_len = ready.num_slots, ready.max_model_len
        self.serves_arms, self.loads_drafters = ready.serves_arms, ready.drafters is not None
        self.snapshot, self.drafters, self.held_s = ready.snapshot, ready.drafters or {}, 0.0

    @property
    def has_work(self) -> bool:
        """Tell whether a step runs or would do anything, as far as was heard."""
        return self._engine_has_work or self._num_told != self._num_done

    @property
    def is_gone(self) -> bool:
        """Tell whether the engine's process has ended without having been told to."""
        return self._gone is not None and not self._is_closing

    def add(self, request: Request) -> None:
        """Have a request taken in before the next step that begins."""
        self._num_told += 1
        self._tell(Add(request))

    def abort(self, request_id: str) -> None:
        """Have a request dropped before the next step that begins."""
        self._num_told += 1
        self._tell(Abort(request_id))

    def waiting(self, backlog: Backlog) -> None:
        """Say what waits in the queue."""
        self._tell(Waiting(backlog))

    def refilled(self, *, has_backlog: bool) -> None:
        """Say that what could be claimed has been; while more waits, freed slots are given a moment to be retaken."""
        self._tell(Refilled(has_backlog))

    async def step(self) -> Stepped:
        """Return what the next step brought; raises EngineError or SpecdError if it failed, EngineGone if all is lost.

        After a step that failed the engine rests until it is asked for another, with all that was told before that.
        """
        if self._has_failed:
            self._has_failed = False
            self._tell(Resume())
        done = await self._done.get()
        if isinstance(done, EngineGone):
            raise done
        if isinstance(done, Broken):
            self._has_failed = True
            raise done.failure.error()
        self._tell(Read())
        return done

    # --- Between two steps ---------------------------------------------------------------------------------------

    async def counts(self) -> dict[str, Any]:
        """Return what the engine has counted by now."""
        return await self._call(Count())

    async def expect_drafter(self, name: str) -> None:
        """Let requests that name a drafter decode plainly while it is not loaded."""
        await self._call(ExpectDrafter(name))

    async def load_drafter(self, name: str, settings: DrafterSettings) -> None:
        """Have a drafter read, while steps go on, and put in; raises SpecdError if that cannot be."""
        await self._call(LoadDrafter(name, settings))

    async def unload_drafter(self, name: str) -> None:
        """Have a drafter taken out; raises ConfigError for an unknown one."""
        await self._call(UnloadDrafter(name))

    async def make_arms(self, experiment: Experiment) -> None:
        """Have an experiment's arms made; raises ConfigError if one cannot be served here."""
        await self._call(MakeArms(experiment))

    async def serve_arm(self, arm: str | None) -> None:
        """Have requests that take part served by one arm, or each by its own."""
        await self._call(ServeArm(arm))

    async def end_arms(self) -> None:
        """Have the arms forgotten and everybody served by the defaults."""
        await self._call(EndArms())

    async def _call(self, order: Order) -> dict[str, Any]:
        if self._gone:
            raise self._gone
        self._num_calls += 1
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._answers[self._num_calls] = answer
        self._tell(Call(self._num_calls, order))
        return await answer

    # --- The connection ------------------------------------------------------------------------------------------

    def _tell(self, told: Told) -> None:
        if not self._gone:
            self._connection.write(framed(told))

    def lost(self) -> None:
        """Take note that the engine has ended, and tell whoever waits for an answer of it."""
        self._gone = EngineGone("the engine's process has ended")
        self._ended.set()
        self._done.put_nowait(self._gone)
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(self._gone)

    def hear(self, heard: Heard) -> None:
        """Take what the engine tells."""
        if isinstance(heard, Stepped):
            self._num_done, self._engine_has_work, self.held_s = heard.num_done, heard.has_work, heard.held_s
            self._done.put_nowait(heard)
        elif isinstance(heard, Counted):
            self.snapshot = heard.snapshot
        elif isinstance(heard, Broken):
            self._num_done = heard.num_done
            self._done.put_nowait(heard)
        elif isinstance(heard, Answer):
            self.snapshot, self.drafters = heard.snapshot, heard.drafters or {}
            answer = self._answers.pop(heard.number)
            if answer.done():
                # Whoever asked was cancelled.
                return
            if heard.failure:
                answer.set_exception(heard.failure.error())
            else:
                answer.set_result(heard.snapshot)

    async def close(self) -> None:
        """Have the engine end after the step that runs, and wait for that, but not for ever."""
        self._is_closing = self._gone is None
        self._tell(Close())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_S):
                await self._ended.wait()


@asynccontextmanager
async def engine_at(connection: socket.socket) -> AsyncIterator[EngineClient]:
    """Yield the engine at the other end of a connection, once it is ready; it is closed with the block.

    Raises what kept it from being built, EngineGone if it ended without a word.
    """
    transport, arriving = await asyncio.get_running_loop().create_connection(Arriving, sock=connection)
    try:
        first = await arriving.first
        if first is None:
            raise EngineGone("the engine's process has ended before it was ready; its log says why")
        if isinstance(first, Unusable):
            raise first.failure.error()
        assert isinstance(first, Ready)
        client = EngineClient(transport, first)
        arriving.listen(client.hear, client.lost)
        try:
            yield client
        finally:
            await client.close()
    finally:
        transport.close()
