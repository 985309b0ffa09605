"""Which arm of an experiment a request belongs to: the same user, the same arm, whichever gateway is asked.

An arm is a weight and a speculation. It changes how fast an answer comes, never what it says (docs/exactness.md), so
users need not be told apart for their answers' sake. Arms are labels on jobs and metrics; nothing here judges them.
"""

import hashlib
from collections.abc import Mapping
from itertools import accumulate

from msgspec import Struct

from core.config import ArmSettings
from core.types import Speculation

# Keeps this split independent of every other use of the same keys.
PERSON = b"specd-arm"


class Arm(Struct, frozen=True):
    """One arm: its name and what its requests get."""

    name: str
    speculation: Speculation


class Arms:
    """The arms of a configuration, over [0, 1) by their shares, in config order.

    An arm's stretch moves when weights before it change, so users keep their arms only as long as the weights stay.
    """

    def __init__(self, settings: Mapping[str, ArmSettings]) -> None:
        total = sum(arm.weight for arm in settings.values())
        ends = accumulate(arm.weight / total for arm in settings.values())
        self._arms = [
            (end, Arm(name, Speculation(arm.max_drafts, arm.drafter, arm.policy)))
            for end, (name, arm) in zip(ends, settings.items(), strict=True)
        ]

    def pick(self, key: str) -> Arm | None:
        """Return the arm of whoever `key` names, None if there is no experiment."""
        if not self._arms:
            return None
        point = place(key)
        # Shares may add up to a little less than 1.
        return next((arm for end, arm in self._arms if point < end), self._arms[-1][1])


def place(key: str) -> float:
    """Return where in [0, 1) a key falls, evenly over keys."""
    digest = hashlib.blake2b(key.encode(errors="surrogatepass"), digest_size=8, person=PERSON).digest()
    # 53 bits are what a float holds: with more, the greatest could round up to 1.
    return (int.from_bytes(digest, "big") >> 11) / 2**53
