"""Work replayed from CUDA graphs: the launches of a whole network at the price of one.

A graph is of one shape. Whoever has work for it pads a batch to a bucket, the least that holds it (GraphedForward for
the target's rows, GraphedDrafts for a drafter's blocks); what pads belongs to nobody. Every bucket has tensors of its
own that its graph reads and writes at fixed places. The graphs of one set share a pool of memory, because no two of
them run at once and what one returns is read before the next of them runs; what is read while another set runs, a
draft during the verification, is in a pool of its own.
"""

import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

import structlog
import torch

log = structlog.get_logger()

Inputs = TypeVar("Inputs")
Outcome = TypeVar("Outcome")
# Runs captured work over whatever its inputs hold, into the same outputs each time.
Replay = Callable[[], Outcome]
# How work is captured. Makes a replay of what it is handed, which has run once or more by then.
Capture = Callable[[Callable[[], Outcome]], Replay[Outcome]]

# Rows from which on a forward takes the device longer than its launches take the host: none are captured beyond.
MOST_ROWS = 1024


@dataclass(frozen=True, slots=True)
class Captured(Generic[Inputs, Outcome]):
    """The inputs of one bucket, and the work that reads them; what it returns is good until the set replays again."""

    inputs: Inputs
    replay: Replay[Outcome]


class GraphSet(Generic[Inputs, Outcome]):
    """The graphs of one piece of work, by shape.

    name          what is captured, for the log
    num_replayed  runs from a graph; num_eager runs without one
    is_broken     something could not be captured: from then on all of it runs as it is
    """

    def __init__(self, name: str, capture: Capture[Outcome]) -> None:
        self.name, self._capture = name, capture
        self._captured: dict[Hashable, Captured[Inputs, Outcome]] = {}
        self.num_eager = self.num_replayed = 0
        self.is_broken = False

    def __len__(self) -> int:
        return len(self._captured)

    def get(
        self, shape: Hashable, make_inputs: Callable[[], Inputs], work: Callable[[Inputs], Outcome]
    ) -> Captured[Inputs, Outcome] | None:
        """Return what was captured for a shape, captured now if it never was; None if that fails, which is logged."""
        if found := self._captured.get(shape):
            return found
        if self.is_broken:
            return None
        started, inputs = time.perf_counter(), make_inputs()
        try:
            captured = Captured(inputs, self._capture(lambda: work(inputs)))
        except RuntimeError as error:
            # Such as a look at a value, or memory that is full. Nothing was asked of the work yet that could be lost.
            self.is_broken = True
            log.warning("capture_failed", work=self.name, shape=str(shape), error=repr(error))
            return None
        log.debug("captured", work=self.name, shape=str(shape), seconds=round(time.perf_counter() - started, 3))
        self._captured[shape] = captured
        return captured


def capture_on(device: torch.device) -> Capture[Outcome]:
    """Return how work is captured on a device, in a new pool of memory; where there are no graphs it runs anew."""
    return CudaCapture() if device.type == "cuda" else run_anew


def run_anew(work: Callable[[], Outcome]) -> Replay[Outcome]:
    """Take work for its own replay: what the CPU has in place of a graph."""
    return work


class CudaCapture:
    """Captures work as CUDA graphs of one pool of memory, each after a run that loads and tunes its kernels."""

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, work: Callable[[], Outcome]) -> Replay[Outcome]:
        """Capture work; its inputs and outputs stay where they are."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            work()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            outcome = work()

        def replay() -> Outcome:
            graph.replay()
            return outcome

        return replay
