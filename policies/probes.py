"""Probes: now and then a sequence's drafts are all verified, whatever the policy would trim.

Only such rounds tell how survivals far down are calibrated, and what became of drafts that looked too weak to be tried.
Who is probed is decided by a coin before any draft exists, so a probe biases neither the output nor what it measures.
"""

import math

import numpy as np
from msgspec.structs import replace

from core.planning import Plan

# Share of drafting sequences that are probed: rows are free where few sequences decode, and dear where many do.
MOST, LEAST = 0.02, 0.005
FEW_SEQUENCES = 8


class Probes:
    """The coins of one policy, its own and seeded: two policies with equal views probe alike.

    One coin per sequence and step; how many come to nothing is drawn at once, for tossing them all would take longer
    than planning. The number of failures before a success is an exponential number over -log(1 - share), cut off.
    """

    def __init__(self, seed: int = 0) -> None:
        self._random = np.random.default_rng(seed)
        self._left = self._random.exponential()

    def add(self, plan: Plan) -> Plan:
        """Return the plan with a floor of all drafts for the sequences that the coin picks; most often as it was."""
        size = len(plan.draft_len)
        if not size:
            return plan
        rate = -math.log1p(-probed_share(size))
        if self._left >= rate * size:
            self._left -= rate * size
            return plan
        is_probed = np.zeros(size, dtype=np.bool_)
        index = int(self._left / rate)
        while index < size:
            is_probed[index] = True
            self._left = self._random.exponential()
            index += 1 + int(self._left / rate)
        # Of the last run, what reaches beyond this step.
        self._left = (index - size) * rate + self._left % rate
        is_probed &= plan.draft_len > 0
        if not is_probed.any():
            return plan
        floor = np.where(is_probed, plan.draft_len, np.int32(0))
        return replace(plan, floor=floor if plan.floor is None else np.maximum(floor, plan.floor))


def probed_share(num_sequences: int) -> float:
    """Return the share of drafting sequences to probe while so many decode."""
    return min(max(MOST * FEW_SEQUENCES / max(num_sequences, 1), LEAST), MOST)
