"""Bar R11: a mixed load of readers, leavers and cancellers for minutes, while workers die; nothing may grow.

One worker lives through all of it, for a process that is killed shows no growth; beside it one after the other dies.
The gateway is forked from a process that knows torch, as workers are, so its memory looks larger than it is; what is
asked is whether it grows.
"""

import asyncio
import time
from dataclasses import dataclass, field

import aiohttp
from msgspec import Struct

from service.queue import FORGOTTEN_S
from tests.faults.demo_pair import MODEL
from tests.faults.footprint import Sample, Trend, process_footprint, redis_footprint, trends, worker_footprint
from tests.faults.mixed_load import MixedLoad
from tests.faults.processes import Member
from tests.faults.world import World, health
from tests.service.fakes import until

NUM_CLIENTS = 8
KILL_EVERY_S = 20.0
# At least so many looks, however short the run.
LEAST_SAMPLES, SAMPLE_EVERY_S = 50, 5.0
START_S = 120.0
# How long answers are kept in this run: keys are to go while somebody looks.
RESULT_TTL_S = 10


class Outcome(Struct, frozen=True):
    """What a run showed; leftover are keys that stayed, wrong is what clients saw and should not have."""

    minutes: float
    num_kills: int
    requests: dict[str, int]
    wrong: list[str]
    leftover: list[str]
    queue_len: int
    trends: dict[str, Trend]
    samples: list[Sample]

    @property
    def has_passed(self) -> bool:
        """Tell whether all was right, everything flat, and Redis as before."""
        return not (self.wrong or self.leftover or self.queue_len) and all(one.is_flat for one in self.trends.values())


@dataclass
class Endurance:
    """One run; birth is what workers and the gateway are born with."""

    world: World
    birth: dict[str, object]
    minutes: float
    seed: int = 1
    samples: list[Sample] = field(default_factory=list)
    num_kills: int = 0

    async def run(self) -> Outcome:
        """Serve for so long and return what it came to."""
        self.gateway = self.world.gateway(**self.birth)
        self.steady, mortal = self.world.worker(**self.birth), self.world.worker(**self.birth)
        async with aiohttp.ClientSession() as http:
            await until(lambda: health(http, self.gateway), 200, START_S)
        before = await self._keys()
        load = MixedLoad(f"http://127.0.0.1:{self.gateway.port}", NUM_CLIENTS, self.seed)
        tasks = [asyncio.create_task(work) for work in (load.run(), self._kill(mortal), self._watch())]
        await asyncio.wait(tasks, timeout=60 * self.minutes, return_when=asyncio.FIRST_COMPLETED)
        load.stop()
        await asyncio.wait(tasks[:1], timeout=START_S)
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        wrong = load.wrong + [repr(one) for one in ended if isinstance(one, Exception)]
        wrong += [f"{one} has died" for one in ("gateway", "steady") if getattr(self, one).status is not None]
        leftover = await self._leftover(before)
        queue = await self.world.queue(MODEL)
        return Outcome(
            self.minutes,
            self.num_kills,
            dict(load.ended),
            wrong[:100],
            leftover[:100],
            await queue.depth(),
            trends(self.samples),
            self.samples,
        )

    async def _kill(self, mortal: Member) -> None:
        while True:
            await asyncio.sleep(KILL_EVERY_S)
            mortal.kill()
            self.num_kills += 1
            mortal = self.world.worker(**self.birth)

    async def _watch(self) -> None:
        begun_s = time.monotonic()
        every_s = min(SAMPLE_EVERY_S, 60 * self.minutes / LEAST_SAMPLES)
        while True:
            values = process_footprint("gateway", self.gateway.pid) | worker_footprint(self.steady.pid)
            values |= await redis_footprint(self.world.client, MODEL)
            self.samples.append(Sample(time.monotonic() - begun_s, values))
            await asyncio.sleep(every_s)

    async def _keys(self) -> set[str]:
        """Return Redis's keys but those of workers, which come and go with them."""
        return {key.decode() async for key in self.world.client.scan_iter() if not key.startswith(b"specd:w:")}

    async def _leftover(self, before: set[str]) -> list[str]:
        """Wait for as long as anything is kept; return keys that were not there before, and are."""
        deadline = time.monotonic() + FORGOTTEN_S + RESULT_TTL_S + 10 * self.world.lease_ms / 1000
        while (left := await self._keys() - before) and time.monotonic() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(1.0)
        return sorted(left)
