"""Where a round's time goes: marks that the device passes at the beginning and the end of each part.

A part's time runs from when the device reaches its beginning until it reaches its end; if the host is late to say what
comes next, the wait is in it.
"""

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from bench.gpu.device import wait_for
from core.tensors import DraftAsk
from drafters.dspark import DSpark
from engine.stats import EngineStats
from models.dflash_net import DFlashNet
from models.target import Target

BACKBONE, HEAD = "backbone", "head"


class Marks:
    """Collects the seconds of parts on one device."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pairs: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []
        self._seconds: defaultdict[str, float] = defaultdict(float)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Add what happens inside to a part."""
        if self._device.type != "cuda":
            started = time.perf_counter()
            yield
            self._add(name, time.perf_counter() - started)
            return
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        yield
        end.record()
        self._pairs.append((name, start, end))

    def take(self) -> dict[str, float]:
        """Return the seconds of every part since the last time."""
        wait_for(self._device)
        for name, start, end in self._pairs:
            self._add(name, start.elapsed_time(end) / 1e3)
        self._pairs.clear()
        seconds, self._seconds = self._seconds, defaultdict(float)
        return dict(seconds)

    def _add(self, name: str, seconds: float) -> None:
        self._seconds[name] += seconds


class MarkedStats(EngineStats):
    """An engine's statistics that also mark the parts of a step on the device."""

    def __init__(self, marks: Marks) -> None:
        super().__init__()
        self.marks = marks

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        """Time a part on the host and on the device."""
        with super().timed(part), self.marks.part(part):
            yield


class MarkedDSpark(DSpark):
    """DSpark with its two parts marked: the backbone with the base logits, and the head, which draws token by token."""

    def __init__(self, network: DFlashNet, target: Target, marks: Marks) -> None:
        super().__init__("dspark", network, target)
        self.marks = marks

    def _block(self, ask: DraftAsk) -> Tensor:
        with self.marks.part(BACKBONE):
            return super()._block(ask)

    def _choose(self, hidden: Tensor, logits: Tensor, ask: DraftAsk) -> tuple[Tensor, Tensor, Tensor]:
        with self.marks.part(HEAD):
            return super()._choose(hidden, logits, ask)
