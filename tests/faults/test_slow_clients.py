"""A client that does not read holds up nobody: no other client, not the worker, and not its gateway's memory."""

import asyncio
import json
import socket
import time
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from tests.faults.recital import writers
from tests.faults.world import health
from tests.service.fakes import until, until_true

NUM_TOKENS = 6000
NUM_OTHERS = 16
PROMPT = [5, 6, 7]


@asynccontextmanager
async def asking(gateway, num_tokens=NUM_TOKENS):
    """A streamed answer on a connection whose client has read nothing of it, with as small buffers as there are."""
    body = json.dumps({"prompt": PROMPT, "max_tokens": num_tokens, "stream": True, "ignore_eos": True}).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(connection, ("127.0.0.1", gateway.port))
        await loop.sock_sendall(connection, head.encode() + b"\r\n\r\n" + body)
        yield connection


async def rest_of(connection):
    """Read up to the last event or the end of the connection."""
    found = b""
    async with asyncio.timeout(30):
        while not found.endswith(b"0\r\n\r\n"):
            try:
                data = await asyncio.get_running_loop().sock_recv(connection, 1 << 16)
            except ConnectionError:
                break
            if not data:
                break
            found += data
    return found


async def stream_others(http, gateway, num_tokens=300):
    """Return the longest silence that any of the other clients had between two events."""

    async def silence():
        url, longest_s = f"http://127.0.0.1:{gateway.port}/v1/completions", 0.0
        async with http.post(url, json={"prompt": PROMPT, "max_tokens": num_tokens, "stream": True}) as response:
            at_s = None
            async for line in response.content:
                now_s = time.monotonic()
                if line.startswith(b"data: {"):
                    longest_s, at_s = max(longest_s, now_s - (at_s or now_s)), now_s
        return longest_s

    return max(await asyncio.gather(*(silence() for _ in range(NUM_OTHERS))))


def resident_mib(member):
    return int(Path(f"/proc/{member.pid}/statm").read_text().split()[1]) * 4096 / 2**20


async def job_keys(world):
    return {key async for key in world.client.scan_iter("specd:{*}:job")}


async def new_job(world, known):
    """Return the key of the job that is made next."""
    async with asyncio.timeout(10):
        while not (found := await job_keys(world) - known):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    return found.pop()


@pytest.fixture
async def http():
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)) as http:
        yield http


async def begin(world, http, **constants):
    await world.steady_worker(step_s=0.002, num_slots=NUM_OTHERS + 1, max_model_len=2 * NUM_TOKENS)
    gateway = world.gateway(constants=constants)
    await until(lambda: health(http, gateway), 200)
    return gateway


async def test_one_that_reads_nothing_for_long_gets_everything_and_the_others_do_not_feel_it(world, http):
    gateway = await begin(world, http)
    await stream_others(http, gateway)
    known = await job_keys(world)
    async with asking(gateway) as connection:
        key = await new_job(world, known)
        before_mib = resident_mib(gateway)
        longest_s = await stream_others(http, gateway)
        # The worker has written all of it, though nobody read.
        await until(lambda: world.client.hget(key, "state"), b"done", 30.0)
        grown_mib = resident_mib(gateway) - before_mib
        told = await rest_of(connection)
    events = [json.loads(part) for part in _data(told) if part != b"[DONE]"]
    tokens = [token for event in events for token in event.get("speculation", {"token_ids": []})["token_ids"]]
    assert len(tokens) == NUM_TOKENS
    assert set(writers(PROMPT, tokens)) == {1}
    assert _data(told)[-1] == b"[DONE]"
    # What it was given is held, some 200 KiB of it in the end; the machine may be busy for moments.
    assert grown_mib < 8
    assert longest_s < 1.5


def _data(told):
    return [line.removeprefix(b"data: ").strip() for line in told.split(b"\n") if line.startswith(b"data: ")]


async def test_one_that_has_stopped_reading_for_good_is_dropped_and_its_job_cancelled(world, http):
    gateway = await begin(world, http, **{"service.sse.WRITE_S": 0.5})
    num_before = num_connections(gateway)
    async with asking(gateway) as connection:
        key = await new_job(world, set())
        await until(lambda: world.client.hget(key, "state"), b"cancelled", 30.0)
        # Not only when it reads what is left for it.
        await until_true(lambda: num_connections(gateway) <= num_before)
        assert not (await rest_of(connection)).endswith(b"0\r\n\r\n")


def num_connections(gateway):
    """Connections of clients that a gateway holds open."""
    rows = [row.split() for row in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(row[1].endswith(f":{gateway.port:04X}") and row[3] == "01" for row in rows)
