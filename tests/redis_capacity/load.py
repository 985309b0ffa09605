"""One side of the load, in a process of its own: simulated workers, or the gateway that makes and reads their jobs.

Workers do with the queue what service/worker.py does, less the engine: read, claim, append every step, finish, keep
their claims and their entry among the live ones, look at what waits. The gateway does what one does for answers that
are streamed, less HTTP: it looks at the queue for admission, holds answers, submits, and reads all streams as one.
"""

import asyncio
import contextlib
import os
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from msgspec import Struct

from client.wire import WORKER_GROUP, Chunk, Final, Job, Usage, queue_stream
from core.queue_settings import QueueSettings
from core.types import FinishReason, Sampling
from service.presence import Presence
from service.process import cancel_all
from service.queue import JobQueue
from service.storage.claims import Append, Claim, Ending
from service.storage.connect import client_of
from service.storage.priority_streams import ids_by_priority
from service.storage.reader import BLOCK_MS, StreamReader
from service.tasks import is_cancelled
from service.upkeep.open_answers import OpenAnswers

MODEL = "capacity"
PROMPT_LEN, TOKENS_PER_STEP = 200, 3
# More than run, so that a slot never waits for its next job.
IN_FLIGHT = 1.25
# About what a worker tells of itself once a second, in bytes.
STATS_BYTES = 4096
BACKLOG_S, SCAN_S = 0.25, 0.1
Part = Coroutine[Any, Any, None]
READY_KEY, WINDOW_KEY = "bench:ready", "bench:window"


class Window(Struct, frozen=True):
    """What counts, by the monotonic clock that all processes share."""

    begin_s: float
    end_s: float

    @property
    def is_open(self) -> bool:
        """Whether what is done now counts."""
        return self.begin_s <= time.monotonic() < self.end_s


class Side(Struct, frozen=True):
    """What a process is to do.

    role workers or gateway; each of the workers answers `sequences` jobs at once, a step every step_s
    """

    role: str
    url: str
    workers: int
    sequences: int
    step_s: float
    answer_len: int
    output: str


class Counts(Struct):
    """What was done within the time that counts; lag_s from a step's end to each of its chunks in the gateway."""

    steps: int = 0
    chunks: int = 0
    tokens: int = 0
    jobs: int = 0
    cpu_s: float = 0.0
    lag_s: list[float] = []


class SimulatedWorker:
    """One consumer of the queue, whose steps take the same time whatever is in them."""

    def __init__(self, queue: JobQueue, name: str, side: Side, window: Window, counts: Counts) -> None:
        self._queue, self._name, self._side, self._window, self._counts = queue, name, side, window, counts
        # With how many tokens each has, and is to have.
        self._open: list[tuple[Claim, int, int]] = []
        self._num_claimed = 0

    def parts(self) -> list[Part]:
        """Return what goes on at the same time, each until cancelled."""
        presence = Presence(self._queue, self._name, 4096, lambda: bytes(STATS_BYTES))
        beat_s = self._queue.settings.lease_ms / 3000
        return [presence.keep(), repeat(BACKLOG_S, self._look), repeat(beat_s, self._beat), self._step_forever()]

    async def _step_forever(self) -> None:
        next_s = time.monotonic()
        while not is_cancelled():
            next_s = max(next_s + self._side.step_s, time.monotonic())
            await self._fill()
            await asyncio.sleep(next_s - time.monotonic())
            await self._step()

    async def _fill(self) -> None:
        free = self._side.sequences - len(self._open)
        if free:
            for entry in await self._queue.read(self._name, free, 1):
                if (claim := await self._queue.claim(entry, self._name)) is not None:
                    self._num_claimed += 1
                    # The first ones end one after the other, as if they had begun long ago.
                    share = min(1.0, self._num_claimed / self._side.sequences)
                    self._open.append((claim, 0, max(1, round(share * self._side.answer_len))))

    async def _step(self) -> None:
        """Write one step's tokens, and the ends of those that have all of theirs."""
        # Its time stands in the text, so that whoever reads it knows how old it is.
        text = (f"{time.monotonic():.6f}", *[""] * (TOKENS_PER_STEP - 1))
        chunk = Chunk(tuple(range(1000, 1000 + TOKENS_PER_STEP)), text, 2, 2)
        await self._queue.append([Append(claim.job.id, claim.epoch, count, chunk) for claim, count, _ in self._open])
        self._open = [(claim, count + TOKENS_PER_STEP, total) for claim, count, total in self._open]
        ended = [(claim, count) for claim, count, total in self._open if count >= total]
        if ended:
            finals = [Final(FinishReason.LENGTH, Usage(PROMPT_LEN, count)) for _, count in ended]
            await self._queue.finish(
                [
                    Ending(claim.job.id, claim.epoch, final, claim.entry)
                    for (claim, _), final in zip(ended, finals, strict=True)
                ]
            )
        if self._window.is_open:
            self._counts.steps += bool(self._open)
            self._counts.chunks += len(self._open)
            self._counts.tokens += TOKENS_PER_STEP * len(self._open)
            self._counts.jobs += len(ended)
        self._open = [one for one in self._open if one[1] < one[2]]

    async def _look(self) -> None:
        await self._queue.backlog()

    async def _beat(self) -> None:
        # As service/heartbeat.py does, but for its thread.
        for priority, ids in ids_by_priority(claim.entry for claim, *_ in self._open).items():
            stream, client = queue_stream(MODEL, priority), self._queue.client
            await client.xclaim(stream, WORKER_GROUP, self._name, 0, ids, justid=True)  # type: ignore[arg-type]


class SimulatedGateway:
    """As many clients as keep the workers busy, each with one job at a time."""

    def __init__(self, queue: JobQueue, reader: StreamReader, side: Side, window: Window, counts: Counts) -> None:
        self._queue, self._reader, self._side, self._window, self._counts = queue, reader, side, window, counts
        self._answers = OpenAnswers(queue)

    def parts(self) -> list[Part]:
        """Return what goes on at the same time, each until cancelled."""
        num_clients = int(np.ceil(IN_FLIGHT * self._side.workers * self._side.sequences))
        clients = [self._ask_forever() for _ in range(num_clients)]
        return [self._reader.run(), self._answers.keep(), repeat(SCAN_S, self._scan), *clients]

    async def _ask_forever(self) -> None:
        while not is_cancelled():
            job = new_job(self._side.answer_len)
            with self._answers.held([job.id]) as held_in:
                async with self._reader.follow([job], lambda *_: None) as events:
                    await self._queue.submit(job, held_in)
                    while not isinstance(event := (await events.get())[1], Final):
                        if self._window.is_open:
                            self._counts.chunks += 1
                            self._counts.lag_s.append(time.monotonic() - float(event.pieces[0]))
                    self._counts.jobs += self._window.is_open

    async def _scan(self) -> None:
        await self._queue.look()


def new_job(answer_len: int, prompt_len: int = PROMPT_LEN) -> Job:
    """Return a job of the usual size."""
    prompt_ids = tuple(range(1000, 1000 + prompt_len))
    sampling = Sampling(max_tokens=max(1, answer_len))
    return Job(os.urandom(16).hex(), MODEL, prompt_ids, sampling, os.urandom(16), time.time_ns() // 1_000_000)


async def repeat(every_s: float, act: Callable[[], Awaitable[None]]) -> None:
    """Do something so often, until cancelled."""
    while not is_cancelled():
        await act()
        await asyncio.sleep(every_s)


async def play(side: Side) -> Counts:
    """Do one side until its time is over; return what counts."""
    settings = QueueSettings(redis_url=side.url)
    async with contextlib.AsyncExitStack() as stack:
        num_clients = side.workers if side.role == "workers" else 1
        queues = []
        for _ in range(num_clients):
            client = await stack.enter_async_context(client_of(settings))
            queues.append(JobQueue(client, settings, MODEL))
            await queues[-1].open()
        reading = await stack.enter_async_context(client_of(settings, BLOCK_MS / 1000))
        window, counts = await until_told(queues[0], side.role), Counts()
        if side.role == "workers":
            parts = [
                part
                for number, queue in enumerate(queues)
                for part in SimulatedWorker(queue, f"worker-{number}", side, window, counts).parts()
            ]
        else:
            reader = StreamReader(reading, queues[0].client)
            parts = SimulatedGateway(queues[0], reader, side, window, counts).parts()
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(part) for part in parts]
            await asyncio.sleep(window.begin_s - time.monotonic())
            began_s = time.process_time()
            await asyncio.sleep(window.end_s - time.monotonic())
            counts.cpu_s = time.process_time() - began_s
            await cancel_all(tasks)
    return counts


async def until_told(queue: JobQueue, role: str) -> Window:
    """Say that this side is there; return what counts, once it is known."""
    await queue.client.sadd(READY_KEY, role)
    while (told := await queue.client.get(WINDOW_KEY)) is None:  # noqa: ASYNC110 - told through Redis
        await asyncio.sleep(0.02)
    return msgspec.json.decode(told, type=Window)


if __name__ == "__main__":
    wanted = msgspec.json.decode(sys.argv[1], type=Side)
    Path(wanted.output).write_bytes(msgspec.json.encode(asyncio.run(play(wanted))))
