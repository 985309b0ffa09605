"""Tokens per second of one user with each drafter beside plain decoding, taken by turns so that noise hits all alike.

Every prompt is answered alone, by each way to decode in random order. The time counts from the first token on. Greedy
answers end at their first repetition.
"""

import random
import secrets
import time
from collections.abc import Callable, Sequence

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from core.repetition import loop_start
from core.statistics import Interval, bootstrap_interval
from core.types import Request, Sampling, Speculation
from engine.engine import Engine
from training.evaluation.conversation import Conversation
from training.evaluation.prompts import Prompts

F64 = NDArray[np.float64]
OFF = "off"
# Prompts that every way to decode answers before anything is timed: policies learn, caches fill.
WARM_UP = 2
# Steps between two looks for a repetition.
LOOP_CHECK = 16


class Speed(Struct, frozen=True):
    """How fast one drafter was under a policy; `ratio` is its speed over that of plain decoding on the same prompts."""

    task: str
    drafter: str
    policy: str
    temperature: float
    num_prompts: int
    tokens_per_s: float
    off_tokens_per_s: float
    ratio: Interval


class Timed(Struct, frozen=True):
    """One answer: tokens after the first ones, and the seconds these took."""

    tokens: int
    seconds: float


def measure_speed(
    engine: Engine,
    drafters: Sequence[str],
    policy: str,
    conversations: Sequence[Conversation],
    sampling: Sampling,
    progress: Callable[[], None] | None = None,
) -> list[Speed]:
    """Answer the first turn of every conversation with and without drafts; returns a row per task and drafter.

    With more than one task come rows for all of them together.
    """
    assert engine.tokenizer is not None
    prompts, rng = Prompts(engine.tokenizer, engine.max_model_len), random.Random(0)  # noqa: S311, order only
    ways = {OFF: Speculation(max_drafts=0)} | {name: Speculation(drafter=name, policy=policy) for name in drafters}
    timed: dict[str, list[Timed]] = {name: [] for name in ways}
    tasks: list[str] = []
    for number, conversation in enumerate([*conversations[:WARM_UP], *conversations]):
        prompt = prompts.make(conversation, (), sampling.max_tokens)
        if prompt is None:
            continue
        own = Sampling(max_tokens=prompt.max_tokens, temperature=sampling.temperature)
        for name in rng.sample(list(ways), len(ways)):
            found = time_answer(engine, prompt.ids, own, ways[name])
            if number >= WARM_UP:
                timed[name].append(found)
        if number >= WARM_UP:
            tasks.append(conversation.task)
        if progress:
            progress()
    return summarise_speed(timed, tasks, policy, sampling.temperature)


def time_answer(engine: Engine, prompt_ids: tuple[int, ...], sampling: Sampling, speculation: Speculation) -> Timed:
    """Answer one prompt alone; its prefix is found by no other answer."""
    name = secrets.token_hex(8)
    engine.add(Request(name, prompt_ids, sampling, secrets.randbits(64), cache_salt=name, speculation=speculation))
    token_ids: list[int] = []
    # After every step with tokens: how many there are, and the seconds since the first of them.
    counts, times, spent = list[int](), list[float](), 0.0
    while engine.has_work:
        started = time.perf_counter()
        emissions = engine.step()
        spent += time.perf_counter() - started
        for emission in emissions:
            # What is not the engine's is not timed.
            spent = spent if token_ids else 0.0
            token_ids.extend(emission.token_ids)
            counts.append(len(token_ids))
            times.append(spent)
        is_checked = sampling.temperature == 0.0 and len(counts) % LOOP_CHECK == 0
        if is_checked and loop_start(token_ids) < len(token_ids):
            engine.abort(name)
    end = loop_start(token_ids) if sampling.temperature == 0.0 else len(token_ids)
    if not counts or end <= counts[0]:
        return Timed(0, 0.0)
    return Timed(end - counts[0], float(np.interp(end, counts, times)))


def summarise_speed(
    timed: dict[str, list[Timed]], tasks: Sequence[str], policy: str, temperature: float
) -> list[Speed]:
    """Compare every way to decode with plain decoding; timed has an entry per prompt, of the task in `tasks`."""
    names = list(dict.fromkeys(tasks))
    groups = [[index for index, task in enumerate(tasks) if task == name] for name in names]
    if len(names) > 1:
        names, groups = [*names, "all"], [*groups, list(range(len(tasks)))]
    rows = []
    for drafter in timed:
        if drafter == OFF:
            continue
        for name, members in zip(names, groups, strict=True):
            pairs = [(timed[drafter][each], timed[OFF][each]) for each in members]
            table = np.array([(a.tokens, a.seconds, b.tokens, b.seconds) for a, b in pairs if a.tokens and b.tokens])
            if not len(table):
                continue
            sums = table.sum(0)
            ratio = bootstrap_interval(table, _speed_ratio)
            rows.append(
                Speed(
                    name,
                    drafter,
                    policy,
                    temperature,
                    len(table),
                    float(sums[0] / sums[1]),
                    float(sums[2] / sums[3]),
                    ratio,
                )
            )
    return rows


def _speed_ratio(rows: F64) -> float:
    tokens, seconds, plain_tokens, plain_seconds = rows.sum(0)
    return float(tokens / seconds / (plain_tokens / plain_seconds))
