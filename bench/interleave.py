"""Measure several targets side by side: short windows by turns in random order, so that noise hits all alike."""

import random
from collections.abc import Callable, Sequence

from msgspec import Struct

from bench.load import Load, Questions, Target
from bench.prompt_pool import PromptPool
from bench.window import Window

# Fewer rounds than this make no interval worth printing.
MIN_ROUNDS = 4
# A window shorter than a few steps measures nothing.
MIN_WINDOW_S = 0.3

Report = Callable[[str], None]
Measured = dict[Load, dict[str, list[Window]]]


class Schedule(Struct, frozen=True):
    """How long: `rounds` windows of `window_s` per target and load, after one of `warm_up_s` that is thrown away.

    settle_s  what each target serves of the first load before that, so that policies have learnt what it is
    """

    rounds: int
    window_s: float
    warm_up_s: float
    settle_s: float = 0.0


def fit_schedule(minutes: float, window_s: float, num_targets: int, num_loads: int, overhead: float = 1.0) -> Schedule:
    """Return a schedule that takes about `minutes`; overhead is what a window takes for each second it measures."""
    windows = minutes * 60 / (num_targets * num_loads * overhead)
    rounds = int(windows / window_s) - 1
    if rounds >= MIN_ROUNDS:
        return Schedule(rounds, window_s, window_s)
    shorter = max(MIN_WINDOW_S, windows / (MIN_ROUNDS + 1))
    return Schedule(MIN_ROUNDS, shorter, shorter)


def measure(
    targets: Sequence[Target], loads: Sequence[Load], pool: PromptPool, schedule: Schedule, seed: int, report: Report
) -> Measured:
    """Put every target under every load; returns windows by load and target name, in the order of rounds.

    All targets get the same questions in the same order; no target gets one twice before all were asked.
    """
    rng = random.Random(seed)  # noqa: S311, a seed must give the same order
    measured: Measured = {}
    num_asked = 0
    for load in loads:
        report(f"{load.concurrency} at once, temperature {load.temperature:g}")
        questions = [Questions(pool, num_asked, load) for _ in targets]
        for target, own in zip(targets, questions, strict=True):
            target.start(load, own)
            target.measure(schedule.warm_up_s + (schedule.settle_s if load is loads[0] else 0.0))
        windows: dict[str, list[Window]] = {target.name: [] for target in targets}
        for _ in range(schedule.rounds):
            for target in rng.sample(list(targets), len(targets)):
                windows[target.name].append(target.measure(schedule.window_s))
        for target in targets:
            target.stop()
        num_asked += max(own.num_asked for own in questions)
        measured[load] = windows
    if num_asked > len(pool.questions):
        report(f"the pool's {len(pool.questions)} questions were asked more than once: {num_asked} requests per target")
    return measured
