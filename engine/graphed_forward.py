"""The target's forward, replayed from graphs where a bucket holds its rows.

Rows and sequences are padded; what pads belongs to one sequence more, which is nobody's (engine/bounded_rows.py): no
row of anybody sees it, and it stores nothing. Batches that no bucket holds, such as prefill chunks, run as they are.
"""

from collections.abc import Iterable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from core.tensors import PagedKV, VerifyRows
from engine.graphs import MOST_ROWS, Capture, Captured, GraphSet, capture_on
from engine.memory import EngineMemory

States = tuple[Tensor, Tensor | None]


class Forward(Protocol):
    """A target's forward over ragged rows (`engine.target.TargetForward`)."""

    def __call__(self, rows: VerifyRows, kv: PagedKV, feature_layers: tuple[int, ...]) -> States:
        """Return the final hidden states and the features of N rows."""
        ...


class Bucket(NamedTuple):
    """The shape of a captured forward: rows, and sequences besides nobody's."""

    num_rows: int
    num_sequences: int


class GraphedForward:
    """Runs a target's forwards; `graphs` counts how.

    kv         the whole cache, with the block tables of all slots
    sizes      numbers of sequences
    most_rows  rows of each of them: there is a bucket for every pair of the two, captured by `warm` or when a batch
               first asks for it
    """

    def __init__(
        self, forward: Forward, kv: PagedKV, sizes: Iterable[int], most_rows: Iterable[int], capture: Capture[States]
    ) -> None:
        self._forward, self._kv = forward, kv
        pairs = [Bucket(size * rows, size) for size in sizes for rows in most_rows]
        self.buckets = tuple(sorted(bucket for bucket in pairs if bucket.num_rows <= MOST_ROWS))
        self.graphs = GraphSet[VerifyRows, States]("target", capture)

    def __call__(self, rows: VerifyRows, kv: PagedKV, feature_layers: tuple[int, ...]) -> States:
        """Run N ragged rows (`engine.target.TargetForward`); what comes back is overwritten by the next call."""
        bucket = self.bucket_of(rows)
        captured = bucket and self.warm(bucket, feature_layers)
        if not captured:
            self.graphs.num_eager += 1
            return self._forward(rows, kv, feature_layers)
        self.graphs.num_replayed += 1
        fill(captured.inputs, rows)
        hidden, features = captured.replay()
        num_rows = len(rows.tokens)
        return hidden[:num_rows], None if features is None else features[:num_rows]

    def bucket_of(self, rows: VerifyRows) -> Bucket | None:
        """Return the least bucket that holds a batch, None if none does."""
        num_rows, num_sequences = len(rows.tokens), len(rows.cu_rows) - 1
        fitting = (each for each in self.buckets if each.num_rows >= num_rows and each.num_sequences >= num_sequences)
        return next(fitting, None)

    def warm(self, bucket: Bucket, feature_layers: tuple[int, ...]) -> Captured[VerifyRows, States] | None:
        """Return one bucket's graph for the features of some layers; if it is new, captured over rows of nobody."""

        def run(rows: VerifyRows) -> States:
            kv = PagedKV(self._kv.keys, self._kv.values, rows.block_tables, self._kv.block_size)
            return self._forward(rows, kv, feature_layers)

        return self.graphs.get((bucket, feature_layers), lambda: nobodys_rows(bucket, self._kv.block_tables), run)


def graphed(forward: Forward, memory: EngineMemory, sizes: tuple[int, ...]) -> GraphedForward:
    """Return an engine's forward with graphs for steps of these numbers of sequences, plain or with all drafts."""
    kv = memory.kv.view(memory.slots.block_tables)
    return GraphedForward(forward, kv, sizes, {1, 1 + memory.width}, capture_on(kv.block_tables.device))


def nobodys_rows(bucket: Bucket, tables: Tensor) -> VerifyRows:
    """Return inputs for a bucket that hold nobody yet, as wide as `tables` [..., max_blocks] and where they lie."""
    cu_rows = tables.new_zeros(bucket.num_sequences + 2)
    cu_rows[-1] = bucket.num_rows
    return VerifyRows(
        tables.new_zeros(bucket.num_rows),
        tables.new_zeros(bucket.num_rows),
        cu_rows,
        tables.new_zeros(bucket.num_sequences + 1, tables.shape[-1]),
        tables.new_zeros(bucket.num_rows, dtype=torch.bool),
    )


def fill(into: VerifyRows, rows: VerifyRows) -> None:
    """Write a batch into the inputs of a bucket, in place: its rows first, the rest nobody's. Waits for nothing."""
    num_rows, num_sequences = len(rows.tokens), len(rows.cu_rows) - 1
    for target, source in ((into.tokens, rows.tokens), (into.positions, rows.positions)):
        target[:num_rows].copy_(source)
        target[num_rows:].zero_()
    into.cu_rows[: num_sequences + 1].copy_(rows.cu_rows)
    # Sequences that are not there have no rows; the last, nobody's, has all that are left.
    into.cu_rows[num_sequences + 1 : -1].fill_(num_rows)
    into.block_tables[:num_sequences].copy_(rows.block_tables)
    into.block_tables[num_sequences:].zero_()
    assert into.stores is not None
    if rows.stores is None:
        into.stores[:num_rows].fill_(1)
    else:
        into.stores[:num_rows].copy_(rows.stores)
    into.stores[num_rows:].zero_()
