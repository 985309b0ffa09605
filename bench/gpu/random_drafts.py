"""A drafter that costs next to nothing: random tokens, none of which is likely to be kept.

With it the engine verifies as many rows per sequence as is asked, and what is timed is the target's step.
"""

from collections.abc import Sequence

import torch

from core.tensors import Commit, Draft, DraftAsk
from drafters.base import DrafterSpec


class RandomDrafts:
    """Proposes `width` random tokens per sequence as point masses."""

    def __init__(self, width: int, vocab_size: int) -> None:
        self.spec = DrafterSpec(name="random", max_drafts=width, point_mass=True)
        self._vocab_size = vocab_size

    def open(self, slot: int, tokens: Sequence[int], num_cached: int) -> None:
        """Remember nothing."""

    def extend(self, commit: Commit) -> None:
        """Learn nothing."""

    def release(self, slot: int) -> None:
        """Forget nothing."""

    def propose(self, ask: DraftAsk) -> Draft:
        """Draw tokens."""
        shape, device = (len(ask.anchors), self.spec.max_drafts), ask.anchors.device
        tokens = torch.randint(self._vocab_size, shape, device=device)
        certain = torch.ones(shape[0], dtype=torch.bool, device=device)
        return Draft(tokens, ask.lengths, certain, None, torch.zeros(shape, device=device))
