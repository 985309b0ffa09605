"""Workers behind a router, on one virtual clock: jobs come, are dealt out, step by step answered, and survive workers.

A worker that dies takes the step it is in with it. Its jobs go on elsewhere when their lease has run out, from the
tokens that were streamed, and their prompts are computed again: as specd's workers do it (docs/guarantees.md).
"""

import heapq
import itertools
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from bench.simulate.engine import SimulatedEngine, StepDone
from bench.simulate.job import Job
from bench.simulate.measure import Measures
from bench.simulate.settings import Fleet
from bench.simulate.traffic import Arrivals
from bench.simulate.virtual_time import VirtualTime
from core.errors import RequestError
from core.types import Backlog

MakeEngine = Callable[[int], SimulatedEngine]
Event = Callable[[], None]


@dataclass(slots=True, eq=False)
class Worker:
    """One engine and what it has to do.

    engine  None while it is dead
    step    the one it is in, None while it is idle
    inbox   jobs that were dealt to it and have no place yet
    life    counts its deaths: what an earlier life had begun no longer counts
    """

    number: int
    engine: SimulatedEngine | None
    step: StepDone | None = None
    inbox: deque[Job] = field(default_factory=deque)
    life: int = 0

    @property
    def num_jobs(self) -> int:
        """Jobs here, waiting ones too."""
        return len(self.inbox) + (len(self.engine.jobs) if self.engine else 0)


class FleetRun:
    """One fleet and its traffic: `run` plays them, once.

    make_engine is asked for a worker's engine whenever it begins a life.
    num_arrived, num_ended and num_refused count jobs; jobs that are neither ended nor refused are still in the fleet.
    before has, of when measuring began, the jobs that had arrived and those that were inside.
    """

    def __init__(self, fleet: Fleet, arrivals: Arrivals, make_engine: MakeEngine, time: VirtualTime, seed: int) -> None:
        self._fleet, self.arrivals, self._make_engine, self.time = fleet, arrivals, make_engine, time
        self._random = np.random.default_rng([seed, 4])
        self._events: list[tuple[float, int, Event]] = []
        self._order = itertools.count()
        self.workers = [Worker(number, make_engine(number)) for number in range(fleet.workers)]
        # Jobs that no worker has: with a router that deals, only those that found no worker alive.
        self.queue: deque[Job] = deque()
        self._turn = 0
        self.num_arrived = self.num_ended = self.num_refused = self.num_deaths = self.num_taken_over = 0
        self.before, self._ends_s, self._all_came = (0, 0), float("inf"), False

    @property
    def num_inside(self) -> int:
        """Jobs that have arrived and are not done."""
        return self.num_arrived - self.num_ended - self.num_refused

    @property
    def is_over(self) -> bool:
        """Tell whether the traffic has ended, as a trace does, and every job of it is done."""
        return self._all_came and not self.num_inside

    def run(self, measures: Measures, seconds: float, *, drain: bool = False) -> None:
        """Play so many seconds, fewer if all is over before; then `time` says so.

        With `drain`, nobody comes after them and the fleet goes on until it is empty.
        """
        self._measures, self._ends_s = measures, seconds
        self._at(measures.from_s, self._begin_to_count)
        self._expect(self.arrivals.opening())
        self._plan_deaths()
        while not self.is_over and self._events and (self._events[0][0] <= seconds or (drain and self.num_inside)):
            self.time.now_s, _, event = heapq.heappop(self._events)
            event()
        if not drain and not self.is_over:
            self.time.now_s = seconds

    def _begin_to_count(self) -> None:
        self.before = self.num_arrived, self.num_inside

    # --- Jobs --------------------------------------------------------------------------------------------------

    def _expect(self, opening: Iterator[Job]) -> None:
        """Let the next job arrive in its time; those of a closed loop come all at once."""
        job = next(opening, None)
        self._all_came = job is None and self.arrivals.trace_s is not None
        if job is not None and job.arrived_s <= self._ends_s:
            self._at(job.arrived_s, lambda: self._arrive_first(job, opening))

    def _arrive_first(self, job: Job, opening: Iterator[Job]) -> None:
        self._expect(opening)
        self._arrive(job)

    def _arrive(self, job: Job) -> None:
        self.num_arrived += 1
        self._route(job)

    def _route(self, job: Job) -> None:
        """Give a job to the worker that the router names, or to the queue."""
        alive = [worker for worker in self.workers if worker.engine]
        if self._fleet.router == "queue" or not alive:
            self.queue.append(job)
            self._offer(alive)
            return
        if self._fleet.router == "round_robin":
            chosen = alive[self._turn % len(alive)]
            self._turn += 1
        else:
            chosen = min(alive, key=lambda worker: (worker.num_jobs, worker.number))
        chosen.inbox.append(job)
        self._go_on(chosen)

    def _offer(self, alive: list[Worker]) -> None:
        """Let some worker with a free slot claim the newest job: all of them listen, also while they step."""
        able = [worker for worker in alive if worker.engine and worker.engine.num_free_slots]
        if able:
            chosen = able[int(self._random.integers(len(able)))]
            self._take(chosen)
            self._go_on(chosen)

    def _take(self, worker: Worker) -> None:
        """Let a worker claim jobs up to its free slots: from its inbox, else from the queue."""
        engine = worker.engine
        assert engine is not None
        for source in (worker.inbox, self.queue):
            while source and engine.num_free_slots:
                job = source.popleft()
                try:
                    engine.add(job)
                    job.num_attempts += 1
                except RequestError:
                    self.num_refused += 1
        waiting = self.queue or worker.inbox
        engine.backlog = Backlog(
            len(self.queue) + len(worker.inbox), self.time.now_s - waiting[0].arrived_s if waiting else 0.0
        )

    # --- Steps -------------------------------------------------------------------------------------------------

    def _go_on(self, worker: Worker) -> None:
        """Begin a worker's next step if it is idle and there is work."""
        if worker.step is not None or worker.engine is None:
            return
        self._take(worker)
        if not worker.engine.has_work:
            return
        done, life = worker.engine.step(), worker.life
        worker.step = done
        self._at(self.time.now_s + done.seconds, lambda: self._finish(worker, life, done))

    def _finish(self, worker: Worker, life: int, done: StepDone) -> None:
        """Stream what a step brought, unless its worker died in it."""
        if worker.life != life:
            return
        worker.step = None
        now_s = self.time.now_s
        self._measures.stepped(done, now_s)
        for one in done.answered:
            self._measures.streamed(one.job, one.num_tokens, now_s)
            if one.is_last:
                self._end(one.job)
        self._go_on(worker)

    def _end(self, job: Job) -> None:
        job.ended_s = self.time.now_s
        self.num_ended += 1
        self._measures.ended(job)
        following = self.arrivals.after(job)
        if following is not None and following.arrived_s <= self._ends_s:
            self._at(following.arrived_s, lambda: self._arrive(following))

    # --- Failures ----------------------------------------------------------------------------------------------

    def _plan_deaths(self) -> None:
        failures = self._fleet.failures
        for number, at_s in enumerate(failures.at_s):
            self._at(at_s, partial(self._die, self.workers[number % len(self.workers)]))
        for worker in self.workers:
            self._plan_death(worker)

    def _plan_death(self, worker: Worker) -> None:
        mean_s, life = self._fleet.failures.mean_s, worker.life
        if mean_s is not None:
            when_s = self.time.now_s + float(self._random.exponential(mean_s))
            if when_s <= self._ends_s:
                self._at(when_s, lambda: self._die(worker) if worker.life == life else None)

    def _die(self, worker: Worker) -> None:
        """Lose an engine with all it knew; what it had is found when the lease has run out."""
        if worker.engine is None:
            return
        # The engine has let go of jobs already whose last tokens die with the step.
        ending = [one.job for one in worker.step.answered if one.is_last] if worker.step else []
        lost = [*worker.engine.jobs.values(), *ending, *worker.inbox]
        worker.engine = worker.step = None
        worker.inbox.clear()
        worker.life += 1
        self.num_deaths += 1
        self._at(self.time.now_s + self._fleet.lease_s, lambda: self._take_over(lost))
        if (restart_s := self._fleet.failures.restart_s) is not None:
            self._at(self.time.now_s + restart_s, lambda: self._rise(worker))

    def _take_over(self, lost: list[Job]) -> None:
        self.num_taken_over += len(lost)
        for job in lost:
            self._route(job)

    def _rise(self, worker: Worker) -> None:
        worker.engine = self._make_engine(worker.number)
        self._plan_death(worker)
        # What no worker was there for is dealt out again, if it is dealt at all.
        if self._fleet.router != "queue":
            waiting, self.queue = self.queue, deque()
            for job in waiting:
                self._route(job)
        self._go_on(worker)

    def _at(self, when_s: float, event: Event) -> None:
        heapq.heappush(self._events, (when_s, next(self._order), event))
