"""specd servers of a benchmark's own: a private Redis, a free port, gone with all they started when the block ends."""

import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from pathlib import Path

import msgspec

from bench.child_process import child_process
from core.config import Settings
from core.config_file import to_toml
from core.errors import SpecdError
from core.observing import LogSettings
from core.server_settings import ServerSettings

HOST = "127.0.0.1"
# A policy may want the machine profiled before the server takes requests.
START_TIMEOUT_S = 300.0
STOP_TIMEOUT_S = 15.0
POLL_S = 0.1
LOG_TAIL_CHARS = 4000


@contextmanager
def local_servers(wanted: list[Settings]) -> Iterator[list[str]]:
    """Run one server per settings and yield their URLs in order; raises SpecdError if one does not come up."""
    with tempfile.TemporaryDirectory(prefix="specd-bench-") as folder, ExitStack() as stack:
        ports = [_free_port() for _ in wanted]
        for number, (settings, port) in enumerate(zip(wanted, ports, strict=True)):
            log = Path(folder) / f"{number}.log"
            # One after the other: servers that start side by side would profile each other.
            wait_until_healthy(stack.enter_context(_serving(settings, port, log)), port, log)
        yield [f"http://{HOST}:{port}" for port in ports]


@contextmanager
def _serving(settings: Settings, port: int, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    own = msgspec.structs.replace(
        settings,
        # What is drawn at a temperature is what it is everywhere else: no top_p or top_k of the target's makers.
        server=ServerSettings(host=HOST, port=port, start_timeout_s=START_TIMEOUT_S, sampling_defaults="plain"),
        queue=msgspec.structs.replace(settings.queue, redis_url=None, state_dir=None),
        log=LogSettings(level="warning"),
    )
    config = log.with_suffix(".toml")
    config.write_text(to_toml(own), encoding="utf-8")
    command = [sys.executable, "-m", "cli.main", "serve", "--config", str(config)]
    with child_process(command, log, STOP_TIMEOUT_S) as process:
        yield process


def wait_until_healthy(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    """Return once workers serve; raises SpecdError, with the end of the log, if the server ends or takes too long."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while not _is_healthy(port):
        if process.poll() is not None or time.monotonic() > deadline:
            tail = log.read_text(encoding="utf-8", errors="replace")[-LOG_TAIL_CHARS:].strip() or "(its log is empty)"
            what = "was not ready in time" if process.poll() is None else f"ended with status {process.returncode}"
            raise SpecdError(f"the server {what}:\n{tail}")
        time.sleep(POLL_S)


def _is_healthy(port: int) -> bool:
    """Tell whether the server at a port of this machine says that it serves."""
    connection = HTTPConnection(HOST, port, timeout=2.0)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == HTTPStatus.OK
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port
