"""Notice when drafts are no longer accepted as often as predicted, and say how far to fall back.

The evidence is z = accepted - predicted over drafts of the risk set. While predictions are right, z has mean 0 given
the past, whatever was admitted: sums of it are a martingale, and betting against it wins nothing. `DriftTest` bets.
"""

from enum import IntEnum

import numpy as np

# Chance of ever raising an alarm while predictions are right to within TOLERANCE.
ALPHA = 0.001
# Acceptance may be off by this much before it counts: the aim is a calibration error of 2 %.
TOLERANCE = 0.02
# Stakes: small ones win slowly against small drifts, great ones fast against great drifts. On both sides.
STAKES = np.array((0.05, 0.05, 0.2, 0.2))
SIDES = np.array((1.0, -1.0, 1.0, -1.0))
# Rounds without an alarm after which one rung is gone back.
QUIET_ROUNDS = 20_000


class DriftTest:
    """An e-process against "acceptance is off by TOLERANCE at most, in the mean": a fair bettor's capital.

    By Hoeffding's lemma exp(s z - s TOLERANCE - s^2 / 8) has mean 1 at most, for z in a range of length 1 whose mean is
    at most TOLERANCE. Products of it are a bettor's capital, and by Ville's inequality that ever reaches 1 / ALPHA with
    probability ALPHA at most. Part 1 / (t (t + 1)) of the capital is staked from check t on only, so that a long quiet
    time does not use it up before a drift begins.
    """

    def __init__(self) -> None:
        self._at_stake, self._num_checks, self._kept_back = np.zeros(len(STAKES)), 0, 1.0

    @property
    def capital(self) -> float:
        """What the bettor owns; 1 at first."""
        return float(self._at_stake.mean()) + self._kept_back

    def bet(self, surplus: float, num_drafts: int) -> bool:
        """Take in `surplus`, accepted less predicted among num_drafts judged; tells whether to raise an alarm."""
        self._num_checks += 1
        fresh = 1.0 / (self._num_checks * (self._num_checks + 1))
        self._kept_back -= fresh
        gain = STAKES * (SIDES * surplus - TOLERANCE * num_drafts) - STAKES**2 / 8 * num_drafts
        # One certain loss or win is like another; beyond this only the exponential overflows.
        self._at_stake = (self._at_stake + fresh) * np.exp(np.clip(gain, -300.0, 300.0))
        return self.capital >= 1.0 / ALPHA


class Fallback(IntEnum):
    """How far the calibration has fallen back; each rung does what those before it do."""

    NONE = 0
    REFIT = 1  # recent rounds count for more: intercepts move at once
    WIDEN = 2  # what was believed beforehand weighs less, everything fades faster
    HISTORY = 3  # evidence is not believed at all: acceptance by position


class Ladder:
    """Climbs one rung with every alarm, and goes back one after QUIET_ROUNDS without.

    num_alarms  ever raised
    """

    def __init__(self) -> None:
        self.rung, self.num_alarms = Fallback.NONE, 0
        self._test, self._quiet = DriftTest(), 0

    def check(self, surplus: float, num_drafts: int, num_rounds: int) -> bool:
        """Judge predictions of the rounds since the last check; tells whether an alarm was raised."""
        if self._test.bet(surplus, num_drafts):
            self.num_alarms += 1
            self._test = DriftTest()
            self.rung, self._quiet = Fallback(min(self.rung + 1, Fallback.HISTORY)), 0
            return True
        self._quiet += num_rounds
        if self._quiet >= QUIET_ROUNDS and self.rung:
            self.rung, self._quiet = Fallback(self.rung - 1), 0
        return False
