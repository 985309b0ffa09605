"""DSpark: DFlash plus a sequential head and a confidence head (DSpark paper, section 3; arXiv 2607.05147).

Differences from DFlash:
- slot k's logits get a low-rank Markov bias from the token drawn at slot k - 1, so tokens are drawn left to right;
- the evidence is the confidence head's logit, from the block state and the previous token.
"""

import torch
from torch import Tensor

from core.tensors import DraftAsk
from drafters.dflash import DFlash
from drafters.draws import SlotDraws


class DSpark(DFlash):
    """Drafts G tokens semi-autoregressively: a parallel backbone, then one light step per token."""

    def _choose(self, hidden: Tensor, logits: Tensor, ask: DraftAsk) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        """Draw slot by slot: x_k from softmax of (base logits + W2 W1[x_{k-1}]) after processing."""
        draws, tokens, previous = SlotDraws(ask), [], ask.anchors
        for k in range(logits.shape[1]):
            previous = draws.draw(k, logits[:, k].add_(self.network.markov_head(previous)))
            tokens.append(previous)
        return torch.stack(tokens, 1), logits

    def _evidence(self, hidden: Tensor, q_logits: Tensor, tokens: Tensor, anchors: Tensor) -> Tensor:
        """Return confidence logits [B, G]; entry k reads h_k and the token before k, never token k."""
        if not self.network.config.enable_confidence_head:
            return super()._evidence(hidden, q_logits, tokens, anchors)
        previous = torch.cat((anchors[:, None], tokens[:, :-1]), 1)
        return self.network.confidence(hidden, previous)
