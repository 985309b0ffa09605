"""The supervisor: a private Redis if none is named, a gateway and a worker, each a process of its own.

It says when they are ready and stops them in order. A part that cannot start ends the whole with its own message; a
worker that dies later is started again, with growing waits while it keeps dying.
"""

import asyncio
import os
import socket
import sys
import tempfile
import time
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import aiohttp
import msgspec
import structlog
from redis.exceptions import RedisError

from core.config import ENV_PREFIX, Settings, kind_of, model_name
from core.config_file import to_toml
from core.errors import ConfigError, QueueError, SpecdError
from core.masking import shown
from core.processes import die_with_parent
from core.queue_settings import QueueSettings
from service.process import run_process
from service.storage.connect import client_of
from service.storage.redis_server import private_redis

log = structlog.get_logger()

POLL_S = 0.05
STOP_S = 15.0
# A worker that lived this long was healthy; the waits before its restarts begin anew.
HEALTHY_S = 10.0
FIRST_RESTART_WAIT_S = 0.5
LAST_RESTART_WAIT_S = 30.0


def run(settings: Settings) -> int:
    """Serve until SIGINT or SIGTERM; returns the exit status. Raises SpecdError if a part cannot start."""
    return run_process(settings, supervise)


async def supervise(settings: Settings, stop: asyncio.Event) -> None:
    """Run Redis (unless one is named), gateway and worker until `stop` is set."""
    async with AsyncExitStack() as stack:
        url = settings.queue.redis_url
        if url is None:
            url = await stack.enter_async_context(private_redis(settings.queue.state_dir, settings.queue.redis_server))
        else:
            await check_redis(settings.queue)
        check_port(settings.server.host, settings.server.port)
        server = msgspec.structs.replace(settings.server, port=settings.server.port or free_port(settings.server.host))
        queue = msgspec.structs.replace(settings.queue, redis_url=url)
        settings = msgspec.structs.replace(settings, server=server, queue=queue)
        # Leaving in reverse order: the gateway stops taking requests first, then the worker, Redis last.
        worker = await stack.enter_async_context(_child(settings, "worker"))
        gateway = await stack.enter_async_context(_child(settings, "gateway"))
        await _until_ready(settings, stop, [worker, gateway])
        if not stop.is_set():
            print(_ready_line(settings), flush=True)
        await _watch(stop, worker, gateway)


class Child:
    """A role in a process of its own, started again on demand; `process` is the present one."""

    def __init__(self, role: str, config: Path) -> None:
        self.role, self._config = role, config
        self.process: Process
        self.started_at = 0.0

    async def start(self) -> None:
        """Start the process."""
        # The file holds the effective settings; variables of this process would override it.
        environ = {name: value for name, value in os.environ.items() if not name.startswith(ENV_PREFIX)}
        command = [sys.executable, "-m", "cli.main", "serve", "--role", self.role, "--config", str(self._config)]
        self.started_at = time.monotonic()
        # A session of its own: Ctrl-C reaches the supervisor alone, which stops its children in order.
        self.process = await asyncio.create_subprocess_exec(
            *command, env=environ, preexec_fn=die_with_parent, start_new_session=True
        )

    async def stop(self) -> None:
        """Ask the process to end, then make it."""
        if self.process.returncode is not None:
            return
        self.process.terminate()
        try:
            await asyncio.wait_for(self.process.wait(), STOP_S)
        except TimeoutError:
            log.warning("child_killed", role=self.role, waited_s=STOP_S)
            self.process.kill()
            await self.process.wait()


@asynccontextmanager
async def _child(settings: Settings, role: str) -> AsyncIterator[Child]:
    with tempfile.TemporaryDirectory(prefix="specd-") as folder:
        config = Path(folder) / f"{role}.toml"
        config.touch(mode=0o600)
        own = msgspec.structs.replace(settings, server=msgspec.structs.replace(settings.server, role=role))
        config.write_text(to_toml(own), encoding="utf-8")
        child = Child(role, config)
        await child.start()
        try:
            yield child
        finally:
            await child.stop()


async def _until_ready(settings: Settings, stop: asyncio.Event, children: list[Child]) -> None:
    """Wait until /health is good; raises SpecdError if a child ends before, or it takes too long."""
    deadline = time.monotonic() + settings.server.start_timeout_s
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2.0)) as session:
        while not (stop.is_set() or await _is_healthy(session, settings)):
            for child in children:
                if child.process.returncode is not None:
                    # The child has said why, on the same stderr.
                    raise SpecdError(f"the {child.role} could not start (exit status {child.process.returncode})")
            if time.monotonic() > deadline:
                raise SpecdError(f"not ready after {settings.server.start_timeout_s:.0f} s; see the log above")
            await asyncio.sleep(POLL_S)


async def _is_healthy(session: aiohttp.ClientSession, settings: Settings) -> bool:
    try:
        async with session.get(f"{base_url(settings)}/health") as response:
            return response.status == 200
    except (aiohttp.ClientError, TimeoutError):
        return False


async def _watch(stop: asyncio.Event, worker: Child, gateway: Child) -> None:
    """Wait for `stop`, bringing back a worker that dies; raises SpecdError if the gateway dies."""
    wait_s = FIRST_RESTART_WAIT_S
    async with asyncio.TaskGroup() as group:
        stopped = group.create_task(stop.wait())
        while not stop.is_set():
            ends = {group.create_task(child.process.wait()): child for child in (worker, gateway)}
            done, _ = await asyncio.wait({stopped, *ends}, return_when=asyncio.FIRST_COMPLETED)
            ended = [child for task, child in ends.items() if task in done]
            for task in ends:
                task.cancel()
            if stop.is_set() or not ended:
                break
            if gateway in ended:
                stopped.cancel()
                raise SpecdError(f"the gateway ended with status {gateway.process.returncode}")
            wait_s = FIRST_RESTART_WAIT_S if time.monotonic() - worker.started_at > HEALTHY_S else wait_s * 2
            wait_s = min(wait_s, LAST_RESTART_WAIT_S)
            log.error("worker_died", status=worker.process.returncode, restart_in_s=wait_s)
            await asyncio.wait({stopped}, timeout=wait_s)
            if not stop.is_set():
                await worker.start()


def base_url(settings: Settings) -> str:
    """Return the address at which this machine reaches the gateway."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.server.host, settings.server.host)  # noqa: S104
    return f"http://[{host}]:{settings.server.port}" if ":" in host else f"http://{host}:{settings.server.port}"


async def check_redis(settings: QueueSettings) -> None:
    """Raise QueueError if the configured Redis does not answer: said once, before two children would say it."""
    client = client_of(settings)
    try:
        await client.ping()
    except (RedisError, OSError) as error:
        raise QueueError(f"Redis is out of reach at {shown(settings.redis_url or '')}: {error}") from error
    finally:
        await client.aclose()


def check_port(host: str, port: int) -> None:
    """Raise ConfigError if the port is taken: whoever holds it might answer in the gateway's place."""
    try:
        with socket.create_server((host, port), family=_family(host)):
            pass
    except OSError as error:
        raise ConfigError(f"cannot listen on {host}:{port}: {error.strerror}") from error


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def free_port(host: str) -> int:
    """Return a port that is free now on `host`."""
    with socket.socket(_family(host)) as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port


def _ready_line(settings: Settings) -> str:
    drafter = settings.policy.drafter or kind_of(settings.drafter)
    policy = msgspec.to_builtins(settings.policy)["kind"]
    return f"specd is ready on {base_url(settings)} (model {model_name(settings)}, drafter {drafter}, policy {policy})"
