"""From records to blocks: the sums of every arm in each block, which are what arms are compared by."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from core.confidence_sequence import mixture_scale
from core.experiments.assignment import block_of
from core.experiments.metrics import COVARIATES, DRIFT, METRICS
from core.experiments.spec import Experiment
from core.experiments.unit_sums import UnitRecord, UnitSums, total

F64 = NDArray[np.float64]

# How blocks vary where no block before the comparison says it: log ratios.
USUAL_SPREAD = 0.05
LEAST_VARIANCE = 1e-10

# Whose block, and which: a worker's name where workers are units, else "".
BlockKey = tuple[str, int]


class Level(NamedTuple):
    """The log of a metric in one unit, and the arm that it was served by."""

    value: float
    served: str


# By whose unit and its slot.
Levels = dict[tuple[str, int], Level]


@dataclass(slots=True)
class Block:
    """One block: the units of each arm, in their order; is_pre if all were served as the control."""

    key: BlockKey
    is_pre: bool
    units: dict[str, dict[int, UnitSums]] = field(default_factory=dict)
    whole: dict[str, UnitSums] = field(default_factory=dict)

    def sums(self, arm: str) -> UnitSums | None:
        """Return an arm's sums, None if it had none here; to be asked once the block is whole."""
        if arm not in self.whole and (units := self.units.get(arm)):
            first, *others = units.values()
            self.whole[arm] = total((first, *others)) if others else first
        return self.whole.get(arm)

    def is_whole(self, arms: Iterable[str]) -> bool:
        """Tell whether every arm had a unit here."""
        return all(self.units.get(arm) for arm in arms)

    @property
    def first_slot(self) -> int:
        """Its first slot that was measured."""
        return min(min(slots) for slots in self.units.values())

    @property
    def last_slot(self) -> int:
        """Its last slot that was measured."""
        return max(max(slots) for slots in self.units.values())


def make_blocks(experiment: Experiment, records: Iterable[UnitRecord]) -> list[Block]:
    """Return the blocks of an experiment in their order; records of other settings are left out.

    A block that began before the comparison and went on in it is neither.
    """
    blocks: dict[BlockKey, Block] = {}
    mixed: set[BlockKey] = set()
    for record in records:
        if record.digest != experiment.digest:
            continue
        owner = record.worker if experiment.unit == "worker" else ""
        number = record.slot if experiment.unit == "request" else block_of(record.slot, experiment.weights)
        key = (owner, number)
        block = blocks.setdefault(key, Block(key, record.is_pre))
        if block.is_pre is not record.is_pre:
            mixed.add(key)
        slots = block.units.setdefault(record.arm, {})
        before = slots.get(record.slot)
        slots[record.slot] = before.plus(record.sums) if before else record.sums
    return [blocks[key] for key in sorted(blocks, key=lambda key: (key[1], key[0])) if key not in mixed]


class Adjustable(NamedTuple):
    """Log ratios to the control by block [n], the covariates' differences [n, k], and how many are of before."""

    values: F64
    covariates: F64
    num_before: int


def log_ratios(experiment: Experiment, blocks: Sequence[Block], arm: str, metric: str) -> F64:
    """Return per block the log ratio of `arm` to the control [n].

    Blocks in which either had nothing of the metric are left out: what they would have been is not known.
    """
    found = (_log_ratio(experiment, block, arm, metric) for block in blocks)
    return np.array([value for value in found if value is not None])


def last_counts(experiment: Experiment, blocks: Sequence[Block], arm: str, metric: str, number: int) -> list[int]:
    """Return an arm's cases and their whole, and the control's, over the last blocks that `log_ratios` tells of [4].

    Raises ValueError for a metric that counts no cases.
    """
    counts = METRICS[metric].counts
    sides = [
        (*counts(ours), *counts(theirs))
        for block in blocks
        if (ours := block.sums(arm)) and (theirs := block.sums(experiment.control_arm))
    ]
    last = [side for side in sides if side[1] > 0 and side[3] > 0][-number:]
    return [sum(column) for column in zip(*last, strict=True)]


def adjustable(experiment: Experiment, blocks: Sequence[Block], arm: str, metric: str) -> Adjustable:
    """Return the log ratios with what may explain them; blocks of before come first.

    Where drift is a covariate, a block is left out until the unit after it was measured: what is taken off a block must
    not change from one look to the next. For the same reason, and as a block must have no part in what it is adjusted
    by, the units around it are freed of their arms' effects by the blocks before it alone.
    """
    has_drift = DRIFT in experiment.cuped
    levels = _levels(experiment, blocks, metric) if has_drift else {}
    last: dict[str, int] = {}
    for block in blocks:
        last[block.key[0]] = max(block.last_slot, last.get(block.key[0], block.last_slot))
    values: list[float] = []
    rows: list[list[float]] = []
    num_before = 0
    effects = _Effects()
    for block in blocks:
        value = _log_ratio(experiment, block, arm, metric)
        if value is not None and not (has_drift and last[block.key[0]] <= block.last_slot):
            around = _net(levels, block, effects)
            rows.append([_covariate(around, block, arm, experiment.control_arm, name) for name in experiment.cuped])
            values.append(value)
            num_before += block.is_pre
        if has_drift and not block.is_pre:
            effects.add({one: _log_ratio(experiment, block, one, metric) for one in experiment.treatments})
    return Adjustable(np.array(values), np.array(rows).reshape(len(values), len(experiment.cuped)), num_before)


def scale_of(before: F64, num_blocks: int, alpha: float) -> float:
    """Return the mixture's scale, by how blocks varied before the comparison: chosen before it, as it must be.

    Blocks in which nothing at all varied, as errors do that there were none of, say nothing of it.
    """
    variance = variance_of(before, USUAL_SPREAD**2) or USUAL_SPREAD**2
    return mixture_scale(num_blocks, max(variance, LEAST_VARIANCE), alpha)


def variance_of(before: F64, unknown: float) -> float:
    """Return how log ratios vary about 0, which is what they are without any effect; `unknown` for too few."""
    return float((before**2).mean()) if len(before) > 1 else unknown


def _log_ratio(experiment: Experiment, block: Block, arm: str, metric: str) -> float | None:
    ours, theirs = block.sums(arm), block.sums(experiment.control_arm)
    if ours is None or theirs is None:
        return None
    return METRICS[metric].log_ratio(ours, theirs)


class _Effects:
    """Each arm's mean log ratio to the control, over the blocks that were added so far."""

    def __init__(self) -> None:
        self._sums: dict[str, float] = {}
        self._counts: Counter[str] = Counter()

    def add(self, values: dict[str, float | None]) -> None:
        """Add a block's log ratios; an arm without one is left as it is."""
        for arm, value in values.items():
            if value is not None:
                self._sums[arm] = self._sums.get(arm, 0.0) + value
                self._counts[arm] += 1

    def of(self, arm: str) -> float:
        """Return 0 for the control, and for an arm that nothing is known of."""
        return self._sums.get(arm, 0.0) / max(1, self._counts[arm])


def _net(levels: Levels, block: Block, effects: _Effects) -> tuple[float, float] | None:
    """Return the logs of the units before a block and after it, less their arms' effects; None without both."""
    before, after = levels.get((block.key[0], block.first_slot - 1)), levels.get((block.key[0], block.last_slot + 1))
    if before is None or after is None:
        return None
    return before.value - effects.of(before.served), after.value - effects.of(after.served)


def _covariate(around: tuple[float, float] | None, block: Block, arm: str, control: str, name: str) -> float:
    if name == DRIFT:
        return _drift(around, block, arm) - _drift(around, block, control)
    return COVARIATES[name](block.whole[arm]) - COVARIATES[name](block.whole[control])


def _levels(experiment: Experiment, blocks: Sequence[Block], metric: str) -> Levels:
    levels: Levels = {}
    for block in blocks:
        for arm, slots in block.units.items():
            served = experiment.control_arm if block.is_pre else arm
            for slot, sums in slots.items():
                if (value := METRICS[metric].log(sums)) is not None:
                    levels[block.key[0], slot] = Level(value, served)
    return levels


def _drift(around: tuple[float, float] | None, block: Block, arm: str) -> float:
    """Return what the units just before and just after the block say of an arm's slots, on the line between them.

    Whose those two were has nothing to do with the order in the block: swapping its arms changes the sign of what is
    returned for one less what is returned for the other, as it does that of the outcome. The unit before a slot, of
    this block or not, would not do: the outcome would then be adjusted by a part of itself.
    """
    if around is None:
        return 0.0
    before, after = around
    own, first, last = block.units[arm], block.first_slot, block.last_slot
    share = (sum(own) / len(own) - first + 1) / (last - first + 2)
    return before + (after - before) * share
