"""Single roles of `specd serve`, and a Redis, as processes of a benchmark's own: begun when their log says so."""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from bench.child_process import child_process
from client.redis_executable import redis_executable
from core.config import Settings
from core.config_file import to_toml
from core.errors import SpecdError

START_TIMEOUT_S, POLL_S = 180.0, 0.1


@contextmanager
def role(settings: Settings, name: str, stem: Path, ready: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run one role of `specd serve` until the block ends; begins when its log says that it is ready."""
    own = msgspec.structs.replace(settings, server=msgspec.structs.replace(settings.server, role=name))
    config, log = stem.with_suffix(".toml"), stem.with_suffix(".log")
    config.write_text(to_toml(own), encoding="utf-8")
    command = [sys.executable, "-m", "cli.main", "serve", "--config", str(config)]
    with child_process(command, log) as process:
        wait_for(process, log, ready)
        yield process


@contextmanager
def redis(folder: Path, wanted: str | None) -> Iterator[str]:
    """Run a Redis of our own on a unix socket and yield its URL."""
    socket, log = folder / "redis.sock", folder / "redis.log"
    options = ("--port", "0", "--unixsocket", str(socket), "--dir", str(folder), "--appendonly", "yes", "--save", "")
    with child_process([redis_executable(wanted), *options], log) as process:
        wait_for(process, log, "ready to accept connections")
        yield f"unix://{socket}"


def wait_for(process: subprocess.Popen[bytes], log: Path, word: str) -> None:
    """Wait until a log has a word; raises SpecdError if the process ends before, or takes too long."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while word not in (text := log.read_text(encoding="utf-8", errors="replace")):
        if process.poll() is not None or time.monotonic() > deadline:
            raise SpecdError(f"no {word!r} in the log of {process.args!r}:\n{text[-3000:]}")
        time.sleep(POLL_S)
