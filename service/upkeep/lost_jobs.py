"""Jobs that Redis lost while clients follow them: a gateway notices, and brings them back from what it has passed on.

It holds every followed job and the chunks that its followers were given. When Redis was emptied, or came back without
its data, it writes job and stream anew up to what the furthest of them has, under an epoch above all claims, and queues
the job: a worker goes on from there. Where others follow the same job on another gateway, whoever is first brings it
back; all compare what their clients have with what stands there now, in the time before the job is queued, and those
that have more, or other tokens, end in an error. So does whatever cannot be brought back, and, after a while, all that
is followed while Redis is out of reach: no stream stays silent for ever.
"""

import asyncio
import secrets
import time
from collections.abc import Sequence

import msgspec
import structlog
from redis.exceptions import RedisError

from client.wire import Job
from core.errors import QueueError, RequestError
from service.queue import JobQueue
from service.storage.followers import Follower
from service.storage.reader import StreamReader
from service.tasks import is_cancelled

log = structlog.get_logger()

# How often jobs are looked after that have been silent for as long: one call for all of them.
CHECK_S = 1.0
# Between bringing a job back and queueing it: every gateway looks at it in this time, before its stream grows.
SETTLE_S = 2.5
# A job that can neither be found nor brought back is given up after this long.
GIVE_UP_S = 10.0
# Streams stay open so long while Redis does not answer; together with the above no stream is in doubt for 30 s.
CUT_OFF_S = 25.0


class LostJobs:
    """Watches over what one gateway's reader has open."""

    def __init__(self, queue: JobQueue, reader: StreamReader) -> None:
        self._queue, self._reader = queue, reader
        # Jobs that were brought back, and when they are to be queued.
        self._settling: list[tuple[float, Job]] = []

    async def run(self) -> None:
        """Watch until cancelled; a fault of Redis is waited out, but not for ever by those who follow."""
        while not is_cancelled():
            await asyncio.sleep(CHECK_S)
            if cut_off := self._reader.cut_off(CUT_OFF_S):
                for events in cut_off:
                    events.fail(_out_of_reach())
                continue
            try:
                await self._queue_settled()
                await self._look()
            except (RedisError, OSError, QueueError) as error:
                log.warning("watch_failed", error=str(error))

    async def _look(self) -> None:
        """Look after every job that has been silent."""
        now_s, silent = time.monotonic(), dict[str, list[Follower]]()
        for events in self._reader.open:
            for one in events.followers:
                if not (one.has_end or events.has_failed) and now_s - one.heard_s >= CHECK_S:
                    silent.setdefault(one.job.id, []).append(one)
        if not silent:
            return
        for followers, standing in zip(silent.values(), await self._queue.standings(list(silent)), strict=True):
            if standing is None:
                await self._lost(followers)
                continue
            for one in followers:
                one.is_over, one.lost_at_s = standing.has_ended, None
            if standing.has_ended:
                # An end that stands nowhere is waited for in vain; those behind have it before them.
                late = [one for one in followers if not one.is_behind and now_s - one.heard_s > GIVE_UP_S]
                _fail(late, _lost_for_good())
            if changed := [one for one in followers if one.generation != standing.generation]:
                await self._compare(changed, standing.generation)

    async def _lost(self, followers: Sequence[Follower]) -> None:
        """Bring a job back as far as the furthest of its followers has it, or give it up."""
        now_s, furthest = time.monotonic(), max(followers, key=lambda one: one.place)
        if any(one.is_over for one in followers):
            _fail(followers, RequestError("the job has expired", status=410, param="id", code="job_expired"))
            return
        if await self._queue.restore(_redrawn(furthest.job), furthest.chunks):
            log.warning("job_restored", job_id=furthest.job.id, tokens=furthest.place[0])
            self._settling.append((now_s + SETTLE_S, furthest.job))
            for keep in {one.events.keep for one in followers}:
                if keep is not None:
                    await keep()
            return
        for one in followers:
            one.lost_at_s = one.lost_at_s or now_s
        _fail([one for one in followers if now_s - (one.lost_at_s or now_s) > GIVE_UP_S], _lost_for_good())

    async def _compare(self, followers: Sequence[Follower], generation: int) -> None:
        """Hold what followers were given against a stream that was written anew since."""
        stored = await self._queue.chunks(followers[0].job.id)
        for one in followers:
            if one.chunks == stored[: len(one.chunks)]:
                one.generation = generation
            else:
                log.warning("follower_ahead", job_id=one.job.id, tokens=one.place[0])
                _fail([one], _lost_for_good())

    async def _queue_settled(self) -> None:
        while self._settling and self._settling[0][0] <= time.monotonic():
            await self._queue.add_entry(self._settling[0][1])
            del self._settling[0]


def _redrawn(job: Job) -> Job:
    """Return a job with another nonce, unless its draws come from its seed: none may be made twice."""
    return job if job.sampling.seed is not None else msgspec.structs.replace(job, nonce=secrets.token_bytes(16))


def _fail(followers: Sequence[Follower], error: RequestError) -> None:
    for one in followers:
        one.events.fail(error)


def _out_of_reach() -> RequestError:
    return RequestError("the queue is out of reach; try again soon", status=503, code="queue_down")


def _lost_for_good() -> RequestError:
    return RequestError("the answer was lost and cannot go on; ask again", status=503, code="job_lost")
