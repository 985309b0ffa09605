"""The DFlash draft network and the DSpark heads on top of it (DSpark paper, section 3; DeepSpec checkpoints).

A parallel backbone reads the target's captured features as context and a block of slots, the anchor and masks, and
predicts the next tokens at once. DSpark adds a low-rank Markov bias that makes the choice sequential and a confidence
head. The network holds no cache: attention is injected, context keys and values are returned.
"""

from collections.abc import Sequence
from typing import Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core.types import Numerics
from models.dflash_config import DFlashConfig
from models.draft_fit import DraftNetwork
from models.layers import Attend, RMSNorm, fixed_linear
from models.markov_heads import MARKOV_HEADS, MarkovHead


class ContextAttention(Protocol):
    """The attention of a draft layer, as far as context rows need it: their keys and values, no queries."""

    def keys_values_projection(self) -> tuple[Tensor, Tensor | None]:
        """Return the weight and the bias, if there is one, that make keys and values alone."""
        ...

    def split_keys_values(self, kv: Tensor, rotation: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Turn that projection of rows [..., H] into roped keys and values [..., Hkv, D]."""
        ...


class ConfidenceHead(nn.Module):
    """Logit of P(draft k accepted | drafts before it accepted), from h_k and the previous token's embedding."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.proj = nn.Linear(size, 1)

    def forward(self, features: Tensor) -> Tensor:
        """Map [..., size] to logits [...]."""
        return self.proj(features).squeeze(-1)


class DFlashNet(DraftNetwork):
    """Backbone, Markov head and confidence head."""

    config: DFlashConfig

    def __init__(self, config: DFlashConfig, numerics: Numerics = Numerics.FAST) -> None:
        super().__init__(numerics)
        self.config = config
        shape, rank = config.backbone, config.markov_rank
        self.fc = nn.Linear(len(config.target_layer_ids) * config.feature_size, shape.hidden_size, bias=False)
        self.hidden_norm = RMSNorm(shape.hidden_size, shape.rms_norm_eps)
        self.layers = nn.ModuleList(shape.make_layers())
        self.norm = RMSNorm(shape.hidden_size, shape.rms_norm_eps)
        self.context_proj: nn.Linear | None = None
        self.markov_head: MarkovHead | None = None
        if rank:
            head = MARKOV_HEADS[config.markov_head_type]
            self.markov_head = head(shape.vocab_size, config.num_draftable, rank, shape.hidden_size)
        if config.enable_confidence_head:
            self.confidence_head = ConfidenceHead(shape.hidden_size + (rank if config.confidence_reads_markov else 0))
        # A block may stand at the very end of the context: its masks reach block_size positions further.
        num_positions = shape.max_position_embeddings + config.block_size
        self.rotation = shape.make_rotation(num_positions)

    def context(self, features: Tensor) -> Tensor:
        """Fuse target features [..., m*H] into the context state [..., H] that every layer projects."""
        return self.hidden_norm(self.fc(features))

    def context_keys_values(self, context: Tensor, positions: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Return per layer the roped keys and values [..., Hkv, D] of context rows at their positions.

        They never change once made, so they can be cached per token.
        """
        rotation = self.rotation.at(positions, context.dtype)
        if self.context_proj is None:
            products = [F.linear(context, *attention.keys_values_projection()) for attention in self._attentions()]
            return self._split(products, rotation)
        return self._split(self.context_proj(context).chunk(len(self.layers), -1), rotation)

    def prepare(self) -> None:
        """Stack all layers' key and value weights, so that context rows cost one product."""
        parts = [attention.keys_values_projection() for attention in self._attentions()]
        weight, bias = torch.cat([weight for weight, _ in parts]), [bias for _, bias in parts if bias is not None]
        self.context_proj = fixed_linear(weight, torch.cat(bias) if bias else None)
        if self.config.enable_confidence_head:
            # The reference keeps this one in float32: a survival is a product of seven of its sigmoids.
            self.confidence_head.float()

    def _attentions(self) -> list[ContextAttention]:
        return [cast(ContextAttention, layer.self_attn) for layer in self.layers]

    def _split(self, products: Sequence[Tensor], rotation: tuple[Tensor, Tensor]) -> list[tuple[Tensor, Tensor]]:
        return [a.split_keys_values(part, rotation) for a, part in zip(self._attentions(), products, strict=True)]

    def block(self, embedded: Tensor, positions: Tensor, attend: Attend) -> Tensor:
        """Run block slots [..., H] (embedded anchor, then masks) and return the final-normed states [..., H]."""
        x = embedded
        rotation = self.rotation.at(positions, x.dtype)
        for index, layer in enumerate(self.layers):
            x = layer(index, x, rotation, attend)
        return self.norm(x)

    def confidence(self, hidden: Tensor, previous: Tensor) -> Tensor:
        """Return confidence logits [...] in float32 from block states [..., H] and previous tokens [...]."""
        features = hidden
        if self.config.confidence_reads_markov:
            assert self.markov_head is not None
            features = torch.cat((hidden, self.markov_head.markov_w1(previous)), -1)
        return self.confidence_head(features.float())
