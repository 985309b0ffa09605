"""The process that all workers and gateways of the fault tests are forked from: `python -m tests.faults.nursery`.

Importing a worker takes seconds, forking one that is imported milliseconds: so kill -9 is real, and cheap. Nothing is
computed here: a process whose torch has threads cannot be forked. Orders come
as JSON lines on stdin, one answer each on stdout; when stdin ends, whatever still lives is killed.
"""

import contextlib
import importlib
import os
import signal
import socket
import sys
import traceback
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

import service.gateway
import service.worker
from core.config import EngineSettings, ServerSettings, Settings
from core.processes import die_with_parent
from core.queue_settings import QueueSettings
from models.folders import target_folder
from models.tokenizer import Tokenizer
from service.engine_process.client import engine_at
from service.engine_process.main import serve as serve_engine
from service.process import run_process
from tests.faults.plants import plant
from tests.faults.points import Fault, PointedQueue, Points
from tests.faults.recital import RecitingEngine
from tests.service.fakes import served


class Birth(Struct, frozen=True, tag="birth"):
    """A process to start. constants are module-level numbers to change in it, by dotted name.

    engine holds settings of the real engine, which a worker then builds as in production, after the fork; without any
    it has the reciting one.
    """

    role: str
    folder: str
    tokenizer: str
    model: str
    queue: dict[str, Any]
    port: int = 0
    step_s: float = 0.005
    num_slots: int = 4
    max_model_len: int = 512
    request_timeout_s: float = 30.0
    faults: tuple[Fault, ...] = ()
    plant: str = ""
    constants: dict[str, int | float] = {}
    engine: dict[str, Any] = {}


class Status(Struct, frozen=True, tag="status"):
    """A question how a process has ended."""

    pid: int


Order = Birth | Status


def settings_of(birth: Birth) -> Settings:
    return Settings(
        server=ServerSettings(port=birth.port or 1, model_name=birth.model, request_timeout_s=birth.request_timeout_s),
        queue=QueueSettings(**birth.queue),
        engine=EngineSettings(**birth.engine) if birth.engine else EngineSettings(target=birth.tokenizer),
    )


def live(birth: Birth) -> int:
    """Be the process; returns its exit status."""
    for name, value in birth.constants.items():
        module, _, constant = name.rpartition(".")
        setattr(importlib.import_module(module), constant, value)
    PointedQueue.points = Points(birth.faults, Path(birth.folder) / "hits")
    service.worker.JobQueue = service.gateway.JobQueue = PointedQueue
    if birth.plant:
        plant(birth.plant)
    if birth.role == "gateway":
        return run_process(settings_of(birth), service.gateway.serve_http)
    connection = beget_engine(birth) if birth.engine else None
    folder = target_folder(settings_of(birth).engine.target) if birth.engine else Path(birth.tokenizer)

    async def serve(settings, stop):
        reciting = RecitingEngine(birth.max_model_len, birth.num_slots, birth.step_s)
        async with engine_at(connection) if connection else served(reciting) as engine:
            await service.worker.work(settings, stop, engine, Tokenizer(folder))

    return run_process(settings_of(birth), serve)


def beget_engine(birth: Birth) -> socket.socket:
    """Fork the process of a worker's real engine; returns the worker's end of the connection."""
    ours, theirs = socket.socketpair()
    if os.fork():
        theirs.close()
        return ours
    try:
        die_with_parent()
        ours.close()
        serve_engine(theirs, settings_of(birth))
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(0)


def bear(birth: Birth) -> int:
    """Fork a process; returns its pid."""
    if pid := os.fork():
        return pid
    status = 1
    try:
        die_with_parent()
        log = os.open(Path(birth.folder) / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(log, 1)
        os.dup2(log, 2)
        status = live(birth)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def main() -> None:
    living: set[int] = set()
    ended: dict[int, int] = {}
    try:
        for line in sys.stdin.buffer:
            order = msgspec.json.decode(line, type=Order)
            if isinstance(order, Birth):
                answer = bear(order)
                living.add(answer)
            else:
                if order.pid in living:
                    pid, status = os.waitpid(order.pid, os.WNOHANG)
                    if pid:
                        living.remove(pid)
                        ended[pid] = os.waitstatus_to_exitcode(status)
                answer = ended.get(order.pid)
            sys.stdout.buffer.write(msgspec.json.encode(answer) + b"\n")
            sys.stdout.buffer.flush()
    finally:
        for pid in living:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    main()
