"""How a drafter gets from token ids to states and from states to logits: by the target's weights or by its own.

A drafter may know fewer tokens than its target. Its logits are then laid out over the target's vocabulary, -inf where
it can draft nothing, so that whoever draws or verifies meets target ids alone.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.layers import fixed_linear, scaled, soft_capped
from models.target import Target


class DraftVocabulary(nn.Module):
    """What a drafter has of its own; None is the target's, of which no copy is kept.

    embedding   [V, H]
    head        [Vd, H]
    target_ids  i64 [Vd]; the target's id of every token it can draft; None: all, under the same ids
    scale       of an embedding of its own
    cap         of the logits of a head of its own (`soft_capped`)
    """

    target_ids: Tensor | None

    def __init__(
        self,
        embedding: Tensor | None = None,
        head: Tensor | None = None,
        target_ids: Tensor | None = None,
        *,
        scale: float = 1.0,
        cap: float | None = None,
    ) -> None:
        super().__init__()
        self.scale, self.cap = scale, cap
        self.embed_tokens = None if embedding is None else nn.Embedding.from_pretrained(embedding)
        self.lm_head = None if head is None else fixed_linear(head)
        self.register_buffer("target_ids", target_ids, persistent=False)

    def look_up(self, tokens: Tensor, target: Target) -> Tensor:
        """Return rows [..., H] of the embedding, plain: a scale that the target puts on its own is left out."""
        return F.embedding(tokens, target.embedding if self.embed_tokens is None else self.embed_tokens.weight)

    def embed(self, tokens: Tensor, target: Target) -> Tensor:
        """Return the states [..., H] that tokens [...] enter the first layer with."""
        if self.embed_tokens is None:
            return target.embed(tokens)
        embedded = self.embed_tokens(tokens)
        return embedded if self.scale == 1.0 else scaled(embedded, self.scale)

    def logits(self, hidden: Tensor, target: Target) -> Tensor:
        """Map final states [..., H] to logits f32 [..., V] by target ids."""
        if self.lm_head is None:
            return target.logits(hidden)
        logits = soft_capped(self.lm_head(hidden).float(), self.cap)
        if self.target_ids is None:
            return logits
        wide = logits.new_full((*logits.shape[:-1], target.shape.vocab_size), -torch.inf)
        return wide.index_copy_(-1, self.target_ids, logits)

    def computed_logits(self, hidden: Tensor, target: Target) -> Tensor:
        """Return the numbers of `logits` in the type they are computed in, where nothing more is made of them."""
        if self.lm_head is None:
            return target.computed_logits(hidden)
        if self.target_ids is None and self.cap is None:
            return self.lm_head(hidden)
        return self.logits(hidden, target)

    def add(self, logits: Tensor, bias: Tensor) -> Tensor:
        """Add a bias [B, Vd] to logits [B, V] by target ids, in place; returns them."""
        return logits.add_(bias) if self.target_ids is None else logits.index_add_(-1, self.target_ids, bias.float())
