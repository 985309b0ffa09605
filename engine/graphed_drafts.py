"""A drafter's proposals, replayed from graphs where a bucket holds the sequences that draft.

Only a drafter that says so (`DrafterSpec.is_capturable`) launches the same work for any ask of one shape: a block with
its head does, a chain that ends with the longest length asked for does not. Which work it is depends on the laws that
are asked for as well, so there is a graph for each kind of them. Asks with edits, and those that bring coupled noise as
numbers, go to the drafter as they are.

What pads is nobody's: its rows stand at position 0 of block 0, which no sequence reads.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from core.tensors import CoupledKeys, Draft, DraftAsk, PagedKV, Processing
from drafters.base import Drafter
from engine.graphs import MOST_ROWS, Capture, Captured, GraphSet, capture_on
from engine.kv_cache import KVGroup


class Laws(NamedTuple):
    """What a drafter reads of an ask on the host (`core.tensors.Processing`).

    Plain laws, whose temperatures are all 1, are not told apart: to divide by it changes nothing.
    """

    truncates: bool
    is_greedy: bool
    is_coupled: bool = False


def usual_laws(verifier: str) -> tuple[Laws, ...]:
    """Return the kinds of laws that most requests of a verifier ask for: greedy ones, and those of a temperature."""
    is_coupled = verifier == "coupled"
    return Laws(truncates=False, is_greedy=True), Laws(truncates=False, is_greedy=False, is_coupled=is_coupled)


@dataclass(slots=True)
class AskInputs:
    """The ask of one bucket, and whose processing it holds at the moment: while the same go on it need not move."""

    ask: DraftAsk
    held: Processing | None = None


@dataclass(frozen=True, slots=True)
class DraftGraphs:
    """What drafters are captured for: numbers of sequences, and the block tables of all slots."""

    sizes: tuple[int, ...]
    tables: Tensor

    def over(self, drafter: Drafter, kv: KVGroup | None) -> "GraphedDrafts | None":
        """Return a drafter with graphs of its own; None if it is not to be captured."""
        if not (self.sizes and drafter.spec.is_capturable):
            return None
        device = self.tables.device
        return GraphedDrafts(drafter, kv.view(self.tables) if kv else None, self.sizes, device, capture_on(device))


class GraphedDrafts:
    """Asks one drafter for drafts; `graphs` counts how.

    kv     its group, with the block tables of all slots; None if it keeps none
    sizes  numbers of sequences that draft
    """

    def __init__(
        self, drafter: Drafter, kv: PagedKV | None, sizes: Iterable[int], device: torch.device, capture: Capture[Draft]
    ) -> None:
        self._drafter, self._kv, self._device = drafter, kv, device
        width = drafter.spec.max_drafts
        self.sizes = tuple(sorted(size for size in sizes if size * width <= MOST_ROWS))
        self.graphs = GraphSet[AskInputs, Draft](drafter.spec.name, capture)
        # The laws of all buckets, one at a time: as many of their own would be the largest tensors there are.
        self._laws: Tensor | None = None

    def __call__(self, ask: DraftAsk) -> Draft:
        """Return a proposal (`Drafter.propose`), which the next call overwrites."""
        num_sequences = len(ask.anchors)
        size = next((size for size in self.sizes if size >= num_sequences), None)
        captured = self.warm(size, laws_of(ask)) if size and can_replay(ask) else None
        if not captured:
            self.graphs.num_eager += 1
            return self._drafter.propose(ask)
        self.graphs.num_replayed += 1
        fill_ask(captured.inputs, ask)
        draft = captured.replay()
        q_logits = None if draft.q_logits is None else draft.q_logits[:num_sequences]
        return Draft(
            draft.tokens[:num_sequences],
            draft.lengths[:num_sequences],
            draft.point_mass[:num_sequences],
            q_logits,
            draft.evidence[:num_sequences],
        )

    def warm(self, size: int, laws: Laws) -> Captured[AskInputs, Draft] | None:
        """Return one bucket's graph for a kind of laws; if it is new, captured over sequences that are nobody."""
        return self.graphs.get((size, laws), lambda: self._nobodys_ask(size, laws), self._propose)

    def _propose(self, inputs: AskInputs) -> Draft:
        draft = self._drafter.propose(inputs.ask)
        if draft.q_logits is None:
            return draft
        if self._laws is None:
            self._laws = draft.q_logits.new_empty(self.sizes[-1], *draft.q_logits.shape[1:])
        laws = self._laws[: len(draft.tokens)].copy_(draft.q_logits)
        return Draft(draft.tokens, draft.lengths, draft.point_mass, laws, draft.evidence)

    def _nobodys_ask(self, size: int, laws: Laws) -> AskInputs:
        def zeros(*shape: int, dtype: torch.dtype = torch.int64) -> Tensor:
            return torch.zeros(size, *shape, dtype=dtype, device=self._device)

        ones = torch.ones(size, device=self._device)
        real = torch.float32
        temperature = zeros(dtype=real) if laws.is_greedy else ones
        processing = Processing(
            temperature,
            zeros(),
            ones.clone(),
            zeros(dtype=real),
            is_plain=False,
            truncates=laws.truncates,
            is_greedy=laws.is_greedy,
        )
        width, kv = self._drafter.spec.max_drafts, None
        if self._kv:
            tables = zeros(self._kv.block_tables.shape[1])
            kv = PagedKV(self._kv.keys, self._kv.values, tables, self._kv.block_size)
        lengths = torch.ones(size, dtype=torch.int32, device=self._device)
        noise = zeros(width, dtype=real)
        gumbel = CoupledKeys(zeros(), zeros(), zeros(), zeros()) if laws.is_coupled else None
        coupled = zeros(dtype=torch.bool) if laws.is_coupled else None
        return AskInputs(DraftAsk(zeros(), zeros(), zeros(), lengths, processing, noise, kv, gumbel, coupled))


def laws_of(ask: DraftAsk) -> Laws:
    """Return what an ask says of its laws on the host."""
    return Laws(ask.processing.truncates, ask.processing.is_greedy, ask.gumbel is not None)


def can_replay(ask: DraftAsk) -> bool:
    """Tell whether a bucket could hold what an ask carries."""
    return ask.processing.edits is None and not isinstance(ask.gumbel, Tensor)


def fill_ask(into: AskInputs, ask: DraftAsk) -> None:
    """Write an ask into a bucket, in place, its sequences first, the rest nobody's. Waits for nothing."""
    own, num_sequences = into.ask, len(ask.anchors)
    pairs = [(own.slots, ask.slots), (own.anchors, ask.anchors), (own.lengths, ask.lengths), (own.noise, ask.noise)]
    pairs.append((own.positions, ask.positions))
    if ask.processing is not into.held:
        held, told = own.processing, ask.processing
        pairs += [(held.temperature, told.temperature), (held.top_k, told.top_k)]
        pairs += [(held.top_p, told.top_p), (held.min_p, told.min_p)]
        into.held = ask.processing
    if isinstance(own.gumbel, CoupledKeys) and isinstance(ask.gumbel, CoupledKeys):
        pairs += [(own.gumbel.low, ask.gumbel.low), (own.gumbel.high, ask.gumbel.high)]
        pairs += [(own.gumbel.child, ask.gumbel.child), (own.gumbel.first, ask.gumbel.first)]
    if own.coupled is not None and ask.coupled is not None:
        pairs.append((own.coupled, ask.coupled))
    if own.kv and ask.kv:
        pairs.append((own.kv.block_tables, ask.kv.block_tables))
        # Whoever was here before must not be written to.
        own.kv.block_tables[num_sequences:].zero_()
    # What else is left of others is read for nobody; only a far position would cost time.
    own.positions[num_sequences:].zero_()
    for target, source in pairs:
        target[:num_sequences].copy_(source)
