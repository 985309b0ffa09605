"""One drafter: its KV, what of it is up to date, and calls into it that fall back to plain decoding.

A drafter is a plug-in. Whatever it raises is logged and counted, and the step goes on without drafts; the output law
does not change, because it never depended on them. Nor is a stranger's word taken for the law it drew its drafts from:
until it is proved (engine/proofs.py) they count as point masses, which is right for any token however it came.
"""

from collections.abc import Callable
from dataclasses import replace

import structlog
import torch
from msgspec import Struct
from torch import Tensor

from core.errors import EngineError
from core.tensors import Commit, Draft, DraftAsk, PagedKV
from drafters.base import Drafter, DrafterSpec
from engine.blocks import BlockPool
from engine.graphed_drafts import GraphedDrafts
from engine.kv_cache import KVGroup
from engine.sequence import Sequence
from engine.stats import EngineStats

log = structlog.get_logger()

NO_DRAFTER = "none"


class Place(Struct, frozen=True):
    """A drafter's name in its engine, and its place among the validity bits of a block."""

    name: str
    bit: int


class Speculator:
    """Owns the calls into a drafter; `kv` is its group, None if it keeps none. drafter None never drafts.

    trusts_law  whether q_logits are taken to be what the drafts were drawn from; if not, they are dropped
    graphed     asks it for drafts through graphs; None asks it itself
    """

    def __init__(
        self,
        place: Place,
        drafter: Drafter | None,
        kv: KVGroup | None,
        pool: BlockPool,
        stats: EngineStats,
        vocab_size: int,
        *,
        trusts_law: bool = True,
        graphed: GraphedDrafts | None = None,
    ) -> None:
        self.name, self.drafter, self.kv, self.vocab_size = place.name, drafter, kv, vocab_size
        self.graphed = graphed
        self.spec = drafter.spec if drafter else DrafterSpec(name=NO_DRAFTER, max_drafts=0)
        self.trusts_law = trusts_law
        self.bit, self._pool, self._stats = place.bit, pool, stats

    def open(self, sequence: Sequence) -> None:
        """Tell the drafter of an admitted sequence; one that fails here leaves the sequence undrafted."""
        drafter = self.drafter
        if drafter is None:
            return
        # A drafter without KV needs no more than the tokens, and it gets them here.
        sequence.extended = 0 if self.kv else sequence.num_computed
        self.advance(sequence)
        if not self._guard(lambda: drafter.open(sequence.slot, sequence.tokens, sequence.extended)):
            sequence.max_drafts = 0
            sequence.extended = -1

    def release(self, slot: int) -> None:
        """Tell the drafter that a sequence left its slot."""
        drafter = self.drafter
        if drafter:
            self._guard(lambda: drafter.release(slot))

    def advance(self, sequence: Sequence) -> None:
        """Move the watermark over blocks whose part another sequence has written.

        It stops as many rows short of their end as the drafter looks ahead: of these it has yet to see the features.
        """
        size, end = self._pool.block_size, sequence.extended
        if self.kv is None or end < 0:
            return
        while end < sequence.num_computed and self.is_written(sequence.blocks[end // size]):
            end = min((end // size + 1) * size, sequence.num_computed)
        sequence.extended = max(sequence.extended, end - self.spec.lookahead)

    def is_written(self, block: int) -> bool:
        """Tell whether the drafter's part of a block is there to be read, and never to be written again."""
        return self._pool.is_valid(block, self.bit)

    def propose(self, ask: DraftAsk) -> Draft | None:
        """Draft; None if the drafter failed, and then its proposal was abandoned before any verdict."""
        assert self.drafter is not None
        try:
            draft = self.graphed(ask) if self.graphed else self.drafter.propose(ask)
            check_draft(draft, len(ask.slots), self.spec, self.vocab_size)
            draft = within(draft, self.vocab_size)
            lengths = draft.lengths.clamp(max=ask.lengths)
            if not self.trusts_law:
                return Draft(draft.tokens, lengths, torch.ones_like(draft.point_mass), None, draft.evidence)
            return Draft(draft.tokens, lengths, draft.point_mass, draft.q_logits, draft.evidence)
        except Exception as error:  # noqa: BLE001 - a plug-in may raise anything; the step must go on
            self._fell_back(error)
            return None

    def extend(self, commit: Commit, ends: list[tuple[Sequence, int]]) -> None:
        """Hand final rows to the drafter; `ends` says how far each sequence's reach. If it fails, they stay stale."""
        drafter, size = self.drafter, self._pool.block_size
        assert drafter is not None
        if not self._guard(lambda: drafter.extend(commit)):
            return
        for sequence, end in ends:
            if self.kv:
                for index in range(sequence.extended // size, end // size):
                    self._pool.set_valid(sequence.blocks[index], self.bit)
            sequence.extended = end

    def view(self, block_tables: Tensor) -> PagedKV | None:
        """Return the drafter's group as seen through block tables; None if it keeps none."""
        return self.kv.view(block_tables) if self.kv else None

    def _guard(self, call: Callable[[], None]) -> bool:
        try:
            call()
        except Exception as error:  # noqa: BLE001 - see propose
            self._fell_back(error)
            return False
        return True

    def _fell_back(self, error: Exception) -> None:
        self._stats.fallbacks["drafter"] += 1
        log.warning("drafter_failed", drafter=self.name, error=repr(error))


def check_draft(draft: Draft, batch_size: int, spec: DrafterSpec, vocab_size: int) -> None:
    """Raise EngineError if a proposal does not have the shapes and tokens its contract names."""
    shape = (batch_size, spec.max_drafts)
    if draft.tokens.shape != shape or draft.evidence.shape != shape or draft.lengths.shape != shape[:1]:
        raise EngineError(f"a draft must be {list(shape)}, got tokens {list(draft.tokens.shape)}")
    if draft.q_logits is None and not spec.point_mass:
        raise EngineError("a drafter that is no point mass must return the law it drew from")
    if draft.q_logits is not None and draft.q_logits.shape != (*shape, vocab_size):
        raise EngineError(f"q_logits must be {[*shape, vocab_size]}, got {list(draft.q_logits.shape)}")


def within(draft: Draft, vocab_size: int) -> Draft:
    """Return a proposal whose tokens lie in the vocabulary; raises EngineError for one whose do not.

    On a GPU a look at them would wait for the device: such tokens become others there, and the step goes on.
    """
    if draft.tokens.device.type != "cpu":
        return replace(draft, tokens=draft.tokens.clamp(0, vocab_size - 1))
    low, high = draft.tokens.aminmax()
    if int(low) < 0 or int(high) >= vocab_size:
        raise EngineError(f"drafted tokens must lie in 0..{vocab_size - 1}, got {int(low)}..{int(high)}")
    return draft
