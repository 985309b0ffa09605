"""Times of calls on the device: by CUDA events, with the L2 cache emptied before each repeat; medians with spread."""

import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from msgspec import Struct

from bench.gpu.device import MIB, wait_for

WARM_UP = 3
# Enough for a median; a call that takes long is repeated less often.
MOST_REPEATS, FEWEST_REPEATS, ENOUGH_S = 50, 5, 1.0
DRY_REPEATS = 2
# Several times the cache, as not all of a buffer need evict what others left.
FLUSHED_CACHES = 4


class Timing(Struct, frozen=True):
    """Microseconds of a call: the median, and the 10th and 90th percentiles of all repeats."""

    median_us: float
    low_us: float
    high_us: float
    repeats: int


def timing_of(seconds: Sequence[float]) -> Timing:
    """Return the median and spread of repeated measurements."""
    low, median, high = (1e6 * np.quantile(seconds, [0.1, 0.5, 0.9])).tolist()
    return Timing(round(median, 3), round(low, 3), round(high, 3), len(seconds))


class Stopwatch:
    """Times calls on one device. On a CPU, which only dry runs have, it reads the wall's clock and flushes nothing."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._flush: torch.Tensor | None = None
        if device.type == "cuda":
            size = max(64 * MIB, FLUSHED_CACHES * torch.cuda.get_device_properties(device).L2_cache_size)
            self._flush = torch.empty(size, dtype=torch.uint8, device=device)

    def time(self, call: Callable[[], object]) -> Timing:
        """Return how long a call takes, warmed up, each repeat with a cold L2 cache."""
        if self._flush is None:
            return timing_of([self._by_clock(call) for _ in range(DRY_REPEATS)])
        for _ in range(WARM_UP):
            call()
        wait_for(self.device)
        first_s = self._by_clock(call)
        repeats = min(MOST_REPEATS, max(FEWEST_REPEATS, int(ENOUGH_S / first_s)))
        pairs = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(repeats)]
        for start, end in pairs:
            # While the device fills this buffer, the host gets ahead: launches are not what is measured.
            self._flush.zero_()
            start.record()
            call()
            end.record()
        wait_for(self.device)
        return timing_of([start.elapsed_time(end) / 1e3 for start, end in pairs])

    def by_clock(self, call: Callable[[], object], repeats: int) -> Timing:
        """Return how long a call takes until the device is idle again, as its caller waits for it."""
        call()
        return timing_of([self._by_clock(call) for _ in range(repeats)])

    def _by_clock(self, call: Callable[[], object]) -> float:
        wait_for(self.device)
        started = time.perf_counter()
        call()
        wait_for(self.device)
        return time.perf_counter() - started
