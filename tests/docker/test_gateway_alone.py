"""A gateway installed with nothing but its own dependencies starts, soon and small; pip needs its index for this."""

import asyncio
import subprocess
import sys
import time

import aiohttp
import pytest

from layers import ROOT
from service.main import free_port
from service.storage.redis_server import private_redis

# Resident, before its first request; and a start on an idle core takes about a second, here perhaps a busy one.
MAX_RSS_MIB = 80
MAX_START_S = 10.0


@pytest.fixture(scope="module")
def specd(tmp_path_factory):
    """The command in an environment of its own, without any extra."""
    folder = tmp_path_factory.mktemp("gateway")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True, timeout=120)
    install = [folder / "bin" / "pip", "install", "--quiet", "-c", ROOT / "constraints.txt", ROOT]
    subprocess.run(install, check=True, timeout=600)
    return folder / "bin" / "specd"


@pytest.mark.slow
async def test_a_gateway_needs_no_torch_and_is_soon_there(specd, tmp_path):
    port = free_port("127.0.0.1")
    async with private_redis(None) as url:
        command = [specd, "serve", "--role", "gateway", "--port", str(port), "--redis-url", url]
        started_s = time.monotonic()
        gateway = await asyncio.create_subprocess_exec(*command, cwd=tmp_path)
        try:
            await answered(f"http://127.0.0.1:{port}/livez")
            assert time.monotonic() - started_s < MAX_START_S
            assert resident_mib(gateway.pid) < MAX_RSS_MIB
        finally:
            gateway.terminate()
            await gateway.wait()


@pytest.mark.slow
def test_a_worker_that_was_not_installed_says_what_to_install(specd, tmp_path):
    command = [specd, "serve", "--role", "worker", "--redis-url", "redis://127.0.0.1:1"]
    said = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert said.returncode == 2
    assert "No module named 'torch': pip install 'specd[worker]'" in said.stderr


async def answered(url: str) -> None:
    async with asyncio.timeout(60), aiohttp.ClientSession() as session:
        while True:
            try:
                async with session.get(url):
                    return
            except aiohttp.ClientError:
                await asyncio.sleep(0.02)


def resident_mib(pid: int) -> float:
    with open(f"/proc/{pid}/status", encoding="ascii") as status:  # noqa: PTH123
        (line,) = [line for line in status if line.startswith("VmRSS")]
    return int(line.split()[1]) / 1024
