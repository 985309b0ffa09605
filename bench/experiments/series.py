"""Slots of requests that are replayed at a fixed length: what the engine would do, counted without it.

A policy that asks for a fixed length plans nothing, so its steps are sums over a recording, thousands of times faster
than the engine makes them; `tests/bench/experiments/test_series.py` holds the two to the same counts and seconds. That
makes hundreds of series, each with loads and requests of its own.
"""

import math
from collections.abc import Callable, Iterator

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from bench.experiments.modelled import MACHINE
from bench.replay.clock import ModelledMachine
from bench.replay.pair import PROMPT_LEN
from bench.replay.recording import DOMAINS, Recording, read_recording
from core.experiments.unit_sums import UnitSums

I64 = NDArray[np.int64]

# Rows of one step whose seconds are looked up.
MOST_ROWS = 1 << 14
# How far the log of a drifting load may go from the middle: a quarter of it to four times.
FARTHEST = 1.38


class Traffic(Struct, frozen=True):
    """How many requests run at once: `load` on average, wandering about it.

    spread   of the load's logarithm in the long run; 0 is a server that is always full
    time_s   after which a third of a deviation is left: an Ornstein-Uhlenbeck process
    """

    load: int
    spread: float = 0.0
    time_s: float = 60.0

    def loads(self, seed: int, every_s: float) -> Iterator[int]:
        """Yield the load, every so many seconds."""
        rng, kept = np.random.default_rng((seed, 1)), math.exp(-every_s / self.time_s)
        place = self.spread * rng.normal()
        while True:
            yield max(1, round(self.load * math.exp(min(max(place, -FARTHEST), FARTHEST))))
            place = kept * place + self.spread * math.sqrt(1 - kept**2) * rng.normal()


class Series:
    """One machine under one load; requests are drawn from the recording with a seed, or taken as `draw` says."""

    def __init__(self, seed: int, recording: Recording | None = None, draw: Callable[[], int] | None = None) -> None:
        self._seed = seed
        self._recording = recording or read_recording(DOMAINS)
        rng, size = np.random.default_rng((seed, 2)), len(self._recording.accepted)
        self._draw = draw or (lambda: int(rng.integers(size)))
        machine = ModelledMachine(MACHINE)
        self._row_s = np.array([machine.verify_s(0, rows) for rows in range(MOST_ROWS)])
        self._sequence_s = machine.verify_s(1, 1) - machine.verify_s(0, 1)
        self._draft_s = np.array([machine.draft_s(count) for count in range(1024)])
        # By request: which recorded one, tokens so far, rows still to be computed before it may draft.
        self._request, self._place, self._rows = (np.zeros(0, np.int64) for _ in range(3))
        self.load, self.now_s, self.num_ended = 0, 0.0, 0

    def send(self, started: int = 0) -> None:
        """Take the next request in, part of its text behind it."""
        self._request = np.append(self._request, self._draw())
        self._place = np.append(self._place, started)
        self._rows = np.append(self._rows, PROMPT_LEN + started)

    def step(self, length: int, sums: UnitSums) -> None:
        """Advance every request by one round, and add what it brought."""
        while len(self._place) < self.load:
            self.send()
        recording, size = self._recording, len(self._place)
        drafts = np.minimum(length, recording.length - self._place - 1) * (self._rows == 0)
        kept = np.minimum(recording.accepted[self._request, self._place], drafts)
        drafted = int(np.count_nonzero(drafts))
        num_rows = int(drafts.sum() + np.maximum(self._rows, 1).sum())
        spent_s = float(self._row_s[num_rows] + self._sequence_s * size + self._draft_s[drafted])
        self.now_s += spent_s
        self._place += kept + 1
        self._rows[:] = 0
        sums.seconds += spent_s
        sums.steps += 1
        sums.rounds += size
        sums.tokens += int(kept.sum()) + size
        sums.verified += int(drafts.sum())
        goes_on = self._place < recording.length
        if not goes_on.all():
            sums.answers += size - int(np.count_nonzero(goes_on))
            self._request, self._place, self._rows = (own[goes_on] for own in (self._request, self._place, self._rows))

    def run_for(self, length: int, seconds: float) -> UnitSums:
        """Take steps until so much time has gone by."""
        sums = UnitSums()
        while sums.seconds < seconds:
            self.step(length, sums)
        sums.busy_s, sums.accepted = sums.seconds, sums.tokens - sums.rounds
        return sums

    def slots(self, traffic: Traffic, length: int, num_slots: int, slot_s: float) -> Iterator[UnitSums]:
        """Yield slots of so many seconds, whose first quarter is burn-in; nothing but the load changes between them."""
        loads = traffic.loads(self._seed, slot_s / 4)
        for _ in range(num_slots):
            whole = UnitSums()
            for quarter in range(4):
                self.load = next(loads)
                sums = self.run_for(length, slot_s / 4)
                whole = whole.plus(sums) if quarter else whole
            yield whole


def series_of(seed: int, traffic: Traffic, length: int, num_slots: int, slot_s: float) -> list[UnitSums]:
    """Return slots of a series of its own, whose first requests are anywhere in their texts."""
    series = Series(seed)
    rng = np.random.default_rng((seed, 3))
    for _ in range(traffic.load):
        series.send(int(rng.integers(200)))
    return list(series.slots(traffic, length, num_slots, slot_s))
