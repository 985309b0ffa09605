"""The target's forward replayed from CUDA graphs: the launches of a whole network at the price of one.

A graph is of one shape, so rows and sequences are padded to buckets, the least that hold them. What pads belongs to one
sequence more, which is nobody's (engine/bounded_rows.py): no row of anybody sees it, and it stores nothing. Each bucket
has tensors of its own that a graph reads and writes at fixed places; all graphs share one pool of memory, because no
two of them run at once. Batches that no bucket holds, such as prefill chunks, run as they are, and are counted.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from core.tensors import PagedKV, VerifyRows
from engine.memory import EngineMemory

Outcome = tuple[Tensor, Tensor | None]


class Forward(Protocol):
    """A target's forward over ragged rows (`engine.target.TargetForward`)."""

    def __call__(self, rows: VerifyRows, kv: PagedKV, feature_layers: tuple[int, ...]) -> Outcome:
        """Return the final hidden states and the features of N rows."""
        ...


class Bucket(NamedTuple):
    """The shape of a captured forward: rows, and sequences besides nobody's."""

    num_rows: int
    num_sequences: int


class Replay(Protocol):
    """A captured forward: runs over whatever its input tensors hold, into the same output tensors each time."""

    def __call__(self) -> Outcome:
        """Run it."""
        ...


# How a forward is captured; on the CPU, where there are no graphs, it is run anew each time.
Capture = Callable[[Callable[[], Outcome]], Replay]


@dataclass(frozen=True, slots=True)
class Captured:
    """The inputs of one bucket, and the forward that reads them; its outputs are good until it runs again."""

    rows: VerifyRows
    replay: Replay


class GraphedForward:
    """Runs a target's forwards from graphs where a bucket holds them; `num_eager` counts those that none does.

    kv         the whole cache, with the block tables of all slots
    sizes      numbers of sequences
    most_rows  rows of each of them: there is a bucket for every pair of the two, captured when a batch first asks for
               it, which the profile at start-up does for most, or by `warm`
    """

    def __init__(
        self, forward: Forward, kv: PagedKV, sizes: tuple[int, ...], most_rows: tuple[int, ...], capture: Capture
    ) -> None:
        self._forward, self._kv, self._capture = forward, kv, capture
        self._buckets = sorted(Bucket(size * rows, size) for size in sizes for rows in most_rows)
        self._captured: dict[tuple[Bucket, tuple[int, ...]], Captured] = {}
        self.num_eager = self.num_replayed = 0

    def __call__(self, rows: VerifyRows, kv: PagedKV, feature_layers: tuple[int, ...]) -> Outcome:
        """Run N ragged rows (`engine.target.TargetForward`); what comes back is overwritten by the next call."""
        bucket = self.bucket_of(rows)
        if bucket is None:
            self.num_eager += 1
            return self._forward(rows, kv, feature_layers)
        self.num_replayed += 1
        captured = self._captured.get((bucket, feature_layers)) or self.warm(bucket, feature_layers)
        fill(captured.rows, rows)
        hidden, features = captured.replay()
        num_rows = len(rows.tokens)
        return hidden[:num_rows], None if features is None else features[:num_rows]

    @property
    def buckets(self) -> tuple[Bucket, ...]:
        """All shapes that may be captured, ascending."""
        return tuple(self._buckets)

    def bucket_of(self, rows: VerifyRows) -> Bucket | None:
        """Return the least bucket that holds a batch, None if none does."""
        num_rows, num_sequences = len(rows.tokens), len(rows.cu_rows) - 1
        fitting = (each for each in self._buckets if each.num_rows >= num_rows and each.num_sequences >= num_sequences)
        return next(fitting, None)

    def warm(self, bucket: Bucket, feature_layers: tuple[int, ...]) -> Captured:
        """Capture one bucket for the features of some layers, over rows that are all nobody's."""
        rows = nobodys_rows(bucket, self._kv.block_tables)
        kv = PagedKV(self._kv.keys, self._kv.values, rows.block_tables, self._kv.block_size)
        captured = Captured(rows, self._capture(lambda: self._forward(rows, kv, feature_layers)))
        self._captured[bucket, feature_layers] = captured
        return captured


def graphed(forward: Forward, memory: EngineMemory, sizes: tuple[int, ...]) -> GraphedForward:
    """Return an engine's forward with graphs for steps of these numbers of sequences, plain or with all drafts."""
    kv = memory.kv.view(memory.slots.block_tables)
    capture = CudaCapture() if kv.block_tables.is_cuda else run_anew
    return GraphedForward(forward, kv, sizes, tuple({1, 1 + memory.width}), capture)


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


def run_anew(body: Callable[[], Outcome]) -> Replay:
    """Take a body for its own replay: what the CPU has in place of a graph."""
    return body


class CudaCapture:
    """Captures bodies as CUDA graphs of one pool of memory, each after a run that loads and tunes its kernels."""

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, body: Callable[[], Outcome]) -> Replay:
        """Capture a body; its inputs and outputs stay where they are."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            body()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            outcome = body()

        def replay() -> Outcome:
            graph.replay()
            return outcome

        return replay
