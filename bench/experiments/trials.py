"""Many experiments over the same slots, each under a salt of its own: how often, and how soon, they find an effect."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from msgspec.structs import replace

from bench.experiments.modelled import records_of
from core.confidence_sequence import log_evidence
from core.experiments.analysis import adjusted_differences
from core.experiments.blocks import make_blocks
from core.experiments.spec import Experiment, make_experiment
from core.experiments.unit_sums import UnitSums

Z_95 = 1.959964


def trial(name: str, control: dict[str, Any], treatment: dict[str, Any], **fields: Any) -> Experiment:
    """Return an experiment of two arms on a modelled machine."""
    values = {
        "id": name,
        "arms": {"control": control, "treatment": treatment},
        "slot": {"seconds": 1.0, "burn_in_s": 0.25},
        "stop": {"pre_blocks": 12, "min_blocks": 20, "max_blocks": 10_000},
        "guardrails": {},
        "null_checks": [],
    }
    return make_experiment(values | fields, "the trial")


def first_finding(experiment: Experiment, slots: Sequence[UnitSums], effect: float = 1.0) -> int | None:
    """Return after how many blocks, looked at after each one, an effect is found; None if never."""
    blocks = make_blocks(experiment, records_of(experiment, list(slots), effect))
    arm = experiment.treatments[0]
    found = adjusted_differences(experiment, blocks, arm, experiment.primary, experiment.stop.alpha)
    enough = math.log(1 / experiment.stop.alpha)
    for n in range(experiment.stop.min_blocks, len(found.values) + 1):
        if log_evidence(found.values[:n], found.scale) >= enough:
            return n
    return None


def false_positives(
    experiment: Experiment, series: Sequence[Sequence[UnitSums]], num_experiments: int
) -> dict[str, Any]:
    """Return how many experiments without any effect find one, with Wilson's 95 % limits of their share."""
    findings = [first_finding(*_salted(experiment, series, index)) for index in range(num_experiments)]
    return wilson(sum(found is not None for found in findings), num_experiments)


def found_after(
    experiment: Experiment, series: Sequence[Sequence[UnitSums]], num_experiments: int, effect: float
) -> dict[str, Any]:
    """Return the share of experiments that have found a planted effect, by blocks."""
    findings = [first_finding(*_salted(experiment, series, index), effect) for index in range(num_experiments)]
    most = max(len(slots) // 2 for slots in series) - experiment.stop.pre_blocks
    at = [int(n) for n in np.linspace(experiment.stop.min_blocks, most, 8)]
    return {str(n): float(np.mean([found is not None and found <= n for found in findings])) for n in at}


def wilson(count: int, number: int) -> dict[str, Any]:
    """Return a share with its limits (Wilson 1927)."""
    share, square = count / number, Z_95**2
    middle = (share + square / (2 * number)) / (1 + square / number)
    half = Z_95 * math.sqrt(share * (1 - share) / number + square / (4 * number**2)) / (1 + square / number)
    return {"count": count, "of": number, "share": share, "low": max(0.0, middle - half), "high": middle + half}


def _salted(
    experiment: Experiment, series: Sequence[Sequence[UnitSums]], index: int
) -> tuple[Experiment, Sequence[UnitSums]]:
    return replace(experiment, salt=f"{experiment.id}-{index}"), series[index % len(series)]
