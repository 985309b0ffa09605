"""A storm: jobs under a steady load while workers are killed and frozen and Redis is killed, at random moments.

Load and faults follow the jobs' progress, not the clock: a slow machine has a long storm, not a starved one.
"""

import asyncio
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from msgspec import Struct
from redis.exceptions import RedisError

from client.wire import Job, job_key
from tests.faults.history import Clients, Reading, following
from tests.faults.processes import Member
from tests.faults.recovery import Blow
from tests.faults.redis_process import RedisProcess
from tests.faults.world import World

# How far a fault may be from the end of a job that it follows.
MOST_PAUSE_S = 0.3
# So many of the workers that are born after a kill are killed as well, in the moment in which they load.
NEWBORN_SHARE = 0.15
NEWBORN_S = 0.5
# A frozen worker wakes after so many leases.
FROZEN_LEASES = 1.5


class Scale(Struct, frozen=True):
    """How much happens: jobs in all and at once, workers always alive, kills of workers and of Redis, freezes."""

    num_jobs: int
    num_kills: int
    num_redis_kills: int = 0
    num_freezes: int = 0
    num_workers: int = 4
    num_at_once: int = 12
    limit_s: float = 120.0


@dataclass
class Storm:
    """One run over a world; blows are the faults as they fell, violations what the judge found."""

    world: World
    redis: RedisProcess | None
    scale: Scale
    jobs: Sequence[Job]
    read: Reading
    birth: dict[str, object]
    rng: random.Random = field(default_factory=lambda: random.Random(1))
    living: list[Member] = field(default_factory=list)
    blows: list[Blow] = field(default_factory=list)

    async def run(self) -> tuple[list[str], Clients]:
        """Return what is wrong with the histories, and what clients saw."""
        self.living += [self._born() for _ in range(self.scale.num_workers)]
        async with following(self.world.url, []) as clients:
            self.clients = clients
            async with asyncio.timeout(self.scale.limit_s), asyncio.TaskGroup() as group:
                group.create_task(self._keep_busy())
                group.create_task(self._kill_workers())
                group.create_task(self._freeze_workers())
                group.create_task(self._kill_redis())
            found = await self.world.judge(self.jobs, clients, self.scale.limit_s, self.read)
        return found, clients

    def _born(self) -> Member:
        return self.world.worker(**self.birth)

    async def _keep_busy(self) -> None:
        """Submit jobs so that always as many are under way."""
        for job in self.jobs:
            while len(self.clients.waiting) >= self.scale.num_at_once:  # noqa: ASYNC110 - ends come from many places
                await asyncio.sleep(0.02)
            self.clients.follow(job)
            await submit_surely(self.world, job)

    async def _moments(self, count: int):
        """Yield as many times, at random moments of the run's progress."""
        num_jobs = self.scale.num_jobs
        for after in sorted(self.rng.uniform(0.02, 0.9) * num_jobs for _ in range(count)):
            while len(self.clients.logs) - len(self.clients.waiting) < after:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            await asyncio.sleep(self.rng.uniform(0.0, MOST_PAUSE_S))
            yield

    async def _kill_workers(self) -> None:
        num_newborn = int(NEWBORN_SHARE * self.scale.num_kills)
        num_others = self.scale.num_kills - num_newborn
        followed = set(self.rng.sample(range(num_others), num_newborn))
        number = 0
        async for _ in self._moments(num_others):
            newborn = await self._kill(self.rng.choice(self.living))
            if number in followed:
                await asyncio.sleep(self.rng.uniform(0.0, NEWBORN_S))
                await self._kill(newborn)
            number += 1

    async def _kill(self, victim: Member) -> Member:
        """Kill a worker and put a new one in its place; returns that."""
        self.living.remove(victim)
        at_s = time.monotonic()
        victim.kill()
        newborn = self._born()
        self.living.append(newborn)
        self.blows.append(Blow("kill", at_s, await self._held_by(victim), has_loaded(victim)))
        return newborn

    async def _freeze_workers(self) -> None:
        """Freeze workers for longer than a lease, so that they wake as zombies."""
        async for _ in self._moments(self.scale.num_freezes):
            # One that holds nothing would lose nothing.
            busy = [one for one in list(self.living) if await self._held_by(one)]
            zombie = self.rng.choice(busy or self.living)
            at_s = time.monotonic()
            zombie.freeze()
            self.blows.append(Blow("freeze", at_s, await self._held_by(zombie)))
            await asyncio.sleep(FROZEN_LEASES * self.world.lease_ms / 1000)
            zombie.thaw()

    async def _kill_redis(self) -> None:
        async for _ in self._moments(self.scale.num_redis_kills):
            assert self.redis is not None
            at_s = time.monotonic()
            await self.redis.kill_and_restart()
            self.blows.append(Blow("redis", at_s, await self._held_by(None)))

    async def _held_by(self, holder: Member | None) -> dict[str, int]:
        """Return the jobs that one worker runs, or any, and how many tokens their streams have."""
        job_ids = sorted(self.clients.waiting)
        while True:
            try:
                async with self.world.client.pipeline(transaction=False) as pipe:
                    for job_id in job_ids:
                        pipe.hmget(job_key(job_id), "state", "owner", "n")
                    rows = await pipe.execute()
                break
            except (RedisError, OSError):
                await asyncio.sleep(0.02)
        return {
            job_id: int(count)
            for job_id, (state, owner, count) in zip(job_ids, rows, strict=True)
            if state == b"running" and (holder is None or pid_of(owner.decode()) == holder.pid)
        }


def pid_of(worker: str) -> int:
    """Return the process id that a worker's name tells."""
    return int(worker.rsplit("-", 2)[1])


def has_loaded(worker: Member) -> bool:
    """Tell whether a worker has come as far as to serve."""
    return "worker_ready" in worker.log


async def submit_surely(world: World, job: Job) -> None:
    """Submit as a client that repeats itself: a job is created once however often it is submitted."""
    while True:
        try:
            return await world.submit([job])
        except Exception:
            await asyncio.sleep(0.1)
