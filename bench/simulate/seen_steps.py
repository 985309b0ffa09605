"""Steps of a real engine, held against a cost table: the table corrected by them, and how they scatter about it.

An engine corrects its table itself as it runs (engine/cost_refine.py), by one factor for plain steps and one for those
that speculate, of its own policy's steps. Here steps of several policies are at hand, so each load has a factor for
every verify length that was seen.
"""

from collections import Counter
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
    """Return how steps scatter: by how much they took longer than others of their load and length, as ratios.

    A table may be off for one kind of step; that is no scatter, and none that other kinds of step have.
    """
    cells: dict[Cell, list[float]] = {}
    for step in steps:
        cells.setdefault(_cell(table, step), []).append(step.seconds / price(table, step))
    kept = [np.array(ratios) for ratios in cells.values() if len(ratios) >= FEWEST]
    return [float(ratio) for ratios in kept for ratio in ratios / ratios.mean()]


def corrected(table: CostTable, steps: Sequence[SeenStep]) -> CostTable:
    """Return the table that says of steps, load by load and length by length, what they took on average.

    A length that was not seen at a load follows that load's others, a load that was not seen its kind's. A row of
    prefill costs what it made steps longer, for a profile of an idle engine cannot know that: under load there are
    requests to take in as well. That price is found together with the factors, by least squares of relative deviations:
    with many sequences hardly any step is without prefill.
    """
    steps = [step for step in steps if not _is_prefill(step)]
    cells = [_cell(table, step) for step in steps]
    sizes, filling = Counter(cells), sum(step.prefill_rows > 0 for step in steps)
    kept = [
        (step, cell)
        for step, cell in zip(steps, cells, strict=True)
        if sizes[cell] >= FEWEST and (filling >= FEWEST or not step.prefill_rows)
    ]
    factors, prefill_row_s = _fitted(table, kept)
    shape = len(table.sequences), len(table.lengths)
    speculating, plain = np.full(shape, np.nan), np.full((shape[0], 1), np.nan)
    for (is_plain, i, j), factor in factors.items():
        (plain if is_plain else speculating)[i, j] = factor
    verify, draft = np.array(table.verify_s), np.array(table.draft_s)
    whole = verify + draft[:, :, None]
    verify = np.maximum(whole * _filled(speculating)[None] - draft[:, :, None], 0.0)
    plain_s = np.array(table.plain_s) * _filled(plain)[:, 0]
    # To follow sequences is never cheaper than not to: where it would be, what was seen are the longer drafts.
    verify[:, :, 0] = np.maximum(verify[:, :, 0], plain_s)
    return replace(
        table,
        plain_s=tuple(map(tuple, plain_s.tolist())),
        verify_s=tuple(tuple(map(tuple, rows)) for rows in verify.tolist()),
        prefill_row_s=prefill_row_s,
    )


def _is_prefill(step: SeenStep) -> bool:
    """Tell whether whoever is followed has prefill only: of such steps none tells what the rest of them costs."""
    return bool(step.num_followed and step.prefill_rows and not step.num_verified)


# Whether a step is plain, and where in the table it stands: its number of sequences, its length.
Cell = tuple[bool, int, int]


def _fitted(table: CostTable, kept: Sequence[tuple[SeenStep, Cell]]) -> tuple[dict[Cell, float], float]:
    """Return by which factor the steps of each cell took longer, and what a row of prefill cost."""
    if not kept:
        return {}, table.prefill_row_s
    columns = {cell: column for column, cell in enumerate(dict.fromkeys(cell for _, cell in kept))}
    priced_s = np.array([price(table, replace(step, prefill_rows=0)) for step, _ in kept])
    rows = np.array([step.prefill_rows for step, _ in kept], dtype=np.float64)
    shares = np.zeros((len(kept), len(columns) + 1))
    shares[np.arange(len(kept)), [columns[cell] for _, cell in kept]] = 1.0
    # In multiples of what the table says, so that the columns are alike in size.
    unit_s = table.prefill_row_s or 1e-6
    shares[:, -1] = rows * unit_s / priced_s
    target = np.array([step.seconds for step, _ in kept]) / priced_s
    found = np.linalg.lstsq(shares, target, rcond=None)[0]
    is_known = bool(rows.any())
    if is_known and found[-1] < 0.0:
        found = np.append(np.linalg.lstsq(shares[:, :-1], target, rcond=None)[0], 0.0)
    prefill_row_s = float(found[-1]) * unit_s if is_known else table.prefill_row_s
    # What all steps of a cell took together is what a throughput is made of: that is met exactly.
    left_s = np.array([step.seconds for step, _ in kept]) - rows * prefill_row_s
    index = np.array([columns[cell] for _, cell in kept])
    totals = (np.bincount(index, weights=each) for each in (left_s, priced_s))
    factors = np.maximum(np.divide(*totals), 0.0)
    return {cell: float(factors[column]) for cell, column in columns.items()}, prefill_row_s


def _cell(table: CostTable, step: SeenStep) -> Cell:
    """Return where a step stands: the nearest number of sequences, as factors go, and the nearest length."""
    sequences = np.log(np.array(table.sequences, dtype=np.float64))
    i = int(np.abs(sequences - np.log(step.num_sequences)).argmin())
    if not step.num_followed:
        return True, i, 0
    return False, i, int(np.abs(np.array(table.lengths) - step.num_verified / step.num_sequences).argmin())


def _filled(ratios: F64) -> F64:
    """Return ratios f64 [S, L] without gaps: a row's mean for its own, the mean of all for rows of nothing else."""
    seen = ~np.isnan(ratios)
    if not seen.any():
        return np.ones_like(ratios)
    rows = [float(row[known].mean()) if known.any() else np.nan for row, known in zip(ratios, seen, strict=True)]
    means = np.where(np.isnan(rows), float(ratios[seen].mean()), rows)
    return np.where(seen, ratios, means[:, None])
