"""The private Redis of a server that was given none: on a unix socket, append-only, ended with its owner."""

import asyncio
import signal
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from redis.asyncio import Redis
from redis.exceptions import RedisError

from client.redis_executable import redis_executable
from core.errors import QueueError
from core.processes import die_with_parent

START_S = 10.0
POLL_S = 0.02


@asynccontextmanager
async def private_redis(state_dir: str | None, server: str | None = None) -> AsyncIterator[str]:
    """Run a Redis for as long as the context lasts and yield its URL; data last if `state_dir` is given.

    server is the executable, None the one that `redis_executable` finds.
    """
    executable = redis_executable(server)
    with tempfile.TemporaryDirectory(prefix="specd-") as scratch:
        data = Path(state_dir) if state_dir else Path(scratch)
        data.mkdir(parents=True, exist_ok=True)
        # A socket path may have 108 bytes at most, so it never lies in a folder of the user's.
        socket = Path(scratch) / "redis.sock"
        options = {
            "port": "0",
            "unixsocket": str(socket),
            "unixsocketperm": "700",
            "dir": str(data.resolve()),
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": "",
            "maxmemory-policy": "noeviction",
            "loglevel": "warning",
        }
        arguments = [part for name, value in options.items() for part in (f"--{name}", value)]
        process = await asyncio.create_subprocess_exec(
            executable,
            *arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            preexec_fn=die_with_parent,
            start_new_session=True,
        )
        try:
            url = f"unix://{socket}"
            await _until_ready(process, url)
            yield url
        finally:
            if process.returncode is None:
                process.send_signal(signal.SIGTERM)
            await process.wait()


async def _until_ready(process: asyncio.subprocess.Process, url: str) -> None:
    client = Redis.from_url(url)
    try:
        async with asyncio.timeout(START_S):
            while process.returncode is None:
                try:
                    await client.ping()
                except (RedisError, OSError):
                    await asyncio.sleep(POLL_S)
                else:
                    return
    except TimeoutError:
        pass
    finally:
        await client.aclose()
    raise QueueError(f"the private Redis did not start (exit status {process.returncode})")
