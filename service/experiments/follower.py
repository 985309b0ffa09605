"""A worker's side of an experiment: it serves whatever arm has its turn, and writes down what each unit came to.

It looks at Redis every second, so that an experiment begins, and is stopped, on a running worker. Arms change between
two steps. A unit's counts are taken at its end, then the next arm is served, and only then are the books of the one
before closed (service/experiments/books.py): whatever those take, no turn begins late for them.
"""

import asyncio
import time
from functools import partial

import structlog
from redis.exceptions import RedisError

from client.wire import Final
from core.errors import ConfigError, QueueError
from core.experiments.assignment import arm_of_slot, slot_at
from core.experiments.unit_sums import UnitRecord
from service.engine_process.client import EngineClient
from service.experiments.books import ClosedUnit, ExperimentBooks
from service.experiments.split import arm_of_request
from service.experiments.store import ExperimentStore, Standing
from service.experiments.unit_counter import UnitCounter
from service.queue import JobQueue
from service.storage.claims import Claim
from service.tasks import is_cancelled
from service.telemetry.phases import Stopwatch

log = structlog.get_logger()

POLL_S = 1.0
# A unit that began later than this, as a share of it, or later than its burn-in, is not counted. Nor is one whose end,
# or that of its burn-in, was noticed later than this, or LATE_S, which a busy event loop may take.
LATE_SHARE, LATE_S = 0.05, 0.1


class Turn:
    """One unit of this worker's: whose it is, and its counts; mutated by the follower.

    counter  from the end of its burn-in
    late     from the middle of what is counted: where this shows something else, burn-in was too short
    """

    def __init__(self, slot: int, arm: str, *, is_pre: bool, is_whole: bool) -> None:
        self.slot, self.arm, self.is_pre, self.is_whole = slot, arm, is_pre, is_whole
        self.counter: UnitCounter | None = None
        self.late: UnitCounter | None = None

    @property
    def counters(self) -> list[UnitCounter]:
        """Those that have begun."""
        return [counter for counter in (self.counter, self.late) if counter]


class ExperimentFollower:
    """Follows the experiments of one model in one worker; `begun` and `ended` are told of its jobs."""

    def __init__(self, queue: JobQueue, worker: str, engine: EngineClient) -> None:
        self._queue, self._worker, self._engine = queue, worker, engine
        self._store = ExperimentStore(queue.client, queue.model)
        self._books = ExperimentBooks(self._store)
        self._standing: Standing | None = None
        self._refused = ""
        self._turn: Turn | None = None
        # Between the clock of Redis, on which all workers agree, and this machine's.
        self._ahead_s = 0.0
        self._next_poll_s = 0.0

    def begun(self, claim: Claim) -> None:
        """Say that a job was taken in."""
        for counter in self._counters(claim):
            counter.begun(claim)

    def ended(self, claim: Claim, watch: Stopwatch, final: Final) -> None:
        """Say that a job has ended."""
        for counter in self._counters(claim):
            counter.ended(claim, watch, final)

    async def follow(self) -> None:
        """Do what is wanted until cancelled."""
        async with asyncio.TaskGroup() as group:
            books = group.create_task(self._books.keep())
            try:
                await self._take_turns()
            finally:
                books.cancel()

    async def _take_turns(self) -> None:
        while not is_cancelled():
            try:
                await self._look()
                await self._advance()
            except (RedisError, OSError, QueueError) as error:
                log.warning("experiment_unknown", error=str(error))
                await asyncio.sleep(POLL_S)
            await asyncio.sleep(self._until_next_s())

    # --- Beginning and end -------------------------------------------------------------------------------------

    async def _look(self) -> None:
        """Learn, once in a while, what runs."""
        if time.monotonic() < self._next_poll_s:
            return
        self._next_poll_s = time.monotonic() + POLL_S
        self._ahead_s = await self._queue.now_ms() / 1000 - time.time()
        try:
            found = await self._store.read()
        except ConfigError as error:
            log.warning("experiment_unreadable", error=str(error))
            found = None
        runs = found if found is not None and found.stopped is None and found.run != self._refused else None
        if self._standing is not None and (runs is None or runs.run != self._standing.run):
            await self._end(found.stopped if found and found.run == self._standing.run else None)
        if runs is not None and self._standing is None:
            await self._begin(runs)

    async def _begin(self, standing: Standing) -> None:
        experiment = standing.experiment
        try:
            await self._engine.make_arms(experiment)
        except ConfigError as error:
            # Served by other policies than it says, it would show nothing.
            self._refused = standing.run
            log.warning("experiment_refused", experiment=experiment.id, error=str(error))
            await self._store.stop(standing.run, f"worker {self._worker} cannot serve it: {error}")
            return
        self._standing = standing
        log.info("experiment_begun", experiment=experiment.id, digest=experiment.digest, first_slot=standing.first_slot)

    async def _end(self, why: str | None) -> None:
        """Go back to the server's own policy; the unit that was being counted is nobody's."""
        assert self._standing is not None
        experiment = self._standing.experiment
        self._standing = self._turn = None
        await self._engine.end_arms()
        log.info("experiment_ended", experiment=experiment.id, why=why)

    # --- Turns -------------------------------------------------------------------------------------------------

    async def _advance(self) -> None:
        """Begin and end units as their times come."""
        standing = self._standing
        if standing is None:
            return
        spec, now_s = standing.experiment.slot, time.time() + self._ahead_s
        slot = slot_at(now_s, spec.seconds)
        if slot < standing.first_slot:
            return
        into_s = now_s - slot * spec.seconds
        if self._turn is None or self._turn.slot != slot:
            closed = await self._closed(standing, self._turn, now_s) if self._turn else None
            is_whole = into_s <= max(spec.burn_in_s, LATE_SHARE * spec.seconds)
            self._turn = Turn(slot, self._arm_at(slot), is_pre=standing.is_pre(slot), is_whole=is_whole)
            await self._serve(standing, self._turn)
            if closed:
                self._books.close(closed)
        turn, late_s = self._turn, _late_s(standing)
        if turn.counter is None and turn.is_whole and 0 <= into_s - spec.burn_in_s <= late_s:
            turn.counter = await self._new_counter(standing, turn)
        elif turn.counter and turn.late is None and 0 <= into_s - spec.middle_s <= late_s and not self._splits(turn):
            turn.late = await self._new_counter(standing, turn)

    async def _new_counter(self, standing: Standing, turn: Turn) -> UnitCounter:
        return UnitCounter(standing.experiment, partial(self._arm_of, turn), await self._engine.counts())

    async def _serve(self, standing: Standing, turn: Turn) -> None:
        """Let the turn's arm plan from the next step on."""
        experiment = standing.experiment
        served = experiment.control_arm if turn.is_pre else turn.arm
        log.info("experiment_turn", experiment=experiment.id, slot=turn.slot, arm=turn.arm, is_before=turn.is_pre)
        await self._engine.serve_arm(None if self._splits(turn) else served)

    async def _closed(self, standing: Standing, turn: Turn, now_s: float) -> ClosedUnit | None:
        """Return what a unit that is over came to; None if it was not counted, or went on after its end."""
        if turn.counter is None:
            return None
        experiment = standing.experiment
        late_s = now_s - (turn.slot + 1) * experiment.slot.seconds
        if late_s > _late_s(standing):
            log.warning("experiment_unit_dropped", experiment=experiment.id, slot=turn.slot, late_s=late_s)
            return None
        arms = list(experiment.arms) if experiment.unit == "request" else [turn.arm]
        snapshot = await self._engine.counts()
        late = turn.late.sums(snapshot, arms) if turn.late else {}
        records = [
            UnitRecord(experiment.id, experiment.digest, self._worker, turn.slot, arm, own, turn.is_pre, late.get(arm))
            for arm, own in turn.counter.sums(snapshot, arms).items()
        ]
        return ClosedUnit(standing, tuple(records), turn.is_pre)

    def _until_next_s(self) -> float:
        """Return how long nothing is to be done: until the next look at Redis, or the next edge of a unit."""
        wait_s = max(0.0, self._next_poll_s - time.monotonic())
        if self._standing is not None:
            spec = self._standing.experiment.slot
            into_s = (time.time() + self._ahead_s) % spec.seconds
            edges = [edge for edge in (spec.burn_in_s, spec.middle_s, spec.seconds) if edge > into_s]
            wait_s = min(wait_s, edges[0] - into_s)
        return max(wait_s, 0.001)

    # --- Whose ---------------------------------------------------------------------------------------------------

    def _counters(self, claim: Claim) -> list[UnitCounter]:
        """Return those that count a job."""
        return self._turn.counters if self._turn and self._takes_part(claim) else []

    def _splits(self, turn: Turn) -> bool:
        assert self._standing is not None
        return self._standing.experiment.unit == "request" and not turn.is_pre

    def _arm_at(self, slot: int) -> str:
        assert self._standing is not None
        experiment = self._standing.experiment
        if experiment.unit == "request":
            return experiment.control_arm
        worker = self._worker if experiment.unit == "worker" else ""
        return arm_of_slot(experiment.salt, experiment.weights, slot, worker)

    def _arm_of(self, turn: Turn, claim: Claim) -> str:
        assert self._standing is not None
        experiment = self._standing.experiment
        return arm_of_request(experiment, claim.request_id) if experiment.unit == "request" else turn.arm

    def _takes_part(self, claim: Claim) -> bool:
        assert self._standing is not None
        return self._standing.experiment.eligible.admits(claim.job)


def _late_s(standing: Standing) -> float:
    return max(LATE_SHARE * standing.experiment.slot.seconds, LATE_S)
