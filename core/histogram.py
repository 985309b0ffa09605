"""Counts by size, kept where things happen and told to another process, which knows no more than what it is told."""

from bisect import bisect_left
from collections.abc import Sequence

from msgspec import Struct

# Seconds that parts of a request take, and tokens that a step works on: the bounds of vLLM's histograms of the same.
REQUEST_SECONDS = (
    *(0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0),
    *(120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0),
)
STEP_TOKENS = (1.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0, 16384.0)


class Histogram(Struct):
    """How many values were at most each of `bounds`, ascending, and above those before; one count more for the rest.

    Mutated by its owner only; total is the sum of all values.
    """

    bounds: tuple[float, ...]
    counts: list[int]
    total: float = 0.0

    @classmethod
    def of(cls, bounds: Sequence[float]) -> "Histogram":
        """Return an empty one."""
        return cls(tuple(bounds), [0] * (len(bounds) + 1))

    def observe(self, value: float) -> None:
        """Count one value; clocks of two machines may differ, so none is below zero."""
        value = max(0.0, value)
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def copy(self) -> "Histogram":
        """Return what it holds now, for another thread to read."""
        return Histogram(self.bounds, list(self.counts), self.total)
