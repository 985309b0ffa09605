"""The quantities that experiments compare, each from the sums of a unit or of several.

A ratio is one of sums, so that long units count for more; a quantile is one of all answers together.
"""

import math
from collections.abc import Callable
from functools import partial

from msgspec import Struct

from core.counted_ratio import counted_log_ratio
from core.experiments.unit_sums import UnitSums, latency_quantile


class Metric(Struct, frozen=True):
    """What it is, and whether more of it is better; value returns None where a unit had nothing of the kind.

    parts are the sums that it is the ratio of, None for what is no plain ratio; counted are the cases of a share, which
    may be rare, and the whole that they are of
    """

    description: str
    value: Callable[[UnitSums], float | None]
    more_is_better: bool = True
    parts: tuple[str, str] | None = None
    counted: tuple[str, str] | None = None

    def log(self, sums: UnitSums) -> float | None:
        """Return the logarithm of the value, None for none and for zero."""
        value = self.value(sums)
        return math.log(value) if value else None

    def log_ratio(self, ours: UnitSums, theirs: UnitSums) -> float | None:
        """Return the log of ours over theirs, None where either has nothing of the kind; zero cases are of the kind."""
        if self.counted:
            (cases, size), (other_cases, other_size) = self.counts(ours), self.counts(theirs)
            return counted_log_ratio(cases, size, other_cases, other_size) if size > 0 and other_size > 0 else None
        mine, other = self.log(ours), self.log(theirs)
        return None if mine is None or other is None else mine - other

    def counts(self, sums: UnitSums) -> tuple[int, int]:
        """Return the cases and the whole of what is counted; raises ValueError for a metric of another kind."""
        if self.counted is None:
            raise ValueError(f"nothing is counted for this metric: {self.description}")
        return getattr(sums, self.counted[0]), getattr(sums, self.counted[1])


def _ratio(description: str, above: str, below: str, *, more_is_better: bool = True) -> Metric:
    return Metric(description, _value_of(above, below), more_is_better, (above, below))


def _share(description: str, part: str, whole: str, *, more_is_better: bool = True) -> Metric:
    return Metric(description, _value_of(part, whole), more_is_better, counted=(part, whole))


def _value_of(above: str, below: str) -> Callable[[UnitSums], float | None]:
    def value(sums: UnitSums) -> float | None:
        divisor = getattr(sums, below)
        return getattr(sums, above) / divisor if divisor else None

    return value


def _user_speed(sums: UnitSums) -> float | None:
    """Return tokens of a sequence per second of stepping: tokens a round, by rounds a second."""
    return sums.tokens / sums.rounds * sums.steps / sums.busy_s if sums.rounds and sums.busy_s else None


def _accepted_length(sums: UnitSums) -> float | None:
    return (sums.accepted + sums.rounds) / sums.rounds if sums.rounds else None


def _quantile(counts: str, share: float) -> Callable[[UnitSums], float | None]:
    return partial(_quantile_of, counts, share)


def _quantile_of(counts: str, share: float, sums: UnitSums) -> float | None:
    return latency_quantile(getattr(sums, counts), share)


METRICS: dict[str, Metric] = {
    "tokens_per_s": _ratio("tokens per second, idle time included", "tokens", "seconds"),
    "tokens_per_busy_s": _ratio("tokens per second of stepping", "tokens", "busy_s"),
    "goodput": _ratio("tokens per second of answers within the service levels", "on_time_tokens", "seconds"),
    "user_speed": Metric("tokens per second that one sequence gets", _user_speed),
    "step_s": _ratio("seconds of a step", "busy_s", "steps", more_is_better=False),
    "accepted_length": Metric("tokens per round, bonus included", _accepted_length),
    "first_s_p50": Metric("median seconds to the first token", _quantile("first", 0.5), more_is_better=False),
    "first_s_p95": Metric("95 % of first tokens come within", _quantile("first", 0.95), more_is_better=False),
    "token_s_p50": Metric("median seconds per token of an answer", _quantile("token", 0.5), more_is_better=False),
    "token_s_p95": Metric("95 % of answers take less per token", _quantile("token", 0.95), more_is_better=False),
    "error_rate": _share(
        "share of answers that failed or missed their deadline", "errors", "answers", more_is_better=False
    ),
    "preemption_rate": _share("preemptions per step", "preemptions", "steps", more_is_better=False),
    "answer_len": _ratio("tokens of an answer", "answer_tokens", "whole_answers"),
    "stop_share": _share("share of whole answers that ended by themselves", "stops", "whole_answers"),
}
# What of a unit no arm has a part in, given the right kind of traffic (docs/experiments.md).
COVARIATES: dict[str, Callable[[UnitSums], float]] = {
    "offered_load": lambda sums: math.log1p(sums.begun / sums.seconds) if sums.seconds else 0.0,
    "prompt_len": lambda sums: math.log1p(sums.prompt_tokens / sums.begun) if sums.begun else 0.0,
    "asked_len": lambda sums: math.log1p(sums.asked_tokens / sums.begun) if sums.begun else 0.0,
    "concurrency": lambda sums: math.log(sums.rounds / sums.steps) if sums.rounds and sums.steps else 0.0,
}
# How the metric drifted from the unit before a block to the one after it.
DRIFT = "drift"
