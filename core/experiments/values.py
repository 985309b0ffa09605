"""What every metric of one arm came to over all its units: ratios with limits by the delta method, others none."""

import math
from collections.abc import Sequence

from msgspec import Struct

from core.experiments.blocks import Block
from core.experiments.metrics import METRICS
from core.experiments.unit_sums import total
from core.ratios import ratio_interval


class ArmValue(Struct, frozen=True):
    """One metric of one arm; low and high are 95 % limits, None where there are none."""

    value: float | None
    low: float | None = None
    high: float | None = None


def arm_values(blocks: Sequence[Block], arm: str) -> dict[str, ArmValue]:
    """Return an arm's metrics by name."""
    units = [sums for block in blocks for sums in block.units.get(arm, {}).values()]
    whole = total(units)
    values: dict[str, ArmValue] = {}
    for name, metric in METRICS.items():
        value = ArmValue(metric.value(whole))
        if metric.parts and value.value is not None:
            above, below = ([getattr(one, part) for one in units] for part in metric.parts)
            interval = ratio_interval(above, below)
            if math.isfinite(interval.low):
                value = ArmValue(interval.estimate, interval.low, interval.high)
        values[name] = value
    return values
