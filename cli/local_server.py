"""A server of our own for as long as a block lasts: started on a free port, waited for, stopped with all it started."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from typing import IO

from core.config import ENV_PREFIX
from core.errors import SpecdError

HOST = "127.0.0.1"
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 15.0
POLL_S = 0.05
LOG_TAIL_BYTES = 4000


class LocalServer:
    """One `specd serve` process. The log is kept and shown only if the server dies."""

    def __init__(self, flags: tuple[str, ...], log: IO[bytes]) -> None:
        self.log = log
        self.port = _free_port()
        self.url = f"http://{HOST}:{self.port}"
        # Settings of the shell must not reach it, least of all a Redis that others use.
        environ = {name: value for name, value in os.environ.items() if not name.startswith(ENV_PREFIX)}
        environ |= {f"{ENV_PREFIX}LOG__LEVEL": "warning", "OMP_WAIT_POLICY": "PASSIVE"}
        command = [sys.executable, "-m", "cli.main", "serve", "--host", HOST, "--port", str(self.port), *flags]
        # A session of its own: what it starts can be ended with it, and Ctrl-C reaches it through `stop` alone.
        self.process = subprocess.Popen(
            command,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def wait_until_ready(self) -> None:
        """Return when it answers /health; raises SpecdError if it ends, or is not ready in time."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self._is_healthy():
            if self.process.poll() is not None:
                raise SpecdError(f"the server ended with status {self.process.returncode}:\n{self._log_tail()}")
            if time.monotonic() > deadline:
                raise SpecdError(f"the server was not ready within {START_TIMEOUT_S:.0f} s:\n{self._log_tail()}")
            time.sleep(POLL_S)

    def stop(self) -> None:
        """End it and all it started: politely first."""
        self.process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(STOP_TIMEOUT_S)
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def _is_healthy(self) -> bool:
        with closing(HTTPConnection(HOST, self.port, timeout=2.0)) as connection:
            try:
                connection.request("GET", "/health")
                return connection.getresponse().status == HTTPStatus.OK
            except (OSError, HTTPException):
                return False

    def _log_tail(self) -> str:
        self.log.seek(0, os.SEEK_END)
        self.log.seek(max(0, self.log.tell() - LOG_TAIL_BYTES))
        return self.log.read().decode("utf-8", "replace").strip() or "(its log is empty)"


@contextmanager
def local_server(*flags: str) -> Iterator[LocalServer]:
    """Run `specd serve` with these flags; it is starting when the block begins and gone when the block ends."""
    with tempfile.TemporaryFile() as log:
        server = LocalServer(flags, log)
        try:
            yield server
        finally:
            server.stop()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port
