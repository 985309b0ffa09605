"""Many cases side by side, each in a process of its own where there are several."""

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor

import torch

from bench.logs import show_warnings_only
from bench.simulate.case import Case, play
from bench.simulate.measure import Outcome


def begin_process() -> None:
    """Make a process one of many: a thread each, and quiet."""
    torch.set_num_threads(1)
    show_warnings_only()


def play_all(cases: Iterable[Case], processes: int | None) -> Iterator[Outcome]:
    """Yield the outcomes of cases in their order, as they come; processes None takes a core each."""
    wanted = list(cases)
    number = min(processes or os.cpu_count() or 1, len(wanted))
    if number <= 1:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        yield from map(play, wanted)
        torch.set_num_threads(threads)
        return
    with ProcessPoolExecutor(number, initializer=begin_process) as pool:
        yield from pool.map(play, wanted)
