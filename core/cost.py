"""What a step costs on this machine, by its shape: measured once at start-up, read by policies and metrics."""

from collections.abc import Callable
from functools import cached_property

import numpy as np
from msgspec import Struct
from numpy.typing import ArrayLike, NDArray

from core.errors import ShapeError

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

# Grids are continued by one far point, so that interpolation extrapolates along the last segment.
FAR = 64.0
# Curves kept by a StepPrices; and in place of a number of other rows, the mark of a smooth one.
MOST_CURVES, SMOOTH = 256, -1


class CostTable(Struct, frozen=True, dict=True):
    """Seconds of a step over a grid of decoding sequences and contexts; immutable, published whole.

    sequences   [S] grid of decoding sequences, ascending
    lengths     [L] grid of drafts verified per sequence, ascending from 0
    contexts    [C] grid of tokens of context per sequence, ascending
    plain_s     [C][S] a whole step with nothing drafted and no drafter followed
    verify_s    [C][S][L] a step whose drafters are followed, all of it but drafting
    draft_s     [C][S] proposing for that many sequences
    prefill_row_s, catch_up_row_s   one more row of either kind
    row_shapes  numbers of target rows that a step is padded to, ascending: rows up to the next of them are free. ()
                where a step runs the rows it has; beyond the last nothing is padded
    Raises ShapeError if a grid does not ascend or a table does not cover its grids.
    """

    sequences: tuple[int, ...]
    lengths: tuple[int, ...]
    contexts: tuple[int, ...]
    plain_s: tuple[tuple[float, ...], ...]
    verify_s: tuple[tuple[tuple[float, ...], ...], ...]
    draft_s: tuple[tuple[float, ...], ...]
    prefill_row_s: float
    catch_up_row_s: float
    row_shapes: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name in ("sequences", "lengths", "contexts"):
            grid = getattr(self, name)
            if not grid or list(grid) != sorted(set(grid)) or grid[0] < 0:
                raise ShapeError(f"{name} of a cost table must ascend from 0 or more, got {grid}")
        if self.lengths[0] != 0 or self.sequences[0] == 0:
            raise ShapeError("a cost table's lengths must begin at 0 and its sequences above 0")
        if list(self.row_shapes) != sorted(set(self.row_shapes)):
            raise ShapeError(f"row_shapes of a cost table must ascend, got {self.row_shapes}")
        num_sequences, num_contexts = len(self.sequences), len(self.contexts)
        _check("plain_s", self.plain_s, (num_contexts, num_sequences))
        _check("draft_s", self.draft_s, (num_contexts, num_sequences))
        _check("verify_s", self.verify_s, (num_contexts, num_sequences, len(self.lengths)))

    def at(self, context: float) -> "StepPrices":
        """Return the prices at `context` tokens per sequence: linear between contexts and beyond the last one."""
        contexts, plain, verify, draft = self._arrays
        if len(contexts) == 1:
            return StepPrices(self, plain[0], verify[0], draft[0])
        i = min(max(int(np.searchsorted(contexts, context, side="right")) - 1, 0), len(contexts) - 2)
        weight = max(0.0, float((context - contexts[i]) / (contexts[i + 1] - contexts[i])))
        return StepPrices(
            self,
            plain[i] + weight * (plain[i + 1] - plain[i]),
            verify[i] + weight * (verify[i + 1] - verify[i]),
            draft[i] + weight * (draft[i + 1] - draft[i]),
        )

    def step_s(
        self,
        num_sequences: float,
        num_followed: ArrayLike,
        num_drafts: ArrayLike,
        context: float,
        prefill_rows: float = 0,
        catch_up_rows: float = 0,
    ) -> F64:
        """Return the seconds of steps that have not been run; num_followed and num_drafts broadcast.

        num_followed of the num_sequences have drafts proposed and their drafter kept up; the target verifies
        num_drafts in all. With nobody followed this is plain_s, with all of them verify_s + draft_s.
        """
        prices = self.at(context)
        rows_s = prefill_rows * self.prefill_row_s + catch_up_rows * self.catch_up_row_s
        return (
            prices.plain_s(num_sequences)
            + rows_s
            + prices.speculation_s(num_followed)
            + prices.verification_s(num_sequences, num_drafts)
        )

    @cached_property
    def sequence_grid(self) -> F64:
        """The grid of sequences with 0 before it and a far point after it, f64 [S + 2]."""
        return np.array((0, *self.sequences, self.sequences[-1] * FAR))

    @cached_property
    def length_grid(self) -> F64:
        """The grid of lengths with a far point after it, f64 [L + 1]."""
        return np.array((*self.lengths, max(1, self.lengths[-1]) * FAR))

    @cached_property
    def shape_grid(self) -> I64:
        """The row shapes, i64 [n]."""
        return np.array(self.row_shapes, dtype=np.int64)

    @cached_property
    def _arrays(self) -> tuple[F64, F64, F64, F64]:
        grid = self.sequence_grid[1:]
        plain, draft = (_extended(np.array(table), grid, 1) for table in (self.plain_s, self.draft_s))
        verify = _extended(_extended(np.array(self.verify_s), self.length_grid, 2), grid, 1)
        return np.array(self.contexts, dtype=np.float64), plain, verify, draft


class StepPrices:
    """The parts of a step's price at one context; a step is the sum of its parts.

    plain f64 [S + 1], verify [S + 1, L + 1] and draft [S + 1] run over the table's grids and their far points.
    Sequences between two grid points are interpolated length by length, so what was measured is met exactly; a number
    of drafts stands for the length they would have, were they spread evenly. Where only D of B sequences are followed,
    following costs what it costs in a step of D; the rows cost what they cost in a step of B.
    """

    def __init__(self, table: CostTable, plain: F64, verify: F64, draft: F64) -> None:
        self._table, self._plain, self._verify = table, plain, verify
        self.prefill_row_s, self.catch_up_row_s = table.prefill_row_s, table.catch_up_row_s
        self._speculation_curve, self._plain_s = np.zeros(0), dict[float, float]()
        # By number of sequences and of other rows.
        self._curves = dict[tuple[int, int], F64]()
        # No sequence costs nothing to follow; noise in the table must not pay for following.
        followed = np.maximum(verify[:, 0] - plain, 0.0) + draft
        self._speculation = np.concatenate(([0.0], followed))

    def plain_s(self, num_sequences: float) -> float:
        """Return the seconds of a step that decodes plainly; computed once."""
        seconds = self._plain_s.get(num_sequences)
        if seconds is None:
            seconds = float(np.interp(num_sequences, self._table.sequence_grid[1:], self._plain))
            self._plain_s[num_sequences] = seconds
        return seconds

    def speculation_s(self, num_followed: ArrayLike) -> F64:
        """Return what drafting for that many sequences and keeping their drafter up adds, without any draft row."""
        return np.interp(np.asarray(num_followed), self._table.sequence_grid, self._speculation)

    @property
    def is_padded(self) -> bool:
        """Tell whether steps are padded to row shapes."""
        return bool(self._table.row_shapes)

    def verification_s(self, num_sequences: float, num_drafts: ArrayLike, other_rows: int = 0) -> F64:
        """Return what that many draft rows add to a step of num_sequences.

        Where steps are padded this is a staircase, and tells what other_rows (prefill, catch-up) add with them; else
        these have prices of their own.
        """
        if not self.is_padded:
            return self.smooth_verification_s(num_sequences, num_drafts)
        shapes = self._table.shape_grid
        rows = np.concatenate(([num_sequences], num_sequences + other_rows + np.asarray(num_drafts).ravel()))
        top = np.searchsorted(shapes, rows)
        padded = np.where(top < len(shapes), shapes[np.minimum(top, len(shapes) - 1)], rows)
        seconds = self.smooth_verification_s(num_sequences, padded - num_sequences)
        return (seconds[1:] - seconds[0]).reshape(np.shape(num_drafts))

    def smooth_verification_s(self, num_sequences: float, num_drafts: ArrayLike) -> F64:
        """Return the same on a straight line from one measured shape to the next."""
        grid = self._table.sequence_grid
        i = min(max(int(np.searchsorted(grid, num_sequences, side="right")) - 2, 0), len(grid) - 3)
        weight = max(0.0, float((num_sequences - grid[i + 1]) / (grid[i + 2] - grid[i + 1])))
        curve = self._verify[i] + weight * (self._verify[i + 1] - self._verify[i])
        return np.interp(np.asarray(num_drafts), self._table.length_grid * max(num_sequences, 1.0), curve - curve[0])

    def tops(self, num_rows: int, most: int) -> tuple[int, ...]:
        """Return the numbers of drafts, 0..most, that fill a padded step of num_rows other rows; ascending."""
        drafts = self._table.shape_grid - num_rows
        return tuple(drafts[(drafts >= 0) & (drafts <= most)].tolist())

    def speculation_curve(self, most: int) -> F64:
        """Return speculation_s of 0..most sequences; computed once."""
        if len(self._speculation_curve) <= most:
            self._speculation_curve = self.speculation_s(np.arange(most + 1))
        return self._speculation_curve[: most + 1]

    def verification_curve(self, num_sequences: int, most: int, other_rows: int = 0) -> F64:
        """Return verification_s of 0..most drafts; computed once."""
        key = num_sequences, other_rows if self.is_padded else 0
        return self._known_curve(key, most, lambda drafts: self.verification_s(num_sequences, drafts, other_rows))

    def smooth_verification_curve(self, num_sequences: int, most: int) -> F64:
        """Return smooth_verification_s of 0..most drafts; computed once."""
        key = num_sequences, SMOOTH
        return self._known_curve(key, most, lambda drafts: self.smooth_verification_s(num_sequences, drafts))

    def _known_curve(self, key: tuple[int, int], most: int, price: Callable[[F64], F64]) -> F64:
        curve = self._curves.get(key)
        if curve is None or len(curve) <= most:
            if len(self._curves) >= MOST_CURVES:
                self._curves.clear()
            curve = self._curves[key] = price(np.arange(most + 1, dtype=np.float64))
        return curve[: most + 1]


def _extended(values: F64, grid: F64, axis: int) -> F64:
    """Append the value at the grid's far point, on the line through the last two; never falling."""
    last = np.take(values, [-1], axis)
    if values.shape[axis] == 1:
        return np.concatenate((values, last), axis)
    slope = (last - np.take(values, [-2], axis)) / (grid[-2] - grid[-3])
    return np.concatenate((values, last + np.maximum(slope, 0.0) * (grid[-1] - grid[-2])), axis)


def _check(name: str, table: ArrayLike, shape: tuple[int, ...]) -> None:
    try:
        values = np.array(table, dtype=np.float64)
    except ValueError as error:
        raise ShapeError(f"{name} of a cost table must be {list(shape)}, got rows of different lengths") from error
    if values.shape != shape or not (np.isfinite(values) & (values >= 0)).all():
        raise ShapeError(f"{name} of a cost table must be {list(shape)} seconds, got {list(values.shape)}")
