"""What a gateway lets into the queue: bounded in jobs, prompt tokens, time to wait, jobs of one user, Redis's memory.

Of these the time is what a client feels. It is predicted from what stands before a job and the speed that the workers
show (speed.py): under any load, who is let in waits for about so long at most, and all others know at once that they
would have waited for longer.

What is refused is told when to come again: after the time in which the workers, at the speed that they show, will have
worked off what stands in the way. Counts are read from Redis at most every tenth of a second; what other gateways let
in meanwhile is not among them, so the bounds may be passed by a moment's requests. As long as the counts are far from
every bound a request does not wait for newer ones: they are read on its account for the next.
"""

import hashlib
import math
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence

from msgspec import Struct

from client.wire import Job
from core.errors import RequestError
from core.queue_settings import QueueSettings
from service.door.refreshed import Refreshed
from service.door.speed import Speed
from service.queue import JobQueue
from service.telemetry.worker_metrics import Workers, read_workers

SCAN_S = 0.1
# How old counts may be that are far from every bound.
FAR_S = 10.0
# For so long a job that was let in counts although it is not found in the queue: it may be on its way.
ENTERING_S = 0.2
# Workers tell their counts once a second.
SAMPLE_S = 2.0
MIN_RETRY_S, MAX_RETRY_S = 1, 60


def user_key(user: str | None) -> str:
    """Return what a user's jobs are counted by: their name goes into no key and no entry."""
    return hashlib.sha256(user.encode()).hexdigest()[:16] if user else ""


class Load(Struct):
    """What stands in the queue: jobs of all, those not taken by priority, and their prompt tokens; tokens that all may
    write, jobs by user.
    """

    num_jobs: int
    waiting: Counter[int]
    queued_tokens: int
    max_answer_tokens: int
    by_user: Counter[str]
    memory_share: float

    @property
    def num_waiting(self) -> int:
        """Jobs that no worker has taken."""
        return self.waiting.total()

    def num_ahead(self, priority: int) -> int:
        """Return how many jobs a new one of this priority finds before it."""
        return sum(count for one, count in self.waiting.items() if one <= priority)

    def add(self, jobs: Sequence[Job]) -> None:
        """Count jobs that were let in since."""
        for job in jobs:
            self.num_jobs += 1
            self.waiting[job.priority] += 1
            self.queued_tokens += len(job.prompt_ids)
            self.max_answer_tokens += job.sampling.max_tokens
            self.by_user[job.user] += 1

    @property
    def mean_answer_tokens(self) -> float:
        """What an answer may have at most, on average."""
        return self.max_answer_tokens / self.num_jobs if self.num_jobs else 0.0

    def retry_after_s(self, num_jobs: float, tokens_per_s: float) -> int:
        """Return the whole seconds until so many jobs of the usual length are worked off."""
        if not (self.num_jobs and tokens_per_s > 0.0):
            return MIN_RETRY_S
        wait_s = num_jobs * self.mean_answer_tokens / tokens_per_s
        return max(MIN_RETRY_S, math.ceil(min(wait_s, MAX_RETRY_S)))


class Admission:
    """One gateway's door to the queue. Its methods raise RedisError and OSError like the queue's.

    shed is told, in a word, why something was refused: requests, tokens, wait, deadline, user or memory.
    """

    def __init__(self, queue: JobQueue, settings: QueueSettings, shed: Callable[[str], None]) -> None:
        self._queue, self._settings, self._shed = queue, settings, shed
        self._speed = Speed()
        self._loads, self._workers = Refreshed(self._scan), Refreshed(self._sample)
        # Sequences that all workers together can run at once.
        self._num_slots = 0
        # Jobs that were let in, and when, while they may not stand in the queue yet.
        self._entering: deque[tuple[float, Job]] = deque()

    async def check(self, num_jobs: int, user: str) -> None:
        """Raise RequestError if there is no room for so many jobs: asked before any work goes into a request."""
        limits, load = self._settings, await self._look()
        if load.memory_share > limits.max_memory_share:
            message = f"Redis uses {load.memory_share:.0%} of its memory; try again soon"
            raise self._refusal("memory", message, 503, "redis_full", load.num_jobs)
        over = load.num_jobs + num_jobs - limits.max_queued_requests
        if over > 0 and (over := await self._queue.depth() + num_jobs - limits.max_queued_requests) > 0:
            raise self._refusal("requests", "too many requests are queued; try again soon", 503, "queue_full", over)
        limit = limits.max_queued_per_user
        if limit is not None and user and (over := load.by_user[user] + num_jobs - limit) > 0:
            message = f"this user has {load.by_user[user]} requests queued or running, of at most {limit}"
            raise self._refusal("user", message, 429, "user_queue_full", over)

    async def check_tokens(self, num_tokens: int) -> None:
        """Raise RequestError if there is no room for so many prompt tokens; an empty queue takes any prompt."""
        load = await self._look()
        over = load.queued_tokens + num_tokens - self._settings.max_queued_tokens
        if over > 0 and load.queued_tokens:
            message = f"{load.queued_tokens} prompt tokens are queued already; try again soon"
            raise self._refusal("tokens", message, 503, "queue_full", over * load.num_waiting / load.queued_tokens)

    async def check_wait(self, priority: int, longest_s: float, deadline_ms: int | None) -> None:
        """Raise RequestError if a job would wait for longer than `longest_s`, or until its deadline has passed."""
        load = await self._look()
        num_running = load.num_jobs - load.num_waiting
        num_ahead = load.num_ahead(priority)
        if self._num_slots:
            # It and those before it take what slots are free; for the rest, as many answers have to end.
            num_ahead += 1 - max(0, self._num_slots - num_running)
        if num_ahead <= 0:
            return
        wait_s = self._speed.wait_s(num_ahead, load.mean_answer_tokens, num_running)
        deadline_s = math.inf if deadline_ms is None else deadline_ms / 1000
        if wait_s > deadline_s:
            message = f"the queue would take about {wait_s:.1f} s, and the deadline is in {deadline_s:.1f} s"
            raise self._refusal("deadline", message, 503, "wait_too_long", num_ahead * (1 - deadline_s / wait_s))
        if wait_s > longest_s:
            message = f"the queue would take about {wait_s:.1f} s, of at most {longest_s:g}; try again soon"
            raise self._refusal("wait", message, 503, "wait_too_long", num_ahead * (1 - longest_s / wait_s))

    def admitted(self, jobs: Sequence[Job]) -> None:
        """Count jobs that are about to be submitted."""
        self._entering.extend((time.monotonic(), job) for job in jobs)
        if self._loads.last:
            self._loads.last.add(jobs)

    def _refusal(self, reason: str, message: str, status: int, code: str, num_jobs: float) -> RequestError:
        assert self._loads.last is not None
        self._shed(reason)
        retry_after_s = self._loads.last.retry_after_s(num_jobs, self._speed.tokens_per_s)
        return RequestError(message, status=status, code=code, retry_after_s=retry_after_s)

    async def _look(self) -> Load:
        good_s = FAR_S if self._is_far_from_bounds() else 0.0
        await self._workers.get(SAMPLE_S, good_s)
        return await self._loads.get(SCAN_S, good_s)

    def _is_far_from_bounds(self) -> bool:
        """Tell whether twice of all that was counted last would have room, and a slot."""
        load, limits = self._loads.last, self._settings
        return (
            load is not None
            and 2 * load.num_jobs <= min(self._num_slots, limits.max_queued_requests)
            and 2 * load.queued_tokens <= limits.max_queued_tokens
            and 2 * load.memory_share <= limits.max_memory_share
            and (limits.max_queued_per_user is None or 2 * load.num_jobs <= limits.max_queued_per_user)
        )

    async def _sample(self) -> Workers:
        now_s, workers = time.monotonic(), await read_workers(self._queue)
        counts = {name: stats.engine.emitted for name, stats in workers.stats.items()}
        running = sum(stats.engine.running for stats in workers.stats.values())
        self._num_slots = sum(stats.engine.slots for stats in workers.stats.values())
        has_waiting = any(backlog.num_waiting for backlog in workers.backlogs)
        self._speed.saw(now_s, counts, running, has_waiting=has_waiting)
        num_begun = sum(sum(stats.queue_times.counts) for stats in workers.stats.values())
        # Those that run are half done, on average.
        self._speed.answers_had(sum(counts.values()), num_begun - running / 2)
        return workers

    async def _scan(self) -> Load:
        entries, memory_share = await self._queue.look()
        load = Load(0, Counter(), 0, 0, Counter(), memory_share)
        present = set()
        for fields, priority, is_waiting in entries:
            present.add(fields.get(b"j", b"").decode())
            load.num_jobs += 1
            load.max_answer_tokens += int(fields.get(b"a", 0))
            load.by_user[fields.get(b"u", b"").decode()] += 1
            if is_waiting:
                load.waiting[priority] += 1
                load.queued_tokens += int(fields.get(b"t", 0))
        while self._entering and self._entering[0][0] < time.monotonic() - ENTERING_S:
            self._entering.popleft()
        load.add([job for _, job in self._entering if job.id not in present])
        return load
