"""Steps of a real engine, held against a cost table: the table corrected by them, and how they scatter about it.

An engine corrects its table itself as it runs (engine/cost_refine.py), by one factor for plain steps and one for those
that speculate, of its own policy's steps. Here steps of several policies are at hand, so each load has a factor for
every verify length that was seen.
"""

from collections.abc import Sequence

import numpy as np
from msgspec import Struct
from msgspec.structs import replace
from numpy.typing import NDArray

from core.cost import CostTable

F64 = NDArray[np.float64]

# Fewer steps than these, of one load and length, tell nothing.
FEWEST = 8


class SeenStep(Struct, frozen=True):
    """A step: what it did, and the seconds it took, all that the engine does included."""

    num_sequences: int
    num_followed: int
    num_verified: int
    context: float
    seconds: float
    prefill_rows: int = 0


def price(table: CostTable, step: SeenStep) -> float:
    """Return what a table says of a step."""
    decoding_s = table.step_s(step.num_sequences, step.num_followed, step.num_verified, step.context)
    return float(decoding_s) + step.prefill_rows * table.prefill_row_s


def deviations(table: CostTable, steps: Sequence[SeenStep]) -> list[float]:
    """Return by how much steps took longer than a table says, as ratios."""
    return [step.seconds / price(table, step) for step in steps]


def corrected(table: CostTable, steps: Sequence[SeenStep]) -> CostTable:
    """Return the table that says of steps, load by load and length by length, what they took on average.

    A length that was not seen at a load follows that load's others, a load that was not seen its kind's. These are of
    steps of nothing but decoding; what the others took longer is the price of their rows of prefill, which a profile of
    an idle engine cannot know: under load it has requests to take in as well.
    """
    shape = len(table.sequences), len(table.lengths)
    speculating, plain = np.empty(shape), np.empty(shape[0])
    found = [(step, *_place(table, step)) for step in steps if not step.prefill_rows]
    for i in range(shape[0]):
        plain[i] = _ratio(table, [step for step, at, _ in found if not step.num_followed and at == i])
        for j in range(shape[1]):
            own = [step for step, at, length in found if step.num_followed and (at, length) == (i, j)]
            speculating[i, j] = _ratio(table, own)
    verify, draft = np.array(table.verify_s), np.array(table.draft_s)
    whole = verify + draft[:, :, None]
    verify = np.maximum(whole * _filled(speculating)[None] - draft[:, :, None], 0.0)
    plain_s = np.array(table.plain_s) * _filled(plain[:, None])[:, 0]
    decoding = replace(
        table,
        plain_s=tuple(map(tuple, plain_s.tolist())),
        verify_s=tuple(tuple(map(tuple, rows)) for rows in verify.tolist()),
        prefill_row_s=0.0,
    )
    return replace(decoding, prefill_row_s=_prefill_row_s(table, decoding, steps))


def _prefill_row_s(table: CostTable, decoding: CostTable, steps: Sequence[SeenStep]) -> float:
    """Return by how much a row of prefill made steps longer than `decoding` says; what the table says for too few."""
    filling = [step for step in steps if step.prefill_rows]
    if len(filling) < FEWEST:
        return table.prefill_row_s
    longer_s = sum(step.seconds - price(decoding, step) for step in filling)
    return max(0.0, longer_s / sum(step.prefill_rows for step in filling))


def _place(table: CostTable, step: SeenStep) -> tuple[int, int]:
    """Return the table's nearest number of sequences, as factors go, and its nearest length."""
    sequences = np.log(np.array(table.sequences, dtype=np.float64))
    length = step.num_verified / step.num_sequences
    return (
        int(np.abs(sequences - np.log(step.num_sequences)).argmin()),
        int(np.abs(np.array(table.lengths) - length).argmin()),
    )


def _ratio(table: CostTable, steps: Sequence[SeenStep]) -> float:
    """Return what steps took over what the table says of them; nan for too few."""
    if len(steps) < FEWEST:
        return np.nan
    return sum(step.seconds for step in steps) / sum(price(table, step) for step in steps)


def _filled(ratios: F64) -> F64:
    """Return ratios f64 [S, L] without gaps: a row's mean for its own, the mean of all for rows of nothing else."""
    seen = ~np.isnan(ratios)
    if not seen.any():
        return np.ones_like(ratios)
    rows = [float(row[known].mean()) if known.any() else np.nan for row, known in zip(ratios, seen, strict=True)]
    means = np.where(np.isnan(rows), float(ratios[seen].mean()), rows)
    return np.where(seen, ratios, means[:, None])
