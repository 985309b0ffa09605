"""Whether an experiment can be believed at all: lost units, an effect where there is none, a change no arm can make."""

import math
from collections import Counter
from collections.abc import Sequence

from msgspec import Struct

from core.confidence_sequence import log_evidence, share_log_evidence
from core.experiments.assignment import arm_of_slot, block_of
from core.experiments.blocks import F64, Block, log_ratios, scale_of
from core.experiments.spec import Experiment
from core.experiments.unit_sums import UnitRecord

# How surely something must be wrong with the experiment itself before it is stopped for it.
TRUST_ALPHA = 1e-3


class Trust(Struct, frozen=True):
    """Whether the experiment can be believed; p values, or at-all-times ones, and what they say.

    slots_p    that units were lost whatever their arm; before_p  that the blocks before show no effect
    nulls      by metric, that it is the same in all arms
    """

    slots_p: float
    before_p: float | None
    nulls: dict[str, float]
    faults: tuple[str, ...]


def judge_trust(
    experiment: Experiment, records: Sequence[UnitRecord], pre: Sequence[Block], main: Sequence[Block]
) -> Trust:
    """Return what there is to doubt; pre are the blocks in which all arms were served alike."""
    faults = []
    slots_p = _slots_p(experiment, records)
    if slots_p < TRUST_ALPHA:
        faults.append(f"units were lost from some arms more than from others (p = {slots_p:.2g})")
    before_p = _before_p(experiment, pre)
    if before_p is not None and before_p < TRUST_ALPHA:
        faults.append(f"the blocks before, in which all arms were the same, differ (p = {before_p:.2g})")
    nulls = {metric: _null_p(experiment, pre, main, metric) for metric in experiment.null_checks}
    faults += [
        f"{metric} differs, which no arm can change (p = {p:.2g})" for metric, p in nulls.items() if p < TRUST_ALPHA
    ]
    return Trust(slots_p, before_p, nulls, tuple(faults))


def _slots_p(experiment: Experiment, records: Sequence[UnitRecord]) -> float:
    """Return the p value that arms lost units, or got requests, by their weights: the sample-ratio check."""
    weights, control = experiment.weights, experiment.control_arm
    slots = _begun(records) if experiment.unit == "request" else _lost(experiment, records)
    seen = [slots[slot] for slot in sorted(slots)]
    most = max(
        _most_against(weights[arm] / (weights[arm] + weights[control]), arm, control, seen)
        for arm in experiment.treatments
    )
    return min(1.0, len(experiment.treatments) * math.exp(-most))


def _most_against(share: float, arm: str, control: str, seen: Sequence[Counter[str]]) -> float:
    """Return the most log evidence, after any slot, against an arm's share of what it and the control had."""
    hits = number = 0
    most = 0.0
    for counts in seen:
        hits += counts[arm]
        number += counts[arm] + counts[control]
        most = max(most, share_log_evidence(hits, number, share))
    return most


def _begun(records: Sequence[UnitRecord]) -> dict[int, Counter[str]]:
    """Return how many requests each arm got, by slot."""
    slots: dict[int, Counter[str]] = {}
    for record in records:
        slots.setdefault(record.slot, Counter())[record.arm] += record.sums.begun
    return slots


def _lost(experiment: Experiment, records: Sequence[UnitRecord]) -> dict[int, Counter[str]]:
    """Return of how many units of each arm a worker wrote nothing that wrote of others in the block, by slot.

    Where all workers have their turns together, a unit that several of them lost is one: an outage has one arm, however
    many it hits. Of blocks in which a worker wrote nothing at all no arm lost more than its part, and of the latest
    unit not all may have written yet.
    """
    weights, size = experiment.weights, experiment.block_len
    have = {(record.worker, record.slot) for record in records}
    latest = max((slot for _, slot in have), default=0)
    writers: dict[tuple[str, int], set[str]] = {}
    for worker, slot in have:
        owner = worker if experiment.unit == "worker" else ""
        writers.setdefault((owner, block_of(slot, weights)), set()).add(worker)
    lost: dict[int, Counter[str]] = {}
    for (owner, block), workers in writers.items():
        for slot in range(block * size, min((block + 1) * size, latest)):
            if any((worker, slot) not in have for worker in workers):
                lost.setdefault(slot, Counter())[arm_of_slot(experiment.salt, weights, slot, owner)] += 1
    return lost


def _before_p(experiment: Experiment, pre: Sequence[Block]) -> float | None:
    """Return the p value of no effect in the blocks before; None if there are too few to tell."""
    found = [log_ratios(experiment, pre, arm, experiment.primary) for arm in experiment.treatments]
    if not found or min(map(len, found)) < 2:
        return None
    return min(1.0, len(found) * min(_at_all_times_p(one, scale_of(one[:0], len(one), TRUST_ALPHA)) for one in found))


def _null_p(experiment: Experiment, pre: Sequence[Block], main: Sequence[Block], metric: str) -> float:
    p = 1.0
    for arm in experiment.treatments:
        values = log_ratios(experiment, main, arm, metric)
        before = log_ratios(experiment, pre, arm, metric)
        scale = scale_of(before, experiment.stop.min_blocks, TRUST_ALPHA)
        p = min(p, _at_all_times_p(values, scale))
    return min(1.0, p * len(experiment.treatments))


def _at_all_times_p(values: F64, scale: float) -> float:
    """Return 1 over the most evidence against no effect that there ever was."""
    most = max((log_evidence(values[:n], scale) for n in range(1, len(values) + 1)), default=0.0)
    return min(1.0, math.exp(-most))
