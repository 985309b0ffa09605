"""Start an engine in a process of its own, so that nothing the worker does can hold up a step.

One Python process runs one thread of Python at a time: a step that shares its interpreter with the worker's event loop
waits for it after every operator.
"""

import asyncio
import contextlib
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog

from core.config import Settings
from core.processes import die_with_parent
from service.engine_process.client import EngineClient, engine_at
from service.engine_process.messages import Build, framed

log = structlog.get_logger()

STOP_S = 3.0


@asynccontextmanager
async def engine_process(settings: Settings) -> AsyncIterator[EngineClient]:
    """Yield an engine of these settings, which lives as long as the block; raises what building it raises.

    Cancelled before it is built, it is gone at once.
    """
    ours, theirs = socket.socketpair()
    with theirs:
        # A session of its own: Ctrl-C reaches the worker alone, which ends its engine in order.
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "service.engine_process.main", str(theirs.fileno())),
            stdin=asyncio.subprocess.DEVNULL,
            pass_fds=(theirs.fileno(),),
            preexec_fn=die_with_parent,
            start_new_session=True,
        )
    engine: EngineClient | None = None
    try:
        # Far less than a socket holds, so it cannot block; what has ended already is heard of below.
        with contextlib.suppress(ConnectionError):
            ours.sendall(framed(Build(settings)))
        async with engine_at(ours) as engine:
            yield engine
    finally:
        if engine is None and process.returncode is None:
            process.kill()
        await _end(process)
        if engine is not None and engine.is_gone:
            log.error("engine_died", status=process.returncode)


async def _end(process: asyncio.subprocess.Process) -> None:
    """Wait for a process that was told to end; one that does not is killed."""
    try:
        async with asyncio.timeout(STOP_S):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
