"""The stream writer: what the engine emits becomes text and goes to Redis, one round trip per step.

It is the only place that turns tokens into text. It runs beside the engine's next step; a bounded queue between the
two holds the engine back when Redis is slow.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog
from redis.exceptions import RedisError

from client.wire import Chunk, Final, Speculated, Usage, WireError
from core.types import Emission, FinishReason
from models.detokenize import Detokenizer
from models.tokenizer import Tokenizer
from service.queue import Append, Claim, Ending, JobQueue

log = structlog.get_logger()

# Steps that may wait to be written before the engine has to wait.
MAX_STEPS_BEHIND = 8
RETRY_S = 0.2


@dataclass(slots=True)
class OpenStream:
    """A job that is being answered; mutated by the writer only. count is the number of tokens in its stream."""

    claim: Claim
    detokenizer: Detokenizer
    count: int
    speculated: Speculated

    def usage(self) -> Usage:
        """Count the answer's tokens so far."""
        return Usage(len(self.claim.job.prompt_ids), self.count)


class StreamWriter:
    """Writes emissions of open streams; tells `drop` of jobs the engine should stop working on."""

    def __init__(self, queue: JobQueue, tokenizer: Tokenizer, drop: Callable[[str], None]) -> None:
        self._queue, self._tokenizer, self._drop = queue, tokenizer, drop
        self._open: dict[str, OpenStream] = {}
        self._steps: asyncio.Queue[list[Emission]] = asyncio.Queue(MAX_STEPS_BEHIND)

    @property
    def entries(self) -> frozenset[str]:
        """The queue entries of all open streams."""
        return frozenset(stream.claim.entry.entry_id for stream in self._open.values())

    @property
    def job_ids(self) -> tuple[str, ...]:
        """The jobs that are being answered."""
        return tuple(self._open)

    @property
    def num_open(self) -> int:
        """Jobs that are being answered."""
        return len(self._open)

    def open(self, claim: Claim) -> None:
        """Begin, or take over, a job's stream: the state is rebuilt from the tokens it already shows."""
        stream = OpenStream(claim, Detokenizer(self._tokenizer), 0, Speculated())
        for chunk in claim.streamed:
            stream.detokenizer.pieces(chunk.token_ids)
            stream.count += len(chunk.token_ids)
            stream.speculated = stream.speculated.plus(chunk)
        self._open[claim.job.id] = stream

    async def put(self, emissions: list[Emission]) -> None:
        """Hand over one step's emissions; waits while the writer is too far behind."""
        if emissions:
            await self._steps.put(emissions)

    async def run(self) -> None:
        """Write steps until cancelled."""
        while True:
            emissions = await self._steps.get()
            await self._until_written(emissions)
            self._steps.task_done()

    async def drain(self) -> None:
        """Wait until everything handed over is written."""
        await self._steps.join()

    async def end(self, job_id: str, reason: FinishReason, error: WireError | None = None) -> None:
        """End a job that will get no more tokens."""
        stream = self._open.pop(job_id, None)
        if stream is not None:
            await self._queue.finish([_ending(stream, reason, error)])

    async def _until_written(self, emissions: list[Emission]) -> None:
        """Write one step; a fault of Redis is retried, which the fence makes safe, until the lease is surely lost."""
        appends = [self._append(emission) for emission in emissions if emission.request_id in self._open]
        lease_s = self._queue.settings.lease_ms / 1000
        for _ in range(max(1, int(lease_s / RETRY_S))):
            try:
                await self._write(emissions, appends)
            except (RedisError, OSError) as error:
                log.warning("append_failed", error=str(error))
                await asyncio.sleep(RETRY_S)
            else:
                return
        # Others take these jobs over; what we would write now is refused by the fence.
        for append in appends:
            self._lose(append.job_id)

    async def _write(self, emissions: list[Emission], appends: Sequence[Append]) -> None:
        results = await self._queue.append(appends)
        endings = []
        reasons = {emission.request_id: emission for emission in emissions}
        for append, result in zip(appends, results, strict=True):
            stream, reason = self._open.get(append.job_id), reasons[append.job_id].finish_reason
            if stream is None:
                continue
            if not result.is_ours:
                self._lose(append.job_id)
            elif reason is not None:
                endings.append((append.job_id, _ending(stream, reason, None)))
            elif result.is_cancelled:
                self._drop(append.job_id)
                endings.append((append.job_id, _ending(stream, FinishReason.CANCELLED, None)))
        await self._queue.finish([ending for _, ending in endings])
        for job_id, _ in endings:
            del self._open[job_id]

    def _append(self, emission: Emission) -> Append:
        stream = self._open[emission.request_id]
        pieces = stream.detokenizer.pieces(emission.token_ids)
        reason = emission.finish_reason
        chunk = Chunk(emission.token_ids, pieces, emission.verified, emission.num_draft_tokens, reason)
        append = Append(emission.request_id, stream.claim.epoch, stream.count, chunk)
        stream.count += len(chunk.token_ids)
        stream.speculated = stream.speculated.plus(chunk)
        return append

    def _lose(self, job_id: str) -> None:
        log.warning("lease_lost", job_id=job_id)
        self._open.pop(job_id, None)
        self._drop(job_id)


def _ending(stream: OpenStream, reason: FinishReason, error: WireError | None) -> Ending:
    claim = stream.claim
    final = Final(reason, stream.usage(), stream.speculated, stream.detokenizer.tail(), error)
    log.info(
        "request_finished",
        job_id=claim.job.id,
        reason=str(reason),
        epoch=claim.epoch,
        prompt_tokens=final.usage.prompt_tokens,
        completion_tokens=final.usage.completion_tokens,
        rounds=final.speculated.rounds,
        verified=final.speculated.verified,
        accepted=final.speculated.accepted,
    )
    return Ending(claim.job.id, claim.epoch, final, claim.entry)
