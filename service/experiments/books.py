"""What an experiment's units came to, as one worker keeps it: it writes down its own, reads all, and judges.

All of it goes on beside the turns: the next arm is served while the books of the one before are closed. What was read
once is kept, so that only what is new is read after each unit.
"""

import asyncio

import structlog
from msgspec import Struct
from redis.exceptions import RedisError

from core.errors import QueueError
from core.experiments.analysis import find_end
from core.experiments.unit_sums import UnitRecord
from service.experiments.store import MAX_RECORDS, START, ExperimentStore, Standing
from service.tasks import is_cancelled

log = structlog.get_logger()


class ClosedUnit(Struct, frozen=True):
    """One unit of this worker's that is over: of which run, and a record for each arm that had a part in it."""

    standing: Standing
    records: tuple[UnitRecord, ...]
    is_pre: bool


class ExperimentBooks:
    """Takes units that are over, and stops the experiment for everybody where what is known says so."""

    def __init__(self, store: ExperimentStore, max_records: int = MAX_RECORDS) -> None:
        self._store, self._max_records = store, max_records
        self._closed: asyncio.Queue[ClosedUnit] = asyncio.Queue()
        self._run, self._place = "", START
        self._known: list[UnitRecord] = []

    def close(self, unit: ClosedUnit) -> None:
        """Take in a unit that is over; it is written down as soon as may be."""
        self._closed.put_nowait(unit)

    async def keep(self) -> None:
        """Write and judge what is taken in, until cancelled; a unit that cannot be written is lost."""
        while not is_cancelled():
            units = [await self._closed.get()]
            # Judging may take longer than a unit: those that have come meanwhile are judged together.
            while not self._closed.empty():
                units.append(self._closed.get_nowait())
            for unit in units:
                try:
                    for record in unit.records:
                        await self._store.put(record)
                except (RedisError, OSError) as error:
                    log.warning("experiment_unit_lost", slot=unit.records[0].slot, error=str(error))
            last = units[-1]
            try:
                await self._judge(last.standing, is_pre=last.is_pre)
            except (RedisError, OSError, QueueError) as error:
                log.warning("experiment_unjudged", error=str(error))

    async def _judge(self, standing: Standing, *, is_pre: bool) -> None:
        """Read what is new, and stop the experiment if that ends it."""
        if standing.run != self._run:
            self._run, self._place, self._known = standing.run, START, []
        experiment = standing.experiment
        async for records, place in self._store.batches(experiment.id, self._place):
            self._known += records
            self._place = place
        why = None
        if len(self._known) >= self._max_records:
            why = f"its {len(self._known)} units are as many as are kept of an experiment"
        elif not is_pre:
            # What was served alike is judged as a whole, once it is over.
            why = await asyncio.to_thread(find_end, experiment, self._known)
        if why:
            log.error("experiment_stops", experiment=experiment.id, why=why)
            await self._store.stop(standing.run, why)
