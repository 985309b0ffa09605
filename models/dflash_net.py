"""The DFlash draft network and the DSpark heads on top of it (DSpark paper, section 3; DeepSpec checkpoints).

A parallel backbone reads the target's captured features as context and a block of G slots, the anchor and G - 1
masks, and predicts the next G tokens at once. DSpark adds a low-rank Markov bias that makes the choice sequential
and a confidence head. The network holds no cache: attention is injected, context keys and values are returned.
"""

from collections.abc import Iterable
from typing import Any, cast

import msgspec
import torch
from torch import Tensor, nn

from core.errors import CheckpointError
from core.types import Numerics
from models.layers import Attend, Attention, DecoderLayer, RMSNorm, Rotation
from models.network import Network
from models.qwen3 import Qwen3Config
from models.shape import AttentionShape


class DFlashConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What a DeepSpec config.json says beyond the backbone's shape (markov_rank 0 is plain DFlash)."""

    backbone: Qwen3Config
    target_layer_ids: tuple[int, ...]
    block_size: int
    mask_token_id: int
    num_target_layers: int
    markov_rank: int = 0
    enable_confidence_head: bool = False
    confidence_head_with_markov: bool = True

    @classmethod
    def from_json(cls, config: dict[str, Any]) -> "DFlashConfig":
        """Read a DeepSpec config.json; raises CheckpointError naming the key that cannot be served."""
        rank = config.get("markov_rank", 0)
        head = config.get("markov_head_type", "vanilla")
        if rank and head != "vanilla":
            raise CheckpointError(f"markov_head_type {head!r} is not supported yet; 'vanilla' is")
        sliding = [kind for kind in config.get("layer_types", ()) if kind != "full_attention"]
        if sliding:
            raise CheckpointError(f"layer_types must all be 'full_attention', got {sliding[0]!r}")
        fields = {name: config[name] for name in cls.__struct_fields__ if name in config}
        fields["backbone"] = Qwen3Config.from_json(config)
        try:
            made = msgspec.convert(fields, cls)
        except msgspec.ValidationError as error:
            raise CheckpointError(f"config.json does not describe a drafter: {error}") from error
        ids = made.target_layer_ids
        if list(ids) != sorted(set(ids)) or ids[0] < -1 or ids[-1] >= made.num_target_layers - 1:
            raise CheckpointError(
                f"target_layer_ids must ascend within -1..{made.num_target_layers - 2} "
                f"(the last layer has no raw state), got {list(ids)}"
            )
        return made

    @property
    def attention(self) -> tuple[AttentionShape, ...]:
        """The attention of each draft layer: all of a block see each other."""
        layers = self.backbone.shape.layers
        return tuple(msgspec.structs.replace(layer, is_causal=False) for layer in layers)


class MarkovHead(nn.Module):
    """Low-rank first-order bias over the vocabulary: W2 W1[x] (paper section 3.2, vanilla)."""

    def __init__(self, vocab_size: int, rank: int) -> None:
        super().__init__()
        self.markov_w1 = nn.Embedding(vocab_size, rank)
        self.markov_w2 = nn.Linear(rank, vocab_size, bias=False)

    def forward(self, previous: Tensor) -> Tensor:
        """Return the bias [..., V] given previous tokens [...]."""
        return self.markov_w2(self.markov_w1(previous))


class ConfidenceHead(nn.Module):
    """Logit of P(draft k accepted | drafts before it accepted), from h_k and the previous token's embedding."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.proj = nn.Linear(size, 1)

    def forward(self, features: Tensor) -> Tensor:
        """Map [..., size] to logits [...]."""
        return self.proj(features).squeeze(-1)


class DFlashNet(Network):
    """Backbone, Markov head and confidence head; embeddings, output head and numerics are the target's."""

    def __init__(self, config: DFlashConfig, numerics: Numerics = Numerics.FAST) -> None:
        super().__init__(numerics)
        self.config = config
        shape = config.backbone
        self.fc = nn.Linear(len(config.target_layer_ids) * shape.hidden_size, shape.hidden_size, bias=False)
        self.hidden_norm = RMSNorm(shape.hidden_size, shape.rms_norm_eps)
        self.layers = nn.ModuleList(shape.layer() for _ in range(shape.num_hidden_layers))
        self.norm = RMSNorm(shape.hidden_size, shape.rms_norm_eps)
        self.context_proj: nn.Linear | None = None
        if config.markov_rank:
            self.markov_head = MarkovHead(shape.vocab_size, config.markov_rank)
        if config.enable_confidence_head:
            with_markov = config.confidence_head_with_markov and config.markov_rank
            self.confidence_head = ConfidenceHead(shape.hidden_size + (config.markov_rank if with_markov else 0))
        # A block may stand at the very end of the context: its masks reach block_size positions further.
        self.rotation = Rotation(shape.head_dim, shape.rope_theta, shape.max_position_embeddings + config.block_size)

    def context(self, features: Tensor) -> Tensor:
        """Fuse target features [..., m*H] into the context state [..., H] that every layer projects."""
        return self.hidden_norm(self.fc(features))

    def context_keys_values(self, context: Tensor, positions: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Return per layer the roped keys and values [..., Hkv, D] of context rows at their positions.

        They never change once made, so they can be cached per token.
        """
        rotation = self.rotation.at(positions, context.dtype)
        if self.context_proj is None:
            return [attention.keys_values(context, rotation) for attention in self._attentions()]
        parts = self.context_proj(context).chunk(len(self.layers), -1)
        return [a.split_keys_values(part, rotation) for a, part in zip(self._attentions(), parts, strict=True)]

    def prepare(self) -> None:
        """Stack all layers' key and value weights, so that context rows cost one product."""
        weight = torch.cat([attention.keys_values_weight() for attention in self._attentions()])
        self.context_proj = nn.Linear(weight.shape[1], weight.shape[0], bias=False, dtype=weight.dtype)
        self.context_proj.weight = nn.Parameter(weight, requires_grad=False)
        if self.config.enable_confidence_head:
            # The reference keeps this one in float32: a survival is a product of seven of its sigmoids.
            self.confidence_head.float()

    def _attentions(self) -> list[Attention]:
        return [layer.self_attn for layer in cast(Iterable[DecoderLayer], self.layers)]

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
        if self.config.markov_rank and self.config.confidence_head_with_markov:
            features = torch.cat((hidden, self.markov_head.markov_w1(previous)), -1)
        return self.confidence_head(features.float())
