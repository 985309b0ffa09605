"""How many jobs a worker claims before a slot is free for them, so that the slot does not stand empty meanwhile.

To claim a job takes two round trips to Redis, and wakes four processes. Where answers are short, and many run, that is
a share of every slot's time; a job that lies ready takes a slot with the next step. But a job that was claimed waits
for this worker, whatever becomes free elsewhere or comes in more urgent. So only so many are claimed ahead as will have
a slot within `AHEAD_S`, by the speed at which answers have ended here, and never where nothing else waits.
"""

import time
from collections import deque
from collections.abc import Callable

AHEAD_S = 0.1
# Of every so many slots at most one job lies ready.
SLOTS_PER_JOB = 8
# The speed is that of the last so many answers.
MEMORY = 8


class Turnover:
    """Counts ends of answers, in seconds of `clock`."""

    def __init__(self, num_slots: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._most, self._clock = max(1, num_slots // SLOTS_PER_JOB), clock
        self._ends: deque[float] = deque(maxlen=MEMORY)

    def ended(self, count: int) -> None:
        """Count answers that have just ended."""
        self._ends.extend([self._clock()] * min(count, MEMORY))

    @property
    def num_ahead(self) -> int:
        """Jobs that may be claimed beyond the slots."""
        if len(self._ends) < MEMORY:
            return 0
        # Until now: who has not ended since counts as well.
        passed_s = self._clock() - self._ends[0]
        return min(self._most, int(AHEAD_S * MEMORY / passed_s)) if passed_s > 0.0 else self._most
