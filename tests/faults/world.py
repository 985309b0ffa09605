"""A service of real processes, and what a fault test needs to reach its parts."""

import asyncio
import os
import uuid
from collections.abc import Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
from redis.asyncio import Redis

from client.wire import WORKERS_KEY, Job
from core.queue_settings import QueueSettings
from core.types import Sampling
from service.main import free_port
from service.queue import JobQueue
from service.storage.connect import connect
from tests.faults.history import Clients, Reading, violations
from tests.faults.nursery import Birth
from tests.faults.processes import Member, Nursery
from tests.service.fakes import until

LEASE_MS = 800
# Where no worker is to be succeeded: one that a busy machine kept waiting is not taken for dead.
LONG_LEASE_MS = 5000
LEASE_S = LEASE_MS / 1000


def new_jobs(num_jobs: int, model: str = "fake", max_tokens: int = 30) -> list[Job]:
    """Return jobs of different prompts."""
    return [
        Job(
            uuid.uuid4().hex,
            model,
            tuple(2 + byte % 250 for byte in os.urandom(8)),
            Sampling(max_tokens=max_tokens),
            nonce=os.urandom(16),
            created_ms=1,
        )
        for _ in range(num_jobs)
    ]


@dataclass
class World:
    """Starts members on the Redis at `url` and ends them."""

    nursery: Nursery
    client: Redis
    url: str
    folder: Path
    tokenizer: Path
    lease_ms: int = LEASE_MS
    members: list[Member] = field(default_factory=list)
    plant: str = ""
    queue_settings: dict[str, object] = field(default_factory=dict)

    def start(self, role: str, model: str, url: str | None, **fields: object) -> Member:
        folder = self.folder / f"{role}-{len(self.members)}"
        folder.mkdir()
        queue = {"redis_url": url or self.url, "lease_ms": self.lease_ms, "command_timeout_s": 1.0}
        queue |= self.queue_settings
        member = Member(self.nursery, Birth(role, str(folder), str(self.tokenizer), model, queue, **fields))
        self.members.append(member)
        return member

    def worker(self, model: str = "fake", url: str | None = None, **fields: object) -> Member:
        return self.start("worker", model, url, **fields)

    def gateway(self, model: str = "fake", url: str | None = None, **fields: object) -> Member:
        return self.start("gateway", model, url, port=free_port("127.0.0.1"), **fields)

    async def steady_worker(self, **fields: object) -> Member:
        """Start a worker with a long lease, and wait until gateways know of it."""
        self.lease_ms = LONG_LEASE_MS
        worker = self.worker(**fields)
        await until(lambda: self.client.scard(WORKERS_KEY), 1)
        return worker

    async def queue(self, model: str = "fake") -> JobQueue:
        queue = JobQueue(self.client, QueueSettings(redis_url=self.url, lease_ms=self.lease_ms), model)
        await queue.open()
        return queue

    async def submit(self, jobs: Sequence[Job]) -> None:
        queue = await self.queue(jobs[0].model)
        for job in jobs:
            await queue.submit(job)

    async def until_ended(self, jobs: Sequence[Job], clients: Clients, timeout_s: float = 60.0) -> None:
        async with asyncio.timeout(timeout_s):
            while not all(clients.has_ended(job.id) for job in jobs):  # noqa: ASYNC110
                await asyncio.sleep(0.02)

    async def judge(
        self, jobs: Sequence[Job], clients: Clients, timeout_s: float = 60.0, read: Reading | None = None
    ) -> list[str]:
        """Wait for all ends, and for what follows them, then return every violation."""
        await self.until_ended(jobs, clients, timeout_s)
        # The last entries are acknowledged after the end that clients see, by an heir after another lease.
        queue = await self.queue(jobs[0].model)
        for _ in range(int(20 * (3 * self.lease_ms / 1000 + 2))):
            if await queue.depth() == 0:
                break
            await asyncio.sleep(0.05)
        return await violations(self.client, jobs, clients, read)

    async def end(self) -> None:
        """Kill all that live, and wait until they are gone: whoever is still there takes what others queue next."""
        for member in self.members:
            member.kill()
        for member in self.members:
            await member.ended()

    def hits(self, member: Member, point: str) -> int:
        return member.hits.count(point)


@asynccontextmanager
async def world_on(url: str, nursery: Nursery, folder: Path, tokenizer: Path):
    """A world for as long as the context lasts; nothing of it stays alive."""
    client = connect(url, 2.0)
    world = World(nursery, client, url, folder, tokenizer)
    try:
        yield world
    finally:
        await world.end()
        await client.aclose()


async def health(http: aiohttp.ClientSession, gateway: Member) -> int:
    """Return the status of a gateway's /health, 0 where nobody listens."""
    try:
        async with http.get(f"http://127.0.0.1:{gateway.port}/health") as response:
            return response.status
    except aiohttp.ClientError:
        return 0
