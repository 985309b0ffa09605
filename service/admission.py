"""What a gateway lets into the queue: bounded in jobs, prompt tokens, jobs of one user, and Redis's memory.

What is refused is told when to come again: after the time in which the workers, at the speed that they show, will have
worked off what stands in the way. Counts are read from Redis at most every tenth of a second; what other gateways let
in meanwhile is not among them, so the bounds may be passed by a moment's requests.
"""

import hashlib
import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct

from client.wire import Job
from core.config import QueueSettings
from core.errors import RequestError
from service.queue import JobQueue
from service.worker_metrics import read_workers

SCAN_S = 0.1
SAMPLE_S = 1.0
# Counts that lie further apart than this say nothing of the present speed.
MAX_SAMPLE_S = 30.0
MIN_RETRY_S, MAX_RETRY_S = 1, 60


def user_key(user: str | None) -> str:
    """Return what a user's jobs are counted by: their name goes into no key and no entry."""
    return hashlib.sha256(user.encode()).hexdigest()[:16] if user else ""


class Throughput:
    """Tokens per second of all live workers, from their counters; 0 while unknown."""

    def __init__(self) -> None:
        self.tokens_per_s = 0.0
        self._at_s, self._counts = -math.inf, dict[str, int]()

    def saw(self, now_s: float, counts: Mapping[str, int]) -> None:
        """Take what each worker has emitted since it started."""
        passed_s = now_s - self._at_s
        if 0.0 < passed_s <= MAX_SAMPLE_S:
            made = sum(max(0, count - self._counts.get(worker, count)) for worker, count in counts.items())
            self.tokens_per_s = made / passed_s
        self._at_s, self._counts = now_s, dict(counts)


class Load(Struct):
    """What stands in the queue: jobs of all, prompt tokens of those not taken, tokens they may write, jobs by user."""

    num_jobs: int
    num_waiting: int
    queued_tokens: int
    max_answer_tokens: int
    by_user: Counter[str]
    memory_share: float

    def add(self, jobs: Sequence[Job]) -> None:
        """Count jobs that were let in since."""
        for job in jobs:
            self.num_jobs += 1
            self.num_waiting += 1
            self.queued_tokens += len(job.prompt_ids)
            self.max_answer_tokens += job.sampling.max_tokens
            self.by_user[job.user] += 1

    def retry_after_s(self, num_jobs: float, tokens_per_s: float) -> int:
        """Return the whole seconds until so many jobs of the usual length are worked off."""
        if not (self.num_jobs and tokens_per_s > 0.0):
            return MIN_RETRY_S
        wait_s = num_jobs * self.max_answer_tokens / self.num_jobs / tokens_per_s
        return max(MIN_RETRY_S, math.ceil(min(wait_s, MAX_RETRY_S)))


class Admission:
    """One gateway's door to the queue. Its methods raise RedisError and OSError like the queue's."""

    def __init__(self, queue: JobQueue, settings: QueueSettings) -> None:
        self._queue, self._settings = queue, settings
        self._throughput = Throughput()
        self._load: Load | None = None
        self._scanned_at_s = self._sampled_at_s = -math.inf

    async def check(self, num_jobs: int, user: str) -> None:
        """Raise RequestError if there is no room for so many jobs: asked before any work goes into a request."""
        limits, load = self._settings, await self._look()
        if load.memory_share > limits.max_memory_share:
            message = f"Redis uses {load.memory_share:.0%} of its memory; try again soon"
            raise self._refusal(message, 503, "redis_full", load.num_jobs)
        over = await self._queue.depth() + num_jobs - limits.max_queued_requests
        if over > 0:
            raise self._refusal("too many requests are queued; try again soon", 503, "queue_full", over)
        limit = limits.max_queued_per_user
        if limit is not None and user and (over := load.by_user[user] + num_jobs - limit) > 0:
            message = f"this user has {load.by_user[user]} requests queued or running, of at most {limit}"
            raise self._refusal(message, 429, "user_queue_full", over)

    async def check_tokens(self, num_tokens: int) -> None:
        """Raise RequestError if there is no room for so many prompt tokens; an empty queue takes any prompt."""
        load = await self._look()
        over = load.queued_tokens + num_tokens - self._settings.max_queued_tokens
        if over > 0 and load.queued_tokens:
            message = f"{load.queued_tokens} prompt tokens are queued already; try again soon"
            raise self._refusal(message, 503, "queue_full", over * load.num_waiting / load.queued_tokens)

    def admitted(self, jobs: Sequence[Job]) -> None:
        """Count jobs that are about to be submitted."""
        if self._load:
            self._load.add(jobs)

    def _refusal(self, message: str, status: int, code: str, num_jobs: float) -> RequestError:
        assert self._load is not None
        retry_after_s = self._load.retry_after_s(num_jobs, self._throughput.tokens_per_s)
        return RequestError(message, status=status, code=code, retry_after_s=retry_after_s)

    async def _look(self) -> Load:
        now_s = time.monotonic()
        if now_s - self._sampled_at_s >= SAMPLE_S:
            self._sampled_at_s = now_s
            workers = await read_workers(self._queue)
            self._throughput.saw(now_s, {name: stats.engine.emitted for name, stats in workers.stats.items()})
        if self._load is None or now_s - self._scanned_at_s >= SCAN_S:
            self._scanned_at_s = now_s
            self._load = await self._scan()
        return self._load

    async def _scan(self) -> Load:
        load = Load(0, 0, 0, 0, Counter(), await memory_share(self._queue.client))
        for fields, is_waiting in await self._queue.entries():
            load.num_jobs += 1
            load.max_answer_tokens += int(fields.get(b"a", 0))
            load.by_user[fields.get(b"u", b"").decode()] += 1
            if is_waiting:
                load.num_waiting += 1
                load.queued_tokens += int(fields.get(b"t", 0))
        return load


async def memory_share(client: Any) -> float:
    """Return how much of its memory Redis uses, 1 is all; 0 where it has no bound."""
    told = await client.info("memory")
    return told["used_memory"] / told["maxmemory"] if told.get("maxmemory") else 0.0
