"""Many experiments, each over a series of its own: how often, and how soon, they find an effect or a harm.

Every one is looked at after each block, as its operator may.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from bench.experiments.modelled import is_pre, records_of
from core.confidence_sequence import log_evidence
from core.experiments.analysis import Adjusted, adjusted_differences, find_breach
from core.experiments.blocks import make_blocks
from core.experiments.sizing import blocks_needed
from core.experiments.spec import Experiment, make_experiment
from core.experiments.unit_sums import UnitRecord, UnitSums

Z_95 = 1.959964


class Share(Struct, frozen=True):
    """So many of so many, with Wilson's 95 % limits (1927)."""

    count: int
    of: int
    share: float
    low: float
    high: float


class Power(Struct, frozen=True):
    """What many experiments find of one planted effect.

    spread    standard deviation of blocks' log ratios, covariates taken out
    found     by blocks, the share that has found it by then
    predicted blocks until four of five find it, by the spread alone
    covers    how many of the intervals over all blocks hold the effect
    """

    effect: float
    spread: float
    found: dict[int, float]
    median_blocks: int | None
    predicted: int | None
    covers: Share


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


def salted(experiment: Experiment, index: int) -> Experiment:
    """Return an experiment with an order of turns of its own."""
    return replace(experiment, salt=f"{experiment.id}-{index}")


def differences_of(experiment: Experiment, slots: Sequence[UnitSums], effect: float = 1.0) -> Adjusted:
    """Return what an experiment with a planted effect compares, block by block."""
    blocks = make_blocks(experiment, records_of(experiment, list(slots), effect))
    return adjusted_differences(experiment, blocks, experiment.treatments[0], experiment.primary, experiment.stop.alpha)


def first_finding(experiment: Experiment, found: Adjusted) -> int | None:
    """Return after how many blocks, looked at after each one, an effect is found; None if never."""
    enough = math.log(1 / experiment.stop.alpha)
    for n in range(experiment.stop.min_blocks, len(found.values) + 1):
        if log_evidence(found.values[:n], found.scale) >= enough:
            return n
    return None


def false_positives(experiment: Experiment, series: Sequence[Sequence[UnitSums]], num_experiments: int) -> Share:
    """Return how many experiments without any effect find one; series are used again where there are too few."""
    findings = []
    for index in range(num_experiments):
        own = salted(experiment, index)
        findings.append(first_finding(own, differences_of(own, series[index % len(series)])))
    return wilson(sum(found is not None for found in findings), num_experiments)


def power_of(
    experiment: Experiment, series: Sequence[Sequence[UnitSums]], num_experiments: int, effect: float
) -> Power:
    """Return how many experiments find a planted effect, and how soon."""
    rule, findings, spreads, covered, most = experiment.stop, [], [], 0, 0
    for index in range(num_experiments):
        own = salted(experiment, index)
        found = differences_of(own, series[index % len(series)], effect)
        findings.append(first_finding(own, found))
        spreads.append(float(found.values.std()))
        covered += log_evidence(found.values, found.scale, math.log(effect)) < math.log(1 / rule.alpha)
        most = max(most, len(found.values))
    at = sorted({*np.linspace(rule.min_blocks, most, 9).astype(int).tolist()})
    never = most + 1
    median = float(np.median([found or never for found in findings]))
    spread = float(np.sqrt(np.mean(np.square(spreads))))
    return Power(
        effect=effect,
        spread=spread,
        found={n: float(np.mean([found is not None and found <= n for found in findings])) for n in at},
        median_blocks=None if median >= never else round(median),
        predicted=blocks_needed(math.log(effect), spread, rule.min_blocks, rule.alpha),
        covers=wilson(covered, num_experiments),
    )


def breached_after(
    experiment: Experiment, series: Sequence[Sequence[UnitSums]], num_experiments: int, harm: float, most: int
) -> list[int | None]:
    """Return after how many blocks of comparison each experiment is stopped whose steps a treatment makes longer."""
    return [
        _breach(salted(experiment, index), series[index % len(series)], harm, most) for index in range(num_experiments)
    ]


def _breach(experiment: Experiment, slots: Sequence[UnitSums], harm: float, most: int) -> int | None:
    """Look at the guardrails after every block, as workers do; a harm makes steps so much longer."""
    records = records_of(experiment, list(slots), 1 / harm)
    first = next(slot for slot in range(len(slots)) if not is_pre(experiment, slot))
    for block in range(1, most + 1):
        known: list[UnitRecord] = records[: first + block * experiment.block_len]
        if find_breach(experiment, known):
            return block
    return None


def wilson(count: int, number: int) -> Share:
    """Return a share with its limits."""
    share, square = count / number, Z_95**2
    middle = (share + square / (2 * number)) / (1 + square / number)
    half = Z_95 * math.sqrt(share * (1 - share) / number + square / (4 * number**2)) / (1 + square / number)
    return Share(count, number, share, max(0.0, middle - half), middle + half)


def shown(powers: Mapping[str, Sequence[Power]]) -> list[str]:
    """Return power as lines of a Markdown table, by what was taken out."""
    lines = ["| covariates | effect | sd of a block | found in 20 blocks | in all | median | by the rule |"]
    lines += ["|---|---|---|---|---|---|---|"]
    for name, own in powers.items():
        for power in own:
            first, last = min(power.found), max(power.found)
            lines.append(
                f"| {name} | {power.effect - 1:.0%} | {power.spread:.1%} | {power.found[first]:.0%} "
                f"| {power.found[last]:.0%} in {last} | {power.median_blocks or '-'} | {power.predicted or '-'} |"
            )
    return lines
