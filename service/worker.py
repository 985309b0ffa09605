"""The worker process: an asyncio continuous-batching loop around an engine that steps in a process of its own.

Intake claims jobs for the engine's free slots, and for those that will be free at once, the loop awaits each step and
hands its emissions to the stream writer, the heartbeat keeps the claims. No request can end the loop: what the engine
refuses ends that job alone.
"""

import asyncio
import contextlib
import os
import socket
import time
import uuid
from contextlib import AsyncExitStack

import structlog
from redis.exceptions import RedisError

from client.wire import WORKER_GROUP, WireError
from core.config import Settings, model_name
from core.errors import EngineError, QueueError, ReplicaLost, SpecdError
from core.processes import die_with_parent
from core.types import FinishReason
from models.folders import target_folder
from models.tokenizer import Tokenizer
from service.drafter_loads import DrafterLoads
from service.engine_process.client import EngineClient, EngineGone
from service.engine_process.start import engine_process
from service.experiments.follower import ExperimentFollower
from service.heartbeat import Heartbeat
from service.presence import Presence
from service.process import cancel_all, run_process
from service.queue import JobQueue
from service.recording.recording import Recorder, open_recorder
from service.storage.claims import Claim, Entry
from service.storage.connect import client_of, redis_url
from service.storage.priority_streams import WAKE
from service.storage.wanted_drafters import WantedDrafters
from service.stream import End, StreamWriter
from service.takeover import end_without_work, to_request
from service.tasks import is_cancelled
from service.telemetry.tracing import Tracing, open_tracing
from service.telemetry.worker_stats import OutputCounts, QueueTimes, WorkCounts, encode_stats
from service.turnover import Turnover
from service.upkeep.group_healing import GroupHealing

log = structlog.get_logger()

READ_BLOCK_MS = 500
# The same while a job is watched that ended another worker: others of its kind wait for its first token.
SUSPECT_BLOCK_MS = 20
IDLE_S = 0.02
# How long a worker that was asked to stop goes on with what runs; the rest is given back to the queue.
DRAIN_S = 5.0
WRITE_OUT_S = 1.0
# How soon a job is ended past its deadline, and one that gets no tokens, such as one in a long prefill, when its client
# has left.
CANCEL_POLL_S = 0.1
# How old what the engine knows of the queue may be; policies look at seconds of waiting.
BACKLOG_S = 0.25
# How soon a worker that Redis has not heard of for a lease lets go of its jobs.
FENCE_S = 0.05
REST_S = 1.0


class Worker:
    """One engine as a consumer of the queue.

    verifier is that of requests without a seed.
    """

    def __init__(
        self,
        engine: EngineClient,
        tokenizer: Tokenizer,
        queue: JobQueue,
        heartbeat: Heartbeat,
        verifier: str = "rejection",
        tracing: Tracing | None = None,
        recorder: Recorder | None = None,
    ) -> None:
        self._recorder = recorder
        self.name, self._verifier = heartbeat.worker, verifier
        self._queue, self._heartbeat = queue, heartbeat
        self._engine = engine
        self._experiments = ExperimentFollower(queue, self.name, engine) if engine.serves_arms else None
        ended = self._experiments.ended if self._experiments else None
        self._writer = StreamWriter(queue, tokenizer, self._engine.abort, heartbeat.hold, tracing, recorder, ended)
        self._stopping = asyncio.Event()
        self._turnover, self._has_backlog = Turnover(engine.num_slots), False
        self._num_reclaimed = self._num_taken_over = 0
        self._queue_times, self._num_dead, self._num_heals = QueueTimes(), 0, 0
        self._healing = GroupHealing(WORKER_GROUP, queue.make_group, self._healed)
        self._next_reclaim = 0.0
        self._drafters = DrafterLoads(WantedDrafters(queue), engine) if engine.loads_drafters else None
        self._presence = Presence(queue, self.name, self._engine.max_model_len, self._stats)

    def stop(self) -> None:
        """Claim nothing more, finish what runs if it ends soon, give the rest back, then return from `run`."""
        self._stopping.set()

    async def run(self) -> None:
        """Serve until `stop`; raises EngineError if the engine is past use."""
        self._heartbeat.start()
        if self._recorder:
            self._recorder.start()
        try:
            if self._drafters:
                await self._drafters.begin()
            async with asyncio.TaskGroup() as group:
                intake = group.create_task(self._intake())
                work = (
                    self._writer.run(),
                    self._presence.keep(),
                    self._end_unwanted(),
                    self._watch_backlog(),
                    self._fence(),
                    self._rest(),
                    self._follow_drafters(),
                    self._follow_experiments(),
                    self._step_forever(),
                )
                others = [group.create_task(task) for task in work]
                await self._stopping.wait()
                await intake
                await self._drain()
                await cancel_all(others)
        finally:
            self._heartbeat.stop()
            await self._engine.close()
            await self._leave()
            if self._recorder:
                await asyncio.to_thread(self._recorder.close)

    async def _drain(self) -> None:
        deadline = time.monotonic() + DRAIN_S
        while self._writer.num_open and time.monotonic() < deadline:  # noqa: ASYNC110 - jobs end in many places
            await asyncio.sleep(IDLE_S)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(WRITE_OUT_S):
                await self._writer.drain()

    async def _leave(self) -> None:
        """Give unfinished jobs back, so that others need not wait for the lease, and sign off."""
        entries = self._writer.entries
        # Whatever ended the engine's process may have been one of them: then this was an attempt.
        spared = () if self._engine.is_gone else self._writer.claims
        try:
            await self._queue.release(self.name, entries, spared)
            await self._queue.wake(len(entries))
            await self._presence.leave()
        except (RedisError, OSError) as error:
            log.warning("leave_failed", error=str(error))

    # --- Jobs in -----------------------------------------------------------------------------------------------

    async def _intake(self) -> None:
        """Claim new and abandoned jobs for the slots that are free; of what waits then, some for those that will be."""
        while not (self._stopping.is_set() or is_cancelled()):
            free = self._engine.num_slots - self._writer.num_running
            wanted = free + (self._turnover.num_ahead if self._has_backlog else 0)
            if wanted <= 0 or self._heartbeat.is_stalled or self._heartbeat.is_cut_off:
                # A slot that stands empty for a step is lost: the next job is claimed as soon as one ends.
                await self._writer.wait_for_end(IDLE_S)
                continue
            try:
                if free > 0 and time.monotonic() >= self._next_reclaim and not self._writer.has_suspect:
                    await self._take_over(await self._queue.reclaim(self.name, free))
                    # What was given back is next, as soon as the suspect has shown its first token.
                    wait_s = 0.0 if self._writer.has_suspect else self._queue.settings.lease_ms / 5000
                    self._next_reclaim = time.monotonic() + wait_s
                else:
                    block_ms = SUSPECT_BLOCK_MS if self._writer.has_suspect else READ_BLOCK_MS
                    # Without a free slot nothing is waited for: what comes now may have one elsewhere at once.
                    entries = await self._queue.read(self.name, wanted, block_ms if free > 0 else None)
                    await self._take(entries)
                    # As many as there was room for: more are likely to wait.
                    self._has_backlog = len(entries) == wanted
                    self._engine.refilled(has_backlog=self._has_backlog)
                self._healing.worked()
            except (RedisError, OSError) as error:
                log.warning("intake_failed", error=str(error))
                await self._healing.after(error)

    def _healed(self) -> None:
        self._num_heals += 1

    async def _take_over(self, entries: list[Entry]) -> None:
        """Take entries that others lost, but only one of a job that may end this worker as well."""
        self._num_reclaimed += len(entries)
        for index, entry in enumerate(entries):
            await self._take([entry])
            if self._writer.has_suspect:
                # Whatever shares its fate would be taken for the culprit too, time and again.
                await self._queue.release(self.name, entries[index + 1 :])
                return

    async def _take(self, entries: list[Entry]) -> None:
        if self._stopping.is_set():
            await self._queue.release(self.name, entries)
            return
        wanted: dict[str, Entry] = {}
        again: list[Entry] = []
        for entry in entries:
            if entry.job_id == WAKE:
                # Somebody left and gave jobs back, which wait to be reclaimed.
                await self._queue.acknowledge([entry])
                self._next_reclaim = 0.0
                continue
            held = next((one for one in self._writer.claims if one.job.id == entry.job_id), None)
            if held is None:
                if entry.job_id in wanted:
                    # A second entry of a job is looked at when it has been claimed by the first.
                    again.append(entry)
                else:
                    wanted[entry.job_id] = entry
            elif held.entry != entry and await self._queue.epoch(entry.job_id) != held.epoch:
                # The job was lost and is back: it is for whoever comes next, our next write to it will be refused.
                await self._queue.release(self.name, [entry])
            elif held.entry != entry:
                # A second entry of a job that runs here; claiming it would fence off our own writes.
                await self._queue.acknowledge([entry])
        fresh = list(wanted.values())
        for entry, claim in zip(fresh, await self._queue.claim_all(fresh, self.name), strict=True):
            if isinstance(claim, QueueError):
                log.warning("job_unreadable", job_id=entry.job_id, error=str(claim))
                await self._queue.refuse(entry, WireError("the stored job cannot be read"))
            elif claim is not None:
                await self._begin(entry, claim)
        if again:
            await self._take(again)

    async def _begin(self, entry: Entry, claim: Claim) -> None:
        if claim.epoch == 1:
            self._queue_times.observe(time.time() - claim.job.created_ms / 1000)
        else:
            self._num_taken_over += 1
        log.debug("job_claimed", job_id=entry.job_id, epoch=claim.epoch, streamed=len(claim.streamed))
        self._writer.open(claim)
        if self._experiments:
            self._experiments.begun(claim)
        if (end := end_without_work(claim, self._queue.settings.max_attempts)) is not None:
            if end.letter:
                self._num_dead += 1
                log.error(
                    "job_given_up", job_id=entry.job_id, attempts=end.letter.attempts, last=end.letter.last_worker
                )
            await self._writer.put([], [end])
        else:
            self._engine.add(to_request(claim, self._verifier))

    async def _end_unwanted(self) -> None:
        """End jobs past their deadline, and cancelled ones that get no tokens: every append tells of the others."""
        while not is_cancelled():
            await asyncio.sleep(CANCEL_POLL_S)
            await self._end(self._writer.overdue(), FinishReason.DEADLINE)
            silent = self._writer.silent_jobs()
            if not silent:
                continue
            try:
                cancelled = await self._queue.are_cancelled(list(silent.values()))
            except (RedisError, OSError) as error:
                log.warning("cancel_poll_failed", error=str(error))
                continue
            ended = [request_id for request_id, is_ended in zip(silent, cancelled, strict=True) if is_ended]
            await self._end(ended, FinishReason.CANCELLED)

    async def _end(self, request_ids: list[str], reason: FinishReason) -> None:
        for request_id in request_ids:
            self._engine.abort(request_id)
        await self._writer.put([], [End(request_id, reason) for request_id in request_ids])

    async def _fence(self) -> None:
        """Let go of every job once Redis has not heard of this worker for a lease: others go on with them."""
        while not is_cancelled():
            await asyncio.sleep(FENCE_S)
            if self._heartbeat.is_cut_off and self._writer.num_open:
                log.error("cut_off", jobs=self._writer.num_open)
                self._writer.let_go()

    async def _follow_drafters(self) -> None:
        """Have the drafters that are wanted."""
        if self._drafters:
            await self._drafters.follow()

    async def _follow_experiments(self) -> None:
        """Serve whichever arm has its turn."""
        if self._experiments:
            await self._experiments.follow()

    async def _watch_backlog(self) -> None:
        """Let the engine know what waits in the queue, where it matters: while it has work."""
        while not is_cancelled():
            await asyncio.sleep(BACKLOG_S)
            if not self._engine.has_work:
                continue
            try:
                self._engine.waiting(await self._queue.backlog())
            except (RedisError, OSError) as error:
                log.warning("backlog_unknown", error=str(error))

    # --- Steps -------------------------------------------------------------------------------------------------

    async def _step_forever(self) -> None:
        while not is_cancelled():
            try:
                stepped = await self._engine.step()
            except SpecdError as error:
                await self._step_failed(error)
                continue
            self._heartbeat.progress()
            ends = [End(request_id, FinishReason.ERROR, error) for request_id, error in stepped.refused]
            self._turnover.ended(sum(one.finish_reason is not None for one in stepped.emissions))
            await self._writer.put(stepped.emissions, ends)

    async def _rest(self) -> None:
        """Let the heartbeat know, while there is nothing to do, that this is why no step ends."""
        while not is_cancelled():
            if not self._engine.has_work:
                self._heartbeat.progress()
            await asyncio.sleep(REST_S)

    async def _step_failed(self, error: SpecdError) -> None:
        """End every running job, for which of them broke the step is not known; raises EngineError if none ran.

        An engine that is gone, or has lost a rank, is the end of this worker, not of its jobs: others go on with them.
        """
        if isinstance(error, ReplicaLost | EngineGone):
            raise error
        log.error("step_failed", error=str(error))
        request_ids = self._writer.request_ids
        if not request_ids:
            raise EngineError(f"the engine fails without any request: {error}") from error
        told = WireError("the step that ran this request failed")
        for request_id in request_ids:
            self._engine.abort(request_id)
        await self._writer.put([], [End(request_id, FinishReason.ERROR, told) for request_id in request_ids])
        await self._writer.drain()

    def _stats(self) -> bytes:
        drafters = self._drafters.states if self._drafters else ()
        output = OutputCounts(self._writer.num_written, self._writer.write_s, self._engine.held_s)
        work = WorkCounts(
            self._num_reclaimed,
            self._num_taken_over,
            self._writer.num_fenced,
            self._heartbeat.age_s,
            self._presence.redis_s,
            self._writer.phases,
        )
        recording = self._recorder.counts if self._recorder else None
        return encode_stats(
            self._engine.snapshot, self._queue_times, drafters, self._num_dead, output, self._num_heals, work, recording
        )


def run(settings: Settings) -> int:
    """Run a worker until SIGINT or SIGTERM; returns the exit status. Raises what loading the model raises."""
    return run_process(settings, serve_queue)


async def serve_queue(settings: Settings, stop: asyncio.Event) -> None:
    """Load the model and work off the queue until `stop` is set."""
    if settings.engine.tensor_parallel > 1:
        # Of torchrun, which would otherwise leave its ranks behind.
        die_with_parent()
    folder = target_folder(settings.engine.target, settings.engine.target_revision)
    async with AsyncExitStack() as stack:
        building = asyncio.create_task(stack.enter_async_context(engine_process(settings)))
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait({building, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if not building.done():
            # Nobody wants it any more.
            await cancel_all([building])
            return
        await work(settings, stop, building.result(), Tokenizer(folder))


async def work(
    settings: Settings,
    stop: asyncio.Event,
    engine: EngineClient,
    tokenizer: Tokenizer,
    tracing: Tracing | None = None,
) -> None:
    """Work off the queue with `engine` until `stop` is set. Raises QueueError without Redis."""
    url = redis_url(settings.queue)
    async with (
        open_tracing(settings.tracing, "worker", tracing) as tracing,
        client_of(settings.queue) as client,
    ):
        queue = JobQueue(client, settings.queue, model_name(settings))
        await queue.open()
        name = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        heartbeat = Heartbeat(url, settings.queue, queue.model, name)
        recorder = open_recorder(settings.recording, name, tokenizer)
        worker = Worker(engine, tokenizer, queue, heartbeat, settings.engine.verifier, tracing, recorder)
        log.info("worker_ready", worker=name, model=queue.model, max_model_len=engine.max_model_len)
        async with asyncio.TaskGroup() as group:
            stopping = group.create_task(_stop_on(stop, worker))
            await worker.run()
            stopping.cancel()


async def _stop_on(stop: asyncio.Event, worker: Worker) -> None:
    await stop.wait()
    worker.stop()
