"""The tests' side of the nursery: processes to be killed, frozen, woken and stopped."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import msgspec

from core.processes import die_with_parent
from tests.faults.nursery import Birth, Status

ROOT = Path(__file__).parents[2]


class Nursery:
    """Starts processes; one for a run of tests."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.nursery"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            preexec_fn=die_with_parent,
        )
        # Answered as soon as everything is imported.
        self.ask(Status(0))

    def ask(self, order: Birth | Status) -> int | None:
        self._process.stdin.write(msgspec.json.encode(order) + b"\n")
        self._process.stdin.flush()
        return msgspec.json.decode(self._process.stdout.readline(), type=int | None)

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


class Member:
    """One process of a service under test."""

    def __init__(self, nursery: Nursery, birth: Birth) -> None:
        self._nursery, self.birth, self.port = nursery, birth, birth.port
        self.pid = nursery.ask(birth)

    @property
    def status(self) -> int | None:
        """The exit status, negative for a signal; None while it lives."""
        return self._nursery.ask(Status(self.pid))

    @property
    def hits(self) -> list[str]:
        """The points it has passed."""
        path = Path(self.birth.folder) / "hits"
        return path.read_text(encoding="utf-8").splitlines() if path.exists() else []

    @property
    def log(self) -> str:
        path = Path(self.birth.folder) / "log"
        return path.read_text(encoding="utf-8") if path.exists() else ""

    @property
    def is_frozen(self) -> bool:
        stat = Path(f"/proc/{self.pid}/stat").read_text()
        return stat.rpartition(")")[2].split()[0] == "T"

    def signal(self, number: int) -> None:
        """Send a signal; nothing to do for a process that has ended."""
        if self.status is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)

    def freeze(self) -> None:
        self.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.signal(signal.SIGCONT)

    async def ended(self, timeout_s: float = 30.0) -> int:
        """Wait for its end and return its exit status."""
        async with asyncio.timeout(timeout_s):
            while (status := self.status) is None:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        return status
