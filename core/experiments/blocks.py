"""From records to blocks: the sums of every arm in each block, which are what arms are compared by."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from core.confidence_sequence import mixture_scale
from core.experiments.assignment import block_of
from core.experiments.metrics import COVARIATES, METRICS, PREVIOUS
from core.experiments.spec import Experiment
from core.experiments.unit_sums import UnitRecord, UnitSums, total

F64 = NDArray[np.float64]

# How blocks vary where no block before the comparison says it: log ratios.
USUAL_SPREAD = 0.05
LEAST_VARIANCE = 1e-10

# Whose block, and which: a worker's name where workers are units, else "".
BlockKey = tuple[str, int]
# By whose unit and its slot.
Residuals = dict[tuple[str, int], float]


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
            self.whole[arm] = total(units.values())
        return self.whole.get(arm)


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
        slots[record.slot] = slots.get(record.slot, UnitSums()).plus(record.sums)
    return [blocks[key] for key in sorted(blocks, key=lambda key: (key[1], key[0])) if key not in mixed]


def differences(experiment: Experiment, blocks: Sequence[Block], arm: str, metric: str) -> tuple[F64, F64]:
    """Return per block the log ratio of `arm` to the control [n], and the covariates' differences [n, k].

    Blocks in which either had nothing of the metric are left out: what they would have been is not known.
    """
    values: list[float] = []
    known: list[list[float]] = []
    before = _residuals(experiment, blocks, metric) if PREVIOUS in experiment.cuped else {}
    for block in blocks:
        ours, theirs = block.sums(arm), block.sums(experiment.control_arm)
        if ours is None or theirs is None:
            continue
        mine, other = METRICS[metric].log(ours), METRICS[metric].log(theirs)
        if mine is None or other is None:
            continue
        values.append(mine - other)
        row = []
        for name in experiment.cuped:
            if name == PREVIOUS:
                row.append(_mean(before, block, arm) - _mean(before, block, experiment.control_arm))
            else:
                row.append(COVARIATES[name](ours) - COVARIATES[name](theirs))
        known.append(row)
    return np.array(values), np.array(known, dtype=np.float64).reshape(len(values), len(experiment.cuped))


def scale_of(before: F64, num_blocks: int, alpha: float) -> float:
    """Return the mixture's scale, by how blocks varied before the comparison: chosen before it, as it must be."""
    variance = float((before**2).mean()) if len(before) > 1 else USUAL_SPREAD**2
    return mixture_scale(num_blocks, max(variance, LEAST_VARIANCE), alpha)


def _residuals(experiment: Experiment, blocks: Sequence[Block], metric: str) -> Residuals:
    """Return, by unit, how far the unit just before it was from what its arm had come to until then.

    The arm's own mean is taken off because an arm changes the outcome of the unit before as well: of its effect
    nothing may be explained away.
    """
    means: dict[str, tuple[float, int]] = {}
    found: Residuals = {}
    for block in blocks:
        units = [(slot, arm, sums) for arm, slots in block.units.items() for slot, sums in slots.items()]
        for slot, arm, sums in sorted(units, key=lambda unit: unit[0]):
            value = METRICS[metric].log(sums)
            if value is None:
                continue
            # Before the comparison all arms are one.
            served = experiment.control_arm if block.is_pre else arm
            mean, count = means.get(served, (value, 0))
            found[block.key[0], slot + 1] = value - mean
            means[served] = (mean + (value - mean) / (count + 1), count + 1)
    return found


def _mean(residuals: Residuals, block: Block, arm: str) -> float:
    slots = block.units[arm]
    return sum(residuals.get((block.key[0], slot), 0.0) for slot in slots) / len(slots)
