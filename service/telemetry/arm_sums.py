"""How answers fared by arm, drafter and policy, as one gateway has seen since it started: means with intervals.

Running sums, so that nothing grows with the answers. Arms share batches and with them the time of every step: these
numbers say what clients saw, not which arm is better, and nothing here judges.
"""

import math
from dataclasses import dataclass, field
from statistics import NormalDist

from msgspec import Struct

from service.telemetry.answer_log import AnswerRecord

OK = 200
Z_95 = NormalDist().inv_cdf(0.975)


class Mean(Struct, frozen=True):
    """A mean over answers, with normal 95 % limits; these are None for fewer than two answers."""

    estimate: float
    low: float | None
    high: float | None


class ArmFigures(Struct, frozen=True):
    """What one arm's answers came to; arm is "" outside every experiment.

    first_s, token_s   seconds to the first token, and for a mean token after it; None where no answer had such
    """

    arm: str
    drafter: str
    policy: str
    answers: int
    tokens: int
    verified: int
    accepted: int
    first_s: Mean | None
    token_s: Mean | None


@dataclass(slots=True)
class RunningMean:
    """Mean and spread of values as they come (Welford 1962)."""

    count: int = 0
    mean: float = 0.0
    _squares: float = 0.0

    def add(self, value: float | None) -> None:
        """Take one value; None is none."""
        if value is None:
            return
        self.count += 1
        distance = value - self.mean
        self.mean += distance / self.count
        self._squares += distance * (value - self.mean)

    def told(self) -> Mean | None:
        """Return the mean with its limits, mean -+ z sd / sqrt(n); None without values."""
        if self.count < 2:
            return Mean(self.mean, None, None) if self.count else None
        half = Z_95 * math.sqrt(self._squares / (self.count - 1) / self.count)
        return Mean(self.mean, self.mean - half, self.mean + half)


@dataclass(slots=True)
class _Sums:
    answers: int = 0
    tokens: int = 0
    verified: int = 0
    accepted: int = 0
    first_s: RunningMean = field(default_factory=RunningMean)
    token_s: RunningMean = field(default_factory=RunningMean)


class ArmSums:
    """One gateway's sums. To be used from one thread."""

    def __init__(self) -> None:
        self._sums: dict[tuple[str, str, str], _Sums] = {}

    def saw(self, record: AnswerRecord) -> None:
        """Count one ended answer; one that failed or was left counts for nothing here."""
        if record.status != OK:
            return
        sums = self._sums.setdefault((record.job.arm, record.drafter, record.policy), _Sums())
        sums.answers += 1
        sums.tokens += record.usage.completion_tokens
        sums.verified += record.speculated.verified
        sums.accepted += record.speculated.accepted
        sums.first_s.add(record.first_s)
        sums.token_s.add(record.token_s)

    def told(self) -> tuple[ArmFigures, ...]:
        """Return the figures, by arm, drafter and policy."""
        return tuple(
            ArmFigures(
                *key, one.answers, one.tokens, one.verified, one.accepted, one.first_s.told(), one.token_s.told()
            )
            for key, one in sorted(self._sums.items())
        )
