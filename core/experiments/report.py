"""An analysis as Markdown: what to do and why first, then what it rests on."""

import math

from core.experiments.analysis import Analysis, ArmResult
from core.experiments.carry_over import CarryOver
from core.experiments.metrics import METRICS
from core.experiments.sizing import blocks_needed
from core.experiments.spec import INTERFERENCE, SOUND_HOURS, Experiment
from core.experiments.values import ArmValue
from core.statistics import Interval

# Before so many blocks it is not known how they vary.
FEWEST_BLOCKS = 8
OF_SOME_HOURS = (
    "the comparison covers less than two days, and what it shows need not hold at other hours; on traffic that follows "
    "the day let it run for two or more (`stop.min_hours`)"
)
HOW_TO_CARRY_LESS = (
    "either the arm before is still at work when counting begins, so make `slot.burn_in_s` longer, or the arm itself "
    "changes during its turn, so make slots longer"
)
MINUTES_UP_TO_HOURS = 2.0
EFFECTS = (0.01, 0.02, 0.03, 0.05, 0.1)


def to_markdown(experiment: Experiment, analysis: Analysis) -> str:
    """Return the report."""
    told = (
        f"Unit {experiment.unit}, {analysis.num_blocks} blocks compared after {analysis.num_pre_blocks} in which all "
        f"arms were served as the control; control {experiment.control_arm!r}; settings {analysis.digest}. Intervals "
        f"against the control hold at all times together, {1 - experiment.stop.alpha:.0%} for all arms."
    )
    lines = [f"# Experiment {analysis.experiment}: {analysis.advice}", "", f"{analysis.why}.", "", told]
    if experiment.unit == "request":
        lines += ["", f"**Conditional and interfering**: {INTERFERENCE}."]
    if analysis.hours < SOUND_HOURS:
        lines += ["", f"**Of {_hours(analysis.hours)}**: {OF_SOME_HOURS}."]
    lines += [
        line for arm, one in analysis.carried.items() if one.is_shown for line in ("", _carry_over_warning(arm, one))
    ]
    lines += [
        "",
        "| arm | metric | ratio to control | without covariates | blocks | advice |",
        "|---|---|---|---|---|---|",
    ]
    lines += [_primary_row(experiment, arm) for arm in analysis.arms]
    lines += [
        "",
        "## Guardrails",
        "",
        "| arm | metric | may be worse by | is worse by | at least | |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {arm.arm} | {one.metric} | {one.limit:g} | {one.worse.estimate:.3g} | {_number(one.worse.low)} "
        f"| {'**breached**' if one.is_breached else 'holds'} |"
        for arm in analysis.arms
        for one in arm.guardrails
    ]
    lines += ["", "## Can it be believed", "", *_trust_lines(analysis)]
    if sizes := [line for arm in analysis.arms for line in _size_lines(experiment, arm)]:
        lines += ["", "## How long it takes", "", *sizes]
    lines += ["", "## Latency, ratio to control", "", "95 % each, by resampling blocks; for a single look.", ""]
    lines += [f"- {arm.arm}, {name}: {_shown(found)}" for arm in analysis.arms for name, found in arm.quantiles.items()]
    lines += ["", "## What each arm came to", "", f"| metric | {' | '.join(analysis.values)} |"]
    lines += ["|---" * (len(analysis.values) + 1) + "|"]
    lines += [
        f"| {name}: {metric.description} | {' | '.join(_value(arm[name]) for arm in analysis.values.values())} |"
        for name, metric in METRICS.items()
    ]
    return "\n".join(lines) + "\n"


def _primary_row(experiment: Experiment, arm: ArmResult) -> str:
    if arm.primary is None:
        return f"| {arm.arm} | {experiment.primary} | - | - | 0 | {arm.advice} |"
    one = arm.primary
    return (
        f"| {arm.arm} | {one.metric} | {_shown(one.ratio)} | {_shown(one.unadjusted)} | {one.num_blocks} "
        f"| {arm.advice} |"
    )


def _trust_lines(analysis: Analysis) -> list[str]:
    trust = analysis.trust
    before = "too few blocks to tell" if trust.before_p is None else f"p = {trust.before_p:.2g}"
    lines = [
        f"- units lost alike from all arms (sample ratio): p = {trust.slots_p:.2g}",
        f"- no effect before the comparison (A/A): {before}",
    ]
    lines += [f"- {metric} alike in all arms: p = {p:.2g}, at all times" for metric, p in trust.nulls.items()]
    lines += [
        f"- later over earlier halves of slots (carry-over), {arm}: {_shown(one.change)}; by later halves alone its "
        f"ratio is {_shown(one.late)}"
        for arm, one in analysis.carried.items()
    ]
    return lines + [f"- **fault**: {fault}" for fault in trust.faults]


def _carry_over_warning(arm: str, one: CarryOver) -> str:
    return (
        f"**Carry-over**: the ratio of {arm!r} is {_shown(one.change)} times as high in the later half of what is "
        f"counted of slots: {HOW_TO_CARRY_LESS}."
    )


def _size_lines(experiment: Experiment, arm: ArmResult) -> list[str]:
    """Return how long effects take to be found, by how blocks have varied so far; nothing for too few blocks."""
    one = arm.primary
    if one is None or one.num_blocks < FEWEST_BLOCKS or not one.spread:
        return []
    block_s = experiment.block_s
    alpha, usual = experiment.stop.alpha / len(experiment.treatments), experiment.stop.min_blocks
    found = [(effect, blocks_needed(math.log1p(effect), one.spread, usual, alpha)) for effect in EFFECTS]
    told = [f"{effect:.0%} in {n} blocks ({n * block_s / 3600:.1f} h)" for effect, n in found if n is not None]
    return [
        f"- {arm.arm}: blocks vary by {one.spread:.1%}; four of five experiments find an effect of {', '.join(told)}"
    ]


def _hours(hours: float) -> str:
    return f"{hours * 60:.0f} minutes" if hours < MINUTES_UP_TO_HOURS else f"{hours:.1f} hours"


def _shown(interval: Interval) -> str:
    return f"{interval.estimate:.4g} [{_number(interval.low)}, {_number(interval.high)}]"


def _number(value: float) -> str:
    return f"{value:.4g}" if 0 < value < math.inf else "?"


def _value(value: ArmValue) -> str:
    if value.value is None:
        return "-"
    return f"{value.value:.4g}" + ("" if value.low is None else f" [{value.low:.4g}, {value.high:.4g}]")
