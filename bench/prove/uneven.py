"""A drafter such as a stranger may write: it knows nothing of the text, and says a lot about its own tokens.

Its law is the same everywhere, its proposals are of uneven lengths, and its evidence tells what the token before was;
all of that within the contract. It is the hardest drafter for a mistake in the randomness to hide behind.
"""

from collections.abc import Sequence

import torch

from core.tensors import Commit, Draft, DraftAsk
from drafters.base import DrafterSpec
from drafters.draws import SlotDraws


class Uneven:
    """Draw every token from one law; evidence 3 after an even token, -1 after an odd one."""

    def __init__(self, vocab_size: int = 5, max_drafts: int = 3) -> None:
        self.spec = DrafterSpec(name="uneven", max_drafts=max_drafts)
        self._logits = torch.cos(2.0 * torch.arange(vocab_size))
        self._evidence = 3.0 - 4.0 * (torch.arange(vocab_size) % 2)

    def open(self, slot: int, tokens: Sequence[int], num_cached: int) -> None:
        """Keep nothing."""

    def extend(self, commit: Commit) -> None:
        """Learn nothing."""

    def release(self, slot: int) -> None:
        """Forget nothing."""

    def propose(self, ask: DraftAsk) -> Draft:
        """Return 2 or 3 tokens by turns of the position, as far as they are asked for."""
        draws, size = SlotDraws(ask), len(ask.slots)
        logits = [self._logits.expand(size, -1).clone() for _ in range(self.spec.max_drafts)]
        tokens = torch.stack([draws.draw(k, each) for k, each in enumerate(logits)], 1)
        previous = torch.cat((ask.anchors[:, None], tokens[:, :-1]), 1)
        own_len = (2 + ask.positions % 2).clamp(max=self.spec.max_drafts)
        return Draft(
            tokens,
            torch.minimum(ask.lengths, own_len.to(torch.int32)),
            torch.zeros(size, dtype=torch.bool),
            torch.stack(logits, 1),
            self._evidence[previous],
        )
