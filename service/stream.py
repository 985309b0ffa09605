"""The stream writer: what the engine emits becomes text and goes to Redis, one round trip per step.

It is the only place that turns tokens into text, and so the only one that ends an answer at a stop text. It runs beside
the engine's next step; a bounded queue between the two holds the engine back when Redis is slow. Ends that the engine
did not ask for travel through the same queue, so that nothing overtakes the tokens before it.
"""

import asyncio
import contextlib
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import structlog
from msgspec import Struct
from redis.exceptions import RedisError, ResponseError

from client.wire import Chunk, Final, Speculated, Usage, WireError
from core.types import Emission, FinishReason
from models.answer_text import AnswerText
from models.tokenizer import Tokenizer
from service.queue import JobQueue
from service.recording.recording import Recorder
from service.storage.claims import Append, Claim, DeadLetter, Ending, Entry, run_id
from service.tasks import is_cancelled
from service.telemetry.finished_log import log_finished
from service.telemetry.phases import Phases, Stopwatch
from service.telemetry.tracing import Tracing

log = structlog.get_logger()

# Steps that may wait to be written before the engine has to wait.
MAX_STEPS_BEHIND = 8
RETRY_S = 0.2


@dataclass(slots=True)
class OpenStream:
    """A job that is being answered; mutated by the writer only.

    count is the number of tokens in its stream, num_cached of the prompt came from the prefix cache at its beginning;
    is_silent until the next round after each look at it, has_moved with the first token of this claim. kept are all
    rounds where they are to be recorded.
    """

    claim: Claim
    text: AnswerText
    count: int = 0
    num_cached: int = 0
    speculated: Speculated = field(default_factory=Speculated)
    is_silent: bool = True
    has_moved: bool = False
    watch: Stopwatch = field(default_factory=Stopwatch)
    # When the job's deadline passes, by this machine's monotonic clock.
    ends_at_s: float = math.inf
    kept: list[Chunk] | None = None

    def add(self, chunk: Chunk) -> None:
        """Count one more round."""
        self.num_cached = self.num_cached if self.count else chunk.num_cached_tokens
        self.count += len(chunk.token_ids)
        self.speculated = self.speculated.plus(chunk)
        self.is_silent = False
        self.has_moved = True
        if self.kept is not None:
            self.kept.append(chunk)


class End(Struct, frozen=True):
    """The end of a run that will get no more tokens."""

    request_id: str
    reason: FinishReason
    error: WireError | None = None
    letter: DeadLetter | None = None


class _Step(Struct, frozen=True):
    """What waits to be written: tokens to append, then jobs to end."""

    appends: tuple[Append, ...]
    ends: tuple[End, ...]


class StreamWriter:
    """Writes emissions of open streams, which go by the run ids of their claims.

    drop is told of runs that the engine should stop working on, hold of the queue entries of all open streams
    whenever they change, tracing and `ended` of jobs that have ended here; recorder keeps answers.
    """

    def __init__(
        self,
        queue: JobQueue,
        tokenizer: Tokenizer,
        drop: Callable[[str], None],
        hold: Callable[[frozenset[Entry]], None],
        tracing: Tracing | None = None,
        recorder: Recorder | None = None,
        ended: Callable[[Claim, Stopwatch, Final], None] | None = None,
    ) -> None:
        self._queue, self._tokenizer, self._drop, self._hold = queue, tokenizer, drop, hold
        self._tracing, self._recorder, self._told = tracing or Tracing(), recorder, ended
        self._open: dict[str, OpenStream] = {}
        self._ended: set[str] = set()
        self._has_ended = asyncio.Event()
        self._steps: asyncio.Queue[tuple[list[Emission], list[End]]] = asyncio.Queue(MAX_STEPS_BEHIND)
        # How many steps were written, and the seconds that took.
        self.num_written, self.write_s = 0, 0.0
        # How long ended jobs took, and how many writes were refused as another worker's business.
        self.phases, self.num_fenced = Phases(), 0

    @property
    def entries(self) -> list[Entry]:
        """The queue entries of all open streams."""
        return [stream.claim.entry for stream in self._open.values()]

    @property
    def claims(self) -> list[Claim]:
        """The claims of all open streams."""
        return [stream.claim for stream in self._open.values()]

    @property
    def has_suspect(self) -> bool:
        """Tell whether a job is open that ended a worker before its next token, and has none yet from this one."""
        return any(stream.claim.attempts > 1 and not stream.has_moved for stream in self._open.values())

    @property
    def request_ids(self) -> list[str]:
        """The runs that are being answered."""
        return list(self._open)

    @property
    def num_open(self) -> int:
        """Jobs that are being answered or wait to be written."""
        return len(self._open)

    @property
    def num_running(self) -> int:
        """Jobs that the engine still works on, as far as this writer was told."""
        return len(self._open) - len(self._ended)

    def open(self, claim: Claim) -> None:
        """Begin, or take over, a job's stream: the state is rebuilt from the tokens it already shows."""
        stream = OpenStream(claim, AnswerText(self._tokenizer, claim.job.sampling))
        stream.kept = [] if self._recorder and self._recorder.wants(claim.job) else None
        if claim.left_ms is not None:
            stream.ends_at_s = time.monotonic() + claim.left_ms / 1000
        for chunk in claim.streamed:
            stream.text.add(chunk.token_ids)
            stream.add(chunk)
        stream.has_moved = False
        self._open[claim.request_id] = stream
        self._report()

    def silent_jobs(self) -> dict[str, str]:
        """Return run id -> job id of the streams that got no tokens since they were last asked for."""
        silent = {request_id: one.claim.job.id for request_id, one in self._open.items() if one.is_silent}
        for one in self._open.values():
            one.is_silent = True
        return silent

    def overdue(self) -> list[str]:
        """Return the runs that are past their deadline and were not told to end yet."""
        now_s = time.monotonic()
        return [one for one, stream in self._open.items() if stream.ends_at_s <= now_s and one not in self._ended]

    async def wait_for_end(self, timeout_s: float) -> None:
        """Return when a stream has ended, or after `timeout_s`."""
        self._has_ended.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._has_ended.wait()

    async def put(self, emissions: list[Emission], ends: list[End]) -> None:
        """Hand over one step's emissions, and jobs to end after them; waits while the writer is too far behind."""
        ended = [one.request_id for one in emissions if one.finish_reason is not None]
        ended += [end.request_id for end in ends]
        if ended:
            # Their slots are free from now on, whenever their last words are written.
            self._ended.update(request_id for request_id in ended if request_id in self._open)
            self._has_ended.set()
        if emissions or ends:
            await self._steps.put((emissions, ends))

    async def run(self) -> None:
        """Write steps until cancelled."""
        while not is_cancelled():
            emissions, ends = await self._steps.get()
            started_s = time.perf_counter()
            await self._until_written(self._prepare(emissions, ends))
            self.write_s += time.perf_counter() - started_s
            self.num_written += 1
            self._steps.task_done()

    async def drain(self) -> None:
        """Wait until everything handed over is written."""
        await self._steps.join()

    def let_go(self) -> None:
        """Let go of all open streams, and of what waits to be written of them: they are other workers' by now."""
        self._lose(self.request_ids)

    # --- One step ----------------------------------------------------------------------------------------------

    def _prepare(self, emissions: list[Emission], ends: list[End]) -> _Step:
        """Turn a step's tokens into text, once: writing may be repeated, detokenising may not."""
        appends: list[Append] = []
        all_ends: list[End] = []
        for emission in emissions:
            if emission.request_id not in self._open:
                continue
            reason = emission.finish_reason
            if emission.token_ids:
                appends.append(self._append(emission))
                reason = appends[-1].chunk.reason
            if reason is not None:
                error = WireError(emission.error) if emission.error else None
                all_ends.append(End(emission.request_id, reason, error))
        all_ends.extend(end for end in ends if end.request_id in self._open)
        return _Step(tuple(appends), tuple(all_ends))

    def _append(self, emission: Emission) -> Append:
        """Return the round as it goes to Redis: of tokens past a stop text nothing does, not even a count."""
        stream = self._open[emission.request_id]
        pieces = stream.text.add(emission.token_ids)
        num_kept, reason = len(pieces), emission.finish_reason
        if stream.text.is_stopped:
            reason = FinishReason.STOP
            if emission.finish_reason is None:
                self._drop(emission.request_id)
        is_cut = num_kept < len(emission.token_ids)
        chunk = Chunk(
            emission.token_ids[:num_kept],
            pieces,
            min(emission.verified, num_kept) if is_cut else emission.verified,
            min(emission.num_draft_tokens, num_kept),
            reason,
            None if emission.logprobs is None else emission.logprobs[:num_kept],
            0 if stream.count else emission.num_cached_tokens,
            max(0, emission.num_drafted - emission.verified),
        )
        stream.watch.tokens(time.perf_counter())
        append = Append(stream.claim.job.id, stream.claim.epoch, stream.count, chunk)
        stream.add(chunk)
        return append

    async def _until_written(self, step: _Step) -> None:
        """Write one step; a fault of Redis is retried, which the fence makes safe, until the lease is surely lost."""
        lease_s = self._queue.settings.lease_ms / 1000
        deadline = time.monotonic() + lease_s
        while True:
            try:
                await self._write(step)
            except (RedisError, OSError) as error:
                log.warning("append_failed", error=str(error))
                if isinstance(error, ResponseError):
                    # It answers and only cannot write, as when it is full: it takes the beats that keep our leases.
                    deadline = time.monotonic() + lease_s
                if time.monotonic() > deadline or is_cancelled():
                    break
                await asyncio.sleep(RETRY_S)
                step = self._kept(step)
            else:
                return
        # Others take these jobs over; what we would write now is refused by the fence.
        self._lose([*(one.request_id for one in step.appends), *(end.request_id for end in step.ends)])

    def _kept(self, step: _Step) -> _Step:
        """Return what a step has for streams that were not let go of meanwhile."""
        return _Step(
            tuple(one for one in step.appends if one.request_id in self._open),
            tuple(end for end in step.ends if end.request_id in self._open),
        )

    async def _write(self, step: _Step) -> None:
        results = await self._queue.append(step.appends)
        lost = [one.request_id for one, result in zip(step.appends, results, strict=True) if not result.is_ours]
        self.num_fenced += len(lost)
        self._lose(lost)
        ends = {end.request_id: end for end in step.ends if end.request_id in self._open}
        for one, result in zip(step.appends, results, strict=True):
            if result.is_ours and result.is_cancelled and one.request_id in self._open and one.request_id not in ends:
                self._drop(one.request_id)
                ends[one.request_id] = End(one.request_id, FinishReason.CANCELLED)
        if not ends:
            return
        endings = [self._ending(end) for end in ends.values()]
        for ending, is_ours in zip(endings, await self._queue.finish(endings), strict=True):
            self._finished(ending, is_ours)
        self._close(ends)

    def _ending(self, end: End) -> Ending:
        stream = self._open[end.request_id]
        claim, usage = stream.claim, Usage(len(stream.claim.job.prompt_ids), stream.count, stream.num_cached)
        final = Final(end.reason, usage, stream.speculated, stream.text.tail(), end.error, claim.epoch - 1)
        return Ending(claim.job.id, claim.epoch, final, claim.entry, end.letter)

    def _finished(self, ending: Ending, is_ours: bool) -> None:
        """Count and tell of one job's end, unless the end was refused."""
        if not is_ours:
            self.num_fenced += 1
            log.warning("finish_fenced", job_id=ending.job_id, epoch=ending.epoch)
            return
        stream = self._open[run_id(ending.job_id, ending.epoch or 0)]
        self.phases.observe(stream.watch)
        log_finished(ending, stream.claim, stream.watch)
        self._tracing.worked(stream.claim, stream.watch, ending.final)
        if self._told:
            self._told(stream.claim, stream.watch, ending.final)
        if self._recorder and stream.kept is not None:
            self._recorder.put(stream.claim.job, stream.kept, ending.final)

    def _lose(self, request_ids: Sequence[str]) -> None:
        """Let go of jobs that are another worker's."""
        for request_id in request_ids:
            log.warning("lease_lost", request_id=request_id)
            self._drop(request_id)
        if request_ids:
            self._close(request_ids)

    def _close(self, request_ids: Iterable[str]) -> None:
        for request_id in request_ids:
            self._open.pop(request_id, None)
            self._ended.discard(request_id)
            self._has_ended.set()
        self._report()

    def _report(self) -> None:
        self._hold(frozenset(self.entries))
