"""Answers for clients that wait for them: their jobs are queued, followed and counted, and end if the client leaves."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence

import structlog
from redis.exceptions import RedisError

from client.wire import Job
from core.errors import QueueError
from service.jobs import JobMaker
from service.metrics import Metrics
from service.queue import JobQueue
from service.storage.followers import Events
from service.storage.reader import StreamReader
from service.upkeep.open_answers import OpenAnswers

log = structlog.get_logger()


class Answering:
    """Runs the jobs of requests whose clients wait."""

    def __init__(
        self, queue: JobQueue, jobs: JobMaker, reader: StreamReader, metrics: Metrics, open_answers: OpenAnswers
    ) -> None:
        self._queue, self._jobs, self._reader, self._metrics = queue, jobs, reader, metrics
        self._open_answers = open_answers

    @contextlib.asynccontextmanager
    async def run(self, jobs: list[Job], started_s: float) -> AsyncIterator[Events]:
        """Queue the jobs of a request and deliver what comes for them.

        They are cancelled if the block is left early, or this gateway dies meanwhile. The request came at started_s of
        the performance counter. Raises RequestError if they cannot be queued.
        """
        job_ids = [job.id for job in jobs]
        try:
            with self._open_answers.held(job_ids) as held_in, self._metrics.watch(jobs, started_s) as watch:

                async def submit(wakes: str | None) -> None:
                    await self._jobs.submit(jobs, held_in, wakes)
                    watch.queued()

                async with self._reader.follow(jobs, watch.saw, submit=submit) as events:
                    yield events
        except BaseException:
            log.info("answer_abandoned", job_id=jobs[0].id)
            await self.cancel(jobs)
            raise

    async def cancel(self, jobs: Sequence[Job]) -> None:
        """End what still runs or waits of an answer that nobody will read; jobs that have ended stay as they are."""
        with contextlib.suppress(RedisError, OSError, QueueError):
            await asyncio.shield(self._queue.cancel(*[job.id for job in jobs]))
