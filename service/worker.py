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

import structlog
from redis.exceptions import RedisError

from client.wire import WORKERS_KEY, WireError, worker_key
from core.config import Settings, model_name
from core.errors import EngineError, QueueError
from core.random import derive_nonce
from core.types import FinishReason, Request
from engine.build import build_engine
from models.folders import target_folder
from models.tokenizer import Tokenizer
from service.claims import Claim, Entry
from service.engine_thread import EngineThread, SteppedEngine
from service.heartbeat import Heartbeat
from service.process import cancel_all, run_process
from service.queue import JobQueue, connect
from service.stream import End, StreamWriter
from service.tasks import is_cancelled

log = structlog.get_logger()

READ_BLOCK_MS = 500
IDLE_S = 0.02
# How long a worker that was asked to stop goes on with what runs; the rest is given back to the queue.
DRAIN_S = 5.0
WRITE_OUT_S = 1.0
RETRY_S = 0.5
# A job that was claimed this often without a single token is what ends its workers.
MAX_ATTEMPTS = 3


class Worker:
    """One engine as a consumer of the queue."""

    def __init__(self, engine: SteppedEngine, tokenizer: Tokenizer, queue: JobQueue, heartbeat: Heartbeat) -> None:
        self.name = heartbeat.worker
        self._queue, self._heartbeat = queue, heartbeat
        self._engine = EngineThread(engine)
        self._writer = StreamWriter(queue, tokenizer, self._engine.abort, heartbeat.hold)
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """Claim nothing more, finish what runs if it ends soon, give the rest back, then return from `run`."""
        self._stopping.set()

    async def run(self) -> None:
        """Serve until `stop`; raises EngineError if the engine is past use."""
        self._heartbeat.start()
        try:
            async with asyncio.TaskGroup() as group:
                intake = group.create_task(self._intake())
                work = (self._writer.run(), self._register(), self._step_forever())
                others = [group.create_task(task) for task in work]
                await self._stopping.wait()
                await intake
                await self._drain()
                await cancel_all(others)
        finally:
            self._heartbeat.stop()
            self._engine.close()
            await self._leave()

    async def _drain(self) -> None:
        deadline = time.monotonic() + DRAIN_S
        while self._writer.num_open and time.monotonic() < deadline:  # noqa: ASYNC110 - jobs end in many places
            await asyncio.sleep(IDLE_S)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(WRITE_OUT_S):
                await self._writer.drain()

    async def _leave(self) -> None:
        """Give unfinished jobs back, so that others need not wait for the lease, and sign off."""
        try:
            await self._queue.release(self.name, self._writer.entries)
            await self._queue.client.delete(worker_key(self.name))
        except (RedisError, OSError) as error:
            log.warning("leave_failed", error=str(error))

    # --- Jobs in -----------------------------------------------------------------------------------------------

    async def _intake(self) -> None:
        """Claim new and abandoned jobs, never more than there are free slots."""
        next_reclaim = 0.0
        while not (self._stopping.is_set() or is_cancelled()):
            free = self._engine.num_slots - self._writer.num_open
            if free <= 0 or self._heartbeat.is_stalled:
                await asyncio.sleep(IDLE_S)
                continue
            try:
                if time.monotonic() >= next_reclaim:
                    next_reclaim = time.monotonic() + self._queue.settings.lease_ms / 5000
                    await self._take(await self._queue.reclaim(self.name, free))
                else:
                    await self._take(await self._queue.read(self.name, free, READ_BLOCK_MS))
            except (RedisError, OSError) as error:
                log.warning("intake_failed", error=str(error))
                await asyncio.sleep(RETRY_S)
                await self._heal(error)

    async def _heal(self, error: Exception) -> None:
        """Make the group again if it is what was missing: Redis was emptied."""
        if "NOGROUP" in str(error):
            with contextlib.suppress(RedisError, OSError):
                await self._queue.make_group()

    async def _take(self, entries: list[Entry]) -> None:
        if self._stopping.is_set():
            await self._queue.release(self.name, entries)
            return
        for entry in entries:
            open_entries = {one.job_id: one for one in self._writer.entries}
            if entry.job_id not in open_entries:
                await self._claim(entry)
            elif open_entries[entry.job_id] != entry:
                # A second entry of a job that runs here; claiming it would fence off our own writes.
                await self._queue.acknowledge([entry])

    async def _claim(self, entry: Entry) -> None:
        try:
            claim = await self._queue.claim(entry, self.name)
        except QueueError as error:
            log.warning("job_unreadable", job_id=entry.job_id, error=str(error))
            await self._queue.refuse(entry, WireError("the stored job cannot be read"))
            return
        if claim is None:
            return
        log.debug("job_claimed", job_id=entry.job_id, epoch=claim.epoch, streamed=len(claim.streamed))
        self._writer.open(claim)
        if (end := end_without_work(claim)) is not None:
            await self._writer.put([], [end])
        else:
            self._engine.add(to_request(claim))

    # --- Steps -------------------------------------------------------------------------------------------------

    async def _step_forever(self) -> None:
        while not is_cancelled():
            self._heartbeat.progress()
            if not self._engine.has_work:
                await self._engine.wait_for_work(1.0)
                continue
            try:
                stepped = await self._engine.step()
            except Exception as error:  # noqa: BLE001 - the border to the engine: the loop must outlive a broken step
                await self._step_failed(error)
                continue
            ends = [End(request_id, FinishReason.ERROR, error) for request_id, error in stepped.refused]
            await self._writer.put(stepped.emissions, ends)

    async def _step_failed(self, error: Exception) -> None:
        """End every running job, for which of them broke the step is not known; raises EngineError if none ran."""
        log.error("step_failed", error=repr(error), exc_info=error)
        request_ids = self._writer.request_ids
        if not request_ids:
            raise EngineError(f"the engine fails without any request: {error!r}") from error
        told = WireError("the step that ran this request failed")
        for request_id in request_ids:
            self._engine.abort(request_id)
        await self._writer.put([], [End(request_id, FinishReason.ERROR, told) for request_id in request_ids])
        await self._writer.drain()

    # --- Presence ----------------------------------------------------------------------------------------------

    async def _register(self) -> None:
        """Say, while alive, what this worker serves; a worker that falls silent is forgotten after a lease."""
        key, lease_ms = worker_key(self.name), self._queue.settings.lease_ms
        facts = {"model": self._queue.model, "max_model_len": self._engine.max_model_len}
        while not is_cancelled():
            try:
                async with self._queue.client.pipeline(transaction=False) as pipe:
                    pipe.hset(key, mapping=facts)  # type: ignore[arg-type]
                    pipe.pexpire(key, lease_ms)
                    pipe.sadd(WORKERS_KEY, self.name)
                    await pipe.execute()
            except (RedisError, OSError) as error:
                log.warning("register_failed", error=str(error))
            await asyncio.sleep(lease_ms / 3000)


def end_without_work(claim: Claim) -> End | None:
    """Return the end of a claim that has nothing to generate: it was ended before, is not wanted, or kills workers."""
    if claim.streamed and claim.streamed[-1].reason is not None:
        return End(claim.request_id, claim.streamed[-1].reason)
    if claim.is_cancelled:
        return End(claim.request_id, FinishReason.CANCELLED)
    if claim.attempts > MAX_ATTEMPTS:
        error = WireError(f"given up: {MAX_ATTEMPTS} attempts ended without a token", code="attempts_exhausted")
        return End(claim.request_id, FinishReason.ERROR, error)
    return None


def to_request(claim: Claim) -> Request:
    """Return what the engine runs for a claim: the epoch keys fresh draws, streamed tokens are gone on from."""
    job = claim.job
    return Request(
        id=claim.request_id,
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
    async with connect(url, settings.queue.command_timeout_s) as client:
        queue = JobQueue(client, settings.queue, model_name(settings))
        await queue.open()
        name = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        worker = Worker(engine, tokenizer, queue, Heartbeat(url, settings.queue, queue.model, name))
        log.info("worker_ready", worker=name, model=queue.model, max_model_len=engine.max_model_len)
        async with asyncio.TaskGroup() as group:
            stopping = group.create_task(_stop_on(stop, worker))
            await worker.run()
            stopping.cancel()


async def _stop_on(stop: asyncio.Event, worker: Worker) -> None:
    await stop.wait()
    worker.stop()
