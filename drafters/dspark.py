"""DSpark: DFlash plus a sequential head and a confidence head (DSpark paper, section 3; arXiv 2607.05147).

Differences from DFlash:
- slot k's logits get a low-rank bias from the token drawn at slot k - 1 (models/markov_heads.py), so tokens are drawn
  left to right;
- the evidence is the confidence head's logit, from the block state and the previous token; a checkpoint without that
  head has DFlash's, the margin of the logits that a slot draws from.
"""

import torch
from torch import Tensor

from core.tensors import DraftAsk
from drafters.dflash import DFlash
from drafters.draws import SlotDraws
from drafters.margin import as_evidence, margin_evidence
from kernels.dispatch import takes_triton
from kernels.markov import can_walk, walk
from models.markov_heads import MarkovHead


class DSpark(DFlash):
    """Drafts G tokens semi-autoregressively: a parallel backbone, then one light step per token."""

    def _base_logits(self, hidden: Tensor, ask: DraftAsk) -> Tensor:
        """Return the base logits [B, G, V]: for `_walk` as they are computed, which is half of float32 to move."""
        if self._walks(hidden, ask):
            return self.network.vocabulary.computed_logits(hidden, self.target)
        return super()._base_logits(hidden, ask)

    def _walks(self, hidden: Tensor, ask: DraftAsk) -> bool:
        """Tell whether one kernel draws a slot's tokens (kernels/markov.py)."""
        return self.network.markov_head is not None and takes_triton(hidden) and can_walk(ask)

    def _choose(self, hidden: Tensor, logits: Tensor, ask: DraftAsk) -> tuple[Tensor, Tensor, Tensor]:
        """Draw slot by slot: x_k from softmax of (base logits + bias given x_{k-1}) after processing.

        Evidence of slot k reads h_k, or the logits of slot k, and the tokens before k, never token k.
        """
        network, head = self.network, self.network.markov_head
        if head and self._walks(hidden, ask):
            return self._walk(head, hidden, logits, ask)
        draws, tokens, margins, previous = SlotDraws(ask), [ask.anchors], [], ask.anchors
        state = head.start(hidden[:, 0]) if head else hidden
        for k in range(logits.shape[1]):
            own = logits[:, k]
            if head:
                bias, state = head.step(previous, hidden[:, k], state)
                network.vocabulary.add(own, bias)
            if not network.config.enable_confidence_head:
                margins.append(margin_evidence(own))
            previous = draws.draw(k, own)
            tokens.append(previous)
        before = torch.stack(tokens[:-1], 1)
        evidence = network.confidence(hidden, before) if not margins else torch.stack(margins, 1)
        return torch.stack(tokens[1:], 1), evidence, logits

    def _walk(self, head: MarkovHead, hidden: Tensor, logits: Tensor, ask: DraftAsk) -> tuple[Tensor, Tensor, Tensor]:
        """Do the same on a GPU, where one kernel draws from a slot's logits as it adds the bias (kernels/markov.py)."""
        network = self.network
        found = walk(logits, head.by_slot(hidden), head.weights(network.vocabulary.target_ids), ask)
        if not network.config.enable_confidence_head:
            return found.tokens, as_evidence(found.margins), found.law
        before = torch.cat((ask.anchors[:, None], found.tokens[:, :-1]), 1)
        return found.tokens, network.confidence(hidden, before), found.law
