"""The worker process: an asyncio continuous-batching loop around an engine that steps in one dedicated thread.

Intake claims jobs up to the engine's free slots, the loop awaits each step and hands its emissions to the stream
writer, the heartbeat keeps the claims. No request can end the loop: what the engine refuses ends that job alone.
"""

import asyncio
import contextlib
import os
import socket
import time
import uuid
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import structlog
from redis.exceptions import RedisError

from client.wire import WORKERS_KEY, Job, WireError, worker_key
from core.config import Settings, model_name
from core.errors import QueueError, RequestError
from core.random import derive_nonce
from core.types import Emission, FinishReason, Request
from engine.build import build_engine
from models.folders import target_folder
from models.tokenizer import Tokenizer
from service.heartbeat import Heartbeat
from service.process import run_process
from service.queue import Claim, Entry, JobQueue, connect
from service.stream import StreamWriter

log = structlog.get_logger()

READ_BLOCK_MS = 500
IDLE_S = 0.02
DRAIN_S = 5.0
RETRY_S = 0.5


class SteppedEngine(Protocol):
    """What the worker needs of an engine; every call is made in the engine's one thread."""

    max_model_len: int

    @property
    def has_work(self) -> bool:
        """Tell whether a step would do anything."""
        ...

    @property
    def num_free_slots(self) -> int:
        """Requests that could be admitted beside those here."""
        ...

    def add(self, request: Request) -> None:
        """Take a request in."""
        ...

    def abort(self, request_id: str) -> None:
        """Drop a request."""
        ...

    def step(self) -> list[Emission]:
        """Advance all requests by one round."""
        ...


class Worker:
    """One engine as a consumer of the queue."""

    def __init__(self, engine: SteppedEngine, tokenizer: Tokenizer, queue: JobQueue, heartbeat: Heartbeat) -> None:
        self.name = heartbeat.worker
        self._engine, self._queue, self._heartbeat = engine, queue, heartbeat
        self._writer = StreamWriter(queue, tokenizer, self._abort)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="engine")
        self._calls: deque[Callable[[], None]] = deque()
        self._refused: deque[tuple[str, WireError]] = deque()
        self._wake = asyncio.Event()
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """Claim nothing more, finish what runs if it ends soon, then return from `run`."""
        self._stopping.set()
        self._wake.set()

    async def run(self) -> None:
        """Serve until `stop`."""
        self._heartbeat.start()
        try:
            async with asyncio.TaskGroup() as group:
                background = [
                    group.create_task(task)
                    for task in (self._intake(), self._writer.run(), self._register(), self._step_forever())
                ]
                await self._stopping.wait()
                await self._drain()
                for task in background:
                    task.cancel()
        finally:
            self._heartbeat.stop()
            self._thread.shutdown()
            with contextlib.suppress(RedisError, OSError):
                await self._queue.client.delete(worker_key(self.name))

    async def _drain(self) -> None:
        deadline = time.monotonic() + DRAIN_S
        while self._writer.num_open and time.monotonic() < deadline:
            await asyncio.sleep(IDLE_S)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._writer.drain(), 1.0)

    # --- Jobs in -----------------------------------------------------------------------------------------------

    async def _intake(self) -> None:
        """Claim new and abandoned jobs, never more than there are free slots."""
        next_reclaim = 0.0
        while not self._stopping.is_set():
            free = self._engine.num_free_slots - len(self._calls)
            if free <= 0:
                await asyncio.sleep(IDLE_S)
                continue
            try:
                if time.monotonic() >= next_reclaim:
                    next_reclaim = time.monotonic() + self._queue.settings.lease_ms / 5000
                    await self._take(await self._queue.reclaim(self.name, free))
                else:
                    await self._take(await self._queue.read(self.name, free, READ_BLOCK_MS))
            except (RedisError, OSError, QueueError) as error:
                log.warning("intake_failed", error=str(error))
                await asyncio.sleep(RETRY_S)

    async def _take(self, entries: list[Entry]) -> None:
        for entry in entries:
            claim = await self._queue.claim(entry, self.name)
            if claim is None:
                continue
            log.debug("job_claimed", job_id=entry.job_id, epoch=claim.epoch, streamed=len(claim.streamed))
            self._writer.open(claim)
            self._heartbeat.hold(self._writer.entries)
            finished = claim.streamed[-1].reason if claim.streamed else None
            if claim.is_cancelled or finished:
                await self._writer.end(entry.job_id, finished or FinishReason.CANCELLED)
            else:
                self._call(lambda request=to_request(claim): self._add(request))

    def _add(self, request: Request) -> None:
        """Run in the engine's thread."""
        try:
            self._engine.add(request)
        except RequestError as error:
            self._refused.append((request.id, WireError(error.message, error.status, error.code, error.param)))

    def _abort(self, job_id: str) -> None:
        self._call(lambda: self._engine.abort(job_id))

    def _call(self, call: Callable[[], None]) -> None:
        self._calls.append(call)
        self._wake.set()

    # --- Steps -------------------------------------------------------------------------------------------------

    async def _step_forever(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            if not (self._calls or self._engine.has_work):
                self._heartbeat.progress()
                self._wake.clear()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), 1.0)
                continue
            try:
                emissions = await loop.run_in_executor(self._thread, self._advance)
            except Exception as error:  # noqa: BLE001 - the border to the engine: the loop must outlive a broken step
                await self._step_failed(error)
                continue
            self._heartbeat.progress()
            await self._writer.put(emissions)
            while self._refused:
                job_id, refusal = self._refused.popleft()
                await self._writer.end(job_id, FinishReason.ERROR, refusal)
            self._heartbeat.hold(self._writer.entries)

    def _advance(self) -> list[Emission]:
        """Run in the engine's thread: what was asked since the last step, then a step."""
        while self._calls:
            self._calls.popleft()()
        return self._engine.step() if self._engine.has_work else []

    async def _step_failed(self, error: Exception) -> None:
        """End every running job: which of them broke the step is not known."""
        log.error("step_failed", error=repr(error), exc_info=error)
        await self._writer.drain()
        for job_id in self._writer.job_ids:
            self._abort(job_id)
            await self._writer.end(job_id, FinishReason.ERROR, WireError("the step that ran this request failed"))

    # --- Presence ----------------------------------------------------------------------------------------------

    async def _register(self) -> None:
        """Say, while alive, what this worker serves; a worker that falls silent is forgotten after a lease."""
        key, lease_ms = worker_key(self.name), self._queue.settings.lease_ms
        facts = {"model": self._queue.model, "max_model_len": self._engine.max_model_len}
        while True:
            try:
                async with self._queue.client.pipeline(transaction=False) as pipe:
                    pipe.hset(key, mapping=facts)  # type: ignore[arg-type]
                    pipe.pexpire(key, lease_ms)
                    pipe.sadd(WORKERS_KEY, self.name)
                    await pipe.execute()
            except (RedisError, OSError) as error:
                log.warning("register_failed", error=str(error))
            await asyncio.sleep(lease_ms / 3000)


def to_request(claim: Claim) -> Request:
    """Return what the engine runs for a claim: the epoch keys fresh draws, streamed tokens are gone on from."""
    job: Job = claim.job
    return Request(
        id=job.id,
        prompt_ids=job.prompt_ids,
        sampling=job.sampling,
        nonce=derive_nonce(job.nonce, job.n_index, claim.epoch),
        output_ids=tuple(token for chunk in claim.streamed for token in chunk.token_ids),
        n_index=job.n_index,
        cache_salt=job.cache_salt,
        speculation=job.speculation,
        priority=job.priority,
    )


def run(settings: Settings) -> int:
    """Run a worker until SIGINT or SIGTERM; returns the exit status. Raises what loading the model raises."""
    return run_process(settings, serve_queue)


async def serve_queue(settings: Settings, stop: asyncio.Event) -> None:
    """Load the model and work off the queue until `stop` is set."""
    await work(settings, stop, build_engine(settings), Tokenizer(target_folder(settings.engine.target)))


async def work(settings: Settings, stop: asyncio.Event, engine: SteppedEngine, tokenizer: Tokenizer) -> None:
    """Work off the queue with `engine` until `stop` is set. Raises QueueError without Redis."""
    url = settings.queue.redis_url
    assert url is not None
    client = connect(url, settings.queue.command_timeout_s)
    queue = JobQueue(client, settings.queue, model_name(settings))
    await queue.open()
    name = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    worker = Worker(engine, tokenizer, queue, Heartbeat(url, settings.queue, queue.model, name))
    log.info("worker_ready", worker=name, model=queue.model, max_model_len=engine.max_model_len)
    async with asyncio.TaskGroup() as group:
        running = group.create_task(worker.run())
        stopping = group.create_task(_stop_on(stop, worker))
        await running
        stopping.cancel()
    await client.aclose()


async def _stop_on(stop: asyncio.Event, worker: Worker) -> None:
    await stop.wait()
    worker.stop()
