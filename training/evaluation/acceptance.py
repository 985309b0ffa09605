"""Accepted length, conditional acceptance and their differences, with intervals over prompts. Numpy only.

tau = tokens / rounds, pooled over all rounds, the target's own token included: DeepSpec's definition. Rounds of one
prompt are alike, so intervals resample prompts (percentile bootstrap). Two drafters that answered the same prompts are
compared in the same resample.
"""

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from core.statistics import Interval, bootstrap_interval
from training.evaluation.counted_rounds import CountedRounds

F64 = NDArray[np.float64]


class Acceptance(Struct, frozen=True):
    """What drafts of one kind were worth; None where nothing was counted.

    length         tau
    survival       by position: share of the rounds that judged it in which all drafts up to it were kept
    conditional    by position: kept, given that all before it were; of so many rounds, `reached`
    verified       drafts sent to the target per round
    share          of the tokens sent to the target, anchors included, the share that was kept: tau / (1 + verified)
    by_length      share of rounds that gave 1, 2, .. G + 1 tokens
    """

    num_prompts: int
    num_rounds: int
    length: Interval | None
    survival: tuple[Interval | None, ...]
    conditional: tuple[Interval | None, ...]
    reached: tuple[int, ...]
    verified: float | None
    share: float | None
    by_length: tuple[float, ...]


def measure_acceptance(rounds: CountedRounds) -> Acceptance:
    """Measure rounds, whose prompts are the independent units."""
    width, prompts = rounds.width, np.unique(rounds.prompt)
    places = np.arange(1, width + 1)
    judged, kept = rounds.judged[:, None] >= places, rounds.accepted[:, None] >= places
    reached = judged & (rounds.accepted[:, None] >= places - 1)
    tokens = rounds.tokens.astype(np.float64)
    sent = float(1.0 + rounds.verified.mean()) if len(rounds) else None
    return Acceptance(
        len(prompts),
        len(rounds),
        ratio_interval(rounds.prompt, tokens, np.ones(len(rounds))),
        tuple(ratio_interval(rounds.prompt, kept[:, k], judged[:, k]) for k in range(width)),
        tuple(ratio_interval(rounds.prompt, kept[:, k], reached[:, k]) for k in range(width)),
        tuple(reached.sum(0).tolist()),
        sent - 1.0 if sent else None,
        float(tokens.mean()) / sent if sent else None,
        tuple(float((rounds.tokens == count).mean()) for count in range(1, width + 2)) if len(rounds) else (),
    )


def ratio_interval(prompt: NDArray[np.int32], above: NDArray, below: NDArray) -> Interval | None:  # type: ignore[type-arg]
    """Return sum(above) / sum(below) over rounds with limits over prompts; None if nothing is below."""
    if not len(prompt) or not below.sum():
        return None
    rows = per_prompt(prompt, above, below)
    return bootstrap_interval(rows[rows[:, 1] > 0], _ratio)


def length_difference(left: CountedRounds, right: CountedRounds) -> Interval | None:
    """Return tau of `left` less that of `right`, with paired limits over the prompts that both have rounds of."""
    size = int(max(left.prompt.max(initial=-1), right.prompt.max(initial=-1))) + 1
    columns = [
        np.bincount(side.prompt, weights, size)
        for side in (left, right)
        for weights in (side.tokens, np.ones(len(side)))
    ]
    rows = np.stack(columns, axis=1)
    rows = rows[(rows[:, 1] > 0) & (rows[:, 3] > 0)]
    return bootstrap_interval(rows, _difference) if len(rows) else None


def per_prompt(prompt: NDArray[np.int32], *values: NDArray) -> F64:  # type: ignore[type-arg]
    """Sum values [N] by prompt; returns [P, number of values], a row for each prompt there is."""
    _, index = np.unique(prompt, return_inverse=True)
    return np.stack([np.bincount(index, each.astype(np.float64)) for each in values], axis=1)


def _ratio(rows: F64) -> float:
    above, below = rows.sum(0)
    return float(above / below)


def _difference(rows: F64) -> float:
    sums = rows.sum(0)
    return float(sums[0] / sums[1] - sums[2] / sums[3])
