"""The engine's end: it hears what the worker tells, has the thread do it, and tells what came of it."""

import contextlib
import socket
import threading
from functools import partial
from typing import Protocol

import structlog

from core.config import DrafterSettings
from core.errors import SpecdError
from core.experiments.spec import Experiment
from core.types import Request
from engine.groups import Arm, Choose
from service.engine_process.messages import (
    Abort,
    Add,
    Answer,
    Call,
    Close,
    Count,
    EndArms,
    ExpectDrafter,
    Failure,
    Heard,
    LoadDrafter,
    MakeArms,
    Order,
    Read,
    Ready,
    Refilled,
    Resume,
    ServeArm,
    Told,
    UnloadDrafter,
    Waiting,
    framed,
    receive_told,
)
from service.engine_process.thread import Change, EngineThread, SteppedEngine
from service.experiments.split import arm_of_request

log = structlog.get_logger()


class DrafterHost(Protocol):
    """What loads drafters beside one engine."""

    def prepare(self, name: str, settings: DrafterSettings) -> Change:
        """Read a drafter's checkpoint and return what puts it in; called in any thread. Raises SpecdError."""
        ...

    def unload(self, name: str) -> None:
        """Take a drafter out; called in the engine's thread. Raises ConfigError for an unknown name."""
        ...

    def expect(self, name: str) -> None:
        """Let requests that name a drafter decode plainly while it is not loaded; called in the engine's thread."""
        ...

    def kv_mib(self) -> dict[str, float]:
        """Return the KV memory of every drafter that is loaded."""
        ...


class ArmHost(Protocol):
    """What serves arms in one engine; called in the engine's thread."""

    def make(self, experiment: Experiment) -> dict[str, Arm]:
        """Return an experiment's arms by name; raises ConfigError for one that cannot be served here."""
        ...

    def serve(self, choose: Choose | None) -> None:
        """Let requests be served by the arms that `choose` returns, None is by the defaults."""
        ...

    def forget(self, arms: dict[str, Arm]) -> None:
        """Let go of arms."""
        ...


class EngineServer:
    """Serves one engine to the worker at the other end of a connection."""

    def __init__(
        self,
        connection: socket.socket,
        engine: SteppedEngine,
        drafters: DrafterHost | None = None,
        arms: ArmHost | None = None,
    ) -> None:
        self._connection, self._engine, self._drafters, self._arm_host = connection, engine, drafters, arms
        self._telling = threading.Lock()
        self._thread = EngineThread(engine, self._tell)
        self._experiment: Experiment | None = None
        self._arms: dict[str, Arm] = {}

    def run(self) -> None:
        """Serve until told to close, or the worker is gone."""
        engine = self._engine
        self._tell(
            Ready(
                engine.max_model_len,
                engine.num_free_slots,
                engine.snapshot(),
                self._loaded(),
                self._arm_host is not None,
            )
        )
        self._thread.start()
        try:
            with self._connection.makefile("rb") as frames, contextlib.suppress(ConnectionError):
                while (told := receive_told(frames)) is not None and not isinstance(told, Close):
                    self._hear(told)
        finally:
            self._thread.close()
            with contextlib.suppress(OSError):
                self._connection.shutdown(socket.SHUT_RDWR)

    def _tell(self, heard: Heard) -> None:
        # Of a worker that is gone, the other thread hears as well.
        with self._telling, contextlib.suppress(ConnectionError):
            self._connection.sendall(framed(heard))

    def _hear(self, told: Told) -> None:
        if isinstance(told, Read):
            self._thread.read()
        elif isinstance(told, Add):
            self._thread.add(told.request)
        elif isinstance(told, Abort):
            self._thread.abort(told.request_id)
        elif isinstance(told, Refilled):
            self._thread.refilled(has_backlog=told.has_backlog)
        elif isinstance(told, Waiting):
            self._thread.waiting(told.backlog)
        elif isinstance(told, Resume):
            self._thread.resume()
        elif isinstance(told, Call):
            self._do(told.number, told.order)

    def _do(self, number: int, order: Order) -> None:
        if isinstance(order, LoadDrafter):
            threading.Thread(target=self._load, args=(number, order), name="load", daemon=True).start()
        else:
            self._between_steps(number, self._change(order))

    def _between_steps(self, number: int, change: Change) -> None:
        self._thread.call(partial(self._answer, number, change))

    def _answer(self, number: int, change: Change) -> None:
        failure = None
        try:
            change()
        except Exception as error:  # noqa: BLE001 - whoever asked for it is told
            failure = told_of(error)
        self._tell(Answer(number, failure, self._engine.snapshot(), self._loaded()))

    def _load(self, number: int, order: LoadDrafter) -> None:
        """Read a drafter while the engine goes on stepping; only putting it in happens between two steps."""
        assert self._drafters is not None
        try:
            change = self._drafters.prepare(order.name, order.settings)
        except Exception as error:  # noqa: BLE001 - a drafter is a plug-in; its engine must outlive it
            change = partial(_raise, error)
        self._between_steps(number, change)

    def _loaded(self) -> dict[str, float] | None:
        return self._drafters.kv_mib() if self._drafters else None

    def _change(self, order: Order) -> Change:
        if isinstance(order, ExpectDrafter):
            assert self._drafters is not None
            return partial(self._drafters.expect, order.name)
        if isinstance(order, UnloadDrafter):
            assert self._drafters is not None
            return partial(self._drafters.unload, order.name)
        if isinstance(order, MakeArms):
            return partial(self._make_arms, order.experiment)
        if isinstance(order, ServeArm):
            return partial(self._serve_arm, order.arm)
        if isinstance(order, EndArms):
            return self._end_arms
        assert isinstance(order, Count)
        # Every answer has the counts.
        return lambda: None

    # --- Arms, in the engine's thread ----------------------------------------------------------------------------

    def _make_arms(self, experiment: Experiment) -> None:
        assert self._arm_host is not None
        self._arms, self._experiment = self._arm_host.make(experiment), experiment

    def _serve_arm(self, arm: str | None) -> None:
        assert self._arm_host is not None
        assert self._experiment is not None
        self._arm_host.serve(partial(choose_arm, self._experiment, self._arms, arm))

    def _end_arms(self) -> None:
        assert self._arm_host is not None
        self._arm_host.serve(None)
        arms, self._arms, self._experiment = self._arms, {}, None
        self._arm_host.forget(arms)


def choose_arm(experiment: Experiment, arms: dict[str, Arm], served: str | None, request: Request) -> Arm | None:
    """Return the arm of a request: `served`, or where requests are split its own; None if it takes no part."""
    if not experiment.eligible.admits(request):
        return None
    return arms[served if served is not None else arm_of_request(experiment, request.id)]


def told_of(error: Exception) -> Failure:
    """Return what the worker hears of a change that failed; what nobody raised on purpose is logged here."""
    failure = Failure.of(error)
    if not isinstance(error, SpecdError):
        log.error("change_failed", error=repr(error), exc_info=error)
    return failure


def _raise(error: Exception) -> None:
    raise error
