"""What an experiment has shown so far, and what to do: ship, keep running or stop, and why.

It may be asked as often as one likes: every interval holds at all times together (core/confidence_sequence.py), with
alpha shared out among the arms. Nothing is compared but whole blocks; requests and tokens are never units.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Literal

from msgspec import Struct

from core.confidence_sequence import confidence_sequence
from core.experiments.blocks import (
    F64,
    Block,
    adjustable,
    last_counts,
    log_ratios,
    make_blocks,
    scale_of,
    variance_of,
)
from core.experiments.carry_over import CarryOver, carried_over
from core.experiments.metrics import DRIFT, METRICS
from core.experiments.quantiles import quantile_ratios
from core.experiments.spec import Experiment
from core.experiments.trust import Trust, judge_trust
from core.experiments.unit_sums import UnitRecord
from core.experiments.values import ArmValue, arm_values
from core.ratios import adjusted, adjusted_in_turn, fit_adjustment
from core.statistics import Interval, binomial_tail

# A trip is worse than blocks of before are by chance, by so many of their deviations.
TRIP_DEVIATIONS = 2.0
# Cases that trip, such as errors, fall like this by chance so seldom: one in each of three blocks is no harm yet.
TRIP_ALPHA = 1e-4

Advice = Literal["ship", "keep running", "stop"]


class Comparison(Struct, frozen=True):
    """One metric of one arm against the control, as a ratio; 1 is no difference.

    unadjusted is without covariates; shares of variance that they took out are `explained`
    spread     standard deviation of the blocks' log ratios, covariates taken out; None for a single block
    """

    metric: str
    num_blocks: int
    ratio: Interval
    unadjusted: Interval
    explained: float | None = None
    spread: float | None = None


class Guardrail(Struct, frozen=True):
    """A metric that may not get worse by more than `limit`; worse is the ratio in the bad direction, never below it."""

    metric: str
    limit: float
    worse: Interval
    is_breached: bool
    reason: str = ""


class ArmResult(Struct, frozen=True):
    """One arm against the control; quantiles are bootstrapped over blocks, 95 % each, and hold at one look only."""

    arm: str
    primary: Comparison | None
    guardrails: tuple[Guardrail, ...]
    quantiles: dict[str, Interval]
    advice: Advice
    why: str


class Analysis(Struct, frozen=True):
    """All of it; hours are those that the comparison covers, values each arm's metrics over all its blocks.

    carried  by treatment, what the halves of slots say; nothing of those whose halves were not measured
    """

    experiment: str
    digest: str
    num_blocks: int
    num_pre_blocks: int
    hours: float
    values: dict[str, dict[str, ArmValue]]
    arms: tuple[ArmResult, ...]
    carried: dict[str, CarryOver]
    trust: Trust
    advice: Advice
    why: str


def analyse(experiment: Experiment, records: Iterable[UnitRecord]) -> Analysis:
    """Return what the records show."""
    kept = [record for record in records if record.digest == experiment.digest]
    blocks = make_blocks(experiment, kept)
    pre, main = [one for one in blocks if one.is_pre], [one for one in blocks if not one.is_pre]
    trust = judge_trust(experiment, kept, pre, main)
    arms = tuple(_result(experiment, blocks, pre, main, arm, trust) for arm in experiment.treatments)
    advice, why = _overall(arms, trust)
    values = {arm: arm_values(main, arm) for arm in experiment.arms}
    num_pre, num_main = (sum(one.is_whole(experiment.arms) for one in part) for part in (pre, main))
    return Analysis(
        experiment=experiment.id,
        digest=experiment.digest,
        num_blocks=num_main,
        num_pre_blocks=num_pre,
        hours=covered_hours(experiment, main),
        values=values,
        arms=arms,
        carried=carried_over(experiment, kept),
        trust=trust,
        advice=advice,
        why=why,
    )


def find_end(experiment: Experiment, records: Sequence[UnitRecord]) -> str | None:
    """Return why the experiment is stopped at once, None while it goes on.

    A guardrail is breached, the experiment itself cannot be believed, or its most blocks are over, whatever they show.
    """
    kept = [record for record in records if record.digest == experiment.digest]
    blocks = make_blocks(experiment, kept)
    pre, main = [one for one in blocks if one.is_pre], [one for one in blocks if not one.is_pre]
    if breach := _breach(experiment, pre, main):
        return breach
    if faults := judge_trust(experiment, kept, pre, main).faults:
        return f"it cannot be believed: {'; '.join(faults)}"
    if main and is_over(experiment, main, _num_compared(experiment, blocks)):
        return f"it had its stop.max_blocks of {experiment.stop.max_blocks} blocks; the report says what they show"
    return None


def find_breach(experiment: Experiment, records: Iterable[UnitRecord]) -> str | None:
    """Return why a guardrail stops the experiment at once, None while none does."""
    blocks = make_blocks(experiment, records)
    return _breach(experiment, [one for one in blocks if one.is_pre], [one for one in blocks if not one.is_pre])


def is_over(experiment: Experiment, main: Sequence[Block], num_compared: int) -> bool:
    """Tell whether the most blocks are over: compared by every arm, or gone by, whatever of them was measured."""
    stop = experiment.stop
    if _num_elapsed(main) >= stop.max_blocks:
        return True
    return num_compared >= stop.max_blocks and covered_hours(experiment, main) >= stop.min_hours


def covered_hours(experiment: Experiment, main: Sequence[Block]) -> float:
    """Return from the first block of the comparison to its newest one, which may go on, the hours gone by."""
    return _num_elapsed(main) * experiment.block_s / 3600


def _num_elapsed(main: Sequence[Block]) -> int:
    numbers = [one.key[1] for one in main]
    return max(numbers) - min(numbers) if numbers else 0


def _num_compared(experiment: Experiment, blocks: Sequence[Block]) -> int:
    """Return how many blocks every arm was compared in."""
    found = [adjustable(experiment, blocks, arm, experiment.primary) for arm in experiment.treatments]
    return min(len(one.values) - one.num_before for one in found)


def _breach(experiment: Experiment, pre: Sequence[Block], main: Sequence[Block]) -> str | None:
    for arm in experiment.treatments:
        for one in _guardrails(experiment, pre, main, arm):
            if one.is_breached:
                return f"guardrail of arm {arm!r}: {one.reason}"
    return None


class Adjusted(Struct, frozen=True):
    """Log ratios to the control by block, as they are and with what covariates explain taken out, and their scales."""

    plain: F64
    plain_scale: float
    values: F64
    scale: float
    is_adjusted: bool


def adjusted_differences(
    experiment: Experiment, blocks: Sequence[Block], arm: str, metric: str, alpha: float
) -> Adjusted:
    """Return the blocks' log ratios, adjusted and scaled by what the blocks before the comparison said."""
    plain, covariates, num_before = adjustable(experiment, blocks, arm, metric)
    # All of the drift can be in an outcome, and no more.
    share = experiment.cuped.index(DRIFT) if DRIFT in experiment.cuped else None
    theta = fit_adjustment(plain[:num_before], covariates[:num_before], share)
    before = adjusted(plain[:num_before], covariates[:num_before], theta)
    after = adjusted_in_turn(plain, covariates, num_before, share)
    usual = experiment.stop.min_blocks
    scale, plain_scale = scale_of(before, usual, alpha), scale_of(plain[:num_before], usual, alpha)
    is_adjusted = bool((after != plain[num_before:]).any())
    return Adjusted(plain[num_before:], plain_scale, after, scale, is_adjusted)


def compare(experiment: Experiment, blocks: Sequence[Block], arm: str, metric: str, alpha: float) -> Comparison | None:
    """Compare one metric over the blocks that are not of before; None if there are none."""
    found = adjusted_differences(experiment, blocks, arm, metric, alpha)
    if not len(found.values):
        return None
    spread = float(found.plain.var())
    explained = 1 - float(found.values.var()) / spread if found.is_adjusted and spread > 0 else None
    ratio = confidence_sequence(found.values, found.scale, alpha).exp()
    unadjusted = confidence_sequence(found.plain, found.plain_scale, alpha).exp()
    known_spread = float(found.values.std(ddof=1)) if len(found.values) > 1 else None
    return Comparison(metric, len(found.values), ratio, unadjusted, explained, known_spread)


def _result(
    experiment: Experiment, blocks: list[Block], pre: list[Block], main: list[Block], arm: str, trust: Trust
) -> ArmResult:
    alpha = experiment.stop.alpha / len(experiment.treatments)
    primary = compare(experiment, blocks, arm, experiment.primary, alpha)
    guardrails = _guardrails(experiment, pre, main, arm)
    advice, why = _advice(experiment, main, arm, primary, guardrails, trust)
    return ArmResult(arm, primary, guardrails, quantile_ratios(experiment, main, arm), advice, why)


def _guardrails(experiment: Experiment, pre: Sequence[Block], main: Sequence[Block], arm: str) -> tuple[Guardrail, ...]:
    alpha = experiment.stop.alpha / len(experiment.treatments) / max(1, len(experiment.guardrails))
    held = [_guardrail(experiment, (pre, main), arm, metric, alpha) for metric in experiment.guardrails]
    return tuple(one for one in held if one is not None)


def _guardrail(
    experiment: Experiment, blocks: tuple[Sequence[Block], Sequence[Block]], arm: str, metric: str, alpha: float
) -> Guardrail | None:
    """Hold a metric to its limit: surely worse, or much worse for some blocks running; None without blocks."""
    pre, main = blocks
    limit = experiment.guardrails[metric]
    sign = -1.0 if METRICS[metric].more_is_better else 1.0
    worse = sign * log_ratios(experiment, main, arm, metric)
    if not len(worse):
        return None
    before = log_ratios(experiment, pre, arm, metric)
    # Only one side is asked about, and either side is as likely to be passed by chance.
    interval = confidence_sequence(worse, scale_of(before, experiment.stop.min_blocks, 2 * alpha), 2 * alpha).exp()
    interval = Interval(interval.estimate, interval.low, math.inf)
    last, trip = worse[-experiment.stop.trip_blocks :], trip_of(experiment, before)
    reason = ""
    if interval.low > limit:
        reason = f"{metric} is worse by more than the limit {limit:g}: at least {interval.low:.3g} times the control's"
    elif (
        len(last) == experiment.stop.trip_blocks
        and bool((last > math.log(trip)).all())
        and not _may_be_chance(experiment, main, arm, metric)
    ):
        reason = f"{metric} was worse by more than {trip:.3g} in {len(last)} blocks running"
    return Guardrail(metric, limit, interval, bool(reason), reason)


def _may_be_chance(experiment: Experiment, main: Sequence[Block], arm: str, metric: str) -> bool:
    """Tell whether chance may do what the last blocks' cases did; False for a metric that counts none."""
    if not METRICS[metric].counted:
        return False
    cases, size, other_cases, other_size = last_counts(experiment, main, arm, metric, experiment.stop.trip_blocks)
    share = size / (size + other_size)
    if METRICS[metric].more_is_better:
        cases, other_cases, share = other_cases, cases, 1 - share
    return binomial_tail(cases, cases + other_cases, share) > TRIP_ALPHA


def trip_of(experiment: Experiment, before: F64) -> float:
    """Return the factor by which a metric trips: the experiment's, or beyond what it does by chance.

    What that is, the blocks before the comparison say: quantiles of a few answers are easily off by half.
    """
    return max(experiment.stop.trip, math.exp(TRIP_DEVIATIONS * variance_of(before, 0.0) ** 0.5))


def _advice(
    experiment: Experiment,
    main: Sequence[Block],
    arm: str,
    primary: Comparison | None,
    guardrails: Sequence[Guardrail],
    trust: Trust,
) -> tuple[Advice, str]:
    """Return what to do about one arm; what is bad goes before what is good."""
    if trust.faults:
        return "stop", f"the experiment cannot be believed: {'; '.join(trust.faults)}"
    if breached := [one.reason for one in guardrails if one.is_breached]:
        return "stop", f"guardrail: {'; '.join(breached)}"
    if primary is None:
        return "keep running", "no whole block yet"
    stop, ratio, metric = experiment.stop, primary.ratio, experiment.primary
    told = f"{metric} of {arm!r} is {ratio.estimate:.4g} times the control's, [{ratio.low:.4g}, {ratio.high:.4g}]"
    better, worse = ratio.low > 1, ratio.high < 1
    if not METRICS[metric].more_is_better:
        better, worse = worse, better
    over = is_over(experiment, main, primary.num_blocks)
    if primary.num_blocks < stop.min_blocks and not over:
        return "keep running", f"{primary.num_blocks} of at least {stop.min_blocks} blocks; {told}"
    if worse:
        return "stop", f"it is worse: {told}"
    if (hours := covered_hours(experiment, main)) < stop.min_hours:
        return "keep running", f"{hours:.1f} of at least {stop.min_hours:g} hours; {told}"
    if better and primary.num_blocks >= stop.min_blocks:
        return "ship", told
    if 1 - stop.smallest_effect < ratio.low and ratio.high < 1 + stop.smallest_effect:
        return "stop", f"no difference of {stop.smallest_effect:.0%} or more: {told}"
    if over:
        return "stop", f"nothing found in {primary.num_blocks} blocks: {told}"
    return "keep running", told


def _overall(arms: Sequence[ArmResult], trust: Trust) -> tuple[Advice, str]:
    """Return what to do on the whole: an arm to ship ends it, and so does the last one that is to be stopped."""
    if not trust.faults and (found := [one for one in arms if one.advice == "ship"]):
        return "ship", "; ".join(f"{one.arm}: {one.why}" for one in found)
    why = "; ".join(f"{one.arm}: {one.why}" for one in arms)
    breached = any(guardrail.is_breached for one in arms for guardrail in one.guardrails)
    if trust.faults or breached or all(one.advice == "stop" for one in arms):
        return "stop", why
    return "keep running", why
