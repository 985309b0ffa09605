"""An experiment as Redis keeps it: the settings, whether it was stopped, and what every unit came to.

What is wanted is declared: workers look every second and do what they find, and a worker that starts later does the
same. A stop is never taken back; who wants to go on starts another experiment under another id, and mixes no results.
"""

import uuid
from collections.abc import AsyncIterator
from typing import Any

import msgspec
from msgspec import Struct
from redis.asyncio import Redis

from client.wire import experiment_key, units_stream
from core.errors import ConfigError
from core.experiments.assignment import block_of, slot_at
from core.experiments.spec import Experiment, decode_experiment, encode_experiment
from core.experiments.unit_sums import UnitRecord, decode_record, encode_record

EXPERIMENT_FIELD = b"experiment"
RECORD_FIELD = "m"
# A record has a thousand bytes or two. An experiment ends with so many: none is dropped for another, as the first ones
# are those that say how blocks vary, and what holds at all times must not lose a part of what it was said of.
MAX_RECORDS = 50_000
READ_BATCH = 1000
# The place in an experiment's units before the first one.
START = "-"


class Begun(Struct, frozen=True, forbid_unknown_fields=True):
    """One start of an experiment: run tells it from all others, units are counted from first_slot on."""

    run: str
    first_slot: int
    experiment: dict[str, Any]


class Standing(Struct, frozen=True):
    """Where an experiment stands; stopped says why it does not run any more, None while it does."""

    run: str
    first_slot: int
    experiment: Experiment
    stopped: str | None = None

    def is_pre(self, slot: int) -> bool:
        """Tell whether a slot belongs to the time before the comparison, in which all arms are served alike."""
        experiment = self.experiment
        if experiment.unit == "request":
            return slot - self.first_slot < experiment.stop.pre_blocks
        weights = experiment.weights
        return block_of(slot, weights) - block_of(self.first_slot, weights) < experiment.stop.pre_blocks


class ExperimentStore:
    """The experiments of one model, of which one at most runs; methods raise RedisError or OSError without Redis."""

    def __init__(self, client: Redis, model: str) -> None:
        self._client, self._model = client, model

    async def start(self, experiment: Experiment, now_s: float) -> Standing:
        """Let an experiment run from its next block on; now_s is Redis's time.

        Raises ConfigError if another one runs, or one of this id has left records.
        """
        before = await self.read()
        if before is not None and before.stopped is None:
            raise ConfigError(
                f"experiment {before.experiment.id!r} runs; two at once would disturb each other: stop it first"
            )
        if await self._client.xlen(units_stream(self._model, experiment.id)):
            raise ConfigError(f"there are results of an experiment {experiment.id!r} already; give this one another id")
        weights = experiment.weights
        length = 1 if experiment.unit == "request" else sum(weights.values())
        first_slot = (slot_at(now_s, experiment.slot.seconds) // length + 1) * length
        begun = Begun(uuid.uuid4().hex, first_slot, msgspec.json.decode(encode_experiment(experiment)))
        key = experiment_key(self._model)
        old = [field for field in await self._client.hgetall(key) if field != EXPERIMENT_FIELD]
        await self._client.hset(key, EXPERIMENT_FIELD, msgspec.json.encode(begun))
        if old:
            await self._client.hdel(key, *old)
        return Standing(begun.run, first_slot, experiment)

    async def read(self) -> Standing | None:
        """Return the experiment that runs, or ran last; raises ConfigError if it cannot be read."""
        found: Any = await self._client.hgetall(experiment_key(self._model))
        if EXPERIMENT_FIELD not in found:
            return None
        try:
            begun = msgspec.json.decode(found[EXPERIMENT_FIELD], type=Begun)
        except msgspec.DecodeError as error:
            raise ConfigError(f"the stored experiment cannot be read: {error}") from error
        stopped = found.get(begun.run.encode())
        experiment = decode_experiment(msgspec.json.encode(begun.experiment))
        return Standing(begun.run, begun.first_slot, experiment, None if stopped is None else stopped.decode())

    async def stop(self, run: str, why: str) -> None:
        """Stop a run for good: every worker goes back to the server's own policy. Of a later run nothing changes.

        The first reason stays.
        """
        key = experiment_key(self._model)
        if not await self._client.hexists(key, run):
            await self._client.hset(key, run, why)

    async def put(self, record: UnitRecord) -> None:
        """Keep what a unit came to."""
        fields: Any = {RECORD_FIELD: encode_record(record)}
        await self._client.xadd(units_stream(self._model, record.experiment), fields)

    async def records(self, experiment_id: str) -> list[UnitRecord]:
        """Return all units of an experiment; raises QueueError if one cannot be read."""
        return [record async for records, _ in self.batches(experiment_id) for record in records]

    async def batches(self, experiment_id: str, after: str = START) -> AsyncIterator[tuple[list[UnitRecord], str]]:
        """Yield the units that lie after a place, some at a time, each time with the place of the last one.

        Raises QueueError if one cannot be read.
        """
        stream = units_stream(self._model, experiment_id)
        while True:
            first = START if after == START else f"({after}"
            rows: Any = await self._client.xrange(stream, min=first, count=READ_BATCH)
            if not rows:
                return
            after = rows[-1][0].decode()
            yield [decode_record(fields.get(RECORD_FIELD.encode(), b"")) for _, fields in rows], after
