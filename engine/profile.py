"""Measure what steps cost on this machine: the real step, driven through a grid of shapes by a scripted policy.

It knows nothing of devices or kernels: whatever a step does is in its price.
"""

import copy
import dataclasses
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import structlog
from msgspec import Struct
from numpy.typing import NDArray

from core.cost import CostTable
from core.errors import EngineError
from engine.engine import Engine
from engine.timed_steps import MOST_STEPS, Script, StepTime, TimedSteps

log = structlog.get_logger()

F64 = NDArray[np.float64]

# Drafts verified per sequence, and the drafter's most.
LENGTHS = (0, 1, 3, 7, 15)
# Tokens of a short and of a long prompt; the long one is cut to what there is room for.
SHORT, LONG = 16, 512
# Sequences that a longer context is measured with: what it adds is proportional to their number.
NUM_LONG = 4
# Plain steps before catching up is timed: enough rows to stand out from one step to the next.
BEHIND = 12


class Times(Struct, frozen=True):
    """Steps of one batch: plain, and by drafts verified per sequence, in the order they were asked for."""

    plain: StepTime
    by_length: tuple[StepTime, ...]


def profile(engine: Engine, drafter: str, verifier: str = "rejection") -> CostTable:
    """Return what the engine's steps cost with one of its drafters; it must be idle, and is so afterwards.

    verifier is the one that requests without a seed are to have: the two draw and judge at different prices.
    Steps are timed for every power of two of sequences at a short context; a longer context adds to them what it adds
    to a few sequences, in proportion. Catching up is timed as rows beside plain decoding. The engine's statistics are
    left as they were. Raises EngineError if requests are under way or the drafter fails.
    """
    if engine.has_work:
        raise EngineError("a profile needs an idle engine; there are requests under way")
    started = time.perf_counter()
    with unchanged_statistics(engine):
        num_failures = engine.stats.fallbacks["drafter"]
        table = _measure(engine, drafter, is_coupled=verifier == "coupled")
        if engine.stats.fallbacks["drafter"] > num_failures:
            raise EngineError(f"drafter {drafter!r} failed while its cost was measured; the log says how")
    log.info("profile_done", drafter=drafter, seconds=round(time.perf_counter() - started, 2))
    return table


@contextmanager
def unchanged_statistics(engine: Engine) -> Iterator[None]:
    """Put all counters back to what they were."""
    stats, scheduler = engine.stats, engine.scheduler
    saved = copy.deepcopy(stats)
    counters = scheduler.num_preemptions, scheduler.prefix_queries, scheduler.prefix_hits
    try:
        yield
    finally:
        # Groups hold on to their own counts, so these are set back in place.
        groups = {key: group for key, group in stats.groups.items() if key in saved.groups}
        for group, before in ((groups[key], saved.groups[key]) for key in groups):
            for each in dataclasses.fields(group):
                setattr(group, each.name, getattr(before, each.name))
        for each in dataclasses.fields(stats):
            if each.name != "groups":
                setattr(stats, each.name, getattr(saved, each.name))
        for key in stats.groups.keys() - groups.keys():
            del stats.groups[key]
        scheduler.num_preemptions, scheduler.prefix_queries, scheduler.prefix_hits = counters


class Grid(Struct, frozen=True):
    """What is measured: sequences by drafts verified per sequence, and some sequences with long prompts.

    answer_len  tokens that an answer may have, so that none ends while it is timed
    """

    sequences: tuple[int, ...]
    lengths: tuple[int, ...]
    answer_len: int
    long_len: int
    num_long: int


def make_grid(engine: Engine, most_drafts: int) -> Grid:
    """Return what can be measured: the powers of two up to the engine's slots, and these, while their blocks last.

    Raises EngineError if not even one sequence has room to be measured.
    """
    limits, pool = engine.scheduler.limits, engine.memory.pool
    lengths = (*(length for length in LENGTHS if length < most_drafts), most_drafts)
    # Were every draft accepted, and the plain steps and those that catch up.
    answer_len = (1 + MOST_STEPS) * sum(1 + length for length in (*lengths, 0)) + BEHIND + 2
    room = min(limits.max_model_len, pool.num_free * pool.block_size) - answer_len - engine.memory.width - 1
    if room < 2 * SHORT:
        raise EngineError(
            f"a profile needs {answer_len + 2 * SHORT} tokens of room for a sequence; raise engine.kv_cache_tokens or "
            "engine.max_model_len"
        )
    long_len = min(LONG, room)

    def num_fitting(prompt_len: int) -> int:
        blocks = pool.blocks_for(prompt_len + answer_len + engine.memory.width + 1)
        return max(1, min(limits.max_num_seqs, pool.num_free // blocks))

    most = num_fitting(SHORT)
    sequences = tuple(sorted({*(1 << power for power in range(most.bit_length())), most}))
    return Grid(sequences, lengths, answer_len, long_len, min(NUM_LONG, num_fitting(long_len)))


def _measure(engine: Engine, drafter: str, *, is_coupled: bool) -> CostTable:
    grid, script = make_grid(engine, engine.memory.speculators[drafter].spec.max_drafts), Script()
    with engine.scripted(script, drafter):
        steps = TimedSteps(engine, script, is_coupled=is_coupled)
        # What is paid once in the life of a process belongs to no step.
        with steps.batch(1, SHORT, grid.answer_len):
            _times(steps, grid.lengths)
        short = []
        for num_sequences in grid.sequences:
            with steps.batch(num_sequences, SHORT, grid.answer_len):
                short.append(_times(steps, grid.lengths))
            log.info("profile_step", drafter=drafter, sequences=num_sequences, plain_s=short[-1].plain.rest_s)
        added, rows_s = _measure_long(steps, grid)
    each = np.array(grid.sequences, dtype=np.float64)
    plain = np.array([times.plain.rest_s for times in short])
    draft = np.array([_draft_s(times) for times in short])
    verify = np.array([spread(times, grid.lengths, n * rows_s[0]) for n, times in zip(each, short, strict=True)])
    added_lengths = np.interp(grid.lengths, (0, grid.lengths[-1]), added[2:])
    return make_table(
        (grid.sequences, grid.lengths, (SHORT, grid.long_len)),
        np.stack((plain, plain + each * added[0])),
        np.stack((verify, verify + each[:, None] * added_lengths)),
        np.stack((draft, draft + each * added[1])),
        rows_s,
    )


def _measure_long(steps: TimedSteps, grid: Grid) -> tuple[list[float], tuple[float, float]]:
    """Return what a long context adds per sequence, to the parts in _parts, and the price of other rows."""
    ends = (0, grid.lengths[-1])
    with steps.batch(grid.num_long, SHORT, grid.answer_len):
        near = _times(steps, ends)
    steps.chunks.clear()
    with steps.batch(grid.num_long, grid.long_len, grid.answer_len):
        far = _times(steps, ends)
        num_rows, catch_up_s = steps.catch_up(BEHIND)
    added = [max(0.0, b - a) / grid.num_long for a, b in zip(_parts(near), _parts(far), strict=True)]
    # What a step costs whatever its rows, is no row's price.
    fixed_s = near.plain.rest_s
    prefill_row_s = float(np.median([max(0.0, chunk_s - fixed_s) / rows for rows, chunk_s in steps.chunks]))
    catch_up_row_s = max(0.0, catch_up_s - far.by_length[0].rest_s) / max(1, num_rows)
    return added, (prefill_row_s, catch_up_row_s)


def make_table(
    grids: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]],
    plain: F64,
    verify: F64,
    draft: F64,
    rows_s: tuple[float, float],
) -> CostTable:
    """Return a table without the clock's noise: more of anything never costs less, and plain decoding is cheapest.

    Noise makes steps slower, never quicker; so where two disagree the smaller is to be believed.

    grids   sequences, lengths, contexts
    plain, draft f64 [C, S] and verify [C, S, L] are seconds; rows_s of a prefill row and a catch-up row
    """
    verify = lower(lower(verify, 2), 1)
    plain, draft = np.minimum(lower(plain, 1), verify[:, :, 0]), lower(draft, 1)
    values = (tuple(map(tuple, table)) for table in (plain.tolist(), draft.tolist()))
    plain_s, draft_s = values
    verify_s = tuple(tuple(map(tuple, at_context)) for at_context in verify.tolist())
    return CostTable(*grids, plain_s, verify_s, draft_s, *rows_s)


def lower(seconds: F64, axis: int) -> F64:
    """Return the greatest values that do not fall along an axis and are nowhere above `seconds`."""
    return np.flip(np.minimum.accumulate(np.flip(seconds, axis), axis=axis), axis)


def spread(times: Times, lengths: tuple[int, ...], row_s: float) -> list[float]:
    """Return the seconds at every length [L], less drafting, though fewer drafts may have been verified than asked.

    A drafter that finds nothing to draft, or a sequence near its end, leaves a step short of drafts. What those cost
    that were verified is scaled up; where hardly any were, a draft counts as `row_s` seconds.
    """
    first = times.by_length[0].rest_s
    seconds = []
    for length, step in zip(lengths, times.by_length, strict=True):
        is_telling = 2 * step.verified >= length
        # A step that noise made no dearer than the first says nothing of what drafts cost: there is nothing to scale.
        scale = length / step.verified if is_telling and length and step.rest_s > first else 1.0
        seconds.append(first + (step.rest_s - first) * scale if is_telling else first + length * row_s)
    return seconds


def _times(steps: TimedSteps, lengths: tuple[int, ...]) -> Times:
    """Time every length, and then plain steps, which leave the drafter behind."""
    by_length = tuple(steps.time(length) for length in lengths)
    return Times(steps.time(None), by_length)


def _parts(times: Times) -> tuple[float, ...]:
    """Return the seconds of a plain step, of drafting, and of the rest at every length."""
    return times.plain.rest_s, _draft_s(times), *(step.rest_s for step in times.by_length)


def _draft_s(times: Times) -> float:
    """Return the seconds of drafting, which is the same whatever is verified."""
    return min(step.draft_s for step in times.by_length)
