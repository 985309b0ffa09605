"""An engine beside a process that keeps a second core as busy as a server's other work does (bench/busy_core.py).

Cores share caches, memory and the chip's clock, so an engine steps more slowly as soon as anything at all runs beside
it. What a server costs is therefore looked at twice: against an engine that has the machine for itself, and against one
that has a neighbour which does nothing for it. Linux only: it reads /proc.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from bench.footprints import descendants, processor_s, thread_processor_s
from bench.in_process import EngineTarget
from bench.load import Load, Questions
from bench.over_http import ServerTarget
from bench.window import Window
from engine.engine import Engine


class MeteredServer(ServerTarget):
    """A server whose processes are watched, and its clients in this one.

    `beside` is what all of them but the engine's own thread had of a core under this load so far, 1 is a whole one.
    """

    _seconds, _spent_s = 0.0, 0.0

    @property
    def beside(self) -> float:
        """The share of a core; 0 before the first window."""
        return self._spent_s / self._seconds if self._seconds else 0.0

    def start(self, load: Load, questions: Questions) -> None:
        """Begin to serve a load, of which nothing is known yet."""
        super().start(load, questions)
        self._seconds = self._spent_s = 0.0

    def measure(self, seconds: float) -> Window:
        """Serve for so long and return what happened."""
        pids = descendants(os.getpid())
        watched = [os.getpid(), *pids.values()]
        before, engine_before = sum(map(processor_s, watched)), max(thread_processor_s(pids["engine"]).values())
        started_s = time.perf_counter()
        window = super().measure(seconds)
        self._seconds += time.perf_counter() - started_s
        engine_s = max(thread_processor_s(pids["engine"]).values()) - engine_before
        self._spent_s += sum(map(processor_s, watched)) - before - engine_s
        return window


class BesideNeighbour(EngineTarget):
    """The engine alone, with a neighbour as busy as the server's other work."""

    def __init__(self, name: str, engine: Engine, server: MeteredServer, neighbour: subprocess.Popen[bytes]) -> None:
        super().__init__(name, engine)
        self._server, self._neighbour = server, neighbour

    def measure(self, seconds: float) -> Window:
        """Step the engine for so long and return what happened."""
        assert self._neighbour.stdin is not None
        self._neighbour.stdin.write(f"{self._server.beside}\n".encode())
        self._neighbour.stdin.flush()
        try:
            return super().measure(seconds)
        finally:
            self._neighbour.stdin.write(b"0\n")
            self._neighbour.stdin.flush()


@contextmanager
def neighbour() -> Iterator[subprocess.Popen[bytes]]:
    """Have a neighbour until the block ends; it rests until it is told a share."""
    process = subprocess.Popen([sys.executable, "-m", "bench.busy_core"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        # It says so when it has begun.
        process.stdout.readline()
        yield process
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdin.close()
        process.stdout.close()
