"""A process of a benchmark's own, and all that it starts: gone when a block ends."""

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from core.config import ENV_PREFIX
from core.processes import die_with_parent


@contextmanager
def child_process(command: list[str], log: Path, stop_s: float = 0.0) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command until the block ends, with what it says in `log`; it may take `stop_s` to end by itself."""
    # Settings of the shell must not reach it, least of all a Redis that others use.
    environ = {name: value for name, value in os.environ.items() if not name.startswith(ENV_PREFIX)}
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            env=environ | {"OMP_WAIT_POLICY": "PASSIVE"},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            # A session of its own: what it starts can be ended with it. A benchmark that is killed takes it along.
            start_new_session=True,
            preexec_fn=die_with_parent,  # noqa: PLW1509 - one system call, for which no lock is needed
        )
    try:
        yield process
    finally:
        if stop_s:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(stop_s)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
