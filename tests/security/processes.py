"""A gateway as it runs in earnest, in a process of its own whose log is kept, beside a worker of the test's."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import msgspec

from core.config import LogSettings, Settings
from core.config_file import to_toml
from core.processes import die_with_parent
from service.main import base_url
from tests.service.fakes import FakeEngine, health, until, worker

READY_S = 60.0


@dataclass
class GatewayProcess:
    """A running gateway."""

    settings: Settings
    process: subprocess.Popen
    log_path: Path
    http: aiohttp.ClientSession

    @property
    def url(self) -> str:
        return base_url(self.settings)

    @property
    def log(self) -> str:
        return self.log_path.read_text(encoding="utf-8")

    @property
    def rss_kib(self) -> int:
        """Resident memory, as /proc tells it."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))

    async def post(self, path: str = "/v1/completions", **body: object) -> tuple[int, dict]:
        async with self.http.post(self.url + path, json=body) as response:
            return response.status, await response.json()

    async def raw(self, data: bytes, timeout_s: float = 30.0) -> bytes:
        """Send bytes as they are over a connection of their own; return what comes back until the server closes it."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.settings.server.port)
        try:
            writer.write(data)
            await writer.drain()
            async with asyncio.timeout(timeout_s):
                return await reader.read()
        except ConnectionError:
            return b""
        finally:
            writer.close()


@asynccontextmanager
async def gateway_process(
    settings: Settings, folder: Path, engine: FakeEngine, *, log: LogSettings | None = None
) -> AsyncIterator[GatewayProcess]:
    """Run a gateway process and a worker for as long as the context lasts; the gateway has to end well."""
    server = msgspec.structs.replace(settings.server, role="gateway")
    settings = msgspec.structs.replace(settings, server=server, log=log or LogSettings())
    config, log_path = folder / "gateway.toml", folder / "gateway.log"
    config.write_text(to_toml(settings), encoding="utf-8")
    environ = {name: value for name, value in os.environ.items() if not name.startswith("SPECD_")}
    with log_path.open("wb") as output:
        process = subprocess.Popen(  # noqa: ASYNC220 - it starts at once
            [sys.executable, "-m", "cli.main", "serve", "--config", str(config)],
            env=environ | {"XDG_STATE_HOME": str(folder)},
            stdout=output,
            stderr=subprocess.STDOUT,
            preexec_fn=die_with_parent,
        )
    try:
        async with worker(settings, engine), aiohttp.ClientSession() as http:
            await until(lambda: health(http, settings), 200, READY_S)
            yield GatewayProcess(settings, process, log_path, http)
            assert process.poll() is None
    finally:
        process.terminate()
        await asyncio.to_thread(process.wait, 30)
    assert process.returncode == 0
