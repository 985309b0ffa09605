"""Whether what an arm shows depends on how far into its slot one looks: what the arm before left may still be at work.

The effect by the later halves of what is counted of slots is that with a longer burn-in; beside the one by the earlier
halves it tests that burn-in suffices (Bojinov, Simchi-Levi and Zhao, Design and analysis of switchback experiments,
2023: the order of carry-over is tested by comparing two). An arm that learns during its turn shows in it as well.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from core.confidence_sequence import confidence_sequence
from core.experiments.blocks import Block, log_ratios, make_blocks, scale_of
from core.experiments.spec import Experiment
from core.experiments.unit_sums import UnitRecord
from core.statistics import Interval


class CarryOver(Struct, frozen=True):
    """One arm's primary metric as a ratio to the control, late in slots against early in them.

    change  the later ratio over the earlier; 1 is no carry-over
    late    the ratio by the later halves alone, without covariates
    """

    num_blocks: int
    change: Interval
    late: Interval

    @property
    def is_shown(self) -> bool:
        """Tell whether there surely is any."""
        return not self.change.low <= 1 <= self.change.high


def carried_over(experiment: Experiment, records: Iterable[UnitRecord]) -> dict[str, CarryOver]:
    """Return by treatment what the halves of slots say, once a block of the comparison has them.

    Intervals hold at all times together, with alpha shared out among the arms.
    """
    halved = [(record, record.late) for record in records if record.late is not None]
    early = make_blocks(experiment, [replace(record, sums=record.sums.minus(late)) for record, late in halved])
    late = make_blocks(experiment, [replace(record, sums=half) for record, half in halved])
    found = {arm: _carry_over(experiment, list(zip(early, late, strict=True)), arm) for arm in experiment.treatments}
    return {arm: one for arm, one in found.items() if one is not None}


def _carry_over(experiment: Experiment, halves: Sequence[tuple[Block, Block]], arm: str) -> CarryOver | None:
    alpha = experiment.stop.alpha / len(experiment.treatments)
    changes: dict[bool, list[float]] = {True: [], False: []}
    ratios: dict[bool, list[float]] = {True: [], False: []}
    for early, late in halves:
        before, after = (_log_ratio(experiment, half, arm) for half in (early, late))
        if before is not None and after is not None:
            changes[early.is_pre].append(after - before)
            ratios[early.is_pre].append(after)
    if not changes[False]:
        return None
    change, ratio = (_interval(experiment, values[True], values[False], alpha) for values in (changes, ratios))
    return CarryOver(len(changes[False]), change, ratio)


def _log_ratio(experiment: Experiment, block: Block, arm: str) -> float | None:
    return next(iter(log_ratios(experiment, [block], arm, experiment.primary).tolist()), None)


def _interval(experiment: Experiment, before: Sequence[float], values: Sequence[float], alpha: float) -> Interval:
    scale = scale_of(np.array(before), experiment.stop.min_blocks, alpha)
    return confidence_sequence(values, scale, alpha).exp()
